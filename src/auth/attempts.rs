//! Wrong answers to logins, by where they come from: how fast more of them are checked, and how long their replies take.
//!
//! They are counted by source and not by the name that a client gives, so that a source that guesses slows down itself
//! alone. Nothing here refuses an answer before it was checked: the right one is let in, however many wrong ones came.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::Bucket;

/// Wrong answers of one source that are checked at once.
const CHECK_BURST: u32 = 100;

/// Time per check after that.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Wrong answers of one source that are replied to without a delay.
const REPLY_BURST: u32 = 5;

/// Growth of the delay with every wrong answer after that.
const REPLY_INTERVAL: Duration = Duration::from_secs(1);

/// Longest delay of the reply to a wrong answer.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Bits of an IPv6 address that tell sources apart: a host has a network of that size to itself.
const NETWORK_BITS: u32 = 64;

/// The peer that login attempts and cancel requests are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A user of this machine, on a unix socket.
    Uid(u32),
    /// An address, on TCP: of IPv6 the network.
    Address(IpAddr),
    /// A peer that was gone before it could be looked at.
    Gone,
}

impl Source {
    /// The source that an address belongs to.
    #[must_use]
    pub(crate) fn of_address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - NETWORK_BITS))).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Address(IpAddr::V6(network)) => write!(f, "address {network}/{NETWORK_BITS}"),
            Self::Address(address) => write!(f, "address {address}"),
            Self::Gone => f.write_str("a peer that is gone"),
        }
    }
}

/// The wrong answers of one source.
#[derive(Debug)]
pub(crate) struct WrongAnswers {
    checks: Bucket,
    replies: Bucket,
}

impl WrongAnswers {
    /// None so far.
    #[must_use]
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            checks: Bucket::new(CHECK_BURST, CHECK_INTERVAL, now),
            replies: Bucket::new(REPLY_BURST, REPLY_INTERVAL, now),
        }
    }

    /// Time until the next answer may be checked.
    #[must_use]
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.checks.wait(now)
    }

    /// Counts an attempt that was not accepted.
    pub(crate) fn count(&mut self, now: Instant) {
        self.checks.spend(now);
    }

    /// Delay of the reply to a wrong answer, at most `longest`.
    pub(crate) fn delay(&mut self, now: Instant, longest: Duration) -> Duration {
        let longest = longest.min(LONGEST_DELAY);
        self.replies.take(now, longest).unwrap_or(longest)
    }

    /// Returns whether they are so long ago that they make no difference any more.
    #[must_use]
    pub(crate) fn are_forgiven(&self, now: Instant) -> bool {
        self.checks.is_full(now) && self.replies.is_full(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_take_longer_and_checks_slow_down() {
        let start = Instant::now();
        let mut wrong = WrongAnswers::new(start);
        let delays: Vec<_> = (0..12).map(|_| wrong.delay(start, Duration::from_secs(60)).as_secs()).collect();
        assert_eq!(delays, [0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 5]);
        assert_eq!(wrong.delay(start, Duration::from_secs(2)), Duration::from_secs(2), "the client's time is short");
        for _ in 0..CHECK_BURST {
            assert_eq!(wrong.wait(start), Duration::ZERO);
            wrong.count(start);
        }
        assert_eq!(wrong.wait(start), CHECK_INTERVAL);
        assert!(!wrong.are_forgiven(start + LONGEST_DELAY));
        assert!(wrong.are_forgiven(start + Duration::from_secs(60)));
    }

    #[test]
    fn sources_are_told_apart_by_what_a_peer_can_not_choose() {
        let of = |text: &str| Source::of_address(text.parse().expect("an address"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:3:4:5"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("2001:db8::1").to_string(), "address 2001:db8::/64");
        assert_eq!(Source::Uid(33).to_string(), "uid 33");
    }
}
