//! What became of an exchange, and what follows from it (SEMANTICS §3, step 6; §4).

use super::{
    commit::{Committed, From},
    cooldown::{self, CoolDown},
    desk::{Departure, Outcome},
    expiry,
    inner::Inner,
    keeper::Post,
    record::{Doubt, Failure, Journal, Record, Refusals, Standing, StoredKind},
    snapshot::Access,
    vault::LEASE_WAIT,
};
use crate::{
    clock::Stamp,
    error::{AuthError, ErrorKind},
    event::AuthEvent,
    failure::{FailureKind, RefreshError},
    refresher::Refresher as _,
    state::{AuthState, Input, LockCause, ReauthCause, SignedOutCause},
    store::{SharedLease, Version},
    token::Tokens,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

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
        let sent_at = inner.config.time.stamp(inner.monotonic().saturating_sub(asked));
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
        let now = inner.config.time.stamp(Duration::ZERO);
        record.last_online_auth_at = Some(now);
        if !record.grants_explicit {
            record.grants_at = Some(now);
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
                return self.landed();
            }
            Committed::SignedOut { found, mark } => {
                let minted = record.refresh_token.take();
                inner.signed_out(lease, found, mark, self.epoch, minted).await;
                return Err(inner.ended());
            }
        };
        let born_spent = problem.is_none() && access.as_ref().is_some_and(|access| access.expired(inner.now()));
        let took = inner.monotonic().saturating_sub(self.started);
        let mut post = None;
        let published = inner.edit(|edit| {
            let old = edit.snapshot();
            let mut snapshot = inner.snapshot_of(&record, AuthState::SignedOut(SignedOutCause::Never), access);
            snapshot.refused = problem.is_some() && old.refused; // a 401 came while it was saved
            let published = old.epoch <= self.epoch && edit.publish(snapshot, Input::Renewed { unsaved });
            if published && unsaved {
                post = Some(Post::take(edit.desk)); // before anybody can ask for it
            }
            if published && problem.is_none() {
                if !born_spent {
                    edit.land();
                }
                edit.event(AuthEvent::Refreshed { account: inner.id.clone(), took });
            }
            published
        });
        if !published {
            let (found, mark) = (None, inner.vault.mark().await.unwrap_or(self.epoch));
            let minted = record.refresh_token.take();
            inner.signed_out(lease, found, mark, self.epoch, minted).await;
            return Err(inner.ended());
        }
        expiry::watch_expiry(inner);
        if let Some(post) = post {
            inner.keep(post, record, lease.take());
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
            let lock = Departure::Lock(LockCause::AccountDisabled);
            let departed = inner.depart(inner.announce(lock)).await;
            inner.lay_tombstone(lease, departed.epoch).await;
            inner.see_through(departed, lock);
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
