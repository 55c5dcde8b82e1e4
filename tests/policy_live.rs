//! The built-in gate in a running session: what the layer forwards is what the policy permits.
#![cfg(feature = "test-util")]

#[path = "support/kit.rs"]
mod kit;
#[path = "support/rig.rs"]
mod rig;

use http::StatusCode;
use kit::*;
use proptest::{collection::vec, prelude::*};
use rig::*;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tower::{ServiceExt, service_fn};
use tower_reauth::{
    AuthEvent, AuthState, Capability, DenyReason, ErrorKind, FailureKind, Grants, OfflineGate, OfflinePolicy,
    RefreshError, Remedy, Rule, Session, SessionBuilder, SignOut, gate_fn,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The shipped file, and a capability that needs a role.
fn policy() -> OfflinePolicy {
    OfflinePolicy::from_toml(include_str!("../examples/field_service.toml"))
        .unwrap()
        .rule("jobs.approve", Rule::new().role("lead").max_offline(48 * HOUR))
        .grants_max_age(72 * HOUR)
}

/// What the platform says about the network, as a test has it.
#[derive(Clone)]
struct Radio(Arc<AtomicU8>);

impl Radio {
    fn new() -> Self {
        Self(Arc::new(AtomicU8::new(1)))
    }

    fn set(&self, online: Option<bool>) {
        self.0.store(online.map_or(2, u8::from), Relaxed);
    }

    fn attach(&self, builder: SessionBuilder) -> SessionBuilder {
        let radio = self.0.clone();
        builder.connectivity(move || match radio.load(Relaxed) {
            2 => None,
            online => Some(online == 1),
        })
    }
}

async fn rig_of(radio: &Radio) -> Rig {
    Rig::with(|builder| radio.attach(builder.gate(policy()).background_refresh(false))).await
}

fn asking(capability: &'static str) -> Req {
    let mut request = post("/jobs", "x");
    request.extensions_mut().insert(Capability::new(capability));
    request
}

async fn reason(rig: &Rig, capability: &'static str) -> Result<StatusCode, DenyReason> {
    let answer = rig.send(asking(capability)).await;
    answer.map_err(|error| error.denial().unwrap_or_else(|| panic!("no denial: {error:?}")).reason())
}

/// Case 31 in the life of a session: the network goes, the hours pass, and it comes back.
#[tokio::test(start_paused = true)]
async fn case_31_three_tiers_in_a_running_session() {
    let radio = Radio::new();
    let rig = rig_of(&radio).await;
    rig.issuer.books().lifetime = Some(HOUR);
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    rig.session.step_up(100 * HOUR);
    let all = ["jobs.view", "notes.create", "jobs.complete"];
    let permitted = |session: &Session| all.map(|it| session.authorize(it).map(drop).map_err(|it| it.reason()));
    assert_eq!(permitted(&rig.session), [Ok(()); 3]);
    assert_eq!(reason(&rig, "jobs.complete").await, Ok(StatusCode::OK));

    radio.set(Some(false));
    use DenyReason::{OfflineWindowExpired, StepUpRequired};
    for (until, expected) in [
        (5 * MINUTE, [Ok(()), Ok(()), Ok(())]),
        (5 * MINUTE + SEC, [Ok(()), Ok(()), Err(OfflineWindowExpired)]),
        (12 * HOUR, [Ok(()), Ok(()), Err(OfflineWindowExpired)]),
        (12 * HOUR + SEC, [Ok(()), Err(StepUpRequired), Err(OfflineWindowExpired)]),
        (7 * DAY, [Ok(()), Err(OfflineWindowExpired), Err(OfflineWindowExpired)]),
        (7 * DAY + SEC, [Err(OfflineWindowExpired); 3]),
    ] {
        let passed = rig.session.with_gate_context("jobs.view", |cx| cx.offline_for()).unwrap();
        rig.clock.advance(until - passed);
        assert_eq!(permitted(&rig.session), expected, "after {until:?}");
    }
    assert!(matches!(rig.session.state(), AuthState::OfflineStale { .. }));
    let seen = rig.seen.len();
    let error = rig.send(asking("notes.create")).await.unwrap_err();
    assert_eq!((error.kind(), error.denial().unwrap().remedy()), (ErrorKind::Denied, Remedy::Connect));
    assert_eq!(rig.seen.len(), seen, "nothing was sent");

    // The network is back: one exchange, and the windows begin again.
    radio.set(Some(true));
    let exchanges = rig.issuer.exchanges();
    rig.session.step_up(HOUR);
    for capability in all {
        assert_eq!(reason(&rig, capability).await, Ok(StatusCode::OK));
    }
    assert_eq!(rig.issuer.exchanges(), exchanges + 1);
}

/// Case 33: permissions were lowered while offline.
#[tokio::test(start_paused = true)]
async fn case_33_grants_narrow_at_once_and_grow_old() {
    let radio = Radio::new();
    let rig = rig_of(&radio).await;
    assert_eq!(reason(&rig, "jobs.approve").await, Err(DenyReason::MissingGrant));
    rig.session.set_grants(Grants::new().role("lead")).await.unwrap();
    assert_eq!(reason(&rig, "jobs.approve").await, Ok(StatusCode::OK));
    radio.set(Some(false));
    rig.clock.advance(48 * HOUR);
    assert!(rig.session.authorize("jobs.approve").is_ok());
    radio.set(Some(true));
    rig.session.refresh().await.unwrap();
    rig.clock.advance(24 * HOUR);
    assert!(rig.session.authorize("jobs.approve").is_ok(), "72 hours old");
    rig.clock.advance(SEC);
    assert_eq!(reason(&rig, "jobs.approve").await, Err(DenyReason::MissingGrant), "older");
    rig.session.set_grants(Grants::new().role("lead")).await.unwrap();
    assert_eq!(reason(&rig, "jobs.approve").await, Ok(StatusCode::OK));
    rig.session.set_grants(Grants::new().role("other")).await.unwrap();
    assert_eq!(reason(&rig, "jobs.approve").await, Err(DenyReason::MissingGrant));
}

/// The end that the server set holds for the session that it was set for, and contact after it heals.
#[tokio::test(start_paused = true)]
async fn an_end_of_offline_use_that_the_server_set() {
    let radio = Radio::new();
    let rig = rig_of(&radio).await;
    let end = start() + 30 * SEC;
    rig.session.set_grants(Grants::new().offline_until(end)).await.unwrap();
    radio.set(Some(false));
    rig.clock.advance(30 * SEC);
    assert!(rig.session.authorize("jobs.view").is_ok());
    rig.clock.advance(SEC);
    assert_eq!(rig.session.authorize("jobs.view").unwrap_err().reason(), DenyReason::OfflineWindowExpired);
    radio.set(Some(true));
    assert!(rig.session.authorize("jobs.complete").is_ok(), "it ends offline use, not online use");
    rig.session.refresh().await.unwrap();
    assert!(rig.session.authorize("jobs.view").is_ok());
    radio.set(Some(false));
    assert_eq!(rig.session.authorize("jobs.view").unwrap_err().reason(), DenyReason::OfflineWindowExpired);
}

/// SEMANTICS §4: after an `invalid_grant` what asks for "online" or "fresh" is denied at once, the rest goes on.
#[tokio::test(start_paused = true)]
async fn a_refused_grant_ends_what_needs_the_server() {
    let rig = rig_of(&Radio::new()).await;
    rig.clock.advance(6 * MINUTE);
    rig.session.refresh().await.unwrap();
    rig.issuer.books().revoked = true;
    rig.clock.advance(30 * SEC);
    assert_eq!(rig.session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert!(matches!(rig.session.state(), AuthState::Active { reauth_pending: true, .. }));
    assert_eq!(reason(&rig, "jobs.complete").await, Ok(StatusCode::OK), "within five minutes");
    let only_online = OfflinePolicy::new().rule("jobs.complete", Rule::new().online().token_fresh());
    let answer = rig.session.with_gate_context("jobs.complete", |cx| only_online.check(cx));
    assert_eq!(answer.unwrap_err().reason(), DenyReason::ReauthRequired);
    // Once the token is spent, what reads goes on and the rest has to sign in.
    rig.clock.advance(2 * MINUTE);
    assert!(matches!(rig.session.state(), AuthState::ReauthRequired(_)));
    assert!(rig.session.authorize("jobs.view").is_ok());
    assert_eq!(rig.session.authorize("notes.create").unwrap_err().reason(), DenyReason::ReauthRequired);
}

/// P15: who is online is locked out by no window: the denial that contact would lift is contact, once for all who wait.
#[tokio::test(start_paused = true)]
async fn p15_where_there_is_network_what_only_contact_would_lift_makes_contact() {
    type Happens = fn(&Rig);
    let cases: [(Rule, Option<Duration>, Happens); 4] = [
        (Rule::new().max_offline(5 * MINUTE), Some(HOUR), |rig| rig.clock.advance(5 * MINUTE + SEC)),
        // Of unknown expiry: fresh for the layer until a 401, which needs a request that is sent.
        (Rule::new().max_offline(7 * DAY), None, |rig| rig.clock.advance(8 * DAY)),
        (Rule::new().token_fresh(), None, |rig| rig.clock.advance(2 * HOUR)),
        (Rule::new().max_offline(7 * DAY), None, |rig| {
            rig.clock.reboot();
            rig.clock.set_wall(start() - DAY);
            rig.clock.advance(MINUTE);
        }),
    ];
    for (rule, lifetime, happens) in cases {
        for online in [Some(true), None] {
            let radio = Radio::new();
            radio.set(online);
            let gate = OfflinePolicy::new().rule("write", rule.clone());
            let rig = Rig::with(|builder| radio.attach(builder.gate(gate)).background_refresh(false)).await;
            rig.issuer.books().lifetime = lifetime;
            rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
            happens(&rig);
            let denied = rig.session.authorize("write").unwrap_err();
            assert_eq!(denied.remedy(), Remedy::Connect, "{rule}");

            // Without network it stays denied, and nobody is asked; nor again and again where it does not help.
            radio.set(Some(false));
            assert!(rig.send(post("/jobs", "x")).await.is_err());
            assert_eq!((rig.issuer.exchanges(), rig.seen.len()), (0, 0), "{rule}");
            radio.set(online);
            rig.fail();
            for _ in 0..3 {
                let error = rig.send(post("/jobs", "x")).await.unwrap_err();
                assert_eq!(error.denial().map(|denial| denial.reason()), Some(denied.reason()), "{rule}");
            }
            assert_eq!((rig.issuer.exchanges(), rig.seen.len()), (1, 0), "{rule}");

            rig.clock.advance(2 * MINUTE);
            let answers = futures_util::future::join_all((0..10).map(|_| rig.send(post("/jobs", "x")))).await;
            assert!(
                answers.iter().all(|answer| answer.as_ref().is_ok_and(|status| *status == StatusCode::OK)),
                "{rule}: {answers:?}"
            );
            assert_eq!(rig.issuer.exchanges(), 2, "{rule}");
        }
    }
}

/// A gate that wants more than contact costs one exchange a minute, not one a request.
#[tokio::test(start_paused = true)]
async fn a_denial_that_contact_does_not_lift_asks_the_server_once_a_minute() {
    let rig = Rig::with(|builder| builder.gate(gate_fn(|cx| Err(cx.deny(DenyReason::OnlineRequired))))).await;
    rig.issuer.books().lifetime = Some(HOUR);
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    for (seconds, exchanges) in [(0, 0), (59, 0), (1, 1), (59, 1), (1, 2)] {
        rig.clock.advance(Duration::from_secs(seconds));
        for _ in 0..3 {
            assert_eq!(reason(&rig, "jobs.view").await, Err(DenyReason::OnlineRequired));
        }
        assert_eq!((rig.issuer.exchanges(), rig.seen.len()), (exchanges, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn looking_at_the_gates_context_is_no_event() {
    let rig = rig_of(&Radio::new()).await;
    let before = rig.log.all().len();
    let (capability, account) =
        rig.session.with_gate_context("jobs.view", |cx| (cx.capability().clone(), cx.account().clone()));
    assert_eq!((capability.as_str(), &account), ("jobs.view", rig.session.account()));
    let why = rig.session.with_gate_context("notes.create", |cx| policy().explain(cx));
    assert_eq!(why.decision(), rig.session.authorize("notes.create").map(drop));
    assert_eq!(rig.log.all().len(), before + 1, "authorize tells, looking does not");
    // A session may be used while it is looked at.
    rig.session.with_gate_context("jobs.view", |_| rig.session.step_up(HOUR));
    assert!(rig.session.authorize("notes.create").is_ok());
    rig.session.sign_out(SignOut::Soft).await.unwrap();
    let state = rig.session.with_gate_context("jobs.view", |cx| cx.state().clone());
    assert!(matches!(state, AuthState::SignedOut(_)));
}

// ===== P14: a walk at random =====

#[derive(Clone, Debug)]
enum Happens {
    Time(u64),
    WallClock(i64),
    Radio(Option<bool>),
    ServerDown,
    Revoked,
    Unlock,
    Grants(bool, Option<u64>),
    SignIn,
    SignOut,
    Request(usize),
}

const ASKED: [&str; 5] = ["jobs.view", "notes.create", "jobs.complete", "jobs.approve", "unheard of"];

fn happens() -> impl Strategy<Value = Happens> {
    let time = prop_oneof![Just(1_u64), Just(70), Just(301), Just(43_201), Just(172_801), 0..700_000_u64];
    prop_oneof![
        4 => time.prop_map(Happens::Time),
        1 => (-400_000..400_000_i64).prop_map(Happens::WallClock),
        2 => any::<Option<bool>>().prop_map(Happens::Radio),
        1 => Just(Happens::ServerDown),
        1 => Just(Happens::Revoked),
        1 => Just(Happens::Unlock),
        1 => (any::<bool>(), proptest::option::of(0..400_000_u64)).prop_map(|(lead, end)| Happens::Grants(lead, end)),
        1 => Just(Happens::SignIn),
        1 => Just(Happens::SignOut),
        6 => (0..ASKED.len()).prop_map(Happens::Request),
    ]
}

/// What reached the inner service, and whether the policy permits it there and then.
type Forwarded = Arc<Mutex<Vec<(Capability, Result<(), DenyReason>)>>>;

fn watched(rig: &Rig, forwarded: &Forwarded) -> Api {
    let (session, forwarded) = (rig.session.clone(), forwarded.clone());
    let inner = api(&rig.issuer, &rig.seen);
    behind(
        &rig.session,
        service_fn(move |request: Req| {
            let capability = request.extensions().get::<Capability>().expect("each request has one").clone();
            let answer = session.with_gate_context(capability.clone(), |cx| policy().check(cx));
            forwarded.lock().unwrap().push((capability, answer.map_err(|denial| denial.reason())));
            inner.clone().oneshot(request)
        }),
    )
}

static FORWARDED: AtomicUsize = AtomicUsize::new(0);
static DENIED: AtomicUsize = AtomicUsize::new(0);

async fn walk(steps: &[Happens]) -> Result<(), TestCaseError> {
    let radio = Radio::new();
    let rig = rig_of(&radio).await;
    let forwarded = Forwarded::default();
    let api = watched(&rig, &forwarded);
    let mut wall = start();
    for step in steps {
        match *step {
            Happens::Time(seconds) => rig.clock.advance(Duration::from_secs(seconds)),
            Happens::WallClock(by) => {
                let by_secs = Duration::from_secs(by.unsigned_abs());
                wall = if by < 0 { wall - by_secs } else { wall + by_secs };
                rig.clock.set_wall(wall);
            }
            Happens::Radio(online) => radio.set(online),
            Happens::ServerDown => {
                rig.issuer.fail(|| RefreshError::transient("down").status(StatusCode::SERVICE_UNAVAILABLE));
            }
            Happens::Revoked => rig.issuer.fail(|| RefreshError::new(FailureKind::InvalidGrant)),
            Happens::Unlock => rig.session.step_up(24 * HOUR),
            Happens::Grants(lead, end) => {
                let grants = if lead { Grants::new().role("lead") } else { Grants::new() };
                let end = end.map(|seconds| wall + Duration::from_secs(seconds));
                let _ = rig.session.set_grants(end.into_iter().fold(grants, Grants::offline_until)).await;
            }
            Happens::SignIn => rig.session.sign_in(rig.issuer.sign_in()).await.expect("the store works"),
            Happens::SignOut => rig.session.sign_out(SignOut::Soft).await.expect("the store works"),
            Happens::Request(which) => {
                let capability = ASKED[which];
                let before = forwarded.lock().unwrap().len();
                let denials = rig.log.count(|event| matches!(event, AuthEvent::Denied { .. }));
                let answer = send(&api, asking(capability)).await;
                let reached = forwarded.lock().unwrap()[before..].to_vec();
                for (reached, permitted) in &reached {
                    prop_assert_eq!(reached.as_str(), capability);
                    prop_assert!(permitted.is_ok(), "{} was forwarded: {:?}", capability, permitted);
                }
                FORWARDED.fetch_add(reached.len(), Relaxed);
                if let Err(error) = answer
                    && let Some(denial) = error.denial()
                {
                    prop_assert_eq!(denial.capability().as_str(), capability);
                    prop_assert_eq!(denial.remedy(), denial.reason().remedy());
                    let told = rig.log.count(|event| matches!(event, AuthEvent::Denied { .. }));
                    prop_assert!(told > denials, "a denial is an event");
                    DENIED.fetch_add(1, Relaxed);
                }
            }
        }
    }
    rig.session.close().await.expect("the store works");
    Ok(())
}

#[test]
fn p14_nothing_is_forwarded_that_the_policy_denies() {
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&vec(happens(), 1..60), |steps| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(walk(&steps))
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let [forwarded, denied] = [&FORWARDED, &DENIED].map(|count| count.load(Relaxed));
    assert!(forwarded > 200 && denied > 500, "a walk that meets both: {forwarded} forwarded, {denied} denied");
}
