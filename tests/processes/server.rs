//! A strict authorization server over real HTTP, in a thread of its own: it rotates, a spent refresh token that comes back
//! revokes its family, and whatever it has received it finishes, whether or not the client still lives.
#![allow(dead_code)] // each target takes what it needs

use crate::chance::Chance;
use axum::{
    Form, Router,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::post,
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::{Mutex as Queue, watch};

#[derive(Clone)]
pub struct Strict {
    pub endpoint: String,
    shared: Arc<Shared>,
}

struct Shared {
    books: Mutex<Books>,
    /// Requests are answered in the order they arrive in.
    queue: Queue<()>,
    hold: watch::Sender<Option<Hold>>,
}

pub struct Books {
    families: HashMap<u64, Family>,
    newest: u64,
    /// In the order they were served in.
    pub exchanges: Vec<Exchange>,
    pub revoked: Vec<String>,
    /// Requests that arrived and are not answered yet.
    pub open: usize,
    chance: Chance,
    /// Before and after the rotation, at most: both are drawn anew for each request.
    pub latency: [Duration; 2],
    pub lifetime: Duration,
    /// A spent token that comes back is refused, and nothing is revoked.
    pub mild: bool,
    /// A spent token that comes back is answered with a new pair, and nothing is revoked.
    pub grace: bool,
}

#[derive(Default)]
struct Family {
    number: u64,
    revoked: bool,
}

#[derive(Clone, Debug)]
pub struct Exchange {
    pub token: String,
    pub worker: String,
    pub outcome: Served,
    pub at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    Rotated,
    /// It was spent already.
    Reused,
    /// Its family was revoked before.
    Refused,
}

/// Where requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Before,
    After,
}

impl Strict {
    pub fn start(seed: u64) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/token", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            books: Mutex::new(Books {
                families: HashMap::new(),
                newest: 0,
                exchanges: Vec::new(),
                revoked: Vec::new(),
                open: 0,
                chance: Chance::new(seed),
                latency: [Duration::ZERO; 2],
                lifetime: Duration::from_secs(600),
                mild: false,
                grace: false,
            }),
            queue: Queue::new(()),
            hold: watch::Sender::new(None),
        });
        let app = Router::new().route("/token", post(token)).route("/token/revocation", post(revoke));
        let app = app.with_state(shared.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, app).await.unwrap();
            });
        });
        Self { endpoint, shared }
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books.lock().unwrap()
    }

    /// A new family, as a person's sign-in makes it: its access token and its refresh token.
    pub fn new_family(&self) -> [String; 2] {
        let mut books = self.books();
        books.newest += 1;
        let family = books.newest;
        books.families.insert(family, Family::default());
        [format!("a{family}.0"), format!("r{family}.0")]
    }

    pub fn hold(&self, hold: Option<Hold>) {
        self.shared.hold.send_replace(hold);
    }

    /// Until so many exchanges have been served since the start, answered or not.
    pub async fn served(&self, count: usize) {
        until(|| self.books().exchanges.len() >= count).await;
    }

    /// Until a request waits.
    pub async fn asked(&self) {
        until(|| self.books().open > 0).await;
    }

    /// Until nothing that it has received is left to do.
    pub async fn idle(&self) {
        until(|| self.books().open == 0).await;
    }
}

pub async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it does not happen");
}

impl Books {
    /// How often a spent token came back.
    pub fn reuses(&self) -> usize {
        self.count(Served::Reused)
    }

    pub fn rotations(&self) -> usize {
        self.count(Served::Rotated)
    }

    fn count(&self, outcome: Served) -> usize {
        self.exchanges.iter().filter(|exchange| exchange.outcome == outcome).count()
    }

    pub fn is_spent(&self, token: &str) -> bool {
        self.exchanges.iter().any(|exchange| exchange.token == token && exchange.outcome == Served::Rotated)
    }

    /// Whoever sent a token, in order.
    pub fn senders(&self, token: &str) -> Vec<&str> {
        self.exchanges.iter().filter(|it| it.token == token).map(|it| &*it.worker).collect()
    }

    fn exchange(&mut self, token: &str, worker: String) -> Option<Value> {
        let [family, number] = parse(token).expect("a refresh token of this server");
        let (lifetime, mild, grace) = (self.lifetime.as_secs_f64(), self.mild, self.grace);
        let entry = self.families.get_mut(&family).expect("a family of this server");
        let outcome = if entry.revoked {
            Served::Refused
        } else if entry.number == number || grace {
            entry.number += 1;
            Served::Rotated
        } else {
            entry.revoked = !mild;
            Served::Reused
        };
        let next = entry.number;
        self.exchanges.push(Exchange { token: token.to_owned(), worker, outcome, at: Instant::now() });
        (outcome == Served::Rotated).then(|| {
            json!({ "access_token": format!("a{family}.{next}"), "refresh_token": format!("r{family}.{next}"),
                "token_type": "Bearer", "expires_in": lifetime })
        })
    }
}

/// Family and number of a token, access or refresh.
pub fn parse(token: &str) -> Option<[u64; 2]> {
    let (family, number) = token.get(1..)?.split_once('.')?;
    Some([family.parse().ok()?, number.parse().ok()?])
}

async fn token(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> (StatusCode, [(HeaderName, &'static str); 1], String) {
    let worker = headers["x-worker"].to_str().unwrap().to_owned();
    let latency = {
        let mut books = shared.books.lock().unwrap();
        books.open += 1;
        let latency = books.latency;
        latency.map(|most| books.chance.duration(most))
    };
    // A task of its own, since this one ends when the client does.
    let serving = tokio::spawn(async move {
        let _mine = shared.queue.lock().await;
        tokio::time::sleep(latency[0]).await;
        wait(&shared, Hold::Before).await;
        let answer = shared.books.lock().unwrap().exchange(&form["refresh_token"], worker);
        wait(&shared, Hold::After).await;
        shared.books.lock().unwrap().open -= 1;
        answer
    });
    let answer = serving.await.unwrap();
    tokio::time::sleep(latency[1]).await;
    let (status, body) = match answer {
        Some(tokens) => (StatusCode::OK, tokens),
        None => (StatusCode::BAD_REQUEST, json!({ "error": "invalid_grant" })),
    };
    (status, [(CONTENT_TYPE, "application/json")], body.to_string())
}

async fn wait(shared: &Shared, at: Hold) {
    shared.hold.subscribe().wait_for(|hold| *hold != Some(at)).await.unwrap();
}

async fn revoke(State(shared): State<Arc<Shared>>, Form(form): Form<HashMap<String, String>>) {
    let mut books = shared.books.lock().unwrap();
    let token = form["token"].clone();
    if let Some(family) = parse(&token).and_then(|[family, _]| books.families.get_mut(&family)) {
        family.revoked = true;
    }
    books.revoked.push(token);
}
