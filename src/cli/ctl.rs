//! Speaking with a running pgferry: `show` and `ctl`.

use std::io::IsTerminal as _;

use crate::admin::console_client::ConsoleClient;
use crate::admin::show::Show;
use crate::admin::table;

use super::options::Options;
use super::output::print;

#[derive(clap::Args)]
pub(super) struct ShowOptions {
    #[command(flatten)]
    pub options: Options,
    /// Table: pools, clients, servers, databases, stats, ports, pins, config, …
    #[arg(value_name = "WHAT", default_value = "pools")]
    pub what: String,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args)]
pub(super) struct CtlOptions {
    #[command(flatten)]
    pub options: Options,
    /// The command, in quotes or as words: PAUSE shop; RELOAD; SET log_level = debug; SHOW HELP lists them.
    #[arg(value_name = "COMMAND", required = true, allow_negative_numbers = true)]
    pub words: Vec<String>,
    /// JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn show(show: ShowOptions, before: Options) -> Result<(), String> {
    if Show::find(&show.what.to_ascii_lowercase()).is_none() && !show.what.eq_ignore_ascii_case("help") {
        let names = Show::ALL.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        return Err(format!("unknown SHOW table \"{}\"\n  hint: the tables are {names}", show.what));
    }
    say(&show.options.or(before), &format!("SHOW {}", show.what), show.json)
}

pub(super) fn ctl(ctl: CtlOptions, before: Options) -> Result<(), String> {
    say(&ctl.options.or(before), &ctl.words.join(" "), ctl.json)
}

fn say(options: &Options, text: &str, json: bool) -> Result<(), String> {
    let contact = options.contact().map_err(|error| error.to_string())?;
    let mut client = ConsoleClient::connect(&contact)?.ok_or_else(|| contact.no_answer())?;
    let answer = client.say(text)?;
    for notice in &answer.notices {
        eprint!("{notice}");
    }
    if json {
        print(&table::json(&answer.columns, &answer.rows))
    } else if !answer.columns.is_empty() {
        print(&table::aligned(&answer.columns, &answer.rows))
    } else if std::io::stdout().is_terminal() || answer.notices.is_empty() {
        print(&format!("{}\n", answer.tag))
    } else {
        Ok(())
    }
}
