//! PgBouncer's settings of authentication, as pgferry's rules.

use std::path::Path;

use super::ini::{Ini, words};
use super::{Toml, list, quoted};

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
        "hba" => return hba(ini, out),
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
    let listed: Vec<_> = ini.section("databases").map(|entry| entry.key.clone()).collect();
    let forced = ini.section("databases").any(|entry| words(&entry.value).is_ok_and(|w| w.contains_key("user")));
    if method == "trust" && !forced {
        out.comment("\"trust\" needs a user in the URL, or force_user, to log in to PostgreSQL as.");
    }
    if listed.iter().any(|name| name == "*") || listed.is_empty() {
        out.set("auth_type", &quoted(method));
        return;
    }
    // Others than these PgBouncer does not let in to.
    out.rules.push(vec![format!("database = {}", list(&listed)), format!("method = {}", quoted(method))]);
}

/// The rules of an HBA file: the number of each line that says anything, its fields, and the rule in TOML's form or what is
/// wrong with it.
pub(crate) fn hba_rules(text: &str) -> impl Iterator<Item = (usize, String, Result<Vec<String>, String>)> + '_ {
    (1..).zip(text.lines()).filter_map(|(nth, line)| {
        let line = line.split('#').next().unwrap_or_default();
        let fields: Vec<_> = line.split_whitespace().map(|field| field.trim_matches('"')).collect();
        let outcome = if fields.is_empty() { return None } else { rule(&fields) };
        Some((nth, fields.join(" "), outcome))
    })
}

/// The lines of an HBA file as rules, in their order.
fn hba(ini: &Ini, out: &mut Toml) {
    let path = ini.get("auth_hba_file").unwrap_or_default();
    let text = match std::fs::read_to_string(Path::new(path)) {
        Ok(text) => text,
        Err(error) => {
            return out.without("auth_hba_file", path, &format!("{error}: write [[rule]] tables"));
        }
    };
    for (nth, line, outcome) in hba_rules(&text) {
        match outcome {
            Ok(rule) => out.rules.push(rule),
            Err(why) => out.comment(&format!("{path}:{nth}: {line}: {why}")),
        }
    }
}

fn rule(fields: &[&str]) -> Result<Vec<String>, String> {
    let [kind, databases, users, rest @ ..] = fields else { return Err("not enough fields".into()) };
    let (transport, address, rest): (&[&str], Option<String>, &[&str]) = match (*kind, rest) {
        ("local", rest) => (&["unix", "abstract"], None, rest),
        (_, [address, mask, rest @ ..]) if mask.contains(['.', ':']) && !mask.contains('/') => {
            return Err(format!("write the mask {mask} as a number of bits behind {address} {}", rest.join(" ")));
        }
        ("host", [address, rest @ ..]) => (&["tcp", "tls"], Some((*address).to_owned()), rest),
        ("hostssl", [address, rest @ ..]) => (&["tls"], Some((*address).to_owned()), rest),
        ("hostnossl", [address, rest @ ..]) => (&["tcp"], Some((*address).to_owned()), rest),
        _ => return Err("such lines are not supported".into()),
    };
    let method = match rest.first() {
        Some(&("trust" | "reject" | "md5" | "scram-sha-256" | "password" | "cert" | "peer")) => rest[0],
        Some(other) => return Err(format!("the method {other} is not supported")),
        None => return Err("there is no method".into()),
    };
    let names = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
    let mut lines =
        vec![format!("transport = {}", list(&transport.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()))];
    if *databases != "all" {
        lines.push(format!("database = {}", list(&names(databases))));
    }
    if *users != "all" {
        lines.push(format!("user = {}", list(&names(users))));
    }
    if let Some(address) = address.filter(|address| address != "all") {
        lines.push(format!("address = {}", list(&[address])));
    }
    lines.push(format!("method = {}", quoted(method)));
    Ok(lines)
}
