//! What a record's file holds: one line that tells what follows, then the record. Pure.
//!
//! The line carries a checksum over account, version and record: a file that was cut short, changed, or copied from
//! another account is found out before anybody believes it.

use super::super::{MAX_RECORD, StoreError, StoreErrorKind, Stored, Version};
use crate::account::{AccountKey, hex};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

const MAGIC: &str = "tower-reauth-session";
const FORMAT: u32 = 1;
/// The longest first line. A line of this format is shorter; one of a newer format may be longer.
const LONGEST_LINE: usize = 1024;
/// The largest file.
pub(super) const MAX_FILE: usize = LONGEST_LINE + MAX_RECORD;

pub(super) fn write(account: &AccountKey, version: &Version, record: &[u8]) -> Zeroizing<Vec<u8>> {
    let line = format!(
        "{MAGIC} {FORMAT} {} {} {}\n",
        hex(version.as_bytes()),
        record.len(),
        checksum(account, &hex(version.as_bytes()), record)
    );
    // As large as it will be: a buffer that grows leaves copies of tokens behind.
    let mut file = Zeroizing::new(Vec::with_capacity(line.len() + record.len()));
    file.extend_from_slice(line.as_bytes());
    file.extend_from_slice(record);
    file
}

pub(super) fn read(account: &AccountKey, file: &[u8]) -> Result<Stored, StoreError> {
    if is_newer(file) {
        return Err(StoreError::new(StoreErrorKind::NewerVersion));
    }
    if file.len() > MAX_FILE {
        return Err(StoreError::new(StoreErrorKind::TooLarge));
    }
    let end = file.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n').ok_or_else(|| corrupt("no first line"))?;
    let line = std::str::from_utf8(&file[..end]).map_err(|_| corrupt("the first line is no text"))?;
    let record = &file[end + 1..];
    let mut words = line.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(corrupt("not a file of this store"));
    }
    if words.next().and_then(|format| format.parse().ok()) != Some(FORMAT) {
        return Err(corrupt("no format that there ever was"));
    }
    let (Some(version), Some(length), Some(sum), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(corrupt("the first line is not as it was written"));
    };
    if length.parse() != Ok(record.len()) {
        return Err(corrupt("longer or shorter than it was written"));
    }
    if sum != checksum(account, version, record) {
        return Err(corrupt("not as it was written, or the record of another account"));
    }
    let version = unhex(version).ok_or_else(|| corrupt("no version"))?;
    Ok(Stored::new(record, Version::from_bytes(version)))
}

/// What a newer format looks like behind its number, and how large it may be, is not for this one to judge.
fn is_newer(file: &[u8]) -> bool {
    let mut words = file.split(|byte| matches!(byte, b' ' | b'\n'));
    words.next() == Some(MAGIC.as_bytes())
        && words
            .next()
            .and_then(|format| std::str::from_utf8(format).ok()?.parse().ok())
            .is_some_and(|it: u32| it > FORMAT)
}

fn checksum(account: &AccountKey, version: &str, record: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in [account.as_str().as_bytes(), version.as_bytes(), record] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

fn corrupt(why: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt).with_source(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn account(digit: &str) -> AccountKey {
        digit.repeat(64).parse().unwrap()
    }

    fn kind(file: &[u8]) -> Option<StoreErrorKind> {
        read(&account("a"), file).err().map(|error| error.kind())
    }

    #[test]
    fn a_newer_format_is_told_apart_from_a_bad_file() {
        let file = String::from_utf8(write(&account("a"), &Version::from(7), b"record").to_vec()).unwrap();
        assert_eq!(kind(file.as_bytes()), None);
        let newer = file.replacen(" 1 ", " 2 ", 1);
        assert_eq!(kind(newer.as_bytes()), Some(StoreErrorKind::NewerVersion));
        for behind in [vec![b' '; 2 * MAX_FILE], vec![b' ', 0xff], b"\n".to_vec()] {
            let newer = [MAGIC.as_bytes(), b" 2", &behind].concat();
            assert_eq!(kind(&newer), Some(StoreErrorKind::NewerVersion), "whatever stands behind the number");
        }
        for bad in
            ["", "\n", "{}", &file.replacen(" 1 ", " 0 ", 1), &file.replacen(" 1 ", " -1 ", 1), &"x".repeat(4096)]
        {
            assert_eq!(kind(bad.as_bytes()), Some(StoreErrorKind::Corrupt), "{bad}");
        }
        assert_eq!(kind(&vec![b'x'; MAX_FILE + 1]), Some(StoreErrorKind::TooLarge));
    }

    #[test]
    fn the_record_of_another_account_is_foreign() {
        let file = write(&account("b"), &Version::from(7), b"record");
        assert_eq!(kind(&file), Some(StoreErrorKind::Corrupt));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(record in proptest::collection::vec(any::<u8>(), 0..2000), version: [u8; 16]) {
            let version = Version::from_bytes(version);
            let stored = read(&account("a"), &write(&account("a"), &version, &record)).unwrap();
            prop_assert_eq!(stored.bytes(), &record[..]);
            prop_assert_eq!(stored.version(), &version);
        }

        /// Cut anywhere, or with any bit turned, it is an error and never another record.
        #[test]
        fn a_torn_file_is_never_believed(record in proptest::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0..8u8) {
            let file = write(&account("a"), &Version::from(7), &record);
            let at = at.index(file.len());
            prop_assert!(read(&account("a"), &file[..at]).is_err());
            let mut turned = file.to_vec();
            turned[at] ^= 1 << bit;
            prop_assert!(read(&account("a"), &turned).is_err());
        }

        #[test]
        fn garbage_never_panics(file in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert!(read(&account("a"), &file).is_err());
        }
    }
}
