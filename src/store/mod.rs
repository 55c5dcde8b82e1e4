//! Where sessions are kept: the [`SessionStore`] contract and the stores that come with the crate.
//!
//! A store keeps opaque bytes under an [`AccountKey`] with a version. It knows nothing of tokens or epochs: the session
//! encodes, compares and decides. [`MemoryStore`] is for tests and for programs that sign in at every start.

#[cfg(feature = "test-util")]
#[allow(missing_docs)] // see `store_contract!`
pub mod contract;
#[cfg(feature = "file")]
mod file;
mod memory;
#[cfg(any(feature = "file", feature = "redis"))]
mod poll;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sealed")]
mod sealed;
mod shared;

#[cfg(feature = "file")]
pub use file::FileStore;
pub use memory::MemoryStore;
#[cfg(feature = "redis")]
pub use redis::RedisStore;
#[cfg(feature = "keyring")]
pub use sealed::KeyringKey;
#[cfg(feature = "sealed")]
pub use sealed::{KeySource, Sealed, SealingKey};
pub(crate) use shared::SharedLease;
pub use shared::SharedStore;

use crate::account::AccountKey;
use std::{error::Error as StdError, fmt, str::FromStr, sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// The largest record, in bytes.
pub(crate) const MAX_RECORD: usize = 1 << 20;

/// Keeps opaque records.
///
/// # What a store promises
/// - A `save` that answered is *durable* as the store's documentation defines it, and its version differs from every
///   earlier one of that record.
/// - A `save` or `remove` that failed may have been applied all the same: the session reads again.
/// - `expected: None` means "must not exist" and conflicts with any record; otherwise the versions are compared.
/// - Only the holder of the lease may write. One whose lease ran out gets [`StoreErrorKind::LeaseLost`] or `Conflict`.
/// - `raise_epoch` needs no lease, is durable, and is an atomic maximum; `raise_epoch(key, 0)` reads the mark. It lives
///   apart from the record and survives its removal.
/// - Dropping a future of a store at any point leaves no lease behind that does not end by itself.
pub trait SessionStore: Send + Sync + 'static {
    /// The right to write one record; released on drop.
    type Lease: LeaseGuard + Send + 'static;

    /// The newest record.
    fn load(&self, key: &AccountKey) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// Waits for the lease. `ttl` is the term for leases that expire; the session asks for its refresh timeout and 15 s.
    fn lease(&self, key: &AccountKey, ttl: Duration) -> impl Future<Output = Result<Self::Lease, StoreError>> + Send;

    /// Compare and set; `expected: None` means "must not exist".
    fn save(
        &self,
        lease: &mut Self::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> impl Future<Output = Result<Version, StoreError>> + Send;

    /// Compare and remove.
    fn remove(
        &self,
        lease: &mut Self::Lease,
        expected: Option<&Version>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Puts a record that cannot be read where nothing finds it but a person: afterwards [`load`](Self::load) answers
    /// `None`, and nothing is lost. A store that cannot do that answers [`StoreErrorKind::Denied`], as the default does.
    fn set_aside(&self, lease: &mut Self::Lease) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = lease;
        let why = "this store cannot keep a bad record aside";
        std::future::ready(Err(StoreError::new(StoreErrorKind::Denied).with_source(why)))
    }

    /// Lease-free, durable, an atomic maximum; answers the mark. `to: 0` reads it.
    fn raise_epoch(&self, key: &AccountKey, to: u64) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// All keys with a record, in any order. One that comes twice counts once.
    fn accounts(&self) -> impl Future<Output = Result<Vec<AccountKey>, StoreError>> + Send;

    /// Resolves when the record may have changed: a hint, never relied on.
    fn changed(&self, key: &AccountKey) -> impl Future<Output = ()> + Send {
        let _ = key;
        std::future::pending()
    }

    /// Resolves once nothing is done in the background any more, such as giving back a lease that was dropped.
    /// [`Session::close`](crate::Session::close) waits for it, for a few seconds. Defaults to at once.
    fn idle(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// A lease that is held.
pub trait LeaseGuard {
    /// How long it is still valid without a renewal; `None`: until it is dropped.
    fn valid_for(&self) -> Option<Duration> {
        None
    }

    /// Starts the term anew. [`StoreErrorKind::LeaseLost`] if it ran out.
    fn renew(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl FromStr for AccountKey {
    type Err = StoreError;

    /// For stores that list keys from names. [`StoreErrorKind::Corrupt`] unless it is 64 lower-case hex digits.
    fn from_str(hex: &str) -> Result<Self, StoreError> {
        Self::from_hex(hex).ok_or_else(|| {
            StoreError::new(StoreErrorKind::Corrupt).with_source("an account key is 64 lower-case hex digits")
        })
    }
}

/// Opaque bytes that change with every save.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(Arc<[u8]>);

impl Version {
    /// Whatever the store compares: a counter, an ETag.
    pub fn from_bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self(bytes.as_ref().into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<u64> for Version {
    fn from(count: u64) -> Self {
        Self::from_bytes(count.to_be_bytes())
    }
}

/// A record and its version. Zeroized, redacted.
#[derive(Clone)]
pub struct Stored {
    bytes: Zeroizing<Vec<u8>>,
    version: Version,
}

impl Stored {
    /// What a store found.
    pub fn new(bytes: impl Into<Vec<u8>>, version: impl Into<Version>) -> Self {
        Self { bytes: Zeroizing::new(bytes.into()), version: version.into() }
    }

    /// The record.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its version.
    pub fn version(&self) -> &Version {
        &self.version
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("version", &self.version).finish_non_exhaustive()
    }
}

/// What a store's failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// It does not answer now; it may later.
    Unavailable,
    /// The record is not the one that was expected.
    Conflict,
    /// Somebody else may hold the lease by now.
    LeaseLost,
    /// The record cannot be read; it is kept aside.
    Corrupt,
    /// The record is larger than 1 MiB.
    TooLarge,
    /// The record was written by a newer version of this crate; it stays in place.
    NewerVersion,
    /// Permissions are missing, or too wide.
    Denied,
}

/// A store's failure. Its text never carries a record's content.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl StoreError {
    /// A failure of this kind.
    pub fn new(kind: StoreErrorKind) -> Self {
        Self { kind, source: None }
    }

    /// Shorthand for the kind that most causes have.
    pub fn unavailable(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(StoreErrorKind::Unavailable).with_source(error)
    }

    /// The cause.
    pub fn with_source(mut self, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(error.into());
        self
    }

    /// What it means.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Unavailable => "the session store does not answer",
            StoreErrorKind::Conflict => "the stored session was changed by somebody else",
            StoreErrorKind::LeaseLost => "the lease on the stored session ran out",
            StoreErrorKind::Corrupt => "the stored session cannot be read",
            StoreErrorKind::TooLarge => "the stored session is larger than 1 MiB",
            StoreErrorKind::NewerVersion => "the stored session was written by a newer version",
            StoreErrorKind::Denied => "the session store denies access",
        })
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|error| error as _)
    }
}

impl From<std::io::Error> for StoreError {
    /// `PermissionDenied` is [`StoreErrorKind::Denied`], everything else `Unavailable`.
    fn from(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
            _ => StoreErrorKind::Unavailable,
        };
        Self::new(kind).with_source(error)
    }
}
