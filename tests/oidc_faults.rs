//! What a real token endpoint, and what stands before it, may answer instead of tokens, and what becomes of the session.
#![cfg(feature = "__server-tests")]
#![allow(clippy::unwrap_used)] // a test

#[path = "support/life.rs"]
mod life;

use life::{ACTIVE, PENDING, REVOKED, Rig, assert_401, assert_ok, state, tokens};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use tokio::time::sleep;
use tower_reauth::{AuthState, ErrorKind, HyperTokens, MemoryStore, ReauthCause};

/// A wrong secret: the token endpoint answers 401 with a `WWW-Authenticate`, which is no 401 of the API.
#[tokio::test]
async fn case_05_a_401_of_the_token_endpoint_is_misconfigured_and_costs_no_tokens() {
    let rig = Rig::start(60).await;
    let open = async |secret: &str| {
        rig.with(rig.client("conf-basic").secret(secret).http(HyperTokens::new())).open("alice").await.unwrap()
    };
    let session = open("wrong").await;
    let seeded = rig.server.seed("alice", "conf-basic").await;
    session.sign_in(tokens(&seeded)).await.unwrap();
    let api = rig.api(&session);
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Misconfigured);
    assert_eq!(state(&session), ACTIVE);
    assert_ok(rig.get(&api).await, "alice");
    rig.refuse_next().await;
    let error = assert_401(rig.get(&api).await, ErrorKind::Misconfigured);
    assert!(error.retry_after().is_some_and(|left| left > Duration::from_secs(290)), "{error:?}");
    assert!(matches!(session.state(), AuthState::OfflineStale { .. }));
    assert_eq!(rig.get(&api).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    assert_eq!(rig.counts().await, [1, 0, 2, 1]);
    let record = rig.record().await;
    assert_eq!((&record["refresh_token"], &record["journal"]), (&json!(seeded.refresh_token), &Value::Null));

    // Mended: the pause that was written down ends by hand.
    let mended = open("conf:sec/ret+1").await;
    assert_eq!(mended.refresh().await.unwrap_err().kind(), ErrorKind::Misconfigured);
    mended.reconnected();
    mended.refresh().await.unwrap();
    assert_eq!(rig.counts().await[..2], [2, 1]);
}

#[tokio::test]
async fn case_17_a_lost_answer_is_tried_once_more_and_then_rotation_lost() {
    let rig = Rig::start(60).await;
    let (session, seeded) = rig.signed_in("alice").await;
    let api = rig.api(&session);
    rig.server.set(json!({ "dropAfterToken": 1 })).await;
    let error = session.refresh().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.is_transient(), "{error:?}");
    assert!(error.retry_after().is_some_and(|left| left <= Duration::from_millis(1500)), "{error:?}");
    assert!(rig.consumed(&seeded.refresh_token).await, "the server rotated");
    let record = rig.record().await;
    assert_eq!(record["refresh_token"], json!(seeded.refresh_token));
    assert_eq!((&record["journal"]["attempts"], &record["doubt"]), (&json!(1), &json!("none")), "{record}");
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_ok(rig.get(&api).await, "alice");
    assert_eq!(rig.counts().await, [1, 1, 1, 0], "quiet, and the access token stays in use");

    sleep(Duration::from_millis(1600)).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!(state(&session), PENDING);
    assert_401(rig.get(&api).await, ErrorKind::ReauthRequired);
    let lost = AuthState::ReauthRequired(ReauthCause::RotationLost);
    assert_eq!(session.state(), lost);
    let counts = rig.server.counts().await;
    assert_eq!((counts.token_requests, counts.refresh_success, counts.reuse_revocations), (2, 1, 1));
}

/// A server that takes the token again: nothing was lost.
#[tokio::test]
async fn case_17_a_lost_answer_of_a_lenient_server_is_made_good() {
    let rig = Rig::start(60).await;
    let (session, _) = rig.signed_in("alice").await;
    rig.server.set(json!({ "rotate": false, "dropAfterToken": 1 })).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let restarted = rig.builder().open("alice").await.unwrap();
    restarted.reconnected();
    restarted.refresh().await.unwrap();
    let record = rig.record().await;
    assert_eq!((&record["journal"], &record["doubt"]), (&Value::Null, &json!("inherited")));
    assert_ok(rig.get(&rig.api(&restarted)).await, "alice");
    assert_eq!(rig.counts().await, [2, 2, 1, 0]);
}

/// Doubt passes to the new generation "and ends with that one's own saved 200": what is refused later was revoked.
#[tokio::test]
async fn case_17_doubt_ends_with_the_successors_own_200() {
    let rig = Rig::start(60).await;
    let (session, seeded) = rig.signed_in("alice").await;
    rig.fail_token(json!([{ "status": 500 }])).await;
    session.refresh().await.unwrap_err();
    session.reconnected();
    session.refresh().await.unwrap();
    assert_eq!(rig.record().await["doubt"], "inherited");
    session.refresh().await.unwrap();
    assert_eq!(rig.record().await["doubt"], "none", "the successor was exchanged and saved");
    session.refresh().await.unwrap();
    rig.server.revoke_grant(&seeded.grant_id).await;
    assert_401(rig.get(&rig.api(&session)).await, ErrorKind::ReauthRequired);
    assert_eq!(session.state(), REVOKED);
}

/// Nothing is there: proof that nothing was sent, so the journal closes.
#[tokio::test]
async fn case_19_a_server_that_is_gone_costs_nothing() {
    let rig = Rig::start(60).await;
    let (session, seeded) = rig.signed_in("alice").await;
    let store = rig.store.clone();
    rig.server.stop().await;
    let error = session.refresh().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.is_transient(), "{error:?}");
    assert_eq!(state(&session), ACTIVE);
    let record = life::record(&store).await;
    assert_eq!((&record["refresh_token"], &record["journal"]), (&json!(seeded.refresh_token), &Value::Null));
}

/// `(what the token endpoint answers, whether the refresh token may have been spent)`.
#[tokio::test]
async fn case_19_faults_keep_the_tokens_and_end_with_the_next_200() {
    let mut rig = Rig::start(60).await;
    let html = json!({ "content-type": "text/html" });
    let page = "<html><body>Blocked by the firewall. invalid_grant</body></html>";
    let rows = [
        (json!({ "status": 500 }), true),
        (json!({ "status": 503, "headers": html, "body": page }), true),
        (json!({ "status": 503, "body": { "error": "invalid_grant" } }), true),
        (json!({ "status": 429, "body": { "error": "invalid_grant" } }), false),
        (json!({ "status": 200, "body": "{\"access_token\":\"a\",\"refresh_token\":\"r\"", "truncate": true }), true),
        (json!({ "status": 200, "headers": html, "body": page }), true),
        (json!({ "status": 403, "headers": html, "body": page }), true),
        (json!({ "status": 403, "body": { "message": "blocked" } }), true),
        (json!({ "status": 307, "headers": { "location": rig.server.url("/token") } }), true),
        (json!({ "status": 400, "body": { "error": "temporarily_unavailable" } }), false),
        (json!({ "status": 400 }), true),
        (json!({ "status": 401, "headers": { "www-authenticate": "Bearer" } }), true),
    ];
    for (fault, doubtful) in rows {
        (rig.store, _) = (MemoryStore::new(), rig.server.reset().await);
        let (session, seeded) = rig.signed_in("alice").await;
        let api = rig.api(&session);
        rig.refuse_next().await;
        rig.fail_token(json!([fault])).await;
        let error = assert_401(rig.get(&api).await, ErrorKind::Unavailable);
        assert!(error.is_transient() && error.retry_after().is_some_and(|left| left <= Duration::from_millis(1500)));
        assert!(matches!(session.state(), AuthState::OfflineStale { .. }), "{fault}: {session:?}");
        let record = rig.record().await;
        assert_eq!(record["refresh_token"], json!(seeded.refresh_token), "{fault}");
        assert_eq!(!record["journal"].is_null(), doubtful, "{fault}: {record}");
        assert_eq!(rig.get(&api).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(rig.counts().await, [1, 0, 1, 1], "{fault}: quiet, and nothing is sent bare");

        session.reconnected();
        assert_ok(rig.get(&api).await, "alice");
        assert_eq!(state(&session), ACTIVE);
        let record = rig.record().await;
        assert_eq!(
            (&record["journal"], &record["doubt"]),
            (&Value::Null, &json!(if doubtful { "inherited" } else { "none" })),
            "{fault}"
        );
        assert_eq!(rig.counts().await, [2, 1, 2, 1], "{fault}");
    }
}

#[tokio::test]
async fn case_19_retry_after_is_honoured_and_outlives_a_reconnection() {
    let mut rig = Rig::start(60).await;
    let (now, two) = (SystemTime::now(), Duration::from_secs(2));
    let [now, date] = [now, now + two].map(httpdate::fmt_http_date);
    let mut sessions = Vec::new();
    for headers in [json!({ "retry-after": "2" }), json!({ "date": now, "retry-after": date })] {
        rig.store = MemoryStore::new();
        let (session, _) = rig.signed_in("alice").await;
        rig.fail_token(json!([{ "status": 429, "headers": headers }])).await;
        rig.refuse_next().await;
        let error = assert_401(rig.get(&rig.api(&session)).await, ErrorKind::Unavailable);
        let left = error.retry_after().unwrap();
        assert!(left > two - Duration::from_millis(300) && left <= two, "{headers}: {left:?}");
        session.reconnected();
        let later = session.refresh().await.unwrap_err().retry_after().unwrap();
        assert!(later <= left && rig.get(&rig.api(&session)).await.is_err());
        assert!(matches!(session.state(), AuthState::OfflineStale { .. }));
        sessions.push(session);
    }
    assert_eq!(rig.counts().await, [2, 0, 2, 2]);
    sleep(Duration::from_millis(2100)).await;
    for session in &sessions {
        assert_ok(rig.get(&rig.api(session)).await, "alice");
    }

    // An absurd one is an hour, and a sign-in ends it.
    rig.fail_token(json!([{ "status": 503, "headers": { "retry-after": "9".repeat(30) } }])).await;
    let left = sessions[1].refresh().await.unwrap_err().retry_after().unwrap();
    assert!(left > Duration::from_secs(3590) && left <= Duration::from_secs(3600), "{left:?}");
    sessions[1].sign_in(tokens(&rig.server.seed("alice", "pub").await)).await.unwrap();
    sessions[1].refresh().await.unwrap();
}

/// P9: also one that is shorter than the pause of our own.
#[tokio::test]
async fn case_19_a_short_retry_after_outlives_a_reconnection_too() {
    let rig = Rig::start(60).await;
    let (session, _) = rig.signed_in("alice").await;
    rig.fail_token(json!([{ "status": 429, "headers": { "retry-after": "1" } }])).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);
    session.reconnected();
    let again = session.refresh().await;
    assert_eq!(rig.counts().await[0], 1, "asked again within the server's Retry-After: {again:?}");
    sleep(Duration::from_millis(1600)).await;
    session.refresh().await.expect("the backoff ended, and the Retry-After is over");
}
