//! What a wrong stack gets at run time: a typed error that says what to do, and nothing is sent. What the compiler can
//! see is in `compile_fail.rs`.

use super::*;
use crate::{
    kit::{self, ORIGIN},
    rig::{self, Rig, Through},
};
use std::sync::OnceLock;
use tower::{Layer, ServiceBuilder};
use tower_reauth::{AccountId, Tokens, refresh_fn};

/// Kind and text of what the layer says to this request.
async fn said(rig: &Rig, layer: AuthLayer, request: Req) -> (ErrorKind, String) {
    let error = layer.layer(kit::api(&rig.issuer, &rig.seen)).oneshot(request).await.unwrap_err();
    let error = AuthError::find(&*error).expect("an error of this crate");
    (error.kind(), error.to_string())
}

#[tokio::test(start_paused = true)]
async fn errors_say_what_to_do() {
    let rig = Rig::new().await;
    let relative = || Request::get("/pkg.Jobs/List").body(Full::default()).unwrap();
    let plain = Request::get("http://api.example.com/jobs").body(Full::default()).unwrap();
    let mut other = kit::get("/jobs");
    other.extensions_mut().insert(AccountId::new("bob"));
    let layer = || rig::layer(&rig.session);
    let elsewhere = layer().default_origin("https://elsewhere.test".parse().unwrap());
    let insecure = layer().default_origin("http://api.example.com".parse().unwrap());
    for (layer, request, kind, advice) in [
        (layer(), relative(), ErrorKind::Misconfigured, "needs `AuthLayer::default_origin`"),
        (elsewhere, relative(), ErrorKind::Misconfigured, "`default_origin` is not one of the allowed origins"),
        (insecure, relative(), ErrorKind::InsecureOrigin, "never leaves over plain http"),
        (layer(), plain, ErrorKind::InsecureOrigin, "never leaves over plain http, but to a literal loopback address"),
        (layer(), other.clone(), ErrorKind::Misconfigured, "names another account"),
        (layer().account("bob"), kit::get("/jobs"), ErrorKind::Misconfigured, "names another account"),
    ] {
        let uri = request.uri().clone();
        let (got, text) = said(&rig, layer, request).await;
        assert!(got == kind && text.contains(advice), "{uri}: {got:?}, {text:?}");
    }
    assert_eq!(rig.seen.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_client_within_the_stack_that_waits_for_it_is_told_to_move() {
    let through = OnceLock::new();
    let rig = Rig::refreshing(
        |issuer| through.get_or_init(|| Through::new(issuer, "https://id.test/token", ORIGIN)).clone(),
        |builder| builder,
    )
    .await;
    let through = through.into_inner().unwrap();
    assert!(through.service.set(rig.api.clone()).is_ok());
    rig.expire();
    let error = kit::send(&rig.api, kit::get("/jobs")).await.unwrap_err();
    assert_eq!((error.kind(), through.failures()), (ErrorKind::Unavailable, vec![Some(ErrorKind::Reentrant)]));
    let mut texts = vec![error.to_string()];
    let mut next = std::error::Error::source(&error);
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    let advice = "give the refresher a client of its own";
    assert!(texts.iter().any(|text| text.contains(advice)), "{texts:?}");
}

/// A limit around the whole stack, and the refresh wants to go through it: by tokio's clock, it runs out of time.
#[tokio::test(start_paused = true)]
async fn p11_a_token_client_behind_the_limit_of_those_who_wait_for_it_does_not_hang() {
    let through = OnceLock::new();
    let rig = Rig::refreshing(
        |issuer| through.get_or_init(|| Through::new(issuer, "https://id.test/token", "https://id.test/token")).clone(),
        |builder| builder,
    )
    .await;
    let stack = rig::boxed(ServiceBuilder::new().concurrency_limit(1).service(rig.api.clone()));
    assert!(through.into_inner().unwrap().service.set(stack.clone()).is_ok());
    rig.expire();
    let start = tokio::time::Instant::now();
    assert_eq!(kit::send(&stack, kit::get("/jobs")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!((start.elapsed().as_secs(), rig.seen.len()), (30, 0));
}

#[test]
fn p02_without_a_runtime_or_its_timer_the_error_names_it() {
    let open = || {
        let session = Session::builder(refresh_fn(async |_| Ok(Tokens::new("fresh"))));
        let mut open = Box::pin(session.open("alice"));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match open.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(opened) => opened.unwrap_err(),
            std::task::Poll::Pending => panic!("it waits for a runtime"),
        }
    };
    let error = open();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("needs a tokio runtime around it"), "{error}");
    let timeless = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _within = timeless.enter();
    let error = open();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("`enable_time()`"), "{error}");
}
