//! P17: with a fresh token a request costs no allocation of this crate's own.
//!
//! The counts are exact, and of this thread alone: `allocation_counter` is the allocator of this binary, since one of our
//! own would need `unsafe`.
#![cfg(feature = "test-util")]

#[path = "alloc/accounts.rs"]
mod accounts;
#[cfg(feature = "reqwest")]
#[path = "alloc/reqwest.rs"]
mod reqwest_client;

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};
use tower::{Layer, Service, retry::Policy, retry::Retry, service_fn};
use tower_http::auth::AddAuthorization;
use tower_reauth::{
    AuthLayer, BoxError, Capability, Denial, DenyReason, GateContext, Grants, NeverReplay, OfflineGate, OfflinePolicy,
    Origins, Rule, Sensitivity, Session, SessionBuilder, Situation, StepUp, SystemClock, Tokens, gate_fn, refresh_fn,
};

type Body = Full<Bytes>;
type Answer = Result<Response<Body>, Infallible>;

const REQUESTS: usize = 1_000;
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln";

/// The client: ready, and so is its answer, which has a `Date` (of the past: trusted time goes on).
fn client() -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Ready<Answer>> + Clone
{
    service_fn(|request: Request<Body>| {
        assert!(request.headers().contains_key(header::AUTHORIZATION));
        let mut response = Response::new(Full::default());
        response.headers_mut().insert(header::DATE, HeaderValue::from_static("Tue, 15 Nov 1994 08:12:31 GMT"));
        ready(Ok(response))
    })
}

/// Clones the request, as a replay needs it.
#[derive(Clone)]
struct Keep;

impl Policy<Request<Body>, Response<Body>, Infallible> for Keep {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<Body>, result: &mut Answer) -> Option<Ready<()>> {
        let refused = result.as_ref().is_ok_and(|response| response.status() == StatusCode::UNAUTHORIZED);
        refused.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}

/// A request of the application.
#[derive(Clone, Copy)]
struct Kind {
    headers: usize,
    /// With an extension, which `http::Request::clone` clones too.
    marked: bool,
}

impl Kind {
    fn request(self) -> Request<Body> {
        const NAMES: [&str; 6] = ["accept", "accept-encoding", "user-agent", "content-type", "content-length", "x-id"];
        let mut request = Request::put("https://api.example.com/v1/jobs/4711?expand=notes");
        for name in NAMES.into_iter().take(self.headers) {
            request = request.header(name, "2");
        }
        if self.marked {
            request = request.extension(7_u8);
        }
        request.body(Full::new(Bytes::from_static(b"{}"))).unwrap()
    }

    /// What so many requests through `service` allocate, by count and bytes; making them is not counted.
    fn count<S>(self, service: &mut S, requests: usize) -> (u64, u64)
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        count(service, (0..requests).map(|_| self.request()).collect())
    }

    /// The same after one request: the first one on a thread may allocate.
    fn count_warm<S>(self, mut service: S) -> (u64, u64)
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        self.count(&mut service, 1);
        self.count(&mut service, REQUESTS)
    }
}

/// What these requests allocate on their way, by count and bytes.
fn count<R, S: Service<R>>(service: &mut S, requests: Vec<R>) -> (u64, u64) {
    let counted = measure(|| {
        let mut cx = Context::from_waker(Waker::noop());
        for request in requests {
            let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else { panic!("the client is ready") };
            let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else {
                panic!("its answer is ready")
            };
            black_box(response);
        }
    });
    (counted.count_total, counted.bytes_total)
}

fn tokens(access: &str) -> Tokens {
    Tokens::new(access)
        .with_refresh_token("r1")
        .with_expires_in(Duration::from_secs(86_400))
        .with_date(SystemTime::now())
}

async fn signed_in(session: SessionBuilder) -> Session {
    let session = session.open("alice").await.unwrap();
    session.sign_in(tokens(TOKEN)).await.unwrap();
    session
}

/// A prompt that nobody sees.
struct Never;

impl StepUp for Never {
    async fn prompt(&self, _: Capability) -> Result<Duration, BoxError> {
        panic!("the gate has permitted")
    }
}

async fn stepped_up(session: SessionBuilder) -> Session {
    let session = signed_in(session).await;
    session.step_up(Duration::from_secs(12 * 3600));
    session.step_up(Duration::from_secs(60));
    session
}

/// A gate that looks at all there is, and permits it.
fn permit(cx: &GateContext<'_>) -> Result<(), Denial> {
    black_box((cx.capability(), cx.account(), cx.state(), cx.online(), cx.now(), cx.offline_for(), cx.since_auth()));
    black_box((cx.since_step_up(), cx.grants_age(), cx.has_scope("jobs"), cx.has_role("lead"), cx.grant_rejected()));
    if cx.token_fresh() { Ok(()) } else { Err(cx.deny(DenyReason::OnlineRequired)) }
}

/// The capability of these requests, with every condition that can be permitted.
fn policy() -> OfflinePolicy {
    const DAY: Duration = Duration::from_secs(86_400);
    let hopeless = Rule::new().role("nobody");
    let all = Rule::new().max_offline(DAY).online().token_fresh().fresh_within(DAY).read_only_after_expiry();
    OfflinePolicy::new()
        .rule(Capability::WRITE, Rule::any_of([hopeless, all]).sensitivity(Sensitivity::High))
        .tier(Sensitivity::High, Rule::any_of([Rule::new().step_up_within(DAY), Rule::new().max_offline(DAY)]))
}

/// A decision of a policy that permits allocates nothing, whatever it asks for.
#[test]
fn p17_a_policy_that_permits_allocates_nothing() {
    let grants = Grants::new().role("lead").scope("jobs").offline_until(SystemTime::UNIX_EPOCH);
    let situation = Situation::new("alice").stepped_up(Duration::ZERO).grants(grants);
    let each = Rule::new().role("lead").scope("jobs").step_up_within(Duration::ZERO);
    let policy = policy().rule("act", each.sensitivity(Sensitivity::High)).grants_max_age(Duration::ZERO);
    for capability in ["act", "write"] {
        situation.with(capability, |cx| {
            let counted = measure(|| (0..REQUESTS).for_each(|_| policy.check(black_box(cx)).unwrap()));
            assert_eq!((counted.count_total, counted.bytes_total), (0, 0), "{capability}");
        });
    }
    // What is counted would be seen.
    let text = || drop(black_box(policy.to_string()));
    assert!(measure(text).count_total > 0);
}

/// A rule that asks for an unlock, and nothing else.
fn unlocked() -> OfflinePolicy {
    const HOUR: Duration = Duration::from_secs(3600);
    OfflinePolicy::new().rule(Capability::WRITE, Rule::new().step_up_within(HOUR))
}

fn layer(session: &Session) -> AuthLayer {
    AuthLayer::new(session.clone(), Origins::new(["https://other.example.com", "https://api.example.com"]).unwrap())
}

#[test]
fn p17_nothing_is_allocated_while_the_token_is_fresh() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let builder = || Session::builder(refresh_fn(async |_| Ok(tokens("another token"))));
    let sessions = runtime.block_on(async {
        [
            ("as it comes", signed_in(builder()).await),
            ("with the system's clock", signed_in(builder().clock(SystemClock::new())).await),
            ("with a gate", signed_in(builder().gate(gate_fn(permit))).await),
            ("with a gate and a prompt", stepped_up(builder().gate(gate_fn(permit)).step_up(Never)).await),
            ("with a policy", signed_in(builder().gate(policy())).await),
            ("with a policy and a step-up", stepped_up(builder().gate(unlocked()).step_up(Never)).await),
        ]
    });
    let static_token = || AddAuthorization::bearer(client(), TOKEN).as_sensitive(true);

    for (which, session) in &sessions {
        for headers in [0, 3, 6] {
            for marked in [false, true] {
                let kind = Kind { headers, marked };
                let told = format!("{which}, {headers} headers, extensions: {marked}");

                let add = kind.count_warm(static_token());
                let never = kind.count_warm(layer(session).replay(NeverReplay).layer(client()));
                assert_eq!(never, add, "NeverReplay over AddAuthorization: {told}");

                let retry = kind.count_warm(Retry::new(Keep, static_token()));
                let auth = kind.count_warm(layer(session).layer(client()));
                assert_eq!(auth, retry, "CloneBody over Retry(AddAuthorization): {told}");
                assert!(retry.0 >= REQUESTS as u64, "a clone of the map is seen: {told}");
            }
        }
    }

    // Nor does the first request with another token.
    let (_, session) = &sessions[0];
    let (kind, mut api) = (Kind { headers: 3, marked: false }, layer(session).replay(NeverReplay).layer(client()));
    kind.count(&mut api, 1);
    let warm = kind.count(&mut api, 1);
    runtime.block_on(session.refresh()).unwrap();
    assert_eq!(kind.count(&mut api, 1), warm, "after a refresh");
}

/// Nor does the choice among accounts: by the layer, and of the active one.
#[test]
fn p17_choosing_an_account_allocates_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let accounts = runtime.block_on(async {
        let accounts =
            Session::builder(refresh_fn(async |_| Ok(tokens("another token")))).open_accounts().await.unwrap();
        for name in ["alice", "bob", "carol"] {
            accounts.open(name).await.unwrap().sign_in(tokens(TOKEN)).await.unwrap();
        }
        accounts.set_active(&"bob".into()).unwrap();
        accounts
    });
    let origins = Origins::new(["https://api.example.com"]).unwrap();
    let layer = AuthLayer::for_accounts(accounts, origins).replay(NeverReplay);
    for marked in [false, true] {
        let kind = Kind { headers: 3, marked };
        let add = kind.count_warm(AddAuthorization::bearer(client(), TOKEN).as_sensitive(true));
        assert_eq!(kind.count_warm(layer.layer(client())), add, "the active one");
        assert_eq!(kind.count_warm(layer.clone().account("carol").layer(client())), add, "the layer's");
    }
}
