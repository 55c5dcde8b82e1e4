//! What a session costs: two durable writes a refresh, none a request, one file read to open.

use super::Place;
use crate::kit::{Seen, get, layered, send};
use http::StatusCode;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tower_reauth::{AccountKey, FileStore, SessionStore, StoreError, Stored, Version};

/// Counts what is asked of it.
#[derive(Clone)]
struct Counted(FileStore, Arc<Mutex<Vec<&'static str>>>);

impl Counted {
    fn note(&self, call: &'static str) {
        self.1.lock().unwrap().push(call);
    }

    /// What was asked since the last time.
    fn taken(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.1.lock().unwrap())
    }
}

impl SessionStore for Counted {
    type Lease = <FileStore as SessionStore>::Lease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        self.note("load");
        self.0.load(key).await
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<Self::Lease, StoreError> {
        self.note("lease");
        self.0.lease(key, ttl).await
    }

    async fn save(
        &self,
        lease: &mut Self::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        self.note("save");
        self.0.save(lease, expected, bytes).await
    }

    async fn remove(&self, lease: &mut Self::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        self.note("remove");
        self.0.remove(lease, expected).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        self.note(if to == 0 { "mark" } else { "raise" });
        self.0.raise_epoch(key, to).await
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.0.accounts().await
    }
}

#[tokio::test]
async fn p17_two_writes_a_refresh_none_a_request_and_one_file_to_open() {
    let place = Place::signed_in().await;
    let store = Counted(place.store(), Arc::default());
    let session = place.builder().store(store.clone()).open("alice").await.unwrap();
    assert_eq!(store.taken(), ["load", "mark"], "no lease, and one file is read");

    let api = layered(&session, &place.issuer, &Seen::default());
    for _ in 0..20 {
        assert_eq!(send(&api, get("/jobs")).await.unwrap(), StatusCode::OK);
    }
    assert_eq!(store.taken(), [] as [&str; 0]);

    session.refresh().await.unwrap();
    let calls = store.taken();
    let writes = calls.iter().filter(|call| ["save", "remove", "raise"].contains(call)).count();
    assert_eq!(writes, 2, "the journal and the tokens: {calls:?}");
}
