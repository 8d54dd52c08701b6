//! What drivers and frameworks say when they connect, configure, give back and reset a connection: none of it keeps a server
//! connection in transaction mode, and each client finds its own settings wherever it is served.

use crate::harness::protocol_client::{bind, describe, execute, parse, query, startup, sync};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, eventually};

/// Parts of one write, each of which is answered with a `ReadyForQuery`.
type Write = Vec<Vec<u8>>;

/// What one driver says.
struct Driver {
    name: &'static str,
    params: &'static [(&'static str, &'static str)],
    writes: Vec<Write>,
    /// What it finds at the end, by SQL that gives one value.
    finds: &'static [(&'static str, &'static str)],
}

fn simple(sql: &str) -> Write {
    vec![query(sql)]
}

/// Parse, Bind, Execute and Sync of the unnamed statement.
fn extended(sql: &str, params: &[&str]) -> Write {
    vec![[parse("", sql), bind("", "", params), describe(b'P', ""), execute("", 0), sync()].concat()]
}

/// Parse, Describe and Sync of a named statement.
fn prepared(name: &str, sql: &str) -> Write {
    vec![[parse(name, sql), describe(b'S', name), sync()].concat()]
}

fn run(name: &str, params: &[&str]) -> Write {
    vec![[bind("", name, params), execute("", 0), sync()].concat()]
}

const ASYNCPG_RESET: &str = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;";

const ASYNCPG_FORMER_RESET: &str = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\n\n                DO $$\n                BEGIN\n                    \
    PERFORM * FROM pg_listening_channels() LIMIT 1;\n                    IF FOUND THEN\n                        UNLISTEN *;\n                    \
    END IF;\n                END;\n                $$;\n            \nRESET ALL;";

const NPGSQL_RESET: &str = "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();\
    DISCARD SEQUENCES;DISCARD TEMP";

fn asyncpg(name: &'static str, reset: &str) -> Driver {
    Driver {
        name,
        params: &[("client_encoding", "'utf-8'"), ("application_name", "web")],
        writes: vec![
            prepared(
                "__asyncpg_stmt_1__",
                "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new",
            ),
            run("__asyncpg_stmt_1__", &[]),
            prepared("__asyncpg_stmt_2__", "\n    SELECT\n        set_config('jit', $1, false)\n    "),
            run("__asyncpg_stmt_2__", &["on"]),
            prepared("__asyncpg_stmt_3__", "select $1::int + 1"),
            run("__asyncpg_stmt_3__", &["1"]),
            simple(reset),
            run("__asyncpg_stmt_3__", &["2"]),
            simple("BEGIN;"),
            run("__asyncpg_stmt_3__", &["3"]),
            simple("COMMIT;"),
            simple(reset),
        ],
        finds: &[("select current_setting('jit')", "on"), ("show application_name", "web")],
    }
}

fn laravel() -> Driver {
    Driver {
        name: "Laravel",
        params: &[],
        writes: [
            ("pdo_stmt_00000001", "set names 'utf8'"),
            ("pdo_stmt_00000002", "set session characteristics as transaction isolation level REPEATABLE READ"),
            ("pdo_stmt_00000003", "set time zone 'UTC'"),
            ("pdo_stmt_00000004", "set search_path to \"public\""),
            ("pdo_stmt_00000005", "set synchronous_commit to 'off'"),
            ("pdo_stmt_00000006", "select * from pg_class where relname = 'C:\\temp\\' limit 1"),
        ]
        .into_iter()
        .flat_map(|(name, sql)| [prepared(name, sql), run(name, &[]), simple(&format!("DEALLOCATE {name}"))])
        .collect(),
        finds: &[
            ("show default_transaction_isolation", "repeatable read"),
            ("show search_path", "public"),
            ("show synchronous_commit", "off"),
        ],
    }
}

fn drivers() -> Vec<Driver> {
    let jdbc_update = |sql| extended(sql, &[]);
    vec![
        asyncpg("asyncpg.Pool", ASYNCPG_RESET),
        asyncpg("asyncpg.Pool before 0.30", ASYNCPG_FORMER_RESET),
        Driver {
            name: "Sequelize",
            params: &[("client_encoding", "UTF8")],
            writes: vec![
                simple(
                    "SET standard_conforming_strings=on;SET client_min_messages TO warning;SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE;",
                ),
                simple("SHOW SERVER_VERSION;"),
                simple("START TRANSACTION ISOLATION LEVEL REPEATABLE READ;"),
                simple("SELECT 1+1 AS result"),
                simple("COMMIT;"),
            ],
            finds: &[("show client_min_messages", "warning"), ("show timezone", "<+02>-02")],
        },
        Driver {
            name: "psqlODBC",
            params: &[("DateStyle", "ISO"), ("extra_float_digits", "2"), ("client_encoding", "UTF8")],
            writes: vec![
                simple("SET DateStyle = 'ISO';SET extra_float_digits = 2;show transaction_isolation"),
                simple("select oid, typbasetype from pg_type where typname = 'lo'"),
                simple("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
                simple("SET statement_timeout = 30000"),
                simple("BEGIN;SAVEPOINT _EXEC_SVP_0x1;select 1 where 'a' like 'a' escape '\\';RELEASE _EXEC_SVP_0x1"),
                simple("COMMIT"),
            ],
            finds: &[
                ("show default_transaction_isolation", "serializable"),
                ("show extra_float_digits", "2"),
                ("show statement_timeout", "30s"),
            ],
        },
        Driver {
            name: "Prisma",
            params: &[],
            writes: vec![
                simple("SET search_path = \"public\";SET NAMES 'UTF8';"),
                simple("BEGIN"),
                prepared("s0", "SELECT $1::int"),
                run("s0", &["1"]),
                simple("COMMIT"),
            ],
            finds: &[("show search_path", "public"), ("show client_encoding", "UTF8")],
        },
        Driver {
            name: "Npgsql",
            params: &[("client_encoding", "UTF8"), ("application_name", "dotnet")],
            writes: vec![
                extended("SELECT version()", &[]),
                simple("SET search_path TO x"),
                [simple(NPGSQL_RESET), extended("SELECT 1", &[])].concat(),
                simple("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED"),
                extended("SELECT $1::int", &["1"]),
                simple("COMMIT"),
                [simple("DISCARD ALL"), extended("SELECT 2", &[])].concat(),
                [simple(NPGSQL_RESET), prepared("_p1", "SELECT 3")].concat(),
                [simple(NPGSQL_RESET), run("_p1", &[])].concat(),
            ],
            finds: &[("show search_path", "\"$user\", public"), ("show application_name", "dotnet")],
        },
        Driver {
            name: "HikariCP with pgjdbc",
            params: &[("client_encoding", "UTF8"), ("DateStyle", "ISO"), ("TimeZone", "Europe/Berlin")],
            writes: vec![
                jdbc_update("SET extra_float_digits = 3"),
                jdbc_update("SET application_name = 'PostgreSQL JDBC Driver'"),
                jdbc_update("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
                jdbc_update("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ"),
                jdbc_update(""),
                jdbc_update("SELECT 1"),
                jdbc_update("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"),
                jdbc_update("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
                jdbc_update("SET SESSION search_path TO 'tenant'"),
            ],
            finds: &[
                ("show default_transaction_read_only", "on"),
                ("show default_transaction_isolation", "repeatable read"),
                ("show search_path", "tenant"),
                ("show timezone", "Europe/Berlin"),
            ],
        },
        laravel(),
    ]
}

fn transaction_mode(postgres: &Postgres, size: &str) -> Pgferry {
    Pgferry::start(postgres, &["--pool-mode", "transaction", "--pool-size", size])
}

fn connected(mut client: ProtocolClient, driver: &Driver) -> ProtocolClient {
    let params = [&[("user", "trust_user"), ("database", "postgres")][..], driver.params].concat();
    client.send(&startup(&params));
    client.until_ready();
    client
}

fn send(client: &mut ProtocolClient, write: &Write) {
    client.send(&write.concat());
}

/// The tags of the answers to one write, none of which is an error.
fn answers(client: &mut ProtocolClient, write: &Write, who: &str) -> String {
    let mut all = Vec::new();
    for part in write {
        let answer = client.until_ready();
        assert!(
            answer.iter().all(|message| message.tag != b'E'),
            "{who}: {:?}: {answer:?}",
            String::from_utf8_lossy(part)
        );
        all.extend(answer);
    }
    shown(&all)
}

fn shown(messages: &[Message]) -> String {
    messages.iter().filter(|message| message.tag != b'S').map(|message| char::from(message.tag)).collect()
}

fn assert_nothing_is_pinned(ferry: &Pgferry) {
    assert_eq!(ferry.report().get("pinned"), 0, "{}", ferry.log());
    let mut console = ferry.raw().logged_in("trust_user", "pgferry");
    for pin in console.query("show pins").iter().filter(|message| message.tag == b'D').map(Message::columns) {
        assert_eq!(pin[1..], ["0", "0"], "{pin:?}");
    }
}

#[test]
fn forty_clients_share_five_connections_whatever_their_driver_says() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create schema tenant");
    let ferry = transaction_mode(&postgres, "5");
    let drivers = drivers();
    let connected: Vec<_> = drivers
        .iter()
        .flat_map(|driver| (0..5).map(move |_| driver))
        .map(|driver| (connected(ferry.raw(), driver), driver))
        .collect();
    assert_eq!(connected.len(), 40);
    std::thread::scope(|scope| {
        for (mut client, driver) in connected {
            scope.spawn(move || {
                for write in &driver.writes {
                    send(&mut client, write);
                    answers(&mut client, write, driver.name);
                }
                for (sql, expected) in driver.finds {
                    assert_eq!(client.value(sql), *expected, "{}: {sql}", driver.name);
                }
            });
        }
    });
    assert_nothing_is_pinned(&ferry);
    assert!(postgres.backends() <= 6, "{}", postgres.backends());
}

#[test]
fn drivers_are_answered_as_by_postgresql_itself() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create schema tenant");
    for driver in drivers() {
        let ferry = transaction_mode(&postgres, "2");
        let mut there = connected(ferry.raw(), &driver);
        let mut directly = connected(ProtocolClient::tcp(postgres.port), &driver);
        for write in &driver.writes {
            send(&mut there, write);
            send(&mut directly, write);
            assert_eq!(
                answers(&mut there, write, driver.name),
                answers(&mut directly, write, driver.name),
                "{}",
                driver.name
            );
        }
        for (sql, expected) in driver.finds {
            assert_eq!(
                (there.value(sql).as_str(), directly.value(sql).as_str()),
                (*expected, *expected),
                "{}",
                driver.name
            );
        }
        assert_nothing_is_pinned(&ferry);
    }
}

/// Texts that each leave nothing which would have to stay on its connection, by kinds.
fn harmless() -> Vec<Vec<Write>> {
    let each = |texts: &[&str]| texts.iter().map(|text| simple(text)).collect::<Vec<_>>();
    let one = |text: &str| each(&[text]);
    vec![
        // Several settings in one text.
        one("set a.b = 1; set c.d to 2; reset a.b; select 1"),
        one("begin; set a.b = 1; commit; set c.d = 2"),
        one("set session characteristics as transaction isolation level serializable, read only, deferrable"),
        one("set session characteristics as transaction read write not deferrable"),
        one("set xml option document"),
        one("set default_text_search_config = 'simple'"),
        one("set a.b = e'back\\\\slash'"),
        one("reset session authorization; reset role; set role none; set session authorization default"),
        // Functions that set.
        one("select set_config('jit', 'off', false)"),
        one("select pg_catalog.set_config('search_path', '', false)"),
        one(
            "select set_config('app.tenant', 'seven', false), set_config('app.user', 'eight', false) from (values (1)) v",
        ),
        one("begin; select set_config('app.tenant', '7', false); rollback"),
        vec![extended("select set_config('app.tenant', $1, false)", &["7"])],
        vec![extended("select set_config('app.tenant', $1, $2)", &["7", "false"])],
        // Ends of transactions.
        each(&["begin", "create temp table t (a int) on commit drop", "commit"]),
        one("create temp table t on commit drop as select 1"),
        each(&["begin", "create temp table t (a int)", "rollback"]),
        each(&["begin", "listen a", "declare c cursor with hold for select 1", "rollback"]),
        each(&["begin", "set role limited", "rollback"]),
        each(&["begin", "update pg_settings set setting = '5MB' where name = 'work_mem'", "rollback"]),
        one("begin; listen a; unlisten *; commit"),
        one("prepare p as select 1; execute p; deallocate p"),
        one("select pg_advisory_lock(1); select pg_advisory_unlock(1)"),
        one("listen a; unlisten a"),
        one("do $$ begin create temp table t (a int); drop table t; perform 1; end $$; select 1 where false"),
        // Words that are no names of functions called.
        one("select 1 where 'a' like 'b' escape '\\'"),
        one("select 'C:\\temp\\'"),
        one("select 'call pg_advisory_lock(1) and set_config(2)'"),
        one(
            "select * from (values ('pg_advisory_lock(1)')) as log (text) where text in ('set_config(''a'',''b'',false)')",
        ),
        one("select advisory_score from (select 1 as advisory_score) t"),
        one("select 1 as lastval, 2 as currval, 3 as set_config"),
        one("select \"pg_advisory_lock\" from (select 1 as \"pg_advisory_lock\") t"),
        one("select 1 as temp; select 2 as \"temporary\""),
        // Code that does nothing of that kind.
        one("do $$ begin perform set_config('a.b', '1', false); end $$"),
        one("do $$ begin perform 1; exception when others then null; end $$"),
        one(
            "do $$ declare n int; begin select count(*) into n from pg_class; if n < 0 then raise notice 'none'; end if; end $$",
        ),
        // Another client has it.
        one("select pg_try_advisory_lock(4711)"),
    ]
}

#[test]
fn what_leaves_nothing_keeps_no_connection() {
    let postgres = Postgres::start_with(&[]);
    let mut holder = ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres");
    holder.query("select pg_advisory_lock(4711)");
    for writes in harmless() {
        let ferry = transaction_mode(&postgres, "1");
        let mut client = ferry.session();
        let mut other = ferry.session();
        for write in &writes {
            send(&mut client, write);
            answers(&mut client, write, "a client");
        }
        assert_eq!(other.value("select 'served'"), "served");
        assert_eq!(ferry.report().get("pinned"), 0, "{:?}", String::from_utf8_lossy(&writes.concat().concat()));
    }
}

/// Statements that fail, each as a client's only one.
const FAILING: [&str; 10] = [
    "select pg_temp.ff()",
    "select currval('no_such_sequence')",
    "select lastval()",
    "do $$ begin perform pg_advisory_lock(1); perform pg_advisory_unlock(1); perform 1/0; end $$",
    "create temp table t (a no_such_type)",
    "set role no_such_role",
    "update pg_settings set setting = 'x' where name = 'work_mem'",
    "listen a; select 1/0",
    "prepare p as select * from no_such_table",
    "declare c cursor with hold for select * from no_such_table",
];

#[test]
fn what_has_failed_keeps_no_connection() {
    let postgres = Postgres::start_with(&[]);
    for sql in FAILING {
        let ferry = transaction_mode(&postgres, "1");
        let mut clients: Vec<_> = (0..4).map(|_| ferry.session()).collect();
        for (nth, client) in clients.iter_mut().enumerate() {
            if nth % 2 == 0 {
                client.error(sql);
            } else {
                client.query("begin");
                client.error(sql);
                client.query("rollback");
            }
        }
        assert_eq!(ferry.session().value("select 'served'"), "served");
        assert_eq!(ferry.report().get("pinned"), 0, "{sql}");
    }
}

#[test]
fn settings_made_by_functions_follow_their_client() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create schema \"Odd, one\"");
    let ferry = transaction_mode(&postgres, "2");
    let mut client = ferry.session();
    let mut holder = ferry.session();
    client.query("select set_config('app.tenant', 'it''s \\ 7', false)");
    client.query("select set_config('search_path', '\"Odd, one\", public', false)");
    client.query("begin; select set_config('work_mem', '5MB', false); commit");
    client.query("begin; select set_config('app.tenant', 'another', false); rollback");
    client.query("set default_text_search_config = simple");
    let mut seen = std::collections::BTreeSet::new();
    for busy in [false, true] {
        if busy {
            // It takes the connection that was used last.
            holder.query("begin");
        }
        seen.insert(client.value("select pg_backend_pid()"));
        assert_eq!(client.value("show app.tenant"), "it's \\ 7");
        assert_eq!(client.value("show search_path"), "\"Odd, one\", public");
        assert_eq!(client.value("show work_mem"), "5MB");
        assert_eq!(client.value("show default_text_search_config"), "pg_catalog.simple");
    }
    assert_eq!(seen.len(), 2, "on two connections");
    holder.query("commit");
    assert_eq!(holder.value("select current_setting('app.tenant', true)"), "");
    client.query("reset search_path; select set_config('work_mem', '4MB', false)");
    assert_eq!(client.value("show search_path"), "\"$user\", public");
    client.query("reset all");
    assert_eq!(client.value("show app.tenant"), "");
    assert_eq!(ferry.report().get("pinned"), 0);
}

/// What pins still does, though an earlier statement of the same text or transaction has been looked into.
#[test]
fn what_is_left_still_keeps_the_connection() {
    let postgres = Postgres::start_with(&[]);
    for (sqls, pin) in [
        (&["begin", "create temp table t (a int) on commit drop", "create temp table u (a int)", "commit"][..], "temp"),
        (&["select pg_advisory_lock(1); rollback"], "lock"),
        (&["begin; rollback; update pg_settings set setting = '5MB' where name = 'work_mem'"], "setting"),
        (&["begin; update pg_settings set setting = '5MB' where name = 'work_mem'; commit; select 1/0"], "setting"),
        (
            &[
                "begin",
                "update pg_settings set setting = '5MB' where name = 'work_mem'",
                "savepoint s",
                "select 1/0",
                "rollback to s",
                "commit",
            ],
            "setting",
        ),
        (&["select set_config('a' || '.b', 'c', false)"], "setting"),
        (&["select set_config('a.b', E'a\\nb', false)"], "setting"),
        (&["set client_encoding = latin1; select set_config('a.b', chr(252), false)"], "setting"),
        (&["create collation pg_temp.c from \"C\""], "temp"),
        (&["do $$ begin execute 'set a.b = 1'; end $$"], "code"),
        (&["do $$ begin perform set_config('a.b', '1', false); commit; end $$"], "code"),
        (&["do language plpgsql 'begin set a.b = 1; end'"], "code"),
        (&["do $$ begin perform pg_advisory_lock(2); perform 1/0; end $$"], "lock"),
        (&["begin", "savepoint s", "listen a", "savepoint t", "rollback to t", "commit"], "listen"),
        (&["select query_to_xml('select pg_advisory_lock(3)', true, true, '')"], "lock"),
        (&["set role limited; set local role none"], "role"),
    ] {
        let ferry = Pgferry::start_with(
            &postgres.url(),
            &["--pool-mode", "transaction", "--pool-size", "1"],
            &[("PGFERRY_QUERY_WAIT_TIMEOUT", "50ms")],
        );
        let mut client = ferry.session();
        for sql in sqls {
            client.query(sql);
        }
        eventually(pin, || ferry.report().get("pinned") == 1);
        ferry.logs(&format!("keeps its connection because of: {pin}"));
        assert!(ferry.session().query("select 1").iter().any(|message| message.tag == b'E'), "{sqls:?}");
    }
}
