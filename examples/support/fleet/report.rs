//! What is printed.

use super::{Options, Store, diary::Page};
use crate::server::Counts;
use serde::Serialize;
use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

/// Everything that was counted, and by whom: `page` by the processes, `server` by the server, the rest by the parent.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) page: Page,
    pub(crate) server: Counts,
    /// After the first one.
    pub(crate) sign_ins: u64,
    /// How processes ended that should not have.
    pub(crate) crashes: Vec<String>,
}

/// For programs.
#[derive(Serialize)]
struct Line {
    requests: u64,
    ok: u64,
    expiries: u64,
    exchanges: u64,
    reuse_events: u64,
    logouts: u64,
    /// `null` if nobody had to wait.
    wait_p50_ms: Option<f64>,
    wait_p99_ms: Option<f64>,
}

/// Every four ticks without a terminal.
const SELDOM: u64 = 4;

impl Report {
    /// One line that is written over, or plain lines, fewer of them.
    pub(crate) fn progress(&self, tick: u64, elapsed: Duration) {
        let terminal = std::io::stdout().is_terminal();
        if !terminal && !tick.is_multiple_of(SELDOM) {
            return;
        }
        let Self { page, server, .. } = self;
        let line = format!(
            "{:>4} s   requests {:<7} ok {:<7} expiries {:<4} exchanges {:<4} reuse {:<3} logouts {:<3}",
            elapsed.as_secs(),
            page.requests,
            page.ok,
            page.expiries(),
            server.exchanges,
            server.reuse_events,
            page.logouts,
        );
        if terminal {
            print!("\r{line}");
            let _ = std::io::stdout().flush();
        } else {
            println!("{}", line.trim_end());
        }
    }

    /// The table, what it means, and if it was asked for the JSON line. Answers whether all is as it should be.
    pub(crate) fn print(&self, options: &Options) -> bool {
        let Self { page, server, sign_ins, crashes } = self;
        let millis = |wait: Option<Duration>| wait.map(|wait| (wait.as_secs_f64() * 10_000.0).round() / 10.0);
        let (p50, p99) = (millis(page.wait(50)), millis(page.wait(99)));
        let shown = |wait: Option<f64>| wait.map_or("-".into(), |wait| format!("{wait} ms"));
        let row = |name: &str, figure: String, what: &str| println!("  {name:<13}{figure:>10}   {what}");

        println!();
        if std::io::stdout().is_terminal() {
            println!();
        }
        row("requests", page.requests.to_string(), "of all processes");
        row("ok", page.ok.to_string(), "answered with 200");
        row("expiries", page.expiries().to_string(), "times that the access token ran out while in use");
        row("exchanges", server.exchanges.to_string(), "token requests that the server got");
        row(
            "reuse events",
            server.reuse_events.to_string(),
            "spent refresh tokens that came back; each ended the login",
        );
        row("logouts", page.logouts.to_string(), "processes that found themselves signed out");
        if options.naive {
            row("sign-ins", sign_ins.to_string(), "that the user had to repeat");
        }
        row("p50 wait", shown(p50), "of requests that found no usable token,");
        row("p99 wait", shown(p99), &format!("until they left with one ({} did)", page.waits.len()));
        for (failure, times) in &page.failures {
            println!("  failed: {times} × {failure}");
        }
        for crash in crashes {
            println!("  crashed: {crash}");
        }
        println!();

        let one_each = server.exchanges == page.expiries();
        let as_promised = page.ok == page.requests && page.logouts + server.reuse_events == 0 && one_each;
        let n = options.processes;
        match (options.naive, as_promised) {
            (true, _) => {
                println!("{n} naive processes: the first two that refresh at one moment end the login of all.")
            }
            (false, true) => {
                println!("{n} processes, one login: one exchange each time the token ran out, no failed request.")
            }
            (false, false) => println!("{n} processes, one login, and it is NOT as promised: see above."),
        }
        if options.json {
            let line = Line {
                requests: page.requests,
                ok: page.ok,
                expiries: page.expiries(),
                exchanges: server.exchanges,
                reuse_events: server.reuse_events,
                logouts: page.logouts,
                wait_p50_ms: p50,
                wait_p99_ms: p99,
            };
            println!("{}", serde_json::to_string(&line).unwrap_or_default());
        }
        crashes.is_empty() && (options.naive || as_promised)
    }
}

/// What the run is about.
pub(crate) fn introduce(options: &Options, origin: &str) {
    let store = match (&options.store, options.naive) {
        (_, true) => "a file with the tokens, no lock",
        (Store::File, false) => "a FileStore",
        (Store::Redis(_), false) => "a RedisStore",
    };
    let Options { processes, seconds, .. } = options;
    println!("{processes} processes, one login in {store}, for {seconds} s.");
    println!("The server at {origin} gives tokens for {} s and takes", super::LIFETIME.as_secs());
    println!("{} ms for an exchange; a refresh token that is used twice ends the login.", super::EXCHANGE.as_millis());
    if options.naive {
        println!(
            "When that has happened, the user notices after {} s and signs in again.",
            super::parent::NOTICES.as_secs()
        );
        if options.store != Store::File {
            println!("(Naive clients keep a file of their own; --store is not used.)");
        }
    }
    println!();
}
