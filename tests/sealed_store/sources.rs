//! Key sources that fail: their errors reach the caller, a record is never blamed for them, and a save that is done is done.

use crate::{
    Asked, Rig, account,
    flaky::Flaky,
    keys::Trouble,
    read, save, session,
    world::{World, state},
};
use tower_reauth::{SessionStore, SignOut, StoreErrorKind};

use StoreErrorKind::{Conflict, Corrupt, Denied, LeaseLost, NewerVersion, TooLarge, Unavailable};

/// What a key source says keeps its kind, unless it would be taken for the record's fate or the lease's.
const KINDS: [(StoreErrorKind, StoreErrorKind); 7] = [
    (Unavailable, Unavailable),
    (Denied, Denied),
    (NewerVersion, NewerVersion),
    (TooLarge, TooLarge),
    (Corrupt, Denied),
    (Conflict, Denied),
    (LeaseLost, Denied),
];

#[tokio::test]
async fn errors_of_a_key_source_pass_through() {
    for (said, heard) in KINDS {
        let rig = Rig::default();
        rig.keys.table().making = Some(Trouble::Fail(said));
        assert_eq!(save(&rig.process(), b"new").await, Err(heard));
        rig.keys.table().making = None;
        save(&rig.process(), b"new").await.unwrap();

        rig.keys.table().finding = Some(Trouble::Fail(said));
        let error = rig.process().load(&account()).await.unwrap_err();
        assert_eq!(error.kind(), heard, "{said:?}");
        let mut told = String::new();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            told += &error.to_string();
            source = error.source();
        }
        assert!(told.contains("the vault said so"), "{said:?}: {told}");
    }
}

/// A keyring with a broken entry: the session cannot be opened, and its record stays where it is.
#[tokio::test(start_paused = true)]
async fn a_broken_key_is_no_broken_record() {
    let world = World::new(Flaky::new());
    let rig = Rig { inner: world.store.clone(), ..Rig::default() };
    session(&world, &rig.process()).await.sign_in(world.issuer.sign_in()).await.unwrap();
    let key = world.store.keys()[0].clone();
    rig.keys.table().finding = Some(Trouble::Fail(Corrupt));
    let opened = world.builder().store(rig.process()).open("alice").await;
    assert!(opened.is_err() && world.store.stored(&key).is_some());
    rig.keys.table().finding = None;
    assert_eq!(state(&session(&world, &rig.process()).await), "active");
}

/// `destroy` fails, panics or hangs: the save has been made, and the next one destroys.
#[tokio::test(start_paused = true)]
async fn a_destroy_that_fails_is_tried_again() {
    for trouble in [Trouble::Fail(Unavailable), Trouble::Panic, Trouble::Hang] {
        let rig = Rig::default();
        let store = rig.process();
        save(&store, b"old").await.unwrap();
        store.raise_epoch(&account(), 3).await.unwrap();
        rig.keys.table().destroying = Some(trouble);
        let before = tokio::time::Instant::now();
        save(&store, b"tombstone").await.unwrap();
        assert!(before.elapsed().as_secs() <= 2, "a save answers in time");
        assert_eq!((read(&store).await.unwrap().as_deref(), rig.keys.epochs()), (Some(&b"tombstone"[..]), vec![0, 3]));
        rig.keys.table().destroying = None;
        save(&store, b"again").await.unwrap();
        assert_eq!((rig.keys.epochs(), rig.keys.count(Asked::Destroy(3))), (vec![3], 2), "{trouble:?}");
    }
}

/// A sign-out with a keyring that is gone: signed out all the same, and the tombstone needs the keyring only later.
#[tokio::test(start_paused = true)]
async fn a_sign_out_needs_no_key() {
    let world = World::new(Flaky::new());
    let rig = Rig { inner: world.store.clone(), ..Rig::default() };
    let alice = session(&world, &rig.process()).await;
    alice.sign_in(world.issuer.sign_in()).await.unwrap();
    for trouble in [Trouble::Fail(Unavailable), Trouble::Hang] {
        let mut table = rig.keys.table();
        (table.making, table.finding, table.destroying) = (Some(trouble), Some(trouble), Some(trouble));
    }
    alice.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!((state(&alice), world.store.mark()), ("signed out here", 3));
}
