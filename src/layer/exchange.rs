//! What a response means to this layer. Pure.

use super::{
    challenge::{self, Challenge, Reading},
    route::RejectedFn,
};
use crate::message::ResponseHead;
use http::StatusCode;

/// What to do with a response.
#[derive(Debug)]
pub(super) enum Verdict {
    Deliver,
    /// Deliver it with what the server asks for beyond a fresh token.
    Annotate(Challenge),
    /// The token was refused.
    Rejected,
}

pub(super) fn judge(head: &ResponseHead<'_>, rejected_when: Option<&RejectedFn>) -> Verdict {
    let status = head.status();
    match status {
        // These are about proxies, connections and replays, never about our token.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::MISDIRECTED_REQUEST | StatusCode::TOO_EARLY => {
            return Verdict::Deliver;
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => match challenge::read(head.headers()) {
            Reading::Ours(challenge) if challenge.wants_more() => return Verdict::Annotate(challenge),
            Reading::Ours(_) | Reading::Absent if status == StatusCode::UNAUTHORIZED => return Verdict::Rejected,
            Reading::Ours(_) | Reading::Absent | Reading::Foreign => {}
        },
        _ => {}
    }
    match rejected_when.is_some_and(|rejected| rejected(head)) {
        true => Verdict::Rejected,
        false => Verdict::Deliver,
    }
}

/// For [`AuthLayer::rejected_when`](crate::AuthLayer::rejected_when): a gRPC response with status `UNAUTHENTICATED` (16)
/// and nothing else, which comes as a 200 without a body.
///
/// A status in real trailers arrives after the body has begun: it is delivered, and never replayed.
pub fn grpc_unauthenticated(head: &ResponseHead<'_>) -> bool {
    head.headers().get("grpc-status").is_some_and(|status| status == "16")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, header::WWW_AUTHENTICATE};

    fn verdict(status: u16, challenges: &[&'static str]) -> &'static str {
        let mut headers = HeaderMap::new();
        for challenge in challenges {
            headers.append(WWW_AUTHENTICATE, challenge.parse().unwrap());
        }
        let always: &RejectedFn = &|head| head.status() == 419 || head.status() == 421;
        match judge(&ResponseHead::new(StatusCode::from_u16(status).unwrap(), &headers), Some(always)) {
            Verdict::Deliver => "deliver",
            Verdict::Annotate(_) => "annotate",
            Verdict::Rejected => "rejected",
        }
    }

    #[test]
    fn only_an_authentication_failure_of_ours_is_rejected() {
        assert_eq!(verdict(200, &[]), "deliver");
        assert_eq!(verdict(401, &[]), "rejected");
        assert_eq!(verdict(401, &["Bearer"]), "rejected");
        assert_eq!(verdict(401, &["Basic realm=\"x\""]), "deliver");
        assert_eq!(verdict(401, &["Basic realm=\"x\"", "bearer error=\"invalid_token\""]), "rejected");
        assert_eq!(verdict(403, &["Bearer error=\"invalid_token\""]), "deliver");
        assert_eq!(verdict(407, &["Bearer"]), "deliver");
        assert_eq!(verdict(419, &[]), "rejected");
        assert_eq!(verdict(421, &["Bearer"]), "deliver");
        assert_eq!(verdict(425, &["Bearer"]), "deliver");
    }

    #[test]
    fn case_27_what_a_fresh_token_cannot_cure_is_annotated() {
        assert_eq!(verdict(401, &["Bearer error=\"insufficient_user_authentication\", max_age=\"5\""]), "annotate");
        assert_eq!(verdict(401, &["Bearer error=\"insufficient_scope\""]), "annotate");
        assert_eq!(verdict(403, &["Bearer error=\"insufficient_scope\", scope=\"a b\""]), "annotate");
        assert_eq!(verdict(401, &["Bearer error=\"invalid_request\""]), "annotate");
    }
}
