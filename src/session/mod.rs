//! One account's tokens and everything that is known about them.
//!
//! Requests read a [`snapshot`](snapshot::Snapshot) and nothing else. A refresh is a detached task that owns everything
//! between "a new token is needed" and "it is durable and published". What decides is pure: `plan` and `state`.

mod accounts;
mod acquire;
mod adopt;
mod builder;
mod commit;
mod config;
mod cooldown;
mod desk;
mod expiry;
mod flight;
mod grants;
mod inner;
mod keep_fresh;
mod keeper;
mod mark;
mod open;
mod outcome;
mod plan;
mod record;
mod refresh;
mod sign_in;
mod sign_out;
mod snapshot;
mod step_up;
#[cfg_attr(test, path = "model/sync.rs")]
mod sync;
mod tasks;
mod vault;
mod verdict;
mod watch;

pub use accounts::Accounts;
pub use builder::SessionBuilder;
pub use desk::SignOut;
pub use keep_fresh::KeepFresh;
pub use watch::StateWatch;

pub(crate) use acquire::{Ask, Pass, Reaction, Step, Trail};
pub(crate) use desk::{Answer, Landing, Prompted};
pub(crate) use snapshot::TokenId;

use crate::{
    account::AccountId,
    denial::{Capability, Denial},
    error::{AuthError, ErrorKind},
    offline::Permit,
    refresher::Refresher,
    state::{AuthState, LockCause},
    token::{AccessToken, Grants, SignIn},
};
use desk::{Departure, Outcome, Work};
use flight::Want;
use inner::Inner;
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// One account's tokens and everything that is known about them. Clones share it.
///
/// Dropping every clone stops nothing that is under way: an exchange that has started completes and is saved. A program
/// that ends soon after its last request calls [`close`](Self::close).
///
/// ```
/// use tower_reauth::{AuthState, Session, Tokens, refresh_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::AuthError> {
/// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("second").with_refresh_token("r2"))))
///     .open("alice")
///     .await?;
/// session.sign_in(Tokens::new("first").with_refresh_token("r1")).await?;
/// session.refresh().await?;
/// assert_eq!(session.access_token().await?.expose(), "second");
/// assert!(matches!(session.state(), AuthState::Active { .. }));
/// session.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct Session(Arc<Inner>);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("account", &self.0.id).field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Session {
    /// Starts from what gets new tokens.
    pub fn builder(refresher: impl Refresher) -> SessionBuilder {
        SessionBuilder::new(refresher)
    }

    /// Whose session it is.
    pub fn account(&self) -> &AccountId {
        &self.0.id
    }

    /// Takes the tokens of a sign-in: durable and told to every process that shares the store when it returns. Completes
    /// even if the caller is dropped.
    ///
    /// If the store cannot be written within 10 s, the tokens are used all the same, as `Active { unsaved: true }`, and
    /// saving is retried.
    ///
    /// # Errors
    /// `InvalidToken`, `Misconfigured` (another subject, another token type): nothing has changed then.
    pub async fn sign_in(&self, sign_in: impl Into<SignIn>) -> Result<(), AuthError> {
        // A prompt that signs the user in anew has still to answer.
        let is_prompt = self.0.is_within(Work::Prompt);
        let (departures, prompt) = self.0.edit(|edit| {
            let own = edit.desk.prompt.as_ref().filter(|_| is_prompt).map(|prompt| prompt.number);
            (edit.desk.departures, own)
        });
        self.detached(self.0.clone().sign_in(sign_in.into(), departures, prompt)).await
    }

    /// Signs out: at once, offline too, and in every process that shares the store. The refresh token is revoked in the
    /// background (RFC 7009), for up to 10 s. Completes even if the caller is dropped.
    ///
    /// # Errors
    /// `Store`: the session has ended in this process, but the store could not be told.
    pub async fn sign_out(&self, how: SignOut) -> Result<(), AuthError> {
        self.depart(Departure::SignOut(how)).await
    }

    /// The state now.
    pub fn state(&self) -> AuthState {
        self.0.turn_if_spent();
        self.0.snapshot().state.clone()
    }

    /// The state, now and later.
    pub fn watch(&self) -> StateWatch {
        StateWatch::new(self.0.states.subscribe())
    }

    /// Starts or joins an exchange, whatever the token's age; `Ok` once a token set newer than the one current at the
    /// call is published. Cancelling the wait cancels nothing else.
    ///
    /// # Errors
    /// At once in a cool-down or in a state that no exchange can end; else what the exchange ended with.
    pub async fn refresh(&self) -> Result<(), AuthError> {
        self.0.join(Want::Newer)?.await
    }

    /// A fresh access token, refreshed first if need be: for what does not go through the layer. It is not asked of the
    /// gate.
    ///
    /// # Errors
    /// As a request would get them: typed by state, or by what the refresh ended with.
    pub async fn access_token(&self) -> Result<AccessToken, AuthError> {
        let inner = &self.0;
        for turn in 0.. {
            let now = inner.now();
            let snapshot = inner.snapshot().clone();
            if let Some(access) = snapshot.fresh(now) {
                if snapshot.ready(now).is_none() && inner.config.background_refresh {
                    let _ = inner.join(Want::InsteadOf(snapshot.token_id()));
                }
                return Ok(access.token.clone());
            }
            let offline = inner.reach.online(&inner.config.time) == Some(false);
            if turn >= 3 || (offline && !inner.reach.may_fly(&inner.config.time)) {
                break;
            }
            inner.join(Want::InsteadOf(snapshot.token_id()))?.await?;
        }
        inner.turn_if_spent();
        Err(inner.snapshot().why_no_token())
    }

    /// Asks the gate: for code that creates commands, and for interfaces that grey them out. The layer asks again when a
    /// request leaves.
    ///
    /// # Errors
    /// The denial, with a reason and a remedy.
    pub fn authorize(&self, capability: impl Into<Capability>) -> Result<Permit, Denial> {
        self.permit(capability.into())
    }

    /// What the user may do, as a server said just now: it replaces what was known, and its age counts from here. Durable
    /// when it returns; other processes that share the store learn of it at their next refresh. Later token answers can
    /// only narrow it (a scope that they drop is dropped here too), and do not renew its age. It is kept over refreshes
    /// and restarts, until it is set again or somebody signs in.
    ///
    /// # Errors
    /// `SignedOut` and the like if nobody is signed in, `Store` if it could not be saved, also since a refresh held the
    /// lease for more than 10 s: nothing has changed then. `Reentrant` within the session's own exchange, which holds the
    /// lease.
    pub async fn set_grants(&self, grants: Grants) -> Result<(), AuthError> {
        if self.0.is_within_own_flight() {
            return Err(AuthError::new(ErrorKind::Reentrant, "a refresh waits for the lease that it holds itself"));
        }
        let epoch = self.0.snapshot().epoch;
        self.detached(self.0.clone().save_grants(grants, epoch)).await
    }

    /// Locks the account, as the application or a resource server says: all tokens are dropped, everywhere. It ends with
    /// a sign-in. Completes even if the caller is dropped.
    ///
    /// # Errors
    /// `Store`: the account is locked in this process, but the store could not be told.
    pub async fn lock(&self, cause: LockCause) -> Result<(), AuthError> {
        self.depart(Departure::Lock(cause)).await
    }

    /// The network is back: ends the backoff, but not a server's `Retry-After`. A session that went stale, or whose clock
    /// cannot be trusted, is refreshed in the background.
    pub fn reconnected(&self) {
        let inner = &self.0;
        let (now, mono) = (inner.now(), inner.monotonic());
        inner.edit(|edit| {
            edit.desk.cool_down.take_if(|pause| !pause.reconnected(mono));
            edit.desk.failures = 0;
            edit.desk.forgiven = Some(now);
            edit.desk.look_at = Duration::ZERO;
            if edit.desk.cool_down.is_none() {
                edit.amend(|snapshot| snapshot.quiet_until = None);
            }
        });
        let stale = matches!(self.state(), AuthState::OfflineStale { .. });
        if inner.config.background_refresh && (stale || !inner.config.time.is_trusted()) {
            let _ = inner.join(Want::InsteadOf(inner.snapshot().token_id()));
        }
    }

    /// Refreshes ahead of need, also when idle, until the guard is dropped. It outlives failures and sign-outs.
    pub fn keep_fresh(&self) -> KeepFresh {
        KeepFresh::start(&self.0)
    }

    /// A step-up that the application did by itself: the user was there just now. It counts for this long, its last
    /// moment included, by trusted time; in memory only, until the user signs out or somebody signs in. Requests that wait
    /// for a [`StepUp`](crate::StepUp) prompt go on, and the prompt is closed.
    ///
    /// Each step-up has an end of its own, and the gate sees the newest that still counts. So a shorter one does not
    /// shorten a longer one before it: once it is over, the age of the longer one counts again. A step-up for no time
    /// counts for nothing, and so does one while nobody is signed in.
    pub fn step_up(&self, valid_for: Duration) {
        self.0.step_up(valid_for);
    }

    /// After a sign-out or a lock: lets a session start by itself again, where no refresh token is needed (client
    /// credentials). Does nothing if it is not signed out.
    ///
    /// # Errors
    /// `SignedOut` if a sign-in is needed, or the session was signed out once more meanwhile; `Store` if the store could
    /// not be told: nothing has changed then.
    pub async fn resume(&self) -> Result<(), AuthError> {
        let departures = self.0.edit(|edit| edit.desk.departures);
        self.detached(self.0.clone().begin_again(departures)).await
    }

    /// Waits for the refresh under way, for tokens that are not saved yet, for a revocation, until the lease is given back
    /// and the mark of trusted time is kept: what a short-lived program does last. The session can be used afterwards.
    ///
    /// # Errors
    /// `Store` if tokens could not be saved: they are lost when the process ends now. `Reentrant` within the session's own
    /// exchange, which it would wait for.
    pub async fn close(&self) -> Result<(), AuthError> {
        let settled = self.settle().await;
        self.0.save_mark().await;
        settled
    }

    /// All of [`close`](Self::close) that is this account's own: the mark is the machine's.
    async fn settle(&self) -> Result<(), AuthError> {
        tasks::runtime()?;
        if self.0.is_within_own_flight() {
            return Err(AuthError::new(ErrorKind::Reentrant, "a refresh waits for the end of its own session"));
        }
        while let Some(landing) = self.0.in_the_air() {
            let _ = landing.await;
        }
        self.0.jobs.idle().await;
        let settled = self.0.settle_unsaved().await;
        self.0.jobs.idle().await; // a revocation that came of it
        let settled = settled.map(drop); // with the lease that was kept
        self.0.vault.idle().await;
        settled
            .map_err(|error| AuthError::new(ErrorKind::Store, "the newest tokens could not be saved").caused_by(error))
    }

    async fn depart(&self, departure: Departure) -> Outcome {
        tasks::runtime()?; // without one nothing has happened
        // At the call, not when the task starts: who is called last wins.
        let announced = self.0.announce(departure);
        self.detached(self.0.clone().leave(announced)).await
    }

    /// Runs in a task of its own: the caller may leave.
    async fn detached(&self, work: impl Future<Output = Outcome> + Send + 'static) -> Outcome {
        let runtime = tasks::runtime()?;
        let (tx, rx) = oneshot::channel();
        let job = self.0.jobs.start();
        tasks::spawn(&runtime, async move {
            let outcome = work.await;
            drop(job);
            let _ = tx.send(outcome);
        });
        rx.await.unwrap_or_else(|_| Err(AuthError::new(ErrorKind::Aborted, "the task ended without an answer")))
    }
}

#[cfg(test)]
mod model;
