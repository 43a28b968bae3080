//! Order-free fingerprints of sets of rows: how a receipt compares two ends without sorting either.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::{Deserialize, Serialize};

/// The fingerprint of a set of rows, the same for every order of them.
///
/// Rows are hashed one by one and the hashes are added, so that two sets can be compared without
/// sorting, and fingerprints of parts add up to that of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Number of rows.
    pub rows: u64,
    sum: u64,
    mix: u64,
}

impl Fingerprint {
    /// Adds one row, given as its canonical text.
    pub fn add(&mut self, row: &str) {
        let hash = quick_digest(row.as_bytes());
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash);
        self.mix = self.mix.wrapping_add(hash.rotate_left(23).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    }

    /// Adds a set of rows counted elsewhere.
    pub fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
        self.mix = self.mix.wrapping_add(other.mix);
    }
}

/// Returns a 64-bit digest: FNV-1a with a finishing mix, quick and the same in every version.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hash = bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3));
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    hash ^ (hash >> 32)
}

/// Returns a 64-bit digest that takes eight bytes at a step: for what is compared with what the same program made, or where
/// a difference costs no more than a second look.
pub fn quick_digest(bytes: &[u8]) -> u64 {
    let step = |hash: u64, word: u64| {
        let wide =
            u128::from(hash ^ word ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xA076_1D64_78BD_642F_E703_7ED1_A0B4_28DB);
        (wide >> 64) as u64 ^ wide as u64
    };
    let mut words = bytes.chunks_exact(8);
    let mut hash = step(0, bytes.len() as u64);
    for word in &mut words {
        hash = step(hash, word.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)));
    }
    let rest = words.remainder().iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    step(hash, rest)
}

/// Calls `each` with the row number and the canonical text of every row over `columns`.
///
/// Two rows have the same text exactly if every column holds the same value; null differs from
/// every value, and text from the number that looks like it.
///
/// # Errors
///
/// When a column has a type that has no text form.
pub fn row_text(batch: &RecordBatch, columns: &[usize], mut each: impl FnMut(usize, &str)) -> Result<(), ArrowError> {
    let options = FormatOptions::new().with_null("\u{0}");
    let formatters = columns
        .iter()
        .map(|column| {
            let array = batch.column(*column);
            Ok((ArrayFormatter::try_new(array.as_ref(), &options)?, array, text_like(array.data_type())))
        })
        .collect::<Result<Vec<_>, ArrowError>>()?;
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        text.clear();
        for (formatter, array, quoted) in &formatters {
            use std::fmt::Write as _;
            if array.is_null(row) {
                text.push('\u{0}');
            } else {
                if *quoted {
                    text.push('"');
                }
                write!(text, "{}", formatter.value(row)).map_err(|_| ArrowError::CastError("no text form".into()))?;
            }
            text.push('\u{1f}');
        }
        each(row, &text);
    }
    Ok(())
}

fn text_like(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn of(rows: &[&str]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        for row in rows {
            fingerprint.add(row);
        }
        fingerprint
    }

    #[test]
    fn order_does_not_matter_and_content_does() {
        assert_eq!(of(&["a", "b", "c"]), of(&["c", "a", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["a", "c"]));
        assert_ne!(of(&["a", "a"]), of(&["a"]));
        let mut parts = of(&["a"]);
        parts.merge(of(&["b", "c"]));
        assert_eq!(parts, of(&["b", "c", "a"]));
    }

    #[test]
    fn null_empty_text_and_numbers_are_told_apart() {
        let texts = RecordBatch::try_from_iter([(
            "v",
            Arc::new(StringArray::from(vec![None, Some(""), Some("1")])) as arrow::array::ArrayRef,
        )])
        .expect("one column");
        let numbers =
            RecordBatch::try_from_iter([("v", Arc::new(Int64Array::from(vec![1])) as arrow::array::ArrayRef)])
                .expect("one column");
        let mut seen = Vec::new();
        for batch in [&texts, &numbers] {
            row_text(batch, &[0], |_, text| seen.push(text.to_owned())).expect("plain types");
        }
        let mut unique = seen.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), 4, "{seen:?}");
    }
}
