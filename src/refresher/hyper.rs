//! [`HyperTokens`]: a small client of our own for token requests.

#[cfg(test)]
mod tests;

use super::{endpoint::NotSent, token_body::TokenBody};
use crate::error::BoxError;
use ::hyper::body::Incoming;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header, uri::Scheme};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};
use tower_service::Service;

/// A connection that takes longer fails while it is still certain that nothing was sent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A small HTTP/1.1 client for token requests: hyper over rustls, with the certificates that the system trusts.
///
/// `SSL_CERT_FILE` and `SSL_CERT_DIR` name others. They are read at the first request, which blocks for as long as the
/// files take, and clones share them. It follows no redirect, repeats nothing and opens a connection for each request,
/// since one that was kept may be dead by the time it is wanted, and then nobody knows what became of the request. It
/// knows no proxies.
///
/// It brings rustls with *ring*. A program in which something else brings *aws-lc-rs*, as `hyper-rustls` does by default,
/// has two, and what leaves the choice to rustls (`with_native_roots()` of `hyper-rustls`) panics: take one by name, or
/// begin with `rustls::crypto::ring::default_provider().install_default()`. This client takes its own in any case.
///
/// ```
/// use tower_reauth::{HyperTokens, OAuth2Refresher};
///
/// let refresher = OAuth2Refresher::new("https://id.example.com/token", "my-app")?.http(HyperTokens::new());
/// # let _ = refresher;
/// # Ok::<(), tower_reauth::AuthError>(())
/// ```
#[derive(Clone, Default)]
pub struct HyperTokens(Arc<OnceLock<Pool>>);

type Pool = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

impl HyperTokens {
    /// Reads nothing and connects to nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
}

/// The client, built at the first request. One that trusts nobody is not kept, and good for plain http only.
fn client(cell: &OnceLock<Pool>, https: bool) -> Result<Pool, BoxError> {
    if let Some(client) = cell.get() {
        return Ok(client.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        if https {
            let errors: String = found.errors.iter().map(|error| format!("; {error}")).collect();
            return Err(format!("no trusted root certificates were found{errors}").into());
        }
        return build(roots);
    }
    let client = build(roots)?;
    Ok(cell.get_or_init(|| client).clone())
}

fn build(roots: RootCertStore) -> Result<Pool, BoxError> {
    // A provider of its own: the process may have none, or another.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(tcp);
    let mut builder = Client::builder(TokioExecutor::new());
    Ok(builder.pool_max_idle_per_host(0).retry_canceled_requests(false).build(connector))
}

impl fmt::Debug for HyperTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HyperTokens").finish_non_exhaustive()
    }
}

impl Service<Request<Bytes>> for HyperTokens {
    type Response = Response<TokenBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Bytes>) -> Self::Future {
        let cell = self.0.clone();
        Box::pin(async move {
            let https = request.uri().scheme() == Some(&Scheme::HTTPS);
            let client = client(&cell, https).map_err(NotSent::new)?;
            // Some firewalls refuse requests without one.
            let agent = HeaderValue::from_static(concat!("tower-reauth/", env!("CARGO_PKG_VERSION")));
            request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
            let answer = client.request(request.map(Full::new)).await;
            let answer = answer.map_err(|error| -> BoxError {
                if error.is_connect() { NotSent::new(error).into() } else { error.into() }
            })?;
            Ok(answer.map(|body: Incoming| TokenBody::new(body.map_err(BoxError::from))))
        })
    }
}
