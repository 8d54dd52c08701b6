//! Names of settings that are not pgferry's: those it had before its first release, and PgBouncer's own.

/// A name and the settings that it stands for: the first of them that is known where the name was written.
const NAMES: [(&str, &[&str]); 43] = [
    ("auth", &["auth_type"]),
    ("auth_hba_file", &["rule"]),
    ("auth_ident_file", &["peer"]),
    ("client_tls_protocols", &["client_tls_min_protocol_version"]),
    ("client_tls_sslmode", &["client_tls"]),
    ("connect_timeout", &["server_connect_timeout"]),
    ("default_pool_size", &["pool_size"]),
    ("idle_timeout", &["server_idle_timeout"]),
    ("keepalive", &["tcp_keepidle"]),
    ("lifetime", &["server_lifetime"]),
    ("listen_addr", &["listen"]),
    ("listen_port", &["port"]),
    ("log_stats", &["log_stats_interval"]),
    ("login_timeout", &["client_login_timeout"]),
    ("max_clients", &["max_client_conn", "max_user_client_connections"]),
    ("max_client_conn", &["max_user_client_connections"]),
    ("max_db_connections", &["max_upstream", "pool_size"]),
    ("max_dialling", &["max_connecting"]),
    ("max_upstream", &["max_user_connections"]),
    ("max_user_client_connections", &["users"]),
    ("max_user_connections", &["users"]),
    ("min_idle", &["min_pool_size"]),
    ("mode", &["pool_mode"]),
    ("pkt_buf", &["buffer_size"]),
    ("server_reset_query", &["reset"]),
    ("server_reset_query_always", &["reset"]),
    ("server_tls_ca_file", &["sslrootcert"]),
    ("server_tls_cert_file", &["sslcert"]),
    ("server_tls_key_file", &["sslkey"]),
    ("server_tls_protocols", &["ssl_min_protocol_version"]),
    ("server_tls_sslmode", &["sslmode"]),
    ("socket_group", &["unix_socket_group"]),
    ("socket_mode", &["unix_socket_mode"]),
    ("stats_period", &["log_stats_interval"]),
    ("tcp_keepalive", &["tcp_keepidle"]),
    ("tls_cert", &["client_tls_cert_file"]),
    ("tls_client_ca", &["client_tls_ca_file"]),
    ("tls_key", &["client_tls_key_file"]),
    ("tls_min_protocol_version", &["client_tls_min_protocol_version"]),
    ("unix_socket_dir", &["listen"]),
    ("user", &["force_user"]),
    ("verbose", &["log_level"]),
    ("wait_timeout", &["query_wait_timeout"]),
];

/// The setting among `known` that `name` stands for.
pub(super) fn present<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (_, settings) = NAMES.iter().find(|(other, _)| *other == name)?;
    let known: Vec<_> = known.into_iter().collect();
    settings.iter().find_map(|setting| known.iter().find(|known| *known == setting).copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;
    use crate::config::user;

    #[test]
    fn every_name_leads_to_a_setting() {
        let settings: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        for (name, present_names) in NAMES {
            let known = settings.iter().copied().chain(user::FIELDS);
            assert!(present(name, known).is_some(), "{name}");
            assert!(present_names.iter().all(|new| settings.contains(new) || user::FIELDS.contains(new)), "{name}");
        }
    }

    #[test]
    fn the_place_decides_between_settings() {
        let settings = || KEYS.iter().map(|key| key.name);
        assert_eq!(present("max_clients", settings()), Some("max_client_conn"));
        assert_eq!(present("max_clients", user::FIELDS), Some("max_user_client_connections"));
        assert_eq!(present("max_dialling", settings()), Some("max_connecting"));
        assert_eq!(present("pool_size", settings()), None);
    }
}
