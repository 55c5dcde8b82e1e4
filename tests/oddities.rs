//! What should not happen: hooks, models and clocks that panic or lie, tokens without a refresh token, stores that hang
//! or hint without end. Nobody is kept signed in by it, nobody waits for ever, nothing spins.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start tasks and read tokio's clock

#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/kit.rs"]
mod kit;
#[path = "support/world.rs"]
mod world;

use flaky::{Call, Fault, Flaky, FlakyLease};
use futures_util::FutureExt as _;
use kit::{Log, SEC, Seen, get, layered, send, start};
use serde_json::{Value, json};
use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tower_reauth::{
    AccountKey, Clock, ErrorKind, FailureClassifier, FailureKind, Grants, LockCause, ManualClock, RefreshError,
    Session, SessionBuilder, SessionStore, SignOut, StoreError, StoreErrorKind, Stored, Tokens, Version, observer_fn,
};
use world::{World, failure, kind, pass, state, timed, token};

const DOWN: Fault = Fault::Fail(StoreErrorKind::Unavailable);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

async fn signed_in(world: &World, builder: SessionBuilder) -> Session {
    let session = builder.open("alice").await.unwrap();
    session.sign_in(world.issuer.sign_in()).await.unwrap();
    session
}

// ===== what panics =====

fn with_panicking_hooks(world: &World) -> SessionBuilder {
    world.builder().on_wipe(|_| panic!("a hook")).on_lock(|_, _| panic!("a hook"))
}

#[tokio::test(start_paused = true)]
async fn p13_hooks_that_panic_keep_nobody_signed_in() {
    let world = World::new(Flaky::new());
    let a = signed_in(&world, with_panicking_hooks(&world)).await;
    assert_eq!(kind(a.sign_out(SignOut::Hard).await), Ok(()));
    pass(20 * SEC).await;
    assert_eq!((world.store.record(), world.store.mark(), state(&a)), (None, 3, "signed out here"));
    assert_eq!(world.issuer.books().revocations, ["r1.0"]);

    a.sign_in(world.issuer.sign_in()).await.unwrap();
    assert_eq!(kind(a.lock(LockCause::Application).await), Ok(()));
    assert_eq!((state(&a), state(&world.open().await)), ("locked", "locked"));
}

#[tokio::test(start_paused = true)]
async fn case_22_a_lock_hook_that_panics_in_a_refresh_keeps_nobody_signed_in() {
    let world = World::new(Flaky::new());
    let a = signed_in(&world, with_panicking_hooks(&world)).await;
    world.issuer.fail(|| failure(FailureKind::AccountDisabled, 400));
    assert_eq!((kind(a.refresh().await), state(&a)), (Err(ErrorKind::Locked), "disabled"));
    assert_eq!((state(&world.open().await), world.refresh_token()), ("disabled", Value::Null));
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_changes_nothing_and_the_next_one_is_told() {
    let (world, log) = (World::new(Flaky::new()), Log::default());
    let builder = world.builder().observer(observer_fn(|_| panic!("an observer")));
    let a = signed_in(&world, log.attach(builder)).await;
    assert_eq!((kind(a.refresh().await), token(&a).await), (Ok(()), Ok("a1.1".into())));
    a.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!((log.all().len(), log.all().len() >= 3), (world.log.all().len(), true));
}

#[tokio::test(start_paused = true)]
async fn case_30_a_connectivity_model_that_panics_knows_nothing() {
    let (world, armed) = (World::new(Flaky::new()), Arc::<AtomicBool>::default());
    let trigger = armed.clone();
    let model = move || {
        assert!(!trigger.load(Relaxed), "a model that panics");
        Some(true)
    };
    let a = signed_in(&world, world.builder().connectivity(model)).await;
    armed.store(true, Relaxed);
    assert_eq!((kind(a.refresh().await), token(&a).await), (Ok(()), Ok("a1.1".into())));
    assert_eq!((world.refresh_token(), state(&a), world.store.is_free()), ("r1.1".into(), "active", true));
    world.expire().await;
    let (seen, issuer) = (Seen::default(), world.issuer.clone());
    assert_eq!(send(&layered(&a, &issuer, &seen), get("/")).await.unwrap(), 200);
    assert_eq!(world.books(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_has_no_say() {
    for (fault, outcome, after) in [
        (FailureKind::InvalidGrant, ErrorKind::ReauthRequired, "active, reauth pending"),
        (FailureKind::Unrecognized, ErrorKind::Unavailable, "active"),
        (FailureKind::Misconfigured, ErrorKind::Misconfigured, "active"),
    ] {
        let world = World::new(Flaky::new());
        let classifier = FailureClassifier::new().classify_with(|_| panic!("a classifier"));
        let a = signed_in(&world, world.builder().classifier(classifier)).await;
        world.issuer.fail(move || failure(fault, 400));
        assert_eq!((kind(a.refresh().await), state(&a)), (Err(outcome), after), "{fault:?}");
        assert!(world.store.is_free() && world.books() == (1, 0));
        assert_eq!(token(&a).await, Ok("a1.0".into()), "{fault:?}");
    }
}

/// A clock that panics while it is `armed`.
struct Cracked {
    clock: ManualClock,
    armed: Arc<AtomicBool>,
}

impl Clock for Cracked {
    fn now(&self) -> SystemTime {
        assert!(!self.armed.load(Relaxed), "a clock that panics");
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        assert!(!self.armed.load(Relaxed), "a clock that panics");
        self.clock.monotonic()
    }
}

#[tokio::test(start_paused = true)]
async fn p02_a_clock_that_panics_leaves_the_session_in_working_order() {
    let (world, armed) = (World::new(Flaky::new()), Arc::<AtomicBool>::default());
    let clock = Cracked { clock: world.clock.clone(), armed: armed.clone() };
    let a = signed_in(&world, world.builder().clock(clock)).await;
    let exchange = a.clone();
    world.issuer.books().takes = 5 * SEC;
    let flight = tokio::spawn(async move { kind(exchange.refresh().await) });
    pass(SEC).await;
    armed.store(true, Relaxed);
    assert!(AssertUnwindSafe(a.access_token()).catch_unwind().await.is_err());
    pass(10 * SEC).await;
    armed.store(false, Relaxed);
    let outcome = tokio::time::timeout(60 * SEC, flight).await.expect("it hangs").unwrap();
    assert!(matches!(outcome, Err(ErrorKind::Aborted)), "{outcome:?}");
    pass(2 * SEC).await;
    world.issuer.script(kit::Script::Answer(world::tokens(1)));
    assert_eq!((kind(a.refresh().await), token(&a).await), (Ok(()), Ok("a1.1".into())));
}

// ===== clocks and times that lie =====

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_was_years_ahead_at_the_sign_in_makes_no_token_immortal() {
    let world = World::new(Flaky::new());
    world.clock.set_wall(start() + 10 * YEAR);
    let a = signed_in(&world, world.builder()).await;
    world.clock.set_wall(start());
    world.clock.advance(1000 * SEC);
    for session in [&a, &world.open().await] {
        assert_eq!((token(session).await, world.books()), (Ok("a1.1".into()), (1, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn step_3_a_journal_with_a_deadline_that_no_clock_can_mean_is_waited_for_no_longer_than_a_term() {
    let (world, a) = World::signed_in(Flaky::leased()).await;
    for deadline in [json!(i64::MAX), json!(1_900_000_000_000_000_i64)] {
        let exchanges = world.books().0;
        world.store.edit(|record| {
            record["journal"] = json!({ "owner": "somebody", "deadline": deadline, "attempts": 1 });
        });
        let (outcome, took) = timed(a.refresh()).await;
        assert_eq!((kind(outcome), world.books()), (Ok(()), (exchanges + 1, 0)), "{deadline}");
        assert!(40 * SEC <= took && took <= 47 * SEC, "{deadline}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn p09_a_failure_that_ends_in_years_stops_nobody() {
    for bogus in [json!(i64::MAX), json!(1_900_000_000_000_000_i64)] {
        let (world, a) = World::signed_in(Flaky::new()).await;
        world.issuer.fail(|| failure(FailureKind::Transient, 503).retry_after(30 * SEC));
        assert!(a.refresh().await.is_err());
        world.store.edit(|record| {
            record["failure"]["until"] = bogus.clone();
            record["failure"]["told_until"] = bogus.clone();
        });
        let again = world.open().await;
        assert_eq!((kind(again.refresh().await), world.books()), (Ok(()), (2, 0)), "{bogus}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_time_in_a_record_breaks_a_session() {
    for member in ["access_sent_at", "access_expires_at", "refresh_expires_at", "grants_at", "auth_time"] {
        for bogus in [i64::MIN, -1, 0, i64::MAX] {
            let (world, _a) = World::signed_in(Flaky::new()).await;
            world.store.edit(|record| record[member] = json!(bogus));
            let again = world.open().await;
            assert!(token(&again).await.is_ok(), "{member}: {bogus}");
            let _ = again.authorize("x");
            assert_eq!(kind(again.refresh().await), Ok(()), "{member}: {bogus}");
            assert_eq!(world.books().1, 0);
        }
    }
}

// ===== tokens without a refresh token =====

#[tokio::test(start_paused = true)]
async fn p08_tokens_without_a_refresh_token_are_used_up_and_nobody_asks_for_others() {
    for lifetime in [None, Some(100 * SEC)] {
        let world = World::new(Flaky::new());
        let a = world.builder().background_refresh(true).open("alice").await.unwrap();
        let tokens = Tokens::new("a1.0");
        a.sign_in(lifetime.map_or(tokens.clone(), |lifetime| tokens.with_expires_in(lifetime))).await.unwrap();
        assert_eq!(kind(a.refresh().await), Err(ErrorKind::ReauthRequired));
        assert_eq!((token(&a).await, state(&a)), (Ok("a1.0".into()), "active"), "nobody refused anything");
        let (seen, issuer) = (Seen::default(), world.issuer.clone());
        let api = layered(&a, &issuer, &seen);
        let again = world.open().await;
        pass(95 * SEC).await; // in the windows, if there are any
        world.store.forget_calls();
        for _ in 0..20 {
            assert_eq!(send(&api, get("/")).await.unwrap(), 200);
        }
        pass(SEC).await;
        assert_eq!((world.store.calls(), token(&again).await), (vec![], Ok("a1.0".into())));
        match lifetime {
            Some(_) => pass(10 * SEC).await,
            None => world.issuer.expire_all(),
        }
        let refused = api.clone();
        let outcome = send(&refused, get("/")).await.map_err(|error| error.kind());
        match lifetime {
            Some(_) => assert_eq!(outcome, Err(ErrorKind::ReauthRequired)),
            None => assert_eq!(outcome.unwrap(), 401),
        }
        assert_eq!((token(&a).await, state(&a)), (Err(ErrorKind::ReauthRequired), "revoked"));
        assert_eq!((world.books().0, state(&world.open().await)), (0, "revoked"));
    }
}

// ===== stores that hang, or fail for long =====

fn every(world: &World, fault: &Fault) {
    for call in [Call::Load, Call::Lease, Call::Renew, Call::Save, Call::Remove, Call::Mark, Call::Raise] {
        world.store.always(call, fault.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn p13_a_sign_out_is_seen_here_at_once_though_the_store_hangs() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    every(&world, &Fault::Hang);
    let (seen, issuer) = (Seen::default(), world.issuer.clone());
    let api = layered(&a, &issuer, &seen);
    let leaving = tokio::spawn({
        let a = a.clone();
        async move { timed(a.sign_out(SignOut::Soft)).await }
    });
    pass(SEC / 100).await;
    assert_eq!(state(&a), "signed out here");
    let (refused, took) = timed(send(&api, get("/"))).await;
    assert_eq!((refused.unwrap_err().kind(), seen.len()), (ErrorKind::SignedOut, 0));
    assert!(took <= 30 * SEC, "every call of a store is bounded: {took:?}");
    let (outcome, took) = leaving.await.unwrap();
    assert_eq!(kind(outcome), Err(ErrorKind::Store));
    assert!(took <= 31 * SEC, "{took:?}");
    world.store.heal();
    pass(120 * SEC).await;
    assert_eq!((world.store.mark(), state(&world.open().await)), (3, "signed out here"), "it is told later");
    assert!(world.refresh_token().is_null());
    assert_eq!(world.issuer.books().revocations, ["r1.0"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_at_the_start_is_an_error_after_10_s() {
    for call in [Call::Load, Call::Mark] {
        let (world, _a) = World::signed_in(Flaky::new()).await;
        world.store.always(call, Fault::Hang);
        let (opened, took) = timed(world.builder().open("alice")).await;
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Store, "{call:?}");
        assert!(took <= 11 * SEC, "{call:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn p09_the_pause_grows_when_only_the_store_fails() {
    for (call, fresh) in [(Call::Save, true), (Call::Save, false), (Call::Lease, true), (Call::Mark, false)] {
        let world = World::new(Flaky::new());
        world.issuer.books().lifetime = Some(if fresh { 100_000 * SEC } else { SEC });
        let a = signed_in(&world, world.builder()).await;
        world.store.always(call, DOWN);
        pass(2 * SEC).await;
        for least in [1, 2, 4, 8, 16, 32, 60, 60] {
            let error = a.refresh().await.unwrap_err();
            let pause = error.retry_after().expect("a pause");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(SEC * least <= pause && pause <= SEC * least * 3 / 2, "{call:?}: {least} s, {pause:?}");
            assert!(a.refresh().await.unwrap_err().retry_after().unwrap() <= pause);
            assert_eq!((token(&a).await.is_ok(), world.books().0), (fresh, 0));
            pass(pause + SEC / 10).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p09_grants_do_not_end_a_cool_down() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.issuer.fail(|| RefreshError::transient("busy").retry_after(50 * SEC));
    assert!(a.refresh().await.is_err());
    a.set_grants(Grants::new().role("lead")).await.unwrap();
    world.store.forget_calls();
    let error = a.refresh().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.retry_after().unwrap() > 40 * SEC, "{error:?}");
    assert_eq!((world.store.calls(), world.books().0), (vec![], 1));
}

// ===== what must not spin =====

#[tokio::test(start_paused = true)]
async fn p05_keepers_do_not_spin_however_many_there_are() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    world.store.nth(Call::Save, 1, DOWN);
    world.store.after(Call::Save, 2, DOWN);
    a.refresh().await.unwrap();
    every(&world, &DOWN);
    for _ in 0..4 {
        assert_eq!(kind(a.sign_in(world.issuer.sign_in()).await), Ok(()));
    }
    world.store.forget_calls();
    pass(60 * SEC).await;
    let calls = world.store.calls().len();
    assert!(calls < 300, "{calls} calls in a minute");
    assert_eq!(state(&a), "active, unsaved");
}

/// A store whose hints come without end, or panic.
#[derive(Clone)]
struct Hinting {
    store: Flaky,
    panics: bool,
}

impl SessionStore for Hinting {
    type Lease = FlakyLease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        self.store.load(key).await
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<FlakyLease, StoreError> {
        self.store.lease(key, ttl).await
    }

    async fn save(&self, lease: &mut FlakyLease, old: Option<&Version>, bytes: &[u8]) -> Result<Version, StoreError> {
        self.store.save(lease, old, bytes).await
    }

    async fn remove(&self, lease: &mut FlakyLease, old: Option<&Version>) -> Result<(), StoreError> {
        self.store.remove(lease, old).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        self.store.raise_epoch(key, to).await
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.store.accounts().await
    }

    async fn changed(&self, _: &AccountKey) {
        assert!(!self.panics, "a store whose hints panic");
    }
}

/// How often three processes look into the store in 2 s while a fourth holds the lease.
async fn looks_in_2_s(world: &World, open: impl Fn() -> SessionBuilder) -> usize {
    world.issuer.books().takes = 20 * SEC;
    let first = signed_in(world, open()).await;
    let mut all = vec![first.clone()];
    let flight = tokio::spawn(async move { kind(first.refresh().await) });
    pass(SEC).await;
    for _ in 0..3 {
        let session = open().open("alice").await.unwrap();
        all.push(session.clone());
        tokio::spawn(async move { kind(session.refresh().await) });
    }
    pass(SEC).await;
    let before = world.store.count(Call::Load);
    pass(2 * SEC).await;
    let looks = world.store.count(Call::Load) - before;
    assert_eq!(flight.await.unwrap(), Ok(()));
    pass(SEC).await;
    for session in all {
        assert_eq!(token(&session).await, Ok("a1.1".into()));
    }
    assert_eq!(world.books(), (1, 0));
    looks
}

#[tokio::test(start_paused = true)]
async fn step_1_those_who_wait_for_the_lease_do_not_wake_each_other() {
    let world = World::new(Flaky::new());
    let looks = looks_in_2_s(&world, || world.builder()).await;
    assert!((3..=30).contains(&looks), "{looks}: each four times a second");
}

#[tokio::test(start_paused = true)]
async fn step_1_a_store_that_hints_without_end_or_panics_is_not_asked_without_end() {
    for panics in [false, true] {
        let world = World::new(Flaky::new());
        let looks =
            looks_in_2_s(&world, || world.builder().store(Hinting { store: world.store.clone(), panics })).await;
        assert!((3..=400).contains(&looks), "{looks}, panics: {panics}");
    }
}

#[tokio::test(start_paused = true)]
async fn p09_a_session_that_has_ended_looks_into_the_store_with_pauses_only() {
    for lock in [false, true] {
        let (world, a) = World::signed_in(Flaky::new()).await;
        match lock {
            true => a.lock(LockCause::Application).await.unwrap(),
            false => a.sign_out(SignOut::Soft).await.unwrap(),
        }
        let _guard = a.keep_fresh();
        let (seen, issuer) = (Seen::default(), world.issuer.clone());
        let api = layered(&a, &issuer, &seen);
        world.store.forget_calls();
        for _ in 0..600 {
            assert!(send(&api, get("/")).await.is_err() && token(&a).await.is_err());
            pass(SEC / 10).await;
        }
        let looks = world.store.count(Call::Load);
        assert!((1..=10).contains(&looks), "{looks} times in a minute, locked: {lock}");
    }
}
