//! Real processes that share a Redis: killed, stopped, many at once, and Redis itself killed under them (P5, P6, P7, P13).
//!
//! As in `processes.rs`, each test is the driver, and the workers are this program itself, started again.
#![cfg(all(unix, feature = "__server-tests"))]
#![allow(missing_docs)]

#[path = "processes/chance.rs"]
mod chance;
#[path = "processes/driver.rs"]
mod driver;
#[path = "redis_processes/holders.rs"]
mod holders;
#[path = "processes/kills.rs"]
mod kills;
#[path = "redis_processes/outages.rs"]
mod outages;
#[path = "support/redis.rs"]
mod redis_server;
#[path = "processes/scene.rs"]
mod scene;
#[path = "processes/server.rs"]
mod server;
#[path = "processes/worker.rs"]
mod worker;

use chance::Chance;
use driver::{Site, Worker};
use kills::Tally;
use redis_server::Redis;
use scene::{Scene, on_this_thread, share};
use server::Strict;
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// In a worker this is its `main`. In the driver: a worker whose driver is gone does not stay behind.
#[test]
fn a_worker_ends_with_its_driver() {
    if let Some(orders) = worker::orders() {
        worker::run(&orders);
    }
    on_this_thread(async {
        let (worker, state) = Worker::open(&Scene::new().site).await;
        assert_eq!(state, "SignedOut(Never)");
        worker.orphan().await;
    });
}

/// How long an exchange may take here.
const PATIENCE: Duration = Duration::from_secs(1);
/// So long are leases, and so long a journal is waited for.
const TERM: Duration = Duration::from_secs(16);

/// A database of its own, in a Redis of this process.
fn site(server: &Strict) -> Site {
    static REDIS: OnceLock<Redis> = OnceLock::new();
    static DATABASE: AtomicUsize = AtomicUsize::new(0);
    let redis = REDIS.get_or_init(|| Redis::start_with(&["--appendonly", "no", "--databases", "2000"]));
    site_at(&format!("{}{}", redis.url(), DATABASE.fetch_add(1, Ordering::SeqCst)), server)
}

fn site_at(url: &str, server: &Strict) -> Site {
    let mut site = Site::on(url, &server.endpoint, "app");
    site.patience = PATIENCE;
    site
}

impl Scene {
    fn new() -> Self {
        let server = Strict::start(1);
        Self::of(site(&server), server, ())
    }
}

#[test]
fn p07_case_13_case_14_two_processes_then_sixteen_make_one_exchange_per_expiry() {
    on_this_thread(async { tokio::join!(share(2, 10), share(16, 10)) });
}

/// One in six of the kills that are asked for. Whoever comes after one that was killed in mid-refresh waits out its lease:
/// many lanes wait side by side. One lane in four is a company of three.
#[test]
fn p06_p07_case_10_killed_at_any_moment_over_redis_the_session_is_the_old_one_or_the_new_one() {
    const LANES: usize = 42;
    let (kills, seed) = (kills::count(500) / 6, kills::seed());
    println!("seed {seed}: TOWER_REAUTH_KILL_SEED={seed} draws the same moments again");
    let mut chance = Chance::new(seed);
    let lanes = (0..LANES).map(|lane| (lane, kills / LANES + usize::from(lane < kills % LANES), chance.next()));
    let threads = lanes.map(|(lane, kills, seed)| {
        std::thread::spawn(move || {
            on_this_thread(async {
                let server = Strict::start(seed);
                server.books().latency = [Duration::from_millis(40), Duration::from_millis(20)];
                server.books().lifetime = Duration::from_millis(500);
                let mut site = site(&server);
                site.patience = Duration::from_secs(3); // of a machine that is busy with all the others
                let (workers, life) = (if lane % 4 == 0 { 3 } else { 1 }, kills::LIFE * 3);
                let tally = kills::lane(&site, &server, workers, kills, life, seed).await;
                assert_eq!(server.books().reuses(), tally.lost, "each loss was one, and each was told");
                tally
            })
        })
    });
    let mut total = Tally::default();
    for lane in threads.collect::<Vec<_>>() {
        total += lane.join().expect("the seed is above");
    }
    println!("Redis: {total}");
    assert_eq!(total.kills, kills);
    let went_on = total.old + total.new + total.in_company;
    assert!(kills < 80 || (went_on > 0 && total.lost > 0), "no kill fell into the gap: {total}");
}
