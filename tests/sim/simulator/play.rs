//! The running of a case: one step at a time, each chosen by the seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::account::Owed;
use super::cancel;
use super::case::{Case, Fault, NEW_ZONE};
use super::check::{own_part, was_refused};
use super::client::Client;
use super::defaults;
use super::janitor;
use super::session;
use super::types;
use super::wire::Close;
use super::world::{TaskId, Tasks, World, used_cluster};
use crate::alone;
use crate::script::{Message, Script, Write};
use crate::transcript::Transcript;

/// The most steps of a run; a longer one goes round in circles.
const MOST_STEPS: usize = 40_000;

/// How long a slow statement takes.
const SLOW: Duration = Duration::from_millis(20);

/// What gives a column another type, which none of the clients says.
const ALTERS: &str = "[Q('alter table public.u alter column n type int8') X]";

/// How long a stalled server reads nothing, in microseconds.
const STALL: u64 = 300_000;

/// What one client would have been told and done alone.
#[derive(Debug)]
pub struct Alone {
    pub transcript: Transcript,
    /// The same if the server sent at once what it has to say.
    pub flushed: Transcript,
    /// The rows of its database at the end.
    pub rows: Vec<(String, Vec<Option<String>>)>,
}

/// What has become of a run.
pub struct Played {
    pub world: Rc<World>,
    pub clients: Vec<Client>,
    pub alone: Vec<Alone>,
    pub steps: usize,
    /// Why it was broken off, if it was.
    pub stuck: Option<String>,
}

/// A thing that may happen next.
#[derive(Clone, Copy, Debug)]
enum Act {
    Run(TaskId),
    Write(usize),
    Read(usize),
    /// The server reads.
    Serve(usize),
    /// What the server has sent arrives.
    Arrive(usize),
}

/// The tables that clients insert into.
pub const TABLES: [&str; 2] = ["t", "u"];

/// Runs each client's script alone.
pub fn play_alone(case: &Case) -> Vec<Alone> {
    let mut all = Vec::new();
    for member in &case.members {
        let mut cluster = used_cluster(case.setup.version);
        // Told up to where it ends, and behind that.
        let mut script = member.script.clone();
        match script.writes.last_mut().filter(|write| write.cut.is_some()) {
            Some(cut) => cut.wait = true,
            None => script.writes.push(Write { messages: Vec::new(), cut: None, wait: true }),
        }
        let transcript = alone::run(&mut cluster, &script);
        let mut rows = Vec::new();
        for table in TABLES {
            let found = cluster.rows(member.script.database(), "public", table);
            rows.extend(found.into_iter().map(|row| (table.to_owned(), row)));
        }
        let flushed = alone::run(&mut used_cluster(case.setup.version), &flushing(&member.script));
        all.push(Alone { transcript, flushed, rows });
    }
    all
}

/// The script with a `Flush` behind each of its messages.
fn flushing(script: &Script) -> Script {
    let mut script = script.clone();
    for write in &mut script.writes {
        let mut messages = Vec::new();
        let mut size = 0;
        for message in write.messages.drain(..) {
            size += Write { messages: vec![message.clone()], ..Write::default() }.bytes().len();
            if write.cut.is_some_and(|cut| cut < size) {
                break;
            }
            messages.extend([message, Message::Flush]);
        }
        write.messages = messages;
        write.cut = write.cut.map(|_| usize::MAX);
    }
    script
}

/// Plays a case; a panic is what it comes to.
///
/// # Errors
/// The panic's words.
pub fn play(case: &Case, alone: Vec<Alone>, tells: bool) -> Result<Played, String> {
    let played = catch_unwind(AssertUnwindSafe(|| Player::new(case, alone, tells).play()));
    played.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

struct Player {
    world: Rc<World>,
    tasks: Tasks,
    clients: Vec<Client>,
    alone: Vec<Alone>,
    faults: Vec<(usize, Fault)>,
    /// Connections that are to be reset or read on, and when.
    later: Vec<(u64, usize)>,
    weights: Vec<usize>,
}

impl Player {
    fn new(case: &Case, alone: Vec<Alone>, tells: bool) -> Self {
        let world = World::new(case.setup, case.schedule, case.members.len(), tells);
        let mut tasks = Tasks::default();
        for (id, member) in case.members.iter().enumerate() {
            let packet = member.script.startup_packet(alone::USER);
            world.spawn(format!("serves client {id}"), session::run(Rc::clone(&world), id, packet));
        }
        if case.setup.janitor > 0 {
            world.spawn("looks after idle connections".to_owned(), janitor::run(Rc::clone(&world)));
        }
        tasks.take_spawned(&world);
        let clients = case.members.iter().zip(&alone).enumerate();
        let clients = clients.map(|(id, (member, alone))| Client::new(id, member, &alone.transcript)).collect();
        // Some sides are slower than others in a run, so that every order comes up.
        let weights = (0..16).map(|_| world.random.borrow_mut().pick(&[1, 1, 4, 16])).collect();
        Self { world, tasks, clients, alone, faults: case.faults.clone(), later: Vec::new(), weights }
    }

    fn play(mut self) -> Played {
        let mut steps = 0;
        let mut acts = Vec::new();
        let mut stuck = None;
        loop {
            for at in (0..self.faults.len()).rev() {
                if self.faults[at].0 <= steps {
                    let (_, fault) = self.faults.remove(at);
                    self.go_wrong(fault, steps);
                }
            }
            self.pump();
            let world = Rc::clone(&self.world);
            self.acts(&mut acts);
            if acts.is_empty() {
                if self.is_over() {
                    break;
                }
                if !self.waits_out() {
                    stuck = Some(self.everybody());
                    break;
                }
                continue;
            }
            steps += 1;
            if steps > MOST_STEPS {
                stuck = Some(format!("it goes round in circles: {}", self.everybody()));
                break;
            }
            let act = self.pick(&acts);
            self.act(act);
            let passes = if world.setup.step == 0 { 0 } else { world.below(world.setup.step) as u64 };
            if passes > 0 {
                world.advance_to(world.now() + passes);
                self.resume();
            }
        }
        Played { world: self.world, clients: self.clients, alone: self.alone, steps, stuck }
    }

    fn weight(&self, act: Act) -> usize {
        let at = match act {
            Act::Run(task) => task,
            Act::Write(client) => 3 + client,
            Act::Read(client) => 7 + client,
            Act::Serve(link) => 11 + link,
            Act::Arrive(link) => 13 + link,
        };
        self.weights[at % self.weights.len()]
    }

    fn pick(&self, acts: &[Act]) -> Act {
        let total = acts.iter().map(|act| self.weight(*act)).sum();
        let mut at = self.world.below(total);
        for act in acts {
            let weight = self.weight(*act);
            if at < weight {
                return *act;
            }
            at -= weight;
        }
        acts[0]
    }

    /// All that may happen next.
    fn acts(&self, acts: &mut Vec<Act>) {
        acts.clear();
        let world = &self.world;
        self.tasks.ready(world, |task| acts.push(Act::Run(task)));
        for (id, client) in self.clients.iter().enumerate() {
            if client.can_write(world) {
                acts.push(Act::Write(id));
            }
            if client.can_read(world) {
                acts.push(Act::Read(id));
            }
        }
        for (number, wire) in world.links.borrow().iter().enumerate() {
            if wire.over {
                continue;
            }
            let comes = !wire.up.is_empty() || wire.closed || wire.up.close == Close::Ended;
            if !wire.stalled && comes && !wire.refuses {
                acts.push(Act::Serve(number));
            }
            if !wire.closed
                && (!wire.sent.is_empty() || (wire.sent.close != Close::Open && wire.down.close == Close::Open))
            {
                acts.push(Act::Arrive(number));
            }
            if wire.closed && wire.refuses {
                acts.push(Act::Serve(number));
            }
        }
    }

    fn act(&mut self, act: Act) {
        let world = &self.world;
        match act {
            Act::Run(task) => self.tasks.run(&Rc::clone(world), task),
            Act::Write(client) => self.clients[client].write(world),
            Act::Read(client) => self.clients[client].read(world),
            Act::Serve(number) => {
                let mut links = world.links.borrow_mut();
                let wire = &mut links[number];
                let (backend, there) = (wire.backend, wire.up.len());
                if there == 0 || wire.refuses {
                    wire.over = wire.closed;
                    // It is seen once.
                    wire.up.close = Close::Open;
                    drop(links);
                    world.tell(|| format!("the server sees the end of link {number}"));
                    world.cluster.borrow_mut().disconnect(backend);
                    return;
                }
                let piece = if world.chance(60) { there } else { world.below(there) + 1 };
                let bytes = wire.up.take(piece);
                let task = wire.task;
                drop(links);
                world.tell(|| format!("> {number} {}", bytes.escape_ascii()));
                world.cluster.borrow_mut().receive(backend, &bytes);
                world.wake(task);
            }
            Act::Arrive(number) => {
                let mut links = world.links.borrow_mut();
                let wire = &mut links[number];
                let there = wire.sent.len();
                if there == 0 {
                    wire.down.close = wire.sent.close;
                } else {
                    let piece = if world.chance(60) { there } else { world.below(there) + 1 };
                    let bytes = wire.sent.take(piece);
                    world.tell(|| format!("< {number} {}", bytes.escape_ascii()));
                    wire.down.push(&bytes);
                }
                let task = wire.task;
                drop(links);
                world.wake(task);
            }
        }
    }

    /// What backends have said goes on its way.
    fn pump(&self) {
        let world = &self.world;
        let mut cluster = world.cluster.borrow_mut();
        for wire in world.links.borrow_mut().iter_mut() {
            if cluster.has_output(wire.backend) {
                let bytes = cluster.take_output(wire.backend);
                if !wire.loses_answers && wire.sent.close == Close::Open && !wire.closed {
                    wire.sent.push(&bytes);
                }
            }
            if cluster.is_closed(wire.backend) && !wire.refuses {
                wire.refuses = true;
                // What it has not read makes the kernel reset the connection, and what was under way may be lost.
                let unread = !wire.up.is_empty();
                wire.up.clear();
                if wire.sent.close == Close::Open && !wire.loses_answers {
                    let resets = unread && !world.setup.is_calm() && world.chance(50);
                    wire.sent.close = if resets { Close::Reset } else { Close::Ended };
                    if resets {
                        wire.sent.clear();
                    }
                }
                world.wake(wire.task);
            }
        }
    }

    fn go_wrong(&mut self, fault: Fault, steps: usize) {
        let world = Rc::clone(&self.world);
        world.tell(|| format!("fault {fault:?}"));
        if matches!(fault, Fault::Vanish | Fault::ClientReset) {
            let client = world.below(self.clients.len());
            self.clients[client].vanish(&world, fault == Fault::ClientReset);
            return;
        }
        if fault == Fault::Alter {
            for database in ["alpha", "beta"] {
                let script: Script = ALTERS.parse().unwrap_or_default();
                let script = Script { startup: vec![("database".to_owned(), database.to_owned())], ..script };
                let mut cluster = world.cluster.borrow_mut();
                let backend = cluster.connect();
                cluster.receive(backend, &script.startup_packet(alone::USER));
                script.writes.iter().for_each(|write| cluster.receive(backend, &write.bytes()));
            }
            return;
        }
        if let Fault::Reload | Fault::NewDefault = fault {
            let mut cluster = world.cluster.borrow_mut();
            match fault {
                Fault::Reload => cluster.configure("TimeZone", NEW_ZONE),
                _ => cluster.set_default("TimeZone", NEW_ZONE),
            }
            return;
        }
        if fault == Fault::RefuseLogin {
            world.refuses_login.set(true);
            return;
        }
        if fault == Fault::CancelWaiting {
            let waits = (0..self.clients.len()).find(|client| world.controls[*client].borrow().is_waiting());
            if let Some(client) = waits {
                self.clients[client].cancelled = true;
                cancel::request(&world, client);
            } else {
                self.faults.push((steps + 5, fault));
            }
            return;
        }
        if fault == Fault::Cancel {
            let client = world.below(self.clients.len());
            self.clients[client].cancelled = true;
            if let Some(backend) = world.controls[client].borrow().backend() {
                world.cluster.borrow_mut().slow_down(backend, SLOW);
            }
            cancel::request(&world, client);
            return;
        }
        let mut links = world.links.borrow_mut();
        let open: Vec<usize> = (0..links.len()).filter(|at| !links[*at].over && !links[*at].refuses).collect();
        if open.is_empty() {
            return;
        }
        let number = open[world.below(open.len())];
        let wire = &mut links[number];
        let mut cluster = world.cluster.borrow_mut();
        world.tell(|| format!("… to link {number}"));
        match fault {
            Fault::Terminate => cluster.terminate(wire.backend),
            Fault::FatalNext => cluster.fatal_at_next_message(wire.backend, "57P01"),
            Fault::Crash => cluster.crash(wire.backend),
            Fault::Reset => {
                wire.break_off();
                cluster.disconnect(wire.backend);
                world.wake(wire.task);
            }
            Fault::LoseAnswers => {
                wire.loses_answers = true;
                wire.sent.clear();
                self.later.push((world.now() + STALL, number));
            }
            Fault::RefuseDiscard => cluster.refuse_discard(wire.backend, "53200"),
            Fault::Stall => {
                wire.stalled = true;
                self.later.push((world.now() + STALL, number));
            }
            Fault::Slow => cluster.slow_down(wire.backend, SLOW),
            Fault::Vanish | Fault::ClientReset | Fault::Cancel | Fault::CancelWaiting => {}
            Fault::RefuseLogin | Fault::Reload | Fault::NewDefault | Fault::Alter => {}
        }
    }

    /// What was to happen by now happens.
    fn resume(&mut self) {
        let now = self.world.now();
        let due: Vec<usize> = self.later.iter().filter(|(at, _)| *at <= now).map(|(_, number)| *number).collect();
        self.later.retain(|(at, _)| *at > now);
        for number in due {
            let mut links = self.world.links.borrow_mut();
            let wire = &mut links[number];
            wire.stalled = false;
            if wire.loses_answers && !wire.over {
                wire.break_off();
                self.world.wake(wire.task);
                let backend = wire.backend;
                drop(links);
                self.world.cluster.borrow_mut().disconnect(backend);
            }
        }
    }

    /// Nothing can happen before time passes, or a client gives up. Says whether anything can then.
    fn waits_out(&mut self) -> bool {
        let later = self.later.iter().map(|(at, _)| *at).min();
        let next = [self.world.next_timer(), later].into_iter().flatten().min();
        let waits = self.world.setup.answers_all() || (self.world.setup.patient && next.is_some());
        if !waits {
            let mut any = false;
            let calm = self.world.setup.is_calm();
            let stalled = self.world.links.borrow().iter().any(|link| link.stalled);
            for (id, (client, alone)) in self.clients.iter_mut().zip(&self.alone).enumerate() {
                // What it is owed must come while it waits.
                let may_give_up = next.is_some() || !matches!(client.owed(), Ok(Owed::Answer(_)));
                let told = types::as_before(&defaults::as_before(&own_part(&client.transcript, id)));
                if may_give_up && (!calm || was_refused(&told, &types::as_before(&alone.transcript))) {
                    any |= client.gives_up_waiting(stalled);
                }
            }
            if any {
                return true;
            }
        }
        let Some(next) = next else { return false };
        self.world.advance_to(next);
        self.resume();
        true
    }

    fn is_over(&self) -> bool {
        self.tasks.left().next().is_none() && self.clients.iter().all(|client| client.is_gone() || client.ended)
    }

    /// What everybody waits for.
    fn everybody(&self) -> String {
        let mut text = String::from("nothing happens any more:\n");
        for client in &self.clients {
            text.push_str(&format!("  {}\n", client.shown()));
        }
        for task in self.tasks.left() {
            text.push_str(&format!("  a task {task}\n"));
        }
        for (number, wire) in self.world.links.borrow().iter().enumerate() {
            let waits = self.world.cluster.borrow().is_waiting(wire.backend);
            text.push_str(&format!(
                "  link {number}: to the server {} bytes, from it {} + {}, closed: {}, waits for a lock: {waits}\n",
                wire.up.len(),
                wire.sent.len(),
                wire.down.len(),
                wire.closed || wire.refuses
            ));
        }
        text
    }
}
