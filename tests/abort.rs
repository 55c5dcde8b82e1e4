//! Flights that come to a bad end: a panic, a runtime that shuts down or is not there. Whoever waits gets a typed error.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "support/rig.rs"]
mod rig;

use http::StatusCode;
use kit::*;
use rig::*;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    task::Poll,
    time::Duration,
};
use tokio::runtime;
use tokio_test::{assert_pending, task};
use tower_reauth::{AuthError, AuthEvent, ErrorKind, Session, SignOut, Tokens, refresh_fn};

fn assert_all_ok(results: &[Result<StatusCode, AuthError>]) {
    for result in results {
        assert!(matches!(result, Ok(StatusCode::OK)), "{result:?}");
    }
}

fn kinds(results: &[Result<StatusCode, AuthError>]) -> Vec<ErrorKind> {
    results.iter().map(|result| result.as_ref().expect_err("must fail").kind()).collect()
}

// ===== case 8, P2 =====

#[tokio::test(start_paused = true)]
async fn case_08_a_refresher_panics() {
    let rig = Rig::new().await;
    rig.expire();
    rig.issuer.script(Script::Panic);
    let all = rig.send_all(10).await;
    assert_eq!(kinds(&all), [ErrorKind::Aborted; 10]);
    rig.assert_secretive(&all);
    rig.clock.advance(2 * SEC);
    assert_all_ok(&rig.send_all(10).await);
    assert_eq!(rig.issuer.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn case_08_a_store_panics() {
    for broken in ["load", "lease", "save", "raise_epoch"] {
        let armed = Arc::new(AtomicBool::new(false));
        let trigger = armed.clone();
        let hook = move |op| assert!(op != broken || !trigger.load(Relaxed), "a store that panics in {op}");
        let rig = Rig::with(|builder| builder.store(Hooked::new(hook))).await;
        rig.expire();
        armed.store(true, Relaxed);
        assert_eq!(kinds(&rig.send_all(10).await), [ErrorKind::Unavailable; 10], "{broken}");
        assert_eq!(rig.issuer.exchanges(), 0, "{broken}");
        armed.store(false, Relaxed);
        rig.clock.advance(2 * SEC);
        assert_all_ok(&rig.send_all(10).await);
        assert_eq!(rig.issuer.exchanges(), 1, "{broken}");
    }
}

#[tokio::test(start_paused = true)]
async fn case_08_a_store_panics_after_the_exchange() {
    let saves = Arc::new(AtomicUsize::new(0));
    let counter = saves.clone();
    // The sign-in, the journal, then the tokens.
    let hook = move |op| assert!(op != "save" || counter.fetch_add(1, Relaxed) != 2, "a store that panics");
    let rig = Rig::with(|builder| builder.store(Hooked::new(hook))).await;
    rig.expire();
    assert_all_ok(&rig.send_all(10).await);
    rig.session.close().await.unwrap();
    assert_eq!(rig.log.count(|event| matches!(event, AuthEvent::Unsaved { .. })), 1);
    assert_eq!(rig.log.count(|event| matches!(event, AuthEvent::Saved { .. })), 1);
    assert_eq!(rig.issuer.exchanges(), 1);
}

#[test]
fn case_08_the_runtime_shuts_down_in_mid_flight() {
    let start = || runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let (first, second) = (start(), start());
    let (rig, started) = second.block_on(async {
        let rig = Rig::new().await;
        rig.issuer.script(Script::Hang);
        rig.issuer.books().takes = Duration::ZERO;
        let started = rig.hold().0;
        rig.issuer.books().hold = None;
        rig.expire();
        (rig, started)
    });
    let leader = {
        let _on = first.enter();
        let mut leader = Box::pin(rig.session.refresh());
        assert_pending!(task::spawn(leader.as_mut()).poll());
        leader
    };
    second.block_on(async {
        started.notified().await;
        let mut waiter = task::spawn(rig.send(get("/jobs")));
        assert_pending!(waiter.poll());
        first.shutdown_background();
        assert_eq!(leader.await.unwrap_err().kind(), ErrorKind::Aborted);
        assert_eq!(waiter.await.unwrap_err().kind(), ErrorKind::Aborted);
        assert_eq!(rig.issuer.exchanges(), 1);
        rig.clock.advance(2 * SEC);
        assert_all_ok(&[rig.send(get("/jobs")).await]);
    });
}

#[test]
fn case_08_a_runtime_that_is_gone_gets_a_typed_error() {
    let gone = runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let rig = gone.block_on(Rig::new());
    let handle = gone.handle().clone();
    drop(gone);
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let _entered = handle.enter();
        let refreshed = task::spawn(rig.session.refresh()).poll();
        let _ = tx.send(refreshed.map(|outcome| outcome.map_err(|error| error.kind())));
    });
    let outcome = rx.recv_timeout(Duration::from_secs(10)).expect("it hangs");
    assert_eq!(outcome, Poll::Ready(Err(ErrorKind::Aborted)));
}

#[test]
fn p02_without_a_runtime_it_is_misconfigured() {
    fn kind<T>(work: impl Future<Output = Result<T, AuthError>>) -> Option<ErrorKind> {
        match task::spawn(work).poll() {
            Poll::Ready(outcome) => outcome.err().map(|error| error.kind()),
            Poll::Pending => panic!("it waits for a runtime"),
        }
    }
    let rig = runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(Rig::new());
    assert_eq!(kind(rig.send(get("/fresh"))), None, "nothing to do that needs one");
    let wrong = Some(ErrorKind::Misconfigured);
    assert_eq!(kind(rig.session.refresh()), wrong);
    assert_eq!(kind(rig.session.sign_in(Tokens::new("other"))), wrong);
    assert_eq!(kind(rig.session.sign_out(SignOut::Soft)), wrong);
    assert_eq!(kind(rig.session.close()), wrong);
    assert_eq!(kind(rig.restarted().open("alice")), wrong);
    drop(rig.session.keep_fresh());
    rig.expire();
    assert_eq!(kind(rig.send(get("/spent"))), wrong);
    assert_eq!(kind(rig.session.access_token()), wrong);
    assert_eq!(rig.seen.all(), ["GET /fresh Bearer a1.0"]);
}

#[test]
fn p02_without_a_timer_it_is_misconfigured() {
    let timeless = runtime::Builder::new_current_thread().build().unwrap();
    let opened = timeless.block_on(Session::builder(refresh_fn(async |_| Ok(Tokens::new("new")))).open("alice"));
    assert_eq!(opened.err().map(|error| error.kind()), Some(ErrorKind::Misconfigured));
}
