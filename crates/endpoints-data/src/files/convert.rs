//! Rows out of and into each format, a batch at a time.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchReader as _};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use endpoint::{Error, Result};
use model::{ChangeBatch, Class, RecordError, Type, text_of};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::Dialect;
use crate::json;
use crate::rows::Rows;

/// Lines of NDJSON that are looked at to learn the fields.
const SAMPLE_LINES: usize = 1_000;
/// Longest line of NDJSON, in bytes: memory stays bounded whatever a file holds.
const MAX_LINE_BYTES: usize = 64 << 20;
/// Rows that a Parquet file keeps together; also what is held in memory while it is written.
const ROW_GROUP_ROWS: usize = 65_536;

/// Wraps the failure to read a file: the file is at fault, or the way to it.
pub(crate) fn unreadable(name: &str, error: impl Into<endpoint::BoxError>) -> Error {
    Error::new(Class::Mapping, format!("cannot read {name}")).caused_by(error)
}

/// Reads the rows of one file.
pub(crate) struct RowReader {
    name: String,
    names: Vec<String>,
    kinds: Vec<Type>,
    input: Input,
    /// Rows read or skipped so far.
    row: u64,
}

enum Input {
    Csv {
        reader: Box<csv::Reader<Box<dyn Read + Send>>>,
        null: String,
    },
    /// The sampled lines come first.
    Ndjson {
        sample: std::vec::IntoIter<Vec<u8>>,
        reader: BufReader<Box<dyn Read + Send>>,
    },
    Parquet {
        reader: ParquetRecordBatchReader,
        rows: u64,
    },
}

fn schema_of(names: &[String], kinds: &[Type]) -> SchemaRef {
    let fields = names.iter().zip(kinds).map(|(name, kind)| ArrowField::new(name, kind.arrow(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

impl RowReader {
    /// Reads the header. A byte order mark before it is passed over; all fields are text.
    pub(crate) fn csv(name: String, mut bytes: Box<dyn Read + Send>, dialect: Dialect) -> Result<Self> {
        let mut head = Vec::with_capacity(3);
        bytes.by_ref().take(3).read_to_end(&mut head).map_err(|error| unreadable(&name, error))?;
        let head = if head == b"\xef\xbb\xbf" { Vec::new() } else { head };
        let bytes: Box<dyn Read + Send> = Box::new(std::io::Cursor::new(head).chain(bytes));
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(dialect.delimiter)
            .flexible(true)
            .buffer_capacity(1 << 16)
            .from_reader(bytes);
        let header = reader.byte_headers().map_err(|error| unreadable(&name, error))?;
        let names = header.iter().map(|name| std::str::from_utf8(name).map(str::to_owned));
        let names = names.collect::<std::result::Result<Vec<String>, _>>();
        let names = names.map_err(|_| {
            Error::new(Class::Mapping, format!("the header of {name} is not UTF-8; save the file as UTF-8"))
        })?;
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(Error::new(Class::Mapping, format!("{name} has two columns {:?}", twice.1)));
        }
        let kinds = vec![Type::Text; names.len()];
        Ok(Self { name, names, kinds, input: Input::Csv { reader: Box::new(reader), null: dialect.null }, row: 0 })
    }

    /// Learns the fields from the first lines. Fields are text, except booleans and what is nested; numbers keep
    /// every digit.
    pub(crate) fn ndjson(name: String, bytes: Box<dyn Read + Send>) -> Result<Self> {
        let mut reader = BufReader::with_capacity(1 << 16, bytes);
        let mut sample = Vec::new();
        let mut names: Vec<String> = Vec::new();
        let mut kinds: Vec<Option<Type>> = Vec::new();
        while sample.len() < SAMPLE_LINES {
            let Some(line) = next_line(&name, &mut reader)? else { break };
            for (field, value) in json::object(&line).unwrap_or_default() {
                let place = names.iter().position(|known| *known == field).unwrap_or_else(|| {
                    names.push(field);
                    kinds.push(None);
                    names.len() - 1
                });
                let kind = match value.get().as_bytes().first() {
                    Some(b't' | b'f') => Some(Type::Boolean),
                    Some(b'{' | b'[') => Some(Type::Json),
                    Some(b'n') | None => None,
                    Some(_) => Some(Type::Text),
                };
                kinds[place] = match (kinds[place], kind) {
                    (None, kind) | (kind, None) => kind,
                    (Some(before), Some(kind)) if before == kind => Some(kind),
                    _ => Some(Type::Text),
                };
            }
            sample.push(line);
        }
        let kinds = kinds.into_iter().map(|kind| kind.unwrap_or(Type::Text)).collect();
        Ok(Self { name, names, kinds, input: Input::Ndjson { sample: sample.into_iter(), reader }, row: 0 })
    }

    /// Reads the schema; columns of types that Bridgehead does not carry are left out, and all but one where `only` names it.
    pub(crate) fn parquet(name: String, file: File, only: Option<&str>) -> Result<Self> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(&name, error))?;
        let rows = builder.metadata().file_metadata().num_rows().cast_unsigned();
        let (mut names, mut kinds, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (place, field) in builder.schema().fields().iter().enumerate() {
            let kind = match field.data_type() {
                DataType::Dictionary(_, values) => Type::from_arrow(values),
                kind => Type::from_arrow(kind),
            };
            if let Some(kind) = kind.filter(|_| only.is_none_or(|only| only == field.name())) {
                names.push(field.name().clone());
                kinds.push(kind);
                places.push(place);
            }
        }
        let mask = parquet::arrow::ProjectionMask::roots(builder.parquet_schema(), places);
        let reader = builder.with_projection(mask).with_batch_size(8_192).build();
        let reader = reader.map_err(|error| unreadable(&name, error))?;
        debug_assert_eq!(reader.schema().fields().len(), names.len());
        Ok(Self { name, names, kinds, input: Input::Parquet { reader, rows }, row: 0 })
    }

    /// Returns the names of the fields.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns their types.
    pub(crate) fn kinds(&self) -> &[Type] {
        &self.kinds
    }

    /// Returns the number of rows read or skipped so far.
    pub(crate) fn row(&self) -> u64 {
        self.row
    }

    /// Returns the number of rows where the file tells it without being read.
    pub(crate) fn known_rows(&self) -> Option<u64> {
        match &self.input {
            Input::Parquet { rows, .. } => Some(*rows),
            _ => None,
        }
    }

    /// Returns the next about `rows` rows, all fields; `None` after the last. Rows that can't be read are set aside.
    pub(crate) fn next_batch(&mut self, rows: usize) -> Result<Option<ChangeBatch>> {
        let batch = match &mut self.input {
            Input::Parquet { reader, .. } => {
                let Some(records) = reader.next().transpose().map_err(|error| unreadable(&self.name, error))? else {
                    return Ok(None);
                };
                let columns = records.columns().iter().zip(&self.kinds).zip(&self.names);
                let columns = columns.map(|((column, kind), name)| {
                    exactly(column, *kind).map_err(|error| unreadable(&format!("{name} of {}", self.name), error))
                });
                let columns = columns.collect::<Result<Vec<_>>>()?;
                let records = RecordBatch::try_new(schema_of(&self.names, &self.kinds), columns);
                ChangeBatch::upserts(records.map_err(|error| unreadable(&self.name, error))?, None)
            }
            Input::Csv { reader, null } => {
                let mut table = Rows::new(schema_of(&self.names, &self.kinds), &self.kinds);
                let mut record = csv::ByteRecord::new();
                while table.len() < rows
                    && reader.read_byte_record(&mut record).map_err(|e| unreadable(&self.name, e))?
                {
                    let line = record.position().map_or(0, csv::Position::line);
                    add_csv(&mut table, &record, &self.names, null, || format!("{}, line {line}", self.name));
                }
                if table.len() == 0 {
                    return Ok(None);
                }
                table.finish(None).map_err(|error| unreadable(&self.name, error))?
            }
            Input::Ndjson { sample, reader } => {
                let mut table = Rows::new(schema_of(&self.names, &self.kinds), &self.kinds);
                while table.len() < rows {
                    let line = match sample.next() {
                        Some(line) => line,
                        None => match next_line(&self.name, reader)? {
                            Some(line) => line,
                            None => break,
                        },
                    };
                    let number = self.row + table.len() as u64 + 1;
                    add_json(&mut table, &line, &self.names, || format!("{}, record {number}", self.name));
                }
                if table.len() == 0 {
                    return Ok(None);
                }
                table.finish(None).map_err(|error| unreadable(&self.name, error))?
            }
        };
        self.row += (batch.len() + batch.unreadable.len()) as u64;
        Ok(Some(batch))
    }
}

/// Converts a column to the type in which we carry it, exactly.
fn exactly(column: &ArrayRef, kind: Type) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, &kind.arrow(), &strict)
}

fn add_csv(table: &mut Rows, record: &csv::ByteRecord, names: &[String], null: &str, place: impl Fn() -> String) {
    let texts: Vec<_> =
        record.iter().map(|cell| std::str::from_utf8(cell).map_err(|_| String::from_utf8_lossy(cell))).collect();
    let readable: Option<Vec<Option<&str>>> = texts
        .iter()
        .map(|text| match text {
            Ok(text) if !text.contains('\0') => Some(Some(*text).filter(|text| *text != null)),
            _ => None,
        })
        .collect();
    match readable {
        Some(cells) if cells.len() == names.len() => {
            table.add(&cells, place);
        }
        readable => {
            let lossy: Vec<Option<&str>> = texts
                .iter()
                .map(|text| {
                    Some(match text {
                        Ok(text) => *text,
                        Err(text) => text.as_ref(),
                    })
                })
                .collect();
            let at = texts.iter().position(|text| text.as_ref().map_or(true, |text| text.contains('\0')));
            let field = at.and_then(|at| names.get(at)).cloned().unwrap_or_default();
            let (code, what) = match at.map(|at| texts[at].is_ok()) {
                None => ("WRONG_COLUMN_COUNT", format!("it has {} columns, the header {}", texts.len(), names.len())),
                Some(true) => ("NUL_BYTE", format!("{field} holds a NUL byte")),
                Some(false) => ("NOT_UTF8", format!("{field} is not UTF-8; save the file as UTF-8")),
            };
            debug_assert!(readable.is_none() || at.is_none());
            let error = RecordError::rejected(code, format!("{}: {what}", place()));
            table.set_aside(&lossy, place(), if field.is_empty() { error } else { error.with_field(field) });
        }
    }
}

fn add_json(table: &mut Rows, line: &[u8], names: &[String], place: impl Fn() -> String) {
    let fields = match json::object(line) {
        Ok(fields) => fields,
        Err(message) => {
            let text = String::from_utf8_lossy(line);
            let error = RecordError::rejected("NOT_JSON", format!("{}: {message}", place()));
            return table.set_aside(&[None::<&str>, Some(text.as_ref())][..names.len().min(2)], place(), error);
        }
    };
    if let Some((stranger, _)) = fields.iter().find(|(field, _)| !names.contains(field)) {
        let message = format!("{}: the first {SAMPLE_LINES} records have no field {stranger:?}", place());
        let cells: Vec<Option<String>> = json::cells(&fields, names);
        return table.set_aside(&cells, place(), RecordError::rejected("UNKNOWN_FIELD", message).with_field(stranger));
    }
    table.add(&json::cells(&fields, names), place);
}

/// Returns the next line that is not blank, without its end.
fn next_line(name: &str, reader: &mut BufReader<Box<dyn Read + Send>>) -> Result<Option<Vec<u8>>> {
    loop {
        let mut line = Vec::new();
        let read = reader.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| unreadable(name, error))? == 0 {
            return Ok(None);
        }
        if line.len() > MAX_LINE_BYTES {
            return Err(Error::new(Class::Mapping, format!("{name} has a line of over {MAX_LINE_BYTES} bytes")));
        }
        if !line.trim_ascii().is_empty() {
            return Ok(Some(line));
        }
    }
}

/// Writes the rows of one file.
pub(crate) enum RowWriter<W: Write + Send> {
    Csv(Box<csv::Writer<W>>, String),
    Ndjson(W),
    Parquet(Box<ArrowWriter<W>>),
}

impl<W: Write + Send> RowWriter<W> {
    pub(crate) fn csv(output: W, dialect: &Dialect, names: &[String]) -> Result<Self> {
        let mut writer = csv::WriterBuilder::new().delimiter(dialect.delimiter).from_writer(output);
        writer.write_record(names).map_err(cannot_write)?;
        Ok(Self::Csv(Box::new(writer), dialect.null.clone()))
    }

    pub(crate) fn parquet(output: W, schema: SchemaRef) -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        let writer = ArrowWriter::try_new(output, schema, Some(properties)).map_err(cannot_write)?;
        Ok(Self::Parquet(Box::new(writer)))
    }

    /// Writes a batch.
    pub(crate) fn write(&mut self, records: &RecordBatch) -> Result<()> {
        match self {
            Self::Parquet(writer) => writer.write(records).map_err(cannot_write),
            Self::Csv(writer, null) => {
                for row in 0..records.num_rows() {
                    for column in records.columns() {
                        let text = text_of(column.as_ref(), row);
                        writer.write_field(text.as_deref().unwrap_or(null)).map_err(cannot_write)?;
                    }
                    writer.write_record(None::<&[u8]>).map_err(cannot_write)?;
                }
                Ok(())
            }
            Self::Ndjson(output) => {
                for row in 0..records.num_rows() {
                    json::write(output, records, row).map_err(cannot_write)?;
                    output.write_all(b"\n").map_err(cannot_write)?;
                }
                Ok(())
            }
        }
    }

    /// Writes out what is buffered, and returns what was written to.
    pub(crate) fn finish(self) -> Result<W> {
        match self {
            Self::Csv(writer, _) => writer.into_inner().map_err(|error| cannot_write(error.into_error())),
            Self::Ndjson(output) => Ok(output),
            Self::Parquet(writer) => writer.into_inner().map_err(cannot_write),
        }
    }
}

fn cannot_write(error: impl Into<endpoint::BoxError>) -> Error {
    Error::new(Class::Internal, "cannot write a spool file").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_csv(text: &'static [u8]) -> Vec<ChangeBatch> {
        let dialect = Dialect { delimiter: b',', null: String::new() };
        let mut reader = RowReader::csv("c.csv".into(), Box::new(text), dialect).expect("a header");
        std::iter::from_fn(|| reader.next_batch(100).expect("rows")).collect()
    }

    #[test]
    fn bad_rows_of_csv_are_set_aside_with_their_line() {
        let text = b"\xef\xbb\xbfid,name\n1,good\n2,\xff\xfe\n3,nul\0\n4\n5,\"two\nlines\"\n6,\n7,x,y\n";
        let batch = read_csv(text).remove(0);
        let ids: Vec<String> =
            (0..batch.len()).filter_map(|row| Some(text_of(batch.records.column(0), row)?.into_owned())).collect();
        assert_eq!(ids, ["1", "5", "6"]);
        assert!(batch.records.column(1).is_null(2), "an empty cell is null");
        let found: Vec<(&str, &str, &str)> = batch
            .unreadable
            .iter()
            .map(|row| (row.key.as_str(), row.error.code.as_str(), row.error.message.as_str()))
            .collect();
        let expected = [
            ("2", "NOT_UTF8", "c.csv, line 3: name is not UTF-8; save the file as UTF-8"),
            ("3", "NUL_BYTE", "c.csv, line 4: name holds a NUL byte"),
            ("4", "WRONG_COLUMN_COUNT", "c.csv, line 5: it has 1 columns, the header 2"),
            ("7", "WRONG_COLUMN_COUNT", "c.csv, line 9: it has 3 columns, the header 2"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_header_that_repeats_or_is_no_text_is_refused() {
        let dialect = || Dialect { delimiter: b',', null: String::new() };
        for text in [&b"a,a\n1,2\n"[..], b"a,\xff\n1,2\n"] {
            assert!(RowReader::csv("c.csv".into(), Box::new(text), dialect()).is_err());
        }
        let empty = RowReader::csv("c.csv".into(), Box::new(&b""[..]), dialect()).expect("an empty file");
        assert!(empty.names().is_empty());
    }

    #[test]
    fn numbers_of_json_keep_their_digits_and_bad_lines_are_set_aside() {
        let text =
            b"{\"id\":\"a\",\"n\":1.50,\"b\":true,\"o\":{\"x\":[1]}}\n\n{\"id\":\"b\",\"n\":null}\nnonsense\n[1]\n";
        let mut reader = RowReader::ndjson("j.ndjson".into(), Box::new(&text[..])).expect("fields");
        assert_eq!(reader.names(), ["id", "n", "b", "o"]);
        assert_eq!(reader.kinds(), [Type::Text, Type::Text, Type::Boolean, Type::Json]);
        let batch = reader.next_batch(100).expect("rows").expect("a batch");
        let cell =
            |row: usize, column: usize| text_of(batch.records.column(column), row).map(std::borrow::Cow::into_owned);
        assert_eq!(cell(0, 1).as_deref(), Some("1.50"));
        assert_eq!(cell(0, 3).as_deref(), Some("{\"x\":[1]}"));
        assert_eq!((cell(1, 0).as_deref(), cell(1, 1), cell(1, 2)), (Some("b"), None, None));
        assert_eq!(batch.unreadable.len(), 2);
        assert_eq!(batch.unreadable[0].key, "j.ndjson, record 3");
    }
}
