//! Completions for shells and man pages, generated from the definition of the command line.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use clap_complete::Shell;

/// Prints the completions of `command` for `shell`.
pub(super) fn completions(shell: Shell, mut command: clap::Command) -> Result<(), String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "pgferry", &mut script);
    io::stdout().write_all(&script).map_err(|error| error.to_string())
}

/// Writes the man pages of `command` and its subcommands into `dir`, which is made if it is missing.
pub(super) fn man_pages(dir: &Path, mut command: clap::Command) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", dir.display());
    fs::create_dir_all(dir).map_err(failed)?;
    // The names of subcommands with the program's in front.
    command.build();
    for page in
        std::iter::once(&command).chain(command.get_subcommands().filter(|command| command.get_name() != "help"))
    {
        let name = page.get_display_name().unwrap_or_else(|| page.get_name());
        let mut text = Vec::new();
        clap_mangen::Man::new(page.clone()).title(name.to_uppercase()).render(&mut text).map_err(failed)?;
        fs::write(dir.join(format!("{name}.1")), text).map_err(failed)?;
    }
    Ok(())
}
