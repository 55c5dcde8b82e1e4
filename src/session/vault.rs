//! One account's place in the store: every call bounded in time, every panic of a store an error, bytes as records.

use super::record::Record;
use crate::{
    account::{AccountId, AccountKey},
    error::{AuthError, ErrorKind},
    store::{LeaseGuard as _, SessionStore as _, SharedLease, SharedStore, StoreError, StoreErrorKind, Version},
};
use futures_util::FutureExt as _;
use std::{collections::BTreeSet, panic::AssertUnwindSafe, time::Duration};

/// The longest a store may take for one call.
const CALL: Duration = Duration::from_secs(10);
/// How long a start waits for the lease, to put aside what cannot be read.
const ASIDE_WAIT: Duration = Duration::from_secs(1);
/// How long the end of a program waits for leases that are on their way back.
const IDLE: Duration = Duration::from_secs(3);
/// How long a flight waits for the lease.
pub(crate) const LEASE_WAIT: Duration = Duration::from_secs(60);

pub(crate) struct Vault {
    store: SharedStore,
    pub(crate) key: AccountKey,
    account: AccountId,
    issuer: String,
    client_id: String,
}

/// A record and the version it was loaded as.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) record: Box<Record>,
    pub(crate) version: Version,
}

impl Vault {
    pub(crate) fn new(store: SharedStore, account: AccountId, issuer: &str, client_id: &str) -> Self {
        let key = AccountKey::derive(issuer, client_id, &account);
        Self { store, key, account, issuer: issuer.to_owned(), client_id: client_id.to_owned() }
    }

    /// The newest record. One of another issuer or client is `Misconfigured` (P10), one of another account `Corrupt`.
    pub(crate) async fn load(&self) -> Result<Option<Found>, AuthError> {
        let found = find(&self.store, &self.key).await?;
        found.as_ref().map_or(Ok(()), |found| self.accept(&found.record))?;
        Ok(found)
    }

    /// Whether a record is this account's, of this issuer and client.
    pub(crate) fn accept(&self, record: &Record) -> Result<(), AuthError> {
        if record.issuer != self.issuer || record.client_id != self.client_id {
            return Err(AuthError::misconfigured("the stored session belongs to another issuer or client"));
        }
        if record.account() != self.account {
            let why = "the stored session belongs to another account";
            return Err(StoreError::new(StoreErrorKind::Corrupt).with_source(why).into());
        }
        Ok(())
    }

    /// A record that nobody will ever be able to read is put aside, so that the next start finds room.
    pub(crate) async fn put_aside(&self, term: Duration) {
        let Ok(mut lease) = self.lease(term, ASIDE_WAIT).await else { return };
        // Whoever held the lease may have replaced it meanwhile.
        if self.load().await.is_err_and(|error| is_unreadable(&error)) {
            let _ = self.set_aside(&mut lease).await;
        }
    }

    /// The newest record, for somebody who is about to replace it whatever it says: one that cannot be read is put aside.
    pub(crate) async fn load_or_put_aside(&self, lease: &mut SharedLease) -> Result<Option<Found>, AuthError> {
        match self.load().await {
            Err(error) if is_in_the_way(&error) => {
                self.set_aside(lease).await.map_err(|_| error)?;
                self.load().await
            }
            other => other,
        }
    }

    async fn set_aside(&self, lease: &mut SharedLease) -> Result<(), StoreError> {
        bounded(CALL, self.store.set_aside(lease)).await
    }

    /// The mark: the newest sign-in or sign-out that any process told of.
    pub(crate) async fn mark(&self) -> Result<u64, StoreError> {
        self.raise(0).await
    }

    pub(crate) async fn raise(&self, to: u64) -> Result<u64, StoreError> {
        bounded(CALL, self.store.raise_epoch(&self.key, to)).await
    }

    /// Waits for the lease for at most `wait`.
    pub(crate) async fn lease(&self, ttl: Duration, wait: Duration) -> Result<SharedLease, StoreError> {
        bounded(wait, self.store.lease(&self.key, ttl)).await
    }

    pub(crate) async fn renew(&self, lease: &mut SharedLease) -> Result<(), StoreError> {
        bounded(CALL, lease.renew()).await
    }

    pub(crate) async fn save(
        &self,
        lease: &mut SharedLease,
        expected: Option<&Version>,
        record: &Record,
    ) -> Result<Version, StoreError> {
        let bytes = record.write()?;
        if bytes.len() > crate::store::MAX_RECORD {
            return Err(StoreError::new(StoreErrorKind::TooLarge));
        }
        bounded(CALL, self.store.save(lease, expected, &bytes)).await
    }

    pub(crate) async fn remove(&self, lease: &mut SharedLease, expected: Option<&Version>) -> Result<(), StoreError> {
        bounded(CALL, self.store.remove(lease, expected)).await
    }

    /// A hint that the record may have changed.
    pub(crate) async fn changed(&self) {
        // A store whose hints panic has none.
        if AssertUnwindSafe(self.store.changed(&self.key)).catch_unwind().await.is_err() {
            std::future::pending().await
        }
    }

    /// Leases that were dropped are given back, as far as the store answers.
    pub(crate) async fn idle(&self) {
        let idle = async {
            self.store.idle().await;
            Ok(())
        };
        let _ = bounded(IDLE, idle).await;
    }

    pub(crate) fn account(&self) -> &AccountId {
        &self.account
    }

    /// A record of this account without tokens.
    pub(crate) fn blank(&self, epoch: u64, standing: super::record::Standing) -> Record {
        Record::empty(&self.account, &self.issuer, &self.client_id, epoch, standing)
    }
}

/// Whose records the store has, each once.
pub(crate) async fn keys(store: &SharedStore) -> Result<BTreeSet<AccountKey>, StoreError> {
    bounded(CALL, store.accounts()).await.map(BTreeSet::from_iter)
}

/// The record that stands there, whosever it is.
pub(crate) async fn find(store: &SharedStore, key: &AccountKey) -> Result<Option<Found>, AuthError> {
    let Some(stored) = bounded(CALL, store.load(key)).await? else { return Ok(None) };
    let record = Box::new(Record::read(stored.bytes())?);
    Ok(Some(Found { record, version: stored.version().clone() }))
}

async fn bounded<T>(limit: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_panic)) => Err(StoreError::unavailable("the store panicked")),
        Err(_elapsed) => Err(StoreError::unavailable("the store did not answer in time")),
    }
}

fn store_kind(error: &AuthError) -> Option<StoreErrorKind> {
    error.store_error().map(StoreError::kind)
}

/// Not now, and not ever.
pub(crate) fn is_unreadable(error: &AuthError) -> bool {
    matches!(store_kind(error), Some(StoreErrorKind::Corrupt | StoreErrorKind::TooLarge))
}

/// Not now: a key, a permission or a newer program would help.
pub(crate) fn is_denied(error: &AuthError) -> bool {
    matches!(store_kind(error), Some(StoreErrorKind::Denied | StoreErrorKind::NewerVersion))
}

/// Not now, and perhaps not ever: its key or its permissions are not to be had.
pub(crate) fn is_in_the_way(error: &AuthError) -> bool {
    is_unreadable(error) || store_kind(error) == Some(StoreErrorKind::Denied)
}

/// A store's failure in the way of a refresh: no token now, perhaps later.
pub(crate) fn in_the_way(error: impl Into<AuthError>) -> AuthError {
    let error = error.into();
    match error.kind() {
        ErrorKind::Store => {
            AuthError::new(ErrorKind::Unavailable, "no fresh token can be had: the session store failed")
                .caused_by(error)
        }
        _ => error,
    }
}
