//! Between the CSV of Bulk API 2.0 and Arrow, a batch at a time.

use std::io::{Read, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use model::{Column, Type, text_of};

use crate::error::Error;

/// Text that clears a field; an empty value leaves it alone. Source: Bulk API 2.0 guide, "Prepare CSV Files".
pub const NULL: &str = "#N/A";

/// Reads rows of CSV into batches of a given schema, matching columns by their names.
pub struct CsvReader<R> {
    reader: csv::Reader<R>,
    schema: SchemaRef,
    kinds: Vec<Type>,
    /// For each column of the schema, where the CSV has it.
    places: Vec<usize>,
    row: usize,
}

impl<R: Read> CsvReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// When the CSV lacks a column of the schema, or can't be read.
    pub fn new(input: R, schema: SchemaRef, kinds: Vec<Type>) -> Result<Self, Error> {
        let mut reader = csv::Reader::from_reader(input);
        let header = reader.headers().map_err(bad_csv)?.clone();
        let places = schema
            .fields()
            .iter()
            .map(|field| {
                header.iter().position(|name| name.eq_ignore_ascii_case(field.name())).ok_or_else(|| Error::BadAnswer {
                    what: "a query job".to_owned(),
                    source: format!("its results have no column {}", field.name()).into(),
                })
            })
            // An answer without rows may come without a header, too.
            .collect::<Result<Vec<_>, Error>>();
        let places = if header.is_empty() { Vec::new() } else { places? };
        Ok(Self { reader, schema, kinds, places, row: 0 })
    }

    /// Returns the next at most `rows` rows; `None` after the last.
    ///
    /// # Errors
    ///
    /// A value that is not of its field's type, or broken CSV.
    pub fn next_batch(&mut self, rows: usize) -> Result<Option<RecordBatch>, Error> {
        let mut columns: Vec<Column> = self.kinds.iter().map(|kind| Column::new(*kind)).collect();
        let mut record = csv::StringRecord::new();
        let mut count = 0;
        while count < rows && self.reader.read_record(&mut record).map_err(bad_csv)? {
            self.row += 1;
            count += 1;
            for (column, place) in columns.iter_mut().zip(&self.places) {
                let text = record.get(*place).unwrap_or_default();
                if text.is_empty() {
                    column.push_null();
                } else if !column.push(text) {
                    let name =
                        self.schema.field(self.places.iter().position(|p| p == place).unwrap_or_default()).name();
                    return Err(Error::BadValue {
                        field: name.clone(),
                        row: self.row,
                        expected: column.kind().to_string(),
                        value: text.chars().take(20).collect(),
                    });
                }
            }
        }
        if count == 0 {
            return Ok(None);
        }
        let arrays = columns.iter_mut().map(Column::finish).collect();
        let batch = RecordBatch::try_new(self.schema.clone(), arrays);
        batch.map(Some).map_err(|error| Error::BadAnswer { what: "a query job".to_owned(), source: error.into() })
    }
}

fn bad_csv(error: csv::Error) -> Error {
    Error::BadAnswer { what: "a job's results".to_owned(), source: error.into() }
}

/// Writes batches as the CSV of an ingest job.
pub struct CsvWriter<W: Write> {
    writer: csv::Writer<W>,
}

impl<W: Write> CsvWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// What the writer fails with.
    pub fn new(output: W, header: &[&str]) -> Result<Self, Error> {
        let mut writer = csv::Writer::from_writer(output);
        writer.write_record(header).map_err(cannot_write)?;
        Ok(Self { writer })
    }

    /// Writes the rows numbered `rows`; a null becomes [`NULL`], since an empty value would be taken as not sent.
    ///
    /// # Errors
    ///
    /// What the writer fails with.
    pub fn write(&mut self, batch: &RecordBatch, rows: impl IntoIterator<Item = usize>) -> Result<(), Error> {
        for row in rows {
            for column in batch.columns() {
                let text = text_of(column.as_ref(), row);
                // The org has no empty text: it reads it as null.
                let text = text.as_deref().filter(|text| !text.is_empty()).unwrap_or(NULL);
                self.writer.write_field(text).map_err(cannot_write)?;
            }
            self.writer.write_record(None::<&[u8]>).map_err(cannot_write)?;
        }
        Ok(())
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    ///
    /// What the writer fails with.
    pub fn finish(mut self) -> Result<(), Error> {
        self.writer.flush().map_err(Error::Spool)
    }
}

fn cannot_write(error: csv::Error) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => Error::Spool(error),
        other => Error::Spool(std::io::Error::other(format!("{other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn rows_come_back_as_they_were_written() {
        let kinds = vec![Type::Text, Type::Decimal { precision: 18, scale: 2 }, Type::Timestamp];
        let names = ["Name", "Amount", "At"];
        let fields: Vec<Field> = names.iter().zip(&kinds).map(|(n, k)| Field::new(*n, k.arrow(), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let csv = "\"AT\",\"Name\",\"Amount\"\n\"2026-01-31T00:00:00.000Z\",\"a \"\"b\"\"\n\u{e9}\",\"1.5\"\n\"\",\"\",\"\"\n";
        let mut reader = CsvReader::new(csv.as_bytes(), schema.clone(), kinds.clone()).expect("a header");
        let batch = reader.next_batch(10).expect("rows").expect("two rows");
        let mut out = Vec::new();
        let mut writer = CsvWriter::new(&mut out, &names).expect("a header");
        writer.write(&batch, 0..2).expect("rows");
        writer.finish().expect("memory");
        let expected = "Name,Amount,At\n\"a \"\"b\"\"\n\u{e9}\",1.50,2026-01-31T00:00:00.000Z\n#N/A,#N/A,#N/A\n";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
        let wrong = CsvReader::new("Name,Amount,At\na,b,\n".as_bytes(), schema, kinds).expect("a header").next_batch(1);
        assert_eq!(wrong.expect_err("no number").to_string(), "Amount in row 1 is not decimal(18,2): \"b\"");
    }
}
