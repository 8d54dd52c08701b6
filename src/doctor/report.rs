//! How findings are told: to people, and to programs.

use std::fmt::Write as _;

use serde_json::json;

use super::facts::Facts;
use super::finding::{Finding, Level};
use crate::log::{visible, visible_json};

/// The report for people; `colour` for a terminal. What servers and programs say of themselves is no command to it.
#[must_use]
pub fn text(findings: &[Finding], colour: bool) -> String {
    let width = findings.iter().map(|finding| finding.topic.len()).max().unwrap_or_default().min(40);
    let mut out = String::new();
    for finding in findings {
        let (name, code) = match finding.level {
            Level::Ok => ("OK", "32"),
            Level::Info => ("INFO", "36"),
            Level::Warn => ("WARN", "33"),
            Level::Crit => ("CRIT", "31"),
        };
        let label = format!("[{name}]");
        let label = if colour { format!("\u{1b}[{code}m{label:<6}\u{1b}[0m") } else { format!("{label:<6}") };
        // Writing to a string can't fail.
        let _ = writeln!(out, "{label} {:<width$}  {}", finding.topic, visible(&finding.text));
        for advice in &finding.advice {
            let _ = writeln!(out, "{:>7}{:<width$}  → {}", "", "", visible(advice));
        }
    }
    let worst = worst(findings);
    let verdict = match worst {
        Level::Crit => "critical problems found",
        Level::Warn => "warnings found",
        _ => "no problems found",
    };
    let _ = writeln!(out, "\n{verdict}");
    out
}

/// The report for programs: facts and findings.
#[must_use]
pub(crate) fn json(facts: &Facts, findings: &[Finding]) -> String {
    let all = json!({ "verdict": worst(findings), "findings": findings, "facts": facts });
    visible_json(&format!("{all:#}"))
}

/// The worst of all levels; what is only good to know is fine.
#[must_use]
pub(crate) fn worst(findings: &[Finding]) -> Level {
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if worst == Level::Info { Level::Ok } else { worst }
}

/// The exit status that says so: 0, 1 or 2.
#[must_use]
pub(crate) fn status(findings: &[Finding]) -> u8 {
    match worst(findings) {
        Level::Ok | Level::Info => 0,
        Level::Warn => 1,
        Level::Crit => 2,
    }
}
