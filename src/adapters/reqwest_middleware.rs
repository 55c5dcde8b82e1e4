//! [`AuthMiddleware`]: the layer as a link of a reqwest-middleware chain.

use crate::{
    error::BoxError,
    layer::{AuthLayer, CloneBody, Replay},
    message::{HttpRequest, sealed},
};
use http::{Extensions, HeaderMap, Method};
use reqwest::{Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};
use sealed::Target;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::Mutex;
use tower_layer::Layer;
use tower_service::Service;

/// [`AuthLayer`] as a reqwest middleware. Retries go around it, added before it: `.with(retry).with(auth)`; and so does what
/// rewrites URLs, since the token goes wherever a request is sent from here on, and a 401 counts if it comes from the origin
/// that was asked for. For the client at the end of the chain see [`AuthLayer`](crate::AuthLayer#around-a-reqwest-client).
///
/// A request's extensions say what they say of `http::Request`: [`AccountId`](crate::AccountId),
/// [`Permit`](crate::Permit), [`Capability`](crate::Capability), [`SkipAuth`](crate::SkipAuth),
/// [`ForwardStale`](crate::ForwardStale). Errors of this crate are found by [`AuthError::find`](crate::AuthError::find),
/// also in those of reqwest-retry, which does not take them for transient.
///
/// ```
/// use reqwest_middleware::ClientBuilder;
/// use tower_reauth::{AuthError, AuthLayer, AuthMiddleware, Capability, ErrorKind, Origins, Session, Tokens, refresh_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::BoxError> {
/// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh")))).open("alice").await?;
/// let auth = AuthMiddleware::from(AuthLayer::new(session, Origins::new(["https://api.example.com"])?));
/// let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
/// let client = ClientBuilder::new(client).with(auth).build();
///
/// let request = client.post("https://api.example.com/jobs").with_extension(Capability::new("jobs.complete"));
/// let error = request.send().await.unwrap_err(); // nobody has signed in
/// assert_eq!(AuthError::find(&error).map(AuthError::kind), Some(ErrorKind::SignedOut));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct AuthMiddleware<P = CloneBody>(AuthLayer<Within<P>>);

impl<P> From<AuthLayer<P>> for AuthMiddleware<P> {
    fn from(layer: AuthLayer<P>) -> Self {
        Self(layer.map_replay(Within))
    }
}

impl<P> fmt::Debug for AuthMiddleware<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuthMiddleware").field(&self.0).finish()
    }
}

#[async_trait::async_trait]
impl<P> Middleware for AuthMiddleware<P>
where
    P: Replay<Request, Kept: Send> + Clone + Send + Sync + 'static,
{
    async fn handle(&self, request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        let request = Extended { request, extensions: extensions.clone() };
        let extensions = Mutex::new(extensions);
        let mut service = self.0.layer(Rest { next, extensions: &extensions });
        service.call(request).await.map_err(carried) // `Rest` is always ready
    }
}

/// A request, and what was said about it beside.
struct Extended {
    request: Request,
    extensions: Extensions,
}

impl HttpRequest for Extended {}

impl sealed::Request for Extended {
    fn method(&self) -> &Method {
        self.request.method()
    }

    fn target(&self) -> Target<'_> {
        sealed::Request::target(&self.request)
    }

    fn query(&self) -> Option<&str> {
        self.request.url().query()
    }

    fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.request.headers_mut()
    }

    fn extensions(&self) -> Option<&Extensions> {
        Some(&self.extensions)
    }
}

/// A policy for requests, within what is said beside them.
#[derive(Clone)]
struct Within<P>(P);

impl<P: Replay<Request>> Replay<Extended> for Within<P> {
    type Kept = P::Kept;

    fn keep(&self, req: &mut Extended) -> Option<P::Kept> {
        self.0.keep(&mut req.request)
    }

    fn restore(&self, kept: P::Kept) -> Option<Extended> {
        // What stands beside it was read at the start.
        self.0.restore(kept).map(|request| Extended { request, extensions: Extensions::new() })
    }
}

/// The rest of the chain as a service. Its calls follow one another, and so nobody waits for the extensions.
#[derive(Clone)]
struct Rest<'a> {
    next: Next<'a>,
    extensions: &'a Mutex<&'a mut Extensions>,
}

impl<'a> Service<Extended> for Rest<'a> {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response>> + Send + 'a>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, Extended { request, .. }: Extended) -> Self::Future {
        let Self { next, extensions } = self.clone();
        Box::pin(async move { next.run(request, &mut **extensions.lock().await).await })
    }
}

/// The chain's own error as it is; one of ours so that it is found, since the chain's shows the sources of what it carries
/// only.
fn carried(error: BoxError) -> Error {
    match error.downcast() {
        Ok(error) => *error,
        Err(error) => Error::middleware(Carrier(error)),
    }
}

#[derive(Debug)]
struct Carrier(BoxError);

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Carrier {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}
