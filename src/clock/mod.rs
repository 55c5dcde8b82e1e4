//! The clocks that a session reads, and the trusted time that it makes of them.

#[cfg(feature = "test-util")]
mod manual;
mod mark;
mod stamp;
mod system;
mod trusted;

#[cfg(feature = "test-util")]
pub use manual::ManualClock;
pub(crate) use stamp::Stamp;
pub use system::SystemClock;
pub(crate) use trusted::{Correction, Reading, Timekeeper};

use std::time::{Duration, SystemTime};

/// The wall clock may be behind by so much, and a stored moment ahead, before it is held against them: clocks are set, and
/// drift.
pub(crate) const SLACK: Duration = Duration::from_secs(2 * 60);

/// The two clocks a session reads.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_reauth::Clock;
///
/// struct Frozen;
/// impl Clock for Frozen {
///     fn now(&self) -> SystemTime {
///         SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
///     }
///     fn monotonic(&self) -> Duration {
///         Duration::from_secs(7)
///     }
/// }
/// # fn takes(_: impl Clock) {}
/// # takes(Frozen);
/// ```
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> SystemTime;

    /// A clock that never goes back and counts suspended time. Where it does not count it, offline windows are longer by
    /// the time asleep.
    fn monotonic(&self) -> Duration;

    /// Changes with every start of the machine; `None`: unknown, and `monotonic` means nothing to the next process. Asked
    /// once a session.
    fn boot_id(&self) -> Option<String> {
        None
    }

    /// The mark of trusted time that an earlier process left on this machine, as it was saved; `None`: none, or not kept.
    /// Called when a session is opened, and before each [`save_mark`](Self::save_mark). It may block: neither is called on
    /// a thread of the runtime's that others wait for. After 10 s nobody waits for either any more.
    fn load_mark(&self) -> Option<Vec<u8>> {
        None
    }

    /// Keeps the mark for the next process. Called seldom: when a server has told something new, while a gate is asked once
    /// a minute, and by [`Session::close`](crate::Session::close); the bytes are opaque. Must not fail loudly: no session
    /// fails for want of a mark. It is the machine's: not to be put where another machine would load it.
    fn save_mark(&self, mark: &[u8]) {
        let _ = mark;
    }
}
