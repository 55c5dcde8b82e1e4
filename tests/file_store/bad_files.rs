//! Case 16: a record that cannot be read is an error, is kept, and stands in nobody's way.

use super::{Place, is_out};
use crate::world::token;
use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};
use tower_reauth::{AccountKey, AuthError, AuthState, ErrorKind, SessionStore as _, StoreError, StoreErrorKind};

/// The store's error in the session's.
fn store_kind(error: &AuthError) -> Option<StoreErrorKind> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref::<StoreError>() {
            return Some(found.kind());
        }
        source = error.source();
    }
    None
}

async fn refused(place: &Place) -> StoreErrorKind {
    let error = place.open().await.expect_err("opened a record that cannot be read");
    assert_eq!(error.kind(), ErrorKind::Store);
    store_kind(&error).expect("the store's error is the cause")
}

/// The bad record is an error once and is kept as it was; then the session begins signed out, and a sign-in lasts.
async fn is_put_aside(place: &Place, kind: StoreErrorKind) {
    let bad = fs::read(place.record()).unwrap();
    assert_eq!(refused(place).await, kind);
    assert!(!place.record().exists());
    let aside = place.aside();
    assert_eq!(aside.len(), 1, "it is kept, once");
    assert!(fs::read(&aside[0]).unwrap() == bad, "and as it was");

    let session = place.open().await.unwrap();
    assert!(is_out(&session));
    session.sign_in(place.issuer.sign_in()).await.unwrap();
    session.close().await.unwrap();
    let again = place.open().await.unwrap();
    assert!(token(&again).await.is_ok());
    assert_eq!(place.aside().len(), 1);
}

async fn damaged(damage: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Place {
    let place = Place::signed_in().await;
    let path = place.record();
    fs::write(&path, damage(fs::read(&path).unwrap())).unwrap();
    place
}

#[tokio::test]
async fn case_16_a_truncated_record_is_put_aside() {
    for keep in [0, 1, 100, 200] {
        let place = damaged(|file| file[..keep].to_vec()).await;
        is_put_aside(&place, StoreErrorKind::Corrupt).await;
    }
    let place = damaged(|file| file[..file.len() - 1].to_vec()).await;
    is_put_aside(&place, StoreErrorKind::Corrupt).await;
}

#[tokio::test]
async fn case_16_a_changed_record_is_put_aside() {
    let place = damaged(|file| String::from_utf8(file).unwrap().replace("r1.0", "r9.9").into_bytes()).await;
    is_put_aside(&place, StoreErrorKind::Corrupt).await;
}

#[tokio::test]
async fn case_16_a_file_of_another_program_is_put_aside() {
    let place = damaged(|_| b"{\"access_token\":\"of another program\"}".to_vec()).await;
    is_put_aside(&place, StoreErrorKind::Corrupt).await;
}

#[tokio::test]
async fn case_16_the_record_of_another_account_is_put_aside() {
    let place = Place::signed_in().await;
    let (alice, bob) = (place.record(), "b".repeat(64).parse::<AccountKey>().unwrap());
    fs::create_dir(place.root().join(bob.as_str())).unwrap();
    private(&place.root().join(bob.as_str()), 0o700);
    fs::copy(&alice, place.root().join(bob.as_str()).join("session")).unwrap();
    let error = place.store().load(&bob).await.expect_err("the record of another account");
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(alice.exists());
}

#[tokio::test]
async fn case_16_an_oversized_record_is_put_aside() {
    let place = damaged(|mut file| {
        file.resize(3 << 20, b' ');
        file
    })
    .await;
    is_put_aside(&place, StoreErrorKind::TooLarge).await;
}

#[tokio::test]
async fn case_16_a_record_of_a_newer_format_stays_where_it_is() {
    let place = damaged(|file| String::from_utf8(file).unwrap().replacen(" 1 ", " 2 ", 1).into_bytes()).await;
    let before = fs::read(place.record()).unwrap();
    for _ in 0..2 {
        assert_eq!(refused(&place).await, StoreErrorKind::NewerVersion);
    }
    assert_eq!((fs::read(place.record()).unwrap(), place.aside().len()), (before, 0));
}

/// Nothing is read through it, written through it, or changed.
#[tokio::test]
async fn case_16_a_symbolic_link_in_its_place_is_refused() {
    let place = Place::signed_in().await;
    let elsewhere = place.dir.path().join("elsewhere");
    fs::rename(place.record(), &elsewhere).unwrap();
    symlink(&elsewhere, place.record()).unwrap();
    let before = fs::read(&elsewhere).unwrap();
    assert_eq!(refused(&place).await, StoreErrorKind::Denied);
    assert_eq!(fs::read_link(place.record()).unwrap(), elsewhere);
    assert_eq!(fs::read(&elsewhere).unwrap(), before);

    // The same for the account's directory.
    let (account, moved) = (place.account(), place.dir.path().join("moved"));
    fs::rename(&account, &moved).unwrap();
    symlink(&moved, &account).unwrap();
    assert_eq!(refused(&place).await, StoreErrorKind::Denied);
    assert!(fs::symlink_metadata(&account).unwrap().is_symlink());
}

/// A pipe would wait for a writer for ever.
#[tokio::test]
async fn case_16_what_is_no_file_is_refused_at_once() {
    let place = Place::signed_in().await;
    fs::remove_file(place.record()).unwrap();
    let made = std::process::Command::new("mkfifo").arg(place.record()).status().unwrap();
    assert!(made.success());
    assert_eq!(refused(&place).await, StoreErrorKind::Denied);
    fs::remove_file(place.record()).unwrap();
    fs::create_dir(place.record()).unwrap();
    assert_eq!(refused(&place).await, StoreErrorKind::Denied);
}

/// A session that is open when its record is damaged says so, loses nothing, and a sign-in makes room under its lease.
#[tokio::test]
async fn case_16_a_record_that_is_damaged_under_an_open_session() {
    let place = Place::signed_in().await;
    let session = place.open().await.unwrap();
    let held = place.store().lease(&key(&place), Duration::from_secs(9)).await.unwrap();
    fs::write(place.record(), "torn").unwrap();
    private(&place.record(), 0o600);
    // Somebody else holds the lease: it is not touched.
    let error = place.store().load(&key(&place)).await.expect_err("torn");
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(place.record().exists() && place.aside().is_empty());
    drop(held);
    session.sign_in(place.issuer.sign_in()).await.unwrap();
    assert_eq!((place.aside().len(), fs::read(&place.aside()[0]).unwrap()), (1, b"torn".to_vec()));
    let again = place.open().await.unwrap();
    assert_eq!(token(&again).await, token(&session).await);
}

/// Somebody signs in while another start waits for the lease, to put aside what it has found.
#[tokio::test]
async fn case_16_a_record_that_was_replaced_meanwhile_is_not_put_aside() {
    let place = Place::signed_in().await;
    let store = place.store();
    let good = store.load(&key(&place)).await.unwrap().unwrap();
    let mut held = store.lease(&key(&place), Duration::from_secs(9)).await.unwrap();
    fs::write(place.record(), "torn").unwrap();
    let (found, ()) = tokio::join!(place.open(), async {
        tokio::time::sleep(Duration::from_millis(300)).await; // it has read, and waits
        store.set_aside(&mut held).await.unwrap();
        store.save(&mut held, None, good.bytes()).await.unwrap();
        drop(held);
    });
    drop(found); // an error, unless it was slow to start
    assert_eq!(token(&place.open().await.unwrap()).await, Ok("a1.0".into()));
    assert_eq!(place.aside().len(), 1);
}

/// What nobody may read is in the way of a start, but not of a sign-in.
#[tokio::test]
async fn case_16_a_sign_in_puts_aside_what_it_may_not_read() {
    let place = Place::signed_in().await;
    let session = place.open().await.unwrap();
    let elsewhere = place.dir.path().join("elsewhere");
    fs::rename(place.record(), &elsewhere).unwrap();
    symlink(&elsewhere, place.record()).unwrap();
    let before = fs::read(&elsewhere).unwrap();
    session.sign_in(place.issuer.sign_in()).await.unwrap();
    assert!(matches!(session.state(), AuthState::Active { unsaved: false, .. }), "{:?}", session.state());
    assert_eq!((fs::read_link(&place.aside()[0]).unwrap(), fs::read(&elsewhere).unwrap()), (elsewhere, before));
    assert_eq!(token(&place.open().await.unwrap()).await, token(&session).await);
}

fn key(place: &Place) -> AccountKey {
    super::name(&place.account()).parse().unwrap()
}

fn private(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}
