//! The rules by which clients log in: an ordered list, of which the first that fits decides.

use std::fmt;
use std::net::IpAddr;

use super::value::{Auth, choice};

choice! {
    /// Transport of a client.
    Transport {
        /// A unix socket with a file.
        Unix = "unix",
        /// An abstract socket.
        Abstract = "abstract",
        /// TCP without encryption.
        Tcp = "tcp",
        /// TCP with TLS.
        Tls = "tls",
    }
}

choice! {
    /// Name in a certificate that must be the role, for the method `cert`.
    CertName {
        /// The common name.
        Cn = "cn",
        /// One of the alternative names: of a host, a mail box or a resource.
        San = "san",
    }
}

/// A client that wants to come in.
#[derive(Clone, Copy, Debug)]
pub struct ClientIdentity<'a> {
    /// Transport.
    pub transport: Transport,
    /// Address, if it came over TCP.
    pub address: Option<IpAddr>,
    /// Its user and group on this machine, if it came over a unix socket.
    pub ids: Option<(u32, u32)>,
    /// The database it wants.
    pub database: &'a [u8],
    /// The role it wants to be.
    pub user: &'a [u8],
}

/// Addresses that have their first bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u32,
}

impl Network {
    /// Reads `10.0.0.0/8`, or a single address.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("\"{text}\" is not a network such as \"10.0.0.0/8\" or \"::1/128\"");
        let (base, bits) = text.split_once('/').map_or((text, None), |(base, bits)| (base, Some(bits)));
        let base: IpAddr = base.parse().map_err(|_| expected())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| expected()))?;
        if bits > most { Err(expected()) } else { Ok(Self { base, bits }) }
    }

    /// Returns whether `address` is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let differing = u32::from(base) ^ u32::from(address);
                self.bits == 0 || differing >> (32 - self.bits) == 0
            }
            (IpAddr::V6(base), _) => {
                let IpAddr::V6(address) = address else { return false };
                let differing = u128::from(base) ^ u128::from(address);
                self.bits == 0 || differing >> (128 - self.bits) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// One rule: what is left out fits every client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Transports of clients.
    pub transports: Vec<Transport>,
    /// The databases they want.
    pub databases: Vec<String>,
    /// The roles they want to be.
    pub users: Vec<String>,
    /// Networks of clients.
    pub addresses: Vec<Network>,
    /// The users of this machine that it fits.
    pub uid: Option<u32>,
    /// Their group on this machine.
    pub gid: Option<u32>,
    /// The method by which they log in.
    pub method: Auth,
    /// For the method `cert`: which of the certificate's names must be the role.
    pub cert_name: CertName,
}

impl Rule {
    /// The fields of a rule.
    pub const FIELDS: [&'static str; 8] =
        ["transport", "database", "user", "address", "uid", "gid", "method", "cert_name"];

    /// The rule that fits every client.
    #[must_use]
    pub fn for_all(method: Auth) -> Self {
        Self {
            transports: Vec::new(),
            databases: Vec::new(),
            users: Vec::new(),
            addresses: Vec::new(),
            uid: None,
            gid: None,
            method,
            cert_name: CertName::Cn,
        }
    }

    /// Makes a rule of its fields.
    ///
    /// # Errors
    /// Says which field is wrong.
    pub fn from_fields(fields: &[(String, Vec<String>)]) -> Result<Self, String> {
        let mut rule = Self::for_all(Auth::Reject);
        let mut method = None;
        for (name, values) in fields {
            let one = || match values.as_slice() {
                [one] => Ok(one.as_str()),
                _ => Err(format!("{name}: one value is needed")),
            };
            let number = || one()?.parse::<u32>().map_err(|_| format!("{name}: \"{}\" is not a number", values[0]));
            let named = |error| format!("{name}: {error}");
            match name.as_str() {
                "transport" => rule.transports = all(values, Transport::parse).map_err(named)?,
                "database" => rule.databases.clone_from(values),
                "user" => rule.users.clone_from(values),
                "address" => rule.addresses = all(values, Network::parse).map_err(named)?,
                "uid" => rule.uid = Some(number()?),
                "gid" => rule.gid = Some(number()?),
                "method" => method = Some(Auth::parse(one()?).map_err(named)?),
                "cert_name" => rule.cert_name = CertName::parse(one()?).map_err(named)?,
                _ => return Err(format!("there is no field \"{name}\"")),
            }
        }
        rule.method = method.ok_or("a rule needs a method")?;
        rule.check().map(|()| rule)
    }

    /// Returns whether it can ever fit, and be kept to.
    fn check(&self) -> Result<(), String> {
        let only = |transports: &[Transport]| self.transports.iter().all(|transport| transports.contains(transport));
        if !only(&[Transport::Unix, Transport::Abstract])
            && (self.method == Auth::Peer || self.uid.is_some() || self.gid.is_some())
        {
            return Err("only unix sockets tell the user of a client: leave out transport = \"tcp\" and \"tls\"".into());
        }
        if self.method == Auth::Cert && !only(&[Transport::Tls]) {
            return Err("the method \"cert\" needs transport = \"tls\"".into());
        }
        Ok(())
    }

    /// Returns whether it fits every client, so that its user need not be looked up.
    #[must_use]
    pub fn fits_all(&self) -> bool {
        let Self { transports, databases, users, addresses, uid, gid, method, cert_name: _ } = self;
        !matches!(method, Auth::Peer | Auth::Cert)
            && transports.is_empty()
            && databases.is_empty()
            && users.is_empty()
            && addresses.is_empty()
            && uid.is_none()
            && gid.is_none()
    }

    /// Returns whether it decides about `caller`.
    #[must_use]
    pub fn fits(&self, caller: &ClientIdentity<'_>) -> bool {
        let any = |names: &[String], name: &[u8]| {
            names.is_empty() || names.iter().any(|known| known == "*" || known.as_bytes() == name)
        };
        let ids = |wanted: Option<u32>, has: Option<u32>| wanted.is_none_or(|wanted| Some(wanted) == has);
        // What only some transports can do is not for the others.
        let can = match self.method {
            Auth::Peer => caller.ids.is_some(),
            Auth::Cert => caller.transport == Transport::Tls,
            _ => true,
        };
        can && (self.transports.is_empty() || self.transports.contains(&caller.transport))
            && any(&self.databases, caller.database)
            && any(&self.users, caller.user)
            && ids(self.uid, caller.ids.map(|(uid, _)| uid))
            && ids(self.gid, caller.ids.map(|(_, gid)| gid))
            && (self.addresses.is_empty()
                || caller.address.is_some_and(|address| self.addresses.iter().any(|net| net.contains(address))))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, name: &str, values: Vec<String>| {
            if values.is_empty() { Ok(()) } else { write!(f, "{name} = {values:?}, ") }
        };
        list(f, "transport", self.transports.iter().map(ToString::to_string).collect())?;
        list(f, "database", self.databases.clone())?;
        list(f, "user", self.users.clone())?;
        list(f, "address", self.addresses.iter().map(ToString::to_string).collect())?;
        for (name, id) in [("uid", self.uid), ("gid", self.gid)] {
            if let Some(id) = id {
                write!(f, "{name} = {id}, ")?;
            }
        }
        if self.cert_name != CertName::Cn {
            write!(f, "cert_name = \"{}\", ", self.cert_name)?;
        }
        write!(f, "method = \"{}\"", self.method)
    }
}

fn all<T>(values: &[String], parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    values.iter().map(|value| parse(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(fields: &[(&str, &[&str])]) -> Result<Rule, String> {
        let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
        let fields: Vec<_> = fields.iter().map(|(name, values)| ((*name).to_owned(), owned(values))).collect();
        Rule::from_fields(&fields)
    }

    const LOCAL: ClientIdentity<'_> = ClientIdentity {
        transport: Transport::Unix,
        address: None,
        ids: Some((1000, 100)),
        database: b"shop",
        user: b"app",
    };

    fn remote(transport: Transport, address: &str) -> ClientIdentity<'static> {
        ClientIdentity { transport, address: address.parse().ok(), ids: None, ..LOCAL }
    }

    #[test]
    fn everything_that_is_said_must_fit() {
        let far = remote(Transport::Tls, "10.1.2.3");
        for (fields, local, tls) in [
            (&[][..], true, true),
            (&[("database", &["shop", "x"][..])], true, true),
            (&[("database", &["x"])], false, false),
            (&[("user", &["*"])], true, true),
            (&[("user", &["root"])], false, false),
            (&[("uid", &["1000"])], true, false),
            (&[("uid", &["1000"]), ("gid", &["1"])], false, false),
            (&[("address", &["10.0.0.0/8"])], false, true),
            (&[("address", &["10.1.2.4"])], false, false),
            (&[("transport", &["unix", "abstract"])], true, false),
            (&[("transport", &["tls"]), ("address", &["0.0.0.0/0"])], false, true),
        ] {
            let rule = rule(&[fields, &[("method", &["trust"])]].concat()).expect("good");
            assert_eq!((rule.fits(&LOCAL), rule.fits(&far)), (local, tls), "{rule}");
        }
        let peer = rule(&[("method", &["peer"])]).expect("good");
        assert!(peer.fits(&LOCAL) && !peer.fits(&far), "only where it can be found out");
        let cert = rule(&[("method", &["cert"])]).expect("good");
        assert!(!cert.fits(&LOCAL) && cert.fits(&far) && !cert.fits(&remote(Transport::Tcp, "10.1.2.3")));
    }

    #[test]
    fn networks() {
        for (net, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::1", "::1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "10.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("::/0", "1.2.3.4", false),
        ] {
            let net = Network::parse(net).expect("good");
            assert_eq!(net.contains(address.parse().expect("an address")), expected, "{net} {address}");
        }
        for bad in ["10.0.0.0/33", "ten", "::1/129", "10.0.0.0/-1", ""] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for (fields, part) in [
            (&[("user", &["app"][..])][..], "needs a method"),
            (&[("method", &["kerberos"])], "pass-through"),
            (&[("method", &["peer"]), ("transport", &["tcp"])], "only unix sockets"),
            (&[("method", &["trust"]), ("uid", &["1"]), ("transport", &["tls"])], "only unix sockets"),
            (&[("method", &["cert"]), ("transport", &["tcp"])], "needs transport"),
            (&[("method", &["trust"]), ("uid", &["root"])], "not a number"),
            (&[("method", &["trust", "peer"])], "one value"),
            (&[("method", &["trust"]), ("address", &["x"])], "not a network"),
        ] {
            let error = rule(fields).expect_err("makes no sense");
            assert!(error.contains(part), "{error}");
        }
    }
}
