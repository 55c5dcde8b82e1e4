//! Where a session stands, and the one pure function that moves it.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where a session stands, and what moves it:
///
/// | from \ input | signed in | renewed | out of reach, token spent | grant rejected | locked | signed out |
/// |---|---|---|---|---|---|---|
/// | `SignedOut` | `Active` | `Active` | – | – | `Locked` | `SignedOut` |
/// | `Active` | `Active` | `Active` | `OfflineStale` | `Active { reauth_pending }`, or `ReauthRequired` once the token is spent | `Locked` | `SignedOut` |
/// | `OfflineStale` | `Active` | `Active` | – (keeps its `since`) | `ReauthRequired` | `Locked` | `SignedOut` |
/// | `ReauthRequired` | `Active` | `Active` | – | – (the newest cause) | `Locked` | `SignedOut` |
/// | `Locked` | `Active` | – | – | – | `Locked` | `SignedOut` |
///
/// `–`: nothing changes. A spent access token turns `Active { reauth_pending }` into `ReauthRequired`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthState {
    /// No tokens.
    SignedOut(SignedOutCause),
    /// Tokens are usable.
    #[non_exhaustive]
    Active {
        /// The refresh token was refused; the access token still runs.
        reauth_pending: bool,
        /// The newest tokens are not durable yet.
        unsaved: bool,
    },
    /// The access token is spent and the token endpoint is out of reach.
    #[non_exhaustive]
    OfflineStale {
        /// Since when, in trusted time.
        since: SystemTime,
    },
    /// The user has to sign in again.
    ReauthRequired(ReauthCause),
    /// The account is locked.
    Locked(LockCause),
}

/// Why nobody is signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignedOutCause {
    /// Nobody ever signed in.
    Never,
    /// `Session::sign_out` here.
    Here,
    /// Another process signed out, or the record was removed.
    Elsewhere,
}

/// Why the user has to sign in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReauthCause {
    /// `invalid_grant`.
    Revoked,
    /// `invalid_grant` after an exchange whose answer never arrived: a rotation may have been lost.
    RotationLost,
    /// Three bare refusals in a row.
    Rejected,
}

/// Why the account is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LockCause {
    /// A signal of the token endpoint.
    AccountDisabled,
    /// A resource server said so.
    ResourceServer,
    /// The application said so.
    Application,
}

impl fmt::Display for AuthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SignedOut(cause) => f.write_str(match cause {
                SignedOutCause::Never => "nobody has signed in",
                SignedOutCause::Here => "signed out",
                SignedOutCause::Elsewhere => "signed out elsewhere",
            }),
            Self::Active { reauth_pending, unsaved } => {
                f.write_str("active")?;
                f.write_str(if *unsaved { ", with tokens that are not saved yet" } else { "" })?;
                f.write_str(if *reauth_pending { ", until the access token expires" } else { "" })
            }
            Self::OfflineStale { since } => match printable(*since) {
                true => write!(f, "without a fresh token since {}", httpdate::fmt_http_date(*since)),
                false => f.write_str("without a fresh token"),
            },
            Self::ReauthRequired(cause) => f.write_str(match cause {
                ReauthCause::Revoked => "has to sign in again: the refresh token was refused",
                ReauthCause::RotationLost => "has to sign in again: the last refresh may have been lost",
                ReauthCause::Rejected => "has to sign in again: the token endpoint refused three times",
            }),
            Self::Locked(cause) => f.write_str(match cause {
                LockCause::AccountDisabled => "locked: the account is disabled",
                LockCause::ResourceServer => "locked by a resource server",
                LockCause::Application => "locked by the application",
            }),
        }
    }
}

/// HTTP dates have years of four digits, and begin with 1970.
fn printable(time: SystemTime) -> bool {
    const END: Duration = Duration::from_secs(253_402_300_800);
    time.duration_since(UNIX_EPOCH).is_ok_and(|since| since < END)
}

/// What moves a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A new epoch begins: a sign-in, here or elsewhere.
    SignedIn {
        unsaved: bool,
    },
    /// A newer token set of this epoch was published.
    Renewed {
        unsaved: bool,
    },
    /// The newest tokens are durable now.
    Saved,
    /// The access token is spent and no new one can be had now.
    OutOfReach {
        now: SystemTime,
    },
    /// The server refused the grant. `usable`: the access token still runs.
    Rejected {
        cause: ReauthCause,
        usable: bool,
    },
    Locked(LockCause),
    SignedOut(SignedOutCause),
}

/// The transition: see the table of [`AuthState`].
pub(crate) fn next(state: &AuthState, input: Input) -> AuthState {
    use AuthState as S;
    match (state, input) {
        (_, Input::SignedIn { unsaved }) => S::Active { reauth_pending: false, unsaved },
        (_, Input::Locked(cause)) => S::Locked(cause),
        (_, Input::SignedOut(cause)) => S::SignedOut(cause),
        (S::Locked(_), _) => state.clone(),
        (_, Input::Renewed { unsaved }) => S::Active { reauth_pending: false, unsaved },
        (S::Active { reauth_pending, .. }, Input::Saved) => {
            S::Active { reauth_pending: *reauth_pending, unsaved: false }
        }
        (S::Active { .. }, Input::OutOfReach { now }) => S::OfflineStale { since: now },
        (S::Active { unsaved, .. }, Input::Rejected { usable: true, .. }) => {
            S::Active { reauth_pending: true, unsaved: *unsaved }
        }
        (S::Active { .. } | S::OfflineStale { .. } | S::ReauthRequired(_), Input::Rejected { cause, .. }) => {
            S::ReauthRequired(cause)
        }
        (S::SignedOut(_) | S::OfflineStale { .. } | S::ReauthRequired(_), _) => state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> impl Strategy<Value = AuthState> {
        prop_oneof![
            Just(AuthState::SignedOut(SignedOutCause::Here)),
            (any::<bool>(), any::<bool>())
                .prop_map(|(reauth_pending, unsaved)| AuthState::Active { reauth_pending, unsaved }),
            Just(AuthState::OfflineStale { since: UNIX_EPOCH }),
            Just(AuthState::ReauthRequired(ReauthCause::Revoked)),
            Just(AuthState::Locked(LockCause::Application)),
        ]
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            any::<bool>().prop_map(|unsaved| Input::SignedIn { unsaved }),
            any::<bool>().prop_map(|unsaved| Input::Renewed { unsaved }),
            Just(Input::Saved),
            Just(Input::OutOfReach { now: UNIX_EPOCH }),
            any::<bool>().prop_map(|usable| Input::Rejected { cause: ReauthCause::RotationLost, usable }),
            Just(Input::Locked(LockCause::AccountDisabled)),
            Just(Input::SignedOut(SignedOutCause::Elsewhere)),
        ]
    }

    proptest! {
        /// P8: only proof ends a session; being out of reach never does.
        #[test]
        fn only_a_rejection_leads_to_reauth_and_only_a_lock_to_locked(from in state(), on in input()) {
            let to = next(&from, on);
            if matches!(to, AuthState::ReauthRequired(_)) && from != to {
                prop_assert!(matches!(on, Input::Rejected { .. }), "rejected by {on:?}");
            }
            if matches!(to, AuthState::Locked(_)) && from != to {
                prop_assert!(matches!(on, Input::Locked(_)), "locked by {on:?}");
            }
            if matches!(to, AuthState::SignedOut(_)) && from != to {
                prop_assert!(matches!(on, Input::SignedOut(_)), "signed out by {on:?}");
            }
        }

        #[test]
        fn every_input_is_idempotent(from in state(), on in input()) {
            let once = next(&from, on);
            prop_assert_eq!(next(&once, on), once);
        }

        #[test]
        fn a_lock_ends_with_a_sign_in_or_a_sign_out_only(on in input()) {
            let locked = AuthState::Locked(LockCause::Application);
            let ends = matches!(on, Input::SignedIn { .. } | Input::SignedOut(_));
            prop_assert_eq!(!matches!(next(&locked, on), AuthState::Locked(_)), ends);
        }
    }

    #[test]
    fn offline_since_is_kept() {
        let later = UNIX_EPOCH + std::time::Duration::from_secs(5);
        let stale = AuthState::OfflineStale { since: UNIX_EPOCH };
        assert_eq!(next(&stale, Input::OutOfReach { now: later }), stale);
    }
}
