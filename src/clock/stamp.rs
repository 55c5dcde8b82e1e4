//! [`Stamp`]: a moment of trusted time.

use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment of trusted time: microseconds since 1970. Arithmetic saturates; none of it can panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Stamp(pub(super) i64);

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

    /// Between 2000 and 9999: what a clock that was ever set can say.
    pub(super) fn is_plausible(self) -> bool {
        const YEAR_2000: i64 = 946_684_800_000_000;
        const YEAR_10000: i64 = 253_402_300_800_000_000;
        (YEAR_2000..YEAR_10000).contains(&self.0)
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

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_on_time_never_panics() {
        for stamp in [Stamp(i64::MIN), Stamp(0), Stamp::NEVER] {
            let _ = (stamp.plus(Duration::MAX), stamp.minus(Duration::MAX), stamp.system(), stamp.is_plausible());
            let _ = (stamp.since(Stamp(i64::MIN)), Stamp(i64::MIN).since(stamp));
        }
        let moment = UNIX_EPOCH + Duration::from_secs(5);
        assert_eq!(Stamp::from(moment).system(), moment);
    }

    #[test]
    fn a_clock_that_was_never_set_is_not_plausible() {
        let at = |text: &str| Stamp::from(httpdate::parse_http_date(text).unwrap());
        assert!(!at("Thu, 01 Jan 1970 00:00:12 GMT").is_plausible());
        assert!(!at("Fri, 31 Dec 1999 23:59:59 GMT").is_plausible());
        assert!(at("Sat, 01 Jan 2000 00:00:00 GMT").is_plausible());
        assert!(at("Fri, 31 Dec 9999 23:59:59 GMT").is_plausible());
        assert!(!at("Fri, 31 Dec 9999 23:59:59 GMT").plus(Duration::from_secs(1)).is_plausible());
    }
}
