use super::*;
use crate::clock::ManualClock;
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
    time.anchor(date, time.monotonic());
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
    time.anchor(truth(), asked); // written when it was asked
    assert_eq!(now(&time), Some(truth() + 20 * SEC));
    time.anchor(truth() + 22 * SEC, asked); // written when it arrived, by a clock that is two seconds ahead
    assert_eq!(now(&time), Some(truth() + 20 * SEC));
    time.anchor(truth() + HOUR, asked);
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
    time.anchor(truth(), Duration::MAX); // asked in the future, by a clock that went back
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

/// Readers go on while others anchor: what the wall clock said before comes too late.
#[test]
fn a_reading_never_overrides_an_anchor() {
    for _ in 0..200 {
        let (_clock, time) = at(truth() + 10 * YEAR);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..50).for_each(|_| assert!(time.now() >= truth().into())));
            }
            scope.spawn(|| anchor(&time, truth()));
        });
        assert_eq!(now(&time), Some(truth()));
    }
}
