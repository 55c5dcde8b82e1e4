use http::{Request, Response};
use std::convert::Infallible;
use tower::{Layer, Service, service_fn};
use tower_reauth::{AuthLayer, Origins, Session};

struct Streaming;

fn needs_a_service(_: impl Service<Request<Streaming>>) {}

fn wrong(session: Session, origins: Origins) {
    let client = service_fn(async |_: Request<Streaming>| Ok::<_, Infallible>(Response::new(())));
    needs_a_service(AuthLayer::new(session, origins).layer(client));
}

fn main() {
    let _ = wrong;
}
