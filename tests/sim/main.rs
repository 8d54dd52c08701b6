//! The simulator's parts: a model of PostgreSQL, scripts for clients, and the proof that the model is right.

mod model;

use model::Cluster;

#[test]
fn smoke() {
    let mut cluster = Cluster::default();
    let id = cluster.connect();
    let body = b"\0\x03\0\0user\0u\0database\0alpha\0\0";
    let mut packet = (u32::try_from(body.len() + 4).expect("small")).to_be_bytes().to_vec();
    packet.extend(body);
    cluster.receive(id, &packet);
    println!("{}", String::from_utf8_lossy(&cluster.take_output(id)));
}
