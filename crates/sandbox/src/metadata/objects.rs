//! From metadata to a schema: objects, fields, record types and rules.

use std::sync::Arc;

use super::{Component, Held, Problem};
use crate::events::{Filter, Member};
use crate::formulas;
use crate::people;
use crate::schema::{Field, Kind, LookupFilter, Object, PicklistValue, RecordType, Schema, Summary, new_object};
use crate::sharing::Model;
use crate::validation::ValidationRule;
use crate::xml::Node;

/// What metadata makes.
pub(crate) struct Built {
    pub(crate) schema: Schema,
    /// The objects that are new, with the first characters of their records' ids.
    pub(crate) prefixes: Vec<(String, String)>,
    /// Components that can't be.
    pub(crate) wrong: Vec<Problem>,
    /// Components that are less than they say.
    pub(crate) notes: Vec<Note>,
}

/// What a component lacks here.
pub(crate) struct Note {
    pub(crate) problem: Problem,
    /// True where the org of the platform would refuse it, too.
    pub(crate) refused: bool,
    /// The whole sentence.
    pub(crate) text: String,
}

/// Builds the schema of all there is; `people` where accounts may be persons.
pub(crate) fn build(held: &[Held], people: bool) -> Built {
    let mut built = Built { schema: Schema::standard(), prefixes: Vec::new(), wrong: Vec::new(), notes: Vec::new() };
    for held in held.iter().filter(|held| held.component.of.name == "CustomObject") {
        built.object(held, held.prefix.as_deref());
    }
    for held in held.iter().filter(|held| held.component.of.whole == Some("CustomObject")) {
        if let Err(message) = built.part(&held.component) {
            built.wrong.push(held.component.problem(message));
        }
    }
    if people {
        people::extend(&mut built.schema);
    }
    size_summaries(&mut built.schema);
    built.formulas();
    built
}

impl Built {
    fn object(&mut self, held: &Held, prefix: Option<&str>) {
        let name = &held.component.name;
        if self.schema.object(name).is_some() {
            return;
        }
        if !name.contains("__") {
            self.lacking(&held.component);
            return;
        }
        match held.component.xml() {
            Ok(xml) => self.make(name, Some(&xml), prefix),
            Err(message) => self.wrong.push(held.component.problem(message)),
        }
    }

    fn lacking(&mut self, component: &Component) {
        let object = component.split().0;
        let text = format!("{object}: a standard object that the sandbox does not have");
        if !self.notes.iter().any(|note| note.text == text) {
            self.notes.push(Note {
                problem: component.problem("a standard object that the sandbox does not have"),
                refused: false,
                text,
            });
        }
    }

    fn make(&mut self, name: &str, xml: Option<&Node>, prefix: Option<&str>) {
        let prefix = prefix.map_or_else(|| self.free_prefix(name), str::to_owned);
        self.schema.add(custom_object(name, &prefix, xml));
        self.prefixes.push((name.to_owned(), prefix));
    }

    /// Returns the first characters of ids that no object has.
    fn free_prefix(&self, name: &str) -> String {
        let kind = match name.rsplit_once("__").map(|(_, kind)| kind) {
            Some("e") => 'e',
            Some("mdt") => 'm',
            _ => 'a',
        };
        let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let first = self.schema.objects().filter(|object| object.custom).count();
        let prefixes = (first..)
            .map(|serial| format!("{kind}{}{}", digits[serial / 62 % 62] as char, digits[serial % 62] as char));
        let taken = |prefix: &str| self.schema.objects().any(|object| object.prefix == prefix);
        prefixes.take(62 * 62).find(|prefix| !taken(prefix)).unwrap_or_else(|| format!("{kind}zz"))
    }

    /// Adds a part to its object.
    fn part(&mut self, component: &Component) -> Result<(), String> {
        let (object, part) = component.split();
        if self.schema.object(object).is_none() {
            if !object.contains("__") {
                self.lacking(component);
                return Ok(());
            }
            self.make(object, None, None);
        }
        let xml = component.xml()?;
        let Some(object) = self.schema.object_mut(object) else { return Ok(()) };
        match component.of.name {
            "CustomField" => {
                for field in custom_field(part, &xml)? {
                    match object.fields.iter_mut().find(|known| known.name.eq_ignore_ascii_case(&field.name)) {
                        Some(known) if known.custom => *known = field,
                        // A standard field may bring its picklist values.
                        Some(known) if !field.values.is_empty() => known.values = field.values,
                        Some(_) => {}
                        None => object.fields.push(field),
                    }
                }
            }
            "ValidationRule" => object.rules.extend(validation_rule(part, &xml)),
            "RecordType" => add_record_type(object, part, &xml),
            _ => {}
        }
        Ok(())
    }

    /// Reads formulas, which may name fields of any object, and so come last.
    fn formulas(&mut self) {
        let mut unread = Vec::new();
        for object in self.schema.objects() {
            for field in object.fields.iter().filter(|field| field.formula.is_some()) {
                if let Err(error) = formulas::read(&self.schema, object, field) {
                    let text = format!("{}.{}: {error}; the field reads as null", object.name, field.name);
                    self.notes.push(note("CustomField", &object.name, &field.name, &error.to_string(), text));
                    unread.push((object.name.clone(), field.name.clone()));
                }
            }
        }
        let mut ready = Vec::new();
        for object in self.schema.objects() {
            let known = formulas::Known { schema: &self.schema, object };
            for (place, rule) in object.rules.iter().enumerate() {
                match rule.read(&known) {
                    Ok(formula) => ready.push((object.name.clone(), place, Arc::new(formula))),
                    Err(error) => {
                        let text = format!("{}: validation rule {}: {error}; it is left out", object.name, rule.name);
                        self.notes.push(note("ValidationRule", &object.name, &rule.name, &error.to_string(), text));
                    }
                }
            }
            for field in &object.fields {
                let Some(default) = field.default.as_deref().filter(|_| field.kind != Kind::Boolean) else { continue };
                if let Err(error) = formula::Formula::new(default, &known, formula::Blanks::Blank) {
                    let text = format!("{}.{}: default value: {error}; it is left out", object.name, field.name);
                    self.notes.push(note("CustomField", &object.name, &field.name, &error.to_string(), text));
                }
            }
        }
        for (object, place, formula) in ready {
            if let Some(rule) = self.schema.object_mut(&object).and_then(|object| object.rules.get_mut(place)) {
                rule.ready = Some(formula);
            }
        }
        for (object, name) in unread {
            if let Some(field) = field_mut(&mut self.schema, &object, &name) {
                field.formula = Some("NULL".to_owned());
            }
        }
    }
}

fn note(of: &'static str, object: &str, part: &str, error: &str, text: String) -> Note {
    let problem = Problem { of, name: format!("{object}.{part}"), message: error.to_owned() };
    Note { problem, refused: !error.contains("is not supported here"), text }
}

fn field_mut<'s>(schema: &'s mut Schema, object: &str, name: &str) -> Option<&'s mut Field> {
    schema.object_mut(object)?.fields.iter_mut().find(|field| field.name == name)
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
        if let Some(field) = field_mut(schema, &object, &name) {
            (field.kind, field.scale) = (kind, scale);
        }
    }
}

/// Returns the members of channels: the channel, which is `ChangeEvents` for the one that every org has, with the event, the
/// fields that it adds, and which of them it carries.
///
/// # Errors
///
/// The first member that can't be.
pub(crate) fn channel_members(held: &[Held], schema: &Schema) -> Result<Vec<(String, Member)>, (Component, String)> {
    let members = held.iter().map(|held| &held.component).filter(|one| one.of.name == "PlatformEventChannelMember");
    members.map(|one| member(one, schema).map_err(|reason| (one.clone(), reason))).collect()
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

fn member(component: &Component, schema: &Schema) -> Result<(String, Member), String> {
    let xml = component.xml()?;
    let fields = xml.children.iter().filter(|node| node.tag == "enrichedFields");
    let enriched = fields.filter_map(|field| field.text("name")).map(str::to_owned).collect();
    let event = xml.text("selectedEntity").ok_or("it has no selectedEntity")?;
    let member = channel_member(schema, event, enriched, xml.text("filterExpression"))?;
    Ok((xml.text("eventChannel").unwrap_or("ChangeEvents").to_owned(), member))
}

fn custom_object(name: &str, prefix: &str, xml: Option<&Node>) -> Object {
    let label = xml.and_then(|xml| xml.text("label")).unwrap_or(name);
    let plural = xml.and_then(|xml| xml.text("pluralLabel")).unwrap_or(label);
    let mut object = new_object(name, prefix, label, plural, false);
    object.sharing = Model::of_metadata(xml.and_then(|xml| xml.text("sharingModel")).unwrap_or_default());
    if name.ends_with("__e") {
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
fn custom_field(name: &str, xml: &Node) -> Result<Vec<Field>, String> {
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

/// Reads a validation rule; `None` for one that is not active.
fn validation_rule(name: &str, xml: &Node) -> Option<ValidationRule> {
    let text = |tag: &str| xml.text(tag).unwrap_or_default().to_owned();
    (xml.text("active") == Some("true")).then(|| ValidationRule {
        name: name.to_owned(),
        formula: text("errorConditionFormula"),
        message: text("errorMessage"),
        field: xml.text("errorDisplayField").map(str::to_owned),
        ready: None,
    })
}

fn add_record_type(object: &mut Object, name: &str, xml: &Node) {
    object.record_types.push(RecordType {
        id: String::new(),
        label: xml.text("label").unwrap_or(name).to_owned(),
        active: xml.text("active") != Some("false"),
        developer_name: name.to_owned(),
    });
    object.need_record_type_field();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::tree;

    fn fields(name: &str, xml: &str) -> Vec<Field> {
        custom_field(name, &tree(xml).expect("well-formed")).expect("a field")
    }

    #[test]
    fn a_lookup_names_both_sides_of_its_relationship() {
        let fields = fields(
            "Broker__c",
            "<CustomField><label>Broker</label><type>Lookup</type>\
             <referenceTo>Broker__c</referenceTo><relationshipName>Properties</relationshipName></CustomField>",
        );
        assert_eq!(fields[0].relationship.as_deref(), Some("Broker__r"));
        assert_eq!(fields[0].children.as_deref(), Some("Properties__r"));
    }

    #[test]
    fn a_geolocation_has_two_parts() {
        let fields = fields("Location__c", "<CustomField><type>Location</type><scale>7</scale></CustomField>");
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["Location__Latitude__s", "Location__Longitude__s", "Location__c"]);
    }
}
