use http::Request;
use std::convert::Infallible;
use tower::{Layer, Service, service_fn};
use tower_reauth::{AuthLayer, Origins, Session};

struct Receipt;

fn needs_a_service(_: impl Service<Request<String>>) {}

fn wrong(session: Session, origins: Origins) {
    let client = service_fn(async |_: Request<String>| Ok::<_, Infallible>(Receipt));
    needs_a_service(AuthLayer::new(session, origins).layer(client));
}

fn main() {
    let _ = wrong;
}
