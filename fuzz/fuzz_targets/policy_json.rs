//! Policy files in JSON.
#![no_main]

#[path = "../../tests/support/policy_probe.rs"]
mod policy_probe;

use policy_probe::{Format, probe};

libfuzzer_sys::fuzz_target!(|text: &str| {
    probe(Format::Json, text);
});
