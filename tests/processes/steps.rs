//! Killed at each step, one after the other: what SEMANTICS says is left there.

use crate::{
    ACTIVE, PENDING, Scene,
    driver::{Worker, text},
    on_this_thread,
    server::Hold,
};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// What a process finds that starts after the kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The old set, and nothing says that it was used.
    Old,
    /// The old set with an open journal: it goes on, and so does the doubt.
    Journalled,
    /// The server had rotated, and nobody knows the new set.
    Lost,
    New,
}
use Left::{Journalled, Lost, New, Old};

/// From this step on the new set is published.
const PUBLISHED: usize = 18;

/// Here it has not looked yet whether it may still send.
const LAST_LOOK: usize = 10;

/// A refresh, step by step (SEMANTICS §3).
const REFRESH: [(&str, Left); 20] = [
    ("before lease", Old),
    ("after lease", Old),
    ("before load", Old),
    ("after load", Old),
    ("before mark", Old),
    ("after mark", Old),
    ("before save", Old), // the journal
    ("after save", Journalled),
    ("before renew", Journalled),
    ("after renew", Journalled),
    ("before mark", Journalled),
    ("after mark", Journalled),
    ("before exchange", Journalled),
    ("after exchange", Lost),
    ("before save", Lost), // the new set, which closes the journal
    ("after save", New),
    ("before mark", New),
    ("after mark", New),
    ("before release", New),
    ("after release", New),
];

#[test]
fn p05_p06_case_10_killed_at_each_step_of_a_refresh() {
    on_this_thread(async {
        let scene = Scene::signed_in().await;
        assert_eq!(points(&scene, "refresh").await, REFRESH.map(|(point, _)| point));
        join_all(REFRESH.iter().enumerate().map(|(step, (point, left))| killed_at(step, point, *left))).await;
    });
}

async fn killed_at(step: usize, point: &str, left: Left) {
    let scene = Scene::signed_in().await;
    let mut worker = scene.worker().await;
    worker.tell(&format!("trap {step}"));
    worker.tell("refresh");
    // P5: the new token is in use once it is saved, and the mark was read again.
    let used = if step < PUBLISHED { "a1.0" } else { "a1.1" };
    let what = format!("killed {point}, step {step}");
    assert_eq!(worker.trapped().await, (point.to_owned(), json!(used)), "{what}");
    worker.kill().await;
    let record = scene.record().await;
    assert_eq!(
        (&record["refresh_token"], &record["standing"], record["journal"].is_object()),
        (&json!(if left == New { "r1.1" } else { "r1.0" }), &json!("signed_in"), matches!(left, Journalled | Lost)),
        "{what}"
    );
    assert_eq!(scene.counts(), (usize::from(matches!(left, Lost | New)), 0), "{what}");

    let mut next = scene.worker().await;
    let said = next.ask("refresh").await;
    let record = scene.record().await;
    if left == Lost {
        assert!(text(&said["error"]).starts_with("ReauthRequired"), "{what}: {said}");
        assert_eq!(
            (&record["standing"], &said["state"]),
            (&json!({ "reauth_required": "rotation_lost" }), &json!(PENDING))
        );
        assert_eq!(scene.counts(), (1, 1), "{what}");
        return;
    }
    let number = if left == New { 2 } else { 1 };
    assert_eq!(
        (text(&said["token"]), text(&said["state"])),
        (format!("a1.{number}"), ACTIVE.to_owned()),
        "{what}: {said}"
    );
    let doubt = if left == Journalled { "inherited" } else { "none" };
    assert_eq!((&record["journal"], &record["doubt"]), (&Value::Null, &json!(doubt)), "{what}");
    assert_eq!(scene.counts(), (number, 0), "{what}");
    next.done("refresh").await;
    assert_eq!((&scene.record().await["doubt"], scene.counts()), (&json!("none"), (number + 1, 0)), "{what}");
}

/// On the wire there are two more: the server has the request, and has not yet rotated, or its answer has not left.
#[test]
fn p06_case_10_killed_while_the_server_works() {
    on_this_thread(async {
        for hold in [Hold::Before, Hold::After] {
            let scene = Scene::signed_in().await;
            let mut worker = scene.worker().await;
            scene.server.hold(Some(hold));
            worker.tell("refresh");
            scene.server.asked().await;
            worker.kill().await;
            scene.server.hold(None);
            scene.server.idle().await;
            assert_eq!(scene.counts(), (1, 0), "it has rotated for a client that is dead");
            let said = scene.worker().await.ask("refresh").await;
            assert_eq!(said["state"], PENDING, "{said}");
            assert_eq!(scene.record().await["standing"], json!({ "reauth_required": "rotation_lost" }));
        }
    });
}

/// From the save on the new session is there, whether or not the mark was raised.
#[test]
fn p06_case_10_killed_at_each_step_of_a_sign_in() {
    on_this_thread(async {
        let points = points(&Scene::new(), "sign_in a1.0 r1.0 600").await;
        let saved = points.iter().position(|point| point == "after save").expect("a sign-in saves");
        assert!(points[saved..].contains(&"after raise".to_owned()), "{points:?}");
        join_all(points.iter().enumerate().map(|(step, point)| async move {
            let scene = Scene::new();
            scene.server.new_family();
            let (mut worker, _) = Worker::open(&scene.site).await;
            worker.tell(&format!("trap {step}"));
            worker.tell("sign_in a1.0 r1.0 600");
            assert_eq!(worker.trapped().await.0, *point);
            worker.kill().await;
            let (mut next, state) = Worker::open(&scene.site).await;
            if step < saved {
                assert_eq!(state, "SignedOut(Never)", "killed {point}, step {step}");
            } else {
                assert_eq!(state, ACTIVE, "killed {point}, step {step}");
                assert_eq!(next.done("refresh").await, "a1.1");
            }
        }))
        .await;
    });
}

/// P13: the raised mark is the sign-out; before it everybody is signed in, and from it on nobody.
#[test]
fn p13_killed_at_each_step_of_a_sign_out() {
    on_this_thread(async {
        let points = points(&Scene::signed_in().await, "sign_out").await;
        let raised = points.iter().position(|point| point == "after raise").expect("a sign-out raises the mark");
        join_all(points.iter().enumerate().map(|(step, point)| async move {
            let scene = Scene::signed_in().await;
            let mut worker = scene.worker().await;
            worker.tell(&format!("trap {step}"));
            worker.tell("sign_out");
            assert_eq!(worker.trapped().await.0, *point);
            worker.kill().await;
            let (mut next, state) = Worker::open(&scene.site).await;
            if step < raised {
                assert_eq!((&*state, &*next.done("refresh").await), (ACTIVE, "a1.1"), "killed {point}, step {step}");
            } else {
                assert_eq!(state, "SignedOut(Here)", "killed {point}, step {step}");
                let said = next.ask("refresh").await;
                assert!(text(&said["error"]).starts_with("SignedOut"), "{said}");
                assert_eq!(scene.counts(), (0, 0), "nothing is exchanged any more");
            }
        }))
        .await;
    });
}

/// P13: somebody signs out while another is at any step of its refresh; then that one goes on, and writes last.
#[test]
fn p13_case_40_signed_out_at_each_step_of_anothers_refresh() {
    on_this_thread(async {
        join_all(REFRESH.iter().enumerate().map(|(step, (point, _))| async move {
            let scene = Scene::signed_in().await;
            let mut worker = scene.worker().await;
            worker.tell(&format!("trap {step}"));
            worker.tell("refresh");
            assert_eq!(worker.trapped().await.0, *point);
            scene.session().await.sign_out(tower_reauth::SignOut::Soft).await.unwrap();
            worker.tell("go");
            let said = worker.answer("refresh").await;
            // What has read the mark before sees it at the next refresh.
            let had_read = step >= PUBLISHED - 1;
            assert_eq!(said["error"].is_null(), had_read, "{point}, step {step}: {said}");
            // The last look at the mark is the last thing before the first byte.
            assert_eq!(scene.counts(), (usize::from(step > LAST_LOOK), 0), "{point}, step {step}");
            assert!(text(&worker.ask("refresh").await["state"]).starts_with("SignedOut"), "{point}, step {step}");
            let (_, state) = Worker::open(&scene.site).await;
            assert!(state.starts_with("SignedOut"), "{point}, step {step}: {state}");
        }))
        .await;
    });
}

/// The points that a command passes.
async fn points(scene: &Scene, command: &str) -> Vec<String> {
    let (mut worker, _) = Worker::open(&scene.site).await;
    if command.starts_with("sign_in") {
        scene.server.new_family();
    }
    worker.done(command).await;
    worker.done("close").await;
    serde_json::from_value(worker.ask("points").await["points"].clone()).unwrap()
}
