//! The story that the examples tell, against whatever server is behind it.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{
    future::Future,
    pin::Pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tower::{Service, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_reauth::{
    AuthError, AuthEvent, AuthLayer, AuthState, BoxError, Capability, DenyReason, OAuth2Refresher, Origins, Session,
    Tokens, gate_fn, observer_fn,
};

/// A server, and what the story does to it.
pub(crate) trait Backend {
    fn token_endpoint(&self) -> String;
    /// The URL that is called. It answers 200 or 401.
    fn api(&self) -> String;
    fn client_id(&self) -> &'static str;
    /// Of an access token.
    fn lifetime(&self) -> Duration;
    /// An interactive sign-in, as the user would do it.
    async fn sign_in(&self) -> Result<Tokens, BoxError>;
    async fn revoke_grant(&self) -> Result<(), BoxError>;
}

const CALLS_AT_ONCE: u64 = 1000;
const DELETE: Capability = Capability::new("jobs.delete");

type Http = Client<HttpConnector, Full<Bytes>>;

/// A client whose cable can be pulled, and which counts what it sends.
#[derive(Clone)]
struct Cable {
    client: Http,
    plugged: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Cable {
    fn new(plugged: Arc<AtomicBool>) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), plugged, sent: Arc::default() }
    }
}

impl Service<Request<Full<Bytes>>> for Cable {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        if !self.plugged.load(Ordering::SeqCst) {
            let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            return Box::pin(std::future::ready(Err(refused.into())));
        }
        self.sent.fetch_add(1, Ordering::SeqCst);
        let answer = self.client.request(request);
        Box::pin(async move { Ok(answer.await?) })
    }
}

type Api = BoxCloneSyncService<Request<Full<Bytes>>, Response<Incoming>, BoxError>;

/// What the closing table says.
#[derive(Default)]
struct Tally {
    calls: u64,
    ok: u64,
    /// Calls that never left: denied, or without a token.
    kept_back: u64,
}

pub(crate) async fn tell(backend: impl Backend, json: bool) -> ExitCode {
    match acts(backend, json).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the story broke off: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn acts(backend: impl Backend, json: bool) -> Result<(), BoxError> {
    let plugged = Arc::new(AtomicBool::new(true));
    let states = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let (wire, token_wire) = (Cable::new(plugged.clone()), Cable::new(plugged.clone()));
    let exchanges = || token_wire.sent.load(Ordering::SeqCst);
    let session = open(&backend, token_wire.clone(), &states).await?;
    let api_url = backend.api();
    let origin: http::Uri = api_url.parse()?;
    let origin = format!("http://{}", origin.authority().ok_or("the API needs a host")?);
    let api: Api = BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(AuthLayer::new(session.clone(), Origins::new([origin])?))
            .concurrency_limit(64) // below the layer: nobody holds a place while waiting for a token
            .service(wire.clone()),
    );
    let mut tally = Tally::default();
    let get = || Request::get(&api_url).body(Full::default());
    let expire = || tokio::time::sleep(backend.lifetime() + Duration::from_millis(200));

    println!("1. Alice signs in.");
    session.sign_in(backend.sign_in().await?).await?;
    tally.one(&api, get()?).await;

    println!("\n2. Her access token expires, and {CALLS_AT_ONCE} calls start at once.");
    expire().await;
    let before = exchanges();
    let ok = tally.many(&api, &get, CALLS_AT_ONCE).await?;
    println!("   {ok} of them succeeded, with {} exchange.", exchanges() - before);
    if ok != CALLS_AT_ONCE {
        return Err("every call must succeed".into());
    }

    println!("\n3. She was told that her token has an hour left, but the API refuses it.");
    session.sign_in(backend.sign_in().await?.with_expires_in(Duration::from_secs(3600))).await?;
    expire().await;
    let sent = wire.sent.load(Ordering::SeqCst);
    tally.one(&api, get()?).await;
    println!("   It took {} requests: a 401, one refresh, one replay.", wire.sent.load(Ordering::SeqCst) - sent);

    println!("\n4. The train enters a tunnel, and the access token expires in it.");
    plugged.store(false, Ordering::SeqCst);
    expire().await;
    tally.one(&api, get()?).await;
    println!("   The session is {:?}: nobody was logged out.", name(&session.state()));

    println!("\n5. In the tunnel she wants to delete a job, which the gate allows online only.");
    let delete = Request::delete(&api_url).extension(DELETE).body(Full::default())?;
    tally.one(&api, delete).await;

    println!("\n6. Light at the end of the tunnel.");
    plugged.store(true, Ordering::SeqCst);
    session.reconnected();
    tally.one(&api, get()?).await;

    println!("\n7. An administrator revokes the grant, and the access token expires.");
    backend.revoke_grant().await?;
    expire().await;
    tally.one(&api, get()?).await;
    tally.one(&api, get()?).await; // asks nobody: the dead token is not tried again

    println!("\n8. Alice signs in again.");
    session.sign_in(backend.sign_in().await?).await?;
    tally.one(&api, get()?).await;
    session.close().await?;

    let exchanges = exchanges();
    let replays = wire.sent.load(Ordering::SeqCst) - (tally.calls - tally.kept_back);
    let final_state = name(&session.state());
    println!("\n  calls      {:>6}\n  ok         {:>6}", tally.calls, tally.ok);
    println!("  exchanges  {exchanges:>6}\n  replays    {replays:>6}");
    println!("  states     {}", states.lock().map(|states| states.join(" → ")).unwrap_or_default());
    if json {
        let summary = serde_json::json!({
            "calls": tally.calls, "ok": tally.ok, "exchanges": exchanges, "replays": replays, "final_state": final_state,
        });
        println!("{summary}");
    }
    Ok(())
}

/// A session whose gate allows deleting online only, and which tells where it stands.
async fn open(
    backend: &impl Backend,
    token_wire: Cable,
    states: &Arc<std::sync::Mutex<Vec<String>>>,
) -> Result<Session, BoxError> {
    let refresher = OAuth2Refresher::new(backend.token_endpoint(), backend.client_id())?.http(token_wire);
    let states = states.clone();
    let session = Session::builder(refresher)
        .background_refresh(false) // so that the numbers are the same each time
        .gate(gate_fn(|cx| match cx.state() {
            AuthState::OfflineStale { .. } if cx.capability() == &DELETE => Err(cx.deny(DenyReason::OnlineRequired)),
            AuthState::ReauthRequired(_) => Err(cx.deny(DenyReason::ReauthRequired)),
            _ => Ok(()),
        }))
        .observer(observer_fn(move |event| match event {
            AuthEvent::StateChanged { state, .. } => {
                println!("   [state] {}", name(state));
                if let Ok(mut states) = states.lock() {
                    states.push(name(state));
                }
            }
            AuthEvent::Refreshed { took, .. } => println!("   [refreshed] in {} ms", took.as_millis()),
            AuthEvent::RefreshFailed { kind, .. } => println!("   [refresh failed] {kind:?}"),
            _ => {}
        }))
        .open("alice")
        .await?;
    Ok(session)
}

fn name(state: &AuthState) -> String {
    match state {
        AuthState::SignedOut(_) => "SignedOut".into(),
        AuthState::Active { .. } => "Active".into(),
        AuthState::OfflineStale { .. } => "OfflineStale".into(),
        AuthState::ReauthRequired(cause) => format!("ReauthRequired({cause:?})"),
        AuthState::Locked(_) => "Locked".into(),
        other => format!("{other:?}"),
    }
}

impl Tally {
    async fn one(&mut self, api: &Api, request: Request<Full<Bytes>>) {
        let answer = api.clone().oneshot(request).await;
        println!("   → {}", self.count(answer));
    }

    /// Many at once; answers how many succeeded.
    async fn many(
        &mut self,
        api: &Api,
        request: &impl Fn() -> Result<Request<Full<Bytes>>, http::Error>,
        how_many: u64,
    ) -> Result<u64, BoxError> {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..how_many {
            calls.spawn(api.clone().oneshot(request()?));
        }
        let before = self.ok;
        while let Some(answer) = calls.join_next().await {
            self.count(answer?);
        }
        Ok(self.ok - before)
    }

    fn count(&mut self, answer: Result<Response<Incoming>, BoxError>) -> String {
        self.calls += 1;
        match answer {
            Ok(response) => {
                self.ok += u64::from(response.status().is_success());
                response.status().to_string()
            }
            Err(error) => {
                self.kept_back += u64::from(AuthError::find(&*error).is_some());
                match AuthError::find(&*error) {
                    Some(auth) => match auth.denial() {
                        Some(denial) => format!("{:?}: {denial}; what helps: {:?}", auth.kind(), denial.remedy()),
                        None => format!("{:?}: {auth}", auth.kind()),
                    },
                    None => format!("network error: {error}"),
                }
            }
        }
    }
}
