//! What PgBouncer has no word for: ports, room on servers, reasons for keeping connections, logins.

use std::path::Path;

use crate::admin::AdminState;
use crate::admin::table::{Cell, Type};
use crate::doctor::kernel::{Kernel, Paths};
use crate::doctor::sockets::{self, State};
use crate::upstream::ServerSide;
use crate::upstream::occupancy::Occupancy;
use crate::upstream::target::Address;

pub(super) const PORTS: [(&str, Type); 9] = [
    ("server", Type::Text),
    ("connections", Type::Int),
    ("closing", Type::Int),
    ("established", Type::Int),
    ("time_wait", Type::Int),
    ("port_range", Type::Int),
    ("share", Type::Text),
    ("ports_saved", Type::Numeric),
    ("ports_unavailable", Type::Numeric),
];
pub(super) const CAPACITY: [(&str, Type); 8] = [
    ("server", Type::Text),
    ("max_connections", Type::Int),
    ("reserved", Type::Int),
    ("used", Type::Int),
    ("idle", Type::Int),
    ("ours", Type::Int),
    ("share", Type::Int),
    ("max_upstream", Type::Int),
];
pub(super) const PINS: [(&str, Type); 3] = [("reason", Type::Text), ("total", Type::Numeric), ("current", Type::Int)];
pub(super) const LOGINS: [(&str, Type); 2] = [("event", Type::Text), ("count", Type::Numeric)];

/// By upstream address: our connections, and all sockets of this host toward it.
pub(super) async fn ports(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let shared = &admin_state.shared;
    let conn_infos: Vec<_> = shared.pools.with_former().iter().flat_map(|pool| pool.conn_infos.all()).collect();
    let mut upstreams: Vec<_> = conn_infos
        .iter()
        .filter_map(|conn_info| match &conn_info.remote {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        })
        .collect();
    upstreams.extend(shared.server_side.config.resolved().into_iter().flat_map(|(_, _, addresses)| addresses));
    upstreams.sort_unstable();
    upstreams.dedup();
    let asked = upstreams.clone();
    // It reads files and asks the kernel.
    let looked = tokio::task::spawn_blocking(move || {
        let range = Kernel::read(&Paths::default()).ports();
        let held = asked.iter().map(|upstream| sockets::toward(*upstream, Path::new("/proc")).unwrap_or_default());
        (range, held.map(|sockets| sockets::by_state(&sockets)).collect::<Vec<_>>())
    });
    let (range, held) = looked.await.unwrap_or_default();
    let counters = shared.counters();
    upstreams
        .iter()
        .zip(held)
        .map(|(upstream, held)| {
            let count = |state| held.get(&state).copied().unwrap_or(0);
            let all: usize = held.iter().filter(|(state, _)| **state != State::LISTEN).map(|(_, n)| n).sum();
            let open = conn_infos.iter().filter(|conn_info| conn_info.remote == Address::Tcp(*upstream)).count();
            let (established, waiting) = (count(State::ESTABLISHED), count(State::TIME_WAIT));
            vec![
                upstream.to_string().into(),
                open.into(),
                all.saturating_sub(established + waiting).into(),
                established.into(),
                waiting.into(),
                range.into(),
                format!("{} %", all * 100 / range.max(1)).into(),
                counters.ports_saved().into(),
                counters.no_port.get().into(),
            ]
        })
        .collect()
}

/// By upstream: its connections at the last look, and how many of them this process may have.
pub(super) fn capacity(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let ServerSide { config, capacity, .. } = &*admin_state.shared.server_side;
    let upstream_targets = config.upstream_targets();
    let all = upstream_targets.all().into_iter().map(|upstream_target| {
        let seen = upstream_target.room.seen();
        let number = |of: fn(&Occupancy) -> usize| seen.as_ref().map(of).into();
        let ours = admin_state.shared.pools.connections_at(upstream_target);
        vec![
            upstream_target.places().into(),
            number(|seen| seen.max_connections),
            number(|seen| seen.reserved),
            number(|seen| seen.used),
            number(|seen| seen.idle),
            ours.into(),
            upstream_target.room.limits(ours).map(|(_, share)| share).into(),
            capacity.max_upstream().into(),
        ]
    });
    all.collect()
}

pub(super) fn pins(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let row = |(reason, count, live): (&str, u64, usize)| vec![reason.into(), count.into(), live.into()];
    admin_state.pins().into_iter().map(row).collect()
}

pub(super) fn logins(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let counters = admin_state.shared.counters();
    let mut rows = vec![
        vec!["accepted".into(), counters.logins.get().into()],
        vec!["rejected".into(), counters.refused.get().into()],
        vec!["upstream attempts".into(), counters.tried.get().into()],
        vec!["wrong passwords".into(), counters.wrong_passwords.get().into()],
        vec!["wrong cancel keys".into(), counters.wrong_cancels.get().into()],
    ];
    for (code, count) in counters.refusals.by_code() {
        rows.push(vec![format!("rejected with {code}").into(), Cell::Number(count)]);
    }
    rows
}
