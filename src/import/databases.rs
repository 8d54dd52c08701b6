//! What becomes of `[databases]` and `[users]`.

use std::collections::BTreeMap;

use super::ini::{Ini, words};
use super::{Toml, Words, number, one_line, quoted};
use crate::config::CONSOLE;

/// Directory in which PgBouncer looks for PostgreSQL's socket if no host is named, on Debian.
const SOCKET_DIR: &str = "/var/run/postgresql";

/// The URL of the server that a connection string names.
fn url(words: &Words) -> String {
    let encode =
        |text: &str| percent_encoding::percent_encode(text.as_bytes(), percent_encoding::NON_ALPHANUMERIC).to_string();
    let host = words.get("host").map_or(SOCKET_DIR, String::as_str);
    let port = words.get("port").map_or("5432", String::as_str);
    let several = host.contains(',');
    let mut url = if host.starts_with(['/', '@']) && !several {
        format!("postgres://{}:{port}", encode(host))
    } else if several {
        // Lists of hosts and ports go together as they are.
        format!("postgres://?host={}&port={}", encode(host), encode(port))
    } else if host.contains(':') {
        format!("postgres://[{host}]:{port}")
    } else {
        format!("postgres://{host}:{port}")
    };
    let balanced = words.get("load_balance_hosts").is_none_or(|how| how == "round-robin");
    if several && balanced {
        url.push_str("&load_balance_hosts=random");
    }
    url
}

/// Says where most databases are: where `*` is, or else most of those that are named. Returns that.
pub(super) fn general_upstream(ini: &Ini, out: &mut Toml) -> String {
    let mut count = BTreeMap::<String, usize>::new();
    let mut fallback = None;
    for entry in ini.section("databases") {
        if let Ok(words) = words(&entry.value) {
            let url = url(&words);
            if entry.key == "*" {
                fallback = Some(url.clone());
            }
            *count.entry(url).or_default() += 1;
        }
    }
    let most = count.into_iter().max_by_key(|(_, count)| *count).map(|(url, _)| url);
    let upstream = fallback.or(most).unwrap_or_else(|| {
        out.comment("[databases] names no server: this is a guess.");
        url(&Words::new())
    });
    out.set("upstream", &quoted(&upstream));
    upstream
}

/// Says what `[databases]` and `[users]` say.
pub(super) fn write(ini: &Ini, upstream: &str, out: &mut Toml) {
    for entry in ini.section("databases") {
        let mut lines = Vec::new();
        match words(&entry.value) {
            Ok(words) => database(&entry.key, &words, upstream, &mut lines),
            Err(error) => lines.push(format!("# {}: {error}", entry.place)),
        }
        if CONSOLE.contains(&entry.key.as_str()) {
            out.comment(&format!("[databases] {}: clients that name it get the console", entry.key));
        } else if !lines.is_empty() {
            out.tables.push((format!("[databases.{}]", quoted(&entry.key)), lines));
        }
    }
    for entry in ini.section("users") {
        let mut lines = Vec::new();
        match words(&entry.value) {
            Ok(words) => user(&words, &mut lines),
            Err(error) => lines.push(format!("# {}: {error}", entry.place)),
        }
        out.tables.push((format!("[users.{}]", quoted(&entry.key)), lines));
    }
    for entry in ini.section("peers") {
        out.comment(&format!(
            "[peers] {} = {}: one pgferry has several threads (workers): no peers are needed",
            entry.key,
            one_line(&entry.value)
        ));
    }
}

fn database(name: &str, words: &Words, upstream: &str, lines: &mut Vec<String>) {
    let url = url(words);
    if url != upstream {
        lines.push(format!("upstream = {}", quoted(&url)));
    }
    for (word, value) in words {
        let none = |why: &str| format!("# {word} = {}: {why}", one_line(value));
        lines.push(match word.as_str() {
            "host" | "port" | "load_balance_hosts" => continue,
            "dbname" if value == name => continue,
            "dbname" => format!("dbname = {}", quoted(value)),
            "user" => format!("force_user = {}", quoted(value)),
            "password" => format!("upstream_password = {}", quoted(value)),
            "pool_size" => format!("pool_size = {}", number(value)),
            "min_pool_size" => format!("min_pool_size = {}", number(value)),
            "pool_mode" if value == "statement" => "pool_mode = \"transaction\" # for statement mode".to_owned(),
            "pool_mode" => format!("pool_mode = {}", quoted(value)),
            "query_wait_timeout" if value == "0" => "query_wait_timeout = \"1d\"".to_owned(),
            "query_wait_timeout" => format!("query_wait_timeout = {}", quoted(&format!("{value}s"))),
            "connect_query" => none("no query is run on new connections: ALTER ROLE … SET, or ALTER DATABASE … SET"),
            "client_encoding" | "datestyle" | "timezone" => none("clients say it, or ALTER ROLE … SET"),
            "reserve_pool" | "reserve_pool_size" => format!("reserve_pool_size = {}", number(value)),
            "auth_user" | "auth_query" | "auth_dbname" => none("it holds for all databases here"),
            "max_db_connections" | "max_db_client_connections" => none("pool_size and max_upstream limit connections"),
            "server_lifetime" => none("server_lifetime holds for all databases"),
            _ => none("PgBouncer has no such word"),
        });
    }
}

fn user(words: &Words, lines: &mut Vec<String>) {
    for (word, value) in words {
        lines.push(match word.as_str() {
            "pool_size" => format!("pool_size = {}", number(value)),
            "max_user_connections" if value != "0" => format!("max_user_connections = {}", number(value)),
            "max_user_client_connections" if value != "0" => format!("max_user_client_connections = {}", number(value)),
            "pool_mode" => format!("# pool_mode = {}: modes are per database", one_line(value)),
            _ if value == "0" => continue,
            "query_timeout" | "transaction_timeout" | "idle_transaction_timeout" | "client_idle_timeout" => {
                format!("# {word} = {}: ALTER ROLE … SET in PostgreSQL has timeouts", one_line(value))
            }
            "reserve_pool_size" => format!("# {word} = {}: reserves are per database", one_line(value)),
            _ => format!("# {word} = {}: PgBouncer has no such word", one_line(value)),
        });
    }
}
