//! Case 36: what happens to one account, through one service, and what the others notice of it: nothing (P12).

use crate::{
    flaky::Flaky,
    kind_of,
    kit::{Api, SEC, get, post},
    pin::{HOUR, Pin, unlocked},
    rig,
    town::{MINUTE, Town, named, send, settle},
    world::{state, token, word},
};
use futures_util::future::join_all;
use http::StatusCode;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_reauth::{
    AuthError, AuthEvent, AuthState, DenyReason, ErrorKind, FileStore, LockCause, MemoryStore, RefreshError, SignOut,
    gate_fn,
};

async fn both(api: &Api) -> [Result<StatusCode, ErrorKind>; 2] {
    let send = async |subject: &str| kind_of(send(api, named(get("/"), subject)).await);
    tokio::join!(send("alice"), send("bob")).into()
}

const OK: Result<StatusCode, ErrorKind> = Ok(StatusCode::OK);
const UNAVAILABLE: Result<StatusCode, ErrorKind> = Err(ErrorKind::Unavailable);

#[tokio::test(start_paused = true)]
async fn case_36_two_accounts_refresh_at_the_same_time() {
    let town = Town::new(MemoryStore::new()).await;
    let ((a_started, a_hold), (b_started, b_hold)) = (town.issuer("alice").hold(), town.issuer("bob").hold());
    town.expire();
    let api = town.api();
    let sent = tokio::spawn(async move { both(&api).await });
    tokio::join!(a_started.notified(), b_started.notified()); // both are in the air
    b_hold.add_permits(1);
    town.session("bob").close().await.unwrap();
    settle().await;
    assert_eq!(town.seen.all(), ["GET / Bearer a20.1"], "bob's does not wait for alice's");
    a_hold.add_permits(1);
    assert_eq!(sent.await.unwrap(), [OK, OK]);
    assert_eq!(town.seen.all(), ["GET / Bearer a20.1", "GET / Bearer a10.1"]);
    assert_eq!(town.realm.exchanges(), [1, 1]);
    for subject in ["alice", "bob"] {
        assert_eq!(town.issuer(subject).books().reuse_events, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn case_36_refused_tokens_of_two_accounts_are_replayed_each_with_its_own() {
    let town = Town::new(MemoryStore::new()).await;
    town.issuer("alice").expire_all();
    town.issuer("bob").expire_all();
    assert_eq!(both(&town.api()).await, [OK, OK]);
    let mut seen = town.seen.all();
    seen.sort();
    assert_eq!(seen, ["GET / Bearer a10.0", "GET / Bearer a10.1", "GET / Bearer a20.0", "GET / Bearer a20.1"]);
}

/// Alice's server is down: her cool-down, her backoff, her state; and a `Retry-After` that only she was told.
#[tokio::test(start_paused = true)]
async fn case_36_alice_fails_and_bob_works() {
    let store = Flaky::new();
    let town = Town::new(store.clone()).await;
    let api = town.api();
    town.expire();
    town.issuer("alice").fail(|| RefreshError::transient("down").retry_after(10 * MINUTE));
    assert_eq!(both(&api).await, [UNAVAILABLE, OK]);
    for _ in 0..5 {
        town.expire();
        assert_eq!(both(&api).await, [UNAVAILABLE, OK], "hers is remembered, his is renewed each time");
    }
    assert_eq!(town.realm.exchanges(), [1, 6]);
    assert_eq!((state(&town.session("alice")), state(&town.session("bob"))), ("stale", "active"));
    assert!(kind_of(town.session("alice").refresh().await).is_err());

    // The next process remembers it of her alone.
    town.expire();
    let again = Town { accounts: town.builder(store).open_accounts().await.unwrap(), ..town };
    assert_eq!(both(&again.api()).await, [OK, OK], "ten minutes are over");
    assert_eq!(again.realm.exchanges(), [2, 7]);
}

#[tokio::test(start_paused = true)]
async fn p12_a_remembered_failure_is_restored_for_its_own_account() {
    let store = Flaky::new();
    let town = Town::new(store.clone()).await;
    town.issuer("alice").fail(|| RefreshError::transient("down").retry_after(10 * MINUTE));
    assert!(town.session("alice").refresh().await.is_err());
    town.expire();
    let again = Town { accounts: town.builder(store).open_accounts().await.unwrap(), ..town };
    assert_eq!(both(&again.api()).await, [UNAVAILABLE, OK]);
    assert_eq!(again.realm.exchanges(), [1, 1]);
    assert_eq!(kind_of(again.session("bob").refresh().await), Ok(()));
}

/// P4: the breaker is per account and origin.
#[tokio::test(start_paused = true)]
async fn p12_the_breaker_of_one_leaves_the_other() {
    let town = Town::new(MemoryStore::new()).await;
    // This server takes none of alice's tokens, however fresh.
    let (api, alice) = (town.api_itself(), town.issuer("alice"));
    let strict = rig::before(api, move || alice.expire_all());
    let api = rig::boxed(town.layer().layer(strict));
    let opened = |event: &AuthEvent| match event {
        AuthEvent::BreakerOpened { account, .. } => account.subject() == "alice",
        _ => false,
    };
    for _ in 0..10 {
        assert_eq!(both(&api).await, [Ok(StatusCode::UNAUTHORIZED), OK]);
    }
    assert_eq!(town.log.count(opened), 1);
    let exchanges = town.issuer("alice").exchanges();
    town.issuer("bob").expire_all();
    assert_eq!(both(&api).await, [Ok(StatusCode::UNAUTHORIZED), OK], "his is refreshed all the same");
    assert_eq!(town.realm.exchanges(), [exchanges, 1], "and hers is not");
}

#[tokio::test(start_paused = true)]
async fn p12_sign_outs_and_locks_of_one_leave_the_other() {
    type End = fn(&Town) -> futures_util::future::BoxFuture<'_, ()>;
    let ends: [(End, ErrorKind); 4] = [
        (|town| Box::pin(async { town.session("alice").sign_out(SignOut::Soft).await.unwrap() }), ErrorKind::SignedOut),
        (|town| Box::pin(async { town.session("alice").sign_out(SignOut::Hard).await.unwrap() }), ErrorKind::SignedOut),
        (
            |town| Box::pin(async { town.session("alice").lock(LockCause::Application).await.unwrap() }),
            ErrorKind::Locked,
        ),
        (
            |town| {
                Box::pin(async {
                    town.issuer("alice").books().revoked = true;
                    town.session("alice").refresh().await.unwrap_err();
                })
            },
            ErrorKind::ReauthRequired,
        ),
    ];
    for (end, kind) in ends {
        let town = Town::new(MemoryStore::new()).await;
        let (wiped, api) = (town.log.clone(), town.api());
        // Both wait for a refresh while it happens.
        let (started, hold) = town.issuer("bob").hold();
        town.expire();
        let waiting = tokio::spawn({
            let api = api.clone();
            async move { kind_of(send(&api, named(get("/"), "bob")).await) }
        });
        started.notified().await;
        end(&town).await;
        hold.add_permits(100);
        assert_eq!(waiting.await.unwrap(), OK, "{kind:?}");
        assert_eq!(both(&api).await, [Err(kind), OK]);
        assert_eq!((state(&town.session("bob")), town.issuer("bob").books().revocations.len()), ("active", 0));
        let bobs = |event: &AuthEvent| matches!(event, AuthEvent::StateChanged { account, state, .. } if account.subject() == "bob" && word(state) != "active");
        assert_eq!(wiped.count(bobs), 0, "nobody is told anything of bob");

        // She comes back, and he does not notice that either.
        town.session("alice").sign_in(town.issuer("alice").sign_in()).await.unwrap();
        assert_eq!(both(&api).await, [OK, OK]);
        assert!(matches!(town.session("alice").state(), AuthState::Active { .. }));
    }
}

/// What `on_wipe` and `on_lock` are told is whose data goes.
#[tokio::test(start_paused = true)]
async fn p12_hooks_name_the_account_that_ended() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let (wipes, locks) = (told.clone(), told.clone());
    let town = Town::with(MemoryStore::new(), &["alice", "bob", "carol"], |builder| {
        let wiped =
            move |account: &tower_reauth::AccountId| wipes.lock().unwrap().push(format!("wipe {}", account.subject()));
        builder
            .on_wipe(wiped)
            .on_lock(move |account, _| locks.lock().unwrap().push(format!("lock {}", account.subject())))
    })
    .await;
    town.session("bob").sign_out(SignOut::Hard).await.unwrap();
    town.session("carol").lock(LockCause::Application).await.unwrap();
    assert_eq!(*told.lock().unwrap(), ["wipe bob", "lock carol"]);
    assert_eq!(token(&town.session("alice")).await.unwrap(), "a10.0");
}

#[tokio::test(start_paused = true)]
async fn p12_a_step_up_counts_for_its_own_account() {
    let pin = Pin::default();
    let town =
        Town::with(MemoryStore::new(), &["alice", "bob"], |builder| builder.gate(unlocked()).step_up(pin.clone()));
    let town = town.await;
    let api = town.api();
    let note = |subject: &'static str| {
        let api = api.clone();
        tokio::spawn(async move { kind_of(send(&api, named(post("/notes", "{}"), subject)).await) })
    };
    let alices = note("alice");
    pin.settle().await;
    assert!(pin.answer(Ok(HOUR)));
    assert_eq!(alices.await.unwrap(), OK);
    assert_eq!(note("alice").await.unwrap(), OK, "it counts for an hour");
    let bobs = note("bob");
    pin.settle().await;
    assert_eq!((pin.shown().len(), pin.open()), (2, 1), "bob is asked for himself");
    assert!(pin.answer(Err("it is not bob")));
    assert_eq!(bobs.await.unwrap(), Err(ErrorKind::Denied));
    // His refusal, which counts for a while, does not count for her.
    assert_eq!((note("bob").await.unwrap(), pin.shown().len()), (Err(ErrorKind::Denied), 2));
    assert_eq!(note("alice").await.unwrap(), OK);
    town.session("bob").step_up(HOUR);
    town.session("alice").sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(note("bob").await.unwrap(), OK);
}

/// P1 and P12 in one: twenty accounts, ten requests each, all at once, through one service.
#[tokio::test(start_paused = true)]
async fn case_01_a_storm_over_20_accounts_makes_one_exchange_each() {
    let names: Vec<String> = (0..20).map(|number| format!("user {number:02}")).collect();
    let subjects: Vec<&str> = names.iter().map(String::as_str).collect();
    let town = Town::with(MemoryStore::new(), &subjects, |builder| builder).await;
    for refused in [false, true] {
        match refused {
            true => subjects.iter().for_each(|subject| town.issuer(subject).expire_all()),
            false => town.expire(),
        }
        let (before, api) = (town.seen.len(), town.api());
        let requests = (0..200).map(|n| (subjects[n % 20], api.clone().oneshot(named(get("/"), subjects[n % 20]))));
        let answers = join_all(requests.map(async |(subject, sent)| (subject, sent.await.unwrap().status()))).await;
        assert!(answers.iter().all(|(_, status)| *status == StatusCode::OK));
        let generation = if refused { 2 } else { 1 };
        assert_eq!(town.realm.exchanges(), [generation; 20], "refused: {refused}");
        let mut tokens = BTreeMap::<String, usize>::new();
        for line in town.seen.all().split_off(before) {
            *tokens.entry(line.rsplit(' ').next().unwrap().to_owned()).or_default() += 1;
        }
        for number in 1..=20 {
            assert_eq!(tokens[&format!("a{}.{generation}", number * 10)], 10, "{tokens:?}");
        }
    }
}

// ===== the network =====

/// The platform says "offline" and is wrong. Each account tries it once in a quarter of an hour: a cool-down of alice's
/// does not use up bob's turn, nor does what no server answered her tell anything of his.
#[tokio::test(start_paused = true)]
async fn p12_a_model_that_is_wrong_stops_one_flight_of_each_account() {
    let town = Town::with(MemoryStore::new(), &["alice", "bob"], |builder| builder.connectivity(|| Some(false))).await;
    let api = town.api();
    town.issuer("alice").fail(|| RefreshError::transient("down").retry_after(HOUR));
    assert!(town.session("alice").refresh().await.is_err());
    town.expire();
    assert_eq!(both(&api).await, [UNAVAILABLE; 2], "offline, as far as anybody knows");
    town.clock.advance(15 * MINUTE);
    assert_eq!(kind_of(send(&api, named(get("/"), "alice")).await), UNAVAILABLE, "in a cool-down");
    assert_eq!(kind_of(send(&api, named(get("/"), "bob")).await), OK);
    assert_eq!(town.realm.exchanges(), [1, 1]);

    // An answer has told bob better; alice's connection breaks, and he goes on.
    let broken = service_fn(|_: crate::kit::Req| async { Err::<crate::kit::Res, _>("reset") });
    town.session("alice").sign_in(town.issuer("alice").sign_in()).await.unwrap();
    let error = town.layer().layer(broken).oneshot(named(get("/"), "alice")).await.unwrap_err();
    assert!(AuthError::find(&*error).is_none());
    town.clock.advance(30 * SEC);
    let online = |subject| town.session(subject).with_gate_context("read", |cx| cx.online());
    assert_eq!((online("alice"), online("bob")), (Some(false), Some(true)));
}

/// The clock is the machine's: what one account's server says of the time is true for all.
#[tokio::test(start_paused = true)]
async fn what_is_known_of_the_time_is_known_to_all() {
    let gate = gate_fn(|cx| match cx.now() {
        Some(_) => Ok(()),
        None => Err(cx.deny(DenyReason::ClockUntrusted)),
    });
    let town = Town::with(MemoryStore::new(), &["alice", "bob"], |builder| builder.gate(gate)).await;
    town.clock.set_wall(crate::kit::start() - HOUR);
    assert_eq!(both(&town.api()).await, [Err(ErrorKind::Denied); 2], "it was turned back");
    town.issuer("alice").books().date = Some(crate::kit::start());
    town.session("alice").refresh().await.unwrap();
    assert_eq!(both(&town.api()).await, [OK, OK]);
}

// ===== a process that ends =====

/// In the middle of alice's exchange, which the server has served: her rotation is lost, and bob's session is whole.
#[test]
fn p06_a_process_that_ends_in_the_middle_of_one_accounts_refresh_leaves_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let open = || FileStore::open(dir.path()).unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let process = runtime();
    let town = process.block_on(async {
        let town = Town::with(open(), &["alice", "bob", "carol"], |builder| builder).await;
        let (started, _hold) = town.issuer("alice").hold();
        town.session("bob").refresh().await.unwrap();
        let alice = town.session("alice");
        tokio::spawn(async move { alice.refresh().await });
        started.notified().await;
        while town.issuer("alice").current() != "r10.1" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        town
    });
    process.shutdown_background(); // and with it everything that it held

    runtime().block_on(async {
        town.issuer("alice").books().hold = None;
        let again = Town { accounts: town.builder(open()).open_accounts().await.unwrap(), ..town };
        let states = ["alice", "bob", "carol"].map(|subject| state(&again.session(subject)));
        assert_eq!(states, ["active"; 3]);
        assert_eq!(token(&again.session("bob")).await.unwrap(), "a20.1");
        again.expire();
        let api = again.api();
        assert_eq!(both(&api).await, [Err(ErrorKind::ReauthRequired), OK]);
        assert_eq!(kind_of(send(&api, named(get("/"), "carol")).await), OK);
        let states = ["alice", "bob", "carol"].map(|subject| state(&again.session(subject)));
        assert_eq!(states, ["rotation lost", "active", "active"]);
    });
}

/// P5 and P12: alice's tokens cannot be saved; bob's records are written, and his process ends without an error.
#[tokio::test(start_paused = true)]
async fn p12_tokens_that_cannot_be_saved_hold_up_nobody_else() {
    let store = Flaky::new();
    let town = Town::new(store.clone()).await;
    store.nth(crate::flaky::Call::Save, 1, crate::flaky::Fault::Hang); // alice's, after her journal
    let alice = town.session("alice");
    let flight = tokio::spawn(async move { alice.refresh().await });
    store.stopped().await;
    town.session("bob").refresh().await.unwrap();
    assert_eq!(
        (token(&town.session("bob")).await, kind_of(town.session("bob").close().await)),
        (Ok("a20.1".into()), Ok(()))
    );
    flight.await.unwrap().unwrap();
}
