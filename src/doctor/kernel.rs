//! What the kernel is set to, read from `/proc/sys` and from the files that set it; nothing is ever written.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Paths that are read: the real ones, or a copy of another machine's.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/etc`, with `sysctl.conf` and `sysctl.d`.
    pub etc: PathBuf,
    /// `/sys/fs/cgroup`: the limits of this container.
    pub cgroup: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { proc: "/proc".into(), etc: "/etc".into(), cgroup: "/sys/fs/cgroup".into() }
    }
}

/// A line of a file that sets something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SysctlLine {
    /// The file.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// Key, with dots.
    pub key: String,
    /// To what.
    pub value: String,
}

/// The kernel's settings that have to do with ports and sockets; `None` where this kernel has no such setting.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "named like the settings")]
pub struct Kernel {
    /// Its release.
    pub release: String,
    pub ip_local_port_range: (u16, u16),
    /// Ports in the range that are never given out.
    pub ip_local_reserved_ports: Vec<(u16, u16)>,
    pub tcp_syncookies: Option<String>,
    pub tcp_tw_recycle: Option<String>,
    pub tcp_tw_reuse: Option<String>,
    pub tcp_tw_reuse_delay: Option<String>,
    pub tcp_timestamps: Option<String>,
    pub tcp_tw_timeout: Option<String>,
    pub tcp_fin_timeout: Option<String>,
    pub tcp_max_tw_buckets: Option<String>,
    pub somaxconn: Option<String>,
    pub file_max: Option<String>,
    pub conntrack_count: Option<u64>,
    pub conntrack_max: Option<u64>,
    /// Sockets in TIME_WAIT on this host, whatever they were connected to.
    pub time_wait: Option<u64>,
    /// Number of TIME_WAITs dropped because there were too many (`TCPTimeWaitOverflow`).
    pub time_wait_overflow: Option<u64>,
    /// The network namespace that all of this is about, and whether it is that of the first process.
    pub namespace: Option<String>,
    pub is_host_namespace: Option<bool>,
    /// Lines of files that set one of these.
    pub lines: Vec<SysctlLine>,
}

/// The settings of which old recipes speak; files are searched for them.
pub(crate) const RECIPES: [&str; 10] = [
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_tw_recycle",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_tw_reuse_delay",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_tw_timeout",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.ip_local_port_range",
    "net.core.somaxconn",
];

impl Kernel {
    /// Reads what is there.
    #[must_use]
    pub fn read(paths: &Paths) -> Self {
        let sys = |path: &str| text(&paths.proc.join("sys").join(path));
        let ipv4 = |name: &str| sys(&format!("net/ipv4/{name}"));
        let number = |path: &str| sys(path)?.parse().ok();
        let range = ipv4("ip_local_port_range").and_then(|text| {
            let mut ends = text.split_whitespace().map(str::parse);
            Some((ends.next()?.ok()?, ends.next()?.ok()?))
        });
        let namespace = |pid: &str| fs::read_link(paths.proc.join(pid).join("ns/net")).ok();
        let own = namespace("self");
        Self {
            release: sys("kernel/osrelease").unwrap_or_else(|| "unknown".into()),
            // The kernel's default.
            ip_local_port_range: range.unwrap_or((32768, 60999)),
            ip_local_reserved_ports: ipv4("ip_local_reserved_ports").map(|text| ranges(&text)).unwrap_or_default(),
            tcp_syncookies: ipv4("tcp_syncookies"),
            tcp_tw_recycle: ipv4("tcp_tw_recycle"),
            tcp_tw_reuse: ipv4("tcp_tw_reuse"),
            tcp_tw_reuse_delay: ipv4("tcp_tw_reuse_delay"),
            tcp_timestamps: ipv4("tcp_timestamps"),
            tcp_tw_timeout: ipv4("tcp_tw_timeout"),
            tcp_fin_timeout: ipv4("tcp_fin_timeout"),
            tcp_max_tw_buckets: ipv4("tcp_max_tw_buckets"),
            somaxconn: sys("net/core/somaxconn"),
            file_max: sys("fs/file-max"),
            conntrack_count: number("net/netfilter/nf_conntrack_count"),
            conntrack_max: number("net/netfilter/nf_conntrack_max"),
            time_wait: sockstat(&paths.proc),
            time_wait_overflow: netstat(&paths.proc, "TCPTimeWaitOverflow"),
            is_host_namespace: own.as_ref().zip(namespace("1")).map(|(own, first)| *own == first),
            namespace: own.map(|link| link.display().to_string()),
            lines: lines(&paths.etc),
        }
    }

    /// Number of ephemeral ports toward one address.
    #[must_use]
    pub fn ports(&self) -> usize {
        let (low, high) = self.ip_local_port_range;
        let within = |&(from, to): &(u16, u16)| {
            let (from, to) = (from.max(low), to.min(high));
            if from <= to { usize::from(to - from) + 1 } else { 0 }
        };
        let reserved: usize = self.ip_local_reserved_ports.iter().map(within).sum();
        (usize::from(high.saturating_sub(low)) + 1).saturating_sub(reserved)
    }

    /// Returns whether a port in TIME_WAIT toward `loopback` or a remote address may be used again after a second.
    #[must_use]
    pub fn reuses(&self, loopback: bool) -> bool {
        let timestamps = self.tcp_timestamps.as_deref() != Some("0");
        timestamps
            && match self.tcp_tw_reuse.as_deref() {
                Some("1") => true,
                Some("2") => loopback,
                _ => false,
            }
    }

    /// The seconds that TIME_WAIT lasts: a constant of the kernel's, but for one vendor's.
    #[must_use]
    pub fn time_wait_seconds(&self) -> usize {
        self.tcp_tw_timeout.as_ref().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0).unwrap_or(60)
    }

    /// The line that sets `key`, if a file does.
    #[must_use]
    pub fn line(&self, key: &str) -> Option<&SysctlLine> {
        self.lines.iter().rfind(|line| line.key == key)
    }
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// `30000-32767,6432`.
fn ranges(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
    };
    text.split(',').filter_map(range).collect()
}

fn sockstat(proc: &Path) -> Option<u64> {
    let text = text(&proc.join("net/sockstat"))?;
    let tcp = text.lines().find(|line| line.starts_with("TCP:"))?;
    let mut words = tcp.split_whitespace().skip_while(|word| *word != "tw");
    words.nth(1)?.parse().ok()
}

/// A counter of `/proc/net/netstat`, which has a line of names above each line of numbers.
fn netstat(proc: &Path, name: &str) -> Option<u64> {
    let text = text(&proc.join("net/netstat"))?;
    let lines: Vec<_> = text.lines().collect();
    lines.chunks_exact(2).find_map(|pair| {
        let at = pair[0].split_whitespace().position(|word| word == name)?;
        pair[1].split_whitespace().nth(at)?.parse().ok()
    })
}

/// The lines of `sysctl.conf` and `sysctl.d` that set what recipes speak of.
fn lines(etc: &Path) -> Vec<SysctlLine> {
    let mut files: Vec<PathBuf> = fs::read_dir(etc.join("sysctl.d"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    files.sort();
    files.push(etc.join("sysctl.conf"));
    let mut found = Vec::new();
    for file in files {
        let Some(text) = text(&file) else { continue };
        for (line, content) in (1..).zip(text.lines()) {
            let Some((key, value)) = content.split_once('=') else { continue };
            let key = key.trim().trim_start_matches('-').replace('/', ".");
            if RECIPES.contains(&key.as_str()) {
                found.push(SysctlLine { file: file.display().to_string(), line, key, value: value.trim().to_owned() });
            }
        }
    }
    found
}
