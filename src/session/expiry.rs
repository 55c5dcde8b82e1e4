//! The state turns at the expiry of a token that cannot be renewed.

use super::{inner::Inner, tasks};
use crate::state::{AuthState, Input};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// The state turns when an access token that cannot be renewed expires, also if nobody asks: interfaces watch.
pub(crate) fn watch_expiry(inner: &Arc<Inner>) {
    let Ok(runtime) = tasks::runtime() else { return };
    let start = inner.edit(|edit| !std::mem::replace(&mut edit.desk.expiry_watched, true));
    if start {
        tasks::spawn(&runtime, turn_at_expiry(Watching(Arc::downgrade(inner))));
    }
}

/// However else the task ends, with its runtime say, another one may begin.
struct Watching(Weak<Inner>);

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.edit(|edit| edit.desk.expiry_watched = false);
        }
    }
}

async fn turn_at_expiry(mut watching: Watching) {
    let inner = watching.0.clone();
    loop {
        let left = {
            let Some(inner) = inner.upgrade() else { return };
            inner.turn_if_spent();
            let now = inner.now();
            inner.edit(|edit| {
                let snapshot = edit.snapshot();
                let waits = matches!(snapshot.state, AuthState::Active { .. })
                    && (edit.desk.cool_down.is_some() || snapshot.rejected.is_some() || inner.reach.has_model());
                let end = snapshot.fresh(now).and_then(|access| access.expires_at).filter(|_| waits);
                edit.desk.expiry_watched = end.is_some();
                end.map(|end| end.since(now))
            })
        };
        // Timers and the session's clock need not agree: asked again after each sleep, and not too often.
        let Some(left) = left else {
            watching.0 = Weak::new(); // the flag has fallen already, and may be a successor's by now
            return;
        };
        tokio::time::sleep(left.clamp(Duration::from_secs(1), Duration::from_secs(60))).await;
    }
}

impl Inner {
    /// A spent token that cannot be renewed now moves the state.
    pub(crate) fn turn_if_spent(&self) {
        let (now, mono) = (self.now(), self.monotonic());
        {
            let snapshot = self.snapshot();
            if snapshot.fresh(now).is_some() || !matches!(snapshot.state, AuthState::Active { .. }) {
                return;
            }
        }
        let offline = self.reach.online(&self.config.time) == Some(false);
        self.edit(|edit| {
            let snapshot = edit.snapshot();
            if snapshot.fresh(now).is_some() {
                return;
            }
            if let Some(cause) = snapshot.rejected {
                edit.input(Input::Rejected { cause, usable: false });
            } else if offline || edit.desk.cool_down.as_ref().is_some_and(|pause| pause.until > mono) {
                edit.input(Input::OutOfReach { now: now.system() });
            }
        });
    }
}
