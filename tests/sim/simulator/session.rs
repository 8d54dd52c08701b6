//! A client's session, as `client::session`, `client::greeting` and `client::checkin` have it.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use pgferry::internals::config::{Mode, Reset};
use pgferry::internals::error::{ClientError, ErrorSource, Severity, sqlstate};
use pgferry::internals::machine::first_request::{FirstRequest, first_request};
use pgferry::internals::machine::preparation::{Liveness, Preparation, ResetPolicy};
use pgferry::internals::machine::refusal::{Refusal, Step};
use pgferry::internals::machine::{self, MachineResult};
use pgferry::internals::track::parameter_cache::Greeting;
use pgferry::internals::track::pipeline::IDLE;
use pgferry::internals::track::server_state::{CloseMethod, UsedBy};
use pgferry::internals::track::startup_settings::StartupSettings;
use pgferry::internals::track::statements::Limits;
use pgferry::internals::track::{Clean, ClientState, Pins, Pipeline, RequestedParams, params};
use pgferry::internals::wire::{Opening, backend, startup};

use super::link::{self, Aim, Link, SessionLeftovers};
use super::pool::Pool;
use super::relay::{self, End};
use super::tentative::{Recall, TentativeLease};
use super::wire::{Close, Conn, Peer};
use super::world::World;

/// How many dead connections one request may meet before the client is told.
const STALE_LIMIT: usize = 10;

/// The number of the client for which pgferry uses a connection on its own behalf.
const NO_CLIENT: u64 = u64::MAX;

/// How a session ends.
enum SessionEnd {
    Quiet,
    Told,
    Tell(ClientError),
}

/// What has become of a request when its client leaves a connection.
enum Progress {
    Answered,
    /// The server has not come to it.
    Unanswered,
}

/// Why a client has no connection.
pub enum NoLink {
    ClientGone,
    Failed(ClientError),
    /// It goes on in another pool.
    Moved,
}

struct Session {
    world: Rc<World>,
    id: usize,
    conn: Conn,
    pool: Rc<Pool>,
    state: ClientState,
    given_pid: i32,
    /// A connection that it has not used yet.
    tentative: Option<TentativeLease>,
}

/// Serves client `id`, whose startup packet is `packet`.
pub async fn run(world: Rc<World>, id: usize, packet: Vec<u8>) {
    world.clients[id].borrow_mut().task = world.me();
    let mut conn = Conn::new(&world, Peer::Client(id));
    let Ok(Opening::Startup(opening)) = startup::parse(&packet.into()) else { return };
    let (version, is_told) = opening.negotiated();
    if is_told {
        backend::put_negotiate(&mut conn.output, version, &opening.protocol_options);
    }
    let secret: &[u8] = if version & 0xffff < 2 { b"sesa" } else { b"a secret of thirty-two bytes, or" };
    let (asked, extra) = RequestedParams::split(&opening);
    // What clients ask for here every server takes, so that none tries it at the login.
    let (settings, extra) = StartupSettings::split(extra);
    let pool = Pool::of(&world, opening.get("database").unwrap_or_default(), &extra);
    match greet(&world, &pool, &asked).await {
        Ok(greeting) => {
            conn.output.extend_from_slice(&greeting.messages);
            let lends = world.setup.mode == Mode::Session;
            let tentative = if lends { pool.reserve_idle(&world, &greeting.wanted) } else { None };
            let given_pid = tentative.as_ref().map_or(100_000 + i32::try_from(id).unwrap_or(0), TentativeLease::pid);
            backend::put_key_data(&mut conn.output, given_pid, secret);
            backend::put_ready(&mut conn.output, IDLE);
            let state = ClientState::new(greeting.wanted.clone(), greeting.view.clone()).with_startup(settings);
            let mut session = Session { world: Rc::clone(&world), id, conn, pool, state, given_pid, tentative };
            let end = if session.conn.flush().await.is_ok() { session.serve().await } else { SessionEnd::Quiet };
            session.return_tentative_lease();
            conn = session.conn;
            if let SessionEnd::Tell(fault) = end {
                world.tell(|| format!("client {id} is told {fault}"));
                fault.put(&mut conn.output);
            }
        }
        Err(fault) => {
            backend::put_authentication_ok(&mut conn.output);
            fault.put(&mut conn.output);
        }
    }
    let _ = conn.flush().await;
    world.tell(|| format!("client {id} has been served"));
    world.served.set(world.served.get() + 1);
    let mut wire = world.clients[id].borrow_mut();
    wire.down.close = Close::Ended;
}

async fn greet(world: &Rc<World>, pool: &Rc<Pool>, asked: &RequestedParams) -> Result<Arc<Greeting>, ClientError> {
    if let Some(known) = pool.parameters.greeting(asked) {
        return Ok(known);
    }
    let mut first = None;
    if pool.parameters.baseline().is_none() {
        let got = pool.checkout(world, asked, world.setup.patience_from(world.now()), || None).await;
        first = Some(got.map_err(|no| if let NoLink::Failed(fault) = no { fault.into_fatal() } else { lost() })?);
    }
    let unknown = asked.only(|name, value| pool.parameters.canonical(name, value).is_none());
    if !unknown.is_empty() && first.is_none() {
        first = pool.checkout_idle(world, asked);
    }
    if let Some(link) = first {
        try_settings(link, &unknown).await?;
    }
    Ok(pool.parameters.greeting(asked).unwrap_or_else(|| pool.parameters.greeting_as_known(asked)))
}

async fn try_settings(mut link: Link, unknown: &RequestedParams) -> Result<(), ClientError> {
    let pool = Rc::clone(&link.pool);
    let sql = params::trial(unknown, &pool.parameters.baseline().unwrap_or_default());
    let mut pipeline = Pipeline::new();
    let refused = if sql.is_empty() {
        None
    } else {
        let world = Rc::clone(&link.world);
        let until = world.now() + link::CLEANUP_TIMEOUT;
        if let Some(Ok(refused)) = world.timeout(until, link::query(&mut link, &mut pipeline, &sql)).await {
            refused
        } else {
            link::close(link);
            return Ok(());
        }
    };
    if refused.is_some() && !pipeline.settled() {
        let world = Rc::clone(&link.world);
        let until = world.now() + link::CLEANUP_TIMEOUT;
        // What comes of it shows in the proof.
        let _ = world.timeout(until, link::query(&mut link, &mut pipeline, b"ROLLBACK")).await;
    }
    let Some(clean) = Clean::prove(&pipeline, Pins::empty()) else {
        link::close(link);
        return refused.map_or(Ok(()), |error| Err(ClientError::upstream_fatal(&error, None)));
    };
    if refused.is_none() {
        pool.parameters.learn_canonical(unknown, &link.state.params);
    }
    if sql.is_empty() && link.state.used == UsedBy::Nothing {
        link.release_fresh(clean);
    } else {
        link.state.used = link.state.used.and(NO_CLIENT, 0);
        link.release(clean);
    }
    refused.map_or(Ok(()), |error| Err(ClientError::upstream_fatal(&error, None)))
}

impl Session {
    async fn serve(&mut self) -> SessionEnd {
        loop {
            if let Err(end) = self.next_request().await {
                return end;
            }
            if let Err(end) = self.work().await {
                return end;
            }
        }
    }

    /// Waits for the client's bytes, or for what is to become of its tentative lease.
    async fn receive(&mut self) -> Result<(), SessionEnd> {
        let event = poll_fn(|_| {
            if let Poll::Ready(filled) = self.conn.poll_fill() {
                return Poll::Ready(Err(filled));
            }
            self.tentative
                .as_ref()
                .and_then(TentativeLease::called)
                .map_or(Poll::Pending, |called| Poll::Ready(Ok(called)))
        });
        match event.await {
            Err(Ok(1..)) => {}
            Err(_) => return Err(SessionEnd::Quiet),
            Ok(Recall::Needed) => self.return_tentative_lease(),
            Ok(Recall::Reset) => {
                if let Some(tentative) = self.tentative.take() {
                    self.tentative = tentative.reset().await;
                }
            }
        }
        Ok(())
    }

    fn return_tentative_lease(&mut self) {
        if let Some(tentative) = self.tentative.take() {
            tentative.give_back();
        }
    }

    fn max_text_bytes(&self) -> usize {
        self.conn.input.capacity().max(self.world.setup.text)
    }

    async fn next_request(&mut self) -> Result<(), SessionEnd> {
        loop {
            let limit = self.max_text_bytes();
            match first_request(&mut self.conn.input, limit) {
                FirstRequest::Violation(fault) => return Err(SessionEnd::Tell(fault)),
                FirstRequest::Terminate => return Err(SessionEnd::Quiet),
                FirstRequest::Ignored(size) => self.conn.discard(size).await.map_err(|_| SessionEnd::Quiet)?,
                FirstRequest::There => return Ok(()),
                FirstRequest::NeedMore => self.receive().await?,
            }
        }
    }

    async fn work(&mut self) -> Result<(), SessionEnd> {
        self.state.work += 1;
        for _ in 0..STALE_LIMIT {
            let mut link = match self.acquire().await {
                Ok(link) => link,
                Err(NoLink::ClientGone) => return Err(SessionEnd::Quiet),
                Err(NoLink::Failed(fault)) => return self.refuse(&fault).await,
                Err(NoLink::Moved) => continue,
            };
            let preparation = self.prepare(&link);
            let pool = Rc::clone(&link.pool);
            let setup = &self.world.setup;
            let context = machine::Context {
                mode: setup.mode,
                pin: setup.pin,
                limits: Limits {
                    count: setup.statements,
                    bytes: setup.statement_bytes,
                    client_bytes: setup.client_bytes,
                },
                max_text_bytes: self.max_text_bytes(),
                statements: &pool.statements,
                parameters: &pool.parameters,
                user: crate::alone::USER.as_bytes(),
                client: self.id as u64,
                given_pid: self.given_pid,
                backend_pid: link.pid,
            };
            let (id, number) = (self.id, link.number());
            self.world.tell(|| format!("client {id} has link {number}: {preparation:?}"));
            let Self { world, conn, state, .. } = self;
            let (end, remains) = relay::run(world, conn, &mut link, context, state, preparation).await;
            Pool::role_changed(world, link.state.for_others.take_role_change());
            world.tell(|| format!("client {id} leaves link {number}: {end:?}, pins: {}", remains.pins));
            let cut = remains.cut;
            let over = match &end {
                End::Machine(machine::End::Settled) => Ok(Progress::Answered),
                End::Machine(machine::End::Stale) if !self.has_request() => Ok(Progress::Answered),
                End::Machine(machine::End::Stale) => Ok(Progress::Unanswered),
                End::Machine(machine::End::ClientTerminated) | End::ClientGone => Err(SessionEnd::Quiet),
                End::Machine(machine::End::ServerLost { told: true }) => Err(SessionEnd::Told),
                End::Machine(machine::End::ServerLost { told: false }) => Err(SessionEnd::Tell(lost())),
                End::Machine(machine::End::Refuse(fault)) => Err(SessionEnd::Tell(fault.clone())),
            };
            // From here on a cancel request has nothing to hit there.
            let is_cancelled = {
                let mut control = self.world.controls[id].borrow_mut();
                if matches!(over, Ok(Progress::Unanswered)) {
                    control.set_unconnected()
                } else {
                    control.set_idle();
                    false
                }
            };
            self.check_in(link, &end, remains);
            match over {
                Err(SessionEnd::Tell(_)) if cut => return Err(SessionEnd::Quiet),
                Ok(Progress::Answered) => return Ok(()),
                Ok(Progress::Unanswered) if is_cancelled => return self.refuse(&cancelled()).await,
                Ok(Progress::Unanswered) => {}
                Err(end) => return Err(end),
            }
        }
        Err(SessionEnd::Tell(lost()))
    }

    /// Whether the client has a request: a connection may have ended behind its last answer.
    fn has_request(&mut self) -> bool {
        let limit = self.max_text_bytes();
        matches!(first_request(&mut self.conn.input, limit), FirstRequest::There)
    }

    fn prepare(&self, link: &Link) -> Preparation {
        let policy = ResetPolicy::of(self.world.setup.reset, &link.state, self.world.instant());
        let liveness = if link.is_probed() { Liveness::Unknown } else { Liveness::Known };
        let known = (&link.pool.parameters, &link.pool.statements);
        Preparation::new(&link.state, &self.state, self.id as u64, known, policy, liveness)
    }

    async fn acquire(&mut self) -> Result<Link, NoLink> {
        if self.pool.outdated.get() {
            self.return_tentative_lease();
            if let Some(defaults) = self.pool.parameters.baseline() {
                self.state.keep_defaults(&defaults);
            }
            self.pool = Pool::of(&self.world, &self.pool.database, &self.pool.extra);
        }
        if let Some(link) = self.tentative.take().and_then(TentativeLease::take) {
            return Ok(link);
        }
        if let Some(link) = self.pool.checkout_idle(&self.world, &self.state.asked) {
            return Ok(link);
        }
        let Self { world, pool, conn, state, id, .. } = self;
        world.controls[*id].borrow_mut().set_waiting();
        // As in `poll_gone`: what it sends meanwhile is kept, as far as the buffer goes.
        let gone = || {
            if world.controls[*id].borrow().is_cancelled() {
                return Some(NoLink::Failed(cancelled()));
            }
            if pool.outdated.get() {
                return Some(NoLink::Moved);
            }
            while !conn.input.is_full() {
                match conn.poll_fill() {
                    Poll::Pending => return None,
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0)) if !conn.is_hung_up() => return None,
                    Poll::Ready(_) => return Some(NoLink::ClientGone),
                }
            }
            None
        };
        let until = world.setup.patience_from(world.now());
        let got = pool.checkout(world, &state.asked, until, gone).await;
        match got {
            Ok(link) if pool.outdated.get() => {
                // Opened in the same moment.
                link::close(link);
                Err(NoLink::Moved)
            }
            got => got,
        }
    }

    async fn refuse(&mut self, fault: &ClientError) -> Result<(), SessionEnd> {
        let fatal = match fault {
            ClientError::Server(_) => true,
            ClientError::Proxy(ours) => ours.severity == Severity::Fatal,
        };
        if fatal {
            return Err(SessionEnd::Tell(fault.clone().into_fatal()));
        }
        self.world.controls[self.id].borrow_mut().set_idle();
        let mut refusal = Refusal::new(fault.clone());
        let pool = Rc::clone(&self.pool);
        let statements = (self.world.setup.mode == Mode::Transaction).then_some(&pool.statements);
        loop {
            let step = refusal
                .advance(&mut self.conn.input, &mut self.conn.output, &mut self.state, statements)
                .map_err(SessionEnd::Tell)?;
            self.conn.flush().await.map_err(|_| SessionEnd::Quiet)?;
            match step {
                Step::Over => break,
                Step::Terminated => return Err(SessionEnd::Quiet),
                Step::NeedMore => self.receive().await?,
            }
        }
        Ok(())
    }

    fn check_in(&self, mut link: Link, end: &End, remains: MachineResult) {
        let setup = &self.world.setup;
        let may_reset = setup.reset != Reset::Never || setup.mode == Mode::Transaction;
        let cancel = matches!(end, End::ClientGone | End::Machine(machine::End::Refuse(_)));
        // In a copy, the server waits for the rest of a message of which it has a part.
        let awaits_client = link.state.close_method == CloseMethod::Silent && remains.pipeline.copying_in();
        let is_at_work = !remains.pipeline.answered() && !awaits_client;
        let times_out = link.state.kept.mentions(b"idle_session_timeout");
        let aim = match () {
            () if !is_fit(&mut link, &remains, may_reset) => Aim::Closed,
            () if may_reset && (!remains.pins.is_empty() || times_out) => Aim::AsNew,
            () => Aim::Settled,
        };
        let at_rest = remains.partial_down == 0 && link.conn.input.is_empty() && !times_out;
        let ignored = if may_reset { remains.pins } else { Pins::empty() };
        match Clean::prove(&remains.pipeline, ignored) {
            _ if aim == Aim::Closed && !(cancel && is_at_work) => link::close(link),
            Some(clean) if aim != Aim::Closed && at_rest => link.release(clean),
            _ => {
                let leftover =
                    SessionLeftovers { pipeline: remains.pipeline, partial: remains.partial_down, cancel, aim };
                link::restore(link, leftover);
            }
        }
    }
}

/// Whether the connection may serve another client, as far as it can be made fit.
fn is_fit(link: &mut Link, remains: &MachineResult, may_reset: bool) -> bool {
    if link.state.close_method == CloseMethod::Silent {
        return false;
    }
    if may_reset && !remains.pins.intersection(Pins::SURVIVES_DISCARD).is_empty() {
        return false;
    }
    if remains.pipeline.answered() && remains.partial_down == 0 && !link.conn.input.is_empty() {
        if !link.look() {
            return false;
        }
        let pool = Rc::clone(&link.pool);
        pool.parameters.learn_base(&mut link.state);
    }
    true
}

fn cancelled() -> ClientError {
    ClientError::error(ErrorSource::Client, sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}

fn lost() -> ClientError {
    ClientError::fatal(ErrorSource::Server, sqlstate::CONNECTION_FAILURE, "server closed the connection unexpectedly")
}
