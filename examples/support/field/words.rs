//! What an interface would say. Cells have room for a word.

use std::time::Duration;
use tower_reauth::{DenyReason, Remedy};

pub(crate) fn word(reason: DenyReason) -> &'static str {
    match reason {
        DenyReason::Locked => "locked",
        DenyReason::SignedOut => "signed out",
        DenyReason::NeverAuthenticated => "nobody",
        DenyReason::ReauthRequired => "sign in",
        DenyReason::StepUpRequired => "unlock",
        DenyReason::OnlineRequired => "online",
        DenyReason::OfflineWindowExpired => "too long",
        DenyReason::ReadOnly => "read-only",
        DenyReason::MissingGrant => "no grant",
        DenyReason::ClockUntrusted => "clock",
        DenyReason::UnknownCapability => "unknown",
        _ => "denied",
    }
}

pub(crate) fn advice(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::Connect => "connect once",
        Remedy::SignIn => "sign in",
        Remedy::Unlock => "unlock",
        Remedy::ContactAdmin => "ask an administrator",
        _ => "nothing that the user can do",
    }
}

/// At most so many letters of a text.
pub(crate) fn short(text: &str, letters: usize) -> String {
    match text.char_indices().nth(letters) {
        Some(_) => text.chars().take(letters - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

pub(crate) fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        s if s % 86_400 == 0 && s > 2 * 86_400 => format!("{} d", s / 86_400),
        s if s % 3600 == 0 => format!("{} h", s / 3600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}
