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

use std::process::ExitCode;

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
    let backend = match server::LocalServer::start().await {
        Ok(backend) => backend,
        Err(error) => {
            eprintln!("quickstart: no server on loopback: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("An authorization server and an API run at {} (in this process).\n", backend.origin());
    story::tell(backend, json).await
}
