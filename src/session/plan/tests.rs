//! Every row of SEMANTICS §3, steps 2, 2b, 3 and 6, and of the epochs of §8.

use super::*;
use crate::{
    account::AccountId,
    session::record::{Journal, StoredKind},
    state::{LockCause, ReauthCause},
};
use proptest::prelude::*;

const SEC: Duration = Duration::from_secs(1);
const ME: &str = "me";
/// The flight's epoch, and the generation that it wants a successor of.
const EPOCH: u64 = 2;
const BASE: u64 = 7;

fn now() -> Stamp {
    Stamp::from(std::time::UNIX_EPOCH + 1_000_000 * SEC)
}

/// As the flight's process knows it: signed in, its access token `held` just spent.
fn record() -> Record {
    let mut record = Record::empty(&AccountId::new("alice"), "i", "c", EPOCH, Standing::SignedIn);
    record.generation = BASE;
    record.refresh_token = Some("r".into());
    record.access_token = Some("held".into());
    record.access_sent_at = Some(now().minus(100 * SEC));
    record.access_expires_at = Some(now());
    record
}

fn with(f: impl FnOnce(&mut Record)) -> Option<Record> {
    let mut record = record();
    f(&mut record);
    Some(record)
}

fn newer(record: &mut Record) {
    record.generation = BASE + 1;
    record.access_token = Some("theirs".into());
    record.access_expires_at = Some(now().plus(SEC));
}

/// A second ago, for `left` more; `told`: the server said so.
fn failed(left: Duration, told: bool) -> impl FnOnce(&mut Record) {
    move |record| {
        let (at, until) = (now().minus(SEC), now().plus(left));
        let told_until = told.then_some(until);
        record.failure = Some(Failure { kind: StoredKind::Transient, at, until, count: 1, told_until });
    }
}

fn journal(owner: &str, left: Duration) -> impl FnOnce(&mut Record) {
    let owner = owner.to_owned();
    move |record| record.journal = Some(Journal { owner, deadline: now().plus(left), attempts: 1 })
}

struct Case {
    found: Option<Record>,
    mark: u64,
    refused: bool,
    leases_expire: bool,
    forgiven: Option<Stamp>,
    self_starting: bool,
    waited_out: Option<Version>,
}

fn case(found: Option<Record>) -> Case {
    Case {
        found,
        mark: EPOCH,
        refused: false,
        leases_expire: false,
        forgiven: None,
        self_starting: false,
        waited_out: None,
    }
}

fn leased(found: Option<Record>) -> Case {
    Case { leases_expire: true, ..case(found) }
}

impl Case {
    fn run(self) -> String {
        let found = self.found.map(|record| Found { record: Box::new(record), version: 1.into() });
        let view = View { found: found.as_ref(), mark: self.mark, epoch: EPOCH, base: BASE };
        let held = AccessToken::new("held");
        let at = Circumstances {
            now: now(),
            held: Some(&held),
            refused: self.refused,
            owner: ME,
            leases_expire: self.leases_expire,
            forgiven: self.forgiven,
            term: 45 * SEC,
            waited_out: self.waited_out.as_ref(),
            self_starting: self.self_starting,
        };
        match plan(&view, &at) {
            Plan::SignedOut => "signed out".into(),
            Plan::Absent => "absent".into(),
            Plan::Verdict(_) => "verdict".into(),
            Plan::Adopt(record) => format!("adopt {}", record.generation),
            Plan::CoolingDown(_, left) => format!("cool down {}", left.as_secs()),
            Plan::AwaitJournal(left) => format!("wait {}", left.as_secs()),
            Plan::Exchange { record, doubt: Doubt::None } => format!("exchange {}", record.generation),
            Plan::Exchange { record, doubt: _ } => format!("exchange {} in doubt", record.generation),
            Plan::Start => "start".into(),
        }
    }
}

#[test]
fn step_2_epochs_come_first() {
    assert_eq!(Case { mark: EPOCH + 1, ..case(with(newer)) }.run(), "signed out");
    assert_eq!(Case { mark: EPOCH + 2, ..case(None) }.run(), "signed out");
    assert_eq!(case(with(|r| r.epoch = EPOCH + 2)).run(), "signed out");
    assert_eq!(case(with(|r| (r.epoch, r.standing) = (EPOCH + 1, Standing::SignedOut))).run(), "signed out");
    assert_eq!(Case { mark: 0, ..case(with(newer)) }.run(), "adopt 8");
    // A record below the mark counts as absent, whoever wrote it and whenever.
    for self_starting in [false, true] {
        let nothing = if self_starting { "start" } else { "absent" };
        assert_eq!(Case { self_starting, ..case(None) }.run(), nothing);
        assert_eq!(Case { self_starting, ..case(with(|r| r.epoch = EPOCH - 1)) }.run(), nothing);
    }
}

#[test]
fn step_2_a_recorded_verdict_comes_before_everything_else_in_the_record() {
    for standing in
        [Standing::ReauthRequired(ReauthCause::Revoked), Standing::Locked(LockCause::Application), Standing::SignedOut]
    {
        let found = with(|r| {
            newer(r);
            failed(60 * SEC, true)(r);
            r.standing = standing;
        });
        assert_eq!(leased(found).run(), "verdict");
    }
}

#[test]
fn step_2_newer_and_fresh_is_adopted_newer_and_spent_is_exchanged() {
    assert_eq!(case(with(newer)).run(), "adopt 8");
    assert_eq!(case(with(|r| (newer(r), r.access_expires_at = Some(now())).0)).run(), "exchange 8");
    assert_eq!(case(with(|r| (newer(r), r.access_expires_at = None).0)).run(), "adopt 8"); // unknown expiry is fresh
    assert_eq!(case(with(|r| (newer(r), r.access_token = None).0)).run(), "exchange 8"); // they keep it to themselves
    // Older, or the very set that is held, is what the flight wants a successor of.
    assert_eq!(case(with(|_| ())).run(), "exchange 7");
    assert_eq!(case(with(|r| r.access_expires_at = Some(now().plus(SEC)))).run(), "exchange 7");
    assert_eq!(case(with(|r| (newer(r), r.generation = BASE - 1).0)).run(), "exchange 6");
    // The same generation with other bytes is somebody else's set: the store is the truth.
    assert_eq!(case(with(|r| (newer(r), r.generation = BASE).0)).run(), "adopt 7");
    // A newer generation with the very token that a server refused does not help.
    let same_bytes = with(|r| (newer(r), r.access_token = Some("held".into())).0);
    assert_eq!(Case { refused: true, ..case(same_bytes.clone()) }.run(), "exchange 8");
    assert_eq!(case(same_bytes).run(), "adopt 8");
    // A remembered failure and a journal belong to the record's own refresh token, not to its access token.
    assert_eq!(leased(with(|r| (newer(r), failed(SEC, true)(r), journal("other", SEC)(r)).0)).run(), "adopt 8");
}

#[test]
fn step_2b_a_remembered_failure_is_everybodys() {
    assert_eq!(case(with(failed(60 * SEC, false))).run(), "cool down 60");
    assert_eq!(case(with(failed(Duration::ZERO, false))).run(), "exchange 7");
    // A pause that nobody can have asked for comes from a clock that was wrong.
    assert_eq!(case(with(failed(3600 * SEC, true))).run(), "cool down 3600");
    assert_eq!(case(with(failed(3601 * SEC, true))).run(), "exchange 7");
    // `reconnected()` ends what was written down before it, but not a server's `Retry-After`.
    let forgiven = Some(now());
    assert_eq!(Case { forgiven, ..case(with(failed(60 * SEC, false))) }.run(), "exchange 7");
    assert_eq!(Case { forgiven, ..case(with(failed(60 * SEC, true))) }.run(), "cool down 60");
    let lengthened = with(|r| {
        failed(60 * SEC, true)(r);
        r.failure.as_mut().unwrap().told_until = Some(now().plus(20 * SEC));
    });
    assert_eq!(case(lengthened.clone()).run(), "cool down 60");
    assert_eq!(Case { forgiven, ..case(lengthened) }.run(), "cool down 20");
    let forgiven = Some(now().minus(2 * SEC));
    assert_eq!(Case { forgiven, ..case(with(failed(60 * SEC, false))) }.run(), "cool down 60");
    // The network came back, by a clock that was an hour ahead.
    let forgiven = Some(now().plus(3600 * SEC));
    assert_eq!(Case { forgiven, ..case(with(failed(60 * SEC, false))) }.run(), "cool down 60");
    // It comes before the journal of another: nobody need wait for what is not to be tried.
    assert_eq!(leased(with(|r| (failed(SEC, false)(r), journal("other", SEC)(r)).0)).run(), "cool down 1");
}

#[test]
fn step_3_anothers_journal_is_waited_for_where_leases_expire() {
    assert_eq!(leased(with(journal("other", 30 * SEC))).run(), "wait 30");
    assert_eq!(leased(with(journal("other", 300 * SEC))).run(), "wait 45"); // no longer than a flight can take
    assert_eq!(leased(with(journal("other", Duration::ZERO))).run(), "exchange 7 in doubt");
    assert_eq!(leased(with(journal(ME, 30 * SEC))).run(), "exchange 7 in doubt");
    assert_eq!(case(with(journal("other", 30 * SEC))).run(), "exchange 7 in doubt"); // its holder is gone
    assert_eq!(leased(with(|r| r.doubt = Doubt::Inherited)).run(), "exchange 7 in doubt");
}

fn settled(found: Option<Record>, mark: u64) -> String {
    let mut mine = record();
    mine.generation = BASE + 1;
    mine.refresh_token = Some("mine".into());
    let found = found.map(|record| Found { record: Box::new(record), version: 1.into() });
    let view = View { found: found.as_ref(), mark, epoch: EPOCH, base: mine.generation };
    match settle(&view, &mine, ME) {
        Settle::SignedOut => "signed out".into(),
        Settle::Saved => "saved".into(),
        Settle::Adopt(theirs) => format!("adopt {}", theirs.generation),
        Settle::Save { doubt: false } => "save".into(),
        Settle::Save { doubt: true } => "save in doubt".into(),
    }
}

/// A clock that is a day fast wrote the deadline: it is waited out once, not for a day.
#[test]
fn step_3_a_journal_is_waited_out_once() {
    let bogus = || leased(with(journal("other", 86_400 * SEC)));
    assert_eq!(bogus().run(), "wait 45");
    assert_eq!(Case { waited_out: Some(1.into()), ..bogus() }.run(), "exchange 7 in doubt");
    assert_eq!(Case { waited_out: Some(2.into()), ..bogus() }.run(), "wait 45", "of another record");
}

#[test]
fn step_6_tokens_in_hand_after_a_conflict_or_a_lost_lease() {
    assert_eq!(settled(with(|_| ()), EPOCH + 1), "signed out");
    assert_eq!(settled(with(|r| r.epoch = EPOCH + 2), EPOCH), "signed out");
    assert_eq!(settled(with(|r| r.generation = BASE + 2), EPOCH), "adopt 9");
    assert_eq!(settled(with(|r| r.generation = BASE + 1), EPOCH), "adopt 8");
    let applied = |r: &mut Record| (r.generation, r.refresh_token) = (BASE + 1, Some("mine".into()));
    assert_eq!(settled(with(applied), EPOCH), "saved");
    assert_eq!(settled(with(|_| ()), EPOCH), "save");
    assert_eq!(settled(None, EPOCH), "save");
    // A sign-in that is not saved yet has raised the mark: what stands there is of an older epoch, and counts as absent.
    assert_eq!(settled(with(|r| (r.epoch, r.generation) = (EPOCH - 2, 99)), EPOCH), "save");
    // A 200 outranks any verdict; a verdict, another's journal and doubt leave a doubt.
    for cause in [ReauthCause::Revoked, ReauthCause::RotationLost, ReauthCause::Rejected] {
        assert_eq!(settled(with(|r| r.standing = Standing::ReauthRequired(cause)), EPOCH), "save in doubt");
    }
    assert_eq!(settled(with(journal("other", SEC)), EPOCH), "save in doubt");
    assert_eq!(settled(with(journal(ME, SEC)), EPOCH), "save");
    assert_eq!(settled(with(|r| r.doubt = Doubt::Inherited), EPOCH), "save in doubt");
}

#[test]
fn sign_outs_are_odd_and_sign_ins_even() {
    assert_eq!([0, 1, 2, 3].map(next_sign_out), [1, 1, 3, 3]); // at or above the newest
    assert_eq!([0, 1, 2, 3].map(next_sign_in), [2, 2, 4, 4]); // above it
    assert_eq!((next_sign_out(u64::MAX), next_sign_out(u64::MAX - 1)), (u64::MAX, u64::MAX));
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        3 => Just(Standing::SignedIn),
        1 => Just(Standing::ReauthRequired(ReauthCause::Revoked)),
        1 => Just(Standing::Locked(LockCause::Application)),
        1 => Just(Standing::SignedOut),
    ]
}

fn doubt() -> impl Strategy<Value = Doubt> {
    prop_oneof![Just(Doubt::None), Just(Doubt::Inherited), Just(Doubt::Own)]
}

prop_compose! {
    fn any_record()(
        (epoch, generation, standing, doubt) in (0..5u64, BASE - 1..BASE + 3, standing(), doubt()),
        access in prop::option::of((prop::bool::ANY, prop::option::of(-2..3i64))),
        failure in prop::option::of((0..5000u64, any::<bool>())),
        open in prop::option::of((any::<bool>(), 0..100u64)),
    ) -> Record {
        let mut record = record();
        (record.epoch, record.generation, record.standing, record.doubt) = (epoch, generation, standing, doubt);
        record.access_token = access.map(|(held, _)| if held { "held" } else { "theirs" }.into());
        record.access_expires_at = access.and_then(|(_, end)| end).map(|end| match end {
            0.. => now().plus(SEC * end as u32),
            _ => now().minus(SEC * end.unsigned_abs() as u32),
        });
        if let Some((left, said)) = failure {
            failed(SEC * left as u32, said)(&mut record);
        }
        if let Some((mine, left)) = open {
            journal(if mine { ME } else { "other" }, SEC * left as u32)(&mut record);
        }
        record
    }
}

proptest! {
    /// P7, P9, P13, in one sentence each.
    #[test]
    fn what_a_flight_does_is_always_allowed(
        found in prop::option::of(any_record()), mark in 0..5u64, refused: bool, leases_expire: bool,
        self_starting: bool, forgiven in prop::option::of(-2..2i64),
    ) {
        let record = found.clone();
        let forgiven = forgiven.map(|at| if at < 0 { now().minus(2 * SEC) } else { now() });
        let done = Case { found, mark, refused, leases_expire, forgiven, self_starting, waited_out: None }.run();
        let newest = mark.max(record.as_ref().map_or(0, |r| r.epoch));
        prop_assert_eq!(done == "signed out", newest > EPOCH);
        let live = record.filter(|r| r.epoch >= mark);
        if done.starts_with("exchange") || done.starts_with("adopt") {
            let r = live.as_ref().expect("only a live record is used");
            prop_assert_eq!(r.standing, Standing::SignedIn);
        }
        if done.starts_with("adopt") {
            let r = live.as_ref().unwrap();
            prop_assert!(r.generation >= BASE && r.access_expires_at.is_none_or(|end| end > now()));
        }
        if done.starts_with("exchange") {
            let r = live.as_ref().unwrap();
            prop_assert_eq!(done.ends_with("in doubt"), r.doubt != Doubt::None || r.journal.is_some());
            let busy = r.journal.as_ref().is_some_and(|j| j.owner != ME && j.deadline > now());
            prop_assert!(!(leases_expire && busy), "an open journal of somebody else is waited for");
            let told = r.failure.as_ref().and_then(|f| f.told_until).map_or(Duration::ZERO, |end| end.since(now()));
            prop_assert!(told.is_zero() || told > 3600 * SEC, "a `Retry-After` is honoured, unless nobody can have meant it");
        }
        if let Some(left) = done.strip_prefix("wait ") {
            prop_assert!(leases_expire && left.parse::<u64>().unwrap() <= 45);
        }
    }

    /// A received 200 is dropped only for a sign-out, or for a set at least as new.
    #[test]
    fn step_6_what_was_received_is_never_dropped_without_a_successor(
        found in prop::option::of(any_record()), mark in 0..=EPOCH,
    ) {
        let record = found.clone();
        let done = settled(found, mark);
        let successor = record.as_ref()
            .is_some_and(|r| r.epoch == EPOCH && r.generation > BASE);
        match done.as_str() {
            "signed out" => prop_assert!(record.unwrap().epoch > EPOCH),
            "save" | "save in doubt" => prop_assert!(!successor),
            _ => prop_assert!(successor),
        }
    }

    #[test]
    fn epochs_only_grow_and_tell_in_from_out(newest in 0..u64::MAX - 2) {
        let (out, into) = (next_sign_out(newest), next_sign_in(newest));
        prop_assert!(out % 2 == 1 && out >= newest && out <= newest + 1);
        prop_assert!(into % 2 == 0 && into > newest && into <= newest + 2);
        prop_assert!(next_sign_in(out) > out && next_sign_out(into) > into);
    }
}
