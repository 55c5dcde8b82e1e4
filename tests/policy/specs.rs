//! Policies and situations as plain data, made at random: for the builder, for files, and for an answer worked out anew.

use super::alice;
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};
use tower_reauth::{
    AuthState, DenyReason, Grants, LockCause, OfflinePolicy, Rule, Sensitivity, SignedOutCause, Situation,
    WhenReauthRequired,
};

pub(super) const CAPABILITIES: [&str; 4] = ["read", "jobs.view", "notes.create", "a b\"\\\u{e9}"];
const TIERS: [(&str, Sensitivity); 3] =
    [("low", Sensitivity::Low), ("medium", Sensitivity::Medium), ("high", Sensitivity::High)];
const WHEN: [(&str, WhenReauthRequired); 3] = [
    ("deny", WhenReauthRequired::Deny),
    ("read_only", WhenReauthRequired::ReadOnly),
    ("as_offline", WhenReauthRequired::AsOffline),
];
/// Few, so that ages meet them.
const LIMITS: [(&str, u64); 6] =
    [("0s", 0), ("1m30s", 90), ("5m", 300), ("12h", 43_200), ("48h", 172_800), ("7d", 604_800)];
const NAMES: [&str; 3] = ["a", "b", "c"];

type Limit = Option<(&'static str, u64)>;

#[derive(Clone, Debug, Default)]
pub(super) struct ClauseSpec {
    max_offline: Limit,
    online: bool,
    token_fresh: bool,
    fresh_within: Limit,
    step_up_within: Limit,
    read_only_after_expiry: bool,
    scopes: BTreeSet<&'static str>,
    roles: BTreeSet<&'static str>,
    pub(super) tier: Option<usize>,
    when: Option<usize>,
    reads: bool,
}

#[derive(Clone, Debug)]
pub(super) struct RuleSpec {
    base: ClauseSpec,
    any_of: Option<Vec<ClauseSpec>>,
}

#[derive(Clone, Debug)]
pub(super) struct PolicySpec {
    pub(super) rules: BTreeMap<&'static str, RuleSpec>,
    pub(super) tiers: [Option<RuleSpec>; 3],
    pub(super) grants_max_age: Limit,
}

#[derive(Clone, Debug)]
pub(super) struct SituationSpec {
    pub(super) state: usize,
    pub(super) online: Option<bool>,
    pub(super) token_fresh: bool,
    pub(super) grant_rejected: bool,
    pub(super) trusted: bool,
    pub(super) offline_for: Option<u64>,
    pub(super) since_auth: Option<u64>,
    pub(super) since_step_up: Option<u64>,
    pub(super) scopes: BTreeSet<&'static str>,
    pub(super) roles: BTreeSet<&'static str>,
    pub(super) grants_age: Option<u64>,
    /// Seconds from now.
    pub(super) offline_until: Option<i64>,
}

// ===== making them =====

fn limit() -> impl Strategy<Value = Limit> {
    option::weighted(0.3, select(&LIMITS[..]))
}

fn names() -> impl Strategy<Value = BTreeSet<&'static str>> {
    prop_oneof![4 => Just(BTreeSet::new()), 1 => proptest::collection::btree_set(select(&NAMES[..]), 1..3)]
}

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.2)
}

// Boxed, or what makes a policy would not fit on the stack of a test.
fn clause(tier: bool) -> BoxedStrategy<ClauseSpec> {
    let times = (limit(), limit(), limit());
    let flags = (rarely(), rarely(), rarely(), prop::bool::weighted(0.3));
    let its_tier = option::weighted(0.3, 0..3_usize);
    (times, flags, names(), names(), its_tier, option::weighted(0.3, 0..3_usize))
        .prop_map(
            move |(times, (online, token_fresh, read_only_after_expiry, reads), scopes, roles, its_tier, when)| {
                ClauseSpec {
                    max_offline: times.0,
                    online,
                    token_fresh,
                    fresh_within: times.1,
                    step_up_within: times.2,
                    read_only_after_expiry,
                    scopes,
                    roles,
                    // The limits of a tier have neither.
                    tier: its_tier.filter(|_| !tier),
                    when,
                    reads: reads && !tier,
                }
            },
        )
        .boxed()
}

fn rule(tier: bool) -> BoxedStrategy<RuleSpec> {
    let several = (prop_oneof![Just(ClauseSpec::default()), clause(tier)], vec(clause(tier), 1..4));
    prop_oneof![
        clause(tier).prop_map(|base| RuleSpec { base, any_of: None }),
        several.prop_map(|(base, any_of)| RuleSpec { base, any_of: Some(any_of) }),
    ]
    .boxed()
}

pub(super) fn policy() -> BoxedStrategy<PolicySpec> {
    let tier = || option::weighted(0.8, rule(true));
    let rules = proptest::collection::btree_map(select(&CAPABILITIES[..]), rule(false), 0..4);
    let policy = (rules, [tier(), tier(), tier()], limit());
    policy.prop_map(|(rules, tiers, grants_max_age)| PolicySpec { rules, tiers, grants_max_age }).boxed()
}

fn age() -> impl Strategy<Value = Option<u64>> {
    let near = (select(&LIMITS[..]), -1..=1_i64).prop_map(|((_, limit), by)| limit.saturating_add_signed(by));
    option::weighted(0.9, near)
}

pub(super) fn situation() -> BoxedStrategy<SituationSpec> {
    let facts = (0..8_usize, option::of(any::<bool>()), any::<bool>(), rarely(), prop::bool::weighted(0.9));
    let grants = proptest::collection::btree_set(select(&NAMES[..]), 0..4);
    let until = option::weighted(0.3, prop_oneof![-200..200_i64, -200_000..200_000_i64]);
    (facts, [age(), age(), age(), age()], grants.clone(), grants, until)
        .prop_map(|((state, online, token_fresh, grant_rejected, trusted), ages, scopes, roles, offline_until)| {
            SituationSpec {
                state,
                online,
                token_fresh,
                grant_rejected,
                trusted,
                offline_for: ages[0],
                since_auth: ages[1],
                since_step_up: ages[2],
                scopes,
                roles,
                grants_age: ages[3],
                offline_until,
            }
        })
        .boxed()
}

// ===== in code =====

impl ClauseSpec {
    fn add_to(&self, mut rule: Rule) -> Rule {
        let seconds = |(_, seconds)| Duration::from_secs(seconds);
        if let Some(limit) = self.max_offline {
            rule = rule.max_offline(seconds(limit));
        }
        if let Some(limit) = self.fresh_within {
            rule = rule.fresh_within(seconds(limit));
        }
        if let Some(limit) = self.step_up_within {
            rule = rule.step_up_within(seconds(limit));
        }
        rule = if self.online { rule.online() } else { rule };
        rule = if self.token_fresh { rule.token_fresh() } else { rule };
        rule = if self.read_only_after_expiry { rule.read_only_after_expiry() } else { rule };
        rule = if self.reads { rule.reads() } else { rule };
        rule = self.scopes.iter().fold(rule, |rule, scope| rule.scope(*scope));
        rule = self.roles.iter().fold(rule, |rule, role| rule.role(*role));
        rule = self.tier.map_or(rule.clone(), |tier| rule.sensitivity(TIERS[tier].1));
        self.when.map_or(rule.clone(), |when| rule.when_reauth_required(WHEN[when].1))
    }

    fn keys(&self) -> Map<String, Value> {
        let mut keys = Map::new();
        let limits = [
            ("max_offline", self.max_offline),
            ("fresh_within", self.fresh_within),
            ("step_up_within", self.step_up_within),
        ];
        for (key, limit) in limits {
            keys.extend(limit.map(|(text, _)| (key.to_owned(), json!(text))));
        }
        let flags = [
            ("online", self.online),
            ("token_fresh", self.token_fresh),
            ("read_only_after_expiry", self.read_only_after_expiry),
            ("reads", self.reads),
        ];
        keys.extend(flags.iter().filter(|(_, there)| *there).map(|(key, _)| ((*key).to_owned(), json!(true))));
        for (key, names) in [("scope", &self.scopes), ("role", &self.roles)] {
            match names.iter().collect::<Vec<_>>().as_slice() {
                [] => {}
                [one] => drop(keys.insert(key.to_owned(), json!(one))),
                several => drop(keys.insert(key.to_owned(), json!(several))),
            }
        }
        keys.extend(self.tier.map(|tier| ("sensitivity".to_owned(), json!(TIERS[tier].0))));
        keys.extend(self.when.map(|when| ("when_reauth_required".to_owned(), json!(WHEN[when].0))));
        keys
    }
}

impl RuleSpec {
    fn to_rule(&self) -> Rule {
        let clauses = self
            .any_of
            .as_ref()
            .map_or(Rule::new(), |clauses| Rule::any_of(clauses.iter().map(|clause| clause.add_to(Rule::new()))));
        self.base.add_to(clauses)
    }

    fn keys(&self) -> Map<String, Value> {
        let mut keys = self.base.keys();
        let clauses = self.any_of.as_ref();
        keys.extend(clauses.map(|clauses| ("any_of".to_owned(), clauses.iter().map(ClauseSpec::keys).collect())));
        keys
    }

    fn names_a_tier_without(&self, tiers: &[Option<Self>; 3]) -> bool {
        let missing = |clause: &ClauseSpec| clause.tier.is_some_and(|tier| tiers[tier].is_none());
        missing(&self.base) || self.any_of.iter().flatten().any(missing)
    }
}

impl PolicySpec {
    pub(super) fn build(&self) -> OfflinePolicy {
        let mut policy = OfflinePolicy::new();
        for (capability, rule) in &self.rules {
            policy = policy.rule(*capability, rule.to_rule());
        }
        for (limits, (_, tier)) in self.tiers.iter().zip(TIERS) {
            policy = limits.iter().fold(policy, |policy, limits| policy.tier(tier, limits.to_rule()));
        }
        match self.grants_max_age {
            Some((_, limit)) => policy.grants_max_age(Duration::from_secs(limit)),
            None => policy,
        }
    }

    /// A file with a tier that is named and has no limits is wrong.
    pub(super) fn is_complete(&self) -> bool {
        !self.rules.values().any(|rule| rule.names_a_tier_without(&self.tiers))
    }

    pub(super) fn json(&self) -> String {
        let mut top = Map::new();
        top.insert("capabilities".to_owned(), self.rules.iter().map(|(name, rule)| (*name, rule.keys())).collect());
        let tiers =
            self.tiers.iter().zip(TIERS).filter_map(|(limits, (name, _))| Some((name, limits.as_ref()?.keys())));
        top.insert("tiers".to_owned(), tiers.collect());
        top.extend(self.grants_max_age.map(|(text, _)| ("grants_max_age".to_owned(), json!(text))));
        serde_json::to_string_pretty(&top).unwrap()
    }

    pub(super) fn toml(&self) -> String {
        let mut text = String::new();
        if let Some((limit, _)) = self.grants_max_age {
            text += &format!("grants_max_age = {limit:?}\n");
        }
        let tiers =
            self.tiers.iter().zip(TIERS).filter_map(|(limits, (name, _))| Some(("tiers", name, limits.as_ref()?)));
        let rules = self.rules.iter().map(|(name, rule)| ("capabilities", *name, rule));
        for (table, name, rule) in rules.chain(tiers) {
            text += &format!("\n[{table}.{}]\n", json!(name));
            for (key, value) in rule.keys() {
                text += &format!("{key} = {}\n", inline(&value));
            }
        }
        text
    }
}

/// TOML's inline form: that of JSON, but for the keys of tables.
fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(keys) => {
            let pairs = keys.iter().map(|(key, value)| format!("{key} = {}", inline(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

impl SituationSpec {
    fn end(&self, now: SystemTime) -> Option<SystemTime> {
        self.offline_until.map(|by| match by {
            0.. => now + Duration::from_secs(by.unsigned_abs()),
            _ => now - Duration::from_secs(by.unsigned_abs()),
        })
    }

    pub(super) fn build(&self) -> Situation {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let seconds = |age: Option<u64>| age.map(Duration::from_secs);
        let mut grants = self.scopes.iter().fold(Grants::new(), |grants, scope| grants.scope(*scope));
        grants = self.roles.iter().fold(grants, |grants, role| grants.role(*role));
        grants = self.end(now).into_iter().fold(grants, Grants::offline_until);
        let mut situation = alice().now(now);
        situation = match self.state {
            0 => situation.state(AuthState::SignedOut(SignedOutCause::Never)),
            1 => situation.state(AuthState::SignedOut(SignedOutCause::Here)),
            2 => situation.state(AuthState::Locked(LockCause::AccountDisabled)),
            3 => situation.reauth_required(),
            4 => situation.offline_stale(),
            _ => situation,
        };
        situation = situation
            .online(self.online)
            .token_fresh(self.token_fresh)
            .grant_rejected(self.grant_rejected)
            .offline_for(seconds(self.offline_for))
            .signed_in(seconds(self.since_auth))
            .stepped_up(seconds(self.since_step_up))
            .grants(grants)
            .grants_age(seconds(self.grants_age));
        if self.trusted { situation } else { situation.clock_untrusted() }
    }
}

// ===== the answer, worked out anew =====

/// As SEMANTICS §5 has it, read plainly: no order of evaluation, no shared code.
pub(super) fn answer(policy: &PolicySpec, now: &SituationSpec, capability: &str) -> Result<(), DenyReason> {
    use DenyReason::{
        ClockUntrusted, Locked, MissingGrant, NeverAuthenticated, OfflineWindowExpired, OnlineRequired, ReadOnly,
        ReauthRequired, SignedOut, StepUpRequired, UnknownCapability,
    };
    match now.state {
        0 => return Err(NeverAuthenticated),
        1 => return Err(SignedOut),
        2 => return Err(Locked),
        _ => {}
    }
    let must_sign_in = now.state == 3;
    let rejected = must_sign_in || now.grant_rejected;
    let online = now.online != Some(false);
    let aged = |limit: Limit, age: Option<u64>, reason| match (limit, age) {
        (None, _) => None,
        _ if !now.trusted => Some(ClockUntrusted),
        (Some((_, limit)), Some(age)) if age <= limit => None,
        _ => Some(reason),
    };
    // `limits_of`: whether the clause whose tier it is only reads.
    let clause_fails = |base: &ClauseSpec, own: &ClauseSpec, online_by_tier: bool, limits_of: Option<bool>| {
        let shorter = |a: Limit, b: Limit| a.into_iter().chain(b).min_by_key(|(_, seconds)| *seconds);
        let reads = limits_of.unwrap_or(base.reads || own.reads || capability == "read");
        let asks_online = base.online || own.online || online_by_tier;
        let when = base.when.into_iter().chain(own.when).min();
        let mut fails = Vec::new();
        if must_sign_in {
            match when {
                Some(0) => fails.push(ReauthRequired),
                Some(1) if !reads => fails.push(ReadOnly),
                None if !reads && limits_of.is_none() => fails.push(ReauthRequired),
                _ => {}
            }
        }
        if let Some(end) = now.offline_until.filter(|_| !asks_online && limits_of.is_none()) {
            // The last answer came `offline_for` ago, the end was `-end` ago.
            let renewed = now.offline_for.is_some_and(|ago| -i128::from(ago) > i128::from(end));
            match () {
                () if !now.trusted => fails.push(ClockUntrusted),
                () if end >= 0 || (renewed && online && now.token_fresh && !rejected) => {}
                () => fails.push(OfflineWindowExpired),
            }
        }
        fails.extend(aged(shorter(base.max_offline, own.max_offline), now.offline_for, OfflineWindowExpired));
        if (base.online || own.online) && (rejected || !online) {
            fails.push(if rejected { ReauthRequired } else { OnlineRequired });
        }
        if (base.token_fresh || own.token_fresh) && (rejected || !now.token_fresh) {
            fails.push(if rejected { ReauthRequired } else { OnlineRequired });
        }
        fails.extend(aged(shorter(base.fresh_within, own.fresh_within), now.since_auth, ReauthRequired));
        fails.extend(aged(shorter(base.step_up_within, own.step_up_within), now.since_step_up, StepUpRequired));
        let cannot_renew = !online || now.state == 4 || rejected;
        if (base.read_only_after_expiry || own.read_only_after_expiry) && !reads && !now.token_fresh && cannot_renew {
            fails.push(ReadOnly);
        }
        let scopes: BTreeSet<_> = base.scopes.union(&own.scopes).copied().collect();
        let roles: BTreeSet<_> = base.roles.union(&own.roles).copied().collect();
        if !scopes.is_subset(&now.scopes) || !roles.is_subset(&now.roles) {
            fails.push(MissingGrant);
        }
        if !(scopes.is_empty() && roles.is_empty()) {
            fails.extend(aged(policy.grants_max_age, now.grants_age, MissingGrant));
        }
        fails
    };
    let one = [ClauseSpec::default()];
    let clauses = |rule: &RuleSpec| rule.any_of.clone().unwrap_or(one.to_vec());
    let rule = policy.rules.get(capability).ok_or(UnknownCapability)?;
    let mut last = Err(UnknownCapability);
    for own in clauses(rule) {
        let reads = rule.base.reads || own.reads || capability == "read";
        let tiers: BTreeSet<_> = rule.base.tier.into_iter().chain(own.tier).collect();
        let tier_is_online = tiers.iter().any(|tier| {
            let limits = policy.tiers[*tier].as_ref();
            limits.is_some_and(|limits| limits.base.online || clauses(limits).iter().all(|clause| clause.online))
        });
        let mut fails = clause_fails(&rule.base, &own, tier_is_online, None);
        for tier in tiers {
            let Some(limits) = &policy.tiers[tier] else {
                fails.push(UnknownCapability);
                continue;
            };
            let failed: Vec<_> =
                clauses(limits).iter().map(|own| clause_fails(&limits.base, own, false, Some(reads))).collect();
            if failed.iter().all(|fails| !fails.is_empty()) {
                fails.push(failed.last().map_or(UnknownCapability, |fails| fails[0]));
            }
        }
        match fails.first() {
            None => return Ok(()),
            Some(reason) => last = Err(*reason),
        }
    }
    last
}
