//! A small authorization and resource server on loopback: refresh tokens rotate, and a reused one revokes the family.

use axum::{
    Router,
    extract::{Form, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{any, post},
};
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tower_reauth::{BoxError, Tokens};

/// What happened at the token endpoint.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Token requests, whatever came of them.
    pub(crate) exchanges: u64,
    /// How often a refresh token came that had been exchanged before: each took its family with it.
    pub(crate) reuse_events: u64,
}

#[derive(Default)]
struct Books {
    counts: Counts,
    /// Counts tokens, so that each is another one.
    minted: u64,
    /// Of the family that lives; `None`: none does.
    refresh_token: Option<String>,
    /// Those of the same family that were exchanged.
    used: HashSet<String>,
    /// Until when each is taken.
    access_tokens: HashMap<String, Instant>,
}

impl Books {
    fn mint(&mut self, lifetime: Duration) -> (String, String) {
        self.minted += 1;
        let (access, refresh) = (format!("access-{}", self.minted), format!("refresh-{}", self.minted));
        self.access_tokens.insert(access.clone(), Instant::now() + lifetime);
        self.used.extend(self.refresh_token.replace(refresh.clone()));
        (access, refresh)
    }

    fn revoke(&mut self) {
        self.refresh_token = None;
        self.used.clear();
        self.access_tokens.clear();
    }
}

#[derive(Clone)]
struct Shared {
    books: Arc<Mutex<Books>>,
    lifetime: Duration,
    exchange: Duration,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server, and the strings that the examples pull.
pub(crate) struct LocalServer {
    address: SocketAddr,
    shared: Shared,
}

impl LocalServer {
    /// `lifetime`: of its access tokens, in whole seconds. `exchange`: how long one takes.
    pub(crate) async fn start(lifetime: Duration, exchange: Duration) -> Result<Self, BoxError> {
        let shared = Shared { books: Arc::default(), lifetime, exchange };
        let router = Router::new().route("/token", post(token)).route("/jobs", any(jobs)).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, shared })
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A new family: what an interactive sign-in of the user ends with.
    pub(crate) fn sign_in(&self) -> Tokens {
        let mut books = self.shared.books();
        books.revoke();
        let (access, refresh) = books.mint(self.shared.lifetime);
        Tokens::new(access).with_refresh_token(refresh).with_expires_in(self.shared.lifetime)
    }

    #[allow(dead_code)] // the fleet does without
    pub(crate) fn revoke_grant(&self) {
        self.shared.books().revoke();
    }

    #[allow(dead_code)] // the quickstart counts at its own end of the wire
    pub(crate) fn counts(&self) -> Counts {
        self.shared.books().counts
    }

    /// Whether the newest sign-in still stands.
    #[allow(dead_code)]
    pub(crate) fn is_signed_in(&self) -> bool {
        self.shared.books().refresh_token.is_some()
    }
}

/// RFC 6749 §6.
async fn token(State(shared): State<Shared>, Form(form): Form<HashMap<String, String>>) -> Response {
    tokio::time::sleep(shared.exchange).await;
    let mut books = shared.books();
    books.counts.exchanges += 1;
    let presented = form.get("refresh_token");
    if presented.is_none() || presented != books.refresh_token.as_ref() {
        if presented.is_some_and(|token| books.used.contains(token)) {
            // The user or a thief: the server cannot know which of the two it is, so neither may go on.
            books.counts.reuse_events += 1;
            books.revoke();
        }
        return (StatusCode::BAD_REQUEST, json("{\"error\":\"invalid_grant\"}".into())).into_response();
    }
    let (access, refresh) = books.mint(shared.lifetime);
    let lifetime = shared.lifetime.as_secs();
    json(format!(
        "{{\"access_token\":\"{access}\",\"refresh_token\":\"{refresh}\",\"token_type\":\"Bearer\",\"expires_in\":{lifetime}}}"
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
