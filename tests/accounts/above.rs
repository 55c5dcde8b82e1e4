//! What stands above the layer keeps requests, or sends them again: to the layer each is a request that comes now. One that
//! names its account keeps it all the way; one that does not is the active account's of that moment.

use crate::{
    kit::{Req, get, post},
    town::{Town, named, settle},
};
use futures_util::future::{Ready, ready};
use http::{Response, StatusCode};
use http_body_util::Full;
use std::sync::{Arc, Mutex};
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceBuilder, ServiceExt, limit::ConcurrencyLimit, retry, service_fn};
use tower_http::follow_redirect::{
    FollowRedirectLayer,
    policy::{FilterCredentials, Limited, PolicyExt},
};
use tower_reauth::{AccountId, AuthError, AuthLayer, BoxError, ErrorKind, MemoryStore, Origins};

/// In a queue, for a place on the wire.
#[tokio::test(start_paused = true)]
async fn case_37_p12_a_named_request_in_a_queue_keeps_its_account() {
    for (name, expected) in [(Some("alice"), "a10.0"), (None, "a20.0")] {
        let town = Town::new(MemoryStore::new()).await;
        town.activate("alice");
        let limit = ConcurrencyLimit::new(town.api_itself(), 1);
        let permit = limit.clone().ready_oneshot().await.unwrap();
        let stack = ServiceBuilder::new().buffer(8).layer(town.layer()).service(limit);
        let note = post("/note", "{}");
        let note = name.map_or_else(|| note.clone(), |name| named(note.clone(), name));
        let mut sent = task::spawn(stack.oneshot(note));
        assert_pending!(sent.poll());
        settle().await;
        town.activate("bob");
        drop(permit);
        assert_eq!(sent.await.unwrap().status(), StatusCode::OK);
        assert_eq!(town.seen.all(), [format!("POST /note Bearer {expected}")]);
    }
}

/// Once more, after an error of the network.
#[derive(Clone)]
struct OnceMore(Arc<Town>);

impl<Res> retry::Policy<Req, Res, BoxError> for OnceMore {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Req, result: &mut Result<Res, BoxError>) -> Option<Ready<()>> {
        self.0.activate("bob"); // meanwhile
        result.is_err().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn case_37_p12_a_named_request_that_is_tried_again_keeps_its_account() {
    for (name, expected) in [(Some("alice"), ["a10.0", "a10.0"]), (None, ["a10.0", "a20.0"])] {
        let town = Arc::new(Town::new(MemoryStore::new()).await);
        town.activate("alice");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tokens = seen.clone();
        let wire = service_fn(move |request: Req| {
            let mut tokens = tokens.lock().unwrap();
            tokens.push(request.headers()["authorization"].to_str().unwrap().replace("Bearer ", ""));
            ready(if tokens.len() == 1 { Err("reset") } else { Ok(Response::new(())) })
        });
        let stack = retry::RetryLayer::new(OnceMore(town.clone())).layer(town.layer().layer(wire));
        let request = name.map_or_else(|| get("/"), |name| named(get("/"), name));
        assert!(stack.oneshot(request).await.is_ok());
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}

/// tower-http takes all extensions off on the way to another origin, unless it is told which may stay; and then it is well if
/// nobody is active.
#[tokio::test(start_paused = true)]
async fn p12_a_redirect_to_another_allowed_origin_keeps_the_account_or_is_refused() {
    let town = Town::new(MemoryStore::new()).await;
    let origins = Origins::new(["https://api.example.com", "https://files.example.com"]).unwrap();
    let layer = AuthLayer::for_accounts(town.accounts.clone(), origins);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tokens = seen.clone();
    let wire = service_fn(move |request: Req| {
        let token = request.headers()["authorization"].to_str().unwrap().replace("Bearer ", "");
        tokens.lock().unwrap().push(token);
        let response = match request.uri().host() {
            Some("api.example.com") => {
                Response::builder().status(302).header("location", "https://files.example.com/7")
            }
            _ => Response::builder(),
        };
        ready(Ok::<_, BoxError>(response.body(()).unwrap()))
    });
    let send = async |keeps: bool| {
        let request = named(get("/report"), "bob");
        let auth = layer.layer(wire.clone());
        match keeps {
            false => FollowRedirectLayer::new().layer(auth).oneshot(request).await,
            true => {
                let keeps = FilterCredentials::new().allow_extension::<AccountId>();
                let policy = Limited::default().and::<_, Full<bytes::Bytes>, BoxError>(keeps);
                FollowRedirectLayer::with_policy(policy).layer(auth).oneshot(request).await
            }
        }
    };
    let lost = send(false).await.unwrap_err();
    assert_eq!(AuthError::find(&*lost).unwrap().kind(), ErrorKind::SignedOut);
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), ["a20.0"]);

    town.activate("alice");
    assert_eq!(send(true).await.unwrap().status(), StatusCode::OK);
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), ["a20.0", "a20.0"]);
}
