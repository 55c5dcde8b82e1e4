//! `RedisStore` on a real Redis, one of its own for each test: what the store promises, and what sessions on several
//! machines make of it.
#![cfg(feature = "__server-tests")]
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start tasks and read the clock

#[path = "support/kit.rs"]
mod kit;
#[path = "redis_store/machines.rs"]
mod machines;
#[path = "redis_store/outages.rs"]
mod outages;
#[path = "support/redis.rs"]
mod redis_server;
#[path = "redis_store/tls.rs"]
mod tls;

use futures_util::future::join_all;
use redis_server::Redis;
use std::{
    error::Error as _,
    fmt::Debug,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};
use tower_reauth::{AccountKey, LeaseGuard as _, RedisStore, SessionStore as _, StoreError, StoreErrorKind, Version};

const SEC: Duration = Duration::from_secs(1);
const TERM: Duration = Duration::from_secs(45);
const LARGEST: usize = 1 << 20;

tower_reauth::store_contract!(contract, || async {
    // Kept for the life of the process: nextest runs each test in one of its own.
    Box::leak(Box::new(Redis::start())).store().await
});

fn key(digit: char) -> AccountKey {
    digit.to_string().repeat(64).parse().unwrap()
}

fn name(digit: char, part: &str) -> String {
    format!("tower-reauth:{{{}}}:{part}", key(digit))
}

fn kind<T: Debug>(outcome: Result<T, StoreError>) -> StoreErrorKind {
    outcome.expect_err("an error").kind()
}

/// All that an error says.
fn text(error: &StoreError) -> String {
    format!("{error} {error:?} {:?}", error.source().map(ToString::to_string))
}

async fn two() -> (Redis, RedisStore, RedisStore) {
    let redis = Redis::start();
    let (a, b) = (redis.store().await, redis.store().await);
    (redis, a, b)
}

async fn soon(what: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !what().await {
        assert!(start.elapsed() < 20 * SEC, "it does not happen");
        sleep(Duration::from_millis(10)).await;
    }
}

// ===== leases =====

#[tokio::test]
async fn two_stores_never_hold_one_lease() {
    let (_redis, a, b) = two().await;
    let (key, inside) = (key('a'), std::sync::atomic::AtomicUsize::new(0));
    let work = (0..40).map(async |i: usize| {
        let lease = [&a, &b][i % 2].lease(&key, TERM).await.unwrap();
        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two holders");
        sleep(Duration::from_millis(2)).await;
        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        drop(lease);
    });
    timeout(30 * SEC, join_all(work)).await.expect("everybody gets it");
}

#[tokio::test]
async fn a_lease_that_ran_out_is_anothers_and_its_holder_cannot_write() {
    let (_redis, a, b) = two().await;
    let key = key('a');
    let mut stale = a.lease(&key, Duration::from_millis(300)).await.unwrap();
    let old = a.save(&mut stale, None, b"old").await.unwrap();
    let left = stale.valid_for().unwrap();
    assert!(left <= Duration::from_millis(300), "{left:?}");
    let start = Instant::now();
    let mut next = timeout(5 * SEC, b.lease(&key, TERM)).await.expect("it ran out").unwrap();
    assert!(start.elapsed() + Duration::from_millis(20) >= left, "no earlier than its holder believed");
    assert_eq!(stale.valid_for(), Some(Duration::ZERO));
    let new = b.save(&mut next, Some(&old), b"new").await.unwrap();

    // Fenced: neither with the version that it knows nor with the newest one.
    for version in [&old, &new] {
        assert_eq!(kind(a.save(&mut stale, Some(version), b"stale").await), StoreErrorKind::LeaseLost);
        assert_eq!(kind(a.remove(&mut stale, Some(version)).await), StoreErrorKind::LeaseLost);
    }
    assert_eq!(kind(a.set_aside(&mut stale).await), StoreErrorKind::LeaseLost);
    assert_eq!(kind(stale.renew().await), StoreErrorKind::LeaseLost);
    assert_eq!(a.load(&key).await.unwrap().unwrap().bytes(), b"new");
    drop(stale);
    sleep(Duration::from_millis(50)).await;
    assert!(timeout(SEC / 5, a.lease(&key, TERM)).await.is_err(), "who lost a lease releases nobody else's");
    b.save(&mut next, Some(&new), b"newer").await.unwrap();
}

#[tokio::test]
async fn without_a_next_holder_it_is_lost_all_the_same() {
    let (redis, a, _) = two().await;
    let mut stale = a.lease(&key('a'), TERM).await.unwrap();
    redis.end_lease().await;
    assert_eq!(kind(a.save(&mut stale, None, b"stale").await), StoreErrorKind::LeaseLost);
    assert!(a.load(&key('a')).await.unwrap().is_none());
    assert_eq!(kind(stale.renew().await), StoreErrorKind::LeaseLost);
    assert_eq!(stale.valid_for(), Some(Duration::ZERO), "it is told once");
}

#[tokio::test]
async fn a_renewal_starts_the_term_anew() {
    let (redis, a, _) = two().await;
    let mut lease = a.lease(&key('a'), 2 * SEC).await.unwrap();
    for _ in 0..3 {
        sleep(SEC).await;
        lease.renew().await.unwrap();
        assert!(lease.valid_for().unwrap() > SEC + SEC / 2);
        let left: u64 = redis.ask(&["PTTL", &name('a', "lease")]).await;
        assert!((1500..=2000).contains(&left), "{left} ms");
        let most = Duration::from_millis(left + 2); // Redis counts whole milliseconds
        assert!(lease.valid_for().unwrap() <= most, "its holder never counts on more");
    }
    a.save(&mut lease, None, b"record").await.unwrap();
}

/// The term counts from before it was asked for: a Redis that is slow to answer shortens what is left.
#[tokio::test]
async fn what_is_left_counts_from_before_the_question() {
    let (redis, a, _) = two().await;
    redis.freeze();
    let thaw = async {
        sleep(SEC).await;
        redis.thaw();
    };
    let key = key('a');
    let (lease, ()) = tokio::join!(a.lease(&key, TERM), thaw);
    let mut lease = lease.unwrap();
    assert!(lease.valid_for().unwrap() <= TERM - SEC, "{:?}", lease.valid_for());
    redis.freeze();
    let thaw = async {
        sleep(SEC).await;
        redis.thaw();
    };
    let (renewed, ()) = tokio::join!(lease.renew(), thaw);
    renewed.unwrap();
    assert!(lease.valid_for().unwrap() <= TERM - SEC, "{:?}", lease.valid_for());
}

#[tokio::test]
async fn a_lease_is_released_on_drop_at_once() {
    let (redis, a, b) = two().await;
    let lease = a.lease(&key('a'), TERM).await.unwrap();
    drop(lease);
    let start = Instant::now();
    let lease = b.lease(&key('a'), TERM).await.unwrap();
    assert!(start.elapsed() < SEC, "{:?}", start.elapsed());
    drop(lease);
    soon(async || redis.ask::<Vec<String>>(&["KEYS", "*"]).await.is_empty()).await;
}

#[test]
fn a_lease_that_is_dropped_without_a_runtime_panics_not_and_ends_by_itself() {
    let redis = Redis::start();
    let open = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runtime = open();
    let lease = runtime.block_on(async { redis.store().await.lease(&key('a'), SEC).await.unwrap() });
    drop(runtime);
    drop(lease);
    open().block_on(async {
        let store = redis.store().await;
        timeout(5 * SEC, store.lease(&key('a'), SEC)).await.expect("it ended by itself").unwrap();
    });
}

#[test]
fn a_store_goes_on_in_another_runtime_than_the_one_that_connected_it() {
    let redis = Redis::start();
    let open = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = open().block_on(redis.store());
    open().block_on(async { assert_eq!(store.raise_epoch(&key('a'), 2).await.unwrap(), 2) });
    open().block_on(async { assert!(timeout(SEC / 10, store.changed(&key('a'))).await.is_err()) });
    let runtime = open();
    runtime.block_on(async {
        let key = key('a');
        let hint = store.changed(&key);
        let raise = async {
            sleep(SEC).await;
            store.raise_epoch(&key, 4).await.unwrap();
        };
        let (hint, ()) = tokio::join!(timeout(5 * SEC, hint), raise);
        hint.expect("a hint");
    });
}

// ===== records =====

#[tokio::test]
async fn no_version_comes_twice_even_after_redis_lost_its_data() {
    let (redis, a, _) = two().await;
    let mut lease = a.lease(&key('a'), TERM).await.unwrap();
    let mut versions = Vec::new();
    for round in 0..6 {
        let version = a.save(&mut lease, None, b"the same").await.unwrap();
        assert!(!versions.contains(&version));
        match round % 2 {
            0 => a.remove(&mut lease, Some(&version)).await.unwrap(),
            _ => {
                redis.flush().await;
                assert_eq!(kind(a.save(&mut lease, Some(&version), b"").await), StoreErrorKind::LeaseLost);
                lease = a.lease(&key('a'), TERM).await.unwrap();
                assert_eq!(kind(a.save(&mut lease, Some(&version), b"").await), StoreErrorKind::Conflict);
            }
        }
        versions.push(version);
    }
}

#[tokio::test]
async fn a_conflict_is_told_from_a_lost_lease() {
    let (_redis, a, _) = two().await;
    let mut lease = a.lease(&key('a'), TERM).await.unwrap();
    let version = a.save(&mut lease, None, b"1").await.unwrap();
    for wrong in [None, Some(Version::from_bytes("")), Some(Version::from_bytes("x"))] {
        assert_eq!(kind(a.save(&mut lease, wrong.as_ref(), b"2").await), StoreErrorKind::Conflict);
        assert_eq!(kind(a.remove(&mut lease, wrong.as_ref()).await), StoreErrorKind::Conflict);
    }
    a.remove(&mut lease, Some(&version)).await.unwrap();
    assert_eq!(kind(a.save(&mut lease, Some(&Version::from_bytes("")), b"2").await), StoreErrorKind::Conflict);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_given_again() {
    let (redis, a, _) = two().await;
    let mut version = None;
    for _ in 0..3 {
        redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
        let mut lease = a.lease(&key('a'), TERM).await.unwrap();
        redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
        version = Some(a.save(&mut lease, version.as_ref(), b"record").await.unwrap());
        redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
        lease.renew().await.unwrap();
        a.load(&key('a')).await.unwrap().unwrap();
        redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
        drop(lease);
    }
    soon(async || redis.ask::<u32>(&["EXISTS", &name('a', "lease")]).await == 0).await;
}

#[tokio::test]
async fn case_16_an_oversized_record_is_too_large_both_ways() {
    let (redis, a, _) = two().await;
    let mut lease = a.lease(&key('a'), TERM).await.unwrap();
    let version = a.save(&mut lease, None, &vec![7; LARGEST]).await.unwrap();
    assert_eq!(kind(a.save(&mut lease, Some(&version), &vec![7; LARGEST + 1]).await), StoreErrorKind::TooLarge);
    assert_eq!(a.load(&key('a')).await.unwrap().unwrap().bytes().len(), LARGEST);
    redis.ask::<u32>(&["HSET", &name('a', "record"), "bytes", &"x".repeat(LARGEST + 1)]).await;
    assert_eq!(kind(a.load(&key('a')).await), StoreErrorKind::TooLarge);
    a.set_aside(&mut lease).await.unwrap();
    assert!(a.load(&key('a')).await.unwrap().is_none());
    assert_eq!(redis.ask::<usize>(&["HSTRLEN", &redis.key(":aside:*").await, "bytes"]).await, LARGEST + 1);
}

#[tokio::test]
async fn case_16_what_stands_in_a_records_place_is_an_error_and_stays() {
    let (redis, a, _) = two().await;
    let mut lease = a.lease(&key('a'), TERM).await.unwrap();
    let record = name('a', "record");
    for foreign in [&["SET", &record, "theirs"][..], &["RPUSH", &record, "theirs"], &["HSET", &record, "x", "theirs"]] {
        redis.ask::<redis::Value>(foreign).await;
        let before: Vec<u8> = redis.ask(&["DUMP", &record]).await;
        let error = a.load(&key('a')).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        assert!(!text(&error).contains("theirs"));
        for expected in [None, Some(Version::from_bytes("x"))] {
            let kinds = [StoreErrorKind::Corrupt, StoreErrorKind::Conflict];
            assert!(kinds.contains(&kind(a.save(&mut lease, expected.as_ref(), b"ours").await)));
            assert!(kinds.contains(&kind(a.remove(&mut lease, expected.as_ref()).await)));
        }
        assert_eq!(redis.ask::<Vec<u8>>(&["DUMP", &record]).await, before, "overwritten");
        a.set_aside(&mut lease).await.unwrap();
        let aside = redis.key(":aside:*").await;
        assert_eq!(redis.ask::<Vec<u8>>(&["DUMP", &aside]).await, before, "kept as it was");
        assert_eq!(redis.ask::<i64>(&["TTL", &aside]).await, -1, "for ever");
        redis.ask::<u32>(&["DEL", &aside]).await;
    }
    let version = a.save(&mut lease, None, b"ours").await.unwrap();
    a.remove(&mut lease, Some(&version)).await.unwrap();
}

#[tokio::test]
async fn case_16_so_it_is_for_leases_and_marks() {
    let (redis, a, _) = two().await;
    for (part, foreign) in [("lease", "x"), ("mark", "x"), ("mark", "")] {
        let place = name('a', part);
        redis.ask::<u32>(&["RPUSH", &place, foreign]).await;
        let refused = match part {
            "lease" => kind(a.lease(&key('a'), TERM).await),
            _ => kind(a.raise_epoch(&key('a'), 2).await),
        };
        assert_eq!(refused, StoreErrorKind::Corrupt);
        assert_eq!(redis.ask::<String>(&["LINDEX", &place, "0"]).await, foreign);
        redis.ask::<u32>(&["DEL", &place]).await;
    }
    for foreign in ["", "7", "-0000000000000000001", "99999999999999999999"] {
        redis.ask::<()>(&["SET", &name('a', "mark"), foreign]).await;
        assert_eq!(kind(a.raise_epoch(&key('a'), 2).await), StoreErrorKind::Corrupt, "{foreign:?}");
        assert_eq!(redis.ask::<String>(&["GET", &name('a', "mark")]).await, foreign);
    }
}

// ===== marks =====

#[tokio::test]
async fn marks_are_a_maximum_of_all_who_raise_at_once() {
    let (redis, a, b) = two().await;
    let (key, record) = (key('a'), name('a', "mark"));
    let stores = [a.clone(), b, redis.store().await];
    let raises = (1..=300u64).map(|i| {
        let (store, key) = (stores[i as usize % 3].clone(), key.clone());
        let to = i * 7919 % 301; // all of 1..=300, in disorder
        tokio::spawn(async move { (to, store.raise_epoch(&key, to).await.unwrap()) })
    });
    for raised in join_all(raises).await {
        let (to, answered) = raised.unwrap();
        assert!(answered >= to && answered <= 300);
    }
    assert_eq!(a.raise_epoch(&key, 0).await.unwrap(), 300);
    // Exact where a floating-point number is not.
    for to in [(1 << 53) + 1, u64::MAX - 1, u64::MAX] {
        assert_eq!(a.raise_epoch(&key, to).await.unwrap(), to);
        assert_eq!(a.raise_epoch(&key, to - 1).await.unwrap(), to);
    }
    assert_eq!(redis.ask::<i64>(&["TTL", &record]).await, -1);
}

#[tokio::test]
async fn marks_survive_the_record_and_what_was_put_aside() {
    let (_redis, a, b) = two().await;
    let mut lease = a.lease(&key('a'), TERM).await.unwrap();
    let version = a.save(&mut lease, None, b"record").await.unwrap();
    assert_eq!(b.raise_epoch(&key('a'), 3).await.unwrap(), 3, "no lease is needed");
    a.remove(&mut lease, Some(&version)).await.unwrap();
    assert_eq!(b.raise_epoch(&key('a'), 0).await.unwrap(), 3);
    a.save(&mut lease, None, b"record").await.unwrap();
    a.set_aside(&mut lease).await.unwrap();
    assert_eq!(b.raise_epoch(&key('a'), 0).await.unwrap(), 3);
}

// ===== names =====

#[tokio::test]
async fn prefixes_share_nothing_and_are_no_patterns() {
    let (redis, a, _) = two().await;
    let stores = [a.clone(), a.clone().prefix("tower*"), a.clone().prefix("[a-z]"), a.prefix("b")];
    for store in &stores {
        assert!(store.load(&key('a')).await.unwrap().is_none());
        let mut lease = store.lease(&key('a'), TERM).await.unwrap();
        store.save(&mut lease, None, b"record").await.unwrap();
        let mut other = store.lease(&key('b'), TERM).await.unwrap();
        store.save(&mut other, None, b"record").await.unwrap();
        store.set_aside(&mut other).await.unwrap();
        store.raise_epoch(&key('c'), 1).await.unwrap();
    }
    redis.ask::<()>(&["SET", "tower-reauth:{not-a-key}:record", "x"]).await;
    for store in &stores {
        assert_eq!(store.accounts().await.unwrap(), [key('a')]);
    }
}

#[tokio::test]
async fn accounts_are_all_found_among_many_keys() {
    let (redis, a, _) = two().await;
    let mut fill = redis::pipe();
    for i in 0..3000 {
        fill.cmd("SET").arg(format!("other:{i}")).arg("x").ignore();
        fill.cmd("HSET").arg(format!("tower-reauth:{{{i:064x}}}:record")).arg("version").arg("1").ignore();
    }
    fill.query_async::<()>(&mut redis.connection().await).await.unwrap();
    assert_eq!(a.accounts().await.unwrap().len(), 3000);
}

// ===== P16 and who may what =====

#[tokio::test]
async fn p16_a_password_is_never_shown() {
    let redis = Redis::start_with(&["--requirepass", "hunter2"]);
    let url = |user: &str| format!("redis://{user}127.0.0.1:{}/", redis.port());
    let store = RedisStore::connect(&url(":hunter2@")).await.unwrap();
    let shown = format!("{store:?} {store:#?} {:?}", store.lease(&key('a'), TERM).await.unwrap());
    assert!(!shown.contains("hunter2") && shown.contains("127.0.0.1"), "{shown}");
    for wrong in ["", ":hunter2x@", "nobody:hunter2x@"] {
        let error = RedisStore::connect(&url(wrong)).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Denied, "{wrong}: {}", text(&error));
        assert!(!text(&error).contains("hunter2"), "{}", text(&error));
    }
    // A server that quotes what it was sent.
    let quoting = Redis::start_with(&["--rename-command", "AUTH", "LOGIN", "--rename-command", "EVALSHA", "NONE"]);
    for url in [format!("redis://:hunter2@127.0.0.1:{}", quoting.port()), quoting.url()] {
        let error = RedisStore::connect(&url).await.unwrap_err();
        assert!(!text(&error).contains("hunter2") && !text(&error).contains("{0000"), "{}", text(&error));
    }
}

#[tokio::test]
async fn what_redis_does_not_allow_is_denied() {
    let redis = Redis::start();
    let rights = "on >pw ~tower-reauth:* &tower-reauth:* +@scripting +@hash +@string +@keyspace +@pubsub +@connection";
    let user = |name, rights: &'static str| {
        let words = ["ACL", "SETUSER", name].into_iter().chain(rights.split(' ')).collect::<Vec<_>>();
        let (redis, url) = (&redis, format!("redis://{name}:pw@127.0.0.1:{}/", redis.port()));
        async move {
            redis.ask::<()>(&words).await;
            RedisStore::connect(&url).await
        }
    };
    // What the documentation asks for is enough.
    let allowed = user("allowed", rights).await.unwrap();
    let mut lease = allowed.lease(&key('a'), TERM).await.unwrap();
    let version = allowed.save(&mut lease, None, b"record").await.unwrap();
    lease.renew().await.unwrap();
    assert_eq!(allowed.accounts().await.unwrap(), [key('a')]);
    allowed.raise_epoch(&key('a'), 2).await.unwrap();
    allowed.remove(&mut lease, Some(&version)).await.unwrap();
    allowed.set_aside(&mut lease).await.unwrap();
    // Without a channel there are no hints, and nothing else is missing.
    let silent = "on >pw ~tower-reauth:* resetchannels +@scripting +@hash +@string +@keyspace +@connection";
    let silent = user("silent", silent).await.unwrap();
    let mut other = silent.lease(&key('b'), TERM).await.unwrap();
    silent.save(&mut other, None, b"record").await.unwrap();
    assert!(timeout(SEC, silent.changed(&key('b'))).await.is_err());

    assert_eq!(kind(user("elsewhere", "on >pw ~other:* +@all").await), StoreErrorKind::Denied);
    assert_eq!(kind(user("mute", "on >pw ~* +@connection").await), StoreErrorKind::Denied);
    let reader = user("reader", "on >pw ~* +@scripting +@read +@connection").await.unwrap();
    assert_eq!(kind(reader.raise_epoch(&key('a'), 9).await), StoreErrorKind::Denied);
    assert_eq!(kind(reader.lease(&key('c'), TERM).await), StoreErrorKind::Denied);
}

// ===== hints =====

async fn subscribed(redis: &Redis, digit: char) -> bool {
    let (_, count): (String, u32) = redis.ask(&["PUBSUB", "NUMSUB", &name(digit, "changed")]).await;
    count > 0
}

/// How long a hint takes that this causes.
async fn hint(redis: &Redis, store: &RedisStore, cause: impl AsyncFnOnce()) -> Duration {
    let (store, key) = (store.clone(), key('a'));
    let waiting = tokio::spawn(async move { store.changed(&key).await });
    soon(async || subscribed(redis, 'a').await).await;
    sleep(SEC / 10).await;
    assert!(!waiting.is_finished(), "a hint without a change");
    let start = Instant::now();
    cause().await;
    timeout(5 * SEC, waiting).await.expect("no hint").unwrap();
    start.elapsed()
}

#[tokio::test]
async fn whatever_changes_gives_a_hint_to_the_other_machine() {
    let (redis, a, b) = two().await;
    let mut lease = a.lease(&key('a'), TERM).await.unwrap();
    let mut version = None;
    hint(&redis, &b, async || version = Some(a.save(&mut lease, None, b"1").await.unwrap())).await;
    hint(&redis, &b, async || assert_eq!(a.raise_epoch(&key('a'), 1).await.unwrap(), 1)).await;
    hint(&redis, &b, async || a.remove(&mut lease, version.as_ref()).await.unwrap()).await;
    a.save(&mut lease, None, b"2").await.unwrap();
    sleep(SEC / 2).await; // until that one is heard, with nobody waiting
    hint(&redis, &b, async || a.set_aside(&mut lease).await.unwrap()).await;
    // Many wait on one connection, each for its own account.
    let other = tokio::spawn({
        let b = b.clone();
        async move { b.changed(&key('b')).await }
    });
    soon(async || subscribed(&redis, 'b').await).await;
    hint(&redis, &b, async || assert_eq!(a.raise_epoch(&key('a'), 2).await.unwrap(), 2)).await;
    assert!(!other.is_finished(), "a hint of another account");
    soon(async || redis.clients().await == 3).await; // two stores and one subscription
    a.raise_epoch(&key('b'), 2).await.unwrap();
    timeout(SEC, other).await.expect("no hint").unwrap();
}

#[tokio::test]
async fn hints_cost_nothing_when_nobody_waits() {
    let (redis, _a, b) = two().await;
    soon(async || redis.clients().await == 2).await;
    assert!(timeout(SEC / 5, b.changed(&key('a'))).await.is_err());
    soon(async || redis.clients().await == 3).await;
    soon(async || redis.clients().await == 2).await;
    // And they are there again when somebody does.
    hint(&redis, &b, async || assert_eq!(b.raise_epoch(&key('a'), 1).await.unwrap(), 1)).await;
}

#[tokio::test]
async fn hints_come_again_after_redis_was_away_and_are_not_asked_for_in_a_hurry() {
    let (mut redis, a, _) = two().await;
    let waiting = tokio::spawn({
        let a = a.clone();
        async move { a.changed(&key('a')).await }
    });
    soon(async || subscribed(&redis, 'a').await).await;
    redis.stop();
    // Somebody else sits on the port and counts who knocks.
    let port = tokio::net::TcpListener::bind(("127.0.0.1", redis.port())).await.unwrap();
    let mut knocks = 0;
    let _ = timeout(3 * SEC, async {
        loop {
            drop(port.accept().await.unwrap());
            knocks += 1;
        }
    })
    .await;
    assert!((1..=10).contains(&knocks), "{knocks} attempts in 3 s");
    drop(port);
    redis.start_again();
    timeout(10 * SEC, waiting).await.expect("what was missed is a hint").unwrap();
    hint(&redis, &a, async || assert_eq!(a.raise_epoch(&key('a'), 1).await.unwrap(), 1)).await;
}
