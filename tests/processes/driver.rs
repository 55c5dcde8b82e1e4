//! The driver's side of a worker: it starts it, tells it what to do, reads what it says, stops it and kills it.
#![allow(dead_code)] // each target takes what it needs

use crate::worker::{self, ORDERS, refresher};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::sync::mpsc;
use tower_reauth::{Session, SessionBuilder, SessionStore as _, SharedStore};

/// Longer than anything that is waited for here takes on a busy machine.
const ANSWER: Duration = Duration::from_secs(60);

/// A child process, killed when this is dropped, stopped or not.
pub struct Worker {
    pub name: String,
    child: Child,
    words: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<Value>,
}

/// Where a worker finds its store and its server.
#[derive(Clone, Debug)]
pub struct Site {
    /// A directory, or the URL of a Redis.
    pub store: String,
    pub endpoint: String,
    pub client: &'static str,
    pub background: bool,
    /// How long an exchange may take: leases are asked for that and 15 s more.
    pub patience: Duration,
}

impl Site {
    pub fn new(dir: &Path, endpoint: &str, client: &'static str) -> Self {
        Self::on(dir.join("sessions").to_str().unwrap(), endpoint, client)
    }

    pub fn on(store: &str, endpoint: &str, client: &'static str) -> Self {
        let (store, endpoint) = (store.to_owned(), endpoint.to_owned());
        Self { store, endpoint, client, background: false, patience: Duration::from_secs(30) }
    }

    pub async fn store(&self) -> SharedStore {
        worker::store(&self.store).await
    }

    /// A session in the driver's own process.
    pub async fn builder(&self) -> SessionBuilder {
        Session::builder(refresher(&self.endpoint, self.client, "driver"))
            .store(self.store().await)
            .background_refresh(false)
            .refresh_timeout(self.patience)
    }

    /// The record that is stored, as everybody would find it now: never torn, never gone.
    pub async fn record(&self) -> Option<Value> {
        let store = self.store().await;
        let keys = store.accounts().await.unwrap();
        let stored = store.load(keys.first()?).await.unwrap()?;
        Some(serde_json::from_slice(stored.bytes()).unwrap())
    }
}

impl Worker {
    /// Starts the same test program, as a worker.
    pub fn start(site: &Site) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("worker-{}", NUMBER.fetch_add(1, Ordering::SeqCst));
        let orders = json!({ "name": name, "store": site.store, "endpoint": site.endpoint, "client": site.client,
            "background": site.background, "patience": site.patience.as_secs_f64() });
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_worker_ends_with_its_driver", "--nocapture", "--test-threads=1"])
            .env(ORDERS, orders.to_string())
            // The server speaks plain http: reading the system's certificates would be most of the start.
            .env("SSL_CERT_FILE", "/dev/null")
            .env_remove("SSL_CERT_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (words, out) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let (tx, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            // A line that the kill has cut short is none.
            for line in out.lines().map_while(Result::ok) {
                if let Ok(said @ Value::Object(_)) = serde_json::from_str(&line) {
                    let _ = tx.send(said);
                }
            }
        });
        Self { name, child, words, lines }
    }

    /// Started, and its session restored: the state it found.
    pub async fn open(site: &Site) -> (Self, String) {
        let mut worker = Self::start(site);
        let said = worker.hear().await;
        assert_eq!((&said["did"], &said["error"]), (&json!("open"), &Value::Null), "the record cannot be opened");
        let state = text(&said["state"]);
        (worker, state)
    }

    pub fn tell(&mut self, word: &str) {
        // It may have ended: then nothing will be heard.
        let _ = self.words.as_mut().map(|words| writeln!(words, "{word}"));
    }

    /// The next thing it says.
    pub async fn hear(&mut self) -> Value {
        match tokio::time::timeout(ANSWER, self.lines.recv()).await {
            Ok(Some(said)) => said,
            Ok(None) => panic!("{} has ended", self.name),
            Err(_) => panic!("{} says nothing", self.name),
        }
    }

    /// Tells it to do something and waits until it did: its answer.
    pub async fn ask(&mut self, word: &str) -> Value {
        self.tell(word);
        self.answer(word).await
    }

    /// Its answer to what it was told before.
    pub async fn answer(&mut self, word: &str) -> Value {
        loop {
            let said = self.hear().await;
            if said["did"].as_str() == word.split(' ').next() {
                return said;
            }
        }
    }

    /// The same, for what must succeed: the access token it holds then.
    pub async fn done(&mut self, word: &str) -> String {
        let said = self.ask(word).await;
        assert_eq!(said["error"], Value::Null, "{} of {}: {said}", word, self.name);
        text(&said["token"])
    }

    /// Waits until it is in the trap: at which point, and which token it uses there.
    pub async fn trapped(&mut self) -> (String, Value) {
        let said = self.answer("trap").await;
        (text(&said["at"]), said["token"].clone())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// `SIGKILL`; answers all that it still had to say.
    pub async fn kill(&mut self) -> Vec<Value> {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{} ended by itself: {status}", self.name);
        self.rest().await
    }

    /// It ends by itself.
    pub async fn ended(&mut self) -> Vec<Value> {
        let rest = self.rest().await; // its output ends with it
        assert!(self.child.wait().unwrap().success());
        rest
    }

    async fn rest(&mut self) -> Vec<Value> {
        let mut rest = Vec::new();
        while let Some(said) = tokio::time::timeout(ANSWER, self.lines.recv()).await.expect("the end of its output") {
            rest.push(said);
        }
        rest
    }

    /// `SIGSTOP`, and it has stopped.
    pub fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let stopped = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "{} did not stop", self.name);
    }

    /// `SIGCONT`.
    pub fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Its input closes, as when the driver's process is killed: it ends.
    pub async fn orphan(mut self) {
        self.words = None;
        self.ended().await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
