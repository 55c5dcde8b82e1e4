//! The next start: everybody whom the store has a record of, and nobody else.

use crate::{
    flaky::{Call, Fault, Flaky},
    ids,
    keys::Keys,
    kind_of,
    kit::{SEC, get},
    town::{Realm, Town, named, send},
    world::{state, token},
};
use http::StatusCode;
use tower_reauth::{
    AccountId, ErrorKind, FileStore, LockCause, MemoryStore, RefreshError, RefreshGrant, Refresher, Sealed, Session,
    SessionStore, SignOut, StoreErrorKind, Tokens,
};

/// The same accounts of another issuer, or another client.
struct Elsewhere(Realm, &'static str, &'static str);

impl Refresher for Elsewhere {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        self.0.refresh(grant).await
    }

    fn issuer(&self) -> &str {
        self.1
    }

    fn client_id(&self) -> &str {
        self.2
    }
}

/// Everybody's records are in this store. `next`: another process over it.
async fn restores<S: SessionStore>(first: S, next: impl Fn() -> S) {
    let town = Town::with(first, &["alice", "carol", "dave", "eve"], |builder| builder).await;
    let bob = AccountId::new("bob").with_tenant("acme");
    town.accounts.open(&bob).await.unwrap().sign_in(town.issuer("bob").sign_in()).await.unwrap();
    town.session("carol").sign_out(SignOut::Soft).await.unwrap();
    town.session("dave").sign_out(SignOut::Hard).await.unwrap();
    town.session("eve").lock(LockCause::Application).await.unwrap();
    town.accounts.open("frank").await.unwrap(); // who has never signed in
    for (issuer, client) in [("https://evil.test/token", "app"), ("https://id.example.com/token", "other")] {
        let builder = Session::builder(Elsewhere(town.realm.clone(), issuer, client)).store(next());
        let others = builder.clock(town.clock.clone()).open_accounts().await.unwrap();
        assert!(others.ids().is_empty(), "{issuer} {client}");
        let tokens = Tokens::new("x").with_refresh_token("rx").with_expires_in(100 * SEC);
        others.open("gina").await.unwrap().sign_in(tokens).await.unwrap();
        others.close().await.unwrap();
    }
    town.activate("alice");
    town.accounts.close().await.unwrap();

    let mut again = Town { accounts: town.builder(next()).open_accounts().await.unwrap(), ..town };
    let all = [AccountId::new("alice"), bob.clone(), AccountId::new("carol"), AccountId::new("eve")];
    assert_eq!(again.accounts.ids(), all);
    assert!(again.accounts.active().is_none(), "who was active is not stored");
    let states = all.each_ref().map(|account| state(&again.accounts.get(account).unwrap()));
    assert_eq!(states, ["active", "active", "signed out here", "locked"]);
    assert_eq!(again.realm.exchanges().iter().sum::<u64>(), 0, "nothing was exchanged");

    let api = again.api();
    for account in ["alice", "carol", "eve"].map(AccountId::new).into_iter().chain([bob.clone()]) {
        let kind = kind_of(send(&api, named(get("/"), account.clone())).await);
        let expected = match account.subject() {
            "carol" => Err(ErrorKind::SignedOut),
            "eve" => Err(ErrorKind::Locked),
            _ => Ok(StatusCode::OK),
        };
        assert_eq!(kind, expected, "{account:?}");
    }
    assert_eq!(again.seen.all(), ["GET / Bearer a10.0", "GET / Bearer a50.0"]);
    // The sessions are whole: they refresh, and what they save the next start finds.
    again.expire();
    assert_eq!(token(&again.accounts.get(&bob).unwrap()).await.unwrap(), "a50.1");
    assert_eq!(state(&again.accounts.open("dave").await.unwrap()), "signed out here");
    again.accounts.close().await.unwrap();
    again.accounts = again.builder(next()).open_accounts().await.unwrap();
    assert_eq!(again.accounts.ids(), all);
    assert_eq!(token(&again.accounts.get(&bob).unwrap()).await.unwrap(), "a50.1");
}

#[tokio::test(start_paused = true)]
async fn everybody_is_restored_from_memory() {
    let store = MemoryStore::new();
    restores(store.clone(), || store.clone()).await;
}

#[tokio::test]
async fn everybody_is_restored_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let open = || FileStore::open(dir.path()).unwrap();
    restores(open(), open).await;
}

#[tokio::test(start_paused = true)]
async fn everybody_is_restored_from_sealed_memory() {
    let (store, keys) = (MemoryStore::new(), Keys::new());
    let open = || Sealed::new(store.clone(), keys.clone());
    restores(open(), open).await;
}

#[tokio::test]
async fn everybody_is_restored_from_sealed_files() {
    let (dir, keys) = (tempfile::tempdir().unwrap(), Keys::new());
    let open = || Sealed::new(FileStore::open(dir.path()).unwrap(), keys.clone());
    restores(open(), open).await;
}

/// P13: her record still stands there, since nobody had the lease or the time to replace it; the mark says that it is over.
#[tokio::test(start_paused = true)]
async fn p13_who_has_signed_out_is_restored_signed_out_though_the_record_stands() {
    let store = Flaky::new();
    let town = Town::new(store.clone()).await;
    store.always(Call::Save, Fault::Fail(StoreErrorKind::Unavailable));
    town.session("alice").sign_out(SignOut::Soft).await.unwrap();
    let again = town.builder(store.clone()).open_accounts().await.unwrap();
    let states = ["alice", "bob"].map(|subject| state(&again.get(&subject.into()).unwrap()));
    assert_eq!(states, ["signed out here", "active"]);
}

/// A start costs a load and a mark for each account, and takes no lease: another process may hold it.
#[tokio::test(start_paused = true)]
async fn a_start_takes_no_lease_and_loads_each_once() {
    let store = Flaky::new();
    let town = Town::new(store.clone()).await;
    let (started, hold) = town.issuer("alice").hold();
    let session = town.session("alice");
    let flight = tokio::spawn(async move { session.refresh().await });
    started.notified().await; // under the lease
    store.forget_calls();
    let again = town.builder(store.clone()).open_accounts().await.unwrap();
    assert_eq!(again.ids(), ids(["alice", "bob"]));
    assert_eq!(store.calls(), [Call::Load, Call::Mark, Call::Load, Call::Mark]);
    hold.add_permits(1);
    flight.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_has_nobody() {
    let town = Town::with(MemoryStore::new(), &[], |builder| builder).await;
    assert!(town.accounts.ids().is_empty() && town.accounts.active().is_none());
    town.accounts.close().await.unwrap();
}

#[test]
fn without_a_runtime_it_is_misconfigured() {
    let open = Session::builder(Realm::default()).open_accounts();
    let error = futures_util::FutureExt::now_or_never(open).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
}
