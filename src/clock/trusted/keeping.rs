//! The mark of a [`Timekeeper`]: when it is due, what is in it, and what is learned from the marks of others.

use super::{ANCHORED, BEHIND_MARK, Correction, Timekeeper, Word};
use crate::clock::{
    mark::{Kept, Mark},
    stamp::{Stamp, micros},
};
use std::{
    sync::{
        Arc, PoisonError,
        atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

/// How much trusted time a process that is killed forgets at most.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The mark at one moment, to be saved off the async threads.
pub(crate) struct Saving {
    mark: Mark,
    /// It holds what a server has just told.
    news: bool,
    saver: Arc<()>,
}

impl Timekeeper {
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

    /// One saves, and another one waits to: a clock that hangs over its mark does not take thread after thread.
    pub(crate) fn is_crowded(&self) -> bool {
        Arc::strong_count(&self.savers) > 2
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
        Saving { mark, news, saver: self.savers.clone() }
    }

    /// Saves it together with what others have kept meanwhile, and takes over what they know better. Blocks. Answers what
    /// that has made of time.
    pub(crate) fn save(&self, saving: Saving) -> Correction {
        let Saving { mut mark, news, saver: _saver } = saving;
        let _saves = self.saves.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match Mark::read(self.clock.load_mark().as_deref()) {
            Kept::Newer => return Correction::NONE,
            Kept::Nothing => None,
            Kept::Mark(kept) => Some(kept),
        };
        let mut correction = Correction::NONE;
        if let Some(kept) = &kept {
            match news {
                // Whatever they count: nobody has asked a server since.
                true => {
                    mark.contacts = mark.contacts.max(kept.contacts.saturating_add(1));
                    self.contacts.fetch_max(mark.contacts, Relaxed);
                }
                false => correction = self.corrects(|| self.absorb(kept)),
            }
            mark = mark.merged(kept);
        }
        if kept.as_ref() != Some(&mark)
            && let Some(bytes) = mark.write()
        {
            self.clock.save_mark(&bytes);
        }
        correction
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
    pub(super) fn take(&self, mark: &Mark) {
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
