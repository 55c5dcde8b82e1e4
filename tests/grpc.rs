//! Case 44: gRPC over a tonic channel, to a real server. A channel follows no redirects, and neither does gRPC have any: what
//! a proxy says in HTTP is all that there is of it.
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "grpc/errors.rs"]
mod errors;
#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/grpc.rs"]
mod grpc;
#[path = "../examples/support/jobs_grpc.rs"]
#[allow(dead_code)] // for its codec
mod jobs_grpc;
#[path = "support/kit.rs"]
mod kit;
#[path = "grpc/metadata.rs"]
mod metadata;

use futures_util::{StreamExt, future::join_all, stream};
use grpc::{Client, GrpcServer};
use kit::{Issuer, SEC, clock};
use std::time::Duration;
use tonic::{Code, body::Body};
use tower::{ServiceBuilder, util::BoxCloneSyncService};
use tower_reauth::{
    AuthError, AuthLayer, BufferedBody, ErrorKind, ManualClock, NeverReplay, Origins, Refresher, Replay, Session,
    SessionBuilder, grpc_status, grpc_unauthenticated,
};

/// What a transport looks like that a program can name and keep.
type Transport = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, tonic::Status>;

const LIMIT: usize = 4096;

struct Net {
    issuer: Issuer,
    clock: ManualClock,
    session: Session,
    server: GrpcServer,
}

impl Net {
    /// Signed in with `a1.0`, for 100 s.
    async fn new() -> Self {
        Self::with(|issuer| issuer, |builder| builder).await
    }

    async fn with<R: Refresher>(
        refresher: impl FnOnce(Issuer) -> R,
        f: impl FnOnce(SessionBuilder) -> SessionBuilder,
    ) -> Self {
        let (issuer, clock) = (Issuer::new(), clock());
        let server = GrpcServer::start(&issuer).await;
        let builder = Session::builder(refresher(issuer.clone())).clock(clock.clone());
        let session = f(builder).open("alice").await.unwrap();
        session.sign_in(issuer.sign_in()).await.unwrap();
        Self { issuer, clock, session, server }
    }

    fn bare(&self) -> AuthLayer {
        AuthLayer::new(self.session.clone(), Origins::new([self.server.origin()]).unwrap())
    }

    fn layer(&self) -> AuthLayer {
        self.of(self.bare())
    }

    fn of(&self, layer: AuthLayer) -> AuthLayer {
        layer.default_origin(self.server.origin().parse().unwrap()).rejected_when(grpc_unauthenticated)
    }

    /// A client over this layer, as the documentation has it.
    fn over(&self, layer: AuthLayer) -> Client<Transport> {
        self.keeping(layer.replay(BufferedBody::new(LIMIT, Body::new)))
    }

    fn keeping<P>(&self, layer: AuthLayer<P>) -> Client<Transport>
    where
        P: Replay<http::Request<Body>, Kept: Send> + Clone + Send + Sync + 'static,
    {
        let stack = ServiceBuilder::new().map_err(grpc_status).layer(layer).service(self.server.channel());
        Client::new(BoxCloneSyncService::new(stack))
    }

    fn client(&self) -> Client<Transport> {
        self.over(self.layer())
    }

    fn expire(&self) {
        self.clock.advance(101 * SEC);
        self.issuer.expire_all();
    }
}

fn kind(status: &tonic::Status) -> Option<ErrorKind> {
    AuthError::find(status).map(AuthError::kind)
}

#[tokio::test]
async fn case_44_a_path_without_an_origin_gets_a_token() {
    let net = Net::new().await;
    assert_eq!(net.client().echo("hello").await.unwrap(), "hello");
    let calls = net.server.calls();
    assert_eq!((calls.len(), &*calls[0].method, calls[0].token()), (1, "Echo", "a1.0"));
    assert_eq!(calls[0].headers["content-type"], "application/grpc");
}

#[tokio::test]
async fn case_44_without_an_origin_or_with_another_one_nothing_is_sent() {
    let net = Net::new().await;
    let other = || net.bare().default_origin("https://grpc.example.com".parse().unwrap());
    for layer in [net.bare(), other()] {
        let status = net.over(layer.rejected_when(grpc_unauthenticated)).echo("hello").await.unwrap_err();
        assert_eq!((status.code(), kind(&status)), (Code::Internal, Some(ErrorKind::Misconfigured)));
        assert!(status.message().contains("default_origin"), "{status}");
    }
    assert!(net.server.calls().is_empty());
}

#[tokio::test]
async fn case_44_a_storm_at_expiry_makes_one_exchange() {
    let net = Net::new().await;
    net.expire();
    let client = net.client();
    let storm = (0..100).map(|n| {
        let mut client = client.clone();
        async move { client.echo(format!("job {n}")).await }
    });
    for (n, answer) in join_all(storm).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), format!("job {n}"));
    }
    assert_eq!((net.issuer.exchanges(), net.server.tokens()), (1, vec!["a1.1".to_owned(); 100]));

    // And when it is the server who says so.
    net.issuer.expire_all();
    let storm = (0..100).map(|n| {
        let mut client = client.clone();
        async move { client.echo(format!("job {n}")).await.unwrap() }
    });
    assert_eq!(join_all(storm).await.len(), 100);
    let tokens = net.server.tokens();
    assert_eq!((net.issuer.exchanges(), tokens.iter().filter(|token| *token == "a1.2").count()), (2, 100));
    assert!(tokens.len() <= 200);
}

#[tokio::test]
async fn case_44_a_refused_call_is_sent_once_more_with_identical_bytes() {
    let net = Net::new().await;
    net.issuer.expire_all();
    assert_eq!(net.client().echo("hello").await.unwrap(), "hello");
    let calls = net.server.calls();
    assert_eq!(calls.iter().map(grpc::Call::token).collect::<Vec<_>>(), ["a1.0", "a1.1"]);
    assert_eq!((calls[0].body.is_empty(), calls[0].body == calls[1].body), (false, true));
    let rest = |call: &grpc::Call| {
        let mut headers = call.headers.clone();
        headers.remove("authorization");
        headers.remove("content-length"); // known the second time: what was kept has a length
        headers
    };
    assert_eq!(rest(&calls[0]), rest(&calls[1]));
    assert_eq!(net.issuer.exchanges(), 1);
}

/// A server that takes no token at all: its second word is delivered, as tonic reads it.
#[tokio::test]
async fn case_44_a_second_refusal_is_delivered() {
    let net = Net::new().await;
    net.issuer.expire_all();
    net.issuer.script(kit::Script::Answer(kit_tokens()));
    let status = net.client().echo("hello").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "a token that is not taken"));
    assert_eq!((kind(&status), net.server.tokens()), (None, vec!["a1.0".to_owned(), "unheard of".to_owned()]));
}

fn kit_tokens() -> tower_reauth::Tokens {
    tower_reauth::Tokens::new("unheard of").with_refresh_token("r1.0").with_expires_in(100 * SEC)
}

/// The refresh fails: the server's status is delivered. tonic keeps no extensions of a response that is an error, so the
/// reason is with the session.
#[tokio::test]
async fn case_44_what_cannot_be_cured_is_delivered_as_the_server_said_it() {
    let net = Net::new().await;
    net.issuer.books().revoked = true;
    net.issuer.expire_all();
    let status = net.client().echo("hello").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "a token that is not taken"));
    assert_eq!((kind(&status), net.server.tokens()), (None, vec!["a1.0".to_owned()]));
    assert_eq!(net.session.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
}

#[tokio::test]
async fn case_44_a_stream_of_messages_is_replayed_as_it_was_sent() {
    let net = Net::new().await;
    let messages: Vec<String> = (0..20).map(|n| format!("message-{n}")).collect();
    for refused in [false, true] {
        if refused {
            net.issuer.expire_all();
        }
        assert_eq!(net.client().collect(messages.clone()).await.unwrap(), messages.join(" "));
        let calls = net.server.calls();
        assert_eq!(calls.len(), if refused { 2 } else { 1 });
        assert!(calls.iter().all(|call| call.body.len() > 200 && call.body == calls[0].body));
    }
    assert_eq!(net.issuer.exchanges(), 1);
}

#[tokio::test]
async fn case_44_a_stream_over_the_limit_is_sent_once_and_the_others_get_a_token() {
    let net = Net::new().await;
    let messages = vec!["x".repeat(1000); 10];
    assert_eq!(net.client().collect(messages.clone()).await.unwrap(), messages.join(" "), "it is sent all the same");
    net.issuer.expire_all();
    net.server.calls();
    let status = net.client().collect(messages.clone()).await.unwrap_err();
    assert_eq!((status.code(), net.server.tokens()), (Code::Unauthenticated, vec!["a1.0".to_owned()]));
    assert_eq!(net.client().echo("next").await.unwrap(), "next");
    assert_eq!((net.server.tokens(), net.issuer.exchanges()), (vec!["a1.1".to_owned()], 1));
}

#[tokio::test]
async fn case_44_a_server_that_streams_is_asked_once_more_before_its_first_message() {
    let net = Net::new().await;
    for refused in [false, true] {
        if refused {
            net.issuer.expire_all();
        }
        let (words, end) = net.client().list("/t.T/List", "one two three").await.unwrap();
        assert_eq!((words, end.is_ok()), (vec!["one".into(), "two".into(), "three".into()], true));
        assert_eq!(net.server.calls().len(), if refused { 2 } else { 1 });
    }
}

/// A status in real trailers comes when the call has had its effect, and perhaps its answer: it is no 401.
#[tokio::test]
async fn case_44_a_status_in_trailers_is_delivered_and_starts_no_refresh() {
    let net = Net::new().await;
    let (messages, end) = net.client().list("/t.T/Late", "one").await.unwrap();
    let status = end.unwrap_err();
    assert_eq!((messages, status.code()), (vec!["one".to_owned()], Code::Unauthenticated));
    assert_eq!(status.message(), "after the first message");

    let status = net.client().unary("/t.T/Bare", tonic::Request::new("x".into())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "without a message, too");
    net.session.close().await.unwrap();
    assert_eq!((net.server.calls().len(), net.issuer.exchanges()), (2, 0));
    assert_eq!(net.client().echo("next").await.unwrap(), "next");
    assert_eq!(net.server.tokens(), ["a1.0"], "nor is the token taken for refused");
}

#[tokio::test]
async fn case_44_both_sides_stream_and_nothing_is_kept() {
    let net = Net::new().await;
    let mut client = net.keeping(net.layer().replay(NeverReplay));
    let (tx, rx) = futures_channel();
    let mut answers = client.chat(rx).await.unwrap();
    for word in ["one", "two", "three"] {
        tx.send(word.to_owned()).await.unwrap(); // the next goes when the last has been answered
        assert_eq!(answers.message().await.unwrap().as_deref(), Some(word));
    }
    drop(tx);
    assert_eq!(answers.message().await.unwrap(), None);
    assert_eq!(net.server.tokens(), ["a1.0"]);

    // Refused, it is delivered; the next call has a new token. A token that has expired is renewed before.
    net.issuer.expire_all();
    let status = client.chat(stream::iter(["one".to_owned()])).await.unwrap_err();
    assert_eq!((status.code(), net.server.tokens()), (Code::Unauthenticated, vec!["a1.0".to_owned()]));
    let answers = client.chat(stream::iter(["one".to_owned()])).await.unwrap();
    assert_eq!(answers.map(Result::unwrap).collect::<Vec<_>>().await, ["one"]);
    net.expire();
    assert!(client.chat(stream::iter(["one".to_owned()])).await.is_ok());
    assert_eq!((net.server.tokens(), net.issuer.exchanges()), (vec!["a1.1".to_owned(), "a1.2".to_owned()], 2));
}

fn futures_channel() -> (tokio::sync::mpsc::Sender<String>, impl futures_util::Stream<Item = String> + Send + 'static) {
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    (tx, stream::unfold(rx, async |mut rx: tokio::sync::mpsc::Receiver<String>| Some((rx.recv().await?, rx))))
}

#[tokio::test]
async fn case_44_a_401_of_a_proxy_is_refreshed_and_other_statuses_are_delivered() {
    let net = Net::new().await;
    let answer = net.client().unary("/t.T/Proxy", tonic::Request::new("hello".into())).await.unwrap();
    assert_eq!((&*answer, net.server.tokens()), ("hello", vec!["a1.0".to_owned(), "a1.1".to_owned()]));
    let status = net.client().unary("/t.T/Forbidden", tonic::Request::new("hello".into())).await.unwrap_err();
    assert_eq!((status.code(), kind(&status)), (Code::PermissionDenied, None));
    assert_eq!((net.server.tokens().len(), net.issuer.exchanges()), (1, 1));
}

/// Whoever called has gone: the refresh goes on, and the next call has its token.
#[tokio::test]
async fn p02_a_cancelled_call_leaves_its_refresh_alone() {
    let net = Net::new().await;
    net.expire();
    let (started, hold) = net.issuer.hold();
    let mut client = net.client();
    let call = tokio::spawn(async move { client.echo("hello").await });
    started.notified().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    hold.add_permits(10);
    net.session.close().await.unwrap();
    assert_eq!(net.client().echo("next").await.unwrap(), "next");
    assert_eq!((net.issuer.exchanges(), net.server.tokens()), (1, vec!["a1.1".to_owned()]));

    // One that is with the server is cancelled there, and its channel goes on.
    let mut client = net.client();
    let mut other = client.clone();
    let call = tokio::spawn(async move { client.unary("/t.T/Hang", tonic::Request::new("hello".into())).await });
    net.server.arrived().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(other.echo("next").await.unwrap(), "next");
}

/// A deadline counts from when a call leaves, as it does in a channel that waits for a connection; a timeout above the layer
/// counts all.
#[tokio::test]
async fn a_deadline_of_tonics_is_kept_by_the_channel() {
    let net = Net::new().await;
    let within = |limit| {
        let mut request = tonic::Request::new("hello".to_owned());
        request.set_timeout(limit);
        request
    };
    let status = net.client().unary("/t.T/Hang", within(Duration::from_millis(50))).await.unwrap_err();
    assert_eq!((status.code(), kind(&status)), (Code::Cancelled, None), "as tonic reads it: {status}");
    assert!(net.server.calls()[0].headers.contains_key("grpc-timeout"));

    // While it waits for a token, the deadline does not run.
    net.expire();
    net.issuer.books().takes = Duration::from_millis(1200);
    let answer = net.client().unary("/t.T/Echo", within(SEC)).await.unwrap();
    assert_eq!((&*answer, net.issuer.exchanges()), ("hello", 1));

    // A timeout around the layer runs all the while.
    net.expire();
    let (_started, _hold) = net.issuer.hold();
    let layer = net.layer().replay(BufferedBody::new(LIMIT, Body::new));
    let stack = ServiceBuilder::new()
        .map_err(grpc_status)
        .timeout(Duration::from_millis(50))
        .layer(layer)
        .service(net.server.channel());
    let mut client = Client::new(stack);
    let status = client.unary("/t.T/Echo", tonic::Request::new("hello".into())).await.unwrap_err();
    assert!(std::error::Error::source(&status).is_some_and(|error| error.is::<tower::timeout::error::Elapsed>()));
}
