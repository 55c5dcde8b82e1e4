//! Where this crate meets others: impls for their types, and wrappers in their words.

#[cfg(feature = "oauth2")]
mod oauth2;
