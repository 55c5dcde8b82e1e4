//! [`MemoryStore`]: records that live as long as the process.

use super::{LeaseGuard, MAX_RECORD, SessionStore, StoreError, StoreErrorKind, Stored, Version};
use crate::account::AccountKey;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// In memory; clones share it. Durable means: until the process ends.
///
/// ```
/// use tower_reauth::{MemoryStore, Session, Tokens, refresh_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::AuthError> {
/// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh"))))
///     .store(MemoryStore::new())
///     .open("alice")
///     .await?;
/// # drop(session); Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// Never starts anew, so that no version comes twice.
    saves: u64,
    rows: HashMap<AccountKey, Row>,
}

struct Row {
    record: Option<Stored>,
    aside: Vec<Stored>,
    epoch: u64,
    lease: Arc<Semaphore>,
    changed: Arc<Notify>,
}

impl Default for Row {
    fn default() -> Self {
        Self { record: None, aside: Vec::new(), epoch: 0, lease: Arc::new(Semaphore::new(1)), changed: Arc::default() }
    }
}

impl MemoryStore {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn row<T>(&self, key: &AccountKey, f: impl FnOnce(&mut Row) -> T) -> T {
        self.with(|table| f(table.rows.entry(key.clone()).or_default()))
    }

    fn write(&self, key: &AccountKey, expected: Option<&Version>, bytes: Option<&[u8]>) -> Result<Version, StoreError> {
        if bytes.is_some_and(|bytes| bytes.len() > MAX_RECORD) {
            return Err(StoreError::new(StoreErrorKind::TooLarge));
        }
        self.with(|table| {
            let row = table.rows.entry(key.clone()).or_default();
            if row.record.as_ref().map(Stored::version) != expected {
                return Err(StoreError::new(StoreErrorKind::Conflict));
            }
            table.saves += 1;
            let version = Version::from(table.saves);
            row.record = bytes.map(|bytes| Stored::new(bytes, version.clone()));
            row.changed.notify_waiters();
            Ok(version)
        })
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

mod lease {
    use super::{AccountKey, LeaseGuard, OwnedSemaphorePermit, StoreError};

    /// The lease of a `MemoryStore`: valid until it is dropped.
    #[derive(Debug)]
    pub struct Lease {
        pub(super) key: AccountKey,
        pub(super) _permit: OwnedSemaphorePermit,
    }

    impl LeaseGuard for Lease {
        async fn renew(&mut self) -> Result<(), StoreError> {
            Ok(())
        }
    }
}

impl SessionStore for MemoryStore {
    type Lease = lease::Lease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        Ok(self.row(key, |row| row.record.clone()))
    }

    async fn lease(&self, key: &AccountKey, _ttl: Duration) -> Result<lease::Lease, StoreError> {
        let lease = self.row(key, |row| row.lease.clone());
        let permit = lease.acquire_owned().await.map_err(StoreError::unavailable)?;
        Ok(lease::Lease { key: key.clone(), _permit: permit })
    }

    async fn save(
        &self,
        lease: &mut lease::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        self.write(&lease.key, expected, Some(bytes))
    }

    async fn remove(&self, lease: &mut lease::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        self.write(&lease.key, expected, None).map(drop)
    }

    /// Kept until the process ends, as everything here.
    async fn set_aside(&self, lease: &mut lease::Lease) -> Result<(), StoreError> {
        self.row(&lease.key, |row| {
            let record = row.record.take();
            row.aside.extend(record);
            row.changed.notify_waiters();
        });
        Ok(())
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        Ok(self.row(key, |row| {
            if to > row.epoch {
                row.epoch = to;
                row.changed.notify_waiters();
            }
            row.epoch
        }))
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        Ok(self.with(|table| {
            table.rows.iter().filter(|(_, row)| row.record.is_some()).map(|(key, _)| key.clone()).collect()
        }))
    }

    async fn changed(&self, key: &AccountKey) {
        let changed = self.row(key, |row| row.changed.clone());
        changed.notified().await;
    }
}
