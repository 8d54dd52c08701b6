//! One client alone on a model of its own: what it must be told.

use crate::model::Cluster;
use crate::script::{REST, Script};
use crate::transcript::Transcript;

/// The role that scripts log in as.
pub const USER: &str = "trust_user";

/// Runs `script` on `cluster`, with nobody else there.
pub fn run(cluster: &mut Cluster, script: &Script) -> Transcript {
    let mut transcript = Transcript::default();
    let id = cluster.connect();
    cluster.receive(id, &script.startup_packet(USER));
    transcript.feed(&cluster.take_output(id));
    transcript.waited();
    for write in &script.writes {
        cluster.receive(id, &write.bytes());
        transcript.feed(&cluster.take_output(id));
        if write.rests() {
            transcript.waited();
            cluster.advance(REST);
            transcript.feed(&cluster.take_output(id));
        }
        if write.wait || write.rests() {
            transcript.waited();
        }
        if write.cut.is_some() {
            break;
        }
    }
    cluster.disconnect(id);
    if cluster.is_waiting(id) {
        // What it does is done first.
        cluster.advance(REST);
    }
    transcript.feed(&cluster.take_output(id));
    transcript.closed = cluster.is_closed(id);
    cluster.forget(id);
    transcript
}
