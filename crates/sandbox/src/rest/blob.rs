//! Files: read raw, written as base64 or as a part of their own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{Answer, Call};
use crate::caller::Caller;
use crate::error::{Answered, ApiError};
use crate::org::{Org, entries};
use crate::schema::{Field, Object};

impl Org {
    /// Answers with the bytes of a file.
    pub(super) fn blob(&self, caller: &Caller, object: &Object, field: &Field, id: &str) -> Answered<Answer> {
        let found = self.read(|connection| {
            let alive = if object.setup { "" } else { " AND \"IsDeleted\"=0" };
            let sql = format!(
                "SELECT 1 FROM {} WHERE \"Id\"=?{alive}",
                crate::sharing::table(&caller.all, object, caller.bound().seeing)
            );
            if !connection.prepare(&sql)?.exists([id])? {
                return Err(ApiError::not_found());
            }
            crate::content::read(connection, id, &field.name)
        })?;
        let kind = if object.name == "Attachment" { "application/octet-stream" } else { "application/octetstream" };
        Ok(Answer::bytes(200, kind, found.unwrap_or_default()))
    }
}

/// Reads a record whose file is a part of its own: the first part describes the record, the second is the file.
pub(crate) fn multipart(call: &Call) -> Answered<Map<String, Value>> {
    let wrong = |message: &str| ApiError::new(400, "INVALID_MULTIPART_REQUEST", message);
    let kind = call.header("content-type").unwrap_or_default();
    let boundary = kind.split(';').find_map(|part| part.trim().strip_prefix("boundary="));
    let boundary = boundary.map(|text| text.trim_matches('"')).filter(|text| !text.is_empty());
    let boundary = boundary.ok_or_else(|| wrong("the content type names no boundary"))?;
    let mut values = None;
    let mut files = Vec::new();
    for (headers, content) in parts(&call.body, boundary).ok_or_else(|| wrong("the parts are not complete"))? {
        let name = disposition(&headers, "name").ok_or_else(|| wrong("a part has no name"))?;
        if disposition(&headers, "filename").is_none() && values.is_none() {
            let value: Value =
                serde_json::from_slice(content).map_err(|error| wrong(&format!("part {name} is not JSON: {error}")))?;
            values = Some(entries(value)?);
        } else {
            files.push((name, STANDARD.encode(content)));
        }
    }
    let mut values = values.ok_or_else(|| wrong("no part describes the record"))?;
    values.extend(files.into_iter().map(|(name, content)| (name, Value::String(content))));
    Ok(values)
}

/// Splits a body into its parts: the headers of each and its content.
pub(crate) fn parts<'b>(body: &'b [u8], boundary: &str) -> Option<Vec<(String, &'b [u8])>> {
    let delimiter = format!("--{boundary}").into_bytes();
    let find = |from: usize, what: &[u8]| {
        body.get(from..)?.windows(what.len()).position(|window| window == what).map(|at| at + from)
    };
    let mut at = find(0, &delimiter)? + delimiter.len();
    let mut parts = Vec::new();
    loop {
        if body.get(at..at + 2) == Some(b"--") {
            return Some(parts);
        }
        let line_end = find(at, b"\n")? + 1;
        let next = find(line_end, &delimiter)?;
        // The line break before a delimiter belongs to it.
        let part = body.get(line_end..next)?;
        let part = part.strip_suffix(b"\n").map_or(part, |part| part.strip_suffix(b"\r").unwrap_or(part));
        let (headers, content) = [&b"\r\n\r\n"[..], b"\n\n"].iter().find_map(|gap| {
            let split = part.windows(gap.len()).position(|window| window == *gap)?;
            Some((&part[..split], &part[split + gap.len()..]))
        })?;
        parts.push((String::from_utf8_lossy(headers).into_owned(), content));
        at = next + delimiter.len();
    }
}

/// Returns a parameter of the content disposition.
pub(crate) fn disposition(headers: &str, name: &str) -> Option<String> {
    let line = headers.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    line.split(';').find_map(|part| {
        let (key, value) = part.trim().split_once('=')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_beside_its_record() {
        let body = b"--b\r\nContent-Disposition: form-data; name=\"entity_content\"\r\nContent-Type: application/json\r\n\r\n{\"Title\":\"t\"}\r\n\
                     --b\r\nContent-Disposition: form-data; name=\"VersionData\"; filename=\"a.bin\"\r\n\r\n\x00\r\n--\x01\r\n--b--\r\n";
        let parts = parts(body, "b").expect("two parts");
        assert_eq!(parts.len(), 2);
        assert_eq!(disposition(&parts[1].0, "filename").as_deref(), Some("a.bin"));
        assert_eq!(parts[1].1, b"\x00\r\n--\x01");
        assert!(super::parts(b"--b\r\nno end", "b").is_none());
    }
}
