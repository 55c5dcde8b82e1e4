//! The client that this example is about: a session on a store that all processes share, and the layer.

use super::{Client, child::Http, diary::Diary};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Instant,
};
use tower::{Layer, Service, ServiceExt};
use tower_reauth::{
    AuthError, AuthEvent, AuthLayer, AuthService, AuthState, BoxError, FileStore, HyperTokens, OAuth2Refresher,
    Origins, Session, observer_fn,
};

/// The session of the one account, in any process.
///
/// Refreshing in the background is off. With it the tokens of a fleet this busy are renewed before anybody has to wait;
/// without it every process waits at every expiry, all at one moment, which is what this example wants to show.
pub(crate) async fn open(origin: &str, client: &Client, diary: &Diary) -> Result<Session, BoxError> {
    let diary = diary.clone();
    let refresher = OAuth2Refresher::new(format!("{origin}/token"), "fleet")?.http(HyperTokens::new());
    let observer = observer_fn(move |event| {
        if let AuthEvent::StateChanged { state, .. } = event
            && matches!(state, AuthState::SignedOut(_) | AuthState::ReauthRequired(_) | AuthState::Locked(_))
        {
            diary.logged_out();
        }
    });
    let builder = Session::builder(refresher).background_refresh(false).observer(observer);
    let builder = match client {
        Client::FileStore(dir) => builder.store(FileStore::open(dir)?),
        #[cfg(feature = "redis")]
        Client::RedisStore(url) => builder.store(tower_reauth::RedisStore::connect(url).await?),
        #[cfg(not(feature = "redis"))]
        Client::RedisStore(_) => return Err("built without the feature `redis`".into()),
        Client::Naive(_) => return Err("a naive client has no session".into()),
    };
    Ok(builder.open("alice").await?)
}

/// The API as every process calls it.
#[derive(Clone)]
pub(crate) struct Api {
    service: AuthService<Wire>,
    url: String,
    diary: Diary,
}

impl Api {
    pub(crate) fn new(session: Session, origin: &str, http: Http, diary: Diary) -> Result<Self, BoxError> {
        let layer = AuthLayer::new(session, Origins::new([origin])?);
        let service = layer.layer(Wire { http, diary: diary.clone() });
        Ok(Self { service, url: format!("{origin}/jobs"), diary })
    }

    /// One request, with notes of what became of it.
    pub(crate) async fn call(&mut self) -> Result<(), BoxError> {
        let errand = Errand::default();
        let request = Request::get(&self.url).extension(errand.clone()).body(Full::default())?;
        let answer = self.service.ready().await?.call(request);
        errand.was_called();
        self.diary.ends(match answer.await {
            Ok(answer) => {
                let status = answer.status();
                answer.into_body().collect().await?;
                (!status.is_success()).then(|| status.to_string())
            }
            Err(error) => Some(match AuthError::find(&*error) {
                Some(auth) => format!("{:?}: {auth}", auth.kind()),
                None => error.to_string(),
            }),
        });
        Ok(())
    }
}

/// Goes with a request through the layer, to tell how long it waited there.
#[derive(Clone)]
struct Errand(Arc<Mutex<Whereabouts>>);

#[derive(Clone, Copy)]
enum Whereabouts {
    /// With the layer, which passes it on at once if there is a fresh token.
    Called(Instant),
    /// With the layer still: it waits for a token.
    Waiting(Instant),
    OnTheWire,
}

impl Default for Errand {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Whereabouts::Called(Instant::now()))))
    }
}

impl Errand {
    /// Moves on, and answers where it was.
    fn go(&self, to: impl FnOnce(Whereabouts) -> Whereabouts) -> Whereabouts {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *now;
        *now = to(before);
        before
    }

    /// The layer has returned its future.
    fn was_called(&self) {
        self.go(|here| match here {
            Whereabouts::Called(since) => Whereabouts::Waiting(since),
            here => here,
        });
    }
}

/// Below the layer: sees each request leave, a replay too.
#[derive(Clone)]
pub(crate) struct Wire {
    http: Http,
    diary: Diary,
}

impl Service<Request<Full<Bytes>>> for Wire {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let errand = request.extensions().get::<Errand>().cloned().unwrap_or_default();
        if let Whereabouts::Waiting(since) = errand.go(|_| Whereabouts::OnTheWire) {
            self.diary.waited(since);
        }
        if let Some(authorization) = request.headers().get(AUTHORIZATION) {
            self.diary.sends(authorization);
        }
        let answer = self.http.request(request);
        Box::pin(async move {
            let answer = answer.await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                errand.go(|_| Whereabouts::Waiting(Instant::now())); // for another token
            }
            Ok(answer)
        })
    }
}
