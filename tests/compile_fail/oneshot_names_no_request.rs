use http::{Request, Response};
use std::convert::Infallible;
use tower::{Layer, ServiceExt, service_fn};
use tower_reauth::{AuthLayer, Origins, Session};

struct Streaming;

async fn wrong(session: Session, origins: Origins) {
    let client = service_fn(async |_: Request<Streaming>| Ok::<_, Infallible>(Response::new(())));
    let _ = AuthLayer::new(session, origins).layer(client).oneshot(Request::new(Streaming)).await;
}

fn main() {
    let _ = wrong;
}
