//! tower-reauth
#![cfg_attr(docsrs, feature(doc_cfg))]

mod account;
mod clock;
mod denial;
mod error;
mod event;
mod failure;
mod layer;
mod message;
mod offline;
mod origin;
mod refresher;
mod session;
mod state;
mod store;
mod token;

pub use account::{AccountId, AccountKey};
#[cfg(feature = "test-util")]
pub use clock::ManualClock;
pub use clock::{Clock, SystemClock};
pub use denial::{Capability, Denial, DenyReason, Remedy};
pub use error::{AuthError, BoxError, ErrorKind};
pub use event::{AuthEvent, Observer, observer_fn};
pub use failure::{FailureClassifier, FailureKind, RefreshError};
pub use layer::{
    AuthLayer, AuthService, BufferedBody, Challenge, CloneBody, EmptyOnly, ForwardStale, NeverReplay, Replay,
    ReplayBody, ResponseFuture, SkipAuth, grpc_unauthenticated,
};
pub use message::{HttpRequest, HttpResponse, RequestHead, ResponseHead};
pub use offline::{Connectivity, GateContext, OfflineGate, Permit, gate_fn};
pub use origin::Origins;
pub use refresher::{RefreshGrant, Refresher, RevokeGrant, Revoked, SharedRefresher, refresh_fn};
pub use session::{KeepFresh, Session, SessionBuilder, SignOut, StateWatch};
pub use state::{AuthState, LockCause, ReauthCause, SignedOutCause};
pub use store::{LeaseGuard, MemoryStore, SessionStore, SharedStore, StoreError, StoreErrorKind, Stored, Version};
pub use token::{AccessToken, Grants, RefreshToken, SignIn, Tokens};
