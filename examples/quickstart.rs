//! The main job, on this machine alone: a refresh storm turns into one refresh, and the session lives through a 401, a
//! lost network, a denial and a revoked grant.
//!
//! ```text
//! cargo run --example quickstart
//! cargo run --example quickstart -- --json
//! ```

#[path = "support/server.rs"]
mod server;
#[path = "support/story.rs"]
mod story;

use server::LocalServer;
use std::{process::ExitCode, time::Duration};
use tower_reauth::{BoxError, Tokens};

/// Of an access token.
const LIFETIME: Duration = Duration::from_secs(1);
/// Long enough that a thousand callers wait for it.
const EXCHANGE: Duration = Duration::from_millis(100);

impl story::Backend for LocalServer {
    fn token_endpoint(&self) -> String {
        format!("{}/token", self.origin())
    }

    fn api(&self) -> String {
        format!("{}/jobs", self.origin())
    }

    fn client_id(&self) -> &'static str {
        "quickstart"
    }

    fn lifetime(&self) -> Duration {
        LIFETIME
    }

    async fn sign_in(&self) -> Result<Tokens, BoxError> {
        Ok(Self::sign_in(self))
    }

    async fn revoke_grant(&self) -> Result<(), BoxError> {
        Self::revoke_grant(self);
        Ok(())
    }
}

const USAGE: &str = "usage: quickstart [--json]\n\n  --json   print one JSON object as the last line\n";

#[tokio::main]
async fn main() -> ExitCode {
    let mut json = false;
    for option in std::env::args_os().skip(1).map(|option| option.to_string_lossy().into_owned()) {
        match option.as_str() {
            "--json" => json = true,
            "-h" | "--help" => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprint!("quickstart: unknown option {other:?}\n\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let backend = match LocalServer::start(LIFETIME, EXCHANGE).await {
        Ok(backend) => backend,
        Err(error) => {
            eprintln!("quickstart: no server on loopback: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("An authorization server and an API run at {} (in this process).\n", backend.origin());
    story::tell(backend, json).await
}
