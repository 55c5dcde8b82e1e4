//! [`KeyringKey`] on a real Secret Service: gnome-keyring, headless, in a session bus of the test's own. Keyrings that do
//! what real ones cannot be made to do are in `keyring_entry.rs`.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start threads

use keyring_core::{Entry, get_default_store, set_default_store, unset_default_store};
use std::{
    env,
    error::Error,
    io::Read as _,
    process::{Command, Stdio},
    time::Duration,
};
use tower_reauth::{AccountKey, FileStore, KeySource, KeyringKey, Sealed, SessionStore, StoreError, StoreErrorKind};
use zbus_secret_service_keyring_store::Store;

const INSIDE: &str = "TOWER_REAUTH_KEYRING_TEST";
const SECRETS: &str = "/org/freedesktop/secrets";

/// Whether this is the process inside a keyring session. If not, that one is started, and has to pass.
fn inside(kind: &str, test: &str) -> bool {
    if env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return true;
    }
    let mut session = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/keyring-session"))
        .arg(kind)
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .stdin(Stdio::piped()) // it ends when this process does
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let alive = session.stdin.take();
    let mut stderr = session.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut told = String::new();
        stderr.read_to_string(&mut told).map(|_| told)
    });
    let mut told = String::new();
    session.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    let done = session.wait().unwrap();
    drop(alive);
    let told = told + &errors.join().unwrap().unwrap();
    let missing = "gnome-keyring and dbus-run-session are needed: run ./tests/run";
    assert!(done.success() && told.contains("1 passed"), "{test} in a keyring session ({missing}): {told}");
    false
}

fn account(digit: &str) -> AccountKey {
    digit.repeat(64).parse().unwrap()
}

/// As a program does at its start; again is as good as another program.
fn start() -> KeyringKey {
    set_default_store(Store::new().unwrap());
    KeyringKey::new("tower-reauth-tests").unwrap()
}

fn entry(account: &AccountKey) -> Entry {
    get_default_store().unwrap().build("tower-reauth-tests", account.as_str(), None).unwrap()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), work).await.expect("a keyring that hangs") })
}

fn dbus(method: &str, argument: &str) -> String {
    let (path, method) = method.split_once(' ').unwrap();
    let dest = if path == SECRETS { "org.freedesktop.secrets" } else { "org.freedesktop.DBus" };
    let mut send = Command::new("dbus-send");
    send.args(["--session", "--print-reply=literal", &format!("--dest={dest}"), path, method, argument]);
    let reply = send.output().unwrap();
    assert!(reply.status.success(), "{}", String::from_utf8_lossy(&reply.stderr));
    String::from_utf8(reply.stdout).unwrap()
}

/// The kind of a failure, and what it says to do.
fn failure<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> (StoreErrorKind, String) {
    let error = outcome.unwrap_err();
    (error.kind(), error.source().map(ToString::to_string).unwrap_or_default())
}

#[test]
fn keys_live_in_the_keyring_until_they_are_destroyed() {
    if !inside("unlocked", "keys_live_in_the_keyring_until_they_are_destroyed") {
        return;
    }
    let (alice, bob) = (account("a"), account("b"));
    let keys = start();
    assert!(run(keys.find(&alice, "none")).unwrap().is_none());
    let [first, second] = [2, 3].map(|epoch| run(keys.current(&alice, epoch)).unwrap().id().to_owned());
    let other = run(keys.current(&bob, 2)).unwrap().id().to_owned();
    assert!(first != second && first != other);

    // The program is started again.
    let keys = start();
    assert_eq!(run(keys.current(&alice, 2)).unwrap().id(), first);
    for id in [&first, &second] {
        assert!(run(keys.find(&alice, id)).unwrap().is_some());
    }
    assert!(run(keys.find(&bob, &first)).unwrap().is_none(), "another account's");

    run(keys.destroy(&alice, 3)).unwrap();
    run(keys.destroy(&alice, 3)).unwrap();
    let keys = start();
    assert!(run(keys.find(&alice, &first)).unwrap().is_none());
    assert!(run(keys.find(&alice, &second)).unwrap().is_some());
    run(keys.destroy(&alice, 9)).unwrap();
    assert!(matches!(entry(&alice).get_secret(), Err(keyring_core::Error::NoEntry)), "nothing is left");
    assert_eq!(run(keys.current(&bob, 2)).unwrap().id(), other);
}

/// A sealed file and its key in the keyring, over two starts and a sign-out.
#[test]
fn a_sealed_file_opens_after_a_restart() {
    if !inside("unlocked", "a_sealed_file_opens_after_a_restart") {
        return;
    }
    let (dir, alice) = (tempfile::tempdir().unwrap(), account("a"));
    let open = || Sealed::new(FileStore::open(dir.path().join("sessions")).unwrap(), start());
    let store = open();
    run(async {
        let mut lease = store.lease(&alice, Duration::from_secs(9)).await.unwrap();
        store.save(&mut lease, None, b"a record").await.unwrap();
    });
    let store = open();
    run(async {
        let stored = store.load(&alice).await.unwrap().unwrap();
        assert_eq!(stored.bytes(), b"a record");
        store.raise_epoch(&alice, 3).await.unwrap();
        let mut lease = store.lease(&alice, Duration::from_secs(9)).await.unwrap();
        store.remove(&mut lease, Some(stored.version())).await.unwrap();
    });
    assert!(matches!(entry(&alice).get_secret(), Err(keyring_core::Error::NoEntry)), "the key is destroyed");
}

const WORKER: &str = "TOWER_REAUTH_KEYRING_WORKER";

/// Sixteen processes that all come first make one key: the lease of the file keeps the keyring's lack of one harmless.
#[test]
fn p07_sixteen_processes_make_one_key() {
    if !inside("unlocked", "p07_sixteen_processes_make_one_key") {
        return;
    }
    let alice = account("a");
    if let Ok(dir) = env::var(WORKER) {
        let store = Sealed::new(FileStore::open(dir).unwrap(), start());
        return run(async {
            let mut lease = store.lease(&alice, Duration::from_secs(9)).await.unwrap();
            let version = store.load(&alice).await.unwrap().map(|stored| stored.version().clone());
            store.save(&mut lease, version.as_ref(), b"a record").await.unwrap();
        });
    }
    let dir = tempfile::tempdir().unwrap();
    let start_one = |_| {
        let mut worker = Command::new(env::current_exe().unwrap());
        worker.args(["--exact", "p07_sixteen_processes_make_one_key", "--nocapture"]);
        worker.env(WORKER, dir.path().join("sessions")).stdout(Stdio::null()).spawn().unwrap()
    };
    let workers: Vec<_> = (0..16).map(start_one).collect();
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }
    let keys = start();
    let secret = String::from_utf8(entry(&alice).get_secret().unwrap()).unwrap();
    assert_eq!(secret.matches("\"id\"").count(), 1, "more than one key was made");
    let store = Sealed::new(FileStore::open(dir.path().join("sessions")).unwrap(), keys);
    assert_eq!(run(store.load(&alice)).unwrap().unwrap().bytes(), b"a record");
}

#[test]
fn a_locked_keyring_says_so() {
    if !inside("unlocked", "a_locked_keyring_says_so") {
        return;
    }
    let (alice, keys) = (account("a"), start());
    let id = run(keys.current(&alice, 2)).unwrap().id().to_owned();
    dbus(
        &format!("{SECRETS} org.freedesktop.Secret.Service.Lock"),
        "array:objpath:/org/freedesktop/secrets/collection/login",
    );
    for outcome in [
        run(keys.find(&alice, &id)).map(drop),
        run(keys.current(&alice, 2)).map(drop),
        run(keys.current(&account("b"), 2)).map(drop),
        run(keys.destroy(&alice, 9)),
    ] {
        let (kind, says) = failure(outcome);
        assert_eq!(kind, StoreErrorKind::Denied, "{says}");
        assert!(says.contains("unlock it"), "{says}");
    }
}

#[test]
fn a_keyring_without_a_collection_says_so() {
    if !inside("empty", "a_keyring_without_a_collection_says_so") {
        return;
    }
    let (alice, keys) = (account("a"), start());
    assert!(run(keys.find(&alice, "some")).unwrap().is_none(), "which proves nothing");
    let (kind, says) = failure(run(keys.current(&alice, 2)));
    assert_eq!(kind, StoreErrorKind::Denied, "{says}");
    assert!(says.contains("default keyring"), "{says}");
    run(keys.destroy(&alice, 9)).unwrap();
}

#[test]
fn a_bus_that_is_gone_says_so() {
    if !inside("unlocked", "a_bus_that_is_gone_says_so") {
        return;
    }
    let (alice, keys) = (account("a"), start());
    let id = run(keys.current(&alice, 2)).unwrap().id().to_owned();
    let bus = dbus("/ org.freedesktop.DBus.GetConnectionUnixProcessID", "string:org.freedesktop.DBus");
    let bus = bus.split_whitespace().last().unwrap().to_owned();
    assert!(Command::new("kill").args(["-9", &bus]).status().unwrap().success());
    for outcome in [run(keys.find(&alice, &id)).map(drop), run(keys.destroy(&alice, 9))] {
        let (kind, says) = failure(outcome);
        assert_eq!(kind, StoreErrorKind::Unavailable, "{says}");
        assert!(says.contains("session bus"), "{says}");
    }
    // A program that is started now gets no store to set, and says so by what `KeyringKey` asks for.
    assert!(matches!(Store::new(), Err(keyring_core::Error::PlatformFailure(_))));
    drop(unset_default_store());
    let (kind, says) = failure(KeyringKey::new("tower-reauth-tests"));
    assert!(kind == StoreErrorKind::Denied && says.contains("set_default_store"), "{says}");
}

/// Somebody else's secret under this name is nothing to overwrite.
#[test]
fn a_foreign_entry_is_never_overwritten() {
    if !inside("unlocked", "a_foreign_entry_is_never_overwritten") {
        return;
    }
    let (alice, keys) = (account("a"), start());
    for (foreign, kind) in [
        (&b"hunter2"[..], StoreErrorKind::Corrupt),
        (b"\xff\xfe\x00", StoreErrorKind::Corrupt),
        (br#"{"format":2}"#, StoreErrorKind::NewerVersion),
    ] {
        entry(&alice).set_secret(foreign).unwrap();
        assert_eq!(failure(run(keys.find(&alice, "some"))).0, kind);
        assert_eq!(failure(run(keys.current(&alice, 2))).0, kind);
        assert_eq!(failure(run(keys.destroy(&alice, 9))).0, kind);
        assert_eq!(entry(&alice).get_secret().unwrap(), foreign);
    }
}
