//! The parts of the example: what is asked for, the weeks that are played, and how they are shown.

pub(crate) mod matrix;
pub(crate) mod options;
pub(crate) mod picture;
pub(crate) mod table;
mod words;

pub(crate) use options::Options;
