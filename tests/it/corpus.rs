//! The fuzz targets' corpus, replayed: every input that was ever worth keeping.

use std::fs;

#[test]
fn the_corpus_replays() {
    type Target = fn(&[u8]);
    let targets: [(&str, Target); 10] = [
        ("frames", pgferry::fuzz::frames),
        ("startup", pgferry::fuzz::startup),
        ("messages", pgferry::fuzz::messages),
        ("sql", pgferry::fuzz::sql),
        ("url", pgferry::fuzz::url),
        ("config", pgferry::fuzz::config),
        ("scram", pgferry::fuzz::scram),
        ("secrets", pgferry::fuzz::secrets),
        ("console", pgferry::fuzz::console),
        ("ini", pgferry::fuzz::ini),
    ];
    for (name, target) in targets {
        let dir = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut replayed = 0;
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{dir}: {error}")) {
            target(&fs::read(entry.expect("an entry").path()).expect("readable"));
            replayed += 1;
        }
        assert!(replayed >= 5, "{name}: {replayed}");
    }
}
