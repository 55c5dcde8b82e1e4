//! The end of a grant: what an `invalid_grant` leaves, and whose word outranks it (SEMANTICS §3, step 6; §4).

use super::{
    desk::Outcome,
    expiry,
    outcome::{Attempt, Course},
    plan::{View, is_doubtful},
    record::{Doubt, Record, Standing},
    snapshot::Access,
    vault::{Found, LEASE_WAIT, in_the_way},
};
use crate::{
    error::{AuthError, ErrorKind},
    event::AuthEvent,
    failure::{FailureKind, RefreshError},
    state::{AuthState, Input, ReauthCause, SignedOutCause},
    store::{SharedLease, StoreErrorKind},
};

/// Two processes cannot get into each other's way more often than this.
const ROUNDS: usize = 16;

impl Course<'_> {
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
                match inner.vault.lease(inner.config.term(), LEASE_WAIT).await {
                    Ok(fresh) => *lease = Some(fresh),
                    Err(error) => {
                        // Somebody else has it, and may have rotated: reading needs no lease.
                        if let (Ok(found), Ok(mark)) = (inner.vault.load().await, inner.vault.mark().await) {
                            let base = attempt.record.generation;
                            let view = View { found: found.as_ref(), mark, epoch: self.epoch, base };
                            if view.newest() > self.epoch {
                                inner.signed_out(lease, found, mark, self.epoch, None).await;
                                return Err(inner.ended());
                            }
                            match view.live() {
                                Some(theirs) if theirs.generation > base => {
                                    inner.adopt(theirs, self.epoch);
                                    return self.landed();
                                }
                                Some(theirs) if is_doubtful(theirs, &inner.owner) && cause == ReauthCause::Revoked => {
                                    cause = ReauthCause::RotationLost;
                                }
                                _ => {}
                            }
                        }
                        // It cannot be told to the others now; here it is the truth all the same.
                        let mut verdict = attempt.record.clone();
                        verdict.standing = Standing::ReauthRequired(cause);
                        verdict.refresh_token = None;
                        let kept = inner.snapshot().fresh(now).filter(|access| access.expires_at.is_some()).cloned();
                        self.publish_verdict(&verdict, cause, kept);
                        return Err(in_the_way(error));
                    }
                }
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
            let old = edit.snapshot();
            if (old.epoch, old.generation) > (self.epoch, verdict.generation) {
                return; // of another sign-in, or of a newer set
            }
            let mut snapshot = inner.snapshot_of(verdict, AuthState::SignedOut(SignedOutCause::Never), kept);
            snapshot.refused = old.refused;
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
        self.landed()
    }

    /// What an adoption is worth to those who wait.
    pub(crate) fn landed(&self) -> Outcome {
        let snapshot = self.inner.snapshot();
        // One that is only spent is worth the next flight, which goes on with its refresh token.
        match snapshot.is_dead() || snapshot.rejected.is_some() {
            true => Err(snapshot.why_no_token()),
            false => Ok(()),
        }
    }
}
