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

/// A prompt that has the user sign in anew, as for a server that asks for it (RFC 9470).
#[derive(Clone, Default)]
struct Again {
    session: Arc<OnceLock<Session>>,
    issuer: Arc<OnceLock<Issuer>>,
    /// How often it was shown, and how often it came to its end.
    shown: Arc<Mutex<(u32, u32)>>,
    first_in_another_task: bool,
}

impl StepUp for Again {
    async fn prompt(&self, _: Capability) -> Result<Duration, BoxError> {
        let (session, tokens) = (self.session.get().unwrap().clone(), self.issuer.get().unwrap().sign_in());
        self.shown.lock().unwrap().0 += 1;
        let first = self.shown.lock().unwrap().0 == 1;
        match self.first_in_another_task && first {
            true => tokio::spawn(async move { session.sign_in(tokens).await }).await??,
            false => session.sign_in(tokens).await?,
        }
        tokio::time::sleep(SEC).await;
        self.shown.lock().unwrap().1 += 1;
        Ok(HOUR)
    }
}

#[tokio::test(start_paused = true)]
async fn case_34_a_prompt_that_signs_the_user_in_anew_stays_open_and_its_answer_counts() {
    for (first_in_another_task, shown) in [(false, (1, 1)), (true, (2, 1))] {
        let again = Again { first_in_another_task, ..Again::default() };
        let rig = Rig::with(|builder| builder.gate(unlocked()).step_up(again.clone())).await;
        let _ = again.session.set(rig.session.clone());
        let _ = again.issuer.set(rig.issuer.clone());
        let both = futures_util::future::join(rig.send(wanting("notes")), rig.send(wanting("approve"))).await;
        assert_eq!((both.0.unwrap(), both.1.unwrap()), (StatusCode::OK, StatusCode::OK));
        assert_eq!((*again.shown.lock().unwrap(), told(&rig)), (shown, (0, 1, 0)));
        assert_eq!(rig.send(wanting("notes")).await.unwrap(), StatusCode::OK);
    }
}

/// A sign-out that comes while the prompt signs in wins, and closes it (P13).
#[tokio::test(start_paused = true)]
async fn p13_a_sign_out_wins_over_the_sign_in_of_the_prompt_that_it_closes() {
    let again = Again::default();
    let rig = Rig::with(|builder| builder.gate(unlocked()).step_up(again.clone())).await;
    let _ = again.session.set(rig.session.clone());
    let _ = again.issuer.set(rig.issuer.clone());
    let request = waits(&rig, "notes");
    while again.shown.lock().unwrap().0 == 0 {
        tokio::task::yield_now().await;
    }
    rig.session.sign_out(tower_reauth::SignOut::Soft).await.unwrap();
    tokio::time::sleep(10 * SEC).await;
    assert!(request.is_woken());
    let reason = request.await.unwrap_err().denial().expect("a denial").reason();
    assert_eq!((reason, *again.shown.lock().unwrap()), (DenyReason::SignedOut, (1, 0)));
}

/// Takes long to close.
#[derive(Clone, Default)]
struct Slow {
    open: Arc<Mutex<Vec<&'static str>>>,
}

struct Closes(Slow);

impl Drop for Closes {
    fn drop(&mut self) {
        std::thread::sleep(100 * MILLI);
        self.0.open.lock().unwrap().push("closed");
    }
}

impl StepUp for Slow {
    async fn prompt(&self, _: Capability) -> Result<Duration, BoxError> {
        let first = self.open.lock().unwrap().is_empty();
        self.open.lock().unwrap().push("shown");
        let _closes = Closes(self.clone());
        if first {
            std::future::pending::<()>().await;
        }
        Ok(HOUR)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn case_34_the_next_dialog_is_shown_once_the_one_before_it_is_closed() {
    for signs_in in [false, true] {
        let slow = Slow::default();
        let rig = Arc::new(Rig::with(|builder| builder.gate(unlocked()).step_up(slow.clone())).await);
        let waiting = {
            let rig = rig.clone();
            tokio::spawn(async move { rig.send(wanting("notes")).await })
        };
        while slow.open.lock().unwrap().is_empty() {
            tokio::time::sleep(MILLI).await;
        }
        match signs_in {
            true => rig.session.sign_in(rig.issuer.sign_in()).await.unwrap(),
            false => {
                rig.session.step_up(HOUR);
                assert_refused(rig.send(wanting("never")).await, "never");
            }
        }
        assert_eq!(waiting.await.unwrap().unwrap(), StatusCode::OK);
        assert_eq!(slow.open.lock().unwrap()[..], ["shown", "closed", "shown", "closed"]);
    }
}

/// A prompt that asks through another session's layer.
#[derive(Clone, Default)]
struct Elsewhere {
    api: Arc<OnceLock<Api>>,
    told: Arc<Mutex<Vec<Result<StatusCode, ErrorKind>>>>,
}

impl StepUp for Elsewhere {
    async fn prompt(&self, _: Capability) -> Result<Duration, BoxError> {
        let sent = send(self.api.get().unwrap(), wanting("read")).await.map_err(|error| error.kind());
        self.told.lock().unwrap().push(sent);
        Ok(HOUR)
    }
}

/// The token endpoint of one session is reached through another one, whose prompt asks through the first.
#[tokio::test(start_paused = true)]
async fn p11_a_prompt_that_an_exchange_waits_for_does_not_wait_for_the_exchange() {
    let prompt = Elsewhere::default();
    let gateway = Rig::with(|builder| builder.gate(unlocked()).step_up(prompt.clone())).await;
    let through = {
        let api = gateway.api.clone();
        tower_reauth::refresh_fn(move |_| {
            let api = api.clone();
            async move {
                send(&api, wanting("notes")).await.map_err(tower_reauth::RefreshError::not_sent)?;
                Ok(tower_reauth::Tokens::new("b2"))
            }
        })
    };
    let session = Session::builder(through).clock(gateway.clock.clone()).open("bob").await.unwrap();
    session.sign_in(tower_reauth::Tokens::new("b1").with_refresh_token("s1").with_expires_in(SEC)).await.unwrap();
    gateway.clock.advance(2 * SEC);
    let _ = prompt.api.set(behind(&session, api(&gateway.issuer, &gateway.seen)));
    tokio::time::timeout(10 * SEC, session.refresh()).await.expect("it waits for itself").unwrap();
    assert_eq!((prompt.told.lock().unwrap()[..].to_vec(), gateway.seen.len()), (vec![Err(ErrorKind::Reentrant)], 1));
}
