//! [`Timekeeper`]: trusted time (SEMANTICS §6).
//!
//! All of it is one number, *trusted time less the monotonic clock*, in one word with what is known about it. Once a
//! server has told the time since the machine was started, only a server moves that number, and the wall clock is not
//! read any more. Until then it is the greatest that the wall clock has ever said, from the mark on: it goes on with the
//! monotonic clock also while the wall clock is behind.

mod keeping;

use super::{
    Clock, SLACK,
    mark::{Kept, Mark},
    stamp::{Stamp, micros},
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicI64, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::{Duration, SystemTime},
};

/// `Date` has whole seconds, and nobody knows at which end of the round trip it was written.
const NOISE: Duration = Duration::from_secs(2);
/// A resource server's `Date` that took longer to arrive says little about now.
const STALE: Duration = Duration::from_secs(10);
/// Some for each of several accounts.
const MOST_GUESSES: usize = 1024;
/// An offset, and in the lowest bits what is known about it: both change in one step.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(i64);

/// A server told the time since the machine was started.
const ANCHORED: i64 = 1;
/// The wall clock was behind the mark.
const BEHIND_MARK: i64 = 1 << 1;
/// It was behind a moment that stands in a record. The mark of the machine does not remember that.
const BEHIND_RECORD: i64 = 1 << 2;
/// It is as late as that only by the word of a resource server.
const HEARSAY: i64 = 1 << 3;

impl Word {
    const BITS: u32 = 4;
    /// Below every time: 18,000 years before 1970.
    const UNKNOWN: Self = Self(i64::MIN);

    fn new(offset: i64, flags: i64) -> Self {
        Self(offset.clamp(i64::MIN >> Self::BITS, i64::MAX >> Self::BITS) << Self::BITS | flags)
    }

    fn offset(self) -> i64 {
        self.0 >> Self::BITS
    }

    fn flags(self) -> i64 {
        self.0 & ((1 << Self::BITS) - 1)
    }

    fn has(self, flag: i64) -> bool {
        self.0 & flag != 0
    }

    fn is_trusted(self) -> bool {
        !self.has(BEHIND_MARK | BEHIND_RECORD)
    }

    /// What a look at the wall clock makes of it, of a time that no server told: `wall` and `seen` less the monotonic
    /// clock, too.
    fn judged(self, wall: i64, seen: i64) -> Self {
        let behind = |floor: i64, flag| if wall < floor.saturating_sub(micros(SLACK)) { flag } else { 0 };
        let flags = self.flags() | behind(self.offset(), BEHIND_MARK) | behind(seen, BEHIND_RECORD);
        Self::new(self.offset().max(wall), flags)
    }
}

/// Trusted time. Once it is anchored, reading it takes one clock and one atomic load.
pub(crate) struct Timekeeper {
    clock: Arc<dyn Clock>,
    boot: Option<String>,
    word: AtomicI64,
    /// Trusted time less the wall clock, as a server last taught it: for the time before the next anchor.
    wall_offset: AtomicI64,
    /// The greatest moment in a record, less the monotonic clock: a lower bound until the next anchor. Not the machine's.
    seen: AtomicI64,
    contacts: AtomicU64,
    /// A server has told something since the mark was taken.
    news: AtomicBool,
    /// When the mark is to be saved again.
    due: AtomicI64,
    /// What was stamped before a server told the time, by this process or an earlier one, and when by the monotonic clock.
    guesses: Mutex<VecDeque<(Stamp, i64)>>,
    /// A token endpoint has contradicted a resource server, which is not believed any more: every request would cost an
    /// exchange, if tokens live no longer than the two are apart.
    contradicted: AtomicBool,
    /// One at a time moves time otherwise than by looking at a clock.
    moves: Mutex<()>,
    /// One at a time saves.
    saves: Mutex<()>,
    /// Held by each who saves, or waits to.
    savers: Arc<()>,
}

impl fmt::Debug for Timekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        f.debug_struct("Timekeeper")
            .field("anchored", &word.has(ANCHORED))
            .field("trusted", &word.is_trusted())
            .finish_non_exhaustive()
    }
}

/// Trusted time, and whether it is to be trusted, at one moment: somebody may set it right just after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) now: Stamp,
    pub(crate) trusted: bool,
}

/// What a look at the clocks says.
struct Look {
    word: Word,
    /// That of the word, or of what stands in records.
    offset: i64,
    mono: i64,
}

impl Look {
    fn now(&self) -> Stamp {
        Stamp(self.offset.saturating_add(self.mono))
    }
}

/// What an answer of a token endpoint, to this process or to another one, has made of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Correction {
    before: Stamp,
    now: Stamp,
}

impl Correction {
    /// Nothing has changed.
    pub(crate) const NONE: Self = Self { before: Stamp(0), now: Stamp(0) };

    pub(crate) fn is_none(&self) -> bool {
        self.now.since(self.before).max(self.before.since(self.now)) < NOISE
    }
}

impl Timekeeper {
    /// Goes on from the mark, if there is one. May block: clocks keep marks in files.
    pub(crate) fn open(clock: Arc<dyn Clock>) -> Self {
        let mark = Mark::read(clock.load_mark().as_deref());
        let keeper = Self::new(clock);
        if let Kept::Mark(mark) = mark {
            keeper.take(&mark);
        }
        keeper
    }

    /// As on a machine without a mark.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            boot: clock.boot_id().filter(|boot| !boot.is_empty()),
            clock,
            word: AtomicI64::new(Word::UNKNOWN.0),
            wall_offset: AtomicI64::new(0),
            seen: AtomicI64::new(i64::MIN),
            contacts: AtomicU64::new(0),
            news: AtomicBool::new(false),
            due: AtomicI64::new(i64::MIN),
            guesses: Mutex::default(),
            contradicted: AtomicBool::new(false),
            moves: Mutex::default(),
            saves: Mutex::default(),
            savers: Arc::default(),
        }
    }

    // ===== reading =====

    /// Trusted time; while it is not to be trusted, the least that it can be.
    pub(crate) fn now(&self) -> Stamp {
        self.read().now
    }

    /// The same, and whether it is to be trusted: a gate decides by time only then.
    pub(crate) fn read(&self) -> Reading {
        let look = self.look();
        Reading { now: look.now(), trusted: look.word.is_trusted() }
    }

    /// Whether time is to be trusted now.
    pub(crate) fn is_trusted(&self) -> bool {
        self.read().trusted
    }

    pub(crate) fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn word(&self) -> Word {
        Word(self.word.load(Acquire))
    }

    fn mono(&self) -> i64 {
        micros(self.clock.monotonic())
    }

    /// Looks at the wall clock, unless a server has told the time.
    fn look(&self) -> Look {
        loop {
            let word = self.word();
            if word.has(ANCHORED) {
                return Look { word, offset: word.offset(), mono: self.mono() };
            }
            let (mono, wall) = self.both();
            let seen = self.seen.load(Acquire);
            let wall = wall.saturating_add(self.wall_offset.load(Acquire)).saturating_sub(mono);
            let judged = word.judged(wall, seen);
            // Against whoever anchors meanwhile: what the wall clock says comes too late then.
            let swapped = judged == word || self.word.compare_exchange(word.0, judged.0, AcqRel, Relaxed).is_ok();
            if swapped {
                if judged.has(BEHIND_MARK) && !word.has(BEHIND_MARK) {
                    self.due.store(i64::MIN, Relaxed); // the next process is to know
                }
                return Look { word: judged, offset: judged.offset().max(seen), mono };
            }
        }
    }

    /// The monotonic and the wall clock at one moment: a machine that sleeps in between would seem to be ahead by that.
    fn both(&self) -> (i64, i64) {
        const AT_ONCE: i64 = 100_000;
        let mut before = self.mono();
        for _ in 0..8 {
            let wall = Stamp::from(self.clock.now()).0;
            let after = self.mono();
            if after.saturating_sub(before) <= AT_ONCE {
                return (before, wall);
            }
            before = after;
        }
        (before, Stamp::from(self.clock.now()).0)
    }

    // ===== what is stamped =====

    /// The time to write down, of what was so long `ago`. What is written down before a server has told the time can be
    /// corrected once it has.
    pub(crate) fn stamp(&self, ago: Duration) -> Stamp {
        let look = self.look();
        let stamp = look.now().minus(ago);
        let mut guesses = self.guesses();
        guesses.retain(|(guess, _)| *guess != stamp); // what is written down now means now
        if !look.word.has(ANCHORED) {
            guesses.truncate(MOST_GUESSES - 1);
            guesses.push_front((stamp, look.mono.saturating_sub(micros(ago))));
        }
        stamp
    }

    /// Whether this process has written down what it would correct now.
    pub(crate) fn has_guessed(&self) -> bool {
        self.word().has(ANCHORED) && !self.guesses().is_empty()
    }

    /// What `stamp` should have said: known for a stamp of this process, by the monotonic clock. One of an earlier process
    /// that lies in the future is as old as it was by the clock that wrote it; from then on it is known, too, since it may
    /// come again: with a record that was read before, or that is not saved until later.
    pub(crate) fn corrected(&self, stamp: Stamp, correction: &Correction) -> Stamp {
        let (word, mut guesses) = (self.word(), self.guesses());
        let guess = guesses.iter().find(|(guess, _)| *guess == stamp).filter(|_| word.has(ANCHORED));
        if let Some((_, mono)) = guess {
            return Stamp(word.offset().saturating_add(*mono));
        }
        let Correction { before, now } = *correction;
        if stamp.since(now) <= SLACK || stamp.since(before) > SLACK {
            return stamp;
        }
        let corrected = now.minus(before.since(stamp));
        if word.has(ANCHORED) {
            guesses.truncate(MOST_GUESSES - 1);
            guesses.push_front((stamp, corrected.0.saturating_sub(word.offset())));
        }
        corrected
    }

    fn guesses(&self) -> MutexGuard<'_, VecDeque<(Stamp, i64)>> {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ===== what servers say =====

    /// A token endpoint answered what was asked at `asked` (monotonic), with this `Date`, if it had one.
    pub(crate) fn answered(&self, date: Option<SystemTime>, asked: Duration) -> Correction {
        self.corrects(|| match date.map(Stamp::from).filter(|date| date.is_plausible()) {
            Some(date) => self.anchor(date, asked),
            None => self.contact(), // also if no clock can say so that was ever set
        })
    }

    fn corrects(&self, change: impl FnOnce()) -> Correction {
        // Without what stands in records, which may be wrong itself: it would make each of their moments a recent one.
        let look = self.look();
        let before = Stamp(look.word.offset().saturating_add(look.mono));
        change();
        Correction { before, now: self.now() }
    }

    /// An anchor replaces what was believed, also downwards.
    fn anchor(&self, date: Stamp, asked: Duration) {
        let _moves = self.moves();
        let look = self.look();
        let trip = u64::try_from(look.mono.saturating_sub(micros(asked))).unwrap_or(0);
        let half = Duration::from_micros(trip / 2);
        let (now, told) = (look.now(), date.plus(half));
        let off = told.since(now).max(now.since(told));
        let offset = match off <= NOISE.saturating_add(half) {
            true => look.offset,
            false => told.0.saturating_sub(look.mono),
        };
        if look.word.has(HEARSAY) && offset < look.offset {
            self.contradicted.store(true, Relaxed);
        }
        let anchored = Word::new(offset, ANCHORED);
        if anchored != look.word {
            self.set(anchored);
        }
    }

    /// A token endpoint answered without saying when. That is no anchor, and nothing goes back; but a wall clock that is
    /// behind counts on from here, as if it had been right, or nobody could ever use it again.
    pub(crate) fn contact(&self) {
        let _moves = self.moves();
        let look = self.look();
        if !look.word.is_trusted() {
            self.teach(look.offset);
            self.set(Word::new(look.offset, 0));
        }
    }

    /// A resource server's `Date`, in the answer to what left at `left`: a lower bound, if it is recent, and as long as no
    /// token endpoint has said that it is wrong.
    pub(crate) fn at_least(&self, date: SystemTime, left: Stamp) {
        let told = Stamp::from(date);
        if told <= left.plus(NOISE) || !told.is_plausible() || self.contradicted.load(Relaxed) {
            return; // nearly always: not worth a look at the clock
        }
        let is_later = |look: &Look| {
            let trip = look.now().since(left);
            trip <= STALE && told.since(look.now()) > NOISE.saturating_add(trip / 2)
        };
        if !is_later(&self.look()) {
            return;
        }
        let _moves = self.moves();
        let look = self.look();
        if is_later(&look) {
            let offset = told.0.saturating_sub(look.mono);
            if look.word.is_trusted() {
                self.teach(offset); // the wall clock is slow, and has not been turned back
            }
            self.word.store(Word::new(offset, look.word.flags() | HEARSAY).0, Release);
        }
    }

    /// A moment that stands in a record: it has passed. Nothing that the machine should remember, since records come from
    /// other machines, too.
    pub(crate) fn seen(&self, moment: Stamp) {
        if moment.is_plausible() && !self.word().has(ANCHORED) {
            self.seen.fetch_max(moment.0.saturating_sub(self.mono()), AcqRel);
        }
    }

    /// The wall clock is off by so much that with it this is the offset.
    fn teach(&self, offset: i64) {
        let (mono, wall) = self.both();
        self.wall_offset.store(offset.saturating_add(mono).saturating_sub(wall), Release);
    }

    fn moves(&self) -> MutexGuard<'_, ()> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As a server said.
    fn set(&self, word: Word) {
        self.seen.store(i64::MIN, Release);
        self.word.store(word.0, Release);
        self.contacts.fetch_add(1, Relaxed);
        self.news.store(true, Release);
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests;
