//! Where this crate meets others: impls for their types, and wrappers in their words.

#[cfg(feature = "oauth2")]
mod oauth2;
#[cfg(feature = "reqwest")]
mod reqwest;
#[cfg(feature = "reqwest-middleware")]
mod reqwest_middleware;
#[cfg(feature = "tonic")]
mod tonic;

#[cfg(feature = "reqwest-middleware")]
pub use reqwest_middleware::AuthMiddleware;
#[cfg(feature = "tonic")]
pub use tonic::grpc_status;
