//! Portals, of which it is known what they were made of: running one runs the commands of its statement, and describing one
//! tells the columns of that.

use std::sync::Arc;

use super::Machine;
use crate::track::Pins;
use crate::track::client_statements::significant;
use crate::track::pipeline::Describes;
use crate::track::session_command::Commands;
use crate::track::sql_effects::TransactionFate;

/// Number of portals that are remembered at a time.
const MAX_PORTALS: usize = 1024;

/// Origin of a portal.
#[derive(Debug)]
pub(super) struct Portal {
    pub(super) name: Box<[u8]>,
    /// The commands that running it runs.
    pub(super) commands: Option<Commands>,
    /// Fate of the transaction in which it is run.
    pub(super) transaction: TransactionFate,
    /// The statement; `None` where it is not the client's, or its columns are known.
    pub(super) of: Option<PortalOf>,
}

/// The statement that a portal was made of.
#[derive(Debug)]
pub(super) struct PortalOf {
    /// The client's name for it; empty for the unnamed one.
    pub(super) name: Arc<[u8]>,
    /// The number of what the client means.
    pub(super) statement: u64,
    /// The number of what stands for it on the connection.
    pub(super) server: u64,
}

impl Portal {
    /// Returns whether it is what PostgreSQL finds by `name` (`MAX_PORTALNAME_LEN` in `src/backend/utils/mmgr/portalmem.c`).
    fn is_named(&self, name: &[u8]) -> bool {
        significant(&self.name) == significant(name)
    }
}

impl Machine<'_> {
    /// Notes what a portal is made of. Of its name no more is kept than is compared.
    pub(super) fn set_portal(&mut self, portal: Portal) {
        let portal = Portal { name: significant(&portal.name).into(), ..portal };
        self.portals.retain(|known| !known.is_named(&portal.name));
        if self.portals.len() >= MAX_PORTALS {
            if self.portals.iter().any(|portal| portal.commands.is_some()) {
                self.pins.insert(Pins::SETTING);
            }
            self.portals.clear();
        }
        self.portals.push(portal);
    }

    /// Returns the statement of which a `Describe` of a portal gives the columns.
    pub(super) fn describes_portal(&self, portal: &[u8]) -> Option<Describes> {
        let of = self.portals.iter().find(|known| known.is_named(portal))?.of.as_ref()?;
        Some(Describes { server: of.server, client: Some((Arc::clone(&of.name), of.statement)) })
    }

    /// The commands that running a portal runs, where that is known, and what becomes of the transaction. One that resets settings runs
    /// once (`PortalRun` in `src/backend/tcop/pquery.c`): what is run by its name then is a cursor of SQL's.
    pub(super) fn run_by_portal(&mut self, portal: &[u8]) -> (Option<Commands>, TransactionFate) {
        let Some(portal) = self.portals.iter_mut().find(|known| known.is_named(portal)) else {
            return Default::default();
        };
        let resets = |commands: &Commands| commands.iter().any(|placed| placed.command.resets());
        let commands = portal.commands.clone();
        portal.commands.take_if(|commands| resets(commands));
        (commands, portal.transaction)
    }
}
