//! CSV as result files have it: every cell quoted.

use std::io::{Result, Write};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 18;
/// Rows between two places that are remembered.
const STEP: u64 = 1000;

/// Writes rows and remembers where some of them begin.
pub(crate) struct Csv<W> {
    inner: W,
    delimiter: u8,
    ending: &'static [u8],
    buffer: Vec<u8>,
    written: u64,
    rows: u64,
    first: bool,
    places: Places,
}

/// Where rows begin in a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    /// Bytes of the header.
    pub(crate) header: u64,
    /// Number of rows, without the header.
    pub(crate) rows: u64,
    /// Where every so many rows begin.
    every: Vec<u64>,
}

impl Places {
    /// Returns a place at or before a row, and the row that begins there.
    pub(crate) fn before(&self, row: u64) -> (u64, u64) {
        let at = (row / STEP).min((self.every.len() as u64).saturating_sub(1));
        (self.every.get(at as usize).copied().unwrap_or(self.header), at * STEP)
    }
}

impl<W: Write> Csv<W> {
    pub(crate) fn new(inner: W, delimiter: u8, crlf: bool) -> Self {
        Self {
            inner,
            delimiter,
            ending: if crlf { b"\r\n" } else { b"\n" },
            buffer: Vec::with_capacity(BUFFER + 4096),
            written: 0,
            rows: 0,
            first: true,
            places: Places::default(),
        }
    }

    /// Writes the names of the columns.
    pub(crate) fn header(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            self.cell(name.as_bytes());
        }
        self.buffer.extend_from_slice(self.ending);
        self.first = true;
        self.places.header = self.buffer.len() as u64;
        self.drain(0)
    }

    /// Writes one cell of a row.
    pub(crate) fn cell(&mut self, cell: &[u8]) {
        if !self.first {
            self.buffer.push(self.delimiter);
        }
        if self.first && self.rows.is_multiple_of(STEP) && self.places.header > 0 {
            self.places.every.push(self.written + self.buffer.len() as u64);
        }
        self.first = false;
        self.buffer.push(b'"');
        if cell.contains(&b'"') {
            for byte in cell {
                self.buffer.push(*byte);
                if *byte == b'"' {
                    self.buffer.push(b'"');
                }
            }
        } else {
            self.buffer.extend_from_slice(cell);
        }
        self.buffer.push(b'"');
    }

    /// Ends a row.
    pub(crate) fn end_row(&mut self) -> Result<()> {
        self.buffer.extend_from_slice(self.ending);
        self.rows += 1;
        self.first = true;
        self.drain(BUFFER)
    }

    fn drain(&mut self, limit: usize) -> Result<()> {
        if self.buffer.len() >= limit {
            self.inner.write_all(&self.buffer)?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Writes what is left and returns where rows begin.
    pub(crate) fn finish(mut self) -> Result<Places> {
        self.drain(0)?;
        self.inner.flush()?;
        self.places.rows = self.rows;
        Ok(self.places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_places_are_kept() {
        let mut out = Vec::new();
        let mut csv = Csv::new(&mut out, b';', true);
        csv.header(&["a".to_owned(), "b".to_owned()]).expect("a vector takes every byte");
        for row in 0..2500 {
            csv.cell(row.to_string().as_bytes());
            csv.cell(b"x \"y\"\nz");
            csv.end_row().expect("a vector takes every byte");
        }
        let places = csv.finish().expect("a vector takes every byte");
        assert!(out.starts_with(b"\"a\";\"b\"\r\n\"0\";\"x \"\"y\"\"\nz\"\r\n"));
        assert_eq!((places.header, places.rows), (9, 2500));
        for (row, expected) in [(0, 0), (999, 0), (1000, 1000), (2499, 2000)] {
            let (offset, first) = places.before(row);
            assert_eq!(first, expected);
            assert!(out[offset as usize..].starts_with(format!("\"{first}\"").as_bytes()), "row {row}");
        }
    }
}
