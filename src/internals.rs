//! The items that tests, benchmarks and fuzz targets use, by the module that they are from.

/// The checks of the fuzz targets.
pub mod fuzz {
    pub use crate::fuzz::{
        certificate, code, config, console, frames, hba, http, ini, login, machine, messages, options, pgpass, scram,
        secrets, sql, startup, takeover, url, users,
    };
}

/// The command line.
pub mod cli {
    pub use crate::cli::definition;
}

/// Passwords.
pub mod auth {
    pub use crate::auth::secret::{Password, ProcessKey};
    pub use crate::auth::verified::Verified;

    /// Password files.
    pub mod pgpass {
        pub use crate::auth::pgpass::{PassfileKey, look_up};
    }
}

/// Storage for what is under way.
pub mod buffer {
    pub use crate::buffer::{Buffer, BufferPool};
}

/// The configuration.
pub mod config {
    pub use crate::config::address::SocketPorts;
    pub use crate::config::encryption::SslMode;
    pub use crate::config::error::ConfigError;
    pub use crate::config::settings::Settings;
    pub use crate::config::source::RawConfig;
    pub use crate::config::url::Host;
    pub use crate::config::value::{Auth, Mode, Pin, Reset};

    /// The table of settings.
    pub mod keys {
        pub use crate::config::keys::{KEYS, find};
    }

    /// The upstream's address.
    pub mod url {
        pub use crate::config::url::Upstream;
    }

    /// Single values.
    pub mod value {
        pub use crate::config::value::duration;
    }
}

/// The findings of `pgferry doctor`.
pub mod doctor {
    pub use crate::doctor::diagnosis::diagnose;
    pub use crate::doctor::facts::Facts;
    pub use crate::doctor::finding::Level;

    /// Facts about the host.
    pub mod facts {
        pub use crate::doctor::facts::{Pool, Upstream};
    }

    /// The kernel's settings.
    pub mod kernel {
        pub use crate::doctor::kernel::{Kernel, Paths};
    }

    /// The findings as text.
    pub mod report {
        pub use crate::doctor::report::text;
    }

    /// The host's sockets.
    pub mod sockets {
        pub use crate::doctor::sockets::{State, all, by_state};
    }
}

/// Errors for clients.
pub mod error {
    pub use crate::error::{ClientError, ErrorSource, Severity};

    /// SQLSTATEs.
    pub mod sqlstate {
        pub use crate::error::sqlstate::{CONNECTION_FAILURE, QUERY_CANCELED, TOO_MANY_CONNECTIONS};
    }
}

/// The protocol logic of one client on one server connection.
pub mod machine {
    pub use crate::machine::{Buffers, Context, End, Flush, Machine, MachineResult, Next};

    /// The next message of a client without a connection.
    pub mod first_request {
        pub use crate::machine::first_request::{FirstRequest, first_request};
    }

    /// Requests for which no machine is made.
    pub mod plain_request {
        pub use crate::machine::plain_request::{PlainProgress, PlainRequest};
    }

    /// The messages in front of a client's first one.
    pub mod preparation {
        pub use crate::machine::preparation::{Liveness, Preparation, ResetPolicy};
    }

    /// Refused requests.
    pub mod refusal {
        pub use crate::machine::refusal::{Refusal, Step};
    }
}

/// The state of clients and of server connections.
pub mod track {
    pub use crate::track::{
        Clean, ClientState, Lexis, Pins, Pipeline, Request, RequestedParams, ResponseAction, ServerParams, ServerState,
        SqlEffects,
    };

    /// Effects of clients on databases and roles.
    pub mod administration {
        pub use crate::track::administration::RoleChange;
    }

    /// Resets that keep prepared statements.
    pub mod keeping_reset {
        pub use crate::track::keeping_reset::KeepingReset;
    }

    /// Requests of pgferry's own.
    pub mod own_requests {
        pub use crate::track::own_requests::{
            Answer, LastRequest, Lost, drop_synthesized, is_read, put_end_of_work, put_query, take_answer,
        };
    }

    /// The settings that a server reports to its clients.
    pub mod parameter_cache {
        pub use crate::track::parameter_cache::{Greeting, ParameterCache};
    }

    /// Startup parameters.
    pub mod params {
        pub use crate::track::params::{FOLLOWING, RawPairs, differences, trial};
    }

    /// The requests that a server owes an answer to.
    pub mod pipeline {
        pub use crate::track::pipeline::Pipeline;
        pub use crate::track::transaction_block::IDLE;
    }

    /// The quick pass over SQL.
    pub mod prefilter {
        pub use crate::track::prefilter::is_stateless;
    }

    /// Requests and their answers.
    pub mod request {
        pub use crate::track::request::{Request, ResponseAction};
    }

    /// The state of a server connection.
    pub mod server_state {
        pub use crate::track::sequences::Sequences;
        pub use crate::track::server_state::{CloseMethod, RESET, UsedBy};
        pub use crate::track::unnamed_statement::UnnamedStatement;
    }

    /// Commands that change a session.
    pub mod session_command {
        pub use crate::track::session_command::{SessionCommand, of_statement};
    }

    /// The analysis of SQL.
    pub mod sql_effects {
        pub use crate::track::sql_effects::analyze;
    }

    /// State that code may leave in sessions.
    pub mod session_code {
        pub use crate::track::session_code::{Answer, Due, Finding, Reach, SessionCode};
    }

    /// Settings of a startup packet that follow their client.
    pub mod startup_settings {
        pub use crate::track::startup_settings::StartupSettings;
    }

    /// Prepared statements.
    pub mod statements {
        pub use crate::track::client_statements::MAX_CLIENT_BYTES;
        pub use crate::track::statement_ids::StatementIds;
        pub use crate::track::statements::{Limits, StatementCache};
    }
}

/// Server connections.
pub mod upstream {
    /// Looks at the code of databases.
    pub mod session_code {
        pub use crate::upstream::session_code::needs_reset;
    }

    /// The limit on their number.
    pub mod slots {
        pub use crate::upstream::slots::Slots;
    }
}

/// The protocol's messages.
pub mod wire {
    pub use crate::wire::frame::{Frames, head};
    pub use crate::wire::startup::Opening;

    /// The server's messages.
    pub mod backend {
        pub use crate::wire::backend::{
            COMMAND_COMPLETE, DATA_ROW, ERROR, NOTICE, NOTIFICATION, PARAMETER_STATUS, READY, ROW_DESCRIPTION,
            command_tag, key_data, parameter_status, put_authentication_ok, put_key_data, put_negotiate, put_ready,
        };
    }

    /// Message boundaries.
    pub mod frame {
        pub use crate::wire::frame::{BACKEND_LIMIT, Frames, HEADER_BYTES, run};
    }

    /// The client's messages.
    pub mod frontend {
        pub use crate::wire::frontend::{
            bind, put_bind, put_copy_fail, put_query, put_startup, put_sync, put_terminate,
        };
    }

    /// The packets that clients begin with.
    pub mod startup {
        pub use crate::wire::startup::{Opening, parse, size};
    }
}

/// Streams.
pub mod net {
    /// TLS towards a server, with which tests are clients.
    pub mod tls {
        pub use crate::net::tls::{Client, ClientOptions, Roots, Version};
    }
}
