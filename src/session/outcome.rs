//! What became of an exchange, and what follows from it (SEMANTICS §3, step 6; §4).

use super::{
    commit::{Committed, From},
    cooldown::{self, CoolDown},
    desk::{Departure, Outcome},
    expiry,
    inner::Inner,
    plan::{View, is_doubtful},
    record::{Doubt, Failure, Journal, Record, Refusals, Standing, StoredKind},
    snapshot::Access,
    vault::{Found, LEASE_WAIT, in_the_way},
};
use crate::{
    clock::Stamp,
    error::{AuthError, ErrorKind},
    event::AuthEvent,
    failure::{FailureKind, RefreshError},
    refresher::Refresher as _,
    state::{AuthState, Input, LockCause, ReauthCause, SignedOutCause},
    store::{SharedLease, StoreErrorKind, Version},
    token::Tokens,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

/// Two processes cannot get into each other's way more often than this.
const ROUNDS: usize = 16;
/// Bare refusals count as one unless they are this far apart, and this many of them as a verdict.
const REFUSALS_APART: Duration = Duration::from_secs(30);
const REFUSALS: u32 = 3;

/// A flight under way.
pub(crate) struct Course<'a> {
    pub(crate) inner: &'a Arc<Inner>,
    pub(crate) epoch: u64,
    /// Monotonic.
    pub(crate) started: Duration,
}

/// What is exchanged, and what it was found with.
pub(crate) struct Attempt {
    /// As it was before the journal was written.
    pub(crate) record: Record,
    /// Of the record with the journal in it.
    pub(crate) version: Option<Version>,
    /// An earlier attempt may have spent the token.
    pub(crate) doubt: Doubt,
    pub(crate) attempts: u32,
}

impl Course<'_> {
    // ===== step 6: a 200 =====

    pub(crate) async fn received(
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
        record.doubt = attempt.doubt.pass_on();
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
                    told_until: None,
                });
                (inner.snapshot().fresh(now).cloned(), Some((problem, pause)))
            }
        };
        match &access {
            Some(access) if inner.config.persist_access_token => access.store_in(&mut record),
            _ => record.drop_access(),
        }

        let committed = inner.commit(lease, &mut record, From::Version(attempt.version), LEASE_WAIT).await;
        let unsaved = match committed {
            Committed::Saved => false,
            Committed::Unsaved => true,
            Committed::Adopted(theirs) => {
                inner.adopt(&theirs, self.epoch);
                return Ok(());
            }
            Committed::SignedOut { found, mark } => {
                let minted = record.refresh_token.take();
                inner.signed_out(lease, found, mark, self.epoch, minted).await;
                return Err(inner.ended());
            }
        };
        let born_spent = problem.is_none() && access.as_ref().is_some_and(|access| access.expired(inner.now()));
        let took = inner.monotonic().saturating_sub(self.started);
        let published = inner.edit(|edit| {
            let snapshot = inner.snapshot_of(&record, AuthState::SignedOut(SignedOutCause::Never), access);
            let published = edit.snapshot().epoch <= self.epoch && edit.publish(snapshot, Input::Renewed { unsaved });
            if published && problem.is_none() {
                if !born_spent {
                    edit.land();
                }
                edit.event(AuthEvent::Refreshed { account: inner.id.clone(), took });
            }
            published
        });
        if !published {
            let (found, mark) = (None, inner.snapshot().epoch);
            let minted = record.refresh_token.take();
            inner.signed_out(lease, found, mark, self.epoch, minted).await;
            return Err(inner.ended());
        }
        expiry::watch_expiry(inner);
        if unsaved {
            inner.keep(record, lease.take());
        }
        if let Some((problem, pause)) = problem {
            let until = inner.monotonic().saturating_add(pause);
            let error = problem.after(pause);
            inner.remember(self.epoch, CoolDown { error: error.clone(), until, told_until: None });
            self.tell_failure(FailureKind::Misconfigured, Some(pause));
            return Err(error);
        }
        if born_spent {
            let why = "the token endpoint's tokens are spent when they arrive";
            return Err(inner.pause(self.epoch, &AuthError::new(ErrorKind::Unavailable, why)));
        }
        Ok(())
    }

    // ===== step 6: anything else =====

    pub(crate) async fn refused(
        &self,
        lease: &mut Option<SharedLease>,
        mut attempt: Attempt,
        mut error: RefreshError,
    ) -> Outcome {
        let inner = self.inner;
        // What the answer proves does not depend on what a classifier makes of it.
        let proven = error.closes_attempt();
        let classify = || inner.config.classifier.classify(inner.config.refresher.issuer(), &error);
        // A classifier of the user's that panics has no say: what came with the answer is not lost for it.
        error.kind = catch_unwind(AssertUnwindSafe(classify)).unwrap_or(error.kind);
        if error.kind() == FailureKind::AccountDisabled {
            // An old grant's end is not the new sign-in's.
            let mark = inner.vault.mark().await.unwrap_or(self.epoch).max(inner.snapshot().epoch);
            if mark > self.epoch {
                let found = inner.vault.load().await.unwrap_or_default();
                inner.signed_out(lease, found, mark, self.epoch, None).await;
                return Err(inner.ended());
            }
            let (epoch, _told) = inner.depart(Departure::Lock(LockCause::AccountDisabled)).await;
            inner.lay_tombstone(lease, epoch).await;
            self.tell_failure(FailureKind::AccountDisabled, None);
            return Err(inner.snapshot().why_no_token());
        }
        if let Some(refresh) = error.rescued.take() {
            let mut record = attempt.record.clone();
            record.refresh_token = Some(*refresh);
            record.refresh_expires_at = None;
            return self.renew(lease, attempt, record, Err(error.into())).await;
        }
        match error.kind() {
            FailureKind::InvalidGrant => {
                let cause = match attempt.doubt {
                    Doubt::None => ReauthCause::Revoked,
                    Doubt::Inherited | Doubt::Own => ReauthCause::RotationLost,
                };
                self.rejected(lease, attempt, cause).await
            }
            FailureKind::Unrecognized => {
                let now = inner.now();
                let refusals = match attempt.record.refusals {
                    // One from the future says only that a clock was wrong.
                    Some(before) if before.last_at <= now && now.since(before.last_at) < REFUSALS_APART => before,
                    before => Refusals { count: before.map_or(0, |b| b.count).saturating_add(1), last_at: now },
                };
                attempt.record.refusals = Some(refusals);
                if refusals.count >= REFUSALS && inner.snapshot().fresh(now).is_none() {
                    return self.rejected(lease, attempt, ReauthCause::Rejected).await;
                }
                let typed = AuthError::from(RefreshError::new(FailureKind::Unrecognized));
                self.transient(lease, attempt, error, typed, proven).await
            }
            FailureKind::Transient | FailureKind::Misconfigured | FailureKind::AccountDisabled => {
                attempt.record.refusals = None;
                let typed = AuthError::from(RefreshError::new(error.kind()));
                self.transient(lease, attempt, error, typed, proven).await
            }
        }
    }

    /// The refresh token is dead. A successor in the store outranks that.
    pub(crate) async fn rejected(
        &self,
        lease: &mut Option<SharedLease>,
        attempt: Attempt,
        mut cause: ReauthCause,
    ) -> Outcome {
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
                    return Err(inner.ended());
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
            verdict.doubt = verdict.doubt.max(attempt.doubt);
            verdict.failure = None;
            // The access token stays in use until it expires, unless it is what the server refused.
            let kept = inner.snapshot().fresh(now).filter(|access| access.expires_at.is_some()).cloned();
            match &kept {
                Some(access) if inner.config.persist_access_token => access.store_in(&mut verdict),
                _ => verdict.drop_access(),
            }
            let Some(held) = lease.as_mut() else { break };
            match inner.vault.save(held, expected.as_ref(), &verdict).await {
                Err(error) if error.kind() == StoreErrorKind::LeaseLost => *lease = None,
                Err(error) if error.kind() == StoreErrorKind::Conflict => reread = true,
                // Saved or not, it is the truth: a restart would find the open journal and ask once more.
                Ok(_) | Err(_) => {
                    if let Ok(mark) = inner.vault.mark().await
                        && mark > self.epoch
                    {
                        let found = inner.vault.load().await.unwrap_or_default();
                        inner.signed_out(lease, found, mark, self.epoch, None).await;
                        return Err(inner.ended());
                    }
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
            if edit.snapshot().epoch > self.epoch {
                return; // another sign-in's
            }
            let snapshot = inner.snapshot_of(verdict, AuthState::SignedOut(SignedOutCause::Never), kept);
            edit.publish(snapshot, Input::Rejected { cause, usable });
            edit.event(AuthEvent::RefreshFailed {
                account: inner.id.clone(),
                kind: FailureKind::InvalidGrant,
                retry_after: None,
            });
        });
        if usable {
            expiry::watch_expiry(inner);
        }
    }

    /// Somebody rotated what was refused to us, or said how the session stands: theirs counts. Their set may be dead
    /// too, so its own refusal would not prove a revocation.
    async fn succeeded_by(&self, lease: &mut Option<SharedLease>, found: Option<Found>) -> Outcome {
        let Some(mut found) = found else { return Ok(()) };
        if found.record.standing == Standing::SignedIn
            && found.record.doubt == Doubt::None
            && let Some(held) = lease.as_mut()
        {
            found.record.doubt = Doubt::Inherited;
            let _ = self.inner.vault.save(held, Some(&found.version), &found.record).await;
        }
        self.inner.adopt(&found.record, self.epoch);
        match self.inner.snapshot().fresh(self.inner.now()).is_some() {
            true => Ok(()),
            false => Err(self.inner.snapshot().why_no_token()),
        }
    }

    /// Nothing that ends the session: it is remembered, in memory and in the record, and everybody is quiet for a while.
    pub(crate) async fn transient(
        &self,
        lease: &mut Option<SharedLease>,
        attempt: Attempt,
        error: RefreshError,
        typed: AuthError,
        proven: bool,
    ) -> Outcome {
        let inner = self.inner;
        let now = inner.now();
        let count = attempt.record.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
        let journalled = inner.config.journal && attempt.record.refresh_token.is_some();
        // With an open journal one early try: grace periods of servers are seconds.
        let first_doubt = journalled && !proven && attempt.attempts <= 1;
        let early_or = |count| if first_doubt { 1 } else { count };
        let (kind, own_pause) = match error.kind() {
            FailureKind::Misconfigured => (StoredKind::Misconfigured, cooldown::MISCONFIGURED),
            FailureKind::Unrecognized => (StoredKind::Unrecognized, cooldown::backoff(early_or(count))),
            _ => (StoredKind::Transient, cooldown::backoff(early_or(count))),
        };
        let at = error.retry_at.map(|at| Stamp::from(at).since(now));
        let told = error.retry_after.or(at).map(|delay| delay.min(cooldown::LONGEST_RETRY_AFTER));
        let pause = told.map_or(own_pause, |told| told.max(own_pause));

        let mut record = attempt.record.clone();
        record.failure =
            Some(Failure { kind, at: now, until: now.plus(pause), count, told_until: told.map(|told| now.plus(told)) });
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
            return Err(inner.ended());
        }
        if let Some(held) = lease.as_mut() {
            // If it fails, this process remembers all the same, and the journal stays open as it was written.
            let _ = inner.vault.save(held, attempt.version.as_ref(), &record).await;
        }
        let error_kind = error.kind();
        let shown = typed.caused_by(error).after(pause);
        let mono = inner.monotonic();
        let told_until = told.map(|told| mono.saturating_add(told));
        inner.remember(self.epoch, CoolDown { error: shown.clone(), until: mono.saturating_add(pause), told_until });
        self.tell_failure(error_kind, Some(pause));
        Err(shown)
    }

    fn tell_failure(&self, kind: FailureKind, retry_after: Option<Duration>) {
        self.inner.event(AuthEvent::RefreshFailed { account: self.inner.id.clone(), kind, retry_after });
    }

    /// Every failure is remembered, those without an exchange too; and a token that is spent now makes the session stale.
    /// Answers the error with its pause.
    pub(crate) fn failed(&self, error: AuthError) -> AuthError {
        let inner = self.inner;
        let now = inner.monotonic();
        let remembered = inner.edit(|edit| edit.desk.cool_down.as_ref().is_some_and(|pause| pause.until > now));
        let of_this_epoch = {
            let snapshot = inner.snapshot();
            snapshot.epoch == self.epoch && !snapshot.is_dead() && snapshot.rejected.is_none()
        };
        let error = match !remembered && of_this_epoch {
            true => inner.pause(self.epoch, &error),
            false => error,
        };
        inner.turn_if_spent();
        expiry::watch_expiry(inner);
        error
    }
}
