//! Limits, load shedding and buffers: a request that waits for a token takes nobody's place inside.

use super::*;
use crate::{kit, rig, rig::Rig};
use std::sync::Arc;
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::{ServiceBuilder, limit::ConcurrencyLimit, load_shed::error::Overloaded, util::BoxCloneSyncService};

type Boxed = BoxCloneSyncService<Req, HyperResponse, BoxError>;

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

fn spawn(stack: &Boxed, request: Req) -> JoinHandle<Result<(StatusCode, Bytes), BoxError>> {
    tokio::spawn(answer(stack.clone(), request))
}

/// From now on an exchange waits for a permit.
fn hold(issuer: &Issuer) -> Arc<Semaphore> {
    let hold = Arc::new(Semaphore::new(0));
    issuer.books().hold = Some(hold.clone());
    hold
}

/// Until all that can happen has happened, but for what waits for the network.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

// ===== concurrency =====

#[tokio::test]
async fn p11_one_place_inside_and_the_refresh_goes_through_the_same_client() {
    let limited = ConcurrencyLimit::new(client(), 1);
    let net = Net::through(limited.clone()).await;
    net.holds(ServiceBuilder::new().layer(net.layer()).service(limited)).await;
}

#[tokio::test]
async fn p11_one_place_outside_and_the_refresh_goes_through_the_client_below() {
    let client: HyperClient = client();
    let net = Net::through(client.clone()).await;
    net.holds(ServiceBuilder::new().concurrency_limit(1).layer(net.layer()).service(client)).await;
}

/// The limit counts what is sent: another account's requests, or those of public paths, pass meanwhile.
#[tokio::test]
async fn p11_a_request_that_waits_for_a_token_takes_no_place_inside() {
    let net = Net::new().await;
    let limited = ConcurrencyLimit::new(client(), 1);
    let stack = Boxed::new(ServiceBuilder::new().layer(net.layer()).service(limited.clone()));
    net.expire();
    let held = hold(&net.issuer);
    let waiting = [spawn(&stack, net.post("/echo", "a")), spawn(&stack, net.post("/echo", "b"))];
    settle().await;
    let (status, _) = answer(limited, net.post("/echo", "without the layer")).await.unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    held.add_permits(1);
    for request in waiting {
        assert_eq!(request.await.unwrap().unwrap().0, StatusCode::OK);
    }
    assert_eq!(net.issuer.exchanges(), 1);
}

// ===== load shedding =====

#[tokio::test]
async fn load_shed_inside_or_outside() {
    let net = Net::new().await;
    let inside = ServiceBuilder::new().layer(net.layer()).load_shed().concurrency_limit(STORM).service(client());
    net.holds(inside).await;
    let net = Net::new().await;
    let outside = ServiceBuilder::new().load_shed().layer(net.layer()).concurrency_limit(STORM).service(client());
    net.holds(outside).await;
}

/// It asks when a request comes in; one that waits for a token is in.
#[tokio::test]
async fn load_shed_outside_lets_in_all_who_wait_for_a_token() {
    let net = Net::new().await;
    let stack = ServiceBuilder::new().load_shed().layer(net.layer()).concurrency_limit(1).service(client());
    let stack = Boxed::new(stack);
    net.expire();
    let held = hold(&net.issuer);
    let waiting = [(); 3].map(|()| spawn(&stack, net.post("/echo", "")));
    settle().await;
    held.add_permits(1);
    for request in waiting {
        assert_eq!(request.await.unwrap().unwrap().0, StatusCode::OK);
    }

    let sent = spawn(&stack, net.post("/held", ""));
    net.api.arrived().await;
    let error = answer(stack, net.post("/echo", "")).await.unwrap_err();
    assert!(has::<Overloaded>(&error) && AuthError::find(&*error).is_none(), "{error:?}");
    net.api.release();
    assert_eq!(sent.await.unwrap().unwrap().0, StatusCode::OK);
    assert_eq!(net.issuer.exchanges(), 1);
}

/// It asks when a request is sent: all who waited for the same token are sent at one moment.
#[tokio::test]
async fn load_shed_inside_sheds_those_who_waited_together() {
    let net = Net::new().await;
    let stack = ServiceBuilder::new().layer(net.layer()).load_shed().concurrency_limit(1).service(client());
    let stack = Boxed::new(stack);
    net.expire();
    let held = hold(&net.issuer);
    let waiting = [(); 3].map(|()| spawn(&stack, net.post("/held", "")));
    settle().await;
    held.add_permits(1);
    net.api.arrived().await;
    settle().await;
    net.api.release();
    let mut outcomes = Vec::new();
    for request in waiting {
        outcomes.push(request.await.unwrap());
    }
    let shed = outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(has::<Overloaded>)).count();
    let sent = outcomes.iter().filter(|outcome| outcome.as_ref().is_ok_and(|(status, _)| status.is_success())).count();
    assert_eq!((sent, shed, net.issuer.exchanges()), (1, 2, 1));
}

// ===== rate limits and buffers =====

/// `RateLimit` is not `Clone`: it stands above the layer, or below a `Buffer`.
#[tokio::test]
async fn a_rate_limit_above_the_layer_or_below_a_buffer() {
    let net = Net::new().await;
    net.holds(ServiceBuilder::new().buffer(STORM).rate_limit(1_000, HOUR).layer(net.layer()).service(client())).await;
    let net = Net::new().await;
    net.holds(ServiceBuilder::new().layer(net.layer()).buffer(STORM).rate_limit(1_000, HOUR).service(client())).await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_inside_counts_the_replay_and_one_outside_does_not() {
    for (side, hours) in [("inside", 1), ("outside", 0)] {
        let rig = Rig::new().await;
        let (layer, api) = (rig::layer(&rig.session), kit::api(&rig.issuer, &rig.seen));
        let stack = match side {
            "inside" => rig::boxed(ServiceBuilder::new().layer(layer).buffer(8).rate_limit(2, HOUR).service(api)),
            _ => rig::boxed(ServiceBuilder::new().buffer(8).rate_limit(2, HOUR).layer(layer).service(api)),
        };
        rig.issuer.expire_all();
        let start = tokio::time::Instant::now();
        for _ in 0..2 {
            assert_eq!(kit::send(&stack, kit::get("/jobs")).await.unwrap(), StatusCode::OK);
        }
        let waited = start.elapsed().as_secs() / HOUR.as_secs();
        assert_eq!((waited, rig.seen.len()), (hours, 3), "{side}");
    }
}
