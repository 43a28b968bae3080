//! Which format and compression a file has, by its name.

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Comma-separated values with a header.
    Csv,
    /// A JSON object a line.
    Ndjson,
    /// Apache Parquet.
    Parquet,
}

/// How the bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Reads a file's name; `None` for what is no file of rows.
pub(crate) fn of(name: &str) -> Option<(Format, Packing)> {
    let lower = name.to_lowercase();
    let (stem, packing) = [(".gz", Packing::Gzip), (".zst", Packing::Zstd)]
        .into_iter()
        .find_map(|(suffix, packing)| Some((lower.strip_suffix(suffix)?, packing)))
        .unwrap_or((&lower, Packing::Plain));
    let (_, extension) = stem.rsplit_once('.')?;
    let format = match extension {
        "csv" => Format::Csv,
        "ndjson" | "jsonl" => Format::Ndjson,
        // Parquet packs its pages itself and is read from its end.
        "parquet" if packing == Packing::Plain => Format::Parquet,
        _ => return None,
    };
    Some((format, packing))
}

/// True when `name` fits a pattern, in which `*` stands for anything but a slash.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, rest)) => name.strip_prefix(before).is_some_and(|tail| {
            (0..=tail.len())
                .filter(|at| tail.is_char_boundary(*at))
                .take_while(|at| !tail[..*at].contains('/'))
                .any(|at| fits(rest, &tail[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_format_and_packing() {
        let cases = [
            ("a.csv", Some((Format::Csv, Packing::Plain))),
            ("sub/A.CSV.GZ", Some((Format::Csv, Packing::Gzip))),
            ("a.jsonl.zst", Some((Format::Ndjson, Packing::Zstd))),
            ("a.parquet", Some((Format::Parquet, Packing::Plain))),
            ("a.parquet.gz", None),
            ("csv", None),
            ("notes.txt", None),
        ];
        for (name, expected) in cases {
            assert_eq!(of(name), expected, "{name}");
        }
    }

    #[test]
    fn a_star_stands_for_anything_within_a_folder() {
        let cases = [
            ("*.csv", "a.csv", true),
            ("*.csv", "sub/a.csv", false),
            ("sub/*.csv", "sub/a.csv", true),
            ("o-*-x.csv", "o-2026-x-x.csv", true),
            ("a.csv", "a.csv", true),
            ("a*", "b", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
