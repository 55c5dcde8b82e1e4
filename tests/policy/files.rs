//! Files: what they may say, and what a person reads who mistyped something.

use super::{DAY, HOUR, MINUTE};
use std::time::Duration;
use tower_reauth::{ErrorKind, OfflinePolicy, Rule, Sensitivity, WhenReauthRequired};

const KEYS: &str = "`max_offline`, `online`, `token`, `token_fresh`, `fresh_within`, `step_up_within`, \
    `read_only_after_expiry`, `scope`, `role`, `sensitivity`, `when_reauth_required` or `reads`";
const TIER_KEYS: &str = "`max_offline`, `online`, `token`, `token_fresh`, `fresh_within`, `step_up_within`, \
    `read_only_after_expiry`, `scope`, `role` or `when_reauth_required`";
const DURATION: &str = r#"expected a duration such as "7d", "48h", "5m", "30s" or "1h30m""#;
const NAME: &str = "expected a name, without spaces around it and without control characters";

fn toml(text: &str) -> String {
    error(OfflinePolicy::from_toml(text), text)
}

fn json(text: &str) -> String {
    error(OfflinePolicy::from_json(text), text)
}

fn error(read: Result<OfflinePolicy, tower_reauth::AuthError>, text: &str) -> String {
    let error = read.map(|policy| panic!("{text}\nis read as\n{policy}")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    let message = error.to_string();
    message.strip_prefix("offline policy, ").unwrap_or_else(|| panic!("{message}")).to_owned()
}

#[test]
fn all_that_a_file_can_say() {
    let everything = Rule::new()
        .max_offline(DAY + 2 * HOUR + 3 * MINUTE + Duration::from_secs(4))
        .online()
        .token_fresh()
        .fresh_within(8 * HOUR)
        .step_up_within(12 * HOUR)
        .read_only_after_expiry()
        .scope("jobs")
        .role("lead")
        .role("other")
        .sensitivity(Sensitivity::High)
        .when_reauth_required(WhenReauthRequired::AsOffline)
        .reads();
    let either = Rule::any_of([
        Rule::new().online().token_fresh().when_reauth_required(WhenReauthRequired::ReadOnly),
        Rule::new().max_offline(5 * MINUTE),
    ]);
    let policy = OfflinePolicy::new()
        .grants_max_age(DAY)
        .rule("jobs.approve", everything)
        .rule("a", either.sensitivity(Sensitivity::Low))
        .tier(Sensitivity::High, Rule::any_of([Rule::new().step_up_within(HOUR), Rule::new().online()]))
        .tier(Sensitivity::Low, Rule::new().role("lead"));
    let [toml, json] = [include_str!("seeds/toml/everything.toml"), include_str!("seeds/json/everything.json")];
    assert_eq!(OfflinePolicy::from_toml(toml).unwrap(), policy);
    assert_eq!(OfflinePolicy::from_json(json).unwrap(), policy);
    // An editor's byte order mark is not a part of the text.
    assert_eq!(OfflinePolicy::from_toml(&format!("\u{feff}{toml}")).unwrap(), policy);
    assert_eq!(OfflinePolicy::from_json(&format!("\u{feff}{json}")).unwrap(), policy);
    // Line ends of another system, and an escape in a key.
    assert_eq!(OfflinePolicy::from_toml(&toml.replace('\n', "\r\n")).unwrap(), policy);
    assert_eq!(OfflinePolicy::from_json(&json.replace("jobs.approve", r"jobs\u002eapprove")).unwrap(), policy);
    // Nothing at all is allowed by a policy that says nothing.
    for nothing in ["", "# later", "[capabilities]"] {
        assert_eq!(OfflinePolicy::from_toml(nothing).unwrap(), OfflinePolicy::new());
    }
    assert_eq!(OfflinePolicy::from_json("{}").unwrap(), OfflinePolicy::new());
}

#[test]
fn values_have_the_spellings_of_the_code_too() {
    for (text, when) in [
        ("deny", WhenReauthRequired::Deny),
        ("Deny", WhenReauthRequired::Deny),
        ("read_only", WhenReauthRequired::ReadOnly),
        ("ReadOnly", WhenReauthRequired::ReadOnly),
        ("as_offline", WhenReauthRequired::AsOffline),
        ("AsOffline", WhenReauthRequired::AsOffline),
    ] {
        let policy = OfflinePolicy::from_toml(&format!("[capabilities.a]\nwhen_reauth_required = '{text}'")).unwrap();
        assert_eq!(policy, OfflinePolicy::new().rule("a", Rule::new().when_reauth_required(when)));
    }
    for (text, tier) in [("low", Sensitivity::Low), ("medium", Sensitivity::Medium), ("high", Sensitivity::High)] {
        let text = format!("[tiers.{text}]\nonline = true\n[capabilities.a]\nsensitivity = '{text}'");
        let policy = OfflinePolicy::new().rule("a", Rule::new().sensitivity(tier)).tier(tier, Rule::new().online());
        assert_eq!(OfflinePolicy::from_toml(&text).unwrap(), policy);
    }
}

#[test]
fn durations() {
    let read = |text: &str| OfflinePolicy::from_toml(&format!("grants_max_age = {text:?}"));
    for (text, seconds) in [
        ("0s", 0),
        ("30s", 30),
        ("5m", 300),
        ("48h", 172_800),
        ("7d", 604_800),
        ("1h30m", 5400),
        ("1d1s", 86_401),
        ("007d", 604_800),
        ("90m", 5400),
        ("18446744073709551615s", u64::MAX),
        ("213503982334601d", 213_503_982_334_601 * 86_400),
    ] {
        assert_eq!(read(text).unwrap(), OfflinePolicy::new().grants_max_age(Duration::from_secs(seconds)), "{text}");
    }
    for text in [
        "", " ", "7", "d", "7 d", " 7d", "7d ", "-7d", "+7d", "7D", "1.5h", "1e3s", "7w", "7ms", "5min", "48 hours",
        "m5", "30m1h", "1h1h", "1s1s", "٧d", "1h30", "1_000s",
    ] {
        assert_eq!(error(read(text), text), format!("line 1: `grants_max_age` is {text:?}: {DURATION}"));
    }
    for text in [
        "18446744073709551616s",
        "213503982334602d",
        "18446744073709551615s1s",
        "307445734561825861m",
        "213503982334601d86400s",
    ] {
        let message = error(read(text), text);
        // One of them is out of order besides.
        let expected = ["that is too long to be a duration", DURATION]
            .map(|why| format!("line 1: `grants_max_age` is {text:?}: {why}"));
        assert!(expected.contains(&message), "{message}");
    }
    assert_eq!(
        error(read("213503982334602d"), ""),
        "line 1: `grants_max_age` is \"213503982334602d\": that is too long to be a duration"
    );
    assert_eq!(toml("grants_max_age = 86400"), format!("line 1: `grants_max_age` is 86400: {DURATION}"));
    assert_eq!(toml("grants_max_age = 0x10"), format!("line 1: `grants_max_age` is 0x10: {DURATION}"));
    assert_eq!(toml("grants_max_age = 1.5"), format!("line 1: `grants_max_age` is 1.5: {DURATION}"));
    assert_eq!(toml("grants_max_age = 2026-01-01"), format!("line 1: `grants_max_age` is 2026-01-01: {DURATION}"));
    assert_eq!(json(r#"{"grants_max_age": 1e999}"#), format!("line 1: `grants_max_age` is 1e999: {DURATION}"));
}

/// One mistake in a rule, in both formats: what is wrong with `key = value` beside a correct neighbour.
#[test]
fn a_mistake_in_a_rule_is_named_with_its_line_and_its_key() {
    let unknown = |near: &str| format!("is not a key of a rule: did you mean `{near}`? Expected `any_of`, {KEYS}");
    let stranger = format!("is not a key of a rule: expected `any_of`, {KEYS}");
    for (key, value, expected) in [
        ("max_ofline", r#""48h""#, unknown("max_offline")),
        ("max-offline", r#""48h""#, unknown("max_offline")),
        ("maxOffline", r#""48h""#, unknown("max_offline")),
        ("offline", r#""48h""#, unknown("max_offline")),
        ("max_offline_for", r#""48h""#, unknown("max_offline")),
        ("onlin", "true", unknown("online")),
        ("tokn", r#""fresh""#, unknown("token")),
        ("step_up", r#""12h""#, unknown("step_up_within")),
        ("fresh_witin", r#""12h""#, unknown("fresh_within")),
        ("scopes", r#""a""#, unknown("scope")),
        ("rolle", r#""a""#, unknown("role")),
        ("sensitivty", r#""high""#, unknown("sensitivity")),
        ("anyof", "[]", unknown("any_of")),
        ("when_reauth", r#""deny""#, unknown("when_reauth_required")),
        ("colour", r#""red""#, stranger.clone()),
        ("x", "1", stranger),
        ("max_offline", "48", format!("is 48: {DURATION}")),
        ("max_offline", "true", format!("is true: {DURATION}")),
        ("max_offline", r#""48 hours""#, format!(r#"is "48 hours": {DURATION}"#)),
        ("max_offline", r#"["48h"]"#, format!("is […]: {DURATION}")),
        (
            "max_offline",
            r#""99999999999999999d""#,
            r#"is "99999999999999999d": that is too long to be a duration"#.to_owned(),
        ),
        ("online", "false", "is false: expected true; to ask for nothing, leave the key out".to_owned()),
        ("online", r#""true""#, r#"is "true": expected true"#.to_owned()),
        ("read_only_after_expiry", "1", "is 1: expected true".to_owned()),
        ("token_fresh", "false", "is false: expected true; to ask for nothing, leave the key out".to_owned()),
        ("reads", "false", "is false: expected true; to ask for nothing, leave the key out".to_owned()),
        ("token", r#""frseh""#, r#"is "frseh": expected "fresh""#.to_owned()),
        ("token", "true", r#"is true: expected "fresh""#.to_owned()),
        (
            "sensitivity",
            r#""hihg""#,
            r#"is "hihg": did you mean "high"? Expected "low", "medium" or "high""#.to_owned(),
        ),
        (
            "sensitivity",
            r#""high""#,
            r#"is "high", a tier without limits: expected them under `tiers.high`"#.to_owned(),
        ),
        (
            "when_reauth_required",
            r#""readonly""#,
            r#"is "readonly": did you mean "read_only"? Expected "deny", "read_only" or "as_offline""#.to_owned(),
        ),
        (
            "when_reauth_required",
            r#""never""#,
            r#"is "never": expected "deny", "read_only" or "as_offline""#.to_owned(),
        ),
        ("scope", "[]", "is empty: expected a name, or a list of names".to_owned()),
        ("scope", r#""jobs notes""#, r#"has "jobs notes": a scope has no spaces; several are a list"#.to_owned()),
        ("scope", r#"["a", "b c"]"#, r#"has "b c": a scope has no spaces; several are a list"#.to_owned()),
        ("scope", r#""""#, format!(r#"is "": {NAME}"#)),
        ("role", r#"" lead""#, format!(r#"is " lead": {NAME}"#)),
        ("role", "7", "is 7: expected a name, or a list of names".to_owned()),
        ("role", r#"["lead", 7]"#, format!("has 7 among its names: {NAME}")),
        ("role", r#"["lead", ""]"#, format!(r#"has "" among its names: {NAME}"#)),
        ("any_of", "[]", "is empty: expected a list of clauses".to_owned()),
        ("any_of", "true", "is true: expected a list of clauses".to_owned()),
        ("any_of", r#"["online"]"#, r#"[0]` is "online": expected keys with their values"#.to_owned()),
    ] {
        let path = format!("capabilities.\"notes.create\".{key}");
        let expected = match expected.starts_with('[') {
            true => format!("line 4: `{path}{expected}"),
            false => format!("line 4: `{path}` {expected}"),
        };
        let file = format!("# a comment\n[capabilities.\"notes.create\"]\nstep_up_within = \"12h\"\n{key} = {value}\n");
        assert_eq!(toml(&file), expected);
        let file = format!(
            "{{\"capabilities\": {{\n\"notes.create\": {{\n\"step_up_within\": \"12h\",\n\"{key}\": {value}\n}}}}}}"
        );
        assert_eq!(json(&file), expected);
    }
}

#[test]
fn a_mistake_elsewhere_is_named_too() {
    // (TOML, JSON, what is said of both)
    for (in_toml, in_json, expected) in [
        (
            "[capability.a]",
            r#"{"capability": {"a": {}}}"#,
            "line 1: `capability` is not a key of a policy: did you mean `capabilities`? Expected `capabilities`, `tiers` or `grants_max_age`".to_owned(),
        ),
        (
            "version = 1",
            r#"{"version": 1}"#,
            "line 1: `version` is not a key of a policy: expected `capabilities`, `tiers` or `grants_max_age`".to_owned(),
        ),
        ("capabilities = 3", r#"{"capabilities": 3}"#, "line 1: `capabilities` is 3: expected keys with their values".to_owned()),
        ("\n\ntiers = true", "{\n\n\"tiers\": true}", "line 3: `tiers` is true: expected keys with their values".to_owned()),
        (
            "[capabilities]\na = '7d'",
            "{\"capabilities\": {\n\"a\": \"7d\"}}",
            "line 2: `capabilities.a` is \"7d\": expected keys with their values".to_owned(),
        ),
        ("[capabilities.'']", r#"{"capabilities": {"": {}}}"#, format!("line 1: `capabilities.\"\"`: {NAME}")),
        ("[capabilities.'a ']", r#"{"capabilities": {"a ": {}}}"#, format!("line 1: `capabilities.\"a \"`: {NAME}")),
        (
            "[tiers.hihg]\nonline = true",
            "{\"tiers\": {\"hihg\": {\n\"online\": true}}}",
            "line 1: `tiers.hihg` is not a tier: did you mean `high`? Expected `low`, `medium` or `high`".to_owned(),
        ),
        (
            "[tiers.high]\nreads = true",
            "{\"tiers\": {\"high\": {\n\"reads\": true}}}",
            "line 2: `tiers.high.reads`: `reads` belongs to a capability; the limits of a tier have none".to_owned(),
        ),
        (
            "[tiers.high]\nsensitivity = 'low'",
            "{\"tiers\": {\"high\": {\n\"sensitivity\": \"low\"}}}",
            "line 2: `tiers.high.sensitivity`: `sensitivity` belongs to a capability; the limits of a tier have none".to_owned(),
        ),
        (
            "[tiers.high]\nstep_up_withn = '1h'",
            "{\"tiers\": {\"high\": {\n\"step_up_withn\": \"1h\"}}}",
            format!("line 2: `tiers.high.step_up_withn` is not a key of a tier: did you mean `step_up_within`? Expected `any_of`, {TIER_KEYS}"),
        ),
        (
            "[capabilities.a]\nany_of = [{ online = true },\n  { tokn = 'fresh' }]",
            "{\"capabilities\": {\"a\": {\n\"any_of\": [{ \"online\": true },\n {\"tokn\": \"fresh\"}]}}}",
            format!("line 3: `capabilities.a.any_of[1].tokn` is not a key of a clause: did you mean `token`? Expected {KEYS}"),
        ),
        (
            "[capabilities.a]\nany_of = [{ any_of = [] }]",
            "{\"capabilities\": {\"a\": {\n\"any_of\": [{ \"any_of\": [] }]}}}",
            "line 2: `capabilities.a.any_of[0].any_of`: a clause has no `any_of` of its own; list its clauses one level up".to_owned(),
        ),
        (
            "[capabilities.a]\nonline = true\nonline = true",
            "{\"capabilities\": {\"a\": {\n\"online\": true,\n\"online\": true}}}",
            "line 3: `capabilities.a.online` stands here for the second time".to_owned(),
        ),
        (
            "[capabilities.\"a.b\"]\n\n[capabilities.\"a.b\"]",
            "{\"capabilities\": {\"a.b\": {},\n\n\"a.b\": {}}}",
            "line 3: `capabilities.\"a.b\"` stands here for the second time".to_owned(),
        ),
        (
            "grants_max_age = '1d'\ngrants_max_age = '1d'",
            "{\"grants_max_age\": \"1d\",\n\"grants_max_age\": \"1d\"}",
            "line 2: `grants_max_age` stands here for the second time".to_owned(),
        ),
        (
            "[capabilities.a]\nscope = [[[['x']]]]",
            "{\"capabilities\": {\"a\": {\n\"scope\": [[[[\"x\"]]]]}}}",
            "line 2: `capabilities.a.scope` is nested deeper than anything in a policy".to_owned(),
        ),
    ] {
        assert_eq!(toml(in_toml), expected, "{in_toml}");
        assert_eq!(json(in_json), expected, "{in_json}");
    }
}

#[test]
fn what_is_not_even_toml_or_json_says_where() {
    for (text, expected) in [
        ("[capabilities.\"jobs.view\"\n", "line 1: not TOML: unclosed table, expected `]`"),
        ("[capabilities.a]\nonline true", "line 2: not TOML: key with no value, expected `=`"),
        ("[capabilities.a]\nmax_offline = 7d", "line 2: not TOML: "),
        ("[capabilities.a]\nmax_offline = \"7d", "line 2: not TOML: invalid basic string, expected `\"`"),
    ] {
        let message = toml(text);
        assert!(message.starts_with(expected), "{message}");
    }
    // Where the rest of a key that stands twice cannot be told at a glance, it is not guessed.
    for (text, expected) in [
        ("[[capabilities.a.any_of]] # see [1]\nonline = true\nonline = true", "line 3: `capabilities.a.any_of.online`"),
        ("[capabilities.a]\nany_of = [{ online = true, online = true }]", "line 2: `online`"),
        ("[capabilities.a]\nany_of = [\n  { online = true,\n  online = true }]", "line 4: `online`"),
        ("[capabilities]\na.online = true\na.online = true", "line 3: `capabilities.a.online`"),
        ("online = 1\nonline = 1", "line 2: `online`"),
    ] {
        assert_eq!(toml(text), format!("{expected} stands here for the second time"));
    }
    let twice = "{\"capabilities\": {\"a\": {\"any_of\": [{\n\"online\": true,\n\"online\": true}]}}}";
    assert_eq!(json(twice), "line 3: `capabilities.a.any_of[0].online` stands here for the second time");
    // A capability with a dot needs quotes.
    let hint = "a capability with a dot in its name is written in quotes, as in [capabilities.\"jobs.view\"]";
    assert_eq!(
        toml("\n[capabilities.jobs.view]\nmax_offline = '7d'"),
        format!("line 2: `capabilities.jobs.view` is not a key of a rule: {hint}")
    );
    assert_eq!(
        toml("[capabilities.session.token]\nmax_offline = '7d'"),
        format!("line 1: `capabilities.session.token` takes no table: {hint}")
    );
    for (text, expected) in [
        ("", "line 1: nothing is there: expected { \"capabilities\": … }"),
        (" \n", "line 1: nothing is there: expected { \"capabilities\": … }"),
        ("[]", "line 1: the policy is […]: expected keys with their values"),
        ("7", "line 1: the policy is 7: expected keys with their values"),
        ("null", "line 1: the policy is null: expected keys with their values"),
        ("{\n\"capabilities\": {},\n}", "line 3: not JSON at column 1: a comma with nothing after it"),
        ("{\"tiers\": [1, ]}", "line 1: not JSON at column 15: a comma with nothing after it"),
        ("{\n  'capabilities': {}}", "line 2: not JSON at column 3: key must be a string"),
        ("{} {}", "line 1: not JSON at column 4: trailing characters"),
        (
            "{\n\"capabilities\": {\"a\": {\"role\": \"\\ud800\"}}}",
            "line 2: not JSON at column 39: unexpected end of hex escape",
        ),
        ("[[[[[[[[]]]]]]]]", "line 1: `the policy` is nested deeper than anything in a policy"),
    ] {
        assert_eq!(json(text), expected, "{text}");
    }
}

/// A name may not look like something else where it is shown: as a sentence of its own, or backwards.
#[test]
fn names_cannot_disguise_themselves() {
    for name in
        ["x is allowed always.\nadmin", "\u{1b}[2Jx", "a\0b", "a\u{7f}", "a\u{2028}b", "a\u{202e}b", "a\u{2066}b"]
    {
        let written = serde_json::to_string(name).unwrap();
        assert_eq!(
            json(&format!("{{\"capabilities\": {{{written}: {{}}}}}}")),
            format!("line 1: `capabilities.{name:?}`: {NAME}")
        );
        for list in [written.clone(), format!("[\"lead\", {written}]")] {
            let message = json(&format!("{{\"capabilities\": {{\"a\": {{\"role\": {list}}}}}}}"));
            assert!(message.contains(&format!("{name:?}")) && message.ends_with(NAME), "{message}");
        }
    }
    for name in ["jobs.view", "a b", "auftr\u{e4}ge", "\u{5d0}\u{5d1}", "\u{645}\u{6cc}\u{200c}\u{62e}", "e\u{301}"] {
        let policy = OfflinePolicy::from_toml(&format!("[capabilities.'{name}']\nrole = '{name}'")).unwrap();
        assert_eq!(policy, OfflinePolicy::new().rule(name.to_owned(), Rule::new().role(name)));
    }
}

/// Files that nobody wrote in good faith: refused soon, and in few words.
#[test]
fn hostile_files_are_refused_soon() {
    let start = std::time::Instant::now();
    let long = "x".repeat(1_000_000);
    let deep = [("[", "]"), ("{\"a\":", "}")]
        .map(|(open, close)| format!("{}1{}", open.repeat(100_000), close.repeat(100_000)));
    let many: String = (0..30_000).map(|n| format!("[capabilities.c{n}]\n")).collect();
    assert!(OfflinePolicy::from_toml(&many).is_ok());
    for text in [
        long.clone(),
        "x".repeat((1 << 20) + 1),
        format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("a{} = 1", ".a".repeat(100_000)),
        format!("[capabilities.{long}]\nx = 1"),
        format!("[capabilities.a]\n{long} = 1"),
        format!("[capabilities.a]\nmax_offline = '{long}'"),
        format!("[capabilities.a]\nmax_offline = '{}d'", "9".repeat(1_000_000)),
        format!("{{\"capabilities\": {{\"{long}\": 1}}}}"),
        format!("{{\"grants_max_age\": {}}}", "9".repeat(1_000_000)),
    ]
    .iter()
    .chain(&deep)
    {
        for message in
            [OfflinePolicy::from_toml(text), OfflinePolicy::from_json(text)].map(|read| read.unwrap_err().to_string())
        {
            assert!(message.len() < 1000, "{message}");
        }
    }
    assert_eq!(toml(&"#".repeat((1 << 20) + 1)), "line 1: 1048577 bytes: expected at most 1048576");
    assert!(start.elapsed().as_secs() < 20, "took {:?}", start.elapsed());
}
