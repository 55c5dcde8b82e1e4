//! What the OAuth refreshers share: the endpoints, client authentication (RFC 6749 §2.3.1), one request at a time over
//! the user's HTTP client, and what is known when it fails.

mod client;
#[cfg(test)]
mod tests;

pub(super) use client::Http;
#[cfg(any(feature = "hyper-client", feature = "reqwest"))]
pub(crate) use client::NotSent; // for token clients of our own

use super::{RevokeGrant, Revoked, answer};
use crate::{
    error::AuthError,
    failure::{FailureKind, RefreshError},
    origin::check_endpoint,
    token::Tokens,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use client::Received;
use http::{HeaderValue, Request, Uri, header};
use std::fmt;
use zeroize::Zeroizing;

/// How a client authenticates at the token endpoint (RFC 6749 §2.3.1). Without a secret it only names itself.
///
/// ```
/// use tower_reauth::{ClientAuth, OAuth2Refresher};
///
/// let refresher = OAuth2Refresher::new("https://id.example.com/token", "my-app")?
///     .secret("s3cret")
///     .auth_method(ClientAuth::Post);
/// # Ok::<(), tower_reauth::AuthError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// `client_secret_basic`.
    #[default]
    Basic,
    /// `client_secret_post`.
    Post,
}

/// A token endpoint, and who asks it. `H` is `()` until a client is given.
#[derive(Clone)]
pub(super) struct Endpoint<H> {
    token: Uri,
    issuer: String,
    client_id: String,
    secret: Option<Zeroizing<String>>,
    method: ClientAuth,
    pub(super) scope: Option<String>,
    revocation: Option<Uri>,
    client: H,
}

/// An endpoint that a secret may go to (P10).
fn endpoint<E>(uri: E) -> Result<Uri, AuthError>
where
    E: TryInto<Uri, Error: Into<http::Error>>,
{
    let uri = uri.try_into().map_err(|error| {
        let error: http::Error = error.into();
        AuthError::misconfigured("an endpoint is not a URI").caused_by(error)
    })?;
    check_endpoint(&uri)?;
    Ok(uri)
}

impl Endpoint<()> {
    pub(super) fn new<E>(token: E, client_id: String) -> Result<Self, AuthError>
    where
        E: TryInto<Uri, Error: Into<http::Error>>,
    {
        let token = endpoint(token)?;
        Ok(Self {
            issuer: token.to_string(),
            token,
            client_id,
            secret: None,
            method: ClientAuth::default(),
            scope: None,
            revocation: None,
            client: (),
        })
    }
}

impl<H> Endpoint<H> {
    pub(super) fn set_secret(&mut self, secret: String) {
        self.secret = Some(Zeroizing::new(secret));
    }

    pub(super) fn set_method(&mut self, method: ClientAuth) {
        self.method = method;
    }

    pub(super) fn set_revocation<E>(&mut self, uri: E) -> Result<(), AuthError>
    where
        E: TryInto<Uri, Error: Into<http::Error>>,
    {
        self.revocation = Some(endpoint(uri)?);
        Ok(())
    }

    pub(super) fn with_client(self, client: Http) -> Endpoint<Http> {
        let Self { token, issuer, client_id, secret, method, scope, revocation, client: _ } = self;
        Endpoint { token, issuer, client_id, secret, method, scope, revocation, client }
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn client_id(&self) -> &str {
        &self.client_id
    }

    pub(super) fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the query: it may hold anything.
        let endpoint = self.issuer.split('?').next().unwrap_or_default();
        f.debug_struct(name).field("endpoint", &endpoint).field("client_id", &self.client_id).finish_non_exhaustive()
    }

    /// A form to `uri`, with the client's authentication. Everything secret in it is wiped when it is dropped.
    fn request(&self, uri: &Uri, fields: &[(&str, &str)]) -> Result<Request<Bytes>, RefreshError> {
        let mut all = fields.to_vec();
        let mut authorization = None;
        match (&self.secret, self.method) {
            (Some(secret), ClientAuth::Basic) => authorization = Some(basic(&self.client_id, secret)?),
            (Some(secret), ClientAuth::Post) => {
                all.extend([("client_id", self.client_id.as_str()), ("client_secret", secret.as_str())]);
            }
            (None, _) => all.push(("client_id", &self.client_id)),
        }
        // Room for the longest encoding: a string that grows leaves copies behind.
        let room = all.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
        let mut form = form_urlencoded::Serializer::new(String::with_capacity(room));
        let form = Zeroizing::new(form.extend_pairs(all).finish());
        let mut request = Request::new(Bytes::from_owner(form));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }
}

/// `client_secret_basic`: both parts are form-encoded before they are joined.
fn basic(id: &str, secret: &str) -> Result<HeaderValue, RefreshError> {
    let mut pair = Zeroizing::new(String::with_capacity(3 * (id.len() + secret.len()) + 1));
    pair.extend(form_urlencoded::byte_serialize(id.as_bytes()));
    pair.push(':');
    pair.extend(form_urlencoded::byte_serialize(secret.as_bytes()));
    let mut value = Zeroizing::new(String::with_capacity("Basic ".len() + pair.len().div_ceil(3) * 4));
    value.push_str("Basic ");
    STANDARD.encode_string(pair.as_bytes(), &mut value);
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(value))
        .map_err(|error| RefreshError::new(FailureKind::Misconfigured).with_source(error))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Endpoint<Http> {
    /// One request to the token endpoint. `grant` is the secret among its fields.
    pub(super) async fn exchange(&self, fields: &[(&str, &str)], grant: Option<&str>) -> Result<Tokens, RefreshError> {
        let mut fields = fields.to_vec();
        fields.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        let Received { status, headers, body } = self.client.send(self.request(&self.token, &fields)?).await?;
        let body = body.map_err(|cause| answer::cut(status, &headers, cause))?;
        // As they are, and as they stood in the request: servers quote both.
        let secret = self.secret.as_ref().map(|secret| secret.as_str());
        let plain = grant.into_iter().chain(secret);
        let encoded = plain.clone().map(|secret| form_urlencoded::byte_serialize(secret.as_bytes()).collect());
        let basic = secret.and_then(|secret| basic(&self.client_id, secret).ok());
        let basic = basic.and_then(|value| Some(value.to_str().ok()?.trim_start_matches("Basic ").to_owned()));
        let encoded: Vec<Zeroizing<String>> = encoded.chain(basic).map(Zeroizing::new).collect();
        let sent: Vec<&str> = plain.chain(encoded.iter().map(|secret| secret.as_str())).collect();
        answer::read(status, &headers, &body, &sent)
    }

    /// RFC 7009 §2. Any 4xx ends it too, `unsupported_token_type` among them: asking again would not help. 5xx, and all
    /// that is no answer of this endpoint, are errors.
    pub(super) async fn revoke(&self, grant: &RevokeGrant) -> Result<Revoked, RefreshError> {
        let Some(uri) = &self.revocation else {
            return Ok(Revoked::Unsupported);
        };
        let fields = [("token", grant.refresh_token().expose()), ("token_type_hint", "refresh_token")];
        let Received { status, headers, body } = self.client.send(self.request(uri, &fields)?).await?;
        if status.is_success() || status.is_client_error() {
            return Ok(Revoked::Done);
        }
        let cause = body.err().unwrap_or_else(|| "the token was not revoked".into());
        Err(answer::cut(status, &headers, cause))
    }
}

/// The builder methods that both refreshers have.
macro_rules! builder {
    ($name:ident) => {
        impl<H> $name<H> {
            /// How the client authenticates. Defaults to [`ClientAuth::Basic`].
            pub fn auth_method(mut self, method: ClientAuth) -> Self {
                self.0.set_method(method);
                self
            }

            /// The scope to ask for, space-separated. Without it none is asked for: the server decides.
            pub fn scope(mut self, scope: impl Into<String>) -> Self {
                self.0.scope = Some(scope.into());
                self
            }

            /// The revocation endpoint (RFC 7009): https, or http to a literal loopback address. Errors as for the
            /// token endpoint.
            pub fn revocation<E>(mut self, endpoint: E) -> Result<Self, AuthError>
            where
                E: TryInto<Uri, Error: Into<http::Error>>,
            {
                self.0.set_revocation(endpoint)?;
                Ok(self)
            }

            /// The client for token requests. It is cloned for each, and sees secrets.
            ///
            /// It must not follow redirects: they would carry the refresh token to another server. It must not try
            /// again by itself: a refresh token may be good for one use only. And it must not carry an `AuthLayer`.
            /// `HyperTokens` (feature `hyper-client`) and `ReqwestTokens` (feature `reqwest`) are such clients; a
            /// `reqwest::Client` is none.
            pub fn http<S, A, B>(self, client: S) -> $name<Http>
            where
                S: Service<http::Request<A>, Response = http::Response<B>, Error: Into<BoxError>, Future: Send>
                    + Clone
                    + Send
                    + Sync
                    + 'static,
                A: From<Bytes> + Send + 'static,
                B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
            {
                $name(self.0.with_client(Http::new(client)))
            }
        }

        impl<H> fmt::Debug for $name<H> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.debug(stringify!($name), f)
            }
        }
    };
}
pub(super) use builder;
