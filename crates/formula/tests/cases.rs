//! Formulas and their values, a line a case: `cases.txt`.

use std::fmt::Write as _;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use formula::{Blanks, Fields, Formula, Kind, Moment, Value};

const CASES: &str = include_str!("cases.txt");

struct Known;

/// The fields that there are: what they are, their values, and those before the change.
fn field(path: &str) -> Option<(Kind, Value, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    let number = |text: &str| text.parse().map_or(Value::Blank, Value::Number);
    let day = NaiveDate::from_ymd_opt(2026, 3, 31).map_or(Value::Blank, Value::Date);
    let moment = "2026-03-31T22:30:15Z".parse().map_or(Value::Blank, Value::DateTime);
    let time = NaiveTime::from_hms_milli_opt(13, 45, 30, 250).map_or(Value::Blank, Value::Time);
    let (kind, value) = match path.to_ascii_lowercase().as_str() {
        "name" => (Kind::Text, text("Acme GmbH")),
        "owner.name" => (Kind::Text, text("Ann")),
        "empty" => (Kind::Text, Value::Blank),
        "amount" => return Some((Kind::Number, number("1234.5"), number("1000"))),
        "rate" => (Kind::Number, number("0.25")),
        "noamount" => (Kind::Number, Value::Blank),
        "flag" => (Kind::Boolean, Value::Boolean(true)),
        "noflag" => (Kind::Boolean, Value::Blank),
        "day" => (Kind::Date, day),
        "noday" => (Kind::Date, Value::Blank),
        "moment" => (Kind::DateTime, moment),
        "nomoment" => (Kind::DateTime, Value::Blank),
        "at" => (Kind::Time, time),
        "stage" => return Some((Kind::Picklist, text("Closed Won"), text("Open"))),
        "nostage" => (Kind::Picklist, Value::Blank),
        "tags" => (Kind::Multipicklist, text("red;green")),
        "place" => (Kind::Location, Value::Location(52.52, 13.405)),
        "noplace" => (Kind::Location, Value::Blank),
        _ => return None,
    };
    Some((kind, value.clone(), value))
}

impl Fields for Known {
    fn kind(&self, path: &str) -> Option<Kind> {
        field(path).map(|(kind, ..)| kind)
    }
}

fn written(value: &Value) -> String {
    match value {
        Value::Blank => "BLANK".to_owned(),
        Value::Text(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        Value::Number(number) => number.normalize().to_string(),
        Value::Boolean(value) => value.to_string().to_uppercase(),
        Value::Date(date) => date.to_string(),
        Value::DateTime(moment) => moment.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Value::Time(time) => time.format("%H:%M:%S%.3f").to_string(),
        Value::Location(latitude, longitude) => format!("{latitude}, {longitude}"),
    }
}

fn answer(text: &str, blanks: Blanks, is_new: bool) -> String {
    let formula = match Formula::new(text, &Known, blanks) {
        Ok(formula) => formula,
        Err(error) => return format!("! {error}"),
    };
    let values: Vec<Value> = formula
        .references()
        .iter()
        .filter_map(|reference| {
            field(&reference.path).map(|(_, now, before)| if reference.prior { before } else { now })
        })
        .collect();
    let now: DateTime<Utc> = "2026-11-26T23:30:00Z".parse().unwrap_or_default();
    let moment = Moment { now, zone: chrono_tz::Europe::Berlin, is_new, is_clone: false };
    formula.evaluate(&values, &moment).map_or_else(|_| "#Error!".to_owned(), |value| written(&value))
}

#[test]
fn formulas_have_the_values_that_an_org_gives_them() {
    let (mut wrong, mut count) = (String::new(), 0);
    for (number, line) in CASES.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.is_empty()) {
        let Some((text, expected)) = line.rsplit_once("-> ") else { continue };
        let (text, blanks) = text.strip_prefix("zero: ").map_or((text, Blanks::Blank), |text| (text, Blanks::Zero));
        let (text, is_new) = text.strip_prefix("new: ").map_or((text, false), |text| (text, true));
        let found = answer(text.trim(), blanks, is_new);
        count += 1;
        let right = if expected.starts_with('!') { found.starts_with(expected) } else { found == expected };
        if !right {
            let _ = writeln!(wrong, "line {}: {text}: expected {expected}, found {found}", number + 1);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count >= 250, "{count} cases");
}

#[test]
fn what_a_formula_reads_is_known_before_it_is_evaluated() -> Result<(), formula::Error> {
    let formula = Formula::new("IF(ISCHANGED(Amount), Owner.Name, name) & Name", &Known, Blanks::Blank)?;
    let read: Vec<(&str, bool)> = formula.references().iter().map(|one| (one.path.as_str(), one.prior)).collect();
    assert_eq!(read, [("Amount", true), ("Amount", false), ("Owner.Name", false), ("name", false)]);
    assert_eq!((formula.kind(), formula.is_timely()), (Kind::Text, false));
    assert!(Formula::new("Day - TODAY()", &Known, Blanks::Blank)?.is_timely());
    // Also without a look at the fields that there are.
    let reads = formula::reads("IF(a__c > -b__c, Owner:User.Name & A__C, VLOOKUP($User.Id))")?;
    assert_eq!(
        (reads.fields, reads.timely),
        (["a__c", "b__c", "Owner:User.Name", "$User.Id"].map(str::to_owned).to_vec(), false)
    );
    assert!(formula::reads("year(today())")?.timely);
    Ok(())
}

#[test]
fn a_formula_that_is_too_deep_or_too_long_is_refused() {
    let deep = format!("{}1{}", "(".repeat(3_000), ")".repeat(800));
    let error = Formula::new(&deep, &Known, Blanks::Blank).err().map(|error| error.message).unwrap_or_default();
    assert!(error.contains("too deep"), "{error}");
    let long = format!("1{}", " + 1".repeat(2_000));
    let error = Formula::new(&long, &Known, Blanks::Blank).err().map(|error| error.message).unwrap_or_default();
    assert!(error.contains("too long"), "{error}");
    // Much that stands side by side is not deep.
    assert_eq!(answer(&format!("1{}", "+1".repeat(1_900)), Blanks::Blank, false), "1901");
    // Nor does a text grow without end.
    let grown = (0..40).fold("\"aaaaaaaa\"".to_owned(), |text, _| format!("SUBSTITUTE({text},\"a\",\"aaaaaaaa\")"));
    assert_eq!(answer(&grown, Blanks::Blank, false), "#Error!");
}

proptest::proptest! {
    /// No text makes it panic.
    #[test]
    fn any_text_is_read_or_refused(text in "[-+*/^&|=<>!(),.'\"0-9a-zA-Z$_ \\\\]{0,60}") {
        answer(&text, Blanks::Zero, false);
    }

    #[test]
    fn any_call_is_evaluated_or_refused(
        name in "(ABS|LEFT|MID|RIGHT|LPAD|ROUND|TRUNC|DATE|ADDMONTHS|CHR|FIND|MOD|FROMUNIXTIME|EXP|SUBSTITUTE|FORMATDURATION)",
        arguments in proptest::collection::vec("(-?[0-9]{1,28}(\\.[0-9]{1,9})?|\"[a-zäß€]{0,9}\"|NoAmount|Day|Moment|NULL)", 0..4),
    ) {
        answer(&format!("{name}({})", arguments.join(",")), Blanks::Blank, false);
    }
}
