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

use tokio::time::{Instant, Sleep, sleep_until};

use super::conn::Conn;

/// After how much it is looked at how fast it comes. The first look starts the clock: whatever is shorter than two of these
/// is passed on as it comes, and [`PATIENCE`] is little of the time that they take.
const LOOK: usize = 2 << 20;

/// How long that takes, where it comes in small pieces. A server that is faster fills more than one while it is read, so
/// that nobody goes to sleep, and waiting would cost it time.
const SLOW: Duration = Duration::from_millis(10);

/// How much is waited for.
const PORTION: u32 = 128 << 10;

/// For how long it is waited for; then what is there is taken, and what follows is passed on as it comes, as in the beginning.
const PATIENCE: Duration = Duration::from_millis(2);

/// After how much it is looked at anew.
const ENOUGH: usize = 32 << 20;

/// How one connection is read, which may be by larger portions.
#[derive(Debug, Default)]
pub struct Gather {
    /// What has come since it was last looked at.
    came: usize,
    /// When it was last looked at, since the server began.
    looked: Option<Instant>,
    /// Whole portions are waited for.
    portions: bool,
    /// Until when, while one is.
    until: Option<Pin<Box<Sleep>>>,
    /// The kernel may have kept quiet about something: before 4.18 it did when the portion became smaller.
    unsure: bool,
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
        (self.came, self.looked, self.until) = (0, None, None);
    }

    fn came(&mut self, n: usize, conn: &Conn) {
        self.came += n;
        self.until = None;
        if self.portions && self.came >= ENOUGH {
            self.end(conn);
        } else if !self.portions && self.came >= LOOK {
            let now = Instant::now();
            let slow = self.looked.replace(now).is_some_and(|looked| now - looked >= SLOW);
            self.portions = slow && conn.stream().set_portion(PORTION).is_ok();
            self.came = 0;
        }
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use rustix::io::ioctl_fionread;
    use tokio::time::advance;

    use super::*;
    use crate::net::{BufferPool, Stream};

    /// What PostgreSQL sends at a time.
    const SMALL: usize = 8 << 10;
    const WHOLE: usize = PORTION as usize;

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
            Self { gather: Gather::default(), conn, ours, theirs }
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

        /// Has `bytes` come in pieces, each after the one before has been read.
        async fn come(&mut self, bytes: usize, piece: usize) {
            for _ in 0..bytes / piece {
                self.arrive(piece);
                let mut came = 0;
                while came < piece {
                    came += self.next().await;
                }
            }
        }

        /// Much has come slowly.
        async fn slow() -> Self {
            let mut lab = Self::new();
            lab.come(LOOK, SMALL).await;
            advance(SLOW).await;
            lab.come(LOOK, SMALL).await;
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
        lab.come(LOOK / 2, SMALL).await;
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
    async fn what_is_fast_or_short_is_passed_on_as_it_comes() {
        let mut lab = Lab::new();
        lab.come(3 * LOOK, SMALL).await;
        assert!(!lab.gather.portions, "it was fast");
        for _ in 0..4 {
            advance(SLOW).await;
            lab.come(LOOK / 2, SMALL).await;
            lab.gather.end(&lab.conn);
        }
        assert!(!lab.gather.portions, "each was short");
    }
}
