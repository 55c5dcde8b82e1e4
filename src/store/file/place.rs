//! One account's directory, and the ways to open what is in it: nothing that is not ours alone is read or written. Blocking.

use super::super::{StoreError, StoreErrorKind};
use crate::account::AccountKey;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// An account's directory, `ROOT/KEY`.
#[derive(Clone, Debug)]
pub(super) struct Place {
    root: PathBuf,
    dir: PathBuf,
}

impl Place {
    pub(super) fn new(root: &Path, account: &AccountKey) -> Self {
        Self { root: root.to_owned(), dir: root.join(account.as_str()) }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether the directory is there. A store whose own directory is gone does not answer; it is not made anew, since it
    /// may be a volume that is not mounted now.
    pub(super) fn exists(&self) -> Result<bool, StoreError> {
        match fs::symlink_metadata(&self.dir) {
            Ok(found) => check(&found, &self.dir, found.is_dir(), "a directory").map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => match fs::metadata(&self.root) {
                Ok(_) => Ok(false),
                Err(error) => Err(trouble("the store's directory is gone", &self.root, error)),
            },
            Err(error) => Err(trouble("cannot look at", &self.dir, error)),
        }
    }

    /// Makes the directory if there is none.
    pub(super) fn make(&self) -> Result<(), StoreError> {
        if self.exists()? {
            return Ok(());
        }
        match private_dir().create(&self.dir) {
            // Also if somebody else has just made it.
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => sync_dir(&self.root),
        }
        .map_err(|error| trouble("cannot make", &self.dir, error))
    }

    /// Opens a file that must be ours, made if there is none.
    pub(super) fn open_or_create(&self, name: &str) -> Result<File, StoreError> {
        self.make()?;
        let path = self.path(name);
        let file = private_file().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| refused(&path, error))?;
        check_file(&file, &path)?;
        Ok(file)
    }

    /// All of a file that must be ours, up to `most` bytes and one more; `None` if there is none.
    pub(super) fn read(&self, name: &str, most: usize) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        if !self.exists()? {
            return Ok(None);
        }
        let path = self.path(name);
        let file = match private_file().read(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(&path, error)),
        };
        let length = check_file(&file, &path)?;
        let most = most as u64 + 1;
        // As large as it will be: a buffer that grows leaves copies of tokens behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length.min(most) as usize + 1));
        file.take(most).read_to_end(&mut bytes).map_err(|error| trouble("cannot read", &path, error))?;
        Ok(Some(bytes))
    }

    /// Puts `bytes` in the place of `name`: after a crash there is the old file or the new one, and once this has answered
    /// there is the new one. `scratch` is a name that nobody else uses meanwhile.
    pub(super) fn replace(&self, name: &str, scratch: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (path, scratch) = (self.path(name), self.path(scratch));
        let write = || {
            match fs::remove_file(&scratch) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = private_file().write(true).create_new(true).open(&scratch)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&scratch, &path)
        };
        if let Err(error) = write() {
            let _ = fs::remove_file(&scratch); // it may hold tokens, and takes space where there may be none
            return Err(trouble("cannot write", &path, error));
        }
        self.sync()
    }

    /// Removes a file for good; one that is not there is removed already.
    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(trouble("cannot remove", &self.path(name), error)),
            _ => Ok(()),
        }
    }

    /// The names in the directory.
    pub(super) fn names(&self) -> Result<Vec<String>, StoreError> {
        if !self.exists()? {
            return Ok(Vec::new());
        }
        let list = || fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
        let names = list().map_err(|error| trouble("cannot list", &self.dir, error))?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Makes what was created, renamed and removed in the directory durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        sync_dir(&self.dir).map_err(|error| trouble("cannot sync", &self.dir, error))
    }
}

/// Makes the store's own directory if there is none, closes an empty one to others, and refuses one that is in use and
/// that others may enter.
pub(super) fn open_root(dir: &Path) -> Result<PathBuf, StoreError> {
    let is_new = !dir.exists();
    private_dir().recursive(true).create(dir).map_err(|error| trouble("cannot make", dir, error))?;
    // Absolute: a program that changes its working directory keeps its sessions.
    let dir = fs::canonicalize(dir).map_err(|error| trouble("cannot find", dir, error))?;
    if let Some(parent) = dir.parent().filter(|_| is_new) {
        let _ = sync_dir(parent); // it may be one that only its owner can open
    }
    let look = || fs::metadata(&dir).map_err(|error| trouble("cannot look at", &dir, error));
    if check(&look()?, &dir, true, "a directory").is_err()
        && is_mine(&look()?)
        && fs::read_dir(&dir).is_ok_and(|mut names| names.next().is_none())
    {
        make_private(&dir).map_err(|error| trouble("cannot close to others", &dir, error))?;
    }
    let found = look()?;
    check(&found, &dir, found.is_dir(), "a directory")?;
    Ok(dir)
}

#[cfg(unix)]
fn is_mine(found: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::uid(found) == rustix::process::geteuid().as_raw()
}

#[cfg(unix)]
fn make_private(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
}

#[cfg(not(unix))]
fn is_mine(_: &fs::Metadata) -> bool {
    true
}

#[cfg(not(unix))]
fn make_private(_: &Path) -> io::Result<()> {
    Ok(())
}

fn check_file(file: &File, path: &Path) -> Result<u64, StoreError> {
    let found = file.metadata().map_err(|error| trouble("cannot look at", path, error))?;
    check(&found, path, found.is_file(), "a regular file")?;
    Ok(found.len())
}

#[cfg(unix)]
fn check(found: &fs::Metadata, path: &Path, as_expected: bool, what: &str) -> Result<(), StoreError> {
    use std::os::unix::fs::MetadataExt as _;
    let path = path.display();
    if !as_expected {
        return Err(denied(format!("{path} is not {what}")));
    }
    if !is_mine(found) {
        return Err(denied(format!("{path} belongs to another user")));
    }
    if found.mode() & 0o077 != 0 {
        let mode = if found.is_dir() { "700" } else { "600" };
        return Err(denied(format!("{path} can be reached by other users: chmod {mode} it")));
    }
    Ok(())
}

/// Where there are no such permissions, the user's own directories are what the system protects.
#[cfg(not(unix))]
fn check(_: &fs::Metadata, path: &Path, as_expected: bool, what: &str) -> Result<(), StoreError> {
    match as_expected {
        true => Ok(()),
        false => Err(denied(format!("{} is not {what}", path.display()))),
    }
}

fn private_dir() -> DirBuilder {
    #[allow(unused_mut)] // where there are permissions
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

fn private_file() -> OpenOptions {
    #[allow(unused_mut)] // where there are permissions
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;
        // A symbolic link would write elsewhere, and a pipe would wait for a reader.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits() as i32);
    }
    options
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some file systems cannot, and need not.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Directories cannot be synced there; a rename is journalled.
#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

/// A file that could not be opened: a symbolic link in its place is refused, and left where it is.
fn refused(path: &Path, error: io::Error) -> StoreError {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => denied(format!("{} is not a regular file", path.display())),
        _ => trouble("cannot open", path, error),
    }
}

fn denied(why: String) -> StoreError {
    StoreError::new(StoreErrorKind::Denied).with_source(why)
}

/// `PermissionDenied` and read-only file systems are `Denied`, everything else `Unavailable`.
fn trouble(what: &str, path: &Path, error: io::Error) -> StoreError {
    let told = io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()));
    StoreError::from(told)
}
