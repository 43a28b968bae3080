//! A mapping checked against both catalogs and made ready for batches.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringBuilder};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use model::{Conversion, Entity, Field, RecordError, Side, Type, text_of};
use serde_saphyr::Spanned;

use crate::definition::{Definition, Direction, Match, Mistake, OnFail, Pair};
use crate::evaluate::{Language, evaluate, fit, passes};

/// What a mapping may know of the others: each one's name with the Salesforce key of its records.
pub type Parents<'p> = &'p dyn Fn(&str) -> Option<String>;

/// Finds links: given a mapping, the side that keys are of, and keys, returns the keys of their counterparts.
pub type Links<'l> = &'l dyn Fn(&str, Side, &[&str]) -> Result<HashMap<String, String>, BoxError>;

/// The cause of an error, whatever its type.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A record that a rule with `on_fail: reject` does not let pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rule {rule} does not hold for {key:?}, and rejects the run")]
pub struct Rejected {
    /// The rule.
    pub rule: String,
    /// Key of the record.
    pub key: String,
}

/// Where the values of a target column come from.
enum From {
    /// A source column, as it is.
    Column(usize),
    /// An expression; `value` is the paired source column.
    Expression { run: Arc<dyn PhysicalExpr>, kind: DataType, value: Option<usize> },
    /// The key of a parent, translated through the links of its mapping.
    Link { column: usize, parent: String, deferred: bool },
}

struct Output {
    from: From,
    field: Field,
    required: bool,
}

struct Check {
    name: String,
    run: Arc<dyn PhysicalExpr>,
    on_fail: OnFail,
}

/// A mapping in one direction, ready to map batches.
pub struct Plan {
    /// Fields to read, the key first; a dotted one is a field of the parent.
    pub source_fields: Vec<String>,
    /// Types of those fields.
    pub source_kinds: Vec<Type>,
    /// Place among `source_fields` of the id of the Salesforce record, where Salesforce is the source.
    pub record_id: Option<usize>,
    /// Field of the target that identifies a record.
    pub target_key: String,
    /// Target columns that hold references to parents.
    pub parent_columns: Vec<String>,
    /// Conversions that can lose something, each a sentence.
    pub conversions: Vec<String>,
    /// For each pair of the mapping, where its value stands in this direction; `None` where it goes the other way only.
    pub(crate) pairs: Vec<Option<Place>>,
    /// Columns of keys of parents, each with the column of the reference itself.
    references: Vec<(usize, usize)>,
    /// For each match rule its expression over this source.
    matches: Vec<(Arc<dyn PhysicalExpr>, DataType)>,
    source: Side,
    outputs: Vec<Output>,
    checks: Vec<Check>,
    schema: SchemaRef,
}

/// Where the value of a pair stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Column of the source's own value, where the pair has one.
    pub(crate) source: Option<usize>,
    /// Column of the value as the target would hold it.
    pub(crate) output: usize,
}

/// A mapped batch.
#[derive(Debug)]
pub struct Mapped {
    /// The rows that can be written, in the target's fields.
    pub records: RecordBatch,
    /// For each of them, its row in the source batch.
    pub rows: Vec<usize>,
    /// The rows that can't, with the reason.
    pub refused: Vec<(usize, RecordError)>,
    /// References that are left out until the parent has a link: row of the source batch, and column of `records`.
    pub deferred: Vec<(usize, usize)>,
    /// Rows that failed a rule which only warns.
    pub warnings: u64,
}

/// A field of the target, and what its value is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The side of the field.
    pub side: Side,
    /// The field.
    pub field: String,
    /// Fields of the other side.
    pub from: Vec<String>,
    /// True where it is the value of the one field.
    pub as_it_is: bool,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("source_fields", &self.source_fields)
            .field("target_key", &self.target_key)
            .finish_non_exhaustive()
    }
}

fn unknown(entity: &Entity, side: Side, name: &Spanned<String>) -> Mistake {
    let hint = entity.nearest(&name.value).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let permission = match side {
        Side::Salesforce if hint.is_empty() => {
            "; if it is there, give the login read access to it (field-level security)"
        }
        _ => "",
    };
    let message = format!("{} has no field {:?} that this login can see{hint}{permission}", entity.name, name.value);
    Mistake::at(name, message)
}

impl Plan {
    /// Checks a mapping against the two entities and makes it ready.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, in the order of the file.
    pub fn new(
        definition: &Definition,
        direction: Direction,
        source: &Entity,
        target: &Entity,
        parents: Parents<'_>,
    ) -> Result<Self, Vec<Mistake>> {
        Self::planned(definition, direction, [source, target], parents, None).map(|(plan, _)| plan)
    }

    /// The same for one direction of a two-way sync, where a rule may be about the other side: also returns the places
    /// of the rules that are about this one. `two_way` names the mappings whose records look up those of this one, and
    /// are looked up by them.
    pub(crate) fn planned(
        definition: &Definition,
        direction: Direction,
        [source, target]: [&Entity; 2],
        parents: Parents<'_>,
        two_way: Option<&[String]>,
    ) -> Result<(Self, Vec<usize>), Vec<Mistake>> {
        let mut planner = Planner {
            direction,
            source,
            target,
            two_way: two_way.is_some(),
            circle: two_way.unwrap_or_default(),
            mistakes: Vec::new(),
            language: Language::new(),
            fields: Vec::new(),
            references: Vec::new(),
        };
        let plan = planner.plan(definition, parents);
        match plan {
            Some(plan) if planner.mistakes.is_empty() => Ok(plan),
            _ => Err(planner.mistakes),
        }
    }

    /// Returns for each field of the target what its value is made of.
    pub fn lineage(&self) -> Vec<Made> {
        let made = self.outputs.iter().map(|output| {
            let (columns, as_it_is): (Vec<usize>, bool) = match &output.from {
                From::Column(column) => (vec![*column], true),
                From::Link { column, .. } => (vec![*column], false),
                From::Expression { run, value, .. } => {
                    // The column behind those of the source is `value`, which is one of them.
                    let own = |column: usize| if column < self.source_fields.len() { Some(column) } else { *value };
                    (collect_columns(run).iter().filter_map(|column| own(column.index())).collect(), false)
                }
            };
            let mut from: Vec<String> =
                columns.into_iter().filter_map(|column| self.source_fields.get(column).cloned()).collect();
            from.sort();
            from.dedup();
            Made { side: self.source.other(), field: output.field.name.clone(), from, as_it_is }
        });
        made.collect()
    }

    /// Maps a batch whose columns are [`Self::source_fields`]. A row that can't be mapped is set aside with
    /// its reason; the others go on. `links` finds the parents of lookups that go through links.
    ///
    /// # Errors
    ///
    /// When a batch has other columns than it should, `links` fails, or a rule rejects the run ([`Rejected`], wrapped).
    pub fn apply(&self, batch: &RecordBatch, links: Links<'_>) -> Result<Mapped, ArrowError> {
        self.map(batch, links, true)
    }

    /// As [`Self::apply`], for rows of which only some fields are known: what is null may be so because it is not, and is
    /// not missed.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`].
    pub fn apply_known(&self, batch: &RecordBatch, links: Links<'_>) -> Result<Mapped, ArrowError> {
        self.map(batch, links, false)
    }

    /// True where lookups go through the links of a mapping, so that what was written before a batch has to be known for it.
    pub fn looks_up(&self, mapping: &str) -> bool {
        self.outputs.iter().any(|output| matches!(&output.from, From::Link { parent, .. } if parent == mapping))
    }

    fn map(&self, batch: &RecordBatch, links: Links<'_>, whole: bool) -> Result<Mapped, ArrowError> {
        let rows = batch.num_rows();
        let mut reasons: Vec<Option<RecordError>> = vec![None; rows];
        let mut warnings = 0;
        let mut refuse = |row: usize, error: RecordError| {
            if let Some(reason) = reasons.get_mut(row).filter(|reason| reason.is_none()) {
                *reason = Some(error);
            }
        };
        for check in &self.checks {
            let values = evaluate(&check.run, &DataType::Boolean, batch, &mut refuse);
            let Some(passed) = passes(&values) else { continue };
            for row in (0..rows).filter(|row| passed.is_valid(*row) && !passed.value(*row)) {
                match check.on_fail {
                    OnFail::Reject => {
                        let key = text_of(batch.column(0).as_ref(), row).unwrap_or_default().into_owned();
                        return Err(ArrowError::ExternalError(Rejected { rule: check.name.clone(), key }.into()));
                    }
                    OnFail::Warn => warnings += 1,
                    OnFail::DeadLetter => refuse(
                        row,
                        RecordError::rejected("RULE_FAILED", format!("the rule {} does not hold", check.name)),
                    ),
                }
            }
        }
        for (key, reference) in &self.references {
            let (key, reference) = (batch.column(*key), batch.column(*reference));
            for row in (0..rows).filter(|row| key.is_null(*row) && reference.is_valid(*row)) {
                let parent = text_of(reference.as_ref(), row).unwrap_or_default();
                refuse(row, RecordError::rejected("MISSING_PARENT", format!("the parent {parent} has no key yet")));
            }
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.outputs.len());
        let mut deferred = Vec::new();
        for (at, output) in self.outputs.iter().enumerate() {
            let values = match &output.from {
                From::Column(index) => Arc::clone(batch.column(*index)),
                From::Expression { run, kind, value } => {
                    let batch = with_value(batch, *value)?;
                    evaluate(run, kind, &batch, &mut refuse)
                }
                From::Link { column, parent, deferred: false } => {
                    self.translate(batch.column(*column), &output.field.name, parent, links, &mut refuse)?
                }
                From::Link { column, parent, deferred: true } => {
                    let mut defer = |row, _| deferred.push((row, at));
                    self.translate(batch.column(*column), &output.field.name, parent, links, &mut defer)?
                }
            };
            columns.push(fit(values, &output.field, output.required && whole, &mut refuse));
        }
        let all = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let keep: BooleanArray = reasons.iter().map(|reason| Some(reason.is_none())).collect();
        let records = filter_record_batch(&all, &keep)?;
        let rows = (0..rows).filter(|row| keep.value(*row)).collect();
        let refused = reasons.into_iter().enumerate().filter_map(|(row, reason)| Some((row, reason?))).collect();
        Ok(Mapped { records, rows, refused, deferred, warnings })
    }
}

impl Plan {
    /// Returns the columns that [`Self::apply`] makes, the key first.
    pub fn columns(&self) -> &SchemaRef {
        &self.schema
    }

    /// True when each value depends on one field of the source and on nothing else: what is not known of the others does
    /// no harm to it.
    pub fn is_by_field(&self) -> bool {
        let by_field = |output: &Output| !matches!(output.from, From::Expression { .. });
        self.outputs.iter().all(by_field) && self.checks.is_empty() && self.references.is_empty()
    }

    /// Returns for each match rule what it says of each row: rows of the two sides that say the same are one record.
    /// A row that says nothing, or can't be evaluated, matches none.
    pub fn match_texts(&self, batch: &RecordBatch) -> Vec<Vec<Option<String>>> {
        let texts = |(run, kind): &(Arc<dyn PhysicalExpr>, DataType)| {
            let values = evaluate(run, kind, batch, &mut |_, _| {});
            let values = arrow::compute::cast(&values, &DataType::Utf8).unwrap_or(values);
            let text =
                |row| text_of(values.as_ref(), row).map(std::borrow::Cow::into_owned).filter(|text| !text.is_empty());
            (0..batch.num_rows()).map(text).collect()
        };
        self.matches.iter().map(texts).collect()
    }

    /// Replaces keys of parents by those of their counterparts; a parent without one is missing still.
    fn translate(
        &self,
        keys: &ArrayRef,
        field: &str,
        parent: &str,
        links: Links<'_>,
        refuse: &mut dyn FnMut(usize, RecordError),
    ) -> Result<ArrayRef, ArrowError> {
        let texts: Vec<_> = (0..keys.len()).map(|row| text_of(keys.as_ref(), row)).collect();
        let mut wanted: Vec<&str> = texts.iter().flatten().map(AsRef::as_ref).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let found = links(parent, self.source, &wanted).map_err(ArrowError::ExternalError)?;
        let mut translated = StringBuilder::new();
        for (row, text) in texts.iter().enumerate() {
            let counterpart = text.as_ref().and_then(|text| found.get(text.as_ref()));
            if let (Some(text), None) = (text, counterpart) {
                let message = format!("{field}: {text:?} has no link in the mapping {parent} yet");
                refuse(row, RecordError::rejected("MISSING_PARENT", message).with_field(field));
            }
            translated.append_option(counterpart);
        }
        Ok(Arc::new(translated.finish()))
    }
}

fn with_value(batch: &RecordBatch, value: Option<usize>) -> Result<RecordBatch, ArrowError> {
    let Some(index) = value else { return Ok(batch.clone()) };
    let mut fields: Vec<_> = batch.schema_ref().fields().iter().cloned().collect();
    fields.push(Arc::new(arrow::datatypes::Field::new("value", batch.column(index).data_type().clone(), true)));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::clone(batch.column(index)));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

struct Planner<'p> {
    direction: Direction,
    source: &'p Entity,
    target: &'p Entity,
    /// True for one direction of a two-way sync.
    two_way: bool,
    /// Mappings with which this one's lookups go round in a circle.
    circle: &'p [String],
    mistakes: Vec<Mistake>,
    language: Language,
    /// Fields to read, with their types.
    fields: Vec<(String, Type)>,
    /// Columns of keys of parents, each with the column of the reference itself.
    references: Vec<(usize, usize)>,
}

/// An output before all the fields to read are known.
struct Draft {
    field: Field,
    required: bool,
    column: Option<usize>,
    expression: Option<Spanned<String>>,
    /// The mapping of the parent, for a reference that goes through links.
    through: Option<String>,
    /// The reference may be left out for as long as the parent has no link.
    deferred: bool,
}

impl Planner<'_> {
    fn plan(&mut self, definition: &Definition, parents: Parents<'_>) -> Option<(Plan, Vec<usize>)> {
        let (salesforce, external) = (&definition.salesforce.key, &definition.external.key);
        let (source_key, target_key) = match self.direction {
            Direction::ToExternal => (salesforce, external),
            Direction::ToSalesforce => (external, salesforce),
        };
        if let Some(first) = definition.matches.first().filter(|_| !self.two_way) {
            let message = "match rules pair records of a two-way sync; take them out of a mapping that syncs one way";
            self.mistakes.push(Mistake::at(&first.when_key_missing, message));
        }
        let shares = definition.matches.iter().flat_map(|rule| [&rule.similar, &rule.ask]).flatten();
        for share in shares.filter(|share| !(share.value > 0.0 && share.value <= 1.0)) {
            self.mistakes.push(Mistake::at(share, "a similarity is more than 0, and at most 1"));
        }
        if let Some(capture) = definition.external.capture.as_ref().filter(|_| !self.two_way) {
            if self.direction == Direction::ToExternal {
                let message = "`capture` tells what changes outside, and this sync only writes there; leave it out";
                self.mistakes.push(Mistake::at(capture, message));
            } else if let Some(cursor) = &definition.external.cursor {
                self.mistakes.push(Mistake::at(cursor, "`capture` tells what changed; leave out `cursor`"));
            }
        }
        let mut drafts = Vec::new();
        let mut parent_columns = Vec::new();
        let mut conversions = Vec::new();
        if let Some(draft) = self.key(source_key, target_key) {
            drafts.push(draft);
        }
        let record_id = match (self.direction, self.source.key.first()) {
            (Direction::ToExternal, Some(id)) => Some(self.read(&id.clone(), Type::Text)),
            _ => None,
        };
        let mut pairs = Vec::with_capacity(definition.fields.len());
        for pair in &definition.fields {
            pairs.push(None);
            if let Some(draft) = self.pair(pair, parents) {
                if let Some(place) = pairs.last_mut() {
                    *place = Some(Place { source: draft.column, output: drafts.len() });
                }
                if drafts.iter().any(|other: &Draft| other.field.name == draft.field.name) {
                    let place = pair.salesforce.as_ref().or(pair.external.as_ref())?;
                    self.mistakes.push(Mistake::at(place, format!("{} is written twice", draft.field.name)));
                }
                if pair.lookup.is_some() {
                    parent_columns.push(draft.field.name.clone());
                }
                drafts.push(draft);
            }
        }
        let written: BTreeSet<&str> =
            drafts.iter().map(|draft| draft.field.name.split('.').next().unwrap_or_default()).collect();
        // Records whose key the target gives itself can't be made by it, only changed.
        let inserts = drafts.first().is_none_or(|draft| draft.field.createable);
        for field in self.target.fields.iter().filter(|field| inserts && field.needs_value()) {
            let relationship = field.relationship.as_deref().unwrap_or_default();
            if !written.contains(field.name.as_str()) && !written.contains(relationship) {
                let message = format!("{} needs a value for {}, and no field gives one", self.target.name, field.name);
                self.mistakes.push(Mistake::at(target_key, message));
            }
        }
        // Fields that only expressions name are read, too.
        let everything = self.all_fields();
        let texts = drafts.iter().filter_map(|draft| draft.expression.clone().map(|text| (text, draft.column)));
        let ours: Vec<usize> = (0..definition.rules.len())
            .filter(|at| self.is_ours(&definition.rules[*at].check.value, &everything))
            .collect();
        let rules = ours.iter().map(|at| (definition.rules[*at].check.clone(), None));
        let matches: Vec<Spanned<String>> = definition.matches.iter().map(|rule| self.match_of(rule).clone()).collect();
        let matched = matches.iter().map(|text| (text.clone(), None));
        for (text, value) in texts.chain(rules).chain(matched).collect::<Vec<_>>() {
            let mut fields: Vec<_> = everything.fields().iter().cloned().collect();
            if let Some(column) = value {
                fields.push(Arc::new(arrow::datatypes::Field::new("value", self.fields[column].1.arrow(), true)));
            }
            match self.language.parse(&text.value, &Arc::new(Schema::new(fields))) {
                Ok((_, columns)) => {
                    for name in columns.iter().filter(|name| *name != "value") {
                        let kind = self.source.field(name)?.kind;
                        self.read(name, kind);
                    }
                }
                Err(message) => self.mistakes.push(Mistake::at(&text, message)),
            }
        }
        if !self.mistakes.is_empty() {
            return None;
        }
        let fields: Vec<_> =
            self.fields.iter().map(|(name, kind)| arrow::datatypes::Field::new(name, kind.arrow(), true)).collect();
        let mut outputs = Vec::new();
        for draft in drafts {
            let from = match (&draft.expression, draft.column) {
                (None, Some(column)) => match draft.through {
                    Some(parent) => From::Link { column, parent, deferred: draft.deferred },
                    None => From::Column(column),
                },
                (None, None) => continue,
                (Some(text), value) => {
                    let mut fields = fields.clone();
                    fields.extend(
                        value.map(|column| arrow::datatypes::Field::new("value", self.fields[column].1.arrow(), true)),
                    );
                    let (run, kind) = self.compile(text, &Arc::new(Schema::new(fields)))?;
                    From::Expression { run, kind, value }
                }
            };
            let kind = match &from {
                From::Column(column) => Some(self.fields[*column].1),
                From::Expression { kind, .. } => Type::from_arrow(kind),
                From::Link { .. } => Some(Type::Text),
            };
            let place = draft.expression.as_ref().unwrap_or(target_key);
            match kind.map(|kind| (kind, kind.conversion_to(draft.field.kind))) {
                Some((kind, Conversion::Checked)) => conversions.push(format!(
                    "{} is {}, its values are {kind}: one that does not fit exactly becomes a dead letter",
                    draft.field.name, draft.field.kind
                )),
                Some((_, Conversion::Same | Conversion::Lossless)) => {}
                Some((kind, _)) => {
                    let message = format!(
                        "{} is {}, and {kind} can't become that; give an expression that converts it",
                        draft.field.name, draft.field.kind
                    );
                    self.mistakes.push(Mistake::at(place, message));
                }
                // An expression that is always null.
                None => {}
            }
            outputs.push(Output { from, field: draft.field, required: draft.required });
        }
        let schema = Schema::new(fields);
        let mut checks = Vec::new();
        for rule in ours.iter().map(|at| &definition.rules[*at]) {
            let (run, kind) = self.compile(&rule.check, &Arc::new(schema.clone()))?;
            if kind != DataType::Boolean {
                self.mistakes
                    .push(Mistake::at(&rule.check, format!("the rule {} gives {kind}, not true or false", rule.name)));
            }
            checks.push(Check { name: rule.name.clone(), run, on_fail: rule.on_fail });
        }
        let matches = matches.iter().filter_map(|text| self.compile(text, &Arc::new(schema.clone()))).collect();
        let columns: Vec<_> = outputs
            .iter()
            .map(|output| arrow::datatypes::Field::new(&output.field.name, output.field.kind.arrow(), true))
            .collect();
        let plan = Plan {
            pairs,
            matches,
            references: std::mem::take(&mut self.references),
            source_fields: self.fields.iter().map(|(name, _)| name.clone()).collect(),
            source_kinds: self.fields.iter().map(|(_, kind)| *kind).collect(),
            record_id,
            source: self.direction.source(),
            target_key: outputs.first()?.field.name.clone(),
            parent_columns,
            conversions,
            outputs,
            checks,
            schema: Arc::new(Schema::new(columns)),
        };
        Some((plan, ours))
    }

    fn match_of<'m>(&self, rule: &'m Match) -> &'m Spanned<String> {
        match self.direction {
            Direction::ToExternal => &rule.when_key_missing,
            Direction::ToSalesforce => &rule.external,
        }
    }

    /// False for a rule of a two-way sync whose fields are the other side's.
    fn is_ours(&self, check: &str, everything: &SchemaRef) -> bool {
        !self.two_way || self.language.parse(check, everything).is_ok()
    }

    fn compile(&mut self, text: &Spanned<String>, schema: &SchemaRef) -> Option<(Arc<dyn PhysicalExpr>, DataType)> {
        let compiled = self
            .language
            .parse(&text.value, schema)
            .and_then(|(expression, _)| self.language.compile(expression, schema));
        compiled.map_err(|message| self.mistakes.push(Mistake::at(text, message))).ok()
    }

    fn all_fields(&self) -> SchemaRef {
        let fields =
            self.source.fields.iter().map(|field| arrow::datatypes::Field::new(&field.name, field.kind.arrow(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Notes that a field is to be read, and returns its column.
    fn read(&mut self, name: &str, kind: Type) -> usize {
        if let Some(at) = self.fields.iter().position(|(known, _)| known == name) {
            return at;
        }
        self.fields.push((name.to_owned(), kind));
        self.fields.len() - 1
    }

    fn source_field(&mut self, name: &Spanned<String>) -> Option<Field> {
        let found = self.source.field(&name.value).cloned();
        if found.is_none() {
            self.mistakes.push(unknown(self.source, self.direction.source(), name));
        }
        found
    }

    fn target_field(&mut self, name: &Spanned<String>) -> Option<Field> {
        let found = self.target.field(&name.value).cloned();
        match &found {
            None => self.mistakes.push(unknown(self.target, self.direction.target(), name)),
            Some(field) if !field.createable && !field.updateable => {
                let why = if field.calculated { "it is computed there" } else { "it is read-only for this login" };
                self.mistakes.push(Mistake::at(name, format!("{} can't be written: {why}", field.name)));
            }
            Some(_) => {}
        }
        found
    }

    fn key(&mut self, source: &Spanned<String>, target: &Spanned<String>) -> Option<Draft> {
        let from = self.source_field(source)?;
        let column = self.read(&from.name, from.kind);
        let Some(field) = self.target.field(&target.value).cloned() else {
            self.mistakes.push(unknown(self.target, self.direction.target(), target));
            return None;
        };
        if !field.unique && !field.external_id && !self.target.key.contains(&field.name) {
            let message = format!(
                "{} of {} is not unique, so it can't identify a record; make it a primary key, a unique column or an external id",
                field.name, self.target.name
            );
            self.mistakes.push(Mistake::at(target, message));
        }
        Some(Draft { field, required: true, column: Some(column), expression: None, through: None, deferred: false })
    }

    fn pair(&mut self, pair: &Pair, parents: Parents<'_>) -> Option<Draft> {
        let (source, target, expression) = match self.direction {
            Direction::ToExternal => (&pair.salesforce, &pair.external, &pair.to_external),
            Direction::ToSalesforce => (&pair.external, &pair.salesforce, &pair.to_salesforce),
        };
        // A field that only the other direction writes.
        let target = target.as_ref()?;
        if source.is_none() && expression.is_none() {
            return None;
        }
        if let (Some(parent), Some(source)) = (&pair.lookup, source) {
            return self.lookup(source, target, parent, parents);
        }
        let column = match source {
            Some(name) => {
                let field = self.source_field(name)?;
                Some(self.read(&field.name, field.kind))
            }
            None => None,
        };
        let field = self.target_field(target)?;
        if expression.is_none() {
            let kind = self.fields[column?].1;
            if kind.conversion_to(field.kind) == Conversion::Impossible {
                let message = format!(
                    "{} is {}, and {kind} can't become that; give an expression that converts it",
                    field.name, field.kind
                );
                self.mistakes.push(Mistake::at(target, message));
                return None;
            }
        }
        let required = field.needs_value();
        Some(Draft { field, required, column, expression: expression.clone(), through: None, deferred: false })
    }

    /// A reference is carried as the parent's key: in Salesforce as a field behind the relationship, which the org
    /// resolves itself. Where that can't be said (a reference to several objects), and in two-way syncs, whose links know
    /// what was merged, it goes through the links of the parent's mapping.
    fn lookup(
        &mut self,
        source: &Spanned<String>,
        target: &Spanned<String>,
        parent: &Spanned<String>,
        parents: Parents<'_>,
    ) -> Option<Draft> {
        let Some(key) = parents(&parent.value) else {
            self.mistakes.push(Mistake::at(parent, format!("there is no mapping {:?}", parent.value)));
            return None;
        };
        let (from, mut field) = (self.source_field(source)?, self.target_field(target)?);
        let reference = if self.direction == Direction::ToExternal { &from } else { &field };
        if reference.references.is_empty() {
            let place = if self.direction == Direction::ToExternal { source } else { target };
            let message = format!("{} is no reference, so it can't be looked up in {}", reference.name, parent.value);
            self.mistakes.push(Mistake::at(place, message));
            return None;
        }
        let required = field.needs_value();
        // One of a circle is written first without the other.
        let deferred = !required && self.circle.contains(&parent.value);
        let dotted = reference
            .relationship
            .as_ref()
            .filter(|_| key != "Id" && reference.references.len() == 1 && !self.two_way)
            .map(|name| format!("{name}.{key}"));
        let through = (dotted.is_none() && key != "Id").then(|| parent.value.clone());
        let column = match self.direction {
            Direction::ToExternal => {
                let reference = dotted.is_some().then(|| self.read(&from.name, from.kind));
                let column = self.read(&dotted.unwrap_or(from.name), Type::Text);
                // A parent without a key must not be taken for none.
                self.references.extend(reference.map(|reference| (column, reference)));
                column
            }
            Direction::ToSalesforce => {
                if let Some(name) = dotted {
                    field.name = name;
                    field.length = None;
                }
                self.read(&from.name, from.kind)
            }
        };
        Some(Draft { field, required, column: Some(column), expression: None, through, deferred })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray as _, Int64Array, StringArray};

    use super::*;

    fn entities() -> (Entity, Entity) {
        let account = Entity::new("Account").with_key(["Id"]).with_fields([
            Field { unique: true, external_id: true, ..Field::new("Ext__c", Type::Text) },
            Field { length: Some(10), ..Field::new("Name", Type::Text).required() },
            Field::new("Amount", Type::Decimal { precision: 18, scale: 2 }),
            Field { calculated: true, createable: false, updateable: false, ..Field::new("Total", Type::Float) },
            Field::new("Day", Type::Date),
        ]);
        let table = Entity::new("t").with_key(["id"]).with_fields([
            Field::new("id", Type::Text).required(),
            Field::new("name", Type::Text),
            Field::new("n", Type::Integer),
        ]);
        (table, account)
    }

    fn definition(fields: &str) -> Definition {
        let text = format!(
            "mapping: m\nversion: 1\nsalesforce: {{connection: crm, object: Account, key: Ext__c}}\n\
             external: {{connection: erp, entity: t, key: id}}\nfields:\n{fields}\n"
        );
        Definition::parse(&text).expect("a mapping")
    }

    #[test]
    fn mistakes_point_at_their_line_and_all_are_told() {
        let (table, account) = entities();
        let definition = definition(
            "  - {salesforce: Nmae, external: name}\n  - {salesforce: Total, external: n}\n  - {salesforce: Day, external: n}\n  \
             - {salesforce: Amount, external: n, to_salesforce: \"uper(value)\"}",
        );
        let mistakes =
            Plan::new(&definition, Direction::ToSalesforce, &table, &account, &|_| None).expect_err("mistakes");
        let found: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        for (line, part) in [
            ("6:18", "did you mean Name"),
            ("7:18", "computed"),
            ("8:18", "integer can't become"),
            ("9:", "uper"),
            ("3:", "needs a value for Name"),
        ] {
            assert!(
                found.iter().any(|text| text.starts_with(line) && text.contains(part)),
                "{line} {part}: {found:#?}"
            );
        }
        let broken = Definition::parse("mapping: m\nversion: one\n").expect_err("no number");
        assert_eq!(broken.line, 2, "{broken}");
    }

    #[test]
    fn bad_rows_are_set_aside_and_the_rest_goes_on() {
        let (table, account) = entities();
        let mut definition = definition(
            "  - {salesforce: Name, external: name, to_salesforce: \"upper(value)\"}\n  - {salesforce: Amount, external: n, to_salesforce: \"100 / n\"}",
        );
        definition.rules = serde_saphyr::from_str("[{name: not_x, check: \"name != 'x'\"}]").expect("a rule");
        let plan = Plan::new(&definition, Direction::ToSalesforce, &table, &account, &|_| None).expect("a plan");
        assert_eq!(plan.source_fields, ["id", "name", "n"]);
        let long = "much too long".to_owned();
        let batch = RecordBatch::try_from_iter([
            (
                "id",
                Arc::new(StringArray::from(vec![Some("1"), Some("2"), Some("3"), Some("4"), None, Some("6")]))
                    as ArrayRef,
            ),
            ("name", Arc::new(StringArray::from(vec![Some("a"), Some("b"), Some(&long), None, Some("e"), Some("x")]))),
            ("n", Arc::new(Int64Array::from(vec![Some(5), Some(0), Some(1), Some(1), None, Some(1)]))),
        ])
        .expect("a batch");
        let mapped = plan.apply(&batch, &|_, _, _| Ok(HashMap::new())).expect("mapped");
        assert_eq!(mapped.rows, [0]);
        assert_eq!(mapped.records.column(1).as_string::<i32>().value(0), "A");
        let codes: Vec<&str> = mapped.refused.iter().map(|(_, error)| error.code.as_str()).collect();
        assert_eq!(
            codes,
            ["EXPRESSION_FAILED", "STRING_TOO_LONG", "REQUIRED_FIELD_MISSING", "REQUIRED_FIELD_MISSING", "RULE_FAILED"]
        );
    }
}
