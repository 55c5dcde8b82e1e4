//! The pause between two attempts to get a lease.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(100);

/// 5 ms doubling to 100 ms, shortened by up to a half at random: those who wait do not come all at once.
#[derive(Debug)]
pub(super) struct Poll(Duration);

impl Poll {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    pub(super) async fn pause(&mut self) {
        let random = getrandom::u64().unwrap_or(u64::MAX / 2) as f64 / u64::MAX as f64;
        tokio::time::sleep(self.0.mul_f64(1.0 - random / 2.0)).await;
        self.0 = (self.0 * 2).min(LONGEST);
    }
}
