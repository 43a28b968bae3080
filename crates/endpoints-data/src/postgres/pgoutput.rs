//! What logical decoding says in the messages of `pgoutput`, as far as it tells which rows changed.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats", protocol versions 1 and 2.

use std::collections::HashMap;

/// What a message tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing about a row.
    Nothing,
    /// A transaction is over, which ends at this place in the log; of those that are not streamed in parts.
    End(u64),
    /// These rows changed, by their keys: that of a row before and after, where it changed.
    Keys(Vec<String>),
    /// Rows changed, and not which.
    Unknown(String),
}

/// Follows a log from message to message. Rows of transactions that are given up in the end are told, too: whoever looks at
/// them finds them as they were.
#[derive(Debug)]
pub(crate) struct Decoder {
    key: String,
    /// For each relation the place of the key among its columns.
    relations: HashMap<u32, Option<usize>>,
    /// Inside a part of a transaction that goes on, messages carry its number.
    streaming: bool,
    /// When the transaction that is read was committed, in microseconds since 1970; `None` where it stands at its end.
    pub(crate) committed: Option<i64>,
    /// Place in the log of the last commit that was told: nothing up to there is told again.
    pub(crate) told: u64,
    /// True inside a transaction that was told before.
    passing: bool,
}

/// Microseconds from 1970 to 2000, where PostgreSQL's times begin.
pub(super) const EPOCH: i64 = 946_684_800_000_000;

/// A value of a row.
enum Value<'m> {
    Null,
    /// Stored apart, and not changed.
    Toasted,
    Text(&'m [u8]),
}

impl Decoder {
    /// Returns a decoder at the beginning of a log; `key` is the column that identifies a row.
    pub(crate) fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            relations: HashMap::new(),
            streaming: false,
            committed: None,
            told: 0,
            passing: false,
        }
    }

    /// Reads the next message; `None` for one that is none of `pgoutput`.
    pub(crate) fn read(&mut self, message: &[u8]) -> Option<Told> {
        let mut reader = Reader(message);
        let kind = reader.byte()?;
        if self.streaming && matches!(kind, b'R' | b'Y' | b'I' | b'U' | b'D' | b'T') {
            reader.take(4)?;
        }
        match kind {
            b'R' => self.relation(&mut reader)?,
            b'B' => {
                let place = reader.place()?;
                self.passing = place <= self.told;
                self.told = self.told.max(place);
                self.commit(&mut reader)?;
            }
            // At the end of a streamed transaction stand its number and two places before.
            b'c' => {
                reader.take(21)?;
                self.commit(&mut reader)?;
            }
            b'S' => self.streaming = true,
            b'E' => self.streaming = false,
            b'I' | b'U' | b'D' | b'T' if self.passing => {}
            b'I' | b'U' | b'D' => return self.row(&mut reader),
            b'T' => return Some(Told::Unknown("the table was emptied by TRUNCATE".to_owned())),
            b'C' => {
                reader.take(9)?;
                return Some(Told::End(reader.place()?));
            }
            // Origin, type, message, and the end of a streamed transaction that is given up.
            b'O' | b'Y' | b'M' | b'A' => {}
            _ => return None,
        }
        Some(Told::Nothing)
    }

    fn commit(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.committed = Some(reader.place()?.cast_signed().saturating_add(EPOCH));
        Some(())
    }

    fn relation(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let id = reader.long()?;
        let (_schema, _name, _identity) = (reader.text()?, reader.text()?, reader.byte()?);
        let columns = reader.short()?;
        let mut place = None;
        for at in 0..usize::from(columns) {
            let (_flags, name) = (reader.byte()?, reader.text()?);
            reader.take(8)?;
            if name == self.key.as_bytes() {
                place = Some(at);
            }
        }
        self.relations.insert(id, place);
        Some(())
    }

    fn row(&self, reader: &mut Reader<'_>) -> Option<Told> {
        let relation = reader.long()?;
        let Some(place) = *self.relations.get(&relation)? else {
            return Some(Told::Unknown(format!("the table had no column {} then", self.key)));
        };
        let mut keys: Vec<String> = Vec::new();
        while !reader.0.is_empty() {
            // What the row was (`K` or `O`), or is (`N`).
            let is_new = reader.byte()? == b'N';
            match reader.value_at(place)? {
                Value::Text(text) => {
                    let text = std::str::from_utf8(text).ok()?.to_owned();
                    if !keys.contains(&text) {
                        keys.push(text);
                    }
                }
                // The key is the one that the row had before.
                Value::Toasted if is_new && !keys.is_empty() => {}
                Value::Toasted => {
                    return Some(Told::Unknown("the log leaves out a key that is stored apart".to_owned()));
                }
                Value::Null => return Some(Told::Unknown("the log leaves out the key of a row".to_owned())),
            }
        }
        Some(Told::Keys(keys))
    }
}

struct Reader<'m>(&'m [u8]);

impl<'m> Reader<'m> {
    fn take(&mut self, count: usize) -> Option<&'m [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn place(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// Reads a text that ends with a zero.
    fn text(&mut self) -> Option<&'m [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }

    /// Reads a row whole, and returns one of its values.
    fn value_at(&mut self, place: usize) -> Option<Value<'m>> {
        let mut found = None;
        for at in 0..usize::from(self.short()?) {
            let value = match self.byte()? {
                b'n' => Value::Null,
                b'u' => Value::Toasted,
                b't' | b'b' => {
                    let length = self.long()?;
                    Value::Text(self.take(usize::try_from(length).ok()?)?)
                }
                _ => return None,
            };
            if at == place {
                found = Some(value);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(columns: &[&str], streamed: bool) -> Vec<u8> {
        let mut message = b"R".to_vec();
        if streamed {
            message.extend(77_u32.to_be_bytes());
        }
        message.extend(9_u32.to_be_bytes());
        message.extend(b"public\0customers\0d");
        message.extend((columns.len() as u16).to_be_bytes());
        for name in columns {
            message.push(1);
            message.extend(name.as_bytes());
            message.push(0);
            message.extend([0; 8]);
        }
        message
    }

    fn row(kind: u8, streamed: bool, tuples: &[(u8, &[Option<&str>])]) -> Vec<u8> {
        let mut message = vec![kind];
        if streamed {
            message.extend(77_u32.to_be_bytes());
        }
        message.extend(9_u32.to_be_bytes());
        for (tag, values) in tuples {
            message.push(*tag);
            message.extend((values.len() as u16).to_be_bytes());
            for value in *values {
                match value {
                    None => message.push(b'n'),
                    Some("<toasted>") => message.push(b'u'),
                    Some(text) => {
                        message.push(b't');
                        message.extend((text.len() as u32).to_be_bytes());
                        message.extend(text.as_bytes());
                    }
                }
            }
        }
        message
    }

    fn keys(names: &[&str]) -> Option<Told> {
        Some(Told::Keys(names.iter().map(|name| (*name).to_owned()).collect()))
    }

    #[test]
    fn rows_are_told_by_their_keys_whatever_else_the_log_leaves_out() {
        let mut decoder = Decoder::new("id");
        assert_eq!(decoder.read(&relation(&["name", "id"], false)), Some(Told::Nothing));
        let told = decoder.read(&row(b'I', false, &[(b'N', &[Some("Acme"), Some("K\u{f6}ln-1")])]));
        assert_eq!(told, keys(&["K\u{f6}ln-1"]));
        // A large value that did not change is not sent again.
        let told = decoder.read(&row(b'U', false, &[(b'N', &[Some("<toasted>"), Some("C-1")])]));
        assert_eq!(told, keys(&["C-1"]));
        let moved = [(b'K', &[None, Some("C-1")][..]), (b'N', &[Some("Acme"), Some("C-2")])];
        assert_eq!(decoder.read(&row(b'U', false, &moved)), keys(&["C-1", "C-2"]));
        let same = [(b'O', &[Some("Acme"), Some("C-1")][..]), (b'N', &[Some("Acne"), Some("<toasted>")])];
        assert_eq!(decoder.read(&row(b'U', false, &same)), keys(&["C-1"]));
        assert_eq!(decoder.read(&row(b'D', false, &[(b'K', &[None, Some("C-1")])])), keys(&["C-1"]));
    }

    #[test]
    fn a_table_that_changes_its_columns_midway_is_followed() {
        let mut decoder = Decoder::new("id");
        decoder.read(&relation(&["id"], false));
        assert_eq!(decoder.read(&row(b'I', false, &[(b'N', &[Some("C-1")])])), keys(&["C-1"]));
        decoder.read(&relation(&["new", "id", "newer"], false));
        assert_eq!(decoder.read(&row(b'I', false, &[(b'N', &[Some("x"), Some("C-2"), None])])), keys(&["C-2"]));
        decoder.read(&relation(&["other"], false));
        let told = decoder.read(&row(b'I', false, &[(b'N', &[Some("C-3")])]));
        assert!(matches!(told, Some(Told::Unknown(_))), "{told:?}");
        assert!(matches!(decoder.read(b"T\0\0\0\x01\0\0\0\0\x09"), Some(Told::Unknown(_))));
    }

    #[test]
    fn parts_of_a_transaction_that_goes_on_carry_its_number() {
        let mut decoder = Decoder::new("id");
        decoder.read(b"S\0\0\0\x4d\x01");
        decoder.read(&relation(&["id"], true));
        assert_eq!(decoder.read(&row(b'I', true, &[(b'N', &[Some("C-1")])])), keys(&["C-1"]));
        decoder.read(b"E");
        assert_eq!(decoder.read(&row(b'D', false, &[(b'K', &[Some("C-1")])])), keys(&["C-1"]));
    }

    #[test]
    fn what_is_cut_off_anywhere_is_no_message() {
        let mut decoder = Decoder::new("id");
        let whole = relation(&["id", "name"], false);
        for end in 0..whole.len() {
            assert_eq!(decoder.read(&whole[..end]), None, "{end}");
        }
        decoder.read(&whole);
        let whole = row(b'U', false, &[(b'N', &[Some("C-1"), Some("Acme")])]);
        for end in 6..whole.len() {
            assert_eq!(decoder.read(&whole[..end]), None, "{end}");
        }
        assert_eq!(decoder.read(b"?"), None);
    }
}
