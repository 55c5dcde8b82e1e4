//! A signed-in session that refreshes over the network by `ReqwestTokens`, an API on loopback, and reqwest clients.
//!
//! Include it beside `kit.rs` and `loopback.rs`.
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use crate::{
    kit::{Issuer, SEC, clock},
    loopback::Loopback,
};
use reqwest::{Client, Method, Request, Url};
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore};
use tower_reauth::{
    Accounts, AuthError, AuthLayer, BoxError, ErrorKind, ManualClock, OAuth2Refresher, Origins, Refresher,
    ReqwestTokens, Session, SessionBuilder, Tokens,
};

/// How many requests meet an expired token at once.
pub const STORM: usize = 24;

pub struct Net {
    pub issuer: Issuer,
    pub clock: ManualClock,
    pub api: Loopback,
    pub session: Session,
}

impl Net {
    /// Signed in with `a1.0` and `r1.0`, for 100 s.
    pub async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub async fn with(f: impl FnOnce(SessionBuilder) -> SessionBuilder) -> Self {
        let issuer = Issuer::new();
        let api = Loopback::api(&issuer).await;
        let clock = clock();
        let session = f(Session::builder(refresher(&api)).clock(clock.clone())).open("alice").await.unwrap();
        session.sign_in(issuer.sign_in()).await.unwrap();
        Self { issuer, clock, api, session }
    }

    pub fn layer(&self) -> AuthLayer {
        AuthLayer::new(self.session.clone(), self.origins())
    }

    pub fn origins(&self) -> Origins {
        Origins::new([self.api.origin()]).unwrap()
    }

    pub fn get(&self, path: &str) -> Request {
        request(Method::GET, &self.api.uri(path))
    }

    pub fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Request {
        let mut request = request(Method::POST, &self.api.uri(path));
        *request.body_mut() = Some(body.into());
        request
    }

    /// The access token is past its end, for the session and for the API.
    pub fn expire(&self) {
        self.clock.advance(101 * SEC);
        self.issuer.expire_all();
    }

    /// From now on an exchange tells when it has begun, and answers when a permit is added.
    pub fn hold(&self) -> (Arc<Notify>, Arc<Semaphore>) {
        let (started, hold) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        let mut books = self.issuer.books();
        (books.started, books.hold) = (Some(started.clone()), Some(hold.clone()));
        (started, hold)
    }

    /// What reached the API since the last call: `METHOD path authorization body`.
    pub fn lines(&self) -> Vec<String> {
        self.api.lines()
    }
}

/// Over the network, to the token endpoint of `api`.
pub fn refresher(api: &Loopback) -> impl Refresher {
    let tokens = ReqwestTokens::new(Client::builder().no_proxy()).unwrap();
    OAuth2Refresher::new(api.uri("/token"), "app").unwrap().http(tokens)
}

/// Alice and Bob, signed in with tokens that the API takes: `of alice` and `of bob`. Nobody is active.
pub async fn two_accounts(issuer: &Issuer, api: &Loopback) -> Accounts {
    let accounts = Session::builder(refresher(api)).open_accounts().await.unwrap();
    for name in ["alice", "bob"] {
        accounts.open(name).await.unwrap().sign_in(Tokens::new(format!("of {name}"))).await.unwrap();
        issuer.books().accepted.push(format!("of {name}"));
    }
    accounts
}

/// As an application has it; whatever proxies the machine knows.
pub fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

pub fn request(method: Method, url: &str) -> Request {
    Request::new(method, Url::parse(url).unwrap())
}

/// An origin where nobody listens.
pub fn nobody() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A body of so many bytes in chunks, whose length nobody is told.
pub fn stream(bytes: usize) -> reqwest::Body {
    let chunks = (0..bytes).map(|n| Ok::<_, std::io::Error>(vec![b'a' + (n % 26) as u8]));
    reqwest::Body::wrap_stream(futures_util::stream::iter(chunks))
}

pub fn kind(error: &BoxError) -> Option<ErrorKind> {
    AuthError::find(&**error).map(AuthError::kind)
}
