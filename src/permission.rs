//! Errors of the system about a file or an address, with the user they hold for and the remedy where permission is denied.

use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;
use nix::unistd::{getegid, geteuid};

/// Attempts that permissions may forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Reading a file.
    Read,
    /// Listening on a socket file or an address.
    Listen,
    /// Making the directory of a socket file.
    MakeDirectory,
    /// Connecting to a socket file.
    Connect,
}

/// Describes `error`, which `attempt` met at `place`: a path or an address.
#[must_use]
pub(crate) fn describe(attempt: Attempt, place: &dyn Display, error: &io::Error) -> String {
    let place = place.to_string();
    let (uid, gid) = (geteuid(), getegid());
    let path = Path::new(&place);
    match error.kind() {
        io::ErrorKind::PermissionDenied => {}
        io::ErrorKind::ReadOnlyFilesystem => {
            return format!(
                "{place}: {error}\n  hint: mount a writable volume there, such as one in memory, or listen elsewhere: --listen"
            );
        }
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            return format!(
                "{place}: {error}\n  hint: raise the limit on open files: ulimit -n, or LimitNOFILE= of the unit"
            );
        }
        _ => return format!("{place}: {error}"),
    }
    let make = |dir: &Path| {
        let dir = dir.display();
        format!(
            "as root: install -d -o {uid} -g {gid} {dir}; or listen in a directory of your own: --listen /tmp/pgferry"
        )
    };
    let remedy = match attempt {
        Attempt::Read => "let it read the file and search the directories above: chown, chgrp or chmod".to_owned(),
        Attempt::Connect => {
            format!(
                "run as another user, or let uid {uid} in: unix_socket_mode, unix_socket_group, chmod of the directory"
            )
        }
        Attempt::Listen if !path.is_absolute() => {
            "choose a port from 1024 on, or give pgferry the capability CAP_NET_BIND_SERVICE".to_owned()
        }
        Attempt::Listen => match fs::symlink_metadata(path) {
            Ok(file) if file.uid() != uid.as_raw() => {
                format!("it belongs to uid {}: run as that user, or remove it if its owner has gone", file.uid())
            }
            _ => make(path.parent().unwrap_or(path)),
        },
        Attempt::MakeDirectory => make(path),
    };
    format!("{place}: {error}: pgferry runs as uid {uid}, gid {gid}\n  hint: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(attempt: Attempt, place: &str) -> String {
        describe(attempt, &place, &io::Error::from_raw_os_error(nix::libc::EACCES))
    }

    #[test]
    fn denied_permission_names_the_user_and_the_remedy() {
        let user = format!("uid {}, gid {}", geteuid(), getegid());
        let made = format!("install -d -o {} -g {} /run/pgferry;", geteuid(), getegid());
        for (attempt, place, part) in [
            (Attempt::MakeDirectory, "/run/pgferry", made.as_str()),
            (Attempt::Listen, "/run/pgferry/admin.sock", &made),
            (Attempt::Listen, "/run/pgferry/.s.PGSQL.5432.lock", &made),
            (Attempt::Listen, "127.0.0.1:80", "CAP_NET_BIND_SERVICE"),
            (Attempt::Read, "/etc/key.pem", "chgrp"),
            (Attempt::Connect, "/run/pgferry/.s.PGSQL.5432", "unix_socket_mode"),
        ] {
            let said = denied(attempt, place);
            assert!(said.starts_with(place) && said.contains(&user) && said.contains(part), "{said}");
        }
    }

    #[test]
    fn what_no_directory_would_help_has_its_own_remedy() {
        for (errno, part) in [(nix::libc::EROFS, "volume"), (nix::libc::EMFILE, "ulimit -n")] {
            let said = describe(Attempt::Listen, &"/run/pgferry/s", &io::Error::from_raw_os_error(errno));
            assert!(said.contains(part) && !said.contains("install -d"), "{said}");
        }
        let said = denied(Attempt::Listen, "/proc/1/status");
        assert!(geteuid().is_root() || said.contains("belongs to uid 0"), "{said}");
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        let error = io::Error::from_raw_os_error(nix::libc::ENOENT);
        assert_eq!(describe(Attempt::Read, &"/x", &error), format!("/x: {error}"));
    }
}
