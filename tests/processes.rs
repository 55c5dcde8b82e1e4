//! Real processes that share a file store: killed, stopped, many at once (P5, P6, P7, P13).
//!
//! Each test is the driver; the workers are this program itself, started again (see `worker.rs`). The server is a strict
//! one, in a thread of the driver.
#![cfg(unix)]
#![allow(missing_docs)]

#[path = "processes/chance.rs"]
mod chance;
#[path = "processes/company.rs"]
mod company;
#[path = "processes/driver.rs"]
mod driver;
#[path = "processes/kills.rs"]
mod kills;
#[path = "processes/server.rs"]
mod server;
#[path = "processes/steps.rs"]
mod steps;
#[path = "processes/stopped.rs"]
mod stopped;
#[path = "processes/worker.rs"]
mod worker;

use chance::Chance;
use driver::{Site, Worker};
use kills::{Authority, Tally};
use serde_json::Value;
use server::{Hold, Served, Strict, parse};
use std::time::Duration;
use tower_reauth::{Session, Tokens};

/// In a worker this is its `main`. In the driver: a worker whose driver is gone does not stay behind.
#[test]
fn a_worker_ends_with_its_driver() {
    if let Some(orders) = worker::orders() {
        worker::run(&orders);
    }
    on_this_thread(async {
        let dir = tempfile::tempdir().unwrap();
        let server = Strict::start(1);
        let (worker, state) = Worker::open(&site(&dir, &server)).await;
        assert_eq!(state, "SignedOut(Never)");
        worker.orphan().await;
    });
}

fn on_this_thread<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn site(dir: &tempfile::TempDir, server: &Strict) -> Site {
    Site::new(dir.path(), &server.endpoint, "app")
}

/// A directory, a server, and a sign-in: `a1.0` and `r1.0`, for ten minutes.
struct Scene {
    server: Strict,
    site: Site,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let (dir, server) = (tempfile::tempdir().unwrap(), Strict::start(1));
        Self { site: site(&dir, &server), server, _dir: dir }
    }

    async fn signed_in() -> Self {
        Self::signed_in_for(Duration::from_secs(600)).await
    }

    async fn signed_in_for(lifetime: Duration) -> Self {
        let scene = Self::new();
        scene.server.books().lifetime = lifetime;
        scene.session().await.sign_in(scene.server.sign_in().await).await.unwrap();
        scene
    }

    /// A session of the driver's own process.
    async fn session(&self) -> Session {
        self.site.builder().open(worker::ACCOUNT).await.unwrap()
    }

    async fn worker(&self) -> Worker {
        let (worker, state) = Worker::open(&self.site).await;
        assert_eq!(state, ACTIVE);
        worker
    }

    /// A worker in mid-refresh, at this point.
    async fn worker_at(&self, point: &str) -> Worker {
        let mut worker = self.worker().await;
        worker.tell(&format!("trap {}", point.replace(' ', "_")));
        worker.tell("refresh");
        assert_eq!(worker.trapped().await.0, point);
        worker
    }

    /// A worker whose refresh token is spent, and whose answer is on its way.
    async fn worker_in_exchange(&self) -> Worker {
        let mut worker = self.worker().await;
        self.server.hold(Some(Hold::After));
        worker.tell("refresh");
        self.server.served(1).await;
        worker
    }

    /// What a process finds that starts now.
    async fn state(&self) -> String {
        Worker::open(&self.site).await.1
    }

    async fn record(&self) -> Value {
        self.site.record().await.expect("a record")
    }

    /// `(rotations, reuses)`.
    fn counts(&self) -> (usize, usize) {
        let books = self.server.books();
        (books.rotations(), books.reuses())
    }
}

const ACTIVE: &str = "Active { reauth_pending: false, unsaved: false }";
const PENDING: &str = "Active { reauth_pending: true, unsaved: false }";

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

/// Single workers and companies of three, side by side: as many kills as were asked for.
#[test]
fn p06_case_10_killed_at_any_moment_the_session_is_the_old_one_or_the_new_one() {
    const COMPANIES: usize = 2;
    const ALONE: usize = 4;
    let (kills, seed) = (kills::count(500), kills::seed());
    println!("seed {seed}: TOWER_REAUTH_KILL_SEED={seed} draws the same moments again");
    let mut chance = Chance::new(seed);
    // A company has a fifth of the kills of one who is alone: its members wait for each other.
    let each = kills / (ALONE * 5 + COMPANIES);
    let mut lanes = vec![(3, each); COMPANIES];
    lanes.extend(vec![(1, each * 5); ALONE]);
    lanes[COMPANIES].1 += kills - lanes.iter().map(|lane| lane.1).sum::<usize>();
    let lanes = lanes.into_iter().map(|(workers, kills)| (workers, kills, chance.next()));
    let threads = lanes.map(|(workers, kills, seed)| {
        std::thread::spawn(move || {
            on_this_thread(async {
                let dir = tempfile::tempdir().unwrap();
                let server = Strict::start(seed);
                server.books().latency = [Duration::from_millis(8), Duration::from_millis(4)];
                server.books().lifetime = Duration::from_millis(500);
                let tally = kills::lane(&site(&dir, &server), &server, workers, kills, seed).await;
                assert_eq!(server.books().reuses(), tally.lost, "each loss was one, and each was told");
                tally
            })
        })
    });
    let mut total = Tally::default();
    for lane in threads.collect::<Vec<_>>() {
        total += lane.join().expect("the seed is above");
    }
    println!("{total}");
    assert_eq!(total.kills, kills);
    assert!(kills < 200 || (total.old > 0 && total.new > 0 && total.lost > 0), "no kill fell into the gap: {total}");
}
