//! The log's way to standard error: a queue that is bounded in bytes, and a thread that writes.
//!
//! Whatever logs only puts a line into the queue, so a log that is not read stops nothing. Lines that find the queue full are
//! dropped and counted, and the log tells how many as soon as it moves again. `tracing-appender` has such a queue as well, but
//! bounds it by lines, which here may be long, and tells of what it has dropped only when asked.
//!
//! A line of text holds nothing that could be taken for another line or for a terminal's command: see [`clean`].

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

use crate::lock::lock;
use crate::system_error::without_numbers;

/// The lines that may wait, in bytes.
const MAX_QUEUE_BYTES: usize = 1 << 20;

/// Number of bytes that a line in the queue costs besides its own.
const LINE_OVERHEAD_BYTES: usize = 64;

/// The longest line, in bytes; what is longer is cut.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// Longest wait for the log to be read at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Text for people and files.
    Text,
    /// Text with colours, for a terminal.
    Colours,
    /// An object of JSON.
    Json,
}

/// Lines on their way to standard error.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Something has been put in, or the queue is closed.
    filled: Condvar,
    /// Everything has been written.
    written: Condvar,
    /// Number of lines that were dropped since the start.
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of the lines, and of those that are being written.
    bytes: usize,
    /// Number of lines that were dropped since that was last told.
    dropped: u64,
    closed: bool,
}

impl Queue {
    /// Number of lines that were dropped since the start.
    #[must_use]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn put(&self, line: &[u8]) {
        let mut state = self.state();
        if state.bytes + line.len() + LINE_OVERHEAD_BYTES > MAX_QUEUE_BYTES {
            state.dropped += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.bytes += line.len() + LINE_OVERHEAD_BYTES;
        state.lines.push_back(line.to_vec());
        drop(state);
        self.filled.notify_one();
    }

    /// Waits for lines and takes them all, and how many were dropped behind them; `None` when no more will come.
    fn take(&self) -> Option<(VecDeque<Vec<u8>>, u64)> {
        let mut state = self.state();
        while state.lines.is_empty() && state.dropped == 0 {
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Some((std::mem::take(&mut state.lines), std::mem::take(&mut state.dropped)))
    }

    /// Makes room for as many bytes as were written.
    fn done(&self, bytes: usize) {
        let mut state = self.state();
        state.bytes -= bytes;
        if state.bytes == 0 {
            self.written.notify_all();
        }
    }

    /// Takes no more waiting lines after those that are there, and waits a while until these are written.
    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.filled.notify_one();
        // Whether they were or not: the process ends.
        drop(self.written.wait_timeout_while(state, FLUSH_TIMEOUT, |state| state.bytes > 0));
    }
}

/// Sink for log lines.
#[derive(Clone, Debug)]
pub(crate) struct Writer(Arc<Queue>);

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(&self.0)
    }
}

/// One line: it is written whole.
#[derive(Debug)]
pub(crate) struct Line<'a>(&'a Queue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread that writes. Dropping it waits a while for what is in the queue.
#[derive(Debug)]
pub(crate) struct Log(Arc<Queue>);

impl Log {
    /// Begins to write lines of `form` to standard error.
    ///
    /// # Errors
    /// The system's, when there can be no thread.
    pub(crate) fn to_stderr(form: Form) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let own = Arc::clone(&queue);
        thread::Builder::new().name("log".into()).spawn(move || write_all(&own, form, &mut io::stderr()))?;
        Ok(Self(queue))
    }

    /// Returns a sink for lines.
    #[must_use]
    pub(crate) fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.0))
    }

    /// The queue, for its figures.
    #[must_use]
    pub(crate) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.0)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Writes what comes until the queue is closed.
fn write_all(queue: &Queue, form: Form, out: &mut (impl Write + AsFd)) {
    while let Some((lines, dropped)) = queue.take() {
        for line in lines {
            if write(out, &clean(&line, form)).is_err() {
                // The reader is gone; another may come.
                queue.dropped.fetch_add(1, Ordering::Relaxed);
            }
            queue.done(line.len() + LINE_OVERHEAD_BYTES);
        }
        if dropped > 0 {
            warn!("{dropped} lines of the log were dropped: it was not read fast enough");
        }
    }
}

/// Writes all of `bytes`, also to a descriptor that was made nonblocking.
fn write(out: &mut (impl Write + AsFd), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(&*out, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A line as it may be written: bounded in length, and in text with every control character escaped, in JSON as well (also those that begin a
/// new line in Unicode or change the direction of writing), except for its end. Colours come from the formatter, which
/// escapes what would be a colour in the data.
#[must_use]
pub(crate) fn clean(line: &[u8], form: Form) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let text = String::from_utf8_lossy(line);
    let text = without_numbers(&text);
    let mut out = match form {
        Form::Json if text.len() <= MAX_LINE_BYTES => escaped_in_json(&text),
        Form::Json => escaped_in_json(&shortened(&text)),
        Form::Text | Form::Colours => escaped(&text, form),
    };
    out.push('\n');
    out.into_bytes()
}

fn escaped(text: &str, form: Form) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_LINE_BYTES));
    for (at, c) in text.char_indices() {
        if out.len() >= MAX_LINE_BYTES {
            // Writing to a string can't fail.
            let _ = fmt::write(&mut out, format_args!("… ({} bytes more)", text.len() - at));
            break;
        }
        match c {
            '\x1b' if form == Form::Colours => out.push(c),
            c if c.is_control() || is_invisible(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Text from elsewhere as a terminal may get it: every character is seen, and none is obeyed.
#[must_use]
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let is_obeyed = |c: char| c.is_control() || is_invisible(c);
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// The same of a text that may have several lines, some of them indented.
#[must_use]
pub(crate) fn visible_lines(text: &str) -> String {
    let line = |line: &str| line.split('\t').map(visible).collect::<Vec<_>>().join("\t");
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// JSON over several lines as a terminal may get it, likewise.
#[must_use]
pub(crate) fn visible_json(text: &str) -> String {
    // A line break in a text has been escaped already.
    text.lines().map(|line| escaped_in_json(line) + "\n").collect()
}

/// JSON in which no text holds a character that a terminal obeys; the formatter has escaped those of ASCII.
fn escaped_in_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            // All of them are in Unicode's first plane. Writing to a string can't fail.
            let _ = fmt::write(&mut out, format_args!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns whether a character is not seen itself and changes how others are: line and paragraph separators, and the marks,
/// embeddings, overrides and isolates of bidirectional text.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A JSON object with its texts cut so that it becomes short enough.
fn shortened(text: &str) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(text) else { return "{}".into() };
    let most = MAX_LINE_BYTES / 2 / fields.len().max(1);
    let cut = |value: serde_json::Value| match value {
        serde_json::Value::String(text) if text.len() > most / 2 => {
            let short = cut(&text, most / 2);
            format!("{short}… ({} bytes more)", text.len() - short.len()).into()
        }
        other => other,
    };
    let fields: serde_json::Map<_, _> = fields.into_iter().map(|(name, value)| (name, cut(value))).collect();
    serde_json::Value::Object(fields).to_string()
}

/// As many whole characters of `text` as `most` bytes hold.
#[must_use]
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str, form: Form) -> String {
        String::from_utf8(clean(line.as_bytes(), form)).expect("UTF-8")
    }

    #[test]
    fn a_line_is_one_line() {
        for (line, cleaned) in [
            ("plain\n", "plain\n"),
            ("a\nb\n", "a\\nb\n"),
            ("a\r\tb\u{1b}[31m", "a\\r\\tb\\u{1b}[31m\n"),
            ("a\u{2028}b\u{202e}c\u{85}d\u{7f}", "a\\u{2028}b\\u{202e}c\\u{85}d\\u{7f}\n"),
            ("größe\n", "größe\n"),
        ] {
            assert_eq!(text(line, Form::Text), cleaned);
        }
        assert_eq!(text("\u{1b}[33mx\u{1b}[0m\n", Form::Colours), "\u{1b}[33mx\u{1b}[0m\n");
        assert_eq!(visible("größe"), "größe");
        assert_eq!(visible("a\nb\u{1b}[2K\u{9b}\u{202e}"), "a\\nb\\u{1b}[2K\\u{9b}\\u{202e}");
        assert_eq!(visible_lines("usage\n\tSHOW\r\n"), "usage\n\tSHOW\\r\n", "the table of SHOW HELP is indented");
        assert_eq!(clean(b"\xff\n", Form::Text), "\u{fffd}\n".as_bytes());
        let long = text(&"é".repeat(MAX_LINE_BYTES), Form::Text);
        assert!(long.len() < MAX_LINE_BYTES + 64 && long.ends_with("bytes more)\n"), "{} bytes", long.len());
    }

    #[test]
    fn a_long_object_stays_one() {
        let line =
            serde_json::json!({"level": "INFO", "message": "é\"\n".repeat(MAX_LINE_BYTES), "client": 7}).to_string();
        let short = text(&line, Form::Json);
        assert!(short.len() < MAX_LINE_BYTES, "{} bytes", short.len());
        let parsed: serde_json::Value = serde_json::from_str(&short).expect("JSON");
        assert_eq!((&parsed["level"], &parsed["client"]), (&"INFO".into(), &7.into()));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let queue = Queue::default();
        let line = [b'x'; 1000];
        for _ in 0..2000 {
            queue.put(&line);
        }
        let fit = MAX_QUEUE_BYTES / (line.len() + LINE_OVERHEAD_BYTES);
        assert_eq!(queue.dropped(), 2000 - fit as u64);
        let (lines, dropped) = queue.take().expect("lines");
        assert_eq!((lines.len(), dropped), (fit, 2000 - fit as u64));
        queue.put(&line);
        assert_eq!(queue.state().lines.len(), 0, "what is being written still counts");
        for line in &lines {
            queue.done(line.len() + LINE_OVERHEAD_BYTES);
        }
        queue.put(&line);
        assert_eq!(queue.state().lines.len(), 1);
    }
}
