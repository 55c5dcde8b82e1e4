//! [`FailureClassifier`]: what users and providers add to RFC 6749.

use super::{FailureKind, RefreshError, overloaded};
use std::{fmt, sync::Arc};

type Closure = Arc<dyn Fn(&RefreshError) -> Option<FailureKind> + Send + Sync>;

/// Issuer and signal: who says so, and how, that an account is disabled. A row stands here only with its source.
const BUILT_IN: [(&str, &str); 5] = [
    // Microsoft Entra, "UserDisabled - The user account is disabled"; the code opens `error_description`. Microsoft
    // reserves the right to change codes: then this is an `invalid_grant` like any other.
    // https://learn.microsoft.com/en-us/entra/identity-platform/reference-error-codes
    // Its endpoints: https://learn.microsoft.com/en-us/entra/identity-platform/authentication-national-cloud
    ("https://login.microsoftonline.com", "AADSTS50057"),
    ("https://login.microsoftonline.us", "AADSTS50057"),
    ("https://login.partner.microsoftonline.cn", "AADSTS50057"),
    // Auth0, `invalid_grant` with this description for a user that an administrator blocked; Auth0's own client reads
    // it. https://github.com/auth0/auth0-spa-js/pull/1525, https://github.com/auth0/docs/pull/4767
    ("https://*.auth0.com", "user is blocked"),
    // Salesforce, an `error` of the token endpoint; Salesforce's own client reads it.
    // https://github.com/forcedotcom/SalesforceMobileSDK-iOS, SFSDKOAuthConstants.h
    ("https://*.salesforce.com", "inactive_user"),
];

/// What answers of the token endpoint mean, beyond RFC 6749.
///
/// No standard says "this account is disabled". The classifier knows how Microsoft Entra, Auth0 (on `auth0.com`) and
/// Salesforce say it; what your own server says is a row of yours. An account that is disabled is
/// [`Locked`](crate::AuthState::Locked): all its tokens are dropped.
///
/// ```
/// use tower_reauth::{FailureClassifier, FailureKind};
///
/// let classifier = FailureClassifier::new()
///     // Keycloak answers `invalid_grant` with this description.
///     .account_disabled("https://id.example.com/realms/staff", "User disabled")
///     .classify_with(|error| (error.code() == Some("maintenance")).then_some(FailureKind::Transient));
/// # let _ = classifier;
/// ```
#[derive(Clone, Default)]
pub struct FailureClassifier {
    rows: Vec<(String, String)>,
    closure: Option<Closure>,
}

impl FailureClassifier {
    /// The built-in rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more row: `signal` of `issuer` means that the account is disabled.
    ///
    /// The signal is the OAuth `error`, or the whole `error_description`, or how it begins, up to a character that is
    /// neither letter nor digit. The issuer is the beginning of the token endpoint's URI, up to a `/`; `*.` before its
    /// host stands for any sub-domains.
    pub fn account_disabled(mut self, issuer: impl Into<String>, signal: impl Into<String>) -> Self {
        self.rows.push((issuer.into(), signal.into()));
        self
    }

    /// A closure that is asked before the rows, about everything but 429 and 5xx, which are transient whatever they
    /// carry. `None`: as it would be without the closure. A second call replaces the first.
    pub fn classify_with(mut self, f: impl Fn(&RefreshError) -> Option<FailureKind> + Send + Sync + 'static) -> Self {
        self.closure = Some(Arc::new(f));
        self
    }

    /// What `error` of the token endpoint `issuer` means.
    pub(crate) fn classify(&self, issuer: &str, error: &RefreshError) -> FailureKind {
        if error.status.is_some_and(overloaded) {
            return FailureKind::Transient;
        }
        if let Some(kind) = self.closure.as_ref().and_then(|closure| closure(error)) {
            return kind;
        }
        let rows = self.rows.iter().map(|(of, signal)| (&**of, &**signal)).chain(BUILT_IN);
        for (of, signal) in rows {
            if given(signal, error) && covers(of, issuer) {
                return FailureKind::AccountDisabled;
            }
        }
        error.kind
    }
}

impl fmt::Debug for FailureClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureClassifier")
            .field("rows", &self.rows)
            .field("closure", &self.closure.is_some())
            .finish_non_exhaustive()
    }
}

/// Exact: the code, the whole text, or the code that a text begins with (`AADSTS50057: The user account is disabled.`).
fn given(signal: &str, error: &RefreshError) -> bool {
    let named = |text: &str| text == signal || text.split_once(':').is_some_and(|(name, _)| name == signal);
    !signal.is_empty() && (error.code() == Some(signal) || error.description().is_some_and(named))
}

/// Whether the URI `issuer` lies at or below `row`.
fn covers(row: &str, issuer: &str) -> bool {
    if row == issuer {
        return true;
    }
    let (Some(row), Some(issuer)) = (Parts::of(row), Parts::of(issuer)) else {
        return false;
    };
    let host = match row.host.strip_prefix('*') {
        Some(domain) if domain.starts_with('.') => {
            issuer.host.len() > domain.len() && ends_with_ignoring_case(issuer.host, domain)
        }
        _ => row.host.eq_ignore_ascii_case(issuer.host),
    };
    let below = issuer.path.strip_prefix(row.path.trim_end_matches('/'));
    let path = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    host && path && row.port == issuer.port && row.scheme.eq_ignore_ascii_case(issuer.scheme)
}

fn ends_with_ignoring_case(text: &str, end: &str) -> bool {
    let (text, end) = (text.as_bytes(), end.as_bytes());
    text.len() >= end.len() && text[text.len() - end.len()..].eq_ignore_ascii_case(end)
}

struct Parts<'a> {
    scheme: &'a str,
    host: &'a str,
    port: &'a str,
    path: &'a str,
}

impl<'a> Parts<'a> {
    /// `None` for what is no URI with a host, or has user-info.
    fn of(uri: &'a str) -> Option<Self> {
        let (scheme, rest) = uri.split_once("://")?;
        let rest = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // The colons of an IPv6 address stand in brackets.
        let colon = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
        let (host, port) = authority.split_at(colon.unwrap_or(authority.len()));
        let port = match port.trim_start_matches(':') {
            "" if scheme.eq_ignore_ascii_case("https") => "443",
            "" => "80",
            port => port,
        };
        (!host.is_empty() && !authority.contains('@')).then_some(Self { scheme, host, port, path })
    }
}
