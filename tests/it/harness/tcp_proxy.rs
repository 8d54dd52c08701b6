//! A wire between pgferry and PostgreSQL that can be cut: a forwarder of TCP connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::Linger};

pub struct TcpProxy {
    pub port: u16,
    /// How often it has been cut. Connections end when this is more than it was when they began.
    cuts: Arc<AtomicUsize>,
    /// How many connections have begun, and how many of them have ended.
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl TcpProxy {
    /// Forwards connections to `port`.
    pub fn to(port: u16) -> Self {
        Self::that_loses(0, port)
    }

    /// Forwards connections to `port`, but for the first, which is accepted, and on which nothing ever comes.
    pub fn that_loses_the_first_to(port: u16) -> Self {
        Self::that_loses(1, port)
    }

    fn that_loses(first: usize, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let here = listener.local_addr().expect("an address").port();
        let cuts = Arc::new(AtomicUsize::new(0));
        let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let shared = (Arc::clone(&cuts), Arc::clone(&begun), Arc::clone(&ended));
        std::thread::spawn(move || {
            let mut incoming = listener.incoming().map_while(Result::ok);
            let _lost: Vec<_> = incoming.by_ref().take(first).collect();
            for near in incoming {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (cuts, begun, ended) = shared.clone();
                let cut_before = cuts.load(Ordering::SeqCst);
                begun.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    forward(&near, &far, &cuts, cut_before);
                    drop((near, far));
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { port: here, cuts, begun, ended }
    }

    /// Resets every connection that there is, and returns when that is done.
    pub fn cut(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        self.cuts.fetch_add(1, Ordering::SeqCst);
        super::eventually("all connections are cut", || self.ended.load(Ordering::SeqCst) >= begun);
    }
}

fn forward(near: &TcpStream, far: &TcpStream, cuts: &AtomicUsize, cut_before: usize) {
    for stream in [near, far] {
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
    }
    let mut buffer = [0; 8192];
    loop {
        if cuts.load(Ordering::SeqCst) != cut_before {
            // A close without lingering is a reset.
            for stream in [near, far] {
                setsockopt(stream, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).expect("linger");
            }
            return;
        }
        for (mut from, mut to) in [(near, far), (far, near)] {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) if to.write_all(&buffer[..n]).is_err() => return,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
        }
    }
}
