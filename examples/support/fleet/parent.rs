//! The parent: the server, the one sign-in, the processes, and the sums.

use super::{
    Client, EXCHANGE, Job, LIFETIME, Options, Store,
    diary::{Diary, Page},
    naive,
    report::{self, Report},
    session,
};
use crate::server::LocalServer;
use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    task::JoinSet,
};
use tower_reauth::{BoxError, Session, SignOut};

/// The argument that makes a process one of the fleet.
pub(crate) const CHILD: &str = "--as-one-of-the-fleet";
/// After a logout.
pub(crate) const NOTICES: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(250);
/// Longer than any wait for the lease.
const PATIENCE: Duration = Duration::from_secs(90);

/// Answers whether all went as it should.
pub(crate) async fn run(options: &Options) -> Result<bool, BoxError> {
    let server = LocalServer::start(LIFETIME, EXCHANGE).await?;
    report::introduce(options, &server.origin());
    let dir = tempfile::Builder::new().prefix("fleet-").tempdir()?;
    let client = match &options.store {
        _ if options.naive => Client::Naive(dir.path().join("tokens.json")),
        Store::File => Client::FileStore(dir.path().join("sessions")),
        Store::Redis(url) => Client::RedisStore(url.clone()),
    };
    let mut user = User::new(&server, client.clone()).await?;
    let mut fleet = Fleet::start(options.processes).await?;
    user.sign_in().await?;
    fleet.tell(&serde_json::to_string(&Job { origin: server.origin(), client })?).await;

    let mut report = Report::default();
    let (start, mut ticks) = (Instant::now(), 0);
    let mut clock = tokio::time::interval(TICK);
    let mut enough = std::pin::pin!(interrupted());
    while start.elapsed() < Duration::from_secs(options.seconds) && !fleet.is_gone() {
        tokio::select! {
            Some(page) = fleet.pages.recv() => report.page.add(page),
            _ = clock.tick() => {
                ticks += 1;
                report.server = server.counts();
                report.progress(ticks, start.elapsed());
                user.look().await?;
            }
            () = &mut enough => break,
        }
    }
    fleet.tell("stop").await;
    report.crashes = fleet.end(&mut report.page).await;
    report.server = server.counts();
    report.sign_ins = user.sign_ins - 1;
    user.leave().await?;
    dir.close()?;
    Ok(report.print(options))
}

/// Resolves when somebody wants the run to end now.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut term) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = term.recv() => return,
                _ = tokio::signal::ctrl_c() => return,
            }
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// Who signs in: once, and among naive processes again after each logout.
struct User<'a> {
    server: &'a LocalServer,
    at: Desk,
    sign_ins: u64,
    out_since: Option<Instant>,
}

/// Where the tokens of a sign-in go.
enum Desk {
    Session(Session),
    Naive(PathBuf),
}

impl<'a> User<'a> {
    async fn new(server: &'a LocalServer, client: Client) -> Result<Self, BoxError> {
        let at = match client {
            Client::Naive(path) => Desk::Naive(path),
            store => Desk::Session(session::open(&server.origin(), &store, &Diary::default()).await?),
        };
        Ok(Self { server, at, sign_ins: 0, out_since: None })
    }

    async fn sign_in(&mut self) -> Result<(), BoxError> {
        self.sign_ins += 1;
        self.out_since = None;
        let tokens = self.server.sign_in();
        match &self.at {
            Desk::Session(session) => Ok(session.sign_in(tokens).await?),
            Desk::Naive(path) => naive::sign_in(path, self.sign_ins, &tokens),
        }
    }

    /// Signs in again some time after a logout. With sessions there is nothing to mend: a logout stays, and shows.
    async fn look(&mut self) -> Result<(), BoxError> {
        if matches!(self.at, Desk::Naive(_)) && !self.server.is_signed_in() {
            let since = *self.out_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= NOTICES {
                self.sign_in().await?;
            }
        }
        Ok(())
    }

    /// Leaves no session behind, in a Redis that others use too.
    async fn leave(self) -> Result<(), BoxError> {
        if let Desk::Session(session) = self.at {
            session.sign_out(SignOut::Hard).await?;
            session.close().await?;
        }
        Ok(())
    }
}

/// The processes.
struct Fleet {
    pages: mpsc::UnboundedReceiver<Page>,
    orders: Vec<ChildStdin>,
    /// Each ends with its process, and answers how that ended if not well.
    members: JoinSet<Option<String>>,
}

impl Fleet {
    /// Starts them and waits until all are there.
    async fn start(processes: u16) -> Result<Self, BoxError> {
        let program = std::env::current_exe()?;
        let (tx, pages) = mpsc::unbounded_channel();
        let (mut orders, mut members, mut started) = (Vec::new(), JoinSet::new(), Vec::new());
        for _ in 0..processes {
            let mut command = Command::new(&program);
            command.arg(CHILD).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            #[cfg(unix)]
            command.process_group(0); // Ctrl-C is for the parent, which tells the others
            started.push(command.spawn()?);
        }
        for mut child in started {
            let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
                return Err("a process without pipes".into());
            };
            let mut lines = BufReader::new(stdout).lines();
            lines.next_line().await?.ok_or("a process ended before it began")?;
            orders.push(stdin);
            members.spawn(follow(child, lines, tx.clone()));
        }
        Ok(Self { pages, orders, members })
    }

    /// A line for everybody. Who is gone does not hear it.
    async fn tell(&mut self, line: &str) {
        for orders in &mut self.orders {
            let _ = orders.write_all(format!("{line}\n").as_bytes()).await;
        }
    }

    /// Whether none is left.
    fn is_gone(&self) -> bool {
        self.pages.is_closed()
    }

    /// Waits until all have ended, and takes their last pages. Answers how those ended that did not end well.
    async fn end(mut self, page: &mut Page) -> Vec<String> {
        let mut crashes = Vec::new();
        let all = async {
            while let Some(member) = self.members.join_next().await {
                crashes.extend(member.unwrap_or_else(|error| Some(error.to_string())));
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            crashes.push(format!("{} processes did not stop within {} s", self.members.len(), PATIENCE.as_secs()));
            self.members.abort_all();
        }
        while let Ok(last) = self.pages.try_recv() {
            page.add(last);
        }
        crashes
    }
}

/// Passes the pages of one process on until it ends.
async fn follow(
    mut child: Child,
    mut lines: Lines<BufReader<ChildStdout>>,
    pages: mpsc::UnboundedSender<Page>,
) -> Option<String> {
    let id = child.id().unwrap_or_default();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(page) => drop(pages.send(page)),
            Err(error) => return Some(format!("process {id} wrote what is no page: {error}")),
        }
    }
    match child.wait().await {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("process {id}: {status}")),
        Err(error) => Some(format!("process {id}: {error}")),
    }
}
