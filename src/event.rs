//! What happens to a session, for logs, metrics and audits.

use crate::{
    account::AccountId,
    denial::{Capability, DenyReason},
    failure::FailureKind,
    state::AuthState,
};
use std::time::Duration;

/// What happened to a session. Carries no secret.
///
/// An allowed request with a fresh token makes none.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AuthEvent {
    /// The session stands elsewhere now.
    #[non_exhaustive]
    StateChanged {
        /// Whose session.
        account: AccountId,
        /// Where it stands.
        state: AuthState,
    },
    /// New tokens were published after an exchange of this process.
    #[non_exhaustive]
    Refreshed {
        /// Whose session.
        account: AccountId,
        /// From the start of the flight to the publication, by the session's clock.
        took: Duration,
    },
    /// A refresh failed.
    #[non_exhaustive]
    RefreshFailed {
        /// Whose session.
        account: AccountId,
        /// What it means.
        kind: FailureKind,
        /// The cool-down.
        retry_after: Option<Duration>,
    },
    /// New tokens are in use, but not durable yet.
    #[non_exhaustive]
    Unsaved {
        /// Whose session.
        account: AccountId,
    },
    /// They are durable now.
    #[non_exhaustive]
    Saved {
        /// Whose session.
        account: AccountId,
    },
    /// A server refuses every fresh token: its 401s are delivered as they are for a while.
    #[non_exhaustive]
    BreakerOpened {
        /// Whose session.
        account: AccountId,
        /// The server.
        origin: String,
        /// For how long.
        retry_after: Duration,
    },
    /// A revocation could not be delivered, and is not kept.
    #[non_exhaustive]
    RevocationDropped {
        /// Whose session.
        account: AccountId,
    },
    /// The gate said no, to a request or to [`authorize`](crate::Session::authorize).
    #[non_exhaustive]
    Denied {
        /// Whose session.
        account: AccountId,
        /// What was asked for.
        capability: Capability,
        /// Why not.
        reason: DenyReason,
    },
    /// The user has stepped up, to a prompt or by [`Session::step_up`](crate::Session::step_up).
    #[non_exhaustive]
    SteppedUp {
        /// Whose session.
        account: AccountId,
        /// What the prompt was for; `None`: the application asked by itself.
        capability: Option<Capability>,
        /// For how long it counts.
        valid_for: Duration,
    },
    /// A prompt for a step-up was refused, failed, or was not answered in time.
    #[non_exhaustive]
    StepUpRefused {
        /// Whose session.
        account: AccountId,
        /// What it was for.
        capability: Capability,
    },
    /// The gate said yes to [`authorize`](crate::Session::authorize).
    #[non_exhaustive]
    Permitted {
        /// Whose session.
        account: AccountId,
        /// What was asked for.
        capability: Capability,
    },
}

impl AuthEvent {
    /// Whose event it is.
    pub fn account(&self) -> &AccountId {
        match self {
            Self::StateChanged { account, .. }
            | Self::Refreshed { account, .. }
            | Self::RefreshFailed { account, .. }
            | Self::Unsaved { account }
            | Self::Saved { account }
            | Self::BreakerOpened { account, .. }
            | Self::RevocationDropped { account }
            | Self::Denied { account, .. }
            | Self::SteppedUp { account, .. }
            | Self::StepUpRefused { account, .. }
            | Self::Permitted { account, .. } => account,
        }
    }
}

/// Is told what happens; must not block. A panic in it is caught and changes nothing.
///
/// ```
/// use tower_reauth::{AuthEvent, Observer};
///
/// struct Log;
/// impl Observer for Log {
///     fn on_event(&self, event: &AuthEvent) {
///         eprintln!("{event:?}");
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an observer",
    note = "wrap a closure: `observer_fn(|event| …)`"
)]
pub trait Observer: Send + Sync + 'static {
    /// Called for each event, in order.
    fn on_event(&self, event: &AuthEvent);
}

/// A closure as an observer.
///
/// ```
/// # use tower_reauth::observer_fn;
/// let observer = observer_fn(|event| eprintln!("{event:?}"));
/// # let _ = observer;
/// ```
pub fn observer_fn<F>(f: F) -> impl Observer
where
    F: Fn(&AuthEvent) + Send + Sync + 'static,
{
    struct ObserverFn<F>(F);

    impl<F: Fn(&AuthEvent) + Send + Sync + 'static> Observer for ObserverFn<F> {
        fn on_event(&self, event: &AuthEvent) {
            (self.0)(event);
        }
    }

    ObserverFn(f)
}
