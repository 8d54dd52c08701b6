//! Logins that are compared here: SCRAM, MD5, clear text, looked-up secrets, and the rules about who may use which.

use crate::harness::pgferry::run_pgferry;
use crate::harness::postgres::{PASSWORD, free_port};
use crate::harness::protocol_client::{message, password, startup};
use crate::harness::{Certs, Message, Pgferry, Postgres, ProtocolClient, Signal, eventually};

/// As whom psql comes in, or what it complains about.
fn psql(connection: &str, secret: &str) -> Result<String, String> {
    crate::harness::psql(connection, secret, "select current_user")
}

fn through(ferry: &Pgferry, user: &str) -> String {
    format!("host={} dbname=postgres user={user}", ferry.host())
}

/// The secret of a role as the server stores it.
fn stored(postgres: &Postgres, role: &str) -> String {
    postgres.sql(&format!("select rolpassword from pg_authid where rolname = '{role}'"))
}

/// The messages of one login attempt with a wrong answer to whatever is asked.
fn refused(ferry: &Pgferry, user: &str) -> Vec<Message> {
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", user), ("database", "postgres")]));
    let mut said = vec![raw.recv().expect("a question")];
    if said[0].body[..4] == [0, 0, 0, 10] {
        raw.send(&sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abcdefgh"));
        said.push(raw.recv().expect("a challenge"));
        let text = String::from_utf8(said[1].body[4..].to_vec()).expect("text");
        let nonce = text.split(',').next().expect("a nonce");
        raw.send(&message(b'p', format!("c=biws,{nonce},p={}", "A".repeat(43) + "=").as_bytes()));
    } else {
        raw.send(&password("wrong"));
    }
    said.extend(raw.read_to_end());
    said
}

fn sasl_initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    let length = i32::try_from(data.len()).expect("short").to_be_bytes();
    message(b'p', &[mechanism.as_bytes(), b"\0", &length, data].concat())
}

#[test]
fn secrets_of_every_kind_let_in_and_log_in_upstream() {
    let postgres = Postgres::shared();
    let (scram, md5) = (stored(postgres, "scram_user"), stored(postgres, "md5_user"));
    assert!(scram.starts_with("SCRAM-SHA-256$") && md5.starts_with("md5"));
    let plain = toml(PASSWORD);
    for method in ["scram-sha-256", "md5", "password"] {
        let users = format!("scram_user = \"{scram}\"\nmd5_user = \"{md5}\"\nplain_user = {plain}\ntrust_user = \"x\"");
        let ferry =
            Pgferry::start_with_file(&postgres.url(), &format!("auth_type = \"{method}\"\n[users]\n{users}"), &[], &[]);
        for (user, secret) in
            [("scram_user", PASSWORD), ("md5_user", PASSWORD), ("plain_user", PASSWORD), ("trust_user", "x")]
        {
            // PostgreSQL too can't let in by SCRAM who has an MD5 secret.
            let possible = (method, user) != ("scram-sha-256", "md5_user");
            let outcome = psql(&through(&ferry, user), secret);
            assert_eq!(outcome.clone().ok(), possible.then(|| user.to_owned()), "{method} {outcome:?}");
            let error = psql(&through(&ferry, user), "wrong").expect_err("wrong");
            assert!(error.contains(&format!("password authentication failed for user \"{user}\"")), "{error}");
        }
        assert!(!ferry.log().contains(PASSWORD) && !ferry.log().contains(&scram), "{}", ferry.log());
    }
}

fn toml(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[test]
fn a_verifier_is_enough_to_reconnect() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    let file = format!("auth_type = \"scram-sha-256\"\n[users]\nscram_user = \"{}\"", stored(&postgres, "scram_user"));
    let ferry = Pgferry::start_with_file(&postgres.url(), &file, &[], &[]);
    for _ in 0..3 {
        assert_eq!(psql(&through(&ferry, "scram_user"), PASSWORD), Ok("scram_user".into()));
        postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'scram_user'");
        eventually("it is gone", || postgres.backends() == 0);
    }
    let before = ferry.report().get("upstream_opened");
    for _ in 0..20 {
        assert_eq!(psql(&through(&ferry, "scram_user"), PASSWORD), Ok("scram_user".into()));
        assert!(psql(&through(&ferry, "scram_user"), "wrong").is_err());
    }
    let opened = ferry.report().get("upstream_opened") - before;
    assert!(opened <= 1, "{opened} connections for logins that are compared here");
}

#[test]
fn a_verifier_that_is_not_the_servers_is_explained() {
    let postgres = Postgres::shared();
    // The same password, another salt: good for coming in, of no use upstream.
    let other = "SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$";
    let known = stored(postgres, "scram_user");
    let keys = known.rsplit('$').next().expect("keys");
    let file = format!("auth_type = \"scram-sha-256\"\n[users]\nscram_user = \"{other}{keys}\"");
    let wrong = Pgferry::start_with_file(&postgres.url(), &file, &[], &[]);
    assert!(psql(&through(&wrong, "scram_user"), PASSWORD).is_err(), "another salt is another password");
    let file = "auth_type = \"scram-sha-256\"\n[users]\nscram_user = \"another password\"";
    let ferry = Pgferry::start_with_file(&postgres.url(), file, &[], &[]);
    let error = psql(&through(&ferry, "scram_user"), "another password").expect_err("not the upstream's");
    assert!(error.contains("password authentication failed"), "{error}");
}

#[test]
fn who_exists_is_not_told() {
    let postgres = Postgres::shared();
    for method in ["scram-sha-256", "md5", "password"] {
        let file = format!(
            "auth_type = \"{method}\"\n[users]\nscram_user = \"{}\"\nplain_user = \"x\"",
            stored(postgres, "scram_user")
        );
        let start = || Pgferry::start_with_file(&postgres.url(), &file, &[], &[]);
        let (first, second) = (start(), start());
        let shape = |said: &[Message]| -> Vec<(u8, usize)> {
            said.iter().map(|message| (message.tag, message.body.len())).collect()
        };
        let known = refused(&first, "scram_user");
        let unknown = refused(&first, "scram_usex");
        if method == "md5" {
            // Users of both kinds are there: what is asked of a name that is none is asked again, and also after a restart.
            let kind = |ferry: &Pgferry, user: &str| refused(ferry, user)[0].body[..4].to_vec();
            let names: Vec<_> = (0..12).map(|nth| format!("nobody_{nth}")).collect();
            let kinds: Vec<_> = names.iter().map(|name| kind(&first, name)).collect();
            assert!(kinds.contains(&vec![0, 0, 0, 5]) && kinds.contains(&vec![0, 0, 0, 10]), "{kinds:?}");
            assert_eq!(names.iter().map(|name| kind(&second, name)).collect::<Vec<_>>(), kinds);
            assert!([&known, &refused(&first, "plain_user")].iter().any(|said| shape(said) == shape(&unknown)));
        } else {
            assert_eq!(shape(&known), shape(&unknown), "{known:?} {unknown:?}");
        }
        assert_eq!(unknown.last().expect("an error").field(b'C'), "28P01");
        if method == "scram-sha-256" {
            // A salt that changes at a restart would tell as well.
            let salt = |ferry: &Pgferry, user: &str| {
                let said = String::from_utf8(refused(ferry, user)[1].body[4..].to_vec()).expect("text");
                said.split(',').nth(1).expect("a salt").to_owned()
            };
            for user in ["scram_user", "plain_user", "nobody", "nobody2"] {
                assert_eq!(salt(&first, user), salt(&first, user), "{user}");
                assert_eq!(salt(&first, user), salt(&second, user), "{user}");
            }
            assert_ne!(salt(&first, "nobody"), salt(&first, "nobody2"));
        }
    }
}

#[test]
fn guessing_is_slow_and_bounded() {
    let postgres = Postgres::shared();
    let ferry = Pgferry::start_with_file(
        &postgres.url(),
        "auth_type = \"password\"\n[users]\ntrust_user = \"right\"",
        &[],
        &[],
    );
    let guess = || {
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
        raw.recv().expect("a question");
        raw.send(&password("wrong"));
        raw
    };
    let started = std::time::Instant::now();
    let guesses: Vec<_> = (0..700).map(|_| guess()).collect();
    let replies: Vec<_> =
        guesses.into_iter().map(|mut raw| raw.read_to_end().last().expect("an error").clone()).collect();
    assert!(replies.iter().all(|reply| reply.field(b'C') == "28P01"), "{replies:?}");
    // A hundred at once, and then a hundred a second.
    assert!(started.elapsed() >= std::time::Duration::from_secs(6), "they were held back: {:?}", started.elapsed());
    let _held: Vec<_> = (0..300).map(|_| guess()).collect();
    assert_eq!(psql(&through(&ferry, "trust_user"), "right"), Ok("trust_user".into()));
}

/// The salt's length and the rounds of hashing that a name is told of, by the method `scram-sha-256`.
fn shape(ferry: &Pgferry, user: &str) -> (usize, String) {
    let said = String::from_utf8(refused(ferry, user)[1].body[4..].to_vec()).expect("text");
    let mut parts = said.split(',').skip(1);
    (parts.next().expect("a salt").len(), parts.next().expect("rounds").to_owned())
}

#[test]
fn verifiers_of_other_shapes_do_not_tell_who_exists() {
    let postgres = Postgres::shared();
    let other = stored(postgres, "scram_user").replace("$4096:", "$10000:").replacen(':', ":AAAA", 1);
    let file = format!(
        "auth_type = \"scram-sha-256\"\n[users]\nscram_user = \"{}\"\nother = \"{other}\"",
        stored(postgres, "scram_user")
    );
    let (first, second) = (
        Pgferry::start_with_file(&postgres.url(), &file, &[], &[]),
        Pgferry::start_with_file(&postgres.url(), &file, &[], &[]),
    );
    let known = [shape(&first, "scram_user"), shape(&first, "other")];
    assert_ne!(known[0], known[1]);
    let names: Vec<_> = (0..12).map(|nth| format!("nobody_{nth}")).collect();
    let unknown: Vec<_> = names.iter().map(|name| shape(&first, name)).collect();
    assert!(known.iter().all(|shape| unknown.contains(shape)), "{unknown:?}");
    assert!(unknown.iter().all(|shape| known.contains(shape)), "{unknown:?}");
    assert_eq!(names.iter().map(|name| shape(&second, name)).collect::<Vec<_>>(), unknown, "the same after a restart");
}

#[test]
fn pgbouncers_file_is_read_and_followed() {
    let postgres = Postgres::shared();
    let certs = Certs::new();
    let list = certs.write("userlist.txt", &format!("\"scram_user\" \"{}\"\n", stored(postgres, "scram_user")));
    let ferry = Pgferry::start_with_file(
        &postgres.url(),
        &format!("auth_type = \"scram-sha-256\"\nauth_file = \"{list}\""),
        &[],
        &[],
    );
    assert!(psql(&through(&ferry, "scram_user"), PASSWORD).is_ok());
    assert!(psql(&through(&ferry, "trust_user"), "new").is_err());
    certs.write("userlist.txt", "\"trust_user\" \"new\"\n");
    assert!(psql(&through(&ferry, "trust_user"), "new").is_ok());
    assert!(psql(&through(&ferry, "scram_user"), PASSWORD).is_err());
    certs.write("userlist.txt", "trust_user\n");
    assert!(psql(&through(&ferry, "trust_user"), "new").is_ok(), "the old one stays");
    ferry.logs("line 1");
}

#[test]
fn secrets_are_looked_up_in_the_upstream() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    postgres.sql("create role expired login password 'x' valid until '2001-01-01'");
    postgres.sql("create role still_good login password 'x' valid until 'infinity'");
    postgres.sql("create role nologin_role password 'x'");
    postgres.prepend_hba("host all expired,still_good,nologin_role 127.0.0.1/32 scram-sha-256");
    let ferry = Pgferry::start_with_file(
        &postgres.url(),
        "auth_type = \"scram-sha-256\"\nauth_user = \"trust_user\"",
        &[],
        &[],
    );
    assert_eq!(psql(&through(&ferry, "scram_user"), PASSWORD), Ok("scram_user".into()));
    assert_eq!(psql(&through(&ferry, "still_good"), "x"), Ok("still_good".into()));
    // CVE-2025-2291, and CVE-2015-6817: nobody comes in as somebody else, least of all as auth_user.
    for (user, secret) in
        [("expired", "x"), ("nologin_role", "x"), ("nobody", "x"), ("nobody", ""), ("md5_user", PASSWORD)]
    {
        let error = psql(&through(&ferry, user), secret).expect_err(user);
        assert!(error.contains("authentication failed") || error.contains("no password supplied"), "{user}: {error}");
    }
    // A new password is looked up once the old one's secret has refused it.
    postgres.sql("alter role still_good password 'y'");
    assert!(psql(&through(&ferry, "still_good"), "y").is_err());
    assert_eq!(psql(&through(&ferry, "still_good"), "y"), Ok("still_good".into()));
    let lookups = |postgres: &Postgres| postgres.log().matches("application_name=pgferry auth_query").count();
    for _ in 0..10 {
        assert!(psql(&through(&ferry, "scram_user"), PASSWORD).is_ok());
    }
    assert_eq!(lookups(&postgres), 1, "one connection, and answers that are remembered");
    postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pgferry%'");
    assert!(psql(&through(&ferry, "another_stranger"), "x").is_err());
    assert_eq!(lookups(&postgres), 2, "a connection that was lost is replaced");
}

/// libpq does not answer with an empty password; others do.
#[test]
fn an_empty_password_lets_no_client_in() {
    let certs = Certs::new();
    let list = certs.write("userlist.txt", "\"plain_user\" \"\"\n\"trust_user\" \"x\"\n");
    let text = format!("auth_type = \"md5\"\nauth_file = {list:?}\n");
    let ferry = Pgferry::start_with_file(&Postgres::shared().url(), &text, &[], &[]);
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "plain_user"), ("database", "postgres")]));
    let question = raw.recv().expect("a question");
    assert_eq!(question.body[..4], [0, 0, 0, 5], "MD5");
    let salt = question.body[4..8].try_into().expect("four bytes");
    raw.send(&password(&postgres_protocol::authentication::md5_hash(b"plain_user", b"", salt)));
    let answer = raw.recv().expect("a refusal");
    assert_eq!((answer.tag, answer.field(b'C').as_str()), (b'E', "28P01"));
    let output =
        run_pgferry(&["check", "-u", "postgres://h", "-c", &certs.write("f.toml", "[users]\na = \"\"\n")], &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("users.a: an empty password lets no client in"), "{said}");
}

#[test]
fn secrets_are_looked_up_in_the_database_that_a_name_stands_for() {
    let postgres = Postgres::shared();
    let file = "auth_type = \"scram-sha-256\"\nauth_user = \"trust_user\"\n[databases.alias]\ndbname = \"other\"\n";
    for (own, auth_dbname) in [("alias", ""), ("postgres", "auth_dbname = \"alias\"\n")] {
        let ferry = Pgferry::start_with_file(&postgres.url(), &format!("{auth_dbname}{file}"), &[], &[]);
        let connection = format!("host={} dbname={own} user=scram_user", ferry.host());
        assert_eq!(crate::harness::psql(&connection, PASSWORD, "select current_user"), Ok("scram_user".into()));
    }
}

#[test]
fn a_clients_settings_do_not_reach_the_lookup() {
    // CVE-2025-12819.
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create table public.secrets as select rolname, rolpassword from pg_authid");
    postgres.sql("create schema evil");
    let known = stored(&postgres, "scram_user");
    postgres
        .sql(&format!("create table evil.secrets as select 'plain_user'::name as rolname, '{known}' as rolpassword"));
    postgres.sql("alter role plain_user password 'the right one'");
    postgres.sql("truncate public.secrets");
    postgres.sql("insert into public.secrets select rolname, rolpassword from pg_authid");
    let file = "auth_type = \"scram-sha-256\"\nauth_user = \"trust_user\"\n\
                auth_query = \"select rolname, rolpassword from secrets where rolname = $1\"";
    let ferry = Pgferry::start_with_file(&postgres.url(), file, &[], &[]);
    let connection = format!("{} options='-c search_path=evil'", through(&ferry, "plain_user"));
    let error = psql(&connection, PASSWORD).expect_err("the attacker's secret");
    assert!(error.contains("password authentication failed"), "{error}");
}

#[test]
fn lookups_that_fail_say_why_in_the_log_only() {
    let postgres = Postgres::shared();
    for (query, reason) in [
        ("select rolname from pg_authid where rolname = $1", "1 columns"),
        ("select 'postgres', 'x' where $1 <> ''", "another user's secret"),
        ("select $1::text, rolpassword from pg_authid where rolpassword is not null", "more than one row"),
        ("select $1::text, 'plain'", "neither md5"),
        ("select nothing from nowhere where x = $1", "does not exist"),
    ] {
        let file = format!("auth_type = \"scram-sha-256\"\nauth_user = \"trust_user\"\nauth_query = \"{query}\"");
        let ferry = Pgferry::start_with_file(&postgres.url(), &file, &[], &[]);
        let error = psql(&through(&ferry, "scram_user"), PASSWORD).expect_err(reason);
        assert!(error.contains("could not be looked up") && !error.contains(reason), "{error}");
        ferry.logs(reason);
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    let postgres = Postgres::shared();
    let (port, uid) = (free_port(), nix::unistd::getuid());
    let file = format!(
        "listen = [\"127.0.0.1:{port}\", \"@pgferry-rules-{port}\"]\n\
         [users]\nplain_user = {}\n\
         [[rule]]\ntransport = \"abstract\"\nmethod = \"reject\"\n\
         [[rule]]\nuid = {uid}\nuser = \"trust_user\"\nmethod = \"trust\"\n\
         [[rule]]\naddress = [\"127.0.0.0/8\"]\nuser = [\"plain_user\"]\nmethod = \"scram-sha-256\"\n\
         [[rule]]\ndatabase = \"other\"\nmethod = \"pass-through\"\n",
        toml(PASSWORD)
    );
    let certs = Certs::new();
    let path = certs.write("f.toml", &file);
    let dir = tempfile::tempdir().expect("a directory");
    let host = dir.path().to_str().expect("UTF-8").to_owned();
    let tcp = format!("127.0.0.1:{port}");
    let abstract_name = format!("@pgferry-rules-{port}");
    let ferry = Pgferry::spawn(
        dir,
        &["--upstream", &postgres.url(), "-c", &path, "-l", &host, "-l", &tcp, "-l", &abstract_name, "-v"],
        &[],
    );
    let tcp = |rest: &str| format!("host=127.0.0.1 port={port} {rest}");
    assert_eq!(psql(&format!("{} dbname=postgres", through(&ferry, "trust_user")), ""), Ok("trust_user".into()));
    let error = psql(&format!("host={abstract_name} dbname=other user=trust_user"), "").expect_err("rejected");
    assert!(error.contains("a [[rule]] rejects connection for host \"[local]\", user \"trust_user\""), "{error}");
    let error = psql(&tcp("dbname=postgres user=trust_user"), "").expect_err("no rule");
    assert!(error.contains("no [[rule]] for host \"127.0.0.1\"") && error.contains("no encryption"), "{error}");
    assert_eq!(psql(&tcp("dbname=postgres user=plain_user"), PASSWORD), Ok("plain_user".into()));
    assert!(psql(&tcp("dbname=postgres user=plain_user"), "wrong").is_err());
    assert_eq!(psql(&tcp("dbname=other user=scram_user"), PASSWORD), Ok("scram_user".into()));
    assert!(psql(&tcp("dbname=other user=scram_user"), "wrong").is_err());
}

#[test]
fn a_reload_changes_who_may_come_in() {
    let postgres = Postgres::shared();
    let certs = Certs::new();
    let path = certs.write("f.toml", "auth_type = \"password\"\n[users]\ntrust_user = \"one\"");
    let ferry = Pgferry::start_with(&postgres.url(), &["-c", &path], &[]);
    assert!(psql(&through(&ferry, "trust_user"), "one").is_ok());
    let reload = |text: &str, outcome: &str| {
        let before = ferry.log().matches(outcome).count();
        certs.write("f.toml", text);
        ferry.signal(Signal::SIGHUP);
        eventually(outcome, || ferry.log().matches(outcome).count() > before);
    };
    reload("auth_type = \"password\"\n[users]\ntrust_user = \"two\"", "changed: users");
    assert!(psql(&through(&ferry, "trust_user"), "one").is_err());
    assert!(psql(&through(&ferry, "trust_user"), "two").is_ok());
    reload("[[rule]]\nuser = \"scram_user\"\nmethod = \"pass-through\"", "changed: auth_type, rule, users");
    assert!(psql(&through(&ferry, "trust_user"), "two").is_err());
    assert!(psql(&through(&ferry, "scram_user"), PASSWORD).is_ok());
    reload("auth_type = \"scram-sha-256\"\nauth_file = \"/no/such/file\"", "were not reloaded");
    assert!(psql(&through(&ferry, "scram_user"), PASSWORD).is_ok());
}

#[test]
fn replication_takes_the_same_way_in() {
    let postgres = Postgres::shared();
    let file = format!("auth_type = \"scram-sha-256\"\n[users]\nscram_user = \"{}\"", stored(postgres, "scram_user"));
    let ferry = Pgferry::start_with_file(&postgres.url(), &file, &[], &[]);
    let identify = |secret: &str| {
        let connection = format!("{} replication=database", through(&ferry, "scram_user"));
        crate::harness::psql(&connection, secret, "IDENTIFY_SYSTEM").is_ok()
    };
    assert!(identify(PASSWORD));
    assert!(!identify("wrong"));
}

#[test]
fn broken_exchanges_get_postgresqls_words() {
    let postgres = Postgres::shared();
    let file = format!("auth_type = \"scram-sha-256\"\n[users]\nscram_user = \"{}\"", stored(postgres, "scram_user"));
    let ferry = Pgferry::start_with_file(&postgres.url(), &file, &[], &[]);
    let direct = || ProtocolClient::tcp(postgres.port);
    let first = b"n,,n=,r=abcdefgh";
    // PostgreSQL ends without a word here.
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "scram_user"), ("database", "postgres")]));
    raw.recv().expect("a question");
    raw.send(&message(b'p', "A".repeat(70_000).as_bytes()));
    assert_eq!(raw.read_to_end().last().expect("an error").field(b'C'), "08P01");
    let cases: Vec<Vec<Vec<u8>>> = vec![
        vec![sasl_initial("SCRAM-SHA-1", first)],
        vec![sasl_initial("SCRAM-SHA-256-PLUS", first)],
        vec![message(b'p', b"SCRAM-SHA-256\0\0\0\0\x63short")],
        vec![message(b'p', b"")],
        vec![sasl_initial("SCRAM-SHA-256", b"")],
        vec![sasl_initial("SCRAM-SHA-256", b"p=tls-unique,,n=,r=abc")],
        vec![sasl_initial("SCRAM-SHA-256", b"y,a=x,n=,r=abc")],
        vec![sasl_initial("SCRAM-SHA-256", b"n,,m=x,n=,r=abc")],
        vec![sasl_initial("SCRAM-SHA-256", b"n,,n=,r=a\x01c")],
        vec![sasl_initial("SCRAM-SHA-256", b"n,,n=,s=abc")],
        vec![sasl_initial("SCRAM-SHA-256", b"n,,r=abc")],
        vec![sasl_initial("SCRAM-SHA-256", first), message(b'p', b"c=biws,r=abc,p=AAAA")],
        vec![sasl_initial("SCRAM-SHA-256", first), message(b'p', b"c=eSws,r=abc,p=AAAA")],
        vec![sasl_initial("SCRAM-SHA-256", first), message(b'p', b"hello")],
        vec![sasl_initial("SCRAM-SHA-256", first), message(b'p', b"")],
        vec![message(b'Q', b"select 1\0")],
    ];
    for case in cases {
        let outcome = |mut raw: ProtocolClient| {
            raw.send(&startup(&[("user", "scram_user"), ("database", "postgres")]));
            raw.recv().expect("a question");
            for (nth, step) in case.iter().enumerate() {
                raw.send(step);
                if nth + 1 < case.len() {
                    raw.recv().expect("a challenge");
                }
            }
            raw.read_to_end().last().map(|error| (error.field(b'C'), error.field(b'M'), error.field(b'D')))
        };
        let (expected, found) = (outcome(direct()), outcome(ferry.raw()));
        let code = |said: &Option<(String, String, String)>| {
            said.as_ref().map(|(code, message, _)| (code.clone(), message.clone()))
        };
        let shown: Vec<_> =
            case.iter().map(|step| String::from_utf8_lossy(&step[..step.len().min(60)]).into_owned()).collect();
        assert_eq!(code(&found), code(&expected), "{shown:?}: {found:?} {expected:?}");
    }
}
