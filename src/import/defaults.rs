//! PgBouncer's defaults that are other than pgferry's: what a configuration leaves out meant something too.

use super::ini::Ini;
use super::{Toml, quoted};
use crate::config::{keys, value};

/// Unit of a default of PgBouncer's.
enum Unit {
    /// In seconds.
    Seconds,
    /// A number.
    Number,
    /// 0 or 1.
    Boolean,
}

/// PgBouncer 1.25's defaults of settings that have a counterpart: name, default, counterpart.
const DEFAULTS: [(&str, &str, Unit, &str); 13] = [
    ("client_login_timeout", "60", Unit::Seconds, "client_login_timeout"),
    ("default_pool_size", "20", Unit::Number, "pool_size"),
    ("dns_max_ttl", "15", Unit::Seconds, "dns_max_ttl"),
    ("log_connections", "1", Unit::Boolean, "log_connections"),
    ("max_client_conn", "100", Unit::Number, "max_client_conn"),
    ("max_prepared_statements", "200", Unit::Number, "max_prepared_statements"),
    ("query_wait_timeout", "120", Unit::Seconds, "query_wait_timeout"),
    ("reserve_pool_size", "0", Unit::Number, "reserve_pool_size"),
    ("reserve_pool_timeout", "5", Unit::Seconds, "reserve_pool_timeout"),
    ("scram_iterations", "4096", Unit::Number, "scram_iterations"),
    ("server_connect_timeout", "15", Unit::Seconds, "server_connect_timeout"),
    ("server_idle_timeout", "600", Unit::Seconds, "server_idle_timeout"),
    ("server_lifetime", "3600", Unit::Seconds, "server_lifetime"),
];

/// Defaults of settings that have no counterpart, and what pgferry does: name, default, what is done here.
const FIXED: [(&str, &str, &str); 5] = [
    ("autodb_idle_timeout", "3600", "pools without clients and connections are forgotten after 10 minutes"),
    ("cancel_wait_timeout", "10", "a cancel request takes 5 s at most"),
    ("query_wait_notify", "5", "a client that waits gets no notice before query_wait_timeout is over"),
    (
        "server_login_retry",
        "15",
        "a failed connection is tried again after 50 ms, then at growing intervals, while clients wait",
    ),
    (
        "tcp_keepidle",
        "0",
        "that is the system's default, 2 hours mostly; an idle connection is probed after tcp_keepidle = \"60s\"",
    ),
];

/// Writes the defaults that differ, where `ini` leaves a setting out.
pub(super) fn write(ini: &Ini, out: &mut Toml) {
    for (name, theirs, unit, key) in DEFAULTS {
        let Some(ours) = keys::find(key).and_then(|key| key.default) else { continue };
        if ini.get(name).is_some() {
            continue;
        }
        let value = match unit {
            Unit::Seconds => quoted(&format!("{theirs}s")),
            Unit::Number => theirs.to_owned(),
            Unit::Boolean => (theirs == "1").to_string(),
        };
        if !is_same(&value, ours) {
            out.comment(&format!("{name} = {theirs} is PgBouncer's default; pgferry's is {key} = {ours}."));
            out.set(key, &value);
        }
    }
    for (name, theirs, here) in FIXED {
        if ini.get(name).is_none() {
            out.comment(&format!("{name} = {theirs} is PgBouncer's default; here {here}."));
        }
    }
}

/// Returns whether two values, as a file has them, mean the same.
fn is_same(one: &str, other: &str) -> bool {
    let time = |text: &str| text.strip_prefix('"').and_then(|text| value::duration(text.trim_end_matches('"')).ok());
    one == other || time(one).is_some_and(|one| time(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counterpart_is_a_key() {
        for (name, theirs, _, key) in DEFAULTS {
            assert!(keys::find(key).is_some_and(|key| key.default.is_some()), "{name} = {theirs}: {key}");
        }
    }

    #[test]
    fn times_are_compared_by_length() {
        assert!(is_same("\"60s\"", "\"1min\"") && is_same("20", "20"));
        assert!(!is_same("\"60s\"", "\"10s\"") && !is_same("true", "false"));
    }
}
