//! `require_auth`: the methods by which the upstream may have a login prove itself, as libpq has it.

use std::fmt;

use super::value::choice;

choice! {
    /// Methods by which a login proves itself to the server.
    LoginMethod {
        /// Not at all: the server asked for nothing.
        None = "none",
        /// The password in clear text.
        Password = "password",
        /// The password, hashed with MD5.
        Md5 = "md5",
        /// SCRAM-SHA-256, bound to the channel or not.
        Scram = "scram-sha-256",
    }
}

/// Methods that libpq knows and pgferry does not speak: they may be named, and never happen.
const OTHERS: [&str; 3] = ["gss", "sspi", "oauth"];

/// The methods that a server may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequireAuth {
    /// As it was written; empty for all.
    text: String,
    /// Methods that are named.
    named: Vec<LoginMethod>,
    /// True if the named ones are those that may not be used.
    negated: bool,
}

impl RequireAuth {
    /// A list of methods, separated by commas, all or none of them with `!` in front.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parsed = Self { text: text.to_owned(), ..Self::default() };
        if text.is_empty() {
            return Ok(parsed);
        }
        parsed.negated = text.trim_start().starts_with('!');
        let mut seen = Vec::new();
        for item in text.split(',').map(str::trim) {
            let (name, negated) = item.strip_prefix('!').map_or((item, false), |name| (name, true));
            if negated != parsed.negated {
                let other = if negated { "negative" } else { "positive" };
                return Err(format!("\"{item}\": {other} methods cannot be mixed with the others"));
            }
            if seen.contains(&name) {
                return Err(format!("method \"{item}\" is specified more than once"));
            }
            seen.push(name);
            if !OTHERS.contains(&name) {
                parsed.named.push(LoginMethod::parse(name)?);
            }
        }
        if parsed.named.is_empty() && !parsed.negated {
            return Err(format!("\"{text}\" leaves no method that pgferry supports"));
        }
        Ok(parsed)
    }

    /// Returns whether a server may use `method`.
    #[must_use]
    pub fn allows(&self, method: LoginMethod) -> bool {
        self.text.is_empty() || self.named.contains(&method) != self.negated
    }
}

impl fmt::Display for RequireAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [LoginMethod; 4] = [LoginMethod::None, LoginMethod::Password, LoginMethod::Md5, LoginMethod::Scram];

    #[test]
    fn lists_mean_what_they_mean_in_libpq() {
        for (text, allowed) in [
            ("", [true, true, true, true]),
            ("scram-sha-256", [false, false, false, true]),
            ("md5, scram-sha-256", [false, false, true, true]),
            ("none", [true, false, false, false]),
            ("!none", [false, true, true, true]),
            ("!password,!md5", [true, false, false, true]),
            ("gss,scram-sha-256", [false, false, false, true]),
            ("!gss", [true, true, true, true]),
        ] {
            let parsed = RequireAuth::parse(text).expect("good");
            assert_eq!(ALL.map(|method| parsed.allows(method)), allowed, "{text}");
            assert_eq!(parsed.to_string(), text);
        }
        for text in ["md5,!password", "!md5,password", "md5,md5", "scram", "gss", "md5,", "!"] {
            assert!(RequireAuth::parse(text).is_err(), "{text}");
        }
    }
}
