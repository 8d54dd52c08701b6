//! PgBouncer's settings of authentication, as pgferry's rules.

use std::path::Path;

use super::ini::{Ini, words};
use super::{Toml, list, quoted};
use crate::config::{CONSOLE, Network};
use crate::small_file;

/// Writes the rules of logins.
pub(super) fn write(ini: &Ini, out: &mut Toml) {
    let get = |name| ini.get(name).filter(|value| !value.is_empty());
    for key in ["auth_file", "auth_user", "auth_query"] {
        if let Some(value) = get(key) {
            out.set(key, &quoted(value));
        }
    }
    let kind = get("auth_type").unwrap_or("md5");
    let method = match kind {
        "trust" | "md5" | "scram-sha-256" | "cert" => kind,
        "plain" => "password",
        "hba" => return hba(ini, &listed_databases(ini), out),
        "any" => {
            out.without(
                "auth_type",
                kind,
                "every client names its user without proof: the nearest is trust, with force_user",
            );
            "trust"
        }
        other => {
            out.without("auth_type", other, "not supported; pass-through lets PostgreSQL decide");
            "pass-through"
        }
    };
    let (listed, transports) = (listed_databases(ini), Transports::of(ini));
    if transports == Transports::Certified && method != "cert" {
        out.missing(UNCERTIFIED.to_owned());
    }
    let forced = ini.section("databases").any(|entry| words(&entry.value).is_ok_and(|w| w.contains_key("user")));
    if method == "trust" && !forced && get("auth_file").is_none() {
        out.comment("\"trust\" needs a user in the URL, or force_user, to log in to PostgreSQL as.");
    }
    // The method "cert" means TLS.
    let all = transports == Transports::All || method == "cert";
    // TCP clients are trusted by a rule only.
    if listed.is_empty() && all && method != "trust" {
        out.set("auth_type", &quoted(method));
        return;
    }
    let mut rule = Vec::new();
    if !all {
        rule.push(in_list("transport", &["unix", "abstract", "tls"]));
    }
    if !listed.is_empty() {
        rule.push(format!("database = {}", list(&listed)));
    }
    rule.push(format!("method = {}", quoted(method)));
    out.rules.push(rule);
}

/// Transports that clients may use besides unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transports {
    /// TCP, with TLS or without.
    All,
    /// TLS.
    Encrypted,
    /// TLS with a certificate of the client's.
    Certified,
}

/// The comment on [`Transports::Certified`].
const UNCERTIFIED: &str = "client_tls_sslmode = verify-…: only the method \"cert\" asks clients for a certificate; rules with another let in clients \
                           without one";

impl Transports {
    fn of(ini: &Ini) -> Self {
        match ini.get("client_tls_sslmode") {
            Some("require") => Self::Encrypted,
            Some("verify-ca" | "verify-full") => Self::Certified,
            _ => Self::All,
        }
    }
}

fn in_list(key: &str, items: &[&str]) -> String {
    format!("{key} = {}", list(&items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>()))
}

/// The databases that PgBouncer lets clients in to, its console among them; none where it does not look at the name.
fn listed_databases(ini: &Ini) -> Vec<String> {
    let listed: Vec<_> = ini.section("databases").map(|entry| entry.key.clone()).collect();
    if listed.is_empty() || listed.iter().any(|name| name == "*") {
        return Vec::new();
    }
    listed.into_iter().chain(CONSOLE.map(str::to_owned)).collect()
}

/// The rules of an HBA file for the databases that are `listed`, or for all: the number of each line that says anything, its fields,
/// and the rule in TOML's form or what is wrong with it.
pub(crate) fn hba_rules<'a>(
    text: &'a str,
    listed: &'a [String],
    transports: Transports,
) -> impl Iterator<Item = (usize, String, Result<Vec<String>, String>)> + 'a {
    (1..).zip(text.lines()).filter_map(move |(nth, line)| {
        let line = line.split('#').next().unwrap_or_default();
        let fields: Vec<_> = line.split_whitespace().collect();
        let plain: Result<Vec<_>, _> = fields.iter().map(|field| unquoted(field)).collect();
        let outcome =
            if fields.is_empty() { return None } else { plain.and_then(|plain| rule(&plain, listed, transports)) };
        Some((nth, fields.join(" "), outcome))
    })
}

/// A field without the quotes around it. In quotes a name means itself, also where it is a keyword, and may hold anything: what is not
/// the same without them is left to be written by hand.
fn unquoted(field: &str) -> Result<&str, String> {
    let Some(quoted) = field.strip_prefix('"').and_then(|field| field.strip_suffix('"')) else {
        return if field.contains('"') { Err(format!("the quotes in {field} are not supported")) } else { Ok(field) };
    };
    let is_keyword = quoted == "all" || is_special(quoted) || SPECIAL_DATABASES.contains(&quoted);
    if is_keyword || quoted.is_empty() || quoted.contains(['"', ',']) {
        return Err(format!("the quotes in {field} are not supported"));
    }
    Ok(quoted)
}

/// The lines of an HBA file as rules, in their order.
fn hba(ini: &Ini, listed: &[String], out: &mut Toml) {
    let path = ini.get("auth_hba_file").unwrap_or_default();
    let text = match small_file::read_text(Path::new(path)) {
        Ok(text) => text,
        Err(error) => {
            return out.without("auth_hba_file", path, &format!("{error}: write [[rule]] tables"));
        }
    };
    let transports = Transports::of(ini);
    if transports == Transports::Certified {
        out.missing(UNCERTIFIED.to_owned());
    }
    for (nth, line, outcome) in hba_rules(&text, listed, transports) {
        match outcome {
            Ok(rule) => out.rules.push(rule),
            // What it decides about is left to the lines behind it.
            Err(why) => out.missing(format!("{path}:{nth}: {line}: {why}")),
        }
    }
}

/// A line of an HBA file as a rule.
fn rule(fields: &[&str], listed: &[String], transports: Transports) -> Result<Vec<String>, String> {
    let [kind, databases, users, rest @ ..] = fields else { return Err("not enough fields".into()) };
    let (transport, address, rest): (&[&str], Option<String>, &[&str]) = match (*kind, rest) {
        ("local", rest) => (&["unix", "abstract"], None, rest),
        (_, [address, mask, rest @ ..]) if mask.contains(['.', ':']) && !mask.contains('/') => {
            return Err(format!("write the mask {mask} as a number of bits behind {address} {}", rest.join(" ")));
        }
        ("host", [address, rest @ ..]) if transports == Transports::All => {
            (&["tcp", "tls"], Some((*address).to_owned()), rest)
        }
        ("host" | "hostssl", [address, rest @ ..]) => (&["tls"], Some((*address).to_owned()), rest),
        ("hostnossl", [address, rest @ ..]) => (&["tcp"], Some((*address).to_owned()), rest),
        _ => return Err("such lines are not supported".into()),
    };
    if let Some(address) = address.as_ref().filter(|address| *address != "all") {
        Network::parse(address).map_err(|why| format!("{why}: other addresses are not supported"))?;
    }
    if let Some(option) = rest.get(1) {
        return Err(format!("the option {option} is not supported"));
    }
    let method = match rest.first() {
        Some(&("trust" | "reject" | "md5" | "scram-sha-256" | "password" | "cert" | "peer")) => rest[0],
        Some(other) => return Err(format!("the method {other} is not supported")),
        None => return Err("there is no method".into()),
    };
    let (databases, users) = (databases_of(databases, listed)?, users_of(users)?);
    let mut lines = vec![in_list("transport", transport)];
    if !databases.is_empty() {
        lines.push(format!("database = {}", list(&databases)));
    }
    if !users.is_empty() {
        lines.push(format!("user = {}", list(&users)));
    }
    if let Some(address) = address.filter(|address| address != "all") {
        lines.push(format!("address = {}", list(&[address])));
    }
    // Clients that must encrypt are never let in by a line for others.
    let is_met = transports == Transports::All || transport != ["tcp"];
    lines.push(format!("method = {}", quoted(if is_met { method } else { "reject" })));
    Ok(lines)
}

/// The databases of a line, as far as they are among those that are `listed`; none for all.
fn databases_of(field: &str, listed: &[String]) -> Result<Vec<String>, String> {
    let names: Vec<_> = field.split(',').map(str::to_owned).collect();
    if let Some(word) = names.iter().find(|name| is_special(name) || SPECIAL_DATABASES.contains(&name.as_str())) {
        return Err(format!("\"{word}\" in place of databases is not supported"));
    }
    if names.iter().any(|name| name == "all") {
        return Ok(listed.to_vec());
    }
    let mut names: Vec<_> = names.into_iter().filter(|name| listed.is_empty() || listed.contains(name)).collect();
    if names.iter().any(|name| CONSOLE.contains(&name.as_str())) {
        // It has two names here.
        names.retain(|name| !CONSOLE.contains(&name.as_str()));
        names.extend(CONSOLE.map(str::to_owned));
    }
    if names.is_empty() { Err("[databases] has none of these".into()) } else { Ok(names) }
}

/// The users of a line; none for all.
fn users_of(field: &str) -> Result<Vec<String>, String> {
    let names: Vec<_> = field.split(',').map(str::to_owned).collect();
    match names.iter().find(|name| is_special(name)) {
        Some(word) => Err(format!("\"{word}\" in place of users is not supported")),
        None if names.iter().any(|name| name == "all") => Ok(Vec::new()),
        None => Ok(names),
    }
}

/// Words that mean other than the database of that name.
const SPECIAL_DATABASES: [&str; 4] = ["replication", "samegroup", "samerole", "sameuser"];

/// Returns whether a name stands for others: those of a file, the members of a role, those that match an expression.
fn is_special(name: &str) -> bool {
    name.starts_with(['@', '+', '/'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_let_in_no_more_than_they_did() {
        let rule_of = |line: &str, listed: &[&str]| {
            let listed: Vec<_> = listed.iter().map(|&name| name.to_owned()).collect();
            hba_rules(line, &listed, Transports::All).next().expect("a rule").2.map(|lines| lines.join("; "))
        };
        let listed = ["shop", "pgferry", "pgbouncer"];
        for (line, listed, expected) in [
            ("host all all all md5", &[][..], "transport = [\"tcp\", \"tls\"]; method = \"md5\""),
            ("hostssl shop,x a,b 10.0.0.0/8 md5", &listed, "database = [\"shop\"]; user = [\"a\", \"b\"]"),
            ("hostssl all all all md5", &listed, "database = [\"shop\", \"pgferry\", \"pgbouncer\"]; method"),
            ("host \"shop\" \"a\" all \"md5\"", &[], "database = [\"shop\"]; user = [\"a\"]"),
            ("local pgbouncer admin peer", &[], "database = [\"pgferry\", \"pgbouncer\"]; user = [\"admin\"]"),
        ] {
            let rule = rule_of(line, listed).expect(line);
            assert!(rule.contains(expected), "{line}: {rule}");
        }
        for (line, why) in [
            ("host x all all md5", "[databases] has none of these"),
            ("host sameuser all all md5", "\"sameuser\" in place of databases is not supported"),
            ("host all,replication all all reject", "\"replication\" in place of databases is not supported"),
            ("host all all samenet reject", "other addresses are not supported"),
            ("host all all .example.com md5", "other addresses are not supported"),
            ("hostssl all all all cert map=staff", "the option map=staff is not supported"),
            ("host all +staff all md5", "\"+staff\" in place of users is not supported"),
            // The user of that name alone.
            ("host shop \"all\" all trust", "the quotes in \"all\" are not supported"),
            ("host shop \"a\",\"b\" all md5", "the quotes in \"a\",\"b\" are not supported"),
            ("host shop \"a b\" all reject", "the quotes in \"a are not supported"),
            ("host all a,@list all md5", "\"@list\" in place of users is not supported"),
        ] {
            let error = rule_of(line, &listed).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
