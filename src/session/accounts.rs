//! [`Accounts`]: the sessions of several accounts, side by side.

use super::{Session, open::Foundation};
use crate::{
    account::AccountId,
    error::{AuthError, ErrorKind},
    message::Target,
};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use std::{collections::BTreeMap, fmt, sync::Arc};
use tokio::sync::OnceCell;

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
}

/// Who is known, or asked for. Requests read it without a lock.
#[derive(Clone, Default)]
struct Directory {
    places: BTreeMap<AccountId, Place>,
    active: Option<Session>,
}

/// Of one account; empty until it is open. Of those who want it opened at once one opens it.
type Place = Arc<OnceCell<Session>>;

impl Directory {
    fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.places.values().filter_map(|place| place.get())
    }
}

impl Accounts {
    pub(crate) fn new(foundation: Foundation, restored: Vec<Session>) -> Self {
        let place = |session: Session| (session.account().clone(), Place::new(session.into()));
        let places = restored.into_iter().map(place).collect();
        let directory = ArcSwap::from_pointee(Directory { places, active: None });
        Self(Arc::new(Shared { foundation, directory }))
    }

    /// The session of an account. One that is not known yet is restored, as by [`SessionBuilder::open`]; a new one begins
    /// signed out, or `Active` where no refresh token is needed (client credentials). Of those who open one at once, one
    /// asks the store and the others wait; if it fails, the next of them asks.
    ///
    /// Cancelled, it leaves the account unknown.
    ///
    /// # Errors
    /// As [`SessionBuilder::open`].
    ///
    /// [`SessionBuilder::open`]: crate::SessionBuilder::open
    pub async fn open(&self, account: impl Into<AccountId>) -> Result<Session, AuthError> {
        let account = account.into();
        let known = self.0.directory.load().places.get(&account).cloned();
        let place = known.unwrap_or_else(|| self.place(&account));
        place.get_or_try_init(|| self.0.foundation.open(account)).await.cloned()
    }

    /// One for an account, whoever comes first: one session, and so one refresh (P1).
    fn place(&self, account: &AccountId) -> Place {
        let mut place = Place::default();
        self.0.directory.rcu(|directory| {
            let mut directory = Directory::clone(directory);
            place = directory.places.entry(account.clone()).or_insert(place.clone()).clone();
            directory
        });
        place
    }

    /// The session of a known account.
    pub fn get(&self, account: &AccountId) -> Option<Session> {
        self.0.directory.load().places.get(account)?.get().cloned()
    }

    /// The known accounts, whatever their state, by subject and tenant.
    pub fn ids(&self) -> Vec<AccountId> {
        self.0.directory.load().sessions().map(Session::account).cloned().collect()
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
    /// The first one's; the others are closed all the same. `Reentrant` within an exchange of one of them, which it would
    /// wait for: then none is.
    pub async fn close(&self) -> Result<(), AuthError> {
        if self.0.foundation.config.is_within_exchange() {
            return Err(AuthError::new(ErrorKind::Reentrant, "a refresh waits for the end of the sessions beside it"));
        }
        let directory = self.0.directory.load_full();
        let settled = join_all(directory.sessions().map(Session::settle)).await.into_iter().collect();
        if let Some(session) = directory.sessions().next() {
            session.0.save_mark().await; // once: it is the same for all
        }
        settled
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.0.directory.load();
        f.debug_struct("Accounts")
            .field("sessions", &directory.sessions().collect::<Vec<_>>())
            .field("active", &directory.active.as_ref().map(Session::account))
            .finish_non_exhaustive()
    }
}
