//! How connections to the upstream are encrypted: libpq's parameters, with libpq's meaning.

use std::path::{Path, PathBuf};

use super::require_auth::RequireAuth;
use super::value::choice;
use crate::net::tls::{ClientOptions, Roots, Version};

choice! {
    /// Encryption of connections, and verification of the server.
    SslMode {
        /// Never.
        Disable = "disable",
        /// Only where the server does not let us in without.
        Allow = "allow",
        /// Encrypts if the server can.
        Prefer = "prefer",
        /// Always.
        Require = "require",
        /// Always, and only with a server that a trusted authority has certified.
        VerifyCa = "verify-ca",
        /// Always, and only with a server that a trusted authority has certified for this host.
        VerifyFull = "verify-full",
    }
}

choice! {
    /// Negotiation of encryption.
    Negotiation {
        /// The server is asked in PostgreSQL's protocol first.
        Postgres = "postgres",
        /// At once, which PostgreSQL 17 and later understand.
        Direct = "direct",
    }
}

choice! {
    /// Channel binding of logins (SCRAM-SHA-256-PLUS).
    Binding {
        /// Never.
        Disable = "disable",
        /// Binds where that can be done.
        Prefer = "prefer",
        /// Always: no other login will do.
        Require = "require",
    }
}

/// The parameters as they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// `sslmode`.
    pub mode: Option<SslMode>,
    /// `sslnegotiation`.
    pub negotiation: Negotiation,
    /// `channel_binding`.
    pub binding: Binding,
    /// `require_auth`.
    pub require_auth: RequireAuth,
    /// `sslrootcert`: a file, or `system`.
    pub root: Option<String>,
    /// `sslcert`.
    pub certificate: Option<PathBuf>,
    /// `sslkey`.
    pub key: Option<PathBuf>,
    /// `sslcrl`.
    pub revoked: Option<PathBuf>,
    /// `ssl_min_protocol_version`.
    pub oldest: Version,
    /// `ssl_max_protocol_version`.
    pub newest: Version,
    /// `sslsni`.
    pub sni: bool,
    /// Home directory, which has `.postgresql` with the default files.
    pub home: Option<PathBuf>,
}

impl Default for Encryption {
    fn default() -> Self {
        Self {
            mode: None,
            negotiation: Negotiation::Postgres,
            binding: Binding::Prefer,
            require_auth: RequireAuth::default(),
            root: None,
            certificate: None,
            key: None,
            revoked: None,
            oldest: Version::V12,
            newest: Version::V13,
            sni: true,
            home: None,
        }
    }
}

impl Encryption {
    /// The parameters, each of which is also a setting of that name.
    pub const NAMES: [&'static str; 11] = [
        "sslmode",
        "sslnegotiation",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslcrl",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "sslsni",
        "channel_binding",
        "require_auth",
    ];

    /// Sets the parameter `name`, which is one of [`Encryption::NAMES`].
    ///
    /// # Errors
    /// What is wrong with `value`.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let bad = |error: String| format!("invalid {name} value: {error}");
        let path = || Some(value).filter(|value| !value.is_empty()).map(PathBuf::from);
        match name {
            "sslmode" => self.mode = Some(SslMode::parse(value).map_err(bad)?),
            "sslnegotiation" => self.negotiation = Negotiation::parse(value).map_err(bad)?,
            "channel_binding" => self.binding = Binding::parse(value).map_err(bad)?,
            "require_auth" => self.require_auth = RequireAuth::parse(value).map_err(bad)?,
            "sslrootcert" => self.root = Some(value.to_owned()).filter(|value| !value.is_empty()),
            "sslcert" => self.certificate = path(),
            "sslkey" => self.key = path(),
            "sslcrl" => self.revoked = path(),
            "ssl_min_protocol_version" => self.oldest = version(value).map_err(bad)?,
            "ssl_max_protocol_version" => self.newest = version(value).map_err(bad)?,
            "sslsni" => match value {
                "0" => self.sni = false,
                "1" => self.sni = true,
                _ => return Err(bad(format!("\"{value}\" is not 0 or 1"))),
            },
            _ => return Err(format!("\"{name}\" is not a parameter of encryption")),
        }
        Ok(())
    }

    /// The mode in force: `prefer` as in libpq, but `verify-full` as soon as there is a root certificate to verify with.
    #[must_use]
    pub fn mode(&self) -> SslMode {
        self.mode.unwrap_or(if self.root.is_some() { SslMode::VerifyFull } else { SslMode::Prefer })
    }

    /// Returns whether the parameters go together.
    ///
    /// # Errors
    /// Which don't.
    pub fn check(&self) -> Result<(), String> {
        let mode = self.mode();
        if self.root.as_deref() == Some("system") && mode != SslMode::VerifyFull {
            return Err(format!(
                "weak sslmode \"{mode}\" may not be used with sslrootcert=system (use \"verify-full\")"
            ));
        }
        if self.negotiation == Negotiation::Direct
            && matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer)
        {
            return Err(format!(
                "weak sslmode \"{mode}\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\", or \
                 \"verify-full\")"
            ));
        }
        if self.oldest > self.newest {
            return Err("invalid SSL protocol version range: the newest is older than the oldest".into());
        }
        if self.key.is_some() && self.certificate.is_none() {
            return Err("sslkey without sslcert: a key alone proves nothing".into());
        }
        Ok(())
    }

    /// Returns the options for TLS, with libpq's default files where they exist and no others are named.
    ///
    /// # Errors
    /// When files are missing that the mode can't do without.
    pub fn options(&self) -> Result<ClientOptions, String> {
        let mode = self.mode();
        let roots = match (self.root.as_deref(), self.default_file("root.crt")) {
            (Some("system"), _) => Roots::System,
            (Some(path), _) => Roots::File(path.into()),
            (None, Some(path)) => Roots::File(path),
            (None, None) if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) => {
                return Err(format!(
                    "sslmode={mode} needs a root certificate: name its file with sslrootcert, use the system's trusted \
                     roots with sslrootcert=system, or change sslmode to disable server certificate verification"
                ));
            }
            (None, None) if self.revoked.is_some() => {
                return Err(
                    "sslcrl without sslrootcert: no certificate is verified, so that none counts as revoked".into()
                );
            }
            (None, None) => Roots::Unchecked,
        };
        let certificate = self.certificate.clone().or_else(|| self.default_file("postgresql.crt"));
        let identity = match certificate {
            None => None,
            Some(certificate) => {
                let key = self.key.clone().or_else(|| self.default_file("postgresql.key"));
                let missing =
                    || format!("{}: certificate present, but not its private key (sslkey)", certificate.display());
                Some((certificate.clone(), key.ok_or_else(missing)?))
            }
        };
        Ok(ClientOptions {
            names: mode == SslMode::VerifyFull,
            identity,
            revoked: self.revoked.clone().or_else(|| self.default_file("root.crl")),
            oldest: self.oldest,
            newest: self.newest,
            sni: self.sni,
            roots,
        })
    }

    /// The parameters that were given, as a URL has them.
    #[must_use]
    pub fn show(&self) -> Vec<(&'static str, String)> {
        let normal = Self::default();
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let differing = |value: String, differs: bool| differs.then_some(value);
        let values = [
            self.mode.map(|mode| mode.to_string()),
            differing(self.negotiation.to_string(), self.negotiation != normal.negotiation),
            self.root.clone(),
            path(&self.certificate),
            path(&self.key),
            path(&self.revoked),
            differing(show_version(self.oldest).to_owned(), self.oldest != normal.oldest),
            differing(show_version(self.newest).to_owned(), self.newest != normal.newest),
            differing("0".to_owned(), !self.sni),
            differing(self.binding.to_string(), self.binding != normal.binding),
            differing(self.require_auth.to_string(), self.require_auth != normal.require_auth),
        ];
        Self::NAMES.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn default_file(&self, name: &str) -> Option<PathBuf> {
        let path = self.home.as_ref()?.join(Path::new(".postgresql")).join(name);
        path.exists().then_some(path)
    }
}

/// Reads a version. TLS 1.0 and 1.1 are not supported: as the oldest version they stand for 1.2.
pub(super) fn version(text: &str) -> Result<Version, String> {
    match text.to_ascii_lowercase().as_str() {
        "tlsv1" | "tlsv1.1" | "tlsv1.2" => Ok(Version::V12),
        "tlsv1.3" => Ok(Version::V13),
        _ => Err(format!("\"{text}\" is not one of TLSv1.2, TLSv1.3")),
    }
}

fn show_version(version: Version) -> &'static str {
    match version {
        Version::V12 => "TLSv1.2",
        Version::V13 => "TLSv1.3",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Encryption {
        let mut encryption = Encryption::default();
        for (name, value) in pairs {
            encryption.set(name, value).unwrap_or_else(|error| panic!("{name}={value}: {error}"));
        }
        encryption
    }

    #[test]
    fn a_root_certificate_is_there_to_be_used() {
        assert_eq!(with(&[]).mode(), SslMode::Prefer);
        assert_eq!(with(&[("sslrootcert", "/ca.pem")]).mode(), SslMode::VerifyFull);
        assert_eq!(with(&[("sslrootcert", "/ca.pem"), ("sslmode", "require")]).mode(), SslMode::Require);
        let options = with(&[("sslrootcert", "/ca.pem"), ("sslmode", "require")]).options().expect("good");
        assert_eq!((options.roots, options.names), (Roots::File("/ca.pem".into()), false));
        let error = with(&[("sslmode", "verify-ca")]).options().expect_err("nothing to verify with");
        assert!(error.contains("sslrootcert=system"), "{error}");
        let error = with(&[("sslcrl", "/crl.pem"), ("sslmode", "require")]).options().expect_err("nothing is verified");
        assert!(error.contains("sslcrl without sslrootcert"), "{error}");
    }

    #[test]
    fn the_default_files_are_those_of_libpq() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join(".postgresql");
        std::fs::create_dir(&dir).expect("created");
        let mut encryption = with(&[("sslmode", "verify-ca")]);
        encryption.home = Some(home.path().into());
        assert!(encryption.options().is_err());
        std::fs::write(dir.join("root.crt"), "").expect("written");
        assert_eq!(encryption.options().expect("good").roots, Roots::File(dir.join("root.crt")));
        std::fs::write(dir.join("postgresql.crt"), "").expect("written");
        let error = encryption.options().expect_err("no key");
        assert!(error.contains("sslkey"), "{error}");
        std::fs::write(dir.join("postgresql.key"), "").expect("written");
        std::fs::write(dir.join("root.crl"), "").expect("written");
        let options = encryption.options().expect("good");
        assert_eq!(options.identity, Some((dir.join("postgresql.crt"), dir.join("postgresql.key"))));
        assert_eq!(options.revoked, Some(dir.join("root.crl")));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (pairs, part) in [
            (&[("sslrootcert", "system"), ("sslmode", "require")][..], "weak sslmode \"require\""),
            (&[("sslnegotiation", "direct")][..], "weak sslmode \"prefer\""),
            (&[("ssl_min_protocol_version", "TLSv1.3"), ("ssl_max_protocol_version", "TLSv1.2")][..], "range"),
            (&[("sslkey", "/k")][..], "sslkey without sslcert"),
        ] {
            let error = with(pairs).check().expect_err("does not go together");
            assert!(error.contains(part), "{error}");
        }
        assert!(with(&[("sslnegotiation", "direct"), ("sslmode", "require")]).check().is_ok());
        assert!(with(&[("sslrootcert", "system")]).check().is_ok());
        for (name, value) in [("sslmode", "on"), ("sslsni", "yes"), ("channel_binding", "1"), ("sslnegotiation", "tls")]
        {
            let error = Encryption::default().set(name, value).expect_err("no such value");
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
