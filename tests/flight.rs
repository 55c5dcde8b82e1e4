//! One flight: whoever wants a new token shares one exchange, which nobody can cancel and which tells everybody the same.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "support/rig.rs"]
mod rig;

use futures_util::future::join_all;
use http::StatusCode;
use kit::*;
use rig::*;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_test::{assert_pending, task};
use tower::limit::ConcurrencyLimit;
use tower_reauth::{
    AuthError, AuthEvent, AuthState, ErrorKind, RefreshError, Session, SignOut, SignedOutCause, Tokens, refresh_fn,
};

fn assert_all_ok(results: &[Result<StatusCode, AuthError>]) {
    for result in results {
        assert!(matches!(result, Ok(StatusCode::OK)), "{result:?}");
    }
}

fn kinds(results: &[Result<StatusCode, AuthError>]) -> Vec<ErrorKind> {
    results.iter().map(|result| result.as_ref().expect_err("must fail").kind()).collect()
}

// ===== case 1 =====

#[tokio::test(start_paused = true)]
async fn case_01_n_requests_meet_an_expired_token_and_make_one_exchange() {
    for n in [10, 10_000] {
        let rig = Rig::new().await;
        rig.expire();
        assert_all_ok(&rig.send_all(n).await);
        assert_eq!((rig.issuer.exchanges(), rig.seen.len()), (1, n));
        assert!(rig.seen.all().iter().all(|seen| seen == "GET /jobs Bearer a1.1"));
    }
}

#[tokio::test(start_paused = true)]
async fn case_01_n_401s_make_one_exchange_and_at_most_2n_requests() {
    for n in [10, 10_000] {
        let rig = Rig::new().await;
        rig.issuer.expire_all();
        let api = behind(&rig.session, delayed(api(&rig.issuer, &rig.seen)));
        assert_all_ok(&join_all((0..n).map(|_| send(&api, late("/jobs", 10)))).await);
        assert_eq!((rig.issuer.exchanges(), rig.seen.len()), (1, 2 * n));
    }
}

// ===== case 2 =====

#[tokio::test(start_paused = true)]
async fn case_02_p03_a_late_401_makes_no_exchange_and_its_replay_is_its_one_retry() {
    for second_is_refused in [false, true] {
        let rig = Rig::new().await;
        rig.issuer.expire_all();
        let api = behind(&rig.session, delayed(api(&rig.issuer, &rig.seen)));
        let request = send(&api, late("/late", 1000));
        let refresh = async {
            rig.session.refresh().await.unwrap();
            if second_is_refused {
                rig.issuer.expire_all();
            }
        };
        let (answer, ()) = tokio::join!(request, refresh);
        let wanted = if second_is_refused { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        assert_eq!(answer.unwrap(), wanted);
        assert_eq!(rig.seen.all(), ["GET /late Bearer a1.0", "GET /late Bearer a1.1"]);
        assert_eq!(rig.issuer.exchanges(), 1, "the one of `refresh`");
    }
}

#[tokio::test(start_paused = true)]
async fn case_02_p03_fifty_staggered_late_401s_make_one_exchange() {
    let rig = Rig::new().await;
    rig.issuer.expire_all();
    let api = behind(&rig.session, delayed(api(&rig.issuer, &rig.seen)));
    assert_all_ok(&join_all((0..50).map(|i| send(&api, late("/jobs", 100 + 20 * i)))).await);
    assert_eq!((rig.issuer.exchanges(), rig.seen.len()), (1, 100));
}

#[tokio::test(start_paused = true)]
async fn case_02_new_requests_wait_for_a_reactive_refresh() {
    let rig = Rig::new().await;
    rig.issuer.expire_all();
    let (started, hold) = rig.hold();
    let mut first = task::spawn(rig.send(get("/first")));
    assert_pending!(first.poll());
    started.notified().await;
    let mut second = task::spawn(rig.send(get("/second")));
    assert_pending!(second.poll());
    assert_eq!(rig.seen.all(), ["GET /first Bearer a1.0"]);
    hold.add_permits(1);
    assert_all_ok(&[first.await, second.await]);
    assert_eq!(rig.seen.all()[1..], ["GET /first Bearer a1.1", "GET /second Bearer a1.1"]);
}

// ===== case 3, P2 =====

#[tokio::test(start_paused = true)]
async fn case_03_the_leader_is_dropped_and_the_others_get_its_token() {
    let rig = Rig::new().await;
    rig.expire();
    let (started, hold) = rig.hold();
    let mut leader = task::spawn(rig.send(get("/leader")));
    let mut other = task::spawn(rig.send(get("/other")));
    assert_pending!(leader.poll());
    assert_pending!(other.poll());
    started.notified().await;
    drop(leader);
    hold.add_permits(1);
    assert_all_ok(&[other.await]);
    assert_eq!(rig.seen.all(), ["GET /other Bearer a1.1"]);
    assert_eq!(rig.issuer.exchanges(), 1);
}

#[tokio::test(start_paused = true)]
async fn case_03_all_callers_are_dropped_and_the_exchange_is_published_and_persisted() {
    let rig = Rig::new().await;
    rig.expire();
    let (started, hold) = rig.hold();
    let mut callers: Vec<_> = (0..10).map(|_| task::spawn(rig.send(get("/jobs")))).collect();
    callers.iter_mut().for_each(|caller| assert_pending!(caller.poll()));
    started.notified().await;
    drop(callers);
    hold.add_permits(1);
    rig.session.close().await.unwrap();
    assert_eq!(rig.session.access_token().await.unwrap().expose(), "a1.1");
    let restarted = rig.restarted().open("alice").await.unwrap();
    assert_eq!(restarted.access_token().await.unwrap().expose(), "a1.1");
    assert_eq!((rig.issuer.exchanges(), rig.seen.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn p02_an_exchange_outlives_every_handle_of_its_session() {
    let rig = Rig::new().await;
    let (started, hold) = rig.hold();
    let mut refresh = task::spawn(rig.session.refresh());
    assert_pending!(refresh.poll());
    started.notified().await;
    drop(refresh);
    let restarted = rig.restarted();
    let Rig { issuer, session, api, log, .. } = rig;
    drop((session, api));
    hold.add_permits(1);
    tokio::time::sleep(SEC).await;
    assert_eq!(log.count(|event| matches!(event, AuthEvent::Refreshed { .. })), 1);
    assert_eq!(restarted.open("alice").await.unwrap().access_token().await.unwrap().expose(), "a1.1");
    assert_eq!(issuer.exchanges(), 1);
}

// ===== case 4, P9 =====

#[tokio::test(start_paused = true)]
async fn case_04_a_failing_source_is_asked_once_and_everybody_gets_the_same_error() {
    for n in [200, 10_000] {
        let rig = Rig::new().await;
        rig.expire();
        rig.fail();
        let all = rig.send_all(n).await;
        let first = all[0].as_ref().unwrap_err();
        assert_eq!(first.kind(), ErrorKind::Unavailable);
        assert!(first.is_transient() && first.retry_after().unwrap() >= SEC);
        for error in all.iter().map(|result| result.as_ref().unwrap_err()) {
            assert_eq!((error.kind(), error.retry_after()), (first.kind(), first.retry_after()));
            assert_eq!(error.to_string(), first.to_string());
        }
        assert_eq!((rig.issuer.exchanges(), rig.seen.len()), (1, 0));
        assert!(matches!(rig.session.state(), AuthState::OfflineStale { .. }));
        rig.assert_secretive(&all[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn p09_a_cool_down_is_quiet_and_touches_no_store() {
    let touched = Arc::new(AtomicUsize::new(0));
    let counter = touched.clone();
    let rig = Rig::with(|builder| builder.store(Hooked::new(move |_| _ = counter.fetch_add(1, Relaxed)))).await;
    rig.expire();
    rig.fail();
    let told = rig.send(get("/jobs")).await.unwrap_err();
    let before = touched.load(Relaxed);
    rig.clock.advance(SEC / 2);
    for error in rig.send_all(200).await.into_iter().map(Result::unwrap_err) {
        assert_eq!((error.kind(), error.to_string()), (told.kind(), told.to_string()));
        assert_eq!(error.retry_after(), told.retry_after().map(|left| left - SEC / 2));
    }
    assert_eq!(rig.session.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!((rig.issuer.exchanges(), touched.load(Relaxed)), (1, before));
    rig.clock.advance(2 * SEC);
    assert_all_ok(&rig.send_all(1).await);
}

#[tokio::test(start_paused = true)]
async fn p09_the_record_remembers_a_failure_too() {
    let rig = Rig::new().await;
    rig.expire();
    let sibling = rig.restarted().open("alice").await.unwrap();
    rig.fail();
    let error = rig.session.refresh().await.unwrap_err();
    let late_comer = rig.restarted().open("alice").await.unwrap();
    for session in [sibling, late_comer] {
        assert_eq!(session.refresh().await.unwrap_err().kind(), error.kind());
    }
    assert_eq!(rig.issuer.exchanges(), 1);
}

#[tokio::test(start_paused = true)]
async fn p09_a_sign_in_ends_the_cool_down() {
    let rig = Rig::new().await;
    rig.expire();
    rig.issuer.fail(|| RefreshError::transient("busy").retry_after(600 * SEC));
    rig.session.refresh().await.unwrap_err();
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    assert_all_ok(&rig.send_all(1).await);
    rig.session.refresh().await.unwrap();
    assert_eq!(rig.issuer.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn p09_a_retry_after_is_honoured_and_clamped_to_an_hour() {
    for (said, kept) in [(600, 600), (1_000_000_000, 3600)] {
        let rig = Rig::new().await;
        rig.expire();
        rig.issuer.fail(move || RefreshError::transient("busy").retry_after(Duration::from_secs(said)));
        let error = rig.session.refresh().await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(kept)));
        rig.clock.advance(Duration::from_secs(kept - 1));
        assert_eq!(rig.session.refresh().await.unwrap_err().retry_after(), Some(SEC));
        rig.clock.advance(SEC);
        rig.session.refresh().await.unwrap();
        assert_eq!(rig.issuer.exchanges(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn p09_reconnected_ends_a_backoff() {
    let rig = Rig::with(|builder| builder.background_refresh(false)).await;
    rig.expire();
    rig.fail();
    assert_eq!(kinds(&rig.send_all(2).await), [ErrorKind::Unavailable; 2]);
    rig.session.reconnected();
    assert_all_ok(&rig.send_all(2).await);
    assert_eq!(rig.issuer.exchanges(), 2);
}

async fn reconnected_after_retry_after(said: u64) {
    let rig = Rig::new().await;
    rig.expire();
    rig.issuer.fail(move || RefreshError::transient("busy").retry_after(Duration::from_secs(said)));
    assert_eq!(kinds(&rig.send_all(2).await), [ErrorKind::Unavailable; 2]);
    rig.session.reconnected();
    assert_eq!(kinds(&rig.send_all(2).await), [ErrorKind::Unavailable; 2]);
    assert_eq!(rig.issuer.exchanges(), 1);
}

#[tokio::test(start_paused = true)]
async fn p09_reconnected_does_not_end_a_retry_after() {
    reconnected_after_retry_after(600).await;
}

#[tokio::test(start_paused = true)]
async fn p09_reconnected_does_not_end_a_retry_after_that_is_shorter_than_the_backoff() {
    reconnected_after_retry_after(1).await;
}

// ===== case 6, P11 =====

#[tokio::test(start_paused = true)]
async fn case_06_refresher_and_requests_share_one_permit() {
    for expired in [true, false] {
        let through = std::cell::OnceCell::new();
        let endpoint = "https://id.example.com/token";
        let make = |issuer| through.get_or_init(|| Through::new(issuer, endpoint, endpoint)).clone();
        let rig = Rig::refreshing(make, |builder| builder).await;
        match expired {
            true => rig.expire(),
            false => rig.issuer.expire_all(),
        }
        let client = ConcurrencyLimit::new(delayed(api(&rig.issuer, &rig.seen)), 1);
        assert!(through.get().unwrap().service.set(boxed(client.clone())).is_ok());
        let api = behind(&rig.session, client);
        assert_all_ok(&join_all((0..20).map(|_| send(&api, late("/jobs", 5)))).await);
        assert_eq!(rig.issuer.exchanges(), 1);
    }
}

async fn reentrant(endpoint: &'static str, asks: &'static str, expired: bool) -> Vec<Option<ErrorKind>> {
    let through = std::cell::OnceCell::new();
    let make = |issuer| through.get_or_init(|| Through::new(issuer, endpoint, asks)).clone();
    let rig = Rig::refreshing(make, |builder| builder).await;
    let through = through.get().unwrap();
    assert!(through.service.set(rig.api.clone()).is_ok());
    if expired {
        rig.expire();
    }
    let outcome = tokio::time::timeout(29 * SEC, rig.session.refresh()).await.expect("it hangs until the timeout");
    rig.assert_secretive(&outcome);
    through.failures()
}

#[tokio::test(start_paused = true)]
async fn p11_a_refresher_within_its_own_service_gets_a_typed_error() {
    let id = "https://id.example.com/token";
    assert_eq!(reentrant(id, "https://api.example.com/renew", true).await, [Some(ErrorKind::Reentrant)]);
    let own = "https://api.example.com/token";
    assert_eq!(reentrant(own, own, true).await, [Some(ErrorKind::Reentrant)]);
    assert_eq!(reentrant(own, own, false).await, [Some(ErrorKind::Reentrant)]);
}

#[tokio::test(start_paused = true)]
async fn p11_so_it_does_while_the_token_is_fresh() {
    let id = "https://id.example.com/token";
    assert_eq!(reentrant(id, "https://api.example.com/renew", false).await, [Some(ErrorKind::Reentrant)]);
}

#[tokio::test(start_paused = true)]
async fn p11_a_refresher_that_closes_its_own_session_gets_a_typed_error() {
    let own = Arc::new(std::sync::OnceLock::<Session>::new());
    let inside = own.clone();
    let refresher = refresh_fn(move |_| {
        let session = inside.get().unwrap().clone();
        async move {
            assert_eq!(session.close().await.map_err(|error| error.kind()), Err(ErrorKind::Reentrant));
            Ok(Tokens::new("fresh").with_refresh_token("r2"))
        }
    });
    let session = Session::builder(refresher).open("alice").await.unwrap();
    session.sign_in(Tokens::new("first").with_refresh_token("r1")).await.unwrap();
    assert!(own.set(session.clone()).is_ok());
    tokio::time::timeout(29 * SEC, session.refresh()).await.expect("it hangs until the timeout").unwrap();
    session.close().await.unwrap();
}

async fn assert_known_as_token_endpoint(spelling: &str) {
    let make = |issuer| Through::new(issuer, "https://api.example.com/token", "");
    let rig = Rig::refreshing(make, |builder| builder).await;
    let request = http::Request::post(spelling).body(Default::default()).unwrap();
    let kind = rig.send(request).await.map_err(|error| error.kind());
    assert_eq!(kind, Err(ErrorKind::Reentrant), "{spelling}");
    assert_eq!(rig.seen.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn p11_the_token_endpoint_is_known_by_its_uri_in_any_task() {
    assert_known_as_token_endpoint("https://api.example.com/token").await;
    assert_known_as_token_endpoint("https://api.example.com/token?audience=jobs").await;
}

/// All spellings that are allowed as origins.
#[tokio::test(start_paused = true)]
async fn p11_the_token_endpoint_is_known_in_upper_case_and_with_its_port() {
    assert_known_as_token_endpoint("https://api.example.com:443/token").await;
    assert_known_as_token_endpoint("https://API.example.com/token").await;
}

// ===== P1: accounts and epochs =====

#[tokio::test(start_paused = true)]
async fn p01_two_accounts_have_two_flights() {
    let alice = Rig::new().await;
    let bob = Issuer::new();
    let session = Session::builder(bob.clone()).store(alice.store.clone()).clock(alice.clock.clone());
    let session = session.open("bob").await.unwrap();
    session.sign_in(bob.sign_in()).await.unwrap();
    alice.expire();
    alice.fail();
    let seen = Seen::default();
    let bobs = layered(&session, &bob, &seen);
    let (failed, worked) = tokio::join!(alice.send_all(5), join_all((0..5).map(|_| send(&bobs, get("/bob")))));
    assert_eq!(kinds(&failed), [ErrorKind::Unavailable; 5]);
    assert_all_ok(&worked);
    assert_eq!((alice.issuer.exchanges(), bob.exchanges()), (1, 1));
    alice.session.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(alice.session.state(), AuthState::SignedOut(SignedOutCause::Here));
    assert_all_ok(&[send(&bobs, get("/bob")).await]);
}

#[tokio::test(start_paused = true)]
async fn p01_a_sign_in_does_not_share_the_flight_of_an_older_epoch() {
    let rig = Rig::new().await;
    rig.expire();
    let (started, hold) = rig.hold();
    let mut old = task::spawn(rig.session.refresh());
    assert_pending!(old.poll());
    started.notified().await;
    tokio::time::sleep(SEC).await;
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap(); // the old flight holds the lease: unsaved
    assert_all_ok(&[rig.send(get("/new")).await]);
    hold.add_permits(1);
    assert_eq!(old.await.unwrap_err().kind(), ErrorKind::SignedOut);
    rig.session.close().await.unwrap();
    assert_eq!(rig.session.access_token().await.unwrap().expose(), "a2.0");
    let restarted = rig.restarted().open("alice").await.unwrap();
    assert_eq!(restarted.access_token().await.unwrap().expose(), "a2.0");
    assert_eq!(rig.seen.all(), ["GET /new Bearer a2.0"]);
    assert_eq!(rig.issuer.books().revocations.len(), 0);
}

/// Real threads: who asks between two steps of a flight that ends?
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p01_on_many_threads_one_exchange_an_expiry_and_refresh_means_newer() {
    let rig = Arc::new(Rig::new().await);
    rig.issuer.books().takes = Duration::ZERO;
    for round in 1..=50 {
        rig.expire();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let rig = rig.clone();
            tasks.spawn(async move { rig.send(get("/jobs")).await });
        }
        assert_all_ok(&tasks.join_all().await);
        assert_eq!(rig.issuer.exchanges(), round);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let rig = rig.clone();
        tasks.spawn(async move {
            for _ in 0..200 {
                let before = number(&rig).await;
                rig.session.refresh().await.unwrap();
                assert!(number(&rig).await > before);
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(rig.issuer.books().reuse_events, 0);
}

async fn number(rig: &Rig) -> u64 {
    let token = rig.session.access_token().await.unwrap();
    token.expose().trim_start_matches("a1.").parse().unwrap()
}
