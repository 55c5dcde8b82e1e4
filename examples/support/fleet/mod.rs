//! Many processes, one login.
//!
//! `parent` starts the server and the processes, signs in once and counts. Each process is a `session` client, or with
//! `--naive` a `naive` one; it keeps a `diary`, whose pages it sends to the parent.

pub(crate) mod child;
mod diary;
mod naive;
pub(crate) mod parent;
mod report;
mod session;

use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

/// Of an access token.
const LIFETIME: Duration = Duration::from_secs(2);
/// What the token endpoint takes to answer.
const EXCHANGE: Duration = Duration::from_millis(50);

/// Where the sessions are kept.
#[derive(PartialEq, Eq)]
pub(crate) enum Store {
    File,
    /// The URL.
    Redis(String),
}

pub(crate) struct Options {
    pub(crate) processes: u16,
    pub(crate) seconds: u64,
    pub(crate) store: Store,
    pub(crate) naive: bool,
    pub(crate) json: bool,
}

/// What a process is told to do. It comes through a pipe: the URL of a Redis may hold a password.
#[derive(Clone, Serialize, Deserialize)]
struct Job {
    /// Of the server.
    origin: String,
    client: Client,
}

#[derive(Clone, Serialize, Deserialize)]
enum Client {
    FileStore(PathBuf),
    RedisStore(String),
    /// The file with the tokens.
    Naive(PathBuf),
}
