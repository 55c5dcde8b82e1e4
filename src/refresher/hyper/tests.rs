//! Over real sockets: the refreshers with [`HyperTokens`] against a server of this process.
#![allow(clippy::disallowed_methods)] // servers run in tasks of their own

use super::*;
use crate::{
    account::AccountId,
    failure::{FailureKind, RefreshError},
    refresher::{ClientAuth, ClientCredentials, OAuth2Refresher, RefreshGrant, Refresher, RevokeGrant, Revoked},
    token::{RefreshToken, Tokens},
};
use ::hyper::{server::conn::http1, service::service_fn};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, net::SocketAddr, sync::Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const TOKENS: &str = r#"{"access_token":"a","refresh_token":"r2","expires_in":60,"token_type":"bearer"}"#;

fn grant() -> RefreshGrant {
    RefreshGrant::new(AccountId::from("alice"), Some(RefreshToken::new("r/1+")), None)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

type Seen = Arc<Mutex<Vec<(String, String, String)>>>;

/// A server that answers by path, and keeps path, `Authorization` and body of each request.
async fn server() -> (String, Seen) {
    let (listener, address) = listen().await;
    let seen = Seen::default();
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = kept.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let kept = kept.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
                    let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
                    assert!(request.headers().contains_key(header::CONTENT_LENGTH));
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let body = String::from_utf8(body.to_vec()).unwrap();
                    kept.lock().unwrap().push((path.clone(), authorization.unwrap_or_default(), body));
                    Ok::<_, Infallible>(respond(&path))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (format!("http://{address}"), seen)
}

fn respond(path: &str) -> Response<Full<Bytes>> {
    let response = Response::builder();
    match path {
        "/redirect" => response.status(StatusCode::TEMPORARY_REDIRECT).header("location", "/token").body("".into()),
        "/huge" => response.body(vec![b' '; 3 << 20].into()),
        "/revoke" => response.body("".into()),
        "/busy" => response.status(StatusCode::SERVICE_UNAVAILABLE).header("retry-after", "5").body("<html>".into()),
        _ => response.header("date", "Sun, 06 Nov 1994 08:49:37 GMT").body(TOKENS.into()),
    }
    .unwrap()
}

async fn refresh(uri: String) -> Result<Tokens, RefreshError> {
    OAuth2Refresher::new(uri, "pub").unwrap().http(HyperTokens::new()).refresh(grant()).await
}

#[tokio::test]
async fn three_ways_to_authenticate() {
    let (server, seen) = server().await;
    let uri = format!("{server}/token");
    let client = HyperTokens::new();
    let basic = OAuth2Refresher::new(&*uri, "conf-basic").unwrap().secret("conf:sec/ret+1").http(client.clone());
    let post = OAuth2Refresher::new(&*uri, "conf-post").unwrap().secret("post-secret").auth_method(ClientAuth::Post);
    let public = OAuth2Refresher::new(&*uri, "pub").unwrap().http(client.clone());
    let service = ClientCredentials::new(&*uri, "conf-basic", "conf:sec/ret+1").unwrap().http(client.clone());
    let tokens = basic.refresh(grant()).await.unwrap();
    assert_eq!((tokens.access.expose(), tokens.refresh.unwrap().expose()), ("a", "r2"));
    assert!(tokens.date.is_some());
    post.http(client).refresh(grant()).await.unwrap();
    public.refresh(grant()).await.unwrap();
    service.refresh(grant()).await.unwrap();

    // printf 'conf-basic:conf%%3Asec%%2Fret%%2B1' | base64
    let header = "Basic Y29uZi1iYXNpYzpjb25mJTNBc2VjJTJGcmV0JTJCMQ==";
    let token = "grant_type=refresh_token&refresh_token=r%2F1%2B";
    let expected = [
        (header, token.to_owned()),
        ("", format!("{token}&client_id=conf-post&client_secret=post-secret")),
        ("", format!("{token}&client_id=pub")),
        (header, "grant_type=client_credentials".to_owned()),
    ];
    let seen = seen.lock().unwrap();
    let seen: Vec<_> = seen.iter().map(|(_, header, body)| (header.as_str(), body.clone())).collect();
    assert_eq!(seen, expected);
}

/// Case 43: a redirect would carry the refresh token away.
#[tokio::test]
async fn case_43_a_redirect_is_not_followed() {
    let (server, seen) = server().await;
    let error = refresh(format!("{server}/redirect")).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Transient);
    assert_eq!(error.http_status(), Some(StatusCode::TEMPORARY_REDIRECT));
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_huge_answer_is_not_read() {
    let (server, _) = server().await;
    let error = refresh(format!("{server}/huge")).await.unwrap_err();
    assert_eq!((error.kind(), error.closes_attempt()), (FailureKind::Transient, false));
}

#[tokio::test]
async fn revocations_and_busy_servers() {
    let (server, seen) = server().await;
    let revoke = |path: &str| {
        let refresher = OAuth2Refresher::new(format!("{server}/token"), "pub").unwrap();
        let refresher = refresher.revocation(format!("{server}{path}")).unwrap().http(HyperTokens::new());
        async move { refresher.revoke(RevokeGrant::new(AccountId::from("alice"), RefreshToken::new("r/1"))).await }
    };
    assert_eq!(revoke("/revoke").await.unwrap(), Revoked::Done);
    assert_eq!(seen.lock().unwrap()[0].2, "token=r%2F1&token_type_hint=refresh_token&client_id=pub");
    let busy = revoke("/busy").await.unwrap_err();
    assert_eq!((busy.kind(), busy.retry_after), (FailureKind::Transient, Some(Duration::from_secs(5))));
    let busy = refresh(format!("{server}/busy")).await.unwrap_err();
    assert_eq!((busy.kind(), busy.retry_after), (FailureKind::Transient, Some(Duration::from_secs(5))));
}

/// Case 19: nobody listens.
#[tokio::test]
async fn case_19_a_refused_connection_sent_nothing() {
    let (listener, address) = listen().await;
    drop(listener);
    let error = refresh(format!("http://{address}/token")).await.unwrap_err();
    assert!(error.not_sent && error.closes_attempt(), "{error:?}");
    assert_eq!(error.kind(), FailureKind::Transient);
}

/// Case 19: a name that does not resolve, and a server that does not speak TLS.
#[tokio::test]
async fn case_19_failures_of_dns_and_tls_sent_nothing() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    for uri in [format!("https://{address}/token"), "https://no-such-host.invalid/token".to_owned()] {
        let error = refresh(uri).await.unwrap_err();
        assert!(error.not_sent, "{error:?}");
    }
}

/// Reads one request to its end.
async fn swallow(stream: &mut TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(b"client_id=pub") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
    }
}

/// Case 17, 19: the connection ends after the request was sent, at each point of the answer.
#[tokio::test]
async fn case_17_an_answer_that_is_lost_leaves_doubt() {
    let (listener, address) = listen().await;
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{TOKENS}", TOKENS.len());
    let ends = [0, 5, 17, 38, whole.len() - TOKENS.len(), whole.len() - 1];
    let accepted = Arc::new(Mutex::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        for end in ends {
            let (mut stream, _) = listener.accept().await.unwrap();
            *count.lock().unwrap() += 1;
            swallow(&mut stream).await;
            stream.write_all(&whole.as_bytes()[..end]).await.unwrap();
        }
        let (mut stream, _) = listener.accept().await.unwrap();
        swallow(&mut stream).await;
        stream.write_all(whole.as_bytes()).await.unwrap();
    });
    let refresher = OAuth2Refresher::new(format!("http://{address}/token"), "pub").unwrap().http(HyperTokens::new());
    for end in ends {
        let error = refresher.refresh(grant()).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Transient, "{end}");
        assert!(!error.not_sent && !error.closes_attempt(), "{end}: {error:?}");
    }
    assert_eq!(*accepted.lock().unwrap(), ends.len(), "a request was repeated");
    refresher.refresh(grant()).await.unwrap();
}

/// A connection that was kept could be dead when it is wanted: there is none.
#[tokio::test]
async fn each_request_has_its_own_connection() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                swallow(&mut stream).await;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{TOKENS}", TOKENS.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                // As an idle connection ends: what comes next is not answered.
                let _ = stream.read_u8().await;
            });
        }
    });
    let refresher = OAuth2Refresher::new(format!("http://{address}/token"), "pub").unwrap().http(HyperTokens::new());
    for _ in 0..20 {
        refresher.refresh(grant()).await.unwrap();
    }
}
