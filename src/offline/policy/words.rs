//! A policy in plain words.

use super::{OfflinePolicy, Rule, Sensitivity, WhenReauthRequired, decide::Condition};
use crate::denial::Capability;
use std::{fmt, time::Duration};

/// When it allows: `online and with a fresh token; or at most 5 min without the server`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.clauses.is_empty() {
            return f.write_str("never");
        }
        for (number, clause) in self.clauses.iter().enumerate() {
            if number > 0 {
                f.write_str("; or ")?;
            }
            let mut word = "";
            clause.conditions(clause.when_reauth_required, None, None, |condition| {
                write!(f, "{}{condition}", std::mem::replace(&mut word, " and "))
            })?;
            if word.is_empty() {
                f.write_str("always")?;
            }
            if clause.reads {
                f.write_str(" (it changes nothing)")?;
            }
        }
        Ok(())
    }
}

/// A sentence per capability, in the order of their names, and what holds for all of them. One sentence a line.
impl fmt::Display for OfflinePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            f.write_str("Everything is denied.")?;
        } else {
            for (capability, rule) in &self.rules {
                match capability == Capability::READ.as_str() {
                    true => writeln!(f, "{capability} is allowed {}.", rule.clone().reads())?,
                    false => writeln!(f, "{capability} is allowed {rule}.")?,
                }
            }
            f.write_str("Everything else is denied.\n")?;
            f.write_str("Once the user has to sign in again, what changes nothing goes on and the rest is denied, ")?;
            f.write_str("unless its sentence says otherwise.")?;
        }
        for tier in Sensitivity::ALL {
            if let Some(limits) = &self.tiers[tier as usize] {
                write!(f, "\nThe limits of the tier {tier}: {limits}.")?;
            }
        }
        match self.grants_max_age {
            Some(limit) => write!(f, "\nScopes and roles that are older than {} count as missing.", Span(limit)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Sensitivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WhenReauthRequired(WhenReauthRequired::Deny) => f.write_str("not once the user has to sign in again"),
            Self::WhenReauthRequired(WhenReauthRequired::ReadOnly) => {
                f.write_str("for reading only once the user has to sign in again")
            }
            Self::WhenReauthRequired(WhenReauthRequired::AsOffline) => {
                f.write_str("also once the user has to sign in again")
            }
            Self::OfflineUntil(_) => f.write_str("before the server's own end of offline use"),
            Self::MaxOffline(limit) => write!(f, "at most {} without the server", Span(*limit)),
            Self::Online => f.write_str("online"),
            Self::TokenFresh => f.write_str("with a fresh token"),
            Self::FreshWithin(limit) => write!(f, "at most {} after the sign-in", Span(*limit)),
            Self::StepUpWithin(limit) => write!(f, "at most {} after an unlock", Span(*limit)),
            Self::ReadOnlyAfterExpiry => f.write_str("for reading only once the token is spent and cannot be renewed"),
            Self::Scope(scope) => write!(f, "with the scope `{scope}`"),
            Self::Role(role) => write!(f, "with the role `{role}`"),
            Self::GrantsMaxAge(limit) => write!(f, "with scopes and roles at most {} old", Span(*limit)),
            Self::Sensitivity(tier) => write!(f, "within the limits of the tier {tier}"),
        }
    }
}

/// A length of time as people say it: `2 d 3 h`, `48 h`, `5 min`.
#[derive(Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl Span {
    /// In milliseconds, with their names.
    const UNITS: [(u128, &'static str); 5] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];

    /// From the largest that it has on. Two days are `48 h`, as in most policies.
    fn units(self) -> impl Iterator<Item = (u128, &'static str)> {
        let millis = self.0.as_millis();
        let first = if millis <= 48 * 3_600_000 { 1 } else { 0 };
        Self::UNITS.into_iter().skip(first).skip_while(move |(unit, _)| *unit > millis)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rest, mut space) = (self.0.as_millis(), "");
        for (unit, name) in self.units() {
            if rest >= unit {
                write!(f, "{space}{} {name}", rest / unit)?;
                space = " ";
            }
            rest %= unit;
        }
        if space.is_empty() { f.write_str("0 s") } else { Ok(()) }
    }
}

/// How long it has been, in the two largest units, beside what is allowed: never in the same words if it is longer.
pub(super) struct Lapse(pub(super) Duration, pub(super) Duration);

impl fmt::Display for Lapse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(lapse, limit) = *self;
        let small = Span(lapse).units().nth(1).map_or(1, |(unit, _)| unit / 1_000).max(1);
        let seconds = u128::from(lapse.as_secs()) / small * small;
        let told = Duration::from_secs(seconds.try_into().unwrap_or(u64::MAX));
        match lapse > limit && told <= limit {
            true => write!(f, "just over {}", Span(limit)),
            false => Span(told).fmt(f),
        }
    }
}
