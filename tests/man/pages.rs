//! Writes the man pages: pgferry(1) and one for each command, such as pgferry-doctor(1).
//!
//! `cargo run --example man -- DIR`. It is no part of the program, which would grow by the generator.

use std::path::{Path, PathBuf};
use std::{fs, io};

use pgferry::internals::cli;

fn main() -> io::Result<()> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from);
    write_pages(&dir.ok_or_else(|| io::Error::other("usage: man DIR"))?)
}

/// Writes all pages into `dir`, which is made if it is missing.
fn write_pages(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut program = cli::definition();
    // Subcommands get the program's name in front of theirs.
    program.build();
    let commands = program.get_subcommands().filter(|command| command.get_name() != "help");
    for page in std::iter::once(&program).chain(commands) {
        let name = page.get_display_name().unwrap_or_else(|| page.get_name());
        let mut text = Vec::new();
        clap_mangen::Man::new(page.clone()).title(name.to_uppercase()).render(&mut text)?;
        fs::write(dir.join(format!("{name}.1")), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn man_pages_know_every_command() {
        let dir = tempfile::tempdir().expect("a directory");
        write_pages(dir.path()).expect("written");
        let read = |name: &str| fs::read_to_string(dir.path().join(format!("{name}.1"))).expect("a page");
        assert!(read("pgferry").contains("PGFERRY_POOL_SIZE"), "what stands below the options");
        assert!(read("pgferry-doctor").contains("measure"));
        for command in cli::definition().get_subcommands() {
            assert!(read("pgferry").contains(&format!("pgferry\\-{}", command.get_name().replace('-', "\\-"))));
        }
    }
}
