//! One request: where its token may go, what a 401 does to it, and what the inner service sees of all that.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "support/rig.rs"]
mod rig;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use kit::*;
use rig::*;
use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_reauth::{
    AuthError, AuthEvent, AuthState, BufferedBody, Challenge, CloneBody, EmptyOnly, ErrorKind, NeverReplay, Origins,
    Replay, SkipAuth,
};

const OPENED: fn(&AuthEvent) -> bool = |event| matches!(event, AuthEvent::BreakerOpened { .. });

async fn status_and_body(api: &Api, request: Req) -> (StatusCode, Bytes) {
    let response = api.clone().oneshot(request).await.unwrap();
    (response.status(), response.into_body().collect().await.unwrap().to_bytes())
}

fn refused() -> (StatusCode, Bytes) {
    (StatusCode::UNAUTHORIZED, Bytes::from_static(b"refused"))
}

/// A server that refuses every token.
fn refusing(rig: &Rig) -> Api {
    let issuer = rig.issuer.clone();
    behind(&rig.session, before(api(&rig.issuer, &rig.seen), move || issuer.expire_all()))
}

// ===== case 7 =====

#[tokio::test(start_paused = true)]
async fn case_07_a_second_401_is_delivered_with_its_body() {
    let rig = Rig::new().await;
    assert_eq!(status_and_body(&refusing(&rig), get("/jobs")).await, refused());
    assert_eq!((rig.seen.len(), rig.issuer.exchanges()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn case_07_a_server_that_refuses_every_fresh_token_opens_a_breaker() {
    let rig = Rig::new().await;
    let api = refusing(&rig);
    for _ in 0..20 {
        assert_eq!(status_and_body(&api, get("/jobs")).await, refused());
    }
    let exchanges = rig.issuer.exchanges();
    assert!((3..=5).contains(&exchanges), "{exchanges}");
    assert_eq!(rig.seen.len() as u64, 20 + exchanges, "while it is open, a request is sent once, with a token");
    assert!(!rig.seen.all().iter().any(|seen| seen.ends_with('-')));
    assert_eq!(rig.log.count(OPENED), 1);
    let response = api.clone().oneshot(get("/jobs")).await.unwrap();
    let error = AuthError::in_response(&response).unwrap();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(30 * SEC)));
    assert_eq!(rig.session.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);
    rig.assert_secretive(error);

    rig.clock.advance(30 * SEC);
    assert_eq!(status_and_body(&api, get("/jobs")).await, refused());
    assert_eq!(rig.issuer.exchanges(), exchanges + 1);
}

#[tokio::test(start_paused = true)]
async fn p04_the_breaker_is_of_one_origin_and_does_not_stop_proactive_refreshing() {
    let rig = Rig::new().await;
    rig.issuer.books().lifetime = Some(20 * SEC);
    let refuses = tower::service_fn({
        let server = api(&rig.issuer, &rig.seen);
        let issuer = rig.issuer.clone();
        move |request: Req| {
            if request.uri().host() == Some("api.example.com") {
                issuer.expire_all();
            }
            server.clone().oneshot(request)
        }
    });
    let origins = Origins::new([ORIGIN, "https://files.example.com"]).unwrap();
    let api = boxed(tower_reauth::AuthLayer::new(rig.session.clone(), origins).layer(refuses));
    for _ in 0..10 {
        assert_eq!(send(&api, get("/jobs")).await.unwrap(), StatusCode::UNAUTHORIZED);
    }
    let exchanges = rig.issuer.exchanges();
    assert_eq!(rig.log.count(OPENED), 1);
    let elsewhere = || Request::get("https://files.example.com/").body(Full::default()).unwrap();
    assert_eq!(send(&api, elsewhere()).await.unwrap(), StatusCode::OK, "a 401 elsewhere is refreshed");
    assert_eq!(rig.issuer.exchanges(), exchanges + 1);

    rig.clock.advance(17 * SEC); // in the soft window; the breaker is open
    assert_eq!(send(&api, get("/jobs")).await.unwrap(), StatusCode::UNAUTHORIZED);
    rig.session.close().await.unwrap();
    assert_eq!(rig.issuer.exchanges(), exchanges + 2);
    assert_eq!(rig.log.count(OPENED), 1);
}

#[tokio::test(start_paused = true)]
async fn p04_tokens_that_had_expired_never_count() {
    let rig = Rig::new().await;
    rig.issuer.books().lifetime = Some(SEC);
    let (issuer, clock) = (rig.issuer.clone(), rig.clock.clone());
    let slow = before(api(&rig.issuer, &rig.seen), move || {
        issuer.expire_all();
        clock.advance(2 * SEC);
    });
    let api = behind(&rig.session, slow);
    rig.session.refresh().await.unwrap();
    for _ in 0..20 {
        let before = rig.seen.len();
        assert_eq!(status_and_body(&api, get("/jobs")).await, refused());
        assert_eq!(rig.seen.len(), before + 2);
    }
    assert_eq!(rig.log.count(OPENED), 0);
}

#[tokio::test(start_paused = true)]
async fn p04_a_server_that_names_no_lifetime_opens_the_breaker_too() {
    let rig = Rig::new().await;
    rig.issuer.books().lifetime = None;
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    let api = refusing(&rig);
    for _ in 0..10 {
        assert_eq!(status_and_body(&api, get("/jobs")).await, refused()); // its second 401 refuses a token just issued
        rig.clock.advance(3 * SEC);
    }
    assert_eq!(rig.log.count(OPENED), 1, "{} exchanges in 30 s", rig.issuer.exchanges());
}

#[tokio::test(start_paused = true)]
async fn p04_network_errors_never_count_and_one_at_the_replay_is_delivered() {
    let rig = Rig::new().await;
    let down = service_fn(async |_: Req| Err::<Res, _>(std::io::Error::other("reset")));
    let api = behind(&rig.session, down);
    for _ in 0..20 {
        let error = api.clone().oneshot(get("/jobs")).await.unwrap_err();
        assert_eq!(error.downcast::<std::io::Error>().unwrap().to_string(), "reset");
    }
    rig.issuer.expire_all();
    let server = kit::api(&rig.issuer, &rig.seen);
    let seen = rig.seen.clone();
    let replays_fail = service_fn(move |request: Req| {
        let (server, fails) = (server.clone(), seen.len() % 2 == 1);
        async move {
            match (server.oneshot(request).await, fails) {
                (Ok(response), false) => Ok(response),
                _ => Err(std::io::Error::other("reset")),
            }
        }
    });
    let api = behind(&rig.session, replays_fail);
    let error = api.oneshot(get("/jobs")).await.unwrap_err();
    assert_eq!(error.downcast::<std::io::Error>().unwrap().to_string(), "reset");
    assert_eq!((rig.seen.len(), rig.issuer.exchanges(), rig.log.count(OPENED)), (2, 1, 0));
}

// ===== case 24 =====

/// What a server read of a request: all data, and the trailers.
type Read = (Bytes, Option<HeaderMap>);

/// Reads whole requests; the first one gets a 401. Answers what it read, and what the caller got.
async fn replayed<P>(replay: P, body: Body) -> (Vec<Read>, StatusCode, Bytes, u64)
where
    P: Replay<Request<Body>> + Clone,
{
    let rig = Rig::new().await;
    let read = Arc::new(Mutex::new(Vec::new()));
    let log = read.clone();
    let server = service_fn(move |request: Request<Body>| {
        let log = log.clone();
        async move {
            let whole = request.into_body().collect().await.unwrap();
            let trailers = whole.trailers().cloned();
            let mut log = log.lock().unwrap();
            log.push((whole.to_bytes(), trailers));
            let (status, text) = if log.len() == 1 { (401, "refused") } else { (200, "done") };
            Ok::<_, Infallible>(Response::builder().status(status).body(Body::from(text)).unwrap())
        }
    });
    let service = layer(&rig.session).replay(replay).layer(server);
    let request = Request::post(format!("{ORIGIN}/upload")).body(body).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let (status, body) = (response.status(), response.into_body().collect().await.unwrap().to_bytes());
    rig.session.close().await.unwrap();
    let read = read.lock().unwrap().clone();
    (read, status, body, rig.issuer.exchanges())
}

fn streaming(trailers: bool) -> Body {
    let mut frames: Vec<_> = ["one ", "two ", "three"].map(|data| http_body::Frame::data(Bytes::from(data))).into();
    if trailers {
        frames.push(http_body::Frame::trailers(
            [("x-sum".parse().unwrap(), "42".parse().unwrap())].into_iter().collect(),
        ));
    }
    Body::new(StreamBody::new(stream::iter(frames.into_iter().map(Ok::<_, Infallible>))))
}

#[tokio::test(start_paused = true)]
async fn case_24_a_buffered_body_is_replayed_byte_for_byte() {
    let policy = BufferedBody::new(13, Body::new);
    for (body, wanted, sum) in [
        (Body::from("one two three"), "one two three", None),
        (streaming(false), "one two three", None),
        (Body::empty(), "", None),
    ] {
        let (read, status, answer, exchanges) = replayed(policy, body).await;
        let whole: Read = (Bytes::from(wanted), sum);
        assert_eq!(read, [whole.clone(), whole]);
        assert_eq!((status, &answer[..], exchanges), (StatusCode::OK, &b"done"[..], 1));
    }
}

#[tokio::test(start_paused = true)]
async fn case_24_trailers_are_replayed_too() {
    let (read, status, ..) = replayed(BufferedBody::new(1024, Body::new), streaming(true)).await;
    assert_eq!(read.len(), 2);
    assert_eq!((&read[0].0[..], read[0].1.as_ref().unwrap()["x-sum"].as_bytes()), (&b"one two three"[..], &b"42"[..]));
    assert_eq!((&read[0], status), (&read[1], StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn case_24_what_cannot_be_replayed_is_sent_once_and_gets_the_first_401() {
    let over = replayed(BufferedBody::new(12, Body::new), streaming(false)).await;
    let trailers_over = replayed(BufferedBody::new(13, Body::new), streaming(true)).await;
    let never = replayed(NeverReplay, streaming(true)).await;
    let not_empty = replayed(EmptyOnly, streaming(false)).await;
    for (read, status, body, exchanges) in [over, trailers_over, never, not_empty] {
        assert_eq!((read.len(), &read[0].0[..]), (1, &b"one two three"[..]));
        assert_eq!((status, &body[..]), (StatusCode::UNAUTHORIZED, &b"refused"[..]));
        assert_eq!(exchanges, 1, "the others want a new token");
    }
}

#[tokio::test(start_paused = true)]
async fn case_24_an_empty_body_is_replayed_by_all_but_never() {
    assert_eq!(replayed(EmptyOnly, Body::empty()).await.1, StatusCode::OK);
    assert_eq!(replayed(NeverReplay, Body::empty()).await.1, StatusCode::UNAUTHORIZED);
    let rig = Rig::new().await;
    rig.issuer.expire_all();
    assert_eq!(status_and_body(&rig.api, post("/jobs", "a body")).await, (StatusCode::OK, Bytes::from("a body")));
    assert_eq!(rig.seen.all(), ["POST /jobs Bearer a1.0", "POST /jobs Bearer a1.1"]);
    let _ = layer(&rig.session).replay(CloneBody);
}

// ===== case 25, P10 =====

#[tokio::test(start_paused = true)]
async fn case_25_p10_no_token_leaves_home() {
    let rig = Rig::new().await;
    for foreign in [
        "https://evil.test/",
        "https://api.example.com.evil.test/",
        "https://api.example.com:8443/",
        "https://api.example.com./",
        "https://api.example.com@evil.test/",
        "https://api.example.com:443@evil.test/",
        "https://user@api.example.com/",
        "https://user:pass@api.example.com:443/",
        "https://xapi.example.com/",
        "https://example.com/",
        "https://[::1]/",
        "https://127.0.0.1/",
        "https://xn--pi-7kc.example.com/",
        "http://evil.test/",
        "ftp://api.example.com/",
    ] {
        let request = Request::get(foreign).body(Full::default()).unwrap();
        assert_eq!(send(&rig.api, request).await.unwrap(), StatusCode::UNAUTHORIZED, "{foreign}");
        assert_eq!(rig.seen.all().pop().unwrap(), "GET / -", "{foreign}");
    }
    for own in ["https://api.example.com/", "https://api.example.com:443/", "https://API.Example.COM/"] {
        let request = Request::get(own).body(Full::default()).unwrap();
        assert_eq!(send(&rig.api, request).await.unwrap(), StatusCode::OK, "{own}");
    }
    assert_eq!(rig.issuer.exchanges(), 0, "a foreign 401 is nothing to us");
}

#[tokio::test(start_paused = true)]
async fn case_25_p10_other_addresses_of_loopback_are_foreign() {
    let rig = Rig::new().await;
    let origins = Origins::new(["http://127.0.0.1:3000", "http://[::1]:3000"]).unwrap();
    let layer = tower_reauth::AuthLayer::new(rig.session.clone(), origins);
    let api = boxed(layer.layer(api(&rig.issuer, &rig.seen)));
    for (uri, status) in [
        ("http://127.0.0.1:3000/", 200),
        ("http://[::1]:3000/", 200),
        ("http://[0:0:0:0:0:0:0:1]:3000/", 401),
        ("http://[::ffff:127.0.0.1]:3000/", 401),
        ("http://127.1:3000/", 401),
        ("http://localhost:3000/", 401),
        ("http://127.0.0.1:3001/", 401),
        ("https://127.0.0.1:3000/", 401),
    ] {
        let request = Request::get(uri).body(Full::default()).unwrap();
        assert_eq!(send(&api, request).await.unwrap(), status, "{uri}");
    }
    assert_eq!(rig.issuer.exchanges(), 0);
}

#[tokio::test(start_paused = true)]
async fn case_25_p10_plain_http_to_an_allowed_host_is_refused() {
    let rig = Rig::new().await;
    for uri in ["http://api.example.com/", "http://api.example.com:80/", "http://api.example.com:443/"] {
        let request = Request::get(uri).body(Full::default()).unwrap();
        assert_eq!(send(&rig.api, request).await.unwrap_err().kind(), ErrorKind::InsecureOrigin, "{uri}");
    }
    assert_eq!(rig.seen.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn case_25_p10_the_callers_own_authorization_and_skip_auth_pass_untouched() {
    let rig = Rig::new().await;
    rig.session.sign_out(tower_reauth::SignOut::Soft).await.unwrap();
    let mut own = get("/own");
    own.headers_mut().insert("authorization", "Basic dTpw".parse().unwrap());
    assert_eq!(send(&rig.api, own).await.unwrap(), StatusCode::UNAUTHORIZED);
    let mut login = post("/login", "user and password");
    login.extensions_mut().insert(SkipAuth);
    assert_eq!(send(&rig.api, login).await.unwrap(), StatusCode::UNAUTHORIZED);
    assert_eq!(rig.seen.all(), ["GET /own Basic dTpw", "POST /login -"]);
    assert_eq!(send(&rig.api, get("/jobs")).await.unwrap_err().kind(), ErrorKind::SignedOut, "refused, not sent bare");
    assert_eq!((rig.seen.len(), rig.issuer.exchanges()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn case_25_p10_a_relative_uri_needs_a_default_origin_that_is_allowed() {
    let rig = Rig::new().await;
    let relative = || Request::get("/pkg.Jobs/List").body(Full::default()).unwrap();
    assert_eq!(send(&rig.api, relative()).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    for (origin, wanted) in [
        ("https://api.example.com", None),
        ("https://API.example.com:443", None),
        ("https://evil.test", Some(ErrorKind::Misconfigured)),
        ("/nowhere", Some(ErrorKind::Misconfigured)),
        ("http://api.example.com", Some(ErrorKind::InsecureOrigin)),
    ] {
        let layer = layer(&rig.session).default_origin(origin.parse().unwrap());
        let api = boxed(layer.layer(api(&rig.issuer, &rig.seen)));
        assert_eq!(send(&api, relative()).await.err().map(|error| error.kind()), wanted, "{origin}");
    }
    assert_eq!(rig.seen.all(), ["GET /pkg.Jobs/List Bearer a1.0"; 2]);
}

// ===== cases 26 and 27 =====

async fn challenged(status: u16, challenges: &'static [&'static str]) -> (Rig, Res, usize) {
    let rig = Rig::new().await;
    let calls = Arc::new(Mutex::new(0));
    let counter = calls.clone();
    let server = service_fn(move |_: Req| {
        *counter.lock().unwrap() += 1;
        let mut response = Response::builder().status(status);
        for challenge in challenges {
            response = response.header("www-authenticate", challenge.as_bytes()); // not only ASCII
        }
        std::future::ready(Ok::<_, Infallible>(response.body(Full::from("why")).unwrap()))
    });
    let response = behind(&rig.session, server).oneshot(get("/jobs")).await.unwrap();
    let calls = *calls.lock().unwrap();
    (rig, response, calls)
}

#[tokio::test(start_paused = true)]
async fn case_27_a_step_up_or_a_scope_that_is_missing_refreshes_nothing() {
    for (status, line, error) in [
        (
            401,
            &["Basic realm=x, bearer error=\"insufficient_user_authentication\",max_age=\"5\",acr_values=\"a b\""],
            "insufficient_user_authentication",
        ),
        (401, &["Bearer error=\"insufficient_scope\", max_age=5, acr_values=\"a b\""], "insufficient_scope"),
        (403, &["Bearer error=insufficient_scope, max_age=5, acr_values=\"a b\""], "insufficient_scope"),
        (401, &["Bearer error=\"invalid_request\", max_age=5, acr_values=\"a b\""], "invalid_request"),
    ] {
        let (rig, response, calls) = challenged(status, line).await;
        let challenge = Challenge::in_response(&response).unwrap();
        assert_eq!((challenge.error(), challenge.acr_values()), (Some(error), Some("a b")));
        assert_eq!(challenge.max_age(), Some(5 * SEC));
        assert_eq!((response.status().as_u16(), calls, rig.issuer.exchanges()), (status, 1, 0));
        assert!(matches!(rig.session.state(), AuthState::Active { .. }));
        assert_eq!(&response.into_body().collect().await.unwrap().to_bytes()[..], b"why");
    }
}

#[tokio::test(start_paused = true)]
async fn case_26_only_a_401_of_our_scheme_or_without_a_challenge_is_ours() {
    for (status, challenges, calls_wanted) in [
        (401, &[] as &[&str], 2),
        (401, &["bearer"], 2),
        (401, &["Basic realm=\"x\"", ",, Bearer error=\"invalid_token"], 2),
        (401, &["=\"", "é"], 2),
        (401, &["Basic realm=\"Bearer\"", "Negotiate"], 1),
        (403, &["Bearer error=\"invalid_token\""], 1),
        (407, &["Bearer"], 1),
        (421, &["Bearer"], 1),
        (425, &["Bearer"], 1),
        (200, &["Bearer"], 1),
    ] {
        let (rig, response, calls) = challenged(status, challenges).await;
        assert_eq!((response.status().as_u16(), calls), (status, calls_wanted), "{status} {challenges:?}");
        assert_eq!(rig.issuer.exchanges() + 1, calls_wanted as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_when_adds_answers_but_never_407_421_425() {
    for (status, calls_wanted) in [(419, 2), (407, 1), (421, 1), (425, 1), (418, 1)] {
        let rig = Rig::new().await;
        let calls = Arc::new(Mutex::new(0));
        let counter = calls.clone();
        let server = service_fn(move |_: Req| {
            *counter.lock().unwrap() += 1;
            let response = Response::builder().status(status).header("x-session", "timed out");
            std::future::ready(Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap()))
        });
        let layer =
            layer(&rig.session).rejected_when(|head| head.status() != 418 && head.headers().get("x-session").is_some());
        let response = layer.layer(server).oneshot(get("/jobs")).await.unwrap();
        assert_eq!((response.status().as_u16(), *calls.lock().unwrap()), (status, calls_wanted), "{status}");
    }
}
