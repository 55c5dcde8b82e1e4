//! [`Mark`]: what a machine remembers of trusted time between two processes. Pure.

use super::{
    SLACK,
    stamp::{Stamp, micros},
};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// The format this crate writes. It leaves newer ones alone.
const FORMAT: u32 = 1;
/// No machine asks a server more often than this: beyond it, somebody wrote the number by hand.
const MOST_CONTACTS: u64 = 1 << 53;

/// What a machine remembers of trusted time. Versioned JSON; a clock keeps it as opaque bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) format: u32,
    /// The start of the machine that `offset` is of; `None`: unknown, and it means nothing to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<String>,
    /// Trusted time less the monotonic clock, in microseconds.
    pub(super) offset: i64,
    /// Trusted time less the wall clock, in microseconds, as far as a server told.
    pub(super) wall_offset: i64,
    /// The greatest trusted time that was seen.
    pub(super) mark: Stamp,
    /// A server told the time since the machine was started.
    pub(super) anchored: bool,
    /// The wall clock was seen behind the mark, and no server has been asked since.
    pub(super) untrusted: bool,
    /// Counts what servers told: of two marks, the one that knows more of it is right.
    pub(super) contacts: u64,
}

/// What a clock has kept.
pub(super) enum Kept {
    /// Nothing, or nothing that means anything.
    Nothing,
    /// Of a later version of this crate.
    Newer,
    Mark(Mark),
}

impl Mark {
    pub(super) fn new(boot: Option<String>, mark: Stamp) -> Self {
        let (offset, wall_offset, contacts) = (0, 0, 0);
        Self { format: FORMAT, boot, offset, wall_offset, mark, anchored: false, untrusted: false, contacts }
    }

    pub(super) fn read(bytes: Option<&[u8]>) -> Kept {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let Some(bytes) = bytes else { return Kept::Nothing };
        match serde_json::from_slice::<Head>(bytes) {
            Ok(head) if head.format > FORMAT => return Kept::Newer,
            Ok(_) => {}
            Err(_) => return Kept::Nothing,
        }
        match serde_json::from_slice::<Self>(bytes) {
            Ok(mark) if mark.contacts < MOST_CONTACTS && mark.mark < Stamp::NEVER => Kept::Mark(mark),
            _ => Kept::Nothing,
        }
    }

    pub(super) fn write(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }

    /// Whether `offset` is of this start of the machine. One that falls behind the mark is not, whatever its name: of two
    /// containers, say, whose monotonic clocks differ.
    pub(super) fn is_of(&self, boot: Option<&str>, monotonic: i64) -> bool {
        boot.is_some()
            && self.boot.as_deref() == boot
            && self.offset.saturating_add(monotonic).saturating_add(micros(SLACK)) >= self.mark.0
    }

    /// What is to be kept of two: that which knows of more contacts; else the greater of both, and every doubt.
    pub(super) fn merged(self, kept: &Self) -> Self {
        match kept.contacts.cmp(&self.contacts) {
            Ordering::Greater => kept.clone(),
            Ordering::Less => self,
            Ordering::Equal => {
                let same_boot = self.boot.is_some() && self.boot == kept.boot;
                let theirs = same_boot && kept.anchored && !self.anchored;
                let anchored = self.anchored || theirs;
                Self {
                    offset: if same_boot { self.offset.max(kept.offset) } else { self.offset },
                    wall_offset: match (anchored, self.untrusted || kept.untrusted) {
                        (true, _) if theirs => kept.wall_offset,
                        (false, false) => self.wall_offset.max(kept.wall_offset), // of a slow clock
                        _ => self.wall_offset,
                    },
                    mark: self.mark.max(kept.mark),
                    anchored,
                    untrusted: !anchored && (self.untrusted || kept.untrusted),
                    ..self
                }
            }
        }
    }
}
