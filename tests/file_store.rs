//! [`FileStore`] on a real disk: bad files and permissions (case 16), a disk that is full or gone (cases 12 and 41), and
//! what a session costs there. The contract of stores is in `stores.rs`, other processes are in `kills.rs`.
#![cfg(all(unix, feature = "file"))]
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start tasks

#[path = "support/again.rs"]
mod again;
#[path = "file_store/bad_files.rs"]
mod bad_files;
#[path = "file_store/costs.rs"]
mod costs;
#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/kit.rs"]
mod kit;
#[path = "file_store/permissions.rs"]
mod permissions;
#[path = "file_store/trouble.rs"]
mod trouble;
#[path = "support/world.rs"]
mod world;

use kit::{Issuer, Log};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tower_reauth::{AuthError, AuthState, FileStore, Session, SessionBuilder, SignedOutCause};

/// One account in a directory of its own; sessions on it are "processes".
struct Place {
    dir: tempfile::TempDir,
    issuer: Issuer,
    log: Log,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), issuer: Issuer::new(), log: Log::default() }
    }

    /// With a record: `a1.0`, `r1.0`. Nobody has it open.
    async fn signed_in() -> Self {
        let place = Self::new();
        let session = place.open().await.unwrap();
        session.sign_in(place.issuer.sign_in()).await.unwrap();
        session.close().await.unwrap();
        place
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("sessions")
    }

    fn store(&self) -> FileStore {
        FileStore::open(self.root()).unwrap()
    }

    fn builder(&self) -> SessionBuilder {
        self.log.attach(Session::builder(self.issuer.clone())).background_refresh(false)
    }

    async fn open(&self) -> Result<Session, AuthError> {
        self.builder().store(self.store()).open("alice").await
    }

    /// The account's own directory.
    fn account(&self) -> PathBuf {
        let mut found = fs::read_dir(self.root()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        assert_eq!(found.len(), 1, "one account, one directory: {found:?}");
        found.remove(0)
    }

    fn record(&self) -> PathBuf {
        self.account().join("session")
    }

    /// What was put aside.
    fn aside(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(self.account()).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| name(path).starts_with("bad-")).collect()
    }
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn is_out(session: &Session) -> bool {
    matches!(session.state(), AuthState::SignedOut(SignedOutCause::Elsewhere | SignedOutCause::Never))
}
