//! Many processes, short ones, and one that was overtaken.

use crate::{
    ACTIVE, PENDING, Scene,
    driver::{Worker, text},
    on_this_thread,
    scene::share,
    server::Hold,
};
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
fn p07_case_13_two_processes_then_sixteen_make_one_exchange_per_expiry() {
    on_this_thread(async { tokio::join!(share(2, 10), share(16, 10)) });
}

/// A cleaner of old files takes the lock away, so that two hold the lease; the server refuses the later one.
#[test]
fn p07_case_18_an_invalid_grant_because_another_process_was_first_is_no_logout() {
    on_this_thread(async {
        let scene = Scene::signed_in().await;
        scene.server.books().mild = true;
        let mut overtaken = scene.worker_at("before exchange").await;
        for account in std::fs::read_dir(&scene.site.store).unwrap() {
            std::fs::remove_file(account.unwrap().path().join("lock")).unwrap();
        }
        scene.session().await.refresh().await.unwrap();
        overtaken.tell("go");
        let said = overtaken.answer("refresh").await;
        assert_eq!((&said["token"], &said["state"]), (&json!("a1.1"), &json!(ACTIVE)), "theirs is adopted: {said}");
        assert_eq!(scene.counts(), (1, 1));
        let record = scene.record().await;
        assert_eq!((&record["refresh_token"], &record["standing"]), (&json!("r1.1"), &json!("signed_in")));
        assert_eq!(record["doubt"], "inherited", "on a strict server theirs would be dead too");
        assert_eq!(scene.worker().await.done("refresh").await, "a1.2");
    });
}

/// A program that ends right after its request, while a refresh runs in the background.
#[test]
fn case_42_a_short_lived_program_closes_or_the_next_one_tries_at_once() {
    on_this_thread(async {
        tokio::join!(short_lived(true), short_lived(false));
    });
}

async fn short_lived(closes: bool) {
    let mut scene = Scene::signed_in_for(Duration::from_secs(10)).await;
    scene.site.background = true;
    let mut program = scene.worker().await;
    tokio::time::sleep(Duration::from_millis(6200)).await; // into the soft window, which ends after 9 s
    scene.server.hold(Some(Hold::After));
    assert_eq!(program.done("token").await, "a1.0", "the token still lives");
    scene.server.served(1).await;
    let last = if closes {
        program.tell("close");
        program.tell("exit");
        tokio::time::sleep(Duration::from_millis(200)).await; // who does not wait for it is gone by now
        scene.server.hold(None);
        program.ended().await
    } else {
        program.tell("exit");
        let last = program.ended().await;
        scene.server.hold(None);
        last
    };
    assert!(last.iter().all(|said| said["error"].is_null()), "{last:?}");
    scene.server.idle().await;
    assert_eq!(scene.record().await["journal"].is_object(), !closes);

    let (mut next, state) = Worker::open(&scene.site).await;
    assert_eq!(state, ACTIVE);
    let start = Instant::now();
    let said = next.ask("refresh").await;
    assert!(start.elapsed() < Duration::from_secs(10), "it does not wait for the journal's deadline");
    if closes {
        assert_eq!((text(&said["token"]), scene.counts()), ("a1.2".into(), (2, 0)));
    } else {
        assert_eq!((text(&said["state"]), scene.counts()), (PENDING.into(), (1, 1)), "{said}");
        assert_eq!(scene.record().await["standing"], json!({ "reauth_required": "rotation_lost" }));
    }
}
