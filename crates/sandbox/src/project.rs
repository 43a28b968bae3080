//! Reads the object metadata of a Salesforce DX project.

use std::path::{Path, PathBuf};

use crate::events::{Filter, Member};
use crate::formulas;
use crate::schema::{Field, Kind, LookupFilter, Object, PicklistValue, RecordType, Schema, Summary, new_object};
use crate::validation::ValidationRule;
use crate::xml::{Node, tree};

/// Why a project can't be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// A folder or file can't be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The folder is no project.
    #[error("{0} holds no sfdx-project.json")]
    NoProject(PathBuf),
    /// A file is no metadata.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Loads every object of the project at `folder` into `schema`; returns what it had to leave out, a
/// sentence each.
pub(crate) fn load(schema: &mut Schema, folder: &Path) -> Result<Vec<String>, ProjectError> {
    let file = folder.join("sfdx-project.json");
    if !file.exists() {
        return Err(ProjectError::NoProject(folder.to_owned()));
    }
    let text = read(&file)?;
    let project: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| ProjectError::Malformed { path: file.clone(), reason: error.to_string() })?;
    let mut found = Vec::new();
    for package in project["packageDirectories"].as_array().into_iter().flatten() {
        find_objects(&folder.join(package["path"].as_str().unwrap_or_default()), 0, &mut found)?;
    }
    found.sort();
    let mut notes = Vec::new();
    for object in found {
        load_object(schema, &object, &mut notes)?;
    }
    size_summaries(schema);
    // Formulas may read fields of any object, so they come last.
    let mut unread = Vec::new();
    for object in schema.objects() {
        for field in object.fields.iter().filter(|field| field.formula.is_some()) {
            if let Err(error) = formulas::read(schema, object, field) {
                notes.push(format!("{}.{}: {error}; the field reads as null", object.name, field.name));
                unread.push((object.name.clone(), field.name.clone()));
            }
        }
    }
    let mut ready = Vec::new();
    for object in schema.objects() {
        for (place, rule) in object.rules.iter().enumerate() {
            match rule.read(&formulas::Known { schema, object }) {
                Ok(formula) => ready.push((object.name.clone(), place, std::sync::Arc::new(formula))),
                Err(error) => {
                    notes.push(format!("{}: validation rule {}: {error}; it is left out", object.name, rule.name));
                }
            }
        }
        for field in &object.fields {
            let Some(default) = field.default.as_deref().filter(|_| field.kind != Kind::Boolean) else { continue };
            if let Err(error) =
                formula::Formula::new(default, &formulas::Known { schema, object }, formula::Blanks::Blank)
            {
                notes.push(format!("{}.{}: default value: {error}; it is left out", object.name, field.name));
            }
        }
    }
    for (object, place, formula) in ready {
        if let Some(rule) = schema.object_mut(&object).and_then(|object| object.rules.get_mut(place)) {
            rule.ready = Some(formula);
        }
    }
    for (object, name) in unread {
        let field =
            schema.object_mut(&object).and_then(|object| object.fields.iter_mut().find(|field| field.name == name));
        if let Some(field) = field {
            field.formula = Some("NULL".to_owned());
        }
    }
    Ok(notes)
}

/// Gives roll-up summaries the kind of what they sum up.
fn size_summaries(schema: &mut Schema) {
    let mut kinds = Vec::new();
    for object in schema.objects() {
        for field in &object.fields {
            let Some(summary) = &field.summary else { continue };
            let source = summary.field.as_ref().and_then(|name| schema.object(&summary.child)?.field(name));
            if let Some(source) = source {
                kinds.push((object.name.clone(), field.name.clone(), source.kind, source.scale));
            }
        }
    }
    for (object, name, kind, scale) in kinds {
        let field =
            schema.object_mut(&object).and_then(|object| object.fields.iter_mut().find(|field| field.name == name));
        if let Some(field) = field {
            (field.kind, field.scale) = (kind, scale);
        }
    }
}

/// Returns the members of channels that a project has: the channel, which is `ChangeEvents` for the one that every org has,
/// with the event, the fields that it adds, and which of them it carries.
///
/// # Errors
///
/// Naming the file of a member that can't be read, or has a filter that can't be.
pub(crate) fn channel_members(folder: &Path, schema: &Schema) -> Result<Vec<(String, Member)>, ProjectError> {
    let mut members = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for path in entries(&folder).unwrap_or_default() {
            let is_member = path.to_string_lossy().ends_with(".platformEventChannelMember-meta.xml");
            if path.is_dir() && depth < 12 {
                folders.push((path, depth + 1));
            } else if is_member {
                members.push(member(&path, schema)?);
            }
        }
    }
    Ok(members)
}

/// Returns a member of a channel; `None` for a filter is none.
///
/// # Errors
///
/// What is wrong with its filter, in words.
pub(crate) fn channel_member(
    schema: &Schema,
    event: &str,
    mut enriched: Vec<String>,
    filter: Option<&str>,
) -> Result<Member, String> {
    let known = || schema.objects().find(|object| object.tells(event)).ok_or_else(|| format!("there is no {event}"));
    let filter = filter.map(|text| Filter::new(text, known()?)).transpose()?;
    // What a filter names is always told. Source: Change Data Capture guide, "Change Event Filters".
    for field in filter.iter().flat_map(Filter::fields) {
        if !enriched.contains(field) {
            enriched.push(field.clone());
        }
    }
    Ok(Member { event: event.to_owned(), enriched, filter })
}

fn member(path: &Path, schema: &Schema) -> Result<(String, Member), ProjectError> {
    let malformed = |reason: String| ProjectError::Malformed { path: path.to_owned(), reason };
    let xml = parse(path)?;
    let enriched = xml
        .children
        .iter()
        .filter(|node| node.tag == "enrichedFields")
        .filter_map(|field| field.text("name"))
        .map(str::to_owned)
        .collect();
    let event = xml.text("selectedEntity").ok_or_else(|| malformed("it has no selectedEntity".to_owned()))?;
    let member = channel_member(schema, event, enriched, xml.text("filterExpression")).map_err(malformed)?;
    Ok((xml.text("eventChannel").unwrap_or("ChangeEvents").to_owned(), member))
}

fn read(path: &Path) -> Result<String, ProjectError> {
    std::fs::read_to_string(path).map_err(|source| ProjectError::Unreadable { path: path.to_owned(), source })
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, ProjectError> {
    let unreadable = |source| ProjectError::Unreadable { path: folder.to_owned(), source };
    let mut paths = std::fs::read_dir(folder)
        .map_err(unreadable)?
        .map(|entry| Ok(entry.map_err(unreadable)?.path()))
        .collect::<Result<Vec<_>, ProjectError>>()?;
    paths.sort();
    Ok(paths)
}

/// Collects the folders below any `objects` folder.
fn find_objects(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), ProjectError> {
    for path in entries(folder)?.into_iter().filter(|path| path.is_dir() && depth < 12) {
        if path.file_name().is_some_and(|name| name == "objects") {
            found.extend(entries(&path)?.into_iter().filter(|path| path.is_dir()));
        } else {
            find_objects(&path, depth + 1, found)?;
        }
    }
    Ok(())
}

fn load_object(schema: &mut Schema, folder: &Path, notes: &mut Vec<String>) -> Result<(), ProjectError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let description = folder.join(format!("{name}.object-meta.xml"));
    if schema.object(&name).is_none() {
        if !name.contains("__") {
            notes.push(format!("{name}: a standard object that the sandbox does not have"));
            return Ok(());
        }
        let xml = if description.exists() { Some(parse(&description)?) } else { None };
        schema.add(custom_object(schema, &name, xml.as_ref()));
    }
    let kinds = record_types(folder)?;
    if let Some(object) = schema.object_mut(&name).filter(|_| !kinds.is_empty()) {
        object.record_types.extend(kinds);
        if object.field("RecordTypeId").is_none() {
            let mut field = Field::new("RecordTypeId", "Record Type ID", Kind::Reference);
            (field.createable, field.updateable, field.nillable, field.defaulted) = (true, true, true, true);
            field.length = 18;
            field.targets = vec!["RecordType".to_owned()];
            field.relationship = Some("RecordType".to_owned());
            object.fields.push(field);
        }
    }
    if let Some(object) = schema.object_mut(&name) {
        object.rules.extend(validation_rules(folder)?);
    }
    let fields = folder.join("fields");
    if !fields.is_dir() {
        return Ok(());
    }
    for path in entries(&fields)? {
        if !path.to_string_lossy().ends_with(".field-meta.xml") {
            continue;
        }
        let xml = parse(&path)?;
        let field = custom_field(&xml).map_err(|reason| ProjectError::Malformed { path: path.clone(), reason })?;
        let Some(object) = schema.object_mut(&name) else { continue };
        for field in field {
            match object.fields.iter_mut().find(|known| known.name.eq_ignore_ascii_case(&field.name)) {
                Some(known) if known.custom => *known = field,
                // A standard field may bring its picklist values.
                Some(known) if !field.values.is_empty() => known.values = field.values,
                Some(_) => {}
                None => object.fields.push(field),
            }
        }
    }
    Ok(())
}

fn custom_object(schema: &Schema, name: &str, xml: Option<&Node>) -> Object {
    let label = xml.and_then(|xml| xml.text("label")).unwrap_or(name);
    let plural = xml.and_then(|xml| xml.text("pluralLabel")).unwrap_or(label);
    let serial = schema.objects().filter(|object| object.custom).count();
    let kind = if name.ends_with("__e") {
        'e'
    } else if name.ends_with("__mdt") {
        'm'
    } else {
        'a'
    };
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let prefix = format!("{kind}{}{}", digits[serial / 62 % 62] as char, digits[serial % 62] as char);
    let mut object = new_object(name, &prefix, label, plural, false);
    if kind == 'e' {
        // Published, and then nobody's.
        (object.updateable, object.deletable) = (false, false);
        object.immediate = xml.and_then(|xml| xml.text("publishBehavior")) == Some("PublishImmediately");
        for (name, kind, length) in [("ReplayId", Kind::String, 1000), ("EventUuid", Kind::String, 36)] {
            let mut field = Field::new(name, name, kind);
            (field.custom, field.nillable, field.length) = (false, true, length);
            object.fields.push(field);
        }
        return object;
    }
    let name_field = xml.and_then(|xml| xml.child("nameField"));
    let mut field = Field::new("Name", name_field.and_then(|xml| xml.text("label")).unwrap_or("Name"), Kind::String);
    field.custom = false;
    field.name_field = true;
    field.length = 80;
    if name_field.and_then(|xml| xml.text("type")) == Some("AutoNumber") {
        let format = name_field.and_then(|xml| xml.text("displayFormat")).unwrap_or("{0000}");
        field.auto_number = Some(format.to_owned());
        field.defaulted = true;
    } else {
        (field.createable, field.updateable, field.defaulted, field.nillable) = (true, true, true, true);
    }
    object.fields.insert(2, field);
    let mut owner = Field::new("OwnerId", "Owner ID", Kind::Reference);
    (owner.createable, owner.updateable, owner.defaulted, owner.length) = (true, true, true, 18);
    owner.targets = vec!["Group".to_owned(), "User".to_owned()];
    owner.relationship = Some("Owner".to_owned());
    object.fields.insert(1, owner);
    object
}

/// Returns the field that the metadata describes, and for a geolocation its parts.
fn custom_field(xml: &Node) -> Result<Vec<Field>, String> {
    let name = xml.text("fullName").ok_or("the field has no fullName")?;
    let label = xml.text("label").unwrap_or(name);
    let number = |tag: &str, default: u32| xml.text(tag).and_then(|text| text.parse().ok()).unwrap_or(default);
    let flag = |tag: &str| xml.text(tag) == Some("true");
    let Some(word) = xml.text("type") else {
        // A standard field: only its picklist values matter here.
        let mut field = Field::new(name, label, Kind::Picklist);
        field.values = values(xml);
        return Ok(vec![field]);
    };
    let kind = match word {
        "Text" | "AutoNumber" => Kind::String,
        "TextArea" | "LongTextArea" | "Html" => Kind::Textarea,
        "EncryptedText" => Kind::Encrypted,
        "Checkbox" => Kind::Boolean,
        "Number" | "Summary" => Kind::Double,
        "Currency" => Kind::Currency,
        "Percent" => Kind::Percent,
        "Date" => Kind::Date,
        "DateTime" => Kind::Datetime,
        "Time" => Kind::Time,
        "Phone" => Kind::Phone,
        "Email" => Kind::Email,
        "Url" => Kind::Url,
        "Picklist" => Kind::Picklist,
        "MultiselectPicklist" => Kind::Multipicklist,
        "Lookup" | "MasterDetail" | "Hierarchy" => Kind::Reference,
        "Location" => Kind::Location,
        other => return Err(format!("field type {other} is not known")),
    };
    let mut field = Field::new(name, label, kind);
    field.help = xml.text("inlineHelpText").map(str::to_owned);
    field.formula = xml.text("formula").map(str::to_owned);
    field.blanks_are_zero = field.formula.is_some() && xml.text("formulaTreatBlanksAs") != Some("BlankAsBlank");
    field.calculated = field.formula.is_some() || word == "Summary";
    if word == "Summary" {
        field.summary = Some(summary(xml)?);
        // Amounts stay amounts; what they are is known when all objects are.
        (field.precision, field.scale) = (18, 0);
    }
    field.auto_number = (word == "AutoNumber").then(|| xml.text("displayFormat").unwrap_or("{0}").to_owned());
    field.createable = !field.calculated && field.auto_number.is_none();
    field.updateable = field.createable;
    field.nillable = !flag("required");
    field.unique = flag("unique");
    field.case_sensitive = flag("caseSensitive");
    field.external_id = flag("externalId");
    field.id_lookup = field.external_id;
    field.html = word == "Html";
    field.default = xml.text("defaultValue").map(str::to_owned);
    match kind {
        Kind::Textarea if word == "TextArea" => field.length = 255,
        Kind::Textarea => field.length = number("length", 32_768),
        Kind::String if field.calculated => field.length = 1300,
        Kind::String | Kind::Encrypted | Kind::Picklist => field.length = number("length", 255),
        Kind::Multipicklist => field.length = 4099,
        Kind::Phone => field.length = 40,
        Kind::Email => field.length = 80,
        Kind::Url => field.length = 255,
        Kind::Boolean => (field.nillable, field.defaulted) = (false, true),
        kind if kind.numeric() => {
            field.precision = number("precision", 18);
            field.scale = number("scale", 0);
        }
        Kind::Reference => {
            field.length = 18;
            field.targets = vec![xml.text("referenceTo").unwrap_or("User").to_owned()];
            field.relationship = name.strip_suffix("__c").map(|stem| format!("{stem}__r"));
            field.children = xml.text("relationshipName").map(|name| format!("{name}__r"));
            field.master = word == "MasterDetail";
            field.cascade = field.master || xml.text("deleteConstraint") == Some("Cascade");
            field.restrict = xml.text("deleteConstraint") == Some("Restrict");
            field.lookup_filter = lookup_filter(xml, &field.targets[0]);
            if field.master {
                field.nillable = false;
                field.updateable = flag("reparentableMasterDetail");
            }
        }
        _ => {}
    }
    if matches!(kind, Kind::Picklist | Kind::Multipicklist) {
        field.values = values(xml);
        field.restricted = xml.child("valueSet").and_then(|set| set.text("restricted")) == Some("true");
        field.defaulted = field.values.iter().any(|value| value.default);
        if let Some(set) = xml.child("valueSet") {
            depend(&mut field, set);
        }
    }
    if kind != Kind::Location {
        return Ok(vec![field]);
    }
    let stem = name.strip_suffix("__c").unwrap_or(name);
    (field.createable, field.updateable) = (false, false);
    let scale = number("scale", 0);
    let mut fields: Vec<Field> = ["Latitude", "Longitude"]
        .iter()
        .map(|part| {
            let mut field = Field::new(&format!("{stem}__{part}__s"), &format!("{label} ({part})"), Kind::Double);
            (field.precision, field.scale) = (18, scale.max(6));
            (field.createable, field.updateable, field.nillable, field.custom) = (true, true, true, true);
            field.compound = Some(name.to_owned());
            field
        })
        .collect();
    fields.push(field);
    Ok(fields)
}

fn values(xml: &Node) -> Vec<PicklistValue> {
    let definition = xml.child("valueSet").and_then(|set| set.child("valueSetDefinition"));
    definition
        .into_iter()
        .flat_map(|definition| definition.children.iter().filter(|node| node.tag == "value"))
        .filter_map(|node| {
            let value = node.text("fullName")?.to_owned();
            Some(PicklistValue {
                label: node.text("label").unwrap_or(&value).to_owned(),
                default: node.text("default") == Some("true"),
                active: node.text("isActive") != Some("false"),
                valid_for: None,
                value,
            })
        })
        .collect()
}

/// Reads which values of the controlling field go with each value of a dependent picklist.
fn depend(field: &mut Field, set: &Node) {
    field.controller = set.text("controllingField").map(str::to_owned);
    if field.controller.is_none() {
        return;
    }
    for value in &mut field.values {
        value.valid_for = Some(Vec::new());
    }
    for setting in set.children.iter().filter(|node| node.tag == "valueSettings") {
        let controlling = setting.children.iter().filter(|node| node.tag == "controllingFieldValue");
        let controlling: Vec<String> = controlling.map(|node| node.content.trim().to_owned()).collect();
        let name = setting.text("valueName").unwrap_or_default();
        if let Some(value) = field.values.iter_mut().find(|value| value.value == name) {
            value.valid_for = Some(controlling);
        }
    }
}

/// Reads a lookup filter whose conditions compare a field of the parent with a constant.
fn lookup_filter(xml: &Node, parent: &str) -> Option<LookupFilter> {
    let filter = xml.child("lookupFilter")?;
    if filter.text("active") != Some("true") || filter.text("isOptional") == Some("true") {
        return None;
    }
    let conditions = filter
        .children
        .iter()
        .filter(|node| node.tag == "filterItems")
        .map(|item| {
            let field = item.text("field")?.strip_prefix(parent)?.strip_prefix('.')?.to_owned();
            let equals = match item.text("operation")? {
                "equals" => true,
                "notEqual" => false,
                _ => return None,
            };
            Some((field, equals, item.text("value").unwrap_or_default().to_owned()))
        })
        .collect::<Option<Vec<_>>>()?;
    let message = filter.text("errorMessage").unwrap_or("Value does not exist or does not match filter criteria.");
    (!conditions.is_empty()).then(|| LookupFilter { conditions, message: message.to_owned() })
}

/// Reads what a roll-up summary sums up.
fn summary(xml: &Node) -> Result<Summary, String> {
    let operation = match xml.text("summaryOperation").unwrap_or("count").to_ascii_lowercase().as_str() {
        "count" => "COUNT",
        "sum" => "SUM",
        "min" => "MIN",
        "max" => "MAX",
        other => return Err(format!("summaryOperation {other} is not known")),
    };
    let whole = xml.text("summaryForeignKey").ok_or("a summary has no summaryForeignKey")?;
    let (child, key) = whole.split_once('.').ok_or_else(|| format!("summaryForeignKey {whole} names no field"))?;
    let own = |path: &str| path.split_once('.').map_or(path, |(_, field)| field).to_owned();
    let filters = xml.children.iter().filter(|node| node.tag == "summaryFilterItems");
    let filters: Vec<String> = filters
        .map(|item| {
            let field = own(item.text("field").unwrap_or_default());
            compared(&field, item.text("operation").unwrap_or("equals"), item.text("value").unwrap_or_default())
        })
        .collect::<Result<_, _>>()?;
    Ok(Summary {
        operation,
        child: child.to_owned(),
        key: key.to_owned(),
        field: xml.text("summarizedField").map(own),
        filter: (!filters.is_empty()).then(|| filters.join(" AND ")),
    })
}

/// Writes a condition of metadata as SOQL has it; values stand beside each other with commas.
fn compared(field: &str, operation: &str, value: &str) -> Result<String, String> {
    let literal = |text: &str| {
        let plain = text.parse::<f64>().is_ok()
            || ["true", "false", "null"].contains(&text)
            || chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok();
        if plain { text.to_owned() } else { soql::quote(text) }
    };
    let values: Vec<&str> = value.split(',').map(str::trim).collect();
    let list = || format!("({})", values.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", "));
    let pattern = |before: &str, after: &str| soql::quote(&format!("{before}{value}{after}"));
    Ok(match operation {
        "equals" if values.len() > 1 => format!("{field} IN {}", list()),
        "notEqual" if values.len() > 1 => format!("{field} NOT IN {}", list()),
        "equals" => format!("{field} = {}", literal(value)),
        "notEqual" => format!("{field} != {}", literal(value)),
        "lessThan" => format!("{field} < {}", literal(value)),
        "lessOrEqual" => format!("{field} <= {}", literal(value)),
        "greaterThan" => format!("{field} > {}", literal(value)),
        "greaterOrEqual" => format!("{field} >= {}", literal(value)),
        "contains" => format!("{field} LIKE {}", pattern("%", "%")),
        "notContain" => format!("(NOT {field} LIKE {})", pattern("%", "%")),
        "startsWith" => format!("{field} LIKE {}", pattern("", "%")),
        "includes" => format!("{field} INCLUDES {}", list()),
        "excludes" => format!("{field} EXCLUDES {}", list()),
        other => return Err(format!("the operation {other} is not known")),
    })
}

/// Reads the validation rules of an object that are active.
fn validation_rules(folder: &Path) -> Result<Vec<ValidationRule>, ProjectError> {
    let folder = folder.join("validationRules");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for path in entries(&folder)?.iter().filter(|path| path.to_string_lossy().ends_with(".validationRule-meta.xml")) {
        let xml = parse(path)?;
        if xml.text("active") != Some("true") {
            continue;
        }
        let text = |tag: &str| xml.text(tag).unwrap_or_default().to_owned();
        found.push(ValidationRule {
            name: text("fullName"),
            formula: text("errorConditionFormula"),
            message: text("errorMessage"),
            field: xml.text("errorDisplayField").map(str::to_owned),
            ready: None,
        });
    }
    Ok(found)
}

/// Reads the record types of an object.
fn record_types(folder: &Path) -> Result<Vec<RecordType>, ProjectError> {
    let folder = folder.join("recordTypes");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for path in entries(&folder)? {
        if !path.to_string_lossy().ends_with(".recordType-meta.xml") {
            continue;
        }
        let xml = parse(&path)?;
        let name = xml.text("fullName").unwrap_or_default().to_owned();
        found.push(RecordType {
            id: String::new(),
            label: xml.text("label").unwrap_or(&name).to_owned(),
            active: xml.text("active") != Some("false"),
            developer_name: name,
        });
    }
    Ok(found)
}

fn parse(path: &Path) -> Result<Node, ProjectError> {
    let text = read(path)?;
    tree(&text).map_err(|reason| ProjectError::Malformed { path: path.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(xml: &str) -> Vec<Field> {
        custom_field(&tree(xml).expect("well-formed")).expect("a field")
    }

    #[test]
    fn a_lookup_names_both_sides_of_its_relationship() {
        let fields = fields(
            "<CustomField><fullName>Broker__c</fullName><label>Broker</label><type>Lookup</type>\
             <referenceTo>Broker__c</referenceTo><relationshipName>Properties</relationshipName></CustomField>",
        );
        assert_eq!(fields[0].relationship.as_deref(), Some("Broker__r"));
        assert_eq!(fields[0].children.as_deref(), Some("Properties__r"));
    }

    #[test]
    fn a_geolocation_has_two_parts() {
        let fields =
            fields("<CustomField><fullName>Location__c</fullName><type>Location</type><scale>7</scale></CustomField>");
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["Location__Latitude__s", "Location__Longitude__s", "Location__c"]);
    }
}
