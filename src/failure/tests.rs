use super::{FailureKind::*, *};
use proptest::prelude::*;
use std::time::UNIX_EPOCH;

const ENTRA: &str = "https://login.microsoftonline.com/common/oauth2/v2.0/token";

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}

fn said(error: &str) -> OAuthBody {
    OAuthBody { error: Some(error.to_owned()), ..OAuthBody::default() }
}

fn html() -> OAuthBody {
    OAuthBody { html: true, ..OAuthBody::default() }
}

fn bare() -> OAuthBody {
    OAuthBody::default()
}

fn described(code: u16, error: Option<&str>, description: &str) -> RefreshError {
    classify(
        status(code),
        OAuthBody { html: false, error: error.map(str::to_owned), description: Some(description.to_owned()) },
    )
}

// ===== the table =====

/// SEMANTICS §4, row 1.
#[test]
fn transient_by_status() {
    for code in [300, 301, 302, 303, 307, 308, 408, 429, 500, 502, 503, 504, 599] {
        for body in [bare(), html()] {
            assert_eq!(classify(status(code), body).kind(), Transient, "{code}");
        }
    }
    for code in [403, 404, 407, 405, 410, 421, 425, 200, 201, 204] {
        for body in [bare(), html()] {
            assert_eq!(classify(status(code), body).kind(), Transient, "{code} without an OAuth error");
        }
    }
    for code in [400, 401] {
        assert_eq!(classify(status(code), html()).kind(), Transient, "{code} with HTML");
    }
}

/// SEMANTICS §4, row 1: these outrank any OAuth error, but the code is kept.
#[test]
fn overload_is_transient_whatever_it_says() {
    for code in [429, 500, 503] {
        for error in ["invalid_grant", "invalid_client", "temporarily_unavailable"] {
            let failure = classify(status(code), said(error));
            assert_eq!((failure.kind(), failure.code()), (Transient, Some(error)), "{code} {error}");
        }
    }
}

/// SEMANTICS §4: a parsed OAuth error on any other status.
#[test]
fn an_oauth_error_outranks_the_status() {
    let rows = [
        ("invalid_grant", InvalidGrant),
        ("interaction_required", InvalidGrant),
        ("login_required", InvalidGrant),
        ("consent_required", InvalidGrant),
        ("bad_refresh_token", InvalidGrant),
        ("temporarily_unavailable", Transient),
        ("server_error", Transient),
        ("invalid_client", Misconfigured),
        ("unauthorized_client", Misconfigured),
        ("invalid_scope", Misconfigured),
        ("invalid_request", Misconfigured),
        ("unsupported_grant_type", Misconfigured),
        ("invalid_target", Misconfigured),
        ("invalid_dpop_proof", Misconfigured),
        ("slow_down_please", Misconfigured),
        ("Invalid_Grant", Misconfigured), // codes are compared exactly
    ];
    for (error, kind) in rows {
        for code in [200, 302, 400, 401, 403, 404, 407, 408, 418] {
            let failure = classify(status(code), OAuthBody { html: code == 403, ..said(error) });
            assert_eq!(failure.kind(), kind, "{code} {error}");
            assert_eq!((failure.code(), failure.http_status()), (Some(error), Some(status(code))));
        }
    }
}

/// SEMANTICS §4, last row.
#[test]
fn a_bare_refusal_is_unrecognized() {
    for code in [400, 401] {
        assert_eq!(classify(status(code), bare()).kind(), Unrecognized, "{code}");
        let only_text = described(code, None, "no");
        assert_eq!((only_text.kind(), only_text.description()), (Unrecognized, Some("no")));
    }
}

// ===== the journal =====

#[test]
fn what_closes_an_attempt() {
    let closes = [
        RefreshError::not_sent("refused"),
        classify(status(429), bare()),
        classify(status(429), said("invalid_grant")),
        classify(status(400), said("invalid_client")),
        classify(status(200), said("temporarily_unavailable")),
        classify(status(401), said("anything")),
        RefreshError::new(Misconfigured),
        RefreshError::new(InvalidGrant),
        RefreshError::new(AccountDisabled),
    ];
    for error in closes {
        assert!(error.closes_attempt(), "{error:?}");
    }
    let in_doubt = [
        RefreshError::transient("reset"),
        RefreshError::new(Transient),
        RefreshError::new(Unrecognized),
        RefreshError::transient("cut").status(status(200)),
        classify(status(200), bare()),
        classify(status(307), bare()),
        classify(status(400), bare()),
        classify(status(403), html()),
        classify(status(408), bare()),
        classify(status(500), bare()),
        classify(status(500), said("invalid_grant")),
        classify(status(503), said("temporarily_unavailable")),
    ];
    for error in in_doubt {
        assert!(!error.closes_attempt(), "{error:?}");
    }
}

// ===== signals =====

/// Case 22: a provider's own signal.
#[test]
fn case_22_documented_signals_lock() {
    let rows = [
        (ENTRA, Some("invalid_grant"), "AADSTS50057: The user account is disabled. Trace ID: 1"),
        ("https://login.microsoftonline.us/t/oauth2/token", Some("invalid_grant"), "AADSTS50057: disabled"),
        ("https://login.partner.microsoftonline.cn/t/token", Some("interaction_required"), "AADSTS50057"),
        ("https://acme.auth0.com/oauth/token", Some("invalid_grant"), "user is blocked"),
        ("https://acme.eu.auth0.com/oauth/token", Some("unauthorized"), "user is blocked"),
        ("https://login.salesforce.com/services/oauth2/token", Some("inactive_user"), "any"),
        ("https://acme.my.salesforce.com/services/oauth2/token", Some("inactive_user"), "any"),
    ];
    for (issuer, error, description) in rows {
        for code in [200, 400, 401, 403] {
            let failure = described(code, error, description);
            assert_eq!(FailureClassifier::new().classify(issuer, &failure), AccountDisabled, "{issuer} {code}");
        }
    }
}

/// Case 22: the same status without the signal, or from somebody else.
#[test]
fn case_22_nothing_else_locks() {
    let classifier = FailureClassifier::new();
    let disabled = described(400, Some("invalid_grant"), "AADSTS50057: The user account is disabled.");
    for issuer in [
        "",
        "https://id.example.com/token",
        "https://login.microsoftonline.com.evil.test/token",
        "https://evil.test/https://login.microsoftonline.com/token",
        "https://login.microsoftonline.com@evil.test/token",
        "https://login.microsoftonline.com:8443/token",
        "http://login.microsoftonline.com/token",
    ] {
        assert_eq!(classifier.classify(issuer, &disabled), InvalidGrant, "{issuer}");
    }
    for issuer in ["https://auth0.com/token", "https://.auth0.com/token", "https://xauth0.com/token"] {
        let blocked = described(400, Some("invalid_grant"), "user is blocked");
        assert_eq!(classifier.classify(issuer, &blocked), InvalidGrant, "{issuer}");
    }
    for text in ["AADSTS500571: another", "AADSTS5005", "see AADSTS50057", "aadsts50057: disabled", ""] {
        assert_eq!(classifier.classify(ENTRA, &described(400, Some("invalid_grant"), text)), InvalidGrant, "{text}");
    }
    for code in [429, 500, 503] {
        let busy = described(code, Some("invalid_grant"), "AADSTS50057: disabled");
        assert_eq!(classifier.classify(ENTRA, &busy), Transient, "{code}");
    }
}

#[test]
fn rows_of_the_user_match_issuer_and_signal() {
    let classifier = FailureClassifier::new()
        .account_disabled("https://ID.example.com:443/realms/staff/", "User disabled")
        .account_disabled("https://[::1]:8443", "gone");
    let disabled = described(400, Some("invalid_grant"), "User disabled");
    let rows = [
        ("https://id.example.com/realms/staff", true),
        ("https://id.example.com/realms/staff?tenant=1", true),
        ("https://id.example.com/realms/staff/token", true),
        ("https://id.example.com/realms/staffing/token", false),
        ("https://id.example.com/realms", false),
        ("https://id.example.com/", false),
    ];
    for (issuer, locks) in rows {
        assert_eq!(classifier.classify(issuer, &disabled) == AccountDisabled, locks, "{issuer}");
    }
    let gone = classify(status(403), said("gone"));
    assert_eq!(classifier.classify("https://[::1]:8443/token", &gone), AccountDisabled);
    assert_eq!(classifier.classify("https://[::1]/token", &gone), Misconfigured);
    // An empty signal would match every text.
    let empty = FailureClassifier::new().account_disabled("https://id.example.com", "");
    assert_eq!(empty.classify("https://id.example.com/token", &disabled), InvalidGrant);
}

#[test]
fn the_closure_is_asked_first_but_not_about_overload() {
    let classifier = FailureClassifier::new().classify_with(|error| match error.http_status()?.as_u16() {
        400 => Some(Misconfigured),
        _ => Some(AccountDisabled),
    });
    let disabled = described(400, Some("invalid_grant"), "AADSTS50057: disabled");
    assert_eq!(classifier.classify(ENTRA, &disabled), Misconfigured);
    assert_eq!(classifier.classify("", &classify(status(404), bare())), AccountDisabled);
    assert_eq!(classifier.classify("", &classify(status(429), bare())), Transient);
    assert_eq!(classifier.classify("", &classify(status(500), said("invalid_grant"))), Transient);
    assert_eq!(classifier.classify("", &RefreshError::new(Unrecognized)), Unrecognized);
    assert!(format!("{classifier:?}").contains("closure: true"));
}

// ===== numbers =====

/// Case 20: as string, float, negative, 2^64.
#[test]
fn case_20_seconds_are_clamped() {
    let second = Duration::from_secs(1);
    let rows = [
        ("3600", Some(3600 * second)),
        (" 3600 ", Some(3600 * second)),
        ("3599.5", Some(3599 * second + second / 2)),
        ("3.6e3", Some(3600 * second)),
        ("0", Some(Duration::ZERO)),
        ("-1", Some(Duration::ZERO)),
        ("-0.0", Some(Duration::ZERO)),
        ("-1e400", Some(Duration::ZERO)),
        ("1e-400", Some(Duration::ZERO)),
        ("18446744073709551616", Some(clamp::MAX_LIFETIME)),
        ("1e400", Some(clamp::MAX_LIFETIME)),
        ("315360000", Some(clamp::MAX_LIFETIME)),
        ("315360001", Some(clamp::MAX_LIFETIME)),
        ("", None),
        ("NaN", None),
        ("nan", None),
        ("inf", None),
        ("Infinity", None),
        ("soon", None),
        ("3600s", None),
        ("1,5", None),
        ("0x10", None),
        ("null", None),
        ("true", None),
        (".", None),
        ("e", None),
        ("-", None),
    ];
    for (text, expected) in rows {
        assert_eq!(clamp::seconds(text, clamp::MAX_LIFETIME), expected, "{text:?}");
    }
}

/// Case 19: seconds, a date, and absurdly large ones.
#[test]
fn case_19_retry_after_is_clamped() {
    let now = UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
    let hour_ago = now - Duration::from_secs(3600);
    let rows = [
        ("120", None, Some(120)),
        ("1.5", None, Some(1)),
        ("-5", None, Some(0)),
        ("99999999999999999999", None, Some(3600)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", None, None),
        ("Sun, 06 Nov 1994 08:50:37 GMT", Some(now), Some(60)),
        // The server's clock counts, not ours.
        ("Sun, 06 Nov 1994 08:00:37 GMT", Some(hour_ago), Some(660)),
        ("Sun, 06 Nov 1994 08:00:37 GMT", Some(now), Some(0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", Some(now), Some(3600)),
        ("tomorrow", None, None),
        ("", None, None),
    ];
    for (text, date, expected) in rows {
        assert_eq!(clamp::retry_after(text, date).map(|after| after.as_secs()), expected, "{text:?}");
    }
    let error = RefreshError::new(Transient).retry_after(Duration::MAX);
    assert_eq!(error.retry_after, Some(clamp::MAX_RETRY_AFTER));
}

proptest! {
    #[test]
    fn no_number_panics_or_exceeds_its_bound(text in "[-+0-9.eE]{0,40}|.{0,20}", date in any::<u32>()) {
        let date = UNIX_EPOCH + Duration::from_secs(date.into());
        prop_assert!(clamp::seconds(&text, clamp::MAX_LIFETIME).is_none_or(|value| value <= clamp::MAX_LIFETIME));
        let after = clamp::retry_after(&text, Some(date));
        prop_assert!(after.is_none_or(|value| value <= clamp::MAX_RETRY_AFTER));
    }

    /// P8: without an OAuth error no answer ends a session.
    #[test]
    fn only_a_named_error_is_proof(code in 100u16..1000, html: bool) {
        let failure = classify(status(code), OAuthBody { html, ..bare() });
        prop_assert!(matches!(failure.kind(), Transient | Unrecognized));
    }

    #[test]
    fn no_issuer_or_signal_panics(row in ".{0,30}|https?://[*.a-z:@/\\[\\]]{0,20}", issuer in ".{0,30}|https?://.{0,20}", text in ".{0,20}") {
        let classifier = FailureClassifier::new().account_disabled(row.clone(), text.clone());
        classifier.classify(&issuer, &described(400, None, &text));
        classifier.classify(&row, &described(400, None, &text));
    }
}
