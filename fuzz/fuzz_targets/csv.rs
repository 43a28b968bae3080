//! Any bytes as the data of an ingest job.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sandbox::probe::Probe;

static ORG: LazyLock<Probe> = LazyLock::new(|| Probe::open().expect("an org in memory"));

fuzz_target!(|body: &[u8]| {
    let state = ORG.csv(body);
    assert!(["JobComplete", "Failed"].contains(&state.as_str()), "{state}");
});
