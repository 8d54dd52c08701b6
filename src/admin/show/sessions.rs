//! SHOW CLIENTS, SERVERS and SOCKETS: every connection, one row each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;

use super::name;
use crate::admin::AdminState;
use crate::admin::table::{Cell, Table, Type};
use crate::client::session_handle::{Activity, SessionHandle, SessionTarget};
use crate::net::Peer;
use crate::upstream::Pool;
use crate::upstream::conn_info::ConnInfo;
use crate::upstream::target::Address;

pub(super) const COLUMNS: [(&str, Type); 21] = [
    ("type", Type::Text),
    ("user", Type::Text),
    ("database", Type::Text),
    ("replication", Type::Text),
    ("state", Type::Text),
    ("addr", Type::Text),
    ("port", Type::Int),
    ("local_addr", Type::Text),
    ("local_port", Type::Int),
    ("connect_time", Type::Text),
    ("request_time", Type::Text),
    ("wait", Type::Int),
    ("wait_us", Type::Int),
    ("close_needed", Type::Int),
    ("ptr", Type::Text),
    ("link", Type::Text),
    ("remote_pid", Type::Int),
    ("tls", Type::Text),
    ("application_name", Type::Text),
    ("prepared_statements", Type::Int),
    ("id", Type::Int),
];

/// Additional columns of SOCKETS: nothing is ever held back in PgBouncer's sense.
const POSITIONS: [(&str, Type); 7] = [
    ("recv_pos", Type::Int),
    ("pkt_pos", Type::Int),
    ("pkt_remain", Type::Int),
    ("send_pos", Type::Int),
    ("send_remain", Type::Int),
    ("pkt_avail", Type::Int),
    ("send_avail", Type::Int),
];

pub(super) fn sockets() -> Table {
    Table::new(&[&COLUMNS[..], &POSITIONS].concat())
}

/// A connection's name in `ptr` and `link`: the letters tell clients from servers, the number is its `id`.
fn client_ptr(id: u64) -> String {
    format!("c{id}")
}

fn server_ptr(id: u64) -> String {
    format!("s{id}")
}

/// All server connections, each with its pool if it has one.
fn conn_infos(admin_state: &AdminState) -> Vec<(Option<Arc<Pool>>, Arc<ConnInfo>)> {
    let pools = admin_state.shared.pools.with_former();
    let pooled = pools
        .iter()
        .flat_map(|pool| pool.conn_infos.all().into_iter().map(|conn_info| (Some(Arc::clone(pool)), conn_info)));
    let dedicated = admin_state.shared.server_side.dedicated.all();
    pooled.chain(dedicated.into_iter().map(|conn_info| (None, conn_info))).collect()
}

pub(super) async fn clients(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let sessions = admin_state.shared.sessions.with_addrs().await;
    let links: BTreeMap<u64, u64> =
        conn_infos(admin_state).iter().filter_map(|(_, conn_info)| Some((conn_info.client()?, conn_info.id))).collect();
    sessions.iter().map(|session| client(session, links.get(&session.id).copied())).collect()
}

fn client(session: &SessionHandle, server_conn: Option<u64>) -> Vec<Cell> {
    let snapshot = session.snapshot();
    let waited = match snapshot.activity {
        Activity::Waiting => snapshot.requested.map_or(Duration::ZERO, |since| since.elapsed()),
        _ => Duration::ZERO,
    };
    let state = match (snapshot.activity, server_conn) {
        (Activity::Waiting, _) => "waiting",
        (Activity::Idle, None) => "idle",
        _ => "active",
    };
    let addrs = session.addrs();
    let port = addrs.and_then(|addrs| addrs.socket_port).unwrap_or_default();
    let (address, port, pid) = match addrs.map(|addrs| addrs.peer) {
        Some(Peer::Tcp(address)) => (address.ip().to_string(), address.port(), None),
        Some(Peer::Unix { pid, .. }) => ("unix".to_owned(), port, pid),
        None => ("unix".to_owned(), port, None),
    };
    let local = addrs.and_then(|addrs| addrs.local);
    vec![
        "C".into(),
        name(session.target.user()).into(),
        name(session.target.database()).into(),
        session.target.replication().name().into(),
        state.into(),
        address.into(),
        u32::from(port).into(),
        local.map_or_else(|| "unix".to_owned(), |local| local.ip().to_string()).into(),
        u32::from(local.map_or(port, |local| local.port())).into(),
        at(session.connected_at).into(),
        at(snapshot.requested.unwrap_or(session.connected_at)).into(),
        waited.as_secs().into(),
        waited.subsec_micros().into(),
        session.is_killed().into(),
        client_ptr(session.id).into(),
        server_conn.map_or_else(String::new, server_ptr).into(),
        pid.map_or(0, i32::unsigned_abs).into(),
        addrs.and_then(|addrs| addrs.tls.clone()).unwrap_or_default().into(),
        snapshot.application_name.into(),
        snapshot.prepared.into(),
        session.id.into(),
    ]
}

pub(super) fn servers(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let sessions: BTreeMap<u64, Arc<SessionHandle>> =
        admin_state.shared.sessions.all().into_iter().map(|session| (session.id, session)).collect();
    let server = |(pool, conn_info): &(Option<Arc<Pool>>, Arc<ConnInfo>)| {
        let client = conn_info.client().and_then(|id| sessions.get(&id));
        let target = match (pool, client) {
            (Some(pool), _) => SessionTarget::Pool(Arc::clone(pool)),
            // Its client is just going.
            (None, None) => return None,
            (None, Some(client)) => client.target.clone(),
        };
        let snapshot = client.map(|client| client.snapshot());
        let (address, port) = match &conn_info.remote {
            Address::Tcp(address) => (address.ip().to_string(), address.port()),
            Address::Unix(_) => ("unix".to_owned(), 0),
        };
        let state = if !conn_info.gate.is_open() {
            "being_canceled"
        } else if client.is_some() {
            "active"
        } else {
            "idle"
        };
        let requested = snapshot.as_ref().and_then(|snapshot| snapshot.requested);
        Some(vec![
            "S".into(),
            name(target.user()).into(),
            name(target.database()).into(),
            target.replication().name().into(),
            state.into(),
            address.into(),
            u32::from(port).into(),
            conn_info.local.map_or_else(|| "unix".to_owned(), |local| local.ip().to_string()).into(),
            u32::from(conn_info.local.map_or(0, |local| local.port())).into(),
            date(conn_info.opened).into(),
            requested.map_or_else(|| date(conn_info.opened), at).into(),
            Cell::Number(0),
            Cell::Number(0),
            pool.as_ref().is_some_and(|pool| pool.must_close(conn_info)).into(),
            server_ptr(conn_info.id).into(),
            client.map_or_else(String::new, |client| client_ptr(client.id)).into(),
            conn_info.pid.unsigned_abs().into(),
            conn_info.tls.clone().unwrap_or_default().into(),
            snapshot.map_or_else(String::new, |snapshot| snapshot.application_name).into(),
            conn_info.prepared().into(),
            conn_info.id.into(),
        ])
    };
    conn_infos(admin_state).iter().filter_map(server).collect()
}

pub(super) async fn all_sockets(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let mut rows = clients(admin_state).await;
    rows.extend(servers(admin_state));
    for row in &mut rows {
        // PgBouncer says cl_active, sv_idle here.
        let prefix = if row[0] == "C".into() { "cl" } else { "sv" };
        if let Cell::Text(state) = &mut row[4] {
            state.insert_str(0, &format!("{prefix}_"));
        }
        row.extend(POSITIONS.iter().map(|_| Cell::Number(0)));
    }
    rows
}

pub(super) async fn all_active_sockets(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let mut rows = all_sockets(admin_state).await;
    rows.retain(|row| row[4] == "cl_active".into() || row[4] == "sv_active".into());
    rows
}

/// Time at which a moment was, by the clock on the wall.
fn at(moment: Instant) -> String {
    date(SystemTime::now() - moment.elapsed())
}

/// As PgBouncer writes it, in UTC.
fn date(moment: SystemTime) -> String {
    // Only a clock that is millennia off has no date.
    let seconds = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let date = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let Some(date) = date else { return String::new() };
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", date.hour(), date.minute(), date.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let date = |seconds| date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_785_456_789), "2026-07-31 00:13:09 UTC");
    }
}
