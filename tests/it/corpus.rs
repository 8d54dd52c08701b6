//! The fuzz targets' corpus, replayed: every input that was ever worth keeping.

use std::fs;

#[test]
fn the_corpus_replays() {
    type Target = fn(&[u8]);
    let targets: [(&str, Target); 20] = [
        ("frames", pgferry::internals::fuzz::frames),
        ("startup", pgferry::internals::fuzz::startup),
        ("messages", pgferry::internals::fuzz::messages),
        ("sql", pgferry::internals::fuzz::sql),
        ("url", pgferry::internals::fuzz::url),
        ("config", pgferry::internals::fuzz::config),
        ("scram", pgferry::internals::fuzz::scram),
        ("secrets", pgferry::internals::fuzz::secrets),
        ("console", pgferry::internals::fuzz::console),
        ("ini", pgferry::internals::fuzz::ini),
        ("http", pgferry::internals::fuzz::http),
        ("takeover", pgferry::internals::fuzz::takeover),
        ("pgpass", pgferry::internals::fuzz::pgpass),
        ("users", pgferry::internals::fuzz::users),
        ("hba", pgferry::internals::fuzz::hba),
        ("options", pgferry::internals::fuzz::options),
        ("machine", pgferry::internals::fuzz::machine),
        ("login", pgferry::internals::fuzz::login),
        ("code", pgferry::internals::fuzz::code),
        ("certificate", pgferry::internals::fuzz::certificate),
    ];
    for (name, target) in targets {
        let dir = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut replayed = 0;
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{dir}: {error}")) {
            let input = fs::read(entry.expect("an entry").path()).expect("readable");
            target(&input);
            for variant in variants(&input) {
                target(&variant);
            }
            replayed += 1;
        }
        assert!(replayed >= 5, "{name}: {replayed}");
    }
}

/// What is near an input: it cut short, and with bytes changed, left out and repeated, the same every time.
fn variants(input: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = (0..input.len().min(300)).map(|end| input[..end].to_vec()).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("31 bits") % below.max(1)
    };
    for _ in 0..100 {
        let mut changed = input.to_vec();
        for _ in 0..=random(4) {
            let at = random(changed.len());
            match random(4) {
                _ if changed.is_empty() => break,
                0 => changed[at] = b"\0\n\r\"'\\:@*#,+-0\xff["[random(16)],
                1 => drop(changed.remove(at)),
                2 => changed.extend_from_within(at..),
                _ => changed[at] ^= 1 << random(8),
            }
        }
        changed.truncate(4096);
        all.push(changed);
    }
    all
}
