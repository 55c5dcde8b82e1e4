//! The refresh: everything between "a new token is needed" and "it is durable and published" (SEMANTICS §3).
//!
//! It runs in a task of its own. Waiting is done on tokio's timers, comparing with the session's clock.

use super::{
    cooldown::CoolDown,
    desk::{Outcome, Work},
    inner::Inner,
    outcome::{Attempt, Course},
    plan::{Circumstances, Plan, View, plan},
    record::{Doubt, Journal, Standing},
    snapshot::Snapshot,
    vault::{Found, LEASE_WAIT, Vault, in_the_way},
};
use crate::{
    clock::Correction,
    error::{AuthError, ErrorKind},
    failure::{FailureKind, RefreshError},
    refresher::{RefreshGrant, Refresher as _},
    state::{ReauthCause, SignedOutCause},
    store::{LeaseGuard as _, SharedLease, StoreError, StoreErrorKind, Version},
};
use futures_util::FutureExt as _;
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

/// How often it looks meanwhile whether somebody else was faster.
const POLL: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(20);
/// A flight that is sent back to the start this often gives up; the next one may have more luck.
const ROUNDS: usize = 16;
/// A timer is not so late while the process runs.
const OVERSLEPT: Duration = Duration::from_millis(10);
/// How long it takes at most to read what has come.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// For a session that is signed out or has to sign in again: a look into the store, no lease and no exchange.
pub(crate) async fn look(inner: &Arc<Inner>) -> Outcome {
    let (found, mark) = (inner.vault.load().await?, inner.vault.mark().await?);
    let old = inner.snapshot().clone();
    if let Some(found) = &found
        && found.record.epoch >= mark
        && (found.record.epoch, found.record.generation) > (old.epoch, old.generation)
    {
        inner.adopt(&found.record, old.epoch);
    } else if mark > old.epoch && mark % 2 == 1 {
        inner.edit(|edit| edit.publish_signed_out(mark, old.epoch, SignedOutCause::Elsewhere));
    }
    match inner.snapshot().is_dead() {
        true => Err(inner.snapshot().why_no_token()),
        false => Ok(()),
    }
}

/// One flight of `epoch`, for a successor of generation `base`.
pub(crate) async fn run(inner: &Arc<Inner>, lease: &mut Option<SharedLease>, epoch: u64, base: u64) -> Outcome {
    let flight = Refresh { course: Course { inner, epoch, started: inner.monotonic() }, base };
    flight.run(lease).await.map_err(|error| flight.course.failed(error))
}

/// A while, or until the store hints; but never at once, since hints may come of others who look.
async fn poll(vault: &Vault) {
    let _ = tokio::time::timeout(POLL, vault.changed()).await;
    tokio::time::sleep(PAUSE).await;
}

struct Refresh<'a> {
    course: Course<'a>,
    /// The generation that somebody wants a successor of.
    base: u64,
}

enum Next {
    Done,
    FromTheStart,
    Exchange(Box<Attempt>),
}

impl Refresh<'_> {
    async fn run(&self, lease: &mut Option<SharedLease>) -> Outcome {
        *lease = self.course.inner.settle_unsaved().await?;
        let mut waited_out = None;
        for _ in 0..ROUNDS {
            if lease.is_none() && self.lease_or_adopt(lease).await? {
                return Ok(());
            }
            let found = self.course.inner.vault.load().await.map_err(in_the_way)?;
            let mark = self.course.inner.vault.mark().await.map_err(in_the_way)?;
            let attempt = match self.consider(lease, found, mark, &mut waited_out).await? {
                Next::Done => return Ok(()),
                Next::FromTheStart => continue,
                Next::Exchange(attempt) => attempt,
            };
            let Some(attempt) = self.open_journal(lease, attempt).await? else { continue };
            return self.exchange(lease, attempt).await;
        }
        Err(AuthError::new(ErrorKind::Unavailable, "other processes were in the way of the refresh"))
    }

    // ===== step 1 =====

    /// The lease; or `true`: a newer fresh set was adopted without it.
    async fn lease_or_adopt(&self, lease: &mut Option<SharedLease>) -> Result<bool, AuthError> {
        let vault = &self.course.inner.vault;
        let taken = vault.lease(self.course.inner.config.term(), LEASE_WAIT);
        let adopted = async {
            loop {
                // First a while for the lease alone: mostly it is free, and nobody needs to look.
                poll(vault).await;
                if let (Ok(Some(found)), Ok(mark)) = (vault.load().await, vault.mark().await) {
                    let view = View { found: Some(&found), mark, epoch: self.course.epoch, base: self.base };
                    view.live().into_iter().for_each(|record| self.course.inner.take_time(record));
                    let snapshot = self.course.inner.snapshot().clone();
                    if let Plan::Adopt(record) = plan(&view, &self.circumstances(&snapshot, None, None)) {
                        self.course.inner.adopt(record, self.course.epoch);
                        return;
                    }
                }
            }
        };
        futures_util::pin_mut!(taken, adopted);
        match futures_util::future::select(taken, adopted).await {
            futures_util::future::Either::Left((taken, _)) => {
                *lease = Some(taken.map_err(in_the_way)?);
                Ok(false)
            }
            futures_util::future::Either::Right(((), _)) => Ok(true),
        }
    }

    // ===== steps 2, 2b, 3 =====

    fn circumstances<'s>(
        &'s self,
        snapshot: &'s Snapshot,
        lease: Option<&SharedLease>,
        waited_out: Option<&'s Version>,
    ) -> Circumstances<'s> {
        let inner = self.course.inner;
        Circumstances {
            now: inner.now(),
            held: snapshot.access.as_ref().map(|access| &access.token),
            refused: snapshot.refused,
            owner: &inner.owner,
            leases_expire: lease.is_some_and(|lease| lease.valid_for().is_some()),
            forgiven: inner.edit(|edit| edit.desk.forgiven),
            term: inner.config.term(),
            waited_out,
            self_starting: inner.config.self_starting,
        }
    }

    async fn consider(
        &self,
        lease: &mut Option<SharedLease>,
        found: Option<Found>,
        mark: u64,
        waited_out: &mut Option<Version>,
    ) -> Result<Next, AuthError> {
        let inner = self.course.inner;
        let view = View { found: found.as_ref(), mark, epoch: self.course.epoch, base: self.base };
        if let Some(record) = view.live() {
            inner.take_time(record); // before anything in it is compared with the time
        }
        let snapshot = inner.snapshot().clone();
        match plan(&view, &self.circumstances(&snapshot, lease.as_ref(), waited_out.as_ref())) {
            Plan::SignedOut => {
                inner.signed_out(lease, found, mark, self.course.epoch, None).await;
                Err(self.course.inner.ended())
            }
            Plan::Absent => {
                inner.edit(|edit| {
                    edit.publish_signed_out(self.course.epoch, self.course.epoch, SignedOutCause::Elsewhere)
                });
                Err(AuthError::new(ErrorKind::SignedOut, "the stored session is gone"))
            }
            Plan::Verdict(record) => {
                inner.adopt(record, self.course.epoch);
                Err(inner.snapshot().why_no_token())
            }
            Plan::Adopt(record) => {
                inner.adopt(record, self.course.epoch);
                Ok(Next::Done)
            }
            Plan::CoolingDown(failure, left) => {
                let error = AuthError::from(RefreshError::new(failure.kind.into())).after(left);
                inner.remember(
                    self.course.epoch,
                    CoolDown::stored(failure, left, error.clone(), inner.now(), inner.monotonic()),
                );
                Err(error)
            }
            Plan::AwaitJournal(left) => {
                let version = found.map(|found| found.version);
                *lease = None;
                if !self.await_change(version.as_ref(), left).await {
                    *waited_out = version;
                }
                Ok(Next::FromTheStart)
            }
            Plan::Start => Ok(Next::Exchange(Box::new(Attempt {
                record: inner.vault.blank(self.course.epoch.max(mark), Standing::SignedIn),
                version: found.map(|found| found.version),
                doubt: Doubt::None,
                attempts: 0,
            }))),
            Plan::Exchange { record, doubt } => {
                inner.adopt(record, self.course.epoch); // the store is the truth; what differs in memory is dropped
                let mut record = record.clone();
                inner.correct_all(&Correction::NONE, Some(&mut record));
                Ok(Next::Exchange(Box::new(Attempt {
                    attempts: record.journal.as_ref().map_or(0, |journal| journal.attempts),
                    version: found.as_ref().map(|found| found.version.clone()),
                    doubt,
                    record,
                })))
            }
        }
    }

    /// Waits, without the lease, until the record is another one, for at most `left`. Answers whether it is.
    async fn await_change(&self, version: Option<&Version>, left: Duration) -> bool {
        let vault = &self.course.inner.vault;
        let change = async {
            loop {
                poll(vault).await;
                if let Ok(found) = vault.load().await
                    && found.as_ref().map(|found| &found.version) != version
                {
                    return;
                }
            }
        };
        tokio::time::timeout(left, change).await.is_ok()
    }

    // ===== steps 4 and 4a =====

    /// Writes the journal and makes sure, last thing before the first byte, that this flight may send. `None`: from
    /// the start.
    async fn open_journal(
        &self,
        lease: &mut Option<SharedLease>,
        mut attempt: Box<Attempt>,
    ) -> Result<Option<Box<Attempt>>, AuthError> {
        let inner = self.course.inner;
        let Some(held) = lease.as_mut() else { return Ok(None) };
        if inner.config.journal && attempt.record.refresh_token.is_some() {
            attempt.attempts = attempt.attempts.saturating_add(1);
            let mut journalled = attempt.record.clone();
            journalled.doubt = attempt.doubt;
            journalled.journal = Some(Journal {
                owner: inner.owner.clone(),
                deadline: inner.now().plus(inner.config.term()),
                attempts: attempt.attempts,
            });
            match inner.vault.save(held, attempt.version.as_ref(), &journalled).await {
                Ok(version) => attempt.version = Some(version),
                Err(error) if matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::LeaseLost) => {
                    *lease = None;
                    return Ok(None);
                }
                Err(error) => return Err(in_the_way(error)),
            }
        }
        match inner.vault.renew(held).await {
            Ok(()) => {}
            Err(error) if error.kind() == StoreErrorKind::LeaseLost => {
                *lease = None;
                return Ok(None);
            }
            Err(error) => return Err(self.close_journal(held, &attempt, error).await),
        }
        let mark = match inner.vault.mark().await {
            Ok(mark) => mark,
            Err(error) => return Err(self.close_journal(held, &attempt, error).await),
        };
        if mark > self.course.epoch {
            let found = inner.vault.load().await.unwrap_or_default();
            inner.signed_out(lease, found, mark, self.course.epoch, None).await;
            return Err(self.course.inner.ended());
        }
        Ok(Some(attempt))
    }

    /// Nothing was sent: the record is as before, as far as the store allows.
    async fn close_journal(&self, lease: &mut SharedLease, attempt: &Attempt, error: StoreError) -> AuthError {
        let mut before = attempt.record.clone();
        before.doubt = attempt.doubt;
        before.journal = None;
        let _ = self.course.inner.vault.save(lease, attempt.version.as_ref(), &before).await;
        in_the_way(error)
    }

    // ===== step 5 =====

    async fn exchange(&self, lease: &mut Option<SharedLease>, mut attempt: Box<Attempt>) -> Outcome {
        let inner = self.course.inner;
        let config = &inner.config;
        let record = &attempt.record;
        if !config.self_starting && record.refresh_token.is_none() {
            // Tokens without a refresh token can be used up, not renewed.
            if inner.snapshot().fresh(inner.now()).is_some() {
                return Err(AuthError::new(ErrorKind::ReauthRequired, "there is no refresh token"));
            }
            return self.course.rejected(lease, *attempt, ReauthCause::Revoked).await;
        }
        let grant = RefreshGrant::new(inner.id.clone(), record.refresh_token.clone(), record.scope.clone());
        let asked = inner.monotonic();
        let exchange = AssertUnwindSafe(inner.within(Work::Exchange, config.refresher.refresh(grant))).catch_unwind();
        futures_util::pin_mut!(exchange);
        let mut answer = tokio::time::timeout(config.refresh_timeout, exchange.as_mut()).await;
        // A process that was stopped finds its timer run out and the answer in its socket. As long as the lease is its
        // own, nobody else has spent the token: a timeout now would be the second time.
        let overslept = inner.monotonic().saturating_sub(asked) > config.refresh_timeout.saturating_add(OVERSLEPT);
        let is_held = lease.as_ref().is_some_and(|lease| lease.valid_for().is_none_or(|left| left > LAST_LOOK));
        if answer.is_err() && overslept && is_held {
            answer = tokio::time::timeout(LAST_LOOK, exchange).await;
        }
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_panic)) => {
                let error = AuthError::new(ErrorKind::Aborted, "the refresher panicked");
                let failure = RefreshError::new(FailureKind::Transient);
                return self.course.transient(lease, *attempt, failure, error, false).await;
            }
            Err(_elapsed) => Err(RefreshError::transient("the token endpoint did not answer in time")),
        };
        match answer {
            Ok(tokens) => {
                let correction = config.time.answered(tokens.date, asked);
                inner.correct_all(&correction, Some(&mut attempt.record));
                let kept = inner.keep_news();
                let outcome = self.course.received(lease, *attempt, tokens, asked).await;
                inner.reach.answered(&config.time);
                kept.await;
                outcome
            }
            Err(error) => {
                match error.http_status() {
                    Some(_) => inner.reach.answered(&config.time),
                    None => inner.reach.unanswered(),
                }
                let correction = match error.date {
                    Some(_) => config.time.answered(error.date, asked),
                    None => Correction::NONE,
                };
                inner.correct_all(&correction, Some(&mut attempt.record));
                let kept = inner.keep_news();
                let outcome = self.course.refused(lease, *attempt, error).await;
                kept.await;
                outcome
            }
        }
    }
}
