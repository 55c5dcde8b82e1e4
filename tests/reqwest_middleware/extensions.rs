//! What is said beside a request, and who sees it.

use super::*;
use tower_reauth::{AccountId, ForwardStale, RefreshError};

/// Left by the middleware above the layer, and by the one below.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Above(u32);
#[derive(Clone, Copy, Debug, PartialEq)]
struct Below(u32);

/// What the two saw of each other.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn write(&self, note: String) {
        self.0.lock().unwrap().push(note);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Upper(Notes);
struct Lower(Notes);

#[async_trait::async_trait]
impl Middleware for Upper {
    async fn handle(&self, request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        extensions.insert(Above(1));
        let response = next.run(request, extensions).await;
        self.0.write(format!("above: {:?}", extensions.get::<Below>()));
        response
    }
}

#[async_trait::async_trait]
impl Middleware for Lower {
    async fn handle(&self, request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        let account = extensions.get::<AccountId>().map(|account| account.subject().to_owned());
        self.0.write(format!("below: {:?} {account:?}", extensions.get::<Above>()));
        let count = extensions.get::<Below>().map_or(1, |Below(count)| count + 1);
        extensions.insert(Below(count));
        next.run(request, extensions).await
    }
}

#[tokio::test]
async fn the_middlewares_around_it_see_each_others_in_both_directions() {
    let net = Net::new().await;
    let notes = Notes::default();
    let api = ClientBuilder::new(client())
        .with(Upper(notes.clone()))
        .with(AuthMiddleware::from(net.layer()))
        .with(Lower(notes.clone()))
        .build();
    let below = "below: Some(Above(1)) Some(\"alice\")";
    let get = || api.get(net.api.uri("/echo")).with_extension(AccountId::new("alice"));
    get().send().await.unwrap();
    assert_eq!(notes.take(), [below, "above: Some(Below(1))"]);

    // A refusal and its replay are one request to those above, and two to those below.
    net.issuer.expire_all();
    let mut extensions = Extensions::new();
    extensions.insert(AccountId::new("alice"));
    api.execute_with_extensions(net.get("/echo"), &mut extensions).await.unwrap();
    assert_eq!(notes.take(), [below, below, "above: Some(Below(2))"]);
    assert_eq!(extensions.get::<Below>(), Some(&Below(2)), "and the caller has all of them");
    assert_eq!(extensions.get::<AccountId>(), Some(&AccountId::new("alice")));

    // One that no token is attached to is not taken apart either.
    api.get(net.api.uri("/echo")).with_extension(SkipAuth).send().await.unwrap();
    assert_eq!(notes.take(), ["below: Some(Above(1)) None", "above: Some(Below(1))"]);
}

/// Gives up on a chain, and calls it once more with the same extensions.
struct Impatient(Arc<tokio::sync::Notify>);

#[async_trait::async_trait]
impl Middleware for Impatient {
    async fn handle(&self, request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        let again = request.try_clone().unwrap();
        tokio::select! {
            response = next.clone().run(request, extensions) => return response,
            () = self.0.notified() => {}
        }
        next.run(again, extensions).await
    }
}

/// P12: whoever drops the chain in the middle has the extensions as they were, and the request its account.
#[tokio::test]
async fn p12_a_chain_that_is_dropped_and_called_again_is_still_of_the_same_account() {
    let issuer = kit::Issuer::new();
    let server = Loopback::api(&issuer).await;
    let accounts = net::two_accounts(&issuer, &server).await;
    accounts.set_active(&"alice".into()).unwrap();
    let (over, notes) = (Arc::new(tokio::sync::Notify::new()), Notes::default());
    let layer = AuthLayer::for_accounts(accounts, Origins::new([server.origin()]).unwrap());
    let api = ClientBuilder::new(client())
        .with(Impatient(over.clone()))
        .with(AuthMiddleware::from(layer))
        .with(Lower(notes.clone()))
        .build();
    let sent = api.get(server.uri("/held")).with_extension(AccountId::new("bob")).send();
    let sent = tokio::spawn(sent);
    server.arrived().await;
    over.notify_one();
    server.arrived().await;
    server.release();
    server.release();
    assert_eq!(sent.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(server.lines(), ["GET /held Bearer of bob ", "GET /held Bearer of bob "]);
    assert_eq!(notes.take(), ["below: None Some(\"bob\")", "below: None Some(\"bob\")"]);

    let active = api.get(server.uri("/echo")).send().await.unwrap();
    assert_eq!((active.status(), server.lines()), (StatusCode::OK, vec!["GET /echo Bearer of alice ".to_owned()]));
    let unknown = api.get(server.uri("/echo")).with_extension(AccountId::new("carol")).send().await.unwrap_err();
    assert_eq!(kind(&unknown), Some(ErrorKind::Misconfigured));
}

#[tokio::test]
async fn p14_a_request_says_what_it_wants_to_do() {
    let policy = OfflinePolicy::new()
        .rule(Capability::READ, Rule::new().token_fresh())
        .rule("jobs.list", Rule::new().token_fresh())
        .rule("jobs.complete", Rule::new().role("foreman"));
    let net = Net::with(|builder| builder.gate(policy)).await;
    let layer = net.layer().capability(|head| {
        // What stands beside the request is seen here as well.
        head.extensions()?.get::<Above>().map(|_| Capability::new("jobs.complete"))
    });
    let api = chain(layer);
    let post = || api.post(net.api.uri("/echo"));
    let denied = |error: Error| {
        let denial = AuthError::find(&error).and_then(AuthError::denial).cloned().unwrap();
        (denial.capability().as_str().to_owned(), denial.reason())
    };
    let complete = ("jobs.complete".to_owned(), DenyReason::MissingGrant);
    assert_eq!(denied(post().with_extension(Capability::new("jobs.complete")).send().await.unwrap_err()), complete);
    assert_eq!(denied(post().with_extension(Above(1)).send().await.unwrap_err()), complete);
    assert_eq!(denied(post().send().await.unwrap_err()), ("write".to_owned(), DenyReason::UnknownCapability));
    assert_eq!(net.lines().len(), 0, "nothing reached the server");

    assert!(post().with_extension(Capability::new("jobs.list")).send().await.unwrap().status().is_success());
    let permit = net.session.authorize("jobs.list").unwrap();
    // A permit outranks what else is said, and is asked for again.
    let both = post().with_extension(permit.clone()).with_extension(Capability::new("jobs.complete"));
    assert!(both.send().await.unwrap().status().is_success());
    net.session.sign_out(SignOut::Soft).await.unwrap();
    let late = post().with_extension(permit).send().await.unwrap_err();
    assert_eq!(kind(&late), Some(ErrorKind::SignedOut));
}

#[tokio::test]
async fn a_request_that_wants_no_token_and_one_that_takes_a_spent_one() {
    let net = Net::new().await;
    let api = chain(net.layer());
    let get = || api.get(net.api.uri("/echo"));
    assert_eq!(get().with_extension(SkipAuth).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(net.lines(), ["GET /echo - "]);

    net.clock.advance(101 * SEC);
    net.issuer.fail(|| RefreshError::transient("down"));
    assert_eq!(kind(&get().send().await.unwrap_err()), Some(ErrorKind::Unavailable));
    assert_eq!(net.lines().len(), 0);
    assert_eq!(get().with_extension(ForwardStale).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!((net.lines(), net.issuer.exchanges()), (vec!["GET /echo Bearer a1.0 ".to_owned()], 1));
}
