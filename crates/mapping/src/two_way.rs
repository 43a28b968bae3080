//! A mapping made ready for both directions at once.

use std::borrow::Cow;

use arrow::array::{Array as _, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use model::{Entity, Side, text_of};

use crate::definition::{Definition, Direction, Mistake, Owner};
use crate::plan::{Parents, Place, Plan};

/// A pair of fields, and where its values stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwoWayField {
    /// What the pair is called: its Salesforce field, else its external one.
    pub name: String,
    /// Who wins where both sides changed it.
    pub owner: Option<Side>,
    /// The mapping that the field is looked up in.
    pub parent: Option<String>,
    /// True when an expression makes its value in one direction at least.
    by_expression: bool,
    to_external: Option<Place>,
    to_salesforce: Option<Place>,
}

/// A mapping ready to carry records both ways.
#[derive(Debug)]
pub struct TwoWay {
    /// From Salesforce to the system outside.
    pub to_external: Plan,
    /// From the system outside to Salesforce.
    pub to_salesforce: Plan,
    /// The pairs of fields, without the keys.
    pub fields: Vec<TwoWayField>,
}

impl TwoWayField {
    /// True when values are carried to this side.
    pub fn goes_to(&self, side: Side) -> bool {
        self.place(side).is_some()
    }

    /// Returns the column of a side's own value among the fields that are read of it.
    pub fn own(&self, side: Side) -> Option<usize> {
        self.place(side.other())?.source
    }

    /// Returns the column of the value that `side` would be given among the columns that a plan makes.
    pub fn given(&self, side: Side) -> Option<usize> {
        Some(self.place(side)?.output)
    }

    fn place(&self, side: Side) -> Option<Place> {
        match side {
            Side::Salesforce => self.to_salesforce,
            Side::External => self.to_external,
        }
    }
}

impl TwoWay {
    /// Checks a mapping in both directions and makes it ready; `circle` names the mappings that it looks up and that look
    /// it up, itself too.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn new(
        definition: &Definition,
        salesforce: &Entity,
        external: &Entity,
        parents: Parents<'_>,
        circle: &[String],
    ) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        if salesforce.key.contains(&definition.salesforce.key.value) {
            let message = "a two-way sync needs a key that both systems keep: name a unique external id of the object, \
                           which holds the key of the record outside";
            mistakes.push(Mistake::at(&definition.salesforce.key, message));
        }
        let mut plan = |direction, entities| {
            let planned = Plan::planned(definition, direction, entities, parents, Some(circle));
            planned.map_err(|found| mistakes.extend(found)).ok()
        };
        let out = plan(Direction::ToExternal, [salesforce, external]);
        let back = plan(Direction::ToSalesforce, [external, salesforce]);
        let (Some((to_external, ours)), Some((to_salesforce, theirs))) = (out, back) else { return Err(mistakes) };
        for (at, rule) in definition.rules.iter().enumerate() {
            if !ours.contains(&at) && !theirs.contains(&at) {
                mistakes.push(Mistake::at(
                    &rule.check,
                    format!("the rule {} uses fields that neither side has", rule.name),
                ));
            }
        }
        let fields: Vec<TwoWayField> = definition
            .fields
            .iter()
            .enumerate()
            .map(|(at, pair)| {
                let name = pair.salesforce.as_ref().or(pair.external.as_ref()).map(|name| name.value.clone());
                TwoWayField {
                    name: name.unwrap_or_default(),
                    owner: pair.owner.map(|owner| match owner {
                        Owner::Salesforce => Side::Salesforce,
                        Owner::External => Side::External,
                    }),
                    parent: pair.lookup.as_ref().map(|parent| parent.value.clone()),
                    by_expression: pair.to_external.is_some() || pair.to_salesforce.is_some(),
                    to_external: to_external.pairs[at],
                    to_salesforce: to_salesforce.pairs[at],
                }
            })
            .collect();
        if mistakes.is_empty() { Ok(Self { to_external, to_salesforce, fields }) } else { Err(mistakes) }
    }

    /// Carries rows of Salesforce outside and back, and says of which fields what comes back is something else; only of
    /// those whose mapping has an expression and no owner. One sentence a field, with an example.
    ///
    /// # Errors
    ///
    /// When the rows have other columns than the plan reads.
    pub fn round_trip(&self, rows: &RecordBatch) -> Result<Vec<String>, ArrowError> {
        let nobody = |_: &str, _: Side, keys: &[&str]| {
            Ok(keys.iter().map(|key| ((*key).to_owned(), (*key).to_owned())).collect())
        };
        // A record that has no key yet would be given one.
        let keys: arrow::array::StringArray = (0..rows.num_rows())
            .map(|row| Some(text_of(rows.column(0).as_ref(), row).map_or_else(|| row.to_string(), Cow::into_owned)))
            .collect();
        let rows = &Self::with_column(rows, 0, &(std::sync::Arc::new(keys) as ArrayRef))?;
        let there = self.to_external.apply(rows, &nobody)?;
        let columns =
            self.to_salesforce.source_fields.iter().zip(&self.to_salesforce.source_kinds).map(|(name, kind)| {
                let made = there.records.column_by_name(name).cloned();
                let column = made.unwrap_or_else(|| arrow::array::new_null_array(&kind.arrow(), there.rows.len()));
                (name.clone(), column, true)
            });
        let outside = RecordBatch::try_from_iter_with_nullable(columns.collect::<Vec<_>>())?;
        let back = self.to_salesforce.apply(&outside, &nobody)?;
        let mut told = Vec::new();
        for field in self.fields.iter().filter(|field| field.owner.is_none() && field.by_expression) {
            let (Some(own), Some(given)) = (field.own(Side::Salesforce), field.given(Side::Salesforce)) else {
                continue;
            };
            let text = |batch: &RecordBatch, column: usize, row: usize| {
                text_of(batch.column(column).as_ref(), row).unwrap_or_default().into_owned()
            };
            let differs = back.rows.iter().enumerate().find_map(|(at, row)| {
                let (before, after) = (text(rows, own, there.rows[*row]), text(&back.records, given, at));
                (before != after).then_some((before, after))
            });
            if let Some((before, after)) = differs {
                told.push(format!(
                    "{}: {before:?} comes back as {after:?}; give the field an owner, or expressions that undo each other",
                    field.name
                ));
            }
        }
        Ok(told)
    }

    /// Returns the plan that reads this side.
    pub fn from(&self, side: Side) -> &Plan {
        match side {
            Side::Salesforce => &self.to_external,
            Side::External => &self.to_salesforce,
        }
    }

    /// Returns the batch with other values in one of its columns.
    ///
    /// # Errors
    ///
    /// When the values are not as many as the batch has rows, or of another type.
    pub fn with_column(batch: &RecordBatch, column: usize, texts: &ArrayRef) -> Result<RecordBatch, ArrowError> {
        let mut columns = batch.columns().to_vec();
        let kind: &DataType = batch.column(column).data_type();
        columns[column] = if texts.data_type() == kind { texts.clone() } else { cast(texts, kind)? };
        RecordBatch::try_new(batch.schema(), columns)
    }
}
