use http::{Request, Response};
use std::{convert::Infallible, time::Duration};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn, util::BoxService};
use tower_reauth::{AuthLayer, Origins, Session};

async fn wrong(session: Session, origins: Origins) {
    let client = service_fn(async |_: Request<String>| Ok::<_, Infallible>(Response::new(())));
    let boxed: BoxService<Request<String>, Response<()>, Infallible> = BoxService::new(client);
    let api = AuthLayer::new(session.clone(), origins.clone()).layer(boxed);
    let _ = api.oneshot(Request::new(String::new())).await;

    let client = service_fn(async |_: Request<String>| Ok::<_, Infallible>(Response::new(())));
    let api = ServiceBuilder::new().layer(AuthLayer::new(session, origins)).rate_limit(1, Duration::MAX).service(client);
    let _ = api.oneshot(Request::new(String::new())).await;
}

fn main() {
    let _ = wrong;
}
