//! A hash of numbers that are pgferry's own or PostgreSQL's, which no client can choose to collide.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// Makes [`NumberHasher`]s for a map.
pub(crate) type NumberHash = BuildHasherDefault<NumberHasher>;

/// Numbers.
pub(crate) type NumberSet = HashSet<u64, NumberHash>;

/// Spreads consecutive numbers over a table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_i32(&mut self, number: i32) {
        self.write_u64(u64::from(number.cast_unsigned()));
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio: the upper bits, by which a table tells its entries apart, differ as well as the lower ones.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(32);
    }
}
