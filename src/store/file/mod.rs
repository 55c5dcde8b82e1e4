//! [`FileStore`]: one login for all processes of a machine.
//!
//! ```text
//! DIR/                      0700
//!   ACCOUNT KEY/            0700
//!     session               0600   the record: envelope.rs
//!     lock                  0600   locked by who may write: lock.rs
//!     epoch-4               0600   the mark: marks.rs
//!     session.new           0600   a save under way, or one that a crash cut short
//!     bad-1f2e3d4c5b6a7980         what could not be read, kept for a person to look at
//! ```

mod envelope;
mod lock;
mod marks;
mod place;

use super::{LeaseGuard, MAX_RECORD, SessionStore, StoreError, StoreErrorKind, Stored, Version, poll::Poll};
use crate::account::{AccountKey, hex};
use lock::Lock;
use place::Place;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

const RECORD: &str = "session";
const SCRATCH: &str = "session.new";

/// A directory of records, shared by any number of processes of one machine.
///
/// # What it promises
/// - **Durable** means written, synced to the disk, renamed into place, and the rename synced. After a crash of the program
///   or the machine there is the old record or the new one.
/// - **The lease is a lock on a file**, which the system releases when its holder ends, however it ends. It does not run
///   out: a holder that is alive but stopped is waited for, and the session answers `Unavailable` after a minute. It is
///   never broken. Waiting for it blocks no thread.
/// - **A sign-out** needs no lock: its mark is a file of its own.
/// - **Files are 0600 in directories that are 0700** and belong to the user the program runs as. Whatever does not is
///   [`StoreErrorKind::Denied`], and so is a symbolic link in the place of a file; nothing is changed there.
/// - **A record that cannot be read** (cut short, changed, too large, of another account) is an error, and is renamed to
///   `bad-…` in the same directory, so that the next sign-in finds room. It stays there, also after a hard
///   sign-out, until somebody removes it, and may hold tokens. A record of a newer format stays where it is.
/// - **A directory that disappears** is not made anew, since it may be a volume that is not mounted: the store is
///   `Unavailable` until it is back, and the session keeps what it could not save.
///
/// # What it cannot
/// - Network file systems are not supported: their locks and renames do not hold what is said here.
/// - It does not encrypt: `Sealed` does, around it.
/// - A program that forks without starting another shares the lock with its child.
/// - Permissions are checked on Unix only; elsewhere put it into a directory that only the user may enter.
///
/// Dropping a future of this store leaves nothing half-done: what was begun is finished under the lock that it was begun
/// under, which is held until then, and nothing else is begun under that lock before.
///
/// ```
/// use tower_reauth::{FileStore, Session, Tokens, refresh_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::BoxError> {
/// # let home = tempfile::tempdir()?; let dir = home.path().join("sessions");
/// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh"))))
///     .store(FileStore::open(dir)?)
///     .open("alice")
///     .await?;
/// # drop(session); Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct FileStore {
    root: Arc<Path>,
}

impl FileStore {
    /// Makes the directory if there is none; its parents, too. An empty one is closed to other users.
    ///
    /// # Errors
    /// [`StoreErrorKind::Denied`] if it is in use and not ours alone (0700, our own), or cannot be made for want of
    /// permission: choose a directory for the sessions alone.
    /// `Unavailable` for anything else in the way.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let root: PathBuf = place::open_root(dir.as_ref())?;
        Ok(Self { root: root.into() })
    }

    fn place(&self, key: &AccountKey) -> Place {
        Place::new(&self.root, key)
    }
}

mod lease {
    use super::{AccountKey, Arc, LeaseGuard, Lock, Mutex, OwnedMutexGuard, StoreError, blocking};

    /// The lease of a `FileStore`: valid until it is dropped, or its directory is removed.
    #[derive(Debug)]
    pub struct Lease {
        pub(super) key: AccountKey,
        pub(super) lock: Arc<Mutex<Lock>>,
    }

    impl Lease {
        /// One call at a time: what a caller left, on a disk that hangs, would write over what came after it.
        pub(super) async fn turn(&self) -> OwnedMutexGuard<Lock> {
            self.lock.clone().lock_owned().await
        }
    }

    impl LeaseGuard for Lease {
        async fn renew(&mut self) -> Result<(), StoreError> {
            let lock = self.turn().await;
            blocking(move || lock.held().map(drop)).await
        }
    }
}

impl SessionStore for FileStore {
    type Lease = lease::Lease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        let (place, key) = (self.place(key), key.clone());
        blocking(move || match read(&place, &key) {
            Err(error) if is_bad(&error) => match Lock::take(place)? {
                // Whoever held the lock may have replaced it meanwhile.
                Some(lock) => match read(lock.place(), &key) {
                    Err(error) if is_bad(&error) => Err(put_aside(&lock, error)),
                    other => other,
                },
                None => Err(error),
            },
            other => other,
        })
        .await
    }

    async fn lease(&self, key: &AccountKey, _ttl: Duration) -> Result<lease::Lease, StoreError> {
        let mut poll = Poll::new();
        loop {
            let place = self.place(key);
            if let Some(lock) = blocking(move || Lock::take(place)).await? {
                return Ok(lease::Lease { key: key.clone(), lock: Arc::new(Mutex::new(lock)) });
            }
            poll.pause().await;
        }
    }

    async fn save(
        &self,
        lease: &mut lease::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        if bytes.len() > MAX_RECORD {
            return Err(StoreError::new(StoreErrorKind::TooLarge));
        }
        let mut version = [0; 16];
        getrandom::fill(&mut version).map_err(|error| StoreError::unavailable(error.to_string()))?;
        let version = Version::from_bytes(version);
        let file = envelope::write(&lease.key, &version, bytes);
        let (lock, key, expected) = (lease.turn().await, lease.key.clone(), expected.cloned());
        blocking(move || {
            let place = lock.held()?;
            compare(place, &key, expected.as_ref())?;
            place.replace(RECORD, SCRATCH, &file)?;
            Ok(version)
        })
        .await
    }

    async fn remove(&self, lease: &mut lease::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        let (lock, key, expected) = (lease.turn().await, lease.key.clone(), expected.cloned());
        blocking(move || {
            let place = lock.held()?;
            compare(place, &key, expected.as_ref())?;
            place.remove(RECORD)?;
            place.remove(SCRATCH)?;
            place.sync()
        })
        .await
    }

    async fn set_aside(&self, lease: &mut lease::Lease) -> Result<(), StoreError> {
        let lock = lease.turn().await;
        blocking(move || rename_aside(&lock).map(drop)).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        let place = self.place(key);
        blocking(move || marks::raise(&place, to)).await
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        let root = self.root.clone();
        blocking(move || {
            let mut keys = Vec::new();
            for entry in fs::read_dir(&root)? {
                let name = entry?.file_name();
                let Some(key) = name.to_str().and_then(AccountKey::from_hex) else { continue };
                if fs::symlink_metadata(Place::new(&root, &key).path(RECORD)).is_ok() {
                    keys.push(key);
                }
            }
            Ok(keys)
        })
        .await
    }
}

fn read(place: &Place, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
    place.read(RECORD, envelope::MAX_FILE)?.map(|file| envelope::read(key, &file)).transpose()
}

/// Whether the record is the one that was expected. One that cannot be read is not overwritten.
fn compare(place: &Place, key: &AccountKey, expected: Option<&Version>) -> Result<(), StoreError> {
    match read(place, key)?.as_ref().map(Stored::version) == expected {
        true => Ok(()),
        false => Err(StoreError::new(StoreErrorKind::Conflict)),
    }
}

/// It will never be readable again, to any version of this crate.
fn is_bad(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::Corrupt | StoreErrorKind::TooLarge)
}

/// The error, with what became of the record.
fn put_aside(lock: &Lock, error: StoreError) -> StoreError {
    let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    let told = match rename_aside(lock) {
        Ok(name) => format!("{why}; it is kept as {name}"),
        Err(_) => format!("{why}; it could not be put aside"),
    };
    StoreError::new(error.kind()).with_source(told)
}

fn rename_aside(lock: &Lock) -> Result<String, StoreError> {
    let place = lock.held()?;
    let mut name = [0; 8];
    getrandom::fill(&mut name).map_err(|error| StoreError::unavailable(error.to_string()))?;
    let name = format!("bad-{}", hex(&name));
    match fs::rename(place.path(RECORD), place.path(&name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    place.sync()?;
    Ok(name)
}

/// Runs what blocks on a thread where it may. If the caller leaves, it is finished all the same.
#[allow(clippy::disallowed_methods)] // blocking work belongs to stores
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::unavailable("the runtime is shutting down")),
    }
}
