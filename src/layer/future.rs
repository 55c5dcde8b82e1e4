//! [`ResponseFuture`]: the life of one request as a named state machine. Nothing is boxed while the token is fresh.

use super::{
    errand::{Errand, POLLED_AFTER_END, State, StateProj, annotated, attach, give_back},
    replay::Replay,
    route::{Auth, Claim, Place, reentrant},
};
use crate::{
    error::{AuthError, BoxError},
    message::{HttpRequest, HttpResponse},
    session::{Prompted, Step, Trail},
};
use pin_project_lite::pin_project;
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tower_service::Service;

pin_project! {
    /// The future of [`AuthService`](super::AuthService).
    ///
    /// Dropped at any point it drops the request that it made and the readiness that it holds; a refresh, or a prompt for a
    /// step-up, that it started or joined goes on.
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
    pub(super) fn start(service: &mut S, auth: &Arc<Auth>, replay: &P, mut request: Req, place: Place) -> Self {
        let Place { session, origin } = place;
        let ask = auth.ask(&request);
        let step = session.step(&ask, Trail::default());
        // Made last: what was written just now is slow to move.
        let errand = |ask| Errand::new(auth, replay.clone(), Claim { ask, session, origin }, S::clone);
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
            Step::Prompt(answer) => {
                give_back(service);
                State::SteppingUp { answer, request: Some(request), service: Some(service.clone()) }
            }
            Step::Refuse(error) => {
                give_back(service);
                State::Denied { error: Some(error) }
            }
        };
        Self { errand: Some(errand(ask)), state }
    }
}

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
                            errand.session().unanswered();
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
                    errand.again(request.take(), service.take())
                }
                StateProj::SteppingUp { answer, request, service } => {
                    let errand = this.errand.as_mut().expect(POLLED_AFTER_END);
                    let answer = match errand.is_within_prompt() {
                        true => Prompted::Answered, // it waits for itself: no other answer comes
                        false => ready!(Pin::new(answer).poll(cx)),
                    };
                    errand.prompted(answer);
                    errand.again(request.take(), service.take())
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

impl<S: Service<Req>, Req, P: Replay<Req>> fmt::Debug for ResponseFuture<S, Req, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
