//! What a request is about, the states that it goes through, and what leads from one to the next.

use super::{
    exchange::{Verdict, judge},
    replay::Replay,
    route::{Auth, Claim, reentrant},
};
use crate::{
    clock::Stamp,
    error::AuthError,
    message::{HttpRequest, HttpResponse, ResponseHead},
    session::{Answer, Landing, Pass, Prompted, Reaction, Session, Step, TokenId, Trail},
};
use http::{
    HeaderMap, HeaderValue,
    header::{AGE, AUTHORIZATION, DATE},
};
use pin_project_lite::pin_project;
use std::{mem, sync::Arc, time::SystemTime};
use tower_service::Service;

/// What stays the same from the first attempt to the last.
pub(super) struct Errand<S, P> {
    auth: Arc<Auth>,
    replay: P,
    /// How the inner service is cloned: `poll` needs no bound for it.
    clone: fn(&S) -> S,
    claim: Claim,
    /// How often it has waited, for a token or for a step-up.
    turns: u8,
    /// The user was asked for a step-up, and has answered.
    prompted: bool,
    /// What the last flight that it waited for ended with.
    failed: Option<AuthError>,
    replayed: bool,
}

/// Requests loop at most this often before they leave.
const TURNS: u8 = 3;

pin_project! {
    #[project = StateProj]
    pub(super) enum State<S, F, Req, K, Res> {
        // The request is with the inner service. Kept for a replay: the request, and a clone of the service.
        Calling { #[pin] future: F, kept: Option<K>, spare: Option<S>, sent: Option<(TokenId, Stamp)> },
        // It waits for a token; the readiness of the inner service is given back (P11).
        Acquiring { landing: Landing, request: Option<Req>, service: Option<S> },
        // It waits for a step-up; the readiness of the inner service is given back too.
        SteppingUp { answer: Answer, request: Option<Req>, service: Option<S> },
        // The inner service is asked for readiness again, then the gate once more. A replay comes with the refused response,
        // until the wait for readiness begins.
        Readying { request: Option<Req>, service: Option<S>, replay: bool, refused: Option<Res> },
        // The token was refused; a refresh is under way, and the request can be sent once more.
        Refreshing { landing: Landing, request: Option<Req>, service: Option<S>, refused: Option<Res> },
        Denied { error: Option<AuthError> },
        Done,
    }
}

impl<S, P> Errand<S, P> {
    #[inline]
    pub(super) fn new(auth: &Arc<Auth>, replay: P, claim: Claim, clone: fn(&S) -> S) -> Self {
        Self { auth: auth.clone(), replay, clone, claim, turns: 0, prompted: false, failed: None, replayed: false }
    }

    /// Chosen at the start, and held to the end, whoever is active by then (P12).
    pub(super) fn session(&self) -> &Session {
        &self.claim.session
    }

    fn step(&self) -> Step {
        let trail = Trail { failed: self.failed.as_ref(), prompted: self.prompted, last: self.turns >= TURNS };
        self.session().step(&self.claim.ask, trail)
    }

    pub(super) fn reissue(&self) -> Result<Pass, AuthError> {
        self.session().reissue(&self.claim.ask)
    }

    fn react(&self, token: TokenId) -> Reaction {
        self.session().refused(token, self.auth.origins.name(self.claim.origin))
    }

    pub(super) fn is_reentrant(&self) -> bool {
        self.session().is_reentrant()
    }

    pub(super) fn is_within_prompt(&self) -> bool {
        self.session().is_within_prompt()
    }

    pub(super) fn why_not(&self, error: AuthError) -> AuthError {
        self.session().why_not(&self.claim.ask, error)
    }

    pub(super) fn landed(&mut self, outcome: Result<(), AuthError>) {
        self.turns = self.turns.saturating_add(1);
        self.failed = outcome.err();
    }

    /// The user has taken their time, and the network may be back.
    pub(super) fn prompted(&mut self, answer: Prompted) {
        self.turns = self.turns.saturating_add(1);
        self.failed = None;
        self.prompted |= answer == Prompted::Answered;
    }
}

/// Drops the ready instance and leaves a clone behind, which holds no permit.
pub(super) fn give_back<S: Clone>(service: &mut S) {
    let clone = service.clone();
    drop(mem::replace(service, clone));
}

pub(super) fn attach<Req: HttpRequest>(request: &mut Req, header: HeaderValue) {
    request.headers_mut().insert(AUTHORIZATION, header);
}

/// The server's clock, unless a cache answered.
fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let date = headers.get(DATE)?;
    match headers.contains_key(AGE) {
        true => None,
        false => httpdate::parse_http_date(date.to_str().ok()?).ok(),
    }
}

/// The client below was sent on to get this response: the request itself was answered, and may have been applied.
fn redirected(request: &impl HttpRequest, response: &impl HttpResponse) -> bool {
    let Some(source) = response.source() else { return false };
    (source.path, response.source_query()) != (request.target().path, request.query())
}

pub(super) fn annotated<Res: HttpResponse>(mut response: Res, error: AuthError) -> Res {
    response.extensions_mut().insert(error);
    response
}

pub(super) const POLLED_AFTER_END: &str = "polled after completion";

pub(super) type Next<S, Req, P> =
    State<S, <S as Service<Req>>::Future, Req, <P as Replay<Req>>::Kept, <S as Service<Req>>::Response>;

impl<S, P> Errand<S, P> {
    /// The request has waited: once more from the top. One that will not leave does not queue for the inner service first.
    pub(super) fn again<Req>(&self, request: Option<Req>, service: Option<S>) -> Next<S, Req, P>
    where
        Req: HttpRequest,
        S: Service<Req>,
        P: Replay<Req>,
    {
        match self.step() {
            Step::Go(_) => State::Readying { request, service, replay: false, refused: None },
            Step::Wait(landing) => State::Acquiring { landing, request, service },
            Step::Prompt(answer) => State::SteppingUp { answer, request, service },
            Step::Refuse(error) => State::Denied { error: Some(error) },
        }
    }

    /// The inner service is ready and the request has waited: once more from the top.
    pub(super) fn send<Req>(&mut self, mut request: Req, mut service: S) -> Next<S, Req, P>
    where
        Req: HttpRequest,
        S: Service<Req>,
        P: Replay<Req>,
    {
        match self.step() {
            Step::Go(pass) => {
                let kept = self.replay.keep(&mut request);
                let spare = kept.is_some().then(|| (self.clone)(&service));
                attach(&mut request, pass.header);
                let sent = Some((pass.token, pass.at));
                State::Calling { future: service.call(request), kept, spare, sent }
            }
            Step::Wait(landing) => {
                let service = Some((self.clone)(&service)); // without the readiness
                State::Acquiring { landing, request: Some(request), service }
            }
            Step::Prompt(answer) => {
                let service = Some((self.clone)(&service));
                State::SteppingUp { answer, request: Some(request), service }
            }
            Step::Refuse(error) => State::Denied { error: Some(error) },
        }
    }

    /// What a response says; `true`: it refuses the token.
    pub(super) fn answered<Res: HttpResponse>(&self, response: &mut Res, left: Stamp) -> bool {
        // The client below has followed a redirect: the token did not go there, and what is said there is not about it.
        let elsewhere = response.source().is_some_and(|source| !self.auth.origins.is(self.claim.origin, &source));
        self.session().answered(if elsewhere { None } else { date(response.headers()) }, left);
        if elsewhere {
            return false;
        }
        match judge(&ResponseHead::of(response), self.auth.rejected.as_deref()) {
            Verdict::Deliver => false,
            Verdict::Annotate(challenge) => {
                response.extensions_mut().insert(challenge);
                false
            }
            Verdict::Rejected => true,
        }
    }

    /// What follows from a response that refuses the token; `Err`: deliver it.
    #[allow(clippy::result_large_err)] // both are the response, on its way
    pub(super) fn refused<Req>(
        &mut self,
        response: S::Response,
        token: TokenId,
        kept: Option<(P::Kept, S)>,
    ) -> Result<Next<S, Req, P>, S::Response>
    where
        Req: HttpRequest,
        S: Service<Req>,
        S::Response: HttpResponse,
        P: Replay<Req>,
    {
        if self.replayed {
            self.session().refused_again(token, self.auth.origins.name(self.claim.origin));
            return Err(response);
        }
        if self.is_reentrant() {
            return Err(annotated(response, reentrant()));
        }
        let again = kept.and_then(|(kept, service)| Some((self.replay.restore(kept)?, service)));
        let again = again.filter(|(request, _)| request.method().is_idempotent() || !redirected(request, &response));
        match (self.react(token), again) {
            (Reaction::Deliver(error), _) => Err(annotated(response, self.why_not(error))),
            // The others want a new token, and this request cannot be sent twice: it does not wait.
            (Reaction::Wait(_) | Reaction::Replay, None) => Err(response),
            (Reaction::Replay, Some((request, service))) => {
                let (request, service, refused) = (Some(request), Some(service), Some(response));
                Ok(State::Readying { request, service, replay: true, refused })
            }
            (Reaction::Wait(landing), Some((request, service))) => Ok(State::Refreshing {
                landing,
                request: Some(request),
                service: Some(service),
                refused: Some(response),
            }),
        }
    }

    /// The one replay, if the gate consents now; `Err`: deliver the refused response.
    #[allow(clippy::result_large_err)] // both are the response, on its way
    pub(super) fn resend<Req>(
        &mut self,
        mut request: Req,
        mut service: S,
        refused: Option<S::Response>,
    ) -> Result<Next<S, Req, P>, S::Response>
    where
        Req: HttpRequest,
        S: Service<Req>,
        S::Response: HttpResponse,
        P: Replay<Req>,
    {
        match self.reissue() {
            Ok(pass) => {
                drop(refused); // before the replay: a buffered body is taken over from it
                self.replayed = true;
                attach(&mut request, pass.header);
                let sent = Some((pass.token, pass.at));
                Ok(State::Calling { future: service.call(request), kept: None, spare: None, sent })
            }
            Err(error) => match refused {
                Some(refused) => Err(annotated(refused, error)),
                None => Ok(State::Denied { error: Some(error) }), // it went while the service was not ready
            },
        }
    }
}
