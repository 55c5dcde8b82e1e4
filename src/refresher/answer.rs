//! What the token endpoint answered (RFC 6749 §5): tokens, or why not. Pure, and tolerant: whatever else is odd about an
//! answer, the tokens in it are not lost (P5). They go straight into their zeroized types.

#[cfg(test)]
mod tests;

use crate::{
    failure::{FailureKind, OAuthBody, RefreshError, clamp, classify},
    token::{AccessToken, RefreshToken, Tokens},
};
use http::{HeaderMap, StatusCode, header};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    fmt,
    time::{Duration, SystemTime},
};
use zeroize::Zeroizing;

/// The most that is kept of a server's `error_description`, in characters.
const MAX_TEXT: usize = 512;

/// Reads a whole answer. `sent` are the secrets of the request, which some servers quote in their errors.
pub(super) fn read(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    sent: &[&str],
) -> Result<Tokens, RefreshError> {
    let body = Text::of(body);
    let members = body.members();
    let html = members.is_none() && body.is_html(headers);
    let Members { access, refresh, token_type, expires_in, refresh_expires_in, scope, error, description } =
        members.unwrap_or_default();
    // With an access token in hand, an `error` beside it changes nothing.
    if let (true, Some(access)) = (status.is_success(), access) {
        return Ok(Tokens {
            access,
            refresh,
            expires_in,
            refresh_expires_in,
            scope,
            token_type: token_type.unwrap_or_default(),
            date: date(headers),
        });
    }
    let mut failure = classify(status, OAuthBody { html, error, description });
    if status.is_success() && refresh.is_some() {
        if failure.code.is_none() {
            failure.kind = FailureKind::Misconfigured;
        }
        failure.rescued = refresh.map(Box::new);
    }
    // A word of the protocol is no secret, whatever a secret may be.
    let word = |code: &str| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    failure.code = failure.code.and_then(|code| if word(&code) { Some(code) } else { shown(&code, sent) });
    failure.description = failure.description.and_then(|text| shown(&text, sent));
    Err(with_head(failure, headers))
}

/// An answer whose body did not arrive: transient, but its head counts.
pub(super) fn cut(status: StatusCode, headers: &HeaderMap, cause: impl Into<crate::error::BoxError>) -> RefreshError {
    with_head(RefreshError::transient(cause).status(status), headers)
}

/// `Date` and `Retry-After`.
pub(super) fn with_head(mut error: RefreshError, headers: &HeaderMap) -> RefreshError {
    let date = date(headers);
    // A redirect is nobody's answer to a token request: whoever sent it has no say about the time.
    error.date = date.filter(|_| !error.status.is_some_and(|status| status.is_redirection()));
    let after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    error.retry_after = after.and_then(|text| clamp::retry_after(text, date));
    if error.retry_after.is_none() {
        error.retry_at = after.and_then(|text| httpdate::parse_http_date(text.trim()).ok());
    }
    error
}

/// The moment of the answer; that of a stored one, which has an `Age` (RFC 9111 §5.1), says nothing about now.
fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    if headers.contains_key(header::AGE) { None } else { httpdate::parse_http_date(date).ok() }
}

/// A server's text as it may be logged and shown: without what we sent, without controls, and not too long.
fn shown(text: &str, sent: &[&str]) -> Option<Box<str>> {
    let mut text = Cow::Borrowed(text);
    for secret in sent {
        // Shorter ones are no secrets, and would tear words apart.
        if secret.len() >= 6 && text.contains(secret) {
            text = Cow::Owned(text.replace(secret, "…"));
        }
    }
    let mut out = String::new();
    for word in text.split(unprintable).filter(|word| !word.is_empty()) {
        if !out.is_empty() && !out.ends_with(' ') {
            out.push(' ');
        }
        out.push_str(word);
    }
    let end = out.char_indices().nth(MAX_TEXT).map_or(out.len(), |(at, _)| at);
    let out = out[..end].trim();
    (!out.is_empty()).then(|| out.into())
}

/// Controls, and marks that turn the direction of writing around.
fn unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

// ===== the body =====

/// The body as text, from its first visible character.
struct Text<'a> {
    /// Not UTF-8, and mended: a token with a replacement character in it is not the server's.
    mended: bool,
    text: Result<&'a str, Zeroizing<String>>,
}

impl<'a> Text<'a> {
    fn of(body: &'a [u8]) -> Self {
        match std::str::from_utf8(body) {
            Ok(text) => Self { mended: false, text: Ok(text) },
            Err(_) => Self { mended: true, text: Err(Zeroizing::new(String::from_utf8_lossy(body).into_owned())) },
        }
    }

    fn as_str(&self) -> &str {
        let text = match &self.text {
            Ok(text) => text,
            Err(text) => text.as_str(),
        };
        text.trim_start_matches(|c: char| c == '\u{feff}' || c.is_whitespace())
    }

    /// The members of a JSON object; what follows the object is ignored.
    fn members(&self) -> Option<Members> {
        let mut json = serde_json::Deserializer::from_str(self.as_str());
        json.deserialize_map(MembersVisitor { mended: self.mended }).ok()
    }

    fn is_html(&self, headers: &HeaderMap) -> bool {
        let text = self.as_str();
        let media_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], http::HeaderValue::as_bytes);
        let says_so = |name: &[u8]| media_type.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        !text.is_empty() && (text.starts_with('<') || says_so(b"text/html") || says_so(b"application/xhtml"))
    }
}

/// What counts of a token answer or an error. Of members with the same name the last usable one counts.
#[derive(Default)]
struct Members {
    access: Option<AccessToken>,
    refresh: Option<RefreshToken>,
    token_type: Option<String>,
    expires_in: Option<Duration>,
    refresh_expires_in: Option<Duration>,
    scope: Option<String>,
    error: Option<String>,
    description: Option<String>,
}

/// Takes every value as raw text and judges it by itself, so that none can spoil the others.
struct MembersVisitor {
    mended: bool,
}

impl MembersVisitor {
    fn token<T: From<String>>(&self, raw: &str) -> Option<T> {
        let token = string(raw)?;
        let broken = self.mended && token.contains('\u{fffd}');
        if token.is_empty() || broken { None } else { Some(T::from(into_inner(token))) }
    }
}

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        fn set<T>(member: &mut Option<T>, value: Option<T>) {
            if value.is_some() {
                *member = value;
            }
        }

        let mut members = Members::default();
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let raw = value.get();
            match string(name.get()).as_deref().map(String::as_str) {
                Some("access_token") => set(&mut members.access, self.token(raw)),
                Some("refresh_token") => set(&mut members.refresh, self.token(raw)),
                Some("token_type") => set(&mut members.token_type, string(raw).map(into_inner)),
                Some("expires_in") => set(&mut members.expires_in, lifetime(raw)),
                // Keycloak and Microsoft call it so. No server issues a refresh token that is dead: 0 is Keycloak's
                // "never".
                Some("refresh_expires_in" | "refresh_token_expires_in") => {
                    set(&mut members.refresh_expires_in, lifetime(raw).filter(|lifetime| !lifetime.is_zero()));
                }
                Some("scope") => set(&mut members.scope, scope(raw)),
                Some("error") => set(&mut members.error, string(raw).map(into_inner).filter(|code| !code.is_empty())),
                Some("error_description") => set(&mut members.description, string(raw).map(into_inner)),
                _ => {}
            }
        }
        Ok(members)
    }
}

/// Seconds, as a number or a string.
fn lifetime(raw: &str) -> Option<Duration> {
    match string(raw) {
        Some(text) => clamp::seconds(&text, clamp::MAX_LIFETIME),
        None => clamp::seconds(raw, clamp::MAX_LIFETIME),
    }
}

/// Space-separated (RFC 6749 §3.3); some servers send a list.
fn scope(raw: &str) -> Option<String> {
    let list = || serde_json::from_str::<Vec<String>>(raw).ok().map(|list| list.join(" "));
    string(raw).map(into_inner).or_else(list)
}

/// The text of a JSON string, which `raw` is known to be if it begins like one. `None` for another value, and for one
/// that names half of a surrogate pair. Wiped if it is not kept; it never grows, so that no copies stay behind.
fn string(raw: &str) -> Option<Zeroizing<String>> {
    let mut rest = raw.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = Zeroizing::new(String::with_capacity(rest.len())); // an escape is longer than what it stands for
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1)?;
        rest = &rest[at + 2..];
        let c = match escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = hex(&mut rest)?;
                let second = match rest.strip_prefix("\\u") {
                    Some(after) if (0xd800..0xdc00).contains(&first) => {
                        rest = after;
                        hex(&mut rest)
                    }
                    _ => None,
                };
                char::decode_utf16([first].into_iter().chain(second)).next()?.ok()?
            }
            other => char::from(*other), // a quotation mark, or either slash
        };
        out.push(c);
    }
    out.push_str(rest);
    Some(out)
}

fn hex(rest: &mut &str) -> Option<u16> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    u16::from_str_radix(digits, 16).ok()
}

fn into_inner(mut text: Zeroizing<String>) -> String {
    std::mem::take(&mut *text)
}
