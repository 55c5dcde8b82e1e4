//! A server, a store, a clock, and somebody who watches.

use super::{
    super::{Session, SessionBuilder, desk::Landing, flight::Want, inner::Inner, sync},
    scheduler::{Bounded, Patient, in_order, let_all_others_go},
};
use crate::{
    account::AccountKey,
    clock::ManualClock,
    error::AuthError,
    event::{AuthEvent, observer_fn},
    failure::{FailureKind, RefreshError},
    refresher::{RefreshGrant, refresh_fn},
    state::AuthState,
    store::{MemoryStore, SessionStore, StoreError, Stored, Version},
    token::Tokens,
};
use shuttle::{
    future::JoinHandle,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
};
use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::{Arc, Mutex, Weak},
    task::Poll,
    time::{Duration, SystemTime},
};

/// How time passes, in seconds.
const PASSES: [u64; 5] = [1, 5, 20, 70, 70];
const LIFETIME: Duration = Duration::from_secs(3600);

thread_local! {
    /// Its timers stand still but for `pass`.
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    static BOOKS: RefCell<Books> = RefCell::default();
}

/// What happened, and what will.
#[derive(Default)]
struct Books {
    faults: Vec<String>,
    /// Of each sign-in: how often its refresh token was exchanged, and how many exchanges are under way.
    families: HashMap<u64, (u64, u64)>,
    exchanges: u64,
    reuses: u64,
    /// What the server does next, other than to answer well.
    answers: VecDeque<Answer>,
    /// Whether the next saves work, and so many raised marks that fail.
    saves: VecDeque<bool>,
    failing_marks: u64,
    /// A count of calls, in their order.
    calls: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Fails,
    Panics,
}

fn books<T>(f: impl FnOnce(&mut Books) -> T) -> T {
    BOOKS.with_borrow_mut(f)
}

/// Panics of a task may be caught by what is tested: faults are written down.
pub(super) fn fault(what: impl Into<String>) {
    books(|books| books.faults.push(what.into()));
}

pub(super) fn expect(that: bool, what: &str) {
    if !that {
        fault(what);
    }
}

/// Lets others come in between, and a task be ended.
pub(super) async fn pause() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

// ===== the server =====

async fn exchange(grant: RefreshGrant) -> Result<Tokens, RefreshError> {
    struct UnderWay(u64);
    impl Drop for UnderWay {
        fn drop(&mut self) {
            books(|books| books.families.entry(self.0).or_default().1 -= 1);
        }
    }
    let token = grant.refresh_token().unwrap().expose().to_owned();
    let (family, used) = token.strip_prefix('r').and_then(|token| token.split_once('.')).unwrap();
    let (family, used) = (family.parse::<u64>().unwrap(), used.parse::<u64>().unwrap());
    let answer = books(|books| {
        books.exchanges += 1;
        let (_, flying) = books.families.entry(family).or_default();
        *flying += 1;
        if *flying > 1 {
            books.faults.push(format!("two exchanges of family {family} at a time"));
        }
        books.answers.pop_front()
    });
    let _under_way = UnderWay(family);
    pause().await;
    match answer {
        Some(Answer::Fails) => return Err(RefreshError::transient("no network")),
        Some(Answer::Panics) => std::panic::resume_unwind(Box::new("as it was told to")), // and no hook prints it
        None => {}
    }
    let fresh = books(|books| {
        let (count, _) = books.families.entry(family).or_default();
        if *count != used {
            books.reuses += 1;
            return Err(RefreshError::new(FailureKind::InvalidGrant));
        }
        *count += 1;
        Ok(*count)
    })?;
    Ok(tokens(family, fresh))
}

fn tokens(family: u64, count: u64) -> Tokens {
    Tokens::new(format!("a{family}.{count}")).with_refresh_token(format!("r{family}.{count}")).with_expires_in(LIFETIME)
}

/// What a server answers to a sign-in.
pub(super) fn sign_in_tokens(family: u64) -> Tokens {
    tokens(family, 0)
}

// ===== the store =====

/// A memory store that takes its time.
#[derive(Clone, Default)]
struct Slow(MemoryStore);

impl SessionStore for Slow {
    type Lease = <MemoryStore as SessionStore>::Lease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        pause().await;
        self.0.load(key).await
    }

    async fn lease(&self, key: &AccountKey, ttl: Duration) -> Result<Self::Lease, StoreError> {
        pause().await;
        self.0.lease(key, ttl).await
    }

    async fn save(
        &self,
        lease: &mut Self::Lease,
        expected: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Version, StoreError> {
        pause().await;
        if books(|books| books.saves.pop_front()) == Some(false) {
            return Err(StoreError::unavailable("the disk is full"));
        }
        let saved = self.0.save(lease, expected, bytes).await;
        pause().await; // the answer takes its time, too
        saved
    }

    async fn remove(&self, lease: &mut Self::Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        pause().await;
        self.0.remove(lease, expected).await
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        pause().await;
        if to > 0 && books(|books| count_down(&mut books.failing_marks)) {
            return Err(StoreError::unavailable("the store is gone"));
        }
        let mark = self.0.raise_epoch(key, to).await;
        pause().await;
        mark
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        self.0.accounts().await
    }
}

fn count_down(left: &mut u64) -> bool {
    let some = *left > 0;
    *left = left.saturating_sub(1);
    some
}

// ===== who watches =====

/// One session, watched wherever a task may come in between another.
struct Watched {
    inner: Weak<Inner>,
    at: (u64, u64),
    flight: u64,
    states: Vec<AuthState>,
    told: Arc<Mutex<Vec<AuthState>>>,
}

impl Watched {
    fn look(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        inner.glance(|desk, snapshot, state| {
            let at = (snapshot.epoch, snapshot.generation);
            if at < self.at {
                fault(format!("the snapshot went back: from {:?} to {at:?}", self.at));
            }
            self.at = at;
            expect(snapshot.state == *state, "the state stream says something else than the snapshot");
            if self.states.last() != Some(state) {
                self.states.push(state.clone());
            }
            if let Some(flight) = &desk.flight {
                if flight.epoch != snapshot.epoch {
                    fault(format!("a flight of epoch {} in the slot of {}", flight.epoch, snapshot.epoch));
                }
                expect(flight.number >= self.flight, "an older flight has the slot of a newer one");
                self.flight = flight.number;
            }
            if let Some(prompt) = desk.prompt.as_ref().filter(|prompt| prompt.epoch != snapshot.epoch) {
                fault(format!("a prompt for epoch {} in that of {}", prompt.epoch, snapshot.epoch));
            }
        });
    }
}

/// What flights somebody waited for, and what they were told.
type Landings = Arc<Mutex<Vec<(Landing, Option<String>)>>>;

pub(super) struct World {
    store: Slow,
    clock: ManualClock,
    watched: Rc<RefCell<Vec<Watched>>>,
    sessions: Vec<Session>,
    landings: Landings,
}

impl World {
    fn new() -> Self {
        BOOKS.take();
        let watched = Rc::<RefCell<Vec<Watched>>>::default();
        let watching = watched.clone();
        sync::begin(Some(Rc::new(move || {
            if let Ok(mut watched) = watching.try_borrow_mut() {
                watched.iter_mut().for_each(Watched::look);
            }
        })));
        Self {
            store: Slow::default(),
            clock: ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30)),
            watched,
            sessions: Vec::new(),
            landings: Arc::default(),
        }
    }

    /// Another process.
    pub(super) fn open(&mut self) -> Session {
        self.open_with(|builder| builder)
    }

    pub(super) fn open_with(&mut self, more: impl FnOnce(SessionBuilder) -> SessionBuilder) -> Session {
        let told = Arc::<Mutex<Vec<AuthState>>>::default();
        let log = told.clone();
        let observer = observer_fn(move |event| {
            if let AuthEvent::StateChanged { state, .. } = event {
                log.lock().unwrap().push(state.clone());
            }
        });
        let builder = Session::builder(refresh_fn(exchange))
            .store(self.store.clone())
            .clock(self.clock.clone())
            .background_refresh(false)
            .observer(observer);
        let session = in_order(|| shuttle::future::block_on(more(builder).open("alice"))).unwrap();
        self.watched.borrow_mut().push(Watched {
            inner: Arc::downgrade(&session.0),
            at: (0, 0),
            flight: 0,
            states: Vec::new(),
            told,
        });
        self.sessions.push(session.clone());
        session
    }

    /// Another process, in which somebody is signed in with the tokens of this family.
    pub(super) fn signed_in(&mut self, family: u64) -> Session {
        let session = self.open();
        in_order(|| shuttle::future::block_on(session.sign_in(sign_in_tokens(family)))).unwrap();
        session
    }

    pub(super) fn spend_tokens(&self) {
        self.clock.advance(LIFETIME);
    }

    /// Which of the next saves work.
    pub(super) fn saves(&self, work: &[bool]) {
        books(|books| books.saves = work.iter().copied().collect());
    }

    pub(super) fn fail_marks(&self, so_many: u64) {
        books(|books| books.failing_marks = so_many);
    }

    pub(super) fn answer(&self, answer: Answer) {
        books(|books| books.answers.push_back(answer));
    }

    pub(super) fn exchanges(&self) -> u64 {
        books(|books| books.exchanges)
    }

    pub(super) fn reuses(&self) -> u64 {
        books(|books| books.reuses)
    }

    /// Waits for these, and lets time pass when nothing else is left to do.
    pub(super) fn all(&self, tasks: Vec<JoinHandle<()>>) {
        for _ in 0..3 {
            for secs in PASSES {
                let_all_others_go();
                if tasks.iter().all(JoinHandle::is_finished) {
                    return;
                }
                self.pass(secs);
            }
        }
        let faults = books(|books| std::mem::take(&mut books.faults));
        panic!("somebody waits for ever: {faults:?}");
    }

    /// Lets timers fire.
    fn pass(&self, secs: u64) {
        let time = Duration::from_secs(secs);
        RUNTIME.with(|runtime| runtime.block_on(tokio::time::advance(time)));
        self.clock.advance(time);
    }

    /// Who waits for landings of flights here.
    pub(super) fn passenger(&self, session: &Session) -> Passenger {
        Passenger { session: session.clone(), landings: self.landings.clone() }
    }

    /// How many flights have started, and keepers.
    pub(super) fn flights(&self) -> u64 {
        self.sessions.iter().filter_map(|session| session.0.glance(|desk, _, _| desk.flights)).sum()
    }

    /// All goes on until only timers are left; then those fire, again and again.
    fn settle(&self) {
        in_order(|| {
            let_all_others_go();
            for secs in PASSES {
                self.pass(secs);
                let_all_others_go();
            }
        });
    }

    /// When all is quiet nothing is left over, and a restart finds what is here.
    pub(super) fn end(self) {
        self.end_as(|| {});
    }

    /// The same, and this holds then.
    pub(super) fn end_as(mut self, holds: impl FnOnce()) {
        self.settle();
        holds();
        for session in self.sessions.clone() {
            let left = session.0.glance(|desk, _, _| {
                (desk.flight.is_some(), desk.prompt.is_some(), desk.keepers.len(), desk.events.len())
            });
            if left != Some((false, false, 0, 0)) {
                fault(format!("left on the desk (flight, prompt, keepers, events): {left:?}"));
            }
        }
        for Watched { states, told, .. } in self.watched.borrow().iter() {
            // The first state was not told of: it was there.
            let told = told.lock().unwrap();
            if states[states.len().saturating_sub(told.len())..] != told[..] || told.len() + 1 < states.len() {
                fault(format!("states {states:?}, but told of {told:?}"));
            }
        }
        let here = self.sessions[0].clone();
        if self.sessions.len() > 1 {
            // What happened elsewhere is seen at the next refresh.
            let _ = in_order(|| shuttle::future::block_on(here.access_token()));
            let _ = in_order(|| shuttle::future::block_on(here.refresh()));
        }
        let again = self.open();
        let stand = |session: &Session| {
            session.0.glance(|_, snapshot, _| {
                let token = snapshot.access.as_ref().map(|access| access.token.expose().to_owned());
                (snapshot.is_dead(), token.filter(|_| !snapshot.is_dead()))
            })
        };
        if stand(&here) != stand(&again) {
            fault(format!("here it is {:?}, after a restart {:?}", stand(&here), stand(&again)));
        }
        let faults = books(|books| std::mem::take(&mut books.faults));
        sync::begin(None);
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

/// Somebody who waits for a flight.
#[derive(Clone)]
pub(super) struct Passenger {
    session: Session,
    landings: Landings,
}

impl Passenger {
    pub(super) fn want(&self) -> Want {
        Want::InsteadOf(self.session.0.published().token_id())
    }

    /// Joins, and waits until it is told what became of the flight.
    pub(super) async fn fly(&self, want: Want) -> Result<(), AuthError> {
        let landing = self.session.0.join(want)?;
        self.wait(want, landing).await
    }

    pub(super) async fn wait(&self, want: Want, landing: Landing) -> Result<(), AuthError> {
        self.note(&landing, None);
        let outcome = landing.clone().await;
        self.note(&landing, Some(format!("{:?}", outcome.as_ref().map_err(AuthError::kind))));
        let snapshot = self.session.0.published();
        if let (Ok(()), Want::InsteadOf(Some(wanted))) = (&outcome, want) {
            let newer = (snapshot.epoch, snapshot.generation) > (wanted.epoch, wanted.generation);
            expect(newer, "it landed well, and there is no newer set");
        }
        self.session.0.glance(|desk, _, _| {
            let still = desk.flight.as_ref().is_some_and(|flight| flight.landing.ptr_eq(&landing));
            expect(!still, "woken before the slot was free");
        });
        outcome
    }

    /// Joins, and leaves.
    pub(super) async fn leave(&self, want: Want) {
        if let Ok(landing) = self.session.0.join(want) {
            self.note(&landing, None);
            let mut landing = pin!(landing);
            let _ = poll_fn(|cx| Poll::Ready(landing.as_mut().poll(cx))).await;
        }
    }

    /// All who wait for one flight are told the same.
    fn note(&self, landing: &Landing, outcome: Option<String>) {
        let mut landings = self.landings.lock().unwrap();
        if !landings.iter().any(|(known, _)| known.ptr_eq(landing)) {
            landings.push((landing.clone(), None));
        }
        let Some(known) = landings.iter_mut().find(|(known, _)| known.ptr_eq(landing)) else { return };
        if let (Some(before), Some(outcome)) = (&known.1, &outcome) {
            expect(before == outcome, "two who waited for one flight were told different things");
        }
        known.1 = known.1.take().or(outcome);
    }
}

// ===== who was called last =====

/// From when to when a call began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Called(u64, u64);

impl Called {
    fn tick() -> u64 {
        books(|books| {
            books.calls += 1;
            books.calls
        })
    }

    /// A call has begun when it was polled for the first time.
    pub(super) async fn when<F: Future>(work: F) -> (Self, F::Output) {
        let mut work = pin!(work);
        let start = Self::tick();
        let first = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        let called = Self(start, Self::tick());
        match first {
            Poll::Ready(out) => (called, out),
            Poll::Pending => (called, work.await),
        }
    }

    pub(super) fn is_before(self, other: Self) -> bool {
        self.1 < other.0
    }
}

// ===== runs =====

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn run(scheduler: impl Scheduler + 'static, scenario: fn(World)) {
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 19;
    RUNTIME.with(|runtime| {
        let _within = runtime.enter();
        shuttle::Runner::new(Patient(scheduler), config).run(move || scenario(World::new()));
    });
}

/// Every order with so many departures from the plain one, and `REAUTH_MODEL_MORE` more.
pub(super) fn check_all(departures: usize, scenario: fn(World)) {
    let departures = departures + setting("REAUTH_MODEL_MORE", 0);
    let (scheduler, report) = Bounded::new(departures, setting("REAUTH_MODEL_LIMIT", usize::MAX));
    run(scheduler, scenario);
    let report = report.borrow();
    println!("{} orders with at most {departures} departures", report.executions);
    assert!(report.complete, "not all orders were tried: raise REAUTH_MODEL_LIMIT");
}

/// As many orders as `REAUTH_MODEL_ORDERS` says: half of them by chance alone, half with few changes of priority.
pub(super) fn check_many(scenario: fn(World)) {
    let orders = setting("REAUTH_MODEL_ORDERS", 1000);
    let seed = setting("REAUTH_MODEL_SEED", 1) as u64;
    run(RandomScheduler::new_from_seed(seed, orders.div_ceil(2)), scenario);
    run(PctScheduler::new_from_seed(seed, 3, orders / 2), scenario);
}
