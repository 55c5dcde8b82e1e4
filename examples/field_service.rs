//! What a technician may do in a week without network: an offline policy, played through.
//!
//! A policy file says what each capability needs. This example signs in on Monday, goes offline, and asks the gate again
//! and again until the network is back: with and without an unlock just before, with an honest clock, with one that is
//! turned back to Monday, and with one that is turned back and a device that is restarted. It prints what is allowed and
//! what is denied, with the reason and what would help.
//!
//! ```text
//! cargo run --features policy-toml --example field_service -- --picture out.svg
//! cargo run --features policy-toml --example field_service -- --policy my-policy.toml --offline 30m,8h,3d --role lead
//! ```

#[path = "support/field/mod.rs"]
mod field;

use field::{Options, matrix, options};
use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};
use tower_reauth::{BoxError, OfflinePolicy};

const USAGE: &str =
    "usage: field_service [--policy FILE] [--picture FILE.svg] [--offline LIST] [--scope NAME] [--role NAME]

  --policy FILE    a policy of your own, TOML or (FILE.json) JSON; otherwise that of a field service
  --picture FILE   also draw the matrix, as an SVG picture
  --offline LIST   how long without network, for each column: 5m,12h,7d
  --scope NAME     what the user may do; can be given more than once
  --role NAME      who the user is; can be given more than once
";

/// The policy that ships with the example: the three tiers of a field service.
const FIELD_SERVICE: &str = include_str!("field_service.toml");

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            return if show(USAGE).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Err(problem) => {
            eprint!("field_service: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("field_service: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), BoxError> {
    let policy = read(options)?;
    let offline = match options.offline.as_slice() {
        [] => &[5, 6, 60, 12 * 60, 48 * 60, 49 * 60, 7 * 24 * 60, 8 * 24 * 60]
            .map(|minutes| Duration::from_secs(60 * minutes)),
        given => given,
    };
    let matrix = matrix::play(&policy, offline, &options.grants).await?;
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    show(&field::table::table(&policy, &matrix, colours))?;
    if let Some(path) = &options.picture {
        std::fs::write(path, field::picture::svg(&policy, &matrix))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        show(&format!("\nThe picture is in {}.\n", path.display()))?;
    }
    Ok(())
}

/// Whoever has stopped reading, such as `head`, has seen enough.
fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown,
    }
}

fn read(options: &Options) -> Result<OfflinePolicy, BoxError> {
    let Some(path) = &options.policy else { return Ok(OfflinePolicy::from_toml(FIELD_SERVICE)?) };
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    let json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let policy = if json { OfflinePolicy::from_json(&text) } else { OfflinePolicy::from_toml(&text) };
    Ok(policy.map_err(|error| named(&error))?)
}
