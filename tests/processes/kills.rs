//! `SIGKILL` at random moments, again and again, and a look at what is left each time (P6).
//!
//! How many, and with which seed, is set by `TOWER_REAUTH_KILLS` and `TOWER_REAUTH_KILL_SEED`.

use crate::{
    chance::Chance,
    driver::{Site, Worker, text},
};
use serde_json::{Value, json};
use std::{fmt, ops::AddAssign, time::Duration};
use tower_reauth::Tokens;

/// How long a worker lives at most from the moment it is let go, on a disk.
pub const LIFE: Duration = Duration::from_millis(60);
/// How long it takes at most to come up.
const START: Duration = Duration::from_millis(30);

pub fn count(default: usize) -> usize {
    setting("TOWER_REAUTH_KILLS").map_or(default, |kills| kills as usize)
}

pub fn seed() -> u64 {
    setting("TOWER_REAUTH_KILL_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 ^ u64::from(std::process::id()) << 32
    })
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

/// The authorization server that a lane of kills is run against.
pub trait Authority {
    async fn sign_in(&self) -> Tokens;
    /// Until it has finished what dead workers asked for.
    async fn idle(&self);
    async fn is_spent(&self, refresh_token: &str) -> bool;
    /// Family and number of a token, where tokens tell: for companies.
    fn number(&self, token: &str) -> Option<[u64; 2]>;
    /// Panics unless `record`'s grant ended because a refresh token was spent unseen by one of `dead`, and came back.
    async fn assert_lost(&self, record: &Value, dead: &[String]);
}

/// What became of the workers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub kills: usize,
    /// Killed while it came up, or between two refreshes.
    pub idle: usize,
    /// Killed with the journal open, and the old refresh token went on.
    pub old: usize,
    /// The new set was saved, and nobody had seen it yet.
    pub new: usize,
    /// The server had rotated, and the new set was not saved.
    pub lost: usize,
    /// One of a company, and the others went on.
    pub in_company: usize,
    pub turns: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.kills += other.kills;
        self.idle += other.idle;
        self.old += other.old;
        self.new += other.new;
        self.lost += other.lost;
        self.in_company += other.in_company;
        self.turns += other.turns;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, idle, old, new, lost, in_company, turns } = self;
        write!(
            f,
            "{kills} kills: {idle} at rest, {old} went on with the old set, {new} with the new one, {in_company} in a \
             company that went on, {lost} RotationLost; {turns} refreshes seen"
        )
    }
}

/// One account, one store, and `workers` processes that share it; one of them is killed at a time.
pub async fn lane<A: Authority>(
    site: &Site,
    authority: &A,
    workers: usize,
    kills: usize,
    life: Duration,
    seed: u64,
) -> Tally {
    let mut chance = Chance::new(seed);
    let mut tally = Tally::default();
    sign_in(site, authority).await;
    let mut crew = Vec::new();
    for _ in 0..workers {
        crew.push(open(site).await.0);
    }
    let (mut dead, mut known) = (Vec::new(), generation(&whole(site).await));
    crew.iter_mut().for_each(|worker| worker.tell("spin"));
    while tally.kills < kills {
        tokio::time::sleep(chance.duration(life)).await;
        let victim = chance.below(workers);
        let last = crew[victim].kill().await;
        tally.kills += 1;
        dead.push(crew[victim].name.clone());
        let tokens = last.iter().filter_map(|said| said["token"].as_str()).collect::<Vec<_>>();
        known += tokens.len() as u64; // of one who is alone: each was a generation
        let before = whole(site).await;
        // P5: nobody but the flight sees tokens that are not saved.
        let durable = match (workers, before["refresh_token"].as_str(), tokens.last()) {
            (1, _, _) => generation(&before) >= known,
            (_, Some(stored), Some(seen)) => authority.number(stored) >= authority.number(seen),
            _ => true,
        };
        assert!(durable, "{:?} were in use before they were saved: {before}", tokens.last());
        tally.turns += tokens.len();

        // One in eight does not live to see its start.
        if chance.below(8) == 0 && tally.kills < kills {
            let mut stillborn = Worker::start(site);
            tokio::time::sleep(chance.duration(START)).await;
            stillborn.kill().await;
            tally.kills += 1;
            tally.idle += 1;
            dead.push(stillborn.name.clone());
            whole(site).await;
        }

        let state;
        (crew[victim], state) = open(site).await;
        let went_on = match workers {
            1 => alone(site, authority, &mut crew[0], &state, known, &mut tally).await,
            _ => {
                crew[victim].tell("spin");
                together(authority, &mut crew, &before, &mut tally).await
            }
        };
        if !went_on {
            tally.lost += 1;
            let record = whole(site).await;
            assert_eq!(record["standing"], lost(), "{record}");
            authority.assert_lost(&record, &dead).await;
            sign_in(site, authority).await;
            if workers == 1 {
                crew[0].kill().await; // at rest: it does not count
                crew[0] = open(site).await.0;
                crew[0].done("refresh").await;
            }
        }
        if workers == 1 {
            known = generation(&whole(site).await);
            crew[0].tell("spin");
        } else if !went_on {
            for worker in &mut crew {
                while turn(worker).await.is_err() {} // until it has seen the new sign-in
            }
        }
    }
    tally
}

/// A worker that has come up, whatever happened: the record can be read, and somebody is signed in, or was.
async fn open(site: &Site) -> (Worker, String) {
    let (worker, state) = Worker::open(site).await;
    let known = ["Active", "ReauthRequired(RotationLost)"].iter().any(|known| state.starts_with(known));
    assert!(known, "{} found itself {state}", worker.name);
    (worker, state)
}

/// Nobody else is there, so what has to happen is known before it does.
async fn alone<A: Authority>(
    site: &Site,
    authority: &A,
    worker: &mut Worker,
    state: &str,
    known: u64,
    tally: &mut Tally,
) -> bool {
    authority.idle().await;
    let record = whole(site).await;
    assert_eq!(state, "Active { reauth_pending: false, unsaved: false }");
    let is_spent = authority.is_spent(record["refresh_token"].as_str().unwrap()).await;
    let is_open = !record["journal"].is_null();
    assert!(is_open || !is_spent, "a refresh token is spent, and nothing was written down before: {record}");
    let said = worker.ask("refresh").await;
    if is_spent {
        assert!(text(&said["error"]).starts_with("ReauthRequired"), "the server had rotated unseen: {said}");
        return false;
    }
    assert_eq!(said["error"], Value::Null, "{said}; {record}");
    match generation(&record) {
        _ if is_open => tally.old += 1,
        stored if stored > known => tally.new += 1,
        _ => tally.idle += 1,
    }
    true
}

/// The others go on: everybody does, or everybody hears of the loss.
async fn together<A: Authority>(authority: &A, crew: &mut [Worker], before: &Value, tally: &mut Tally) -> bool {
    let mut lost = false;
    let stood = authority.number(before["refresh_token"].as_str().unwrap_or_default());
    for worker in crew.iter_mut() {
        loop {
            match turn(worker).await {
                // Of a set that was not there yet when the other was killed.
                Ok(token) if authority.number(&token) > stood => break,
                Ok(_) => {}
                Err(()) => {
                    lost = true;
                    break;
                }
            }
        }
        tally.turns += 1;
    }
    tally.in_company += usize::from(!lost);
    !lost
}

/// The next turn of a spinning worker: a token, or the loss of the session. There is nothing else.
async fn turn(worker: &mut Worker) -> Result<String, ()> {
    loop {
        let said = worker.hear().await;
        let (state, error) = (text(&said["state"]), text(&said["error"]));
        match said["token"].as_str() {
            Some(token) => return Ok(token.to_owned()),
            None if state == "ReauthRequired(RotationLost)" => return Err(()),
            // The grant is gone; the access token runs for a moment yet.
            None if error.starts_with("ReauthRequired") && state.starts_with("Active { reauth_pending: true") => {}
            None => panic!("{}: {said}", worker.name),
        }
    }
}

/// The record is there, it can be read, and it says nothing that a kill must not leave.
async fn whole(site: &Site) -> Value {
    let record = site.record().await.expect("a record");
    let standing = &record["standing"];
    assert!([json!("signed_in"), lost()].contains(standing), "{record}");
    record
}

fn lost() -> Value {
    json!({ "reauth_required": "rotation_lost" })
}

fn generation(record: &Value) -> u64 {
    record["generation"].as_u64().unwrap()
}

async fn sign_in<A: Authority>(site: &Site, authority: &A) {
    let session = site.builder().await.open(crate::worker::ACCOUNT).await.unwrap();
    session.sign_in(authority.sign_in().await).await.unwrap();
    session.close().await.unwrap();
}
