//! Prompts that use the session they are a prompt of, and services that let one through at a time (P11).

use super::*;
use std::sync::{Arc, Mutex, OnceLock};
use tower::{Layer, Service as _, ServiceExt as _, buffer::Buffer, limit::ConcurrencyLimit};
use tower_reauth::{BoxError, Session, StepUp};

/// A prompt that asks a server first, through the service that waits for the prompt.
#[derive(Clone, Default)]
struct Curious {
    api: Arc<OnceLock<Api>>,
    asks: &'static str,
    session: Arc<OnceLock<Session>>,
    told: Arc<Mutex<Vec<Result<StatusCode, DenyReason>>>>,
    why: Arc<Mutex<String>>,
    fails: bool,
}

impl StepUp for Curious {
    async fn prompt(&self, _: Capability) -> Result<Duration, BoxError> {
        let sent = send(self.api.get().unwrap(), wanting(self.asks)).await;
        let sent = sent.map_err(|error| {
            *self.why.lock().unwrap() = sources(&error);
            error.denial().expect("a denial").reason()
        });
        self.told.lock().unwrap().push(sent);
        if let Some(session) = self.session.get() {
            session.step_up(HOUR);
            tokio::time::sleep(SEC).await; // it has its say yet
        }
        self.told.lock().unwrap().push(Ok(StatusCode::ACCEPTED));
        if self.fails { Err("after all".into()) } else { Ok(HOUR) }
    }
}

#[tokio::test(start_paused = true)]
async fn p11_a_request_of_the_prompt_itself_is_denied_and_does_not_wait_for_it() {
    for buffered in [false, true] {
        let curious = Curious { asks: "notes", ..Curious::default() };
        let rig = Rig::with(|builder| builder.gate(unlocked()).step_up(curious.clone())).await;
        let api = match buffered {
            true => boxed(Buffer::new(rig.api.clone(), 8)), // whose worker is another task
            false => rig.api.clone(),
        };
        let _ = curious.api.set(api.clone());
        let request = send(&api, wanting("notes"));
        let sent = tokio::time::timeout(60 * SEC, request).await.expect("it waits for itself");
        assert_eq!(sent.unwrap(), StatusCode::OK);
        let told_prompt = curious.told.lock().unwrap().clone();
        assert_eq!(told_prompt, [Err(DenyReason::StepUpRequired), Ok(StatusCode::ACCEPTED)], "{buffered}");
        assert_eq!(told(&rig), (1, 1, 0));
        assert!(curious.why.lock().unwrap().contains("prompt itself"));
    }
}

#[tokio::test(start_paused = true)]
async fn p11_a_prompt_may_ask_what_needs_no_step_up_one_at_a_time() {
    let curious = Curious { asks: "read", ..Curious::default() };
    let rig = Rig::with(|builder| builder.gate(unlocked()).step_up(curious.clone())).await;
    let limit = ConcurrencyLimit::new(api(&rig.issuer, &rig.seen), 1);
    let api = boxed(layer(&rig.session).layer(limit));
    let _ = curious.api.set(api.clone());
    let both = [send(&api, wanting("notes")), send(&api, wanting("approve"))];
    let sent = tokio::time::timeout(60 * SEC, futures_util::future::join_all(both)).await.expect("it hangs");
    assert!(sent.into_iter().all(|sent| sent.unwrap() == StatusCode::OK));
    assert_eq!((rig.seen.len(), curious.told.lock().unwrap().len()), (3, 2), "one prompt, which asked once");
}

async fn assert_free<S: tower::Service<Req> + Clone>(limit: &ConcurrencyLimit<S>) {
    let ready = tokio::time::timeout(SEC, limit.clone().ready_oneshot()).await;
    assert!(ready.expect("the permit is held").is_ok());
}

#[tokio::test(start_paused = true)]
async fn p11_no_permit_is_held_while_the_user_is_asked() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let limit = ConcurrencyLimit::new(api(&rig.issuer, &rig.seen), 1);
    let mut service = layer(&rig.session).layer(limit.clone());
    service.ready().await.unwrap();
    let mut request = task::spawn(service.call(wanting("notes")));
    assert_pending!(request.poll());
    pin.settle().await;
    assert_free(&limit).await;
    pin.answer(Ok(HOUR));
    assert_eq!(request.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn p11_nor_if_it_is_found_once_the_permit_is_there_that_the_user_has_to_be_asked() {
    let pin = Pin::default();
    let rig = rig(&pin).await;
    let limit = ConcurrencyLimit::new(api(&rig.issuer, &rig.seen), 1);
    rig.expire();
    rig.session.step_up(SEC);
    let (started, hold) = rig.hold();
    let mut request = task::spawn(behind(&rig.session, limit.clone()).oneshot(wanting("notes")));
    assert_pending!(request.poll(), "it waits for a token");
    started.notified().await;
    let permit = limit.clone().ready_oneshot().await.unwrap();
    hold.add_permits(1);
    rig.session.close().await.unwrap();
    assert_pending!(request.poll(), "it waits for the permit");
    rig.clock.advance(2 * SEC); // and the step-up is over
    drop(permit);
    assert_pending!(request.poll(), "it waits for a step-up");
    pin.settle().await;
    assert_eq!((pin.shown().len(), rig.seen.len()), (1, 0));
    assert_free(&limit).await;
    pin.answer(Ok(HOUR));
    assert_eq!(request.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn case_34_a_prompt_that_steps_up_by_itself_is_not_cut_off() {
    for fails in [false, true] {
        let curious = Curious { asks: "read", fails, ..Curious::default() };
        let rig = Rig::with(|builder| builder.gate(unlocked()).step_up(curious.clone())).await;
        let _ = curious.api.set(rig.api.clone());
        let _ = curious.session.set(rig.session.clone());
        assert_eq!(rig.send(wanting("notes")).await.unwrap(), StatusCode::OK);
        assert_eq!(curious.told.lock().unwrap().len(), 2, "it went on to its end");
    }
}
