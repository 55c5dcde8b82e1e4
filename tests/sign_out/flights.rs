//! A sign-out or a sign-in while a refresh is under way: cases 38 and 40, P13.

use crate::{
    flaky::{Call, Fault, Flaky},
    granted,
    kit::{SEC, Script},
    no_tokens,
    world::{World, failure, kind, pass, state, token},
};
use serde_json::json;
use tokio::task::JoinHandle;
use tower_reauth::{
    AuthEvent, AuthState, ErrorKind, FailureKind, RefreshError, Session, SignOut, StoreErrorKind, Tokens,
};

/// A refresh that is in mid-exchange, for `secs` more.
async fn in_mid_exchange(world: &World, session: &Session, secs: u32) -> JoinHandle<Result<(), ErrorKind>> {
    world.issuer.books().takes = SEC * (secs + 1);
    let session = session.clone();
    let flight = tokio::spawn(async move { kind(session.refresh().await) });
    pass(SEC).await;
    assert!(!flight.is_finished() && !world.store.is_free());
    flight
}

/// Tokens of another sign-in, which the old family's exchange does not disturb.
fn anew() -> Tokens {
    Tokens::new("new").with_refresh_token("r-new").with_expires_in(1000 * SEC)
}

/// Signed out for good: here, in the store, and after any restart.
async fn stays_out(world: &World, sessions: &[&Session]) {
    pass(60 * SEC).await;
    for session in sessions {
        assert_eq!(token(session).await, Err(ErrorKind::SignedOut));
    }
    assert!(no_tokens(world), "{:?}", world.store.record());
    assert_eq!((state(&world.open().await), world.store.mark()), ("signed out here", 3));
}

/// The new session is what it was.
async fn stays_in(world: &World, session: &Session) {
    pass(60 * SEC).await;
    assert_eq!((state(session), token(session).await), ("active", Ok("new".into())));
    assert_eq!((world.store.mark(), world.store.field("epoch"), world.refresh_token()), (4, json!(4), "r-new".into()));
    let again = world.open().await;
    assert_eq!((state(&again), token(&again).await), ("active", Ok("new".into())));
    assert!(world.issuer.books().revocations.iter().all(|token| token != "r-new"));
}

#[tokio::test(start_paused = true)]
async fn case_38_a_sign_out_during_a_refresh_and_the_minted_token_is_revoked() {
    for secs in [3, 20] {
        let (world, a) = granted().await;
        let flight = in_mid_exchange(&world, &a, secs).await;
        a.sign_out(SignOut::Soft).await.unwrap();
        assert_eq!((state(&a), token(&a).await), ("signed out here", Err(ErrorKind::SignedOut)), "at once");
        assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut));
        stays_out(&world, &[&a]).await;
        assert_eq!(world.issuer.books().revocations, ["r1.1"], "the newest of the epoch, {secs} s");
        assert_eq!(world.store.field("roles"), json!(["technician"]), "soft: the profile stays");
        assert_eq!(world.books(), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn case_38_so_it_is_at_every_store_call_of_the_flight() {
    use Call::*;
    for (call, nth) in [(Lease, 0), (Load, 0), (Mark, 0), (Save, 0), (Renew, 0), (Mark, 1), (Save, 1)] {
        let (world, a) = granted().await;
        let stop = world.store.pause(call, nth);
        let flight = tokio::spawn({
            let a = a.clone();
            async move { kind(a.refresh().await) }
        });
        stop.reached().await;
        world.open().await.sign_out(SignOut::Soft).await.unwrap();
        stop.go_on();
        assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut), "{call:?} {nth}");
        stays_out(&world, &[&a]).await;
        let sent = world.books().0;
        assert_eq!(sent, u64::from((call, nth) == (Save, 1)), "{call:?} {nth}: nothing is sent once it is known");
    }
}

/// Load, mark and save of the verdict included.
#[tokio::test(start_paused = true)]
async fn case_38_so_it_is_at_every_store_call_of_a_flight_that_is_refused() {
    use Call::*;
    for (call, nth) in
        [(Lease, 0), (Load, 0), (Mark, 0), (Save, 0), (Renew, 0), (Mark, 1), (Load, 1), (Mark, 2), (Save, 1)]
    {
        let (world, a) = granted().await;
        world.issuer.fail(|| failure(FailureKind::InvalidGrant, 400));
        let stop = world.store.pause(call, nth);
        let flight = tokio::spawn({
            let a = a.clone();
            async move { kind(a.refresh().await) }
        });
        stop.reached().await;
        world.open().await.sign_out(SignOut::Soft).await.unwrap();
        stop.go_on();
        assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut), "{call:?} {nth}: nothing is published");
        stays_out(&world, &[&a]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn case_38_a_hard_sign_out_during_a_refresh_leaves_no_record() {
    for secs in [3, 20] {
        let (world, a) = granted().await;
        let flight = in_mid_exchange(&world, &a, secs).await;
        a.sign_out(SignOut::Hard).await.unwrap();
        assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut));
        pass(60 * SEC).await;
        assert_eq!((world.store.record(), world.store.mark()), (None, 3), "{secs} s");
        assert_eq!(world.issuer.books().revocations, ["r1.1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn case_40_a_hard_sign_out_while_another_process_is_in_mid_exchange_leaves_no_record() {
    for secs in [3, 20] {
        let (world, a) = granted().await;
        let b = world.open().await;
        let flight = in_mid_exchange(&world, &a, secs).await;
        b.sign_out(SignOut::Hard).await.unwrap();
        assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut));
        pass(60 * SEC).await;
        assert_eq!((world.store.record(), world.store.mark()), (None, 3), "{secs} s");
    }
}

#[tokio::test(start_paused = true)]
async fn case_40_a_soft_sign_out_while_another_process_is_in_mid_exchange_keeps_the_profile() {
    let (world, a) = granted().await;
    let b = world.open().await;
    let flight = in_mid_exchange(&world, &a, 3).await;
    b.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut));
    pass(60 * SEC).await;
    assert_eq!(
        (world.store.field("standing"), world.store.field("roles")),
        (json!("signed_out"), json!(["technician"]))
    );
}

#[tokio::test(start_paused = true)]
async fn case_38_a_refresh_that_fails_after_the_sign_out_says_signed_out_and_writes_no_failure() {
    let failures: [fn() -> RefreshError; 4] = [
        || RefreshError::transient("reset"),
        || failure(FailureKind::InvalidGrant, 400),
        || failure(FailureKind::Misconfigured, 400),
        || failure(FailureKind::Unrecognized, 400),
    ];
    for error in failures {
        let (world, a) = granted().await;
        world.issuer.fail(error);
        let flight = in_mid_exchange(&world, &a, 5).await;
        a.sign_out(SignOut::Soft).await.unwrap();
        assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut));
        stays_out(&world, &[&a]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn case_22_a_lock_signal_after_the_sign_out_locks_nothing() {
    let (world, a) = granted().await;
    world.issuer.fail(|| failure(FailureKind::AccountDisabled, 400));
    let flight = in_mid_exchange(&world, &a, 5).await;
    a.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut), "a flight that ends afterwards publishes nothing");
    assert_eq!(state(&a), "signed out here");
}

fn signed_out(event: &AuthEvent) -> bool {
    matches!(event, AuthEvent::StateChanged { state: AuthState::SignedOut(_), .. })
}

#[tokio::test(start_paused = true)]
async fn case_38_a_sign_in_in_the_meantime_is_untouched() {
    // 5 s: the sign-in has the lease before it goes ahead without; 20 s: the old flight holds it for longer.
    for (secs, sign_out_first) in [(5, true), (5, false), (20, true), (20, false)] {
        let (world, a) = granted().await;
        let flight = in_mid_exchange(&world, &a, secs).await;
        if sign_out_first {
            a.sign_out(SignOut::Soft).await.unwrap();
        }
        a.sign_in(anew()).await.unwrap();
        let what = format!("{secs} s, signed out first: {sign_out_first}");
        let outs = |world: &World| world.log.count(signed_out);
        let before = outs(&world);
        assert_eq!(token(&a).await, Ok("new".into()), "{what}");
        let _ = flight.await.unwrap();
        pass(SEC).await;
        assert_eq!(outs(&world), before, "{what}: the old flight ended the new session");
        assert_eq!(token(&a).await, Ok("new".into()), "{what}");
        stays_in(&world, &a).await;
    }
}

#[tokio::test(start_paused = true)]
async fn case_40_a_sign_in_elsewhere_in_the_meantime_is_untouched() {
    for secs in [5, 20] {
        let (world, a) = granted().await;
        let b = world.open().await;
        let flight = in_mid_exchange(&world, &a, secs).await;
        b.sign_out(SignOut::Soft).await.unwrap();
        b.sign_in(anew()).await.unwrap();
        assert_eq!(token(&b).await, Ok("new".into()));
        assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut));
        stays_in(&world, &b).await;
        assert_eq!((token(&a).await, state(&a)), (Ok("new".into()), "active"), "the old process sees it too");
    }
}

#[tokio::test(start_paused = true)]
async fn case_40_a_flight_that_is_stopped_past_its_lease_brings_nothing_back() {
    let world = World::new(Flaky::leased());
    let (a, b) = (world.open().await, world.open().await);
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    let flight = in_mid_exchange(&world, &a, 20).await;
    world.store.lose_leases();
    assert_eq!(kind(b.sign_out(SignOut::Soft).await), Ok(()));
    assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut));
    stays_out(&world, &[&a, &b]).await;
}

#[tokio::test(start_paused = true)]
async fn case_40_the_first_process_ends_in_mid_exchange_and_everybody_is_signed_out() {
    let (world, a) = granted().await;
    world.issuer.script(Script::Hang);
    let flight = in_mid_exchange(&world, &a, 60).await;
    let b = world.open().await;
    b.sign_out(SignOut::Soft).await.unwrap();
    drop((flight, a));
    world.store.lose_leases(); // the process is gone
    pass(SEC).await;
    assert_eq!((state(&b), state(&world.open().await), world.store.mark()), ("signed out here", "signed out here", 3));
}

#[tokio::test(start_paused = true)]
async fn p13_a_sign_out_ends_an_unsaved_set_and_has_it_revoked() {
    let (world, a) = granted().await;
    world.store.nth(Call::Save, 1, Fault::Fail(StoreErrorKind::Unavailable));
    a.refresh().await.unwrap();
    assert_eq!(state(&a), "active, unsaved");
    a.sign_out(SignOut::Soft).await.unwrap();
    stays_out(&world, &[&a]).await;
    assert_eq!(world.issuer.books().revocations, ["r1.1"]);
    assert!(world.store.is_free());
}

#[tokio::test(start_paused = true)]
async fn p13_a_sign_out_elsewhere_between_save_and_publish_is_seen() {
    let (world, a) = granted().await;
    let b = world.open().await;
    let stop = world.store.pause(Call::Mark, 2); // the one after the save
    let flight = tokio::spawn({
        let a = a.clone();
        async move { kind(a.refresh().await) }
    });
    stop.reached().await;
    assert_eq!(world.refresh_token(), "r1.1", "it is saved, below the mark");
    b.sign_out(SignOut::Soft).await.unwrap();
    stop.go_on();
    assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut));
    stays_out(&world, &[&a, &b]).await;
}
