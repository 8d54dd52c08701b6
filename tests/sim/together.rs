//! Several clients on one server, step by step.

use std::fmt;

use crate::alone::USER;
use crate::generator::{self, Options};
use crate::model::{BackendId, Cluster};
use crate::random::Random;
use crate::script::{Message, Script, Write};
use crate::transcript::Transcript;

/// What several clients do, in this order. A step of a client that waits for a lock is left out. One that sends half a
/// message goes away at once.
#[derive(Clone, Debug, Default)]
pub struct Story {
    pub startups: Vec<Vec<(String, String)>>,
    pub steps: Vec<(usize, Write)>,
}

/// What there is to be seen after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Its number; clients that end come behind all steps.
    pub step: usize,
    /// How many messages each client has seen.
    pub seen: Vec<usize>,
    /// Whose sessions have ended.
    pub closed: Vec<bool>,
    /// How many backends wait for a lock.
    pub waiting: usize,
}

/// What has become of a story.
#[derive(Debug, Default)]
pub struct Played {
    pub transcripts: Vec<Transcript>,
    /// After the logins, each step that was not left out, and each end.
    pub moments: Vec<Moment>,
}

impl Story {
    /// The story of `seed` with `clients` clients, which get into each other's way.
    pub fn of(seed: u64, clients: usize) -> Self {
        let mut random = Random::new(seed);
        let script = |client: usize| {
            let options = Options { writes: 10, client, contend: true, global: true, sequences: false };
            generator::script(seed * 16 + client as u64, options)
        };
        let mut scripts: Vec<Script> = (0..clients).map(script).collect();
        let mut story = Self::default();
        for script in &mut scripts {
            script.writes.reverse();
            script.startup.retain(|(name, _)| name != "database");
            story.startups.push(std::mem::take(&mut script.startup));
        }
        while scripts.iter().any(|script| !script.writes.is_empty()) {
            let client = random.below(clients);
            let Some(mut write) = scripts[client].writes.pop() else { continue };
            // What has been done is seen, so that what others do comes behind it.
            if !matches!(write.messages.last(), Some(Message::Query(_) | Message::Sync | Message::Terminate)) {
                write.messages.push(Message::Flush);
            }
            story.steps.push((client, write));
        }
        story
    }

    /// The startup packet of a client.
    pub fn startup_packet(&self, client: usize) -> Vec<u8> {
        Script { startup: self.startups[client].clone(), writes: Vec::new() }.startup_packet(USER)
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (client, startup) in self.startups.iter().enumerate() {
            startup.iter().try_for_each(|(name, value)| writeln!(f, "{client}: {{{name}={value}}}"))?;
        }
        self.steps.iter().try_for_each(|(client, write)| writeln!(f, "{client}: {write}"))
    }
}

/// Plays `story` on the model.
pub fn play(cluster: &mut Cluster, story: &Story) -> Played {
    let ids: Vec<BackendId> = story.startups.iter().map(|_| cluster.connect()).collect();
    let mut played = Played { transcripts: vec![Transcript::default(); ids.len()], moments: Vec::new() };
    for (client, id) in ids.iter().enumerate() {
        cluster.receive(*id, &story.startup_packet(client));
        look(cluster, &ids, &mut played, 0);
    }
    for (step, (client, write)) in story.steps.iter().enumerate() {
        let id = ids[*client];
        if cluster.is_waiting(id) || cluster.is_closed(id) {
            continue;
        }
        cluster.receive(id, &write.bytes());
        if write.cut.is_some() {
            cluster.disconnect(id);
        }
        look(cluster, &ids, &mut played, step);
    }
    for (client, id) in ids.iter().enumerate() {
        cluster.disconnect(*id);
        look(cluster, &ids, &mut played, story.steps.len() + client);
    }
    for (id, transcript) in ids.iter().zip(&mut played.transcripts) {
        transcript.closed = cluster.is_closed(*id);
    }
    played
}

fn look(cluster: &mut Cluster, ids: &[BackendId], played: &mut Played, step: usize) {
    for (id, transcript) in ids.iter().zip(&mut played.transcripts) {
        transcript.feed(&cluster.take_output(*id));
    }
    played.moments.push(Moment {
        step,
        seen: played.transcripts.iter().map(|transcript| transcript.seen.len()).collect(),
        closed: ids.iter().map(|id| cluster.is_closed(*id)).collect(),
        waiting: ids.iter().filter(|id| cluster.is_waiting(**id)).count(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_make_clients_wait_for_each_other() {
        let (mut waits, mut deadlocks) = (0, 0);
        for seed in 1..=300 {
            let mut cluster = Cluster::default();
            let played = play(&mut cluster, &Story::of(seed, 3));
            assert!(cluster.is_quiet());
            waits += usize::from(!cluster.raced() && played.moments.iter().any(|moment| moment.waiting > 0));
            deadlocks += usize::from(played.transcripts.iter().any(|transcript| transcript.has_error("40P01")));
        }
        assert!(waits > 50 && deadlocks > 0, "{waits} and {deadlocks} of 300 stories");
    }
}
