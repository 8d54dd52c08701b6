//! What a pool asks of the others, which share its server and the process's connections.

use std::fmt::Debug;
use std::sync::Arc;

use super::Pool;
use crate::upstream::capacity::Prospect;
use crate::upstream::dial::DialError;
use crate::upstream::occupancy::Occupancy;
use crate::upstream::role_auth::RoleAuth;
use crate::upstream::target::UpstreamTarget;

/// Pools that can make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Among {
    /// All that share the process's connections.
    All,
    /// Pools of the same role, which has a limit of its own.
    SameRole,
}

/// The other pools, as one of them sees them.
pub(in crate::upstream) trait Neighbours: Debug + Send + Sync {
    /// Has a connection of another pool closed that no client uses, since `pool` finds no slot.
    fn make_room(&self, pool: &Pool, among: Among) -> Prospect;

    /// Has the pools open connections in which clients wait, since a slot or a connection came free.
    fn open_for_waiting(&self);

    /// The server has refused a connection of `pool` because it has none left: has one of another pool closed.
    fn server_is_full(&self, pool: &Pool, error: &DialError);

    /// Notes how full the server at `upstream_target` is, as a connection that has just been opened has shown.
    fn learn(&self, upstream_target: &Arc<UpstreamTarget>, seen: Occupancy);

    /// The upstream lets the user of `role_auth` in no more, as `error` shows: its connections are closed as they come free.
    fn deny(&self, role_auth: &Arc<RoleAuth>, error: &DialError);
}
