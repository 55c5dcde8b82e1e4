//! What holds in every order, or in very many.
//!
//! What was broken on purpose, and what saw it:
//!
//! | broken | seen by |
//! |---|---|
//! | a sign-out counts when its task starts | `p13_who_was_called_last_wins` |
//! | its epoch is chosen after it was counted | the same: a restart finds nobody signed in |
//! | arrivals are not counted; departures are not | the same |
//! | a tombstone is laid over a newer epoch | the same: a restart finds nobody signed in |
//! | an older epoch is published | `p13_a_sign_out_ends…`: the snapshot went back |
//! | a new epoch leaves the old flight in the slot | `p13_a_flight_of_an_older_epoch…` |
//! | `join` starts a flight though one flies | `p01_one_flight…` |
//! | `join` does not see that somebody was faster; `refuse` does not compare the token | `p03_a_late_401…` |
//! | the seat does not check its number | `p01_a_flight_that_has_landed…` |
//! | the waiters are woken before the set is published | `p01_one_flight…` |
//! | a set is published in one edit and landed in another | `p01_a_flight_that_has_landed…` |
//! | they are woken before the slot is free; it is never freed | `p01_a_failure…`, `p02_a_panic…` |
//! | the state stream is told outside the lock | nearly all |

use super::{
    super::{acquire::Reaction, flight::Want, sync},
    world::{Answer, Called, Passenger, World, check_all, check_many, expect, fault, sign_in_tokens},
};
use crate::{
    error::{AuthError, ErrorKind},
    session::{Session, SignOut},
};
use shuttle::future::{JoinHandle, spawn};
use std::sync::{Arc, Mutex};

/// Wants another token than the present one, and gets it.
fn gets_one(passenger: &Passenger) -> JoinHandle<()> {
    let (passenger, want) = (passenger.clone(), passenger.want());
    spawn(async move { expect(passenger.fly(want).await.is_ok(), "somebody got no token") })
}

/// Wants another token than the present one, and gets it, or learns of one of these.
fn gets_one_or(passenger: &Passenger, otherwise: &'static [ErrorKind]) -> JoinHandle<()> {
    let (passenger, want) = (passenger.clone(), passenger.want());
    spawn(async move {
        match passenger.fly(want).await {
            Err(error) if !otherwise.contains(&error.kind()) => fault(format!("somebody was told {error:?}")),
            _ => {}
        }
    })
}

// ===== one flight =====

#[test]
fn p01_one_flight_for_all_who_want_another_token() {
    check_all(2, |mut world| {
        let session = world.signed_in(1);
        world.spend_tokens();
        let passenger = world.passenger(&session);
        let leaver = (passenger.clone(), passenger.want());
        world.all(vec![
            gets_one(&passenger),
            gets_one(&passenger),
            spawn(async move { leaver.0.leave(leaver.1).await }),
        ]);
        expect(world.exchanges() == 1 && world.flights() == 1, "more than one flight");
        world.end();
    });
}

#[test]
fn p01_a_flight_that_has_landed_leaves_the_next_alone() {
    check_all(2, |mut world| {
        let session = world.signed_in(1);
        world.spend_tokens();
        let passenger = world.passenger(&session);
        let first = gets_one(&passenger);
        let twice = spawn(async move {
            for _ in 0..2 {
                let want = passenger.want(); // the second time, another one than the first has just got
                expect(passenger.fly(want).await.is_ok(), "somebody got no token");
            }
        });
        world.all(vec![first, twice]);
        expect(world.exchanges() == world.flights(), "not every flight made one exchange");
        world.end();
    });
}

#[test]
fn p03_a_late_401_starts_no_flight() {
    async fn refused(passenger: Passenger, want: Want, session: Session) {
        let Want::InsteadOf(Some(token)) = want else { return fault("no token") };
        for _ in 0..2 {
            match session.refused(token, "https://api.example.com") {
                Reaction::Replay => {}
                Reaction::Wait(landing) => {
                    expect(passenger.wait(want, landing).await.is_ok(), "no token");
                }
                Reaction::Deliver(error) => fault(format!("a 401 was delivered: {error:?}")),
            }
        }
    }
    check_all(2, |mut world| {
        let session = world.signed_in(1);
        let passenger = world.passenger(&session);
        let want = passenger.want();
        world.all(vec![
            spawn(refused(passenger.clone(), want, session.clone())),
            spawn(refused(passenger, want, session)),
        ]);
        expect(world.exchanges() == 1, "more than one exchange for one refused token");
        world.end();
    });
}

#[test]
fn p01_a_failure_is_shared() {
    check_all(2, |mut world| {
        let session = world.signed_in(1);
        world.spend_tokens();
        world.answer(Answer::Fails);
        let passenger = world.passenger(&session);
        let want = passenger.want();
        let fails = |passenger: Passenger| async move {
            let told = passenger.fly(want).await.map_err(|error| error.kind());
            expect(told == Err(ErrorKind::Unavailable), "somebody did not learn of the failure");
        };
        world.all(vec![spawn(fails(passenger.clone())), spawn(fails(passenger))]);
        expect(world.exchanges() == 1, "a failure was not remembered");
        world.end();
    });
}

#[test]
fn p02_a_panic_frees_the_slot_and_is_told() {
    check_all(2, |mut world| {
        let session = world.signed_in(1);
        world.spend_tokens();
        world.answer(Answer::Panics);
        let passenger = world.passenger(&session);
        world.all(vec![gets_one_or(&passenger, &[ErrorKind::Aborted]), gets_one_or(&passenger, &[ErrorKind::Aborted])]);
        expect(world.exchanges() == 1, "a panic was not remembered");
        world.end();
    });
}

#[test]
fn p02_nobody_waits_for_ever_for_a_runtime_that_ended() {
    check_all(2, |mut world| {
        let session = world.signed_in(1);
        world.spend_tokens();
        let passenger = world.passenger(&session);
        world.all(vec![
            gets_one_or(&passenger, &[ErrorKind::Aborted]),
            spawn(async { sync::end_runtime() }),
            gets_one_or(&passenger, &[ErrorKind::Aborted]),
        ]);
        sync::begin_runtime();
        // The next flight goes as well as it can: what the server answered last may have been lost.
        world.all(vec![gets_one_or(&passenger, &[ErrorKind::ReauthRequired])]);
        world.end();
    });
}

// ===== what is not saved =====

#[test]
fn p05_a_set_that_could_not_be_saved_is_kept_until_it_is() {
    check_all(1, |mut world| {
        let session = world.signed_in(1);
        world.spend_tokens();
        world.saves(&[true, false, false]); // the journal; the new set; its keeper's first attempt
        let passenger = world.passenger(&session);
        let closing = async move { drop(session.close().await) };
        world.all(vec![gets_one(&passenger), spawn(closing)]);
        expect(world.exchanges() == 1, "more than one exchange");
        world.end();
    });
}

// ===== epochs =====

/// Calls of sign-ins, by family, and of sign-outs.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

type Call = (Called, Option<u64>);

impl Calls {
    fn sign_in(&self, session: &Session, family: u64) -> JoinHandle<()> {
        let (calls, session) = (self.clone(), session.clone());
        spawn(async move {
            let (called, _) = Called::when(session.sign_in(sign_in_tokens(family))).await;
            calls.0.lock().unwrap().push((called, Some(family)));
        })
    }

    fn sign_out(&self, session: &Session, how: SignOut) -> JoinHandle<()> {
        let (calls, session) = (self.clone(), session.clone());
        spawn(async move {
            let (called, _) = Called::when(session.sign_out(how)).await;
            calls.0.lock().unwrap().push((called, None));
        })
    }

    /// Of a sign-in and a sign-out, whoever was called last has won; sign-ins among themselves are in the order of the
    /// lease. Calls that began at one time have no order.
    fn last_has_won(&self, session: &Session) {
        let calls = self.0.lock().unwrap();
        let overtaken = |(called, family): &Call| {
            calls.iter().any(|(other, theirs)| theirs.is_some() != family.is_some() && called.is_before(*other))
        };
        let mut last = calls.iter().filter(|call| !overtaken(call));
        let here = session.0.glance(|_, snapshot, _| {
            let token = snapshot.access.as_ref().filter(|_| !snapshot.is_dead());
            token.and_then(|access| access.token.expose()[1..].split_once('.')?.0.parse::<u64>().ok())
        });
        if !last.any(|(_, family)| Some(*family) == here) {
            fault(format!("{here:?} won of {calls:?}"));
        }
    }
}

#[test]
fn p13_a_sign_out_ends_what_is_in_the_air() {
    check_all(1, |mut world| {
        let session = world.signed_in(1);
        world.spend_tokens();
        let (passenger, calls) = (world.passenger(&session), Calls::default());
        world.all(vec![gets_one_or(&passenger, &[ErrorKind::SignedOut]), calls.sign_out(&session, SignOut::Soft)]);
        world.end_as(|| calls.last_has_won(&session));
    });
}

#[test]
fn p13_a_flight_of_an_older_epoch_touches_no_newer_one() {
    check_all(1, |mut world| {
        let session = world.signed_in(1);
        world.spend_tokens();
        let (passenger, calls) = (world.passenger(&session), Calls::default());
        world.all(vec![gets_one_or(&passenger, &[ErrorKind::SignedOut]), calls.sign_in(&session, 2)]);
        world.end_as(|| calls.last_has_won(&session));
    });
}

fn cross(mut world: World) {
    let session = world.signed_in(1);
    let calls = Calls::default();
    world.all(vec![calls.sign_out(&session, SignOut::Soft), calls.sign_in(&session, 2)]);
    world.end_as(|| calls.last_has_won(&session));
}

#[test]
fn p13_who_was_called_last_wins() {
    check_all(2, cross);
}

#[test]
fn p13_who_was_called_last_wins_though_the_store_cannot_be_told() {
    check_all(1, |world| {
        // Not the first sign-in's.
        let mut world = world;
        let session = world.signed_in(1);
        world.fail_marks(2);
        let calls = Calls::default();
        world.all(vec![calls.sign_out(&session, SignOut::Hard), calls.sign_in(&session, 2)]);
        world.end_as(|| calls.last_has_won(&session));
    });
}

// ===== all at once =====

#[test]
fn p13_sign_ins_and_sign_outs_in_very_many_orders() {
    check_many(|mut world| {
        let session = world.signed_in(1);
        world.spend_tokens();
        let (passenger, calls) = (world.passenger(&session), Calls::default());
        world.all(vec![
            gets_one_or(&passenger, &[ErrorKind::SignedOut]),
            calls.sign_in(&session, 2),
            calls.sign_out(&session, SignOut::Soft),
            calls.sign_in(&session, 3),
            calls.sign_out(&session, SignOut::Hard),
        ]);
        world.end_as(|| calls.last_has_won(&session));
    });
}

#[test]
fn p05_an_unsaved_set_in_very_many_orders() {
    check_many(|mut world| {
        let session = world.signed_in(1);
        world.spend_tokens();
        world.saves(&[true, false, false, true, false]);
        let (passenger, calls) = (world.passenger(&session), Calls::default());
        let refresh = session.clone();
        world.all(vec![
            gets_one_or(&passenger, &[ErrorKind::SignedOut, ErrorKind::Unavailable]),
            gets_one_or(&passenger, &[ErrorKind::SignedOut, ErrorKind::Unavailable]),
            spawn(async move { drop(refresh.refresh().await) }),
            calls.sign_out(&session, SignOut::Soft),
            calls.sign_in(&session, 2),
        ]);
        expect(world.reuses() == 0, "a refresh token was sent twice");
        world.end_as(|| calls.last_has_won(&session));
    });
}

#[test]
fn p07_two_processes_in_very_many_orders() {
    check_many(|mut world| {
        let here = world.signed_in(1);
        let there = world.open();
        world.spend_tokens();
        let passengers = [world.passenger(&here), world.passenger(&there)];
        let both = [ErrorKind::SignedOut, ErrorKind::Unavailable];
        let lenient: &'static [ErrorKind] = Box::leak(Box::new(both));
        let (out, again): (Session, Session) = (there.clone(), there);
        world.all(vec![
            gets_one_or(&passengers[0], lenient),
            gets_one_or(&passengers[1], lenient),
            spawn(async move { drop(out.sign_out(SignOut::Soft).await) }),
            spawn(async move { drop::<Result<(), AuthError>>(again.sign_in(sign_in_tokens(2)).await) }),
        ]);
        expect(world.reuses() == 0, "a refresh token was sent twice");
        world.end();
    });
}
