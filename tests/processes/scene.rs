//! What the tests share: one account in a store of its own, a strict server, and the processes that log in there.
#![allow(dead_code)] // each target takes what it needs

use crate::{
    driver::{Site, Worker, text},
    kills::Authority,
    server::{Hold, Served, Strict, parse},
    worker,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tower_reauth::{Session, Tokens};

pub fn on_this_thread<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A store, a server, and a sign-in: `a1.0` and `r1.0`, for ten minutes.
pub struct Scene {
    pub server: Strict,
    pub site: Site,
    _store: Box<dyn std::any::Any>,
}

impl Scene {
    /// `store` is kept as long as this.
    pub fn of(site: Site, server: Strict, store: impl std::any::Any) -> Self {
        Self { server, site, _store: Box::new(store) }
    }

    pub async fn signed_in() -> Self {
        Self::signed_in_for(Duration::from_secs(600)).await
    }

    pub async fn signed_in_for(lifetime: Duration) -> Self {
        let scene = Self::new();
        scene.server.books().lifetime = lifetime;
        scene.session().await.sign_in(scene.server.sign_in().await).await.unwrap();
        scene
    }

    /// A session of the driver's own process.
    pub async fn session(&self) -> Session {
        self.site.builder().await.open(worker::ACCOUNT).await.unwrap()
    }

    pub async fn worker(&self) -> Worker {
        let (worker, state) = Worker::open(&self.site).await;
        assert_eq!(state, ACTIVE);
        worker
    }

    /// A worker in mid-refresh, at this point.
    pub async fn worker_at(&self, point: &str) -> Worker {
        let mut worker = self.worker().await;
        worker.tell(&format!("trap {}", point.replace(' ', "_")));
        worker.tell("refresh");
        assert_eq!(worker.trapped().await.0, point);
        worker
    }

    /// A worker whose refresh token is spent, and whose answer is on its way.
    pub async fn worker_in_exchange(&self) -> Worker {
        let mut worker = self.worker().await;
        self.server.hold(Some(Hold::After));
        worker.tell("refresh");
        self.server.served(1).await;
        worker
    }

    /// What a process finds that starts now.
    pub async fn state(&self) -> String {
        Worker::open(&self.site).await.1
    }

    pub async fn record(&self) -> Value {
        self.site.record().await.expect("a record")
    }

    /// `(rotations, reuses)`.
    pub fn counts(&self) -> (usize, usize) {
        let books = self.server.books();
        (books.rotations(), books.reuses())
    }
}

pub const ACTIVE: &str = "Active { reauth_pending: false, unsaved: false }";
pub const PENDING: &str = "Active { reauth_pending: true, unsaved: false }";

impl Authority for Strict {
    async fn sign_in(&self) -> Tokens {
        let [access, refresh] = self.new_family();
        Tokens::new(access).with_refresh_token(refresh).with_expires_in(self.books().lifetime)
    }

    async fn idle(&self) {
        Self::idle(self).await;
    }

    async fn is_spent(&self, refresh_token: &str) -> bool {
        self.books().is_spent(refresh_token)
    }

    fn number(&self, token: &str) -> Option<[u64; 2]> {
        parse(token)
    }

    async fn assert_lost(&self, record: &Value, dead: &[String]) {
        let books = self.books();
        // The token that came back, of the newest family, and who spent it first.
        let reused = books.exchanges.iter().rev().find(|it| it.outcome == Served::Reused).expect("a reuse");
        let senders = books.senders(&reused.token);
        assert!(senders.iter().any(|sender| dead.iter().any(|name| name == sender)), "{senders:?} of {record}");
    }
}

/// P7: as long as tokens live, `processes` want one the moment the last is spent.
pub async fn share(processes: usize, expiries: usize) {
    const LIFETIME: Duration = Duration::from_secs(1);
    let start = Instant::now();
    let scene = Scene::signed_in_for(LIFETIME).await;
    let mut crew = join_all((0..processes).map(|_| Worker::open(&scene.site))).await;
    crew.iter_mut().for_each(|(worker, _)| worker.tell("live"));
    scene.server.served(expiries).await;
    tokio::time::sleep(LIFETIME / 2).await; // until all have heard of the last
    for (worker, _) in &mut crew {
        let mut tokens = Vec::new();
        for said in worker.kill().await {
            assert_eq!((&said["error"], &said["state"]), (&Value::Null, &json!(ACTIVE)), "{}", worker.name);
            tokens.push(text(&said["token"]));
        }
        assert_eq!(tokens.last(), Some(&format!("a1.{expiries}")), "{}: {tokens:?}", worker.name);
    }
    let books = scene.server.books();
    assert_eq!((books.exchanges.len(), books.rotations(), books.reuses()), (expiries, expiries, 0));
    for (number, exchange) in (1..).zip(&books.exchanges) {
        // One more than there were expiries would come before its time.
        let since = exchange.at - start;
        assert!(since >= LIFETIME * number, "exchange {number} after {since:?}, by {}", exchange.worker);
    }
}
