//! Settings of a startup packet that follow their client from connection to connection as if it had said them by `SET`.
//!
//! The six that servers report are in [`super::params`]; these are any others that mean the same by `SET`. What
//! can only be said in a startup packet is part of the pool's key instead.

use std::sync::Arc;

use super::params::{self, RawPairs, put_literal};
use super::setting_overrides::SettingOverrides;
use super::source_settings;

/// Settings that can't be made behind the login, that are another thing there, or that pgferry must know of a connection.
const ONLY_AT_LOGIN: [&str; 21] = [
    "allow_system_table_mods",
    "default_transaction_read_only",
    "idle_session_timeout",
    "ignore_system_indexes",
    "is_superuser",
    "jit_debugging_support",
    "jit_profiling_support",
    "local_preload_libraries",
    "log_connections",
    "log_disconnections",
    "post_auth_delay",
    "role",
    "seed",
    "session_authorization",
    "session_preload_libraries",
    "session_replication_role",
    "temp_buffers",
    // At a login, names of tablespaces that are not there, or not for the role, are passed over.
    "temp_tablespaces",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
];

/// Settings that a role needs a right to set, beside those of the log (`PGC_SUSET` in `guc_tables.c`). A session has them behind a
/// `SET ROLE` too, where they can't be set anew.
const OF_SUPERUSERS: [&str; 27] = [
    "allow_in_place_tablespaces",
    "backtrace_functions",
    "commit_delay",
    "compute_query_id",
    "deadlock_timeout",
    "debug_discard_caches",
    "dynamic_library_path",
    "ignore_checksum_failure",
    "jit_dump_bitcode",
    "lc_messages",
    "lo_compat_privileges",
    "max_stack_depth",
    "temp_file_limit",
    "track_activities",
    "track_cost_delay_timing",
    "track_counts",
    "track_functions",
    "track_io_timing",
    "track_wal_io_timing",
    "update_process_title",
    "wal_compression",
    "wal_consistency_checking",
    "wal_init_zero",
    "wal_recycle",
    "zero_damaged_pages",
    "event_triggers",
    "extension_control_path",
];

/// The one with a list of names as its value.
const SEARCH_PATH: &str = "search_path";

/// A setting's name, in lower case, and its value as the startup packet has it.
type Setting = (Box<str>, Box<[u8]>);

/// Most settings of a startup packet that follow their client: each is compared with all others, before the client has logged in. With
/// more, all go into the startup packet that the server gets.
const MAX_SETTINGS: usize = 64;

/// The settings, in their order. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartupSettings {
    settings: Arc<Vec<Setting>>,
    kept: SettingOverrides,
}

impl StartupSettings {
    /// Splits parameters of a startup packet into those that follow the client and the others.
    #[must_use]
    pub fn split(mut params: RawPairs) -> (Self, RawPairs) {
        keep_last_options(&mut params);
        let followed = params.iter().map(|(name, value)| match name.as_slice() {
            b"options" => options(value),
            _ => setting(name, value).map(|one| vec![one]),
        });
        let followed: Vec<_> = followed.collect();
        if followed.iter().flatten().map(Vec::len).sum::<usize>() > MAX_SETTINGS {
            return (Self::default(), params);
        }
        let mut settings: Vec<Setting> = Vec::new();
        let mut set_all = |of_options: bool| {
            for (pair, found) in params.iter().zip(&followed) {
                let found = found.iter().flatten().filter(|_| (pair.0 == b"options") == of_options);
                for (name, value) in found {
                    settings.retain(|(known, _)| known != name);
                    settings.push((name.clone(), value.clone()));
                }
            }
        };
        // The server reads these first, wherever they stand (`process_startup_options` in `src/backend/utils/init/postinit.c`).
        set_all(true);
        set_all(false);
        let passed_on = params.into_iter().zip(&followed).filter(|(_, found)| found.is_none());
        let key: RawPairs = passed_on.map(|(pair, _)| pair).collect();
        if settings.is_empty() {
            return (Self::default(), key);
        }
        let mut kept = SettingOverrides::default();
        for (name, value) in &settings {
            kept.set(name.as_bytes(), Some(&making(name, value, "false")));
        }
        (Self { settings: Arc::new(settings), kept }, key)
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.settings.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of setting `name`, which is in lower case.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<(&str, &[u8])> {
        self.iter().find(|(known, _)| known.as_bytes() == name)
    }

    /// Returns the settings of a session in which these hold and nothing else.
    #[must_use]
    pub fn kept(&self) -> &SettingOverrides {
        &self.kept
    }

    /// Statements that try them and leave nothing.
    #[must_use]
    pub fn trial(&self) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut sql = b"BEGIN;".to_vec();
        for (name, value) in self.iter() {
            sql.extend(making(name, value, "true"));
            sql.push(b';');
        }
        sql.extend_from_slice(b"ROLLBACK;");
        sql
    }
}

/// Leaves of several `options` the last: the server forgets those before it (`ProcessStartupPacket` in
/// `src/backend/tcop/backend_startup.c`).
fn keep_last_options(params: &mut RawPairs) {
    let is_options = |(name, _): &(Vec<u8>, Vec<u8>)| name == b"options";
    let last = params.iter().rposition(is_options);
    let mut nth = 0..;
    params.retain(|pair| nth.next() == last || !is_options(pair));
}

/// The statement that gives setting `name` just this value, which a `SET` would spell otherwise where it is a list.
fn making(name: &str, value: &[u8], is_local: &str) -> Vec<u8> {
    let mut sql = b"SELECT pg_catalog.set_config(".to_vec();
    put_literal(&mut sql, name.as_bytes());
    sql.push(b',');
    put_value(&mut sql, value);
    sql.extend_from_slice(format!(",{is_local})").as_bytes());
    sql
}

/// The statement that gives a session's setting `name` the value that the server has said it has.
#[must_use]
pub(super) fn setting_again(name: &str, value: &[u8]) -> Vec<u8> {
    if name == SEARCH_PATH { making(name, value, "false") } else { set("SET", name, value) }
}

/// `SET name TO …` (or `SET LOCAL`), for texts that must give no rows.
#[must_use]
pub(crate) fn set(verb: &str, name: &str, value: &[u8]) -> Vec<u8> {
    let mut sql = verb.as_bytes().to_vec();
    for (nth, part) in name.split('.').enumerate() {
        sql.extend_from_slice(if nth > 0 { b".\"" } else { b" \"" });
        sql.extend_from_slice(part.as_bytes());
        sql.push(b'"');
    }
    sql.extend_from_slice(b" TO ");
    match names(value).filter(|_| name == SEARCH_PATH) {
        Some(names) => {
            for (nth, name) in names.iter().enumerate() {
                if nth > 0 {
                    sql.push(b',');
                }
                put_literal(&mut sql, name);
            }
        }
        None => put_value(&mut sql, value),
    }
    sql
}

/// A constant for `value`. What is not ASCII is written by its numbers, so that it means the same in every encoding of a client.
fn put_value(sql: &mut Vec<u8>, value: &[u8]) {
    let Some(text) = std::str::from_utf8(value).ok().filter(|text| !text.is_ascii()) else {
        return put_literal(sql, value);
    };
    sql.extend_from_slice(b"E'");
    for letter in text.chars() {
        match letter {
            '\'' | '\\' => sql.extend([letter as u8; 2]),
            _ if letter.is_ascii() => sql.push(letter as u8),
            _ => sql.extend(format!("\\U{:08X}", u32::from(letter)).bytes()),
        }
    }
    sql.push(b'\'');
}

/// The setting that `name` and `value` make, if it may follow its client.
fn setting(name: &[u8], value: &[u8]) -> Option<Setting> {
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    let is_word = |word: &str| {
        let mut bytes = word.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let is_name = name.split('.').count() <= 2 && name.split('.').all(is_word) && !name.starts_with("_pq_");
    let elsewhere = ONLY_AT_LOGIN.contains(&name.as_str())
        || OF_SUPERUSERS.contains(&name.as_str())
        || name.starts_with("log_")
        || params::following(name.as_bytes()).is_some()
        || source_settings::are_read_under(name.as_bytes());
    // In a SET what is not ASCII would be converted from the client's encoding; in a startup packet it is not.
    let is_plain = value.iter().all(|byte| (0x20..0x7f).contains(byte));
    let means_the_same = if name == SEARCH_PATH {
        names(value).is_some_and(|names| !names.iter().any(|name| name.starts_with(b"pg_temp")))
    } else {
        !value.contains(&b',') && !value.contains(&b'"')
    };
    (is_name && !elsewhere && is_plain && means_the_same).then(|| (name.into(), value.into()))
}

/// The settings that `options` make by `-c name=value` and `--name=value`; `None` where there is anything else in it, or one of
/// them may not follow its client. As `pg_split_opts` reads it: blanks part, and a backslash takes the next byte along.
fn options(text: &[u8]) -> Option<Vec<Setting>> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut rest = text.iter();
    let mut word: Option<Vec<u8>> = None;
    while let Some(&byte) = rest.next() {
        match byte {
            b'\\' => word.get_or_insert_default().extend(rest.next()),
            _ if byte.is_ascii_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    let mut words = words.into_iter();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let assignment = match word.as_slice() {
            b"-c" => words.next()?,
            [b'-', b'c', assignment @ ..] => assignment.to_vec(),
            [b'-', b'-', assignment @ ..] if !assignment.is_empty() => assignment.to_vec(),
            _ => return None,
        };
        let at = assignment.iter().position(|byte| *byte == b'=')?;
        // `ParseLongOption`.
        let name: Vec<u8> = assignment[..at].iter().map(|&byte| if byte == b'-' { b'_' } else { byte }).collect();
        found.push(setting(&name, &assignment[at + 1..])?);
    }
    Some(found)
}

/// The names in a list, as `SplitIdentifierString` reads it; `None` where they are not plainly written.
fn names(value: &[u8]) -> Option<Vec<Vec<u8>>> {
    let trimmed = value.trim_ascii();
    if trimmed.is_empty() {
        return Some(vec![Vec::new()]);
    }
    let name = |part: &[u8]| {
        let part = part.trim_ascii();
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
        match part {
            [b'"', inner @ .., b'"']
                if !inner.is_empty() && inner.iter().all(|byte| is_word(byte) || *byte == b'-') =>
            {
                Some(inner.to_vec())
            }
            [first, ..] if (first.is_ascii_alphabetic() || *first == b'_') && part.iter().all(is_word) => {
                Some(part.to_ascii_lowercase())
            }
            _ => None,
        }
    };
    trimmed.split(|byte| *byte == b',').map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pairs: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let raw = pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        let (settings, key) = StartupSettings::split(raw);
        let follow = settings.iter().map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)));
        let key = key.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        (follow.collect(), key)
    }

    #[test]
    fn settings_follow_where_they_mean_the_same_by_set() {
        let (follow, key) = split(&[
            ("search_path", "tenant_1, public"),
            ("Statement_Timeout", "5s"),
            ("extra_float_digits", "2"),
            ("app.tenant", "it's"),
            ("log_connections", "on"),
            ("log_min_duration_statement", "5s"),
            ("deadlock_timeout", "5s"),
            ("role", "reader"),
            ("temp_tablespaces", "fast"),
            ("app.list", "a,b"),
            ("app.name", "Zürich"),
            ("_pq_.some", "x"),
        ]);
        assert_eq!(
            follow,
            ["search_path=tenant_1, public", "statement_timeout=5s", "extra_float_digits=2", "app.tenant=it's"]
        );
        let only_at_login = ["log_connections", "log_min_duration_statement", "deadlock_timeout", "role"];
        assert_eq!(key[..4], only_at_login);
        assert_eq!(key[4..], ["temp_tablespaces", "app.list", "app.name", "_pq_.some"]);
    }

    #[test]
    fn of_several_options_the_last_count() {
        let (follow, key) =
            split(&[("options", "-c a.b=1 -c role=reader"), ("work_mem", "1MB"), ("options", "-c c.d=2")]);
        assert_eq!((follow, key), (vec!["c.d=2".to_owned(), "work_mem=1MB".to_owned()], Vec::new()));
    }

    #[test]
    fn many_settings_are_left_to_the_server() {
        let of = |count: usize| (0..count).map(|nth| format!("-ca.b{nth}={nth}")).collect::<Vec<_>>().join(" ");
        assert_eq!(split(&[("options", &of(MAX_SETTINGS))]).0.len(), MAX_SETTINGS);
        let (follow, key) = split(&[("work_mem", "1MB"), ("options", &of(MAX_SETTINGS))]);
        assert_eq!((follow, key), (Vec::new(), vec!["work_mem".to_owned(), "options".to_owned()]));
    }

    #[test]
    fn options_are_read_as_the_server_reads_them() {
        let of = |text: &str| split(&[("options", text)]);
        assert_eq!(
            of("-c search_path=tenant_7 --work-mem=1MB  -cstatement_timeout=7").0,
            ["search_path=tenant_7", "work_mem=1MB", "statement_timeout=7"]
        );
        assert_eq!(of(r"-c app.tenant=a\ b\\c").0, [r"app.tenant=a b\c"]);
        let of_both = [("work_mem", "1MB"), ("search_path", "a"), ("options", "-c search_path=b -c jit=off")];
        assert_eq!(split(&of_both).0, ["jit=off", "work_mem=1MB", "search_path=a"], "parameters count more");
        for other in ["-W 5", "-c", "-c x", "-c role=a", "-c search_path=pg_temp", "--", "-c search_path=\"a\"\"b\""] {
            assert_eq!(of(other), (Vec::new(), vec!["options".to_owned()]), "{other}");
        }
    }

    #[test]
    fn statements_say_what_the_packet_said() {
        let text = |sql: Vec<u8>| String::from_utf8(sql).expect("UTF-8");
        assert_eq!(
            text(making("search_path", b"\"$user\", a", "false")),
            "SELECT pg_catalog.set_config('search_path','\"$user\", a',false)"
        );
        assert_eq!(text(set("SET", "search_path", b"\"$user\", A")), "SET \"search_path\" TO '$user','a'");
        assert_eq!(text(set("SET LOCAL", "app.user", b"it's")), "SET LOCAL \"app\".\"user\" TO 'it''s'");
        assert_eq!(text(set("SET", "search_path", b"")), "SET \"search_path\" TO ''");
    }
}
