//! A client's own side: it writes its script in pieces, waits where the script does, and notes what it is told.

use std::ops::Range;

use super::account::{self, Owed};
use super::case::{Ending, Member};
use super::check::login;
use super::wire::Close;
use super::world::World;
use crate::script::{REST, Write};
use crate::transcript::{Seen, Transcript};

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It waits for as many messages.
    Waiting(usize),
    /// The same, and rests then.
    Tiring(usize),
    /// It rests until then.
    Resting(u64),
    /// It has written so many bytes of write number so many.
    Writing(usize, usize),
    /// It has written all, and reads to the end.
    Reading,
    Gone,
}

/// A write of its script.
#[derive(Debug)]
struct Written {
    bytes: Vec<u8>,
    waits: bool,
    rests: bool,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    id: usize,
    writes: Vec<Written>,
    ending: Ending,
    /// How many messages it must have seen at each wait, the login's first.
    waits: std::vec::IntoIter<usize>,
    /// How many messages it is to be told.
    total: usize,
    place: Place,
    next: usize,
    pub transcript: Transcript,
    /// It has gone before its time.
    pub vanished: bool,
    /// It has asked for something to be cancelled.
    pub cancelled: bool,
    /// It has read to the end.
    pub ended: bool,
    /// How many of the script's bytes it has written.
    pub written: usize,
    /// Its database.
    database: String,
    /// How many notifications for everyone there had been when it had written all.
    notified: usize,
    /// How many when it was told that it listens, as soon as that was certain.
    listens: Listens,
    down: usize,
}

/// Whether it is certain that a client listens for everyone, and since how many notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listens {
    No,
    /// It has been told so, and its transaction has not ended.
    Told,
    Since(usize),
}

/// The channel that all clients may listen to.
pub const EVERYONE: &str = "everyone";

/// What has been told on that channel, if this is a notification there.
pub fn told_everyone(seen: &Seen) -> Option<&str> {
    let body =
        (seen.tag == b'A').then(|| seen.body.strip_prefix(EVERYONE.as_bytes())?.strip_prefix(b"\0")).flatten()?;
    std::str::from_utf8(body).ok().map(|payload| payload.trim_end_matches('\0'))
}

/// Whether a message is a notification of others than client `id`.
pub fn is_of_others(seen: &Seen, id: usize) -> bool {
    told_everyone(seen).is_some_and(|payload| !payload.starts_with(&format!("k{id}_")))
}

/// Whether a message is one of those that a client waits for: in what order and how often settings are told is compared afterwards, when
/// others tell something is their affair, and the version of the protocol is pgferry's.
fn counts(seen: &Seen, id: usize) -> bool {
    !matches!(seen.tag, b'S' | b'v') && !is_of_others(seen, id)
}

impl Client {
    /// Client `id`, who would be told `alone` if it were alone.
    pub fn new(id: usize, member: &Member, alone: &Transcript) -> Self {
        let counted = |seen: usize| alone.seen[..seen].iter().filter(|seen| counts(seen, id)).count();
        let mut waits: Vec<usize> = alone.waits.iter().map(|wait| counted(*wait)).collect();
        let total = waits.pop().unwrap_or(0);
        let mut waits = waits.into_iter();
        let login = waits.next().unwrap_or(0);
        Self {
            id,
            writes: {
                let written = |write: &Write| Written { bytes: write.bytes(), waits: write.wait, rests: write.rests() };
                member.script.writes.iter().map(written).collect()
            },
            ending: member.ending,
            waits,
            total,
            place: Place::Waiting(login),
            next: 0,
            transcript: Transcript::default(),
            vanished: false,
            cancelled: false,
            ended: false,
            written: 0,
            database: member.script.database().to_owned(),
            notified: 0,
            listens: Listens::No,
            down: 0,
        }
    }

    fn seen(&self) -> usize {
        self.transcript.seen.iter().filter(|seen| counts(seen, self.id)).count()
    }

    pub fn is_gone(&self) -> bool {
        self.place == Place::Gone
    }

    /// What it waits for, told.
    pub fn shown(&self) -> String {
        format!("client {}: {:?}, {} of {} messages", self.id, self.place, self.seen(), self.total)
    }

    /// What it is owed, if all that it has been told answers something.
    ///
    /// # Errors
    /// What answers nothing.
    pub fn owed(&self) -> Result<Owed, String> {
        account::owed(&self.sent(), self.told())
    }

    /// The bytes that it has sent behind its startup packet.
    pub fn sent(&self) -> Vec<u8> {
        self.writes.iter().flat_map(|write| &write.bytes).copied().take(self.written).collect()
    }

    /// What it has been told behind its login.
    pub fn told(&self) -> &[Seen] {
        self.transcript.seen.get(login(&self.transcript)..).unwrap_or_default()
    }

    /// Whether it has what it waits for: so many messages, or an error in place of some of them and nothing that the server must send.
    fn has(&self, messages: usize) -> bool {
        self.has_but_for(messages, &[Ok(Owed::Nothing), Ok(Owed::Unasked)])
    }

    /// The same for a client that leaves then, which an error that nothing asks for may still come for.
    fn has_all(&self, messages: usize) -> bool {
        self.has_but_for(messages, &[Ok(Owed::Nothing)])
    }

    fn has_but_for(&self, messages: usize, owed: &[Result<Owed, String>]) -> bool {
        let is_refused = || self.told().iter().any(|seen| seen.tag == b'E');
        self.seen() >= messages || (is_refused() && owed.contains(&self.owed()))
    }

    /// Whether it has something to write, or to leave for.
    pub fn can_write(&self, world: &World) -> bool {
        let room = || world.clients[self.id].borrow().up.len() < world.setup.socket;
        match self.place {
            Place::Waiting(messages) | Place::Tiring(messages) => self.ended || self.has(messages),
            Place::Resting(until) => self.ended || world.now() >= until,
            Place::Writing(..) => self.ended || room(),
            Place::Reading => self.ended || (self.ending == Ending::HangUp && self.has_all(self.total)),
            Place::Gone => false,
        }
    }

    /// Whether something has come for it.
    pub fn can_read(&self, world: &World) -> bool {
        let wire = world.clients[self.id].borrow();
        !self.is_gone() && !self.ended && (!wire.down.is_empty() || wire.down.close != Close::Open)
    }

    /// Nothing happens any more: it no longer waits for what should have come. Where it goes while the server `reads_nothing`, what
    /// it has said last may not have come that far.
    pub fn gives_up_waiting(&mut self, reads_nothing: bool) -> bool {
        match self.place {
            Place::Waiting(_) | Place::Tiring(_) => self.place = Place::Writing(self.next, 0),
            Place::Reading if self.ending == Ending::HangUp => {
                self.total = 0;
                self.vanished |= reads_nothing;
            }
            _ => return false,
        }
        true
    }

    /// Takes the next step of its script.
    pub fn write(&mut self, world: &World) {
        let mut wire = world.clients[self.id].borrow_mut();
        if self.ended {
            self.place = Place::Gone;
            wire.hung_up = true;
            wire.up.close = Close::Ended;
            let task = wire.task;
            drop(wire);
            world.wake(task);
            return;
        }
        match self.place {
            Place::Waiting(_) => self.place = Place::Writing(self.next, 0),
            Place::Tiring(_) => {
                let until = world.now() + u64::try_from(REST.as_micros()).unwrap_or(u64::MAX);
                world.wake_at(until);
                self.place = Place::Resting(until);
            }
            Place::Resting(_) => self.place = Place::Waiting(self.waits.next().unwrap_or(0)),
            Place::Writing(at, from) => {
                let Some(Written { bytes, waits, rests }) = self.writes.get(at) else {
                    self.place = Place::Reading;
                    if self.ending == Ending::HalfClose {
                        wire.up.close = Close::Ended;
                    }
                    let task = wire.task;
                    drop(wire);
                    world.wake(task);
                    return;
                };
                let room = world.setup.socket.saturating_sub(wire.up.len());
                let left = bytes.len() - from;
                let piece = if world.chance(60) { left } else { world.below(left) + 1 };
                let piece = piece.min(room).min(left);
                wire.up.push(&bytes[from..from + piece]);
                self.written += piece;
                if from + piece < bytes.len() {
                    self.place = Place::Writing(at, from + piece);
                } else {
                    self.next = at + 1;
                    let mut due = || self.waits.next().unwrap_or(0);
                    self.place = match (rests, waits) {
                        (true, _) => Place::Tiring(due()),
                        (false, true) => Place::Waiting(due()),
                        (false, false) => Place::Writing(self.next, 0),
                    };
                    if self.next == self.writes.len() {
                        self.notified = world.notified(&self.database);
                    }
                }
            }
            Place::Reading => {
                // It has all its answers.
                self.place = Place::Gone;
                wire.hung_up = true;
                wire.up.close = Close::Ended;
            }
            Place::Gone => {}
        }
        let task = wire.task;
        drop(wire);
        world.wake(task);
    }

    /// Reads some of what has come.
    pub fn read(&mut self, world: &World) {
        let mut wire = world.clients[self.id].borrow_mut();
        if wire.down.is_empty() {
            self.ended = true;
            self.transcript.closed = true;
            return;
        }
        let there = wire.down.len();
        let piece = if world.chance(70) { there } else { world.below(there) + 1 };
        let bytes = wire.down.take(piece);
        self.down += bytes.len();
        let task = wire.task;
        drop(wire);
        let before = self.transcript.seen.len();
        self.transcript.feed(&bytes);
        self.note_listening(world, before);
        world.wake(task);
    }

    /// Notes when it is certain that it listens, from what it has been told since.
    fn note_listening(&mut self, world: &World, from: usize) {
        for seen in &self.transcript.seen[from..] {
            self.listens = match (self.listens, seen.tag) {
                (Listens::No, b'C') if *seen.body == *b"LISTEN\0" => Listens::Told,
                (Listens::Told, b'E') => Listens::No,
                (Listens::Told, b'C')
                    if [&b"ROLLBACK"[..], b"PREPARE"].iter().any(|tag| seen.body.starts_with(tag)) =>
                {
                    Listens::No
                }
                (Listens::Told, b'Z') if *seen.body == *b"I" => Listens::Since(world.notified(&self.database)),
                (Listens::Told, b'Z') => Listens::No,
                (listens, _) => listens,
            };
        }
    }

    /// The notifications for everyone that it must have been told of, by where they are among those of its database: those from when it was
    /// certain that it listens to when it wrote the last of its requests.
    pub fn must_hear(&self) -> Range<usize> {
        match self.listens {
            Listens::Since(from) if from < self.notified => from..self.notified,
            _ => 0..0,
        }
    }

    /// Goes away, whatever is under way.
    pub fn vanish(&mut self, world: &World, reset: bool) {
        if self.is_gone() || self.ended {
            return;
        }
        world.tell(|| format!("client {} vanishes", self.id));
        self.vanished = true;
        self.place = Place::Gone;
        let mut wire = world.clients[self.id].borrow_mut();
        wire.hung_up = true;
        if reset {
            wire.up.clear();
        }
        wire.up.close = if reset { Close::Reset } else { Close::Ended };
        wire.down.clear();
        let task = wire.task;
        drop(wire);
        world.wake(task);
    }
}
