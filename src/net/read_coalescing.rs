//! Waiting for more at once, where much comes in small pieces.
//!
//! A server that sends a long result sends a piece whenever its buffer of 8 kB is full. A process that reads each of them is woken
//! for each, and so is the one that it is passed on to: most of what that takes is going to sleep and waking up, for the server
//! too. So what comes is left in the kernel until it is worth it (`SO_RCVLOWAT`), but no longer than a moment.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use tokio::time::Instant;

use super::conn::Conn;
use super::timer::Timer;

/// Number of bytes after which it is looked at how they come; the first look starts the count.
const SAMPLE_BYTES: usize = 512 << 10;

/// A result comes in small pieces if the process goes to sleep for fewer bytes than this each time. A faster server sends more
/// while it is read, so that no process goes to sleep, and waiting would cost time.
const SMALL_READ_BYTES: usize = 32 << 10;

/// Numbers of bytes that may be waited for, the largest first.
const BATCH_BYTES: [u32; 2] = [128 << 10, 64 << 10];

/// Number of batches of a size that have come before one is waited for. A wait in vain at the end is little of the time that
/// those took.
const MIN_BATCHES: usize = 24;

/// Longest wait for a batch. If it takes longer than expected, what is there is taken.
const MAX_WAIT: Duration = Duration::from_millis(2);

/// Shortest limit on the wait for a batch, since all connections take turns.
const MIN_WAIT: Duration = Duration::from_micros(200);

/// Number of bytes after which it is looked at anew whether batches are worth it.
const RESAMPLE_BYTES: usize = 128 << 20;

/// Reads one connection, in batches where that is worth it.
#[derive(Debug, Default)]
pub(crate) struct ReadCoalescer {
    /// Number of bytes received since the server began.
    came: usize,
    /// Observations, once there are any.
    seen: Option<Box<Seen>>,
    /// The kernel may have kept quiet about something: before 4.18 it did when the batch became smaller.
    unsure: bool,
}

/// Observations of how bytes arrive.
#[derive(Debug)]
struct Seen {
    since: Instant,
    /// Number of bytes received by then.
    from: usize,
    /// Number of times that the process had gone to sleep by then.
    wakeups: usize,
    /// Number of bytes received at which the stream is looked at again.
    again: usize,
    /// Batch that is waited for.
    batch: Option<BatchWait>,
}

/// Batch that is waited for.
#[derive(Debug)]
struct BatchWait {
    size: u32,
    max_wait: Duration,
    timer: Timer,
    /// The timer runs.
    waits: bool,
    /// The kernel waits for it. It does not after it was waited for in vain, until something comes.
    held: bool,
    /// Number of bytes received since it was waited for in vain.
    came: usize,
}

impl ReadCoalescer {
    /// As [`Conn::poll_fill`] of `conn`, which is always the same.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, conn: &mut Conn) -> Poll<io::Result<usize>> {
        self.poll_fill_by(cx, conn, wakeups)
    }

    /// The same, by what `wakeups` says of how often the process has gone to sleep.
    fn poll_fill_by(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut Conn,
        wakeups: impl Fn() -> usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let filled = match conn.poll_fill(cx) {
                Poll::Pending if std::mem::take(&mut self.unsure) => conn.take_arrived(),
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                Poll::Ready(filled) => filled,
            };
            match filled {
                Ok(n) => {
                    self.came(n, conn, wakeups);
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_patience(cx, conn)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Has what follows passed on as it comes: the server has said what there was to say.
    pub(crate) fn end(&mut self, conn: &Conn) {
        self.came = 0;
        let batch = self.seen.take().and_then(|seen| seen.batch);
        if batch.is_some_and(|batch| batch.held) {
            self.release(conn);
        }
    }

    /// Has the kernel tell of all that comes.
    fn release(&mut self, conn: &Conn) {
        // What it took before it takes again.
        self.unsure = conn.stream().set_low_water(1).is_ok();
    }

    fn came(&mut self, n: usize, conn: &Conn, wakeups: impl Fn() -> usize) {
        self.came += n;
        let again = match &mut self.seen {
            Some(seen) => {
                seen.came(n, conn);
                seen.again
            }
            None => SAMPLE_BYTES,
        };
        if self.came >= again {
            self.look(conn, wakeups());
        }
    }

    fn look(&mut self, conn: &Conn, wakeups: usize) {
        let Some(seen) = &mut self.seen else {
            self.seen = Some(Box::new(Seen::new(self.came, wakeups)));
            return;
        };
        seen.again = self.came + SAMPLE_BYTES;
        if seen.batch.is_some() && self.came - seen.from >= RESAMPLE_BYTES {
            self.end(conn);
            return;
        }
        if self.came < least() * MIN_BATCHES {
            return;
        }
        match seen.affordable(self.came, wakeups) {
            Some((size, max_wait)) => seen.wait_for(size, max_wait, conn),
            None if seen.batch.is_none() => **seen = Seen::new(self.came, wakeups),
            None => {}
        }
    }

    /// Nothing is there, or too little: ready when it is to be looked at again.
    fn poll_patience(&mut self, cx: &mut Context<'_>, conn: &Conn) -> Poll<()> {
        let batch = self.seen.as_mut().and_then(|seen| seen.batch.as_mut());
        let Some(batch) = batch.filter(|batch| batch.held) else { return Poll::Pending };
        // Without a timer it is not waited at all.
        let _gone_off_or_broken = ready!(batch.poll_patience(cx));
        if batch.came >= batch.size as usize {
            // The server, or what is before it, has paused; it may go on as it was.
            (batch.held, batch.came) = (false, 0);
            self.release(conn);
        } else {
            self.end(conn);
        }
        Poll::Ready(())
    }
}

impl Seen {
    fn new(from: usize, wakeups: usize) -> Self {
        Self { since: Instant::now(), from, wakeups, again: from + SAMPLE_BYTES, batch: None }
    }

    fn came(&mut self, n: usize, conn: &Conn) {
        if let Some(batch) = &mut self.batch {
            batch.waits = false;
            batch.came += n;
            batch.held = batch.held || conn.stream().set_low_water(batch.size).is_ok();
        }
    }

    /// The largest batch that may be waited for, `came` having come and the process having slept so often, and for how
    /// long: half as long again as it should take.
    fn affordable(&self, came: usize, wakeups: usize) -> Option<(u32, Duration)> {
        let took = self.since.elapsed();
        let lately = came - self.from;
        let worth =
            self.batch.is_some() || wakeups.saturating_sub(self.wakeups).saturating_mul(SMALL_READ_BYTES) >= lately;
        BATCH_BYTES.into_iter().filter(|_| worth).find_map(|size| {
            let batches = u32::try_from(lately / size as usize).unwrap_or(u32::MAX);
            let max_wait = took.checked_div(batches)? * 3 / 2;
            let affordable = came >= size as usize * MIN_BATCHES && max_wait <= MAX_WAIT;
            affordable.then_some((size, max_wait.max(MIN_WAIT)))
        })
    }

    /// Has the kernel wait for batches of `size`, if it can.
    fn wait_for(&mut self, size: u32, max_wait: Duration, conn: &Conn) {
        if let Some(batch) = &mut self.batch {
            if batch.size != size && conn.stream().set_low_water(size).is_ok() {
                (batch.size, batch.held) = (size, true);
            }
            batch.max_wait = max_wait;
        } else if conn.stream().is_tcp()
            && let Ok(timer) = Timer::new()
            && conn.stream().set_low_water(size).is_ok()
        {
            self.batch = Some(BatchWait { size, max_wait, timer, waits: false, held: true, came: 0 });
        }
    }
}

impl BatchWait {
    /// Waits for `max_wait` at most.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waits {
            self.timer.set(self.max_wait)?;
            self.waits = true;
        }
        self.timer.poll_gone_off(cx)
    }
}

/// Number of bytes of the smallest batch.
fn least() -> usize {
    BATCH_BYTES[BATCH_BYTES.len() - 1] as usize
}

/// Number of times that this process has gone to sleep.
fn wakeups() -> usize {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.ok().and_then(|usage| usage.voluntary_context_switches().try_into().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::task::Waker;

    use rustix::io::ioctl_fionread;
    use tokio::time::advance;

    use super::*;
    use crate::net::{BufferPool, Stream};

    /// Number of bytes that PostgreSQL sends at a time.
    const PIECE: usize = 8 << 10;
    const LEAST: usize = BATCH_BYTES[1] as usize;
    const MOST: usize = BATCH_BYTES[0] as usize;
    /// Time that a piece takes where the smallest batch may be waited for in 1.2 ms and the largest may not.
    const SLOWLY: Duration = Duration::from_micros(100);

    /// A connection that is read in batches or not, and its other end.
    struct Lab {
        coalescer: ReadCoalescer,
        conn: Conn,
        /// The connection's socket once more.
        ours: TcpStream,
        theirs: TcpStream,
        /// Number of times that the process has gone to sleep.
        wakeups: usize,
    }

    impl Lab {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let theirs = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
            let ours = listener.accept().expect("a client").0;
            let stream = Stream::accepted_tcp(ours.try_clone().expect("a clone").into()).expect("a stream");
            let conn = Conn::new(stream, BufferPool::new(32 << 10, 1));
            Self { coalescer: ReadCoalescer::default(), conn, ours, theirs, wakeups: 0 }
        }

        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
            self.coalescer.poll_fill_by(cx, &mut self.conn, || self.wakeups)
        }

        /// Returns the number of bytes that come next.
        async fn next(&mut self) -> usize {
            let n = poll_fn(|cx| self.poll(cx)).await.expect("something");
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

        /// Waits for something that is not there yet.
        fn wait(&mut self) {
            assert!(self.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }

        fn have_patience(&mut self, max_wait: Duration) {
            if let Some(batch) = self.coalescer.seen.as_mut().and_then(|seen| seen.batch.as_mut()) {
                batch.max_wait = max_wait;
            }
        }

        /// Has `bytes` come in pieces, each waited for `each`, and for a batch as long as it takes.
        async fn come(&mut self, bytes: usize, piece: usize, each: Duration) {
            for _ in 0..bytes / piece {
                self.have_patience(Duration::from_secs(3600));
                self.wait();
                self.wakeups += 1;
                advance(each).await;
                self.arrive(piece);
                let mut came = 0;
                while came < piece {
                    came += self.next().await;
                }
            }
        }

        /// Batch that is waited for.
        fn batch_wait(&self) -> Option<usize> {
            self.coalescer.seen.as_ref()?.batch.as_ref().map(|batch| batch.size as usize)
        }

        /// Returns whether the kernel waits for that.
        fn held(&self) -> Option<bool> {
            self.coalescer.seen.as_ref()?.batch.as_ref().map(|batch| batch.held)
        }

        /// Much has come in small pieces.
        async fn in_batches() -> Self {
            let mut lab = Self::new();
            lab.come(MIN_BATCHES * LEAST - SAMPLE_BYTES, PIECE, SLOWLY).await;
            assert_eq!(lab.batch_wait(), None, "it is too early");
            lab.come(SAMPLE_BYTES, PIECE, SLOWLY).await;
            assert_eq!(lab.batch_wait(), Some(LEAST), "now it is worth it");
            lab
        }
    }

    #[tokio::test(start_paused = true)]
    async fn little_is_waited_for_no_longer_than_a_moment() {
        let mut lab = Lab::in_batches().await;
        lab.arrive(5);
        let began = std::time::Instant::now();
        assert_eq!(lab.next().await, 5);
        assert!(began.elapsed() >= Duration::from_micros(1200), "more was waited for");
        assert_eq!(lab.batch_wait(), None, "what follows is passed on as it comes");
        lab.arrive(5);
        assert_eq!(lab.next().await, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_with_what_comes_first() {
        let mut lab = Lab::in_batches().await;
        lab.come(LEAST, LEAST, SLOWLY).await;
        lab.have_patience(MIN_WAIT);
        while lab.held() == Some(true) {
            lab.wait();
            tokio::task::yield_now().await;
        }
        lab.arrive(5);
        assert_eq!(lab.next().await, 5);
        assert_eq!(lab.held(), Some(true), "it goes on");
        lab.arrive(5);
        assert_eq!(lab.next().await, 5);
        assert_eq!(lab.held(), None, "little has come since the last time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_batch_is_taken_as_soon_as_it_is_there_until_it_is_looked_at_anew() {
        let mut lab = Lab::in_batches().await;
        lab.come(RESAMPLE_BYTES - MIN_BATCHES * LEAST, MOST, Duration::ZERO).await;
        assert_eq!(lab.batch_wait(), Some(MOST), "it has become faster, and much has come");
        lab.come(SAMPLE_BYTES, MOST, Duration::ZERO).await;
        assert_eq!(lab.batch_wait(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_as_large_as_may_be_waited_for() {
        let mut lab = Lab::in_batches().await;
        lab.come(MIN_BATCHES * MOST, LEAST, 8 * SLOWLY).await;
        assert_eq!(lab.batch_wait(), Some(LEAST), "a large one takes too long");
        for (each, batch) in [(SLOWLY / 2, Some(MOST)), (2 * SLOWLY, None)] {
            let mut lab = Lab::new();
            lab.come(MIN_BATCHES * LEAST, PIECE, each).await;
            assert_eq!(lab.batch_wait(), batch.map(|_| LEAST), "little has come yet");
            lab.come(MIN_BATCHES * (MOST - LEAST), if batch.is_some() { LEAST } else { PIECE }, each).await;
            assert_eq!(lab.batch_wait(), batch);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_heard_of_and_what_is_last_is_not_lost() {
        let mut lab = Lab::in_batches().await;
        lab.arrive(5);
        lab.coalescer.end(&lab.conn);
        assert_eq!(lab.next().await, 5);
        assert_eq!(lab.batch_wait(), None);
        let mut lab = Lab::in_batches().await;
        lab.theirs.shutdown(Shutdown::Write).expect("open");
        assert_eq!(lab.next().await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_large_pieces_or_is_short_is_passed_on_as_it_comes() {
        let mut lab = Lab::new();
        lab.come(2 * MIN_BATCHES * LEAST, 2 * SMALL_READ_BYTES, SLOWLY).await;
        assert_eq!(lab.batch_wait(), None, "no process has slept much");
        lab.come(SAMPLE_BYTES, PIECE, SLOWLY).await;
        assert_eq!(lab.batch_wait(), Some(LEAST), "what was before does not count");
        for _ in 0..3 {
            lab.coalescer.end(&lab.conn);
            lab.come(MIN_BATCHES * LEAST - SAMPLE_BYTES, PIECE, SLOWLY).await;
            assert_eq!(lab.batch_wait(), None, "each is short");
        }
    }

    #[test]
    fn who_goes_to_sleep_is_counted() {
        let before = wakeups();
        let (_sender, receiver) = std::sync::mpsc::channel::<()>();
        // One that is put aside for as long does not go to sleep.
        for _ in 0..1000 {
            receiver.recv_timeout(Duration::from_millis(1)).expect_err("nothing is sent");
            if wakeups() >= before + 3 {
                return;
            }
        }
        panic!("only {} of a thousand were counted", wakeups() - before);
    }
}
