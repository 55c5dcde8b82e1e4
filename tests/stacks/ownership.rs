//! Who holds the client: a box, the state of an axum server, one connection; and what to do with those that cannot be
//! cloned.

use super::*;
use axum::{Router, body::Body as AxumBody, extract::State, routing::post};
use http::{HeaderValue, Uri, header};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::task::{Context, Poll};
use tokio::net::{TcpListener, TcpStream};
use tower::{
    Layer, ServiceBuilder,
    util::{BoxCloneSyncService, BoxService},
};
use tower_reauth::AuthService;

#[tokio::test]
async fn boxes_that_can_be_cloned_around_and_below() {
    let net = Net::new().await;
    net.holds(BoxCloneSyncService::new(net.layer().layer(client()))).await;
    let net = Net::new().await;
    net.holds(net.layer().layer(BoxCloneSyncService::<Req, HyperResponse, _>::new(client()))).await;
}

#[tokio::test]
async fn a_box_that_cannot_be_cloned_stands_above_the_layer_or_below_a_buffer() {
    let net = Net::new().await;
    let above = BoxService::<Req, HyperResponse, BoxError>::new(net.layer().layer(client()));
    net.holds(ServiceBuilder::new().buffer(STORM).service(above)).await;
    let net = Net::new().await;
    let below = BoxService::<Req, HyperResponse, _>::new(client());
    net.holds(ServiceBuilder::new().layer(net.layer()).buffer(STORM).service(below)).await;
}

/// hyper's single connection as a service.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

impl Connection {
    async fn open(origin: &str) -> Self {
        let host = origin.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(host).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, host: host.parse().unwrap() }
    }
}

impl Service<Req> for Connection {
    type Response = HyperResponse;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<HyperResponse, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        request.headers_mut().insert(header::HOST, self.host.clone());
        Box::pin(self.sender.send_request(request))
    }
}

/// One connection knows where it goes, so its requests have a path only: `default_origin` says whose they are.
#[tokio::test]
async fn one_connection_below_a_buffer() {
    let net = Net::new().await;
    let connection = Connection::open(net.api.origin()).await;
    let stack = ServiceBuilder::new()
        .map_request(|mut request: Req| {
            *request.uri_mut() = request.uri().path().parse().unwrap();
            request
        })
        .layer(net.layer().default_origin(net.api.origin().parse().unwrap()))
        .buffer(STORM)
        .service(connection);
    net.holds(stack).await;
}

/// What the layer makes of a client is nameable, so it can stand in a state.
type Api = AuthService<HyperClient>;

async fn forward(State(api): State<Api>, uri: Uri, body: Bytes) -> Result<AxumBody, StatusCode> {
    let to = uri.query().unwrap().parse::<Uri>().unwrap();
    let request = Request::post(to).body(Full::new(body)).unwrap();
    let response = api.oneshot(request).await.map_err(|error| match AuthError::find(&*error).map(AuthError::kind) {
        Some(ErrorKind::SignedOut) => StatusCode::UNAUTHORIZED,
        _ => StatusCode::BAD_GATEWAY,
    })?;
    Ok(AxumBody::new(response.into_body()))
}

#[tokio::test]
async fn in_the_state_of_an_axum_server() {
    let net = Net::new().await;
    let router = Router::new().route("/", post(forward)).with_state(net.layer().layer(client()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let front = format!("http://{}/?{}", listener.local_addr().unwrap(), net.api.uri("/echo"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let browser: HyperClient = client();
    let ask = |body: String| answer(browser.clone(), Request::post(&front).body(Full::from(body)).unwrap());

    net.expire();
    for (n, answer) in join_all((0..STORM).map(|n| ask(format!("job {n}")))).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), (StatusCode::OK, Bytes::from(format!("job {n}"))));
    }
    assert_eq!((net.api.received().len(), net.issuer.exchanges()), (STORM, 1));

    net.issuer.expire_all();
    assert_eq!(ask("once".into()).await.unwrap(), (StatusCode::OK, "once".into()));
    assert_eq!(net.api.lines(), ["POST /echo Bearer a1.1 once", "POST /echo Bearer a1.2 once"]);

    net.session.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(ask("late".into()).await.unwrap().0, StatusCode::UNAUTHORIZED);
    assert_eq!(net.api.received().len(), 0);
}
