//! A strict server, and an API behind the layer, which tell the model what they see.

use super::model::{Family, Known, Model, Set};
use crate::kit::{Req, Res};
use http::{Response, StatusCode};
use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::Semaphore;
use tower::Service;
use tower_reauth::{FailureKind, RefreshError, RefreshGrant, Refresher, Tokens};

/// So long is a token good for.
pub const LIFETIME: u64 = 3600;

/// What the server does next, other than to answer well.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    Down,
    /// It rotates, and the answer is lost.
    Lost,
    Revoked,
    Disabled,
    /// With the scope `notes` only; with `jobs notes admin`.
    Narrow,
    Wide,
}

#[derive(Clone)]
pub struct Server {
    pub model: Arc<Mutex<Model>>,
    pub script: Arc<Mutex<Option<Script>>>,
    /// While it is closed, exchanges wait before they answer.
    pub open: Arc<Semaphore>,
    /// The newest refresh token of each family, by what the server knows.
    rotated: Arc<Mutex<std::collections::BTreeMap<u64, u64>>>,
    /// How many requests have left, by capability.
    pub left: Arc<Mutex<std::collections::BTreeMap<String, u64>>>,
}

pub fn scope(names: &str) -> BTreeSet<String> {
    names.split_ascii_whitespace().map(str::to_owned).collect()
}

impl Server {
    pub fn new() -> Self {
        Self {
            model: Arc::default(),
            script: Arc::default(),
            open: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            rotated: Arc::default(),
            left: Arc::default(),
        }
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    fn tokens(&self, family: u64, generation: u64) -> Tokens {
        self.rotated.lock().unwrap().insert(family, generation);
        Tokens::new(format!("a{family}.{generation}"))
            .with_refresh_token(format!("r{family}.{generation}"))
            .with_expires_in(Duration::from_secs(LIFETIME))
            .with_date(self.model().time())
    }

    /// Somebody is about to sign in.
    pub fn sign_in(&self, known: Known) -> (u64, Tokens) {
        let names = known.token_scope.as_ref().map(|names| names.iter().cloned().collect::<Vec<_>>().join(" "));
        let family = {
            let mut model = self.model();
            let (number, now) = (model.families.len() as u64 + 1, model.now);
            let set = Set { at: now, ends: now + LIFETIME, refused: false, known: vec![known] };
            let family = Family { auth: now, sets: [(0, set)].into(), ..Family::default() };
            model.families.insert(number, family);
            model.arriving = Some(number);
            model.may_be_healed = model.doubt;
            model.told += 1;
            number
        };
        let tokens = self.tokens(family, 0);
        (
            family,
            match names {
                Some(names) => tokens.with_scope(names),
                None => tokens,
            },
        )
    }

    fn renew(&self, family: u64, generation: u64, asked: u64, names: Option<&str>) -> Tokens {
        {
            let mut model = self.model();
            model.may_be_healed = model.doubt;
            model.answered = model.now;
            model.told += 1;
            let now = model.now;
            let sets = &mut model.families.get_mut(&family).unwrap().sets;
            let names = names.map(scope);
            // The one that the session had, which need not be the last that there was.
            let before = sets.values().next_back().unwrap();
            let known = before.known.iter().map(|known| known.renewed(names.as_ref(), now)).collect();
            sets.insert(generation, Set { at: now, ends: asked + LIFETIME, refused: false, known });
        }
        let tokens = self.tokens(family, generation);
        match names {
            Some(names) => tokens.with_scope(names),
            None => tokens,
        }
    }

    fn refuse(&self, family: u64, kind: FailureKind) -> RefreshError {
        let mut model = self.model();
        model.answered = model.now;
        match kind {
            FailureKind::AccountDisabled => model.locking |= model.current == Some(family),
            _ => model.families.get_mut(&family).unwrap().may_be_rejected = true,
        }
        RefreshError::new(kind).status(StatusCode::BAD_REQUEST)
    }

    /// What stands behind the layer.
    pub fn api(
        &self,
    ) -> impl Service<Req, Response = Res, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static {
        let server = self.clone();
        tower::service_fn(move |request: Req| {
            let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            let (capability, token) = (header("x-capability").unwrap(), header("authorization").unwrap());
            let (family, generation) = token.strip_prefix("Bearer a").unwrap().split_once('.').unwrap();
            let token = (family.parse().unwrap(), generation.parse().unwrap());
            let mut model = server.model();
            model.left(&capability, token);
            model.answered = model.now;
            let now = model.now;
            let set = model.families.get_mut(&token.0).and_then(|family| family.sets.get_mut(&token.1)).unwrap();
            let taken = now < set.ends && header("x-refuse").is_none() && !set.refused;
            set.refused |= !taken;
            drop(model);
            *server.left.lock().unwrap().entry(capability).or_default() += 1;
            let delay = header("x-delay").map_or(0, |delay| delay.parse().unwrap());
            async move {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                let status = if taken { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
                Ok(Response::builder().status(status).body(Res::default().into_body()).unwrap())
            }
        })
    }
}

impl Refresher for Server {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        let token = grant.refresh_token().unwrap().expose().to_owned();
        let (family, used) = token.strip_prefix('r').unwrap().split_once('.').unwrap();
        let (family, used) = (family.parse::<u64>().unwrap(), used.parse::<u64>().unwrap());
        let asked = self.model().now;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _open = self.open.acquire().await;
        let script = self.script.lock().unwrap().take();
        let is_newest = self.rotated.lock().unwrap()[&family] == used;
        match script {
            Some(Script::Down) => Err(RefreshError::transient("no network")),
            Some(Script::Disabled) => Err(self.refuse(family, FailureKind::AccountDisabled)),
            Some(Script::Revoked) => Err(self.refuse(family, FailureKind::InvalidGrant)),
            _ if !is_newest => Err(self.refuse(family, FailureKind::InvalidGrant)),
            Some(Script::Lost) => {
                self.rotated.lock().unwrap().insert(family, used + 1);
                Err(RefreshError::transient("the connection died"))
            }
            Some(Script::Narrow) => Ok(self.renew(family, used + 1, asked, Some("notes"))),
            Some(Script::Wide) => Ok(self.renew(family, used + 1, asked, Some("jobs notes admin"))),
            None => Ok(self.renew(family, used + 1, asked, None)),
        }
    }

    fn issuer(&self) -> &str {
        "https://id.example.com/token"
    }

    fn client_id(&self) -> &str {
        "app"
    }
}
