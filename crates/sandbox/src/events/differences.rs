//! What is told of a large text that changed a little: the lines that differ, in the place of all of it.

use std::fmt::Write as _;

use similar::{Algorithm, DiffOp, capture_diff_slices};

/// Fewest characters of a text of which only differences may be told. Source of all three: Change Data Capture guide, "Sending
/// Data Differences for Fields of Updated Records".
const LARGE: usize = 1_000;
/// How much of the length may differ.
const LENGTH: f64 = 0.5;
/// How many of the lines of both texts may be others.
const LINES: f64 = 0.25;

/// Returns the unified diff that is told in the place of a new text, with the SHA-256 of all of it; `None` where the text
/// itself is told.
pub(super) fn difference(old: &str, new: &str) -> Option<String> {
    let lengths = [old, new].map(|text| text.chars().count());
    if lengths[1] < LARGE || lengths[0].abs_diff(lengths[1]) as f64 > LENGTH * lengths[0].max(lengths[1]) as f64 {
        return None;
    }
    let lines = [old, new].map(|text| text.split('\n').collect::<Vec<&str>>());
    let changes: Vec<DiffOp> = capture_diff_slices(Algorithm::Myers, &lines[0], &lines[1])
        .into_iter()
        .filter(|change| !matches!(change, DiffOp::Equal { .. }))
        .collect();
    let changed: usize = changes.iter().map(|change| change.old_range().len() + change.new_range().len()).sum();
    if changed as f64 > LINES * (lines[0].len() + lines[1].len()) as f64 {
        return None;
    }
    let print = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, new.as_bytes());
    let mut told = "--- \n+++ ".to_owned();
    for byte in print.as_ref() {
        let _ = write!(told, "{byte:02x}");
    }
    for change in changes {
        let (before, after) = (change.old_range(), change.new_range());
        // A range without lines stands behind the line before it.
        let first = |range: &std::ops::Range<usize>| range.start + usize::from(!range.is_empty());
        let _ = write!(told, "\n@@ -{},{} +{},{} @@", first(&before), before.len(), first(&after), after.len());
        for line in &lines[0][before] {
            let _ = write!(told, "\n-{line}");
        }
        for line in &lines[1][after] {
            let _ = write!(told, "\n+{line}");
        }
    }
    (told.len() < new.len()).then_some(told)
}

#[cfg(test)]
mod tests {
    use super::difference;

    fn text(lines: usize) -> String {
        (0..lines).map(|line| format!("line {line} of a text that is long enough")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn lines_that_differ_are_told_with_their_places() {
        let (old, new) = (text(40), text(40).replace("line 7 ", "seventh line ").replace("line 20 of", "line 20\nof"));
        let told = difference(&old, &new).unwrap_or_default();
        let (head, changes) = told.split_once("\n@@").unwrap_or_default();
        assert_eq!(head.len(), "--- \n+++ ".len() + 64);
        assert_eq!(
            changes,
            " -8,1 +8,1 @@\n-line 7 of a text that is long enough\n+seventh line of a text that is long enough\n\
             @@ -21,1 +21,2 @@\n-line 20 of a text that is long enough\n+line 20\n+of a text that is long enough"
        );
        let added = difference(&old, &format!("{old}\nanother line")).unwrap_or_default();
        assert!(added.ends_with("\n@@ -40,0 +41,1 @@\n+another line"), "{added}");
    }

    #[test]
    fn what_changed_much_is_told_whole() {
        let old = text(40);
        // Short, much longer, every line another, and a difference that is longer than the text.
        assert_eq!(difference("a\nb", "a\nc"), None);
        assert_eq!(difference(&old, &text(100)), None);
        assert_eq!(difference(&old, &old.replace("line", "verse")), None);
        assert_eq!(difference(&"x".repeat(2_000), &"y".repeat(2_000)), None);
    }
}
