//! What one process notes about its requests and tokens, and how the notes of all add up.

use super::LIFETIME;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
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
    /// The access tokens that another one took the place of, by a hash.
    replaced: HashMap<u64, Replaced>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Replaced {
    /// For how long it had been in use, in ms; the longest of all processes.
    used: u64,
    /// When the first process had another one, in ms of Unix time.
    at: u64,
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
        for (token, theirs) in other.replaced {
            let all = self.replaced.entry(token).or_insert(theirs);
            *all = Replaced { used: all.used.max(theirs.used), at: all.at.min(theirs.at) };
        }
    }

    /// How often the fleet's access token ran out while it was in use, or was so near its end that it had to be replaced.
    ///
    /// It is counted by those who use the tokens, not by the server. One that another took the place of within half of its
    /// lifetime has not run out; somebody made an exchange that nobody needed. And tokens that run out within half a
    /// lifetime of each other are one expiry, however many processes saw it: had there been more than one exchange the time
    /// before, each process would be out of another one. So `exchanges == expiries` says: one exchange for each time that
    /// the token ran out, and none besides.
    pub(crate) fn expiries(&self) -> u64 {
        let half = millis(LIFETIME / 2);
        let mut ends: Vec<u64> = self.replaced.values().filter(|it| it.used >= half).map(|it| it.at).collect();
        ends.sort_unstable();
        let (mut expiries, mut last) = (0, None);
        for at in ends {
            if last.is_none_or(|last| at >= last + half) {
                (expiries, last) = (expiries + 1, Some(at));
            }
        }
        expiries
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
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            notes.page.replaced.insert(old, Replaced { used: millis(since.elapsed()), at: millis(at) });
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
