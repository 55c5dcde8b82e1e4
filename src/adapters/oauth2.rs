//! The answers of the `oauth2` crate, whose flows sign in (authorization code and PKCE, device).

use crate::token::Tokens;
use oauth2::{ExtraTokenFields, StandardTokenResponse, TokenResponse, TokenType};

/// The answer of a sign-in flow (RFC 6749 §5.1), with every member that counts here. The lifetime of the access token
/// counts from the moment of signing in, so do that at once; `oauth2` hides the answer's `Date`, which
/// [`with_date`](Tokens::with_date) adds.
///
/// The type keeps its name whatever it is: anything but `Bearer`, or a type without a name, is refused at sign-in. The
/// copies that `oauth2` holds are not wiped from memory when they are dropped.
///
/// ```
/// # use tower_reauth::{BoxError, Session, SignIn, Tokens, refresh_fn};
/// use oauth2::basic::BasicTokenResponse;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// # let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("next")))).open("alice").await?;
/// // What `exchange_code` or `exchange_device_access_token` gave.
/// let answer: BasicTokenResponse = serde_json::from_str(
///     r#"{"access_token": "a", "token_type": "bearer", "expires_in": 3600, "refresh_token": "r"}"#,
/// )?;
/// session.sign_in(SignIn::new(Tokens::from(&answer)).subject("alice")).await?;
/// assert_eq!(session.access_token().await?.expose(), "a");
/// # Ok(()) }
/// ```
impl<EF: ExtraTokenFields, TT: TokenType> From<&StandardTokenResponse<EF, TT>> for Tokens {
    fn from(answer: &StandardTokenResponse<EF, TT>) -> Self {
        let mut tokens = Self::new(answer.access_token().secret().as_str()).with_token_type(name(answer.token_type()));
        // As in an answer to a refresh, an empty one is none.
        if let Some(refresh) = answer.refresh_token().filter(|token| !token.secret().is_empty()) {
            tokens = tokens.with_refresh_token(refresh.secret().as_str());
        }
        if let Some(lifetime) = answer.expires_in() {
            tokens = tokens.with_expires_in(lifetime);
        }
        if let Some(scopes) = answer.scopes() {
            tokens = tokens.with_scope(scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" "));
        }
        tokens
    }
}

/// A token type is known by its form on the wire alone.
fn name(token_type: &impl TokenType) -> String {
    match serde_json::to_value(token_type) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oauth2::{
        AccessToken, EmptyExtraTokenFields,
        basic::{BasicTokenResponse, BasicTokenType},
    };
    use serde_json::{Value, json};
    use std::time::Duration;

    fn tokens(answer: Value) -> Tokens {
        Tokens::from(&serde_json::from_value::<BasicTokenResponse>(answer).unwrap())
    }

    #[test]
    fn every_member_is_carried() {
        let tokens = tokens(json!({
            "access_token": "a", "token_type": "bearer", "expires_in": 3600, "refresh_token": "r", "scope": "openid api:read",
        }));
        assert_eq!(tokens.access_token().expose(), "a");
        assert_eq!(tokens.refresh_token().map(|token| token.expose()), Some("r"));
        assert_eq!(tokens.expires_in(), Some(Duration::from_secs(3600)));
        assert_eq!(tokens.scope(), Some("openid api:read"));
        assert!(tokens.is_bearer());
    }

    #[test]
    fn what_is_absent_stays_absent() {
        let tokens = tokens(json!({ "access_token": "a", "token_type": "BEARER", "refresh_token": "" }));
        assert!(tokens.refresh_token().is_none() && tokens.expires_in().is_none() && tokens.scope().is_none());
        assert!(tokens.is_bearer(), "in any case of its letters");
    }

    /// RFC 6749 §7.1: a client does not use a token whose type it does not understand.
    #[test]
    fn another_token_type_is_not_taken_for_a_bearer() {
        for kind in ["mac", "DPoP", "N_A", "not bearer"] {
            let tokens = tokens(json!({ "access_token": "a", "token_type": kind }));
            assert!(!tokens.is_bearer(), "{kind}");
            assert!(tokens.token_type.eq_ignore_ascii_case(kind), "{kind}: {}", tokens.token_type);
        }
    }

    #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Odd {
        Bound { to: String },
    }
    impl TokenType for Odd {}

    /// A type of the user's own that is no text on the wire.
    #[test]
    fn a_token_type_without_a_name_is_not_taken_for_a_bearer() {
        let odd = Odd::Bound { to: "bearer".into() };
        let answer = StandardTokenResponse::new(AccessToken::new("a".into()), odd, EmptyExtraTokenFields {});
        assert!(!Tokens::from(&answer).is_bearer());
        let plain = StandardTokenResponse::new(
            AccessToken::new("a".into()),
            BasicTokenType::Extension("Bearer".into()),
            EmptyExtraTokenFields {},
        );
        assert!(Tokens::from(&plain).is_bearer());
    }
}
