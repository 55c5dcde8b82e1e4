//! What is stored of a session: versioned JSON. Unknown members survive a rewrite; secrets are wiped from memory.

use crate::{
    account::AccountId,
    clock::{SLACK, Stamp},
    failure::FailureKind,
    state::{LockCause, ReauthCause},
    store::{StoreError, StoreErrorKind},
    token::{AccessToken, Grants, RefreshToken},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, time::Duration};
use zeroize::Zeroizing;

/// The longest `Retry-After` that is honoured.
pub(crate) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// The format this crate writes. It reads this one and older ones, and leaves newer ones in place.
const FORMAT: u32 = 1;

/// One account's stored session. All times are trusted time: it may be read on another machine.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    pub(crate) subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    pub(crate) epoch: u64,
    pub(crate) generation: u64,
    pub(crate) standing: Standing,

    #[serde(default, skip_serializing_if = "Option::is_none", with = "secret_access")]
    pub(crate) access_token: Option<AccessToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access_sent_at: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access_expires_at: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "secret_refresh")]
    pub(crate) refresh_token: Option<RefreshToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refresh_expires_at: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,

    #[serde(default)]
    pub(crate) roles: BTreeSet<String>,
    #[serde(default)]
    pub(crate) scopes: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grants_at: Option<Stamp>,
    /// The application set the grants; otherwise they follow the scope of the tokens.
    #[serde(default)]
    pub(crate) grants_explicit: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) offline_grace_until: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_online_auth_at: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) auth_time: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device_key_id: Option<String>,

    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<Failure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refusals: Option<Refusals>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) journal: Option<Journal>,
    #[serde(default)]
    pub(crate) doubt: Doubt,

    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// The verdict on a session, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    SignedIn,
    ReauthRequired(ReauthCause),
    Locked(LockCause),
    SignedOut,
}

/// An exchange is, or may be, under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// The session, in its process, that opened it.
    pub(crate) owner: String,
    /// Until when its owner may still be at work.
    pub(crate) deadline: Stamp,
    /// How many exchanges of this refresh token ended in doubt, this one included.
    pub(crate) attempts: u32,
}

/// Whether an exchange may have happened that nobody saw: an `invalid_grant` is then no proof of a revocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Doubt {
    #[default]
    None,
    /// Of a predecessor of this refresh token. It ends with this one's own saved 200.
    Inherited,
    /// Of this refresh token itself. It passes to its successor.
    Own,
}

impl Doubt {
    /// What the next generation begins with.
    pub(crate) fn pass_on(self) -> Self {
        match self {
            Self::Own => Self::Inherited,
            Self::Inherited | Self::None => Self::None,
        }
    }
}

/// A remembered failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: StoredKind,
    pub(crate) at: Stamp,
    pub(crate) until: Stamp,
    /// In a row.
    pub(crate) count: u32,
    /// The end of the server's own `Retry-After`, which no reconnection shortens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) told_until: Option<Stamp>,
}

impl Failure {
    /// What is left at `now` of a pause that ends at `end`. One that begins in the future, or that nobody can have asked
    /// for, says only that a clock was wrong; and none is longer than it was meant to be.
    pub(crate) fn left(&self, end: Stamp, now: Stamp) -> Option<Duration> {
        let left = end.since(now).min(end.since(self.at));
        (self.at.since(now) <= SLACK && !left.is_zero() && left <= LONGEST_RETRY_AFTER).then_some(left)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoredKind {
    Transient,
    Misconfigured,
    Unrecognized,
}

impl From<StoredKind> for FailureKind {
    fn from(kind: StoredKind) -> Self {
        match kind {
            StoredKind::Transient => Self::Transient,
            StoredKind::Misconfigured => Self::Misconfigured,
            StoredKind::Unrecognized => Self::Unrecognized,
        }
    }
}

/// Bare refusals of one refresh token, in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusals {
    pub(crate) count: u32,
    pub(crate) last_at: Stamp,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("epoch", &self.epoch)
            .field("generation", &self.generation)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

impl Record {
    /// A record without tokens.
    pub(crate) fn empty(account: &AccountId, issuer: &str, client_id: &str, epoch: u64, standing: Standing) -> Self {
        Self {
            format: FORMAT,
            subject: account.subject().to_owned(),
            tenant: account.tenant().map(str::to_owned),
            issuer: issuer.to_owned(),
            client_id: client_id.to_owned(),
            epoch,
            generation: 0,
            standing,
            access_token: None,
            access_sent_at: None,
            access_expires_at: None,
            refresh_token: None,
            refresh_expires_at: None,
            scope: None,
            roles: BTreeSet::new(),
            scopes: BTreeSet::new(),
            grants_at: None,
            grants_explicit: false,
            offline_grace_until: None,
            last_online_auth_at: None,
            auth_time: None,
            device_key_id: None,
            failure: None,
            refusals: None,
            journal: None,
            doubt: Doubt::None,
            rest: serde_json::Map::new(),
        }
    }

    /// Reads a record. Errors name a place, never a value.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let corrupt = |error: serde_json::Error| {
            StoreError::new(StoreErrorKind::Corrupt).with_source(format!(
                "not a session record: line {}, column {}",
                error.line(),
                error.column()
            ))
        };
        let head: Head = serde_json::from_slice(bytes).map_err(corrupt)?;
        if head.format > FORMAT {
            return Err(StoreError::new(StoreErrorKind::NewerVersion));
        }
        serde_json::from_slice(bytes).map_err(corrupt)
    }

    pub(crate) fn write(&self) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        // Room enough that the buffer does not move, which would leave copies of tokens behind.
        let tokens = self.access_token.as_ref().map_or(0, |t| t.expose().len())
            + self.refresh_token.as_ref().map_or(0, |t| t.expose().len());
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096 + 2 * tokens));
        serde_json::to_writer(&mut *bytes, self).map_err(|_| StoreError::new(StoreErrorKind::Corrupt))?;
        Ok(bytes)
    }

    pub(crate) fn account(&self) -> AccountId {
        let id = AccountId::new(self.subject.as_str());
        match &self.tenant {
            Some(tenant) => id.with_tenant(tenant.as_str()),
            None => id,
        }
    }

    pub(crate) fn grants(&self) -> Grants {
        Grants {
            roles: self.roles.clone(),
            scopes: self.scopes.clone(),
            offline_until: self.offline_grace_until.map(Stamp::system),
        }
    }

    pub(crate) fn set_grants(&mut self, grants: Grants, now: Stamp) {
        self.roles = grants.roles;
        self.scopes = grants.scopes;
        self.offline_grace_until = grants.offline_until.map(Stamp::from);
        self.grants_at = Some(now);
        self.grants_explicit = true;
    }

    /// Grants that were set in `theirs` since this one was read, narrowed by the scope of this one's tokens.
    pub(crate) fn keep_grants_of(&mut self, theirs: &Self) {
        let newer = theirs.grants_explicit && (!self.grants_explicit || theirs.grants_at > self.grants_at);
        if newer && theirs.epoch == self.epoch {
            self.roles = theirs.roles.clone();
            self.scopes = theirs.scopes.clone();
            self.offline_grace_until = theirs.offline_grace_until;
            self.grants_at = theirs.grants_at;
            self.grants_explicit = true;
            let scope = std::mem::replace(&mut self.scope, theirs.scope.clone());
            self.set_scope(scope);
        }
    }

    /// The scope of a new token set. An absent one keeps the old; a narrower one narrows the grants, a wider one never
    /// widens them.
    pub(crate) fn set_scope(&mut self, scope: Option<String>) {
        let Some(new) = scope else { return };
        let has = |scope: &str, name: &str| scope.split_ascii_whitespace().any(|s| s == name);
        match &self.scope {
            Some(old) => self.scopes.retain(|name| !has(old, name) || has(&new, name)),
            None if !self.grants_explicit => self.scopes = new.split_ascii_whitespace().map(str::to_owned).collect(),
            None => {}
        }
        self.scope = Some(new);
    }

    /// Corrects what a wrong clock has written down.
    pub(crate) fn correct(&mut self, corrected: impl Fn(Stamp) -> Stamp) {
        if let (Some(sent_at), end) = (&mut self.access_sent_at, &mut self.access_expires_at) {
            let before = *sent_at;
            *sent_at = corrected(before);
            *end = end.map(|end| sent_at.plus(end.since(before)));
        }
        for moment in [&mut self.last_online_auth_at, &mut self.auth_time, &mut self.grants_at].into_iter().flatten() {
            *moment = corrected(*moment);
        }
    }

    pub(crate) fn drop_access(&mut self) {
        self.access_token = None;
        self.access_sent_at = None;
        self.access_expires_at = None;
    }

    /// What stays after a sign-out or a lock: no tokens, and the grants and profile only for a soft one.
    pub(crate) fn tombstone(&self, epoch: u64, standing: Standing, keep_profile: bool) -> Self {
        let mut stone = Self::empty(&self.account(), &self.issuer, &self.client_id, epoch, standing);
        if keep_profile {
            stone.roles = self.roles.clone();
            stone.scopes = self.scopes.clone();
            stone.grants_at = self.grants_at;
            stone.grants_explicit = self.grants_explicit;
            stone.offline_grace_until = self.offline_grace_until;
            stone.auth_time = self.auth_time;
            stone.last_online_auth_at = self.last_online_auth_at;
        }
        stone
    }
}

macro_rules! secret {
    ($module:ident, $token:ty) => {
        mod $module {
            use serde::{Deserialize, Deserializer, Serializer};
            use zeroize::Zeroizing;

            pub(super) fn serialize<S: Serializer>(token: &Option<$token>, to: S) -> Result<S::Ok, S::Error> {
                match token {
                    Some(token) => to.serialize_some(token.expose()),
                    None => to.serialize_none(),
                }
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<$token>, D::Error> {
                let text: Option<Zeroizing<String>> = Option::<String>::deserialize(from)?.map(Zeroizing::new);
                Ok(text.map(|mut text| <$token>::new(std::mem::take(&mut *text))))
            }
        }
    };
}
secret!(secret_access, crate::token::AccessToken);
secret!(secret_refresh, crate::token::RefreshToken);

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut record = Record::empty(&AccountId::new("alice").with_tenant("acme"), "i", "c", 2, Standing::SignedIn);
        record.access_token = Some("s3cret-access".into());
        record.refresh_token = Some("s3cret-refresh".into());
        record
    }

    #[test]
    fn unknown_members_survive_a_rewrite() {
        let text = String::from_utf8(record().write().unwrap().to_vec()).unwrap();
        let text = text.replacen('{', r#"{"from_the_future":{"a":[1]},"#, 1);
        let again = Record::read(text.as_bytes()).unwrap();
        assert_eq!(again.account(), AccountId::new("alice").with_tenant("acme"));
        let text = String::from_utf8(again.write().unwrap().to_vec()).unwrap();
        assert!(text.contains(r#""from_the_future":{"a":[1]}"#), "{text}");
    }

    #[test]
    fn a_newer_format_and_garbage_are_told_apart_without_a_word_of_the_content() {
        let text = String::from_utf8(record().write().unwrap().to_vec()).unwrap();
        let newer = text.replace(r#""format":1"#, r#""format":2"#);
        assert_eq!(Record::read(newer.as_bytes()).err().map(|e| e.kind()), Some(StoreErrorKind::NewerVersion));
        let odd = text.replace(r#""generation":0"#, r#""generation":"s3cret""#);
        for bad in ["", "null", "[]", "{}", &text[..text.len() / 2], &odd] {
            let error = Record::read(bad.as_bytes()).err().unwrap();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{bad}");
            assert!(!format!("{error:?}").contains("s3cret"));
        }
    }

    #[test]
    fn scopes_narrow_and_never_widen() {
        let names = |record: &Record| record.scopes.iter().cloned().collect::<Vec<_>>().join(" ");
        let mut record = record();
        record.set_scope(Some("read write".into()));
        assert_eq!(names(&record), "read write");
        record.set_scope(None);
        record.set_scope(Some("read admin".into()));
        assert_eq!(names(&record), "read");
        record.set_scope(Some("read write admin".into()));
        assert_eq!(names(&record), "read");

        let mut explicit = self::record();
        explicit.set_scope(Some("jobs notes".into()));
        explicit.set_grants(Grants::new().scope("jobs").scope("of-the-app"), Stamp::NEVER);
        explicit.set_scope(Some("notes".into()));
        assert_eq!(names(&explicit), "of-the-app");
    }
}
