//! The lock of an account: a file that is locked, and never deleted. Blocking, but it never waits.

use super::{
    super::{StoreError, StoreErrorKind},
    place::Place,
};
use std::{
    fs::{File, TryLockError},
    io,
};

const NAME: &str = "lock";

/// Held until it is dropped. The system releases it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    place: Place,
    file: File,
}

impl Lock {
    /// `None` if somebody else holds it.
    pub(super) fn take(place: Place) -> Result<Option<Self>, StoreError> {
        let file = place.open_or_create(NAME)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let lock = Self { place, file };
        // The directory may have been removed and made anew between the two.
        Ok(lock.holds()?.then_some(lock))
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The place, as long as the lock is worth anything: somebody who removed the directory removed the lock with it.
    pub(super) fn held(&self) -> Result<&Place, StoreError> {
        match self.holds()? {
            true => Ok(&self.place),
            false => Err(StoreError::new(StoreErrorKind::LeaseLost).with_source("the lock file was removed")),
        }
    }

    #[cfg(unix)]
    fn holds(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let mine = self.file.metadata()?;
        match std::fs::symlink_metadata(self.place.path(NAME)) {
            Ok(there) => Ok((mine.dev(), mine.ino()) == (there.dev(), there.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A file that is open cannot be removed there.
    #[cfg(not(unix))]
    fn holds(&self) -> io::Result<bool> {
        self.file.metadata().map(|_| true)
    }
}
