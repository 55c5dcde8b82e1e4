//! A process that dies at a chosen point: everything that would last from then on never happens.
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Notify;
use tower_reauth::{AccountKey, MemoryStore, SessionStore, StoreError, Stored, Version};

/// Counts the points in front of and behind each effect that outlives the process; blows at the one that was chosen.
#[derive(Clone, Default)]
pub struct Fuse(Arc<Mutex<State>>, Arc<Notify>);

#[derive(Default)]
struct State {
    points: usize,
    limit: Option<usize>,
}

impl Fuse {
    /// Dies at this point, counted from 1.
    pub fn at(limit: usize) -> Self {
        let fuse = Self::default();
        fuse.0.lock().unwrap().limit = Some(limit);
        fuse
    }

    /// Resolves when the process dies.
    pub async fn blown(&self) {
        self.1.notified().await;
    }

    async fn point(&self) {
        let dead = {
            let mut state = self.0.lock().unwrap();
            state.points += 1;
            state.limit.is_some_and(|limit| state.points >= limit)
        };
        if dead {
            self.1.notify_one();
            std::future::pending::<()>().await;
        }
    }

    pub async fn around<T>(&self, effect: impl AsyncFnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.point().await;
        let done = effect().await;
        self.point().await;
        done
    }
}

/// A store of such a process. The records outlive it.
#[derive(Clone)]
pub struct Fused(pub MemoryStore, pub Fuse);

impl SessionStore for Fused {
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
        self.1.around(async || self.0.save(lease, expected, bytes).await).await
    }

    async fn remove(&self, lease: &mut Self::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        self.1.around(async || self.0.remove(lease, expected).await).await
    }

    async fn set_aside(&self, lease: &mut Self::Lease) -> Result<(), StoreError> {
        self.1.around(async || self.0.set_aside(lease).await).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        match to {
            0 => self.0.raise_epoch(key, 0).await,
            _ => self.1.around(async || self.0.raise_epoch(key, to).await).await,
        }
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.0.accounts().await
    }
}
