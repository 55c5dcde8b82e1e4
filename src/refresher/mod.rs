//! Where new tokens come from: the [`Refresher`] contract, and the refreshers that come with the crate.

mod answer;
mod client_credentials;
mod endpoint;
#[cfg(feature = "hyper-client")]
mod hyper;
mod oauth2;
#[cfg(feature = "reqwest")]
mod reqwest;
mod shared;
#[cfg(any(feature = "hyper-client", feature = "reqwest"))]
mod token_body;

pub use client_credentials::ClientCredentials;
pub use endpoint::ClientAuth;
#[cfg(feature = "hyper-client")]
pub use hyper::HyperTokens;
pub use oauth2::OAuth2Refresher;
#[cfg(feature = "reqwest")]
pub use reqwest::ReqwestTokens;
pub use shared::SharedRefresher;

use crate::{
    account::AccountId,
    failure::RefreshError,
    token::{RefreshToken, Tokens},
};
use std::fmt;

/// Gets new tokens.
///
/// A session calls it from a task of its own: it is bounded by the refresh timeout, and never cancelled by a caller. It
/// must not send its request through an `AuthService` of the same session: that is answered with `Reentrant`.
///
/// ```
/// use tower_reauth::{FailureKind, RefreshError, RefreshGrant, Refresher, Tokens};
///
/// /// Tokens that an operator puts into the environment.
/// struct FromEnvironment;
/// impl Refresher for FromEnvironment {
///     async fn refresh(&self, _grant: RefreshGrant) -> Result<Tokens, RefreshError> {
///         std::env::var("TOKEN").map(Tokens::new).map_err(RefreshError::not_sent)
///     }
///     fn needs_refresh_token(&self) -> bool {
///         false
///     }
/// }
/// # fn takes(_: impl Refresher) {}
/// # takes(FromEnvironment);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot refresh tokens",
    note = "`OAuth2Refresher` and `ClientCredentials` need an HTTP client: call `.http(client)` first",
    note = "wrap a closure: `refresh_fn(move |grant| async move …)`"
)]
pub trait Refresher: Send + Sync + 'static {
    /// One exchange.
    fn refresh(&self, grant: RefreshGrant) -> impl Future<Output = Result<Tokens, RefreshError>> + Send;

    /// Revokes a refresh token (RFC 7009).
    fn revoke(&self, grant: RevokeGrant) -> impl Future<Output = Result<Revoked, RefreshError>> + Send {
        let _ = grant;
        async { Ok(Revoked::Unsupported) }
    }

    /// `false`: a session without tokens can start by itself.
    fn needs_refresh_token(&self) -> bool {
        true
    }

    /// Whose refresh tokens these are; records of another issuer are refused. The OAuth refreshers of this crate name
    /// their token endpoint.
    fn issuer(&self) -> &str {
        ""
    }

    /// Which client the refresh tokens were issued to; records of another client are refused.
    fn client_id(&self) -> &str {
        ""
    }
}

/// A closure as a refresher.
///
/// ```
/// use tower_reauth::{FailureKind, RefreshError, Tokens, refresh_fn};
///
/// let endpoint = String::from("https://legacy.example.com/renew");
/// let refresher = refresh_fn(move |grant| {
///     let endpoint = endpoint.clone();
///     async move {
///         let token = grant.refresh_token().ok_or_else(|| RefreshError::new(FailureKind::InvalidGrant))?;
///         // … ask `endpoint` with `token.expose()` …
///         # let _ = (endpoint, token);
///         Ok(Tokens::new("new"))
///     }
/// });
/// # let _ = refresher;
/// ```
pub fn refresh_fn<F, Fut>(f: F) -> impl Refresher
where
    F: Fn(RefreshGrant) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Tokens, RefreshError>> + Send + 'static,
{
    struct RefreshFn<F>(F);

    impl<F, Fut> Refresher for RefreshFn<F>
    where
        F: Fn(RefreshGrant) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Tokens, RefreshError>> + Send,
    {
        fn refresh(&self, grant: RefreshGrant) -> impl Future<Output = Result<Tokens, RefreshError>> + Send {
            (self.0)(grant)
        }
    }

    RefreshFn(f)
}

/// What an exchange may use. Redacted.
#[derive(Clone)]
pub struct RefreshGrant {
    account: AccountId,
    refresh_token: Option<RefreshToken>,
    scope: Option<String>,
}

impl RefreshGrant {
    pub(crate) fn new(account: AccountId, refresh_token: Option<RefreshToken>, scope: Option<String>) -> Self {
        Self { account, refresh_token, scope }
    }

    /// Whose tokens.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// The newest refresh token; `None` only if `needs_refresh_token` is `false`.
    pub fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    /// The scope of the newest token set.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }
}

impl fmt::Debug for RefreshGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshGrant").field("account", &self.account).finish_non_exhaustive()
    }
}

/// What a revocation may use. Redacted.
#[derive(Clone)]
pub struct RevokeGrant {
    account: AccountId,
    refresh_token: RefreshToken,
}

impl RevokeGrant {
    pub(crate) fn new(account: AccountId, refresh_token: RefreshToken) -> Self {
        Self { account, refresh_token }
    }

    /// Whose token.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// The token to revoke.
    pub fn refresh_token(&self) -> &RefreshToken {
        &self.refresh_token
    }
}

impl fmt::Debug for RevokeGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevokeGrant").field("account", &self.account).finish_non_exhaustive()
    }
}

/// What became of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revoked {
    /// The server took it.
    Done,
    /// There is no way to revoke.
    Unsupported,
}
