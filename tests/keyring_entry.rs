//! [`KeyringKey`] on keyrings that do what real ones cannot be made to do: wait for a person, panic, forget, and fail in
//! each of the ways that their interface has. What each failure says is a table beside the code.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start tasks

use keyring_core::{
    CredentialStore, Entry, Error,
    api::{CredentialApi, CredentialStoreApi},
    set_default_store, unset_default_store,
};
use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tower_reauth::{AccountKey, KeySource, KeyringKey, StoreError, StoreErrorKind};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Get,
    Set,
    Delete,
}

#[derive(Default)]
struct State {
    secrets: HashMap<(String, String), Vec<u8>>,
    did: Vec<Does>,
    /// What happens at the next call of this kind.
    fault: Option<(Does, fn() -> Error)>,
    panics: bool,
    forgets: bool,
    /// Calls of this kind wait until this is `None`.
    waits: Option<Does>,
    /// How many do.
    waiting: usize,
}

/// A keyring in memory.
#[derive(Clone, Default)]
struct Fake(Arc<(Mutex<State>, Condvar)>);

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    fn keys(&self) -> KeyringKey {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap();
        set_default_store(Arc::new(self.clone()));
        let keys = KeyringKey::new("tower-reauth-tests").unwrap();
        drop(unset_default_store());
        keys
    }

    fn secret(&self) -> Option<String> {
        self.state().secrets.values().next().map(|secret| String::from_utf8(secret.clone()).unwrap())
    }

    fn answer(&self) {
        self.state().waits = None;
        self.0.1.notify_all();
    }

    /// Until so many calls wait.
    fn until_waiting(&self, calls: usize) {
        while self.state().waiting < calls {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn does(&self, what: Does) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.state();
        state.did.push(what);
        if state.waits == Some(what) {
            state.waiting += 1;
            state = self.0.1.wait_while(state, |state| state.waits == Some(what)).unwrap();
            state.waiting -= 1;
        }
        if state.panics {
            drop(state);
            panic!("a keyring that panics");
        }
        match state.fault.take_if(|(at, _)| *at == what) {
            Some((_, error)) => Err(error()),
            None => Ok(state),
        }
    }
}

impl CredentialStoreApi for Fake {
    fn vendor(&self) -> String {
        "fake".into()
    }

    fn id(&self) -> String {
        "fake".into()
    }

    fn build(&self, service: &str, user: &str, _: Option<&HashMap<&str, &str>>) -> Result<Entry, Error> {
        Ok(Entry::new_with_credential(Arc::new(Cred(self.clone(), (service.into(), user.into())))))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Cred(Fake, (String, String));

impl CredentialApi for Cred {
    fn set_secret(&self, secret: &[u8]) -> Result<(), Error> {
        let mut state = self.0.does(Does::Set)?;
        if !state.forgets {
            state.secrets.insert(self.1.clone(), secret.to_vec());
        }
        Ok(())
    }

    fn get_secret(&self) -> Result<Vec<u8>, Error> {
        self.0.does(Does::Get)?.secrets.get(&self.1).cloned().ok_or(Error::NoEntry)
    }

    fn delete_credential(&self) -> Result<(), Error> {
        self.0.does(Does::Delete)?.secrets.remove(&self.1).map(drop).ok_or(Error::NoEntry)
    }

    fn get_credential(&self) -> Result<Option<Arc<keyring_core::Credential>>, Error> {
        Ok(None)
    }

    fn get_specifiers(&self) -> Option<(String, String)> {
        Some(self.1.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn account() -> AccountKey {
    "a".repeat(64).parse().unwrap()
}

fn kind<T>(outcome: Result<T, StoreError>) -> Result<(), StoreErrorKind> {
    outcome.map(drop).map_err(|error| error.kind())
}

#[tokio::test]
async fn an_entry_per_account_with_a_key_per_epoch() {
    let fake = Fake::default();
    let keys = fake.keys();
    let first = keys.current(&account(), 2).await.unwrap();
    assert_eq!(keys.clone().current(&account(), 2).await.unwrap().id(), first.id());
    let second = keys.current(&account(), 3).await.unwrap();
    assert_ne!(first.id(), second.id());
    let names: Vec<_> = fake.state().secrets.keys().cloned().collect();
    assert_eq!(names, [("tower-reauth-tests".to_owned(), account().to_string())]);
    let secret = fake.secret().unwrap();
    assert!(secret.starts_with("{\"format\":1,") && secret.contains(second.id()), "{secret}");
    assert!(keys.find(&account(), first.id()).await.unwrap().is_some());

    keys.destroy(&account(), 3).await.unwrap();
    assert!(keys.find(&account(), first.id()).await.unwrap().is_none());
    fake.state().did.clear();
    keys.destroy(&account(), 3).await.unwrap();
    assert_eq!(fake.state().did, [Does::Get], "nothing is written for nothing");
    keys.destroy(&account(), 4).await.unwrap();
    assert!(fake.secret().is_none());
    assert!(format!("{keys:?}").contains("tower-reauth-tests"));
}

#[test]
fn a_name_is_needed() {
    assert_eq!(kind(KeyringKey::new("")), Err(StoreErrorKind::Denied));
}

/// A failure at any step is told, and what is in the keyring stays.
#[tokio::test]
async fn failures_change_nothing() {
    let failures: [(fn() -> Error, StoreErrorKind); 4] = [
        (|| Error::PlatformFailure("no bus".into()), StoreErrorKind::Unavailable),
        (|| Error::NoStorageAccess("locked".into()), StoreErrorKind::Denied),
        (|| Error::BadEncoding(b"hunter2".to_vec()), StoreErrorKind::Corrupt),
        (|| Error::Ambiguous(Vec::new()), StoreErrorKind::Denied),
    ];
    for (failure, told) in failures {
        let fake = Fake::default();
        let keys = fake.keys();
        let key = keys.current(&account(), 2).await.unwrap();
        let before = fake.secret();
        for at in [Does::Get, Does::Set] {
            fake.state().fault = Some((at, failure));
            assert_eq!(kind(keys.current(&account(), 3).await), Err(told), "{at:?}");
            assert_eq!(fake.secret(), before, "{at:?}");
        }
        for at in [Does::Get, Does::Delete] {
            fake.state().fault = Some((at, failure));
            assert_eq!(kind(keys.destroy(&account(), 3).await), Err(told), "{at:?}");
            assert_eq!(fake.secret(), before, "{at:?}");
        }
        assert_eq!(keys.find(&account(), key.id()).await.unwrap().unwrap().id(), key.id());
    }
}

/// What cannot be read is never overwritten, nor removed.
#[tokio::test]
async fn an_unreadable_entry_is_never_overwritten() {
    let fake = Fake::default();
    let keys = fake.keys();
    keys.current(&account(), 2).await.unwrap();
    for secret in ["hunter2", "", "{\"format\":1}", "{\"format\":7}"] {
        *fake.state().secrets.values_mut().next().unwrap() = secret.into();
        fake.state().did.clear();
        for outcome in [kind(keys.current(&account(), 3).await), kind(keys.destroy(&account(), 9).await)] {
            assert!(matches!(outcome, Err(StoreErrorKind::Corrupt | StoreErrorKind::NewerVersion)), "{outcome:?}");
        }
        assert_eq!(fake.state().did, [Does::Get, Does::Get]);
    }
}

/// A key that the keyring takes and does not keep seals nothing.
#[tokio::test]
async fn a_forgetful_keyring_is_found_out() {
    let fake = Fake::default();
    fake.state().forgets = true;
    assert_eq!(kind(fake.keys().current(&account(), 2).await), Err(StoreErrorKind::Unavailable));
}

#[tokio::test]
async fn a_keyring_that_panics_is_unavailable() {
    let fake = Fake::default();
    let keys = fake.keys();
    fake.state().panics = true;
    assert_eq!(kind(keys.find(&account(), "some").await), Err(StoreErrorKind::Unavailable));
    fake.state().panics = false;
    assert_eq!(kind(keys.find(&account(), "some").await), Ok(()));
}

/// Whoever stopped waiting has nothing written: somebody else may hold the lease by the time the person answers.
#[tokio::test]
async fn what_was_given_up_is_not_written() {
    let fake = Fake::default();
    let keys = fake.keys();
    fake.state().waits = Some(Does::Get);
    let mine = account();
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, keys.current(&mine, 2)).await.is_err());
    // While the keyring waits, others wait for their turn without a thread.
    for _ in 0..20 {
        assert!(tokio::time::timeout(Duration::from_millis(1), keys.current(&mine, 2)).await.is_err());
    }
    assert_eq!(fake.state().waiting, 1);
    assert_eq!(fake.state().did, [Does::Get]);
    fake.answer();
    let key = keys.current(&mine, 4).await.unwrap();
    assert_eq!(fake.state().did, [Does::Get, Does::Get, Does::Set, Does::Get], "the first one wrote nothing");
    let secret = fake.secret().unwrap();
    assert!(secret.contains(key.id()) && !secret.contains("\"epoch\":2"), "{secret}");
}

/// No runtime waits for a keyring that waits for a person, and none is needed for what is still running.
#[test]
fn a_runtime_ends_while_a_keyring_waits() {
    let fake = Fake::default();
    let keys = fake.keys();
    fake.state().waits = Some(Does::Get);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let asked = runtime.spawn({
        let keys = keys.clone();
        async move { kind(keys.current(&account(), 2).await) }
    });
    fake.until_waiting(1);
    let (end, begun) = (std::thread::spawn(move || drop(runtime)), Instant::now());
    while !end.is_finished() && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(end.is_finished(), "the runtime waits for the keyring");
    drop(asked);
    fake.answer();
    // Another runtime goes on.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(async { kind(keys.current(&account(), 2).await) }), Ok(()));
}

/// The store is the one of the moment when `new` was called.
#[test]
fn the_store_is_taken_once() {
    let fake = Fake::default();
    let keys = fake.keys(); // which unsets it again
    let store: Arc<CredentialStore> = Arc::new(Fake::default());
    drop(store);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(keys.current(&account(), 2)).is_ok());
    assert!(fake.secret().is_some());
}
