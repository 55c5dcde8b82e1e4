use super::*;
use std::error::Error as _;

fn says(error: &StoreError) -> String {
    format!("{error}: {}", error.source().expect("each failure says what to do"))
}

/// Every failure that the interface of keyrings has, what it becomes, and what its text tells to do.
#[test]
fn each_failure_says_what_to_do() {
    use StoreErrorKind::{Corrupt, Denied, Unavailable};
    let platform = || -> Box<dyn std::error::Error + Send + Sync> { "the cause".into() };
    let secret = || b"hunter2-\xff".to_vec();
    let text = || String::from("hunter2");
    let table: [(Error, StoreErrorKind, &[&str]); 12] = [
        (Error::NoDefaultStore, Denied, &["keyring_core::set_default_store"]),
        (Error::PlatformFailure(platform()), Unavailable, &["session bus", "the cause"]),
        (Error::NoStorageAccess(platform()), Denied, &["unlock it", "default keyring", "the cause"]),
        (Error::NoEntry, Denied, &["removed", "try again"]),
        (Error::BadEncoding(secret()), Corrupt, &["left as it is", "remove it"]),
        (Error::BadDataFormat(secret(), "hunter2".into()), Corrupt, &["left as it is", "remove it"]),
        (Error::BadStoreFormat(text()), Denied, &["damaged", "repair it"]),
        (Error::TooLong("user".into(), 60), Denied, &["60", "`user`", "shorter"]),
        (Error::Invalid("service".into(), text()), Denied, &["`service`", "another service name"]),
        (Error::Ambiguous(Vec::new()), Denied, &["0 entries", "remove all but one"]),
        (Error::NotSupportedByStore(text()), Denied, &["set_default_store"]),
        (Error::TooLong("secret".into(), 2560), Denied, &["2560"]),
    ];
    for (error, kind, words) in table {
        let told = format!("{error:?}").split(['(', ' ']).next().unwrap().to_owned();
        let error = of_keyring(error);
        assert_eq!(error.kind(), kind, "{told}");
        for word in words {
            assert!(says(&error).contains(word), "{told}: {}", says(&error));
        }
        // P16: some of them carry the secret.
        assert!(!says(&error).contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{told}: {error:?}");
        assert!(!format!("{error:?}").contains("104, 117"), "{told}: {error:?}");
    }
}

#[test]
fn an_entry_is_a_short_list() {
    let keys = vec![(3, SealingKey::new("00ff", [0; 32])), (5, SealingKey::new("ff00", [255; 32]))];
    let secret = encode(&keys).unwrap();
    let zeros = format!("{}=", "A".repeat(43));
    let ones = format!("{}8=", "/".repeat(42));
    let text = format!(
        r#"{{"format":1,"keys":[{{"id":"00ff","epoch":3,"key":"{zeros}"}},{{"id":"ff00","epoch":5,"key":"{ones}"}}]}}"#
    );
    assert_eq!(String::from_utf8_lossy(&secret), text);
    let read = decode(&secret).unwrap();
    let flat =
        |keys: &Keys| keys.iter().map(|(epoch, key)| (*epoch, key.id().to_owned(), *key.bytes())).collect::<Vec<_>>();
    assert_eq!(flat(&read), flat(&keys));
    // Eight keys fit into the smallest keyring that is known (2560 bytes).
    let eight: Keys = (0..8).map(|epoch| (u64::MAX - epoch, fresh().unwrap())).collect();
    let secret = encode(&eight).unwrap();
    assert!(secret.len() < 2560, "{}", secret.len());
    assert!(secret.capacity() <= 64 + 8 * (128 + 32), "it grew");
}

#[test]
fn what_is_not_an_entry_of_ours_is_told_apart() {
    let kind = |text: &str| decode(text.as_bytes()).map(|_| ()).map_err(|error| error.kind());
    let key = STANDARD.encode([1; 32]);
    assert_eq!(kind(&format!(r#"{{"format":1,"keys":[{{"id":"a","epoch":1,"key":"{key}"}}],"more":1}}"#)), Ok(()));
    assert_eq!(kind(r#"{"format":2,"other":true}"#), Err(StoreErrorKind::NewerVersion));
    let short = STANDARD.encode([1; 31]);
    let long = STANDARD.encode([1; 33]);
    for bad in [
        String::new(),
        "hunter2".into(),
        "{}".into(),
        r#"{"format":1}"#.into(),
        r#"{"format":"hunter2","keys":[]}"#.into(),
        format!(r#"{{"format":1,"keys":[{{"id":"a","epoch":-1,"key":"{key}"}}]}}"#),
        format!(r#"{{"format":1,"keys":[{{"id":"a","epoch":1,"key":"{short}"}}]}}"#),
        format!(r#"{{"format":1,"keys":[{{"id":"a","epoch":1,"key":"{long}"}}]}}"#),
        r#"{"format":1,"keys":[{"id":"a","epoch":1,"key":"hunter2!"}]}"#.into(),
    ] {
        let error = decode(bad.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{bad}");
        assert!(!says(&error).contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
