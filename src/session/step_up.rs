//! One prompt for all requests that wait for a step-up, in a task of its own (SEMANTICS §2).
//!
//! As with a flight, those who wait hold the end of a channel: they may leave, and the prompt stays. What it ended with
//! is seen by the gate, which is asked again.

use super::{
    acquire::Trail,
    desk::{Answer, Prompt, Prompted, Refusal, Work},
    inner::{Edit, Inner},
    snapshot::Snapshot,
    sync::WITHIN,
    tasks,
};
use crate::{
    clock::Stamp,
    denial::Capability,
    error::{AuthError, BoxError, ErrorKind},
    event::AuthEvent,
    offline,
};
use futures_util::{
    FutureExt as _,
    future::{Either, select},
};
use std::{convert::Infallible, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Who has not answered by then has refused.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a refusal counts.
const REFUSAL_COUNTS: Duration = Duration::from_secs(5);

impl Inner {
    /// Asks the user, or joins those who wait for the answer. `seen`: what the gate has judged. `Err`: the user is not
    /// asked; and why not, if there is more to say than the gate has said.
    pub(crate) fn prompt(
        self: &Arc<Self>,
        capability: &Capability,
        seen: &Snapshot,
        trail: Trail<'_>,
    ) -> Result<Answer, Option<AuthError>> {
        if self.config.step_up.is_none() {
            return Err(None);
        }
        if self.is_within(Work::Prompt) {
            let why = "the step-up prompt itself asked the session that waits for it";
            return Err(Some(AuthError::new(ErrorKind::Reentrant, why)));
        }
        let runtime = tasks::runtime().map_err(Some)?;
        let mono = self.monotonic();
        let (answer, dialog) = self.edit(|edit| {
            let refused = edit.desk.refusal.as_ref().filter(|refusal| trail.prompted || mono < refusal.until);
            let refused = refused.map(|refusal| refusal.error.clone());
            if trail.last || trail.prompted {
                return Err(refused);
            }
            let snapshot = edit.snapshot();
            // Somebody else was faster, between the gate's look and this one: it is asked again.
            if (snapshot.epoch, &snapshot.step_ups) != (seen.epoch, &seen.step_ups) {
                let (tx, answer) = channel();
                let _ = tx.send(Prompted::Overtaken);
                return Ok((answer, None));
            }
            if let Some(prompt) = &edit.desk.prompt {
                return Ok((prompt.answer.clone(), None));
            }
            if refused.is_some() {
                return Err(refused);
            }
            edit.desk.prompts += 1;
            let number = edit.desk.prompts;
            let ((tx, answer), (_open, closed)) = (channel(), oneshot::channel());
            edit.desk.prompt = Some(Prompt { number, epoch: snapshot.epoch, answer: answer.clone(), tx, _open });
            let dialog = Dialog { inner: self.clone(), number, capability: capability.clone(), ended: None };
            Ok((answer, Some((dialog, closed))))
        })?;
        if let Some((dialog, closed)) = dialog {
            // Not under the lock: a runtime that is shutting down drops the task, and with it the dialog, at once.
            let within = WITHIN.try_with(Arc::clone).unwrap_or_default();
            tasks::spawn(&runtime, WITHIN.scope(within, ask(dialog, closed)));
        }
        Ok(answer)
    }

    /// The application has asked by itself: whoever waits for a prompt goes on.
    pub(crate) fn step_up(&self, valid_for: Duration) {
        let at = self.config.time.stamp(Duration::ZERO);
        // A prompt that does so itself has still to answer.
        let is_prompt = self.is_within(Work::Prompt);
        let waiting = self.edit(|edit| {
            if valid_for.is_zero() || offline::standing(&edit.snapshot().state).is_some() {
                return None; // nobody is there, and whoever comes next has not stepped up
            }
            edit.step_up(at, valid_for, None);
            edit.desk.prompt.take_if(|_| !is_prompt)
        });
        if let Some(prompt) = waiting {
            let _ = prompt.tx.send(Prompted::Answered);
        }
    }
}

impl Edit<'_> {
    fn step_up(&mut self, at: Stamp, valid_for: Duration, capability: Option<Capability>) {
        self.amend(|snapshot| snapshot.step_ups.add(at, valid_for));
        self.desk.refusal = None;
        let account = self.account();
        self.event(AuthEvent::SteppedUp { account, capability, valid_for });
    }
}

fn channel() -> (oneshot::Sender<Prompted>, Answer) {
    let (tx, rx) = oneshot::channel();
    let answer: fn(Result<Prompted, _>) -> _ = |received| received.unwrap_or(Prompted::Answered);
    (tx, rx.map(answer).shared())
}

/// An open prompt's place on the desk. Dropped, however the prompt ends: tells how, frees the place, then wakes those who
/// wait.
struct Dialog {
    inner: Arc<Inner>,
    number: u64,
    capability: Capability,
    /// `None`: it ended without an answer, with its runtime say.
    ended: Option<Ended>,
}

enum Ended {
    SteppedUp { at: Stamp, valid_for: Duration },
    Refused(Refusal),
}

impl Drop for Dialog {
    fn drop(&mut self) {
        let (ended, capability) = (self.ended.take(), self.capability.clone());
        let prompt = self.inner.edit(|edit| {
            // None if its epoch has ended, or if the application was faster: then the answer counts for nothing.
            let prompt = edit.desk.prompt.take_if(|prompt| prompt.number == self.number)?;
            match ended {
                Some(Ended::SteppedUp { at, valid_for }) => edit.step_up(at, valid_for, Some(capability)),
                Some(Ended::Refused(refusal)) => {
                    edit.desk.refusal = Some(refusal);
                    edit.event(AuthEvent::StepUpRefused { account: self.inner.id.clone(), capability });
                }
                None => {}
            }
            Some(prompt)
        });
        if let Some(prompt) = prompt {
            let _ = prompt.tx.send(Prompted::Answered);
        }
    }
}

async fn ask(dialog: Dialog, closed: oneshot::Receiver<Infallible>) {
    let mut dialog = dialog; // goes last: a prompt that has timed out is gone when it frees its place
    let inner = dialog.inner.clone();
    let capability = dialog.capability.clone();
    let prompt = async {
        // One that was closed may have to be taken off the screen yet.
        let _shown = inner.screen.lock().await;
        match &inner.config.step_up {
            Some(step_up) => step_up.prompt(capability).await,
            None => Err("there is no prompt".into()),
        }
    };
    let prompt = AssertUnwindSafe(inner.within(Work::Prompt, prompt)).catch_unwind();
    let prompt = pin!(tokio::time::timeout(PATIENCE, prompt));
    let answer = match select(prompt, closed).await {
        Either::Left((Ok(Ok(answer)), _)) => answer,
        Either::Left((Ok(Err(_panic)), _)) => Err("the step-up prompt panicked".into()),
        Either::Left((Err(_elapsed), _)) => Err("nobody answered the step-up prompt in time".into()),
        Either::Right(_) => return,
    };
    dialog.ended = Some(match answer {
        Ok(Duration::ZERO) => refused(&inner, "the step-up prompt's answer counts for no time".into()),
        Ok(valid_for) => Ended::SteppedUp { at: inner.config.time.stamp(Duration::ZERO), valid_for },
        Err(error) => refused(&inner, error),
    });
}

fn refused(inner: &Inner, error: BoxError) -> Ended {
    let error = AuthError::new(ErrorKind::Denied, "the step-up was refused, or failed").caused_by(error);
    Ended::Refused(Refusal { until: inner.monotonic().saturating_add(REFUSAL_COUNTS), error })
}
