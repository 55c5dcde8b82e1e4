//! What happens to a session, for logs, metrics and audits.

use crate::{
    account::AccountId,
    denial::{Capability, DenyReason},
    failure::FailureKind,
    state::AuthState,
};
use std::{
    fmt::{self, Write as _},
    time::Duration,
};

/// What happened to a session. Carries no secret.
///
/// Every change of the state, every answer of [`authorize`](crate::Session::authorize) and every denial that a request was
/// given is exactly one event, with the account, the capability and the reason; an allowed request makes none. A request
/// that is prompted for a step-up and then passes was not denied: the step-up itself is an event.
///
/// `Display` is a line in words, for an audit log: whatever an account or a capability is called, it stays one line.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::AuthError> {
/// use std::sync::{Arc, Mutex};
/// use tower_reauth::{DenyReason, Session, Tokens, gate_fn, observer_fn, refresh_fn};
///
/// let lines = Arc::new(Mutex::new(Vec::new()));
/// let audit = lines.clone();
/// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh"))))
///     .gate(gate_fn(|cx| Err(cx.deny(DenyReason::StepUpRequired))))
///     .observer(observer_fn(move |event| audit.lock().unwrap().push(event.to_string())))
///     .open("alice")
///     .await?;
/// session.sign_in(Tokens::new("first")).await?;
/// let _ = session.authorize("jobs.complete");
/// let lines = lines.lock().unwrap().join("\n");
/// assert_eq!(lines, "alice: active\nalice: jobs.complete is denied: the user has to unlock first");
/// # Ok(()) }
/// ```
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

impl fmt::Display for AuthEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = self.account();
        write!(f, "{}", Line(account.subject()))?;
        if let Some(tenant) = account.tenant() {
            write!(f, " of {}", Line(tenant))?;
        }
        f.write_str(": ")?;
        match self {
            Self::StateChanged { state, .. } => write!(f, "{state}"),
            Self::Refreshed { took, .. } => write!(f, "refreshed, in {took:?}"),
            Self::RefreshFailed { kind, retry_after, .. } => {
                write!(f, "the refresh failed: {kind}")?;
                retry_after.map_or(Ok(()), |pause| write!(f, "; not again for {pause:?}"))
            }
            Self::Unsaved { .. } => f.write_str("the new tokens are in use, but not saved yet"),
            Self::Saved { .. } => f.write_str("the new tokens are saved"),
            Self::BreakerOpened { origin, retry_after, .. } => {
                write!(f, "{} refuses every fresh token: no refresh for its sake for {retry_after:?}", Line(origin))
            }
            Self::RevocationDropped { .. } => f.write_str("the refresh token could not be revoked"),
            Self::SteppedUp { capability: Some(capability), valid_for, .. } => {
                write!(f, "stepped up for {}, which counts for {valid_for:?}", Line(capability.as_str()))
            }
            Self::SteppedUp { capability: None, valid_for, .. } => {
                write!(f, "stepped up, which counts for {valid_for:?}")
            }
            Self::StepUpRefused { capability, .. } => {
                write!(f, "the step-up for {} was refused, or failed", Line(capability.as_str()))
            }
            Self::Denied { capability, reason, .. } => {
                write!(f, "{} is denied: {reason}", Line(capability.as_str()))
            }
            Self::Permitted { capability, .. } => write!(f, "{} is permitted", Line(capability.as_str())),
        }
    }
}

/// Names come from the application, and may come from its users: none can begin a line of its own.
struct Line<'a>(&'a str);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
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
///         eprintln!("{event}");
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
/// let observer = observer_fn(|event| eprintln!("{event}"));
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
