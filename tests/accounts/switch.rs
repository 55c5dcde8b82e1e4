//! Case 37: another account is made the active one while a request waits. It goes out with the token of the account that
//! it was made for, or not at all (P12).

use crate::{
    kit::{Req, get, post},
    pin::{HOUR, Pin, unlocked},
    town::Town,
};
use http::StatusCode;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt, limit::ConcurrencyLimit, service_fn};
use tower_reauth::{
    AuthError, BoxError, Capability, DenyReason, ErrorKind, MemoryStore, RefreshError, SignOut, StepUp, gate_fn,
};

type Sent = task::Spawn<futures_util::future::BoxFuture<'static, Result<http::Response<()>, BoxError>>>;

/// Alice's request, made while she is the active one.
fn alices(town: &Town) -> Sent {
    town.activate("alice");
    let sent = town.api().oneshot(get("/jobs"));
    let mut sent: Sent = task::spawn(Box::pin(async move { Ok(sent.await?.map(drop)) }));
    assert_pending!(sent.poll(), "it waits");
    sent
}

fn kind(outcome: Result<http::Response<()>, BoxError>) -> ErrorKind {
    AuthError::find(&*outcome.unwrap_err()).expect("an error of this crate").kind()
}

/// What may become of alice while her request waits for a refresh.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Renewed,
    Failed,
    SignedOut,
}

async fn decide(town: &Town, fate: Fate, hold: &Semaphore) {
    town.activate("bob");
    if fate == Fate::SignedOut {
        town.session("alice").sign_out(SignOut::Soft).await.unwrap();
    }
    hold.add_permits(1);
}

#[tokio::test(start_paused = true)]
async fn case_37_p12_a_switch_while_it_waits_for_a_refresh() {
    for fate in [Fate::Renewed, Fate::Failed, Fate::SignedOut] {
        let town = Town::new(MemoryStore::new()).await;
        let (started, hold): (std::sync::Arc<Notify>, _) = town.issuer("alice").hold();
        if fate == Fate::Failed {
            town.issuer("alice").fail(|| RefreshError::transient("down"));
        }
        town.expire();
        town.session("bob").refresh().await.unwrap(); // his is fresh, and near at hand
        let sent = alices(&town);
        started.notified().await;
        decide(&town, fate, &hold).await;
        let outcome = sent.await;
        let seen = town.seen.all();
        match fate {
            Fate::Renewed => {
                assert_eq!((outcome.unwrap().status(), &*seen[0]), (StatusCode::OK, "GET /jobs Bearer a10.1"))
            }
            Fate::Failed => assert_eq!((kind(outcome), seen.len()), (ErrorKind::Unavailable, 0)),
            Fate::SignedOut => assert_eq!((kind(outcome), seen.len()), (ErrorKind::SignedOut, 0)),
        }
        assert_eq!(town.accounts.active().unwrap().account().subject(), "bob");
    }
}

#[tokio::test(start_paused = true)]
async fn case_37_p12_a_switch_while_it_waits_for_a_step_up() {
    for answer in [Ok(HOUR), Err("not she")] {
        let pin = Pin::default();
        let town =
            Town::with(MemoryStore::new(), &["alice", "bob"], |builder| builder.gate(unlocked()).step_up(pin.clone()));
        let town = town.await;
        town.session("bob").step_up(12 * HOUR);
        let mut sent = alices_note(&town);
        assert_pending!(sent.poll());
        pin.settle().await;
        town.activate("bob");
        assert!(pin.answer(answer), "she is asked");
        match answer {
            Ok(_) => assert_eq!(sent.await.unwrap().status(), StatusCode::OK),
            Err(_) => assert_eq!(kind(sent.await), ErrorKind::Denied),
        }
        let expected: &[&str] = if answer.is_ok() { &["POST /notes Bearer a10.0"] } else { &[] };
        assert_eq!((town.seen.all(), pin.shown().len()), (expected.iter().map(|it| it.to_string()).collect(), 1));
    }
}

fn alices_note(town: &Town) -> Sent {
    town.activate("alice");
    let sent = town.api().oneshot(post("/notes", "a note"));
    task::spawn(Box::pin(async move { Ok(sent.await?.map(drop)) }))
}

#[tokio::test(start_paused = true)]
async fn case_37_p12_a_switch_between_the_401_and_the_replay() {
    for fate in [Fate::Renewed, Fate::Failed, Fate::SignedOut] {
        let town = Town::new(MemoryStore::new()).await;
        let (started, hold) = town.issuer("alice").hold();
        if fate == Fate::Failed {
            town.issuer("alice").fail(|| RefreshError::transient("down"));
        }
        town.issuer("alice").expire_all();
        let sent = alices(&town);
        started.notified().await;
        decide(&town, fate, &hold).await;
        let response = sent.await.unwrap();
        let why = AuthError::in_response(&response).map(AuthError::kind);
        let expected = match fate {
            Fate::Renewed => (StatusCode::OK, None),
            Fate::Failed => (StatusCode::UNAUTHORIZED, Some(ErrorKind::Unavailable)),
            Fate::SignedOut => (StatusCode::UNAUTHORIZED, Some(ErrorKind::SignedOut)),
        };
        assert_eq!((response.status(), why), expected, "{fate:?}");
        let lines: &[&str] = match fate {
            Fate::Renewed => &["GET /jobs Bearer a10.0", "GET /jobs Bearer a10.1"],
            _ => &["GET /jobs Bearer a10.0"],
        };
        assert_eq!(town.seen.all(), lines);
    }
}

/// The token is there, and the inner service is not ready: the last moment before it leaves, and before it is replayed.
#[tokio::test(start_paused = true)]
async fn case_37_p12_a_switch_while_the_inner_service_is_not_ready() {
    for refused in [false, true] {
        let town = Town::new(MemoryStore::new()).await;
        let (api, tokens) = (town.api_itself(), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
        let record = tokens.clone();
        let inner = service_fn(move |request: Req| {
            let token = request.headers()["authorization"].to_str().unwrap().to_owned();
            record.lock().unwrap().push(token);
            api.clone().oneshot(request)
        });
        let limit = ConcurrencyLimit::new(inner, 1);
        let service = town.layer().layer(limit.clone());
        let (started, hold) = town.issuer("alice").hold();
        match refused {
            true => town.issuer("alice").expire_all(),
            false => town.expire(),
        }
        town.activate("alice");
        let mut sent = task::spawn(service.oneshot(get("/jobs")));
        assert_pending!(sent.poll());
        started.notified().await;
        let permit = limit.ready_oneshot().await.unwrap();
        hold.add_permits(1);
        town.session("alice").close().await.unwrap();
        assert_pending!(sent.poll(), "its token is there, the permit is not");
        town.activate("bob");
        drop(permit);
        assert_eq!(sent.await.unwrap().status(), StatusCode::OK);
        let expected: &[&str] = if refused { &["Bearer a10.0", "Bearer a10.1"] } else { &["Bearer a10.1"] };
        assert_eq!(*tokens.lock().unwrap(), expected);
    }
}

/// A user who unlocks whatever is asked, each time anew.
struct Unlocks;

impl StepUp for Unlocks {
    async fn prompt(&self, _: Capability) -> Result<Duration, BoxError> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Duration::from_millis(500))
    }
}

/// Back and forth all the time, while tokens expire, are refused, and cannot be had.
#[tokio::test(start_paused = true)]
async fn p12_a_request_never_goes_out_with_anothers_token() {
    let gate = gate_fn(|cx| match cx.since_step_up() {
        None if cx.capability().as_str() == "write" => Err(cx.deny(DenyReason::StepUpRequired)),
        _ => Ok(()),
    });
    let subjects = ["alice", "bob"];
    let town = Town::with(MemoryStore::new(), &subjects, |builder| builder.gate(gate).step_up(Unlocks)).await;
    let api = town.api();
    let mut requests = Vec::new();
    for round in 0..400_usize {
        // Whose it is stands in the path too.
        let (subject, path) = [("alice", "/alice"), ("bob", "/bob")][round % 2];
        town.activate(subject);
        let request = if round % 3 == 0 { post(path, "{}") } else { get(path) };
        requests.push(tokio::spawn(api.clone().oneshot(request)));
        match round % 40 {
            3 | 4 => town.issuer(subject).expire_all(),
            11 => town.expire(),
            20 | 23 => town.issuer(subject).fail(|| RefreshError::transient("down")),
            25 => town.expire(),
            _ => {}
        }
        let step = Duration::from_millis(10 + 30 * (round % 7) as u64);
        town.clock.advance(step);
        tokio::time::sleep(step).await;
    }
    let mut refused = 0;
    for request in requests {
        if let Err(error) = request.await.unwrap() {
            let error = AuthError::find(&*error).expect("an error of this crate");
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            refused += 1;
        }
    }
    let seen = town.seen.all();
    assert!(seen.len() > 200 && refused > 10, "{} {refused}", seen.len());
    for line in seen {
        let mine = if line.contains("/alice") { "Bearer a10." } else { "Bearer a20." };
        assert!(line.contains(mine), "{line}");
    }
}
