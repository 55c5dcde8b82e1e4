//! The one file that starts tasks: flights, keepers, farewells and timers, all detached, and counted where `close` has to
//! wait for them.

use super::sync::{AbortHandle, Runtime};
use crate::error::AuthError;
use std::{panic::catch_unwind, time::Duration};
use tokio::sync::watch;

/// The runtime of the caller. Without one nothing can be refreshed: a bug in the set-up, not a panic.
pub(crate) fn runtime() -> Result<Runtime, AuthError> {
    let runtime =
        Runtime::try_current().map_err(|_| AuthError::misconfigured("a session needs a tokio runtime around it"))?;
    // tokio tells only by a panic whether there is a timer.
    match catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))) {
        Ok(()) => Ok(runtime),
        Err(_) => Err(AuthError::misconfigured("a session needs a tokio runtime with its timer: `enable_time()`")),
    }
}

/// Starts a task that nobody can cancel but the end of the runtime.
#[allow(clippy::disallowed_methods)] // this is the file that starts tasks
pub(crate) fn spawn(runtime: &Runtime, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    runtime.spawn(task).abort_handle()
}

/// Begins work that blocks, off the async threads; `None`: it panicked, or its runtime ended before it began.
pub(crate) fn blocking<T, W>(runtime: &Runtime, work: W) -> impl Future<Output = Option<T>> + use<T, W>
where
    T: Send + 'static,
    W: FnOnce() -> T + Send + 'static,
{
    #[allow(clippy::disallowed_methods)] // this is the file that starts tasks
    let task = runtime.spawn_blocking(work);
    async { task.await.ok() }
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
