//! Case 16 and P16: nobody else's files, nobody else's eyes.

use super::Place;
use crate::{again::under, world::token};
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
};
use tower_reauth::{ErrorKind, FileStore, SignOut, StoreErrorKind};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn denied(dir: &Path) -> bool {
    FileStore::open(dir).is_err_and(|error| error.kind() == StoreErrorKind::Denied)
}

fn every_file(dir: &Path, f: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        f(&path);
        if path.is_dir() {
            every_file(&path, f);
        }
    }
}

#[tokio::test]
async fn p16_files_are_0600_in_directories_that_are_0700_whatever_the_umask() {
    if !under(
        "permissions::p16_files_are_0600_in_directories_that_are_0700_whatever_the_umask",
        r#"umask 0; exec "$@""#,
    ) {
        return;
    }
    let place = Place::signed_in().await;
    let session = place.open().await.unwrap();
    session.refresh().await.unwrap();
    session.sign_out(SignOut::Soft).await.unwrap();
    session.close().await.unwrap();
    assert_eq!(mode(&place.root()), 0o700);
    let mut names = Vec::new();
    every_file(&place.root(), &mut |path| {
        assert_eq!(mode(path), if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        names.push(super::name(path).to_owned());
    });
    assert!(names.len() >= 4, "{names:?}");
    assert!(names.iter().all(|name| !name.contains("alice")), "no personal data in names: {names:?}");
}

#[tokio::test]
async fn case_16_a_directory_that_others_may_enter_is_refused() {
    let place = Place::signed_in().await;
    for open in [0o755, 0o701, 0o710, 0o777, 0o1777] {
        set_mode(&place.root(), open);
        assert!(denied(&place.root()), "{open:o}");
        assert_eq!(mode(&place.root()), open, "and left as it is");
    }
    set_mode(&place.root(), 0o700);
    for (path, open) in [(place.record(), 0o644), (place.record(), 0o660), (place.account(), 0o755)] {
        let before = mode(&path);
        set_mode(&path, open);
        assert_eq!(place.open().await.err().map(|error| error.kind()), Some(ErrorKind::Store), "{open:o}");
        assert_eq!(mode(&path), open, "and left as it is");
        set_mode(&path, before);
    }
    assert!(token(&place.open().await.unwrap()).await.is_ok());
}

#[tokio::test]
async fn an_empty_directory_is_closed_to_others() {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o755);
    FileStore::open(dir.path()).unwrap();
    assert_eq!(mode(dir.path()), 0o700);
}

#[tokio::test]
async fn case_16_what_belongs_to_another_user_is_refused() {
    // Only root can give a file away; everybody else finds root's.
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return assert!(denied(Path::new("/etc")));
    }
    let place = Place::signed_in().await;
    for path in [place.record(), place.account()] {
        chown(&path, Some(65534), None).unwrap();
        assert_eq!(place.open().await.err().map(|error| error.kind()), Some(ErrorKind::Store));
        assert_eq!(fs::metadata(&path).unwrap().uid(), 65534, "and left as it is");
        chown(&path, Some(0), None).unwrap();
    }
    chown(place.root(), Some(65534), None).unwrap();
    assert!(denied(&place.root()));
    let empty = tempfile::tempdir().unwrap();
    set_mode(empty.path(), 0o755);
    chown(empty.path(), Some(65534), None).unwrap();
    assert!(denied(empty.path()));
    assert_eq!(mode(empty.path()), 0o755, "and left as it is, though root might close it");
}

/// Root may write anywhere, until it gives that up.
const WITHOUT_PRIVILEGES: &str = r#"
    [ "$(id -u)" = 0 ] || exec "$@"
    exec setpriv --bounding-set=-dac_override,-dac_read_search,-fowner "$@""#;

#[tokio::test]
async fn case_16_a_directory_that_is_read_only() {
    if !under("permissions::case_16_a_directory_that_is_read_only", WITHOUT_PRIVILEGES) {
        return;
    }
    let place = Place::signed_in().await;
    let account = place.account();
    set_mode(&account, 0o500);
    assert!(fs::write(account.join("probe"), "").is_err(), "the test runs with too many privileges");

    // What is there is used; what cannot be written down is not spent.
    let session = place.open().await.unwrap();
    assert_eq!(token(&session).await, Ok("a1.0".into()));
    let error = session.refresh().await.unwrap_err();
    assert_eq!((error.kind(), place.issuer.exchanges()), (ErrorKind::Unavailable, 0));
    assert_eq!(token(&session).await, Ok("a1.0".into()), "a fresh token stays in use");
    drop(session);

    set_mode(&account, 0o700);
    let session = place.open().await.unwrap();
    session.refresh().await.unwrap();
    assert_eq!(token(&session).await, Ok("a1.1".into()));
    set_mode(&place.root(), 0o700);
}

#[tokio::test]
async fn case_16_a_directory_that_cannot_be_made() {
    if !under("permissions::case_16_a_directory_that_cannot_be_made", WITHOUT_PRIVILEGES) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o500);
    assert!(denied(&dir.path().join("sessions")));
    set_mode(dir.path(), 0o700);
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(FileStore::open(dir.path().join("file")).is_err());
    assert!(FileStore::open(dir.path().join("file/under")).is_err());
}
