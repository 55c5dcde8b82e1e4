//! The hints: one subscription for all who wait, kept up for as long as somebody does.

use super::line::{ANSWER, Line};
use futures_util::{
    StreamExt as _,
    future::{Either, select},
};
use redis::aio::PubSub;
use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{runtime::Handle, sync::Notify};

/// How often it is looked whether anybody still waits, and whether Redis is still there. Waits that come and go within
/// it share a subscription.
const LOOK: Duration = Duration::from_secs(5);
/// The pause between attempts to subscribe: doubling, from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

pub(super) struct Hints {
    line: Arc<Line>,
    board: Mutex<Board>,
    /// Somebody waits for a channel that nobody waited for.
    wanted: Notify,
}

#[derive(Default)]
struct Board {
    channels: HashMap<String, Channel>,
    /// The number of the task that listens.
    listener: Option<u64>,
    listeners: u64,
}

#[derive(Default)]
struct Channel {
    waiting: usize,
    /// Somebody came since the last look.
    recent: bool,
    heard: Arc<Notify>,
}

impl Hints {
    pub(super) fn new(line: Arc<Line>) -> Self {
        Self { line, board: Mutex::default(), wanted: Notify::new() }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next hint on `channel`; never without a runtime.
    pub(super) async fn next(self: &Arc<Self>, channel: String) {
        let Ok(runtime) = Handle::try_current() else { return std::future::pending().await };
        let heard = {
            let mut board = self.board();
            let place = board.channels.entry(channel.clone()).or_default();
            place.waiting += 1;
            place.recent = true;
            place.heard.clone()
        };
        let _place = Place { hints: self, channel };
        let mut heard = pin!(heard.notified());
        heard.as_mut().enable();
        self.listen(&runtime);
        heard.await;
    }

    /// Sees to it that somebody listens.
    #[allow(clippy::disallowed_methods)] // not the work of a session: it ends by itself when nobody waits
    fn listen(self: &Arc<Self>, runtime: &Handle) {
        let number = {
            let mut board = self.board();
            if board.listener.is_some() {
                self.wanted.notify_one();
                return;
            }
            board.listeners += 1;
            board.listener = Some(board.listeners);
            board.listeners
        };
        let listener = Listener { hints: self.clone(), number };
        runtime.spawn(async move { listener.run().await });
    }

    fn tell(&self, channel: &str) {
        if let Some(channel) = self.board().channels.get(channel) {
            channel.heard.notify_waiters();
        }
    }
}

/// Somebody who waits.
struct Place<'a> {
    hints: &'a Hints,
    channel: String,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(channel) = self.hints.board().channels.get_mut(&self.channel) {
            channel.waiting -= 1;
        }
    }
}

/// The one task that listens. However it ends, with its runtime too, the next who waits starts another.
struct Listener {
    hints: Arc<Hints>,
    number: u64,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut board = self.hints.board();
        if board.listener == Some(self.number) {
            board.listener = None;
        }
    }
}

impl Listener {
    async fn run(&self) {
        let (mut pause, mut again) = (PAUSES.0, false);
        while self.somebody_waits() {
            let client = self.hints.line.client();
            if let Ok(Ok(subscription)) = tokio::time::timeout(ANSWER, client.get_async_pubsub()).await
                && self.follow(subscription, again).await
            {
                pause = PAUSES.0;
            }
            // What was said in the meantime was missed.
            again = true;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Forgets the channels that nobody waits for any more. `false`: that was all, and this task is over.
    fn somebody_waits(&self) -> bool {
        let mut board = self.hints.board();
        if board.listener != Some(self.number) {
            return false; // over already; who has come since has another one
        }
        board.channels.retain(|_, channel| channel.waiting > 0 || std::mem::take(&mut channel.recent));
        if board.channels.is_empty() {
            board.listener = None;
        }
        !board.channels.is_empty()
    }

    /// Listens until the connection breaks or nobody waits any more. Answers whether it was ever subscribed.
    async fn follow(&self, subscription: PubSub, mut again: bool) -> bool {
        let (mut sink, stream) = subscription.split();
        let mut stream = pin!(stream);
        let mut subscribed = HashSet::new();
        let mut looks = tokio::time::interval(LOOK);
        looks.tick().await; // the first is at once
        loop {
            let wanted = self.hints.board().channels.keys().cloned().collect::<HashSet<_>>();
            for channel in wanted.difference(&subscribed).cloned().collect::<Vec<_>>() {
                match tokio::time::timeout(ANSWER, sink.subscribe(&channel)).await {
                    Ok(Ok(())) => subscribed.insert(channel),
                    _ => return !subscribed.is_empty(),
                };
            }
            for channel in subscribed.difference(&wanted).cloned().collect::<Vec<_>>() {
                match tokio::time::timeout(ANSWER, sink.unsubscribe(&channel)).await {
                    Ok(Ok(())) => subscribed.remove(&channel),
                    _ => return true,
                };
            }
            if std::mem::take(&mut again) {
                wanted.iter().for_each(|channel| self.hints.tell(channel));
            }
            let event = {
                let (word, more, look) = (stream.next(), pin!(self.hints.wanted.notified()), pin!(looks.tick()));
                match select(select(word, more), look).await {
                    Either::Left((Either::Left((word, _)), _)) => Event::Word(word),
                    Either::Left((Either::Right(_), _)) => Event::Wanted,
                    Either::Right(_) => Event::Look,
                }
            };
            match event {
                Event::Word(Some(word)) => self.hints.tell(word.get_channel_name()),
                Event::Word(None) => return true,
                Event::Wanted => {}
                Event::Look => {
                    // A connection can be dead for hours before anybody notices who only listens.
                    let alive = tokio::time::timeout(ANSWER, sink.ping::<redis::Value>());
                    if !self.somebody_waits() || !matches!(alive.await, Ok(Ok(_))) {
                        return true;
                    }
                }
            }
        }
    }
}

enum Event {
    Word(Option<redis::Msg>),
    Wanted,
    Look,
}
