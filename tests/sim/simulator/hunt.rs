//! Runs of many seeds, and what they find.

use std::time::Instant;

use pgferry::internals::config::{Mode, Reset};

use super::case::{Case, Wishes};
use super::check::{Finding, Kind, check};
use super::play::{play, play_alone};
use crate::shrink::shrink;

/// What a run comes to: its steps, and what is wrong with it.
pub fn run(case: &Case) -> (usize, Option<Finding>) {
    match play(case, play_alone(case), false) {
        Ok(played) => (played.steps, check(case, &played)),
        Err(panic) => (0, Some(Finding { kind: Kind::Panic, text: format!("a panic: {panic}"), mark: String::new() })),
    }
}

/// How many other interleavings of a smaller case are tried.
const TRIES: u64 = 12;

fn fails(case: &mut Case, known: &Finding) -> bool {
    let schedule = case.schedule;
    for other in 0..TRIES {
        case.schedule = if other == 0 { schedule } else { schedule.wrapping_mul(31).wrapping_add(other) % 100_000 };
        if run(case).1.is_some_and(|found| found.kind == known.kind && found.mark == known.mark) {
            return true;
        }
    }
    case.schedule = schedule;
    false
}

/// The smallest case found that still fails.
fn smaller(case: Case, known: &Finding, seconds: u64) -> Case {
    let began = Instant::now();
    let mut best = case;
    loop {
        let mut any = false;
        for at in (0..best.members.len()).rev() {
            let mut candidate = best.clone();
            candidate.members.remove(at);
            if !candidate.members.is_empty() && fails(&mut candidate, known) {
                best = candidate;
                any = true;
            }
        }
        for at in (0..best.faults.len()).rev() {
            let mut candidate = best.clone();
            candidate.faults.remove(at);
            if fails(&mut candidate, known) {
                best = candidate;
                any = true;
            }
        }
        for at in 0..best.members.len() {
            if best.members[at].units.is_some() {
                continue;
            }
            let script = best.members[at].script.clone();
            let before = script.to_string();
            let mut base = best.clone();
            let script = shrink(script, 300, |script| {
                if began.elapsed().as_secs() > seconds {
                    return false;
                }
                let mut candidate = base.clone();
                candidate.members[at].script = script.clone();
                let failed = fails(&mut candidate, known);
                if failed {
                    base.schedule = candidate.schedule;
                }
                failed
            });
            best.schedule = base.schedule;
            any |= script.to_string() != before;
            best.members[at].script = script;
        }
        if !any || began.elapsed().as_secs() > seconds {
            return best;
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn wishes() -> Wishes {
    let text = |name| std::env::var(name).unwrap_or_default();
    Wishes {
        mode: match text("SIM_MODE").as_str() {
            "session" => Some(Mode::Session),
            "transaction" => Some(Mode::Transaction),
            _ => None,
        },
        reset: match text("SIM_RESET").as_str() {
            "auto" => Some(Reset::Auto),
            "always" => Some(Reset::Always),
            "on_change" => Some(Reset::OnChange),
            "never" => Some(Reset::Never),
            _ => None,
        },
        faults: text("SIM_FAULTS").parse().ok(),
    }
}

/// What `case` comes to, told in full.
fn tell(case: &Case, found: &str) -> String {
    let mut text = format!("{found}\n{case}");
    if let Ok(played) = play(case, play_alone(case), true) {
        for (client, alone) in played.clients.iter().zip(&played.alone) {
            text.push_str(&format!(
                "  {}\n    told  {}\n    alone {}\n",
                client.shown(),
                client.transcript,
                alone.transcript
            ));
        }
        if let Some(log) = &played.world.log {
            let log = log.borrow();
            for line in log.iter().skip(log.len().saturating_sub(400)) {
                let line: String = line.chars().take(600).collect();
                text.push_str(&line);
                text.push('\n');
            }
        }
    }
    text
}

#[test]
fn clients_are_told_what_they_would_be_told_alone() {
    if let Ok(path) = std::env::var("SIM_CASE") {
        let text = std::fs::read_to_string(&path).expect("a case in a file");
        let case: Case = text.parse().expect("a case");
        if let Some(found) = run(&case).1 {
            panic!("{}", tell(&case, &found.text));
        }
        return;
    }
    let wishes = wishes();
    if let Some(seed) = number("SIM_SEED") {
        let case = Case::of(seed, wishes);
        if let Some(found) = run(&case).1 {
            let case = if number("SIM_SHRINK") == Some(0) { case } else { smaller(case, &found, 60) };
            let found = run(&case).1.unwrap_or(found);
            panic!("seed {seed}: {}", tell(&case, &found.text));
        }
        return;
    }
    let (steps, runs) = match number("SIM_STEPS") {
        Some(steps) => (steps, u64::MAX),
        None => (u64::MAX, 1500),
    };
    let most = number("SIM_FINDINGS").unwrap_or(1);
    let (mut done, mut findings) = (0, Vec::new());
    let first = number("SIM_FROM").unwrap_or(1);
    let mut seed = first;
    let began = Instant::now();
    while done < steps && seed - first < runs {
        let case = Case::of(seed, wishes);
        let (taken, found) = run(&case);
        done += taken as u64;
        if let Some(found) = found {
            eprintln!("seed {seed}: {}", found.text.lines().take(4).collect::<Vec<_>>().join(" / "));
            findings.push((seed, case, found));
            if findings.len() as u64 >= most {
                break;
            }
        }
        seed += 1;
    }
    eprintln!("{done} steps of {} runs in {:?}", seed - first, began.elapsed());
    if let Some((seed, case, found)) = findings.into_iter().next() {
        let case = if number("SIM_SHRINK") == Some(0) { case } else { smaller(case, &found, 60) };
        let found = run(&case).1.unwrap_or(found);
        panic!("seed {seed}: {}", tell(&case, &found.text));
    }
}
