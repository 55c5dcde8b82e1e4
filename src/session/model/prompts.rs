//! One prompt for all who wait, and none for whom it was not meant.
//!
//! | broken | seen by |
//! |---|---|
//! | `prompt` opens one though one is open; or though somebody was faster | `case_34_one_prompt…` |
//! | those who wait are woken before the step-up is published, or before the place is free | the same |
//! | a refusal is not remembered | `case_34_a_refusal…` |
//! | a new epoch leaves the old prompt on the desk | `case_34_no_answer…`: a prompt for epoch 2 in that of 4 |
//! | `Dialog` does not check its number | `case_34_a_prompt_that_is_closed…` |

use super::{
    super::{Ask, Prompted, SignOut, Step, Trail, snapshot::StepUps},
    scheduler::in_order,
    world::{World, check_all, expect, fault, pause, sign_in_tokens},
};
use crate::{
    denial::{Capability, DenyReason},
    error::BoxError,
    offline::{StepUp, gate_fn},
    session::Session,
};
use shuttle::future::{JoinHandle, spawn};
use std::{cell::Cell, future::pending, time::Duration};

const HOUR: Duration = Duration::from_secs(3600);

thread_local! {
    /// How often the user was asked.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

/// Takes their time, and then is there, or is not, or never answers: the first time, and every other.
struct User(Option<bool>, bool);

impl StepUp for User {
    async fn prompt(&self, _: Capability) -> Result<Duration, BoxError> {
        ASKED.set(ASKED.get() + 1);
        let there = if ASKED.get() == 1 { self.0 } else { Some(self.1) };
        let Some(there) = there else { return pending().await };
        pause().await;
        if there { Ok(HOUR) } else { Err("no".into()) }
    }
}

/// Somebody is signed in, and nobody leaves without a step-up.
fn signed_in(world: &mut World, user: User) -> Session {
    ASKED.set(0);
    let gate = gate_fn(|cx| cx.since_step_up().map(drop).ok_or_else(|| cx.deny(DenyReason::StepUpRequired)));
    let session = world.open_with(|builder| builder.gate(gate).step_up(user));
    in_order(|| shuttle::future::block_on(session.sign_in(sign_in_tokens(1)))).unwrap();
    session
}

fn ask() -> Ask {
    Ask { capability: Capability::READ, forward_stale: false }
}

/// A request on its way to the inner service, as the layer takes it; `leave`: it does not wait for the answer.
async fn request(session: Session, leave: bool) -> Result<(), Option<DenyReason>> {
    let mut prompted = false;
    for turns in 0.. {
        match session.step(&ask(), Trail { failed: None, prompted, last: turns >= 3 }) {
            Step::Go(_) => return Ok(()),
            Step::Refuse(error) => return Err(error.denial().map(|denial| denial.reason())),
            Step::Prompt(_) if leave => return Ok(()),
            Step::Prompt(answer) => prompted |= answer.await == Prompted::Answered,
            Step::Wait(landing) => drop(landing.await),
        }
    }
    Ok(())
}

fn leaves(session: &Session) -> JoinHandle<()> {
    let session = session.clone();
    spawn(async move {
        let _ = request(session, true).await;
    })
}

fn ends_as(session: &Session, expected: Result<(), DenyReason>) -> JoinHandle<()> {
    let session = session.clone();
    spawn(async move {
        let ended = request(session, false).await;
        if ended != expected.map_err(Some) {
            fault(format!("a request ended as {ended:?}"));
        }
    })
}

#[test]
fn case_34_one_prompt_for_all_who_wait() {
    check_all(2, |mut world| {
        let session = signed_in(&mut world, User(Some(true), true));
        world.all(vec![leaves(&session), ends_as(&session, Ok(())), ends_as(&session, Ok(()))]);
        expect(ASKED.get() == 1, "the user was not asked once");
        world.end();
    });
}

#[test]
fn case_34_a_refusal_is_shared_and_remembered() {
    check_all(2, |mut world| {
        let session = signed_in(&mut world, User(Some(false), false));
        let refused = Err(DenyReason::StepUpRequired);
        world.all(vec![ends_as(&session, refused), ends_as(&session, refused)]);
        expect(ASKED.get() == 1, "the user was not asked once");
        world.end();
    });
}

/// The application is faster than the user, or is not.
#[test]
fn case_34_a_step_up_of_the_application_wakes_all_who_wait() {
    check_all(2, |mut world| {
        let session = signed_in(&mut world, User(Some(false), false));
        let application = session.clone();
        let steps_up = spawn(async move {
            application.step_up(HOUR);
            expect(request(application, false).await.is_ok(), "it has stepped up");
        });
        let asks = spawn(async move {
            let ended = request(session, false).await;
            expect(matches!(ended, Ok(()) | Err(Some(DenyReason::StepUpRequired))), "it ended in another way");
        });
        world.all(vec![steps_up, asks]);
        expect(ASKED.get() <= 1, "the user was asked twice");
        world.end();
    });
}

#[test]
fn p13_a_sign_out_closes_the_prompt_and_wakes_all_who_wait() {
    check_all(2, |mut world| {
        let session = signed_in(&mut world, User(Some(true), true));
        let out = session.clone();
        let leaves = spawn(async move { drop(out.sign_out(SignOut::Soft).await) });
        let asks = spawn(async move {
            let ended = request(session, false).await;
            expect(matches!(ended, Ok(()) | Err(Some(DenyReason::SignedOut))), "it ended in another way");
        });
        world.all(vec![leaves, asks]);
        world.end();
    });
}

/// The user is asked; somebody else signs in meanwhile, and is asked too.
fn signs_in_meanwhile(mut world: World, first: Option<bool>, second: bool) {
    let session = signed_in(&mut world, User(first, second));
    in_order(|| drop(session.step(&ask(), Trail::default()))); // and nobody waits for the answer
    let again = session.clone();
    let signs_in = spawn(async move {
        let _ = again.sign_in(sign_in_tokens(2)).await;
        let ended = request(again, false).await;
        let expected = if second { Ok(()) } else { Err(Some(DenyReason::StepUpRequired)) };
        expect(ended == expected, "it was told what the first one was asked");
    });
    world.all(vec![signs_in]);
    expect(ASKED.get() == 2, "the new user was not asked");
    world.end_as(|| {
        let stepped_up = session.0.glance(|_, snapshot, _| snapshot.step_ups != StepUps::default());
        expect(stepped_up == Some(second), "an answer counts for somebody else");
    });
}

#[test]
fn case_34_no_answer_counts_for_another_sign_in() {
    check_all(2, |world| signs_in_meanwhile(world, Some(true), false));
}

#[test]
fn case_34_a_prompt_that_is_closed_leaves_the_next_alone() {
    check_all(2, |world| signs_in_meanwhile(world, None, true));
}
