//! The clocks that a session reads, and the trusted time that it makes of them.
//!
//! Trusted time follows the server: an *anchor* (the `Date` of a token endpoint's answer) ties it to the machine's
//! suspend-counting clock, which nobody can set. Without an anchor it is the wall clock. Turning the wall clock back or
//! forward therefore changes nothing once a token endpoint has answered.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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

    /// A clock that never goes back and counts suspended time.
    fn monotonic(&self) -> Duration;

    /// Changes with every start of the machine; `None`: unknown, and `monotonic` means nothing to the next process.
    fn boot_id(&self) -> Option<String> {
        None
    }

    /// The mark of trusted time that an earlier process left on this machine; `None`: none, or not kept.
    fn load_mark(&self) -> Option<Vec<u8>> {
        None
    }

    /// Keeps the mark for the next process. Called seldom; must not fail loudly.
    fn save_mark(&self, mark: &[u8]) {
        let _ = mark;
    }
}

/// The machine's clocks: the wall clock, and the one that counts suspended time (`CLOCK_BOOTTIME` on Linux).
///
/// ```
/// use tower_reauth::{Clock, SystemClock};
///
/// let clock = SystemClock::new();
/// assert!(clock.monotonic() <= clock.monotonic());
/// ```
#[derive(Clone, Debug, Default)]
pub struct SystemClock(());

impl SystemClock {
    /// The machine's clocks.
    pub const fn new() -> Self {
        Self(())
    }
}

#[allow(clippy::disallowed_methods, clippy::disallowed_types)] // the one place that reads the machine's clocks
impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    #[cfg(unix)]
    fn monotonic(&self) -> Duration {
        use rustix::time::{ClockId, clock_gettime};
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let id = ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let id = ClockId::Monotonic;
        let time = clock_gettime(id);
        Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
    }

    #[cfg(not(unix))]
    fn monotonic(&self) -> Duration {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }

    fn boot_id(&self) -> Option<String> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned())
    }
}

/// A moment of trusted time: microseconds since 1970. Arithmetic saturates; none of it can panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Stamp(i64);

impl Stamp {
    pub(crate) const NEVER: Self = Self(i64::MAX);

    pub(crate) fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    pub(crate) fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }

    /// Zero if `earlier` is the later one.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    pub(crate) fn system(self) -> SystemTime {
        let distance = Duration::from_micros(self.0.unsigned_abs());
        let moment = if self.0 < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
        moment.unwrap_or(UNIX_EPOCH)
    }
}

impl From<SystemTime> for Stamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(micros(after)),
            Err(before) => Self(-micros(before.duration())),
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Without an anchor: no time lies this far from the monotonic clock.
const UNANCHORED: i64 = i64::MIN;
/// `Date` has whole seconds, and nobody knows at which end of the round trip it was written.
const NOISE: Duration = Duration::from_secs(2);
/// A `Date` that took longer to arrive says little about now.
const STALE: Duration = Duration::from_secs(10);

/// Trusted time. Reading it takes one clock and one atomic load.
pub(crate) struct Timekeeper {
    clock: Arc<dyn Clock>,
    /// Trusted time less the monotonic clock, in microseconds.
    offset: AtomicI64,
}

impl fmt::Debug for Timekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timekeeper").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Timekeeper {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, offset: AtomicI64::new(UNANCHORED) }
    }

    pub(crate) fn now(&self) -> Stamp {
        match self.offset.load(Ordering::Relaxed) {
            UNANCHORED => self.clock.now().into(),
            offset => Stamp(offset.saturating_add(micros(self.clock.monotonic()))),
        }
    }

    pub(crate) fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// A token endpoint's `Date`, in the answer to what was asked at `asked` (monotonic). It replaces what was believed.
    pub(crate) fn anchor(&self, date: SystemTime, asked: Duration) {
        let (now, half) = (self.now(), self.round_trip(asked) / 2);
        let told = Stamp::from(date).plus(half);
        let noise = NOISE.saturating_add(half);
        let off = told.since(now).max(now.since(told));
        self.set(if off <= noise { now } else { told });
    }

    /// A resource server's `Date`, in the answer to what left at `left`: a lower bound, and only if it is recent.
    pub(crate) fn at_least(&self, date: SystemTime, left: Stamp) {
        let told = Stamp::from(date);
        if told <= left.plus(NOISE) {
            return; // nearly always: not worth a look at the clock
        }
        let now = self.now();
        let trip = now.since(left);
        if trip <= STALE && told.since(now) > NOISE.saturating_add(trip / 2) {
            self.set(told);
        }
    }

    fn round_trip(&self, asked: Duration) -> Duration {
        self.clock.monotonic().saturating_sub(asked)
    }

    fn set(&self, now: Stamp) {
        let offset = now.0.saturating_sub(micros(self.clock.monotonic())).max(UNANCHORED + 1);
        self.offset.store(offset, Ordering::Relaxed);
    }
}

#[cfg(feature = "test-util")]
pub use manual::ManualClock;

#[cfg(feature = "test-util")]
mod manual {
    use super::Clock;
    use std::{
        sync::{Arc, Mutex, PoisonError},
        time::{Duration, SystemTime},
    };

    /// A clock that stands still until a test moves it; clones share one time, the mark included.
    ///
    /// It does not move tokio's timers: what is *compared* reads this clock, what is *waited for* sleeps on tokio's.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use tower_reauth::{Clock, ManualClock};
    ///
    /// let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
    /// clock.advance(Duration::from_secs(60));
    /// assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(60));
    /// clock.set_wall(SystemTime::UNIX_EPOCH); // as a user would: the monotonic clock goes on
    /// assert_eq!(clock.monotonic(), Duration::from_secs(60));
    /// ```
    #[derive(Clone, Debug)]
    pub struct ManualClock(Arc<Mutex<State>>);

    #[derive(Debug)]
    struct State {
        wall: SystemTime,
        monotonic: Duration,
        boots: u64,
        mark: Option<Vec<u8>>,
    }

    impl ManualClock {
        /// Starts at `wall`.
        pub fn new(wall: SystemTime) -> Self {
            Self(Arc::new(Mutex::new(State { wall, monotonic: Duration::ZERO, boots: 0, mark: None })))
        }

        /// Moves both clocks.
        pub fn advance(&self, by: Duration) {
            self.with(|state| {
                state.wall = state.wall.checked_add(by).unwrap_or(state.wall);
                state.monotonic = state.monotonic.saturating_add(by);
            });
        }

        /// Sets the wall clock alone, as a user would.
        pub fn set_wall(&self, to: SystemTime) {
            self.with(|state| state.wall = to);
        }

        /// Starts the machine again: a new boot id, and the monotonic clock from zero. For sessions opened afterwards.
        pub fn reboot(&self) {
            self.with(|state| {
                state.boots += 1;
                state.monotonic = Duration::ZERO;
            });
        }

        fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
            f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> SystemTime {
            self.with(|state| state.wall)
        }

        fn monotonic(&self) -> Duration {
            self.with(|state| state.monotonic)
        }

        fn boot_id(&self) -> Option<String> {
            self.with(|state| Some(format!("boot-{}", state.boots)))
        }

        fn load_mark(&self) -> Option<Vec<u8>> {
            self.with(|state| state.mark.clone())
        }

        fn save_mark(&self, mark: &[u8]) {
            self.with(|state| state.mark = Some(mark.to_vec()));
        }
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    fn wall(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn keeper() -> (ManualClock, Timekeeper) {
        let clock = ManualClock::new(wall(10_000));
        clock.advance(500 * SEC); // 10 500 on the wall
        (clock.clone(), Timekeeper::new(Arc::new(clock)))
    }

    /// P15.
    #[test]
    fn once_anchored_the_wall_clock_moves_nothing() {
        let (clock, time) = keeper();
        assert_eq!(time.now(), wall(10_500).into());
        time.anchor(wall(20_000), clock.monotonic());
        assert_eq!(time.now(), wall(20_000).into());
        clock.set_wall(wall(1));
        clock.advance(60 * SEC);
        assert_eq!(time.now(), wall(20_060).into());
    }

    #[test]
    fn an_anchor_heals_a_bogus_future_and_small_offsets_are_noise() {
        let (clock, time) = keeper();
        time.anchor(wall(10 * 31_536_000), clock.monotonic());
        time.anchor(wall(10_500), clock.monotonic());
        assert_eq!(time.now(), wall(10_500).into());
        time.anchor(wall(10_502), clock.monotonic());
        assert_eq!(time.now(), wall(10_500).into());
    }

    #[test]
    fn a_resource_servers_date_only_moves_forward_and_only_if_recent() {
        let (_clock, time) = keeper();
        time.at_least(wall(9_000), time.now());
        assert_eq!(time.now(), wall(10_500).into());
        time.at_least(wall(11_000), time.now().minus(11 * SEC));
        assert_eq!(time.now(), wall(10_500).into());
        time.at_least(wall(11_000), time.now());
        assert_eq!(time.now(), wall(11_000).into());
    }

    #[test]
    fn arithmetic_on_time_never_panics() {
        for stamp in [Stamp(i64::MIN), Stamp(0), Stamp::NEVER] {
            let _ = (stamp.plus(Duration::MAX), stamp.minus(Duration::MAX), stamp.system());
            let _ = (stamp.since(Stamp(i64::MIN)), Stamp(i64::MIN).since(stamp));
        }
        assert_eq!(Stamp::from(wall(5)).system(), wall(5));
    }
}
