//! P11: token requests that go through the service of all accounts get a typed error, whoever is active, and nothing hangs.

use crate::{
    kind_of,
    kit::{Api, Req, SEC, clock},
    town::{Realm, Town, named, send},
};
use http::StatusCode;
use std::sync::{Arc, Mutex, OnceLock};
use tower::{ServiceExt, buffer::Buffer, util::BoxCloneSyncService};
use tower_reauth::{
    AccountId, Accounts, AuthError, ErrorKind, MemoryStore, RefreshError, RefreshGrant, Refresher, SkipAuth, Tokens,
};

/// How a refresher asks before it exchanges.
type Asks = fn(&AccountId) -> Req;

/// A refresher that was given the service which waits for it.
#[derive(Clone)]
struct Through {
    realm: Realm,
    asks: Asks,
    endpoint: &'static str,
    service: Arc<OnceLock<Api>>,
    heard: Arc<Mutex<Vec<Option<ErrorKind>>>>,
}

impl Refresher for Through {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        let request = (self.asks)(grant.account());
        match self.service.get().expect("it is set").clone().oneshot(request).await {
            Ok(_) => self.realm.refresh(grant).await,
            Err(error) => {
                self.heard.lock().unwrap().push(AuthError::find(&*error).map(AuthError::kind));
                Err(RefreshError::not_sent(error))
            }
        }
    }

    fn issuer(&self) -> &str {
        self.endpoint
    }
}

fn ask() -> Req {
    crate::kit::post("/exchange", "")
}

const NOT_AN_ENDPOINT: &str = "an issuer";
const ENDPOINT: &str = "https://api.example.com/exchange";

async fn town(asks: Asks, endpoint: &'static str) -> (Town, Through) {
    let realm = Realm::default();
    let through = Through { realm: realm.clone(), asks, endpoint, service: Arc::default(), heard: Arc::default() };
    let town = Town::refreshing(through.clone(), realm, MemoryStore::new(), &["alice", "bob"], |builder| builder).await;
    (town, through)
}

#[tokio::test(start_paused = true)]
async fn p11_a_refresher_through_the_service_of_all_accounts_gets_a_typed_error() {
    let asks: [(&str, Asks); 4] = [
        ("for nobody", |_| ask()),
        ("for its own account", |account| named(ask(), account.clone())),
        ("for the other account", |account| named(ask(), if account.subject() == "alice" { "bob" } else { "alice" })),
        ("for an account that is not open", |_| named(ask(), "zoe")),
    ];
    for (how, asks) in asks {
        for endpoint in [NOT_AN_ENDPOINT, ENDPOINT] {
            for active in [None, Some("alice"), Some("bob")] {
                for buffered in [false, true] {
                    let (town, through) = town(asks, endpoint).await;
                    let api = match buffered {
                        true => BoxCloneSyncService::new(Buffer::new(town.api(), 8)),
                        false => town.api(),
                    };
                    through.service.set(api.clone()).ok().unwrap();
                    if let Some(active) = active {
                        town.activate(active);
                    }
                    let told = format!("{how}, {endpoint}, active: {active:?}, buffered: {buffered}");

                    town.expire();
                    let start = tokio::time::Instant::now();
                    let send = async |subject: &str| kind_of(send(&api, named(crate::kit::get("/"), subject)).await);
                    let both = tokio::join!(send("alice"), send("bob"));
                    let heard = through.heard.lock().unwrap().clone();
                    assert!(start.elapsed() < 10 * SEC, "{told}: it hung");
                    if buffered && endpoint == NOT_AN_ENDPOINT {
                        // The call is made elsewhere: only what waits can be told.
                        assert!(heard.iter().all(Option::is_some), "{told}: {heard:?}");
                        continue;
                    }
                    assert_eq!(both, (Err(ErrorKind::Unavailable), Err(ErrorKind::Unavailable)), "{told}");
                    assert_eq!(heard, [Some(ErrorKind::Reentrant); 2], "{told}");
                    assert_eq!((town.seen.len(), town.realm.exchanges()), (0, vec![0, 0]), "{told}");
                }
            }
        }
    }
}

/// The same after a 401, which starts the exchange; the 401 is delivered with the reason.
#[tokio::test(start_paused = true)]
async fn p11_a_fresh_account_does_not_lend_its_token_to_anothers_exchange() {
    let (town, through) = town(|_| ask(), NOT_AN_ENDPOINT).await;
    through.service.set(town.api()).ok().unwrap();
    town.activate("bob"); // whose token is fresh
    town.issuer("alice").expire_all();
    let response = town.api().oneshot(named(crate::kit::get("/"), "alice")).await.unwrap();
    let why = AuthError::in_response(&response).map(AuthError::kind);
    assert_eq!((response.status(), why), (StatusCode::UNAUTHORIZED, Some(ErrorKind::Unavailable)));
    assert_eq!(*through.heard.lock().unwrap(), [Some(ErrorKind::Reentrant)]);
    assert_eq!(town.seen.all(), ["GET / Bearer a10.0"], "the token request went nowhere, and with nobody's token");
}

/// A request that asks for no token passes, as it does for one account: nobody waits for it.
#[tokio::test(start_paused = true)]
async fn p11_a_token_request_without_a_token_passes() {
    let asks: Asks = |_| {
        let mut request = ask();
        request.extensions_mut().insert(SkipAuth);
        request
    };
    let (town, through) = town(asks, ENDPOINT).await;
    let open = tower::service_fn(async |_: Req| Ok::<_, tower_reauth::BoxError>(http::Response::default()));
    through.service.set(BoxCloneSyncService::new(tower::Layer::layer(&town.layer(), open))).ok().unwrap();
    town.expire();
    assert_eq!(send(&town.api(), named(crate::kit::get("/"), "alice")).await.unwrap(), StatusCode::OK);
    assert_eq!(town.realm.exchanges(), [1, 0]);
}

/// Accounts of another builder are strangers: an exchange may use their service, as one that takes another token for its own
/// does.
#[tokio::test(start_paused = true)]
async fn an_exchange_may_use_the_service_of_others_accounts() {
    let actors = Town::with(MemoryStore::new(), &["actor"], |builder| builder.clock(clock())).await;
    actors.activate("actor");
    let (town, through) = town(|_| ask(), NOT_AN_ENDPOINT).await;
    through.service.set(actors.api()).ok().unwrap();
    town.expire();
    assert_eq!(send(&town.api(), named(crate::kit::get("/"), "alice")).await.unwrap(), StatusCode::OK);
    assert_eq!(actors.seen.all(), ["POST /exchange Bearer a10.0"]);
}

/// A refresher that ends the program, as it thinks, because somebody's session is over.
#[derive(Clone)]
struct Closes {
    realm: Realm,
    accounts: Arc<OnceLock<Accounts>>,
    heard: Arc<Mutex<Vec<Option<ErrorKind>>>>,
}

impl Refresher for Closes {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        let closed = self.accounts.get().expect("it is set").close().await;
        self.heard.lock().unwrap().push(closed.err().map(|error| error.kind()));
        self.realm.refresh(grant).await
    }

    fn issuer(&self) -> &str {
        NOT_AN_ENDPOINT
    }
}

/// Two that did so at once would wait for each other.
#[tokio::test(start_paused = true)]
async fn p11_to_close_all_within_an_exchange_is_a_typed_error() {
    let realm = Realm::default();
    let closes = Closes { realm: realm.clone(), accounts: Arc::default(), heard: Arc::default() };
    let town = Town::refreshing(closes.clone(), realm, MemoryStore::new(), &["alice", "bob"], |builder| builder).await;
    closes.accounts.set(town.accounts.clone()).ok().unwrap();
    town.expire();
    let api = town.api();
    let send = async |subject: &str| kind_of(send(&api, named(crate::kit::get("/"), subject)).await);
    let both = tokio::join!(send("alice"), send("bob"));
    assert_eq!(both, (Ok(StatusCode::OK), Ok(StatusCode::OK)));
    assert_eq!(*closes.heard.lock().unwrap(), [Some(ErrorKind::Reentrant); 2]);
}
