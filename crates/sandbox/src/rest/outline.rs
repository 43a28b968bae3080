//! Resources about pages and not about data, in outline: layouts, list views, tabs, what else a user interface asks for.

use serde_json::{Value, json};

use super::{Answer, Call};
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::schema::{Field, Object};

/// Rows of a list view unless the client asks for another number, and at most. Source: REST API guide, "List View Results".
const LIST_ROWS: usize = 25;
const MAX_LIST_ROWS: usize = 2000;

impl Org {
    /// Answers the parts of a describe that are about pages and not about data.
    pub(super) fn object_outline(
        &self,
        call: &Call,
        version: &str,
        object: &Object,
        part: &str,
        rest: &[&str],
    ) -> Answered<Answer> {
        let base = format!("/services/data/{version}/sobjects/{}", object.name);
        let shown: Vec<&Field> = object.fields.iter().filter(|field| field.compound.is_none()).collect();
        let master = "012000000000000AAA";
        let body = match (part, rest) {
            ("layouts", ["describe", "layouts"]) if object.record_types.is_empty() => layout(object, &shown),
            ("layouts", ["describe", "layouts"]) => json!({
                "layouts": [layout(object, &shown)],
                "recordTypeMappings": object.record_types.iter().map(|kind| json!({
                    "active": kind.active, "available": true, "defaultRecordTypeMapping": false, "developerName": kind.developer_name,
                    "layoutId": null, "master": false, "name": kind.label, "picklistsForRecordType": [], "recordTypeId": kind.id,
                    "urls": {"layout": format!("{base}/describe/layouts/{}", kind.id)}})).collect::<Vec<_>>(),
                "recordTypeSelectorRequired": [false]}),
            ("layouts", ["describe", "layouts", id]) => {
                let id = crate::id::normal(id).ok_or_else(ApiError::not_found)?;
                if id != master && !object.record_types.iter().any(|kind| kind.id == id) {
                    return Err(ApiError::not_found());
                }
                layout(object, &shown)
            }
            ("compactLayouts", _) => {
                json!({"compactLayouts": [], "defaultCompactLayoutId": null, "recordTypeCompactLayoutMappings": [
                {"available": true, "compactLayoutId": null, "compactLayoutName": "SYSTEM", "recordTypeId": master, "recordTypeName": "Master",
                 "urls": {}}], "urls": {"primary": format!("{base}/describe/compactLayouts/primary")}})
            }
            ("defaultValues", _) => json!({}),
            ("approvalLayouts", _) => json!({"approvalLayouts": []}),
            ("listviews", ["listviews", rest @ ..]) => return self.list_views(call, version, object, rest),
            _ => return Err(ApiError::not_found()),
        };
        Ok(Answer::json(200, &body))
    }

    /// Answers `listviews`: each object has one, of all its records.
    fn list_views(&self, call: &Call, version: &str, object: &Object, rest: &[&str]) -> Answered<Answer> {
        let place = call.caller.schema.objects().position(|known| known.name == object.name).unwrap_or_default();
        let id = crate::id::make("00B", place as u64 + 1);
        let url = format!("/services/data/{version}/sobjects/{}/listviews/{id}", object.name);
        let (developer_name, label) =
            (format!("All{}", object.plural.replace(' ', "")), format!("All {}", object.plural));
        let entry = json!({"describeUrl": format!("{url}/describe"), "developerName": developer_name, "id": id, "label": label,
                           "resultsUrl": format!("{url}/results"), "soqlCompatible": true, "url": url});
        let rest = match rest {
            [] => {
                let body = json!({"done": true, "listviews": [entry], "nextRecordsUrl": null, "size": 1,
                                  "sobjectType": object.name});
                return Ok(Answer::json(200, &body));
            }
            [asked, rest @ ..] if crate::id::normal(asked).as_deref() == Some(&id) => rest,
            _ => return Err(ApiError::not_found()),
        };
        let name = object.fields.iter().find(|field| field.name_field);
        let audit = ["Id", "CreatedDate", "LastModifiedDate", "SystemModstamp"];
        let fields: Vec<&Field> = name.into_iter().chain(audit.iter().filter_map(|name| object.field(name))).collect();
        let columns: Vec<Value> = fields
            .iter()
            .map(|field| {
                json!({"ascendingLabel": "Z-A", "descendingLabel": "A-Z", "fieldNameOrPath": field.name,
                       "hidden": !field.name_field, "label": field.label, "selectListItem": field.name, "sortDirection": null,
                       "sortIndex": null, "sortable": field.sortable(), "type": field.kind.word()})
            })
            .collect();
        let order = name.map_or("Id", |name| &name.name);
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        let soql = format!(
            "SELECT {} FROM {} ORDER BY {order} ASC NULLS FIRST, Id ASC NULLS FIRST",
            names.join(", "),
            object.name
        );
        match rest {
            [] => Ok(Answer::json(200, &entry)),
            ["describe"] => {
                let by = |field: &str| json!({"fieldNameOrPath": field, "nullsPosition": "first", "sortDirection": "ascending"});
                let body = json!({"columns": columns, "id": id, "orderBy": [by(order), by("Id")], "query": soql,
                                  "relatedEntityId": null, "scope": "everything", "scopeEntityId": null,
                                  "sobjectType": object.name, "whereCondition": {"conditions": [], "conjunction": "and"}});
                Ok(Answer::json(200, &body))
            }
            ["results"] => {
                let number = |name: &str| call.query.get(name).and_then(|text| text.parse::<usize>().ok());
                let limit = number("limit").unwrap_or(LIST_ROWS).clamp(1, MAX_LIST_ROWS);
                let soql = format!("{soql} LIMIT {} OFFSET {}", limit + 1, number("offset").unwrap_or_default());
                let mut records = self.select(call, version, &soql, false)?;
                let done = records.len() <= limit;
                records.truncate(limit);
                let shown = |record: &Value| {
                    let cell = |name: &&str| {
                        let value = match &record[*name] {
                            Value::Null | Value::String(_) => record[*name].clone(),
                            other => json!(other.to_string()),
                        };
                        json!({"fieldNameOrPath": name, "value": value})
                    };
                    json!({"columns": names.iter().map(cell).collect::<Vec<_>>()})
                };
                let body = json!({"columns": columns, "developerName": developer_name, "done": done, "id": id, "label": label,
                                  "records": records.iter().map(shown).collect::<Vec<_>>(), "size": records.len()});
                Ok(Answer::json(200, &body))
            }
            _ => Err(ApiError::not_found()),
        }
    }

    /// Answers resources that tell of the user interface, which the sandbox has none of.
    pub(super) fn outline(&self, call: &Call, version: &str, rest: &[&str]) -> Answered<Answer> {
        let names = |key: &str| -> Vec<String> {
            call.query
                .get(key)
                .into_iter()
                .flat_map(|names| names.split(','))
                .map(|name| name.trim().to_owned())
                .collect()
        };
        let body = match rest {
            ["tabs"] => call
                .caller
                .schema
                .objects()
                .filter(|object| !object.setup)
                .map(|object| {
                    json!({"colors": [], "custom": object.custom, "iconUrl": null, "icons": [], "label": object.plural,
                           "miniIconUrl": null, "name": object.name, "sobjectName": object.name, "url": null})
                })
                .collect(),
            ["theme"] => json!({"themeItems": []}),
            ["process", "rules"] => json!({"rules": {}}),
            ["process", "approvals"] => json!({"approvals": {}}),
            ["appMenu", ..] => json!({"appMenuItems": []}),
            ["compactLayouts"] => {
                let layouts = names("q").into_iter().map(|name| (name, json!({"fieldItems": [], "label": "System Default"})));
                Value::Object(layouts.collect())
            }
            ["search", "layout"] => names("q")
                .iter()
                .filter_map(|name| call.caller.schema.object(name))
                .map(|object| {
                    let name = object.fields.iter().find(|field| field.name_field).map(|field| field.name.as_str());
                    json!({"errorMsg": null, "label": object.plural, "limitRows": 25, "objectType": object.name,
                           "searchColumns": [{"field": name, "format": null, "label": name, "name": name}]})
                })
                .collect(),
            ["search", "scopeOrder"] => call
                .caller
                .schema
                .objects()
                .filter(|object| object.is_searchable())
                .map(|object| json!({"type": object.name, "url": format!("/services/data/{version}/sobjects/{}/describe", object.name)}))
                .collect(),
            ["search", "suggestions"] => return self.suggestions(call, version),
            ["chatter" | "connect", "organization"] => json!({"orgId": self.org_id, "name": "Sandbox"}),
            ["chatter" | "connect", "users", "me"] => json!({"id": call.caller.user_id, "username": call.caller.username}),
            ["support" | "licensing" | "knowledgeManagement"] => json!({}),
            _ => return Err(ApiError::not_found()),
        };
        Ok(Answer::json(200, &body))
    }

    /// Answers `process/approvals`: an org without approval processes refuses every request.
    pub(super) fn approve(&self, call: &Call) -> Answered<Answer> {
        let body = call.json()?;
        let requests = body["requests"].as_array().filter(|requests| !requests.is_empty()).ok_or_else(|| {
            ApiError::new(400, "JSON_PARSER_ERROR", "requests is missing or not an array at [line:1, column:1]")
        })?;
        let refused = |request: &Value| {
            let (code, message) = match request["actionType"].as_str().map(str::to_ascii_lowercase).as_deref() {
                Some("submit") => ("NO_APPLICABLE_PROCESS", "No applicable approval process was found."),
                Some("approve" | "reject") => ("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id"),
                _ => ("INVALID_ARGUMENT_TYPE", "actionType is Submit, Approve or Reject"),
            };
            json!({"actorIds": null, "entityId": request["contextId"], "errors": [{"message": message, "statusCode": code}],
                   "instanceId": null, "instanceStatus": null, "newWorkitemIds": null, "success": false})
        };
        Ok(Answer::json(200, &requests.iter().map(refused).collect()))
    }

    /// Answers `search/suggestions`: records whose name begins with the text.
    fn suggestions(&self, call: &Call, version: &str) -> Answered<Answer> {
        let text = call.query.get("q").cloned().unwrap_or_default();
        let name = call.query.get("sobject").map(String::as_str).unwrap_or_default();
        let object = call.caller.schema.object(name).ok_or_else(ApiError::not_found)?;
        let field = object.fields.iter().find(|field| field.name_field).ok_or_else(ApiError::not_found)?;
        let limit = call.query.get("limit").and_then(|text| text.parse::<usize>().ok()).unwrap_or(5).min(200);
        let pattern = soql::quote(&format!("{text}%"));
        let soql = format!(
            "SELECT Id, {0} FROM {1} WHERE {0} LIKE {pattern} ORDER BY {0} LIMIT {2}",
            field.name,
            object.name,
            limit + 1
        );
        let mut records = self.select(call, version, &soql, false)?;
        let more = records.len() > limit;
        records.truncate(limit);
        Ok(Answer::json(200, &json!({"autoSuggestResults": records, "hasMoreResults": more})))
    }
}

/// The answer to a piece of Apex, which is never run.
pub(super) fn no_apex() -> Value {
    json!({"line": 1, "column": 1, "compiled": false, "success": false, "compileProblem": "The sandbox runs no Apex.",
           "exceptionMessage": null, "exceptionStackTrace": null})
}

/// One section with all fields, in two columns as a page has them.
fn layout(object: &Object, shown: &[&Field]) -> Value {
    let item = |field: &&Field| {
        json!({"editableForNew": field.createable, "editableForUpdate": field.updateable, "label": field.label,
               "layoutComponents": [{"displayLines": 1, "tabOrder": 1, "type": "Field", "value": field.name}],
               "placeholder": false, "required": field.required()})
    };
    let rows: Vec<Value> = shown
        .chunks(2)
        .map(|pair| json!({"numItems": pair.len(), "layoutItems": pair.iter().map(item).collect::<Vec<_>>()}))
        .collect();
    let section = json!([{"columns": 2, "heading": object.label, "layoutRows": rows, "rows": rows.len(),
                          "useCollapsibleSection": false, "useHeading": true}]);
    json!({"buttonLayoutSection": {"detailButtons": []}, "detailLayoutSections": section, "editLayoutSections": section,
           "feedView": null, "highlightsPanelLayoutSection": null, "id": null, "multirowEditLayoutSections": [],
           "offlineLinks": [], "relatedContent": null, "relatedLists": [], "saveOptions": []})
}
