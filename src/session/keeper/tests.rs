use crate::{
    AccountKey, AuthEvent, MemoryStore, Session, SessionStore, StoreError, Stored, Tokens, Version, observer_fn,
    refresh_fn,
};
use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// Lets so many saves through, and fails all others.
#[derive(Clone)]
struct Full(MemoryStore, Arc<AtomicUsize>);

impl SessionStore for Full {
    type Lease = <MemoryStore as SessionStore>::Lease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        self.0.load(key).await
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<Self::Lease, StoreError> {
        self.0.lease(key, ttl).await
    }

    async fn save(
        &self,
        lease: &mut Self::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        match self.1.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => self.0.save(lease, expected, bytes).await,
            Err(_) => Err(StoreError::unavailable("the disk is full")),
        }
    }

    async fn remove(&self, lease: &mut Self::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        self.0.remove(lease, expected).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        self.0.raise_epoch(key, to).await
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.0.accounts().await
    }
}

/// How many keepers were at their post each time that observers were told of a state or of a refresh, in a session whose
/// store lets `saves` through.
async fn at_their_post(saves: usize) -> Vec<usize> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let cell = Arc::<OnceLock<Session>>::default();
    let (log, of) = (seen.clone(), cell.clone());
    let told = observer_fn(move |event| {
        if let (AuthEvent::StateChanged { .. } | AuthEvent::Refreshed { .. }, Some(session)) = (event, of.get()) {
            log.lock().unwrap().push(session.0.edit(|edit| edit.desk.keepers.len()));
        }
    });
    let refresher = refresh_fn(async |_| Ok(Tokens::new("second").with_refresh_token("r2")));
    let store = Full(MemoryStore::new(), Arc::new(AtomicUsize::new(saves)));
    let session = Session::builder(refresher).store(store).observer(told).open("alice").await.unwrap();
    let _ = cell.set(session.clone());
    session.sign_in(Tokens::new("first").with_refresh_token("r1")).await.unwrap();
    if saves > 0 {
        session.refresh().await.unwrap();
    }
    let seen = seen.lock().unwrap();
    seen.clone()
}

/// P5: whoever sees an unsaved set finds its keeper, or the next flight spends the token that the set replaced.
#[tokio::test(start_paused = true)]
async fn p05_the_keeper_is_at_its_post_before_its_set_is_seen() {
    assert_eq!(at_their_post(0).await, [1], "an unsaved sign-in");
    // The sign-in and the journal are saved, the rotated tokens are not: the state turns, then the refresh is told.
    assert_eq!(at_their_post(2).await, [0, 1, 1], "an unsaved refresh");
}
