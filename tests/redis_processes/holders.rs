//! Whoever holds the lease is stopped or killed, for longer than it lasts. Terms are waited out, not simulated.

use crate::{
    PATIENCE, Scene, TERM,
    driver::{Worker, text},
    kills::Authority as _,
    on_this_thread,
    scene::ACTIVE,
    server::until,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tower_reauth::{ErrorKind, SignOut};

/// On top of what is promised: polls, and a machine that is busy.
const SLACK: Duration = Duration::from_secs(4);

/// Another process wants a new token: what it says, and that it came when the term of the holder was over.
async fn after_the_term(scene: &Scene, other: &mut Worker) -> Value {
    let start = Instant::now();
    let said = other.ask("refresh").await;
    let took = start.elapsed();
    // The term began when the holder renewed its lease, a moment before.
    assert!(took > TERM - SLACK && took < TERM + SLACK, "{took:?}: {said}");
    assert_eq!(scene.server.books().exchanges.last().unwrap().worker, other.name);
    said
}

fn lost() -> Value {
    json!({ "reauth_required": "rotation_lost" })
}

/// Killed or stopped in front of its last look: it spends nothing, neither then nor when it goes on.
async fn before_it_sent(killed: bool) {
    let scene = Scene::signed_in().await;
    let mut holder = scene.worker_at("after save").await;
    assert!(scene.record().await["journal"].is_object(), "it has written down that it is about to");
    match killed {
        true => drop(holder.kill().await),
        false => holder.stop(),
    }
    let mut other = scene.worker().await;
    let said = after_the_term(&scene, &mut other).await;
    assert_eq!((&said["token"], &said["state"]), (&json!("a1.1"), &json!(ACTIVE)), "{said}");
    assert_eq!(scene.record().await["doubt"], "inherited", "nobody knows that nothing was sent");
    if !killed {
        holder.go_on();
        holder.tell("go");
        let said = holder.answer("refresh").await;
        assert_eq!((&said["token"], &said["state"]), (&json!("a1.1"), &json!(ACTIVE)), "it adopts: {said}");
    }
    assert_eq!((scene.counts(), scene.server.books().senders("r1.0")), ((1, 0), vec![&*other.name]));
    assert_eq!((other.done("refresh").await, scene.counts()), ("a1.2".into(), (2, 0)));
    assert_eq!(scene.record().await["doubt"], "none");
}

/// Stopped between its last look and the first byte: its time for an exchange is over with its lease.
async fn between_look_and_send() {
    let scene = Scene::signed_in().await;
    let mut holder = scene.worker_at("before exchange").await;
    holder.stop();
    let mut other = scene.worker().await;
    assert_eq!(after_the_term(&scene, &mut other).await["token"], "a1.1");
    let before = scene.record().await;
    holder.go_on();
    holder.tell("go");
    let said = holder.answer("refresh").await;
    assert!(text(&said["error"]).starts_with("Unavailable"), "{said}");
    assert_eq!((scene.counts(), scene.record().await), ((1, 0), before), "nothing was sent, and nothing written");
    tokio::time::sleep(Duration::from_secs(2)).await; // it is quiet for a while
    assert_eq!((holder.done("refresh").await, scene.counts()), ("a1.1".into(), (1, 0)), "it adopts");
}

/// The server has rotated for it, and nobody will know the answer.
async fn killed_after_it_sent() {
    let scene = Scene::signed_in().await;
    let mut holder = scene.worker_in_exchange().await;
    holder.kill().await;
    scene.server.hold(None);
    scene.server.idle().await;
    let mut other = scene.worker().await;
    let said = after_the_term(&scene, &mut other).await;
    assert!(text(&said["error"]).starts_with("ReauthRequired"), "{said}");
    assert_eq!((&scene.record().await["standing"], scene.counts()), (&lost(), (1, 1)));
}

/// A worker that has received its answer, and has not looked at it; it is stopped.
async fn answered_and_stopped(scene: &Scene) -> Worker {
    let holder = scene.worker_at("after exchange").await;
    holder.stop();
    assert_eq!(scene.counts(), (1, 0));
    holder
}

/// Nobody could go on: its answer is all that there is, and counts more than the verdict.
async fn a_late_200_outranks_the_loss() {
    let scene = Scene::signed_in().await;
    let mut holder = answered_and_stopped(&scene).await;
    let mut other = scene.worker().await;
    let said = after_the_term(&scene, &mut other).await;
    assert!(text(&said["error"]).starts_with("ReauthRequired"), "{said}");
    assert_eq!((&scene.record().await["standing"], scene.counts()), (&lost(), (1, 1)));
    holder.go_on();
    holder.tell("go");
    let said = holder.answer("refresh").await;
    assert_eq!((&said["token"], &said["state"]), (&json!("a1.1"), &json!(ACTIVE)), "{said}");
    let record = scene.record().await;
    assert_eq!((&record["refresh_token"], &record["standing"]), (&json!("r1.1"), &json!("signed_in")));
    assert_eq!(record["doubt"], "inherited", "another one may have spent it");
    // This server has revoked the family meanwhile, and the doubt says why.
    assert!(text(&holder.ask("refresh").await["error"]).starts_with("ReauthRequired"));
    assert_eq!(scene.record().await["standing"], lost());
}

/// On a server with a grace period another one could go on: its set counts, and the late one is dropped.
async fn a_late_200_yields_to_a_successor(further: bool) {
    let scene = Scene::signed_in().await;
    scene.server.books().grace = true;
    let mut holder = answered_and_stopped(&scene).await;
    let mut other = scene.worker().await;
    assert_eq!(after_the_term(&scene, &mut other).await["token"], "a1.2");
    if further {
        assert_eq!(other.done("refresh").await, "a1.3");
    }
    let before = scene.record().await;
    holder.go_on();
    holder.tell("go");
    let said = holder.answer("refresh").await;
    let newest = if further { "a1.3" } else { "a1.2" };
    assert_eq!((&said["token"], &said["state"]), (&json!(newest), &json!(ACTIVE)), "{said}");
    assert_eq!(scene.record().await, before, "fenced");
    holder.done("close").await;
    assert_eq!(scene.server.books().revoked, [""; 0], "dropped, not revoked: some servers would end the family");
    assert_eq!(scene.record().await, before);
    assert!(*other.done("refresh").await > *newest);
}

/// Its answer waits for it, for longer than an exchange may take, and shorter than the lease.
async fn stopped_longer_than_an_exchange_may_take() {
    let scene = Scene::signed_in().await;
    let mut holder = scene.worker_in_exchange().await;
    holder.stop();
    scene.server.hold(None); // the answer waits in its socket
    scene.server.idle().await;
    let mut other = scene.worker().await;
    other.tell("refresh");
    tokio::time::sleep(PATIENCE * 4).await;
    assert_eq!(scene.counts(), (1, 0), "others wait");
    holder.go_on();
    assert_eq!(text(&holder.answer("refresh").await["token"]), "a1.1");
    assert_eq!((text(&other.answer("refresh").await["token"]), scene.counts()), ("a1.1".into(), (1, 0)));
}

/// A failover has lost the lease while the exchange goes on: the journal tells the others to wait.
async fn lease_is_forgotten() {
    let scene = Scene::signed_in().await;
    let mut holder = scene.worker_in_exchange().await;
    holder.stop();
    let mut redis = redis::Client::open(&*scene.site.store).unwrap().get_multiplexed_async_connection().await.unwrap();
    let leases: Vec<String> = redis::cmd("KEYS").arg("*:lease").query_async(&mut redis).await.unwrap();
    let gone: usize = redis::cmd("DEL").arg(&leases).query_async(&mut redis).await.unwrap();
    assert_eq!(gone, 1);
    let mut other = scene.worker().await;
    other.tell("refresh");
    tokio::time::sleep(PATIENCE / 2).await;
    assert_eq!((scene.counts(), scene.server.books().open), ((1, 0), 1), "nothing of the other's has arrived");
    scene.server.hold(None);
    scene.server.idle().await;
    holder.go_on();
    for worker in [&mut holder, &mut other] {
        assert_eq!(text(&worker.answer("refresh").await["token"]), "a1.1");
    }
    assert_eq!((&scene.record().await["refresh_token"], scene.counts()), (&json!("r1.1"), (1, 0)));
}

/// Everybody is signed out at once, whoever writes last.
async fn signed_out_meanwhile(killed: bool) {
    let scene = Scene::signed_in().await;
    let mut holder = scene.worker_in_exchange().await;
    holder.stop();
    let mut other = scene.worker().await;
    let start = Instant::now();
    let said = other.ask("sign_out").await;
    assert_eq!((&said["error"], &said["state"]), (&Value::Null, &json!("SignedOut(Here)")));
    assert!(start.elapsed() < Duration::from_secs(3), "a sign-out waits for nobody");
    assert!(scene.state().await.starts_with("SignedOut"), "while the other is stopped");
    scene.server.hold(None);
    scene.server.idle().await;
    if killed {
        holder.kill().await;
    } else {
        holder.go_on();
        let said = holder.answer("refresh").await;
        assert!(text(&said["state"]).starts_with("SignedOut"), "its late answer is published to nobody: {said}");
        until(|| scene.server.books().revoked.contains(&"r1.1".to_owned())).await;
    }
    assert_eq!(other.ask("close").await["error"], Value::Null);
    assert!(scene.state().await.starts_with("SignedOut"), "killed: {killed}");
    let said = scene.session().await.refresh().await.unwrap_err();
    assert_eq!((said.kind(), scene.counts()), (ErrorKind::SignedOut, (1, 0)));
    // Nobody but the dead one could have written the tombstone: whoever leases next does.
    assert_eq!(scene.record().await.to_string().contains("a1."), killed);
}

/// The same, past the end of the lease: somebody else has written the tombstone, and signed in anew.
async fn signed_in_anew_meanwhile() {
    let scene = Scene::signed_in().await;
    let mut holder = answered_and_stopped(&scene).await;
    let other = scene.session().await;
    other.sign_out(SignOut::Soft).await.unwrap();
    let anew = scene.server.sign_in().await;
    other.sign_in(anew).await.unwrap();
    until(|| format!("{:?}", other.state()) == ACTIVE).await; // saved, once the old one's lease is over
    assert_eq!(scene.record().await["refresh_token"], "r2.0");
    holder.go_on();
    holder.tell("go");
    let said = holder.answer("refresh").await;
    assert!(!text(&said["token"]).starts_with("a1."), "{said}");
    holder.tell("close");
    holder.answer("close").await;
    assert_eq!(scene.record().await["refresh_token"], "r2.0", "the old flight does not touch the new session");
    assert_eq!(scene.server.books().revoked, [""; 0]);
    assert_eq!((scene.worker().await.done("refresh").await, scene.counts()), ("a2.1".into(), (2, 0)));
}

/// Side by side: each waits for the end of a lease.
#[test]
fn p07_p13_case_14_case_40_a_holder_that_is_killed_or_stopped_past_its_lease() {
    on_this_thread(async {
        tokio::join!(
            before_it_sent(false),
            before_it_sent(true),
            between_look_and_send(),
            killed_after_it_sent(),
            a_late_200_outranks_the_loss(),
            a_late_200_yields_to_a_successor(false),
            a_late_200_yields_to_a_successor(true),
            signed_out_meanwhile(true),
            signed_in_anew_meanwhile(),
        )
    });
}

#[test]
fn p07_case_14_a_holder_that_is_stopped_for_longer_than_an_exchange_may_take_reads_its_answer() {
    on_this_thread(stopped_longer_than_an_exchange_may_take());
}

#[test]
fn p07_case_14_a_lease_that_redis_forgot_while_its_holder_is_in_mid_exchange() {
    on_this_thread(lease_is_forgotten());
}

#[test]
fn p13_case_40_a_sign_out_while_another_is_stopped_in_mid_exchange_over_redis() {
    on_this_thread(signed_out_meanwhile(false));
}
