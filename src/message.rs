//! The messages this layer can read: sealed traits over the request and response types of HTTP clients, and the read-only
//! views that user hooks get.

use http::{Extensions, HeaderMap, Method, StatusCode};

/// A request this layer can authenticate: `http::Request<B>`, and `reqwest::Request` with feature `reqwest`. Sealed; it may
/// grow.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a request that `AuthService` knows",
    note = "`http::Request<B>`, and `reqwest::Request` with feature `reqwest`: what makes a request of it goes above"
)]
pub trait HttpRequest: sealed::Request {}

/// A response this layer can read: `http::Response<B>`, and `reqwest::Response` with feature `reqwest`. Sealed; it may grow.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a response that `AuthService` knows",
    note = "`http::Response<B>`, and `reqwest::Response` with feature `reqwest`: what makes something else of it goes above"
)]
pub trait HttpResponse: sealed::Response {}

pub(crate) mod sealed {
    use super::{Extensions, HeaderMap, Method, StatusCode};

    /// Where a request goes, borrowed from whatever URI type it has.
    #[derive(Clone, Copy, Debug)]
    pub struct Target<'a> {
        pub scheme: Option<&'a str>,
        /// Host and port as they stand in the request, with user-info if there is any.
        pub authority: Option<&'a str>,
        pub path: &'a str,
    }

    impl<'a> Target<'a> {
        /// The host of the authority, an IPv6 address with its brackets. Few want it, so it is not looked for beforehand.
        pub fn host(&self) -> Option<&'a str> {
            let authority = self.authority?;
            let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
            let end = match place.starts_with('[') {
                true => place.find(']').map(|end| end + 1),
                false => place.find(':'),
            };
            place.get(..end.unwrap_or(place.len()))
        }
    }

    pub trait Request {
        fn method(&self) -> &Method;
        fn target(&self) -> Target<'_>;
        /// Apart from the target: few want it.
        fn query(&self) -> Option<&str>;
        fn headers(&self) -> &HeaderMap;
        fn headers_mut(&mut self) -> &mut HeaderMap;
        /// `None`: the type keeps its extensions private.
        fn extensions(&self) -> Option<&Extensions>;
    }

    pub trait Response {
        fn status(&self) -> StatusCode;
        fn headers(&self) -> &HeaderMap;
        fn extensions(&self) -> &Extensions;
        fn extensions_mut(&mut self) -> &mut Extensions;

        /// Where it came from, if a client that follows redirects by itself has noted that; and with which query.
        fn source(&self) -> Option<Target<'_>> {
            None
        }

        fn source_query(&self) -> Option<&str> {
            None
        }
    }
}

pub(crate) use sealed::Target;

// ===== http =====

impl<B> HttpRequest for http::Request<B> {}

impl<B> sealed::Request for http::Request<B> {
    fn method(&self) -> &Method {
        Self::method(self)
    }

    fn target(&self) -> Target<'_> {
        let uri = self.uri();
        Target {
            scheme: uri.scheme_str(),
            authority: uri.authority().map(http::uri::Authority::as_str),
            path: uri.path(),
        }
    }

    fn query(&self) -> Option<&str> {
        self.uri().query()
    }

    fn headers(&self) -> &HeaderMap {
        Self::headers(self)
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        Self::headers_mut(self)
    }

    fn extensions(&self) -> Option<&Extensions> {
        Some(Self::extensions(self))
    }
}

impl<B> HttpResponse for http::Response<B> {}

impl<B> sealed::Response for http::Response<B> {
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
}

// ===== views =====

/// What `AuthLayer::capability` may look at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    method: &'a Method,
    target: Target<'a>,
    headers: &'a HeaderMap,
    extensions: Option<&'a Extensions>,
}

impl<'a> RequestHead<'a> {
    pub(crate) fn of<R: sealed::Request>(request: &'a R) -> Self {
        Self {
            method: request.method(),
            target: request.target(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// The method.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The scheme of the URI; `None` for a relative one.
    pub fn scheme(&self) -> Option<&'a str> {
        self.target.scheme
    }

    /// The host of the URI; `None` for a relative one.
    pub fn host(&self) -> Option<&'a str> {
        self.target.host()
    }

    /// The path of the URI.
    pub fn path(&self) -> &'a str {
        self.target.path
    }

    /// The headers, without the token.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The extensions; `None` for request types that keep them private.
    pub fn extensions(&self) -> Option<&'a Extensions> {
        self.extensions
    }
}

/// What `AuthLayer::rejected_when` may look at.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
}

impl<'a> ResponseHead<'a> {
    pub(crate) fn of<R: sealed::Response>(response: &'a R) -> Self {
        Self { status: response.status(), headers: response.headers() }
    }

    #[cfg(test)]
    pub(crate) fn new(status: StatusCode, headers: &'a HeaderMap) -> Self {
        Self { status, headers }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }
}
