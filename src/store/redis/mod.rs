//! [`RedisStore`]: records that many machines share.

mod hints;
mod line;
mod script;

use super::{LeaseGuard, MAX_RECORD, SessionStore, StoreError, StoreErrorKind, Stored, Version, poll::Poll};
use crate::{
    account::{AccountKey, hex},
    clock::{Clock, SystemClock},
};
use hints::Hints;
use line::{Fault, Line, Question};
use redis::ScriptInvocation;
use script::word;
use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::watch};

/// The pause between attempts to give a lease back.
const RELEASES: Duration = Duration::from_secs(1);

/// In a Redis; all machines that reach it share one login. Feature `redis`.
///
/// ```no_run
/// use tower_reauth::{RedisStore, Session, Tokens, refresh_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::BoxError> {
/// let store = RedisStore::connect("redis://user:password@cache.internal:6379/0").await?.prefix("my-app");
/// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh")))).store(store).open("alice").await?;
/// # drop(session); Ok(()) }
/// ```
///
/// Clones share one connection. When it breaks, the calls under way answer
/// [`Unavailable`](StoreErrorKind::Unavailable), and the next one connects anew: a Redis that was restarted needs no
/// restart of the program. No call waits longer than a few seconds for a Redis that does not answer, except for a lease
/// that another one holds.
///
/// # Durable
///
/// What Redis acknowledged is durable, **as far as that Redis keeps what it acknowledged**:
/// - With `appendonly yes` and `appendfsync always` nothing that was acknowledged is lost in a crash of the machine;
///   with `everysec`, the default of `appendonly yes`, up to a second is; with snapshots alone, everything since the
///   last one; without either, everything.
/// - A replica that takes over has what had reached it; replication is asynchronous, and what the old primary
///   acknowledged last may be missing.
///
/// What is lost are records *and marks*: a refresh token that the server has rotated since may come back (the refresh
/// after that is refused, and reported as a revocation or as `RotationLost`), a sign-out may be undone, and two
/// machines may hold the lease at once. What Redis has counts: a session whose record is gone is signed out at its next
/// refresh, but one that is in the middle of an exchange then, or holds tokens that could not be saved yet, saves them
/// anew, with their mark. Where that is not good enough, use `appendfsync always` and no automatic failover.
///
/// `maxmemory-policy` must be `noeviction` (the default): any other policy removes sessions, or their marks and leases,
/// when memory is short.
///
/// Records are as secret as the tokens in them: give Redis a password and TLS, or seal the records
/// (`Sealed`). The client library's buffers are not wiped.
///
/// # Leases and clocks
///
/// A lease is a key with a term, which Redis ends by its own clock; the holder measures its term on this machine's
/// suspend-counting clock, from before it was asked for. The clocks of the machines are never compared. If the clock of
/// Redis is set forward, leases end early: a holder finds out before it sends anything, since the lease is renewed
/// then, and at every write, since scripts compare the owner.
///
/// # In Redis
///
/// All keys begin with the prefix (`tower-reauth`), and carry the account's key as their hash tag:
/// `PREFIX:{KEY}:record` (a hash), `:lease`, `:mark` (survives the record's removal), `:aside:…` (a record that could
/// not be read, kept until somebody removes it), and the channel `:changed`. A user of Redis's ACL needs these keys and
/// channels, and `+@scripting +@hash +@string +@keyspace +@pubsub +@connection`. Any Redis from version 5 on, or
/// Valkey, on one primary; not a Redis Cluster.
#[derive(Clone)]
pub struct RedisStore {
    line: Arc<Line>,
    hints: Arc<Hints>,
    prefix: Arc<str>,
    /// Counts the leases that are being given back.
    releases: watch::Sender<usize>,
}

impl RedisStore {
    /// Connects to `redis://[user][:password]@host[:port][/database]`. `rediss://` is TLS with the system's roots, and
    /// needs the feature `redis-rustls`; `unix:///path` is a socket.
    ///
    /// # Errors
    /// [`Unavailable`](StoreErrorKind::Unavailable) if Redis does not answer within a few seconds;
    /// [`Denied`](StoreErrorKind::Denied) if it refuses the user or the password, or may not be asked what this store
    /// asks, if the URL is none, or if it needs a feature that is off. None of them quotes the URL.
    ///
    /// Needs a tokio runtime with its timer and its input and output.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        if Handle::try_current().is_err() {
            return Err(Fault::new(StoreErrorKind::Unavailable, "a Redis store needs a tokio runtime").into());
        }
        let line = Arc::new(Line::open(url)?);
        let store = Self {
            hints: Arc::new(Hints::new(line.clone())),
            line,
            prefix: "tower-reauth".into(),
            releases: watch::Sender::new(0),
        };
        // Shows that Redis is there, takes the password, knows scripts, and lets this user read.
        let nobody: AccountKey = "0".repeat(64).parse()?;
        store.raise_epoch(&nobody, 0).await?;
        Ok(store)
    }

    /// What all keys begin with, `tower-reauth` unless it is set: stores with different prefixes share nothing.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into().into();
        self
    }

    fn key(&self, key: &AccountKey, part: &str) -> String {
        format!("{}:{{{key}}}:{part}", self.prefix)
    }

    /// The answer of a script, whose first word is `ok`, [`HELD`](word::HELD) or [`NONE`](word::NONE).
    async fn run(&self, script: &ScriptInvocation<'_>) -> Result<Vec<Vec<u8>>, StoreError> {
        let answer: Vec<Vec<u8>> = self.line.ask(Question::Script(script)).await?;
        match answer.first().map(Vec::as_slice) {
            Some(word::LOST) => Err(StoreError::new(StoreErrorKind::LeaseLost)),
            Some(word::CONFLICT) => Err(StoreError::new(StoreErrorKind::Conflict)),
            Some(word::LARGE) => Err(StoreError::new(StoreErrorKind::TooLarge)),
            Some(word::FOREIGN) => Err(foreign()),
            _ => Ok(answer),
        }
    }
}

fn foreign() -> StoreError {
    Fault::new(StoreErrorKind::Corrupt, "something else stands under a key of this account").into()
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RedisStore");
        debug.field("address", &self.line.address()).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// 128 random bits: nobody else has them, nor will.
fn random() -> Result<[u8; 16], StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(StoreError::unavailable)?;
    Ok(bytes)
}

/// In scripts: empty for "must not exist".
fn expectation(expected: Option<&Version>) -> Vec<u8> {
    expected.map_or_else(Vec::new, |version| [b"=", version.as_bytes()].concat())
}

mod lease {
    use super::{
        AccountKey, Clock, Duration, Handle, LeaseGuard, RELEASES, RedisStore, StoreError, StoreErrorKind, SystemClock,
        fmt, script, watch,
    };

    /// The lease of a `RedisStore`: ends by itself after its term.
    pub struct Lease {
        pub(super) store: RedisStore,
        pub(super) key: AccountKey,
        /// A random name, which nobody else has.
        pub(super) owner: String,
        pub(super) ttl: Duration,
        /// When the term began at the latest, on the monotonic clock; `None`: nothing was asked for, or it is lost.
        pub(super) since: Option<Duration>,
    }

    impl Lease {
        /// Redis knows no shorter term than a millisecond, and this many years are enough.
        pub(super) fn millis(&self) -> u64 {
            u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 40)
        }

        /// One that was given up: every script finds that its owner holds nothing.
        pub(super) fn lost(&self) -> Self {
            let (store, key) = (self.store.clone(), self.key.clone());
            Self { store, key, owner: String::new(), ttl: self.ttl, since: None }
        }

        pub(super) fn place(&self) -> String {
            self.store.key(&self.key, "lease")
        }
    }

    impl fmt::Debug for Lease {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Lease")
                .field("key", &self.key)
                .field("valid_for", &self.valid_for())
                .finish_non_exhaustive()
        }
    }

    impl LeaseGuard for Lease {
        fn valid_for(&self) -> Option<Duration> {
            let gone = |since: Duration| SystemClock::new().monotonic().saturating_sub(since);
            Some(self.since.map_or(Duration::ZERO, |since| self.ttl.saturating_sub(gone(since))))
        }

        async fn renew(&mut self) -> Result<(), StoreError> {
            let asked = SystemClock::new().monotonic();
            let mut script = script::RENEW.key(self.place());
            match self.store.run(script.arg(&self.owner).arg(self.millis())).await {
                Ok(_) => {
                    self.since = Some(asked);
                    Ok(())
                }
                Err(error) => {
                    if error.kind() == StoreErrorKind::LeaseLost {
                        self.since = None;
                    }
                    Err(error)
                }
            }
        }
    }

    impl Drop for Lease {
        /// Gives it back, in the background. Where that fails, and without a runtime, it ends by itself.
        #[allow(clippy::disallowed_methods)] // not the work of a session, and `drop` cannot wait
        fn drop(&mut self) {
            let (Some(left), Ok(runtime)) = (self.valid_for().filter(|left| !left.is_zero()), Handle::try_current())
            else {
                return;
            };
            let (store, place, owner) = (self.store.clone(), self.place(), std::mem::take(&mut self.owner));
            let going = Going::on(&store.releases);
            let release = async move {
                let _going = going;
                let mut script = script::RELEASE.key(place);
                script.arg(owner);
                while store.run(&script).await.is_err() {
                    tokio::time::sleep(RELEASES).await;
                }
            };
            runtime.spawn(tokio::time::timeout(left, release));
        }
    }

    /// A lease on its way back, until this is dropped: with the task, or with its runtime.
    struct Going(watch::Sender<usize>);

    impl Going {
        fn on(releases: &watch::Sender<usize>) -> Self {
            releases.send_modify(|going| *going += 1);
            Self(releases.clone())
        }
    }

    impl Drop for Going {
        fn drop(&mut self) {
            self.0.send_modify(|going| *going -= 1);
        }
    }
}

impl SessionStore for RedisStore {
    type Lease = lease::Lease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        let mut answer = self.run(script::LOAD.key(self.key(key, "record")).arg(MAX_RECORD)).await?.into_iter();
        match (answer.next().as_deref(), answer.next(), answer.next()) {
            (Some(word::NONE), ..) => Ok(None),
            (_, Some(version), Some(bytes)) => Ok(Some(Stored::new(bytes, Version::from_bytes(version)))),
            _ => Err(foreign()),
        }
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<lease::Lease, StoreError> {
        let (owner, store) = (hex(&random()?), self.clone());
        // Made first: whoever drops this future while Redis is being asked gives back what it may have granted.
        let mut lease = lease::Lease { store, key: key.clone(), owner, ttl, since: None };
        let mut script = script::LEASE.key(lease.place());
        script.arg(&lease.owner).arg(lease.millis());
        let mut poll = Poll::new();
        loop {
            lease.since = Some(SystemClock::new().monotonic());
            if self.run(&script).await?.first().is_none_or(|first| first != word::HELD) {
                return Ok(lease);
            }
            lease.since = None;
            poll.pause().await;
        }
    }

    async fn save(
        &self,
        lease: &mut lease::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        if bytes.len() > MAX_RECORD {
            return Err(StoreError::new(StoreErrorKind::TooLarge));
        }
        // Random, so that no version comes twice, not even after Redis has lost its data.
        let version = random()?;
        let mut script = script::SAVE.key(lease.place());
        script.key(self.key(&lease.key, "record")).arg(&lease.owner).arg(self.key(&lease.key, "changed"));
        self.run(script.arg(expectation(expected)).arg(&version).arg(bytes)).await?;
        Ok(Version::from_bytes(version))
    }

    async fn remove(&self, lease: &mut lease::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        let mut script = script::REMOVE.key(lease.place());
        script.key(self.key(&lease.key, "record")).arg(&lease.owner).arg(self.key(&lease.key, "changed"));
        self.run(script.arg(expectation(expected))).await.map(drop)
    }

    /// Under a key of its own, which never expires. It asks for no version, so that one which arrives late would take
    /// whatever was saved since: without an answer the lease is given up.
    async fn set_aside(&self, lease: &mut lease::Lease) -> Result<(), StoreError> {
        let aside = self.key(&lease.key, &format!("aside:{}", hex(&random()?)));
        let mut script = script::SET_ASIDE.key(lease.place());
        script.key(self.key(&lease.key, "record")).key(aside);
        let lost = lease.lost();
        let held = std::mem::replace(lease, lost);
        self.run(script.arg(&held.owner).arg(self.key(&held.key, "changed"))).await?;
        *lease = held;
        Ok(())
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        let mut script = script::RAISE.key(self.key(key, "mark"));
        let answer = self.run(script.arg(self.key(key, "changed")).arg(format!("{to:020}"))).await?;
        let mark = answer.get(1).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        mark.ok_or_else(foreign)
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        let special = |c: char| ['*', '?', '[', ']', '\\', '^', '-'].contains(&c);
        let escape = |c: char| special(c).then_some('\\').into_iter().chain([c]);
        let pattern = format!("{}:{{*}}:record", self.prefix.chars().flat_map(escape).collect::<String>());
        let before = format!("{}:{{", self.prefix);
        let (mut found, mut cursor) = (BTreeSet::new(), 0u64);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
            let (next, keys): (u64, Vec<Vec<u8>>) = self.line.ask(Question::Command(&scan)).await?;
            found.extend(keys.iter().filter_map(|key| {
                let key = std::str::from_utf8(key).ok()?.strip_prefix(&before)?.strip_suffix("}:record")?;
                key.parse::<AccountKey>().ok()
            }));
            if next == 0 {
                return Ok(found.into_iter().collect());
            }
            cursor = next;
        }
    }

    /// Told by Redis, over one subscription for all who wait; missed while there is no connection.
    async fn changed(&self, key: &AccountKey) {
        self.hints.next(self.key(key, "changed")).await;
    }

    /// When the leases are given back that were dropped.
    async fn idle(&self) {
        let _ = self.releases.subscribe().wait_for(|going| *going == 0).await;
    }
}
