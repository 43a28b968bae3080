//! A mapping made ready for both directions at once.

use arrow::array::{Array as _, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use model::{Entity, Side};

use crate::definition::{Definition, Direction, Mistake, Owner};
use crate::plan::{Parents, Place, Plan};

/// A pair of fields, and where its values stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwoWayField {
    /// What the pair is called: its Salesforce field, else its external one.
    pub name: String,
    /// Who wins where both sides changed it.
    pub owner: Option<Side>,
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
    /// Checks a mapping in both directions and makes it ready.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn new(
        definition: &Definition,
        salesforce: &Entity,
        external: &Entity,
        parents: Parents<'_>,
    ) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        if salesforce.key.contains(&definition.salesforce.key.value) {
            let message = "a two-way sync needs a key that both systems keep: name a unique external id of the object, \
                           which holds the key of the record outside";
            mistakes.push(Mistake::at(&definition.salesforce.key, message));
        }
        let mut plan = |direction, entities| {
            let planned = Plan::planned(definition, direction, entities, parents, true);
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
                    to_external: to_external.pairs[at],
                    to_salesforce: to_salesforce.pairs[at],
                }
            })
            .collect();
        if mistakes.is_empty() { Ok(Self { to_external, to_salesforce, fields }) } else { Err(mistakes) }
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
