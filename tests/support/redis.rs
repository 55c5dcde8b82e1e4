//! A private `redis-server` of one test: on a free port, with its data in memory where the machine offers that, gone
//! with the test, however the test ends.
//!
//! Include it with `#[path = "support/redis.rs"] mod redis_server;`. A server that cannot start is a failed test, never
//! a skipped one. All waiting here is for real input and output: do not pause tokio's time in a test that uses it.
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use redis::{FromRedisValue, aio::MultiplexedConnection};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tower_reauth::RedisStore;

const INSTALL: &str = "run ./tests/run once, which installs redis-server";
const START: Duration = Duration::from_secs(20);

/// Says the server's process id, and ends it when standard input closes, as it does when the test is killed: then the
/// directory goes too. A line on standard input ends the server alone.
const KEEPER: &str = r#"dir=$1; shift
redis-server "$@" </dev/null >"$dir/out" 2>&1 &
pid=$!
echo $pid
if read -r _; then gone=0; else gone=1; fi
kill -9 $pid; wait $pid
if [ $gone = 1 ]; then rm -rf -- "$dir"; fi"#;

#[derive(Debug)]
pub struct Redis {
    port: u16,
    settings: Vec<String>,
    dir: TempDir,
    keeper: Option<(Child, u32)>,
}

impl Redis {
    /// Without persistence.
    pub fn start() -> Self {
        Self::start_with(&["--appendonly", "no"])
    }

    /// One that keeps all it acknowledged.
    pub fn durable() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    pub fn start_with(settings: &[&str]) -> Self {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("tower-reauth-redis-").tempdir_in(root).unwrap();
        let settings = settings.iter().map(|word| (*word).to_owned()).collect();
        let mut redis = Self { port: 0, settings, dir, keeper: None };
        for _ in 0..5 {
            redis.port = free_port();
            if redis.run() {
                return redis;
            }
        }
        panic!("redis-server does not start: {}", redis.words());
    }

    /// A file beside the server's data, which goes with it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn words(&self) -> String {
        let words = std::fs::read_to_string(self.file("out")).unwrap_or_default();
        format!("{words}\n({INSTALL})")
    }

    fn run(&mut self) -> bool {
        let installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        assert!(installed.is_ok(), "there is no `redis-server` on the path: {INSTALL}");
        let data = self.file("data");
        std::fs::create_dir_all(&data).unwrap();
        let _ = std::fs::remove_file(self.file("out")); // of an earlier one
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(self.dir.path())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
            .arg("--dir")
            .arg(&data)
            .args(&self.settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.keeper = Some((keeper, line.trim().parse().expect("a process id")));
        let start = Instant::now();
        while start.elapsed() < START {
            let log = std::fs::read_to_string(self.file("out")).unwrap_or_default();
            if log.contains("Ready to accept connections") {
                return true;
            }
            if log.contains("Failed listening") || log.contains("FATAL") || log.contains("not found") {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.end();
        false
    }

    fn end(&mut self) {
        if let Some((mut keeper, _)) = self.keeper.take() {
            let _ = keeper.stdin.take().unwrap().write_all(b"end\n");
            let _ = keeper.wait();
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.keeper.as_ref().expect("it runs").1.to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    // ----- what a test does to it -----

    /// It answers nobody, though its port is open.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// As a service manager does; afterwards connections are refused.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(start.elapsed() < START, "redis-server does not stop: {}", self.words());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.end();
    }

    /// `SIGKILL`.
    pub fn kill(&mut self) {
        self.end();
    }

    /// Again after [`stop`](Self::stop) or [`kill`](Self::kill), on the same port, with what it had written down.
    pub fn start_again(&mut self) {
        assert!(self.keeper.is_none(), "stop it first");
        assert!(self.run(), "redis-server does not start again: {}", self.words());
    }

    /// Again after the same, without its data.
    pub fn start_empty(&mut self) {
        std::fs::remove_dir_all(self.file("data")).unwrap();
        self.start_again();
    }

    // ----- talking to it -----

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A store with a connection of its own: another machine.
    pub async fn store(&self) -> RedisStore {
        RedisStore::connect(&self.url()).await.expect("a Redis that runs")
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.expect("a Redis that runs")
    }

    /// The answer to a command, past every store.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection().await).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub async fn flush(&self) {
        self.ask::<()>(&["FLUSHALL"]).await;
    }

    /// The one key that ends so.
    pub async fn key(&self, end: &str) -> String {
        let keys = self.ask::<Vec<String>>(&["KEYS", &format!("*{end}")]).await;
        assert_eq!(keys.len(), 1, "{keys:?}");
        keys.into_iter().next().unwrap()
    }

    /// The one lease runs out now; its holder does not know.
    pub async fn end_lease(&self) {
        let gone: u32 = self.ask(&["DEL", &self.key(":lease").await]).await;
        assert_eq!(gone, 1);
    }

    /// How many clients are connected, this one not counted.
    pub async fn clients(&self) -> usize {
        self.ask::<String>(&["CLIENT", "LIST"]).await.lines().count() - 1
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.end();
    }
}

/// Out of the range from which the system gives ports to whoever asks for any: it is still free after a restart.
fn free_port() -> u16 {
    loop {
        let port = 10_000 + u16::try_from(getrandom::u32().unwrap() % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
