//! Many tasks find an expired token at once.
//!
//! The good storm is measured against the least that it could be: tasks that wait for a bare `futures::Shared` and then
//! send through `Retry(AddAuthorization)`. The exchange ends when all tasks wait for it, and what it takes from there is
//! taken off. Only the ratio means something on a noisy machine; what must hold is that there was one exchange.

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use pin_project_lite::pin_project;
use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Semaphore;
use tower::{BoxError, Layer, Service, ServiceExt, retry::Policy, retry::Retry, service_fn};
use tower_http::auth::AddAuthorization;
use tower_reauth::{
    AuthError, AuthLayer, Clock, ErrorKind, FailureKind, Origins, RefreshError, Session, SystemClock, Tokens,
    refresh_fn,
};

type Body = Full<Bytes>;
type Answer = Result<Response<Body>, Infallible>;

const TASKS: usize = 100_000;
const FAILING_TASKS: usize = 10_000;
const ROUNDS: usize = 7;
const LIFETIME: Duration = Duration::from_secs(3600);
/// What an exchange takes once everybody waits for it.
const LATENCY: Duration = Duration::from_millis(20);

/// The client: ready, and so is its answer.
fn client() -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Ready<Answer>> + Clone
{
    service_fn(|request: Request<Body>| {
        assert!(request.headers().contains_key(http::header::AUTHORIZATION));
        ready(Ok(Response::new(Full::default())))
    })
}

/// Clones the request, as a replay needs it.
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

fn request() -> Request<Body> {
    let request = Request::put("https://api.example.com/v1/jobs/4711").header("content-type", "application/json");
    request.body(Full::new(Bytes::from_static(b"{}"))).expect("is a request")
}

/// The machine's clock, some hours ahead.
#[derive(Clone, Default)]
struct Ahead(Arc<AtomicU64>);

impl Ahead {
    fn hours(&self) -> Duration {
        Duration::from_secs(3600 * self.0.load(Ordering::Relaxed))
    }
}

impl Clock for Ahead {
    fn now(&self) -> SystemTime {
        SystemClock::new().now() + self.hours()
    }

    fn monotonic(&self) -> Duration {
        SystemClock::new().monotonic() + self.hours()
    }
}

/// An exchange that goes on until all tasks wait for it.
struct Source {
    tasks: usize,
    arrived: AtomicUsize,
    /// Closed when all are there.
    all_here: Semaphore,
    exchanges: AtomicUsize,
    /// From when all were there to the end.
    took: Mutex<Duration>,
}

impl Source {
    fn new(tasks: usize) -> Arc<Self> {
        Arc::new(Self {
            tasks,
            arrived: AtomicUsize::new(0),
            all_here: Semaphore::new(0),
            exchanges: AtomicUsize::new(0),
            took: Mutex::default(),
        })
    }

    async fn exchange(self: Arc<Self>) {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        let _closed = self.all_here.acquire().await;
        let start = Instant::now();
        tokio::time::sleep(LATENCY).await;
        *self.took.lock().expect("nobody panics") = start.elapsed();
    }

    /// Starts `task` in so many tasks at once and waits for all: how long it took, less the exchange, and what they ended
    /// with.
    async fn storm<F, T>(self: Arc<Self>, task: impl Fn() -> F) -> (Duration, Vec<T>)
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let start = Instant::now();
        let tasks: Vec<_> =
            (0..self.tasks).map(|_| tokio::spawn(Counted { task: task(), source: Some(self.clone()) })).collect();
        let mut ends = Vec::with_capacity(tasks.len());
        for task in tasks {
            ends.push(task.await.expect("no task panics"));
        }
        let took = *self.took.lock().expect("nobody panics");
        (start.elapsed().saturating_sub(took), ends)
    }
}

pin_project! {
    /// Counts a task once it has been polled: it waits by then, unless it has nothing to wait for.
    struct Counted<F> {
        #[pin]
        task: F,
        source: Option<Arc<Source>>,
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let poll = this.task.poll(cx);
        if let Some(source) = this.source.take()
            && source.arrived.fetch_add(1, Ordering::Relaxed) + 1 == source.tasks
        {
            source.all_here.close();
        }
        poll
    }
}

fn layer(session: &Session) -> AuthLayer {
    AuthLayer::new(session.clone(), Origins::new(["https://api.example.com"]).expect("is an origin"))
}

/// A session whose token has expired.
async fn expired(source: Arc<Source>, answer: fn() -> Result<Tokens, RefreshError>) -> Session {
    let refresher = refresh_fn(move |_| source.clone().exchange().map(move |()| answer()));
    let clock = Ahead::default();
    let session = Session::builder(refresher).clock(clock.clone()).open("alice").await.expect("the store is empty");
    let tokens = Tokens::new("first").with_refresh_token("r1").with_expires_in(LIFETIME);
    session.sign_in(tokens).await.expect("the store is in memory");
    clock.0.fetch_add(2, Ordering::Relaxed);
    session
}

/// Through `AuthService`: the time, and how many exchanges there were.
async fn through_auth_service() -> (Duration, usize) {
    let source = Source::new(TASKS);
    let session = expired(source.clone(), || Ok(Tokens::new("second").with_expires_in(LIFETIME))).await;
    let api = layer(&session).layer(client());
    let (took, ends) = source.clone().storm(|| api.clone().oneshot(request())).await;
    assert!(ends.iter().all(Result::is_ok), "everybody got an answer");
    (took, source.exchanges.load(Ordering::Relaxed))
}

/// The same with a bare `Shared`: the time.
async fn through_shared() -> Duration {
    let source = Source::new(TASKS);
    let exchange = tokio::spawn(source.clone().exchange()).map(drop).shared();
    let api = Retry::new(Keep, AddAuthorization::bearer(client(), "second").as_sensitive(true));
    let (took, ends) = source
        .storm(|| {
            let (exchange, api, request) = (exchange.clone(), api.clone(), request());
            exchange.then(move |()| api.oneshot(request)) // smaller than an `async` block
        })
        .await;
    assert!(ends.iter().all(Result::is_ok), "everybody got an answer");
    took
}

/// Through `AuthService`, with a source that fails: the time, how many exchanges there were, and how many tasks got its
/// error.
async fn failing() -> (Duration, usize, usize) {
    let source = Source::new(FAILING_TASKS);
    let session = expired(source.clone(), || Err(RefreshError::new(FailureKind::Transient))).await;
    let api = layer(&session).layer(client());
    let (took, ends) = source.clone().storm(|| api.clone().oneshot(request())).await;
    let typed = |end: &&Result<_, BoxError>| {
        let error = end.as_ref().err().and_then(|error| AuthError::find(&**error));
        error.is_some_and(|error| error.kind() == ErrorKind::Unavailable)
    };
    (took, source.exchanges.load(Ordering::Relaxed), ends.iter().filter(typed).count())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn main() -> ExitCode {
    let arg = |name: &str| std::env::args().any(|arg| arg == name);
    let rounds = match () {
        () if arg("--list") => return ExitCode::SUCCESS,
        () if arg("--bench") => ROUNDS,
        () => 1, // `cargo test --benches`
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    let mut right = true;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        // Whoever goes first finds memory in another state than who goes second.
        let first = (round % 2 == 0).then(|| runtime.block_on(on_a_worker(through_shared())));
        let (ours, exchanges) = runtime.block_on(on_a_worker(through_auth_service()));
        let shared = first.unwrap_or_else(|| runtime.block_on(on_a_worker(through_shared())));
        right &= exchanges == 1;
        ratios.push(ours.as_secs_f64() / shared.as_secs_f64());
        println!(
            "{TASKS} tasks, expired token, round {round}: {exchanges} exchange(s) (must be 1); AuthService {:.0} ms, \
             Shared {:.0} ms",
            ms(ours),
            ms(shared)
        );
    }
    let (took, exchanges, errors) = runtime.block_on(on_a_worker(failing()));
    right &= exchanges == 1 && errors == FAILING_TASKS;
    println!(
        "{FAILING_TASKS} tasks, failing source: {exchanges} exchange(s) (must be 1); {errors} typed errors (must be \
         {FAILING_TASKS}); {:.0} ms",
        ms(took)
    );
    println!(
        "ratio storm: AuthService / (Shared, then Retry(AddAuthorization)) = {:.2} (must be <= 1.5)",
        median(ratios)
    );
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is spawned from outside of the runtime goes through one queue.
async fn on_a_worker<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.expect("it does not panic")
}
