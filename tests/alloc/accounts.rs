//! P17 with several accounts: to find out whose request it is costs nothing either.

use super::*;
use tower_reauth::AccountId;

fn layers(runtime: &tokio::runtime::Runtime) -> AuthLayer {
    let origins = Origins::new(["https://api.example.com"]).unwrap();
    let accounts = runtime.block_on(async {
        let accounts = Session::builder(refresh_fn(async |_| Ok(tokens("another")))).open_accounts().await.unwrap();
        for name in ["alice", "bob", "carol"] {
            accounts
                .open(AccountId::new(name).with_tenant("acme"))
                .await
                .unwrap()
                .sign_in(tokens(TOKEN))
                .await
                .unwrap();
        }
        accounts.set_active(&AccountId::new("alice").with_tenant("acme")).unwrap();
        accounts
    });
    AuthLayer::for_accounts(accounts, origins)
}

#[test]
fn p17_nothing_is_allocated_to_choose_among_accounts() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let layer = layers(&runtime);
    let bob = AccountId::new("bob").with_tenant("acme");
    let static_token = || AddAuthorization::bearer(client(), TOKEN).as_sensitive(true);

    let plain = Kind { headers: 3, marked: false };
    let add = plain.count_warm(static_token());
    let retry = plain.count_warm(Retry::new(Keep, static_token()));
    for (which, layer) in [("active", layer.clone()), ("of the layer", layer.clone().account(bob.clone()))] {
        assert_eq!(plain.count_warm(layer.clone().replay(NeverReplay).layer(client())), add, "NeverReplay: {which}");
        assert_eq!(plain.count_warm(layer.layer(client())), retry, "CloneBody: {which}");
    }

    // Named by the request itself.
    let named = |count| -> Vec<_> {
        let requests = (0..count).map(|_| plain.request());
        requests
            .map(|mut request| {
                request.extensions_mut().insert(bob.clone());
                request
            })
            .collect()
    };
    let warm = |service: &mut dyn FnMut(Vec<Request<Body>>) -> (u64, u64)| {
        service(named(1));
        service(named(REQUESTS))
    };
    let (mut add, mut never) = (static_token(), layer.clone().replay(NeverReplay).layer(client()));
    let add = warm(&mut |requests| count(&mut add, requests));
    assert_eq!(warm(&mut |requests| count(&mut never, requests)), add, "NeverReplay: named");
    let (mut retry, mut auth) = (Retry::new(Keep, static_token()), layer.layer(client()));
    let retry = warm(&mut |requests| count(&mut retry, requests));
    assert_eq!(warm(&mut |requests| count(&mut auth, requests)), retry, "CloneBody: named");
    assert!(retry.0 > add.0, "what is counted is seen");
}
