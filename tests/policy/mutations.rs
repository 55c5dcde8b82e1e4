//! Files that were damaged at random: the body of the fuzz targets over the same seeds.

use super::policy_probe::{Format, probe};
use proptest::{collection::vec, prelude::*, sample::select};
use std::{fs, path::Path};

/// The seeds of the fuzz targets, and the file that is shipped.
fn seeds(format: Format) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = root.join(match format {
        Format::Toml => "tests/policy/seeds/toml",
        Format::Json => "tests/policy/seeds/json",
    });
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut seeds: Vec<_> = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    if matches!(format, Format::Toml) {
        seeds.push(fs::read_to_string(root.join("examples/field_service.toml")).unwrap());
    }
    seeds.sort();
    seeds
}

/// A change to a text, at a place given in parts of a thousand.
#[derive(Clone, Debug)]
enum Damage {
    Remove(u16, u8),
    Insert(u16, &'static str),
    Repeat(u16, u8),
    Cut(u16),
}

const BITS: [&str; 22] = [
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    ":",
    ",",
    ".",
    "\n",
    "any_of",
    "tiers.high",
    "online = true\n",
    "\"7d\"",
    "99999999999999999999d",
    "\u{0}",
    "é",
    "\\ud800",
    "1e999",
    "null",
    "sensitivity",
];

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0..1000_u16, any::<u8>()).prop_map(|(at, length)| Damage::Remove(at, length)),
        (0..1000_u16, select(&BITS[..])).prop_map(|(at, bit)| Damage::Insert(at, bit)),
        (0..1000_u16, any::<u8>()).prop_map(|(at, length)| Damage::Repeat(at, length)),
        (0..1000_u16).prop_map(Damage::Cut),
    ]
}

fn apply(text: &mut String, damage: &Damage) {
    let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
    let place = |at: u16| boundary(text.len() * usize::from(at) / 1000);
    let end = |from: usize, length: u8| boundary(from + usize::from(length) % 40);
    match *damage {
        Damage::Remove(at, length) => {
            let from = place(at);
            text.replace_range(from..end(from, length).max(from), "");
        }
        Damage::Insert(at, bit) => text.insert_str(place(at), bit),
        Damage::Repeat(at, length) => {
            let from = place(at);
            let piece = text[from..end(from, length).max(from)].to_owned();
            text.insert_str(from, &piece);
        }
        Damage::Cut(at) => text.truncate(place(at)),
    }
}

#[test]
fn every_seed_is_a_policy() {
    for format in [Format::Toml, Format::Json] {
        let seeds = seeds(format);
        assert!(seeds.len() >= 3, "{format:?}: {} seeds", seeds.len());
        for seed in seeds {
            assert!(probe(format, &seed), "{seed}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_read_or_refused(toml in any::<bool>(), which in any::<prop::sample::Index>(), all in vec(damage(), 1..6)) {
        let format = if toml { Format::Toml } else { Format::Json };
        let seeds = seeds(format);
        let mut text = seeds[which.index(seeds.len())].clone();
        all.iter().for_each(|damage| apply(&mut text, damage));
        probe(format, &text);
    }

    #[test]
    fn noise_is_refused(noise in "\\PC{0,80}") {
        probe(Format::Toml, &noise);
        probe(Format::Json, &noise);
    }
}
