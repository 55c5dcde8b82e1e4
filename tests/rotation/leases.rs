//! Journals of others and leases that were lost: SEMANTICS §3, steps 3, 4a and 6.

use crate::{
    flaky::{Call, Fault, Flaky},
    kit::{SEC, Script},
    world::{World, kind, pass, state, timed, token},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinHandle};
use tower_reauth::{ErrorKind, Session, StoreErrorKind, refresh_fn};

const LOST: Fault = Fault::Fail(StoreErrorKind::LeaseLost);

fn refresh(session: &Session) -> JoinHandle<Result<(), ErrorKind>> {
    let session = session.clone();
    tokio::spawn(async move { kind(session.refresh().await) })
}

/// A and B; A is stopped in mid-exchange and its lease has run out: its token was not spent if it `hangs`, and was if not.
async fn stopped(hangs: bool) -> (World, [Session; 2], Arc<Semaphore>, JoinHandle<Result<(), ErrorKind>>) {
    let world = World::new(Flaky::leased());
    let a = world.builder().refresh_timeout(30 * SEC).open("alice").await.unwrap();
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    let b = world.open().await;
    let hold = Arc::new(Semaphore::new(0));
    match hangs {
        true => world.issuer.script(Script::Hang),
        false => world.issuer.books().hold = Some(hold.clone()),
    }
    let flight = refresh(&a);
    pass(SEC).await;
    world.issuer.books().hold = None;
    world.store.lose_leases();
    (world, [a, b], hold, flight)
}

/// `SIGSTOP`: when the process goes on, its timer has run out, and the answer is there, a few polls away.
#[tokio::test(start_paused = true)]
async fn step_5_an_answer_that_came_while_the_process_was_stopped_is_read_before_a_timeout_counts() {
    for (store, stopped) in [(Flaky::leased(), 10 * SEC), (Flaky::new(), 60 * SEC), (Flaky::leased(), Duration::ZERO)] {
        let world = World::new(store);
        let clock = world.clock.clone();
        let refresher = refresh_fn(move |_| {
            let clock = clock.clone();
            async move {
                tokio::time::sleep(30 * SEC).await; // as long as it may take
                clock.advance(stopped);
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                Ok(crate::world::tokens(1))
            }
        });
        let a = world.log.attach(Session::builder(refresher)).store(world.store.clone()).clock(world.clock.clone());
        let a = a.background_refresh(false).refresh_timeout(30 * SEC).open("alice").await.unwrap();
        a.sign_in(world.issuer.sign_in()).await.unwrap();
        let (outcome, took) = timed(a.refresh()).await;
        assert!(took < 31 * SEC, "{took:?}");
        match stopped.is_zero() {
            true => assert_eq!(kind(outcome), Err(ErrorKind::Unavailable), "who runs and is late is late"),
            false => assert_eq!((kind(outcome), world.refresh_token()), (Ok(()), "r1.1".into()), "{stopped:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn step_3_anothers_open_journal_is_waited_for_without_the_lease() {
    let (world, [_a, b], _, flight) = stopped(true).await;
    flight.abort(); // its caller only
    world.store.always(Call::Save, Fault::Fail(StoreErrorKind::Unavailable)); // A's own end writes nothing
    let (wanted, start) = (refresh(&b), tokio::time::Instant::now());
    pass(5 * SEC).await;
    assert!(world.store.is_free(), "the lease is released meanwhile");
    pass(28 * SEC).await;
    world.store.heal();
    assert_eq!((wanted.is_finished(), world.books().0), (false, 1));
    assert_eq!(wanted.await.unwrap(), Ok(()));
    let took = start.elapsed();
    assert!(43 * SEC <= took && took <= 47 * SEC, "until the deadline, a refresh and 15 s: {took:?}");
    assert_eq!((world.books(), world.refresh_token()), ((2, 0), "r1.1".into()));
    assert_eq!(world.store.field("doubt"), "inherited", "A's request may still arrive");
}

#[tokio::test(start_paused = true)]
async fn step_3_a_changed_record_ends_the_wait() {
    let (world, [a, b], hold, flight) = stopped(false).await;
    let wanted = refresh(&b);
    pass(5 * SEC).await;
    assert!(!wanted.is_finished());
    hold.add_permits(1); // A goes on with its late 200
    assert_eq!((flight.await.unwrap(), wanted.await.unwrap()), (Ok(()), Ok(())));
    assert_eq!(world.books(), (1, 0));
    assert_eq!((token(&a).await, token(&b).await), (Ok("a1.1".into()), Ok("a1.1".into())));
    assert_eq!((world.store.field("doubt"), state(&a)), (json!("none"), "active"));
}

#[tokio::test(start_paused = true)]
async fn step_3_a_flight_that_ended_in_doubt_is_not_waited_for() {
    let (world, a) = World::signed_in(Flaky::leased()).await;
    world.issuer.fail(|| tower_reauth::RefreshError::transient("reset"));
    assert!(a.refresh().await.is_err());
    let b = world.open().await;
    pass(2 * SEC).await;
    let (outcome, took) = timed(b.refresh()).await;
    assert_eq!(kind(outcome), Ok(()));
    assert!(took < SEC, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn step_4a_a_lease_that_was_lost_before_the_first_byte_spends_nothing() {
    let (world, a) = World::signed_in(Flaky::leased()).await;
    world.store.nth(Call::Renew, 0, LOST);
    assert_eq!((kind(a.refresh().await), world.books()), (Ok(()), (1, 0)), "from the start, and then once");
    world.store.always(Call::Renew, LOST);
    assert_eq!((kind(a.refresh().await), world.books()), (Err(ErrorKind::Unavailable), (1, 0)));
    assert_eq!(token(&a).await, Ok("a1.1".into()));
}

#[tokio::test(start_paused = true)]
async fn step_4a_the_lease_is_renewed_and_the_mark_read_after_the_journal() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.store.forget_calls();
    a.refresh().await.unwrap();
    use Call::*;
    assert_eq!(world.store.calls(), [Lease, Load, Mark, Save, Renew, Mark, Save, Mark]);
}

#[tokio::test(start_paused = true)]
async fn step_4a_a_holder_that_was_stopped_before_it_sent_spends_nothing_afterwards() {
    // Before the journal: nobody waits for it. After it: for its deadline, and the store call of 10 s has ended by then.
    for (call, outcome) in [(Call::Save, Ok(())), (Call::Renew, Err(ErrorKind::Unavailable))] {
        let (world, a) = World::signed_in(Flaky::leased()).await;
        let b = world.open().await;
        let stop = world.store.pause(call, 0);
        let flight = refresh(&a);
        stop.reached().await;
        world.store.lose_leases();
        assert_eq!((kind(b.refresh().await), world.books()), (Ok(()), (1, 0)), "{call:?}");
        stop.go_on();
        assert_eq!((flight.await.unwrap(), world.books()), (outcome, (1, 0)), "{call:?}");
        world.expire().await;
        assert_eq!((token(&a).await, world.books()), (Ok("a1.2".into()), (2, 0)), "{call:?}: it read again");
    }
}

#[tokio::test(start_paused = true)]
async fn step_4a_a_sign_out_after_the_journal_sends_nothing() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let b = world.open().await;
    let stop = world.store.pause(Call::Renew, 0);
    let flight = refresh(&a);
    stop.reached().await;
    b.sign_out(tower_reauth::SignOut::Soft).await.unwrap();
    stop.go_on();
    assert_eq!((flight.await.unwrap(), world.books().0), (Err(ErrorKind::SignedOut), 0));
    assert_eq!((state(&a), world.store.field("standing")), ("signed out elsewhere", "signed_out".into()));
}

#[tokio::test(start_paused = true)]
async fn step_1_a_lease_that_is_not_to_be_had_is_unavailable_after_a_minute() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.store.always(Call::Lease, Fault::Hang);
    let (outcome, took) = timed(a.refresh()).await;
    assert_eq!((kind(outcome), world.books().0), (Err(ErrorKind::Unavailable), 0));
    assert!(60 * SEC <= took && took <= 61 * SEC, "{took:?}");
}

/// A's save waits; its lease is lost, and `change` is what stands in the store by then.
async fn lost_with_tokens_in_hand(
    change: impl FnOnce(&mut serde_json::Value),
) -> (World, Session, Result<(), ErrorKind>) {
    let (world, a) = World::signed_in(Flaky::leased()).await;
    let save = world.store.pause(Call::Save, 1);
    let flight = refresh(&a);
    save.reached().await;
    world.store.lose_leases();
    world.store.edit(change);
    save.go_on();
    let outcome = flight.await.unwrap();
    (world, a, outcome)
}

#[tokio::test(start_paused = true)]
async fn step_6_a_lost_lease_after_a_200_is_leased_again_and_mine_is_saved() {
    let (world, a, outcome) = lost_with_tokens_in_hand(|_| ()).await;
    assert_eq!((outcome, state(&a), world.books()), (Ok(()), "active", (1, 0)));
    assert_eq!((world.refresh_token(), world.store.field("doubt")), ("r1.1".into(), json!("none")));
    assert!(world.store.field("journal").is_null() && world.store.is_free());
}

#[tokio::test(start_paused = true)]
async fn step_6_a_successor_or_another_set_of_that_generation_is_adopted() {
    for further in [1, 2] {
        let (world, a, outcome) = lost_with_tokens_in_hand(|record| {
            record["generation"] = json!(record["generation"].as_u64().unwrap() + further);
            record["access_token"] = json!("theirs");
            record["refresh_token"] = json!("r-theirs");
            record["journal"] = json!(null);
        })
        .await;
        assert_eq!((outcome, token(&a).await), (Ok(()), Ok("theirs".into())));
        assert_eq!(world.refresh_token(), "r-theirs");
        pass(30 * SEC).await;
        assert!(world.issuer.books().revocations.is_empty(), "mine is dropped, not revoked");
    }
}

#[tokio::test(start_paused = true)]
async fn step_6_a_200_outranks_a_verdict_and_leaves_a_doubt() {
    let (world, a, outcome) = lost_with_tokens_in_hand(|record| {
        record["standing"] = json!({ "reauth_required": "rotation_lost" });
        record["journal"] = json!(null);
        record.as_object_mut().unwrap().remove("refresh_token");
    })
    .await;
    assert_eq!((outcome, state(&a), token(&a).await), (Ok(()), "active", Ok("a1.1".into())));
    assert_eq!((world.store.field("standing"), world.refresh_token()), ("signed_in".into(), "r1.1".into()));
    assert_eq!(world.store.field("doubt"), "inherited");
}

#[tokio::test(start_paused = true)]
async fn step_6_another_openers_journal_leaves_a_doubt() {
    let (world, _a, outcome) = lost_with_tokens_in_hand(|record| record["journal"]["owner"] = json!("somebody")).await;
    assert_eq!((outcome, world.store.field("doubt")), (Ok(()), json!("inherited")));
    assert!(world.store.field("journal").is_null());
}

#[tokio::test(start_paused = true)]
async fn step_6_without_a_lease_again_the_set_is_published_as_unsaved_and_saved_later() {
    let (world, a) = World::signed_in(Flaky::leased()).await;
    let save = world.store.pause(Call::Save, 1);
    let flight = refresh(&a);
    save.reached().await;
    world.store.lose_leases();
    world.store.always(Call::Lease, Fault::Hang);
    save.go_on();
    let (outcome, took) = timed(flight).await;
    assert_eq!((outcome.unwrap(), state(&a)), (Ok(()), "active, unsaved"));
    assert!(Duration::from_secs(60) <= took && took <= Duration::from_secs(62), "{took:?}");
    world.store.heal();
    pass(20 * SEC).await;
    assert_eq!((state(&a), world.refresh_token(), world.books()), ("active", "r1.1".into(), (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn step_6_a_conflict_under_a_lease_still_held_is_looked_at_not_leased_again() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let save = world.store.pause(Call::Save, 1);
    let flight = refresh(&a);
    save.reached().await;
    world.store.edit(|record| record["from_the_future"] = json!([1]));
    world.store.forget_calls();
    save.go_on();
    assert_eq!((flight.await.unwrap(), world.refresh_token()), (Ok(()), "r1.1".into()));
    assert_eq!(world.store.calls(), [Call::Load, Call::Mark, Call::Save, Call::Mark]);
}

#[tokio::test(start_paused = true)]
async fn step_6_an_invalid_grant_whose_token_has_a_successor_puts_a_doubt_on_it_and_adopts_it() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.issuer.fail(|| crate::world::failure(tower_reauth::FailureKind::InvalidGrant, 400));
    world.issuer.books().takes = 5 * SEC;
    let flight = refresh(&a);
    pass(SEC).await;
    world.store.edit(|record| {
        record["generation"] = json!(2);
        record["access_token"] = json!("theirs");
        record["refresh_token"] = json!("r-theirs");
        record["journal"] = json!(null);
    });
    assert_eq!((flight.await.unwrap(), token(&a).await), (Ok(()), Ok("theirs".into())));
    assert_eq!((world.store.field("doubt"), world.refresh_token()), (json!("inherited"), "r-theirs".into()));
}

#[tokio::test(start_paused = true)]
async fn step_6_a_verdict_in_hand_and_a_lost_lease_is_leased_again_and_saved() {
    for fault in [LOST, Fault::Fail(StoreErrorKind::Conflict)] {
        let (world, a) = World::signed_in(Flaky::leased()).await;
        world.issuer.books().revoked = true;
        world.store.nth(Call::Save, 1, fault);
        assert_eq!(kind(a.refresh().await), Err(ErrorKind::ReauthRequired));
        assert_eq!(world.store.field("standing"), json!({ "reauth_required": "revoked" }));
        assert!(world.store.field("journal").is_null() && world.refresh_token().is_null() && world.store.is_free());
    }
}
