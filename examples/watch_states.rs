//! An interface in a terminal that follows a session: a banner, a screen that blocks, and commands that are greyed out with
//! the reason and what would help. It asks two things only: the stream of states, and the gate.
//!
//! `cargo run --features hyper-client --example watch_states`

#[path = "support/day.rs"]
mod day;
#[path = "support/server.rs"]
mod server;

use day::Day;
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::timeout;
use tower_reauth::{AuthState, BoxError, ReauthCause, Remedy, Session, SignedOutCause, StateWatch};

const COMMANDS: [&str; 3] = ["jobs.read", "jobs.complete", "invoices.pay"];

/// What the screen must say after each step of the day: a run of this example is a check.
const EXPECTED: [&str; 9] = [
    "Welcome! [Sign in]",
    "invoices.pay  (the user has to unlock first: enter your PIN)",
    "jobs.complete  (the server has to be reachable: connect)",
    "[jobs.complete]",
    "Please sign in again soon",
    "Your access was withdrawn",
    "[jobs.complete]",
    "jobs.read  (the user signed out: sign in)",
    "This account is locked",
];

/// What takes the place of everything else, until the user or somebody else has acted.
fn blocking(state: &AuthState) -> Option<&'static str> {
    match state {
        AuthState::SignedOut(SignedOutCause::Never) => Some("Welcome! [Sign in]"),
        AuthState::ReauthRequired(ReauthCause::Revoked) => Some("Your access was withdrawn. [Sign in again]"),
        AuthState::ReauthRequired(_) => Some("Your session has ended. [Sign in again]"),
        AuthState::Locked(_) => Some("This account is locked. Your administrator can tell you why."),
        _ => None,
    }
}

/// What stands above the commands, and leaves them alone: nobody is thrown out for being in a tunnel.
fn banner(state: &AuthState) -> Option<&'static str> {
    match state {
        AuthState::SignedOut(_) => Some("You are signed out."),
        AuthState::OfflineStale { .. } => Some("Offline. What you may do without the server goes on."),
        AuthState::Active { reauth_pending: true, .. } => {
            Some("Please sign in again soon: this session is about to end.")
        }
        AuthState::Active { unsaved: true, .. } => Some("Please keep this open: the disk does not take your session."),
        _ => None,
    }
}

/// A command, or why not. Asked for each drawing: the gate answers from memory.
fn command(session: &Session, name: &'static str) -> String {
    let Err(denial) = session.authorize(name) else { return format!("[{name}]") };
    let help = match denial.remedy() {
        Remedy::Connect => "connect",
        Remedy::SignIn => "sign in",
        Remedy::Unlock => "enter your PIN",
        Remedy::ContactAdmin => "ask your administrator",
        _ => "nothing that you can do",
    };
    format!(" {name}  ({}: {help})", denial.reason())
}

fn screen(session: &Session, state: &AuthState) -> String {
    if let Some(text) = blocking(state) {
        return format!("  ╞══ {text}");
    }
    let banner = banner(state).map(|text| format!("  ├── {text}\n")).unwrap_or_default();
    banner + &COMMANDS.map(|name| format!("  │ {}", command(session, name))).join("\n")
}

/// Draws each state as it comes, until the wanted one. In a program this is a task of its own, without an end.
async fn follow(session: &Session, watch: &mut StateWatch, wanted: &str) -> Result<(), BoxError> {
    while let Some(state) = watch.next().await {
        let screen = screen(session, &state);
        println!("{screen}");
        if screen.contains(wanted) {
            return Ok(());
        }
    }
    Err("the session is gone".into())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut day = Day::begin().await?;
    let (session, mut watch) = (day.session.clone(), day.session.watch());
    for wanted in EXPECTED {
        println!("{}", day.next().await?);
        let drawing = follow(&session, &mut watch, wanted);
        timeout(Duration::from_secs(10), drawing).await.map_err(|_| format!("the screen never said: {wanted}"))??;
    }
    Ok(session.close().await?)
}
