//! The owners of sockets, as far as this process may look into others.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde::Serialize;

/// A process that has connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Number of the connections that are its own.
    pub connections: usize,
}

/// The processes that have the sockets with these inode numbers, the one with most first.
#[must_use]
pub(crate) fn holders(proc: &Path, inodes: &[u64]) -> Vec<Holder> {
    let mut wanted: HashSet<u64> = inodes.iter().copied().filter(|inode| *inode != 0).collect();
    let mut found = Vec::new();
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // What belongs to others can't be looked into without privilege.
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else { continue };
        let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        let connections = links.filter_map(|link| inode(&link)).filter(|inode| wanted.remove(inode)).count();
        if connections > 0 {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
            found.push(Holder { pid, name, connections });
        }
    }
    found.sort_by_key(|holder| (std::cmp::Reverse(holder.connections), holder.pid));
    found
}

/// `socket:[12345]`.
fn inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_our_own_is_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let link = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener)));
        let inode = inode(&link.expect("a link")).expect("a socket");
        let found = holders(Path::new("/proc"), &[inode, 0, u64::MAX]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pid, found[0].connections), (std::process::id(), 1));
    }
}
