//! What stands around the service: wrappers, and the account that a request cannot name.

use super::*;
use std::{error::Error as StdError, io, time::Duration};
use tower::{ServiceBuilder, util::BoxCloneSyncService};
use tower_reauth::AuthLayer;

#[tokio::test]
async fn our_error_is_found_through_every_wrapper() {
    let net = Net::new().await;
    net.session.sign_out(SignOut::Soft).await.unwrap();
    let ask = || net.get("/echo");
    type Boxed = BoxCloneSyncService<Request, Response, BoxError>;
    let stacks: [(&str, Boxed); 4] = [
        ("none", BoxCloneSyncService::new(net.layer().layer(client()))),
        (
            "buffer, limit, timeout",
            BoxCloneSyncService::new(
                ServiceBuilder::new()
                    .buffer(8)
                    .concurrency_limit(8)
                    .timeout(Duration::from_secs(600))
                    .layer(net.layer())
                    .service(client()),
            ),
        ),
        (
            "io::Error",
            BoxCloneSyncService::new(
                ServiceBuilder::new()
                    .map_err(|error| BoxError::from(io::Error::other(error)))
                    .layer(net.layer())
                    .service(client()),
            ),
        ),
        (
            "anyhow",
            BoxCloneSyncService::new(
                ServiceBuilder::new()
                    .map_err(|error: BoxError| match AuthError::find(&*error) {
                        Some(ours) => {
                            BoxError::from(anyhow::Error::new(ours.clone()).context("listing").context("jobs"))
                        }
                        None => error,
                    })
                    .layer(net.layer())
                    .service(client()),
            ),
        ),
    ];
    for (name, stack) in stacks {
        let error = stack.oneshot(ask()).await.unwrap_err();
        assert_eq!(kind(&error), Some(ErrorKind::SignedOut), "{name}: {error:?}");
    }
    assert_eq!(net.lines().len(), 0);
}

#[tokio::test]
async fn an_error_of_the_client_is_its_own() {
    let net = Net::new().await;
    let nobody = nobody();
    let api = AuthLayer::new(net.session.clone(), Origins::new([&nobody]).unwrap()).layer(client());
    let error = send(&api, request(Method::GET, &nobody)).await.unwrap_err();
    let error: &(dyn StdError + 'static) = &*error;
    assert!(error.downcast_ref::<reqwest::Error>().unwrap().is_connect());
    assert!(AuthError::find(error).is_none());
}

/// Futures are `Send`, the service is `Clone`, and both live as long as they like.
#[test]
fn it_can_be_spawned_and_shared() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn spawned<T: Send + 'static>() {}
    shared::<AuthService<Client>>();
    shared::<AuthService<Client, EmptyOnly>>();
    spawned::<<AuthService<Client> as tower::Service<Request>>::Future>();
    spawned::<<AuthService<Client, NeverReplay> as tower::Service<Request>>::Future>();
}

/// A layer for each account: they share the accounts, and the client.
#[tokio::test]
async fn p12_a_layer_for_each_account() {
    let issuer = kit::Issuer::new();
    let server = Loopback::api(&issuer).await;
    let accounts = net::two_accounts(&issuer, &server).await;
    let client = client();
    let layer = AuthLayer::for_accounts(accounts.clone(), Origins::new([server.origin()]).unwrap());
    let get = || request(Method::GET, &server.uri("/echo"));
    for name in ["bob", "alice"] {
        assert_eq!(status(&layer.clone().account(name).layer(client.clone()), get()).await, StatusCode::OK);
    }
    let unnamed = layer.clone().layer(client.clone());
    assert_eq!(kind(&send(&unnamed, get()).await.unwrap_err()), Some(ErrorKind::SignedOut), "none is active");
    accounts.set_active(&"alice".into()).unwrap();
    assert_eq!(status(&unnamed, get()).await, StatusCode::OK);
    let unknown = layer.account("carol").layer(client);
    assert_eq!(kind(&send(&unknown, get()).await.unwrap_err()), Some(ErrorKind::Misconfigured));
    let lines = server.lines();
    assert_eq!(lines, ["bob", "alice", "alice"].map(|name| format!("GET /echo Bearer of {name} ")));
}
