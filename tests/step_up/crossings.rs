//! What happens while the user is asked.

use super::*;
use tower_reauth::{LockCause, SignOut};

fn boxed<'a, T>(work: impl Future<Output = T> + Send + 'a) -> Pinned<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(work)
}

fn assert_denied(sent: Result<StatusCode, AuthError>, reason: DenyReason) {
    assert_eq!(sent.expect_err("it was let through").denial().expect("a denial").reason(), reason);
}

#[tokio::test(start_paused = true)]
async fn case_34_a_sign_out_or_a_lock_closes_the_dialog_and_its_answer_counts_for_nothing() {
    for lock in [false, true] {
        let pin = Pin::default();
        let rig = rig(&pin).await;
        let requests = [waits(&rig, "notes"), waits(&rig, "approve")];
        pin.settle().await;
        let (mut out, reason) = match lock {
            true => (task::spawn(boxed(rig.session.lock(LockCause::Application))), DenyReason::Locked),
            false => (task::spawn(boxed(rig.session.sign_out(SignOut::Soft))), DenyReason::SignedOut),
        };
        assert_pending!(out.poll());
        assert!(pin.answer(Ok(12 * HOUR)), "the dialog has not had its turn yet");
        out.await.unwrap();
        assert_eq!(pin.open(), 0);
        for request in requests {
            assert_denied(request.await, reason);
        }
        assert_eq!((told(&rig), rig.seen.len()), ((2, 0, 0), 0));

        rig.session.step_up(12 * HOUR); // nobody is there who could have
        rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
        let request = waits(&rig, "notes");
        pin.settle().await;
        assert_eq!((pin.shown().len(), told(&rig)), (2, (2, 0, 0)), "the new user is asked");
        pin.answer(Ok(HOUR));
        assert_eq!(request.await.unwrap(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn case_34_another_sign_in_is_asked_for_itself() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let mut request = waits(&rig, "notes");
    pin.settle().await;
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    assert!(!pin.answer(Ok(12 * HOUR)), "the dialog is closed");
    assert_pending!(request.poll(), "it asks anew");
    pin.settle().await;
    assert_eq!((pin.shown(), pin.open(), told(&rig)), (vec!["notes".into(), "notes".into()], 1, (0, 0, 0)));
    assert!(pin.answer(Ok(HOUR)));
    assert_eq!(request.await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn case_34_sign_ins_without_end_do_not_keep_a_request_for_ever() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let mut request = waits(&rig, "notes");
    for turn in 1..=3 {
        pin.settle().await;
        rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
        if turn < 3 {
            assert_pending!(request.poll());
        }
    }
    assert_refused(request.await, "notes");
    assert_eq!((pin.shown().len(), pin.open()), (3, 0));
    assert_eq!(told(&rig), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn case_34_the_application_steps_up_by_itself_and_all_go_on_at_once() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let requests = [waits(&rig, "notes"), waits(&rig, "approve")];
    pin.settle().await;
    rig.session.step_up(HOUR);
    for request in requests {
        assert_eq!(request.await.unwrap(), StatusCode::OK);
    }
    pin.settle().await;
    assert_eq!((pin.shown().len(), pin.open(), told(&rig)), (1, 0, (0, 1, 0)));
    assert!(rig.log.all().iter().any(|event| matches!(event, AuthEvent::SteppedUp { capability: None, .. })));
}

#[tokio::test(start_paused = true)]
async fn case_34_a_step_up_ends_a_refusal() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let request = waits(&rig, "notes");
    pin.settle().await;
    pin.answer(Err("not now"));
    assert_refused(request.await, "notes");
    rig.session.step_up(SEC);
    assert_eq!(rig.send(wanting("notes")).await.unwrap(), StatusCode::OK);
    rig.clock.advance(SEC + MILLI);
    let request = waits(&rig, "notes");
    pin.settle().await;
    assert_eq!(pin.shown().len(), 2, "within 5 s of the refusal, but there was a step-up since");
    pin.answer(Ok(HOUR));
    request.await.unwrap();
}

// ===== the token first, and the gate every time =====

#[tokio::test(start_paused = true)]
async fn case_34_the_token_comes_first_and_then_the_prompt() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    rig.expire();
    let (started, hold) = rig.hold();
    let mut request = waits(&rig, "notes");
    started.notified().await;
    pin.settle().await;
    assert_eq!(pin.shown().len(), 0, "it waits for its token");
    hold.add_permits(9);
    rig.session.close().await.unwrap();
    assert_pending!(request.poll());
    pin.settle().await;
    assert_eq!((pin.shown().len(), rig.issuer.exchanges()), (1, 1));
    // The user takes so long that the token has expired meanwhile.
    rig.expire();
    pin.answer(Ok(HOUR));
    assert_eq!(request.await.unwrap(), StatusCode::OK);
    assert_eq!((rig.issuer.exchanges(), pin.shown().len()), (2, 1));
    assert_eq!(rig.seen.all(), ["GET /jobs Bearer a1.2"]);
    assert_eq!(told(&rig), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn case_34_after_the_prompt_the_token_endpoint_is_asked_again() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    rig.expire();
    rig.fail();
    let mut request = waits(&rig, "notes");
    rig.session.close().await.unwrap();
    assert_pending!(request.poll(), "the network is down, and a spent token may do for some");
    pin.settle().await;
    assert_eq!((pin.shown().len(), rig.issuer.exchanges()), (1, 1));
    rig.clock.advance(3 * SEC);
    pin.answer(Ok(HOUR));
    assert_eq!(request.await.unwrap(), StatusCode::OK, "the user took their time, and the network is back");
    assert_eq!(rig.issuer.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn p14_the_gate_is_asked_after_the_prompt() {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    };
    let (pin, shut) = (Pin::default(), Arc::new(AtomicBool::new(false)));
    let gate = {
        let shut = shut.clone();
        tower_reauth::gate_fn(move |cx| match (shut.load(Relaxed), cx.since_step_up()) {
            (true, _) => Err(cx.deny(DenyReason::MissingGrant)),
            (false, None) => Err(cx.deny(DenyReason::StepUpRequired)),
            (false, Some(_)) => Ok(()),
        })
    };
    let rig = Rig::with(|builder| builder.gate(gate).step_up(pin.clone())).await;
    let request = waits(&rig, "notes");
    pin.settle().await;
    shut.store(true, Relaxed);
    pin.answer(Ok(HOUR));
    assert_denied(request.await, DenyReason::MissingGrant);
    assert_eq!((rig.seen.len(), told(&rig)), (0, (1, 1, 0)));
}

/// A request gets a 401 and, while its refresh is held, its step-up is over.
#[tokio::test(start_paused = true)]
async fn case_45_before_a_replay_nobody_is_prompted() {
    use tower::ServiceExt as _;
    let pin = Pin::default();
    let rig = rig(&pin).await;
    rig.issuer.expire_all();
    rig.session.step_up(MINUTE);
    let (started, hold) = rig.hold();
    let mut request = task::spawn(rig.api.clone().oneshot(wanting("notes")));
    assert_pending!(request.poll());
    started.notified().await;
    rig.clock.advance(MINUTE + SEC);
    hold.add_permits(1);
    let response = request.await.unwrap();
    assert_eq!((response.status(), rig.seen.len()), (StatusCode::UNAUTHORIZED, 1));
    assert_refused(Err(AuthError::in_response(&response).unwrap().clone()), "notes");
    pin.settle().await;
    assert_eq!((pin.shown().len(), told(&rig)), (0, (1, 1, 0)));
}

/// The task of a prompt ends with its runtime.
#[test]
fn case_08_a_runtime_that_ends_while_the_user_is_asked_leaves_nobody_waiting() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second, pin) = (runtime(), runtime(), Pin::default());
    let rig = first.block_on(rig(&pin));
    let mut request = first.block_on(async { Some(waits(&rig, "notes")) }).unwrap();
    first.block_on(pin.settle());
    assert_eq!(pin.open(), 1);
    drop(first);
    assert_eq!(pin.open(), 0);
    assert!(request.is_woken());
    second.block_on(async {
        let std::task::Poll::Ready(sent) = request.poll() else { panic!("it waits for a task that is gone") };
        assert_refused(sent, "notes");
        let request = waits(&rig, "notes");
        pin.settle().await;
        assert_eq!(pin.shown().len(), 2);
        pin.answer(Ok(HOUR));
        assert_eq!(request.await.unwrap(), StatusCode::OK);
    });
    assert_eq!(told(&rig), (1, 1, 0));
}

// ===== the clock =====

/// The clock was wrong when the user stepped up, and a server has told the time since.
#[tokio::test(start_paused = true)]
async fn p15_a_step_up_by_a_wrong_clock_opens_nothing_later_and_counts_as_long_as_it_was_to() {
    for (ahead, prompted) in [(true, false), (true, true), (false, false), (false, true)] {
        let pin = Pin::default();
        let rig = rig(&pin).await;
        let wall = if ahead { start() + HOUR } else { start() };
        rig.clock.set_wall(wall);
        rig.session.refresh().await.unwrap();
        match prompted {
            true => {
                let request = waits(&rig, "notes");
                pin.settle().await;
                pin.answer(Ok(2 * HOUR));
                request.await.unwrap();
            }
            false => rig.session.step_up(2 * HOUR),
        }
        assert!(rig.session.authorize("approve").is_ok());
        let right = if ahead { start() } else { start() + HOUR };
        rig.issuer.books().date = Some(right);
        rig.session.refresh().await.unwrap();
        let mut open = Vec::new();
        for minute in 0..=130 {
            if rig.session.authorize("approve").is_ok() {
                open.push(minute);
            }
            assert_eq!(rig.session.authorize("notes").is_ok(), minute <= 120, "{ahead} {minute}");
            rig.clock.advance(MINUTE);
        }
        assert_eq!(open, [0, 1, 2, 3, 4, 5], "{ahead} {prompted}");
    }
}

/// The record was removed, and nobody was told: the session is over without a new epoch.
#[tokio::test(start_paused = true)]
async fn case_34_a_session_whose_record_is_gone_closes_the_dialog_and_its_step_ups_are_over() {
    use tower_reauth::{AuthState, SessionStore as _};
    let pin = Pin::default();
    let rig = rig(&pin).await;
    rig.session.step_up(HOUR);
    let request = waits(&rig, "never");
    pin.settle().await;
    assert_eq!(pin.open(), 1);
    let key = rig.store.accounts().await.unwrap().pop().unwrap();
    let stored = rig.store.load(&key).await.unwrap().unwrap();
    let mut lease = rig.store.lease(&key, SEC).await.unwrap();
    rig.store.remove(&mut lease, Some(stored.version())).await.unwrap();
    drop(lease);
    rig.session.refresh().await.unwrap_err();
    assert!(matches!(rig.session.state(), AuthState::SignedOut(_)));
    pin.settle().await;
    assert_eq!(pin.open(), 0);
    assert_denied(request.await, DenyReason::SignedOut);
    assert_eq!((told(&rig), rig.seen.len()), ((1, 1, 0), 0));
    assert!(rig.session.with_gate_context("notes", |cx| cx.since_step_up().is_none()));
}
