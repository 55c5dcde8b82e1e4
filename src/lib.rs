//! Tower middleware for HTTP *clients* that log in once and must stay logged in.
//!
//! [`AuthLayer`] wraps any tower `Service` of `http::Request`, or of `reqwest::Request`. It attaches the access token, but
//! only to the origins it may go to; refreshes it before it expires, with exactly one exchange however many requests want
//! one; on a 401 refreshes and replays once; saves a rotated refresh token before anybody uses what came with it; and asks
//! a gate before it forwards a command.
//!
//! ```
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_reauth::{AuthLayer, BoxError, Origins, Session, Tokens, refresh_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
//! // What gets new tokens: `OAuth2Refresher`, `ClientCredentials`, or a closure.
//! let refresher = refresh_fn(async |_grant| Ok(Tokens::new("second").with_refresh_token("r2")));
//! let session = Session::builder(refresher).open("alice").await?;
//! session.sign_in(Tokens::new("first").with_refresh_token("r1")).await?;
//!
//! // A server that no longer takes the first token.
//! let client = service_fn(async |request: http::Request<String>| {
//!     let status = if request.headers()["authorization"] == "Bearer second" { 200 } else { 401 };
//!     http::Response::builder().status(status).body(request.into_body())
//! });
//! let api = AuthLayer::new(session, Origins::new(["https://api.example.com"])?).layer(client);
//!
//! let request = http::Request::post("https://api.example.com/jobs").body(String::from("once"))?;
//! let response = api.oneshot(request).await?;
//! assert_eq!((response.status().as_u16(), response.into_body().as_str()), (200, "once"));
//! # Ok(()) }
//! ```
//!
//! # What happens when
//!
//! | what happens | what the caller sees | what the session does |
//! |---|---|---|
//! | the token is fresh | the answer | nothing: no lock, no allocation of its own |
//! | the token is about to expire | the answer | refreshes in the background |
//! | the token has expired | the answer, after one exchange for all who wait | refreshes |
//! | a 401 of ours | the answer to the replay | refreshes; the request is sent at most twice |
//! | a 401 that cannot be replayed | that 401 | refreshes for the others |
//! | a 401 that cannot be cured | that 401, with an [`AuthError`] in its extensions | see the next rows |
//! | `insufficient_scope`, `insufficient_user_authentication` | that response, with a [`Challenge`] in its extensions | nothing |
//! | the token endpoint is out of reach | [`ErrorKind::Unavailable`] once the token is spent | `OfflineStale`; quiet for a while, then once more |
//! | `invalid_grant` | [`ErrorKind::ReauthRequired`] once the token is spent | `ReauthRequired`; a token that still runs stays in use |
//! | a 401 that the client below fetched from another origin | that response | nothing: the token was not refused there |
//! | the gate says no | [`ErrorKind::Denied`] with a reason and a remedy | an [`AuthEvent`] |
//! | the gate wants an unlock, and there is a [`StepUp`] | the answer, after one prompt for all who wait | remembers it for as long as it counts |
//! | a request to another origin | the answer | nothing: no token leaves |
//! | an allowed host over plain http | [`ErrorKind::InsecureOrigin`] | nothing |
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `file` | `FileStore`: one login for the processes of a machine |
//! | `redis` | `RedisStore`: one login for many machines; `redis-rustls` adds `rediss://`, with the system's roots |
//! | `sealed` | `Sealed`: what a store keeps, encrypted; `KeySource` for keys of your own |
//! | `keyring` | `KeyringKey`: those keys in the platform's keyring |
//! | `hyper-client` | `HyperTokens`: a small client for token requests, hyper over rustls with the system's roots |
//! | `reqwest` | `reqwest::Client` behind the layer, its requests as they are; `ReqwestTokens` for token requests |
//! | `reqwest-middleware` | `AuthMiddleware`: the layer as a link of a reqwest-middleware chain |
//! | `tonic` | `grpc_status`: this crate's errors as a `tonic::Status` |
//! | `policy-toml` | `OfflinePolicy::from_toml`; JSON is read without it |
//! | `oauth2` | `Tokens` from the answers of the `oauth2` crate, whose flows sign in |
//! | `test-util` | `ManualClock`; `Situation` for tests of a gate; `store_contract!` for stores of your own |
//! | `full` | everything but `test-util` |
//!
//! # In a stack
//!
//! The layer goes directly around the client, inside redirects, retries, timeouts and traces. A picture, and the reason for
//! each neighbour: [`guide::stacks`].
//!
//! # Several processes, one login
//!
//! What the stores promise to processes and machines that share a login, and what they cannot:
//! [`guide::several_processes`].
//!
//! # Several accounts
//!
//! [`SessionBuilder::open_accounts`] restores all that a store has, and [`AuthLayer::for_accounts`] lets each request say
//! whose it is. Accounts share what the builder says, and nothing else.
//!
//! ```
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_reauth::{AccountId, AuthLayer, BoxError, Origins, Session, Tokens, refresh_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
//! let accounts = Session::builder(refresh_fn(async |_| Ok(Tokens::new("next")))).open_accounts().await?;
//! let alice = accounts.open("alice").await?;
//! alice.sign_in(Tokens::new("alice's")).await?;
//! accounts.open("bob").await?.sign_in(Tokens::new("bob's")).await?;
//! accounts.set_active(alice.account())?;
//!
//! let client = service_fn(async |request: http::Request<String>| {
//!     Ok::<_, std::convert::Infallible>(http::Response::new(request.headers()["authorization"].clone()))
//! });
//! let api = AuthLayer::for_accounts(accounts, Origins::new(["https://api.example.com"])?).layer(client);
//!
//! let mine = http::Request::get("https://api.example.com/me").body(String::new())?;
//! assert_eq!(api.clone().oneshot(mine).await?.into_body(), "Bearer alice's");
//! let his = http::Request::get("https://api.example.com/me").extension(AccountId::new("bob")).body(String::new())?;
//! assert_eq!(api.oneshot(his).await?.into_body(), "Bearer bob's");
//! # Ok(()) }
//! ```
//!
//! # Time
//!
//! Expiry and offline windows are judged by *trusted time*, which nobody gains by turning the clock:
//!
//! - Every answer of the token endpoint that has a `Date`, errors included, is an *anchor*: it replaces what was believed,
//!   and a clock that counts suspended time carries it on. Until the machine is started again, the wall clock plays no role.
//! - Before the first anchor since the machine was started, the wall clock counts, corrected by what the last anchor taught
//!   about it; but never less than the greatest trusted time seen so far, the *mark*, which itself goes on as long as the
//!   machine is on.
//! - If the wall clock is behind that by more than two minutes, somebody has turned it back: gates are told that time cannot
//!   be trusted ([`GateContext::now`] is `None`), and a policy denies what hangs on it as [`DenyReason::ClockUntrusted`]
//!   until the next contact with the token endpoint. Tokens go on: the server judges those.
//! - A clock that was ahead, by ten years even, is healed by the next anchor, and what was written down by it is corrected.
//!   The `Date` of any other server that gets a token only says that it is not earlier, and that until an anchor says
//!   otherwise.
//!
//! The mark belongs to the machine: [`SystemClock::with_mark`] keeps it in a file; without it, it lasts as long as the
//! process. What is left as a risk, while nobody can be asked:
//!
//! - Whoever starts the machine anew and sets the clock to just past the mark, each time, gains the time since the mark was
//!   last kept: that the machine was off, or that no session kept it. It is kept when a server has told something new, once
//!   a minute while a gate is asked, and by [`Session::close`]. Where the start of the machine is not known (see
//!   [`SystemClock`]), starting the program anew is enough.
//! - Whoever deletes the file gains the time since the last token answer.
//! - A virtual machine that is paused, or put back to a snapshot, does not count that time.
//!
//! Rules that ask for the server ("online") are the answer to that. Sign-ins should have the `Date` of their answer
//! ([`Tokens::with_date`]), and so should what a closure returns: without one the wall clock is all there is.
//!
//! # Runtime
//!
//! Sessions need a tokio runtime with its timer. Without one their calls answer [`ErrorKind::Misconfigured`].
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
// Outside tests every `unwrap` needs a reason that it cannot fail, and none has one.
#![warn(clippy::unwrap_used)]
// What may stand in one file only: see clippy.toml.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod account;
mod adapters;
mod clock;
mod denial;
mod error;
mod event;
mod failure;
#[cfg(any(doc, doctest))]
pub mod guide;
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
#[cfg(feature = "reqwest-middleware")]
pub use adapters::AuthMiddleware;
#[cfg(feature = "tonic")]
pub use adapters::grpc_status;
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
#[cfg(feature = "test-util")]
pub use offline::Situation;
pub use offline::{
    Connectivity, Explanation, Finding, GateContext, OfflineGate, OfflinePolicy, Permit, Rule, Sensitivity, StepUp,
    WhenReauthRequired, gate_fn,
};
pub use origin::Origins;
#[cfg(feature = "hyper-client")]
pub use refresher::HyperTokens;
#[cfg(feature = "reqwest")]
pub use refresher::ReqwestTokens;
pub use refresher::{
    ClientAuth, ClientCredentials, OAuth2Refresher, RefreshGrant, Refresher, RevokeGrant, Revoked, SharedRefresher,
    refresh_fn,
};
pub use session::{Accounts, KeepFresh, Session, SessionBuilder, SignOut, StateWatch};
pub use state::{AuthState, LockCause, ReauthCause, SignedOutCause};
#[cfg(feature = "file")]
pub use store::FileStore;
#[cfg(feature = "keyring")]
pub use store::KeyringKey;
#[cfg(feature = "redis")]
pub use store::RedisStore;
#[cfg(feature = "test-util")]
#[doc(hidden)]
pub use store::contract as __contract;
#[cfg(feature = "sealed")]
pub use store::{KeySource, Sealed, SealingKey};
pub use store::{LeaseGuard, MemoryStore, SessionStore, SharedStore, StoreError, StoreErrorKind, Stored, Version};
pub use token::{AccessToken, Grants, RefreshToken, SignIn, Tokens};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
