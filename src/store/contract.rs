//! The contract test of stores, behind [`store_contract!`](crate::store_contract).

mod leases;

pub use leases::{a_lease_that_ran_out_cannot_write, one_lease_at_a_time, renews, who_stops_waiting_leaves_nothing};

use super::{SessionStore, StoreErrorKind, Stored, Version};
use crate::account::AccountKey;
use futures_util::{
    FutureExt as _,
    future::{join_all, join3},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// Makes the tests that every [`SessionStore`](crate::SessionStore) must pass (feature `test-util`).
///
/// `store_contract!(name, open)` expands to a module `name` of `#[test]` functions. `open` is a closure that answers a
/// future of an **empty** store; each test calls it once, and drives it on a runtime of its own. They hold:
///
/// | test | the promise |
/// |---|---|
/// | `begins_empty` | a new store has no record, no account, and the mark 0 |
/// | `compare_and_set` | `None` means "must not exist"; a wrong version conflicts and changes nothing |
/// | `removes_what_was_expected` | the same for `remove`; a version never comes twice, not even after a removal |
/// | `keeps_bytes_as_they_are` | any bytes, up to 1 MiB less 512 bytes for a store around it |
/// | `one_lease_at_a_time` | a lease is waited for, and released on drop |
/// | `who_stops_waiting_leaves_nothing` | a waiting future that is dropped holds up nobody |
/// | `a_lease_that_ran_out_cannot_write` | if leases have a term; else one does not end by itself |
/// | `renews` | a lease that is held can be renewed, and tells no more than its term |
/// | `keeps_accounts_apart` | records, leases and marks of one account never touch another's |
/// | `marks_need_no_lease` | `raise_epoch` answers while somebody else holds the lease |
/// | `marks_are_a_maximum` | also of many who raise at once; 0 reads; a removed record leaves it |
/// | `lists_accounts_with_a_record` | and no other |
/// | `a_save_that_was_left_is_old_or_new` | dropped at any point: the record is the old or the new one, and the next holder can go on |
/// | `a_save_that_was_left_is_not_written_later` | over what the same holder saved since |
/// | `a_reader_sees_old_or_new` | while others write: never half a record, and never none |
/// | `hints_are_only_hints` | waiting for `changed` is harmless, and does not spin |
/// | `what_is_put_aside_is_gone` | `set_aside` either refuses or makes room |
///
/// What no test in one process can hold stays yours: that a save which answered survives a crash, and that all this is
/// so among processes.
///
/// ```
/// # mod tests {
/// use tower_reauth::MemoryStore;
///
/// tower_reauth::store_contract!(memory_store, || async { MemoryStore::new() });
/// # }
/// ```
#[macro_export]
macro_rules! store_contract {
    ($name:ident, $open:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::store_contract!(@tests $open;
                begins_empty
                compare_and_set
                removes_what_was_expected
                keeps_bytes_as_they_are
                one_lease_at_a_time
                who_stops_waiting_leaves_nothing
                a_lease_that_ran_out_cannot_write
                renews
                keeps_accounts_apart
                marks_need_no_lease
                marks_are_a_maximum
                lists_accounts_with_a_record
                a_save_that_was_left_is_old_or_new
                a_save_that_was_left_is_not_written_later
                a_reader_sees_old_or_new
                hints_are_only_hints
                what_is_put_aside_is_gone
            );
        }
    };
    (@tests $open:expr; $($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                $crate::__contract::run($open, $crate::__contract::$test);
            }
        )*
    };
}

/// The term that is asked for: longer than any of these tests.
const TERM: Duration = Duration::from_secs(60);
/// Long enough for any store to answer, and for the lease to be found free.
const SOON: Duration = Duration::from_secs(20);
/// Long enough to see that something does not happen.
const A_WHILE: Duration = Duration::from_millis(300);

/// What a store that wraps another may add to a record.
const ROOM: usize = 512;

/// Runs one test on a runtime of its own.
pub fn run<S, O, T>(open: impl FnOnce() -> O, test: impl FnOnce(S) -> T)
where
    S: SessionStore,
    O: Future<Output = S>,
    T: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { test(open().await).await });
}

/// They differ in the last digit only: a key is all of its digits.
fn key(digit: char) -> AccountKey {
    AccountKey::from_hex(&format!("{digit:0>64}")).expect("64 hex digits")
}

async fn lease<S: SessionStore>(store: &S, key: &AccountKey) -> S::Lease {
    let lease = timeout(SOON, store.lease(key, TERM)).await.expect("the lease is free, but nobody gets it");
    lease.expect("the lease is free, but was refused")
}

async fn is_free<S: SessionStore>(store: &S, key: &AccountKey) -> bool {
    timeout(A_WHILE, store.lease(key, TERM)).await.is_ok()
}

async fn load<S: SessionStore>(store: &S, key: &AccountKey) -> Option<Stored> {
    store.load(key).await.expect("load")
}

async fn bytes<S: SessionStore>(store: &S, key: &AccountKey) -> Option<Vec<u8>> {
    load(store, key).await.map(|stored| stored.bytes().to_vec())
}

async fn mark<S: SessionStore>(store: &S, key: &AccountKey) -> u64 {
    store.raise_epoch(key, 0).await.expect("reading the mark")
}

async fn save<S: SessionStore>(
    store: &S,
    lease: &mut S::Lease,
    expected: Option<&Version>,
    bytes: &[u8],
) -> Result<Version, StoreErrorKind> {
    store.save(lease, expected, bytes).await.map_err(|error| error.kind())
}

// ===== the tests, as the table above names them =====

pub async fn begins_empty<S: SessionStore>(store: S) {
    assert!(load(&store, &key('a')).await.is_none());
    assert_eq!(mark(&store, &key('a')).await, 0);
    assert_eq!(store.accounts().await.expect("accounts"), []);
}

pub async fn compare_and_set<S: SessionStore>(store: S) {
    let (key, conflict) = (key('a'), Err(StoreErrorKind::Conflict));
    let mut lease = lease(&store, &key).await;
    let foreign = Version::from_bytes("never given to anybody");
    assert_eq!(save(&store, &mut lease, Some(&foreign), b"0").await, conflict, "there is no record of that version");
    assert!(load(&store, &key).await.is_none(), "a save that conflicts changes nothing");

    let first = save(&store, &mut lease, None, b"1").await.expect("the first save");
    assert_eq!(load(&store, &key).await.expect("the record").version(), &first);
    assert_eq!(save(&store, &mut lease, None, b"2").await, conflict, "`None` conflicts with any record");
    assert_eq!(save(&store, &mut lease, Some(&foreign), b"2").await, conflict);
    assert_eq!(bytes(&store, &key).await.as_deref(), Some(&b"1"[..]), "a save that conflicts changes nothing");

    let second = save(&store, &mut lease, Some(&first), b"2").await.expect("the second save");
    assert_ne!(first, second);
    let found = load(&store, &key).await.expect("the record");
    assert_eq!((found.bytes(), found.version()), (&b"2"[..], &second));
    assert_eq!(save(&store, &mut lease, Some(&first), b"3").await, conflict, "an old version conflicts");

    let same = save(&store, &mut lease, Some(&second), b"2").await.expect("the same bytes again");
    assert_ne!(same, second, "every save has a version of its own, also of the same bytes");
}

pub async fn removes_what_was_expected<S: SessionStore>(store: S) {
    let key = key('a');
    let mut lease = lease(&store, &key).await;
    let mut versions = Vec::new();
    for _ in 0..3 {
        let version = save(&store, &mut lease, None, b"record").await.expect("save");
        assert!(!versions.contains(&version), "a version came twice");
        for wrong in [None, versions.last()] {
            let refused = store.remove(&mut lease, wrong).await.expect_err("removed what was not expected");
            assert_eq!(refused.kind(), StoreErrorKind::Conflict);
        }
        assert_eq!(bytes(&store, &key).await.as_deref(), Some(&b"record"[..]));
        store.remove(&mut lease, Some(&version)).await.expect("remove");
        assert!(load(&store, &key).await.is_none());
        let again = store.remove(&mut lease, Some(&version)).await.expect_err("removed what was not there");
        assert_eq!(again.kind(), StoreErrorKind::Conflict);
        versions.push(version);
    }
}

pub async fn keeps_bytes_as_they_are<S: SessionStore>(store: S) {
    let key = key('a');
    let mut lease = lease(&store, &key).await;
    let every_byte = (0..=u8::MAX).collect::<Vec<_>>();
    let largest = every_byte.iter().copied().cycle().take(super::MAX_RECORD - ROOM).collect::<Vec<_>>();
    let mut version = None;
    for record in [&b"{}\n"[..], &every_byte, &largest] {
        version = Some(save(&store, &mut lease, version.as_ref(), record).await.expect("save"));
        assert!(bytes(&store, &key).await.as_deref() == Some(record), "{} bytes came back changed", record.len());
    }
}

pub async fn keeps_accounts_apart<S: SessionStore>(store: S) {
    let (a, b) = (key('a'), key('b'));
    let mut of_a = lease(&store, &a).await;
    let mut of_b = lease(&store, &b).await;
    let version = save(&store, &mut of_a, None, b"of a").await.expect("save");
    assert!(load(&store, &b).await.is_none());
    save(&store, &mut of_b, None, b"of b").await.expect("save");
    assert_eq!(store.raise_epoch(&a, 3).await.expect("raise"), 3);
    assert_eq!(mark(&store, &b).await, 0);
    store.remove(&mut of_a, Some(&version)).await.expect("remove");
    drop(of_a);
    assert_eq!(bytes(&store, &b).await.as_deref(), Some(&b"of b"[..]));
    assert!(!is_free(&store, &b).await, "the lease of one account released another's");
}

pub async fn marks_need_no_lease<S: SessionStore>(store: S) {
    let key = key('a');
    let _held = lease(&store, &key).await;
    let raised = timeout(SOON, store.raise_epoch(&key, 1)).await.expect("a sign-out waited for a lease");
    assert_eq!(raised.expect("raise"), 1);
    assert_eq!(mark(&store, &key).await, 1);
}

pub async fn marks_are_a_maximum<S: SessionStore>(store: S) {
    let (key, store) = (key('a'), Arc::new(store));
    assert_eq!(store.raise_epoch(&key, 4).await.expect("raise"), 4);
    assert_eq!(store.raise_epoch(&key, 2).await.expect("raise"), 4, "it answers the mark");
    assert_eq!(store.raise_epoch(&key, 4).await.expect("raise"), 4);
    assert_eq!(mark(&*store, &key).await, 4);

    let raises = (5..=40).rev().chain(5..=40).map(|to| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            let answered = store.raise_epoch(&key, to).await.expect("raise");
            assert!(answered >= to, "raised to {to}, and it answered {answered}");
            assert!(mark(&*store, &key).await >= answered, "the mark went back");
        }
    });
    join_all(raises).await;
    assert_eq!(mark(&*store, &key).await, 40);

    let mut lease = lease(&*store, &key).await;
    let version = save(&*store, &mut lease, None, b"record").await.expect("save");
    assert_eq!(mark(&*store, &key).await, 40, "a save has nothing to do with the mark");
    store.remove(&mut lease, Some(&version)).await.expect("remove");
    drop(lease);
    assert_eq!(mark(&*store, &key).await, 40, "the mark survives the record");
    assert_eq!(store.raise_epoch(&key, (1 << 53) + 1).await.expect("raise"), (1 << 53) + 1, "exact, and no float");
}

pub async fn lists_accounts_with_a_record<S: SessionStore>(store: S) {
    let sorted = |mut keys: Vec<AccountKey>| {
        keys.sort();
        keys
    };
    store.raise_epoch(&key('c'), 1).await.expect("raise");
    let mut versions = Vec::new();
    for digit in ['b', 'a'] {
        let mut lease = lease(&store, &key(digit)).await;
        versions.push(save(&store, &mut lease, None, b"record").await.expect("save"));
    }
    assert_eq!(sorted(store.accounts().await.expect("accounts")), [key('a'), key('b')]);
    let mut lease = lease(&store, &key('b')).await;
    store.remove(&mut lease, versions.first()).await.expect("remove");
    assert_eq!(sorted(store.accounts().await.expect("accounts")), [key('a')]);
}

pub async fn a_save_that_was_left_is_old_or_new<S: SessionStore>(store: S) {
    let key = key('a');
    let mut holder = lease(&store, &key).await;
    let mut old = b"0".to_vec();
    save(&store, &mut holder, None, &old).await.expect("save");
    drop(holder);
    for polls in 0..30_usize {
        let new = format!("{}", polls + 1).into_bytes();
        let mut holder = lease(&store, &key).await;
        let version = load(&store, &key).await.expect("the record").version().clone();
        {
            let mut saving = Box::pin(store.save(&mut holder, Some(&version), &new));
            for _ in 0..polls {
                if (&mut saving).now_or_never().is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        drop(holder);
        // The next holder reads it, and from then on it stays.
        let mut holder = lease(&store, &key).await;
        let found = load(&store, &key).await.expect("the record");
        assert!(found.bytes() == old || found.bytes() == new, "neither the old record nor the new one");
        sleep(Duration::from_millis(2)).await;
        assert_eq!(
            load(&store, &key).await.expect("the record").version(),
            found.version(),
            "written without the lease"
        );
        old = new;
        save(&store, &mut holder, Some(found.version()), &old).await.expect("the next holder can go on");
    }
}

pub async fn a_save_that_was_left_is_not_written_later<S: SessionStore>(store: S) {
    let key = key('a');
    let mut lease = lease(&store, &key).await;
    let left = vec![b'x'; 200_000];
    let mut version = save(&store, &mut lease, None, b"0").await.expect("save");
    for polls in 1..=15 {
        {
            let mut saving = Box::pin(store.save(&mut lease, Some(&version), &left));
            for _ in 0..polls {
                if (&mut saving).now_or_never().is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        for tries in 1.. {
            version = load(&store, &key).await.expect("the record").version().clone();
            match save(&store, &mut lease, Some(&version), b"mine").await {
                Ok(saved) => {
                    version = saved;
                    break;
                }
                Err(kind) => {
                    assert!(kind == StoreErrorKind::Conflict && tries < 4, "{kind:?}: the holder cannot go on")
                }
            }
        }
        sleep(Duration::from_millis(10)).await;
        assert_eq!(load(&store, &key).await.expect("the record").version(), &version, "written over a later save");
    }
}

pub async fn a_reader_sees_old_or_new<S: SessionStore>(store: S) {
    let key = key('a');
    let mut lease = lease(&store, &key).await;
    let record = |round: u8| vec![round; 900_000 + usize::from(round)];
    let mut version = save(&store, &mut lease, None, &record(0)).await.expect("save");
    let written = AtomicBool::new(false);
    let write = async {
        for round in 1..=40 {
            version = save(&store, &mut lease, Some(&version), &record(round)).await.expect("save");
            tokio::task::yield_now().await;
        }
        written.store(true, Ordering::SeqCst);
    };
    let read = async || {
        let mut last = 0;
        while !written.load(Ordering::SeqCst) {
            let found = bytes(&store, &key).await.expect("there was a record all the time");
            let round = found.first().copied().unwrap_or_default();
            assert!(found == record(round), "half a record");
            assert!(round >= last, "an older record after a newer one");
            last = round;
            tokio::task::yield_now().await;
        }
    };
    // Two readers: one of them is always under way.
    join3(write, read(), read()).await;
}

pub async fn hints_are_only_hints<S: SessionStore>(store: S) {
    let key = key('a');
    let mut lease = lease(&store, &key).await;
    save(&store, &mut lease, None, b"record").await.expect("save");
    let mut hints = 0;
    let _ = timeout(A_WHILE, async {
        loop {
            store.changed(&key).await;
            hints += 1;
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(hints < 1000, "{hints} hints of a change in {A_WHILE:?}, and there was none");
}

pub async fn what_is_put_aside_is_gone<S: SessionStore>(store: S) {
    let key = key('a');
    let mut lease = lease(&store, &key).await;
    let version = save(&store, &mut lease, None, b"record").await.expect("save");
    store.raise_epoch(&key, 2).await.expect("raise");
    match store.set_aside(&mut lease).await {
        Ok(()) => {
            assert!(load(&store, &key).await.is_none());
            assert_eq!(store.accounts().await.expect("accounts"), []);
            assert_eq!(mark(&store, &key).await, 2);
            let next = save(&store, &mut lease, None, b"new").await.expect("there is room");
            assert_ne!(version, next);
            store.set_aside(&mut lease).await.expect("a second one");
            store.set_aside(&mut lease).await.expect("nothing to put aside is no error");
        }
        Err(error) => {
            assert_eq!(error.kind(), StoreErrorKind::Denied, "a store that cannot says so");
            assert_eq!(load(&store, &key).await.expect("the record").version(), &version);
        }
    }
}
