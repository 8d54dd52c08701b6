//! What a mode changes by design, in one place: what is not generated for it, and what a client may be told that it would
//! not be told alone.

use pgferry::internals::config::{Mode, Reset};

use super::case::{NEW_ZONE, Setup};
use crate::model::shortened;
use crate::random::Random;
use crate::script::{BRIEF, Message, NO_FUNCTION, Script, Write};

/// Texts that are replaced, where and why.
struct Rule {
    applies: fn(&Setup) -> bool,
    /// What such a text contains.
    contains: &'static str,
    instead: &'static str,
    #[allow(dead_code, reason = "said for the reader")]
    reason: &'static str,
}

const fn rule(
    applies: fn(&Setup) -> bool,
    contains: &'static str,
    instead: &'static str,
    reason: &'static str,
) -> Rule {
    Rule { applies, contains, instead, reason }
}

fn transaction(setup: &Setup) -> bool {
    setup.mode == Mode::Transaction
}

fn leaks_hidden(setup: &Setup) -> bool {
    setup.mode == Mode::Transaction || !matches!(setup.reset, Reset::Always | Reset::Auto)
}

/// Before 14 not all is reported that is since.
fn leaks_unreported(setup: &Setup) -> bool {
    leaks_hidden(setup) && setup.version < 14
}

fn leaks_all(setup: &Setup) -> bool {
    setup.mode == Mode::Session && setup.reset == Reset::Never
}

/// What sequences gave last is not known on another connection, which is refused.
fn forgets_sequences(setup: &Setup) -> bool {
    transaction(setup) && !setup.refusals
}

fn always(_: &Setup) -> bool {
    true
}

const RULES: &[Rule] = &[
    rule(always, "count(*) from t", "select a from v", "the rows of others count"),
    rule(always, "from t order by token", "", "the rows of others are among them"),
    rule(
        always,
        "insert into v(",
        "insert into x(a) values ('3')",
        "of others' tables only where there is a temporary one",
    ),
    rule(
        always,
        "set local datestyle = default",
        "show datestyle",
        "what corrects it makes it one of two, which spares a warning",
    ),
    rule(leaks_hidden, "code.set('a.b'", "select code.set('application_name', 'hid')", "not reported: not seen"),
    rule(leaks_hidden, "code.reset_all", "select code.reset('timezone')", "not all of it is seen"),
    rule(leaks_hidden, "code.reset('search_path'", "select code.reset('datestyle')", "not reported: not seen"),
    rule(leaks_hidden, "code.reset('work_mem'", "select code.reset('application_name')", "not reported: not seen"),
    rule(leaks_hidden, "code.reset('synchronous_commit'", "select code.reset('timezone')", "not reported: not seen"),
    rule(
        leaks_hidden,
        "code.reset('default_transaction_isolation'",
        "select code.reset('timezone')",
        "not reported: not seen",
    ),
    rule(
        leaks_unreported,
        "code.reset('default_transaction_read_only'",
        "select code.reset('timezone')",
        "not reported: not seen",
    ),
    rule(leaks_hidden, "code.reset('a.b'", "select code.reset('timezone')", "not reported: not seen"),
    rule(leaks_hidden, "code.next", "select 'no sequence'", "not seen"),
    rule(forgets_sequences, "currval", "select 'no sequence'", "refused where it is not known"),
    rule(forgets_sequences, "lastval", "select 'no sequence'", "refused where it is not known"),
    rule(transaction, "do $$ begin deallocate", "select 'not freed'", "as names freed inside a function"),
    rule(leaks_all, "do $$", "select code.reset('timezone')", "nothing is reset"),
    rule(leaks_all, "currval", "select 'no sequence'", "nothing is reset"),
    rule(leaks_all, "lastval", "select 'no sequence'", "nothing is reset"),
    rule(leaks_hidden, "code.lock", "select 'no lock'", "a lock that is not seen stays on the connection"),
    rule(leaks_hidden, "code.listen", "select 'no listen'", "not seen"),
    rule(leaks_hidden, "code.temp", "select 'no table'", "not seen"),
    rule(
        transaction,
        "code.deallocate",
        "select 'not freed'",
        "names freed inside a function: no tag says so, and others' statements are gone as well",
    ),
    rule(
        transaction,
        "from pg_prepared_statements",
        "select exists (select from pg_cursors where is_holdable)",
        "the connection's statements are those of all clients",
    ),
    rule(leaks_all, "pg_prepared_statements", "select 1", "names stay"),
    rule(leaks_all, " temp ", "select 'no table'", "nothing is reset"),
    rule(leaks_all, "with hold", "select 'no cursor'", "nothing is reset"),
    rule(leaks_all, "listen", "select 'no listening'", "nothing is reset"),
    rule(leaks_all, "advisory_lock(", "select 'no lock'", "nothing is reset"),
    rule(leaks_all, "pg_cursors", "select 'no cursor'", "nothing is reset"),
    rule(leaks_all, "search_path", "show timezone", "nothing is reset"),
    rule(leaks_all, "work_mem", "show timezone", "nothing is reset"),
    rule(leaks_all, "default_text", "show timezone", "nothing is reset"),
    rule(leaks_all, "synchronous_commit", "show timezone", "nothing is reset"),
    rule(leaks_all, "default_transaction", "show timezone", "nothing is reset"),
    rule(leaks_all, "characteristics", "show timezone", "nothing is reset"),
    rule(leaks_all, "extra_float_digits", "show timezone", "nothing is reset"),
    rule(leaks_all, "set_config($1", "show timezone", "nothing is reset"),
    rule(leaks_all, "role ", "show timezone", "nothing is reset"),
    rule(leaks_all, "'role'", "show timezone", "nothing is reset"),
    rule(leaks_all, "a.b", "show timezone", "nothing is reset"),
    rule(leaks_all, "c.d", "show timezone", "nothing is reset"),
    rule(leaks_all, "_timeout", "show timezone", "nothing is reset"),
];

/// Functions that leave nothing in a session: `int4div`, `int4pl`, `upper`, `loread`.
const LEAVES_NOTHING: [u32; 4] = [154, 177, 871, 954];

/// `currval` and `lastval`.
const LAST_NUMBERS: [u32; 2] = [1575, 2559];

/// `pg_notify`.
const NOTIFY: u32 = 3036;

/// What long names of statements contain.
const LONG: &str = "_nnnn";

fn text(original: &str, setup: &Setup, client: usize) -> String {
    let mut text = original.to_owned();
    for rule in RULES {
        if text.contains(rule.contains) && (rule.applies)(setup) {
            text = if rule.instead.is_empty() {
                // The same, of one's own rows.
                text.replace("from t order by token", &format!("from t where token = 'dup{client}_0'"))
            } else {
                rule.instead.to_owned()
            };
        }
    }
    // What is told to all is heard by all.
    for channel in [" m", " n"] {
        for verb in ["listen", "notify"] {
            if text.starts_with(&format!("{verb}{channel}")) || text == format!("un{verb}{channel}") {
                text = text.replacen(channel, &format!("{channel}{client}"), 1);
            }
        }
    }
    // Nobody else waits for it: without the janitor a connection that nobody uses keeps a lock that was not seen.
    text = text.replace("code.lock(3)", &format!("code.lock({})", 300 + client));
    text = text.replace("pg_notify('m'", &format!("pg_notify('m{client}'"));
    text = text.replace("pg_notify('n'", &format!("pg_notify('n{client}'"));
    text = text.replace("('lim1'), ('lim2')", &format!("('lim{client}_1'), ('lim{client}_2')"));
    if transaction(setup) && text.starts_with("prepare ") && !text.starts_with("prepare transaction") {
        // Which names SQL's PREPARE has taken is not known to the client's own.
        text = text.replacen("prepare ", "prepare sql_", 1);
    }
    if transaction(setup) && text.starts_with("execute ") && text.ends_with("('v')") {
        text = text.replacen("execute ", "execute sql_", 1);
    }
    if transaction(setup) {
        text = text.replace("deallocate prepare ", "deallocate prepare sql_");
    }
    if let Some((of, to)) = text.split_once(" set ").or_else(|| text.split_once(" reset "))
        && of.starts_with("alter ")
        && !of.starts_with("alter table")
    {
        // Of one setting it can be told what clients see of it whenever it changes.
        let is_set = text.contains(" set ") && !to.contains("default") && !to.contains("Nowhere");
        let to = if is_set { format!("set timezone = '{NEW_ZONE}'") } else { "reset timezone".to_owned() };
        text = format!("{of} {to}");
    }
    text = text.replace("('v')", &format!("('v{client}')"));
    if leaks_all(setup) {
        text = text.replace(LONG, &format!("{client}{LONG}"));
        for verb in ["prepare ", "execute ", "deallocate ", "deallocate prepare "] {
            for name in ["a", "b", "c"] {
                let named = format!("{verb}{name}");
                let rest = text.strip_prefix(&named).filter(|rest| rest.is_empty() || rest.starts_with([' ', '(']));
                if let Some(rest) = rest {
                    text = format!("{named}{client}{rest}");
                }
            }
        }
    }
    text
}

/// Has every copy be ended by a message that ends copies, and nothing but data before that: what else is sent while copy
/// data may have failed it can be followed by the server alone.
fn close_copies(script: &mut Script, carries: bool) {
    let begins = |message: &Message| match message {
        Message::Query(statements) => statements.iter().any(|text| text.contains("from stdin")),
        Message::Parse { text, .. } => text.contains("from stdin"),
        _ => false,
    };
    let mut place = Copy::No;
    for write in &mut script.writes {
        let mut messages = Vec::new();
        for message in write.messages.drain(..) {
            place = match (place, &message) {
                (Copy::Begun | Copy::Fed, Message::CopyData(_)) => Copy::Fed,
                (_, Message::CopyDone | Message::CopyFail(_) | Message::Terminate) => Copy::No,
                (_, Message::Raw(_)) if !carries => Copy::No,
                (
                    Copy::Begun,
                    Message::Bind { .. }
                    | Message::Formatted { .. }
                    | Message::Execute { .. }
                    | Message::Sync
                    | Message::Flush,
                ) => place,
                (Copy::Fed, Message::Sync | Message::Flush) => continue,
                (Copy::Begun | Copy::Fed, _) => {
                    messages.push(Message::CopyDone);
                    if begins(&message) { Copy::Begun } else { Copy::No }
                }
                (Copy::No, _) => {
                    if begins(&message) {
                        Copy::Begun
                    } else {
                        Copy::No
                    }
                }
            };
            messages.push(message);
        }
        write.messages = messages;
    }
}

/// Has a `Sync` end what is in front of a query: where none does, servers since 18 leave a transaction open up to the next one, and trip
/// over their own feet behind that.
fn sync_first(script: &mut Script) {
    let mut unsynced = false;
    for write in &mut script.writes {
        let mut messages = Vec::new();
        for message in write.messages.drain(..) {
            if matches!(message, Message::Query(_) | Message::Function { .. }) && unsynced {
                messages.push(Message::Sync);
            }
            unsynced = match message {
                Message::Sync | Message::Query(_) | Message::Function { .. } => false,
                Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_) | Message::Rest => unsynced,
                _ => true,
            };
            messages.push(message);
        }
        write.messages = messages;
    }
}

/// Has no client end in a copy of an extended request: servers before 14 take the end of the session for a message of the copy, and wait.
/// Found open.
fn end_copies(script: &mut Script) {
    let copies = |message: &Message| matches!(message, Message::Parse { text, .. } if text.contains("from stdin"));
    if !script.writes.iter().flat_map(|write| &write.messages).any(copies) {
        return;
    }
    if let Some(last) = script.writes.last_mut() {
        last.cut = None;
        last.messages.retain(|message| !matches!(message, Message::Raw(_) | Message::Terminate));
    }
    script.writes.push(Write { messages: vec![Message::CopyDone, Message::Sync], cut: None, wait: true });
}

/// Bytes of a text that may not be read where buffers are small.
const UNREAD: usize = 500;

/// Whether a text runs code that resets settings, or resets them where that is not read.
pub fn resets_in_code(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let is_unseen = text.contains("do $$") || text.len() > UNREAD;
    text.contains("code.reset")
        || (is_unseen && ["reset", "default", "discard all"].iter().any(|word| text.contains(word)))
}

/// Which of a script's texts reset settings without saying so.
fn hidden_resets(script: &Script) -> impl Fn(&String) -> bool + use<> {
    let named = |message: &Message| match message {
        Message::Parse { name, text, .. } => {
            !name.is_empty() && (text.starts_with("reset") || text.starts_with("discard"))
        }
        _ => false,
    };
    // By SQL's EXECUTE a named statement resets as code does.
    let executes = script.writes.iter().flat_map(|write| &write.messages).any(named);
    move |text| resets_in_code(text) || (executes && text.starts_with("execute "))
}

/// Has a client whose startup packet asks for settings that no server reports run no code that resets them: what code does
/// to those is not seen.
fn avoid_hidden_resets(script: &mut Script) {
    let follows = |(name, value): &(String, String)| {
        ["search_path", "extra_float_digits", "default_transaction_isolation"].contains(&name.as_str())
            || (name == "options"
                && ["search_path", "work_mem", "started", "default_"].iter().any(|one| value.contains(one)))
    };
    if !script.startup.iter().any(follows) {
        return;
    }
    let resets = hidden_resets(script);
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        let texts = match message {
            Message::Query(statements) => statements.as_mut_slice(),
            Message::Parse { text, .. } => std::slice::from_mut(text),
            _ => continue,
        };
        texts.iter_mut().filter(|text| resets(text)).for_each(|text| "select 'no reset'".clone_into(text));
    }
}

/// The time that a client allows, which slow statements and slow clients take longer than.
pub const SHORT: &str = "_timeout = '5ms'";

/// Whether a client can set a time that is no other's.
pub fn may_time_out(setup: &Setup) -> bool {
    !leaks_all(setup)
}

/// Has a client allow its statements, or itself in a transaction, a short time only.
pub fn time_out(script: &mut Script, random: &mut Random) {
    let name = random.pick(&["statement", "statement", "idle_in_transaction_session"]);
    let how = random.pick(&["set", "set", "begin;set local"]);
    let text = format!("{how} {name}{SHORT}");
    let messages = vec![Message::Query(text.split(';').map(str::to_owned).collect())];
    // Behind what ends in half a message nothing is said.
    let most = script.writes.len() - usize::from(script.writes.last().is_some_and(|write| write.cut.is_some()));
    let at = random.below(most + 1);
    script.writes.insert(at, Write { messages, cut: None, wait: random.chance(60) });
}

/// Whether a client changes what later sessions begin with.
pub fn alters_beginnings(script: &Script) -> bool {
    let script = script.to_string().to_ascii_lowercase();
    ["alter role", "alter database"].iter().any(|alters| script.contains(alters))
}

/// Whether a text changes settings itself.
pub fn changes_settings(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["set ", "reset ", "discard ", "execute "].iter().any(|verb| text.contains(verb)) && !text.contains("code.")
}

/// Has nothing come behind code that resets a setting before the client has seen the answer: what comes behind it in the
/// same text or pipeline finds what the connection was opened with.
fn part_resets(script: &mut Script, setup: &Setup) {
    let resets = hidden_resets(script);
    if !setup.is_calm() {
        // Clients do not always wait.
        for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
            match message {
                Message::Query(statements) => statements
                    .iter_mut()
                    .filter(|text| resets(text))
                    .for_each(|text| "select 'no reset'".clone_into(text)),
                Message::Parse { text, .. } if resets(text) => "select 'no reset'".clone_into(text),
                _ => {}
            }
        }
        return;
    }
    let mut writes = Vec::new();
    // What the unnamed statement does, which may be run more than once.
    let mut unnamed_resets = false;
    for mut write in script.writes.drain(..) {
        let mut messages = Vec::new();
        let mut ends_at_sync = false;
        let mut part = |messages: &mut Vec<Message>| {
            let write = Write { messages: std::mem::take(messages), cut: None, wait: true };
            if !write.messages.is_empty() {
                writes.push(write);
            }
        };
        for mut message in write.messages.drain(..) {
            let mut parts = false;
            if ends_at_sync && matches!(message, Message::Query(_) | Message::Function { .. }) {
                messages.push(Message::Sync);
                ends_at_sync = false;
                part(&mut messages);
            }
            match &mut message {
                Message::Query(statements) => {
                    if let Some(reset) = statements.iter().position(&resets) {
                        *statements = vec![statements.swap_remove(reset)];
                        parts = true;
                    }
                }
                Message::Parse { name, text, .. } if resets(text) => {
                    if name.is_empty() {
                        ends_at_sync = true;
                        unnamed_resets = true;
                    } else {
                        "select 'no reset'".clone_into(text);
                    }
                }
                Message::Parse { text, .. } if ends_at_sync => "select 'behind'".clone_into(text),
                Message::Parse { name, .. } if name.is_empty() => unnamed_resets = false,
                Message::Bind { name, .. } | Message::Formatted { name, .. } if ends_at_sync && !name.is_empty() => {
                    "nothing".clone_into(name);
                }
                Message::Bind { name, .. } | Message::Formatted { name, .. } if unnamed_resets && name.is_empty() => {
                    ends_at_sync = true;
                }
                Message::Sync if ends_at_sync => parts = true,
                _ => {}
            }
            messages.push(message);
            if parts {
                ends_at_sync = false;
                part(&mut messages);
            }
        }
        write.messages = messages;
        if ends_at_sync {
            write.messages.push(Message::Sync);
            write.wait = true;
        }
        if !write.messages.is_empty() || write.cut.is_some() {
            writes.push(write);
        }
    }
    script.writes = writes;
}

/// Has SQL's `EXECUTE` run no statement that can't be prepared any more in the settings of the moment, which is said in other
/// places or words, and none that runs others in turn.
fn run_by_name_what_can_be(script: &mut Script) {
    let messages = || script.writes.iter().flat_map(|write| &write.messages);
    let texts = || {
        messages().flat_map(|message| match message {
            Message::Query(statements) => statements.iter().collect::<Vec<_>>(),
            Message::Parse { text, .. } => vec![text],
            _ => Vec::new(),
        })
    };
    let sets_path = texts().any(|text| text.contains("search_path"));
    let nests = messages().any(|message| match message {
        Message::Parse { name, text, .. } => !name.is_empty() && text.starts_with("execute "),
        _ => false,
    });
    if !sets_path && !nests {
        return;
    }
    let runs = |text: &str| text.starts_with("execute ") && !text.starts_with("execute sql_");
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        match message {
            Message::Query(statements) => {
                statements.iter_mut().filter(|text| runs(text)).for_each(|text| "select 'not run'".clone_into(text));
            }
            Message::Parse { name, text, .. } if runs(text) && (sets_path || !name.is_empty()) => {
                "select 'not run'".clone_into(text);
            }
            _ => {}
        }
    }
}

/// Has no unnamed text run a statement by SQL's `EXECUTE` that is prepared behind it: the columns that it was told to have then change,
/// which is refused.
fn run_by_name_what_is_there(script: &mut Script) {
    let mut prepared: Vec<String> = Vec::new();
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        let Message::Parse { name, text, .. } = message else { continue };
        let runs = text.strip_prefix("execute ").filter(|run| !run.starts_with("sql_"));
        if runs.is_some_and(|run| !prepared.iter().any(|name| run.starts_with(name))) {
            "select 'not there'".clone_into(text);
        }
        if !name.is_empty() {
            prepared.push(name.clone());
        }
    }
}

/// Has no temporary table hide one that a named statement is about: the plan on one connection does not find out, and on
/// another one, where it is made anew, it does.
fn hide_nothing_prepared(script: &mut Script) {
    let messages = || script.writes.iter().flat_map(|write| &write.messages);
    let named = |message: &Message| matches!(message, Message::Parse { name, text, .. } if !name.is_empty() && text.contains("from v"));
    if !messages().any(named) {
        return;
    }
    let elsewhere = |text: &mut String| {
        let lower = text.to_ascii_lowercase();
        if [" temp table v", " temp table if not exists v"].iter().any(|makes| lower.contains(makes)) {
            "create temp table if not exists w (a text)".clone_into(text);
        }
    };
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        match message {
            Message::Query(statements) => statements.iter_mut().for_each(elsewhere),
            Message::Parse { text, .. } => elsewhere(text),
            _ => {}
        }
    }
}

/// Has the client be told the columns of what it prepares: of those that it was not told pgferry does not see to it that they
/// stay what they were.
fn describe_prepared(script: &mut Script) {
    for write in &mut script.writes {
        let mut messages = Vec::new();
        for message in write.messages.drain(..) {
            let told = match &message {
                Message::Parse { name, text, .. } if text.contains("from v") => Some(name.clone()),
                _ => None,
            };
            messages.push(message);
            messages.extend(told.map(|name| Message::Describe { kind: 'S', name }));
        }
        write.messages = messages;
    }
}

/// Has no named statement without a result be described apart from its `Parse`: a connection that has not got it can't prepare it in a failed
/// transaction, in which such a description does not fail.
fn describe_results(script: &mut Script) {
    let has_result = |text: &str| {
        ["select", "show", "fetch", "values"].iter().any(|verb| text.starts_with(verb)) || text.contains("returning")
    };
    let (mut without, mut before): (Vec<String>, _) = (Vec::new(), None);
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        let parsed = before.take();
        match message {
            Message::Parse { name, text, .. } => {
                if !name.is_empty() && text.starts_with("fetch") {
                    // Where it is prepared before its cursor is there it gives nothing for good.
                    "select 'no fetch'".clone_into(text);
                }
                if !has_result(text) {
                    without.push(name.clone());
                }
                before = Some(name.clone());
            }
            Message::Describe { kind: 'S', name }
                if !name.is_empty() && without.contains(name) && parsed.as_ref() != Some(name) =>
            {
                *message = Message::Flush;
            }
            _ => {}
        }
    }
}

/// Where a script is in a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    No,
    Begun,
    Fed,
}

fn own_name(name: &mut String, setup: &Setup, client: usize) {
    if leaks_all(setup) && name.contains(LONG) {
        // What comes behind 63 bytes does not count.
        *name = name.replace(LONG, &format!("{client}{LONG}"));
    } else if leaks_all(setup) && !name.is_empty() && !name.ends_with(|c: char| c.is_ascii_digit()) && name != "nothing"
    {
        name.push_str(&client.to_string());
    }
}

/// Has a client not rest, nor allow what it would outlast: where it does not wait for all answers it may rest too early.
fn rest_nowhere(script: &mut Script) {
    let change = |text: &mut String| {
        if text.contains(BRIEF) || text.contains("pg_sleep") {
            "show timezone".clone_into(text);
        }
    };
    for write in &mut script.writes {
        write.messages.retain(|message| *message != Message::Rest);
        for message in &mut write.messages {
            match message {
                Message::Query(statements) => statements.iter_mut().for_each(change),
                Message::Parse { text, .. } => change(text),
                _ => {}
            }
        }
    }
}

/// Makes a script one of client `client`'s, without what `setup` changes by design.
pub fn localize(script: &mut Script, setup: &Setup, client: usize) {
    for (_, value) in script.startup.iter_mut().filter(|(name, value)| name == "TimeZone" && value == "Nowhere/Land") {
        // A login does not wait for a connection on which a value could be tried.
        "Europe/Berlin".clone_into(value);
    }
    for (_, value) in script.startup.iter_mut().filter(|(name, _)| name == "options") {
        // Behind a reset a list is spelt as `SET` spells it.
        *value = value.replace("two,public", "two");
    }
    if setup.version < 14 {
        end_copies(script);
    }
    if !setup.answers_all() {
        rest_nowhere(script);
    }
    close_copies(script, transaction(setup));
    avoid_hidden_resets(script);
    // A setting with a dot in its name that somebody has set once is empty in the session ever after, and not unknown.
    let known = if let Some(at) = script.startup.iter().rposition(|(name, _)| name == "options") {
        &mut script.startup[at].1
    } else {
        script.startup.push(("options".to_owned(), String::new()));
        let last = script.startup.len() - 1;
        &mut script.startup[last].1
    };
    for setting in ["a.b", "c.d"] {
        if !known.contains(setting) {
            known.push_str(&format!(" -c {setting}="));
        }
    }
    let (sets_by_value, inserts_values) = {
        let said = script.to_string();
        (said.contains("set_config("), said.contains("insert into t(token) values ($1)"))
    };
    // They may be tokens. Where they are none they stay values of other types in whatever format.
    let may_be_tokens: &[&str] = if inserts_values { &["7", "1", "x", "", "t", "\u{1}"] } else { &["7", "1", "x", ""] };
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        match message {
            Message::Query(statements) => {
                statements.iter_mut().for_each(|statement| *statement = text(statement, setup, client));
                if setup.keeps_few() && statements.len() > 1 {
                    // In a failed transaction it can't be prepared again in front of a text that ends the transaction.
                    let runs = statements.iter_mut().filter(|text| text.starts_with("execute "));
                    runs.for_each(|text| "select 'no name'".clone_into(text));
                }
            }
            Message::Parse { name, text: sql, .. } => {
                own_name(name, setup, client);
                *sql = text(sql, setup, client);
                if setup.version >= 18
                    && transaction(setup)
                    && ["call ", "do $$", "set local", "set transaction"].iter().any(|verb| sql.starts_with(verb))
                {
                    // Behind a question about the settings in force what is left of a pipeline is a transaction block there.
                    "select 'outside'".clone_into(sql);
                }
                let few = setup.keeps_few();
                let names = sql.starts_with("execute ") || sql.starts_with("deallocate ");
                if !name.is_empty() && names && (few || sql.contains(shortened(name))) {
                    // One that runs itself, or for which there is no room beside the other.
                    "select 'no name'".clone_into(sql);
                }
            }
            Message::Bind { name, params, .. } | Message::Formatted { name, params, .. } => {
                own_name(name, setup, client);
                if sets_by_value {
                    // Without a value it resets, which is not seen.
                    params.iter_mut().for_each(|param| *param = param.take().or(Some("7".to_owned())));
                }
                for param in params.iter_mut().flatten().filter(|param| may_be_tokens.contains(&param.as_str())) {
                    param.push_str(&client.to_string());
                }
            }
            Message::Describe { kind: 'S', name } | Message::Close { kind: 'S', name } => {
                own_name(name, setup, client);
            }
            Message::Function { oid, args } => {
                let forgets = transaction(setup) && LAST_NUMBERS.contains(oid);
                if forgets || (leaks_all(setup) && !LEAVES_NOTHING.contains(oid)) {
                    *oid = NO_FUNCTION;
                }
                if let (NOTIFY, Some(Some(channel))) = (*oid, args.first_mut()) {
                    channel.push_str(&client.to_string());
                }
            }
            Message::CopyData(data) if data == "half" => *data = format!("half{client}"),
            Message::CopyData(data) if data == "late\n" => *data = format!("late{client}\n"),
            _ => {}
        }
    }
    part_resets(script, setup);
    if setup.version >= 18 {
        sync_first(script);
    }
    if transaction(setup) {
        run_by_name_what_can_be(script);
        run_by_name_what_is_there(script);
        hide_nothing_prepared(script);
        describe_prepared(script);
        describe_results(script);
    }
}

/// Has a client leave no transaction prepared, whose locks others would wait for.
pub fn prepare_nothing(script: &mut Script) {
    let change = |text: &mut String| {
        if text.starts_with("prepare transaction") {
            "commit".clone_into(text);
        }
    };
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        match message {
            Message::Query(statements) => statements.iter_mut().for_each(change),
            Message::Parse { text, .. } => change(text),
            _ => {}
        }
    }
}

/// Has a client not ask for the time zone that the server gives by default, so that each zone shows where it comes from. Where it does, it
/// has the new default on connections that were opened without it: a stated limit.
pub fn leave_default_zone(script: &mut Script) {
    for (_, value) in script.startup.iter_mut().filter(|(name, value)| name == "TimeZone" && value == "UTC") {
        "Asia/Tokyo".clone_into(value);
    }
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        match message {
            Message::Query(statements) => {
                statements.iter_mut().for_each(|text| *text = text.replace("'UTC'", "'Asia/Tokyo'"));
            }
            Message::Parse { text, .. } => *text = text.replace("'UTC'", "'Asia/Tokyo'"),
            _ => {}
        }
    }
}

/// The same script with the tokens of another client than the first.
pub fn as_others(script: &Script, client: usize) -> Script {
    let change = |text: &mut String| {
        for (own, others) in [
            ("k0_", format!("k{client}_")),
            ("dup0_", format!("dup{client}_")),
            ("'two0_", format!("'two{client}_")),
            ("(100)", format!("({})", 100 + client)),
            ("code.seq0", format!("code.seq{client}")),
            ("code.own0", format!("code.own{client}")),
        ] {
            *text = text.replace(own, &others);
        }
    };
    let mut script = script.clone();
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        match message {
            Message::Query(statements) => statements.iter_mut().for_each(change),
            Message::Parse { text, .. } => change(text),
            Message::Bind { params, .. } | Message::Formatted { params, .. } => {
                params.iter_mut().flatten().for_each(change);
            }
            Message::Function { args, .. } => {
                let own = |arg: &mut String| if arg == "100" { *arg = (100 + client).to_string() } else { change(arg) };
                args.iter_mut().flatten().for_each(own);
            }
            Message::CopyData(data) => change(data),
            _ => {}
        }
    }
    script
}
