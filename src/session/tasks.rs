//! The one file that starts tasks: flights, keepers, farewells and timers, all detached.

use super::inner::Inner;
use crate::{
    error::AuthError,
    state::{AuthState, Input},
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

/// The runtime of the caller. Without one nothing can be refreshed: a bug in the set-up, not a panic.
pub(crate) fn runtime() -> Result<Handle, AuthError> {
    Handle::try_current().map_err(|_| AuthError::misconfigured("a session needs a tokio runtime around it"))
}

/// Starts a task that nobody can cancel but the end of the runtime.
#[allow(clippy::disallowed_methods)] // this is the file that starts tasks
pub(crate) fn spawn(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    runtime.spawn(task).abort_handle()
}

/// Counts the detached work that [`close`](crate::Session::close) waits for.
#[derive(Debug, Default)]
pub(crate) struct Jobs(watch::Sender<usize>);

/// Work that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Job(watch::Sender<usize>);

impl Jobs {
    pub(crate) fn start(&self) -> Job {
        self.0.send_modify(|running| *running += 1);
        Job(self.0.clone())
    }

    pub(crate) async fn idle(&self) {
        let _ = self.0.subscribe().wait_for(|running| *running == 0).await;
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

/// The state turns when an access token that cannot be renewed expires, also if nobody asks: interfaces watch.
pub(crate) fn watch_expiry(inner: &Arc<Inner>) {
    let Ok(runtime) = runtime() else { return };
    let start = inner.edit(|edit| !std::mem::replace(&mut edit.desk.expiry_watched, true));
    if start {
        spawn(&runtime, turn_at_expiry(Arc::downgrade(inner)));
    }
}

async fn turn_at_expiry(inner: Weak<Inner>) {
    loop {
        let left = {
            let Some(inner) = inner.upgrade() else { return };
            inner.turn_if_spent();
            let now = inner.now();
            inner.edit(|edit| {
                let snapshot = edit.snapshot();
                let waits = matches!(snapshot.state, AuthState::Active { .. })
                    && (edit.desk.cool_down.is_some() || snapshot.rejected.is_some());
                let end = snapshot.fresh(now).and_then(|access| access.expires_at).filter(|_| waits);
                edit.desk.expiry_watched = end.is_some();
                end.map(|end| end.since(now))
            })
        };
        // Timers and the session's clock need not agree: asked again after each sleep, and not too often.
        let Some(left) = left else { return };
        tokio::time::sleep(left.max(Duration::from_secs(1))).await;
    }
}

impl Inner {
    /// A spent token that cannot be renewed now moves the state.
    pub(crate) fn turn_if_spent(&self) {
        let now = self.now();
        {
            let snapshot = self.snapshot();
            if snapshot.fresh(now).is_some() || !matches!(snapshot.state, AuthState::Active { .. }) {
                return;
            }
        }
        let offline = self.config.reach.online(&self.config.time) == Some(false);
        self.edit(|edit| {
            let snapshot = edit.snapshot();
            if snapshot.fresh(now).is_some() {
                return;
            }
            if let Some(cause) = snapshot.rejected {
                edit.input(Input::Rejected { cause, usable: false });
            } else if offline || edit.desk.cool_down.is_some() {
                edit.input(Input::OutOfReach { now: now.system() });
            }
        });
    }
}
