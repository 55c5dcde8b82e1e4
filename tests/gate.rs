//! The gate is asked every time: before a request leaves, after it has waited, and before its replay.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "support/rig.rs"]
mod rig;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use kit::*;
use rig::*;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit};
use tower_reauth::{
    AccountId, AuthError, AuthEvent, AuthState, Capability, Denial, DenyReason, ErrorKind, ForwardStale, GateContext,
    LockCause, OfflineGate, RefreshError, Remedy, SignOut, Tokens, gate_fn,
};

const DENIED: fn(&AuthEvent) -> bool = |event| matches!(event, AuthEvent::Denied { .. });

/// A gate that a test opens and shuts, and that remembers what it was asked for.
#[derive(Clone, Default)]
struct Door {
    shut: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Door {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl OfflineGate for Door {
    fn check(&self, cx: &GateContext<'_>) -> Result<(), Denial> {
        self.asked.lock().unwrap().push(cx.capability().to_string());
        match self.shut.load(Relaxed) {
            true => Err(cx.deny(DenyReason::MissingGrant)),
            false => Ok(()),
        }
    }
}

async fn rig_with(door: &Door) -> Rig {
    Rig::with(|builder| builder.gate(door.clone())).await
}

fn assert_denied(error: &AuthError, reason: DenyReason, capability: &str) {
    let denial = error.denial().expect("a denial");
    assert_eq!((denial.reason(), denial.capability().as_str()), (reason, capability));
    assert_eq!(denial.remedy(), reason.remedy());
}

fn with<T: Clone + Send + Sync + 'static>(mut request: Req, extension: T) -> Req {
    request.extensions_mut().insert(extension);
    request
}

// ===== P14, case 35 =====

#[tokio::test(start_paused = true)]
async fn case_35_a_request_that_nobody_authorized_is_asked_in_the_layer() {
    let door = Door::default();
    let rig = rig_with(&door).await;
    let permit = rig.session.authorize("jobs.complete").unwrap();
    door.shut.store(true, Relaxed);
    for request in [with(get("/bg"), Capability::new("jobs.complete")), with(get("/bg"), permit)] {
        let error = rig.send(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_denied(&error, DenyReason::MissingGrant, "jobs.complete");
        assert_eq!(error.denial().unwrap().remedy(), Remedy::None);
        rig.assert_secretive(&error);
    }
    assert_eq!(rig.log.count(DENIED), 2);
    assert_eq!((rig.seen.len(), rig.issuer.exchanges()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn p14_the_gate_is_asked_again_after_the_wait_for_readiness() {
    let door = Door::default();
    let rig = rig_with(&door).await;
    rig.expire();
    let limit = ConcurrencyLimit::new(api(&rig.issuer, &rig.seen), 1);
    let mut request = task::spawn(send_to(behind(&rig.session, limit.clone()), get("/jobs")));
    assert_pending!(request.poll());
    let permit = limit.ready_oneshot().await.unwrap();
    rig.session.close().await.unwrap();
    assert_pending!(request.poll(), "it has a token and waits for the permit");
    door.shut.store(true, Relaxed);
    drop(permit);
    assert_denied(&request.await.unwrap_err(), DenyReason::MissingGrant, "read");
    assert_eq!(rig.seen.len(), 0);
    assert_eq!(rig.log.count(DENIED), 1);
}

async fn send_to(api: Api, request: Req) -> Result<StatusCode, AuthError> {
    send(&api, request).await
}

#[tokio::test(start_paused = true)]
async fn p14_what_no_token_can_cure_is_said_at_once_and_the_rest_waits_for_a_token() {
    for (reason, exchanges) in [(DenyReason::UnknownCapability, 0), (DenyReason::OnlineRequired, 1)] {
        let rig = Rig::with(|builder| builder.gate(gate_fn(move |cx| Err(cx.deny(reason))))).await;
        rig.expire();
        assert_denied(&rig.send(post("/jobs", "")).await.unwrap_err(), reason, "write");
        assert_eq!((rig.issuer.exchanges(), rig.seen.len()), (exchanges, 0));
    }
    let cured = gate_fn(|cx| if cx.token_fresh() { Ok(()) } else { Err(cx.deny(DenyReason::OnlineRequired)) });
    let rig = Rig::with(|builder| builder.gate(cured)).await;
    rig.expire();
    assert_eq!(rig.send(get("/jobs")).await.unwrap(), StatusCode::OK);
    assert_eq!(rig.log.count(DENIED), 0);
}

#[tokio::test(start_paused = true)]
async fn p14_states_deny_before_the_gate_is_asked() {
    let door = Door::default();
    let rig = rig_with(&door).await;
    rig.session.lock(LockCause::Application).await.unwrap();
    let error = rig.send(get("/jobs")).await.unwrap_err();
    assert_eq!((error.kind(), error.denial().unwrap().remedy()), (ErrorKind::Locked, Remedy::ContactAdmin));
    rig.session.sign_out(SignOut::Hard).await.unwrap();
    let error = rig.send(get("/jobs")).await.unwrap_err();
    assert_eq!((error.kind(), error.denial().unwrap().remedy()), (ErrorKind::SignedOut, Remedy::SignIn));
    let never = rig.restarted().open("carol").await.unwrap();
    assert_eq!(never.authorize("read").unwrap_err().reason(), DenyReason::NeverAuthenticated);
    assert_eq!((door.asked().len(), rig.seen.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn p12_another_account_in_the_request_is_misconfigured() {
    let rig = Rig::new().await;
    let bob = rig.restarted().open("bob").await.unwrap();
    bob.sign_in(Tokens::new("bobs")).await.unwrap();
    let permit = bob.authorize("read").unwrap();
    for request in [with(get("/jobs"), AccountId::new("bob")), with(get("/jobs"), permit)] {
        assert_eq!(rig.send(request).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    }
    let tenant = AccountId::new("alice").with_tenant("acme");
    assert_eq!(rig.send(with(get("/jobs"), tenant)).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    let api_of_bob = boxed(layer(&rig.session).account("bob").layer(api(&rig.issuer, &rig.seen)));
    assert_eq!(send(&api_of_bob, get("/jobs")).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    assert_eq!(rig.seen.len(), 0);
    assert_eq!(rig.send(with(get("/jobs"), AccountId::new("alice"))).await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_permit_outranks_an_extension_which_outranks_the_layer_which_outranks_the_method() {
    let door = Door::default();
    let rig = rig_with(&door).await;
    let permit = rig.session.authorize("permit").unwrap();
    let mapped = layer(&rig.session).capability(|head| {
        assert!(head.headers().get("authorization").is_none());
        head.path().starts_with("/mapped").then(|| Capability::new("mapped"))
    });
    let api = boxed(mapped.layer(api(&rig.issuer, &rig.seen)));
    let extended = with(get("/mapped"), Capability::new("extension"));
    let options = Request::options(format!("{ORIGIN}/")).body(Full::<Bytes>::default()).unwrap();
    for request in [with(extended.clone(), permit), extended, get("/mapped"), get("/"), options, post("/", "")] {
        assert_eq!(send(&api, request).await.unwrap(), StatusCode::OK);
    }
    assert_eq!(door.asked(), ["permit", "permit", "extension", "mapped", "read", "read", "write"]);
}

#[tokio::test(start_paused = true)]
async fn answers_of_authorize_denials_and_changes_are_events_and_an_allowed_request_is_none() {
    let door = Door::default();
    let rig = rig_with(&door).await;
    let before = rig.log.all().len();
    assert_eq!(rig.send(get("/jobs")).await.unwrap(), StatusCode::OK);
    assert_eq!(rig.log.all().len(), before);
    rig.session.authorize("jobs").unwrap();
    door.shut.store(true, Relaxed);
    let denial = rig.session.authorize("jobs").unwrap_err();
    assert_eq!((denial.reason(), denial.remedy()), (DenyReason::MissingGrant, Remedy::None));
    rig.send(get("/jobs")).await.unwrap_err();
    rig.session.sign_out(SignOut::Soft).await.unwrap();
    let events: Vec<_> = rig.log.all()[before..].iter().map(name).collect();
    assert_eq!(events, ["permitted jobs", "denied jobs", "denied read", "signed out"]);
    assert!(rig.log.all().iter().all(|event| event.account() == &AccountId::new("alice")));
}

fn name(event: &AuthEvent) -> String {
    match event {
        AuthEvent::Permitted { capability, .. } => format!("permitted {capability}"),
        AuthEvent::Denied { capability, .. } => format!("denied {capability}"),
        AuthEvent::StateChanged { state: AuthState::SignedOut(_), .. } => "signed out".into(),
        other => format!("{other:?}"),
    }
}

// ===== ForwardStale =====

#[tokio::test(start_paused = true)]
async fn forward_stale_sends_a_spent_token_if_the_gate_consents() {
    let door = Door::default();
    let rig = rig_with(&door).await;
    rig.expire();
    rig.issuer.fail(|| RefreshError::transient("busy").retry_after(600 * SEC));
    assert_eq!(rig.send(get("/jobs")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let stale = || with(get("/jobs"), ForwardStale);
    assert_eq!(rig.send(stale()).await.unwrap(), StatusCode::UNAUTHORIZED);
    let always = boxed(layer(&rig.session).forward_stale().layer(api(&rig.issuer, &rig.seen)));
    assert_eq!(send(&always, get("/jobs")).await.unwrap(), StatusCode::UNAUTHORIZED);
    assert_eq!(rig.seen.all(), ["GET /jobs Bearer a1.0"; 2]);
    door.shut.store(true, Relaxed);
    assert_denied(&rig.send(stale()).await.unwrap_err(), DenyReason::MissingGrant, "read");
    assert_eq!((rig.seen.len(), rig.issuer.exchanges()), (2, 1));
    rig.session.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(rig.send(stale()).await.unwrap_err().kind(), ErrorKind::SignedOut, "no token at all");
}

#[tokio::test(start_paused = true)]
async fn forward_stale_still_waits_for_a_flight_that_may_work() {
    let rig = Rig::new().await;
    rig.expire();
    assert_eq!(rig.send(with(get("/jobs"), ForwardStale)).await.unwrap(), StatusCode::OK);
    assert_eq!(rig.seen.all(), ["GET /jobs Bearer a1.1"]);
}

// ===== case 45 =====

/// A request gets a 401; while its refresh is held, `change` happens. Answers the reason and kind of what is delivered.
async fn between(gate: impl OfflineGate, change: impl AsyncFnOnce(&Rig)) -> (ErrorKind, Option<DenyReason>) {
    let rig = Rig::with(|builder| builder.gate(gate)).await;
    rig.issuer.expire_all();
    rig.session.step_up(60 * SEC);
    let (started, hold) = rig.hold();
    let api = rig.api.clone();
    let mut request = task::spawn(api.oneshot(get("/jobs")));
    assert_pending!(request.poll());
    started.notified().await;
    change(&rig).await;
    hold.add_permits(1);
    let response = request.await.unwrap();
    assert_eq!(rig.seen.all(), ["GET /jobs Bearer a1.0"]);
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let error = AuthError::in_response(&response).expect("why it was not replayed").clone();
    rig.assert_secretive(&error);
    assert_eq!(&response.into_body().collect().await.unwrap().to_bytes()[..], b"refused");
    (error.kind(), error.denial().map(Denial::reason))
}

#[tokio::test(start_paused = true)]
async fn case_45_signed_out_between_the_401_and_the_replay() {
    let sign_out = async |rig: &Rig| rig.session.sign_out(SignOut::Soft).await.unwrap();
    let delivered = between(Door::default(), sign_out).await;
    assert_eq!(delivered, (ErrorKind::SignedOut, Some(DenyReason::SignedOut)));
}

#[tokio::test(start_paused = true)]
async fn case_45_locked_between_the_401_and_the_replay() {
    let lock = async |rig: &Rig| rig.session.lock(LockCause::ResourceServer).await.unwrap();
    let delivered = between(Door::default(), lock).await;
    assert_eq!(delivered, (ErrorKind::Locked, Some(DenyReason::Locked)));
}

#[tokio::test(start_paused = true)]
async fn case_45_grants_narrowed_by_the_refresh() {
    let gate = gate_fn(|cx| if cx.has_scope("jobs") { Ok(()) } else { Err(cx.deny(DenyReason::MissingGrant)) });
    let rig = Rig::with(|builder| builder.gate(gate)).await;
    rig.session.sign_in(rig.issuer.sign_in().with_scope("jobs notes")).await.unwrap();
    rig.issuer.expire_all();
    rig.issuer.script(Script::Answer(Tokens::new("narrow").with_refresh_token("r1.1").with_scope("notes")));
    let response = rig.api.clone().oneshot(get("/jobs")).await.unwrap();
    assert_eq!((response.status(), rig.seen.len()), (StatusCode::UNAUTHORIZED, 1));
    assert_denied(AuthError::in_response(&response).unwrap(), DenyReason::MissingGrant, "read");
    assert_eq!(rig.log.count(DENIED), 1);
}

#[tokio::test(start_paused = true)]
async fn case_45_the_step_up_window_closed() {
    let gate = gate_fn(|cx| match cx.since_step_up() {
        Some(age) if age <= 60 * SEC => Ok(()),
        _ => Err(cx.deny(DenyReason::StepUpRequired)),
    });
    let close = async |rig: &Rig| rig.clock.advance(61 * SEC);
    let delivered = between(gate, close).await;
    assert_eq!(delivered, (ErrorKind::Denied, Some(DenyReason::StepUpRequired)));
}

#[tokio::test(start_paused = true)]
async fn case_45_signed_out_or_locked_while_the_replay_waits_for_readiness() {
    for lock in [false, true] {
        let rig = Rig::new().await;
        rig.issuer.expire_all();
        let limit = ConcurrencyLimit::new(api(&rig.issuer, &rig.seen), 1);
        let mut request = task::spawn(behind(&rig.session, limit.clone()).oneshot(get("/jobs")));
        assert_pending!(request.poll());
        let permit = limit.ready_oneshot().await.unwrap();
        rig.session.close().await.unwrap();
        assert_pending!(request.poll());
        let reason = match lock {
            true => rig.session.lock(LockCause::Application).await.map(|()| DenyReason::Locked),
            false => rig.session.sign_out(SignOut::Hard).await.map(|()| DenyReason::SignedOut),
        };
        drop(permit);
        // The 401 went before the wait, since it may hold what is waited for: the denial comes as the error.
        let error = request.await.unwrap_err();
        assert_denied(AuthError::find(&*error).unwrap(), reason.unwrap(), "read");
        assert_eq!(rig.seen.len(), 1, "nothing is sent");
    }
}

/// A pool of one connection, which the body of the 401 holds until it is dropped.
#[tokio::test(start_paused = true)]
async fn case_06_a_401_that_holds_the_only_connection_does_not_stop_its_replay() {
    let rig = Rig::new().await;
    rig.issuer.expire_all();
    let pool = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let auth = layer(&rig.session);
    let request = auth.layer(Pooled::new(api(&rig.issuer, &rig.seen), pool)).oneshot(get("/jobs"));
    let response = tokio::time::timeout(60 * SEC, request).await.expect("it hangs").unwrap();
    assert_eq!((response.status(), rig.seen.len()), (StatusCode::OK, 2));
}

/// Ready while a connection is free; a response keeps it until it is dropped.
struct Pooled<S> {
    inner: S,
    pool: std::sync::Arc<tokio::sync::Semaphore>,
    waiting: Option<Pin<Box<dyn Future<Output = tokio::sync::OwnedSemaphorePermit> + Send>>>,
    free: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl<S> Pooled<S> {
    fn new(inner: S, pool: std::sync::Arc<tokio::sync::Semaphore>) -> Self {
        Self { inner, pool, waiting: None, free: None }
    }
}

impl<S: Clone> Clone for Pooled<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.pool.clone())
    }
}

impl<S> Service<Req> for Pooled<S>
where
    S: Service<Req, Response = Res, Future: Send + 'static>,
{
    type Response = Res;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Res, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        while self.free.is_none() {
            let pool = self.pool.clone();
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(async { pool.acquire_owned().await.unwrap() }));
            self.free = Some(std::task::ready!(waiting.as_mut().poll(cx)));
            self.waiting = None;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let connection = std::sync::Arc::new(self.free.take().expect("not ready"));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            response.extensions_mut().insert(connection);
            Ok(response)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn case_45_a_failed_refresh_delivers_the_original_401_with_its_error() {
    let rig = Rig::new().await;
    rig.issuer.expire_all();
    rig.fail();
    let response = rig.api.clone().oneshot(post("/jobs", "body")).await.unwrap();
    assert_eq!((response.status(), rig.seen.len()), (StatusCode::UNAUTHORIZED, 1));
    let error = AuthError::in_response(&response).unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.denial().is_none() && error.retry_after().is_some());
    assert_eq!(&response.into_body().collect().await.unwrap().to_bytes()[..], b"refused");
}

#[tokio::test(start_paused = true)]
async fn p13_a_request_that_waits_is_denied_by_a_sign_out_or_a_lock() {
    for lock in [false, true] {
        let rig = Rig::new().await;
        rig.expire();
        let (started, hold) = rig.hold();
        let mut request = task::spawn(rig.send(get("/jobs")));
        assert_pending!(request.poll());
        started.notified().await;
        let reason = match lock {
            true => rig.session.lock(LockCause::Application).await.map(|()| DenyReason::Locked),
            false => rig.session.sign_out(SignOut::Soft).await.map(|()| DenyReason::SignedOut),
        };
        hold.add_permits(1);
        assert_denied(&request.await.unwrap_err(), reason.unwrap(), "read");
        assert_eq!(rig.seen.len(), 0);
    }
}

/// Nobody has asked since the token was spent: what an interface is told is what a request would be.
#[tokio::test(start_paused = true)]
async fn p14_authorize_and_with_gate_context_see_that_the_token_is_spent_by_now() {
    for explained in [false, true] {
        let stale = |cx: &GateContext<'_>| matches!(cx.state(), AuthState::OfflineStale { .. });
        let gate = gate_fn(move |cx| if stale(cx) { Err(cx.deny(DenyReason::ReadOnly)) } else { Ok(()) });
        let rig = Rig::with(|builder| builder.gate(gate)).await;
        rig.issuer.fail(|| RefreshError::transient("busy").retry_after(600 * SEC));
        rig.session.refresh().await.unwrap_err();
        assert!(rig.session.authorize("write").is_ok(), "it may be used up");
        rig.expire();
        match explained {
            true => assert!(rig.session.with_gate_context("write", stale)),
            false => assert_eq!(rig.session.authorize("write").unwrap_err().reason(), DenyReason::ReadOnly),
        }
    }
}
