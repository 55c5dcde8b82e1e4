//! What holds for every policy in every situation.

use super::specs::{self, CAPABILITIES, PolicySpec, SituationSpec};
use proptest::prelude::*;
use std::time::Duration;
use tower_reauth::{AuthState, Denial, DenyReason, OfflinePolicy, Remedy, Rule, Situation};

/// What the policy answers for each capability, and for one that it does not know.
fn answers(policy: &OfflinePolicy, situation: &Situation) -> Vec<Result<(), Denial>> {
    CAPABILITIES.iter().chain(&["unheard of"]).map(|capability| situation.ask(policy, *capability)).collect()
}

/// What `less` permits, `more` permits.
fn assert_within(less: &[Result<(), Denial>], more: &[Result<(), Denial>]) -> Result<(), TestCaseError> {
    for (less, more) in less.iter().zip(more) {
        prop_assert!(less.is_err() || more.is_ok(), "{more:?}");
    }
    Ok(())
}

fn both() -> impl Strategy<Value = (PolicySpec, SituationSpec)> {
    (specs::policy(), specs::situation())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_answer_is_the_one_that_the_rules_spell((policy, situation) in both()) {
        let (built, now) = (policy.build(), situation.build());
        for capability in CAPABILITIES.into_iter().chain(["unheard of"]) {
            let answer = now.ask(&built, capability).map_err(|denial| denial.reason());
            prop_assert_eq!(answer, specs::answer(&policy, &situation, capability), "{}", capability);
        }
    }

    #[test]
    fn what_is_explained_is_what_is_answered((policy, situation) in both()) {
        let (policy, situation) = (policy.build(), situation.build());
        for capability in CAPABILITIES.into_iter().chain(["unheard of"]) {
            let why = situation.with(capability, |cx| policy.explain(cx));
            prop_assert_eq!(why.decision(), situation.ask(&policy, capability));
            let holds = |clause: &Vec<tower_reauth::Finding>| clause.iter().all(tower_reauth::Finding::holds);
            prop_assert_eq!(why.decision().is_ok(), why.clauses().iter().any(holds));
            for tier in why.clauses().iter().flatten().filter(|finding| !finding.limits().is_empty()) {
                prop_assert_eq!(tier.holds(), tier.limits().iter().any(holds), "{}", why);
            }
        }
    }

    /// P15: a denial for age stays one until there was contact.
    #[test]
    fn p15_time_that_goes_on_without_contact_permits_nothing_more((policy, situation) in both(), later in 0..10_000_000_u64) {
        let (policy, now) = (policy.build(), situation.build());
        let later = now.clone().later(Duration::from_secs(later));
        assert_within(&answers(&policy, &later), &answers(&policy, &now))?;
    }

    /// P15: who makes the clock untrustworthy gains nothing.
    #[test]
    fn p15_an_untrusted_clock_permits_nothing_more((policy, mut situation) in both()) {
        situation.trusted = true;
        let (policy, now) = (policy.build(), situation.build());
        assert_within(&answers(&policy, &now.clone().clock_untrusted()), &answers(&policy, &now))?;
    }

    /// Each loss: of the network, the token, the grant, the step-up, a memory of contact.
    #[test]
    fn what_is_lost_permits_nothing_more((policy, situation) in both()) {
        let (policy, now) = (policy.build(), situation.build());
        let before = answers(&policy, &now);
        let losses = [
            now.clone().online(false),
            now.clone().token_fresh(false),
            now.clone().grant_rejected(true),
            now.clone().offline_for(None),
            now.clone().signed_in(None),
            now.clone().stepped_up(None),
        ];
        for after in losses {
            assert_within(&answers(&policy, &after), &before)?;
        }
        if situation.state > 3 {
            assert_within(&answers(&policy, &now.clone().reauth_required()), &before)?;
            assert_within(&answers(&policy, &now.offline_stale()), &before)?;
        }
    }

    /// Case 33.
    #[test]
    fn case_33_fewer_grants_never_permit_more((policy, situation) in both(), which in 0..3_usize, later in 0..1_000_000_u64) {
        let policy = policy.build();
        let before = answers(&policy, &situation.build());
        let name = ["a", "b", "c"][which];
        let mut fewer = [(); 4].map(|()| situation.clone());
        fewer[0].scopes.remove(name);
        fewer[1].roles.remove(name);
        fewer[2].grants_age = situation.grants_age.map(|age| age + later);
        fewer[3].grants_age = None;
        for fewer in fewer {
            assert_within(&answers(&policy, &fewer.build()), &before)?;
        }
    }

    /// `Grants::offline_until` shortens, never lengthens.
    #[test]
    fn an_end_set_by_the_server_permits_nothing_more((policy, situation) in both()) {
        let without = SituationSpec { offline_until: None, ..situation.clone() };
        let policy = policy.build();
        assert_within(&answers(&policy, &situation.build()), &answers(&policy, &without.build()))?;
    }

    #[test]
    fn every_denial_has_the_remedy_that_helps_against_it((policy, situation) in both()) {
        let (policy, now) = (policy.build(), situation.build());
        // After contact with the server, a sign-in, and an unlock.
        let connected = now.clone().online(true).token_fresh(true).offline_for(Duration::ZERO).now(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let connected = if situation.state == 4 { connected.state(active()) } else { connected };
        let signed_in = connected.clone().state(active()).grant_rejected(false).signed_in(Duration::ZERO);
        let unlocked = now.clone().stepped_up(Duration::ZERO);
        for capability in CAPABILITIES.into_iter().chain(["unheard of"]) {
            let Err(denial) = now.ask(&policy, capability) else { continue };
            prop_assert_eq!(denial.capability().as_str(), capability);
            prop_assert!(!denial.to_string().is_empty());
            let reason_after = |then: &Situation| then.ask(&policy, capability).map_err(|denial| denial.reason());
            let gone = |then: &Situation| reason_after(then) != Err(denial.reason());
            match denial.remedy() {
                Remedy::Connect if situation.state != 3 && !situation.grant_rejected => prop_assert!(gone(&connected), "{:?}", denial),
                // With a grant that was refused contact alone cannot help against all: the sign-in is contact.
                Remedy::Connect | Remedy::SignIn => prop_assert!(gone(&signed_in), "{:?}", denial),
                Remedy::Unlock => prop_assert!(gone(&unlocked), "{:?}", denial),
                Remedy::ContactAdmin => prop_assert_eq!(denial.reason(), DenyReason::Locked),
                Remedy::None => {
                    let reasons = [DenyReason::MissingGrant, DenyReason::UnknownCapability];
                    prop_assert!(reasons.contains(&denial.reason()), "{:?}", denial);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn every_file_says_what_the_code_says(policy in specs::policy()) {
        let (built, files) = (policy.build(), [OfflinePolicy::from_json(&policy.json()), OfflinePolicy::from_toml(&policy.toml())]);
        let embedded = serde_json::from_str::<OfflinePolicy>(&policy.json());
        prop_assert_eq!(embedded.as_ref().ok(), files[0].as_ref().ok());
        for file in files {
            match file {
                Ok(file) => {
                    prop_assert!(policy.is_complete());
                    prop_assert_eq!(&file, &built, "{}", policy.toml());
                }
                Err(error) => prop_assert!(!policy.is_complete() && error.to_string().contains("a tier without limits"), "{error}\n{}", policy.toml()),
            }
        }
    }

    /// The words of a policy differ where the policies do, but for a rule's way of reading.
    #[test]
    fn a_policy_in_words_names_all_that_it_allows(policy in specs::policy()) {
        let words = policy.build().to_string();
        for capability in policy.rules.keys() {
            let sentence = format!("{capability} is allowed ");
            prop_assert!(words.contains(&sentence), "{}", words);
        }
        prop_assert!(words.contains("is denied."));
        prop_assert_eq!(words.contains("Scopes and roles"), policy.grants_max_age.is_some());
    }

    /// A rule with a condition more permits no more; with a clause more, no less.
    #[test]
    fn conditions_narrow_and_clauses_widen((policy, situation) in both(), which in 0..4_usize) {
        let (built, now) = (policy.build(), situation.build());
        let rule = || Rule::any_of([Rule::new().max_offline(Duration::from_secs(300)), Rule::new().online()]);
        let narrower = [rule().role("a"), rule().token_fresh(), rule().step_up_within(Duration::ZERO), rule().read_only_after_expiry()];
        let wider = Rule::any_of([rule(), narrower[which].clone()]);
        let with = |rule: Rule| answers(&built.clone().rule("jobs.view", rule), &now);
        assert_within(&with(narrower[which].clone()), &with(rule()))?;
        assert_within(&with(rule()), &with(wider))?;
    }
}

fn active() -> AuthState {
    // It can only be had from a session, or from a situation that has not been changed.
    super::alice().with("any", |cx| cx.state().clone())
}
