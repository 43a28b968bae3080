//! Writes: noted before they are made, and made where records are as they were read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Field, Schema};
use endpoint::{Guarded, Revision};
use model::{Outcome, Side, text_of};
use state::{Image, Intent};

use super::Pairing;
use super::pair::{Loaded, Pair, SIDES, Settled, Write};
use crate::merge::{Base, place};
use crate::report::Error;
use crate::run::millis;

/// Numbers of what was noted before writes.
#[derive(Debug, Default)]
pub(super) struct NotedWrites {
    /// Of conflicts, with their pairs and the sides that lose.
    pub(super) conflicts: Vec<((usize, Side), i64)>,
    /// Of images, with their pairs and sides.
    pub(super) images: Vec<((usize, Side), i64)>,
}

impl Pairing<'_> {
    /// Notes what is about to be written, what is there before, and the conflicts whose losing value is about to go.
    pub(super) fn intend(
        &mut self,
        pairs: &[Pair],
        halves: &[Loaded; 2],
        settled: &[Settled],
        writes: &[Vec<Write>; 2],
    ) -> Result<NotedWrites, Error> {
        let mut bodies: HashMap<usize, [Base; 2]> = HashMap::new();
        let of_pair: HashMap<usize, &Settled> = settled.iter().map(|one| (one.pair, one)).collect();
        for side in SIDES {
            for write in writes[place(side)].iter().filter(|write| write.revision != Revision::Delete) {
                let Some(one) = of_pair.get(&write.pair) else { continue };
                let empty = || [vec![None; self.layouts.fields.len()], vec![None; self.layouts.fields.len()]];
                let body = bodies.entry(write.pair).or_insert_with(empty);
                for field in &write.fields {
                    body[place(side)][*field] = one.after[*field];
                }
            }
        }
        let mut intents = Vec::with_capacity(bodies.len());
        for (pair, [to_salesforce, to_external]) in bodies {
            let left = self.layouts.encode(&to_salesforce);
            let mut body = (left.len() as u32).to_le_bytes().to_vec();
            body.extend(left);
            body.extend(self.layouts.encode(&to_external));
            let pair = &pairs[pair];
            let id = if pair.rows[0].is_some() { pair.id.clone() } else { String::new() };
            intents.push(Intent { salesforce: id, external: pair.key.clone(), body });
        }
        let (mut conflicts, mut of) = (Vec::new(), Vec::new());
        for one in settled {
            for conflict in &one.conflicts {
                conflicts.push(conflict.clone());
                let winner =
                    if conflict.winner.as_deref() == Some("external") { Side::External } else { Side::Salesforce };
                of.push((one.pair, winner.other()));
            }
        }
        let (mut images, mut written) = (Vec::new(), Vec::new());
        for side in SIDES {
            for write in &writes[place(side)] {
                images.push(self.image(side, &pairs[write.pair], halves, write));
                written.push((write.pair, side));
            }
        }
        if images.is_empty() && conflicts.is_empty() {
            return Ok(NotedWrites::default());
        }
        let noted = self.store.intend(&self.sync.definition.mapping, self.report.run, &intents, &conflicts, &images)?;
        for intent in intents {
            self.intents.insert((intent.salesforce.clone(), intent.external.clone()), intent);
        }
        Ok(NotedWrites {
            conflicts: of.into_iter().zip(noted.conflicts).collect(),
            images: written.into_iter().zip(noted.images).collect(),
        })
    }

    /// Returns what a record is before a write, and what will be there after.
    fn image(&self, side: Side, pair: &Pair, halves: &[Loaded; 2], write: &Write) -> Image {
        let (own, source) = (&halves[place(side)], &halves[place(side.other())]);
        let mut before = serde_json::Map::new();
        let mut after = serde_json::Map::new();
        let text = |batch: &RecordBatch, column: usize, row: usize| {
            text_of(batch.column(column).as_ref(), row).map(std::borrow::Cow::into_owned)
        };
        if let (Revision::Delete, Some(row)) = (write.revision, pair.rows[place(side)]) {
            for (column, field) in own.batch.schema_ref().fields().iter().enumerate() {
                before.insert(field.name().clone(), text(&own.batch, column, row).into());
            }
        }
        let mapped = source.mapped.as_ref().filter(|_| write.revision != Revision::Delete);
        let row = pair.rows[place(side.other())].and_then(|row| source.mapped_rows[row]);
        if let Some((mapped, row)) = mapped.zip(row) {
            for column in &write.columns {
                let name = mapped.records.schema_ref().field(*column).name().clone();
                let there = own.batch.schema_ref().index_of(&name).ok().zip(pair.rows[place(side)]);
                if let (Revision::Update, Some((column, row))) = (write.revision, there) {
                    before.insert(name.clone(), text(&own.batch, column, row).into());
                }
                after.insert(name, text(&mapped.records, *column, row).into());
            }
        }
        let op = match write.revision {
            Revision::Insert => "insert",
            Revision::Update => "update",
            Revision::Delete => "delete",
        };
        Image {
            side,
            salesforce: pair.id.clone(),
            external: pair.key.clone(),
            op: op.to_owned(),
            before: serde_json::Value::Object(before).to_string(),
            after: serde_json::Value::Object(after).to_string(),
        }
    }

    /// Writes to one side; returns an outcome for each write.
    pub(super) async fn write_side(
        &mut self,
        side: Side,
        pairs: &[Pair],
        halves: &[Loaded; 2],
        writes: &[Write],
    ) -> Result<(Vec<Outcome>, bool), Error> {
        let target = self.prepared.targets[place(side)].clone();
        let mut again = false;
        let (own, source) = (&halves[place(side)], &halves[place(side.other())]);
        let mut outcomes = vec![Outcome::Unchanged; writes.len()];
        let writing = Instant::now();
        for deletes in [false, true] {
            let chosen: Vec<usize> =
                (0..writes.len()).filter(|at| (writes[*at].revision == Revision::Delete) == deletes).collect();
            for chosen in chosen.chunks(self.end(side).capabilities().write_rows.max(1)) {
                let guarded = self.guarded(side, &target.key, pairs, own, source, chosen, writes)?;
                let (found, tries) = self.revise(side, &target, &guarded).await?;
                again |= tries > 0;
                for (at, outcome) in chosen.iter().zip(found) {
                    outcomes[*at] = outcome;
                }
            }
        }
        self.report.write_ms += millis(writing);
        Ok((outcomes, again))
    }

    /// Writes, again after a passing failure, and returns how often: what was written the first time has moved the
    /// second.
    pub(super) async fn revise(
        &self,
        side: Side,
        target: &endpoint::Target,
        guarded: &Guarded,
    ) -> Result<(Vec<Outcome>, u32), Error> {
        let mut tries = 0;
        loop {
            match self.end(side).revise(target, guarded).await {
                Err(error) if error.class().is_transient() && tries < crate::settle::WRITE_TRIES => {
                    tracing::debug!(%error, tries, "writing a batch again");
                    tokio::select! {
                        () = tokio::time::sleep(self.options.backoff * 2_u32.pow(tries)) => {}
                        () = self.options.stop.cancelled() => return Err(Error::Stopped),
                    }
                    tries += 1;
                }
                result => return Ok((result?, tries)),
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of it describes one batch")]
    pub(super) fn guarded(
        &self,
        side: Side,
        key: &str,
        pairs: &[Pair],
        own: &Loaded,
        source: &Loaded,
        chosen: &[usize],
        writes: &[Write],
    ) -> Result<Guarded, Error> {
        let rows_of = |side: Side, at: &usize| pairs[writes[*at].pair].rows[place(side)];
        let expected: UInt32Array = chosen.iter().map(|at| rows_of(side, at).map(|row| row as u32)).collect();
        let expected = take_record_batch(&own.batch, &expected).map_err(self.batch_error())?;
        let texts: StringArray = chosen
            .iter()
            .map(|at| {
                let pair = &pairs[writes[*at].pair];
                let text = if side == Side::Salesforce { &pair.id } else { &pair.key };
                (rows_of(side, at).is_some() || side == Side::External).then(|| text.clone())
            })
            .collect();
        let kind = self.entity(side).field(key).map_or(model::Type::Text, |field| field.kind);
        let keys: ArrayRef =
            arrow::compute::cast(&(Arc::new(texts) as ArrayRef), &kind.arrow()).map_err(self.batch_error())?;
        let revisions = chosen.iter().map(|at| writes[*at].revision).collect();
        let mut written: Vec<Vec<usize>> = chosen.iter().map(|at| writes[*at].columns.clone()).collect();
        let key_only = |keys| RecordBatch::try_from_iter_with_nullable([(key, keys, true)]);
        let Some(mapped) =
            source.mapped.as_ref().filter(|_| chosen.iter().any(|at| writes[*at].revision != Revision::Delete))
        else {
            return Ok(Guarded { revisions, written, expected, records: key_only(keys).map_err(self.batch_error())? });
        };
        let rows: UInt32Array = chosen
            .iter()
            .map(|at| rows_of(side.other(), at).and_then(|row| source.mapped_rows[row]).map(|row| row as u32))
            .collect();
        let records = take_record_batch(&mapped.records, &rows).map_err(self.batch_error())?;
        let records = if records.schema_ref().field(0).name() == key {
            records
        } else {
            // In Salesforce a record is known by its id, which is no field of the mapping.
            let mut fields = vec![Arc::new(Field::new(key, keys.data_type().clone(), true))];
            fields.extend(records.schema_ref().fields().iter().cloned());
            let mut columns = vec![keys];
            columns.extend(records.columns().iter().cloned());
            for column in written.iter_mut().flatten() {
                *column += 1;
            }
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(self.batch_error())?
        };
        Ok(Guarded { revisions, records, written, expected })
    }
}
