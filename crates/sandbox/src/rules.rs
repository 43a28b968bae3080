//! What a record is checked for besides its values: where lookups may lead, which picklist values go together, and
//! whether the record is there already.

use rusqlite::params_from_iter;
use rusqlite::types::Value as Sql;
use serde_json::{Map, Value};

use crate::definition::{DuplicateAction, DuplicateRule};
use crate::error::{Answered, ApiError};
use crate::schema::{Field, Kind, Object};
use crate::store::{Store, quoted};
use crate::value::coerce;

impl Store<'_> {
    /// Checks that a lookup leads to a record that is there and that the field's filter allows.
    pub(crate) fn check_reference(&self, object: &Object, field: &Field, value: &Sql) -> Answered<()> {
        let Sql::Text(id) = value else { return Ok(()) };
        if field.kind != Kind::Reference {
            return Ok(());
        }
        let Some(target) = self.all.by_id(id) else { return Ok(()) };
        let alive = if target.setup { "" } else { " AND \"IsDeleted\"=0" };
        let sql = format!("SELECT 1 FROM {} WHERE \"Id\"=?{alive}", quoted(&target.name));
        if !self.connection.prepare_cached(&sql)?.exists([id])? {
            return Err(ApiError::on(&field.name, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id"));
        }
        if field.name == "RecordTypeId" && !object.record_types.iter().any(|kind| kind.id == *id && kind.active) {
            let message = "Record Type ID: this ID value isn't valid for the user: ".to_owned() + id;
            return Err(ApiError::on(&field.name, "INVALID_CROSS_REFERENCE_KEY", message));
        }
        let Some(filter) = &field.lookup_filter else { return Ok(()) };
        for (name, equals, wanted) in &filter.conditions {
            let Some(column) = target.field(name) else { continue };
            let wanted = coerce(self.all, column, &Value::String(wanted.clone())).unwrap_or(Sql::Null);
            let operator = if *equals { "IS" } else { "IS NOT" };
            let sql = format!(
                "SELECT 1 FROM {} WHERE \"Id\"=?1 AND {} {operator} ?2",
                quoted(&target.name),
                quoted(&column.name)
            );
            if !self.connection.prepare_cached(&sql)?.exists(rusqlite::params![id, wanted])? {
                return Err(ApiError::on(&field.name, "FIELD_FILTER_VALIDATION_EXCEPTION", filter.message.clone()));
            }
        }
        Ok(())
    }

    /// Checks dependent picklists: a value must be one that the controlling field's value allows.
    pub(crate) fn check_picklists(&self, object: &Object, row: &[(&Field, Sql)], id: Option<&str>) -> Answered<()> {
        for (field, value) in row.iter().filter(|(field, _)| field.restricted && field.controller.is_some()) {
            let (Sql::Text(text), Some(controller)) = (value, field.controller.as_deref()) else { continue };
            let Some(controller) = object.field(controller) else { continue };
            let controlling = match row.iter().find(|(known, _)| known.name == controller.name) {
                Some((_, value)) => value.clone(),
                None => match id {
                    Some(id) => {
                        let sql =
                            format!("SELECT {} FROM {} WHERE \"Id\"=?", quoted(&controller.name), quoted(&object.name));
                        self.connection.query_row(&sql, [id], |row| row.get(0))?
                    }
                    None => Sql::Null,
                },
            };
            let controlling = match controlling {
                Sql::Text(text) => text,
                Sql::Integer(flag) => (flag != 0).to_string(),
                _ => String::new(),
            };
            for one in text.split(';') {
                let allowed = field
                    .values
                    .iter()
                    .find(|value| value.value == one)
                    .is_some_and(|value| value.valid_for.as_ref().is_none_or(|valid| valid.contains(&controlling)));
                if !allowed {
                    let message = format!("{}: bad value for restricted picklist field: {one}", field.label);
                    return Err(ApiError::on(&field.name, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", message));
                }
            }
        }
        Ok(())
    }

    /// Applies the rules against duplicates.
    pub(crate) fn check_duplicates(&self, object: &Object, row: &[(&Field, Sql)], own: Option<&str>) -> Answered<()> {
        for rule in self.rules.iter().filter(|rule| rule.object.eq_ignore_ascii_case(&object.name)) {
            let blocks = rule.action == DuplicateAction::Block;
            if self.options.allow_duplicates && !blocks {
                continue;
            }
            let compared: Option<Vec<(&Field, &str)>> = rule
                .fields
                .iter()
                .map(|name| match row.iter().find(|(field, _)| field.name.eq_ignore_ascii_case(name)) {
                    Some((field, Sql::Text(text))) => Some((*field, text.as_str())),
                    _ => None,
                })
                .collect();
            let found = self.alike(object, &compared.unwrap_or_default(), own)?;
            if !found.is_empty() {
                let mut error = ApiError::new(400, "DUPLICATES_DETECTED", rule.alert.clone());
                error.duplicates = Some(Box::new(self.duplicates(object, rule, &found)));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns what the rules against duplicates find for the values of a record, for each rule of its object; `own` is the
    /// record itself, where it is there already.
    pub(crate) fn find_duplicates(
        &self,
        object: &Object,
        values: &Map<String, Value>,
        own: Option<&str>,
    ) -> Answered<Vec<Value>> {
        let value = |name: &str| {
            values.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).and_then(|(_, value)| value.as_str())
        };
        let of_object = self.rules.iter().filter(|rule| rule.object.eq_ignore_ascii_case(&object.name));
        of_object
            .map(|rule| {
                let compared: Option<Vec<(&Field, &str)>> =
                    rule.fields.iter().map(|name| Some((object.field(name)?, value(name)?))).collect();
                let found = self.alike(object, &compared.unwrap_or_default(), own)?;
                Ok(self.duplicates(object, rule, &found))
            })
            .collect()
    }

    /// Returns the ids of records all of whose values are like these; none where there is nothing to compare.
    fn alike(&self, object: &Object, compared: &[(&Field, &str)], own: Option<&str>) -> Answered<Vec<String>> {
        if compared.is_empty() {
            return Ok(Vec::new());
        }
        let alike: Vec<String> =
            compared.iter().map(|(field, _)| format!("sf_alike({},?)", quoted(&field.name))).collect();
        let sql = format!(
            "SELECT \"Id\" FROM {} WHERE \"IsDeleted\"=0 AND {} LIMIT 20",
            quoted(&object.name),
            alike.join(" AND ")
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let found = statement
            .query_map(params_from_iter(compared.iter().map(|(_, text)| *text)), |row| row.get::<_, String>(0))?;
        let found: Vec<String> = found.collect::<rusqlite::Result<_>>()?;
        Ok(found.into_iter().filter(|id| own != Some(id.as_str())).collect())
    }

    /// Describes duplicates as the platform does.
    fn duplicates(&self, object: &Object, rule: &DuplicateRule, ids: &[String]) -> Value {
        let details = self.options.duplicate_details;
        let records: Vec<Value> = ids
            .iter()
            .map(|id| {
                let mut record = serde_json::json!({
                    "attributes": {"type": object.name, "url": format!("/services/data/v66.0/sobjects/{}/{id}", object.name)},
                    "Id": id});
                for name in rule.fields.iter().filter(|_| details) {
                    let sql = format!("SELECT {} FROM {} WHERE \"Id\"=?", quoted(name), quoted(&object.name));
                    let text: Option<String> = self.connection.query_row(&sql, [id], |row| row.get(0)).unwrap_or_default();
                    record[name] = text.map_or(Value::Null, Value::String);
                }
                serde_json::json!({"additionalInformation": [], "fieldDiffs": [], "matchConfidence": 100.0, "record": record})
            })
            .collect();
        serde_json::json!({
            "allowSave": rule.action == DuplicateAction::Alert, "duplicateRule": rule.name,
            "duplicateRuleEntityType": object.name, "errorMessage": rule.alert,
            "matchResults": [{"entityType": object.name, "errors": [], "matchEngine": "FuzzyMatchEngine",
                              "matchRecords": records, "rule": rule.name, "size": ids.len(), "success": true}]})
    }
}
