//! Calls that stand in for people at work: mail, templates, quick actions, duplicates.

use serde_json::{Map, Value, json};

use super::{Asked, record};
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::schema::Object;
use crate::xml::{Node, escape};

/// Messages that one call sends. Source: the Partner WSDL.
const MESSAGES: usize = 10;
/// Recipients of one message in each of its lists. Source: SOAP API guide, "`SingleEmailMessage`".
const RECIPIENTS: usize = 150;
/// Records or texts that one call looks at. Source: SOAP API guide, "`findDuplicates`", and the Partner WSDL.
const MOST_SEARCHED: usize = 50;
const MOST_TEXTS: usize = 10;

/// Refuses more records than a call takes.
pub(super) fn too_many(number: usize, most: usize) -> Answered<()> {
    if number <= most {
        return Ok(());
    }
    let message = format!("record limit reached. cannot submit more than {most} records into this call");
    Err(ApiError::new(400, "EXCEEDED_MAX_SIZE_REQUEST", message))
}

/// True for what may be an address of mail.
fn is_address(text: &str) -> bool {
    let domain = text.split_once('@').filter(|(user, domain)| !user.is_empty() && !domain.contains('@'));
    domain.is_some_and(|(_, domain)| domain.split('.').count() > 1 && domain.split('.').all(|part| !part.is_empty()))
        && !text.contains(char::is_whitespace)
}

/// Returns what is wrong with an outcome's record.
fn failed(error: &ApiError) -> Value {
    json!([error.save_entry()])
}

impl Org {
    /// Answers `sendEmail`: messages are checked and noted as activities, and leave the sandbox for nobody.
    pub(super) fn soap_mail(&self, asked: &Asked<'_>) -> Answered<Value> {
        let messages = asked.all("messages");
        too_many(messages.len(), MESSAGES)?;
        let outcome = |message: &&Node| match self.send(asked, message) {
            Ok(()) => Ok(json!({"errors": [], "success": true})),
            Err(error) if error.status >= 500 => Err(error),
            Err(error) => {
                let target = message.text("targetObjectId");
                let entry = json!({"fields": error.fields, "message": error.message, "statusCode": error.code,
                                   "targetObjectId": target});
                Ok(json!({"errors": [entry], "success": false}))
            }
        };
        messages.iter().map(outcome).collect()
    }

    fn send(&self, asked: &Asked<'_>, message: &Node) -> Answered<()> {
        let to_many = message.kind.as_deref().is_some_and(|kind| kind.ends_with("MassEmailMessage"));
        let mut targets: Vec<&str> = message.texts("targetObjectIds").collect();
        targets.extend(message.text("targetObjectId"));
        let mut copies = 0;
        for list in ["toAddresses", "ccAddresses", "bccAddresses"] {
            let addresses: Vec<&str> = message.texts(list).flat_map(|text| text.split(',')).map(str::trim).collect();
            if addresses.len() > RECIPIENTS {
                let most = format!("{list}: no more than {RECIPIENTS} addresses");
                return Err(ApiError::on(list, "LIMIT_EXCEEDED", most));
            }
            // A user's id stands for his address.
            let wrong = addresses.iter().find(|text| !is_address(text) && crate::id::normal(text).is_none());
            if let Some(wrong) = wrong {
                let message = format!("Email address is invalid: {wrong}");
                return Err(ApiError::on(list, "INVALID_EMAIL_ADDRESS", message));
            }
            copies += addresses.len();
        }
        if targets.is_empty() && copies == 0 {
            return Err(ApiError::new(400, "REQUIRED_FIELD_MISSING", "Add a recipient to send an email."));
        }
        let body = message.text("plainTextBody").or(message.text("htmlBody"));
        if body.is_none() && message.text("templateId").is_none() {
            let missing = "Missing body, need at least one of html or plainText";
            return Err(ApiError::new(400, "REQUIRED_FIELD_MISSING", missing));
        }
        if to_many && message.text("templateId").is_none() {
            return Err(ApiError::on("templateId", "REQUIRED_FIELD_MISSING", "templateId is missing"));
        }
        let mut people = Vec::new();
        for target in targets {
            let (object, row) = self.row_named(asked, target)?;
            if !matches!(object.name.as_str(), "Contact" | "Lead" | "User") {
                let message = "Only User, Contact, Lead, or Person objects are allowed for targetObjectId";
                return Err(ApiError::on("targetObjectId", "INVALID_ID_FIELD", message));
            }
            if row["Email"].as_str().is_none_or(|address| !is_address(address)) {
                let message = format!("{target} has no address of mail");
                return Err(ApiError::on("targetObjectId", "INVALID_EMAIL_ADDRESS", message));
            }
            people.extend((object.name != "User").then(|| row["Id"].clone()));
        }
        let what =
            message.text("whatId").map(|id| self.row_named(asked, id)).transpose()?.map(|(_, row)| row["Id"].clone());
        // A message to a person of the org is an activity with him, unless it is said not to be.
        if message.text("saveAsActivity") == Some("false") {
            return Ok(());
        }
        let subject = message.text("subject").unwrap_or_default();
        for person in people {
            let mut task = Map::new();
            task.insert("Subject".to_owned(), json!(format!("Email: {subject}")));
            task.insert("Status".to_owned(), json!("Completed"));
            task.insert("Description".to_owned(), json!(body));
            task.insert("WhoId".to_owned(), person);
            task.extend(what.clone().map(|what| ("WhatId".to_owned(), what)));
            self.write(&self.system(), |store| {
                let object = store.schema.object("Task").ok_or_else(ApiError::not_found)?;
                store.insert(object, &task)
            })?;
        }
        Ok(())
    }

    /// Returns the object and the fields of a record that the caller sees.
    fn row_named(&self, asked: &Asked<'_>, id: &str) -> Answered<(Object, Value)> {
        let unknown = || ApiError::new(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id");
        let id = crate::id::normal(id).ok_or_else(unknown)?;
        let object = asked.call.caller.schema.by_id(&id).ok_or_else(unknown)?.clone();
        let row = asked.inner(self, "GET", &["sobjects", &object.name, &id], &[], None).map_err(|_| unknown())?;
        Ok((object, row))
    }

    /// Answers `findDuplicates`, and `findDuplicatesByIds`.
    pub(super) fn soap_duplicates(&self, asked: &Asked<'_>) -> Answered<Value> {
        let records: Vec<Answered<(Object, Value)>> = if asked.operation.name == "findDuplicates" {
            let named = |node: &Node| {
                let values = record(node);
                let name = values["attributes"]["type"].as_str().unwrap_or_default();
                let unknown = || ApiError::new(400, "INVALID_TYPE", format!("sObject type '{name}' is not supported."));
                Ok((asked.call.caller.schema.object(name).ok_or_else(unknown)?.clone(), values))
            };
            asked.all("sObjects").into_iter().map(named).collect()
        } else {
            asked.ids().into_iter().map(|id| self.row_named(asked, id)).collect()
        };
        too_many(records.len(), MOST_SEARCHED)?;
        let searched = |found: Answered<(Object, Value)>| {
            let (object, values) = found?;
            let values = values.as_object().cloned().unwrap_or_default();
            let own = values.get("Id").and_then(Value::as_str).map(str::to_owned);
            let rules = &self.config.definition.duplicate_rules;
            if !rules.iter().any(|rule| rule.object.eq_ignore_ascii_case(&object.name)) {
                let message = format!("There are no active duplicate rules for {}.", object.name);
                return Err(ApiError::new(400, "NO_ACTIVE_DUPLICATE_RULE", message));
            }
            self.write_with(&asked.call.caller, asked.call.options(), |store| {
                store.find_duplicates(&object, &values, own.as_deref())
            })
        };
        let outcome = |found| match searched(found) {
            Ok(results) => json!({"duplicateResults": results, "errors": [], "success": true}),
            Err(error) => json!({"duplicateResults": [], "errors": failed(&error), "success": false}),
        };
        Ok(records.into_iter().map(outcome).collect())
    }

    /// Answers `performQuickActions`.
    pub(super) fn soap_actions(&self, asked: &Asked<'_>) -> Answered<Value> {
        let perform = |node: &Node| {
            let records: Vec<Map<String, Value>> = node
                .children
                .iter()
                .filter(|child| child.tag == "records")
                .filter_map(|child| record(child).as_object().cloned())
                .collect();
            let context = node.text("contextId").or(node.text("parentId"));
            let name = node.text("quickActionName").unwrap_or_default();
            match self.perform(asked.call, name, context, &records) {
                Err(error) if error.status >= 500 => Err(error),
                Err(error) => {
                    Ok(json!({"contextId": context, "created": false, "errors": failed(&error), "success": false}))
                }
                done => done,
            }
        };
        asked.all("quickActions").into_iter().map(perform).collect()
    }

    /// Answers `deleteByExample`, which is for big objects; the sandbox has none.
    pub(super) fn soap_delete_alike(asked: &Asked<'_>) -> Value {
        let outcome = |node: &Node| {
            let values = record(node);
            let name = values["attributes"]["type"].as_str().unwrap_or_default();
            let message = format!("entity type {name} does not support deleting by example: it is no big object");
            json!({"entity": values, "errors": failed(&ApiError::new(400, "INVALID_TYPE_FOR_OPERATION", message)),
                   "rowCount": 0, "success": false})
        };
        asked.all("sObjects").into_iter().map(outcome).collect()
    }

    /// Answers `renderEmailTemplate`: puts the fields of a person and of a record in the place of what names them.
    pub(super) fn soap_render(&self, asked: &Asked<'_>) -> Answered<Value> {
        let requests = asked.all("renderRequests");
        let rendered = |request: &Node| {
            let texts: Vec<&str> = request.texts("templateBodies").collect();
            too_many(texts.len(), MOST_TEXTS)?;
            let user = asked.call.caller.user_id.as_str();
            let mut known = Vec::new();
            for id in request.text("whoId").into_iter().chain(request.text("whatId")).chain([user]) {
                known.push(self.row_named(asked, id)?);
            }
            let html = request.text("escapeHtmlInMergeFields") == Some("true");
            Ok(texts.into_iter().map(|text| merged(text, &known, html)).collect::<Value>())
        };
        let outcome = |request: &Node| match rendered(request) {
            Ok(bodies) => json!({"bodyResults": bodies, "errors": [], "success": true}),
            Err(error) => json!({"bodyResults": null, "errors": failed(&error), "success": false}),
        };
        Ok(requests.into_iter().map(outcome).collect())
    }

    /// Answers `describeCompactLayouts`, and `describePrimaryCompactLayouts`: each object has the one of the system, which shows
    /// its name.
    pub(super) fn soap_compact(asked: &Asked<'_>, object: &str) -> Answered<Value> {
        let unknown = || ApiError::new(400, "INVALID_TYPE", format!("sObject type '{object}' is not supported."));
        let object = asked.call.caller.schema.object(object).ok_or_else(unknown)?;
        let name = object.fields.iter().filter(|field| field.name_field);
        let items = name.map(|field| {
            json!({"editableForNew": field.createable, "editableForUpdate": field.updateable, "label": field.label,
                   "layoutComponents": [{"displayLines": 1, "tabOrder": 1, "type": "Field", "value": field.name}],
                   "placeholder": false, "required": field.required()})
        });
        Ok(json!({"actions": [], "fieldItems": items.collect::<Value>(), "id": null, "imageItems": [],
                  "label": "System Default", "name": "SYSTEM", "objectType": object.name}))
    }
}

/// Fills one text in.
fn merged(text: &str, known: &[(Object, Value)], html: bool) -> Value {
    let (mut done, mut errors, mut rest) = (String::new(), Vec::new(), text);
    while let Some((before, behind)) = rest.split_once("{!") {
        done.push_str(before);
        let offset = text.len() - behind.len() - 2;
        let Some((name, behind)) = behind.split_once('}') else {
            errors.push(json!({"fieldName": "", "message": "a merge field is not closed", "offset": offset,
                               "statusCode": "INVALID_MERGE_FIELD"}));
            rest = "";
            break;
        };
        rest = behind;
        let value = name.trim().split_once('.').and_then(|(object, field)| {
            let (_, row) = known.iter().find(|(known, _)| known.name.eq_ignore_ascii_case(object))?;
            row.as_object()?.iter().find(|(known, _)| known.eq_ignore_ascii_case(field)).map(|(_, value)| value)
        });
        match value {
            Some(Value::Null) => {}
            Some(Value::String(value)) if html => done.push_str(&escape(value)),
            Some(Value::String(value)) => done.push_str(value),
            Some(value) => done.push_str(&value.to_string()),
            None => {
                let message = format!("{} names nothing that is known here", name.trim());
                errors.push(json!({"fieldName": name.trim(), "message": message, "offset": offset,
                                   "statusCode": "INVALID_MERGE_FIELD"}));
            }
        }
    }
    done.push_str(rest);
    let good = errors.is_empty();
    json!({"errors": errors, "mergedBody": good.then_some(done), "success": good})
}
