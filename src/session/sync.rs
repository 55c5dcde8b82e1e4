//! What stands between the threads of a session. The model check (`model/`) has a file of its own in place of this one,
//! and so runs everything else as it is.

pub(crate) use std::sync::{Mutex, MutexGuard};
pub(crate) use tokio::{runtime::Handle as Runtime, task::AbortHandle};

use super::desk::Within;
use std::sync::Arc;

tokio::task_local! {
    /// What this task is a part of.
    pub(crate) static WITHIN: Arc<Within>;
}

/// Others may come in between here, though there is no lock: the model check lets them.
#[inline(always)]
pub(crate) const fn point() {}
