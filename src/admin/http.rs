//! Health, figures and the page over HTTP, on a thread of its own, so that they are answered when workers are stuck.

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

use super::request::{self, Endpoint, Names};
use super::state::AdminState;
use super::{health, metrics, page};
use crate::client::Shared;
use crate::config::{AdminListen, Settings};
use crate::net::{ByteStream, InheritedListener, Listener};

/// Longest time that a client may take to send its request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time to wait before accepting again when that has failed.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The thread that answers. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct HttpServer {
    listener: Arc<Listener>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

/// Origins of its listener.
#[derive(Debug)]
pub(crate) enum Place {
    /// An address where none listens.
    New(AdminListen),
    /// It is given from outside.
    Given(InheritedListener),
    /// The place of a listener that has lost its socket file.
    Again(Arc<Listener>),
}

impl HttpServer {
    /// Listens at `place`, and begins to answer. A socket file is as `settings` say.
    ///
    /// # Errors
    /// What keeps it from listening, with the address.
    pub(crate) fn start(admin_state: &Arc<AdminState>, place: Place, settings: &Settings) -> Result<Self, String> {
        let (told, outcome) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let admin_state = Arc::clone(admin_state);
        let (mode, group) = (settings.listen.unix_socket_mode, settings.listen.unix_socket_group.clone());
        let serve = move || match Self::prepare(place, mode, group.as_deref()) {
            Ok((runtime, listener)) => {
                // Only `start` receives, and it waits for this.
                let _ = told.send(Ok(Arc::clone(&listener)));
                runtime.block_on(async {
                    tokio::select! {
                        () = answer_all(&admin_state, &listener) => {}
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
    pub(crate) fn listener(&self) -> Arc<Listener> {
        Arc::clone(&self.listener)
    }

    /// Another process has the listener.
    pub(crate) fn detach(self) {
        self.listener.detach();
    }

    fn prepare(place: Place, mode: u32, group: Option<&str>) -> Result<(Runtime, Arc<Listener>), String> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let inside = runtime.enter();
        let listener = match place {
            Place::New(AdminListen::Tcp(address)) => Listener::tcp(address, None),
            Place::New(AdminListen::File(path)) => Listener::file(&path, mode, group),
            Place::Given(given) => given.adopt_reachable(mode, group),
            Place::Again(former) => former.remake(mode, group),
        };
        drop(inside);
        Ok((runtime, Arc::new(listener.map_err(|error| error.to_string())?)))
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}

/// Connections at a time. Where there are more, the oldest goes: half a request, kept open, keeps out no other.
const MAX_CONNECTIONS: usize = 32;

/// Longest time that a connection may last: what asks now and then connects again.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(60);

async fn answer_all(admin_state: &Arc<AdminState>, listener: &Listener) {
    // A browser can't connect to a socket file.
    let browsers = listener.is_tcp();
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut open = VecDeque::<AbortHandle>::new();
    loop {
        match listener.accept().await {
            Ok(stream) => match stream.into_io() {
                Ok(io) => {
                    open.retain(|connection| !connection.is_finished());
                    if open.len() >= MAX_CONNECTIONS
                        && let Some(oldest) = open.pop_front()
                    {
                        oldest.abort();
                    }
                    let settings = admin_state.shared.settings();
                    let names = Names::new(settings.admin.admin_hosts.iter().cloned().chain([own.clone()]));
                    let served =
                        timeout(MAX_CONNECTION_AGE, serve(Arc::clone(admin_state), io, browsers.then_some(names)));
                    open.push_back(tokio::spawn(served).abort_handle());
                }
                Err(error) => debug!("an admin connection could not be used: {error}"),
            },
            Err(error) => {
                debug!("an admin connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

async fn serve(admin_state: Arc<AdminState>, io: Box<dyn ByteStream>, names: Option<Names>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&admin_state, &request, names.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        debug!("an admin connection ended: {error}");
    }
}

fn answer<B>(admin_state: &AdminState, request: &Request<B>, names: Option<&Names>) -> Response<Full<Bytes>> {
    let endpoint = match request::understand(request.method(), request.uri(), request.headers(), names) {
        Ok(endpoint) => endpoint,
        Err((status, why)) => return text(status, why),
    };
    let shared = &admin_state.shared;
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
        Endpoint::Status => of_type("application/json", page::figures(admin_state)),
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

/// Ends the process at the request of a job's last container, so that the pod can end.
fn quit(shared: &Shared) -> Response<Full<Bytes>> {
    if !shared.settings().admin.quit_endpoint {
        return text(StatusCode::NOT_FOUND, "off: set quit_endpoint = true\n");
    }
    info!("shutdown requested by /quitquitquit");
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
