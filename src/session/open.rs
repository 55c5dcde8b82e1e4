//! How a session begins: with what the store says.

use super::{
    Session,
    config::Config,
    cooldown::CoolDown,
    expiry,
    inner::Inner,
    record::{Record, Standing},
    snapshot::Snapshot,
    vault::{self, Found, Vault, is_denied, is_in_the_way, is_unreadable},
};
use crate::{
    account::{AccountId, AccountKey, hex},
    error::AuthError,
    failure::RefreshError,
    refresher::Refresher as _,
    state::{AuthState, SignedOutCause},
    store::SharedStore,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What the sessions of one builder stand on.
pub(crate) struct Foundation {
    pub(crate) config: Arc<Config>,
    pub(crate) store: SharedStore,
    pub(crate) for_sign_in: bool,
    /// What could not be read when all were opened, and has not been told yet: some stores put it aside at once.
    pub(crate) damaged: Mutex<BTreeMap<AccountKey, AuthError>>,
}

impl Foundation {
    fn vault(&self, account: AccountId) -> Vault {
        let refresher = &self.config.refresher;
        Vault::new(self.store.clone(), account, refresher.issuer(), refresher.client_id())
    }

    pub(crate) async fn open(&self, account: AccountId) -> Result<Session, AuthError> {
        let vault = self.vault(account);
        let found = match vault.load().await {
            Err(error) if self.for_sign_in && is_in_the_way(&error) => None,
            Err(error) if is_unreadable(&error) => {
                vault.put_aside(self.config.term()).await;
                self.damage(&vault.key);
                return Err(error);
            }
            found => found?,
        };
        match (&found, self.damage(&vault.key)) {
            (None, Some(error)) if !self.for_sign_in => Err(error),
            _ => self.restore(vault, found).await,
        }
    }

    /// What is told once.
    fn damage(&self, key: &AccountKey) -> Option<AuthError> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).remove(key)
    }

    /// Every account with a record of this issuer and client. One that cannot be read keeps no other from its place; but if
    /// there are no others, it is an error, lest nothing be shown where a key is only locked away.
    pub(crate) async fn open_all(&self) -> Result<Vec<Session>, AuthError> {
        let mut sessions = Vec::new();
        let mut denied = None;
        for key in vault::keys(&self.store).await? {
            match self.open_stored(&key).await {
                Ok(session) => sessions.extend(session),
                Err(error) if is_unreadable(&error) => {
                    self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(key, error);
                }
                Err(error) if is_denied(&error) => denied = Some(error),
                Err(error) => return Err(error),
            }
        }
        match denied.filter(|_| sessions.is_empty() && !self.for_sign_in) {
            Some(error) => Err(error),
            None => Ok(sessions),
        }
    }

    /// `None`: nobody's any more, or that of another issuer or client, whose keys are others.
    async fn open_stored(&self, key: &AccountKey) -> Result<Option<Session>, AuthError> {
        let Some(found) = vault::find(&self.store, key).await? else { return Ok(None) };
        let vault = self.vault(found.record.account());
        match vault.key == *key && vault.accept(&found.record).is_ok() {
            true => self.restore(vault, Some(found)).await.map(Some),
            false => Ok(None),
        }
    }

    async fn restore(&self, vault: Vault, found: Option<Found>) -> Result<Session, AuthError> {
        let mut owner = [0; 16];
        getrandom::fill(&mut owner).map_err(|error| {
            AuthError::misconfigured("the system has no random numbers").caused_by(error.to_string())
        })?;
        let mark = vault.mark().await?;
        let live = found.map(|found| found.record).filter(|record| record.epoch >= mark);
        let snapshot = match &live {
            Some(record) => Snapshot::new(record.epoch, record.generation, with_record(record)),
            None => Snapshot::new(mark, 0, without_record(mark, self.config.self_starting)),
        };
        let inner = Arc::new(Inner::new(self.config.clone(), vault, hex(&owner), snapshot));
        let reader = Arc::downgrade(&inner);
        self.config.enlist(reader); // first: what a server tells the others from here on, it is told too
        if let Some(record) = &live {
            inner.restore(record);
            expiry::watch_expiry(&inner);
        }
        Ok(Session(inner))
    }
}

/// Where a session begins that has a record, before what it says is adopted.
fn with_record(record: &Record) -> AuthState {
    match record.standing {
        Standing::SignedOut => AuthState::SignedOut(SignedOutCause::Here),
        Standing::SignedIn | Standing::ReauthRequired(_) | Standing::Locked(_) => {
            AuthState::Active { reauth_pending: false, unsaved: false }
        }
    }
}

/// Where a session stands that has no record.
fn without_record(mark: u64, self_starting: bool) -> AuthState {
    match mark {
        mark if mark % 2 == 1 => AuthState::SignedOut(SignedOutCause::Here),
        _ if self_starting => AuthState::Active { reauth_pending: false, unsaved: false },
        0 => AuthState::SignedOut(SignedOutCause::Never),
        _ => AuthState::SignedOut(SignedOutCause::Elsewhere),
    }
}

impl Inner {
    /// What a record says, at the start of a session.
    fn restore(&self, record: &Record) {
        if record.standing != Standing::SignedOut {
            self.adopt(record, record.epoch);
            if !self.config.time.is_trusted() {
                // How old it is, nobody knows: as good as spent, until a server has been asked.
                self.edit(|edit| edit.amend(|snapshot| snapshot.refused = true));
            }
        }
        let now = self.now();
        if let Some(failure) = &record.failure
            && let Some(left) = failure.left(failure.until, now)
        {
            let error = AuthError::from(RefreshError::new(failure.kind.into()));
            self.remember(record.epoch, CoolDown::stored(failure, left, error, now, self.monotonic()));
        }
        self.turn_if_spent();
    }
}
