//! What the user may do: set by the application, narrowed by token answers, never widened, and it has an age (case 33).
#![cfg(feature = "test-util")]
#![allow(missing_docs)]

#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/kit.rs"]
mod kit;
#[path = "support/pin.rs"]
mod pin;
#[path = "support/rig.rs"]
mod rig;
#[path = "support/world.rs"]
mod world;

use flaky::{Call, Fault, Flaky};
use http::StatusCode;
use kit::*;
use pin::{HOUR, MINUTE};
use rig::*;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_test::{assert_pending, task};
use tower::ServiceExt;
use tower_reauth::{
    AuthError, AuthEvent, AuthState, Capability, DenyReason, ErrorKind, Grants, OfflineGate, ReauthCause, RefreshError,
    Remedy, Session, SignIn, SignOut, Tokens, gate_fn,
};
use world::World;

/// What a gate saw last: scopes and roles of these names, and their age.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Option<Sight>>>);

type Sight = (String, Option<Duration>);

impl Seen {
    fn gate(&self) -> impl OfflineGate {
        let seen = self.clone();
        gate_fn(move |cx| {
            let scopes = ["jobs", "notes", "admin"].into_iter().filter(|name| cx.has_scope(name));
            let roles = ["lead", "on-shift"].into_iter().filter(|name| cx.has_role(name));
            *seen.0.lock().unwrap() = Some((scopes.chain(roles).collect::<Vec<_>>().join(" "), cx.grants_age()));
            Ok(())
        })
    }

    /// What a session knows now.
    fn of(&self, session: &Session) -> (String, Option<Duration>) {
        session.authorize("look").unwrap();
        self.0.lock().unwrap().take().unwrap()
    }
}

fn known(names: &str, age: Duration) -> (String, Option<Duration>) {
    (names.into(), Some(age))
}

fn grants() -> Grants {
    Grants::new().scope("jobs").scope("notes").role("lead")
}

/// `jobs` may do what it says; grants older than a day are as good as none.
fn jobs_only() -> impl OfflineGate {
    gate_fn(|cx| match cx.has_scope("jobs") && cx.grants_age() <= Some(24 * HOUR) && cx.grants_age().is_some() {
        true => Ok(()),
        false => Err(cx.deny(DenyReason::MissingGrant)),
    })
}

fn denied(error: &AuthError) -> Option<(DenyReason, Remedy)> {
    error.denial().map(|denial| (denial.reason(), denial.remedy()))
}

const MISSING: Option<(DenyReason, Remedy)> = Some((DenyReason::MissingGrant, Remedy::None));

// ===== what changes them =====

#[tokio::test(start_paused = true)]
async fn case_33_a_refresh_narrows_and_never_widens() {
    let seen = Seen::default();
    let rig = Rig::with(|builder| builder.gate(seen.gate())).await;
    rig.session.sign_in(rig.issuer.sign_in().with_scope("jobs notes")).await.unwrap();
    assert_eq!(seen.of(&rig.session), known("jobs notes", Duration::ZERO));
    let answers = [
        (None, "jobs notes"), // as before (RFC 6749 §6)
        (Some("jobs notes admin"), "jobs notes"),
        (Some("jobs admin"), "jobs"),
        (Some("jobs notes admin"), "jobs"), // what was lost comes back with a sign-in, or with `set_grants`
    ];
    for (number, (scope, expected)) in answers.into_iter().enumerate() {
        let mut tokens = Tokens::new(format!("a9.{number}")).with_refresh_token(format!("r9.{number}"));
        if let Some(scope) = scope {
            tokens = tokens.with_scope(scope);
        }
        rig.issuer.script(Script::Answer(tokens));
        rig.clock.advance(MINUTE);
        rig.session.refresh().await.unwrap();
        assert_eq!(seen.of(&rig.session), known(expected, Duration::ZERO), "{scope:?}");
    }
    rig.session.sign_in(rig.issuer.sign_in().with_scope("notes admin")).await.unwrap();
    assert_eq!(seen.of(&rig.session).0, "notes admin", "a sign-in replaces them");
}

#[tokio::test(start_paused = true)]
async fn case_33_what_was_set_is_narrowed_too_and_a_refresh_does_not_renew_its_age() {
    let seen = Seen::default();
    let rig = Rig::with(|builder| builder.gate(seen.gate())).await;
    rig.session.sign_in(rig.issuer.sign_in().with_scope("jobs notes")).await.unwrap();
    rig.session.set_grants(grants()).await.unwrap();
    rig.clock.advance(HOUR);
    let narrow = Tokens::new("a9.1").with_refresh_token("r9.1").with_scope("jobs admin");
    rig.issuer.script(Script::Answer(narrow));
    rig.session.refresh().await.unwrap();
    assert_eq!(seen.of(&rig.session), known("jobs lead", HOUR));
    rig.session.set_grants(grants().role("on-shift")).await.unwrap();
    assert_eq!(seen.of(&rig.session), known("jobs notes lead on-shift", Duration::ZERO), "a server said so just now");
    rig.session.set_grants(Grants::new()).await.unwrap();
    assert_eq!(seen.of(&rig.session), known("", Duration::ZERO), "it replaces what was known");
}

// ===== where they are kept =====

#[tokio::test(start_paused = true)]
async fn case_33_they_survive_refreshes_restarts_and_adoption_with_their_age() {
    let seen = Seen::default();
    let rig = Rig::with(|builder| builder.gate(seen.gate())).await;
    let there = rig.restarted().gate(seen.gate()).open("alice").await.unwrap();
    rig.session.set_grants(grants()).await.unwrap();
    assert_eq!(seen.of(&there).0, "", "another process learns of it at its next refresh");
    rig.clock.advance(MINUTE);
    let restarted = rig.restarted().gate(seen.gate()).open("alice").await.unwrap();
    assert_eq!(seen.of(&restarted), known("jobs notes lead", MINUTE));
    rig.session.refresh().await.unwrap();
    rig.clock.advance(MINUTE);
    there.access_token().await.unwrap(); // its own has expired
    assert_eq!(there.refresh().await.err().map(|error| error.kind()), None);
    for session in [&rig.session, &there] {
        session.refresh().await.unwrap();
        assert_eq!(seen.of(session), known("jobs notes lead", 2 * MINUTE));
    }
    assert_eq!(rig.issuer.books().reuse_events, 0);
}

#[tokio::test(start_paused = true)]
async fn case_33_so_does_the_servers_own_end_of_offline_use() {
    let until = Arc::<Mutex<Option<std::time::SystemTime>>>::default();
    let gate = || {
        let until = until.clone();
        gate_fn(move |cx| {
            *until.lock().unwrap() = cx.offline_until();
            Ok(())
        })
    };
    let of = |session: &Session| {
        session.authorize("look").unwrap();
        until.lock().unwrap().take()
    };
    let rig = Rig::with(|builder| builder.gate(gate())).await;
    let there = rig.restarted().gate(gate()).open("alice").await.unwrap();
    assert_eq!(of(&rig.session), None);
    let end = start() + 90 * MINUTE;
    rig.session.set_grants(grants().offline_until(end)).await.unwrap();
    assert_eq!(of(&rig.session), Some(end));
    rig.session.refresh().await.unwrap();
    assert_eq!(of(&rig.session), Some(end), "a token answer says nothing of it");
    assert_eq!(of(&rig.restarted().gate(gate()).open("alice").await.unwrap()), Some(end));
    there.refresh().await.unwrap();
    assert_eq!(of(&there), Some(end));
    rig.session.set_grants(grants()).await.unwrap();
    assert_eq!(of(&rig.session), None, "it replaces what was known");
    rig.session.set_grants(grants().offline_until(end)).await.unwrap();
    rig.session.sign_in(rig.issuer.sign_in()).await.unwrap();
    assert_eq!(of(&rig.session), None);
}

#[tokio::test(start_paused = true)]
async fn case_33_a_sign_out_takes_them_and_the_next_sign_in_begins_with_its_own() {
    for how in [SignOut::Soft, SignOut::Hard] {
        let seen = Seen::default();
        let rig = Rig::with(|builder| builder.gate(seen.gate())).await;
        rig.session.set_grants(grants()).await.unwrap();
        rig.session.sign_out(how).await.unwrap();
        let error = rig.session.set_grants(grants()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SignedOut);
        let tokens = rig.issuer.sign_in().with_scope("notes");
        rig.session.sign_in(tokens).await.unwrap();
        assert_eq!(seen.of(&rig.session), known("notes", Duration::ZERO), "{how:?}");
        rig.session.sign_in(SignIn::new(rig.issuer.sign_in()).grants(grants())).await.unwrap();
        assert_eq!(seen.of(&rig.session), known("jobs notes lead", Duration::ZERO), "{how:?}");
        let restarted = rig.restarted().gate(seen.gate()).open("alice").await.unwrap();
        assert_eq!(seen.of(&restarted).0, "jobs notes lead");
    }
}

/// What a soft sign-out keeps is kept for the user's return, not for anybody's use.
#[tokio::test(start_paused = true)]
async fn case_33_a_soft_sign_out_keeps_them_in_the_record() {
    let rig = Rig::new().await;
    rig.session.set_grants(grants().offline_until(start() + HOUR)).await.unwrap();
    rig.session.sign_out(SignOut::Soft).await.unwrap();
    rig.session.close().await.unwrap();
    let record = stored(&rig).await;
    assert_eq!(
        (&record["scopes"], &record["roles"]),
        (&serde_json::json!(["jobs", "notes"]), &serde_json::json!(["lead"]))
    );
    assert!(record["offline_grace_until"].is_number() && record["refresh_token"].is_null(), "{record}");
}

async fn stored(rig: &Rig) -> serde_json::Value {
    use tower_reauth::SessionStore as _;
    let key = rig.store.accounts().await.unwrap().pop().unwrap();
    serde_json::from_slice(rig.store.load(&key).await.unwrap().unwrap().bytes()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn case_33_setting_them_changes_nothing_else() {
    let rig = Rig::new().await;
    let sign_in = SignIn::new(rig.issuer.sign_in()).subject("alice").device_key_id("key-7");
    rig.session.sign_in(sign_in).await.unwrap();
    let (before, events, state) = (stored(&rig).await, rig.log.all().len(), rig.session.state());
    rig.session.set_grants(grants()).await.unwrap();
    let mut after = stored(&rig).await;
    for name in ["roles", "scopes", "grants_at", "grants_explicit"] {
        after[name] = before[name].clone();
    }
    assert_eq!(after, before);
    assert_eq!(before["device_key_id"], "key-7");
    assert_eq!((rig.issuer.exchanges(), rig.log.all().len(), rig.session.state()), (0, events, state));
    assert_eq!(rig.send(get("/jobs")).await.unwrap(), StatusCode::OK);
}

/// A session that starts by itself has no record before its first exchange.
#[tokio::test(start_paused = true)]
async fn set_grants_before_the_first_exchange_of_a_session_that_starts_by_itself() {
    struct Machine;
    impl tower_reauth::Refresher for Machine {
        async fn refresh(&self, grant: tower_reauth::RefreshGrant) -> Result<Tokens, RefreshError> {
            assert!(grant.refresh_token().is_none());
            Ok(Tokens::new("by itself").with_expires_in(100 * SEC))
        }
        fn needs_refresh_token(&self) -> bool {
            false
        }
    }
    let (seen, store, clock) = (Seen::default(), tower_reauth::MemoryStore::new(), clock());
    let open = || Session::builder(Machine).store(store.clone()).clock(clock.clone()).gate(seen.gate()).open("machine");
    let session = open().await.unwrap();
    session.set_grants(grants()).await.unwrap();
    assert_eq!(seen.of(&session), known("jobs notes lead", Duration::ZERO));
    let restarted = open().await.unwrap();
    assert_eq!((restarted.state(), seen.of(&restarted).0.as_str()), (session.state(), "jobs notes lead"));
    assert!(matches!(session.state(), AuthState::Active { reauth_pending: false, unsaved: false, .. }));
    for session in [&session, &restarted] {
        assert_eq!(session.access_token().await.unwrap().expose(), "by itself");
        assert_eq!(seen.of(session).0, "jobs notes lead");
    }

    session.sign_out(SignOut::Soft).await.unwrap();
    assert_eq!(session.set_grants(grants()).await.unwrap_err().kind(), ErrorKind::SignedOut);
    session.resume().await.unwrap();
    assert_eq!(seen.of(&session).0, "", "a new epoch");
    session.set_grants(Grants::new().role("lead")).await.unwrap();
    session.refresh().await.unwrap();
    assert_eq!(seen.of(&session).0, "lead");
    assert_eq!(seen.of(&open().await.unwrap()).0, "lead");
}

#[tokio::test(start_paused = true)]
async fn p13_set_grants_does_not_bring_a_session_back() {
    let rig = Rig::new().await;
    let elsewhere = rig.restarted().open("alice").await.unwrap();
    elsewhere.sign_out(SignOut::Soft).await.unwrap();
    elsewhere.close().await.unwrap();
    assert_eq!(rig.session.set_grants(grants()).await.unwrap_err().kind(), ErrorKind::SignedOut);
    let again = rig.restarted().open("alice").await.unwrap();
    assert!(matches!(again.state(), AuthState::SignedOut(_)));

    let hard = Rig::new().await;
    let elsewhere = hard.restarted().open("alice").await.unwrap();
    elsewhere.sign_out(SignOut::Hard).await.unwrap();
    elsewhere.close().await.unwrap();
    assert_eq!(hard.session.set_grants(grants()).await.unwrap_err().kind(), ErrorKind::SignedOut);
}

// ===== what they permit =====

/// Permissions were lowered while offline. The outbox is not part of this; a command that waits is played by a request.
#[tokio::test(start_paused = true)]
async fn case_33_permissions_that_were_lowered_meanwhile_deny_on_reconnect() {
    let online = Arc::new(AtomicBool::new(true));
    let model = {
        let online = online.clone();
        move || Some(online.load(Relaxed))
    };
    let rig = Rig::with(|builder| builder.gate(jobs_only()).connectivity(model)).await;
    rig.session.sign_in(rig.issuer.sign_in().with_scope("jobs notes")).await.unwrap();
    online.store(false, Relaxed);
    rig.expire();
    assert!(rig.session.authorize("complete").is_ok(), "as far as is known");
    assert_eq!(rig.send(post("/jobs/1", "done")).await.unwrap_err().kind(), ErrorKind::Unavailable, "it has to wait");
    rig.issuer.script(Script::Answer(Tokens::new("a9.1").with_refresh_token("r9.1").with_scope("notes")));
    online.store(true, Relaxed);
    rig.session.reconnected();
    let error = rig.send(post("/jobs/1", "done")).await.unwrap_err();
    assert_eq!((denied(&error), rig.seen.len()), (MISSING, 0), "asked again, with what it may do now");
    assert_eq!(error.denial().unwrap().capability(), &Capability::WRITE);
    assert_eq!(rig.issuer.exchanges(), 1);
}

#[tokio::test(start_paused = true)]
async fn case_33_missing_and_stale_grants_deny() {
    let rig = Rig::with(|builder| builder.gate(jobs_only())).await;
    assert_eq!(denied(&rig.send(get("/jobs")).await.unwrap_err()), MISSING);
    rig.session.set_grants(grants()).await.unwrap();
    assert_eq!(rig.send(get("/jobs")).await.unwrap(), StatusCode::OK);
    rig.clock.advance(24 * HOUR);
    assert_eq!(
        rig.send(get("/jobs")).await.unwrap(),
        StatusCode::OK,
        "refreshed on the way, and that makes them no younger"
    );
    rig.clock.advance(SEC);
    assert_eq!(denied(&rig.send(get("/jobs")).await.unwrap_err()), MISSING);
    rig.session.set_grants(grants()).await.unwrap();
    assert_eq!(rig.send(get("/jobs")).await.unwrap(), StatusCode::OK);
}

/// While the refresh of a refused token is under way, the application learns that the user may do less.
#[tokio::test(start_paused = true)]
async fn case_45_grants_narrowed_by_the_application_before_the_replay() {
    let rig = Rig::with(|builder| builder.gate(jobs_only())).await;
    rig.session.set_grants(grants()).await.unwrap();
    rig.issuer.expire_all();
    let limit = tower::limit::ConcurrencyLimit::new(api(&rig.issuer, &rig.seen), 1);
    let (started, hold) = rig.hold();
    let mut request = task::spawn(behind(&rig.session, limit).oneshot(post("/jobs", "done")));
    assert_pending!(request.poll());
    started.notified().await;
    let mut narrows = task::spawn(rig.session.set_grants(Grants::new().scope("notes")));
    assert_pending!(narrows.poll(), "the refresh holds the lease");
    hold.add_permits(1);
    narrows.await.unwrap();
    let response = request.await.unwrap();
    assert_eq!((response.status(), rig.seen.len()), (StatusCode::UNAUTHORIZED, 1));
    assert_eq!(denied(AuthError::in_response(&response).unwrap()), MISSING);
    assert_eq!(rig.log.count(|event| matches!(event, AuthEvent::Denied { .. })), 1);
}

#[tokio::test(start_paused = true)]
async fn set_grants_is_told_how_the_session_stands() {
    let rig = Rig::new().await;
    rig.issuer.fail(|| RefreshError::new(tower_reauth::FailureKind::InvalidGrant).status(StatusCode::BAD_REQUEST));
    rig.expire();
    rig.session.refresh().await.unwrap_err();
    assert_eq!(rig.session.state(), AuthState::ReauthRequired(ReauthCause::Revoked));
    assert_eq!(rig.session.set_grants(grants()).await.unwrap_err().kind(), ErrorKind::ReauthRequired);
}

/// A grants call that waits for its turn speaks of whoever was signed in then.
#[tokio::test(start_paused = true)]
async fn case_33_what_was_set_before_a_sign_in_does_not_count_for_it() {
    let world = World::new(Flaky::new());
    let seen = Seen::default();
    let session = world.builder().gate(seen.gate()).open("alice").await.unwrap();
    session.sign_in(world.issuer.sign_in().with_scope("jobs notes")).await.unwrap();
    let lease = world.store.pause(Call::Lease, 0);
    let sets = {
        let session = session.clone();
        tokio::spawn(async move { session.set_grants(grants().scope("admin")).await })
    };
    lease.reached().await;
    session.sign_in(world.issuer.sign_in().with_scope("notes")).await.unwrap();
    lease.go_on();
    assert_eq!(sets.await.unwrap().unwrap_err().kind(), ErrorKind::SignedOut);
    assert_eq!((seen.of(&session).0.as_str(), world.store.field("scopes")), ("notes", serde_json::json!(["notes"])));
}

/// While a refresh has lost its lease, another process sets them: they are narrowed by the new token's scope, and kept.
#[tokio::test(start_paused = true)]
async fn case_33_what_was_set_while_a_refresh_had_lost_its_lease_is_kept() {
    for (set_before, unsaved) in [(false, false), (true, false), (true, true)] {
        let world = World::new(Flaky::leased());
        let seen = Seen::default();
        let session = world.builder().gate(seen.gate()).open("alice").await.unwrap();
        session.sign_in(world.issuer.sign_in().with_scope("jobs notes admin")).await.unwrap();
        if set_before {
            session.set_grants(grants().scope("admin")).await.unwrap();
        }
        let there = world.open().await;
        world::pass(SEC).await;
        world.issuer.script(Script::Answer(world::tokens(1).with_scope("jobs admin")));
        let save = world.store.pause(Call::Save, 1);
        let refresh = {
            let session = session.clone();
            tokio::spawn(async move { session.refresh().await })
        };
        save.reached().await;
        world.store.lose_leases();
        there.set_grants(Grants::new().scope("jobs").scope("notes").role("on-shift")).await.unwrap();
        if unsaved {
            world.store.always(Call::Lease, Fault::Fail(tower_reauth::StoreErrorKind::Unavailable));
        }
        save.go_on();
        refresh.await.unwrap().unwrap();
        if unsaved {
            assert_eq!(world::state(&session), "active, unsaved");
            world.store.heal();
            world::pass(30 * SEC).await;
        }
        let stored = (world.store.field("scopes"), world.store.field("roles"), world.refresh_token());
        assert_eq!(stored, (serde_json::json!(["jobs"]), serde_json::json!(["on-shift"]), "r1.1".into()));
        if unsaved {
            world.issuer.script(Script::Answer(world::tokens(2)));
            session.refresh().await.unwrap(); // as any other process learns of it
        }
        assert_eq!(seen.of(&session).0, "jobs on-shift", "{set_before} {unsaved}");
    }
}

/// What the token endpoint says beside the tokens cannot be set from within: the exchange holds the lease.
#[tokio::test(start_paused = true)]
async fn p11_set_grants_within_the_exchange_is_a_typed_error_at_once() {
    let cell = Arc::new(std::sync::OnceLock::<Session>::new());
    let told = Arc::new(Mutex::new(Vec::new()));
    let refresher = {
        let (cell, told) = (cell.clone(), told.clone());
        tower_reauth::refresh_fn(move |_| {
            let (cell, told) = (cell.clone(), told.clone());
            async move {
                let asked = tokio::time::Instant::now();
                let outcome = cell.get().unwrap().set_grants(grants()).await;
                told.lock().unwrap().push((outcome.map_err(|error| error.kind()), asked.elapsed()));
                Ok(world::tokens(1))
            }
        })
    };
    let session = Session::builder(refresher).open("alice").await.unwrap();
    let _ = cell.set(session.clone());
    session.sign_in(world::tokens(0)).await.unwrap();
    session.refresh().await.unwrap();
    assert_eq!(told.lock().unwrap()[..], [(Err(ErrorKind::Reentrant), Duration::ZERO)]);
}
