//! `SIGSTOP`: a process stops at the worst moment, the others live with it, and it goes on, or never does.

use crate::{
    ACTIVE, Scene,
    driver::text,
    kills::Authority as _,
    on_this_thread,
    server::{Hold, until},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, pause, resume, timeout};
use tower_reauth::{ErrorKind, Session, SignOut};

/// As long as a flight waits for the lease: the driver's own clock jumps there. Nothing that it does meanwhile may wait
/// for anything but its timers and its disk.
async fn in_no_time<T>(work: impl Future<Output = T>) -> (T, Duration) {
    pause();
    let start = Instant::now();
    let done = work.await;
    let took = start.elapsed();
    resume();
    (done, took)
}

async fn held(session: &Session) -> String {
    session.access_token().await.unwrap().expose().to_owned()
}

/// P7, case 14 for the file store: the lease is never broken, and nothing is spent twice.
#[test]
fn p07_case_14_a_holder_that_is_stopped_before_it_sent_is_waited_for() {
    on_this_thread(async {
        let scene = Scene::signed_in().await;
        let mut holder = scene.worker_at("before exchange").await;
        holder.stop();

        let other = scene.session().await;
        assert_eq!(held(&other).await, "a1.0", "what is fresh is used");
        let (outcome, took) = in_no_time(other.refresh()).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(62), "{took:?}");
        assert_eq!((held(&other).await, scene.counts()), ("a1.0".into(), (0, 0)), "still, and nothing was sent");

        let third = scene.session().await;
        let waiting = tokio::spawn(async move {
            third.refresh().await.unwrap();
            held(&third).await
        });
        assert!(timeout(Duration::from_millis(500), async { scene.server.served(1).await }).await.is_err());
        holder.go_on();
        holder.tell("go");
        assert_eq!(text(&holder.answer("refresh").await["token"]), "a1.1");
        assert_eq!(waiting.await.unwrap(), "a1.1", "it goes on as soon as the other does");
        assert_eq!(scene.counts(), (1, 0));
    });
}

#[test]
fn p07_case_14_a_holder_that_is_killed_before_it_sent_spends_nothing_afterwards() {
    on_this_thread(async {
        let scene = Scene::signed_in().await;
        let mut holder = scene.worker_at("before exchange").await;
        holder.stop();
        let other = scene.session().await;
        let waiting = tokio::spawn(async move {
            other.refresh().await.unwrap();
            held(&other).await
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(scene.counts(), (0, 0));
        holder.kill().await; // a stopped process can be killed, and its lock ends with it
        assert_eq!(waiting.await.unwrap(), "a1.1");
        assert_eq!(scene.counts(), (1, 0));
        assert_eq!(scene.record().await["doubt"], "inherited", "nobody knows that nothing was sent");
    });
}

#[test]
fn p07_case_14_a_holder_that_is_stopped_after_it_sent_saves_its_late_answer() {
    on_this_thread(async {
        let scene = Scene::signed_in().await;
        let mut holder = scene.worker_in_exchange().await;
        holder.stop();
        scene.server.hold(None); // the answer waits in its socket
        scene.server.idle().await;
        let other = scene.session().await;
        let (outcome, _) = in_no_time(other.refresh()).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(scene.counts(), (1, 0), "nobody else has spent the token");
        holder.go_on();
        assert_eq!(text(&holder.answer("refresh").await["token"]), "a1.1");
        let record = scene.record().await;
        assert_eq!((&record["refresh_token"], &record["journal"]), (&json!("r1.1"), &Value::Null));
        let third = scene.session().await;
        third.refresh().await.unwrap();
        assert_eq!((held(&third).await, scene.counts()), ("a1.2".into(), (2, 0)));
    });
}

#[test]
fn p07_case_14_a_holder_that_is_killed_after_it_sent_leaves_a_rotation_that_is_lost() {
    on_this_thread(async {
        let scene = Scene::signed_in().await;
        let mut holder = scene.worker_in_exchange().await;
        holder.stop();
        holder.kill().await;
        scene.server.hold(None);
        scene.server.idle().await;
        let other = scene.session().await;
        assert_eq!(other.refresh().await.unwrap_err().kind(), ErrorKind::ReauthRequired);
        assert_eq!(scene.record().await["standing"], json!({ "reauth_required": "rotation_lost" }));
        assert_eq!(scene.counts(), (1, 1));
    });
}

/// Suspended for several generations, idle or on its way to the lease.
#[test]
fn p07_case_15_what_was_stopped_reads_again_before_it_spends_anything() {
    on_this_thread(async {
        for point in [None, Some("before lease")] {
            let scene = Scene::signed_in().await;
            let mut stopped = match point {
                None => scene.worker().await,
                Some(point) => scene.worker_at(point).await,
            };
            stopped.stop();
            let other = scene.session().await;
            for _ in 0..3 {
                other.refresh().await.unwrap();
            }
            stopped.go_on();
            stopped.tell(if point.is_none() { "refresh" } else { "go" });
            let said = stopped.answer("refresh").await;
            assert_eq!((&said["state"], &said["token"]), (&json!(ACTIVE), &json!("a1.3")), "theirs is fresh: adopted");
            assert_eq!(scene.counts(), (3, 0));
            // Theirs has to be exchanged: theirs, and not the one that the stopped process knew.
            assert_eq!(stopped.done("refresh").await, "a1.4");
            assert_eq!(scene.server.books().senders("r1.3"), [&*stopped.name]);
            assert_eq!(scene.counts(), (4, 0));
        }
        // All that the others left is spent too.
        let scene = Scene::signed_in_for(Duration::from_millis(900)).await;
        let mut stopped = scene.worker().await;
        stopped.stop();
        let other = scene.session().await;
        for _ in 0..3 {
            other.refresh().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1000)).await;
        stopped.go_on();
        assert_eq!(stopped.done("token").await, "a1.4");
        assert_eq!(scene.server.books().senders("r1.3"), [&*stopped.name]);
        assert_eq!(scene.counts(), (4, 0));
    });
}

/// Everybody is signed out, whoever writes last; and what was minted is revoked.
#[test]
fn p13_case_40_a_sign_out_while_another_is_stopped_in_mid_exchange() {
    on_this_thread(async {
        for killed in [false, true] {
            let scene = Scene::signed_in().await;
            let mut holder = scene.worker_in_exchange().await;
            holder.stop();
            let other = scene.session().await;
            let start = Instant::now();
            other.sign_out(SignOut::Soft).await.unwrap();
            assert!(start.elapsed() < Duration::from_secs(3), "a sign-out waits for nobody");
            assert_eq!(format!("{:?}", other.state()), "SignedOut(Here)");
            assert!(scene.state().await.starts_with("SignedOut"), "while the other is stopped");
            scene.server.hold(None);
            scene.server.idle().await;
            if killed {
                holder.kill().await;
            } else {
                holder.go_on();
                let said = holder.answer("refresh").await;
                assert_eq!(said["state"], "SignedOut(Elsewhere)", "its late answer is published to nobody: {said}");
                until(|| scene.server.books().revoked.contains(&"r1.1".to_owned())).await;
            }
            other.close().await.unwrap();
            assert!(scene.state().await.starts_with("SignedOut"), "killed: {killed}");
            let said = scene.session().await.refresh().await.unwrap_err();
            assert_eq!((said.kind(), scene.counts()), (ErrorKind::SignedOut, (1, 0)));
        }
    });
}

/// Signed in again before the old flight is over: its write and its revocation do not touch the new session.
#[test]
fn p13_case_40_a_new_sign_in_is_untouched_by_the_old_flight() {
    on_this_thread(async {
        for killed in [false, true] {
            let scene = Scene::signed_in().await;
            let mut holder = scene.worker_in_exchange().await;
            holder.stop();
            let other = scene.session().await;
            let anew = scene.server.sign_in().await;
            let (outcome, _) = in_no_time(async {
                other.sign_out(SignOut::Soft).await.unwrap();
                other.sign_in(anew).await
            })
            .await;
            outcome.unwrap();
            assert_eq!(format!("{:?}", other.state()), "Active { reauth_pending: false, unsaved: true }");
            scene.server.hold(None);
            scene.server.idle().await;
            if killed {
                holder.kill().await;
            } else {
                holder.go_on();
                let said = holder.answer("refresh").await;
                assert!(!text(&said["token"]).starts_with("a1."), "{said}");
            }
            until(|| format!("{:?}", other.state()) == ACTIVE).await;
            other.close().await.unwrap();
            let record = scene.record().await;
            assert_eq!((&record["refresh_token"], &record["standing"]), (&json!("r2.0"), &json!("signed_in")));
            // There are servers that end every session of the user then.
            assert_eq!(scene.server.books().revoked, [""; 0], "nothing is revoked once somebody has signed in again");
            let mut next = scene.worker().await;
            assert_eq!(next.done("refresh").await, "a2.1");
            if !killed {
                until(|| scene.server.books().open == 0).await;
                assert!(text(&holder.ask("token").await["token"]).starts_with("a2."), "the old process sees it, too");
            }
            assert_eq!(scene.counts(), (2, 0));
        }
    });
}

/// The same process signs out in mid-exchange.
#[test]
fn p13_case_38_a_sign_out_during_a_refresh_and_nothing_re_appears() {
    on_this_thread(async {
        let scene = Scene::signed_in().await;
        let mut worker = scene.worker().await;
        scene.server.hold(Some(Hold::After));
        worker.tell("spin");
        scene.server.served(1).await;
        let said = worker.ask("sign_out").await;
        assert_eq!((&said["error"], &said["state"]), (&Value::Null, &json!("SignedOut(Here)")));
        scene.server.hold(None);
        let said = worker.ask("close").await;
        assert_eq!((&said["error"], &said["state"]), (&Value::Null, &json!("SignedOut(Here)")));
        assert_eq!(scene.server.books().revoked, ["r1.1"], "what was minted is revoked");
        worker.kill().await;
        assert_eq!(scene.state().await, "SignedOut(Here)");
        let record = scene.record().await;
        assert_eq!((&record["standing"], &record["refresh_token"]), (&json!("signed_out"), &Value::Null));
    });
}
