//! [`KeyringKey`]: the keys of [`Sealed`](super::Sealed) in the platform's keyring.

use super::{
    super::{StoreError, StoreErrorKind},
    key::{KeySource, SealingKey},
};
use crate::account::AccountKey;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyring_core::{CredentialStore, Entry, Error, get_default_store};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};
use tokio::sync::{Mutex, oneshot};
use zeroize::{Zeroize as _, Zeroizing};

/// Keys in the platform's keyring: Secret Service, macOS Keychain, Windows Credential Manager, whatever store the
/// application has set with `keyring_core::set_default_store`. Clones share it.
///
/// There is one entry per account: the service is the application's name, the user the [`AccountKey`], the secret a short
/// versioned JSON list of keys. An entry that cannot be read is never overwritten.
///
/// A keyring belongs to one user of one machine: it goes with a `FileStore`, each directory with a service name of its own.
/// It has no compare-and-set, and needs none: [`Sealed`](crate::Sealed) changes it under the account's lease only.
///
/// Calls of a keyring block, perhaps until a person has answered a prompt. They run on a thread of their own, one at a
/// time, and no runtime waits for them at its end. Whoever has stopped waiting (after 10 s; after 2 s for keys that are to
/// be destroyed) has no write begun; one that the keyring was given already may still land, and undo what another process
/// has written since.
///
/// Making a platform's store may block too, and some of them panic on an async thread: set it before the runtime starts,
/// or on a thread of `spawn_blocking`.
///
/// # Errors
/// What the source of a [`StoreError`] says to do about it:
///
/// | the keyring | kind |
/// |---|---|
/// | no store was set | [`Denied`](StoreErrorKind::Denied), from [`new`](Self::new) |
/// | does not answer: no session bus, no service on it | [`Unavailable`](StoreErrorKind::Unavailable) |
/// | is locked, or has no collection to write to | `Denied` |
/// | has no entry, or none with this key | `None` from [`find`](KeySource::find): it may only be locked, or not there yet |
/// | refuses the entry: too long, not valid, ambiguous, not supported | `Denied` |
/// | has an entry that this crate did not write | [`Corrupt`](StoreErrorKind::Corrupt) (`Denied` from `Sealed`) |
/// | has an entry of a newer version of this crate | [`NewerVersion`](StoreErrorKind::NewerVersion) |
///
/// ```no_run
/// use tower_reauth::{FileStore, KeyringKey, Sealed};
///
/// # fn main() -> Result<(), tower_reauth::BoxError> {
/// // Before the runtime starts: keyring_core::set_default_store(zbus_secret_service_keyring_store::Store::new()?);
/// let store = Sealed::new(FileStore::open("sessions")?, KeyringKey::new("my-app")?);
/// # drop(store); Ok(()) }
/// ```
#[derive(Clone)]
pub struct KeyringKey {
    store: Arc<CredentialStore>,
    service: Arc<str>,
    /// A keyring that waits for a person has one thread waiting, not one per attempt.
    turn: Arc<Mutex<()>>,
}

impl KeyringKey {
    /// `service` is the application's name in the keyring. Takes the default store as it is now.
    ///
    /// # Errors
    /// [`StoreErrorKind::Denied`] if there is no default store, or no name.
    pub fn new(service: impl Into<String>) -> Result<Self, StoreError> {
        let service = service.into();
        if service.is_empty() {
            return Err(denied("a keyring wants the name of the application: give `KeyringKey::new` one"));
        }
        let store = get_default_store().ok_or_else(|| of_keyring(Error::NoDefaultStore))?;
        Ok(Self { store, service: service.into(), turn: Arc::default() })
    }

    /// Does `job` with the account's entry on a thread of its own: `spawn_blocking` would keep the runtime from ending
    /// while a keyring waits for a person.
    async fn with_entry<T: Send + 'static>(
        &self,
        account: &AccountKey,
        job: impl FnOnce(&Drawer<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = self.turn.clone().lock_owned().await;
        let (store, service, user) = (self.store.clone(), self.service.clone(), account.to_string());
        let (tx, rx) = oneshot::channel();
        let work = move || {
            let _turn = turn;
            let done = store.build(&service, &user, None).map_err(of_keyring).and_then(|entry| {
                let abandoned = || tx.is_closed();
                job(&Drawer { entry, abandoned: &abandoned })
            });
            let _ = tx.send(done);
        };
        std::thread::Builder::new().name("keyring".into()).spawn(work)?;
        rx.await.unwrap_or_else(|_| Err(StoreError::unavailable("the keyring panicked")))
    }
}

impl fmt::Debug for KeyringKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyringKey").field("service", &self.service).finish_non_exhaustive()
    }
}

impl KeySource for KeyringKey {
    async fn current(&self, account: &AccountKey, epoch: u64) -> Result<SealingKey, StoreError> {
        self.with_entry(account, move |drawer| {
            let mut keys = drawer.read()?;
            if let Some((_, key)) = keys.iter().find(|(of, _)| *of == epoch) {
                return Ok(key.clone());
            }
            let key = fresh()?;
            keys.push((epoch, key.clone()));
            drawer.write(&keys)?;
            // What is sealed with a key that was not kept is lost.
            match drawer.read()?.iter().any(|(_, kept)| kept.id() == key.id() && kept.bytes() == key.bytes()) {
                true => Ok(key),
                false => Err(StoreError::unavailable("the keyring did not keep the key that it was given")),
            }
        })
        .await
    }

    async fn find(&self, account: &AccountKey, id: &str) -> Result<Option<SealingKey>, StoreError> {
        let id = id.to_owned();
        self.with_entry(account, move |drawer| {
            Ok(drawer.read()?.into_iter().map(|(_, key)| key).find(|key| key.id() == id))
        })
        .await
    }

    async fn destroy(&self, account: &AccountKey, epoch: u64) -> Result<(), StoreError> {
        self.with_entry(account, move |drawer| {
            let mut keys = drawer.read()?;
            let before = keys.len();
            keys.retain(|(of, _)| *of >= epoch);
            match keys.len() {
                after if after == before => Ok(()),
                0 => drawer.delete(),
                _ => drawer.write(&keys),
            }
        })
        .await
    }
}

// ===== the entry =====

/// An account's entry, on the keyring's thread.
struct Drawer<'a> {
    entry: Entry,
    abandoned: &'a dyn Fn() -> bool,
}

/// The keys of an account with their epochs.
type Keys = Vec<(u64, SealingKey)>;

impl Drawer<'_> {
    /// None if there is no entry: nobody can tell that from a keyring which is not there yet.
    fn read(&self) -> Result<Keys, StoreError> {
        match self.entry.get_secret() {
            Ok(secret) => decode(&Zeroizing::new(secret)),
            Err(Error::NoEntry) => Ok(Vec::new()),
            Err(error) => Err(of_keyring(error)),
        }
    }

    fn write(&self, keys: &Keys) -> Result<(), StoreError> {
        self.wanted()?;
        self.entry.set_secret(&encode(keys)?).map_err(of_keyring)
    }

    fn delete(&self) -> Result<(), StoreError> {
        self.wanted()?;
        match self.entry.delete_credential() {
            Err(Error::NoEntry) => Ok(()),
            deleted => deleted.map_err(of_keyring),
        }
    }

    /// Whoever has stopped waiting may have lost the lease: what was read is old by now.
    fn wanted(&self) -> Result<(), StoreError> {
        match (self.abandoned)() {
            true => Err(StoreError::unavailable("nobody waits for the keyring any more")),
            false => Ok(()),
        }
    }
}

/// The format this crate writes.
const FORMAT: u32 = 1;

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// The secret of an entry. It borrows: no copy of a key is left in memory.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    format: u32,
    #[serde(borrow)]
    keys: Vec<WireKey<'a>>,
}

#[derive(Serialize, Deserialize)]
struct WireKey<'a> {
    id: &'a str,
    epoch: u64,
    key: &'a str,
}

fn decode(secret: &[u8]) -> Result<Keys, StoreError> {
    // What serde says may quote the secret.
    let Format { format } = serde_json::from_slice(secret).map_err(|_| not_ours())?;
    if format > FORMAT {
        let why = "the keyring's entry was written by a newer version of this program; it is left as it is";
        return Err(StoreError::new(StoreErrorKind::NewerVersion).with_source(why));
    }
    let wire: Wire<'_> = serde_json::from_slice(secret).map_err(|_| not_ours())?;
    let mut keys = Vec::with_capacity(wire.keys.len());
    for WireKey { id, epoch, key } in wire.keys {
        // One byte more than a key: the room that base64 asks for.
        let mut room = Zeroizing::new([0; 33]);
        let length = STANDARD.decode_slice(key, &mut *room).map_err(|_| not_ours())?;
        let mut bytes: [u8; 32] = room[..length].try_into().map_err(|_| not_ours())?;
        keys.push((epoch, SealingKey::new(id, bytes)));
        bytes.zeroize();
    }
    Ok(keys)
}

fn encode(keys: &Keys) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let texts: Vec<_> = keys.iter().map(|(_, key)| Zeroizing::new(STANDARD.encode(key.bytes()))).collect();
    let keys = keys.iter().zip(&texts);
    let keys = keys.map(|((epoch, key), text)| WireKey { id: key.id(), epoch: *epoch, key: text }).collect();
    let wire = Wire { format: FORMAT, keys };
    // Room enough, so that it does not grow and leave copies behind.
    let room = wire.keys.iter().map(|key| 128 + key.id.len()).sum::<usize>() + 64;
    let mut secret = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *secret, &wire).map_err(|_| StoreError::unavailable("a key has no JSON"))?;
    Ok(secret)
}

fn fresh() -> Result<SealingKey, StoreError> {
    let (mut id, mut bytes) = ([0; 16], [0; 32]);
    getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut bytes)).map_err(|error| {
        let why = format!("there is no randomness for a key: {error}");
        StoreError::unavailable(why)
    })?;
    let key = SealingKey::new(format!("{:032x}", u128::from_be_bytes(id)), bytes);
    bytes.zeroize();
    Ok(key)
}

// ===== what goes wrong =====

fn denied(advice: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Denied).with_source(advice.into())
}

fn not_ours() -> StoreError {
    let why = "the keyring's entry for this account is not what this program wrote; it is left as it is: look at it with \
               the platform's keyring program, and remove it to sign in anew";
    StoreError::new(StoreErrorKind::Corrupt).with_source(why)
}

/// Says what to do. The error itself is not handed on: some of them carry the secret.
fn of_keyring(error: Error) -> StoreError {
    match error {
        Error::NoDefaultStore => denied(
            "no keyring is chosen: call `keyring_core::set_default_store` with the platform's store when the program starts",
        ),
        Error::PlatformFailure(why) => StoreError::unavailable(format!(
            "the keyring does not answer ({why}): is the user logged in and the keyring's service running? On Linux it \
             needs a session bus (DBUS_SESSION_BUS_ADDRESS) with a Secret Service on it"
        )),
        Error::NoStorageAccess(why) => denied(format!(
            "the keyring gives no access ({why}): unlock it, or let the user make a default keyring, and try again"
        )),
        Error::NoEntry => denied("the keyring's entry for this account was removed meanwhile: try again"),
        Error::BadEncoding(mut secret) | Error::BadDataFormat(mut secret, _) => {
            secret.zeroize();
            not_ours()
        }
        Error::BadStoreFormat(_) => {
            denied("the keyring itself is damaged: repair it with the platform's keyring program")
        }
        Error::TooLong(what, limit) => denied(format!(
            "the keyring takes at most {limit} characters for `{what}`: choose a shorter service name, or another keyring"
        )),
        Error::Invalid(what, _) => {
            denied(format!("the keyring refuses what it was given as `{what}`: choose another service name"))
        }
        Error::Ambiguous(entries) => denied(format!(
            "the keyring has {} entries for this account, and nobody can say which counts: remove all but one",
            entries.len()
        )),
        Error::NotSupportedByStore(_) => {
            denied("this keyring cannot keep secrets for the program: set another store with `set_default_store`")
        }
        _ => StoreError::unavailable("the keyring failed in a way that this version does not know"),
    }
}

#[cfg(test)]
mod tests;
