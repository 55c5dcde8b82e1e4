//! A full tower stack around hyper-util's client: what goes where, and why.
//!
//! `cargo run --features hyper-client --example hyper_stack`

#[path = "support/server.rs"]
mod server;

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use server::{LocalServer, promise};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use tower::{ServiceBuilder, ServiceExt, retry::Policy};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_reauth::{
    AuthError, AuthLayer, BoxError, Capability, HyperTokens, OAuth2Refresher, OfflinePolicy, Origins, Rule, Session,
};

/// Retries what may be better the next time. A 401 is none of its business: the layer below has replayed it already.
#[derive(Clone)]
struct Retries(u32);

impl<B: Clone, R> Policy<Request<B>, Response<R>, BoxError> for Retries {
    type Future = Sleep;

    fn retry(&mut self, request: &mut Request<B>, answer: &mut Result<Response<R>, BoxError>) -> Option<Sleep> {
        let auth = answer.as_ref().err().and_then(|error| AuthError::find(&**error));
        let wait = match (auth, &*answer) {
            // Nothing was sent. A denial stays one; the layer tells when the token endpoint is asked again.
            (Some(auth), _) => auth.retry_after().filter(|_| auth.is_transient())?,
            (None, Ok(response)) if response.status() != StatusCode::SERVICE_UNAVAILABLE => return None,
            (None, _) => request.method().is_idempotent().then_some(Duration::from_millis(100))?,
        };
        self.0 = self.0.checked_sub(1)?;
        Some(sleep(wait))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = LocalServer::start(Duration::from_secs(60), Duration::from_millis(100)).await?;
    let elsewhere = LocalServer::start(Duration::from_secs(60), Duration::ZERO).await?;
    let (origin, jobs) = (server.origin(), format!("{}/jobs", server.origin()));

    let refresher = OAuth2Refresher::new(format!("{origin}/token"), "my-app")?.http(HyperTokens::new());
    let rules = OfflinePolicy::new().rule(Capability::READ, Rule::new()).rule(Capability::WRITE, Rule::new());
    let gate = rules.rule("jobs.delete", Rule::new().step_up_within(Duration::from_secs(60)));
    let session = Session::builder(refresher).gate(gate).open("alice").await?;
    let api = ServiceBuilder::new()
        // Outermost: the caller's patience, for all attempts and waits. A refresh that it cuts off goes on by itself.
        .timeout(Duration::from_secs(10))
        // Above the layer: each attempt asks the gate anew, and gets the token of that moment.
        .retry(Retries(3))
        // Above the layer, which decides for each hop whether the token may go there. Below it would see the first only.
        .layer(FollowRedirectLayer::new())
        .layer(AuthLayer::new(session.clone(), Origins::new([&origin])?))
        // Below the layer: who waits for a token holds none of the eight places.
        .concurrency_limit(8)
        .service(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
    let send = async |request: Request<Full<Bytes>>| api.clone().oneshot(request).await;
    let get = |url: &str| Request::get(url).body(Full::default());

    println!("1. A hundred calls meet a token that has expired.");
    session.sign_in(server.sign_in().with_expires_in(Duration::from_secs(1))).await?;
    sleep(Duration::from_millis(1100)).await;
    let answers = try_join_all((0..100).map(async |_| send(get(&jobs)?).await)).await?;
    let ok = answers.iter().all(|answer| answer.status() == StatusCode::OK);
    promise("one exchange, and a hundred answers", ok && server.counts().exchanges == 1)?;

    println!("2. The API refuses a token that should be good for a minute.");
    server.forget_access_tokens();
    let answer = send(Request::post(&jobs).body(Full::from("a new job"))?).await?;
    let arrived = answer.into_body().collect().await?.to_bytes();
    promise("refreshed, and the same body sent again", arrived == "a new job" && server.counts().refused == 1)?;

    println!("3. The API stumbles twice.");
    server.stumble(2);
    let answer = send(get(&jobs)?).await?;
    promise("a retry is no refresh", answer.status() == StatusCode::OK && server.counts().exchanges == 2)?;

    println!("4. The API points to another server.");
    let answer = send(get(&format!("{origin}/moved/{}", elsewhere.port()))?).await?;
    promise("no token arrives there", answer.status() == StatusCode::UNAUTHORIZED && elsewhere.counts().bare == 1)?;

    println!("5. Alice wants to delete the jobs.");
    let delete = Request::delete(&jobs).extension(Capability::new("jobs.delete")).body(Full::default())?;
    let error = send(delete).await.err().ok_or("she was let in")?;
    let denial = AuthError::find(&*error).and_then(AuthError::denial).ok_or("not a denial")?;
    println!("   {denial}; what would help: {:?}", denial.remedy());
    promise("denied before it was sent, and not retried", server.counts().calls == 100 + 2 + 3)?;
    Ok(session.close().await?)
}
