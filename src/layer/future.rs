//! [`ResponseFuture`]: the life of one request as a named state machine. Nothing is boxed while the token is fresh.

use super::{
    exchange::{Verdict, judge},
    replay::Replay,
    route::{Auth, Claim},
};
use crate::{
    error::{AuthError, BoxError, ErrorKind},
    message::{HttpRequest, HttpResponse, ResponseHead},
    session::{Landing, Pass, Reaction, Step, TokenId},
};
use http::{
    HeaderMap, HeaderValue,
    header::{AGE, AUTHORIZATION, DATE},
};
use pin_project_lite::pin_project;
use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};
use tower_service::Service;

pin_project! {
    /// The future of [`AuthService`](super::AuthService).
    ///
    /// Dropped at any point it drops the request that it made and the readiness that it holds; a refresh that it started
    /// or joined goes on.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, P>
    where
        S: Service<Req>,
        P: Replay<Req>,
    {
        // What the request is about; `None` for one that gets no token.
        errand: Option<Errand<S, P>>,
        #[pin]
        state: State<S, S::Future, Req, P::Kept, S::Response>,
    }
}

/// What stays the same from the first attempt to the last.
struct Errand<S, P> {
    auth: Arc<Auth>,
    replay: P,
    /// How the inner service is cloned: `poll` needs no bound for it.
    clone: fn(&S) -> S,
    claim: Claim,
    /// How often it has waited for a token.
    turns: u8,
    /// What the last flight that it waited for ended with.
    failed: Option<AuthError>,
    replayed: bool,
}

/// Requests loop at most this often before they leave.
const TURNS: u8 = 3;

pin_project! {
    #[project = StateProj]
    enum State<S, F, Req, K, Res> {
        // The request is with the inner service. Kept for a replay: the request, and a clone of the service.
        Calling { #[pin] future: F, kept: Option<K>, spare: Option<S>, sent: Option<(TokenId, crate::clock::Stamp)> },
        // It waits for a token; the readiness of the inner service is given back (P11).
        Acquiring { landing: Landing, request: Option<Req>, service: Option<S> },
        // The inner service is asked for readiness again, then the gate once more. A replay comes with the refused response,
        // until the wait for readiness begins.
        Readying { request: Option<Req>, service: Option<S>, replay: bool, refused: Option<Res> },
        // The token was refused; a refresh is under way, and the request can be sent once more.
        Refreshing { landing: Landing, request: Option<Req>, service: Option<S>, refused: Option<Res> },
        Denied { error: Option<AuthError> },
        Done,
    }
}

impl<S, Req, P> ResponseFuture<S, Req, P>
where
    S: Service<Req>,
    P: Replay<Req>,
{
    pub(super) fn untouched(future: S::Future) -> Self {
        Self { errand: None, state: State::Calling { future, kept: None, spare: None, sent: None } }
    }

    pub(super) fn failed(error: AuthError) -> Self {
        Self { errand: None, state: State::Denied { error: Some(error) } }
    }
}

impl<S, Req, P> ResponseFuture<S, Req, P>
where
    Req: HttpRequest,
    S: Service<Req> + Clone,
    P: Replay<Req> + Clone,
{
    /// A request that gets a token. The inner service is ready.
    pub(super) fn start(service: &mut S, auth: &Arc<Auth>, replay: &P, mut request: Req, origin: usize) -> Self {
        let ask = auth.ask(&request);
        let step = auth.session.step(&ask, None, false);
        // Made last: what was written just now is slow to move.
        let errand = |ask| Errand {
            auth: auth.clone(),
            replay: replay.clone(),
            clone: S::clone,
            claim: Claim { ask, origin },
            turns: 0,
            failed: None,
            replayed: false,
        };
        let state = match step {
            Step::Go(pass) => {
                // The ready instance is called; a clone is made only for a request that can be replayed.
                let kept = replay.keep(&mut request);
                let spare = kept.is_some().then(|| service.clone());
                attach(&mut request, pass.header);
                let sent = Some((pass.token, pass.at));
                let state = State::Calling { future: service.call(request), kept, spare, sent };
                return Self { errand: Some(errand(ask)), state }; // at once: moves are most of what this layer costs
            }
            Step::Wait(landing) => {
                give_back(service);
                State::Acquiring { landing, request: Some(request), service: Some(service.clone()) }
            }
            Step::Refuse(error) => {
                give_back(service);
                State::Denied { error: Some(error) }
            }
        };
        Self { errand: Some(errand(ask)), state }
    }
}

impl<S, P> Errand<S, P> {
    fn step(&self) -> Step {
        self.auth.session.step(&self.claim.ask, self.failed.as_ref(), self.turns >= TURNS)
    }

    fn reissue(&self) -> Result<Pass, AuthError> {
        self.auth.session.reissue(&self.claim.ask)
    }

    fn react(&self, token: TokenId) -> Reaction {
        self.auth.session.refused(token, self.auth.origins.name(self.claim.origin))
    }

    fn is_reentrant(&self) -> bool {
        self.auth.session.is_reentrant()
    }

    fn why_not(&self, error: AuthError) -> AuthError {
        self.auth.session.why_not(&self.claim.ask, error)
    }

    fn landed(&mut self, outcome: Result<(), AuthError>) {
        self.turns = self.turns.saturating_add(1);
        self.failed = outcome.err();
    }
}

fn reentrant() -> AuthError {
    AuthError::new(ErrorKind::Reentrant, "a token request went through the layer that waits for it")
}

/// Drops the ready instance and leaves a clone behind, which holds no permit.
pub(super) fn give_back<S: Clone>(service: &mut S) {
    let clone = service.clone();
    drop(mem::replace(service, clone));
}

fn attach<Req: HttpRequest>(request: &mut Req, header: HeaderValue) {
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

fn annotated<Res: HttpResponse>(mut response: Res, error: AuthError) -> Res {
    response.extensions_mut().insert(error);
    response
}

const POLLED_AFTER_END: &str = "polled after completion";

impl<S, Req, P> Future for ResponseFuture<S, Req, P>
where
    Req: HttpRequest,
    S: Service<Req>,
    S::Response: HttpResponse,
    S::Error: Into<BoxError>,
    P: Replay<Req>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Calling { future, kept, spare, sent } => {
                    let mut answer = ready!(future.poll(cx));
                    let refused = match (this.errand.as_mut(), *sent, &mut answer) {
                        (Some(errand), Some((token, left)), Ok(response)) => {
                            errand.answered(response, left).then_some((errand, token))
                        }
                        (Some(errand), Some(_), Err(_)) => {
                            errand.auth.session.unanswered();
                            None
                        }
                        _ => None,
                    };
                    // What was kept is large: it stays where it is unless it is wanted.
                    let kept = refused.as_ref().and_then(|_| kept.take().zip(spare.take()));
                    this.state.set(State::Done); // the inner future, and any permit it holds, is gone
                    match (refused, answer) {
                        (Some((errand, token)), Ok(response)) => match errand.refused(response, token, kept) {
                            Ok(next) => next,
                            Err(response) => return Poll::Ready(Ok(response)),
                        },
                        (_, answer) => return Poll::Ready(answer.map_err(Into::into)),
                    }
                }
                StateProj::Acquiring { landing, request, service } => {
                    let errand = this.errand.as_mut().expect(POLLED_AFTER_END);
                    // Through a `Buffer` the call is made elsewhere, but this is polled where the caller is.
                    let outcome = match errand.is_reentrant() {
                        true => Err(reentrant()),
                        false => ready!(Pin::new(landing).poll(cx)),
                    };
                    errand.landed(outcome);
                    // A request that will not leave does not queue for the inner service first.
                    match errand.step() {
                        Step::Go(_) => State::Readying {
                            request: request.take(),
                            service: service.take(),
                            replay: false,
                            refused: None,
                        },
                        Step::Wait(landing) => {
                            State::Acquiring { landing, request: request.take(), service: service.take() }
                        }
                        Step::Refuse(error) => State::Denied { error: Some(error) },
                    }
                }
                StateProj::Readying { request, service, replay, refused } => {
                    let errand = this.errand.as_mut().expect(POLLED_AFTER_END);
                    match service.as_mut().expect(POLLED_AFTER_END).poll_ready(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error.into()));
                        }
                        Poll::Pending => {
                            // The refused response may hold what is waited for, a connection say: it goes before the
                            // wait, and the gate is asked before it goes.
                            let Some(response) = refused.take() else { return Poll::Pending };
                            match errand.reissue() {
                                Ok(_) => {
                                    drop(response);
                                    continue;
                                }
                                Err(error) => {
                                    this.state.set(State::Done);
                                    return Poll::Ready(Ok(annotated(response, error)));
                                }
                            }
                        }
                    }
                    let request = request.take().expect(POLLED_AFTER_END);
                    let service = service.take().expect(POLLED_AFTER_END);
                    match *replay {
                        false => errand.send(request, service),
                        true => match errand.resend(request, service, refused.take()) {
                            Ok(next) => next,
                            Err(response) => {
                                this.state.set(State::Done);
                                return Poll::Ready(Ok(response));
                            }
                        },
                    }
                }
                StateProj::Refreshing { landing, request, service, refused } => {
                    let errand = this.errand.as_ref().expect(POLLED_AFTER_END);
                    let outcome = match errand.is_reentrant() {
                        true => Err(reentrant()),
                        false => ready!(Pin::new(landing).poll(cx)),
                    };
                    if let Err(error) = outcome {
                        let response = annotated(refused.take().expect(POLLED_AFTER_END), errand.why_not(error));
                        this.state.set(State::Done);
                        return Poll::Ready(Ok(response));
                    }
                    State::Readying {
                        request: request.take(),
                        service: service.take(),
                        replay: true,
                        refused: refused.take(),
                    }
                }
                StateProj::Denied { error } => {
                    let error = error.take().expect(POLLED_AFTER_END);
                    this.state.set(State::Done);
                    return Poll::Ready(Err(error.into()));
                }
                StateProj::Done => panic!("{POLLED_AFTER_END}"),
            };
            this.state.set(next);
        }
    }
}

type Next<S, Req, P> =
    State<S, <S as Service<Req>>::Future, Req, <P as Replay<Req>>::Kept, <S as Service<Req>>::Response>;

impl<S, P> Errand<S, P> {
    /// The inner service is ready and the request has waited: once more from the top.
    fn send<Req>(&mut self, mut request: Req, mut service: S) -> Next<S, Req, P>
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
            Step::Refuse(error) => State::Denied { error: Some(error) },
        }
    }

    /// What a response says; `true`: it refuses the token.
    fn answered<Res: HttpResponse>(&self, response: &mut Res, left: crate::clock::Stamp) -> bool {
        self.auth.session.answered(date(response.headers()), left);
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
    fn refused<Req>(
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
            self.auth.session.refused_again(token, self.auth.origins.name(self.claim.origin));
            return Err(response);
        }
        if self.is_reentrant() {
            return Err(annotated(response, reentrant()));
        }
        let again = kept.and_then(|(kept, service)| Some((self.replay.restore(kept)?, service)));
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
    fn resend<Req>(
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

impl<S: Service<Req>, Req, P: Replay<Req>> fmt::Debug for ResponseFuture<S, Req, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
