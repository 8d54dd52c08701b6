//! What a run consists of: the setup, the clients' scripts, and what goes wrong.
//!
//! A case is printed and read in the scripts' notation: a line `setup …`, a line `fault …` for each, and in front of each
//! client's script a line `client …`.

use std::fmt;
use std::str::FromStr;

use pgferry::internals::config::{Mode, Pin, Reset};
use pgferry::internals::track::session_code::Reach;

use super::expected;
use super::tokens::{self, Unit};
use crate::decoration;
use crate::generator::{self, Options};
use crate::random::Random;
use crate::script::Script;

/// What goes wrong, or what the clients can't count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `pg_terminate_backend`.
    Terminate,
    /// A FATAL in place of the answer to the next message.
    FatalNext,
    /// The backend is gone without a word.
    Crash,
    /// The connection is reset, and what was under way is lost.
    Reset,
    /// What the server says is lost from now on; a while later the connection is reset.
    LoseAnswers,
    /// The next `DISCARD ALL` fails.
    RefuseDiscard,
    /// The server reads nothing for a while.
    Stall,
    /// A client is gone.
    Vanish,
    /// A client's socket is reset.
    ClientReset,
    /// A client's next statement takes a while, and it asks for that to be cancelled.
    Cancel,
    /// A client that waits for a connection asks for that to be cancelled, as soon as one does.
    CancelWaiting,
    /// The server refuses the next login.
    RefuseLogin,
    /// The server's configuration is reloaded: another time zone is its default.
    Reload,
    /// Sessions that begin from now on have another time zone by default.
    NewDefault,
    /// A column that parameters are compared with gets another type.
    Alter,
    /// A connection's next statement takes a while.
    Slow,
}

const FAULTS: [(Fault, &str); 16] = [
    (Fault::Terminate, "terminate"),
    (Fault::FatalNext, "fatal_next"),
    (Fault::Crash, "crash"),
    (Fault::Reset, "reset"),
    (Fault::LoseAnswers, "lose_answers"),
    (Fault::RefuseDiscard, "refuse_discard"),
    (Fault::Stall, "stall"),
    (Fault::Vanish, "vanish"),
    (Fault::ClientReset, "client_reset"),
    (Fault::Cancel, "cancel"),
    (Fault::CancelWaiting, "cancel_waiting"),
    (Fault::RefuseLogin, "refuse_login"),
    (Fault::Slow, "slow"),
    (Fault::Reload, "reload"),
    (Fault::NewDefault, "new_default"),
    (Fault::Alter, "alter"),
];

/// What pgferry and the network are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The server's major version.
    pub version: u32,
    pub mode: Mode,
    pub reset: Reset,
    /// What the code of the databases may leave in a session.
    pub code: Reach,
    pub pin: Pin,
    /// The most connections of a pool.
    pub connections: usize,
    /// How many of them are opened at a time.
    pub dialling: usize,
    /// The size of a buffer, in bytes.
    pub buffer: usize,
    /// The longest text that is analysed, unless buffers are larger.
    pub text: usize,
    /// How many statements may be prepared on a connection.
    pub statements: usize,
    /// How many bytes of their texts, and of those that a client has prepared.
    pub statement_bytes: usize,
    pub client_bytes: usize,
    /// How many bytes a socket takes before anybody reads.
    pub socket: usize,
    /// The most time that a step takes, in microseconds.
    pub step: usize,
    /// How long a client waits for a connection, in microseconds; 0 for ever.
    pub patience: u64,
    /// Whether clients wait for their answers as long as anything may still come.
    pub patient: bool,
    /// Whether something goes wrong in the run.
    pub faults: bool,
    /// Whether clients say what pgferry refuses by design.
    pub refusals: bool,
    /// How often idle connections are looked after, in microseconds; 0 for never.
    pub janitor: u64,
    /// How long connections are kept idle, and at all, in microseconds; 0 for ever.
    pub idle: u64,
    pub lifetime: u64,
}

/// More bytes of statements than clients prepare.
const ROOMY: usize = 1 << 24;

impl Setup {
    /// Whether statements may go that SQL could name.
    pub fn keeps_few(&self) -> bool {
        self.statements < 4 || self.statement_bytes < ROOMY
    }

    /// When the patience is over that begins `now`.
    pub fn patience_from(&self, now: u64) -> Option<u64> {
        (self.patience > 0).then(|| now + self.patience)
    }

    /// Whether all get the answers that they wait for.
    pub fn answers_all(&self) -> bool {
        self.is_calm() && !self.refusals
    }

    /// Whether nothing goes wrong that a client could see.
    pub fn is_calm(&self) -> bool {
        !self.faults && self.patience == 0
    }
}

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It says that it sends no more, and reads to the end.
    HalfClose,
    /// It goes when it has got its answers.
    HangUp,
}

/// A client of a run.
#[derive(Clone, Debug)]
pub struct Member {
    pub script: Script,
    pub ending: Ending,
    /// What its inserts are, if it is one that counts them.
    pub units: Option<Vec<Unit>>,
}

/// What a run consists of.
#[derive(Clone, Debug)]
pub struct Case {
    pub setup: Setup,
    pub members: Vec<Member>,
    /// What goes wrong, and at which step.
    pub faults: Vec<(usize, Fault)>,
    /// The seed of the interleaving.
    pub schedule: u64,
}

/// The time zone that is the default once the server's configuration has changed, of which no client knows.
pub const NEW_ZONE: &str = "America/New_York";

/// What is to be hunted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    pub mode: Option<Mode>,
    pub reset: Option<Reset>,
    pub faults: Option<bool>,
}

impl Case {
    /// Whether a column's type changes in the run.
    pub fn alters(&self) -> bool {
        self.faults.iter().any(|(_, fault)| *fault == Fault::Alter)
    }

    /// Whether the server's defaults change in the run.
    pub fn has_new_defaults(&self) -> bool {
        self.has_told_nobody() || self.members.iter().any(|member| expected::alters_beginnings(&member.script))
    }

    /// Whether they change without a client's saying so.
    pub fn has_told_nobody(&self) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Reload | Fault::NewDefault))
    }

    /// The case of `seed`.
    pub fn of(seed: u64, wishes: Wishes) -> Self {
        let mut random = Random::new(seed ^ 0x51d0);
        let mut setup = Self::setup(&mut random, wishes);
        let clients = random.pick(&[2, 2, 3, 3, 4]);
        let alike = random.chance(60);
        let mut members = Vec::new();
        for client in 0..clients {
            let script_seed = seed.wrapping_mul(64).wrapping_add(client as u64);
            members.push(Self::member(&mut random, &setup, client, script_seed, alike));
        }
        if random.chance(25) && members.iter().all(|member| member.units.is_none()) {
            // Two say the same, so that they share statements.
            members[1].script = expected::as_others(&members[0].script, 1);
        }
        let alters = random.chance(15);
        for (client, member) in members.iter_mut().enumerate() {
            if alters {
                expected::prepare_nothing(&mut member.script);
            }
            expected::localize(&mut member.script, &setup, client);
            if member.units.is_none() {
                decoration::decorate(&mut member.script, &mut Random::new(seed ^ 0xdec0));
            }
        }
        if members.iter().any(|member| expected::alters_beginnings(&member.script)) {
            members.iter_mut().for_each(|member| expected::leave_default_zone(&mut member.script));
        }
        // No client runs code that the others don't know of.
        let runs_code = |member: &Member| member.script.to_string().to_ascii_lowercase().contains("code.");
        setup.code = match seed % 2 {
            _ if members.iter().any(runs_code) => Reach::Anything,
            0 => Reach::Nothing,
            _ => Reach::Sequences,
        };
        let mut faults = Vec::new();
        if setup.faults {
            for _ in 0..=random.below(4) {
                let fault = random.pick(&FAULTS[..13]).0;
                faults.push((random.below(400), fault));
            }
        }
        if random.chance(15) {
            faults.push((random.below(400), random.pick(&[Fault::Reload, Fault::Reload, Fault::NewDefault])));
            members.iter_mut().for_each(|member| expected::leave_default_zone(&mut member.script));
        }
        if alters {
            faults.push((random.below(400), Fault::Alter));
        }
        if setup.faults && random.chance(25) {
            // One has its own statements end that take long, or itself: no other is to be told.
            let impatient = random.below(members.len());
            if members[impatient].units.is_none() && expected::may_time_out(&setup) {
                expected::time_out(&mut members[impatient].script, &mut random);
            }
            faults.extend((0..4).map(|_| (random.below(400), Fault::Slow)));
        }
        Self { setup, members, faults, schedule: seed }
    }

    fn setup(random: &mut Random, wishes: Wishes) -> Setup {
        let faults = random.chance(40);
        let mode = random.pick(&[Mode::Transaction, Mode::Transaction, Mode::Session]);
        let reset = random.pick(&[Reset::Auto, Reset::Always, Reset::OnChange, Reset::Never]);
        let faults = wishes.faults.unwrap_or(faults);
        let buffer = random.pick(&[512, 4096, 32 * 1024]);
        let refusals = random.chance(15);
        let looked_after = random.chance(30);
        let patient = random.chance(50);
        let timing = |random: &mut Random, of: u64| if looked_after { random.pick(&[0, of, of]) } else { 0 };
        Setup {
            version: random.pick(&[15, 15, 15, 15, 12, 13, 18, 18]),
            mode: wishes.mode.unwrap_or(mode),
            reset: wishes.reset.unwrap_or(reset),
            // Until it is known what the clients run.
            code: Reach::Anything,
            pin: if refusals && random.chance(40) { Pin::Refuse } else { Pin::Auto },
            connections: random.pick(&[1, 1, 2, 2, 2, 3]),
            dialling: random.pick(&[1, 2]),
            buffer,
            text: random.pick(&[1 << 20, 1 << 20, 1 << 20, 64]),
            statements: random.pick(&[1, 2, 3, 100, 100]),
            statement_bytes: random.pick(&[60, ROOMY, ROOMY, ROOMY]),
            client_bytes: random.pick(&[40, 100, ROOMY, ROOMY, ROOMY, ROOMY]),
            socket: random.pick(&[64, 1000, 100_000, 100_000]),
            step: random.pick(&[0, 40, 400]),
            patience: if faults && random.chance(30) { 20_000 } else { 0 },
            patient,
            faults,
            refusals,
            janitor: timing(random, 3_000),
            idle: timing(random, 5_000),
            lifetime: timing(random, 20_000),
        }
    }

    fn member(random: &mut Random, setup: &Setup, client: usize, seed: u64, alike: bool) -> Member {
        let ending = random.pick(&[Ending::HalfClose, Ending::HalfClose, Ending::HangUp]);
        if setup.faults && random.chance(50) {
            let (script, units) = tokens::script(seed, client);
            return Member { script, ending, units: Some(units) };
        }
        let options = Options {
            writes: random.pick(&[4, 8, 14]),
            client,
            contend: false,
            global: false,
            sequences: setup.refusals,
        };
        let mut script = generator::script(seed, options);
        if alike {
            script.startup.retain(|(name, _)| !matches!(name.as_str(), "database" | "options" | "search_path"));
        }
        Member { script, ending, units: None }
    }
}

fn name_of<T: PartialEq>(table: &[(T, &'static str)], value: &T) -> &'static str {
    table.iter().find(|(known, _)| known == value).map_or("?", |(_, name)| name)
}

const MODES: [(Mode, &str); 2] = [(Mode::Transaction, "transaction"), (Mode::Session, "session")];
const RESETS: [(Reset, &str); 4] =
    [(Reset::Auto, "auto"), (Reset::Always, "always"), (Reset::OnChange, "on_change"), (Reset::Never, "never")];
const REACHES: [(Reach, &str); 3] =
    [(Reach::Nothing, "nothing"), (Reach::Sequences, "sequences"), (Reach::Anything, "anything")];

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup {
            version,
            mode,
            reset,
            code,
            pin,
            connections,
            dialling,
            buffer,
            text,
            statements,
            statement_bytes,
            client_bytes,
            socket,
            step,
            patience,
            patient,
            faults,
            refusals,
            janitor,
            idle,
            lifetime,
        } = &self.setup;
        let pin = if *pin == Pin::Refuse { "refuse" } else { "auto" };
        let (mode, reset, code) = (name_of(&MODES, mode), name_of(&RESETS, reset), name_of(&REACHES, code));
        writeln!(
            f,
            "setup version={version} mode={mode} reset={reset} code={code} connections={connections} dialling={dialling} buffer={buffer} text={text} \
             statements={statements} statement_bytes={statement_bytes} client_bytes={client_bytes} socket={socket} step={step} patience={patience} patient={patient} faults={faults} \
             pin={pin} refusals={refusals} janitor={janitor} idle={idle} lifetime={lifetime} schedule={}",
            self.schedule
        )?;
        for (step, fault) in &self.faults {
            writeln!(f, "fault {step} {}", name_of(&FAULTS, fault))?;
        }
        for Member { script, ending, units } in &self.members {
            let ending = if *ending == Ending::HalfClose { "half_close" } else { "hang_up" };
            writeln!(f, "client {ending}{}", if units.is_some() { " tokens" } else { "" })?;
            write!(f, "{script}")?;
        }
        Ok(())
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut case = Self {
            setup: Setup {
                version: 15,
                mode: Mode::Transaction,
                reset: Reset::Always,
                code: Reach::Anything,
                pin: Pin::Auto,
                connections: 1,
                dialling: 1,
                buffer: 4096,
                text: 1 << 20,
                statements: 100,
                statement_bytes: ROOMY,
                client_bytes: ROOMY,
                socket: 100_000,
                step: 40,
                patience: 0,
                patient: false,
                faults: false,
                refusals: false,
                janitor: 0,
                idle: 0,
                lifetime: 0,
            },
            members: Vec::new(),
            faults: Vec::new(),
            schedule: 0,
        };
        let mut scripts: Vec<String> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("setup") => words.try_for_each(|word| case.set(word))?,
                Some("fault") => {
                    let step = words.next().and_then(|word| word.parse().ok()).ok_or("a fault without a step")?;
                    let word = words.next().unwrap_or_default();
                    let fault = FAULTS.iter().find(|(_, name)| *name == word).ok_or("an unknown fault")?;
                    case.faults.push((step, fault.0));
                }
                Some("client") => {
                    let ending = if line.contains("hang_up") { Ending::HangUp } else { Ending::HalfClose };
                    let units = line.contains("tokens").then(Vec::new);
                    case.members.push(Member { script: Script::default(), ending, units });
                    scripts.push(String::new());
                }
                _ => {
                    let script = scripts.last_mut().ok_or("a script without a client")?;
                    script.push_str(line);
                    script.push('\n');
                }
            }
        }
        for (member, script) in case.members.iter_mut().zip(scripts) {
            member.script = script.parse()?;
            if let Some(units) = &mut member.units {
                *units = tokens::units_of(&member.script);
            }
        }
        Ok(case)
    }
}

impl Case {
    fn set(&mut self, word: &str) -> Result<(), String> {
        let (name, value) = word.split_once('=').ok_or("a setting without a value")?;
        let number = || value.parse::<usize>().map_err(|error| format!("{word}: {error}"));
        let setup = &mut self.setup;
        match name {
            "mode" => setup.mode = MODES.iter().find(|(_, name)| *name == value).ok_or("a mode")?.0,
            "reset" => setup.reset = RESETS.iter().find(|(_, name)| *name == value).ok_or("a reset")?.0,
            "code" => setup.code = REACHES.iter().find(|(_, name)| *name == value).ok_or("a reach")?.0,
            "version" => setup.version = u32::try_from(number()?).unwrap_or(15),
            "connections" => setup.connections = number()?,
            "dialling" => setup.dialling = number()?,
            "buffer" => setup.buffer = number()?,
            "text" => setup.text = number()?,
            "statements" => setup.statements = number()?,
            "statement_bytes" => setup.statement_bytes = number()?,
            "client_bytes" => setup.client_bytes = number()?,
            "socket" => setup.socket = number()?,
            "step" => setup.step = number()?,
            "patience" => setup.patience = number()? as u64,
            "patient" => setup.patient = value == "true",
            "pin" => setup.pin = if value == "refuse" { Pin::Refuse } else { Pin::Auto },
            "refusals" => setup.refusals = value == "true",
            "janitor" => setup.janitor = number()? as u64,
            "idle" => setup.idle = number()? as u64,
            "lifetime" => setup.lifetime = number()? as u64,
            "faults" => setup.faults = value == "true",
            "schedule" => self.schedule = number()? as u64,
            _ => return Err(format!("no setting is called {name}")),
        }
        Ok(())
    }
}
