use super::*;
use http::{HeaderValue, Response};
use proptest::prelude::*;

fn lines<T: AsRef<[u8]>>(lines: &[T]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(line.as_ref()).unwrap());
    }
    headers
}

fn ours<T: AsRef<[u8]>>(header: &[T]) -> Challenge {
    match read(&lines(header)) {
        Reading::Ours(challenge) => challenge,
        other => panic!("{other:?}: {:?}", lines(header)),
    }
}

fn error(code: &str) -> Challenge {
    Challenge { error: Some(code.into()), ..Challenge::default() }
}

fn scope(scope: &str) -> Challenge {
    Challenge { scope: Some(scope.into()), ..Challenge::default() }
}

#[test]
fn case_26_challenges_of_ours() {
    let none = Challenge::default;
    let expired = || error("invalid_token");
    let rows: Vec<(&[u8], Challenge)> = vec![
        // real servers: oidc-provider, django-oauth-toolkit
        (br#"Bearer realm="http://127.0.0.1:4801", error="invalid_token", error_description="invalid token""#, expired()),
        (
            br#"Bearer error="invalid_token",error_description="The access token is expired.",resource_metadata="https://a/b""#,
            expired(),
        ),
        (br#"Bearer realm="a", DPoP realm="a", algs="ES256 EdDSA""#, none()),
        (br#"Bearer resource_metadata="https://a.example/.well-known/x""#, none()),
        (br#"Bearer error="invalid_client""#, error("invalid_client")),
        // the grammar
        (b"Bearer", none()),
        (b"bearer", none()),
        (b"BEARER  \t", none()),
        (br#"bEaReR ERROR="invalid_token""#, expired()),
        (b"Bearer error=invalid_token", expired()),
        (b"Bearer error = \t invalid_token , scope = a", Challenge { scope: Some("a".into()), ..expired() }),
        (br#"Bearer error="invalid_token",scope="a b""#, Challenge { scope: Some("a b".into()), ..expired() }),
        (br#"Bearer scope="a \"b\" \\ c, d=\"e\"", error=x"#, Challenge { error: Some("x".into()), ..scope(r#"a "b" \ c, d="e""#) }),
        (br#"Bearer error="invalid\_token""#, expired()),
        (br#",, , Bearer ,,error="invalid_token", ,"#, expired()),
        (br#"Bearer realm="a, error=\"b\", Basic", error="invalid_token""#, expired()),
        (br#"Bearer error="invalid_token", error="other""#, expired()),
        // other challenges around it
        (br#"Basic realm="a", Bearer error="invalid_token""#, expired()),
        (br#"Bearer error="invalid_token", Basic realm="a""#, expired()),
        (br#"Negotiate, Bearer error="invalid_token""#, expired()),
        (br#"Negotiate abc==, Bearer error="invalid_token""#, expired()),
        (br#"Negotiate abc== ,Bearer error="invalid_token""#, expired()),
        (br#"NTLM a/+-._~b,Bearer error="invalid_token""#, expired()),
        (br#"Negotiate a/b+c=,Bearer error="invalid_token""#, expired()),
        (br#"Negotiate abc= , Bearer error="invalid_token""#, expired()),
        (br#"Negotiate error==, Bearer scope="a""#, scope("a")),
        (br#"Bearer, Negotiate abc=="#, none()),
        (br#"Bearer abc==, Basic realm="a""#, none()),
        (br#"Bearer realm="a", DPoP error="use_dpop_nonce""#, none()),
        (br#"DPoP error="use_dpop_nonce", Bearer realm="a""#, none()),
        (br#"Digest qop="auth, auth-int", algorithm=MD5, Bearer scope="a""#, scope("a")),
        (br#"Newauth realm="apps", type=1, title="Login to \"apps\", Bearer error=x", Bearer scope="a""#, scope("a")),
        // several of ours: the first with an error, else the first
        (br#"Bearer scope="a", Bearer scope="b", error="invalid_token", Bearer error="x""#, Challenge { scope: Some("b".into()), ..expired() }),
        (br#"Bearer scope="a", Bearer scope="b""#, scope("a")),
        (br#"Bearer error="", Bearer error="invalid_token""#, expired()),
        // broken
        (br#"Bearer error="invalid_token"#, expired()),
        (br#"Bearer realm="a" error="invalid_token""#, expired()),
        (br#"Bearer error="invalid_token"junk, scope="a""#, Challenge { scope: Some("a".into()), ..expired() }),
        (br#"Bearer error_description=The token expired, error="invalid_token""#, expired()),
        (br#"Bearer realm=https://a.example/b, error="invalid_token""#, expired()),
        (br#"Bearer "loose", =, ==, @:error=x, error="invalid_token""#, expired()),
        (br#"Bearer "a, error=x", error="invalid_token""#, expired()),
        (b"Bearer error=\"a\\", error("a")),
        (br#"Bearer error=, scope="""#, none()),
        (br#"Bearer error"#, none()),
        (br#""quoted", Bearer error="invalid_token""#, expired()),
        (br#"error="x", Bearer error="invalid_token""#, expired()),
        // bytes that are not UTF-8 cost their own value
        (b"Bearer realm=\"\xe9\xff\", error=\"invalid_token\"", expired()),
        (b"Bearer error=\"\xff\", scope=\"a\"", scope("a")),
        (b"Bearer error=\"\\\xff\", scope=\"a\"", scope("a")),
        (b"Bearer error=\xff, scope=a", scope("a")),
        (b"\xff\xfe, Bearer error=\"invalid_token\"", expired()),
        ("Bearer scope=\"ä\"".as_bytes(), scope("ä")),
    ];
    for (line, expected) in rows {
        assert_eq!(ours(&[line]), expected, "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn case_26_challenges_in_several_lines() {
    assert_eq!(ours(&["Basic realm=\"a\"", "Bearer error=\"invalid_token\""]), error("invalid_token"));
    assert_eq!(ours(&["Bearer error=\"invalid_token\"", "Negotiate abc=="]), error("invalid_token"));
    assert_eq!(ours(&["Bearer realm=\"a\"", "Bearer error=\"invalid_token\""]), error("invalid_token"));
    assert_eq!(ours(&["Bearer error=\"a\"", "Bearer error=\"b\""]), error("a"));
    assert_eq!(ours(&["Basic realm=\"open, Bearer error=\"x\"", "Bearer error=\"b\""]), error("b"));
    assert_eq!(ours(&["Bearer realm=\"a\"", "error=\"x\""]), Challenge::default(), "lines are lists of their own");
}

#[test]
fn case_26_challenges_for_other_schemes_are_foreign() {
    for line in [
        r#"Basic realm="a""#,
        "Negotiate",
        "Negotiate abc==",
        r#"DPoP realm="a", error="use_dpop_nonce", algs="ES256""#,
        r#"Basic realm="Bearer error=x""#,
        r#"Basic realm="a, Bearer error=x""#,
        r#"Basic realm="a\", Bearer error=x""#,
        r#"Digest bearer=1, nonce="x", Bearer="y""#,
        "Bearers error=x",
        "Bear er",
        "XBearer",
        ", ,,Negotiate,",
    ] {
        assert_eq!(read(&lines(&[line])), Reading::Foreign, "{line}");
    }
    assert_eq!(read(&lines(&["Basic", "\"garbage"])), Reading::Foreign);
}

#[test]
fn case_26_what_cannot_be_read_counts_as_no_challenge() {
    assert_eq!(read(&HeaderMap::new()), Reading::Absent);
    for line in [
        &b""[..],
        b"  ",
        b",,,",
        b"\"Bearer\"",
        b"\"Bearer, Basic",
        b"=",
        b"=Bearer",
        b"realm=\"a\"",
        b"error=\"invalid_token\"",
        b"\xff\xfe\xfd",
        b"Bearer\xff",
        b"Bearer\"x\"",
        b"Bearer: error=\"invalid_token\"",
        b"{\"error\": \"invalid_token\"}",
    ] {
        assert_eq!(read(&lines(&[line])), Reading::Absent, "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn case_26_64_kib_are_read_up_to_the_cap() {
    let long = "x".repeat(64 << 10);
    for before in [
        format!("Bearer realm=\"{long}\", error=\"invalid_token\""),
        format!("Bearer realm={long}, error=\"invalid_token\""),
        format!("Bearer {long}=a, error=\"invalid_token\""),
        format!("Bearer {} error=\"invalid_token\"", ",".repeat(64 << 10)),
        format!("Bearer {} error=\"invalid_token\"", "\\".repeat(64 << 10)),
        format!("Bearer error=\"{long}\""),
        format!("Bearer error={long}"),
    ] {
        assert_eq!(ours(&[before]), Challenge::default());
    }
    assert_eq!(ours(&[format!("Bearer error=\"invalid_token\", realm=\"{long}\"")]), error("invalid_token"));
    assert_eq!(read(&lines(&[&long])), Reading::Absent, "the scheme is not whole");
    assert_eq!(read(&lines(&[&long[..], "Bearer"])), Reading::Absent);
    let bearers = "Bearer,".repeat(10_000);
    assert_eq!(ours(&[&bearers, "Bearer error=\"invalid_token\""]), Challenge::default());

    // The cap is on all lines together, and what it cuts is not taken for whole.
    let fill = format!("Basic realm=\"{}\"", "x".repeat(READ_AT_MOST - 14 - 20));
    assert_eq!(ours(&[&fill, "Bearer error=\"abcdef\""]), Challenge::default(), "one byte over");
    assert_eq!(ours(&[&fill, "Bearer error=\"abcde\""]), error("abcde"), "exactly");
    assert_eq!(ours(&[&fill, "Bearer error=abcdefgh"]), Challenge::default(), "one byte over");
    assert_eq!(ours(&[&fill, "Bearer error=abcdefg"]), error("abcdefg"), "exactly");
}

#[test]
fn case_27_what_a_fresh_token_cannot_cure() {
    let line = r#"Bearer error="insufficient_user_authentication", error_description="A different authentication level is required", acr_values="myACR phr", max_age="300""#;
    let challenge = ours(&[line]);
    assert_eq!(challenge.error(), Some("insufficient_user_authentication"));
    assert_eq!(challenge.acr_values(), Some("myACR phr"));
    assert_eq!(challenge.max_age(), Some(Duration::from_secs(300)));
    assert_eq!(challenge.scope(), None);
    for (line, more) in [
        (line, true),
        (r#"Bearer error="insufficient_scope", scope="jobs.write""#, true),
        (r#"Bearer error="invalid_request""#, true),
        (r#"Bearer error="invalid_token""#, false),
        (r#"Bearer error="INSUFFICIENT_SCOPE""#, false),
        ("Bearer", false),
        (r#"Bearer scope="insufficient_scope""#, false),
    ] {
        assert_eq!(ours(&[line]).wants_more(), more, "{line}");
    }
}

#[test]
fn max_age_is_digits_and_clamped() {
    for (value, seconds) in [
        ("300", Some(300)),
        ("\"300\"", Some(300)),
        ("\"3\\00\"", Some(300)),
        ("0", Some(0)),
        ("007", Some(7)),
        ("315360001", Some(AGE_AT_MOST)),
        ("99999999999999999999999999", Some(AGE_AT_MOST)),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("\" 1\"", None),
        ("\"\"", None),
        ("", None),
    ] {
        let challenge = ours(&[format!("Bearer error=x, max_age={value}, scope=a")]);
        assert_eq!(challenge.max_age(), seconds.map(Duration::from_secs), "{value}");
        assert_eq!(challenge.scope(), Some("a"), "{value}");
    }
    assert_eq!(ours(&["Bearer max_age=x, max_age=1, max_age=2"]).max_age(), Some(Duration::from_secs(1)));
}

#[test]
fn a_delivered_response_carries_it() {
    let mut response = Response::new(());
    assert_eq!(Challenge::in_response(&response), None);
    response.extensions_mut().insert(error("insufficient_scope"));
    assert_eq!(Challenge::in_response(&response), Some(&error("insufficient_scope")));
}

/// Lines that a header can hold, rich in what the grammar is made of.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        proptest::sample::select(vec![
            "Bearer", "Basic", "error", "scope", "max_age", "=", "==", "\"", "\\", ",", " ", "\t", "a", "1", "\\\"",
            ", ",
        ])
        .prop_map(|word| word.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(word, 0..40).prop_map(|words| {
        let mut line = words.concat();
        line.retain(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f));
        line
    })
}

proptest! {
    #[test]
    fn arbitrary_lines_never_panic_and_cannot_hide_a_challenge_before_them(
        noise in proptest::collection::vec(garbage(), 0..5),
        code in "[a-z_]{1,20}",
        wanted in "[a-z ]{0,20}",
    ) {
        read(&lines(&noise));
        let valid = format!("Bearer realm=\"r\", error=\"{code}\", scope=\"{wanted}\"");
        let mut all = vec![valid.into_bytes()];
        all.extend(noise);
        let found = ours(&all);
        prop_assert_eq!(found.error(), Some(code.as_str()));
        prop_assert_eq!(found.scope().unwrap_or_default(), wanted);
    }

    #[test]
    fn a_challenge_on_a_line_of_its_own_is_seen_wherever_it_stands(
        before in proptest::collection::vec(garbage(), 0..5),
        after in proptest::collection::vec(garbage(), 0..5),
    ) {
        let mut all = before;
        all.push(b"Bearer error=\"invalid_token\"".to_vec());
        all.extend(after);
        prop_assert!(ours(&all).error().is_some());
    }

    #[test]
    fn what_is_quoted_is_read_back(value in "[ -~]{1,40}") {
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
        let found = ours(&[format!("Negotiate abc==,Bearer scope=\"{quoted}\",error=x")]);
        prop_assert_eq!(found.scope(), Some(value.as_str()));
        prop_assert_eq!(found.error(), Some("x"));
    }
}
