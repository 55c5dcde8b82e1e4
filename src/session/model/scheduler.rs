//! Who goes on, of those who can.

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

thread_local! {
    static WAITING: Cell<Option<TaskId>> = const { Cell::new(None) };
    static IN_ORDER: Cell<bool> = const { Cell::new(false) };
}

/// Goes on when nobody else can.
pub(super) fn let_all_others_go() {
    WAITING.set(Some(shuttle::current::me()));
    shuttle::thread::sleep(std::time::Duration::ZERO); // no sleep: a turn for the others
    WAITING.set(None);
}

/// What happens in `f` happens in one order only: the way to where it begins to matter, and from where it has ended.
pub(super) fn in_order<T>(f: impl FnOnce() -> T) -> T {
    IN_ORDER.set(true);
    let out = f();
    IN_ORDER.set(false);
    out
}

/// A scheduler that knows of those two.
pub(super) struct Patient<S>(pub(super) S);

impl<S: Scheduler> Scheduler for Patient<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        WAITING.set(None);
        IN_ORDER.set(false);
        self.0.new_execution()
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool) -> Option<TaskId> {
        let others = runnable.iter().copied().filter(|task| Some(task.id()) != WAITING.get()).collect::<Vec<_>>();
        let runnable = if others.is_empty() { runnable } else { &others[..] };
        if IN_ORDER.get() || runnable.len() == 1 {
            let goes_on = runnable.iter().find(|task| Some(task.id()) == current && !yields);
            return goes_on.or(runnable.first()).map(|task| task.id());
        }
        self.0.next_task(runnable, current, yields)
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// All orders with so many departures, or fewer, from the one in which each task goes on until it has to wait, and the
/// oldest follows.
///
/// Nearly every fault of this kind shows with two or fewer (Emmi, Qadeer and Rakamarić, "Delay-bounded scheduling",
/// POPL 2011).
pub(super) struct Bounded {
    departures: usize,
    /// After so many executions it is given up, and `complete` stays false.
    limit: usize,
    taken: usize,
    depth: usize,
    choices: Vec<Choice>,
    report: Rc<RefCell<Report>>,
}

struct Choice {
    of: Vec<TaskId>,
    at: usize,
}

#[derive(Default)]
pub(super) struct Report {
    pub(super) executions: usize,
    pub(super) complete: bool,
}

impl Bounded {
    pub(super) fn new(departures: usize, limit: usize) -> (Self, Rc<RefCell<Report>>) {
        let report = Rc::<RefCell<Report>>::default();
        let this = Self { departures, limit, taken: 0, depth: 0, choices: Vec::new(), report: report.clone() };
        (this, report)
    }
}

impl Scheduler for Bounded {
    fn new_execution(&mut self) -> Option<Schedule> {
        let mut report = self.report.borrow_mut();
        if report.executions > 0 {
            self.choices.truncate(self.depth);
            while self.choices.pop_if(|choice| choice.at + 1 == choice.of.len()).is_some() {}
            match self.choices.last_mut() {
                Some(choice) => choice.at += 1,
                None => {
                    report.complete = true;
                    return None;
                }
            }
            if report.executions == self.limit {
                return None;
            }
        }
        report.executions += 1;
        (self.depth, self.taken) = (0, 0);
        Some(Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool) -> Option<TaskId> {
        if self.depth == self.choices.len() {
            let goes_on = current.filter(|it| !yields && runnable.iter().any(|task| task.id() == *it));
            let mut of = goes_on.into_iter().collect::<Vec<_>>();
            of.extend(runnable.iter().map(|task| task.id()).filter(|it| Some(*it) != goes_on));
            if self.taken == self.departures {
                of.truncate(1);
            }
            self.choices.push(Choice { of, at: 0 });
        }
        let choice = &self.choices[self.depth];
        self.taken += usize::from(choice.at > 0);
        self.depth += 1;
        Some(choice.of[choice.at])
    }

    fn next_u64(&mut self) -> u64 {
        panic!("the model is asked for a random number")
    }
}
