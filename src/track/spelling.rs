//! How PostgreSQL spells the values of settings that follow their client, where that can be told without asking it.

/// The canonical spelling of `value` in a session that began with `initial`; `None` where only the server knows it, or would
/// refuse the value.
pub(super) fn canonical(name: &str, value: &[u8], initial: &[u8]) -> Option<String> {
    let value = std::str::from_utf8(value).ok()?;
    match name {
        "client_encoding" => encoding(value).map(str::to_owned),
        "DateStyle" => date_style(value, std::str::from_utf8(initial).ok()?),
        "IntervalStyle" => {
            let value = value.to_ascii_lowercase();
            let known = ["postgres", "postgres_verbose", "sql_standard", "iso_8601"].contains(&value.as_str());
            known.then_some(value)
        }
        "standard_conforming_strings" => boolean(value).map(|on| if on { "on" } else { "off" }.to_owned()),
        _ => None,
    }
}

/// A boolean as PostgreSQL reads it: a word's beginning will do where it can be no other's.
pub(crate) fn boolean(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if value == "1" || begins("true", 1) || begins("yes", 1) || value == "on" {
        return Some(true);
    }
    let is_off = value == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2);
    is_off.then_some(false)
}

/// The usual encodings by those of their names that clients use; PostgreSQL looks at letters and digits only.
fn encoding(value: &str) -> Option<&'static str> {
    let letters: String =
        value.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    match letters.as_str() {
        "utf8" | "unicode" => Some("UTF8"),
        "latin1" | "iso88591" => Some("LATIN1"),
        "latin9" | "iso885915" => Some("LATIN9"),
        "win1252" | "windows1252" => Some("WIN1252"),
        "sqlascii" => Some("SQL_ASCII"),
        _ => None,
    }
}

/// A date style: a format and an order of day, month and year, of which one alone leaves the other as it was.
fn date_style(value: &str, initial: &str) -> Option<String> {
    let (mut style, mut order) = (None, None);
    for word in value.split(',').map(|word| word.trim_matches(' ').to_ascii_uppercase()) {
        let begins = |start: &str| word.starts_with(start);
        let (slot, meant) = match word.as_str() {
            "ISO" => (&mut style, "ISO"),
            "SQL" => (&mut style, "SQL"),
            "GERMAN" => (&mut style, "German"),
            _ if begins("POSTGRES") => (&mut style, "Postgres"),
            "YMD" => (&mut order, "YMD"),
            "DMY" => (&mut order, "DMY"),
            _ if begins("EURO") => (&mut order, "DMY"),
            "MDY" | "US" => (&mut order, "MDY"),
            _ if begins("NONEURO") => (&mut order, "MDY"),
            _ => return None,
        };
        if slot.replace(meant).is_some_and(|before| before != meant) {
            return None;
        }
    }
    let (initial_style, initial_order) = initial.split_once(", ")?;
    // German dates are never in another order, unless it is asked for.
    let order = order.unwrap_or(if style == Some("German") { "DMY" } else { initial_order });
    Some(format!("{}, {order}", style.unwrap_or(initial_style)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spelt_as_postgresql_spells_them() {
        // What a PostgreSQL 17 reports.
        for (name, value, spelt) in [
            ("client_encoding", "utf-8", Some("UTF8")),
            ("client_encoding", "Unicode", Some("UTF8")),
            ("client_encoding", "iso_8859_1", Some("LATIN1")),
            ("client_encoding", "sql_ascii", Some("SQL_ASCII")),
            ("client_encoding", "klingon", None),
            ("DateStyle", "iso", Some("ISO, YMD")),
            ("DateStyle", "iso, dmy", Some("ISO, DMY")),
            ("DateStyle", "european,PostgreSQL", Some("Postgres, DMY")),
            ("DateStyle", "us", Some("SQL, MDY")),
            ("DateStyle", "german", Some("German, DMY")),
            ("DateStyle", "german, ymd", Some("German, YMD")),
            ("DateStyle", "iso, sql", None),
            ("DateStyle", "iso, iso", Some("ISO, YMD")),
            ("DateStyle", "default", None),
            ("DateStyle", "", None),
            ("IntervalStyle", "ISO_8601", Some("iso_8601")),
            ("IntervalStyle", "iso", None),
            ("standard_conforming_strings", "TRUE", Some("on")),
            ("standard_conforming_strings", "of", Some("off")),
            ("standard_conforming_strings", "o", None),
            ("TimeZone", "utc", None),
        ] {
            assert_eq!(canonical(name, value.as_bytes(), b"SQL, YMD").as_deref(), spelt, "{name} = {value}");
        }
    }
}
