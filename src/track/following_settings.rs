//! A set of the settings that follow a client by their reported values.

use super::params::{self, FOLLOWING};

/// Some of the settings in [`FOLLOWING`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FollowingSettings(u8);

const _: () = assert!(FOLLOWING.len() <= u8::BITS as usize, "each has a bit");

impl FollowingSettings {
    /// All of them.
    pub const ALL: Self = Self((1 << FOLLOWING.len()) - 1);

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Returns whether `name` is one of them.
    #[must_use]
    pub fn contains(self, name: &str) -> bool {
        params::number_of(name.as_bytes()).is_some_and(|number| self.0 & (1 << number) != 0)
    }

    /// Adds `name`, if that is a setting of this kind.
    pub fn insert(&mut self, name: &str) {
        if let Some(number) = params::number_of(name.as_bytes()) {
            self.0 |= 1 << number;
        }
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: &str) {
        if let Some(number) = params::number_of(name.as_bytes()) {
            self.0 &= !(1 << number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_in_it_or_not() {
        let mut some = FollowingSettings::default();
        assert!(some.is_empty() && !some.contains("TimeZone"));
        some.insert("TimeZone");
        some.insert("work_mem");
        assert!(some.contains("timezone") && !some.contains("DateStyle") && !some.contains("work_mem"));
        assert_eq!(FOLLOWING.iter().filter(|name| FollowingSettings::ALL.contains(name)).count(), FOLLOWING.len());
        some.remove("timezone");
        assert!(some.is_empty());
    }
}
