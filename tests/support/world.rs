//! One account, one issuer, one store and one clock that runs with tokio's; sessions on it are "processes".
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use crate::{
    flaky::Flaky,
    kit::{Issuer, Log, SEC, clock},
};
use http::StatusCode;
use std::time::Duration;
use tower_reauth::{
    AuthError, AuthState, ErrorKind, FailureKind, LockCause, ManualClock, ReauthCause, RefreshError, Session,
    SessionBuilder, SignedOutCause, Tokens,
};

pub const TICK: Duration = Duration::from_millis(50);

pub struct World {
    pub issuer: Issuer,
    pub store: Flaky,
    pub clock: ManualClock,
    pub log: Log,
}

impl World {
    pub fn new(store: Flaky) -> Self {
        let world = Self { issuer: Issuer::new(), store, clock: clock(), log: Log::default() };
        world.start_clock();
        world
    }

    /// With a session that is signed in: `r1.0`, `a1.0`, for 100 s.
    pub async fn signed_in(store: Flaky) -> (Self, Session) {
        let world = Self::new(store);
        let session = world.open().await;
        session.sign_in(world.issuer.sign_in()).await.unwrap();
        (world, session)
    }

    /// The session's clock goes as fast as tokio's, for the life of the runtime.
    pub fn start_clock(&self) {
        let clock = self.clock.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            ticks.tick().await;
            loop {
                ticks.tick().await;
                clock.advance(TICK);
            }
        });
    }

    /// Another process.
    pub fn builder(&self) -> SessionBuilder {
        self.log
            .attach(Session::builder(self.issuer.clone()))
            .store(self.store.clone())
            .clock(self.clock.clone())
            .background_refresh(false)
    }

    pub async fn open(&self) -> Session {
        self.builder().open("alice").await.unwrap()
    }

    /// The access token has been spent since.
    pub async fn expire(&self) {
        pass(101 * SEC).await;
    }

    pub fn refresh_token(&self) -> serde_json::Value {
        self.store.field("refresh_token")
    }

    /// `(exchanges, reuse events)`.
    pub fn books(&self) -> (u64, u64) {
        let books = self.issuer.books();
        (books.exchanges, books.reuse_events)
    }
}

pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The time that `work` took, by tokio's clock.
pub async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = tokio::time::Instant::now();
    (work.await, start.elapsed())
}

pub async fn token(session: &Session) -> Result<String, ErrorKind> {
    session.access_token().await.map(|token| token.expose().to_owned()).map_err(|error| error.kind())
}

pub fn kind(outcome: Result<(), AuthError>) -> Result<(), ErrorKind> {
    outcome.map_err(|error| error.kind())
}

/// The state in a few words.
pub fn state(session: &Session) -> &'static str {
    word(&session.state())
}

pub fn word(state: &AuthState) -> &'static str {
    match state {
        AuthState::Active { reauth_pending: false, unsaved: false, .. } => "active",
        AuthState::Active { reauth_pending: true, unsaved: false, .. } => "active, reauth pending",
        AuthState::Active { reauth_pending: false, unsaved: true, .. } => "active, unsaved",
        AuthState::Active { .. } => "active, reauth pending, unsaved",
        AuthState::OfflineStale { .. } => "stale",
        AuthState::SignedOut(SignedOutCause::Never) => "never signed in",
        AuthState::SignedOut(SignedOutCause::Here) => "signed out here",
        AuthState::SignedOut(SignedOutCause::Elsewhere) => "signed out elsewhere",
        AuthState::ReauthRequired(ReauthCause::Revoked) => "revoked",
        AuthState::ReauthRequired(ReauthCause::RotationLost) => "rotation lost",
        AuthState::ReauthRequired(ReauthCause::Rejected) => "rejected",
        AuthState::Locked(LockCause::AccountDisabled) => "disabled",
        AuthState::Locked(_) => "locked",
        _ => "another state",
    }
}

pub fn failure(kind: FailureKind, status: u16) -> RefreshError {
    RefreshError::new(kind).status(StatusCode::from_u16(status).unwrap())
}

/// The tokens of a server that rotated to generation `number` and says so once more.
pub fn tokens(number: u64) -> Tokens {
    Tokens::new(format!("a1.{number}")).with_refresh_token(format!("r1.{number}")).with_expires_in(100 * SEC)
}
