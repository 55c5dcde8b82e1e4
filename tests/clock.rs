//! P15: turning the clock gains nothing, and locks nobody out beyond the next contact with the token endpoint.
//!
//! One machine, its true time and its clocks; a user who has an honest clock, a wrong one, or turns it.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use kit::*;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, SystemTime},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_reauth::{
    AuthLayer, BoxError, Capability, Clock, DenyReason, ErrorKind, ManualClock, MemoryStore, OAuth2Refresher,
    OfflinePolicy, Origins, RefreshError, Rule, Session, SessionBuilder, SignIn, Tokens, gate_fn,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A machine with one user, and a server that knows what time it is.
struct Machine {
    clock: ManualClock,
    store: MemoryStore,
    issuer: Issuer,
    truth: SystemTime,
    /// Token answers have a `Date`.
    dated: bool,
}

impl Machine {
    /// Its wall clock says `wall`.
    fn new(wall: SystemTime) -> Self {
        let machine = Self {
            clock: ManualClock::new(wall),
            store: MemoryStore::new(),
            issuer: Issuer::new(),
            truth: start(),
            dated: true,
        };
        machine.issuer.books().lifetime = Some(HOUR);
        machine
    }

    fn dateless(mut self) -> Self {
        self.dated = false;
        self
    }

    fn builder(&self) -> SessionBuilder {
        let policy = OfflinePolicy::new()
            .rule("view", Rule::new().max_offline(7 * DAY))
            .rule("notes", Rule::new().max_offline(7 * DAY).step_up_within(12 * HOUR))
            .rule("approve", Rule::new().fresh_within(8 * HOUR))
            .rule("now", Rule::new().token_fresh());
        Session::builder(self.issuer.clone())
            .store(self.store.clone())
            .clock(self.clock.clone())
            .connectivity(|| Some(false))
            .gate(policy)
    }

    async fn open(&self) -> Session {
        self.builder().open("alice").await.unwrap()
    }

    async fn signed_in(&self) -> Session {
        let session = self.open().await;
        self.sign_in(&session).await;
        session
    }

    fn tell_time(&self) {
        self.issuer.books().date = self.dated.then_some(self.truth);
    }

    async fn sign_in(&self, session: &Session) {
        self.tell_time();
        session.sign_in(SignIn::new(self.issuer.sign_in())).await.unwrap();
    }

    async fn refresh(&self, session: &Session) {
        self.tell_time();
        session.refresh().await.unwrap();
        // The flight has landed before its mark is kept.
        session.close().await.unwrap();
    }

    /// Time goes by, asleep or not.
    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.truth += time;
    }

    /// Off for a while. What the wall clock says then is the user's business.
    fn off(&mut self, time: Duration, wall: SystemTime) {
        self.truth += time;
        self.clock.reboot();
        self.clock.set_wall(wall);
    }

    fn wall(&self) -> SystemTime {
        self.clock.now()
    }
}

fn ask(session: &Session, capability: &'static str) -> Result<(), DenyReason> {
    session.authorize(capability).map(drop).map_err(|denial| denial.reason())
}

/// What trusted time is, for a gate.
fn time(session: &Session) -> Option<SystemTime> {
    session.with_gate_context("view", |cx| cx.now())
}

#[track_caller]
fn assert_near(time: Option<SystemTime>, truth: SystemTime) {
    let time = time.expect("trusted");
    let off = time.duration_since(truth).unwrap_or_else(|error| error.duration());
    assert!(off <= 2 * SEC, "{off:?} off");
}

const OPEN: Result<(), DenyReason> = Ok(());
const CLOSED: Result<(), DenyReason> = Err(DenyReason::OfflineWindowExpired);
const UNTRUSTED: Result<(), DenyReason> = Err(DenyReason::ClockUntrusted);

// ===== an hour off =====

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    GoOn,
    Restart,
    Reboot,
}

#[tokio::test(start_paused = true)]
async fn case_32_a_clock_that_is_an_hour_off_moves_no_window() {
    for wall in [start() + HOUR, start() - HOUR] {
        for dated in [true, false] {
            for then in [Then::GoOn, Then::Restart, Then::Reboot] {
                let mut machine = Machine::new(wall);
                machine.dated = dated;
                let mut session = machine.signed_in().await;
                machine.pass(DAY);
                if then != Then::GoOn {
                    session.close().await.unwrap();
                    if then == Then::Reboot {
                        machine.off(DAY, machine.wall() + DAY);
                    }
                    session = machine.open().await;
                }
                let elapsed = machine.truth.duration_since(start()).unwrap();
                machine.pass(7 * DAY - elapsed);
                let told = format!("wall {wall:?}, dated {dated}, {then:?}");
                assert_eq!(ask(&session, "view"), OPEN, "{told}");
                machine.pass(SEC);
                assert_eq!(ask(&session, "view"), CLOSED, "{told}");
                machine.refresh(&session).await;
                assert_eq!(ask(&session, "view"), OPEN, "{told}");
                if dated {
                    assert_near(time(&session), machine.truth);
                }
            }
        }
    }
}

/// What was written down before the offset was known is corrected with it: sign-in flows often know no `Date`.
#[tokio::test(start_paused = true)]
async fn case_32_the_first_date_corrects_what_a_wrong_clock_has_written_down() {
    for wall in [start() + HOUR, start() - HOUR, start() + 10 * YEAR, start() - 10 * YEAR] {
        for then in [Then::GoOn, Then::Restart] {
            let mut machine = Machine::new(wall).dateless();
            let mut session = machine.signed_in().await;
            machine.pass(10 * MINUTE);
            if then == Then::Restart && wall < start() {
                continue; // what an earlier process wrote by a slow clock looks like an old moment
            }
            if then == Then::Restart {
                session.close().await.unwrap();
                session = machine.open().await;
            }
            assert_eq!((ask(&session, "now"), ask(&session, "approve")), (OPEN, OPEN));
            machine.dated = true;
            machine.refresh(&session).await;
            let told = format!("wall {wall:?}, {then:?}");
            assert_near(time(&session), machine.truth);
            for capability in ["view", "now", "approve"] {
                assert_eq!(ask(&session, capability), OPEN, "{capability}, {told}");
            }
            let ages = session.with_gate_context("view", |cx| (cx.since_auth(), cx.grants_age(), cx.offline_for()));
            assert_eq!(ages, (Some(10 * MINUTE), Some(Duration::ZERO), Some(Duration::ZERO)), "{told}");

            // And it lasts neither longer nor shorter than meant.
            machine.pass(HOUR);
            assert_eq!(ask(&session, "now"), Err(DenyReason::OnlineRequired), "{told}");
            machine.pass(7 * HOUR - 10 * MINUTE);
            assert_eq!(ask(&session, "approve"), OPEN, "{told}");
            machine.pass(SEC);
            assert_eq!(ask(&session, "approve"), Err(DenyReason::ReauthRequired), "{told}");
        }
    }
}

// ===== turned =====

#[tokio::test(start_paused = true)]
async fn case_32_a_clock_stepped_back_in_mid_session_does_not_stop_time() {
    for dated in [true, false] {
        let mut machine = Machine::new(start());
        machine.dated = dated;
        let session = machine.signed_in().await;
        for _ in 0..7 {
            machine.pass(DAY - MINUTE);
            machine.clock.set_wall(start());
            let wanted = if dated { OPEN } else { UNTRUSTED };
            assert_eq!(ask(&session, "view"), wanted);
            machine.pass(MINUTE);
        }
        machine.clock.set_wall(machine.truth); // right again
        assert_eq!(ask(&session, "view"), if dated { OPEN } else { UNTRUSTED });
        machine.pass(SEC);
        assert_eq!(ask(&session, "view"), if dated { CLOSED } else { UNTRUSTED });

        // A restart does not help.
        session.close().await.unwrap();
        machine.clock.set_wall(start());
        let session = machine.open().await;
        assert_eq!(ask(&session, "view"), if dated { CLOSED } else { UNTRUSTED });
        session.close().await.unwrap();
        machine.off(HOUR, start());
        let session = machine.open().await;
        assert_eq!(ask(&session, "view"), if dated { CLOSED } else { UNTRUSTED });

        // A contact does, whether it tells the time or not.
        machine.refresh(&session).await;
        assert_eq!(ask(&session, "view"), OPEN);
        machine.pass(7 * DAY + SEC);
        assert_eq!(ask(&session, "view"), CLOSED);
    }
}

#[tokio::test(start_paused = true)]
async fn case_32_a_clock_turned_back_between_restarts_every_day_for_a_year_opens_no_window() {
    for how in ["to the same day", "to the mark"] {
        for dated in [true, false] {
            let mut machine = Machine::new(start());
            machine.dated = dated;
            let mut session = machine.signed_in().await;
            let (mut permitted, mut last) = (Duration::ZERO, None);
            for day in 0..365 {
                if day > 0 && how == "to the same day" {
                    assert_eq!(ask(&session, "view"), UNTRUSTED);
                }
                for _ in 0..4 {
                    let before = ask(&session, "view");
                    machine.pass(2 * HOUR);
                    if (before, ask(&session, "view")) == (OPEN, OPEN) {
                        permitted += 2 * HOUR;
                        last = Some(day);
                    }
                }
                let evening = time(&session).unwrap_or(start());
                session.close().await.unwrap();
                let morning = if how == "to the same day" { start() } else { evening };
                machine.off(16 * HOUR, morning);
                session = machine.open().await;
            }
            let told = format!("{how}, dated: {dated}: {permitted:?} until day {last:?}");
            if how == "to the same day" {
                assert_eq!((permitted, last), (8 * HOUR, Some(0)), "{told}");
            } else {
                // What is left as a risk: with a restart each day, the time that the machine is off does not count.
                assert!(permitted <= 7 * DAY && last == Some(20), "{told}");
            }
            machine.refresh(&session).await;
            assert_eq!(ask(&session, "view"), OPEN, "{told}");
        }
    }
}

/// The rest of the risk, as the docs tell it: what no session has kept, the next start of the machine does not know; but
/// while the machine stays on it is known, whoever was closed or killed.
#[tokio::test(start_paused = true)]
async fn p15_what_is_left_as_a_risk_is_the_time_since_the_mark_was_kept() {
    for (closed, reboot) in [(true, true), (false, true), (true, false), (false, false)] {
        let mut machine = Machine::new(start());
        let session = machine.signed_in().await;
        machine.pass(DAY);
        assert_eq!(ask(&session, "view"), OPEN);
        if closed {
            session.close().await.unwrap();
        } else {
            settle().await; // the gate was asked: that has kept it
        }
        drop(session);
        machine.pass(5 * DAY); // nobody uses the application
        if reboot {
            machine.off(HOUR, start() + DAY);
        }
        let session = machine.open().await;
        let told = format!("closed: {closed}, reboot: {reboot}");
        assert_eq!(time(&session), Some(start() + if reboot { DAY } else { 6 * DAY }), "{told}");
        machine.pass(if reboot { 6 * DAY } else { DAY });
        assert_eq!(ask(&session, "view"), OPEN, "{told}");
        machine.pass(SEC);
        assert_eq!(ask(&session, "view"), CLOSED, "{told}");
    }
}

/// Without a mark, what is left of the time before is what stands in the record.
#[tokio::test(start_paused = true)]
async fn p15_a_clock_behind_the_record_is_not_trusted_even_without_a_mark() {
    let mut machine = Machine::new(start());
    let session = machine.signed_in().await;
    session.close().await.unwrap();
    machine.clock.save_mark(b"");
    machine.off(HOUR, start() - 2 * MINUTE);
    assert_eq!(ask(&machine.open().await, "view"), OPEN, "clocks drift");
    machine.clock.save_mark(b"");
    machine.clock.set_wall(start() - 2 * MINUTE - SEC);
    let session = machine.open().await;
    assert_eq!(ask(&session, "view"), UNTRUSTED);
    assert_eq!(ask(&session, "now"), Err(DenyReason::OnlineRequired), "how old its token is, nobody knows");
    machine.refresh(&session).await;
    assert_eq!((ask(&session, "view"), ask(&session, "now")), (OPEN, OPEN));
}

#[tokio::test(start_paused = true)]
async fn case_32_ten_years_ahead_and_then_corrected() {
    for sign_in_first in [true, false] {
        for then in [Then::GoOn, Then::Restart, Then::Reboot] {
            for (sign_in_dated, dated) in [(false, true), (true, true), (false, false)] {
                let mut machine = Machine::new(if sign_in_first { start() } else { start() + 10 * YEAR });
                machine.dated = sign_in_dated;
                let mut session = machine.signed_in().await;
                machine.clock.set_wall(start() + 10 * YEAR);
                let _ = ask(&session, "view"); // somebody looks at it
                machine.pass(MINUTE);
                session.close().await.unwrap();
                machine.clock.set_wall(machine.truth);
                match then {
                    Then::GoOn => {}
                    Then::Restart => session = machine.open().await,
                    Then::Reboot => {
                        machine.off(HOUR, machine.truth + HOUR);
                        session = machine.open().await;
                    }
                }
                let told = format!("sign-in first: {sign_in_first}, {then:?}, dated {sign_in_dated} {dated}");
                // Anchored, it was never wrong; else the clock that was turned back counts for nothing: no ten years.
                // A clock that is set while the machine is off cannot be told from one that is turned back.
                let honest = sign_in_dated && then != Then::Reboot;
                assert_eq!(ask(&session, "view"), if honest { OPEN } else { UNTRUSTED }, "{told}");
                machine.pass(MINUTE);
                machine.dated = dated;
                machine.refresh(&session).await;
                assert_eq!(ask(&session, "view"), OPEN, "{told}");
                assert_eq!(ask(&session, "now"), OPEN, "{told}");
                if dated {
                    assert_near(time(&session), machine.truth);
                    assert_eq!(ask(&session, "approve"), OPEN, "{told}");
                }
                machine.pass(7 * DAY);
                assert_eq!(ask(&session, "view"), OPEN, "{told}");
                machine.pass(SEC);
                assert_eq!(ask(&session, "view"), CLOSED, "{told}");
                assert_eq!(ask(&session, "approve"), Err(DenyReason::ReauthRequired), "{told}");
            }
        }
    }
}

/// What was signed in by a clock ten years ahead opens no window ten years later either, while nobody is asked.
#[tokio::test(start_paused = true)]
async fn case_32_a_moment_in_the_future_is_unknown() {
    let mut machine = Machine::new(start() + 30 * DAY).dateless();
    let session = machine.signed_in().await;
    session.close().await.unwrap();
    machine.clock.set_wall(machine.truth);
    let session = machine.open().await;
    machine.pass(30 * DAY);
    machine.clock.set_wall(machine.truth);
    assert_eq!(ask(&session, "view"), UNTRUSTED);
    session.close().await.unwrap();
    let session = machine.open().await;
    assert_eq!(ask(&session, "view"), UNTRUSTED, "the mark remembers");
}

#[tokio::test(start_paused = true)]
async fn case_32_time_asleep_counts() {
    let mut machine = Machine::new(start());
    let session = machine.signed_in().await;
    machine.pass(7 * DAY); // the machine was suspended: both clocks go on
    assert_eq!(ask(&session, "view"), OPEN);
    machine.pass(SEC);
    assert_eq!(ask(&session, "view"), CLOSED);
}

// ===== whose word counts =====

type Headers = Vec<(&'static str, String)>;

/// A token endpoint, behind a client of the application's: what it answers next, and how long that takes.
#[derive(Clone, Default)]
struct Endpoint(Arc<Mutex<Reply>>);

#[derive(Clone, Default)]
struct Reply {
    status: StatusCode,
    headers: Headers,
    takes: Duration,
}

impl Endpoint {
    fn reply(&self, status: u16, headers: Headers, takes: Duration) {
        *self.0.lock().unwrap() = Reply { status: StatusCode::from_u16(status).unwrap(), headers, takes };
    }

    async fn open(&self, machine: &Machine) -> Session {
        let session = self.builder(machine, machine.clock.clone()).open("alice").await.unwrap();
        session.sign_in(Tokens::new("a").with_refresh_token("r").with_expires_in(HOUR)).await.unwrap();
        session
    }

    fn builder(&self, machine: &Machine, reads: impl Clock) -> SessionBuilder {
        let (endpoint, clock) = (self.clone(), machine.clock.clone());
        let client = service_fn(move |_: Request<Full<Bytes>>| {
            let Reply { status, headers, takes } = endpoint.0.lock().unwrap().clone();
            let (count, clock) = (clock.monotonic().as_micros(), clock.clone());
            async move {
                clock.advance(takes);
                let body = match status.is_success() {
                    true => format!(r#"{{"access_token":"a{count}","token_type":"Bearer","expires_in":3600}}"#),
                    false => r#"{"error":"temporarily_unavailable"}"#.to_owned(),
                };
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                Ok::<_, BoxError>(response.body(Full::new(Bytes::from(body))).unwrap())
            }
        });
        let refresher = OAuth2Refresher::new("https://id.example.com/token", "app").unwrap().http(client);
        Session::builder(refresher)
            .store(machine.store.clone())
            .clock(reads)
            .gate(OfflinePolicy::new().rule("view", Rule::new().max_offline(7 * DAY)))
    }
}

fn http_date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

#[tokio::test(start_paused = true)]
async fn p15_every_answer_of_the_token_endpoint_is_an_anchor_and_nothing_else_is() {
    let truth = start();
    let date = |time: SystemTime| ("date", http_date(time));
    // Its clock is an hour slow; what does it believe afterwards?
    let cases: [(u16, Headers, Duration, bool); 11] = [
        (200, vec![date(truth)], Duration::ZERO, true),
        (400, vec![date(truth)], Duration::ZERO, true),
        (503, vec![date(truth)], Duration::ZERO, true),
        (200, vec![], Duration::ZERO, false),
        (200, vec![date(truth), ("age", "0".into())], Duration::ZERO, false),
        (503, vec![date(truth), ("age", "86400".into())], Duration::ZERO, false),
        (302, vec![date(truth), ("location", "https://portal.example.com".into())], Duration::ZERO, false),
        (200, vec![("date", "yesterday".into())], Duration::ZERO, false),
        (200, vec![("date", "Thu, 01 Jan 1970 00:00:00 GMT".into())], Duration::ZERO, false),
        (200, vec![("date", "Sun, 06 Nov 10994 08:49:37 GMT".into())], Duration::ZERO, false),
        // Twenty seconds on the way: so much can be wrong with it, and no more.
        (200, vec![date(truth - HOUR + 22 * SEC)], 20 * SEC, false),
    ];
    for (status, headers, takes, anchors) in cases {
        let told = format!("{status} {headers:?}");
        let (endpoint, machine) = (Endpoint::default(), Machine::new(truth - HOUR));
        let session = endpoint.open(&machine).await;
        endpoint.reply(status, headers, takes);
        assert_eq!(session.refresh().await.is_ok(), status == 200, "{told}");
        let wanted = if anchors { truth } else { truth - HOUR + takes };
        // A process that is killed now has told the next one.
        tokio::time::sleep(SEC).await;
        assert_eq!(time(&machine.open().await), Some(wanted), "{told}");
        session.close().await.unwrap();
        assert_eq!(time(&session), Some(wanted), "{told}");
        assert_eq!(ask(&session, "view"), OPEN, "{told}");
    }
}

/// What was written down by a clock that an error has corrected since.
#[tokio::test(start_paused = true)]
async fn p15_a_refusal_with_a_date_corrects_what_a_wrong_clock_has_written_down() {
    for wall in [start() + HOUR, start() - HOUR, start() + 10 * YEAR] {
        let (endpoint, mut machine) = (Endpoint::default(), Machine::new(wall));
        let session = endpoint.open(&machine).await;
        machine.pass(10 * MINUTE);
        endpoint.reply(503, vec![("date", http_date(machine.truth))], Duration::ZERO);
        assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(time(&session), Some(machine.truth));
        let seen = |session: &Session| {
            session
                .with_gate_context("view", |cx| (cx.offline_for(), cx.since_auth(), cx.grants_age(), cx.token_fresh()))
        };
        let age = Some(10 * MINUTE);
        assert_eq!(seen(&session), (age, age, age, true), "{wall:?}");
        session.close().await.unwrap();
        drop(session);

        // It stands in the record, too.
        let again = machine.open().await;
        assert_eq!(seen(&again), (age, age, age, true), "{wall:?}");
        machine.pass(50 * MINUTE);
        assert!(!seen(&again).3, "{wall:?}");
    }
}

/// The API behind the layer says `date`, after so long.
async fn api_says(session: &Session, clock: &ManualClock, headers: Headers, takes: Duration, url: &str) {
    let clock = clock.clone();
    let api = service_fn(move |_: Request<Full<Bytes>>| {
        clock.advance(takes);
        let mut response = Response::builder();
        for (name, value) in &headers {
            response = response.header(*name, value);
        }
        std::future::ready(Ok::<_, BoxError>(response.body(Full::<Bytes>::default()).unwrap()))
    });
    let layer =
        AuthLayer::new(session.clone(), Origins::new([ORIGIN]).unwrap()).capability(|_| Some(Capability::new("view")));
    let request = Request::get(url).body(Full::default()).unwrap();
    layer.layer(api).oneshot(request).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn case_32_a_bogus_date_of_an_api_moves_nothing() {
    const URL: &str = "https://api.example.com/jobs";
    for dated in [true, false] {
        let date = |time: SystemTime| ("date", http_date(time));
        let fine = (vec![date(start() + DAY)], Duration::ZERO, URL, DAY);
        let cases = [
            (vec![date(start() - DAY)], Duration::ZERO, URL, Duration::ZERO),
            (vec![date(start() + DAY), ("age", "1".into())], Duration::ZERO, URL, Duration::ZERO),
            (vec![date(start() + DAY)], Duration::ZERO, "https://elsewhere.example.com/", Duration::ZERO),
            (vec![date(start() + DAY)], 11 * SEC, URL, 11 * SEC),
            (vec![date(start() + 2 * SEC)], Duration::ZERO, URL, Duration::ZERO),
            (vec![("date", "garbage".into())], Duration::ZERO, URL, Duration::ZERO),
            fine,
        ];
        for (headers, takes, url, moved) in cases {
            let told = format!("{headers:?} {url}, dated: {dated}");
            let mut machine = Machine::new(start());
            machine.dated = dated;
            let session = machine.signed_in().await;
            api_says(&session, &machine.clock, headers, takes, url).await;
            assert_eq!(time(&session), Some(start() + moved), "{told}");
            if moved == DAY {
                // A lower bound: the next anchor takes it back.
                machine.dated = true;
                machine.refresh(&session).await;
                assert_near(time(&session), machine.truth);
            }
        }
    }
}

/// An API whose clock is ahead by more than a token lives: it is believed once, not once a request.
#[tokio::test(start_paused = true)]
async fn p09_an_api_whose_clock_is_fast_does_not_cost_an_exchange_a_request() {
    let mut machine = Machine::new(start());
    machine.issuer.books().lifetime = Some(5 * MINUTE);
    let session = machine.signed_in().await;
    for _ in 0..20 {
        let ahead = vec![("date", http_date(machine.truth + 6 * MINUTE))];
        machine.tell_time();
        api_says(&session, &machine.clock, ahead, Duration::ZERO, "https://api.example.com/jobs").await;
        machine.pass(SEC);
    }
    assert!(machine.issuer.exchanges() <= 1, "{}", machine.issuer.exchanges());
    machine.refresh(&session).await;
    assert_near(time(&session), machine.truth);
}

/// It says that time is later, not that the clock is right.
#[tokio::test(start_paused = true)]
async fn p15_the_date_of_an_api_does_not_end_the_doubt() {
    let mut machine = Machine::new(start()).dateless();
    let session = machine.builder().gate(gate_fn(|_| Ok(()))).open("alice").await.unwrap();
    machine.sign_in(&session).await;
    machine.pass(30 * MINUTE);
    assert_eq!(time(&session), Some(machine.truth));
    machine.clock.set_wall(start());
    assert_eq!(time(&session), None);
    let date = vec![("date", http_date(machine.truth + HOUR))];
    api_says(&session, &machine.clock, date, Duration::ZERO, "https://api.example.com/").await;
    assert_eq!(time(&session), None);
    machine.refresh(&session).await;
    assert_eq!(time(&session), Some(machine.truth + HOUR), "but it was heard");
}

/// An honest user, whose clock was ahead until it was set right: the token is fresh still, and nobody would ask the server.
#[tokio::test(start_paused = true)]
async fn p15_whoever_is_online_has_the_clock_healed_by_the_next_request_however_fresh_the_token() {
    const URL: &str = "https://api.example.com/jobs";
    for reconnected in [false, true] {
        let mut machine = Machine::new(start() + 2 * HOUR).dateless();
        machine.issuer.books().lifetime = Some(30 * DAY);
        let session = machine.builder().connectivity(|| None).open("alice").await.unwrap();
        machine.sign_in(&session).await;
        assert_eq!(ask(&session, "view"), OPEN);
        machine.clock.set_wall(machine.truth);
        assert_eq!(ask(&session, "view"), UNTRUSTED);
        machine.pass(MINUTE);
        machine.dated = true;
        machine.tell_time();
        match reconnected {
            true => session.reconnected(),
            false => api_says(&session, &machine.clock, vec![], Duration::ZERO, URL).await,
        }
        session.close().await.unwrap();
        assert_eq!(ask(&session, "view"), OPEN);
        assert_near(time(&session), machine.truth);
        assert_eq!(machine.issuer.exchanges(), 1);
        // And not again: it is the clock that is asked about.
        api_says(&session, &machine.clock, vec![], Duration::ZERO, URL).await;
        session.reconnected();
        session.close().await.unwrap();
        assert_eq!(machine.issuer.exchanges(), 1);
    }
    // Who is offline, or whose server does not answer, is told so.
    for (online, exchanges) in [(Some(false), 0), (None, 1)] {
        let mut machine = Machine::new(start() + 2 * HOUR).dateless();
        let session = machine.builder().connectivity(move || online).open("alice").await.unwrap();
        machine.sign_in(&session).await;
        machine.clock.set_wall(machine.truth);
        machine.pass(MINUTE);
        machine.issuer.fail(|| RefreshError::transient("down").status(StatusCode::SERVICE_UNAVAILABLE));
        for _ in 0..3 {
            let api = service_fn(|_: Request<Full<Bytes>>| {
                std::future::ready(Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())))
            });
            let layer = AuthLayer::new(session.clone(), Origins::new([ORIGIN]).unwrap())
                .capability(|_| Some(Capability::new("view")));
            let request = Request::get(URL).body(Full::default()).unwrap();
            let error = layer.layer(api).oneshot(request).await.unwrap_err();
            let denial = tower_reauth::AuthError::find(&*error).and_then(|error| error.denial()).unwrap();
            assert_eq!(denial.reason(), DenyReason::ClockUntrusted);
        }
        assert_eq!(machine.issuer.exchanges(), exchanges);
    }
}

/// A reading of the clock by which time was not to be trusted is not trusted since somebody has set it right meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn p15_a_reading_is_judged_by_what_was_known_then() {
    type Hook = Arc<Mutex<Option<(usize, Box<dyn FnOnce() + Send>)>>>;
    /// Calls the hook within the reading of that number.
    #[derive(Clone)]
    struct Hooked(ManualClock, Hook);
    impl Clock for Hooked {
        fn now(&self) -> SystemTime {
            let wall = self.0.now();
            let mut hook = self.1.lock().unwrap();
            match hook.as_mut() {
                Some((left @ 1.., _)) => *left -= 1,
                Some(_) => {
                    let (_, call) = hook.take().unwrap();
                    drop(hook);
                    call();
                }
                None => {}
            }
            wall
        }
        fn monotonic(&self) -> Duration {
            self.0.monotonic()
        }
    }
    for number in 0..4 {
        let (endpoint, mut machine) = (Endpoint::default(), Machine::new(start()));
        let clock = Hooked(machine.clock.clone(), Arc::default());
        endpoint.open(&machine).await.close().await.unwrap();
        machine.off(30 * DAY, start() - DAY);
        let session = endpoint.builder(&machine, clock.clone()).open("alice").await.unwrap();
        assert_eq!(ask(&session, "view"), UNTRUSTED);
        session.close().await.unwrap();
        // While the clock is read, the server says what time it is, and that it has no time.
        endpoint.reply(503, vec![("date", http_date(machine.truth))], Duration::ZERO);
        let (other, handle) = (session.clone(), tokio::runtime::Handle::current());
        let (tx, rx) = std::sync::mpsc::channel();
        let call = move || {
            handle.spawn(async move {
                let _ = other.refresh().await;
                tx.send(()).unwrap();
            });
            rx.recv_timeout(MINUTE).unwrap();
        };
        *clock.1.lock().unwrap() = Some((number, Box::new(call)));
        for _ in 0..4 {
            assert_ne!(ask(&session, "view"), OPEN, "{number}");
        }
        assert_eq!(time(&session), Some(machine.truth));
        assert_eq!(ask(&session, "view"), CLOSED);
    }
}

// ===== the mark =====

#[tokio::test(start_paused = true)]
async fn p15_two_processes_with_one_mark_learn_from_each_other() {
    let mut machine = Machine::new(start() + 10 * YEAR).dateless();
    let (alice, bob) =
        (machine.signed_in().await, machine.builder().store(MemoryStore::new()).open("bob").await.unwrap());
    machine.sign_in(&bob).await;
    machine.clock.set_wall(start());
    assert_eq!((ask(&alice, "view"), ask(&bob, "view")), (UNTRUSTED, UNTRUSTED));
    machine.dated = true;
    machine.refresh(&alice).await;
    assert_eq!((time(&alice), time(&bob)), (Some(start()), None));
    // Whoever is asked looks at the mark once a minute.
    machine.pass(MINUTE);
    let _ = ask(&bob, "view");
    bob.close().await.unwrap();
    assert_eq!(time(&bob), Some(machine.truth));

    // Neither takes back what the other one knows.
    alice.close().await.unwrap();
    bob.close().await.unwrap();
    machine.off(HOUR, start() - DAY);
    for account in ["alice", "bob", "carol"] {
        let session = machine.builder().store(MemoryStore::new()).open(account).await.unwrap();
        assert_eq!(time(&session), None, "{account}");
    }
}

/// What one process is told corrects what another one has written down.
#[tokio::test(start_paused = true)]
async fn p15_a_process_that_is_healed_by_another_one_goes_on() {
    let mut machine = Machine::new(start() + DAY).dateless();
    let (alice, bob) =
        (machine.signed_in().await, machine.builder().store(MemoryStore::new()).open("bob").await.unwrap());
    alice.step_up(12 * HOUR);
    machine.clock.set_wall(start());
    machine.pass(10 * MINUTE);
    assert_eq!((ask(&alice, "view"), ask(&alice, "notes")), (UNTRUSTED, UNTRUSTED));
    alice.close().await.unwrap();
    machine.dated = true;
    machine.sign_in(&bob).await;
    machine.pass(MINUTE);
    let _ = ask(&alice, "view"); // it looks at the mark
    settle().await;
    tokio::time::sleep(SEC).await;
    assert_near(time(&alice), machine.truth);
    for capability in ["view", "notes", "approve", "now"] {
        assert_eq!(ask(&alice, capability), OPEN, "{capability}");
    }
    let age = Some(11 * MINUTE);
    assert_eq!(alice.with_gate_context("view", |cx| (cx.offline_for(), cx.since_auth())), (age, age));
    machine.pass(12 * HOUR - 11 * MINUTE);
    assert_eq!(ask(&alice, "notes"), OPEN);
    machine.pass(SEC);
    assert_eq!(ask(&alice, "notes"), Err(DenyReason::StepUpRequired));
    machine.pass(DAY);
    assert_eq!(ask(&alice, "notes"), Err(DenyReason::StepUpRequired), "nor when it comes");
    assert_eq!(machine.issuer.exchanges(), 0);
}

#[tokio::test(start_paused = true)]
async fn p15_a_mark_that_is_damaged_is_no_mark_and_no_error() {
    for bad in [&b""[..], b"{", b"[1]", b"\0\0\0\0", br#"{"format":1}"#, br#"{"format":99,"mark":0}"#] {
        let mut machine = Machine::new(start());
        machine.clock.save_mark(bad);
        let session = machine.signed_in().await;
        assert_eq!(ask(&session, "view"), OPEN);
        session.close().await.unwrap();
        let is_newer = bad.starts_with(br#"{"format":99"#);
        assert_eq!(machine.clock.load_mark().as_deref() == Some(bad), is_newer, "a newer one is left alone");
        machine.off(HOUR, start() - DAY);
        assert_eq!(ask(&machine.open().await, "view"), UNTRUSTED, "the record remembers, too");
    }
}

/// A clock that counts what is asked of it.
#[derive(Clone)]
struct Counted {
    clock: ManualClock,
    saves: Arc<AtomicUsize>,
    panics: bool,
}

impl Clock for Counted {
    fn now(&self) -> SystemTime {
        self.clock.now()
    }
    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
    fn load_mark(&self) -> Option<Vec<u8>> {
        assert!(!self.panics, "a clock that panics");
        self.clock.load_mark()
    }
    fn save_mark(&self, mark: &[u8]) {
        self.saves.fetch_add(1, Relaxed);
        assert!(!self.panics, "a clock that panics");
        self.clock.save_mark(mark);
    }
}

#[tokio::test(start_paused = true)]
async fn the_mark_is_kept_at_anchors_once_a_minute_and_at_the_end() {
    let mut machine = Machine::new(start());
    let counted = Counted { clock: machine.clock.clone(), saves: Arc::default(), panics: false };
    let session = machine.builder().clock(counted.clone()).open("alice").await.unwrap();
    let saves = || counted.saves.swap(0, Relaxed);
    machine.sign_in(&session).await;
    assert_eq!(saves(), 1, "an anchor");
    machine.refresh(&session).await;
    assert_eq!(saves(), 0, "that says nothing new, and nothing has changed");
    for _ in 0..120 {
        machine.pass(SEC);
        assert_eq!(ask(&session, "view"), OPEN);
        settle().await;
    }
    assert_eq!(saves(), 2);
    machine.pass(30 * SEC);
    session.close().await.unwrap();
    assert_eq!(saves(), 1);
    machine.pass(HOUR);
    settle().await;
    assert_eq!(saves(), 0, "nobody has asked");
}

/// Lets the work off the async threads finish: paused time stands still as long as there is some.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn p15_a_clock_that_panics_over_its_mark_has_none() {
    let machine = Machine::new(start());
    let counted = Counted { clock: machine.clock.clone(), saves: Arc::default(), panics: true };
    let session = machine.builder().clock(counted).open("alice").await.unwrap();
    machine.sign_in(&session).await;
    assert_eq!(ask(&session, "view"), OPEN);
    session.close().await.unwrap();
}

/// A clock whose disk hangs, say: nobody waits for it long, and it takes no thread after thread.
#[tokio::test(start_paused = true)]
async fn p02_a_clock_that_hangs_over_its_mark_keeps_nobody() {
    #[derive(Clone)]
    struct Hanging(ManualClock, Arc<AtomicUsize>, Arc<Mutex<Option<mpsc::Receiver<()>>>>);
    impl Clock for Hanging {
        fn now(&self) -> SystemTime {
            self.0.now()
        }
        fn monotonic(&self) -> Duration {
            self.0.monotonic()
        }
        fn load_mark(&self) -> Option<Vec<u8>> {
            self.1.fetch_add(1, Relaxed);
            // Until nobody can send any more.
            let _ = self.2.lock().unwrap().as_ref().map(mpsc::Receiver::recv);
            None
        }
    }
    let (mut machine, hang) = (Machine::new(start()), Arc::new(Mutex::new(None)));
    let clock = Hanging(machine.clock.clone(), Arc::default(), hang.clone());
    let session = machine.builder().clock(clock.clone()).open("alice").await.unwrap();
    let (held, hangs) = mpsc::channel();
    *hang.lock().unwrap() = Some(hangs);
    // In a runtime that has work off its threads, paused time does not move by itself.
    let patient = async |work: &mut (dyn Future<Output = ()> + Unpin)| {
        for secs in 0.. {
            tokio::select! {
                biased;
                () = &mut *work => return secs,
                () = tokio::task::yield_now() => tokio::time::advance(SEC).await,
            }
            assert!(secs < 60, "it hangs");
        }
        unreachable!()
    };
    assert!(patient(&mut Box::pin(machine.sign_in(&session))).await <= 11);
    for _ in 0..100 {
        machine.pass(MINUTE);
        assert_eq!(ask(&session, "view"), OPEN);
        tokio::task::yield_now().await;
    }
    assert!(patient(&mut Box::pin(async { session.close().await.unwrap() })).await <= 22);
    drop(held);
    session.close().await.unwrap();
    assert!(clock.1.load(Relaxed) < 8, "{:?}", clock.1);
}

/// Machines that do not know when they were started go by the wall clock after each start of a process.
#[tokio::test(start_paused = true)]
async fn p15_an_unknown_start_of_the_machine_opens_nothing() {
    let mut machine = Machine::new(start());
    let counted = Counted { clock: machine.clock.clone(), saves: Arc::default(), panics: false };
    let session = machine.builder().clock(counted.clone()).open("alice").await.unwrap();
    machine.sign_in(&session).await;
    machine.pass(DAY);
    session.close().await.unwrap();
    let session = machine.builder().clock(counted.clone()).open("alice").await.unwrap();
    assert_eq!(ask(&session, "view"), OPEN);
    machine.clock.set_wall(start());
    assert_eq!(ask(&session, "view"), UNTRUSTED);
    machine.refresh(&session).await;
    assert_eq!(ask(&session, "view"), OPEN);
    assert_near(time(&session), machine.truth);
}

/// Whoever only takes over what others were given is not locked out by a slow clock either.
#[tokio::test(start_paused = true)]
async fn p15_a_newer_set_of_another_machine_is_a_contact_too() {
    let mut here = Machine::new(start() - HOUR).dateless();
    let session = here.builder().connectivity(|| None).open("alice").await.unwrap();
    let mut there = Machine { clock: ManualClock::new(start()), store: here.store.clone(), ..Machine::new(start()) };
    there.issuer = here.issuer.clone();
    there.signed_in().await.close().await.unwrap();

    assert_eq!(session.access_token().await.unwrap().expose(), "a1.0"); // found in the store
    assert_eq!(time(&session), Some(start()));
    assert_eq!(ask(&session, "view"), OPEN);
    here.pass(DAY);
    session.close().await.unwrap();
    here.off(DAY, here.wall() + DAY);
    let session = here.open().await;
    assert_eq!(time(&session), Some(here.truth), "that its clock is slow is known from now on");
    // What stands there already is no contact: a clock behind it may have been turned back.
    session.close().await.unwrap();
    here.clock.save_mark(b"");
    here.off(DAY, start() - HOUR);
    assert_eq!(ask(&here.open().await, "view"), UNTRUSTED);
}

// ===== what else a wrong clock has written =====

/// P15: by a clock that was ahead, somebody signed in at a time that has not come yet. What the server says of the time now
/// does not make a recent sign-in of it.
#[tokio::test(start_paused = true)]
async fn p15_a_refresh_does_not_make_a_recent_sign_in_of_one_from_the_future() {
    let mut machine = Machine::new(start() + 90 * DAY).dateless();
    let session = machine.signed_in().await;
    session.close().await.unwrap();
    machine.clock.save_mark(b""); // a clock without one
    machine.pass(30 * DAY);
    machine.off(HOUR, machine.truth + HOUR);
    let session = machine.open().await;
    assert_eq!(ask(&session, "approve"), UNTRUSTED);
    machine.dated = true;
    machine.refresh(&session).await;
    assert_eq!(ask(&session, "view"), OPEN);
    assert_eq!(ask(&session, "approve"), Err(DenyReason::ReauthRequired));
    machine.sign_in(&session).await;
    assert_eq!(ask(&session, "approve"), OPEN);
}

/// P15: a pause that a clock fifty minutes fast wrote down keeps nobody from the server once the clock is right.
#[tokio::test(start_paused = true)]
async fn p15_a_pause_from_the_future_does_not_keep_anybody_quiet() {
    let machine = Machine::new(start() + 50 * MINUTE).dateless();
    let session = machine.signed_in().await;
    machine.issuer.fail(|| RefreshError::transient("down").status(StatusCode::SERVICE_UNAVAILABLE));
    assert!(session.refresh().await.is_err());
    session.close().await.unwrap();
    // Another machine with the same store, which knows what time it is.
    let right = Machine { clock: ManualClock::new(start()), dated: true, ..machine };
    let bob = right.builder().store(MemoryStore::new()).open("bob").await.unwrap();
    right.sign_in(&bob).await;
    let alice = right.open().await;
    assert_eq!(time(&alice), Some(start()));
    assert_eq!(ask(&alice, "view"), CLOSED, "when it was, nobody knows");
    assert_eq!(ask(&alice, "now"), Err(DenyReason::OnlineRequired), "nor how old the token is");
    right.issuer.books().number = 0;
    right.refresh(&alice).await;
    assert_eq!(right.issuer.exchanges(), 2);
    assert_eq!(ask(&alice, "view"), OPEN);
}
