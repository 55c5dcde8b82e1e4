//! Why a decision fell: the same conditions as in `decide`, all of them, with the numbers.

use super::{
    OfflinePolicy, Rule,
    decide::{Condition, Part, renewed_after},
    words::{Lapse, Span},
};
use crate::{
    denial::{Capability, Denial, DenyReason},
    offline::{GateContext, standing},
    state::AuthState,
};
use std::{convert::Infallible, fmt, time::Duration};

/// Why a policy allows or denies a capability at one moment; made by [`OfflinePolicy::explain`].
///
/// Its `Display` is for people: the answer, and below it each condition of each clause.
///
/// ```
/// # #[cfg(feature = "test-util")] {
/// use std::time::Duration;
/// use tower_reauth::{DenyReason, Explanation, OfflinePolicy, Rule, Situation};
///
/// const HOUR: Duration = Duration::from_secs(3600);
/// let policy = OfflinePolicy::new().rule("notes.create", Rule::new().max_offline(48 * HOUR));
/// let away = Situation::new("alice").online(false).offline_for(51 * HOUR);
/// let why: Explanation = away.with("notes.create", |cx| policy.explain(cx));
///
/// assert_eq!(why.decision().unwrap_err().reason(), DenyReason::OfflineWindowExpired);
/// let failed: Vec<_> = why.clauses()[0].iter().filter(|finding| !finding.holds()).collect();
/// assert_eq!(failed[0].to_string(), "offline for 2 d 3 h, allowed 48 h");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    capability: Capability,
    denied: Option<DenyReason>,
    clauses: Vec<Vec<Finding>>,
}

/// One condition of a clause, and whether it holds. Its `Display` has the numbers: `offline for 2 d 3 h, allowed 48 h`.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    failed: Option<DenyReason>,
    text: String,
    limits: Vec<Vec<Self>>,
}

impl Explanation {
    pub(super) fn of(policy: &OfflinePolicy, cx: &GateContext<'_>) -> Self {
        let capability = cx.capability().clone();
        let (denied, clauses) = match (standing(cx.state()), policy.rules.get(capability.as_str())) {
            (Some(reason), _) => (Some(reason), Vec::new()),
            (None, None) => (Some(DenyReason::UnknownCapability), Vec::new()),
            (None, Some(rule)) => policy.clauses(rule, Part::Rule, cx),
        };
        Self { capability, denied, clauses }
    }

    /// What was asked for.
    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    /// What the policy answers: always as [`check`](crate::OfflineGate::check) does.
    ///
    /// # Errors
    /// The denial.
    pub fn decision(&self) -> Result<(), Denial> {
        self.denied.map_or(Ok(()), |reason| Err(Denial::new(self.capability.clone(), reason)))
    }

    /// The conditions of each clause of the capability's rule, in the order in which they give the reason. Empty if no
    /// rule was asked: nobody is signed in, or no rule names the capability.
    pub fn clauses(&self) -> &[Vec<Finding>] {
        &self.clauses
    }
}

impl Finding {
    /// Whether the condition holds.
    pub fn holds(&self) -> bool {
        self.failed.is_none()
    }

    /// Why not.
    pub fn reason(&self) -> Option<DenyReason> {
        self.failed
    }

    /// For the limits of a tier: their clauses.
    pub fn limits(&self) -> &[Vec<Self>] {
        &self.limits
    }
}

impl OfflinePolicy {
    /// What each clause found, and what follows for the rule.
    fn clauses(&self, rule: &Rule, part: Part, cx: &GateContext<'_>) -> (Option<DenyReason>, Vec<Vec<Finding>>) {
        let mut clauses = Vec::with_capacity(rule.clauses.len());
        for clause in &rule.clauses {
            let (mut findings, reads) = (Vec::new(), clause.reads(part, cx));
            let Ok(()) = self.conditions(clause, part, cx, |condition| {
                findings.push(self.finding(condition, reads, cx));
                Ok::<_, Infallible>(())
            });
            clauses.push(findings);
        }
        let first_failure = |clause: &Vec<Finding>| clause.iter().find_map(Finding::reason);
        let denied = match clauses.iter().any(|clause| first_failure(clause).is_none()) {
            true => None,
            false => Some(clauses.last().and_then(first_failure).unwrap_or(DenyReason::UnknownCapability)),
        };
        (denied, clauses)
    }

    fn finding(&self, condition: Condition<'_>, reads: bool, cx: &GateContext<'_>) -> Finding {
        let failed = self.judge(condition, reads, cx).err();
        let mut limits = Vec::new();
        if let Condition::Sensitivity(tier) = condition
            && let Some(rule) = self.limits(tier)
        {
            limits = self.clauses(rule, Part::Limits { reads }, cx).1;
        }
        Finding { failed, text: self.found(condition, failed.is_none(), reads, cx), limits }
    }

    fn found(&self, condition: Condition<'_>, holds: bool, reads: bool, cx: &GateContext<'_>) -> String {
        let rejected = matches!(cx.state(), AuthState::ReauthRequired(_)) || cx.grant_rejected();
        let lapse = |age: Option<Duration>, limit: Duration, [before, after]: [&str; 2], never: &str| {
            let allowed = Span(limit);
            match (cx.now(), age) {
                (None, _) => format!("the clock cannot be trusted, allowed {allowed}"),
                (_, None) => format!("{never}, allowed {allowed}"),
                (_, Some(age)) => format!("{before} {}{after}, allowed {allowed}", Lapse(age, limit)),
            }
        };
        let either = |yes: &str, no: &str| if holds { yes.to_owned() } else { no.to_owned() };
        match condition {
            Condition::WhenReauthRequired(_) if !matches!(cx.state(), AuthState::ReauthRequired(_)) => {
                "the user need not sign in again".to_owned()
            }
            Condition::WhenReauthRequired(_) => match (holds, reads) {
                (true, true) => "the user has to sign in again, but this changes nothing",
                (true, false) => "the user has to sign in again, which is allowed here",
                (false, _) => "the user has to sign in again",
            }
            .to_owned(),
            Condition::OfflineUntil(end) => match cx.now() {
                None => "the clock cannot be trusted, and the server has set an end of offline use".to_owned(),
                Some(now) => match (now.duration_since(end), end.duration_since(now)) {
                    (_, Ok(left)) => format!("the server's end of offline use comes in {}", Span(left)),
                    (Ok(over), _) if holds => {
                        format!(
                            "the server's end of offline use was {} ago, and it has renewed the session",
                            Span(over)
                        )
                    }
                    (Ok(over), _) if renewed_after(end, cx) => {
                        let why = "it has renewed the session, but this is offline use";
                        format!("the server's end of offline use was {} ago; {why}", Span(over))
                    }
                    (Ok(over), _) => format!("the server's end of offline use was {} ago", Span(over)),
                    (Err(_), Err(_)) => String::new(), // one of them is earlier
                },
            },
            Condition::MaxOffline(limit) => {
                lapse(cx.offline_for(), limit, ["offline for", ""], "nobody knows when the server last answered")
            }
            Condition::Online | Condition::TokenFresh if rejected => "the refresh token was refused".to_owned(),
            Condition::Online => match cx.online() {
                None => "nothing is known of the network, which counts as online".to_owned(),
                Some(_) => either("online", "offline"),
            },
            Condition::TokenFresh => either("the token is fresh", "the token is spent"),
            Condition::FreshWithin(limit) => {
                lapse(cx.since_auth(), limit, ["signed in", " ago"], "nobody knows when the user signed in")
            }
            Condition::StepUpWithin(limit) => lapse(cx.since_step_up(), limit, ["unlocked", " ago"], "not unlocked"),
            Condition::ReadOnlyAfterExpiry => match (holds, cx.token_fresh(), reads) {
                (true, true, _) => "the token is fresh",
                (true, false, true) => "this changes nothing",
                (true, false, false) => "the token is spent, but may be renewed",
                (false, _, _) => "the token is spent and cannot be renewed now: reading only",
            }
            .to_owned(),
            Condition::Scope(scope) => format!("the scope `{scope}` is {}", either("there", "missing")),
            Condition::Role(role) => format!("the role `{role}` is {}", either("there", "missing")),
            Condition::GrantsMaxAge(limit) => {
                let never = "nobody knows how old scopes and roles are";
                lapse(cx.grants_age(), limit, ["scopes and roles are", " old"], never)
            }
            Condition::Sensitivity(tier) => match self.limits(tier) {
                Some(_) => format!("the limits of the tier {tier} {}", either("hold", "do not hold")),
                None if self.tiers[tier as usize].is_some() => {
                    format!("the limits of the tier {tier} name a tier themselves")
                }
                None => format!("the tier {tier} has no limits"),
            },
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decision() {
            Ok(()) => write!(f, "{} is allowed", self.capability)?,
            Err(denial) => write!(f, "{denial}")?,
        }
        list(f, &self.clauses, 1)
    }
}

fn list(f: &mut fmt::Formatter<'_>, clauses: &[Vec<Finding>], depth: usize) -> fmt::Result {
    for (number, clause) in clauses.iter().enumerate() {
        let several = clauses.len() > 1;
        if several {
            write!(f, "\n{:indent$}{}", "", if number == 0 { "either" } else { "or" }, indent = 2 * depth)?;
        }
        for finding in clause {
            let word = if finding.holds() { "holds" } else { "fails" };
            let depth = depth + usize::from(several);
            write!(f, "\n{:indent$}{word}: {finding}", "", indent = 2 * depth)?;
            list(f, &finding.limits, depth + 1)?;
        }
    }
    Ok(())
}
