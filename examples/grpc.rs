//! A tonic channel behind the layer: what gRPC needs to be told, and what a caller sees.
//!
//! `cargo run --features hyper-client,tonic --example grpc`

#[path = "support/jobs_grpc.rs"]
mod jobs_grpc;
#[path = "support/server.rs"]
mod server;

use futures_util::future::try_join_all;
use jobs_grpc::JobsClient;
use server::{LocalServer, promise};
use std::time::Duration;
use tonic::{Code, body::Body, transport::Channel};
use tower::ServiceBuilder;
use tower_reauth::{
    AuthError, AuthLayer, BoxError, BufferedBody, Capability, HyperTokens, OAuth2Refresher, OfflinePolicy, Origins,
    Rule, Session, grpc_status, grpc_unauthenticated,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = LocalServer::start(Duration::from_secs(60), Duration::from_millis(100)).await?;
    let origin = format!("http://{}", jobs_grpc::serve(server.user()).await?);

    let refresher = OAuth2Refresher::new(format!("{}/token", server.origin()), "my-app")?.http(HyperTokens::new());
    let gate = OfflinePolicy::new().rule("jobs.complete", Rule::new()).rule("jobs.delete", Rule::new().role("admin"));
    let session = Session::builder(refresher).gate(gate).open("alice").await?;

    let layer = AuthLayer::new(session.clone(), Origins::new([&origin])?)
        // A generated client asks for `/jobs.Jobs/Complete` and leaves the rest to its channel: this is where that goes.
        .default_origin(origin.parse()?)
        // gRPC says "not authenticated" in a response whose HTTP status is 200.
        .rejected_when(grpc_unauthenticated)
        // A body of tonic cannot be cloned, so what is sent of it is kept, up to this size: enough for messages. For long
        // streams, take `NeverReplay`: the token is attached and refreshed, and nothing is kept.
        .replay(BufferedBody::new(64 << 10, Body::new))
        // All methods are POST, so the gate goes by the path.
        .capability(|head| match head.path() {
            "/jobs.Jobs/Complete" => Some(Capability::new("jobs.complete")),
            "/jobs.Jobs/Delete" => Some(Capability::new("jobs.delete")),
            _ => None,
        });
    let channel = Channel::from_shared(origin)?.connect_lazy();
    // Outermost: what the layer says becomes a status, the error that generated clients know.
    let transport = ServiceBuilder::new().map_err(grpc_status).layer(layer).service(channel);
    let jobs = JobsClient::new(transport);

    println!("1. A hundred calls meet a token that has expired.");
    session.sign_in(server.sign_in().with_expires_in(Duration::from_secs(1))).await?;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let calls = (0..100).map(|number| {
        let mut jobs = jobs.clone();
        async move { jobs.complete(format!("job {number}")).await }
    });
    let answers = try_join_all(calls).await?;
    let ok = answers.last().is_some_and(|answer| answer.get_ref() == "alice completed job 99");
    promise("one exchange, and a hundred answers", ok && server.counts().exchanges == 1)?;

    println!("2. The service says UNAUTHENTICATED to a token that should be good for a minute.");
    server.forget_access_tokens();
    let answer = jobs.clone().complete("job 100").await?;
    println!("   {}", answer.get_ref());
    let counts = server.counts();
    promise("refreshed, and sent once more", (counts.exchanges, counts.refused, counts.calls) == (2, 1, 102))?;

    println!("3. Alice wants to delete a job.");
    let status = jobs.clone().delete("job 100").await.err().ok_or("she was let in")?;
    println!("   {:?}: {}", status.code(), status.message());
    let denial = AuthError::find(&status).and_then(AuthError::denial).ok_or("no denial within the status")?;
    println!("   reason: {:?}, what would help: {:?}", denial.reason(), denial.remedy());
    let unsent = server.counts().calls == counts.calls;
    promise("a status of PERMISSION_DENIED, and nothing was sent", status.code() == Code::PermissionDenied && unsent)?;

    println!("4. Her access is withdrawn, and nobody notices until the service does.");
    server.revoke_grant();
    let status = jobs.clone().complete("job 101").await.err().ok_or("a revoked token was taken")?;
    println!("   {:?}: {}; the session: {}", status.code(), status.message(), session.state());
    let own = AuthError::find(&status).is_none();
    promise("the service's own status is delivered", own && status.code() == Code::Unauthenticated)?;
    Ok(session.close().await?)
}
