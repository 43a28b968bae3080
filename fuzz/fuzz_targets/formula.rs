//! Any text as a formula: it is refused, or has a value or none.
#![no_main]

use formula::{Blanks, Fields, Formula, Kind, Moment, Value};
use libfuzzer_sys::fuzz_target;

/// Fields whose names say what they are.
struct Known;

impl Fields for Known {
    fn kind(&self, path: &str) -> Option<Kind> {
        Some(match path.bytes().next()?.to_ascii_lowercase() {
            b'n' => Kind::Number,
            b'b' => Kind::Boolean,
            b'd' => Kind::Date,
            b'm' => Kind::DateTime,
            b'h' => Kind::Time,
            b'p' => Kind::Picklist,
            b'l' => Kind::Location,
            _ => Kind::Text,
        })
    }
}

fuzz_target!(|text: &str| {
    if let Ok(formula) = Formula::new(text, &Known, Blanks::Zero) {
        let values = vec![Value::Blank; formula.references().len()];
        let moment = Moment { now: Default::default(), zone: chrono_tz::Tz::UTC, is_new: false, is_clone: false };
        let _ = formula.evaluate(&values, &moment);
    }
});
