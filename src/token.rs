//! What a token endpoint answers and what a sign-in carries. Secrets are zeroized on drop and redacted in `Debug`.

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, SystemTime},
};
use zeroize::Zeroizing;

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(Zeroizing<String>);

        impl $name {
            /// Takes the token as it came.
            pub fn new(token: impl Into<String>) -> Self {
                Self(Zeroizing::new(token.into()))
            }

            /// The token itself: for a header or a request body, never for a log.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }

        impl From<String> for $name {
            fn from(token: String) -> Self {
                Self::new(token)
            }
        }

        impl From<&str> for $name {
            fn from(token: &str) -> Self {
                Self::new(token)
            }
        }
    };
}

secret!(
    /// Goes to resource servers (RFC 6750). Zeroized, redacted, never parsed.
    ///
    /// ```
    /// # use tower_reauth::AccessToken;
    /// assert_eq!(format!("{:?}", AccessToken::new("s3cret")), "AccessToken(redacted)");
    /// ```
    AccessToken
);
secret!(
    /// Goes to the token endpoint it was issued by, and nowhere else (RFC 6749 §1.5). Zeroized, redacted.
    RefreshToken
);

/// What a token endpoint answered (RFC 6749 §5.1).
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::Tokens;
///
/// let tokens = Tokens::new("access").with_refresh_token("refresh").with_expires_in(Duration::from_secs(3600));
/// assert_eq!(tokens.expires_in(), Some(Duration::from_secs(3600)));
/// ```
#[derive(Clone, Debug)]
pub struct Tokens {
    pub(crate) access: AccessToken,
    pub(crate) refresh: Option<RefreshToken>,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) refresh_expires_in: Option<Duration>,
    pub(crate) scope: Option<String>,
    pub(crate) token_type: String,
    pub(crate) date: Option<SystemTime>,
}

impl Tokens {
    /// A bearer token of unknown expiry.
    pub fn new(access: impl Into<AccessToken>) -> Self {
        Self {
            access: access.into(),
            refresh: None,
            expires_in: None,
            refresh_expires_in: None,
            scope: None,
            token_type: "Bearer".into(),
            date: None,
        }
    }

    /// The refresh token, if the server sent one. Without one, a refresh keeps the old one (RFC 6749 §6).
    pub fn with_refresh_token(mut self, refresh: impl Into<RefreshToken>) -> Self {
        self.refresh = Some(refresh.into());
        self
    }

    /// The lifetime of the access token; it counts from the moment of sending. Clamped to 10 years.
    pub fn with_expires_in(mut self, lifetime: Duration) -> Self {
        self.expires_in = Some(lifetime);
        self
    }

    /// The lifetime of the refresh token (`refresh_expires_in`, `refresh_token_expires_in`).
    pub fn with_refresh_expires_in(mut self, lifetime: Duration) -> Self {
        self.refresh_expires_in = Some(lifetime);
        self
    }

    /// The scope: space-separated, as on the wire (RFC 6749 §3.3).
    pub fn with_scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// The token type, in any case. Anything but `Bearer` is refused at sign-in, and its access token is not used after
    /// a refresh.
    pub fn with_token_type(mut self, token_type: impl Into<String>) -> Self {
        self.token_type = token_type.into();
        self
    }

    /// The `Date` of the token endpoint's answer, which came over TLS or from this machine: an anchor of trusted time. Not
    /// that of an answer from a cache, and not long after: it counts as what time it is when the tokens are taken. One before
    /// 2000 or after 9999 counts as none: no clock says so that was ever set.
    pub fn with_date(mut self, date: SystemTime) -> Self {
        self.date = Some(date);
        self
    }

    /// The access token.
    pub fn access_token(&self) -> &AccessToken {
        &self.access
    }

    /// The refresh token.
    pub fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh.as_ref()
    }

    /// The lifetime of the access token.
    pub fn expires_in(&self) -> Option<Duration> {
        self.expires_in
    }

    /// The scope.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    pub(crate) fn is_bearer(&self) -> bool {
        self.token_type.eq_ignore_ascii_case("bearer")
    }
}

/// A sign-in: the tokens, and what the application knows about the user.
///
/// ```
/// use tower_reauth::{Grants, SignIn, Tokens};
///
/// let tokens = Tokens::new("access").with_refresh_token("refresh");
/// let sign_in = SignIn::new(tokens).subject("alice").grants(Grants::new().role("technician"));
/// ```
#[derive(Clone, Debug)]
pub struct SignIn {
    pub(crate) tokens: Tokens,
    pub(crate) subject: Option<String>,
    pub(crate) grants: Option<Grants>,
    pub(crate) device_key_id: Option<String>,
}

impl SignIn {
    /// Tokens of an interactive sign-in.
    pub fn new(tokens: Tokens) -> Self {
        Self { tokens, subject: None, grants: None, device_key_id: None }
    }

    /// Who signed in: another subject than the account's is refused.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// What the user may do. Without it the scope of the tokens counts.
    pub fn grants(mut self, grants: Grants) -> Self {
        self.grants = Some(grants);
        self
    }

    /// The name of the key that the tokens are bound to, if they are. It is kept with the session.
    pub fn device_key_id(mut self, id: impl Into<String>) -> Self {
        self.device_key_id = Some(id.into());
        self
    }
}

impl From<Tokens> for SignIn {
    fn from(tokens: Tokens) -> Self {
        Self::new(tokens)
    }
}

/// Roles and scopes for the gate; they narrow, never widen.
///
/// ```
/// use tower_reauth::Grants;
///
/// let grants = Grants::new().role("lead").scope("jobs:write");
/// assert_ne!(grants, Grants::new());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    pub(crate) roles: BTreeSet<String>,
    pub(crate) scopes: BTreeSet<String>,
    pub(crate) offline_until: Option<SystemTime>,
}

impl Grants {
    /// None at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// The server's own end of offline use; it shortens a policy's windows, never lengthens them.
    pub fn offline_until(mut self, end: SystemTime) -> Self {
        self.offline_until = Some(end);
        self
    }

    /// Adds a role.
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.roles.insert(role.into());
        self
    }

    /// Adds a scope.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.insert(scope.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P16.
    #[test]
    fn secrets_are_redacted_in_debug() {
        let tokens = Tokens::new("s3cret-access").with_refresh_token("s3cret-refresh");
        let text = format!("{tokens:?} {:?} {:#?}", SignIn::from(tokens.clone()), tokens);
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains("AccessToken(redacted)") && text.contains("RefreshToken(redacted)"));
    }
}
