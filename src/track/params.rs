//! Reported settings: what `ParameterStatus` said of a connection, what a client asked for, and the difference.

use std::sync::Arc;
use std::time::Duration;

use super::lexis::Lexis;
use crate::wire::Startup;

/// Most settings that a server may report: PostgreSQL reports 15, other servers and poolers a few more.
const MAX_REPORTED: usize = 200;

/// Most bytes of their names and values together.
const MAX_REPORTED_BYTES: usize = 1 << 20;

type Pair = (Box<[u8]>, Box<[u8]>);
type Param = (&'static str, Box<[u8]>);
/// A setting's name and the statement that makes it.
pub(super) type Set = (Box<[u8]>, Box<[u8]>);

/// Startup parameters by name and value, as the client sent them.
pub type RawPairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Startup parameters that every supported server reports and that a client may set: these follow their client from
/// connection to connection by `SET`. Every other startup parameter is part of the pool's key instead.
pub const FOLLOWING: [&str; 6] =
    ["application_name", "client_encoding", "DateStyle", "IntervalStyle", "standard_conforming_strings", "TimeZone"];

/// The reported settings of a session, in the order of the server's first report. Cheap to clone.
#[derive(Clone, Debug, Default, Eq)]
pub struct ServerParams {
    reported: Arc<ReportedParams>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ReportedParams {
    pairs: Vec<Pair>,
    /// Positions of those in [`FOLLOWING`], which are looked up for every client.
    following: [Option<u8>; FOLLOWING.len()],
    /// Rules for reading texts that follow from them, which every statement needs.
    lexis: Lexis,
}

impl PartialEq for ServerParams {
    fn eq(&self, other: &Self) -> bool {
        // Sessions that are alike share storage, which makes the comparison free.
        self.is(other) || self.reported.pairs == other.reported.pairs
    }
}

impl ServerParams {
    /// The value of `name`, in any case.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.reported.pairs.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Returns whether a report can be noted: a server that reports ever more settings can't have all of them kept.
    #[must_use]
    pub fn has_room_for(&self, name: &[u8], value: &[u8]) -> bool {
        let is_known = self.get(name).is_some();
        let others = self.iter().filter(|(known, _)| !known.eq_ignore_ascii_case(name));
        let bytes: usize = others.map(|(name, value)| name.len() + value.len()).sum();
        (is_known || self.reported.pairs.len() < MAX_REPORTED) && bytes + name.len() + value.len() <= MAX_REPORTED_BYTES
    }

    /// Notes a report for which there is room; says whether it changed anything.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        if !self.has_room_for(name, value) {
            return false;
        }
        match self.reported.pairs.iter().position(|(n, _)| n.eq_ignore_ascii_case(name)) {
            Some(at) if &*self.reported.pairs[at].1 == value => return false,
            Some(at) => Arc::make_mut(&mut self.reported).pairs[at].1 = value.into(),
            None => {
                let reported = Arc::make_mut(&mut self.reported);
                if let Some(known) = number_of(name) {
                    reported.following[known] = u8::try_from(reported.pairs.len()).ok();
                }
                reported.pairs.push((name.into(), value.into()));
            }
        }
        let lexis = Lexis::of(self.get(b"client_encoding"), self.get(b"standard_conforming_strings"));
        if lexis != self.reported.lexis {
            Arc::make_mut(&mut self.reported).lexis = lexis;
        }
        true
    }

    /// Returns the rules for reading texts in a session that reports them.
    #[must_use]
    pub fn lexis(&self) -> Lexis {
        self.reported.lexis
    }

    /// The value of the setting that is number `known` in [`FOLLOWING`].
    pub(super) fn following(&self, known: usize) -> Option<&[u8]> {
        let at = self.reported.following[known]?;
        self.reported.pairs.get(usize::from(at)).map(|(_, value)| &**value)
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.reported.pairs.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Returns whether nothing has been reported.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reported.pairs.is_empty()
    }

    /// Returns whether both are the same storage: then they are equal, at the price of one comparison.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.reported, &other.reported)
    }

    /// Shares the storage of `other` where the contents are equal, so that later comparisons cost nothing.
    pub fn share(&mut self, other: &Self) {
        if self == other {
            self.reported = Arc::clone(&other.reported);
        }
    }

    /// The pairs of `self` that `other` has not got.
    pub fn beyond<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let same = self.is(other);
        let looked_at = if same { 0 } else { self.reported.pairs.len() };
        self.iter().take(looked_at).filter(|(name, value)| other.get(name) != Some(value))
    }
}

/// The following parameters that a client's startup packet asked for. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedParams {
    pairs: Arc<Vec<Param>>,
}

impl RequestedParams {
    /// Splits a startup packet into the parameters that follow the client and those that are part of the pool's key
    /// (`user`, `database` and `replication` are neither).
    ///
    /// A value that is not printable ASCII belongs to the key too: in a `SET` the server would convert it from the
    /// client's encoding, in a startup packet it does not.
    #[must_use]
    pub fn split(startup: &Startup) -> (Self, RawPairs) {
        let mut wanted: Vec<Param> = Vec::new();
        let mut key = RawPairs::new();
        for (name, value) in &startup.params {
            if matches!(&**name, b"user" | b"database" | b"replication") {
                continue;
            }
            match following(name) {
                Some(known) if value.iter().all(|b| (0x20..0x7f).contains(b)) => {
                    wanted.retain(|(n, _)| *n != known);
                    wanted.push((known, (**value).into()));
                }
                _ => key.push((name.to_vec(), value.to_vec())),
            }
        }
        (Self { pairs: Arc::new(wanted) }, key)
    }

    /// All names and values asked for.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.pairs.iter().map(|(name, value)| (*name, &**value))
    }

    /// The value asked for `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Asks for `value` of `name`, or for nothing.
    pub fn set(&mut self, name: &'static str, value: Option<&[u8]>) {
        let pairs = Arc::make_mut(&mut self.pairs);
        pairs.retain(|(n, _)| *n != name);
        pairs.extend(value.map(|value| (name, value.into())));
    }

    /// Only the values that `canonical` knows, as the server spells them.
    #[must_use]
    pub fn known(&self, canonical: impl Fn(&'static str, &[u8]) -> Option<Box<[u8]>>) -> Self {
        let pairs = self.iter().filter_map(|(name, value)| Some((name, canonical(name, value)?)));
        Self { pairs: Arc::new(pairs.collect()) }
    }

    /// Only the values that `pick` picks.
    #[must_use]
    pub fn only(&self, pick: impl Fn(&'static str, &[u8]) -> bool) -> Self {
        self.known(|name, value| pick(name, value).then(|| value.into()))
    }

    /// Returns whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Replaces values by what the server made of them, as far as `canonical` knows.
    #[must_use]
    pub fn canonical(&self, canonical: impl Fn(&'static str, &[u8]) -> Option<Box<[u8]>>) -> Self {
        let pairs = self.iter().map(|(name, value)| (name, canonical(name, value).unwrap_or_else(|| value.into())));
        Self { pairs: Arc::new(pairs.collect()) }
    }
}

/// The time that startup parameters, `options` among them, set setting `name` to, of which the unit is a millisecond.
#[must_use]
pub(crate) fn startup_time(params: &[(Vec<u8>, Vec<u8>)], name: &[u8]) -> Option<Duration> {
    let mut found = None;
    for (key, value) in params {
        if key.eq_ignore_ascii_case(name) {
            found = std::str::from_utf8(value).ok().and_then(parse_time);
        } else if key == b"options" {
            for option in value.split(u8::is_ascii_whitespace) {
                let option = option.strip_prefix(b"-c").or_else(|| option.strip_prefix(b"--")).unwrap_or(option);
                let mut halves = option.splitn(2, |&b| b == b'=');
                let key: Vec<u8> =
                    halves.next().unwrap_or_default().iter().map(|&b| if b == b'-' { b'_' } else { b }).collect();
                if key.eq_ignore_ascii_case(name) {
                    found = halves.next().and_then(|value| std::str::from_utf8(value).ok()).and_then(parse_time);
                }
            }
        }
    }
    found
}

/// A time as PostgreSQL reads one where the unit is a millisecond; `None` where it is 0, which means off, or not
/// understood.
#[must_use]
pub(crate) fn parse_time(value: &str) -> Option<Duration> {
    let value = value.trim_matches(|c: char| c == '\'' || c.is_whitespace());
    let digits = number_length(value.as_bytes());
    let number: f64 = value[..digits].parse().ok()?;
    // A fraction counts in whole ones of the next smaller unit.
    let (unit, smaller) = match value[digits..].trim() {
        "us" => (0.001, 1.0),
        "" | "ms" => (1.0, 1.0),
        "s" => (1000.0, 1.0),
        "min" => (60_000.0, 1000.0),
        "h" => (3_600_000.0, 60_000.0),
        "d" => (86_400_000.0, 3_600_000.0),
        _ => return None,
    };
    let millis = (number * unit / smaller).round_ties_even() * smaller;
    let time = Duration::try_from_secs_f64(millis / 1000.0).ok()?;
    (!time.is_zero()).then_some(time)
}

/// Number of bytes of the number at the beginning of `text`, with its sign, fraction and exponent.
fn number_length(text: &[u8]) -> usize {
    let while_digits = |at: usize| at + text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = while_digits(usize::from(text.first() == Some(&b'+')));
    if text.get(end) == Some(&b'.') {
        end = while_digits(end + 1);
    }
    if !matches!(text.get(end), Some(b'e' | b'E')) {
        return end;
    }
    let digits = end + 1 + usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
    if text.get(digits).is_some_and(u8::is_ascii_digit) { while_digits(digits) } else { end }
}

/// The canonical spelling of a following parameter's name.
#[must_use]
pub(crate) fn following(name: &[u8]) -> Option<&'static str> {
    number_of(name).map(|known| FOLLOWING[known])
}

/// Returns whether `name` is a setting that no statement changes: the server reports what it is (`PGC_INTERNAL` in PostgreSQL's
/// `guc_tables.c`).
pub(crate) fn is_internal(name: &[u8]) -> bool {
    matches!(name, b"in_hot_standby" | b"integer_datetimes" | b"server_encoding" | b"server_version")
}

/// Its place in [`FOLLOWING`].
pub(super) fn number_of(name: &[u8]) -> Option<usize> {
    FOLLOWING.iter().position(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// The `SET`s that make a session that has `have` into what a client that asked for `wanted` expects, everything else
/// being as in `baseline`.
#[must_use]
pub fn differences(have: &ServerParams, wanted: &RequestedParams, baseline: &ServerParams) -> Vec<Vec<u8>> {
    let mut sets = Vec::new();
    if wanted.is_empty() && have.is(baseline) {
        return sets;
    }
    for (known, name) in FOLLOWING.into_iter().enumerate() {
        let Some(want) = wanted.get(name).or_else(|| baseline.following(known)) else { continue };
        let has = have.following(known);
        // What the server does not report can't be compared; such a server has not got the setting either.
        if has.is_some_and(|has| has != want) {
            sets.extend(values_to(name, want, baseline).map(|(name, value)| set_to(name, value)));
        }
    }
    sets
}

/// The values that setting `name` is to be given one after the other to become what the server makes of `want` in a new session,
/// where everything is as in `baseline`: a style of dates without an order keeps the order that there is, and the reverse.
pub(crate) fn values_to<'v>(
    name: &'static str,
    want: &'v [u8],
    baseline: &'v ServerParams,
) -> impl Iterator<Item = (&'static str, &'v [u8])> + use<'v> {
    let default = if name == "DateStyle" && !want.contains(&b',') { baseline.get(name.as_bytes()) } else { None };
    default.into_iter().chain([want]).map(move |value| (name, value))
}

/// `SET name TO 'value'`.
#[must_use]
pub(crate) fn set_to(name: &str, value: &[u8]) -> Vec<u8> {
    let mut sql = b"SET ".to_vec();
    sql.extend_from_slice(name.as_bytes());
    sql.extend_from_slice(b" TO ");
    put_literal(&mut sql, value);
    sql
}

/// `SET LOCAL name TO 'value'`.
#[must_use]
pub(crate) fn set_to_local(name: &str, value: &[u8]) -> Vec<u8> {
    let mut sql = b"SET LOCAL ".to_vec();
    sql.extend_from_slice(name.as_bytes());
    sql.extend_from_slice(b" TO ");
    put_literal(&mut sql, value);
    sql
}

/// Appends `SET name TO 'value';`.
pub(crate) fn put_set(sql: &mut Vec<u8>, name: &str, value: &[u8]) {
    sql.extend_from_slice(&set_to(name, value));
    sql.push(b';');
}

/// Writes the `SET`s of `unknown`, to learn what the server makes of it; `baseline` is what it gives to clients that ask for
/// nothing.
#[must_use]
pub fn trial(unknown: &RequestedParams, baseline: &ServerParams) -> Vec<u8> {
    let mut sql = Vec::new();
    for (name, value) in unknown.iter() {
        for (name, value) in values_to(name, value, baseline) {
            put_set(&mut sql, name, value);
        }
    }
    sql
}

/// Appends a string constant that means the same under all settings.
pub(crate) fn put_literal(sql: &mut Vec<u8>, value: &[u8]) {
    sql.extend_from_slice(if value.contains(&b'\\') { b"E'" } else { b"'" });
    for &byte in value {
        if byte == b'\'' || byte == b'\\' {
            sql.push(byte);
        }
        sql.push(byte);
    }
    sql.push(b'\'');
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn params(pairs: &[(&str, &str)]) -> ServerParams {
        let mut params = ServerParams::default();
        for (name, value) in pairs {
            params.set(name.as_bytes(), value.as_bytes());
        }
        params
    }

    fn startup(pairs: &[(&str, &str)]) -> Startup {
        let params = pairs.iter().map(|(n, v)| (Bytes::from(n.to_string()), Bytes::from(v.to_string()))).collect();
        Startup { params, ..Startup::default() }
    }

    #[test]
    fn what_follows_and_what_is_key() {
        let (wanted, key) = RequestedParams::split(&startup(&[
            ("user", "u"),
            ("database", "d"),
            ("datestyle", "ISO"),
            ("Application_Name", "a"),
            ("application_name", "it's"),
            ("TimeZone", "Zürich"),
            ("options", "-c x=y"),
            ("extra_float_digits", "2"),
        ]));
        assert_eq!(wanted.iter().collect::<Vec<_>>(), [("DateStyle", &b"ISO"[..]), ("application_name", b"it's")]);
        let names: Vec<_> = key.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["TimeZone", "options", "extra_float_digits"]);
    }

    #[test]
    fn only_differences_are_set() {
        let baseline = params(&[("application_name", ""), ("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")]);
        let (wanted, _) = RequestedParams::split(&startup(&[("application_name", "it's \\ me")]));
        let sets = |have: &ServerParams, wanted: &RequestedParams| {
            let sets = differences(have, wanted, &baseline);
            sets.into_iter().map(|sql| String::from_utf8(sql).expect("UTF-8")).collect::<Vec<_>>()
        };
        assert_eq!(sets(&baseline, &wanted), [r"SET application_name TO E'it''s \\ me'"]);
        let have = params(&[("application_name", "psql"), ("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")]);
        assert_eq!(sets(&have, &RequestedParams::default()), ["SET application_name TO ''"]);
        assert!(sets(&baseline, &RequestedParams::default()).is_empty());
    }

    #[test]
    fn times_are_read_as_postgresql_reads_them() {
        for (value, millis) in [
            ("300", Some(300)),
            ("'2 min'", Some(120_000)),
            (" 1.5s ", Some(1500)),
            ("0.5h", Some(1_800_000)),
            ("0.008 min", None),
            ("0.009 min", Some(1000)),
            ("2500us", Some(2)),
            ("400us", None),
            ("0", None),
            ("1 fortnight", None),
            ("99999999999999999999999d", None),
            (".", None),
            ("", None),
        ] {
            assert_eq!(parse_time(value), millis.map(Duration::from_millis), "{value}");
        }
    }

    #[test]
    fn reports_are_bounded_in_number_and_bytes() {
        let mut many = ServerParams::default();
        for nth in 0..60_000 {
            many.set(format!("setting_{nth}").as_bytes(), b"x");
        }
        assert_eq!(many.iter().count(), MAX_REPORTED);
        assert!(many.set(b"SETTING_7", b"y"), "one that is known may change");
        assert_eq!(many.get(b"setting_7"), Some(&b"y"[..]));
        let mut long = ServerParams::default();
        for nth in 0..30 {
            long.set(format!("setting_{nth}").as_bytes(), &vec![b'x'; 100_000]);
        }
        assert_eq!(long.iter().count(), MAX_REPORTED_BYTES / 100_000);
        assert!(!long.has_room_for(b"setting_0", &vec![b'x'; 200_000]));
        assert!(long.has_room_for(b"setting_0", &vec![b'x'; 100_001]));
    }

    #[test]
    fn differences_are_free_where_storage_is_shared() {
        let a = params(&[("TimeZone", "UTC")]);
        let mut b = params(&[("TimeZone", "UTC")]);
        b.share(&a);
        assert_eq!(b.beyond(&a).count(), 0);
        assert!(b.set(b"timezone", b"GMT"));
        assert!(!b.set(b"timezone", b"GMT"));
        assert_eq!(b.beyond(&a).collect::<Vec<_>>(), [(&b"TimeZone"[..], &b"GMT"[..])]);
        assert_eq!(a.get(b"TIMEZONE"), Some(&b"UTC"[..]));
    }
}
