//! What a cluster does between its connections, and what it can be made to do wrong.

use std::time::Duration;

use super::{BackendId, Cluster};
use crate::alone::USER;
use crate::script::Script;
use crate::transcript::Transcript;

/// A cluster, and what its clients have been told.
struct Scene {
    cluster: Cluster,
    clients: Vec<(BackendId, Transcript)>,
}

impl Scene {
    fn new(clients: usize) -> Self {
        let mut scene = Self { cluster: Cluster::default(), clients: Vec::new() };
        for _ in 0..clients {
            scene.connect();
        }
        scene
    }

    fn connect(&mut self) -> usize {
        let id = self.cluster.connect();
        self.cluster.receive(id, &Script::default().startup_packet(USER));
        self.cluster.take_output(id);
        self.clients.push((id, Transcript::default()));
        self.clients.len() - 1
    }

    fn id(&self, client: usize) -> BackendId {
        self.clients[client].0
    }

    /// Sends what `script` says in the scripts' notation.
    fn send(&mut self, client: usize, script: &str) {
        let script: Script = script.parse().expect("a script");
        let id = self.id(client);
        script.writes.iter().for_each(|write| self.cluster.receive(id, &write.bytes()));
    }

    /// What a client has been told since the last time.
    fn told(&mut self, client: usize) -> String {
        let (id, transcript) = &mut self.clients[client];
        *transcript = Transcript::default();
        transcript.feed(&self.cluster.take_output(*id));
        transcript.to_string().trim().to_owned()
    }

    fn says(&mut self, client: usize, script: &str) -> String {
        self.send(client, script);
        self.told(client)
    }
}

#[test]
fn a_lock_is_waited_for() {
    let mut scene = Scene::new(2);
    scene.says(0, "Q('begin; lock table t')");
    assert_eq!(scene.says(1, "Q('select token from t; select 1')"), "");
    assert!(scene.cluster.is_waiting(scene.id(1)) && !scene.cluster.is_quiet());
    assert_eq!(scene.says(0, "Q('commit')"), "C(COMMIT) Z(I)");
    assert_eq!(scene.told(1), "T(token:25.1) C(SELECT 0) T(?column?:23.0) D(1) C(SELECT 1) Z(I)");
    assert!(scene.cluster.is_quiet());
}

#[test]
fn a_lock_is_waited_for_before_columns_are_looked_at() {
    let mut scene = Scene::new(2);
    scene.says(0, "Q('begin; lock table t')");
    assert_eq!(scene.says(1, "Q('select nothing from t')"), "");
    scene.says(0, "Q('commit')");
    assert_eq!(scene.told(1), "E(ERROR 42703) Z(I)");
}

#[test]
fn a_lock_of_a_client_that_is_gone_is_free() {
    let mut scene = Scene::new(2);
    scene.says(0, "Q('select pg_advisory_lock(1)')");
    scene.send(1, "[P('','select pg_advisory_lock($1)') B('','','1') E S]");
    assert_eq!(scene.told(1), "");
    assert!(scene.cluster.unread(scene.id(1)) > 0);
    scene.cluster.disconnect(scene.id(0));
    assert!(scene.cluster.is_closed(scene.id(0)));
    assert_eq!(scene.told(1), "1 2 D() C(SELECT 1) Z(I)");
    assert_eq!(scene.cluster.unread(scene.id(1)), 0);
}

#[test]
fn a_unique_value_is_decided_by_the_first() {
    let mut scene = Scene::new(3);
    scene.says(0, "Q('begin; insert into t values (''a''), (''b'')')");
    scene.send(1, "Q('insert into t values (''a'')')");
    scene.says(2, "Q('copy t from stdin')");
    scene.send(2, "[d('b\\n') c]");
    assert!(scene.cluster.is_waiting(scene.id(1)) && scene.cluster.is_waiting(scene.id(2)));
    scene.says(0, "Q('rollback')");
    assert_eq!(scene.told(1), "C(INSERT 0 1) Z(I)");
    assert_eq!(scene.told(2), "C(COPY 1) Z(I)");
    assert_eq!(scene.says(0, "Q('insert into t values (''a'')')"), "E(ERROR 23505) Z(I)");
    assert_eq!(scene.cluster.rows("alpha", "public", "t").len(), 2);
    assert!(scene.cluster.rows("beta", "public", "t").is_empty());
}

#[test]
fn a_circle_of_locks_is_broken() {
    let mut scene = Scene::new(2);
    scene.says(0, "Q('begin; select pg_advisory_xact_lock(1)')");
    scene.says(1, "Q('begin; select pg_advisory_xact_lock(2)')");
    scene.send(0, "Q('select pg_advisory_xact_lock(2)')");
    let told = scene.says(1, "[P('','select pg_advisory_xact_lock(1)') B('','') E S]");
    assert_eq!(told, "1 2 E(ERROR 40P01) Z(E)");
    assert!(scene.told(0).ends_with("Z(T)"));
}

#[test]
fn a_wait_is_cancelled() {
    let mut scene = Scene::new(2);
    scene.says(0, "Q('select pg_advisory_lock(1)')");
    scene.send(1, "[Q('select pg_advisory_lock(1)') Q('select 1')]");
    let (pid, secret) = scene.cluster.key(scene.id(1));
    scene.cluster.cancel(pid, secret + 1);
    assert_eq!(scene.told(1), "");
    scene.cluster.cancel(pid, secret);
    assert_eq!(scene.told(1), "E(ERROR 57014) Z(I) T(?column?:23.0) D(1) C(SELECT 1) Z(I)");
    scene.cluster.cancel(pid, secret);
    assert_eq!(scene.says(1, "S"), "Z(I)", "it did nothing");
}

#[test]
fn sleeping_takes_the_clusters_time() {
    let mut scene = Scene::new(1);
    assert_eq!(scene.says(0, "Q('select pg_sleep(5)')"), "");
    assert_eq!(scene.cluster.next_wake(), Some(Duration::from_secs(5)));
    scene.cluster.advance(Duration::from_secs(4));
    assert!(!scene.cluster.has_output(scene.id(0)));
    scene.cluster.advance(Duration::from_secs(1));
    assert_eq!(scene.told(0), "T(pg_sleep:2278.0) D() C(SELECT 1) Z(I)");
    assert_eq!((scene.cluster.next_wake(), scene.cluster.now()), (None, Duration::from_secs(5)));
}

#[test]
fn notifications_reach_the_idle() {
    let mut scene = Scene::new(2);
    scene.says(0, "Q('listen m')");
    scene.says(1, "Q('notify m')");
    assert_eq!(scene.told(0), "A(m)");
    scene.says(0, "Q('begin')");
    scene.says(1, "Q('notify m')");
    assert_eq!(scene.told(0), "");
    assert_eq!(scene.says(0, "Q('commit')"), "C(COMMIT) A(m) Z(I)");
}

#[test]
fn sessions_are_terminated_in_every_state() {
    for before in
        ["Q('begin')", "Q('copy t from stdin')", "[P('','select 1') B('','') E H]", "P(bogus,'selec')", "Q('select 1')"]
    {
        let mut scene = Scene::new(2);
        scene.says(0, before);
        scene.cluster.terminate(scene.id(0));
        assert_eq!(scene.told(0), "E(FATAL 57P01)", "{before}");
        assert!(scene.cluster.is_closed(scene.id(0)) && scene.cluster.is_quiet());
        assert_eq!(scene.cluster.connections(), 1);
    }
    let mut scene = Scene::new(2);
    scene.says(0, "Q('select pg_advisory_lock(1)')");
    scene.send(1, "Q('select pg_advisory_lock(1)')");
    scene.cluster.fatal(scene.id(1), "57P05");
    assert_eq!(scene.told(1), "E(FATAL 57P05)");
}

#[test]
fn a_fatal_error_at_the_next_message_takes_nothing_of_it() {
    let mut scene = Scene::new(1);
    scene.cluster.fatal_at_next_message(scene.id(0), "57P01");
    let taken = scene.cluster.messages_taken(scene.id(0));
    assert_eq!(scene.says(0, "Q('insert into t values (''a'')')"), "E(FATAL 57P01)");
    assert_eq!(scene.cluster.messages_taken(scene.id(0)), taken);
    assert!(scene.cluster.rows("alpha", "public", "t").is_empty());
}

#[test]
fn a_crash_loses_what_is_not_flushed() {
    let mut scene = Scene::new(1);
    scene.send(0, "[P('','insert into t values (''a'')') B('','') E]");
    scene.cluster.crash(scene.id(0));
    assert_eq!(scene.told(0), "");
    assert!(scene.cluster.is_closed(scene.id(0)) && scene.cluster.rows("alpha", "public", "t").is_empty());
    scene.cluster.forget(scene.id(0));
    assert!(scene.cluster.is_closed(scene.id(0)));
}

#[test]
fn a_reset_fails_once() {
    let mut scene = Scene::new(1);
    scene.says(0, "Q('set a.b = x')");
    scene.cluster.refuse_discard(scene.id(0), "53200");
    assert_eq!(scene.says(0, "Q('discard all')"), "E(ERROR 53200) Z(I)");
    assert_eq!(scene.says(0, "Q('show a.b')"), "T(a.b:25.0) D(x) C(SHOW) Z(I)");
    assert_eq!(scene.says(0, "Q('discard all')"), "C(DISCARD ALL) Z(I)");
}

#[test]
fn a_stalled_backend_reads_on_later() {
    let mut scene = Scene::new(1);
    scene.cluster.stall(scene.id(0), true);
    assert_eq!(scene.says(0, "Q('select 1')"), "");
    scene.cluster.stall(scene.id(0), false);
    assert_eq!(scene.told(0), "T(?column?:23.0) D(1) C(SELECT 1) Z(I)");
}

#[test]
fn answers_are_seen_when_they_are_flushed() {
    let mut scene = Scene::new(1);
    assert_eq!(scene.says(0, "[P('','select 1') B('','') E]"), "");
    assert_eq!(scene.says(0, "H"), "1 2 D(1) C(SELECT 1)");
    assert_eq!(scene.says(0, "[P('','select repeat(''x'', 9000)') B('','') E]"), "1 2", "the buffer was full");
    let transcript = &scene.clients[0].1;
    assert_eq!(transcript.readies(), 0);
}

#[test]
fn what_pgferry_itself_asks_is_understood() {
    let mut scene = Scene::new(1);
    scene.says(0, "Q('create temp table x (a int); listen m; select pg_advisory_lock(1)')");
    let question = "SELECT NOT (pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) \
        pg_catalog.set_config('role', NULL, true) AND session_user OPERATOR(pg_catalog.=) 'trust_user'::pg_catalog.name), \
        EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
        OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()), \
        EXISTS (SELECT FROM pg_catalog.pg_listening_channels()), \
        EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql), \
        EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable), \
        EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
        AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())";
    let told = scene.says(0, &format!("Q('{}')", question.replace('\'', "''")));
    assert!(told.contains("D(f,t,t,f,f,t)"), "{told}");
    scene.says(0, "Q('set timezone to ''GMT''')");
    let origin =
        "SELECT name, reset_val FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY (''{TimeZone}'')";
    assert!(scene.says(0, &format!("Q('{origin}')")).contains("D(TimeZone,UTC)"));
    let settings = "SELECT pg_catalog.current_setting(''work_mem'', true), EXISTS (SELECT FROM pg_catalog.pg_settings \
        WHERE name OPERATOR(pg_catalog.=) ''work_mem'' AND setting OPERATOR(pg_catalog.=) reset_val), \
        pg_catalog.current_setting(''a.b'', true), false";
    assert!(scene.says(0, &format!("Q('{settings}')")).contains("D(4MB,t,NULL,f)"));
    assert_eq!(scene.cluster.unparsed(), [""; 0]);
}

#[test]
fn a_reset_that_keeps_statements_is_understood() {
    let mut scene = Scene::new(1);
    let check = "SELECT pg_catalog.pg_advisory_unlock_all(), \
        CASE WHEN pg_catalog.sum(CASE WHEN from_sql THEN 1000000 ELSE 1 END) OPERATOR(pg_catalog.=) 1::pg_catalog.int8 THEN 0 \
        ELSE (''pgferry: '' OPERATOR(pg_catalog.||) pg_catalog.count(*)::pg_catalog.text)::pg_catalog.int4 END \
        FROM pg_catalog.pg_prepared_statements";
    let reset = format!(
        "Q('BEGIN ISOLATION LEVEL READ COMMITTED;CLOSE ALL;SET SESSION AUTHORIZATION DEFAULT;RESET ALL;UNLISTEN *;{check};\
        DISCARD TEMP;DISCARD SEQUENCES;COMMIT')"
    );
    scene.says(0, "[P('one','select 1') S]");
    scene.says(0, "Q('listen m; set a.b = 1; set role none; select pg_advisory_lock(1); create temp table t (a int)')");
    let told = scene.says(0, &reset);
    assert!(told.contains("D(,0)") && told.ends_with("C(COMMIT) Z(I)"), "{told}");
    assert!(scene.says(0, "Q('select count(*) from pg_catalog.pg_locks')").contains("D(0)"));
    scene.says(0, "Q('prepare two as select 2')");
    let told = scene.says(0, &reset);
    assert!(told.contains("22P02") && told.ends_with("Z(E)"), "{told}");
    assert_eq!(scene.cluster.unparsed(), [""; 0]);
}

#[test]
fn tables_are_listed_when_they_are_committed() {
    let mut scene = Scene::new(1);
    scene.says(0, "Q('begin; create table two.w (a int)')");
    assert!(!scene.cluster.tables("alpha", "two").contains_key("w"));
    scene.says(0, "Q('commit')");
    assert_eq!(scene.cluster.tables("alpha", "two")["w"], ["a"]);
}

#[test]
fn scripts_are_read_as_they_are_printed() {
    for seed in 0..300 {
        let script = crate::generator::script(seed, crate::generator::Options::default());
        let read: Script = script.to_string().parse().expect("a script");
        assert_eq!(read.to_string(), script.to_string());
        let bytes = |script: &Script| script.writes.iter().map(crate::script::Write::bytes).collect::<Vec<_>>();
        assert_eq!(bytes(&read), bytes(&script));
    }
}

#[test]
fn what_is_no_text_is_refused_before_anything_is_done_for_it() {
    let without = |script: &str| -> Script {
        let mut script: Script = script.parse().expect("a script");
        for message in script.writes.iter_mut().flat_map(|write| &mut write.messages) {
            // At the end of its last string.
            if let Some(other) = message.with_bytes(b"\xc3", |among| among - 1) {
                *message = other;
            }
        }
        script
    };
    let mut scene = Scene::new(1);
    scene.says(0, "[P('','select 42') P(s,'select 1') S]");
    for refused in ["Q('discard all')", "[P('','select 1') S]", "[C(S,'') S]", "[B('',s) S]", "[D(S,s) S]", "[E S]"] {
        let told = scene.says(0, &without(refused).to_string());
        assert_eq!(told, "E(ERROR 22021) Z(I)", "{refused}");
    }
    assert!(scene.says(0, "[B('','') E S]").contains("D(42)"));
    assert!(scene.says(0, "[B('',s) E S]").contains("D(1)"));
    let told = scene.says(0, &format!("Q('begin') {} Q('rollback')", without("[P('','') S]")));
    assert_eq!(told, "C(BEGIN) Z(T) E(ERROR 22021) Z(E) C(ROLLBACK) Z(I)");
}

#[test]
fn sessions_begin_with_what_was_said_before_them() {
    let mut scene = Scene::new(1);
    scene.says(
        0,
        "Q('begin') Q('alter database alpha set work_mem = ''5MB''') Q('alter role trust_user set a.b = ''begun''')",
    );
    let early = scene.connect();
    assert_eq!(scene.says(early, "Q('show work_mem')"), "T(work_mem:25.0) D(4MB) C(SHOW) Z(I)", "not committed");
    assert_eq!(scene.says(0, "Q('commit') Q('show work_mem')"), "C(COMMIT) Z(I) T(work_mem:25.0) D(4MB) C(SHOW) Z(I)");
    let late = scene.connect();
    scene.says(late, "Q('set work_mem = ''1MB'';set a.b = ''now'';reset all')");
    let told = scene.says(late, "Q('show work_mem;select current_setting(''a.b'')')");
    assert_eq!(told, "T(work_mem:25.0) D(5MB) C(SHOW) T(current_setting:25.0) D(begun) C(SELECT 1) Z(I)");
    scene
        .says(0, "Q('alter database alpha reset all') Q('alter role trust_user in database beta set work_mem = 2048')");
    let last = scene.connect();
    assert_eq!(scene.says(last, "Q('show work_mem')"), "T(work_mem:25.0) D(4MB) C(SHOW) Z(I)");
}

#[test]
fn time_limits_end_what_takes_longer() {
    let limited = |version: u32, script: &str| {
        let mut scene = Scene::new(0);
        scene.cluster = Cluster::new(&super::Options { version, ..super::Options::default() });
        scene.connect();
        scene.says(0, script);
        scene.cluster.advance(crate::script::REST);
        scene.told(0)
    };
    assert_eq!(limited(15, "Q('set statement_timeout = 500') Q('select pg_sleep(1)')"), "E(ERROR 57014) Z(I)");
    for script in ["Q('begin')", "Q('begin') Q('select 1/0')"] {
        let script = format!("Q('set idle_in_transaction_session_timeout = 500') {script}");
        assert_eq!(limited(15, &script), "E(FATAL 25P03)", "{script}");
        assert_eq!(limited(15, &format!("{script} [P('','select 1')]")), "", "a message has come");
    }
    assert_eq!(limited(15, "Q('set idle_in_transaction_session_timeout = 500')"), "");
    for script in ["Q('begin')", "Q('select pg_sleep(1)')", "Q('set idle_in_transaction_session_timeout = 600;begin')"]
    {
        assert_eq!(limited(18, &format!("Q('set transaction_timeout = 500') {script}")), "E(FATAL 25P04)", "{script}");
    }
    assert_eq!(limited(18, "Q('set transaction_timeout = 500')"), "");
}

#[test]
fn versions_of_the_protocol_are_negotiated() {
    let begins = |version: u32, script: &str| {
        let mut cluster = Cluster::new(&super::Options { version, ..super::Options::default() });
        let script: Script = script.parse().expect("a script");
        let id = cluster.connect();
        cluster.receive(id, &script.startup_packet(USER));
        let mut transcript = Transcript::default();
        transcript.feed(&cluster.take_output(id));
        let key = transcript.seen.iter().find(|seen| seen.tag == b'K').map_or(0, |seen| seen.body[0]);
        (transcript.seen.iter().any(|seen| seen.tag == b'v'), key)
    };
    assert_eq!(begins(15, ""), (false, 8));
    assert_eq!(begins(15, "{protocol=3.2}"), (true, 8));
    assert_eq!(begins(15, "{_pq_.one=on}"), (true, 8));
    assert_eq!(begins(18, "{protocol=3.2}"), (false, 36));
    assert_eq!(begins(18, "{protocol=3.9}"), (true, 36));
}
