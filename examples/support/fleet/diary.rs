//! What one process notes about its requests and tokens, and how the notes of all add up.

use super::LIFETIME;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The notes since the last page, or of everybody together.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) requests: u64,
    /// Those that were answered with 2xx.
    pub(crate) ok: u64,
    /// How often a process found itself signed out.
    pub(crate) logouts: u64,
    /// What came of the others, and how often.
    pub(crate) failures: BTreeMap<String, u64>,
    /// How long each request waited for a token that found none it could use, in µs. The session counts one in the last
    /// tenth of its lifetime as such. Requests that left at once are not in it.
    pub(crate) waits: Vec<u64>,
    /// The access tokens that another one took the place of, by a hash, and for how long they had been in use, in ms.
    replaced: HashMap<u64, u64>,
}

impl Page {
    /// Adds the notes of another.
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.ok += other.ok;
        self.logouts += other.logouts;
        self.waits.extend(other.waits);
        for (failure, times) in other.failures {
            *self.failures.entry(failure).or_default() += times;
        }
        for (token, used) in other.replaced {
            let longest = self.replaced.entry(token).or_default();
            *longest = used.max(*longest);
        }
    }

    /// How many access tokens ran out while the fleet was using them, or were so near their end that they had to be
    /// replaced.
    ///
    /// It is counted by those who use them, not by the server: each token counts once, however many processes saw its end.
    /// One that another took the place of within half of its lifetime has not run out; somebody made an exchange that
    /// nobody needed. So `exchanges == expiries` says: one exchange for each token that ran out, and none besides.
    pub(crate) fn expiries(&self) -> u64 {
        let half = u64::try_from((LIFETIME / 2).as_millis()).unwrap_or(u64::MAX);
        self.replaced.values().filter(|used| **used >= half).count() as u64
    }

    /// The wait that `percent` of the waits do not exceed.
    pub(crate) fn wait(&self, percent: usize) -> Option<Duration> {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let rank = (waits.len() * percent).div_ceil(100).checked_sub(1)?;
        waits.get(rank).map(|micros| Duration::from_micros(*micros))
    }
}

/// Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Diary(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    page: Page,
    /// The newest token that was sent, and since when it is in use here.
    token: Option<(u64, Instant)>,
}

impl Diary {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was noted since the last time.
    pub(crate) fn tear_out(&self) -> Page {
        mem::take(&mut self.notes().page)
    }

    /// A request leaves with this `Authorization`.
    pub(crate) fn sends(&self, authorization: &HeaderValue) {
        let mut hasher = DefaultHasher::new(); // the same in every process
        authorization.as_bytes().hash(&mut hasher);
        let token = hasher.finish();
        let mut notes = self.notes();
        if notes.token.is_some_and(|(current, _)| current == token) {
            return;
        }
        if let Some((old, since)) = notes.token.replace((token, Instant::now())) {
            let used = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            notes.page.replaced.insert(old, used);
        }
    }

    /// The token that was sent last is taken by nobody any more. What comes instead is no sign that it ran out.
    pub(crate) fn is_revoked(&self) {
        self.notes().token = None;
    }

    /// A request that had to wait for a token has one.
    pub(crate) fn waited(&self, since: Instant) {
        self.notes().page.waits.push(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn logged_out(&self) {
        self.notes().page.logouts += 1;
    }

    /// A request is over: what it failed with, if it did.
    pub(crate) fn ends(&self, failure: Option<String>) {
        let page = &mut self.notes().page;
        page.requests += 1;
        match failure {
            None => page.ok += 1,
            Some(failure) => *page.failures.entry(failure).or_default() += 1,
        }
    }
}
