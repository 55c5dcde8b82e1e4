//! A key source in memory that counts, fails and waits as a test says. Clones share it, as processes share a keyring.
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use crate::fuse::Fuse;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use tower_reauth::{AccountKey, KeySource, SealingKey, StoreError, StoreErrorKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Current(u64),
    Find,
    Destroy(u64),
}

/// What happens instead.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    Fail(StoreErrorKind),
    Panic,
    Hang,
}

#[derive(Default)]
pub struct Table {
    pub keys: Vec<(AccountKey, u64, SealingKey)>,
    /// Keys ever made.
    pub made: u8,
    pub asked: Vec<Asked>,
    /// In front of each `destroy`, each `find`, each `current`, while it is set.
    pub destroying: Option<Trouble>,
    pub finding: Option<Trouble>,
    pub making: Option<Trouble>,
    /// The next `find` tells the first, and waits for the second.
    pub pause: Option<(Arc<Notify>, Arc<Notify>)>,
}

#[derive(Clone, Default)]
pub struct Keys {
    pub table: Arc<Mutex<Table>>,
    pub fuse: Fuse,
}

impl Keys {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }

    /// How many keys were ever made.
    pub fn made(&self) -> u8 {
        self.table().made
    }

    /// The epochs that have a key, lowest first.
    pub fn epochs(&self) -> Vec<u64> {
        let mut epochs: Vec<_> = self.table().keys.iter().map(|(_, epoch, _)| *epoch).collect();
        epochs.sort_unstable();
        epochs
    }

    pub fn count(&self, asked: Asked) -> usize {
        self.table().asked.iter().filter(|it| **it == asked).count()
    }

    /// From now on everything that is asked for fails, until it is [`heal`](Self::heal)ed.
    pub fn fail(&self, kind: StoreErrorKind) {
        let trouble = Some(Trouble::Fail(kind));
        let mut table = self.table();
        (table.making, table.finding, table.destroying) = (trouble, trouble, trouble);
    }

    pub fn heal(&self) {
        let mut table = self.table();
        (table.making, table.finding, table.destroying) = (None, None, None);
    }

    async fn meet(&self, asked: Asked) -> Result<(), StoreError> {
        let trouble = {
            let mut table = self.table();
            table.asked.push(asked);
            match asked {
                Asked::Current(_) => table.making,
                Asked::Find => table.finding,
                Asked::Destroy(_) => table.destroying,
            }
        };
        match trouble {
            None => Ok(()),
            Some(Trouble::Fail(kind)) => Err(StoreError::new(kind).with_source("the vault said so")),
            Some(Trouble::Panic) => panic!("a key source that panics"),
            Some(Trouble::Hang) => std::future::pending().await,
        }
    }
}

impl KeySource for Keys {
    async fn current(&self, account: &AccountKey, epoch: u64) -> Result<SealingKey, StoreError> {
        self.meet(Asked::Current(epoch)).await?;
        let found = self.table().keys.iter().find(|(of, at, _)| of == account && *at == epoch).map(|it| it.2.clone());
        if let Some(key) = found {
            return Ok(key);
        }
        // Like a keyring: read, then write, with nothing to compare in between.
        tokio::task::yield_now().await;
        self.fuse
            .around(async || {
                let mut table = self.table();
                table.made += 1;
                let key = SealingKey::new(format!("key-{}", table.made), [table.made; 32]);
                table.keys.push((account.clone(), epoch, key.clone()));
                Ok(key)
            })
            .await
    }

    async fn find(&self, account: &AccountKey, id: &str) -> Result<Option<SealingKey>, StoreError> {
        self.meet(Asked::Find).await?;
        let pause = self.table().pause.take();
        if let Some((reached, on)) = pause {
            reached.notify_one();
            on.notified().await;
        }
        let table = self.table();
        Ok(table.keys.iter().find(|(of, _, key)| of == account && key.id() == id).map(|it| it.2.clone()))
    }

    async fn destroy(&self, account: &AccountKey, epoch: u64) -> Result<(), StoreError> {
        self.meet(Asked::Destroy(epoch)).await?;
        self.fuse
            .around(async || {
                self.table().keys.retain(|(of, at, _)| of != account || *at >= epoch);
                Ok(())
            })
            .await
    }
}
