//! [`ReqwestTokens`]: what a refresh token may go through.

use super::*;
use crate::kit::{Issuer, SEC, clock};
use reqwest::{ClientBuilder, redirect, retry};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_reauth::{AuthState, OAuth2Refresher, ReauthCause, Refresher, ReqwestTokens, Session};

const TOKENS: &str = r#"{"access_token":"a","refresh_token":"r2","expires_in":60,"token_type":"bearer"}"#;
const REVOKED: &str = r#"{"error":"invalid_grant"}"#;

fn builder() -> ClientBuilder {
    Client::builder().no_proxy()
}

fn refresher(uri: &str, client: ClientBuilder) -> impl Refresher {
    OAuth2Refresher::new(uri, "app").unwrap().http(ReqwestTokens::new(client).unwrap())
}

/// Signed in with `r1.0`, whose access token has expired.
async fn stale(refresher: impl Refresher) -> (Session, tower_reauth::ManualClock) {
    let clock = clock();
    let session = Session::builder(refresher).clock(clock.clone()).open("alice").await.unwrap();
    session.sign_in(Issuer::new().sign_in()).await.unwrap();
    clock.advance(101 * SEC);
    (session, clock)
}

/// What a token endpoint does with a connection.
#[derive(Clone, Copy)]
enum Does {
    Answer(u16, &'static str),
    /// Reads the request, and closes.
    Close,
    /// Answers with less than it says, and closes.
    Break(&'static str),
    /// Answers, and never reads again, as a connection that died while it was idle.
    Die,
}

/// A token endpoint that counts connections, and does this and that in turn; the last one for ever.
fn endpoint(listener: TcpListener, turns: Vec<Does>) -> (String, Arc<AtomicUsize>) {
    let uri = format!("http://{}/token?key=in-the-query", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let turn = counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, *turns.get(turn).or(turns.last()).unwrap()));
        }
    });
    (uri, count)
}

async fn serve(mut stream: TcpStream, does: Does) {
    let mut read = Vec::new();
    while !read.ends_with(b"client_id=app") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "a whole request");
    }
    let (status, body, missing) = match does {
        Does::Close => return,
        Does::Break(body) => (200, body, 1),
        Does::Die => (200, TOKENS, 0),
        Does::Answer(status, body) => (status, body, 0),
    };
    let length = body.len() + missing;
    let head = format!("HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    if missing > 0 {
        return;
    }
    // Open until the client closes it: what else comes is not answered.
    let _ = stream.read_u8().await;
}

async fn listen() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

/// P10, case 43: whatever the builder says of redirects.
#[tokio::test]
async fn case_43_a_redirect_of_the_token_endpoint_takes_no_refresh_token_along() {
    let stranger = Loopback::stranger().await;
    let issuer = Issuer::new();
    let server = Loopback::api(&issuer).await;
    for status in [307, 308] {
        // To another server, to one that would take it, and to nothing that is a URL.
        for to in [stranger.uri("/echo"), server.uri("/token"), "http://[::".to_owned()] {
            let endpoint = stranger.uri(&format!("/redirect/{status}?{to}"));
            let (session, _) = stale(refresher(&endpoint, builder().redirect(redirect::Policy::limited(5)))).await;
            let error = session.access_token().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{to}");
            let lines = stranger.lines();
            assert_eq!(lines.len(), 1, "{to}: {lines:?}");
            assert!(lines[0].contains("refresh_token=r1.0") && lines[0].contains("/redirect/"));
            assert_eq!(issuer.exchanges(), 0);
        }
    }
}

/// Whatever the builder says of retries.
#[tokio::test]
async fn nothing_is_tried_a_second_time() {
    for does in [Does::Close, Does::Answer(503, "busy")] {
        let (uri, count) = endpoint(listen().await, vec![does, Does::Answer(200, TOKENS)]);
        let again = retry::for_host("127.0.0.1").no_budget().classify_fn(|tried| tried.retryable());
        let (session, _) = stale(refresher(&uri, builder().retry(again))).await;
        assert_eq!(session.access_token().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}

/// Whatever the builder says of connections: one that was kept may be dead by the time it is wanted.
#[tokio::test]
async fn each_request_has_a_connection_of_its_own() {
    let (uri, count) = endpoint(listen().await, vec![Does::Die]);
    let refresher = refresher(&uri, builder().pool_max_idle_per_host(8).pool_idle_timeout(None));
    let (session, _) = stale(refresher).await;
    for n in 1..=5 {
        session.refresh().await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), n);
    }
}

/// What cannot have been sent leaves no doubt: an `invalid_grant` that follows is a revocation. What may have been does.
#[tokio::test]
async fn a_refused_connection_leaves_no_doubt_and_a_lost_answer_does() {
    for (lost, cause) in [(false, ReauthCause::Revoked), (true, ReauthCause::RotationLost)] {
        let listener = listen().await;
        let address = listener.local_addr().unwrap();
        let uri = format!("http://{address}/token?key=in-the-query");
        let mut turns = vec![Does::Answer(400, REVOKED)];
        let server = match lost {
            true => {
                turns.insert(0, Does::Close);
                Some(endpoint(listener, turns.clone()))
            }
            false => {
                drop(listener);
                None
            }
        };
        let (session, clock) = stale(refresher(&uri, builder())).await;
        assert_eq!(session.access_token().await.unwrap_err().kind(), ErrorKind::Unavailable);
        let _server = match server {
            Some(server) => server,
            None => endpoint(TcpListener::bind(address).await.unwrap(), turns),
        };
        clock.advance(120 * SEC);
        assert_eq!(session.access_token().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
        assert!(matches!(session.state(), AuthState::ReauthRequired(found) if found == cause), "{:?}", session.state());
    }
}

/// P16: neither what stands in the endpoint's query, nor a header of the client, nor a token.
#[tokio::test]
async fn p16_errors_show_no_query_and_no_secret() {
    let closed = format!("{}/token?key=in-the-query", nobody());
    let (lost, _) = endpoint(listen().await, vec![Does::Close]);
    let (busy, _) = endpoint(listen().await, vec![Does::Answer(503, "a-secret-page")]);
    let (cut, _) = endpoint(listen().await, vec![Does::Answer(200, "{\"access_token\":\"a-secret")]);
    let (broken, _) = endpoint(listen().await, vec![Does::Break("{\"access_token\":\"a-secret")]);
    for uri in [closed, lost, busy, cut, broken] {
        let client =
            builder().default_headers([(header::AUTHORIZATION, "a-secret".parse().unwrap())].into_iter().collect());
        let (session, _) = stale(refresher(&uri, client)).await;
        let error = session.access_token().await.unwrap_err();
        let mut text = format!("{error} {error:?} {error:#?} {session:?}");
        let mut next = std::error::Error::source(&error);
        while let Some(error) = next {
            text += &format!(" {error} {error:?}");
            next = error.source();
        }
        for secret in ["in-the-query", "a-secret", "r1.0", "a1.0"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    let client = builder().default_headers([(header::COOKIE, "a-secret".parse().unwrap())].into_iter().collect());
    let tokens = ReqwestTokens::new(client).unwrap();
    assert_eq!(format!("{tokens:?}"), "ReqwestTokens { .. }");
}

#[test]
fn a_client_that_cannot_be_built_is_misconfigured() {
    let error = ReqwestTokens::new(builder().user_agent("two\nlines")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(std::error::Error::source(&error).unwrap().is::<reqwest::Error>());
}

#[tokio::test]
async fn a_sign_out_revokes_over_it() {
    let issuer = Issuer::new();
    let server = Loopback::api(&issuer).await;
    let refresher =
        OAuth2Refresher::new(server.uri("/token"), "app").unwrap().revocation(server.uri("/revoke")).unwrap();
    let (session, _) = stale(refresher.http(ReqwestTokens::new(builder()).unwrap())).await;
    session.sign_out(SignOut::Soft).await.unwrap();
    session.close().await.unwrap();
    assert_eq!(issuer.books().revocations, ["r1.0"]);
}
