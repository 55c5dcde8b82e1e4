//! What the policy says, written a second time: by hand, from its words, over facts that the walk keeps for itself.
//!
//! What makes a session permit more counts from when it may have happened, what makes it permit less from when it must
//! have: in between there are several *worlds*, and a request may leave if one of them lets it.

use crate::kit::start;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

/// All that a request may want; `jobs.erase` stands in no policy.
pub const CAPABILITIES: [&str; 9] = [
    "jobs.view",
    "notes.create",
    "jobs.complete",
    "jobs.approve",
    "vault.open",
    "reports.sign",
    "draft.save",
    "read",
    "jobs.erase",
];

/// The policy that the session has.
pub const POLICY: &str = r#"
grants_max_age = "2h"

[capabilities."jobs.view"]
max_offline = "7d"
reads = true

[capabilities."notes.create"]
max_offline = "48h"
step_up_within = "12h"

[capabilities."jobs.complete"]
any_of = [{ online = true, token = "fresh" }, { max_offline = "5m" }]

[capabilities."jobs.approve"]
fresh_within = "8h"
scope = "jobs"
role = "lead"

[capabilities."vault.open"]
sensitivity = "high"

[capabilities."reports.sign"]
fresh_within = "8h"
step_up_within = "1h"
when_reauth_required = "as_offline"

[capabilities."draft.save"]
read_only_after_expiry = true

[capabilities.read]

[tiers.high]
online = true
step_up_within = "5m"
"#;

/// What the user may do, as far as is known, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub scopes: BTreeSet<String>,
    pub roles: BTreeSet<String>,
    /// The scope of the tokens.
    pub token_scope: Option<BTreeSet<String>>,
    /// The application set them.
    pub set: bool,
    pub at: u64,
    pub until: Option<u64>,
}

impl Known {
    /// A token answer: it narrows, and never widens.
    pub fn renewed(&self, scope: Option<&BTreeSet<String>>, at: u64) -> Self {
        let mut next = self.clone();
        if let (Some(new), Some(old)) = (scope, &self.token_scope) {
            next.scopes.retain(|name| !old.contains(name) || new.contains(name));
        }
        next.token_scope = scope.cloned().or(next.token_scope);
        if !self.set {
            next.at = at;
        }
        next
    }
}

/// A token set.
#[derive(Clone, Debug)]
pub struct Set {
    pub at: u64,
    pub ends: u64,
    /// The API takes it no more; the session may know.
    pub refused: bool,
    /// The last one is how it is, if nothing is under way.
    pub known: Vec<Known>,
}

/// All that comes of one sign-in.
#[derive(Clone, Debug, Default)]
pub struct Family {
    pub auth: u64,
    pub sets: BTreeMap<u64, Set>,
    /// When each was made, its last moment, and whether it is certain that it counts.
    pub step_ups: Vec<(u64, u64, bool)>,
    /// The server refused the grant: it may be known already, or must be.
    pub may_be_rejected: bool,
    pub is_rejected: bool,
}

#[derive(Debug, Default)]
pub struct Model {
    /// True time, in seconds.
    pub now: u64,
    /// The wall clock was turned back on a machine that has just been started, and no server has told the time since;
    /// or one may have.
    pub doubt: bool,
    pub may_be_healed: bool,
    /// How often a server told the time.
    pub told: u64,
    /// What the platform says.
    pub online: bool,
    /// When a server answered last.
    pub answered: u64,
    pub families: BTreeMap<u64, Family>,
    /// Who is signed in, or may be already.
    pub current: Option<u64>,
    pub arriving: Option<u64>,
    /// The server said that the account is disabled, and it may be known.
    pub locking: bool,
    pub faults: Vec<String>,
}

/// What a gate goes by, at one moment in one world.
#[derive(Clone, Debug)]
pub struct World {
    trusted: bool,
    online: bool,
    fresh: bool,
    stale: bool,
    rejected: bool,
    offline_for: u64,
    since_auth: u64,
    since_step_up: Option<u64>,
    known: Known,
    renewed: u64,
    now: u64,
}

impl World {
    /// SEMANTICS §5.
    pub fn permits(&self, capability: &str) -> bool {
        let within = |age: u64, limit: u64| self.trusted && age <= limit;
        let stepped_up = |limit| self.since_step_up.is_some_and(|age| within(age, limit));
        let online = self.online && !self.rejected;
        // The user has to sign in again: reading goes on as offline, all else has to be told.
        let signed_in = !self.rejected || self.fresh;
        // The server's own end of offline use: it is over with an answer from after it.
        let not_over = self
            .known
            .until
            .is_none_or(|end| self.trusted && (self.now <= end || (online && self.fresh && self.renewed > end)));
        let granted = within(self.now - self.known.at.min(self.now), 2 * HOUR);
        match capability {
            "jobs.view" => not_over && within(self.offline_for, 7 * DAY),
            "notes.create" => signed_in && not_over && within(self.offline_for, 48 * HOUR) && stepped_up(12 * HOUR),
            "jobs.complete" => {
                signed_in && ((online && self.fresh) || (not_over && within(self.offline_for, 5 * MINUTE)))
            }
            "jobs.approve" => {
                let may = self.known.scopes.contains("jobs") && self.known.roles.contains("lead");
                signed_in && not_over && within(self.since_auth, 8 * HOUR) && may && granted
            }
            "vault.open" => signed_in && online && stepped_up(5 * MINUTE),
            "reports.sign" => not_over && within(self.since_auth, 8 * HOUR) && stepped_up(HOUR),
            "draft.save" => signed_in && not_over && (self.fresh || (online && !self.stale)),
            "read" => not_over,
            _ => false,
        }
    }
}

impl Model {
    pub fn families_now(&self) -> impl Iterator<Item = u64> {
        self.current.into_iter().chain(self.arriving)
    }

    /// Every world that there may be, of the newest token set of whoever may be signed in, or of this one.
    pub fn worlds(&self, of: Option<(u64, u64)>) -> Vec<World> {
        let mut worlds = Vec::new();
        for number in self.families_now() {
            let Some(family) = self.families.get(&number) else { continue };
            let set = match of {
                Some((it, generation)) if it == number => family.sets.get(&generation),
                Some(_) => None,
                None => family.sets.values().next_back(),
            };
            let Some(set) = set else { continue };
            let runs = self.now < set.ends;
            let last = |doubtful: bool| {
                let counting = family.step_ups.iter().filter(|(_, end, sure)| self.now <= *end && (*sure || doubtful));
                counting.map(|(at, ..)| self.now - at).min()
            };
            let fresh_or_stale =
                [(runs, !runs), (runs && !set.refused, false), (runs && !set.refused, !runs || set.refused)];
            let bools = |may, must| if may == must { vec![must] } else { vec![false, true] };
            for known in &set.known {
                for trusted in bools(!self.doubt || self.may_be_healed, !self.doubt) {
                    for online in bools(self.online || self.now <= self.answered + 60, self.online) {
                        for rejected in bools(family.may_be_rejected, family.is_rejected) {
                            for ((fresh, stale), doubtful) in
                                fresh_or_stale.into_iter().flat_map(|it| [(it, false), (it, true)])
                            {
                                worlds.push(World {
                                    trusted,
                                    online,
                                    fresh,
                                    stale,
                                    rejected,
                                    offline_for: self.now - set.at,
                                    since_auth: self.now - family.auth,
                                    since_step_up: last(doubtful),
                                    known: known.clone(),
                                    renewed: set.at,
                                    now: self.now,
                                });
                            }
                        }
                    }
                }
            }
        }
        worlds
    }

    /// A request has left: is there a world that permits it?
    pub fn left(&mut self, capability: &str, token: (u64, u64)) {
        let worlds = self.worlds(Some(token));
        if !worlds.iter().any(|world| world.permits(capability)) {
            let told = format!("{capability} left with {token:?} at {}: {worlds:#?}", self.now);
            self.faults.push(told);
        }
    }

    /// Somebody has stepped up; `sure`: it counts for certain.
    pub fn stepped_up(&mut self, family: u64, secs: u64, sure: bool) {
        if let Some(family) = self.families.get_mut(&family).filter(|_| secs > 0) {
            family.step_ups.push((self.now, self.now + secs, sure));
        }
    }

    /// Nothing is under way any more: what may have happened has.
    pub fn quiet(&mut self) {
        if self.locking {
            (self.current, self.locking) = (None, false);
        }
        if self.may_be_healed {
            (self.doubt, self.may_be_healed) = (false, false);
        }
        for family in self.families.values_mut() {
            family.is_rejected = family.may_be_rejected;
        }
    }

    /// True time.
    pub fn time(&self) -> SystemTime {
        start() + Duration::from_secs(self.now)
    }
}
