//! What a failure of the token endpoint means. Pure: no I/O, no clock.

use crate::token::RefreshToken;
use http::StatusCode;
use std::{
    error::Error as StdError,
    fmt,
    sync::Arc,
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

/// A failed exchange. Its text and `Debug` never carry a token.
#[derive(Debug)]
pub struct RefreshError {
    pub(crate) kind: FailureKind,
    /// Proof that no byte of the request left.
    pub(crate) not_sent: bool,
    pub(crate) status: Option<StatusCode>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) code: Option<String>,
    pub(crate) description: Option<String>,
    /// The `Date` of the answer.
    pub(crate) date: Option<SystemTime>,
    /// A refresh token that came with an answer which is of no use otherwise: it is saved, never discarded.
    pub(crate) rescued: Option<RefreshToken>,
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
        self.retry_after = Some(after);
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

    /// The OAuth `error_description`, if there was one.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            FailureKind::Transient => "the token endpoint could not be asked",
            FailureKind::InvalidGrant => "the token endpoint refused the grant",
            FailureKind::AccountDisabled => "the token endpoint says that the account is disabled",
            FailureKind::Misconfigured => "the token endpoint refused the client or the request",
            FailureKind::Unrecognized => "the token endpoint refused without an OAuth error",
        })
    }
}

impl StdError for RefreshError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|error| error as _)
    }
}

type Closure = Arc<dyn Fn(&RefreshError) -> Option<FailureKind> + Send + Sync>;

/// What answers of the token endpoint mean, beyond RFC 6749.
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
}

impl FailureClassifier {
    pub(crate) fn classify(&self, _: &str, e: &RefreshError) -> FailureKind {
        e.kind
    }
}
impl RefreshError {
    pub(crate) fn closes_attempt(&self) -> bool {
        self.not_sent
    }
}
