//! What can be shown: PgBouncer's tables, column for column, since people's tools read them by name and type; and our own.
//!
//! Columns and types are those of PgBouncer 1.25 (`src/admin.c`, `src/stats.c`).

mod code;
mod databases;
mod empty;
mod pgferry;
mod pools;
mod sessions;
mod settings;
mod stats;

use crate::admin::AdminState;
use crate::admin::table::Table;

macro_rules! shows {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// A table.
        #[allow(missing_docs, reason = "each is the SHOW of the same name")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Show { $($variant),+ }

        impl Show {
            /// Every table and its name.
            pub(crate) const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, $name)),+];
        }
    };
}

shows! {
    Capacity = "capacity",
    Clients = "clients",
    Code = "code",
    Config = "config",
    Databases = "databases",
    DnsHosts = "dns_hosts",
    DnsZones = "dns_zones",
    Lists = "lists",
    Logins = "logins",
    Mem = "mem",
    PeerPools = "peer_pools",
    Peers = "peers",
    Pins = "pins",
    Pools = "pools",
    Ports = "ports",
    Servers = "servers",
    Sockets = "sockets",
    ActiveSockets = "active_sockets",
    State = "state",
    Stats = "stats",
    StatsAverages = "stats_averages",
    StatsTotals = "stats_totals",
    Totals = "totals",
    Users = "users",
    Version = "version",
}

impl Show {
    /// The table called `name`.
    #[must_use]
    pub(crate) fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(show, _)| *show)
    }

    /// All names, as help shows them.
    #[must_use]
    pub(crate) fn list() -> String {
        Self::ALL.iter().map(|(_, name)| name.to_uppercase()).collect::<Vec<_>>().join("|")
    }

    /// The table's columns, without a row.
    #[must_use]
    pub(crate) fn empty(self) -> Table {
        match self {
            Self::Clients | Self::Servers => Table::new(&sessions::COLUMNS),
            Self::Sockets | Self::ActiveSockets => sessions::sockets(),
            Self::Config => Table::new(&settings::CONFIG),
            Self::Databases => Table::new(&databases::DATABASES),
            Self::Users => Table::new(&databases::USERS),
            Self::DnsHosts => Table::new(&settings::DNS_HOSTS),
            Self::DnsZones => Table::new(&empty::DNS_ZONES),
            Self::Lists => Table::new(&settings::LISTS),
            Self::Mem => Table::new(&settings::MEM),
            Self::PeerPools => Table::new(&empty::PEER_POOLS),
            Self::Peers => Table::new(&empty::PEERS),
            Self::State => Table::new(&settings::STATE),
            Self::Version => Table::new(&settings::VERSION),
            Self::Pools => Table::new(&pools::POOLS),
            Self::Stats => stats::stats(),
            Self::StatsTotals => stats::totals(),
            Self::StatsAverages => stats::averages(),
            Self::Totals => Table::new(&stats::TOTALS),
            Self::Capacity => Table::new(&pgferry::CAPACITY),
            Self::Code => Table::new(&code::CODE),
            Self::Ports => Table::new(&pgferry::PORTS),
            Self::Pins => Table::new(&pgferry::PINS),
            Self::Logins => Table::new(&pgferry::LOGINS),
        }
    }

    /// The table as it is now.
    pub(crate) async fn table(self, admin_state: &AdminState) -> Table {
        let mut table = self.empty();
        table.rows = match self {
            Self::Clients => sessions::clients(admin_state).await,
            Self::Servers => sessions::servers(admin_state),
            Self::Sockets => sessions::all_sockets(admin_state).await,
            Self::ActiveSockets => sessions::all_active_sockets(admin_state).await,
            Self::Config => settings::config(admin_state),
            Self::Databases => databases::databases(admin_state),
            Self::Users => databases::users(admin_state),
            Self::DnsHosts => settings::dns_hosts(admin_state),
            Self::Lists => settings::lists(admin_state),
            Self::Mem => settings::mem(admin_state),
            Self::DnsZones | Self::PeerPools | Self::Peers => Vec::new(),
            Self::State => settings::state(admin_state),
            Self::Version => settings::version(),
            Self::Pools => pools::pools(admin_state),
            Self::Stats => stats::stats_rows(admin_state),
            Self::StatsTotals => stats::totals_rows(admin_state),
            Self::StatsAverages => stats::averages_rows(admin_state),
            Self::Totals => stats::sums(admin_state),
            Self::Capacity => pgferry::capacity(admin_state),
            Self::Code => code::code(admin_state),
            Self::Ports => pgferry::ports(admin_state).await,
            Self::Pins => pgferry::pins(admin_state),
            Self::Logins => pgferry::logins(admin_state),
        };
        table
    }
}

/// A name as text.
fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_name_and_columns() {
        for (show, name) in Show::ALL {
            assert_eq!(Show::find(name), Some(*show));
            assert!(!show.empty().columns.is_empty(), "{name}");
        }
        assert_eq!(Show::find("nothing"), None);
    }
}
