//! The built-in gate: what it answers, what it says about it, and what it reads.
#![cfg(feature = "test-util")]

#[path = "policy/conditions.rs"]
mod conditions;
#[path = "policy/explain.rs"]
mod explain;
#[path = "policy/field_service.rs"]
mod field_service;
#[path = "policy/files.rs"]
mod files;
#[path = "policy/mutations.rs"]
mod mutations;
#[path = "support/policy_probe.rs"]
mod policy_probe;
#[path = "policy/properties.rs"]
mod properties;
#[path = "policy/specs.rs"]
mod specs;

use std::time::Duration;
use tower_reauth::{DenyReason, OfflinePolicy, Rule, Situation};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// What the policy answers; a denial carries the capability, and the remedy of its reason.
fn ask(policy: &OfflinePolicy, situation: &Situation, capability: &'static str) -> Result<(), DenyReason> {
    situation.ask(policy, capability).map_err(|denial| {
        assert_eq!(denial.capability().as_str(), capability);
        assert_eq!(denial.remedy(), denial.reason().remedy());
        denial.reason()
    })
}

/// What a policy of this one rule answers.
fn rule(rule: Rule, situation: &Situation) -> Result<(), DenyReason> {
    ask(&OfflinePolicy::new().rule("act", rule), situation, "act")
}

fn alice() -> Situation {
    Situation::new("alice")
}
