//! When a session refreshes, and when it leaves that be: windows, lifetimes, idle sessions, offline ones, and what those
//! who watch are told.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "support/rig.rs"]
mod rig;

use futures_util::StreamExt as _;
use http::StatusCode;
use kit::*;
use rig::*;
use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_test::{assert_pending, task};
use tower_reauth::{
    AuthError, AuthEvent, AuthState, ErrorKind, FailureKind, LockCause, ReauthCause, RefreshError, Session, SignOut,
    SignedOutCause, Tokens, observer_fn, refresh_fn,
};

const ACTIVE: fn(&AuthState) -> bool = |state| matches!(state, AuthState::Active { .. });
const STALE: fn(&AuthState) -> bool = |state| matches!(state, AuthState::OfflineStale { .. });
const PENDING: fn(&AuthState) -> bool = |state| matches!(state, AuthState::Active { reauth_pending: true, .. });

fn assert_ok(outcome: Result<StatusCode, AuthError>) {
    assert!(matches!(outcome, Ok(StatusCode::OK)), "{outcome:?}");
}

fn refuse_grant(rig: &Rig) {
    rig.issuer.fail(|| RefreshError::new(FailureKind::InvalidGrant).status(StatusCode::BAD_REQUEST));
}

/// What happens in the background has happened.
async fn settled() {
    tokio::time::sleep(SEC).await;
}

// ===== case 9 =====

/// How many exchanges a server that always gives this token for this long sees, with a request every 100 ms.
async fn exchanges_of(lifetime: Duration, window: Option<Duration>, same: bool, seconds: u64) -> usize {
    let (clock, exchanges) = (clock(), Arc::new(AtomicUsize::new(0)));
    let counter = exchanges.clone();
    let tokens = move |number: usize| {
        let number = if same { 0 } else { number };
        Tokens::new(format!("t{number}")).with_refresh_token("r").with_expires_in(lifetime)
    };
    let refresher = refresh_fn(move |_| {
        let answer = tokens(counter.fetch_add(1, Relaxed) + 1);
        async move { Ok(answer) }
    });
    let builder = Session::builder(refresher).clock(clock.clone());
    let builder = match window {
        Some(window) => builder.refresh_before(window),
        None => builder,
    };
    let session = builder.open("alice").await.unwrap();
    session.sign_in(tokens(0)).await.unwrap();
    let accepts = tower::service_fn(async |_: Req| Ok::<_, std::convert::Infallible>(Res::default()));
    let api = behind(&session, accepts);
    for _ in 0..seconds * 10 {
        clock.advance(SEC / 10);
        tokio::time::sleep(SEC / 10).await;
        assert_ok(send(&api, get("/jobs")).await);
    }
    exchanges.load(Relaxed)
}

#[tokio::test(start_paused = true)]
async fn case_09_the_same_token_comes_back_and_there_is_one_exchange_a_lifetime() {
    for window in [None, Some(300 * SEC)] {
        assert!(exchanges_of(30 * SEC, window, true, 300).await <= 11);
        assert!(exchanges_of(SEC, window, true, 20).await <= 21);
        assert!(exchanges_of(Duration::ZERO, window, true, 20).await <= 21, "0 counts as a second");
    }
}

#[tokio::test(start_paused = true)]
async fn case_09_short_lifetimes_make_no_busy_loop() {
    // Each token is replaced once, in its window: 20 % of the lifetime, or what was asked for, at most a half of it.
    assert!(exchanges_of(30 * SEC, None, false, 240).await <= 10);
    assert!(exchanges_of(SEC, None, false, 20).await <= 25);
    assert!(exchanges_of(30 * SEC, Some(300 * SEC), false, 240).await <= 16);
    assert!(exchanges_of(SEC, Some(300 * SEC), false, 20).await <= 40);
    assert!(exchanges_of(Duration::ZERO, None, false, 20).await <= 25);
}

#[tokio::test(start_paused = true)]
async fn case_09_the_same_token_comes_back_after_a_401() {
    let rig = Rig::new().await;
    rig.issuer.expire_all();
    for _ in 0..20 {
        let same = || Tokens::new("a1.0").with_refresh_token("r1.0").with_expires_in(100 * SEC);
        rig.issuer.script(Script::Answer(same()));
        assert_eq!(rig.send(get("/jobs")).await.unwrap(), StatusCode::UNAUTHORIZED);
    }
    assert!(rig.issuer.exchanges() <= 5, "{}", rig.issuer.exchanges());
}

// ===== windows =====

#[tokio::test(start_paused = true)]
async fn in_the_soft_window_requests_go_on_and_a_refresh_starts() {
    for background in [true, false] {
        let rig = Rig::with(|builder| builder.background_refresh(background)).await;
        rig.clock.advance(79 * SEC);
        assert_ok(rig.send(get("/before")).await);
        settled().await;
        assert_eq!(rig.issuer.exchanges(), 0);
        rig.clock.advance(6 * SEC); // it begins 20 s before the end, or up to 4 s later
        assert_ok(rig.send(get("/within")).await);
        settled().await;
        assert_eq!(rig.issuer.exchanges(), u64::from(background));
        assert_ok(rig.send(get("/after")).await);
        let after = if background { "GET /after Bearer a1.1" } else { "GET /after Bearer a1.0" };
        assert_eq!(rig.seen.all(), ["GET /before Bearer a1.0", "GET /within Bearer a1.0", after]);
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_hard_window_requests_wait_and_go_on_with_what_is_fresh_if_it_fails() {
    for fails in [false, true] {
        let rig = Rig::new().await;
        rig.clock.advance(91 * SEC);
        if fails {
            rig.fail();
        }
        assert_ok(rig.send(get("/first")).await);
        assert_ok(rig.send(get("/second")).await);
        let token = if fails { "a1.0" } else { "a1.1" };
        assert_eq!(rig.seen.all(), [format!("GET /first Bearer {token}"), format!("GET /second Bearer {token}")]);
        assert_eq!(rig.issuer.exchanges(), 1, "in the cool-down nobody waits, and nobody asks");
        assert!(ACTIVE(&rig.session.state()));
    }
}

#[tokio::test(start_paused = true)]
async fn offline_the_windows_start_nothing_until_a_server_answers() {
    for seconds in [85, 91] {
        let rig = Rig::with(|builder| builder.connectivity(|| Some(false))).await;
        rig.clock.advance(Duration::from_secs(seconds));
        assert_ok(rig.send(get("/jobs")).await);
        settled().await;
        assert_eq!(rig.issuer.exchanges(), 0);
        assert_ok(rig.send(get("/jobs")).await); // the answer outranks the model
        settled().await;
        assert_eq!(rig.issuer.exchanges(), 1);
    }
}

// ===== keep_fresh, close =====

#[tokio::test(start_paused = true)]
async fn keep_fresh_refreshes_when_idle_and_stops_on_drop() {
    let rig = Rig::new().await;
    let mut watch = task::spawn(rig.session.watch());
    assert!(watch.poll_next().is_ready());
    let guard = rig.session.keep_fresh();
    rig.pass(1000).await;
    let exchanges = rig.issuer.exchanges();
    assert!((10..=13).contains(&exchanges), "{exchanges}");
    assert!(!watch.is_woken(), "it was never anything but active");
    drop(guard);
    rig.pass(1000).await;
    assert_eq!(rig.issuer.exchanges(), exchanges);
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_survives_failures_and_sign_outs() {
    let rig = Rig::new().await;
    let _guard = rig.session.keep_fresh();
    (0..8).for_each(|_| rig.fail());
    rig.pass(600).await;
    let exchanges = rig.issuer.exchanges();
    assert!((9..=20).contains(&exchanges), "{exchanges}");
    assert!(ACTIVE(&rig.session.state()));

    rig.session.sign_out(SignOut::Soft).await.unwrap();
    rig.pass(600).await;
    assert_eq!(rig.issuer.exchanges(), exchanges);
    assert_eq!(rig.session.state(), AuthState::SignedOut(SignedOutCause::Here));

    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    rig.pass(600).await;
    assert!((6..=9).contains(&(rig.issuer.exchanges() - exchanges)), "{}", rig.issuer.exchanges());
    assert_ok(rig.send(get("/jobs")).await);
}

#[tokio::test(start_paused = true)]
async fn p02_close_waits_for_a_background_refresh() {
    let rig = Rig::new().await;
    let (started, hold) = rig.hold();
    rig.clock.advance(85 * SEC);
    assert_ok(rig.send(get("/jobs")).await);
    let mut close = task::spawn(rig.session.close());
    assert_pending!(close.poll());
    started.notified().await;
    settled().await;
    assert_pending!(close.poll());
    hold.add_permits(1);
    close.await.unwrap();
    let restarted = rig.restarted().open("alice").await.unwrap();
    assert_eq!(restarted.access_token().await.unwrap().expose(), "a1.1");
    assert_eq!((rig.issuer.exchanges(), rig.issuer.books().reuse_events), (1, 0));
    rig.session.close().await.unwrap();
    assert_ok(rig.send(get("/it/goes/on")).await);
}

// ===== case 30: offline =====

#[tokio::test(start_paused = true)]
async fn case_30_restored_offline_with_an_expired_token() {
    for by_model in [true, false] {
        let rig = Rig::new().await;
        rig.expire();
        let up = Arc::new(AtomicBool::new(false));
        let model = up.clone();
        let session = rig.restarted().connectivity(move || Some(model.load(Relaxed))).open("alice").await.unwrap();
        let api = layered(&session, &rig.issuer, &rig.seen);
        assert!(STALE(&session.state()), "{:?}", session.state());
        for _ in 0..14 {
            assert_eq!(send(&api, get("/offline")).await.unwrap_err().kind(), ErrorKind::Unavailable);
            assert_eq!(session.access_token().await.unwrap_err().kind(), ErrorKind::Unavailable);
            rig.clock.advance(60 * SEC);
        }
        assert_eq!((rig.issuer.exchanges(), rig.seen.len()), (0, 0), "no refresh loop");
        up.store(true, Relaxed);
        if !by_model {
            session.reconnected();
        }
        for outcome in futures_util::future::join_all((0..10).map(|_| send(&api, get("/online")))).await {
            assert_ok(outcome);
        }
        assert_eq!(rig.issuer.exchanges(), 1);
        assert!(ACTIVE(&session.state()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_says_offline_stops_all_but_one_flight_every_15_minutes() {
    let rig = Rig::with(|builder| builder.connectivity(|| Some(false))).await;
    rig.expire();
    for _ in 0..120 {
        rig.issuer.fail(|| RefreshError::not_sent("no route"));
        let error = rig.send(get("/jobs")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        rig.clock.advance(30 * SEC);
    }
    assert!((3..=4).contains(&rig.issuer.exchanges()), "{}", rig.issuer.exchanges());
}

// ===== Session::refresh =====

#[tokio::test(start_paused = true)]
async fn refresh_is_ok_once_a_newer_set_is_published_whatever_the_age() {
    let rig = Rig::new().await;
    let all = futures_util::future::join_all((0..10).map(|_| rig.session.refresh())).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(rig.issuer.exchanges(), 1);
    rig.session.refresh().await.unwrap();
    assert_eq!(rig.session.access_token().await.unwrap().expose(), "a1.2");
}

/// The observer is told between the publication and the end of the flight.
#[tokio::test(start_paused = true)]
async fn refresh_means_newer_for_who_asks_while_a_flight_ends() {
    type Refresh = Pin<Box<dyn Future<Output = Result<(), AuthError>> + Send>>;
    let (session, asked) = (Arc::new(OnceLock::<Session>::new()), Arc::new(Mutex::new(None)));
    let observer = observer_fn({
        let (session, asked) = (session.clone(), asked.clone());
        move |event| {
            let mut asked = asked.lock().unwrap();
            if matches!(event, AuthEvent::Refreshed { .. }) && asked.is_none() {
                let session = session.get().unwrap().clone();
                let mut refresh = task::spawn(Box::pin(async move { session.refresh().await }) as Refresh);
                assert_pending!(refresh.poll());
                *asked = Some(refresh);
            }
        }
    });
    let rig = Rig::with(|builder| builder.observer(observer)).await;
    assert!(session.set(rig.session.clone()).is_ok());
    rig.session.refresh().await.unwrap();
    let refresh = asked.lock().unwrap().take().unwrap();
    refresh.await.unwrap();
    assert_eq!(rig.session.access_token().await.unwrap().expose(), "a1.2");
}

#[tokio::test(start_paused = true)]
async fn refresh_answers_at_once_in_a_cool_down_and_in_dead_states() {
    let rig = Rig::new().await;
    rig.fail();
    rig.session.refresh().await.unwrap_err();
    let at_once = |wanted: ErrorKind| {
        let outcome = task::spawn(rig.session.refresh()).poll();
        assert!(matches!(outcome, std::task::Poll::Ready(Err(error)) if error.kind() == wanted), "{wanted:?}");
    };
    at_once(ErrorKind::Unavailable);
    rig.session.sign_out(SignOut::Soft).await.unwrap();
    at_once(ErrorKind::SignedOut);
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    rig.session.lock(LockCause::Application).await.unwrap();
    at_once(ErrorKind::Locked);
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    rig.expire();
    refuse_grant(&rig);
    rig.session.refresh().await.unwrap_err();
    at_once(ErrorKind::ReauthRequired);
    assert_eq!(rig.issuer.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn refresh_after_an_early_invalid_grant_is_reauth_required_while_the_token_runs() {
    let rig = Rig::new().await;
    refuse_grant(&rig);
    for _ in 0..2 {
        assert_eq!(rig.session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
        assert!(PENDING(&rig.session.state()));
        assert_ok(rig.send(get("/jobs")).await);
    }
    assert_eq!(rig.issuer.exchanges(), 1);
    rig.assert_secretive(&rig.session.refresh().await);
}

#[tokio::test(start_paused = true)]
async fn case_23_a_dead_refresh_token_is_remembered_over_a_restart() {
    let rig = Rig::new().await;
    rig.expire();
    refuse_grant(&rig);
    rig.session.refresh().await.unwrap_err();
    let restarted = rig.restarted().open("alice").await.unwrap();
    for session in [&rig.session, &restarted] {
        assert_eq!(session.state(), AuthState::ReauthRequired(ReauthCause::Revoked));
        assert_eq!(session.access_token().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    }
    assert_eq!(rig.issuer.exchanges(), 1);
}

#[tokio::test(start_paused = true)]
async fn p08_a_valid_access_token_stays_in_use_over_a_restart_after_an_early_invalid_grant() {
    let rig = Rig::new().await;
    refuse_grant(&rig);
    rig.session.refresh().await.unwrap_err();
    let restarted = rig.restarted().open("alice").await.unwrap();
    assert!(PENDING(&restarted.state()), "{:?}", restarted.state());
    assert_ok(send(&layered(&restarted, &rig.issuer, &rig.seen), get("/jobs")).await);
}

// ===== watch =====

#[tokio::test(start_paused = true)]
async fn a_watch_is_a_stream_that_ends_with_the_last_session() {
    let rig = Rig::new().await;
    let mut stream = rig.session.watch();
    let mut other = stream.clone();
    assert!(ACTIVE(&stream.next().await.unwrap()));
    rig.session.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(stream.next().await, Some(AuthState::SignedOut(SignedOutCause::Here)));
    rig.session.lock(LockCause::ResourceServer).await.unwrap();
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    assert!(ACTIVE(&stream.next().await.unwrap()), "the newest, not each");
    assert!(ACTIVE(&other.next().await.unwrap()));
    rig.session.close().await.unwrap();
    let again = rig.session.clone();
    let mut waiting = task::spawn(stream);
    assert_pending!(waiting.poll_next());
    drop((rig, again));
    settled().await;
    assert!(waiting.is_woken());
    assert_eq!(waiting.next().await, None);
    assert_eq!(waiting.next().await, None);
    assert_eq!(other.changed().await, None);
    assert!(ACTIVE(&other.current()));
}

#[tokio::test(start_paused = true)]
async fn the_watch_turns_stale_at_the_real_expiry_without_a_request() {
    let rig = Rig::new().await;
    let mut watch = rig.session.watch();
    rig.issuer.fail(|| RefreshError::transient("busy").retry_after(3600 * SEC));
    rig.session.refresh().await.unwrap_err();
    let expiry = start() + 100 * SEC;
    rig.pass(98).await;
    assert!(ACTIVE(&watch.current()));
    rig.pass(4).await;
    let Some(AuthState::OfflineStale { since, .. }) = watch.changed().await else { panic!("{watch:?}") };
    assert!(since >= expiry && since <= expiry + 2 * SEC);
}

async fn watch_a_refused_session(open: impl AsyncFnOnce(&Rig) -> Session) {
    let rig = Rig::new().await;
    refuse_grant(&rig);
    rig.session.refresh().await.unwrap_err();
    let session = open(&rig).await;
    let watch = session.watch();
    rig.pass(98).await;
    assert!(PENDING(&watch.current()), "{watch:?}");
    rig.pass(4).await;
    assert_eq!(watch.current(), AuthState::ReauthRequired(ReauthCause::Revoked));
}

#[tokio::test(start_paused = true)]
async fn the_watch_turns_to_reauth_required_at_the_real_expiry_without_a_request() {
    watch_a_refused_session(async |rig| rig.session.clone()).await;
}

#[tokio::test(start_paused = true)]
async fn the_watch_turns_to_reauth_required_at_the_real_expiry_after_a_restart() {
    watch_a_refused_session(async |rig| rig.restarted().open("alice").await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn the_watch_turns_stale_at_the_real_expiry_after_a_restart_in_a_cool_down() {
    let rig = Rig::new().await;
    rig.issuer.fail(|| RefreshError::transient("busy").retry_after(3600 * SEC));
    rig.session.refresh().await.unwrap_err();
    let restarted = rig.restarted().open("alice").await.unwrap();
    let watch = restarted.watch();
    rig.pass(102).await;
    assert!(STALE(&watch.current()), "{watch:?}");
}

#[tokio::test(start_paused = true)]
async fn the_watch_turns_stale_at_the_real_expiry_while_the_model_says_offline() {
    let rig = Rig::with(|builder| builder.connectivity(|| Some(false))).await;
    let watch = rig.session.watch();
    rig.pass(102).await;
    assert!(STALE(&watch.current()), "{watch:?}");
}
