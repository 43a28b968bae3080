//! Any text as a SOQL statement: it is refused or answered, and what is parsed is printed back the same.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sandbox::probe::Probe;

static ORG: LazyLock<Probe> = LazyLock::new(|| Probe::open().expect("an org in memory"));

fuzz_target!(|text: &str| {
    if let Ok(parsed) = soql::parse(text) {
        let printed = parsed.to_string();
        let again = soql::parse(&printed).expect("what is printed can be read");
        assert_eq!(again.to_string(), printed);
    }
    assert!(ORG.soql(text) < 500);
});
