//! P17 for requests of reqwest, with a client that answers at once.

use super::*;
use ::reqwest::{Method, Request, Response};

/// It has a `Date`, as the answers of most servers have, and comes from nowhere.
fn client() -> impl Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone {
    service_fn(|request: Request| {
        assert!(request.headers().contains_key(header::AUTHORIZATION));
        let date = HeaderValue::from_static("Tue, 15 Nov 1994 08:12:31 GMT");
        let mut response = http::Response::new("");
        response.headers_mut().insert(header::DATE, date);
        ready(Ok(Response::from(response)))
    })
}

fn requests(headers: usize, body: bool, count: usize) -> Vec<Request> {
    let make = |_| {
        let mut request =
            Request::new(Method::PUT, "https://api.example.com/v1/jobs/4711?expand=notes".parse().unwrap());
        for name in ["accept", "accept-encoding", "user-agent"].into_iter().take(headers) {
            request.headers_mut().insert(name, HeaderValue::from_static("2"));
        }
        if body {
            *request.body_mut() = Some("{}".into());
        }
        request
    };
    (0..count).map(make).collect()
}

#[test]
fn p17_nothing_is_allocated_for_requests_of_reqwest() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (session, accounts) = runtime.block_on(async {
        let builder = || Session::builder(refresh_fn(async |_| Ok(tokens("another token"))));
        let accounts = builder().open_accounts().await.unwrap();
        accounts.open("alice").await.unwrap().sign_in(tokens(TOKEN)).await.unwrap();
        (signed_in(builder()).await, accounts)
    });
    let origins = || Origins::new(["https://api.example.com"]).unwrap();
    let layers = [
        ("one session", layer(&session)),
        ("an account of several", AuthLayer::for_accounts(accounts, origins()).account("alice")),
    ];
    let mut token = HeaderValue::try_from(format!("Bearer {TOKEN}")).unwrap();
    token.set_sensitive(true);
    // By hand: with the header, and with a copy of the request as a replay needs one.
    let by_hand = |keep: bool| {
        let token = token.clone();
        service_fn(move |mut request: Request| {
            let kept = keep.then(|| request.try_clone());
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
            let answer = client().call(request);
            black_box(kept);
            answer
        })
    };

    for (which, layer) in &layers {
        for (headers, body) in [(0, false), (0, true), (3, true)] {
            let warm = |count: &mut dyn FnMut(Vec<Request>) -> (u64, u64)| {
                count(requests(headers, body, 1));
                count(requests(headers, body, REQUESTS))
            };
            let told = format!("{which}, {headers} headers, a body: {body}");
            let (mut hand, mut never) = (by_hand(false), layer.clone().replay(NeverReplay).layer(client()));
            let hand = warm(&mut |requests| count(&mut hand, requests));
            assert_eq!(warm(&mut |requests| count(&mut never, requests)), hand, "NeverReplay: {told}");
            let (mut kept, mut auth) = (by_hand(true), layer.layer(client()));
            let kept = warm(&mut |requests| count(&mut kept, requests));
            assert_eq!(warm(&mut |requests| count(&mut auth, requests)), kept, "CloneBody is try_clone: {told}");
            assert!(kept.0 >= hand.0 + REQUESTS as u64, "a copy is seen: {told}");
        }
    }
}
