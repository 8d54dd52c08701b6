//! The main job: short connections, every user's own password, the same answers.

use crate::harness::{Pgferry, Postgres, postgres::PASSWORD};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_user_logs_in_with_its_own_password() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    for user in ["trust_user", "md5_user", "scram_user", "plain_user"] {
        for _ in 0..3 {
            let client = ferry.try_connect(&format!("user={user} password='pa ss\\'w\\\\ord'")).await.expect(user);
            let row = client.query_one("select current_user::text, $1::int4", &[&7]).await.expect("a row");
            assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), (user, 7));
        }
    }
    assert_eq!(PASSWORD, "pa ss'w\\ord");
}

#[test]
fn clients_are_told_the_path_that_they_connected_to() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let client = std::os::unix::net::UnixStream::connect(ferry.socket()).expect("heard");
    let peer = client.peer_addr().expect("an address");
    assert_eq!(peer.as_pathname(), Some(ferry.socket().as_path()));
}
