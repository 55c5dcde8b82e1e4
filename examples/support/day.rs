//! What happens to Alice's session in a day: the world around the interface of `watch_states`, in a few seconds.

use crate::server::LocalServer;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tower_reauth::{
    AuthError, BoxError, HyperTokens, LockCause, OAuth2Refresher, OfflinePolicy, Rule, Session, SignOut,
};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) struct Day {
    server: LocalServer,
    online: Arc<AtomicBool>,
    pub(crate) session: Session,
    step: u32,
}

impl Day {
    /// Access tokens live for two seconds, so that the day is short.
    pub(crate) async fn begin() -> Result<Self, BoxError> {
        let server = LocalServer::start(Duration::from_secs(2), Duration::from_millis(50)).await?;
        let policy = OfflinePolicy::new()
            .rule("jobs.read", Rule::new().max_offline(7 * 24 * 60 * MINUTE))
            .rule("jobs.complete", Rule::new().online())
            .rule("invoices.pay", Rule::new().step_up_within(MINUTE));
        let refresher = OAuth2Refresher::new(format!("{}/token", server.origin()), "my-app")?.http(HyperTokens::new());
        let online = Arc::new(AtomicBool::new(true));
        let model = online.clone();
        let session = Session::builder(refresher)
            .gate(policy)
            .connectivity(move || Some(model.load(SeqCst))) // what the platform tells
            .open("alice")
            .await?;
        Ok(Self { server, online, session, step: 0 })
    }

    /// Does the next step, and tells what it was.
    pub(crate) async fn next(&mut self) -> Result<&'static str, BoxError> {
        self.step += 1;
        Ok(match self.step {
            1 => "1. The program starts for the first time.",
            2 => {
                self.sign_in().await?;
                "2. Alice signs in."
            }
            3 => {
                self.session.step_up(MINUTE); // the program asked for her PIN
                self.online.store(false, SeqCst);
                "3. She enters her PIN, and the train a tunnel. Her access token expires there."
            }
            4 => {
                self.online.store(true, SeqCst);
                self.session.reconnected(); // as the program learns of it from the platform
                "4. Light at the end of the tunnel."
            }
            5 => {
                self.session.refresh().await?;
                self.server.revoke_grant();
                if self.session.refresh().await.is_ok() {
                    return Err("a refresh token that was revoked was taken".into());
                }
                "5. An administrator withdraws her access, which the next refresh finds out. The access token still runs."
            }
            6 => "6. It expires.",
            7 => {
                self.sign_in().await?;
                "7. Alice signs in again."
            }
            8 => {
                self.session.sign_out(SignOut::Soft).await?;
                "8. She signs out."
            }
            _ => {
                self.session.lock(LockCause::Application).await?;
                "9. Somebody reports the device as stolen."
            }
        })
    }

    /// By the code or the device flow, in a program.
    async fn sign_in(&self) -> Result<(), AuthError> {
        self.session.sign_in(self.server.sign_in()).await
    }
}
