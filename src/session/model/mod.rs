//! The session, as it is, run by shuttle's scheduler: which task goes on is decided at every lock, at every look at the
//! snapshot and at every answer of the store and the server.

mod prompts;
mod scheduler;
mod tests;
mod world;
