//! P6: the process is killed at any call of the store, before or after it was applied, and before or after the server
//! rotated. Each process is a runtime of its own; killing it drops whatever it had under way, its leases included.

use crate::{
    flaky::{Call, Fault, Flaky},
    kit::{Issuer, SEC},
    world::{World, state, token},
};
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};
use tokio::sync::Notify;
use tower_reauth::{
    ErrorKind, Grants, LockCause, RefreshError, RefreshGrant, Refresher, RevokeGrant, Revoked, Session, SignOut, Tokens,
};

/// A refresher whose process may be killed before its request leaves, or after it was served.
#[derive(Clone)]
struct Mortal {
    issuer: Issuer,
    dies: Arc<AtomicU8>,
    died: Arc<Notify>,
}

const BEFORE: u8 = 1;
const AFTER: u8 = 2;

impl Mortal {
    async fn die(&self, when: u8) {
        if self.dies.load(Ordering::Relaxed) == when {
            self.died.notify_one();
            std::future::pending().await
        }
    }
}

impl Refresher for Mortal {
    async fn refresh(&self, grant: RefreshGrant) -> Result<Tokens, RefreshError> {
        self.die(BEFORE).await;
        let answer = self.issuer.refresh(grant).await;
        self.die(AFTER).await;
        answer
    }

    async fn revoke(&self, grant: RevokeGrant) -> Result<Revoked, RefreshError> {
        self.issuer.revoke(grant).await
    }

    fn issuer(&self) -> &str {
        self.issuer.issuer()
    }

    fn client_id(&self) -> &str {
        self.issuer.client_id()
    }
}

/// What survives a process.
struct Remains {
    world: World,
    mortal: Mortal,
}

/// Runs as a process would, until `main` is done or it is killed.
fn process(remains: &Remains, main: impl AsyncFnOnce(Session)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let Remains { world, mortal } = remains;
        world.start_clock();
        let killed = async {
            tokio::select! {
                () = world.store.stopped() => {}
                () = mortal.died.notified() => {}
            }
        };
        let run = async {
            let builder = Session::builder(mortal.clone()).store(world.store.clone()).clock(world.clock.clone());
            main(builder.background_refresh(false).open("alice").await.unwrap()).await;
        };
        tokio::select! {
            () = killed => {}
            () = run => {}
        }
    });
    drop(runtime); // SIGKILL
    remains.world.store.heal();
    remains.mortal.dies.store(0, Ordering::Relaxed);
    remains.world.store.lose_leases();
}

fn begin(store: Flaky) -> Remains {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let world = runtime.block_on(async { World::signed_in(store).await.0 });
    let mortal = Mortal { issuer: world.issuer.clone(), dies: Arc::default(), died: Arc::default() };
    Remains { world, mortal }
}

/// Runs `work` once for each call it makes, killed before and after it, and looks at what a new process finds.
/// Answers at how many points it was killed.
fn kill_everywhere(
    store: fn() -> Flaky,
    work: impl AsyncFn(Session, Issuer),
    check: impl AsyncFn(&Remains, Session, &str),
) -> usize {
    let whole = begin(store());
    whole.world.store.forget_calls();
    let issuer = whole.world.issuer.clone();
    process(&whole, async |session| work(session, issuer).await);
    let calls = whole.world.store.calls();
    assert!(calls.len() > 3, "{calls:?}");
    for (nth, call) in calls.iter().enumerate() {
        for fault in [Fault::Hang, Fault::ApplyAndHang] {
            let point = format!("call {nth} ({call:?}), {fault:?}; of {calls:?}");
            let remains = begin(store());
            remains.world.store.any_nth(nth, fault);
            let issuer = remains.world.issuer.clone();
            process(&remains, async |session| work(session, issuer).await);
            process(&remains, async |session| check(&remains, session, &point).await);
        }
    }
    2 * calls.len()
}

/// The server rotated, and the store does not know: the gap that no client can close.
fn in_the_gap(remains: &Remains) -> bool {
    remains.world.refresh_token() != remains.world.issuer.current()
}

/// The old session or the new one; or, in the gap, `RotationLost`.
async fn old_or_new(remains: &Remains, session: Session, point: &str) {
    let gap = in_the_gap(remains);
    assert_eq!(state(&session), "active", "{point}");
    let before = token(&session).await;
    assert!(matches!(before.as_deref(), Ok("a1.0" | "a1.1")), "{point}: {before:?}");
    let outcome = session.refresh().await.map_err(|error| error.kind());
    match gap {
        false => assert_eq!((outcome, remains.world.books().1), (Ok(()), 0), "{point}"),
        true => {
            assert_eq!(outcome, Err(ErrorKind::ReauthRequired), "{point}");
            tokio::time::sleep(101 * SEC).await;
            assert_eq!(
                (token(&session).await, state(&session)),
                (Err(ErrorKind::ReauthRequired), "rotation lost"),
                "{point}"
            );
        }
    }
}

fn refresh_killed_everywhere(store: fn() -> Flaky) {
    let points = kill_everywhere(store, async |a, _| drop(a.refresh().await), old_or_new);
    assert!(points >= 20, "{points}");
    for when in [BEFORE, AFTER] {
        let remains = begin(store());
        remains.mortal.dies.store(when, Ordering::Relaxed);
        process(&remains, async |session| drop(session.refresh().await));
        assert_eq!(in_the_gap(&remains), when == AFTER);
        assert!(!remains.world.store.field("journal").is_null(), "journalled beforehand");
        process(&remains, async |session| old_or_new(&remains, session, "in the exchange").await);
    }
}

#[test]
fn p06_a_refresh_killed_at_every_call_leaves_the_old_session_or_the_new_one() {
    refresh_killed_everywhere(Flaky::new);
}

#[test]
fn p06_so_it_does_where_leases_expire() {
    refresh_killed_everywhere(Flaky::leased);
}

#[test]
fn p06_a_second_crash_in_the_recovery_changes_nothing() {
    let whole = begin(Flaky::new());
    let saves = [0, 1, 2, 3];
    drop(whole);
    for (first, second) in saves.iter().flat_map(|a| saves.iter().map(move |b| (*a, *b))) {
        let remains = begin(Flaky::new());
        for nth in [first, second] {
            remains.world.store.nth(Call::Save, nth, Fault::ApplyAndHang);
            process(&remains, async |session| {
                let _ = session.refresh().await;
                let _ = session.refresh().await;
            });
            if in_the_gap(&remains) {
                break;
            }
        }
        let current = remains.world.issuer.current();
        process(&remains, async |session| {
            assert_eq!(session.refresh().await.map_err(|e| e.kind()), Ok(()), "{first}, {second}: {current}");
            assert_eq!(remains.world.books().1, 0);
        });
    }
}

#[test]
fn p06_a_refresh_that_fails_killed_at_every_call_spends_nothing() {
    let work = async |a: Session, issuer: Issuer| {
        issuer.fail(|| RefreshError::not_sent("refused"));
        drop(a.refresh().await);
    };
    kill_everywhere(Flaky::leased, work, async |remains, session, point| {
        remains.world.issuer.books().script.clear();
        session.reconnected();
        assert_eq!(session.refresh().await.map_err(|e| e.kind()), Ok(()), "{point}");
        assert_eq!(remains.world.books().1, 0, "{point}");
    });
}

#[test]
fn p06_a_refusal_killed_at_every_call_is_a_refusal_or_in_doubt() {
    let work = async |a: Session, issuer: Issuer| {
        issuer.books().revoked = true;
        drop(a.refresh().await);
    };
    kill_everywhere(Flaky::new, work, async |remains, session, point| {
        assert!(matches!(state(&session), "active" | "active, reauth pending"), "{point}: {}", state(&session));
        assert_eq!(token(&session).await, Ok("a1.0".into()), "{point}: it stays in use");
        if !remains.world.issuer.books().revoked {
            return; // killed before it began
        }
        tokio::time::sleep(101 * SEC).await;
        assert_eq!(token(&session).await, Err(ErrorKind::ReauthRequired), "{point}");
        assert!(matches!(state(&session), "revoked" | "rotation lost"), "{point}");
    });
}

#[test]
fn p06_killed_while_a_set_is_unsaved_is_the_gap() {
    for heals in [false, true] {
        let remains = begin(Flaky::new());
        remains.world.store.after(Call::Save, 1, Fault::Fail(tower_reauth::StoreErrorKind::Unavailable));
        process(&remains, async |session| {
            session.refresh().await.unwrap();
            tokio::time::sleep(30 * SEC).await;
            if heals {
                remains.world.store.heal();
                tokio::time::sleep(30 * SEC).await;
            }
        });
        assert_eq!(in_the_gap(&remains), !heals);
        process(&remains, async |session| old_or_new(&remains, session, "unsaved").await);
    }
}

#[test]
fn p06_the_gap_on_a_server_with_a_grace_period_is_no_loss() {
    let remains = begin(Flaky::new());
    remains.mortal.dies.store(AFTER, Ordering::Relaxed);
    process(&remains, async |session| drop(session.refresh().await));
    remains.world.issuer.script(crate::kit::Script::Answer(crate::world::tokens(1)));
    process(&remains, async |session| {
        assert_eq!(session.refresh().await.map_err(|e| e.kind()), Ok(()), "tried at once");
        assert_eq!(token(&session).await, Ok("a1.1".into()));
    });
}

#[test]
fn p06_a_sign_in_killed_at_every_call_leaves_the_old_session_or_the_new_one() {
    let work = async |a: Session, issuer: Issuer| {
        issuer.books().family = 2; // whose tokens are taken beside the old ones
        let tokens = Tokens::new("new").with_refresh_token("r2.0").with_expires_in(100 * SEC);
        drop(a.sign_in(tokens).await);
    };
    kill_everywhere(Flaky::new, work, async |remains, session, point| {
        assert_eq!(state(&session), "active", "{point}");
        let (access, epoch) = (token(&session).await.unwrap(), remains.world.store.field("epoch"));
        let kept = (access.as_str(), remains.world.refresh_token(), epoch);
        assert!(
            kept == ("a1.0", "r1.0".into(), 2.into()) || kept == ("new", "r2.0".into(), 4.into()),
            "{point}: {kept:?}"
        );
    });
}

#[test]
fn p13_a_sign_out_killed_at_every_call_has_happened_or_not() {
    for how in [SignOut::Soft, SignOut::Hard] {
        let work = async |a: Session, _: Issuer| {
            let _ = a.sign_out(how).await;
            tokio::time::sleep(20 * SEC).await;
        };
        kill_everywhere(Flaky::new, work, async |remains, session, point| {
            let out = remains.world.store.mark() == 3;
            assert_eq!(state(&session), if out { "signed out here" } else { "active" }, "{point}");
            assert_eq!(
                token(&session).await,
                if out { Err(ErrorKind::SignedOut) } else { Ok("a1.0".into()) },
                "{point}"
            );
        });
    }
}

#[test]
fn p13_a_lock_killed_at_every_call_has_happened_or_not() {
    let work = async |a: Session, _: Issuer| {
        let _ = a.lock(LockCause::Application).await;
        tokio::time::sleep(20 * SEC).await;
    };
    kill_everywhere(Flaky::new, work, async |remains, session, point| {
        let (raised, laid) = (remains.world.store.mark() == 3, remains.world.store.field("epoch") == 3);
        let expected = match (raised, laid) {
            (true, true) => "locked",
            (true, false) => "signed out here", // no tokens, though the reason was not written yet
            (false, _) => "active",
        };
        assert_eq!(state(&session), expected, "{point}");
        assert_eq!(token(&session).await.is_ok(), !raised, "{point}");
    });
}

#[test]
fn p06_grants_killed_at_every_call_are_the_old_or_the_new_ones() {
    let work = async |a: Session, _: Issuer| drop(a.set_grants(Grants::new().role("lead")).await);
    kill_everywhere(Flaky::new, work, async |remains, session, point| {
        let roles = remains.world.store.field("roles").to_string();
        assert!(roles == "[]" || roles == "[\"lead\"]", "{point}: {roles}");
        assert_eq!(session.refresh().await.map_err(|e| e.kind()), Ok(()), "{point}");
        assert_eq!(remains.world.store.field("roles").to_string(), roles, "{point}");
    });
}
