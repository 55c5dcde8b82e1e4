//! Key sources that fail: their errors reach the caller, a record is never blamed for them, and a save that is done is done.

use crate::{
    Asked, Rig, account,
    flaky::{Call, Flaky},
    keys::{Keys, Trouble},
    kit::SEC,
    read, save, session,
    world::{World, pass, state, token},
};
use tower_reauth::{
    AccountKey, ErrorKind, KeySource, MemoryStore, Sealed, SealingKey, SessionStore, SignOut, StoreError,
    StoreErrorKind, Tokens,
};

use StoreErrorKind::{Conflict, Corrupt, Denied, LeaseLost, NewerVersion, TooLarge, Unavailable};

/// What a key source says keeps its kind, unless it would be taken for the record's fate or the lease's.
const KINDS: [(StoreErrorKind, StoreErrorKind); 7] = [
    (Unavailable, Unavailable),
    (Denied, Denied),
    (NewerVersion, NewerVersion),
    (TooLarge, Denied),
    (Corrupt, Denied),
    (Conflict, Denied),
    (LeaseLost, Denied),
];

/// Alice is signed in, and her process has ended: `r1.0`, `a1.0`.
async fn signed_in() -> (World, Rig) {
    let world = World::new(Flaky::new());
    let rig = Rig { inner: world.store.clone(), ..Rig::default() };
    session(&world, &rig.process()).await.sign_in(world.issuer.sign_in()).await.unwrap();
    (world, rig)
}

/// Another sign-in, whose token lives long.
fn anew() -> Tokens {
    Tokens::new("new").with_refresh_token("r-new").with_expires_in(1000 * SEC)
}

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

/// Whatever a key source says at a start: the record stays where it is, and nothing is put aside.
#[tokio::test(start_paused = true)]
async fn a_broken_key_is_no_broken_record() {
    for (said, _) in KINDS {
        let (world, rig) = signed_in().await;
        let before = world.store.record_bytes();
        rig.keys.table().finding = Some(Trouble::Fail(said)); // its successor could be sealed
        assert!(world.builder().store(rig.process()).open("alice").await.is_err());
        assert_eq!(world.store.record_bytes(), before, "{said:?}");
        assert_eq!(world.store.count(Call::SetAside), 0, "{said:?}");
        rig.keys.heal();
        assert_eq!(state(&session(&world, &rig.process()).await), "active");
    }
}

/// A sign-in while the keyring is locked: the record of the session before stays until the new one is saved over it.
#[tokio::test(start_paused = true)]
async fn p06_a_locked_keyring_puts_no_record_aside() {
    for said in [Denied, Corrupt, TooLarge] {
        let (world, rig) = signed_in().await;
        let before = world.store.record_bytes();
        let alice = session(&world, &rig.process()).await;
        rig.keys.fail(said);
        alice.sign_in(anew()).await.unwrap();
        pass(60 * SEC).await;
        assert_eq!((state(&alice), world.store.record_bytes()), ("active, unsaved", before), "{said:?}");
        rig.keys.heal();
        pass(60 * SEC).await;
        assert_eq!((state(&alice), world.store.count(Call::SetAside)), ("active", 0), "{said:?}");
        let again = session(&world, &rig.process()).await;
        assert_eq!(token(&again).await.unwrap(), "new");
    }
}

/// The keyring comes back without the key of the record that stands there: that one is put aside, and the sign-in saved.
#[tokio::test(start_paused = true)]
async fn p05_a_sign_in_is_saved_once_there_are_keys_again() {
    let (world, rig) = signed_in().await;
    let alice = session(&world, &rig.process()).await;
    rig.keys.fail(Denied);
    alice.sign_in(anew()).await.unwrap();
    assert_eq!(state(&alice), "active, unsaved");
    rig.keys.table().keys.clear();
    rig.keys.heal();
    pass(60 * SEC).await;
    assert_eq!((state(&alice), world.store.count(Call::SetAside)), ("active", 1));
    assert_eq!(token(&session(&world, &rig.process()).await).await.unwrap(), "new");
}

/// The keyring is locked, hangs or panics while a rotated token is on its way.
#[tokio::test(start_paused = true)]
async fn p05_a_rotated_token_outlasts_a_keyring_that_is_locked() {
    for trouble in [Trouble::Fail(Denied), Trouble::Hang, Trouble::Panic] {
        let (world, rig) = signed_in().await;
        let builder = world.builder().journal(false).store(rig.process());
        let alice = builder.open("alice").await.unwrap();
        world.expire().await;
        rig.keys.table().making = Some(trouble); // the save with the rotated token is the first that wants this key
        assert_eq!(token(&alice).await.unwrap(), "a1.1");
        assert_eq!(state(&alice), "active, unsaved", "{trouble:?}");
        rig.keys.heal();
        pass(60 * SEC).await;
        assert_eq!((state(&alice), world.books()), ("active", (1, 0)), "{trouble:?}");
        assert_eq!(token(&session(&world, &rig.process()).await).await.unwrap(), "a1.1");
    }
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

/// Panics before there is a future.
struct Hasty(Keys);

impl KeySource for Hasty {
    fn current(&self, account: &AccountKey, epoch: u64) -> impl Future<Output = Result<SealingKey, StoreError>> + Send {
        self.0.current(account, epoch)
    }

    fn find(
        &self,
        account: &AccountKey,
        id: &str,
    ) -> impl Future<Output = Result<Option<SealingKey>, StoreError>> + Send {
        self.0.find(account, id)
    }

    fn destroy(&self, _: &AccountKey, epoch: u64) -> impl Future<Output = Result<(), StoreError>> + Send {
        assert_ne!(epoch, 2, "a key source that panics");
        std::future::ready(Ok(()))
    }
}

#[tokio::test]
async fn a_destroy_that_panics_at_once_fails_no_save() {
    let store = Sealed::new(MemoryStore::new(), Hasty(Keys::new()));
    store.raise_epoch(&account(), 2).await.unwrap();
    let mut lease = store.lease(&account(), SEC).await.unwrap();
    store.save(&mut lease, None, b"a record").await.unwrap();
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

/// A key that is lost for good: the login cannot be opened, but it can be replaced.
#[tokio::test(start_paused = true)]
async fn case_16_a_login_whose_key_is_lost_is_replaced_by_a_sign_in() {
    let (world, rig) = signed_in().await;
    let before = world.store.record_bytes();
    rig.keys.table().keys.clear();
    let builder = || world.builder().store(rig.process());
    assert_eq!(builder().open("alice").await.unwrap_err().kind(), ErrorKind::Store);
    let alice = builder().for_sign_in().open("alice").await.unwrap();
    assert_eq!((state(&alice), token(&alice).await), ("signed out elsewhere", Err(ErrorKind::Store)));
    assert_eq!(
        (world.store.record_bytes(), world.store.count(Call::SetAside)),
        (before, 0),
        "nobody has signed in yet"
    );
    alice.sign_in(anew()).await.unwrap();
    assert_eq!((state(&alice), world.store.count(Call::SetAside)), ("active", 1));
    assert_eq!(token(&session(&world, &rig.process()).await).await.unwrap(), "new");

    // What can be read is restored all the same; what is only out of reach is still an error.
    assert_eq!(state(&builder().for_sign_in().open("alice").await.unwrap()), "active");
    rig.keys.table().finding = Some(Trouble::Fail(Unavailable));
    assert_eq!(builder().for_sign_in().open("alice").await.unwrap_err().kind(), ErrorKind::Store);
}
