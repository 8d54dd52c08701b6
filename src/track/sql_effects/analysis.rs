//! The walk through a text of SQL that finds its effects.

use super::{SqlEffects, TransactionFate};
use crate::track::constants::Constants;
use crate::track::field_notation::FieldNotation;
use crate::track::lexis::Lexis;
use crate::track::params;
use crate::track::pins::Pins;
use crate::track::plan_settings::{PlanSettings, is_read_by_plans};
use crate::track::prefilter;
use crate::track::sequences::Sequences;
use crate::track::session_code;
use crate::track::session_command::{self, PositionedCommand, SessionCommand};
use crate::track::source_settings;
use crate::track::sql::{Token, Tokens, joined};
use crate::track::sql_statement::{Code, Language, Statement, is};
use crate::track::state_functions::{
    RUNS_TEXTS, UNRESETTABLE, are_plain_constants, first_argument, is_advisory, is_local_set_config, is_plain,
    survives_discard,
};
use crate::track::unknown_settings::UnknownSettings;

/// Possible effects of a text of one or more statements on its session, without a quick pass before.
pub(crate) fn analyze_tokens(sql: &[u8], lexis: Lexis) -> SqlEffects {
    let (text, effects) = (SqlEffects::default(), SqlEffects::default());
    let notation = FieldNotation::default();
    let mut analysis = Analysis { sql, lexis, text, effects, notation, commands: Vec::new() };
    let mut statement = Statement::default();
    let mut tokens = Tokens::new(sql, lexis);
    // Behind the last token: what is put behind a statement must not be in a comment that follows it.
    let mut end = 0;
    loop {
        let at = sql.len() - tokens.skip_to_token();
        let Some(token) = tokens.next() else { break };
        if token == Token::Semicolon && !statement.is_nested() {
            analysis.end_statement(&statement, end);
            statement = Statement::default();
            continue;
        }
        statement.start.get_or_insert(at);
        analysis.token(token, &mut statement, &tokens);
        end = sql.len() - tokens.rest().len();
    }
    analysis.end_statement(&statement, end);
    analysis.finish()
}

/// The analysis of one text.
struct Analysis<'a> {
    sql: &'a [u8],
    lexis: Lexis,
    /// Effects of the statements that have ended.
    text: SqlEffects,
    /// Effects of the one that is walked.
    effects: SqlEffects,
    /// Place of the token that is walked.
    notation: FieldNotation,
    commands: Vec<PositionedCommand>,
}

impl<'a> Analysis<'a> {
    fn token(&mut self, token: Token<'a>, statement: &mut Statement<'a>, behind: &Tokens<'a>) {
        self.notation = self.notation.then(token);
        match token {
            Token::Word(word) => {
                let first = statement.first.is_none();
                let names = [&b"execute"[..], b"deallocate", b"prepare"];
                self.effects.names_statements |= names.iter().any(|names| is(word, names));
                self.effects.pins.insert(statement.word(word));
                if first {
                    self.keyword(word);
                }
                self.name(word, statement, behind);
            }
            Token::Quoted(name) => {
                statement.named(name);
                self.name(name, statement, behind);
            }
            Token::Text(text) => {
                if !statement.takes_code(text) {
                    self.effects.constants = self.effects.constants.max(Constants::of(text));
                    self.text(text, statement);
                }
                statement.other();
            }
            // Code that stands in pieces is not read.
            Token::Continued(_) if statement.code.is_some() => {
                statement.other();
                self.effects.pins.insert(Pins::UNANALYZED);
            }
            Token::Continued(text) => {
                let text = joined(text);
                self.effects.constants = self.effects.constants.max(Constants::of(&text));
                self.text(&text, statement);
                statement.other();
            }
            Token::Other(byte) => {
                statement.parenthesis(byte);
                statement.other();
            }
            Token::Semicolon => statement.semicolon(),
            Token::UnicodeName { .. } | Token::Unclear => {
                statement.other();
                self.effects.pins.insert(Pins::UNANALYZED);
                self.effects.constants = Constants::OfTheMoment;
            }
        }
    }

    /// A constant, which is code where it is given to a function that runs it.
    fn text(&mut self, text: &[u8], statement: &Statement<'_>) {
        let seed = is(text, b"seed") || (contains(text, b"seed") && contains(text, b"set"));
        if seed && (statement.is_in_call() || statement.updates) {
            self.effects.pins.insert(Pins::UNRESETTABLE);
        }
        if !statement.is_in_call() {
            return;
        }
        if contains(text, b"pg_temp") {
            self.effects.pins.insert(Pins::TEMP);
        }
        if !text.contains(&b'(') {
            return;
        }
        if contains(text, b"advisory_") {
            self.effects.pins.insert(Pins::LOCK);
        }
        if contains(text, b"set_config") {
            self.effects.pins.insert(Pins::SERVER_CODE);
        }
        if UNRESETTABLE.iter().any(|name| contains(text, name)) {
            self.effects.pins.insert(Pins::UNRESETTABLE);
        }
    }

    /// Code of a `DO`.
    fn code(&mut self, code: &Code<'_>) {
        let text = code.text;
        let mut tokens = Tokens::new(text, self.lexis);
        let mut statement = Statement::in_code();
        let mut does_anything = code.language == Language::Other || text.contains(&b'\\');
        let mut begins = true;
        while let Some(token) = tokens.next() {
            self.notation = self.notation.then(token);
            let word = if let Token::Word(word) = token { word } else { b"" };
            let is_unclear = matches!(token, Token::UnicodeName { .. } | Token::Unclear);
            does_anything |= is_unclear || is(word, b"execute") || (begins && begins_effect(word));
            self.effects.may_release |= RELEASING.iter().any(|releasing| is(word, releasing));
            begins = token == Token::Semicolon
                || token == Token::Other(b'>')
                || [&b"begin"[..], b"then", b"else", b"loop"].iter().any(|before| is(word, before))
                || (begins && !matches!(token, Token::Word(_)));
            match token {
                Token::Word(word) => {
                    self.effects.pins.insert(statement.word(word));
                    self.name(word, &statement, &tokens);
                }
                Token::Quoted(name) => {
                    statement.named(name);
                    self.name(name, &statement, &tokens);
                }
                Token::Text(text) => {
                    self.text(text, &statement);
                    statement.other();
                }
                Token::Continued(text) => {
                    self.text(&joined(text), &statement);
                    statement.other();
                }
                Token::Other(byte) => {
                    statement.parenthesis(byte);
                    statement.other();
                }
                Token::Semicolon | Token::UnicodeName { .. } | Token::Unclear => statement.other(),
            }
        }
        if does_anything {
            self.effects.pins.insert(Pins::SERVER_CODE);
            self.dynamic(text);
        }
    }

    /// Code that may run any text that it makes of what stands in it.
    fn dynamic(&mut self, text: &[u8]) {
        if contains(text, b"reset") || contains(text, b"discard") {
            // What it goes back to is looked into before anything else runs.
            self.effects.add_unknown_settings(UnknownSettings::ForSession);
        }
        let seed = contains(text, b"seed") && contains(text, b"set");
        if seed || UNRESETTABLE.iter().any(|name| contains(text, name)) {
            self.effects.pins.insert(Pins::UNRESETTABLE);
        }
    }

    /// The first word of a statement.
    fn keyword(&mut self, word: &[u8]) {
        let mut room = [0; 16];
        let Some(word) = lower(word, &mut room) else { return };
        self.effects.pins.insert(match word {
            b"listen" => Pins::LISTEN,
            b"load" => Pins::LOAD,
            _ => Pins::empty(),
        });
        self.effects.may_release |= RELEASING.contains(&word);
        if matches!(word, b"call" | b"do") {
            // Where it is no block.
            self.text.transaction = TransactionFate::MayEndWithin;
        }
    }

    /// Functions and schemas that mean session state by their name.
    fn name(&mut self, name: &[u8], statement: &Statement<'_>, behind: &Tokens<'_>) {
        if !prefilter::may_name_state(name) {
            return;
        }
        let name = name.to_ascii_lowercase();
        let is_field = self.notation == FieldNotation::Name;
        let effects = &mut self.effects;
        effects.defines_code |= statement.writes() && session_code::holds_code(&name);
        match name.as_slice() {
            b"pg_settings" if statement.updates || statement.makes_temporary() => {
                effects.plan_settings = PlanSettings::Unseen;
                return effects.add_unknown_settings(UnknownSettings::ForSession);
            }
            _ if name.starts_with(b"pg_temp") => return effects.pins.insert(Pins::TEMP),
            _ if !is_field && !matches!(behind.clone().next(), Some(Token::Other(b'('))) => return,
            _ => {}
        }
        effects.pins.insert(match name.as_slice() {
            b"set_config" => return self.set_config(behind),
            b"nextval" => Pins::NEXTVAL,
            b"setval" => {
                // What `lastval` gives stays what it was (`do_setval` in `src/backend/commands/sequence.c`).
                effects.sequences = Sequences::GaveValues;
                Pins::empty()
            }
            b"currval" | b"lastval" => Pins::SEQUENCE,
            _ if contains(&name, b"advisory_unlock") => {
                effects.may_release = true;
                Pins::empty()
            }
            _ if is_advisory(&name) && !contains(&name, b"_xact_") => Pins::LOCK,
            _ if survives_discard(&name) => Pins::UNRESETTABLE,
            _ if RUNS_TEXTS.iter().any(|runs| name.starts_with(runs)) => {
                let unseen = Some(Pins::UNRESETTABLE).filter(|_| is_field || !are_plain_constants(behind.clone()));
                Pins::SERVER_CODE.union(unseen.unwrap_or_default())
            }
            b"set_limit" => return effects.add_unknown_settings(UnknownSettings::ForSession),
            _ => Pins::empty(),
        });
    }

    /// A call of `set_config`, of which the arguments are `behind`.
    fn set_config(&mut self, behind: &Tokens<'_>) {
        let effects = &mut self.effects;
        let setting = first_argument(behind.clone());
        if setting.is_some_and(source_settings::is_rule) {
            effects.plan_settings = PlanSettings::UnseenRules;
        } else if setting.is_none_or(is_read_by_plans) {
            effects.plan_settings = effects.plan_settings.max(PlanSettings::Unseen);
        }
        if setting.is_some_and(|name| source_settings::are_read_under(&name.to_ascii_lowercase())) {
            effects.pins.insert(Pins::UNRESETTABLE);
        }
        if is_local_set_config(behind.clone()) {
            return effects.add_unknown_settings(UnknownSettings::ForTransaction);
        }
        let mut arguments = behind.clone().skip(1);
        match (arguments.next(), arguments.next()) {
            (Some(Token::Text(name)), Some(Token::Other(b','))) if is_plain(name) => {
                let name = name.to_ascii_lowercase();
                if session_command::is_followed(&name) {
                    return effects.add_named_setting(name.into());
                }
            }
            _ => effects.pins.insert(Pins::UNRESETTABLE),
        }
        effects.add_unknown_settings(UnknownSettings::ForSession);
    }

    fn end_statement(&mut self, statement: &Statement<'_>, end: usize) {
        self.effects.defines_code |= statement.defines_code();
        if statement.sequences == Sequences::GaveValues {
            self.effects.sequences = Sequences::GaveValues;
        }
        if let Some(code) = &statement.code {
            self.code(code);
        }
        if statement.keeps_for_session() && !self.effects.pins.difference(Pins::NOT_BY_CALLS).is_empty() {
            // What it calls is called whenever what it makes is used, by texts that don't show it.
            self.effects.pins.insert(Pins::SERVER_CODE);
        }
        self.command(statement, end);
        self.text.add(std::mem::take(&mut self.effects));
        self.text.statements += usize::from(statement.start.is_some());
    }

    /// The command that a statement is, if it is one that is followed.
    fn command(&mut self, statement: &Statement<'_>, end: usize) {
        let Some(start) = statement.start.filter(|_| statement.may_be_command()) else { return };
        let Some(text) = self.sql.get(start..end) else { return };
        let Some(command) = session_command::of_statement(text, self.lexis) else { return };
        match command {
            SessionCommand::UnknownSet { name: Some(ref name) } if is_plain(name) => {
                self.effects.add_named_setting(name.clone());
            }
            SessionCommand::UnknownSet { .. } => {
                self.effects.add_unknown_settings(UnknownSettings::ForSession);
                if contains(text, b"seed") || source_settings::may_be_named(text) {
                    self.effects.pins.insert(Pins::UNRESETTABLE);
                }
                if contains(text, b"pg_temp") {
                    self.effects.pins.insert(Pins::TEMP);
                }
            }
            SessionCommand::Set { .. }
            | SessionCommand::SetCharacteristics { .. }
            | SessionCommand::Reset { .. }
            | SessionCommand::ResetAll => {
                self.effects.pins.insert(Pins::SETTING);
            }
            SessionCommand::OtherSet if statement.takes_role() => self.effects.pins.insert(Pins::ROLE),
            _ => {}
        }
        self.commands.push(PositionedCommand { command, end });
    }

    /// Returns whether a command changes settings that functions' plans are made under, for less than a text, or some that no server
    /// reports.
    fn changes_plans_unseen(&self, command: &SessionCommand) -> bool {
        match command {
            SessionCommand::Set { name, .. } | SessionCommand::Reset { name } => {
                let is_told = self.text.statements == 1 && params::following(name).is_some();
                is_read_by_plans(name) && !is_told
            }
            SessionCommand::SetLocal { name, .. }
            | SessionCommand::ResetLocal { name, .. }
            | SessionCommand::UnknownSet { name: Some(name) } => is_read_by_plans(name),
            SessionCommand::UnknownSet { name: None } => true,
            _ => false,
        }
    }

    fn finish(mut self) -> SqlEffects {
        if !self.text.pins.intersection(Pins::UNANALYZED.union(Pins::SERVER_CODE)).is_empty()
            || self.commands.iter().any(|placed| self.changes_plans_unseen(&placed.command))
        {
            self.text.plan_settings = self.text.plan_settings.max(PlanSettings::Unseen);
        }
        let sets_rule =
            self.commands.iter().any(|placed| placed.command.setting().is_some_and(source_settings::is_rule));
        if sets_rule && self.commands.len() < self.text.statements {
            self.text.plan_settings = PlanSettings::UnseenRules;
        }
        let told_by_tag =
            |placed: &PositionedCommand| matches!(placed.command, SessionCommand::Commit | SessionCommand::Rollback);
        if self.commands.iter().any(told_by_tag) {
            self.text.transaction = self.text.transaction.max(TransactionFate::MayEnd);
        }
        if self.commands.iter().all(told_by_tag) {
            self.text.statements = 0;
        } else {
            self.text.commands = Some(self.commands.into());
        }
        self.text
    }
}

/// First words of statements that may end what another one has left.
const RELEASING: [&[u8]; 9] =
    [b"unlisten", b"deallocate", b"discard", b"close", b"drop", b"reset", b"set", b"rollback", b"abort"];

/// Returns whether a statement in PL/pgSQL that begins with `word` may leave something, or end the transaction.
fn begins_effect(word: &[u8]) -> bool {
    const WORDS: [&[u8]; 10] =
        [b"set", b"reset", b"listen", b"load", b"prepare", b"deallocate", b"discard", b"do", b"call", b"commit"];
    WORDS.iter().any(|effect| is(word, effect))
}

/// `word` in lower case; `None` where it is longer than any keyword that matters.
fn lower<'a>(word: &[u8], room: &'a mut [u8; 16]) -> Option<&'a [u8]> {
    let lowered = room.get_mut(..word.len())?;
    lowered.copy_from_slice(word);
    lowered.make_ascii_lowercase();
    Some(lowered)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle))
}
