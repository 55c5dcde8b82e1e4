//! Cases 12 and 41, P5: the disk fills up, or the directory goes, in mid-exchange.

use super::Place;
use crate::{
    again::under,
    world::{state, token},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{fs, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tower_reauth::{AuthEvent, ErrorKind, Session};

/// The next exchange is made, and its answer waits.
fn hold(place: &Place) -> Arc<Semaphore> {
    let hold = Arc::new(Semaphore::new(0));
    place.issuer.books().hold = Some(hold.clone());
    hold
}

/// A refresh whose answer waits.
async fn in_mid_exchange(place: &Place, session: &Session) -> (Arc<Semaphore>, tokio::task::JoinHandle<bool>) {
    let (hold, session) = (hold(place), session.clone());
    let flight = tokio::spawn(async move { session.refresh().await.is_ok() });
    until(|| place.issuer.books().number == 1).await;
    place.issuer.books().hold = None;
    (hold, flight)
}

async fn until(mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it does not happen");
}

/// Every write fails, as on a full disk, until this is dropped.
struct Full(Rlimit);

impl Full {
    fn new() -> Self {
        let before = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(0), maximum: before.maximum }).unwrap();
        Self(before)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        setrlimit(Resource::Fsize, self.0).unwrap();
    }
}

const FULL_DISK: &str = r#"trap "" XFSZ; exec "$@""#;

#[tokio::test]
async fn case_12_the_disk_is_full_when_the_answer_comes() {
    if !under("trouble::case_12_the_disk_is_full_when_the_answer_comes", FULL_DISK) {
        return;
    }
    let place = Place::signed_in().await;
    let session = place.open().await.unwrap();
    let (hold, flight) = in_mid_exchange(&place, &session).await;
    let full = Full::new();
    assert!(fs::write(place.dir.path().join("probe"), "x").is_err(), "the disk is not full");
    hold.add_permits(1);
    assert!(flight.await.unwrap(), "the tokens are used all the same");
    assert_eq!((state(&session), token(&session).await), ("active, unsaved", Ok("a1.1".into())));
    assert_eq!(place.log.count(|event| matches!(event, AuthEvent::Unsaved { .. })), 1);
    let old = fs::read_to_string(place.record()).unwrap();
    assert!(old.contains("r1.0") && old.contains("journal"), "what was there is there, its journal open");
    assert!(!place.account().join("session.new").exists(), "nothing is left that takes space");

    // Nobody else can have the lease, or would spend the old token.
    let second = place.builder().store(place.store()).open("alice").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(2), second.refresh()).await.is_err(), "it waits");

    drop(full);
    until(|| state(&session) == "active").await;
    assert!(fs::read_to_string(place.record()).unwrap().contains("r1.1"));
    drop(session);
    while token(&second).await != Ok("a1.1".into()) {
        tokio::time::sleep(Duration::from_millis(10)).await; // the flight that waited is still in the air
    }
    let books = place.issuer.books();
    assert_eq!((books.number, books.exchanges, books.reuse_events), (1, 1, 0), "the second adopted it");
}

#[tokio::test]
async fn case_12_the_disk_is_full_before_anything_is_sent() {
    if !under("trouble::case_12_the_disk_is_full_before_anything_is_sent", FULL_DISK) {
        return;
    }
    let place = Place::signed_in().await;
    let session = place.open().await.unwrap();
    let full = Full::new();
    let error = session.refresh().await.unwrap_err();
    assert_eq!((error.kind(), place.issuer.exchanges()), (ErrorKind::Unavailable, 0), "no journal, no exchange");
    assert_eq!((state(&session), token(&session).await), ("active", Ok("a1.0".into())));
    drop(full);
    session.reconnected();
    session.refresh().await.unwrap();
    assert_eq!(token(&session).await, Ok("a1.1".into()));
}

/// Nobody can read it any more, and nobody will: it is put aside, and the tokens in hand are saved.
#[tokio::test]
async fn case_12_a_record_that_is_damaged_in_mid_exchange_costs_no_tokens() {
    let place = Place::signed_in().await;
    let session = place.open().await.unwrap();
    let (hold, flight) = in_mid_exchange(&place, &session).await;
    fs::write(place.record(), "damaged").unwrap();
    hold.add_permits(1);
    assert!(flight.await.unwrap());
    until(|| state(&session) == "active").await;
    assert_eq!(place.aside().len(), 1, "it is kept");
    drop(session);
    let again = place.open().await.unwrap();
    assert_eq!((state(&again), token(&again).await), ("active", Ok("a1.1".into())));
}

#[tokio::test]
async fn p05_an_account_that_is_removed_in_mid_exchange_is_saved_anew() {
    let place = Place::signed_in().await;
    let session = place.open().await.unwrap();
    let (hold, flight) = in_mid_exchange(&place, &session).await;
    fs::remove_dir_all(place.account()).unwrap();
    hold.add_permits(1);
    assert!(flight.await.unwrap());
    assert_eq!(state(&session), "active");
    drop(session);
    let again = place.open().await.unwrap();
    assert_eq!((state(&again), token(&again).await), ("active", Ok("a1.1".into())));
}

/// It may be a volume that is not mounted now: nothing is written under its mount point.
#[tokio::test]
async fn p05_a_store_whose_directory_is_gone_is_waited_for() {
    let place = Place::signed_in().await;
    let session = place.open().await.unwrap();
    let (hold, flight) = in_mid_exchange(&place, &session).await;
    let away = place.dir.path().join("away");
    fs::rename(place.root(), &away).unwrap();
    hold.add_permits(1);
    assert!(flight.await.unwrap());
    assert_eq!((state(&session), token(&session).await), ("active, unsaved", Ok("a1.1".into())));
    assert!(!place.root().exists());
    fs::rename(&away, place.root()).unwrap();
    until(|| state(&session) == "active").await;
    drop(session);
    let again = place.open().await.unwrap();
    assert_eq!((state(&again), token(&again).await), ("active", Ok("a1.1".into())));
}
