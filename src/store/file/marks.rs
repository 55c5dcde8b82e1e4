//! Epoch marks: empty files whose names are the marks, so that none can be torn, and raising one needs no lock. Blocking.

use super::{super::StoreError, place::Place};

const PREFIX: &str = "epoch-";

/// The greatest mark; 0 if there is none.
pub(super) fn read(place: &Place) -> Result<u64, StoreError> {
    // Somebody may raise it while the names are read: what two readings agree on was the mark between them.
    let mut before = list(place)?;
    loop {
        let now = list(place)?;
        if now == before {
            return Ok(now.last().copied().unwrap_or(0));
        }
        before = now;
    }
}

/// An atomic maximum, durable once it has answered.
pub(super) fn raise(place: &Place, to: u64) -> Result<u64, StoreError> {
    if to == 0 {
        return read(place);
    }
    if read(place)? < to {
        drop(place.open_or_create(&name(to))?);
    }
    place.sync()?; // also one that somebody else has just made
    let marks = list(place)?;
    // The least first, and the greatest and its predecessor stay: who reads meanwhile finds a mark that was true.
    for old in &marks[..marks.len().saturating_sub(2)] {
        place.remove(&name(*old))?;
    }
    Ok(marks.last().copied().unwrap_or(0).max(to))
}

fn name(mark: u64) -> String {
    format!("{PREFIX}{mark}")
}

fn list(place: &Place) -> Result<Vec<u64>, StoreError> {
    let names = place.names()?;
    let mut marks = names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok()).collect::<Vec<_>>();
    marks.sort_unstable();
    Ok(marks)
}
