//! What a mapping makes of some records, before it is put to work. Nothing is written.

use arrow::array::RecordBatch;
use endpoint::{Endpoint, Read};
use futures::StreamExt as _;
use mapping::{Parents, Plan};
use model::{Side, text_of};
use serde::Serialize;
use state::Store;

use crate::prepare::{prepare, read};
use crate::report::Error;
use crate::sync::Sync;
use crate::two_way::prepare_pairs;

/// What a mapping makes of some records that move one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The side whose records they are.
    pub from: Side,
    /// The fields that are read, in order.
    pub source: Vec<String>,
    /// The fields that would be written, in order.
    pub target: Vec<String>,
    /// The records.
    pub records: Vec<Previewed>,
    /// Conversions that can lose something, each a sentence.
    pub conversions: Vec<String>,
}

/// A record, and what a mapping makes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Previewed {
    /// The values of [`Preview::source`]; `None` where one is empty.
    pub before: Vec<Option<String>>,
    /// The values of [`Preview::target`], or why the record would be refused.
    pub after: Result<Vec<Option<String>>, String>,
}

/// Returns what a mapping makes of the first `rows` records of its source: of a two-way sync those of each side. `ends` are
/// Salesforce and the system outside. A source that only tells of records, such as a queue, has none to show.
///
/// # Errors
///
/// Everything that is wrong with the mapping, a rule that would reject the run, or an endpoint that can't be read.
pub async fn preview(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
    rows: usize,
) -> Result<Vec<Preview>, Error> {
    if sync.two_way.is_some() {
        let prepared = prepare_pairs(sync, ends, store, parents).await?;
        let mut previews = Vec::new();
        for (side, end) in [Side::Salesforce, Side::External].into_iter().zip(ends) {
            let plan = prepared.plan.from(side);
            let wanted = Read { fields: plan.source_fields.clone(), ..prepared.reading(sync, side) };
            previews.push(one_way(sync, side, plan, end, wanted, store, rows).await?);
        }
        return Ok(previews);
    }
    let from = sync.direction.source();
    let [source, target] = if from == Side::Salesforce { ends } else { [ends[1], ends[0]] };
    let prepared = prepare(sync, source, target, store, parents).await?;
    let wanted = read(&prepared, sync, None);
    Ok(vec![one_way(sync, from, &prepared.plan, source, wanted, store, rows).await?])
}

async fn one_way(
    sync: &Sync,
    from: Side,
    plan: &Plan,
    source: &dyn Endpoint,
    wanted: Read,
    store: &Store,
    rows: usize,
) -> Result<Preview, Error> {
    let mut preview = Preview {
        from,
        source: plan.source_fields.clone(),
        target: Vec::new(),
        records: Vec::new(),
        conversions: plan.conversions.clone(),
    };
    if source.capabilities().only_tells {
        return Ok(preview);
    }
    let batch = source.read(Read { batch_rows: rows, ..wanted }).await?.next().await.transpose()?;
    let Some(batch) = batch else { return Ok(preview) };
    let records = batch.records.slice(0, batch.records.num_rows().min(rows));
    let links = |mapping: &str, side: Side, keys: &[&str]| Ok(store.counterparts(mapping, side, keys)?);
    let mapped = plan.apply(&records, &links).map_err(|error| Error::batch(&sync.name, error))?;
    let names = mapped.records.schema_ref().fields().iter().map(|field| field.name().clone());
    preview.target = names.collect();
    let mut after: Vec<Result<Vec<Option<String>>, String>> = vec![Ok(Vec::new()); records.num_rows()];
    for (at, row) in mapped.rows.iter().enumerate() {
        after[*row] = Ok(cells(&mapped.records, at));
    }
    for (row, error) in mapped.refused {
        after[row] = Err(error.to_string());
    }
    let before = (0..records.num_rows()).map(|row| cells(&records, row));
    preview.records = before.zip(after).map(|(before, after)| Previewed { before, after }).collect();
    for row in batch.unreadable.into_iter().take(rows - preview.records.len()) {
        let value = |field: &String| row.record.iter().find(|(name, _)| name == field)?.1.clone();
        let before = preview.source.iter().map(value).collect();
        preview.records.push(Previewed { before, after: Err(row.error.to_string()) });
    }
    Ok(preview)
}

fn cells(records: &RecordBatch, row: usize) -> Vec<Option<String>> {
    let text = |column| text_of(column, row).map(std::borrow::Cow::into_owned);
    records.columns().iter().map(|column| text(column.as_ref())).collect()
}
