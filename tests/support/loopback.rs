//! Real HTTP servers on loopback: an API that takes the issuer's accepted tokens, with a token endpoint beside it, and
//! an origin that takes everybody. They record what reaches them, and end with the value, or with the test.
//!
//! Include it beside `kit.rs`: `#[path = "support/loopback.rs"] mod loopback;`. All waiting here is for real input and
//! output: do not pause tokio's time in a test that uses it.
//!
//! | route | answer, to any method |
//! |---|---|
//! | `/echo` | the request's body |
//! | `/gzip` | the same, compressed |
//! | `/stream` | the request's body, byte by byte, without a length |
//! | `/redirect/{status}?URL` | a redirect to that URL |
//! | `/unsteady` | 503 at first, then the request's body |
//! | `/held` | the request's body, after [`Loopback::release`] |
//! | `/answer/{status}` | that status, with the request's `x-challenge` as its `WWW-Authenticate` |
//! | `/not/{token}` | the request's body; a 401 for this one token |
//! | `/done/{token}` | to a `POST`: 303, to itself with the query `done`, or with the one that came; else as `/not/{token}` |
//! | `/token` | RFC 6749 §6; takes no access token, and is not recorded |
//! | `/revoke` | RFC 7009, likewise |
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use crate::kit::{Issuer, start};
use axum::{
    Form, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{any, post},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::timeout,
};
use tower_http::compression::CompressionLayer;
use tower_reauth::FailureKind;

/// Whoever has not answered by then hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it came, body and all.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    /// The `Authorization` header; `-` if there is none.
    pub fn authorization(&self) -> &str {
        self.headers.get(header::AUTHORIZATION).map_or("-", |value| value.to_str().unwrap())
    }

    /// `METHOD path authorization body`.
    pub fn line(&self) -> String {
        format!("{} {} {} {}", self.method, self.path, self.authorization(), String::from_utf8_lossy(&self.body))
    }
}

/// A server of this process, on a free port of 127.0.0.1.
pub struct Loopback {
    origin: String,
    books: Arc<Books>,
    server: JoinHandle<()>,
}

struct Books {
    /// Whose tokens are taken; without one everybody is welcome.
    issuer: Option<Issuer>,
    received: Mutex<Vec<Received>>,
    unsteady: AtomicBool,
    arrived: Notify,
    held: Semaphore,
    /// The server's clock is the test's: a later one would let tokens expire.
    date: Mutex<SystemTime>,
}

impl Loopback {
    /// An API that takes the issuer's accepted tokens, and answers others with a 401 and a `Bearer` challenge.
    pub async fn api(issuer: &Issuer) -> Self {
        Self::start(Some(issuer.clone())).await
    }

    /// Another origin, which asks nobody who they are.
    pub async fn stranger() -> Self {
        Self::start(None).await
    }

    async fn start(issuer: Option<Issuer>) -> Self {
        let books = Arc::new(Books {
            issuer,
            received: Mutex::default(),
            unsteady: AtomicBool::new(true),
            arrived: Notify::new(),
            held: Semaphore::new(0),
            date: Mutex::new(start()),
        });
        let router = Router::new()
            .route("/echo", any(async |body: Body| body))
            .route("/gzip", any(async |body: Body| body).layer(CompressionLayer::new()))
            .route("/stream", any(stream))
            .route("/redirect/{status}", any(redirect))
            .route("/unsteady", any(unsteady))
            .route("/held", any(held))
            .route("/answer/{status}", any(answer))
            .route("/not/{token}", any(not))
            .route("/done/{token}", any(not).post(done))
            .layer(from_fn_with_state(books.clone(), receive))
            .route("/token", post(token))
            .route("/revoke", post(revoke))
            .with_state(books.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { origin, books, server }
    }

    /// `http://127.0.0.1:port`
    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub fn uri(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// What came since the last call, in the order of arrival; refused requests too.
    pub fn received(&self) -> Vec<Received> {
        std::mem::take(&mut self.books.received.lock().unwrap())
    }

    /// The same, as [`Received::line`].
    pub fn lines(&self) -> Vec<String> {
        self.received().iter().map(Received::line).collect()
    }

    /// Until a request stands in `/held`.
    pub async fn arrived(&self) {
        timeout(PATIENCE, self.books.arrived.notified()).await.expect("nothing arrives");
    }

    /// The `Date` of the answers from now on.
    pub fn set_date(&self, date: SystemTime) {
        *self.books.date.lock().unwrap() = date;
    }

    /// Lets one request of `/held` go on.
    pub fn release(&self) {
        self.books.held.add_permits(1);
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// hyper's pooled client.
pub fn client<B>() -> Client<HttpConnector, B>
where
    B: http_body::Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new()).build_http()
}

// ===== the server's side =====

async fn receive(State(books): State<Arc<Books>>, uri: Uri, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return StatusCode::BAD_REQUEST.into_response() };
    let received = Received {
        method: parts.method.clone(),
        path: uri.to_string(),
        headers: parts.headers.clone(),
        body: body.to_bytes(),
    };
    let taken = books.issuer.as_ref().is_none_or(|issuer| {
        let token = received.authorization().strip_prefix("Bearer ").unwrap_or_default().to_owned();
        issuer.books().accepted.contains(&token)
    });
    let body = Body::from(received.body.clone());
    books.received.lock().unwrap().push(received);
    let mut response = match taken {
        true => next.run(Request::from_parts(parts, body)).await,
        false => refused(),
    };
    let date = httpdate::fmt_http_date(*books.date.lock().unwrap());
    response.headers_mut().insert(header::DATE, date.parse().unwrap());
    response
}

fn refused() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")];
    (StatusCode::UNAUTHORIZED, challenge, "refused").into_response()
}

async fn stream(body: Body) -> Body {
    let bytes = body.collect().await.unwrap().to_bytes();
    let chunks = (0..bytes.len()).map(move |at| Ok::<_, Infallible>(bytes.slice(at..at + 1)));
    Body::from_stream(futures_util::stream::iter(chunks))
}

async fn redirect(Path(status): Path<u16>, uri: Uri) -> impl IntoResponse {
    let to = uri.query().expect("a URL to go to").to_owned();
    (StatusCode::from_u16(status).unwrap(), [(header::LOCATION, to)])
}

async fn unsteady(State(books): State<Arc<Books>>, body: Body) -> Response {
    match books.unsteady.swap(false, Ordering::Relaxed) {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => body.into_response(),
    }
}

async fn held(State(books): State<Arc<Books>>, body: Body) -> Body {
    books.arrived.notify_one();
    books.held.acquire().await.unwrap().forget();
    body
}

async fn answer(Path(status): Path<u16>, headers: HeaderMap) -> Response {
    let mut response = (StatusCode::from_u16(status).unwrap(), "as asked").into_response();
    if let Some(challenge) = headers.get("x-challenge") {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.clone());
    }
    response
}

async fn not(Path(token): Path<String>, headers: HeaderMap, body: Body) -> Response {
    match headers.get(header::AUTHORIZATION).is_some_and(|value| *value == format!("Bearer {token}")) {
        true => refused(),
        false => body.into_response(),
    }
}

async fn done(uri: Uri) -> impl IntoResponse {
    (StatusCode::SEE_OTHER, [(header::LOCATION, format!("{}?{}", uri.path(), uri.query().unwrap_or("done")))])
}

async fn revoke(State(books): State<Arc<Books>>, Form(form): Form<HashMap<String, String>>) {
    let issuer = books.issuer.as_ref().expect("a server with an issuer");
    issuer.books().revocations.push(form.get("token").cloned().unwrap_or_default());
}

async fn token(State(books): State<Arc<Books>>, Form(form): Form<HashMap<String, String>>) -> Response {
    let issuer = books.issuer.as_ref().expect("a server with an issuer");
    let answer = issuer.exchange(form.get("refresh_token").map_or("", String::as_str)).await;
    let (status, body) = match answer {
        Ok(tokens) => {
            let body = serde_json::json!({
                "access_token": tokens.access_token().expose(),
                "refresh_token": tokens.refresh_token().map(|token| token.expose()),
                "expires_in": tokens.expires_in().map(|time| time.as_secs()),
                "token_type": "Bearer",
            });
            (StatusCode::OK, body)
        }
        Err(error) if error.kind() == FailureKind::Transient => {
            (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({"error": "temporarily_unavailable"}))
        }
        Err(_) => (StatusCode::BAD_REQUEST, serde_json::json!({"error": "invalid_grant"})),
    };
    let date = (header::DATE, httpdate::fmt_http_date(start()));
    (status, [date, (header::CONTENT_TYPE, "application/json".to_owned())], body.to_string()).into_response()
}
