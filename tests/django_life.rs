//! The whole life of a session against a second authorization server, django-oauth-toolkit, which answers more briefly
//! and is as strict: a spent refresh token that comes back revokes its family.
#![cfg(feature = "__server-tests")]
#![allow(clippy::unwrap_used)] // a test

#[path = "support/django.rs"]
mod django;

use django::{
    Rig,
    life::{ACTIVE, PENDING, REVOKED, assert_401, assert_ok, state},
};
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;
use tower_reauth::{AuthState, ErrorKind, SessionStore as _, SignOut, SignedOutCause};

#[tokio::test]
async fn a_session_outlives_its_access_tokens_and_ends_with_its_sign_out() {
    let rig = Rig::start(1, 0).await;
    let session = rig.open().await;
    let api = rig.api(&session);
    assert_eq!(rig.get(&api).await.unwrap_err().kind(), ErrorKind::SignedOut);
    let seeded = rig.server.seed("alice", "pub").await;
    session.sign_in(django::life::tokens(&seeded)).await.unwrap();
    assert_ok(rig.get(&api).await, "alice");

    // Each expiry is one exchange before the request is sent, and what came of it is kept.
    let mut newest = seeded.refresh_token;
    for generation in 2..=3 {
        sleep(Duration::from_millis(1100)).await;
        assert_ok(rig.get(&api).await, "alice");
        let record = rig.record().await;
        assert_eq!((&record["generation"], &record["journal"]), (&json!(generation), &Value::Null), "{record}");
        let next = record["refresh_token"].as_str().unwrap().to_owned();
        assert!(rig.server.revoked(&newest).await && !rig.server.revoked(&next).await);
        newest = next;
    }
    let counts = rig.server.counts().await;
    assert_eq!((counts.token_requests, counts.rotations, counts.api_requests, counts.api_401), (2, 2, 3, 0));

    // A restart goes on with what was kept.
    rig.server.set(json!({ "accessTtl": 60 })).await;
    let restarted = rig.open().await;
    assert_eq!(state(&restarted), ACTIVE);
    restarted.refresh().await.unwrap();
    assert_ok(rig.get(&rig.api(&restarted)).await, "alice");
    newest = rig.record().await["refresh_token"].as_str().unwrap().to_owned();

    restarted.sign_out(SignOut::Soft).await.unwrap();
    restarted.close().await.unwrap();
    assert_eq!(restarted.state(), AuthState::SignedOut(SignedOutCause::Here));
    assert_eq!(rig.server.counts().await.revocation_requests, 1);
    assert!(rig.server.revoked(&newest).await);
    assert!(matches!(rig.open().await.state(), AuthState::SignedOut(_)));
    assert!(rig.record().await.get("refresh_token").is_none());
    let counts = rig.server.counts().await;
    assert_eq!((counts.rotations, counts.reuse_revocations), (3, 0));
}

#[tokio::test]
async fn a_hard_sign_out_revokes_too_and_leaves_no_record() {
    let rig = Rig::start(60, 0).await;
    let (session, seeded) = rig.signed_in().await;
    session.sign_out(SignOut::Hard).await.unwrap();
    session.close().await.unwrap();
    assert!(rig.server.revoked(&seeded.refresh_token).await);
    assert!(rig.store.accounts().await.unwrap().is_empty());
}

/// Two sessions that share nothing but the store, as two processes do.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn case_13_two_sessions_on_one_store_spend_each_token_once() {
    let rig = Rig::start(1, 0).await;
    let (one, _) = rig.signed_in().await;
    let two = rig.open().await;
    let apis = [rig.api(&one), rig.api(&two)];
    rig.server.set(json!({ "answerDelayMs": 200, "accessTtl": 2 })).await;
    for expiry in 1..=3 {
        sleep(Duration::from_millis(if expiry == 1 { 1100 } else { 2100 })).await;
        let answers = join_all((0..40).map(|i| rig.get(&apis[i % 2]))).await;
        answers.into_iter().for_each(|answer| assert_ok(answer, "alice"));
        let counts = rig.server.counts().await;
        assert_eq!((counts.token_requests, counts.rotations, counts.reuse_revocations), (expiry, expiry, 0));
        assert_eq!((counts.api_requests, counts.api_401), (40 * expiry, 0));
    }
}

#[tokio::test]
async fn case_23_a_reuse_by_somebody_else_revokes_the_family_and_ends_the_session_once() {
    let rig = Rig::start(60, 0).await;
    let (session, seeded) = rig.signed_in().await;
    let api = rig.api(&session);
    session.refresh().await.unwrap();
    let stolen = rig.server.refresh_by_hand(&seeded.refresh_token).await;
    assert_eq!((stolen.status, stolen.json()), (StatusCode::BAD_REQUEST, json!({ "error": "invalid_grant" })));
    assert_eq!(rig.server.counts().await.reuse_revocations, 1);
    let newest = rig.record().await["refresh_token"].as_str().unwrap().to_owned();
    assert!(rig.server.revoked(&newest).await, "the successor goes with it");
    rig.server.reset().await;

    // The access token went too: a 401, one exchange, the end.
    assert_401(rig.get(&api).await, ErrorKind::ReauthRequired);
    assert_eq!(session.state(), REVOKED);
    for session in [&session, &rig.open().await] {
        assert_eq!(rig.get(&rig.api(session)).await.unwrap_err().kind(), ErrorKind::ReauthRequired);
        assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    }
    let counts = rig.server.counts().await;
    assert_eq!((counts.token_requests, counts.api_requests, counts.reuse_revocations), (1, 1, 0));
}

/// This server's whole answer is `{"error": "invalid_grant"}`, with no description that could tell why.
#[tokio::test]
async fn case_22_a_disabled_user_is_a_bare_invalid_grant_and_not_locked() {
    let rig = Rig::start(60, 0).await;
    let (session, seeded) = rig.signed_in().await;
    rig.server.ctl("/disable", json!({ "user": "alice" })).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!(state(&session), PENDING, "the access token runs on");
    assert_ok(rig.get(&rig.api(&session)).await, "alice");
    assert!(!rig.server.revoked(&seeded.refresh_token).await, "not burned: enabled again, it would work");
    assert_eq!(rig.server.counts().await.token_requests, 1);
}
