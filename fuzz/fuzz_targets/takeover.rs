#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pgferry::internals::fuzz::takeover(bytes));
