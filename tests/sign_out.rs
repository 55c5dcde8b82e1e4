//! The end of a session and the beginning of the next: epochs, tombstones, and what an old flight must not do.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start tasks and read tokio's clock

#[path = "sign_out/accounts.rs"]
mod accounts;
#[path = "support/flaky.rs"]
mod flaky;
#[path = "sign_out/flights.rs"]
mod flights;
#[path = "support/kit.rs"]
mod kit;
#[path = "sign_out/sign_in.rs"]
mod sign_in;
#[path = "support/world.rs"]
mod world;

use flaky::{Call, Fault, Flaky};
use kit::{SEC, Seen, get, layered, send};
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tower_reauth::{AuthState, ErrorKind, Grants, LockCause, Session, SignIn, SignOut, StoreErrorKind};
use world::{World, kind, pass, state, timed, token, word};

const DOWN: Fault = Fault::Fail(StoreErrorKind::Unavailable);

fn grants() -> Grants {
    Grants::new().role("technician").scope("jobs")
}

/// Signed in with grants.
async fn granted() -> (World, Session) {
    let world = World::new(Flaky::new());
    let a = world.open().await;
    a.sign_in(SignIn::new(world.issuer.sign_in()).grants(grants())).await.unwrap();
    (world, a)
}

fn no_tokens(world: &World) -> bool {
    world.store.record().is_none_or(|record| {
        let text = record.to_string();
        ["\"a1.", "\"r1."].iter().all(|token| !text.contains(token))
    })
}

#[tokio::test(start_paused = true)]
async fn p13_epochs_are_odd_after_a_sign_out_and_even_after_a_sign_in() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let marks = async || (world.store.mark(), world.store.field("epoch"));
    assert_eq!(marks().await, (2, json!(2)));
    a.refresh().await.unwrap();
    assert_eq!((marks().await, world.store.field("generation")), ((2, json!(2)), json!(2)));
    a.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!((marks().await, state(&a)), ((3, json!(3)), "signed out here"));
    a.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(marks().await, (3, json!(3)), "once more changes nothing");
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!((marks().await, world.store.field("generation")), ((4, json!(4)), json!(1)));
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!(marks().await, (6, json!(6)));
    a.lock(LockCause::Application).await.unwrap();
    assert_eq!((marks().await, state(&a)), ((7, json!(7)), "locked"));
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    a.sign_out(SignOut::Hard).await.unwrap();
    assert_eq!((world.store.mark(), world.store.record()), (9, None), "the mark survives the record");
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!((marks().await, state(&a)), ((10, json!(10)), "active"));
}

#[tokio::test(start_paused = true)]
async fn a_soft_sign_out_leaves_the_profile_and_no_token() {
    let (world, a) = granted().await;
    let before = world.store.record().unwrap();
    a.sign_out(SignOut::Soft).await.unwrap();
    let stone = world.store.record().unwrap();
    assert_eq!((&stone["standing"], &stone["epoch"]), (&json!("signed_out"), &json!(3)));
    for kept in ["subject", "issuer", "client_id", "roles", "scopes", "auth_time"] {
        assert_eq!(stone[kept], before[kept], "{kept}");
    }
    assert!(no_tokens(&world) && stone["journal"].is_null() && stone["failure"].is_null());
    assert_eq!(token(&a).await, Err(ErrorKind::SignedOut));
    let again = world.open().await;
    assert_eq!((state(&again), token(&again).await), ("signed out here", Err(ErrorKind::SignedOut)));
    assert_eq!(again.authorize("x").unwrap_err().reason(), tower_reauth::DenyReason::SignedOut);
    pass(SEC).await;
    assert_eq!(world.issuer.books().revocations, ["r1.0"]);
    assert_eq!(world.books().0, 0);
}

/// With `on_wipe` counted.
async fn wipeable() -> (World, Session, Arc<AtomicUsize>) {
    let (world, wiped) = (World::new(Flaky::new()), Arc::<AtomicUsize>::default());
    let count = wiped.clone();
    let builder = world.builder().on_wipe(move |account| {
        assert_eq!(account.subject(), "alice");
        count.fetch_add(1, Ordering::Relaxed);
    });
    let a = builder.open("alice").await.unwrap();
    a.sign_in(SignIn::new(world.issuer.sign_in()).grants(grants())).await.unwrap();
    (world, a, wiped)
}

#[tokio::test(start_paused = true)]
async fn a_hard_sign_out_removes_the_record_and_has_the_application_wipe_its_data() {
    let (world, a, wiped) = wipeable().await;
    a.sign_out(SignOut::Hard).await.unwrap();
    assert_eq!((world.store.record(), world.store.mark(), wiped.load(Ordering::Relaxed)), (None, 3, 1));
    assert_eq!(state(&world.open().await), "signed out here");
    pass(SEC).await;
    assert_eq!(world.issuer.books().revocations, ["r1.0"]);
}

#[tokio::test(start_paused = true)]
async fn a_hard_sign_out_after_a_soft_one_or_a_lock_removes_the_record_too() {
    for lock_first in [false, true] {
        let (world, a, wiped) = wipeable().await;
        match lock_first {
            true => a.lock(LockCause::Application).await.unwrap(),
            false => a.sign_out(SignOut::Soft).await.unwrap(),
        }
        a.sign_out(SignOut::Hard).await.unwrap();
        assert_eq!(wiped.load(Ordering::Relaxed), 1);
        assert_eq!(world.store.record(), None, "locked first: {lock_first}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_a_session_that_is_signed_out_outlives_a_restart() {
    let (world, a) = granted().await;
    a.sign_out(SignOut::Soft).await.unwrap();
    a.lock(LockCause::Application).await.unwrap();
    assert_eq!((state(&a), state(&world.open().await)), ("locked", "locked"));
}

#[tokio::test(start_paused = true)]
async fn a_lock_drops_all_tokens_everywhere_and_lasts_until_a_sign_in() {
    for (cause, stored) in [(LockCause::ResourceServer, "resource_server"), (LockCause::Application, "application")] {
        let (world, a) = granted().await;
        let b = world.open().await;
        a.lock(cause).await.unwrap();
        assert_eq!(a.state(), AuthState::Locked(cause));
        assert_eq!(world.store.field("standing"), json!({ "locked": stored }));
        assert!(no_tokens(&world) && world.store.field("roles") == json!([]));
        assert_eq!((token(&a).await, kind(a.refresh().await)), (Err(ErrorKind::Locked), Err(ErrorKind::Locked)));
        assert!(b.refresh().await.is_err());
        assert_eq!((b.state(), world.open().await.state()), (AuthState::Locked(cause), AuthState::Locked(cause)));
        assert_eq!(world.books().0, 0);
        b.sign_in(world.issuer.sign_in()).await.unwrap();
        pass(2 * SEC).await; // it looks into the store at the cool-down's pace
        assert_eq!((token(&a).await, state(&a)), (Ok("a1.0".into()), "active"), "a sign-in elsewhere is seen");
    }
}

#[tokio::test(start_paused = true)]
async fn p13_a_sign_out_elsewhere_is_seen_at_the_next_refresh() {
    let (world, a) = granted().await;
    let b = world.open().await;
    b.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(kind(a.refresh().await), Err(ErrorKind::SignedOut));
    assert_eq!((state(&a), token(&a).await), ("signed out elsewhere", Err(ErrorKind::SignedOut)));
    assert_eq!(world.books().0, 0, "nothing was sent");
    b.sign_in(world.issuer.sign_in()).await.unwrap();
    pass(2 * SEC).await; // it looks into the store at the cool-down's pace
    let (seen, issuer) = (Seen::default(), world.issuer.clone());
    let api = layered(&a, &issuer, &seen);
    assert_eq!(send(&api, get("/")).await.unwrap(), 200, "and so is a sign-in there");
    assert_eq!((state(&a), world.books().0), ("active", 0));
}

#[tokio::test(start_paused = true)]
async fn p13_a_hard_sign_out_elsewhere_is_seen_too() {
    let (world, a) = granted().await;
    world.open().await.sign_out(SignOut::Hard).await.unwrap();
    world.expire().await;
    assert_eq!((token(&a).await, state(&a)), (Err(ErrorKind::SignedOut), "signed out elsewhere"));
    assert_eq!((world.store.record(), world.books().0), (None, 0), "nothing comes back");
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_is_immediate_whoever_holds_the_lease_and_the_tombstone_follows() {
    let (world, a) = granted().await;
    world.store.always(Call::Lease, Fault::Hang);
    let (outcome, took) = timed(a.sign_out(SignOut::Soft)).await;
    assert_eq!((kind(outcome), state(&a), world.store.mark()), (Ok(()), "signed out here", 3));
    assert!(took <= 2 * SEC, "the tombstone is waited for for a second: {took:?}");
    assert_eq!(world.store.field("epoch"), 2, "it cannot be laid now");
    assert_eq!(state(&world.open().await), "signed out here", "and need not be: a record below the mark is absent");
    world.store.heal();
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!((world.store.field("epoch"), state(&a)), (json!(4), "active"));
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_works_offline() {
    let (world, a) = granted().await;
    let offline = world.builder().connectivity(|| Some(false)).open("alice").await.unwrap();
    offline.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!((state(&offline), world.store.mark(), no_tokens(&world)), ("signed out here", 3, true));
    assert_eq!((kind(a.refresh().await), world.books().0), (Err(ErrorKind::SignedOut), 0));
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_that_the_store_cannot_be_told_of_says_so_and_ends_the_session_here() {
    let (world, a) = granted().await;
    world.store.always(Call::Raise, DOWN);
    world.store.always(Call::Mark, DOWN);
    assert_eq!(kind(a.sign_out(SignOut::Soft).await), Err(ErrorKind::Store));
    assert_eq!((state(&a), token(&a).await.is_ok(), world.store.mark()), ("signed out here", false, 2));
    world.store.heal();
    pass(60 * SEC).await;
    assert_eq!((token(&a).await, state(&a)), (Err(ErrorKind::SignedOut), "signed out here"), "nothing comes back here");
    assert_eq!((kind(a.sign_out(SignOut::Soft).await), world.store.mark()), (Ok(()), 3));
    assert!(no_tokens(&world));
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_that_is_told_later_ends_no_session_that_began_since() {
    let (world, a) = granted().await;
    let b = world.open().await;
    world.store.nth(Call::Mark, 0, DOWN);
    assert_eq!(kind(a.sign_out(SignOut::Soft).await), Err(ErrorKind::Store));
    b.sign_in(world.issuer.sign_in()).await.unwrap();
    pass(60 * SEC).await;
    assert_eq!((state(&b), world.store.mark(), world.store.field("epoch")), ("active", 4, json!(4)));
    assert_eq!((kind(b.refresh().await), state(&world.open().await)), (Ok(()), "active"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_stops_neither_sign_in_nor_sign_out() {
    let world = World::new(Flaky::new());
    let a = world.open().await;
    for (call, expected, mark) in [(Call::Save, "active", 2), (Call::Raise, "signed out here", 3)] {
        let stop = world.store.pause(call, 0);
        let work = {
            let (a, tokens) = (a.clone(), world.issuer.sign_in());
            tokio::spawn(async move {
                match call {
                    Call::Save => a.sign_in(tokens).await,
                    _ => a.sign_out(SignOut::Soft).await,
                }
            })
        };
        stop.reached().await;
        work.abort();
        pass(SEC).await;
        stop.go_on();
        pass(SEC).await;
        assert_eq!((state(&a), world.store.mark(), world.store.field("epoch")), (expected, mark, json!(mark)));
    }
    assert!(no_tokens(&world));
}

#[tokio::test(start_paused = true)]
async fn the_revocation_goes_out_under_the_lease_and_is_dropped_after_10_s() {
    let (world, a) = granted().await;
    world.store.nth(Call::Lease, 0, Fault::Hang);
    a.sign_out(SignOut::Soft).await.unwrap();
    pass(60 * SEC).await;
    assert!(world.issuer.books().revocations.is_empty(), "without the lease nothing is sent");
    a.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_state_stream_tells_of_every_end_and_beginning() {
    let (world, a) = granted().await;
    let mut watch = a.watch();
    a.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(word(&watch.changed().await.unwrap()), "signed out here");
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!(word(&watch.changed().await.unwrap()), "active");
    a.lock(LockCause::ResourceServer).await.unwrap();
    assert_eq!(word(&watch.changed().await.unwrap()), "locked");
}
