//! What is known about the network: the platform's word, and what servers answered.

use crate::clock::Timekeeper;
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// What the platform says about the network. Asked for each request; must answer at once.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
/// use tower_reauth::Connectivity;
///
/// let up = Arc::new(AtomicBool::new(true));
/// let model = move || Some(up.load(Ordering::Relaxed)); // closures are models
/// assert_eq!(model.is_online(), Some(true));
/// ```
pub trait Connectivity: Send + Sync + 'static {
    /// `None`: unknown, which counts as online.
    fn is_online(&self) -> Option<bool>;
}

impl<F: Fn() -> Option<bool> + Send + Sync + 'static> Connectivity for F {
    fn is_online(&self) -> Option<bool> {
        self()
    }
}

/// An answer of a server outranks a model that says "offline" for this long.
const ANSWER_COUNTS: Duration = Duration::from_secs(60);
/// A model that says "offline" does not stop one flight in this time.
const PROBE_EVERY: Duration = Duration::from_secs(15 * 60);

/// The model, and what servers say against it: to one account, so that what fails for it keeps no other from the network
/// (P12). Without a model it costs nothing.
pub(crate) struct Reachability {
    model: Option<Arc<dyn Connectivity>>,
    /// Until when (monotonic, in microseconds) an answer outranks the model.
    answered_until: AtomicU64,
    /// When the next flight may start although the model says "offline"; 0: it says otherwise.
    probe_at: AtomicU64,
}

impl fmt::Debug for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reachability").field("model", &self.model.is_some()).finish_non_exhaustive()
    }
}

impl Reachability {
    pub(crate) fn new(model: Option<Arc<dyn Connectivity>>) -> Self {
        Self { model, answered_until: AtomicU64::new(0), probe_at: AtomicU64::new(0) }
    }

    /// Whether the platform has a say: then a session can go stale without a failed refresh.
    pub(crate) fn has_model(&self) -> bool {
        self.model.is_some()
    }

    fn model_says(&self) -> Option<bool> {
        // It is asked in the middle of a refresh too: one that panics knows nothing.
        self.model.as_ref().and_then(|model| catch_unwind(AssertUnwindSafe(|| model.is_online())).unwrap_or(None))
    }

    /// Online, offline, or unknown.
    pub(crate) fn online(&self, time: &Timekeeper) -> Option<bool> {
        match self.model_says() {
            Some(false) if self.answered_until.load(Ordering::Relaxed) > micros(time.monotonic()) => Some(true),
            Some(false) => Some(false),
            known => {
                if self.model.is_some() {
                    self.answered_until.store(0, Ordering::Relaxed);
                    self.probe_at.store(0, Ordering::Relaxed);
                }
                known
            }
        }
    }

    /// A server answered.
    pub(crate) fn answered(&self, time: &Timekeeper) {
        if self.model_says() == Some(false) {
            let until = time.monotonic().saturating_add(ANSWER_COUNTS);
            self.answered_until.store(micros(until), Ordering::Relaxed);
        }
    }

    /// Nobody answered: what was said against the model no longer counts.
    pub(crate) fn unanswered(&self) {
        if self.model.is_some() {
            self.answered_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a request that needs a token may start a flight now. While the model says "offline", one may every
    /// quarter of an hour, counted from when "offline" was first seen.
    pub(crate) fn may_fly(&self, time: &Timekeeper) -> bool {
        if self.online(time) != Some(false) {
            return true;
        }
        let now = micros(time.monotonic());
        let next = now.saturating_add(micros(PROBE_EVERY)).max(1);
        let due = self.probe_at.load(Ordering::Relaxed);
        if due != 0 && now < due {
            return false;
        }
        // Whoever moves the mark flies; the first to see "offline" only sets it.
        self.probe_at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && due != 0
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicI8, Ordering},
        },
        time::SystemTime,
    };

    fn rig() -> (ManualClock, Timekeeper, Arc<AtomicI8>, Reachability) {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let says = Arc::new(AtomicI8::new(0));
        let model = {
            let says = says.clone();
            move || match says.load(Ordering::Relaxed) {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            }
        };
        (clock.clone(), Timekeeper::new(Arc::new(clock)), says, Reachability::new(Some(Arc::new(model))))
    }

    #[test]
    fn a_model_that_says_offline_does_not_stop_one_flight_every_15_minutes() {
        let (clock, time, says, reach) = rig();
        assert!(!reach.may_fly(&time));
        clock.advance(PROBE_EVERY - Duration::from_secs(1));
        assert!(!reach.may_fly(&time));
        clock.advance(Duration::from_secs(1));
        assert!(reach.may_fly(&time));
        assert!(!reach.may_fly(&time));
        says.store(1, Ordering::Relaxed);
        assert!(reach.may_fly(&time));
        says.store(0, Ordering::Relaxed);
        clock.advance(PROBE_EVERY);
        assert!(!reach.may_fly(&time), "a new spell of being offline counts anew");
    }

    #[test]
    fn an_answer_outranks_the_model_until_nobody_answers() {
        let (clock, time, says, reach) = rig();
        reach.answered(&time);
        assert_eq!(reach.online(&time), Some(true));
        reach.unanswered();
        assert_eq!(reach.online(&time), Some(false));
        reach.answered(&time);
        clock.advance(ANSWER_COUNTS);
        assert_eq!(reach.online(&time), Some(false));
        says.store(2, Ordering::Relaxed);
        assert_eq!(reach.online(&time), None);
    }
}
