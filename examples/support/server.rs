//! A small authorization and resource server on loopback: refresh tokens rotate, and a reused one revokes the family.

use super::story::Backend;
use axum::{
    Router,
    extract::{Form, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{any, post},
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tower_reauth::{BoxError, Tokens};

/// Seconds.
const LIFETIME: u64 = 1;

#[derive(Default)]
struct Books {
    /// Counts tokens, so that each is another one.
    minted: u64,
    refresh_token: Option<String>,
    /// Until when each is taken.
    access_tokens: HashMap<String, Instant>,
}

impl Books {
    fn mint(&mut self) -> (String, String) {
        self.minted += 1;
        let (access, refresh) = (format!("access-{}", self.minted), format!("refresh-{}", self.minted));
        self.access_tokens.insert(access.clone(), Instant::now() + Duration::from_secs(LIFETIME));
        self.refresh_token = Some(refresh.clone());
        (access, refresh)
    }

    fn revoke(&mut self) {
        self.refresh_token = None;
        self.access_tokens.clear();
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Books>>);

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server, and the strings that the story pulls.
pub(crate) struct LocalServer {
    address: SocketAddr,
    shared: Shared,
}

impl LocalServer {
    pub(crate) async fn start() -> Result<Self, BoxError> {
        let shared = Shared(Arc::default());
        let router = Router::new().route("/token", post(token)).route("/jobs", any(jobs)).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, shared })
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Backend for LocalServer {
    fn token_endpoint(&self) -> String {
        format!("http://{}/token", self.address)
    }

    fn api(&self) -> String {
        format!("http://{}/jobs", self.address)
    }

    fn client_id(&self) -> &'static str {
        "quickstart"
    }

    fn lifetime(&self) -> Duration {
        Duration::from_secs(LIFETIME)
    }

    async fn sign_in(&self) -> Result<Tokens, BoxError> {
        let (access, refresh) = self.shared.books().mint();
        Ok(Tokens::new(access).with_refresh_token(refresh).with_expires_in(self.lifetime()))
    }

    async fn revoke_grant(&self) -> Result<(), BoxError> {
        self.shared.books().revoke();
        Ok(())
    }
}

/// RFC 6749 §6.
async fn token(State(shared): State<Shared>, Form(form): Form<HashMap<String, String>>) -> Response {
    // Long enough that a thousand callers wait for it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut books = shared.books();
    let presented = form.get("refresh_token");
    if presented.is_none() || presented != books.refresh_token.as_ref() {
        books.revoke(); // reuse, or a dead grant: the family goes
        return (StatusCode::BAD_REQUEST, json("{\"error\":\"invalid_grant\"}".into())).into_response();
    }
    let (access, refresh) = books.mint();
    json(format!(
        "{{\"access_token\":\"{access}\",\"refresh_token\":\"{refresh}\",\"token_type\":\"Bearer\",\"expires_in\":{LIFETIME}}}"
    ))
    .into_response()
}

fn json(body: String) -> impl IntoResponse {
    ([("content-type", "application/json"), ("cache-control", "no-store")], body)
}

async fn jobs(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match bearer {
        Some(token) if shared.books().access_tokens.get(token).is_some_and(|end| Instant::now() < *end) => {
            "three jobs".into_response()
        }
        _ => {
            let challenge = "Bearer realm=\"jobs\", error=\"invalid_token\"";
            (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response()
        }
    }
}
