//! [`SharedStore`]: any store, erased.

use super::{LeaseGuard, SessionStore, StoreError, StoreErrorKind, Stored, Version};
use crate::account::AccountKey;
use std::{any::Any, fmt, pin::Pin, sync::Arc, time::Duration};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Any store, erased; clones share it. For programs that pick their store at run time.
///
/// ```
/// use tower_reauth::{MemoryStore, SharedStore};
///
/// let store: SharedStore = SharedStore::new(MemoryStore::new());
/// # drop(store);
/// ```
#[derive(Clone)]
pub struct SharedStore(Arc<dyn DynStore>);

impl SharedStore {
    /// Erases a store.
    pub fn new(store: impl SessionStore) -> Self {
        Self(Arc::new(Erased(store)))
    }
}

impl fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedStore")
    }
}

trait DynLease: Any + Send {
    fn valid_for(&self) -> Option<Duration>;
    fn renew(&mut self) -> BoxFuture<'_, Result<(), StoreError>>;
}

impl<L: LeaseGuard + Send + 'static> DynLease for L {
    fn valid_for(&self) -> Option<Duration> {
        LeaseGuard::valid_for(self)
    }

    fn renew(&mut self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(LeaseGuard::renew(self))
    }
}

/// The erased twin of [`SessionStore`].
trait DynStore: Send + Sync {
    fn load<'a>(&'a self, key: &'a AccountKey) -> BoxFuture<'a, Result<Option<Stored>, StoreError>>;
    fn lease<'a>(&'a self, key: &'a AccountKey, ttl: Duration) -> BoxFuture<'a, Result<Box<dyn DynLease>, StoreError>>;
    fn save<'a>(
        &'a self,
        lease: &'a mut dyn DynLease,
        expected: Option<&'a Version>,
        bytes: &'a [u8],
    ) -> BoxFuture<'a, Result<Version, StoreError>>;
    fn remove<'a>(
        &'a self,
        lease: &'a mut dyn DynLease,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
    fn set_aside<'a>(&'a self, lease: &'a mut dyn DynLease) -> BoxFuture<'a, Result<(), StoreError>>;
    fn raise_epoch<'a>(&'a self, key: &'a AccountKey, to: u64) -> BoxFuture<'a, Result<u64, StoreError>>;
    fn accounts(&self) -> BoxFuture<'_, Result<Vec<AccountKey>, StoreError>>;
    fn changed<'a>(&'a self, key: &'a AccountKey) -> BoxFuture<'a, ()>;
    fn idle(&self) -> BoxFuture<'_, ()>;
}

struct Erased<S>(S);

impl<S: SessionStore> Erased<S> {
    /// The lease as this store made it; a lease of another store is no right to write here.
    fn own(lease: &mut dyn DynLease) -> Result<&mut S::Lease, StoreError> {
        let lease: &mut dyn Any = lease;
        lease.downcast_mut().ok_or_else(|| StoreError::new(StoreErrorKind::LeaseLost))
    }
}

impl<S: SessionStore> DynStore for Erased<S> {
    fn load<'a>(&'a self, key: &'a AccountKey) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        Box::pin(self.0.load(key))
    }

    fn lease<'a>(&'a self, key: &'a AccountKey, ttl: Duration) -> BoxFuture<'a, Result<Box<dyn DynLease>, StoreError>> {
        Box::pin(async move { Ok(Box::new(self.0.lease(key, ttl).await?) as _) })
    }

    fn save<'a>(
        &'a self,
        lease: &'a mut dyn DynLease,
        expected: Option<&'a Version>,
        bytes: &'a [u8],
    ) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move { self.0.save(Self::own(lease)?, expected, bytes).await })
    }

    fn remove<'a>(
        &'a self,
        lease: &'a mut dyn DynLease,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.0.remove(Self::own(lease)?, expected).await })
    }

    fn set_aside<'a>(&'a self, lease: &'a mut dyn DynLease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.0.set_aside(Self::own(lease)?).await })
    }

    fn raise_epoch<'a>(&'a self, key: &'a AccountKey, to: u64) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(self.0.raise_epoch(key, to))
    }

    fn accounts(&self) -> BoxFuture<'_, Result<Vec<AccountKey>, StoreError>> {
        Box::pin(self.0.accounts())
    }

    fn changed<'a>(&'a self, key: &'a AccountKey) -> BoxFuture<'a, ()> {
        Box::pin(self.0.changed(key))
    }

    fn idle(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.idle())
    }
}

mod lease {
    use super::{BoxFuture, Duration, DynLease, LeaseGuard, StoreError, fmt};

    /// The lease of a `SharedStore`.
    pub struct SharedLease(pub(super) Box<dyn DynLease>);

    impl fmt::Debug for SharedLease {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("SharedLease")
        }
    }

    impl LeaseGuard for SharedLease {
        fn valid_for(&self) -> Option<Duration> {
            self.0.as_ref().valid_for()
        }

        async fn renew(&mut self) -> Result<(), StoreError> {
            let renewed: BoxFuture<'_, _> = self.0.as_mut().renew();
            renewed.await
        }
    }
}
pub(crate) use lease::SharedLease;

impl SessionStore for SharedStore {
    type Lease = SharedLease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        self.0.load(key).await
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<SharedLease, StoreError> {
        self.0.lease(key, ttl).await.map(SharedLease)
    }

    async fn save(
        &self,
        lease: &mut SharedLease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        self.0.save(&mut *lease.0, expected, bytes).await
    }

    async fn remove(&self, lease: &mut SharedLease, expected: Option<&Version>) -> Result<(), StoreError> {
        self.0.remove(&mut *lease.0, expected).await
    }

    async fn set_aside(&self, lease: &mut SharedLease) -> Result<(), StoreError> {
        self.0.set_aside(&mut *lease.0).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        self.0.raise_epoch(key, to).await
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.0.accounts().await
    }

    async fn changed(&self, key: &AccountKey) {
        self.0.changed(key).await
    }

    async fn idle(&self) {
        self.0.idle().await
    }
}
