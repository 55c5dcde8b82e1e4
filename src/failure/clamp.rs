//! Numbers that servers send, brought to durations that cannot hurt: negative is nothing, huge is the most there is, and
//! what is no number is not there. Nothing here can panic.

use std::time::{Duration, SystemTime};

/// No lifetime is longer: ten years.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// No `Retry-After` keeps us quiet for longer: one hour.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// Seconds as they stand in JSON or a header: whole or not, signed, with an exponent, of any size. `None` for what is
/// not a number, `NaN` and `Infinity` included.
pub(crate) fn seconds(text: &str, max: Duration) -> Option<Duration> {
    let text = text.trim();
    // `f64` would read "inf" and "nan" too.
    if !text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E')) {
        return None;
    }
    let value: f64 = text.parse().ok()?; // 1e400 reads as infinite
    Some(if value >= max.as_secs_f64() { max } else { Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(max) })
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds, or a date as seen from `from`.
pub(crate) fn retry_after(text: &str, from: Option<SystemTime>) -> Option<Duration> {
    seconds(text, MAX_RETRY_AFTER).or_else(|| {
        let at = httpdate::parse_http_date(text.trim()).ok()?;
        Some(at.duration_since(from?).unwrap_or_default().min(MAX_RETRY_AFTER))
    })
}
