//! Many processes, one login, on a server that ends it when a refresh token is used twice.
//!
//! Each process has a session on the same store and sends requests all the time. Access tokens live for 2 s, and when one
//! runs out, all processes want another at one moment. One of them makes the exchange; the others wait for it. `--naive`
//! shows what happens without the lease.
//!
//! ```text
//! cargo run --release --features file,hyper-client --example fleet -- --processes 16 --seconds 20
//! cargo run --release --features file,hyper-client --example fleet -- --naive
//! cargo run --release --features file,hyper-client,redis --example fleet -- --store redis://127.0.0.1/
//! ```

#[path = "support/fleet/mod.rs"]
mod fleet;
#[path = "support/server.rs"]
mod server;

use fleet::{Options, Store, child, parent};
use std::process::ExitCode;

const USAGE: &str = "usage: fleet [--processes N] [--seconds N] [--store file|redis://…] [--naive] [--json]

  --processes N  how many processes share the login (16)
  --seconds N    for how long (20)
  --store file   they share a FileStore in a temporary directory (the default)
  --store URL    they share a RedisStore: redis://host:port/, or rediss:// (features `redis`, `redis-rustls`)
  --naive        they share a file with the tokens, and nothing keeps two of them from refreshing at once
  --json         print one JSON object as the last line
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|it| it.to_string_lossy().into_owned()).collect();
    if arguments.iter().eq([parent::CHILD]) {
        return child::main();
    }
    let options = match options(arguments.into_iter()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprint!("fleet: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if matches!(options.store, Store::Redis(_)) && !cfg!(feature = "redis") {
        eprintln!("fleet: this was built without Redis: add the feature, `--features file,hyper-client,redis`");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("fleet: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(parent::run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None`: help is wanted.
fn options(mut given: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options { processes: 16, seconds: 20, store: Store::File, naive: false, json: false };
    while let Some(option) = given.next() {
        let mut value = || given.next().ok_or(format!("{option} needs a value"));
        match option.as_str() {
            "--processes" => options.processes = count(&option, &value()?)?,
            "--seconds" => options.seconds = count(&option, &value()?)?.into(),
            "--store" => {
                options.store = match value()? {
                    store if store == "file" => Store::File,
                    url if url.starts_with("redis://") || url.starts_with("rediss://") => Store::Redis(url),
                    _ => return Err("--store is `file` or a redis:// URL".into()),
                }
            }
            "--naive" => options.naive = true,
            "--json" => options.json = true,
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    Ok(Some(options))
}

fn count(option: &str, value: &str) -> Result<u16, String> {
    match value.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("{option} needs a whole number from 1 to {}, not {value:?}", u16::MAX)),
    }
}
