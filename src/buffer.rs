//! Storage that is lent while bytes are under way and given back when they are gone, so that memory follows the
//! connections that are active, not those that are open.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::lock::lock;

/// Storage that is not in use.
#[derive(Debug)]
pub struct BufferPool {
    free_list: Mutex<FreeList>,
    size: usize,
    keep: usize,
}

#[derive(Debug, Default)]
struct FreeList {
    free: Vec<Box<[u8]>>,
    /// Number of buffers of the usual size that are lent.
    lent: usize,
}

impl BufferPool {
    /// Lends buffers of `size` bytes, and keeps at most `keep` unused ones.
    #[must_use]
    pub fn new(size: usize, keep: usize) -> Arc<Self> {
        Arc::new(Self { free_list: Mutex::default(), size, keep })
    }

    fn take(&self) -> Box<[u8]> {
        let mut free_list = self.free_list();
        free_list.lent += 1;
        let free = free_list.free.pop();
        drop(free_list);
        free.unwrap_or_else(|| vec![0; self.size].into_boxed_slice())
    }

    fn give_back(&self, storage: Box<[u8]>) {
        if storage.len() != self.size {
            return;
        }
        let mut free_list = self.free_list();
        free_list.lent = free_list.lent.saturating_sub(1);
        if free_list.free.len() < self.keep {
            free_list.free.push(storage);
        }
    }

    /// Returns whether so many are lent that long waits should do without.
    fn is_scarce(&self) -> bool {
        self.free_list().lent > self.keep / 2
    }

    /// The size of a buffer, how many are lent, and how many are kept for the next.
    #[must_use]
    pub fn usage(&self) -> (usize, usize, usize) {
        let free_list = self.free_list();
        (self.size, free_list.lent, free_list.free.len())
    }

    fn free_list(&self) -> MutexGuard<'_, FreeList> {
        lock(&self.free_list)
    }
}

/// Bytes on their way through: `done ≤ parsed ≤ filled`.
///
/// Up to `done` they have been sent on, up to `parsed` they have been looked at and may be sent, up to `filled` they
/// have been received. Storage is held only while something is between `done` and `filled`.
#[derive(Debug)]
pub struct Buffer {
    pool: Arc<BufferPool>,
    storage: Option<Box<[u8]>>,
    done: usize,
    parsed: usize,
    filled: usize,
}

impl Buffer {
    /// An empty buffer, which holds no storage.
    #[must_use]
    pub fn new(pool: Arc<BufferPool>) -> Self {
        Self { pool, storage: None, done: 0, parsed: 0, filled: 0 }
    }

    /// Returns whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done == self.filled
    }

    /// Bytes that may be sent on.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.storage.as_ref().map_or(&[], |storage| &storage[self.done..self.parsed])
    }

    /// Bytes that have not been looked at.
    #[must_use]
    pub fn unparsed(&self) -> &[u8] {
        self.storage.as_ref().map_or(&[], |storage| &storage[self.parsed..self.filled])
    }

    /// Bytes that have not been looked at, to be changed in place.
    pub fn unparsed_mut(&mut self) -> &mut [u8] {
        let (parsed, filled) = (self.parsed, self.filled);
        self.storage.as_mut().map_or(&mut [], |storage| &mut storage[parsed..filled])
    }

    /// Number of bytes that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.storage.as_ref().map_or(0, |storage| storage.len()).max(self.pool.size)
    }

    /// Returns whether no more can be received until something has been sent on.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.filled - self.done == self.capacity()
    }

    /// Room to receive into; borrows storage, and moves what is under way to its front when the tail is used up.
    pub fn space(&mut self) -> &mut [u8] {
        if self.storage.as_ref().is_some_and(|storage| storage.len() < self.pool.size) {
            self.move_to(self.pool.take());
        }
        let storage = self.storage.get_or_insert_with(|| self.pool.take());
        if self.filled == storage.len() && self.done > 0 {
            storage.copy_within(self.done..self.filled, 0);
            self.parsed -= self.done;
            self.filled -= self.done;
            self.done = 0;
        }
        &mut storage[self.filled..]
    }

    /// Notes that `n` bytes of [`Buffer::space`] were filled. Call it with 0 when nothing came, so that storage goes
    /// back.
    pub fn received(&mut self, n: usize) {
        self.filled = (self.filled + n).min(self.capacity());
        self.give_back_if_empty();
    }

    /// Marks the next `n` unparsed bytes as fit to be sent.
    pub fn parse(&mut self, n: usize) {
        self.parsed = (self.parsed + n).min(self.filled);
    }

    /// Notes that `n` bytes of [`Buffer::unsent`] were sent.
    pub fn sent(&mut self, n: usize) {
        self.done = (self.done + n).min(self.parsed);
        self.give_back_if_empty();
    }

    /// Drops the next `n` unparsed bytes.
    ///
    /// Only bytes that nothing unsent stands before can be dropped; the caller sends first.
    pub fn skip(&mut self, n: usize) {
        debug_assert!(self.done == self.parsed, "what stands before must be sent first");
        self.parse(n);
        self.sent(n);
    }

    /// Drops the next `n` unparsed bytes and overwrites them: they were a secret, and the storage goes to others.
    pub fn wipe(&mut self, n: usize) {
        let secret = self.parsed..self.parsed + n.min(self.unparsed().len());
        let bytes = secret.len();
        if let Some(storage) = self.storage.as_mut() {
            storage[secret].fill(0);
        }
        self.skip(bytes);
    }

    /// Puts bytes that were sent in vain back in front of those that have not been looked at.
    ///
    /// Only possible when nothing else waits to be sent.
    pub fn put_back(&mut self, bytes: &[u8]) {
        debug_assert!(self.done == self.parsed, "what is put back comes first");
        let rest = self.unparsed().to_vec();
        let size = bytes.len() + rest.len();
        if size == 0 {
            return;
        }
        self.clear();
        self.reserve(size);
        let space = self.space();
        space[..bytes.len()].copy_from_slice(bytes);
        space[bytes.len()..size].copy_from_slice(&rest);
        self.received(size);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.done = self.filled;
        self.parsed = self.filled;
        self.give_back_if_empty();
    }

    /// Makes room for more of a message of `size` bytes that begins at the first unparsed byte, if what has come of it
    /// fills the storage: twice as much at a time, so that storage follows what comes and not what is claimed.
    pub fn make_room(&mut self, size: usize) {
        if self.unparsed().len() == self.capacity() {
            self.reserve(size.min(2 * self.capacity()));
        }
    }

    /// Makes room for a whole message of `size` bytes that begins at the first unparsed byte.
    pub fn reserve(&mut self, size: usize) {
        let needed = size + (self.parsed - self.done);
        if needed <= self.capacity() {
            return;
        }
        self.move_to(vec![0; needed].into_boxed_slice());
    }

    /// Holds what is under way in as little storage as it needs, where that is little and many others hold some: for those
    /// that wait long. More storage is borrowed as soon as more comes.
    pub fn shrink(&mut self) {
        let here = self.filled - self.done;
        let usual = self.storage.as_ref().is_some_and(|storage| storage.len() == self.pool.size);
        if usual && here <= self.pool.size / 8 && self.pool.is_scarce() {
            self.move_to(vec![0; here].into_boxed_slice());
        }
    }

    /// Has what is under way in `storage`, which it fits into.
    fn move_to(&mut self, mut storage: Box<[u8]>) {
        if let Some(mut old) = self.storage.take() {
            let here = &mut old[self.done..self.filled];
            storage[..here.len()].copy_from_slice(here);
            // It may be part of a secret.
            here.fill(0);
            self.pool.give_back(old);
        }
        self.parsed -= self.done;
        self.filled -= self.done;
        self.done = 0;
        self.storage = Some(storage);
    }

    fn give_back_if_empty(&mut self) {
        if self.done == self.filled {
            self.done = 0;
            self.parsed = 0;
            self.filled = 0;
            if let Some(storage) = self.storage.take() {
                self.pool.give_back(storage);
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(storage) = self.storage.take() {
            self.pool.give_back(storage);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Receive(usize),
        Parse(usize),
        Send(usize),
        Skip(usize),
        Reserve(usize),
        PutBack(u8),
        Shrink,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..12).prop_map(Step::Receive),
            (0usize..12).prop_map(Step::Parse),
            (0usize..12).prop_map(Step::Send),
            (0usize..12).prop_map(Step::Skip),
            (0usize..40).prop_map(Step::Reserve),
            (0u8..10).prop_map(Step::PutBack),
            Just(Step::Shrink),
        ]
    }

    proptest! {
        /// Whatever the order of steps: bytes come out as they went in, and storage is held only while some are in.
        #[test]
        fn bytes_come_out_in_order(steps in prop::collection::vec(step(), 0..100)) {
            let pool = BufferPool::new(16, 1);
            let mut buffer = Buffer::new(Arc::clone(&pool));
            let (mut next_in, mut next_out) = (0u8, 0u8);
            for step in steps {
                match step {
                    Step::Receive(n) => {
                        if buffer.is_full() { continue }
                        let space = buffer.space();
                        prop_assert!(!space.is_empty());
                        let n = n.min(space.len());
                        for slot in &mut space[..n] {
                            *slot = next_in;
                            next_in = next_in.wrapping_add(1);
                        }
                        buffer.received(n);
                    }
                    Step::Parse(n) => buffer.parse(n.min(buffer.unparsed().len())),
                    Step::Send(n) => {
                        let n = n.min(buffer.unsent().len());
                        for &byte in &buffer.unsent()[..n] {
                            prop_assert_eq!(byte, next_out);
                            next_out = next_out.wrapping_add(1);
                        }
                        buffer.sent(n);
                    }
                    Step::Skip(n) => if buffer.unsent().is_empty() {
                        let n = n.min(buffer.unparsed().len());
                        buffer.skip(n);
                        next_out = next_out.wrapping_add(u8::try_from(n).expect("small"));
                    },
                    Step::PutBack(n) => if buffer.unsent().is_empty() {
                        let back: Vec<u8> = (0..n).rev().map(|k| next_out.wrapping_sub(k + 1)).collect();
                        buffer.put_back(&back);
                        next_out = next_out.wrapping_sub(n);
                    },
                    Step::Reserve(n) => {
                        buffer.reserve(n);
                        prop_assert!(buffer.capacity() >= n);
                    }
                    Step::Shrink => buffer.shrink(),
                }
                prop_assert!(buffer.done <= buffer.parsed && buffer.parsed <= buffer.filled);
                let inside = usize::from(next_in.wrapping_sub(next_out));
                prop_assert_eq!(buffer.unsent().len() + buffer.unparsed().len(), inside);
                prop_assert_eq!(buffer.is_empty(), inside == 0);
            }
            buffer.clear();
            prop_assert!(buffer.storage.is_none());
            prop_assert_eq!(pool.usage().1, 0, "all that was lent is back");
        }
    }

    #[test]
    fn who_waits_holds_no_more_than_what_came() {
        let enough = BufferPool::new(64, 4);
        let filled = |pool: &Arc<BufferPool>| {
            let mut buffer = Buffer::new(Arc::clone(pool));
            buffer.space()[..8].copy_from_slice(b"select 1");
            buffer.received(8);
            buffer.shrink();
            buffer
        };
        assert_eq!(filled(&enough).storage.as_ref().map(|storage| storage.len()), Some(64), "there is enough for all");
        let pool = BufferPool::new(64, 0);
        let mut buffer = filled(&pool);
        assert_eq!(buffer.storage.as_ref().map(|storage| storage.len()), Some(8));
        assert_eq!((pool.usage().1, buffer.capacity(), buffer.is_full()), (0, 64, false));
        buffer.space()[..1].copy_from_slice(b";");
        buffer.received(1);
        assert_eq!(buffer.unparsed(), b"select 1;");
        buffer.shrink();
        assert_eq!(pool.usage().1, 1, "more than an eighth is left where it is");
    }

    #[test]
    fn an_empty_buffer_holds_nothing() {
        let pool = BufferPool::new(16, 4);
        let mut buffer = Buffer::new(Arc::clone(&pool));
        buffer.space();
        assert!(buffer.storage.is_some());
        buffer.received(0);
        assert!(buffer.storage.is_none());
        assert_eq!(pool.usage(), (16, 0, 1));
        drop(
            (0..10)
                .map(|_| {
                    let mut b = Buffer::new(Arc::clone(&pool));
                    b.space();
                    b
                })
                .collect::<Vec<_>>(),
        );
        assert_eq!(pool.usage().2, 4, "what is unused is bounded");
    }
}
