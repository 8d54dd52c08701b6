//! PgBouncer's tables of what pgferry has none of (`peer_id`, DNS zones), for tools that read them all.

use crate::admin::table::Type;

pub(super) const PEERS: [(&str, Type); 4] =
    [("peer_id", Type::Int), ("host", Type::Text), ("port", Type::Int), ("pool_size", Type::Int)];

pub(super) const PEER_POOLS: [(&str, Type); 5] = [
    ("peer_id", Type::Int),
    ("cl_active_cancel_req", Type::Int),
    ("cl_waiting_cancel_req", Type::Int),
    ("sv_active_cancel", Type::Int),
    ("sv_login", Type::Int),
];

pub(super) const DNS_ZONES: [(&str, Type); 3] = [("zonename", Type::Text), ("serial", Type::Big), ("count", Type::Int)];
