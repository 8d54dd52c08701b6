//! What the `[users]` table says of one user: a secret, limits, or both.

use super::value::number;

/// The fields of a `[users.NAME]` table.
pub(super) const FIELDS: [&str; 4] = ["password", "pool_size", "max_user_client_connections", "max_user_connections"];

/// Entry of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserEntry {
    /// Its secret.
    pub secret: Option<String>,
    /// Its limits.
    pub limits: Limits,
}

/// The limits of one user; what is not set is not limited for its sake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most upstream connections of each of its pools.
    pub pool_size: Option<usize>,
    /// Most clients at a time.
    pub max_user_client_connections: Option<usize>,
    /// Most upstream connections over all of its pools.
    pub max_user_connections: Option<usize>,
}

impl Limits {
    /// Sets the limit called `name`.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = Some(number(value, 1, 1_000_000)?);
        match name {
            "pool_size" => self.pool_size = number,
            "max_user_client_connections" => self.max_user_client_connections = number,
            _ => self.max_user_connections = number,
        }
        Ok(())
    }
}
