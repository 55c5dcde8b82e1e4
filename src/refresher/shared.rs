//! [`SharedRefresher`]: any refresher, erased.

use super::{RefreshGrant, Refresher, RevokeGrant, Revoked};
use crate::{failure::RefreshError, token::Tokens};
use std::{fmt, pin::Pin, sync::Arc};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The erased twin of [`Refresher`].
trait DynRefresher: Send + Sync {
    fn refresh(&self, grant: RefreshGrant) -> BoxFuture<'_, Result<Tokens, RefreshError>>;
    fn revoke(&self, grant: RevokeGrant) -> BoxFuture<'_, Result<Revoked, RefreshError>>;
    fn needs_refresh_token(&self) -> bool;
    fn issuer(&self) -> &str;
    fn client_id(&self) -> &str;
}

struct Erased<R>(R);

impl<R: Refresher> DynRefresher for Erased<R> {
    fn refresh(&self, grant: RefreshGrant) -> BoxFuture<'_, Result<Tokens, RefreshError>> {
        Box::pin(self.0.refresh(grant))
    }

    fn revoke(&self, grant: RevokeGrant) -> BoxFuture<'_, Result<Revoked, RefreshError>> {
        Box::pin(self.0.revoke(grant))
    }

    fn needs_refresh_token(&self) -> bool {
        self.0.needs_refresh_token()
    }

    fn issuer(&self) -> &str {
        self.0.issuer()
    }

    fn client_id(&self) -> &str {
        self.0.client_id()
    }
}

/// Any refresher, erased; clones share it. For programs that pick one at run time.
///
/// ```
/// use tower_reauth::{SharedRefresher, Tokens, refresh_fn};
///
/// let refresher = SharedRefresher::new(refresh_fn(async |_| Ok(Tokens::new("fresh"))));
/// # drop(refresher);
/// ```
#[derive(Clone)]
pub struct SharedRefresher(Arc<dyn DynRefresher>);

impl SharedRefresher {
    /// Erases a refresher.
    pub fn new(refresher: impl Refresher) -> Self {
        Self(Arc::new(Erased(refresher)))
    }
}

impl fmt::Debug for SharedRefresher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedRefresher")
    }
}

impl Refresher for SharedRefresher {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        self.0.refresh(grant).await
    }

    async fn revoke(&self, grant: RevokeGrant) -> Result<Revoked, RefreshError> {
        self.0.revoke(grant).await
    }

    fn needs_refresh_token(&self) -> bool {
        self.0.needs_refresh_token()
    }

    fn issuer(&self) -> &str {
        self.0.issuer()
    }

    fn client_id(&self) -> &str {
        self.0.client_id()
    }
}
