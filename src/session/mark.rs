//! Keeping the mark of trusted time, which is blocking work of the clock's (SEMANTICS §6).

use super::{config::Config, inner::Inner, sync::Runtime, tasks};
use crate::clock::{Clock, Correction, Stamp, Timekeeper};
use std::{sync::Arc, time::Duration};

/// How long a clock may take to load or to keep a mark.
const CALL: Duration = Duration::from_secs(10);

/// Trusted time from the mark on. A clock whose mark cannot be had in time, or that panics, has none.
pub(crate) async fn open(runtime: &Runtime, clock: Arc<dyn Clock>) -> Timekeeper {
    let again = clock.clone();
    let opened = tasks::blocking(runtime, move || Timekeeper::open(clock));
    match tokio::time::timeout(CALL, opened).await {
        Ok(Some(time)) => time,
        _ => Timekeeper::new(again),
    }
}

impl Inner {
    /// Somebody decides by time: the mark is saved in the background, once a minute.
    #[inline]
    pub(crate) fn keep_mark(self: &Arc<Self>, now: Stamp) {
        if self.config.time.is_due(now) {
            self.keep_mark_now();
        }
    }

    #[cold]
    fn keep_mark_now(self: &Arc<Self>) {
        let runtime = tasks::runtime().ok().filter(|_| !self.config.time.is_crowded());
        if let Some(runtime) = runtime {
            let (saved, inner, job) = (start(&runtime, &self.config), self.clone(), self.jobs.start());
            tasks::spawn(&runtime, async move {
                inner.take_over(saved).await;
                drop(job); // whoever closes the session waits for it no longer than that
            });
        }
    }

    /// Begins to save what a server has just told, if it has: whoever waits for it knows that the next process knows.
    pub(crate) fn keep_news(&self) -> impl Future<Output = ()> + use<> {
        let news = self.config.time.has_news() && !self.config.time.is_crowded();
        let saved = tasks::runtime().ok().filter(|_| news).map(|runtime| start(&runtime, &self.config));
        async move {
            if let Some(saved) = saved {
                let _ = tokio::time::timeout(CALL, saved).await;
            }
        }
    }

    /// The same in any case.
    pub(crate) async fn save_mark(&self) {
        if let Ok(runtime) = tasks::runtime() {
            self.take_over(start(&runtime, &self.config)).await;
        }
    }

    /// What another process was told corrects what this one has written down.
    async fn take_over(&self, saved: impl Future<Output = Option<Correction>>) {
        if let Ok(Some(correction)) = tokio::time::timeout(CALL, saved).await {
            self.correct_all(&correction, None);
        }
    }
}

/// What is saved is what is known now, whenever the work begins.
fn start(runtime: &Runtime, config: &Arc<Config>) -> impl Future<Output = Option<Correction>> + use<> {
    let (config, saving) = (config.clone(), config.time.saving());
    tasks::blocking(runtime, move || config.time.save(saving))
}
