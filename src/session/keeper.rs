//! Holds a token set that could not be saved, with its lease and its open journal, until the save succeeds (P5).

use super::{
    commit::{Committed, From},
    cooldown,
    desk::{KeeperHandle, Settled},
    inner::Inner,
    record::Record,
    tasks,
};
use crate::{
    error::{AuthError, ErrorKind},
    event::AuthEvent,
    state::Input,
    store::SharedLease,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// How long a keeper waits for a lease that it lost, in one attempt.
const LEASE_WAIT: Duration = Duration::from_secs(5);
/// The longest pause between attempts: the lease is renewed in each of them.
const PAUSE: Duration = Duration::from_secs(15);

impl Inner {
    /// Keeps `record`, which is published but not durable, and its lease if it is still held.
    pub(crate) fn keep(self: &Arc<Self>, record: Record, lease: Option<SharedLease>) {
        let Ok(runtime) = tasks::runtime() else { return };
        let (ask, asked) = mpsc::channel(1);
        let number = self.edit(|edit| {
            edit.desk.flights += 1;
            let number = edit.desk.flights;
            edit.desk.keeper = Some(KeeperHandle { number, ask });
            edit.event(AuthEvent::Unsaved { account: self.id.clone() });
            number
        });
        // Dropping every session does not lose what is not saved: the keeper holds on to it.
        tasks::spawn(&runtime, keep(self.clone(), number, record, lease, asked));
    }

    /// Asks the keeper, if there is one, to save now. An unsaved set is saved before anything is used.
    pub(crate) async fn settle_unsaved(&self) -> Settled {
        let Some(KeeperHandle { ask, .. }) = self.edit(|edit| edit.desk.keeper.clone()) else { return Ok(None) };
        let (tx, rx) = oneshot::channel();
        if ask.send(tx).await.is_err() {
            return Ok(None); // it has just ended
        }
        rx.await.unwrap_or(Ok(None))
    }
}

async fn keep(
    inner: Arc<Inner>,
    number: u64,
    mut record: Record,
    mut lease: Option<SharedLease>,
    mut asked: mpsc::Receiver<oneshot::Sender<Settled>>,
) {
    let mut tries = 0u32;
    loop {
        let pause = cooldown::backoff(tries.saturating_add(1)).min(PAUSE);
        let asker = tokio::time::timeout(pause, asked.recv()).await.ok().flatten();
        tries = tries.saturating_add(1);
        let done = attempt(&inner, &mut record, &mut lease).await;
        if done {
            asked.close();
            inner.edit(|edit| edit.desk.keeper.take_if(|keeper| keeper.number == number));
        }
        if let Some(asker) = asker {
            let answer = match done {
                true => Ok(lease.take()),
                false => Err(AuthError::new(ErrorKind::Unavailable, "the newest tokens cannot be saved yet")),
            };
            let _ = asker.send(answer);
        }
        if done {
            return;
        }
    }
}

/// One attempt; `true`: nothing is left to do.
async fn attempt(inner: &Arc<Inner>, record: &mut Record, lease: &mut Option<SharedLease>) -> bool {
    if let Some(held) = lease
        && inner.vault.renew(held).await.is_err_and(|error| error.kind() == crate::store::StoreErrorKind::LeaseLost)
    {
        *lease = None;
    }
    match inner.commit(lease, record, From::Look, LEASE_WAIT).await {
        Committed::Unsaved => return false,
        Committed::Saved => inner.edit(|edit| {
            if edit.snapshot().epoch == record.epoch {
                edit.input(Input::Saved);
                edit.event(AuthEvent::Saved { account: inner.id.clone() });
            }
        }),
        Committed::Adopted(theirs) => {
            inner.adopt(&theirs);
            inner.edit(|edit| edit.input(Input::Saved));
        }
        Committed::SignedOut { found, mark } => {
            let minted = record.refresh_token.take();
            inner.signed_out(lease, found, mark, record.epoch, minted).await;
        }
    }
    true
}
