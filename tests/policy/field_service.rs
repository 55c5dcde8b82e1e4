//! Case 31: the three tiers of SEMANTICS §5, from the file that is shipped, at each of their boundaries.

use super::{DAY, HOUR, MINUTE, SECOND, alice, ask};
use std::time::Duration;
use tower_reauth::{DenyReason::*, OfflinePolicy, Rule, Situation};

const SHIPPED: &str = include_str!("../../examples/field_service.toml");

fn policy() -> OfflinePolicy {
    OfflinePolicy::from_toml(SHIPPED).unwrap()
}

fn around(bound: Duration) -> [Duration; 3] {
    [bound - SECOND, bound, bound + SECOND]
}

/// The same moment with the network there and gone, and known or not; the token is spent where it has to be.
fn networks(situation: &Situation) -> [Situation; 3] {
    [situation.clone(), situation.clone().online(None), situation.clone().offline_stale()]
}

#[test]
fn case_31_the_file_says_what_the_code_says() {
    let in_code = OfflinePolicy::new()
        .rule("jobs.view", Rule::new().max_offline(7 * DAY).reads())
        .rule("notes.create", Rule::new().max_offline(48 * HOUR).step_up_within(12 * HOUR))
        .rule("jobs.complete", Rule::any_of([Rule::new().online().token_fresh(), Rule::new().max_offline(5 * MINUTE)]));
    assert_eq!(policy(), in_code);
}

#[test]
fn case_31_assigned_jobs_can_be_viewed_for_seven_days() {
    let policy = policy();
    for (offline_for, answer) in around(7 * DAY).into_iter().zip([Ok(()), Ok(()), Err(OfflineWindowExpired)]) {
        for situation in networks(&alice().offline_for(offline_for)) {
            assert_eq!(ask(&policy, &situation, "jobs.view"), answer, "{situation:?}");
            // It reads: a refused grant does not end it, the window does.
            assert_eq!(ask(&policy, &situation.reauth_required(), "jobs.view"), answer);
        }
    }
}

#[test]
fn case_31_notes_can_be_created_for_48_hours_with_an_unlock_within_12() {
    let policy = policy();
    for (offline_for, in_window) in around(48 * HOUR).into_iter().zip([Ok(()), Ok(()), Err(OfflineWindowExpired)]) {
        for (unlocked, is_unlocked) in around(12 * HOUR).into_iter().zip([Ok(()), Ok(()), Err(StepUpRequired)]) {
            for situation in networks(&alice().offline_for(offline_for).stepped_up(unlocked)) {
                assert_eq!(ask(&policy, &situation, "notes.create"), in_window.and(is_unlocked), "{situation:?}");
            }
        }
        let never_unlocked = alice().offline_for(offline_for);
        assert_eq!(ask(&policy, &never_unlocked, "notes.create"), in_window.and(Err(StepUpRequired)));
        // A refused grant ends what writes.
        let refused = alice().offline_for(offline_for).stepped_up(SECOND).reauth_required();
        assert_eq!(ask(&policy, &refused, "notes.create"), Err(ReauthRequired));
    }
}

#[test]
fn case_31_a_job_is_completed_online_or_within_five_minutes() {
    let policy = policy();
    for (offline_for, in_window) in around(5 * MINUTE).into_iter().zip([Ok(()), Ok(()), Err(OfflineWindowExpired)]) {
        let at = alice().offline_for(offline_for);
        assert_eq!(ask(&policy, &at, "jobs.complete"), Ok(()), "online, with a fresh token");
        assert_eq!(ask(&policy, &at.clone().online(None), "jobs.complete"), Ok(()), "unknown counts as online");
        for not_quite in [
            at.clone().token_fresh(false),
            at.clone().online(false),
            at.clone().offline_stale(),
            at.clone().grant_rejected(true), // the server can be reached, but it would not help
        ] {
            assert_eq!(ask(&policy, &not_quite, "jobs.complete"), in_window, "{not_quite:?}");
        }
    }
}

#[test]
fn p15_with_a_clock_that_is_not_trusted_only_what_needs_no_time_goes_on() {
    let policy = policy();
    let doubtful = alice().stepped_up(SECOND).clock_untrusted();
    assert_eq!(ask(&policy, &doubtful, "jobs.view"), Err(ClockUntrusted));
    assert_eq!(ask(&policy, &doubtful, "notes.create"), Err(ClockUntrusted));
    assert_eq!(ask(&policy, &doubtful, "jobs.complete"), Ok(()), "online with a fresh token: no window is asked");
    assert_eq!(ask(&policy, &doubtful.offline_stale(), "jobs.complete"), Err(ClockUntrusted));
}

#[test]
fn what_the_file_does_not_name_is_denied() {
    for capability in ["read", "write", "jobs", "jobs.view ", "jobs.delete", ""] {
        assert_eq!(ask(&policy(), &alice(), capability), Err(UnknownCapability));
    }
}
