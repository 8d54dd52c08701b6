//! Settings that a client has made, said again on another connection: in the order in which they were said.

use super::script::{A, B, Script, TRANSACTION_TWO, compare};
use crate::harness::Postgres;

/// Settings are made, another client takes the connection, and the client looks on another one.
fn moved(sets: &[&str], shows: &str) -> Script {
    let mut script = Script::new(&sets.join(" | "));
    for sql in sets {
        script = script.sql(A, sql);
    }
    script.sql(B, "begin").sql(A, shows).sql(B, "rollback").sql(A, shows)
}

const SEARCH: &str = "select current_setting('search_path'), current_setting('default_text_search_config')";
const STYLE: &str = "select current_setting('datestyle'), '02.03.2020'::date";
const STATS: &str = "select current_setting('log_parser_stats'), current_setting('log_planner_stats'), current_setting('log_statement_stats')";

#[test]
fn settings_that_depend_on_others_are_said_in_their_order() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql(
        "create schema cfg; create text search configuration cfg.mine (copy = simple); create schema abc; \
         create table cfg.t (a int); create table public.t (a text)",
    );
    let scripts = [
        moved(&["set search_path = cfg, public", "set default_text_search_config = 'mine'"], SEARCH),
        moved(&["set search_path = cfg, public; set default_text_search_config = 'mine'"], SEARCH),
        moved(
            &["set search_path = cfg", "set default_text_search_config = 'mine'", "set search_path = public"],
            SEARCH,
        ),
        moved(&["begin; set search_path = cfg; set default_text_search_config = 'mine'; commit"], SEARCH),
        moved(&["set search_path = cfg", "set default_text_search_config = 'mine'", "reset search_path"], SEARCH),
        moved(&["set datestyle = 'German'", "set datestyle = 'YMD'"], STYLE),
        moved(&["set datestyle = 'YMD'", "set datestyle = 'SQL'", "set datestyle = 'DMY'"], STYLE),
        moved(&["set log_statement_stats = on", "set log_statement_stats = off", "set log_parser_stats = on"], STATS),
        moved(&["set log_parser_stats = on", "set log_parser_stats = off", "set log_statement_stats = on"], STATS),
        moved(
            &[
                "set timezone_abbreviations = 'Australia'",
                "set timezone = 'Asia/Tokyo'",
                "set timezone_abbreviations = 'Default'",
            ],
            "select current_setting('timezone_abbreviations'), current_setting('timezone')",
        ),
        moved(
            &["set a.z = '1'", "set a.a = '2'", "set a.z = '3'"],
            "select current_setting('a.z'), current_setting('a.a')",
        ),
        moved(
            &["set client_encoding = 'LATIN1'", "set application_name = 'caf\u{e9}'", "set a.b = 'x'"],
            "select current_setting('client_encoding'), length(current_setting('application_name')), current_setting('a.b')",
        ),
        moved(
            &["set backslash_quote = off", "set standard_conforming_strings = off", "set a.b = 'it''s'"],
            "select current_setting('a.b')",
        ),
        moved(
            &["set standard_conforming_strings = off", "set a.b = 'a\\\\b'"],
            "select current_setting('a.b'), length('a\\\\b')",
        ),
        moved(&["set a.b = 'a\\b'", "set standard_conforming_strings = off"], "select length(current_setting('a.b'))"),
        moved(
            &["set statement_timeout = '5s'", "set lock_timeout = '4s'", "set statement_timeout = 0"],
            "select current_setting('statement_timeout'), current_setting('lock_timeout')",
        ),
        moved(
            &[
                "set default_transaction_read_only = on",
                "set default_transaction_isolation = 'serializable'",
                "set work_mem = '5MB'",
            ],
            "select current_setting('transaction_read_only'), current_setting('transaction_isolation'), current_setting('work_mem')",
        ),
    ];
    compare(&postgres, &TRANSACTION_TWO, &scripts);
}
