use super::*;
use crate::clock::ManualClock;
use proptest::prelude::*;
use std::time::UNIX_EPOCH;

const SEC: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The true time at which each test begins.
fn truth() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn at(wall: SystemTime) -> (ManualClock, Timekeeper) {
    let clock = ManualClock::new(wall);
    clock.advance(500 * SEC);
    clock.set_wall(wall);
    let time = open(&clock);
    (clock, time)
}

/// Another process.
fn open(clock: &ManualClock) -> Timekeeper {
    Timekeeper::open(Arc::new(clock.clone()))
}

fn anchor(time: &Timekeeper, date: SystemTime) {
    time.answered(Some(date), time.monotonic());
}

fn save(time: &Timekeeper) {
    time.save(time.saving());
}

/// `None` if it is not to be trusted.
fn now(time: &Timekeeper) -> Option<SystemTime> {
    let now = time.now();
    time.is_trusted().then(|| now.system())
}

/// P15.
#[test]
fn once_anchored_the_wall_clock_moves_nothing() {
    let (clock, time) = at(truth() - HOUR);
    assert_eq!(now(&time), Some(truth() - HOUR), "nobody has told it better");
    anchor(&time, truth());
    assert_eq!(now(&time), Some(truth()));
    for wall in [UNIX_EPOCH, truth() + 10 * YEAR, truth() - DAY] {
        clock.set_wall(wall);
        assert_eq!(now(&time), Some(truth()));
    }
    clock.advance(60 * SEC);
    assert_eq!(now(&time), Some(truth() + 60 * SEC));
}

/// P15.
#[test]
fn an_anchor_heals_a_bogus_future_and_small_offsets_are_noise() {
    let (clock, time) = at(truth() + 10 * YEAR);
    assert_eq!(now(&time), Some(truth() + 10 * YEAR));
    clock.set_wall(truth());
    assert_eq!(now(&time), None);
    anchor(&time, truth());
    assert_eq!(now(&time), Some(truth()));
    anchor(&time, truth() + 2 * SEC);
    anchor(&time, truth() - 2 * SEC);
    assert_eq!(now(&time), Some(truth()));
    anchor(&time, truth() + 3 * SEC);
    assert_eq!(now(&time), Some(truth() + 3 * SEC));
}

#[test]
fn half_of_a_slow_round_trip_is_noise() {
    let (clock, time) = at(truth());
    let asked = time.monotonic();
    clock.advance(20 * SEC);
    time.answered(Some(truth()), asked); // written when it was asked
    assert_eq!(now(&time), Some(truth() + 20 * SEC));
    time.answered(Some(truth() + 22 * SEC), asked); // written when it arrived, by a clock that is two seconds ahead
    assert_eq!(now(&time), Some(truth() + 20 * SEC));
    time.answered(Some(truth() + HOUR), asked);
    assert_eq!(now(&time), Some(truth() + HOUR + 10 * SEC));
}

/// P15.
#[test]
fn without_an_anchor_time_never_goes_back_nor_stops() {
    let (clock, time) = at(truth());
    assert_eq!(now(&time), Some(truth()));
    clock.set_wall(truth() - 60 * SEC);
    assert_eq!(now(&time), Some(truth()), "a little behind is no sin");
    clock.advance(HOUR);
    assert_eq!(now(&time), Some(truth() + HOUR));
    clock.set_wall(truth() + HOUR - SLACK);
    assert_eq!(now(&time), Some(truth() + HOUR), "two minutes are not more than two minutes");
    clock.set_wall(truth() + HOUR - SLACK - SEC);
    assert_eq!(now(&time), None);
    assert_eq!(time.now(), (truth() + HOUR).into(), "the least that it can be");
    clock.advance(HOUR);
    assert_eq!(time.now(), (truth() + 2 * HOUR).into());
    clock.set_wall(truth() + 2 * HOUR);
    assert_eq!(now(&time), None, "until the next anchor");
    anchor(&time, truth() + 2 * HOUR);
    assert_eq!(now(&time), Some(truth() + 2 * HOUR));
}

/// P15.
#[test]
fn a_clock_turned_back_between_two_processes_is_not_trusted_until_the_next_anchor() {
    let (clock, time) = at(truth());
    anchor(&time, truth());
    clock.advance(HOUR);
    save(&time);
    clock.reboot();
    clock.set_wall(truth() - DAY);
    let time = open(&clock);
    assert_eq!(now(&time), None);
    assert_eq!(time.now(), (truth() + HOUR).into(), "never below the mark");
    clock.advance(HOUR);
    assert_eq!(time.now(), (truth() + 2 * HOUR).into(), "and on from there");

    // Turned right again, and started once more: nothing is forgotten.
    save(&time);
    clock.reboot();
    clock.set_wall(truth() + 3 * HOUR);
    let time = open(&clock);
    assert_eq!(now(&time), None);
    assert_eq!(time.now(), (truth() + 3 * HOUR).into());
    anchor(&time, truth() + 3 * HOUR);
    save(&time);
    assert_eq!(now(&open(&clock)), Some(truth() + 3 * HOUR));
}

#[test]
fn the_same_start_of_the_machine_goes_on_with_the_anchor_whatever_the_wall_clock_says() {
    let (clock, time) = at(truth() - HOUR);
    anchor(&time, truth());
    save(&time);
    clock.advance(DAY);
    clock.set_wall(UNIX_EPOCH);
    assert_eq!(now(&open(&clock)), Some(truth() + DAY));
}

#[test]
fn after_a_restart_of_the_machine_the_wall_clock_counts_with_what_it_is_known_to_be_off() {
    for (off, slow) in [(HOUR, true), (HOUR, false), (10 * YEAR, false)] {
        let wall = if slow { truth() - off } else { truth() + off };
        let (clock, time) = at(wall);
        anchor(&time, truth());
        save(&time);
        clock.advance(DAY);
        clock.reboot();
        assert_eq!(now(&open(&clock)), Some(truth() + DAY), "off by {off:?}, slow: {slow}");
    }
    // Set right while time was certain: that is what the next start goes by.
    let (clock, time) = at(truth() + HOUR);
    anchor(&time, truth());
    save(&time);
    clock.set_wall(truth());
    save(&time);
    clock.reboot();
    assert_eq!(now(&open(&clock)), Some(truth()));
}

#[test]
fn an_unknown_start_of_the_machine_counts_as_another_one() {
    struct Nameless(ManualClock);
    impl Clock for Nameless {
        fn now(&self) -> SystemTime {
            self.0.now()
        }
        fn monotonic(&self) -> Duration {
            self.0.monotonic()
        }
        fn load_mark(&self) -> Option<Vec<u8>> {
            self.0.load_mark()
        }
        fn save_mark(&self, mark: &[u8]) {
            self.0.save_mark(mark);
        }
    }
    let clock = ManualClock::new(truth());
    let open = || Timekeeper::open(Arc::new(Nameless(clock.clone())));
    let time = open();
    anchor(&time, truth() + HOUR);
    assert_eq!(now(&time), Some(truth() + HOUR), "it holds in the process itself");
    save(&time);
    let time = open();
    assert_eq!(now(&time), Some(truth() + HOUR));
    clock.set_wall(truth() - HOUR);
    assert_eq!(now(&time), None);
    assert_eq!(now(&open()), None, "it is in the mark too");
}

#[test]
fn a_monotonic_clock_that_does_not_fit_counts_as_another_start() {
    let (clock, time) = at(truth());
    anchor(&time, truth());
    clock.advance(HOUR);
    save(&time);
    let elsewhere = ManualClock::new(truth() + HOUR); // the same name of the start, and a monotonic clock from zero
    elsewhere.save_mark(&clock.load_mark().unwrap());
    let time = open(&elsewhere);
    assert_eq!(now(&time), Some(truth() + HOUR));
    elsewhere.set_wall(truth());
    assert_eq!(now(&time), None);
}

/// P15: whoever cannot have the time from a server is not locked out for ever.
#[test]
fn a_contact_without_a_date_is_no_anchor_but_ends_the_doubt() {
    let (clock, time) = at(truth() + 10 * YEAR);
    let _ = time.now();
    clock.set_wall(truth());
    assert_eq!(now(&time), None);
    time.contact();
    assert_eq!(now(&time), Some(truth() + 10 * YEAR), "nothing goes back");
    clock.advance(DAY);
    save(&time);
    clock.reboot();
    let time = open(&clock);
    assert_eq!(now(&time), Some(truth() + 10 * YEAR + DAY), "but it goes on, and restarts change nothing");
    clock.set_wall(truth());
    assert_eq!(now(&time), None, "it is the wall clock still, and it can be turned back");
    time.contact();
    time.contact();
    assert_eq!(now(&time), Some(truth() + 10 * YEAR + DAY));
    anchor(&time, truth() + DAY);
    assert_eq!(now(&time), Some(truth() + DAY));
}

#[test]
fn a_resource_servers_date_only_moves_forward_and_only_if_recent() {
    for anchored in [false, true] {
        let (clock, time) = at(truth());
        if anchored {
            anchor(&time, truth());
        }
        time.at_least(truth() - HOUR, time.now());
        time.at_least(truth() + HOUR, time.now().minus(STALE + SEC));
        time.at_least(truth() + 2 * SEC, time.now());
        assert_eq!(now(&time), Some(truth()));
        time.at_least(truth() + HOUR, time.now());
        assert_eq!(now(&time), Some(truth() + HOUR), "a slow clock has not been turned back");
        save(&time);
        clock.reboot();
        assert_eq!(now(&open(&clock)), Some(truth() + HOUR));
    }
    let (clock, time) = at(truth());
    let _ = time.now();
    clock.set_wall(truth() - DAY);
    assert_eq!(now(&time), None);
    time.at_least(truth() + HOUR, time.now());
    assert_eq!(time.now(), (truth() + HOUR).into());
    assert_eq!(now(&time), None, "it is no anchor");
}

#[test]
fn dates_that_no_set_clock_can_say_move_nothing() {
    let (clock, time) = at(truth());
    let _ = time.now();
    let far = UNIX_EPOCH + Duration::from_secs(253_402_300_800); // the year 10000
    for bogus in [UNIX_EPOCH, UNIX_EPOCH - YEAR, far, UNIX_EPOCH + 10 * YEAR] {
        anchor(&time, bogus);
        time.at_least(bogus, time.now());
        time.seen(bogus.into());
        assert_eq!(now(&time), Some(truth()));
    }
    for moment in [Stamp(i64::MIN), Stamp::NEVER] {
        time.seen(moment);
        assert_eq!(now(&time), Some(truth()));
    }
    time.answered(Some(truth()), Duration::MAX); // asked in the future, by a clock that went back
    time.at_least(truth() + HOUR, Stamp(i64::MIN));
    time.at_least(truth() + HOUR, Stamp::NEVER);
    assert_eq!(now(&time), Some(truth()));
    clock.advance(SEC);
    assert_eq!(now(&time), Some(truth() + SEC));
}

/// P15: without a mark, what the records of a store say is what is left of the time before.
#[test]
fn a_wall_clock_behind_a_record_is_not_trusted_and_the_machine_does_not_remember_it() {
    let (clock, time) = at(truth());
    time.seen((truth() + DAY).into());
    assert_eq!(now(&time), None);
    assert_eq!(time.now(), (truth() + DAY).into());
    clock.advance(HOUR);
    assert_eq!(time.now(), (truth() + DAY + HOUR).into());
    save(&time);
    assert_eq!(now(&open(&clock)), Some(truth() + HOUR), "the record may be another machine's mistake");

    time.contact(); // it is not
    assert_eq!(now(&time), Some(truth() + DAY + HOUR));
    time.seen((truth() + YEAR).into());
    anchor(&time, truth() + HOUR);
    time.seen((truth() + YEAR).into());
    assert_eq!(now(&time), Some(truth() + HOUR), "an anchor outranks every record");
}

// ===== several processes =====

#[test]
fn a_process_goes_on_from_what_another_one_was_told() {
    let (clock, first) = at(truth() + 10 * YEAR);
    let second = open(&clock);
    assert_eq!((now(&first), now(&second)), (Some(truth() + 10 * YEAR), Some(truth() + 10 * YEAR)));
    save(&first);
    anchor(&second, truth());
    save(&second);
    assert_eq!(now(&first), Some(truth() + 10 * YEAR));
    save(&first);
    assert_eq!(now(&first), Some(truth()), "the anchor has replaced the mark for both");
    save(&first);
    save(&second);
    assert_eq!(now(&open(&clock)), Some(truth()));
}

#[test]
fn of_two_that_know_the_same_the_greater_mark_counts_and_every_doubt() {
    let (clock, first) = at(truth());
    let second = open(&clock);
    let _ = (first.now(), second.now());
    first.at_least(truth() + HOUR, first.now());
    save(&first);
    save(&second);
    assert_eq!(now(&second), Some(truth() + HOUR), "both are slow");
    clock.set_wall(truth() - DAY);
    assert_eq!(now(&second), None);
    save(&second);
    save(&first);
    clock.set_wall(truth());
    assert_eq!(now(&first), None, "what one has noticed is true for all");
    assert_eq!(open(&clock).now(), (truth() + HOUR).into());
    assert_eq!(now(&open(&clock)), None);

    // The last contact counts, whoever counted more before.
    first.contact();
    save(&first);
    for _ in 0..5 {
        anchor(&second, truth() + YEAR);
        anchor(&second, truth() + DAY);
    }
    save(&second);
    anchor(&first, truth() + 2 * HOUR);
    save(&first);
    save(&second);
    assert_eq!((now(&first), now(&second)), (Some(truth() + 2 * HOUR), Some(truth() + 2 * HOUR)));
}

/// P15: turned back and right again, and only one of them has looked in between.
#[test]
fn what_one_process_has_noticed_is_true_for_those_that_did_not_look() {
    let (clock, first) = at(truth());
    let second = open(&clock);
    assert_eq!((now(&first), now(&second)), (Some(truth()), Some(truth())));
    let early = first.saving();
    clock.set_wall(truth() - DAY);
    assert_eq!(now(&second), None);
    clock.set_wall(truth());
    save(&second);
    assert_eq!(now(&first), Some(truth()), "it has not heard of it");
    let _ = first.save(early);
    assert_eq!(now(&first), None);
    assert_eq!(now(&open(&clock)), None, "nor does it take that back");
    anchor(&first, truth());
    save(&first);
    save(&second);
    assert_eq!((now(&second), now(&open(&clock))), (Some(truth()), Some(truth())));
}

#[test]
fn nobody_takes_back_what_another_one_saved_meanwhile() {
    let (clock, first) = at(truth());
    let second = open(&clock);
    let early = first.saving();
    clock.advance(DAY);
    save(&second);
    first.save(early);
    clock.reboot();
    clock.set_wall(truth());
    assert_eq!(now(&open(&clock)), None);
    assert_eq!(open(&clock).now(), (truth() + DAY).into());
}

#[test]
fn garbage_is_no_mark_and_a_newer_format_is_left_alone() {
    let (clock, time) = at(truth());
    anchor(&time, truth() + HOUR);
    save(&time);
    let good = String::from_utf8(clock.load_mark().unwrap()).unwrap();
    let with = |from: &str, to: &str| good.replacen(from, to, 1).into_bytes();
    for bad in [
        Vec::new(),
        b"null".to_vec(),
        b"\xff".to_vec(),
        good.as_bytes()[..good.len() / 2].to_vec(),
        with("\"mark\":", "\"mark\":\"now\",\"x\":"),
        with("\"contacts\":1", "\"contacts\":18446744073709551615"),
    ] {
        assert_ne!(bad, good.as_bytes());
        clock.save_mark(&bad);
        let time = open(&clock);
        assert_eq!(now(&time), Some(truth()), "{}", String::from_utf8_lossy(&bad));
        anchor(&time, truth() + HOUR);
        save(&time);
        assert_eq!(now(&open(&clock)), Some(truth() + HOUR));
    }
    let newer = with("\"format\":1", "\"format\":2");
    clock.save_mark(&newer);
    let time = open(&clock);
    assert_eq!(now(&time), Some(truth()));
    anchor(&time, truth() + HOUR);
    save(&time);
    assert_eq!(clock.load_mark(), Some(newer));
}

/// Whatever numbers somebody writes into the mark: time can be read, and the next anchor heals it.
#[test]
fn a_mark_written_by_hand_does_not_outlive_the_next_anchor() {
    let extremes = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1];
    for mark in extremes {
        for offset in extremes {
            for boot in ["boot-0", "another"] {
                let (clock, _) = at(truth());
                let text = format!(
                    r#"{{"format":1,"boot":"{boot}","offset":{offset},"wall_offset":{offset},"mark":{mark},"anchored":true,
                    "untrusted":true,"contacts":9007199254740990}}"#
                );
                clock.save_mark(text.as_bytes());
                let time = open(&clock);
                let _ = (now(&time), time.is_due(time.now()));
                time.at_least(truth(), time.now());
                time.contact();
                save(&time);
                anchor(&time, truth());
                save(&time);
                for time in [now(&time), now(&open(&clock))] {
                    let time = time.expect("trusted");
                    assert!(time >= truth() - NOISE && time <= truth() + NOISE, "{text}");
                }
            }
        }
    }
}

#[test]
fn the_mark_is_due_once_a_minute_and_at_once_when_the_clock_was_turned_back() {
    let (clock, time) = at(truth());
    let due = || time.is_due(time.now());
    assert!(due() && !due());
    clock.advance(59 * SEC);
    assert!(!due());
    clock.advance(SEC);
    assert!(due() && !due());
    clock.set_wall(truth() - DAY);
    assert!(due() && !due());
    anchor(&time, truth() - DAY);
    assert!(due() && !due(), "an anchor downwards does not put it off");
}

/// Clocks of a machine on which something happens just when its wall clock is read.
#[derive(Clone)]
struct Interrupted(ManualClock, Arc<Mutex<Option<Interruption>>>);

type Interruption = Box<dyn FnOnce(&ManualClock) + Send>;

impl Clock for Interrupted {
    fn now(&self) -> SystemTime {
        let interruption = self.1.lock().expect("nobody has panicked").take();
        if let Some(interruption) = interruption {
            interruption(&self.0);
        }
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn load_mark(&self) -> Option<Vec<u8>> {
        self.0.load_mark()
    }

    fn save_mark(&self, mark: &[u8]) {
        self.0.save_mark(mark);
    }
}

fn interrupted(wall: SystemTime) -> (Interrupted, Arc<Timekeeper>) {
    let clock = Interrupted(ManualClock::new(wall), Arc::default());
    (clock.clone(), Arc::new(Timekeeper::open(Arc::new(clock))))
}

/// What the wall clock said before comes too late.
#[test]
fn a_reading_never_overrides_an_anchor() {
    let (clock, time) = interrupted(truth() + 10 * YEAR);
    let other = time.clone();
    *clock.1.lock().unwrap() = Some(Box::new(move |_| anchor(&other, truth())));
    assert_eq!(now(&time), Some(truth()));
    assert_eq!(now(&time), Some(truth()));
}

/// A machine that falls asleep between the readings of its two clocks.
#[test]
fn sleep_between_two_readings_is_no_difference_between_clocks() {
    let asleep = || -> Option<Interruption> { Some(Box::new(|clock| clock.advance(8 * HOUR))) };
    let (clock, time) = interrupted(truth());
    for day in 1..4 {
        *clock.1.lock().unwrap() = asleep();
        assert_eq!(now(&time), Some(truth() + day * 8 * HOUR));
        assert_eq!(now(&time), Some(truth() + day * 8 * HOUR));
    }
    let (clock, time) = interrupted(truth() - DAY);
    anchor(&time, truth());
    *clock.1.lock().unwrap() = asleep();
    save(&time); // the wall clock is a day behind, however long that takes
    assert_eq!(now(&Timekeeper::open(Arc::new(clock))), Some(truth() + 8 * HOUR));
}

/// A moment is a moment, whatever a clock that was wrong called by the same name.
#[test]
fn what_is_written_down_after_an_anchor_is_not_taken_for_a_guess() {
    let (clock, time) = at(truth() + HOUR);
    let guess = time.stamp(Duration::ZERO);
    clock.advance(SEC);
    anchor(&time, truth() + SEC);
    assert_eq!(time.corrected(guess, &Correction::NONE), truth().into());
    clock.advance(HOUR - SEC);
    let stamp = time.stamp(Duration::ZERO);
    assert_eq!(stamp, guess);
    assert_eq!(time.corrected(stamp, &Correction::NONE), stamp);
}

// ===== anything that can happen =====

#[derive(Clone, Debug)]
enum Event {
    /// Both clocks go on, with or without a look every half minute.
    Pass { secs: u32, asked: bool },
    /// The user sets the wall clock, relative to what it says.
    Turn(i64),
    /// The process ends well, or is killed, and begins anew.
    Restart { closed: bool },
    /// The same for the machine, which is off for a while.
    Reboot { closed: bool, secs: u32 },
    /// A token response, with the true date or without one.
    Contact { dated: bool },
}

fn event() -> impl Strategy<Value = Event> {
    let turn = prop_oneof![-300i64..300, -100_000i64..100_000, Just(-315_360_000i64), Just(315_360_000i64)];
    prop_oneof![
        4 => (0u32..20_000, any::<bool>()).prop_map(|(secs, asked)| Event::Pass { secs, asked }),
        4 => turn.prop_map(Event::Turn),
        2 => any::<bool>().prop_map(|closed| Event::Restart { closed }),
        2 => (any::<bool>(), 0u32..20_000).prop_map(|(closed, secs)| Event::Reboot { closed, secs }),
        1 => any::<bool>().prop_map(|dated| Event::Contact { dated }),
    ]
}

/// A machine, what is true about it, and a record of the last contact.
struct World {
    clock: ManualClock,
    time: Timekeeper,
    truth: SystemTime,
    last_contact: Stamp,
    /// Since the last contact: true time while the machine was on, less what nobody had written down when a process was
    /// killed and the machine was started anew.
    on: Duration,
    /// The same at the last save.
    saved: Duration,
    /// No restart of the machine since the last contact.
    unbroken: bool,
    /// The last contact was an anchor.
    anchored: bool,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::new(truth());
        let time = open(&clock);
        let mut world = Self {
            time,
            clock,
            truth: truth(),
            last_contact: Stamp(0),
            on: Duration::ZERO,
            saved: Duration::ZERO,
            unbroken: true,
            anchored: false,
        };
        world.contact(false);
        world
    }

    fn save(&mut self) {
        save(&self.time);
        self.saved = self.on;
    }

    /// As a gate does.
    fn ask(&mut self, window: Duration) -> bool {
        let now = self.time.now();
        if self.time.is_due(now) {
            self.save();
        }
        let trusted = self.time.is_trusted() && self.last_contact.since(now) <= SLACK;
        trusted && now.since(self.last_contact) <= window
    }

    fn contact(&mut self, dated: bool) {
        self.time.answered(dated.then_some(self.truth), self.time.monotonic());
        self.last_contact = self.time.stamp(Duration::ZERO);
        if self.time.has_news() {
            save(&self.time);
        }
        (self.on, self.saved, self.unbroken) = (Duration::ZERO, Duration::ZERO, true);
        self.anchored = dated;
        assert!(self.time.is_trusted(), "locked out after a contact");
        assert!(self.ask(Duration::ZERO), "the window is open");
        if dated {
            let now = self.time.now().system();
            let off = now.duration_since(self.truth).unwrap_or_else(|error| error.duration());
            assert!(off <= NOISE, "{off:?} off after an anchor");
        }
    }

    fn begin(&mut self) {
        self.time = open(&self.clock);
        self.time.seen(self.last_contact);
    }

    fn happen(&mut self, event: &Event, window: Duration) {
        match *event {
            Event::Pass { secs, asked } => {
                let step = if asked { 30 } else { secs.max(1) };
                for _ in 0..secs / step {
                    let time = Duration::from_secs(step.into());
                    self.clock.advance(time);
                    self.truth += time;
                    self.on += time;
                    self.check(window);
                }
            }
            Event::Turn(by) => {
                let by_abs = Duration::from_secs(by.unsigned_abs());
                let wall = self.clock.now();
                self.clock.set_wall(if by < 0 { wall - by_abs } else { wall + by_abs });
            }
            Event::Restart { closed } => {
                if closed {
                    self.save();
                }
                self.begin();
            }
            Event::Reboot { closed, secs } => {
                if closed {
                    self.save();
                }
                let off = Duration::from_secs(secs.into());
                self.truth += off;
                let wall = self.clock.now();
                self.clock.reboot();
                self.clock.set_wall(wall + off);
                (self.on, self.unbroken) = (self.saved, false);
                self.begin();
            }
            Event::Contact { dated } => self.contact(dated),
        }
        self.check(window);
    }

    /// P15. Nothing is gained but the time that the machine was off, and what a killed process had not written down.
    fn check(&mut self, window: Duration) {
        let permitted = self.ask(window);
        assert!(!permitted || self.on <= window, "on for {:?} since the last contact, and still permitted", self.on);
        if self.unbroken && self.anchored {
            assert_eq!(permitted, self.on <= window, "on for {:?}, anchored", self.on);
        }
    }
}

proptest! {
    /// P15.
    #[test]
    fn no_window_grows_and_nobody_is_locked_out(
        events in prop::collection::vec(event(), 1..40),
        window in prop_oneof![Just(300u64), Just(10_000), Just(40_000)],
    ) {
        let mut world = World::new();
        for event in &events {
            world.happen(event, Duration::from_secs(window));
        }
        world.happen(&Event::Contact { dated: true }, Duration::from_secs(window));
    }
}
