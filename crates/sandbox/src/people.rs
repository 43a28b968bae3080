//! Person accounts: an account that is a person, and the contact that is the same person behind it.

use rusqlite::OptionalExtension as _;
use serde_json::{Map, Value, json};

use crate::error::{Answered, ApiError};
use crate::schema::{Field, Kind, Object, RecordType, Schema};
use crate::store::{Store, quoted};

/// The record type of persons.
const RECORD_TYPE: &str = "PersonAccount";
/// Fields of a contact that its account has by the same name.
const SAME: [&str; 3] = ["FirstName", "LastName", "Salutation"];
/// Fields of a contact that its account has by their name behind `Person`. Source: Object Reference, "Account".
const BEHIND_PERSON: [&str; 24] = [
    "AssistantName",
    "AssistantPhone",
    "Birthdate",
    "Department",
    "Email",
    "HomePhone",
    "LeadSource",
    "MailingCity",
    "MailingCountry",
    "MailingLatitude",
    "MailingLongitude",
    "MailingPostalCode",
    "MailingState",
    "MailingStreet",
    "MobilePhone",
    "OtherCity",
    "OtherCountry",
    "OtherLatitude",
    "OtherLongitude",
    "OtherPhone",
    "OtherPostalCode",
    "OtherState",
    "OtherStreet",
    "Title",
];

/// Returns what an account calls the field of its contact; `None` for one that it does not have.
fn of_account(contact: &Field) -> Option<String> {
    let name = contact.name.as_str();
    if SAME.contains(&name) {
        return Some(name.to_owned());
    }
    if BEHIND_PERSON.contains(&name) {
        return Some(format!("Person{name}"));
    }
    let stem = name.strip_suffix("__c").filter(|_| contact.custom && !contact.calculated)?;
    Some(format!("{stem}__pc"))
}

/// Makes an org's accounts persons, too.
pub(crate) fn extend(schema: &mut Schema) {
    let Some(contact) = schema.object("Contact") else { return };
    let mut fields: Vec<Field> = contact
        .fields
        .iter()
        .filter(|field| !field.kind.compound())
        .filter_map(|field| {
            let name = of_account(field)?;
            // What makes a record a contact makes no account: an account may be none of a person.
            let nillable = true;
            Some(Field { name, nillable, compound: None, name_field: false, id_lookup: false, ..field.clone() })
        })
        .collect();
    let told = |name: &str| {
        let mut field = Field::new(name, "Is Person Account", Kind::Boolean);
        field.defaulted = true;
        field
    };
    fields.push(told("IsPersonAccount"));
    let mut behind = Field::new("PersonContactId", "Contact ID", Kind::Reference);
    (behind.nillable, behind.length) = (true, 18);
    behind.targets = vec!["Contact".to_owned()];
    behind.relationship = Some("PersonContact".to_owned());
    fields.push(behind);
    if let Some(account) = schema.object_mut("Account") {
        account.fields.retain(|field| !fields.iter().any(|new| new.name == field.name));
        account.fields.extend(fields);
        account.record_types.push(RecordType {
            id: String::new(),
            developer_name: RECORD_TYPE.to_owned(),
            label: "Person Account".to_owned(),
            active: true,
        });
        account.need_record_type_field();
    }
    if let Some(contact) = schema.object_mut("Contact") {
        contact.fields.push(told("IsPersonAccount"));
    }
}

impl Object {
    /// True for accounts of an org whose accounts may be persons.
    pub(crate) fn may_be_person(&self) -> bool {
        self.name == "Account" && self.field("PersonContactId").is_some()
    }
}

fn given<'v>(values: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    values.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Tells whether new values are those of a person; `before` where the record was one already.
///
/// # Errors
///
/// Values that go with the other kind of account.
pub(crate) fn is_person(object: &Object, values: &Map<String, Value>, before: Option<bool>) -> Answered<bool> {
    if !object.may_be_person() {
        return Ok(false);
    }
    let kind = object.record_types.iter().find(|kind| kind.developer_name == RECORD_TYPE);
    let typed =
        given(values, "RecordTypeId").and_then(Value::as_str).is_some_and(|id| kind.is_some_and(|kind| kind.id == id));
    let named = given(values, "LastName").is_some_and(|value| !value.is_null());
    let person = before.unwrap_or(typed || named);
    let bad = |name: &str| {
        let message = format!("Account: bad field names on insert/update call: {name}");
        Err(ApiError::on(name, "INVALID_FIELD_FOR_INSERT_UPDATE", message))
    };
    let of_persons = |name: &str| {
        let known = object.field(name).map_or(name, |field| field.name.as_str());
        SAME.contains(&known)
            || known.ends_with("__pc")
            || known.strip_prefix("Person").is_some_and(|rest| BEHIND_PERSON.contains(&rest))
    };
    if person {
        if given(values, "Name").is_some() {
            return bad("Name");
        }
        let emptied = given(values, "LastName").is_some_and(Value::is_null);
        if before.is_none() && !named || emptied {
            let message = "Required fields are missing: [LastName]";
            return Err(ApiError::on("LastName", "REQUIRED_FIELD_MISSING", message));
        }
    } else if let Some(name) =
        values.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name).find(|name| of_persons(name))
    {
        return bad(name);
    }
    Ok(person)
}

impl Store<'_> {
    /// Tells whether an account is a person; `None` for what can't be one.
    pub(crate) fn was_person(&self, object: &Object, id: &str) -> Answered<Option<bool>> {
        if !object.may_be_person() {
            return Ok(None);
        }
        let sql = "SELECT \"IsPersonAccount\" FROM \"Account\" WHERE \"Id\"=?";
        Ok(self.connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?)
    }

    /// Tells whether a contact is the other half of an account.
    pub(crate) fn is_half_of_person(&self, id: &str) -> Answered<bool> {
        if !self.all.object("Account").is_some_and(Object::may_be_person) {
            return Ok(false);
        }
        let sql = "SELECT 1 FROM \"Contact\" WHERE \"Id\"=? AND \"IsPersonAccount\"=1";
        Ok(self.connection.prepare_cached(sql)?.exists([id])?)
    }

    /// Makes the contact of a new account that is a person.
    pub(crate) fn make_person(&mut self, id: &str) -> Answered<()> {
        let all = self.all;
        let (Some(account), Some(contact)) = (all.object("Account"), all.object("Contact")) else { return Ok(()) };
        let kind =
            account.record_types.iter().find(|kind| kind.developer_name == RECORD_TYPE).map(|kind| kind.id.clone());
        self.connection.execute(
            "UPDATE \"Account\" SET \"IsPersonAccount\"=1, \"RecordTypeId\"=coalesce(\"RecordTypeId\",?2) WHERE \"Id\"=?1",
            rusqlite::params![id, kind],
        )?;
        let owner: Option<String> =
            self.connection.query_row("SELECT \"OwnerId\" FROM \"Account\" WHERE \"Id\"=?", [id], |row| row.get(0))?;
        let mut values = self.mirrored(account, id, |account| {
            contact
                .fields
                .iter()
                .find(|field| of_account(field).as_deref() == Some(account))
                .map(|field| field.name.clone())
        })?;
        values.insert("AccountId".to_owned(), json!(id));
        values.insert("OwnerId".to_owned(), json!(owner));
        let behind = self.insert_as_org(contact, &values)?;
        self.connection.execute("UPDATE \"Contact\" SET \"IsPersonAccount\"=1 WHERE \"Id\"=?", [&behind])?;
        self.connection
            .execute("UPDATE \"Account\" SET \"PersonContactId\"=? WHERE \"Id\"=?", [behind.as_str(), id])?;
        Ok(())
    }

    /// Lets the other half of a person have the values that one half was given.
    pub(crate) fn mirror_person(&mut self, object: &Object, id: &str, written: &[String]) -> Answered<()> {
        let all = self.all;
        let (Some(account), Some(contact)) = (all.object("Account"), all.object("Contact")) else { return Ok(()) };
        let counterpart = match object.name.as_str() {
            "Account" => "SELECT \"PersonContactId\" FROM \"Account\" WHERE \"Id\"=? AND \"IsPersonAccount\"=1",
            "Contact" => "SELECT \"AccountId\" FROM \"Contact\" WHERE \"Id\"=? AND \"IsPersonAccount\"=1",
            _ => return Ok(()),
        };
        if !account.may_be_person() || self.mirroring {
            return Ok(());
        }
        let other: Option<Option<String>> =
            self.connection.query_row(counterpart, [id], |row| row.get(0)).optional()?;
        let Some(other) = other.flatten() else { return Ok(()) };
        let from_account = object.name == "Account";
        let mut values = self.mirrored(object, id, |name| {
            let field = contact.fields.iter().find(|field| {
                if from_account { of_account(field).as_deref() == Some(name) } else { field.name == name }
            })?;
            if from_account { Some(field.name.clone()) } else { of_account(field) }
        })?;
        let told = |name: &str| {
            contact.fields.iter().any(|field| {
                let (here, there) = (of_account(field), field.name.as_str());
                let (here, there) = if from_account {
                    (here.as_deref(), there)
                } else {
                    (Some(there), here.as_deref().unwrap_or_default())
                };
                there == name && here.is_some_and(|here| written.iter().any(|known| known == here))
            })
        };
        values.retain(|name, _| told(name));
        if values.is_empty() {
            return Ok(());
        }
        self.mirroring = true;
        let target = if from_account { contact } else { account };
        let done = self.update_as_org(target, &other, &values);
        self.mirroring = false;
        done
    }

    /// Returns the values of a record under the names of its other half.
    fn mirrored(
        &self,
        object: &Object,
        id: &str,
        named: impl Fn(&str) -> Option<String>,
    ) -> Answered<Map<String, Value>> {
        let fields: Vec<(&Field, String)> =
            object.stored().filter_map(|field| Some((field, named(&field.name)?))).collect();
        let columns: Vec<String> = fields.iter().map(|(field, _)| quoted(&field.name)).collect();
        let sql = format!("SELECT {} FROM {} WHERE \"Id\"=?", columns.join(","), quoted(&object.name));
        Ok(self.connection.query_row(&sql, [id], |row| {
            let value = |(at, (field, name)): (usize, &(&Field, String))| {
                Ok((name.clone(), crate::value::json(field.kind, row.get_ref(at)?)))
            };
            fields.iter().enumerate().map(value).collect::<rusqlite::Result<Map<String, Value>>>()
        })?)
    }
}
