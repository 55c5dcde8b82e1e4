//! [`Timekeeper`]: trusted time (SEMANTICS §6).
//!
//! All of it is one number, *trusted time less the monotonic clock*, in one word with what is known about it. Once a
//! server has told the time since the machine was started, only a server moves that number, and the wall clock is not
//! read any more. Until then it is the greatest that the wall clock has ever said, from the mark on: it goes on with the
//! monotonic clock also while the wall clock is behind.

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
/// How much trusted time a process that is killed forgets at most.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// An offset, and in the lowest bits what is known about it: both change in one step.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(i64);

/// A server told the time since the machine was started.
const ANCHORED: i64 = 1;
/// The wall clock was behind the mark.
const BEHIND_MARK: i64 = 1 << 1;
/// It was behind a moment that stands in a record. The mark of the machine does not remember that.
const BEHIND_RECORD: i64 = 1 << 2;

impl Word {
    const BITS: u32 = 3;
    /// Below every time: 36,000 years before 1970.
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
    /// What was stamped before a server told the time, and when by the monotonic clock.
    guesses: Mutex<VecDeque<(Stamp, i64)>>,
    /// One at a time moves time otherwise than by looking at a clock.
    moves: Mutex<()>,
    /// One at a time saves.
    saves: Mutex<()>,
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

/// What an answer of a token endpoint has made of time.
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

/// The mark at one moment, to be saved off the async threads.
pub(crate) struct Saving {
    mark: Mark,
    /// It holds what a server has just told.
    news: bool,
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
            moves: Mutex::default(),
            saves: Mutex::default(),
        }
    }

    // ===== reading =====

    /// Trusted time; while it is not to be trusted, the least that it can be.
    pub(crate) fn now(&self) -> Stamp {
        let word = self.word();
        match word.has(ANCHORED) {
            true => Stamp(word.offset().saturating_add(self.mono())),
            false => self.look().now(),
        }
    }

    /// Whether the last reading is to be trusted: a gate decides by time only then.
    pub(crate) fn is_trusted(&self) -> bool {
        self.word().is_trusted()
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
        const MOST: usize = 64;
        let look = self.look();
        let stamp = look.now().minus(ago);
        let mut guesses = self.guesses();
        guesses.retain(|(guess, _)| *guess != stamp); // what is written down now means now
        if !look.word.has(ANCHORED) {
            guesses.truncate(MOST - 1);
            guesses.push_front((stamp, look.mono.saturating_sub(micros(ago))));
        }
        stamp
    }

    /// Whether this process has written down what it would correct now.
    pub(crate) fn has_guessed(&self) -> bool {
        self.word().has(ANCHORED) && !self.guesses().is_empty()
    }

    /// What `stamp` should have said: known for a stamp of this process, by the monotonic clock. One of an earlier process
    /// that lies in the future is as old as it was by the clock that wrote it.
    pub(crate) fn corrected(&self, stamp: Stamp, correction: &Correction) -> Stamp {
        let word = self.word();
        let guess = || self.guesses().iter().find(|(guess, _)| *guess == stamp).copied();
        if let Some((_, mono)) = Some(word).filter(|word| word.has(ANCHORED)).and_then(|_| guess()) {
            return Stamp(word.offset().saturating_add(mono));
        }
        let Correction { before, now } = *correction;
        match stamp.since(now) > SLACK && stamp.since(before) <= SLACK {
            true => now.minus(before.since(stamp)),
            false => stamp,
        }
    }

    fn guesses(&self) -> MutexGuard<'_, VecDeque<(Stamp, i64)>> {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ===== what servers say =====

    /// A token endpoint answered what was asked at `asked` (monotonic), with this `Date`, if it had one.
    pub(crate) fn answered(&self, date: Option<SystemTime>, asked: Duration) -> Correction {
        let before = self.now();
        match date.map(Stamp::from).filter(|date| date.is_plausible()) {
            Some(date) => self.anchor(date, asked),
            None => self.contact(), // also if no clock can say so that was ever set
        }
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

    /// A resource server's `Date`, in the answer to what left at `left`: a lower bound, and only if it is recent.
    pub(crate) fn at_least(&self, date: SystemTime, left: Stamp) {
        let told = Stamp::from(date);
        if told <= left.plus(NOISE) || !told.is_plausible() {
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
            self.word.store(Word::new(offset, look.word.flags()).0, Release);
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

    // ===== the mark =====

    /// Whether the mark is to be saved now, for a process that may be killed. Whoever is told so saves it.
    pub(crate) fn is_due(&self, now: Stamp) -> bool {
        let due = self.due.load(Relaxed);
        let every = micros(SAVE_EVERY);
        // Time may have gone back since.
        if now.0 < due && due.saturating_sub(now.0) <= every {
            return false;
        }
        self.due.compare_exchange(due, now.0.saturating_add(every), Relaxed, Relaxed).is_ok()
    }

    /// A server has told something that is not in a mark yet.
    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Acquire)
    }

    /// What there is to remember now.
    pub(crate) fn saving(&self) -> Saving {
        let _moves = self.moves();
        let news = self.news.swap(false, AcqRel);
        let look = self.look();
        self.due.store(look.now().plus(SAVE_EVERY).0, Relaxed);
        let (offset, anchored) = (look.word.offset(), look.word.has(ANCHORED)); // without what stands in records
        if anchored {
            self.teach(offset); // while time is certain, it can be seen at any moment, and may have been set since
        }
        let mark = Mark {
            offset,
            wall_offset: self.wall_offset.load(Acquire),
            anchored,
            untrusted: look.word.has(BEHIND_MARK),
            contacts: self.contacts.load(Relaxed),
            ..Mark::new(self.boot.clone(), Stamp(offset.saturating_add(look.mono)))
        };
        Saving { mark, news }
    }

    /// Saves it together with what others have kept meanwhile, and takes over what they know better. Blocks.
    pub(crate) fn save(&self, saving: Saving) {
        let Saving { mut mark, news } = saving;
        let _saves = self.saves.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match Mark::read(self.clock.load_mark().as_deref()) {
            Kept::Newer => return,
            Kept::Nothing => None,
            Kept::Mark(kept) => Some(kept),
        };
        if let Some(kept) = &kept {
            match news {
                // Whatever they count: nobody has asked a server since.
                true => {
                    mark.contacts = mark.contacts.max(kept.contacts.saturating_add(1));
                    self.contacts.fetch_max(mark.contacts, Relaxed);
                }
                false => self.absorb(kept),
            }
            mark = mark.merged(kept);
        }
        if kept.as_ref() != Some(&mark)
            && let Some(bytes) = mark.write()
        {
            self.clock.save_mark(&bytes);
        }
    }

    /// What another process of this machine has kept.
    fn absorb(&self, kept: &Mark) {
        let mine = self.contacts.load(Relaxed);
        if kept.contacts > mine {
            return self.take(kept);
        }
        if kept.contacts == mine {
            let _moves = self.moves();
            let mut word = self.look().word;
            let (floor, flags) = self.floor(kept);
            let flags = if word.has(ANCHORED) { 0 } else { flags & !ANCHORED };
            if flags == 0 && word.is_trusted() {
                self.wall_offset.fetch_max(kept.wall_offset, AcqRel); // the other one has seen that the clock is slow
            }
            loop {
                let raised = Word::new(word.offset().max(floor), word.flags() | flags);
                match self.word.compare_exchange(word.0, raised.0, AcqRel, Acquire) {
                    Ok(_) => break,
                    Err(now) => word = Word(now),
                }
            }
        }
    }

    /// Goes on from a mark of a process that knows more.
    fn take(&self, mark: &Mark) {
        let _moves = self.moves();
        self.contacts.fetch_max(mark.contacts, Relaxed);
        let (offset, flags) = self.floor(mark);
        if self.word().has(ANCHORED) && flags & ANCHORED == 0 {
            return; // what a server told this process is worth more than a mark of who knows which start of the machine
        }
        self.wall_offset.store(mark.wall_offset, Release);
        self.seen.store(i64::MIN, Release);
        self.word.store(Word::new(offset, flags).0, Release);
    }

    /// The least that the offset can be by this mark, and what is known about it.
    fn floor(&self, mark: &Mark) -> (i64, i64) {
        let mono = self.mono();
        let at_mark = mark.mark.0.saturating_sub(mono);
        let untrusted = if mark.untrusted { BEHIND_MARK } else { 0 };
        match mark.is_of(self.boot.as_deref(), mono) {
            true if mark.anchored => (mark.offset.max(at_mark), ANCHORED),
            true => (mark.offset.max(at_mark), untrusted),
            false => (at_mark, untrusted),
        }
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests;
