//! `HyperTokens` over TLS, and which certificates it trusts. Certificates are made by `openssl`; the settings are those of
//! a process, so that each client is one of its own: this test program again, as `child`.
#![cfg(feature = "__server-tests")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test; its servers run in tasks of their own

use bytes::Bytes;
use http::{Request, Uri};
use std::{
    error::Error,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tower::ServiceExt;
use tower_reauth::HyperTokens;

const URI: &str = "TOWER_REAUTH_TEST_URI";

/// The other tests start this one, with the environment it is about: it says on standard output what became of one
/// request. By itself it asks a server without TLS.
#[tokio::test]
async fn child() {
    let uri = match std::env::var(URI) {
        Ok(uri) => uri,
        Err(_) => {
            let uri = format!("http://{}/token", serve(None).await);
            let said = ask(&uri, &[]).await;
            return assert!(said.contains("status 200"), "{said}");
        }
    };
    let request = Request::post(uri.parse::<Uri>().unwrap()).body(Bytes::from_static(b"grant_type=x")).unwrap();
    match HyperTokens::new().oneshot(request).await {
        Ok(response) => println!("status {}", response.status()),
        Err(error) => {
            let mut next: Option<&(dyn Error + 'static)> = Some(&*error);
            while let Some(error) = next {
                println!("error: {error}");
                next = error.source();
            }
        }
    }
}

/// What `child` says with these certificates in its environment.
async fn ask(uri: &str, env: &[(&str, &Path)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(URI, uri);
    command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").envs(env.iter().copied());
    let output = command.kill_on_drop(true).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A directory with a certificate for 127.0.0.1 and its key; gone with the value.
struct Identity(PathBuf);

impl Identity {
    async fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tower-reauth-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("empty")).unwrap();
        std::fs::write(dir.join("none.pem"), "").unwrap();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args([
                "-subj",
                "/CN=tower-reauth test",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(&dir)
            .output()
            .await
            .expect("`openssl` is needed to make a certificate");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn acceptor(&self) -> TlsAcceptor {
        let cert = CertificateDer::from_pem_file(self.file("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file("key.pem")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn serve(tls: Option<TlsAcceptor>) -> SocketAddr {
    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut read = Vec::new();
        while !read.ends_with(b"grant_type=x") && stream.read_buf(&mut read).await.is_ok_and(|n| n > 0) {}
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        let _ = stream.shutdown().await;
    }

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream).await;
                    }
                }
                None => answer(stream).await,
            }
        }
    });
    address
}

#[tokio::test]
async fn ssl_cert_file_is_honoured() {
    let identity = Identity::new("file").await;
    let uri = format!("https://{}/token", serve(Some(identity.acceptor())).await);
    let said = ask(&uri, &[("SSL_CERT_FILE", &identity.file("cert.pem"))]).await;
    assert!(said.contains("status 200"), "{said}");
}

/// Case 19: a server that nobody vouches for gets no token.
#[tokio::test]
async fn case_19_an_unknown_certificate_is_refused() {
    let (identity, other) = (Identity::new("unknown").await, Identity::new("other").await);
    let uri = format!("https://{}/token", serve(Some(identity.acceptor())).await);
    let said = ask(&uri, &[("SSL_CERT_FILE", &other.file("cert.pem"))]).await;
    assert!(said.contains("the request was not sent") && !said.contains("status"), "{said}");
    assert!(said.contains("certificate"), "{said}");
}

#[tokio::test]
async fn without_roots_https_says_so_and_loopback_works() {
    let identity = Identity::new("none").await;
    let (none, empty) = (identity.file("none.pem"), identity.file("empty"));
    let env = [("SSL_CERT_FILE", &*none), ("SSL_CERT_DIR", &*empty)];
    let uri = format!("https://{}/token", serve(Some(identity.acceptor())).await);
    let said = ask(&uri, &env).await;
    assert!(said.contains("no trusted root certificates were found"), "{said}");
    let uri = format!("http://{}/token", serve(None).await);
    let said = ask(&uri, &env).await;
    assert!(said.contains("status 200"), "{said}");
}
