//! What all clones of a session share, and the one place where it changes.

use super::{
    config::Config,
    desk::{Desk, Flight, Prompt, Prompted},
    record::Record,
    snapshot::{Access, Snapshot},
    sync::{self, Mutex, MutexGuard},
    tasks::Jobs,
    vault::Vault,
};
use crate::{
    account::AccountId,
    clock::{Correction, Reading, Stamp},
    error::{AuthError, ErrorKind},
    event::AuthEvent,
    offline::{self, Reachability},
    state::{self, AuthState, Input, SignedOutCause},
};
use arc_swap::ArcSwap;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// One account.
pub(crate) struct Inner {
    pub(crate) id: AccountId,
    pub(crate) config: Arc<Config>,
    pub(crate) vault: Vault,
    pub(crate) reach: Reachability,
    /// This session in this process, as journals name it.
    pub(crate) owner: String,
    pub(crate) states: watch::Sender<AuthState>,
    pub(crate) jobs: Jobs,
    /// Whoever holds it shows a prompt.
    pub(crate) screen: tokio::sync::Mutex<()>,
    snapshot: ArcSwap<Snapshot>,
    desk: Mutex<Desk>,
}

impl Inner {
    pub(crate) fn new(config: Arc<Config>, vault: Vault, owner: String, snapshot: Snapshot) -> Self {
        Self {
            id: vault.account().clone(),
            reach: Reachability::new(config.connectivity.clone()),
            config,
            vault,
            owner,
            states: watch::Sender::new(snapshot.state.clone()),
            jobs: Jobs::default(),
            screen: tokio::sync::Mutex::default(),
            snapshot: ArcSwap::from_pointee(snapshot),
            desk: Mutex::default(),
        }
    }

    /// What requests read: no lock, no reference count.
    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        sync::point();
        self.snapshot.load()
    }

    pub(crate) fn now(&self) -> Stamp {
        self.config.time.now()
    }

    pub(crate) fn reading(&self) -> Reading {
        self.config.time.read()
    }

    pub(crate) fn monotonic(&self) -> Duration {
        self.config.time.monotonic()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Nothing under this lock leaves it half-way: a panic there (in a clock, say) poisons nothing.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one way to change a session: under the lock, with what follows from it (the state stream, the events) in order.
    pub(crate) fn edit<T>(&self, f: impl FnOnce(&mut Edit<'_>) -> T) -> T {
        let mut desk = self.desk();
        let mut edit = Edit { inner: self, desk: &mut desk, now: None, ended: None, landed: None, overtaken: None };
        let out = f(&mut edit);
        let (ended, landed, overtaken) = (edit.ended.take(), edit.landed.take(), edit.overtaken.take());
        if let Some(snapshot) = edit.now.take() {
            let state = snapshot.state.clone();
            self.snapshot.store(Arc::new(snapshot));
            sync::point();
            if *self.states.borrow() != state {
                self.states.send_replace(state.clone());
                desk.events.push_back(AuthEvent::StateChanged { account: self.id.clone(), state });
            }
        }
        drop(desk);
        if let Some(flight) = landed {
            let _ = flight.tx.send(Ok(()));
        }
        if let Some(flight) = ended {
            let found = flight.look && !self.snapshot().is_dead();
            let _ = flight.tx.send(if found { Ok(()) } else { Err(self.ended()) });
        }
        if let Some(prompt) = overtaken {
            let _ = prompt.tx.send(Prompted::Overtaken);
        }
        self.tell();
        out
    }

    /// For events that change nothing.
    pub(crate) fn event(&self, event: AuthEvent) {
        if !self.config.observers.is_empty() {
            self.desk().events.push_back(event);
            self.tell();
        }
    }

    /// Hands events to the observers, in order and without the lock: an observer may ask the session.
    fn tell(&self) {
        loop {
            let event = {
                let mut desk = self.desk();
                if desk.telling {
                    return; // whoever tells goes on until there is nothing left
                }
                match desk.events.pop_front() {
                    Some(event) => {
                        desk.telling = true;
                        event
                    }
                    None => return,
                }
            };
            for observer in &self.config.observers {
                let _ = catch_unwind(AssertUnwindSafe(|| observer.on_event(&event)));
            }
            self.desk().telling = false;
        }
    }

    /// What a flight answers whose epoch has ended: how the session stands, or that it was not meant for the new one.
    pub(crate) fn ended(&self) -> AuthError {
        let snapshot = self.snapshot();
        match snapshot.is_dead() {
            true => snapshot.why_no_token(),
            false => AuthError::new(ErrorKind::SignedOut, "the session was signed out meanwhile"),
        }
    }

    /// What a record says, with the access token it goes with; corrected, within an edit: a server may have told the time
    /// since they were read or made, and tells whoever is published already.
    pub(crate) fn snapshot_of(&self, record: &Record, state: AuthState, access: Option<Access>) -> Snapshot {
        let mut snapshot = Snapshot::of(record, state, access);
        snapshot.renewable = record.refresh_token.is_some() || self.config.self_starting;
        if self.config.time.has_guessed() {
            snapshot.correct(|moment| self.config.time.corrected(moment, &Correction::NONE));
        }
        snapshot
    }

    /// The access token of a record, ready to attach. One that cannot be attached is as good as none.
    pub(crate) fn access_of(&self, record: &Record) -> Option<Access> {
        let token = record.access_token.clone()?;
        let sent_at = record.access_sent_at.or(record.last_online_auth_at)?;
        Access::restored(token, sent_at, record.access_expires_at, &self.config.windows).ok()
    }
}

/// A change in the making.
pub(crate) struct Edit<'a> {
    inner: &'a Inner,
    pub(crate) desk: &'a mut Desk,
    now: Option<Snapshot>,
    /// The flight of an epoch that has ended: whoever waits for it learns of that at once. It goes on by itself.
    ended: Option<Flight>,
    /// The flight whose purpose is served.
    landed: Option<Flight>,
    /// The prompt of an epoch that has ended: its answer would count for nothing.
    overtaken: Option<Prompt>,
}

impl Edit<'_> {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        match &self.now {
            Some(snapshot) => Arc::new(snapshot.clone()),
            None => self.inner.snapshot.load_full(),
        }
    }

    /// Changes the snapshot in place.
    pub(crate) fn amend(&mut self, f: impl FnOnce(&mut Snapshot)) {
        let snapshot = self.now.get_or_insert_with(|| (**self.inner.snapshot.load()).clone());
        f(snapshot);
    }

    /// Moves the state by the one transition function.
    pub(crate) fn input(&mut self, input: Input) {
        self.amend(|snapshot| snapshot.state = state::next(&snapshot.state, input));
    }

    /// Publishes another token set or another epoch; never one of an older epoch (P13). A step-up outlives a renewal.
    /// `input` moves the state; without one it stays. Answers whether it was published.
    pub(crate) fn publish(&mut self, mut next: Snapshot, input: impl Into<Option<Input>>) -> bool {
        let old = self.snapshot();
        if next.epoch < old.epoch {
            return false;
        }
        next.state = match input.into() {
            Some(input) => state::next(&old.state, input),
            None => old.state.clone(),
        };
        let newer = (next.epoch, next.generation) > (old.epoch, old.generation);
        // A record that is gone ends a session without a new epoch.
        let is_over = offline::standing(&next.state).is_some();
        match next.epoch == old.epoch && !is_over {
            true => next.step_ups = old.step_ups.clone(),
            false => {
                self.ended = self.desk.flight.take_if(|flight| flight.epoch < next.epoch);
                self.overtaken = self.desk.prompt.take_if(|prompt| prompt.epoch < next.epoch || is_over);
                self.desk.refusal = None;
            }
        }
        if !newer && next.quiet_until.is_none() {
            next.quiet_until = old.quiet_until;
        }
        if next.epoch > old.epoch || (newer && next.fresh(self.inner.now()).is_some()) {
            self.desk.cool_down = None;
            self.desk.failures = 0;
        }
        self.desk.look_at = Duration::ZERO;
        self.desk.looks = 0;
        self.now = Some(next);
        true
    }

    /// Nobody is signed in any more, from this epoch on: what a flight of `known` found. It never touches a newer epoch.
    pub(crate) fn publish_signed_out(&mut self, epoch: u64, known: u64, cause: SignedOutCause) -> bool {
        let state = AuthState::SignedOut(cause);
        let old = self.snapshot();
        if old.epoch > known || (old.epoch == epoch && old.is_dead()) {
            return false; // of another sign-in, or known already
        }
        self.publish(Snapshot::new(epoch, 0, state), Input::SignedOut(cause))
    }

    /// A newer set was published: whoever wanted it has it, and whoever comes now wants another one.
    pub(crate) fn land(&mut self) {
        self.landed = self.desk.flight.take();
    }

    pub(crate) fn account(&self) -> AccountId {
        self.inner.id.clone()
    }

    pub(crate) fn event(&mut self, event: AuthEvent) {
        self.desk.events.push_back(event);
    }
}

#[cfg(test)]
impl Inner {
    /// For the model check: how all stands between two edits. `None` in the midst of one. Nobody comes in between.
    pub(crate) fn glance<T>(&self, f: impl FnOnce(&Desk, &Snapshot, &AuthState) -> T) -> Option<T> {
        self.desk.glance().map(|desk| f(&desk, &self.snapshot.load(), &self.states.borrow()))
    }

    /// The same for the snapshot alone, also in the midst of an edit.
    pub(crate) fn published(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }
}
