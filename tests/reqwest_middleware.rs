//! `AuthMiddleware` in a reqwest-middleware chain, inside reqwest-retry, over a real server: what differs from a bare
//! client, see `reqwest_client.rs`.
#![cfg(all(feature = "reqwest-middleware", feature = "test-util"))]
#![allow(missing_docs)]

#[path = "reqwest_middleware/extensions.rs"]
mod extensions;
#[path = "support/kit.rs"]
mod kit;
#[path = "support/loopback.rs"]
mod loopback;
#[path = "support/net.rs"]
mod net;
#[path = "reqwest_middleware/retries.rs"]
mod retries;

use futures_util::future::join_all;
use http::{Extensions, Method, StatusCode};
use kit::SEC;
use loopback::Loopback;
use net::{Net, STORM, client, nobody, request, stream};
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error, Middleware, Next};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tower_reauth::{
    AuthError, AuthLayer, AuthMiddleware, Capability, Challenge, DenyReason, EmptyOnly, ErrorKind, NeverReplay,
    OfflinePolicy, Origins, Rule, Session, SignOut, SkipAuth, refresh_fn,
};

type Result<T> = std::result::Result<T, Error>;

/// The layer's middleware, and the client.
fn chain<P>(layer: AuthLayer<P>) -> ClientWithMiddleware
where
    AuthMiddleware<P>: Middleware,
{
    ClientBuilder::new(client()).with(AuthMiddleware::from(layer)).build()
}

async fn status(api: &ClientWithMiddleware, request: Request) -> StatusCode {
    api.execute(request).await.unwrap().status()
}

fn kind(error: &Error) -> Option<ErrorKind> {
    AuthError::find(error).map(AuthError::kind)
}

// ===== refreshing =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_a_storm_at_expiry_makes_one_exchange() {
    let net = Net::new().await;
    let api = chain(net.layer());
    net.expire();
    let tasks = (0..STORM).map(|n| {
        let (api, request) = (api.clone(), net.post("/echo", format!("job {n}")));
        tokio::spawn(async move { api.execute(request).await.unwrap().text().await.unwrap() })
    });
    for (n, text) in join_all(tasks).await.into_iter().enumerate() {
        assert_eq!(text.unwrap(), format!("job {n}"));
    }
    assert_eq!((net.issuer.exchanges(), net.lines().len()), (1, STORM));
}

#[tokio::test]
async fn p04_a_refused_request_is_replayed_once_byte_for_byte() {
    let net = Net::new().await;
    let api = chain(net.layer());
    net.issuer.expire_all();
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let response = api.post(net.api.uri("/echo?dry=1")).header("x-job", "7").body(bytes.clone()).send().await.unwrap();
    assert!(response.bytes().await.unwrap() == bytes);
    let received = net.api.received();
    assert_eq!(received.iter().map(|r| r.authorization()).collect::<Vec<_>>(), ["Bearer a1.0", "Bearer a1.1"]);
    assert!(received.iter().all(|request| request.body == bytes && request.headers["x-job"] == "7"));

    assert_eq!(status(&api, net.get("/answer/401")).await, StatusCode::UNAUTHORIZED);
    assert_eq!((net.issuer.exchanges(), net.lines().len()), (2, 2));
}

#[tokio::test]
async fn policies_of_replay_are_kept_to() {
    let net = Net::new().await;
    let [never, empty] = [chain(net.layer().replay(NeverReplay)), chain(net.layer().replay(EmptyOnly))];
    let cases = [
        ("never", &never, net.get("/not/a1.0"), 1),
        ("empty", &empty, net.get("/not/a1.1"), 2),
        ("not empty", &empty, net.post("/not/a1.2", "{}"), 1),
        ("a stream", &chain(net.layer()), net.post("/not/a1.3", stream(3)), 1),
    ];
    for (name, api, request, sent) in cases {
        let answer = if sent == 2 { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!((status(api, request).await, net.lines().len()), (answer, sent), "{name}");
        net.session.access_token().await.unwrap(); // refreshed for the others
    }
    assert_eq!(net.issuer.exchanges(), 4);
}

// ===== cancelling =====

#[tokio::test]
async fn p02_a_request_dropped_while_it_waits_leaves_the_refresh_running() {
    let net = Net::new().await;
    let api = chain(net.layer());
    net.expire();
    let (started, held) = net.hold();
    let request = net.post("/echo", "given up");
    let task = tokio::spawn(async move { api.execute(request).await.map(drop) });
    started.notified().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    held.add_permits(1);
    assert_eq!(net.session.access_token().await.unwrap().expose(), "a1.1");
    assert_eq!((net.issuer.exchanges(), net.lines().len()), (1, 0));
}

#[tokio::test]
async fn a_request_dropped_while_it_is_sent_is_gone_and_changes_nothing() {
    let net = Net::new().await;
    let api = chain(net.layer());
    let (clone, request) = (api.clone(), net.post("/held", "given up"));
    let task = tokio::spawn(async move { clone.execute(request).await.map(drop) });
    net.api.arrived().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(status(&api, net.get("/echo")).await, StatusCode::OK);
    assert_eq!((net.lines().len(), net.issuer.exchanges()), (2, 0));
}

// ===== where a token goes =====

#[tokio::test]
async fn p10_redirects_insecure_origins_and_what_the_caller_says() {
    let net = Net::new().await;
    let stranger = Loopback::stranger().await;
    let origins = Origins::new([net.api.origin(), "https://api.example.com"]).unwrap();
    let api = chain(AuthLayer::new(net.session.clone(), origins));
    let there = api.get(net.api.uri(&format!("/redirect/302?{}", stranger.uri("/answer/401")))).send().await.unwrap();
    assert_eq!(there.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(stranger.lines(), ["GET /answer/401 - "]);
    assert_eq!((net.lines().len(), net.issuer.exchanges()), (1, 0));

    let error = api.get("http://api.example.com/").send().await.unwrap_err();
    assert_eq!(kind(&error), Some(ErrorKind::InsecureOrigin));

    let own = api.get(net.api.uri("/echo")).bearer_auth("mine").send().await.unwrap();
    assert_eq!((own.status(), net.lines()), (StatusCode::UNAUTHORIZED, vec!["GET /echo Bearer mine ".to_owned()]));
}

// ===== what it tells =====

#[tokio::test]
async fn a_delivered_refusal_tells_why() {
    let net = Net::new().await;
    let api = chain(net.layer());
    let challenge = "Bearer error=\"insufficient_user_authentication\", max_age=60";
    let response = api.get(net.api.uri("/answer/401")).header("x-challenge", challenge).send().await.unwrap();
    assert_eq!(Challenge::in_response(&response).unwrap().max_age(), Some(60 * SEC));

    net.issuer.books().revoked = true;
    net.issuer.expire_all();
    let response = api.get(net.api.uri("/echo")).send().await.unwrap();
    assert_eq!(AuthError::in_response(&response).map(AuthError::kind), Some(ErrorKind::ReauthRequired));
    assert_eq!(response.text().await.unwrap(), "refused");
}

/// P11: the token request comes back to the chain that waits for it.
#[tokio::test]
async fn p11_a_refresher_that_sends_through_the_same_client_gets_a_typed_error() {
    let net = Net::new().await;
    let slot: Arc<std::sync::OnceLock<ClientWithMiddleware>> = Arc::default();
    let (through, uri) = (slot.clone(), net.api.uri("/token"));
    let failure = Arc::new(Mutex::new(None));
    let told = failure.clone();
    let refresher = refresh_fn(move |_| {
        let (client, uri, told) = (through.get().unwrap().clone(), uri.clone(), told.clone());
        async move {
            let error = client.post(uri).body("grant_type=refresh_token").send().await.unwrap_err();
            *told.lock().unwrap() = AuthError::find(&error).map(AuthError::kind);
            Err(tower_reauth::RefreshError::not_sent(error))
        }
    });
    let session = Session::builder(refresher).clock(net.clock.clone()).open("alice").await.unwrap();
    session.sign_in(net.issuer.sign_in()).await.unwrap();
    let origins = Origins::new([net.api.origin()]).unwrap();
    slot.set(chain(AuthLayer::new(session, origins))).ok().unwrap();
    net.clock.advance(101 * SEC);
    let error = slot.get().unwrap().execute(net.get("/echo")).await.unwrap_err();
    assert_eq!(*failure.lock().unwrap(), Some(ErrorKind::Reentrant), "what the refresher was told");
    assert_eq!(kind(&error), Some(ErrorKind::Unavailable), "{error:?}");
    assert_eq!((net.lines().len(), net.issuer.exchanges()), (0, 0));
}

/// Clones share the session; futures are `Send`.
#[test]
fn it_can_be_spawned_and_shared() {
    fn shared<T: Clone + Send + Sync + std::fmt::Debug + 'static>() {}
    fn send<T: Send>(_: &T) {}
    shared::<AuthMiddleware>();
    shared::<AuthMiddleware<NeverReplay>>();
    let api = ClientWithMiddleware::default();
    send(&api.execute(request(Method::GET, "http://127.0.0.1")));
    send(&api.get("http://127.0.0.1").send());
}

/// P16, and it is told what it is.
#[tokio::test]
async fn p16_the_middleware_shows_no_token() {
    let net = Net::new().await;
    let text = format!("{:?}", AuthMiddleware::from(net.layer()));
    assert!(text.starts_with("AuthMiddleware") && text.contains(net.api.origin()), "{text}");
    assert!(!text.contains("a1.") && !text.contains("r1."), "{text}");
}
