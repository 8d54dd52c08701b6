//! Completions for shells, generated from the definition of the command line.

use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

/// A shell that there are completions for.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Shell {
    Bash,
    Fish,
    Zsh,
}

/// Prints the completions of `command` for `shell`.
pub(super) fn print(shell: Shell, command: &mut clap::Command) -> Result<(), String> {
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(Bash, command, "pgferry", &mut script),
        Shell::Fish => generate(Fish, command, "pgferry", &mut script),
        Shell::Zsh => generate(Zsh, command, "pgferry", &mut script),
    }
    super::output::print(&String::from_utf8_lossy(&script))
}
