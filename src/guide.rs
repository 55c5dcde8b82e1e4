//! Chapters on what is larger than one item.

#[doc = include_str!("../docs/stacks.md")]
pub mod stacks {}

#[doc = include_str!("../docs/several-processes.md")]
pub mod several_processes {}

#[doc = include_str!("../docs/offline-policy.md")]
pub mod offline_policy {}
