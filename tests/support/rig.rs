//! A session that is signed in, the issuer behind it and the API in front of it, ready for a test to shake.
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use super::kit::*;
use futures_util::future::join_all;
use http::StatusCode;
use std::{
    fmt::Debug,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::{Notify, Semaphore};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_reauth::{
    AccountKey, AuthError, AuthLayer, BoxError, ErrorKind, ManualClock, MemoryStore, Origins, RefreshError,
    RefreshGrant, Refresher, Session, SessionBuilder, SessionStore, StoreError, Stored, Tokens, Version,
};

pub struct Rig {
    pub issuer: Issuer,
    pub clock: ManualClock,
    pub store: MemoryStore,
    pub seen: Seen,
    pub log: Log,
    pub session: Session,
    pub api: Api,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub async fn with(f: impl FnOnce(SessionBuilder) -> SessionBuilder) -> Self {
        Self::refreshing(|issuer| issuer, f).await
    }

    /// Signed in with `a1.0` and `r1.0`, for 100 s.
    pub async fn refreshing<R: Refresher>(
        refresher: impl FnOnce(Issuer) -> R,
        f: impl FnOnce(SessionBuilder) -> SessionBuilder,
    ) -> Self {
        let (issuer, clock, store, seen, log) =
            (Issuer::new(), clock(), MemoryStore::new(), Seen::default(), Log::default());
        let builder = Session::builder(refresher(issuer.clone())).store(store.clone()).clock(clock.clone());
        let session = log.attach(f(builder)).open("alice").await.unwrap();
        session.sign_in(issuer.sign_in()).await.unwrap();
        let api = layered(&session, &issuer, &seen);
        Self { issuer, clock, store, seen, log, session, api }
    }

    /// What a new process on the same machine would open.
    pub fn restarted(&self) -> SessionBuilder {
        Session::builder(self.issuer.clone()).store(self.store.clone()).clock(self.clock.clone())
    }

    /// The access token is past its end.
    pub fn expire(&self) {
        self.clock.advance(101 * SEC);
        self.issuer.expire_all();
    }

    pub async fn send(&self, request: Req) -> Result<StatusCode, AuthError> {
        send(&self.api, request).await
    }

    pub async fn send_all(&self, count: usize) -> Vec<Result<StatusCode, AuthError>> {
        join_all((0..count).map(|_| self.send(get("/jobs")))).await
    }

    /// From now on an exchange tells when it has begun, and answers when a permit is added.
    pub fn hold(&self) -> (Arc<Notify>, Arc<Semaphore>) {
        self.issuer.hold()
    }

    pub fn fail(&self) {
        self.issuer.fail(|| RefreshError::transient("down").status(StatusCode::SERVICE_UNAVAILABLE));
    }

    /// Time goes by for the session's clock and for tokio's timers alike, second by second.
    pub async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(SEC);
            tokio::time::sleep(SEC).await;
        }
    }

    /// P16: neither the session, nor its events, nor `more` show a token.
    pub fn assert_secretive(&self, more: &dyn Debug) {
        let text = format!("{:?} {:?} {:#?} {more:?} {more:#?}", self.session, layer(&self.session), self.log.all());
        assert!(!["a1.", "r1.", "a2.", "r2."].iter().any(|secret| text.contains(secret)), "{text}");
    }
}

pub fn layer(session: &Session) -> AuthLayer {
    AuthLayer::new(session.clone(), Origins::new([ORIGIN]).unwrap())
}

/// A service behind the usual layer.
pub fn behind<S>(session: &Session, inner: S) -> Api
where
    S: Service<Req, Response = Res, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
{
    boxed(layer(session).layer(inner))
}

pub fn boxed<S>(service: S) -> Api
where
    S: Service<Req, Response = Res, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
{
    BoxCloneSyncService::new(service.map_err(Into::into))
}

/// Something happens before the inner service sees a request.
pub fn before<S>(
    inner: S,
    f: impl Fn() + Clone + Send + Sync + 'static,
) -> impl Service<Req, Response = Res, Error = S::Error, Future: Send> + Clone + Send + Sync + 'static
where
    S: Service<Req, Response = Res, Error: Send, Future: Send> + Clone + Send + Sync + 'static,
{
    service_fn(move |request: Req| {
        f();
        inner.clone().oneshot(request)
    })
}

/// The answer comes as many milliseconds later as the request's header `x-delay` says.
pub fn delayed<S>(
    inner: S,
) -> impl Service<Req, Response = Res, Error = S::Error, Future: Send> + Clone + Send + Sync + 'static
where
    S: Service<Req, Response = Res, Error: Send, Future: Send> + Clone + Send + Sync + 'static,
{
    service_fn(move |request: Req| {
        let delay = request.headers().get("x-delay").map_or(0, |v| v.to_str().unwrap().parse().unwrap());
        let answer = inner.clone().oneshot(request);
        async move {
            let answer = answer.await;
            tokio::time::sleep(Duration::from_millis(delay)).await;
            answer
        }
    })
}

pub fn late(path: &str, delay: u64) -> Req {
    let mut request = get(path);
    request.headers_mut().insert("x-delay", delay.into());
    request
}

/// An issuer that is reached through a service, which may be the one that waits for it.
#[derive(Clone)]
pub struct Through {
    pub issuer: Issuer,
    pub endpoint: &'static str,
    pub asks: &'static str,
    pub service: Arc<OnceLock<Api>>,
    pub failures: Arc<std::sync::Mutex<Vec<Option<ErrorKind>>>>,
}

impl Through {
    pub fn new(issuer: Issuer, endpoint: &'static str, asks: &'static str) -> Self {
        Self { issuer, endpoint, asks, service: Arc::default(), failures: Arc::default() }
    }

    pub fn failures(&self) -> Vec<Option<ErrorKind>> {
        self.failures.lock().unwrap().clone()
    }
}

impl Refresher for Through {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        let service = self.service.get().unwrap().clone();
        let request = http::Request::post(self.asks).body(http_body_util::Full::default()).unwrap();
        match service.oneshot(request).await {
            Ok(_) => self.issuer.refresh(grant).await,
            Err(error) => {
                self.failures.lock().unwrap().push(AuthError::find(&*error).map(AuthError::kind));
                Err(RefreshError::not_sent(error))
            }
        }
    }

    fn issuer(&self) -> &str {
        self.endpoint
    }
}

/// A memory store that calls a hook before each operation: it may count, or panic.
#[derive(Clone)]
pub struct Hooked {
    pub inner: MemoryStore,
    pub hook: Arc<dyn Fn(&'static str) + Send + Sync>,
}

impl Hooked {
    pub fn new(hook: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self { inner: MemoryStore::new(), hook: Arc::new(hook) }
    }
}

impl SessionStore for Hooked {
    type Lease = <MemoryStore as SessionStore>::Lease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        (self.hook)("load");
        self.inner.load(key).await
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<Self::Lease, StoreError> {
        (self.hook)("lease");
        self.inner.lease(key, ttl).await
    }

    async fn save(
        &self,
        lease: &mut Self::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        (self.hook)("save");
        self.inner.save(lease, expected, bytes).await
    }

    async fn remove(&self, lease: &mut Self::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        (self.hook)("remove");
        self.inner.remove(lease, expected).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        (self.hook)("raise_epoch");
        self.inner.raise_epoch(key, to).await
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.inner.accounts().await
    }

    async fn changed(&self, key: &AccountKey) {
        self.inner.changed(key).await
    }
}
