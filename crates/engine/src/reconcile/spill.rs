//! Rows of one side of a comparison, sorted into parts by key, on disk where they don't fit the memory: each part holds the
//! same keys on either side, and is compared by itself.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use model::digest;

/// Parts that a side is sorted into.
pub(super) const PARTS: usize = 256;
/// Bytes of a part that wait until they are written together.
const BLOCK: usize = 32 << 10;

/// What is kept of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'e> {
    /// What tells it apart on both sides: the key of the record as the target has it.
    pub(super) key: &'e str,
    /// What its own side knows it by.
    pub(super) tie: &'e str,
    /// The print of its values; `None` for a record that the mapping refuses, which has none to compare.
    pub(super) print: Option<u64>,
}

/// A side, sorted into parts.
pub(super) struct Spill {
    file: File,
    /// Bytes in the file.
    length: u64,
    parts: Vec<Part>,
}

#[derive(Default)]
struct Part {
    waiting: Vec<u8>,
    /// Where its blocks are in the file, with their length.
    blocks: Vec<(u64, usize)>,
}

impl Spill {
    /// Returns an empty one, whose file is in `folder` and goes with it, however it ends.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let mut parts = Vec::new();
        parts.resize_with(PARTS, Part::default);
        Ok(Self { file: tempfile::tempfile_in(folder)?, length: 0, parts })
    }

    /// Adds a row.
    pub(super) fn push(&mut self, entry: Entry<'_>) -> io::Result<()> {
        let at = digest(entry.key.as_bytes()) as usize % PARTS;
        let Some(part) = self.parts.get_mut(at) else { return Ok(()) };
        let tie = if entry.tie == entry.key { "" } else { entry.tie };
        for text in [entry.key, tie] {
            let length = u32::try_from(text.len()).map_err(io::Error::other)?;
            part.waiting.extend_from_slice(&length.to_le_bytes());
            part.waiting.extend_from_slice(text.as_bytes());
        }
        part.waiting.push(u8::from(entry.print.is_some()));
        part.waiting.extend_from_slice(&entry.print.unwrap_or_default().to_le_bytes());
        if part.waiting.len() >= BLOCK {
            self.file.write_all(&part.waiting)?;
            part.blocks.push((self.length, part.waiting.len()));
            self.length += part.waiting.len() as u64;
            part.waiting.clear();
        }
        Ok(())
    }

    /// Puts the bytes of a part into `bytes`; [`entries`] reads them.
    pub(super) fn part(&mut self, at: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.clear();
        let Some(part) = self.parts.get_mut(at) else { return Ok(()) };
        for (start, length) in part.blocks.drain(..) {
            self.file.seek(SeekFrom::Start(start))?;
            let before = bytes.len();
            bytes.resize(before + length, 0);
            self.file.read_exact(&mut bytes[before..])?;
        }
        bytes.append(&mut part.waiting);
        Ok(())
    }
}

/// Reads the rows of a part.
pub(super) fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    std::iter::from_fn(move || {
        let mut text = || {
            let (length, rest) = bytes.split_first_chunk()?;
            let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            bytes = rest;
            std::str::from_utf8(text).ok()
        };
        let (key, tie) = (text()?, text()?);
        let (there, rest) = bytes.split_first()?;
        let (print, rest) = rest.split_first_chunk()?;
        bytes = rest;
        let print = (*there == 1).then(|| u64::from_le_bytes(*print));
        Some(Entry { key, tie: if tie.is_empty() { key } else { tie }, print })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_and_a_key_is_in_one_part() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(folder.path()).unwrap();
        let rows: Vec<(String, String, Option<u64>)> = (0..300_000_u64)
            .map(|row| {
                let key = format!("00\u{e9}{row}");
                let tie = if row % 3 == 0 { format!("other {row}") } else { key.clone() };
                (key, tie, (row % 5 > 0).then_some(row))
            })
            .collect();
        for (key, tie, print) in &rows {
            spill.push(Entry { key, tie, print: *print }).unwrap();
        }
        assert!(spill.length > 0, "so many rows do not fit what waits");
        let (mut found, mut bytes) = (Vec::new(), Vec::new());
        for at in 0..PARTS {
            spill.part(at, &mut bytes).unwrap();
            for Entry { key, tie, print } in entries(&bytes) {
                assert_eq!(digest(key.as_bytes()) as usize % PARTS, at);
                found.push((key.to_owned(), tie.to_owned(), print));
            }
        }
        let mut rows = rows;
        rows.sort();
        found.sort();
        assert!(rows == found);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
