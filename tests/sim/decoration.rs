//! Other ways to say what a script says: comments, blanks, empty statements, capitals.

use crate::random::Random;
use crate::script::{Message, Script};

/// Says the texts of a script in another way: with comments and blanks at both ends, an empty statement behind, in capitals.
pub fn decorate(script: &mut Script, random: &mut Random) {
    let is_long = random.chance(10);
    for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
        match message {
            Message::Query(statements) => {
                let last = statements.len() - 1;
                for (at, statement) in statements.iter_mut().enumerate() {
                    decorate_text(statement, at == last, random);
                    if is_long {
                        lengthen(statement, random);
                    }
                }
            }
            Message::Parse { text, .. } => {
                decorate_text(text, true, random);
                if is_long {
                    lengthen(text, random);
                }
            }
            _ => {}
        }
    }
}

/// Says a text with a comment that is longer than what some read of it.
fn lengthen(text: &mut String, random: &mut Random) {
    if random.chance(25) {
        text.insert_str(0, &format!("/* {} */", "long ".repeat(random.pick(&[20, 120, 1000]))));
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
