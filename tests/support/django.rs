//! The second real authorization server of the integration tests (`tests/servers/django-oauth-toolkit`), one process per
//! [`DjangoServer`], on free ports, gone when the value is dropped or the test is killed; and a [`Rig`] around it.
//!
//! Include it with `#[path = "support/django.rs"] mod django;`. A server that cannot start is a failed test, never a
//! skipped one. The controls and settings are listed at the head of `server.py`. All waiting here is for real input and
//! output: do not pause tokio's time in a test that uses it.
#![allow(dead_code, unreachable_pub)] // each test target uses another part of it

#[path = "life.rs"]
pub mod life;

use bytes::Bytes;
use http::{Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use life::{
    Answer, Api,
    oidc::{Reply, SeededTokens},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tower::{Layer as _, util::BoxCloneSyncService};
use tower_reauth::{
    AuthError, AuthLayer, HyperTokens, MemoryStore, OAuth2Refresher, Origins, Refresher, Session, SessionBuilder,
};

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/django-oauth-toolkit");
const INSTALL: &str = "run ./tests/run once, which installs what the servers need";
const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(20);

/// A running server.
#[derive(Debug)]
pub struct DjangoServer {
    issuer: String,
    ctl: String,
    http: Client<HttpConnector, Full<Bytes>>,
    _child: Child,
    _stdout: BufReader<ChildStdout>, // kept open: writing to a closed pipe would be an error there
}

/// What the server counted since its start or the last [`DjangoServer::reset`]; see the head of `server.py`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct Counts {
    pub token_requests: u64,
    pub refresh_success: u64,
    pub rotations: u64,
    pub reuse_revocations: u64,
    pub revocation_requests: u64,
    pub api_requests: u64,
    pub api_401: u64,
    pub api_403: u64,
}

// ===== impl DjangoServer =====

impl DjangoServer {
    /// Starts a server with more environment, say `[("AT_TTL", "30"), ("GRACE", "3")]`.
    pub async fn start_with(env: &[(&str, &str)]) -> Self {
        let python = Path::new(DIR).join(".venv/bin/python");
        assert!(python.exists(), "the test server is not installed (no .venv in {DIR}): {INSTALL}");
        let mut child = Command::new(python)
            .arg("server.py")
            .current_dir(DIR)
            .env("PORT", "0")
            .env("CTL_PORT", "0")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("PYTHONPATH")
            .env_remove("DJANGO_SETTINGS_MODULE")
            .envs(env.iter().copied())
            .stdin(Stdio::piped()) // the server ends when this closes, also when the test is killed
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("the test server does not start ({e}): {INSTALL}"));

        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        match timeout(START, stdout.read_line(&mut line)).await {
            Err(_) => panic!("the test server said nothing within {START:?}"),
            Ok(Err(e)) => panic!("the test server's output cannot be read: {e}"),
            Ok(Ok(0)) => {
                let status = child.wait().await;
                panic!("the test server ended before it was ready ({status:?}; its own words are above): {INSTALL}");
            }
            Ok(Ok(_)) => {}
        }
        let word = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
        let (Some(issuer), Some(ctl)) = (word("issuer="), word("ctl=")) else {
            panic!("the test server's first line is not `ready issuer=URL ctl=URL`: {line:?}");
        };
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { issuer, ctl, http, _child: child, _stdout: stdout }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer)
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn token_endpoint(&self) -> String {
        self.url("/o/token/")
    }

    pub fn revocation_endpoint(&self) -> String {
        self.url("/o/revoke_token/")
    }

    // ----- controls -----

    /// Calls a control, `ctl("/seed", json!({"user": "bob"}))`; a refusal is a mistake in the test and panics.
    pub async fn ctl(&self, path: &str, body: Value) -> Value {
        let request = Request::post(format!("{}{path}", self.ctl)).header(CONTENT_TYPE, "application/json");
        let reply = self.send(request.body(body.to_string().into()).expect("a control's path is part of a URL")).await;
        assert!(reply.status.is_success(), "control {path} {body}: {} {}", reply.status, reply.text());
        reply.json()
    }

    /// A new family of tokens, as if the user had signed in, with the scope `read`.
    pub async fn seed(&self, user: &str, client: &str) -> SeededTokens {
        let tokens = self.ctl("/seed", json!({ "user": user, "client": client })).await;
        let member = |name: &str| tokens[name].as_str().unwrap_or_else(|| panic!("no {name} in {tokens}")).to_owned();
        SeededTokens {
            access_token: member("access_token"),
            refresh_token: member("refresh_token"),
            expires_in: tokens["expires_in"].as_u64().expect("whole seconds"),
            grant_id: member("grant_id"),
        }
    }

    pub async fn set(&self, settings: Value) {
        self.ctl("/set", settings).await;
    }

    pub async fn counts(&self) -> Counts {
        serde_json::from_value(self.ctl("/counts", json!({})).await).expect("every count is there")
    }

    /// Sets the counts to 0; settings stay as they are.
    pub async fn reset(&self) {
        self.ctl("/reset", json!({})).await;
    }

    /// Whether a refresh token was spent or revoked.
    pub async fn revoked(&self, refresh_token: &str) -> bool {
        self.ctl("/lookup", json!({ "token": refresh_token })).await["revoked"].as_bool().expect("a refresh token")
    }

    // ----- as a client -----

    /// A refresh by hand, of the client `pub`: what the crate under test is measured against.
    pub async fn refresh_by_hand(&self, refresh_token: &str) -> Reply {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("client_id", "pub")];
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = Request::post(self.token_endpoint()).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request.body(form.into()).expect("a form request")).await
    }

    /// Sends any request over this helper's own pool.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        let exchange = async {
            let (head, body) = self.http.request(request).await.expect("the test server answers").into_parts();
            let body = body.collect().await.expect("the test server's answer is whole").to_bytes();
            Reply { status: head.status, headers: head.headers, body }
        };
        timeout(ANSWER, exchange).await.unwrap_or_else(|_| panic!("no answer within {ANSWER:?}"))
    }
}

// ===== a session around it =====

/// A server of its own, and the store that the sessions share.
pub struct Rig {
    pub server: DjangoServer,
    pub store: MemoryStore,
}

impl Rig {
    /// Access tokens live so many seconds, and rotated refresh tokens so many more.
    pub async fn start(seconds: u64, grace: u64) -> Self {
        let env = [("AT_TTL", seconds.to_string()), ("GRACE", grace.to_string())];
        let server = DjangoServer::start_with(&env.each_ref().map(|(name, value)| (*name, &**value))).await;
        Self { server, store: MemoryStore::new() }
    }

    pub fn client(&self, id: &str) -> OAuth2Refresher {
        let refresher = OAuth2Refresher::new(self.server.token_endpoint(), id).unwrap();
        refresher.revocation(self.server.revocation_endpoint()).unwrap()
    }

    pub fn with(&self, refresher: impl Refresher) -> SessionBuilder {
        Session::builder(refresher).store(self.store.clone()).background_refresh(false) // so that counts are exact
    }

    pub async fn open(&self) -> Session {
        self.with(self.client("pub").http(HyperTokens::new())).open("alice").await.unwrap()
    }

    /// A session of the client `pub`, signed in.
    pub async fn signed_in(&self) -> (Session, SeededTokens) {
        let session = self.open().await;
        let seeded = self.server.seed("alice", "pub").await;
        session.sign_in(life::tokens(&seeded)).await.unwrap();
        (session, seeded)
    }

    pub fn layer(&self, session: &Session) -> AuthLayer {
        AuthLayer::new(session.clone(), Origins::new([self.server.issuer()]).unwrap())
    }

    pub fn api(&self, session: &Session) -> Api {
        over(self.layer(session))
    }

    /// The resource that answers with a challenge.
    pub async fn get(&self, api: &Api) -> Result<Answer, AuthError> {
        self.get_from(api, "/api/me").await
    }

    pub async fn get_from(&self, api: &Api, path: &str) -> Result<Answer, AuthError> {
        life::send(api, Request::get(self.server.url(path)).body(Full::default()).unwrap()).await
    }

    /// What is stored of the only account.
    pub async fn record(&self) -> Value {
        life::record(&self.store).await
    }
}

pub fn over(layer: AuthLayer) -> Api {
    BoxCloneSyncService::new(layer.layer(Client::builder(TokioExecutor::new()).build_http()))
}
