//! Random walks over states, clocks and connectivity: nothing that the policy denies is ever forwarded (P14, P15).
//!
//! Each walk is one account behind the layer. It signs in and out, is locked, loses the network, is refreshed well and
//! badly, waits for hours, turns its clock, restarts its process and its machine, unlocks, is prompted, gets other
//! grants, and sends requests all the while, several at a time. What reaches the API is held against a second policy, by
//! hand, over facts of the walk's own (`walk/model.rs`). `WALK_SEED=n` plays one walk; `WALKS=n` plays as many.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "walk/model.rs"]
mod model;
#[path = "walk/server.rs"]
mod server;

use http::{Request, StatusCode};
use kit::{Api, Log, ORIGIN, clock};
use model::{CAPABILITIES, Known, POLICY};
use server::{Script, Server, scope};
use std::{collections::BTreeMap, sync::Mutex, time::Duration};
use tokio::task::JoinHandle;
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};
use tower_reauth::{
    AuthError, AuthEvent, AuthLayer, BoxError, Capability, DenyReason, ForwardStale, Grants, LockCause, ManualClock,
    MemoryStore, OfflinePolicy, Origins, Session, SignIn, SignOut, StepUp,
};

const STEPS: u64 = 150;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The user, when asked: there, or not, or too late, or worse.
struct User {
    server: Server,
    dice: Mutex<Dice>,
}

impl StepUp for User {
    async fn prompt(&self, _: Capability) -> Result<Duration, BoxError> {
        let (answer, takes, long) = {
            let mut dice = self.dice.lock().unwrap();
            (dice.below(8), dice.of(&[0, 5, 500]), dice.of(&[30, 600, 3600, 43_200]))
        };
        // Those who may be asked; whoever signs in later is not.
        let asked: Vec<_> = self.server.model().families_now().collect();
        tokio::time::sleep(Duration::from_millis(takes)).await;
        match answer {
            0 => return Err("not now".into()),
            1 => return Ok(Duration::ZERO),
            2 => std::future::pending::<()>().await,
            3 => std::panic::resume_unwind(Box::new("the dialog fell over")), // and no hook prints it
            _ => {}
        }
        let mut model = self.server.model();
        asked.into_iter().for_each(|family| model.stepped_up(family, long, false));
        Ok(Duration::from_secs(long))
    }
}

/// What became of all walks together.
#[derive(Default)]
struct Tally {
    left: BTreeMap<String, u64>,
    denied: BTreeMap<String, u64>,
    authorized: u64,
    step_ups: u64,
    ends: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn end(&mut self, how: &'static str) {
        *self.ends.entry(how).or_default() += 1;
    }
}

/// How far the wall clock may be turned, so that the walk knows what must come of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wall {
    /// As far as one likes: a server has told the time since the machine was started, and nobody reads the wall clock.
    Idle,
    /// Back: the machine was started by a wall clock that is right, when servers had told the time so often.
    Right(u64),
    /// Not at all: it was turned back.
    Behind,
}

type Sent = JoinHandle<(&'static str, Result<http::Response<()>, BoxError>)>;

struct Walk {
    dice: Dice,
    server: Server,
    clock: ManualClock,
    store: MemoryStore,
    log: Log,
    session: Session,
    api: Api,
    wall: Wall,
    held: Option<tokio::sync::OwnedSemaphorePermit>,
    flying: Vec<Sent>,
    leaving: Vec<Sent>,
    /// Denials that were delivered, and answers of `authorize`.
    denied: u64,
    permitted: u64,
    steps: Vec<String>,
}

async fn open(server: &Server, clock: &ManualClock, store: &MemoryStore, log: &Log, seed: u64) -> (Session, Api) {
    let connectivity = {
        let server = server.clone();
        move || Some(server.model().online)
    };
    let user = User { server: server.clone(), dice: Mutex::new(Dice(seed)) };
    let builder = Session::builder(server.clone()).store(store.clone()).clock(clock.clone()).connectivity(connectivity);
    let builder = builder.gate(OfflinePolicy::from_toml(POLICY).unwrap()).step_up(user);
    let session = log.attach(builder).open("alice").await.unwrap();
    let layer = AuthLayer::new(session.clone(), Origins::new([ORIGIN]).unwrap());
    (session, BoxCloneSyncService::new(layer.layer(server.api())))
}

impl Walk {
    async fn begin(seed: u64) -> Self {
        let (server, clock, store, log) = (Server::new(), clock(), MemoryStore::new(), Log::default());
        server.model().online = true;
        let (session, api) = open(&server, &clock, &store, &log, seed).await;
        let mut walk = Self {
            dice: Dice(seed),
            server,
            clock,
            store,
            log,
            session,
            api,
            wall: Wall::Idle,
            held: None,
            flying: Vec::new(),
            leaving: Vec::new(),
            denied: 0,
            permitted: 0,
            steps: Vec::new(),
        };
        walk.sign_in().await;
        walk
    }

    fn note(&mut self, what: impl Into<String>) {
        let now = self.server.model().now;
        self.steps.push(format!("{now}: {}", what.into()));
    }

    async fn step(&mut self, tally: &mut Tally) {
        if self.is_over() && self.dice.one_in(6) {
            self.sign_in().await;
        }
        match self.dice.below(100) {
            0..40 => self.send(),
            40..48 => self.authorize(tally),
            48..64 => self.pass(),
            64..69 => self.turn_network(),
            69..74 => self.script(),
            74..78 => self.step_up(),
            78..82 => self.set_grants().await,
            82..84 => self.turn_clock(),
            84..87 => self.hold(),
            87..90 => self.rest(tally).await,
            90..93 => self.refresh().await,
            93..95 => self.sign_in().await,
            95..96 => self.leave().await,
            96..98 => self.restart(false, tally).await,
            98..99 => self.restart(true, tally).await,
            _ => self.reconnect(),
        }
        self.look(tally).await;
    }

    /// Requests go on, and what has ended is booked.
    async fn look(&mut self, tally: &mut Tally) {
        let pause = self.dice.of(&[0, 0, 1, 30]);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        for sent in std::mem::take(&mut self.leaving) {
            sent.abort();
            if let Ok(ended) = sent.await {
                self.book(ended, tally);
            }
        }
        let mut index = 0;
        while index < self.flying.len() {
            match self.flying[index].is_finished() {
                true => {
                    let sent = self.flying.swap_remove(index).await;
                    self.book(sent.unwrap(), tally);
                }
                false => index += 1,
            }
        }
    }

    fn book(&mut self, (capability, ended): (&'static str, Result<http::Response<()>, BoxError>), tally: &mut Tally) {
        let error = match &ended {
            Ok(response) => AuthError::in_response(response),
            Err(error) => Some(AuthError::find(&**error).expect("an error of this crate")),
        };
        if let Some(denial) = error.and_then(AuthError::denial) {
            assert_eq!(denial.capability().as_str(), capability);
            self.denied += 1;
            *tally.denied.entry(format!("{:?}", denial.reason())).or_default() += 1;
        }
        tally.end(match ended {
            Ok(response) if response.status() == StatusCode::OK => "passed",
            Ok(_) => "401",
            Err(_) if error.is_some_and(|error| error.denial().is_some()) => "denied",
            Err(_) => "no token",
        });
    }

    // ===== what happens =====

    fn send(&mut self) {
        for _ in 0..=self.dice.of(&[0, 0, 0, 1, 4]) {
            let capability = self.dice.of(&CAPABILITIES);
            let mut request = Request::get(format!("{ORIGIN}/jobs")).header("x-capability", capability);
            request = request.extension(Capability::new(capability));
            if self.dice.one_in(6) {
                request = request.header("x-refuse", "1");
            }
            if self.dice.one_in(4) {
                request = request.header("x-delay", self.dice.of(&["1", "40", "700"]));
            }
            if self.dice.one_in(3) {
                request = request.extension(ForwardStale);
            }
            let (request, api) = (request.body(Default::default()).unwrap(), self.api.clone());
            let sent = tokio::spawn(async move {
                let answer = api.oneshot(request).await;
                (capability, answer.map(|response| response.map(drop)))
            });
            match self.dice.one_in(12) {
                true => self.leaving.push(sent),
                false => self.flying.push(sent),
            }
        }
    }

    /// Both ways: what is denied is not permitted, and what is permitted not denied.
    fn authorize(&mut self, tally: &mut Tally) {
        let capability = self.dice.of(&CAPABILITIES);
        let answer = self.session.authorize(capability);
        let mut model = self.server.model();
        let worlds = model.worlds(None);
        let any = worlds.iter().any(|world| world.permits(capability));
        let all =
            !worlds.is_empty() && model.arriving.is_none() && worlds.iter().all(|world| world.permits(capability));
        match &answer {
            Ok(_) if !any => model.faults.push(format!("{capability} was authorized: {worlds:#?}")),
            Err(denial) if all && !model.locking => model.faults.push(format!("{denial}: {worlds:#?}")),
            _ => {}
        }
        drop(model);
        tally.authorized += 1;
        match answer {
            Ok(_) => self.permitted += 1,
            Err(denial) => {
                self.denied += 1;
                *tally.denied.entry(format!("{:?}", denial.reason())).or_default() += 1;
            }
        }
    }

    fn pass(&mut self) {
        let secs = self
            .dice
            .of(&[1, 5, 59, 61, 299, 300, 301, 600, 3599, 3600, 3601, 10_000, 43_200, 86_400, 172_801, 604_801]);
        if self.held.is_some() {
            return; // an answer that was on its way for long tells the time less well
        }
        self.clock.advance(Duration::from_secs(secs));
        self.server.model().now += secs;
        self.note(format!("{secs} s pass"));
    }

    fn turn_network(&mut self) {
        let mut model = self.server.model();
        model.online = !model.online;
        let told = format!("online: {}", model.online);
        drop(model);
        self.note(told);
    }

    fn script(&mut self) {
        let script = self.dice.of(&[
            Script::Down,
            Script::Down,
            Script::Lost,
            Script::Revoked,
            Script::Disabled,
            Script::Narrow,
            Script::Narrow,
            Script::Wide,
        ]);
        *self.server.script.lock().unwrap() = Some(script);
        self.note(format!("next: {script:?}"));
    }

    fn step_up(&mut self) {
        let secs = self.dice.of(&[0, 10, 300, 3600, 43_200]);
        {
            let mut model = self.server.model();
            let sure = !model.locking;
            if let Some(current) = model.current {
                model.stepped_up(current, secs, sure);
            }
        }
        self.session.step_up(Duration::from_secs(secs));
        self.note(format!("a step-up for {secs} s"));
    }

    async fn set_grants(&mut self) {
        let names = self.dice.of(&["", "jobs", "jobs notes", "notes admin"]);
        let lead = self.dice.one_in(2);
        let (known, grants) = {
            let model = self.server.model();
            let until = self.dice.one_in(3).then(|| model.now + self.dice.of(&[0, 600, 90_000]));
            let roles = if lead { scope("lead") } else { scope("") };
            let known = Known { scopes: scope(names), roles, token_scope: None, set: true, at: model.now, until };
            let mut grants = Grants::new();
            for name in &known.scopes {
                grants = grants.scope(name.as_str());
            }
            for name in &known.roles {
                grants = grants.role(name.as_str());
            }
            if let Some(until) = until {
                grants = grants.offline_until(kit::start() + Duration::from_secs(until));
            }
            (known, grants)
        };
        let family = self.server.model().current;
        let each = |server: &Server, f: &dyn Fn(&mut Vec<Known>)| {
            let mut model = server.model();
            let Some(family) = family.and_then(|family| model.families.get_mut(&family)) else { return };
            family.sets.values_mut().for_each(|set| f(&mut set.known));
        };
        each(&self.server, &|all| {
            let token_scope = all.last().unwrap().token_scope.clone();
            all.push(Known { token_scope, ..known.clone() });
        });
        let done = self.session.set_grants(grants).await;
        each(&self.server, &|all| match &done {
            Ok(()) => {
                let token_scope = all[0].token_scope.clone();
                *all = vec![Known { token_scope, ..known.clone() }];
            }
            Err(_) => all.truncate(1),
        });
        self.note(format!("grants {known:?}: {done:?}"));
    }

    fn turn_clock(&mut self) {
        let mut by = self.dice.of(&[-864_000, -86_400, -3600, 3600, 86_400, 864_000]);
        let mut model = self.server.model();
        match self.wall {
            Wall::Right(told) if told == model.told => {
                // Behind what was seen: it is not trusted until a server was asked.
                if self.held.is_some() {
                    return;
                }
                (model.doubt, self.wall, by) = (true, Wall::Behind, -864_000);
            }
            Wall::Idle | Wall::Right(_) => self.wall = Wall::Idle,
            Wall::Behind => return,
        }
        let wall = model.time() - Duration::from_secs(864_000) + Duration::from_secs((864_000 + by) as u64);
        drop(model);
        self.clock.set_wall(wall);
        self.note(format!("the wall clock is {by} s off"));
    }

    /// Exchanges wait, or go on.
    fn hold(&mut self) {
        self.held = match self.held.take() {
            Some(_) => None,
            None => self.server.open.clone().try_acquire_many_owned(u32::MAX).ok(),
        };
        let told = format!("held: {}", self.held.is_some());
        self.note(told);
    }

    /// All comes to its end.
    async fn rest(&mut self, tally: &mut Tally) {
        self.held = None;
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(130)).await; // no prompt is open so long
            self.session.close().await.unwrap();
        }
        self.look(tally).await;
        assert!(self.flying.is_empty(), "somebody waits for ever");
        let mut model = self.server.model();
        if model.may_be_healed {
            self.wall = Wall::Idle;
        }
        model.quiet();
        drop(model);
        self.note("rest");
    }

    async fn refresh(&mut self) {
        if self.held.is_none() {
            let done = self.session.refresh().await.map_err(|error| error.kind());
            self.note(format!("refresh: {done:?}"));
        }
    }

    fn reconnect(&mut self) {
        self.session.reconnected();
        self.note("reconnected");
    }

    // ===== who is there =====

    /// Nothing leaves any more without a sign-in.
    fn is_over(&self) -> bool {
        let model = self.server.model();
        let family = model.current.and_then(|current| model.families.get(&current));
        family.is_none_or(|family| family.is_rejected)
    }

    async fn sign_in(&mut self) {
        let names = self.dice.of(&[None, Some("jobs notes"), Some("jobs"), Some("notes")]);
        let lead = self.dice.one_in(2);
        let now = self.server.model().now;
        let token_scope = names.map(scope);
        let known = match lead {
            true => Known {
                scopes: scope("jobs notes"),
                roles: scope("lead"),
                token_scope,
                set: true,
                at: now,
                until: None,
            },
            false => {
                Known { scopes: token_scope.clone().unwrap_or_default(), token_scope, at: now, ..Known::default() }
            }
        };
        let (family, tokens) = self.server.sign_in(known);
        let mut sign_in = SignIn::new(tokens);
        if lead {
            sign_in = sign_in.grants(Grants::new().role("lead").scope("jobs").scope("notes"));
        }
        let done = self.session.sign_in(sign_in).await;
        {
            let mut model = self.server.model();
            model.arriving = None;
            if done.is_ok() {
                (model.current, model.locking) = (Some(family), false);
            }
            if model.doubt {
                (model.doubt, model.may_be_healed, self.wall) = (false, false, Wall::Idle);
            }
        }
        self.note(format!("sign-in {family}: {done:?}"));
    }

    async fn leave(&mut self) {
        self.server.model().current = None;
        let done = match self.dice.below(3) {
            0 => self.session.sign_out(SignOut::Soft).await,
            1 => self.session.sign_out(SignOut::Hard).await,
            _ => self.session.lock(LockCause::Application).await,
        };
        self.note(format!("left: {done:?}"));
        done.unwrap();
    }

    /// Another process; after a restart of the machine, whose clock is right then.
    async fn restart(&mut self, machine: bool, tally: &mut Tally) {
        self.rest(tally).await;
        if machine {
            // What is known of the wall clock is that it is right.
            let right = self.server.model().time();
            self.clock.set_wall(right);
            self.sign_in().await;
            self.rest(tally).await;
            let (off, told) = (self.dice.of(&[0, 60, 40_000]), self.server.model().told);
            self.clock.advance(Duration::from_secs(off));
            self.server.model().now += off;
            self.clock.reboot();
            self.wall = Wall::Right(told);
        }
        let seed = self.dice.next();
        (self.session, self.api) = open(&self.server, &self.clock, &self.store, &self.log, seed).await;
        self.server.model().families.values_mut().for_each(|family| family.step_ups.clear());
        self.note(format!("restarted, with the machine: {machine}"));
    }

    /// What was told, and what was delivered.
    async fn end(mut self, seed: u64, tally: &mut Tally) {
        self.rest(tally).await;
        let told = |wanted: fn(&AuthEvent) -> bool| self.log.count(wanted) as u64;
        let denied = told(|event| matches!(event, AuthEvent::Denied { .. }));
        let permitted = told(|event| matches!(event, AuthEvent::Permitted { .. }));
        tally.step_ups += told(|event| matches!(event, AuthEvent::SteppedUp { capability: Some(_), .. }));
        let mut model = self.server.model();
        if (denied, permitted) != (self.denied, self.permitted) {
            let (here, there) = ((self.denied, self.permitted), (denied, permitted));
            model.faults.push(format!("{here:?} denied and permitted, but told of {there:?}"));
        }
        for line in self.log.all().iter().map(ToString::to_string) {
            assert!(!line.contains('\n') && !line.contains("a1.") && !line.contains("r1."), "{line}");
        }
        for (capability, count) in &*self.server.left.lock().unwrap() {
            *tally.left.entry(capability.clone()).or_default() += count;
        }
        assert!(model.faults.is_empty(), "WALK_SEED={seed}\n{:#?}\n{}", self.steps, model.faults.join("\n"));
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn p14_p15_a_random_walk_never_forwards_what_the_policy_denies() {
    let seeds = match setting("WALK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("WALKS").unwrap_or(300),
    };
    let mut tally = Tally::default();
    for seed in seeds.clone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut walk = Walk::begin(seed).await;
            for _ in 0..STEPS {
                walk.step(&mut tally).await;
            }
            walk.end(seed, &mut tally).await;
        });
    }
    println!("{seeds:?}: {:#?}, {:#?}, {:#?}", tally.left, tally.denied, tally.ends);
    println!("{} asked by `authorize`, {} prompts answered", tally.authorized, tally.step_ups);
    if seeds.end - seeds.start < 300 {
        return;
    }
    // Not in vain: everything that may leave has, often, and everything that may be denied was.
    for capability in CAPABILITIES.iter().filter(|capability| **capability != "jobs.erase") {
        let left = tally.left.get(*capability).copied().unwrap_or_default();
        assert!(left >= 50, "{capability} has left {left} times only");
    }
    for reason in DENIED {
        let denied = tally.denied.get(&format!("{reason:?}")).copied().unwrap_or_default();
        assert!(denied >= 50, "{reason:?} was given {denied} times only");
    }
    for end in ["passed", "401", "denied", "no token"] {
        assert!(tally.ends[end] >= 500, "{end}: {:?}", tally.ends);
    }
    assert!(tally.step_ups >= 100 && tally.authorized >= 1000);
}

/// `NeverAuthenticated` aside: each walk begins with a sign-in.
const DENIED: [DenyReason; 10] = [
    DenyReason::Locked,
    DenyReason::SignedOut,
    DenyReason::ReauthRequired,
    DenyReason::StepUpRequired,
    DenyReason::OnlineRequired,
    DenyReason::OfflineWindowExpired,
    DenyReason::ReadOnly,
    DenyReason::MissingGrant,
    DenyReason::ClockUntrusted,
    DenyReason::UnknownCapability,
];
