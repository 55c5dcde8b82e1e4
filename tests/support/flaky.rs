//! A store in memory that does as a test says: it fails, applies and fails, hangs, waits, loses leases and counts. Clones
//! share it, and so do the "processes" of a test.
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use futures_util::FutureExt as _;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::Notify;
use tower_reauth::{AccountKey, LeaseGuard, MemoryStore, SessionStore, StoreError, StoreErrorKind, Stored, Version};

/// What a session asks of a store. `Raise(0)` reads the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Load,
    Lease,
    Renew,
    Save,
    Remove,
    SetAside,
    Mark,
    Raise,
}

/// What happens instead.
#[derive(Clone, Debug)]
pub enum Fault {
    Fail(StoreErrorKind),
    /// Applied, and reported as `Unavailable`.
    ApplyAndFail,
    /// Never answers, and tells `stopped`.
    Hang,
    /// Applied; then never answers, and tells `stopped`.
    ApplyAndHang,
    /// Waits in front of it until the test goes on.
    Pause(Pause),
}

/// A call that waits for the test.
#[derive(Clone, Debug, Default)]
pub struct Pause {
    reached: Arc<Notify>,
    on: Arc<Notify>,
}

impl Pause {
    pub async fn reached(&self) {
        let reached = tokio::time::timeout(Duration::from_secs(600), self.reached.notified()).await;
        reached.expect("nobody made this call");
    }

    pub fn go_on(&self) {
        self.on.notify_one();
    }
}

/// A fault for the calls of one kind (or of any), from the `skip`ped on, this often.
#[derive(Debug)]
struct Rule {
    call: Option<Call>,
    skip: usize,
    times: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    log: Vec<Call>,
    keys: Vec<AccountKey>,
    leases: HashMap<u64, <MemoryStore as SessionStore>::Lease>,
    numbers: u64,
}

#[derive(Clone, Default)]
pub struct Flaky {
    store: MemoryStore,
    state: Arc<Mutex<State>>,
    stopped: Arc<Notify>,
    term: bool,
}

/// Whoever asks more often than this is slowed down, so that a test of it ends.
const TOO_MANY: usize = 20_000;

impl Flaky {
    pub fn new() -> Self {
        Self::default()
    }

    /// One whose leases run out, though only when a test says so: [`lose_leases`](Self::lose_leases).
    pub fn leased() -> Self {
        Self { term: true, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on, until it is [`heal`](Self::heal)ed.
    pub fn always(&self, call: Call, fault: Fault) {
        self.state().rules.push(Rule { call: Some(call), skip: 0, times: usize::MAX, fault });
    }

    /// The same, but for the first `skip` calls.
    pub fn after(&self, call: Call, skip: usize, fault: Fault) {
        self.state().rules.push(Rule { call: Some(call), skip, times: usize::MAX, fault });
    }

    /// The `nth` call of this kind from now on, counted from 0.
    pub fn nth(&self, call: Call, nth: usize, fault: Fault) {
        self.state().rules.push(Rule { call: Some(call), skip: nth, times: 1, fault });
    }

    /// The `nth` call of any kind.
    pub fn any_nth(&self, nth: usize, fault: Fault) {
        self.state().rules.push(Rule { call: None, skip: nth, times: 1, fault });
    }

    /// The `nth` call of this kind waits.
    pub fn pause(&self, call: Call, nth: usize) -> Pause {
        let pause = Pause::default();
        self.nth(call, nth, Fault::Pause(pause.clone()));
        pause
    }

    pub fn heal(&self) {
        self.state().rules.clear();
    }

    /// Every lease has run out: its holder may not know.
    pub fn lose_leases(&self) {
        let lost = std::mem::take(&mut self.state().leases);
        drop(lost);
    }

    /// A call hangs.
    pub async fn stopped(&self) {
        self.stopped.notified().await;
    }

    pub fn forget_calls(&self) {
        self.state().log.clear();
    }

    pub fn calls(&self) -> Vec<Call> {
        self.state().log.clone()
    }

    pub fn count(&self, call: Call) -> usize {
        self.state().log.iter().filter(|it| **it == call).count()
    }

    /// The keys that sessions asked for, in order.
    pub fn keys(&self) -> Vec<AccountKey> {
        self.state().keys.clone()
    }

    /// The bytes of the record, past all faults.
    pub fn stored(&self, key: &AccountKey) -> Option<Stored> {
        self.store.load(key).now_or_never().unwrap().unwrap()
    }

    /// The bytes of the record of the first account.
    pub fn record_bytes(&self) -> Option<Vec<u8>> {
        self.stored(&self.keys()[0]).map(|stored| stored.bytes().to_vec())
    }

    /// The record of the first account.
    pub fn record(&self) -> Option<Value> {
        self.record_of(&self.keys()[0])
    }

    pub fn record_of(&self, key: &AccountKey) -> Option<Value> {
        self.stored(key).map(|stored| serde_json::from_slice(stored.bytes()).unwrap())
    }

    /// A member of the record of the first account; `Null` if there is none.
    pub fn field(&self, name: &str) -> Value {
        self.record().map_or(Value::Null, |record| record[name].clone())
    }

    /// The mark of the first account.
    pub fn mark(&self) -> u64 {
        self.mark_of(&self.keys()[0])
    }

    pub fn mark_of(&self, key: &AccountKey) -> u64 {
        self.store.raise_epoch(key, 0).now_or_never().unwrap().unwrap()
    }

    /// Writes a record as somebody else would who holds no lease: for what a test invents.
    pub fn put(&self, key: &AccountKey, bytes: &[u8]) {
        let other = MemoryStore::new();
        let mut lease = other.lease(key, Duration::ZERO).now_or_never().unwrap().unwrap();
        let version = self.stored(key).map(|stored| stored.version().clone());
        self.store.save(&mut lease, version.as_ref(), bytes).now_or_never().unwrap().unwrap();
    }

    /// Changes the record of the first account.
    pub fn edit(&self, f: impl FnOnce(&mut Value)) {
        let mut record = self.record().expect("a record");
        f(&mut record);
        self.put(&self.keys()[0], &serde_json::to_vec(&record).unwrap());
    }

    /// Whether the lease can be had now.
    pub fn is_free(&self) -> bool {
        let lease = self.store.lease(&self.keys()[0], Duration::ZERO).now_or_never();
        lease.is_some()
    }

    fn fault(&self, call: Call) -> Option<Fault> {
        let mut state = self.state();
        state.log.push(call);
        let mut hit = None;
        for rule in state.rules.iter_mut().filter(|rule| rule.call.is_none_or(|it| it == call)) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.times > 0 && hit.is_none() {
                rule.times -= 1;
                hit = Some(rule.fault.clone());
            }
        }
        hit
    }

    async fn hang<T>(&self) -> T {
        self.stopped.notify_one();
        std::future::pending().await
    }

    async fn run<T>(&self, call: Call, apply: impl AsyncFnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.state().log.len() >= TOO_MANY {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        match self.fault(call) {
            None => apply().await,
            Some(Fault::Fail(kind)) => Err(StoreError::new(kind)),
            Some(Fault::ApplyAndFail) => {
                apply().await?;
                Err(StoreError::unavailable("the answer was lost"))
            }
            Some(Fault::Hang) => self.hang().await,
            Some(Fault::ApplyAndHang) => {
                let _applied = apply().await; // a lease that was granted is held until this future is dropped
                self.hang().await
            }
            Some(Fault::Pause(pause)) => {
                pause.reached.notify_one();
                pause.on.notified().await;
                apply().await
            }
        }
    }

    fn seen(&self, key: &AccountKey) {
        let mut state = self.state();
        if !state.keys.contains(key) {
            state.keys.push(key.clone());
        }
    }
}

pub struct FlakyLease {
    number: u64,
    store: Flaky,
}

impl FlakyLease {
    /// The lease of the store underneath, unless it was lost.
    async fn with<T>(
        &self,
        f: impl AsyncFnOnce(&MemoryStore, &mut <MemoryStore as SessionStore>::Lease) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let taken = self.store.state().leases.remove(&self.number);
        let mut lease = taken.ok_or_else(|| StoreError::new(StoreErrorKind::LeaseLost))?;
        let outcome = f(&self.store.store, &mut lease).await;
        self.store.state().leases.insert(self.number, lease);
        outcome
    }
}

impl Drop for FlakyLease {
    fn drop(&mut self) {
        let lease = self.store.state().leases.remove(&self.number);
        drop(lease);
    }
}

impl LeaseGuard for FlakyLease {
    fn valid_for(&self) -> Option<Duration> {
        self.store.term.then_some(Duration::from_secs(45))
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        self.store.run(Call::Renew, async || self.with(async |_, lease| lease.renew().await).await).await
    }
}

impl SessionStore for Flaky {
    type Lease = FlakyLease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        self.seen(key);
        self.run(Call::Load, async || self.store.load(key).await).await
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<FlakyLease, StoreError> {
        self.run(Call::Lease, async || {
            let lease = self.store.lease(key, ttl).await?;
            let mut state = self.state();
            state.numbers += 1;
            let number = state.numbers;
            state.leases.insert(number, lease);
            drop(state);
            Ok(FlakyLease { number, store: self.clone() })
        })
        .await
    }

    async fn save(
        &self,
        lease: &mut FlakyLease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        self.run(Call::Save, async || lease.with(async |store, lease| store.save(lease, expected, bytes).await).await)
            .await
    }

    async fn remove(&self, lease: &mut FlakyLease, expected: Option<&Version>) -> Result<(), StoreError> {
        self.run(Call::Remove, async || lease.with(async |store, lease| store.remove(lease, expected).await).await)
            .await
    }

    async fn set_aside(&self, lease: &mut FlakyLease) -> Result<(), StoreError> {
        self.run(Call::SetAside, async || lease.with(async |store, lease| store.set_aside(lease).await).await).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        self.seen(key);
        let call = if to == 0 { Call::Mark } else { Call::Raise };
        self.run(call, async || self.store.raise_epoch(key, to).await).await
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.store.accounts().await
    }

    async fn changed(&self, key: &AccountKey) {
        self.store.changed(key).await;
    }
}
