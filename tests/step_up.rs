//! Step-up: one prompt for all who wait, time-boxed, refused, timed out (case 34).
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "step_up/crossings.rs"]
mod crossings;
#[path = "support/kit.rs"]
mod kit;
#[path = "support/pin.rs"]
mod pin;
#[path = "support/rig.rs"]
mod rig;
#[path = "step_up/within.rs"]
mod within;

use http::StatusCode;
use kit::*;
use pin::*;
use rig::*;
use std::{error::Error as _, pin::Pin as Pinned, time::Duration};
use tokio_test::{assert_pending, task};
use tower_reauth::{AuthError, AuthEvent, Capability, DenyReason, ErrorKind, Remedy};

type Sent<'a> = task::Spawn<Pinned<Box<dyn Future<Output = Result<StatusCode, AuthError>> + Send + 'a>>>;

const MILLI: Duration = Duration::from_millis(1);

async fn rig(pin: &Pin) -> Rig {
    Rig::with(|builder| builder.gate(unlocked()).step_up(pin.clone())).await
}

fn wanting(capability: &'static str) -> Req {
    let mut request = get("/jobs");
    request.extensions_mut().insert(Capability::new(capability));
    request
}

/// A request that has begun to wait.
fn waits<'a>(rig: &'a Rig, capability: &'static str) -> Sent<'a> {
    let mut request: Sent<'a> = task::spawn(Box::pin(rig.send(wanting(capability))));
    assert_pending!(request.poll());
    request
}

fn assert_refused(sent: Result<StatusCode, AuthError>, capability: &str) -> AuthError {
    let error = sent.expect_err("it was let through");
    let denial = error.denial().expect("a denial");
    assert_eq!((error.kind(), denial.reason()), (ErrorKind::Denied, DenyReason::StepUpRequired));
    assert_eq!((denial.capability().as_str(), denial.remedy()), (capability, Remedy::Unlock));
    error
}

/// How many requests were denied, step-ups counted and prompts refused.
fn told(rig: &Rig) -> (usize, usize, usize) {
    (
        rig.log.count(|event| matches!(event, AuthEvent::Denied { .. })),
        rig.log.count(|event| matches!(event, AuthEvent::SteppedUp { .. })),
        rig.log.count(|event| matches!(event, AuthEvent::StepUpRefused { .. })),
    )
}

fn sources(error: &AuthError) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!("{error}; ");
        source = error.source();
    }
    text
}

// ===== one prompt =====

#[tokio::test(start_paused = true)]
async fn case_34_ten_requests_wait_for_one_prompt_and_pass() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let names = ["notes", "approve", "write", "notes", "approve", "write", "notes", "approve", "write", "notes"];
    let mut requests: Vec<_> = names.into_iter().map(|capability| waits(&rig, capability)).collect();
    pin.settle().await;
    assert_eq!((pin.shown(), pin.open(), rig.seen.len()), (vec!["notes".into()], 1, 0));
    for request in &mut requests {
        assert!(!request.is_woken());
        assert_pending!(request.poll());
    }
    assert!(pin.answer(Ok(12 * HOUR)));
    for request in requests {
        assert_eq!(request.await.unwrap(), StatusCode::OK);
    }
    assert_eq!((pin.shown().len(), pin.open(), rig.seen.len()), (1, 0, 10));
    assert_eq!(told(&rig), (0, 1, 0));
    let valid_for = |event: &AuthEvent| match event {
        AuthEvent::SteppedUp { account, capability, valid_for, .. } => {
            Some((account.subject().to_owned(), capability.clone(), *valid_for))
        }
        _ => None,
    };
    let told: Vec<_> = rig.log.all().iter().filter_map(valid_for).collect();
    assert_eq!(told, [("alice".into(), Some(Capability::new("notes")), 12 * HOUR)]);
}

#[tokio::test(start_paused = true)]
async fn case_34_what_needs_no_step_up_passes_while_others_wait() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let waiting = waits(&rig, "notes");
    assert_eq!(rig.send(wanting("read")).await.unwrap(), StatusCode::OK);
    pin.settle().await;
    pin.answer(Ok(HOUR));
    assert_eq!(waiting.await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn case_34_it_expires_and_is_asked_for_again_and_its_last_moment_counts() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let request = waits(&rig, "notes");
    pin.settle().await;
    pin.answer(Ok(12 * HOUR));
    request.await.unwrap();
    rig.clock.advance(12 * HOUR - SEC);
    assert_eq!(rig.send(wanting("notes")).await.unwrap(), StatusCode::OK);
    rig.clock.advance(SEC);
    assert!(rig.session.authorize("notes").is_ok(), "a bound of 12 h holds at exactly 12 h");
    assert_eq!(rig.send(wanting("notes")).await.unwrap(), StatusCode::OK);
    rig.clock.advance(SEC);
    assert_eq!(rig.session.authorize("notes").unwrap_err().reason(), DenyReason::StepUpRequired);
    assert_eq!(pin.shown().len(), 1, "`authorize` does not ask the user");
    let request = waits(&rig, "notes");
    pin.settle().await;
    assert_eq!(pin.shown().len(), 2);
    pin.answer(Ok(HOUR));
    assert_eq!(request.await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn case_34_a_second_capability_with_a_shorter_window_asks_for_itself() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    rig.session.step_up(12 * HOUR);
    assert_eq!(rig.send(wanting("approve")).await.unwrap(), StatusCode::OK);
    rig.clock.advance(5 * MINUTE);
    assert_eq!(rig.send(wanting("approve")).await.unwrap(), StatusCode::OK);
    rig.clock.advance(SEC);
    assert_eq!(rig.send(wanting("notes")).await.unwrap(), StatusCode::OK);
    assert_eq!(pin.shown().len(), 0);
    let approve = waits(&rig, "approve");
    pin.settle().await;
    assert_eq!(pin.shown(), ["approve"]);
    assert_eq!(rig.send(wanting("notes")).await.unwrap(), StatusCode::OK, "the long one still counts");
    pin.answer(Ok(MINUTE));
    assert_eq!(approve.await.unwrap(), StatusCode::OK);
    rig.clock.advance(MINUTE + SEC);
    let age = rig.session.authorize("notes");
    assert!(age.is_ok(), "a short one does not end the long one before it");
    assert_eq!(
        rig.session.authorize("approve").unwrap_err().reason(),
        DenyReason::StepUpRequired,
        "nor lend it its age"
    );
}

#[tokio::test(start_paused = true)]
async fn case_34_each_step_up_has_its_own_end_and_the_newest_that_counts_is_seen() {
    let pin = Pin::default();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(None));
    let gate = {
        let seen = seen.clone();
        tower_reauth::gate_fn(move |cx| {
            *seen.lock().unwrap() = cx.since_step_up();
            Ok(())
        })
    };
    let rig = Rig::with(|builder| builder.gate(gate).step_up(pin.clone())).await;
    let age = || {
        rig.session.authorize("look").unwrap();
        seen.lock().unwrap().take().map(|age| age.as_secs() / 60)
    };
    assert_eq!(age(), None);
    rig.session.step_up(Duration::ZERO);
    assert_eq!(age(), None, "no time is no time");
    // (step up for so many minutes, then so many go by, then this is the age)
    let played = [
        (Some(600), 10, Some(10)),
        (Some(120), 10, Some(10)),
        (Some(5), 5, Some(5)),
        (None, 1, Some(16)),         // the 120 minutes count again
        (Some(200), 120, Some(120)), // and are over before these
        (None, 81, Some(227)),       // only the 600 are left
        (None, 373, Some(600)),
        (None, 1, None),
        (Some(1), 0, Some(0)),
    ];
    for (valid_for, pass, expected) in played {
        if let Some(minutes) = valid_for {
            rig.session.step_up(minutes * MINUTE);
        }
        rig.clock.advance(pass * MINUTE);
        assert_eq!(age(), expected, "{valid_for:?} {pass}");
    }
}

/// The application is unlocked before a server has told the time, by a clock that is an hour off.
#[tokio::test(start_paused = true)]
async fn p15_a_step_up_by_a_wrong_clock_is_as_old_as_it_is_once_a_server_has_told_the_time() {
    for fast in [false, true] {
        let rig = rig(&Pin::default()).await;
        rig.clock.set_wall(if fast { start() + HOUR } else { start() - MINUTE });
        rig.session.step_up(10 * MINUTE);
        rig.clock.advance(4 * MINUTE);
        let date = if fast { start() + 4 * MINUTE } else { start() + HOUR + 4 * MINUTE };
        rig.issuer.books().date = Some(date);
        rig.session.refresh().await.unwrap();
        assert!(rig.session.authorize("approve").is_ok(), "4 minutes are within 5: {fast}");
        rig.clock.advance(MINUTE + SEC);
        assert_eq!(rig.session.authorize("approve").unwrap_err().reason(), DenyReason::StepUpRequired);
        rig.clock.advance(5 * MINUTE - SEC);
        assert!(rig.session.authorize("notes").is_ok(), "its last moment: {fast}");
        rig.clock.advance(SEC);
        assert_eq!(rig.session.authorize("notes").unwrap_err().reason(), DenyReason::StepUpRequired);
    }
}

// ===== refused =====

#[tokio::test(start_paused = true)]
async fn case_34_refused_once_for_all_who_wait_and_for_five_seconds() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let capabilities =
        ["notes", "approve", "notes", "approve", "notes", "approve", "notes", "approve", "notes", "write"];
    let requests: Vec<_> = capabilities.into_iter().map(|capability| (capability, waits(&rig, capability))).collect();
    pin.settle().await;
    pin.answer(Err("cancelled by the user"));
    for (capability, request) in requests {
        let error = assert_refused(request.await, capability);
        assert!(sources(&error).contains("cancelled by the user"), "{error:?}");
        rig.assert_secretive(&error);
    }
    assert_eq!(told(&rig), (10, 0, 1));
    rig.clock.advance(5 * SEC - MILLI);
    let error = assert_refused(rig.send(wanting("write")).await, "write");
    assert!(sources(&error).contains("cancelled by the user"), "{error:?}");
    assert_eq!((pin.shown().len(), rig.seen.len(), told(&rig)), (1, 0, (11, 0, 1)));
    rig.clock.advance(MILLI);
    let request = waits(&rig, "notes");
    pin.settle().await;
    assert_eq!(pin.shown().len(), 2);
    pin.answer(Ok(HOUR));
    assert_eq!(request.await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn case_34_who_waits_is_not_prompted_for_again_however_late_it_goes_on() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let request = waits(&rig, "notes");
    pin.settle().await;
    pin.answer(Err("no"));
    pin.settle().await;
    rig.clock.advance(HOUR);
    let error = assert_refused(request.await, "notes");
    assert!(sources(&error).contains("no"), "{error:?}");
    assert_eq!(pin.shown().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn case_34_nobody_answers_for_two_minutes() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let (mut first, second) = (waits(&rig, "notes"), waits(&rig, "approve"));
    tokio::time::sleep(120 * SEC - MILLI).await;
    assert_eq!(pin.open(), 1);
    assert_pending!(first.poll());
    tokio::time::sleep(2 * MILLI).await;
    assert_eq!(pin.open(), 0, "the dialog is closed");
    let error = assert_refused(first.await, "notes");
    assert!(sources(&error).contains("in time"), "{error:?}");
    assert_refused(second.await, "approve");
    assert_refused(rig.send(wanting("notes")).await, "notes");
    assert!(!pin.answer(Ok(HOUR)), "too late");
    assert_eq!((pin.shown().len(), told(&rig)), (1, (3, 0, 1)));
    rig.clock.advance(5 * SEC);
    let request = waits(&rig, "notes");
    pin.settle().await;
    pin.answer(Ok(HOUR));
    assert_eq!(request.await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn case_34_a_prompt_that_panics_has_refused() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let requests = [waits(&rig, "notes"), waits(&rig, "notes")];
    pin.settle().await;
    pin.crash();
    for request in requests {
        let error = assert_refused(request.await, "notes");
        assert!(sources(&error).contains("panicked"), "{error:?}");
    }
    assert_eq!(told(&rig), (2, 0, 1));
    rig.clock.advance(5 * SEC);
    let request = waits(&rig, "notes");
    pin.settle().await;
    pin.answer(Ok(HOUR));
    assert_eq!(request.await.unwrap(), StatusCode::OK, "its place is free");
}

#[tokio::test(start_paused = true)]
async fn case_34_an_answer_that_does_not_help_is_asked_for_once() {
    let pin = Pin::default();
    // A gate that nothing satisfies.
    let never = tower_reauth::gate_fn(|cx| Err(cx.deny(DenyReason::StepUpRequired)));
    let rig = Rig::with(|builder| builder.gate(never).step_up(pin.clone())).await;
    let requests = [waits(&rig, "notes"), waits(&rig, "approve")];
    pin.settle().await;
    pin.answer(Ok(HOUR));
    for (request, capability) in requests.into_iter().zip(["notes", "approve"]) {
        assert_refused(request.await, capability);
    }
    pin.settle().await;
    assert_eq!((pin.shown().len(), pin.open(), told(&rig)), (1, 0, (2, 1, 0)));
}

#[tokio::test(start_paused = true)]
async fn case_34_an_answer_for_no_time_is_a_refusal() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let request = waits(&rig, "notes");
    pin.settle().await;
    pin.answer(Ok(Duration::ZERO));
    assert_refused(request.await, "notes");
    assert_refused(rig.send(wanting("notes")).await, "notes");
    assert_eq!((pin.shown().len(), told(&rig)), (1, (2, 0, 1)));
}

#[tokio::test(start_paused = true)]
async fn case_34_without_a_prompt_the_application_is_told() {
    let rig = Rig::with(|builder| builder.gate(unlocked())).await;
    assert!(assert_refused(rig.send(wanting("notes")).await, "notes").source().is_none());
    assert_eq!(told(&rig), (1, 0, 0));
    rig.session.step_up(HOUR);
    assert_eq!(rig.send(wanting("notes")).await.unwrap(), StatusCode::OK);
    assert_eq!(told(&rig), (1, 1, 0));
}

// ===== who leaves =====

#[tokio::test(start_paused = true)]
async fn case_34_the_first_who_leaves_does_not_close_the_dialog() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let (first, second) = (waits(&rig, "notes"), waits(&rig, "approve"));
    pin.settle().await;
    drop(first);
    pin.settle().await;
    assert_eq!(pin.open(), 1);
    assert!(pin.answer(Ok(HOUR)));
    assert_eq!(second.await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn case_34_nor_do_all_of_them_and_the_answer_counts() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    drop((waits(&rig, "notes"), waits(&rig, "approve")));
    pin.settle().await;
    assert_eq!(pin.open(), 1);
    let late = waits(&rig, "write");
    drop(late);
    assert!(pin.answer(Ok(HOUR)));
    pin.settle().await;
    assert_eq!(rig.send(wanting("notes")).await.unwrap(), StatusCode::OK);
    assert_eq!(pin.shown(), ["notes"]);
}

/// It was somebody else who refused.
#[tokio::test(start_paused = true)]
async fn case_34_a_refusal_does_not_count_for_another_sign_in() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let request = waits(&rig, "notes");
    pin.settle().await;
    pin.answer(Err("not me"));
    assert_refused(request.await, "notes");
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    let request = waits(&rig, "notes");
    pin.settle().await;
    assert_eq!(pin.shown().len(), 2);
    pin.answer(Ok(HOUR));
    assert_eq!(request.await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn case_34_nor_does_a_step_up_but_it_outlives_a_refresh() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    rig.session.step_up(12 * HOUR);
    rig.session.refresh().await.unwrap();
    assert!(rig.session.authorize("notes").is_ok());
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    assert_eq!(rig.session.authorize("notes").unwrap_err().reason(), DenyReason::StepUpRequired);
}
