//! [`grpc_status`]: what goes wrong in this layer, in the words of gRPC.

use crate::error::{AuthError, BoxError, ErrorKind};
use std::sync::Arc;
use tonic::{Code, Status};

/// For `.map_err(grpc_status)` around the layer: the status that an error means. [`AuthError::find`] finds what it was made
/// from.
///
/// | error | code |
/// |---|---|
/// | `SignedOut`, `ReauthRequired` | `UNAUTHENTICATED` |
/// | `Denied`, `Locked` | `PERMISSION_DENIED` |
/// | `Unavailable`, `Aborted`, `Store` if it may work later | `UNAVAILABLE` |
/// | all else of this crate: a mistake in the program or its set-up | `INTERNAL` |
/// | another service's | as tonic reads it |
///
/// A status of the server itself is no error here: one that a refresh could not cure is delivered as the server sent it, and
/// says nothing of this crate.
///
/// ```
/// use tonic::Code;
/// use tower_reauth::{AuthError, ErrorKind, Origins, grpc_status};
///
/// let error = Origins::new(["http://api.example.com"]).unwrap_err();
/// let status = grpc_status(error.into());
/// assert_eq!(status.code(), Code::Internal);
/// assert_eq!(AuthError::find(&status).map(AuthError::kind), Some(ErrorKind::InsecureOrigin));
/// ```
pub fn grpc_status(error: BoxError) -> Status {
    let Some(auth) = AuthError::find(&*error).cloned() else { return Status::from_error(error) };
    let mut status = Status::new(code(&auth), auth.to_string());
    status.set_source(Arc::new(auth));
    status
}

fn code(error: &AuthError) -> Code {
    match error.kind() {
        ErrorKind::SignedOut | ErrorKind::ReauthRequired => Code::Unauthenticated,
        ErrorKind::Denied | ErrorKind::Locked => Code::PermissionDenied,
        _ if error.is_transient() => Code::Unavailable,
        _ => Code::Internal,
    }
}
