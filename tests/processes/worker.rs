//! The process that is killed: it opens one account over a store, does what it is told on its standard input, a
//! word a line, and says what happened on its standard output, a JSON object a line. It ends when its input does.
//!
//! Each call of the store and each exchange has two *points*, before it and after it. A trap at a point stops the whole
//! process there, until it is told to go on.

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Request};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, Write as _},
    sync::{Arc, Mutex, OnceLock, mpsc},
    time::Duration,
};
use tokio::sync::mpsc as tasks;
use tower::ServiceExt as _;
use tower_reauth::{
    AccountKey, AuthError, FileStore, HyperTokens, LeaseGuard, OAuth2Refresher, RedisStore, RefreshError, RefreshGrant,
    Refresher, RevokeGrant, Revoked, Session, SessionStore, SharedStore, SignOut, StoreError, Stored, Tokens, Version,
};

/// What it is, as JSON: `{"name", "store", "endpoint", "client"}`. Whoever starts without it is the driver.
pub const ORDERS: &str = "TOWER_REAUTH_TEST_WORKER";
pub const ACCOUNT: &str = "alice";

pub fn orders() -> Option<Value> {
    let orders = std::env::var(ORDERS).ok()?;
    Some(serde_json::from_str(&orders).unwrap())
}

/// Never comes back.
pub fn run(orders: &Value) -> ! {
    println!(); // the test harness has begun a line of its own
    let (told, words) = tasks::unbounded_channel();
    let (go, gone) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            match line {
                Ok(line) if line == "go" => drop(go.send(())),
                Ok(line) => drop(told.send(line)),
                Err(_) => break,
            }
        }
        std::process::exit(0); // the driver is gone
    });
    let state = Mutex::new(State { trap: None, passed: Vec::new() });
    let points = Points(Arc::new(Shared { state, gone: Mutex::new(gone), session: OnceLock::new() }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(serve(orders, points, words));
    std::process::exit(0)
}

pub fn say(what: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}").unwrap();
    out.flush().unwrap();
}

/// `name` is sent along with each request, so that the server can tell who asks.
pub fn refresher(endpoint: &str, client: &str, name: &str) -> impl Refresher {
    let name = HeaderValue::from_str(name).unwrap();
    let http = HyperTokens::new().map_request(move |mut request: Request<Bytes>| {
        request.headers_mut().insert("x-worker", name.clone());
        request
    });
    let revocation = endpoint.replace("/token", "/token/revocation");
    OAuth2Refresher::new(endpoint, client).unwrap().revocation(revocation).unwrap().http(http)
}

/// A Redis, or a directory.
pub async fn store(place: &str) -> SharedStore {
    match place.starts_with("redis://") {
        true => SharedStore::new(RedisStore::connect(place).await.unwrap()),
        false => SharedStore::new(FileStore::open(place).unwrap()),
    }
}

async fn serve(orders: &Value, points: Points, mut words: tasks::UnboundedReceiver<String>) {
    let order = |name: &str| orders[name].as_str().unwrap();
    let store = Stepped { store: store(order("store")).await, points: points.clone() };
    let refresher = refresher(order("endpoint"), order("client"), order("name"));
    let session = Session::builder(Stopping { refresher, points: points.clone() })
        .store(store)
        .background_refresh(orders["background"] == true)
        .refresh_before(Duration::from_secs(5))
        .refresh_timeout(Duration::from_secs_f64(orders["patience"].as_f64().unwrap()))
        .open(ACCOUNT)
        .await;
    let session = match session {
        Ok(session) => session,
        Err(error) => return say(&json!({ "did": "open", "error": told(&error) })),
    };
    let _ = points.0.session.set(session.clone());
    points.forget(); // opening is no step of what follows
    report("open", &session, Ok(String::new()));
    while let Some(line) = words.recv().await {
        let mut words = line.split(' ');
        let word = words.next().unwrap();
        let mut next = || words.next().unwrap();
        let outcome = match word {
            "refresh" => refresh(&session).await,
            "token" => token(&session).await,
            "sign_in" => {
                let tokens = Tokens::new(next()).with_refresh_token(next());
                let tokens = tokens.with_expires_in(Duration::from_secs_f64(next().parse().unwrap()));
                session.sign_in(tokens).await.map(|()| String::new())
            }
            "sign_out" => session.sign_out(SignOut::Soft).await.map(|()| String::new()),
            "close" => session.close().await.map(|()| String::new()),
            "state" => Ok(String::new()),
            // The `n`th point since it was told to forget, or the next one of this name.
            "trap" => {
                points.state().trap = Some(next().replace('_', " "));
                continue;
            }
            "points" => {
                say(&json!({ "did": "points", "points": points.state().passed }));
                continue;
            }
            "forget" => {
                points.forget();
                continue;
            }
            // Refreshes without a pause, or whenever the token is spent.
            "spin" | "live" => {
                tokio::spawn(go_on(session.clone(), word == "spin"));
                continue;
            }
            "exit" => std::process::exit(0),
            _ => panic!("what is {word:?}?"),
        };
        report(word, &session, outcome);
    }
}

async fn refresh(session: &Session) -> Result<String, AuthError> {
    session.refresh().await?;
    token(session).await
}

async fn token(session: &Session) -> Result<String, AuthError> {
    session.access_token().await.map(|token| token.expose().to_owned())
}

async fn go_on(session: Session, spin: bool) {
    let mut last = None;
    loop {
        let outcome = match spin && !is_over(&session) {
            true => refresh(&session).await,
            false => token(&session).await, // a session that is over looks for another's sign-in
        };
        let pause = if spin && outcome.is_ok() { 1 } else { 5 };
        let new = outcome.as_ref().ok().cloned();
        if new.is_none() || new != last {
            report("turn", &session, outcome);
        }
        last = new;
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

fn is_over(session: &Session) -> bool {
    let state = state(session);
    state.starts_with("ReauthRequired") || state.starts_with("SignedOut")
}

fn state(session: &Session) -> String {
    format!("{:?}", session.state())
}

fn report(did: &str, session: &Session, outcome: Result<String, AuthError>) {
    let (token, error) = match outcome {
        Ok(token) => (Some(token), None),
        Err(error) => (None, Some(told(&error))),
    };
    say(&json!({ "did": did, "state": state(session), "token": token, "error": error }));
}

fn told(error: &AuthError) -> String {
    let mut text = format!("{:?}: {error}", error.kind());
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

// ===== points =====

#[derive(Clone)]
struct Points(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    gone: Mutex<mpsc::Receiver<()>>,
    session: OnceLock<Session>,
}

struct State {
    trap: Option<String>,
    passed: Vec<String>,
}

impl Points {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn forget(&self) {
        self.state().passed.clear();
    }

    fn pass(&self, point: String) {
        let trapped = {
            let mut state = self.state();
            state.passed.push(point.clone());
            let number = (state.passed.len() - 1).to_string();
            state.trap.take_if(|trap| [&number, &point].contains(&&*trap)).is_some()
        };
        if trapped {
            // What requests would be sent with now.
            let used = self.0.session.get().and_then(|session| session.access_token().now_or_never());
            let used = used.and_then(Result::ok).map(|token| token.expose().to_owned());
            say(&json!({ "did": "trap", "at": point, "token": used }));
            self.0.gone.lock().unwrap().recv().unwrap(); // the runtime's only thread: everything stops
        }
    }

    async fn around<T>(&self, call: &str, work: impl Future<Output = T>) -> T {
        self.pass(format!("before {call}"));
        let done = work.await;
        self.pass(format!("after {call}"));
        done
    }
}

struct Stopping<R> {
    refresher: R,
    points: Points,
}

impl<R: Refresher> Refresher for Stopping<R> {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        self.points.around("exchange", self.refresher.refresh(grant)).await
    }

    async fn revoke(&self, grant: RevokeGrant) -> Result<Revoked, RefreshError> {
        self.points.around("revoke", self.refresher.revoke(grant)).await
    }

    fn issuer(&self) -> &str {
        self.refresher.issuer()
    }

    fn client_id(&self) -> &str {
        self.refresher.client_id()
    }
}

struct Stepped {
    store: SharedStore,
    points: Points,
}

struct SteppedLease {
    lease: Option<<SharedStore as SessionStore>::Lease>,
    points: Points,
}

impl Drop for SteppedLease {
    fn drop(&mut self) {
        self.points.pass("before release".into());
        drop(self.lease.take());
        self.points.pass("after release".into());
    }
}

impl SteppedLease {
    fn inner(&mut self) -> &mut <SharedStore as SessionStore>::Lease {
        self.lease.as_mut().unwrap()
    }
}

impl LeaseGuard for SteppedLease {
    fn valid_for(&self) -> Option<Duration> {
        self.lease.as_ref().unwrap().valid_for()
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        let points = self.points.clone();
        points.around("renew", self.inner().renew()).await
    }
}

impl SessionStore for Stepped {
    type Lease = SteppedLease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        self.points.around("load", self.store.load(key)).await
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<SteppedLease, StoreError> {
        let lease = self.points.around("lease", self.store.lease(key, ttl)).await?;
        Ok(SteppedLease { lease: Some(lease), points: self.points.clone() })
    }

    async fn save(
        &self,
        lease: &mut SteppedLease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        self.points.around("save", self.store.save(lease.inner(), expected, bytes)).await
    }

    async fn remove(&self, lease: &mut SteppedLease, expected: Option<&Version>) -> Result<(), StoreError> {
        self.points.around("remove", self.store.remove(lease.inner(), expected)).await
    }

    async fn set_aside(&self, lease: &mut SteppedLease) -> Result<(), StoreError> {
        self.store.set_aside(lease.inner()).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        let call = if to == 0 { "mark" } else { "raise" };
        self.points.around(call, self.store.raise_epoch(key, to)).await
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.store.accounts().await
    }

    async fn changed(&self, key: &AccountKey) {
        self.store.changed(key).await;
    }
}
