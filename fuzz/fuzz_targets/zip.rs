//! Any bytes as a package of metadata, and as the file of an object in one.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sandbox::probe::Probe;

static ORG: LazyLock<Probe> = LazyLock::new(|| Probe::open().expect("an org in memory"));

fuzz_target!(|body: &[u8]| {
    ORG.zip(body);
});
