use tower_reauth::{OAuth2Refresher, Session};

fn main() -> Result<(), tower_reauth::AuthError> {
    let refresher = OAuth2Refresher::new("https://id.example.com/token", "my-app")?;
    let _ = Session::builder(refresher);
    Ok(())
}
