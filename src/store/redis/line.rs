//! The connection: shared by all, dialled when it is needed and again after it broke.

use crate::{
    clock::{Clock as _, SystemClock},
    store::{StoreError, StoreErrorKind},
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind,
    Value, aio::MultiplexedConnection,
};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How long a connection may take, with its handshakes.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take. A Redis that takes longer is as good as gone.
pub(super) const ANSWER: Duration = Duration::from_secs(3);

pub(super) struct Line {
    client: Client,
    /// Counts the connections, so that nobody hangs up a newer one than the one that failed him.
    ready: Mutex<(u64, Option<MultiplexedConnection>)>,
    /// Held by whoever dials: when somebody last did so in vain, and why.
    dialling: tokio::sync::Mutex<Option<(Duration, Fault)>>,
}

/// What Redis is asked.
#[derive(Clone, Copy)]
pub(super) enum Question<'a> {
    /// `EVALSHA`, and once more after `SCRIPT LOAD` if Redis has forgotten the script.
    Script(&'a ScriptInvocation<'a>),
    Command(&'a Cmd),
}

impl Question<'_> {
    async fn ask(self, connection: &mut MultiplexedConnection) -> Result<Value, RedisError> {
        match self {
            Self::Script(script) => script.invoke_async(connection).await,
            Self::Command(command) => command.query_async(connection).await,
        }
    }
}

impl Line {
    pub(super) fn open(url: &str) -> Result<Self, StoreError> {
        let scheme = url.trim_start().split(':').next().unwrap_or_default().to_ascii_lowercase();
        if matches!(scheme.as_str(), "rediss" | "valkeys") {
            tls()?;
        }
        // The parser's own words are dropped: they may quote a password.
        let client = Client::open(url.trim()).map_err(|_| Fault::denied("this is not the URL of a Redis"))?;
        Ok(Self { client, ready: Mutex::default(), dialling: tokio::sync::Mutex::default() })
    }

    /// Host and port: no user and no password.
    pub(super) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The answer. What is asked here must not mind being asked twice: a connection that was idle may have broken
    /// unseen, so that a question which gets no answer on one is put once more on a new one.
    pub(super) async fn ask<T: FromRedisValue>(&self, question: Question<'_>) -> Result<T, StoreError> {
        let (number, mut connection, used) = self.connection().await?;
        let mut answer = question.ask(&mut connection).await;
        if let Err(error) = &answer
            && is_broken(error)
        {
            self.hang_up(number);
            if used && error.is_connection_dropped() && !error.is_timeout() {
                let (number, mut connection, _) = self.connection().await?;
                answer = question.ask(&mut connection).await;
                if answer.as_ref().is_err_and(is_broken) {
                    self.hang_up(number);
                }
            }
        }
        let value = answer.map_err(|error| Fault::from(&error))?;
        let understood = redis::from_redis_value(value);
        Ok(understood.map_err(|_| Fault::new(StoreErrorKind::Unavailable, "Redis gave an answer of another shape"))?)
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, (u64, Option<MultiplexedConnection>)> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<(u64, MultiplexedConnection)> {
        let ready = self.ready();
        ready.1.clone().map(|connection| (ready.0, connection))
    }

    /// The connection, its number, and whether it was there already.
    async fn connection(&self) -> Result<(u64, MultiplexedConnection, bool), Fault> {
        if let Some((number, connection)) = self.current() {
            return Ok((number, connection, true));
        }
        let clock = SystemClock::new();
        let asked = clock.monotonic();
        let mut dialling = self.dialling.lock().await;
        if let Some((number, connection)) = self.current() {
            return Ok((number, connection, false));
        }
        // Whoever waited while another one dialled in vain does not dial as well: a crowd would wait for its sum.
        if let Some((at, fault)) = dialling.as_ref().filter(|(at, _)| *at >= asked) {
            let _ = at;
            return Err(fault.clone());
        }
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                let mut ready = self.ready();
                *ready = (ready.0 + 1, Some(connection.clone()));
                Ok((ready.0, connection, false))
            }
            Err(error) => {
                let fault = Fault::from(&error);
                *dialling = Some((clock.monotonic(), fault.clone()));
                Err(fault)
            }
        }
    }

    fn hang_up(&self, number: u64) {
        let mut ready = self.ready();
        if ready.0 == number {
            ready.1 = None;
        }
    }
}

/// Whether another connection might do better. After a failover the old primary is a replica, which writes nothing.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(error.kind(), ErrorKind::Parse | ErrorKind::Server(ServerErrorKind::ReadOnly))
}

#[cfg(feature = "redis-rustls")]
fn tls() -> Result<(), Fault> {
    // The client asks for the provider of the process and panics if there are several to choose from; the application's
    // own choice counts.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    Ok(())
}

#[cfg(not(feature = "redis-rustls"))]
fn tls() -> Result<(), Fault> {
    Err(Fault::denied("`rediss://` needs the feature `redis-rustls` of tower-reauth"))
}

/// What went wrong, in our own words: Redis quotes what it was sent, passwords and records included.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    kind: StoreErrorKind,
    why: String,
}

impl Fault {
    pub(super) fn new(kind: StoreErrorKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    fn denied(why: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Denied, why)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Self::new(fault.kind).with_source(fault.why)
    }
}

impl From<&RedisError> for Fault {
    fn from(error: &RedisError) -> Self {
        use StoreErrorKind::{Corrupt, Denied, Unavailable};
        match error.kind() {
            ErrorKind::AuthenticationFailed => return Self::new(Denied, "Redis refused the user or the password"),
            ErrorKind::InvalidClientConfig => return Self::new(Denied, "Redis cannot be reached with these settings"),
            // Of this side: addresses, certificates, numbers of the operating system.
            ErrorKind::Io => return Self::new(Unavailable, error.to_string()),
            ErrorKind::Parse => return Self::new(Unavailable, "what answered is not a Redis"),
            _ => {}
        }
        // The error of a script's command stands in the text of an `ERR`, or keeps its code: versions of Redis differ.
        let said = |word| error.detail().is_some_and(|detail| detail.contains(word));
        if error.code() == Some("WRONGTYPE") || said("WRONGTYPE ") {
            return Self::new(Corrupt, "something else stands under a key of this account");
        }
        if said("The user executing the script can't") || said("NOPERM ") || said("ACL failure") {
            return Self::new(Denied, "the user of this store may not run all commands of its scripts in Redis");
        }
        // The code is the first word of the error; nothing but a code looks like one.
        let code = error.code().filter(|code| code.len() <= 20 && code.bytes().all(|b| b.is_ascii_uppercase()));
        match code {
            Some("NOAUTH" | "WRONGPASS") => Self::new(Denied, "Redis asks for another user or password"),
            Some("NOPERM") => Self::new(Denied, "the user of this store may not do that in Redis (NOPERM)"),
            Some("MOVED" | "ASK" | "CROSSSLOT") => Self::new(Denied, "this is a node of a Redis Cluster"),
            Some("OOM") => Self::new(Unavailable, "Redis is out of memory (OOM)"),
            Some("READONLY") => Self::new(Unavailable, "this Redis is a replica now (READONLY)"),
            Some(code) => Self::new(Unavailable, format!("Redis answered {code}")),
            None => Self::new(Unavailable, "Redis answered with an error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    /// P16.
    #[test]
    fn what_redis_quotes_is_not_handed_on() {
        let quoted = RedisError::from((
            ErrorKind::Client,
            "ERR unknown command",
            "`AUTH`, with args beginning with: `hunter2`".into(),
        ));
        let error = StoreError::from(Fault::from(&quoted));
        let text = format!("{error} {error:?} {:?}", error.source().map(ToString::to_string));
        assert!(!text.contains("hunter2"), "{text}");
    }

    /// P16.
    #[test]
    fn a_bad_url_is_not_quoted() {
        for url in ["redis://user:hunter2@[", "hunter2", "http://hunter2@localhost", "redis://:hunter2@h/not-a-number"]
        {
            let error = Line::open(url).err().expect(url);
            assert_eq!(error.kind(), StoreErrorKind::Denied);
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[cfg(not(feature = "redis-rustls"))]
    #[test]
    fn rediss_without_its_feature_says_so() {
        let error = Line::open("rediss://:hunter2@localhost").err().unwrap();
        assert_eq!(error.kind(), StoreErrorKind::Denied);
        let why = error.source().unwrap().to_string();
        assert!(why.contains("redis-rustls") && !why.contains("hunter2"), "{why}");
    }
}
