//! SHOW CLIENTS, SERVERS and SOCKETS: every connection, one row each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use x509_cert::der::DateTime;

use super::name;
use crate::admin::Desk;
use crate::admin::table::{Cell, Table, Type};
use crate::client::control::{Activity, Control};
use crate::net::Peer;
use crate::upstream::Pool;
use crate::upstream::card::Card;
use crate::upstream::route::Address;

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

/// What SOCKETS shows besides: nothing is ever held back in PgBouncer's sense.
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

/// Every upstream connection, and whose pool's it is.
fn cards(desk: &Desk) -> Vec<(Arc<Pool>, Arc<Card>)> {
    let pools = desk.shared.registry.all_pools();
    pools.iter().flat_map(|pool| pool.cards.all().into_iter().map(|card| (Arc::clone(pool), card))).collect()
}

pub(super) async fn clients(desk: &Desk) -> Vec<Vec<Cell>> {
    let sessions = desk.shared.sessions.introduced().await;
    let links: BTreeMap<u64, u64> =
        cards(desk).iter().filter_map(|(_, card)| Some((card.client()?, card.id))).collect();
    sessions.iter().map(|session| client(session, links.get(&session.id).copied())).collect()
}

fn client(session: &Control, link: Option<u64>) -> Vec<Cell> {
    let glance = session.glance();
    let waited = match glance.activity {
        Activity::Waiting => glance.requested.map_or(Duration::ZERO, |since| since.elapsed()),
        _ => Duration::ZERO,
    };
    let state = match (glance.activity, link) {
        (Activity::Waiting, _) => "waiting",
        (Activity::Idle, None) => "idle",
        _ => "active",
    };
    let ends = session.ends();
    let port = ends.and_then(|ends| ends.socket_port).unwrap_or_default();
    let (address, port, pid) = match ends.map(|ends| ends.peer) {
        Some(Peer::Tcp(address)) => (address.ip().to_string(), address.port(), None),
        Some(Peer::Unix { pid, .. }) => ("unix".to_owned(), port, pid),
        None => ("unix".to_owned(), port, None),
    };
    let local = ends.and_then(|ends| ends.local);
    vec![
        "C".into(),
        name(session.whose.user()).into(),
        name(session.whose.database()).into(),
        if session.whose.is_replication() { "database" } else { "none" }.into(),
        state.into(),
        address.into(),
        u32::from(port).into(),
        local.map_or_else(|| "unix".to_owned(), |local| local.ip().to_string()).into(),
        u32::from(local.map_or(port, |local| local.port())).into(),
        at(session.came).into(),
        at(glance.requested.unwrap_or(session.came)).into(),
        waited.as_secs().into(),
        waited.subsec_micros().into(),
        session.is_killed().into(),
        client_ptr(session.id).into(),
        link.map_or_else(String::new, server_ptr).into(),
        pid.map_or(0, i32::unsigned_abs).into(),
        ends.and_then(|ends| ends.tls.clone()).unwrap_or_default().into(),
        glance.application_name.into(),
        glance.prepared.into(),
        session.id.into(),
    ]
}

pub(super) fn servers(desk: &Desk) -> Vec<Vec<Cell>> {
    let sessions: BTreeMap<u64, Arc<Control>> =
        desk.shared.sessions.all().into_iter().map(|session| (session.id, session)).collect();
    let server = |(pool, card): &(Arc<Pool>, Arc<Card>)| {
        let client = card.client().and_then(|id| sessions.get(&id));
        let glance = client.map(|client| client.glance());
        let (address, port) = match &card.remote {
            Address::Tcp(address) => (address.ip().to_string(), address.port()),
            Address::Unix(_) => ("unix".to_owned(), 0),
        };
        let state = if !card.gate.is_open() {
            "being_canceled"
        } else if client.is_some() {
            "active"
        } else {
            "idle"
        };
        let requested = glance.as_ref().and_then(|glance| glance.requested);
        vec![
            "S".into(),
            name(&pool.key.user).into(),
            name(&pool.key.database).into(),
            "none".into(),
            state.into(),
            address.into(),
            u32::from(port).into(),
            card.local.map_or_else(|| "unix".to_owned(), |local| local.ip().to_string()).into(),
            u32::from(card.local.map_or(0, |local| local.port())).into(),
            date(card.opened).into(),
            requested.map_or_else(|| date(card.opened), at).into(),
            Cell::Number(0),
            Cell::Number(0),
            pool.must_close(card).into(),
            server_ptr(card.id).into(),
            client.map_or_else(String::new, |client| client_ptr(client.id)).into(),
            card.pid.unsigned_abs().into(),
            card.tls.clone().unwrap_or_default().into(),
            glance.map_or_else(String::new, |glance| glance.application_name).into(),
            card.prepared().into(),
            card.id.into(),
        ]
    };
    cards(desk).iter().map(server).collect()
}

pub(super) async fn all_sockets(desk: &Desk, active: bool) -> Vec<Vec<Cell>> {
    let mut rows = clients(desk).await;
    rows.extend(servers(desk));
    for row in &mut rows {
        // PgBouncer says cl_active, sv_idle here.
        let prefix = if row[0] == "C".into() { "cl" } else { "sv" };
        if let Cell::Text(state) = &mut row[4] {
            state.insert_str(0, &format!("{prefix}_"));
        }
        row.extend(POSITIONS.iter().map(|_| Cell::Number(0)));
    }
    if active {
        rows.retain(|row| row[4] == "cl_active".into() || row[4] == "sv_active".into());
    }
    rows
}

/// When a moment was, by the clock on the wall.
fn at(moment: Instant) -> String {
    date(SystemTime::now() - moment.elapsed())
}

/// As PgBouncer writes it, in UTC.
fn date(moment: SystemTime) -> String {
    // Only a clock that is centuries off has no date.
    let Ok(date) = DateTime::from_system_time(moment) else { return String::new() };
    let (year, month, day) = (date.year(), date.month(), date.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", date.hour(), date.minutes(), date.seconds())
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
