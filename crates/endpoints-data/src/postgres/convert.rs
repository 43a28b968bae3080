//! PostgreSQL's types and ours, and the text form of COPY.

use model::{Field, Type};

/// Reads a type as `format_type` writes it, and the length that goes with it. What has no counterpart of
/// ours (uuid, arrays, numerics without bounds) travels as its text.
pub(crate) fn kind(native: &str) -> (Type, Option<u32>) {
    let (word, arguments) = native.split_once('(').unwrap_or((native, ""));
    let numbers: Vec<u32> = arguments.split([',', ')']).filter_map(|text| text.trim().parse().ok()).collect();
    let kind = match word.trim() {
        _ if native.ends_with("[]") => Type::Text,
        "boolean" => Type::Boolean,
        "smallint" | "integer" | "bigint" => Type::Integer,
        "real" | "double precision" => Type::Float,
        "numeric" => match numbers[..] {
            [precision @ 1..=38, scale] if scale <= precision => {
                Type::Decimal { precision: precision as u8, scale: scale as u8 }
            }
            _ => Type::Text,
        },
        "date" => Type::Date,
        "time without time zone" => Type::Time,
        word if word.starts_with("timestamp") => Type::Timestamp,
        "time" if native.ends_with("without time zone") => Type::Time,
        "bytea" => Type::Binary,
        "json" | "jsonb" => Type::Json,
        "character varying" | "character" => return (Type::Text, numbers.first().copied()),
        _ => Type::Text,
    };
    (kind, None)
}

/// Returns the type to cast a text to before it is assigned: without its bounds, since an explicit cast cuts
/// what is too long in silence, while an assignment refuses it. Source: PostgreSQL documentation, character types.
pub(crate) fn unbounded(native: &str) -> String {
    let (word, rest) = native.split_once('(').unwrap_or((native, ""));
    let rest = rest.split_once(')').map_or("", |(_, rest)| rest);
    match word {
        "character varying" | "character" => format!("text{rest}"),
        _ => format!("{word}{rest}"),
    }
}

/// Writes the type of a field for a new table.
pub(crate) fn native(field: &Field) -> String {
    match field.kind {
        Type::Boolean => "boolean".to_owned(),
        Type::Integer => "bigint".to_owned(),
        Type::Float => "double precision".to_owned(),
        Type::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
        Type::Text => "text".to_owned(),
        Type::Date => "date".to_owned(),
        Type::Time => "time".to_owned(),
        Type::Timestamp => "timestamptz".to_owned(),
        Type::Binary => "bytea".to_owned(),
        Type::Json => "jsonb".to_owned(),
    }
}

/// Reads a line of COPY text into its cells; `None` for null. Source: PostgreSQL documentation, COPY.
pub(crate) fn cells(line: &[u8], cells: &mut Vec<Option<String>>) {
    cells.clear();
    cells.extend(line.split(|byte| *byte == b'\t').map(|field| (field != b"\\N").then(|| unescape(field))));
}

fn unescape(field: &[u8]) -> String {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(other) => *other,
            None => b'\\',
        });
    }
    // The server sends UTF-8, whatever it stores.
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_have_no_bounds() {
        let cases = [
            ("character varying(80)", "text"),
            ("numeric(18,2)", "numeric"),
            ("timestamp(3) with time zone", "timestamp with time zone"),
            ("character varying(10)[]", "text[]"),
            ("uuid", "uuid"),
        ];
        for (native, cast) in cases {
            assert_eq!(unbounded(native), cast);
        }
    }

    #[test]
    fn types_and_escapes_are_read() {
        let money = Type::Decimal { precision: 18, scale: 2 };
        let cases = [
            ("numeric(18,2)", money, None),
            ("numeric", Type::Text, None),
            ("character varying(80)", Type::Text, Some(80)),
            ("timestamp(3) with time zone", Type::Timestamp, None),
            ("time without time zone", Type::Time, None),
            ("integer[]", Type::Text, None),
            ("uuid", Type::Text, None),
        ];
        for (native, kind_of, length) in cases {
            assert_eq!(kind(native), (kind_of, length), "{native}");
        }
        let mut found = Vec::new();
        cells(b"a\\tb\\\\c\\n\t\\N\t", &mut found);
        assert_eq!(found, [Some("a\tb\\c\n".to_owned()), None, Some(String::new())]);
    }
}
