//! What ends a session and what does not: cases 20 to 23, P8.

use crate::{
    flaky::Flaky,
    kit::{SEC, Seen, get, layered, send},
    world::{World, failure, kind, pass, state, token, word},
};
use std::sync::{Arc, Mutex};
use tower_reauth::{AuthEvent, DenyReason, ErrorKind, FailureKind, RefreshError, Session, SignOut, gate_fn};

/// Rejected ahead of its time: the access token has 100 s to go.
async fn rejected_early() -> (World, Session) {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.issuer.books().revoked = true;
    assert_eq!(kind(a.refresh().await), Err(ErrorKind::ReauthRequired));
    (world, a)
}

#[tokio::test(start_paused = true)]
async fn case_21_an_early_refresh_is_rejected_while_the_access_token_is_valid() {
    let (world, a) = rejected_early().await;
    let (seen, mut watch) = (Seen::default(), a.watch());
    let api = layered(&a, &world.issuer, &seen);
    assert_eq!(state(&a), "active, reauth pending");
    for _ in 0..9 {
        pass(10 * SEC).await;
        assert_eq!(send(&api, get("/")).await.unwrap(), 200);
    }
    assert_eq!((state(&a), world.books().0), ("active, reauth pending", 1));
    assert_eq!(kind(a.refresh().await), Err(ErrorKind::ReauthRequired), "at once");
    pass(11 * SEC).await;
    assert_eq!(word(&watch.changed().await.unwrap()), "revoked", "at its real expiry, though nobody asked");
    assert_eq!(send(&api, get("/")).await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!((seen.len(), world.books().0), (9, 1));
}

#[tokio::test(start_paused = true)]
async fn case_21_so_it_is_after_a_restart_and_in_the_other_processes() {
    let (world, _a) = rejected_early().await;
    let again = world.open().await;
    assert_eq!((token(&again).await, state(&again)), (Ok("a1.0".into()), "active, reauth pending"));
    world.expire().await;
    assert_eq!((token(&again).await, state(&again)), (Err(ErrorKind::ReauthRequired), "revoked"));
    assert_eq!(world.books().0, 1);
}

#[tokio::test(start_paused = true)]
async fn case_21_a_rule_that_asks_for_an_intact_grant_denies_at_once() {
    let world = World::new(Flaky::new());
    let gate = gate_fn(|cx| match cx.grant_rejected() {
        true => Err(cx.deny(DenyReason::ReauthRequired)),
        false => Ok(()),
    });
    let a = world.builder().gate(gate).open("alice").await.unwrap();
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert!(a.authorize("jobs").is_ok());
    world.issuer.books().revoked = true;
    let _ = a.refresh().await;
    assert_eq!(a.authorize("jobs").unwrap_err().reason(), DenyReason::ReauthRequired);
}

#[tokio::test(start_paused = true)]
async fn case_21_a_token_of_unknown_expiry_is_dropped_and_so_is_a_refused_one() {
    let world = World::new(Flaky::new());
    world.issuer.books().lifetime = None;
    let a = world.open().await;
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    world.issuer.books().revoked = true;
    assert_eq!((kind(a.refresh().await), state(&a)), (Err(ErrorKind::ReauthRequired), "revoked"));
    assert!(world.store.field("access_token").is_null());

    let (world, a) = World::signed_in(Flaky::new()).await;
    let (seen, issuer) = (Seen::default(), world.issuer.clone());
    let api = layered(&a, &issuer, &seen);
    issuer.expire_all();
    issuer.books().revoked = true;
    assert_eq!((send(&api, get("/")).await.unwrap().as_u16(), state(&a)), (401, "revoked"));
    assert!(world.store.field("access_token").is_null());
}

#[tokio::test(start_paused = true)]
async fn case_23_a_dead_refresh_token_is_not_tried_for_ever() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.expire().await;
    world.issuer.books().revoked = true;
    for _ in 0..50 {
        assert_eq!(token(&a).await, Err(ErrorKind::ReauthRequired));
        assert_eq!(kind(a.refresh().await), Err(ErrorKind::ReauthRequired));
        pass(10 * SEC).await;
    }
    for _ in 0..3 {
        let again = world.open().await;
        assert_eq!(state(&again), "revoked", "observable after a restart");
        assert_eq!(again.authorize("x").unwrap_err().reason(), DenyReason::ReauthRequired);
        assert_eq!((token(&again).await, state(&again)), (Err(ErrorKind::ReauthRequired), "revoked"));
    }
    assert_eq!((world.books().0, world.refresh_token().is_null()), (1, true));
    // It ends with a sign-in, in every process.
    let b = world.open().await;
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!((state(&a), token(&a).await), ("active", Ok("a2.0".into())));
    assert_eq!((token(&b).await, state(&b)), (Ok("a2.0".into()), "active"));
}

/// A session whose `on_lock` is counted.
async fn lockable() -> (World, Session, Arc<Mutex<Vec<String>>>) {
    let world = World::new(Flaky::new());
    let locks = Arc::<Mutex<Vec<String>>>::default();
    let told = locks.clone();
    let builder = world.builder().on_lock(move |account, cause| {
        told.lock().unwrap().push(format!("{} {cause:?}", account.subject()));
    });
    let a = builder.open("alice").await.unwrap();
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    (world, a, locks)
}

#[tokio::test(start_paused = true)]
async fn case_22_the_account_is_disabled() {
    let (world, a, locks) = lockable().await;
    let (b, seen) = (world.open().await, Seen::default());
    let api = layered(&a, &world.issuer, &seen);
    world.issuer.fail(|| failure(FailureKind::AccountDisabled, 400));
    assert_eq!((kind(a.refresh().await), state(&a)), (Err(ErrorKind::Locked), "disabled"));
    assert_eq!(*locks.lock().unwrap(), ["alice AccountDisabled"]);
    assert_eq!(
        (token(&a).await, send(&api, get("/")).await.unwrap_err().kind()),
        (Err(ErrorKind::Locked), ErrorKind::Locked)
    );
    for capability in ["read", "write", "anything"] {
        assert_eq!(a.authorize(capability).unwrap_err().reason(), DenyReason::Locked);
    }
    assert_eq!((seen.len(), world.store.mark()), (0, 3));
    let record = world.store.record().unwrap().to_string();
    assert!(!record.contains("a1.") && !record.contains("r1."), "tokens gone: {record}");
    let again = world.open().await;
    assert_eq!((state(&again), token(&again).await), ("disabled", Err(ErrorKind::Locked)), "after a restart");
    assert_eq!((kind(b.refresh().await), state(&b)), (Err(ErrorKind::Locked), "disabled"), "and elsewhere");
    assert_eq!(world.books().0, 1);
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!((state(&a), token(&a).await.is_ok()), ("active", true), "a sign-in ends it");
}

#[tokio::test(start_paused = true)]
async fn case_22_the_same_status_without_the_signal_locks_nobody_out() {
    for other in [FailureKind::Unrecognized, FailureKind::Misconfigured, FailureKind::Transient] {
        let (_world, a, locks) = lockable().await;
        let world = _world;
        world.issuer.fail(move || failure(other, 400));
        assert!(a.refresh().await.is_err());
        assert_eq!((state(&a), token(&a).await), ("active", Ok("a1.0".into())), "{other:?}");
        assert!(locks.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn case_22_a_signal_for_a_session_that_has_ended_touches_nothing_newer() {
    // The old flight is under way; the user signs out, and in again elsewhere.
    let (world, a, locks) = lockable().await;
    let b = world.open().await;
    world.issuer.books().takes = 20 * SEC;
    world.issuer.fail(|| failure(FailureKind::AccountDisabled, 400));
    let old = tokio::spawn({
        let a = a.clone();
        async move { kind(a.refresh().await) }
    });
    pass(SEC).await;
    b.sign_out(SignOut::Soft).await.unwrap();
    b.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!(world.store.mark(), 4);
    assert_eq!(old.await.unwrap(), Err(ErrorKind::SignedOut));
    pass(30 * SEC).await;
    assert_eq!((state(&b), world.store.mark()), ("active", 4), "a flight of an older epoch never touches it");
    assert!(locks.lock().unwrap().is_empty());
}

/// P8: what never ends a session.
type Harmless = (&'static str, fn() -> RefreshError);

fn harmless() -> Vec<Harmless> {
    vec![
        ("refused", || RefreshError::not_sent("refused")),
        ("reset", || RefreshError::transient("reset")),
        ("408", || failure(FailureKind::Transient, 408)),
        ("429", || failure(FailureKind::Transient, 429)),
        ("500", || failure(FailureKind::Transient, 500)),
        ("503", || failure(FailureKind::Transient, 503)),
        ("403 html", || failure(FailureKind::Transient, 403)),
        ("invalid_client", || failure(FailureKind::Misconfigured, 401)),
        ("a bare 400", || failure(FailureKind::Unrecognized, 400)),
    ]
}

#[tokio::test(start_paused = true)]
async fn p08_what_is_no_proof_ends_no_session() {
    for (what, error) in harmless() {
        let (world, a) = World::signed_in(Flaky::new()).await;
        world.issuer.fail(error);
        assert!(a.refresh().await.is_err(), "{what}");
        assert_eq!((token(&a).await, state(&a)), (Ok("a1.0".into()), "active"), "{what}: a fresh token goes on");
        pass(400 * SEC).await;
        world.issuer.fail(error);
        assert!(token(&a).await.is_err(), "{what}");
        assert_eq!((state(&a), world.refresh_token()), ("stale", "r1.0".into()), "{what}");
        let again = world.open().await;
        assert_eq!((state(&again), world.books().0), ("stale", 2), "{what}");
        pass(400 * SEC).await;
        assert_eq!((token(&a).await, token(&again).await), (Ok("a1.1".into()), Ok("a1.1".into())), "{what}");
        assert_eq!((state(&a), world.books()), ("active", (3, 0)), "{what}");
        let failed = world.log.count(|event| matches!(event, AuthEvent::RefreshFailed { .. }));
        assert_eq!(failed, 2, "{what}");
    }
}

/// Bare refusals this far apart; the state after each.
async fn refusals(gaps: &[u32]) -> Vec<&'static str> {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.expire().await;
    let mut states = Vec::new();
    for gap in gaps {
        pass(*gap * SEC).await;
        world.issuer.fail(|| failure(FailureKind::Unrecognized, 400));
        a.reconnected(); // so that the cool-down is not what spaces them
        assert!(token(&a).await.is_err());
        states.push(state(&a));
    }
    assert_eq!(world.books().0, gaps.len() as u64);
    states
}

#[tokio::test(start_paused = true)]
async fn case_20_three_bare_refusals_half_a_minute_apart_are_a_refusal_and_three_within_seconds_are_not() {
    assert_eq!(refusals(&[0, 31, 31]).await, ["stale", "stale", "rejected"]);
    assert_eq!(refusals(&[0, 1, 1, 1, 1]).await, ["stale"; 5]);
    assert_eq!(refusals(&[0, 20, 20, 20]).await, ["stale"; 4], "0 and 40 s count, 20 and 60 s do not");
    assert_eq!(refusals(&[0, 20, 20, 31]).await, ["stale", "stale", "stale", "rejected"]);
}

#[tokio::test(start_paused = true)]
async fn case_20_the_count_is_in_the_record_and_ends_with_a_token_set() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.expire().await;
    let refuse = async |session: &Session| {
        world.issuer.fail(|| failure(FailureKind::Unrecognized, 400));
        pass(60 * SEC).await;
        session.reconnected();
        assert!(token(session).await.is_err());
    };
    refuse(&a).await;
    refuse(&a).await;
    let again = world.open().await;
    refuse(&again).await;
    assert_eq!(state(&again), "rejected", "the third, counted over a restart");
    assert_eq!(state(&world.open().await), "rejected");

    a.sign_in(world.issuer.sign_in()).await.unwrap();
    world.expire().await;
    refuse(&a).await;
    refuse(&a).await;
    pass(60 * SEC).await;
    a.reconnected();
    assert!(token(&a).await.is_ok());
    world.expire().await;
    refuse(&a).await;
    assert_eq!(state(&a), "stale", "the first for this refresh token");
}

#[tokio::test(start_paused = true)]
async fn case_20_a_fresh_access_token_is_not_taken_away_by_bare_refusals() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    for _ in 0..3 {
        world.issuer.fail(|| failure(FailureKind::Unrecognized, 400));
        a.reconnected();
        assert!(a.refresh().await.is_err());
        pass(31 * SEC).await;
    }
    assert_eq!((state(&a), token(&a).await), ("active", Ok("a1.0".into())));
}
