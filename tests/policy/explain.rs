//! What a policy says of itself, and of its answers.

use super::{DAY, HOUR, MINUTE, SECOND, alice};
use std::time::{Duration, SystemTime};
use tower_reauth::{DenyReason, Grants, OfflinePolicy, Rule, Sensitivity, Situation, WhenReauthRequired};

fn explain(policy: &OfflinePolicy, situation: &Situation, capability: &'static str) -> String {
    situation.with(capability, |cx| policy.explain(cx).to_string())
}

fn policy() -> OfflinePolicy {
    OfflinePolicy::from_toml(include_str!("../../examples/field_service.toml")).unwrap()
}

#[test]
fn a_policy_in_words() {
    let policy = policy()
        .rule(
            "jobs.approve",
            Rule::new().fresh_within(8 * HOUR).scope("jobs:approve").role("lead").sensitivity(Sensitivity::High),
        )
        .rule("any", Rule::new())
        .rule("read", Rule::new().max_offline(7 * DAY))
        .rule("none", Rule::any_of([]))
        .rule("odd", Rule::new().read_only_after_expiry().when_reauth_required(WhenReauthRequired::AsOffline))
        .tier(Sensitivity::High, Rule::new().step_up_within(90 * MINUTE).when_reauth_required(WhenReauthRequired::Deny))
        .grants_max_age(DAY);
    let text = "\
any is allowed always.
jobs.approve is allowed at most 8 h after the sign-in and with the scope `jobs:approve` and with the role `lead` and within the limits of the tier high.
jobs.complete is allowed online and with a fresh token; or at most 5 min without the server.
jobs.view is allowed at most 7 d without the server (it changes nothing).
none is allowed never.
notes.create is allowed at most 48 h without the server and at most 12 h after an unlock.
odd is allowed also once the user has to sign in again and for reading only once the token is spent and cannot be renewed.
read is allowed at most 7 d without the server (it changes nothing).
Everything else is denied.
Once the user has to sign in again, what changes nothing goes on and the rest is denied, unless its sentence says otherwise.
The limits of the tier high: not once the user has to sign in again and at most 1 h 30 min after an unlock.
Scopes and roles that are older than 24 h count as missing.";
    assert_eq!(policy.to_string(), text);
    assert_eq!(OfflinePolicy::new().to_string(), "Everything is denied.");
    let read_only = Rule::new().when_reauth_required(WhenReauthRequired::ReadOnly);
    assert_eq!(read_only.to_string(), "for reading only once the user has to sign in again");
}

#[test]
fn an_answer_with_its_numbers() {
    let away = alice().offline_stale().offline_for(2 * DAY + 3 * HOUR + MINUTE).stepped_up(3 * HOUR);
    assert_eq!(
        explain(&policy(), &away, "notes.create"),
        "notes.create is denied: too long without the server
  holds: the user need not sign in again
  fails: offline for 2 d 3 h, allowed 48 h
  holds: unlocked 3 h ago, allowed 12 h"
    );
    assert_eq!(
        explain(&policy(), &away, "jobs.complete"),
        "jobs.complete is denied: too long without the server
  either
    holds: the user need not sign in again
    fails: offline
    fails: the token is spent
  or
    holds: the user need not sign in again
    fails: offline for 2 d 3 h, allowed 5 min"
    );
    assert_eq!(explain(&policy(), &away, "fly"), "fly is denied: no rule names it");
    let why = away.with("notes.create", |cx| policy().explain(cx));
    assert_eq!(why.capability().as_str(), "notes.create");
    assert_eq!(why.decision(), away.ask(&policy(), "notes.create"));
    let found: Vec<_> = why.clauses()[0].iter().map(|finding| (finding.holds(), finding.reason())).collect();
    assert_eq!(found, [(true, None), (false, Some(DenyReason::OfflineWindowExpired)), (true, None)]);
}

/// The texts of one rule's conditions, with the limits of its tiers indented.
fn findings(policy: &OfflinePolicy, situation: &Situation) -> Vec<String> {
    explain(policy, situation, "act").lines().skip(1).map(|line| line.trim_start().to_owned()).collect()
}

#[test]
fn each_condition_in_words() {
    let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
    let tell = |rule: Rule, situation: Situation| {
        let policy = OfflinePolicy::new().rule("act", rule.when_reauth_required(WhenReauthRequired::AsOffline));
        findings(&policy.grants_max_age(DAY), &situation.now(now)).split_off(1).join(" | ")
    };
    let untrusted = |rule: Rule| {
        let policy = OfflinePolicy::new().rule("act", rule);
        findings(&policy, &alice().clock_untrusted()).split_off(1).join(" | ")
    };
    let (max, signed_in, unlocked) =
        (Rule::new().max_offline(HOUR), Rule::new().fresh_within(HOUR), Rule::new().step_up_within(HOUR));
    let just = HOUR + SECOND;
    for (told, expected) in [
        (
            tell(max.clone(), alice().offline_for(59 * MINUTE + 30 * SECOND)),
            "holds: offline for 59 min 30 s, allowed 1 h",
        ),
        (tell(max.clone(), alice().offline_for(just)), "fails: offline for just over 1 h, allowed 1 h"),
        (
            tell(max.clone(), alice().offline_for(None)),
            "fails: nobody knows when the server last answered, allowed 1 h",
        ),
        (tell(max.clone(), alice().offline_for(Duration::from_millis(20))), "holds: offline for 0 s, allowed 1 h"),
        (untrusted(max), "fails: the clock cannot be trusted, allowed 1 h"),
        (tell(signed_in.clone(), alice().signed_in(just)), "fails: signed in just over 1 h ago, allowed 1 h"),
        (tell(signed_in, alice().signed_in(None)), "fails: nobody knows when the user signed in, allowed 1 h"),
        (tell(unlocked.clone(), alice().stepped_up(SECOND)), "holds: unlocked 1 s ago, allowed 1 h"),
        (tell(unlocked, alice()), "fails: not unlocked, allowed 1 h"),
        (tell(Rule::new().online(), alice()), "holds: online"),
        (
            tell(Rule::new().online(), alice().online(None)),
            "holds: nothing is known of the network, which counts as online",
        ),
        (tell(Rule::new().online(), alice().grant_rejected(true)), "fails: the refresh token was refused"),
        (tell(Rule::new().token_fresh(), alice()), "holds: the token is fresh"),
        (tell(Rule::new().token_fresh(), alice().token_fresh(false)), "fails: the token is spent"),
        (tell(Rule::new().read_only_after_expiry(), alice()), "holds: the token is fresh"),
        (
            tell(Rule::new().read_only_after_expiry(), alice().token_fresh(false)),
            "holds: the token is spent, but may be renewed",
        ),
        (
            tell(Rule::new().read_only_after_expiry(), alice().offline_stale()),
            "fails: the token is spent and cannot be renewed now: reading only",
        ),
        (tell(Rule::new().read_only_after_expiry().reads(), alice().offline_stale()), "holds: this changes nothing"),
        (
            tell(Rule::new().scope("a").role("b"), alice().grants(Grants::new().scope("a")).grants_age(2 * DAY)),
            "holds: the scope `a` is there | fails: the role `b` is missing | fails: scopes and roles are 48 h old, allowed 24 h",
        ),
        (
            tell(Rule::new().role("b"), alice().grants(Grants::new().role("b")).grants_age(None)),
            "holds: the role `b` is there | fails: nobody knows how old scopes and roles are, allowed 24 h",
        ),
        (tell(Rule::new().sensitivity(Sensitivity::Low), alice()), "fails: the tier low has no limits"),
    ] {
        assert_eq!(told, expected);
    }
    let long = |limit, age| tell(Rule::new().max_offline(limit), alice().offline_for(age));
    for (limit, age, expected) in [
        (48 * HOUR, 48 * HOUR, "holds: offline for 48 h, allowed 48 h"),
        (48 * HOUR, 48 * HOUR + SECOND, "fails: offline for just over 48 h, allowed 48 h"),
        (48 * HOUR, 49 * HOUR, "fails: offline for 2 d 1 h, allowed 48 h"),
        (5 * MINUTE, 5 * MINUTE + SECOND, "fails: offline for 5 min 1 s, allowed 5 min"),
        (5 * MINUTE, 5 * MINUTE + Duration::from_nanos(1), "fails: offline for just over 5 min, allowed 5 min"),
        (7 * DAY, 7 * DAY + 59 * MINUTE, "fails: offline for just over 7 d, allowed 7 d"),
        (7 * DAY, Duration::MAX, "fails: offline for 213503982334601 d 7 h, allowed 7 d"),
        (26 * HOUR + SECOND, 26 * HOUR + 61 * SECOND, "fails: offline for 26 h 1 min, allowed 26 h 1 s"),
        (
            Duration::from_millis(2500),
            Duration::from_millis(2700),
            "fails: offline for just over 2 s 500 ms, allowed 2 s 500 ms",
        ),
        (Duration::ZERO, Duration::ZERO, "holds: offline for 0 s, allowed 0 s"),
    ] {
        assert_eq!(long(limit, age), expected);
    }
    let until = |end| alice().online(false).grants(Grants::new().offline_until(end));
    for (situation, expected) in [
        (until(now + HOUR), "holds: the server's end of offline use comes in 1 h"),
        (until(now - HOUR).offline_for(2 * HOUR), "fails: the server's end of offline use was 1 h ago"),
        (
            until(now - HOUR).offline_for(MINUTE),
            "fails: the server's end of offline use was 1 h ago; it has renewed the session, but this is offline use",
        ),
        (
            until(now - HOUR).offline_for(MINUTE).online(true),
            "holds: the server's end of offline use was 1 h ago, and it has renewed the session",
        ),
    ] {
        assert_eq!(tell(Rule::new(), situation), expected);
    }
    let policy = OfflinePolicy::new().rule("act", Rule::new());
    let doubtful = findings(&policy, &until(now + HOUR).clock_untrusted());
    assert_eq!(doubtful[1], "fails: the clock cannot be trusted, and the server has set an end of offline use");
    for (rule, expected) in [
        (Rule::new(), "fails: the user has to sign in again"),
        (Rule::new().reads(), "holds: the user has to sign in again, but this changes nothing"),
        (
            Rule::new().when_reauth_required(WhenReauthRequired::AsOffline),
            "holds: the user has to sign in again, which is allowed here",
        ),
    ] {
        assert_eq!(findings(&OfflinePolicy::new().rule("act", rule), &alice().reauth_required()), [expected]);
    }
}

#[test]
fn the_limits_of_a_tier_stand_below_it() {
    let limits = Rule::any_of([Rule::new().online(), Rule::new().step_up_within(HOUR)]);
    let policy =
        OfflinePolicy::new().rule("act", Rule::new().sensitivity(Sensitivity::High)).tier(Sensitivity::High, limits);
    assert_eq!(
        explain(&policy, &alice().online(false), "act"),
        "act is denied: the user has to unlock first
  holds: the user need not sign in again
  fails: the limits of the tier high do not hold
    either
      fails: offline
    or
      fails: not unlocked, allowed 1 h"
    );
    let why = alice().with("act", |cx| policy.explain(cx));
    assert_eq!(why.decision(), Ok(()));
    assert_eq!(why.clauses()[0][1].limits().len(), 2);
    let nested = policy.tier(Sensitivity::High, Rule::new().sensitivity(Sensitivity::Low));
    assert!(explain(&nested, &alice(), "act").ends_with("fails: the limits of the tier high name a tier themselves"));
}
