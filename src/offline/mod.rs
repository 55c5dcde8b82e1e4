//! The gate: what may be done with what is known, answered at once and from memory.

mod connectivity;
mod policy;
#[cfg(feature = "test-util")]
mod situation;
mod step_up;

pub use connectivity::Connectivity;
pub(crate) use connectivity::Reachability;
pub use policy::{Explanation, Finding, OfflinePolicy, Rule, Sensitivity, WhenReauthRequired};
#[cfg(feature = "test-util")]
pub use situation::Situation;
pub(crate) use step_up::DynStepUp;
pub use step_up::StepUp;

use crate::{
    account::AccountId,
    denial::{Capability, Denial, DenyReason},
    state::{AuthState, SignedOutCause},
};
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// What a gate may look at: all from memory.
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::{DenyReason, gate_fn};
///
/// let gate = gate_fn(|cx| match cx.offline_for() {
///     Some(away) if away <= Duration::from_secs(3600) => Ok(()),
///     _ => Err(cx.deny(DenyReason::OfflineWindowExpired)),
/// });
/// # let _ = gate;
/// ```
pub struct GateContext<'a> {
    pub(crate) capability: &'a Capability,
    pub(crate) account: &'a AccountId,
    pub(crate) state: &'a AuthState,
    pub(crate) facts: &'a Facts<'a>,
}

/// The numbers behind a [`GateContext`], taken at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) online: Option<bool>,
    pub(crate) token_fresh: bool,
    pub(crate) grant_rejected: bool,
    pub(crate) now: Option<SystemTime>,
    pub(crate) offline_for: Option<Duration>,
    pub(crate) since_auth: Option<Duration>,
    pub(crate) since_step_up: Option<Duration>,
    pub(crate) grants: &'a crate::token::Grants,
    pub(crate) grants_age: Option<Duration>,
}

impl fmt::Debug for GateContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateContext")
            .field("capability", self.capability)
            .field("account", self.account)
            .field("state", self.state)
            .field("facts", self.facts)
            .finish()
    }
}

impl<'a> GateContext<'a> {
    /// What is asked for.
    pub fn capability(&self) -> &'a Capability {
        self.capability
    }

    /// Whose session it is.
    pub fn account(&self) -> &'a AccountId {
        self.account
    }

    /// Where the session stands.
    pub fn state(&self) -> &'a AuthState {
        self.state
    }

    /// What the platform says about the network; `None`: unknown, which counts as online.
    pub fn online(&self) -> Option<bool> {
        self.facts.online
    }

    /// Whether the access token is not spent. One of unknown expiry counts for an hour.
    pub fn token_fresh(&self) -> bool {
        self.facts.token_fresh
    }

    /// The refresh token was refused; the access token may still run.
    pub fn grant_rejected(&self) -> bool {
        self.facts.grant_rejected
    }

    /// Trusted time; `None`: the clock cannot be trusted.
    pub fn now(&self) -> Option<SystemTime> {
        self.facts.now
    }

    /// Since the last token response; `None`: never, or the clock cannot be trusted.
    pub fn offline_for(&self) -> Option<Duration> {
        self.facts.offline_for
    }

    /// Since the user last proved identity; `None`: never, or the clock cannot be trusted.
    pub fn since_auth(&self) -> Option<Duration> {
        self.facts.since_auth
    }

    /// Since the last step-up that still counts; `None`: there is none, or the clock cannot be trusted (then another one would
    /// not help).
    pub fn since_step_up(&self) -> Option<Duration> {
        self.facts.since_step_up
    }

    /// Whether the user has this scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.facts.grants.scopes.contains(scope)
    }

    /// Whether the user has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.facts.grants.roles.contains(role)
    }

    /// How old scopes and roles are; `None`: there are none, or the clock cannot be trusted.
    pub fn grants_age(&self) -> Option<Duration> {
        self.facts.grants_age
    }

    /// The server's own end of offline use; `None`: it named none. See [`Grants::offline_until`](crate::Grants::offline_until).
    pub fn offline_until(&self) -> Option<SystemTime> {
        self.facts.grants.offline_until
    }

    /// A denial for this reason, with the capability and the usual remedy.
    pub fn deny(&self, reason: DenyReason) -> Denial {
        Denial::new(self.capability.clone(), reason)
    }
}

/// The denials that no gate can lift: there is nobody to act for.
pub(crate) fn standing(state: &AuthState) -> Option<DenyReason> {
    match state {
        AuthState::Locked(_) => Some(DenyReason::Locked),
        AuthState::SignedOut(SignedOutCause::Never) => Some(DenyReason::NeverAuthenticated),
        AuthState::SignedOut(_) => Some(DenyReason::SignedOut),
        AuthState::Active { .. } | AuthState::OfflineStale { .. } | AuthState::ReauthRequired(_) => None,
    }
}

/// Decides what may be done with what is known: at once, from memory. Must not block.
///
/// It is asked for every request that would get a token, and once more before a replay. Locked, signed-out and
/// never-signed-in sessions are denied before it is asked.
///
/// ```
/// use tower_reauth::{Capability, Denial, DenyReason, GateContext, OfflineGate};
///
/// struct ReadOnlyOffline;
/// impl OfflineGate for ReadOnlyOffline {
///     fn check(&self, cx: &GateContext<'_>) -> Result<(), Denial> {
///         match cx.online() {
///             Some(false) if cx.capability() != &Capability::READ => Err(cx.deny(DenyReason::OnlineRequired)),
///             _ => Ok(()),
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(message = "`{Self}` is not a gate", note = "wrap a closure: `gate_fn(|cx| …)`")]
pub trait OfflineGate: Send + Sync + 'static {
    /// May it?
    fn check(&self, cx: &GateContext<'_>) -> Result<(), Denial>;
}

/// A closure as a gate.
///
/// ```
/// use tower_reauth::{DenyReason, gate_fn};
///
/// let gate = gate_fn(|cx| if cx.token_fresh() { Ok(()) } else { Err(cx.deny(DenyReason::OnlineRequired)) });
/// # let _ = gate;
/// ```
pub fn gate_fn<F>(f: F) -> impl OfflineGate
where
    F: Fn(&GateContext<'_>) -> Result<(), Denial> + Send + Sync + 'static,
{
    struct GateFn<F>(F);

    impl<F: Fn(&GateContext<'_>) -> Result<(), Denial> + Send + Sync + 'static> OfflineGate for GateFn<F> {
        fn check(&self, cx: &GateContext<'_>) -> Result<(), Denial> {
            (self.0)(cx)
        }
    }

    GateFn(f)
}

/// The gate's yes: names its capability and account.
///
/// As a request extension it stands for both; the layer asks the gate all the same.
#[derive(Clone, Debug)]
pub struct Permit {
    capability: Capability,
    account: AccountId,
}

impl Permit {
    pub(crate) fn new(capability: Capability, account: AccountId) -> Self {
        Self { capability, account }
    }

    /// What may be done.
    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    /// By whom.
    pub fn account(&self) -> &AccountId {
        &self.account
    }
}
