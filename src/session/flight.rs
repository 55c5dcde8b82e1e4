//! Single flight: at most one refresh per account and epoch, in a task of its own, its result shared by all who wait.
//!
//! `Shared` stands around the receiving end of a channel, never around the exchange: whoever waits may leave, and all of
//! them together, and the exchange goes on.

use super::{
    cooldown::Tripped,
    desk::{Flight, Landing, Outcome, Part, Received, Work},
    inner::Inner,
    refresh,
    snapshot::TokenId,
    sync::WITHIN,
    tasks,
};
use crate::{
    error::{AuthError, ErrorKind},
    event::AuthEvent,
    store::SharedLease,
};
use futures_util::FutureExt as _;
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Why somebody wants a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Another token than this one, which is spent, or will be soon.
    InsteadOf(Option<TokenId>),
    /// A token set newer than the present one, whatever its age: `Session::refresh`.
    Newer,
}

impl Inner {
    /// Whether this task is a part of this session's own exchange: waiting for it would wait for ever (P11).
    pub(crate) fn is_within_own_flight(&self) -> bool {
        self.is_within(Work::Exchange)
    }

    pub(crate) fn is_within(&self, work: Work) -> bool {
        let is_it = |part: &Part| part.work == work && part.owner == self.owner;
        WITHIN.try_with(|within| within.iter().any(is_it)).unwrap_or(false)
    }

    /// Runs an exchange, or a prompt, so that requests it makes through this session's layer are recognized.
    pub(crate) async fn within<T>(&self, work: Work, future: impl Future<Output = T>) -> T {
        let mut within = WITHIN.try_with(|within| Vec::clone(within)).unwrap_or_default();
        within.push(Part { owner: self.owner.clone(), config: self.config.clone(), work });
        WITHIN.scope(Arc::new(within), future).await
    }

    /// Starts a refresh, or joins the one in the air. Answers at once: a landing to wait for, or why there is none.
    pub(crate) fn join(self: &Arc<Self>, want: Want) -> Result<Landing, AuthError> {
        if self.is_within_own_flight() {
            return Err(AuthError::new(ErrorKind::Reentrant, "a refresh asked the session that waits for it"));
        }
        let runtime = tasks::runtime()?;
        let (now, mono) = (self.now(), self.monotonic());
        let (landing, flight) = self.edit(|edit| {
            let snapshot = edit.snapshot();
            // Somebody else was faster, between the caller's look and this one.
            if let Want::InsteadOf(wanted) = want
                && snapshot.token_id() != wanted
                && snapshot.ready(now).is_some()
            {
                let (tx, rx) = oneshot::channel();
                let _ = tx.send(Ok(()));
                return Ok((rx.map(landed as fn(Received) -> Outcome).shared(), None));
            }
            if snapshot.is_dead() && want == Want::Newer {
                return Err(snapshot.why_no_token());
            }
            if let Some(flight) = &edit.desk.flight
                && flight.epoch == snapshot.epoch
            {
                return Ok((flight.landing.clone(), None));
            }
            if snapshot.is_dead() {
                // Nothing to exchange; somebody else may have signed in. It is looked for at the cool-down's pace.
                if mono < edit.desk.look_at {
                    return Err(snapshot.why_no_token());
                }
                edit.desk.looks = edit.desk.looks.saturating_add(1);
                edit.desk.look_at = mono.saturating_add(super::cooldown::backoff(edit.desk.looks));
            } else if snapshot.rejected.is_some() {
                return Err(snapshot.why_no_token());
            } else if let Some(error) = edit.desk.cool_down.as_ref().and_then(|pause| pause.running(mono)) {
                return Err(error);
            } else if want == Want::Newer
                && let Some(left) = edit.desk.breakers.values().filter_map(|breaker| breaker.left(mono)).max()
            {
                return Err(breaker_is_open(left));
            }

            let (tx, rx) = oneshot::channel();
            let landing: Landing = rx.map(landed as fn(Received) -> Outcome).shared();
            edit.desk.flights += 1;
            let number = edit.desk.flights;
            if let Some(access) = snapshot.access.as_ref().filter(|_| !snapshot.refused) {
                // Until the hard window nobody needs to ask again.
                let hard_at = access.hard_at;
                edit.amend(|snapshot| snapshot.quiet_until = Some(hard_at));
            }
            let look = snapshot.is_dead();
            edit.desk.flight = Some(Flight { number, epoch: snapshot.epoch, look, landing: landing.clone(), tx });
            let seat = Seat { inner: self.clone(), number, lease: None, outcome: None };
            Ok((landing, Some(fly(seat, snapshot.epoch, snapshot.generation, look))))
        })?;
        if let Some(flight) = flight {
            // Not under the lock: a runtime that is shutting down drops the task, and with it the seat, at once.
            let within = WITHIN.try_with(Arc::clone).unwrap_or_default();
            tasks::spawn(&runtime, WITHIN.scope(within, flight));
        }
        Ok(landing)
    }

    /// The landing of the flight in the air, if there is one.
    pub(crate) fn in_the_air(&self) -> Option<Landing> {
        self.edit(|edit| edit.desk.flight.as_ref().map(|flight| flight.landing.clone()))
    }

    /// A 401 answered `token` at `origin`: counts it, and unless it answered a replay marks the token as refused so that
    /// new requests wait. `Err`: the server refuses every fresh token, and its 401s are delivered for a while (P4).
    pub(crate) fn refuse(&self, token: TokenId, origin: &str, replayed: bool) -> Result<(), AuthError> {
        /// A token of unknown expiry counts as refused before it expired if it is no older than this.
        const JUST_ISSUED: Duration = Duration::from_secs(2);
        let (now, mono) = (self.now(), self.monotonic());
        self.edit(|edit| {
            let snapshot = edit.snapshot();
            if snapshot.token_id() != Some(token) {
                return Ok(());
            }
            let unexpired = snapshot.access.as_ref().is_some_and(|access| match access.expires_at {
                Some(end) => now < end,
                None => now.since(access.sent_at) <= JUST_ISSUED,
            });
            if unexpired {
                let breaker = edit.desk.breakers.entry(origin.to_owned()).or_default();
                match breaker.refuse((token.epoch, token.generation), mono) {
                    Tripped::No => {}
                    Tripped::Open(left) => return Err(breaker_is_open(left)),
                    Tripped::JustNow(left) => {
                        edit.event(AuthEvent::BreakerOpened {
                            account: self.id.clone(),
                            origin: origin.to_owned(),
                            retry_after: left,
                        });
                        return Err(breaker_is_open(left));
                    }
                }
            }
            if !replayed {
                edit.amend(|snapshot| snapshot.refused = true);
            }
            Ok(())
        })
    }
}

fn breaker_is_open(left: Duration) -> AuthError {
    AuthError::new(ErrorKind::Unavailable, "the server refuses every fresh token").after(left)
}

fn landed(received: Received) -> Outcome {
    received.unwrap_or_else(|_| Err(aborted()))
}

fn aborted() -> AuthError {
    AuthError::new(ErrorKind::Aborted, "the refresh ended without an answer")
}

/// The right to the slot. Dropped, however the flight ends: frees the slot, then the lease, then wakes the waiters.
pub(crate) struct Seat {
    pub(crate) inner: Arc<Inner>,
    number: u64,
    pub(crate) lease: Option<SharedLease>,
    outcome: Option<Outcome>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        // None if its waiters know already: a newer set, or a new epoch, was published.
        let number = self.number;
        let flight = self.inner.edit(|edit| edit.desk.flight.take_if(|flight| flight.number == number));
        drop(self.lease.take());
        if let Some(flight) = flight {
            let _ = flight.tx.send(self.outcome.take().unwrap_or_else(|| Err(aborted())));
        }
    }
}

async fn fly(seat: Seat, epoch: u64, base: u64, look_only: bool) {
    let _job = seat.inner.jobs.start();
    let mut seat = seat; // gone before the job is: who waits for jobs waits for the lease
    let flight = AssertUnwindSafe(async {
        match look_only {
            true => refresh::look(&seat.inner).await,
            false => refresh::run(&seat.inner, &mut seat.lease, epoch, base).await,
        }
    });
    let outcome = match flight.catch_unwind().await {
        Ok(outcome) => outcome,
        Err(_panic) => Err(seat.inner.pause(epoch, &aborted())),
    };
    seat.outcome = Some(outcome);
}
