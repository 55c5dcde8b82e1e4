use super::*;
use proptest::prelude::*;

fn account(digit: char) -> AccountKey {
    std::iter::repeat_n(digit, 64).collect::<String>().parse().unwrap()
}

fn key(id: &str, byte: u8) -> SealingKey {
    SealingKey::new(id, [byte; 32])
}

fn open(bytes: &[u8], key: &SealingKey, account: &AccountKey) -> Result<Zeroizing<Vec<u8>>, StoreErrorKind> {
    SealedRecord::parse(bytes, Purpose::Session)
        .and_then(|record| record.open(key, account))
        .map_err(|error| error.kind())
}

fn sealed(plain: &[u8]) -> Vec<u8> {
    seal(&key("k1", 7), Purpose::Session, 4, &account('a'), plain).unwrap()
}

/// A list that grows, or closes a gap, moves its keys: their bytes stay in one place.
#[test]
fn p16_a_key_that_moves_leaves_no_copy() {
    let key = key("k1", 7);
    let place = key.bytes().as_ptr();
    let clone = key.clone();
    let keys = [key];
    assert_eq!((keys[0].bytes().as_ptr(), clone.bytes().as_ptr()), (place, place));
}

#[test]
fn the_header_is_as_documented() {
    let bytes = sealed(b"plain");
    let head = [&b"\x89reauth\n"[..], &[0, 1, 7], b"session", &[0, 0, 0, 0, 0, 0, 0, 4, 2], b"k1"].concat();
    assert_eq!(bytes[..head.len()], head);
    assert_eq!(bytes.len(), head.len() + 24 + 5 + 16);
    let record = SealedRecord::parse(&bytes, Purpose::Session).unwrap();
    assert_eq!((record.epoch, record.key_id, record.head), (4, "k1", &head[..]));
}

/// The construction is the standard one: the draft's own vector opens with it (draft-irtf-cfrg-xchacha-03, A.3.1).
#[test]
fn it_is_xchacha20_poly1305() {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let bytes: [u8; 32] = std::array::from_fn(|at| 0x80 + at as u8);
    let mut body = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                     sunscreen would be it."
        .to_vec();
    let nonce: [u8; 24] = std::array::from_fn(|at| 0x40 + at as u8);
    cipher(&SealingKey::new("", bytes))
        .encrypt_in_place(&nonce.into(), &hex("50515253c0c1c2c3c4c5c6c7"), &mut body)
        .unwrap();
    assert_eq!(body[..16], hex("bd6d179d3e83d43b9576579493c0e939"));
    assert_eq!(body[body.len() - 16..], hex("c0875924c1c7987947deafd8780acf49"));
}

#[test]
fn nonces_never_repeat() {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let bytes = sealed(b"plain");
        assert!(seen.insert(<[u8; 24]>::from(SealedRecord::parse(&bytes, Purpose::Session).unwrap().nonce)));
    }
}

#[test]
fn what_does_not_open_says_why_by_its_kind() {
    use StoreErrorKind::{Corrupt, NewerVersion};
    let (good, right, mine) = (sealed(b"plain"), key("k1", 7), account('a'));
    assert_eq!(**open(&good, &right, &mine).unwrap(), *b"plain");
    assert_eq!(open(&good, &right, &account('b')), Err(Corrupt), "moved to another account");
    assert_eq!(open(&good, &key("k1", 8), &mine), Err(Corrupt), "another key of the same name");
    assert_eq!(open(b"{\"format\":1}", &right, &mine), Err(Corrupt), "a record in plain text");

    // Sealed rightly, but with another header than the one it comes with.
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        open(&bad, &right, &mine)
    };
    assert_eq!(with(9, 2), Err(NewerVersion));
    assert_eq!(with(9, 0), Err(Corrupt));
    assert_eq!(with(11, b'o'), Err(Corrupt), "another purpose");
    assert_eq!(with(25, 5), Err(Corrupt), "another epoch");
    assert_eq!(with(27, b'K'), Err(Corrupt), "another key's name");
}

#[test]
fn sizes_are_bounded() {
    let head = SealedRecord::parse(&sealed(b""), Purpose::Session).unwrap().head.len();
    let room = MAX_RECORD - head - NONCE - TAG;
    let (key, account) = (key("k1", 7), account('a'));
    let fits = seal(&key, Purpose::Session, 4, &account, &vec![0; room]).unwrap();
    assert_eq!(fits.len(), MAX_RECORD);
    let error = seal(&key, Purpose::Session, 4, &account, &vec![0; room + 1]).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::TooLarge);
    let long = SealingKey::new("k".repeat(256), [7; 32]);
    assert_eq!(seal(&long, Purpose::Session, 4, &account, b"").unwrap_err().kind(), StoreErrorKind::Denied);
    let longest = SealingKey::new("k".repeat(255), [7; 32]);
    let bytes = seal(&longest, Purpose::Session, 4, &account, b"plain").unwrap();
    assert!(open(&bytes, &longest, &account).is_ok());
}

proptest! {
    /// Any byte of a sealed record, changed in any way: an error, never another plaintext.
    #[test]
    fn a_changed_byte_opens_nothing(plain in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, by in 1u8..) {
        let mut bytes = sealed(&plain);
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        prop_assert!(open(&bytes, &key("k1", 7), &account('a')).is_err());
    }

    #[test]
    fn a_cut_record_opens_nothing(plain in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index) {
        let bytes = sealed(&plain);
        let kind = open(&bytes[..at.index(bytes.len())], &key("k1", 7), &account('a'));
        prop_assert_eq!(kind, Err(StoreErrorKind::Corrupt));
    }

    #[test]
    fn a_longer_record_opens_nothing(plain in prop::collection::vec(any::<u8>(), 0..50), more in prop::collection::vec(any::<u8>(), 1..50)) {
        let bytes = [sealed(&plain), more].concat();
        prop_assert_eq!(open(&bytes, &key("k1", 7), &account('a')), Err(StoreErrorKind::Corrupt));
    }

    /// Whatever a file holds: an error, never a panic.
    #[test]
    fn garbage_opens_nothing(garbage in prop::collection::vec(any::<u8>(), 0..300), magic: bool) {
        let bytes = if magic { [&MAGIC[..], &[0, 1], &garbage].concat() } else { garbage };
        prop_assert!(open(&bytes, &key("k1", 7), &account('a')).is_err());
    }

    #[test]
    fn what_was_sealed_opens(plain in prop::collection::vec(any::<u8>(), 0..2000), epoch: u64, id in ".{0,60}") {
        let key = key(&id, 9);
        let bytes = seal(&key, Purpose::Session, epoch, &account('c'), &plain).unwrap();
        prop_assert_eq!(SealedRecord::parse(&bytes, Purpose::Session).unwrap().epoch, epoch);
        prop_assert_eq!(&**open(&bytes, &key, &account('c')).unwrap(), &*plain);
    }
}
