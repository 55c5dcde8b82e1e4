//! The refreshers against a real authorization server, in each way that a client can authenticate.
#![cfg(feature = "__server-tests")]
#![allow(clippy::unwrap_used)] // a test

#[path = "support/oidc.rs"]
mod oidc;

use oidc::OidcServer;
use tower_reauth::{ClientAuth, ErrorKind, HyperTokens, OAuth2Refresher, Session, SignOut, Tokens};

/// RFC 6749 §2.3.1 and §6, RFC 7009: refresh twice, sign out, and the server knows.
#[tokio::test]
async fn each_way_to_authenticate_refreshes_and_revokes() {
    let server = OidcServer::start().await;
    let rows = [
        ("pub", None),
        ("conf-basic", Some(("conf:sec/ret+1", ClientAuth::Basic))),
        ("conf-post", Some(("post-secret", ClientAuth::Post))),
    ];
    for (client, secret) in rows {
        server.reset().await;
        let mut refresher = OAuth2Refresher::new(server.token_endpoint(), client).unwrap();
        if let Some((secret, method)) = secret {
            refresher = refresher.secret(secret).auth_method(method);
        }
        let refresher = refresher.revocation(server.revocation_endpoint()).unwrap().http(HyperTokens::new());
        let session = Session::builder(refresher).open(format!("alice-{client}")).await.unwrap();
        let seeded = server.seed("alice", client).await;
        session.sign_in(Tokens::new(seeded.access_token).with_refresh_token(seeded.refresh_token)).await.unwrap();
        session.refresh().await.unwrap();
        session.refresh().await.unwrap();
        session.sign_out(SignOut::Soft).await.unwrap();
        session.close().await.unwrap();
        let counts = server.counts().await;
        assert_eq!((counts.refresh_success, counts.revocation_requests), (2, 1), "{client}");
        assert_eq!(counts.reuse_revocations, 0, "{client}");
    }
}

/// A wrong secret is a fault of the set-up: the refresh token survives it.
#[tokio::test]
async fn a_wrong_secret_is_misconfigured() {
    let server = OidcServer::start().await;
    let seeded = server.seed("alice", "conf-basic").await;
    let open = async |secret: &str| {
        let refresher = OAuth2Refresher::new(server.token_endpoint(), "conf-basic").unwrap().secret(secret);
        let session = Session::builder(refresher.http(HyperTokens::new())).open("alice").await.unwrap();
        let tokens = Tokens::new(&*seeded.access_token).with_refresh_token(&*seeded.refresh_token);
        session.sign_in(tokens).await.unwrap();
        session
    };
    let error = open("wrong").await.refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    open("conf:sec/ret+1").await.refresh().await.unwrap();
}
