//! The beginning of a session: a new epoch, saved under the lease, told to everybody, published (SEMANTICS §8).

use super::{
    desk::{Departure, Outcome, SignOut},
    expiry,
    inner::Inner,
    keeper::Post,
    plan::{View, next_sign_in},
    record::{Record, Standing},
    snapshot::Access,
};
use crate::{
    clock::Correction,
    error::AuthError,
    state::{AuthState, Input, SignedOutCause},
    store::{SharedLease, StoreError, StoreErrorKind},
    token::SignIn,
};
use std::{sync::Arc, time::Duration};

/// How long a sign-in waits for the store before it goes ahead without.
const WAIT: Duration = Duration::from_secs(10);
/// How long it then tries to tell the others.
const RAISE: Duration = Duration::from_secs(1);
/// The largest refresh token that is kept, in bytes: the record has to fit into a store.
const MAX_REFRESH_TOKEN: usize = 256 << 10;
const ROUNDS: usize = 4;

impl Inner {
    /// Publishes the tokens of a sign-in. What is wrong with them is said before anything changes.
    /// `departures`: how many sign-outs and locks there were when it was called; one since then wins. `prompt`: the one
    /// that signs in; it stays open, and its answer counts for the new epoch.
    pub(crate) async fn sign_in(self: Arc<Self>, sign_in: SignIn, departures: u64, prompt: Option<u64>) -> Outcome {
        let (mut record, access) = self.new_record(sign_in)?;
        let kept = self.keep_news();
        let mut lease = None;
        let saved = tokio::time::timeout(WAIT, self.begin(&mut lease, &mut record, departures)).await;
        let unsaved = !matches!(saved, Ok(Ok(())));
        if unsaved && record.epoch == 0 && !self.arrive(departures) {
            return Err(self.ended()); // a departure was faster, and nothing is saved
        }
        if unsaved {
            // Without the lease, or without the save: the mark comes first, so that nobody older can win.
            let raised = tokio::time::timeout(RAISE, self.raise(next_sign_in)).await;
            record.epoch = match raised {
                Ok(Ok(epoch)) => epoch,
                // One that was chosen under the lease stays.
                _ => record.epoch.max(next_sign_in(self.snapshot().epoch)),
            };
        }
        let published = self.edit(|edit| {
            if edit.desk.departures != departures {
                return Err(edit.desk.departed.unwrap_or(Departure::SignOut(SignOut::Soft)));
            }
            let snapshot = self.snapshot_of(&record, AuthState::SignedOut(SignedOutCause::Never), Some(access));
            if let Some(own) = edit.desk.prompt.as_mut().filter(|open| Some(open.number) == prompt) {
                own.epoch = record.epoch;
            }
            if !edit.publish(snapshot, Input::SignedIn { unsaved }) {
                return Ok(None);
            }
            edit.desk.cool_down = None;
            edit.desk.farewell = None;
            edit.desk.breakers.clear();
            Ok(Some(unsaved.then(|| Post::take(edit.desk))))
        });
        if let Err(departure) = published {
            // What was saved has begun a new epoch in the store: it ends as the user, or the application, wanted.
            drop(lease);
            self.undo_sign_in(record.epoch, departure).await;
            return Err(self.ended());
        }
        let Ok(Some(post)) = published else {
            return Err(self.ended()); // somebody else's newer epoch was seen meanwhile
        };
        expiry::watch_expiry(&self);
        if let Some(post) = post {
            self.keep(post, record, lease);
        }
        kept.await;
        Ok(())
    }

    /// From here on departures that were called before leave this sign-in alone. `false`: one was called since it was.
    pub(crate) fn arrive(&self, departures: u64) -> bool {
        self.edit(|edit| {
            let first = edit.desk.departures == departures;
            edit.desk.arrivals += u64::from(first);
            first
        })
    }

    /// The lease, then the new epoch.
    async fn begin(
        &self,
        lease: &mut Option<SharedLease>,
        record: &mut Record,
        departures: u64,
    ) -> Result<(), AuthError> {
        // A set of an older epoch that could not be saved yet keeps the lease: it is settled first.
        *lease = self.settle_unsaved().await?;
        if lease.is_none() {
            *lease = Some(self.vault.lease(self.config.term(), WAIT).await?);
        }
        if !self.arrive(departures) {
            return Err(self.ended());
        }
        self.save_new_epoch(lease, record).await
    }

    /// Under the lease: the next even epoch above the newest, saved, then the mark.
    async fn save_new_epoch(&self, lease: &mut Option<SharedLease>, record: &mut Record) -> Result<(), AuthError> {
        for _ in 0..ROUNDS {
            let Some(held) = lease.as_mut() else { break };
            let found = self.vault.load_or_put_aside(held).await?;
            let mark = self.vault.mark().await?;
            let newest = View { found: found.as_ref(), mark, epoch: 0, base: 0 }.newest();
            record.epoch = next_sign_in(newest.max(self.snapshot().epoch));
            let version = found.map(|found| found.version);
            self.correct_all(&Correction::NONE, Some(record)); // another account may have learned the time meanwhile
            match self.vault.save(held, version.as_ref(), record).await {
                Ok(_) => {
                    let mark = self.vault.raise(record.epoch).await?;
                    if mark <= record.epoch {
                        return Ok(());
                    }
                    // Somebody signed out, or in, between the two: that one is newer, so once more above it.
                }
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) if error.kind() == StoreErrorKind::LeaseLost => {
                    *lease = self.vault.lease(self.config.term(), WAIT).await.ok();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::new(StoreErrorKind::LeaseLost).into())
    }

    /// The record of a new epoch, unless something is wrong with the tokens.
    fn new_record(&self, sign_in: SignIn) -> Result<(Record, Access), AuthError> {
        let SignIn { tokens, subject, grants, device_key_id } = sign_in;
        if subject.is_some_and(|subject| subject != self.id.subject()) {
            return Err(AuthError::misconfigured("another subject than the account's signed in"));
        }
        if !tokens.is_bearer() {
            return Err(AuthError::misconfigured("the token type is not `Bearer`"));
        }
        if tokens.refresh.as_ref().is_some_and(|t| t.expose().is_empty() || t.expose().len() > MAX_REFRESH_TOKEN) {
            return Err(AuthError::new(
                crate::error::ErrorKind::InvalidToken,
                "the refresh token is empty, or longer than 256 KiB",
            ));
        }
        // What cannot be attached must change nothing, the clock included.
        let windows = &self.config.windows;
        Access::new(tokens.access.clone(), self.now(), tokens.expires_in, windows)?;
        let correction = self.config.time.answered(tokens.date, self.monotonic());
        self.correct_all(&correction, None);
        let now = self.config.time.stamp(Duration::ZERO);
        let access = Access::new(tokens.access, now, tokens.expires_in, windows)?;

        let mut record = self.vault.blank(0, Standing::SignedIn);
        record.generation = 1;
        record.refresh_token = tokens.refresh;
        record.refresh_expires_at = tokens.refresh_expires_in.map(|lifetime| now.plus(lifetime));
        record.set_scope(tokens.scope);
        record.grants_at = Some(now);
        if let Some(grants) = grants {
            record.set_grants(grants, now);
        }
        record.device_key_id = device_key_id;
        record.last_online_auth_at = Some(now);
        record.auth_time = Some(now);
        if self.config.persist_access_token {
            access.store_in(&mut record);
        }
        Ok((record, access))
    }
}
