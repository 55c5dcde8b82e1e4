//! How long to be quiet after a failure (P9), and the breaker for servers that refuse every fresh token (P4). Pure, but
//! for the jitter.

pub(crate) use super::record::LONGEST_RETRY_AFTER;

use super::record::Failure;
use crate::{clock::Stamp, error::AuthError};
use std::{collections::VecDeque, time::Duration};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// Nothing that the user can mend: no use in asking often.
pub(crate) const MISCONFIGURED: Duration = Duration::from_secs(5 * 60);

/// Up to this much, at random.
pub(crate) fn jitter(most: Duration) -> Duration {
    let random = getrandom::u64().unwrap_or(u64::MAX / 2);
    most.mul_f64(random as f64 / u64::MAX as f64)
}

/// The pause after the `count`th failure in a row: 1 s doubling to 60 s, lengthened by up to a half, never shortened.
pub(crate) fn backoff(count: u32) -> Duration {
    let base = FIRST.saturating_mul(2u32.saturating_pow(count.saturating_sub(1))).min(LONGEST);
    base + jitter(base / 2)
}

/// A failed refresh, remembered: until then everybody gets the same error, without an exchange.
#[derive(Clone, Debug)]
pub(crate) struct CoolDown {
    pub(crate) error: AuthError,
    /// On the monotonic clock, which no anchor moves.
    pub(crate) until: Duration,
    /// The end of a server's `Retry-After`, which a reconnection does not shorten.
    pub(crate) told_until: Option<Duration>,
}

impl CoolDown {
    /// What a record remembers, of which `left` is left.
    pub(crate) fn stored(failure: &Failure, left: Duration, error: AuthError, now: Stamp, monotonic: Duration) -> Self {
        let told = failure.told_until.and_then(|end| failure.left(end, now));
        let at = |left: Duration| monotonic.saturating_add(left);
        Self { error, until: at(left), told_until: told.map(at) }
    }

    /// The network is back: only a server's `Retry-After` goes on.
    pub(crate) fn reconnected(&mut self, now: Duration) -> bool {
        self.until = self.told_until.unwrap_or(now).min(self.until);
        self.until > now
    }

    /// The error with what is left, or `None` once it is over.
    pub(crate) fn running(&self, now: Duration) -> Option<AuthError> {
        let left = self.until.saturating_sub(now);
        (!left.is_zero()).then(|| self.error.again_after(left))
    }
}

const REFUSALS: usize = 5;
const WITHIN: Duration = Duration::from_secs(30);
const OPEN: Duration = Duration::from_secs(30);

/// Counts token sets that one origin refused before they expired.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// Epoch and generation of the set, and when.
    refused: VecDeque<((u64, u64), Duration)>,
    open_until: Option<Duration>,
}

/// What the breaker makes of one more refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tripped {
    /// Refresh.
    No,
    /// Deliver the 401; for this much longer.
    Open(Duration),
    /// The same, from now on.
    JustNow(Duration),
}

impl Breaker {
    /// What is left of the pause at `now` (monotonic).
    pub(crate) fn left(&self, now: Duration) -> Option<Duration> {
        self.open_until.map(|until| until.saturating_sub(now)).filter(|left| !left.is_zero())
    }

    /// A fresh token was refused. Each token set counts once.
    pub(crate) fn refuse(&mut self, set: (u64, u64), now: Duration) -> Tripped {
        if let Some(left) = self.left(now) {
            return Tripped::Open(left);
        }
        self.refused.retain(|(_, at)| now.saturating_sub(*at) < WITHIN);
        if !self.refused.iter().any(|(seen, _)| *seen == set) {
            self.refused.push_back((set, now));
        }
        if self.refused.len() < REFUSALS {
            return Tripped::No;
        }
        self.refused.clear();
        self.open_until = Some(now.saturating_add(OPEN));
        Tripped::JustNow(OPEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEC: Duration = Duration::from_secs(1);

    fn set(generation: u64) -> (u64, u64) {
        (2, generation)
    }

    proptest! {
        #[test]
        fn the_pause_grows_and_is_bounded(count in 1u32..) {
            let pause = backoff(count);
            prop_assert!(pause >= SEC.saturating_mul(1 << (count - 1).min(5)).min(LONGEST));
            prop_assert!(pause <= LONGEST * 3 / 2);
        }
    }

    /// P4.
    #[test]
    fn case_07_five_refused_sets_in_30_s_open_the_breaker_for_30_s() {
        let mut breaker = Breaker::default();
        for generation in 1..=4 {
            assert_eq!(breaker.refuse(set(generation), SEC), Tripped::No);
            assert_eq!(breaker.refuse(set(generation), SEC), Tripped::No, "a set counts once");
        }
        assert_eq!(breaker.refuse(set(5), SEC * 2), Tripped::JustNow(OPEN));
        assert_eq!(breaker.refuse(set(5), SEC * 12), Tripped::Open(SEC * 20));
        assert_eq!(breaker.left(SEC * 32), None);
        assert_eq!(breaker.refuse(set(6), SEC * 32), Tripped::No);
    }

    #[test]
    fn slow_refusals_never_open_it() {
        let mut breaker = Breaker::default();
        for generation in 0..100u32 {
            assert_eq!(breaker.refuse(set(generation.into()), SEC * 8 * generation), Tripped::No);
        }
    }
}
