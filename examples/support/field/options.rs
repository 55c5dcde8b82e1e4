//! The command line.

use std::{ffi::OsString, path::PathBuf, time::Duration};
use tower_reauth::Grants;

#[derive(Default)]
pub(crate) struct Options {
    pub(crate) policy: Option<PathBuf>,
    pub(crate) picture: Option<PathBuf>,
    /// Ascending; empty: as the example likes.
    pub(crate) offline: Vec<Duration>,
    pub(crate) grants: Grants,
}

/// `None`: help is wanted.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let mut options = Options::default();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let name = argument.to_string_lossy().into_owned();
        if name == "--help" || name == "-h" {
            return Ok(None);
        }
        if !["--policy", "--picture", "--offline", "--scope", "--role"].contains(&name.as_str()) {
            return Err(format!("unknown option `{name}`"));
        }
        let value = arguments.next().ok_or_else(|| format!("`{name}` needs a value"))?;
        let text = value.to_string_lossy().into_owned();
        match name.as_str() {
            "--policy" => options.policy = Some(value.into()),
            "--picture" => options.picture = Some(value.into()),
            "--scope" => options.grants = options.grants.scope(text),
            "--role" => options.grants = options.grants.role(text),
            _ => options.offline = text.split(',').map(duration).collect::<Result<_, _>>()?,
        }
    }
    options.offline.sort_unstable();
    options.offline.dedup();
    Ok(Some(options))
}

const CENTURY: u64 = 36_525 * 86_400;

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write it as 30s, 5m, 12h or 7d");
    let text = text.trim();
    let unit = match text.chars().last().ok_or_else(wrong)? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    match u64::from(number) * unit {
        seconds if seconds > CENTURY => Err(format!("`{text}` is more than a century")),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}
