//! Whose token a request gets: the account that its `Permit`, its `AccountId` or the layer names, else the active one.

use crate::{
    flaky::{Call, Flaky},
    kind_of,
    kit::{Api, ORIGIN, Req, get},
    town::{Town, named, send},
};
use http::StatusCode;
use tokio_test::{assert_pending, task};
use tower::ServiceExt;
use tower_reauth::{
    AccountId, AuthError, AuthLayer, Capability, DenyReason, ErrorKind, MemoryStore, Origins, SkipAuth, gate_fn,
};

/// How often each token went out, and with what.
async fn sent(api: &Api, town: &Town, request: Req) -> Result<String, ErrorKind> {
    let before = town.seen.len();
    let outcome = kind_of(send(api, request).await);
    let seen = town.seen.all().split_off(before);
    match (outcome, &seen[..]) {
        (Ok(StatusCode::OK), [line]) => Ok(line.rsplit(' ').next().unwrap().to_owned()),
        (Err(kind), []) => Err(kind),
        other => panic!("{other:?}"),
    }
}

fn permitted(town: &Town, subject: &str) -> Req {
    let mut request = get("/");
    request.extensions_mut().insert(town.session(subject).authorize("read").unwrap());
    request
}

const A: Result<&str, ErrorKind> = Ok("a10.0");
const B: Result<&str, ErrorKind> = Ok("a20.0");
const WRONG: Result<&str, ErrorKind> = Err(ErrorKind::Misconfigured);
const NOBODY: Result<&str, ErrorKind> = Err(ErrorKind::SignedOut);

/// By the layer, by extension, by permit; what becomes of it with nobody active, with bob, with alice.
type Row<'a> = (&'a AuthLayer, Option<&'a str>, Option<&'a str>, [Result<&'a str, ErrorKind>; 3]);

#[tokio::test(start_paused = true)]
async fn p12_whatever_names_an_account_has_to_name_the_same_one() {
    let town = Town::new(MemoryStore::new()).await;
    let (alices, bobs) = (town.layer().account("alice"), town.layer().account("bob"));
    let strangers = town.layer().account("zoe");
    let rows: [Row<'_>; 14] = [
        (&town.layer(), None, None, [NOBODY, B, A]),
        (&town.layer(), Some("alice"), None, [A, A, A]),
        (&town.layer(), None, Some("alice"), [A, A, A]),
        (&town.layer(), Some("alice"), Some("alice"), [A, A, A]),
        (&town.layer(), Some("alice"), Some("bob"), [WRONG; 3]),
        (&town.layer(), Some("zoe"), None, [WRONG; 3]),
        (&town.layer(), Some("zoe"), Some("alice"), [WRONG; 3]),
        (&alices, None, None, [A, A, A]),
        (&bobs, None, None, [B, B, B]),
        (&alices, Some("alice"), Some("alice"), [A, A, A]),
        (&alices, Some("bob"), None, [WRONG; 3]),
        (&alices, None, Some("bob"), [WRONG; 3]),
        (&alices, Some("bob"), Some("bob"), [WRONG; 3]),
        (&strangers, None, None, [WRONG; 3]),
    ];
    for (at, active) in [None, Some("bob"), Some("alice")].into_iter().enumerate() {
        if let Some(active) = active {
            town.activate(active);
        }
        for (row, (layer, extension, permit, expected)) in rows.iter().enumerate() {
            let mut request = permit.map_or_else(|| get("/"), |subject| permitted(&town, subject));
            if let Some(subject) = extension {
                request = named(request, *subject);
            }
            let outcome = sent(&town.behind((*layer).clone()), &town, request).await;
            assert_eq!(outcome.as_deref().map_err(|kind| *kind), expected[at], "row {row}, active: {active:?}");
        }
    }

    // The tenant is a part of the name.
    let tenant = AccountId::new("alice").with_tenant("acme");
    assert_eq!(sent(&town.api(), &town, named(get("/"), tenant)).await, Err(ErrorKind::Misconfigured));
}

/// An error says what to do about it, and no gate is asked for a request that is nobody's.
#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_said_with_the_way_out() {
    let town = Town::new(MemoryStore::new()).await;
    let error = send(&town.api(), get("/")).await.unwrap_err();
    assert!(error.to_string().contains("Accounts::set_active") && error.denial().is_none(), "{error}");
    let error = send(&town.api(), named(get("/"), "zoe")).await.unwrap_err();
    assert!(error.to_string().contains("Accounts::open"), "{error}");
    let error = send(&town.api(), named(permitted(&town, "bob"), "alice")).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("another account"), "{error}");
    assert_eq!(town.log.count(|event| matches!(event, tower_reauth::AuthEvent::Denied { .. })), 0);

    // Opened since: the next request goes.
    let tokens = town.issuer("zoe").sign_in();
    town.accounts.open("zoe").await.unwrap().sign_in(tokens).await.unwrap();
    assert_eq!(sent(&town.api(), &town, named(get("/"), "zoe")).await.unwrap(), "a30.0");
}

/// What gets no token is nobody's: it goes out although nobody is active, and although the names do not fit.
#[tokio::test(start_paused = true)]
async fn a_request_without_a_token_needs_no_account() {
    let town = Town::new(MemoryStore::new()).await;
    let service = tower::service_fn(|request: Req| {
        let bare = request.headers().get("authorization").is_none_or(|value| value == "Basic mine");
        std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(bare)))
    });
    let api = tower::Layer::layer(&town.layer(), service);
    for name in [None, Some("zoe")] {
        let mut skip = get("/login");
        skip.extensions_mut().insert(SkipAuth);
        let mut own = get("/mine");
        own.headers_mut().insert("authorization", "Basic mine".parse().unwrap());
        let foreign = http::Request::get("https://other.example.com/").body(Default::default()).unwrap();
        for mut request in [skip, own, foreign] {
            if let Some(name) = name {
                request = named(request, name);
            }
            assert!(api.clone().oneshot(request).await.unwrap().into_body());
        }
    }
}

/// The permit's capability goes with its account; the gate is asked about that account, and decides anew.
#[tokio::test(start_paused = true)]
async fn p14_the_gate_is_asked_about_the_account_that_was_chosen() {
    let gate = gate_fn(|cx| match (cx.account().subject(), cx.capability().as_str()) {
        ("bob", "read" | "drive") | ("alice", "read") => Ok(()),
        _ => Err(cx.deny(DenyReason::MissingGrant)),
    });
    let town = Town::with(MemoryStore::new(), &["alice", "bob"], |builder| builder.gate(gate)).await;
    town.activate("alice");
    let api = town.api();
    let drive = |mut request: Req| {
        request.extensions_mut().insert(Capability::new("drive"));
        request
    };
    assert_eq!(sent(&api, &town, drive(get("/"))).await, Err(ErrorKind::Denied), "alice may not");
    assert_eq!(sent(&api, &town, drive(named(get("/"), "bob"))).await.unwrap(), "a20.0");
    let mut request = get("/");
    request.extensions_mut().insert(town.session("bob").authorize("drive").unwrap());
    assert_eq!(sent(&api, &town, request).await.unwrap(), "a20.0");
    assert!(town.session("alice").authorize("drive").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_layer_of_one_session_takes_no_other_account() {
    let town = Town::new(MemoryStore::new()).await;
    let layer = AuthLayer::new(town.session("alice"), Origins::new([ORIGIN]).unwrap());
    assert_eq!(sent(&town.behind(layer.clone()), &town, named(get("/"), "alice")).await.unwrap(), "a10.0");
    assert_eq!(sent(&town.behind(layer.clone()), &town, named(get("/"), "bob")).await, Err(ErrorKind::Misconfigured));
    assert_eq!(sent(&town.behind(layer.account("bob")), &town, get("/")).await, Err(ErrorKind::Misconfigured));
}

/// P17: nobody waits for a directory that changes, nor for an account that is being opened.
#[tokio::test(start_paused = true)]
async fn p17_requests_go_on_while_an_account_is_opened() {
    let store = Flaky::new();
    let town = Town::new(store.clone()).await;
    town.activate("alice");
    let api = town.api();
    let pause = store.pause(Call::Load, 0);
    let mut opening = task::spawn(town.accounts.open("zoe"));
    assert_pending!(opening.poll());
    pause.reached().await;
    assert_eq!(sent(&api, &town, get("/")).await.unwrap(), "a10.0");
    assert_eq!(sent(&api, &town, named(get("/"), "bob")).await.unwrap(), "a20.0");
    town.activate("bob");
    assert_eq!(sent(&api, &town, get("/")).await.unwrap(), "a20.0");
    pause.go_on();
    opening.await.unwrap();
    let error = api.oneshot(named(get("/"), "zoe")).await.unwrap_err();
    assert_eq!(AuthError::find(&*error).unwrap().kind(), ErrorKind::SignedOut);
}
