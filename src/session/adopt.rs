//! Taking what a record says, and remembering failures: the ways a flight publishes.

use super::{
    cooldown::CoolDown,
    inner::Inner,
    record::{Record, Standing},
    snapshot::Snapshot,
};
use crate::state::{AuthState, Input, SignedOutCause};

impl Inner {
    /// The record counts: what differs in memory is dropped. One of an older epoch never touches a newer one.
    pub(crate) fn adopt(&self, record: &Record) {
        let now = self.now();
        let theirs = self.access_of(record);
        self.edit(|edit| {
            let old = edit.snapshot();
            let newer_epoch = record.epoch > old.epoch;
            let same_set = (record.epoch, record.generation) == (old.epoch, old.generation);
            let same_token = theirs.as_ref().map(|access| access.fingerprint)
                == old.access.as_ref().map(|access| access.fingerprint);
            // A record that keeps no access token says nothing about the one in memory.
            let keeps_mine = same_set && (same_token || theirs.is_none()) && record.standing == Standing::SignedIn;
            let access = if keeps_mine { old.access.clone() } else { theirs };
            let mut snapshot = Snapshot::of(record, old.state.clone(), access);
            snapshot.refused = old.refused && (keeps_mine || same_token);
            let fresh = snapshot.fresh(now).is_some();
            if newer_epoch && matches!(record.standing, Standing::SignedIn | Standing::ReauthRequired(_)) {
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
            edit.publish(snapshot, input);
        });
    }

    /// Quiet for a while (P9).
    pub(crate) fn remember(&self, cool_down: CoolDown) {
        let end = self.now().plus(cool_down.until.saturating_sub(self.monotonic()));
        self.edit(|edit| {
            edit.amend(|snapshot| snapshot.quiet_until = snapshot.quiet_until.max(Some(end)));
            edit.desk.cool_down = Some(cool_down);
        });
    }
}
