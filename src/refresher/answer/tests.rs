use super::*;
use crate::failure::FailureKind::{InvalidGrant, Misconfigured, Transient, Unrecognized};
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::UNIX_EPOCH;

type Answer = Result<Tokens, RefreshError>;

fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
        .collect();
    let status = StatusCode::from_u16(status).unwrap();
    read(status, &headers, body.as_ref(), &["sent-refresh-token"])
}

fn ok(body: impl AsRef<[u8]>) -> Tokens {
    answer(200, &[], body).unwrap()
}

fn failed(status: u16, body: impl AsRef<[u8]>) -> RefreshError {
    answer(status, &[], body).unwrap_err()
}

// ===== tokens =====

#[test]
fn the_answer_of_rfc_6749_5_1() {
    let tokens = answer(
        200,
        &[("content-type", "application/json;charset=UTF-8"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")],
        r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"example","expires_in":3600,
            "refresh_token":"tGzv3JOkF0XG5Qx2TlKWIA","example_parameter":"example_value"}"#,
    )
    .unwrap();
    assert_eq!(tokens.access.expose(), "2YotnFZFEjr1zCsicMWpAA");
    assert_eq!(tokens.refresh.unwrap().expose(), "tGzv3JOkF0XG5Qx2TlKWIA");
    assert_eq!(tokens.expires_in, Some(Duration::from_secs(3600)));
    assert_eq!(tokens.token_type, "example");
    assert_eq!(tokens.date, Some(UNIX_EPOCH + Duration::from_secs(784_111_777)));
    assert_eq!((tokens.scope, tokens.refresh_expires_in), (None, None));
}

/// Case 11: nothing but the token; unknown members; `bearer` in any case.
#[test]
fn case_11_little_is_enough() {
    let tokens = ok(r#"{"access_token":"a"}"#);
    assert!(tokens.refresh.is_none() && tokens.expires_in.is_none() && tokens.scope.is_none());
    assert_eq!(tokens.token_type, "");
    assert!(!tokens.is_bearer());
    for name in ["bearer", "Bearer", "BEARER"] {
        assert!(ok(json!({"access_token": "a", "token_type": name}).to_string()).is_bearer());
    }
    // Aliases that are none: `expires` is a moment at some, a lifetime at others.
    assert_eq!(ok(r#"{"access_token":"a","expires":1,"ext_expires_in":1,"id_token":"i"}"#).expires_in, None);
}

/// Case 20: `expires_in` as string, float, negative, 2^64.
#[test]
fn case_20_expires_in_of_any_kind() {
    let rows = [
        ("3600", Some(3600.0)),
        (r#""3600""#, Some(3600.0)),
        (r#"" 3600 ""#, Some(3600.0)),
        (r#""3599.5""#, Some(3599.5)),
        ("3599.5", Some(3599.5)),
        ("-5", Some(0.0)),
        ("18446744073709551616", Some(clamp::MAX_LIFETIME.as_secs_f64())),
        ("1e400", Some(clamp::MAX_LIFETIME.as_secs_f64())),
        (r#""1e400""#, Some(clamp::MAX_LIFETIME.as_secs_f64())),
        (r#""NaN""#, None),
        (r#""""#, None),
        ("null", None),
        ("true", None),
        ("[3600]", None),
        (r#"{"seconds":3600}"#, None),
    ];
    for (value, expected) in rows {
        for body in [
            format!(r#"{{"access_token":"a","refresh_token":"r","expires_in":{value}}}"#),
            format!(r#"{{"expires_in":{value},"access_token":"a","refresh_token":"r"}}"#),
        ] {
            let tokens = ok(&body);
            assert_eq!(tokens.expires_in.map(|lifetime| lifetime.as_secs_f64()), expected, "{body}");
            assert_eq!(tokens.refresh.unwrap().expose(), "r");
        }
    }
}

#[test]
fn odd_members_never_lose_the_tokens() {
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let odd = ["null", "1", "1e999", "true", "[]", r#"["a",1]"#, r#"{"a":{"b":[]}}"#, r#""\ud800""#, r#""""#, &deep];
    for name in ["token_type", "expires_in", "refresh_expires_in", "scope", "error", "error_description", "other"] {
        for value in odd {
            let body = format!(r#"{{"{name}":{value},"access_token":"a","refresh_token":"r","{name}":{value}}}"#);
            let tokens = ok(body);
            assert_eq!((tokens.access.expose(), tokens.refresh.unwrap().expose()), ("a", "r"), "{name}");
        }
    }
    ok(r#"{"\ud800":1,"access_token":"a"}"#); // a name that is no text
    ok(r#"{"access_\u0074oken":"a"}"#);
}

#[test]
fn the_last_usable_one_of_a_name_counts() {
    let tokens =
        ok(r#"{"access_token":"1","access_token":"2","refresh_token":"1","refresh_token":"2","refresh_token":null}"#);
    assert_eq!((tokens.access.expose(), tokens.refresh.unwrap().expose()), ("2", "2"));
}

#[test]
fn what_stands_around_the_object_does_not_matter() {
    for body in [
        "\u{feff}{\"access_token\":\"a\"}".as_bytes(),
        b"\r\n\t {\"access_token\":\"a\"}\n",
        b"{\"access_token\":\"a\"}<!-- served by x -->",
    ] {
        assert_eq!(ok(body).access.expose(), "a");
    }
    assert_eq!(answer(200, &[("content-type", "text/html")], r#"{"access_token":"a"}"#).unwrap().access.expose(), "a");
    assert_eq!(answer(201, &[], r#"{"access_token":"a"}"#).unwrap().access.expose(), "a");
}

#[test]
fn escapes_and_encodings() {
    let tokens = ok(r#"{"access_token":"a\/b\\c\"\u0041\uD83D\uDE00\n","refresh_token":"1\/\/0x"}"#);
    assert_eq!(tokens.access.expose(), "a/b\\c\"A\u{1f600}\n");
    assert_eq!(tokens.refresh.unwrap().expose(), "1//0x");
    // ISO 8859-1 in the text: the code counts, and so do the tokens.
    let failure = failed(400, b"{\"error\":\"invalid_grant\",\"error_description\":\"ung\xfcltig\"}");
    assert_eq!((failure.kind(), failure.description()), (InvalidGrant, Some("ung\u{fffd}ltig")));
    let tokens = ok(b"{\"access_token\":\"a\",\"refresh_token\":\"r\xfc\",\"note\":\"\xfc\"}");
    assert_eq!((tokens.access.expose(), tokens.refresh), ("a", None));
}

#[test]
fn lifetimes_of_refresh_tokens_and_scopes() {
    for name in ["refresh_expires_in", "refresh_token_expires_in"] {
        let body = format!(r#"{{"access_token":"a","{name}":"86400"}}"#);
        assert_eq!(ok(body).refresh_expires_in, Some(Duration::from_secs(86_400)));
        let never = format!(r#"{{"access_token":"a","{name}":0}}"#);
        assert_eq!(ok(never).refresh_expires_in, None);
    }
    assert_eq!(ok(r#"{"access_token":"a","scope":"x y"}"#).scope(), Some("x y"));
    assert_eq!(ok(r#"{"access_token":"a","scope":["x","y"]}"#).scope(), Some("x y"));
    assert_eq!(ok(r#"{"access_token":"a","scope":""}"#).scope(), Some("")); // none at all: they narrow
    assert_eq!(ok(r#"{"access_token":"a","scope":7}"#).scope(), None);
}

#[test]
fn an_access_token_outranks_an_error_beside_it() {
    assert_eq!(ok(r#"{"error":"invalid_grant","access_token":"a"}"#).access.expose(), "a");
    // Not so on another status.
    assert_eq!(failed(400, r#"{"error":"invalid_grant","access_token":"a"}"#).kind(), InvalidGrant);
    assert!(failed(400, r#"{"access_token":"a","refresh_token":"r"}"#).rescued.is_none());
}

// ===== failures =====

/// Case 20, row by row.
#[test]
fn case_20_each_failure_its_own_class() {
    let page = "<!DOCTYPE html><html><body>Access denied by policy</body></html>";
    let rows: [(u16, &str, &str, FailureKind, Option<&str>); 26] = [
        (400, "application/json", r#"{"error":"invalid_client"}"#, Misconfigured, Some("invalid_client")),
        (401, "application/json", r#"{"error":"invalid_client"}"#, Misconfigured, Some("invalid_client")),
        (400, "", r#"{"error":"temporarily_unavailable"}"#, Transient, Some("temporarily_unavailable")),
        (403, "text/html", page, Transient, None),
        (400, "text/html", page, Transient, None),
        (401, "", page, Transient, None),
        (400, "text/html", "Bad Request", Transient, None),
        (400, "TEXT/HTML; charset=utf-8", "Bad Request", Transient, None),
        (400, "text/html", r#"{"error":"invalid_grant"}"#, InvalidGrant, Some("invalid_grant")),
        (400, "text/html", "{}", Unrecognized, None),
        (403, "", r#"{"error":"invalid_grant"}"#, InvalidGrant, Some("invalid_grant")),
        (200, "", r#"{"error":"invalid_grant"}"#, InvalidGrant, Some("invalid_grant")),
        (200, "", r#"{"error":"bad_refresh_token"}"#, InvalidGrant, Some("bad_refresh_token")),
        (200, "", r#"{"error":{"code":"invalid_grant"}}"#, Transient, None),
        (400, "", "", Unrecognized, None),
        (401, "", "", Unrecognized, None),
        (400, "text/html", "", Unrecognized, None),
        (400, "text/plain", "no", Unrecognized, None),
        (400, "", r#"{"message":"no"}"#, Unrecognized, None),
        (400, "", r#"{"error":400}"#, Unrecognized, None),
        (400, "", r#"{"error":{"message":"invalid_grant"}}"#, Unrecognized, None),
        (400, "", r#"{"error":null}"#, Unrecognized, None),
        (400, "", r#"{"error":""}"#, Unrecognized, None),
        (400, "", r#"["invalid_grant"]"#, Unrecognized, None),
        (400, "", r#""invalid_grant""#, Unrecognized, None),
        (400, "", r#"{"error":"invalid_grant"#, Unrecognized, None), // cut off: no proof
    ];
    for (status, media_type, body, kind, code) in rows {
        let failure = answer(status, &[("content-type", media_type)], body).unwrap_err();
        assert_eq!((failure.kind(), failure.code()), (kind, code), "{status} {media_type} {body}");
        assert_eq!(failure.http_status().unwrap().as_u16(), status);
        assert!(failure.rescued.is_none());
    }
}

/// Case 19: truncated, or no JSON at all.
#[test]
fn case_19_an_unparsable_200_is_transient() {
    let whole = r#"{"access_token":"a","refresh_token":"r","expires_in":3600}"#;
    for end in 0..whole.len() {
        let failure = failed(200, &whole[..end]);
        assert_eq!(failure.kind(), Transient, "{}", &whole[..end]);
        assert!(!failure.closes_attempt() && failure.rescued.is_none());
    }
    for body in
        ["{}", "null", "[]", "<html>log in to this network</html>", "access_token=a&token_type=bearer", "\u{1f}\u{8b}"]
    {
        assert_eq!(failed(200, body).kind(), Transient, "{body}");
    }
    assert_eq!(failed(204, "").kind(), Transient);
    assert_eq!(failed(307, r#"{"access_token":"a"}"#).kind(), Transient);
}

/// Case 19: `Retry-After`, and the moment of the answer.
#[test]
fn case_19_the_head_counts() {
    let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    let at = UNIX_EPOCH + Duration::from_secs(784_111_777);
    type Row<'a> = (&'a [(&'a str, &'a str)], Option<u64>, Option<SystemTime>);
    let rows: [Row<'_>; 6] = [
        (&[("retry-after", "7")], Some(7), None),
        (&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT"), date], Some(10), Some(at)),
        (&[("retry-after", "1e30"), date, ("age", "9")], Some(3600), None),
        (&[("retry-after", "later"), ("date", "noon")], None, None),
        (&[date], None, Some(at)),
        (&[], None, None),
    ];
    for (headers, after, moment) in rows {
        let failure = answer(429, headers, r#"{"error":"slow_down"}"#).unwrap_err();
        assert_eq!((failure.kind(), failure.code()), (Transient, Some("slow_down")));
        assert_eq!(failure.retry_after.map(|after| after.as_secs()), after, "{headers:?}");
        assert_eq!(failure.date, moment, "{headers:?}");
    }
    let tokens = answer(200, &[date, ("age", "0")], r#"{"access_token":"a"}"#).unwrap();
    assert_eq!(tokens.date, None);
    let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("7"))]);
    let lost = cut(StatusCode::BAD_REQUEST, &headers, "reset");
    assert_eq!((lost.kind(), lost.retry_after), (Transient, Some(Duration::from_secs(7))));
    assert!(!lost.closes_attempt());
}

/// P5: without an access token the new refresh token is still the new refresh token.
#[test]
fn a_refresh_token_alone_is_rescued() {
    for body in [
        r#"{"refresh_token":"r"}"#,
        r#"{"access_token":null,"refresh_token":"r"}"#,
        r#"{"access_token":"","refresh_token":"r"}"#,
        r#"{"access_token":1,"refresh_token":"r","error":null}"#,
    ] {
        let failure = failed(200, body);
        assert_eq!((failure.kind(), failure.code()), (Misconfigured, None), "{body}");
        assert_eq!(failure.rescued.as_ref().unwrap().expose(), "r");
        assert!(!format!("{failure:?}").contains("\"r\""));
    }
    let failure = failed(200, r#"{"error":"invalid_grant","refresh_token":"r"}"#);
    assert_eq!((failure.kind(), failure.rescued.unwrap().expose()), (InvalidGrant, "r"));
}

/// P16: some servers quote the refresh token in their errors ("Invalid refresh token: …").
#[test]
fn p16_what_was_sent_is_not_quoted() {
    let body = r#"{"error":"not sent-refresh-token","error_description":"Invalid refresh token: sent-refresh-token (sent-refresh-token)"}"#;
    let failure = failed(400, body);
    assert_eq!(failure.description(), Some("Invalid refresh token: … (…)"));
    assert_eq!(failure.code(), Some("not …"));
    assert!(!format!("{failure:?} {failure}").contains("sent-refresh"));
    // But words of the protocol stay whole.
    let body = br#"{"error":"invalid_client","error_description":"bad client"}"#;
    let failure = read(StatusCode::BAD_REQUEST, &HeaderMap::new(), body, &["client", "bad", ""]).unwrap_err();
    assert_eq!((failure.code(), failure.description()), (Some("invalid_client"), Some("bad …")));
    // Nor does a body that cannot be read end up in an error.
    let failure = failed(200, r#"{"access_token":"s3cret-access","refresh_token":s3cret}"#);
    assert!(!format!("{failure:?} {failure}").contains("s3cret"));
}

#[test]
fn descriptions_can_be_shown() {
    let body =
        json!({"error": "invalid_grant", "error_description": "AADSTS50057:\r\n\tdisabled.\u{202e}\u{0}\u{1b}[2J "});
    assert_eq!(failed(400, body.to_string()).description(), Some("AADSTS50057: disabled. [2J"));
    let long = json!({"error": "x", "error_description": "é".repeat(2000)});
    assert_eq!(failed(400, long.to_string()).description().unwrap().chars().count(), MAX_TEXT);
    let empty = json!({"error": "x", "error_description": "\u{0}"});
    assert_eq!(failed(400, empty.to_string()).description(), None);
    // A code is not mended into another one.
    let torn = failed(400, json!({"error": "invalid\u{0}_grant"}).to_string());
    assert_eq!((torn.kind(), torn.code()), (Misconfigured, Some("invalid _grant")));
}

// ===== properties =====

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,6}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    let known = vec!["token_type", "expires_in", "refresh_expires_in", "scope", "error", "error_description"];
    prop_oneof![prop::sample::select(known).prop_map(str::to_owned), ".{0,8}"]
}

/// A JSON string with needless escapes.
fn escaped(text: &str, every: usize) -> String {
    let mut out = String::from("\"");
    for (i, c) in text.chars().enumerate() {
        if i % every == 0 || c.is_control() || matches!(c, '"' | '\\') {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out + "\""
}

proptest! {
    #[test]
    fn no_bytes_panic(status in 100u16..1000, body in prop::collection::vec(any::<u8>(), 0..200), head in ".{0,30}") {
        let headers = HeaderValue::try_from(head).map(|value| {
            HeaderMap::from_iter([(header::DATE, value.clone()), (header::RETRY_AFTER, value.clone()), (header::CONTENT_TYPE, value)])
        });
        let status = StatusCode::from_u16(status).unwrap();
        let _ = read(status, &headers.unwrap_or_default(), &body, &["", "sent"]);
    }

    #[test]
    fn no_damage_to_an_answer_panics(at in 0usize..90, byte: u8, cut in 0usize..90) {
        let mut body = br#"{"access_token":"a\u00e9\/","refresh_token":"r","expires_in":"3600","scope":["a"],"error":"x"}"#.to_vec();
        body[at] = byte;
        let _ = answer(200, &[], &body[..cut]);
        let _ = answer(200, &[], &body);
    }

    /// P5: whatever else stands in the answer, and however it is written.
    #[test]
    fn no_refresh_token_is_lost(
        token in "[^\u{fffd}]{1,40}",
        every in 1usize..5,
        before in prop::collection::vec((name(), any_value()), 0..6),
        after in prop::collection::vec((name(), any_value()), 0..6),
        access in prop::option::of(any_value()),
        noise in prop::option::of(Just(b"\"note\":\"\xff\xfe\",")),
    ) {
        let mut body = b"\xef\xbb\xbf {".to_vec();
        for (name, value) in &before {
            body.extend(format!("{}:{value},", json!(name)).bytes());
        }
        if let Some(access) = &access {
            body.extend(format!("\"access_token\":{access},").bytes());
        }
        body.extend(noise.into_iter().flatten());
        body.extend(format!("\"refresh_token\":{}", escaped(&token, every)).bytes());
        for (name, value) in &after {
            body.extend(format!(",{}:{value}", json!(name)).bytes());
        }
        body.push(b'}');
        let kept = match answer(200, &[], &body) {
            Ok(tokens) => tokens.refresh,
            Err(failure) => failure.rescued.map(|rescued| *rescued),
        };
        prop_assert_eq!(kept.as_ref().map(RefreshToken::expose), Some(&*token));
    }

    #[test]
    fn strings_read_as_serde_json_reads_them(text: String, every in 1usize..5) {
        let raw = escaped(&text, every);
        let ours = string(&raw);
        prop_assert_eq!(ours.as_deref().map(String::as_str), Some(&*serde_json::from_str::<String>(&raw).unwrap()));
        prop_assert_eq!(ours.as_deref(), Some(&text));
    }
}
