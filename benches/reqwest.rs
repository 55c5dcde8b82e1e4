//! What the layer adds to a `reqwest::Client` while the token is fresh (P17): `AuthService` beside a client with the header
//! set by hand, over a real server on loopback (one connection, kept), and beside a client that answers at once.
//!
//! `cargo bench --bench reqwest` measures; `-- --quick` does so in a few seconds. The variants take turns every few
//! requests: only the ratios mean something on a noisy machine.

#[path = "support/turns.rs"]
mod turns;

use http::{HeaderValue, header};
use reqwest::{Client, Method, Request, Response};
use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    rc::Rc,
    time::{Duration, SystemTime},
};
use tokio::{net::TcpListener, runtime::Runtime};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_reauth::{AuthLayer, NeverReplay, Origins, Session, Tokens, refresh_fn};
use turns::{Effort, Variant, deeper, ratio, take_turns};

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6ImFwaSJ9.c2lnbmF0dXJl";
const HAND: &str = "by hand";
const NEVER: &str = "AuthService, NeverReplay";
const KEPT: &str = "by hand, and try_clone";
const AUTH: &str = "AuthService";

fn header() -> HeaderValue {
    let mut header = HeaderValue::try_from(format!("Bearer {TOKEN}")).expect("is a header");
    header.set_sensitive(true);
    header
}

/// As a client sends it.
fn request(origin: &str) -> Request {
    let url = format!("{origin}/v1/jobs/4711?expand=notes").parse().expect("is a URL");
    let mut request = Request::new(Method::PUT, url);
    for (name, value) in [("accept", "application/json"), ("content-type", "application/json"), ("x-request-id", "7")] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    *request.body_mut() = Some("{}".into());
    request
}

/// The token in the request, and a copy of it as the replay needs one.
fn by_hand<S: Service<Request>>(mut inner: S, keep: bool) -> impl FnMut(Request) -> S::Future {
    let header = header();
    move |mut request| {
        let kept = keep.then(|| request.try_clone());
        request.headers_mut().insert(header::AUTHORIZATION, header.clone());
        black_box(kept);
        inner.call(request)
    }
}

// ===== a client that answers at once =====

fn stub()
-> impl Service<Request, Response = Response, Error = Infallible, Future = Ready<Result<Response, Infallible>>> + Clone
{
    service_fn(|request: Request| {
        black_box(&request);
        ready(Ok(Response::from(http::Response::new(""))))
    })
}

fn stubbed(layer: &AuthLayer) -> [Variant<Request>; 4] {
    [
        Variant::new(HAND, service_fn(by_hand(stub(), false))),
        Variant::new(NEVER, layer.clone().replay(NeverReplay).layer(stub())),
        Variant::new(KEPT, service_fn(by_hand(stub(), true))),
        Variant::new(AUTH, layer.layer(stub())),
    ]
}

// ===== a client over the network =====

/// One after the other, each answer read to its end.
fn over_the_network<S>(name: &'static str, runtime: &Rc<Runtime>, service: S) -> Variant<Request>
where
    S: Service<Request, Response = Response, Error: std::fmt::Debug> + Clone + 'static,
{
    let runtime = runtime.clone();
    Variant::of(name, move |requests| {
        runtime.block_on(async {
            for request in requests {
                let response = service.clone().oneshot(request).await.expect("the server answers");
                assert_eq!(black_box(response.bytes().await.expect("a whole answer")).len(), 2);
            }
        });
    })
}

fn networked(layer: &AuthLayer, runtime: &Rc<Runtime>) -> [Variant<Request>; 3] {
    let client = Client::builder().no_proxy().build().expect("is a client");
    let header = header();
    let mut hand = client.clone();
    let hand = service_fn(move |mut request: Request| {
        request.headers_mut().insert(header::AUTHORIZATION, header.clone());
        hand.call(request)
    });
    [
        over_the_network(HAND, runtime, hand),
        over_the_network(NEVER, runtime, layer.clone().replay(NeverReplay).layer(client.clone())),
        over_the_network(AUTH, runtime, layer.layer(client)),
    ]
}

/// A server in a thread of its own, on a free port; its origin.
fn server() -> String {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
            tell.send(format!("http://{}", listener.local_addr().expect("it is bound"))).expect("somebody waits");
            let app = axum::Router::new().fallback(async |body: axum::body::Bytes| body);
            axum::serve(listener, app).await
        })
    });
    told.recv().expect("a server")
}

fn main() {
    let Some(Effort { rounds, batches }) = Effort::asked_for() else { return };
    let runtime = Rc::new(tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));
    let origin = server();
    let session = runtime.block_on(async {
        let session = Session::builder(refresh_fn(|_| async { unreachable!("the token is fresh") }));
        let session = session.open("alice").await.expect("the store is empty");
        let tokens = Tokens::new(TOKEN).with_expires_in(Duration::from_secs(86_400)).with_date(SystemTime::now());
        session.sign_in(tokens).await.expect("the store is in memory");
        session
    });
    let layer = AuthLayer::new(session, Origins::new([&origin]).expect("is an origin"));
    let make = || request(&origin);

    let mut stubbed = stubbed(&layer);
    take_turns(&mut stubbed, &make, batches); // warm
    stubbed.iter_mut().for_each(|variant| variant.rounds.clear());
    for round in 0..rounds {
        deeper(round, &mut || take_turns(&mut stubbed, &make, batches));
    }
    turns::print(&format!("a client that answers at once, {rounds} rounds"), &mut stubbed, &make);

    // A request takes a thousand times as long here: fewer of them tell as much.
    let batches = batches.div_ceil(100);
    let mut networked = networked(&layer, &runtime);
    take_turns(&mut networked, &make, batches); // connects
    networked.iter_mut().for_each(|variant| variant.rounds.clear());
    for _ in 0..rounds {
        take_turns(&mut networked, &make, batches);
    }
    turns::print(&format!("a server on loopback, {rounds} rounds"), &mut networked, &make);

    println!("\nratio at once: {NEVER} / {HAND} = {:.2}", ratio(&stubbed, NEVER, HAND));
    println!("ratio at once: {AUTH} / {KEPT} = {:.2}", ratio(&stubbed, AUTH, KEPT));
    println!("ratio on loopback: {NEVER} / {HAND} = {:.3}", ratio(&networked, NEVER, HAND));
    println!("ratio on loopback: {AUTH} / {HAND} = {:.3}", ratio(&networked, AUTH, HAND));
}
