//! [`OAuth2Refresher`]: RFC 6749 §6 and RFC 7009.

use super::{
    RefreshGrant, Refresher, RevokeGrant, Revoked,
    endpoint::{ClientAuth, Endpoint, Http, builder},
};
use crate::{
    error::{AuthError, BoxError},
    failure::{FailureKind, RefreshError},
    token::Tokens,
};
use bytes::Bytes;
use http::Uri;
use http_body::Body;
use std::fmt;
use tower_service::Service;

/// Refreshes (RFC 6749 §6) and revokes (RFC 7009) over any HTTP client.
///
/// It becomes a [`Refresher`] with [`http`](Self::http). Sign-in flows are not its business.
///
/// ```
/// # #[cfg(feature = "hyper-client")] {
/// use tower_reauth::{HyperTokens, OAuth2Refresher};
///
/// let refresher = OAuth2Refresher::new("https://id.example.com/token", "my-app")?
///     .revocation("https://id.example.com/revoke")?
///     .http(HyperTokens::new());
/// # let _: &dyn std::fmt::Debug = &refresher;
/// # }
/// # Ok::<(), tower_reauth::AuthError>(())
/// ```
#[derive(Clone)]
pub struct OAuth2Refresher<H = ()>(Endpoint<H>);

impl OAuth2Refresher {
    /// The token endpoint: https, or http to a literal loopback address. Other http is
    /// [`InsecureOrigin`](crate::ErrorKind::InsecureOrigin), anything else
    /// [`Misconfigured`](crate::ErrorKind::Misconfigured).
    pub fn new<E>(endpoint: E, client_id: impl Into<String>) -> Result<Self, AuthError>
    where
        E: TryInto<Uri, Error: Into<http::Error>>,
    {
        Endpoint::new(endpoint, client_id.into()).map(Self)
    }
}

impl<H> OAuth2Refresher<H> {
    /// The client secret, if the client is confidential.
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.0.set_secret(secret.into());
        self
    }
}

builder!(OAuth2Refresher);

impl Refresher for OAuth2Refresher<Http> {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        let Some(token) = grant.refresh_token() else {
            return Err(RefreshError::new(FailureKind::InvalidGrant).with_source("there is no refresh token"));
        };
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token.expose())];
        self.0.exchange(&fields, Some(token.expose())).await
    }

    async fn revoke(&self, grant: RevokeGrant) -> Result<Revoked, RefreshError> {
        self.0.revoke(&grant).await
    }

    fn issuer(&self) -> &str {
        self.0.issuer()
    }

    fn client_id(&self) -> &str {
        self.0.client_id()
    }
}
