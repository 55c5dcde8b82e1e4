use super::*;
use proptest::prelude::*;

fn origins(list: &[&str]) -> Origins {
    Origins::new(list).unwrap()
}

/// Past `http::Uri`, which would refuse some of what other URI types let through.
fn raw(origins: &Origins, scheme: &str, authority: &str) -> Match {
    origins.find(&Target { scheme: Some(scheme), authority: Some(authority), path: "/" })
}

fn uri(origins: &Origins, uri: &str) -> Match {
    origins.find_uri(&uri.parse().unwrap())
}

#[test]
fn what_an_origin_may_be() {
    for (text, name) in [
        ("https://api.example.com", "https://api.example.com"),
        ("https://api.example.com/", "https://api.example.com"),
        ("https://api.example.com:443", "https://api.example.com"),
        ("HTTPS://API.Example.COM:8443/", "https://api.example.com:8443"),
        ("https://my_host", "https://my_host"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://192.0.2.1", "https://192.0.2.1"),
        ("https://[2001:DB8:0::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://1.example", "https://1.example"),
        ("https://0x7f.example", "https://0x7f.example"),
        ("https://example.0xyz", "https://example.0xyz"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://127.255.255.254:65535", "http://127.255.255.254:65535"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
        ("http://[0:0:0:0:0:0:0:0001]", "http://[::1]"),
        // As `Url` writes them, whoever spells them otherwise.
        ("https://[::ffff:192.0.2.1]", "https://[::ffff:c000:201]"),
        ("https://[0:0:0:0:0:FFFF:0.0.0.1]:8443", "https://[::ffff:0:1]:8443"),
        ("https://[::192.0.2.1]", "https://[::c000:201]"),
        ("http://127.0.0.1:443", "http://127.0.0.1:443"),
        ("https://127.0.0.1:80", "https://127.0.0.1:80"),
    ] {
        assert_eq!(origins(&[text]).name(0), name, "{text}");
    }
}

#[test]
fn what_an_origin_may_not_be() {
    use ErrorKind::{InsecureOrigin, Misconfigured};
    for (text, kind) in [
        ("", Misconfigured),
        ("api.example.com", Misconfigured),
        ("//api.example.com", Misconfigured),
        ("https:api.example.com", Misconfigured),
        ("https:/api.example.com", Misconfigured),
        ("ftp://api.example.com", Misconfigured),
        ("ws://127.0.0.1", Misconfigured),
        (" https://api.example.com", Misconfigured),
        ("https://api.example.com ", Misconfigured),
        ("https://", Misconfigured),
        ("https:///", Misconfigured),
        ("https://:443", Misconfigured),
        ("https://api.example.com//", Misconfigured),
        ("https://api.example.com/v1", Misconfigured),
        ("https://api.example.com/v1/", Misconfigured),
        ("https://api.example.com?a", Misconfigured),
        ("https://api.example.com#a", Misconfigured),
        ("https://api.example.com\\", Misconfigured),
        ("https://user@api.example.com", Misconfigured),
        ("https://api.example.com@evil.test", Misconfigured),
        ("https://api.example.com:", Misconfigured),
        ("https://api.example.com:0", Misconfigured),
        ("https://api.example.com:0443", Misconfigured),
        ("https://api.example.com:+443", Misconfigured),
        ("https://api.example.com:65536", Misconfigured),
        ("https://api.example.com:443443443443", Misconfigured),
        ("https://api.example.com.", Misconfigured),
        ("https://api..example.com", Misconfigured),
        ("https://*.example.com", Misconfigured),
        ("https://api.example.com,evil.test", Misconfigured),
        ("https://api%2eexample.com", Misconfigured),
        ("https://bücher.example", Misconfigured),
        ("https://127.1", Misconfigured),
        ("https://0x7f.1", Misconfigured),
        ("https://2130706433", Misconfigured),
        ("https://127.0.0.01", Misconfigured),
        ("https://256.0.0.1", Misconfigured),
        ("https://0x7f000001", Misconfigured),
        ("https://[::1", Misconfigured),
        ("https://[::1]443", Misconfigured),
        ("https://[::1]x:443", Misconfigured),
        ("https://[127.0.0.1]", Misconfigured),
        ("https://[fe80::1%25eth0]", Misconfigured),
        ("https://::1", Misconfigured),
        ("http://127.0.0.1/login", Misconfigured),
        ("http://127.0.0.1:x", Misconfigured),
        ("http://api.example.com", InsecureOrigin),
        ("http://localhost", InsecureOrigin),
        ("http://localhost:3000", InsecureOrigin),
        ("http://127.0.0.1.nip.io", InsecureOrigin),
        ("http://128.0.0.1", InsecureOrigin),
        ("http://0.0.0.0", InsecureOrigin),
        ("http://127.1", InsecureOrigin),
        ("http://0x7f.1", InsecureOrigin),
        ("http://[::2]", InsecureOrigin),
        ("http://[::]", InsecureOrigin),
        ("http://[::ffff:127.0.0.1]", InsecureOrigin),
    ] {
        let error = text.parse::<Origins>().expect_err(text);
        assert_eq!(error.kind(), kind, "{text}: {error}");
        let among = Origins::new(["https://api.example.com", text]).expect_err(text);
        assert_eq!(among.kind(), kind, "{text}: {among}");
    }
    assert_eq!(Origins::new([""; 0]).unwrap_err().kind(), Misconfigured);
}

#[test]
fn errors_name_the_origin_and_no_secret() {
    let error = Origins::new(["https://good.example", "http://bad.example:81"]).unwrap_err().to_string();
    assert!(error.contains("\"http://bad.example:81\""), "{error}");
    assert!(!error.contains("good.example"), "{error}");
    let error = "https://bücher.example".parse::<Origins>().unwrap_err().to_string();
    assert!(error.contains("punycode"), "{error}");
    for text in [
        "https://user:s3cret@api.example.com",
        "https://us@er:s3cret@api.example.com",
        "https://user:s3c/ret@api.example.com",
        "https://user:s3c?ret@api.example.com",
        "https://user:s3c#ret@api.example.com",
        "http://user:s3cret@api.example.com/",
        "user:s3cret@api.example.com",
        "user:s3cret@https://api.example.com",
        "https://api.example.com/v1?token=s3cret",
        "https://api.example.com/s3cret",
    ] {
        let error = text.parse::<Origins>().unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(!said.contains("s3c") && !said.contains("ret@"), "{said}");
    }
    assert_eq!(format!("{:?}", origins(&["https://A.example:443"])), r#"Origins(["https://a.example"])"#);
}

#[test]
fn case_25_origins_are_compared_exactly() {
    use Match::{Allowed, Foreign, Insecure};
    let allowed = origins(&[
        "https://api.example.com",
        "https://api.example.com:8443",
        "https://[2001:db8::1]",
        "https://192.0.2.1",
        "http://127.0.0.1:3000",
        "http://[::1]",
        "https://xn--bcher-kva.example",
    ]);
    for (scheme, authority, expected) in [
        ("https", "api.example.com", Allowed(0)),
        ("https", "api.example.com:443", Allowed(0)),
        ("HTTPS", "API.EXAMPLE.com", Allowed(0)),
        ("https", "api.example.com:8443", Allowed(1)),
        ("https", "[2001:db8::1]", Allowed(2)),
        ("https", "[2001:DB8::1]:443", Allowed(2)),
        ("https", "192.0.2.1", Allowed(3)),
        ("http", "127.0.0.1:3000", Allowed(4)),
        ("http", "[::1]", Allowed(5)),
        ("http", "[::1]:80", Allowed(5)),
        ("https", "xn--bcher-kva.example", Allowed(6)),
        // plain http to an origin that is allowed over TLS
        ("http", "api.example.com", Insecure),
        ("HTTP", "Api.Example.com", Insecure),
        ("http", "api.example.com:80", Insecure),
        ("http", "api.example.com:443", Insecure),
        ("http", "api.example.com:8443", Insecure),
        ("http", "192.0.2.1", Insecure),
        ("http", "[2001:db8::1]:443", Insecure),
        // other ports and schemes
        ("http", "api.example.com:8080", Foreign),
        ("https", "api.example.com:80", Foreign),
        ("https", "api.example.com:444", Foreign),
        ("https", "127.0.0.1:3000", Foreign),
        ("http", "127.0.0.1", Foreign),
        ("http", "[::1]:443", Foreign),
        ("ws", "api.example.com", Foreign),
        ("wss", "api.example.com", Foreign),
        ("httpss", "api.example.com", Foreign),
        ("", "api.example.com", Foreign),
        // malformed ports
        ("https", "api.example.com:", Foreign),
        ("https", "api.example.com:0", Foreign),
        ("https", "api.example.com:0443", Foreign),
        ("https", "api.example.com:00443", Foreign),
        ("https", "api.example.com:+443", Foreign),
        ("https", "api.example.com:4 43", Foreign),
        ("https", "api.example.com:65979", Foreign),      // 443 + 2^16
        ("https", "api.example.com:4294967739", Foreign), // 443 + 2^32
        ("https", "api.example.com:443:443", Foreign),
        ("https", "api.example.com::443", Foreign),
        ("https", "api.example.com:443/", Foreign),
        ("http", "api.example.com:", Foreign),
        ("http", "api.example.com:080", Foreign),
        // user-info
        ("https", "api.example.com@evil.test", Foreign),
        ("https", "api.example.com:443@evil.test", Foreign),
        ("https", "api.example.com:@evil.test", Foreign),
        ("https", "user@api.example.com", Foreign),
        ("https", "user:pw@api.example.com:443", Foreign),
        ("https", "@api.example.com", Foreign),
        ("https", "evil.test@api.example.com", Foreign),
        ("http", "user@api.example.com", Foreign),
        // hosts that only look alike
        ("https", "", Foreign),
        ("https", ":443", Foreign),
        ("https", "api.example.com.", Foreign),
        ("https", "api.example.com.:443", Foreign),
        ("https", "api.example.com.evil.test", Foreign),
        ("https", "evil-api.example.com", Foreign),
        ("https", "sub.api.example.com", Foreign),
        ("https", "api.example.co", Foreign),
        ("https", "api%2Eexample.com", Foreign),
        ("https", "api.example.com%00", Foreign),
        ("https", "api.example.com\\", Foreign),
        ("https", " api.example.com", Foreign),
        ("https", "bücher.example", Foreign),
        ("https", "api.ex\u{430}mple.com", Foreign),  // a Cyrillic letter
        ("https", "\u{ff41}pi.example.com", Foreign), // a full-width letter
        ("https", "api.example.\u{212a}om", Foreign), // the Kelvin sign
        // other spellings of an address
        ("https", "[2001:db8:0::1]", Foreign),
        ("https", "[2001:0db8::1]", Foreign),
        ("https", "2001:db8::1", Foreign),
        ("https", "[2001:db8::1%25eth0]", Foreign),
        ("https", "192.0.2.01", Foreign),
        ("https", "192.0.513", Foreign),
        ("https", "3221225985", Foreign),
        ("https", "0xc0.0.2.1", Foreign),
        ("https", "[::ffff:192.0.2.1]", Foreign),
        ("http", "127.1:3000", Foreign),
        ("http", "0x7f.1:3000", Foreign),
        ("http", "localhost:3000", Foreign),
        ("http", "[::0001]", Foreign),
        ("http", "[0:0:0:0:0:0:0:1]", Foreign),
        ("http", "[::1", Foreign),
        ("http", "::1", Foreign),
    ] {
        assert_eq!(raw(&allowed, scheme, authority), expected, "{scheme}://{authority}");
    }
}

#[test]
fn a_loopback_origin_is_allowed_beside_the_same_host_over_tls() {
    let both = origins(&["https://127.0.0.1", "http://127.0.0.1:443", "http://127.0.0.1"]);
    assert_eq!(raw(&both, "http", "127.0.0.1:443"), Match::Allowed(1));
    assert_eq!(raw(&both, "http", "127.0.0.1"), Match::Allowed(2));
    assert_eq!(raw(&both, "https", "127.0.0.1"), Match::Allowed(0));
}

#[test]
fn uris_with_and_without_an_authority() {
    let allowed = origins(&["https://api.example.com"]);
    assert_eq!(uri(&allowed, "https://api.example.com/a?b"), Match::Allowed(0));
    assert_eq!(uri(&allowed, "https://api.example.com@evil.test/"), Match::Foreign);
    assert_eq!(uri(&allowed, "https://api.example.com\u{3a}99999/"), Match::Foreign);
    assert_eq!(uri(&allowed, "http://api.example.com/"), Match::Insecure);
    assert_eq!(uri(&allowed, "/pkg.Service/Method"), Match::Relative);
    assert_eq!(uri(&allowed, "*"), Match::Relative);
    // CONNECT: it has no scheme, so nobody knows whether it is secure
    assert_eq!(uri(&allowed, "api.example.com:443"), Match::Foreign);
    let opaque = Target { scheme: Some("data"), authority: None, path: "x" };
    assert_eq!(allowed.find(&opaque), Match::Foreign);
    assert_eq!(allowed.name(0), "https://api.example.com");
    assert_eq!(allowed.name(1), "");
}

#[test]
fn case_43_endpoints_are_https_or_literal_loopback() {
    let check = |text: &str| check_endpoint(&text.parse().unwrap()).map_err(|error| error.kind());
    for ok in [
        "https://id.example.com/token",
        "https://id.example.com:8443/token?tenant=a",
        "https://id.example.com",
        "https://localhost/token",
        "http://127.0.0.1:4801/token",
        "http://127.8.8.8/token",
        "http://[::1]:4801/token",
    ] {
        assert_eq!(check(ok), Ok(()), "{ok}");
    }
    for insecure in [
        "http://id.example.com/token",
        "http://localhost:4801/token",
        "http://127.0.0.1.evil.test/token",
        "http://127.1/token",
        "http://[::ffff:127.0.0.1]/token",
        "http://0.0.0.0/token",
    ] {
        assert_eq!(check(insecure), Err(ErrorKind::InsecureOrigin), "{insecure}");
    }
    for wrong in [
        "/token",
        "id.example.com:443",
        "ftp://id.example.com/token",
        "https://client:s3cret@id.example.com/token",
        "http://127.0.0.1@evil.test/token",
        "https://id.example.com:/token",
        "https://id.example.com:99999/token",
    ] {
        assert_eq!(check(wrong), Err(ErrorKind::Misconfigured), "{wrong}");
    }
    for secret in ["https://client:s3cret@id.example.com/token", "http://id.example.com/?key=s3cret"] {
        let error = check_endpoint(&secret.parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("id.example.com"), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
}

/// The exact authority with a few characters put in, taken out or replaced: what is near it is what would fool us.
fn near(exact: &'static str) -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        proptest::sample::select(vec![
            '@', ':', '.', '[', ']', '/', '\\', '%', '0', '4', '3', 'a', 'A', ' ', '\t', '#'
        ]),
        any::<char>(),
    ];
    proptest::collection::vec((any::<proptest::sample::Index>(), odd, 0..4_u8), 0..4).prop_map(move |edits| {
        let mut text: Vec<char> = exact.chars().collect();
        for (at, odd, edit) in edits {
            let at = at.index(text.len() + 1);
            match edit {
                0 if at < text.len() => drop(text.remove(at)),
                1 if at < text.len() => text[at] = odd,
                2 if at < text.len() => text[at] = text[at].to_ascii_uppercase(),
                _ => text.insert(at, odd),
            }
        }
        text.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn only_the_exact_authority_is_allowed(
        authority in prop_oneof![near("api.example.com"), near("api.example.com:443"), near("[::1]:443"), any::<String>()],
        scheme in prop_oneof![Just("https"), Just("http"), Just("HttpS")],
    ) {
        let allowed = origins(&["https://api.example.com", "https://[::1]"]);
        let lower = authority.to_ascii_lowercase();
        let exact = ["api.example.com", "api.example.com:443", "[::1]", "[::1]:443"].contains(&lower.as_str());
        let matched = matches!(raw(&allowed, scheme, &authority), Match::Allowed(_));
        prop_assert_eq!(matched, exact && scheme != "http", "{}", authority);
    }

    #[test]
    fn an_origin_that_is_accepted_allows_its_own_canonical_name_and_nothing_panics(text in prop_oneof![
        near("https://api.example.com:8443"),
        near("http://127.0.0.1:80"),
        near("https://[2001:db8::1]"),
        any::<String>(),
    ]) {
        if let Ok(origins) = text.parse::<Origins>() {
            let name = origins.name(0).to_owned();
            let (scheme, authority) = name.split_once("://").unwrap();
            prop_assert_eq!(raw(&origins, scheme, authority), Match::Allowed(0));
            let again = name.parse::<Origins>().unwrap();
            prop_assert_eq!(again.name(0), name);
        }
    }
}
