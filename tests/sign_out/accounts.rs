//! Accounts apart (P12, case 36), and records that are not ours (P10, case 43).

use crate::{
    flaky::Flaky,
    kit::{Issuer, SEC},
    world::{World, kind, pass, state, token},
};
use serde_json::json;
use tower_reauth::{AccountId, ErrorKind, LockCause, RefreshError, RefreshGrant, Refresher, Session, SignOut, Tokens};

/// Alice and Bob on one store, each with an issuer of their own.
async fn two() -> (World, Session, Issuer, Session) {
    let (world, alice) = World::signed_in(Flaky::new()).await;
    let issuer = Issuer::new();
    issuer.books().family = 9;
    let bob = Session::builder(issuer.clone())
        .store(world.store.clone())
        .clock(world.clock.clone())
        .background_refresh(false)
        .open("bob")
        .await
        .unwrap();
    bob.sign_in(issuer.sign_in()).await.unwrap();
    (world, alice, issuer, bob)
}

#[tokio::test(start_paused = true)]
async fn case_36_two_accounts_refresh_at_the_same_time() {
    let (world, alice, issuer, bob) = two().await;
    world.expire().await;
    let both = tokio::join!(token(&alice), token(&bob));
    assert_eq!(both, (Ok("a1.1".into()), Ok("a9.1".into())));
    assert_eq!((world.books(), issuer.exchanges()), ((1, 0), 1));
}

#[tokio::test(start_paused = true)]
async fn case_36_alice_fails_and_bob_works() {
    let (world, alice, issuer, bob) = two().await;
    world.expire().await;
    world.issuer.fail(|| RefreshError::not_sent("refused").retry_after(100 * SEC));
    assert_eq!((token(&alice).await, token(&bob).await), (Err(ErrorKind::Unavailable), Ok("a9.1".into())));
    assert_eq!((state(&alice), state(&bob), issuer.exchanges()), ("stale", "active", 1));
}

#[tokio::test(start_paused = true)]
async fn p12_sign_outs_locks_and_refusals_of_one_never_touch_another() {
    let ends: [AsyncEnd; 4] = [
        |a, _| Box::pin(async move { a.sign_out(SignOut::Soft).await.unwrap() }),
        |a, _| Box::pin(async move { a.sign_out(SignOut::Hard).await.unwrap() }),
        |a, _| Box::pin(async move { a.lock(LockCause::Application).await.unwrap() }),
        |a, issuer| {
            issuer.books().revoked = true;
            Box::pin(async move { assert!(a.refresh().await.is_err()) })
        },
    ];
    for end in ends {
        let (world, alice, _, bob) = two().await;
        let keys = world.store.keys();
        let (record, mark) = (world.store.record_of(&keys[1]), world.store.mark_of(&keys[1]));
        end(alice, world.issuer.clone()).await;
        pass(20 * SEC).await;
        assert_eq!((world.store.record_of(&keys[1]), world.store.mark_of(&keys[1])), (record, mark));
        assert_eq!((token(&bob).await, kind(bob.refresh().await), state(&bob)), (Ok("a9.0".into()), Ok(()), "active"));
    }
}

type AsyncEnd = fn(Session, Issuer) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

#[tokio::test(start_paused = true)]
async fn p12_one_subject_at_two_tenants_is_two_accounts() {
    let (world, alice) = World::signed_in(Flaky::new()).await;
    let other = world.builder().open(AccountId::new("alice").with_tenant("acme")).await.unwrap();
    assert_eq!((state(&other), token(&other).await), ("never signed in", Err(ErrorKind::SignedOut)));
    other.sign_out(SignOut::Hard).await.unwrap();
    assert_eq!((token(&alice).await, world.store.keys().len()), (Ok("a1.0".into()), 2));
}

/// The same account of another issuer or client.
struct Other {
    issuer: Issuer,
    endpoint: &'static str,
    client: &'static str,
}

impl Refresher for Other {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        self.issuer.refresh(grant).await
    }

    fn issuer(&self) -> &str {
        self.endpoint
    }

    fn client_id(&self) -> &str {
        self.client
    }
}

#[tokio::test(start_paused = true)]
async fn case_43_a_record_of_another_issuer_or_client_is_misconfigured_and_nothing_is_sent() {
    for (endpoint, client) in [("https://id.example.com/token", "other"), ("https://evil.test/token", "app")] {
        let (world, _alice) = World::signed_in(Flaky::new()).await;
        let builder = || {
            Session::builder(Other { issuer: world.issuer.clone(), endpoint, client })
                .store(world.store.clone())
                .clock(world.clock.clone())
        };
        let other = builder().open("alice").await.unwrap();
        assert_eq!(state(&other), "never signed in", "another key");
        other.sign_in(Tokens::new("t").with_refresh_token("theirs").with_expires_in(50 * SEC)).await.unwrap();
        let keys = world.store.keys();
        let (alices, theirs) = (keys[0].clone(), keys[1].clone());
        let bytes = world.store.stored(&alices).unwrap();
        world.store.put(&theirs, bytes.bytes());

        assert_eq!(builder().open("alice").await.unwrap_err().kind(), ErrorKind::Misconfigured);
        assert_eq!(kind(other.refresh().await), Err(ErrorKind::Misconfigured), "in a session that is open, too");
        world.expire().await;
        assert!(token(&other).await.is_err());
        assert_eq!(world.books().0, 0);
        assert_eq!(world.store.record_of(&theirs), world.store.record_of(&alices), "and it is left as it is");
    }
}

#[tokio::test(start_paused = true)]
async fn p12_a_record_of_another_account_is_never_used() {
    let (world, _alice, issuer, bob) = two().await;
    let keys = world.store.keys();
    let alices = world.store.stored(&keys[0]).unwrap();
    world.store.put(&keys[1], alices.bytes());
    assert_eq!(world.builder().open("bob").await.unwrap_err().kind(), ErrorKind::Store);
    assert!(world.store.stored(&keys[1]).is_none(), "it was put aside");
    world.store.put(&keys[1], alices.bytes());
    assert!(bob.refresh().await.is_err());
    assert_eq!((token(&bob).await, issuer.exchanges(), world.books().0), (Ok("a9.0".into()), 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_record_of_a_newer_format_is_left_in_place() {
    let (world, alice) = World::signed_in(Flaky::new()).await;
    world.store.edit(|record| record["format"] = json!(2));
    let before = world.store.record();
    assert_eq!(world.builder().open("alice").await.unwrap_err().kind(), ErrorKind::Store);
    assert_eq!(kind(alice.refresh().await), Err(ErrorKind::Unavailable));
    assert_eq!((token(&alice).await, world.books().0, world.store.record()), (Ok("a1.0".into()), 0, before));
}
