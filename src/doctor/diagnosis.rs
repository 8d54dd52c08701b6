//! What the facts mean, and what would help.

use std::fmt::Write as _;

use super::facts::{Facts, Upstream};
use super::finding::{Finding, Level, finding};
use super::kernel::Kernel;
use super::server::{DatabaseCode, Unasked};
use super::sysctl_advice::{self, PodSysctl, sysctl};

/// Diagnoses the facts.
#[must_use]
pub fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    for upstream in &facts.upstreams {
        all.push(ports(facts, upstream));
        all.extend(rate(&facts.kernel, upstream));
        all.extend(bypass(upstream));
        all.extend(server(facts, upstream));
    }
    all.extend(pgferry(facts));
    all.extend(sysctl_advice::diagnose(facts));
    all.extend(host(facts));
    all
}

/// Judges how many of the ports toward an address are held.
fn ports(facts: &Facts, upstream: &Upstream) -> Finding {
    let kernel = &facts.kernel;
    if let Some(why) = &upstream.unresolved {
        let level = if upstream.name.starts_with('/') { Level::Ok } else { Level::Crit };
        return finding(level, format!("upstream {}", upstream.name), why.clone());
    }
    let topic = format!("ports {}", upstream.address.map_or_else(|| upstream.name.clone(), |at| at.to_string()));
    let (total, held) = (kernel.ports().max(1), upstream.held);
    let share = held * 100 / total;
    let refused = matches!(&upstream.server, Some(Err(error)) if error.why.contains("Cannot assign requested address"));
    let mut text = format!("{share} % of {total} ports held: {held}");
    for (name, count) in &upstream.states {
        let _ = write!(text, ", {name} {count}");
    }
    let level = match share {
        _ if refused => Level::Crit,
        50.. => Level::Crit,
        40.. => Level::Warn,
        25.. => Level::Info,
        _ => Level::Ok,
    };
    if refused || share >= 95 {
        text.push_str("; new connections fail: Cannot assign requested address (EADDRNOTAVAIL)");
    } else if share >= 50 {
        text.push_str("; above half of them connecting takes a hundred times as long, at the end of them it fails");
    }
    let found = finding(level, topic, text);
    if level < Level::Warn {
        return found;
    }
    let reuse = if kernel.reuses(upstream.is_local) {
        None
    } else {
        Some(sysctl(
            facts,
            "net.ipv4.tcp_tw_reuse=1",
            "ports in TIME_WAIT are used again after a second; safe with timestamps on both sides",
            PodSysctl::Unsafe,
        ))
    };
    let wider = sysctl(
        facts,
        "net.ipv4.ip_local_port_range=\"15000 65000\"",
        "reserve the ports of listeners in it (net.ipv4.ip_local_reserved_ports) first",
        PodSysctl::Safe,
    );
    let found =
        found.advise("let programs connect through pgferry: it needs no port per connection (no risk to others)");
    reuse.into_iter().fold(found, Finding::advise).advise(wider)
}

/// Computes how many direct connections a second are possible.
fn rate(kernel: &Kernel, upstream: &Upstream) -> Option<Finding> {
    upstream.address?;
    let (ports, seconds) = (kernel.ports(), kernel.time_wait_seconds());
    let topic = format!("rate {}", upstream.name);
    let mut text = if kernel.reuses(upstream.is_local) {
        format!("direct connections: about {ports}/s, since ports are used again after a second")
    } else {
        format!(
            "direct connections: slow from about {}/s on, failing from {}/s on ({ports} ports, {seconds} s of TIME_WAIT each)",
            ports / 2 / seconds,
            ports / seconds
        )
    };
    text.push_str("; through pgferry: no such limit");
    let mut level = Level::Info;
    if let Some(churn) = upstream.churn {
        let _ = write!(text, "; now: {churn:.0} a second end in TIME_WAIT");
        let limit = u32::try_from(ports / 2 / seconds).map_or(f64::MAX, f64::from);
        if churn >= limit && !kernel.reuses(upstream.is_local) {
            level = Level::Warn;
        }
    }
    Some(finding(level, topic, text))
}

/// Processes that connect without pgferry.
fn bypass(upstream: &Upstream) -> Option<Finding> {
    let address = upstream.address?;
    let (ours, others): (Vec<_>, Vec<_>) = upstream.holders.iter().partition(|holder| holder.name == "pgferry");
    let count = |holders: &[&super::processes::Holder]| holders.iter().map(|holder| holder.connections).sum::<usize>();
    if ours.is_empty() && others.is_empty() {
        return None;
    }
    let names: Vec<_> = others
        .iter()
        .take(5)
        .map(|holder| format!("{} (pid {}): {}", holder.name, holder.pid, holder.connections))
        .collect();
    let mut text = format!("connections: {} by pgferry, {} by others", count(&ours), count(&others));
    if !names.is_empty() {
        let _ = write!(text, ": {}", names.join(", "));
    }
    Some(finding(Level::Info, format!("processes {address}"), text))
}

/// Diagnoses the server's limits.
fn server(facts: &Facts, upstream: &Upstream) -> Vec<Finding> {
    let topic = format!("server {}", upstream.name);
    let said = match &upstream.server {
        None => return Vec::new(),
        Some(Err(error)) => return vec![unasked_server(facts, topic, error)],
        Some(Ok(said)) => said,
    };
    let free = said.max_connections - said.reserved;
    let mut limit = free;
    let mut text = format!(
        "PostgreSQL {}, {}; {:.1} ms to connect, {:.1} ms a round trip; {} of {free} connections in use ({} reserved)",
        said.version,
        said.tls.as_deref().unwrap_or("not encrypted"),
        said.connect_ms,
        said.round_trip_ms,
        said.connected,
        said.reserved
    );
    if said.role_limit >= 0 {
        let _ = write!(text, ", {} for this role (CONNECTION LIMIT)", said.role_limit);
        limit = limit.min(said.role_limit);
    }
    let mut level = Level::Ok;
    let _ = write!(text, "; {}", fit(facts, limit));
    if limit < pool_size(facts) {
        level = Level::Warn;
    }
    match facts.pool.max_upstream {
        Some(most) => {
            let _ = write!(text, "; max_upstream = {most}");
        }
        None => {
            let _ = write!(text, "; max_upstream = \"auto\" comes to {} for one more", said.share());
        }
    }
    if said.connected * 10 >= free * 9 {
        level = level.max(Level::Warn);
        text.push_str("; it is nearly full");
    }
    let mut all = vec![finding(level, topic.clone(), text)];
    all.extend(idle_session_timeout(facts, topic, said.idle_session_timeout_ms / 1000));
    all.extend(said.session_code.as_ref().map(session_code));
    all
}

/// Diagnoses a server that did not let the doctor in, by what the pgferry here has seen of it.
fn unasked_server(facts: &Facts, topic: String, error: &Unasked) -> Finding {
    let level = if error.why.contains("names no user") { Level::Info } else { Level::Warn };
    let mut text = format!("not asked: {}", error.why);
    if let Some(seen) = &error.seen {
        let free = seen.max_connections - seen.reserved;
        let _ = write!(
            text,
            "; at the last look of the pgferry here {} of {free} connections were in use ({} reserved); {}",
            seen.connected,
            seen.reserved,
            fit(facts, free)
        );
    }
    finding(level, topic, text)
}

/// Diagnoses a server that closes connections that were idle for `idle` seconds, or never where that is 0.
fn idle_session_timeout(facts: &Facts, topic: String, idle: i64) -> Option<Finding> {
    let ours = i64::try_from(facts.pool.idle_timeout_s).ok().filter(|ours| *ours > 0).unwrap_or(i64::MAX);
    if idle <= 0 || idle >= ours {
        return None;
    }
    let why = format!("idle_session_timeout is {idle} s: the server closes idle connections before pgferry does");
    let advice =
        format!("set server_idle_timeout = \"{}s\" in pgferry's configuration (no risk)", (idle * 9 / 10).max(1));
    Some(finding(Level::Warn, topic, why).advise(advice))
}

/// Diagnoses what the code in the server's database means for resets.
fn session_code(code: &DatabaseCode) -> Finding {
    let topic = format!("code in {}", code.database);
    if !code.needs_resets {
        let text = format!("reset = \"auto\": sessions are not reset for it; it may leave {}", code.leaves);
        return finding(Level::Ok, topic, text);
    }
    let text = format!(
        "reset = \"auto\": every session is reset between two clients, since it may leave {}: {}",
        code.leaves, code.because
    );
    finding(Level::Info, topic, text)
        .advise("have it set what it needs by SET LOCAL or the functions' own SET clauses, take locks by pg_advisory_xact_lock, and build no statements as it runs")
        .advise("or set reset = \"on_change\" if this code leaves sessions as they were (risk: what it leaves after all gets to other clients)")
}

fn pool_size(facts: &Facts) -> i64 {
    i64::try_from(facts.pool.pool_size).unwrap_or(i64::MAX).max(1)
}

/// Describes how many sidecars with these settings fit a server with `places` for them.
fn fit(facts: &Facts, places: i64) -> String {
    let size = pool_size(facts);
    format!("{} sidecars with pool_size = {size} fit", places / size)
}

/// The pgferry that is configured here.
fn pgferry(facts: &Facts) -> Vec<Finding> {
    let Some(pgferry) = &facts.pgferry else { return Vec::new() };
    let mut all = Vec::new();
    for listener in &pgferry.listeners {
        let topic = format!("listener {}", listener.at);
        all.push(match (&listener.denied, listener.alive) {
            (Some(why), _) => finding(Level::Crit, topic, why.clone()),
            (None, true) => finding(Level::Ok, topic, "answers"),
            (None, false) => finding(Level::Warn, topic, "no answer").advise("start pgferry, or see its log"),
        });
    }
    if let Some(measured) = &pgferry.measured {
        let show = |outcome: &Result<(f64, f64), String>| match outcome {
            Ok((half, most)) => format!("p50 {half:.2} ms, p99 {most:.2} ms"),
            Err(error) => format!("not measured: {error}"),
        };
        let text = format!(
            "connect, log in, first row: through pgferry {}; directly {}",
            show(&measured.pgferry),
            show(&measured.direct)
        );
        let level = if measured.pgferry.is_ok() { Level::Info } else { Level::Warn };
        all.push(finding(level, "latency", text));
    }
    all
}

/// Diagnoses the rest of this host.
fn host(facts: &Facts) -> Vec<Finding> {
    let found =
        [listeners_in_range(facts), conntrack(&facts.kernel), backlog(facts), open_files(facts), container(facts)];
    found.into_iter().flatten().chain([network_namespace(facts)]).collect()
}

fn listeners_in_range(facts: &Facts) -> Option<Finding> {
    if facts.listeners_in_range.is_empty() {
        return None;
    }
    let ports: Vec<_> = facts.listeners_in_range.iter().take(10).map(u16::to_string).collect();
    let text = format!(
        "listen inside the ephemeral range, where a connection may take their port while they are down: {}",
        ports.join(", ")
    );
    Some(finding(Level::Info, "listeners", text).advise(sysctl(
        facts,
        &format!("net.ipv4.ip_local_reserved_ports={}", ports.join(",")),
        "those ports are then never given out",
        PodSysctl::Unsafe,
    )))
}

fn conntrack(kernel: &Kernel) -> Option<Finding> {
    let (count, max) = kernel.conntrack_count.zip(kernel.conntrack_max)?;
    let share = count * 100 / max.max(1);
    let level = if share >= 80 { Level::Warn } else { Level::Ok };
    let text = format!("{share} % of {max} entries: {count}; a closed connection stays in it for two minutes");
    Some(finding(level, "conntrack", text))
}

fn backlog(facts: &Facts) -> Option<Finding> {
    const KEY: &str = "net.core.somaxconn";
    let backlog = facts.kernel.somaxconn.as_ref().and_then(|text| text.parse::<u64>().ok())?;
    let text =
        format!("= {backlog}: so many clients may wait to be accepted; more than that fail at once on a unix socket");
    Some(if backlog < 1024 {
        let default = "it is the default since Linux 5.4";
        finding(Level::Warn, KEY, text).advise(sysctl(facts, "net.core.somaxconn=4096", default, PodSysctl::Unsafe))
    } else {
        finding(Level::Ok, KEY, text)
    })
}

fn open_files(facts: &Facts) -> Option<Finding> {
    let (soft, hard) = facts.open_files?;
    let level = if hard < 4096 { Level::Warn } else { Level::Ok };
    let text = format!("{soft}, may be raised to {hard}: pgferry does so; a client needs one, a connection two");
    Some(finding(level, "open files", text))
}

fn container(facts: &Facts) -> Option<Finding> {
    let (memory, processes) = facts.container;
    let memory = memory.map(|bytes| format!("{} MiB of memory", bytes >> 20));
    let processes = processes.map(|pids| format!("{pids} processes"));
    let limits: Vec<_> = memory.into_iter().chain(processes).collect();
    (!limits.is_empty()).then(|| finding(Level::Info, "container", format!("limited to {}", limits.join(", "))))
}

fn network_namespace(facts: &Facts) -> Finding {
    let kernel = &facts.kernel;
    let place = match (kernel.is_host_namespace, facts.in_kubernetes) {
        (Some(false), _) => "a network namespace of its own: all of this is about it alone",
        (Some(true), true) => "the first process's network namespace: in a pod with hostNetwork that is the node's",
        (Some(true), false) => "the host's network namespace",
        (None, _) => "a network namespace that can't be told from the host's",
    };
    let waiting = kernel.time_wait.map_or_else(String::new, |count| format!("; {count} sockets in TIME_WAIT in all"));
    finding(Level::Info, "host", format!("Linux {}, {place}{waiting}", kernel.release))
}
