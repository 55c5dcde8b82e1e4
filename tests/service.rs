//! What the inner service sees: readiness, permits, gRPC.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "support/rig.rs"]
mod rig;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kit::*;
use rig::*;
use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit, service_fn};
use tower_reauth::{AuthError, AuthService, BufferedBody, DenyReason, ErrorKind, gate_fn, grpc_unauthenticated};
use tower_test::mock::{self, Mock};

type MockService = AuthService<Mock<Req, Res>>;

#[allow(clippy::redundant_clone)] // a mock and its first clone share a number, and so the place of their waker
fn mocked(rig: &Rig) -> (MockService, mock::Handle<Req, Res>) {
    let (mock, handle) = mock::pair::<Req, Res>();
    let service = layer(&rig.session).layer(mock.clone());
    (service, handle)
}

/// Whether the service is ready now. It is not called, so its readiness is still there afterwards.
fn is_ready<S: Service<Req>>(service: &mut S) -> bool {
    task::spawn(std::future::poll_fn(|cx| service.poll_ready(cx))).poll().is_ready()
}

/// Whether the one permit of this limit is free. It is given back.
fn is_free<S: Service<Req> + Clone>(limit: &ConcurrencyLimit<S>) -> bool {
    is_ready(&mut limit.clone())
}

fn unauthorized() -> Res {
    Response::builder().status(401).body(Full::from("refused")).unwrap()
}

// ===== case 29 =====

/// The mock panics if it is called without having been ready, and a clone of it is not ready.
#[tokio::test(start_paused = true)]
async fn case_29_the_service_that_was_ready_is_called_and_its_clone_is_not_assumed_ready() {
    let rig = Rig::new().await;
    let (mut service, mut handle) = mocked(&rig);
    handle.allow(0);
    assert!(!is_ready(&mut service), "back-pressure reaches the caller");
    handle.allow(1);
    assert!(is_ready(&mut service));
    let mut response = task::spawn(service.call(get("/jobs")));
    assert_pending!(response.poll());
    assert!(!is_ready(&mut service));
    let (request, answer) = handle.next_request().await.unwrap();
    assert_eq!(request.headers()["authorization"], "Bearer a1.0");
    assert!(request.headers()["authorization"].is_sensitive());
    answer.send_response(Response::default());
    assert_eq!(assert_ready_ok!(response.poll()).status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn case_29_after_a_wait_the_service_is_asked_for_readiness_again() {
    let rig = Rig::new().await;
    rig.expire();
    let (mut service, mut handle) = mocked(&rig);
    handle.allow(1);
    assert!(is_ready(&mut service));
    handle.allow(0);
    let mut response = task::spawn(service.call(get("/jobs")));
    assert_pending!(response.poll());
    rig.session.close().await.unwrap();
    assert!(response.is_woken());
    assert_pending!(response.poll(), "the token is there, the service is not ready");
    assert!(!is_ready(&mut service), "what was left behind is not assumed to be");
    handle.allow(1);
    assert!(response.is_woken());
    assert_pending!(response.poll());
    let (request, answer) = handle.next_request().await.unwrap();
    assert_eq!(request.headers()["authorization"], "Bearer a1.1");
    answer.send_response(Response::default());
    assert_eq!(assert_ready_ok!(response.poll()).status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn case_29_before_a_replay_the_service_is_asked_for_readiness_again() {
    let rig = Rig::new().await;
    let (mut service, mut handle) = mocked(&rig);
    handle.allow(1);
    assert!(is_ready(&mut service));
    let mut response = task::spawn(service.call(get("/jobs")));
    handle.next_request().await.unwrap().1.send_response(unauthorized());
    assert_pending!(response.poll());
    rig.session.close().await.unwrap();
    assert_pending!(response.poll());
    handle.allow(1);
    assert_pending!(response.poll());
    let (request, answer) = handle.next_request().await.unwrap();
    assert_eq!(request.headers()["authorization"], "Bearer a1.1");
    answer.send_error("reset");
    let error = assert_ready!(response.poll()).unwrap_err();
    assert_eq!(error.to_string(), "reset");
}

#[tokio::test(start_paused = true)]
async fn case_29_an_error_of_readiness_reaches_the_caller() {
    let rig = Rig::new().await;
    let (mut service, mut handle) = mocked(&rig);
    handle.send_error("gone");
    let error = task::spawn(std::future::poll_fn(|cx| Service::<Req>::poll_ready(&mut service, cx))).poll();
    assert_eq!(assert_ready!(error).unwrap_err().to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn case_29_a_future_dropped_in_any_state_leaks_no_permit() {
    for state in ["calling", "acquiring", "readying", "refreshing", "readying for the replay"] {
        let rig = Rig::new().await;
        let (started, hold) = rig.hold();
        if state == "calling" {
            rig.issuer.books().accepted.clear();
        }
        let never = state == "calling";
        let server = api(&rig.issuer, &rig.seen);
        let server = service_fn(move |request: Req| {
            let server = server.clone();
            async move {
                if never {
                    std::future::pending::<()>().await;
                }
                server.oneshot(request).await
            }
        });
        let limit = ConcurrencyLimit::new(server, 1);
        let mut service = layer(&rig.session).layer(limit.clone());
        match state {
            "acquiring" | "readying" => rig.expire(),
            _ => rig.issuer.expire_all(),
        }
        assert!(is_ready(&mut service));
        assert!(!is_free(&limit));
        let mut response = task::spawn(service.call(get("/jobs")));
        assert_pending!(response.poll());
        if state == "calling" {
            assert!(!is_free(&limit));
        } else {
            assert!(is_free(&limit), "{state}: no permit is held while waiting for a refresh");
            started.notified().await;
        }
        if state.starts_with("readying") {
            let permit = limit.clone().ready_oneshot().await.unwrap();
            hold.add_permits(1);
            rig.session.close().await.unwrap();
            assert_pending!(response.poll(), "{state}");
            drop(permit);
            assert!(response.is_woken(), "{state}: it stands in the queue for the permit");
        }
        drop(response);
        assert!(is_free(&limit), "{state}");
        assert!(is_ready(&mut service), "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn case_29_a_request_that_is_not_forwarded_leaves_no_permit_with_an_idle_service() {
    let gate = gate_fn(|cx| Err(cx.deny(DenyReason::MissingGrant)));
    let rig = Rig::with(|builder| builder.gate(gate)).await;
    let plain = Request::get("http://api.example.com/insecure").body(Full::default()).unwrap();
    let relative = Request::get("/misconfigured").body(Full::default()).unwrap();
    for request in [get("/denied"), plain, relative] {
        let limit = ConcurrencyLimit::new(api(&rig.issuer, &rig.seen), 1);
        let mut service = layer(&rig.session).layer(limit.clone());
        let path = request.uri().path().to_owned();
        let error = service.ready().await.unwrap().call(request).await.unwrap_err();
        assert!(AuthError::find(&*error).is_some());
        assert!(is_free(&limit), "{path}: the service was called, and holds the permit all the same");
    }
}

// ===== case 44: gRPC =====

#[tokio::test(start_paused = true)]
async fn case_44_a_trailers_only_unauthenticated_is_refreshed_and_replayed_once() {
    for accepts in [true, false] {
        let rig = Rig::new().await;
        rig.issuer.expire_all();
        let (issuer, log) = (rig.issuer.clone(), Arc::new(Mutex::new(Vec::new())));
        let calls = log.clone();
        let server = service_fn(move |request: Request<Body>| {
            let (issuer, calls) = (issuer.clone(), calls.clone());
            async move {
                let token = request.headers()["authorization"].to_str().unwrap().replace("Bearer ", "");
                let taken = accepts && issuer.books().accepted.contains(&token);
                let uri = request.uri().clone();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                calls.lock().unwrap().push((uri.to_string(), token, body));
                let response = Response::builder().header("content-type", "application/grpc");
                let response = match taken {
                    true => response.body(Body::from("reply")),
                    false => response.header("grpc-status", "16").body(Body::empty()),
                };
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        let service = layer(&rig.session)
            .default_origin(ORIGIN.parse().unwrap())
            .rejected_when(grpc_unauthenticated)
            .replay(BufferedBody::new(1024, Body::new))
            .layer(server);
        let request = Request::post("/pkg.Jobs/List").body(Body::from("message")).unwrap();
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.headers().get("grpc-status").is_none(), accepts);
        let call = |token: &str| ("/pkg.Jobs/List".to_owned(), token.to_owned(), "message".into());
        assert_eq!(*log.lock().unwrap(), [call("a1.0"), call("a1.1")]);
        assert_eq!(rig.issuer.exchanges(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn case_44_other_statuses_are_delivered() {
    let rig = Rig::new().await;
    let server = service_fn(|_: Req| {
        let response = Response::builder().header("grpc-status", "7").body(Full::<bytes::Bytes>::default());
        std::future::ready(Ok::<_, Infallible>(response.unwrap()))
    });
    let layer = layer(&rig.session).rejected_when(grpc_unauthenticated);
    let response = layer.layer(server).oneshot(get("/pkg.Jobs/List")).await.unwrap();
    assert_eq!((&response.headers()["grpc-status"], rig.issuer.exchanges()), (&"7".parse().unwrap(), 0));
}

#[tokio::test(start_paused = true)]
async fn p16_services_and_futures_show_no_token() {
    let rig = Rig::new().await;
    let (service, _handle) = mocked(&rig);
    let mut response = task::spawn(service.clone().oneshot(get("/jobs")));
    assert_pending!(response.poll());
    rig.assert_secretive(&());
    let plain = layer(&rig.session).layer("a client");
    assert_eq!(format!("{plain:?}"), "AuthService { inner: \"a client\", .. }");
    let error = rig.session.sign_in(tower_reauth::Tokens::new("a1.0\n")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidToken);
    rig.assert_secretive(&error);
}
