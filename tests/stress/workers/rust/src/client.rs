//! What one client does.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow, PgSslMode};
use sqlx::{Column, ConnectOptions, Connection, Executor, Row, TypeInfo, ValueRef};

use crate::{Arguments, say};

/// One client: its name, its connection, and what it is to find in its session.
pub struct Client {
    arguments: Arguments,
    name: String,
    database: &'static str,
    random: u64,
    count: u64,
    operations: u64,
    doing: &'static str,
    start_path: Option<&'static str>,
    path: Option<&'static str>,
    title: String,
}

/// What a piece of work leaves its connection as.
enum Left {
    /// To be used again.
    Open,
    /// To be dropped without a word.
    Gone,
}

type Outcome = Result<Left, sqlx::Error>;

/// What there is to do, with weights; the last five leave something in the session for as long as they last.
const WORK: [(&str, u64); 20] = [
    ("literal", 10),
    ("shared", 10),
    ("unprepared", 5),
    ("thing", 8),
    ("shifting", 4),
    ("large", 2),
    ("many_rows", 2),
    ("wrong_statement", 5),
    ("insert", 8),
    ("several", 4),
    ("transaction", 8),
    ("dropped_transaction", 2),
    ("abandoned_at_work", 1),
    ("copy_in", 3),
    ("copy_out", 2),
    ("settings", 8),
    ("setting", 8),
    ("temporary", 2),
    ("lock", 2),
    ("cancel", 1),
];
const LEAVING: usize = 5;

impl Client {
    pub fn new(arguments: Arguments, number: usize) -> Self {
        Self {
            name: format!("{}-{}-{number}", arguments.driver, arguments.seed),
            database: ["first", "second"][number % 2],
            random: arguments.seed.wrapping_mul(1000).wrapping_add(number as u64),
            arguments,
            count: 0,
            operations: 0,
            doing: "connect",
            start_path: None,
            path: None,
            title: String::new(),
        }
    }

    /// A number below `n`: splitmix64.
    fn below(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn next(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.name, self.count)
    }

    fn same(&self, what: &str, got: &str, expected: &str) {
        if got != expected {
            let short = |text: &str| text.chars().take(300).collect::<String>();
            self.wrong(&format!("{what}: {:?} instead of {:?}", short(got), short(expected)));
        }
    }

    fn wrong(&self, text: &str) {
        say(&format!("wrong: {}: {}: {text}", self.name, self.doing));
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.arguments.end
    }

    pub async fn run(mut self) -> u64 {
        while !self.is_over() {
            if let Err(error) = self.session().await {
                say(&format!("error: {} {}: {error}", code(&error).unwrap_or_else(|| "-".to_owned()), self.doing));
                let pause = self.below(300);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        self.operations
    }

    async fn session(&mut self) -> Result<(), sqlx::Error> {
        self.doing = "connect";
        self.start_path = [None, None, Some("north"), Some("south")][self.below(4) as usize];
        self.path = self.start_path;
        self.title = self.name.clone();
        let mut connection = self.options().connect().await?;
        for _ in 0..=self.below(self.arguments.session) {
            if self.is_over() {
                break;
            }
            self.doing = self.choose();
            match self.work(&mut connection).await? {
                Left::Open => self.operations += 1,
                Left::Gone => return Ok(()),
            }
        }
        if self.below(10) == 0 {
            // Dropped, as by a program that forgets to close.
            return Ok(());
        }
        connection.close().await
    }

    fn options(&mut self) -> PgConnectOptions {
        let a = &self.arguments;
        let options = PgConnectOptions::new_without_pgpass().port(a.port).username(&a.user).database(self.database);
        let options = options.application_name(&self.title).ssl_mode(PgSslMode::Disable);
        let options = if a.host.starts_with('/') { options.socket(&a.host) } else { options.host(&a.host) };
        let options = if a.password.is_empty() { options } else { options.password(&a.password) };
        let capacity = if self.arguments.leaves { [2, 100][self.below(2) as usize] } else { 0 };
        let options = options.statement_cache_capacity(capacity);
        self.start_path.map_or(options.clone(), |path| options.options([("search_path", path)]))
    }

    fn choose(&mut self) -> &'static str {
        let work = if self.arguments.leaves { &WORK[..] } else { &WORK[..WORK.len() - LEAVING] };
        let mut n = self.below(work.iter().map(|(_, weight)| weight).sum());
        for (name, weight) in work {
            if n < *weight {
                return name;
            }
            n -= weight;
        }
        unreachable!("it is below the sum")
    }

    async fn work(&mut self, connection: &mut PgConnection) -> Outcome {
        match self.doing {
            "literal" => self.literal(connection).await?,
            "shared" => self.shared(connection, true).await?,
            "unprepared" => self.shared(connection, false).await?,
            "thing" => self.thing(connection).await?,
            "shifting" => self.shifting(connection).await?,
            "large" => self.large(connection).await?,
            "many_rows" => self.many_rows(connection).await?,
            "wrong_statement" => self.wrong_statement(connection).await?,
            "insert" => self.insert(connection).await?,
            "several" => self.several(connection).await?,
            "transaction" => self.transaction(connection).await?,
            "dropped_transaction" => self.dropped_transaction(connection).await?,
            "abandoned_at_work" => return self.abandoned_at_work(connection).await,
            "copy_in" => self.copy_in(connection).await?,
            "copy_out" => self.copy_out(connection).await?,
            "settings" => self.settings(connection).await?,
            "setting" => self.setting(connection).await?,
            "temporary" => self.temporary(connection).await?,
            "lock" => self.lock(connection).await?,
            "cancel" => self.cancel(connection).await?,
            other => unreachable!("{other}"),
        }
        Ok(Left::Open)
    }

    /// Takes an error that had to come; any other is returned.
    fn provoked<T>(&self, result: Result<T, sqlx::Error>, wanted: &str) -> Result<(), sqlx::Error> {
        match result {
            Err(error) if code(&error).as_deref() == Some(wanted) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                self.wrong(&format!("no error {wanted}"));
                Ok(())
            }
        }
    }

    /// Tells what became of a token's rows; `sent` whether what commits it may have been sent.
    fn told(
        &self,
        token: &str,
        rows: u64,
        fails: bool,
        sent: bool,
        result: Result<(), sqlx::Error>,
    ) -> Result<(), sqlx::Error> {
        let outcome = match &result {
            Ok(()) if !fails => "acked",
            Err(error) if sent && is_lost(error) => "unknown",
            _ => "failed",
        };
        say(&format!("{outcome} {token} {rows}"));
        result
    }

    // Selects that name themselves.

    async fn literal(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let name = self.next();
        let row = connection.fetch_one(format!("select '{name}' as \"{name}\"").as_str()).await?;
        self.same("literal", row.column(0).name(), &name);
        self.same("literal", row.get(0), &name);
        Ok(())
    }

    async fn shared(&mut self, connection: &mut PgConnection, kept: bool) -> Result<(), sqlx::Error> {
        let (which, value) = (format!("text {}", self.below(30)), self.next());
        let text = format!("select '{which}' as which, $1::text as value");
        let row =
            sqlx::query(&text).persistent(kept && self.arguments.leaves).bind(&value).fetch_one(connection).await?;
        self.same("shared text", row.get("which"), &which);
        self.same("shared text", row.get("value"), &value);
        Ok(())
    }

    async fn thing(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let number = 1 + i32::try_from(self.below(100)).expect("small");
        let query = sqlx::query("select * from public.thing where id = $1").persistent(self.arguments.leaves);
        // Databases differ in the type of the number.
        let query = if self.database == "first" { query.bind(number) } else { query.bind(i64::from(number)) };
        let row = query.fetch_one(connection).await?;
        self.same("thing", row.get("place"), &format!("{}-{number}", self.database));
        Ok(())
    }

    async fn shifting(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let number = 1 + i32::try_from(self.below(100)).expect("small");
        let query = sqlx::query("select value from public.shifting where id = $1").persistent(self.arguments.leaves);
        let query = query.bind(number);
        match query.fetch_one(connection).await {
            Ok(row) => self.same("shifting", &shown(&row), &number.to_string()),
            Err(error) if code(&error).as_deref() == Some("0A000") => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn large(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (piece, times) = (self.next() + ".", [1000, 20_000][self.below(2) as usize]);
        let query = sqlx::query_scalar::<_, String>("select repeat($1, $2)").persistent(self.arguments.leaves);
        let got = query.bind(&piece).bind(times).fetch_one(connection).await?;
        self.same("large", &got, &piece.repeat(usize::try_from(times).expect("positive")));
        Ok(())
    }

    async fn many_rows(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (name, rows) = (self.next(), i32::try_from(self.below(3000)).expect("small"));
        let query = sqlx::query_as::<_, (String, i32)>("select $1::text, n from generate_series(1, $2) n");
        let query = query.persistent(self.arguments.leaves);
        let got = query.bind(&name).bind(rows).fetch_all(connection).await?;
        if got != (1..=rows).map(|n| (name.clone(), n)).collect::<Vec<_>>() {
            self.wrong(&format!("{} other rows than the {rows} of {name}", got.len()));
        }
        Ok(())
    }

    async fn wrong_statement(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let by_zero = sqlx::query("select 1/$1").persistent(self.arguments.leaves).bind(0);
        self.provoked(by_zero.fetch_all(&mut *connection).await, "22012")?;
        let of_nothing = sqlx::query("select * from nothing").persistent(self.arguments.leaves);
        self.provoked(of_nothing.fetch_all(connection).await, "42P01")
    }

    // Inserts.

    async fn put(&self, connection: &mut PgConnection, token: &str) -> Result<(), sqlx::Error> {
        let query = sqlx::query("insert into public.token values ($1)").persistent(self.arguments.leaves);
        query.bind(token).execute(connection).await.map(drop)
    }

    async fn insert(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let token = self.next();
        let done = self.put(connection, &token).await;
        self.told(&token, 1, false, true, done)
    }

    async fn several(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (token, fails) = (self.next(), self.below(2) == 0);
        let one = format!("insert into public.token values ('{token}')");
        let text = format!("{one}; {one}; select 1/{}", u8::from(!fails));
        let done = connection.execute(text.as_str()).await.map(drop);
        let done = if fails { self.provoked(done, "22012") } else { done };
        self.told(&token, 2, fails, true, done)
    }

    async fn transaction(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (token, rows, commits) = (self.next(), 1 + self.below(4), self.below(3) > 0);
        let mut sent = false;
        let done = self.in_transaction(connection, &token, rows, commits, &mut sent).await;
        self.told(&token, rows, !commits, sent, done)
    }

    async fn in_transaction(
        &mut self,
        connection: &mut PgConnection,
        token: &str,
        rows: u64,
        commits: bool,
        sent: &mut bool,
    ) -> Result<(), sqlx::Error> {
        let mut transaction = connection.begin().await?;
        for n in 1..=rows {
            self.put(&mut transaction, token).await?;
            let count = sqlx::query_scalar::<_, i64>("select count(*) from public.token where token = $1");
            let count = count.persistent(self.arguments.leaves).bind(token).fetch_one(&mut *transaction).await?;
            self.same("own rows", &count.to_string(), &n.to_string());
            if self.below(3) == 0 {
                let mut inner = transaction.begin().await?;
                let fails = format!("insert into public.token values ('{token}'); select 1/0");
                self.provoked(inner.execute(fails.as_str()).await, "22012")?;
                inner.rollback().await?;
            }
        }
        if commits {
            *sent = true;
            transaction.commit().await
        } else {
            transaction.rollback().await
        }
    }

    /// The driver rolls back in front of the next statement.
    async fn dropped_transaction(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let token = self.next();
        let done = async {
            let mut transaction = connection.begin().await?;
            self.put(&mut transaction, &token).await
        };
        let done = done.await;
        self.told(&token, 1, true, false, done)?;
        self.literal(connection).await
    }

    async fn abandoned_at_work(&mut self, connection: &mut PgConnection) -> Outcome {
        let token = self.next();
        let text = format!("insert into public.token select '{token}' from pg_sleep(0.3)");
        let patience = Duration::from_millis(self.below(20));
        let given_up = tokio::time::timeout(patience, connection.execute(text.as_str())).await;
        say(&format!("unknown {token} 1"));
        given_up.map_or(Ok(Left::Gone), |done| done.map(|_| Left::Open))
    }

    // COPY.

    async fn copy_in(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (token, rows, fails) = (self.next(), 1 + self.below(500), self.below(4) == 0);
        let done = async {
            let mut copy = connection.copy_in_raw("copy public.token from stdin").await?;
            for _ in 0..rows {
                copy.send(format!("{token}\n").as_bytes()).await?;
            }
            if fails { copy.abort("given up").await } else { copy.finish().await.map(drop) }
        };
        let done = done.await;
        self.told(&token, rows, fails, true, done)
    }

    async fn copy_out(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (name, rows) = (self.next(), self.below(2000));
        let text = format!("copy (select '{name}', n from generate_series(1, {rows}) n) to stdout");
        let mut out = Vec::new();
        let mut copy = connection.copy_out_raw(&text).await?;
        while let Some(data) = copy.try_next().await? {
            out.extend_from_slice(&data);
        }
        let expected: String = (1..=rows).map(|n| format!("{name}\t{n}\n")).collect();
        self.same("copied", &String::from_utf8_lossy(&out), &expected);
        Ok(())
    }

    // The session.

    async fn setting(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let text = match self.below(4) {
            0 => {
                let path = ["north", "south"][self.below(2) as usize];
                self.path = Some(path);
                format!("set search_path to {path}")
            }
            1 => {
                self.title = self.next();
                format!("select 1; set application_name = '{}'", self.title)
            }
            2 => {
                self.path = self.start_path;
                "reset search_path".to_owned()
            }
            _ => {
                self.path = self.start_path;
                self.title = self.name.clone();
                "reset all".to_owned()
            }
        };
        connection.execute(text.as_str()).await?;
        self.settings(connection).await
    }

    async fn settings(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        const TEXT: &str = "select name || '|' || current_setting('search_path') || '|' || current_setting('application_name') from spot where 1 = $1";
        let expected = self.path.map_or("public|\"$user\", public".to_owned(), |path| format!("{path}|{path}"));
        let got = sqlx::query_scalar::<_, String>(TEXT).bind(1).fetch_one(connection).await?;
        self.same("settings", &got, &format!("{expected}|{}", self.title));
        Ok(())
    }

    async fn temporary(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let name = self.next();
        let create = format!("create temporary table own as select '{name}'::text as name");
        connection.execute(create.as_str()).await?;
        for _ in 0..3 {
            let query = sqlx::query_scalar::<_, String>("select name from own where 1 = $1").bind(1);
            self.same("temporary table", &query.persistent(false).fetch_one(&mut *connection).await?, &name);
        }
        connection.execute("drop table own").await.map(drop)
    }

    async fn lock(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let number = 1 + i32::try_from(self.below(5)).expect("small");
        sqlx::query("select pg_advisory_lock($1)").bind(number).execute(&mut *connection).await?;
        let update = sqlx::query("update public.holder set client = $1 where lock = $2").bind(&self.name).bind(number);
        update.execute(&mut *connection).await?;
        for _ in 0..3 {
            let query =
                sqlx::query_scalar::<_, String>("select client from public.holder where lock = $1").bind(number);
            self.same("locked", &query.fetch_one(&mut *connection).await?, &self.name);
        }
        let unlock = sqlx::query_scalar::<_, bool>("select pg_advisory_unlock($1)").bind(number);
        self.same("unlock", &unlock.fetch_one(connection).await?.to_string(), "true");
        Ok(())
    }

    /// The driver knows no cancel requests: the server's own timeout has to do.
    async fn cancel(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        connection.execute("set statement_timeout = '50ms'").await?;
        self.provoked(connection.execute("select pg_sleep(20)").await, "57014")?;
        connection.execute("reset statement_timeout").await?;
        Ok(())
    }
}

/// A value of a column whose type changes, as text.
fn shown(row: &PgRow) -> String {
    let kind = row.try_get_raw(0).map(|value| value.type_info().name().to_owned()).unwrap_or_default();
    match kind.as_str() {
        "INT4" => row.get::<i32, _>(0).to_string(),
        "INT8" => row.get::<i64, _>(0).to_string(),
        _ => row.get::<String, _>(0),
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(String::from)
}

fn is_lost(error: &sqlx::Error) -> bool {
    code(error).is_none_or(|code| ["08006", "57P01", "57P02"].contains(&code.as_str()))
}
