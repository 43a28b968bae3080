//! Any text as a SOSL statement: it is refused or answered, and what is parsed is printed back the same.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sandbox::probe::Probe;

static ORG: LazyLock<Probe> = LazyLock::new(|| Probe::open().expect("an org in memory"));

fuzz_target!(|text: &str| {
    if let Ok(parsed) = soql::parse_search(text) {
        let printed = parsed.to_string();
        let again = soql::parse_search(&printed).expect("what is printed can be read");
        assert_eq!(again.to_string(), printed);
    }
    assert!(ORG.sosl(text) < 500);
});
