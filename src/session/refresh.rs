//! The refresh: everything between "a new token is needed" and "it is durable and published" (SEMANTICS §3).
//!
//! It runs in a task of its own. Waiting is done on tokio's timers, comparing with the session's clock.

use super::{
    commit::{Committed, From},
    cooldown::{self, CoolDown},
    flight::{Outcome, Seat},
    inner::Inner,
    plan::{Circumstances, Plan, View, is_doubtful, plan},
    record::{Failure, Journal, Record, Refusals, Standing, StoredKind},
    sign_out::Departure,
    snapshot::{Access, Snapshot},
    tasks,
    vault::{Found, in_the_way},
};
use crate::{
    error::{AuthError, ErrorKind},
    event::AuthEvent,
    failure::{FailureKind, RefreshError},
    refresher::{RefreshGrant, Refresher as _},
    state::{AuthState, Input, LockCause, ReauthCause, SignedOutCause},
    store::{LeaseGuard as _, SharedLease, StoreErrorKind, Version},
    token::Tokens,
};
use futures_util::FutureExt as _;
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

/// How long a flight waits for the lease.
const LEASE_WAIT: Duration = Duration::from_secs(60);
/// How often it looks meanwhile whether somebody else was faster.
const POLL: Duration = Duration::from_millis(250);
/// A flight that is sent back to the start this often gives up; the next one may have more luck.
const ROUNDS: usize = 16;
/// Bare refusals count as one unless they are this far apart, and this many of them as a verdict.
const REFUSALS_APART: Duration = Duration::from_secs(30);
const REFUSALS: u32 = 3;

/// For a session that is signed out or has to sign in again: a look into the store, no lease and no exchange.
pub(crate) async fn look(inner: &Arc<Inner>) -> Outcome {
    let (found, mark) = (inner.vault.load().await?, inner.vault.mark().await?);
    let old = inner.snapshot().clone();
    if let Some(found) = &found
        && found.record.epoch >= mark
        && (found.record.epoch, found.record.generation) > (old.epoch, old.generation)
    {
        inner.adopt(&found.record);
    }
    match inner.snapshot().is_dead() {
        true => Err(inner.snapshot().why_no_token()),
        false => Ok(()),
    }
}

/// One flight of `epoch`, for a successor of generation `base`.
pub(crate) async fn run(seat: &mut Seat, epoch: u64, base: u64) -> Outcome {
    let inner = seat.inner.clone();
    let flight = Refresh { inner: &inner, epoch, base, started: inner.monotonic() };
    let outcome = flight.run(&mut seat.lease).await;
    if let Err(error) = &outcome {
        flight.failed(error);
    }
    outcome
}

struct Refresh<'a> {
    inner: &'a Arc<Inner>,
    epoch: u64,
    base: u64,
    /// Monotonic.
    started: Duration,
}

/// What is exchanged, and what it was found with.
struct Attempt {
    /// As it was before the journal was written.
    record: Record,
    /// Of the record with the journal in it.
    version: Option<Version>,
    doubt: bool,
    attempts: u32,
}

enum Next {
    Done,
    FromTheStart,
    Exchange(Attempt),
}

impl Refresh<'_> {
    async fn run(&self, lease: &mut Option<SharedLease>) -> Outcome {
        *lease = self.inner.settle_unsaved().await?;
        for _ in 0..ROUNDS {
            if lease.is_none() && self.lease_or_adopt(lease).await? {
                return Ok(());
            }
            let found = self.inner.vault.load().await.map_err(in_the_way)?;
            let mark = self.inner.vault.mark().await.map_err(in_the_way)?;
            let attempt = match self.consider(lease, found, mark).await? {
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
        let vault = &self.inner.vault;
        let taken = vault.lease(self.inner.config.term(), LEASE_WAIT);
        let adopted = async {
            loop {
                // First a while for the lease alone: mostly it is free, and nobody needs to look.
                let _ = tokio::time::timeout(POLL, vault.changed()).await;
                if let (Ok(Some(found)), Ok(mark)) = (vault.load().await, vault.mark().await) {
                    let view = View { found: Some(&found), mark, epoch: self.epoch, base: self.base };
                    let snapshot = self.inner.snapshot().clone();
                    if let Plan::Adopt(record) = plan(&view, &self.circumstances(&snapshot, None)) {
                        self.inner.adopt(record);
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

    fn circumstances<'s>(&'s self, snapshot: &'s Snapshot, lease: Option<&SharedLease>) -> Circumstances<'s> {
        let inner = self.inner;
        Circumstances {
            now: inner.now(),
            held: snapshot.access.as_ref().map(|access| &access.token),
            refused: snapshot.refused,
            owner: &inner.owner,
            leases_expire: lease.is_some_and(|lease| lease.valid_for().is_some()),
            forgiven: inner.edit(|edit| edit.desk.forgiven),
            term: inner.config.term(),
            self_starting: inner.config.self_starting,
        }
    }

    async fn consider(
        &self,
        lease: &mut Option<SharedLease>,
        found: Option<Found>,
        mark: u64,
    ) -> Result<Next, AuthError> {
        let inner = self.inner;
        let view = View { found: found.as_ref(), mark, epoch: self.epoch, base: self.base };
        let snapshot = inner.snapshot().clone();
        match plan(&view, &self.circumstances(&snapshot, lease.as_ref())) {
            Plan::SignedOut => {
                inner.signed_out(lease, found, mark, self.epoch, None).await;
                Err(AuthError::new(ErrorKind::SignedOut, "the session was signed out meanwhile"))
            }
            Plan::Absent => {
                inner.edit(|edit| edit.publish_signed_out(self.epoch, SignedOutCause::Elsewhere));
                Err(AuthError::new(ErrorKind::SignedOut, "the stored session is gone"))
            }
            Plan::Verdict(record) => {
                inner.adopt(record);
                Err(inner.snapshot().why_no_token())
            }
            Plan::Adopt(record) => {
                inner.adopt(record);
                Ok(Next::Done)
            }
            Plan::CoolingDown(failure, left) => {
                let error = AuthError::from(RefreshError::new(failure.kind.into())).after(left);
                let until = inner.monotonic().saturating_add(left);
                inner.remember(CoolDown { error: error.clone(), until, server_said: failure.server_said });
                Err(error)
            }
            Plan::AwaitJournal(left) => {
                let version = found.map(|found| found.version);
                *lease = None;
                self.await_change(version, left).await;
                Ok(Next::FromTheStart)
            }
            Plan::Start => Ok(Next::Exchange(Attempt {
                record: inner.vault.blank(self.epoch.max(mark), Standing::SignedIn),
                version: found.map(|found| found.version),
                doubt: false,
                attempts: 0,
            })),
            Plan::Exchange { record, doubt } => {
                inner.adopt(record); // the store is the truth; what differs in memory is dropped
                Ok(Next::Exchange(Attempt {
                    record: record.clone(),
                    version: found.as_ref().map(|found| found.version.clone()),
                    doubt,
                    attempts: record.journal.as_ref().map_or(0, |journal| journal.attempts),
                }))
            }
        }
    }

    /// Waits, without the lease, until the record is another one, for at most `left`.
    async fn await_change(&self, version: Option<Version>, left: Duration) {
        let vault = &self.inner.vault;
        let change = async {
            loop {
                let _ = tokio::time::timeout(POLL, vault.changed()).await;
                if let Ok(found) = vault.load().await
                    && found.map(|found| found.version) != version
                {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(left, change).await;
    }

    // ===== steps 4 and 4a =====

    /// Writes the journal and makes sure, last thing before the first byte, that this flight may send. `None`: from
    /// the start.
    async fn open_journal(
        &self,
        lease: &mut Option<SharedLease>,
        mut attempt: Attempt,
    ) -> Result<Option<Attempt>, AuthError> {
        let inner = self.inner;
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
            Err(error) => return Err(in_the_way(error)),
        }
        let mark = inner.vault.mark().await.map_err(in_the_way)?;
        if mark > self.epoch {
            let found = inner.vault.load().await.unwrap_or_default();
            inner.signed_out(lease, found, mark, self.epoch, None).await;
            return Err(AuthError::new(ErrorKind::SignedOut, "the session was signed out meanwhile"));
        }
        Ok(Some(attempt))
    }

    // ===== step 5 =====

    async fn exchange(&self, lease: &mut Option<SharedLease>, attempt: Attempt) -> Outcome {
        let inner = self.inner;
        let config = &inner.config;
        let record = &attempt.record;
        if !config.self_starting && record.refresh_token.is_none() {
            // Tokens without a refresh token: they can be used up, not renewed.
            return self.rejected(lease, attempt, ReauthCause::Revoked).await;
        }
        let grant = RefreshGrant::new(inner.id.clone(), record.refresh_token.clone(), record.scope.clone());
        let asked = inner.monotonic();
        let exchange = AssertUnwindSafe(inner.within(config.refresher.refresh(grant))).catch_unwind();
        let answer = match tokio::time::timeout(config.refresh_timeout, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_panic)) => {
                let error = AuthError::new(ErrorKind::Aborted, "the refresher panicked");
                let failure = RefreshError::new(FailureKind::Transient);
                return self.transient(lease, attempt, failure, error).await;
            }
            Err(_elapsed) => Err(RefreshError::transient("the token endpoint did not answer in time")),
        };
        match answer {
            Ok(tokens) => {
                config.reach.answered(&config.time);
                if let Some(date) = tokens.date {
                    config.time.anchor(date, asked);
                }
                self.received(lease, attempt, tokens, asked).await
            }
            Err(error) => {
                match error.http_status() {
                    Some(_) => config.reach.answered(&config.time),
                    None => config.reach.unanswered(),
                }
                if let Some(date) = error.date {
                    config.time.anchor(date, asked);
                }
                self.refused(lease, attempt, error).await
            }
        }
    }

    // ===== step 6: a 200 =====

    async fn received(
        &self,
        lease: &mut Option<SharedLease>,
        attempt: Attempt,
        tokens: Tokens,
        asked: Duration,
    ) -> Outcome {
        let inner = self.inner;
        let sent_at = inner.now().minus(inner.monotonic().saturating_sub(asked));
        let bearer = match tokens.is_bearer() {
            true => Access::new(tokens.access.clone(), sent_at, tokens.expires_in, &inner.config.windows),
            false => Err(AuthError::misconfigured("the token endpoint answered with a token that is not `Bearer`")),
        };
        let old = inner.snapshot().clone();
        let bearer = bearer.map(|access| match &old.access {
            Some(before) if before.fingerprint == access.fingerprint && !old.refused => access.without_windows(),
            _ => access,
        });
        let mut record = attempt.record.clone();
        if let Some(refresh) = tokens.refresh {
            record.refresh_token = Some(refresh);
            record.refresh_expires_at = tokens.refresh_expires_in.map(|lifetime| sent_at.plus(lifetime));
        }
        record.set_scope(tokens.scope);
        record.last_online_auth_at = Some(inner.now());
        if !record.grants_explicit {
            record.grants_at = Some(inner.now());
        }
        self.renew(lease, attempt, record, bearer).await
    }

    /// Saves and publishes a new generation. Without a usable access token the refresh token is saved all the same, and
    /// an access token that is still fresh stays in use.
    async fn renew(
        &self,
        lease: &mut Option<SharedLease>,
        attempt: Attempt,
        mut record: Record,
        bearer: Result<Access, AuthError>,
    ) -> Outcome {
        let inner = self.inner;
        record.generation = record.generation.saturating_add(1);
        record.standing = Standing::SignedIn;
        record.doubt = attempt.doubt;
        record.journal = None;
        record.refusals = None;
        record.failure = None;
        let (access, problem) = match bearer {
            Ok(access) => (Some(access), None),
            Err(problem) => {
                let now = inner.now();
                let pause = cooldown::MISCONFIGURED;
                record.failure = Some(Failure {
                    kind: StoredKind::Misconfigured,
                    at: now,
                    until: now.plus(pause),
                    count: 1,
                    server_said: false,
                });
                (inner.snapshot().fresh(now).cloned(), Some((problem, pause)))
            }
        };
        match &access {
            Some(access) if inner.config.persist_access_token => record.set_access(access),
            _ => record.drop_access(),
        }

        let committed = inner.commit(lease, &mut record, From::Version(attempt.version), LEASE_WAIT).await;
        let unsaved = match committed {
            Committed::Saved => false,
            Committed::Unsaved => true,
            Committed::Adopted(theirs) => {
                inner.adopt(&theirs);
                return Ok(());
            }
            Committed::SignedOut { found, mark } => {
                let minted = record.refresh_token.take();
                inner.signed_out(lease, found, mark, self.epoch, minted).await;
                return Err(AuthError::new(ErrorKind::SignedOut, "the session was signed out meanwhile"));
            }
        };
        let born_spent = problem.is_none() && access.as_ref().is_some_and(|access| access.expired(inner.now()));
        let took = inner.monotonic().saturating_sub(self.started);
        inner.edit(|edit| {
            let snapshot = Snapshot::of(&record, AuthState::SignedOut(SignedOutCause::Never), access);
            if edit.publish(snapshot, Input::Renewed { unsaved }) && problem.is_none() {
                edit.event(AuthEvent::Refreshed { account: inner.id.clone(), took });
            }
        });
        if unsaved {
            inner.keep(record, lease.take());
        }
        if let Some((problem, pause)) = problem {
            let until = inner.monotonic().saturating_add(pause);
            let error = problem.after(pause);
            inner.remember(CoolDown { error: error.clone(), until, server_said: false });
            self.tell_failure(FailureKind::Misconfigured, Some(pause));
            return Err(error);
        }
        if born_spent {
            return Err(self.pause_after(AuthError::new(
                ErrorKind::Unavailable,
                "the token endpoint's tokens are spent when they arrive",
            )));
        }
        Ok(())
    }

    // ===== step 6: anything else =====

    async fn refused(&self, lease: &mut Option<SharedLease>, mut attempt: Attempt, mut error: RefreshError) -> Outcome {
        let inner = self.inner;
        error.kind = inner.config.classifier.classify(inner.config.refresher.issuer(), &error);
        if let Some(refresh) = error.rescued.take() {
            let mut record = attempt.record.clone();
            record.refresh_token = Some(refresh);
            record.refresh_expires_at = None;
            return self.renew(lease, attempt, record, Err(error.into())).await;
        }
        match error.kind() {
            FailureKind::InvalidGrant => {
                let cause = if attempt.doubt { ReauthCause::RotationLost } else { ReauthCause::Revoked };
                self.rejected(lease, attempt, cause).await
            }
            FailureKind::AccountDisabled => {
                let lock = LockCause::AccountDisabled;
                let epoch = inner.depart(Departure::Lock(lock)).await?;
                inner.lay_tombstone(lease, epoch).await;
                self.tell_failure(FailureKind::AccountDisabled, None);
                Err(inner.snapshot().why_no_token())
            }
            FailureKind::Unrecognized => {
                let now = inner.now();
                let refusals = match attempt.record.refusals {
                    Some(before) if now.since(before.last_at) < REFUSALS_APART => before,
                    before => Refusals { count: before.map_or(0, |b| b.count).saturating_add(1), last_at: now },
                };
                attempt.record.refusals = Some(refusals);
                if refusals.count >= REFUSALS && inner.snapshot().fresh(now).is_none() {
                    return self.rejected(lease, attempt, ReauthCause::Rejected).await;
                }
                let typed = AuthError::from(RefreshError::new(FailureKind::Unrecognized));
                self.transient(lease, attempt, error, typed).await
            }
            FailureKind::Transient | FailureKind::Misconfigured => {
                attempt.record.refusals = None;
                let typed = AuthError::from(RefreshError::new(error.kind()));
                self.transient(lease, attempt, error, typed).await
            }
        }
    }

    /// The refresh token is dead. A successor in the store outranks that.
    async fn rejected(&self, lease: &mut Option<SharedLease>, attempt: Attempt, mut cause: ReauthCause) -> Outcome {
        let inner = self.inner;
        let now = inner.now();
        let mut expected = attempt.version;
        let mut reread = true;
        for _ in 0..ROUNDS {
            if lease.is_none() {
                *lease = Some(inner.vault.lease(inner.config.term(), LEASE_WAIT).await.map_err(in_the_way)?);
                reread = true;
            }
            let mut base = attempt.record.clone();
            if reread && let (Ok(found), Ok(mark)) = (inner.vault.load().await, inner.vault.mark().await) {
                let view = View { found: found.as_ref(), mark, epoch: self.epoch, base: attempt.record.generation };
                if view.newest() > self.epoch {
                    inner.signed_out(lease, found, mark, self.epoch, None).await;
                    return Err(AuthError::new(ErrorKind::SignedOut, "the session was signed out meanwhile"));
                }
                if let Some(theirs) = view.live() {
                    if theirs.generation > attempt.record.generation || theirs.standing != Standing::SignedIn {
                        return self.succeeded_by(lease, found).await;
                    }
                    if is_doubtful(theirs, &inner.owner) && cause == ReauthCause::Revoked {
                        cause = ReauthCause::RotationLost;
                    }
                    base = theirs.clone();
                }
                expected = found.map(|found| found.version);
            }
            let mut verdict = base;
            verdict.standing = Standing::ReauthRequired(cause);
            verdict.refresh_token = None;
            verdict.refresh_expires_at = None;
            verdict.journal = None;
            verdict.doubt |= attempt.doubt;
            verdict.failure = None;
            // The access token stays in use until it expires, unless it is what the server refused.
            let kept = inner.snapshot().fresh(now).filter(|access| access.expires_at.is_some()).cloned();
            match &kept {
                Some(access) if inner.config.persist_access_token => verdict.set_access(access),
                _ => verdict.drop_access(),
            }
            let Some(held) = lease.as_mut() else { break };
            match inner.vault.save(held, expected.as_ref(), &verdict).await {
                Err(error) if error.kind() == StoreErrorKind::LeaseLost => *lease = None,
                Err(error) if error.kind() == StoreErrorKind::Conflict => reread = true,
                // Saved or not, it is the truth: a restart would find the open journal and ask once more.
                Ok(_) | Err(_) => {
                    self.publish_verdict(&verdict, cause, kept);
                    return Err(AuthError::new(ErrorKind::ReauthRequired, "the refresh token was refused")
                        .caused_by(RefreshError::new(FailureKind::InvalidGrant)));
                }
            }
        }
        Err(AuthError::new(ErrorKind::Unavailable, "other processes were in the way of the refresh"))
    }

    fn publish_verdict(&self, verdict: &Record, cause: ReauthCause, kept: Option<Access>) {
        let inner = self.inner;
        let usable = kept.is_some();
        inner.edit(|edit| {
            let snapshot = Snapshot::of(verdict, AuthState::SignedOut(SignedOutCause::Never), kept);
            edit.publish(snapshot, Input::Rejected { cause, usable });
            edit.event(AuthEvent::RefreshFailed {
                account: inner.id.clone(),
                kind: FailureKind::InvalidGrant,
                retry_after: None,
            });
        });
        if usable {
            tasks::watch_expiry(inner);
        }
    }

    /// Somebody rotated what was refused to us, or said how the session stands: theirs counts. Their set may be dead
    /// too, so its own refusal would not prove a revocation.
    async fn succeeded_by(&self, lease: &mut Option<SharedLease>, found: Option<Found>) -> Outcome {
        let Some(mut found) = found else { return Ok(()) };
        if found.record.standing == Standing::SignedIn
            && !found.record.doubt
            && let Some(held) = lease.as_mut()
        {
            found.record.doubt = true;
            let _ = self.inner.vault.save(held, Some(&found.version), &found.record).await;
        }
        self.inner.adopt(&found.record);
        match self.inner.snapshot().fresh(self.inner.now()).is_some() {
            true => Ok(()),
            false => Err(self.inner.snapshot().why_no_token()),
        }
    }

    /// Nothing that ends the session: it is remembered, in memory and in the record, and everybody is quiet for a while.
    async fn transient(
        &self,
        lease: &mut Option<SharedLease>,
        attempt: Attempt,
        error: RefreshError,
        typed: AuthError,
    ) -> Outcome {
        let inner = self.inner;
        let now = inner.now();
        let proven = error.closes_attempt();
        let count = attempt.record.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
        let journalled = inner.config.journal && attempt.record.refresh_token.is_some();
        let first_doubt = journalled && !proven && attempt.attempts <= 1;
        let (kind, own_pause) = match error.kind() {
            FailureKind::Misconfigured => (StoredKind::Misconfigured, cooldown::MISCONFIGURED),
            FailureKind::Unrecognized => (StoredKind::Unrecognized, cooldown::backoff(count)),
            // With an open journal one early try: grace periods of servers are seconds.
            _ if first_doubt => (StoredKind::Transient, cooldown::backoff(1)),
            _ => (StoredKind::Transient, cooldown::backoff(count)),
        };
        let told = error.retry_after.map(|delay| delay.min(cooldown::LONGEST_RETRY_AFTER));
        let pause = told.map_or(own_pause, |told| told.max(own_pause));
        let server_said = told.is_some_and(|told| told >= own_pause);

        let mut record = attempt.record.clone();
        record.failure = Some(Failure { kind, at: now, until: now.plus(pause), count, server_said });
        if journalled {
            record.doubt = attempt.doubt;
            record.journal = (!proven).then(|| Journal {
                owner: inner.owner.clone(),
                deadline: now, // nobody need wait for it any more
                attempts: attempt.attempts,
            });
        }
        if let Ok(mark) = inner.vault.mark().await
            && mark > self.epoch
        {
            let found = inner.vault.load().await.unwrap_or_default();
            inner.signed_out(lease, found, mark, self.epoch, None).await;
            return Err(AuthError::new(ErrorKind::SignedOut, "the session was signed out meanwhile"));
        }
        if let Some(held) = lease.as_mut() {
            // If it fails, this process remembers all the same, and the journal stays open as it was written.
            let _ = inner.vault.save(held, attempt.version.as_ref(), &record).await;
        }
        let error_kind = error.kind();
        let shown = typed.caused_by(error).after(pause);
        let until = inner.monotonic().saturating_add(pause);
        inner.remember(CoolDown { error: shown.clone(), until, server_said });
        self.tell_failure(error_kind, Some(pause));
        Err(shown)
    }

    fn tell_failure(&self, kind: FailureKind, retry_after: Option<Duration>) {
        self.inner.event(AuthEvent::RefreshFailed { account: self.inner.id.clone(), kind, retry_after });
    }

    /// A pause for a failure that stands in no record.
    fn pause_after(&self, error: AuthError) -> AuthError {
        let inner = self.inner;
        let failures = inner.edit(|edit| {
            edit.desk.failures = edit.desk.failures.saturating_add(1);
            edit.desk.failures
        });
        let pause = cooldown::backoff(failures);
        let error = error.again_after(pause);
        let until = inner.monotonic().saturating_add(pause);
        inner.remember(CoolDown { error: error.clone(), until, server_said: false });
        error
    }

    /// Every failure is remembered, those without an exchange too; and a token that is spent now makes the session stale.
    fn failed(&self, error: &AuthError) {
        let inner = self.inner;
        let now = inner.monotonic();
        let remembered = inner.edit(|edit| edit.desk.cool_down.as_ref().is_some_and(|pause| pause.until > now));
        let of_this_epoch = inner.snapshot().epoch == self.epoch && !inner.snapshot().is_dead();
        if !remembered && of_this_epoch && inner.snapshot().rejected.is_none() {
            self.pause_after(error.clone());
        }
        inner.turn_if_spent();
        tasks::watch_expiry(inner);
    }
}
