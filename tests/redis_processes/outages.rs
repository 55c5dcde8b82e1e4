//! Redis is stopped, killed and emptied while processes refresh.

use crate::{
    Scene,
    driver::{Worker, text},
    kills::Authority as _,
    on_this_thread,
    redis_server::Redis,
    scene::ACTIVE,
    server::{Hold, Strict},
    site_at,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const SEC: Duration = Duration::from_secs(1);
const UNSAVED: &str = "Active { reauth_pending: false, unsaved: true }";

impl Scene {
    /// With a sign-in of this lifetime, on this Redis, which the test has for itself.
    async fn over(redis: &Redis, lifetime: Duration) -> Self {
        let server = Strict::start(1);
        let scene = Self::of(site_at(&redis.url(), &server), server, ());
        scene.server.books().lifetime = lifetime;
        scene.session().await.sign_in(scene.server.sign_in().await).await.unwrap();
        scene
    }

    async fn crew(&self, workers: usize) -> Vec<Worker> {
        join_all((0..workers).map(|_| self.worker())).await
    }

    fn newest(&self) -> String {
        format!("1.{}", self.counts().0)
    }

    /// All workers use the newest set, which is saved, and nothing was spent twice.
    async fn agrees(&self, crew: &mut [Worker]) {
        for worker in crew {
            let said = worker.ask("token").await;
            assert_eq!(
                (text(&said["token"]), text(&said["state"])),
                (format!("a{}", self.newest()), ACTIVE.to_owned())
            );
        }
        let record = self.record().await;
        assert_eq!(
            (&record["refresh_token"], &record["journal"]),
            (&json!(format!("r{}", self.newest())), &Value::Null)
        );
        assert_eq!(self.counts().1, 0, "no reuse");
    }
}

/// What workers say who live through it: what they want may be unavailable, and that is all.
fn lived_on(worker: &Worker, said: &[Value]) {
    for said in said {
        let (state, error) = (text(&said["state"]), text(&said["error"]));
        assert!(state.starts_with("Active { reauth_pending: false") || state.starts_with("OfflineStale"), "{said}");
        assert!(error.is_empty() || error.starts_with("Unavailable"), "{}: {said}", worker.name);
    }
}

async fn soon(mut what: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !what().await {
            sleep(SEC / 20).await;
        }
    };
    timeout(30 * SEC, wait).await.expect("it does not happen");
}

/// Who is signed out looks for another's sign-in, at the pace of a cool-down.
async fn finds(worker: &mut Worker, token: &str) {
    soon(async || {
        let said = worker.ask("token").await;
        assert!(said["token"] == token || text(&said["error"]).starts_with("SignedOut"), "{said}");
        said["token"] == token
    })
    .await;
}

/// Stopped by its manager, killed, frozen, again and again: nobody is logged out as long as the data is kept.
#[test]
fn p05_p07_redis_is_killed_and_restarted_with_its_data_while_processes_refresh() {
    on_this_thread(async {
        let mut redis = Redis::durable();
        let scene = Scene::over(&redis, SEC).await;
        scene.server.books().latency = [Duration::from_millis(200), Duration::from_millis(200)];
        let mut crew = scene.crew(4).await;
        crew.iter_mut().for_each(|worker| worker.tell("live"));
        for outage in 0..6 {
            // Once in mid-exchange, once at any time.
            match outage % 2 {
                0 => scene.server.asked().await,
                _ => sleep(Duration::from_millis(700)).await,
            }
            match outage / 2 {
                0 => redis.kill(),
                1 => redis.stop(),
                _ => redis.freeze(),
            }
            sleep(SEC).await;
            match outage / 2 {
                0 | 1 => redis.start_again(),
                _ => redis.thaw(),
            }
            let exchanges = scene.server.books().exchanges.len();
            scene.server.served(exchanges + 1).await; // they go on
        }
        scene.server.books().lifetime = 600 * SEC;
        let exchanges = scene.server.books().exchanges.len();
        scene.server.served(exchanges + 1).await;
        let last = format!("a{}", scene.newest());
        for worker in &mut crew {
            let mut said = vec![worker.hear().await];
            while said.last().unwrap()["token"] != last {
                said.push(worker.hear().await);
            }
            lived_on(worker, &said);
        }
        scene.server.idle().await;
        soon(async || scene.record().await["refresh_token"] == format!("r{}", scene.newest())).await;
        scene.agrees(&mut crew).await;
    });
}

/// P5: the answer comes while Redis is gone. It is in use, is saved when Redis is back, and the old token is not spent.
#[test]
fn p05_tokens_that_came_while_redis_was_dead_are_saved_afterwards() {
    on_this_thread(async {
        let mut redis = Redis::durable();
        let scene = Scene::over(&redis, 600 * SEC).await;
        let mut crew = scene.crew(3).await;
        scene.server.hold(Some(Hold::After));
        crew[0].tell("refresh");
        scene.server.served(1).await;
        redis.kill();
        scene.server.hold(None);
        let said = crew[0].answer("refresh").await;
        assert_eq!((&said["token"], &said["state"]), (&json!("a1.1"), &json!(UNSAVED)), "{said}");
        let said = crew[1].ask("refresh").await;
        assert!(text(&said["error"]).starts_with("Unavailable"), "{said}");
        redis.start_again();
        assert_eq!(scene.record().await["refresh_token"], "r1.0", "the data is that of the moment of the kill");
        soon(async || scene.record().await["refresh_token"] == "r1.1").await;
        assert_eq!(crew[0].ask("state").await["state"], ACTIVE);
        sleep(2 * SEC).await; // it is quiet after the failure
        for worker in &mut crew[1..] {
            assert_eq!(worker.done("refresh").await, "a1.1");
        }
        scene.agrees(&mut crew).await;
        assert_eq!(scene.counts(), (1, 0));
    });
}

/// Restarted without its data, or emptied: what Redis has counts. Who has no record is signed out, and nothing is spent.
#[test]
fn a_redis_that_lost_its_data_signs_out_and_a_new_sign_in_is_found_by_all() {
    on_this_thread(async {
        for restart in [true, false] {
            let mut redis = Redis::start();
            let scene = Scene::over(&redis, 600 * SEC).await;
            let mut crew = scene.crew(3).await;
            match restart {
                true => {
                    redis.kill();
                    redis.start_again();
                }
                false => redis.flush().await,
            }
            for worker in &mut crew {
                assert_eq!(worker.done("token").await, "a1.0", "fresh as it is");
                let said = worker.ask("refresh").await;
                assert!(text(&said["error"]).starts_with("SignedOut"), "{said}");
                assert_eq!(said["state"], "SignedOut(Elsewhere)");
            }
            assert_eq!((scene.counts(), scene.site.record().await), ((0, 0), None));
            scene.session().await.sign_in(scene.server.sign_in().await).await.unwrap();
            for worker in &mut crew {
                finds(worker, "a2.0").await;
            }
            assert_eq!((crew[0].done("refresh").await, scene.counts()), ("a2.1".into(), (1, 0)));
        }
    });
}

/// The one that was in mid-exchange has the newest set, and gives it to the others.
#[test]
fn p05_a_redis_that_lost_its_data_gets_the_set_of_who_was_in_mid_exchange() {
    on_this_thread(async {
        for restart in [true, false] {
            let mut redis = Redis::start();
            let scene = Scene::over(&redis, 600 * SEC).await;
            let mut crew = scene.crew(3).await;
            scene.server.hold(Some(Hold::After));
            crew[0].tell("refresh");
            scene.server.served(1).await;
            match restart {
                true => {
                    redis.kill();
                    redis.start_again();
                }
                false => redis.flush().await,
            }
            let said = crew[1].ask("refresh").await;
            assert!(text(&said["error"]).starts_with("SignedOut"), "there is no record yet: {said}");
            scene.server.hold(None);
            let said = crew[0].answer("refresh").await;
            assert_eq!((&said["token"], &said["state"]), (&json!("a1.1"), &json!(ACTIVE)), "{said}");
            assert_eq!(crew[2].done("refresh").await, "a1.1", "adopted");
            finds(&mut crew[1], "a1.1").await;
            scene.agrees(&mut crew).await;
            assert_eq!(scene.counts(), (1, 0));
        }
    });
}
