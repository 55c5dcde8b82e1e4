//! [`StepUp`]: the application's prompt, and its erased twin.

use crate::{denial::Capability, error::BoxError};
use std::{pin::Pin, time::Duration};

/// The application's prompt for biometrics or a PIN: one at a time, shared by all who wait. Of several
/// [`Accounts`](crate::Accounts) each has its own: two may be asked for at once.
///
/// A session that has one asks it where the gate denies a request with
/// [`DenyReason::StepUpRequired`](crate::DenyReason::StepUpRequired), once for all requests that wait, whatever their
/// capabilities. [`authorize`](crate::Session::authorize) does not ask it, nor does a replay: they answer the denial.
///
/// - `Ok`: the user is there. It counts for this long, by trusted time, in memory, and until somebody else signs in, or
///   the user out. Zero counts for nothing, and is a refusal.
/// - `Err`: refused, or failed. All who wait, and all who come within 5 s, get the denial with this error as its source. It
///   may be logged: it must not carry a secret. A panic counts as a refusal too.
///
/// # Cancellation
/// A prompt runs in a task of its own: requests that leave do not close it. Its future is dropped when nobody has answered
/// within two minutes (which is a refusal), when the session ends or somebody else signs in, and when the application calls
/// [`Session::step_up`](crate::Session::step_up) meanwhile. So a dialog should close when its future is dropped; the next one
/// is shown after that.
///
/// # From within
/// Requests of the prompt itself through the same session never wait for it: they get the denial. If it signs the user in
/// anew, it stays open, and its answer counts for the new session. Both are seen by the task that they are made in; one that
/// the prompt starts is another.
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::{BoxError, Capability, StepUp};
///
/// struct Pin;
/// impl StepUp for Pin {
///     async fn prompt(&self, capability: Capability) -> Result<Duration, BoxError> {
///         let right = ask_for_pin(&format!("Unlock for {capability}")).await;
///         if right { Ok(Duration::from_secs(12 * 3600)) } else { Err("cancelled".into()) }
///     }
/// }
/// # async fn ask_for_pin(_: &str) -> bool { true }
/// # fn takes(_: impl StepUp) {}
/// # takes(Pin);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a step-up prompt",
    note = "implement `StepUp`: `async fn prompt(&self, capability: Capability) -> Result<Duration, BoxError>`"
)]
pub trait StepUp: Send + Sync + 'static {
    /// Asks the user. `capability`: what the first of those who wait is about to do.
    fn prompt(&self, capability: Capability) -> impl Future<Output = Result<Duration, BoxError>> + Send;
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The erased twin of [`StepUp`].
pub(crate) trait DynStepUp: Send + Sync {
    fn prompt(&self, capability: Capability) -> BoxFuture<'_, Result<Duration, BoxError>>;
}

impl<S: StepUp> DynStepUp for S {
    fn prompt(&self, capability: Capability) -> BoxFuture<'_, Result<Duration, BoxError>> {
        Box::pin(StepUp::prompt(self, capability))
    }
}
