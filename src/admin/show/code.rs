//! SHOW CODE: what the code in databases may leave in sessions.

use std::collections::BTreeMap;

use super::name;
use crate::admin::AdminState;
use crate::admin::table::{Cell, Type};
use crate::config::Reset;
use crate::upstream::session_code;
use crate::upstream::target::Address;

pub(super) const CODE: [(&str, Type); 4] =
    [("server", Type::Text), ("database", Type::Text), ("leaves", Type::Text), ("because", Type::Text)];

/// By server and database, of those to which there are connections, where that decides about resets.
pub(super) fn code(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let mut known = BTreeMap::new();
    for pool in admin_state.shared.pools.all() {
        if admin_state.shared.settings_of(&pool.key.database).pool.reset == Reset::Auto {
            for conn_info in pool.conn_infos.all() {
                let server = match &conn_info.remote {
                    Address::Tcp(address) => address.to_string(),
                    Address::Unix(path) => path.display().to_string(),
                };
                let place = (server, name(&pool.key.database));
                known.insert(place, session_code::describe(&conn_info.code));
            }
        }
    }
    let row = |((server, database), (leaves, because)): ((String, String), (&str, String))| {
        vec![server.into(), database.into(), leaves.into(), because.into()]
    };
    known.into_iter().map(row).collect()
}
