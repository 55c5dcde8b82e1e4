//! [`AuthLayer`]: in front of any tower service for HTTP requests.

mod buffered;
mod challenge;
mod errand;
mod exchange;
mod future;
mod replay;
mod route;

pub use buffered::{BufferedBody, ReplayBody};
pub use challenge::Challenge;
pub use exchange::grpc_unauthenticated;
pub use future::ResponseFuture;
pub use replay::{CloneBody, EmptyOnly, NeverReplay, Replay};
pub use route::{ForwardStale, SkipAuth};

#[cfg(feature = "reqwest")]
pub(crate) use replay::is_empty;

use crate::{
    account::AccountId,
    denial::Capability,
    error::BoxError,
    message::{HttpRequest, HttpResponse, RequestHead, ResponseHead},
    origin::Origins,
    session::{Accounts, Session},
};
use http::Uri;
use route::{Auth, Holder, Route};
use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};
use tower_layer::Layer;
use tower_service::Service;

/// Attaches access tokens, refreshes them on a 401 and replays once.
///
/// # Where it goes
/// Directly around the client, inside retries, redirects, timeouts and traces: then it sees every hop, and a token never
/// leaves the allowed origins.
///
/// ```
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_reauth::{AuthLayer, BoxError, Origins, Session, Tokens, refresh_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("second")))).open("alice").await?;
/// session.sign_in(Tokens::new("first")).await?;
///
/// let client = service_fn(async |request: http::Request<String>| {
///     assert_eq!(request.headers()["authorization"], "Bearer first");
///     Ok::<_, std::convert::Infallible>(http::Response::new("hello"))
/// });
/// let api = AuthLayer::new(session, Origins::new(["https://api.example.com"])?).layer(client);
/// let response = api.oneshot(http::Request::get("https://api.example.com/jobs").body(String::new())?).await?;
/// assert_eq!(response.into_body(), "hello");
/// # Ok(()) }
/// ```
///
/// # Around a reqwest client
/// What the client does by itself it does below the layer:
///
/// - It follows redirects. A response from another origin is delivered as it is, and a refused request that was redirected
///   is replayed only if it is idempotent; but a redirect of a command to its own URL cannot be told from none. And reqwest
///   takes the token off on the way to another origin, but (0.13.5) puts it on again when that one redirects to itself. So
///   build the client without redirects, `redirect(Policy::none())`, or with those within one origin:
///
/// ```
/// use reqwest::redirect::Policy;
///
/// let within = Policy::custom(|attempt| match attempt.previous() {
///     [asked, rest @ ..]
///         if asked.origin() == attempt.url().origin() && asked != attempt.url() && rest.len() < 9 =>
///     {
///         attempt.follow()
///     }
///     _ => attempt.stop(), // the caller gets the redirect
/// });
/// let client = reqwest::Client::builder().redirect(within).build()?;
/// # Ok::<(), reqwest::Error>(())
/// ```
///
/// - It adds its `default_headers` where none stands: an `Authorization` among them goes out with requests that get no token,
///   and never instead of one. One that `RequestBuilder` sets (`bearer_auth`, or user-info in the URL) is the caller's own.
/// - It tries again what `ClientBuilder::retry` says, with the token that it has, and each of the two sendings so often:
///   a policy of it leaves 401 alone.
/// - Its timeouts, `RequestBuilder::timeout` too, are of one sending: the wait for a token is not counted.
/// - It goes through the proxies of the environment, to a loopback address in plain text: `no_proxy()` is for those.
///
/// A `reqwest::Request` keeps its extensions private: see [`account`](Self::account), [`capability`](Self::capability) and
/// [`forward_stale`](Self::forward_stale). With `AuthMiddleware` a request has some.
#[derive(Clone)]
pub struct AuthLayer<P = CloneBody> {
    auth: Arc<Auth>,
    replay: P,
}

impl AuthLayer {
    /// One account; its tokens go to these origins only.
    pub fn new(session: Session, origins: Origins) -> Self {
        Self::of(Holder::One(session), origins)
    }

    /// Several accounts; their tokens go to these origins only. A request says whose it is by an [`AccountId`] or a
    /// [`Permit`](crate::Permit) among its extensions, or all do by [`account`](Self::account); else it is the
    /// [active](Accounts::active) account's. It keeps that account to its end, whatever is switched meanwhile.
    ///
    /// The choice is made when a request comes through this layer. What stands above keeps requests, or sends them again: a
    /// buffer, a retry, redirects. There a request has to name its account, or it is the active one's of a later moment. See
    /// "Several accounts" in `docs/stacks.md`.
    ///
    /// If it names an account that is not open, or two different ones, it is `Misconfigured`; if it names none, and none
    /// is active, `SignedOut`. The extensions of a `tonic::Request` are those of its HTTP request.
    ///
    /// A token request through it is `Reentrant`, whichever account it is made for and whichever is active.
    pub fn for_accounts(accounts: Accounts, origins: Origins) -> Self {
        Self::of(Holder::Many(accounts), origins)
    }

    fn of(holder: Holder, origins: Origins) -> Self {
        let auth = Auth {
            holder,
            origins,
            account: None,
            default_origin: None,
            capability: None,
            rejected: None,
            forward_stale: false,
        };
        Self { auth: Arc::new(auth), replay: CloneBody }
    }
}

impl<P> AuthLayer<P> {
    fn with(mut self, f: impl FnOnce(&mut Auth)) -> Self {
        f(Arc::make_mut(&mut self.auth));
        self
    }

    /// How a request is kept for its one replay. Defaults to [`CloneBody`].
    pub fn replay<Q>(self, replay: Q) -> AuthLayer<Q> {
        AuthLayer { auth: self.auth, replay }
    }

    /// How requests are kept, by what was said before.
    #[cfg(feature = "reqwest-middleware")]
    pub(crate) fn map_replay<Q>(self, f: impl FnOnce(P) -> Q) -> AuthLayer<Q> {
        AuthLayer { auth: self.auth, replay: f(self.replay) }
    }

    /// The account of every request through this layer. A request that names another one is `Misconfigured`, and every
    /// request is if it is not the session's.
    ///
    /// For requests that cannot say it themselves: `reqwest::Request` keeps its extensions private. A layer for each
    /// account costs little; they share the accounts.
    pub fn account(self, account: impl Into<AccountId>) -> Self {
        let account = account.into();
        self.with(|auth| auth.account = Some(account))
    }

    /// The origin of requests whose URI has no authority: tonic sends `/pkg.Service/Method`. Without it such requests are
    /// `Misconfigured`, and so they are if it is not one of the allowed origins.
    ///
    /// It is believed: say what the client below connects to. One that goes elsewhere, or there over plain http, takes the
    /// token along.
    pub fn default_origin(self, origin: Uri) -> Self {
        self.with(|auth| auth.default_origin = Some(origin))
    }

    /// The capability of requests that carry none, as no `reqwest::Request` can. `None`: [`Capability::READ`] for safe
    /// methods, else [`Capability::WRITE`].
    ///
    /// ```
    /// # use http::Method;
    /// # use tower_reauth::{AuthLayer, Capability, Origins, Session};
    /// # fn layer(session: Session, origins: Origins) -> AuthLayer {
    /// AuthLayer::new(session, origins).capability(|head| match (head.method(), head.path()) {
    ///     (&Method::POST, path) if path.ends_with("/complete") => Some(Capability::new("jobs.complete")),
    ///     _ => None,
    /// })
    /// # }
    /// ```
    pub fn capability(self, f: impl Fn(&RequestHead<'_>) -> Option<Capability> + Send + Sync + 'static) -> Self {
        self.with(|auth| auth.capability = Some(Arc::new(f)))
    }

    /// Further responses that mean "not authenticated", beside a 401 of ours. It never applies to 407, 421 and 425.
    pub fn rejected_when(self, f: impl Fn(&ResponseHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.with(|auth| auth.rejected = Some(Arc::new(f)))
    }

    /// [`ForwardStale`] for every request.
    pub fn forward_stale(self) -> Self {
        self.with(|auth| auth.forward_stale = true)
    }
}

impl<P> fmt::Debug for AuthLayer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer")
            .field("holder", &self.auth.holder)
            .field("origins", &self.auth.origins)
            .finish_non_exhaustive()
    }
}

mod sealed {
    /// `Clone`, with advice for who has a service that is not. Asked for by `Layer`: the compiler shows it where the stack is
    /// built, and would not where a method of `ServiceExt` is called on it.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not `Clone`, and `AuthLayer` needs an inner service that is",
        label = "a request that waits for a token, or is replayed, goes on with a clone of this service",
        note = "put services that are not `Clone` (`RateLimit`, `BoxService`, hyper's `SendRequest`) above the layer,",
        note = "or below a buffer: `ServiceBuilder::new().layer(auth).buffer(64).service(inner)`"
    )]
    pub trait InnerService: Clone {}

    #[diagnostic::do_not_recommend]
    impl<S: Clone> InnerService for S {}
}

impl<S: sealed::InnerService, P: Clone> Layer<S> for AuthLayer<P> {
    type Service = AuthService<S, P>;

    fn layer(&self, inner: S) -> AuthService<S, P> {
        AuthService { inner, auth: self.auth.clone(), replay: self.replay.clone() }
    }
}

/// What [`AuthLayer`] makes of a service.
///
/// It is a `Service<Req>` for requests that it knows (`http::Request<B>`, and `reqwest::Request` with feature `reqwest`) if
/// the inner service is one and is `Clone`, and if the replay policy knows the request: with the default [`CloneBody`] the
/// body must be `Clone`; for others see [`BufferedBody`], [`EmptyOnly`] and [`NeverReplay`]. Services that are not `Clone`
/// (`RateLimit`, `BoxService`) go above it, or below a `Buffer`.
///
/// If `oneshot` or `ready` is refused because bounds are not satisfied, `Service::call(&mut api, request)` in its place makes
/// the compiler say which. More on that, and on neighbours: [`guide::stacks`](crate::guide::stacks).
///
/// Errors are [`BoxError`]: the inner service's own, or an
/// [`AuthError`](crate::AuthError), which [`AuthError::find`](crate::AuthError::find) finds.
///
/// Dropping a response future drops the request that it made; a refresh that it started goes on.
#[derive(Clone)]
// The compiler shows the next line to who calls `oneshot` or `ready` on what is no service of their request.
pub struct AuthService<S, P = CloneBody /* not a service? `Service::call(&mut api, request)` tells why */> {
    inner: S,
    auth: Arc<Auth>,
    replay: P,
}

impl<S, P> AuthService<S, P> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: fmt::Debug, P> fmt::Debug for AuthService<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, P, Req> Service<Req> for AuthService<S, P>
where
    Req: HttpRequest,
    S: Service<Req> + Clone,
    S::Response: HttpResponse,
    S::Error: Into<BoxError>,
    P: Replay<Req> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req, P>;

    /// The inner service's readiness, untouched: the instance that was ready is the one that `call` calls.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        match self.auth.route(&request) {
            Ok(Route::Untouched) => ResponseFuture::untouched(self.inner.call(request)),
            Ok(Route::Authenticated(place)) => {
                ResponseFuture::start(&mut self.inner, &self.auth, &self.replay, request, place)
            }
            Err(error) => {
                errand::give_back(&mut self.inner);
                ResponseFuture::failed(error)
            }
        }
    }
}
