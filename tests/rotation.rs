//! Rotation and storage: what a refresh leaves behind, and what several processes make of one store.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start tasks and read tokio's clock

#[path = "rotation/answers.rs"]
mod answers;
#[path = "rotation/crash.rs"]
mod crash;
#[path = "rotation/doubt.rs"]
mod doubt;
#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/kit.rs"]
mod kit;
#[path = "rotation/leases.rs"]
mod leases;
#[path = "rotation/unsaved.rs"]
mod unsaved;
#[path = "rotation/verdicts.rs"]
mod verdicts;
#[path = "support/world.rs"]
mod world;

use flaky::{Call, Fault, Flaky};
use kit::{SEC, Seen, get, layered, send};
use tower_reauth::{AuthEvent, ErrorKind, StoreErrorKind};
use world::{World, kind, pass, state, token};

/// Sixteen processes, many expiries, one strict issuer; each wants a token the moment it is spent.
async fn sixteen_processes(store: Flaky) {
    const EXPIRIES: u64 = 40;
    let (world, first) = World::signed_in(store).await;
    let mut all = vec![first];
    for _ in 1..16 {
        all.push(world.open().await);
    }
    for expiry in 1..=EXPIRIES {
        world.expire().await;
        let tokens = futures_util::future::join_all(all.iter().map(token)).await;
        let wanted = Ok(format!("a1.{expiry}"));
        assert!(tokens.iter().all(|token| *token == wanted), "{tokens:?}");
        assert_eq!(world.books(), (expiry, 0), "one exchange an expiry, no reuse");
    }
    assert!(all.iter().all(|session| state(session) == "active"));
}

#[tokio::test(start_paused = true)]
async fn case_13_sixteen_processes_on_one_store_make_one_exchange_per_expiry() {
    sixteen_processes(Flaky::new()).await;
}

#[tokio::test(start_paused = true)]
async fn case_14_so_they_do_where_leases_expire() {
    sixteen_processes(Flaky::leased()).await;
}

#[tokio::test(start_paused = true)]
async fn case_13_a_process_that_waits_for_the_lease_adopts_what_the_other_got() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let b = world.open().await;
    world.issuer.books().takes = 20 * SEC;
    world.expire().await;
    let both = tokio::join!(token(&a), token(&b));
    assert_eq!(both, (Ok("a1.1".into()), Ok("a1.1".into())));
    assert_eq!(world.books(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn case_15_a_stale_generation_is_read_again_before_anything_is_spent() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let asleep = world.open().await;
    for _ in 0..3 {
        a.refresh().await.unwrap();
    }
    // Theirs is fresh: no exchange at all, even if an exchange was asked for.
    asleep.refresh().await.unwrap();
    assert_eq!((token(&asleep).await, world.books()), (Ok("a1.3".into()), (3, 0)));
    // Theirs is spent too: their refresh token is exchanged, not the stale one.
    a.refresh().await.unwrap();
    world.expire().await;
    assert_eq!((token(&asleep).await, world.books()), (Ok("a1.5".into()), (5, 0)));
}

#[tokio::test(start_paused = true)]
async fn case_18_an_invalid_grant_because_another_process_rotated_first_is_no_logout() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let b = world.open().await;
    // A is stopped in mid-exchange, past its lease; B takes over and rotates; then A's request arrives.
    world.issuer.books().takes = 20 * SEC;
    world.issuer.fail(|| world::failure(tower_reauth::FailureKind::InvalidGrant, 400));
    let late = tokio::spawn({
        let a = a.clone();
        async move { kind(a.refresh().await) }
    });
    pass(SEC).await;
    world.store.lose_leases();
    world.issuer.books().takes = SEC;
    assert_eq!(kind(b.refresh().await), Ok(()));
    assert_eq!(late.await.unwrap(), Ok(()));
    assert_eq!((state(&a), token(&a).await), ("active", Ok("a1.1".into())));
    assert_eq!((state(&b), world.refresh_token()), ("active", "r1.1".into()));
    assert_eq!(
        world.store.field("doubt"),
        "inherited",
        "theirs may be dead too: its refusal would prove no revocation"
    );
}

#[tokio::test(start_paused = true)]
async fn p05_nobody_sees_a_token_before_it_is_durable() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.expire().await;
    let (journal, save) = (world.store.pause(Call::Save, 0), world.store.pause(Call::Save, 1));
    let waiter = tokio::spawn({
        let a = a.clone();
        async move { token(&a).await }
    });
    journal.reached().await;
    assert_eq!((world.books().0, world.refresh_token()), (0, "r1.0".into()), "the journal comes before the exchange");
    journal.go_on();
    save.reached().await;
    assert_eq!((world.books().0, world.refresh_token()), (1, "r1.0".into()));
    assert!(!world.store.field("journal").is_null());
    pass(5 * SEC).await;
    assert!(!waiter.is_finished(), "nobody but the flight sees the tokens");
    save.go_on();
    assert_eq!(waiter.await.unwrap(), Ok("a1.1".into()));
    assert_eq!((world.refresh_token(), world.store.field("journal").is_null()), ("r1.1".into(), true));
}

#[tokio::test(start_paused = true)]
async fn two_durable_writes_per_refresh_and_none_per_request() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let (seen, issuer) = (Seen::default(), world.issuer.clone());
    let api = layered(&a, &issuer, &seen);
    world.store.forget_calls();
    for _ in 0..10 {
        send(&api, get("/")).await.unwrap();
    }
    assert_eq!(world.store.calls(), [], "a request with a fresh token does not touch the store");
    a.refresh().await.unwrap();
    assert_eq!((world.store.count(Call::Save), world.store.count(Call::Raise)), (2, 0));

    let plain = world.builder().journal(false).open("alice").await.unwrap();
    world.store.forget_calls();
    plain.refresh().await.unwrap();
    assert_eq!((world.store.count(Call::Save), world.books()), (1, (2, 0)), "without a journal: one");
}

#[tokio::test(start_paused = true)]
async fn p09_a_remembered_failure_is_shared_through_the_record_and_costs_nothing() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let b = world.open().await;
    world.expire().await;
    world.issuer.fail(|| world::failure(tower_reauth::FailureKind::Transient, 503).retry_after(40 * SEC));
    assert_eq!(token(&a).await, Err(ErrorKind::Unavailable));
    assert_eq!((token(&b).await, world.books()), (Err(ErrorKind::Unavailable), (1, 0)));
    let late = world.open().await;
    world.store.forget_calls();
    for session in [&a, &b, &late] {
        let error = session.access_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let left = error.retry_after().unwrap();
        assert!(39 * SEC <= left && left <= 40 * SEC, "{left:?}");
        assert_eq!(state(session), "stale");
    }
    assert_eq!((world.store.calls(), world.books()), (vec![], (1, 0)));
    pass(41 * SEC).await;
    assert_eq!((token(&late).await, token(&a).await), (Ok("a1.1".into()), Ok("a1.1".into())));
    assert_eq!(world.books(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn p09_reconnected_ends_the_backoff_but_not_a_servers_retry_after() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.expire().await;
    world.issuer.fail(|| tower_reauth::RefreshError::not_sent("no network"));
    assert_eq!(token(&a).await, Err(ErrorKind::Unavailable));
    a.reconnected();
    assert_eq!((token(&a).await, world.books()), (Ok("a1.1".into()), (2, 0)));
    world.expire().await;
    world.issuer.fail(|| world::failure(tower_reauth::FailureKind::Transient, 429).retry_after(30 * SEC));
    assert_eq!(token(&a).await, Err(ErrorKind::Unavailable));
    a.reconnected();
    assert_eq!((token(&a).await, world.books()), (Err(ErrorKind::Unavailable), (3, 0)));
    // What another process wrote down is forgiven too, a `Retry-After` is not.
    let b = world.open().await;
    b.reconnected();
    assert_eq!((token(&b).await, world.books()), (Err(ErrorKind::Unavailable), (3, 0)));
    pass(31 * SEC).await;
    assert_eq!(token(&b).await, Ok("a1.2".into()));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_in_the_way_of_a_refresh_spends_nothing_and_leaves_a_fresh_token_in_use() {
    for call in [Call::Lease, Call::Load, Call::Mark, Call::Renew, Call::Save] {
        let (world, a) = World::signed_in(Flaky::new()).await;
        world.store.always(call, Fault::Fail(StoreErrorKind::Unavailable));
        assert_eq!(kind(a.refresh().await), Err(ErrorKind::Unavailable), "{call:?}");
        assert_eq!((token(&a).await, state(&a)), (Ok("a1.0".into()), "active"), "{call:?}");
        assert_eq!((world.books().0, world.refresh_token()), (0, "r1.0".into()), "{call:?}");
        world.expire().await;
        assert_eq!((token(&a).await, world.books().0), (Err(ErrorKind::Unavailable), 0), "{call:?}");
        assert_eq!(state(&a), "stale", "{call:?}");
        world.store.heal();
        a.reconnected();
        assert_eq!((token(&a).await, world.books()), (Ok("a1.1".into()), (1, 0)), "{call:?}");
        assert_eq!(world.log.count(|event| matches!(event, AuthEvent::Unsaved { .. })), 0, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_without_access_tokens_restores_the_session_with_one_exchange() {
    let (world, _a) = World::signed_in(Flaky::new()).await;
    let builder = || world.builder().persist_access_token(false);
    let private = builder().open("alice").await.unwrap();
    private.refresh().await.unwrap();
    assert!(world.store.field("access_token").is_null());
    assert_eq!((token(&private).await, world.books().0), (Ok("a1.1".into()), 1));
    private.set_grants(tower_reauth::Grants::new()).await.unwrap();
    assert_eq!((token(&private).await, world.books().0), (Ok("a1.1".into()), 1), "what is in memory stays");
    let again = builder().open("alice").await.unwrap();
    assert_eq!((state(&again), token(&again).await, world.books()), ("active", Ok("a1.2".into()), (2, 0)));
}
