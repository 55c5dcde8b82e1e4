//! Ways of sending a request, measured side by side: on a noisy machine only the ratio of what was measured in turns means
//! something.
#![allow(dead_code)] // each bench takes what it needs

use std::{
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tower::Service;

/// How many requests are made before the clock starts: so few that they stay in the cache.
pub const BATCH: usize = 64;

/// How much is measured.
pub struct Effort {
    pub rounds: usize,
    pub batches: usize,
}

impl Effort {
    /// By the arguments; `None` if nothing is to be run.
    pub fn asked_for() -> Option<Self> {
        let arg = |name: &str| std::env::args().any(|arg| arg == name);
        let (rounds, batches) = match () {
            () if arg("--list") => return None,
            // One turn each is enough to see that it works: `cargo test --benches`, or `-- --test`.
            () if arg("--test") || !arg("--bench") => (1, 1),
            () if arg("--quick") => (40, 100),
            () => (100, 500),
        };
        Some(Self { rounds, batches })
    }
}

/// One way of sending requests, with what it measured.
pub struct Variant<R> {
    pub name: &'static str,
    send_all: Box<dyn FnMut(Vec<R>)>,
    /// Nanoseconds per request, one figure a round.
    pub rounds: Vec<f64>,
}

impl<R: 'static> Variant<R> {
    /// A service in which everything is ready.
    pub fn new<S: Service<R> + 'static>(name: &'static str, mut service: S) -> Self {
        Self::of(name, move |requests| {
            for request in requests {
                black_box(send(&mut service, request));
            }
        })
    }

    pub fn of(name: &'static str, send_all: impl FnMut(Vec<R>) + 'static) -> Self {
        Self { name, send_all: Box::new(send_all), rounds: Vec::new() }
    }

    /// So many requests, made before the clock starts.
    pub fn time(&mut self, make: &dyn Fn() -> R, count: usize) -> Duration {
        let requests = (0..count).map(|_| make()).collect();
        let start = Instant::now();
        (self.send_all)(requests);
        start.elapsed()
    }

    /// Allocations per request, by count and bytes.
    pub fn allocations(&mut self, make: &dyn Fn() -> R) -> (f64, f64) {
        let requests = (0..BATCH).map(|_| make()).collect();
        let counted = allocation_counter::measure(|| (self.send_all)(requests));
        (counted.count_total as f64 / BATCH as f64, counted.bytes_total as f64 / BATCH as f64)
    }
}

/// One request through the stack.
fn send<R, S: Service<R>>(service: &mut S, request: R) -> S::Response {
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else { unreachable!("the client is ready") };
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else { unreachable!("so is its answer") };
    response
}

pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// One round: the variants take turns, so that whatever else the machine does meets all of them.
pub fn take_turns<R: 'static>(variants: &mut [Variant<R>], make: &dyn Fn() -> R, batches: usize) {
    let mut measured = vec![Vec::with_capacity(batches); variants.len()];
    for batch in 0..batches {
        for turn in 0..variants.len() {
            let which = (batch + turn) % variants.len();
            let took = variants[which].time(make, BATCH);
            measured[which].push(took.as_nanos() as f64 / BATCH as f64);
        }
    }
    for (variant, measured) in variants.iter_mut().zip(measured) {
        variant.rounds.push(median(measured));
    }
}

/// So many frames further down. What lies where on the stack changes these figures by a tenth and more, this way or that:
/// each round has another place.
pub fn deeper(frames: usize, work: &mut dyn FnMut()) {
    let frame = black_box([0_u8; 48]);
    match frames {
        0 => work(),
        _ => deeper(frames - 1, work),
    }
    black_box(&frame);
}

/// Of the figures of each round; the median of all.
pub fn ratio<R>(variants: &[Variant<R>], of: &str, to: &str) -> f64 {
    let rounds = |name| &variants.iter().find(|variant| variant.name == name).expect("is a variant").rounds;
    median(rounds(of).iter().zip(rounds(to)).map(|(of, to)| of / to).collect())
}

/// What each round measured, and what a request allocates.
pub fn print<R: 'static>(title: &str, variants: &mut [Variant<R>], make: &dyn Fn() -> R) {
    println!("\n{title}, ns per request in each:");
    for variant in variants {
        let (count, bytes) = variant.allocations(make);
        let rounds: Vec<_> = variant.rounds.iter().map(|ns| format!("{ns:.0}")).collect();
        println!("  {:<25} {}  ({count} allocations, {bytes} bytes)", variant.name, rounds.join(" "));
    }
}
