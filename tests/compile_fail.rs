//! What a wrong set-up is told at compile time: the advice must be in the message.
//!
//! The compiler's own words around it change from version to version, so only ours are held.

use std::process::Command;

/// The compiler's answer to a program that must not compile.
fn answer(program: &str) -> String {
    let path = format!("{}/tests/compile_fail/{program}.rs", env!("CARGO_MANIFEST_DIR"));
    let target = format!("{}/compile_fail", env!("CARGO_TARGET_TMPDIR"));
    let manifest = format!("{target}/{program}/Cargo.toml");
    std::fs::create_dir_all(format!("{target}/{program}")).unwrap();
    let text = format!(
        "[package]\nname = \"{program}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[[bin]]\nname = \"{program}\"\n\
         path = \"{path}\"\n[dependencies]\ntower-reauth = {{ path = \"{}\" }}\nhttp = \"1\"\ntower = {{ version = \"0.5\", \
         features = [\"limit\", \"util\"] }}\n",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::write(&manifest, text).unwrap();
    let lock = format!("{}/Cargo.lock", env!("CARGO_MANIFEST_DIR"));
    std::fs::copy(lock, format!("{target}/{program}/Cargo.lock")).unwrap();
    let cargo = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--quiet", "--manifest-path", &manifest])
        .env("CARGO_TARGET_DIR", format!("{target}/target"))
        .output()
        .unwrap();
    assert!(!cargo.status.success(), "{program} compiles");
    String::from_utf8_lossy(&cargo.stderr).into_owned()
}

fn holds(program: &str, advice: &[&str]) {
    let answer = answer(program);
    for text in advice {
        assert!(answer.contains(text), "{program}: no {text:?} in\n{answer}");
    }
}

#[test]
fn a_body_that_is_not_clone_is_told_of_the_replay_policies() {
    let advice = [
        "`CloneBody` does not know how to replay",
        "`.replay(BufferedBody::new(limit, Body::new))` keeps a copy while it is sent",
        "`.replay(NeverReplay)` delivers the 401",
    ];
    holds("body_is_not_clone", &advice);
}

/// `oneshot` and `ready` name no request, and so the compiler does not say what is wrong with it, nor asks us.
#[test]
fn who_is_told_of_unsatisfied_bounds_only_is_told_how_to_ask_which() {
    holds(
        "oneshot_names_no_request",
        &["doesn't satisfy", "not a service? `Service::call(&mut api, request)` tells why"],
    );
}

#[test]
fn a_service_that_is_not_clone_is_told_of_the_way_round() {
    let advice = [
        "`BoxService<http::Request<String>, Response<()>, Infallible>` is not `Clone`, and `AuthLayer` needs",
        "(`RateLimit`, `BoxService`, hyper's `SendRequest`) above the layer",
        "or below a buffer: `ServiceBuilder::new().layer(auth).buffer(64).service(inner)`",
        "`RateLimit<_>: Clone`", // a builder's message has no room for advice, but names who is not
    ];
    holds("service_is_not_clone", &advice);
}

#[test]
fn messages_that_the_layer_does_not_know_are_told_which_it_does() {
    let request = "`Order` is not a request that `AuthService` knows";
    holds("request_is_unknown", &[request, "`http::Request<B>`, and", "what makes a request of it goes above"]);
    let response = "`Receipt` is not a response that `AuthService` knows";
    holds("response_is_unknown", &[response, "`http::Response<B>`, and", "what makes something else of it goes above"]);
}

#[test]
fn a_refresher_without_a_client_is_told_to_take_one() {
    holds("refresher_without_client", &["cannot refresh tokens", "call `.http(client)` first"]);
}

#[test]
fn bare_closures_are_told_of_their_wrappers() {
    let step_up = ["is not a step-up prompt", "async fn prompt(&self, capability: Capability)"];
    holds("bare_closures", &["is not a gate", "`gate_fn(|cx| …)`", step_up[0], step_up[1]]);
}
