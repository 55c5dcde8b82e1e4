//! What Redis does in one step. Keys and arguments are given in the order of each script's first line; all keys of an
//! account carry the same hash tag.
//!
//! A record is a hash with the fields `version` and `bytes`; a lease is its owner's name, with a term; a mark is a
//! number of 20 digits, since Lua's numbers are too short for it and texts of one length compare like numbers. An
//! expected version is `=VERSION`, or empty for "must not exist".

use redis::Script;
use std::sync::LazyLock;

/// The words that a script's answer may begin with, other than `ok`.
pub(super) mod word {
    pub(in super::super) const HELD: &[u8] = b"held";
    pub(in super::super) const NONE: &[u8] = b"none";
    pub(in super::super) const LOST: &[u8] = b"lost";
    pub(in super::super) const CONFLICT: &[u8] = b"conflict";
    pub(in super::super) const LARGE: &[u8] = b"large";
    pub(in super::super) const FOREIGN: &[u8] = b"foreign";
}

type Lazy = LazyLock<Script>;

pub(super) static LOAD: Lazy = LazyLock::new(|| {
    Script::new(
        "-- record; largest
        if redis.call('HSTRLEN', KEYS[1], 'bytes') > tonumber(ARGV[1]) then return {'large'} end
        local found = redis.call('HMGET', KEYS[1], 'version', 'bytes')
        if found[1] and found[2] then return {'ok', found[1], found[2]} end
        if redis.call('EXISTS', KEYS[1]) == 1 then return {'foreign'} end
        return {'none'}",
    )
});

/// Asked twice by the same owner, it starts the term anew: the first answer may have been lost.
pub(super) static LEASE: Lazy = LazyLock::new(|| {
    Script::new(
        "-- lease; owner, milliseconds
        local holder = redis.call('GET', KEYS[1])
        if holder and holder ~= ARGV[1] then return {'held'} end
        redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
        return {'ok'}",
    )
});

pub(super) static RENEW: Lazy = LazyLock::new(|| {
    Script::new(
        "-- lease; owner, milliseconds
        if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end
        redis.call('PEXPIRE', KEYS[1], ARGV[2])
        return {'ok'}",
    )
});

pub(super) static RELEASE: Lazy = LazyLock::new(|| {
    Script::new(
        "-- lease; owner
        if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
        return {'ok'}",
    )
});

/// Asked twice, it answers twice the same: the version is nobody else's. The hint is not worth an error (`pcall`).
pub(super) static SAVE: Lazy = LazyLock::new(|| {
    Script::new(
        "-- lease, record; owner, channel, expected, version, bytes
        if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end
        local version = redis.call('HGET', KEYS[2], 'version')
        if version == ARGV[4] then return {'ok'} end
        if not version and redis.call('EXISTS', KEYS[2]) == 1 then return {'conflict'} end
        if (version and '=' .. version or '') ~= ARGV[3] then return {'conflict'} end
        redis.call('HSET', KEYS[2], 'version', ARGV[4], 'bytes', ARGV[5])
        redis.pcall('PUBLISH', ARGV[2], '')
        return {'ok'}",
    )
});

pub(super) static REMOVE: Lazy = LazyLock::new(|| {
    Script::new(
        "-- lease, record; owner, channel, expected
        if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end
        local version = redis.call('HGET', KEYS[2], 'version')
        if not version and redis.call('EXISTS', KEYS[2]) == 1 then return {'conflict'} end
        if (version and '=' .. version or '') ~= ARGV[3] then return {'conflict'} end
        redis.call('DEL', KEYS[2])
        redis.pcall('PUBLISH', ARGV[2], '')
        return {'ok'}",
    )
});

/// Whatever it is. A term that somebody gave it ends with it: what is kept aside is kept.
pub(super) static SET_ASIDE: Lazy = LazyLock::new(|| {
    Script::new(
        "-- lease, record, aside; owner, channel
        if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end
        if redis.call('EXISTS', KEYS[2]) == 1 then
            redis.call('RENAME', KEYS[2], KEYS[3])
            redis.call('PERSIST', KEYS[3])
            redis.pcall('PUBLISH', ARGV[2], '')
        end
        return {'ok'}",
    )
});

pub(super) static RAISE: Lazy = LazyLock::new(|| {
    Script::new(
        "-- mark; channel, to
        local mark = redis.call('GET', KEYS[1]) or '00000000000000000000'
        if #mark ~= 20 or string.find(mark, '%D') then return {'foreign'} end
        if ARGV[2] > mark then
            mark = ARGV[2]
            redis.call('SET', KEYS[1], mark)
            redis.pcall('PUBLISH', ARGV[1], '')
        end
        return {'ok', mark}",
    )
});
