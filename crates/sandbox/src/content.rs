//! Files: their bytes in a table of their own, and the records that come with a new version.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::{Map, Value, json};

use crate::error::{Answered, ApiError};
use crate::schema::Object;
use crate::store::Store;

/// Creates the table of bytes.
pub(crate) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS _blob (id TEXT NOT NULL, field TEXT NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (id, field))",
    )
}

/// Reads the bytes of a file.
pub(crate) fn read(connection: &Connection, id: &str, field: &str) -> Answered<Option<Vec<u8>>> {
    let sql = "SELECT bytes FROM _blob WHERE id=? AND field=?";
    Ok(connection.prepare(sql)?.query_row([id, field], |row| row.get(0)).optional()?)
}

/// Returns the path of a file below the version, as its field holds it.
pub(crate) fn path(object: &Object, id: &str, field: &str) -> String {
    format!("/sobjects/{}/{id}/{field}", object.name)
}

/// Reads base64, with or without line breaks.
pub(crate) fn decode(text: &str) -> Answered<Vec<u8>> {
    let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    STANDARD
        .decode(plain)
        .map_err(|error| ApiError::new(400, "INVALID_TYPE_ON_FIELD_IN_RECORD", format!("not base64: {error}")))
}

impl Store<'_> {
    /// Keeps the bytes of a file.
    pub(crate) fn keep_bytes(&self, id: &str, field: &str, bytes: &[u8]) -> Answered<()> {
        let sql = "INSERT OR REPLACE INTO _blob (id, field, bytes) VALUES (?,?,?)";
        self.connection.prepare_cached(sql)?.execute(params![id, field, bytes])?;
        Ok(())
    }

    /// Completes a new version of a file: its size, kind and number, and the document that it is a version of.
    pub(crate) fn complete_content(&mut self, id: &str, values: &Map<String, Value>, bytes: &[u8]) -> Answered<()> {
        let text = |name: &str| {
            let found = values.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.and_then(|(_, value)| value.as_str()).map(str::to_owned)
        };
        let name = text("PathOnClient").or_else(|| text("Title")).unwrap_or_default();
        let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_lowercase());
        let title = text("Title").unwrap_or_else(|| name.rsplit('/').next().unwrap_or(&name).to_owned());
        let kind = extension.as_deref().map_or_else(|| "UNKNOWN".to_owned(), str::to_uppercase);
        let document = if let Some(document) = text("ContentDocumentId") {
            crate::id::normal(&document).unwrap_or(document)
        } else {
            let object = self.all.object("ContentDocument").ok_or_else(ApiError::not_found)?;
            let made = Map::from_iter([("Title".to_owned(), json!(title))]);
            self.insert_as_org(object, &made)?
        };
        let checksum: String = Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        self.connection.execute("UPDATE ContentVersion SET IsLatest=0 WHERE ContentDocumentId=?", [&document])?;
        let number: i64 = self.connection.query_row(
            "SELECT COUNT(*)+1 FROM ContentVersion WHERE ContentDocumentId=? AND Id<>?",
            [document.as_str(), id],
            |row| row.get(0),
        )?;
        self.connection.execute(
            "UPDATE ContentVersion SET ContentDocumentId=?1, IsLatest=1, VersionNumber=?2, Title=?3, ContentSize=?4, \
             FileExtension=?5, FileType=?6, Checksum=?7 WHERE Id=?8",
            params![document, number.to_string(), title, bytes.len() as i64, extension, kind, checksum, id],
        )?;
        self.connection.execute(
            "UPDATE ContentDocument SET LatestPublishedVersionId=?1, Title=?2, ContentSize=?3, FileType=?4, FileExtension=?5, \
             SystemModstamp=?6, LastModifiedDate=?6 WHERE Id=?7",
            params![id, title, bytes.len() as i64, kind, extension, self.now, document],
        )?;
        if let Some(place) =
            text("FirstPublishLocationId").or_else(|| Some(self.user.to_owned())).filter(|_| number == 1)
        {
            let object = self.all.object("ContentDocumentLink").ok_or_else(ApiError::not_found)?;
            let link = json!({"ContentDocumentId": document, "LinkedEntityId": place, "ShareType": "I"});
            self.insert_as_org(object, link.as_object().unwrap_or(&Map::new()))?;
        }
        Ok(())
    }

    /// Refuses what a file must not be.
    pub(crate) fn check_content(row: &[(&crate::schema::Field, Sql)]) -> Answered<()> {
        let has = |name: &str| row.iter().any(|(field, value)| field.name == name && *value != Sql::Null);
        if !has("PathOnClient") && !has("ContentUrl") && !has("ContentDocumentId") {
            let message = "Required fields are missing: [PathOnClient]";
            return Err(ApiError::on("PathOnClient", "REQUIRED_FIELD_MISSING", message));
        }
        Ok(())
    }
}
