//! Who: [`AccountId`] in the application's words, [`AccountKey`] as a store sees it.

use sha2::{Digest, Sha256};
use std::{fmt, sync::Arc};

/// Who, in the application's words: a subject, and a tenant where subjects are only unique within one.
///
/// It is never sent anywhere. Stores see an [`AccountKey`] only.
///
/// ```
/// use tower_reauth::AccountId;
///
/// let bob = AccountId::new("bob").with_tenant("acme");
/// assert_eq!((bob.subject(), bob.tenant()), ("bob", Some("acme")));
/// assert_ne!(bob, AccountId::from("bob"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId {
    subject: Arc<str>,
    tenant: Option<Arc<str>>,
}

impl AccountId {
    /// An account without a tenant.
    pub fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into().into(), tenant: None }
    }

    /// The same subject at a tenant.
    pub fn with_tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into().into());
        self
    }

    /// The subject.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The tenant.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }
}

impl From<&str> for AccountId {
    fn from(subject: &str) -> Self {
        Self::new(subject)
    }
}

impl From<String> for AccountId {
    fn from(subject: String) -> Self {
        Self::new(subject)
    }
}

impl From<&Self> for AccountId {
    fn from(id: &Self) -> Self {
        id.clone()
    }
}

/// Who, as a store sees it: 64 lower-case hex digits, one way, safe in file names and free of personal data.
///
/// It is the SHA-256 of issuer, client and account, so that two clients of one issuer never share a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountKey(Arc<str>);

impl AccountKey {
    pub(crate) fn derive(issuer: &str, client_id: &str, account: &AccountId) -> Self {
        let mut hash = Sha256::new();
        // Each part is preceded by its length, and the tenant by whether there is one: no two accounts hash alike.
        for part in [Some(issuer), Some(client_id), Some(account.subject()), account.tenant()] {
            let (there, part) = (part.is_some(), part.unwrap_or_default());
            hash.update([u8::from(there)]);
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Self(hex(&hash.finalize()).into())
    }

    /// `None` unless these are 64 lower-case hex digits.
    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (hex.len() == 64 && hex.bytes().all(digit)).then(|| Self(hex.into()))
    }

    /// 64 lower-case hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_whenever_a_part_differs() {
        let key = |issuer, client, id: AccountId| AccountKey::derive(issuer, client, &id);
        let all = [
            key("i", "c", "a".into()),
            key("ic", "", "a".into()),
            key("i", "ca", "".into()),
            key("i", "c", AccountId::new("a").with_tenant("")),
            key("i", "c", AccountId::new("").with_tenant("a")),
        ];
        for (i, a) in all.iter().enumerate() {
            assert_eq!(AccountKey::from_hex(a.as_str()).as_ref(), Some(a));
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn only_lower_case_hex_is_a_key() {
        assert!(AccountKey::from_hex(&"a".repeat(64)).is_some());
        for bad in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63), &"é".repeat(32)] {
            assert!(AccountKey::from_hex(bad).is_none(), "{bad}");
        }
    }
}
