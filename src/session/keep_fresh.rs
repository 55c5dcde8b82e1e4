//! [`KeepFresh`]: refreshes ahead of need, also when nobody asks.

use super::{flight::Want, inner::Inner, sync::AbortHandle, tasks};
use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

/// Keeps the session fresh until it is dropped. Outlives failures and sign-outs: it waits, and goes on.
#[must_use = "dropping it stops the task"]
pub struct KeepFresh(Option<AbortHandle>);

impl fmt::Debug for KeepFresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepFresh").finish_non_exhaustive()
    }
}

impl Drop for KeepFresh {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort(); // a flight that it started goes on
        }
    }
}

impl KeepFresh {
    pub(crate) fn start(inner: &Arc<Inner>) -> Self {
        let Ok(runtime) = tasks::runtime() else { return Self(None) };
        Self(Some(tasks::spawn(&runtime, keep_fresh(Arc::downgrade(inner)))))
    }
}

/// The shortest and the longest sleep: clocks are asked again after each.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

async fn keep_fresh(inner: Weak<Inner>) {
    loop {
        let Some(session) = inner.upgrade() else { return };
        let mut states = session.states.subscribe();
        let now = session.now();
        let (due, held) = {
            let snapshot = session.snapshot();
            (snapshot.fresh(now).map_or(now, |access| access.soft_at), snapshot.token_id())
        };
        let offline = session.reach.online(&session.config.time) == Some(false);
        let mut pause = due.since(now);
        if pause.is_zero() && !offline {
            pause = match session.join(Want::InsteadOf(held)) {
                Ok(landing) => {
                    let _ = landing.await;
                    Duration::ZERO
                }
                Err(error) => error.retry_after().unwrap_or(LONGEST),
            };
        }
        drop(session);
        // A sign-in, a sign-out or a failure ends the sleep early.
        let _ = tokio::time::timeout(pause.clamp(SHORTEST, LONGEST), states.changed()).await;
    }
}
