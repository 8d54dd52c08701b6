//! Texts to statements.

use std::rc::Rc;

use super::super::error::Report;
use super::super::value::{Type, Value};
use super::ast::{
    Beginning, ColumnDef, Delete, Direction, Discard, Expr, From, Insert, Item, Modes, Name, OnCommit, Operator,
    Select, SetTo, Statement, Update,
};
use super::lexer::{Token, syntax_error, tokens};

/// The statements of a text; empty ones are none.
///
/// # Errors
/// 42601, also for what PostgreSQL understands and this dialect does not have.
pub fn parse(sql: &str, escapes: bool) -> Result<Vec<Statement>, Report> {
    let tokens = tokens(sql, escapes)?;
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let mut statements = Vec::new();
    loop {
        while parser.sign(";") {}
        if parser.peek().is_none() {
            return Ok(statements);
        }
        statements.push(parser.statement()?);
        if parser.peek().is_some() && !parser.sign(";") {
            return Err(parser.wrong());
        }
    }
}

type Parsed<T> = Result<T, Report>;

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn wrong(&self) -> Report {
        match self.peek() {
            Some(token) => syntax_error(&format!("{token:?}")),
            None => Report::error("42601", "syntax error at end of input"),
        }
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Some(Token::Sign(found)) if *found == sign)
    }

    fn is_word(&self, word: &str) -> bool {
        self.is_word_at(self.at, word)
    }

    fn is_word_at(&self, at: usize, word: &str) -> bool {
        matches!(self.tokens.get(at), Some(Token::Word(found)) if **found == *word)
    }

    fn sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn words(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(n, word)| self.is_word_at(self.at + n, word));
        self.at += if found { words.len() } else { 0 };
        found
    }

    fn need_sign(&mut self, sign: &str) -> Parsed<()> {
        if self.sign(sign) { Ok(()) } else { Err(self.wrong()) }
    }

    fn need_word(&mut self, word: &str) -> Parsed<()> {
        if self.word(word) { Ok(()) } else { Err(self.wrong()) }
    }

    /// An identifier.
    fn name(&mut self) -> Parsed<Rc<str>> {
        match self.peek() {
            Some(Token::Word(name) | Token::Quoted(name)) => {
                let name = Rc::clone(name);
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.wrong()),
        }
    }

    fn qualified(&mut self) -> Parsed<Name> {
        let name = self.name()?;
        if self.sign(".") {
            return Ok(Name { schema: Some(name), name: self.name()? });
        }
        Ok(Name { schema: None, name })
    }

    fn text(&mut self) -> Parsed<Rc<str>> {
        match self.peek() {
            Some(Token::Text(text)) => {
                let text = Rc::clone(text);
                self.at += 1;
                Ok(text)
            }
            _ => Err(self.wrong()),
        }
    }

    fn integer(&mut self) -> Parsed<i64> {
        match self.peek() {
            Some(Token::Number(number)) => {
                let number = number.parse().map_err(|_| self.wrong())?;
                self.at += 1;
                Ok(number)
            }
            _ => Err(self.wrong()),
        }
    }

    fn ty(&mut self) -> Parsed<Type> {
        let name = self.qualified()?;
        let known = Type::from_name(&name.name);
        known.ok_or_else(|| Report::error("42704", format!("type \"{}\" does not exist", name.name)))
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut all = vec![one(self)?];
        while self.sign(",") {
            all.push(one(self)?);
        }
        Ok(all)
    }

    /// A list in parentheses, which may be empty.
    fn arguments<T>(&mut self, one: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.need_sign("(")?;
        if self.sign(")") {
            return Ok(Vec::new());
        }
        let all = self.list(one)?;
        self.need_sign(")")?;
        Ok(all)
    }

    fn statement(&mut self) -> Parsed<Statement> {
        let Some(Token::Word(first)) = self.peek() else { return Err(self.wrong()) };
        let first = Rc::clone(first);
        if &*first == "select" {
            return self.select().map(Statement::Select);
        }
        self.at += 1;
        match &*first {
            "begin" => {
                self.transaction_noise();
                self.modes().map(|modes| Statement::Begin("BEGIN", modes))
            }
            "start" => {
                self.need_word("transaction")?;
                self.modes().map(|modes| Statement::Begin("START TRANSACTION", modes))
            }
            "commit" | "rollback" if self.word("prepared") => {
                self.text().map(|gid| Statement::EndPrepared { gid, commit: &*first == "commit" })
            }
            "commit" | "end" => {
                self.transaction_noise();
                Ok(Statement::Commit { chain: self.chain()? })
            }
            "rollback" | "abort" => self.rollback(),
            "savepoint" => self.name().map(Statement::Savepoint),
            "release" => {
                self.word("savepoint");
                self.name().map(Statement::Release)
            }
            "set" => self.set(),
            "reset" => self.reset(),
            "show" => self.setting().map(Statement::Show),
            "discard" => self.discard(),
            "deallocate" => {
                self.word("prepare");
                if self.word("all") {
                    Ok(Statement::Deallocate(None))
                } else {
                    self.name().map(|n| Statement::Deallocate(Some(n)))
                }
            }
            "prepare" if self.word("transaction") => self.text().map(Statement::PrepareTransaction),
            "prepare" => self.prepare(),
            "execute" => {
                let name = self.name()?;
                let args = if self.is_sign("(") { self.arguments(Self::expr)? } else { Vec::new() };
                Ok(Statement::Execute { name, args })
            }
            "declare" => self.declare(),
            "fetch" => self.fetch(false),
            "move" => self.fetch(true),
            "close" => {
                if self.word("all") {
                    Ok(Statement::CloseCursor(None))
                } else {
                    self.name().map(|n| Statement::CloseCursor(Some(n)))
                }
            }
            "listen" => self.name().map(Statement::Listen),
            "unlisten" => {
                if self.sign("*") {
                    Ok(Statement::Unlisten(None))
                } else {
                    self.name().map(|n| Statement::Unlisten(Some(n)))
                }
            }
            "notify" => {
                let channel = self.name()?;
                let payload = if self.sign(",") { self.text()? } else { "".into() };
                Ok(Statement::Notify(channel, payload))
            }
            "create" => self.create(),
            "drop" => {
                self.need_word("table")?;
                let if_exists = self.words(&["if", "exists"]);
                Ok(Statement::DropTable { if_exists, name: self.qualified()? })
            }
            "alter" => self.alter(),
            "insert" => self.insert(),
            "delete" => {
                self.need_word("from")?;
                let table = self.qualified()?;
                let filter = if self.word("where") { Some(self.expr()?) } else { None };
                Ok(Statement::Delete(Delete { table, filter, returning: self.returning()? }))
            }
            "update" => {
                let table = self.qualified()?;
                self.need_word("set")?;
                let column = self.name()?;
                self.need_sign("=")?;
                let to = self.expr()?;
                let filter = if self.word("where") { Some(self.expr()?) } else { None };
                Ok(Statement::Update(Update { table, column, to, filter }))
            }
            "copy" => self.copy(),
            "do" => self.block(),
            "call" => {
                let procedure = self.qualified()?;
                self.need_sign("(")?;
                if &*procedure.name == "twice" {
                    let token = self.text()?;
                    self.need_sign(")")?;
                    return Ok(Statement::CallTwice(token));
                }
                self.need_sign(")")?;
                Ok(Statement::Call { commit: &*procedure.name == "finish" })
            }
            "lock" => {
                self.word("table");
                self.qualified().map(Statement::LockTable)
            }
            _ => {
                self.at -= 1;
                Err(self.wrong())
            }
        }
    }

    /// A block of code.
    fn block(&mut self) -> Parsed<Statement> {
        let tokens = tokens(&self.text()?, false)?;
        let mut parser = Parser { tokens: &tokens, at: 0 };
        parser.need_word("begin")?;
        let mut statements = Vec::new();
        while !parser.word("end") {
            let statement = if parser.is_word("perform") {
                parser.at += 1;
                Statement::Perform(parser.select_list()?)
            } else {
                parser.statement()?
            };
            statements.push(statement.into());
            parser.need_sign(";")?;
        }
        Ok(Statement::Do(statements))
    }

    fn transaction_noise(&mut self) {
        if !self.word("work") {
            self.word("transaction");
        }
    }

    /// Properties of a transaction, of which there may be none.
    fn modes(&mut self) -> Parsed<Modes> {
        let known = [
            (&["isolation", "level", "serializable"][..], ("isolation", "serializable")),
            (&["isolation", "level", "repeatable", "read"], ("isolation", "repeatable read")),
            (&["isolation", "level", "read", "committed"], ("isolation", "read committed")),
            (&["isolation", "level", "read", "uncommitted"], ("isolation", "read uncommitted")),
            (&["read", "only"], ("read_only", "on")),
            (&["read", "write"], ("read_only", "off")),
        ];
        let mut modes = Vec::new();
        loop {
            let comma = !modes.is_empty() && self.sign(",");
            match known.iter().find(|(words, _)| self.words(words)) {
                Some((_, mode)) => modes.push(*mode),
                None if comma => return Err(self.wrong()),
                None => return Ok(modes),
            }
        }
    }

    fn needed_modes(&mut self) -> Parsed<Modes> {
        let modes = self.modes()?;
        if modes.is_empty() { Err(self.wrong()) } else { Ok(modes) }
    }

    fn chain(&mut self) -> Parsed<bool> {
        if !self.word("and") {
            return Ok(false);
        }
        let not = self.word("no");
        self.need_word("chain")?;
        Ok(!not)
    }

    fn rollback(&mut self) -> Parsed<Statement> {
        self.transaction_noise();
        if self.word("to") {
            self.word("savepoint");
            return self.name().map(Statement::RollbackTo);
        }
        Ok(Statement::Rollback { chain: self.chain()? })
    }

    /// A setting's name.
    fn setting(&mut self) -> Parsed<Rc<str>> {
        if self.words(&["time", "zone"]) {
            return Ok("timezone".into());
        }
        if self.words(&["session", "authorization"]) {
            return Ok("session_authorization".into());
        }
        let mut name = self.name()?;
        while self.sign(".") {
            name = format!("{name}.{}", self.name()?).into();
        }
        Ok(name)
    }

    fn set(&mut self) -> Parsed<Statement> {
        let ahead = self.tokens.get(self.at + 1);
        let is_name = matches!(ahead, Some(Token::Sign("=" | ".")));
        if !is_name && self.word("transaction") {
            if self.word("snapshot") {
                return self.text().map(Statement::SetSnapshot);
            }
            return self.needed_modes().map(Statement::SetTransaction);
        }
        if !is_name && self.words(&["session", "characteristics", "as", "transaction"]) {
            return self.needed_modes().map(Statement::SetCharacteristics);
        }
        let local = !is_name && self.word("local");
        if !is_name && !local && !self.is_word_at(self.at + 1, "authorization") {
            self.word("session");
        }
        if self.words(&["time", "zone"]) {
            return Ok(Statement::Set { name: "timezone".into(), to: self.set_to()?, local });
        }
        if self.words(&["session", "authorization"]) {
            return Ok(Statement::Set { name: "session_authorization".into(), to: self.set_to()?, local });
        }
        for (word, name) in [("names", "client_encoding"), ("schema", "search_path"), ("role", "role")] {
            let equals = self.is_word_at(self.at + 1, "to")
                || matches!(self.tokens.get(self.at + 1), Some(Token::Sign("=" | ".")));
            if !equals && self.word(word) {
                let is_constant = matches!(self.peek(), Some(Token::Text(_))) || self.is_word("default");
                if word == "names" && !is_constant {
                    return Err(self.wrong());
                }
                return Ok(Statement::Set { name: name.into(), to: self.set_to()?, local });
            }
        }
        let name = self.setting()?;
        if !self.sign("=") {
            self.need_word("to")?;
        }
        Ok(Statement::Set { name, to: self.set_to()?, local })
    }

    fn set_to(&mut self) -> Parsed<SetTo> {
        if self.word("default") {
            return Ok(SetTo::Default);
        }
        self.list(Self::set_value).map(SetTo::Values)
    }

    fn set_value(&mut self) -> Parsed<Rc<str>> {
        let minus = self.sign("-");
        match self.peek() {
            Some(Token::Word(value) | Token::Quoted(value) | Token::Text(value)) if !minus => {
                let value = Rc::clone(value);
                self.at += 1;
                Ok(value)
            }
            Some(Token::Number(value)) => {
                let value = if minus { format!("-{value}").into() } else { Rc::clone(value) };
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.wrong()),
        }
    }

    fn reset(&mut self) -> Parsed<Statement> {
        if self.word("all") {
            return Ok(Statement::ResetAll);
        }
        self.setting().map(Statement::Reset)
    }

    fn discard(&mut self) -> Parsed<Statement> {
        for (word, what) in [
            ("all", Discard::All),
            ("temp", Discard::Temp),
            ("temporary", Discard::Temp),
            ("plans", Discard::Plans),
            ("sequences", Discard::Sequences),
        ] {
            if self.word(word) {
                return Ok(Statement::Discard(what));
            }
        }
        Err(self.wrong())
    }

    fn prepare(&mut self) -> Parsed<Statement> {
        let name = self.name()?;
        let types = if self.is_sign("(") { self.arguments(Self::ty)? } else { Vec::new() };
        self.need_word("as")?;
        if !["select", "insert", "delete", "update"].iter().any(|word| self.is_word(word)) {
            return Err(self.wrong());
        }
        Ok(Statement::Prepare { name, types, body: self.statement()?.into() })
    }

    fn declare(&mut self) -> Parsed<Statement> {
        let name = self.name()?;
        let mut scrolls = None;
        loop {
            if self.words(&["no", "scroll"]) {
                scrolls = Some(false);
            } else if self.word("scroll") {
                scrolls = Some(true);
            } else if !self.word("insensitive") {
                break;
            }
        }
        self.need_word("cursor")?;
        let hold = self.words(&["with", "hold"]) || {
            self.words(&["without", "hold"]);
            false
        };
        self.need_word("for")?;
        let select = Statement::Select(self.select()?).into();
        Ok(Statement::Declare { name, scrolls, hold, select })
    }

    fn fetch(&mut self, moves: bool) -> Parsed<Statement> {
        let to = if self.word("prior") {
            Direction::Backward(Some(1))
        } else if self.word("first") {
            Direction::Absolute(1)
        } else if self.word("last") {
            Direction::Absolute(-1)
        } else if self.word("absolute") {
            Direction::Absolute(self.signed()?)
        } else if self.word("relative") {
            Direction::Relative(self.signed()?)
        } else if self.word("backward") {
            Direction::Backward(self.rows()?)
        } else {
            let _ = self.word("forward") || self.word("next");
            Direction::Forward(self.rows()?)
        };
        if !self.word("from") {
            self.word("in");
        }
        Ok(Statement::Fetch { cursor: self.name()?, to, moves })
    }

    /// How many rows: one where nothing is said.
    fn rows(&mut self) -> Parsed<Option<i64>> {
        if self.word("all") {
            return Ok(None);
        }
        let said = self.is_sign("-") || matches!(self.peek(), Some(Token::Number(_)));
        if said { self.signed().map(Some) } else { Ok(Some(1)) }
    }

    fn signed(&mut self) -> Parsed<i64> {
        let minus = self.sign("-");
        self.integer().map(|number| if minus { -number } else { number })
    }

    fn create(&mut self) -> Parsed<Statement> {
        if self.words(&["or", "replace", "function"]) || self.word("function") {
            return self.function();
        }
        let temp = self.word("temp") || self.word("temporary");
        self.need_word("table")?;
        let if_not_exists = self.words(&["if", "not", "exists"]);
        let name = self.qualified()?;
        if self.word("as") {
            return Ok(Statement::CreateTableAs { temp, name, select: self.select()?.into() });
        }
        let columns = self.arguments(Self::column_def)?;
        let on_commit = if self.words(&["on", "commit", "drop"]) { OnCommit::Drop } else { OnCommit::Preserve };
        Ok(Statement::CreateTable { temp, if_not_exists, name, columns, on_commit })
    }

    /// A function without parameters whose body is of SQL's own form, with nothing but `SELECT`s in it.
    fn function(&mut self) -> Parsed<Statement> {
        let name = self.qualified()?;
        self.need_sign("(")?;
        self.need_sign(")")?;
        self.need_word("returns")?;
        self.ty()?;
        for word in ["language", "sql", "begin", "atomic"] {
            self.need_word(word)?;
        }
        while !self.word("end") {
            self.select()?;
            self.need_sign(";")?;
        }
        Ok(Statement::CreateFunction(name))
    }

    fn column_def(&mut self) -> Parsed<ColumnDef> {
        let name = self.name()?;
        let ty = self.ty()?;
        let mut column = ColumnDef { name, ty, unique: false, sequence: None };
        loop {
            if self.word("unique") {
                column.unique = true;
            } else if self.word("default") {
                self.need_word("nextval")?;
                self.need_sign("(")?;
                let sequence = self.text()?;
                self.need_sign(")")?;
                column.sequence = Some(dotted(&sequence));
            } else {
                return Ok(column);
            }
        }
    }

    fn alter(&mut self) -> Parsed<Statement> {
        if self.word("database") {
            let database = self.name()?;
            return self.beginning((Some(database), None));
        }
        if self.word("role") {
            let role = self.name()?;
            let database = if self.words(&["in", "database"]) { Some(self.name()?) } else { None };
            return self.beginning((database, Some(role)));
        }
        self.need_word("table")?;
        let table = self.qualified()?;
        if self.word("add") {
            self.word("column");
            return Ok(Statement::AddColumn { table, column: self.column_def()? });
        }
        self.need_word("alter")?;
        self.word("column");
        let column = self.name()?;
        self.words(&["set", "data"]);
        self.need_word("type")?;
        Ok(Statement::AlterType { table, column, ty: self.ty()? })
    }

    fn beginning(&mut self, of: (Option<Rc<str>>, Option<Rc<str>>)) -> Parsed<Statement> {
        let (name, to) = if self.word("reset") {
            (if self.word("all") { None } else { Some(self.setting()?) }, SetTo::Default)
        } else {
            self.need_word("set")?;
            let name = self.setting()?;
            if !self.sign("=") {
                self.need_word("to")?;
            }
            (Some(name), self.set_to()?)
        };
        Ok(Statement::AlterBeginning(Beginning { of, name, to }))
    }

    fn insert(&mut self) -> Parsed<Statement> {
        self.need_word("into")?;
        let table = self.qualified()?;
        let columns = if self.is_sign("(") { self.arguments(Self::name)? } else { Vec::new() };
        self.need_word("values")?;
        let rows = self.list(|parser| parser.arguments(Self::expr))?;
        Ok(Statement::Insert(Insert { table, columns, rows, returning: self.returning()? }))
    }

    fn returning(&mut self) -> Parsed<Option<Vec<Item>>> {
        if self.word("returning") { self.list(Self::item).map(Some) } else { Ok(None) }
    }

    fn copy(&mut self) -> Parsed<Statement> {
        if self.sign("(") {
            let select = self.select()?;
            self.need_sign(")")?;
            self.need_word("to")?;
            self.need_word("stdout")?;
            return Ok(Statement::CopyOut(select));
        }
        let table = self.qualified()?;
        let columns = if self.is_sign("(") { self.arguments(Self::name)? } else { Vec::new() };
        self.need_word("from")?;
        self.need_word("stdin")?;
        Ok(Statement::CopyIn { table, columns })
    }

    fn select(&mut self) -> Parsed<Select> {
        self.need_word("select")?;
        self.select_list()
    }

    /// What comes behind the word.
    fn select_list(&mut self) -> Parsed<Select> {
        let empty = self.is_word("from") || self.is_word("where") || self.is_sign(")") || self.is_sign(";");
        let items = if empty || self.peek().is_none() { Vec::new() } else { self.list(Self::item)? };
        let from = if self.word("from") { self.from()? } else { From::Nothing };
        let filter = if self.word("where") { Some(self.expr()?) } else { None };
        let order = if self.words(&["order", "by"]) { Some(self.name()?) } else { None };
        let limit = if self.word("limit") { Some(self.integer()?) } else { None };
        Ok(Select { items, from, filter, order, limit })
    }

    fn from(&mut self) -> Parsed<From> {
        let name = self.qualified()?;
        let args = if self.is_sign("(") { Some(self.arguments(Self::expr)?) } else { None };
        let explicit = self.word("as");
        let ends = ["where", "order", "limit", "union"].iter().any(|word| self.is_word(word));
        let alias = match self.peek() {
            Some(Token::Word(_) | Token::Quoted(_)) if explicit || !ends => Some(self.name()?),
            _ => None,
        };
        Ok(match args {
            Some(args) => {
                let alias = alias.unwrap_or_else(|| Rc::clone(&name.name));
                From::Function(name, args, alias)
            }
            None => From::Table(name),
        })
    }

    fn item(&mut self) -> Parsed<Item> {
        if self.sign("*") {
            return Ok(Item::All);
        }
        let expr = self.expr()?;
        let name = if self.word("as") { Some(self.name()?) } else { None };
        Ok(Item::Expr { expr, name })
    }

    fn expr(&mut self) -> Parsed<Expr> {
        let mut left = self.and()?;
        while self.word("or") {
            left = Expr::Binary(Operator::Or, left.into(), self.and()?.into());
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed<Expr> {
        let mut left = self.not()?;
        while self.word("and") {
            left = Expr::Binary(Operator::And, left.into(), self.not()?.into());
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed<Expr> {
        if self.word("not") {
            return Ok(Expr::Not(self.not()?.into()));
        }
        let expr = self.comparison()?;
        if self.words(&["is", "not", "null"]) {
            return Ok(Expr::IsNull(expr.into(), false));
        }
        if self.words(&["is", "null"]) {
            return Ok(Expr::IsNull(expr.into(), true));
        }
        Ok(expr)
    }

    /// An operator, perhaps as `OPERATOR(pg_catalog.=)`.
    fn operator(&mut self, of: &[(&str, Operator)]) -> Parsed<Option<Operator>> {
        let from = self.at;
        let spelt = self.is_word("operator") && matches!(self.tokens.get(self.at + 1), Some(Token::Sign("(")));
        if spelt {
            self.at += 2;
            if !matches!(self.tokens.get(self.at), Some(Token::Sign(_))) {
                self.name()?;
                self.need_sign(".")?;
            }
        }
        for (sign, operator) in of {
            if self.sign(sign) {
                if spelt {
                    self.need_sign(")")?;
                }
                return Ok(Some(*operator));
            }
        }
        self.at = from;
        Ok(None)
    }

    fn comparison(&mut self) -> Parsed<Expr> {
        let left = self.sum()?;
        let operators = [
            ("=", Operator::Equal),
            ("<>", Operator::NotEqual),
            ("!=", Operator::NotEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let Some(operator) = self.operator(&operators)? else { return Ok(left) };
        if self.word("any") {
            self.need_sign("(")?;
            let list = self.expr()?;
            self.need_sign(")")?;
            return Ok(Expr::Any(left.into(), list.into()));
        }
        Ok(Expr::Binary(operator, left.into(), self.sum()?.into()))
    }

    fn sum(&mut self) -> Parsed<Expr> {
        let mut left = self.product()?;
        let operators = [("+", Operator::Plus), ("-", Operator::Minus), ("||", Operator::Concat)];
        while let Some(operator) = self.operator(&operators)? {
            left = Expr::Binary(operator, left.into(), self.product()?.into());
        }
        Ok(left)
    }

    fn product(&mut self) -> Parsed<Expr> {
        let mut left = self.cast()?;
        while let Some(operator) = self.operator(&[("*", Operator::Times), ("/", Operator::Divide)])? {
            left = Expr::Binary(operator, left.into(), self.cast()?.into());
        }
        Ok(left)
    }

    fn cast(&mut self) -> Parsed<Expr> {
        let mut expr = self.primary()?;
        while self.sign("::") {
            expr = Expr::Cast(expr.into(), self.ty()?);
        }
        Ok(expr)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let token = self.peek().cloned().ok_or_else(|| self.wrong())?;
        self.at += 1;
        match token {
            Token::Text(text) => Ok(Expr::Constant(Value::Text(text))),
            Token::Number(number) => match number.parse() {
                Ok(number) => Ok(Expr::Constant(Value::Int(number))),
                Err(_) => Err(syntax_error(&number)),
            },
            Token::Param(n) if n > 0 => Ok(Expr::Param(n)),
            Token::Sign("-") => {
                let number = self.integer()?;
                Ok(Expr::Constant(Value::Int(-number)))
            }
            Token::Sign("(") => {
                let expr = self.expr()?;
                self.need_sign(")")?;
                Ok(expr)
            }
            Token::Word(word) => self.word_expr(&word),
            Token::Quoted(name) => Ok(Expr::Column(name)),
            _ => {
                self.at -= 1;
                Err(self.wrong())
            }
        }
    }

    fn word_expr(&mut self, word: &Rc<str>) -> Parsed<Expr> {
        match &**word {
            "null" => return Ok(Expr::Constant(Value::Null)),
            "true" => return Ok(Expr::Constant(Value::Bool(true))),
            "false" => return Ok(Expr::Constant(Value::Bool(false))),
            "current_user" | "session_user" => {
                return Ok(Expr::Call(Name { schema: None, name: Rc::clone(word) }, Vec::new()));
            }
            "exists" if self.is_sign("(") => {
                self.need_sign("(")?;
                let select = self.select()?;
                self.need_sign(")")?;
                return Ok(Expr::Exists(select.into()));
            }
            "case" if self.word("when") => {
                let condition = self.expr()?;
                self.need_word("then")?;
                let then = self.expr()?;
                self.need_word("else")?;
                let otherwise = self.expr()?;
                self.need_word("end")?;
                return Ok(Expr::Case([condition, then, otherwise].into()));
            }
            "from" | "where" | "select" | "order" | "limit" | "and" | "or" | "as" | "to" | "for" => {
                self.at -= 1;
                return Err(self.wrong());
            }
            _ => {}
        }
        let name = if self.sign(".") {
            Name { schema: Some(Rc::clone(word)), name: self.name()? }
        } else {
            Name { schema: None, name: Rc::clone(word) }
        };
        if !self.is_sign("(") {
            return Ok(Expr::Column(name.name));
        }
        if &*name.name == "count" && matches!(self.tokens.get(self.at + 1), Some(Token::Sign("*"))) {
            self.at += 2;
            self.need_sign(")")?;
            return Ok(Expr::Count);
        }
        let args = self.arguments(Self::expr)?;
        match (&*name.name, args.as_slice()) {
            ("coalesce", _) => return Ok(Expr::Coalesce(args)),
            ("sum", [of]) => return Ok(Expr::Sum(of.clone().into())),
            _ => {}
        }
        Ok(Expr::Call(name, args))
    }
}

/// A name in a text, as `regclass` reads it.
pub fn dotted(text: &str) -> Name {
    match text.split_once('.') {
        Some((schema, name)) => Name { schema: Some(schema.into()), name: name.into() },
        None => Name { schema: None, name: text.into() },
    }
}
