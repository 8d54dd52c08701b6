//! The settings that the client's statements set in a piece of work, as far as their texts tell.

use crate::track::session_command::SessionCommand;
use crate::track::unknown_settings::UnknownSettings;
use crate::track::{SqlEffects, params};

/// The settings that the client's statements set in a piece of work, which may set any number.
#[derive(Debug, Default)]
pub(super) struct AnnouncedSettings {
    /// Settings that follow a client, once each.
    following: Vec<&'static str>,
    others: OtherSettings,
    /// Settings of which the server was asked for the origins.
    looked_into: Vec<&'static str>,
    /// Settings that follow a client, of which the server gives another value than before to clients that ask for nothing.
    new_defaults: Vec<&'static str>,
}

/// Settings beyond those that are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OtherSettings {
    #[default]
    Untouched,
    /// Some that do not follow a client.
    Set,
    /// There is no telling which.
    Perhaps,
}

impl AnnouncedSettings {
    /// Adds settings.
    pub(super) fn add<'n>(&mut self, names: impl Iterator<Item = &'n [u8]>) {
        for name in names {
            match params::following(name) {
                Some(known) if self.following.contains(&known) => {}
                Some(known) => self.following.push(known),
                None if self.others == OtherSettings::Untouched => self.others = OtherSettings::Set,
                None => {}
            }
        }
    }

    /// Notes that what the server gives to clients that ask for nothing is another value of `name` than before.
    pub(super) fn note_new_default(&mut self, name: &[u8]) {
        self.new_defaults.extend(params::following(name));
    }

    /// Takes the settings that have new defaults.
    pub(super) fn take_new_defaults(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.new_defaults)
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

    /// Returns whether a statement is known to set `name`, which follows a client.
    pub(super) fn names(&self, name: &str) -> bool {
        self.following.contains(&name)
    }

    /// Returns whether a statement may have set `name`, or reset it.
    pub(super) fn may_have_set(&self, name: &str) -> bool {
        self.names(name) || self.may_be_others()
    }

    /// Returns whether some statement may have set settings that are not named.
    pub(super) fn may_be_others(&self) -> bool {
        self.others == OtherSettings::Perhaps
    }

    /// Returns whether the client's statements set nothing.
    pub(super) fn is_nothing(&self) -> bool {
        self.following.is_empty() && self.others == OtherSettings::Untouched
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
