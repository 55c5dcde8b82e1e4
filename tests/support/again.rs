//! Runs a test once more in a process of its own, under other conditions: a full disk, a user without privileges.
#![allow(dead_code, unreachable_pub)] // each test takes what it needs

use std::{env, process::Command};

const INSIDE: &str = "TOWER_REAUTH_TEST_AGAIN";

/// Whether this is the process under other conditions. If not, that one is started through `sh`, whose script ends with
/// `exec "$@"`, and has to pass.
pub fn under(test: &str, script: &str) -> bool {
    if env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return true;
    }
    let this = env::current_exe().unwrap();
    let done = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(this)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .output()
        .unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && told.contains("1 passed"), "{test} under other conditions: {told}");
    false
}
