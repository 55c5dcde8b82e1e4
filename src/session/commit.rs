//! Making a received token set durable: save, and when that is refused find out why (SEMANTICS §3, step 6).

use super::{
    inner::Inner,
    plan::{Settle, View, settle},
    record::{Doubt, Record},
    vault::Found,
};
use crate::{
    clock::Correction,
    store::{SharedLease, StoreErrorKind, Version},
};
use std::time::Duration;

/// What became of the set.
pub(crate) enum Committed {
    /// It is durable, and nobody has signed out.
    Saved,
    /// Somebody signed out, or in anew: publish nothing.
    SignedOut { found: Option<Found>, mark: u64 },
    /// Another set counts: drop this one, and do not revoke it.
    Adopted(Box<Record>),
    /// Not durable: publish it as unsaved and keep trying.
    Unsaved,
}

/// Where to begin.
pub(crate) enum From {
    /// With the version that was loaded under the lease.
    Version(Option<Version>),
    /// With a look: an earlier attempt may have been applied, or the lease was lost.
    Look,
}

/// Two processes cannot refuse each other's saves more often than this.
const ROUNDS: usize = 8;

impl Inner {
    /// Saves `record` under `lease`, which is leased again if it was lost, for at most `wait`.
    pub(crate) async fn commit(
        &self,
        lease: &mut Option<SharedLease>,
        record: &mut Record,
        mut from: From,
        wait: Duration,
    ) -> Committed {
        for _ in 0..ROUNDS {
            if lease.is_none() {
                match self.vault.lease(self.config.term(), wait).await {
                    Ok(fresh) => *lease = Some(fresh),
                    Err(_) => return Committed::Unsaved,
                }
                from = From::Look;
            }
            let Some(held) = lease.as_mut() else { return Committed::Unsaved };
            let expected = match from {
                From::Version(version) => version,
                From::Look => {
                    let (mut found, mark) = (self.vault.load().await, self.vault.mark().await);
                    if found.is_err() && mark.as_ref().is_ok_and(|mark| *mark <= record.epoch) {
                        // Nobody has signed out since: what cannot be read there would keep this set from ever being saved.
                        found = self.vault.load_or_put_aside(held).await;
                        if matches!(found, Ok(None)) && record.generation > 1 {
                            // A successor that somebody else saved may have stood there.
                            record.doubt = record.doubt.max(Doubt::Inherited);
                        }
                    }
                    let (Ok(found), Ok(mark)) = (found, mark) else { return Committed::Unsaved };
                    let view = View { found: found.as_ref(), mark, epoch: record.epoch, base: record.generation };
                    match settle(&view, record, &self.owner) {
                        Settle::Saved => return self.saved(record).await,
                        Settle::SignedOut => return Committed::SignedOut { found, mark },
                        Settle::Adopt(theirs) => return Committed::Adopted(Box::new(theirs.clone())),
                        Settle::Save { doubt: true } => record.doubt = record.doubt.max(Doubt::Inherited),
                        Settle::Save { doubt: false } => {}
                    }
                    if let Some(theirs) = view.live() {
                        record.keep_grants_of(theirs);
                    }
                    found.map(|found| found.version)
                }
            };
            from = From::Look;
            self.correct_all(&Correction::NONE, Some(record)); // it may have waited for long
            match self.vault.save(held, expected.as_ref(), record).await {
                Ok(_version) => return self.saved(record).await,
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) if error.kind() == StoreErrorKind::LeaseLost => *lease = None,
                Err(_) => return Committed::Unsaved,
            }
        }
        Committed::Unsaved
    }

    /// The mark is read between save and publish. If it cannot be read now, the tokens are used all the same, as a set
    /// that could not be saved is: a sign-out elsewhere is seen at the next refresh.
    async fn saved(&self, record: &Record) -> Committed {
        match self.vault.mark().await {
            Ok(mark) if mark > record.epoch => {
                let found = self.vault.load().await.unwrap_or_default();
                Committed::SignedOut { found, mark }
            }
            _ if self.snapshot().epoch > record.epoch => {
                Committed::SignedOut { found: None, mark: record.epoch } // the store is not told of it yet
            }
            // A sign-in whose mark could not be raised before it was saved.
            Ok(mark) if mark < record.epoch => match self.vault.raise(record.epoch).await {
                Ok(mark) if mark <= record.epoch => Committed::Saved,
                Ok(mark) => Committed::SignedOut { found: self.vault.load().await.unwrap_or_default(), mark },
                Err(_) => Committed::Unsaved,
            },
            _ => Committed::Saved,
        }
    }
}
