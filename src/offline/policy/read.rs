//! From a file to a policy. A person who mistyped a key reads what comes out of here.

use super::{
    OfflinePolicy, Rule, Sensitivity, WhenReauthRequired,
    document::{Entry, Fault, Node, Source, Value, cut, join},
};
use crate::{denial::Capability, error::AuthError};
use std::time::Duration;

const TOP: &[&str] = &["capabilities", "tiers", "grants_max_age"];
const CLAUSE: &[&str] = &[
    "max_offline",
    "online",
    "token",
    "token_fresh",
    "fresh_within",
    "step_up_within",
    "read_only_after_expiry",
    "scope",
    "role",
    "sensitivity",
    "when_reauth_required",
    "reads",
];
const ANY_OF: &str = "any_of";
/// What the limits of a tier cannot say.
const NOT_OF_TIERS: &[&str] = &["sensitivity", "reads"];

const DURATION: &str = r#"expected a duration such as "7d", "48h", "5m", "30s" or "1h30m""#;

pub(super) fn policy(source: Source<'_>) -> Result<OfflinePolicy, AuthError> {
    let read = || document(&source.parse()?, source.is_toml());
    read().map_err(|fault| source.error(&fault))
}

pub(super) fn document(document: &Node, toml: bool) -> Result<OfflinePolicy, Fault> {
    Reader { toml, tiers: Vec::new() }.policy(document)
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Rule,
    ClauseOfRule,
    Tier,
    ClauseOfTier,
}

impl Part {
    fn is_tier(self) -> bool {
        matches!(self, Self::Tier | Self::ClauseOfTier)
    }

    fn keys(self) -> Vec<&'static str> {
        let mut keys = CLAUSE.to_vec();
        if self.is_tier() {
            keys.retain(|key| !NOT_OF_TIERS.contains(key));
        }
        if matches!(self, Self::Rule | Self::Tier) {
            keys.insert(0, ANY_OF);
        }
        keys
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::ClauseOfRule => "clause",
            Self::Tier => "tier",
            Self::ClauseOfTier => "clause of a tier",
        }
    }
}

/// A tier that a clause names, and where.
struct Named {
    at: usize,
    path: String,
    tier: Sensitivity,
}

struct Reader {
    toml: bool,
    tiers: Vec<Named>,
}

impl Reader {
    fn policy(&mut self, document: &Node) -> Result<OfflinePolicy, Fault> {
        let mut policy = OfflinePolicy::new();
        for entry in table(document, "the policy")? {
            match entry.key.as_str() {
                "capabilities" => {
                    for entry in table(&entry.node, "`capabilities`")? {
                        let path = join("capabilities", &entry.key);
                        if !is_name(&entry.key) {
                            return Err(Fault::new(entry.at, format!("`{path}`: {NAME}")));
                        }
                        let rule = self.rule(entry, &path, Part::Rule)?;
                        policy = policy.rule(Capability::from(entry.key.clone()), rule);
                    }
                }
                "tiers" => {
                    for entry in table(&entry.node, "`tiers`")? {
                        let path = join("tiers", &entry.key);
                        let tier = tier(&entry.key).ok_or_else(|| {
                            let what = unknown(&entry.key, &TIERS.map(|(name, _)| name), '`');
                            Fault::new(entry.at, format!("`{path}` is not a tier: {what}"))
                        })?;
                        let limits = self.rule(entry, &path, Part::Tier)?;
                        policy = policy.tier(tier, limits);
                    }
                }
                "grants_max_age" => policy = policy.grants_max_age(duration(entry, "grants_max_age")?),
                key => {
                    let what = format!("`{}` is not a key of a policy: {}", join("", key), unknown(key, TOP, '`'));
                    return Err(Fault::new(entry.at, what));
                }
            }
        }
        match self.tiers.iter().find(|named| policy.tiers[named.tier as usize].is_none()) {
            None => Ok(policy),
            Some(Named { at, path, tier }) => {
                let name = name_of(&TIERS, *tier);
                let what = format!("`{path}` is {name:?}, a tier without limits: expected them under `tiers.{name}`");
                Err(Fault::new(*at, what))
            }
        }
    }

    /// The keys beside `any_of` hold for each of its clauses: as in code, where a method adds to every clause.
    fn rule(&mut self, entry: &Entry, path: &str, part: Part) -> Result<Rule, Fault> {
        let entries = table_at(&entry.node, entry.at, &format!("`{path}`"))?;
        let any_of = entries.iter().find(|entry| entry.key == ANY_OF);
        let rule = match any_of {
            None => Rule::new(),
            Some(entry) => {
                let path = join(path, ANY_OF);
                let clause = if part == Part::Tier { Part::ClauseOfTier } else { Part::ClauseOfRule };
                let wrong = |found: &str| {
                    let what = format!("`{path}` is {found}: expected a list of clauses");
                    Fault::new(entry.at, what)
                };
                let Value::List(clauses) = &entry.node.value else { return Err(wrong(&entry.node.value.describe())) };
                if clauses.is_empty() {
                    return Err(wrong("empty"));
                }
                let clauses = clauses.iter().enumerate().map(|(number, node)| {
                    let path = format!("{path}[{number}]");
                    let entries = table(node, &format!("`{path}`"))?;
                    self.conditions(Rule::new(), entries, &path, clause)
                });
                Rule::any_of(clauses.collect::<Result<Vec<_>, _>>()?)
            }
        };
        let others = entries.iter().filter(|entry| entry.key != ANY_OF);
        self.conditions(rule, others, path, part)
    }

    fn conditions<'e>(
        &mut self,
        rule: Rule,
        entries: impl IntoIterator<Item = &'e Entry>,
        path: &str,
        part: Part,
    ) -> Result<Rule, Fault> {
        entries.into_iter().try_fold(rule, |rule, entry| self.condition(rule, entry, &join(path, &entry.key), part))
    }

    fn condition(&mut self, rule: Rule, entry: &Entry, path: &str, part: Part) -> Result<Rule, Fault> {
        Ok(match entry.key.as_str() {
            key if part.is_tier() && NOT_OF_TIERS.contains(&key) => {
                let what = format!("`{path}`: `{key}` belongs to a capability; the limits of a tier have none");
                return Err(Fault::new(entry.at, what));
            }
            // `[capabilities.jobs.view]` names a capability `jobs` with a key `view`, and no key takes a table.
            key if self.toml && part == Part::Rule && matches!(entry.node.value, Value::Table(_)) => {
                let why = if CLAUSE.contains(&key) { "takes no table" } else { "is not a key of a rule" };
                let what = format!(
                    "`{path}` {why}: a capability with a dot in its name is written in quotes, as in \
                     [capabilities.\"jobs.view\"]"
                );
                return Err(Fault::new(entry.at, what));
            }
            "max_offline" => rule.max_offline(duration(entry, path)?),
            "online" => flag(entry, path).map(|()| rule.online())?,
            "token" => one_of(entry, path, &[("fresh", ())]).map(|()| rule.token_fresh())?,
            "token_fresh" => flag(entry, path).map(|()| rule.token_fresh())?,
            "fresh_within" => rule.fresh_within(duration(entry, path)?),
            "step_up_within" => rule.step_up_within(duration(entry, path)?),
            "read_only_after_expiry" => flag(entry, path).map(|()| rule.read_only_after_expiry())?,
            "scope" => {
                let scopes = names(entry, path)?;
                // RFC 6749 section 3.3: a space stands between scopes, so that nobody would ever have such a one.
                if let Some(several) = scopes.iter().find(|scope| scope.contains(' ')) {
                    let what = format!("`{path}` has {:?}: a scope has no spaces; several are a list", cut(several));
                    return Err(Fault::new(entry.at, what));
                }
                scopes.into_iter().fold(rule, Rule::scope)
            }
            "role" => names(entry, path)?.into_iter().fold(rule, Rule::role),
            "sensitivity" => {
                let tier = one_of(entry, path, &TIERS)?;
                self.tiers.push(Named { at: entry.at, path: path.to_owned(), tier });
                rule.sensitivity(tier)
            }
            "when_reauth_required" => rule.when_reauth_required(one_of(entry, path, &WHEN)?),
            "reads" => flag(entry, path).map(|()| rule.reads())?,
            ANY_OF => {
                let what = format!("`{path}`: a clause has no `{ANY_OF}` of its own; list its clauses one level up");
                return Err(Fault::new(entry.at, what));
            }
            key => {
                let what = format!("`{path}` is not a key of a {}: {}", part.name(), unknown(key, &part.keys(), '`'));
                return Err(Fault::new(entry.at, what));
            }
        })
    }
}

// ===== values =====

const TIERS: [(&str, Sensitivity); 3] =
    [("low", Sensitivity::Low), ("medium", Sensitivity::Medium), ("high", Sensitivity::High)];

/// The first three are how it is written; the others are accepted, as they are named in code.
const WHEN: [(&str, WhenReauthRequired); 6] = [
    ("deny", WhenReauthRequired::Deny),
    ("read_only", WhenReauthRequired::ReadOnly),
    ("as_offline", WhenReauthRequired::AsOffline),
    ("Deny", WhenReauthRequired::Deny),
    ("ReadOnly", WhenReauthRequired::ReadOnly),
    ("AsOffline", WhenReauthRequired::AsOffline),
];

const NAME: &str = "expected a name, without spaces around it and without control characters";

fn tier(name: &str) -> Option<Sensitivity> {
    TIERS.iter().find(|(known, _)| *known == name).map(|(_, tier)| *tier)
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, it)| *it == value).map_or("", |(name, _)| name)
}

fn table<'n>(node: &'n Node, what: &str) -> Result<&'n [Entry], Fault> {
    table_at(node, node.at, what)
}

fn table_at<'n>(node: &'n Node, at: usize, what: &str) -> Result<&'n [Entry], Fault> {
    match &node.value {
        Value::Table(entries) => Ok(entries),
        other => Err(Fault::new(at, format!("{what} is {}: expected keys with their values", other.describe()))),
    }
}

fn is(entry: &Entry, path: &str, expected: &str) -> Fault {
    Fault::new(entry.at, format!("`{path}` is {}: {expected}", entry.node.value.describe()))
}

/// A condition that is there or not: there is no way to say that it must not hold.
fn flag(entry: &Entry, path: &str) -> Result<(), Fault> {
    match entry.node.value {
        Value::Bool(true) => Ok(()),
        Value::Bool(false) => Err(is(entry, path, "expected true; to ask for nothing, leave the key out")),
        _ => Err(is(entry, path, "expected true")),
    }
}

fn one_of<T: Copy + PartialEq>(entry: &Entry, path: &str, values: &[(&'static str, T)]) -> Result<T, Fault> {
    let text = if let Value::Text(text) = &entry.node.value { text.as_str() } else { "" };
    if let Some((_, value)) = values.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let first_names = values.iter().filter(|(name, value)| name_of(values, *value) == *name);
    Err(is(entry, path, &unknown(text, &first_names.map(|(name, _)| *name).collect::<Vec<_>>(), '"')))
}

/// One name, or several.
fn names(entry: &Entry, path: &str) -> Result<Vec<String>, Fault> {
    let name = |value: &Value| match value {
        Value::Text(text) if is_name(text) => Some(text.clone()),
        _ => None,
    };
    match &entry.node.value {
        Value::List(items) if items.is_empty() => {
            Err(Fault::new(entry.at, format!("`{path}` is empty: expected a name, or a list of names")))
        }
        Value::List(items) => {
            let wrong = |item: &Node| {
                let found = item.value.describe();
                Fault::new(item.at, format!("`{path}` has {found} among its names: {NAME}"))
            };
            items.iter().map(|item| name(&item.value).ok_or_else(|| wrong(item))).collect()
        }
        Value::Text(_) => name(&entry.node.value).map(|name| vec![name]).ok_or_else(|| is(entry, path, NAME)),
        _ => Err(is(entry, path, "expected a name, or a list of names")),
    }
}

/// Names are shown, and looked for in what is shown: none may end its line, or turn the direction of the writing.
fn is_name(text: &str) -> bool {
    let disguises = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !text.is_empty() && text.trim() == text && !text.contains(disguises)
}

fn duration(entry: &Entry, path: &str) -> Result<Duration, Fault> {
    let Value::Text(text) = &entry.node.value else { return Err(is(entry, path, DURATION)) };
    match seconds(text) {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(NotADuration::TooLong) => Err(is(entry, path, "that is too long to be a duration")),
        Err(NotADuration::Malformed) => Err(is(entry, path, DURATION)),
    }
}

enum NotADuration {
    Malformed,
    TooLong,
}

/// `1h30m`: whole numbers with their units, the larger unit first.
fn seconds(text: &str) -> Result<u64, NotADuration> {
    let (mut rest, mut total, mut below) = (text, 0_u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let mut tail = tail.chars();
        let unit = match tail.next() {
            Some('d') => 86_400,
            Some('h') => 3_600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(NotADuration::Malformed),
        };
        if number.is_empty() || unit >= below {
            return Err(NotADuration::Malformed);
        }
        let number: u64 = number.parse().map_err(|_| NotADuration::TooLong)?;
        let sum = number.checked_mul(unit).and_then(|it| it.checked_add(total));
        total = sum.ok_or(NotADuration::TooLong)?;
        (rest, below) = (tail.as_str(), unit);
    }
    if text.is_empty() { Err(NotADuration::Malformed) } else { Ok(total) }
}

// ===== words =====

/// `did you mean …?` if one of the known keys is near, and what is expected.
fn unknown(key: &str, known: &[&str], quote: char) -> String {
    let quoted = |word: &str| format!("{quote}{word}{quote}");
    let all = match known.iter().map(|word| quoted(word)).collect::<Vec<_>>().as_slice() {
        [init @ .., last] if !init.is_empty() => format!("{} or {last}", init.join(", ")),
        one => one.concat(),
    };
    match nearest(key, known).filter(|_| known.len() > 1) {
        Some(near) => format!("did you mean {}? Expected {all}", quoted(near)),
        None => format!("expected {all}"),
    }
}

fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    /// Longer keys are nobody's typo.
    const LONGEST: usize = 40;
    if key.len() > LONGEST {
        return None;
    }
    let plain = |key: &str| key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let key = plain(key);
    let (distance, near) = known
        .iter()
        .map(|known| {
            let plain = plain(known);
            // A part of a key is nearer than most typos: `step_up`, `offline`.
            let part = key.len() >= 4 && (plain.contains(&key) || key.contains(&plain));
            (if part { 1 } else { distance(&key, &plain) }, *known)
        })
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= 1.max(key.len() / 3)).then_some(near)
}

/// How many letters have to be put in, left out, changed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
