//! A record that cannot be read: it is in nobody's way but its own account's (P12), and a store that does not answer is an
//! error.

use crate::{
    flaky::{Call, Fault, Flaky},
    ids,
    keys::Keys,
    kind_of,
    kit::get,
    town::{Town, named, send},
    world::{state, token},
};
use http::StatusCode;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tower_reauth::{
    AccountKey, Accounts, AuthError, ErrorKind, FileStore, MemoryStore, Sealed, SessionStore, StoreError,
    StoreErrorKind, Stored, Tokens, Version,
};

use StoreErrorKind::{Corrupt, Denied, NewerVersion, TooLarge, Unavailable};

const THREE: [&str; 3] = ["alice", "bob", "carol"];

async fn three(store: impl SessionStore) -> Town {
    Town::with(store, &THREE, |builder| builder).await
}

/// Whoever is missing.
fn missing(accounts: &Accounts) -> Vec<&'static str> {
    THREE.into_iter().filter(|subject| accounts.get(&(*subject).into()).is_none()).collect()
}

fn store_kind(error: &AuthError) -> StoreErrorKind {
    let source = std::error::Error::source(error).expect("a cause");
    source.downcast_ref::<StoreError>().expect("of the store").kind()
}

#[tokio::test(start_paused = true)]
async fn p12_whatever_cannot_be_read_keeps_no_other_account_from_opening() {
    for kind in [Corrupt, TooLarge, Denied, NewerVersion] {
        for nth in 0..3 {
            for (call, nth) in [(Call::Load, nth), (Call::Mark, nth)] {
                let store = Flaky::new();
                let town = three(store.clone()).await;
                store.nth(call, nth, Fault::Fail(kind));
                let again = town.builder(store.clone()).open_accounts().await.unwrap();
                let [left_out] = missing(&again)[..] else { panic!("{kind:?} {call:?} {nth}: {again:?}") };
                for subject in THREE.into_iter().filter(|it| *it != left_out) {
                    assert_eq!(state(&again.get(&subject.into()).unwrap()), "active");
                }

                // Asked for by name it says why; and when it can be read, it is there.
                store.heal();
                store.nth(call, 0, Fault::Fail(kind));
                store.always(Call::SetAside, Fault::Fail(Denied)); // it was read all the time
                let error = again.open(left_out).await.unwrap_err();
                assert_eq!((error.kind(), store_kind(&error)), (ErrorKind::Store, kind), "{call:?}");
                assert_eq!(missing(&again), [left_out]);
                store.heal();
                assert_eq!(state(&again.open(left_out).await.unwrap()), "active");
                assert_eq!(again.ids(), ids(THREE));
            }
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Files as they are found: cut short, emptied, grown.
#[tokio::test]
async fn p12_damaged_files_keep_no_other_account_from_opening() {
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage); 3] = [
        ("cut", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("empty", |_| Vec::new()),
        ("huge", |bytes| [bytes, vec![b' '; 2 << 20]].concat()),
    ];
    for (name, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let open = || FileStore::open(dir.path()).unwrap();
        let town = three(open()).await;
        let file = files(dir.path())
            .into_iter()
            .find(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"bob\"")))
            .expect("the record of bob");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, damage(bytes)).unwrap();

        let again = town.builder(open()).open_accounts().await.unwrap();
        assert_eq!(missing(&again), ["bob"], "{name}");
        assert_eq!(kind_of(again.open("bob").await.map(drop)), Err(ErrorKind::Store), "{name}: it says why");
        // It has been put aside: he can sign in again, beside the others.
        let bob = again.open("bob").await.unwrap();
        bob.sign_in(town.issuer("bob").sign_in()).await.unwrap();
        assert_eq!(missing(&town.builder(open()).open_accounts().await.unwrap()), [""; 0], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn p12_a_record_of_another_issuer_in_an_accounts_place_keeps_no_other_from_opening() {
    for (member, value, expected) in [
        ("issuer", json!("https://evil.test/token"), ErrorKind::Misconfigured),
        ("client_id", json!("other"), ErrorKind::Misconfigured),
        ("subject", json!("mallory"), ErrorKind::Store),
        ("format", json!(2), ErrorKind::Store),
    ] {
        let store = Flaky::new();
        let town = three(store.clone()).await;
        let is_bobs = |key: &AccountKey| store.record_of(key).is_some_and(|record| record["subject"] == "bob");
        let key = store.keys().into_iter().find(is_bobs).expect("the record of bob");
        let mut record = store.record_of(&key).unwrap();
        assert!(record.get(member).is_some(), "{member}: {record}");
        record[member] = value;
        store.put(&key, record.to_string().as_bytes());
        let again = town.builder(store.clone()).open_accounts().await.unwrap();
        assert_eq!(missing(&again), ["bob"], "{member}");
        assert!(again.get(&"mallory".into()).is_none(), "nor is it anybody else's");
        assert_eq!(kind_of(again.open("bob").await.map(drop)), Err(expected), "{member}");
    }
}

// ===== keys that are not to be had =====

#[tokio::test(start_paused = true)]
async fn p12_a_lost_key_keeps_no_other_account_from_opening() {
    let (store, keys) = (MemoryStore::new(), Keys::new());
    let open = || Sealed::new(store.clone(), keys.clone());
    let town = three(open()).await;
    keys.table().keys.remove(1); // bob was the second to sign in
    let again = town.builder(open()).open_accounts().await.unwrap();
    assert_eq!(missing(&again), ["bob"]);
    let error = again.open("bob").await.unwrap_err();
    assert_eq!((error.kind(), store_kind(&error)), (ErrorKind::Store, Denied));
    assert_eq!(missing(&again), ["bob"], "asking does not make him known");

    // Where users sign in he can be opened, and what cannot be read is replaced.
    let again = town.builder(open()).for_sign_in().open_accounts().await.unwrap();
    assert_eq!(missing(&again), ["bob"]);
    let bob = again.open("bob").await.unwrap();
    assert_eq!(state(&bob), "signed out elsewhere", "somebody was, once");
    bob.sign_in(Tokens::new("new").with_refresh_token("r")).await.unwrap();
    let again = town.builder(open()).open_accounts().await.unwrap();
    assert_eq!(token(&again.get(&"bob".into()).unwrap()).await.unwrap(), "new");
}

/// Lest a program that shows "nobody" invite a sign-in over logins that are only locked away.
#[tokio::test(start_paused = true)]
async fn if_none_can_be_read_and_a_key_would_help_it_is_an_error() {
    let (store, keys) = (MemoryStore::new(), Keys::new());
    let open = || Sealed::new(store.clone(), keys.clone());
    let town = three(open()).await;
    keys.fail(Denied);
    let error = town.builder(open()).open_accounts().await.unwrap_err();
    assert_eq!((error.kind(), store_kind(&error), error.is_transient()), (ErrorKind::Store, Denied, false));
    let signing_in = town.builder(open()).for_sign_in().open_accounts().await.unwrap();
    assert!(signing_in.ids().is_empty());
    assert_eq!(state(&signing_in.open("alice").await.unwrap()), "signed out elsewhere");
    keys.heal();
    assert_eq!(missing(&town.builder(open()).open_accounts().await.unwrap()), [""; 0]);

    // All damaged is another matter: nothing would help.
    let store = Flaky::new();
    let town = three(store.clone()).await;
    store.always(Call::Load, Fault::Fail(Corrupt));
    assert!(town.builder(store.clone()).open_accounts().await.unwrap().ids().is_empty());
    store.heal();
    store.nth(Call::Load, 0, Fault::Fail(NewerVersion));
    store.always(Call::Load, Fault::Fail(Corrupt));
    let error = town.builder(store.clone()).open_accounts().await.unwrap_err();
    assert_eq!(store_kind(&error), NewerVersion, "one of them would be read by a newer program");
}

// ===== a store that does not answer =====

/// A store with a list that goes wrong.
#[derive(Clone)]
struct Listed(Flaky, List);

/// `Ok` with nobody: it does not answer at all.
type List = fn() -> Result<Vec<AccountKey>, StoreError>;

impl SessionStore for Listed {
    type Lease = <Flaky as SessionStore>::Lease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        self.0.load(key).await
    }

    async fn lease(&self, key: &AccountKey, ttl: std::time::Duration) -> Result<Self::Lease, StoreError> {
        self.0.lease(key, ttl).await
    }

    async fn save(
        &self,
        lease: &mut Self::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        self.0.save(lease, expected, bytes).await
    }

    async fn remove(&self, lease: &mut Self::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        self.0.remove(lease, expected).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        self.0.raise_epoch(key, to).await
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        match (self.1)() {
            Ok(keys) if keys.is_empty() => std::future::pending().await,
            told => told,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_an_error() {
    for nth in 0..3 {
        for call in [Call::Load, Call::Mark] {
            for fault in [Fault::Fail(Unavailable), Fault::Hang] {
                let store = Flaky::new();
                let town = three(store.clone()).await;
                store.nth(call, nth, fault);
                let error = town.builder(store.clone()).open_accounts().await.unwrap_err();
                assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Store, true));
            }
        }
    }
    let lists: [List; 3] =
        [|| Err(StoreError::unavailable("gone")), || panic!("a list that panics"), || Ok(Vec::new())];
    for list in lists {
        let town = three(Flaky::new()).await;
        let error = town.builder(Listed(Flaky::new(), list)).open_accounts().await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Store, true));
    }
}

/// P2: a panic of a store is a typed error, when all are opened and when one is; the others go on.
#[tokio::test(start_paused = true)]
async fn p02_a_store_that_panics_is_an_error() {
    let panics = Arc::new(AtomicBool::new(false));
    let store = {
        let panics = panics.clone();
        crate::rig::Hooked::new(move |call| assert!(!panics.load(Relaxed), "a store that panics in {call}"))
    };
    let town = Town::with(store.clone(), &["alice"], |builder| builder).await;
    panics.store(true, Relaxed);
    assert_eq!(kind_of(town.builder(store.clone()).open_accounts().await.map(drop)), Err(ErrorKind::Store));
    assert_eq!(kind_of(town.accounts.open("bob").await.map(drop)), Err(ErrorKind::Store));
    assert_eq!(town.accounts.ids(), ids(["alice"]));
    assert_eq!(send(&town.api(), named(get("/"), "alice")).await.unwrap(), StatusCode::OK);
    panics.store(false, Relaxed);
    assert_eq!(state(&town.accounts.open("bob").await.unwrap()), "never signed in");
}

/// Some stores find a key twice when they scan.
#[tokio::test(start_paused = true)]
async fn p01_an_account_that_is_listed_twice_is_opened_once() {
    let store = Flaky::new();
    let town = three(store.clone()).await;
    store.forget_calls();
    let twice = Listed(store.clone(), || Ok(vec!["0".repeat(64).parse()?, "0".repeat(64).parse()?]));
    assert!(town.builder(twice).open_accounts().await.unwrap().ids().is_empty(), "its record is gone by now");
    assert_eq!(store.count(Call::Load), 1);
}
