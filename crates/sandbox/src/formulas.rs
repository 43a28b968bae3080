//! Formula fields: their formulas are read with the project, and evaluated inside queries.
//!
//! In SQL a formula is plain SQL where that says exactly the same ([`plain_sql`]), else a call of `sf_formula`: its definition as
//! JSON, then the values that it reads. What it reads may be hidden from the user who asks; a formula sees all of a record.

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, Utc};
use formula::{Blanks, Fields, Formula, Kind as Shape, Moment, Reference, Value};
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value as Sql, ValueRef};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;
use serde::{Deserialize, Serialize};

use crate::schema::{Field, Kind, Object, Schema};
use crate::value::parse_datetime;

/// Returns what a formula takes a field for.
fn shape(kind: Kind) -> Shape {
    match kind {
        Kind::Boolean => Shape::Boolean,
        Kind::Date => Shape::Date,
        Kind::Datetime => Shape::DateTime,
        Kind::Time => Shape::Time,
        Kind::Picklist => Shape::Picklist,
        Kind::Multipicklist => Shape::Multipicklist,
        Kind::Location => Shape::Location,
        kind if kind.numeric() => Shape::Number,
        _ => Shape::Text,
    }
}

/// The fields that a formula of an object may name.
pub(crate) struct Known<'s> {
    pub(crate) schema: &'s Schema,
    pub(crate) object: &'s Object,
}

/// Returns a path as queries know it: `Owner:User.Name` is `Owner.Name`, and `$RecordType.Name` that of the record.
pub(crate) fn plain_path(path: &str) -> String {
    let path = match path.get(..12) {
        Some(head) if head.eq_ignore_ascii_case("$RecordType.") => &path[1..],
        _ => path,
    };
    let steps: Vec<&str> = path.split('.').map(|step| step.split(':').next().unwrap_or(step)).collect();
    steps.join(".")
}

/// Returns the object of the org itself that a path such as `$User.Id` names, with its field.
pub(crate) fn global(path: &str) -> Option<(&'static str, &str)> {
    let (whole, field) = path.strip_prefix('$')?.split_once('.')?;
    let known = ["User", "Profile", "UserRole", "Organization"];
    known.into_iter().find(|known| known.eq_ignore_ascii_case(whole)).map(|known| (known, field))
}

/// Returns the letter and the version of the SOAP API whose address a path such as `$Api.Partner_Server_URL_260` stands for.
pub(crate) fn address(path: &str) -> Option<(char, String)> {
    let lower = path.to_ascii_lowercase();
    let (which, version) = lower.strip_prefix("$api.")?.split_once("_server_url_")?;
    let letter = match which {
        "partner" => 'u',
        "enterprise" => 'c',
        _ => return None,
    };
    let (number, tenth) = version.split_at_checked(version.len().checked_sub(1)?)?;
    (number.parse::<u32>().is_ok() && tenth == "0").then(|| (letter, format!("{number}.0")))
}

impl Known<'_> {
    /// Finds the field that a path ends in.
    pub(crate) fn field(&self, path: &str) -> Option<&Field> {
        if let Some((object, field)) = global(path) {
            return self.schema.object(object)?.field(field);
        }
        let path = plain_path(path);
        let mut objects = vec![self.object];
        let (steps, last) = path.rsplit_once('.').map_or(("", path.as_str()), |(steps, last)| (steps, last));
        for step in steps.split('.').filter(|step| !step.is_empty()) {
            let parents = objects.iter().filter_map(|object| object.parent(step));
            objects = parents.flat_map(|field| &field.targets).filter_map(|name| self.schema.object(name)).collect();
        }
        objects.iter().find_map(|object| object.field(last))
    }
}

impl Fields for Known<'_> {
    fn kind(&self, path: &str) -> Option<Shape> {
        if address(path).is_some() {
            return Some(Shape::Text);
        }
        self.field(path).map(|field| shape(field.kind))
    }
}

/// Reads the formula of a field.
///
/// # Errors
///
/// What is wrong with it, in the platform's words.
pub(crate) fn read(schema: &Schema, object: &Object, field: &Field) -> Result<Formula, formula::Error> {
    let text = field.formula.as_deref().unwrap_or_default();
    let blanks = if field.blanks_are_zero { Blanks::Zero } else { Blanks::Blank };
    let formula = Formula::new(text, &Known { schema, object }, blanks)?;
    let fits = match (shape(field.kind), formula.kind()) {
        (_, Shape::Null) => true,
        (wanted, given) => wanted == given,
    };
    if fits {
        return Ok(formula);
    }
    let message = format!(
        "Formula result is data type ({}), incompatible with expected data type ({}).",
        formula.kind().word(),
        shape(field.kind).word()
    );
    Err(formula::Error { offset: 0, message })
}

/// What `sf_formula` is told of a formula.
#[derive(Debug, Serialize, Deserialize)]
struct Definition {
    text: String,
    zero: bool,
    /// What it reads: the path, what it is, and whether that is a percentage.
    reads: Vec<(String, char, bool)>,
    /// The kind and the decimals of what comes of it.
    gives: String,
    scale: u32,
    /// Now, where that matters, and the user's time zone.
    now: Option<DateTime<Utc>>,
    zone: String,
}

const SHAPES: [(char, Shape); 9] = [
    ('t', Shape::Text),
    ('p', Shape::Picklist),
    ('m', Shape::Multipicklist),
    ('n', Shape::Number),
    ('b', Shape::Boolean),
    ('d', Shape::Date),
    ('w', Shape::DateTime),
    ('h', Shape::Time),
    ('l', Shape::Location),
];

impl Fields for Definition {
    fn kind(&self, path: &str) -> Option<Shape> {
        let (_, letter, _) = self.reads.iter().find(|(known, ..)| known.eq_ignore_ascii_case(path))?;
        SHAPES.iter().find(|(known, _)| known == letter).map(|(_, shape)| *shape)
    }
}

/// Returns the first argument of `sf_formula`, as SQL.
pub(crate) fn definition(
    formula: &Formula,
    field: &Field,
    known: &Known<'_>,
    now: DateTime<Utc>,
    zone: &str,
) -> String {
    let letter = |shape: Shape| SHAPES.iter().find(|(_, known)| *known == shape).map_or('t', |(letter, _)| *letter);
    let read = |reference: &Reference| {
        let percent = known.field(&reference.path).is_some_and(|field| field.kind == Kind::Percent);
        (reference.path.clone(), letter(reference.kind), percent)
    };
    let definition = Definition {
        text: field.formula.clone().unwrap_or_default(),
        zero: field.blanks_are_zero,
        reads: formula.references().iter().map(read).collect(),
        gives: field.kind.word().to_owned(),
        scale: field.scale,
        now: formula.is_timely().then_some(now),
        zone: zone.to_owned(),
    };
    format!("'{}'", serde_json::to_string(&definition).unwrap_or_default().replace('\'', "''"))
}

/// Longest text that is put together in SQL: however many a formula joins, what comes of it is not too long.
const SHORT: u32 = 255;

/// Returns a formula field as SQL over SQL for each reference; `None` where it has to be evaluated.
pub(crate) fn plain_sql(formula: &Formula, field: &Field, known: &Known<'_>, read: &[String]) -> Option<String> {
    let exact = |reference: &Reference| match known.field(&reference.path)?.kind {
        Kind::Percent => None,
        kind if kind.textual() => {
            Some(()).filter(|()| known.field(&reference.path).is_some_and(|field| field.length <= SHORT))
        }
        _ => Some(()),
    };
    let columns: Vec<Option<String>> =
        formula.references().iter().zip(read).map(|(reference, sql)| exact(reference).map(|()| sql.clone())).collect();
    let sql = formula.to_sql(&columns)?;
    // A checkbox is never blank.
    Some(if field.kind == Kind::Boolean { format!("coalesce({sql},0)") } else { sql })
}

/// A definition that was read: once for each statement.
struct Ready {
    formula: Formula,
    percents: Vec<bool>,
    kinds: Vec<Shape>,
    gives: Option<Kind>,
    scale: u32,
    moment: Moment,
}

impl Ready {
    fn new(text: &str) -> Result<Self, rusqlite::Error> {
        let failed = |why: String| rusqlite::Error::UserFunctionError(why.into());
        let definition: Definition = serde_json::from_str(text).map_err(|error| failed(error.to_string()))?;
        let blanks = if definition.zero { Blanks::Zero } else { Blanks::Blank };
        let formula = Formula::new(&definition.text, &definition, blanks).map_err(|error| failed(error.message))?;
        Ok(Self {
            percents: definition.reads.iter().map(|(.., percent)| *percent).collect(),
            kinds: formula.references().iter().map(|reference| reference.kind).collect(),
            gives: Kind::of_word(&definition.gives),
            scale: definition.scale,
            moment: Moment {
                now: definition.now.unwrap_or_default(),
                zone: definition.zone.parse().unwrap_or(chrono_tz::Tz::UTC),
                is_new: false,
                is_clone: false,
            },
            formula,
        })
    }

    fn call(&self, call: &Context<'_>) -> Sql {
        let values: Vec<Value> = self
            .kinds
            .iter()
            .enumerate()
            .filter(|(at, _)| at + 1 < call.len())
            .map(|(at, kind)| value(*kind, call.get_raw(at + 1), self.percents.get(at).copied().unwrap_or(false)))
            .collect();
        match self.formula.evaluate(&values, &self.moment) {
            Ok(value) => stored(value, self.gives, self.scale),
            // A field shows it as an error; an answer of the API has nothing there.
            Err(_) => Sql::Null,
        }
    }
}

/// Returns what a column holds as a formula takes it.
pub(crate) fn value(kind: Shape, raw: ValueRef<'_>, percent: bool) -> Value {
    let number = |number: f64| {
        let exact: Option<Decimal> = number.to_string().parse().ok();
        exact.map_or(Value::Blank, |exact| Value::Number(if percent { exact / Decimal::ONE_HUNDRED } else { exact }))
    };
    match raw {
        ValueRef::Null | ValueRef::Blob(_) => Value::Blank,
        ValueRef::Integer(flag) if kind == Shape::Boolean => Value::Boolean(flag != 0),
        ValueRef::Integer(whole) => number(whole as f64),
        ValueRef::Real(real) => number(real),
        ValueRef::Text(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            match kind {
                Shape::Date => text.parse::<NaiveDate>().map_or(Value::Blank, Value::Date),
                Shape::DateTime => parse_datetime(&text).map_or(Value::Blank, Value::DateTime),
                Shape::Time => NaiveTime::parse_from_str(text.trim_end_matches('Z'), "%H:%M:%S%.f")
                    .map_or(Value::Blank, Value::Time),
                Shape::Location => {
                    let place = text.split_once(',').and_then(|(latitude, longitude)| {
                        Some(Value::Location(latitude.parse().ok()?, longitude.parse().ok()?))
                    });
                    place.unwrap_or(Value::Blank)
                }
                _ if text.is_empty() => Value::Blank,
                _ => Value::Text(text.into_owned()),
            }
        }
    }
}

/// Returns what comes of a formula as a column of this kind would hold it.
pub(crate) fn stored(value: Value, kind: Option<Kind>, scale: u32) -> Sql {
    match value {
        // A checkbox is never blank.
        Value::Blank if kind == Some(Kind::Boolean) => Sql::Integer(0),
        Value::Blank | Value::Location(..) => Sql::Null,
        Value::Text(text) => Sql::Text(text),
        Value::Boolean(flag) => Sql::Integer(i64::from(flag)),
        Value::Date(date) => Sql::Text(date.to_string()),
        Value::DateTime(moment) => Sql::Text(moment.to_rfc3339_opts(SecondsFormat::Millis, true)),
        Value::Time(time) => Sql::Text(format!("{}Z", time.format("%H:%M:%S%.3f"))),
        Value::Number(number) => {
            let number = if kind == Some(Kind::Percent) { number * Decimal::ONE_HUNDRED } else { number };
            let half = rust_decimal::RoundingStrategy::MidpointAwayFromZero;
            number.round_dp_with_strategy(scale, half).to_f64().map_or(Sql::Null, Sql::Real)
        }
    }
}

/// Makes a connection know `sf_formula`.
pub(crate) fn equip(connection: &Connection) -> rusqlite::Result<()> {
    let pure = FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_UTF8;
    connection.create_scalar_function("sf_formula", -1, pure, |call| {
        let ready = call.get_or_create_aux(0, |raw| Ready::new(raw.as_str()?))?;
        Ok(ready.call(call))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema::new_object;

    /// The fields of the object at hand: a name, and what it is.
    const FIELDS: [(&str, Kind); 9] = [
        ("T1__c", Kind::String),
        ("T2__c", Kind::String),
        ("P__c", Kind::Picklist),
        ("B1__c", Kind::Boolean),
        ("B2__c", Kind::Boolean),
        ("N1__c", Kind::Double),
        ("N2__c", Kind::Double),
        ("D1__c", Kind::Date),
        ("D2__c", Kind::Date),
    ];

    fn texts() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec!["T1__c", "T2__c", "TEXT(P__c)", "\"a\"", "\"A\"", "\"\"", "\"it's\""])
            .prop_map(str::to_owned);
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} & {b})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("BLANKVALUE({a}, {b})")),
                (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("IF({a} = {b}, {b}, {c})")),
            ]
        })
    }

    fn truths() -> impl Strategy<Value = String> {
        let sign = || prop::sample::select(vec!["=", "<>", "<", "<=", ">", ">="]);
        let pick = |from: &'static [&'static str]| prop::sample::select(from.to_vec());
        let numbers = &["N1__c", "N2__c", "0", "1.5", "-2", "0.1"];
        let leaf = prop_oneof![
            pick(&["B1__c", "B2__c", "true", "ISBLANK(N1__c)", "ISBLANK(D1__c)", "ISPICKVAL(P__c, \"a\")"])
                .prop_map(str::to_owned),
            (pick(numbers), sign(), pick(numbers)).prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
            (sign(), any::<bool>()).prop_map(|(sign, turned)| if turned {
                format!("(D2__c {sign} D1__c)")
            } else {
                format!("(D1__c {sign} D2__c)")
            }),
            (texts(), sign(), texts()).prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
            texts().prop_map(|a| format!("ISBLANK({a})")),
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("AND({a}, {b})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
                inner.clone().prop_map(|a| format!("NOT({a})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} = {b})")),
                (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("IF({a}, {b}, {c})")),
            ]
        })
    }

    fn values() -> impl Strategy<Value = Vec<String>> {
        let one = |kind: Kind| {
            prop::sample::select(match kind {
                Kind::Boolean => vec!["NULL", "0", "1"],
                Kind::Double => vec!["NULL", "0.0", "1.5", "-2.0", "0.1", "0.30000000000000004"],
                Kind::Date => vec!["NULL", "'2026-01-31'", "'2026-02-01'"],
                _ => vec!["NULL", "''", "'a'", "'A'", "'it''s'", "'ä'"],
            })
        };
        FIELDS.map(|(_, kind)| one(kind)).to_vec().prop_map(|values| values.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn sql_says_what_evaluating_says() -> Result<(), Box<dyn std::error::Error>> {
        let connection = Connection::open_in_memory()?;
        crate::sql::equip(&connection)?;
        let mut schema = Schema::standard();
        let mut object = new_object("T__c", "a00", "T", "Ts", false);
        object.fields.extend(FIELDS.map(|(name, kind)| Field {
            length: 80,
            nillable: true,
            ..Field::new(name, name, kind)
        }));
        schema.add(object);
        let object = schema.object("T__c").ok_or("the object")?;
        let known = Known { schema: &schema, object };
        let written = std::cell::Cell::new(0);
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let each = (texts(), truths(), values(), any::<bool>());
        runner.run(&each, |(text, truth, values, zero)| {
            for (kind, formula) in [(Kind::String, &text), (Kind::Boolean, &truth)] {
                let field = Field {
                    formula: Some(formula.clone()),
                    blanks_are_zero: zero,
                    length: 1300,
                    ..Field::new("F__c", "F", kind)
                };
                let read = read(&schema, object, &field)
                    .map_err(|error| TestCaseError::fail(format!("{formula}: {error}")))?;
                let columns: Vec<String> = read
                    .references()
                    .iter()
                    .map(|reference| {
                        let at = FIELDS.iter().position(|(name, _)| *name == reference.path).unwrap_or_default();
                        values[at].clone()
                    })
                    .collect();
                let Some(sql) = plain_sql(&read, &field, &known, &columns) else { continue };
                written.set(written.get() + 1);
                let mut arguments = vec![definition(&read, &field, &known, Utc::now(), "UTC")];
                arguments.extend(columns);
                let both = format!("SELECT {sql}, sf_formula({})", arguments.join(","));
                let pair = connection.query_row(&both, [], |row| Ok((row.get::<_, Sql>(0)?, row.get::<_, Sql>(1)?)));
                let (plain, evaluated) = pair.map_err(|error| TestCaseError::fail(format!("{both}: {error}")))?;
                prop_assert_eq!(plain, evaluated, "{} with {:?}: {}", formula, values, sql);
            }
            Ok(())
        })?;
        assert!(written.get() > 200, "most of them are written in SQL, and not {}", written.get());
        Ok(())
    }
}
