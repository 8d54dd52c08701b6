//! The sysctls of old recipes: what each is worth on this kernel, and how one is set.

use super::facts::Facts;
use super::finding::{Finding, Level, finding};
use super::kernel::Kernel;

/// Kubernetes's view of a sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PodSysctl {
    /// Every pod may set it.
    Safe,
    /// The kubelet must allow it.
    Unsafe,
}

/// Each old recipe, and what it is worth here.
pub(super) fn diagnose(facts: &Facts) -> Vec<Finding> {
    let kernel = &facts.kernel;
    let always = [
        tw_reuse(facts),
        absent(
            kernel,
            "net.ipv4.tcp_tw_recycle",
            kernel.tcp_tw_recycle.as_ref(),
            "gone since Linux 4.12: it broke clients behind NAT",
        ),
        absent(
            kernel,
            "net.ipv4.tcp_tw_timeout",
            kernel.tcp_tw_timeout.as_ref(),
            "never was in Linux itself, where TIME_WAIT is 60 s: one vendor's kernels had it",
        ),
        timestamps(facts),
        syncookies(kernel),
    ];
    let sometimes = [fin_timeout(kernel), max_tw_buckets(facts), time_wait_overflow(kernel)];
    always.into_iter().chain(sometimes.into_iter().flatten()).collect()
}

/// The place in a file that sets `key`, in brackets; empty where none does.
fn place(kernel: &Kernel, key: &str) -> String {
    kernel.line(key).map_or_else(String::new, |line| format!(" ({}:{})", line.file, line.line))
}

fn timestamps(facts: &Facts) -> Finding {
    const KEY: &str = "net.ipv4.tcp_timestamps";
    match facts.kernel.tcp_timestamps.as_deref() {
        Some("0") => finding(
            Level::Warn,
            KEY,
            "= 0: without timestamps tcp_tw_reuse does nothing, and old segments are not told from new ones",
        )
        .advise(sysctl(facts, "net.ipv4.tcp_timestamps=1", "it is the default", PodSysctl::Unsafe)),
        Some(value) => finding(Level::Ok, KEY, format!("= {value}: tcp_tw_reuse needs it")),
        None => finding(Level::Info, KEY, "can't be read here"),
    }
}

fn syncookies(kernel: &Kernel) -> Finding {
    const KEY: &str = "net.ipv4.tcp_syncookies";
    let value = kernel.tcp_syncookies.as_deref().unwrap_or("unknown");
    let text = "for listeners that are flooded; has nothing to do with outgoing ports";
    finding(Level::Info, KEY, format!("= {value}: {text}{}", place(kernel, KEY)))
}

fn fin_timeout(kernel: &Kernel) -> Option<Finding> {
    const KEY: &str = "net.ipv4.tcp_fin_timeout";
    let value = kernel.tcp_fin_timeout.as_deref();
    if value.is_none_or(|value| value == "60") && kernel.line(KEY).is_none() {
        return None;
    }
    let value = value.unwrap_or("unknown");
    let text = "for orphans in FIN_WAIT_2; it does not shorten TIME_WAIT";
    Some(finding(Level::Info, KEY, format!("= {value}: {text}{}", place(kernel, KEY))))
}

fn max_tw_buckets(facts: &Facts) -> Option<Finding> {
    let buckets = facts.kernel.tcp_max_tw_buckets.as_ref().and_then(|text| text.parse::<u64>().ok());
    let few = buckets.filter(|buckets| *buckets < 65536)?;
    let text =
        format!("= {few}: above that TIME_WAITs are dropped early, and old segments may end up in new connections");
    Some(finding(Level::Warn, "net.ipv4.tcp_max_tw_buckets", text).advise(sysctl(
        facts,
        "net.ipv4.tcp_max_tw_buckets=262144",
        "costs 0.3 kB of memory for each that is there",
        PodSysctl::Unsafe,
    )))
}

fn time_wait_overflow(kernel: &Kernel) -> Option<Finding> {
    let dropped = kernel.time_wait_overflow.filter(|dropped| *dropped > 0)?;
    let text = format!("{dropped} TIME_WAITs were dropped early since the start");
    Some(finding(Level::Warn, "TCPTimeWaitOverflow", text))
}

fn tw_reuse(facts: &Facts) -> Finding {
    const KEY: &str = "net.ipv4.tcp_tw_reuse";
    let kernel = &facts.kernel;
    let all_loopback = !facts.upstreams.is_empty() && facts.upstreams.iter().all(|upstream| upstream.is_local);
    let delay = kernel.tcp_tw_reuse_delay.as_ref().map_or_else(String::new, |delay| format!(", after {delay} ms"));
    let named: Vec<_> =
        facts.upstreams.iter().filter(|upstream| !upstream.is_local).map(|upstream| upstream.name.as_str()).collect();
    match kernel.tcp_tw_reuse.as_deref() {
        Some("1") => finding(Level::Ok, KEY, format!("= 1: ports in TIME_WAIT are used again{delay}")),
        Some("2") if all_loopback => {
            finding(Level::Ok, KEY, format!("= 2: used again on loopback, where this upstream is{delay}"))
        }
        Some("2") => finding(
            Level::Info,
            KEY,
            format!(
                "= 2 (the default): for loopback only; it does nothing for {}",
                if named.is_empty() { "remote databases".into() } else { named.join(", ") }
            ),
        )
        .advise(sysctl(
            facts,
            "net.ipv4.tcp_tw_reuse=1",
            "only where direct connections remain; safe with timestamps on both sides",
            PodSysctl::Unsafe,
        )),
        Some(value) => finding(Level::Info, KEY, format!("= {value}: ports in TIME_WAIT are not used again")),
        None => finding(Level::Info, KEY, "can't be read here"),
    }
}

/// A setting that should not be there.
fn absent(kernel: &Kernel, key: &str, value: Option<&String>, why: &str) -> Finding {
    let line = kernel.line(key);
    match (value, line) {
        (Some(value), _) => finding(Level::Warn, key, format!("= {value} on this kernel ({}): {why}", kernel.release)),
        (None, Some(line)) => {
            finding(Level::Warn, key, format!("does not exist on this kernel: {why}; a dead line sets it"))
                .advise(format!("delete line {} of {} (no risk)", line.line, line.file))
        }
        (None, None) => finding(Level::Ok, key, format!("absent: {why}")),
    }
}

/// The command that sets something, and what to write in a pod; with its risk.
pub(super) fn sysctl(facts: &Facts, setting: &str, risk: &str, in_pods: PodSysctl) -> String {
    let command = format!("sysctl -w {setting}");
    if !facts.in_kubernetes {
        return format!("{command} ({risk})");
    }
    let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
    let value = value.trim_matches('"');
    let allowed = match in_pods {
        PodSysctl::Safe => "",
        PodSysctl::Unsafe => "; the kubelet must allow it: --allowed-unsafe-sysctls",
    };
    format!("in the pod: securityContext: {{sysctls: [{{name: {name}, value: \"{value}\"}}]}} ({risk}{allowed})")
}
