//! The answer to a refresh is lost: case 17, and what becomes of the doubt.

use crate::{
    flaky::Flaky,
    kit::{SEC, Script},
    world::{World, failure, kind, pass, state, token, tokens, word},
};
use std::time::Duration;
use tower_reauth::{ErrorKind, FailureKind, RefreshError, Session};

/// The server rotated, and the connection died.
async fn lost() -> (World, Session, Duration) {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.expire().await;
    world.issuer.script(Script::LoseAnswer);
    let error = a.access_token().await.unwrap_err();
    assert_eq!((error.kind(), state(&a)), (ErrorKind::Unavailable, "stale"));
    (world, a, error.retry_after().unwrap())
}

fn journal(world: &World) -> serde_json::Value {
    world.store.field("journal")
}

#[tokio::test(start_paused = true)]
async fn case_17_a_lost_answer_leaves_the_journal_open_and_one_further_try_after_a_second() {
    let (world, a, pause) = lost().await;
    assert!(SEC <= pause && pause <= SEC * 3 / 2, "{pause:?}");
    assert_eq!((world.refresh_token(), journal(&world)["attempts"].clone()), ("r1.0".into(), 1.into()));
    let deadline = journal(&world)["deadline"].as_i64().unwrap();
    assert!(deadline <= world.store.field("failure")["at"].as_i64().unwrap(), "nobody need wait for it any more");
    assert_eq!((token(&a).await, world.books().0), (Err(ErrorKind::Unavailable), 1), "within the cool-down");

    pass(SEC * 2).await;
    assert_eq!((token(&a).await, state(&a)), (Err(ErrorKind::ReauthRequired), "rotation lost"));
    assert_eq!(world.books(), (2, 1));
    let again = world.open().await;
    pass(3600 * SEC).await;
    for session in [&a, &again] {
        assert_eq!((token(session).await, state(session)), (Err(ErrorKind::ReauthRequired), "rotation lost"));
    }
    assert_eq!(world.books().0, 2, "never tried again");
}

#[tokio::test(start_paused = true)]
async fn case_17_on_a_server_with_a_grace_period_the_retry_succeeds() {
    let (world, a, _) = lost().await;
    pass(SEC * 2).await;
    world.issuer.script(Script::Answer(tokens(1)));
    assert_eq!((token(&a).await, state(&a)), (Ok("a1.1".into()), "active"));
    assert!(journal(&world).is_null(), "a saved 200 closes it");
    assert_eq!(world.refresh_token(), "r1.1");
}

#[tokio::test(start_paused = true)]
async fn case_17_a_doubt_passes_to_the_next_generation_and_ends_with_that_ones_own_200() {
    for (successes, verdict) in [(0, "rotation lost"), (1, "revoked"), (2, "revoked")] {
        let (world, a, _) = lost().await;
        pass(SEC * 2).await;
        world.issuer.script(Script::Answer(tokens(1)));
        a.refresh().await.unwrap();
        assert_eq!(world.store.field("doubt"), "inherited");
        for _ in 0..successes {
            a.refresh().await.unwrap();
            assert_eq!(world.store.field("doubt"), "none", "its own 200 is saved");
        }
        world.issuer.books().revoked = true;
        world.expire().await;
        assert_eq!((token(&a).await, state(&a)), (Err(ErrorKind::ReauthRequired), verdict), "after {successes}");
    }
}

#[tokio::test(start_paused = true)]
async fn case_17_the_second_cool_down_is_the_normal_backoff_and_counts_on() {
    let (world, a, _) = lost().await;
    for (count, least) in [(2, 2), (3, 4), (4, 8)] {
        pass(SEC * 15).await;
        world.issuer.fail(|| RefreshError::transient("reset"));
        let pause = a.access_token().await.unwrap_err().retry_after().unwrap();
        assert!(SEC * least <= pause && pause <= SEC * least * 3 / 2, "attempt {count}: {pause:?}");
        assert_eq!(journal(&world)["attempts"], count);
    }
}

#[tokio::test(start_paused = true)]
async fn case_17_the_first_doubt_asks_for_a_second_only_whatever_the_backoff_stood_at() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.expire().await;
    for _ in 0..6 {
        world.issuer.fail(|| RefreshError::not_sent("refused"));
        assert_eq!(token(&a).await, Err(ErrorKind::Unavailable));
        assert!(journal(&world).is_null(), "nothing was sent: no doubt");
        pass(90 * SEC).await;
    }
    world.issuer.fail(|| RefreshError::transient("reset"));
    let pause = a.access_token().await.unwrap_err().retry_after().unwrap();
    assert!(pause <= SEC * 3 / 2, "{pause:?}");
    // A process that starts now tries at once when that second is over; a `Retry-After` would still win.
    let b = world.open().await;
    pass(SEC * 2).await;
    world.issuer.fail(|| failure(FailureKind::Transient, 503).retry_after(20 * SEC));
    let pause = b.access_token().await.unwrap_err().retry_after().unwrap();
    assert!(pause >= 20 * SEC, "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn case_17_a_bare_refusal_that_leaves_the_journal_open_does_so_too() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.expire().await;
    for _ in 0..6 {
        world.issuer.fail(|| RefreshError::not_sent("refused"));
        assert_eq!(token(&a).await, Err(ErrorKind::Unavailable));
        pass(90 * SEC).await;
    }
    world.issuer.fail(|| failure(FailureKind::Unrecognized, 400));
    let pause = a.access_token().await.unwrap_err().retry_after().unwrap();
    assert!(journal(&world).is_null() || pause <= SEC * 3 / 2, "{pause:?} with an open journal");
}

#[tokio::test(start_paused = true)]
async fn case_17_proof_that_nothing_was_sent_closes_its_own_attempt_only() {
    let (world, a, _) = lost().await;
    pass(SEC * 2).await;
    world.issuer.fail(|| RefreshError::not_sent("refused"));
    assert_eq!(token(&a).await, Err(ErrorKind::Unavailable));
    assert!(world.store.field("doubt") != "none" || !journal(&world).is_null(), "the earlier doubt stays");
    pass(60 * SEC).await;
    assert_eq!((token(&a).await, state(&a)), (Err(ErrorKind::ReauthRequired), "rotation lost"));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_without_any_doubt_is_a_revocation() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.expire().await;
    world.issuer.fail(|| RefreshError::not_sent("refused"));
    assert_eq!(token(&a).await, Err(ErrorKind::Unavailable));
    pass(2 * SEC).await;
    world.issuer.books().revoked = true;
    assert_eq!((token(&a).await, state(&a)), (Err(ErrorKind::ReauthRequired), "revoked"));
    assert_eq!((world.books(), world.refresh_token().is_null()), ((2, 0), true));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_times_out_or_panics_is_in_doubt() {
    for script in [Script::Hang, Script::Panic] {
        let (world, a) = World::signed_in(Flaky::new()).await;
        let panics = matches!(script, Script::Panic);
        world.issuer.script(script);
        let expected = if panics { ErrorKind::Aborted } else { ErrorKind::Unavailable };
        assert_eq!(kind(a.refresh().await), Err(expected));
        assert!(!journal(&world).is_null() && world.store.is_free());
        assert_eq!((token(&a).await, state(&a)), (Ok("a1.0".into()), "active"));
        world.issuer.books().revoked = true;
        world.expire().await;
        let mut watch = a.watch();
        assert!(token(&a).await.is_err());
        assert_eq!((word(&watch.changed().await.unwrap()), state(&a)), ("rotation lost", "rotation lost"));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_journal_a_lost_rotation_cannot_be_told_from_a_revocation() {
    let world = World::new(Flaky::new());
    let a = world.builder().journal(false).open("alice").await.unwrap();
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    world.issuer.script(Script::LoseAnswer);
    assert_eq!(kind(a.refresh().await), Err(ErrorKind::Unavailable));
    world.expire().await;
    assert_eq!((token(&a).await, state(&a)), (Err(ErrorKind::ReauthRequired), "revoked"));
}
