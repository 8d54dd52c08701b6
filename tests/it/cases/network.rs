//! A network between pgferry and PostgreSQL that loses one direction, holds it back, and breaks.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::Linger};

use crate::harness::eventually;

/// What becomes of a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Passes,
    /// What the server sends is lost.
    LosesAnswers,
    /// What pgferry sends is lost.
    LosesRequests,
    /// What the server sends waits here, its end too.
    HoldsAnswers,
    /// Both sides are reset.
    Reset,
    /// Both sides are closed in order.
    Closed,
}

struct Connection {
    state: AtomicU8,
    /// Bytes that were lost or are held.
    withheld: AtomicUsize,
    ended: AtomicUsize,
}

impl Connection {
    fn state(&self) -> u8 {
        self.state.load(Ordering::SeqCst)
    }

    fn is(&self, state: State) -> bool {
        self.state() == state as u8
    }
}

/// A forwarder of TCP connections whose existing connections can be made to fail; later ones pass.
pub struct Network {
    pub port: u16,
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
    held: HeldRequest,
}

/// The words of a request whose answer waits here, as do all behind it on that connection.
type HeldRequest = Arc<Mutex<Option<&'static [u8]>>>;

impl Network {
    /// Forwards connections to `port`.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let here = listener.local_addr().expect("an address").port();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&connections);
        let held = HeldRequest::default();
        let request = Arc::clone(&held);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let connection = Arc::new(Connection {
                    state: AtomicU8::new(State::Passes as u8),
                    withheld: AtomicUsize::new(0),
                    ended: AtomicUsize::new(0),
                });
                all.lock().expect("unpoisoned").push(Arc::clone(&connection));
                let request = Arc::clone(&request);
                std::thread::spawn(move || {
                    forward(near, far, &connection, &request);
                    connection.ended.store(1, Ordering::SeqCst);
                });
            }
        });
        Self { port: here, connections, held }
    }

    /// Holds back what the server answers to requests with these words.
    pub fn hold_answers_to(&self, words: &'static str) {
        *self.held.lock().expect("unpoisoned") = Some(words.as_bytes());
    }

    /// The upstream URL for pgferry.
    pub fn url(&self) -> String {
        format!("postgres://127.0.0.1:{}?sslmode=disable", self.port)
    }

    /// Changes all connections that there are.
    pub fn make(&self, state: State) {
        let connections = self.connections.lock().expect("unpoisoned").clone();
        for connection in &connections {
            connection.state.store(state as u8, Ordering::SeqCst);
        }
        if matches!(state, State::Reset | State::Closed) {
            eventually("the connections end", || {
                connections.iter().all(|connection| connection.ended.load(Ordering::SeqCst) == 1)
            });
        }
    }

    /// Bytes that were lost or are held.
    pub fn withheld(&self) -> usize {
        let connections = self.connections.lock().expect("unpoisoned");
        connections.iter().map(|connection| connection.withheld.load(Ordering::SeqCst)).sum()
    }
}

fn forward(mut near: TcpStream, mut far: TcpStream, connection: &Connection, request: &HeldRequest) {
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
    }
    let mut buffer = [0; 8192];
    let mut held = Vec::new();
    let mut far_ended = false;
    loop {
        let state = connection.state();
        if state == State::Reset as u8 {
            // A close without lingering is a reset.
            for stream in [&near, &far] {
                let _ = setsockopt(stream, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 });
            }
            return;
        }
        if state == State::Closed as u8 {
            return;
        }
        match read(&mut near, &mut buffer) {
            Some(0) => return,
            Some(n) if connection.is(State::LosesRequests) => {
                connection.withheld.fetch_add(n, Ordering::SeqCst);
            }
            Some(n) => {
                let words = *request.lock().expect("unpoisoned");
                if words.is_some_and(|words| buffer[..n].windows(words.len()).any(|part| part == words)) {
                    connection.state.store(State::HoldsAnswers as u8, Ordering::SeqCst);
                }
                // What a server that has ended is sent is lost, as it is directly.
                drop(far.write_all(&buffer[..n]));
            }
            None => {}
        }
        if !far_ended {
            match read(&mut far, &mut buffer) {
                Some(0) => far_ended = true,
                Some(n) if connection.is(State::LosesAnswers) => {
                    connection.withheld.fetch_add(n, Ordering::SeqCst);
                }
                Some(n) => {
                    held.extend_from_slice(&buffer[..n]);
                    if connection.is(State::HoldsAnswers) {
                        connection.withheld.fetch_add(n, Ordering::SeqCst);
                    }
                }
                None => {}
            }
        }
        if connection.is(State::Passes) {
            if !held.is_empty() && near.write_all(&std::mem::take(&mut held)).is_err() {
                return;
            }
            if far_ended {
                return;
            }
        }
    }
}

/// What came: a number of bytes, the end as 0, nothing yet as `None`.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    match stream.read(buffer) {
        Ok(n) => Some(n),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(_) => Some(0),
    }
}
