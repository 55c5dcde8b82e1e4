//! An axum service that calls another one as itself: the client with the layer in the state, its errors as statuses.
//!
//! `cargo run --features hyper-client --example axum_state`

#[path = "support/server.rs"]
mod server;

use axum::response::{IntoResponse, Response};
use axum::{Router, body::Body, extract::State, routing::get};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Method, Request, StatusCode, header::RETRY_AFTER};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, client::legacy::connect::HttpConnector, rt::TokioExecutor};
use server::{LocalServer, promise};
use std::time::Duration;
use tower::{Layer, ServiceExt};
use tower_reauth::{
    AuthError, AuthLayer, AuthService, BoxError, Capability, ClientCredentials, ErrorKind, HyperTokens, OfflinePolicy,
    Origins, Rule, Session,
};

/// A handler gets a clone: it shares the session and the connections, and needs no lock.
#[derive(Clone)]
struct App {
    jobs_url: String,
    api: AuthService<Client<HttpConnector, Full<Bytes>>>,
}

/// What went wrong on the way to the other service, as our own callers are told.
struct Upstream(BoxError);

impl<E: Into<BoxError>> From<E> for Upstream {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Upstream {
    fn into_response(self) -> Response {
        let Some(error) = AuthError::find(&*self.0) else { return StatusCode::BAD_GATEWAY.into_response() };
        match error.kind() {
            // The gate's own words are for the log: a caller need not know our rules.
            ErrorKind::Denied => StatusCode::FORBIDDEN.into_response(),
            _ if error.is_transient() => {
                let seconds = error.retry_after().unwrap_or_default().as_secs() + 1;
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, seconds)]).into_response()
            }
            // Never 401: it is this service that is not signed in, and no login of its caller would mend that.
            _ => StatusCode::BAD_GATEWAY.into_response(),
        }
    }
}

async fn jobs(State(app): State<App>, method: Method, body: Bytes) -> Result<Response, Upstream> {
    let request = Request::builder().method(method).uri(app.jobs_url).body(body.into())?;
    let (head, body) = app.api.oneshot(request).await?.into_parts();
    Ok(match head.status {
        StatusCode::UNAUTHORIZED => StatusCode::BAD_GATEWAY.into_response(), // one that the layer could not cure
        status => (status, Body::new(body)).into_response(),
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let upstream = LocalServer::start(Duration::from_secs(3), Duration::from_millis(100)).await?;
    let tokens = ClientCredentials::new(format!("{}/token", upstream.origin()), "backend", "secret")?;
    let gate = OfflinePolicy::new().rule(Capability::READ, Rule::new());
    let session = Session::builder(tokens.scope("jobs:read").http(HyperTokens::new()))
        .gate(gate.rule(Capability::WRITE, Rule::new().scope("jobs:write")))
        .open("backend")
        .await?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let api = AuthLayer::new(session, Origins::new([upstream.origin()])?).layer(client);
    let app = App { jobs_url: format!("{}/jobs", upstream.origin()), api };
    let service = Router::new().route("/jobs", get(jobs).post(jobs)).with_state(app);
    // `axum::serve` would take it from here; this example is its own caller.
    let call = async |method: &str| {
        let request = Request::builder().method(method).uri("/jobs").body(Body::empty())?;
        Ok::<_, BoxError>(service.clone().oneshot(request).await?)
    };

    println!("1. Nobody has signed in, and fifty callers come at once.");
    let answers = try_join_all((0..50).map(|_| call("GET"))).await?;
    let ok = answers.iter().all(|answer| answer.status() == StatusCode::OK);
    promise("one exchange, and fifty answers", ok && upstream.counts().exchanges == 1)?;

    println!("2. A caller wants to write, for which this service has no scope.");
    let status = call("POST").await?.status();
    promise("403, and nothing was sent", status == StatusCode::FORBIDDEN && upstream.counts().calls == 50)?;

    println!("3. The token has expired, and the token endpoint is down.");
    upstream.set_down(true);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let answer = call("GET").await?;
    println!("   {}, Retry-After: {:?}", answer.status(), answer.headers().get(RETRY_AFTER));
    promise("503, and when to come back", answer.status() == StatusCode::SERVICE_UNAVAILABLE)
}
