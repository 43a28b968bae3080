//! Descriptions of the objects and their fields, with every key that clients look for.

use serde_json::{Value, json};

use crate::org::Org;
use crate::schema::{Field, Kind, Object};

impl Org {
    /// Returns the list of all objects.
    pub(crate) fn describe_global(&self, version: &str) -> Value {
        let objects: Vec<Value> = self.schema.objects().map(|object| entry(object, version)).collect();
        json!({"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": objects})
    }

    /// Returns everything there is to know about an object.
    pub(crate) fn describe(&self, object: &Object, version: &str) -> Value {
        let mut described = entry(object, version);
        let fields: Vec<Value> = object.fields.iter().map(|field| describe_field(object, field)).collect();
        let children: Vec<Value> = self
            .schema
            .children(&object.name)
            .map(|(child, field)| {
                json!({"cascadeDelete": field.cascade, "childSObject": child.name, "deprecatedAndHidden": false,
                       "field": field.name, "junctionIdListNames": [], "junctionReferenceTo": [],
                       "relationshipName": field.children, "restrictedDelete": false})
            })
            .collect();
        let link = format!("/services/data/{version}/sobjects/{}", object.name);
        let more = json!({
            "actionOverrides": [], "childRelationships": children, "compactLayoutable": true,
            "defaultImplementation": null, "extendedBy": null, "extendsInterfaces": null, "fields": fields,
            "implementedBy": null, "implementsInterfaces": null, "listviewable": null, "lookupLayoutable": null,
            "namedLayoutInfos": [], "networkScopeFieldName": null, "recordTypeInfos": [{
                "active": true, "available": true, "defaultRecordTypeMapping": true, "developerName": "Master",
                "master": true, "name": "Master", "recordTypeId": "012000000000000AAA",
                "urls": {"layout": format!("{link}/describe/layouts/012000000000000AAA")}}],
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
    let writable = !object.setup || object.name == "User";
    json!({
        "activateable": false, "associateEntityType": null, "associateParentEntity": null, "createable": writable,
        "custom": object.custom, "customSetting": false, "deepCloneable": false, "deletable": !object.setup,
        "deprecatedAndHidden": false, "feedEnabled": false, "hasSubtypes": false, "isInterface": false,
        "isSubtype": false, "keyPrefix": object.prefix, "label": object.label, "labelPlural": object.plural,
        "layoutable": true, "mergeable": matches!(object.name.as_str(), "Account" | "Contact" | "Lead" | "Case"),
        "mruEnabled": true, "name": object.name, "queryable": true, "replicateable": !object.setup,
        "retrieveable": true, "searchable": true, "triggerable": !object.setup, "undeletable": !object.setup,
        "updateable": writable,
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
    let long = kind == Kind::Textarea && field.length > 255;
    let system = !field.createable && !field.updateable;
    let values: Vec<Value> = field
        .values
        .iter()
        .map(|value| {
            json!({"active": value.active, "defaultValue": value.default, "label": value.label, "validFor": null,
                   "value": value.value})
        })
        .collect();
    let groupable = !long
        && !kind.compound()
        && !matches!(
            kind,
            Kind::Double
                | Kind::Currency
                | Kind::Percent
                | Kind::Datetime
                | Kind::Combobox
                | Kind::Multipicklist
                | Kind::Base64
                | Kind::Encrypted
        );
    let extra = match kind {
        Kind::Textarea if field.html => Some("richtextarea"),
        Kind::Textarea => Some("plaintextarea"),
        Kind::String if field.name_field && object.field("LastName").is_some() => Some("personname"),
        _ => None,
    };
    let default = if kind == Kind::Boolean { json!(field.default.as_deref() == Some("true")) } else { Value::Null };
    json!({
        "aggregatable": kind != Kind::Boolean && !long && !kind.compound() && kind != Kind::Multipicklist,
        "aiPredictionField": false, "autoNumber": field.auto_number.is_some(), "byteLength": field.length * if matches!(kind, Kind::Id | Kind::Reference) { 1 } else { 3 },
        "calculated": field.calculated, "calculatedFormula": field.formula, "cascadeDelete": field.cascade,
        "caseSensitive": field.case_sensitive, "compoundFieldName": field.compound, "controllerName": null,
        "createable": field.createable, "custom": field.custom, "defaultValue": default,
        "defaultValueFormula": field.default.as_deref().filter(|_| kind != Kind::Boolean),
        "defaultedOnCreate": field.defaulted, "dependentPicklist": false, "deprecatedAndHidden": false,
        "digits": if kind == Kind::Int { field.precision } else { 0 }, "displayLocationInDecimal": kind == Kind::Location,
        "encrypted": kind == Kind::Encrypted, "externalId": field.external_id, "extraTypeInfo": extra,
        "filterable": field.filterable(), "filteredLookupInfo": null, "formulaTreatNullNumberAsZero": false,
        "groupable": groupable, "highScaleNumber": false, "htmlFormatted": field.html, "idLookup": field.id_lookup,
        "inlineHelpText": field.help, "label": field.label, "length": field.length, "mask": null, "maskType": null,
        "name": field.name, "nameField": field.name_field, "namePointing": field.targets.len() > 1,
        "nillable": field.nillable, "permissionable": !system && !field.required() && field.name != "Name",
        "picklistValues": values, "polymorphicForeignKey": field.targets.len() > 1,
        "precision": if kind == Kind::Int { 0 } else { field.precision }, "queryByDistance": kind.compound(),
        "referenceTargetField": null, "referenceTo": field.targets, "relationshipName": field.relationship,
        "relationshipOrder": if field.master { json!(0) } else { Value::Null }, "restrictedDelete": false,
        "restrictedPicklist": field.restricted, "scale": field.scale, "searchPrefilterable": false,
        "soapType": soap_type(kind), "sortable": !long && !kind.compound() && kind != Kind::Multipicklist,
        "type": kind.word(), "unique": field.unique, "updateable": field.updateable, "writeRequiresMasterRead": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;

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
