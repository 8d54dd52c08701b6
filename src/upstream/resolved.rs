//! Addresses that a host's name has stood for, as the name service has answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Time after which an address that no answer has named is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Number of times that an address comes back within [`ROTATION`], [`RETURN_SPACING`] apart at least, which show a name to stand for its
/// servers in turn. A server that takes over, and another that takes over from it, make one; so do name servers with older and newer
/// answers, which contradict each other for a while.
const RETURNS: usize = 3;
const RETURN_SPACING: Duration = Duration::from_secs(30);

/// Time for which an address of such a name is one of its own after the last answer with it.
const ROTATION: Duration = Duration::from_secs(300);

/// The last answer about a name, and what earlier ones have named.
#[derive(Clone, Debug)]
pub(super) struct ResolvedName {
    /// Time of the last answer.
    pub at: Instant,
    /// Addresses in the last answer.
    pub addresses: Vec<SocketAddr>,
    /// Times of the last answers with addresses that the last one of all has not.
    former: BTreeMap<SocketAddr, Instant>,
    /// Times of the last answers with addresses that the one before had not, and earlier ones had.
    returns: Vec<Instant>,
}

impl ResolvedName {
    /// Adds an answer of `addresses` to the knowledge `before`.
    #[must_use]
    pub(super) fn new(addresses: Vec<SocketAddr>, at: Instant, before: Option<Self>) -> Self {
        let (mut former, mut returns) = (BTreeMap::new(), Vec::new());
        if let Some(before) = before {
            (former, returns) = (before.former, before.returns);
            let is_apart = |last: &Instant| at.saturating_duration_since(*last) >= RETURN_SPACING;
            if addresses.iter().any(|address| former.contains_key(address)) && returns.last().is_none_or(is_apart) {
                returns.push(at);
                returns.drain(..returns.len().saturating_sub(RETURNS));
            }
            former.extend(before.addresses.into_iter().map(|address| (address, before.at)));
            former.retain(|address, seen| {
                !addresses.contains(address) && at.saturating_duration_since(*seen) < FORGOTTEN_AFTER
            });
        }
        Self { at, addresses, former, returns }
    }

    /// Returns whether the last answer, or one that is not older than `age` by `now`, has `address`. A name of many servers may stand for
    /// some of them at a time; where it stands for them in turn, `age` is [`ROTATION`] at least.
    #[must_use]
    pub(super) fn has(&self, address: SocketAddr, age: Duration, now: Instant) -> bool {
        let rotates = self.returns.len() == RETURNS && now.saturating_duration_since(self.returns[0]) < ROTATION;
        let age = if rotates { age.max(ROTATION) } else { age };
        let is_recent = |seen: &Instant| now.saturating_duration_since(*seen) < age;
        self.addresses.contains(&address) || self.former.get(&address).is_some_and(is_recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(15);

    fn addresses(numbers: &[u8]) -> Vec<SocketAddr> {
        numbers.iter().map(|number| SocketAddr::from(([10, 0, 0, *number], 5432))).collect()
    }

    /// Numbers of the addresses out of four that a name still has at the last of these times, in seconds, with an answer at each.
    fn left_of(answers: &[(u64, &[u8])]) -> Vec<u8> {
        let began = Instant::now();
        let at = |secs| began + Duration::from_secs(secs);
        let known = answers
            .iter()
            .fold(None, |before, (secs, numbers)| Some(ResolvedName::new(addresses(numbers), at(*secs), before)));
        let (known, (last, _)) = (known.expect("an answer"), answers[answers.len() - 1]);
        (1..=4).filter(|number| known.has(addresses(&[*number])[0], AGE, at(last))).collect()
    }

    #[test]
    fn an_address_is_gone_once_no_answer_has_had_it_for_a_while() {
        assert_eq!(left_of(&[(0, &[1, 2]), (15, &[2, 1])]), [1, 2], "their order means nothing");
        assert_eq!(left_of(&[(0, &[1, 2]), (15, &[2])]), [2]);
        // A connection that is opened looks the name up too, which counts for those that are open already.
        assert_eq!(left_of(&[(0, &[1]), (10, &[2])]), [1, 2]);
        assert_eq!(left_of(&[(0, &[1]), (10, &[2]), (15, &[2])]), [2]);
        assert_eq!(left_of(&[(0, &[1]), (10, &[2]), (12, &[1]), (15, &[2])]), [1, 2], "it came back");
    }

    #[test]
    fn a_name_that_stands_for_some_of_its_servers_at_a_time_keeps_all() {
        let turns: Vec<(u64, &[u8])> = vec![(0, &[1]), (4, &[2]), (8, &[3]), (12, &[4]), (14, &[2])];
        assert_eq!(left_of(&turns), [1, 2, 3, 4]);
    }

    /// As the reader endpoint of a cluster does: one server per answer.
    #[test]
    fn a_name_that_stands_for_its_servers_in_turn_keeps_all() {
        let mut turns: Vec<(u64, &[u8])> = vec![(0, &[1]), (15, &[2]), (30, &[3]), (45, &[1]), (60, &[2]), (75, &[3])];
        turns.push((90, &[1]));
        assert_eq!(left_of(&turns), [1], "this may be servers that took over one from the other");
        turns.push((105, &[2]));
        assert_eq!(left_of(&turns), [1, 2, 3]);
        turns.push((120, &[2]));
        assert_eq!(left_of(&turns), [1, 2, 3]);
        turns.push((345, &[2]));
        assert_eq!(left_of(&turns), [2], "it has not for long");
        assert_eq!(left_of(&[(0, &[1]), (15, &[2]), (30, &[1])]), [1], "a server that took over, and back");
    }

    #[test]
    fn addresses_are_forgotten_after_a_day() {
        let began = Instant::now();
        let first = ResolvedName::new(addresses(&[1]), began, None);
        let second = ResolvedName::new(addresses(&[2]), began + AGE, Some(first));
        assert_eq!(second.former.len(), 1);
        assert!(ResolvedName::new(addresses(&[2]), began + FORGOTTEN_AFTER, Some(second)).former.is_empty());
    }
}
