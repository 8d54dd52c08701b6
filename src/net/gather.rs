//! Waiting for more at once, where much comes in small pieces.
//!
//! A server that sends a long result sends a piece whenever its buffer of 8 kB is full. Whoever reads each of them is woken
//! for each, and so is whoever it is passed on to: most of what that takes is going to sleep and waking up, for the server
//! too. So what comes is left in the kernel until it is worth it (`SO_RCVLOWAT`), but no longer than a moment.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use tokio::time::{Instant, Sleep, sleep_until};

use super::conn::Conn;

/// After how much it is looked at how it comes. The first look starts the count.
const LOOK: usize = 2 << 20;

/// How long it has come by then at least: [`PATIENCE`] is little of that, so that nobody notices it at the end.
const LONG: Duration = Duration::from_millis(40);

/// It comes in small pieces if the process goes to sleep for less than this each time. A server that is faster sends more
/// while it is read, so that nobody goes to sleep, and waiting would cost it time.
const SMALL: usize = 32 << 10;

/// How much is waited for.
const PORTION: u32 = 128 << 10;

/// For how long it is waited for; then what is there is taken, and what follows is passed on as it comes, as in the beginning.
const PATIENCE: Duration = Duration::from_millis(2);

/// After how much it is looked at anew.
const ENOUGH: usize = 128 << 20;

/// How one connection is read, which may be by larger portions.
#[derive(Debug)]
pub struct Gather {
    /// What has come since it was last looked at.
    came: usize,
    /// What there was to see, since the server began.
    seen: Option<Box<Seen>>,
    /// Whole portions are waited for.
    portions: bool,
    /// Until when, while one is.
    until: Option<Pin<Box<Sleep>>>,
    /// The kernel may have kept quiet about something: before 4.18 it did when the portion became smaller.
    unsure: bool,
    /// How often the process has gone to sleep.
    naps: fn() -> usize,
}

/// How it comes.
#[derive(Debug)]
struct Seen {
    since: Instant,
    /// What has come since then.
    came: usize,
    /// How often the process had gone to sleep by then.
    naps: usize,
}

impl Default for Gather {
    fn default() -> Self {
        Self { came: 0, seen: None, portions: false, until: None, unsure: false, naps }
    }
}

impl Gather {
    /// As [`Conn::poll_fill`] of `conn`, which is always the same.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, conn: &mut Conn) -> Poll<io::Result<usize>> {
        loop {
            let filled = match conn.poll_fill(cx) {
                Poll::Pending if std::mem::take(&mut self.unsure) => conn.take_arrived(),
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                Poll::Ready(filled) => filled,
            };
            match filled {
                Ok(n) => {
                    self.came(n, conn);
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_patience(cx, conn)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Has what follows passed on as it comes: the server has said what there was to say.
    pub fn end(&mut self, conn: &Conn) {
        if std::mem::take(&mut self.portions) {
            // What the kernel took before it takes again.
            self.unsure = conn.stream().set_portion(1).is_ok();
        }
        (self.came, self.seen, self.until) = (0, None, None);
    }

    fn came(&mut self, n: usize, conn: &Conn) {
        self.came += n;
        self.until = None;
        if self.portions && self.came >= ENOUGH {
            self.end(conn);
        } else if !self.portions && self.came >= LOOK {
            self.portions = self.is_slow_to_come() && conn.stream().set_portion(PORTION).is_ok();
        }
    }

    /// Whether it has come in small pieces, and for long.
    fn is_slow_to_come(&mut self) -> bool {
        let came = std::mem::take(&mut self.came);
        let now = Instant::now();
        let Some(seen) = &mut self.seen else {
            self.seen = Some(Box::new(Seen { since: now, came: 0, naps: (self.naps)() }));
            return false;
        };
        seen.came += came;
        if now - seen.since < LONG {
            return false;
        }
        let naps = (self.naps)();
        let small = naps.saturating_sub(seen.naps).saturating_mul(SMALL) >= seen.came;
        **seen = Seen { since: now, came: 0, naps };
        small
    }

    /// Nothing is there, or too little: ready when it is to be looked at again.
    fn poll_patience(&mut self, cx: &mut Context<'_>, conn: &Conn) -> Poll<()> {
        if !self.portions {
            return Poll::Pending;
        }
        let until = self.until.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + PATIENCE)));
        ready!(until.as_mut().poll(cx));
        self.end(conn);
        Poll::Ready(())
    }
}

/// How often this process has gone to sleep.
fn naps() -> usize {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.ok().and_then(|usage| usage.voluntary_context_switches().try_into().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use rustix::io::ioctl_fionread;
    use tokio::time::advance;

    use super::*;
    use crate::net::{BufferPool, Stream};

    /// What PostgreSQL sends at a time.
    const PIECE: usize = 8 << 10;
    const WHOLE: usize = PORTION as usize;

    thread_local! {
        /// How often the process has gone to sleep, for those who ask here.
        static NAPS: Cell<usize> = const { Cell::new(0) };
    }

    /// A connection that is read by portions or not, and its other end.
    struct Lab {
        gather: Gather,
        conn: Conn,
        /// The connection's socket once more.
        ours: TcpStream,
        theirs: TcpStream,
    }

    impl Lab {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let theirs = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
            let ours = listener.accept().expect("a client").0;
            let stream = Stream::accepted_tcp(ours.try_clone().expect("a twin").into()).expect("a stream");
            let conn = Conn::new(stream, BufferPool::new(32 << 10, 1));
            let gather = Gather { naps: || NAPS.get(), ..Gather::default() };
            Self { gather, conn, ours, theirs }
        }

        /// What comes next.
        async fn next(&mut self) -> usize {
            let n = poll_fn(|cx| self.gather.poll_fill(cx, &mut self.conn)).await.expect("something");
            self.conn.consume(n);
            n
        }

        /// Has `bytes` arrive.
        fn arrive(&mut self, bytes: usize) {
            self.theirs.write_all(&vec![b'x'; bytes]).expect("written");
            while ioctl_fionread(&self.ours).expect("a socket") < bytes as u64 {
                std::thread::yield_now();
            }
        }

        /// Has `bytes` come in pieces, each after the one before has been read, and after a nap.
        async fn come(&mut self, bytes: usize, piece: usize) {
            for _ in 0..bytes / piece {
                NAPS.set(NAPS.get() + 1);
                self.arrive(piece);
                let mut came = 0;
                while came < piece {
                    came += self.next().await;
                }
            }
        }

        /// Much has come in small pieces.
        async fn slow() -> Self {
            let mut lab = Self::new();
            lab.come(LOOK, PIECE).await;
            advance(LONG).await;
            lab.come(LOOK, PIECE).await;
            assert!(lab.gather.portions, "now it is worth it");
            lab
        }
    }

    #[tokio::test(start_paused = true)]
    async fn little_is_waited_for_no_longer_than_a_moment() {
        let mut lab = Lab::slow().await;
        lab.arrive(5);
        let began = Instant::now();
        assert_eq!(lab.next().await, 5);
        assert!(began.elapsed() >= PATIENCE, "more was waited for");
        assert!(!lab.gather.portions, "what follows is passed on as it comes");
        let began = Instant::now();
        lab.come(LOOK / 2, PIECE).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_portion_is_taken_as_soon_as_it_is_there_until_it_is_looked_at_anew() {
        let mut lab = Lab::slow().await;
        let began = Instant::now();
        lab.come(ENOUGH - WHOLE, WHOLE).await;
        assert!(lab.gather.portions);
        lab.come(WHOLE, WHOLE).await;
        assert!(!lab.gather.portions);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_heard_of_and_what_is_last_is_not_lost() {
        let mut lab = Lab::slow().await;
        lab.arrive(5);
        lab.gather.end(&lab.conn);
        let began = Instant::now();
        assert_eq!(lab.next().await, 5);
        assert_eq!(began.elapsed(), Duration::ZERO, "nothing more was to come");
        let mut lab = Lab::slow().await;
        lab.theirs.shutdown(Shutdown::Write).expect("open");
        assert_eq!(lab.next().await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_large_pieces_or_is_short_is_passed_on_as_it_comes() {
        let mut lab = Lab::new();
        for piece in [PIECE, 2 * SMALL] {
            lab.come(2 * LOOK, piece).await;
            assert!(!lab.gather.portions, "it has not come for long, or not in small pieces");
            lab.gather.end(&lab.conn);
            advance(LONG).await;
            lab.come(LOOK, piece).await;
            assert!(!lab.gather.portions, "this began with the last end");
            advance(LONG).await;
        }
        lab.come(LOOK, 2 * SMALL).await;
        assert!(!lab.gather.portions, "nobody has slept much");
        lab.come(LOOK, PIECE).await;
        assert!(!lab.gather.portions, "that was looked at a moment ago");
        advance(LONG).await;
        lab.come(LOOK, PIECE).await;
        assert!(lab.gather.portions);
    }

    #[test]
    fn who_goes_to_sleep_is_counted() {
        let before = naps();
        let (_sender, receiver) = std::sync::mpsc::channel::<()>();
        for _ in 0..3 {
            receiver.recv_timeout(Duration::from_millis(1)).expect_err("nobody sends");
        }
        assert!(naps() >= before + 3);
    }
}
