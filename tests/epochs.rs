//! Epochs: what is left of an older one (flights, keepers, failures, sign-outs that could not be told) never touches a
//! newer one, and of what crosses the last word counts.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start tasks and read tokio's clock

#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/kit.rs"]
mod kit;
#[path = "support/world.rs"]
mod world;

use flaky::{Call, Fault, Flaky};
use kit::{SEC, Script};
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use tokio::task::JoinHandle;
use tower_reauth::{
    AuthError, AuthEvent, AuthState, ErrorKind, FailureKind, LockCause, RefreshError, RefreshGrant, Refresher, Session,
    SignOut, StoreErrorKind, Tokens,
};
use world::{World, failure, kind, pass, state, timed, token};

const DOWN: Fault = Fault::Fail(StoreErrorKind::Unavailable);

/// A way to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Soft,
    Hard,
    Lock,
}

use Leave::{Hard, Lock, Soft};

impl Leave {
    async fn run(self, session: &Session) -> Result<(), AuthError> {
        match self {
            Soft => session.sign_out(SignOut::Soft).await,
            Hard => session.sign_out(SignOut::Hard).await,
            Lock => session.lock(LockCause::Application).await,
        }
    }

    fn state(self) -> &'static str {
        if self == Lock { "locked" } else { "signed out here" }
    }

    fn error(self) -> ErrorKind {
        if self == Lock { ErrorKind::Locked } else { ErrorKind::SignedOut }
    }
}

/// Beside the test.
fn aside(work: impl Future<Output = Result<(), AuthError>> + Send + 'static) -> JoinHandle<Result<(), ErrorKind>> {
    tokio::spawn(async move { kind(work.await) })
}

fn refresh(session: &Session) -> JoinHandle<Result<(), ErrorKind>> {
    let session = session.clone();
    aside(async move { session.refresh().await })
}

fn sign_in(session: &Session, tokens: Tokens) -> JoinHandle<Result<(), ErrorKind>> {
    let session = session.clone();
    aside(async move { session.sign_in(tokens).await })
}

/// Of another sign-in, whose family the issuer keeps beside the old one.
fn anew() -> Tokens {
    Tokens::new("new").with_refresh_token("r-new").with_expires_in(1000 * SEC)
}

/// How often somebody was told that the session has ended.
fn ends(world: &World) -> usize {
    let over = |state: &AuthState| {
        matches!(state, AuthState::SignedOut(_) | AuthState::Locked(_) | AuthState::ReauthRequired(_))
    };
    world.log.count(|event| matches!(event, AuthEvent::StateChanged { state, .. } if over(state)))
}

/// The new session is what it was: here, in the store, and in a new process.
async fn stays_in(world: &World, session: &Session, what: &str) {
    pass(60 * SEC).await;
    assert_eq!((state(session), token(session).await), ("active", Ok("new".into())), "{what}");
    let stored = (world.store.field("epoch"), world.refresh_token());
    assert_eq!(stored, (json!(world.store.mark()), "r-new".into()), "{what}");
    let again = world.open().await;
    assert_eq!((state(&again), token(&again).await), ("active", Ok("new".into())), "{what}");
    assert!(!world.issuer.books().revocations.contains(&"r-new".into()), "{what}");
}

/// Ended as `leave` says, here and in a new process, and nobody's tokens are left.
async fn stays_out(world: &World, session: &Session, leave: Leave, what: &str) {
    let again = world.open().await;
    assert_eq!((state(session), state(&again)), (leave.state(), leave.state()), "{what}");
    assert_eq!((token(session).await, token(&again).await), (Err(leave.error()), Err(leave.error())), "{what}");
    let record = world.store.record();
    assert!(leave != Hard || record.is_none(), "{what}: {record:?}");
    let tokens = |record: &serde_json::Value| !record["access_token"].is_null() || !record["refresh_token"].is_null();
    assert!(!record.as_ref().is_some_and(tokens), "{what}: {record:?}");
}

// ===== old flights =====

fn failing(error: impl FnOnce() -> RefreshError + Send + 'static) -> Script {
    Script::Fail(Box::new(error))
}

type BadEnd = (&'static str, fn() -> Script);

/// What an exchange may end with, if not with tokens.
fn bad_ends() -> Vec<BadEnd> {
    vec![
        ("hangs", || Script::Hang),
        ("panics", || Script::Panic),
        ("reset", || failing(|| RefreshError::transient("reset"))),
        ("told to wait", || failing(|| failure(FailureKind::Transient, 503).retry_after(600 * SEC))),
        ("refused", || failing(|| failure(FailureKind::InvalidGrant, 400))),
        ("misconfigured", || failing(|| failure(FailureKind::Misconfigured, 401))),
        ("a bare 400", || failing(|| failure(FailureKind::Unrecognized, 400))),
        ("disabled", || failing(|| failure(FailureKind::AccountDisabled, 400))),
    ]
}

#[tokio::test(start_paused = true)]
async fn p13_however_an_old_flight_fails_it_never_touches_a_newer_sign_in() {
    // 3 s: the sign-in gets the lease when the flight has ended; 25 s: it goes ahead without.
    for (secs, sign_out_first) in [(3, true), (25, true), (25, false)] {
        for (end, script) in bad_ends() {
            let what = format!("{end}, {secs} s, signed out first: {sign_out_first}");
            let (world, locks) = (World::new(Flaky::new()), Arc::<AtomicUsize>::default());
            let count = locks.clone();
            let builder = world.builder().on_lock(move |_, _| _ = count.fetch_add(1, Relaxed));
            let a = builder.open("alice").await.unwrap();
            a.sign_in(world.issuer.sign_in()).await.unwrap();
            world.issuer.books().takes = SEC * secs;
            world.issuer.script(script());
            let flight = refresh(&a);
            pass(SEC).await;
            if sign_out_first {
                a.sign_out(SignOut::Soft).await.unwrap();
            }
            a.sign_in(anew()).await.unwrap();
            let before = ends(&world);
            assert_eq!(token(&a).await, Ok("new".into()), "{what}");
            assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut), "{what}");
            stays_in(&world, &a, &what).await;
            assert_eq!((ends(&world), locks.load(Relaxed)), (before, 0), "{what}");
            assert_eq!((world.store.mark(), world.store.field("failure")), (4, json!(null)), "{what}");
            // Nor does its cool-down.
            world.issuer.script(Script::Answer(Tokens::new("newer").with_expires_in(1000 * SEC)));
            assert_eq!((kind(a.refresh().await), token(&a).await), (Ok(()), Ok("newer".into())), "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p13_an_old_flight_whose_tokens_cannot_be_saved_leaves_the_keeper_of_a_newer_sign_in_alone() {
    for down in [&[Call::Save][..], &[Call::Save, Call::Raise, Call::Mark]] {
        let (world, a) = World::signed_in(Flaky::new()).await;
        world.issuer.books().takes = 15 * SEC;
        let flight = refresh(&a);
        pass(SEC).await;
        down.iter().for_each(|call| world.store.always(*call, DOWN));
        let _ = a.sign_out(SignOut::Soft).await;
        a.sign_in(anew()).await.unwrap();
        assert_eq!((state(&a), token(&a).await), ("active, unsaved", Ok("new".into())));
        let before = ends(&world);
        assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut));
        pass(3 * SEC).await;
        world.store.heal();
        assert_eq!((kind(a.close().await), state(&a)), (Ok(()), "active"), "{down:?}");
        stays_in(&world, &a, "").await;
        assert_eq!(ends(&world), before, "{down:?}");
    }
}

// ===== old keepers =====

#[tokio::test(start_paused = true)]
async fn p13_the_keeper_of_an_older_epoch_never_touches_a_newer_sign_in() {
    use Call::*;
    for down in [&[Save][..], &[Save, Load], &[Save, Load, Mark, Raise], &[Save, Load, Mark, Raise, Lease, Renew]] {
        for sign_out_first in [false, true] {
            let what = format!("{down:?}, signed out first: {sign_out_first}");
            let (world, a) = World::signed_in(Flaky::new()).await;
            world.store.nth(Save, 1, DOWN); // the journal may be written
            world.store.after(Save, 2, DOWN);
            a.refresh().await.unwrap();
            assert_eq!(state(&a), "active, unsaved", "{what}");
            down.iter().for_each(|call| world.store.always(*call, DOWN));
            if sign_out_first {
                let _ = a.sign_out(SignOut::Soft).await;
            }
            a.sign_in(anew()).await.unwrap();
            let before = ends(&world);
            for _ in 0..12 {
                pass(5 * SEC).await;
                assert_eq!((state(&a), token(&a).await), ("active, unsaved", Ok("new".into())), "{what}");
            }
            world.store.heal();
            stays_in(&world, &a, &what).await;
            assert_eq!(ends(&world), before, "{what}");
            assert!(world.store.is_free(), "{what}: no keeper is left");
        }
    }
}

// ===== departures that the store could not be told of =====

#[tokio::test(start_paused = true)]
async fn p13_a_departure_that_the_store_is_told_of_later_outlives_the_flight_that_saves_meanwhile() {
    for leave in [Soft, Hard, Lock] {
        for heals_before_the_flight_ends in [true, false] {
            let what = format!("{leave:?}, heals first: {heals_before_the_flight_ends}");
            let (world, a) = World::signed_in(Flaky::new()).await;
            world.issuer.books().takes = 5 * SEC;
            let flight = refresh(&a);
            pass(SEC).await;
            world.store.always(Call::Raise, DOWN);
            world.store.always(Call::Mark, DOWN);
            assert_eq!(kind(leave.run(&a).await), Err(ErrorKind::Store), "{what}");
            assert_eq!((state(&a), token(&a).await.is_err()), (leave.state(), true), "{what}: here at once");
            if heals_before_the_flight_ends {
                world.store.heal();
            }
            assert_eq!(flight.await.unwrap(), Err(leave.error()), "{what}");
            pass(10 * SEC).await;
            world.store.heal();
            pass(60 * SEC).await;
            assert_eq!(world.store.mark(), 3, "{what}");
            stays_out(&world, &a, leave, &what).await;
            if leave != Lock {
                assert!(world.issuer.books().revocations.contains(&"r1.1".into()), "{what}: what was minted");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p13_a_departure_that_the_store_could_not_be_told_of_is_told_without_anybody_asking() {
    for leave in [Soft, Hard, Lock] {
        let (world, a) = World::signed_in(Flaky::new()).await;
        world.store.always(Call::Raise, DOWN);
        assert_eq!(kind(leave.run(&a).await), Err(ErrorKind::Store));
        world.store.forget_calls();
        pass(600 * SEC).await;
        let tries = world.store.count(Call::Raise);
        assert!((10..=100).contains(&tries), "{leave:?}: with pauses: {tries} times in ten minutes");
        drop(a);
        world.store.heal();
        pass(30 * SEC).await;
        assert_eq!(world.store.mark(), 3, "{leave:?}: the process lives");
        stays_out(&world, &world.open().await, leave, "").await;
        assert_eq!(world.issuer.books().revocations.len(), usize::from(leave != Lock));
    }
}

#[tokio::test(start_paused = true)]
async fn p13_a_sign_in_ends_what_the_store_was_to_be_told_of() {
    for leave in [Soft, Hard, Lock] {
        let (world, a) = World::signed_in(Flaky::new()).await;
        world.store.always(Call::Raise, DOWN);
        assert_eq!(kind(leave.run(&a).await), Err(ErrorKind::Store));
        a.sign_in(anew()).await.unwrap();
        let before = ends(&world);
        pass(60 * SEC).await;
        assert_eq!((state(&a), token(&a).await), ("active, unsaved", Ok("new".into())));
        world.store.heal();
        stays_in(&world, &a, "").await;
        assert_eq!(ends(&world), before);
    }
}

/// The store can be told again, and the user signs in while it is being told.
#[tokio::test(start_paused = true)]
async fn p13_a_departure_told_late_never_touches_a_sign_in_that_comes_meanwhile() {
    for (call, nth) in [(Call::Load, 0), (Call::Mark, 0), (Call::Raise, 0)] {
        let (world, a) = World::signed_in(Flaky::new()).await;
        world.store.always(Call::Raise, DOWN);
        assert_eq!(kind(a.sign_out(SignOut::Soft).await), Err(ErrorKind::Store));
        world.store.heal();
        let stop = world.store.pause(call, nth);
        stop.reached().await;
        assert_eq!(kind(a.sign_in(anew()).await), Ok(()));
        let before = ends(&world);
        stop.go_on();
        stays_in(&world, &a, &format!("{call:?}")).await;
        assert_eq!(ends(&world), before, "{call:?}");
    }
}

// ===== what crosses =====

/// A sign-in of A waits for the lease, which B's exchange holds for `secs`, and A leaves.
async fn overtaken(leave: Leave, secs: u32) -> (World, Session) {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let b = world.open().await;
    world.issuer.books().takes = SEC * secs;
    let flight = refresh(&b);
    pass(SEC).await;
    let signing_in = sign_in(&a, anew());
    pass(SEC).await;
    leave.run(&a).await.unwrap();
    assert_eq!(state(&a), leave.state());
    assert_eq!(signing_in.await.unwrap(), Err(leave.error()), "{leave:?}");
    assert_eq!(state(&a), leave.state());
    assert!(flight.await.unwrap().is_err());
    pass(60 * SEC).await;
    (world, a)
}

#[tokio::test(start_paused = true)]
async fn p13_a_departure_wins_over_a_sign_in_that_was_called_before_it() {
    for leave in [Soft, Hard, Lock] {
        let (world, a) = overtaken(leave, 5).await;
        stays_out(&world, &a, leave, &format!("{leave:?}")).await;
    }
}

/// Longer than the sign-in and the departure wait for the lease.
#[tokio::test(start_paused = true)]
async fn p13_so_it_does_while_another_process_keeps_the_lease_and_no_token_is_left() {
    let (world, a) = overtaken(Soft, 28).await;
    assert_eq!(world.issuer.books().revocations, ["r1.1"], "what B minted");
    stays_out(&world, &a, Soft, "").await;
}

#[tokio::test(start_paused = true)]
async fn p13_so_it_does_at_every_store_call_of_the_sign_in() {
    use Call::*;
    for leave in [Soft, Hard, Lock] {
        for call in [Lease, Load, Mark, Save, Raise] {
            let (world, a) = World::signed_in(Flaky::new()).await;
            let stop = world.store.pause(call, 0);
            let signing_in = sign_in(&a, anew());
            stop.reached().await;
            let leaving = tokio::spawn({
                let a = a.clone();
                async move { kind(leave.run(&a).await) }
            });
            pass(SEC / 10).await;
            assert_eq!(state(&a), leave.state(), "{leave:?}, {call:?}: at once");
            stop.go_on();
            assert_eq!(leaving.await.unwrap(), Ok(()), "{leave:?}, {call:?}");
            assert_eq!(signing_in.await.unwrap(), Err(leave.error()), "{leave:?}, {call:?}");
            pass(60 * SEC).await;
            stays_out(&world, &a, leave, &format!("{leave:?}, {call:?}")).await;
        }
    }
}

/// It is published before the store is told: the user sees it, and signs in again.
#[tokio::test(start_paused = true)]
async fn p13_a_sign_in_wins_over_a_departure_that_was_called_before_it() {
    for leave in [Soft, Hard, Lock] {
        for call in [Call::Load, Call::Mark, Call::Raise] {
            let (world, a) = World::signed_in(Flaky::new()).await;
            let stop = world.store.pause(call, 0);
            let leaving = tokio::spawn({
                let a = a.clone();
                async move { kind(leave.run(&a).await) }
            });
            stop.reached().await;
            assert_eq!(state(&a), leave.state(), "{leave:?}, {call:?}");
            assert_eq!(kind(a.sign_in(anew()).await), Ok(()), "{leave:?}, {call:?}");
            stop.go_on();
            let _ = leaving.await.unwrap();
            stays_in(&world, &a, &format!("{leave:?}, {call:?}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p02_close_waits_for_a_sign_in_under_way_and_says_if_it_stays_unsaved() {
    for (takes, saved) in [(5, true), (25, false)] {
        let (world, a) = World::signed_in(Flaky::new()).await;
        let b = world.open().await;
        world.issuer.books().takes = SEC * takes;
        let flight = refresh(&b); // it holds the lease
        pass(SEC).await;
        let signing_in = sign_in(&a, anew());
        pass(SEC / 10).await;
        let (closed, took) = timed(a.close()).await;
        let outcome = if saved { Ok(()) } else { Err(ErrorKind::Store) };
        assert_eq!((kind(closed), signing_in.is_finished()), (outcome, true), "{takes} s: after {took:?}");
        assert_eq!(state(&a), if saved { "active" } else { "active, unsaved" });
        let _ = flight.await.unwrap();
        stays_in(&world, &a, "").await;
    }
}

// ===== tombstones =====

#[tokio::test(start_paused = true)]
async fn p13_of_several_departures_the_last_one_counts_here_and_after_a_restart() {
    for first in [Soft, Hard, Lock] {
        for second in [Soft, Hard, Lock] {
            for told in [true, false] {
                let (world, a) = World::signed_in(Flaky::new()).await;
                if !told {
                    world.store.always(Call::Save, DOWN); // the first one's tombstone cannot be laid
                    world.store.always(Call::Remove, DOWN);
                }
                first.run(&a).await.unwrap();
                world.store.heal();
                second.run(&a).await.unwrap();
                pass(20 * SEC).await;
                assert_eq!(world.store.mark(), 3, "one epoch");
                stays_out(&world, &a, second, &format!("{first:?}, {second:?}, {told}")).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p13_a_session_that_has_to_sign_in_again_sees_a_departure_elsewhere() {
    for (leave, seen) in [(Soft, "signed out elsewhere"), (Hard, "signed out elsewhere"), (Lock, "locked")] {
        let (world, a) = World::signed_in(Flaky::new()).await;
        let b = world.open().await;
        world.issuer.books().revoked = true;
        world.expire().await;
        assert!(token(&a).await.is_err() && token(&b).await.is_err());
        assert_eq!((state(&a), state(&b)), ("revoked", "revoked"));
        leave.run(&a).await.unwrap();
        pass(60 * SEC).await;
        assert_eq!((token(&b).await, state(&b)), (Err(leave.error()), seen), "{leave:?}");
    }
}

/// As a refresher of client credentials.
struct Starts;

impl Refresher for Starts {
    async fn refresh(&self, _: RefreshGrant) -> Result<Tokens, RefreshError> {
        Ok(Tokens::new("fresh"))
    }

    fn needs_refresh_token(&self) -> bool {
        false
    }
}

/// A hard one leaves nothing but the mark to tell of it.
#[tokio::test(start_paused = true)]
async fn p13_a_sign_out_outlives_a_resumption_that_was_called_after_it_and_failed() {
    for fails_once in [true, false] {
        let store = Flaky::new();
        let open = || Session::builder(Starts).store(store.clone()).open("svc");
        let session = open().await.unwrap();
        session.access_token().await.unwrap();
        let pause = store.pause(Call::Mark, 0);
        let out = aside({
            let session = session.clone();
            async move { session.sign_out(SignOut::Hard).await }
        });
        pause.reached().await;
        match fails_once {
            true => store.nth(Call::Raise, 0, Fault::Hang),
            false => store.always(Call::Raise, Fault::Hang),
        }
        let resumed = aside({
            let session = session.clone();
            async move { session.resume().await }
        });
        store.stopped().await;
        pause.go_on();
        assert_eq!(out.await.unwrap(), if fails_once { Ok(()) } else { Err(ErrorKind::Store) });
        assert_eq!(resumed.await.unwrap(), Err(ErrorKind::Store));
        store.heal();
        pass(60 * SEC).await;
        for session in [session, open().await.unwrap()] {
            assert!(matches!(session.state(), AuthState::SignedOut(_)), "fails once: {fails_once}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p13_a_sign_out_that_a_failing_sign_in_overtook_says_ok_only_if_the_store_was_told() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let pause = world.store.pause(Call::Mark, 0);
    let out = aside({
        let a = a.clone();
        async move { a.sign_out(SignOut::Soft).await }
    });
    pause.reached().await;
    world.store.always(Call::Raise, Fault::Fail(StoreErrorKind::Unavailable));
    world.store.always(Call::Save, Fault::Fail(StoreErrorKind::Unavailable));
    let signed_in = sign_in(&a, anew());
    pass(SEC).await;
    pause.go_on();
    assert_eq!(out.await.unwrap(), Err(ErrorKind::Store));
    assert_eq!(signed_in.await.unwrap(), Ok(()));
    assert_eq!(state(&a), "active, unsaved");
}
