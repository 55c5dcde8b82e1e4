//! A moment that a test makes up, to ask a gate about it without a session.

use super::{Facts, GateContext, OfflineGate, standing};
use crate::{
    account::AccountId,
    denial::{Capability, Denial},
    state::{AuthState, ReauthCause},
    token::Grants,
};
use std::time::{Duration, SystemTime};

/// A moment that a test makes up: what a gate is shown, without a session.
///
/// It begins as a user who has signed in this moment, online, with a fresh token, without grants, and has not unlocked.
/// Ages are those at this moment; `None` stands for "never".
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::{DenyReason, OfflinePolicy, Rule, Situation};
///
/// const HOUR: Duration = Duration::from_secs(3600);
/// let policy = OfflinePolicy::new().rule("notes.create", Rule::new().max_offline(48 * HOUR).step_up_within(12 * HOUR));
///
/// let away = Situation::new("alice").online(false).token_fresh(false).stepped_up(HOUR);
/// assert!(away.clone().offline_for(48 * HOUR).ask(&policy, "notes.create").is_ok());
/// let denial = away.offline_for(49 * HOUR).ask(&policy, "notes.create").unwrap_err();
/// assert_eq!(denial.reason(), DenyReason::OfflineWindowExpired);
/// ```
#[derive(Clone, Debug)]
pub struct Situation {
    account: AccountId,
    state: AuthState,
    online: Option<bool>,
    token_fresh: bool,
    grant_rejected: bool,
    now: Option<SystemTime>,
    offline_for: Option<Duration>,
    since_auth: Option<Duration>,
    since_step_up: Option<Duration>,
    grants: Grants,
    grants_age: Option<Duration>,
}

impl Situation {
    /// This user has just signed in.
    pub fn new(account: impl Into<AccountId>) -> Self {
        Self {
            account: account.into(),
            state: AuthState::Active { reauth_pending: false, unsaved: false },
            online: Some(true),
            token_fresh: true,
            grant_rejected: false,
            now: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)),
            offline_for: Some(Duration::ZERO),
            since_auth: Some(Duration::ZERO),
            since_step_up: None,
            grants: Grants::new(),
            grants_age: Some(Duration::ZERO),
        }
    }

    /// The state. For those of a running session see also [`offline_stale`](Self::offline_stale) and
    /// [`reauth_required`](Self::reauth_required).
    pub fn state(mut self, state: AuthState) -> Self {
        self.state = state;
        self
    }

    /// Offline with a spent token: the state [`OfflineStale`](AuthState::OfflineStale).
    pub fn offline_stale(mut self) -> Self {
        let since = self.now.unwrap_or(SystemTime::UNIX_EPOCH);
        self.state = AuthState::OfflineStale { since };
        self.online(false).token_fresh(false)
    }

    /// The refresh token was refused and the access token is spent: the state
    /// [`ReauthRequired`](AuthState::ReauthRequired).
    pub fn reauth_required(mut self) -> Self {
        self.state = AuthState::ReauthRequired(ReauthCause::Revoked);
        self.token_fresh(false).grant_rejected(true)
    }

    /// What the platform says about the network; `None`: nothing.
    pub fn online(mut self, online: impl Into<Option<bool>>) -> Self {
        self.online = online.into();
        self
    }

    /// Whether the access token is not spent.
    pub fn token_fresh(mut self, fresh: bool) -> Self {
        self.token_fresh = fresh;
        self
    }

    /// Whether the refresh token was refused.
    pub fn grant_rejected(mut self, rejected: bool) -> Self {
        self.grant_rejected = rejected;
        self
    }

    /// Trusted time.
    pub fn now(mut self, now: SystemTime) -> Self {
        self.now = Some(now);
        self
    }

    /// The clock cannot be trusted: no age is known.
    pub fn clock_untrusted(mut self) -> Self {
        self.now = None;
        self
    }

    /// How long ago the last token response came.
    pub fn offline_for(mut self, ago: impl Into<Option<Duration>>) -> Self {
        self.offline_for = ago.into();
        self
    }

    /// How long ago the user proved identity.
    pub fn signed_in(mut self, ago: impl Into<Option<Duration>>) -> Self {
        self.since_auth = ago.into();
        self
    }

    /// How long ago the user unlocked.
    pub fn stepped_up(mut self, ago: impl Into<Option<Duration>>) -> Self {
        self.since_step_up = ago.into();
        self
    }

    /// Scopes, roles and the server's own end of offline use.
    pub fn grants(mut self, grants: Grants) -> Self {
        self.grants = grants;
        self
    }

    /// How old they are.
    pub fn grants_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.grants_age = age.into();
        self
    }

    /// Later, without any contact: trusted time and every age grow. Whether the token is still fresh then is for
    /// [`token_fresh`](Self::token_fresh) to say.
    pub fn later(mut self, by: Duration) -> Self {
        let add = |age: Option<Duration>| age.map(|age| age.saturating_add(by));
        self.now = self.now.map(|now| now.checked_add(by).unwrap_or(now));
        self.offline_for = add(self.offline_for);
        self.since_auth = add(self.since_auth);
        self.since_step_up = add(self.since_step_up);
        self.grants_age = add(self.grants_age);
        self
    }

    /// Shows this moment to `look`, as a gate is shown it that is asked for this capability.
    pub fn with<T>(&self, capability: impl Into<Capability>, look: impl FnOnce(&GateContext<'_>) -> T) -> T {
        let known = |age: Option<Duration>| age.filter(|_| self.now.is_some());
        let facts = Facts {
            online: self.online,
            token_fresh: self.token_fresh,
            grant_rejected: self.grant_rejected,
            now: self.now,
            offline_for: known(self.offline_for),
            since_auth: known(self.since_auth),
            since_step_up: known(self.since_step_up),
            grants: &self.grants,
            grants_age: known(self.grants_age),
        };
        let capability = capability.into();
        look(&GateContext { capability: &capability, account: &self.account, state: &self.state, facts: &facts })
    }

    /// Asks the gate, as a session would: who is locked, signed out or never signed in is denied before it is asked.
    ///
    /// # Errors
    /// The denial.
    pub fn ask(&self, gate: &impl OfflineGate, capability: impl Into<Capability>) -> Result<(), Denial> {
        self.with(capability, |cx| match standing(cx.state()) {
            Some(reason) => Err(cx.deny(reason)),
            None => gate.check(cx),
        })
    }
}
