//! The named statements of a client that reset settings, of which the texts are not kept: all in session mode, where others are the server's
//! business.

use crate::track::client_statements::significant;
use crate::track::session_command::Commands;

/// Number of statements that are remembered.
const MAX_STATEMENTS: usize = 1024;

/// The statements, by name, with their commands. A name that has been freed may be there still, until it is given again:
/// nothing can be bound to it.
#[derive(Debug, Default)]
pub(super) struct Resetting {
    statements: Vec<(Box<[u8]>, Commands)>,
}

impl Resetting {
    /// The commands that running `name` runs, if they reset settings.
    pub(super) fn get(&self, name: &[u8]) -> Option<Commands> {
        let statement = self.statements.iter().find(|(known, _)| **known == *significant(name));
        statement.map(|(_, commands)| commands.clone())
    }

    /// Returns whether there is room for one more of this name.
    pub(super) fn has_room_for(&self, name: &[u8]) -> bool {
        self.statements.len() < MAX_STATEMENTS || self.get(name).is_some()
    }

    /// Lets `name` stand for a statement that runs `commands`, or for one that resets nothing. Returns what it stood for.
    pub(super) fn set(&mut self, name: &[u8], commands: Option<Commands>) -> Option<Commands> {
        let before = self.get(name);
        if before.is_some() {
            self.statements.retain(|(known, _)| **known != *significant(name));
        }
        self.statements.extend(commands.map(|commands| (significant(name).into(), commands)));
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_what_they_were_given_last() {
        let mut resetting = Resetting::default();
        let commands = Commands::from([]);
        let long = [b'x'; 70];
        assert!(resetting.set(&long, Some(commands.clone())).is_none());
        assert!(resetting.get(&long[..63]).is_some(), "as PostgreSQL compares them");
        assert!(resetting.set(&long[..65], None).is_some() && resetting.get(&long).is_none());
        for nth in 0..MAX_STATEMENTS {
            assert!(resetting.has_room_for(b"new"));
            resetting.set(nth.to_string().as_bytes(), Some(commands.clone()));
        }
        assert!(!resetting.has_room_for(b"new") && resetting.has_room_for(b"7"));
    }
}
