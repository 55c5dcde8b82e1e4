//! [`Replay`]: how a request is kept for its one replay, and the policies that need no buffer.

use http::{HeaderMap, Request, header::TRAILER};
use http_body::Body;
use std::{convert::Infallible, mem};

/// How a request is kept for its one replay after a 401 (RFC 9110 §15.5.2: a 401 means "not applied").
///
/// Asked only for requests that get a token. A policy of one's own mostly decides, and leaves the keeping to another:
///
/// ```
/// use http::Request;
/// use tower_reauth::{CloneBody, Replay};
///
/// /// Replays reads, and writes that carry an idempotency key.
/// #[derive(Clone)]
/// struct Idempotent<P>(P);
///
/// impl<B, P: Replay<Request<B>>> Replay<Request<B>> for Idempotent<P> {
///     type Kept = P::Kept;
///
///     fn keep(&self, request: &mut Request<B>) -> Option<P::Kept> {
///         let keep = request.method().is_safe() || request.headers().contains_key("idempotency-key");
///         keep.then(|| self.0.keep(request)).flatten()
///     }
///
///     fn restore(&self, kept: P::Kept) -> Option<Request<B>> {
///         self.0.restore(kept)
///     }
/// }
///
/// let mut post = Request::post("/jobs").body("{}").unwrap();
/// assert!(Idempotent(CloneBody).keep(&mut post).is_none());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not know how to replay `{Req}`",
    label = "this request cannot be sent twice with `{Self}`",
    note = "if the body is not `Clone`: `.replay(BufferedBody::new(limit, Body::new))` keeps a copy while it is sent,",
    note = "`.replay(EmptyOnly)` replays requests without a body only, `.replay(NeverReplay)` delivers the 401"
)]
pub trait Replay<Req> {
    /// What is kept.
    type Kept;

    /// Before the request leaves with a token; may swap the body for a tee. `None`: it cannot be replayed.
    fn keep(&self, req: &mut Req) -> Option<Self::Kept>;

    /// After the 401, before the refresh; `None`: the copy is not complete.
    fn restore(&self, kept: Self::Kept) -> Option<Req>;
}

/// Keeps a clone of the whole request, extensions included.
///
/// ```
/// use http::Request;
/// use tower_reauth::{CloneBody, Replay};
///
/// let mut request = Request::post("/jobs").body("{}").unwrap();
/// let kept = CloneBody.keep(&mut request).unwrap();
/// assert_eq!(*kept.body(), "{}");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneBody;

/// Keeps requests without a body only: a body at its end, or one of length 0 to which no `Trailer` header
/// (RFC 9110 §6.6.2) promises more.
///
/// ```
/// use http::Request;
/// use tower_reauth::{EmptyOnly, Replay};
///
/// assert!(EmptyOnly.keep(&mut Request::get("/jobs").body(String::new()).unwrap()).is_some());
/// assert!(EmptyOnly.keep(&mut Request::post("/jobs").body("{}".to_owned()).unwrap()).is_none());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyOnly;

/// Keeps nothing: a 401 is delivered, and refreshes the token for the requests that follow.
///
/// ```
/// use tower_reauth::{NeverReplay, Replay};
///
/// assert!(NeverReplay.keep(&mut http::Request::new("{}")).is_none());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct NeverReplay;

#[diagnostic::do_not_recommend]
impl<B: Clone> Replay<Request<B>> for CloneBody {
    type Kept = Request<B>;

    fn keep(&self, req: &mut Request<B>) -> Option<Request<B>> {
        Some(req.clone())
    }

    fn restore(&self, kept: Request<B>) -> Option<Request<B>> {
        Some(kept)
    }
}

impl<B: Body + Default> Replay<Request<B>> for EmptyOnly {
    type Kept = Request<B>;

    fn keep(&self, req: &mut Request<B>) -> Option<Request<B>> {
        is_empty(req.body(), req.headers()).then(|| copy_head(req).map(|()| B::default()))
    }

    fn restore(&self, kept: Request<B>) -> Option<Request<B>> {
        Some(kept)
    }
}

impl<Req> Replay<Req> for NeverReplay {
    type Kept = Infallible;

    fn keep(&self, _: &mut Req) -> Option<Infallible> {
        None
    }

    fn restore(&self, kept: Infallible) -> Option<Req> {
        match kept {}
    }
}

/// Nothing is to come, neither data nor trailers.
pub(crate) fn is_empty(body: &impl Body, headers: &HeaderMap) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0) && !headers.contains_key(TRAILER)
}

/// The request without its body, extensions included.
pub(super) fn copy_head<B: Default>(req: &mut Request<B>) -> Request<()> {
    let (parts, body) = mem::take(req).into_parts();
    let copy = Request::from_parts(parts.clone(), ());
    *req = Request::from_parts(parts, body);
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderValue, Method, Version};
    use http_body::{Frame, SizeHint};
    use http_body_util::{Empty, Full};
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u8);

    fn request<B>(body: B) -> Request<B> {
        Request::builder()
            .method(Method::PUT)
            .uri("https://api.example.com/a?b")
            .version(Version::HTTP_2)
            .header("x-a", "1")
            .header("x-a", "2")
            .extension(Mark(7))
            .body(body)
            .unwrap()
    }

    fn same<A, B>(a: &Request<A>, b: &Request<B>) {
        assert_eq!((a.method(), a.uri(), a.version(), a.headers()), (b.method(), b.uri(), b.version(), b.headers()));
        assert_eq!(a.extensions().get::<Mark>(), b.extensions().get::<Mark>());
        assert_eq!(a.extensions().get(), Some(&Mark(7)));
    }

    #[test]
    fn a_clone_is_the_whole_request() {
        let mut sent = request(Full::new(Bytes::from_static(b"body")));
        let kept = CloneBody.keep(&mut sent).unwrap();
        same(&kept, &sent);
        let restored = CloneBody.restore(kept).unwrap();
        same(&restored, &sent);
        assert_eq!(Body::size_hint(restored.body()).exact(), Some(4));
        assert_eq!(Body::size_hint(sent.body()).exact(), Some(4));
    }

    /// Of this exact length, and never known to be at its end: trailers may come.
    #[derive(Default)]
    struct Odd(Option<u64>);

    impl Body for Odd {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(None)
        }

        fn size_hint(&self) -> SizeHint {
            self.0.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    #[test]
    fn case_24_requests_without_a_body_are_kept() {
        let mut sent = request(Empty::<Bytes>::new());
        let kept = EmptyOnly.keep(&mut sent).unwrap();
        same(&kept, &sent);
        same(&EmptyOnly.restore(kept).unwrap(), &sent);
        assert!(EmptyOnly.keep(&mut request(Full::new(Bytes::new()))).is_some());
        assert!(EmptyOnly.keep(&mut request(Odd(Some(0)))).is_some());
    }

    #[test]
    fn case_24_requests_with_a_body_or_promised_trailers_are_not_and_stay_as_they_are() {
        let mut sent = request(Full::new(Bytes::from_static(b"body")));
        assert!(EmptyOnly.keep(&mut sent).is_none());
        same(&sent, &request(()));
        assert_eq!(Body::size_hint(sent.body()).exact(), Some(4));

        assert!(EmptyOnly.keep(&mut request(Odd(None))).is_none(), "of unknown length");

        let mut promised = request(Odd(Some(0)));
        promised.headers_mut().insert("trailer", HeaderValue::from_static("x-checksum"));
        assert!(EmptyOnly.keep(&mut promised).is_none());
        let mut done = request(Empty::<Bytes>::new());
        done.headers_mut().insert("trailer", HeaderValue::from_static("x-checksum"));
        assert!(EmptyOnly.keep(&mut done).is_some(), "at its end, there is nothing to come");
    }

    #[test]
    fn nothing_is_kept_and_nothing_is_asked_of_the_request() {
        struct Opaque;
        assert!(NeverReplay.keep(&mut Opaque).is_none());
        let mut sent = request(());
        assert!(NeverReplay.keep(&mut sent).is_none());
        assert_eq!(sent.headers().get_all("x-a").iter().count(), 2);
    }
}
