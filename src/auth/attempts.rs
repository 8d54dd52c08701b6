//! Wrong answers to logins, by where they come from: how fast more of them are checked, and how long their replies take.
//!
//! They are counted by source and not by the name that a client gives, so that a source that guesses slows down itself
//! alone. Nothing here refuses an answer before it was checked: the right one is let in, however many wrong ones came.
//!
//! It is the replies to wrong answers that are slow. A right answer waits only where more wrong ones come than are held back,
//! and then for what it takes to check those in front of it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::Bucket;

/// Wrong answers of one source that are checked at once, in units of [`CHECK_INTERVAL`]'s work.
const CHECK_BURST: u32 = 100;

/// Time per check after that.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// Checks that thousands of rounds of hashing count for: so a source has a quarter of a processor's time.
const HASHING_COST: u32 = 5;

/// Logins of one source that are tried upstream at once and refused there.
const ATTEMPT_BURST: u32 = 100;

/// Time per attempt after that.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(10);

/// Wrong answers of one source that are replied to without a delay.
const REPLY_BURST: u32 = 5;

/// Growth of the delay with every wrong answer after that.
const REPLY_INTERVAL: Duration = Duration::from_secs(1);

/// Longest delay of the reply to a wrong answer, unless so many are held back that they follow one another.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Replies to wrong answers of one source that may go at once.
const RELEASE_BURST: u32 = 100;

/// Time per reply after that: more wrong answers than that don't come from clients that wait for their replies.
const RELEASE_INTERVAL: Duration = Duration::from_millis(10);

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

/// Permission to check an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// A comparison.
    Comparison,
    /// Thousands of rounds of hashing.
    Hashing,
    /// A login upstream.
    Attempt,
}

impl Check {
    fn cost(self) -> u32 {
        match self {
            Self::Comparison | Self::Attempt => 1,
            Self::Hashing => HASHING_COST,
        }
    }
}

/// The wrong answers of one source.
#[derive(Debug)]
pub(crate) struct WrongAnswers {
    checks: Bucket,
    attempts: Bucket,
    replies: Bucket,
    releases: Bucket,
}

impl WrongAnswers {
    /// None so far.
    #[must_use]
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            checks: Bucket::new(CHECK_BURST, CHECK_INTERVAL, now),
            attempts: Bucket::new(ATTEMPT_BURST, ATTEMPT_INTERVAL, now),
            replies: Bucket::new(REPLY_BURST, REPLY_INTERVAL, now),
            releases: Bucket::new(RELEASE_BURST, RELEASE_INTERVAL, now),
        }
    }

    fn bucket(&mut self, check: Check) -> &mut Bucket {
        match check {
            Check::Comparison | Check::Hashing => &mut self.checks,
            Check::Attempt => &mut self.attempts,
        }
    }

    /// Time until the next answer may be checked.
    #[must_use]
    pub(crate) fn wait(&mut self, now: Instant, check: Check) -> Duration {
        self.bucket(check).wait(now)
    }

    /// Counts an answer as a wrong one.
    pub(crate) fn count(&mut self, now: Instant, check: Check) {
        self.bucket(check).spend(now, check.cost());
    }

    /// It was right.
    pub(crate) fn discount(&mut self, check: Check) {
        self.bucket(check).give_back(check.cost());
    }

    /// Delay of the reply to a wrong answer, at most `longest`.
    pub(crate) fn delay(&mut self, now: Instant, longest: Duration) -> Duration {
        let grown = longest.min(LONGEST_DELAY);
        let grown = self.replies.take(now, grown).unwrap_or(grown);
        let in_turn = self.releases.take(now, longest).unwrap_or(longest);
        grown.max(in_turn)
    }

    /// Returns whether they are so long ago that they make no difference any more.
    #[must_use]
    pub(crate) fn are_forgiven(&self, now: Instant) -> bool {
        [&self.checks, &self.attempts, &self.replies, &self.releases].iter().all(|bucket| bucket.is_full(now))
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
            assert_eq!(wrong.wait(start, Check::Hashing), Duration::ZERO);
            wrong.count(start, Check::Comparison);
            wrong.count(start, Check::Attempt);
        }
        assert_eq!(wrong.wait(start, Check::Comparison), CHECK_INTERVAL);
        assert_eq!(wrong.wait(start, Check::Attempt), ATTEMPT_INTERVAL);
        wrong.count(start, Check::Hashing);
        assert_eq!(wrong.wait(start, Check::Comparison), CHECK_INTERVAL * (HASHING_COST + 1));
        wrong.discount(Check::Hashing);
        wrong.discount(Check::Comparison);
        assert_eq!(wrong.wait(start, Check::Comparison), Duration::ZERO, "right ones don't count");
        assert!(!wrong.are_forgiven(start + LONGEST_DELAY));
        assert!(wrong.are_forgiven(start + Duration::from_secs(60)));
    }

    /// Clients that answer again as soon as they have a reply never come faster than they are checked.
    #[test]
    fn many_replies_follow_one_another() {
        let (mut now, longest) = (Instant::now(), Duration::from_secs(60));
        let mut wrong = WrongAnswers::new(now);
        let mut due: Vec<_> = (0..2000).map(|_| now).collect();
        let (mut answers, end) = (0, now + Duration::from_secs(100));
        while now < end {
            due.sort_unstable();
            now = due[0].max(now);
            due[0] = now + wrong.delay(now, longest);
            answers += 1;
        }
        // As many as there are clients at once, then a hundred a second.
        assert!((2000..=2000 + 100 * 100 + 200).contains(&answers), "{answers}");
        assert_eq!(wrong.delay(now, Duration::from_secs(1)), Duration::from_secs(1), "none is held back for longer");
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
