use super::{
    client::{MAX_ANSWER, NotSent},
    *,
};
use crate::{
    account::AccountId,
    error::{BoxError, ErrorKind},
    refresher::{ClientCredentials, OAuth2Refresher, RefreshGrant, Refresher, refresh_fn},
    token::RefreshToken,
};
use http::{HeaderMap, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tower::service_fn;
use tower_service::Service;

const TOKEN: &str = "https://id.example.com/token?tenant=1";
const TOKENS: &str = r#"{"access_token":"a","token_type":"bearer"}"#;

fn grant() -> RefreshGrant {
    RefreshGrant::new(AccountId::from("alice"), Some(RefreshToken::new("r/1 +&=é")), Some("ignored".into()))
}

fn revocation() -> RevokeGrant {
    RevokeGrant::new(AccountId::from("alice"), RefreshToken::new("r/1"))
}

/// A client that keeps the requests and gives the same answer to each.
#[derive(Clone)]
struct Recorder {
    seen: Arc<Mutex<Vec<Request<Bytes>>>>,
    status: StatusCode,
    headers: HeaderMap,
    body: &'static str,
}

impl Recorder {
    fn new(status: u16, body: &'static str) -> Self {
        let status = StatusCode::from_u16(status).unwrap();
        Self { seen: Arc::default(), status, headers: HeaderMap::new(), body }
    }

    fn one(&self) -> (HeaderMap, Uri, String) {
        let mut seen = self.seen.lock().unwrap();
        assert_eq!(seen.len(), 1);
        let (head, body) = seen.remove(0).into_parts();
        assert_eq!(head.method, http::Method::POST);
        assert_eq!(head.headers[header::ACCEPT], "application/json");
        assert_eq!(head.headers[header::CONTENT_TYPE], "application/x-www-form-urlencoded");
        (head.headers, head.uri, String::from_utf8(body.to_vec()).unwrap())
    }
}

impl Service<Request<Bytes>> for Recorder {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        self.seen.lock().unwrap().push(request);
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        ready(Ok(response))
    }
}

fn refresher() -> OAuth2Refresher {
    OAuth2Refresher::new(TOKEN, "conf-basic").unwrap()
}

async fn failure<F, Fut, B>(client: F) -> RefreshError
where
    F: Fn(Request<Bytes>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<B>, BoxError>> + Send + 'static,
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    refresher().http(service_fn(client)).refresh(grant()).await.unwrap_err()
}

// ===== requests =====

#[tokio::test]
async fn a_public_client_names_itself_in_the_body() {
    let client = Recorder::new(200, TOKENS);
    refresher().auth_method(ClientAuth::Basic).http(client.clone()).refresh(grant()).await.unwrap();
    let (headers, uri, body) = client.one();
    assert_eq!(uri, TOKEN);
    assert!(!headers.contains_key(header::AUTHORIZATION));
    assert_eq!(body, "grant_type=refresh_token&refresh_token=r%2F1+%2B%26%3D%C3%A9&client_id=conf-basic");
}

/// RFC 6749 §2.3.1: both parts are form-urlencoded before they are joined.
#[tokio::test]
async fn basic_authentication_is_form_urlencoded() {
    let client = Recorder::new(200, TOKENS);
    refresher().secret("conf:sec/ret+1").scope("x y").http(client.clone()).refresh(grant()).await.unwrap();
    let (headers, _, body) = client.one();
    let value = &headers[header::AUTHORIZATION];
    assert_eq!(value, &format!("Basic {}", STANDARD.encode("conf-basic:conf%3Asec%2Fret%2B1")));
    assert!(value.is_sensitive());
    assert_eq!(body, "grant_type=refresh_token&refresh_token=r%2F1+%2B%26%3D%C3%A9&scope=x+y");
}

#[tokio::test]
async fn post_authentication_stands_in_the_body() {
    let client = Recorder::new(200, TOKENS);
    let refresher = refresher().secret("conf:sec/ret+1").auth_method(ClientAuth::Post).http(client.clone());
    refresher.refresh(grant()).await.unwrap();
    let (headers, _, body) = client.one();
    assert!(!headers.contains_key(header::AUTHORIZATION));
    assert!(body.ends_with("&client_id=conf-basic&client_secret=conf%3Asec%2Fret%2B1"), "{body}");
}

#[tokio::test]
async fn client_credentials_send_no_refresh_token() {
    let client = Recorder::new(200, TOKENS);
    let refresher = ClientCredentials::new(TOKEN, "billing", "s3cret").unwrap().scope("x").http(client.clone());
    assert!(!refresher.needs_refresh_token());
    let tokens = refresher.refresh(grant()).await.unwrap();
    assert_eq!(tokens.access_token().expose(), "a");
    assert_eq!(client.one().2, "grant_type=client_credentials&scope=x");
    assert_eq!((refresher.issuer(), refresher.client_id()), (TOKEN, "billing"));
    assert_eq!(refresher.revoke(revocation()).await.unwrap(), Revoked::Unsupported);
}

#[tokio::test]
async fn without_a_refresh_token_nothing_is_sent() {
    let client = Recorder::new(200, TOKENS);
    let refresher = refresher().http(client.clone());
    assert!(refresher.needs_refresh_token());
    let error = refresher.refresh(RefreshGrant::new(AccountId::from("alice"), None, None)).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::InvalidGrant);
    assert!(error.closes_attempt() && client.seen.lock().unwrap().is_empty());
}

/// Case 43, P10.
#[test]
fn case_43_endpoints_are_checked() {
    for bad in
        ["http://id.example.com/token", "http://localhost/token", "/token", "id.example.com", "no uri", "ftp://a/"]
    {
        let refused = [
            OAuth2Refresher::new(bad, "c").map(drop),
            ClientCredentials::new(bad, "c", "s").map(drop),
            refresher().revocation(bad).map(drop),
        ];
        for result in refused {
            let expected = if bad.starts_with("http:") { ErrorKind::InsecureOrigin } else { ErrorKind::Misconfigured };
            assert_eq!(result.unwrap_err().kind(), expected, "{bad}");
        }
    }
    for good in ["https://id.example.com/token", "http://127.0.0.1:4801/token", "http://[::1]/token"] {
        let refresher = OAuth2Refresher::new(good, "c").unwrap().http(Recorder::new(200, ""));
        assert_eq!(refresher.issuer(), good);
    }
}

/// P16.
#[tokio::test]
async fn p16_debug_and_errors_carry_no_secret() {
    let body = r#"{"error":"invalid_client","error_description":"s3cret-client is wrong for r/1 +&=é"}"#;
    let refresher = OAuth2Refresher::new("https://id.example.com/token?key=s3cret-query", "my-app").unwrap();
    let refresher = refresher.secret("s3cret-client").http(Recorder::new(401, body));
    let error = refresher.refresh(grant()).await.unwrap_err();
    assert_eq!(error.description(), Some("… is wrong for …"));
    let credentials = ClientCredentials::new(TOKEN, "my-app", "s3cret-client").unwrap();
    let text = format!("{refresher:?} {refresher:#?} {error:?} {error} {credentials:?}");
    assert!(!text.contains("s3cret") && !text.contains("r/1"), "{text}");
    assert!(text.contains("https://id.example.com/token") && text.contains("my-app"), "{text}");
}

// ===== revocation =====

/// RFC 7009 §2.1: with the same client authentication.
#[tokio::test]
async fn a_revocation_names_the_kind_of_token() {
    let client = Recorder::new(200, "");
    let refresher = refresher().secret("s").revocation("https://id.example.com/revoke").unwrap().http(client.clone());
    assert_eq!(refresher.revoke(revocation()).await.unwrap(), Revoked::Done);
    let (headers, uri, body) = client.one();
    assert_eq!((uri.path(), &*body), ("/revoke", "token=r%2F1&token_type_hint=refresh_token"));
    assert!(headers.contains_key(header::AUTHORIZATION));
    let without = OAuth2Refresher::new(TOKEN, "c").unwrap().http(Recorder::new(500, ""));
    assert_eq!(without.revoke(revocation()).await.unwrap(), Revoked::Unsupported);
}

/// Case 39: what ends a revocation, and what is tried again.
#[tokio::test]
async fn case_39_answers_to_a_revocation() {
    for (status, ends) in [
        (200, true),
        (204, true),
        (400, true),
        (401, true),
        (403, true),
        (404, true),
        (405, true),
        (302, false),
        (307, false),
        (408, true),
        (425, true),
        (429, true),
        (500, false),
        (503, false),
    ] {
        let mut client = Recorder::new(status, r#"{"error":"unsupported_token_type"}"#);
        client.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("9"));
        let refresher = refresher().revocation("https://id.example.com/revoke").unwrap().http(client);
        match refresher.revoke(revocation()).await {
            Ok(done) => assert!(ends && done == Revoked::Done, "{status}"),
            Err(error) => {
                assert!(!ends, "{status}");
                assert_eq!((error.kind(), error.retry_after), (FailureKind::Transient, Some(Duration::from_secs(9))));
                assert_eq!(error.http_status().unwrap(), status);
            }
        }
    }
}

// ===== the client =====

/// The instance that became ready is the one that is called.
#[tokio::test]
async fn the_client_is_made_ready_first() {
    struct Strict(u8);
    impl Clone for Strict {
        fn clone(&self) -> Self {
            Self(2)
        }
    }
    impl Service<Request<Bytes>> for Strict {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 = self.0.saturating_sub(1);
            if self.0 > 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _request: Request<Bytes>) -> Self::Future {
            assert_eq!(self.0, 0, "called before it was ready");
            ready(Ok(Response::new(Full::from(TOKENS))))
        }
    }
    let refresher = refresher().http(Strict(2));
    refresher.refresh(grant()).await.unwrap();
    refresher.refresh(grant()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_never_ready_sent_nothing() {
    #[derive(Clone)]
    struct Closed;
    impl Service<Request<Bytes>> for Closed {
        type Response = Response<Full<Bytes>>;
        type Error = BoxError;
        type Future = Ready<Result<Self::Response, BoxError>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err("closed".into()))
        }

        fn call(&mut self, _request: Request<Bytes>) -> Self::Future {
            unreachable!("never ready")
        }
    }
    let error = refresher().http(Closed).refresh(grant()).await.unwrap_err();
    assert!(error.not_sent && error.closes_attempt());
    assert_eq!(error.kind(), FailureKind::Transient);
}

/// Case 19: what an error of the client proves.
#[tokio::test]
async fn case_19_errors_of_the_client() {
    use io::ErrorKind as Kind;
    let never_left: [fn() -> BoxError; 5] = [
        || Kind::ConnectionRefused.into_io(),
        || io::Error::other(NotSent::new("no route")).into(),
        || Box::new(NotSent::new(io::Error::from(Kind::TimedOut))),
        || AuthError::new(ErrorKind::Reentrant, "back again").into(),
        || NotSent::new(io::Error::other("dns")).into(),
    ];
    for error in never_left {
        let error = failure(move |_| ready(Err::<Response<Full<Bytes>>, _>(error()))).await;
        assert!(error.not_sent && error.closes_attempt(), "{error:?}");
    }
    for kind in [
        Kind::ConnectionReset,
        Kind::ConnectionAborted,
        Kind::BrokenPipe,
        Kind::UnexpectedEof,
        Kind::TimedOut,
        Kind::HostUnreachable,
        Kind::NetworkUnreachable,
        Kind::NetworkDown,
        Kind::AddrNotAvailable,
        Kind::NotConnected,
        Kind::Other,
    ] {
        let error = failure(move |_| ready(Err::<Response<Full<Bytes>>, _>(kind.into_io()))).await;
        assert!(!error.not_sent && !error.closes_attempt(), "{kind:?}");
        assert_eq!((error.kind(), error.http_status()), (FailureKind::Transient, None));
    }
}

trait IntoIo {
    fn into_io(self) -> BoxError;
}

impl IntoIo for io::ErrorKind {
    fn into_io(self) -> BoxError {
        io::Error::other(io::Error::from(self)).into()
    }
}

/// Case 19: the answer stops in the middle.
#[tokio::test]
async fn case_19_a_body_that_breaks_off() {
    for status in [200, 400, 429] {
        let error = failure(move |_| {
            let frames = [
                Ok(Frame::data(Bytes::from_static(br#"{"error":"invalid_grant""#))),
                Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            ];
            let body = StreamBody::new(futures_util::stream::iter(frames));
            let response = Response::builder().status(status).header("retry-after", "3").body(body);
            ready(Ok::<_, BoxError>(response.unwrap()))
        })
        .await;
        assert_eq!((error.kind(), error.code()), (FailureKind::Transient, None), "{status}");
        assert_eq!(error.retry_after, Some(Duration::from_secs(3)));
        assert_eq!(error.closes_attempt(), status == 429);
    }
}

#[tokio::test]
async fn a_body_is_read_up_to_a_cap() {
    let tokens = |padding: usize| {
        service_fn(move |_: Request<Bytes>| {
            // Unknown in length, in frames that make the buffer grow, and with trailers.
            let body = Bytes::from(TOKENS.to_owned() + &" ".repeat(padding));
            let chunks: Vec<_> = body.chunks(1000).map(Bytes::copy_from_slice).collect();
            let frames = chunks.into_iter().map(Frame::data).chain([Frame::trailers(HeaderMap::new())]);
            let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
            ready(Ok::<_, Infallible>(Response::new(body)))
        })
    };
    let room = MAX_ANSWER - TOKENS.len();
    refresher().http(tokens(room)).refresh(grant()).await.unwrap();
    let error = refresher().http(tokens(room + 1)).refresh(grant()).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Transient);
    assert!(!error.closes_attempt());
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("too large"));
}

/// Requests of other types, bodies of other types, and an erased refresher.
#[tokio::test]
async fn any_client_will_do() {
    struct Own(Bytes);
    impl From<Bytes> for Own {
        fn from(bytes: Bytes) -> Self {
            Self(bytes)
        }
    }
    let client = service_fn(|request: Request<Own>| async move {
        assert!(request.body().0.starts_with(b"grant_type="));
        let body = Full::<io::Cursor<Vec<u8>>>::new(io::Cursor::new(TOKENS.into()));
        Ok::<_, io::Error>(Response::new(body.boxed_unsync()))
    });
    let refresher = crate::SharedRefresher::new(refresher().http(client));
    assert_eq!((refresher.issuer(), refresher.client_id()), (TOKEN, "conf-basic"));
    refresher.refresh(grant()).await.unwrap();
    fn is_sync<T: Send + Sync + Clone + 'static>(_: &T) {}
    is_sync(&refresher);
    is_sync(&super::super::endpoint::tests::refresher().http(Recorder::new(200, "")));
    drop(refresh_fn(async |_| Ok(Tokens::new("a"))));
}
