//! Two accounts over one reqwest-middleware client: retries outside, the layer inside.
//!
//! `cargo run --features reqwest-middleware --example reqwest_middleware`

#[path = "support/server.rs"]
mod server;

use futures_util::future::try_join_all;
use reqwest::{Client, redirect::Policy};
use reqwest_middleware::ClientBuilder;
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use server::{LocalServer, promise};
use std::time::Duration;
use tower_reauth::{
    AccountId, AuthError, AuthLayer, AuthMiddleware, BoxError, Capability, OAuth2Refresher, OfflinePolicy, Origins,
    ReqwestTokens, Rule, Session,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = LocalServer::start(Duration::from_secs(60), Duration::from_millis(100)).await?;
    let jobs = format!("{}/jobs", server.origin());

    let tokens = ReqwestTokens::new(Client::builder())?;
    let refresher = OAuth2Refresher::new(format!("{}/token", server.origin()), "my-app")?.http(tokens);
    let gate = OfflinePolicy::new().rule(Capability::READ, Rule::new()).rule(Capability::WRITE, Rule::new());
    let gate = gate.rule("jobs.delete", Rule::new().role("admin"));
    let accounts = Session::builder(refresher).gate(gate).open_accounts().await?;
    let (alice, bob) = (accounts.open("alice").await?, accounts.open("bob").await?);
    accounts.set_active(alice.account())?;

    let layer = AuthLayer::for_accounts(accounts.clone(), Origins::new([server.origin()])?);
    let backoff = ExponentialBackoff::builder().retry_bounds(Duration::from_millis(50), Duration::from_secs(1));
    // What the client follows by itself the layer does not see: redirects are left to the caller.
    let client = ClientBuilder::new(Client::builder().redirect(Policy::none()).build()?)
        // Outside: each attempt is a request anew, and gets the token of that moment.
        .with(RetryTransientMiddleware::new_with_policy(backoff.build_with_max_retries(3)))
        // Inside, and so last: what the others made of the request is what is sent again after a 401.
        .with(AuthMiddleware::from(layer))
        .build();

    println!("1. Alice and Bob sign in. Fifty calls of each meet a token that has expired.");
    for (user, session) in [("alice", &alice), ("bob", &bob)] {
        session.sign_in(server.sign_in_as(user).with_expires_in(Duration::from_secs(1))).await?;
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let texts = try_join_all((0..100).map(async |number| {
        let request = match number % 2 {
            0 => client.get(&jobs), // of the active account
            _ => client.get(&jobs).with_extension(AccountId::new("bob")),
        };
        Ok::<_, BoxError>(request.send().await?.error_for_status()?.text().await?)
    }));
    let texts = texts.await?;
    let own = texts.chunks(2).all(|pair| pair == ["three jobs of alice", "three jobs of bob"]);
    promise("one exchange for each account, and each with its own token", own && server.counts().exchanges == 2)?;

    println!("2. The API refuses Bob's token, which should be good for a minute.");
    server.forget_access_tokens();
    // What the user was allowed, with whom: it stands for the account too.
    let permit = bob.authorize(Capability::WRITE)?;
    let text = client.post(&jobs).with_extension(permit).body("a new job").send().await?.text().await?;
    promise("refreshed, and the same body sent again", text == "a new job" && server.counts().refused == 1)?;

    println!("3. The API stumbles twice.");
    server.stumble(2);
    let bobs = client.get(&jobs).with_extension(AccountId::new("bob")).send().await?;
    promise("a retry is no refresh", bobs.status().is_success() && server.counts().exchanges == 3)?;

    println!("4. Bob wants to delete the jobs.");
    let calls = server.counts().calls;
    let delete = client.delete(&jobs).with_extension(AccountId::new("bob"));
    let error = delete.with_extension(Capability::new("jobs.delete")).send().await.err().ok_or("he was let in")?;
    println!("   {error}");
    // Through the error of the chain, and that of the retries.
    let denial = AuthError::find(&error).and_then(AuthError::denial).ok_or("no denial within the error")?;
    println!("   reason: {:?}, what would help: {:?}", denial.reason(), denial.remedy());
    promise("denied before it was sent, and not retried", server.counts().calls == calls)?;
    Ok(accounts.close().await?)
}
