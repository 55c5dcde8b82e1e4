//! Inside reqwest-retry, and around other middlewares: whose error is whose.

use super::*;
use anyhow::Context as _;
use reqwest_retry::{RetryError, RetryTransientMiddleware, policies::ExponentialBackoff};
use std::{error::Error as StdError, fmt};

/// Retries, the layer, and what the test puts below it. Nobody waits between the attempts.
fn retrying(net: &Net, attempts: u32, below: Option<Arc<dyn Middleware>>) -> ClientWithMiddleware {
    let backoff = ExponentialBackoff::builder()
        .retry_bounds(Duration::ZERO, Duration::from_millis(1))
        .build_with_max_retries(attempts);
    let mut builder = ClientBuilder::new(client())
        .with(RetryTransientMiddleware::new_with_policy(backoff))
        .with(AuthMiddleware::from(net.layer()));
    if let Some(below) = below {
        builder = builder.with_arc(below);
    }
    builder.build()
}

/// How often the layer was called.
struct Counted(Arc<Mutex<u32>>);

#[async_trait::async_trait]
impl Middleware for Counted {
    async fn handle(&self, request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        *self.0.lock().unwrap() += 1;
        next.run(request, extensions).await
    }
}

#[tokio::test]
async fn what_is_retried_gets_its_token_each_time() {
    let net = Net::new().await;
    let api = retrying(&net, 3, None);
    let response = api.post(net.api.uri("/unsteady")).body("once").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "once");
    assert_eq!(net.lines(), ["POST /unsteady Bearer a1.0 once"; 2]);

    // The token changes between two attempts: the second one has the new one.
    let net = Net::new().await;
    let refreshing = net.session.clone();
    let between = With(move || {
        let session = refreshing.clone();
        async move { session.refresh().await.unwrap() }
    });
    let api = retrying(&net, 3, Some(Arc::new(between)));
    assert_eq!(status(&api, net.get("/unsteady")).await, StatusCode::OK);
    assert_eq!(net.lines(), ["GET /unsteady Bearer a1.0 ", "GET /unsteady Bearer a1.1 "]);

    // It gives up in the end, with the server's answer.
    let net = Net::new().await;
    assert_eq!(status(&retrying(&net, 2, None), net.get("/answer/503")).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(net.lines(), ["GET /answer/503 Bearer a1.0 "; 3]);
}

/// Does something after the request was sent.
struct With<F>(F);

#[async_trait::async_trait]
impl<F, Fut> Middleware for With<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    async fn handle(&self, request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        let response = next.run(request, extensions).await;
        (self.0)().await;
        response
    }
}

#[tokio::test]
async fn our_errors_are_not_retried_and_are_found_in_those_of_retries() {
    let net = Net::new().await;
    let calls = Arc::new(Mutex::new(0));
    let backoff = ExponentialBackoff::builder().build_with_max_retries(3);
    let api = ClientBuilder::new(client())
        .with(RetryTransientMiddleware::new_with_policy(backoff))
        .with(Counted(calls.clone()))
        .with(AuthMiddleware::from(net.layer()))
        .build();
    net.session.sign_out(SignOut::Soft).await.unwrap();
    let error = api.execute(net.get("/echo")).await.unwrap_err();
    assert_eq!((kind(&error), *calls.lock().unwrap()), (Some(ErrorKind::SignedOut), 1));
    let Error::Middleware(inner) = &error else { panic!("{error:?}") };
    assert!(matches!(inner.downcast_ref::<RetryError>(), Some(RetryError::Error(_))), "without retries");
    assert_eq!(error.to_string(), AuthError::find(&error).unwrap().to_string());

    // The same from the chain alone, without retries.
    let error = chain(net.layer()).execute(net.get("/echo")).await.unwrap_err();
    assert_eq!(kind(&error), Some(ErrorKind::SignedOut));
    assert!(error.is_middleware());
    assert_eq!(error.to_string(), AuthError::find(&error).unwrap().to_string());
    assert_eq!(net.lines().len(), 0);
}

/// The session ends between two attempts.
#[tokio::test]
async fn our_error_is_found_after_retries() {
    let net = Net::new().await;
    let session = net.session.clone();
    let ending = With(move || {
        let session = session.clone();
        async move { session.sign_out(SignOut::Soft).await.unwrap() }
    });
    let error = retrying(&net, 3, Some(Arc::new(ending))).execute(net.get("/answer/503")).await.unwrap_err();
    let Error::Middleware(inner) = &error else { panic!("{error:?}") };
    assert!(matches!(inner.downcast_ref(), Some(RetryError::WithRetries { retries: 1, .. })), "{error:?}");
    assert_eq!((kind(&error), net.lines().len()), (Some(ErrorKind::SignedOut), 1));
}

/// A refusal that cannot be cured is an answer, and none that is retried.
#[tokio::test]
async fn a_refusal_is_not_retried() {
    let net = Net::new().await;
    let api = retrying(&net, 3, None);
    assert_eq!(status(&api, net.get("/answer/401")).await, StatusCode::UNAUTHORIZED);
    assert_eq!((net.lines().len(), net.issuer.exchanges()), (2, 1));
}

// ===== errors of others =====

#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl StdError for Broken {}

/// Fails: with an error of its own, or with a context around one.
struct Fails(bool);

#[async_trait::async_trait]
impl Middleware for Fails {
    async fn handle(&self, _: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        match self.0 {
            true => Err(Error::Middleware(Err::<(), _>(Broken).context("below").unwrap_err())),
            false => Err(Error::middleware(Broken)),
        }
    }
}

#[tokio::test]
async fn the_error_of_a_middleware_below_is_unchanged() {
    let net = Net::new().await;
    for context in [false, true] {
        let api = ClientBuilder::new(client()).with(AuthMiddleware::from(net.layer())).with(Fails(context)).build();
        let error = api.execute(net.get("/echo")).await.unwrap_err();
        assert_eq!(error.to_string(), if context { "below" } else { "broken" });
        let Error::Middleware(inner) = error else { panic!("{error:?}") };
        assert!(inner.is::<Broken>(), "as it was: {inner:?}");
        assert_eq!(inner.chain().count(), if context { 2 } else { 1 });
    }
}

/// The client's own is one that reqwest-retry knows.
#[tokio::test]
async fn the_error_of_the_client_is_unchanged() {
    let net = Net::new().await;
    let nobody = nobody();
    let api = chain(AuthLayer::new(net.session.clone(), Origins::new([&nobody]).unwrap()));
    let error = api.get(&nobody).send().await.unwrap_err();
    assert!(matches!(&error, Error::Reqwest(error) if error.is_connect()), "{error:?}");
    assert!(AuthError::find(&error).is_none());
}

/// Puts a context around what comes from below.
struct Contexts;

#[async_trait::async_trait]
impl Middleware for Contexts {
    async fn handle(&self, request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        let answer = next.run(request, extensions).await;
        answer.context("listing").context("jobs").map_err(Error::Middleware)
    }
}

#[tokio::test]
async fn our_error_is_found_through_contexts() {
    let net = Net::new().await;
    net.session.sign_out(SignOut::Soft).await.unwrap();
    let api = ClientBuilder::new(client()).with(Contexts).with(AuthMiddleware::from(net.layer())).build();
    let error = api.execute(net.get("/echo")).await.unwrap_err();
    assert_eq!((kind(&error), error.to_string()), (Some(ErrorKind::SignedOut), "jobs".to_owned()));
    // And in what an application makes of it.
    let error = Err::<(), _>(error).context("the application").unwrap_err();
    assert_eq!(AuthError::find(&*error).map(AuthError::kind), Some(ErrorKind::SignedOut));
    assert!(error.chain().any(|error| error.is::<AuthError>()));
}
