//! [`ReqwestTokens`]: a reqwest client for token requests.

use super::{endpoint::NotSent, token_body::TokenBody};
use crate::error::{AuthError, BoxError};
use ::reqwest::{Client, ClientBuilder, redirect, retry};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};
use tower_service::Service;

/// A reqwest client for token requests. Apart from the client of the API, so that a token request never waits for one of
/// its connections.
///
/// It takes a builder and not a client, since it follows no redirects, tries nothing again and keeps no connection for
/// later, whatever the builder says: a redirect would carry the refresh token to another server, a second attempt would
/// spend it twice, and with a connection that died while it was idle nobody knows what became of the request. Proxies,
/// roots, timeouts and headers are the builder's; its TLS is a feature of reqwest, which the application picks. Give it a
/// `connect_timeout`: a connection that took too long is known to have sent nothing. For an endpoint on loopback over plain
/// http give it `no_proxy()`, or the environment's `HTTP_PROXY` gets to see the token, and is asked for *its* loopback.
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::{OAuth2Refresher, ReqwestTokens};
///
/// let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(10));
/// let refresher =
///     OAuth2Refresher::new("https://id.example.com/token", "my-app")?.http(ReqwestTokens::new(client)?);
/// # let _ = refresher;
/// # Ok::<(), tower_reauth::AuthError>(())
/// ```
#[derive(Clone)]
pub struct ReqwestTokens(Client);

impl ReqwestTokens {
    /// Builds the client.
    ///
    /// # Errors
    /// `Misconfigured` if it cannot be built.
    pub fn new(client: ClientBuilder) -> Result<Self, AuthError> {
        let client = client.redirect(redirect::Policy::none()).retry(retry::never()).pool_max_idle_per_host(0);
        match client.build() {
            Ok(client) => Ok(Self(client)),
            Err(error) => {
                Err(AuthError::misconfigured("the client for token requests cannot be built").caused_by(error))
            }
        }
    }
}

impl fmt::Debug for ReqwestTokens {
    /// The client's own shows its headers, and there may be secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestTokens").finish_non_exhaustive()
    }
}

impl Service<Request<Bytes>> for ReqwestTokens {
    type Response = Response<TokenBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let request = request.try_into().map_err(NotSent::new)?;
            // What stands in the endpoint's URL is not for logs.
            let answer = client.execute(request).await.map_err(|error| -> BoxError {
                let (connect, error) = (error.is_connect(), error.without_url());
                if connect { NotSent::new(error).into() } else { error.into() }
            })?;
            Ok(Response::from(answer).map(|body| TokenBody::new(body.map_err(|error| error.without_url().into()))))
        })
    }
}
