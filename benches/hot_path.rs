//! What a request costs while the token is fresh (P17): `AuthService` against tower-http's static `AddAuthorization`, and
//! against tower's `Retry` around it with a policy that clones the request, as the replay needs it.
//!
//! `cargo bench --bench hot_path` measures each variant with criterion; `-- --quick` does so in a few seconds. On a noisy
//! machine only the ratios at the end mean something: there the variants take turns every few microseconds.

#[path = "support/turns.rs"]
mod turns;

use bytes::Bytes;
use criterion::Criterion;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    time::{Duration, SystemTime},
};
use tower::{Layer, Service, retry::Policy, retry::Retry, service_fn};
use tower_http::auth::AddAuthorization;
use tower_reauth::{AuthLayer, NeverReplay, Origins, Session, Tokens, refresh_fn};
use turns::{BATCH, Effort, Variant, deeper, ratio, take_turns};

type Body = Full<Bytes>;
type Answer = Result<Response<Body>, Infallible>;

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6ImFwaSJ9.c2lnbmF0dXJl";
/// What is sent, and what comes back.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    headers: usize,
    /// The answer has a `Date`, as those of most servers have: the session looks at it.
    dated: bool,
    /// What `AuthService` may cost at most, over `Retry(AddAuthorization)`.
    most: Option<f64>,
}

const CASES: [Case; 3] = [
    Case { name: "bare", headers: 0, dated: false, most: Some(1.4) },
    Case { name: "6 headers", headers: 6, dated: false, most: Some(1.25) },
    Case { name: "6 headers, dated answer", headers: 6, dated: true, most: None },
];

/// The client: ready, and so is its answer.
fn client(
    dated: bool,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Ready<Answer>> + Clone {
    service_fn(move |request: Request<Body>| {
        black_box(&request);
        let mut response = Response::new(Full::default());
        if dated {
            let date = HeaderValue::from_static("Tue, 15 Nov 1994 08:12:31 GMT");
            response.headers_mut().insert(header::DATE, date);
        }
        ready(Ok(response))
    })
}

/// Clones the request, and never sends it again.
#[derive(Clone)]
struct Keep;

impl Policy<Request<Body>, Response<Body>, Infallible> for Keep {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<Body>, result: &mut Answer) -> Option<Ready<()>> {
        let refused = result.as_ref().is_ok_and(|response| response.status() == StatusCode::UNAUTHORIZED);
        refused.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}

/// As a client sends it.
fn request(headers: usize) -> Request<Body> {
    let typical = [
        (header::ACCEPT, "application/json"),
        (header::ACCEPT_ENCODING, "gzip, br"),
        (header::USER_AGENT, "jobs/1.4 (bench)"),
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_LENGTH, "2"),
        (header::HeaderName::from_static("x-request-id"), "0192f1c2-8e0b-7c3a-9a55-1f0f6b2a7d10"),
    ];
    let mut request = Request::put("https://api.example.com/v1/jobs/4711?expand=notes");
    for (name, value) in typical.into_iter().take(headers) {
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::from_static(b"{}"))).expect("is a request")
}

const ADD: &str = "AddAuthorization";
const NEVER: &str = "AuthService, NeverReplay";
const RETRY: &str = "Retry(AddAuthorization)";
const AUTH: &str = "AuthService";

fn variants(session: &Session, dated: bool) -> [Variant<Request<Body>>; 4] {
    let origins = Origins::new(["https://api.example.com"]).expect("is an origin");
    let layer = AuthLayer::new(session.clone(), origins);
    let add = || AddAuthorization::bearer(client(dated), TOKEN).as_sensitive(true);
    [
        Variant::new(ADD, add()),
        Variant::new(NEVER, layer.clone().replay(NeverReplay).layer(client(dated))),
        Variant::new(RETRY, Retry::new(Keep, add())),
        Variant::new(AUTH, layer.layer(client(dated))),
    ]
}

/// A token that stays fresh; its answer had a `Date`, as real ones have.
async fn session() -> Session {
    let session = Session::builder(refresh_fn(|_| async { unreachable!("the token is fresh") }))
        .open("alice")
        .await
        .expect("the store is empty");
    let tokens = Tokens::new(TOKEN).with_expires_in(Duration::from_secs(86_400)).with_date(SystemTime::now());
    session.sign_in(tokens).await.expect("the store is in memory");
    session
}

fn main() {
    let Some(Effort { rounds, batches }) = Effort::asked_for() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let session = runtime.block_on(session());

    let mut criterion = Criterion::default().configure_from_args();
    for case in CASES {
        let mut group = criterion.benchmark_group(case.name);
        let template = request(case.headers);
        let make = || template.clone();
        for mut variant in variants(&session, case.dated) {
            group.bench_function(variant.name, |bencher| {
                bencher.iter_custom(|mut left| {
                    let mut took = Duration::ZERO;
                    while left > 0 {
                        let batch = left.min(BATCH as u64);
                        took += variant.time(&make, batch as usize);
                        left -= batch;
                    }
                    took
                });
            });
        }
    }
    criterion.final_summary();

    let mut lines = Vec::new();
    for case in CASES {
        let template = request(case.headers);
        let make = || template.clone();
        let mut variants = variants(&session, case.dated);
        take_turns(&mut variants, &make, batches); // warm
        variants.iter_mut().for_each(|variant| variant.rounds.clear());
        for round in 0..rounds {
            deeper(round, &mut || take_turns(&mut variants, &make, batches));
        }
        turns::print(&format!("{}, {rounds} rounds", case.name), &mut variants, &make);
        let most = case.most.map(|most| format!(" (must be <= {most})")).unwrap_or_default();
        lines.push(format!("ratio {}: {AUTH} / {RETRY} = {:.2}{most}", case.name, ratio(&variants, AUTH, RETRY)));
        lines.push(format!("ratio {}: {NEVER} / {ADD} = {:.2}", case.name, ratio(&variants, NEVER, ADD)));
    }
    println!("\n{}", lines.join("\n"));
}
