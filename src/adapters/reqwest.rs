//! `reqwest::Client` behind the layer: [`reqwest::Request`] and [`reqwest::Response`] as they are.

use crate::{
    layer::{CloneBody, EmptyOnly, Replay, is_empty},
    message::{HttpRequest, HttpResponse, sealed},
};
use http::{Extensions, HeaderMap, Method, StatusCode};
use reqwest::{Request, Response, Url};
use sealed::Target;

/// The host that reqwest writes down for a response that no client has fetched, but a cache or a test has made.
const NOWHERE: &str = "no.url.provided.local";

fn target(url: &Url) -> Target<'_> {
    Target { scheme: Some(url.scheme()), authority: Some(url.authority()), path: url.path() }
}

impl HttpRequest for Request {}

impl sealed::Request for Request {
    fn method(&self) -> &Method {
        Self::method(self)
    }

    fn target(&self) -> Target<'_> {
        target(self.url())
    }

    fn query(&self) -> Option<&str> {
        self.url().query()
    }

    fn headers(&self) -> &HeaderMap {
        Self::headers(self)
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        Self::headers_mut(self)
    }

    fn extensions(&self) -> Option<&Extensions> {
        None
    }
}

impl HttpResponse for Response {}

impl sealed::Response for Response {
    fn status(&self) -> StatusCode {
        Self::status(self)
    }

    fn headers(&self) -> &HeaderMap {
        Self::headers(self)
    }

    fn extensions(&self) -> &Extensions {
        Self::extensions(self)
    }

    fn extensions_mut(&mut self) -> &mut Extensions {
        Self::extensions_mut(self)
    }

    fn source(&self) -> Option<Target<'_>> {
        // A server of that name may be redirected to: its answer came over a connection.
        let made = self.remote_addr().is_none() && self.url().host_str() == Some(NOWHERE);
        (!made).then(|| target(self.url()))
    }

    fn source_query(&self) -> Option<&str> {
        self.url().query()
    }
}

/// Keeps requests whose body is in memory; a streamed one cannot be sent twice, and neither can a multipart form.
#[diagnostic::do_not_recommend]
impl Replay<Request> for CloneBody {
    type Kept = Request;

    fn keep(&self, req: &mut Request) -> Option<Request> {
        req.try_clone()
    }

    fn restore(&self, kept: Request) -> Option<Request> {
        Some(kept)
    }
}

#[diagnostic::do_not_recommend]
impl Replay<Request> for EmptyOnly {
    type Kept = Request;

    fn keep(&self, req: &mut Request) -> Option<Request> {
        if !req.body().is_none_or(|body| is_empty(body, req.headers())) {
            return None;
        }
        // Without the body: reqwest clones no streams, not even those at their end.
        let body = req.body_mut().take();
        let kept = req.try_clone();
        *req.body_mut() = body;
        kept
    }

    fn restore(&self, kept: Request) -> Option<Request> {
        Some(kept)
    }
}
