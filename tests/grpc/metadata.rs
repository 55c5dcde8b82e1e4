//! What a caller says in the extensions of a `tonic::Request`: they arrive at the layer.

use crate::{LIMIT, Net, Transport, grpc::Client, kind, kit::SEC};
use tonic::{Code, GrpcMethod, Request, body::Body};
use tower::ServiceBuilder;
use tower_reauth::{
    AccountId, AuthLayer, BufferedBody, Capability, DenyReason, ErrorKind, ForwardStale, Origins, RefreshError,
    Session, SkipAuth, Tokens, gate_fn, grpc_status,
};

fn with<T: Clone + Send + Sync + 'static>(extension: T) -> Request<String> {
    let mut request = Request::new("hello".to_owned());
    request.extensions_mut().insert(extension);
    request
}

const ECHO: &str = "/t.T/Echo";

#[tokio::test]
async fn p14_capabilities_and_permits_travel_with_a_request() {
    let gate = gate_fn(|cx| match cx.capability().as_str() {
        "jobs.view" => Ok(()),
        _ => Err(cx.deny(DenyReason::MissingGrant)),
    });
    let net = Net::with(|issuer| issuer, |builder| builder.gate(gate)).await;
    let mut client = net.client();
    let denied = client.unary(ECHO, with(())).await.unwrap_err();
    assert_eq!((denied.code(), kind(&denied)), (Code::PermissionDenied, Some(ErrorKind::Denied)), "a POST is a write");
    client.unary(ECHO, with(Capability::new("jobs.view"))).await.unwrap();
    client.unary(ECHO, with(net.session.authorize("jobs.view").unwrap())).await.unwrap();
    assert_eq!(net.server.tokens(), ["a1.0", "a1.0"]);

    // They travel with the replay too.
    net.issuer.expire_all();
    client.unary(ECHO, with(Capability::new("jobs.view"))).await.unwrap();
    assert_eq!(net.server.tokens(), ["a1.0", "a1.1"]);
}

/// Generated clients say which method they call: a capability can go by it, or by the path.
#[tokio::test]
async fn p14_a_capability_by_the_method_of_a_generated_client() {
    let gate = gate_fn(|cx| match cx.capability().as_str() {
        "t.T/Echo" => Ok(()),
        _ => Err(cx.deny(DenyReason::MissingGrant)),
    });
    let net = Net::with(|issuer| issuer, |builder| builder.gate(gate)).await;
    let by_method = net.layer().capability(|head| {
        let method = head.extensions()?.get::<GrpcMethod<'static>>()?;
        Some(Capability::from(format!("{}/{}", method.service(), method.method())))
    });
    let by_path = net.layer().capability(|head| Some(Capability::from(head.path().trim_start_matches('/').to_owned())));
    let answer = net.over(by_method).unary(ECHO, with(GrpcMethod::new("t.T", "Echo"))).await;
    assert_eq!(answer.unwrap(), "hello");
    assert_eq!(net.over(by_path.clone()).echo("hello").await.unwrap(), "hello");
    let denied = net.over(by_path).list("/t.T/List", "a b").await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_call_may_go_without_a_token_or_with_a_spent_one() {
    let net = Net::new().await;
    let status = net.client().unary(ECHO, with(SkipAuth)).await.unwrap_err();
    assert_eq!(
        (status.code(), kind(&status), net.server.tokens()),
        (Code::Unauthenticated, None, vec!["-".to_owned()])
    );
    assert_eq!(net.issuer.exchanges(), 0, "a sign-in call is nobody's");

    net.clock.advance(101 * SEC);
    net.issuer.fail(|| RefreshError::transient("down"));
    assert_eq!(net.client().unary(ECHO, with(ForwardStale)).await.unwrap(), "hello");
    assert_eq!(net.server.tokens(), ["a1.0"]);
}

/// Several accounts over one channel: whose a call is stands among its extensions.
#[tokio::test]
async fn p12_a_call_says_whose_it_is() {
    let net = Net::new().await;
    let builder = Session::builder(net.issuer.clone()).clock(net.clock.clone());
    let accounts = builder.open_accounts().await.unwrap();
    for (subject, token) in [("alice", "alice's"), ("bob", "bob's")] {
        net.issuer.books().accepted.push(token.into());
        let tokens = Tokens::new(token).with_refresh_token("r").with_expires_in(100 * SEC);
        accounts.open(subject).await.unwrap().sign_in(tokens).await.unwrap();
    }
    let layer = net.of(AuthLayer::for_accounts(accounts.clone(), Origins::new([net.server.origin()]).unwrap()));
    let layer = layer.replay(BufferedBody::new(LIMIT, Body::new));
    let stack = ServiceBuilder::new().map_err(grpc_status).layer(layer).service(net.server.channel());
    let mut client = Client::new(Transport::new(stack));

    let status = client.echo("hello").await.unwrap_err();
    assert_eq!((status.code(), kind(&status)), (Code::Unauthenticated, Some(ErrorKind::SignedOut)), "nobody is active");
    accounts.set_active(&"alice".into()).unwrap();
    client.echo("hello").await.unwrap();
    client.unary(ECHO, with(AccountId::new("bob"))).await.unwrap();
    let permit = accounts.get(&"bob".into()).unwrap().authorize("write").unwrap();
    client.unary(ECHO, with(permit.clone())).await.unwrap();
    assert_eq!(net.server.tokens(), ["alice's", "bob's", "bob's"]);

    let mut both = with(permit);
    both.extensions_mut().insert(AccountId::new("alice"));
    for request in [both, with(AccountId::new("zoe"))] {
        let status = client.unary(ECHO, request).await.unwrap_err();
        assert_eq!((status.code(), kind(&status)), (Code::Internal, Some(ErrorKind::Misconfigured)));
    }
    assert!(net.server.calls().is_empty());
}
