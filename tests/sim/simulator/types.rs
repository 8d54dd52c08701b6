//! The types of parameters that clients are told where a column's type changes in a run: what a statement has been told to have it keeps.

use std::collections::HashMap;

use super::account;
use crate::transcript::{Seen, Transcript};

const INT8: [u8; 4] = 20_u32.to_be_bytes();
const INT4: [u8; 4] = 23_u32.to_be_bytes();

/// The same, as if no column's type had changed.
pub fn as_before(transcript: &Transcript) -> Transcript {
    let mut transcript = transcript.clone();
    for seen in transcript.seen.iter_mut().filter(|seen| seen.tag == b't') {
        let (count, types) = seen.body.split_at(2.min(seen.body.len()));
        let types = types.chunks(4).flat_map(|oid| if *oid == INT8 { INT4.to_vec() } else { oid.to_vec() });
        seen.body = count.iter().copied().chain(types).collect();
    }
    transcript
}

/// A statement whose parameters a client is told to have other types than before, where it has sent `sent` and been `told` this.
pub fn contradiction(sent: &[u8], told: &[Seen]) -> Option<String> {
    let mut known: HashMap<&[u8], &[u8]> = HashMap::new();
    for (message, seen) in account::answers(sent, told) {
        // What is longer is cut off, so that two long names may be one (`NAMEDATALEN`).
        let name = |from: usize| {
            let name = message.body.get(from..)?.split(|byte| *byte == 0).next()?;
            Some(&name[..name.len().min(63)])
        };
        match (message.tag, seen.tag) {
            (b'P', b'1') => {
                known.remove(name(0)?);
            }
            (b'D', b't') => {
                let name = name(1)?;
                let before = known.insert(name, &seen.body);
                if before.is_some_and(|before| *before != *seen.body) {
                    return Some(format!("is told other types of {}", name.escape_ascii()));
                }
            }
            // SQL frees names, and takes them.
            (_, b'C') if [&b"DEALLOCATE"[..], b"DISCARD", b"PREPARE"].iter().any(|tag| seen.body.starts_with(tag)) => {
                known.clear();
            }
            _ => {}
        }
    }
    None
}
