//! What the user may do, as the application learned it from a server.

use super::{desk::Outcome, inner::Inner, record::Standing};
use crate::{store::StoreErrorKind, token::Grants};
use std::{sync::Arc, time::Duration};

const LEASE_WAIT: Duration = Duration::from_secs(10);
const ROUNDS: usize = 4;

impl Inner {
    /// Durable, under the lease; somebody else's change to the record in between is kept. `epoch`: whose grants they are; a
    /// later sign-in begins with its own.
    pub(crate) async fn save_grants(self: Arc<Self>, grants: Grants, epoch: u64) -> Outcome {
        if self.snapshot().is_dead() {
            return Err(self.snapshot().why_no_token());
        }
        let mut lease = match self.settle_unsaved().await? {
            Some(lease) => lease,
            None => self.vault.lease(self.config.term(), LEASE_WAIT).await?,
        };
        for _ in 0..ROUNDS {
            let (found, mark) = (self.vault.load().await?, self.vault.mark().await?);
            let version = found.as_ref().map(|found| found.version.clone());
            let mut record = match found.filter(|found| found.record.epoch >= mark) {
                Some(found) => *found.record,
                // A session that starts by itself has no record before its first exchange.
                None if self.config.self_starting && mark <= epoch => self.vault.blank(epoch, Standing::SignedIn),
                None => break,
            };
            if record.epoch != epoch || self.snapshot().epoch != epoch || self.snapshot().is_dead() {
                break;
            }
            record.set_grants(grants.clone(), self.config.time.stamp(Duration::ZERO));
            match self.vault.save(&mut lease, version.as_ref(), &record).await {
                Ok(_) => {
                    self.adopt(&record, epoch);
                    return Ok(());
                }
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(self.ended())
    }
}
