//! The built-in gate: a rule per capability, in code or from a file. It decides by what it is given, and does nothing else.

mod decide;
mod document;
mod embedded;
mod explain;
mod read;
mod words;

pub use explain::{Explanation, Finding};

use super::{GateContext, OfflineGate};
use crate::{
    denial::{Capability, Denial},
    error::AuthError,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How much harm a capability can do; each tier has limits of its own, see [`OfflinePolicy::tier`].
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::{OfflinePolicy, Rule, Sensitivity};
///
/// let policy = OfflinePolicy::new()
///     .rule("jobs.bill", Rule::new().sensitivity(Sensitivity::High))
///     .tier(Sensitivity::High, Rule::new().online().step_up_within(Duration::from_secs(300)));
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Sensitivity {
    /// A nuisance.
    Low,
    /// A loss.
    Medium,
    /// A danger.
    High,
}

impl Sensitivity {
    const ALL: [Self; 3] = [Self::Low, Self::Medium, Self::High];
}

/// What a capability may do once the user has to sign in again: in the state `ReauthRequired`.
///
/// Without it, what only reads goes on as offline, and all else is denied.
///
/// ```
/// use tower_reauth::{Rule, WhenReauthRequired};
///
/// let rule = Rule::new().when_reauth_required(WhenReauthRequired::AsOffline);
/// assert_eq!(rule.to_string(), "also once the user has to sign in again");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenReauthRequired {
    /// Nothing: [`ReauthRequired`](crate::DenyReason::ReauthRequired).
    Deny,
    /// What only reads goes on as offline; all else is [`ReadOnly`](crate::DenyReason::ReadOnly).
    ReadOnly,
    /// Whatever the other conditions allow.
    AsOffline,
}

impl WhenReauthRequired {
    fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Deny, _) | (_, Self::Deny) => Self::Deny,
            (Self::ReadOnly, _) | (_, Self::ReadOnly) => Self::ReadOnly,
            (Self::AsOffline, Self::AsOffline) => Self::AsOffline,
        }
    }
}

/// When a capability is allowed: a clause, all of whose conditions must hold, or any of several clauses.
///
/// Each method adds its condition to every clause that the rule has by then. Of a condition that is said twice, the
/// stricter holds; scopes, roles and tiers add up. Bounds are inclusive. If no clause holds, the last one's first failing
/// condition gives the reason, in the order of the methods below.
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::Rule;
///
/// const MINUTE: Duration = Duration::from_secs(60);
/// // Online with a fresh token, or out of reach for five minutes; either way only with the role.
/// let complete =
///     Rule::any_of([Rule::new().online().token_fresh(), Rule::new().max_offline(5 * MINUTE)]).role("technician");
/// assert_eq!(
///     complete.to_string(),
///     "online and with a fresh token and with the role `technician`; \
///      or at most 5 min without the server and with the role `technician`"
/// );
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    clauses: Vec<Clause>,
}

/// All of these must hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Clause {
    max_offline: Option<Duration>,
    online: bool,
    token_fresh: bool,
    fresh_within: Option<Duration>,
    step_up_within: Option<Duration>,
    read_only_after_expiry: bool,
    scopes: BTreeSet<String>,
    roles: BTreeSet<String>,
    tiers: BTreeSet<Sensitivity>,
    when_reauth_required: Option<WhenReauthRequired>,
    reads: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Self::new()
    }
}

impl Rule {
    /// A clause without conditions: it holds for whoever is signed in.
    pub fn new() -> Self {
        Self { clauses: vec![Clause::default()] }
    }

    /// One clause of one of these rules must hold; without any, nothing is allowed.
    pub fn any_of(rules: impl IntoIterator<Item = Self>) -> Self {
        Self { clauses: rules.into_iter().flat_map(|rule| rule.clauses).collect() }
    }

    fn each(mut self, add: impl Fn(&mut Clause)) -> Self {
        self.clauses.iter_mut().for_each(add);
        self
    }

    /// At most this long since the last token response; see [`GateContext::offline_for`].
    pub fn max_offline(self, limit: Duration) -> Self {
        self.each(|clause| shorten(&mut clause.max_offline, limit))
    }

    /// Online, as far as is known, and the refresh token was not refused.
    pub fn online(self) -> Self {
        self.each(|clause| clause.online = true)
    }

    /// With a token that is not spent, and the refresh token was not refused.
    pub fn token_fresh(self) -> Self {
        self.each(|clause| clause.token_fresh = true)
    }

    /// At most this long since the user proved identity; see [`GateContext::since_auth`].
    pub fn fresh_within(self, limit: Duration) -> Self {
        self.each(|clause| shorten(&mut clause.fresh_within, limit))
    }

    /// At most this long since a step-up; see [`GateContext::since_step_up`].
    pub fn step_up_within(self, limit: Duration) -> Self {
        self.each(|clause| shorten(&mut clause.step_up_within, limit))
    }

    /// Read-only once the access token is spent and cannot be refreshed now.
    pub fn read_only_after_expiry(self) -> Self {
        self.each(|clause| clause.read_only_after_expiry = true)
    }

    /// With this scope.
    pub fn scope(self, scope: impl Into<String>) -> Self {
        let scope = scope.into();
        self.each(|clause| clause.scopes.extend([scope.clone()]))
    }

    /// With this role.
    pub fn role(self, role: impl Into<String>) -> Self {
        let role = role.into();
        self.each(|clause| clause.roles.extend([role.clone()]))
    }

    /// Within the limits of this tier, too; see [`OfflinePolicy::tier`].
    pub fn sensitivity(self, tier: Sensitivity) -> Self {
        self.each(|clause| clause.tiers.extend([tier]))
    }

    /// What holds once the user has to sign in again. It is asked before any other condition.
    pub fn when_reauth_required(self, then: WhenReauthRequired) -> Self {
        self.each(|clause| {
            let said = &mut clause.when_reauth_required;
            *said = Some(said.map_or(then, |said| said.stricter(then)));
        })
    }

    /// The capability changes nothing: it may go on where only reading is allowed. [`Capability::READ`] is known for that.
    /// In the limits of a tier it counts for nothing.
    pub fn reads(self) -> Self {
        self.each(|clause| clause.reads = true)
    }
}

fn shorten(said: &mut Option<Duration>, limit: Duration) {
    *said = Some(said.map_or(limit, |said| said.min(limit)));
}

/// The built-in gate: a rule per capability. A capability that it does not know is denied.
///
/// It is asked in this order: locked, never signed in, signed out, the rule of the capability. The end of offline use that
/// the server gave ([`Grants::offline_until`](crate::Grants::offline_until)) holds in every clause that does not ask for
/// [`online`](Rule::online): it ends when the server has renewed the session and can be reached. Where time cannot be
/// trusted, what needs the time is denied as [`ClockUntrusted`](crate::DenyReason::ClockUntrusted).
///
/// It decides on this machine alone, and so binds only a program that is left as it is: the server has the last word.
///
/// Its `Display` says it in words, a sentence per capability; [`explain`](Self::explain) says why an answer fell.
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::{OfflinePolicy, Rule, Sensitivity};
///
/// const HOUR: Duration = Duration::from_secs(3600);
/// let policy = OfflinePolicy::new()
///     .rule("jobs.view", Rule::new().max_offline(7 * 24 * HOUR))
///     .rule("notes.create", Rule::new().max_offline(48 * HOUR).step_up_within(12 * HOUR))
///     .rule("jobs.approve", Rule::new().role("lead").sensitivity(Sensitivity::High))
///     .tier(Sensitivity::High, Rule::new().online().step_up_within(HOUR))
///     .grants_max_age(24 * HOUR);
/// # let _ = policy;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OfflinePolicy {
    rules: BTreeMap<String, Rule>,
    tiers: [Option<Rule>; Sensitivity::ALL.len()],
    grants_max_age: Option<Duration>,
}

impl OfflinePolicy {
    /// Knows nothing, denies everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a policy.
    ///
    /// ```
    /// let text = r#"
    /// grants_max_age = "24h"
    ///
    /// [capabilities."jobs.view"]
    /// max_offline = "7d"
    /// reads = true
    ///
    /// [capabilities."jobs.complete"]
    /// sensitivity = "high"
    /// any_of = [{ online = true, token = "fresh" }, { max_offline = "5m" }]
    ///
    /// [tiers.high]
    /// step_up_within = "1h30m"
    /// "#;
    /// tower_reauth::OfflinePolicy::from_toml(text)?;
    ///
    /// let error = tower_reauth::OfflinePolicy::from_toml("[capabilities.read]\nmax_ofline = '7d'").unwrap_err();
    /// assert!(error.to_string().contains("line 2: `capabilities.read.max_ofline`"));
    /// assert!(error.to_string().contains("did you mean `max_offline`?"));
    /// # Ok::<(), tower_reauth::AuthError>(())
    /// ```
    ///
    /// # Errors
    /// `Misconfigured`: the text names the line, the key, what was found there and what was expected.
    #[cfg(feature = "policy-toml")]
    pub fn from_toml(text: &str) -> Result<Self, AuthError> {
        read::policy(document::Source::new(text, document::Format::Toml))
    }

    /// Reads a policy: the same keys as in TOML.
    ///
    /// ```
    /// let text = r#"{
    ///     "capabilities": {
    ///         "jobs.view": { "max_offline": "7d", "reads": true },
    ///         "jobs.complete": { "any_of": [{ "online": true, "token": "fresh" }, { "max_offline": "5m" }] }
    ///     }
    /// }"#;
    /// tower_reauth::OfflinePolicy::from_json(text)?;
    /// # Ok::<(), tower_reauth::AuthError>(())
    /// ```
    ///
    /// # Errors
    /// `Misconfigured`: the text names the line, the key, what was found there and what was expected.
    pub fn from_json(text: &str) -> Result<Self, AuthError> {
        read::policy(document::Source::new(text, document::Format::Json))
    }

    /// The rule of a capability, instead of the one that it had.
    pub fn rule(mut self, capability: impl Into<Capability>, rule: Rule) -> Self {
        self.rules.insert(capability.into().as_str().to_owned(), rule);
        self
    }

    /// The limits of a tier, instead of those that it had. They narrow: a clause that names the tier holds only if they
    /// hold too. A tier without limits, or whose limits name a tier, allows nothing
    /// ([`UnknownCapability`](crate::DenyReason::UnknownCapability)).
    pub fn tier(mut self, tier: Sensitivity, limits: Rule) -> Self {
        self.tiers[tier as usize] = Some(limits);
        self
    }

    /// Scopes and roles that are older count as missing; see [`GateContext::grants_age`].
    pub fn grants_max_age(mut self, limit: Duration) -> Self {
        self.grants_max_age = Some(limit);
        self
    }

    /// Why [`check`](OfflineGate::check) answers as it does: every condition, whether it holds, and the numbers.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_reauth::{OfflinePolicy, Rule, Session, Tokens, refresh_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::AuthError> {
    /// let policy = OfflinePolicy::new().rule("notes.create", Rule::new().step_up_within(Duration::from_secs(43_200)));
    /// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh"))))
    ///     .gate(policy.clone())
    ///     .open("alice")
    ///     .await?;
    /// session.sign_in(Tokens::new("first")).await?;
    /// let why = session.with_gate_context("notes.create", |cx| policy.explain(cx));
    /// assert!(why.to_string().contains("fails: not unlocked, allowed 12 h"), "{why}");
    /// # Ok(()) }
    /// ```
    pub fn explain(&self, cx: &GateContext<'_>) -> Explanation {
        Explanation::of(self, cx)
    }

    /// The capabilities that it has rules for, in the order of their names.
    pub fn capabilities(&self) -> impl Iterator<Item = Capability> + '_ {
        self.rules.keys().map(|name| Capability::from(name.clone()))
    }
}

impl OfflineGate for OfflinePolicy {
    fn check(&self, cx: &GateContext<'_>) -> Result<(), Denial> {
        self.decide(cx).map_err(|reason| cx.deny(reason))
    }
}
