//! The whole life of a session against a real authorization server, over the real wire: sign-in, expiry, rotation,
//! reuse, revocation, sign-out. The server is strict: a spent refresh token that comes back ends its grant, and with it
//! the access tokens.
#![cfg(feature = "__server-tests")]
#![allow(clippy::unwrap_used)] // a test

#[path = "support/life.rs"]
mod life;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode};
use http_body_util::Full;
use life::{ACTIVE, PENDING, REVOKED, Rig, assert_401, assert_ok, send, state, tokens};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tower::{ServiceExt as _, service_fn};
use tower_reauth::{
    AuthState, ClientCredentials, ErrorKind, FailureClassifier, FailureKind, HyperTokens, LockCause, MemoryStore,
    Remedy, SessionStore as _, SignOut, SignedOutCause, Tokens,
};

const LOCKED: AuthState = AuthState::Locked(LockCause::AccountDisabled);
/// What this server says of every refresh token that it does not take.
const REFUSAL: &str = "grant request is invalid";

#[tokio::test]
async fn a_login_through_the_pages_outlives_its_access_token() {
    let rig = Rig::start(2).await;
    let session = rig.builder().open("alice").await.unwrap();
    let api = rig.api(&session);
    assert_eq!(rig.get(&api).await.unwrap_err().kind(), ErrorKind::SignedOut);
    session.sign_in(tokens(&rig.server.login("alice").await)).await.unwrap();
    assert_ok(rig.get(&api).await, "alice");
    let me = Request::get(rig.server.me()).body(Full::default()).unwrap();
    assert_eq!(send(&api, me).await.unwrap().body["sub"], "alice");
    assert_eq!(rig.counts().await, [1, 0, 2, 0]);

    let first = session.access_token().await.unwrap();
    sleep(Duration::from_millis(3100)).await;
    assert_ok(rig.get(&api).await, "alice");
    assert_eq!(rig.counts().await, [2, 1, 3, 0], "refreshed before it was sent");
    assert_ne!(session.access_token().await.unwrap(), first);
    assert_eq!(state(&session), ACTIVE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn case_01_a_storm_at_expiry_is_one_exchange() {
    let rig = Rig::start(1).await;
    let (session, seeded) = rig.signed_in("alice").await;
    let api = rig.api(&session);
    rig.server.set(json!({ "accessTtl": 60 })).await;
    sleep(Duration::from_millis(1200)).await;
    let answers = join_all((0..300).map(|_| rig.get(&api))).await;
    answers.into_iter().for_each(|answer| assert_ok(answer, "alice"));
    assert_eq!(rig.counts().await, [1, 1, 300, 0]);

    // The same by 401: we were told that it lives for an hour.
    rig.server.reset().await;
    let held = Tokens::new(&*seeded.access_token).with_expires_in(Duration::from_secs(3600));
    let refresh = rig.server.seed("alice", "pub").await.refresh_token;
    session.sign_in(held.with_refresh_token(refresh)).await.unwrap();
    let answers = join_all((0..300).map(|_| rig.get(&api))).await;
    answers.into_iter().for_each(|answer| assert_ok(answer, "alice"));
    let [asked, refreshed, sent, refused] = rig.counts().await;
    assert_eq!((asked, refreshed, sent - refused), (1, 1, 300));
    assert!(refused >= 1 && sent <= 600, "{sent} requests");
}

#[tokio::test]
async fn each_refresh_spends_the_newest_token() {
    let rig = Rig::start(60).await;
    let (session, seeded) = rig.signed_in("alice").await;
    let mut newest = seeded.refresh_token;
    for generation in 2..=4 {
        session.refresh().await.unwrap();
        let record = rig.record().await;
        assert_eq!(
            (&record["generation"], &record["journal"], &record["doubt"]),
            (&json!(generation), &Value::Null, &json!("none"))
        );
        let next = record["refresh_token"].as_str().unwrap().to_owned();
        assert!(rig.consumed(&newest).await && !rig.consumed(&next).await);
        newest = next;
    }
    assert_ok(rig.get(&rig.api(&session)).await, "alice");
    assert_eq!(rig.counts().await, [3, 3, 1, 0]);
}

#[tokio::test]
async fn case_13_two_sessions_on_one_store_spend_each_token_once() {
    let rig = Rig::start(1).await;
    let (one, _) = rig.signed_in("alice").await;
    let two = rig.builder().open("alice").await.unwrap();
    let apis = [rig.api(&one), rig.api(&two)];
    rig.server.set(json!({ "accessTtl": 60, "answerDelayMs": 300 })).await;
    sleep(Duration::from_millis(1200)).await;
    let answers = join_all((0..40).map(|i| rig.get(&apis[i % 2]))).await;
    answers.into_iter().for_each(|answer| assert_ok(answer, "alice"));
    assert_eq!(rig.counts().await, [1, 1, 40, 0]);
}

/// P2: the only caller leaves after the server has spent the refresh token.
#[tokio::test]
async fn case_03_an_exchange_outlives_its_caller() {
    let rig = Rig::start(60).await;
    let (session, seeded) = rig.signed_in("alice").await;
    rig.server.set(json!({ "answerDelayMs": 500 })).await;
    timeout(Duration::from_millis(200), session.refresh()).await.unwrap_err();
    assert_eq!(rig.counts().await[..2], [1, 1], "spent, and not answered yet");
    session.close().await.unwrap();
    assert_ne!(session.access_token().await.unwrap().expose(), seeded.access_token);
    let record = rig.record().await;
    assert!(!rig.consumed(record["refresh_token"].as_str().unwrap()).await);
    assert_eq!((&record["generation"], &record["journal"]), (&json!(2), &Value::Null));
}

#[tokio::test]
async fn case_23_a_reuse_by_somebody_else_ends_the_session_once() {
    let rig = Rig::start(60).await;
    let (session, seeded) = rig.signed_in("alice").await;
    let api = rig.api(&session);
    session.refresh().await.unwrap();
    let stolen = rig.server.refresh_by_hand(&seeded.refresh_token).await.unwrap();
    assert_eq!(stolen.status, StatusCode::BAD_REQUEST);
    assert_eq!(rig.server.counts().await.reuse_revocations, 1);
    rig.server.reset().await;

    // The access token went with the grant: a 401, one exchange, the end.
    assert_401(rig.get(&api).await, ErrorKind::ReauthRequired);
    assert_eq!(session.state(), REVOKED);
    let error = rig.get(&api).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthRequired);
    assert_eq!(error.denial().map(|denial| denial.remedy()), Some(Remedy::SignIn));
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!(session.access_token().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!(rig.counts().await, [1, 0, 1, 1], "a dead token is not tried again");
    let record = rig.record().await;
    assert!(record.get("refresh_token").is_none() && record.get("access_token").is_none(), "{record}");
}

#[tokio::test]
async fn case_23_a_dead_refresh_token_is_dead_after_a_restart() {
    let rig = Rig::start(60).await;
    let (session, seeded) = rig.signed_in("alice").await;
    rig.server.revoke_grant(&seeded.grant_id).await;
    assert_401(rig.get(&rig.api(&session)).await, ErrorKind::ReauthRequired);
    let restarted = rig.builder().open("alice").await.unwrap();
    assert_eq!(restarted.state(), REVOKED);
    assert_eq!(rig.get(&rig.api(&restarted)).await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!(rig.counts().await, [1, 0, 1, 1]);
}

/// P8: the access token is valid, before and after a restart.
#[tokio::test]
async fn case_21_calls_go_on_after_a_restart() {
    let rig = Rig::start(60).await;
    let session = rig.builder().open("alice").await.unwrap();
    session.sign_in(tokens(&rig.server.seed_with(json!({ "rt_ttl": 1 })).await)).await.unwrap();
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    let restarted = rig.builder().open("alice").await.unwrap();
    for session in [&session, &restarted] {
        assert_eq!(state(session), PENDING);
        assert_ok(rig.get(&rig.api(session)).await, "alice");
    }
    assert_eq!(rig.counts().await, [1, 0, 2, 0]);
}

/// An administrator revokes the grant, and this server ends its access tokens too.
#[tokio::test]
async fn case_21_a_revoked_grant_is_pending_until_the_api_says_so_too() {
    let rig = Rig::start(60).await;
    let (session, seeded) = rig.signed_in("alice").await;
    let api = rig.api(&session);
    rig.server.revoke_grant(&seeded.grant_id).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!(state(&session), PENDING);
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_401(rig.get(&api).await, ErrorKind::ReauthRequired);
    assert_eq!(session.state(), REVOKED);
    assert_eq!(rig.get(&api).await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!(rig.counts().await, [1, 0, 1, 1]);
}

/// The refresh token has expired, and the access token runs on.
#[tokio::test]
async fn case_21_calls_go_on_until_the_access_token_expires() {
    let rig = Rig::start(3).await;
    let session = rig.builder().open("alice").await.unwrap();
    let api = rig.api(&session);
    session.sign_in(tokens(&rig.server.seed_with(json!({ "rt_ttl": 1 })).await)).await.unwrap();
    let mut watch = session.watch();
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!(state(&session), PENDING);
    assert_ok(rig.get(&api).await, "alice");
    assert_eq!(format!("{:?}", watch.changed().await.unwrap()), PENDING);
    // Nobody asks: interfaces watch.
    let turned = timeout(Duration::from_millis(2500), watch.changed()).await.expect("the state turns by itself");
    assert_eq!(turned, Some(REVOKED));
    assert_eq!(rig.get(&api).await.unwrap_err().kind(), ErrorKind::ReauthRequired);
    assert_eq!(rig.counts().await, [1, 0, 1, 0]);
}

#[tokio::test]
async fn case_22_a_disabled_user_is_not_locked_without_a_signal() {
    let rig = Rig::start(60).await;
    let (session, seeded) = rig.signed_in("alice").await;
    rig.server.disable("alice").await;
    assert_401(rig.get(&rig.api(&session)).await, ErrorKind::ReauthRequired);
    assert_eq!(session.state(), REVOKED);
    assert!(!rig.consumed(&seeded.refresh_token).await);
}

#[tokio::test]
async fn case_22_a_signal_locks_until_the_next_sign_in() {
    let mut rig = Rig::start(60).await;
    let row = FailureClassifier::new().account_disabled(rig.server.issuer(), REFUSAL);
    let closure = FailureClassifier::new()
        .classify_with(|error| (error.description() == Some(REFUSAL)).then_some(FailureKind::AccountDisabled));
    for classifier in [row, closure] {
        (rig.store, _) = (MemoryStore::new(), rig.server.reset().await);
        let locks = Arc::new(AtomicUsize::new(0));
        let open = async || {
            let locks = locks.clone();
            let builder = rig.builder().classifier(classifier.clone());
            builder
                .on_lock(move |_, _| {
                    locks.fetch_add(1, Ordering::SeqCst);
                })
                .open("alice")
                .await
                .unwrap()
        };
        let session = open().await;
        session.sign_in(tokens(&rig.server.seed("alice", "pub").await)).await.unwrap();
        let sibling = open().await;
        assert_ok(rig.get(&rig.api(&sibling)).await, "alice");

        rig.server.disable("alice").await;
        assert_401(rig.get(&rig.api(&session)).await, ErrorKind::Locked);
        let answer = rig.get(&rig.api(&sibling)).await.unwrap(); // sees it at its next refresh: its epoch has ended
        assert_eq!((answer.status, answer.error.is_some()), (StatusCode::UNAUTHORIZED, true));
        let restarted = open().await;
        for session in [&session, &sibling, &restarted] {
            assert_eq!(session.state(), LOCKED);
            let error = rig.get(&rig.api(session)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Locked);
            assert_eq!(error.denial().map(|denial| denial.remedy()), Some(Remedy::ContactAdmin));
            assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Locked);
        }
        assert_eq!(rig.counts().await, [1, 0, 3, 2]);
        assert!(locks.load(Ordering::SeqCst) >= 1);
        let record = rig.record().await;
        assert!(record.get("refresh_token").is_none() && record.get("access_token").is_none(), "{record}");

        rig.server.enable("alice").await;
        assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Locked);
        session.sign_in(tokens(&rig.server.seed("alice", "pub").await)).await.unwrap();
        assert_eq!(state(&session), ACTIVE);
        assert_ok(rig.get(&rig.api(&session)).await, "alice");
    }
}

#[tokio::test]
async fn case_24_a_post_is_replayed_with_identical_bytes() {
    let rig = Rig::start(60).await;
    let (session, _) = rig.signed_in("alice").await;
    let body: Vec<u8> = (0..300_000u32).map(|i| (i * 31 % 251) as u8).collect();
    let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    rig.refuse_next().await;
    let request = Request::post(rig.server.echo()).body(Full::from(Bytes::from(body))).unwrap();
    let answer = send(&rig.api(&session), request).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let echo = &answer.body;
    assert_eq!((&echo["method"], &echo["body_sha256"]), (&json!("POST"), &json!(digest)), "{echo}");
    assert_eq!((&echo["user"], &echo["body_length"]), (&json!("alice"), &json!(300_000)), "{echo}");
    assert_eq!(rig.counts().await, [1, 1, 2, 1]);
}

#[tokio::test]
async fn a_sign_out_revokes_at_the_server_before_close_returns() {
    for how in [SignOut::Soft, SignOut::Hard] {
        let rig = Rig::start(60).await;
        let wiped = Arc::new(AtomicUsize::new(0));
        let count = wiped.clone();
        // Far enough away that nobody who does not wait for it sees it.
        let far = service_fn(async |request: Request<Bytes>| {
            if request.uri().path() == "/token/revocation" {
                sleep(Duration::from_millis(300)).await;
            }
            HyperTokens::new().oneshot(request).await
        });
        let builder = rig.with(rig.client("pub").http(far)).on_wipe(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let session = builder.open("alice").await.unwrap();
        let seeded = rig.server.seed("alice", "pub").await;
        session.sign_in(tokens(&seeded)).await.unwrap();
        session.refresh().await.unwrap();
        let newest = rig.record().await["refresh_token"].as_str().unwrap().to_owned();
        session.sign_out(how).await.unwrap();
        assert_eq!(rig.server.counts().await.revocation_requests, 0, "in the background");
        session.close().await.unwrap();
        assert_eq!(rig.server.counts().await.revocation_requests, 1);
        rig.is_gone(&newest).await;
        assert_eq!(session.state(), AuthState::SignedOut(SignedOutCause::Here));
        assert_eq!(rig.get(&rig.api(&session)).await.unwrap_err().kind(), ErrorKind::SignedOut);
        let restarted = rig.builder().open("alice").await.unwrap();
        assert!(matches!(restarted.state(), AuthState::SignedOut(_)));
        assert_eq!(wiped.load(Ordering::SeqCst), usize::from(how == SignOut::Hard));
        match how {
            SignOut::Hard => assert!(rig.store.accounts().await.unwrap().is_empty()),
            _ => assert!(rig.record().await.get("refresh_token").is_none()),
        }
        assert_eq!(rig.counts().await[2], 0);
    }
}

#[tokio::test]
async fn case_38_a_sign_out_in_mid_exchange_revokes_what_was_minted() {
    let rig = Rig::start(60).await;
    let (session, seeded) = rig.signed_in("alice").await;
    rig.server.set(json!({ "answerDelayMs": 500 })).await;
    let refresh = tokio::spawn({
        let session = session.clone();
        async move { session.refresh().await }
    });
    while rig.counts().await[1] == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    session.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(refresh.await.unwrap().unwrap_err().kind(), ErrorKind::SignedOut);
    session.close().await.unwrap();
    let record = rig.record().await;
    assert!(record.get("refresh_token").is_none() && record.get("access_token").is_none(), "{record}");
    assert_eq!(rig.server.counts().await.revocation_requests, 1);
    rig.is_gone(&seeded.refresh_token).await;
    assert_eq!(session.state(), AuthState::SignedOut(SignedOutCause::Here));
}

#[tokio::test]
async fn client_credentials_start_by_themselves_until_signed_out() {
    let rig = Rig::start(60).await;
    let open = async || {
        let refresher = ClientCredentials::new(rig.server.token_endpoint(), "svc", "svc-secret").unwrap();
        rig.with(refresher.http(HyperTokens::new())).open("svc").await.unwrap()
    };
    let session = open().await;
    let api = rig.api(&session);
    let fetched = async || rig.server.counts().await.client_credentials_success;
    assert_eq!(fetched().await, 0);
    let answer = rig.get(&api).await.unwrap();
    assert_eq!((&answer.body["client"], &answer.body["user"]), (&json!("svc"), &Value::Null), "{answer:?}");
    assert_eq!(fetched().await, 1);
    rig.refuse_next().await;
    assert_eq!(rig.get(&api).await.unwrap().status, StatusCode::OK);
    assert_eq!(fetched().await, 2);

    session.sign_out(SignOut::Soft).await.unwrap();
    session.close().await.unwrap();
    let restarted = open().await;
    for session in [&session, &restarted] {
        assert_eq!(rig.get(&rig.api(session)).await.unwrap_err().kind(), ErrorKind::SignedOut);
    }
    assert_eq!((fetched().await, rig.server.counts().await.revocation_requests), (2, 0));
    session.resume().await.unwrap();
    assert_eq!(rig.get(&api).await.unwrap().status, StatusCode::OK);
    assert_eq!((fetched().await, state(&session)), (3, ACTIVE.to_owned()));
}

#[tokio::test]
async fn case_36_two_accounts_refresh_at_once_each_with_its_own_tokens() {
    let rig = Rig::start(1).await;
    let ((alice, _), (bob, _)) = (rig.signed_in("alice").await, rig.signed_in("bob").await);
    let (a, b) = (rig.api(&alice), rig.api(&bob));
    rig.server.set(json!({ "accessTtl": 60, "answerDelayMs": 300 })).await;
    sleep(Duration::from_millis(1200)).await;
    let answers = join_all((0..50).flat_map(|_| [rig.get(&a), rig.get(&b)])).await;
    let users = ["alice", "bob"].into_iter().cycle();
    answers.into_iter().zip(users).for_each(|(answer, user)| assert_ok(answer, user));
    assert_eq!(rig.counts().await, [2, 2, 100, 0]);

    rig.server.disable("alice").await;
    let (refused, ok) = tokio::join!(alice.refresh(), bob.refresh());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReauthRequired);
    ok.unwrap();
    assert_ok(rig.get(&b).await, "bob");
    assert_eq!((state(&alice), state(&bob)), (PENDING.to_owned(), ACTIVE.to_owned()));
}
