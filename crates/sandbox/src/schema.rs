//! The objects of the org and their fields.

use crate::sharing::Model;
use crate::validation::ValidationRule;
use std::collections::BTreeMap;

/// The data type of a field, as the platform names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Id,
    Reference,
    String,
    Textarea,
    Picklist,
    Multipicklist,
    Combobox,
    Boolean,
    Int,
    Double,
    Currency,
    Percent,
    Date,
    Datetime,
    Time,
    Phone,
    Email,
    Url,
    Base64,
    Encrypted,
    Address,
    Location,
}

impl Kind {
    const WORDS: [(&'static str, Self); 22] = [
        ("id", Self::Id),
        ("reference", Self::Reference),
        ("string", Self::String),
        ("textarea", Self::Textarea),
        ("picklist", Self::Picklist),
        ("multipicklist", Self::Multipicklist),
        ("combobox", Self::Combobox),
        ("boolean", Self::Boolean),
        ("int", Self::Int),
        ("double", Self::Double),
        ("currency", Self::Currency),
        ("percent", Self::Percent),
        ("date", Self::Date),
        ("datetime", Self::Datetime),
        ("time", Self::Time),
        ("phone", Self::Phone),
        ("email", Self::Email),
        ("url", Self::Url),
        ("base64", Self::Base64),
        ("encryptedstring", Self::Encrypted),
        ("address", Self::Address),
        ("location", Self::Location),
    ];

    /// Returns the platform's word for the type.
    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("anyType", |(word, _)| word)
    }

    /// Returns the type of a word.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind)
    }

    /// True for types made of other fields.
    pub(crate) fn compound(self) -> bool {
        matches!(self, Self::Address | Self::Location)
    }

    /// True for types whose values are numbers.
    pub(crate) fn numeric(self) -> bool {
        matches!(self, Self::Int | Self::Double | Self::Currency | Self::Percent)
    }

    /// True for types whose values are text of limited length.
    pub(crate) fn textual(self) -> bool {
        !self.numeric()
            && !self.compound()
            && !matches!(self, Self::Boolean | Self::Date | Self::Datetime | Self::Time | Self::Base64)
    }
}

/// A field.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) kind: Kind,
    /// Longest text, in characters.
    pub(crate) length: u32,
    pub(crate) precision: u32,
    pub(crate) scale: u32,
    pub(crate) createable: bool,
    pub(crate) updateable: bool,
    pub(crate) nillable: bool,
    pub(crate) defaulted: bool,
    pub(crate) unique: bool,
    pub(crate) case_sensitive: bool,
    pub(crate) external_id: bool,
    pub(crate) id_lookup: bool,
    pub(crate) name_field: bool,
    pub(crate) auto_number: Option<String>,
    pub(crate) formula: Option<String>,
    pub(crate) summary: Option<Summary>,
    /// Numbers without a value are zero for its formula.
    pub(crate) blanks_are_zero: bool,
    pub(crate) calculated: bool,
    pub(crate) html: bool,
    pub(crate) restricted: bool,
    pub(crate) master: bool,
    pub(crate) cascade: bool,
    /// A parent with children cannot be deleted.
    pub(crate) restrict: bool,
    /// The field whose value decides which values a dependent picklist has.
    pub(crate) controller: Option<String>,
    pub(crate) lookup_filter: Option<LookupFilter>,
    pub(crate) values: Vec<PicklistValue>,
    pub(crate) targets: Vec<String>,
    pub(crate) relationship: Option<String>,
    pub(crate) children: Option<String>,
    pub(crate) compound: Option<String>,
    pub(crate) default: Option<String>,
    pub(crate) help: Option<String>,
    pub(crate) custom: bool,
}

/// What a roll-up summary tells of the records that hang on one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// `COUNT`, `SUM`, `MIN` or `MAX`.
    pub(crate) operation: &'static str,
    /// The object of those records, and its field that refers to the one.
    pub(crate) child: String,
    pub(crate) key: String,
    /// What is summed up, where they are not counted.
    pub(crate) field: Option<String>,
    /// Which of them, as behind `WHERE`.
    pub(crate) filter: Option<String>,
}

/// Which records a lookup may lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LookupFilter {
    /// Field of the parent, whether it must be equal (else different), and the value.
    pub(crate) conditions: Vec<(String, bool, String)>,
    pub(crate) message: String,
}

/// A record type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordType {
    /// Known once the org is open.
    pub(crate) id: String,
    pub(crate) developer_name: String,
    pub(crate) label: String,
    pub(crate) active: bool,
}

/// One value of a picklist.
#[derive(Debug, Clone)]
pub(crate) struct PicklistValue {
    pub(crate) value: String,
    pub(crate) label: String,
    pub(crate) default: bool,
    pub(crate) active: bool,
    /// Values of the controlling field for which there is this one; all if `None`.
    pub(crate) valid_for: Option<Vec<String>>,
}

impl Field {
    pub(crate) fn new(name: &str, label: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            label: label.to_owned(),
            kind,
            length: 0,
            precision: 0,
            scale: 0,
            createable: false,
            updateable: false,
            nillable: false,
            defaulted: false,
            unique: false,
            case_sensitive: false,
            external_id: false,
            id_lookup: false,
            name_field: false,
            auto_number: None,
            formula: None,
            summary: None,
            blanks_are_zero: false,
            calculated: false,
            html: false,
            restricted: false,
            master: false,
            cascade: false,
            restrict: false,
            controller: None,
            lookup_filter: None,
            values: Vec::new(),
            targets: Vec::new(),
            relationship: None,
            children: None,
            compound: None,
            default: None,
            help: None,
            custom: name.ends_with("__c"),
        }
    }

    /// True when an insert without a value is refused.
    pub(crate) fn required(&self) -> bool {
        self.createable && !self.nillable && !self.defaulted && self.kind != Kind::Boolean
    }

    fn long_text(&self) -> bool {
        self.kind == Kind::Textarea && self.length > 255
    }

    /// True when the platform lets a query group by the field.
    pub(crate) fn groupable(&self) -> bool {
        let continuous = matches!(self.kind, Kind::Double | Kind::Currency | Kind::Percent | Kind::Datetime);
        let opaque = matches!(self.kind, Kind::Combobox | Kind::Multipicklist | Kind::Base64 | Kind::Encrypted);
        !self.long_text() && !self.kind.compound() && !continuous && !opaque
    }

    /// True when the platform lets a query order by the field.
    pub(crate) fn sortable(&self) -> bool {
        let opaque = matches!(self.kind, Kind::Multipicklist | Kind::Base64 | Kind::Encrypted);
        !self.long_text() && !self.kind.compound() && !opaque
    }

    /// True when the platform lets a query aggregate the field.
    pub(crate) fn aggregable(&self) -> bool {
        let opaque = matches!(self.kind, Kind::Boolean | Kind::Multipicklist | Kind::Base64 | Kind::Encrypted);
        !self.long_text() && !self.kind.compound() && !opaque
    }

    /// Returns the values of a multi-select picklist in the order of the picklist, each once.
    pub(crate) fn in_order(&self, text: &str) -> String {
        let mut chosen: Vec<&str> = text.split(';').map(str::trim).filter(|value| !value.is_empty()).collect();
        let place = |value: &str| self.values.iter().position(|known| known.value.eq_ignore_ascii_case(value));
        chosen.sort_by_key(|value| place(value).unwrap_or(usize::MAX));
        chosen.dedup();
        chosen.join(";")
    }

    /// True when the platform lets a query filter by the field.
    pub(crate) fn filterable(&self) -> bool {
        !self.long_text() && !matches!(self.kind, Kind::Base64 | Kind::Encrypted)
    }
}

/// An object.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) plural: String,
    pub(crate) prefix: String,
    pub(crate) custom: bool,
    /// Setup objects are never deleted.
    pub(crate) setup: bool,
    /// What the caller may do with its records.
    pub(crate) createable: bool,
    pub(crate) updateable: bool,
    pub(crate) deletable: bool,
    /// True for platform events that are published whatever becomes of the transaction.
    pub(crate) immediate: bool,
    pub(crate) record_types: Vec<RecordType>,
    /// What a record is refused for.
    pub(crate) rules: Vec<ValidationRule>,
    /// Who sees and changes the records of others.
    pub(crate) sharing: Model,
    /// In the order of the describe.
    pub(crate) fields: Vec<Field>,
}

impl Object {
    /// Finds a field without regard to case.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))
    }

    /// Finds the reference whose parent is reached by this relationship name.
    pub(crate) fn parent(&self, relationship: &str) -> Option<&Field> {
        self.fields
            .iter()
            .find(|field| field.relationship.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(relationship)))
    }

    /// Gives the object the field that says of which record type a record is, unless it has it.
    pub(crate) fn need_record_type_field(&mut self) {
        if self.field("RecordTypeId").is_some() {
            return;
        }
        let mut field = Field::new("RecordTypeId", "Record Type ID", Kind::Reference);
        (field.createable, field.updateable, field.nillable, field.defaulted) = (true, true, true, true);
        field.length = 18;
        field.targets = vec!["RecordType".to_owned()];
        field.relationship = Some("RecordType".to_owned());
        self.fields.push(field);
    }

    /// Returns fields that stand in the table: all but compound ones, formulas and roll-ups.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| !field.kind.compound() && field.formula.is_none() && field.summary.is_none())
    }
}

/// All objects, by lower-case name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema {
    objects: BTreeMap<String, Object>,
}

impl Schema {
    /// Returns the standard objects.
    pub(crate) fn standard() -> Self {
        let mut schema = Self::default();
        schema.read(include_str!("../data/standard.txt"));
        schema
    }

    /// Adds the objects of a data file.
    pub(crate) fn read(&mut self, text: &str) {
        let mut current: Option<Object> = None;
        for line in text.lines().map(str::trim_end) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match (words.as_slice(), current.as_mut()) {
                ([sort @ ("object" | "setup"), name, prefix, label, plural], _) => {
                    if let Some(done) = current.take() {
                        self.add(done);
                    }
                    let setup = *sort == "setup";
                    current = Some(new_object(name, prefix, &spaced(label), &spaced(plural), setup));
                }
                (["address", prefix], Some(object)) => {
                    object.fields.extend(address(if *prefix == "-" { "" } else { prefix }));
                }
                (_, Some(object)) => object.fields.push(standard_field(line)),
                (_, None) => unreachable!("the data file begins with an object"),
            }
        }
        if let Some(done) = current.take() {
            self.add(done);
        }
    }

    pub(crate) fn add(&mut self, object: Object) {
        self.objects.insert(object.name.to_lowercase(), object);
    }

    /// Finds an object without regard to case.
    pub(crate) fn object(&self, name: &str) -> Option<&Object> {
        self.objects.get(&name.to_lowercase())
    }

    /// Leaves only the objects that `keep` returns, as it returns them.
    pub(crate) fn filtered(&self, keep: impl Fn(&Object) -> Option<Object>) -> Self {
        let kept = self.objects.iter().filter_map(|(name, object)| Some((name.clone(), keep(object)?)));
        Self { objects: kept.collect() }
    }

    pub(crate) fn object_mut(&mut self, name: &str) -> Option<&mut Object> {
        self.objects.get_mut(&name.to_lowercase())
    }

    /// Returns all objects by name.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    /// Returns the object whose ids begin with this prefix.
    pub(crate) fn by_id(&self, id: &str) -> Option<&Object> {
        let prefix = id.get(..3)?;
        self.objects.values().find(|object| object.prefix == prefix)
    }

    /// Returns every child object of `parent` with the field that points to it.
    pub(crate) fn children<'s, 'p>(
        &'s self,
        parent: &'p str,
    ) -> impl Iterator<Item = (&'s Object, &'s Field)> + use<'s, 'p> {
        self.objects.values().flat_map(move |object| {
            object
                .fields
                .iter()
                .filter(move |field| field.targets.iter().any(|target| target.eq_ignore_ascii_case(parent)))
                .map(move |field| (object, field))
        })
    }

    /// Finds the child object and its field behind a child relationship name.
    pub(crate) fn child(&self, parent: &str, relationship: &str) -> Option<(&Object, &Field)> {
        self.children(parent)
            .find(|(_, field)| field.children.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(relationship)))
    }
}

/// Returns an object with the fields that every object has.
pub(crate) fn new_object(name: &str, prefix: &str, label: &str, plural: &str, setup: bool) -> Object {
    let mut id = Field::new("Id", &format!("{label} ID"), Kind::Id);
    id.length = 18;
    id.defaulted = true;
    id.id_lookup = true;
    let mut fields = vec![id];
    let audit = |name: &str, label: &str, kind: Kind| {
        let mut field = Field::new(name, label, kind);
        field.defaulted = true;
        if kind == Kind::Reference {
            field.length = 18;
            field.targets = vec!["User".to_owned()];
            field.relationship = name.strip_suffix("Id").map(str::to_owned);
        }
        field
    };
    if !setup {
        fields.push(audit("IsDeleted", "Deleted", Kind::Boolean));
    }
    fields.push(audit("CreatedDate", "Created Date", Kind::Datetime));
    fields.push(audit("CreatedById", "Created By ID", Kind::Reference));
    fields.push(audit("LastModifiedDate", "Last Modified Date", Kind::Datetime));
    fields.push(audit("LastModifiedById", "Last Modified By ID", Kind::Reference));
    fields.push(audit("SystemModstamp", "System Modstamp", Kind::Datetime));
    if !setup {
        for (name, label) in [("LastViewedDate", "Last Viewed Date"), ("LastReferencedDate", "Last Referenced Date")] {
            let mut field = Field::new(name, label, Kind::Datetime);
            field.nillable = true;
            fields.push(field);
        }
    }
    Object {
        name: name.to_owned(),
        label: label.to_owned(),
        plural: plural.to_owned(),
        prefix: prefix.to_owned(),
        custom: name.contains("__"),
        setup,
        createable: !setup || matches!(name, "User" | "PermissionSetAssignment" | "Group" | "GroupMember"),
        updateable: !setup || matches!(name, "User" | "Group"),
        deletable: !setup,
        immediate: false,
        record_types: Vec::new(),
        rules: Vec::new(),
        sharing: Model::ReadWrite,
        fields,
    }
}

/// Returns the fields of an address and the compound that they make.
fn address(prefix: &str) -> Vec<Field> {
    let part = |name: &str, kind: Kind, length: u32| {
        let mut field = Field::new(&format!("{prefix}{name}"), &labelled(&format!("{prefix}{name}")), kind);
        field.length = length;
        field.createable = true;
        field.updateable = true;
        field.nillable = true;
        field.compound = Some(format!("{prefix}Address"));
        field
    };
    let mut fields = vec![
        part("Street", Kind::Textarea, 255),
        part("City", Kind::String, 40),
        part("State", Kind::String, 80),
        part("PostalCode", Kind::String, 20),
        part("Country", Kind::String, 80),
    ];
    for name in ["Latitude", "Longitude"] {
        let mut field = part(name, Kind::Double, 0);
        (field.precision, field.scale) = (18, 15);
        fields.push(field);
    }
    let mut accuracy = part("GeocodeAccuracy", Kind::Picklist, 40);
    accuracy.restricted = true;
    accuracy.values = picklist(
        "Address | NearAddress | Block | Street | ExtendedZip | Zip | Neighborhood | City | County | State | Unknown",
    );
    fields.push(accuracy);
    let mut compound = Field::new(&format!("{prefix}Address"), &labelled(&format!("{prefix}Address")), Kind::Address);
    compound.nillable = true;
    fields.push(compound);
    fields
}

fn standard_field(line: &str) -> Field {
    let (head, values) = line.split_once(" = ").map_or((line, None), |(head, values)| (head, Some(values)));
    let mut words = head.split_whitespace();
    let name = words.next().unwrap_or_default();
    let (word, size) = words.next().unwrap_or_default().split_once(':').unwrap_or((head_type(head), ""));
    let kind = Kind::WORDS.iter().find(|(known, _)| *known == word).map_or(Kind::String, |(_, kind)| *kind);
    let mut field = Field::new(name, &labelled(name), kind);
    match kind {
        Kind::Reference => field.length = 18,
        Kind::Int => field.precision = size.parse().unwrap_or(9),
        kind if kind.numeric() => {
            let (precision, scale) = size.split_once(',').unwrap_or((size, "0"));
            field.precision = precision.parse().unwrap_or(18);
            field.scale = scale.parse().unwrap_or(0);
        }
        _ => field.length = size.parse().unwrap_or(0),
    }
    let flags = words.next().unwrap_or_default();
    field.createable = flags.contains('c');
    field.updateable = flags.contains('u');
    field.nillable = flags.contains('n');
    field.defaulted = flags.contains('d') || (kind == Kind::Boolean && !field.nillable);
    while let Some(word) = words.next() {
        match word {
            "name" => field.name_field = true,
            "lookup" => field.id_lookup = true,
            "restricted" => field.restricted = true,
            "unique" => field.unique = true,
            "cascade" => field.cascade = true,
            "auto" => field.auto_number = Some("{00000000}".to_owned()),
            targets => {
                let targets = targets.trim_start_matches("->");
                field.targets = targets.split('/').map(str::to_owned).collect();
                let mut named = || words.next().filter(|name| *name != "-").map(str::to_owned);
                field.relationship = named();
                field.children = named();
            }
        }
    }
    field.values = values.map(picklist).unwrap_or_default();
    if field.defaulted
        && let Some(first) = field.values.first_mut()
    {
        first.default = true;
    }
    field
}

fn head_type(head: &str) -> &str {
    head.split_whitespace().nth(1).unwrap_or_default()
}

fn picklist(values: &str) -> Vec<PicklistValue> {
    values
        .split(" | ")
        .map(|value| PicklistValue {
            value: value.to_owned(),
            label: value.to_owned(),
            default: false,
            active: true,
            valid_for: None,
        })
        .collect()
}

fn spaced(label: &str) -> String {
    label.replace('~', " ")
}

/// Returns the label of a standard field: its name in words, `Id` at the end written large.
fn labelled(name: &str) -> String {
    let mut label = String::new();
    let mut before_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && before_lower {
            label.push(' ');
        }
        before_lower = c.is_lowercase() || c.is_ascii_digit();
        label.push(c);
    }
    label.strip_suffix(" Id").map(|stem| format!("{stem} ID")).unwrap_or(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_objects_are_read_whole() {
        let schema = Schema::standard();
        let account = schema.object("account").expect("Account");
        assert_eq!(account.prefix, "001");
        let name = account.field("name").expect("Name");
        assert!(name.required() && name.name_field && name.length == 255);
        let revenue = account.field("AnnualRevenue").expect("AnnualRevenue");
        assert_eq!((revenue.kind, revenue.precision, revenue.scale), (Kind::Currency, 18, 0));
        assert_eq!(account.field("BillingAddress").map(|field| field.kind), Some(Kind::Address));
        let (child, field) = schema.child("Account", "Contacts").expect("Contacts");
        assert_eq!((child.name.as_str(), field.name.as_str()), ("Contact", "AccountId"));
        assert_eq!(account.parent("Owner").map(|field| field.targets.clone()), Some(vec!["User".to_owned()]));
        for object in schema.objects() {
            assert!(object.prefix.len() == 3 || object.prefix == "-", "{}", object.name);
            for field in &object.fields {
                let known = field.targets.iter().all(|target| schema.object(target).is_some());
                assert!(known, "{}.{} points to {:?}", object.name, field.name, field.targets);
            }
        }
    }
}
