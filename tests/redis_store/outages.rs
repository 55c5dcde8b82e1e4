//! Redis is away, and comes back: what the store says of it.

use crate::{Redis, SEC, TERM, key, kind, soon, text};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};
use tower_reauth::{LeaseGuard as _, RedisStore, SessionStore as _, StoreErrorKind};

/// Everything that can be asked without a lease is `Unavailable`, and soon.
async fn is_away(store: &RedisStore, within: Duration) {
    let asked = async {
        assert_eq!(kind(store.load(&key('a')).await), StoreErrorKind::Unavailable);
        assert_eq!(kind(store.raise_epoch(&key('a'), 0).await), StoreErrorKind::Unavailable);
        assert_eq!(kind(store.lease(&key('b'), TERM).await), StoreErrorKind::Unavailable);
        assert_eq!(kind(store.accounts().await), StoreErrorKind::Unavailable);
    };
    timeout(4 * within, asked).await.expect("it takes too long");
}

#[tokio::test]
async fn a_redis_that_is_gone_is_unavailable_at_once_and_found_again() {
    let mut redis = Redis::durable();
    let store = redis.store().await;
    let mut lease = store.lease(&key('a'), TERM).await.unwrap();
    let version = store.save(&mut lease, None, b"record").await.unwrap();
    store.raise_epoch(&key('a'), 2).await.unwrap();

    redis.stop();
    is_away(&store, SEC / 2).await;
    assert_eq!(kind(store.save(&mut lease, Some(&version), b"x").await), StoreErrorKind::Unavailable);
    assert_eq!(kind(lease.renew().await), StoreErrorKind::Unavailable);
    assert!(lease.valid_for().unwrap() > TERM / 2, "nothing says that it is lost");
    assert_eq!(kind(RedisStore::connect(&redis.url()).await), StoreErrorKind::Unavailable);

    redis.start_again();
    assert_eq!(store.load(&key('a')).await.unwrap().unwrap().bytes(), b"record", "at the first attempt");
    lease.renew().await.unwrap();
    store.save(&mut lease, Some(&version), b"newer").await.unwrap();
    assert_eq!(store.raise_epoch(&key('a'), 0).await.unwrap(), 2);
}

/// A restart in between that nobody saw costs nothing: the question is put once more.
#[tokio::test]
async fn a_restart_that_nobody_saw_is_not_an_error() {
    let mut redis = Redis::durable();
    let store = redis.store().await;
    let mut lease = store.lease(&key('a'), TERM).await.unwrap();
    let mut version = None;
    for _ in 0..3 {
        redis.stop();
        redis.start_again();
        version = Some(store.save(&mut lease, version.as_ref(), b"record").await.unwrap());
    }
    redis.stop();
    redis.start_again();
    drop(lease);
    timeout(5 * SEC, store.lease(&key('a'), TERM)).await.expect("it was given back").unwrap();
}

#[tokio::test]
async fn without_its_data_the_lease_is_lost_and_the_record_gone() {
    let mut redis = Redis::start();
    let store = redis.store().await;
    let mut lease = store.lease(&key('a'), TERM).await.unwrap();
    let version = store.save(&mut lease, None, b"record").await.unwrap();
    store.raise_epoch(&key('a'), 2).await.unwrap();
    redis.stop();
    redis.start_empty();
    assert_eq!(kind(store.save(&mut lease, Some(&version), b"x").await), StoreErrorKind::LeaseLost);
    assert_eq!(kind(lease.renew().await), StoreErrorKind::LeaseLost);
    assert!(store.load(&key('a')).await.unwrap().is_none());
    assert_eq!(store.raise_epoch(&key('a'), 0).await.unwrap(), 0);
    store.lease(&key('a'), TERM).await.unwrap();
}

/// Its port is open, and nobody answers: a crowd does not wait for the sum of its attempts.
#[tokio::test]
async fn a_redis_that_hangs_is_unavailable_within_seconds_for_a_crowd_too() {
    let redis = Redis::start();
    let (store, idle) = (redis.store().await, redis.store().await);
    let mut lease = store.lease(&key('a'), TERM).await.unwrap();
    let version = store.save(&mut lease, None, b"record").await.unwrap();
    redis.freeze();
    let start = Instant::now();
    for _ in 0..2 {
        let account = key('a');
        for outcome in futures_util::future::join_all((0..20).map(|_| store.load(&account))).await {
            assert_eq!(kind(outcome), StoreErrorKind::Unavailable);
        }
    }
    assert!(start.elapsed() < 8 * SEC, "{:?}", start.elapsed());
    assert_eq!(kind(idle.load(&key('a')).await), StoreErrorKind::Unavailable);
    // A lease that was asked for in vain may be granted yet: it is given back in the background.
    assert_eq!(kind(idle.lease(&key('c'), TERM).await), StoreErrorKind::Unavailable);
    redis.thaw();
    timeout(10 * SEC, store.lease(&key('c'), TERM)).await.expect("held by nobody").unwrap();
    store.save(&mut lease, Some(&version), b"newer").await.unwrap();
}

#[tokio::test]
async fn a_lease_whose_release_was_lost_ends_by_itself() {
    let mut redis = Redis::durable();
    let store = redis.store().await;
    let lease = store.lease(&key('a'), 4 * SEC).await.unwrap();
    let (start, other) = (Instant::now(), tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    redis.stop();
    std::thread::spawn(move || other.block_on(async { drop(lease) })).join().unwrap(); // its runtime ends at once
    redis.start_again();
    assert!(timeout(SEC, store.lease(&key('a'), TERM)).await.is_err(), "it is still held");
    timeout(10 * SEC, store.lease(&key('a'), TERM)).await.expect("it ended").unwrap();
    assert!(start.elapsed() > 3 * SEC);
}

#[tokio::test]
async fn out_of_memory_is_unavailable_and_breaks_nothing() {
    let redis = Redis::start();
    let store = redis.store().await;
    let mut lease = store.lease(&key('a'), TERM).await.unwrap();
    let version = store.save(&mut lease, None, b"record").await.unwrap();
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = store.save(&mut lease, Some(&version), b"x").await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(text(&error).contains("OOM"), "{}", text(&error));
    assert_eq!(store.load(&key('a')).await.unwrap().unwrap().version(), &version);
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    store.save(&mut lease, Some(&version), b"newer").await.unwrap();
}

/// After a failover the old primary is a replica: a new connection is made, which may find the new primary.
#[tokio::test]
async fn a_replica_is_unavailable_until_it_is_a_primary_again() {
    let redis = Redis::start();
    let store = redis.store().await;
    let mut lease = store.lease(&key('a'), TERM).await.unwrap();
    redis.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = store.save(&mut lease, None, b"record").await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{}", text(&error));
    redis.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    store.save(&mut lease, None, b"record").await.unwrap();
}

#[tokio::test]
async fn what_is_no_redis_is_unavailable() {
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://:hunter2@{}", port.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = port.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            sleep(SEC / 10).await;
        }
    });
    let error = RedisStore::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!text(&error).contains("hunter2"), "{}", text(&error));
}

/// Dropped while Redis was asked, whether it had granted the lease or not: nobody holds it afterwards.
#[tokio::test]
async fn who_stops_waiting_for_an_answer_leaves_no_lease() {
    let redis = Redis::start();
    let store = redis.store().await;
    redis.freeze();
    assert!(timeout(SEC / 2, store.lease(&key('a'), TERM)).await.is_err());
    redis.thaw();
    soon(async || redis.ask::<u32>(&["EXISTS", &crate::name('a', "lease")]).await == 0).await;
    sleep(SEC / 5).await;
    timeout(SEC, store.lease(&key('a'), TERM)).await.expect("held by nobody").unwrap();
}

/// A way to Redis on which the first connection hangs for a while: what was said on it arrives after what was said on
/// the next one.
struct Detour {
    url: String,
    hangs: tokio::sync::watch::Sender<bool>,
}

impl Detour {
    async fn to(redis: &Redis) -> Self {
        let (hangs, hanging) = tokio::sync::watch::channel(false);
        let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (url, port) = (format!("redis://{}/", door.local_addr().unwrap()), redis.port());
        tokio::spawn(async move {
            for number in 0.. {
                let (client, server) =
                    (door.accept().await.unwrap().0, tokio::net::TcpStream::connect(("127.0.0.1", port)));
                let ((mut from, mut back), (mut answers, mut to)) =
                    (client.into_split(), server.await.unwrap().into_split());
                let mut hanging = hanging.clone();
                tokio::spawn(async move {
                    let mut said = vec![0; 4096];
                    while let Ok(length @ 1..) = tokio::io::AsyncReadExt::read(&mut from, &mut said).await {
                        if number == 0 {
                            hanging.wait_for(|hangs| !hangs).await.unwrap();
                        }
                        tokio::io::AsyncWriteExt::write_all(&mut to, &said[..length]).await.unwrap();
                    }
                });
                tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
            }
        });
        Self { url, hangs }
    }
}

/// P6: it asks for no version, and the good record that was saved since is not what it was meant for.
#[tokio::test]
async fn p06_a_set_aside_that_arrives_late_takes_no_good_record() {
    let redis = Redis::start();
    let detour = Detour::to(&redis).await;
    let store = RedisStore::connect(&detour.url).await.unwrap();
    let mut lease = store.lease(&key('a'), TERM).await.unwrap();
    redis.ask::<()>(&["SET", &crate::name('a', "record"), "of another program"]).await;
    detour.hangs.send_replace(true);
    assert_eq!(kind(store.set_aside(&mut lease).await), StoreErrorKind::Unavailable);
    assert_eq!(kind(lease.renew().await), StoreErrorKind::LeaseLost, "it is given up");

    let mut lease = timeout(10 * SEC, store.lease(&key('a'), TERM)).await.expect("and given back").unwrap();
    store.set_aside(&mut lease).await.unwrap();
    let good = store.save(&mut lease, None, b"good").await.unwrap();
    detour.hangs.send_replace(false);
    sleep(SEC / 2).await;
    assert_eq!(store.load(&key('a')).await.unwrap().map(|found| found.version().clone()), Some(good));
}
