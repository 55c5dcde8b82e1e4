//! Requests that wait and requests that are sent again: what they learn of the session meanwhile, and when.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "support/rig.rs"]
mod rig;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use kit::*;
use rig::*;
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{ServiceBuilder, ServiceExt, limit::ConcurrencyLimit, service_fn};
use tower_reauth::{
    AuthError, AuthEvent, DenyReason, ErrorKind, LockCause, RefreshError, Session, SignOut, Tokens, gate_fn, refresh_fn,
};

async fn leave(session: &Session, lock: bool) -> DenyReason {
    match lock {
        true => session.lock(LockCause::Application).await.map(|()| DenyReason::Locked).unwrap(),
        false => session.sign_out(SignOut::Soft).await.map(|()| DenyReason::SignedOut).unwrap(),
    }
}

fn reason(error: &AuthError) -> Option<DenyReason> {
    error.denial().map(|denial| denial.reason())
}

#[tokio::test(start_paused = true)]
async fn case_45_signed_out_or_locked_before_the_401_comes() {
    for lock in [false, true] {
        let rig = Rig::new().await;
        let session = rig.session.clone();
        let server = service_fn(move |_: Req| {
            let session = session.clone();
            async move {
                leave(&session, lock).await;
                let refused = Response::builder().status(401).body(Full::<Bytes>::from("refused"));
                Ok::<_, Infallible>(refused.unwrap())
            }
        });
        let response = behind(&rig.session, server).oneshot(get("/jobs")).await.unwrap();
        let error = AuthError::in_response(&response).expect("why it was not replayed");
        let wanted = if lock { DenyReason::Locked } else { DenyReason::SignedOut };
        assert_eq!((response.status(), reason(error)), (StatusCode::UNAUTHORIZED, Some(wanted)));
        assert_eq!(rig.issuer.exchanges(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn p13_whoever_waits_learns_of_a_sign_out_or_a_lock_at_once() {
    for lock in [false, true] {
        for expired in [true, false] {
            let rig = Rig::new().await;
            rig.issuer.books().takes = 25 * SEC;
            match expired {
                true => rig.expire(),
                false => rig.issuer.expire_all(), // a 401, and its replay waits
            }
            let mut request = task::spawn(rig.api.clone().oneshot(get("/jobs")));
            assert_pending!(request.poll());
            let (mut refresh, mut token) =
                (task::spawn(rig.session.refresh()), task::spawn(rig.session.access_token()));
            assert_pending!(refresh.poll());
            assert_pending!(token.poll());
            tokio::time::sleep(SEC).await;
            let start = tokio::time::Instant::now();
            let wanted = Some(leave(&rig.session, lock).await);
            let kind = if lock { ErrorKind::Locked } else { ErrorKind::SignedOut };
            let told = match request.await {
                Ok(response) => AuthError::in_response(&response).and_then(reason),
                Err(error) => AuthError::find(&*error).and_then(reason),
            };
            assert_eq!(told, wanted);
            assert_eq!(refresh.await.unwrap_err().kind(), kind);
            assert_eq!(token.await.unwrap_err().kind(), kind);
            // The sign-out itself waits for its tombstone, for a second.
            assert!(start.elapsed() <= 2 * SEC, "after {:?}", start.elapsed());
            assert_eq!(rig.seen.len(), usize::from(!expired));
        }
    }
}

/// A locked session looks into the store in the background: for those who come later.
#[tokio::test(start_paused = true)]
async fn p13_a_lock_denies_at_once_and_ends_with_a_sign_in_elsewhere() {
    let rig = Rig::new().await;
    let elsewhere = rig.restarted().open("alice").await.unwrap();
    leave(&rig.session, true).await;
    elsewhere.sign_in(Tokens::new("a1.0").with_refresh_token("r-new").with_expires_in(1000 * SEC)).await.unwrap();
    let mut request = task::spawn(rig.send(get("/jobs")));
    assert_eq!(reason(&assert_ready!(request.poll()).unwrap_err()), Some(DenyReason::Locked));
    rig.session.close().await.unwrap();
    assert_eq!(rig.send(get("/jobs")).await.unwrap(), StatusCode::OK);
    assert_eq!((rig.seen.all(), rig.issuer.exchanges()), (vec!["GET /jobs Bearer a1.0".into()], 0));
}

/// A request that will not leave needs no place in the inner service, which may be long in coming.
#[tokio::test(start_paused = true)]
async fn p11_what_a_refresh_failed_with_is_said_without_a_wait_for_readiness() {
    for denied in [false, true] {
        let shut = Arc::<AtomicBool>::default();
        let door = shut.clone();
        let gate = gate_fn(move |cx| match door.load(Relaxed) {
            true => Err(cx.deny(DenyReason::MissingGrant)),
            false => Ok(()),
        });
        let rig = Rig::with(|builder| builder.gate(gate)).await;
        rig.expire();
        let limit = ConcurrencyLimit::new(api(&rig.issuer, &rig.seen), 1);
        let mut request = task::spawn(behind(&rig.session, limit.clone()).oneshot(get("/jobs")));
        match denied {
            true => rig.issuer.books().takes = SEC,
            false => rig.fail(),
        }
        assert_pending!(request.poll());
        let _busy = limit.ready_oneshot().await.unwrap();
        shut.store(denied, Relaxed);
        rig.session.close().await.unwrap();
        let error = assert_ready!(request.poll(), "it waits for the inner service").unwrap_err();
        let error = AuthError::find(&*error).unwrap();
        match denied {
            true => assert_eq!(reason(error), Some(DenyReason::MissingGrant)),
            false => assert_eq!(error.kind(), ErrorKind::Unavailable),
        }
        assert_eq!(rig.seen.len(), 0);
    }
}

/// The call is made in the buffer's task; its answer is waited for in the refresher's.
#[tokio::test(start_paused = true)]
async fn p11_a_refresher_behind_a_buffer_of_its_own_service_gets_a_typed_error_too() {
    for expired in [true, false] {
        let asks = "https://api.example.com/renew";
        let through = std::cell::OnceCell::new();
        let make = |issuer| through.get_or_init(|| Through::new(issuer, "https://id.example.com/token", asks)).clone();
        let rig = Rig::refreshing(make, |builder| builder).await;
        let through = through.get().unwrap();
        match expired {
            true => rig.expire(),
            false => rig.issuer.expire_all(),
        }
        let buffered = boxed(ServiceBuilder::new().buffer(8).service(rig.api.clone()));
        assert!(through.service.set(buffered.clone()).is_ok());
        let start = tokio::time::Instant::now();
        let outcome = send(&buffered, get("/jobs")).await;
        assert!(start.elapsed() < SEC, "after {:?}", start.elapsed());
        match expired {
            true => assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable),
            false => assert_eq!(outcome.unwrap(), StatusCode::UNAUTHORIZED),
        }
        assert_eq!(through.failures(), [Some(ErrorKind::Reentrant)]);
    }
}

#[tokio::test(start_paused = true)]
async fn p11_an_issuer_that_is_a_bare_origin_is_no_token_endpoint() {
    for issuer in [ORIGIN, "https://api.example.com/"] {
        let rig = Rig::refreshing(|inner| Through::new(inner, issuer, ""), |builder| builder).await;
        assert_eq!(rig.send(post("/", "{\"jsonrpc\":\"2.0\"}")).await.unwrap(), StatusCode::OK);
        assert_eq!(rig.seen.all(), ["POST / Bearer a1.0"]);
    }
}

#[tokio::test(start_paused = true)]
async fn p04_a_refused_replay_counts_so_a_poller_every_8_s_opens_the_breaker() {
    let (clock, log, number) = (clock(), Log::default(), Arc::<AtomicU64>::default());
    let tokens = |number: u64| {
        Tokens::new(format!("t{number}")).with_refresh_token("r").with_expires_in(Duration::from_secs(3600))
    };
    let counter = number.clone();
    let refresher = refresh_fn(move |_| {
        let answer = tokens(counter.fetch_add(1, Relaxed) + 1);
        async move { Ok::<_, RefreshError>(answer) }
    });
    let session = log.attach(Session::builder(refresher).clock(clock.clone())).open("alice").await.unwrap();
    session.sign_in(tokens(0)).await.unwrap();
    let refuses = service_fn(async |_: Req| {
        Ok::<_, Infallible>(Response::builder().status(401).body(Full::<Bytes>::default()).unwrap())
    });
    let api = behind(&session, refuses);
    for _ in 0..40 {
        assert_eq!(send(&api, get("/jobs")).await.unwrap(), StatusCode::UNAUTHORIZED);
        clock.advance(8 * SEC);
    }
    let opened = log.count(|event| matches!(event, AuthEvent::BreakerOpened { .. }));
    assert!(opened > 0 && number.load(Relaxed) < 35, "{opened} times, {} exchanges", number.load(Relaxed));
}

/// Between its look at the token and its wish for another one everybody else was faster: in a thread of their own, while
/// the gate keeps it.
#[tokio::test(start_paused = true)]
async fn p01_a_request_that_is_overtaken_before_it_asks_makes_no_second_exchange() {
    let (armed, session) = (Arc::<AtomicBool>::default(), Arc::<std::sync::OnceLock<Session>>::default());
    let (trigger, other) = (armed.clone(), session.clone());
    let gate = gate_fn(move |_| {
        if trigger.swap(false, Relaxed) {
            let session = other.get().unwrap().clone();
            let elsewhere = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
                runtime.unwrap().block_on(async { session.access_token().await.map(drop) })
            });
            assert!(elsewhere.join().unwrap().is_ok());
        }
        Ok(())
    });
    let rig = Rig::with(|builder| builder.gate(gate)).await;
    assert!(session.set(rig.session.clone()).is_ok());
    rig.expire();
    armed.store(true, Relaxed);
    assert_eq!(rig.send(get("/jobs")).await.unwrap(), StatusCode::OK);
    assert_eq!((rig.issuer.exchanges(), rig.seen.all()), (1, vec!["GET /jobs Bearer a1.1".into()]));
}
