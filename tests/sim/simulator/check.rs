//! What must hold of a run that is over.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use pgferry::internals::config::{Mode, Reset};

use super::account::Owed;
use super::case::{Case, Member, NEW_ZONE};
use super::client::{Client, EVERYONE, is_of_others, told_everyone};
use super::defaults;
use super::expected;
use super::play::{Alone, Played, TABLES};
use super::tokens::Unit;
use super::types;
use super::world::World;
use crate::script::{Message, Script, Write};
use crate::transcript::{Seen, Transcript};

/// Errors by which a client is told that something has gone wrong which is none of its doing.
const TOLD: [&str; 4] = ["FATAL 57P01", "FATAL 08006", "ERROR 53300", "FATAL 53300"];

/// Errors by which a client is told that what it says can't be done in this mode.
const REFUSALS: [&str; 3] = ["ERROR 55000", "ERROR 0A000", "ERROR 26000"];

/// What is wrong with a run, if anything is.
pub fn check(case: &Case, played: &Played) -> Option<Finding> {
    let finding = |kind: Kind| move |text: String| Finding { kind, text, mark: String::new() };
    if let Some(stuck) = &played.stuck {
        return Some(finding(Kind::Stuck)(stuck.clone()));
    }
    if let Some(complaint) = played.world.complaints.borrow().first() {
        return Some(finding(Kind::Complaint)(complaint.clone()));
    }
    let mut told = false;
    for (id, ((client, alone), member)) in played.clients.iter().zip(&played.alone).zip(&case.members).enumerate() {
        match against_alone(id, client, alone, member, case, &played.world) {
            Told::TheSame => {}
            Told::OfFaults => told = true,
            Told::Wrong(why, mark) => {
                return Some(Finding { kind: Kind::Told, text: format!("client {id} {why}"), mark });
            }
        }
    }
    if let Some(why) = check_notifications(case, played) {
        return Some(finding(Kind::Notifications)(why));
    }
    if let Some(why) = check_accounts(played) {
        return Some(finding(Kind::Protocol)(why));
    }
    let rows = || if told { None } else { check_rows(case, played) };
    check_counts(played)
        .map(finding(Kind::Counts))
        .or_else(|| check_units(case, played).map(finding(Kind::Tokens)))
        .or_else(|| rows().map(finding(Kind::Rows)))
        .or_else(|| check_books(case, played).map(finding(Kind::Books)))
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing happens any more, or too much.
    Stuck,
    Panic,
    /// What should not have happened on the way.
    Complaint,
    /// A client has been told something else than alone.
    Told,
    /// A client has been told what the protocol does not allow, or is still owed something.
    Protocol,
    /// A client has been told what others have said to everyone where it should not be, in another order, twice or not at all.
    Notifications,
    /// Connections are lost, or counted wrongly.
    Counts,
    /// What was acknowledged is not there once, or what was not is.
    Tokens,
    /// The database holds other rows.
    Rows,
    /// The books say something else of a connection than it says itself.
    Books,
}

/// What is wrong with a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    pub text: String,
    /// What makes it the same finding in a smaller case.
    pub mark: String,
}

enum Told {
    TheSame,
    /// Up to where it was told of a fault.
    OfFaults,
    Wrong(String, String),
}

fn against_alone(id: usize, client: &Client, alone: &Alone, member: &Member, case: &Case, world: &World) -> Told {
    let transcript = own_part(&client.transcript, id);
    let contradiction = match () {
        // What comes behind code that resets is put right only behind all of it.
        () if case.has_new_defaults() && !says(member, expected::resets_in_code) => {
            defaults::contradiction(&transcript)
        }
        () => None,
    };
    // What another session finishes pgferry does not see.
    let in_two_phases =
        |member: &Member| says(member, |text| text.to_ascii_lowercase().contains("prepare transaction"));
    let keeps = case.has_new_defaults()
        && !case.has_told_nobody()
        && !world.has_unnoticed_defaults.get()
        && !case.members.iter().any(in_two_phases)
        && !says(member, expected::resets_in_code);
    let contradiction = contradiction.or_else(|| defaults::change(&transcript).filter(|_| keeps));
    let contradiction = contradiction.or_else(|| types::contradiction(&client.sent(), client.told()));
    if let Some(why) = contradiction {
        return Told::Wrong(format!("{why}: {}", client.transcript), "contradiction".to_owned());
    }
    let as_before = |transcript: &Transcript| {
        let transcript = &if case.setup.version < 14 { reported_when_ready(transcript) } else { transcript.clone() };
        let transcript = if case.has_new_defaults() { defaults::as_before(transcript) } else { transcript.clone() };
        if case.alters() { types::as_before(&transcript) } else { transcript }
    };
    let (transcript, alone) = (
        as_before(&transcript),
        Alone { transcript: as_before(&alone.transcript), flushed: as_before(&alone.flushed), rows: Vec::new() },
    );
    let (mut own, expected) = (respelt(&transcript, &alone.transcript), greeted(&alone.transcript));
    for (own, expected) in own.seen.iter_mut().zip(&expected.seen) {
        if *own.body == *b"ERROR 25P02" && expected.tag == b'E' {
            // A statement is prepared first where PostgreSQL had it already: it is refused in a failed transaction.
            own.clone_from(expected);
        }
    }
    // In which order settings are reported is not looked at: of some of them nothing is known.
    let reported = |seen: &[Seen]| seen.iter().rposition(|seen| seen.tag != b'S').map_or(0, |at| at + 1);
    match own.seen.last() {
        _ if !client.transcript.closed => own.seen.truncate(reported(&own.seen)),
        Some(last) if is_one_of(last, &["FATAL 08006"]) => {
            let end = own.seen.len() - 1;
            own.seen.drain(reported(&own.seen[..end])..end);
        }
        _ => {}
    }
    let Some(difference) = own.difference(&expected) else { return Told::TheSame };
    let at = difference.at;
    let shown = || format!("is told\n    {}\n  and alone\n    {}", difference.left, difference.right);
    let seen = own.seen.get(at);
    let carried = case.setup.mode == Mode::Transaction && member.units.is_some();
    if carried && at >= expected.seen.len() && seen.is_some_and(|seen| is_one_of(seen, &["FATAL 57P01"])) {
        // It was owed nothing, and has left nothing on the connection.
        return Told::Wrong(shown(), "dying word".to_owned());
    }
    let allows = |name: &str| says(member, |text| text.contains(&format!("{name}{}", expected::SHORT)));
    let ends_in_half = |write: &Write| write.cut.is_some() || matches!(write.messages.last(), Some(Message::Raw(_)));
    let cut = case.members.iter().any(|member| member.script.writes.last().is_some_and(ends_in_half));
    if at >= expected.seen.len() {
        let is_cancelled = || client.cancelled || allows(" statement");
        // PostgreSQL loses with a session what it has not sent, which pgferry may have had it send; and it says nothing of a
        // length that can't be right.
        let flushed = greeted(&alone.flushed).seen;
        let broken = Seen { tag: b'E', body: b"FATAL 08006".as_slice().into() };
        let told = own.seen.strip_suffix(&[violation()]).or_else(|| own.seen.strip_suffix(&[broken]));
        let told = told.or_else(|| match own.seen.split_last() {
            Some((last, told)) if !case.setup.is_calm() && is_one_of(last, &TOLD) => Some(told),
            // An error has what is in front of it sent.
            Some((last, told)) if is_one_of(last, &["ERROR 57014"]) && is_cancelled() => Some(told),
            Some((last, told)) if case.setup.refusals && is_one_of(last, &REFUSALS) => Some(told),
            // What half a message names is prepared first, which a failed transaction refuses.
            Some((last, told)) if cut && is_one_of(last, &["ERROR 25P02"]) => Some(told),
            _ => None,
        });
        let told = told.unwrap_or(&own.seen);
        if flushed.starts_with(told) {
            return Told::TheSame;
        }
    }
    let rest = own.seen.get(at..).unwrap_or_default();
    let expected_rest = expected.seen.get(at..).unwrap_or_default();
    let ends_alone = expected_rest.iter().all(|seen| seen.tag == b'E')
        && expected_rest.last().is_some_and(|last| last.body.starts_with(b"FATAL"));
    if ends_alone
        && rest.iter().all(|seen| {
            matches!(seen.tag, b'S' | b'Z')
                || *seen == violation()
                || [&b"ERROR 57014"[..], b"ERROR 08P01", b"FATAL 0A000", b"FATAL 08006"].contains(&&*seen.body)
        })
    {
        // A client that ends in the middle of a copy or a message is told of it in other words, or not at all.
        return Told::TheSame;
    }
    let lost = seen.is_some_and(|seen| is_one_of(seen, &["FATAL 08006"]));
    if cut && lost && at + 1 >= expected.seen.len() {
        // Its last ReadyForQuery waited for a question to the server, which half a message of its own was in front of.
        return Told::TheSame;
    }
    if cut && at >= own.seen.len() && expected.seen[at..].iter().all(|seen| seen.tag != b'Z') {
        // What it has not asked for with a `Sync` or `Flush` a client that ends in the middle of a message may not get.
        return Told::TheSame;
    }
    let told = |of: &[&str]| seen.is_some_and(|seen| is_one_of(seen, of));
    let is_wrong_bind = expected.seen.get(at).is_some_and(|seen| is_one_of(seen, &["ERROR 08P01", "ERROR 22P02"]));
    if case.setup.mode == Mode::Transaction && is_wrong_bind && told(&["ERROR 42P01", "ERROR 0A000"]) {
        // A statement that is prepared again first, and can't be, says so before anything is wrong with its parameters.
        return Told::OfFaults;
    }
    let is_described = expected.seen.get(at).is_some_and(|seen| seen.tag == b't');
    if is_described && told(&["ERROR 25P02"]) && expected.seen.get(at + 1).is_some_and(|seen| seen.tag == b'n') {
        // A statement that the connection has not got is prepared first, which a failed transaction refuses: a stated limit.
        return Told::OfFaults;
    }
    let discards = || {
        let lower = |text: &str| text.to_ascii_lowercase();
        says(member, |text| ["discard all", "discard temp"].iter().any(|discard| lower(text).contains(discard)))
    };
    if case.setup.faults && told(&["ERROR 53200"]) && discards() {
        return Told::OfFaults;
    }
    let sets_lexis = |text: &str| {
        let text = text.to_ascii_lowercase();
        ["standard_conforming_strings", "client_encoding", "names "].iter().any(|setting| text.contains(setting))
    };
    let sets_transaction = |text: &str| {
        // A `BEGIN` in a transaction sets what it is like.
        ["set transaction", "read write", "isolation level"].iter().any(|sets| text.to_ascii_lowercase().contains(sets))
    };
    if case.setup.mode == Mode::Transaction
        && told(&["ERROR 25001"])
        && (says(member, sets_lexis) || says(member, sets_transaction))
    {
        // A question of pgferry's about the settings in force has begun a transaction for the rest of the pipeline, or was the first
        // query of one: stated limits.
        return Told::OfFaults;
    }
    let is_too_late = expected.seen.get(at).is_some_and(|seen| is_one_of(seen, &["ERROR 25001"]));
    let begins = |text: &str| {
        let text = text.to_ascii_lowercase();
        ["begin", "start transaction"].iter().any(|begin| text.contains(begin)) && text.contains("isolation level")
    };
    if case.setup.mode == Mode::Transaction && is_too_late && says(member, begins) {
        // Behind a text that is prepared already nothing has been asked of the server: a stated limit.
        return Told::OfFaults;
    }
    if says_unread(member, case, &["reset"]) {
        // Nothing tells what a text that is not read has reset of settings that the server does not report: a stated limit.
        return Told::OfFaults;
    }
    if case.setup.mode == Mode::Transaction
        && told(&["ERROR 26000"])
        && says_unread(member, case, &["deallocate", "execute"])
    {
        // By a text that is not read a driver's statement is not found: a stated limit.
        return Told::OfFaults;
    }
    let is_of_type = |seen: Option<&Seen>| seen.is_some_and(|seen| is_one_of(seen, &["ERROR 08P01", "ERROR 22P03"]));
    if case.alters() && binds_formats(member) && (is_of_type(seen) || is_of_type(expected.seen.get(at))) {
        // A column's type is another one than alone, and so is the length of its values.
        return Told::OfFaults;
    }
    if case.setup.version >= 18 && queries_unsynced(member) && says(member, |text| text.contains("code.")) {
        // A question about settings ends the transaction that such a server leaves open behind a query: a stated limit.
        return Told::OfFaults;
    }
    let needs_block = expected.seen.get(at).is_some_and(|seen| is_one_of(seen, &["ERROR 25P01"]));
    if case.setup.mode == Mode::Transaction && case.setup.version >= 18 && needs_block {
        // To such servers a pipeline with a question of pgferry's is a transaction block: a stated limit.
        return Told::OfFaults;
    }
    let stays_open = expected.seen.get(at).is_some_and(|seen| seen.tag == b'Z' && *seen.body == *b"T");
    if case.setup.version >= 18
        && stays_open
        && seen.is_some_and(|seen| seen.tag == b'Z')
        && says(member, |text| text.to_ascii_lowercase().contains("reset"))
    {
        // What pgferry says behind a RESET ends the transaction that such a server leaves open behind a query in a pipeline.
        return Told::OfFaults;
    }
    let before = at.checked_sub(1).and_then(|before| own.seen.get(before));
    if case.setup.refusals && before.is_some_and(|seen| is_one_of(seen, &REFUSALS)) {
        // pgferry has refused it in front of what the server refuses in the same words.
        return Told::OfFaults;
    }
    let prepares_unlistened = |text: &str| text.to_ascii_lowercase().contains("unlisten");
    if told(&["ERROR 0A000"])
        && expected.seen.get(at).is_some_and(|seen| seen.body.starts_with(b"PREPARE TRANSACTION"))
        && says(member, prepares_unlistened)
    {
        // A session in which something was ever listened to counts an UNLISTEN as one: a stated limit.
        return Told::OfFaults;
    }
    if told(&["FATAL 0A000"]) && interrupts_copy(member) {
        // Only the server knows which of these messages a copy that fails on its data has ignored.
        return Told::OfFaults;
    }
    let ends_of_copy = own.seen.last().is_some_and(|last| is_one_of(last, &["FATAL 0A000"])) && interrupts_copy(member);
    if ends_of_copy && seen.is_some_and(|seen| seen.tag == b'S') {
        // Up to there what resets settings has not been corrected.
        return Told::OfFaults;
    }
    if (case.setup.refusals && told(&REFUSALS)) || (client.cancelled && told(&["ERROR 57014"])) {
        return Told::OfFaults;
    }
    let is_undefined = expected.seen.get(at).is_some_and(|seen| is_one_of(seen, &["ERROR 55000"]));
    let is_last_number = at.checked_sub(1).and_then(|before| own.seen.get(before)).is_some_and(|columns| {
        columns.tag == b'T' && [&b"currval"[..], b"lastval"].iter().any(|name| columns.body[2..].starts_with(name))
    });
    if case.setup.reset == Reset::Never
        && (is_undefined || is_last_number)
        && says(member, |text| text.contains("nextval"))
    {
        // A number is asked for behind a text that was to draw one, before it is known that it has failed: a stated limit.
        return Told::OfFaults;
    }
    let more = seen.is_some_and(|seen| seen.tag == b'S') && says(member, expected::resets_in_code);
    let copies = || case.setup.version < 14 && says(member, |text| text.to_ascii_lowercase().contains("from stdin"));
    if told(&["FATAL 0A000", "ERROR 57014"]) && copies() {
        // Such a server goes on behind a copy that another message than its own has ended.
        return Told::OfFaults;
    }
    let resets = || texts(member).filter(|text| expected::resets_in_code(text)).count();
    if more && (says(member, expected::changes_settings) || resets() > 1 || case.has_new_defaults()) {
        // Found open: code that resets what a statement in the same piece of work has set, or other code has reset.
        return Told::OfFaults;
    }
    let untold = expected.seen.get(at).is_some_and(|seen| seen.tag == b'S') && seen.is_none_or(|seen| seen.tag != b'S');
    if untold && says(member, expected::resets_in_code) {
        // What the client has set to what the connection was opened with does not change when code resets it: nothing says so.
        return Told::OfFaults;
    }
    if (told(&["ERROR 57014"]) && allows(" statement")) || (told(&["FATAL 25P03"]) && allows("_session")) {
        return Told::OfFaults;
    }
    if client.vanished && at >= own.seen.len() {
        return Told::OfFaults;
    }
    if !case.setup.is_calm() {
        match seen {
            None => return Told::OfFaults,
            Some(_) if told(&TOLD) => return Told::OfFaults,
            Some(_) => {}
        }
    }
    let mark = format!("{:?} for {:?}", own.seen.get(at), expected.seen.get(at));
    Told::Wrong(shown(), mark)
}

/// Whether a client is told one of these errors.
fn is_one_of(seen: &Seen, errors: &[&str]) -> bool {
    seen.tag == b'E' && errors.iter().any(|error| *seen.body == *error.as_bytes())
}

/// Whether a client is told that something can't be done in this mode, which it would not be told alone.
pub fn was_refused(transcript: &Transcript, alone: &Transcript) -> bool {
    let counts = |seen: &&Seen| !matches!(seen.tag, b'S' | b'K' | b'v');
    let own = transcript.seen.iter().filter(counts);
    let expected = alone.seen.iter().filter(counts);
    // As in `against_alone`.
    let is_same = |own: &Seen, expected: &Seen| {
        let is_wrong_bind = is_one_of(expected, &["ERROR 08P01"]) && is_one_of(own, &["ERROR 42P01", "ERROR 0A000"]);
        own == expected || (*own.body == *b"ERROR 25P02" && expected.tag == b'E') || is_wrong_bind
    };
    let other = own.zip(expected).find(|(own, expected)| !is_same(own, expected));
    other.is_some_and(|(own, _)| is_one_of(own, &REFUSALS))
}

/// Whether any text of a client is of this kind.
fn says(member: &Member, is: impl Fn(&str) -> bool) -> bool {
    texts(member).any(is)
}

/// What a client sends.
fn messages(member: &Member) -> impl Iterator<Item = &Message> {
    member.script.writes.iter().flat_map(|write| &write.messages).filter(|message| **message != Message::Rest)
}

/// The texts of a client.
fn texts(member: &Member) -> impl Iterator<Item = &str> {
    messages(member).flat_map(|message| match message {
        Message::Query(statements) => statements.iter().map(String::as_str).collect(),
        Message::Parse { text, .. } => vec![text.as_str()],
        _ => Vec::new(),
    })
}

/// Whether a client says one of `words` in a text that is too long to be read.
fn says_unread(member: &Member, case: &Case, words: &[&str]) -> bool {
    messages(member).any(|message| {
        let text = match message {
            Message::Query(statements) => statements.join(";"),
            Message::Parse { text, .. } => text.clone(),
            _ => String::new(),
        };
        text.len() > case.setup.text && words.iter().any(|word| text.to_ascii_lowercase().contains(word))
    })
}

/// Whether a client sends values in formats of its choice.
fn binds_formats(member: &Member) -> bool {
    messages(member).any(|message| matches!(message, Message::Formatted { .. }))
}

/// Whether a client sends a simple query behind requests of the extended protocol without a `Sync` between them.
fn queries_unsynced(member: &Member) -> bool {
    let mut unsynced = false;
    messages(member).any(|message| {
        let queries = matches!(message, Message::Query(_));
        let behind = queries && unsynced;
        unsynced = !queries && !matches!(message, Message::Sync);
        behind
    })
}

/// Whether a client sends anything else behind copy data that it does not end. Where the copy is an extended request's, and the first such
/// message no `Sync`, all up to the next `Sync` is discarded, whether the data had failed before or not: nothing is in doubt.
fn interrupts_copy(member: &Member) -> bool {
    let messages = messages(member);
    let messages: Vec<_> = messages.filter(|message| !matches!(message, Message::Flush)).collect();
    let is_of_copy =
        |message: &Message| matches!(message, Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_));
    let is_extended = |at: usize| {
        let begin = messages[..=at].iter().rfind(|message| !matches!(message, Message::CopyData(_)));
        matches!(begin, Some(Message::Execute { .. }))
    };
    let in_doubt = |at: usize, next: &Message| matches!(next, Message::Sync) || !is_extended(at);
    let mut pairs = messages.windows(2).enumerate();
    pairs.any(|(at, pair)| matches!(pair, [Message::CopyData(_), next] if !is_of_copy(next) && in_doubt(at, next)))
}

/// What a client is told that breaks the protocol.
fn violation() -> Seen {
    Seen { tag: b'E', body: b"FATAL 08P01".as_slice().into() }
}

/// Where the login's answer ends.
pub fn login(transcript: &Transcript) -> usize {
    transcript.seen.iter().position(|seen| seen.tag == b'Z').map_or(transcript.seen.len(), |at| at + 1)
}

/// The same, as if changed settings were reported in front of `ReadyForQuery`: servers before 14 report each when it is set, be it to what it was.
fn reported_when_ready(transcript: &Transcript) -> Transcript {
    let login = login(transcript);
    let mut transcript = transcript.clone();
    let seen = std::mem::take(&mut transcript.seen);
    let name = |seen: &Seen| seen.body.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    let (mut told, mut now) = (BTreeMap::new(), BTreeMap::new());
    for (at, seen) in seen.into_iter().enumerate() {
        if seen.tag == b'S' {
            now.insert(name(&seen), seen.clone());
            if at < login {
                told.insert(name(&seen), seen.clone());
                transcript.seen.push(seen);
            }
            continue;
        }
        if seen.tag == b'Z' && at >= login {
            let changed = now.iter().filter(|(name, seen)| told.get(*name) != Some(seen));
            let mut changed: Vec<Seen> = changed.map(|(_, seen)| seen.clone()).collect();
            changed.sort();
            transcript.seen.extend(changed);
            told.clone_from(&now);
        }
        transcript.seen.push(seen);
    }
    transcript
}

/// The transcript without the settings that it begins with, nor the version of the protocol, which is pgferry's.
fn greeted(transcript: &Transcript) -> Transcript {
    let login = login(transcript);
    let mut transcript = transcript.clone();
    let mut at = 0;
    transcript.seen.retain(|seen| {
        at += 1;
        !matches!(seen.tag, b'S' | b'v') || at > login
    });
    transcript.seen.iter_mut().filter(|seen| seen.tag == b'K').for_each(|key| key.body = Box::default());
    // Whether there has ever been a temporary table decides which of the two is said.
    for seen in transcript.seen.iter_mut().filter(|seen| *seen.body == *b"ERROR 3F000") {
        seen.body = b"ERROR 42P01".as_slice().into();
    }
    transcript
}

/// The same without what a client is told later because the spelling of a value was not known at its login.
fn respelt(transcript: &Transcript, alone: &Transcript) -> Transcript {
    let settings = |transcript: &Transcript| -> Vec<Seen> {
        let seen = transcript.seen.iter().take(login(transcript));
        seen.filter(|seen| seen.tag == b'S').cloned().collect()
    };
    let told = settings(transcript);
    let mut greeted = self::greeted(transcript);
    let expected = self::greeted(alone);
    for late in settings(alone).iter().filter(|setting| !told.contains(setting)) {
        if let Some(at) = greeted.seen.iter().position(|seen| seen == late)
            && expected.seen.get(at) != Some(late)
        {
            greeted.seen.remove(at);
        }
    }
    greeted
}

/// What a client has been told, without what others have said to everyone.
pub fn own_part(transcript: &Transcript, id: usize) -> Transcript {
    let mut transcript = transcript.clone();
    transcript.seen.retain(|seen| !is_of_others(seen, id));
    transcript
}

/// What clients say to everyone is told to those that listen, in order and once.
fn check_notifications(case: &Case, played: &Played) -> Option<String> {
    let cluster = played.world.cluster.borrow();
    for (id, (client, member)) in played.clients.iter().zip(&case.members).enumerate() {
        let heard: Vec<&str> = client.transcript.seen.iter().filter_map(told_everyone).collect();
        let said: Vec<&str> = cluster.notifications(member.script.database(), EVERYONE).collect();
        let listens = |text: &str| text.to_ascii_lowercase().contains("listen everyone");
        if !heard.is_empty() && !says(member, listens) {
            return Some(format!("client {id} does not listen, and is told {heard:?}"));
        }
        let mut all = said.iter();
        if let Some(other) = heard.iter().find(|payload| !all.any(|said| said == *payload)) {
            return Some(format!("client {id} is told {other} out of order, or once more: {heard:?} of {said:?}"));
        }
        let ends = |text: &str| {
            let text = text.to_ascii_lowercase();
            let other = text.replace("listen everyone", "");
            ["listen", "discard all", "code.", "do $$", "execute"].iter().any(|word| other.contains(word))
                || text.contains("unlisten")
        };
        let last = client.transcript.seen.iter().rev().find(|seen| seen.tag != b'S' && !is_of_others(seen, id));
        let asks = |message: &Message| matches!(message, Message::Query(_) | Message::Function { .. } | Message::Sync);
        let is_at_rest = last.is_some_and(|last| last.tag == b'Z' && *last.body == *b"I")
            && messages(member).last().is_some_and(asks)
            && client.owed() == Ok(Owed::Nothing);
        if !case.setup.is_calm() || !is_at_rest || client.vanished || client.cancelled || says(member, ends) {
            continue;
        }
        let due = &said[client.must_hear()];
        let mut all = heard.iter();
        if let Some(missing) = due.iter().find(|said| !all.any(|heard| heard == *said)) {
            return Some(format!("client {id} is not told {missing}: {heard:?} of {due:?}\n{}", client.transcript));
        }
    }
    None
}

/// All that clients have been told answers what they have sent, and all of that is answered.
fn check_accounts(played: &Played) -> Option<String> {
    let ends = |client: &Client| {
        let last = client.transcript.seen.last();
        client.transcript.is_cut() || last.is_some_and(|last| last.body.starts_with(b"FATAL"))
    };
    played.clients.iter().enumerate().find_map(|(id, client)| match client.owed() {
        Err(why) => Some(format!("client {id}: {why}\n  it was told {}", client.transcript)),
        Ok(Owed::Answer(to)) if client.ended && !client.vanished && !ends(client) => {
            Some(format!("client {id} is owed the answer to {}\n  it was told {}", char::from(to), client.transcript))
        }
        Ok(_) => None,
    })
}

/// Every connection has come back or is closed.
fn check_counts(played: &Played) -> Option<String> {
    let world = &played.world;
    let mut idle = 0;
    for pool in world.pools.borrow().iter() {
        let (here, waiting) = pool.counts();
        if pool.open.get() != here || waiting > 0 {
            return Some(format!("{} connections are counted, {here} are there; {waiting} wait", pool.open.get()));
        }
        idle += here;
    }
    let wires = world.links.borrow();
    let cluster = world.cluster.borrow();
    let open = wires.iter().filter(|wire| !wire.closed).count();
    let left = wires
        .iter()
        .filter(|wire| {
            wire.closed && !wire.stalled && !cluster.is_waiting(wire.backend) && !cluster.is_closed(wire.backend)
        })
        .count();
    if open != idle || left > 0 {
        return Some(format!(
            "{open} connections are open, {idle} in the pools; the server has {left} that were closed"
        ));
    }
    None
}

/// What the books say of an idle connection is what it has.
fn check_books(case: &Case, played: &Played) -> Option<String> {
    let world = &played.world;
    for pool in world.pools.borrow().iter() {
        for link in pool.take_all() {
            let dead = world.cluster.borrow().is_closed(link.backend);
            if dead || world.links.borrow()[link.number()].stalled {
                continue;
            }
            let mut cluster = world.cluster.borrow_mut();
            cluster.slow_down(link.backend, Duration::ZERO);
            let ask = "[Q('show timezone;show datestyle;show application_name;show standard_conforming_strings;show client_encoding;\
                       select name from pg_prepared_statements')]";
            let script: Script = ask.parse().unwrap_or_default();
            script.writes.iter().for_each(|write| cluster.receive(link.backend, &write.bytes()));
            let mut answer = Transcript::default();
            answer.feed(&cluster.take_output(link.backend));
            if !case.setup.is_calm() && answer.has_error("57P01") {
                continue;
            }
            let rows: Vec<String> =
                answer.seen.iter().filter(|seen| seen.tag == b'D').map(std::string::ToString::to_string).collect();
            let status = answer.seen.iter().rev().find(|seen| seen.tag == b'Z').map(std::string::ToString::to_string);
            if status.as_deref() != Some("Z(I)") || rows.len() < 5 {
                return Some(format!("link {} is idle, and answers {answer}", link.number()));
            }
            let names = [
                &b"TimeZone"[..],
                b"DateStyle",
                b"application_name",
                b"standard_conforming_strings",
                b"client_encoding",
            ];
            for (name, row) in names.into_iter().zip(&rows) {
                let known = link.state.params.get(name).unwrap_or_default();
                // The server tells of a new default with its next answer, which this is.
                let is_news = case.has_new_defaults() && known == b"UTC" && *row == format!("D({NEW_ZONE})");
                if !is_news && *row != format!("D({})", known.escape_ascii()) {
                    return Some(format!(
                        "link {}: {} is {row}, and the books say {}",
                        link.number(),
                        name.escape_ascii(),
                        known.escape_ascii()
                    ));
                }
            }
            // Where a question is cancelled its statement stays, and is closed in front of the next one.
            let stays = |row: &str| !case.setup.is_calm() && row == "D(pgferry_meanwhile)";
            let here = rows[5..].iter().filter(|row| row.starts_with("D(pgferry_") && !stays(row)).count();
            let known = link.state.prepared.len() + link.state.reset_statements.count();
            if here != known {
                return Some(format!("link {} has {rows:?} prepared, and the books say {known}", link.number()));
            }
        }
    }
    None
}

fn count(played: &Played, database: &str, table: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for row in played.world.cluster.borrow().rows(database, "public", table) {
        *found.entry(row.into_iter().next().flatten().unwrap_or_default()).or_insert(0) += 1;
    }
    found
}

/// What was acknowledged is there once, what was refused is not, and what was left open is there once or not at all.
fn check_units(case: &Case, played: &Played) -> Option<String> {
    for (id, (Member { script, units, .. }, client)) in case.members.iter().zip(&played.clients).enumerate() {
        let Some(units) = units else { continue };
        let found = count(played, script.database(), "u");
        let mut answers = Answers::of(&client.transcript);
        for unit in units {
            let verdict = answers.next(unit.readies);
            // A BEGIN that was cancelled lets what follows it stand alone.
            let verdict = if client.cancelled && verdict != Verdict::Done { Verdict::Partly } else { verdict };
            if let Some(why) = judge(unit, verdict, &found) {
                return Some(format!("client {id}: {why}\n  it was told {}", client.transcript));
            }
        }
    }
    None
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    Failed,
    /// Some of it, at most once.
    Partly,
    Open,
}

struct Answers<'t> {
    transcript: &'t Transcript,
    at: usize,
}

impl<'t> Answers<'t> {
    fn of(transcript: &'t Transcript) -> Self {
        Self { transcript, at: login(transcript) }
    }

    fn next(&mut self, readies: usize) -> Verdict {
        let (mut left, mut failed) = (readies, false);
        while left > 0 {
            let Some(seen) = self.transcript.seen.get(self.at) else { return Verdict::Open };
            self.at += 1;
            failed |= seen.tag == b'E';
            left -= usize::from(seen.tag == b'Z');
        }
        if failed { Verdict::Failed } else { Verdict::Done }
    }
}

fn judge(unit: &Unit, verdict: Verdict, found: &BTreeMap<String, usize>) -> Option<String> {
    let counts: Vec<usize> = unit.tokens.iter().map(|token| found.get(token).copied().unwrap_or(0)).collect();
    let right = match verdict {
        Verdict::Done => counts.iter().all(|count| *count == 1),
        Verdict::Failed => counts.iter().all(|count| *count == 0),
        Verdict::Partly => counts.iter().all(|count| *count <= 1),
        Verdict::Open => counts.windows(2).all(|two| two[0] == two[1]) && counts.iter().all(|count| *count <= 1),
    };
    (!right).then(|| format!("{:?} is {verdict:?}, and there {counts:?} times", unit.tokens))
}

/// The database holds what each client would have left alone.
fn check_rows(case: &Case, played: &Played) -> Option<String> {
    if played.clients.iter().any(|client| client.vanished) {
        return None;
    }
    for database in ["alpha", "beta"] {
        let mut expected: Vec<(String, Vec<Option<String>>)> = Vec::new();
        for (member, alone) in case.members.iter().zip(&played.alone) {
            if member.script.database() == database {
                expected.extend(alone.rows.iter().cloned());
            }
        }
        let mut found = Vec::new();
        for table in TABLES {
            let rows = played.world.cluster.borrow().rows(database, "public", table);
            found.extend(rows.into_iter().map(|row| (table.to_owned(), row)));
        }
        expected.sort();
        found.sort();
        if expected != found {
            let mut text = format!("the rows of {database} are others\n");
            let missing = expected.iter().filter(|row| !found.contains(row));
            let more = found.iter().filter(|row| !expected.contains(row));
            let _ = writeln!(text, "  missing: {:?}", missing.collect::<Vec<_>>());
            let _ = writeln!(text, "  more: {:?}", more.collect::<Vec<_>>());
            let _ = writeln!(text, "  {} instead of {}", found.len(), expected.len());
            return Some(text);
        }
    }
    None
}
