//! Several accounts behind one service: each with an issuer of its own, one store, and a clock that goes with tokio's.
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use crate::kit::{Api, Issuer, Log, ORIGIN, Req, SEC, Seen, api, clock};
use http::StatusCode;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_reauth::{
    AccountId, Accounts, AuthError, AuthLayer, ManualClock, Origins, RefreshError, RefreshGrant, Refresher,
    RevokeGrant, Revoked, Session, SessionBuilder, SessionStore, Tokens,
};

/// The issuers, by subject. The tokens of each are of a family of their own: `a10.0`, `a20.0`.
#[derive(Clone, Default)]
pub struct Realm(Arc<Mutex<BTreeMap<String, Issuer>>>);

impl Realm {
    pub fn issuer(&self, subject: &str) -> Issuer {
        let mut issuers = self.0.lock().unwrap();
        let next = 10 * (issuers.len() as u64 + 1);
        issuers.entry(subject.to_owned()).or_insert_with(|| Issuer::of_family(next)).clone()
    }

    /// How often each was asked, by subject.
    pub fn exchanges(&self) -> Vec<u64> {
        self.0.lock().unwrap().values().map(Issuer::exchanges).collect()
    }

    /// The one that made this access token: nobody can tell by another's.
    fn of_token(&self, token: &str) -> Issuer {
        let family: u64 = token.trim_start_matches('a').split('.').next().unwrap().parse().unwrap();
        let issuers = self.0.lock().unwrap();
        issuers.values().find(|issuer| issuer.books().family / 10 == family / 10).expect("a known token").clone()
    }
}

impl Refresher for Realm {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        self.issuer(grant.account().subject()).refresh(grant).await
    }

    async fn revoke(&self, grant: RevokeGrant) -> Result<Revoked, RefreshError> {
        self.issuer(grant.account().subject()).revoke(grant).await
    }

    fn issuer(&self) -> &str {
        "https://id.example.com/token"
    }

    fn client_id(&self) -> &str {
        "app"
    }
}

/// The accounts, and an API that takes each one's tokens.
pub struct Town {
    pub realm: Realm,
    pub clock: ManualClock,
    pub seen: Seen,
    pub log: Log,
    pub accounts: Accounts,
}

impl Town {
    /// `alice` (`a10.0`) and `bob` (`a20.0`), signed in for 100 s. Nobody is active.
    pub async fn new(store: impl SessionStore) -> Self {
        Self::with(store, &["alice", "bob"], |builder| builder).await
    }

    pub async fn with(
        store: impl SessionStore,
        subjects: &[&str],
        f: impl FnOnce(SessionBuilder) -> SessionBuilder,
    ) -> Self {
        let realm = Realm::default();
        Self::refreshing(realm.clone(), realm, store, subjects, f).await
    }

    pub async fn refreshing(
        refresher: impl Refresher,
        realm: Realm,
        store: impl SessionStore,
        subjects: &[&str],
        f: impl FnOnce(SessionBuilder) -> SessionBuilder,
    ) -> Self {
        let (clock, log) = (clock(), Log::default());
        let builder = Session::builder(refresher).store(store).clock(clock.clone()).background_refresh(false);
        let accounts = log.attach(f(builder)).open_accounts().await.unwrap();
        let town = Self { realm, clock, seen: Seen::default(), log, accounts };
        for subject in subjects {
            let tokens = town.issuer(subject).sign_in();
            town.accounts.open(*subject).await.unwrap().sign_in(tokens).await.unwrap();
        }
        town
    }

    /// Another process on this store.
    pub fn builder(&self, store: impl SessionStore) -> SessionBuilder {
        let builder = Session::builder(self.realm.clone()).store(store).clock(self.clock.clone());
        self.log.attach(builder.background_refresh(false))
    }

    pub fn issuer(&self, subject: &str) -> Issuer {
        self.realm.issuer(subject)
    }

    pub fn session(&self, subject: &str) -> Session {
        self.accounts.get(&AccountId::new(subject)).expect("a known account")
    }

    pub fn activate(&self, subject: &str) {
        self.accounts.set_active(&AccountId::new(subject)).unwrap();
    }

    pub fn layer(&self) -> AuthLayer {
        AuthLayer::for_accounts(self.accounts.clone(), Origins::new([ORIGIN]).unwrap())
    }

    pub fn api(&self) -> Api {
        self.behind(self.layer())
    }

    pub fn behind(&self, layer: AuthLayer) -> Api {
        BoxCloneSyncService::new(layer.layer(self.api_itself()))
    }

    /// The API without the layer.
    pub fn api_itself(&self) -> Api {
        let (realm, seen) = (self.realm.clone(), self.seen.clone());
        let service = service_fn(move |request: Req| {
            let token = request.headers()["authorization"].to_str().unwrap().replace("Bearer ", "");
            api(&realm.of_token(&token), &seen).oneshot(request)
        });
        BoxCloneSyncService::new(service.map_err(Into::into))
    }

    /// Time goes by for the sessions' clock and for tokio's timers alike.
    pub async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(SEC);
            tokio::time::sleep(SEC).await;
        }
    }

    /// Every access token is past its end.
    pub fn expire(&self) {
        self.clock.advance(101 * SEC);
    }
}

pub fn named(mut request: Req, account: impl Into<AccountId>) -> Req {
    request.extensions_mut().insert(account.into());
    request
}

pub async fn send(api: &Api, request: Req) -> Result<StatusCode, AuthError> {
    crate::kit::send(api, request).await
}

/// The tasks have had their turn.
pub async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub const MINUTE: Duration = Duration::from_secs(60);
