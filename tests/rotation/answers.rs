//! What a 200 may carry, and what is kept of it: cases 11 and 28.

use crate::{
    flaky::Flaky,
    kit::{SEC, Script, Seen, get, layered, send},
    world::{World, kind, pass, state, token},
};
use std::time::Duration;
use tower_reauth::{ErrorKind, Tokens, gate_fn};

const HOUR: Duration = Duration::from_secs(3600);

fn answer(world: &World, tokens: Tokens) {
    world.issuer.script(Script::Answer(tokens));
}

#[tokio::test(start_paused = true)]
async fn case_11_an_absent_refresh_token_keeps_the_old_one_and_an_absent_scope_the_old_scope() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    a.sign_in(world.issuer.sign_in().with_scope("jobs notes").with_refresh_expires_in(HOUR)).await.unwrap();
    let refresh_expiry = world.store.field("refresh_expires_at");
    answer(&world, Tokens::new("next").with_expires_in(10 * SEC));
    a.refresh().await.unwrap();
    assert_eq!(token(&a).await, Ok("next".into()));
    assert_eq!((world.refresh_token(), world.store.field("scope")), ("r1.0".into(), "jobs notes".into()));
    assert_eq!(world.store.field("refresh_expires_at"), refresh_expiry, "its end is where it was");
    pass(11 * SEC).await;
    assert_eq!(token(&a).await, Ok("a1.1".into()), "it is still good for an exchange");
}

#[tokio::test(start_paused = true)]
async fn case_11_an_unknown_expiry_is_reactive_only_and_not_immortal_for_the_gate() {
    let world = World::new(Flaky::new());
    world.issuer.books().lifetime = None;
    let gate = gate_fn(|cx| match cx.token_fresh() {
        true => Ok(()),
        false => Err(cx.deny(tower_reauth::DenyReason::OnlineRequired)),
    });
    let a = world.builder().gate(gate).open("alice").await.unwrap();
    a.sign_in(world.issuer.sign_in()).await.unwrap();
    pass(HOUR - SEC).await;
    assert!(a.authorize("x").is_ok());
    pass(2 * SEC).await;
    assert!(a.authorize("x").is_err(), "the gate trusts it for an hour");
    assert_eq!((token(&a).await, world.books().0), (Ok("a1.0".into()), 0), "and the layer until a 401");

    let plain = world.open().await;
    let (seen, issuer) = (Seen::default(), world.issuer.clone());
    let api = layered(&plain, &issuer, &seen);
    world.issuer.expire_all();
    assert_eq!(send(&api, get("/")).await.unwrap(), 200);
    assert_eq!((seen.len(), world.books()), (2, (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn case_11_the_token_type_is_bearer_in_any_case() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    for (number, word) in ["bearer", "BEARER", "bEaReR"].into_iter().enumerate() {
        let name = format!("next{number}");
        answer(&world, Tokens::new(name.as_str()).with_expires_in(100 * SEC).with_token_type(word));
        assert_eq!((kind(a.refresh().await), token(&a).await), (Ok(()), Ok(name)));
        let b = world.builder().store(Flaky::new()).open("bob").await.unwrap();
        assert_eq!(kind(b.sign_in(Tokens::new("t").with_token_type(word)).await), Ok(()));
    }
}

/// Answers that are of no use, but for the refresh token in them.
fn useless() -> [(&'static str, Tokens, ErrorKind); 5] {
    let with = |access: &str| Tokens::new(access).with_refresh_token("rescued").with_expires_in(100 * SEC);
    [
        ("a newline", with("a\nb"), ErrorKind::InvalidToken),
        ("a NUL", with("a\0b"), ErrorKind::InvalidToken),
        ("100 kB", with(&"x".repeat(100_000)), ErrorKind::InvalidToken),
        ("nothing", with(""), ErrorKind::InvalidToken),
        ("another type", with("good").with_token_type("DPoP"), ErrorKind::Misconfigured),
    ]
}

#[tokio::test(start_paused = true)]
async fn case_28_a_token_that_cannot_be_used_is_a_typed_error_and_its_refresh_token_is_saved() {
    for (what, tokens, expected) in useless() {
        let (world, a) = World::signed_in(Flaky::new()).await;
        answer(&world, tokens);
        assert_eq!(kind(a.refresh().await), Err(expected), "{what}");
        assert_eq!((world.refresh_token(), state(&a)), ("rescued".into(), "active"), "{what}");
        assert_eq!(token(&a).await, Ok("a1.0".into()), "{what}: the old session is intact");
        assert!(world.store.field("journal").is_null(), "{what}");
        // After a restart as well, and there is no hurry to ask again.
        let again = world.open().await;
        assert_eq!((token(&again).await, state(&again)), (Ok("a1.0".into()), "active"), "{what}");
        world.expire().await;
        for session in [&a, &again] {
            assert!(token(session).await.is_err(), "{what}");
            assert_eq!((state(session), world.books().0), ("stale", 1), "{what}: 5 minutes of cool-down");
        }
        pass(300 * SEC).await;
        answer(&world, Tokens::new("good").with_expires_in(100 * SEC));
        assert_eq!((token(&a).await, world.books().0), (Ok("good".into()), 2), "{what}");
        assert_eq!(world.refresh_token(), "rescued", "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn case_28_a_sign_in_with_such_a_token_changes_nothing() {
    for (what, tokens, expected) in useless() {
        let (world, a) = World::signed_in(Flaky::new()).await;
        let before = world.store.record();
        world.store.forget_calls();
        assert_eq!(kind(a.sign_in(tokens).await), Err(expected), "{what}");
        assert_eq!((world.store.record(), world.store.mark()), (before, 2), "{what}");
        assert_eq!((token(&a).await, state(&a)), (Ok("a1.0".into()), "active"), "{what}");
    }
    let (world, a) = World::signed_in(Flaky::new()).await;
    for refresh in [String::new(), "r".repeat(300 << 10)] {
        let tokens = Tokens::new("good").with_refresh_token(refresh);
        assert_eq!(kind(a.sign_in(tokens).await), Err(ErrorKind::InvalidToken));
    }
    assert_eq!((world.store.mark(), world.refresh_token()), (2, "r1.0".into()));
}

#[tokio::test(start_paused = true)]
async fn p05_odd_optional_fields_never_cost_the_refresh_token() {
    let (world, a) = World::signed_in(Flaky::new()).await;
    let odd = Tokens::new("odd")
        .with_refresh_token("rescued")
        .with_expires_in(Duration::MAX)
        .with_refresh_expires_in(Duration::MAX)
        .with_scope("\u{0}\u{1f600}")
        .with_date(std::time::SystemTime::UNIX_EPOCH);
    answer(&world, odd);
    assert_eq!(kind(a.refresh().await), Ok(()));
    assert_eq!((token(&a).await, world.refresh_token()), (Ok("odd".into()), "rescued".into()));
    answer(&world, Tokens::new("brief").with_expires_in(Duration::ZERO));
    assert_eq!((kind(a.refresh().await), token(&a).await), (Ok(()), Ok("brief".into())), "0 counts as a second");
}
