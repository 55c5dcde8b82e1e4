//! What goes wrong in the layer, as a caller of a generated client sees it: every row of the table of `grpc_status`.

use crate::{
    Net, Transport,
    flaky::{Call, Fault, Flaky},
    grpc::Client,
    kind,
    kit::{Issuer, Script},
};
use std::{
    error::Error,
    sync::{Arc, OnceLock},
};
use tonic::{Code, Request, Status, service::interceptor::InterceptedService};
use tower::ServiceBuilder;
use tower_reauth::{
    AuthError, BoxError, DenyReason, ErrorKind, LockCause, Origins, RefreshError, RefreshGrant, Refresher, Remedy,
    Session, SignOut, StoreErrorKind, Tokens, gate_fn, grpc_status,
};

/// A call that is refused before it leaves.
async fn refused(net: &Net) -> (Code, ErrorKind) {
    net.server.calls();
    let status = net.client().echo("hello").await.unwrap_err();
    let error = AuthError::find(&status).expect("an error of this crate");
    assert_eq!(status.message(), error.to_string(), "it says the same");
    assert!(net.server.calls().is_empty(), "nothing was sent");
    (status.code(), error.kind())
}

#[tokio::test]
async fn p14_a_denial_reaches_the_caller_as_a_status() {
    let gate = gate_fn(|cx| Err(cx.deny(DenyReason::OnlineRequired)));
    let net = Net::with(|issuer| issuer, |builder| builder.gate(gate)).await;
    assert_eq!(refused(&net).await, (Code::PermissionDenied, ErrorKind::Denied));
    let status = net.client().echo("hello").await.unwrap_err();
    let denial = AuthError::find(&status).and_then(AuthError::denial).expect("the denial");
    let told = (denial.capability().as_str(), denial.reason(), denial.remedy());
    assert_eq!(told, ("write", DenyReason::OnlineRequired, Remedy::Connect), "a gRPC call is a POST");
}

#[tokio::test]
async fn the_state_of_a_session_reaches_the_caller_as_a_status() {
    let net = Net::new().await;
    net.session.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(refused(&net).await, (Code::Unauthenticated, ErrorKind::SignedOut));
    net.session.sign_in(net.issuer.sign_in()).await.unwrap();
    net.session.lock(LockCause::Application).await.unwrap();
    assert_eq!(refused(&net).await, (Code::PermissionDenied, ErrorKind::Locked));
    net.session.sign_in(net.issuer.sign_in()).await.unwrap();

    net.expire();
    net.issuer.script(Script::Panic);
    assert_eq!(refused(&net).await, (Code::Unavailable, ErrorKind::Aborted));
    let net = Net::new().await;
    net.expire();
    net.issuer.fail(|| RefreshError::transient("down"));
    assert_eq!(refused(&net).await, (Code::Unavailable, ErrorKind::Unavailable));

    let net = Net::new().await;
    net.expire();
    net.issuer.books().revoked = true;
    assert_eq!(refused(&net).await, (Code::Unauthenticated, ErrorKind::ReauthRequired));
}

/// A refresher that goes through the layer that waits for it.
#[derive(Clone)]
struct Reentrant(Arc<OnceLock<Transport>>);

impl Refresher for Reentrant {
    async fn refresh(&self, _: RefreshGrant) -> Result<Tokens, RefreshError> {
        let transport = self.0.get().expect("it is set").clone();
        let status = Client::new(transport).echo("tokens, please").await.unwrap_err();
        assert_eq!((status.code(), kind(&status)), (Code::Internal, Some(ErrorKind::Reentrant)));
        Err(RefreshError::not_sent(status))
    }
}

#[tokio::test]
async fn p11_a_refresher_over_its_own_channel_gets_a_status() {
    let own = Arc::new(OnceLock::new());
    let net = Net::with(|_| Reentrant(own.clone()), |builder| builder).await;
    let stack = ServiceBuilder::new()
        .map_err(grpc_status)
        .layer(net.layer().replay(tower_reauth::NeverReplay))
        .service(net.server.channel());
    own.set(Transport::new(stack)).ok().unwrap();
    net.expire();
    let status = net.client().echo("hello").await.unwrap_err();
    assert_eq!((status.code(), kind(&status)), (Code::Unavailable, Some(ErrorKind::Unavailable)));
    let mut source: Option<&(dyn Error + 'static)> = status.source();
    let mut told = false;
    while let Some(error) = source {
        told |= error.downcast_ref::<AuthError>().is_some_and(|error| error.kind() == ErrorKind::Reentrant);
        source = error.source();
    }
    assert!(told, "the reason is among its sources: {status:?}");
}

/// The rows that no call meets on its way.
#[tokio::test]
async fn errors_of_the_set_up_and_of_stores_have_a_code_each() {
    let code = |error: AuthError| {
        let status = grpc_status(error.clone().into());
        assert_eq!((kind(&status), status.message()), (Some(error.kind()), &*error.to_string()));
        (status.code(), error.kind())
    };
    let insecure = Origins::new(["http://api.example.com"]).unwrap_err();
    assert_eq!(code(insecure), (Code::Internal, ErrorKind::InsecureOrigin));
    let net = Net::new().await;
    let invalid = net.session.sign_in(Tokens::new("a\n")).await.unwrap_err();
    assert_eq!(code(invalid), (Code::Internal, ErrorKind::InvalidToken));
    let stored = [
        (StoreErrorKind::Unavailable, Code::Unavailable),
        (StoreErrorKind::Conflict, Code::Unavailable),
        (StoreErrorKind::LeaseLost, Code::Unavailable),
        (StoreErrorKind::Corrupt, Code::Internal),
        (StoreErrorKind::TooLarge, Code::Internal),
        (StoreErrorKind::NewerVersion, Code::Internal),
        (StoreErrorKind::Denied, Code::Internal),
    ];
    for (store_kind, expected) in stored {
        let store = Flaky::new();
        store.always(Call::Load, Fault::Fail(store_kind));
        let error = Session::builder(Issuer::new()).store(store).open("alice").await.unwrap_err();
        assert_eq!(code(error), (expected, ErrorKind::Store), "{store_kind:?}");
    }
}

/// Not ours: as tonic reads them.
#[tokio::test]
async fn errors_of_others_are_as_tonic_reads_them() {
    let net = Net::new().await;
    let unused = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let nowhere = format!("http://{}", unused.local_addr().unwrap());
    drop(unused); // refuses connections from now on
    let channel = tonic::transport::Channel::from_shared(nowhere).unwrap().connect_lazy();
    let stack = ServiceBuilder::new()
        .map_err(grpc_status)
        .layer(net.layer().replay(tower_reauth::NeverReplay))
        .service(channel);
    let status = Client::new(stack).echo("hello").await.unwrap_err();
    assert_eq!((status.code(), kind(&status)), (Code::Unavailable, None), "the connection was refused: {status:?}");
    assert!(status.source().is_some(), "and tonic's own error is within");

    let status = grpc_status("something else".into());
    assert_eq!((status.code(), status.message()), (Code::Unknown, "something else"));
    let mut theirs = Status::resource_exhausted("too much");
    theirs.metadata_mut().insert("x-limit", "5".parse().unwrap());
    let status = grpc_status(theirs.into());
    let limit = status.metadata().get("x-limit").map(|limit| limit.to_str().unwrap());
    assert_eq!((status.code(), limit), (Code::ResourceExhausted, Some("5")));
}

// ===== through what stands around it =====

fn pass(request: Request<()>) -> Result<Request<()>, Status> {
    Ok(request)
}

#[tokio::test]
async fn an_error_is_found_through_whatever_stands_around() {
    let gate = gate_fn(|cx| Err(cx.deny(DenyReason::MissingGrant)));
    let net = Net::with(|issuer| issuer, |builder| builder.gate(gate)).await;
    let layer = || net.layer().replay(tower_reauth::NeverReplay);
    let plain = || ServiceBuilder::new().layer(layer()).service(net.server.channel());

    let intercepted = InterceptedService::new(ServiceBuilder::new().map_err(grpc_status).service(plain()), pass);
    let buffered = ServiceBuilder::new().map_err(grpc_status).buffer(8).service(plain());
    let twice = ServiceBuilder::new().map_err(|status: Status| grpc_status(status.into())).map_err(grpc_status);
    let statuses = [
        ("interceptor", Client::new(intercepted).echo("x").await.unwrap_err()),
        ("buffer", Client::new(buffered).echo("x").await.unwrap_err()),
        ("twice", Client::new(twice.service(plain())).echo("x").await.unwrap_err()),
    ];
    for (what, status) in statuses {
        assert_eq!((status.code(), kind(&status)), (Code::PermissionDenied, Some(ErrorKind::Denied)), "{what}");
        let wrapped = std::io::Error::other(BoxError::from(status));
        assert!(AuthError::find(&wrapped).is_some_and(|error| error.denial().is_some()), "{what}");
    }
    // Without `grpc_status` it is found all the same, but the code says nothing.
    let status = Client::new(plain()).echo("x").await.unwrap_err();
    assert_eq!((status.code(), kind(&status)), (Code::Unknown, Some(ErrorKind::Denied)));
    assert!(net.server.calls().is_empty());
}

/// An interceptor is the caller: what it sets as `authorization` is the caller's own.
#[tokio::test]
async fn p10_an_interceptor_that_authorizes_by_itself_is_left_alone() {
    let net = Net::new().await;
    let own = |mut request: Request<()>| -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", "Bearer mine".parse().unwrap());
        Ok(request)
    };
    let layer = net.layer().replay(tower_reauth::NeverReplay);
    let stack = ServiceBuilder::new().map_err(grpc_status).layer(layer).service(net.server.channel());
    let status = Client::new(InterceptedService::new(stack, own)).echo("x").await.unwrap_err();
    assert_eq!((status.code(), kind(&status)), (Code::Unauthenticated, None));
    net.session.close().await.unwrap();
    assert_eq!((net.server.tokens(), net.issuer.exchanges()), (vec!["mine".to_owned()], 0), "not refreshed for it");
}

/// P16: neither a status nor a client shows a token.
#[tokio::test]
async fn p16_a_status_shows_no_token() {
    let net = Net::new().await;
    net.expire();
    net.issuer.fail(|| RefreshError::transient("down"));
    let status = net.client().echo("x").await.unwrap_err();
    let text = format!("{status} {status:?} {:?} {:?}", net.layer(), net.session);
    assert!(!["a1.", "r1."].iter().any(|secret| text.contains(secret)), "{text}");
}
