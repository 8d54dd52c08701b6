//! The functions that there are: PostgreSQL's own, and those of schema `code`, which hide effects.

use super::value::Type;

/// A function's arguments and result.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    pub args: &'static [Type],
    pub result: Type,
}

/// The function `name` with `args` arguments.
pub fn signature(schema: Option<&str>, name: &str, args: usize) -> Option<Signature> {
    use Type::{Bool, Int4, Int8, Name, Oid, Text, Void};
    let of = |args: &'static [Type], result: Type| Some(Signature { args, result });
    if schema == Some("code") {
        return match (name, args) {
            ("set", 2) => of(&[Text, Text], Text),
            ("deallocate" | "temp" | "listen" | "reset_all", 0) | ("insert" | "fail" | "note" | "reset", 1) => {
                of(&[Text][..args], Text)
            }
            ("lock", 1) => of(&[Int8], Text),
            ("next", 0 | 1) => of(&[Text][..args], Int8),
            _ => None,
        };
    }
    if !matches!(schema, None | Some("pg_catalog")) {
        return None;
    }
    match (name, args) {
        ("current_setting", 2) => of(&[Text, Bool], Text),
        ("set_config", 3) => of(&[Text, Text, Bool], Text),
        ("nextval" | "currval", 1) => of(&[Text], Int8),
        ("lastval", 0) => of(&[], Int8),
        ("setval", 2) => of(&[Text, Int8], Int8),
        ("pg_advisory_lock" | "pg_advisory_xact_lock", 1) => of(&[Int8], Void),
        ("pg_try_advisory_lock" | "pg_advisory_unlock" | "pg_try_advisory_xact_lock", 1) => of(&[Int8], Bool),
        ("pg_advisory_unlock_all", 0) => of(&[], Void),
        ("pg_backend_pid", 0) => of(&[], Int4),
        ("pg_my_temp_schema", 0) => of(&[], Oid),
        ("current_database" | "current_schema" | "current_user" | "session_user", 0) => of(&[], Name),
        ("length", 1) => of(&[Text], Int4),
        ("current_setting" | "upper" | "lower", 1) => of(&[Text], Text),
        ("repeat", 2) => of(&[Text, Int4], Text),
        ("pg_sleep", 1) => of(&[Int4], Void),
        ("pg_notify", 2) => of(&[Text, Text], Void),
        ("pg_terminate_backend" | "pg_cancel_backend", 1) => of(&[Int4], Bool),
        ("generate_series", 2) => of(&[Int4, Int4], Int4),
        ("pg_listening_channels", 0) => of(&[], Text),
        _ => None,
    }
}

/// The columns of those catalogs that can be asked.
pub fn view(schema: Option<&str>, name: &str) -> Option<&'static [(&'static str, Type)]> {
    use Type::{Bool, Int4, Oid, Text};
    if !matches!(schema, None | Some("pg_catalog")) {
        return None;
    }
    Some(match name {
        "pg_class" => &[("relname", Text), ("relnamespace", Oid)],
        "pg_proc" => &[("proname", Text), ("pronamespace", Oid)],
        "pg_type" => &[("typname", Text), ("typnamespace", Oid)],
        "pg_prepared_statements" => &[("name", Text), ("from_sql", Bool)],
        "pg_cursors" => &[("name", Text), ("is_holdable", Bool)],
        "pg_locks" => &[("locktype", Text), ("pid", Int4)],
        "pg_settings" => &[("name", Text), ("setting", Text), ("reset_val", Text), ("source", Text)],
        _ => return None,
    })
}
