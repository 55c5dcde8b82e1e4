//! A command-line program that logs in once, and can then be started as often and as many times at once as one likes: all
//! share the login, and one of them refreshes.
//!
//! ```text
//! alias cli_login='cargo run --features file,hyper-client,keyring,oauth2,sealed --example cli_login --'
//! cli_login login --issuer https://id.example.com --client-id my-cli    # shows a code to enter in a browser
//! cli_login whoami
//! cli_login logout
//! ```
//!
//! It signs in by the device flow (RFC 8628), with the `oauth2` crate. The session is a sealed file; its key is in the
//! platform's keyring. A machine without one (a server, a container) can keep the key in a file instead, which has to be
//! asked for, at `login`: `--keys file`. That is weaker: see `support/key_file.rs`.
//!
//! It exits with 0, with 3 if somebody has to sign in, with 2 for a mistake in its options, and with 1 otherwise.

#[path = "support/key_file.rs"]
mod key_file;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use key_file::KeyFile;
use oauth2::{
    ClientId, DeviceAuthorizationUrl, Scope, StandardDeviceAuthorizationResponse, TokenUrl, basic::BasicClient,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tower::{Layer as _, ServiceExt as _};
use tower_reauth::{
    AuthError, AuthLayer, AuthState, BoxError, ErrorKind, FileStore, HyperTokens, KeyringKey, OAuth2Refresher, Origins,
    Sealed, Session, SessionBuilder, SharedStore, SignIn, SignOut, Tokens,
};

const USAGE: &str = "usage: cli_login [--state DIR] COMMAND

  login --issuer URL --client-id ID [--keys keyring|file]
  whoami
  logout

  --state DIR       where the login is kept; else $XDG_STATE_HOME/cli_login or ~/.local/state/cli_login
  --issuer URL      an OpenID provider with the device flow
  --client-id ID    a public client of it
  --keys keyring    the key of the login is in the platform's keyring (the default)
  --keys file       … in a file beside the login: whoever can read your files can use it
";

fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprint!("cli_login: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cli_login: {}", chain(&*error));
            if !wants_sign_in(&*error) {
                return ExitCode::FAILURE;
            }
            eprintln!("cli_login: sign in with `cli_login login`");
            ExitCode::from(3)
        }
    }
}

/// What the command prints.
fn run(Options { state, command }: Options) -> Result<String, BoxError> {
    let known = Login::load(&state)?;
    if let Command::Login { issuer, client_id, keys } = command {
        prepare(keys)?;
        return block_on(log_in(&state, known, &issuer, client_id, keys));
    }
    let login = known.ok_or(NobodySignedIn)?;
    prepare(login.keys)?;
    block_on(async {
        let session = login.builder(&state)?.open("me").await.map_err(advice)?;
        let printed = match command {
            Command::LogOut => session.sign_out(SignOut::Hard).await.map(|()| "signed out".into()).map_err(Into::into),
            _ => who_am_i(&session, &login).await,
        };
        session.close().await?; // waits for what is still being written, and revoked
        printed
    })
}

/// One thread is enough, and nothing keeps it from ending.
fn block_on<T>(work: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

// ===== what was asked for =====

struct Options {
    state: PathBuf,
    command: Command,
}

enum Command {
    Login { issuer: String, client_id: String, keys: Keys },
    WhoAmI,
    LogOut,
}

/// Where the key of the sealed file is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Keys {
    Keyring,
    File,
}

impl Options {
    fn read(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut words, mut state, mut issuer, mut client_id, mut keys) = (Vec::new(), None, None, None, None);
        while let Some(option) = given.next() {
            let slot = match &*option {
                "--state" => &mut state,
                "--issuer" => &mut issuer,
                "--client-id" => &mut client_id,
                "--keys" => &mut keys,
                _ => {
                    words.push(option);
                    continue;
                }
            };
            *slot = Some(given.next().ok_or(format!("{option} needs a value"))?);
        }
        let keys = match keys.as_deref() {
            None | Some("keyring") => Keys::Keyring,
            Some("file") => Keys::File,
            Some(other) => return Err(format!("no such place for keys: {other:?}")),
        };
        let command = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["login"] => Command::Login {
                issuer: issuer.ok_or("--issuer is missing")?,
                client_id: client_id.ok_or("--client-id is missing")?,
                keys,
            },
            ["whoami"] => Command::WhoAmI,
            ["logout"] => Command::LogOut,
            _ => return Err(format!("not a command: {words:?}")),
        };
        let in_home = |name: &str, below: &str| std::env::var_os(name).map(|home| Path::new(&home).join(below));
        let state = state
            .map(PathBuf::from)
            .or_else(|| in_home("XDG_STATE_HOME", "cli_login"))
            .or_else(|| in_home("HOME", ".local/state/cli_login"))
            .ok_or("--state is missing, and there is no home")?;
        Ok(Self { state, command })
    }
}

// ===== what is known of a login, beside the session: nothing of it is secret =====

#[derive(Serialize, Deserialize)]
struct Login {
    provider: Provider,
    client_id: String,
    keys: Keys,
}

/// What the provider says of itself (RFC 8414, OpenID Connect Discovery).
#[derive(Serialize, Deserialize)]
struct Provider {
    issuer: String,
    token_endpoint: String,
    device_authorization_endpoint: String,
    revocation_endpoint: String,
    userinfo_endpoint: String,
}

impl Login {
    fn load(state: &Path) -> Result<Option<Self>, BoxError> {
        match fs::read(state.join("login.json")) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn save(&self, state: &Path) -> Result<(), BoxError> {
        let scratch = state.join("login.json.new");
        fs::write(&scratch, serde_json::to_vec_pretty(self)?)?;
        Ok(fs::rename(scratch, state.join("login.json"))?)
    }

    /// What is stored, once it is opened; no network. The record is bound to this provider and client: for others it does
    /// not open.
    fn builder(&self, state: &Path) -> Result<SessionBuilder, BoxError> {
        let files = FileStore::open(state.join("sessions"))?;
        let store = match self.keys {
            Keys::Keyring => SharedStore::new(Sealed::new(files, KeyringKey::new("cli_login")?)),
            Keys::File => SharedStore::new(Sealed::new(files, KeyFile::open(state.join("keys"))?)),
        };
        let refresher = OAuth2Refresher::new(&*self.provider.token_endpoint, &*self.client_id)?
            .revocation(&*self.provider.revocation_endpoint)?
            .http(HyperTokens::new());
        // A short-lived program refreshes when it has to: it would not outlive a refresh in the background.
        Ok(Session::builder(refresher).store(store).background_refresh(false))
    }
}

/// Nothing here can tell a key that is lost from one that is only not there now.
fn advice(error: AuthError) -> BoxError {
    match error.kind() {
        ErrorKind::Store => format!("{}; if it stays so, sign in with `cli_login login`", chain(&error)).into(),
        _ => error.into(),
    }
}

/// The keyring of the platform, if the key is in there. It blocks and has a runtime of its own: not for a thread of ours.
fn prepare(keys: Keys) -> Result<(), BoxError> {
    match keys {
        Keys::Keyring => set_keyring().map_err(|error| {
            format!("there is no keyring here ({error}); `login --keys file` keeps the key in a file instead").into()
        }),
        Keys::File => Ok(()),
    }
}

#[cfg(target_os = "linux")]
fn set_keyring() -> Result<(), BoxError> {
    keyring_core::set_default_store(zbus_secret_service_keyring_store::Store::new()?);
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn set_keyring() -> Result<(), BoxError> {
    Err("this example brings the one of Linux only".into())
}

// ===== the commands =====

async fn log_in(
    state: &Path,
    known: Option<Login>,
    issuer: &str,
    client_id: String,
    keys: Keys,
) -> Result<String, BoxError> {
    if let Some(last) = known {
        if last.keys != keys {
            return Err("the last login has its key elsewhere: use the same --keys, or another --state".into());
        }
        let session = last.builder(state)?.for_sign_in().open("me").await?;
        let signed_in = matches!(session.state(), AuthState::Active { .. } | AuthState::OfflineStale { .. });
        session.close().await?;
        if signed_in {
            return Err("somebody has signed in already: `cli_login logout` first".into());
        }
    }
    let login = Login { provider: discover(issuer).await?, client_id, keys };
    let session = login.builder(state)?.for_sign_in().open("me").await?;
    if let Keys::File = keys {
        let dir = state.join("keys");
        eprintln!("cli_login: WARNING: the key of this login is a file in {}:", dir.display());
        eprintln!("cli_login: WARNING: whoever can read your files can use the login, as if it were not encrypted");
    }
    let user = async {
        let tokens = device_flow(&login).await?;
        login.save(state)?;
        session.sign_in(SignIn::new(tokens)).await?;
        who_am_i(&session, &login).await
    };
    let user = user.await;
    session.close().await?;
    Ok(format!("signed in as {}", user?))
}

/// RFC 8628: shows a code, and asks until somebody has entered it.
async fn device_flow(login: &Login) -> Result<Tokens, BoxError> {
    let client = BasicClient::new(ClientId::new(login.client_id.clone()))
        .set_token_uri(TokenUrl::new(login.provider.token_endpoint.clone())?)
        .set_device_authorization_url(DeviceAuthorizationUrl::new(
            login.provider.device_authorization_endpoint.clone(),
        )?);
    // The client that the session uses for its token requests: it follows no redirects, which would carry tokens along.
    let http = |request: oauth2::HttpRequest| exchange(request.map(Bytes::from));
    let device: StandardDeviceAuthorizationResponse = client
        .exchange_device_code()
        .add_scopes(["openid", "offline_access"].map(|scope| Scope::new(scope.into())))
        .request_async(&http)
        .await?;
    eprintln!("Open {} and enter the code {}", device.verification_uri().as_str(), device.user_code().secret());
    let answer = client.exchange_device_access_token(&device).request_async(&http, tokio::time::sleep, None).await?;
    Ok(Tokens::from(&answer))
}

async fn who_am_i(session: &Session, login: &Login) -> Result<String, BoxError> {
    #[derive(Deserialize)]
    struct User {
        sub: String,
    }
    let userinfo: http::Uri = login.provider.userinfo_endpoint.parse()?;
    let parts = userinfo.scheme_str().zip(userinfo.authority());
    let (scheme, authority) = parts.ok_or("the provider has no userinfo endpoint")?;
    let api =
        AuthLayer::new(session.clone(), Origins::new([format!("{scheme}://{authority}")])?).layer(HyperTokens::new());
    let answer = api.oneshot(http::Request::get(userinfo).body(Bytes::new())?).await?;
    if let Some(error) = AuthError::in_response(&answer) {
        return Err(error.clone().into()); // a 401, and why it could not be cured
    }
    Ok(json::<User>(whole(answer).await?)?.sub)
}

// ===== over the wire =====

async fn discover(issuer: &str) -> Result<Provider, BoxError> {
    let issuer = issuer.trim_end_matches('/');
    // The same rule as for token endpoints: https, or http on this very machine.
    OAuth2Refresher::new(issuer, "")?;
    let well_known = http::Request::get(format!("{issuer}/.well-known/openid-configuration")).body(Bytes::new())?;
    let provider: Provider = json(exchange(well_known).await?)?;
    if provider.issuer.trim_end_matches('/') != issuer {
        return Err(format!("the provider calls itself {:?}", provider.issuer).into());
    }
    OAuth2Refresher::new(&*provider.device_authorization_endpoint, "")?;
    Ok(provider)
}

async fn exchange(request: http::Request<Bytes>) -> io::Result<http::Response<Vec<u8>>> {
    let answer = HyperTokens::new().oneshot(request).await.map_err(io::Error::other)?;
    whole(answer).await.map_err(io::Error::other)
}

async fn whole<B>(answer: http::Response<B>) -> Result<http::Response<Vec<u8>>, BoxError>
where
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send,
{
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, 64 << 10).collect().await?.to_bytes();
    Ok(http::Response::from_parts(head, body.to_vec()))
}

fn json<T: DeserializeOwned>(answer: http::Response<Vec<u8>>) -> Result<T, BoxError> {
    if !answer.status().is_success() {
        return Err(format!("the provider answered {}", answer.status()).into());
    }
    Ok(serde_json::from_slice(answer.body())?)
}

// ===== errors =====

#[derive(Debug)]
struct NobodySignedIn;

impl std::fmt::Display for NobodySignedIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody has signed in here")
    }
}

impl std::error::Error for NobodySignedIn {}

fn wants_sign_in(error: &(dyn std::error::Error + 'static)) -> bool {
    let kind = AuthError::find(error).map(AuthError::kind);
    error.is::<NobodySignedIn>()
        || matches!(kind, Some(ErrorKind::SignedOut | ErrorKind::ReauthRequired | ErrorKind::Locked))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
