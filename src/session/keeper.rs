//! Holds a token set that could not be saved, with its lease and its open journal, until the save succeeds (P5).

use super::{
    commit::{Committed, From},
    cooldown,
    desk::{Desk, KeeperHandle, SaveNow, Settled},
    inner::{Edit, Inner},
    record::Record,
    tasks,
};
use crate::{
    error::{AuthError, ErrorKind},
    event::AuthEvent,
    state::Input,
    store::{SharedLease, StoreErrorKind},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// How long a keeper waits for a lease that it lost, in one attempt.
const LEASE_WAIT: Duration = Duration::from_secs(5);
/// The longest pause between attempts. The lease is renewed in each of them, and each is shorter than its term.
const PAUSE: Duration = Duration::from_secs(5);

impl Inner {
    /// Keeps `record`, which is published but not durable, and its lease if it is still held. `post` was taken in the
    /// same edit that published it: nobody can find the session without its keeper.
    pub(crate) fn keep(self: &Arc<Self>, post: Post, record: Record, lease: Option<SharedLease>) {
        let Ok(runtime) = tasks::runtime() else { return };
        self.event(AuthEvent::Unsaved { account: self.id.clone() });
        // Dropping every session does not lose what is not saved: the keeper holds on to it.
        tasks::spawn(&runtime, keep(self.clone(), post, record, lease));
    }

    /// Has everything saved that is not yet: an unsaved set is saved before anything is used. `Ok`: nothing is unsaved
    /// any more, and the lease that was kept is the caller's.
    pub(crate) async fn settle_unsaved(&self) -> Settled {
        let mut lease = None;
        // The oldest first: it has the lease, and hands it on.
        for KeeperHandle { number, ask } in self.edit(|edit| edit.desk.keepers.clone()) {
            let (reply, answer) = oneshot::channel();
            let heard = match ask.send(SaveNow { lease: lease.take(), reply }).await {
                Ok(()) => answer.await.ok(),
                Err(mpsc::error::SendError(unheard)) => {
                    lease = unheard.lease;
                    None
                }
            };
            match heard {
                Some(settled) => lease = settled?,
                // It has just ended, or its runtime did: then what it kept is lost, which is said once.
                None => {
                    let lost = |edit: &mut Edit<'_>| {
                        let before = edit.desk.keepers.len();
                        edit.desk.keepers.retain(|keeper| keeper.number != number);
                        edit.desk.keepers.len() < before
                    };
                    if self.edit(lost) {
                        let why = "tokens that were not saved yet are lost: their runtime has ended";
                        return Err(AuthError::new(ErrorKind::Unavailable, why));
                    }
                }
            }
        }
        Ok(lease)
    }
}

/// A keeper's place on the desk, and its ear.
pub(crate) struct Post {
    number: u64,
    asked: mpsc::Receiver<SaveNow>,
}

impl Post {
    pub(crate) fn take(desk: &mut Desk) -> Self {
        let (ask, asked) = mpsc::channel(1);
        desk.flights += 1;
        let number = desk.flights;
        desk.keepers.push(KeeperHandle { number, ask });
        Self { number, asked }
    }
}

async fn keep(inner: Arc<Inner>, post: Post, mut record: Record, mut lease: Option<SharedLease>) {
    let Post { number, mut asked } = post;
    for tries in 1u32.. {
        let pause = cooldown::backoff(tries).min(PAUSE);
        let mut asker = tokio::time::timeout(pause, asked.recv()).await.ok().flatten();
        if let Some(SaveNow { lease: handed, .. }) = &mut asker
            && lease.is_none()
        {
            lease = handed.take();
        }
        let done = attempt(&inner, &mut record, &mut lease).await;
        if done {
            asked.close();
            inner.edit(|edit| edit.desk.keepers.retain(|keeper| keeper.number != number));
        }
        if let Some(SaveNow { reply, .. }) = asker {
            let _ = reply.send(match done {
                true => Ok(lease.take()),
                false => Err(AuthError::new(ErrorKind::Unavailable, "the newest tokens cannot be saved yet")),
            });
        }
        if done {
            return;
        }
    }
}

/// One attempt; `true`: nothing is left to do.
async fn attempt(inner: &Arc<Inner>, record: &mut Record, lease: &mut Option<SharedLease>) -> bool {
    if let Some(held) = lease
        && inner.vault.renew(held).await.is_err_and(|error| error.kind() == StoreErrorKind::LeaseLost)
    {
        *lease = None;
    }
    match inner.commit(lease, record, From::Look, LEASE_WAIT).await {
        Committed::Unsaved => return false,
        Committed::Saved => saved(inner, record.epoch),
        Committed::Adopted(theirs) => {
            inner.adopt(&theirs, record.epoch);
            saved(inner, record.epoch);
        }
        Committed::SignedOut { found, mark } => {
            let minted = record.refresh_token.take();
            inner.signed_out(lease, found, mark, record.epoch, minted).await;
        }
    }
    true
}

fn saved(inner: &Inner, epoch: u64) {
    inner.edit(|edit| {
        if edit.snapshot().epoch == epoch {
            edit.input(Input::Saved);
            edit.event(AuthEvent::Saved { account: inner.id.clone() });
        }
    });
}

#[cfg(test)]
mod tests;
