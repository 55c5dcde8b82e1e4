//! The contract of stores finds those that break it: each of these is right but for one thing.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start tasks and read the clock

use std::{
    collections::HashMap,
    panic::catch_unwind,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tower_reauth::{
    __contract as contract, AccountKey, LeaseGuard, SessionStore, StoreError, StoreErrorKind, Stored, Version,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Who lost the lease writes all the same.
    Unfenced,
    /// Marks are kept as floating point.
    Inexact,
    /// Keys are cut to the width of a column.
    Cut,
    /// What was put aside is listed.
    Listed,
    /// A save that its caller left is written whenever it comes, whatever was saved since.
    Late,
}

#[derive(Default)]
struct Row {
    record: Option<Stored>,
    aside: bool,
    mark: u64,
    lease: Option<(u64, Instant)>,
}

type Rows = (u64, HashMap<String, Row>);

#[derive(Clone)]
struct Wrong(Fault, Arc<Mutex<Rows>>);

struct Lease {
    store: Wrong,
    key: AccountKey,
    owner: u64,
    term: Duration,
    end: Instant,
}

impl Wrong {
    fn new(fault: Fault) -> Self {
        Self(fault, Arc::default())
    }

    /// A number that never comes again, and the row.
    fn with<T>(&self, key: &AccountKey, f: impl FnOnce(u64, &mut Row) -> T) -> T {
        let mut table = self.1.lock().unwrap();
        table.0 += 1;
        let number = table.0;
        let name = if self.0 == Fault::Cut { &key.as_str()[..32] } else { key.as_str() };
        f(number, table.1.entry(name.to_owned()).or_default())
    }

    fn write(&self, lease: &Lease, expected: Option<&Version>, bytes: Option<&[u8]>) -> Result<Version, StoreError> {
        self.with(&lease.key, |number, row| {
            if self.0 != Fault::Unfenced && row.lease.is_none_or(|(owner, _)| owner != lease.owner) {
                return Err(StoreError::new(StoreErrorKind::LeaseLost));
            }
            if row.record.as_ref().map(Stored::version) != expected {
                return Err(StoreError::new(StoreErrorKind::Conflict));
            }
            row.record = bytes.map(|bytes| Stored::new(bytes, number));
            Ok(Version::from(number))
        })
    }
}

impl LeaseGuard for Lease {
    fn valid_for(&self) -> Option<Duration> {
        Some(self.end.saturating_duration_since(Instant::now()))
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        self.end = Instant::now() + self.term;
        self.store.with(&self.key, |_, row| match &mut row.lease {
            Some((owner, end)) if *owner == self.owner => {
                *end = self.end;
                Ok(())
            }
            _ => Err(StoreError::new(StoreErrorKind::LeaseLost)),
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.with(&self.key, |_, row| row.lease.take_if(|(owner, _)| *owner == self.owner));
    }
}

impl SessionStore for Wrong {
    type Lease = Lease;

    async fn load(&self, key: &AccountKey) -> Result<Option<Stored>, StoreError> {
        Ok(self.with(key, |_, row| row.record.clone()))
    }

    async fn lease(&self, key: &AccountKey, term: Duration) -> Result<Lease, StoreError> {
        loop {
            let end = Instant::now() + term;
            let granted = self.with(key, |owner, row| {
                let free = row.lease.is_none_or(|(_, end)| end <= Instant::now());
                free.then(|| row.lease.insert((owner, end)).0)
            });
            if let Some(owner) = granted {
                return Ok(Lease { store: self.clone(), key: key.clone(), owner, term, end });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn save(&self, lease: &mut Lease, expected: Option<&Version>, bytes: &[u8]) -> Result<Version, StoreError> {
        if self.0 != Fault::Late {
            return self.write(lease, expected, Some(bytes));
        }
        if self.load(&lease.key).await?.as_ref().map(Stored::version) != expected {
            return Err(StoreError::new(StoreErrorKind::Conflict));
        }
        let (store, key, bytes) = (self.clone(), lease.key.clone(), bytes.to_vec());
        let writing = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(bytes.len() as u64 / 50)).await;
            store.with(&key, |number, row| row.record.insert(Stored::new(bytes, number)).version().clone())
        });
        Ok(writing.await.unwrap())
    }

    async fn remove(&self, lease: &mut Lease, expected: Option<&Version>) -> Result<(), StoreError> {
        self.write(lease, expected, None).map(drop)
    }

    async fn set_aside(&self, lease: &mut Lease) -> Result<(), StoreError> {
        self.with(&lease.key, |_, row| row.aside |= row.record.take().is_some());
        Ok(())
    }

    async fn raise_epoch(&self, key: &AccountKey, to: u64) -> Result<u64, StoreError> {
        let to = if self.0 == Fault::Inexact { to as f64 as u64 } else { to };
        Ok(self.with(key, |_, row| {
            row.mark = row.mark.max(to);
            row.mark
        }))
    }

    async fn accounts(&self) -> Result<Vec<AccountKey>, StoreError> {
        let listed = |row: &Row| row.record.is_some() || (self.0 == Fault::Listed && row.aside);
        let table = self.1.lock().unwrap();
        Ok(table.1.iter().filter(|(_, row)| listed(row)).filter_map(|(name, _)| name.parse().ok()).collect())
    }
}

/// Without its fault it is right.
mod right {
    use super::{Fault, Wrong};
    tower_reauth::store_contract!(right, || async { Wrong::new(Fault::None) });
}

macro_rules! found {
    ($($test:ident: $fault:ident by $contract:ident)*) => { $(
        #[test]
        fn $test() {
            let broken = catch_unwind(|| contract::run(|| async { Wrong::new(Fault::$fault) }, contract::$contract));
            assert!(broken.is_err(), "`{}` does not find it", stringify!($contract));
        }
    )* };
}

found! {
    who_lost_the_lease_writes: Unfenced by a_lease_that_ran_out_cannot_write
    marks_are_floats: Inexact by marks_are_a_maximum
    keys_are_cut: Cut by keeps_accounts_apart
    what_is_aside_is_listed: Listed by what_is_put_aside_is_gone
    a_save_comes_late: Late by a_save_that_was_left_is_not_written_later
}
