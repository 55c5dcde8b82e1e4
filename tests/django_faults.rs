//! The odd answers of django-oauth-toolkit, and an answer that is lost, with and without a grace period.
#![cfg(feature = "__server-tests")]
#![allow(clippy::unwrap_used)] // a test

#[path = "support/django.rs"]
mod django;

use django::{
    Rig,
    life::{ACTIVE, PENDING, assert_401, assert_ok, state, tokens},
};
use http::{
    Request, StatusCode,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;
use tower::ServiceExt as _;
use tower_reauth::{AuthState, Challenge, ErrorKind, HyperTokens, ReauthCause, Session, Tokens};

/// Signed in with an access token that only we believe in.
async fn with_a_token_it_does_not_take(rig: &Rig) -> Session {
    let session = rig.open().await;
    let seeded = rig.server.seed("alice", "pub").await;
    let held = Tokens::new("unknown-here").with_expires_in(Duration::from_secs(3600));
    session.sign_in(held.with_refresh_token(&*seeded.refresh_token)).await.unwrap();
    session
}

/// A wrong secret: the *token* endpoint answers 401 with a `Bearer` challenge, which is no 401 of the API.
#[tokio::test]
async fn case_05_a_bearer_challenge_of_the_token_endpoint_is_misconfigured_and_costs_no_tokens() {
    let rig = Rig::start(60, 0).await;
    let open = async |secret: &str| {
        rig.with(rig.client("conf-basic").secret(secret).http(HyperTokens::new())).open("alice").await.unwrap()
    };
    let session = open("wrong").await;
    let seeded = rig.server.seed("alice", "conf-basic").await;
    session.sign_in(tokens(&seeded)).await.unwrap();
    let error = session.refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert_eq!(state(&session), ACTIVE);
    assert_ok(rig.get(&rig.api(&session)).await, "alice");
    let record = rig.record().await;
    assert_eq!((&record["refresh_token"], &record["journal"]), (&json!(seeded.refresh_token), &Value::Null));
    let counts = rig.server.counts().await;
    assert_eq!((counts.token_requests, counts.api_requests, counts.api_401), (1, 1, 0), "no recursion");

    let mended = open("conf-secret").await;
    mended.reconnected(); // the pause that was written down ends by hand
    mended.refresh().await.unwrap();
    assert_eq!(rig.server.counts().await.rotations, 1);
}

#[tokio::test]
async fn case_26_a_challenge_without_spaces_is_read_and_cured() {
    let rig = Rig::start(60, 0).await;
    let session = with_a_token_it_does_not_take(&rig).await;
    // What it says, so that this test notices when another version says something else.
    let asked = Request::get(rig.server.url("/api/me")).header(AUTHORIZATION, "Bearer unknown-here");
    let refusal = rig.server.send(asked.body(Full::default()).unwrap()).await;
    let said = refusal.headers[WWW_AUTHENTICATE].to_str().unwrap();
    assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
    assert!(said.starts_with("Bearer error=\"invalid_token\",error_description=\""), "{said}");
    assert!(said.contains("\",resource_metadata=\"http://"), "{said}");
    rig.server.reset().await;

    assert_ok(rig.get(&rig.api(&session)).await, "alice");
    let counts = rig.server.counts().await;
    assert_eq!((counts.rotations, counts.api_requests, counts.api_401), (1, 2, 1));
    assert_eq!(state(&session), ACTIVE);
}

/// Its default decorator: nothing tells this 403 from one that no other token would change.
#[tokio::test]
async fn a_403_without_a_challenge_is_delivered_unless_the_application_knows_it() {
    let rig = Rig::start(60, 0).await;
    let session = with_a_token_it_does_not_take(&rig).await;
    let answer = rig.get_from(&rig.api(&session), "/api/plain").await.unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.error.is_none());
    assert_eq!((state(&session), rig.server.counts().await.token_requests), (ACTIVE.to_owned(), 0));

    let knowing = django::over(rig.layer(&session).rejected_when(|head| head.status() == StatusCode::FORBIDDEN));
    assert_ok(rig.get_from(&knowing, "/api/plain").await, "alice");
    let counts = rig.server.counts().await;
    assert_eq!((counts.rotations, counts.api_403), (1, 2));
}

/// The server rotated and its answer was lost. It takes the old token for a while, and answers with the same successor.
#[tokio::test]
async fn case_17_a_lost_answer_is_made_good_within_the_grace_period() {
    let rig = Rig::start(60, 30).await;
    let (session, seeded) = rig.signed_in().await;
    rig.server.set(json!({ "dropAfterToken": 1 })).await;
    let error = session.refresh().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.is_transient(), "{error:?}");
    // Grace periods are seconds: the one early try comes after one, whatever the backoff.
    assert!(error.retry_after().is_some_and(|left| left <= Duration::from_millis(1500)), "{error:?}");
    assert!(rig.server.revoked(&seeded.refresh_token).await, "the server rotated");
    let record = rig.record().await;
    assert_eq!((&record["refresh_token"], &record["journal"]["attempts"]), (&json!(seeded.refresh_token), &json!(1)));

    sleep(Duration::from_millis(1600)).await;
    session.refresh().await.unwrap();
    assert_ok(rig.get(&rig.api(&session)).await, "alice");
    assert_eq!(state(&session), ACTIVE);
    let record = rig.record().await;
    assert_eq!((&record["journal"], &record["doubt"]), (&Value::Null, &json!("inherited")));
    let counts = rig.server.counts().await;
    assert_eq!((counts.refresh_success, counts.rotations, counts.reuse_revocations), (2, 1, 0), "the same successor");

    // And the successor is whole: it refreshes in its turn.
    session.refresh().await.unwrap();
    assert_eq!(rig.record().await["doubt"], "none");
    assert_eq!(rig.server.counts().await.rotations, 2);
}

/// P6: the same after a restart between the two.
#[tokio::test]
async fn case_17_a_restart_within_the_grace_period_gets_the_lost_answer() {
    let rig = Rig::start(2, 30).await;
    let (session, _) = rig.signed_in().await;
    rig.server.set(json!({ "dropAfterToken": 1, "accessTtl": 60 })).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);
    drop(session);
    sleep(Duration::from_millis(2100)).await;
    let restarted = rig.open().await;
    assert_ok(rig.get(&rig.api(&restarted)).await, "alice");
    let counts = rig.server.counts().await;
    assert_eq!((counts.refresh_success, counts.rotations, counts.reuse_revocations, counts.api_401), (2, 1, 0, 0));
}

#[tokio::test]
async fn case_17_a_lost_answer_without_a_grace_period_is_rotation_lost() {
    let rig = Rig::start(60, 0).await;
    let (session, _) = rig.signed_in().await;
    rig.server.set(json!({ "dropAfterToken": 1 })).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);

    sleep(Duration::from_millis(1600)).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!(state(&session), PENDING);
    // The family's access tokens went with it, as each session hears from the API.
    for session in [&session, &rig.open().await] {
        assert_401(rig.get(&rig.api(session)).await, ErrorKind::ReauthRequired);
        assert_eq!(session.state(), AuthState::ReauthRequired(ReauthCause::RotationLost));
    }
    let counts = rig.server.counts().await;
    assert_eq!((counts.token_requests, counts.rotations, counts.reuse_revocations), (2, 1, 1));
}

/// A valid token of too little scope: nothing that a refresh would cure.
#[tokio::test]
async fn case_27_insufficient_scope_is_delivered_with_its_challenge() {
    let rig = Rig::start(60, 0).await;
    let session = rig.open().await;
    let seeded = rig.server.ctl("/seed", json!({ "scope": "write" })).await;
    let member = |name: &str| seeded[name].as_str().unwrap().to_owned();
    let held = Tokens::new(member("access_token")).with_expires_in(Duration::from_secs(60));
    session.sign_in(held.with_refresh_token(member("refresh_token"))).await.unwrap();

    let request = Request::get(rig.server.url("/api/me")).body(Full::default()).unwrap();
    let response = rig.api(&session).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let challenge = Challenge::in_response(&response).expect("a typed challenge");
    assert_eq!(challenge.error(), Some("insufficient_scope"));
    assert_eq!((state(&session), rig.server.counts().await.token_requests), (ACTIVE.to_owned(), 0));
}
