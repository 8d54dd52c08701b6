//! What clients may see where the server's default of a setting changes in a run: the former one or the new one, and always what they
//! were told.

use super::case::NEW_ZONE;
use super::check::login;
use crate::transcript::{Seen, Transcript};

/// The default before it changes.
const FORMER: &str = "UTC";

fn report(zone: &str) -> Seen {
    Seen { tag: b'S', body: format!("TimeZone\0{zone}\0").into_bytes().into() }
}

/// A row with a zone in its only column.
fn row(zone: &str) -> Seen {
    let length = u32::try_from(zone.len()).unwrap_or_default().to_be_bytes();
    Seen { tag: b'D', body: [&[0, 1][..], &length, zone.as_bytes()].concat().into() }
}

fn is_zone(seen: &Seen) -> bool {
    seen.tag == b'S' && seen.body.starts_with(b"TimeZone\0")
}

/// Takes the report of the zone away that ends `seen`, where that has been `told` already.
fn drop_known(seen: &mut Vec<Seen>, told: &mut Option<Box<[u8]>>) {
    let reports = seen.iter().rposition(|seen| seen.tag != b'S').map_or(0, |at| at + 1);
    let Some(at) = seen[reports..].iter().position(is_zone).map(|at| reports + at) else { return };
    if told.replace(seen[at].body.clone()).as_ref() == Some(&seen[at].body) {
        seen.remove(at);
    }
}

/// The same, as if the default had not changed.
pub fn as_before(transcript: &Transcript) -> Transcript {
    let mut transcript = transcript.clone();
    let mut told = None;
    let length = |zone: &str| [&[0; 3][..], &[u8::try_from(zone.len()).unwrap_or_default()], zone.as_bytes()].concat();
    let (new, former) = (length(NEW_ZONE), length(FORMER));
    for seen in &mut transcript.seen {
        if *seen == report(NEW_ZONE) {
            *seen = report(FORMER);
        }
        if matches!(seen.tag, b'D' | b'V')
            && let Some(at) = seen.body.windows(new.len()).position(|part| *part == *new)
        {
            seen.body = [&seen.body[..at], &former, &seen.body[at + new.len()..]].concat().into();
        }
    }
    for seen in std::mem::take(&mut transcript.seen) {
        let reports = transcript.seen.iter().rposition(|before| before.tag != b'S').map_or(0, |at| at + 1);
        if is_zone(&seen)
            && let Some(at) = transcript.seen[reports..].iter().position(is_zone)
        {
            // What is put right at once does not count.
            transcript.seen.remove(reports + at);
        }
        if seen.tag != b'S' {
            drop_known(&mut transcript.seen, &mut told);
        }
        transcript.seen.push(seen);
    }
    drop_known(&mut transcript.seen, &mut told);
    transcript
}

/// Where a client is told, or shown, another default than at its login. It names none of them itself.
pub fn change(transcript: &Transcript) -> Option<String> {
    let login = login(transcript);
    let zone = |seen: &Seen| [FORMER, NEW_ZONE].into_iter().find(|zone| *seen == report(zone) || *seen == row(zone));
    let own = transcript.seen[..login].iter().find_map(zone)?;
    let other = transcript.seen[login..].iter().filter_map(zone).find(|zone| *zone != own)?;
    Some(format!("is told {own} at its login, and {other} later"))
}

/// Where a client has seen one default by a simple query and was told the other, before it or with its answer.
pub fn contradiction(transcript: &Transcript) -> Option<String> {
    let defaults = [FORMER, NEW_ZONE];
    let (mut told, mut told_before, mut shown, mut is_simple, mut has_set) = (None, None, None, true, false);
    for (at, seen) in transcript.seen.iter().enumerate() {
        match seen.tag {
            b'S' if seen.body.starts_with(b"TimeZone\0") => {
                // Reports in a row are in no order: of two values the one told last is not known.
                let is_again = transcript.seen[..at]
                    .iter()
                    .rev()
                    .take_while(|before| before.tag == b'S')
                    .any(|before| before.body.starts_with(b"TimeZone\0"));
                told = defaults.into_iter().find(|zone| !is_again && *seen == report(zone));
            }
            // What was shown in front of it is of before.
            b'C' if [&b"RESET"[..], b"SET", b"DISCARD"].iter().any(|tag| seen.body.starts_with(tag)) => {
                (shown, has_set) = (None, true);
            }
            // What was shown behind it is undone with it.
            b'E' if has_set => shown = None,
            b'D' => shown = defaults.into_iter().find(|zone| *seen == row(zone)).or(shown),
            b'1'..=b'3' | b'n' | b't' => is_simple = false,
            b'Z' => {
                if is_simple
                    && let (Some(told), Some(shown)) = (told, shown)
                    && told != shown
                    && told_before != Some(shown)
                {
                    return Some(format!("is told {told} and shown {shown} up to message {at}"));
                }
                (told_before, shown, is_simple, has_set) = (told, None, true, false);
            }
            _ => {}
        }
    }
    None
}
