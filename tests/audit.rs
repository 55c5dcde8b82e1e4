//! What an audit sees: every denial that was delivered is one event, and so is every answer of `authorize` and every
//! change of the state; a request that passes makes none (P14).
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "support/pin.rs"]
mod pin;
#[path = "support/rig.rs"]
mod rig;

use http::StatusCode;
use kit::*;
use pin::*;
use rig::*;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt, limit::ConcurrencyLimit};
use tower_reauth::{
    AccountId, AuthError, AuthEvent, BoxError, Capability, DenyReason, ErrorKind, FailureKind, ForwardStale, LockCause,
    NeverReplay, OfflineGate, RefreshError, SessionBuilder, SignOut, Tokens, gate_fn,
};

type Answer = Result<Res, BoxError>;

/// Denials that were delivered beside those that were told of.
struct Audit {
    rig: Rig,
    shut: Arc<AtomicBool>,
    delivered: Mutex<Vec<(String, DenyReason)>>,
    from: usize,
}

impl Audit {
    /// A session behind a gate that can be shut, and that wants a step-up for `approve`.
    async fn new(more: impl FnOnce(SessionBuilder) -> SessionBuilder) -> Self {
        let shut = Arc::<AtomicBool>::default();
        let gate = gate(shut.clone());
        let rig = Rig::with(|builder| more(builder.gate(gate))).await;
        let from = rig.log.all().len();
        Self { rig, shut, delivered: Mutex::default(), from }
    }

    fn shut(&self) {
        self.shut.store(true, Relaxed);
    }

    /// Books what a request ended with.
    fn book(&self, answer: Answer) -> Result<StatusCode, ErrorKind> {
        let error = match &answer {
            Ok(response) => AuthError::in_response(response),
            Err(error) => Some(AuthError::find(&**error).expect("an error of this crate")),
        };
        if let Some(denial) = error.and_then(AuthError::denial) {
            self.delivered.lock().unwrap().push((denial.capability().to_string(), denial.reason()));
        }
        let kind = error.map(AuthError::kind);
        answer.map(|response| response.status()).map_err(|_| kind.unwrap())
    }

    async fn send(&self, request: Req) -> Result<StatusCode, ErrorKind> {
        self.book(self.rig.api.clone().oneshot(request).await)
    }

    fn told(&self) -> Vec<(String, DenyReason)> {
        let denied = |event: &AuthEvent| match event {
            AuthEvent::Denied { account, capability, reason, .. } => {
                assert_eq!(account, &AccountId::new("alice"));
                Some((capability.to_string(), *reason))
            }
            _ => None,
        };
        self.rig.log.all()[self.from..].iter().filter_map(denied).collect()
    }

    /// Exactly these were delivered, and exactly these were told of.
    #[track_caller]
    fn agrees(&self, expected: &[(&str, DenyReason)]) {
        let expected: Vec<_> = expected.iter().map(|(name, reason)| ((*name).to_owned(), *reason)).collect();
        assert_eq!(*self.delivered.lock().unwrap(), expected, "delivered");
        assert_eq!(self.told(), expected, "told");
    }
}

fn gate(shut: Arc<AtomicBool>) -> impl OfflineGate {
    gate_fn(move |cx| match cx.capability().as_str() {
        _ if shut.load(Relaxed) => Err(cx.deny(DenyReason::MissingGrant)),
        "nobody-knows" => Err(cx.deny(DenyReason::UnknownCapability)),
        "fresh" if !cx.token_fresh() => Err(cx.deny(DenyReason::OnlineRequired)),
        "approve" if cx.since_step_up().is_none() => Err(cx.deny(DenyReason::StepUpRequired)),
        _ => Ok(()),
    })
}

fn wanting(capability: &'static str) -> Req {
    let mut request = get("/jobs");
    request.extensions_mut().insert(Capability::new(capability));
    request
}

fn plain(builder: SessionBuilder) -> SessionBuilder {
    builder
}

// ===== requests that have not left =====

#[tokio::test(start_paused = true)]
async fn p14_a_denial_before_a_request_leaves_is_one_event() {
    let audit = Audit::new(plain).await;
    assert_eq!(audit.send(get("/jobs")).await, Ok(StatusCode::OK));
    audit.agrees(&[]);
    assert_eq!(audit.rig.log.all().len(), audit.from, "a request that passes is no event");
    assert_eq!(audit.send(wanting("nobody-knows")).await, Err(ErrorKind::Denied));
    audit.rig.expire();
    audit.rig.issuer.fail(|| RefreshError::transient("down").retry_after(600 * SEC));
    assert_eq!(audit.send(wanting("nobody-knows")).await, Err(ErrorKind::Denied), "at once: no token can cure it");
    assert_eq!(audit.rig.issuer.exchanges(), 0);
    assert_eq!(audit.send(wanting("fresh")).await, Err(ErrorKind::Denied), "after the wait for a token");
    assert_eq!(audit.send(wanting("fresh")).await, Err(ErrorKind::Denied), "and without one");
    assert_eq!(audit.send(get("/jobs")).await, Err(ErrorKind::Unavailable), "which is no denial");
    audit.shut();
    let mut stale = get("/jobs");
    stale.extensions_mut().insert(ForwardStale);
    assert_eq!(audit.send(stale).await, Err(ErrorKind::Denied));
    use DenyReason::{MissingGrant, OnlineRequired, UnknownCapability};
    audit.agrees(&[
        ("nobody-knows", UnknownCapability),
        ("nobody-knows", UnknownCapability),
        ("fresh", OnlineRequired),
        ("fresh", OnlineRequired),
        ("read", MissingGrant),
    ]);
}

#[tokio::test(start_paused = true)]
async fn p14_so_is_one_after_the_wait_for_readiness_and_one_that_nobody_hears_is_none() {
    let audit = Audit::new(plain).await;
    audit.rig.expire();
    let limit = ConcurrencyLimit::new(api(&audit.rig.issuer, &audit.rig.seen), 1);
    let api = behind(&audit.rig.session, limit.clone());
    let mut requests = [(); 2].map(|()| task::spawn(api.clone().oneshot(get("/jobs"))));
    requests.iter_mut().for_each(|request| assert_pending!(request.poll()));
    let permit = limit.ready_oneshot().await.unwrap();
    audit.rig.session.close().await.unwrap();
    requests.iter_mut().for_each(|request| assert_pending!(request.poll()));
    audit.shut();
    let [first, second] = requests;
    drop((permit, second));
    assert_eq!(audit.book(first.await), Err(ErrorKind::Denied));
    audit.agrees(&[("read", DenyReason::MissingGrant)]);
}

#[tokio::test(start_paused = true)]
async fn p14_so_is_one_that_comes_of_the_state() {
    use DenyReason::{Locked, NeverAuthenticated, ReauthRequired, SignedOut};
    let audit = Audit::new(plain).await;
    audit.rig.expire();
    let (started, hold) = audit.rig.hold();
    let mut waiting = task::spawn(audit.rig.api.clone().oneshot(get("/jobs")));
    assert_pending!(waiting.poll());
    started.notified().await;
    audit.rig.session.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(audit.book(waiting.await), Err(ErrorKind::SignedOut));
    hold.add_permits(9);
    assert_eq!(audit.send(get("/jobs")).await, Err(ErrorKind::SignedOut));
    assert_eq!(audit.send(get("/jobs")).await, Err(ErrorKind::SignedOut), "within the pause between looks");
    audit.rig.session.lock(LockCause::Application).await.unwrap();
    assert_eq!(audit.send(get("/jobs")).await, Err(ErrorKind::Locked));
    audit.agrees(&[("read", SignedOut), ("read", SignedOut), ("read", SignedOut), ("read", Locked)]);

    // Without a gate, too.
    let rig = Rig::new().await;
    rig.issuer.fail(|| RefreshError::new(FailureKind::InvalidGrant).status(StatusCode::BAD_REQUEST));
    rig.expire();
    let from = rig.log.all().len();
    let audit = Audit { rig, shut: Arc::default(), delivered: Mutex::default(), from };
    assert_eq!(audit.send(get("/jobs")).await, Err(ErrorKind::ReauthRequired));
    assert_eq!(audit.send(get("/jobs")).await, Err(ErrorKind::ReauthRequired));
    audit.agrees(&[("read", ReauthRequired); 2]);

    let rig = Rig::new().await;
    let fresh = Log::default();
    let never = fresh.attach(rig.restarted()).open("alice-2").await.unwrap();
    assert_eq!(
        send(&behind(&never, api(&rig.issuer, &rig.seen)), get("/jobs")).await.unwrap_err().kind(),
        ErrorKind::SignedOut
    );
    let told: Vec<_> = fresh.all().iter().map(ToString::to_string).collect();
    assert_eq!(told, [format!("alice-2: read is denied: {NeverAuthenticated}")]);
}

// ===== requests that were refused =====

#[tokio::test(start_paused = true)]
async fn p14_a_denial_before_a_replay_is_one_event() {
    let audit = Audit::new(plain).await;
    audit.rig.issuer.expire_all();
    let (started, hold) = audit.rig.hold();
    let mut replayed = task::spawn(audit.rig.api.clone().oneshot(get("/jobs")));
    assert_pending!(replayed.poll());
    started.notified().await;
    audit.shut();
    hold.add_permits(9);
    assert_eq!(audit.book(replayed.await), Ok(StatusCode::UNAUTHORIZED), "the inner service is ready");
    audit.agrees(&[("read", DenyReason::MissingGrant)]);
}

#[tokio::test(start_paused = true)]
async fn p14_so_is_one_before_the_refused_response_goes_and_one_after_it() {
    for (goes, ready) in [(false, true), (false, false), (true, true)] {
        let audit = Audit::new(plain).await;
        audit.rig.issuer.expire_all();
        let limit = ConcurrencyLimit::new(api(&audit.rig.issuer, &audit.rig.seen), 1);
        let mut replayed = task::spawn(behind(&audit.rig.session, limit.clone()).oneshot(get("/jobs")));
        assert_pending!(replayed.poll());
        let permit = limit.ready_oneshot().await.unwrap();
        audit.rig.session.close().await.unwrap();
        if goes {
            assert_pending!(replayed.poll());
        }
        audit.shut();
        let _held = (!ready).then_some(permit);
        let expected = if goes { Err(ErrorKind::Denied) } else { Ok(StatusCode::UNAUTHORIZED) };
        assert_eq!(audit.book(replayed.await), expected);
        audit.agrees(&[("read", DenyReason::MissingGrant)]);
    }
}

#[tokio::test(start_paused = true)]
async fn p14_so_is_one_that_ends_a_refresh_and_a_401_that_nobody_could_replay_is_none() {
    for lock in [false, true] {
        let audit = Audit::new(plain).await;
        audit.rig.issuer.expire_all();
        let (started, hold) = audit.rig.hold();
        let mut refused = task::spawn(audit.rig.api.clone().oneshot(get("/jobs")));
        assert_pending!(refused.poll());
        started.notified().await;
        let reason = match lock {
            true => audit.rig.session.lock(LockCause::Application).await.map(|()| DenyReason::Locked),
            false => audit.rig.session.sign_out(SignOut::Hard).await.map(|()| DenyReason::SignedOut),
        };
        assert_eq!(audit.book(refused.await), Ok(StatusCode::UNAUTHORIZED));
        hold.add_permits(9);
        audit.agrees(&[("read", reason.unwrap())]);
    }
}

/// The session ends while the request is with its server.
#[tokio::test(start_paused = true)]
async fn p14_so_is_one_that_meets_a_session_that_has_ended() {
    for never in [false, true] {
        let audit = Audit::new(plain).await;
        audit.rig.issuer.expire_all();
        let slow = delayed(api(&audit.rig.issuer, &audit.rig.seen));
        let api = match never {
            true => boxed(layer(&audit.rig.session).replay(NeverReplay).layer(slow)),
            false => boxed(layer(&audit.rig.session).layer(slow)),
        };
        let mut requests = [10, 20].map(|delay| task::spawn(api.clone().oneshot(late("/jobs", delay))));
        requests.iter_mut().for_each(|request| assert_pending!(request.poll()));
        audit.rig.session.sign_out(SignOut::Soft).await.unwrap();
        for request in requests {
            assert_eq!(audit.book(request.await), Ok(StatusCode::UNAUTHORIZED));
        }
        // The first one starts a look into the store; one that cannot be sent again does not wait for that.
        audit.agrees(&[("read", DenyReason::SignedOut); 2][usize::from(never)..]);
    }
}

#[tokio::test(start_paused = true)]
async fn p14_a_second_401_and_a_failed_refresh_are_no_denials() {
    let audit = Audit::new(plain).await;
    audit.rig.issuer.expire_all();
    audit.rig.issuer.script(Script::Answer(Tokens::new("nobody takes it").with_refresh_token("r9.9")));
    assert_eq!(audit.send(get("/jobs")).await, Ok(StatusCode::UNAUTHORIZED));
    audit.rig.fail();
    assert_eq!(audit.send(get("/jobs")).await, Ok(StatusCode::UNAUTHORIZED));
    audit.agrees(&[]);
}

// ===== step-ups =====

#[tokio::test(start_paused = true)]
async fn p14_who_is_refused_a_step_up_is_one_event_each_and_who_passes_is_none() {
    let pin = Pin::default();
    let audit = Audit::new(|builder| builder.step_up(pin.clone())).await;
    let wait = || {
        let mut request = task::spawn(audit.rig.api.clone().oneshot(wanting("approve")));
        assert_pending!(request.poll());
        request
    };
    let requests = [wait(), wait(), wait()];
    pin.settle().await;
    audit.agrees(&[]);
    pin.answer(Err("no"));
    let [gone, first, second] = requests;
    drop(gone);
    for request in [first, second] {
        assert_eq!(audit.book(request.await), Err(ErrorKind::Denied));
    }
    assert_eq!(audit.send(wanting("approve")).await, Err(ErrorKind::Denied));
    audit.agrees(&[("approve", DenyReason::StepUpRequired); 3]);
    audit.rig.clock.advance(5 * SEC);
    let requests = [wait(), wait()];
    pin.settle().await;
    pin.answer(Ok(HOUR));
    for request in requests {
        assert_eq!(audit.book(request.await), Ok(StatusCode::OK));
    }
    audit.agrees(&[("approve", DenyReason::StepUpRequired); 3]);
    let told: Vec<_> = audit.rig.log.all()[audit.from..].iter().map(ToString::to_string).collect();
    let denied = "alice: approve is denied: the user has to unlock first";
    let refused = "alice: the step-up for approve was refused, or failed";
    let counts = "alice: stepped up for approve, which counts for 3600s";
    assert_eq!(told, [refused, denied, denied, denied, counts]);
}

// ===== authorize, and the words =====

#[tokio::test(start_paused = true)]
async fn p14_every_answer_of_authorize_and_every_change_is_a_line() {
    let audit = Audit::new(plain).await;
    let session = &audit.rig.session;
    let _ = session.authorize("read");
    let _ = session.authorize("approve");
    session.step_up(90 * SEC);
    let _ = session.authorize("approve");
    audit.rig.expire();
    audit.rig.fail();
    session.refresh().await.unwrap_err();
    session.authorize("fresh").unwrap_err();
    audit.rig.clock.advance(60 * SEC);
    session.refresh().await.unwrap();
    session.lock(LockCause::ResourceServer).await.unwrap();
    session.authorize("read\nmallory: jobs.complete is permitted\u{2028}").unwrap_err();
    let told: Vec<_> = audit.rig.log.all()[audit.from..].iter().map(ToString::to_string).collect();
    let told: Vec<_> = told.iter().map(|line| line.strip_prefix("alice: ").expect(line)).collect();
    assert!(
        told[4].starts_with("the refresh failed: the token endpoint could not be asked; not again for 1."),
        "{}",
        told[4]
    );
    assert_eq!(
        told[..4],
        [
            "read is permitted",
            "approve is denied: the user has to unlock first",
            "stepped up, which counts for 90s",
            "approve is permitted",
        ]
    );
    assert_eq!(
        told[5..],
        [
            "without a fresh token since Fri, 15 Jan 2027 08:01:41 GMT",
            "fresh is denied: the server has to be reachable",
            "refreshed, in 0ns",
            "active",
            "locked by a resource server",
            "read\\nmallory: jobs.complete is permitted\\u{2028} is denied: the account is locked",
        ]
    );
    audit.rig.assert_secretive(&told);
}
