//! What the simulator has found, in its notation.

use super::case::Case;
use super::hunt::run;

/// How many interleavings of each are tried.
const SCHEDULES: u64 = 150;

/// What each is about, and the case.
const FOUND: &[(&str, &str)] = &[(
    "the next request is sent before the client has taken the answers to the one before",
    "setup mode=session socket=64 step=0
     client half_close
     [Q('start transaction') Q('close all') Q('select ''x''::int') Q('commit')]",
)];

#[test]
fn what_was_found_stays_mended() {
    for (about, text) in FOUND {
        let case: Case = text.parse().expect(about);
        for schedule in 0..SCHEDULES {
            let (_, found) = run(&Case { schedule, ..case.clone() });
            assert_eq!(found, None, "{about}, schedule {schedule}");
        }
    }
}
