//! Fields and functions of fields.

use soql::{Expr, Value};

use super::compile::{Compiler, is_aggregate_expr};
use super::{Compiled, Failure};
use crate::schema::{Field, Kind};

/// SQL with what is known of its value.
pub(super) struct Operand {
    pub(super) sql: String,
    pub(super) kind: Kind,
    /// The field, if it is one and no function of it.
    pub(super) field: Option<Field>,
}

impl Operand {
    fn new(sql: impl Into<String>, kind: Kind) -> Self {
        Self { sql: sql.into(), kind, field: None }
    }
}

impl Compiler<'_> {
    /// Compiles a field or function.
    pub(super) fn expr(&mut self, expr: &Expr) -> Compiled<Operand> {
        let mut operand = match expr {
            Expr::Field(name) => {
                let (sql, field) = self.field(name)?;
                if field.kind.compound() {
                    let message = format!("field '{}' can not be filtered in a query call", field.name);
                    return Err(Failure::at(name.offset, "INVALID_FIELD", message));
                }
                Operand { sql, kind: field.kind, field: Some(field) }
            }
            Expr::Call { name, args } => self.call(name, args)?,
            Expr::Constant(_) => return Err(Failure::malformed("unexpected constant")),
        };
        if self.nulled.contains(&operand.sql) {
            "NULL".clone_into(&mut operand.sql);
        }
        Ok(operand)
    }

    /// Compiles something to group by.
    pub(super) fn groupable(&mut self, expr: &Expr) -> Compiled<String> {
        if is_aggregate_expr(expr) {
            return Err(Failure::at(expr.offset(), "MALFORMED_QUERY", format!("can not group by aggregate: {expr}")));
        }
        let operand = self.expr(expr)?;
        match &operand.field {
            Some(field) if !field.groupable() => {
                let message = format!("field '{}' can not be grouped in a query call", field.name);
                Err(Failure::at(expr.offset(), "INVALID_FIELD", message))
            }
            _ => Ok(operand.sql),
        }
    }

    /// Compiles something to order by.
    pub(super) fn sortable(&mut self, expr: &Expr) -> Compiled<String> {
        let operand = self.expr(expr)?;
        match &operand.field {
            Some(field) if !field.sortable() => {
                let message = format!("field '{}' can not be sorted in a query call", field.name);
                Err(Failure::at(expr.offset(), "INVALID_FIELD", message))
            }
            _ => Ok(operand.sql),
        }
    }

    fn call(&mut self, name: &soql::Name, args: &[Expr]) -> Compiled<Operand> {
        let function = name.text.to_uppercase();
        let argument = match args {
            [] if function == "COUNT" => return Ok(Operand::new("COUNT(*)", Kind::Int)),
            _ if function == "DISTANCE" => return self.distance(name, args),
            [only] => only,
            _ => {
                let message = format!("unexpected arguments of {}", name.text);
                return Err(Failure::at(name.offset, "MALFORMED_QUERY", message));
            }
        };
        if function == "GROUPING" {
            let nulled = std::mem::take(&mut self.nulled);
            let operand = self.expr(argument)?;
            self.nulled = nulled;
            let left_out = i32::from(self.nulled.contains(&operand.sql));
            return Ok(Operand::new(left_out.to_string(), Kind::Int));
        }
        let Operand { sql, kind, field } = self.expr(argument)?;
        let refused = || {
            let message = format!("field {argument} does not support aggregate operator {function}");
            Err(Failure::at(name.offset, "MALFORMED_QUERY", message))
        };
        let aggregable = field.as_ref().is_none_or(Field::aggregable);
        match function.as_str() {
            "COUNT" => Ok(Operand::new(format!("COUNT({sql})"), Kind::Int)),
            "COUNT_DISTINCT" => Ok(Operand::new(format!("COUNT(DISTINCT {sql})"), Kind::Int)),
            "MIN" | "MAX" if aggregable => Ok(Operand::new(format!("{function}({sql})"), kind)),
            "SUM" | "AVG" if aggregable && kind.numeric() => {
                let kind = if function == "AVG" { Kind::Double } else { kind };
                Ok(Operand::new(format!("{function}({sql})"), kind))
            }
            "SUM" | "AVG" | "MIN" | "MAX" => refused(),
            "TOLABEL" => Ok(Operand::new(labelled(&sql, field.as_ref()), Kind::String)),
            "FORMAT" => {
                let call = format!("sf_format({sql},'{}','{}')", kind.word(), self.context.zone.name());
                Ok(Operand::new(call, Kind::String))
            }
            "CONVERTCURRENCY" => Ok(Operand { sql, kind, field }),
            "CONVERTTIMEZONE" if kind == Kind::Datetime => {
                Ok(Operand::new(format!("sf_local({sql},'{}')", self.context.zone.name()), Kind::Datetime))
            }
            _ => self.date_part(name, &function, &sql, kind),
        }
    }

    /// The functions of dates. Without `convertTimezone` they look at the time in UTC.
    fn date_part(&self, name: &soql::Name, function: &str, sql: &str, kind: Kind) -> Compiled<Operand> {
        let part = |format: &str| format!("CAST(strftime('{format}',{sql}) AS INTEGER)");
        let (month, day) = (part("%m"), part("%d"));
        let start = self.context.fiscal_start;
        let fiscal_month = format!("(({month}-{start}+12)%12+1)");
        let number = match function {
            "CALENDAR_YEAR" => part("%Y"),
            "CALENDAR_MONTH" => month,
            "CALENDAR_QUARTER" => format!("(({month}+2)/3)"),
            // A fiscal year that begins later than January bears the number of the year that it ends in.
            "FISCAL_YEAR" if start > 1 => format!("({}+({month}>={start}))", part("%Y")),
            "FISCAL_YEAR" => part("%Y"),
            "FISCAL_MONTH" => fiscal_month,
            "FISCAL_QUARTER" => format!("(({fiscal_month}+2)/3)"),
            "DAY_IN_MONTH" => day,
            "DAY_IN_WEEK" => format!("({}+1)", part("%w")),
            "DAY_IN_YEAR" => part("%j"),
            "DAY_ONLY" => return Ok(Operand::new(format!("date({sql})"), Kind::Date)),
            "HOUR_IN_DAY" => part("%H"),
            "WEEK_IN_MONTH" => format!("(({day}+6)/7)"),
            "WEEK_IN_YEAR" => format!("(({}+6)/7)", part("%j")),
            _ => {
                return Err(Failure::at(name.offset, "MALFORMED_QUERY", format!("Unknown function: {}", name.text)));
            }
        };
        if !matches!(kind, Kind::Date | Kind::Datetime) {
            let message = format!("{} takes a date or a datetime", name.text);
            return Err(Failure::at(name.offset, "INVALID_FIELD", message));
        }
        Ok(Operand::new(number, Kind::Int))
    }

    /// `DISTANCE(place, GEOLOCATION(latitude, longitude), 'mi' | 'km')`.
    fn distance(&mut self, name: &soql::Name, args: &[Expr]) -> Compiled<Operand> {
        let wrong = || {
            let message = "DISTANCE takes a location field, GEOLOCATION(latitude, longitude) and 'mi' or 'km'";
            Failure::at(name.offset, "MALFORMED_QUERY", message)
        };
        let [Expr::Field(place), Expr::Call { name: geolocation, args: point }, Expr::Constant(Value::Text(unit))] =
            args
        else {
            return Err(wrong());
        };
        let [Expr::Constant(Value::Number(latitude)), Expr::Constant(Value::Number(longitude))] = point.as_slice()
        else {
            return Err(wrong());
        };
        let coordinate = |text: &str, limit: f64| text.parse::<f64>().ok().filter(|value| value.abs() <= limit);
        let (Some(latitude), Some(longitude)) = (coordinate(latitude, 90.0), coordinate(longitude, 180.0)) else {
            return Err(wrong());
        };
        let unit = unit.to_lowercase();
        if !geolocation.text.eq_ignore_ascii_case("GEOLOCATION") || !["mi", "km"].contains(&unit.as_str()) {
            return Err(wrong());
        }
        let (_, field) = self.field(place)?;
        if !field.kind.compound() {
            return Err(wrong());
        }
        let stem = place.text.rsplit_once('.').map_or(String::new(), |(stem, _)| format!("{stem}."));
        let mut part = |wanted: &str| -> Compiled<String> {
            let part = match field.name.strip_suffix("__c") {
                Some(custom) => format!("{stem}{custom}__{wanted}__s"),
                None => format!("{stem}{}{wanted}", field.name.strip_suffix("Address").unwrap_or(&field.name)),
            };
            Ok(self.field(&soql::Name { text: part, offset: place.offset })?.0)
        };
        let (here, there) = (part("Latitude")?, part("Longitude")?);
        Ok(Operand::new(format!("sf_distance({here},{there},{latitude:?},{longitude:?},'{unit}')"), Kind::Double))
    }
}

/// SQL for the label of a picklist's value.
fn labelled(sql: &str, field: Option<&Field>) -> String {
    let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let cases: String = field
        .iter()
        .flat_map(|field| &field.values)
        .filter(|value| value.label != value.value)
        .map(|value| format!(" WHEN {} THEN {}", text(&value.value), text(&value.label)))
        .collect();
    if cases.is_empty() { sql.to_owned() } else { format!("(CASE {sql}{cases} ELSE {sql} END COLLATE SFDC)") }
}
