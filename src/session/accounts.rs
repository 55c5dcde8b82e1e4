//! [`Accounts`]: the sessions of several accounts, side by side.

use super::{Session, open::Foundation};
use crate::{account::AccountId, error::AuthError, message::Target};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// The sessions of several accounts over one store, one for each. Clones share it.
///
/// They share what the builder says, and nothing else: tokens, refreshes, cool-downs, failures and sign-outs of one never
/// touch another. An account stays known until the program ends, also when it is signed out.
///
/// ```
/// use tower_reauth::{AccountId, MemoryStore, Session, Tokens, refresh_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::AuthError> {
/// let store = MemoryStore::new();
/// let builder = || Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh")))).store(store.clone());
///
/// let accounts = builder().open_accounts().await?;
/// accounts.open("alice").await?.sign_in(Tokens::new("a").with_refresh_token("ra")).await?;
/// let bob = AccountId::new("bob").with_tenant("acme");
/// accounts.open(&bob).await?.sign_in(Tokens::new("b").with_refresh_token("rb")).await?;
/// accounts.close().await?;
///
/// let again = builder().open_accounts().await?; // the next start
/// assert_eq!(again.ids(), [AccountId::new("alice"), bob.clone()]);
/// again.set_active(&bob)?;
/// assert_eq!(again.active().map(|session| session.account().clone()), Some(bob));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Accounts(Arc<Shared>);

struct Shared {
    foundation: Foundation,
    directory: ArcSwap<Directory>,
    opening: Mutex<BTreeMap<AccountId, Weak<Turn>>>,
}

/// Whoever has it opens the account.
type Turn = tokio::sync::Mutex<()>;

/// Who is known. Requests read it without a lock.
#[derive(Clone, Default)]
struct Directory {
    sessions: BTreeMap<AccountId, Session>,
    active: Option<Session>,
}

impl Accounts {
    pub(crate) fn new(foundation: Foundation, restored: Vec<Session>) -> Self {
        let sessions = restored.into_iter().map(|session| (session.account().clone(), session)).collect();
        let directory = ArcSwap::from_pointee(Directory { sessions, active: None });
        Self(Arc::new(Shared { foundation, directory, opening: Mutex::default() }))
    }

    /// The session of an account. One that is not known yet is restored, as by [`SessionBuilder::open`]; a new one begins
    /// signed out.
    ///
    /// Cancelled, it changes nothing.
    ///
    /// # Errors
    /// As [`SessionBuilder::open`].
    ///
    /// [`SessionBuilder::open`]: crate::SessionBuilder::open
    pub async fn open(&self, account: impl Into<AccountId>) -> Result<Session, AuthError> {
        let account = account.into();
        if let Some(session) = self.get(&account) {
            return Ok(session);
        }
        // Of two at once one waits for the other: one session for an account, and so one refresh (P1).
        let turn = self.turn(&account);
        let _turn = turn.lock().await;
        if let Some(session) = self.get(&account) {
            return Ok(session);
        }
        let session = self.0.foundation.open(account).await?;
        self.0.directory.rcu(|directory| {
            let mut directory = Directory::clone(directory);
            directory.sessions.insert(session.account().clone(), session.clone());
            directory
        });
        Ok(session)
    }

    fn turn(&self, account: &AccountId) -> Arc<Turn> {
        let mut opening = self.0.opening.lock().unwrap_or_else(PoisonError::into_inner);
        opening.retain(|_, turn| turn.strong_count() > 0);
        let waiting = opening.get(account).and_then(Weak::upgrade);
        waiting.unwrap_or_else(|| {
            let turn = Arc::default();
            opening.insert(account.clone(), Arc::downgrade(&turn));
            turn
        })
    }

    /// The session of a known account.
    pub fn get(&self, account: &AccountId) -> Option<Session> {
        self.0.directory.load().sessions.get(account).cloned()
    }

    /// The known accounts, whatever their state, by subject and tenant.
    pub fn ids(&self) -> Vec<AccountId> {
        self.0.directory.load().sessions.keys().cloned().collect()
    }

    /// The account of requests that name none. None at the start: it is not stored, and opening an account does not make it
    /// the active one.
    pub fn active(&self) -> Option<Session> {
        self.0.directory.load().active.clone()
    }

    /// Makes a known account the active one. Requests that are under way keep theirs.
    ///
    /// # Errors
    /// `Misconfigured` if the account is not known.
    pub fn set_active(&self, account: &AccountId) -> Result<(), AuthError> {
        let session = self.get(account).ok_or_else(|| AuthError::misconfigured("the account is not open"))?;
        self.0.directory.rcu(|directory| Directory { active: Some(session.clone()), ..Directory::clone(directory) });
        Ok(())
    }

    /// As [`Session::is_token_request`], whoever it is made for.
    pub(crate) fn is_token_request(&self, target: &Target<'_>) -> bool {
        self.0.foundation.config.is_token_request(target)
    }

    /// [Closes](Session::close) every session, all at once. They can be used afterwards.
    ///
    /// # Errors
    /// The first one's; the others are closed all the same.
    pub async fn close(&self) -> Result<(), AuthError> {
        let directory = self.0.directory.load_full();
        let settled = join_all(directory.sessions.values().map(Session::settle)).await.into_iter().collect();
        if let Some(session) = directory.sessions.values().next() {
            session.0.save_mark().await; // once: it is the same for all
        }
        settled
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.0.directory.load();
        f.debug_struct("Accounts")
            .field("sessions", &directory.sessions.values())
            .field("active", &directory.active.as_ref().map(Session::account))
            .finish_non_exhaustive()
    }
}
