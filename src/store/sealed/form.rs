//! The form of a sealed record: a header in the clear, a random nonce, the ciphertext and its tag.
//!
//! ```text
//! magic 8 · format u16 · purpose u8+n · epoch u64 · key id u8+n │ nonce 24 │ ciphertext n · tag 16        (big endian)
//! └──────────── with the account key: associated data ─────────┘
//! ```
//!
//! So a record whose header was changed, or that was moved to another account, does not open.

use super::{
    super::{MAX_RECORD, StoreError, StoreErrorKind},
    key::SealingKey,
};
use crate::account::AccountKey;
use chacha20poly1305::{AeadInOut as _, Key, KeyInit as _, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

/// No text, and no other format, begins like this.
const MAGIC: [u8; 8] = *b"\x89reauth\n";
const FORMAT: u16 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;

/// What is sealed; one purpose's ciphertext opens as no other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The record of a session.
    Session,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
        }
    }
}

fn corrupt(why: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt).with_source(why)
}

/// Seals `plain` under a nonce that was never used before.
pub(super) fn seal(
    key: &SealingKey,
    purpose: Purpose,
    epoch: u64,
    account: &AccountKey,
    plain: &[u8],
) -> Result<Vec<u8>, StoreError> {
    let mut head = Vec::with_capacity(64);
    head.extend(MAGIC);
    head.extend(FORMAT.to_be_bytes());
    put_text(&mut head, purpose.name())?;
    head.extend(epoch.to_be_bytes());
    put_text(&mut head, key.id())?;
    if head.len() + NONCE + plain.len() + TAG > MAX_RECORD {
        return Err(StoreError::new(StoreErrorKind::TooLarge));
    }
    // 192 random bits: no two of 2^80 saves are likely to meet.
    let mut nonce = XNonce::default();
    getrandom::fill(&mut nonce).map_err(|error| StoreError::unavailable(error.to_string()))?;
    // Encrypted where it stands: the plaintext is in no buffer that grew.
    let mut body = Zeroizing::new(Vec::with_capacity(plain.len() + TAG));
    body.extend_from_slice(plain);
    cipher(key)
        .encrypt_in_place(&nonce, &associated(&head, account), &mut *body)
        .map_err(|_| StoreError::new(StoreErrorKind::TooLarge))?;
    Ok([&head[..], &nonce[..], &body[..]].concat())
}

/// A sealed record that was taken apart, not yet opened: nothing in it is known to be true.
pub(super) struct SealedRecord<'a> {
    head: &'a [u8],
    nonce: XNonce,
    body: &'a [u8],
    pub(super) epoch: u64,
    pub(super) key_id: &'a str,
}

impl<'a> SealedRecord<'a> {
    pub(super) fn parse(bytes: &'a [u8], purpose: Purpose) -> Result<Self, StoreError> {
        let mut rest = bytes;
        if take::<8>(&mut rest).is_none_or(|magic| magic != MAGIC) {
            return Err(corrupt("the record is not sealed"));
        }
        let cut = || corrupt("the sealed record is cut short");
        match u16::from_be_bytes(take(&mut rest).ok_or_else(cut)?) {
            FORMAT => {}
            0 => return Err(corrupt("the sealed record has no format")),
            _ => return Err(StoreError::new(StoreErrorKind::NewerVersion)),
        }
        if take_text(&mut rest).ok_or_else(cut)? != purpose.name().as_bytes() {
            return Err(corrupt("the record was sealed for something else"));
        }
        let epoch = u64::from_be_bytes(take(&mut rest).ok_or_else(cut)?);
        let key_id = std::str::from_utf8(take_text(&mut rest).ok_or_else(cut)?)
            .map_err(|_| corrupt("the sealed record names no key"))?;
        let head = &bytes[..bytes.len() - rest.len()];
        let nonce = take::<NONCE>(&mut rest).ok_or_else(cut)?.into();
        Ok(Self { head, nonce, body: rest, epoch, key_id })
    }

    /// The plaintext, if it is what was sealed for this account under this header.
    pub(super) fn open(&self, key: &SealingKey, account: &AccountKey) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let mut body = Zeroizing::new(self.body.to_vec());
        cipher(key)
            .decrypt_in_place(&self.nonce, &associated(self.head, account), &mut *body)
            .map_err(|_| corrupt("the sealed record is damaged, or another account's"))?;
        Ok(body)
    }
}

fn cipher(key: &SealingKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(<&Key>::from(key.bytes()))
}

/// The header says where it ends, and an account key is always as long: no two pairs make the same bytes.
fn associated(head: &[u8], account: &AccountKey) -> Vec<u8> {
    [head, account.as_str().as_bytes()].concat()
}

fn put_text(head: &mut Vec<u8>, text: &str) -> Result<(), StoreError> {
    let length = u8::try_from(text.len())
        .map_err(|_| StoreError::new(StoreErrorKind::Denied).with_source("the id of a key is longer than 255 bytes"))?;
    head.push(length);
    head.extend_from_slice(text.as_bytes());
    Ok(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [length] = take(rest)?;
    let (text, left) = rest.split_at_checked(length.into())?;
    *rest = left;
    Some(text)
}

#[cfg(test)]
mod tests;
