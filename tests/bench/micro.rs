//! What the parts cost that every request goes through: `cargo bench --bench micro`.

use std::hint::black_box;

use divan::{Bencher, counter::BytesCount};
use pgferry::internals::auth::{Password, ProcessKey, Verified};
use pgferry::internals::track::{
    Lexis, Pipeline, Request, RequestedParams, ResponseAction, ServerParams, SqlEffects, params, sql_effects,
};
use pgferry::internals::upstream::slots::Slots;
use pgferry::internals::wire::{Frames, backend, frame};

fn main() {
    divan::main();
}

/// The answer to a query of `rows` rows of 50 bytes.
fn answer(rows: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..rows {
        out.push(backend::DATA_ROW);
        out.extend_from_slice(&54u32.to_be_bytes());
        out.extend_from_slice(&[b'x'; 50]);
    }
    out.extend_from_slice(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I");
    out
}

#[divan::bench(args = [1, 100])]
fn frames_one_by_one(bencher: Bencher, rows: usize) {
    let bytes = answer(rows);
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench(|| Frames::new(black_box(&bytes), frame::BACKEND_LIMIT).count());
}

#[divan::bench(args = [1, 100])]
fn frames_in_runs(bencher: Bencher, rows: usize) {
    let bytes = answer(rows);
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench(|| frame::run(black_box(&bytes), backend::DATA_ROW, frame::BACKEND_LIMIT));
}

#[divan::bench]
fn pipeline_simple_query() -> bool {
    let mut pipeline = Pipeline::new();
    pipeline.request(Request::Query, ResponseAction::Forward);
    pipeline.response(backend::ROW_DESCRIPTION);
    pipeline.response(backend::COMMAND_COMPLETE);
    pipeline.ready(b'I');
    pipeline.settled()
}

#[divan::bench]
fn pipeline_extended_query() -> bool {
    let mut pipeline = Pipeline::new();
    for request in [Request::Parse, Request::Bind, Request::Describe, Request::Execute, Request::Sync] {
        pipeline.request(request, ResponseAction::Forward);
    }
    for tag in [b'1', b'2', backend::ROW_DESCRIPTION, backend::COMMAND_COMPLETE] {
        pipeline.response(tag);
    }
    pipeline.ready(b'I');
    pipeline.settled()
}

#[divan::bench(args = ["select 1", "SELECT abalance FROM pgbench_accounts WHERE aid = 77312", "set timezone to 'UTC'"])]
fn analyze_a_text(sql: &str) -> SqlEffects {
    sql_effects::analyze(black_box(sql.as_bytes()), Lexis::default())
}

#[divan::bench]
fn a_slot_taken_and_freed(bencher: Bencher) {
    let slots = Slots::new(20);
    bencher.bench(|| slots.try_take().is_some());
}

#[divan::bench]
fn settings_that_fit(bencher: Bencher) {
    let mut reported = ServerParams::default();
    for name in params::FOLLOWING {
        reported.set(name.as_bytes(), b"value");
    }
    bencher
        .bench(|| params::differences(black_box(&reported), &RequestedParams::default(), &reported.clone()).is_empty());
}

#[divan::bench]
fn a_password_that_is_known(bencher: Bencher) {
    let key = ProcessKey::generate().expect("randomness");
    let password = Password::new(b"hunter2".to_vec());
    let mut verified: Verified<()> = Verified::default();
    verified.accept(&key, password.clone());
    bencher.bench(|| verified.matches(&key, black_box(&password)));
}
