//! Descriptions of the objects and their fields, with every key that clients look for.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::org::Org;
use crate::rest::Call;
use crate::schema::{Field, Kind, Object, PicklistValue, Schema};

impl Org {
    /// Returns the list of all objects.
    pub(crate) fn describe_global(&self, call: &Call, version: &str) -> Value {
        let objects: Vec<Value> = call.caller.schema.objects().map(|object| entry(object, version)).collect();
        json!({"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": objects})
    }

    /// Returns everything there is to know about an object.
    pub(crate) fn describe(&self, schema: &Schema, object: &Object, version: &str) -> Value {
        let mut described = entry(object, version);
        let fields: Vec<Value> = object.fields.iter().map(|field| describe_field(object, field)).collect();
        let children: Vec<Value> = schema
            .children(&object.name)
            .map(|(child, field)| {
                json!({"cascadeDelete": field.cascade, "childSObject": child.name, "deprecatedAndHidden": false,
                       "field": field.name, "junctionIdListNames": [], "junctionReferenceTo": [],
                       "relationshipName": field.children, "restrictedDelete": field.restrict})
            })
            .collect();
        let link = format!("/services/data/{version}/sobjects/{}", object.name);
        let master = json!({
            "active": true, "available": true, "defaultRecordTypeMapping": object.record_types.is_empty(), "developerName": "Master",
            "master": true, "name": "Master", "recordTypeId": "012000000000000AAA",
            "urls": {"layout": format!("{link}/describe/layouts/012000000000000AAA")}});
        let kinds = object.record_types.iter().enumerate().map(|(at, kind)| {
            json!({"active": kind.active, "available": kind.active, "defaultRecordTypeMapping": at == 0,
                   "developerName": kind.developer_name, "master": false, "name": kind.label, "recordTypeId": kind.id,
                   "urls": {"layout": format!("{link}/describe/layouts/{}", kind.id)}})
        });
        let kinds: Vec<Value> = kinds.chain([master]).collect();
        let more = json!({
            "actionOverrides": [], "childRelationships": children, "compactLayoutable": true,
            "defaultImplementation": null, "extendedBy": null, "extendsInterfaces": null, "fields": fields,
            "implementedBy": null, "implementsInterfaces": null, "listviewable": null, "lookupLayoutable": null,
            "namedLayoutInfos": [], "networkScopeFieldName": null, "recordTypeInfos": kinds,
            "searchLayoutable": true, "sobjectDescribeOption": "FULL",
            "supportedScopes": [{"label": format!("All {}", object.plural), "name": "everything"},
                                {"label": format!("My {}", object.plural), "name": "mine"}],
        });
        if let (Value::Object(described), Value::Object(more)) = (&mut described, more) {
            described.extend(more);
        }
        described
    }
}

/// The entry of an object in the global describe.
pub(crate) fn entry(object: &Object, version: &str) -> Value {
    let link = format!("/services/data/{version}/sobjects/{}", object.name);
    json!({
        "activateable": false, "associateEntityType": null, "associateParentEntity": null, "createable": object.createable,
        "custom": object.custom, "customSetting": false, "deepCloneable": false, "deletable": object.deletable,
        "deprecatedAndHidden": false, "feedEnabled": false, "hasSubtypes": false, "isInterface": false,
        "isSubtype": false, "keyPrefix": Some(&object.prefix).filter(|prefix| *prefix != "-"), "label": object.label, "labelPlural": object.plural,
        "layoutable": !object.is_event(), "mergeable": matches!(object.name.as_str(), "Account" | "Contact" | "Lead" | "Case"),
        "mruEnabled": !object.is_event(), "name": object.name, "queryable": !object.is_event(),
        "replicateable": !object.setup && !object.is_event(),
        "retrieveable": !object.is_event(), "searchable": !object.is_event(), "triggerable": !object.setup, "undeletable": object.deletable,
        "updateable": object.updateable,
        "urls": {"sobject": link, "describe": format!("{link}/describe"), "rowTemplate": format!("{link}/{{ID}}"),
                 "layouts": format!("{link}/describe/layouts"), "compactLayouts": format!("{link}/describe/compactLayouts")},
    })
}

fn soap_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Id | Kind::Reference => "tns:ID",
        Kind::Boolean => "xsd:boolean",
        Kind::Int => "xsd:int",
        kind if kind.numeric() => "xsd:double",
        Kind::Date => "xsd:date",
        Kind::Datetime => "xsd:dateTime",
        Kind::Time => "xsd:time",
        Kind::Base64 => "xsd:base64Binary",
        Kind::Address => "urn:address",
        Kind::Location => "urn:location",
        _ => "xsd:string",
    }
}

/// Returns the description of a field: all 57 keys.
fn describe_field(object: &Object, field: &Field) -> Value {
    let kind = field.kind;
    let system = !field.createable && !field.updateable;
    let values: Vec<Value> = field
        .values
        .iter()
        .map(|value| {
            json!({"active": value.active, "defaultValue": value.default, "label": value.label,
                   "validFor": valid_for(object, field, value), "value": value.value})
        })
        .collect();
    let extra = match kind {
        Kind::Textarea if field.html => Some("richtextarea"),
        Kind::Textarea => Some("plaintextarea"),
        Kind::String if field.name_field && object.field("LastName").is_some() => Some("personname"),
        _ => None,
    };
    let default = if kind == Kind::Boolean { json!(field.default.as_deref() == Some("true")) } else { Value::Null };
    json!({
        "aggregatable": field.aggregable(),
        "aiPredictionField": false, "autoNumber": field.auto_number.is_some(), "byteLength": field.length * if matches!(kind, Kind::Id | Kind::Reference) { 1 } else { 3 },
        "calculated": field.calculated, "calculatedFormula": field.formula, "cascadeDelete": field.cascade,
        "caseSensitive": field.case_sensitive, "compoundFieldName": field.compound, "controllerName": field.controller,
        "createable": field.createable, "custom": field.custom, "defaultValue": default,
        "defaultValueFormula": field.default.as_deref().filter(|_| kind != Kind::Boolean),
        "defaultedOnCreate": field.defaulted, "dependentPicklist": field.controller.is_some(), "deprecatedAndHidden": false,
        "digits": if kind == Kind::Int { field.precision } else { 0 }, "displayLocationInDecimal": kind == Kind::Location,
        "encrypted": kind == Kind::Encrypted, "externalId": field.external_id, "extraTypeInfo": extra,
        "filterable": field.filterable(), "filteredLookupInfo": field.lookup_filter.as_ref().map(|_| json!({"controllingFields": [], "dependent": false, "optionalFilter": false})), "formulaTreatNullNumberAsZero": field.blanks_are_zero,
        "groupable": field.groupable(), "highScaleNumber": false, "htmlFormatted": field.html, "idLookup": field.id_lookup,
        "inlineHelpText": field.help, "label": field.label, "length": field.length, "mask": null, "maskType": null,
        "name": field.name, "nameField": field.name_field, "namePointing": field.targets.len() > 1,
        "nillable": field.nillable, "permissionable": !system && !field.required() && field.name != "Name",
        "picklistValues": values, "polymorphicForeignKey": field.targets.len() > 1,
        "precision": if kind == Kind::Int { 0 } else { field.precision }, "queryByDistance": kind.compound(),
        "referenceTargetField": null, "referenceTo": field.targets, "relationshipName": field.relationship,
        "relationshipOrder": if field.master { json!(0) } else { Value::Null }, "restrictedDelete": field.restrict,
        "restrictedPicklist": field.restricted, "scale": field.scale, "searchPrefilterable": false,
        "soapType": soap_type(kind), "sortable": field.sortable(),
        "type": kind.word(), "unique": field.unique, "updateable": field.updateable, "writeRequiresMasterRead": field.master,
    })
}

/// Returns the bitmap of the controlling values for which there is this one: a bit each, from the left, in base64.
fn valid_for(object: &Object, field: &Field, value: &PicklistValue) -> Option<String> {
    let valid = value.valid_for.as_ref()?;
    let controller = object.field(field.controller.as_deref()?)?;
    let known: Vec<&str> = match controller.kind {
        Kind::Boolean => vec!["false", "true"],
        _ => controller.values.iter().map(|value| value.value.as_str()).collect(),
    };
    let mut bits = vec![0_u8; known.len().div_ceil(8)];
    for (at, name) in known.iter().enumerate() {
        if valid.iter().any(|one| one == name) {
            bits[at / 8] |= 0x80 >> (at % 8);
        }
    }
    Some(base64::engine::general_purpose::STANDARD.encode(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_described_with_all_57_keys() {
        let schema = Schema::standard();
        let account = schema.object("Account").expect("Account");
        for field in &account.fields {
            let described = describe_field(account, field);
            assert_eq!(described.as_object().map(serde_json::Map::len), Some(57), "{}", field.name);
        }
    }
}
