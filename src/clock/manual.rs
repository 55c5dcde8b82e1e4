//! [`ManualClock`]: time for tests.

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

    /// Starts the machine again: a new boot id, and the monotonic clock from zero. For sessions opened afterwards, once
    /// those before it have been closed: [`Session::close`](crate::Session::close) keeps the mark.
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
