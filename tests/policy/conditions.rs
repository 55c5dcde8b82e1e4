//! Each condition alone, then what happens where several meet.

use super::{DAY, HOUR, MINUTE, SECOND, alice, ask, rule};
use std::time::{Duration, SystemTime};
use tower_reauth::{
    AuthState, Capability, DenyReason, DenyReason::*, Grants, LockCause, OfflinePolicy, Remedy, Rule, Sensitivity,
    SignedOutCause, Situation, WhenReauthRequired,
};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn now() -> SystemTime {
    NOW + 1000 * DAY
}

/// One second before, at, and after a bound, and with no age at all.
fn assert_bound(limit: Duration, reason: DenyReason, make: Rule, at: impl Fn(Option<Duration>) -> Situation) {
    let answers =
        [Some(limit - SECOND), Some(limit), Some(limit + SECOND), None].map(|age| rule(make.clone(), &at(age)));
    assert_eq!(answers, [Ok(()), Ok(()), Err(reason), Err(reason)], "{make}");
    let just_over = Some(limit + Duration::from_nanos(1));
    assert_eq!(rule(make.clone(), &at(just_over)), Err(reason), "{make}");
    assert_eq!(rule(make.clone(), &at(Some(limit)).clock_untrusted()), Err(ClockUntrusted), "{make}");
    assert_eq!(rule(make, &at(Some(Duration::ZERO)).clock_untrusted()), Err(ClockUntrusted));
}

#[test]
fn a_rule_without_conditions_holds_for_whoever_is_signed_in() {
    for situation in [alice(), alice().offline_stale().offline_for(None).signed_in(None), alice().clock_untrusted()] {
        assert_eq!(rule(Rule::new(), &situation), Ok(()));
        assert_eq!(rule(Rule::default(), &situation), Ok(()));
        assert_eq!(rule(Rule::any_of([]), &situation), Err(UnknownCapability));
        assert_eq!(ask(&OfflinePolicy::new(), &situation, "act"), Err(UnknownCapability));
    }
}

#[test]
fn who_is_not_signed_in_is_denied_before_the_rule_is_asked() {
    for rule in [Rule::new(), Rule::any_of([]), Rule::new().role("lead")] {
        let policy = OfflinePolicy::new().rule("act", rule);
        for (state, reason) in [
            (AuthState::Locked(LockCause::AccountDisabled), Locked),
            (AuthState::SignedOut(SignedOutCause::Never), NeverAuthenticated),
            (AuthState::SignedOut(SignedOutCause::Here), SignedOut),
            (AuthState::SignedOut(SignedOutCause::Elsewhere), SignedOut),
        ] {
            for capability in ["act", "unheard of"] {
                let situation = alice().state(state.clone());
                assert_eq!(ask(&policy, &situation, capability), Err(reason));
                // The policy knows by itself, too.
                let answer = situation.with(capability, |cx| tower_reauth::OfflineGate::check(&policy, cx));
                assert_eq!(answer.unwrap_err().reason(), reason);
            }
        }
    }
}

#[test]
fn max_offline() {
    let online_or_not = |age| alice().online(false).offline_for(age);
    assert_bound(48 * HOUR, OfflineWindowExpired, Rule::new().max_offline(48 * HOUR), online_or_not);
    assert_bound(48 * HOUR, OfflineWindowExpired, Rule::new().max_offline(48 * HOUR), |age| alice().offline_for(age));
    assert_eq!(rule(Rule::new().max_offline(Duration::MAX), &alice().offline_for(Duration::MAX)), Ok(()));
}

#[test]
fn online() {
    for (online, rejected, answer) in [
        (Some(true), false, Ok(())),
        (None, false, Ok(())),
        (Some(false), false, Err(OnlineRequired)),
        (Some(true), true, Err(ReauthRequired)),
        (None, true, Err(ReauthRequired)),
        (Some(false), true, Err(ReauthRequired)),
    ] {
        let situation = alice().online(online).grant_rejected(rejected);
        assert_eq!(rule(Rule::new().online(), &situation), answer, "{online:?} {rejected}");
    }
    assert_eq!(rule(Rule::new().online(), &alice().clock_untrusted().token_fresh(false)), Ok(()));
}

#[test]
fn token_fresh() {
    for (fresh, rejected, answer) in [
        (true, false, Ok(())),
        (false, false, Err(OnlineRequired)),
        (true, true, Err(ReauthRequired)),
        (false, true, Err(ReauthRequired)),
    ] {
        let situation = alice().token_fresh(fresh).grant_rejected(rejected);
        assert_eq!(rule(Rule::new().token_fresh(), &situation), answer, "{fresh} {rejected}");
        assert_eq!(rule(Rule::new().token_fresh(), &situation.online(false)), answer, "whatever the network is");
    }
}

#[test]
fn fresh_within() {
    assert_bound(8 * HOUR, ReauthRequired, Rule::new().fresh_within(8 * HOUR), |age| alice().signed_in(age));
}

#[test]
fn step_up_within() {
    assert_bound(12 * HOUR, StepUpRequired, Rule::new().step_up_within(12 * HOUR), |age| alice().stepped_up(age));
}

#[test]
fn read_only_after_expiry() {
    let only = Rule::new().read_only_after_expiry();
    let spent = alice().token_fresh(false);
    for (situation, answer) in [
        (alice(), Ok(())),
        (alice().online(false), Ok(())),
        (alice().grant_rejected(true), Ok(())),
        (spent.clone(), Ok(())),
        (spent.clone().online(None), Ok(())),
        (spent.clone().online(false), Err(ReadOnly)),
        (spent.grant_rejected(true), Err(ReadOnly)),
        (alice().offline_stale(), Err(ReadOnly)),
        (alice().offline_stale().online(true), Err(ReadOnly)),
    ] {
        assert_eq!(rule(only.clone(), &situation), answer, "{situation:?}");
        assert_eq!(rule(only.clone().reads(), &situation), Ok(()), "{situation:?}");
        let policy = OfflinePolicy::new().rule(Capability::READ, only.clone());
        assert_eq!(ask(&policy, &situation, "read"), Ok(()), "{situation:?}");
    }
    let as_offline = only.when_reauth_required(WhenReauthRequired::AsOffline);
    assert_eq!(rule(as_offline, &alice().reauth_required()), Err(ReadOnly));
}

#[test]
fn scopes_and_roles() {
    let rules = Rule::new().scope("jobs:approve").role("lead");
    let grants = |scope: &str, role: &str| alice().grants(Grants::new().scope(scope).role(role));
    assert_eq!(rule(rules.clone(), &grants("jobs:approve", "lead")), Ok(()));
    for wrong in [alice(), grants("jobs:approve", "other"), grants("other", "lead"), grants("lead", "jobs:approve")] {
        assert_eq!(rule(rules.clone(), &wrong), Err(MissingGrant));
        // A clock that cannot be trusted does not hide that it is missing.
        let policy = OfflinePolicy::new().rule("act", rules.clone()).grants_max_age(HOUR);
        assert_eq!(ask(&policy, &wrong.clock_untrusted(), "act"), Err(MissingGrant));
    }
    let both = Rule::new().scope("a").scope("b");
    assert_eq!(rule(both.clone(), &alice().grants(Grants::new().scope("a"))), Err(MissingGrant));
    assert_eq!(rule(both.clone(), &alice().grants(Grants::new().scope("b"))), Err(MissingGrant));
    assert_eq!(rule(both, &alice().grants(Grants::new().scope("a").scope("b"))), Ok(()));
    let roles = Rule::new().role("a").role("b");
    assert_eq!(rule(roles.clone(), &alice().grants(Grants::new().role("a"))), Err(MissingGrant));
    assert_eq!(rule(roles, &alice().grants(Grants::new().role("a").role("b"))), Ok(()));
}

/// Case 33: grants narrow, never widen; missing and stale ones deny.
#[test]
fn case_33_grants_that_are_too_old_count_as_missing() {
    let with_grants = |age| alice().grants(Grants::new().role("lead").scope("jobs")).grants_age(age);
    for needy in [Rule::new().role("lead"), Rule::new().scope("jobs")] {
        let policy = OfflinePolicy::new().rule("act", needy.clone()).grants_max_age(24 * HOUR);
        let ages = [Some(24 * HOUR - SECOND), Some(24 * HOUR), Some(24 * HOUR + SECOND), None];
        let answers = ages.map(|age| ask(&policy, &with_grants(age), "act"));
        assert_eq!(answers, [Ok(()), Ok(()), Err(MissingGrant), Err(MissingGrant)]);
        assert_eq!(ask(&policy, &with_grants(None).clock_untrusted(), "act"), Err(ClockUntrusted));
        // Without a limit any age will do, and the clock is not asked.
        assert_eq!(rule(needy.clone(), &with_grants(None)), Ok(()));
        assert_eq!(rule(needy, &with_grants(None).clock_untrusted()), Ok(()));
    }
    // A rule that asks for no grant does not ask for their age.
    let policy = OfflinePolicy::new().rule("act", Rule::new()).grants_max_age(HOUR);
    assert_eq!(ask(&policy, &with_grants(Some(DAY)), "act"), Ok(()));
}

#[test]
fn when_reauth_required() {
    use WhenReauthRequired::{AsOffline, Deny};
    let dead = alice().reauth_required();
    let says = |when: Option<WhenReauthRequired>| when.map_or(Rule::new(), |it| Rule::new().when_reauth_required(it));
    for (when, writes, reads) in [
        (None, Err(ReauthRequired), Ok(())),
        (Some(Deny), Err(ReauthRequired), Err(ReauthRequired)),
        (Some(WhenReauthRequired::ReadOnly), Err(ReadOnly), Ok(())),
        (Some(AsOffline), Ok(()), Ok(())),
    ] {
        assert_eq!(rule(says(when), &dead), writes, "{when:?}");
        assert_eq!(rule(says(when).reads(), &dead), reads, "{when:?}");
        let policy = OfflinePolicy::new().rule(Capability::READ, says(when)).rule(Capability::WRITE, says(when));
        assert_eq!(ask(&policy, &dead, "read"), reads, "{when:?}");
        assert_eq!(ask(&policy, &dead, "write"), writes, "{when:?}");
        // Until then it changes nothing.
        for alive in [alice(), alice().grant_rejected(true), alice().offline_stale()] {
            assert_eq!(rule(says(when), &alive), Ok(()), "{when:?}");
        }
        // "As offline" means that the other conditions are asked.
        let away = dead.clone().offline_for(3 * HOUR);
        assert_eq!(rule(says(when).reads().max_offline(2 * HOUR), &away), reads.and(Err(OfflineWindowExpired)));
    }
    // Whatever the facts say beside it, the grant is gone.
    let gone = dead.online(true).token_fresh(true).grant_rejected(false);
    assert_eq!(rule(says(Some(AsOffline)).online(), &gone), Err(ReauthRequired));
    assert_eq!(rule(says(Some(AsOffline)).token_fresh(), &gone), Err(ReauthRequired));
}

/// `Grants::offline_until`: it ends offline use, not online use, and only contact heals it.
#[test]
fn the_servers_own_end_of_offline_use() {
    let end = now() - HOUR;
    let until = |end| alice().now(now()).offline_for(2 * HOUR).grants(Grants::new().offline_until(end));
    let offline = |end| until(end).online(false);
    for open in [Rule::new(), Rule::new().max_offline(DAY), Rule::new().token_fresh()] {
        let answers = [now() + SECOND, now(), now() - SECOND].map(|end| rule(open.clone(), &offline(end)));
        assert_eq!(answers, [Ok(()), Ok(()), Err(OfflineWindowExpired)], "{open}");
        assert_eq!(rule(open.clone(), &offline(now() + DAY).clock_untrusted()), Err(ClockUntrusted), "{open}");
        // It shortens, never lengthens.
        assert_eq!(rule(open.clone().max_offline(HOUR), &offline(now() + DAY)), Err(OfflineWindowExpired));

        // The server has renewed the session since, and is there.
        let healed = until(end).offline_for(HOUR - SECOND);
        assert_eq!(rule(open.clone(), &healed), Ok(()), "{open}");
        assert_eq!(rule(open.clone(), &healed.clone().online(None)), Ok(()), "{open}");
        for not_healed in [
            until(end).offline_for(HOUR), // at the very end: not after it
            until(end).offline_for(None),
            until(end).offline_for(Duration::MAX),
            healed.clone().online(false),
        ] {
            assert_eq!(rule(open.clone(), &not_healed), Err(OfflineWindowExpired), "{open} {not_healed:?}");
        }
    }
    let healed = until(end).offline_for(HOUR - SECOND);
    for spent in [healed.clone().token_fresh(false), healed.clone().grant_rejected(true), healed.reauth_required()] {
        assert_eq!(rule(Rule::new().reads(), &spent), Err(OfflineWindowExpired), "{spent:?}");
    }

    // Online use goes on, whether the clause itself asks for online or all limits of its tier do.
    let over = until(end);
    assert_eq!(rule(Rule::new().online(), &over), Ok(()));
    assert_eq!(rule(Rule::new().online(), &over.clone().clock_untrusted()), Ok(()));
    let tiers = |limits| {
        OfflinePolicy::new().rule("act", Rule::new().sensitivity(Sensitivity::High)).tier(Sensitivity::High, limits)
    };
    assert_eq!(ask(&tiers(Rule::new().online()), &over, "act"), Ok(()));
    let half = Rule::any_of([Rule::new().online(), Rule::new()]);
    assert_eq!(ask(&tiers(half), &over, "act"), Err(OfflineWindowExpired));
    // One clause for each.
    let either = Rule::any_of([Rule::new().online(), Rule::new().max_offline(DAY)]);
    assert_eq!(rule(either.clone(), &over), Ok(()));
    assert_eq!(rule(either, &over.online(false)), Err(OfflineWindowExpired));
}

// ===== several =====

/// In the order of SEMANTICS §5, which is that of the methods of `Rule`.
#[test]
fn the_first_condition_that_fails_gives_the_reason() {
    let policy = |rule: Rule| {
        let tier = Rule::new().step_up_within(HOUR);
        OfflinePolicy::new().rule("act", rule).tier(Sensitivity::High, tier).grants_max_age(HOUR)
    };
    let all = Rule::new()
        .sensitivity(Sensitivity::High)
        .role("lead")
        .scope("jobs")
        .read_only_after_expiry()
        .step_up_within(2 * HOUR)
        .fresh_within(HOUR)
        .token_fresh()
        .online()
        .max_offline(HOUR);
    let worst = alice().offline_stale().offline_for(DAY).signed_in(DAY).grants_age(DAY);
    // Each step mends what was denied; the next reason appears.
    type Mend = fn(Situation) -> Situation;
    let steps: [(DenyReason, Mend); 9] = [
        (OfflineWindowExpired, |it| it.offline_for(HOUR)),
        (OnlineRequired, |it| it.online(true)),
        (OnlineRequired, |it| it.token_fresh(true)),
        (ReauthRequired, |it| it.signed_in(HOUR)),
        (StepUpRequired, |it| it.stepped_up(2 * HOUR)),
        (MissingGrant, |it| it.grants(Grants::new().scope("jobs"))),
        (MissingGrant, |it| it.grants(Grants::new().scope("jobs").role("lead"))),
        (MissingGrant, |it| it.grants_age(HOUR)),
        (StepUpRequired, |it| it.stepped_up(HOUR)), // the tier's
    ];
    let mut situation = worst;
    for (reason, mend) in steps {
        assert_eq!(ask(&policy(all.clone()), &situation, "act"), Err(reason), "{situation:?}");
        situation = mend(situation);
    }
    assert_eq!(ask(&policy(all), &situation, "act"), Ok(()));

    // Read-only stands between the step-up and the grants.
    let rule = Rule::new().role("lead").read_only_after_expiry().step_up_within(HOUR);
    let away = alice().offline_stale();
    assert_eq!(ask(&policy(rule.clone()), &away, "act"), Err(StepUpRequired));
    assert_eq!(ask(&policy(rule.clone()), &away.clone().stepped_up(HOUR), "act"), Err(ReadOnly));
    assert_eq!(ask(&policy(rule), &away.stepped_up(HOUR).token_fresh(true), "act"), Err(MissingGrant));
    // What holds after a refusal is asked first of all.
    assert_eq!(
        super::rule(Rule::new().max_offline(HOUR), &alice().reauth_required().offline_for(DAY)),
        Err(ReauthRequired)
    );
}

#[test]
fn of_several_clauses_one_is_enough_and_the_last_one_gives_the_reason() {
    let [away, unlocked] = [alice().offline_stale().offline_for(DAY), alice().stepped_up(HOUR)];
    let clauses = [Rule::new().max_offline(HOUR), Rule::new().step_up_within(HOUR), Rule::new().online()];
    for (order, reason) in [([0, 1, 2], OnlineRequired), ([2, 0, 1], StepUpRequired), ([1, 2, 0], OfflineWindowExpired)]
    {
        let any = Rule::any_of(order.map(|which| clauses[which].clone()));
        assert_eq!(rule(any.clone(), &away), Err(reason));
        for mended in [away.clone().offline_for(HOUR), away.clone().stepped_up(HOUR), away.clone().online(true)] {
            assert_eq!(rule(any.clone(), &mended), Ok(()));
        }
        // Rules of rules are one list of clauses.
        let nested = Rule::any_of([
            Rule::any_of([clauses[order[0]].clone(), clauses[order[1]].clone()]),
            clauses[order[2]].clone(),
        ]);
        assert_eq!(nested, any);
        // A condition that is added holds for each.
        assert_eq!(rule(any.role("lead"), &unlocked), Err(MissingGrant));
    }
}

#[test]
fn of_what_is_said_twice_the_stricter_holds() {
    use WhenReauthRequired::{AsOffline, Deny};
    let [short, long] = [HOUR, 2 * HOUR];
    for [a, b] in [[short, long], [long, short]] {
        assert_eq!(Rule::new().max_offline(a).max_offline(b), Rule::new().max_offline(short));
        assert_eq!(Rule::new().fresh_within(a).fresh_within(b), Rule::new().fresh_within(short));
        assert_eq!(Rule::new().step_up_within(a).step_up_within(b), Rule::new().step_up_within(short));
    }
    for (a, b, strict) in [
        (Deny, AsOffline, Deny),
        (Deny, WhenReauthRequired::ReadOnly, Deny),
        (WhenReauthRequired::ReadOnly, AsOffline, WhenReauthRequired::ReadOnly),
        (AsOffline, AsOffline, AsOffline),
    ] {
        let strict = Rule::new().when_reauth_required(strict);
        assert_eq!(Rule::new().when_reauth_required(a).when_reauth_required(b), strict);
        assert_eq!(Rule::new().when_reauth_required(b).when_reauth_required(a), strict);
    }
    // A rule, a tier and their age are set, not added to.
    let policy =
        OfflinePolicy::new().rule("act", Rule::new().role("lead")).rule("act", Rule::new()).grants_max_age(HOUR);
    assert_eq!(policy.grants_max_age(DAY), OfflinePolicy::new().rule("act", Rule::new()).grants_max_age(DAY));
}

// ===== tiers =====

#[test]
fn a_tier_adds_its_limits() {
    let policy = |tier, limits| {
        OfflinePolicy::new().rule("act", Rule::new().max_offline(DAY).sensitivity(tier)).tier(tier, limits)
    };
    for tier in [Sensitivity::Low, Sensitivity::Medium, Sensitivity::High] {
        let limited =
            policy(tier, Rule::any_of([Rule::new().step_up_within(HOUR), Rule::new().max_offline(5 * MINUTE)]));
        let away = alice().online(false);
        assert_eq!(ask(&limited, &away.clone().offline_for(5 * MINUTE), "act"), Ok(()));
        assert_eq!(ask(&limited, &away.clone().offline_for(6 * MINUTE), "act"), Err(OfflineWindowExpired));
        assert_eq!(ask(&limited, &away.clone().offline_for(6 * MINUTE).stepped_up(HOUR), "act"), Ok(()));
        // The limits narrow: they cannot allow what the rule does not.
        let wide =
            policy(tier, Rule::new().max_offline(7 * DAY).when_reauth_required(WhenReauthRequired::AsOffline).reads());
        assert_eq!(ask(&wide, &away.clone().offline_for(DAY), "act"), Ok(()));
        assert_eq!(ask(&wide, &away.clone().offline_for(2 * DAY), "act"), Err(OfflineWindowExpired));
        assert_eq!(ask(&wide, &alice().reauth_required(), "act"), Err(ReauthRequired));
        // Nor do they take away what they do not mention.
        let view = OfflinePolicy::new()
            .rule("act", Rule::new().reads().sensitivity(tier))
            .tier(tier, Rule::new().read_only_after_expiry());
        assert_eq!(ask(&view, &alice().reauth_required(), "act"), Ok(()));
        let strict = OfflinePolicy::new()
            .rule("act", Rule::new().reads().sensitivity(tier))
            .tier(tier, Rule::new().when_reauth_required(WhenReauthRequired::Deny));
        assert_eq!(ask(&strict, &alice().reauth_required(), "act"), Err(ReauthRequired));
        // What says of itself that it reads, in its limits, is not believed.
        let claims = policy(tier, Rule::new().reads().read_only_after_expiry());
        assert_eq!(ask(&claims, &alice().offline_stale(), "act"), Err(ReadOnly));
        // Grants of the limits have an age, too.
        let needy = policy(tier, Rule::new().role("lead")).grants_max_age(HOUR);
        let lead = alice().grants(Grants::new().role("lead"));
        assert_eq!(ask(&needy, &lead, "act"), Ok(()));
        assert_eq!(ask(&needy, &lead.grants_age(2 * HOUR), "act"), Err(MissingGrant));
    }
    // Each tier that is named counts.
    let two = Rule::new().sensitivity(Sensitivity::High).sensitivity(Sensitivity::Low);
    let policy = OfflinePolicy::new()
        .rule("act", two)
        .tier(Sensitivity::Low, Rule::new().online())
        .tier(Sensitivity::High, Rule::new().role("x"));
    assert_eq!(ask(&policy, &alice().online(false), "act"), Err(OnlineRequired));
    assert_eq!(ask(&policy, &alice(), "act"), Err(MissingGrant));
    assert_eq!(ask(&policy, &alice().grants(Grants::new().role("x")), "act"), Ok(()));
}

#[test]
fn a_tier_without_limits_allows_nothing() {
    let high = Rule::new().sensitivity(Sensitivity::High);
    let policy = OfflinePolicy::new().rule("act", high.clone()).tier(Sensitivity::Low, Rule::new());
    assert_eq!(ask(&policy, &alice(), "act"), Err(UnknownCapability));
    for limits in
        [high.clone(), Rule::new().sensitivity(Sensitivity::Low), Rule::any_of([Rule::new(), high]), Rule::any_of([])]
    {
        let policy = policy.clone().tier(Sensitivity::High, limits);
        assert_eq!(ask(&policy, &alice(), "act"), Err(UnknownCapability));
        assert_eq!(alice().ask(&policy, "act").unwrap_err().remedy(), Remedy::None);
    }
}
