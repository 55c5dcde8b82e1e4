//! `session/sync.rs` for the unit tests. In a model check, threads and tasks are shuttle's, and this says where one may
//! come in between another; elsewhere it is what it stands for.

use futures_util::future::{Either, Ready, ready};
use shuttle::{
    current::try_get_current_task,
    future as model,
    scheduler::TaskId,
    sync::{Mutex as Gate, MutexGuard as Passed},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    ops::{Deref, DerefMut},
    pin::pin,
    rc::Rc,
    sync::{self, Arc, LockResult, PoisonError},
    task::Poll,
    time::Duration,
};
use tokio::{
    runtime::{Handle, TryCurrentError},
    task,
};

type Names = Arc<super::desk::Within>;

tokio::task_local! { static REAL_WITHIN: Names; }

thread_local! {
    /// Shuttle's tasks take turns on one thread, in the middle of a poll too: what a task carries goes by its id.
    static MODEL_WITHIN: RefCell<HashMap<TaskId, Names>> = RefCell::default();
    static TASKS: RefCell<Vec<model::AbortHandle>> = RefCell::default();
    static RUNTIME_HAS_ENDED: Cell<bool> = const { Cell::new(false) };
    static WATCH: RefCell<Option<Rc<dyn Fn()>>> = RefCell::default();
}

/// A new execution, in which `watch` is called wherever a task may come in between another.
pub(crate) fn begin(watch: Option<Rc<dyn Fn()>>) {
    MODEL_WITHIN.take();
    TASKS.take();
    RUNTIME_HAS_ENDED.set(false);
    WATCH.set(watch);
}

/// As a runtime that shuts down: drops its tasks where they stand, and every later one at once.
pub(crate) fn end_runtime() {
    RUNTIME_HAS_ENDED.set(true);
    TASKS.take().iter().for_each(model::AbortHandle::abort);
}

/// The runtime lives again: another one, that is.
pub(crate) fn begin_runtime() {
    RUNTIME_HAS_ENDED.set(false);
}

fn look() {
    let watch = WATCH.with_borrow(Clone::clone);
    if let Some(watch) = watch {
        watch();
    }
}

pub(crate) fn point() {
    if try_get_current_task().is_some() {
        look();
        shuttle::thread::sleep(Duration::ZERO); // no sleep: a turn for the others
    }
}

// ===== the lock =====

/// A lock whose holder lets the others have their turn.
pub(crate) struct Mutex<T> {
    data: sync::Mutex<T>,
    gate: Option<Gate<()>>,
}

pub(crate) struct MutexGuard<'a, T> {
    data: sync::MutexGuard<'a, T>,
    _passed: Option<Passed<'a, ()>>, // last
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self { data: sync::Mutex::default(), gate: try_get_current_task().map(|_| Gate::default()) }
    }
}

impl<T> Mutex<T> {
    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        look();
        let gate = self.gate.as_ref().filter(|_| try_get_current_task().is_some());
        let passed = gate.map(|gate| gate.lock().unwrap_or_else(PoisonError::into_inner));
        match self.data.lock() {
            Ok(data) => Ok(MutexGuard { data, _passed: passed }),
            Err(poison) => Err(PoisonError::new(MutexGuard { data: poison.into_inner(), _passed: passed })),
        }
    }

    /// What lies behind it, unless somebody is at it. Nobody comes in between.
    pub(crate) fn glance(&self) -> Option<sync::MutexGuard<'_, T>> {
        self.data.try_lock().ok()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

// ===== tasks =====

pub(crate) struct Runtime(Handle);

/// A task, and the right to end it.
pub(crate) enum AbortHandle {
    Real(task::AbortHandle),
    Model(Option<model::AbortHandle>),
}

impl Runtime {
    pub(crate) fn try_current() -> Result<Self, TryCurrentError> {
        Handle::try_current().map(Self)
    }

    #[allow(clippy::disallowed_methods)] // stands in for what session/tasks.rs calls
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        if try_get_current_task().is_none() {
            return AbortHandle::Real(self.0.spawn(work).abort_handle());
        }
        if RUNTIME_HAS_ENDED.get() {
            return AbortHandle::Model(None);
        }
        let task = model::spawn(work).abort_handle();
        TASKS.with_borrow_mut(|tasks| tasks.push(task.clone()));
        AbortHandle::Model(Some(task))
    }

    /// In a model check it is done when this returns.
    #[allow(clippy::disallowed_methods)] // stands in for what session/tasks.rs calls
    pub(crate) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Either<task::JoinHandle<T>, Ready<Result<T, task::JoinError>>> {
        match try_get_current_task() {
            None => Either::Left(self.0.spawn_blocking(work)),
            Some(_) => Either::Right(ready(Ok(work()))),
        }
    }
}

impl AbortHandle {
    /// As of tokio's `JoinHandle`.
    pub(crate) fn abort_handle(self) -> Self {
        self
    }

    pub(crate) fn abort(&self) {
        match self {
            Self::Real(task) => task.abort(),
            Self::Model(task) => task.iter().for_each(model::AbortHandle::abort),
        }
    }
}

// ===== what a task carries =====

pub(crate) struct Within;

pub(crate) static WITHIN: Within = Within;

impl Within {
    pub(crate) fn try_with<T>(&self, f: impl FnOnce(&Names) -> T) -> Option<T> {
        match try_get_current_task() {
            None => REAL_WITHIN.try_with(f).ok(),
            Some(task) => MODEL_WITHIN.with_borrow(|within| within.get(&task).map(f)),
        }
    }

    pub(crate) async fn scope<F: Future>(&self, names: Names, work: F) -> F::Output {
        let Some(task) = try_get_current_task() else { return REAL_WITHIN.scope(names, work).await };
        let mut work = pin!(work);
        poll_fn(|cx| -> Poll<F::Output> {
            let before = MODEL_WITHIN.with_borrow_mut(|within| within.insert(task, names.clone()));
            let _back = Back(task, before);
            work.as_mut().poll(cx)
        })
        .await
    }
}

/// Puts back what the task carried before, after a panic too.
struct Back(TaskId, Option<Names>);

impl Drop for Back {
    fn drop(&mut self) {
        MODEL_WITHIN.with_borrow_mut(|within| match self.1.take() {
            Some(before) => within.insert(self.0, before),
            None => within.remove(&self.0),
        });
    }
}
