use tower_reauth::{Session, Tokens, refresh_fn};

fn main() {
    let _ = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh")))).gate(|_| Ok(())).observer(|_| {}).step_up(|_| async { Ok(()) });
}
