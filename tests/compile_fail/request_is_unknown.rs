use http::Response;
use std::convert::Infallible;
use tower::{Layer, Service, service_fn};
use tower_reauth::{AuthLayer, NeverReplay, Origins, Session};

struct Order;

fn needs_a_service(_: impl Service<Order>) {}

fn wrong(session: Session, origins: Origins) {
    let client = service_fn(async |_: Order| Ok::<_, Infallible>(Response::new(())));
    needs_a_service(AuthLayer::new(session, origins).replay(NeverReplay).layer(client));
}

fn main() {
    let _ = wrong;
}
