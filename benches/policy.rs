//! What a decision of a policy costs, beside one look-up in a `HashMap<String, _>`: in instructions, which are the same
//! whatever else the machine does, in nanoseconds, and in allocations.
//!
//! `cargo bench --bench policy` counts instructions with valgrind; without it that part fails and says so.

use std::{
    collections::HashMap,
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};
use tower_reauth::{Capability, GateContext, Grants, OfflineGate, OfflinePolicy, Rule, Sensitivity, Situation};

const HOUR: Duration = Duration::from_secs(3600);
/// The most instructions that a decision may take, in look-ups.
const MOST: f64 = 8.0;

/// What is done again and again, by name.
const WORK: [&str; 6] = ["nothing", "look-up", "jobs.view", "notes.create", "jobs.complete", "jobs.approve"];

/// The shipped policy, and a capability with every condition there is.
fn policy() -> OfflinePolicy {
    let approve = Rule::new()
        .max_offline(HOUR)
        .online()
        .token_fresh()
        .fresh_within(8 * HOUR)
        .step_up_within(12 * HOUR)
        .read_only_after_expiry()
        .scope("jobs:approve")
        .role("lead")
        .sensitivity(Sensitivity::High);
    OfflinePolicy::from_toml(include_str!("../examples/field_service.toml"))
        .expect("it is shipped")
        .rule("jobs.approve", approve)
        .tier(Sensitivity::High, Rule::new().step_up_within(HOUR))
        .grants_max_age(24 * HOUR)
}

fn situation() -> Situation {
    let grants = Grants::new().scope("jobs:approve").role("lead");
    Situation::new("alice").stepped_up(Duration::from_secs(60)).grants(grants)
}

fn repeat(work: &str, times: u64) {
    let policy = policy();
    let known = ["jobs.approve", "jobs.complete", "jobs.view", "notes.create"].map(str::to_owned);
    let map: HashMap<String, usize> = known.into_iter().zip(0..).collect();
    let capability: &'static str = WORK.into_iter().find(|known| *known == work).expect("a known work");
    let key = Capability::new("notes.create");
    situation().with(capability, |cx: &GateContext<'_>| {
        for _ in 0..times {
            match black_box(work) {
                "nothing" => {}
                "look-up" => drop(black_box(map.get(black_box(&key).as_str()).copied())),
                _ => black_box(policy.check(black_box(cx))).expect("is permitted"),
            }
        }
    });
}

/// Instructions of one turn: two runs of this program under valgrind that differ in the number of turns only.
fn instructions(work: &str) -> f64 {
    const TURNS: [u64; 2] = [10_000, 30_000];
    let [few, many] = TURNS.map(|turns| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().expect("this program"))
            .args(["--repeat", work, &turns.to_string()])
            .output()
            .expect("valgrind counts instructions: install it");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let total = text.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, total)| total.trim());
        total.and_then(|total| total.parse::<u64>().ok()).unwrap_or_else(|| panic!("valgrind says: {text}"))
    });
    (many - few) as f64 / (TURNS[1] - TURNS[0]) as f64
}

fn nanoseconds(work: &str, turns: u64) -> f64 {
    let start = Instant::now();
    repeat(work, turns);
    start.elapsed().as_nanos() as f64 / turns as f64
}

fn main() {
    let args: Vec<_> = std::env::args().collect();
    if let [_, repeated, work, turns] = args.as_slice()
        && repeated == "--repeat"
    {
        return repeat(work, turns.parse().expect("a number"));
    }
    if args.iter().any(|arg| arg == "--list") {
        return;
    }
    // One turn is enough to see that it works: `cargo test --benches`.
    let measured = args.iter().any(|arg| arg == "--bench") && !args.iter().any(|arg| arg == "--test");
    if !measured {
        WORK.into_iter().for_each(|work| repeat(work, 1));
        return;
    }
    let loop_alone = instructions("nothing");
    let look_up = instructions("look-up") - loop_alone;
    println!(
        "one look-up in a HashMap<String, _>: {look_up:.0} instructions, {:.0} ns",
        nanoseconds("look-up", 1_000_000)
    );
    let mut most = 0.0_f64;
    for work in &WORK[2..] {
        let decision = instructions(work) - loop_alone;
        let ratio = decision / look_up;
        let few = allocation_counter::measure(|| repeat(work, 1)).count_total;
        let many = allocation_counter::measure(|| repeat(work, 1001)).count_total;
        let ns = nanoseconds(work, 1_000_000);
        let allocations = (many - few) as f64 / 1000.0;
        println!(
            "{work}: {decision:.0} instructions, {ns:.0} ns, {allocations} allocations; ratio to a look-up {ratio:.2}"
        );
        most = most.max(ratio);
    }
    println!("ratio policy: the dearest decision / look-up = {most:.2} (must be <= {MOST})");
}
