//! A small authorization and resource server on loopback: refresh tokens rotate, and a reused one revokes the family.
#![allow(dead_code)] // each example does without some of it

use axum::{
    Router,
    extract::{Form, Path, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::{any, post},
};
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tower_reauth::{BoxError, Tokens};

/// What happened, here and not at the client's end of the wire.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Token requests, whatever came of them.
    pub(crate) exchanges: u64,
    /// How often a refresh token came that had been exchanged before: each took its family with it.
    pub(crate) reuse_events: u64,
    /// Requests that reached the API, whatever came of them.
    pub(crate) calls: u64,
    /// Those of them that had no token, or none that is taken.
    pub(crate) refused: u64,
    /// Those of them that had none.
    pub(crate) bare: u64,
}

/// What came of one sign-in.
#[derive(Default)]
struct Family {
    /// `None` before the first. A client that signs in as itself is not told of its own.
    refresh_token: Option<String>,
    /// Those that were exchanged.
    used: HashSet<String>,
    /// Until when each is taken.
    access_tokens: HashMap<String, Instant>,
}

#[derive(Default)]
struct Books {
    counts: Counts,
    /// Counts tokens, so that each is another one.
    minted: u64,
    /// By user, those that live.
    families: HashMap<String, Family>,
    /// The token endpoint answers 503.
    down: bool,
    /// So many requests of the API are answered 503.
    stumbles: u64,
}

impl Books {
    fn mint(&mut self, user: &str, lifetime: Duration) -> (String, String) {
        self.minted += 1;
        let (access, refresh) = (format!("access-{}", self.minted), format!("refresh-{}", self.minted));
        let family = self.families.entry(user.to_owned()).or_default();
        family.access_tokens.insert(access.clone(), Instant::now() + lifetime);
        family.used.extend(family.refresh_token.replace(refresh.clone()));
        (access, refresh)
    }

    /// The user of a bearer token that is taken now.
    fn user(&self, bearer: Option<&str>) -> Option<String> {
        let token = bearer?.strip_prefix("Bearer ")?;
        let takes = |family: &Family| family.access_tokens.get(token).is_some_and(|end| Instant::now() < *end);
        self.families.iter().find(|(_, family)| takes(family)).map(|(user, _)| user.clone())
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
        let router = Router::new()
            .route("/token", post(token))
            .route("/jobs", any(jobs))
            .route("/moved/{port}", any(moved))
            .with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, shared })
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// A new family: what an interactive sign-in of the user ends with.
    pub(crate) fn sign_in(&self) -> Tokens {
        self.sign_in_as("alice")
    }

    /// The same for a user of that name.
    pub(crate) fn sign_in_as(&self, user: &str) -> Tokens {
        let mut books = self.shared.books();
        books.families.remove(user);
        let (access, refresh) = books.mint(user, self.shared.lifetime);
        Tokens::new(access).with_refresh_token(refresh).with_expires_in(self.shared.lifetime)
    }

    /// Nobody is signed in any more.
    pub(crate) fn revoke_grant(&self) {
        self.shared.books().families.clear();
    }

    /// The API takes none of the access tokens that there are, say because its keys were changed: a 401, long before the
    /// client expects one.
    pub(crate) fn forget_access_tokens(&self) {
        self.shared.books().families.values_mut().for_each(|family| family.access_tokens.clear());
    }

    /// Whether the token endpoint answers nothing but 503.
    pub(crate) fn set_down(&self, down: bool) {
        self.shared.books().down = down;
    }

    /// The API answers the next requests with 503.
    pub(crate) fn stumble(&self, times: u64) {
        self.shared.books().stumbles = times;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shared.books().counts
    }

    /// Whether the newest sign-in still stands.
    pub(crate) fn is_signed_in(&self) -> bool {
        !self.shared.books().families.is_empty()
    }

    /// For another API beside it: whose token that is, if it is taken.
    pub(crate) fn user(&self) -> impl Fn(Option<&str>) -> Option<String> + Clone + Send + Sync + 'static {
        let shared = self.shared.clone();
        move |bearer| api(&mut shared.books(), bearer)
    }
}

/// Prints whether what an example promises has happened, and ends the example if not.
pub(crate) fn promise(what: &str, kept: bool) -> Result<(), BoxError> {
    println!("   {} {what}", if kept { "ok:" } else { "NOT KEPT:" });
    if kept { Ok(()) } else { Err(format!("not kept: {what}").into()) }
}

/// RFC 6749 §6, and §4.4 for clients that sign in as themselves.
async fn token(State(shared): State<Shared>, Form(form): Form<HashMap<String, String>>) -> Response {
    tokio::time::sleep(shared.exchange).await;
    let mut books = shared.books();
    books.counts.exchanges += 1;
    if books.down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let lifetime = shared.lifetime.as_secs();
    if form.get("grant_type").is_some_and(|grant| grant == "client_credentials") {
        let (access, _) = books.mint("the client", shared.lifetime);
        let scope = form.get("scope").map_or("", String::as_str);
        return json(format!(
            "{{\"access_token\":\"{access}\",\"scope\":\"{scope}\",\"token_type\":\"Bearer\",\"expires_in\":{lifetime}}}"
        ))
        .into_response();
    }
    let presented = form.get("refresh_token");
    let current = |family: &Family| presented.is_some() && family.refresh_token.as_ref() == presented;
    let Some(user) = books.families.iter().find(|(_, family)| current(family)).map(|(user, _)| user.clone()) else {
        let families = books.families.len();
        // The user or a thief: the server cannot know which of the two it is, so neither may go on.
        books.families.retain(|_, family| presented.is_none_or(|token| !family.used.contains(token)));
        books.counts.reuse_events += u64::from(books.families.len() < families);
        return (StatusCode::BAD_REQUEST, json("{\"error\":\"invalid_grant\"}".into())).into_response();
    };
    let (access, refresh) = books.mint(&user, shared.lifetime);
    json(format!(
        "{{\"access_token\":\"{access}\",\"refresh_token\":\"{refresh}\",\"token_type\":\"Bearer\",\"expires_in\":{lifetime}}}"
    ))
    .into_response()
}

fn json(body: String) -> impl IntoResponse {
    ([("content-type", "application/json"), ("cache-control", "no-store")], body)
}

/// Whose call it is; counted.
fn api(books: &mut Books, bearer: Option<&str>) -> Option<String> {
    let user = books.user(bearer);
    books.counts.calls += 1;
    books.counts.refused += u64::from(user.is_none());
    books.counts.bare += u64::from(bearer.is_none());
    user
}

/// Lists jobs, and gives back what is written.
async fn jobs(State(shared): State<Shared>, method: Method, headers: HeaderMap, body: String) -> Response {
    let mut books = shared.books();
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
    match api(&mut books, bearer) {
        None => {
            let challenge = "Bearer realm=\"jobs\", error=\"invalid_token\"";
            (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response()
        }
        Some(_) if books.stumbles > 0 => {
            books.stumbles -= 1;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        Some(user) if method == Method::GET => format!("three jobs of {user}").into_response(),
        Some(_) => body.into_response(),
    }
}

/// To the jobs of another server on this machine.
async fn moved(Path(port): Path<u16>) -> Redirect {
    Redirect::temporary(&format!("http://127.0.0.1:{port}/jobs"))
}
