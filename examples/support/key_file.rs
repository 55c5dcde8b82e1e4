//! Keys for `Sealed` in files, for machines without a keyring. Each is 0600 in a directory that is 0700, and that is all:
//! whoever can read the user's files has key and record both. What remains is that a record alone, in a backup say, does
//! not open, and that a sign-out destroys the key of what was stored before it.

use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use tower_reauth::{AccountKey, KeySource, SealingKey, StoreError, StoreErrorKind};
use zeroize::{Zeroize as _, Zeroizing};

/// One file per account with the keys of its epochs.
pub struct KeyFile {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Key {
    epoch: u64,
    id: String,
    bytes: [u8; 32],
}

impl Drop for Key {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Key {
    fn random(epoch: u64) -> Result<Self, StoreError> {
        let (mut id, mut bytes) = ([0; 8], [0; 32]);
        getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut bytes)).map_err(io::Error::from)?;
        Ok(Self { epoch, id: format!("{:016x}", u64::from_ne_bytes(id)), bytes })
    }

    fn to_seal_with(&self) -> SealingKey {
        SealingKey::new(&*self.id, self.bytes)
    }
}

impl KeyFile {
    /// Makes the directory if there is none.
    pub fn open(dir: PathBuf) -> Result<Self, StoreError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&dir)?;
        Ok(Self { dir })
    }

    fn path(&self, account: &AccountKey) -> PathBuf {
        self.dir.join(account.as_str())
    }

    fn read(&self, account: &AccountKey) -> Result<Vec<Key>, StoreError> {
        let text = match fs::read(self.path(account)) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        serde_json::from_slice(&text).map_err(|_| {
            // The parser's own words may quote what it found.
            let what = format!("{} holds no keys of ours", self.path(account).display());
            StoreError::new(StoreErrorKind::Denied).with_source(what)
        })
    }

    /// Durable before anything is sealed with it: written, synced, renamed into place, and the rename synced.
    fn write(&self, account: &AccountKey, keys: &[Key]) -> Result<(), StoreError> {
        let path = self.path(account);
        if keys.is_empty() {
            fs::remove_file(path)?;
        } else {
            let text = Zeroizing::new(serde_json::to_vec(keys).map_err(io::Error::from)?);
            let scratch = path.with_extension("new");
            write_private(&scratch, &text)?;
            fs::rename(scratch, path)?;
        }
        if cfg!(unix) { Ok(fs::File::open(&self.dir)?.sync_all()?) } else { Ok(()) }
    }
}

fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    io::Write::write_all(&mut file, text)?;
    file.sync_all()
}

// The files are small, local and rarely touched, and this program does nothing else meanwhile: the calls may block. They
// have no `.await` in them, so that one which was begun is also finished, under the lease that it was begun under.
impl KeySource for KeyFile {
    async fn current(&self, account: &AccountKey, epoch: u64) -> Result<SealingKey, StoreError> {
        let mut keys = self.read(account)?;
        if let Some(key) = keys.iter().find(|key| key.epoch == epoch) {
            return Ok(key.to_seal_with());
        }
        let key = Key::random(epoch)?;
        let current = key.to_seal_with();
        keys.push(key);
        self.write(account, &keys)?;
        Ok(current)
    }

    async fn find(&self, account: &AccountKey, id: &str) -> Result<Option<SealingKey>, StoreError> {
        Ok(self.read(account)?.iter().find(|key| key.id == id).map(Key::to_seal_with))
    }

    async fn destroy(&self, account: &AccountKey, epoch: u64) -> Result<(), StoreError> {
        let mut keys = self.read(account)?;
        let before = keys.len();
        keys.retain(|key| key.epoch >= epoch);
        if keys.len() == before { Ok(()) } else { self.write(account, &keys) }
    }
}
