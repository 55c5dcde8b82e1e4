//! What the tests against the real authorization server share: a session, its store, an API over the real wire.
#![allow(dead_code, unreachable_pub)] // each test target takes what it needs

#[path = "oidc.rs"]
pub mod oidc;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use oidc::{Counts, OidcServer, SeededTokens};
use serde_json::{Value, json};
use std::time::Duration;
use tower::{Layer as _, ServiceExt as _, util::BoxCloneSyncService};
use tower_reauth::{
    AuthError, AuthLayer, AuthState, BoxError, ErrorKind, HyperTokens, MemoryStore, OAuth2Refresher, Origins,
    ReauthCause, Refresher, Session, SessionBuilder, SessionStore as _, Tokens,
};

pub const ACTIVE: &str = "Active { reauth_pending: false, unsaved: false }";
pub const PENDING: &str = "Active { reauth_pending: true, unsaved: false }";
pub const REVOKED: AuthState = AuthState::ReauthRequired(ReauthCause::Revoked);

pub type Call = Request<Full<bytes::Bytes>>;
pub type Api = BoxCloneSyncService<Call, Response<Incoming>, BoxError>;

/// A server of its own, and the store that the sessions share.
pub struct Rig {
    pub server: OidcServer,
    pub store: MemoryStore,
}

/// A response that was delivered, and why it was not cured, if it was not.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
    pub error: Option<AuthError>,
}

impl Rig {
    /// Access tokens live this long.
    pub async fn start(seconds: u64) -> Self {
        let server = OidcServer::start_with(&[("AT_TTL", &seconds.to_string())]).await;
        Self { server, store: MemoryStore::new() }
    }

    pub fn client(&self, id: &str) -> OAuth2Refresher {
        let refresher = OAuth2Refresher::new(self.server.token_endpoint(), id).unwrap();
        refresher.revocation(self.server.revocation_endpoint()).unwrap()
    }

    pub fn with(&self, refresher: impl Refresher) -> SessionBuilder {
        Session::builder(refresher).store(self.store.clone()).background_refresh(false) // so that counts are exact
    }

    pub fn builder(&self) -> SessionBuilder {
        self.with(self.client("pub").http(HyperTokens::new()))
    }

    /// A session of the client `pub`, signed in.
    pub async fn signed_in(&self, user: &str) -> (Session, SeededTokens) {
        let session = self.builder().open(user).await.unwrap();
        let seeded = self.server.seed(user, "pub").await;
        session.sign_in(tokens(&seeded)).await.unwrap();
        (session, seeded)
    }

    pub fn api(&self, session: &Session) -> Api {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let layer = AuthLayer::new(session.clone(), Origins::new([self.server.issuer()]).unwrap());
        BoxCloneSyncService::new(layer.layer(client))
    }

    pub async fn get(&self, api: &Api) -> Result<Answer, AuthError> {
        send(api, Request::get(self.server.echo()).body(Full::default()).unwrap()).await
    }

    /// How many there were of each, in order: token requests, refreshes, requests to the API, 401s of it. Never a reuse.
    pub async fn counts(&self) -> [u64; 4] {
        let Counts { token_requests, refresh_success, api_requests, api_401, reuse_revocations, .. } =
            self.server.counts().await;
        assert_eq!(reuse_revocations, 0, "a spent refresh token came back");
        [token_requests, refresh_success, api_requests, api_401]
    }

    /// The API refuses the next request, whatever its token.
    pub async fn refuse_next(&self) {
        let challenge = json!({ "www-authenticate": "Bearer error=\"invalid_token\"" });
        self.server.set(json!({ "failApi": [{ "status": 401, "headers": challenge, "body": "refused" }] })).await;
    }

    pub async fn fail_token(&self, faults: Value) {
        self.server.set(json!({ "failToken": faults })).await;
    }

    /// What is stored of the only account.
    pub async fn record(&self) -> Value {
        record(&self.store).await
    }

    pub async fn consumed(&self, token: &str) -> bool {
        self.server.ctl("/lookup", json!({ "token": token })).await["consumed"].as_bool().unwrap()
    }

    /// The server knows nothing of a token: neither it nor its grant is left.
    pub async fn is_gone(&self, token: &str) {
        let before = self.server.counts().await.reuse_revocations;
        let reply = self.server.refresh_by_hand(token).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]), (400, &json!("invalid_grant")));
        assert_eq!(self.server.counts().await.reuse_revocations, before);
    }
}

pub fn tokens(seeded: &SeededTokens) -> Tokens {
    let lifetime = Duration::from_secs(seeded.expires_in);
    Tokens::new(&*seeded.access_token).with_refresh_token(&*seeded.refresh_token).with_expires_in(lifetime)
}

pub async fn send(api: &Api, request: Call) -> Result<Answer, AuthError> {
    match api.clone().oneshot(request).await {
        Ok(response) => {
            let (status, error) = (response.status(), AuthError::in_response(&response).cloned());
            let body = response.into_body().collect().await.unwrap().to_bytes();
            Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default(), error })
        }
        Err(error) => Err(AuthError::find(&*error).unwrap_or_else(|| panic!("not an error of ours: {error}")).clone()),
    }
}

pub fn assert_ok(answer: Result<Answer, AuthError>, user: &str) {
    let answer = answer.unwrap();
    assert_eq!((answer.status, &answer.body["user"]), (StatusCode::OK, &json!(user)), "{answer:?}");
}

/// A delivered 401 that says why it was not cured.
pub fn assert_401(answer: Result<Answer, AuthError>, why: ErrorKind) -> AuthError {
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
    let error = answer.error.expect("the reason is in the response's extensions");
    assert_eq!(error.kind(), why, "{error:?}");
    error
}

pub fn state(session: &Session) -> String {
    format!("{:?}", session.state())
}

pub async fn record(store: &MemoryStore) -> Value {
    let keys = store.accounts().await.unwrap();
    assert_eq!(keys.len(), 1);
    serde_json::from_slice(store.load(&keys[0]).await.unwrap().unwrap().bytes()).unwrap()
}
