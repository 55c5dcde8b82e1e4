//! What lies on a session's desk: everything that is needed off the hot path only, under one mutex.

use super::{
    config::Config,
    cooldown::{Breaker, CoolDown},
};
use crate::{clock::Stamp, error::AuthError, event::AuthEvent, state::LockCause, store::SharedLease};
use futures_util::future::{Map, Shared};
use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// What is needed off the hot path only.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) flight: Option<Flight>,
    pub(crate) flights: u64,
    pub(crate) cool_down: Option<CoolDown>,
    /// Transient failures in a row.
    pub(crate) failures: u32,
    /// Backoffs that were written down before this moment are over.
    pub(crate) forgiven: Option<Stamp>,
    pub(crate) breakers: HashMap<String, Breaker>,
    /// Holds tokens that could not be saved yet, and their lease.
    pub(crate) keepers: Vec<KeeperHandle>,
    /// The user is being asked for a step-up.
    pub(crate) prompt: Option<Prompt>,
    pub(crate) prompts: u64,
    /// The last prompt was refused.
    pub(crate) refusal: Option<Refusal>,
    /// Counts sign-outs and locks: a sign-in that was called before one does not undo it.
    pub(crate) departures: u64,
    /// The kind of the last one.
    pub(crate) departed: Option<Departure>,
    /// Counts sign-ins of this process that chose their epoch: a departure that was called before one does not end it.
    pub(crate) arrivals: u64,
    /// A sign-out or lock whose tombstone is not written yet.
    pub(crate) farewell: Option<Farewell>,
    /// When a dead session may look into the store again (monotonic), and how often it did in vain.
    pub(crate) look_at: Duration,
    pub(crate) looks: u32,
    /// A timer waits for the expiry of an access token that cannot be refreshed.
    pub(crate) expiry_watched: bool,
    pub(crate) events: VecDeque<AuthEvent>,
    /// Somebody hands events to the observers.
    pub(crate) telling: bool,
}

// ===== the flight in the air =====

pub(crate) type Outcome = Result<(), AuthError>;

pub(crate) type Received = Result<Outcome, oneshot::error::RecvError>;

/// The end of a flight: cheap to clone, cancel-safe, one wake-up per waiter.
pub(crate) type Landing = Shared<Map<oneshot::Receiver<Outcome>, fn(Received) -> Outcome>>;

/// The flight in the air.
pub(crate) struct Flight {
    pub(crate) number: u64,
    pub(crate) epoch: u64,
    /// It looks into the store only.
    pub(crate) look: bool,
    pub(crate) landing: Landing,
    /// Wakes the waiters, once.
    pub(crate) tx: oneshot::Sender<Outcome>,
}

// ===== the prompt =====

/// What those who wait for a prompt are told: what the answer was is seen by the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prompted {
    /// The user has answered, in one way or another. Whoever has waited for that is not prompted for again.
    Answered,
    /// The epoch has ended that it was for.
    Overtaken,
}

/// The end of a prompt, as [`Landing`] is of a flight.
pub(crate) type Answer =
    Shared<Map<oneshot::Receiver<Prompted>, fn(Result<Prompted, oneshot::error::RecvError>) -> Prompted>>;

/// A prompt that is open. Dropped, it closes: its task sees the end of `open`.
pub(crate) struct Prompt {
    pub(crate) number: u64,
    pub(crate) epoch: u64,
    pub(crate) answer: Answer,
    /// Wakes those who wait, once.
    pub(crate) tx: oneshot::Sender<Prompted>,
    pub(crate) _open: oneshot::Sender<Infallible>,
}

/// A prompt of this epoch that was refused.
pub(crate) struct Refusal {
    /// Until when nobody is asked again (monotonic).
    pub(crate) until: Duration,
    pub(crate) error: AuthError,
}

// ===== what a task is a part of =====

/// Work of a session that what it does itself must not wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Exchange,
    Prompt,
}

/// What a task is a part of, the outermost first.
pub(crate) type Within = Vec<Part>;

/// Work of a session, which is known by its owner; its accounts' other sessions share its configuration.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) owner: String,
    pub(crate) config: Arc<Config>,
    pub(crate) work: Work,
}

// ===== tokens that could not be saved =====

/// `Ok`: nothing is unsaved any more; the lease goes to whoever asked.
pub(crate) type Settled = Result<Option<SharedLease>, AuthError>;

/// A request to a keeper, with the lease if the one who asks has it.
pub(crate) struct SaveNow {
    pub(crate) lease: Option<SharedLease>,
    pub(crate) reply: oneshot::Sender<Settled>,
}

/// The way to a keeper.
#[derive(Clone)]
pub(crate) struct KeeperHandle {
    pub(crate) number: u64,
    pub(crate) ask: mpsc::Sender<SaveNow>,
}

// ===== the end of a session =====

/// What a sign-out leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignOut {
    /// Tokens go, the profile stays.
    Soft,
    /// The record goes too, and `on_wipe` is called.
    Hard,
}

/// The ways a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    SignOut(SignOut),
    Lock(LockCause),
}

/// A departure whose tombstone is not written yet: whoever holds the lease next writes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Farewell {
    pub(crate) epoch: u64,
    pub(crate) departure: Departure,
}
