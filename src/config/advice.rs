//! What settings say that is taken as it is written, and hardly meant so.

use super::rule::Rule;
use super::settings::Settings;
use super::value::{Auth, Listen};

impl Settings {
    /// Returns what an operator had better know of these settings, a line each.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        let mut advice = self.advice_on_logins();
        advice.extend(self.advice_on_sizes(""));
        for (name, own) in &self.databases {
            let others = advice.clone();
            let of_database = own.advice_on_sizes(&format!("[databases.{:?}]: ", String::from_utf8_lossy(name)));
            // What is inherited is told once.
            let is_own = |line: &String| !others.iter().any(|other| line.ends_with(other.as_str()));
            advice.extend(of_database.into_iter().filter(is_own));
        }
        advice
    }

    fn advice_on_logins(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if self.is_pass_through() && self.upstream.url.password.is_some() {
            let text = "the password in the upstream URL is not used: with auth_type = \"pass-through\" clients bring their own";
            advice.push(text.to_owned());
        }
        let shows_certificate = self.upstream.url.encryption.options().is_ok_and(|options| options.identity.is_some());
        if self.auth.rules.iter().any(|rule| rule.method == Auth::PassThrough) && shows_certificate {
            let text = "pgferry shows PostgreSQL a certificate of its own (sslcert): clients that are let in by that need no password here \
                        with the method \"pass-through\"";
            advice.push(text.to_owned());
        }
        let trusts_all = self.auth.rules.iter().any(|rule| *rule == Rule::for_all(Auth::Trust));
        if trusts_all && self.listen.listen.iter().any(Listen::is_remote) {
            advice.push("a [[rule]] without conditions trusts everybody, and other machines can connect".to_owned());
        }
        if let Some(address) = self.admin.admin_listen.as_ref().filter(|address| address.is_remote()) {
            advice.push(format!(
                "admin_listen = \"{address}\": every machine that can connect to it can read the figures"
            ));
        }
        if trusts_all && self.listen.unix_socket_mode & 0o007 != 0 {
            advice.push(format!(
                "auth_type = \"trust\" and unix_socket_mode = \"{:04o}\": every user of this machine gets in without a password",
                self.listen.unix_socket_mode
            ));
        }
        advice
    }

    /// Connections that pools are to keep and can't have, behind `place`.
    fn advice_on_sizes(&self, place: &str) -> Vec<String> {
        let (least, size) = (self.pool.min_pool_size, self.pool.pool_size);
        let limit = |what: &str, most: usize| {
            format!(
                "{place}min_pool_size = {least} is more than {what} = {most}: pools keep {most} connections at most"
            )
        };
        let mut advice = Vec::new();
        if least > size {
            advice.push(limit("pool_size", size));
        }
        if let Some(most) = self.pool.max_upstream.filter(|most| least > *most) {
            advice.push(limit("max_upstream", most));
        }
        for (user, limits) in &self.auth.limits {
            let shown = String::from_utf8_lossy(user);
            let named = [("pool_size", limits.pool_size), ("max_user_connections", limits.max_user_connections)];
            for (name, most) in named.into_iter().filter_map(|(name, most)| Some((name, most?))) {
                if least > most && least <= size {
                    advice.push(limit(&format!("[users.{shown:?}] {name}"), most));
                }
            }
        }
        advice
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    fn advice(text: &str) -> Vec<String> {
        let mut written = RawConfig::default();
        written.file_text("f", &format!("upstream = \"postgres://db\"\n{text}")).expect(text);
        Settings::resolve(&written).expect(text).advice()
    }

    #[test]
    fn pools_that_are_to_keep_more_than_they_may_have_are_told() {
        for (text, expected) in [
            ("min_pool_size = 20", &[][..]),
            (
                "min_pool_size = 21",
                &["min_pool_size = 21 is more than pool_size = 20: pools keep 20 connections at most"],
            ),
            (
                "min_pool_size = 9\nmax_upstream = 8",
                &["min_pool_size = 9 is more than max_upstream = 8: pools keep 8 connections at most"],
            ),
            (
                "[databases.x]\nmin_pool_size = 5\npool_size = 4",
                &["[databases.\"x\"]: min_pool_size = 5 is more than pool_size = 4: pools keep 4 connections at most"],
            ),
            (
                "min_pool_size = 5\npool_size = 4\n[databases.x]\npin = \"refuse\"",
                &["min_pool_size = 5 is more than pool_size = 4: pools keep 4 connections at most"],
            ),
            (
                "min_pool_size = 3\n[users.batch]\npool_size = 2",
                &["min_pool_size = 3 is more than [users.\"batch\"] pool_size = 2: pools keep 2 connections at most"],
            ),
        ] {
            assert_eq!(advice(text), expected, "{text}");
        }
    }
}
