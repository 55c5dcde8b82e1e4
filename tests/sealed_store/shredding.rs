//! Keys of ended epochs are destroyed, and never one too many: at sign-out and lock, and at any point of a crash.

use crate::{
    Asked, Rig, Sealed, account,
    fuse::{Fuse, Fused},
    header,
    keys::Keys,
    kit::{Issuer, SEC, clock},
    read, save, session,
    world::{self, World},
};
use std::time::Duration;
use tower_reauth::{AuthState, LockCause, MemoryStore, Session, SessionStore, SignOut, StoreErrorKind};

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Soft,
    Hard,
    Lock,
}

/// Case: an old copy of the record is put back after the end of its session. It opens in no process, not even in one that
/// had the key in memory.
#[tokio::test(start_paused = true)]
async fn p13_an_old_copy_does_not_open_after_the_end() {
    for end in [End::Soft, End::Hard, End::Lock] {
        let world = World::new(crate::Flaky::new());
        let rig = Rig { inner: world.store.clone(), ..Rig::default() };
        let (here, elsewhere) = (rig.process(), rig.process());
        let alice = session(&world, &here).await;
        alice.sign_in(world.issuer.sign_in()).await.unwrap();
        let sibling = session(&world, &elsewhere).await;
        assert_eq!(world::token(&sibling).await.unwrap(), "a1.0");
        let key = world.store.keys()[0].clone();
        let first = world.store.stored(&key).unwrap();
        world.expire().await;
        alice.access_token().await.unwrap(); // sealed with the key of its own epoch by now
        assert_eq!(world::token(&sibling).await.unwrap(), "a1.1");
        let second = world.store.stored(&key).unwrap();
        assert_eq!([header(first.bytes()).0, header(second.bytes()).0], [0, 2]);

        match end {
            End::Soft => alice.sign_out(SignOut::Soft).await.unwrap(),
            End::Hard => alice.sign_out(SignOut::Hard).await.unwrap(),
            End::Lock => alice.lock(LockCause::AccountDisabled).await.unwrap(),
        }
        assert_eq!(rig.keys.epochs(), if end == End::Hard { vec![] } else { vec![3] }, "{end:?}");
        assert_eq!(world.store.stored(&key).is_none(), end == End::Hard);

        // The other process hears of it, as a session does before it uses anything.
        elsewhere.raise_epoch(&key, 0).await.unwrap();
        for old in [&first, &second] {
            world.store.put(&key, old.bytes());
            for store in [&here, &elsewhere, &rig.process()] {
                let kind = store.load(&key).await.unwrap_err().kind();
                assert_eq!(kind, StoreErrorKind::Denied, "{end:?}");
            }
        }
    }
}

/// After a sign-out and a new sign-in the first epoch's keys are gone, the second one's are not.
#[tokio::test(start_paused = true)]
async fn a_new_sign_in_has_a_key_of_its_own() {
    let world = World::new(crate::Flaky::new());
    let rig = Rig { inner: world.store.clone(), ..Rig::default() };
    let alice = session(&world, &rig.process()).await;
    for round in 0..3 {
        alice.sign_in(world.issuer.sign_in()).await.unwrap();
        world.expire().await;
        alice.access_token().await.unwrap();
        let epoch = 2 + 2 * round;
        assert_eq!(rig.keys.epochs(), [epoch]);
        let again = session(&world, &rig.process()).await;
        assert!(matches!(again.state(), AuthState::Active { .. }));
        if round < 2 {
            alice.sign_out(SignOut::Soft).await.unwrap();
            assert_eq!(rig.keys.epochs(), [epoch + 1]);
        }
    }
}

/// Once per epoch and process.
#[tokio::test]
async fn keys_are_destroyed_once() {
    let rig = Rig::default();
    rig.inner.raise_epoch(&account(), 4).await.unwrap();
    let store = rig.process();
    for n in 0..5 {
        save(&store, &[n]).await.unwrap();
    }
    assert_eq!(rig.keys.count(Asked::Destroy(4)), 1);
    store.raise_epoch(&account(), 5).await.unwrap();
    save(&store, b"tombstone").await.unwrap();
    save(&rig.process(), b"restarted").await.unwrap();
    assert_eq!((rig.keys.count(Asked::Destroy(4)), rig.keys.count(Asked::Destroy(5))), (1, 2));
}

/// Somebody seals anew and destroys the old key between a load and its question for that key: no error, the new record.
#[tokio::test]
async fn a_load_that_is_overtaken_reads_again() {
    let rig = Rig::default();
    save(&rig.process(), b"old").await.unwrap();
    let (reached, on) =
        (std::sync::Arc::new(tokio::sync::Notify::new()), std::sync::Arc::new(tokio::sync::Notify::new()));
    rig.keys.table().pause = Some((reached.clone(), on.clone()));
    let late = tokio::spawn({
        let store = rig.process();
        async move { read(&store).await }
    });
    reached.notified().await;
    let other = rig.process();
    other.raise_epoch(&account(), 2).await.unwrap();
    save(&other, b"new").await.unwrap();
    assert_eq!(rig.keys.epochs(), [2]);
    on.notify_one();
    assert_eq!(late.await.unwrap().unwrap().as_deref(), Some(&b"new"[..]));
}

// ===== crashes =====

async fn open(store: MemoryStore, keys: Keys, issuer: &Issuer) -> Session {
    let fuse = keys.fuse.clone();
    let sealed = Sealed::new(Fused(store, fuse), keys);
    let builder = Session::builder(issuer.clone()).clock(clock()).background_refresh(false);
    builder.store(sealed).open("alice").await.unwrap()
}

/// Sign-ins, refreshes, a sign-out of each kind and a lock: whatever touches a key.
async fn life(store: MemoryStore, keys: Keys, issuer: &Issuer) {
    let session = open(store, keys, issuer).await;
    for end in [End::Soft, End::Hard, End::Lock] {
        session.sign_in(issuer.sign_in()).await.unwrap();
        session.refresh().await.unwrap();
        session.refresh().await.unwrap();
        match end {
            End::Soft => session.sign_out(SignOut::Soft).await.unwrap(),
            End::Hard => session.sign_out(SignOut::Hard).await.unwrap(),
            End::Lock => session.lock(LockCause::AccountDisabled).await.unwrap(),
        }
    }
    session.sign_in(issuer.sign_in()).await.unwrap();
    session.close().await.unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// The process dies before and after each effect that outlasts it, on the store and on the keys. What is stored opens, or
/// there is nothing; and the account can go on.
#[test]
fn p06_no_crash_leaves_a_record_without_its_key() {
    let mut points = 0;
    let mut records = 0;
    loop {
        points += 1;
        let (store, issuer) = (MemoryStore::new(), Issuer::new());
        let mut keys = Keys { fuse: Fuse::at(points), ..Keys::new() };
        let first = runtime();
        let survived = first.block_on(async {
            tokio::select! {
                () = keys.fuse.blown() => false,
                () = life(store.clone(), keys.clone(), &issuer) => true,
            }
        });
        drop(first); // with all its tasks, and their leases

        keys.fuse = Fuse::default();
        runtime().block_on(async {
            for key in store.accounts().await.unwrap() {
                let sealed = Sealed::new(store.clone(), keys.clone());
                let loaded = sealed.load(&key).await;
                assert!(loaded.is_ok_and(|found| found.is_some()), "point {points}: the record is lost");
                records += 1;
            }
            let session = open(store.clone(), keys.clone(), &issuer).await;
            session.sign_in(issuer.sign_in()).await.unwrap();
            tokio::time::timeout(SEC, session.refresh()).await.unwrap().unwrap();
            assert_eq!(keys.epochs().len(), 1, "point {points}: old keys are left");
            session.close().await.unwrap();
            let again = open(store.clone(), keys.clone(), &issuer).await;
            assert!(matches!(again.state(), AuthState::Active { .. }), "point {points}: {:?}", again.state());
        });
        if survived {
            break;
        }
    }
    assert!(points > 60 && records > 50, "{points} points, {records} records");
}

/// A save that is given up while keys are destroyed has been made.
#[tokio::test(start_paused = true)]
async fn a_save_is_done_before_keys_are_destroyed() {
    let rig = Rig::default();
    let store = rig.process();
    save(&store, b"old").await.unwrap();
    store.raise_epoch(&account(), 3).await.unwrap();
    rig.keys.table().destroying = Some(crate::keys::Trouble::Hang);
    let left = tokio::time::timeout(Duration::from_millis(1), save(&store, b"tombstone")).await;
    assert!(left.is_err());
    assert_eq!(read(&rig.process()).await.unwrap().as_deref(), Some(&b"tombstone"[..]));
    rig.keys.table().destroying = None;
    save(&store, b"again").await.unwrap();
    assert_eq!(rig.keys.epochs(), [3]);
}
