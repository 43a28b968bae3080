//! Any bytes as an XML body, as a body of several parts, and as a SOAP call.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sandbox::probe::Probe;

static ORG: LazyLock<Probe> = LazyLock::new(|| Probe::open().expect("an org in memory"));

fuzz_target!(|body: &[u8]| {
    assert!(ORG.other(body).iter().all(|status| *status < 500));
    if let Ok(text) = std::str::from_utf8(body) {
        assert!(ORG.soap(text) <= 500);
    }
});
