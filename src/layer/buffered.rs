//! [`BufferedBody`]: remembers a body while it is sent, so that the request can be sent once more.
//!
//! The tee that is sent, and the copy that is kept, share the body of the caller. Whoever may read it reads it on: the
//! tee as long as it is the only one that is sent, the copy from the first time that it is polled.

use super::replay::{Replay, copy_head};
use crate::error::BoxError;
use bytes::{Buf, Bytes};
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    vec,
};

/// Keeps up to `limit` bytes of data and trailers while the body is sent.
///
/// For bodies that are not `Clone`: streams, and boxed ones. What was sent when the 401 arrived has to fit into the
/// limit; what is left then is not kept, it goes with the replay. Over the limit the 401 is delivered.
///
/// ```
/// use axum::body::Body;
/// use http::Request;
/// use http_body_util::BodyExt;
/// use tower_reauth::{BufferedBody, Replay};
///
/// # tokio_test::block_on(async {
/// let policy = BufferedBody::new(64 << 10, Body::new);
/// let mut request = Request::post("/jobs").body(Body::from("{}"))?;
/// let kept = policy.keep(&mut request).expect("it keeps whatever comes");
/// let sent = request.into_body().collect().await?.to_bytes();
/// let again = policy.restore(kept).expect("within the limit");
/// assert_eq!(again.into_body().collect().await?.to_bytes(), sent);
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Clone, Copy)]
pub struct BufferedBody<W> {
    limit: usize,
    wrap: W,
}

impl<W> BufferedBody<W> {
    /// `limit` in bytes; `wrap` turns the tee into the body type of the client, e.g. `axum::body::Body::new`.
    pub const fn new(limit: usize, wrap: W) -> Self {
        Self { limit, wrap }
    }
}

impl<W> fmt::Debug for BufferedBody<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedBody").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<B, W> Replay<Request<B>> for BufferedBody<W>
where
    B: Body + Default,
    W: Fn(ReplayBody<B>) -> B,
{
    type Kept = Request<ReplayBody<B>>;

    fn keep(&self, req: &mut Request<B>) -> Option<Self::Kept> {
        let head = copy_head(req);
        if req.body().is_end_stream() {
            return Some(head.map(|()| ReplayBody(Role::Empty)));
        }
        let shared = Arc::new(Mutex::new(Shared {
            inner: Some(Box::pin(mem::take(req.body_mut()))),
            ended: false,
            phase: Phase::Recording,
            sent: Sent { room: self.limit, ..Sent::default() },
            waker: None,
        }));
        *req.body_mut() = (self.wrap)(ReplayBody(Role::Tee(shared.clone())));
        Some(head.map(|()| ReplayBody(Role::Kept(shared))))
    }

    fn restore(&self, kept: Self::Kept) -> Option<Request<B>> {
        let (parts, body) = kept.into_parts();
        body.hold().then(|| Request::from_parts(parts, (self.wrap)(body)))
    }
}

/// A body that is remembered while it is sent, and the copy that is sent if need be; made by [`BufferedBody`].
///
/// ```
/// use tower_reauth::{BufferedBody, ReplayBody};
///
/// // With the function behind a pointer, the type of the policy can be written down.
/// type Buffered = BufferedBody<fn(ReplayBody<axum::body::Body>) -> axum::body::Body>;
/// let policy: Buffered = BufferedBody::new(64 << 10, axum::body::Body::new);
/// ```
pub struct ReplayBody<B>(Role<B>);

enum Role<B> {
    /// There was nothing to share.
    Empty,
    Tee(Arc<Mutex<Shared<B>>>),
    Kept(Arc<Mutex<Shared<B>>>),
    /// The lock is for `Sync` alone, which a body that is only `Send` would take away.
    Replaying(Mutex<Replaying<B>>),
}

struct Shared<B> {
    /// `None`: at its end, or taken.
    inner: Option<Pin<Box<B>>>,
    ended: bool,
    phase: Phase,
    sent: Sent,
    /// Of the tee, whenever it is pending.
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The tee reads, and remembers what it reads.
    Recording,
    /// A replay may come: the tee does not read on, so that it cannot run over the limit meanwhile.
    Held,
    /// No replay will come: the tee just reads.
    Passing,
    /// The replay reads; the tee is lost.
    Taken,
}

/// What the tee has read.
#[derive(Default)]
struct Sent {
    data: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// In bytes.
    room: usize,
}

struct Replaying<B> {
    data: vec::IntoIter<Bytes>,
    trailers: Option<HeaderMap>,
    inner: Option<Pin<Box<B>>>,
}

/// What the other end of a tee sees when the body goes out with the replay: never a clean end.
#[derive(Debug)]
struct Lost(&'static str);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Lost {}

// ===== impl ReplayBody =====

impl<B> ReplayBody<B> {
    /// Stops the tee where it is. `false`: what it has sent is not complete here.
    fn hold(&self) -> bool {
        match &self.0 {
            Role::Empty => true,
            Role::Kept(shared) => {
                let mut shared = lock(shared);
                let complete = shared.phase == Phase::Recording;
                if complete {
                    shared.phase = Phase::Held;
                }
                complete
            }
            Role::Tee(_) | Role::Replaying(_) => false,
        }
    }
}

impl<B> Drop for ReplayBody<B> {
    /// A copy that nobody will send: the tee goes on, and has nothing to remember.
    fn drop(&mut self) {
        if let Role::Kept(shared) = &self.0 {
            let mut shared = lock(shared);
            if matches!(shared.phase, Phase::Recording | Phase::Held) {
                shared.phase = Phase::Passing;
                let (sent, waker) = (mem::take(&mut shared.sent), shared.waker.take());
                drop(shared);
                drop(sent);
                waker.into_iter().for_each(Waker::wake);
            }
        }
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for ReplayBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Role::Kept(shared) = &this.0 {
            let taken = take(shared);
            match taken {
                Some(replaying) => this.0 = Role::Replaying(Mutex::new(replaying)),
                None => return Poll::Ready(Some(Err(Lost("the copy of the body is not complete").into()))),
            }
        }
        match &mut this.0 {
            Role::Empty | Role::Kept(_) => Poll::Ready(None),
            Role::Tee(shared) => poll_tee(shared, cx),
            Role::Replaying(replaying) => replaying.get_mut().unwrap_or_else(PoisonError::into_inner).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Role::Empty => true,
            Role::Tee(shared) => lock(shared).at_end(),
            Role::Kept(shared) => {
                let shared = lock(shared);
                shared.is_kept() && shared.sent.is_empty() && shared.at_end()
            }
            Role::Replaying(replaying) => lock(replaying).is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Role::Empty => SizeHint::with_exact(0),
            Role::Tee(shared) => lock(shared).left(),
            Role::Kept(shared) => {
                let shared = lock(shared);
                match shared.is_kept() {
                    true => plus(length(&shared.sent.data), &shared.left()),
                    false => SizeHint::default(),
                }
            }
            Role::Replaying(replaying) => lock(replaying).size_hint(),
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplayBody")
    }
}

// ===== impl Shared =====

/// Held over a call of the inner body and nothing else; what is dropped or woken is so after it is released.
///
/// A panic of the inner body leaves the phase at `Passing`, so a poisoned lock needs no care.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For the tee: the next frame.
fn poll_tee<B>(shared: &Mutex<Shared<B>>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
where
    B: Body<Error: Into<BoxError>>,
{
    let mut shared = lock(shared);
    let polled = shared.poll_frame(cx);
    if polled.is_pending() {
        // In any phase: whoever takes the body replaces the waker that the body itself has.
        match &mut shared.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
    let ended = if shared.ended { shared.inner.take() } else { None };
    let useless = if shared.phase == Phase::Passing { mem::take(&mut shared.sent) } else { Sent::default() };
    drop(shared);
    drop((ended, useless));
    polled
}

/// For the replay, when it is first polled. `None`: the tee has passed on more than is here.
fn take<B>(shared: &Mutex<Shared<B>>) -> Option<Replaying<B>> {
    let mut shared = lock(shared);
    if !shared.is_kept() {
        return None;
    }
    shared.phase = Phase::Taken;
    let Sent { data, trailers, .. } = mem::take(&mut shared.sent);
    let (inner, waker) = (shared.inner.take(), shared.waker.take());
    drop(shared);
    waker.into_iter().for_each(Waker::wake);
    Some(Replaying { data: data.into_iter(), trailers, inner })
}

impl<B> Shared<B> {
    fn is_kept(&self) -> bool {
        matches!(self.phase, Phase::Recording | Phase::Held)
    }
}

impl<B: Body> Shared<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
    where
        B::Error: Into<BoxError>,
    {
        if self.ended {
            return Poll::Ready(None);
        }
        let phase = self.phase;
        let inner = match (phase, &mut self.inner) {
            (Phase::Recording | Phase::Passing, Some(inner)) => inner,
            (Phase::Held, _) => return Poll::Pending,
            _ => return Poll::Ready(Some(Err(Lost("the body was taken for a replay").into()))),
        };
        self.phase = Phase::Passing; // should the poll panic, or fail
        let polled = inner.as_mut().poll_frame(cx);
        let Poll::Ready(polled) = polled else {
            self.phase = phase;
            return Poll::Pending;
        };
        let frame = match polled {
            Some(Ok(frame)) => into_bytes(frame),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => {
                self.phase = phase;
                self.ended = true;
                return Poll::Ready(None);
            }
        };
        self.ended = inner.is_end_stream();
        if phase == Phase::Recording && self.sent.record(&frame) {
            self.phase = phase;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// For the tee. A lost one is not at its end, lest a cut body pass for a whole one.
    fn at_end(&self) -> bool {
        self.ended || self.inner.as_ref().is_some_and(|inner| inner.is_end_stream())
    }

    /// What the inner body has still to give.
    fn left(&self) -> SizeHint {
        match &self.inner {
            _ if self.ended => SizeHint::with_exact(0),
            Some(inner) => inner.size_hint(),
            None => SizeHint::default(),
        }
    }
}

impl Sent {
    /// `false`: there is no room for it, or no place.
    fn record(&mut self, frame: &Frame<Bytes>) -> bool {
        let (data, trailers) = (frame.data_ref(), frame.trailers_ref());
        let size = match (data, trailers) {
            (Some(data), _) => data.len(),
            (_, Some(trailers)) => trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
            (None, None) => return false,
        };
        let Some(room) = self.room.checked_sub(size).filter(|_| self.trailers.is_none()) else { return false };
        self.room = room;
        self.data.extend(data.filter(|data| !data.is_empty()).cloned());
        self.trailers = trailers.cloned();
        true
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }
}

// ===== impl Replaying =====

impl<B: Body<Error: Into<BoxError>>> Replaying<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(data) = self.data.next() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = ready!(inner.as_mut().poll_frame(cx));
        if polled.is_none() {
            self.inner = None;
        }
        Poll::Ready(polled.map(|frame| frame.map(into_bytes).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.data.len() == 0 && self.trailers.is_none() && self.inner.as_ref().is_none_or(|inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |inner| inner.size_hint());
        plus(length(self.data.as_slice()), &left)
    }
}

/// No copy if the data are `Bytes`.
fn into_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

fn length(data: &[Bytes]) -> u64 {
    data.iter().map(|data| data.len() as u64).sum()
}

fn plus(before: u64, left: &SizeHint) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(left.lower().saturating_add(before));
    if let Some(upper) = left.upper().and_then(|upper| upper.checked_add(before)) {
        hint.set_upper(upper);
    }
    hint
}

#[cfg(test)]
mod tests;
