//! [`KeySource`]: where [`Sealed`](crate::Sealed) gets its keys, and the [`SealingKey`]s it gets.

use super::super::StoreError;
use crate::account::AccountKey;
use std::{fmt, sync::Arc};
use zeroize::{Zeroize as _, Zeroizing};

/// 256 bits with a name. Zeroized, redacted.
#[derive(Clone)]
pub struct SealingKey {
    /// In one place: a list that moves its keys leaves no copies behind.
    bytes: Arc<Zeroizing<[u8; 32]>>,
    id: String,
}

impl SealingKey {
    /// The name goes into the record in the clear: at most 255 bytes, and no secret. The bytes are random, or derived from
    /// a secret that is; the caller wipes its own copy.
    ///
    /// A name stands for one key for ever: choose it at random with the key.
    pub fn new(id: impl Into<String>, mut bytes: [u8; 32]) -> Self {
        let kept = Arc::new(Zeroizing::new(bytes));
        bytes.zeroize();
        Self { bytes: kept, id: id.into() }
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Where keys come from: one per account and epoch. `KeyringKey` (feature `keyring`) keeps them in the platform's keyring.
///
/// An *epoch* counts the sign-ins and sign-outs of an account. Destroying the keys of older epochs is what makes a
/// sign-out final: the bytes of an old record may survive on flash or in a backup, but nothing opens them.
///
/// # What a source may rely on
/// - [`current`](Self::current) and [`destroy`](Self::destroy) are called by the holder of the account's lease only. Over a
///   store whose leases do not expire (a `FileStore`) that is one at a time, whatever the number of processes: a source
///   without compare-and-set is safe there, as long as a call whose future was dropped writes nothing later. Where leases
///   expire (a `RedisStore`), a holder that was stopped may go on while the next one is at work: there `current` has to
///   insert the key of an epoch only if there is none, and answer the one that is kept.
/// - [`find`](Self::find) is called at any time, by anybody.
/// - It serves one store. Epochs are counted by a store: a sign-out in one would destroy the keys of another.
///
/// # Errors
/// An error reaches the session with its kind: [`Unavailable`](crate::StoreErrorKind::Unavailable) if it may work later,
/// [`Denied`](crate::StoreErrorKind::Denied) if a person has to do something. `Corrupt`, `TooLarge`, `Conflict` and
/// `LeaseLost` speak of records, and arrive as `Denied`: what a *key* suffers from is no reason to put a record aside.
///
/// # Cancellation
/// A call may be dropped at any point; the next one finds what it left.
///
/// ```
/// use std::{collections::HashMap, sync::{Mutex, PoisonError}};
/// use tower_reauth::{AccountKey, KeySource, MemoryStore, Sealed, SealingKey, StoreError};
///
/// /// Keys that end with the process.
/// #[derive(Default)]
/// struct Keys(Mutex<HashMap<(AccountKey, u64), SealingKey>>);
///
/// impl KeySource for Keys {
///     async fn current(&self, account: &AccountKey, epoch: u64) -> Result<SealingKey, StoreError> {
///         let mut random = [0; 32];
///         getrandom::fill(&mut random).map_err(|error| StoreError::unavailable(error.to_string()))?;
///         let mut id = [0; 8];
///         getrandom::fill(&mut id).map_err(|error| StoreError::unavailable(error.to_string()))?;
///         let fresh = || SealingKey::new(format!("{:x}", u64::from_ne_bytes(id)), random);
///         let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
///         Ok(keys.entry((account.clone(), epoch)).or_insert_with(fresh).clone())
///     }
///     async fn find(&self, account: &AccountKey, id: &str) -> Result<Option<SealingKey>, StoreError> {
///         let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
///         Ok(keys.iter().find(|((of, _), key)| of == account && key.id() == id).map(|(_, key)| key.clone()))
///     }
///     async fn destroy(&self, account: &AccountKey, epoch: u64) -> Result<(), StoreError> {
///         let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
///         keys.retain(|(of, when), _| of != account || *when >= epoch);
///         Ok(())
///     }
/// }
///
/// let store = Sealed::new(MemoryStore::new(), Keys::default());
/// # drop(store);
/// ```
pub trait KeySource: Send + Sync + 'static {
    /// The key to seal with: the one of this epoch, made and kept durably at its first use. The same answer for ever after,
    /// in every process, until it is destroyed.
    fn current(&self, account: &AccountKey, epoch: u64) -> impl Future<Output = Result<SealingKey, StoreError>> + Send;

    /// The key that a record names; `None`: destroyed or never there.
    fn find(
        &self,
        account: &AccountKey,
        id: &str,
    ) -> impl Future<Output = Result<Option<SealingKey>, StoreError>> + Send;

    /// Destroys the keys of all epochs below `epoch`. Doing it twice is no error. Called after the record that no longer
    /// needs them was saved; if it fails, or takes more than 2 s, the next save does it again.
    fn destroy(&self, account: &AccountKey, epoch: u64) -> impl Future<Output = Result<(), StoreError>> + Send;
}
