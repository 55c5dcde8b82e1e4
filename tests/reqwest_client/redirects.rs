//! Redirects, which reqwest follows by itself, below the layer.

use super::*;
use crate::kit::{SEC, start};
use reqwest::redirect;
use std::net::SocketAddr;

/// `GET` of the API that ends at `to`.
fn leads_to(net: &Net, status: u16, to: &str) -> Request {
    net.get(&format!("/redirect/{status}?{to}"))
}

#[tokio::test]
async fn p10_no_token_arrives_at_another_origin() {
    let net = Net::new().await;
    let stranger = Loopback::stranger().await;
    let api = net.layer().layer(client());
    for status in [301, 302, 303, 307, 308] {
        let response = send(&api, leads_to(&net, status, &stranger.uri("/echo"))).await.unwrap();
        assert_eq!((response.status(), response.url().as_str()), (StatusCode::OK, &*stranger.uri("/echo")));
        assert_eq!((net.lines().len(), stranger.lines()), (1, vec!["GET /echo - ".to_owned()]), "{status}");
    }
}

/// reqwest takes the token off when the origin changes, and puts it back on the way from there to itself. If the first half
/// of this test fails, it no longer does, and the advice in the documents of `AuthLayer` may go.
#[tokio::test]
async fn p10_redirects_are_followed_within_one_origin_as_the_documents_advise() {
    let net = Net::new().await;
    let stranger = Loopback::stranger().await;
    let twice = stranger.uri(&format!("/redirect/302?{}", stranger.uri("/echo")));
    let response = send(&net.layer().layer(client()), leads_to(&net, 302, &twice)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(stranger.received().last().unwrap().authorization(), "Bearer a1.0", "reqwest has given it away");

    let within = redirect::Policy::custom(|attempt| match attempt.previous() {
        [asked, rest @ ..] if asked.origin() == attempt.url().origin() && asked != attempt.url() && rest.len() < 9 => {
            attempt.follow()
        }
        _ => attempt.stop(),
    });
    let client = Client::builder().no_proxy().redirect(within).build().unwrap();
    let api = net.layer().layer(client);
    let response = send(&api, leads_to(&net, 302, &twice)).await.unwrap();
    assert_eq!((response.status(), stranger.lines().len()), (StatusCode::FOUND, 0), "the application sees it");
    let at_home = leads_to(&net, 302, &net.api.uri("/redirect/302?/echo"));
    assert_eq!(status(&api, at_home).await, StatusCode::OK);
    // A command that is answered by a redirect to itself would pass for one that was not redirected.
    net.lines();
    assert_eq!(status(&api, net.post("/done/a1.0?done", "once")).await, StatusCode::SEE_OTHER);
    assert_eq!(net.lines(), ["POST /done/a1.0?done Bearer a1.0 once"]);
}

/// What is said elsewhere is not about the token: it was not there.
#[tokio::test]
async fn a_refusal_of_another_origin_refreshes_nothing_and_is_delivered() {
    let net = Net::new().await;
    let stranger = Loopback::stranger().await;
    let api = net.layer().layer(client());
    let mut get = leads_to(&net, 302, &stranger.uri("/answer/401"));
    get.headers_mut().insert("x-challenge", "Bearer error=\"insufficient_scope\"".parse().unwrap());
    let response = send(&api, get).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(AuthError::in_response(&response).is_none() && Challenge::in_response(&response).is_none());
    assert_eq!(response.text().await.unwrap(), "as asked");
    assert_eq!((net.issuer.exchanges(), net.lines().len(), stranger.lines().len()), (0, 1, 1));
}

/// P15: a server that gets no token does not tell the time. By this one the access token would be spent.
#[tokio::test]
async fn p15_the_date_of_another_origin_is_not_taken() {
    let net = Net::new().await;
    let stranger = Loopback::stranger().await;
    let api = net.layer().layer(client());
    stranger.set_date(start() + 3600 * SEC);
    assert_eq!(status(&api, leads_to(&net, 302, &stranger.uri("/echo"))).await, StatusCode::OK);
    assert_eq!(status(&api, net.get("/echo")).await, StatusCode::OK);
    assert_eq!(net.issuer.exchanges(), 0);
    // The API's own is, also at the end of a redirect.
    net.api.set_date(start() + 3600 * SEC);
    assert_eq!(status(&api, leads_to(&net, 302, &net.api.uri("/echo"))).await, StatusCode::OK);
    assert_eq!(status(&api, net.get("/echo")).await, StatusCode::OK);
    assert_eq!(net.issuer.exchanges(), 1);
}

#[tokio::test]
async fn a_refusal_at_the_end_of_a_redirect_within_the_origin_is_ours() {
    let net = Net::new().await;
    let api = net.layer().layer(client());
    // The first server takes the token, the second has been told of its end.
    assert_eq!(status(&api, leads_to(&net, 302, &net.api.uri("/not/a1.0"))).await, StatusCode::OK);
    let lines = net.lines();
    assert_eq!(lines.iter().filter(|line| line.contains("Bearer a1.0")).count(), 2);
    assert_eq!(lines.iter().filter(|line| line.contains("Bearer a1.1")).count(), 2);
    assert_eq!((lines.len(), net.issuer.exchanges()), (4, 1));
}

/// "401: not applied" (RFC 9110 §15.5.2) is said of the request that was refused, and a redirect is an answer to the first.
#[tokio::test]
async fn a_command_that_was_answered_by_a_redirect_is_not_sent_again() {
    let net = Net::new().await;
    let api = net.layer().layer(client());
    for (status, command) in [
        (303, net.post("/redirect/303?/not/a1.0", "once")),
        (302, net.post("/redirect/302?/not/a1.1?job=7", "once")),
        (307, net.post("/redirect/307?/redirect/303?/not/a1.2", "once")),
    ] {
        let response = send(&api, command).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{status}");
        let commands = net.lines().into_iter().filter(|line| line.ends_with("once") && line.contains("/redirect/30"));
        assert!(commands.filter(|line| line.contains(&format!("/redirect/{status}"))).count() == 1, "{status}");
        // It was refused all the same: the others get a new token.
        net.session.access_token().await.unwrap();
    }
    // Nor if nothing but the query tells the answer from the command.
    assert_eq!(status(&api, net.post("/done/a1.3", "once")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(net.lines(), ["POST /done/a1.3 Bearer a1.3 once", "GET /done/a1.3?done Bearer a1.3 "]);
    net.session.access_token().await.unwrap();
    assert_eq!(net.issuer.exchanges(), 4);
    net.clock.advance(40 * SEC); // so many refusals in a row would open the breaker
    // What does the same when it is done twice is.
    let mut put = net.post("/redirect/303?/not/a1.4", "{}");
    *put.method_mut() = Method::PUT;
    assert_eq!(status(&api, put).await, StatusCode::OK);
}

/// The token of one allowed origin is another's too, but reqwest does not take it along.
#[tokio::test]
async fn a_redirect_to_another_allowed_origin_is_another_origin() {
    let net = Net::new().await;
    let files = Loopback::api(&net.issuer).await;
    let origins = Origins::new([net.api.origin(), files.origin()]).unwrap();
    let api = tower_reauth::AuthLayer::new(net.session.clone(), origins).layer(client());
    let response = send(&api, leads_to(&net, 302, &files.uri("/echo"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(AuthError::in_response(&response).is_none());
    assert_eq!((files.lines(), net.issuer.exchanges()), (vec!["GET /echo - ".to_owned()], 0));
    // Asked by itself it gets one.
    assert_eq!(status(&api, request(Method::GET, &files.uri("/echo"))).await, StatusCode::OK);
}

/// Back home the token is gone. Nobody can tell that from a token that is refused: one refresh, one replay, and no more.
#[tokio::test]
async fn a_redirect_there_and_back_costs_one_refresh_at_most() {
    let net = Net::new().await;
    let stranger = Loopback::stranger().await;
    let api = net.layer().layer(client());
    let back = stranger.uri(&format!("/redirect/302?{}", net.api.uri("/echo")));
    let response = send(&api, leads_to(&net, 302, &back)).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(net.issuer.exchanges(), 1);
    assert!(stranger.received().iter().all(|request| request.authorization() == "-"));
    assert_eq!(net.lines().iter().filter(|line| line.starts_with("GET /echo - ")).count(), 2);
}

/// Some answer without a client: a cache, a test. reqwest makes up a URL for them.
#[tokio::test]
async fn a_response_that_nobody_fetched_is_ours() {
    let net = Net::new().await;
    let made = tower::service_fn(async |request: Request| {
        let old = request.headers()[header::AUTHORIZATION] == "Bearer a1.0";
        let status = if old { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        Ok::<_, BoxError>(Response::from(http::Response::builder().status(status).body("made").unwrap()))
    });
    let response = net.layer().layer(made).oneshot(net.get("/echo")).await.unwrap();
    assert_eq!((response.status(), net.issuer.exchanges()), (StatusCode::OK, 1));
}

/// A server by the name that reqwest makes up is a server like any other.
#[tokio::test]
async fn a_redirect_to_the_name_of_nowhere_is_another_origin() {
    let net = Net::new().await;
    let stranger = Loopback::stranger().await;
    let there: SocketAddr = stranger.origin().strip_prefix("http://").unwrap().parse().unwrap();
    let client = Client::builder().no_proxy().resolve("no.url.provided.local", there).build().unwrap();
    let api = net.layer().layer(client);
    stranger.set_date(start() + 3600 * SEC);
    let response = send(&api, leads_to(&net, 302, "http://no.url.provided.local/answer/401")).await.unwrap();
    assert_eq!((response.status(), net.issuer.exchanges()), (StatusCode::UNAUTHORIZED, 0));
    assert_eq!(stranger.lines(), ["GET /answer/401 - "]);
    assert_eq!(status(&api, net.get("/echo")).await, StatusCode::OK);
    assert_eq!(net.issuer.exchanges(), 0, "nor was its date taken");
}
