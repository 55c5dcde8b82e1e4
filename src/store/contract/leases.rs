//! What the contract says of leases.

use super::{
    super::{LeaseGuard as _, SessionStore, StoreErrorKind},
    A_WHILE, SOON, TERM, is_free, key, lease, load, save,
};
use futures_util::{FutureExt as _, future::join};
use std::time::Duration;
use tokio::time::{sleep, timeout};

pub async fn one_lease_at_a_time<S: SessionStore>(store: S) {
    let key = key('a');
    let held = lease(&store, &key).await;
    assert!(!is_free(&store, &key).await, "two leases of one record at a time");
    assert!(load(&store, &key).await.is_none(), "reading needs no lease");
    // Who waits gets it once it is released.
    let release = async {
        sleep(A_WHILE).await;
        drop(held);
    };
    let next = timeout(SOON, join(store.lease(&key, TERM), release));
    let (next, ()) = next.await.expect("a lease that was dropped is free");
    let mut next = next.expect("a lease that was dropped is free");
    save(&store, &mut next, None, b"by the second holder").await.expect("the second holder may write");
}

pub async fn who_stops_waiting_leaves_nothing<S: SessionStore>(store: S) {
    let key = key('a');
    let held = lease(&store, &key).await;
    for _ in 0..5 {
        assert!(timeout(A_WHILE / 10, store.lease(&key, TERM)).await.is_err(), "two leases at a time");
    }
    drop(held);
    for polls in 0..20 {
        let mut waiting = Box::pin(store.lease(&key, TERM));
        for _ in 0..polls {
            if (&mut waiting).now_or_never().is_some() {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        drop(waiting);
        drop(lease(&store, &key).await);
    }
}

pub async fn a_lease_that_ran_out_cannot_write<S: SessionStore>(store: S) {
    let key = key('a');
    let old = save(&store, &mut lease(&store, &key).await, None, b"old").await.expect("save");
    let mut stale = timeout(SOON, store.lease(&key, A_WHILE)).await.expect("it is free").expect("the lease");
    if stale.valid_for().is_none() {
        sleep(A_WHILE).await;
        assert!(!is_free(&store, &key).await, "it is valid until it is dropped, as it says");
        return;
    }
    let mut next = lease(&store, &key).await;
    assert_eq!(stale.valid_for(), Some(Duration::ZERO), "somebody else has the lease");
    let new = save(&store, &mut next, Some(&old), b"new").await.expect("the next holder may write");
    let fenced = |kind| matches!(kind, StoreErrorKind::LeaseLost | StoreErrorKind::Conflict);
    for version in [&old, &new] {
        assert!(save(&store, &mut stale, Some(version), b"stale").await.is_err_and(fenced), "saved without the lease");
        let removed = store.remove(&mut stale, Some(version)).await;
        assert!(removed.is_err_and(|error| fenced(error.kind())), "removed without the lease");
    }
    let renewed = stale.renew().await.expect_err("renewed a lease that somebody else has");
    assert_eq!(renewed.kind(), StoreErrorKind::LeaseLost);
    assert_eq!(load(&store, &key).await.expect("the record").version(), &new);
    drop(stale);
    assert!(!is_free(&store, &key).await, "who lost the lease released another's");
}

pub async fn renews<S: SessionStore>(store: S) {
    let key = key('a');
    let mut lease = lease(&store, &key).await;
    for _ in 0..3 {
        lease.renew().await.expect("a lease that is held can be renewed");
        if let Some(left) = lease.valid_for() {
            assert!(left <= TERM && left > TERM / 2, "{left:?} of {TERM:?} are left after a renewal");
        }
        assert!(!is_free(&store, &key).await, "renewing released it");
    }
    save(&store, &mut lease, None, b"record").await.expect("save");
}
