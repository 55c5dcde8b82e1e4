//! The story of the quickstart against a running `oidc-provider` (see `tests/servers/`).
//!
//! ```text
//! cargo run --example real_server -- --issuer http://127.0.0.1:4801 --ctl http://127.0.0.1:4802
//! ```

#[path = "support/story.rs"]
mod story;

use bytes::Bytes;
use http::{Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use std::{process::ExitCode, sync::Mutex, time::Duration};
use story::Backend;
use tower_reauth::{BoxError, Tokens};

const USAGE: &str = "usage: real_server --issuer URL --ctl URL [--json]

  --issuer URL  a running oidc-provider, over http
  --ctl URL     its control port
  --json        print one JSON object as the last line
";

#[tokio::main]
async fn main() -> ExitCode {
    let (issuer, ctl, json) =
        match options(std::env::args_os().skip(1).map(|option| option.to_string_lossy().into_owned())) {
            Ok(Some(options)) => options,
            Ok(None) => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            Err(problem) => {
                eprint!("real_server: {problem}\n\n{USAGE}");
                return ExitCode::from(2);
            }
        };
    let backend =
        Provider { issuer, ctl, http: Client::builder(TokioExecutor::new()).build_http(), grant: Mutex::default() };
    if let Err(error) = backend.call("/set", json!({ "accessTtl": LIFETIME })).await {
        eprintln!("real_server: the control port does not answer: {error}");
        return ExitCode::FAILURE;
    }
    story::tell(backend, json).await
}

/// Issuer, control port, and whether to print JSON; `None`: help is wanted.
fn options(mut given: impl Iterator<Item = String>) -> Result<Option<(String, String, bool)>, String> {
    let (mut issuer, mut ctl, mut json) = (None, None, false);
    while let Some(option) = given.next() {
        let mut url = |name: &str| {
            let url = given.next().ok_or(format!("{name} needs a URL"))?;
            match url.parse::<http::Uri>() {
                Ok(parsed) if parsed.scheme_str() == Some("http") => Ok(url.trim_end_matches('/').to_owned()),
                _ => Err(format!("{name} needs an http URL, not {url:?}")),
            }
        };
        match option.as_str() {
            "--issuer" => issuer = Some(url("--issuer")?),
            "--ctl" => ctl = Some(url("--ctl")?),
            "--json" => json = true,
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    Ok(Some((issuer.ok_or("--issuer is missing")?, ctl.ok_or("--ctl is missing")?, json)))
}

/// Seconds: whole ones there, and long enough that a thousand calls are not slower.
const LIFETIME: u64 = 3;

struct Provider {
    issuer: String,
    ctl: String,
    http: Client<HttpConnector, Full<Bytes>>,
    /// Of the newest sign-in.
    grant: Mutex<Option<Value>>,
}

impl Provider {
    async fn call(&self, path: &str, body: Value) -> Result<Value, BoxError> {
        let request = Request::post(format!("{}{path}", self.ctl)).header(CONTENT_TYPE, "application/json");
        let answer = self.http.request(request.body(Full::from(body.to_string()))?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        match status.is_success() {
            true => Ok(serde_json::from_slice(&body)?),
            false => Err(format!("the control port answered {status} to {path}").into()),
        }
    }
}

impl Backend for Provider {
    fn token_endpoint(&self) -> String {
        format!("{}/token", self.issuer)
    }

    fn api(&self) -> String {
        format!("{}/me", self.issuer)
    }

    fn client_id(&self) -> &'static str {
        "pub"
    }

    fn lifetime(&self) -> Duration {
        Duration::from_secs(LIFETIME + 1) // the server's seconds are whole ones
    }

    async fn sign_in(&self) -> Result<Tokens, BoxError> {
        let seeded = self.call("/seed", json!({ "user": "alice", "client": "pub" })).await?;
        let member = |name: &str| seeded[name].as_str().ok_or(format!("no {name}")).map(str::to_owned);
        let tokens = Tokens::new(member("access_token")?)
            .with_refresh_token(member("refresh_token")?)
            .with_expires_in(Duration::from_secs(seeded["expires_in"].as_u64().unwrap_or(LIFETIME)));
        if let Ok(mut grant) = self.grant.lock() {
            *grant = Some(seeded["grant_id"].clone());
        }
        Ok(tokens)
    }

    async fn revoke_grant(&self) -> Result<(), BoxError> {
        let grant = self.grant.lock().ok().and_then(|mut grant| grant.take());
        self.call("/revoke-grant", json!({ "grant_id": grant })).await.map(drop)
    }
}
