//! [`SessionBuilder`]: what a session is made of.

use super::{
    Session,
    accounts::Accounts,
    config::{Config, OnLock, OnWipe},
    mark,
    open::Foundation,
    snapshot::Windows,
    tasks,
};
use crate::{
    account::AccountId,
    clock::{Clock, SystemClock},
    error::AuthError,
    event::Observer,
    failure::FailureClassifier,
    offline::{Connectivity, DynStepUp, OfflineGate, StepUp},
    refresher::{Refresher, SharedRefresher},
    state::LockCause,
    store::{MemoryStore, SessionStore, SharedStore},
};
use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

/// What a session is made of.
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::{MemoryStore, Session, Tokens, refresh_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::AuthError> {
/// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh"))))
///     .store(MemoryStore::new())
///     .refresh_timeout(Duration::from_secs(15))
///     .on_lock(|account, cause| eprintln!("{} is locked: {cause:?}", account.subject()))
///     .open("alice")
///     .await?;
/// # drop(session); Ok(()) }
/// ```
#[must_use]
pub struct SessionBuilder {
    refresher: SharedRefresher,
    store: Option<SharedStore>,
    gate: Option<Box<dyn OfflineGate>>,
    step_up: Option<Box<dyn DynStepUp>>,
    connectivity: Option<Arc<dyn Connectivity>>,
    clock: Option<Arc<dyn Clock>>,
    observers: Vec<Box<dyn Observer>>,
    classifier: FailureClassifier,
    refresh_before: Option<Duration>,
    refresh_timeout: Duration,
    journal: bool,
    background_refresh: bool,
    persist_access_token: bool,
    for_sign_in: bool,
    on_wipe: Vec<OnWipe>,
    on_lock: Vec<OnLock>,
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder").finish_non_exhaustive()
    }
}

impl SessionBuilder {
    pub(crate) fn new(refresher: impl Refresher) -> Self {
        Self {
            refresher: SharedRefresher::new(refresher),
            store: None,
            gate: None,
            step_up: None,
            connectivity: None,
            clock: None,
            observers: Vec::new(),
            classifier: FailureClassifier::new(),
            refresh_before: None,
            refresh_timeout: Duration::from_secs(30),
            journal: true,
            background_refresh: true,
            persist_access_token: true,
            for_sign_in: false,
            on_wipe: Vec::new(),
            on_lock: Vec::new(),
        }
    }

    /// Where the session is kept. Defaults to a [`MemoryStore`]: until the process ends.
    pub fn store(mut self, store: impl SessionStore) -> Self {
        self.store = Some(SharedStore::new(store));
        self
    }

    /// Who decides what may be done. Defaults to none: everything is allowed that has, or may get, a token.
    pub fn gate(mut self, gate: impl OfflineGate) -> Self {
        self.gate = Some(Box::new(gate));
        self
    }

    /// Who asks the user for biometrics or a PIN where the gate wants a step-up. Defaults to none: such a request is
    /// denied, and the application steps up by itself, with [`Session::step_up`].
    pub fn step_up(mut self, step_up: impl StepUp) -> Self {
        self.step_up = Some(Box::new(step_up));
        self
    }

    /// What the platform knows about the network. Defaults to unknown, which counts as online.
    pub fn connectivity(mut self, connectivity: impl Connectivity) -> Self {
        self.connectivity = Some(Arc::new(connectivity));
        self
    }

    /// Defaults to [`SystemClock`] without a mark: what servers told of the time is known as long as the process lives. See
    /// [`SystemClock::with_mark`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Adds an observer.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// What failures of the token endpoint mean. Defaults to [`FailureClassifier::new`].
    pub fn classifier(mut self, classifier: FailureClassifier) -> Self {
        self.classifier = classifier;
        self
    }

    /// The soft window: how long before its expiry a token is refreshed in the background. At most half of the lifetime.
    /// Defaults to min(300 s, 20 % of the lifetime).
    pub fn refresh_before(mut self, window: Duration) -> Self {
        self.refresh_before = Some(window);
        self
    }

    /// How long one exchange may take. Defaults to 30 s. Leases are asked for this and 15 s more.
    pub fn refresh_timeout(mut self, limit: Duration) -> Self {
        self.refresh_timeout = limit;
        self
    }

    /// Whether an exchange is written down before it is made, so that a lost rotation can be told from a revocation.
    /// Defaults to `true`; off for servers known not to rotate refresh tokens.
    pub fn journal(mut self, on: bool) -> Self {
        self.journal = on;
        self
    }

    /// Whether requests start refreshes ahead of need. Defaults to `true`; off for short-lived programs.
    pub fn background_refresh(mut self, on: bool) -> Self {
        self.background_refresh = on;
        self
    }

    /// Whether the access token is stored too. Defaults to `true`: processes that share a store adopt each other's. Off
    /// for unshared stores.
    pub fn persist_access_token(mut self, on: bool) -> Self {
        self.persist_access_token = on;
        self
    }

    /// Opens signed out if what is stored cannot be read: damaged, or its key or permissions are not to be had. It is put
    /// aside by [`Session::sign_in`] at the latest, and never overwritten. For the command, or the screen, where a user signs in: without
    /// it a login whose key is lost for good can never be opened, and so never be replaced.
    pub fn for_sign_in(mut self) -> Self {
        self.for_sign_in = true;
        self
    }

    /// Called at a hard sign-out, when an account's data must go. Must not block.
    pub fn on_wipe(mut self, f: impl Fn(&AccountId) + Send + Sync + 'static) -> Self {
        self.on_wipe.push(Box::new(f));
        self
    }

    /// Called when an account is locked. Must not block.
    pub fn on_lock(mut self, f: impl Fn(&AccountId, LockCause) + Send + Sync + 'static) -> Self {
        self.on_lock.push(Box::new(f));
        self
    }

    /// Restores what is stored; no exchange, and no lease but to put aside what is damaged (for which it waits up to 1 s).
    ///
    /// # Errors
    /// `Store` if the record cannot be read. One that is damaged is put aside where the store can do that, and the next
    /// `open` begins signed out; one that is only out of reach, or of a newer version, is left as it is (see
    /// [`for_sign_in`](Self::for_sign_in)). `Misconfigured` if it belongs to another issuer or client, or if there is no tokio runtime (with its timer).
    pub async fn open(self, account: impl Into<AccountId>) -> Result<Session, AuthError> {
        let account = account.into();
        self.foundation().await?.open(account).await
    }

    /// Restores every account of this issuer and client that the store has a record of, those that were signed out with
    /// [`SignOut::Soft`](crate::SignOut::Soft) included; no exchange, and no lease. They share all that the builder says.
    ///
    /// One whose record cannot be read is left out, so that it is in nobody's way: [`Accounts::open`] says why, and does
    /// with it what [`open`](Self::open) would.
    ///
    /// # Errors
    /// `Store` if the store is out of reach, or if it has records, none can be read, and a key, a permission or a newer
    /// version of this crate would help; `Misconfigured` without a tokio runtime (with its timer).
    ///
    /// ```
    /// use tower_reauth::{MemoryStore, Session, Tokens, refresh_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::AuthError> {
    /// let accounts = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh"))))
    ///     .store(MemoryStore::new())
    ///     .open_accounts()
    ///     .await?;
    /// assert!(accounts.ids().is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn open_accounts(self) -> Result<Accounts, AuthError> {
        let foundation = self.foundation().await?;
        let restored = foundation.open_all().await?;
        Ok(Accounts::new(foundation, restored))
    }

    async fn foundation(self) -> Result<Foundation, AuthError> {
        let runtime = tasks::runtime()?;
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::new()));
        let time = mark::open(&runtime, clock).await;
        let store = self.store.unwrap_or_else(|| SharedStore::new(MemoryStore::new()));
        let config = Arc::new(Config {
            self_starting: !self.refresher.needs_refresh_token(),
            endpoint: self.refresher.issuer().parse().ok().filter(is_endpoint),
            refresher: self.refresher,
            gate: self.gate,
            step_up: self.step_up,
            connectivity: self.connectivity,
            time,
            observers: self.observers,
            classifier: self.classifier,
            windows: Windows::new(self.refresh_before),
            refresh_timeout: self.refresh_timeout,
            journal: self.journal,
            background_refresh: self.background_refresh,
            persist_access_token: self.persist_access_token,
            on_wipe: self.on_wipe,
            on_lock: self.on_lock,
            readers: Mutex::default(),
        });
        Ok(Foundation { config, store, for_sign_in: self.for_sign_in, damaged: Mutex::default() })
    }
}

/// An issuer that is a token endpoint, as that of the OAuth refreshers is; a bare origin is none.
fn is_endpoint(issuer: &http::Uri) -> bool {
    issuer.authority().is_some() && issuer.path().len() > 1
}
