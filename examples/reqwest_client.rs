//! From a `reqwest::Client` to the first refreshed request.
//!
//! ```text
//! cargo add tower-reauth --features reqwest
//! cargo add reqwest
//! cargo add tower --features util
//! cargo add tokio --features macros,rt-multi-thread
//! ```
//!
//! `cargo run --features reqwest --example reqwest_client`

#[path = "support/server.rs"]
mod server;

use futures_util::future::try_join_all;
use reqwest::{Client, Method, redirect::Policy};
use server::{LocalServer, promise};
use std::{error::Error, time::Duration};
use tower::{Layer, ServiceExt};
use tower_reauth::{
    AuthError, AuthLayer, BoxError, Capability, ErrorKind, OAuth2Refresher, OfflinePolicy, Origins, Remedy,
    ReqwestTokens, Rule, Session,
};

/// What the user is told.
fn explain(error: &(dyn Error + 'static)) -> String {
    let Some(auth) = AuthError::find(error) else { return format!("the network: {error}") };
    match auth.kind() {
        ErrorKind::SignedOut | ErrorKind::ReauthRequired => "please sign in".into(),
        ErrorKind::Locked => "please talk to your administrator".into(),
        ErrorKind::Denied => auth.denial().map_or_else(|| auth.to_string(), |denial| denial.to_string()),
        _ if auth.is_transient() => format!("please try again in {:?}", auth.retry_after().unwrap_or_default()),
        _ => format!("a mistake in this program: {auth}"),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = LocalServer::start(Duration::from_secs(60), Duration::from_millis(100)).await?;
    let jobs = format!("{}/jobs", server.origin());

    // Token requests have a client of their own, which follows no redirects: a refresh token goes to one place only.
    let tokens = ReqwestTokens::new(Client::builder())?;
    let refresher = OAuth2Refresher::new(format!("{}/token", server.origin()), "my-app")?.http(tokens);
    let gate = OfflinePolicy::new().rule(Capability::READ, Rule::new()).rule(Capability::WRITE, Rule::new());
    let gate = gate.rule("jobs.delete", Rule::new().step_up_within(Duration::from_secs(60)));
    // `.store(FileStore::open(directory)?)` (feature `file`) keeps it over restarts.
    let session = Session::builder(refresher).gate(gate).open("alice").await?;

    // What the client follows by itself the layer does not see: redirects are left to the caller.
    let client = Client::builder().redirect(Policy::none()).build()?;
    let layer = AuthLayer::new(session.clone(), Origins::new([server.origin()])?)
        // Nothing can be put beside a `reqwest::Request`: its extensions are private. So the layer tells what it wants.
        .capability(|head| (head.method() == Method::DELETE).then_some(Capability::new("jobs.delete")));
    let api = layer.layer(client.clone());
    // The client makes the request as ever; the service sends it.
    let send = async |request: reqwest::RequestBuilder| api.clone().oneshot(request.build()?).await;

    println!("1. Nobody has signed in.");
    let error = send(client.get(&jobs)).await.err().ok_or("a request went out without a token")?;
    promise("please sign in", explain(&*error) == "please sign in" && server.counts().calls == 0)?;

    println!("2. Alice signs in. A hundred calls meet a token that has expired.");
    session.sign_in(server.sign_in().with_expires_in(Duration::from_secs(1))).await?;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let answers = try_join_all((0..100).map(|_| send(client.get(&jobs)))).await?;
    let ok = answers.iter().all(|answer| answer.status().is_success());
    promise("one exchange, and a hundred answers", ok && server.counts().exchanges == 1)?;

    println!("3. The API refuses a token that should be good for a minute.");
    server.forget_access_tokens();
    let text = send(client.post(&jobs).body("a new job")).await?.error_for_status()?.text().await?;
    promise("refreshed, and the same body sent again", text == "a new job" && server.counts().refused == 1)?;

    println!("4. Alice wants to delete the jobs.");
    let error = send(client.delete(&jobs)).await.err().ok_or("she was let in")?;
    println!("   {}", explain(&*error));
    let denial = AuthError::find(&*error).and_then(AuthError::denial);
    let unlock = denial.is_some_and(|denial| denial.remedy() == Remedy::Unlock);
    promise("denied before it was sent, and what helps is to unlock", unlock && server.counts().calls == 100 + 2)?;
    session.step_up(Duration::from_secs(60)); // she has entered her PIN
    promise("then she may", send(client.delete(&jobs)).await?.status().is_success())?;

    println!("5. Her access is withdrawn, and nobody notices until the API does.");
    server.revoke_grant();
    let answer = send(client.get(&jobs)).await?;
    let reason = AuthError::in_response(&answer).ok_or("a 401 without the reason why it was not cured")?;
    println!("   {}: {}", answer.status(), explain(reason));
    promise("the API's own 401, and the reason with it", reason.kind() == ErrorKind::ReauthRequired)?;
    Ok(session.close().await?)
}
