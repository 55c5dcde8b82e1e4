//! Taking what a record says, and remembering failures: the ways a flight publishes.

use super::{
    config::Reader,
    cooldown::{self, CoolDown},
    inner::Inner,
    record::{Record, Standing},
};
use crate::{
    clock::Correction,
    error::AuthError,
    state::{AuthState, Input, SignedOutCause},
};

impl Reader for Inner {
    fn correct(&self, correction: &Correction) {
        let corrected = |moment| self.config.time.corrected(moment, correction);
        self.edit(|edit| edit.amend(|snapshot| snapshot.correct(corrected)));
    }
}

impl Inner {
    /// The record counts, for whoever knew of epoch `known`: what differs in memory is dropped, but for a set that could
    /// not be saved yet. A newer epoch than `known`, of a sign-in or sign-out since, is never touched.
    pub(crate) fn adopt(&self, record: &Record, known: u64) {
        self.take_time(record);
        let now = self.now();
        let theirs = self.access_of(record);
        self.edit(|edit| {
            let old = edit.snapshot();
            let unsaved = matches!(old.state, AuthState::Active { unsaved: true, .. });
            let older = (record.epoch, record.generation) < (old.epoch, old.generation);
            if old.epoch > known || (unsaved && older) {
                return;
            }
            let newer_epoch = record.epoch > old.epoch;
            let same_set = (record.epoch, record.generation) == (old.epoch, old.generation);
            let same_token = theirs.as_ref().map(|access| access.fingerprint)
                == old.access.as_ref().map(|access| access.fingerprint);
            // A record that keeps no access token says nothing about the one in memory.
            let keeps_mine = same_set && (same_token || theirs.is_none()) && record.standing == Standing::SignedIn;
            let access = if keeps_mine { old.access.clone() } else { theirs };
            let mut snapshot = self.snapshot_of(record, old.state.clone(), access);
            snapshot.refused = old.refused && (keeps_mine || same_token);
            let fresh = snapshot.fresh(now).is_some();
            let begins = newer_epoch || matches!(old.state, AuthState::SignedOut(_));
            if begins && matches!(record.standing, Standing::SignedIn | Standing::ReauthRequired(_)) {
                edit.input(Input::SignedIn { unsaved: false });
            }
            let stays = matches!(old.state, AuthState::Active { .. } | AuthState::OfflineStale { .. });
            let input = match record.standing {
                Standing::SignedIn if fresh || !stays => Some(Input::Renewed { unsaved: false }),
                Standing::SignedIn => None,
                Standing::ReauthRequired(cause) => Some(Input::Rejected { cause, usable: fresh }),
                Standing::Locked(cause) => Some(Input::Locked(cause)),
                Standing::SignedOut if !newer_epoch && matches!(old.state, AuthState::SignedOut(_)) => None,
                Standing::SignedOut => Some(Input::SignedOut(SignedOutCause::Elsewhere)),
            };
            let newer = (record.epoch, record.generation) > (old.epoch, old.generation);
            if edit.publish(snapshot, input) && fresh && newer && !newer_epoch {
                edit.land();
            }
        });
    }

    /// A token endpoint has answered: what was written down by a clock that was wrong is corrected, in memory, of every
    /// account of this clock, and in `record`, which is about to be saved.
    pub(crate) fn correct_all(&self, correction: &Correction, record: Option<&mut Record>) {
        if let Some(record) = record {
            // In any case: another account may have learned the time since it was read, or written.
            record.correct(|moment| self.config.time.corrected(moment, correction));
        }
        if !correction.is_none() {
            self.config.correct(correction);
        }
    }

    /// The moments in a record have passed. A set that is newer than the one in memory is somebody else's contact with the
    /// server: a wall clock that is behind it is slow, and need not have been turned back since.
    pub(crate) fn take_time(&self, record: &Record) {
        let time = &self.config.time;
        for moment in [record.last_online_auth_at, record.auth_time].into_iter().flatten() {
            time.seen(moment);
        }
        let held = self.snapshot();
        if record.standing == Standing::SignedIn && (record.epoch, record.generation) > (held.epoch, held.generation) {
            time.contact();
        }
    }

    /// Quiet for a while (P9): what a flight of `epoch` ended with. It says nothing of another epoch.
    pub(crate) fn remember(&self, epoch: u64, cool_down: CoolDown) {
        let end = self.now().plus(cool_down.until.saturating_sub(self.monotonic()));
        self.edit(|edit| {
            if edit.snapshot().epoch == epoch {
                edit.amend(|snapshot| snapshot.quiet_until = Some(end));
                edit.desk.cool_down = Some(cool_down);
            }
        });
    }

    /// The same for a failure that stands in no record; answers the error with its pause.
    pub(crate) fn pause(&self, epoch: u64, error: &AuthError) -> AuthError {
        let failures = self.edit(|edit| {
            edit.desk.failures = edit.desk.failures.saturating_add(1);
            edit.desk.failures
        });
        let pause = cooldown::backoff(failures);
        let error = error.again_after(pause);
        let until = self.monotonic().saturating_add(pause);
        self.remember(epoch, CoolDown { error: error.clone(), until, told_until: None });
        error
    }
}
