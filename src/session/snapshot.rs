//! What a request reads: one account's newest token and where the session stands, immutable, behind an `ArcSwap`.

use super::record::{Record, Standing};
use crate::{
    clock::Stamp,
    error::{AuthError, ErrorKind},
    state::{AuthState, ReauthCause},
    token::{AccessToken, Grants},
};
use bytes::Bytes;
use http::HeaderValue;
use std::{sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// The longest access token that is put into a header, in bytes.
const MAX_ACCESS_TOKEN: usize = 64 << 10;
/// Servers that give no expiry: the gate trusts such a token for this long.
const UNKNOWN_EXPIRY_TRUSTED: Duration = Duration::from_secs(3600);
/// A shorter lifetime counts as this, so that a server's 0 does not make every request refresh.
const MIN_LIFETIME: Duration = Duration::from_secs(1);
/// Clocks of two machines differ by less.
const FROM_THE_FUTURE: Duration = Duration::from_secs(5 * 60);
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Immutable; a change is a new one.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) epoch: u64,
    pub(crate) generation: u64,
    pub(crate) state: AuthState,
    pub(crate) access: Option<Access>,
    /// A 401 answered this access token.
    pub(crate) refused: bool,
    /// The server refused the refresh token.
    pub(crate) rejected: Option<ReauthCause>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) grants_at: Option<Stamp>,
    pub(crate) last_online_auth_at: Option<Stamp>,
    pub(crate) auth_time: Option<Stamp>,
    pub(crate) step_ups: StepUps,
    /// Until then no request asks for an early refresh: one is under way, or has just failed.
    pub(crate) quiet_until: Option<Stamp>,
    /// There is something to ask for new tokens with.
    pub(crate) renewable: bool,
}

/// The step-ups of this epoch that may still count, each with its own end. In memory only.
///
/// The newest one that counts is the one that counts: a short one after a long one neither ends the long one when it
/// ends, nor lends it its own age.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepUps(Vec<SteppedUp>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SteppedUp {
    at: Stamp,
    /// Inclusive.
    until: Stamp,
}

impl StepUps {
    pub(crate) fn add(&mut self, at: Stamp, valid_for: Duration) {
        let until = at.plus(valid_for);
        // What ends no later is of no use any more: few are left, each shorter than the one before it.
        self.0.retain(|earlier| earlier.until > until && earlier.until >= at);
        self.0.push(SteppedUp { at, until });
    }

    /// Corrects when they were made; each counts as long as it was to.
    fn correct(&mut self, corrected: impl Fn(Stamp) -> Stamp) {
        for done in &mut self.0 {
            let valid_for = done.until.since(done.at);
            done.at = corrected(done.at);
            done.until = done.at.plus(valid_for);
        }
    }

    /// When the last one was made that still counts.
    pub(crate) fn last(&self, now: Stamp) -> Option<Stamp> {
        self.0.iter().rev().find(|done| now <= done.until).map(|done| done.at)
    }
}

/// An access token, ready to attach.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) token: AccessToken,
    /// `Bearer …`, marked sensitive: built once, cloned by reference count.
    pub(crate) header: HeaderValue,
    /// Tells whether two tokens are the same bytes, for the life of this process.
    pub(crate) fingerprint: u64,
    pub(crate) sent_at: Stamp,
    /// `None`: the server did not say.
    pub(crate) expires_at: Option<Stamp>,
    /// From here on a refresh is started in the background.
    pub(crate) soft_at: Stamp,
    /// From here on requests wait for it.
    pub(crate) hard_at: Stamp,
}

/// Which token a request went out with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenId {
    pub(crate) epoch: u64,
    pub(crate) generation: u64,
    pub(crate) fingerprint: u64,
}

impl Snapshot {
    pub(crate) fn new(epoch: u64, generation: u64, state: AuthState) -> Self {
        Self {
            epoch,
            generation,
            state,
            access: None,
            refused: false,
            rejected: None,
            grants: Arc::default(),
            grants_at: None,
            last_online_auth_at: None,
            auth_time: None,
            step_ups: StepUps::default(),
            quiet_until: None,
            renewable: true,
        }
    }

    /// What a record says, with the access token it goes with.
    pub(crate) fn of(record: &Record, state: AuthState, access: Option<Access>) -> Self {
        Self {
            access,
            rejected: match record.standing {
                Standing::ReauthRequired(cause) => Some(cause),
                Standing::SignedIn | Standing::Locked(_) | Standing::SignedOut => None,
            },
            grants: Arc::new(record.grants()),
            grants_at: record.grants_at,
            last_online_auth_at: record.last_online_auth_at,
            auth_time: record.auth_time,
            ..Self::new(record.epoch, record.generation, state)
        }
    }

    /// Corrects what a wrong clock has said.
    pub(crate) fn correct(&mut self, corrected: impl Fn(Stamp) -> Stamp + Copy) {
        if let Some(access) = &mut self.access {
            let before = access.sent_at;
            access.sent_at = corrected(before);
            if before != access.sent_at {
                for moment in [&mut access.soft_at, &mut access.hard_at].into_iter().chain(&mut access.expires_at) {
                    if *moment != Stamp::NEVER {
                        *moment = access.sent_at.plus(moment.since(before));
                    }
                }
            }
        }
        self.quiet_until = None;
        for moment in [&mut self.last_online_auth_at, &mut self.auth_time, &mut self.grants_at].into_iter().flatten() {
            *moment = corrected(*moment);
        }
        self.step_ups.correct(corrected);
    }

    pub(crate) fn token_id(&self) -> Option<TokenId> {
        let fingerprint = self.access.as_ref()?.fingerprint;
        Some(TokenId { epoch: self.epoch, generation: self.generation, fingerprint })
    }

    /// The access token unless it is spent: refused by a 401, or past its expiry.
    pub(crate) fn fresh(&self, now: Stamp) -> Option<&Access> {
        self.access.as_ref().filter(|access| !self.refused && !access.expired(now))
    }

    /// The access token, if there is nothing else to do than to attach it.
    pub(crate) fn ready(&self, now: Stamp) -> Option<&Access> {
        let quiet =
            |access: &Access| now < access.soft_at || !self.renewable || self.quiet_until.is_some_and(|end| now < end);
        self.fresh(now).filter(|access| quiet(access) && !self.is_dead())
    }

    /// For the gate, which trusts a token of unknown expiry for an hour only.
    pub(crate) fn fresh_for_gate(&self, now: Stamp) -> bool {
        self.fresh(now).is_some_and(|access| match access.expires_at {
            Some(_) => true,
            None => now < access.sent_at.plus(UNKNOWN_EXPIRY_TRUSTED),
        })
    }

    /// Nobody is signed in, or nobody may be: no exchange can help.
    pub(crate) fn is_dead(&self) -> bool {
        match self.state {
            AuthState::SignedOut(_) | AuthState::ReauthRequired(_) | AuthState::Locked(_) => true,
            AuthState::Active { .. } | AuthState::OfflineStale { .. } => false,
        }
    }

    /// Why there is no token, in a word.
    pub(crate) fn why_no_token(&self) -> AuthError {
        match &self.state {
            AuthState::SignedOut(_) => AuthError::new(ErrorKind::SignedOut, "nobody is signed in"),
            AuthState::ReauthRequired(_) => AuthError::new(ErrorKind::ReauthRequired, "the user has to sign in again"),
            AuthState::Locked(_) => AuthError::new(ErrorKind::Locked, "the account is locked"),
            AuthState::Active { reauth_pending: true, .. } => {
                AuthError::new(ErrorKind::ReauthRequired, "the refresh token was refused")
            }
            AuthState::Active { .. } | AuthState::OfflineStale { .. } => {
                AuthError::new(ErrorKind::Unavailable, "no fresh token can be had now")
            }
        }
    }
}

/// Whether this is a token that can stand in a header.
fn check(text: &str) -> Result<(), AuthError> {
    let invalid = |why| Err(AuthError::new(ErrorKind::InvalidToken, why));
    if text.is_empty() || text.len() > MAX_ACCESS_TOKEN {
        return invalid("the access token is empty, or longer than 64 KiB");
    }
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || text.trim() != text {
        return invalid("the access token cannot stand in a header: it is not visible ASCII");
    }
    Ok(())
}

/// Past its expiry, or sent at a time that has not come yet: then the clock was wrong, and so is the expiry.
fn has_expired(expires_at: Option<Stamp>, sent_at: Stamp, now: Stamp) -> bool {
    expires_at.is_some_and(|end| now >= end) || sent_at.since(now) > FROM_THE_FUTURE
}

/// Whether a record has an access token that can be used now.
pub(crate) fn is_usable(record: &Record, now: Stamp) -> bool {
    let sent_at = record.access_sent_at.or(record.last_online_auth_at);
    record.access_token.as_ref().is_some_and(|token| check(token.expose()).is_ok())
        && sent_at.is_some_and(|sent_at| !has_expired(record.access_expires_at, sent_at, now))
}

impl Access {
    /// `InvalidToken` unless it can stand in a header (RFC 6749 appendix A.12: visible ASCII).
    pub(crate) fn new(
        token: AccessToken,
        sent_at: Stamp,
        lifetime: Option<Duration>,
        windows: &Windows,
    ) -> Result<Self, AuthError> {
        let lifetime = lifetime.map(|lifetime| lifetime.clamp(MIN_LIFETIME, MAX_LIFETIME));
        let expires_at = lifetime.map(|lifetime| sent_at.plus(lifetime));
        Self::restored(token, sent_at, expires_at, windows)
    }

    /// The same from stored times.
    pub(crate) fn restored(
        token: AccessToken,
        sent_at: Stamp,
        expires_at: Option<Stamp>,
        windows: &Windows,
    ) -> Result<Self, AuthError> {
        let text = token.expose();
        check(text)?;
        // The header owns its bytes, and wipes them with the last clone.
        let mut bytes = Zeroizing::new(String::with_capacity("Bearer ".len() + text.len()));
        bytes.push_str("Bearer ");
        bytes.push_str(text);
        let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes))
            .map_err(|_| AuthError::new(ErrorKind::InvalidToken, "the access token cannot stand in a header"))?;
        header.set_sensitive(true);
        let (soft_at, hard_at) = match expires_at {
            Some(end) => windows.before(end, end.since(sent_at)),
            None => (Stamp::NEVER, Stamp::NEVER),
        };
        Ok(Self { fingerprint: windows.fingerprint(text), token, header, sent_at, expires_at, soft_at, hard_at })
    }

    /// Puts it into a record.
    pub(crate) fn store_in(&self, record: &mut Record) {
        record.access_token = Some(self.token.clone());
        record.access_sent_at = Some(self.sent_at);
        record.access_expires_at = self.expires_at;
    }

    pub(crate) fn expired(&self, now: Stamp) -> bool {
        has_expired(self.expires_at, self.sent_at, now)
    }

    /// The server gave the same token once more: asking again before its end would only do the same.
    pub(crate) fn without_windows(mut self) -> Self {
        self.soft_at = self.expires_at.unwrap_or(Stamp::NEVER);
        self.hard_at = self.soft_at;
        self
    }
}

/// When a token is refreshed ahead of its expiry.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// The soft window, if the application set one.
    pub(crate) soft: Option<Duration>,
    hasher: std::collections::hash_map::RandomState,
}

impl Windows {
    pub(crate) fn new(soft: Option<Duration>) -> Self {
        Self { soft, ..Self::default() }
    }

    /// Where the soft and the hard window begin, for a token of this lifetime. The soft one begins later by up to a fifth
    /// of itself, so that many clients do not refresh at one moment; never earlier.
    fn before(&self, end: Stamp, lifetime: Duration) -> (Stamp, Stamp) {
        let soft = match self.soft {
            Some(soft) => soft.min(lifetime / 2), // a window over the whole lifetime would refresh without end
            None => (lifetime / 5).min(Duration::from_secs(300)),
        };
        let hard = (lifetime / 10).min(Duration::from_secs(60)).min(soft);
        let late = super::cooldown::jitter(soft / 5).min(soft.saturating_sub(hard));
        (end.minus(soft).plus(late), end.minus(hard))
    }

    fn fingerprint(&self, text: &str) -> u64 {
        use std::hash::BuildHasher as _;
        self.hasher.hash_one(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn case_28_tokens_that_cannot_be_a_header_are_typed_errors() {
        let make = |text: &str| Access::new(text.into(), UNIX_EPOCH.into(), None, &Windows::default());
        for bad in ["", " ", "a\nb", "a\0b", "é", "a\u{7f}", " a", &"x".repeat(100_000)] {
            let error = make(bad).err().expect("must be refused");
            assert_eq!(error.kind(), ErrorKind::InvalidToken);
        }
        let header = make("abc.DEF-123~+/=").ok().unwrap().header;
        assert!(header.is_sensitive() && header == "Bearer abc.DEF-123~+/=");
    }

    proptest! {
        #[test]
        fn windows_lie_within_the_lifetime(secs in 0u64..400_000_000, set in prop::option::of(0u64..100_000)) {
            let windows = Windows::new(set.map(Duration::from_secs));
            let lifetime = Duration::from_secs(secs).clamp(MIN_LIFETIME, MAX_LIFETIME);
            let start = Stamp::from(UNIX_EPOCH);
            let end = start.plus(lifetime);
            let (soft, hard) = windows.before(end, lifetime);
            prop_assert!(start < soft && soft <= hard && hard <= end);
            prop_assert!(end.since(hard) <= Duration::from_secs(60));
            if set.is_none() {
                prop_assert!(end.since(soft) <= (lifetime / 5).min(Duration::from_secs(300)));
            }
        }
    }
}
