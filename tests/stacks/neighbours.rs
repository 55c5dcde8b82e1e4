//! tower-http's layers, tower's `Retry` and `Timeout`: what each sees of the other's work.

use super::*;
use crate::{kit, rig};
use std::{
    future::{Ready, ready},
    sync::{Arc, Mutex},
    time::Duration,
};
use tower::{Layer, ServiceBuilder, retry, timeout::error::Elapsed, util::MapRequestLayer};
use tower_http::{
    decompression::DecompressionLayer,
    follow_redirect::{FollowRedirectLayer, policy},
    timeout::TimeoutLayer,
    trace::{DefaultMakeSpan, TraceLayer},
};
use tower_reauth::{AccountId, BufferedBody, SkipAuth, Tokens};

#[tokio::test]
async fn a_full_stack() {
    let net = Net::new().await;
    let stack = ServiceBuilder::new()
        .buffer(64)
        .layer(TraceLayer::new_for_http().make_span_with(DefaultMakeSpan::new().include_headers(true)))
        .timeout(Duration::from_secs(60))
        .layer(FollowRedirectLayer::new())
        .layer(DecompressionLayer::new())
        .layer(net.layer())
        .layer(TraceLayer::new_for_http())
        .concurrency_limit(3)
        .service(client());
    net.holds(stack).await;
}

// ===== decompression =====

#[tokio::test]
async fn decompression_outside_or_inside() {
    let text = "the same words again and again ".repeat(30);
    let net = Net::new().await;
    let outside = ServiceBuilder::new().layer(DecompressionLayer::new()).layer(net.layer()).service(client());
    let inside = ServiceBuilder::new().layer(net.layer()).layer(DecompressionLayer::new()).service(client());
    for side in ["outside", "inside"] {
        net.issuer.expire_all();
        let request = net.post("/gzip", text.clone());
        let answer = match side {
            "outside" => answer(outside.clone(), request).await,
            _ => answer(inside.clone(), request).await,
        };
        assert_eq!(answer.unwrap(), (StatusCode::OK, text.clone().into()), "{side}");
        let asked = net.api.received().into_iter().map(|request| request.headers["accept-encoding"].clone());
        assert_eq!(asked.collect::<Vec<_>>(), ["gzip"; 2], "{side}: the replay asks for the same");
    }
    let plain = ServiceBuilder::new().layer(net.layer()).service(client::<Full<Bytes>>());
    let mut request = net.post("/gzip", text.clone());
    request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
    let response = plain.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip", "it was compressed");
}

#[tokio::test]
async fn streams_both_ways() {
    let net = Net::new().await;
    let stack = net.layer().replay(BufferedBody::new(1 << 20, axum::body::Body::new)).layer(client());
    net.issuer.expire_all();
    let chunks = (0..50).map(|n| Ok::<_, std::convert::Infallible>(format!("chunk {n} ")));
    let body = axum::body::Body::from_stream(futures_util::stream::iter(chunks));
    let response = stack.oneshot(Request::post(net.api.uri("/stream")).body(body).unwrap()).await.unwrap();
    assert!(response.headers().get("content-length").is_none());
    let text = (0..50).map(|n| format!("chunk {n} ")).collect::<String>();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
    let line = |token| format!("POST /stream Bearer {token} {text}");
    assert_eq!(net.api.lines(), [line("a1.0"), line("a1.1")]);
}

// ===== redirects =====

/// Follows redirects of requests with a body too.
fn following(net: &Net) -> impl Service<Req, Response = HyperResponse, Error = BoxError, Future: Send> + Clone + use<> {
    let policy = policy::PolicyExt::and::<_, Full<Bytes>, BoxError>(
        policy::Standard::default(),
        policy::clone_body_fn(|body: &Full<Bytes>| Some(body.clone())),
    );
    ServiceBuilder::new().layer(FollowRedirectLayer::with_policy(policy)).layer(net.layer()).service(client())
}

#[tokio::test]
async fn case_25_redirects_outside_make_every_hop_a_request_of_its_own() {
    let net = Net::new().await;
    net.holds(following(&net)).await;

    let net = Net::new().await;
    net.issuer.expire_all();
    let answer = answer(following(&net), net.post("/redirect/307?/echo", "once")).await.unwrap();
    assert_eq!(answer, (StatusCode::OK, "once".into()));
    assert_eq!(
        net.api.lines(),
        [
            "POST /redirect/307?/echo Bearer a1.0 once",
            "POST /redirect/307?/echo Bearer a1.1 once",
            "POST /echo Bearer a1.1 once"
        ]
    );
}

/// The token is refused at the second hop.
#[tokio::test]
async fn case_25_a_hop_that_is_refused_is_replayed_by_itself() {
    let net = Net::new().await;
    let issuer = net.issuer.clone();
    let changing = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(net.layer())
        .map_response(move |response: HyperResponse| {
            if response.status() == StatusCode::FOUND {
                issuer.expire_all();
            }
            response
        })
        .service(client());
    let answer = answer(changing, net.post("/redirect/302?/echo", "form")).await.unwrap();
    assert_eq!(answer, (StatusCode::OK, "".into()));
    let seen = ["POST /redirect/302?/echo Bearer a1.0 form", "GET /echo Bearer a1.0 ", "GET /echo Bearer a1.1 "];
    assert_eq!(net.api.lines(), seen);
}

#[tokio::test]
async fn case_25_p10_a_redirect_takes_no_token_to_another_origin() {
    let (net, stranger) = (Net::new().await, Loopback::stranger().await);
    for status in [301, 302, 303, 307, 308] {
        let path = format!("/redirect/{status}?{}", stranger.uri("/echo"));
        let (status_, _) = answer(following(&net), net.post(&path, "body")).await.unwrap();
        assert_eq!(status_, StatusCode::OK);
        let received = stranger.received();
        assert_eq!(received.len(), 1);
        let expected = if status >= 307 { "POST /echo - body" } else { "GET /echo - " };
        assert_eq!(received[0].line(), expected);
        assert!(!format!("{received:?}").contains("a1."), "in no other header either");
        assert_eq!(net.api.received()[0].authorization(), "Bearer a1.0");
    }
    assert_eq!(net.issuer.exchanges(), 0);
}

#[tokio::test]
async fn extensions_of_a_request_hold_for_its_next_hop() {
    let (net, public) = (Net::new().await, Loopback::stranger().await);
    let layer = AuthLayer::new(net.session.clone(), Origins::new([public.origin()]).unwrap());
    let stack = ServiceBuilder::new().layer(FollowRedirectLayer::new()).layer(layer).service(client::<Full<Bytes>>());
    for (skip, token) in [(true, "-"), (false, "Bearer a1.0")] {
        let mut request = Request::get(public.uri("/redirect/302?/echo")).body(Full::default()).unwrap();
        if skip {
            request.extensions_mut().insert(SkipAuth);
        }
        assert_eq!(answer(stack.clone(), request).await.unwrap().0, StatusCode::OK);
        assert_eq!(public.lines(), [format!("GET /redirect/302?/echo {token} "), format!("GET /echo {token} ")]);
    }
}

/// To another origin, tower-http takes no extensions along, and `AccountId` is one.
#[tokio::test]
async fn p12_a_hop_to_another_allowed_origin_is_the_same_account_s_if_the_policy_keeps_its_name() {
    let (api, files) = (Loopback::stranger().await, Loopback::stranger().await); // both allowed
    let accounts = Session::builder(Issuer::new()).open_accounts().await.unwrap();
    for name in ["alice", "bob"] {
        accounts.open(name).await.unwrap().sign_in(Tokens::new(format!("{name}-1"))).await.unwrap();
    }
    let origins = Origins::new([api.origin(), files.origin()]).unwrap();
    let layer = AuthLayer::for_accounts(accounts.clone(), origins);

    let keeping = policy::FilterCredentials::new().allow_extension::<AccountId>();
    let keeping = policy::PolicyExt::and::<_, Full<Bytes>, BoxError>(policy::Limited::default(), keeping);
    let keeping = ServiceBuilder::new().layer(FollowRedirectLayer::with_policy(keeping)).layer(layer.clone());
    let dropping = ServiceBuilder::new().layer(FollowRedirectLayer::new()).layer(layer.clone());
    let one_for_each = ServiceBuilder::new().layer(FollowRedirectLayer::new()).layer(layer.account("bob"));
    let (keeping, dropping) = (keeping.service(client()), dropping.service(client()));
    let one_for_each = one_for_each.service(client());
    let request = || {
        let path = format!("/redirect/302?{}", files.uri("/echo"));
        Request::get(api.uri(&path)).extension(AccountId::new("bob")).body(Full::default()).unwrap()
    };

    let error = answer(dropping, request()).await.unwrap_err(); // nobody is active
    assert_eq!(AuthError::find(&*error).map(AuthError::kind), Some(ErrorKind::SignedOut), "{error:?}");
    assert_eq!(files.received().len(), 0);

    accounts.set_active(&AccountId::new("alice")).unwrap();
    assert_eq!(answer(keeping, request()).await.unwrap().0, StatusCode::OK);
    assert_eq!(files.lines(), ["GET /echo Bearer bob-1 "]);
    assert_eq!(answer(one_for_each, request()).await.unwrap().0, StatusCode::OK);
    assert_eq!(files.lines(), ["GET /echo Bearer bob-1 "]);
}

// ===== retries =====

/// Tries three times, and counts how often.
#[derive(Clone)]
struct Unavailable(Arc<Mutex<u32>>);

impl<E> retry::Policy<Req, HyperResponse, E> for Unavailable {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Req, result: &mut Result<HyperResponse, E>) -> Option<Ready<()>> {
        let again = result.as_ref().is_ok_and(|response| response.status() == StatusCode::SERVICE_UNAVAILABLE);
        let mut retries = self.0.lock().unwrap();
        *retries += u32::from(again);
        (again && *retries < 3).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn retries_outside_see_what_the_replay_brought() {
    let net = Net::new().await;
    let retries = Arc::default();
    let retry = retry::RetryLayer::new(Unavailable(Arc::clone(&retries)));
    let stack = ServiceBuilder::new().layer(retry).layer(net.layer()).service(client());
    net.issuer.expire_all();
    let (status, body) = answer(stack.clone(), net.post("/unsteady", "once")).await.unwrap();
    assert_eq!((status, &body[..], *retries.lock().unwrap()), (StatusCode::OK, &b"once"[..], 1));
    let line = |token| format!("POST /unsteady Bearer {token} once");
    assert_eq!(net.api.lines(), [line("a1.0"), line("a1.1"), line("a1.1")], "the retry goes out with the new token");
    assert_eq!(net.issuer.exchanges(), 1);

    let net = Net::new().await;
    let retry = retry::RetryLayer::new(Unavailable(Arc::default()));
    net.holds(ServiceBuilder::new().layer(retry).layer(net.layer()).service(client())).await;
}

// ===== timeouts, by tokio's clock =====

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_is_of_one_attempt_and_one_outside_covers_the_refresh() {
    let rig = rig::Rig::new().await;
    rig.issuer.books().takes = 20 * SEC;
    let api = || kit::api(&rig.issuer, &rig.seen);
    let inside = ServiceBuilder::new().layer(rig::layer(&rig.session)).timeout(10 * SEC).service(api());
    let outside = ServiceBuilder::new().timeout(10 * SEC).layer(rig::layer(&rig.session)).service(api());

    rig.expire();
    let response = inside.clone().oneshot(kit::get("/jobs")).await.unwrap();
    assert_eq!((response.status(), rig.issuer.exchanges()), (StatusCode::OK, 1), "the wait did not count");

    rig.expire();
    let error = outside.clone().oneshot(kit::get("/jobs")).await.unwrap_err();
    assert!(has::<Elapsed>(&error) && AuthError::find(&*error).is_none(), "{error:?}");
    rig.session.close().await.unwrap();
    let response = outside.oneshot(kit::get("/jobs")).await.unwrap();
    assert_eq!((response.status(), rig.issuer.exchanges()), (StatusCode::OK, 2), "the refresh went on without it");
    assert_eq!(rig.seen.all(), ["GET /jobs Bearer a1.1", "GET /jobs Bearer a1.2"]);

    rig.issuer.books().takes = 1 * SEC;
    rig.issuer.expire_all();
    let slow = rig::delayed(api());
    let both = ServiceBuilder::new().layer(rig::layer(&rig.session)).timeout(10 * SEC).service(slow);
    let response = both.oneshot(rig::late("/slow", 8_000)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "8 s for the 401, 8 s for the replay");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_timeout_inside_is_delivered_and_ends_nothing() {
    let rig = rig::Rig::new().await;
    let slow = rig::delayed(kit::api(&rig.issuer, &rig.seen));
    let stack = ServiceBuilder::new().layer(rig::layer(&rig.session)).timeout(10 * SEC).service(slow);
    let error = stack.clone().oneshot(rig::late("/slow", 11_000)).await.unwrap_err();
    assert!(has::<Elapsed>(&error), "{error:?}");
    assert_eq!(rig.seen.len(), 1, "and not replayed");
    assert_eq!(stack.oneshot(kit::get("/jobs")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(rig.issuer.exchanges(), 0);
}

/// tower-http's answers with a status: that is no word about the token, and no 401.
#[tokio::test(start_paused = true)]
async fn a_timeout_that_answers_with_a_status_is_an_answer() {
    let rig = rig::Rig::new().await;
    let timeout = || TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, 10 * SEC);
    let slow = || rig::delayed(kit::api(&rig.issuer, &rig.seen));
    let inside = ServiceBuilder::new().layer(rig::layer(&rig.session)).layer(timeout()).service(slow());
    let outside = ServiceBuilder::new().layer(timeout()).layer(rig::layer(&rig.session)).service(slow());
    for request in [rig::late("/slow", 11_000), kit::get("/jobs")] {
        let wanted = if request.uri().path() == "/slow" { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::OK };
        assert_eq!(inside.clone().oneshot(request.clone()).await.unwrap().status(), wanted);
        assert_eq!(outside.clone().oneshot(request).await.unwrap().status(), wanted);
    }
    assert_eq!(rig.issuer.exchanges(), 0);
}

// ===== traces =====

#[tokio::test]
async fn p16_a_trace_outside_sees_no_token_and_one_inside_sees_that_it_is_sensitive() {
    let net = Net::new().await;
    let written = Arc::new(Mutex::new(Vec::new()));
    // What `DefaultMakeSpan::include_headers` writes.
    let trace = |place: &'static str| {
        let written = written.clone();
        MapRequestLayer::new(move |request: Req| {
            written.lock().unwrap().push(format!("{place} {:?}", request.headers()));
            request
        })
    };
    let stack = ServiceBuilder::new().layer(trace("outside")).layer(net.layer()).layer(trace("inside"));
    net.issuer.expire_all();
    answer(stack.service(client()), net.post("/echo", "")).await.unwrap();
    let inside = "inside {\"authorization\": Sensitive}".to_owned();
    assert_eq!(*written.lock().unwrap(), ["outside {}".to_owned(), inside.clone(), inside]);
}
