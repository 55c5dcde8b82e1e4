//! [`Origins`]: where an access token may go, and the check of the endpoints a refresh token goes to.
//!
//! Hosts are compared as text, never resolved or interpreted: whatever is not the exact spelling is foreign.

use crate::{
    error::{AuthError, ErrorKind},
    message::Target,
};
use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

/// The origins a token may go to: scheme, host and port (RFC 9110 §4.3.1), compared exactly.
///
/// Each is `https://host[:port]`, or `http://` with a literal loopback address (127.0.0.0/8 or `[::1]`; not a name such
/// as `localhost`). International names are written in punycode.
///
/// ```
/// use tower_reauth::{ErrorKind, Origins};
///
/// let origins = Origins::new(["https://api.example.com", "https://files.example.com:8443", "http://127.0.0.1:3000"])?;
/// let one: Origins = "https://api.example.com/".parse()?; // a trailing slash is fine
///
/// let plain = Origins::new(["http://api.example.com"]).unwrap_err();
/// assert_eq!(plain.kind(), ErrorKind::InsecureOrigin);
/// # Ok::<(), tower_reauth::AuthError>(())
/// ```
#[derive(Clone)]
pub struct Origins(Arc<[Origin]>);

struct Origin {
    secure: bool,
    /// Lower-case; an IPv6 address stands in brackets, as in an authority.
    host: Box<str>,
    port: u16,
    /// Canonical: without the default port and without a trailing slash.
    name: Box<str>,
    /// Where in the name the authority begins.
    authority: usize,
}

/// What an origin is to this layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// The origin with this index, for [`Origins::name`].
    Allowed(usize),
    /// An allowed `https` origin, asked for over plain http.
    Insecure,
    Foreign,
    /// The request names no origin; the client below decides where it goes.
    Relative,
}

impl Origins {
    /// At least one origin.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InsecureOrigin`] for plain http to anything but a literal loopback address;
    /// [`ErrorKind::Misconfigured`] for no origin at all, another scheme, a path, a query, a fragment, user-info, a
    /// malformed host or port.
    pub fn new<I>(origins: I) -> Result<Self, AuthError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let origins: Arc<[Origin]> =
            origins.into_iter().map(|origin| Origin::parse(origin.as_ref())).collect::<Result<_, _>>()?;
        if origins.is_empty() {
            return Err(AuthError::misconfigured("no origin: a token could go nowhere"));
        }
        Ok(Self(origins))
    }

    /// What the origin of `target` is. No allocation.
    pub(crate) fn find(&self, target: &Target<'_>) -> Match {
        let (secure, authority) = match (target.scheme, target.authority) {
            (Some("https"), Some(authority)) => (true, authority),
            (None, None) => return Match::Relative,
            (Some(scheme), Some(authority)) if scheme.eq_ignore_ascii_case("https") => (true, authority),
            (Some(scheme), Some(authority)) if scheme.eq_ignore_ascii_case("http") => (false, authority),
            _ => return Match::Foreign,
        };
        // Nearly every request writes the canonical text.
        if let Some(index) = self.0.iter().position(|origin| secure == origin.secure && origin.authority() == authority)
        {
            return Match::Allowed(index);
        }
        let mut found = Match::Foreign;
        for (index, origin) in self.0.iter().enumerate() {
            let Some(port) = origin.port_in(authority) else { continue };
            if secure == origin.secure {
                if port.unwrap_or(default_port(secure)) == origin.port {
                    return Match::Allowed(index);
                }
            } else if origin.secure && port.is_none_or(|port| port == default_port(false) || port == origin.port) {
                found = Match::Insecure;
            }
        }
        found
    }

    /// Whether `target` is the origin with this index.
    pub(crate) fn is(&self, index: usize, target: &Target<'_>) -> bool {
        matches!(self.find(target), Match::Allowed(found) if self.name(found) == self.name(index))
    }

    pub(crate) fn find_uri(&self, uri: &http::Uri) -> Match {
        self.find(&Target {
            scheme: uri.scheme_str(),
            authority: uri.authority().map(http::uri::Authority::as_str),
            path: uri.path(),
        })
    }

    /// The canonical text of an allowed origin, such as `https://api.example.com`.
    pub(crate) fn name(&self, index: usize) -> &str {
        self.0.get(index).map_or("", |origin| &origin.name)
    }
}

impl FromStr for Origins {
    type Err = AuthError;

    /// One origin.
    fn from_str(origin: &str) -> Result<Self, AuthError> {
        Self::new([origin])
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origins").field(&self.0.iter().map(|origin| &origin.name).collect::<Vec<_>>()).finish()
    }
}

// ===== impl Origin =====

impl Origin {
    fn parse(text: &str) -> Result<Self, AuthError> {
        let wrong = |what: &str| AuthError::misconfigured(format!("the origin {:?} {what}", shown(text)));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("is not of the form https://host[:port]"))?;
        let secure = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => true,
            _ if scheme.eq_ignore_ascii_case("http") => false,
            _ => return Err(wrong("is not https")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '\\']) {
            return Err(wrong("has a path, a query or a fragment: an origin ends with the port"));
        }
        if authority.contains('@') {
            return Err(wrong("has user-info"));
        }
        let (host, port) = match split_host(authority) {
            (_, rest) if parse_port(rest).is_none() => return Err(wrong("has a malformed port")),
            (host, rest) => (host, parse_port(rest).flatten()),
        };
        if host.is_empty() {
            return Err(wrong("has no host"));
        }
        if !secure && !is_loopback(host) {
            return Err(AuthError::new(
                ErrorKind::InsecureOrigin,
                format!("the origin {:?} is plain http: use https, or a literal loopback address", shown(text)),
            ));
        }
        let host = canonical_host(host).map_err(wrong)?;
        let port = port.unwrap_or(default_port(secure));
        let scheme = if secure { "https" } else { "http" };
        let name = if port == default_port(secure) {
            format!("{scheme}://{host}")
        } else {
            format!("{scheme}://{host}:{port}")
        };
        Ok(Self { secure, host: host.into(), port, name: name.into(), authority: scheme.len() + 3 })
    }

    /// Canonical, as the name.
    fn authority(&self) -> &str {
        self.name.get(self.authority..).unwrap_or_default()
    }

    /// The port in an authority of this host: `None` if anything else stands there, `Some(None)` if there is none.
    ///
    /// The host is compared first and the rest has to be a port to its end: user-info has no place to stand.
    fn port_in(&self, authority: &str) -> Option<Option<u16>> {
        let (host, rest) = authority.as_bytes().split_at_checked(self.host.len())?;
        if !host.eq_ignore_ascii_case(self.host.as_bytes()) {
            return None;
        }
        parse_port(rest)
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// What follows a host: nothing, or `:` and 1 to 65535 without leading zeros. `None`: malformed.
fn parse_port(rest: &[u8]) -> Option<Option<u16>> {
    match rest {
        [] => Some(None),
        [b':', digits @ ..] if matches!(digits, [b'1'..=b'9', ..]) && digits.len() <= 5 => {
            let mut port = 0_u32;
            for digit in digits {
                if !digit.is_ascii_digit() {
                    return None;
                }
                port = port * 10 + u32::from(digit - b'0');
            }
            u16::try_from(port).ok().map(Some)
        }
        _ => None,
    }
}

/// The host of an authority without user-info (an IPv6 address with its brackets), and what follows it.
fn split_host(authority: &str) -> (&str, &[u8]) {
    let end = match authority.starts_with('[') {
        true => authority.find(']').map_or(authority.len(), |end| end + 1),
        false => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end);
    (host, rest.as_bytes())
}

fn ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// As URLs write it (the URL standard, "IPv6 serializer"): without dotted quads, which `Display` has for mapped addresses.
fn ipv6_host(address: Ipv6Addr) -> String {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => format!("[::ffff:{high:x}:{low:x}]"),
        _ => format!("[{address}]"),
    }
}

/// A literal loopback address. Names are not: who answers for `localhost` is up to the resolver.
fn is_loopback(host: &str) -> bool {
    ipv6(host).is_some_and(|address| address == Ipv6Addr::LOCALHOST)
        || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

/// The one spelling that requests have to use; `Err`: what is wrong with it.
fn canonical_host(host: &str) -> Result<String, &'static str> {
    if !host.is_ascii() {
        return Err("has a non-ASCII host: write it in punycode (xn--…)");
    }
    if host.starts_with('[') {
        return ipv6(host).map(ipv6_host).ok_or("has a malformed IPv6 address");
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
        return Err("has a host with characters that no host name has (there are no wildcards)");
    }
    if host.split('.').any(str::is_empty) {
        return Err("has a host with an empty label or a trailing dot");
    }
    // What some parsers read as an address (`127.1`, `0x7f.1`) has to be one, in its only spelling.
    let last = host.rsplit('.').next().unwrap_or(host);
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last.get(..2).is_some_and(|prefix| prefix.eq_ignore_ascii_case("0x"))
            && last.bytes().skip(2).all(|b| b.is_ascii_hexdigit());
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err("has a malformed IPv4 address");
    }
    Ok(host.to_ascii_lowercase())
}

/// An origin for an error text: without user-info, path and query, which may hold secrets.
fn shown(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => host,
        // An `@` further on: a password may have been cut in two.
        None if rest.contains('@') => authority.split(':').next().unwrap_or_default(),
        None => authority,
    };
    match scheme {
        // Before a `://` that is not the first one, anything can stand.
        Some(scheme) if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')) => {
            format!("{scheme}://{host}")
        }
        _ => host.to_owned(),
    }
}

// ===== endpoints =====

/// Where a refresh token or a client secret goes: an absolute `https` URI, or `http` with a literal loopback address;
/// without user-info. A fragment (RFC 6749 §3.2 forbids it) cannot be held by [`http::Uri`].
pub(crate) fn check_endpoint(uri: &http::Uri) -> Result<(), AuthError> {
    let name = || shown(&uri.to_string());
    let wrong = |what: &str| Err(AuthError::misconfigured(format!("the endpoint {:?} {what}", name())));
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return wrong("is not an absolute URI");
    };
    let authority = authority.as_str();
    if authority.contains('@') {
        return wrong("has user-info");
    }
    let (host, rest) = split_host(authority);
    if host.is_empty() {
        return wrong("has no host");
    }
    if parse_port(rest).is_none() {
        return wrong("has a malformed port");
    }
    match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => Ok(()),
        _ if scheme.eq_ignore_ascii_case("http") && is_loopback(host) => Ok(()),
        _ if scheme.eq_ignore_ascii_case("http") => Err(AuthError::new(
            ErrorKind::InsecureOrigin,
            format!("the endpoint {:?} is plain http: use https, or a literal loopback address", name()),
        )),
        _ => wrong("is not https"),
    }
}

#[cfg(test)]
mod tests;
