//! [`Challenge`]: what `WWW-Authenticate` says (RFC 9110 §11.6.1), read leniently and challenge by challenge. Pure.
//!
//! A broken challenge costs itself, not its neighbours; nothing here fails or panics.

use crate::message::HttpResponse;
use http::{HeaderMap, header::WWW_AUTHENTICATE};
use std::{mem, time::Duration};

/// The schemes whose challenges a token of ours answers; lower-case.
const OURS: [&[u8]; 1] = [b"bearer"];
/// What is read of all `WWW-Authenticate` lines of a response together; the rest is ignored.
const READ_AT_MOST: usize = 16 << 10;
/// 10 years, as for every lifetime that a server names.
const AGE_AT_MOST: u64 = 10 * 365 * 24 * 60 * 60;

/// What the server asks for beyond a fresh token (RFC 6750 §3, RFC 9470 §3): a response extension.
///
/// A 401 with the error `insufficient_user_authentication`, `insufficient_scope` or `invalid_request` is delivered
/// without a refresh, since a new token of the same sign-in would not do.
///
/// ```
/// use tower_reauth::Challenge;
///
/// fn sign_in_again(response: &http::Response<()>) -> Option<String> {
///     let challenge = Challenge::in_response(response)?;
///     (challenge.error() == Some("insufficient_user_authentication"))
///         .then(|| format!("acr_values={}", challenge.acr_values().unwrap_or_default()))
/// }
/// # assert_eq!(sign_in_again(&http::Response::new(())), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    error: Option<Box<str>>,
    scope: Option<Box<str>>,
    acr_values: Option<Box<str>>,
    max_age: Option<Duration>,
}

impl Challenge {
    /// The challenge of a delivered response, from its extensions.
    pub fn in_response<R: HttpResponse>(response: &R) -> Option<&Self> {
        response.extensions().get()
    }

    /// The `error` code, such as `insufficient_scope` (RFC 6750 §3.1).
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The scope that would do: space-separated (RFC 6750 §3).
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// The authentication context classes that would do: space-separated, in order of preference (RFC 9470 §3).
    pub fn acr_values(&self) -> Option<&str> {
        self.acr_values.as_deref()
    }

    /// The greatest age of the user's authentication that would do (RFC 9470 §3). Clamped to 10 years.
    pub fn max_age(&self) -> Option<Duration> {
        self.max_age
    }

    /// A fresh token of the same sign-in would be refused likewise.
    pub(crate) fn wants_more(&self) -> bool {
        matches!(self.error(), Some("insufficient_user_authentication" | "insufficient_scope" | "invalid_request"))
    }

    /// Of a parameter that stands twice, the first counts.
    fn set(&mut self, name: &[u8], value: Value<'_>) {
        let slot = match name {
            _ if name.eq_ignore_ascii_case(b"error") => &mut self.error,
            _ if name.eq_ignore_ascii_case(b"scope") => &mut self.scope,
            _ if name.eq_ignore_ascii_case(b"acr_values") => &mut self.acr_values,
            _ if name.eq_ignore_ascii_case(b"max_age") => {
                self.max_age = self.max_age.or_else(|| value.seconds());
                return;
            }
            _ => return,
        };
        if slot.is_none() {
            *slot = value.text();
        }
    }
}

/// What the challenges of a response are to this layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// None, or none that can be read.
    Absent,
    /// For other schemes only.
    Foreign,
    /// The first one with an `error`, or else the first.
    Ours(Challenge),
}

/// Reads all `WWW-Authenticate` lines. Allocates only for parameters of our own challenges.
pub(crate) fn read(headers: &HeaderMap) -> Reading {
    let mut reading = Reading::Absent;
    let mut budget = READ_AT_MOST;
    for line in headers.get_all(WWW_AUTHENTICATE) {
        let line = line.as_bytes();
        let cut = line.len() > budget;
        let line = line.get(..budget).unwrap_or(line);
        budget -= line.len();
        // A line is a list of its own: parameters in front of its first scheme belong to nobody.
        let mut current = None;
        for item in (Items { rest: line, cut, first: true }) {
            match item {
                Item::Scheme(scheme) => {
                    reading.add(current.take());
                    if OURS.iter().any(|ours| scheme.eq_ignore_ascii_case(ours)) {
                        current = Some(Challenge::default());
                    } else if reading == Reading::Absent {
                        reading = Reading::Foreign;
                    }
                }
                Item::Param(name, value) => {
                    if let Some(challenge) = &mut current {
                        challenge.set(name, value);
                    }
                }
            }
        }
        reading.add(current);
    }
    reading
}

impl Reading {
    fn add(&mut self, challenge: Option<Challenge>) {
        match (&*self, challenge) {
            (_, None) => {}
            (Self::Ours(first), Some(next)) if first.error.is_some() || next.error.is_none() => {}
            (_, Some(next)) => *self = Self::Ours(next),
        }
    }
}

// ===== one line =====

enum Item<'a> {
    Scheme(&'a [u8]),
    /// Of the scheme before it, if there is one.
    Param(&'a [u8], Value<'a>),
}

/// The raw value of a parameter.
#[derive(Clone, Copy)]
struct Value<'a> {
    raw: &'a [u8],
    quoted: bool,
}

impl Value<'_> {
    /// `None`: empty, or not UTF-8.
    fn text(self) -> Option<Box<str>> {
        if self.raw.is_empty() {
            return None;
        }
        if !self.quoted || !self.raw.contains(&b'\\') {
            return std::str::from_utf8(self.raw).ok().map(Into::into);
        }
        // quoted-pair (RFC 9110 §5.6.4)
        let mut text = Vec::with_capacity(self.raw.len());
        let mut bytes = self.raw.iter().copied();
        while let Some(byte) = bytes.next() {
            text.extend(if byte == b'\\' { bytes.next() } else { Some(byte) });
        }
        String::from_utf8(text).ok().map(Into::into)
    }

    /// Digits only.
    fn seconds(self) -> Option<Duration> {
        let text = self.text().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
        Some(Duration::from_secs(text.parse().unwrap_or(AGE_AT_MOST).min(AGE_AT_MOST)))
    }
}

/// The schemes and parameters of one line, in order. What fits no grammar is skipped.
///
/// A token68 (`Negotiate abc==`) needs no rule of its own: it reads as a parameter of its scheme, or is skipped, and ends
/// with the list element either way.
struct Items<'a> {
    rest: &'a [u8],
    /// The line goes on beyond what is read: what touches its end is not whole.
    cut: bool,
    /// Nothing of the current list element was read yet. A scheme stands there and nowhere else.
    first: bool,
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        loop {
            self.first |= self.take_while(|b| is_space(b) || b == b',').contains(&b',');
            if self.rest.is_empty() {
                return None;
            }
            let first = mem::take(&mut self.first);
            let token = self.take_while(is_token);
            match (token, self.rest, self.rest.trim_ascii_start()) {
                ([_, ..], _, [b'=', value @ ..]) => {
                    self.rest = value.trim_ascii_start();
                    if let Some(value) = self.value() {
                        return Some(Item::Param(token, value));
                    }
                }
                ([_, ..], [], _) if self.cut => return None,
                ([_, ..], [] | [b' ' | b'\t' | b',', ..], _) => {
                    if first {
                        return Some(Item::Scheme(token));
                    }
                }
                _ => self.skip_garbage(),
            }
        }
    }
}

impl<'a> Items<'a> {
    fn take_while(&mut self, mut wanted: impl FnMut(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|&b| !wanted(b)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// `None`: cut off.
    fn value(&mut self) -> Option<Value<'a>> {
        if let [b'"', rest @ ..] = self.rest {
            self.rest = rest;
            return self.quoted().map(|raw| Value { raw, quoted: true });
        }
        let raw = self.take_while(|b| !is_space(b) && b != b',');
        (!self.rest.is_empty() || !self.cut).then_some(Value { raw, quoted: false })
    }

    /// Behind the opening quote. Where the closing one is missing, the value ends with the line.
    fn quoted(&mut self) -> Option<&'a [u8]> {
        let mut escaped = false;
        let raw = self.take_while(|b| {
            let ends = b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
            !ends
        });
        match self.rest {
            [_, rest @ ..] => self.rest = rest,
            [] if self.cut => return None,
            [] => {}
        }
        Some(raw)
    }

    /// To the end of a word that is neither a token nor a parameter. Commas in quotes separate nothing.
    fn skip_garbage(&mut self) {
        self.take_while(|b| !is_space(b) && b != b',' && b != b'"');
        if let [b'"', rest @ ..] = self.rest {
            self.rest = rest;
            self.quoted();
        }
    }
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t')
}

/// `tchar` (RFC 9110 §5.6.2).
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests;
