//! Real processes, killed at random moments, against a real authorization server (P6).
//!
//! The workers are this program itself, started again (see `processes/worker.rs`).
#![cfg(all(unix, feature = "__server-tests"))]
#![allow(missing_docs)]

#[path = "processes/chance.rs"]
mod chance;
#[path = "processes/driver.rs"]
mod driver;
#[path = "processes/kills.rs"]
mod kills;
#[path = "support/oidc.rs"]
mod oidc;
#[path = "processes/worker.rs"]
mod worker;

use chance::Chance;
use driver::{Site, Worker};
use futures_util::future::join_all;
use kills::{Authority, Tally};
use oidc::OidcServer;
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tower_reauth::Tokens;

/// In a worker this is its `main`. In the driver: a worker whose driver is gone does not stay behind.
#[test]
fn a_worker_ends_with_its_driver() {
    if let Some(orders) = worker::orders() {
        worker::run(&orders);
    }
    tokio::runtime::Runtime::new().unwrap().block_on(ends_with_its_driver());
}

async fn ends_with_its_driver() {
    let server = OidcServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (worker, state) = Worker::open(&Site::new(dir.path(), &server.token_endpoint(), "pub")).await;
    assert_eq!(state, "SignedOut(Never)");
    worker.orphan().await;
}

struct Provider {
    server: OidcServer,
    losses: AtomicU64,
}

impl Authority for Provider {
    async fn sign_in(&self) -> Tokens {
        let seeded = self.server.seed("alice", "pub").await;
        let lifetime = Duration::from_secs(seeded.expires_in);
        Tokens::new(seeded.access_token).with_refresh_token(seeded.refresh_token).with_expires_in(lifetime)
    }

    async fn idle(&self) {
        tokio::time::sleep(Duration::from_millis(50)).await; // it takes a dead worker's request no longer
    }

    async fn is_spent(&self, refresh_token: &str) -> bool {
        self.server.ctl("/lookup", json!({ "token": refresh_token })).await["consumed"].as_bool().unwrap()
    }

    /// Its tokens are opaque.
    fn number(&self, _: &str) -> Option<[u64; 2]> {
        None
    }

    async fn assert_lost(&self, record: &Value, _: &[String]) {
        let losses = self.losses.fetch_add(1, Ordering::SeqCst) + 1;
        assert_eq!(self.server.counts().await.reuse_revocations, losses, "{record}");
    }
}

/// One in eight of the kills that are asked for, each lane with a server of its own.
#[tokio::test]
async fn p06_case_10_killed_at_any_moment_against_a_real_server() {
    const LANES: usize = 3;
    let (kills, seed) = (kills::count(500) / 8, kills::seed());
    println!("seed {seed}: TOWER_REAUTH_KILL_SEED={seed} draws the same moments again");
    let mut chance = Chance::new(seed);
    let lanes = (0..LANES).map(|lane| (kills / LANES + usize::from(lane < kills % LANES), chance.next()));
    let tallies = join_all(lanes.map(async |(kills, seed)| {
        let provider = Provider { server: OidcServer::start().await, losses: AtomicU64::new(0) };
        provider.server.set(json!({ "tokenDelayMs": 3, "answerDelayMs": 3 })).await;
        let dir = tempfile::tempdir().unwrap();
        let site = Site::new(dir.path(), &provider.server.token_endpoint(), "pub");
        let tally = kills::lane(&site, &provider, 1, kills, kills::LIFE, seed).await;
        assert_eq!(provider.server.counts().await.reuse_revocations, tally.lost as u64);
        tally
    }));
    let mut total = Tally::default();
    tallies.await.into_iter().for_each(|tally| total += tally);
    println!("oidc-provider: {total}");
    assert_eq!(total.kills, kills);
}
