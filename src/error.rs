//! [`AuthError`]: the one error of this crate.

use crate::{
    denial::{Denial, DenyReason},
    failure::RefreshError,
    message::HttpResponse,
    store::{StoreError, StoreErrorKind},
};
use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc, time::Duration};

/// What tower middleware speaks.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What went wrong, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The gate said no; see [`AuthError::denial`].
    Denied,
    /// Nobody is signed in.
    SignedOut,
    /// The user has to sign in again.
    ReauthRequired,
    /// The account is locked.
    Locked,
    /// No fresh token can be had now; later it may.
    Unavailable,
    /// A bug in the set-up: an endpoint, a client, an account or an origin that does not fit.
    Misconfigured,
    /// A token would have left over plain http.
    InsecureOrigin,
    /// A refresh came back to the layer that waits for it.
    Reentrant,
    /// A refresh ended without an answer: it panicked, or the runtime shut down.
    Aborted,
    /// The session store failed.
    Store,
    /// A token that cannot stand in a header.
    InvalidToken,
}

/// The one error of this crate: opaque, cheap to clone, so that all who waited for one refresh get the same.
///
/// Its text and `Debug` carry no secret. [`AuthError::find`] looks it up in the error of a whole stack.
#[derive(Clone)]
pub struct AuthError(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    detail: Cow<'static, str>,
    denial: Option<Denial>,
    retry_after: Option<Duration>,
    source: Option<BoxError>,
}

impl AuthError {
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner { kind, detail: detail.into(), denial: None, retry_after: None, source: None }))
    }

    pub(crate) fn misconfigured(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Misconfigured, detail)
    }

    /// Only for an error that nobody shares yet.
    fn amend(mut self, f: impl FnOnce(&mut Inner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            f(inner);
        }
        self
    }

    pub(crate) fn caused_by(self, error: impl Into<BoxError>) -> Self {
        self.amend(|inner| inner.source = Some(error.into()))
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        self.amend(|inner| inner.retry_after = Some(delay))
    }

    /// The same error with the time that is left now.
    pub(crate) fn again_after(&self, delay: Duration) -> Self {
        let inner = &*self.0;
        Self(Arc::new(Inner {
            kind: inner.kind,
            detail: inner.detail.clone(),
            denial: inner.denial.clone(),
            retry_after: Some(delay),
            source: inner.source.as_ref().map(|_| Box::new(self.clone()) as BoxError),
        }))
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// `Some` whenever the gate spoke.
    pub fn denial(&self) -> Option<&Denial> {
        self.0.denial.as_ref()
    }

    /// Whether the same request may work later, without the user.
    pub fn is_transient(&self) -> bool {
        match self.0.kind {
            ErrorKind::Unavailable | ErrorKind::Aborted => true,
            ErrorKind::Store => self.store_error().is_some_and(|error| {
                matches!(
                    error.kind(),
                    StoreErrorKind::Unavailable | StoreErrorKind::Conflict | StoreErrorKind::LeaseLost
                )
            }),
            _ => false,
        }
    }

    pub(crate) fn store_error(&self) -> Option<&StoreError> {
        let mut source = self.source();
        while let Some(error) = source {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            source = error.source();
        }
        None
    }

    /// When to try again: the time that was left of the cool-down when this error was made.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Looks through the sources of `err`, and into `io::Error`, which hides its cause. What `anyhow::anyhow!` makes of a
    /// [`BoxError`] hides it too: look before that, or give `anyhow` the [`AuthError`] itself, which is `Clone`.
    /// So does a wrapper that passes for what it holds, as thiserror's `#[error(transparent)]` and
    /// `reqwest_middleware::Error::middleware` do, if that is the `AuthError` itself: they show its sources only.
    ///
    /// ```
    /// use tower_reauth::{AuthError, ErrorKind, Origins};
    ///
    /// let error = Origins::new(["http://api.example.com"]).unwrap_err();
    /// let wrapped = std::io::Error::other(error);
    /// assert_eq!(AuthError::find(&wrapped).map(AuthError::kind), Some(ErrorKind::InsecureOrigin));
    /// ```
    pub fn find<'a>(err: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(err);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            let hidden = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            if let Some(found) = hidden.and_then(|hidden| Self::find(hidden)) {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    /// Why a delivered 401 was not retried, from the response's extensions. `reqwest::Response::error_for_status` keeps none
    /// of them: look before.
    pub fn in_response<R: HttpResponse>(response: &R) -> Option<&Self> {
        response.extensions().get()
    }
}

impl fmt::Debug for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("AuthError");
        out.field("kind", &self.0.kind).field("detail", &self.0.detail);
        if let Some(denial) = &self.0.denial {
            out.field("denial", denial);
        }
        if let Some(delay) = &self.0.retry_after {
            out.field("retry_after", delay);
        }
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)
    }
}

impl StdError for AuthError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|error| error as _)
    }
}

impl From<Denial> for AuthError {
    /// A denial for `SignedOut`/`NeverAuthenticated`, `ReauthRequired` and `Locked` has that kind, every other `Denied`.
    fn from(denial: Denial) -> Self {
        let kind = match denial.reason() {
            DenyReason::SignedOut | DenyReason::NeverAuthenticated => ErrorKind::SignedOut,
            DenyReason::ReauthRequired => ErrorKind::ReauthRequired,
            DenyReason::Locked => ErrorKind::Locked,
            _ => ErrorKind::Denied,
        };
        Self::new(kind, denial.to_string()).amend(|inner| inner.denial = Some(denial))
    }
}

impl From<StoreError> for AuthError {
    fn from(error: StoreError) -> Self {
        Self::new(ErrorKind::Store, error.to_string()).caused_by(error)
    }
}

impl From<RefreshError> for AuthError {
    fn from(error: RefreshError) -> Self {
        use crate::failure::FailureKind;
        let (kind, detail) = match error.kind() {
            FailureKind::Transient => (ErrorKind::Unavailable, "no fresh token can be had now"),
            FailureKind::Unrecognized => (ErrorKind::Unavailable, "the token endpoint refused without saying why"),
            FailureKind::InvalidGrant => (ErrorKind::ReauthRequired, "the refresh token was refused"),
            FailureKind::AccountDisabled => (ErrorKind::Locked, "the account is disabled"),
            FailureKind::Misconfigured => (ErrorKind::Misconfigured, "the token endpoint refused the request as made"),
        };
        Self::new(kind, detail).caused_by(error)
    }
}
