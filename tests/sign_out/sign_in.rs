//! The beginning of a session: cases 12 and 40 of a sign-in, sessions that start by themselves, grants.

use crate::{
    DOWN,
    flaky::{Call, Fault, Flaky},
    granted, grants,
    kit::{Issuer, SEC},
    world::{World, kind, pass, state, timed, token},
};
use serde_json::json;
use std::time::Duration;
use tower_reauth::{
    AuthEvent, ErrorKind, Grants, LockCause, RefreshError, RefreshGrant, Refresher, Session, SessionBuilder,
    SessionStore as _, SignIn, SignOut, Tokens, gate_fn,
};

#[tokio::test(start_paused = true)]
async fn a_sign_in_is_durable_and_told_to_everybody_when_it_returns() {
    let (world, _a) = granted().await;
    let record = world.store.record().unwrap();
    assert_eq!(
        (&record["refresh_token"], &record["epoch"], &record["generation"]),
        (&"r1.0".into(), &2.into(), &1.into())
    );
    assert_eq!((&record["roles"], world.store.mark()), (&json!(["technician"]), 2));
    let other = world.open().await;
    assert_eq!((state(&other), token(&other).await), ("active", Ok("a1.0".into())));
}

#[tokio::test(start_paused = true)]
async fn another_subject_than_the_accounts_is_refused_and_changes_nothing() {
    let (world, a) = granted().await;
    let before = world.store.record();
    let bob = SignIn::new(Tokens::new("bobs").with_refresh_token("r-bob")).subject("bob");
    assert_eq!(kind(a.sign_in(bob).await), Err(ErrorKind::Misconfigured));
    assert_eq!((token(&a).await, world.store.record(), world.store.mark()), (Ok("a1.0".into()), before, 2));
    assert_eq!(kind(a.sign_in(SignIn::new(world.issuer.sign_in()).subject("alice")).await), Ok(()));
}

/// Signs in while `fault` stands at `call`, which is healed 30 s later.
async fn sign_in_in_trouble(call: Call, fault: Fault) -> (World, Session, Duration) {
    let world = World::new(Flaky::new());
    let a = world.open().await;
    world.store.always(call, fault);
    let (outcome, took) = timed(a.sign_in(world.issuer.sign_in())).await;
    assert_eq!((kind(outcome), token(&a).await, state(&a)), (Ok(()), Ok("a1.0".into()), "active, unsaved"), "{call:?}");
    pass(30 * SEC).await;
    world.store.heal();
    pass(30 * SEC).await;
    assert_eq!((state(&a), world.refresh_token()), ("active", "r1.0".into()), "{call:?}");
    let again = world.open().await;
    assert_eq!((state(&again), token(&again).await), ("active", Ok("a1.0".into())), "{call:?}");
    assert_eq!(world.store.mark() % 2, 0);
    (world, a, took)
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_without_the_lease_goes_ahead_after_10_s_and_is_saved_later() {
    let (world, _a, took) = sign_in_in_trouble(Call::Lease, Fault::Hang).await;
    assert!(10 * SEC <= took && took <= 11 * SEC, "{took:?}");
    assert_eq!(world.log.count(|event| matches!(event, AuthEvent::Saved { .. })), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_whose_save_fails_is_published_unsaved_and_saved_later() {
    for (call, fault) in
        [(Call::Save, DOWN), (Call::Save, Fault::ApplyAndFail), (Call::Load, DOWN), (Call::Lease, DOWN)]
    {
        sign_in_in_trouble(call, fault).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_whose_mark_cannot_be_raised_is_unsaved_until_it_is() {
    let (world, _a, _) = sign_in_in_trouble(Call::Raise, DOWN).await;
    assert_eq!(world.store.mark(), 2, "the mark is what tells the others");
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_takes_no_more_than_10_s_even_if_the_whole_store_hangs() {
    let world = World::new(Flaky::new());
    let a = world.open().await;
    for call in [Call::Lease, Call::Load, Call::Mark, Call::Raise, Call::Save] {
        world.store.always(call, Fault::Hang);
    }
    let (outcome, took) = timed(a.sign_in(world.issuer.sign_in())).await;
    assert_eq!((kind(outcome), token(&a).await), (Ok(()), Ok("a1.0".into())));
    assert!(took <= 11 * SEC, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unsaved_sign_in_wins_over_whoever_writes_in_the_meantime() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let b = world.open().await;
    world.store.after(Call::Lease, 0, DOWN);
    a.sign_in(Tokens::new("new").with_refresh_token("r-new").with_expires_in(1000 * SEC)).await.unwrap();
    assert_eq!((state(&a), world.store.mark(), world.refresh_token()), ("active, unsaved", 4, "r1.0".into()));
    world.store.heal();
    assert_eq!(kind(b.refresh().await), Err(ErrorKind::SignedOut), "the mark is raised: the old epoch is over");
    pass(30 * SEC).await;
    assert_eq!((state(&a), world.refresh_token(), world.books().0), ("active", "r-new".into(), 0));
    assert_eq!((token(&b).await, state(&b)), (Ok("new".into()), "active"));
}

/// The lease is busy for longer than a sign-in waits, and what stands in the store will never be readable: it is put aside
/// as soon as the lease can be had, and does not keep the sign-in from being saved.
#[tokio::test(start_paused = true)]
async fn p05_a_sign_in_is_saved_in_the_place_of_a_record_that_cannot_be_read() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let key = world.store.keys()[0].clone();
    world.store.put(&key, b"garbage");
    let busy = world.store.lease(&key, SEC).await.unwrap();
    a.sign_in(Tokens::new("new").with_refresh_token("r-new").with_expires_in(1000 * SEC)).await.unwrap();
    assert_eq!((state(&a), world.store.count(Call::SetAside)), ("active, unsaved", 0));
    drop(busy);
    pass(60 * SEC).await;
    assert_eq!((state(&a), world.refresh_token()), ("active", "r-new".into()));
    assert_eq!(world.store.count(Call::SetAside), 1);
}

/// A sign-out since: what cannot be read stays where it is.
#[tokio::test(start_paused = true)]
async fn an_unsaved_sign_in_that_was_signed_out_puts_nothing_aside() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let key = world.store.keys()[0].clone();
    world.store.put(&key, b"garbage");
    let busy = world.store.lease(&key, SEC).await.unwrap();
    a.sign_in(Tokens::new("new").with_refresh_token("r-new").with_expires_in(1000 * SEC)).await.unwrap();
    world.store.raise_epoch(&key, 5).await.unwrap();
    drop(busy);
    pass(60 * SEC).await;
    assert_eq!(world.store.count(Call::SetAside), 0);
}

#[tokio::test(start_paused = true)]
async fn a_mark_above_the_one_asked_for_means_again() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let b = world.open().await;
    let stop = world.store.pause(Call::Raise, 0); // A's sign-in is saved as 4, and has not told yet
    let signing_in = tokio::spawn({
        let (a, tokens) = (a.clone(), Tokens::new("a-new").with_refresh_token("r-a").with_expires_in(1000 * SEC));
        async move { kind(a.sign_in(tokens).await) }
    });
    stop.reached().await;
    b.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(world.store.mark(), 5, "the record's epoch counts");
    stop.go_on();
    assert_eq!(signing_in.await.unwrap(), Ok(()));
    pass(30 * SEC).await;
    assert_eq!((world.store.mark(), world.store.field("epoch"), state(&a)), (6, json!(6), "active"));
    assert_eq!(token(&a).await, Ok("a-new".into()));
}

/// The sign-out was called before it knew of the sign-in elsewhere, and is the last that everybody hears.
#[tokio::test(start_paused = true)]
async fn p13_a_mark_above_a_sign_outs_means_again() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let b = world.open().await;
    let stop = world.store.pause(Call::Raise, 0); // A has read a mark of 2, and is about to raise it to 3
    let signing_out = tokio::spawn({
        let a = a.clone();
        async move { kind(a.sign_out(SignOut::Soft).await) }
    });
    stop.reached().await;
    b.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!(world.store.mark(), 4);
    stop.go_on();
    assert_eq!(signing_out.await.unwrap(), Ok(()));
    pass(30 * SEC).await;
    assert_eq!((world.store.mark(), state(&a)), (5, "signed out here"));
    assert!(world.open().await.access_token().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn p13_a_mark_above_a_resumptions_means_again() {
    let world = World::new(Flaky::new());
    let (a, b) = (machine(&world).open("svc").await.unwrap(), machine(&world).open("svc").await.unwrap());
    a.sign_out(SignOut::Soft).await.unwrap();
    let stop = world.store.pause(Call::Raise, 0); // A is about to raise the mark from 1 to 2
    let resuming = tokio::spawn({
        let a = a.clone();
        async move { kind(a.resume().await) }
    });
    stop.reached().await;
    b.lock(LockCause::Application).await.unwrap();
    b.resume().await.unwrap();
    b.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(world.store.mark(), 3);
    stop.go_on();
    assert_eq!(resuming.await.unwrap(), Ok(()));
    assert_eq!((world.store.mark(), state(&a)), (4, "active"));
    assert!(token(&a).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_ends_the_cool_down_and_the_failure() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.issuer.fail(|| RefreshError::not_sent("refused").retry_after(600 * SEC));
    assert!(a.refresh().await.is_err());
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!((kind(a.refresh().await), world.books()), (Ok(()), (2, 0)));
}

#[tokio::test(start_paused = true)]
async fn grants_are_durable_when_they_return_and_reach_the_gate() {
    let world = World::new(Flaky::new());
    let lead_only = || {
        gate_fn(|cx| match cx.has_role("lead") {
            true => Ok(()),
            false => Err(cx.deny(tower_reauth::DenyReason::MissingGrant)),
        })
    };
    let a = world.builder().gate(lead_only()).open("alice").await.unwrap();
    assert_eq!(kind(a.set_grants(grants()).await), Err(ErrorKind::SignedOut), "nobody is signed in");
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert!(a.authorize("x").is_err());
    a.set_grants(Grants::new().role("lead")).await.unwrap();
    assert!(a.authorize("x").is_ok() && world.store.field("roles") == json!(["lead"]));
    assert_eq!((world.store.field("epoch"), world.store.field("generation")), (json!(2), json!(1)));
    let again = world.builder().gate(lead_only()).open("alice").await.unwrap();
    a.refresh().await.unwrap();
    assert!(a.authorize("x").is_ok() && again.authorize("x").is_ok(), "a refresh keeps them");

    world.store.always(Call::Save, DOWN);
    assert_eq!(kind(a.set_grants(Grants::new()).await), Err(ErrorKind::Store));
    assert!(a.authorize("x").is_ok() && world.store.field("roles") == json!(["lead"]), "nothing has changed");
    world.store.heal();
    again.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(kind(a.set_grants(Grants::new()).await), Err(ErrorKind::SignedOut));
    assert_eq!(world.store.field("roles"), json!(["lead"]));
}

/// Client credentials: no refresh token.
struct Machine(Issuer);

impl Refresher for Machine {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        assert!(grant.refresh_token().is_none());
        let mut books = self.0.books();
        books.exchanges += 1;
        Ok(Tokens::new(format!("m{}", books.exchanges)).with_expires_in(100 * SEC))
    }

    fn needs_refresh_token(&self) -> bool {
        false
    }
}

fn machine(world: &World) -> SessionBuilder {
    Session::builder(Machine(world.issuer.clone())).store(world.store.clone()).clock(world.clock.clone())
}

#[tokio::test(start_paused = true)]
async fn client_credentials_start_by_themselves_and_share_what_they_got() {
    let world = World::new(Flaky::new());
    let (a, b) = (machine(&world).open("svc").await.unwrap(), machine(&world).open("svc").await.unwrap());
    assert_eq!(state(&a), "active");
    assert_eq!((token(&a).await, token(&b).await), (Ok("m1".into()), Ok("m1".into())));
    world.expire().await;
    assert_eq!((token(&b).await, token(&a).await), (Ok("m2".into()), Ok("m2".into())));
    assert_eq!((world.store.mark(), world.store.field("journal")), (0, json!(null)), "there is nothing to lose");
    let again = machine(&world).open("svc").await.unwrap();
    assert_eq!((state(&again), token(&again).await), ("active", Ok("m2".into())));
}

#[tokio::test(start_paused = true)]
async fn client_credentials_stay_out_after_a_sign_out_or_a_lock_until_resume() {
    for (soft, hard) in [(true, false), (false, true), (false, false)] {
        let world = World::new(Flaky::new());
        let a = machine(&world).open("svc").await.unwrap();
        token(&a).await.unwrap();
        let out = match (soft, hard) {
            (true, _) => a.sign_out(SignOut::Soft).await,
            (_, true) => a.sign_out(SignOut::Hard).await,
            _ => a.lock(LockCause::Application).await,
        };
        assert_eq!(kind(out), Ok(()));
        let again = machine(&world).open("svc").await.unwrap();
        for session in [&a, &again] {
            assert!(token(session).await.is_err() && session.refresh().await.is_err());
        }
        assert_eq!((world.books().0, world.store.mark() % 2), (1, 1));
        a.resume().await.unwrap();
        assert_eq!((state(&a), token(&a).await, world.store.mark() % 2), ("active", Ok("m2".into()), 0));
        pass(5 * SEC).await;
        assert_eq!(token(&again).await, Ok("m2".into()), "and the other process sees it");
        assert_eq!(token(&machine(&world).open("svc").await.unwrap()).await, Ok("m2".into()));
        a.resume().await.unwrap();
        assert_eq!(token(&a).await, Ok("m2".into()), "does nothing if it is not signed out");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_needs_a_sign_in_cannot_be_resumed() {
    let (world, a) = granted().await;
    a.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!((kind(a.resume().await), world.store.mark()), (Err(ErrorKind::SignedOut), 3));
}

/// P13: what failed has changed nothing, so the sign-out is told as soon as the store is back.
#[tokio::test(start_paused = true)]
async fn p13_a_resumption_that_fails_does_not_call_off_a_sign_out_that_the_store_was_not_told_of() {
    let world = World::new(Flaky::new());
    let a = machine(&world).open("svc").await.unwrap();
    token(&a).await.unwrap();
    world.store.always(Call::Raise, DOWN);
    assert_eq!(kind(a.sign_out(SignOut::Soft).await), Err(ErrorKind::Store));
    assert_eq!(kind(a.resume().await), Err(ErrorKind::Store));
    assert_eq!(state(&a), "signed out here");
    world.store.heal();
    pass(60 * SEC).await;
    assert_eq!(state(&a), "signed out here");
    assert_eq!(world.store.mark() % 2, 1, "the others are told");
}
