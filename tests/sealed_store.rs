//! [`Sealed`] over stores in memory: what the store underneath sees (P16), which key seals what, when keys are destroyed,
//! and that no crash leaves a record without its key. The form of a record is tested beside it, the keyring in
//! `keyring.rs`, the contract of stores in `stores.rs`.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start tasks

#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/fuse.rs"]
mod fuse;
#[path = "support/keys.rs"]
mod keys;
#[path = "support/kit.rs"]
mod kit;
#[path = "sealed_store/shredding.rs"]
mod shredding;
#[path = "sealed_store/sources.rs"]
mod sources;
#[path = "support/world.rs"]
mod world;

use flaky::{Call, Fault, Flaky};
use keys::{Asked, Keys};
use kit::SEC;
use proptest::prelude::*;
use std::sync::Arc;
use tower_reauth::{
    AccountKey, ErrorKind, MemoryStore, Sealed, SealingKey, Session, SessionStore, SharedStore, StoreErrorKind, Stored,
};
use world::World;

type Store = Sealed<Flaky, Keys>;

/// One store, one key source; each `Sealed` is a process.
#[derive(Clone, Default)]
struct Rig {
    inner: Flaky,
    keys: Keys,
}

impl Rig {
    fn process(&self) -> Store {
        Sealed::new(self.inner.clone(), self.keys.clone())
    }

    fn raw(&self) -> Stored {
        self.inner.stored(&account()).unwrap()
    }

    /// The epoch and the name of the key, as the header says in the clear.
    fn header(&self) -> (u64, String) {
        header(self.raw().bytes())
    }
}

fn header(raw: &[u8]) -> (u64, String) {
    let epoch = u64::from_be_bytes(raw[18..26].try_into().unwrap());
    (epoch, String::from_utf8(raw[27..27 + usize::from(raw[26])].to_vec()).unwrap())
}

fn account() -> AccountKey {
    "a".repeat(64).parse().unwrap()
}

async fn save(store: &Store, bytes: &[u8]) -> Result<(), StoreErrorKind> {
    let mut lease = store.lease(&account(), SEC).await.unwrap();
    let version = store.load(&account()).await.map_err(|e| e.kind())?.map(|stored| stored.version().clone());
    store.save(&mut lease, version.as_ref(), bytes).await.map(drop).map_err(|error| error.kind())
}

async fn read(store: &Store) -> Result<Option<Vec<u8>>, StoreErrorKind> {
    let loaded = store.load(&account()).await.map_err(|error| error.kind())?;
    Ok(loaded.map(|stored| stored.bytes().to_vec()))
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

async fn session(world: &World, store: &Store) -> Session {
    world.builder().store(store.clone()).open("alice").await.unwrap()
}

// ===== what the store underneath sees =====

#[tokio::test(start_paused = true)]
async fn p16_the_inner_store_sees_no_token() {
    let world = World::new(Flaky::new());
    let rig = Rig { inner: world.store.clone(), ..Rig::default() };
    let store = rig.process();
    let alice = session(&world, &store).await;
    alice.sign_in(world.issuer.sign_in()).await.unwrap();
    let key = world.store.keys()[0].clone();
    let first = world.store.stored(&key).unwrap();
    world.expire().await;
    alice.access_token().await.unwrap();
    let second = world.store.stored(&key).unwrap();
    for raw in [&first, &second] {
        for word in ["a1.0", "r1.0", "a1.1", "r1.1", "alice", "format", "https"] {
            assert!(!contains(raw.bytes(), word), "{word} is in the clear");
        }
    }
    let plain = store.load(&key).await.unwrap().unwrap();
    assert!(contains(plain.bytes(), "r1.1") && contains(plain.bytes(), "alice"), "it would have been found");

    // The same program, started again.
    let again = session(&world, &rig.process()).await;
    assert_eq!(world::token(&again).await.unwrap(), "a1.1");
    assert_eq!(world.books(), (1, 0));
}

#[tokio::test]
async fn the_same_record_never_looks_the_same() {
    let rig = Rig::default();
    let store = rig.process();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        save(&store, b"plain").await.unwrap();
        let raw = rig.raw().bytes().to_vec();
        let end = 27 + usize::from(raw[26]);
        assert!(seen.insert(raw[end..end + 24].to_vec()), "a nonce came twice");
    }
    assert_eq!(rig.keys.epochs(), [0], "all of them under one key");
}

#[tokio::test]
async fn nothing_tells_a_key() {
    let key = SealingKey::new("its name", [0xab; 32]);
    let store = Sealed::new(MemoryStore::new(), Keys::new());
    let mut lease = store.lease(&account(), SEC).await.unwrap();
    store.save(&mut lease, None, b"hunter2").await.unwrap();
    for told in [format!("{key:?}"), format!("{store:?}"), format!("{lease:?}")] {
        assert!(!told.contains("171") && !told.contains("[1, 1") && !told.contains("hunter2"), "{told}");
    }
    assert!(format!("{key:?}").contains("its name"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any byte, changed in any way, in front of the store's own eyes: a typed error, and the bytes stay where they are.
    #[test]
    fn a_changed_record_is_an_error(at: prop::sample::Index, by in 1u8..) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::default();
            save(&rig.process(), b"a record").await.unwrap();
            let mut raw = rig.raw().bytes().to_vec();
            let at = at.index(raw.len());
            raw[at] ^= by;
            rig.inner.put(&account(), &raw);
            let kind = read(&rig.process()).await.unwrap_err();
            let named = (27..27 + usize::from(raw[26])).contains(&at);
            match kind {
                StoreErrorKind::Corrupt => {}
                StoreErrorKind::NewerVersion => assert!((8..10).contains(&at)),
                StoreErrorKind::Denied => assert!(named || at == 26, "byte {at}"), // it names a key that nobody has
                kind => panic!("byte {at}: {kind:?}"),
            }
            assert_eq!(rig.raw().bytes(), raw);
        });
    }
}

#[tokio::test]
async fn a_record_of_another_account_does_not_open() {
    let rig = Rig::default();
    save(&rig.process(), b"a record").await.unwrap();
    let other: AccountKey = "b".repeat(64).parse().unwrap();
    rig.inner.put(&other, rig.raw().bytes());
    // The thief has the key too, under the same name.
    let key = rig.keys.table().keys[0].2.clone();
    rig.keys.table().keys.push((other.clone(), 0, key));
    let kind = rig.process().load(&other).await.unwrap_err().kind();
    assert_eq!(kind, StoreErrorKind::Corrupt);
}

#[tokio::test]
async fn what_is_put_aside_is_put_aside_underneath() {
    let store = Sealed::new(MemoryStore::new(), Keys::new());
    let mut lease = store.lease(&account(), SEC).await.unwrap();
    store.save(&mut lease, None, b"a record").await.unwrap();
    store.set_aside(&mut lease).await.unwrap();
    assert!(store.load(&account()).await.unwrap().is_none());
    assert!(store.accounts().await.unwrap().is_empty());
}

// ===== which key =====

/// The key follows the mark: what an older key sealed still opens, and the next save seals it anew.
#[tokio::test]
async fn keys_rotate_with_the_epoch() {
    let rig = Rig::default();
    let store = rig.process();
    save(&store, b"first").await.unwrap();
    assert_eq!(rig.header(), (0, "key-1".into()));
    store.raise_epoch(&account(), 2).await.unwrap();
    assert_eq!(read(&store).await.unwrap().as_deref(), Some(&b"first"[..]));
    assert_eq!(read(&rig.process()).await.unwrap().as_deref(), Some(&b"first"[..]));
    save(&store, b"second").await.unwrap();
    assert_eq!(rig.header(), (2, "key-2".into()));
    assert_eq!(rig.keys.epochs(), [2]);
}

/// A mark that rises under the lease: the next save takes its key.
#[tokio::test]
async fn a_lease_that_is_kept_takes_the_new_key() {
    let rig = Rig::default();
    let store = rig.process();
    let mut lease = store.lease(&account(), SEC).await.unwrap();
    let first = store.save(&mut lease, None, b"1").await.unwrap();
    let second = store.save(&mut lease, Some(&first), b"2").await.unwrap();
    assert_eq!(rig.keys.count(Asked::Current(0)), 1, "the lease keeps its key");
    rig.inner.raise_epoch(&account(), 3).await.unwrap();
    store.save(&mut lease, Some(&second), b"3").await.unwrap();
    assert_eq!((rig.header().0, rig.keys.count(Asked::Current(3))), (3, 1));
}

#[tokio::test]
async fn a_load_does_not_ask_the_keyring_each_time() {
    let rig = Rig::default();
    save(&rig.process(), b"a record").await.unwrap();
    let store = rig.process();
    for _ in 0..20 {
        assert!(read(&store.clone()).await.unwrap().is_some());
    }
    assert_eq!(rig.keys.count(Asked::Find), 1);
}

/// Sixteen processes that all come first make one key.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_epoch_has_one_key() {
    for epoch in [0, 2] {
        let rig = Rig::default();
        rig.inner.raise_epoch(&account(), epoch).await.unwrap();
        let start = Arc::new(tokio::sync::Barrier::new(16));
        let tasks: Vec<_> = (0..16u8)
            .map(|n| {
                let (store, start) = (rig.process(), start.clone());
                tokio::spawn(async move {
                    start.wait().await;
                    save(&store, &[n]).await
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!((rig.keys.made(), rig.keys.epochs()), (1, vec![epoch]));
        assert!(read(&rig.process()).await.unwrap().is_some());
    }
}

// ===== a store that fails =====

/// Nothing is destroyed for a save that may not have happened, and nothing that the record needs for one that has.
#[tokio::test(start_paused = true)]
async fn a_failed_save_destroys_nothing() {
    let lost = || Fault::Fail(StoreErrorKind::LeaseLost);
    for (fault, kind, header) in [
        (Fault::Fail(StoreErrorKind::Unavailable), StoreErrorKind::Unavailable, 0),
        (lost(), StoreErrorKind::LeaseLost, 0),
        (Fault::ApplyAndFail, StoreErrorKind::Unavailable, 2),
    ] {
        let rig = Rig::default();
        let store = rig.process();
        save(&store, b"old").await.unwrap();
        store.raise_epoch(&account(), 2).await.unwrap();
        rig.inner.nth(Call::Save, 0, fault.clone());
        assert_eq!(save(&store, b"new").await, Err(kind));
        assert_eq!(rig.keys.count(Asked::Destroy(2)), 0, "{fault:?}");
        assert_eq!(rig.header().0, header);
        assert!(read(&rig.process()).await.unwrap().is_some(), "{fault:?}");
        save(&store, b"newer").await.unwrap();
        assert_eq!((rig.header().0, rig.keys.epochs()), (2, vec![2]));
    }
}

#[tokio::test]
async fn a_mark_that_cannot_be_read_seals_nothing() {
    let rig = Rig::default();
    rig.inner.always(Call::Mark, Fault::Fail(StoreErrorKind::Unavailable));
    assert_eq!(save(&rig.process(), b"new").await, Err(StoreErrorKind::Unavailable));
    assert_eq!((rig.inner.count(Call::Save), rig.keys.made()), (0, 0));
}

#[tokio::test]
async fn a_record_is_as_large_as_fits_when_sealed() {
    let rig = Rig::default();
    let store = rig.process();
    let most = (1 << 20) - 8 - 2 - 8 - 8 - 6 - 24 - 16;
    save(&store, &vec![1; most]).await.unwrap();
    assert_eq!(rig.raw().bytes().len(), 1 << 20);
    assert_eq!(save(&store, &vec![1; most + 1]).await, Err(StoreErrorKind::TooLarge));
}

// ===== a key that is not there =====

/// The keyring may only be locked, or not there yet: the record stays, and opens when the key is back.
#[tokio::test(start_paused = true)]
async fn case_16_a_record_without_its_key_is_left_as_it_is() {
    let world = World::new(Flaky::new());
    let rig = Rig { inner: world.store.clone(), ..Rig::default() };
    let alice = session(&world, &rig.process()).await;
    alice.sign_in(world.issuer.sign_in()).await.unwrap();
    drop(alice);
    let key = world.store.keys()[0].clone();
    let before = world.store.stored(&key).unwrap();
    let taken = std::mem::take(&mut rig.keys.table().keys);

    let error = world.builder().store(rig.process()).open("alice").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    let mut told = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        told = format!("{told}: {error}");
        source = error.source();
    }
    assert!(told.contains("the key of the stored session is not to be had"), "{told}");
    let after = world.store.stored(&key).unwrap();
    assert_eq!((after.bytes(), after.version()), (before.bytes(), before.version()));

    rig.keys.table().keys = taken;
    let alice = session(&world, &rig.process()).await;
    assert_eq!(world::token(&alice).await.unwrap(), "a1.0");
}

#[tokio::test]
async fn a_sealed_store_can_be_erased() {
    let store = SharedStore::new(Sealed::new(MemoryStore::new(), Keys::new()));
    let mut lease = store.lease(&account(), SEC).await.unwrap();
    store.save(&mut lease, None, b"a record").await.unwrap();
    assert_eq!(store.load(&account()).await.unwrap().unwrap().bytes(), b"a record");
}
