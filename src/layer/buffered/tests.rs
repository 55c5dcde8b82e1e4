use super::*;
use http::HeaderValue;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    task::Poll::{Pending, Ready},
};
use tokio_test::{assert_pending, assert_ready, task};

/// The type of the client's bodies.
type Boxed = Option<UnsyncBoxBody<Bytes, BoxError>>;

/// `Default`, which boxed bodies are not.
#[derive(Default)]
struct Any(Boxed);

impl Any {
    fn new<B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static>(body: B) -> Self {
        Self(Some(body.map_err(Into::into).boxed_unsync()))
    }
}

impl Body for Any {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.as_mut().map_or(Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The far end of a body whose frames come when the test says so.
#[derive(Clone, Default)]
struct Feed(Arc<Mutex<Fed>>);

#[derive(Default)]
struct Fed {
    frames: VecDeque<Result<Frame<Bytes>, &'static str>>,
    closed: bool,
    dropped: bool,
    panics: bool,
    polls: usize,
    left: Option<u64>,
    waker: Option<Waker>,
}

impl Feed {
    /// Of known length.
    fn sized(left: u64) -> Self {
        let feed = Self::default();
        feed.change(|fed| fed.left = Some(left));
        feed
    }

    fn change<T>(&self, f: impl FnOnce(&mut Fed) -> T) -> T {
        let mut fed = self.0.lock().unwrap();
        let out = f(&mut fed);
        let waker = fed.waker.take();
        drop(fed);
        waker.into_iter().for_each(Waker::wake);
        out
    }

    fn data(&self, data: &'static str) -> &Self {
        self.change(|fed| fed.frames.push_back(Ok(Frame::data(data.into()))));
        self
    }

    fn trailers(&self, trailers: HeaderMap) -> &Self {
        self.change(|fed| fed.frames.push_back(Ok(Frame::trailers(trailers))));
        self
    }

    fn error(&self, error: &'static str) -> &Self {
        self.change(|fed| fed.frames.push_back(Err(error)));
        self
    }

    fn close(&self) -> &Self {
        self.change(|fed| fed.closed = true);
        self
    }

    fn polls(&self) -> usize {
        self.0.lock().unwrap().polls
    }

    fn dropped(&self) -> bool {
        self.0.lock().unwrap().dropped
    }
}

struct Fedbody(Feed);

impl Body for Fedbody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut fed = self.0.0.lock().unwrap();
        fed.polls += 1;
        if fed.panics {
            drop(fed);
            panic!("the body panics");
        }
        match fed.frames.pop_front() {
            Some(frame) => {
                let size = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                fed.left = fed.left.map(|left| left - size as u64);
                Ready(Some(frame.map_err(Into::into)))
            }
            None if fed.closed => Ready(None),
            None => {
                fed.waker = Some(cx.waker().clone());
                Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.0.0.lock().unwrap().left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Fedbody {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().dropped = true;
    }
}

type Policy = BufferedBody<fn(ReplayBody<Any>) -> Any>;
type Frames = Vec<Result<Result<Bytes, HeaderMap>, String>>;

fn policy(limit: usize) -> Policy {
    BufferedBody::new(limit, Any::new)
}

/// The policy, the tee, and what is kept.
fn start(limit: usize, feed: &Feed) -> (Policy, task::Spawn<Any>, Request<ReplayBody<Any>>) {
    start_with(limit, Any::new(Fedbody(feed.clone())))
}

fn start_with(limit: usize, body: Any) -> (Policy, task::Spawn<Any>, Request<ReplayBody<Any>>) {
    let policy = policy(limit);
    let mut request = Request::post("/jobs").header("x-a", "1").extension(7_u8).body(body).unwrap();
    let kept = policy.keep(&mut request).unwrap();
    assert_eq!((request.method(), kept.method()), (&http::Method::POST, &http::Method::POST));
    assert_eq!(kept.headers()["x-a"], "1");
    assert_eq!(kept.extensions().get(), Some(&7_u8));
    assert_eq!(request.extensions().get(), Some(&7_u8));
    (policy, task::spawn(request.into_body()), kept)
}

fn restore(policy: Policy, kept: Request<ReplayBody<Any>>) -> Option<task::Spawn<Any>> {
    policy.restore(kept).map(|request| {
        assert_eq!(request.headers()["x-a"], "1");
        task::spawn(request.into_body())
    })
}

fn poll(body: &mut task::Spawn<Any>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    body.enter(|cx, body| body.poll_frame(cx))
}

/// Everything that comes without waiting; `true`: to the clean end.
fn drain(body: &mut task::Spawn<Any>) -> (Frames, bool) {
    let mut frames = Frames::new();
    loop {
        match poll(body) {
            Ready(Some(Ok(frame))) => frames.push(Ok(frame.into_data().map_err(|rest| rest.into_trailers().unwrap()))),
            Ready(Some(Err(error))) => {
                frames.push(Err(error.to_string()));
                return (frames, false);
            }
            Ready(None) => return (frames, true),
            Pending => return (frames, false),
        }
    }
}

fn text(frames: &Frames) -> String {
    let data = frames.iter().flatten().flatten().flat_map(|data| data.to_vec());
    String::from_utf8(data.collect()).unwrap()
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("abc"))])
}

const LOST: &str = "the body was taken for a replay";

#[test]
fn case_24_a_replay_has_the_same_bytes_and_trailers() {
    let feed = Feed::default();
    feed.data("ab").data("").data("cde").trailers(trailers()).close();
    let (policy, mut tee, kept) = start(100, &feed);
    let (sent, clean) = drain(&mut tee);
    assert!(clean);
    assert!(feed.dropped(), "at its end, the inner body is of no use");
    let mut replay = restore(policy, kept).unwrap();
    assert!(!replay.is_end_stream());
    assert_eq!(replay.size_hint().exact(), Some(5));
    let (again, clean) = drain(&mut replay);
    assert!(clean);
    assert_eq!(text(&again), "abcde");
    assert_eq!(text(&again), text(&sent));
    assert_eq!(again.last(), Some(&Ok(Err(trailers()))));
    assert!(replay.is_end_stream());
    assert!(matches!(poll(&mut replay), Ready(None)));
    assert!(matches!(poll(&mut tee), Ready(None)), "a tee that was at its end stays there");
}

#[test]
fn case_24_bytes_are_not_copied() {
    let data = Bytes::from_static(b"some data");
    let (policy, mut tee, kept) = start_with(100, Any::new(Full::new(data.clone())));
    let (sent, _) = drain(&mut tee);
    let (again, _) = drain(&mut restore(policy, kept).unwrap());
    for frames in [sent, again] {
        assert_eq!(frames[0].as_ref().unwrap().as_ref().unwrap().as_ptr(), data.as_ptr());
    }
}

#[test]
fn case_24_an_empty_body_needs_no_tee() {
    let body = Any::new(Full::new(Bytes::new()));
    let (policy, mut sent, kept) = start_with(0, body);
    assert!(sent.is_end_stream());
    assert!(kept.body().is_end_stream());
    assert!(drain(&mut sent).1);
    let mut replay = restore(policy, kept).unwrap();
    assert!(replay.is_end_stream());
    assert_eq!(replay.size_hint().exact(), Some(0));
    assert_eq!(drain(&mut replay), (vec![], true));
}

#[test]
fn case_24_a_body_over_the_limit_is_sent_once_and_whole() {
    for (limit, kept_whole) in [(6, true), (5, false), (0, false)] {
        let feed = Feed::default();
        feed.data("abc").data("def").close();
        let (policy, mut tee, kept) = start(limit, &feed);
        let (sent, clean) = drain(&mut tee);
        assert_eq!((text(&sent).as_str(), clean), ("abcdef", true));
        assert_eq!(restore(policy, kept).is_some(), kept_whole, "{limit}");
    }
    // Trailers count: name and value.
    for (limit, kept_whole) in [(10, true), (9, false)] {
        let feed = Feed::default();
        feed.data("ab").trailers(trailers()).close();
        let (policy, mut tee, kept) = start(limit, &feed);
        assert!(drain(&mut tee).1);
        assert_eq!(restore(policy, kept).is_some(), kept_whole, "{limit}");
    }
}

#[test]
fn over_the_limit_the_copy_is_dropped_at_once_and_the_tee_goes_on() {
    let feed = Feed::default();
    feed.data("abc").data("def");
    let (policy, mut tee, kept) = start(5, &feed);
    drain(&mut tee);
    let Role::Kept(shared) = &kept.body().0 else { panic!() };
    assert!(lock(shared).sent.data.is_empty());
    assert!(!kept.body().is_end_stream());
    assert_eq!(kept.body().size_hint().exact(), None);
    assert!(restore(policy, kept).is_none());
    assert!(!tee.is_woken());
    feed.data("ghi").close();
    assert!(tee.is_woken());
    assert_eq!(text(&drain(&mut tee).0), "ghi");
}

#[test]
fn an_early_401_with_half_of_the_body_sent() {
    let feed = Feed::sized(9);
    feed.data("abc");
    let (policy, mut tee, kept) = start(3, &feed);
    assert_eq!(text(&drain(&mut tee).0), "abc");
    let mut replay = restore(policy, kept).unwrap();
    assert_eq!(replay.size_hint().exact(), Some(9));
    let (first, clean) = drain(&mut replay);
    assert_eq!((text(&first).as_str(), clean), ("abc", false));
    assert_eq!(replay.size_hint().exact(), Some(6));
    assert!(!replay.is_end_stream());
    // What is left is far over the limit: it is not kept, it is sent.
    feed.data("defghi").trailers(trailers()).close();
    assert!(replay.is_woken());
    let (rest, clean) = drain(&mut replay);
    assert_eq!((text(&rest).as_str(), clean), ("defghi", true));
    assert_eq!(rest.last(), Some(&Ok(Err(trailers()))));
    assert!(feed.dropped(), "and not asked again");
}

#[test]
fn a_401_before_anything_was_sent() {
    let feed = Feed::default();
    feed.data("abc").close();
    let (policy, mut tee, kept) = start(0, &feed);
    let mut replay = restore(policy, kept).unwrap();
    assert_eq!(text(&drain(&mut replay).0), "abc");
    assert_eq!(drain(&mut tee), (vec![Err(LOST.to_owned())], false));
}

#[test]
fn a_held_tee_does_not_read_on_and_resumes_when_the_replay_is_dropped() {
    let feed = Feed::default();
    feed.data("abc");
    let (policy, mut tee, kept) = start(3, &feed);
    drain(&mut tee);
    let replay = restore(policy, kept).unwrap();
    feed.data("def");
    assert!(tee.is_woken(), "the inner body has its waker still");
    let polls = feed.polls();
    assert_pending!(poll(&mut tee));
    assert_eq!(feed.polls(), polls);
    assert!(!tee.is_woken());
    drop(replay);
    assert!(tee.is_woken());
    feed.close();
    let (rest, clean) = drain(&mut tee);
    assert_eq!((text(&rest).as_str(), clean), ("def", true));
}

#[test]
fn a_held_tee_that_has_read_all_is_at_its_end() {
    let feed = Feed::sized(3);
    feed.data("abc").close();
    let (policy, mut tee, kept) = start(3, &feed);
    assert!(drain(&mut tee).1);
    let _replay = restore(policy, kept).unwrap();
    assert!(matches!(poll(&mut tee), Ready(None)));
    assert!(tee.is_end_stream());
    assert_eq!(tee.size_hint().exact(), Some(0));

    // Known to be at its end with its last frame: what hyper does not poll again.
    let (policy, mut tee, kept) = start_with(3, Any::new(Full::new(Bytes::from_static(b"abc"))));
    assert!(poll(&mut tee).is_ready());
    assert!(tee.is_end_stream());
    let mut replay = restore(policy, kept).unwrap();
    assert_eq!(text(&drain(&mut replay).0), "abc");
    assert!(tee.is_end_stream());
    assert!(matches!(poll(&mut tee), Ready(None)));
}

#[test]
fn a_taken_tee_is_woken_and_never_ends_cleanly() {
    for held in [false, true] {
        let feed = Feed::sized(6);
        feed.data("abc");
        let (policy, mut tee, kept) = start(3, &feed);
        drain(&mut tee);
        let mut replay = restore(policy, kept).unwrap();
        if held {
            assert_pending!(poll(&mut tee));
        }
        assert!(!tee.is_woken());
        assert_eq!(text(&drain(&mut replay).0), "abc");
        assert!(tee.is_woken(), "held: {held}");
        assert!(!tee.is_end_stream());
        for _ in 0..2 {
            let error = assert_ready!(poll(&mut tee)).unwrap().unwrap_err();
            assert_eq!(error.to_string(), LOST);
        }
        feed.data("def").close();
        assert_eq!(text(&drain(&mut replay).0), "def");
        assert!(!tee.is_end_stream(), "not even now");
        assert_eq!(tee.size_hint().exact(), None);
        drop(replay);
        assert!(feed.dropped());
        assert_eq!(drain(&mut tee), (vec![Err(LOST.to_owned())], false));
    }
}

#[test]
fn a_tee_that_is_dropped_leaves_the_body_to_the_replay() {
    let feed = Feed::default();
    feed.data("abc");
    let (policy, mut tee, kept) = start(3, &feed);
    drain(&mut tee);
    drop(tee);
    assert!(!feed.dropped());
    feed.data("def").close();
    let mut replay = restore(policy, kept).unwrap();
    let (all, clean) = drain(&mut replay);
    assert_eq!((text(&all).as_str(), clean), ("abcdef", true));
    drop(replay);
    assert!(feed.dropped());
}

#[test]
fn without_a_copy_nothing_is_remembered() {
    let feed = Feed::default();
    feed.data("abc");
    let (_, mut tee, kept) = start(100, &feed);
    drain(&mut tee);
    let Role::Kept(shared) = &kept.body().0 else { panic!() };
    let shared = shared.clone();
    drop(kept);
    assert!(lock(&shared).sent.data.is_empty());
    feed.data("def").close();
    assert_eq!(text(&drain(&mut tee).0), "def");
    assert!(lock(&shared).sent.data.is_empty());
    drop((tee, shared));
    assert!(feed.dropped());
}

#[test]
fn an_error_of_the_body_goes_to_whoever_reads_and_ends_replaying() {
    let feed = Feed::default();
    feed.data("abc").error("broken pipe");
    let (policy, mut tee, kept) = start(100, &feed);
    let (sent, _) = drain(&mut tee);
    assert_eq!(sent.last(), Some(&Err("broken pipe".to_owned())));
    assert!(restore(policy, kept).is_none());

    let feed = Feed::default();
    feed.data("abc");
    let (policy, mut tee, kept) = start(100, &feed);
    drain(&mut tee);
    feed.error("broken pipe");
    let mut replay = restore(policy, kept).unwrap();
    let (again, _) = drain(&mut replay);
    assert_eq!(text(&again), "abc");
    assert_eq!(again.last(), Some(&Err("broken pipe".to_owned())));
}

#[test]
fn a_panic_of_the_body_ends_replaying_and_nothing_else() {
    let feed = Feed::default();
    feed.data("abc");
    let (policy, mut tee, kept) = start(100, &feed);
    drain(&mut tee);
    feed.change(|fed| fed.panics = true);
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut tee))).is_err());
    assert!(restore(policy, kept).is_none());
    feed.change(|fed| fed.panics = false);
    feed.close();
    assert!(drain(&mut tee).1);
}

#[test]
fn odd_frames_cannot_be_replayed_but_pass() {
    let feed = Feed::default();
    feed.trailers(trailers()).data("after the trailers").close();
    let (policy, mut tee, kept) = start(100, &feed);
    let (sent, clean) = drain(&mut tee);
    assert!(clean);
    assert_eq!((text(&sent).as_str(), sent.len()), ("after the trailers", 2));
    assert!(restore(policy, kept).is_none());
}

#[test]
fn lengths_survive() {
    let body = Any::new(Full::new(Bytes::from_static(b"abcdef")));
    let (policy, mut tee, kept) = start_with(100, body);
    assert_eq!(tee.size_hint().exact(), Some(6));
    assert_eq!(kept.body().size_hint().exact(), Some(6));
    assert!(!tee.is_end_stream());
    drain(&mut tee);
    assert_eq!(tee.size_hint().exact(), Some(0));
    assert_eq!(kept.body().size_hint().exact(), Some(6));
    assert_eq!(restore(policy, kept).unwrap().size_hint().exact(), Some(6));

    let unknown = Feed::default();
    unknown.data("abc");
    let (policy, mut tee, kept) = start(100, &unknown);
    assert_eq!((tee.size_hint().lower(), tee.size_hint().upper()), (0, None));
    drain(&mut tee);
    let replay = restore(policy, kept).unwrap();
    assert_eq!((replay.size_hint().lower(), replay.size_hint().upper()), (3, None));

    let huge = Feed::sized(u64::MAX);
    let hint = plus(5, &Fedbody(huge).size_hint());
    assert_eq!((hint.lower(), hint.upper()), (u64::MAX, None));
}

#[test]
fn what_is_kept_is_a_body_too_as_its_type_promises() {
    let feed = Feed::default();
    feed.data("abc");
    let (_, mut tee, kept) = start(100, &feed);
    drain(&mut tee);
    let mut kept = task::spawn(Any::new(kept.into_body()));
    feed.data("def").close();
    let (all, clean) = drain(&mut kept);
    assert_eq!((text(&all).as_str(), clean), ("abcdef", true));

    let feed = Feed::default();
    feed.data("abc");
    let (_, mut tee, kept) = start(0, &feed);
    drain(&mut tee);
    let (frames, clean) = drain(&mut task::spawn(Any::new(kept.into_body())));
    assert_eq!((frames, clean), (vec![Err("the copy of the body is not complete".to_owned())], false));
}

#[test]
fn the_waker_of_a_tee_that_moved_to_another_task_is_the_one_that_is_woken() {
    let feed = Feed::default();
    let (policy, mut tee, kept) = start(100, &feed);
    assert_pending!(poll(&mut tee));
    let mut moved = task::spawn(std::mem::take(&mut *tee));
    assert_pending!(poll(&mut moved));
    drop(restore(policy, kept).unwrap());
    assert!(moved.is_woken() && !tee.is_woken());
}

#[test]
fn nothing_is_shown() {
    let (policy, _, kept) = start(7, &Feed::default());
    assert_eq!(format!("{policy:?} {:?}", kept.body()), "BufferedBody { limit: 7, .. } ReplayBody");
    fn shared<T: Send + Sync + Unpin>() {}
    shared::<ReplayBody<Any>>(); // and `Any` is not `Sync`
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_races_with_its_tee_loses_and_doubles_nothing() {
    use tokio::{sync::mpsc, task::JoinSet, task::yield_now};
    for round in 0..300_u32 {
        let (sender, mut frames) = mpsc::channel::<&'static str>(2);
        let body = futures_util::stream::poll_fn(move |cx| {
            frames.poll_recv(cx).map(|data| data.map(|data| Ok::<_, BoxError>(Frame::data(Bytes::from(data)))))
        });
        let policy = policy(1 << 10);
        let mut request = Request::new(Any::new(http_body_util::StreamBody::new(body)));
        let kept = policy.keep(&mut request).unwrap();
        let mut tee = JoinSet::new();
        tee.spawn(request.into_body().collect());
        let mut source = JoinSet::new();
        source.spawn(async move {
            for data in ["a", "b", "c", "d", "e"] {
                sender.send(data).await.unwrap();
            }
        });
        for _ in 0..round % 40 {
            yield_now().await;
        }
        let replay = policy.restore(kept).unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(replay, "abcde", "round {round}");
        let tee = tokio::time::timeout(std::time::Duration::from_secs(10), tee.join_next()).await;
        match tee.expect("the tee was woken").unwrap().unwrap() {
            Ok(all) => assert_eq!(all.to_bytes(), "abcde"),
            Err(error) => assert_eq!(error.to_string(), LOST),
        }
    }
}
