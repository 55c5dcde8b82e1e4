//! Where a request goes, and as whom: the first half of its life, which needs no token.

use crate::{
    account::AccountId,
    denial::Capability,
    error::{AuthError, ErrorKind},
    message::{HttpRequest, RequestHead, ResponseHead},
    offline::Permit,
    origin::{Match, Origins},
    session::{Accounts, Ask, Session},
};
use http::{Extensions, Uri, header::AUTHORIZATION, uri::Authority};
use std::sync::Arc;

/// Request extension: send this one without a token, and without asking the gate. For sign-in calls and public paths.
#[derive(Clone, Copy, Debug)]
pub struct SkipAuth;

/// Request extension: send a spent token rather than fail, if the gate consents.
#[derive(Clone, Copy, Debug)]
pub struct ForwardStale;

pub(super) type CapabilityFn = dyn Fn(&RequestHead<'_>) -> Option<Capability> + Send + Sync;
pub(super) type RejectedFn = dyn Fn(&ResponseHead<'_>) -> bool + Send + Sync;

/// Whose tokens they are.
#[derive(Clone, Debug)]
pub(super) enum Holder {
    One(Session),
    Many(Accounts),
}

/// What all services of a layer share.
#[derive(Clone)]
pub(super) struct Auth {
    pub(super) holder: Holder,
    pub(super) origins: Origins,
    pub(super) account: Option<AccountId>,
    pub(super) default_origin: Option<Uri>,
    pub(super) capability: Option<Arc<CapabilityFn>>,
    pub(super) rejected: Option<Arc<RejectedFn>>,
    pub(super) forward_stale: bool,
}

/// Where a request goes.
pub(super) enum Route {
    /// Without a token.
    Untouched,
    /// With a token.
    Authenticated(Place),
}

/// With a token of this session, to the origin with this index.
pub(super) struct Place {
    pub(super) session: Session,
    pub(super) origin: usize,
}

/// What a request claims.
pub(super) struct Claim {
    pub(super) ask: Ask,
    pub(super) session: Session,
    pub(super) origin: usize,
}

impl Auth {
    /// The first half of a request's life: everything that needs no token.
    pub(super) fn route<Req: HttpRequest>(&self, request: &Req) -> Result<Route, AuthError> {
        let extensions = extensions(request);
        let mut target = request.target();
        let found = self.origins.find(&target);
        match found {
            Match::Foreign => return Ok(Route::Untouched),
            Match::Insecure => return Err(insecure()),
            Match::Allowed(_) | Match::Relative => {}
        }
        let skip = extensions.is_some_and(|extensions| extensions.get::<SkipAuth>().is_some());
        if skip || request.headers().contains_key(AUTHORIZATION) {
            return Ok(Route::Untouched);
        }
        let origin = match (found, &self.default_origin) {
            (Match::Allowed(origin), _) => origin,
            (_, Some(uri)) => match self.origins.find_uri(uri) {
                Match::Allowed(origin) => {
                    target.scheme = uri.scheme_str();
                    target.authority = uri.authority().map(Authority::as_str);
                    origin
                }
                Match::Insecure => return Err(insecure()),
                Match::Foreign | Match::Relative => {
                    return Err(AuthError::misconfigured("`default_origin` is not one of the allowed origins"));
                }
            },
            (_, None) => {
                let why = "a request without scheme and host needs `AuthLayer::default_origin`";
                return Err(AuthError::misconfigured(why));
            }
        };
        let token_request = match &self.holder {
            Holder::One(session) => session.is_token_request(&target),
            Holder::Many(accounts) => accounts.is_token_request(&target),
        };
        if token_request {
            return Err(reentrant());
        }
        let session = self.session(extensions)?;
        Ok(Route::Authenticated(Place { session, origin }))
    }

    /// Whose token a request gets. Whatever names an account has to name the same one.
    fn session(&self, extensions: Option<&Extensions>) -> Result<Session, AuthError> {
        let permitted = extensions.and_then(|extensions| extensions.get()).map(Permit::account);
        let named = extensions.and_then(|extensions| extensions.get::<AccountId>());
        let all = self.account.as_ref();
        let session = match (&self.holder, permitted.or(named).or(all)) {
            (Holder::One(session), _) => session.clone(),
            (Holder::Many(accounts), Some(account)) => accounts.get(account).ok_or_else(|| {
                AuthError::misconfigured("the request names an account that is not open: see `Accounts::open`")
            })?,
            (Holder::Many(accounts), None) => accounts.active().ok_or_else(|| {
                let why = "the request names no account, and none is active: see `Accounts::set_active`";
                AuthError::new(ErrorKind::SignedOut, why)
            })?,
        };
        let agrees = |account: Option<&AccountId>| account.is_none_or(|account| account == session.account());
        match agrees(permitted) && agrees(named) && agrees(all) {
            true => Ok(session),
            false => Err(AuthError::misconfigured("the request names another account than the session's")),
        }
    }

    /// What a request that gets a token wants to do, and what it puts up with.
    pub(super) fn ask<Req: HttpRequest>(&self, request: &Req) -> Ask {
        let extensions = extensions(request);
        let stale = extensions.is_some_and(|extensions| extensions.get::<ForwardStale>().is_some());
        let capability = extensions
            .and_then(|extensions| extensions.get().map(Permit::capability))
            .or_else(|| extensions.and_then(|extensions| extensions.get()))
            .cloned()
            .or_else(|| self.capability.as_ref().and_then(|f| f(&RequestHead::of(request))))
            .unwrap_or(if request.method().is_safe() { Capability::READ } else { Capability::WRITE });
        Ask { capability, forward_stale: stale || self.forward_stale }
    }
}

/// Most requests have none, and then nothing is looked for.
fn extensions(request: &impl HttpRequest) -> Option<&Extensions> {
    request.extensions().filter(|extensions| !extensions.is_empty())
}

pub(super) fn reentrant() -> AuthError {
    let why = "a token request went through the layer that waits for it: give the refresher a client of its own";
    AuthError::new(ErrorKind::Reentrant, why)
}

fn insecure() -> AuthError {
    AuthError::new(ErrorKind::InsecureOrigin, "a token never leaves over plain http, but to a literal loopback address")
}
