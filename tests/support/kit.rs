//! What most tests need: a strict rotating issuer in this process, an API in front of it, a clock that a test moves, and
//! a log of events.
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};
use tokio::sync::{Notify, Semaphore};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};
use tower_reauth::{
    AuthError, AuthEvent, AuthLayer, FailureKind, ManualClock, Origins, RefreshError, RefreshGrant, Refresher,
    RevokeGrant, Revoked, Session, SessionBuilder, Tokens, observer_fn,
};

pub const SEC: Duration = Duration::from_secs(1);
pub const ORIGIN: &str = "https://api.example.com";
pub const START: SystemTime = SystemTime::UNIX_EPOCH;

/// A point in time that is not the epoch.
pub fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub fn clock() -> ManualClock {
    ManualClock::new(start())
}

/// What an issuer does instead of answering with new tokens.
pub enum Script {
    /// Rotates, and the answer is lost.
    LoseAnswer,
    /// Fails before it looks at the token.
    Fail(Box<dyn FnOnce() -> RefreshError + Send>),
    /// Answers with these tokens, whatever was asked; nothing rotates.
    Answer(Tokens),
    /// Panics.
    Panic,
    /// Never answers.
    Hang,
}

/// A strict authorization server in this process: it rotates, and a reused refresh token revokes the family.
#[derive(Clone)]
pub struct Issuer(Arc<Mutex<Books>>);

pub struct Books {
    /// The number of the current refresh token: `r{family}.{number}`.
    pub number: u64,
    pub family: u64,
    pub revoked: bool,
    pub reuse_events: u64,
    /// How often the token endpoint was asked.
    pub exchanges: u64,
    pub revocations: Vec<String>,
    pub lifetime: Option<Duration>,
    pub takes: Duration,
    pub script: VecDeque<Script>,
    pub date: Option<SystemTime>,
    /// Access tokens that the API takes.
    pub accepted: Vec<String>,
    pub started: Option<Arc<Notify>>,
    /// While set, an exchange that was served waits for it before it answers.
    pub hold: Option<Arc<Semaphore>>,
}

impl Issuer {
    pub fn new() -> Self {
        Self::of_family(1)
    }

    /// Whose tokens can be told from another's.
    pub fn of_family(family: u64) -> Self {
        Self(Arc::new(Mutex::new(Books {
            number: 0,
            family,
            revoked: false,
            reuse_events: 0,
            exchanges: 0,
            revocations: Vec::new(),
            lifetime: Some(Duration::from_secs(100)),
            takes: Duration::from_millis(50),
            script: VecDeque::new(),
            date: None,
            accepted: vec![format!("a{family}.0")],
            started: None,
            hold: None,
        })))
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap()
    }

    pub fn exchanges(&self) -> u64 {
        self.books().exchanges
    }

    pub fn script(&self, script: Script) {
        self.books().script.push_back(script);
    }

    pub fn fail(&self, error: impl FnOnce() -> RefreshError + Send + 'static) {
        self.script(Script::Fail(Box::new(error)));
    }

    /// The tokens of an interactive sign-in: a new family, whose access token the API takes.
    pub fn sign_in(&self) -> Tokens {
        let mut books = self.books();
        if books.number > 0 || books.revoked {
            books.family += 1;
            books.number = 0;
            books.revoked = false;
        }
        books.mint()
    }

    /// From now on an exchange tells when it has begun, and answers when a permit is added.
    pub fn hold(&self) -> (Arc<Notify>, Arc<Semaphore>) {
        let (started, hold) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        let mut books = self.books();
        books.started = Some(started.clone());
        books.hold = Some(hold.clone());
        (started, hold)
    }

    /// The API takes no token that was issued until now.
    pub fn expire_all(&self) {
        self.books().accepted.clear();
    }

    /// `r{family}.{number}` that would be taken now.
    pub fn current(&self) -> String {
        let books = self.books();
        format!("r{}.{}", books.family, books.number)
    }
}

impl Books {
    fn mint(&mut self) -> Tokens {
        let access = format!("a{}.{}", self.family, self.number);
        self.accepted.push(access.clone());
        let mut tokens = Tokens::new(access).with_refresh_token(format!("r{}.{}", self.family, self.number));
        if let Some(lifetime) = self.lifetime {
            tokens = tokens.with_expires_in(lifetime);
        }
        match self.date {
            Some(date) => tokens.with_date(date),
            None => tokens,
        }
    }

    fn spend(&mut self, token: &str) -> Result<Tokens, RefreshError> {
        if self.revoked {
            return Err(RefreshError::new(FailureKind::InvalidGrant).status(StatusCode::BAD_REQUEST));
        }
        if token != format!("r{}.{}", self.family, self.number) {
            self.reuse_events += 1;
            self.revoked = true;
            self.accepted.clear();
            return Err(RefreshError::new(FailureKind::InvalidGrant).status(StatusCode::BAD_REQUEST));
        }
        self.number += 1;
        Ok(self.mint())
    }
}

impl Issuer {
    /// What the token endpoint does with a refresh token.
    pub async fn exchange(&self, token: &str) -> Result<Tokens, RefreshError> {
        let (script, takes, started, hold) = {
            let mut books = self.books();
            books.exchanges += 1;
            (books.script.pop_front(), books.takes, books.started.clone(), books.hold.clone())
        };
        if let Some(started) = started {
            started.notify_one();
        }
        tokio::time::sleep(takes).await;
        let answer = match script {
            None => self.books().spend(token),
            Some(Script::LoseAnswer) => {
                let _ = self.books().spend(token);
                Err(RefreshError::transient("the connection died"))
            }
            Some(Script::Fail(error)) => Err(error()),
            Some(Script::Answer(tokens)) => Ok(tokens),
            Some(Script::Panic) => panic!("a refresher that panics"),
            Some(Script::Hang) => std::future::pending().await,
        };
        if let Some(hold) = hold {
            let _permit = hold.acquire().await;
        }
        answer
    }
}

impl Refresher for Issuer {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        let token = grant.refresh_token().map(|token| token.expose().to_owned()).unwrap_or_default();
        self.exchange(&token).await
    }

    async fn revoke(&self, grant: RevokeGrant) -> Result<Revoked, RefreshError> {
        self.books().revocations.push(grant.refresh_token().expose().to_owned());
        Ok(Revoked::Done)
    }

    fn issuer(&self) -> &str {
        "https://id.example.com/token"
    }

    fn client_id(&self) -> &str {
        "app"
    }
}

/// The events of a session as text, and how many of a kind there were.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<AuthEvent>>>);

impl Log {
    pub fn attach(&self, builder: SessionBuilder) -> SessionBuilder {
        let log = self.clone();
        builder.observer(observer_fn(move |event| log.0.lock().unwrap().push(event.clone())))
    }

    pub fn all(&self) -> Vec<AuthEvent> {
        self.0.lock().unwrap().clone()
    }

    pub fn count(&self, wanted: impl Fn(&AuthEvent) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| wanted(event)).count()
    }
}

pub type Req = Request<Full<Bytes>>;
pub type Res = Response<Full<Bytes>>;
pub type Api = BoxCloneSyncService<Req, Res, tower_reauth::BoxError>;

/// What reached the API: `METHOD path authorization`.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// An API that takes the issuer's accepted tokens, and answers others with a 401 and a `Bearer` challenge. A 200 carries
/// the request's body back.
pub fn api(
    issuer: &Issuer,
    seen: &Seen,
) -> impl Service<Req, Response = Res, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static + use<> {
    let (issuer, seen) = (issuer.clone(), seen.clone());
    tower::service_fn(move |request: Req| {
        let authorization = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        seen.0.lock().unwrap().push(format!(
            "{} {} {}",
            request.method(),
            request.uri().path(),
            authorization.as_deref().unwrap_or("-")
        ));
        let taken = authorization
            .and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned))
            .is_some_and(|token| issuer.books().accepted.contains(&token));
        let response = match taken {
            true => Response::new(request.into_body()),
            false => Response::builder()
                .status(StatusCode::UNAUTHORIZED)
                .header("www-authenticate", "Bearer error=\"invalid_token\"")
                .body(Full::from("refused"))
                .unwrap(),
        };
        async move { Ok(response) }
    })
}

/// The API behind the layer.
pub fn layered(session: &Session, issuer: &Issuer, seen: &Seen) -> Api {
    BoxCloneSyncService::new(tower::Layer::layer(
        &AuthLayer::new(session.clone(), Origins::new([ORIGIN]).unwrap()),
        api(issuer, seen),
    ))
}

pub fn get(path: &str) -> Req {
    Request::get(format!("{ORIGIN}{path}")).body(Full::default()).unwrap()
}

pub fn post(path: &str, body: &'static str) -> Req {
    Request::post(format!("{ORIGIN}{path}")).body(Full::from(body)).unwrap()
}

/// The status, or the error of this crate.
pub async fn send(api: &Api, request: Req) -> Result<StatusCode, AuthError> {
    match api.clone().oneshot(request).await {
        Ok(response) => Ok(response.status()),
        Err(error) => Err(AuthError::find(&*error).expect("an error of this crate").clone()),
    }
}
