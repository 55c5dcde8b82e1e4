//! The words of the gate: what is asked, why not, and what would help.

use std::{
    error::Error as StdError,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// What a request wants to do, in the application's words.
///
/// ```
/// use tower_reauth::Capability;
///
/// const COMPLETE: Capability = Capability::new("jobs.complete");
/// assert_eq!(COMPLETE.as_str(), "jobs.complete");
/// ```
#[derive(Clone)]
pub struct Capability(Name);

/// A clone of either costs no allocation.
#[derive(Clone)]
enum Name {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Capability {
    /// Safe methods (RFC 9110 §9.2.1), unless told otherwise.
    pub const READ: Self = Self::new("read");
    /// Every other method, unless told otherwise.
    pub const WRITE: Self = Self::new("write");

    /// A capability of the application.
    pub const fn new(name: &'static str) -> Self {
        Self(Name::Static(name))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Name::Static(name) => name,
            Name::Shared(name) => name,
        }
    }
}

impl PartialEq for Capability {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Capability {}

impl Hash for Capability {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Capability").field(&self.as_str()).finish()
    }
}

impl From<&'static str> for Capability {
    fn from(name: &'static str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Capability {
    fn from(name: String) -> Self {
        Self(Name::Shared(name.into()))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenyReason {
    /// The account is locked.
    Locked,
    /// The user signed out.
    SignedOut,
    /// Nobody ever signed in.
    NeverAuthenticated,
    /// The refresh token was refused.
    ReauthRequired,
    /// The user has to prove presence first.
    StepUpRequired,
    /// The server has to be asked, and cannot be reached.
    OnlineRequired,
    /// Too long since the server last confirmed the session.
    OfflineWindowExpired,
    /// Only reading is allowed until the token can be refreshed.
    ReadOnly,
    /// A scope or role is missing, or too old to count.
    MissingGrant,
    /// The clock of this machine cannot be trusted.
    ClockUntrusted,
    /// No rule names this capability.
    UnknownCapability,
}

impl DenyReason {
    /// What would help.
    pub fn remedy(self) -> Remedy {
        match self {
            Self::OnlineRequired | Self::OfflineWindowExpired | Self::ReadOnly | Self::ClockUntrusted => {
                Remedy::Connect
            }
            Self::SignedOut | Self::NeverAuthenticated | Self::ReauthRequired => Remedy::SignIn,
            Self::StepUpRequired => Remedy::Unlock,
            Self::Locked => Remedy::ContactAdmin,
            Self::MissingGrant | Self::UnknownCapability => Remedy::None,
        }
    }

    /// Whether no token, however fresh, would change the answer.
    pub(crate) fn is_final(self) -> bool {
        match self {
            Self::Locked | Self::SignedOut | Self::NeverAuthenticated | Self::UnknownCapability => true,
            Self::ReauthRequired
            | Self::StepUpRequired
            | Self::OnlineRequired
            | Self::OfflineWindowExpired
            | Self::ReadOnly
            | Self::MissingGrant
            | Self::ClockUntrusted => false,
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Locked => "the account is locked",
            Self::SignedOut => "the user signed out",
            Self::NeverAuthenticated => "nobody has signed in",
            Self::ReauthRequired => "the user has to sign in again",
            Self::StepUpRequired => "the user has to unlock first",
            Self::OnlineRequired => "the server has to be reachable",
            Self::OfflineWindowExpired => "too long without the server",
            Self::ReadOnly => "read-only until the server was reached",
            Self::MissingGrant => "a scope or role is missing",
            Self::ClockUntrusted => "the clock of this machine cannot be trusted",
            Self::UnknownCapability => "no rule names it",
        })
    }
}

/// What would help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remedy {
    /// Reach the token endpoint once: [`Session::refresh`](crate::Session::refresh), or a request through the layer, which does so
    /// by itself where there is network.
    Connect,
    /// Sign in.
    SignIn,
    /// A step-up: biometrics, a PIN.
    Unlock,
    /// Somebody else has to act.
    ContactAdmin,
    /// Nothing that the user can do.
    None,
}

/// The gate's no: the capability, a reason and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    capability: Capability,
    reason: DenyReason,
}

impl Denial {
    pub(crate) fn new(capability: Capability, reason: DenyReason) -> Self {
        Self { capability, reason }
    }

    /// What was asked for.
    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    /// Why not.
    pub fn reason(&self) -> DenyReason {
        self.reason
    }

    /// What would help.
    pub fn remedy(&self) -> Remedy {
        self.reason.remedy()
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is denied: {}", self.capability, self.reason)
    }
}

impl StdError for Denial {}
