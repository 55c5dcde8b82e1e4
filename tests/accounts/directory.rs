//! Who is known and who is active: `open`, `get`, `ids`, `active`, `set_active`, `close`.

use crate::{
    flaky::{Call, Fault, Flaky},
    ids, kind_of,
    kit::{SEC, get, send},
    town::{Town, named, settle},
    world::{state, token},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use http::StatusCode;
use tokio_test::{assert_pending, task};
use tower_reauth::{
    AccountId, Accounts, AuthError, AuthEvent, AuthState, ErrorKind, MemoryStore, Session, SignOut, StoreErrorKind,
};

type Opening = task::Spawn<BoxFuture<'static, Result<Session, AuthError>>>;

fn opening(accounts: &Accounts, account: &'static str) -> Opening {
    let accounts = accounts.clone();
    task::spawn(async move { accounts.open(account).await }.boxed())
}

#[tokio::test(start_paused = true)]
async fn the_known_are_sorted_and_nobody_is_active_unasked() {
    let town = Town::with(MemoryStore::new(), &["carol", "alice"], |builder| builder).await;
    let tenant = AccountId::new("alice").with_tenant("acme");
    town.accounts.open(&tenant).await.unwrap();
    assert_eq!(town.accounts.ids(), [AccountId::new("alice"), tenant.clone(), AccountId::new("carol")]);
    assert!(town.accounts.active().is_none(), "opening an account does not make it the active one");

    town.activate("carol");
    assert_eq!(town.accounts.active().unwrap().account().subject(), "carol");
    let unknown = town.accounts.set_active(&AccountId::new("dave"));
    assert_eq!(kind_of(unknown), Err(ErrorKind::Misconfigured));
    assert_eq!(town.accounts.active().unwrap().account().subject(), "carol", "nothing has changed");
    assert!(town.accounts.get(&AccountId::new("dave")).is_none());

    let clone = town.accounts.clone();
    clone.set_active(&tenant).unwrap();
    clone.open("dave").await.unwrap();
    assert_eq!(town.accounts.active().unwrap().account(), &tenant, "clones share it");
    assert_eq!(town.accounts.ids().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_account_is_opened_once_and_stays_known_when_it_is_signed_out() {
    let store = Flaky::new();
    let town = Town::new(store.clone()).await;
    store.forget_calls();
    let again = town.accounts.open("alice").await.unwrap();
    assert_eq!((store.calls().len(), token(&again).await), (0, Ok("a10.0".into())), "the store is not asked again");

    town.activate("alice");
    again.sign_out(SignOut::Hard).await.unwrap();
    assert_eq!(
        (town.accounts.ids(), state(&town.session("alice"))),
        (ids(["alice", "bob"]).to_vec(), "signed out here")
    );
    let error = send(&town.api(), get("/")).await.unwrap_err();
    assert_eq!((error.kind(), error.denial().is_some()), (ErrorKind::SignedOut, true), "she is still the active one");
    again.sign_in(town.issuer("alice").sign_in()).await.unwrap();
    assert_eq!(send(&town.api(), get("/")).await.unwrap(), StatusCode::OK);
}

/// Alice's record says that she has to sign in again: every session that opens it turns, and tells of that. With a platform
/// that has a say, the one that is signed in has a task that watches over its expiry.
#[tokio::test(start_paused = true)]
async fn p01_openings_at_once_give_one_session_one_task_and_one_event() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let turned = |event: &AuthEvent| matches!(event, AuthEvent::StateChanged { state, .. } if matches!(state, AuthState::ReauthRequired(_)));
    for (revoked, tasks, events) in [(true, 0, 1), (false, 1, 0)] {
        let store = Flaky::new();
        let town = Town::with(store.clone(), &[], |builder| builder).await;
        let accounts = town.builder(store.clone()).connectivity(|| Some(true)).open_accounts().await.unwrap();
        let elsewhere = town.accounts.open("alice").await.unwrap();
        elsewhere.sign_in(town.issuer("alice").sign_in()).await.unwrap();
        if revoked {
            town.issuer("alice").books().revoked = true;
            assert!(elsewhere.refresh().await.is_err());
            town.expire();
            assert_eq!(state(&elsewhere), "revoked");
        }
        settle().await;
        let (before, pause) = ((alive(), town.log.count(turned)), store.pause(Call::Load, 0));
        store.forget_calls();

        let mut first = opening(&accounts, "alice");
        assert_pending!(first.poll());
        pause.reached().await;
        let mut rest: Vec<_> = (0..4).map(|_| opening(&accounts, "alice")).collect();
        for open in &mut rest {
            assert_pending!(open.poll());
        }
        assert_eq!(store.count(Call::Load), 1, "one asks the store, the others wait");
        let bob = tokio::time::timeout(SEC, accounts.open("bob")).await.expect("he does not wait").unwrap();
        assert_eq!((state(&bob), store.count(Call::Load)), ("never signed in", 2), "but nobody else does");

        drop(first); // whoever asked has gone: another one opens it
        let sessions: Vec<Session> = join_all(rest).await.into_iter().map(Result::unwrap).collect();
        assert_eq!((store.count(Call::Load), accounts.ids()), (3, ids(["alice", "bob"]).to_vec()));
        settle().await;
        assert_eq!((alive() - before.0, town.log.count(turned) - before.1), (tasks, events), "revoked: {revoked}");

        // They are one: what happens to one of them has happened to all.
        let tokens = town.issuer("alice").sign_in();
        let access = tokens.access_token().expose().to_owned();
        sessions[0].sign_in(tokens).await.unwrap();
        for session in sessions {
            assert_eq!(token(&session).await.unwrap(), access);
        }
    }
}

/// The same where they run at the very same moment: nobody puts a place of his own over another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p01_openings_on_several_threads_give_one_session() {
    let store = Flaky::new();
    let town = Town::with(store.clone(), &[], |builder| builder).await;
    for round in 0..300 {
        let start = std::sync::Arc::new(tokio::sync::Barrier::new(4));
        let tasks = [(); 4].map(|()| {
            let (accounts, start) = (town.accounts.clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                accounts.open(format!("user {round}")).await.unwrap()
            })
        });
        join_all(tasks).await.into_iter().for_each(|session| drop(session.unwrap()));
    }
    assert_eq!((store.count(Call::Load), town.accounts.ids().len()), (300, 300));
}

/// One whose opening failed is not known, and the next one tries again.
#[tokio::test(start_paused = true)]
async fn an_opening_that_fails_leaves_nothing_behind() {
    let store = Flaky::new();
    let town = Town::with(store.clone(), &[], |builder| builder).await;
    store.nth(Call::Load, 0, Fault::Fail(StoreErrorKind::Unavailable));
    let pause = store.pause(Call::Mark, 0);
    let (failed, waited) = tokio::join!(town.accounts.open("alice"), async {
        let mut second = opening(&town.accounts, "alice");
        assert_pending!(second.poll());
        pause.reached().await; // the first one has failed by now
        assert!(town.accounts.ids().is_empty());
        pause.go_on();
        second.await
    });
    assert_eq!(kind_of(failed.map(drop)), Err(ErrorKind::Store));
    assert_eq!(state(&waited.unwrap()), "never signed in");
    assert_eq!(town.accounts.ids(), ids(["alice"]));
}

// ===== close =====

#[tokio::test(start_paused = true)]
async fn close_closes_all_and_reports_the_first_error() {
    let store = Flaky::new();
    let town = Town::with(store.clone(), &["alice", "bob", "carol"], |builder| builder).await;
    assert_eq!(kind_of(town.accounts.close().await), Ok(()));

    // Alice's tokens cannot be saved, and bob's exchange is in the air.
    let (started, hold) = town.issuer("bob").hold();
    let mut flight = task::spawn(async { town.session("bob").refresh().await }.boxed());
    assert_pending!(flight.poll());
    started.notified().await;
    store.always(Call::Save, Fault::Fail(StoreErrorKind::Unavailable));
    town.session("alice").refresh().await.unwrap_err(); // the journal cannot be written either
    store.heal();
    store.after(Call::Save, 1, Fault::Fail(StoreErrorKind::Unavailable));
    town.pass(10).await;
    town.session("alice").refresh().await.unwrap();
    assert_eq!(state(&town.session("alice")), "active, unsaved");

    let mut close = task::spawn(async { town.accounts.close().await }.boxed());
    assert_pending!(close.poll());
    settle().await;
    assert_pending!(close.poll(), "bob's exchange is waited for, though alice's error is known");
    hold.add_permits(1);
    let error = close.await.unwrap_err();
    assert_eq!((error.kind(), town.realm.exchanges()), (ErrorKind::Store, vec![1, 1, 0]));
    assert_eq!(
        (state(&town.session("bob")), token(&town.session("bob")).await),
        ("active, unsaved", Ok("a20.1".into()))
    );

    // They can be used afterwards, and closed once more.
    store.heal();
    assert_eq!(kind_of(town.accounts.close().await), Ok(()));
    let api = town.api();
    for subject in ["alice", "bob", "carol"] {
        assert_eq!(state(&town.session(subject)), "active");
        assert_eq!(send(&api, named(get("/"), subject)).await.unwrap(), StatusCode::OK);
    }
}

// ===== types =====

#[tokio::test]
async fn accounts_and_what_they_answer_cross_threads() {
    fn shared<T: Send + Sync>(value: T) -> T {
        value
    }
    fn sent<T: Send>(value: T) -> T {
        value
    }
    let town = Town::new(MemoryStore::new()).await;
    let accounts = shared(town.accounts.clone());
    shared(town.layer());
    drop(sent(accounts.open("alice")));
    drop(sent(accounts.close()));
    drop(sent(town.builder(MemoryStore::new()).open_accounts()));
    let known = tokio::spawn(async move { accounts.ids() }).await.unwrap();
    let text = format!("{:?} {:?}", town.accounts, town.layer());
    assert_eq!(known, ids(["alice", "bob"]));
    assert!(text.contains("bob") && !["a10.", "r10.", "a20.", "r20."].iter().any(|it| text.contains(it)), "{text}");
}
