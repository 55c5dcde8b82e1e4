//! One process of the fleet. It says that it is there, gets its job, works until it is told to stop, and sends its diary
//! page by page.

use super::{Client, Job, diary::Diary, naive, session};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{
    io::{BufRead, Write},
    process::ExitCode,
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tower_reauth::BoxError;

/// How many requests a process has under way at once, and the pause between two of a row.
const ROWS: usize = 4;
const PAUSE: Duration = Duration::from_millis(250);
const PAGE: Duration = Duration::from_millis(250);

pub(crate) type Http = legacy::Client<HttpConnector, Full<Bytes>>;

pub(crate) fn main() -> ExitCode {
    let work = || {
        write(&Diary::default())?; // here
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        let job: Job = serde_json::from_str(&line)?;
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work(job, orders()))
    };
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet, process {}: {error}", std::process::id());
            ExitCode::FAILURE
        }
    }
}

/// Becomes `true` when the process has to stop. The parent's end, however it comes, closes the pipe; nobody is to go on
/// after it.
fn orders() -> watch::Receiver<bool> {
    let (tx, rx) = watch::channel(false);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_ok_and(|line| line == "stop") {
                tx.send_replace(true);
            }
        }
        std::process::exit(3)
    });
    rx
}

async fn work(job: Job, stop: watch::Receiver<bool>) -> Result<(), BoxError> {
    let diary = Diary::default();
    let http = legacy::Client::builder(TokioExecutor::new()).build_http();
    let mut rows = JoinSet::new();
    let mut session = None;
    match &job.client {
        Client::Naive(path) => {
            let api = naive::Api::new(path.clone(), &job.origin, http, diary.clone());
            for _ in 0..ROWS {
                let (api, stop) = (api.clone(), stop.clone());
                rows.spawn(async move {
                    while !*stop.borrow() {
                        api.call().await?;
                        sleep(PAUSE).await;
                    }
                    Ok::<_, BoxError>(())
                });
            }
        }
        client => {
            let session = session.insert(session::open(&job.origin, client, &diary).await?);
            let api = session::Api::new(session.clone(), &job.origin, http, diary.clone())?;
            for _ in 0..ROWS {
                let (mut api, stop) = (api.clone(), stop.clone());
                rows.spawn(async move {
                    while !*stop.borrow() {
                        api.call().await?;
                        sleep(PAUSE).await;
                    }
                    Ok::<_, BoxError>(())
                });
            }
        }
    }
    let mut pages = tokio::time::interval(PAGE);
    loop {
        tokio::select! {
            row = rows.join_next() => match row {
                Some(ended) => ended??,
                None => break,
            },
            _ = pages.tick() => write(&diary)?,
        }
    }
    if let Some(session) = session {
        session.close().await?;
    }
    Ok(write(&diary)?)
}

fn write(diary: &Diary) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &diary.tear_out())?;
    out.write_all(b"\n")?;
    out.flush()
}
