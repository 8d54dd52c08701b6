//! The settings that the client's statements set in a piece of work, as far as their texts tell.

use crate::track::SqlEffects;
use crate::track::session_command::SessionCommand;
use crate::track::unknown_settings::UnknownSettings;

/// The settings that the client's statements set in a piece of work.
#[derive(Debug, Default)]
pub(super) struct AnnouncedSettings {
    names: Vec<Box<[u8]>>,
    others: OtherSettings,
    /// Settings of which the server was asked for the origins.
    looked_into: Vec<&'static str>,
}

/// Settings beyond those that are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OtherSettings {
    #[default]
    Untouched,
    /// There is no telling which.
    Perhaps,
}

impl AnnouncedSettings {
    /// Adds settings.
    pub(super) fn add<'n>(&mut self, names: impl Iterator<Item = &'n [u8]>) {
        self.names.extend(names.map(Box::from));
    }

    /// Notes that the server is asked where the values of these come from.
    pub(super) fn looked_into(&mut self, names: Vec<&'static str>) {
        self.add(names.iter().map(|name| name.as_bytes()));
        self.looked_into.extend(names);
    }

    /// Returns whether the server was asked where the value of `name` comes from.
    pub(super) fn is_looked_into(&self, name: &str) -> bool {
        self.looked_into.contains(&name)
    }

    /// Returns whether a statement is known to set `name`, in any case.
    pub(super) fn names(&self, name: &[u8]) -> bool {
        self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Returns whether some statement may have set settings that are not named.
    pub(super) fn may_be_others(&self) -> bool {
        self.others == OtherSettings::Perhaps
    }

    /// Returns whether the client's statements set nothing.
    pub(super) fn is_nothing(&self) -> bool {
        self.names.is_empty() && self.others == OtherSettings::Untouched
    }

    /// Adds what a text sets.
    pub(super) fn note(&mut self, effects: &SqlEffects) {
        // Whatever was found out before, it may change again.
        self.looked_into.clear();
        if !matches!(effects.unknown_settings, UnknownSettings::None | UnknownSettings::Named) {
            self.others = OtherSettings::Perhaps;
        }
        self.add(effects.named_settings.iter().map(|name| &**name));
        for placed in effects.commands.iter().flat_map(|commands| commands.iter()) {
            match &placed.command {
                SessionCommand::Set { name, .. }
                | SessionCommand::SetLocal { name, .. }
                | SessionCommand::Reset { name }
                | SessionCommand::ResetLocal { name, .. }
                | SessionCommand::UnknownSet { name: Some(name) } => self.add(std::iter::once(&**name)),
                SessionCommand::SetCharacteristics { sets } => self.add(sets.iter().map(|(name, _)| &**name)),
                SessionCommand::ResetAll | SessionCommand::DiscardAll | SessionCommand::UnknownSet { name: None } => {
                    self.others = OtherSettings::Perhaps;
                }
                _ => {}
            }
        }
    }
}
