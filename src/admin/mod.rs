//! What those who operate pgferry ask it and tell it.
//!
//! - [`desk`]: what all of this looks at: the figures as they were, and the way to the server's own loop.
//! - [`console`]: SQL, as PgBouncer's; [`show`] are its tables, [`table`] how they are sent and printed.
//! - [`talk`]: the other end of that: `pgferry show`, `pgferry ctl`, and a process that replaces another.
//! - HTTP, here, on a thread of its own, so that it answers when workers are stuck: [`request`] says what is answered, [`metrics`] writes the figures,
//!   [`page`] shows them to people, [`health`] judges them, [`probe`] asks from outside.
//! - [`vitals`]: a line in the log now and then.

pub mod console;
pub mod desk;
pub mod health;
pub mod metrics;
pub mod page;
pub mod probe;
pub mod request;
pub mod show;
pub mod table;
pub mod talk;
pub mod vitals;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::client::Shared;
use crate::config::AdminListen;
use crate::net::{Bound, Inherited, Io};
pub use desk::{Desk, Order};
use request::{Endpoint, Names};

/// How long a client may take to send its request's headers.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait before accepting again when that has failed.
const AGAIN: Duration = Duration::from_millis(100);

/// The thread that answers. Dropping it ends it.
#[derive(Debug)]
pub struct Admin {
    listener: Arc<Bound>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens at `address`, with the listener `given` from outside if there is one, and begins to answer.
    ///
    /// # Errors
    /// What keeps it from listening, with the address.
    pub fn start(desk: &Arc<Desk>, address: &AdminListen, given: Option<Inherited>) -> Result<Self, String> {
        let (told, outcome) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let own = address.clone();
        let desk = Arc::clone(desk);
        let settings = desk.shared.registry.settings.load_full();
        let (mode, group) = (settings.unix_socket_mode, settings.unix_socket_group.clone());
        let serve = move || match Self::prepare(&own, given, mode, group.as_deref()) {
            Ok((runtime, listener)) => {
                // Nobody but `start` receives, and it waits for this.
                let _ = told.send(Ok(Arc::clone(&listener)));
                runtime.block_on(async {
                    tokio::select! {
                        () = answer_all(&desk, &listener) => {}
                        _ = stopped => {}
                    }
                });
            }
            Err(error) => drop(told.send(Err(error))),
        };
        let failed = |error: String| format!("admin_listen: {error}");
        let thread = thread::Builder::new().name("admin".into()).spawn(serve).map_err(|e| failed(e.to_string()))?;
        let gone = || Err("its thread ended".to_owned());
        let listener = outcome.recv().unwrap_or_else(|_| gone()).map_err(failed)?;
        Ok(Self { listener, stop: Some(stop), thread: Some(thread) })
    }

    /// The listener, for another process.
    #[must_use]
    pub fn listener(&self) -> Arc<Bound> {
        Arc::clone(&self.listener)
    }

    /// Another process has the listener.
    pub fn leave(self) {
        self.listener.leave();
    }

    fn prepare(
        address: &AdminListen,
        given: Option<Inherited>,
        mode: u32,
        group: Option<&str>,
    ) -> Result<(Runtime, Arc<Bound>), String> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let inside = runtime.enter();
        let listener = match (given, address) {
            (Some(given), _) => given.adopt(),
            (None, AdminListen::Tcp(address)) => Bound::tcp(*address),
            (None, AdminListen::File(path)) => Bound::file(path, mode, group),
        };
        drop(inside);
        Ok((runtime, Arc::new(listener.map_err(|error| error.to_string())?)))
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}

/// Connections at a time. Where there are more, the oldest goes: half a request, kept open, keeps out nobody.
const MOST: usize = 32;

/// How long a connection may last: what asks now and then connects again.
const LONGEST: Duration = Duration::from_secs(60);

async fn answer_all(desk: &Arc<Desk>, listener: &Bound) {
    // A browser can't connect to a socket file.
    let browsers = listener.is_tcp();
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut open = VecDeque::<AbortHandle>::new();
    loop {
        match listener.accept().await {
            Ok(stream) => match stream.into_io() {
                Ok(io) => {
                    open.retain(|connection| !connection.is_finished());
                    if open.len() >= MOST
                        && let Some(oldest) = open.pop_front()
                    {
                        oldest.abort();
                    }
                    let settings = desk.shared.registry.settings.load();
                    let names = Names::new(settings.admin_hosts.iter().cloned().chain([own.clone()]));
                    let served = timeout(LONGEST, serve(Arc::clone(desk), io, browsers.then_some(names)));
                    open.push_back(tokio::spawn(served).abort_handle());
                }
                Err(error) => debug!("an admin connection could not be used: {error}"),
            },
            Err(error) => {
                debug!("an admin connection could not be accepted: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn serve(desk: Arc<Desk>, io: Box<dyn Io>, names: Option<Names>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&desk, &request, names.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        debug!("an admin connection ended: {error}");
    }
}

fn answer<B>(desk: &Desk, request: &Request<B>, names: Option<&Names>) -> Response<Full<Bytes>> {
    let endpoint = match request::understand(request.method(), request.uri(), request.headers(), names) {
        Ok(endpoint) => endpoint,
        Err((status, why)) => return text(status, why),
    };
    let shared = &desk.shared;
    let of_type = |kind: &'static str, body: String| {
        let mut response = text(StatusCode::OK, body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    };
    match endpoint {
        Endpoint::Metrics => {
            let accepts = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let format = metrics::Format::wanted(accepts);
            of_type(format.content_type(), metrics::page(shared, format))
        }
        Endpoint::Page => {
            let mut response = of_type("text/html; charset=utf-8", page::HTML.to_owned());
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
            response
        }
        Endpoint::Status => of_type("application/json", page::figures(desk)),
        Endpoint::Startup => text(StatusCode::OK, "started\n"),
        Endpoint::Live => judged(health::live(shared)),
        Endpoint::Ready => judged(health::ready(shared)),
        Endpoint::Quit => quit(shared),
    }
}

fn judged(verdict: Result<(), String>) -> Response<Full<Bytes>> {
    match verdict {
        Ok(()) => text(StatusCode::OK, "ok\n"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// What a job's last container asks for, so that the pod can end.
fn quit(shared: &Shared) -> Response<Full<Bytes>> {
    if !shared.registry.settings.load().quit_endpoint {
        return text(StatusCode::NOT_FOUND, "off: set quit_endpoint = true\n");
    }
    info!("told to end by /quitquitquit");
    match kill(Pid::this(), Signal::SIGTERM) {
        Ok(()) => text(StatusCode::OK, "ending when transactions have ended\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
