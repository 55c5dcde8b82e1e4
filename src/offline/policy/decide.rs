//! Whether a rule holds, and if not, why. What permits allocates nothing.

use super::{super::standing, Clause, OfflinePolicy, Rule, Sensitivity, WhenReauthRequired};
use crate::{
    denial::{Capability, DenyReason},
    offline::GateContext,
    state::AuthState,
};
use std::time::{Duration, SystemTime};

/// One condition of a clause.
#[derive(Clone, Copy, Debug)]
pub(super) enum Condition<'a> {
    WhenReauthRequired(WhenReauthRequired),
    /// The server's own end of offline use.
    OfflineUntil(SystemTime),
    MaxOffline(Duration),
    Online,
    TokenFresh,
    FreshWithin(Duration),
    StepUpWithin(Duration),
    ReadOnlyAfterExpiry,
    Scope(&'a str),
    Role(&'a str),
    GrantsMaxAge(Duration),
    Sensitivity(Sensitivity),
}

/// Whose clause is asked, and what it inherits.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Rule,
    /// The limits of a tier, for a clause that only reads or not.
    Limits {
        reads: bool,
    },
}

impl OfflinePolicy {
    pub(super) fn decide(&self, cx: &GateContext<'_>) -> Result<(), DenyReason> {
        if let Some(reason) = standing(cx.state()) {
            return Err(reason);
        }
        let rule = self.rules.get(cx.capability().as_str()).ok_or(DenyReason::UnknownCapability)?;
        self.any_clause(rule, Part::Rule, cx)
    }

    fn any_clause(&self, rule: &Rule, part: Part, cx: &GateContext<'_>) -> Result<(), DenyReason> {
        let mut answer = Err(DenyReason::UnknownCapability);
        for clause in &rule.clauses {
            answer = self.clause(clause, part, cx);
            if answer.is_ok() {
                break;
            }
        }
        answer
    }

    fn clause(&self, clause: &Clause, part: Part, cx: &GateContext<'_>) -> Result<(), DenyReason> {
        let reads = clause.reads(part, cx);
        self.conditions(clause, part, cx, |condition| self.judge(condition, reads, cx))
    }

    /// Shows the conditions of a clause to `see`, in the order in which they give the reason, until it fails.
    #[inline]
    pub(super) fn conditions<'a, E>(
        &self,
        clause: &'a Clause,
        part: Part,
        cx: &GateContext<'_>,
        see: impl FnMut(Condition<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (when, until) = match part {
            Part::Rule => {
                let when = clause.when_reauth_required.unwrap_or(match clause.reads(part, cx) {
                    true => WhenReauthRequired::AsOffline,
                    false => WhenReauthRequired::Deny,
                });
                // It ends offline use, not online use.
                (Some(when), cx.offline_until().filter(|_| !self.asks_for_online(clause)))
            }
            // The clause has been asked already: limits say only what they say themselves.
            Part::Limits { .. } => (clause.when_reauth_required, None),
        };
        clause.conditions(when, until, self.grants_max_age, see)
    }

    pub(super) fn judge(&self, condition: Condition<'_>, reads: bool, cx: &GateContext<'_>) -> Result<(), DenyReason> {
        use DenyReason::{
            ClockUntrusted, MissingGrant, OfflineWindowExpired, OnlineRequired, ReadOnly, ReauthRequired,
            StepUpRequired, UnknownCapability,
        };
        let must_sign_in = matches!(cx.state(), AuthState::ReauthRequired(_));
        let rejected = must_sign_in || cx.grant_rejected();
        let online = cx.online() != Some(false);
        let within = |age: Option<Duration>, limit, reason| match cx.now() {
            None => Err(ClockUntrusted),
            Some(_) => holds(age.is_some_and(|age| age <= limit), reason),
        };
        match condition {
            Condition::WhenReauthRequired(_) if !must_sign_in => Ok(()),
            Condition::WhenReauthRequired(WhenReauthRequired::AsOffline) => Ok(()),
            Condition::WhenReauthRequired(WhenReauthRequired::ReadOnly) => holds(reads, ReadOnly),
            Condition::WhenReauthRequired(WhenReauthRequired::Deny) => Err(ReauthRequired),
            Condition::OfflineUntil(end) => match cx.now() {
                None => Err(ClockUntrusted),
                Some(now) if now <= end => Ok(()),
                Some(_) => {
                    let healed = online && cx.token_fresh() && !rejected && renewed_after(end, cx);
                    holds(healed, OfflineWindowExpired)
                }
            },
            Condition::MaxOffline(limit) => within(cx.offline_for(), limit, OfflineWindowExpired),
            // Where the grant is gone, reaching the server would not help.
            Condition::Online | Condition::TokenFresh if rejected => Err(ReauthRequired),
            Condition::Online => holds(online, OnlineRequired),
            Condition::TokenFresh => holds(cx.token_fresh(), OnlineRequired),
            Condition::FreshWithin(limit) => within(cx.since_auth(), limit, ReauthRequired),
            Condition::StepUpWithin(limit) => within(cx.since_step_up(), limit, StepUpRequired),
            Condition::ReadOnlyAfterExpiry => {
                let stale = matches!(cx.state(), AuthState::OfflineStale { .. });
                holds(reads || cx.token_fresh() || (online && !stale && !rejected), ReadOnly)
            }
            Condition::Scope(scope) => holds(cx.has_scope(scope), MissingGrant),
            Condition::Role(role) => holds(cx.has_role(role), MissingGrant),
            Condition::GrantsMaxAge(limit) => within(cx.grants_age(), limit, MissingGrant),
            Condition::Sensitivity(tier) => match self.limits(tier) {
                Some(limits) => self.any_clause(limits, Part::Limits { reads }, cx),
                None => Err(UnknownCapability),
            },
        }
    }

    /// The limits of a tier, unless they name a tier themselves.
    pub(super) fn limits(&self, tier: Sensitivity) -> Option<&Rule> {
        let limits = self.tiers[tier as usize].as_ref()?;
        limits.clauses.iter().all(|clause| clause.tiers.is_empty()).then_some(limits)
    }

    /// By itself, or by whichever limits of one of its tiers.
    fn asks_for_online(&self, clause: &Clause) -> bool {
        let tier_does = |tier: &Sensitivity| {
            self.limits(*tier).is_some_and(|limits| limits.clauses.iter().all(|clause| clause.online))
        };
        clause.online || clause.tiers.iter().any(tier_does)
    }
}

impl Clause {
    #[inline]
    pub(super) fn conditions<'a, E>(
        &'a self,
        when: Option<WhenReauthRequired>,
        until: Option<SystemTime>,
        grants_max_age: Option<Duration>,
        mut see: impl FnMut(Condition<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut see_if = |condition: Option<Condition<'a>>| condition.map_or(Ok(()), &mut see);
        see_if(when.map(Condition::WhenReauthRequired))?;
        see_if(until.map(Condition::OfflineUntil))?;
        see_if(self.max_offline.map(Condition::MaxOffline))?;
        see_if(self.online.then_some(Condition::Online))?;
        see_if(self.token_fresh.then_some(Condition::TokenFresh))?;
        see_if(self.fresh_within.map(Condition::FreshWithin))?;
        see_if(self.step_up_within.map(Condition::StepUpWithin))?;
        see_if(self.read_only_after_expiry.then_some(Condition::ReadOnlyAfterExpiry))?;
        self.scopes.iter().try_for_each(|scope| see_if(Some(Condition::Scope(scope))))?;
        self.roles.iter().try_for_each(|role| see_if(Some(Condition::Role(role))))?;
        let grants = !(self.scopes.is_empty() && self.roles.is_empty());
        see_if(grants_max_age.filter(|_| grants).map(Condition::GrantsMaxAge))?;
        self.tiers.iter().try_for_each(|tier| see_if(Some(Condition::Sensitivity(*tier))))
    }

    /// Whether it stands for something that changes nothing.
    pub(super) fn reads(&self, part: Part, cx: &GateContext<'_>) -> bool {
        match part {
            Part::Rule => self.reads || cx.capability() == &Capability::READ,
            Part::Limits { reads } => reads,
        }
    }
}

fn holds(it_does: bool, or_else: DenyReason) -> Result<(), DenyReason> {
    if it_does { Ok(()) } else { Err(or_else) }
}

/// Whether the server has answered with tokens after `end`.
pub(super) fn renewed_after(end: SystemTime, cx: &GateContext<'_>) -> bool {
    let last = cx.now().zip(cx.offline_for()).and_then(|(now, ago)| now.checked_sub(ago));
    last.is_some_and(|last| last > end)
}
