//! [`StateWatch`]: the state, now and later.

use crate::state::AuthState;
use futures_core::Stream;
use std::{
    fmt,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::sync::watch::Receiver;

type Next = Pin<Box<dyn Future<Output = Option<Receiver<AuthState>>> + Send>>;

/// The state, now and later. Keeps no session alive. As a stream: the state now, then every change.
///
/// States that come faster than they are read are skipped; the newest is never missed. A [`Connectivity`] model is asked and
/// does not call: that the network went after the token had expired is told with the next request, or the next look at
/// [`Session::state`].
///
/// [`Connectivity`]: crate::Connectivity
/// [`Session::state`]: crate::Session::state
///
/// ```
/// # use tower_reauth::{AuthState, Session, Tokens, refresh_fn};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_reauth::AuthError> {
/// let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh")))).open("alice").await?;
/// let mut watch = session.watch();
/// session.sign_in(Tokens::new("first")).await?;
/// assert!(matches!(watch.changed().await, Some(AuthState::Active { .. })));
/// drop(session);
/// assert_eq!(watch.changed().await, None);
/// # Ok(()) }
/// ```
pub struct StateWatch {
    rx: Receiver<AuthState>,
    /// As a stream: what it waits for, and whether the present state was given. The mutex is for `Sync` only.
    stream: Mutex<StreamState>,
}

enum StreamState {
    Now,
    Waiting(Next),
    Ended,
}

impl StateWatch {
    pub(crate) fn new(rx: Receiver<AuthState>) -> Self {
        Self { rx, stream: Mutex::new(StreamState::Now) }
    }

    /// The state now.
    pub fn current(&self) -> AuthState {
        self.rx.borrow().clone()
    }

    /// The next state; `None` once every session of the account is gone. Cancel-safe.
    pub async fn changed(&mut self) -> Option<AuthState> {
        self.rx.changed().await.ok()?;
        Some(self.rx.borrow_and_update().clone())
    }
}

impl Clone for StateWatch {
    fn clone(&self) -> Self {
        Self::new(self.rx.clone())
    }
}

impl fmt::Debug for StateWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateWatch").field("current", &*self.rx.borrow()).finish_non_exhaustive()
    }
}

impl Stream for StateWatch {
    type Item = AuthState;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AuthState>> {
        let this = self.get_mut();
        let stream = this.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        loop {
            match stream {
                StreamState::Now => {
                    let state = this.rx.borrow_and_update().clone();
                    *stream = StreamState::Waiting(next(this.rx.clone()));
                    return Poll::Ready(Some(state));
                }
                StreamState::Waiting(change) => match ready!(change.as_mut().poll(cx)) {
                    Some(rx) => {
                        this.rx = rx;
                        *stream = StreamState::Now;
                    }
                    None => *stream = StreamState::Ended,
                },
                StreamState::Ended => return Poll::Ready(None),
            }
        }
    }
}

fn next(mut rx: Receiver<AuthState>) -> Next {
    Box::pin(async move { rx.changed().await.ok().map(|()| rx) })
}
