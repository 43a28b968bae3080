//! Expressions over batches, and values made to fit their target.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, BooleanArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};
use model::{Column, Field, RecordError, Type, text_of};

/// Longest part of a value that a message shows, in characters.
const SHOWN: usize = 20;

/// Reads expressions.
pub(crate) struct Language(SessionContext);

impl Language {
    pub(crate) fn new() -> Self {
        // Field names are those of the systems: their case counts.
        Self(SessionContext::new_with_config(
            SessionConfig::new().set_bool("datafusion.sql_parser.enable_ident_normalization", false),
        ))
    }

    /// Reads an expression and returns it with the names of the columns that it uses.
    pub(crate) fn parse(&self, sql: &str, schema: &SchemaRef) -> Result<(Expr, Vec<String>), String> {
        let schema = DFSchema::try_from(schema.as_ref().clone()).map_err(|error| words(&error))?;
        let expression = self.0.parse_sql_expr(sql, &schema).map_err(|error| words(&error))?;
        let mut columns: Vec<String> = expression.column_refs().into_iter().map(|column| column.name.clone()).collect();
        columns.sort();
        Ok((expression, columns))
    }

    /// Makes an expression ready for batches of this schema, and returns it with its type.
    pub(crate) fn compile(
        &self,
        expression: Expr,
        schema: &SchemaRef,
    ) -> Result<(Arc<dyn PhysicalExpr>, DataType), String> {
        let described = DFSchema::try_from(schema.as_ref().clone()).map_err(|error| words(&error))?;
        let physical = self.0.create_physical_expr(expression, &described).map_err(|error| words(&error))?;
        let kind = physical.data_type(schema).map_err(|error| words(&error))?;
        Ok((physical, kind))
    }
}

/// The part of DataFusion's message that helps a person.
fn words(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let text = text.split("\n\nNo function matches").next().unwrap_or_default();
    text.trim_start_matches("Error during planning: ").trim_start_matches("Schema error: ").replace('\n', " ")
}

/// Evaluates over a batch; on an error halves it until the failing rows stand alone. Their value is null
/// and `refuse` is told why.
pub(crate) fn evaluate(
    expression: &Arc<dyn PhysicalExpr>,
    kind: &DataType,
    batch: &RecordBatch,
    refuse: &mut dyn FnMut(usize, RecordError),
) -> ArrayRef {
    halve(expression, kind, batch, 0, refuse)
}

fn halve(
    expression: &Arc<dyn PhysicalExpr>,
    kind: &DataType,
    batch: &RecordBatch,
    offset: usize,
    refuse: &mut dyn FnMut(usize, RecordError),
) -> ArrayRef {
    let rows = batch.num_rows();
    let error = match expression.evaluate(batch).and_then(|value| value.into_array(rows)) {
        Ok(values) => return values,
        Err(error) => error,
    };
    if rows <= 1 {
        refuse(offset, RecordError::rejected("EXPRESSION_FAILED", words(&error)));
        return arrow::array::new_null_array(kind, rows);
    }
    let middle = rows / 2;
    let left = halve(expression, kind, &batch.slice(0, middle), offset, refuse);
    let right = halve(expression, kind, &batch.slice(middle, rows - middle), offset + middle, refuse);
    concat(&[left.as_ref(), right.as_ref()]).unwrap_or_else(|_| arrow::array::new_null_array(kind, rows))
}

/// Returns which rows pass a check: null passes, as it does in SQL.
pub(crate) fn passes(values: &ArrayRef) -> Option<&BooleanArray> {
    values.as_boolean_opt()
}

/// Converts values to the type of their target and checks them against its description. Rows that can't
/// be converted without loss, or that the target would refuse, are told to `refuse`.
pub(crate) fn fit(
    values: ArrayRef,
    target: &Field,
    required: bool,
    refuse: &mut dyn FnMut(usize, RecordError),
) -> ArrayRef {
    let converted = convert(&values, target.kind);
    for row in 0..values.len() {
        let shown = || {
            text_of(values.as_ref(), row).map(|text| text.chars().take(SHOWN).collect::<String>()).unwrap_or_default()
        };
        if values.is_null(row) {
            if required {
                refuse(
                    row,
                    RecordError::rejected("REQUIRED_FIELD_MISSING", format!("{} has no value", target.name))
                        .with_field(&target.name),
                );
            }
        } else if converted.is_null(row) {
            let message = format!("{}: {:?} is not {}", target.name, shown(), target.kind);
            refuse(row, RecordError::rejected("NOT_CONVERTIBLE", message).with_field(&target.name));
        }
    }
    if let (Some(texts), Some(picklist)) =
        (converted.as_string_opt::<i32>(), target.picklist.as_ref().filter(|picklist| picklist.restricted))
    {
        for row in (0..texts.len()).filter(|row| !texts.is_null(*row) && !texts.value(*row).is_empty()) {
            let value = texts.value(row);
            if target.native != "multipicklist" && !picklist.values.iter().any(|known| known == value) {
                let message = format!(
                    "{}: {:?} is not in the picklist",
                    target.name,
                    value.chars().take(SHOWN).collect::<String>()
                );
                refuse(
                    row,
                    RecordError::rejected("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", message).with_field(&target.name),
                );
            }
        }
    }
    if let (Some(texts), Some(limit)) = (converted.as_string_opt::<i32>(), target.length) {
        for row in (0..texts.len()).filter(|row| texts.is_valid(*row)) {
            // Bytes are no fewer than characters: only long values are counted.
            let text = texts.value(row);
            if text.len() > limit as usize && text.chars().count() > limit as usize {
                let message = format!("{}: {} characters, {limit} fit", target.name, text.chars().count());
                refuse(row, RecordError::rejected("STRING_TOO_LONG", message).with_field(&target.name));
            }
        }
    }
    converted
}

/// Converts exactly: a value that would lose something becomes null.
fn convert(values: &ArrayRef, target: Type) -> ArrayRef {
    let wanted = target.arrow();
    if *values.data_type() == wanted {
        return Arc::clone(values);
    }
    let safe = CastOptions { safe: true, ..CastOptions::default() };
    let plain = match values.data_type() {
        DataType::Utf8View | DataType::LargeUtf8 => cast_with_options(values, &DataType::Utf8, &safe),
        DataType::Date64 => cast_with_options(values, &DataType::Date32, &safe),
        _ => Ok(Arc::clone(values)),
    };
    let Ok(plain) = plain else { return arrow::array::new_null_array(&wanted, values.len()) };
    if *plain.data_type() == wanted {
        return plain;
    }
    let exact = matches!(
        (plain.data_type(), target),
        (DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32, _)
            | (DataType::Timestamp(_, _), Type::Timestamp)
            | (DataType::Float32, Type::Float)
    );
    if exact {
        return cast_with_options(&plain, &wanted, &safe)
            .unwrap_or_else(|_| arrow::array::new_null_array(&wanted, values.len()));
    }
    // Through text, whose reading is exact or refused.
    let mut column = Column::new(target);
    for row in 0..plain.len() {
        let text = text_of(plain.as_ref(), row).map(|text| match plain.data_type() {
            DataType::Float64 => shortest(plain.as_primitive::<Float64Type>().value(row), target, text.into_owned()),
            _ => text.into_owned(),
        });
        if !text.is_some_and(|text| column.push(&text)) {
            column.push_null();
        }
    }
    column.finish()
}

/// A float that is to be a decimal is rounded to 15 digits, which is what a double holds for sure.
fn shortest(value: f64, target: Type, text: String) -> String {
    match target {
        Type::Decimal { .. } if value.is_finite() => format!("{value:.14e}"),
        _ => text,
    }
}
