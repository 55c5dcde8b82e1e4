//! The end of a session: sign-out, lock, tombstones and revocation (SEMANTICS §8).
//!
//! Raising the epoch is the sign-out: durable, without a lease, at once. All the rest follows when the lease can be had.

use super::{
    cooldown,
    desk::{Departure, Farewell, Outcome, SignOut, Work},
    inner::{Edit, Inner},
    plan::{View, next_sign_in, next_sign_out},
    record::Standing,
    snapshot::Snapshot,
    tasks,
    vault::{Found, LEASE_WAIT},
};
use crate::{
    error::{AuthError, ErrorKind},
    event::AuthEvent,
    refresher::{Refresher as _, RevokeGrant},
    state::{AuthState, Input, SignedOutCause},
    store::{SharedLease, StoreError, StoreErrorKind},
    token::RefreshToken,
};
use futures_util::FutureExt as _;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

/// How long a sign-out waits for its tombstone.
const TOMBSTONE_WAIT: Duration = Duration::from_secs(1);
/// The longest pause before a store is told once more.
const INSIST: Duration = Duration::from_secs(15);
/// How long a revocation may take, the wait for the lease included.
const REVOCATION: Duration = Duration::from_secs(10);

/// A departure that has taken effect in this process.
pub(crate) struct Announced {
    departure: Departure,
    epoch: u64,
    /// How many sign-ins there had been: one more, and that one wins.
    arrivals: u64,
}

/// What became of a departure.
pub(crate) struct Departed {
    pub(crate) epoch: u64,
    /// How many sign-ins there had been: one more, and nothing is left to tell.
    arrivals: u64,
    told: Result<(), StoreError>,
}

impl Inner {
    /// The departure, here and at once: sign-ins that were called before do not undo it, those that are called later are
    /// above its epoch.
    pub(crate) fn announce(&self, departure: Departure) -> Announced {
        self.edit(|edit| {
            edit.desk.departures += 1;
            edit.desk.departed = Some(departure);
            let epoch = next_sign_out(edit.snapshot().epoch);
            end(edit, epoch, departure);
            Announced { departure, epoch, arrivals: edit.desk.arrivals }
        })
    }

    /// What was announced is told to everybody by raising the epoch.
    pub(crate) async fn depart(self: &Arc<Self>, announced: Announced) -> Departed {
        let Announced { departure, epoch: here, arrivals } = announced;
        let id = &self.id;
        // A hook that panics keeps nobody signed in.
        let hook = |f: &dyn Fn()| drop(catch_unwind(AssertUnwindSafe(f)));
        match departure {
            Departure::SignOut(SignOut::Hard) => self.config.on_wipe.iter().for_each(|f| hook(&|| f(id))),
            Departure::SignOut(SignOut::Soft) => {}
            Departure::Lock(cause) => self.config.on_lock.iter().for_each(|f| hook(&|| f(id, cause))),
        }
        let raised = self.raise_departure(here, arrivals).await;
        let epoch = raised.as_ref().map_or(here, |epoch| *epoch);
        if epoch > here {
            self.publish_departure(epoch, departure, arrivals);
        }
        Departed { epoch, arrivals, told: raised.map(drop) }
    }

    /// The next odd number at or above the newest, unless somebody signs in here meanwhile: that sign-in was called
    /// later, and is above `here`. It may fail yet, so the store is told of `here` all the same.
    async fn raise_departure(&self, here: u64, arrivals: u64) -> Result<u64, StoreError> {
        let stored = self.vault.load().await.ok().flatten().map_or(0, |found| found.record.epoch);
        let mut newest = self.vault.mark().await?.max(stored).max(here);
        while self.edit(|edit| edit.desk.arrivals == arrivals) {
            let asked = next_sign_out(newest);
            let mark = self.vault.raise(asked).await?;
            if mark <= asked {
                return Ok(asked);
            }
            newest = mark;
        }
        self.vault.raise(here).await.map(|_| here)
    }

    fn publish_departure(&self, epoch: u64, departure: Departure, arrivals: u64) {
        self.edit(|edit| {
            if edit.desk.arrivals == arrivals {
                end(edit, epoch, departure);
            }
        });
    }

    /// A sign-in of `epoch` that a departure has overtaken: what it may have saved ends as the departure wanted. Nobody
    /// departs once more for that, and no later sign-in is touched.
    pub(crate) async fn undo_sign_in(self: &Arc<Self>, epoch: u64, departure: Departure) {
        let (epoch, arrivals) = (next_sign_out(epoch), self.edit(|edit| edit.desk.arrivals));
        let told = self.vault.raise(epoch).await;
        self.publish_departure(epoch, departure, arrivals);
        self.see_through(Departed { epoch, arrivals, told: told.map(drop) }, departure);
    }

    /// Raises the mark to what `next` makes of the newest epoch; a mark that is above what was asked for: again.
    pub(crate) async fn raise(&self, next: fn(u64) -> u64) -> Result<u64, StoreError> {
        // A record that cannot be read has no say; it is left where it is.
        let stored = self.vault.load().await.ok().flatten().map_or(0, |found| found.record.epoch);
        let mut newest = self.vault.mark().await?.max(stored).max(self.snapshot().epoch);
        loop {
            let asked = next(newest);
            let mark = self.vault.raise(asked).await?;
            if mark <= asked {
                return Ok(asked);
            }
            newest = mark;
        }
    }

    /// Sign-out or lock: at once; then the tombstone, for which the caller waits up to a second; then the revocation,
    /// in the background. A store that could not be told is told later, as long as the process lives.
    pub(crate) async fn leave(self: Arc<Self>, announced: Announced) -> Outcome {
        let departure = announced.departure;
        let Departed { epoch, arrivals, told } = self.depart(announced).await;
        let runtime = tasks::runtime()?;
        let (tx, laid) = oneshot::channel();
        let inner = self.clone();
        if let Err(error) = told {
            tasks::spawn(&runtime, async move { inner.insist(epoch, departure, arrivals).await });
            return Err(error.into());
        }
        let job = self.jobs.start();
        tasks::spawn(&runtime, async move {
            let _job = job;
            let _ = AssertUnwindSafe(inner.say_farewell(epoch, departure, tx)).catch_unwind().await;
        });
        let _ = tokio::time::timeout(TOMBSTONE_WAIT, laid).await;
        Ok(())
    }

    /// What is left of a flight's departure once its lease is gone: the others still have to be told, or the tombstone is
    /// not laid.
    pub(crate) fn see_through(self: &Arc<Self>, departed: Departed, departure: Departure) {
        let Departed { epoch, arrivals, told } = departed;
        let laid = self.edit(|edit| edit.desk.farewell.is_none_or(|farewell| farewell.epoch != epoch));
        let Ok(runtime) = tasks::runtime() else { return };
        let inner = self.clone();
        if told.is_err() {
            tasks::spawn(&runtime, async move { inner.insist(epoch, departure, arrivals).await });
        } else if !laid {
            let job = self.jobs.start();
            tasks::spawn(&runtime, async move {
                let _job = job;
                let (tx, _) = oneshot::channel();
                inner.say_farewell(epoch, departure, tx).await;
            });
        }
    }

    /// Raises the mark of a departure that the store could not be told of, unless somebody signs in before.
    async fn insist(self: &Arc<Self>, epoch: u64, departure: Departure, arrivals: u64) {
        for tries in 1u32.. {
            tokio::time::sleep(cooldown::backoff(tries).min(INSIST)).await;
            if self.edit(|edit| edit.desk.arrivals != arrivals) {
                return;
            }
            match self.vault.raise(epoch).await {
                Ok(mark) if mark > epoch => return, // somebody signed in since, who knew nothing of this
                Ok(_) => {
                    let (tx, _) = oneshot::channel();
                    return self.say_farewell(epoch, departure, tx).await;
                }
                Err(_) => {}
            }
        }
    }

    /// The tombstone, and the revocation of what the record held.
    async fn say_farewell(self: &Arc<Self>, epoch: u64, departure: Departure, laid: oneshot::Sender<()>) {
        let mut lease = match self.settle_unsaved().await {
            Ok(Some(lease)) => Some(lease),
            _ => {
                // A soft one's tombstone is what anybody would write; the others are this process's to write.
                let is_soft = departure == Departure::SignOut(SignOut::Soft);
                let wait = if is_soft { REVOCATION } else { LEASE_WAIT };
                self.vault.lease(self.config.term(), wait).await.ok()
            }
        };
        let ended = self.lay_tombstone(&mut lease, epoch).await;
        let _ = laid.send(());
        if let (Some(token), Departure::SignOut(_)) = (ended, departure) {
            self.revoke(token, epoch, lease).await;
        }
    }

    /// Replaces the record of an ended epoch by a tombstone of `epoch`, or removes it. Answers the refresh token that the
    /// record held. Without the lease, or if it fails, whoever leases next does it.
    pub(crate) async fn lay_tombstone(&self, lease: &mut Option<SharedLease>, epoch: u64) -> Option<RefreshToken> {
        for _ in 0..2 {
            let held = lease.as_mut()?;
            let found = self.vault.load().await.ok()?;
            let mark = self.vault.mark().await.ok()?;
            let view = View { found: found.as_ref(), mark, epoch, base: 0 };
            if view.newest() > epoch {
                return None; // somebody signed in anew
            }
            let farewell = self.edit(|edit| edit.desk.farewell.filter(|farewell| farewell.epoch == epoch));
            let stands = found.as_ref().is_some_and(|found| found.record.epoch == epoch);
            let is_soft = |f: &Farewell| f.departure == Departure::SignOut(SignOut::Soft);
            let is_out = found.as_ref().is_some_and(|found| found.record.standing == Standing::SignedOut);
            if stands && (farewell.is_none() || (is_out && farewell.as_ref().is_some_and(is_soft))) {
                return None; // a tombstone stands there, and a soft sign-out adds nothing to it
            }
            let departure = farewell.map(|farewell| farewell.departure);
            let blank = || self.vault.blank(epoch, Standing::SignedOut);
            let stone = match (departure, &found) {
                (Some(Departure::SignOut(SignOut::Hard)), _) => None,
                (Some(Departure::Lock(cause)), _) => Some(blank().tombstone(epoch, Standing::Locked(cause), false)),
                (_, None) => None, // nothing to replace: the mark says it all
                // Of a sign-out elsewhere nobody here knows the kind: a hard one removes it as soon as it can.
                (Some(Departure::SignOut(SignOut::Soft)) | None, Some(found)) => {
                    Some(found.record.tombstone(epoch, Standing::SignedOut, true))
                }
            };
            let version = found.as_ref().map(|found| &found.version);
            let written = match (&stone, version) {
                (Some(stone), _) => self.vault.save(held, version, stone).await.map(drop),
                (None, Some(_)) => self.vault.remove(held, version).await,
                (None, None) => Ok(()),
            };
            match written {
                Ok(()) => {
                    self.edit(|edit| edit.desk.farewell.take_if(|farewell| farewell.epoch == epoch));
                    return found.and_then(|found| found.record.refresh_token);
                }
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// A flight or keeper of `epoch` found that the epoch has ended. It publishes nothing of its own; it lays the
    /// tombstone if it holds the lease, and has the token that it minted revoked unless somebody signed in since.
    pub(crate) async fn signed_out(
        self: &Arc<Self>,
        lease: &mut Option<SharedLease>,
        found: Option<Found>,
        mark: u64,
        epoch: u64,
        minted: Option<RefreshToken>,
    ) {
        // A sign-out of this process that the store could not be told of counts all the same, and is told now.
        let here = self.snapshot().epoch;
        let mark = match here > mark {
            true => self.vault.raise(here).await.unwrap_or(mark).max(here),
            false => mark,
        };
        let newest = View { found: found.as_ref(), mark, epoch, base: 0 }.newest();
        match &found {
            Some(found) if found.record.epoch == newest => self.adopt(&found.record, epoch),
            _ => {
                self.edit(|edit| edit.publish_signed_out(newest, epoch, SignedOutCause::Elsewhere));
            }
        }
        if newest.is_multiple_of(2) {
            return; // somebody signed in: a revocation might end that session too
        }
        let is_lock = self.edit(|edit| {
            edit.desk.farewell.is_some_and(|f| f.epoch == newest && matches!(f.departure, Departure::Lock(_)))
        });
        // Whoever lays the tombstone has the token that stood there: nobody finds it afterwards.
        let stored = self.lay_tombstone(lease, newest).await;
        if let Some(token) = minted.or(stored.filter(|_| !is_lock)) {
            let (inner, lease, job) = (self.clone(), lease.take(), self.jobs.start());
            if let Ok(runtime) = tasks::runtime() {
                tasks::spawn(&runtime, async move {
                    let _job = job;
                    inner.revoke(token, newest, lease).await;
                });
            }
        }
    }

    /// RFC 7009, under the lease, and only while nothing is newer than the sign-out: some servers end every session of
    /// the user.
    async fn revoke(self: &Arc<Self>, token: RefreshToken, sign_out: u64, lease: Option<SharedLease>) {
        let revocation = async {
            let _lease = match lease {
                Some(lease) => lease,
                None => self.vault.lease(self.config.term(), REVOCATION).await.ok()?,
            };
            let found = self.vault.load().await.ok()?;
            let mark = self.vault.mark().await.ok()?;
            if (View { found: found.as_ref(), mark, epoch: sign_out, base: 0 }).newest() != sign_out {
                return Some(()); // somebody signed in since
            }
            let grant = RevokeGrant::new(self.id.clone(), token);
            self.within(Work::Exchange, self.config.refresher.revoke(grant)).await.ok().map(drop)
        };
        let done = tokio::time::timeout(REVOCATION, AssertUnwindSafe(revocation).catch_unwind()).await;
        if !matches!(done, Ok(Ok(Some(())))) {
            self.event(AuthEvent::RevocationDropped { account: self.id.clone() });
        }
    }

    /// Lets a self-starting session begin again: a new epoch without tokens.
    /// `departures`: how many sign-outs and locks there were when it was called; one since then wins.
    pub(crate) async fn begin_again(self: Arc<Self>, departures: u64) -> Outcome {
        if !self.config.self_starting {
            return Err(AuthError::new(ErrorKind::SignedOut, "this session begins with a sign-in"));
        }
        if !self.snapshot().is_dead() {
            return Ok(());
        }
        if !self.arrive(departures) {
            return Err(self.ended());
        }
        let epoch = match self.raise(next_sign_in).await {
            Ok(epoch) => epoch,
            Err(error) => {
                self.insist_again();
                return Err(error.into());
            }
        };
        let overtaken = self.edit(|edit| {
            if edit.desk.departures != departures {
                return edit.desk.departed;
            }
            let state = AuthState::SignedOut(SignedOutCause::Here);
            edit.publish(Snapshot::new(epoch, 0, state), Input::SignedIn { unsaved: false });
            edit.desk.cool_down = None;
            None
        });
        if let Some(departure) = overtaken {
            self.undo_sign_in(epoch, departure).await;
            return Err(self.ended());
        }
        match self.snapshot().is_dead() {
            true => Err(self.ended()), // a sign-out elsewhere, of a newer epoch, was seen meanwhile
            false => Ok(()),
        }
    }

    /// A beginning that failed has changed nothing, but whoever insisted on the end before it may have given up. A
    /// tombstone that is laid since, and its farewell with it, is no sign that the mark was raised.
    fn insist_again(self: &Arc<Self>) {
        let (epoch, departed, arrivals) =
            self.edit(|edit| (edit.snapshot().epoch, edit.desk.departed, edit.desk.arrivals));
        if epoch % 2 == 1
            && let (Some(departure), Ok(runtime)) = (departed, tasks::runtime())
        {
            let inner = self.clone();
            tasks::spawn(&runtime, async move { inner.insist(epoch, departure, arrivals).await });
        }
    }
}

/// Nobody is signed in any more, from `epoch` on.
fn end(edit: &mut Edit<'_>, epoch: u64, departure: Departure) {
    let (state, input) = match departure {
        Departure::SignOut(_) => (AuthState::SignedOut(SignedOutCause::Here), Input::SignedOut(SignedOutCause::Here)),
        Departure::Lock(cause) => (AuthState::Locked(cause), Input::Locked(cause)),
    };
    // What a hard sign-out has still to remove is not kept for a soft one after it.
    let before = edit.snapshot().epoch;
    let pending = edit.desk.farewell.filter(|farewell| farewell.epoch == before).map(|farewell| farewell.departure);
    let departure = match (departure, pending) {
        (Departure::SignOut(SignOut::Soft), Some(hard @ Departure::SignOut(SignOut::Hard))) => hard,
        _ => departure,
    };
    if edit.publish(Snapshot::new(epoch, 0, state), input) {
        edit.desk.farewell = Some(Farewell { epoch, departure });
        edit.desk.cool_down = None;
    }
}
