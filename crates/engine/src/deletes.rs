//! Deletions: what is gone from the source goes from the target, behind the brake.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::cast;
use endpoint::{Target, Window, is_captured};
use futures::StreamExt as _;
use model::{ChangeBatch, Op, Outcome, Side};
use state::{Commit, DeadLetter, Link};

use crate::chunk::cell;
use crate::prepare::read;
use crate::report::Error;
use crate::run::Running;
use crate::settle::{image, letter};
use crate::sync::History;

impl Running<'_> {
    /// Deletes what is gone from the source: what it tells of a window, or what a full read did not meet.
    pub(crate) async fn deletions(&mut self, window: Option<Window>) -> Result<(), Error> {
        let (linked, unseen) = self.store.unseen(self.owner())?;
        let part = self.target.capabilities().write_rows.max(1);
        if window.is_none() {
            self.brake(unseen, linked)?;
            let mut after = String::new();
            loop {
                let links = self.store.unseen_links(self.owner(), &after, part)?;
                let Some(last) = links.last() else { return Ok(()) };
                after.clone_from(&last.external);
                self.delete(&links).await?;
            }
        }
        if !self.source.capabilities().tells_deletes && !is_captured(&self.prepared.source) {
            return Ok(());
        }
        let mut gone: Vec<Link> = Vec::new();
        let mut read = read(&self.prepared, self.sync, window);
        let identity = self.prepared.plan.record_id.unwrap_or(0);
        (read.deleted, read.fields) = (true, vec![self.prepared.plan.source_fields[identity].clone()]);
        let mut stream = self.source.read(read).await?;
        while let Some(batch) = stream.next().await.transpose()? {
            let keys: Vec<String> = (0..batch.len()).map(|row| cell(&batch.records, 0, row)).collect();
            let names: Vec<&str> = keys.iter().map(String::as_str).collect();
            let found = self.store.links(&self.sync.definition.mapping, self.source_side(), &names)?;
            gone.extend(found.into_values());
        }
        self.brake(gone.len() as u64, linked)?;
        for links in gone.chunks(part) {
            self.delete(links).await?;
        }
        Ok(())
    }

    /// Stops a run that would delete more than the sync allows.
    pub(crate) fn brake(&self, deletes: u64, of: u64) -> Result<(), Error> {
        if deletes as f64 > (of as f64 * self.sync.brake).max(1.0) {
            return Err(Error::Brake { sync: self.sync.name.clone(), deletes, of });
        }
        Ok(())
    }

    pub(crate) async fn delete(&mut self, links: &[Link]) -> Result<(), Error> {
        let side = self.source_side().other();
        // A link knows the Salesforce record by its id, whatever field the mapping writes by.
        let target = match (side, self.prepared.target.entity.key.first()) {
            (Side::Salesforce, Some(id)) => Target { key: id.clone(), ..self.prepared.target.clone() },
            _ => self.prepared.target.clone(),
        };
        let texts: ArrayRef = Arc::new(links.iter().map(|link| Some(link.key(side))).collect::<StringArray>());
        let kind = target.entity.field(&target.key).map_or(model::Type::Text, |field| field.kind);
        let keys = cast(&texts, &kind.arrow()).map_err(self.batch_error())?;
        let records = RecordBatch::try_from_iter_with_nullable([(target.key.as_str(), keys, true)])
            .map_err(self.batch_error())?;
        let outcomes = self.write(&target, &ChangeBatch::deletes(records.clone(), None)).await?;
        let checkpoint = Some(self.checkpoint.clone());
        let mut commit = Commit { checkpoint, writer: self.report.run, ..Commit::default() };
        for (row, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Outcome::Refused(error) => {
                    self.report.counts.dead += 1;
                    let key = links[row].key(self.source_side()).to_owned();
                    commit.dead.push(DeadLetter { key, ..letter(self.sync, &records, 0, row, Op::Delete, &error) });
                }
                outcome => {
                    self.report.counts.deleted += u64::from(outcome != Outcome::Unchanged);
                    if self.sync.history != History::None && outcome != Outcome::Unchanged {
                        let link = Link { side, ..links[row].clone() };
                        commit.images.push(image(&link, "delete", "{}".to_owned()));
                    }
                    commit.unlinked.push(links[row].clone());
                }
            }
        }
        Ok(self.store.commit(self.owner(), &commit)?)
    }
}
