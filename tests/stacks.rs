//! Stacks that people build, over a real server where the network matters: wherever the layer stands, a storm at expiry
//! makes one exchange, a refused request is replayed byte for byte, and `AuthError` is found at the top.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/kit.rs"]
mod kit;
#[path = "stacks/limits.rs"]
mod limits;
#[path = "support/loopback.rs"]
mod loopback;
#[path = "stacks/neighbours.rs"]
mod neighbours;
#[path = "stacks/ownership.rs"]
mod ownership;
#[path = "support/rig.rs"]
mod rig;
#[path = "stacks/wrong.rs"]
mod wrong;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use kit::{Issuer, Req, SEC, clock};
use loopback::{Loopback, PATIENCE, client};
use tokio::time::timeout;
use tower::{Service, ServiceExt};
use tower_reauth::{
    AuthError, AuthLayer, BoxError, ErrorKind, ManualClock, OAuth2Refresher, Origins, Refresher, Session, SignOut,
};

type HyperClient = Client<HttpConnector, Full<Bytes>>;
type HyperResponse = Response<Incoming>;

/// How many requests meet an expired token at once.
const STORM: usize = 12;

/// A signed-in session (`a1.0`, for 100 s), and an API on loopback.
struct Net {
    issuer: Issuer,
    clock: ManualClock,
    api: Loopback,
    session: Session,
}

impl Net {
    async fn new() -> Self {
        let issuer = Issuer::new();
        let api = Loopback::api(&issuer).await;
        Self::refreshing(issuer.clone(), issuer, api).await
    }

    /// Token requests go over the network, through this service.
    async fn through<S>(service: S) -> Self
    where
        S: Service<Req, Response = HyperResponse, Error: Into<BoxError> + Send, Future: Send> + Clone,
        S: Send + Sync + 'static,
    {
        let issuer = Issuer::new();
        let api = Loopback::api(&issuer).await;
        let refresher = OAuth2Refresher::new(api.uri("/token"), "app").unwrap();
        Self::refreshing(refresher.http(service.map_err(Into::<BoxError>::into)), issuer, api).await
    }

    async fn refreshing(refresher: impl Refresher, issuer: Issuer, api: Loopback) -> Self {
        let clock = clock();
        let session = Session::builder(refresher).clock(clock.clone()).open("alice").await.unwrap();
        session.sign_in(issuer.sign_in()).await.unwrap();
        Self { issuer, clock, api, session }
    }

    fn layer(&self) -> AuthLayer {
        AuthLayer::new(self.session.clone(), Origins::new([self.api.origin()]).unwrap())
    }

    fn post(&self, path: &str, body: impl Into<Bytes>) -> Req {
        Request::post(self.api.uri(path)).body(Full::new(body.into())).unwrap()
    }

    /// The access token is past its end, for the session and for the API.
    fn expire(&self) {
        self.clock.advance(101 * SEC);
        self.issuer.expire_all();
    }

    /// What every stack keeps. Ends with the session signed out.
    async fn holds<S, B>(&self, stack: S)
    where
        S: Service<Req, Response = Response<B>, Error: Into<BoxError>> + Clone,
        B: Body<Data: Send, Error: Into<BoxError>>,
    {
        self.expire();
        let storm = (0..STORM).map(|n| answer(stack.clone(), self.post("/echo", format!("job {n}"))));
        for (n, answer) in join_all(storm).await.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), (StatusCode::OK, Bytes::from(format!("job {n}"))));
        }
        assert_eq!(self.issuer.exchanges(), 1, "one exchange for all");
        let received = self.api.received();
        assert_eq!(received.len(), STORM, "and nothing was sent in vain");
        assert!(received.iter().all(|request| request.authorization() == "Bearer a1.1"));

        self.issuer.expire_all();
        let bytes: Bytes = (0..200_000).map(|n| (n % 251) as u8).collect();
        let (status, body) = answer(stack.clone(), self.post("/echo", bytes.clone())).await.unwrap();
        assert_eq!((status, body == bytes), (StatusCode::OK, true));
        let received = self.api.received();
        let sent = received.iter().map(|request| (request.authorization(), request.body == bytes)).collect::<Vec<_>>();
        assert_eq!(sent, [("Bearer a1.1", true), ("Bearer a1.2", true)], "refused, and replayed byte for byte");

        self.session.sign_out(SignOut::Soft).await.unwrap();
        let error = answer(stack, self.post("/echo", "late")).await.unwrap_err();
        assert_eq!(AuthError::find(&*error).map(AuthError::kind), Some(ErrorKind::SignedOut), "{error:?}");
        assert_eq!((self.api.received().len(), self.issuer.exchanges()), (0, 2));
    }
}

/// By a handle that is kept meanwhile, as programs do: `oneshot` would drop what it holds.
async fn answer<S, B>(mut stack: S, request: Req) -> Result<(StatusCode, Bytes), BoxError>
where
    S: Service<Req, Response = Response<B>, Error: Into<BoxError>>,
    B: Body<Data: Send, Error: Into<BoxError>>,
{
    let work = async {
        let response = stack.ready().await.map_err(Into::into)?.call(request).await.map_err(Into::into)?;
        Ok((response.status(), response.into_body().collect().await.map_err(Into::into)?.to_bytes()))
    };
    timeout(PATIENCE, work).await.expect("it hangs")
}

/// Whether this kind of error is in the chain.
fn has<E: std::error::Error + 'static>(error: &BoxError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
    while let Some(error) = next {
        if error.is::<E>() {
            return true;
        }
        next = error.source();
    }
    false
}
