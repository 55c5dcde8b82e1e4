//! The example `cli_login` as real processes against a real authorization server: one login, many starts at once.
#![cfg(all(feature = "__server-tests", unix))]
#![allow(clippy::unwrap_used)] // a test

#[path = "support/oidc.rs"]
mod oidc;

use futures_util::future::join_all;
use oidc::OidcServer;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds that the first access token lives: longer than a login takes after it was issued.
const LIFETIME: u64 = 4;

/// The program, and a place of its own for its login.
struct Program {
    path: PathBuf,
    home: TempDir,
    /// Where it puts its key.
    keys: &'static str,
    /// The session bus: of nobody, unless a test starts one. Never that of whoever runs the tests.
    bus: String,
}

impl Program {
    /// Builds the example as it is now; a test target cannot depend on one.
    async fn build() -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--locked", "--all-features", "--example", "cli_login"])
            .args(["--message-format", "json"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        assert!(built.status.success(), "the example does not build");
        let messages = String::from_utf8(built.stdout).unwrap();
        let path = messages.lines().find_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            let ours = message["target"]["name"] == "cli_login" && message["target"]["kind"] == json!(["example"]);
            if ours { message["executable"].as_str().map(PathBuf::from) } else { None }
        });
        let path = path.expect("cargo names the program");
        Self { path, home: tempfile::tempdir().unwrap(), keys: "file", bus: "unix:path=/nonexistent".into() }
    }

    fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command
            .arg("--state")
            .arg(self.state())
            .args(words)
            .env("DBUS_SESSION_BUS_ADDRESS", &self.bus)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, words: &[&str]) -> Output {
        timeout(PATIENCE, self.command(words).output()).await.expect("the program ends").unwrap()
    }

    /// Signs in while a person enters the code in a browser. What it said.
    async fn log_in(&self, server: &OidcServer, user: &str) -> String {
        let words = ["login", "--issuer", server.issuer(), "--client-id", "pub", "--keys", self.keys];
        let mut child = self.command(&words).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut all = String::new();
        while !all.contains(" enter the code ") {
            let read = timeout(PATIENCE, said.read_line(&mut all)).await.expect("the program says something").unwrap();
            assert_ne!(read, 0, "no code to enter: {all}");
        }
        server.approve_device(all.trim().rsplit(' ').next().unwrap(), user).await;
        let output = timeout(PATIENCE, child.wait_with_output()).await.expect("the program ends").unwrap();
        said.read_to_string(&mut all).await.unwrap();
        assert_eq!(stdout(&output), format!("signed in as {user}"), "{all}");
        all
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn shows(dir: &Path, text: &str) -> bool {
    files(dir).iter().any(|file| fs::read(file).unwrap().windows(text.len()).any(|part| part == text.as_bytes()))
}

/// Exit code 3: somebody has to sign in.
fn assert_signed_out(output: &Output) {
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(stdout(output).is_empty() && stderr(output).contains("sign in with `cli_login login`"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_13_one_login_serves_programs_that_are_started_at_once_around_an_expiry() {
    let (program, server) =
        tokio::join!(Program::build(), async { OidcServer::start_with(&[("AT_TTL", &LIFETIME.to_string())]).await });
    assert_signed_out(&program.run(&["whoami"]).await);
    let said = program.log_in(&server, "alice").await;
    let expiry = Instant::now() + Duration::from_secs(LIFETIME); // or a little before
    assert!(said.contains("WARNING") && said.contains("as if it were not encrypted"), "a weak choice is loud: {said}");
    server.reset().await;

    // Six just before the token expires, six just after it.
    server.set(json!({ "accessTtl": 600 })).await;
    let start = async |early: bool| {
        let at = if early { expiry - Duration::from_millis(700) } else { expiry };
        sleep(at.saturating_duration_since(Instant::now())).await;
        program.run(&["whoami"]).await
    };
    let outputs = join_all((0..12).map(|i| start(i < 6))).await;
    for output in &outputs {
        assert!(output.status.success() && stdout(output) == "alice", "{output:?}");
    }
    let counts = server.counts().await;
    assert_eq!((counts.token_requests, counts.refresh_success, counts.reuse_revocations), (1, 1, 0));

    // P16: what lies on the disk shows no token, and its key to nobody else.
    let tokens = server.held_tokens().await;
    assert!(tokens.len() >= 3, "two generations: {}", tokens.len());
    let state = program.state();
    assert!(shows(&state, server.issuer()), "the search finds what is there");
    for token in &tokens {
        assert!(!shows(&state, token), "a token in the clear in {}", state.display());
        assert!(!said.contains(token));
        assert!(outputs.iter().all(|output| !stdout(output).contains(token) && !stderr(output).contains(token)));
    }
    let keys = files(&state.join("keys"));
    assert_eq!(keys.len(), 1);
    assert_eq!(
        (fs::metadata(&keys[0]).unwrap().mode() & 0o777, fs::metadata(state.join("keys")).unwrap().mode() & 0o777),
        (0o600, 0o700)
    );

    // A second login would orphan the first.
    let again = program.run(&["login", "--issuer", server.issuer(), "--client-id", "pub", "--keys", "file"]).await;
    assert!(again.status.code() == Some(1) && stderr(&again).contains("logout"), "{again:?}");
    assert_eq!(server.counts().await.token_requests, 1);

    let out = program.run(&["logout"]).await;
    assert!(out.status.success() && stdout(&out) == "signed out", "{out:?}");
    assert_eq!(server.counts().await.revocation_requests, 1, "revoked before the program ended");
    assert!(server.held_tokens().await.is_empty());
    assert!(files(&state.join("keys")).is_empty(), "the key is destroyed");
    for _ in 0..2 {
        assert_signed_out(&program.run(&["whoami"]).await);
    }
    assert_eq!(server.counts().await.token_requests, 1);
}

#[tokio::test]
async fn a_login_that_the_server_ended_asks_for_a_new_one() {
    let (program, server) =
        tokio::join!(Program::build(), async { OidcServer::start_with(&[("AT_TTL", "600")]).await });
    program.log_in(&server, "alice").await;
    server.disable("alice").await;
    for _ in 0..2 {
        assert_signed_out(&program.run(&["whoami"]).await);
    }
    server.enable("alice").await;
    program.log_in(&server, "alice").await;
    assert_eq!(stdout(&program.run(&["whoami"]).await), "alice");
}

/// A key that is gone for good is no dead end.
#[tokio::test]
async fn a_login_whose_key_is_lost_can_be_given_up() {
    let (program, server) =
        tokio::join!(Program::build(), async { OidcServer::start_with(&[("AT_TTL", "600")]).await });
    program.log_in(&server, "alice").await;
    fs::remove_dir_all(program.state().join("keys")).unwrap();
    for word in ["whoami", "logout"] {
        let output = program.run(&[word]).await;
        assert_eq!(output.status.code(), Some(1), "perhaps it comes back: {output:?}");
        assert!(stderr(&output).contains("sign in with `cli_login login`"), "what to do is said: {output:?}");
    }
    program.log_in(&server, "alice").await;
    assert_eq!(stdout(&program.run(&["whoami"]).await), "alice");
}

#[tokio::test]
async fn without_a_keyring_the_fall_back_is_named_and_not_taken() {
    let program = Program::build().await;
    let login = program.run(&["login", "--issuer", "http://127.0.0.1:9", "--client-id", "pub"]).await;
    assert_eq!(login.status.code(), Some(1), "{login:?}");
    assert!(stderr(&login).contains("--keys file"), "{login:?}");
    assert!(!program.state().exists(), "nothing was done");
}

/// A session bus with an unlocked keyring. It ends when this is dropped, or the test is killed.
#[cfg(target_os = "linux")]
async fn keyring_session() -> (tokio::process::Child, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/keyring-session");
    let mut session = Command::new(script)
        .args(["unlocked", "sh", "-c", "echo \"$DBUS_SESSION_BUS_ADDRESS\"; exec sleep 600"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut bus = String::new();
    let mut said = BufReader::new(session.stdout.take().unwrap());
    timeout(PATIENCE, said.read_line(&mut bus)).await.expect("the keyring starts").unwrap();
    assert!(
        bus.starts_with("unix:"),
        "no keyring session ({bus:?}): run ./tests/run once, which installs what it needs"
    );
    (session, bus.trim().to_owned())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_login_with_its_key_in_the_keyring_opens_with_the_keyring_only() {
    let (mut program, server, (_session, bus)) =
        tokio::join!(Program::build(), OidcServer::start_with(&[("AT_TTL", "600")]), keyring_session());
    let nowhere = std::mem::replace(&mut program.bus, bus.clone());
    program.keys = "keyring";
    let said = program.log_in(&server, "alice").await;
    assert!(!said.contains("WARNING"), "{said}");
    let state = program.state();
    assert!(!state.join("keys").exists() && shows(&state, server.issuer()));
    for token in server.held_tokens().await {
        assert!(!shows(&state, &token), "a token in the clear in {}", state.display());
    }
    assert_eq!(stdout(&program.run(&["whoami"]).await), "alice");

    // A keyring that is not there is no sign-out.
    program.bus = nowhere;
    let without = program.run(&["whoami"]).await;
    assert!(without.status.code() == Some(1) && stderr(&without).contains("keyring"), "{without:?}");
    program.bus = bus;
    assert_eq!(stdout(&program.run(&["whoami"]).await), "alice");

    assert_eq!(stdout(&program.run(&["logout"]).await), "signed out");
    assert_signed_out(&program.run(&["whoami"]).await);
}
