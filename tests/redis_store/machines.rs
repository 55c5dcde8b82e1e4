//! Sessions on several machines, each with a connection of its own, that share one Redis: case 14, and Redis that fails
//! in the middle of an exchange. The issuer is strict; the sessions' clock is the test's.

use crate::{
    Redis, SEC,
    kit::{Issuer, Log, Script, clock},
    soon,
};
use futures_util::future::join_all;
use serde_json::Value;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};
use tower_reauth::{
    AccountKey, AuthError, AuthEvent, AuthState, ErrorKind, LeaseGuard, ManualClock, RedisStore, Session, SessionStore,
    StoreError, Stored, Tokens, Version,
};

struct Fleet {
    redis: Redis,
    issuer: Issuer,
    clock: ManualClock,
    log: Log,
}

impl Fleet {
    /// With a machine that is signed in: `r1.0`, `a1.0`, for 100 s.
    async fn signed_in(redis: Redis) -> (Self, Session) {
        let fleet = Self { redis, issuer: Issuer::new(), clock: clock(), log: Log::default() };
        fleet.issuer.books().takes = Duration::from_millis(5);
        let session = fleet.machine().await;
        session.sign_in(fleet.issuer.sign_in()).await.unwrap();
        (fleet, session)
    }

    async fn machine(&self) -> Session {
        self.machine_on(self.redis.store().await).await
    }

    async fn machine_on(&self, store: impl SessionStore) -> Session {
        let builder = self.log.attach(Session::builder(self.issuer.clone())).store(store).clock(self.clock.clone());
        builder.background_refresh(false).refresh_timeout(30 * SEC).open("alice").await.unwrap()
    }

    fn expire(&self) {
        self.clock.advance(101 * SEC);
    }

    /// `(exchanges, reuse events)`.
    fn books(&self) -> (u64, u64) {
        let books = self.issuer.books();
        (books.exchanges, books.reuse_events)
    }

    async fn record(&self) -> Value {
        let record: Vec<u8> = self.redis.ask(&["HGET", &self.redis.key(":record").await, "bytes"]).await;
        serde_json::from_slice(&record).unwrap()
    }

    async fn mark(&self) -> u64 {
        self.redis.ask::<String>(&["GET", &self.redis.key(":mark").await]).await.parse().unwrap()
    }

    /// One machine in mid-exchange: the issuer has rotated, and answers when a permit is added.
    async fn exchanging(&self, session: &Session) -> (Arc<Semaphore>, JoinHandle<Result<(), ErrorKind>>) {
        let (started, hold) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        {
            let mut books = self.issuer.books();
            books.started = Some(started.clone());
            books.hold = Some(hold.clone());
        }
        let flight = refresh(session);
        started.notified().await;
        tokio::time::sleep(Duration::from_millis(50)).await; // it has rotated
        let mut books = self.issuer.books();
        books.started = None;
        books.hold = None;
        drop(books);
        (hold, flight)
    }

    /// What the whole world agrees on in the end: this token set is stored, and each machine uses it.
    async fn agrees(&self, machines: &[&Session], number: u64) {
        let record = self.record().await;
        assert_eq!((&record["refresh_token"], &record["journal"]), (&format!("r1.{number}").into(), &Value::Null));
        for machine in machines {
            assert_eq!(token(machine).await, Ok(format!("a1.{number}")), "{:?}", machine.state());
            assert!(matches!(machine.state(), AuthState::Active { reauth_pending: false, unsaved: false, .. }));
        }
    }
}

fn refresh(session: &Session) -> JoinHandle<Result<(), ErrorKind>> {
    let session = session.clone();
    tokio::spawn(async move { kind(session.refresh().await) })
}

fn kind(outcome: Result<(), AuthError>) -> Result<(), ErrorKind> {
    outcome.map_err(|error| error.kind())
}

async fn token(session: &Session) -> Result<String, ErrorKind> {
    session.access_token().await.map(|token| token.expose().to_owned()).map_err(|error| error.kind())
}

fn is_unsaved(session: &Session) -> bool {
    matches!(session.state(), AuthState::Active { unsaved: true, .. })
}

// ===== case 14 =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_14_machines_that_share_a_redis_make_one_exchange_per_expiry() {
    const EXPIRIES: u64 = 25;
    let (fleet, first) = Fleet::signed_in(Redis::start()).await;
    let mut all = vec![first];
    for _ in 1..8 {
        all.push(fleet.machine().await);
    }
    for expiry in 1..=EXPIRIES {
        fleet.expire();
        let wanted = all.iter().cloned().map(|session| tokio::spawn(async move { token(&session).await }));
        let wanted = join_all(wanted).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        assert!(wanted.iter().all(|token| *token == Ok(format!("a1.{expiry}"))), "{wanted:?}");
        assert_eq!(fleet.books(), (expiry, 0), "one exchange an expiry, no reuse");
    }
    fleet.agrees(&all.iter().collect::<Vec<_>>(), EXPIRIES).await;
}

/// Stops in front of a renewal: a machine that sleeps between its journal and its first byte.
#[derive(Clone)]
struct Sleepy {
    store: RedisStore,
    sleep: Arc<Mutex<Option<Sleep>>>,
}

/// Tells that it begins, and when it ends.
type Sleep = (Arc<Notify>, Arc<Notify>);

struct SleepyLease(<RedisStore as SessionStore>::Lease, Sleepy);

impl LeaseGuard for SleepyLease {
    fn valid_for(&self) -> Option<Duration> {
        self.0.valid_for()
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        let sleep = self.1.sleep.lock().unwrap().take();
        if let Some((asleep, wake)) = sleep {
            asleep.notify_one();
            wake.notified().await;
        }
        self.0.renew().await
    }
}

impl SessionStore for Sleepy {
    type Lease = SleepyLease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        self.store.load(key).await
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<SleepyLease, StoreError> {
        Ok(SleepyLease(self.store.lease(key, ttl).await?, self.clone()))
    }

    async fn save(&self, lease: &mut SleepyLease, old: Option<&Version>, bytes: &[u8]) -> Result<Version, StoreError> {
        self.store.save(&mut lease.0, old, bytes).await
    }

    async fn remove(&self, lease: &mut SleepyLease, old: Option<&Version>) -> Result<(), StoreError> {
        self.store.remove(&mut lease.0, old).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        self.store.raise_epoch(key, to).await
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.store.accounts().await
    }
}

#[tokio::test]
async fn case_14_a_holder_that_slept_past_its_lease_before_it_sent_spends_nothing() {
    let (fleet, b) = Fleet::signed_in(Redis::start()).await;
    let store = Sleepy { store: fleet.redis.store().await, sleep: Arc::default() };
    let a = fleet.machine_on(store.clone()).await;
    let (asleep, wake) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    *store.sleep.lock().unwrap() = Some((asleep.clone(), wake.clone()));
    let flight = refresh(&a);
    asleep.notified().await;
    assert_eq!(fleet.books(), (0, 0));
    assert!(!fleet.record().await["journal"].is_null(), "its journal is written");

    fleet.redis.end_lease().await;
    fleet.clock.advance(50 * SEC); // past the deadline of its journal
    assert_eq!(kind(b.refresh().await), Ok(()));
    assert_eq!(fleet.books(), (1, 0));
    wake.notify_one();
    assert_eq!(flight.await.unwrap(), Ok(()), "what it wanted is there");
    assert_eq!(fleet.books(), (1, 0), "and it spent nothing");
    fleet.agrees(&[&a, &b], 1).await;
}

#[tokio::test]
async fn case_14_past_its_lease_a_holder_cannot_write_a_stale_record() {
    let (fleet, a) = Fleet::signed_in(Redis::start()).await;
    let b = fleet.machine().await;
    // Its answer is a set that nobody else knows of; the issuer has not rotated for it.
    fleet.issuer.script(Script::Answer(Tokens::new("stale").with_refresh_token("stale").with_expires_in(100 * SEC)));
    let (hold, late) = fleet.exchanging(&a).await;
    fleet.redis.end_lease().await;
    fleet.clock.advance(50 * SEC);
    assert_eq!(kind(b.refresh().await), Ok(()));
    hold.add_permits(1);
    assert_eq!(late.await.unwrap(), Ok(()));
    assert_eq!(fleet.books(), (2, 0));
    fleet.agrees(&[&a, &b], 1).await;
}

#[tokio::test]
async fn case_14_a_late_200_outranks_rotation_lost_if_nobody_went_on() {
    let (fleet, a) = Fleet::signed_in(Redis::start()).await;
    let b = fleet.machine().await;
    fleet.clock.advance(60 * SEC);
    let (hold, late) = fleet.exchanging(&a).await;
    fleet.redis.end_lease().await;
    fleet.clock.advance(50 * SEC); // past the deadline of the journal, and past the end of the first access token
    assert_eq!(kind(b.refresh().await), Err(ErrorKind::ReauthRequired));
    assert_eq!(format!("{:?}", b.state()), "ReauthRequired(RotationLost)", "it is told from a revocation");
    assert_eq!(fleet.books(), (2, 1));
    hold.add_permits(1);
    assert_eq!(late.await.unwrap(), Ok(()));
    let record = fleet.record().await;
    assert_eq!((&record["refresh_token"], &record["doubt"]), (&"r1.1".into(), &"inherited".into()));
    fleet.agrees(&[&a], 1).await;
    fleet.clock.advance(2 * SEC);
    fleet.agrees(&[&b], 1).await;
}

/// The other machine waits for the lease; a hint or a poll tells it, and the token is there without an exchange.
#[tokio::test]
async fn case_14_who_waits_for_the_lease_adopts_what_was_saved() {
    let (fleet, a) = Fleet::signed_in(Redis::start()).await;
    let b = fleet.machine().await;
    fleet.expire();
    let (hold, flight) = fleet.exchanging(&a).await;
    let waiting = refresh(&b);
    tokio::time::sleep(SEC).await;
    assert!(!waiting.is_finished());
    hold.add_permits(1);
    assert_eq!((flight.await.unwrap(), waiting.await.unwrap()), (Ok(()), Ok(())));
    assert_eq!(fleet.books(), (1, 0));
    fleet.agrees(&[&a, &b], 1).await;
}

/// P13 on Redis: the mark is raised without the lease.
#[tokio::test]
async fn case_40_a_sign_out_elsewhere_wins_over_an_exchange_under_way() {
    let (fleet, a) = Fleet::signed_in(Redis::start()).await;
    let b = fleet.machine().await;
    let (hold, flight) = fleet.exchanging(&a).await;
    b.sign_out(tower_reauth::SignOut::Soft).await.unwrap();
    assert_eq!(fleet.mark().await, 3);
    hold.add_permits(1);
    assert_eq!(flight.await.unwrap(), Err(ErrorKind::SignedOut));
    for session in [&a, &b, &fleet.machine().await] {
        assert_eq!(token(session).await, Err(ErrorKind::SignedOut));
    }
    a.close().await.unwrap();
    assert!(!fleet.record().await.to_string().contains("a1.1"));
}

// ===== Redis fails in mid-exchange =====

#[tokio::test]
async fn case_12_a_redis_that_was_stopped_is_given_the_set_when_it_is_back() {
    let (mut fleet, a) = Fleet::signed_in(Redis::durable()).await;
    let b = fleet.machine().await;
    let (hold, flight) = fleet.exchanging(&a).await;
    fleet.redis.stop();
    hold.add_permits(1);
    assert_eq!(flight.await.unwrap(), Ok(()));
    assert!(is_unsaved(&a), "{:?}", a.state());
    assert_eq!(token(&a).await, Ok("a1.1".into()), "usable in memory");
    assert_eq!(fleet.log.count(|event| matches!(event, AuthEvent::Unsaved { .. })), 1);
    assert_eq!(kind(b.refresh().await), Err(ErrorKind::Unavailable));

    fleet.redis.start_again();
    // With its data: the journal is open and the lease is held, until the set is saved.
    assert_eq!(fleet.record().await["refresh_token"], "r1.0");
    soon(async || !is_unsaved(&a)).await;
    b.reconnected();
    fleet.clock.advance(5 * SEC);
    assert_eq!(kind(b.refresh().await), Ok(()));
    assert_eq!(fleet.books(), (1, 0), "B adopts, and never spent the old token");
    fleet.agrees(&[&a, &b], 1).await;
    assert_eq!(fleet.log.count(|event| matches!(event, AuthEvent::Saved { .. })), 1);
}

#[tokio::test]
async fn case_12_a_redis_that_comes_back_without_its_data_is_given_set_and_mark() {
    let (mut fleet, a) = Fleet::signed_in(Redis::start()).await;
    let b = fleet.machine().await;
    let (hold, flight) = fleet.exchanging(&a).await;
    fleet.redis.stop();
    hold.add_permits(1);
    assert_eq!(flight.await.unwrap(), Ok(()));
    assert!(is_unsaved(&a));
    fleet.redis.start_empty();
    soon(async || !is_unsaved(&a)).await;
    assert_eq!(fleet.mark().await, 2, "the sign-in's mark is raised again");
    assert_eq!(kind(b.refresh().await), Ok(()));
    assert_eq!(fleet.books(), (1, 0));
    fleet.agrees(&[&a, &b], 1).await;
}

/// Restarted without its data while the exchange goes on: it is back before the answer is.
#[tokio::test]
async fn p05_a_redis_that_was_restarted_or_emptied_meanwhile_is_given_set_and_mark_at_once() {
    for restart in [false, true] {
        let (mut fleet, a) = Fleet::signed_in(Redis::start()).await;
        let b = fleet.machine().await;
        let (hold, flight) = fleet.exchanging(&a).await;
        match restart {
            true => {
                fleet.redis.stop();
                fleet.redis.start_empty();
            }
            false => fleet.redis.flush().await,
        }
        hold.add_permits(1);
        assert_eq!(flight.await.unwrap(), Ok(()));
        assert!(!is_unsaved(&a), "LeaseLost, lease again, load, settle");
        assert_eq!(fleet.log.count(|event| matches!(event, AuthEvent::Unsaved { .. })), 0);
        assert_eq!(fleet.mark().await, 2);
        assert_eq!(kind(b.refresh().await), Ok(()));
        assert_eq!(fleet.books(), (1, 0));
        fleet.agrees(&[&a, &b], 1).await;
        soon(async || fleet.redis.ask::<Vec<String>>(&["KEYS", "*:lease"]).await.is_empty()).await;
    }
}

/// It hangs while it is asked to save: it may have saved.
#[tokio::test]
async fn case_12_a_redis_that_hangs_in_the_save_is_looked_at_again() {
    let (fleet, a) = Fleet::signed_in(Redis::start()).await;
    let b = fleet.machine().await;
    let (hold, flight) = fleet.exchanging(&a).await;
    fleet.redis.freeze();
    hold.add_permits(1);
    assert_eq!(flight.await.unwrap(), Ok(()));
    assert!(is_unsaved(&a));
    fleet.redis.thaw();
    soon(async || !is_unsaved(&a)).await;
    assert_eq!(kind(b.refresh().await), Ok(()));
    assert_eq!(fleet.books(), (1, 0));
    fleet.agrees(&[&a, &b], 1).await;
}

/// A machine that is idle while Redis loses everything: its next refresh finds no record.
#[tokio::test]
async fn a_redis_that_was_emptied_before_the_exchange_spends_nothing() {
    let (fleet, a) = Fleet::signed_in(Redis::start()).await;
    fleet.redis.flush().await;
    assert_eq!(kind(a.refresh().await), Err(ErrorKind::SignedOut));
    assert_eq!(fleet.books(), (0, 0));
}

#[tokio::test]
async fn a_redis_that_is_away_when_a_token_is_wanted_spends_nothing_and_is_found_again() {
    let (mut fleet, a) = Fleet::signed_in(Redis::durable()).await;
    fleet.redis.stop();
    assert_eq!(kind(a.refresh().await), Err(ErrorKind::Unavailable));
    assert_eq!((token(&a).await, fleet.books()), (Ok("a1.0".into()), (0, 0)));
    fleet.redis.start_again();
    a.reconnected();
    fleet.clock.advance(2 * SEC);
    assert_eq!(kind(a.refresh().await), Ok(()));
    fleet.agrees(&[&a], 1).await;
}

/// The runtime ends right behind `close`: nobody would give the lease back afterwards, and the next command of the same
/// user would wait for its term.
#[test]
fn case_42_a_program_that_closes_leaves_no_lease() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let redis = Redis::start();
    for round in 0..10 {
        let issuer = Issuer::new();
        runtime().block_on(async {
            let session = Session::builder(issuer.clone()).store(redis.store().await).open("alice").await.unwrap();
            session.sign_in(issuer.sign_in()).await.unwrap();
            session.close().await.unwrap();
        });
        let held = runtime().block_on(redis.ask::<Vec<String>>(&["KEYS", "*:lease"]));
        assert_eq!(held, Vec::<String>::new(), "program {round}");
    }
}

/// A Redis that is gone keeps no program from ending.
#[tokio::test]
async fn case_42_closing_does_not_wait_for_a_redis_that_is_gone() {
    let mut redis = Redis::start();
    let store = redis.store().await;
    let session = Session::builder(Issuer::new()).store(store.clone()).open("alice").await.unwrap();
    let lease = store.lease(&"a".repeat(64).parse().unwrap(), 45 * SEC).await.unwrap();
    redis.stop();
    drop(lease);
    let start = std::time::Instant::now();
    session.close().await.unwrap();
    assert!((2 * SEC..6 * SEC).contains(&start.elapsed()), "{:?}", start.elapsed());
}
