//! Quick actions: what people do by one button of a page. Those that every org has, and those of its metadata.

use serde_json::{Map, Value, json};

use crate::error::{Answered, ApiError};
use crate::metadata::Held;
use crate::org::Org;
use crate::rest::{Answer, Call};
use crate::schema::Schema;
use crate::store::Store;

/// Objects whose records every org makes by a button. Source: Salesforce Help, "Default Global Actions".
const MADE: [&str; 7] = ["Account", "Case", "Contact", "Event", "Lead", "Opportunity", "Task"];

/// What an action does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Does {
    /// Makes a record.
    Create,
    /// Changes the record where it is used.
    Update,
    /// Makes a task that is done.
    LogACall,
    /// What only a page does, by its type in the metadata.
    Shown(String),
}

/// An action.
#[derive(Debug, Clone)]
pub(crate) struct QuickAction {
    /// Its name; one of an object has the object's before a dot.
    name: String,
    label: String,
    does: Does,
    /// What it makes or changes.
    target: String,
    /// The field of what it makes that names the record where it is used.
    parent: Option<String>,
    /// What it fills in.
    given: Vec<(String, Value)>,
    message: Option<String>,
}

impl QuickAction {
    fn global(name: String, label: String, does: Does, target: &str) -> Self {
        Self { name, label, does, target: target.to_owned(), parent: None, given: Vec::new(), message: None }
    }

    /// Returns the object on whose pages it stands; `None` for one that stands on all.
    fn object(&self) -> Option<&str> {
        self.name.split_once('.').map(|(object, _)| object)
    }

    fn kind(&self) -> &str {
        match &self.does {
            Does::Create => "Create",
            Does::Update => "Update",
            Does::LogACall => "LogACall",
            Does::Shown(kind) => kind,
        }
    }

    fn entry(&self, version: &str, of: Option<&str>) -> Value {
        let base = of.map_or_else(String::new, |object| format!("/sobjects/{object}"));
        let url = format!("/services/data/{version}{base}/quickActions/{}", self.name);
        let mut urls = json!({"quickAction": url, "describe": format!("{url}/describe")});
        if self.does == Does::Create {
            urls["defaultValues"] = json!(format!("{url}/defaultValues"));
        }
        json!({"actionEnumOrId": self.name, "label": self.label, "name": self.name, "type": self.kind(), "urls": urls})
    }

    fn described(&self) -> Value {
        json!({"actionEnumOrId": self.name, "colors": [], "contextSobjectType": self.object(), "defaultValues": self.defaults(),
               "icons": [], "label": self.label, "name": self.name, "showQuickActionLcHeader": false,
               "showQuickActionVfHeader": false, "targetParentField": self.parent, "targetRecordTypeId": null,
               "targetSobjectType": self.target, "type": self.kind()})
    }

    fn defaults(&self) -> Value {
        self.given.iter().map(|(field, value)| json!({"defaultValue": value, "field": field})).collect()
    }
}

/// Returns the actions of an org: those of every org, then those of its metadata.
pub(crate) fn quick_actions(schema: &Schema, held: &[Held]) -> Vec<QuickAction> {
    let made = MADE.iter().filter_map(|name| schema.object(name));
    let make = |object: &crate::schema::Object| {
        QuickAction::global(format!("New{}", object.name), format!("New {}", object.label), Does::Create, &object.name)
    };
    let mut all: Vec<QuickAction> = made.map(make).collect();
    all.push(QuickAction::global("LogACall".to_owned(), "Log a Call".to_owned(), Does::LogACall, "Task"));
    let own = held.iter().filter(|held| held.component.of.name == "QuickAction");
    all.extend(own.filter_map(|held| read(&held.component.name, &held.component.xml().ok()?)));
    all
}

/// Reads an action of the metadata. Source: Metadata API Developer Guide, "`QuickAction`".
fn read(name: &str, xml: &crate::xml::Node) -> Option<QuickAction> {
    let does = match xml.text("type")? {
        "Create" => Does::Create,
        "Update" => Does::Update,
        "LogACall" => Does::LogACall,
        other => Does::Shown(other.to_owned()),
    };
    let object = name.split_once('.').map(|(object, _)| object);
    let target = match does {
        Does::LogACall => "Task",
        Does::Update => object.or(xml.text("targetObject"))?,
        _ => xml.text("targetObject").unwrap_or_default(),
    };
    let given = xml.children.iter().filter(|node| node.tag == "fieldOverrides");
    let given = given.filter_map(|node| Some((node.text("field")?.to_owned(), json!(node.text("literalValue")?))));
    Some(QuickAction {
        name: name.to_owned(),
        label: xml.text("label").or(xml.text("standardLabel")).unwrap_or(name).to_owned(),
        does,
        target: target.to_owned(),
        parent: xml.text("targetParentField").map(str::to_owned),
        given: given.collect(),
        message: xml.text("successMessage").map(str::to_owned),
    })
}

impl Org {
    /// Returns what is told of the actions of a page; of those that stand on all pages where it is no object's.
    pub(crate) fn listed_actions(&self, version: &str, object: Option<&str>) -> Value {
        let setup = self.setup();
        let here = setup.quick_actions.iter().filter(|action| action.object().is_none_or(|of| Some(of) == object));
        here.map(|action| action.entry(version, object)).collect()
    }

    /// Answers a call below `quickActions`.
    pub(crate) fn quick_action(
        &self,
        call: &Call,
        version: &str,
        object: Option<&str>,
        rest: &[&str],
    ) -> Answered<Answer> {
        let [name, rest @ ..] = rest else { return Ok(Answer::json(200, &self.listed_actions(version, object))) };
        let action = self.action_named(name, object)?;
        match (call.method.as_str(), rest) {
            ("GET", []) => Ok(Answer::json(200, &action.entry(version, object))),
            ("GET", ["describe"]) => Ok(Answer::json(200, &action.described())),
            ("GET", ["defaultValues", ..]) => {
                let values: Map<String, Value> = action.given.iter().cloned().collect();
                Ok(Answer::json(200, &Value::Object(values)))
            }
            ("POST", []) => {
                let body = call.json()?;
                let record = body["record"].as_object().cloned().unwrap_or_default();
                let done = self.perform(call, &action.name, body["contextId"].as_str(), &[record])?;
                Ok(Answer::json(if done["success"] == true { 201 } else { 400 }, &done))
            }
            (method, _) => Err(crate::rest::not_allowed(method, "GET,HEAD,POST")),
        }
    }

    fn action_named(&self, name: &str, object: Option<&str>) -> Answered<QuickAction> {
        let setup = self.setup();
        let whole = object.map(|object| format!("{object}.{name}"));
        let is = |known: &&QuickAction| {
            known.name.eq_ignore_ascii_case(name)
                || whole.as_ref().is_some_and(|whole| known.name.eq_ignore_ascii_case(whole))
        };
        setup.quick_actions.iter().find(is).cloned().ok_or_else(ApiError::not_found)
    }

    /// Returns what is told of actions by name, all of it.
    pub(crate) fn described_action(&self, name: &str) -> Answered<Value> {
        Ok(self.action_named(name, None)?.described())
    }

    /// Does what an action does, for the record where it is used, with what was filled in; returns its outcome.
    ///
    /// # Errors
    ///
    /// No such action, or a failure of the org; what is wrong with a record stands in the outcome.
    pub(crate) fn perform(
        &self,
        call: &Call,
        name: &str,
        context: Option<&str>,
        records: &[Map<String, Value>],
    ) -> Answered<Value> {
        let action = self.action_named(name, None)?;
        let done = self.write_with(&call.caller, call.options(), |store| {
            records.iter().map(|record| act(store, &action, context, record)).collect::<Answered<Vec<String>>>()
        });
        let outcome = |ids: Vec<String>, errors: Vec<Value>| {
            json!({"contextId": context, "created": action.does != Does::Update && errors.is_empty(), "feedItemIds": null,
                   "id": ids.first(), "ids": ids, "success": errors.is_empty(), "errors": errors,
                   "successMessage": action.message})
        };
        match done {
            Ok(ids) => Ok(outcome(ids, Vec::new())),
            Err(error) if error.status >= 500 => Err(error),
            Err(error) => Ok(outcome(Vec::new(), vec![error.save_entry()])),
        }
    }
}

/// Makes or changes one record, and returns its id.
fn act(
    store: &mut Store<'_>,
    action: &QuickAction,
    context: Option<&str>,
    record: &Map<String, Value>,
) -> Answered<String> {
    if let Does::Shown(kind) = &action.does {
        let message = format!("{} is an action of the type {kind}, which only a page performs", action.name);
        return Err(ApiError::new(400, "INVALID_OPERATION", message));
    }
    let object = store.schema.object(&action.target).ok_or_else(ApiError::not_found)?;
    let mut values: Map<String, Value> = action.given.iter().cloned().collect();
    if action.does == Does::LogACall {
        values.extend(
            [("Status", "Completed"), ("Subject", "Call")].map(|(field, value)| (field.to_owned(), json!(value))),
        );
    }
    if let Some(context) = context {
        let id = crate::id::normal(context).ok_or_else(|| crate::store::malformed_id(context))?;
        if action.does == Does::Update {
            values.extend(record.clone());
            values.retain(|name, _| name != "Id" && name != "attributes");
            store.update(object, &id, &values)?;
            return Ok(id);
        }
        let person = store.all.by_id(&id).is_some_and(|object| matches!(object.name.as_str(), "Contact" | "Lead"));
        let parent = match &action.parent {
            // The metadata names a standard lookup without the ending of its field.
            Some(parent) => object.field(parent).or_else(|| object.field(&format!("{parent}Id"))),
            None => object.field(if person { "WhoId" } else { "WhatId" }),
        };
        values.extend(parent.map(|field| (field.name.clone(), json!(id))));
    } else if action.does == Does::Update {
        return Err(ApiError::new(400, "MISSING_ARGUMENT", "contextId is missing: the record that is to be changed"));
    }
    values.extend(record.clone());
    store.insert(object, &values)
}
