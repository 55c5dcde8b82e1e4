//! Sign-ins and sign-outs of one process that cross while the store is slow: whoever was called last wins (P13).
#![cfg(feature = "test-util")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tower_reauth::{
    AccountKey, AuthError, AuthState, ErrorKind, MemoryStore, RefreshError, RefreshGrant, Refresher, Session,
    SessionStore, SignOut, StoreError, Stored, Tokens, Version, refresh_fn,
};

/// A store of which one call is slow, once, by so many milliseconds.
#[derive(Clone, Default)]
struct Slow {
    store: MemoryStore,
    mark: Arc<AtomicU64>,
    save: Arc<AtomicU64>,
    raised: Arc<AtomicU64>,
}

async fn once(delay: &AtomicU64) {
    tokio::time::sleep(Duration::from_millis(delay.swap(0, Relaxed))).await;
}

impl SessionStore for Slow {
    type Lease = <MemoryStore as SessionStore>::Lease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        self.store.load(key).await
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<Self::Lease, StoreError> {
        self.store.lease(key, ttl).await
    }

    async fn save(
        &self,
        lease: &mut Self::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        once(&self.save).await;
        self.store.save(lease, expected, bytes).await
    }

    async fn remove(&self, lease: &mut Self::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        self.store.remove(lease, expected).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        if to == 0 {
            once(&self.mark).await;
            return self.store.raise_epoch(key, 0).await;
        }
        let mark = self.store.raise_epoch(key, to).await;
        once(&self.raised).await;
        mark
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.store.accounts().await
    }
}

async fn open(store: &Slow) -> Session {
    let refresher = refresh_fn(async |_| Ok(Tokens::new("fresh")));
    Session::builder(refresher).store(store.clone()).open("alice").await.unwrap()
}

fn tokens(name: &str) -> Tokens {
    Tokens::new(name).with_refresh_token(format!("r-{name}"))
}

fn begin(work: impl Future<Output = Result<(), AuthError>> + Send + 'static) -> impl Future<Output = ()> {
    let task = tokio::spawn(work);
    async move { drop(task.await.unwrap()) }
}

async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// What is left when all is quiet: here, and after a restart.
async fn end(session: &Session, store: &Slow) -> [bool; 2] {
    pass(60_000).await;
    [session, &open(store).await].map(|session| matches!(session.state(), AuthState::Active { .. }))
}

#[tokio::test(start_paused = true)]
async fn p13_a_sign_out_is_not_lost_to_an_older_sign_in_elsewhere_that_is_seen_meanwhile() {
    let store = Slow::default();
    let elsewhere = Slow { store: store.store.clone(), ..Slow::default() };
    let (a, b) = (open(&store).await, open(&elsewhere).await);
    a.sign_in(tokens("one")).await.unwrap();
    b.sign_in(tokens("two")).await.unwrap();
    store.mark.store(300, Relaxed);
    let out = begin({
        let a = a.clone();
        async move { a.sign_out(SignOut::Soft).await }
    });
    pass(50).await;
    let _ = a.access_token().await; // looks into the store
    out.await;
    assert_eq!(end(&a, &store).await, [false, false]);
}

#[tokio::test(start_paused = true)]
async fn p13_what_an_overtaken_sign_in_leaves_touches_no_later_one() {
    let store = Slow::default();
    let session = open(&store).await;
    store.save.store(300, Relaxed);
    let first = begin({
        let session = session.clone();
        async move { session.sign_in(tokens("one")).await }
    });
    pass(50).await;
    let out = begin({
        let session = session.clone();
        async move { session.sign_out(SignOut::Soft).await }
    });
    pass(50).await;
    session.sign_in(tokens("two")).await.unwrap();
    first.await;
    out.await;
    assert_eq!(end(&session, &store).await, [true, true]);
    assert_eq!(session.access_token().await.unwrap().expose(), "two");
}

#[tokio::test(start_paused = true)]
async fn p13_a_call_counts_when_it_is_made_not_when_its_task_starts() {
    let store = Slow::default();
    let session = open(&store).await;
    session.sign_in(tokens("one")).await.unwrap();
    // Polled in this order, before any task of theirs has run.
    let (_, signed_in) = tokio::join!(session.sign_out(SignOut::Soft), session.sign_in(tokens("two")));
    signed_in.unwrap();
    assert_eq!(end(&session, &store).await, [true, true]);
    let (signed_in, signed_out) = tokio::join!(session.sign_in(tokens("three")), session.sign_out(SignOut::Soft));
    assert!(signed_in.is_err());
    signed_out.unwrap();
    assert_eq!(end(&session, &store).await, [false, false]);
}

#[tokio::test(start_paused = true)]
async fn p13_a_pending_sign_out_does_not_overtake_a_later_sign_in() {
    let store = Slow::default();
    let session = open(&store).await;
    session.sign_in(tokens("one")).await.unwrap();
    store.mark.store(200, Relaxed);
    let out = begin({
        let session = session.clone();
        async move { session.sign_out(SignOut::Soft).await }
    });
    pass(50).await;
    store.raised.store(300, Relaxed); // the answer to the sign-in's own raise
    session.sign_in(tokens("two")).await.unwrap();
    out.await;
    assert_eq!(end(&session, &store).await, [true, true]);
}

/// A hard sign-out wipes, also if a soft one is called before it is through.
#[tokio::test(start_paused = true)]
async fn p13_a_soft_sign_out_that_crosses_a_hard_one_leaves_no_record() {
    let store = Slow::default();
    let session = open(&store).await;
    session.sign_in(tokens("one")).await.unwrap();
    let (hard, soft) = tokio::join!(session.sign_out(SignOut::Hard), session.sign_out(SignOut::Soft));
    hard.unwrap();
    soft.unwrap();
    assert_eq!(end(&session, &store).await, [false, false]);
    assert_eq!(store.accounts().await.unwrap(), [], "the record is gone");
}

/// As a refresher of client credentials.
struct Starts;

impl Refresher for Starts {
    async fn refresh(&self, _: RefreshGrant) -> Result<Tokens, RefreshError> {
        Ok(Tokens::new("fresh"))
    }

    fn needs_refresh_token(&self) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn p13_a_sign_out_is_not_lost_to_a_resumption_that_was_called_before() {
    let store = Slow::default();
    let open = || Session::builder(Starts).store(store.clone()).open("svc");
    let session = open().await.unwrap();
    session.access_token().await.unwrap();
    session.sign_out(SignOut::Soft).await.unwrap();
    store.mark.store(300, Relaxed);
    let resumed = begin({
        let session = session.clone();
        async move { session.resume().await }
    });
    pass(50).await;
    session.sign_out(SignOut::Soft).await.unwrap();
    resumed.await;
    pass(60_000).await;
    for session in [session, open().await.unwrap()] {
        assert!(matches!(session.state(), AuthState::SignedOut(_)), "{:?}", session.state());
    }
}

#[tokio::test(start_paused = true)]
async fn p13_a_resumption_that_a_sign_out_elsewhere_has_overtaken_says_so() {
    let store = Slow::default();
    let elsewhere = Slow { store: store.store.clone(), ..Slow::default() };
    let open = |store: &Slow| Session::builder(Starts).store(store.clone()).open("svc");
    let (a, b) = (open(&store).await.unwrap(), open(&elsewhere).await.unwrap());
    a.access_token().await.unwrap();
    a.sign_out(SignOut::Soft).await.unwrap();
    pass(1000).await;
    store.raised.store(300, Relaxed); // the answer to the resumption's raise
    let resumed = tokio::spawn({
        let a = a.clone();
        async move { a.resume().await }
    });
    pass(50).await;
    b.sign_out(SignOut::Soft).await.unwrap();
    let _ = a.access_token().await; // looks into the store
    assert!(matches!(a.state(), AuthState::SignedOut(_)), "{:?}", a.state());
    assert_eq!(resumed.await.unwrap().map_err(|error| error.kind()), Err(ErrorKind::SignedOut));
}
