//! The clock is the machine's: what one account learns of the time, all know, and it is kept once.

use crate::{
    flaky::{Call, Fault, Flaky},
    kind_of,
    kit::{SEC, clock, get, start},
    pin::HOUR,
    town::{Town, named, send},
    world::token,
};
use http::StatusCode;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tower_reauth::{Clock, DenyReason, ManualClock, MemoryStore, RefreshError, StoreErrorKind, gate_fn};

/// Two signed in by a clock that is a day off, of which no sign-in told. When alice's server tells, bob was still here a
/// moment ago, and his token is as fresh as it was: he needs no server of his own to work on, offline.
#[tokio::test(start_paused = true)]
async fn p12_what_a_server_tells_one_account_of_the_time_takes_nothing_from_another() {
    for wrong in [start() + 24 * HOUR, start() - 24 * HOUR] {
        let gate = gate_fn(|cx| match cx.offline_for() {
            Some(age) if age <= HOUR && cx.since_auth() == cx.offline_for() => Ok(()),
            _ => Err(cx.deny(DenyReason::OfflineWindowExpired)),
        });
        let town = Town::with(MemoryStore::new(), &[], |builder| builder.gate(gate)).await;
        town.clock.set_wall(wrong);
        for subject in ["alice", "bob"] {
            let tokens = town.issuer(subject).sign_in();
            town.accounts.open(subject).await.unwrap().sign_in(tokens).await.unwrap();
        }
        town.clock.advance(10 * SEC);
        town.issuer("alice").books().date = Some(start());
        town.session("alice").refresh().await.unwrap();
        let known = town.session("bob").with_gate_context("read", |cx| (cx.offline_for(), cx.token_fresh()));
        assert_eq!(known, (Some(10 * SEC), true));
        assert_eq!(kind_of(send(&town.api(), named(get("/"), "bob")).await), Ok(StatusCode::OK));
        assert_eq!(town.realm.exchanges(), [1, 0], "nothing had to be asked for him");
        // Its end is where it was, too.
        town.clock.advance(91 * SEC);
        assert_eq!(token(&town.session("bob")).await.unwrap(), "a20.1");
    }
}

/// A clock that counts how often its mark is kept.
struct Kept(ManualClock, Arc<AtomicUsize>);

impl Clock for Kept {
    fn now(&self) -> SystemTime {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn load_mark(&self) -> Option<Vec<u8>> {
        self.1.fetch_add(1, Relaxed);
        self.0.load_mark()
    }

    fn save_mark(&self, mark: &[u8]) {
        self.0.save_mark(mark);
    }
}

/// The mark is a file, which is synced: of a hundred accounts each would wait for all others.
#[tokio::test(start_paused = true)]
async fn close_keeps_the_mark_once_for_all() {
    let kept = Arc::new(AtomicUsize::new(0));
    let clock = Kept(clock(), kept.clone());
    let town = Town::with(MemoryStore::new(), &["alice", "bob", "carol"], |builder| builder.clock(clock)).await;
    let before = kept.load(Relaxed);
    town.accounts.close().await.unwrap();
    assert_eq!(kept.load(Relaxed) - before, 1);
}

/// Both ask at once, as after a start. Bob's record was read before alice's server told the time, and is saved after it:
/// what was wrong in it is not written down once more.
#[tokio::test(start_paused = true)]
async fn p12_a_refresh_that_began_before_another_account_learned_the_time_is_corrected_too() {
    let store = Flaky::new();
    let town = Town::with(store.clone(), &[], |builder| builder).await;
    town.clock.set_wall(start() - 24 * HOUR);
    for subject in ["alice", "bob"] {
        let tokens = town.issuer(subject).sign_in();
        town.accounts.open(subject).await.unwrap().sign_in(tokens).await.unwrap();
        town.issuer(subject).books().date = Some(start());
    }
    town.clock.advance(10 * SEC);
    let (started, hold) = town.issuer("bob").hold();
    let bob = town.session("bob");
    let refresh = tokio::spawn(async move { bob.refresh().await });
    started.notified().await;
    town.session("alice").refresh().await.unwrap();
    hold.add_permits(1);
    refresh.await.unwrap().unwrap();
    let since = |town: &Town| town.session("bob").with_gate_context("read", |cx| (cx.offline_for(), cx.since_auth()));
    assert_eq!(since(&town), (Some(Duration::ZERO), Some(10 * SEC)));
    let again = Town { accounts: town.builder(store).open_accounts().await.unwrap(), ..town };
    assert_eq!(since(&again).1, Some(10 * SEC), "nor is it for the next process");
}

/// An earlier process has written by a clock that was a day ahead. Alice's server tells this one; bob's record is of
/// tomorrow still, and counts as what it was by the clock that wrote it, also once he refreshes.
#[tokio::test(start_paused = true)]
async fn p15_what_an_earlier_process_wrote_is_corrected_for_every_account() {
    for begun in [true, false] {
        let store = Flaky::new();
        let town = Town::with(store.clone(), &[], |builder| builder).await;
        town.clock.set_wall(start() + 24 * HOUR);
        for subject in ["alice", "bob"] {
            let tokens = town.issuer(subject).sign_in();
            town.accounts.open(subject).await.unwrap().sign_in(tokens).await.unwrap();
            town.issuer(subject).books().date = Some(start());
        }
        town.clock.advance(10 * SEC);
        let town = Town { accounts: town.builder(store.clone()).open_accounts().await.unwrap(), ..town };
        let since = |town: &Town| town.session("bob").with_gate_context("read", |cx| cx.since_auth());
        let (started, hold) = town.issuer("bob").hold();
        let bob = town.session("bob");
        let refresh = async move { bob.refresh().await };
        if begun {
            let refresh = tokio::spawn(refresh);
            started.notified().await;
            town.session("alice").refresh().await.unwrap();
            hold.add_permits(1);
            refresh.await.unwrap().unwrap();
        } else {
            town.session("alice").refresh().await.unwrap();
            assert_eq!(since(&town), Some(10 * SEC));
            hold.add_permits(1);
            refresh.await.unwrap();
        }
        assert_eq!(since(&town), Some(10 * SEC), "begun before: {begun}");
        let again = Town { accounts: town.builder(store).open_accounts().await.unwrap(), ..town };
        assert_eq!(since(&again), Some(10 * SEC));
    }
}

/// Bob's sign-in waits for the lease, by a clock that is a day off; meanwhile alice's server tells.
#[tokio::test(start_paused = true)]
async fn p15_a_sign_in_that_waits_while_another_account_learns_the_time_is_corrected_too() {
    for wrong in [start() + 24 * HOUR, start() - 24 * HOUR] {
        let store = Flaky::new();
        let town = Town::with(store.clone(), &[], |builder| builder).await;
        town.clock.set_wall(wrong);
        let tokens = town.issuer("alice").sign_in();
        town.accounts.open("alice").await.unwrap().sign_in(tokens).await.unwrap();
        town.issuer("alice").books().date = Some(start());
        let bob = town.accounts.open("bob").await.unwrap();
        let tokens = town.issuer("bob").sign_in();
        let pause = store.pause(Call::Lease, 0);
        let sign_in = tokio::spawn(async move { bob.sign_in(tokens).await });
        pause.reached().await;
        town.session("alice").refresh().await.unwrap();
        pause.go_on();
        sign_in.await.unwrap().unwrap();
        let known = |town: &Town| {
            town.session("bob").with_gate_context("read", |cx| (cx.offline_for(), cx.since_auth(), cx.token_fresh()))
        };
        let now = (Some(Duration::ZERO), Some(Duration::ZERO), true);
        assert_eq!(known(&town), now);
        town.clock.advance(101 * SEC);
        let spent = (Some(101 * SEC), Some(101 * SEC), false);
        assert_eq!(known(&town), spent);
        let again = Town { accounts: town.builder(store).open_accounts().await.unwrap(), ..town };
        assert_eq!(known(&again), spent);
    }
}

/// The answer that bob gets says nothing of the time, and is no success; his record is saved all the same.
#[tokio::test(start_paused = true)]
async fn p15_a_refresh_that_fails_after_another_account_learned_the_time_is_corrected_too() {
    let store = Flaky::new();
    let town = Town::with(store.clone(), &[], |builder| builder).await;
    town.clock.set_wall(start() + 24 * HOUR);
    for subject in ["alice", "bob"] {
        let tokens = town.issuer(subject).sign_in();
        town.accounts.open(subject).await.unwrap().sign_in(tokens).await.unwrap();
    }
    town.issuer("alice").books().date = Some(start());
    town.clock.advance(10 * SEC);
    town.issuer("bob").fail(|| RefreshError::transient("busy"));
    let (started, hold) = town.issuer("bob").hold();
    let bob = town.session("bob");
    let refresh = tokio::spawn(async move { bob.refresh().await });
    started.notified().await;
    town.session("alice").refresh().await.unwrap();
    hold.add_permits(1);
    refresh.await.unwrap().unwrap_err();
    let since = |town: &Town| town.session("bob").with_gate_context("read", |cx| (cx.offline_for(), cx.since_auth()));
    assert_eq!(since(&town), (Some(10 * SEC), Some(10 * SEC)));
    let again = Town { accounts: town.builder(store).open_accounts().await.unwrap(), ..town };
    assert_eq!(since(&again), (Some(10 * SEC), Some(10 * SEC)), "nor is it for the next process");
}

/// Neither bob's sign-in nor alice's refresh can be saved; meanwhile her server tells.
#[tokio::test(start_paused = true)]
async fn p15_what_is_saved_late_is_saved_as_it_was_corrected() {
    let store = Flaky::new();
    let town = Town::with(store.clone(), &["alice"], |builder| builder.journal(false)).await;
    town.clock.set_wall(start() + 24 * HOUR);
    town.issuer("alice").books().date = Some(start());
    store.always(Call::Save, Fault::Fail(StoreErrorKind::Unavailable));
    let tokens = town.issuer("bob").sign_in();
    town.accounts.open("bob").await.unwrap().sign_in(tokens).await.unwrap();
    town.clock.advance(10 * SEC);
    town.session("alice").refresh().await.unwrap();
    store.heal();
    town.accounts.close().await.unwrap();
    let again = Town { accounts: town.builder(store).open_accounts().await.unwrap(), ..town };
    assert_eq!(again.session("bob").with_gate_context("read", |cx| cx.since_auth()), Some(10 * SEC));
}
