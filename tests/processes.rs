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
#[path = "processes/scene.rs"]
mod scene;
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
use kills::Tally;
use scene::{ACTIVE, PENDING, Scene, on_this_thread};
use server::Strict;
use std::time::Duration;

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

fn site(dir: &tempfile::TempDir, server: &Strict) -> Site {
    Site::new(dir.path(), &server.endpoint, "app")
}

impl Scene {
    /// A directory of its own.
    fn new() -> Self {
        let (dir, server) = (tempfile::tempdir().unwrap(), Strict::start(1));
        Self::of(site(&dir, &server), server, dir)
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
                let tally = kills::lane(&site(&dir, &server), &server, workers, kills, kills::LIFE, seed).await;
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
