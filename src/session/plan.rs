//! What a flight does with what it finds in the store. Pure: no I/O, the time is an argument (SEMANTICS §3, steps 2, 2b, 3
//! and 6). The refresh task drives it.

use super::{
    record::{Doubt, Failure, Record, Standing},
    snapshot::is_usable,
    vault::Found,
};
use crate::{
    clock::{SLACK, Stamp},
    store::Version,
    token::AccessToken,
};
use std::time::Duration;

/// What was read under the lease, and what the flight knows.
pub(crate) struct View<'a> {
    pub(crate) found: Option<&'a Found>,
    pub(crate) mark: u64,
    /// The epoch the flight is of.
    pub(crate) epoch: u64,
    /// The generation that somebody wants a successor of.
    pub(crate) base: u64,
}

impl<'a> View<'a> {
    /// The newest epoch that anybody told of.
    pub(crate) fn newest(&self) -> u64 {
        self.mark.max(self.found.map_or(0, |found| found.record.epoch))
    }

    /// A record below the mark counts as absent, whoever wrote it and whenever.
    pub(crate) fn live(&self) -> Option<&'a Record> {
        self.found.map(|found| &*found.record).filter(|record| record.epoch >= self.mark)
    }
}

/// What else the decision hangs on.
pub(crate) struct Circumstances<'a> {
    pub(crate) now: Stamp,
    /// The access token in memory.
    pub(crate) held: Option<&'a AccessToken>,
    /// A 401 answered it.
    pub(crate) refused: bool,
    pub(crate) owner: &'a str,
    /// Leases of this store can run out under a holder that is still at work.
    pub(crate) leases_expire: bool,
    /// Backoffs written down before this moment are over.
    pub(crate) forgiven: Option<Stamp>,
    /// The longest that a journal can ask to be waited for.
    pub(crate) term: Duration,
    /// The record that was waited out for all of its term: its deadline has passed, whatever its clock said.
    pub(crate) waited_out: Option<&'a Version>,
    pub(crate) self_starting: bool,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Plan<'a> {
    /// Somebody signed out, or in anew.
    SignedOut,
    /// There is no record, and without one there is no refresh token.
    Absent,
    /// The record says how the session stands.
    Verdict(&'a Record),
    /// Somebody else was faster: theirs is newer and fresh.
    Adopt(&'a Record),
    /// A failure was remembered for all.
    CoolingDown(&'a Failure, Duration),
    /// Another process may be in mid-exchange: release the lease and wait this long, or for a changed record.
    AwaitJournal(Duration),
    /// Exchange the record's refresh token; `doubt`: an earlier attempt may have spent it.
    Exchange { record: &'a Record, doubt: Doubt },
    /// Exchange without a record: the session starts by itself.
    Start,
}

pub(crate) fn plan<'a>(view: &View<'a>, at: &Circumstances<'_>) -> Plan<'a> {
    if view.newest() > view.epoch {
        return Plan::SignedOut;
    }
    let Some(record) = view.live() else {
        return if at.self_starting { Plan::Start } else { Plan::Absent };
    };
    if record.standing != Standing::SignedIn {
        return Plan::Verdict(record);
    }
    if is_newer_and_fresh(record, view.base, at) {
        return Plan::Adopt(record);
    }
    if let Some(failure) = &record.failure {
        // A moment that has not come yet was told by a wrong clock: it forgives nothing.
        let forgiven = at.forgiven.is_some_and(|moment| failure.at <= moment && moment.since(at.now) <= SLACK);
        let end = if forgiven { failure.told_until } else { Some(failure.until) };
        if let Some(left) = end.and_then(|end| failure.left(end, at.now)) {
            return Plan::CoolingDown(failure, left);
        }
    }
    if let Some(journal) = &record.journal
        && at.leases_expire
        && journal.owner != at.owner
    {
        let left = journal.deadline.since(at.now).min(at.term);
        let waited_out = at.waited_out.is_some_and(|it| view.found.is_some_and(|found| found.version == *it));
        if !left.is_zero() && !waited_out {
            return Plan::AwaitJournal(left);
        }
    }
    let doubt = if record.journal.is_some() { Doubt::Own } else { record.doubt };
    Plan::Exchange { record, doubt }
}

fn is_newer_and_fresh(record: &Record, base: u64, at: &Circumstances<'_>) -> bool {
    let Some(theirs) = &record.access_token else { return false };
    let same = at.held == Some(theirs);
    let newer = record.generation > base || (record.generation == base && !same);
    newer && is_usable(record, at.now) && !(same && at.refused)
}

/// What to do with tokens in hand after `Conflict` or `LeaseLost`.
#[derive(Debug)]
pub(crate) enum Settle<'a> {
    /// Publish nothing.
    SignedOut,
    /// It stands there: a save that failed was applied all the same.
    Saved,
    /// A successor is stored, or somebody else's set of the same generation: theirs counts.
    Adopt(&'a Record),
    /// Save mine over whatever stands there; with doubt if it may have been spent by somebody else.
    Save { doubt: bool },
}

pub(crate) fn settle<'a>(view: &View<'a>, mine: &Record, owner: &str) -> Settle<'a> {
    if view.newest() > mine.epoch {
        return Settle::SignedOut;
    }
    match view.live() {
        Some(theirs) if is_the_same(theirs, mine) => Settle::Saved,
        Some(theirs) if theirs.epoch == mine.epoch && theirs.generation >= mine.generation => Settle::Adopt(theirs),
        Some(theirs) => Settle::Save { doubt: theirs.epoch == mine.epoch && is_doubtful(theirs, owner) },
        None => Settle::Save { doubt: false },
    }
}

fn is_the_same(theirs: &Record, mine: &Record) -> bool {
    (theirs.epoch, theirs.generation, theirs.standing) == (mine.epoch, mine.generation, mine.standing)
        && theirs.access_token == mine.access_token
        && theirs.refresh_token == mine.refresh_token
        && theirs.journal == mine.journal
}

/// A verdict, another's journal, or doubt stands there.
pub(crate) fn is_doubtful(record: &Record, owner: &str) -> bool {
    record.standing != Standing::SignedIn
        || record.doubt != Doubt::None
        || record.journal.as_ref().is_some_and(|journal| journal.owner != owner)
}

/// The first sign-out at or above `newest`: odd.
pub(crate) fn next_sign_out(newest: u64) -> u64 {
    if newest % 2 == 1 { newest } else { newest.saturating_add(1) }
}

/// The first sign-in above `newest`: even.
pub(crate) fn next_sign_in(newest: u64) -> u64 {
    newest.saturating_add(if newest % 2 == 1 { 1 } else { 2 })
}

#[cfg(test)]
mod tests;
