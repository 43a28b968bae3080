//! What the SQL databases share: names, literals, and the conditions of a read.

use endpoint::{CHANGES, Read, Window, is_captured};
use model::{Class, Position};

/// Quotes a name, whatever it holds.
pub(crate) fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes the parts of a name such as `public.customers`.
pub(crate) fn table(entity: &str) -> String {
    entity.split('.').map(name).collect::<Vec<_>>().join(".")
}

/// Quotes a text.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Joins quoted names.
pub(crate) fn list(names: &[String]) -> String {
    names.iter().map(|text| name(text)).collect::<Vec<_>>().join(", ")
}

/// Returns the `WHERE` of a read: filter, window (a little wider at its start: a change can become visible
/// later than its own time says) and, with `resumed`, what is behind the position. `earlier` writes the
/// start of the window.
pub(crate) fn conditions(
    read: &Read,
    key: &[String],
    resumed: bool,
    earlier: impl Fn(&str) -> String,
) -> endpoint::Result<String> {
    let mut parts: Vec<String> = read.filter.iter().map(|filter| format!("({filter})")).collect();
    if let (Some(window), true) = (&read.window, is_captured(&read.entity)) {
        let key = read.fields.first().map(|field| name(field)).unwrap_or_default();
        parts.push(format!(
            "{key} IN (SELECT {} FROM {CHANGES} WHERE {})",
            changed_key(read),
            noted(&read.entity.name, window)
        ));
    } else if let Some(window) = &read.window {
        let cursor = read.entity.cursor.as_deref().map(name).unwrap_or_default();
        parts.push(format!("{cursor} <= {}", literal(&window.until)));
        if let Some(since) = &window.since {
            parts.push(format!("{cursor} >= {}", earlier(since)));
        }
    }
    if let (true, Some(position)) = (resumed, &read.from) {
        let values: Vec<String> = serde_json::from_str(position.as_str()).map_err(|error| {
            endpoint::Error::new(Class::Internal, "the checkpoint holds a position that is none of this database")
                .caused_by(error)
        })?;
        let values = values.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", ");
        parts.push(format!("({}) > ({values})", list(key)));
    }
    Ok(if parts.is_empty() { String::new() } else { format!(" WHERE {}", parts.join(" AND ")) })
}

/// Returns the key of a noted change, as the table has it: the first field of a read.
fn changed_key(read: &Read) -> String {
    let native = read.fields.first().and_then(|key| read.entity.field(key)).map(|field| field.native.as_str());
    native.filter(|native| !native.is_empty()).map_or("key".to_owned(), |native| format!("CAST(key AS {native})"))
}

/// Writes the condition on noted changes that lie in a window, whose end does not count.
pub(crate) fn noted(entity: &str, window: &Window) -> String {
    let since = window.since.as_ref().map(|since| format!(" AND seq >= {}", number(since))).unwrap_or_default();
    format!("entity = {} AND seq < {}{since}", literal(entity), number(&window.until))
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_default()
}

/// Returns the position of a row by the texts of its key.
pub(crate) fn position(key: &[String]) -> Position {
    Position::new(serde_json::to_string(key).unwrap_or_default())
}
