//! Sessions whose tokens come from a token endpoint of this process, over `HyperTokens`: what goes out, and what each
//! answer does to the session.
#![cfg(feature = "hyper-client")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test; its servers run in tasks of their own

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpListener;
use tower_reauth::{
    AuthState, ClientCredentials, ErrorKind, FailureClassifier, HyperTokens, LockCause, OAuth2Refresher, Session,
    SignOut, Tokens,
};

type Answer = Response<Full<Bytes>>;

fn json(status: u16, body: &str) -> Answer {
    let body = Full::from(body.to_owned());
    Response::builder().status(status).header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
}

fn tokens(number: u32) -> Answer {
    let body =
        format!(r#"{{"access_token":"a{number}","refresh_token":"r{number}","expires_in":600,"token_type":"bearer"}}"#);
    json(200, &body)
}

/// A server that gives the answers it is told to, in turn, and keeps what it was asked.
#[derive(Clone, Default)]
struct Server {
    uri: String,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let server = Self { uri: format!("http://{}", listener.local_addr().unwrap()), ..Self::default() };
        let this = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                let service = service_fn(move |request| {
                    let this = this.clone();
                    async move { Ok::<_, Infallible>(this.answer(request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        server
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let head = format!("{} ", request.uri().path());
        let authorization =
            request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let asked = head + &authorization.map(|value| value + " ").unwrap_or_default() + str::from_utf8(&body).unwrap();
        self.asked.lock().unwrap().push(asked);
        self.answers.lock().unwrap().pop_front().unwrap_or_else(|| json(500, ""))
    }

    fn will(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// A public client whose user signed in with `a1` and `r1`.
    async fn session(&self, classifier: FailureClassifier) -> Session {
        let refresher = OAuth2Refresher::new(format!("{}/token", self.uri), "pub").unwrap();
        let refresher = refresher.revocation(format!("{}/revoke", self.uri)).unwrap().http(HyperTokens::new());
        let session = Session::builder(refresher).classifier(classifier).open("alice").await.unwrap();
        let first = Tokens::new("a1").with_refresh_token("r1").with_expires_in(Duration::from_secs(600));
        session.sign_in(first).await.unwrap();
        session
    }
}

fn refresh_with(token: &str) -> String {
    format!("/token grant_type=refresh_token&refresh_token={token}&client_id=pub")
}

#[tokio::test]
async fn rotation_and_revocation() {
    let server = Server::start().await;
    server.will([tokens(2), tokens(3), json(200, "")]);
    let session = server.session(FailureClassifier::new()).await;
    session.refresh().await.unwrap();
    session.refresh().await.unwrap();
    assert_eq!(session.access_token().await.unwrap().expose(), "a3");
    session.sign_out(SignOut::Hard).await.unwrap();
    session.close().await.unwrap();
    let revoke = "/revoke token=r3&token_type_hint=refresh_token&client_id=pub".to_owned();
    assert_eq!(server.asked(), [refresh_with("r1"), refresh_with("r2"), revoke]);
}

/// RFC 6749 §2.3.1 and §4.4.
#[tokio::test]
async fn a_service_signs_in_as_itself() {
    let server = Server::start().await;
    server.will([json(200, r#"{"access_token":"a","token_type":"Bearer","expires_in":"60"}"#)]);
    let refresher = ClientCredentials::new(format!("{}/token", server.uri), "conf-basic", "conf:sec/ret+1").unwrap();
    let session = Session::builder(refresher.scope("x").http(HyperTokens::new())).open("service").await.unwrap();
    assert_eq!(session.access_token().await.unwrap().expose(), "a");
    // printf 'conf-basic:conf%%3Asec%%2Fret%%2B1' | base64
    let basic = "Basic Y29uZi1iYXNpYzpjb25mJTNBc2VjJTJGcmV0JTJCMQ==";
    assert_eq!(server.asked(), [format!("/token {basic} grant_type=client_credentials&scope=x")]);
}

/// Case 43: the refresh token does not follow a redirect, and is not lost.
#[tokio::test]
async fn case_43_a_redirect_goes_nowhere() {
    let (server, elsewhere) = (Server::start().await, Server::start().await);
    let mut redirect = json(307, "");
    redirect.headers_mut().insert(header::LOCATION, format!("{}/token", elsewhere.uri).parse().unwrap());
    server.will([redirect, tokens(2)]);
    let session = server.session(FailureClassifier::new()).await;
    let error = session.refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(elsewhere.asked().is_empty());
    session.reconnected();
    session.refresh().await.unwrap();
    assert_eq!(server.asked(), [refresh_with("r1"), refresh_with("r1")]);
}

/// Case 19, 20: what ends no session, and who is told to wait.
#[tokio::test]
async fn case_20_answers_that_prove_nothing() {
    let page = |status: u16| {
        let page = Full::from("<html>Access denied</html>");
        Response::builder().status(status).header(header::CONTENT_TYPE, "text/html").body(page).unwrap()
    };
    let rows = [
        (json(400, r#"{"error":"invalid_client"}"#), ErrorKind::Misconfigured),
        (json(400, r#"{"error":"temporarily_unavailable"}"#), ErrorKind::Unavailable),
        (json(400, r#"{"error":400}"#), ErrorKind::Unavailable),
        (json(400, ""), ErrorKind::Unavailable),
        (json(401, ""), ErrorKind::Unavailable),
        (json(429, r#"{"error":"invalid_grant"}"#), ErrorKind::Unavailable),
        (json(500, r#"{"error":"invalid_grant"}"#), ErrorKind::Unavailable),
        (json(200, r#"{"access_token":"a2","refresh_tok"#), ErrorKind::Unavailable),
        (page(403), ErrorKind::Unavailable),
        (page(200), ErrorKind::Unavailable),
    ];
    for (answer, kind) in rows {
        let server = Server::start().await;
        let what = format!("{answer:?}");
        server.will([answer, tokens(2)]);
        let session = server.session(FailureClassifier::new()).await;
        let error = session.refresh().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}");
        assert_eq!(session.access_token().await.unwrap().expose(), "a1", "{what}");
        session.reconnected();
        session.refresh().await.unwrap();
        assert_eq!(session.access_token().await.unwrap().expose(), "a2", "{what}");
    }
}

/// Case 19: `Retry-After` is honoured, up to an hour.
#[tokio::test]
async fn case_19_retry_after() {
    for (value, bounds) in [("120", 110..=120), ("99999999999", 3590..=3600), ("-1", 1..=2)] {
        let server = Server::start().await;
        let mut busy = json(503, "");
        busy.headers_mut().insert(header::RETRY_AFTER, value.parse().unwrap());
        server.will([busy]);
        let session = server.session(FailureClassifier::new()).await;
        session.refresh().await.unwrap_err();
        let wait = session.refresh().await.unwrap_err().retry_after().unwrap();
        assert!(bounds.contains(&wait.as_secs_f64().ceil().to_string().parse().unwrap()), "{value}: {wait:?}");
        assert_eq!(server.asked().len(), 1);
    }
}

/// Case 20: a 200 with an error in it is that error.
#[tokio::test]
async fn case_20_a_200_may_be_a_refusal() {
    let server = Server::start().await;
    server.will([json(200, r#"{"error":"bad_refresh_token","error_description":"r1 was used"}"#)]);
    let session = server.session(FailureClassifier::new()).await;
    let error = session.refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthRequired);
    // The access token was not refused, and is good until it expires.
    assert!(matches!(session.state(), AuthState::Active { reauth_pending: true, .. }));
    assert_eq!(session.access_token().await.unwrap().expose(), "a1");
}

/// Case 22: the signal locks; the same answer without it does not.
#[tokio::test]
async fn case_22_a_signal_of_this_issuer_locks() {
    let answer = r#"{"error":"invalid_grant","error_description":"User disabled"}"#;
    for (issuer_matches, status) in [(true, 400), (true, 403), (false, 400)] {
        let server = Server::start().await;
        server.will([json(status, answer)]);
        let issuer = if issuer_matches { server.uri.clone() } else { "https://id.example.com".to_owned() };
        let session = server.session(FailureClassifier::new().account_disabled(issuer, "User disabled")).await;
        let error = session.refresh().await.unwrap_err();
        assert_eq!(error.kind() == ErrorKind::Locked, issuer_matches, "{error:?}");
        assert_eq!(session.state() == AuthState::Locked(LockCause::AccountDisabled), issuer_matches);
    }
}

/// P5: an answer that is of no use but for its refresh token.
#[tokio::test]
async fn p5_a_refresh_token_alone_is_kept() {
    let server = Server::start().await;
    server.will([json(200, r#"{"refresh_token":"r2","token_type":"bearer"}"#), tokens(3)]);
    let session = server.session(FailureClassifier::new()).await;
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Misconfigured);
    session.reconnected();
    session.refresh().await.unwrap();
    assert_eq!(server.asked(), [refresh_with("r1"), refresh_with("r2")]);
    assert_eq!(session.access_token().await.unwrap().expose(), "a3");
}

/// Case 19: a server that is gone, and one that is back.
#[tokio::test]
async fn case_19_nobody_listens() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let uri = format!("http://{}/token", listener.local_addr().unwrap());
    drop(listener);
    let session = Session::builder(OAuth2Refresher::new(uri, "pub").unwrap().http(HyperTokens::new()));
    let session = session.open("alice").await.unwrap();
    session.sign_in(Tokens::new("a1").with_refresh_token("r1")).await.unwrap();
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(session.access_token().await.unwrap().expose(), "a1");
}
