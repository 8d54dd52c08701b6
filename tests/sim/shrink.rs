//! Making a script that shows something smaller.

use super::script::{Message, Script};

/// The smallest script found for which `fails` holds as it does for `script`, in at most `tries` tries.
pub fn shrink(script: Script, mut tries: usize, mut fails: impl FnMut(&Script) -> bool) -> Script {
    let mut best = script;
    loop {
        let before = weight(&best);
        for simpler in [drop_writes, drop_messages, drop_statements, simplify] {
            simpler(&mut best, &mut |candidate: &Script| {
                if tries == 0 {
                    return false;
                }
                tries -= 1;
                fails(candidate)
            });
        }
        if weight(&best) >= before || tries == 0 {
            return best;
        }
    }
}

fn weight(script: &Script) -> usize {
    let statements = |message: &Message| match message {
        Message::Query(statements) => statements.len(),
        _ => 1,
    };
    let messages: usize = script.writes.iter().flat_map(|write| &write.messages).map(statements).sum();
    let waits = script.writes.iter().filter(|write| write.wait).count();
    messages * 4 + script.writes.len() * 2 + waits + script.startup.len()
}

type Fails<'a> = &'a mut dyn FnMut(&Script) -> bool;

fn drop_writes(best: &mut Script, fails: Fails<'_>) {
    let mut chunk = best.writes.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at + chunk <= best.writes.len() {
            let mut candidate = best.clone();
            candidate.writes.drain(at..at + chunk);
            if fails(&candidate) {
                *best = candidate;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
}

fn drop_messages(best: &mut Script, fails: Fails<'_>) {
    for write in (0..best.writes.len()).rev() {
        for message in (0..best.writes[write].messages.len()).rev() {
            let mut candidate = best.clone();
            candidate.writes[write].messages.remove(message);
            if fails(&candidate) {
                *best = candidate;
            }
        }
    }
}

fn drop_statements(best: &mut Script, fails: Fails<'_>) {
    for write in 0..best.writes.len() {
        for message in 0..best.writes[write].messages.len() {
            let Message::Query(statements) = &best.writes[write].messages[message] else { continue };
            for at in (0..statements.len()).rev() {
                let mut candidate = best.clone();
                if let Message::Query(statements) = &mut candidate.writes[write].messages[message] {
                    if statements.len() == 1 || at >= statements.len() {
                        continue;
                    }
                    statements.remove(at);
                }
                if fails(&candidate) {
                    *best = candidate;
                }
            }
        }
    }
}

fn simplify(best: &mut Script, fails: Fails<'_>) {
    for at in (0..best.startup.len()).rev() {
        let mut candidate = best.clone();
        candidate.startup.remove(at);
        if fails(&candidate) {
            *best = candidate;
        }
    }
    for at in (1..best.writes.len()).rev() {
        // One write with the one before it.
        let mut candidate = best.clone();
        let write = candidate.writes.remove(at);
        let before = &mut candidate.writes[at - 1];
        before.messages.extend(write.messages);
        before.wait = write.wait;
        before.cut = write.cut;
        if fails(&candidate) {
            *best = candidate;
        }
    }
    for at in 0..best.writes.len() {
        if best.writes[at].wait {
            let mut candidate = best.clone();
            candidate.writes[at].wait = false;
            if fails(&candidate) {
                *best = candidate;
            }
        }
    }
}
