//! `rediss://`: which certificates it trusts. The settings are those of a process, so that each client is one of its
//! own: this test program again, as `child`.

use crate::{Redis, key, text};
use std::{path::Path, process::Command};
use tower_reauth::{RedisStore, SessionStore as _};

const URL: &str = "TOWER_REAUTH_TEST_REDIS";

/// The other test starts this one: it says on standard output what became of a connection. By itself it asks a Redis
/// without TLS.
#[tokio::test]
async fn child() {
    let own = Redis::start();
    let url = std::env::var(URL).unwrap_or_else(|_| own.url());
    match RedisStore::connect(&url).await {
        Ok(store) => println!("connected, mark {:?}", store.raise_epoch(&key('a'), 2).await.ok()),
        Err(error) => println!("error: {:?}: {}", error.kind(), text(&error)),
    }
    assert!(std::env::var(URL).is_ok() || RedisStore::connect(&url).await.is_ok());
}

async fn ask(url: &str, roots: Option<&Path>) -> String {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "tls::child", "--nocapture"]).env(URL, url);
    command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").envs(roots.map(|roots| ("SSL_CERT_FILE", roots)));
    String::from_utf8(command.kill_on_drop(true).output().await.unwrap().stdout).unwrap()
}

#[tokio::test]
async fn rediss_trusts_the_systems_roots_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=tower-reauth test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir.path())
        .output()
        .expect("`openssl` is needed to make a certificate");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _redis = Redis::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        cert.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
    ]);
    let url = format!("rediss://:hunter2@127.0.0.1:{port}/");
    let said = ask(&url.replace(":hunter2@", ""), Some(&cert)).await;
    assert!(said.contains("connected, mark Some(2)"), "{said}");
    let said = ask(&url, None).await;
    assert!(said.contains("error: Unavailable") && said.contains("certificate"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
