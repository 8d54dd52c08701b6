//! Whether settings go together.

use super::error::ConfigError;
use super::reader::Reader;
use super::rule::Rule;
use super::settings::Settings;
use super::value::{Auth, ClientTls, Listen};
use super::written_value::Value;

/// The names of the console, where clients put the database's. The second is what PgBouncer's tools ask for.
pub(crate) const CONSOLE: [&str; 2] = ["pgferry", "pgbouncer"];

impl Settings {
    pub(super) fn check(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        if !self.listen.allow_remote
            && let Some(remote) = self.listen.listen.iter().find(|listen| listen.is_remote())
        {
            return Err(reader
                .error("listen", format!("{remote} can be reached from other machines"))
                .hint("listen on 127.0.0.1, or set allow_remote = true"));
        }
        let written = |key| reader.written.get(key).is_some();
        if written("rule") && written("auth_type") {
            return Err(reader
                .error("auth_type", "auth_type and [[rule]] tables are mutually exclusive".into())
                .hint("make it the last [[rule]], without conditions"));
        }
        if let Some(name) = CONSOLE.iter().find(|name| self.databases.contains_key(name.as_bytes())) {
            return Err(reader.error("databases", format!("the name \"{name}\" is the console's")));
        }
        self.check_loop(reader)?;
        self.check_passwords(reader)?;
        self.check_tls(reader)?;
        self.auth.rules.iter().try_for_each(|rule| self.check_rule(rule, reader))
    }

    /// The upstream is another process: the connection string that leads to pgferry is for programs, and may stand in `DATABASE_URL`.
    fn check_loop(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let addresses = self.addresses();
        let own = self.upstream.url.endpoints.iter().find(|endpoint| addresses.iter().any(|own| own.is_at(endpoint)));
        match own {
            None => Ok(()),
            Some(endpoint) => Err(reader
                .error("upstream", format!("{} is an address at which pgferry itself listens", endpoint.host))
                .hint("set upstream to where PostgreSQL is: --upstream, PGFERRY_UPSTREAM, or upstream = in the file")),
        }
    }

    /// One source of passwords at most is said to be the one.
    fn check_passwords(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        if let Some((_, Value::One(text))) = reader.written.get("password_command")
            && text.contains(['\'', '"', '\\'])
        {
            return Err(reader
                .error("password_command", "the text is split at blanks, and quotes have no meaning in it".into())
                .hint("write it as a list in the file, [\"sh\", \"-c\", \"…\"], or name a script"));
        }
        let given = [
            ("upstream_password", self.upstream.url.password.is_some()),
            ("upstream_password_file", self.upstream.upstream_password_file.is_some()),
            ("password_command", !self.upstream.password_command.is_empty()),
        ];
        let mut given = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            return Err(reader.error(second, format!("{first} and {second} are mutually exclusive")));
        }
        Ok(())
    }

    fn check_tls(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let lacks = |key: &str, of| Err(reader.error(of, format!("{key} is needed with it")));
        match (&self.tls.client_tls_cert_file, &self.tls.client_tls_key_file) {
            (Some(_), None) => return lacks("client_tls_key_file", "client_tls_cert_file"),
            (None, Some(_)) => return lacks("client_tls_cert_file", "client_tls_key_file"),
            (None, None) if self.tls.client_tls_ca_file.is_some() => {
                return lacks("client_tls_cert_file", "client_tls_ca_file");
            }
            _ => {}
        }
        let by_certificate = self.auth.rules.iter().any(|rule| rule.method == Auth::Cert);
        if by_certificate && self.tls.client_tls != ClientTls::Auto {
            let error = format!("the method \"cert\" needs TLS over TCP, not \"{}\"", self.tls.client_tls);
            return Err(reader.error("client_tls", error).hint("leave out client_tls"));
        }
        if by_certificate && self.tls.client_tls_ca_file.is_none() {
            return Err(self
                .rule_error(reader, Auth::Cert, "\"cert\" needs to know which authorities may sign".into())
                .hint("set client_tls_cert_file, client_tls_key_file and client_tls_ca_file"));
        }
        Ok(())
    }

    fn check_rule(&self, rule: &Rule, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let method = rule.method;
        let implied = reader.written.get("rule").is_none();
        if implied
            && matches!(method, Auth::Trust | Auth::Peer)
            && let Some(tcp) = self.listen.listen.iter().find(|listen| matches!(listen, Listen::Tcp(_)))
        {
            let error = format!("\"{method}\" does not work on TCP: {tcp} can't tell the user of a client");
            return Err(self
                .rule_error(reader, method, error)
                .hint("listen on unix or abstract sockets only, or write [[rule]] tables"));
        }
        if method == Auth::PassThrough
            && let Some(role) = &self.upstream.force_user
        {
            return Err(reader
                .error(
                    "force_user",
                    format!("with pass-through PostgreSQL decides by the client's own user, not \"{role}\""),
                )
                .hint("set auth_type to another method: scram-sha-256 with secrets, peer, cert or trust"));
        }
        if method == Auth::Peer && self.auth.peer.is_empty() {
            return Err(self
                .rule_error(reader, method, "\"peer\" without a [[peer]] rule rejects every client".into())
                .hint("add for example: [[peer]] with uid = 1000 and roles = [\"app\"]"));
        }
        if method == Auth::Trust && !self.has_credentials() {
            return Err(self
                .rule_error(reader, method, "\"trust\" needs an upstream credential".into())
                .hint("put the user (and password) into the upstream URL: postgres://user:password@host"));
        }
        let needs_secrets = matches!(method, Auth::Scram | Auth::Md5 | Auth::Password);
        if needs_secrets && self.auth.users.is_empty() && self.auth.auth_file.is_none() && self.auth.auth_user.is_none()
        {
            return Err(self
                .rule_error(reader, method, format!("\"{method}\" without secrets rejects every client"))
                .hint("add a [users] table, auth_file or auth_user"));
        }
        Ok(())
    }

    /// Returns whether there is anything to log in with for clients that bring no password that could be used: for all of them, or for
    /// those of a database.
    fn has_credentials(&self) -> bool {
        self.upstream.url.user.is_some()
            || self.upstream.url.password.is_some()
            || self.upstream.force_user.is_some()
            || self.upstream.upstream_password_file.is_some()
            || !self.upstream.password_command.is_empty()
            || self.upstream.passfile.is_some()
            || !self.auth.users.is_empty()
            || self.auth.auth_file.is_some()
            || self.databases.values().any(|own| own.has_credentials())
    }

    fn rule_error(&self, reader: &Reader<'_>, method: Auth, message: String) -> ConfigError {
        debug_assert!(self.auth.rules.iter().any(|rule| rule.method == method), "it is about one of them");
        reader.error(if reader.written.get("rule").is_some() { "rule" } else { "auth_type" }, message)
    }
}
