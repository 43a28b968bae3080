//! What is different between two versions of a configuration.

use std::collections::BTreeSet;

use similar::TextDiff;
use state::Files;

/// Lines around a change that are shown with it.
const AROUND: usize = 3;

/// Returns what is different between two sets of files, in the unified format; empty where nothing is.
pub fn difference((before, old): (&str, &Files), (after, new): (&str, &Files)) -> String {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut text = String::new();
    for name in names {
        let side = |files: &Files| files.get(name).cloned().unwrap_or_default();
        let (old, new) = (side(old), side(new));
        if old != new {
            let diff = TextDiff::from_lines(old.as_str(), new.as_str());
            let titles = [format!("{name} ({before})"), format!("{name} ({after})")];
            text += &diff.unified_diff().context_radius(AROUND).header(&titles[0], &titles[1]).to_string();
        }
    }
    text
}
