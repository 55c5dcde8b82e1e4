//! The user's HTTP client, erased, and what its errors prove.

use crate::{
    error::{AuthError, BoxError},
    failure::RefreshError,
};
use bytes::{Buf, Bytes};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use std::{
    error::Error as StdError,
    fmt,
    future::poll_fn,
    io,
    marker::PhantomData,
    pin::{Pin, pin},
    sync::Arc,
};
use tower_service::Service;
use zeroize::Zeroizing;

/// An answer of a token endpoint has a few hundred bytes; this much is read.
pub(super) const MAX_ANSWER: usize = 1 << 20;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A client that was given by `.http(…)`.
#[derive(Clone)]
pub struct Http(Arc<dyn Client>);

impl Http {
    pub(in crate::refresher) fn new<S, A, B>(service: S) -> Self
    where
        S: Service<Request<A>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
        A: From<Bytes> + Send + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        Self(Arc::new(Erased { service, bodies: PhantomData }))
    }

    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Received, RefreshError> {
        self.0.send(request).await
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

/// An answer: its head, and its body as far as it arrived whole.
pub(super) struct Received {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Result<Zeroizing<Vec<u8>>, BoxError>,
}

trait Client: Send + Sync {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<Result<Received, RefreshError>>;
}

struct Erased<S, A, B> {
    service: S,
    bodies: PhantomData<fn(A) -> B>,
}

impl<S, A, B> Client for Erased<S, A, B>
where
    S: Service<Request<A>, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    A: From<Bytes> + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    fn send(&self, request: Request<Bytes>) -> BoxFuture<Result<Received, RefreshError>> {
        let mut service = self.service.clone();
        Box::pin(async move {
            // The instance that became ready is the one that is called.
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(RefreshError::not_sent)?;
            let response = service.call(request.map(A::from)).await.map_err(|error| failed(error.into()))?;
            let (head, body) = response.into_parts();
            Ok(Received { status: head.status, headers: head.headers, body: read(body).await })
        })
    }
}

async fn read<B: Body<Error: Into<BoxError>>>(body: B) -> Result<Zeroizing<Vec<u8>>, BoxError> {
    let mut body = pin!(body);
    let mut whole = Zeroizing::new(Vec::with_capacity(4096));
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(mut data) = frame.map_err(Into::into)?.into_data() else {
            continue; // trailers
        };
        let needed = whole.len().saturating_add(data.remaining());
        if needed > MAX_ANSWER {
            return Err("the answer of the token endpoint is too large".into());
        }
        if needed > whole.capacity() {
            // Not by `reserve`, which leaves a copy behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            larger.extend_from_slice(&whole);
            whole = larger;
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            whole.extend_from_slice(chunk);
            let read = chunk.len();
            data.advance(read);
        }
    }
    Ok(whole)
}

// ===== what an error proves =====

/// Marks an error of a client before it sent anything: nothing can have been spent.
pub(crate) struct NotSent(BoxError);

impl NotSent {
    #[cfg_attr(not(any(feature = "hyper-client", feature = "reqwest")), allow(dead_code))] // for token clients of our own
    pub(crate) fn new(error: impl Into<BoxError>) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotSent").field(&self.0).finish()
    }
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was not sent")
    }
}

impl StdError for NotSent {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// A client's error instead of an answer.
pub(super) fn failed(error: BoxError) -> RefreshError {
    if nothing_left(&*error) { RefreshError::not_sent(error) } else { RefreshError::transient(error) }
}

/// Whether an error proves that no byte of the request left.
///
/// Of the kinds of `io::Error` only a refused connection does: "unreachable", "down", "reset" and "timed out" are also
/// what a connection ends with whose request is long gone. A wrong "no" costs an attempt in doubt; a wrong "yes" a
/// refresh token that is sent twice.
fn nothing_left(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An `AuthError` is a layer that did not forward the request.
        if error.is::<NotSent>() || error.is::<AuthError>() {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            // What is inside is not among the sources.
            if error.kind() == io::ErrorKind::ConnectionRefused || error.get_ref().is_some_and(|e| nothing_left(e)) {
                return true;
            }
        }
        #[cfg(feature = "hyper-client")]
        if error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect()) {
            return true;
        }
        next = error.source();
    }
    false
}
