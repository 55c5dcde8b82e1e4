//! What a session is made of.

use super::snapshot::Windows;
use crate::{
    account::AccountId,
    clock::{Correction, Timekeeper},
    event::Observer,
    failure::FailureClassifier,
    offline::{Connectivity, DynStepUp, OfflineGate},
    refresher::SharedRefresher,
    state::LockCause,
};
use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

pub(crate) type OnWipe = Box<dyn Fn(&AccountId) + Send + Sync>;
pub(crate) type OnLock = Box<dyn Fn(&AccountId, LockCause) + Send + Sync>;

/// What a session is made of; the same for every account of one builder.
pub(crate) struct Config {
    pub(crate) refresher: SharedRefresher,
    /// `!needs_refresh_token()`: a session without tokens is not signed out.
    pub(crate) self_starting: bool,
    /// The token endpoint, if the refresher names one: requests to it never get a token.
    pub(crate) endpoint: Option<http::Uri>,
    /// `None`: everything is allowed that has, or may get, a token.
    pub(crate) gate: Option<Box<dyn OfflineGate>>,
    /// `None`: a step-up that is required is denied.
    pub(crate) step_up: Option<Box<dyn DynStepUp>>,
    /// What the platform says. What servers say against it, each session hears for itself.
    pub(crate) connectivity: Option<Arc<dyn Connectivity>>,
    pub(crate) time: Timekeeper,
    pub(crate) observers: Vec<Box<dyn Observer>>,
    pub(crate) classifier: FailureClassifier,
    pub(crate) windows: Windows,
    pub(crate) refresh_timeout: Duration,
    pub(crate) journal: bool,
    pub(crate) background_refresh: bool,
    pub(crate) persist_access_token: bool,
    pub(crate) on_wipe: Vec<OnWipe>,
    pub(crate) on_lock: Vec<OnLock>,
    /// The sessions of this clock.
    pub(crate) readers: Mutex<Vec<Weak<dyn Reader>>>,
}

/// Has written down what the clock said.
pub(crate) trait Reader: Send + Sync {
    fn correct(&self, correction: &Correction);
}

impl Config {
    pub(crate) fn enlist(&self, reader: Weak<dyn Reader>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() == readers.capacity() {
            readers.retain(|reader| reader.strong_count() > 0);
        }
        readers.push(reader);
    }

    /// What was written down by a clock that was wrong is corrected.
    pub(crate) fn correct(&self, correction: &Correction) {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        readers.iter().filter_map(Weak::upgrade).for_each(|reader| reader.correct(correction));
    }

    /// The term of a lease, and of a journal: a refresh, and the store calls around it.
    pub(crate) fn term(&self) -> Duration {
        self.refresh_timeout.saturating_add(Duration::from_secs(15))
    }
}
