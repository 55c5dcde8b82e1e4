//! The store fails after a rotation: cases 12 and 41, P5.

use crate::{
    flaky::{Call, Fault, Flaky},
    kit::SEC,
    world::{World, kind, pass, state, timed, token},
};
use tower_reauth::{AuthEvent, ErrorKind, Session, StoreErrorKind};

const DOWN: Fault = Fault::Fail(StoreErrorKind::Unavailable);

/// `(Unsaved, Saved)`.
fn events(world: &World) -> (usize, usize) {
    let count = |wanted: fn(&AuthEvent) -> bool| world.log.count(wanted);
    (count(|e| matches!(e, AuthEvent::Unsaved { .. })), count(|e| matches!(e, AuthEvent::Saved { .. })))
}

/// Rotated once, and from the save on the store answers no write.
async fn unsaved(store: Flaky, fault: Fault) -> (World, Session) {
    let (world, a) = World::signed_in(store).await;
    world.store.nth(Call::Save, 1, fault); // the journal may be written
    world.store.after(Call::Save, 2, DOWN);
    a.refresh().await.unwrap();
    assert!(!world.store.is_free(), "the lease is kept");
    (world, a)
}

#[tokio::test(start_paused = true)]
async fn case_12_the_store_fails_after_a_rotation() {
    let (world, a) = unsaved(Flaky::new(), DOWN).await;
    assert_eq!((state(&a), token(&a).await), ("active, unsaved", Ok("a1.1".into())));
    assert_eq!((world.refresh_token(), events(&world)), ("r1.0".into(), (1, 0)));
    let before = world.store.count(Call::Save);
    pass(60 * SEC).await;
    let tries = world.store.count(Call::Save) - before;
    assert!((3..=30).contains(&tries), "saving is retried, with a backoff: {tries} times in a minute");
    assert!(!world.store.field("journal").is_null(), "the journal stays open");
    assert!(!world.store.is_free(), "and the lease is kept");
    assert_eq!(state(&a), "active, unsaved");
    world.store.heal();
    pass(20 * SEC).await;
    assert_eq!((world.refresh_token(), state(&a)), ("r1.1".into(), "active"));
    assert!(world.store.field("journal").is_null() && world.store.is_free());
    assert_eq!((events(&world), world.books()), ((1, 1), (1, 0)));
    world.expire().await;
    assert_eq!((token(&a).await, world.books()), (Ok("a1.2".into()), (2, 0)));
}

#[tokio::test(start_paused = true)]
async fn case_12_the_save_was_applied_and_reported_as_failed() {
    let (world, a) = unsaved(Flaky::new(), Fault::ApplyAndFail).await;
    assert_eq!((state(&a), world.refresh_token()), ("active, unsaved", "r1.1".into()));
    pass(5 * SEC).await;
    assert_eq!((state(&a), world.store.is_free()), ("active", true), "it looked, and it stood there");
    assert_eq!(events(&world), (1, 1), "whoever was told that it is unsaved is told that it is saved");
    world.store.heal();
    world.expire().await;
    assert_eq!((token(&a).await, world.books()), (Ok("a1.2".into()), (2, 0)));
}

#[tokio::test(start_paused = true)]
async fn case_12_a_store_that_hangs_delays_nobody_for_ever() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.store.nth(Call::Save, 1, Fault::Hang);
    let (outcome, took) = timed(a.refresh()).await;
    assert_eq!((kind(outcome), state(&a)), (Ok(()), "active, unsaved"));
    assert!(took <= 11 * SEC, "a store call is bounded by 10 s: {took:?}");
    pass(5 * SEC).await;
    assert_eq!((state(&a), world.refresh_token()), ("active", "r1.1".into()));
}

#[tokio::test(start_paused = true)]
async fn p05_an_unsaved_set_is_saved_before_anything_is_used() {
    let (world, a) = unsaved(Flaky::new(), DOWN).await;
    let (outcome, took) = timed(a.refresh()).await;
    assert_eq!((kind(outcome), took < SEC), (Err(ErrorKind::Unavailable), true), "a save is tried now: {took:?}");
    assert_eq!(token(&a).await, Ok("a1.1".into()), "what is fresh goes on");
    world.expire().await;
    assert_eq!((token(&a).await, world.books().0), (Err(ErrorKind::Unavailable), 1), "spent: no exchange");
    world.store.heal();
    a.reconnected();
    let (wanted, took) = timed(token(&a)).await;
    assert_eq!((wanted, world.books()), (Ok("a1.2".into()), (2, 0)));
    assert!(took < SEC, "the flight takes the lease over: {took:?}");
    assert_eq!((world.refresh_token(), state(&a)), ("r1.2".into(), "active"));
}

#[tokio::test(start_paused = true)]
async fn p05_an_unsaved_set_outlives_the_last_clone_of_the_session() {
    let (world, a) = unsaved(Flaky::new(), DOWN).await;
    drop(a);
    pass(60 * SEC).await;
    world.store.heal();
    pass(60 * SEC).await;
    assert_eq!(world.refresh_token(), "r1.1", "the process lives: saving is retried until it succeeds");
    let again = world.open().await;
    assert_eq!((kind(again.refresh().await), world.books()), (Ok(()), (2, 0)));
}

#[tokio::test(start_paused = true)]
async fn p05_close_saves_what_is_unsaved_or_says_so() {
    let (world, a) = unsaved(Flaky::new(), DOWN).await;
    assert_eq!(kind(a.close().await), Err(ErrorKind::Store));
    world.store.heal();
    assert_eq!((kind(a.close().await), world.refresh_token()), (Ok(()), "r1.1".into()));
    assert_eq!((state(&a), world.store.is_free()), ("active", true));
}

async fn a_second_process_wants_a_token(store: Flaky) {
    let (world, a) = unsaved(store, DOWN).await;
    let b = world.open().await;
    world.expire().await;
    let (wanted, took) = timed(token(&b)).await;
    assert_eq!((wanted, world.books()), (Err(ErrorKind::Unavailable), (1, 0)), "it never spends the old token");
    assert!(55 * SEC <= took && took <= 65 * SEC, "it waits for the lease: {took:?}");
    world.store.heal();
    pass(20 * SEC).await;
    assert_eq!(world.refresh_token(), "r1.1");
    a.reconnected();
    b.reconnected();
    let both = tokio::join!(token(&a), token(&b));
    assert_eq!(both, (Ok("a1.2".into()), Ok("a1.2".into())));
    assert_eq!((world.books(), state(&a), state(&b)), ((2, 0), "active", "active"));
}

#[tokio::test(start_paused = true)]
async fn case_41_rotation_succeeded_the_save_fails_and_a_second_process_wants_a_token() {
    a_second_process_wants_a_token(Flaky::new()).await;
}

#[tokio::test(start_paused = true)]
async fn case_41_and_where_leases_expire() {
    a_second_process_wants_a_token(Flaky::leased()).await;
}

#[tokio::test(start_paused = true)]
async fn case_41_the_other_process_adopts_as_soon_as_it_is_saved() {
    let (world, _a) = unsaved(Flaky::new(), DOWN).await;
    let b = world.open().await;
    pass(50 * SEC).await;
    let wanted = tokio::spawn(async move { kind(b.refresh().await) });
    pass(5 * SEC).await;
    assert!(!wanted.is_finished());
    world.store.heal();
    assert_eq!((wanted.await.unwrap(), world.books()), (Ok(()), (1, 0)));
}

/// The store is down for long: a lease that was lost is taken again, and still nothing is spent twice.
#[tokio::test(start_paused = true)]
async fn p05_an_unsaved_set_whose_lease_was_lost_is_saved_all_the_same() {
    let (world, a) = unsaved(Flaky::leased(), DOWN).await;
    world.store.lose_leases();
    pass(5 * SEC).await;
    world.store.heal();
    pass(20 * SEC).await;
    assert_eq!((world.refresh_token(), state(&a), world.books()), ("r1.1".into(), "active", (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn p05_a_sign_in_over_an_unsaved_set_asks_the_store_with_pauses() {
    let (world, a) = unsaved(Flaky::new(), DOWN).await;
    world.store.always(Call::Load, DOWN);
    assert_eq!(kind(a.sign_in(world.issuer.sign_in()).await), Ok(()));
    world.store.forget_calls();
    pass(60 * SEC).await;
    let calls = world.store.calls().len();
    assert!(calls < 300, "{calls} calls in a minute");
}

#[tokio::test(start_paused = true)]
async fn p05_a_sign_in_over_an_unsaved_set_replaces_it() {
    let (world, a) = unsaved(Flaky::new(), DOWN).await;
    assert_eq!(kind(a.sign_in(world.issuer.sign_in()).await), Ok(()));
    assert_eq!((state(&a), token(&a).await), ("active, unsaved", Ok("a2.0".into())));
    pass(10 * SEC).await;
    world.store.heal();
    pass(60 * SEC).await;
    assert_eq!((world.refresh_token(), state(&a)), ("r2.0".into(), "active"));
    world.expire().await;
    assert_eq!(token(&a).await, Ok("a2.1".into()));
}
