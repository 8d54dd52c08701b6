//! Other ways to say what a script says: comments, blanks, empty statements, capitals.

use crate::random::Random;
use crate::script::{Message, Script};

/// Says the texts of a script in another way: with comments and blanks at both ends, an empty statement behind, in capitals.
pub fn decorate(script: &mut Script, random: &mut Random) {
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        match message {
            Message::Query(statements) => {
                let last = statements.len() - 1;
                for (at, statement) in statements.iter_mut().enumerate() {
                    decorate_text(statement, at == last, random);
                }
            }
            Message::Parse { text, .. } => decorate_text(text, true, random),
            _ => {}
        }
    }
}

fn decorate_text(text: &mut String, last: bool, random: &mut Random) {
    if random.chance(80) {
        return;
    }
    if random.chance(30) && !text.contains(['\'', '"', '$']) {
        *text = text.to_ascii_uppercase();
    }
    if random.chance(30) {
        text.insert_str(0, random.pick(&[" ", "/* in front */ ", "-- in front\n", "/* /* in */ it's */", "\n\t"]));
    }
    let mut ends = vec![" ", " /* behind */", "/* one; two */", " -- behind\n", "\n", " /* 'open */"];
    if last {
        ends.extend([" -- behind", ";", " ; -- behind", "--", " -- it's; the end"]);
    }
    text.push_str(random.pick(&ends));
}
