//! What a request asks of a session: may I, with which token, and what now that it was refused (SEMANTICS §2).

use super::{
    Session,
    config::Config,
    desk::{Answer, Landing, Part, Work},
    flight::Want,
    inner::Inner,
    snapshot::{Snapshot, TokenId},
    sync::WITHIN,
};
use crate::{
    clock::{Reading, SLACK, Stamp},
    denial::{Capability, Denial, DenyReason, Remedy},
    error::AuthError,
    event::AuthEvent,
    message::Target,
    offline::{self, Facts, GateContext, Permit},
    state::AuthState,
};
use http::{HeaderValue, uri::Authority};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// A denial that contact would lift starts no exchange for a token that is younger: a gate may want more than contact.
const CONTACT_EVERY: Duration = Duration::from_secs(60);

/// What a request wants to do, and what it puts up with.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) capability: Capability,
    /// A spent token is better than none.
    pub(crate) forward_stale: bool,
}

/// A token to attach, and which it is.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) header: HeaderValue,
    pub(crate) token: TokenId,
    /// When it was handed out: the start of the round trip.
    pub(crate) at: Stamp,
}

/// What a request has been through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trail<'a> {
    /// What the flight ended with that it has waited for last.
    pub(crate) failed: Option<&'a AuthError>,
    /// The user has been asked for a step-up, and has answered.
    pub(crate) prompted: bool,
    /// It waits for nothing any more.
    pub(crate) last: bool,
}

/// What to do next with a request that is about to leave.
pub(crate) enum Step {
    Go(Pass),
    /// For a token.
    Wait(Landing),
    /// For a step-up.
    Prompt(Answer),
    Refuse(AuthError),
}

/// What to do with a request that was refused.
pub(crate) enum Reaction {
    /// There is a newer token: replay.
    Replay,
    /// A refresh is under way.
    Wait(Landing),
    /// Deliver the answer, with this in its extensions.
    Deliver(AuthError),
}

impl Inner {
    /// What a gate may look at, of one snapshot at one moment. By a clock that was turned back nothing is said of time, and
    /// a moment that has not come yet, which a wrong clock has written down, is as good as unknown.
    fn facts<'a>(&self, snapshot: &'a Snapshot, reading: Reading) -> Facts<'a> {
        let Reading { now, trusted } = reading;
        let since = |moment: Option<Stamp>| {
            let passed = moment.filter(|moment| trusted && moment.since(now) <= SLACK);
            passed.map(|moment| now.since(moment))
        };
        Facts {
            online: self.reach.online(&self.config.time),
            token_fresh: snapshot.fresh_for_gate(now),
            grant_rejected: snapshot.rejected.is_some(),
            now: trusted.then(|| now.system()),
            offline_for: since(snapshot.last_online_auth_at),
            since_auth: since(snapshot.auth_time),
            since_step_up: since(snapshot.step_ups.last(now)),
            grants: &snapshot.grants,
            grants_age: since(snapshot.grants_at),
        }
    }

    /// Asks the gate. Locked, signed-out and never-signed-in sessions are denied before it is asked.
    pub(crate) fn check(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        capability: &Capability,
        reading: Reading,
    ) -> Result<(), Denial> {
        let state = &snapshot.state;
        let deny = |reason| Err(Denial::new(capability.clone(), reason));
        match (offline::standing(state), &self.config.gate) {
            (Some(reason), _) => deny(reason),
            (None, None) if matches!(state, AuthState::ReauthRequired(_)) => deny(DenyReason::ReauthRequired),
            (None, None) => Ok(()),
            (None, Some(gate)) => {
                self.keep_mark(reading.now);
                let facts = self.facts(snapshot, reading);
                gate.check(&GateContext { capability, account: &self.id, state, facts: &facts })
            }
        }
    }

    fn denied(&self, denial: Denial) -> AuthError {
        self.event(AuthEvent::Denied {
            account: self.id.clone(),
            capability: denial.capability().clone(),
            reason: denial.reason(),
        });
        denial.into()
    }
}

impl Session {
    /// May a request leave now, and with which token?
    pub(crate) fn step(&self, ask: &Ask, trail: Trail<'_>) -> Step {
        let inner = &self.0;
        let reading @ Reading { now, .. } = inner.reading();
        let snapshot = inner.snapshot();
        if let Some(access) = snapshot.ready(now) {
            // The path of nearly every request: no lock, no allocation.
            return match inner.check(&snapshot, &ask.capability, reading) {
                Ok(()) => Step::Go(Pass::new(&snapshot, access.header.clone(), now)),
                Err(denial) => self.turn_away(&snapshot, denial, trail, now),
            };
        }
        drop(snapshot);
        self.step_slowly(ask, trail, reading)
    }

    /// The gate said no: the server or the user is asked if that would help, and nobody has asked for this request.
    #[cold]
    fn turn_away(&self, snapshot: &Snapshot, denial: Denial, trail: Trail<'_>, now: Stamp) -> Step {
        let inner = &self.0;
        if denial.remedy() == Remedy::Connect
            && let Some(landing) = self.contact(snapshot, trail, now)
        {
            return Step::Wait(landing);
        }
        if denial.reason() != DenyReason::StepUpRequired {
            return Step::Refuse(inner.denied(denial));
        }
        match inner.prompt(denial.capability(), snapshot, trail) {
            Ok(answer) => Step::Prompt(answer),
            Err(Some(why)) => Step::Refuse(inner.denied(denial).caused_by(why)),
            Err(None) => Step::Refuse(inner.denied(denial)),
        }
    }

    /// Online, and denied for want of contact, although the token is fresh: nothing else would start an exchange, and a
    /// token of unknown expiry is fresh for ever where nothing is sent.
    fn contact(&self, snapshot: &Snapshot, trail: Trail<'_>, now: Stamp) -> Option<Landing> {
        let inner = &self.0;
        let online = inner.reach.online(&inner.config.time) != Some(false);
        let old = snapshot.fresh(now).is_some_and(|access| now >= access.sent_at.plus(CONTACT_EVERY));
        let asks = online && old && !trail.last && trail.failed.is_none() && !snapshot.is_dead();
        asks.then(|| inner.join(Want::InsteadOf(snapshot.token_id())).ok()).flatten()
    }

    #[cold]
    fn step_slowly(&self, ask: &Ask, trail: Trail<'_>, reading: Reading) -> Step {
        let (inner, now) = (&self.0, reading.now);
        inner.turn_if_spent();
        let snapshot = inner.snapshot().clone();
        let may_wait = !trail.last && trail.failed.is_none();
        let verdict = inner.check(&snapshot, &ask.capability, reading);
        // Somebody else may have signed in: a dead session looks, before its denial counts.
        let hopeless = |denial: &Denial| denial.reason().is_final() && !snapshot.is_dead();
        if let Err(denial) = verdict.as_ref()
            && (hopeless(denial) || denial.reason() == DenyReason::Locked)
        {
            if denial.reason() == DenyReason::Locked {
                let _ = inner.join(Want::InsteadOf(None)); // for those who come later
            }
            return Step::Refuse(inner.denied(denial.clone()));
        }

        let fresh = snapshot.fresh(now);
        let online = inner.reach.online(&inner.config.time) != Some(false);
        let mut error = trail.failed.cloned();
        match fresh {
            Some(_) if snapshot.ready(now).is_some() || snapshot.is_dead() || !online || !may_wait => {}
            Some(access) => {
                // In the hard window it is waited for; if it cannot be had, what is still fresh goes on.
                let wait = now >= access.hard_at;
                if (wait || inner.config.background_refresh)
                    && let Ok(landing) = inner.join(Want::InsteadOf(snapshot.token_id()))
                    && wait
                {
                    return Step::Wait(landing);
                }
            }
            None if may_wait && (online || inner.reach.may_fly(&inner.config.time)) => {
                match inner.join(Want::InsteadOf(snapshot.token_id())) {
                    Ok(landing) => return Step::Wait(landing),
                    Err(refused) => error = Some(refused),
                }
            }
            None => {}
        }
        if let Err(denial) = verdict {
            return self.turn_away(&snapshot, denial, trail, now);
        }
        match (fresh, &snapshot.access) {
            (Some(access), _) => Step::Go(Pass::new(&snapshot, access.header.clone(), now)),
            (None, Some(stale)) if ask.forward_stale => Step::Go(Pass::new(&snapshot, stale.header.clone(), now)),
            (None, _) => Step::Refuse(match error {
                // Misconfigured, Aborted and the like say more than the state does.
                Some(error) if !snapshot.is_dead() => error,
                _ => snapshot.why_no_token(),
            }),
        }
    }

    /// A server refused `token`. `start_only`: the request cannot be replayed, but the others want a new token.
    pub(crate) fn refused(&self, token: TokenId, origin: &str) -> Reaction {
        let inner = &self.0;
        let now = inner.now();
        let snapshot = inner.snapshot().clone();
        let current = snapshot.token_id();
        let is_current = current.is_some_and(|it| (it.epoch, it.fingerprint) == (token.epoch, token.fingerprint));
        if !is_current && snapshot.fresh(now).is_some() {
            return Reaction::Replay; // a late 401 (P3)
        }
        if let Some(current) = current.filter(|_| is_current)
            && let Err(error) = inner.refuse(current, origin, false)
        {
            return Reaction::Deliver(error);
        }
        let wanted = if is_current { current } else { snapshot.token_id() };
        match inner.join(Want::InsteadOf(wanted)) {
            Ok(landing) => Reaction::Wait(landing),
            Err(error) => {
                inner.turn_if_spent();
                Reaction::Deliver(error)
            }
        }
    }

    /// The token for a replay, if the gate consents at this moment (P14).
    pub(crate) fn reissue(&self, ask: &Ask) -> Result<Pass, AuthError> {
        let inner = &self.0;
        let reading @ Reading { now, .. } = inner.reading();
        let snapshot = inner.snapshot();
        inner.check(&snapshot, &ask.capability, reading).map_err(|denial| inner.denied(denial))?;
        match snapshot.fresh(now) {
            Some(access) => Ok(Pass::new(&snapshot, access.header.clone(), now)),
            None => Err(snapshot.why_no_token()),
        }
    }

    /// A server answered a request that left at `left`: we are online, and its clock says at least this.
    pub(crate) fn answered(&self, date: Option<SystemTime>, left: Stamp) {
        let config = &self.0.config;
        self.0.reach.answered(&config.time);
        if let Some(date) = date {
            config.time.at_least(date, left);
        }
    }

    /// Nobody answered.
    pub(crate) fn unanswered(&self) {
        self.0.reach.unanswered();
    }

    /// Whether a request is one of those that waiting requests wait for (P11).
    pub(crate) fn is_token_request(&self, target: &Target<'_>) -> bool {
        self.0.config.is_token_request(target)
    }

    /// Whether this task is a part of an exchange, of this account or of one beside it (P11).
    pub(crate) fn is_reentrant(&self) -> bool {
        self.0.config.is_within_exchange()
    }

    /// Whether this task is a part of this session's own prompt.
    pub(crate) fn is_within_prompt(&self) -> bool {
        self.0.is_within(Work::Prompt)
    }

    /// The second 401 of a request: it counts for the breaker, and starts nothing.
    pub(crate) fn refused_again(&self, token: TokenId, origin: &str) {
        let _ = self.0.refuse(token, origin, true);
    }

    /// Why a refused request is not sent again: the gate's word if nobody is signed in any more, else what the refresh
    /// ended with.
    pub(crate) fn why_not(&self, ask: &Ask, error: AuthError) -> AuthError {
        let inner = &self.0;
        let snapshot = inner.snapshot();
        match inner.check(&snapshot, &ask.capability, inner.reading()) {
            Err(denial) if snapshot.is_dead() => inner.denied(denial),
            _ => error,
        }
    }

    /// What a gate would be shown for this capability now: for interfaces that explain, and for
    /// [`OfflinePolicy::explain`](crate::OfflinePolicy::explain). It asks nobody and is no event.
    ///
    /// ```
    /// use tower_reauth::{Session, Tokens, refresh_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::AuthError> {
    /// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh")))).open("alice").await?;
    /// session.sign_in(Tokens::new("first")).await?;
    /// assert!(session.with_gate_context("jobs.view", |cx| cx.token_fresh() && !cx.grant_rejected()));
    /// # Ok(()) }
    /// ```
    pub fn with_gate_context<T>(
        &self,
        capability: impl Into<Capability>,
        look: impl FnOnce(&GateContext<'_>) -> T,
    ) -> T {
        let inner = &self.0;
        inner.turn_if_spent();
        let snapshot = inner.snapshot().clone();
        let facts = inner.facts(&snapshot, inner.reading());
        let capability = capability.into();
        look(&GateContext { capability: &capability, account: &inner.id, state: &snapshot.state, facts: &facts })
    }

    pub(crate) fn permit(&self, capability: Capability) -> Result<Permit, Denial> {
        let inner = &self.0;
        inner.turn_if_spent();
        let answer = inner.check(&inner.snapshot(), &capability, inner.reading());
        let account = inner.id.clone();
        match answer {
            Ok(()) => {
                inner.event(AuthEvent::Permitted { account: account.clone(), capability: capability.clone() });
                Ok(Permit::new(capability, account))
            }
            Err(denial) => {
                let reason: DenyReason = denial.reason();
                inner.event(AuthEvent::Denied { account, capability, reason });
                Err(denial)
            }
        }
    }
}

impl Config {
    /// A request that goes to the token endpoint, which is no place for an access token, or that an exchange makes, of
    /// whichever account: it could wait for one that waits for it.
    pub(crate) fn is_token_request(self: &Arc<Self>, target: &Target<'_>) -> bool {
        self.is_endpoint(target) || self.is_within_exchange()
    }

    fn is_endpoint(&self, target: &Target<'_>) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| {
            endpoint.path() == target.path
                && endpoint.host().zip(target.host()).is_some_and(|(ours, host)| ours.eq_ignore_ascii_case(host))
                && port(endpoint.scheme_str(), endpoint.authority().map(Authority::as_str))
                    == port(target.scheme, target.authority)
        })
    }

    pub(crate) fn is_within_exchange(self: &Arc<Self>) -> bool {
        let is_one = |part: &Part| part.work == Work::Exchange && Arc::ptr_eq(&part.config, self);
        WITHIN.try_with(|within| within.iter().any(is_one)).unwrap_or(false)
    }
}

/// The port of an authority, spelled out or not.
fn port(scheme: Option<&str>, authority: Option<&str>) -> Option<u16> {
    let https = scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let authority: Authority = authority?.parse().ok()?;
    Some(authority.port_u16().unwrap_or(if https { 443 } else { 80 }))
}

impl Pass {
    fn new(snapshot: &Snapshot, header: HeaderValue, at: Stamp) -> Self {
        let fingerprint = snapshot.access.as_ref().map_or(0, |access| access.fingerprint);
        Self { header, token: TokenId { epoch: snapshot.epoch, generation: snapshot.generation, fingerprint }, at }
    }
}
