//! Certificates for tests: an authority, an intermediate one, and what they sign.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

/// A directory of certificates.
pub struct Certs {
    dir: TempDir,
    root: Issuer<'static, KeyPair>,
    intermediate: Issuer<'static, KeyPair>,
    intermediate_pem: String,
}

/// What a certificate is to be like.
#[derive(Default)]
pub struct CertOptions<'a> {
    pub name: &'a str,
    pub hosts: &'a [&'a str],
    pub expired: bool,
    pub by_intermediate: bool,
    pub serial: u8,
}

impl Certs {
    /// An authority (`root.crt`), one that it has signed, and another (`other.crt`) that has nothing to do with them.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pgferry-certs-").tempdir().expect("a directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let (root, pem) = authority("Test Root", None);
        write(dir.path(), "root.crt", &pem);
        let (intermediate, intermediate_pem) = authority("Test Intermediate", Some(&root));
        let (_, pem) = authority("Other Root", None);
        write(dir.path(), "other.crt", &pem);
        Self { dir, root, intermediate, intermediate_pem }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Makes `NAME.crt` (with the intermediate certificate where it needs one) and `NAME.key`.
    pub fn make(&self, file: &str, cert_options: &CertOptions<'_>) -> (String, String) {
        let mut params =
            CertificateParams::new(cert_options.hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>())
                .expect("names");
        params.distinguished_name = named(cert_options.name);
        if cert_options.expired {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        }
        params.serial_number = Some(SerialNumber::from(vec![cert_options.serial.max(1), 77]));
        let key = KeyPair::generate().expect("a key");
        let issuer = if cert_options.by_intermediate { &self.intermediate } else { &self.root };
        let mut pem = params.signed_by(&key, issuer).expect("signed").pem();
        if cert_options.by_intermediate {
            pem.push_str(&self.intermediate_pem);
        }
        (self.write(&format!("{file}.crt"), &pem), self.write_key(&format!("{file}.key"), &key.serialize_pem()))
    }

    /// A certificate that has signed itself.
    pub fn make_self_signed(&self, file: &str, hosts: &[&str]) -> (String, String) {
        let mut params =
            CertificateParams::new(hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>()).expect("names");
        params.distinguished_name = named("self");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        (self.write(&format!("{file}.crt"), &pem), self.write_key(&format!("{file}.key"), &key.serialize_pem()))
    }

    /// A certificate of version 1, made as in PostgreSQL's manual. Needs the authority to be made so as well:
    /// `v1root.crt`.
    pub fn make_version_1(&self, file: &str, host: &str) -> (String, String) {
        let at = |name: &str| self.path(name);
        let openssl = |args: &[&str]| super::run("openssl", args, &[]);
        let subject = "/CN=root.example";
        openssl(&[
            "req",
            "-new",
            "-x509",
            "-nodes",
            "-days",
            "2",
            "-subj",
            subject,
            "-newkey",
            "rsa:2048",
            "-keyout",
            &at("v1root.key"),
            "-out",
            &at("v1root.crt"),
        ]);
        let subject = format!("/CN={host}");
        openssl(&[
            "req",
            "-new",
            "-nodes",
            "-subj",
            &subject,
            "-newkey",
            "rsa:2048",
            "-keyout",
            &at(&format!("{file}.key")),
            "-out",
            &at("v1.csr"),
        ]);
        openssl(&[
            "x509",
            "-req",
            "-in",
            &at("v1.csr"),
            "-days",
            "1",
            "-CA",
            &at("v1root.crt"),
            "-CAkey",
            &at("v1root.key"),
            "-CAcreateserial",
            "-out",
            &at(&format!("{file}.crt")),
        ]);
        (at(&format!("{file}.crt")), at(&format!("{file}.key")))
    }

    /// Writes a list of what the root has revoked: the serial numbers of [`CertOptions::serial`].
    pub fn revoke(&self, file: &str, serials: &[u8]) -> String {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(vec![serial, 77]),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write(file, &params.signed_by(&self.root).expect("signed").pem().expect("PEM"))
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        write(self.dir.path(), name, text).to_str().expect("UTF-8").to_owned()
    }

    fn write_key(&self, name: &str, text: &str) -> String {
        let path = self.write(name, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        path
    }
}

fn authority(name: &str, by: Option<&Issuer<'static, KeyPair>>) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key");
    let pem = match by {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    let pem = pem.expect("signed").pem();
    (Issuer::new(params, key), pem)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("written");
    path
}
