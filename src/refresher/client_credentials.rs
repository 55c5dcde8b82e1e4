//! [`ClientCredentials`]: RFC 6749 §4.4.

use super::{
    RefreshGrant, Refresher, RevokeGrant, Revoked,
    endpoint::{ClientAuth, Endpoint, Http, builder},
};
use crate::{
    error::{AuthError, BoxError},
    failure::RefreshError,
    token::Tokens,
};
use bytes::Bytes;
use http::Uri;
use http_body::Body;
use std::fmt;
use tower_service::Service;

/// Tokens for a service that signs in as itself (RFC 6749 §4.4): no user, no refresh token.
///
/// It becomes a [`Refresher`] with [`http`](Self::http). There is nothing to sign in: the first request of a session
/// fetches a token.
///
/// ```
/// # #[cfg(feature = "hyper-client")] {
/// use tower_reauth::{ClientCredentials, HyperTokens};
///
/// let refresher = ClientCredentials::new("https://id.example.com/token", "billing", "s3cret")?
///     .scope("invoices:write")
///     .http(HyperTokens::new());
/// # let _: &dyn std::fmt::Debug = &refresher;
/// # }
/// # Ok::<(), tower_reauth::AuthError>(())
/// ```
#[derive(Clone)]
pub struct ClientCredentials<H = ()>(Endpoint<H>);

impl ClientCredentials {
    /// The token endpoint: https, or http to a literal loopback address. Other http is
    /// [`InsecureOrigin`](crate::ErrorKind::InsecureOrigin), anything else
    /// [`Misconfigured`](crate::ErrorKind::Misconfigured).
    pub fn new<E>(endpoint: E, client_id: impl Into<String>, secret: impl Into<String>) -> Result<Self, AuthError>
    where
        E: TryInto<Uri, Error: Into<http::Error>>,
    {
        let mut endpoint = Endpoint::new(endpoint, client_id.into())?;
        endpoint.set_secret(secret.into());
        Ok(Self(endpoint))
    }
}

builder!(ClientCredentials);

impl Refresher for ClientCredentials<Http> {
    async fn refresh(&self, _grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        self.0.exchange(&[("grant_type", "client_credentials")], None).await
    }

    async fn revoke(&self, grant: RevokeGrant) -> Result<Revoked, RefreshError> {
        self.0.revoke(&grant).await
    }

    fn needs_refresh_token(&self) -> bool {
        false
    }

    fn issuer(&self) -> &str {
        self.0.issuer()
    }

    fn client_id(&self) -> &str {
        self.0.client_id()
    }
}
