//! What is tried with the text of a policy file, whatever it is: the body of the fuzz targets, and of the tests that
//! change files at random.

use std::time::{Duration, SystemTime};
use tower_reauth::{ErrorKind, Grants, OfflinePolicy, Remedy, Situation};

#[derive(Clone, Copy, Debug)]
#[allow(dead_code)] // each user needs one of them
pub enum Format {
    Toml,
    Json,
}

/// Reads it. What can be read is asked for all that it names, in many situations, and explains itself; what cannot be is
/// refused with an error that names a line. Returns whether it could be read.
pub fn probe(format: Format, text: &str) -> bool {
    let read = match format {
        Format::Toml => OfflinePolicy::from_toml(text),
        Format::Json => OfflinePolicy::from_json(text),
    };
    if matches!(format, Format::Json) && !text.starts_with('\u{feff}') {
        // As a part of a larger file it is the same policy, or none.
        let embedded = serde_json::from_str::<OfflinePolicy>(text);
        assert_eq!(embedded.as_ref().ok(), read.as_ref().ok(), "{embedded:?} {read:?}");
    }
    match read {
        Ok(policy) => {
            let words = policy.to_string();
            // Those of the seeds, so that a rule is asked; the words of the policy begin each line with a name.
            let known = ["read", "write", "a", "jobs.view", "notes.create", "jobs.complete", "jobs.approve"];
            let named = words.lines().filter_map(|line| Some(line.split_once(" is allowed ")?.0.to_owned()));
            let named: Vec<_> = named.take(20).chain(known.map(str::to_owned)).collect();
            for situation in situations() {
                named.iter().for_each(|capability| ask(&policy, &situation, capability));
            }
            true
        }
        Err(error) => {
            let message = error.to_string();
            let rest = message.strip_prefix("offline policy, line ").and_then(|rest| rest.split_once(": "));
            let line = rest.and_then(|(line, _)| line.parse::<usize>().ok());
            let last = 1 + text.matches('\n').count();
            assert!(line.is_some_and(|line| (1..=last).contains(&line)), "of {last} lines: {message}");
            assert_eq!(error.kind(), ErrorKind::Misconfigured);
            assert!(message.len() < 2000, "a person has to read this: {message}");
            false
        }
    }
}

fn ask(policy: &OfflinePolicy, situation: &Situation, capability: &str) {
    let answer = situation.ask(policy, capability.to_owned());
    let why = situation.with(capability.to_owned(), |cx| policy.explain(cx));
    assert_eq!(why.decision(), answer, "{why}");
    if let Err(denial) = answer {
        assert_eq!(denial.capability().as_str(), capability);
        assert_eq!(denial.remedy(), denial.reason().remedy());
        assert!(denial.remedy() != Remedy::ContactAdmin, "nobody is locked here: {denial}");
    }
}

fn situations() -> Vec<Situation> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let grants = Grants::new().role("lead").scope("jobs").offline_until(now - Duration::from_secs(60));
    let alice = Situation::new("alice").now(now);
    let away = alice.clone().offline_stale().offline_for(Duration::MAX).signed_in(Duration::MAX);
    vec![
        alice.clone().stepped_up(Duration::ZERO).grants(grants.clone()),
        alice.clone().online(None).token_fresh(false).offline_for(None).signed_in(None).grants_age(None),
        alice.clone().clock_untrusted().grants(grants.clone()),
        alice.reauth_required().stepped_up(Duration::MAX),
        away.clone().stepped_up(Duration::from_secs(300)).grants_age(Duration::MAX),
        away.grants(grants),
    ]
}
