//! [`Sealed`]: what another store keeps, encrypted, with keys that are destroyed at sign-out.

mod form;
mod key;
#[cfg(feature = "keyring")]
mod keyring;

pub use key::{KeySource, SealingKey};
#[cfg(feature = "keyring")]
pub use keyring::KeyringKey;

use super::{LeaseGuard, SessionStore, StoreError, StoreErrorKind, Stored, Version};
use crate::account::AccountKey;
use form::{Purpose, SealedRecord, seal};
use futures_util::FutureExt as _;
use std::{
    collections::HashMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long a save waits for the keys that it made useless to be destroyed. Kept short: the save itself is done.
const SHREDDING: Duration = Duration::from_secs(2);

/// Seals what another store keeps: XChaCha20-Poly1305, a random nonce per save. Clones share it.
///
/// The inner store sees a header in the clear (format, purpose, epoch, the name of the key) and ciphertext. A record that
/// was changed, cut, or moved to another account does not open: [`StoreErrorKind::Corrupt`]. One whose key is not to be
/// had is [`StoreErrorKind::Denied`] and stays where it is: a keyring that is not there yet has no entries either.
///
/// # Sign-out destroys keys
/// The account has a key per epoch (sign-ins and sign-outs count epochs). Once the record of a newer epoch is saved, or
/// the record is removed, the keys of older epochs are [destroyed](KeySource::destroy): an old copy of the record, put
/// back or read from the disk, no longer opens. That comes *after* the save, so that no crash leaves a record without its
/// key; a crash in between, or a failing key source, leaves old keys until the next save of any process. While a keyring is
/// locked, a sign-out counts at once, but the record and its key stay until the next sign-in.
///
/// It does not protect against an old copy of the *same* epoch that is put back, nor against somebody who reads the keys.
/// The first record of a sign-in belongs to the epoch before, until the next save; so does to the sign-out's what a refresh
/// saved that was on its way: its copies open until the keys of *that* epoch are destroyed.
///
/// # Costs
/// A save asks the inner store for the epoch's mark, and the first one under a lease asks the key source. A load asks the
/// key source once per key and process, but each time between a sign-in and the next save; keys are kept in memory
/// (zeroized) until their epoch ends.
///
/// A record is a few hundred bytes shorter than 1 MiB. Records of a store that was used without `Sealed` before are
/// `Corrupt`: its users sign in once more.
///
/// ```no_run
/// # async fn open() -> Result<(), tower_reauth::BoxError> {
/// use tower_reauth::{FileStore, KeyringKey, Sealed, Session, Tokens, refresh_fn};
///
/// let store = Sealed::new(FileStore::open("sessions")?, KeyringKey::new("my-app")?);
/// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh")))).store(store).open("alice").await?;
/// # drop(session); Ok(()) }
/// ```
pub struct Sealed<S, K>(Arc<Inner<S, K>>);

struct Inner<S, K> {
    store: S,
    source: K,
    rings: Mutex<HashMap<AccountKey, Ring>>,
}

/// What this process knows of an account's keys.
#[derive(Default)]
struct Ring {
    /// The newest mark that was seen.
    mark: u64,
    keys: Vec<(u64, SealingKey)>,
    /// The keys of all epochs below are destroyed.
    destroyed: u64,
}

impl Ring {
    /// Keys of an ended epoch leave the memory as soon as its end is seen: somebody may be destroying them.
    fn saw(&mut self, mark: u64) {
        if mark > self.mark {
            self.mark = mark;
            self.keys.retain(|(epoch, _)| *epoch >= mark);
        }
    }

    fn find(&self, id: &str) -> Option<SealingKey> {
        self.keys.iter().find(|(_, key)| key.id() == id).map(|(_, key)| key.clone())
    }

    /// Keeps what is of use in the newest epoch only.
    fn keep(&mut self, epoch: u64, key: SealingKey) {
        if epoch >= self.mark && self.find(key.id()).is_none() {
            self.keys.push((epoch, key));
        }
    }
}

impl<S: SessionStore, K: KeySource> Sealed<S, K> {
    /// Seals what `store` keeps with keys of `keys`.
    pub fn new(store: S, keys: K) -> Self {
        Self(Arc::new(Inner { store, source: keys, rings: Mutex::default() }))
    }

    fn ring<T>(&self, account: &AccountKey, f: impl FnOnce(&mut Ring) -> T) -> T {
        f(self.0.rings.lock().unwrap_or_else(PoisonError::into_inner).entry(account.clone()).or_default())
    }

    /// The key to seal with, of the account's mark: stores know no record's epoch.
    ///
    /// The first record of an epoch may be saved before the mark is raised, so that it is sealed with the key *below*; the
    /// next save seals it anew. Hence keys are destroyed below the epoch of the key that sealed what is stored, and never
    /// below a mark that was read later.
    async fn current(&self, lease: &mut lease::Lease<S::Lease>) -> Result<(u64, SealingKey), StoreError> {
        let account = &lease.account;
        let mark = self.raise_epoch(account, 0).await?;
        if let Some((epoch, key)) = &lease.key
            && *epoch == mark
        {
            return Ok((mark, key.clone()));
        }
        let key = self.0.source.current(account, mark).await.map_err(of_keys)?;
        self.ring(account, |ring| ring.keep(mark, key.clone()));
        lease.key = Some((mark, key.clone()));
        Ok((mark, key))
    }

    /// The key that a record names, from memory or from its source.
    async fn find(&self, account: &AccountKey, id: &str) -> Result<Option<SealingKey>, StoreError> {
        match self.ring(account, |ring| ring.find(id)) {
            Some(key) => Ok(Some(key)),
            None => self.0.source.find(account, id).await.map_err(of_keys),
        }
    }

    /// Destroys the keys below `epoch`: nothing that is stored needs them. Once per epoch and process; whatever goes wrong
    /// is left to the next save, since the one that made them useless is done.
    async fn shred(&self, account: &AccountKey, epoch: u64) {
        if self.ring(account, |ring| ring.destroyed >= epoch) {
            return;
        }
        // Within the future: a source may panic before it has made one.
        let destroyed = AssertUnwindSafe(async { self.0.source.destroy(account, epoch).await }).catch_unwind();
        if let Ok(Ok(Ok(()))) = tokio::time::timeout(SHREDDING, destroyed).await {
            self.ring(account, |ring| ring.destroyed = ring.destroyed.max(epoch));
        }
    }
}

/// What a key source reports must not be taken for the record's fate, nor for the lease's.
fn of_keys(error: StoreError) -> StoreError {
    match error.kind() {
        StoreErrorKind::Unavailable | StoreErrorKind::NewerVersion | StoreErrorKind::Denied => error,
        StoreErrorKind::Corrupt | StoreErrorKind::TooLarge | StoreErrorKind::Conflict | StoreErrorKind::LeaseLost => {
            StoreError::new(StoreErrorKind::Denied).with_source(error)
        }
    }
}

impl<S, K> Clone for Sealed<S, K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: fmt::Debug, K> fmt::Debug for Sealed<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("store", &self.0.store).finish_non_exhaustive()
    }
}

mod lease {
    use super::{AccountKey, Duration, LeaseGuard, SealingKey, StoreError, fmt};

    /// The lease of a `Sealed`: the inner store's, with the key to seal with while it is held.
    pub struct Lease<L> {
        pub(super) inner: L,
        pub(super) account: AccountKey,
        pub(super) key: Option<(u64, SealingKey)>,
    }

    impl<L> fmt::Debug for Lease<L> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Lease").field("account", &self.account).finish_non_exhaustive()
        }
    }

    impl<L: LeaseGuard + Send> LeaseGuard for Lease<L> {
        fn valid_for(&self) -> Option<Duration> {
            self.inner.valid_for()
        }

        async fn renew(&mut self) -> Result<(), StoreError> {
            self.inner.renew().await
        }
    }
}

impl<S: SessionStore, K: KeySource> SessionStore for Sealed<S, K> {
    type Lease = lease::Lease<S::Lease>;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        let mut seen = None;
        loop {
            let Some(stored) = self.0.store.load(key).await? else { return Ok(None) };
            let record = SealedRecord::parse(stored.bytes(), Purpose::Session)?;
            if let Some(sealing) = self.find(key, record.key_id).await? {
                let mut plain = record.open(&sealing, key)?;
                self.ring(key, |ring| ring.keep(record.epoch, sealing));
                return Ok(Some(Stored::new(std::mem::take(&mut *plain), stored.version().clone())));
            }
            // Somebody may have saved anew and destroyed this key between the two: only a record that stays is lost.
            if seen.as_ref() == Some(stored.version()) {
                let why = "the key of the stored session is not to be had: it was removed from its keyring, or this is \
                           another user's; the record is left as it is";
                return Err(StoreError::new(StoreErrorKind::Denied).with_source(why));
            }
            seen = Some(stored.version().clone());
        }
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<Self::Lease, StoreError> {
        let inner = self.0.store.lease(key, ttl).await?;
        Ok(lease::Lease { inner, account: key.clone(), key: None })
    }

    async fn save(
        &self,
        lease: &mut Self::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        let (epoch, key) = self.current(lease).await?;
        let sealed = seal(&key, Purpose::Session, epoch, &lease.account, bytes)?;
        let version = self.0.store.save(&mut lease.inner, expected, &sealed).await?;
        self.shred(&lease.account, epoch).await;
        Ok(version)
    }

    async fn remove(&self, lease: &mut Self::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        let mark = self.raise_epoch(&lease.account, 0).await?;
        self.0.store.remove(&mut lease.inner, expected).await?;
        self.shred(&lease.account, mark).await;
        Ok(())
    }

    async fn set_aside(&self, lease: &mut Self::Lease) -> Result<(), StoreError> {
        // A keyring that is only locked opens no record, and seals none to take its place: then this one stays.
        self.current(lease).await?;
        self.0.store.set_aside(&mut lease.inner).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        let mark = self.0.store.raise_epoch(key, to).await?;
        self.ring(key, |ring| ring.saw(mark));
        Ok(mark)
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.0.store.accounts().await
    }

    async fn changed(&self, key: &AccountKey) {
        self.0.store.changed(key).await;
    }

    async fn idle(&self) {
        self.0.store.idle().await;
    }
}
