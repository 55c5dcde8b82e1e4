//! Several accounts in one program: who is known, which of them a request is of, and that nothing of one touches another
//! (P12, cases 36 and 37).
#![cfg(feature = "test-util")]
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests start tasks and read tokio's clock

#[path = "accounts/above.rs"]
mod above;
#[path = "accounts/apart.rs"]
mod apart;
#[path = "accounts/choice.rs"]
mod choice;
#[path = "accounts/directory.rs"]
mod directory;
#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/fuse.rs"]
mod fuse;
#[path = "support/keys.rs"]
mod keys;
#[path = "support/kit.rs"]
mod kit;
#[path = "support/pin.rs"]
mod pin;
#[path = "accounts/reentrant.rs"]
mod reentrant;
#[path = "accounts/restored.rs"]
mod restored;
#[path = "support/rig.rs"]
mod rig;
#[path = "accounts/switch.rs"]
mod switch;
#[path = "accounts/time.rs"]
mod time;
#[path = "support/town.rs"]
mod town;
#[path = "accounts/unreadable.rs"]
mod unreadable;
#[path = "support/world.rs"]
mod world;

use tower_reauth::{AccountId, AuthError, ErrorKind};

fn ids<const N: usize>(subjects: [&str; N]) -> [AccountId; N] {
    subjects.map(AccountId::new)
}

fn kind_of<T>(outcome: Result<T, AuthError>) -> Result<T, ErrorKind> {
    outcome.map_err(|error| error.kind())
}
