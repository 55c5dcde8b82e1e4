//! What a failure of the token endpoint means. Pure: no I/O, no clock.

pub(crate) mod clamp;
mod classifier;
#[cfg(test)]
mod tests;

pub use classifier::FailureClassifier;

use crate::token::RefreshToken;
use http::StatusCode;
use std::{
    error::Error as StdError,
    fmt,
    time::{Duration, SystemTime},
};

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The network or the server; the session is untouched.
    Transient,
    /// The refresh token is dead (`invalid_grant`, RFC 6749 §5.2): the user has to sign in again.
    InvalidGrant,
    /// The account is disabled: a configured signal, since no server says so in a standard way.
    AccountDisabled,
    /// The client or the request is wrong: nothing the user can mend.
    Misconfigured,
    /// A bare refusal: 400 or 401 without an OAuth error. Three in a row, spread over time, count as a refusal.
    Unrecognized,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transient => "the token endpoint could not be asked",
            Self::InvalidGrant => "the token endpoint refused the grant",
            Self::AccountDisabled => "the token endpoint says that the account is disabled",
            Self::Misconfigured => "the token endpoint refused the client or the request",
            Self::Unrecognized => "the token endpoint refused without an OAuth error",
        })
    }
}

/// A failed exchange. Its text and `Debug` never carry a token.
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::{FailureKind, RefreshError};
///
/// let busy = RefreshError::transient("the helper is busy").retry_after(Duration::from_secs(5));
/// assert_eq!(busy.kind(), FailureKind::Transient);
/// ```
#[derive(Debug)]
pub struct RefreshError {
    pub(crate) kind: FailureKind,
    /// Proof that no byte of the request left.
    pub(crate) not_sent: bool,
    pub(crate) status: Option<StatusCode>,
    pub(crate) retry_after: Option<Duration>,
    /// A `Retry-After` date of an answer without a `Date`: seen from the session's clock.
    pub(crate) retry_at: Option<SystemTime>,
    pub(crate) code: Option<Box<str>>,
    pub(crate) description: Option<Box<str>>,
    /// The `Date` of the answer.
    pub(crate) date: Option<SystemTime>,
    /// A refresh token that came with an answer which is of no use otherwise: it is saved, never discarded.
    pub(crate) rescued: Option<Box<RefreshToken>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl RefreshError {
    /// A failure of this kind.
    pub fn new(kind: FailureKind) -> Self {
        Self {
            kind,
            not_sent: false,
            status: None,
            retry_after: None,
            retry_at: None,
            code: None,
            description: None,
            date: None,
            rescued: None,
            source: None,
        }
    }

    /// It may have reached the server: never retried blindly.
    pub fn transient(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(FailureKind::Transient).with_source(error)
    }

    /// Nothing left the machine, so nothing can have been spent.
    pub fn not_sent(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { not_sent: true, ..Self::transient(error) }
    }

    /// The server's `Retry-After` (RFC 9110 §10.2.3). Clamped to one hour.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after.min(clamp::MAX_RETRY_AFTER));
        self
    }

    /// The server's status.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The cause. It must not carry a token: it may be logged.
    pub fn with_source(mut self, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(error.into());
        self
    }

    /// What it means, as the refresher sees it; a [`FailureClassifier`] may see more.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The status, if there was an answer.
    pub fn http_status(&self) -> Option<StatusCode> {
        self.status
    }

    /// The OAuth `error` code, if there was one.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The OAuth `error_description`, if there was one: the server's text, at most 512 characters of it, without control
    /// characters and without the secrets that were sent.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    fn is_said(&self) -> bool {
        !matches!(self.kind, FailureKind::Transient | FailureKind::Unrecognized)
    }

    /// Whether the refresh token is known not to have been spent: nothing was sent, or the server refused by name. All
    /// else leaves the attempt in doubt, and its journal open.
    pub(crate) fn closes_attempt(&self) -> bool {
        if self.not_sent {
            return true;
        }
        match self.status {
            Some(StatusCode::TOO_MANY_REQUESTS) => true,
            Some(status) if status.is_server_error() => false,
            // A code, or a refresher of the user's own that knows what it says.
            Some(_) => self.code.is_some() || self.is_said(),
            None => self.is_said(),
        }
    }
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl StdError for RefreshError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|error| error as _)
    }
}

// ===== the table =====

/// The body of an answer that is not a token set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OAuthBody {
    /// A proxy or a captive portal spoke, not the token endpoint.
    pub(crate) html: bool,
    /// `error` (RFC 6749 §5.2), if it is a string and not empty.
    pub(crate) error: Option<String>,
    /// `error_description`, if it is a string.
    pub(crate) description: Option<String>,
}

/// What an answer without tokens means (SEMANTICS §4), before any signal: 429 and 5xx, then the OAuth `error`, then the
/// status alone.
pub(crate) fn classify(status: StatusCode, body: OAuthBody) -> RefreshError {
    let kind = match body.error.as_deref() {
        _ if overloaded(status) => FailureKind::Transient,
        Some(code) => by_code(code),
        None => by_status(status, body.html),
    };
    RefreshError {
        code: body.error.map(String::into_boxed_str),
        description: body.description.map(String::into_boxed_str),
        ..RefreshError::new(kind).status(status)
    }
}

/// The rows that come before everything else: 429 and 5xx.
fn overloaded(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn by_code(code: &str) -> FailureKind {
    match code {
        "invalid_grant"
        // OpenID Connect Core §3.1.2.6; Microsoft Entra answers refreshes with them.
        | "interaction_required"
        | "login_required"
        | "consent_required"
        // GitHub: docs.github.com, "Refreshing user access tokens".
        | "bad_refresh_token" => FailureKind::InvalidGrant,
        "temporarily_unavailable" | "server_error" => FailureKind::Transient,
        _ => FailureKind::Misconfigured,
    }
}

fn by_status(status: StatusCode, html: bool) -> FailureKind {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED if !html => FailureKind::Unrecognized,
        _ => FailureKind::Transient,
    }
}
