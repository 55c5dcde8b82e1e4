//! A step-up prompt that a test answers, and a gate that wants it.
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::oneshot;
use tower_reauth::{BoxError, Capability, DenyReason, OfflineGate, StepUp, gate_fn};

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);

type Answer = Result<Duration, BoxError>;

/// The dialog: what it was shown for, and whether it is open.
#[derive(Clone, Default)]
pub struct Pin {
    shown: Arc<Mutex<Vec<String>>>,
    open: Arc<AtomicUsize>,
    waits: Arc<Mutex<Option<oneshot::Sender<Answer>>>>,
}

impl Pin {
    /// What it was shown for, from first to last.
    pub fn shown(&self) -> Vec<String> {
        self.shown.lock().unwrap().clone()
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// The user answers; `false`: there is no dialog.
    pub fn answer(&self, answer: Result<Duration, &'static str>) -> bool {
        let waiting = self.waits.lock().unwrap().take();
        waiting.is_some_and(|waiting| waiting.send(answer.map_err(Into::into)).is_ok())
    }

    /// The dialog falls over.
    pub fn crash(&self) {
        drop(self.waits.lock().unwrap().take());
    }

    /// The tasks have had their turn.
    pub async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl StepUp for Pin {
    async fn prompt(&self, capability: Capability) -> Answer {
        self.shown.lock().unwrap().push(capability.to_string());
        self.open.fetch_add(1, Relaxed);
        let _open = Open(self.open.clone());
        let (tx, rx) = oneshot::channel();
        *self.waits.lock().unwrap() = Some(tx);
        rx.await.expect("a prompt that panics")
    }
}

/// A step-up within 12 hours; for `approve` within 5 minutes; for `read` none; for `never` no step-up is enough.
pub fn unlocked() -> impl OfflineGate {
    gate_fn(|cx| {
        let limit = match cx.capability().as_str() {
            "read" => return Ok(()),
            "approve" => 5 * MINUTE,
            "never" => return Err(cx.deny(DenyReason::StepUpRequired)),
            _ => 12 * HOUR,
        };
        match cx.since_step_up() {
            Some(age) if age <= limit => Ok(()),
            _ => Err(cx.deny(DenyReason::StepUpRequired)),
        }
    })
}
