//! A `reqwest::Client` behind the layer, over a real server.
#![cfg(all(feature = "reqwest", feature = "test-util"))]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "support/loopback.rs"]
mod loopback;
#[path = "support/net.rs"]
mod net;
#[path = "reqwest_client/redirects.rs"]
mod redirects;
#[path = "reqwest_client/tokens.rs"]
mod tokens;
#[path = "reqwest_client/wrapped.rs"]
mod wrapped;

use futures_util::future::join_all;
use http::{Method, StatusCode, header};
use http_body_util::Empty;
use kit::SEC;
use loopback::Loopback;
use net::{Net, STORM, client, kind, nobody, request, stream};
use reqwest::{Client, Request, Response};
use tower::{Layer, ServiceExt};
use tower_reauth::{
    AuthError, AuthService, BoxError, Capability, Challenge, DenyReason, EmptyOnly, ErrorKind, NeverReplay,
    OfflinePolicy, Origins, Rule, SignOut,
};

/// As `reqwest::Client::execute`, through the layer.
async fn send<P>(api: &AuthService<Client, P>, request: Request) -> Result<Response, BoxError>
where
    P: tower_reauth::Replay<Request> + Clone,
{
    api.clone().oneshot(request).await
}

async fn status<P>(api: &AuthService<Client, P>, request: Request) -> StatusCode
where
    P: tower_reauth::Replay<Request> + Clone,
{
    send(api, request).await.unwrap().status()
}

// ===== refreshing =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_a_storm_at_expiry_makes_one_exchange() {
    let net = Net::new().await;
    let api = net.layer().layer(client());
    net.expire();
    let tasks = (0..STORM).map(|n| {
        let (api, request) = (api.clone(), net.post("/echo", format!("job {n}")));
        tokio::spawn(async move { send(&api, request).await.unwrap().text().await.unwrap() })
    });
    for (n, text) in join_all(tasks).await.into_iter().enumerate() {
        assert_eq!(text.unwrap(), format!("job {n}"));
    }
    assert_eq!(net.issuer.exchanges(), 1);
    let received = net.api.received();
    assert_eq!(received.len(), STORM, "nothing was sent in vain");
    assert!(received.iter().all(|request| request.authorization() == "Bearer a1.1"));
}

#[tokio::test]
async fn p04_a_refused_request_is_replayed_once_byte_for_byte() {
    let net = Net::new().await;
    let api = net.layer().layer(client());
    net.issuer.expire_all();
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let mut job = net.post("/echo?dry=1", bytes.clone());
    job.headers_mut().insert("idempotency-key", "7".parse().unwrap());
    let response = send(&api, job).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.bytes().await.unwrap() == bytes);

    let received = net.api.received();
    assert_eq!(received.iter().map(|r| r.authorization()).collect::<Vec<_>>(), ["Bearer a1.0", "Bearer a1.1"]);
    for request in &received {
        assert_eq!((&request.method, &*request.path), (&Method::POST, "/echo?dry=1"));
        assert_eq!(request.headers["idempotency-key"], "7");
        assert!(request.body == bytes);
    }

    // A server that refuses every token: the second answer is delivered with its body.
    let response = send(&api, net.get("/answer/401")).await.unwrap();
    assert_eq!((response.status(), net.issuer.exchanges()), (StatusCode::UNAUTHORIZED, 2));
    assert_eq!(response.text().await.unwrap(), "as asked");
    assert_eq!(net.lines(), ["GET /answer/401 Bearer a1.1 ", "GET /answer/401 Bearer a1.2 "]);
}

/// A stream cannot be sent twice: the refusal is delivered at once, and the others get their token.
#[tokio::test]
async fn a_stream_is_never_replayed_and_its_refusal_refreshes_for_the_others() {
    let net = Net::new().await;
    let api = net.layer().layer(client());
    assert_eq!(send(&api, net.post("/echo", stream(30))).await.unwrap().text().await.unwrap().len(), 30);
    net.lines();

    net.issuer.expire_all();
    let (started, held) = net.hold();
    let response = send(&api, net.post("/echo", stream(3))).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "it does not wait for the refresh");
    assert!(AuthError::in_response(&response).is_none(), "nothing went wrong but the token");
    assert_eq!(response.text().await.unwrap(), "refused");
    started.notified().await;
    let others = join_all((0..4).map(|_| status(&api, net.get("/echo"))));
    let (others, ()) = tokio::join!(others, async { held.add_permits(1) });
    assert_eq!(others, [StatusCode::OK; 4]);
    assert_eq!(net.issuer.exchanges(), 1);
    let lines = net.lines();
    assert_eq!(lines[0], "POST /echo Bearer a1.0 abc");
    assert_eq!(lines[1..], ["GET /echo Bearer a1.1 "; 4]);
}

/// A stream that waited for a token was not sent yet: it goes out.
#[tokio::test]
async fn a_stream_that_waits_for_a_token_is_sent_once_it_is_there() {
    let net = Net::new().await;
    net.expire();
    let api = net.layer().layer(client());
    assert_eq!(send(&api, net.post("/echo", stream(5))).await.unwrap().text().await.unwrap(), "abcde");
    assert_eq!(net.lines(), ["POST /echo Bearer a1.1 abcde"]);
}

#[tokio::test]
async fn empty_only_replays_requests_without_a_body() {
    let net = Net::new().await;
    let api = net.layer().replay(EmptyOnly).layer(client());
    let at_its_end = reqwest::Body::wrap(Empty::<bytes::Bytes>::new());
    let empty = [
        net.get("/not/a1.0"),
        net.post("/not/a1.1", ""),
        net.post("/not/a1.2", Vec::new()),
        net.post("/not/a1.3", at_its_end),
    ];
    for (n, request) in empty.into_iter().enumerate() {
        assert_eq!((status(&api, request).await, net.lines().len()), (StatusCode::OK, 2), "{n}");
    }
    assert_eq!(net.issuer.exchanges(), 4);
    net.clock.advance(40 * SEC); // so many refusals in a row would open the breaker
    for full in [net.post("/not/a1.4", "{}"), net.post("/not/a1.5", stream(0))] {
        assert_eq!((status(&api, full).await, net.lines().len()), (StatusCode::UNAUTHORIZED, 1));
        net.session.access_token().await.unwrap();
    }
    assert_eq!(net.issuer.exchanges(), 6);
}

#[tokio::test]
async fn never_replay_delivers_the_refusal_and_refreshes_for_those_who_follow() {
    let net = Net::new().await;
    let api = net.layer().replay(NeverReplay).layer(client());
    net.issuer.expire_all();
    assert_eq!(status(&api, net.get("/echo")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&api, net.get("/echo")).await, StatusCode::OK);
    assert_eq!((net.lines().len(), net.issuer.exchanges()), (2, 1));
}

// ===== cancelling =====

#[tokio::test]
async fn p02_a_request_dropped_while_it_waits_leaves_the_refresh_running() {
    let net = Net::new().await;
    let api = net.layer().layer(client());
    net.expire();
    let (started, held) = net.hold();
    let request = net.post("/echo", "given up");
    let task = tokio::spawn(async move { send(&api, request).await.map(drop) });
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
    let api = net.layer().layer(client());
    let (clone, request) = (api.clone(), net.post("/held", "given up"));
    let task = tokio::spawn(async move { send(&clone, request).await.map(drop) });
    net.api.arrived().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(status(&api, net.get("/echo")).await, StatusCode::OK);
    assert_eq!(net.lines(), ["POST /held Bearer a1.0 given up", "GET /echo Bearer a1.0 "]);
    assert_eq!(net.issuer.exchanges(), 0);
}

// ===== the gate =====

/// A request keeps its extensions private: the layer is told what it wants to do.
#[tokio::test]
async fn p14_a_denied_request_never_reaches_the_server() {
    let policy = OfflinePolicy::new()
        .rule(Capability::READ, Rule::new().token_fresh())
        .rule("jobs.complete", Rule::new().role("foreman"));
    let net = Net::with(|builder| builder.gate(policy)).await;
    let layer = net.layer().capability(|head| {
        assert_eq!((head.scheme(), head.host()), (Some("http"), Some("127.0.0.1")));
        assert!(head.extensions().is_none() && !head.headers().contains_key(header::AUTHORIZATION));
        (head.method() == Method::POST && head.path().ends_with("/complete")).then(|| Capability::new("jobs.complete"))
    });
    let api = layer.layer(client());
    let error = send(&api, net.post("/jobs/7/complete?force=1", "{}")).await.unwrap_err();
    let error = AuthError::find(&*error).unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let denial = error.denial().unwrap();
    assert_eq!((denial.capability().as_str(), denial.reason()), ("jobs.complete", DenyReason::MissingGrant));
    // What the function leaves open is a read or a write, by its method.
    let error = send(&api, net.post("/echo", "")).await.unwrap_err();
    let reason = AuthError::find(&*error).and_then(AuthError::denial).unwrap().reason();
    assert_eq!(reason, DenyReason::UnknownCapability);
    assert_eq!(net.lines().len(), 0);
    assert_eq!(status(&api, net.get("/echo")).await, StatusCode::OK);
}

// ===== where a token goes, and what is left alone =====

/// `Url` has one spelling for many, and so have origins.
#[tokio::test]
async fn p10_origins_in_the_spellings_that_urls_are_brought_into() {
    let net = Net::new().await;
    let port = net.api.origin().rsplit_once(':').unwrap().1.to_owned();
    let api = net.layer().layer(client());
    for spelled in ["HTTP://127.0.0.1", "http://127.1", "http://0x7f.0.0.1", "http://2130706433", "http:127.0.0.1"] {
        let get = request(Method::GET, &format!("{spelled}:{port}/echo"));
        assert_eq!(status(&api, get).await, StatusCode::OK, "{spelled}");
    }
    assert_eq!(net.lines(), ["GET /echo Bearer a1.0 "; 5]);

    // Hosts of which no test has the port: the client fails, or not, after the layer has spoken.
    let origins =
        Origins::new(["https://API.Example.com:443", "https://xn--bcher-kva.example", "https://[::ffff:192.0.2.1]"])
            .unwrap();
    net.session.sign_out(SignOut::Soft).await.unwrap();
    let api = tower_reauth::AuthLayer::new(net.session.clone(), origins).layer(client());
    for ours in [
        "https://api.EXAMPLE.com/x",
        "HTTPS://api.example.com:443/x",
        "https://bücher.example",
        "https://BÜCHER.example:443/",
        "https://[::ffff:192.0.2.1]/x",
        "https://[::FFFF:c000:0201]",
    ] {
        let error = send(&api, request(Method::GET, ours)).await.unwrap_err();
        assert_eq!(kind(&error), Some(ErrorKind::SignedOut), "{ours}");
    }
    for foreign in ["https://api.example.com.", "https://api.example.com:8443", "https://me@api.example.com"] {
        let error = send(&api, request(Method::GET, foreign)).await.unwrap_err();
        assert!(error.is::<reqwest::Error>(), "{foreign}: {error:?}");
    }
}

#[tokio::test]
async fn p10_plain_http_to_an_allowed_host_is_refused() {
    let net = Net::new().await;
    let origins = Origins::new(["https://api.example.com", "https://files.example.com:8443"]).unwrap();
    let api = tower_reauth::AuthLayer::new(net.session.clone(), origins).layer(client());
    for plain in ["http://api.example.com/x", "http://API.example.com:80", "http://files.example.com:8443/"] {
        let error = send(&api, request(Method::GET, plain)).await.unwrap_err();
        assert_eq!(kind(&error), Some(ErrorKind::InsecureOrigin), "{plain}");
    }
}

/// reqwest makes a `Basic` header of user-info: that is the caller's own, and so is a header.
#[tokio::test]
async fn p10_what_the_caller_says_who_it_is_is_left_alone() {
    let net = Net::new().await;
    let (api, client) = (net.layer().layer(client()), client());
    let host = net.api.origin().strip_prefix("http://").unwrap();
    let basic = client.get(format!("http://me:secret@{host}/echo")).build().unwrap();
    let own = client.get(net.api.uri("/echo")).bearer_auth("mine").build().unwrap();
    for request in [basic, own] {
        let response = send(&api, request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(AuthError::in_response(&response).is_none());
    }
    // Built by hand, the user-info stays where it is: another origin to us, and the client sends nothing of it.
    let by_hand = request(Method::GET, &format!("http://me:secret@{host}/echo"));
    assert_eq!(status(&api, by_hand).await, StatusCode::UNAUTHORIZED);
    assert_eq!(net.lines(), ["GET /echo Basic bWU6c2VjcmV0 ", "GET /echo Bearer mine ", "GET /echo - "]);
    assert_eq!(net.issuer.exchanges(), 0);
}

/// They are added where none stands yet, below the layer: a request to an allowed origin has the token by then.
#[tokio::test]
async fn the_clients_default_headers_come_after_the_token() {
    let net = Net::new().await;
    let stranger = Loopback::stranger().await;
    let headers = [("authorization", "Basic ZGVmYXVsdA=="), ("x-app", "jobs")];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let client = Client::builder().no_proxy().default_headers(headers.into_iter().collect()).build().unwrap();
    let api = net.layer().layer(client);
    assert_eq!(status(&api, net.get("/echo")).await, StatusCode::OK);
    assert_eq!(status(&api, request(Method::GET, &stranger.uri("/echo"))).await, StatusCode::OK);
    assert_eq!(net.lines(), ["GET /echo Bearer a1.0 "]);
    let received = stranger.received();
    assert_eq!(
        (received[0].authorization(), &received[0].headers["x-app"]),
        ("Basic ZGVmYXVsdA==", &"jobs".parse().unwrap())
    );
}

// ===== what a response tells =====

#[tokio::test]
async fn a_delivered_refusal_tells_why_it_was_not_retried() {
    let net = Net::new().await;
    let api = net.layer().layer(client());
    net.issuer.expire_all();
    net.issuer.books().revoked = true;
    let response = send(&api, net.get("/echo")).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(AuthError::in_response(&response).map(AuthError::kind), Some(ErrorKind::ReauthRequired));
    assert_eq!((response.text().await.unwrap().as_str(), net.lines().len()), ("refused", 1));
}

#[tokio::test]
async fn case_27_what_a_new_token_cannot_cure_is_told_as_a_challenge() {
    let net = Net::new().await;
    let api = net.layer().layer(client());
    for status in [401, 403] {
        let mut get = net.get(&format!("/answer/{status}"));
        let challenge = "Bearer error=\"insufficient_scope\", scope=\"jobs.write\"";
        get.headers_mut().insert("x-challenge", challenge.parse().unwrap());
        let response = send(&api, get).await.unwrap();
        let challenge = Challenge::in_response(&response).unwrap();
        assert_eq!((challenge.error(), challenge.scope()), (Some("insufficient_scope"), Some("jobs.write")));
        assert!(AuthError::in_response(&response).is_none());
        // Both can be looked up in what reqwest makes of it for others.
        let response = http::Response::<reqwest::Body>::from(response);
        assert!(Challenge::in_response(&response).is_some());
    }
    assert_eq!((net.issuer.exchanges(), net.lines().len()), (0, 2));
}

/// P16: neither the service, nor its client, nor a request shows the token.
#[tokio::test]
async fn p16_no_token_is_shown() {
    let net = Net::new().await;
    let api = net.layer().layer(client());
    let response = send(&api, net.get("/echo")).await.unwrap();
    let text = format!("{api:?} {:?} {response:?}", net.session);
    assert!(!text.contains("a1.") && !text.contains("r1."), "{text}");
}
