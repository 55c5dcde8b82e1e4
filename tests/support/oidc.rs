//! The real authorization server of the integration tests (`tests/servers/oidc-provider`), one process per
//! [`OidcServer`], on free ports, gone when the value is dropped or the test is killed.
//!
//! Include it with `#[path = "support/oidc.rs"] mod oidc;`. A server that cannot start is a failed test, never a
//! skipped one. The controls and settings are listed at the head of `server.mjs`. All waiting here is for real
//! input and output: do not pause tokio's time in a test that uses it.
#![allow(dead_code, unreachable_pub)] // each test target uses another part of it

use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/oidc-provider");
const INSTALL: &str = "run ./tests/run once, which installs what the servers need";
const START: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(20);

/// The redirect URI of all interactive clients; nothing listens there.
const REDIRECT: &str = "http://127.0.0.1/cb";
/// The worked example of RFC 7636, appendix B: the login is real, its randomness does not matter.
const PKCE_VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const PKCE_CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A running server.
#[derive(Debug)]
pub struct OidcServer {
    issuer: String,
    ctl: String,
    http: Client<HttpConnector, Full<Bytes>>,
    child: Child,
    _stdout: BufReader<ChildStdout>, // kept open: writing to a closed pipe would end the server
}

/// What a sign-in gave, or would have given.
#[derive(Clone, Debug)]
pub struct SeededTokens {
    pub access_token: String,
    pub refresh_token: String,
    pub expires_in: u64,
    pub grant_id: String,
}

/// What the server counted since its start or the last [`OidcServer::reset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Requests to the token endpoint, whatever came of them.
    pub token_requests: u64,
    /// Refresh tokens exchanged, also when the answer was then dropped.
    pub refresh_success: u64,
    pub client_credentials_success: u64,
    /// Grants revoked because a spent refresh token came back.
    pub reuse_revocations: u64,
    pub revocation_requests: u64,
    pub api_requests: u64,
    pub api_401: u64,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

// ===== impl OidcServer =====

impl OidcServer {
    /// Starts a server with the defaults: access tokens live 2 s, refresh tokens rotate.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with more environment, say `[("AT_TTL", "30")]`. With `TLS_KEY` and `TLS_CERT` the controls
    /// go on to work here, while requests to the issuer need a client that speaks TLS.
    pub async fn start_with(env: &[(&str, &str)]) -> Self {
        assert!(
            Path::new(DIR).join("node_modules/oidc-provider").is_dir(),
            "the test server is not installed (no node_modules in {DIR}): {INSTALL}"
        );
        let spawned = Command::new("node")
            .arg("server.mjs")
            .current_dir(DIR)
            .env("PORT", "0")
            .env("CTL_PORT", "0")
            .env_remove("NODE_OPTIONS")
            .envs(env.iter().copied())
            .stdin(Stdio::piped()) // the server ends when this closes, also when the test is killed
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(e) if e.kind() == ErrorKind::NotFound => panic!("there is no `node` on the path: {INSTALL}"),
            Err(e) => panic!("the test server does not start: {e}"),
        };

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
        Self { issuer, ctl, http, child, _stdout: stdout }
    }

    /// Ends the server now; its ports refuse connections from here on.
    pub async fn stop(mut self) {
        self.child.kill().await.expect("the test server can be ended");
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn token_endpoint(&self) -> String {
        self.url("/token")
    }

    pub fn revocation_endpoint(&self) -> String {
        self.url("/token/revocation")
    }

    /// The provider's own resource: wants a token with the scope `openid`.
    pub fn me(&self) -> String {
        self.url("/me")
    }

    /// The resource that answers with what it received.
    pub fn echo(&self) -> String {
        self.url("/api/echo")
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer)
    }

    // ----- controls -----

    /// Calls a control, `ctl("/seed", json!({"user": "bob"}))`; a refusal is a mistake in the test and panics.
    pub async fn ctl(&self, path: &str, body: Value) -> Value {
        let request = Request::post(format!("{}{path}", self.ctl))
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string().into())
            .expect("a control's path is part of a URL");
        let reply = self.send(request).await.unwrap_or_else(|e| panic!("control {path}: {e}"));
        assert!(reply.status.is_success(), "control {path} {body}: {} {}", reply.status, reply.text());
        reply.json()
    }

    /// A new grant, as if the user had signed in, with the scope `openid offline_access api:read`.
    pub async fn seed(&self, user: &str, client: &str) -> SeededTokens {
        self.seed_with(json!({ "user": user, "client": client })).await
    }

    pub async fn seed_with(&self, wanted: Value) -> SeededTokens {
        let tokens = self.ctl("/seed", wanted).await;
        let grant_id = member(&tokens, "grant_id");
        SeededTokens::new(&tokens, grant_id)
    }

    pub async fn set(&self, settings: Value) {
        self.ctl("/set", settings).await;
    }

    pub async fn counts(&self) -> Counts {
        let counts = self.ctl("/counts", json!({})).await;
        let count = |name: &str| counts[name].as_u64().unwrap_or_else(|| panic!("no count {name} in {counts}"));
        Counts {
            token_requests: count("token_requests"),
            refresh_success: count("refresh_success"),
            client_credentials_success: count("client_credentials_success"),
            reuse_revocations: count("reuse_revocations"),
            revocation_requests: count("revocation_requests"),
            api_requests: count("api_requests"),
            api_401: count("api_401"),
        }
    }

    /// Sets the counts to 0 and forgets the events; settings stay as they are.
    pub async fn reset(&self) {
        self.ctl("/reset", json!({})).await;
    }

    /// What happened since the last call, oldest first.
    pub async fn events(&self) -> Vec<Value> {
        match self.ctl("/events", json!({})).await {
            Value::Array(events) => events,
            other => panic!("events are a list: {other}"),
        }
    }

    /// The values of all tokens that the server holds.
    pub async fn held_tokens(&self) -> Vec<String> {
        let held = self.ctl("/held", json!({})).await;
        let values = held["tokens"].as_array().expect("a list").iter();
        values.map(|value| value.as_str().expect("tokens are text").to_owned()).collect()
    }

    pub async fn disable(&self, user: &str) {
        self.ctl("/disable", json!({ "user": user })).await;
    }

    pub async fn enable(&self, user: &str) {
        self.ctl("/enable", json!({ "user": user })).await;
    }

    pub async fn revoke_grant(&self, grant_id: &str) {
        self.ctl("/revoke-grant", json!({ "grant_id": grant_id })).await;
    }

    // ----- as a client -----

    /// Posts a form to the issuer, `authorization` verbatim; what went wrong on the wire is an `Err`.
    pub async fn post_form(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Result<Reply, String> {
        let mut request = Request::post(self.url(path))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        self.send(request.body(form(fields).into()).expect("a form request")).await
    }

    /// A refresh by hand, of the client `pub`: what the crate under test is measured against.
    pub async fn refresh_by_hand(&self, refresh_token: &str) -> Result<Reply, String> {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("client_id", "pub")];
        self.post_form("/token", &fields, None).await
    }

    /// Signs in as a person does: authorization code and PKCE through the provider's own pages, with the client `pub`.
    pub async fn login(&self, user: &str) -> SeededTokens {
        let code = self.authorize(user).await;
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", REDIRECT),
            ("client_id", "pub"),
            ("code_verifier", PKCE_VERIFIER),
        ];
        let reply = self.post_form("/token", &fields, None).await.expect("the token endpoint answers");
        assert_eq!(reply.status, StatusCode::OK, "code exchange: {}", reply.text());
        let tokens = reply.json();
        // The answer does not name the grant; the store knows it.
        let held = self.ctl("/lookup", json!({ "token": member(&tokens, "refresh_token") })).await;
        SeededTokens::new(&tokens, member(&held, "grant_id"))
    }

    /// Signs in at `/auth`, up to the redirect that carries the code.
    async fn authorize(&self, user: &str) -> String {
        let query = form(&[
            ("client_id", "pub"),
            ("response_type", "code"),
            ("redirect_uri", REDIRECT),
            ("scope", "openid offline_access api:read"),
            ("state", "s"),
            ("nonce", "n"),
            ("prompt", "consent"), // offline_access is granted with consent only
            ("code_challenge", PKCE_CHALLENGE),
            ("code_challenge_method", "S256"),
        ]);
        let end = self.walk(&format!("/auth?{query}"), user).await;
        let to = end.headers.get(LOCATION).and_then(|to| to.to_str().ok()).expect("a redirect with the code");
        let code = to.split(['?', '&']).find_map(|pair| pair.strip_prefix("code="));
        code.unwrap_or_else(|| panic!("sign-in was refused: {to}")).to_owned()
    }

    /// Enters the code of a device (RFC 8628) and signs in, as a person does in a browser.
    pub async fn approve_device(&self, user_code: &str, user: &str) {
        let end = self.walk(&format!("/device?user_code={user_code}"), user).await;
        assert!(end.text().contains("Sign-in Success"), "the device was refused: {}", end.text());
    }

    /// Walks pages as a browser would, filling in who signs in: up to a page without a form, or to the redirect home.
    async fn walk(&self, path: &str, user: &str) -> Reply {
        let mut cookies: Vec<(String, String)> = Vec::new();
        let mut next = Request::get(self.url(path)).body(Full::default()).expect("a page's URL");

        for _ in 0..12 {
            next.headers_mut().insert(ACCEPT, "text/html".parse().expect("a header"));
            let jar: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            if !jar.is_empty() {
                next.headers_mut().insert(COOKIE, jar.join("; ").parse().expect("cookies are a header"));
            }
            let page = self.send(next).await.expect("the sign-in pages answer");
            for cookie in page.headers.get_all(SET_COOKIE) {
                let cookie = cookie.to_str().expect("cookies are text");
                let (name, value) = cookie.split(';').next().and_then(|c| c.split_once('=')).expect("name=value");
                cookies.retain(|(held, _)| held != name);
                if !value.is_empty() {
                    cookies.push((name.to_owned(), value.to_owned()));
                }
            }

            next = if page.status.is_redirection() {
                let to = page.headers.get(LOCATION).and_then(|to| to.to_str().ok()).expect("a redirect has a Location");
                if to.starts_with(REDIRECT) {
                    return page;
                }
                let to = if to.starts_with('/') { self.url(to) } else { to.to_owned() };
                Request::get(to).body(Full::default()).expect("a page's URL")
            } else {
                assert_eq!(page.status, StatusCode::OK, "sign-in page: {}", page.text());
                let html = page.text();
                if !html.contains("<form") {
                    return page;
                }
                let hidden = html.split("type=\"hidden\" name=\"").skip(1);
                let mut fields: Vec<_> = hidden
                    .map(|field| (field.split('"').next().unwrap_or_default(), between(field, "value=\"", "\"")))
                    .collect();
                if fields.contains(&("prompt", "login")) {
                    fields.extend([("login", user), ("password", "any")]);
                }
                Request::post(between(&html, "action=\"", "\""))
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form(&fields).into())
                    .expect("a form's URL")
            };
        }
        panic!("the sign-in pages go round in circles");
    }

    /// Sends any request over this helper's own pool; a broken or cut-off answer is an `Err`.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Reply, String> {
        let exchange = async {
            let response = self.http.request(request).await.map_err(|e| chain(&e))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| chain(&e))?.to_bytes();
            Ok(Reply { status: head.status, headers: head.headers, body })
        };
        timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {ANSWER:?}")))
    }
}

// ===== impl SeededTokens, Reply =====

impl SeededTokens {
    fn new(tokens: &Value, grant_id: String) -> Self {
        Self {
            access_token: member(tokens, "access_token"),
            refresh_token: member(tokens, "refresh_token"),
            expires_in: tokens["expires_in"].as_u64().unwrap_or_else(|| panic!("no expires_in in {tokens}")),
            grant_id,
        }
    }
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }
}

// ===== helpers =====

fn member(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value}")).to_owned()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let found = text.split_once(before).and_then(|(_, rest)| rest.split_once(after));
    found.unwrap_or_else(|| panic!("no {before}…{after} in {text}")).0
}

fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text.push_str(&format!(": {e}"));
        source = e.source();
    }
    text
}
