//! Paths of sockets, as PostgreSQL and libpq have them.

use std::path::{Path, PathBuf};

/// Beginning of a socket's name, in front of the port.
const PREFIX: &str = ".s.PGSQL.";

/// Path of the socket for `port` in directory `dir`.
pub(crate) fn socket_path(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!("{PREFIX}{port}"))
}

/// Name of the abstract socket for `port` under `name`, without the `@`.
pub(crate) fn abstract_socket_name(name: &str, port: u16) -> String {
    format!("{name}/{PREFIX}{port}")
}

/// Splits a socket's path, or an abstract socket's name, into its directory and port.
pub(crate) fn split_socket_path(path: &str) -> Option<(&str, &str)> {
    let (dir, name) = path.rsplit_once('/')?;
    Some((dir, name.strip_prefix(PREFIX)?))
}

/// Port in the name of a socket, without its directory; `None` where it has none.
pub(crate) fn port_of(name: &str) -> Option<u16> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_paths_are_those_of_libpq() {
        assert_eq!(socket_path(Path::new("/tmp"), 5432), Path::new("/tmp/.s.PGSQL.5432"));
        assert_eq!(abstract_socket_name("pg", 7), "pg/.s.PGSQL.7");
        assert_eq!(split_socket_path("/tmp/.s.PGSQL.5432"), Some(("/tmp", "5432")));
        assert_eq!([port_of(".s.PGSQL.7"), port_of("7"), port_of(".s.PGSQL.x")], [Some(7), None, None]);
        assert_eq!(split_socket_path("127.0.0.1:5432"), None);
    }
}
