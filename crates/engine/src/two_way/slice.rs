//! Some records of a two-way sync, whatever windows say: a first slice of them, and those that a comparison found to differ.

use std::collections::HashSet;

use endpoint::Endpoint;
use futures::StreamExt as _;
use mapping::Parents;
use model::Side;
use serde_json::json;
use state::Store;

use super::{Pairing, end, ready};
use crate::chunk::cell;
use crate::report::{Error, Report};
use crate::run::{Options, Pilot, begin_run};
use crate::sync::Sync;

/// Settles the pairs of these records, each named by the key of its side, and nothing else.
#[tracing::instrument(name = "repair", level = "error", skip_all, fields(sync = sync.name, run))]
pub(crate) async fn repair_pairs(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
    options: &Options,
    records: HashSet<(Side, String)>,
) -> Result<Report, Error> {
    let _lock = store.lock(&sync.name)?;
    let calls = ends[0].calls() + ends[1].calls();
    let prepared = ready(sync, ends, store, parents).await?;
    let begun = begin_run(store, sync, &json!({"repairs": records.len()}))?;
    let mut report = Report { run: begun, sync: sync.name.clone(), repairs: true, ..Report::default() };
    report.counts.read = records.len() as u64;
    let result = match Pairing::new(sync, &prepared, ends, store, options, &|_| {}, &mut report, None) {
        Ok(mut pairing) => pairing.repair(records).await,
        Err(error) => Err(error),
    };
    (report.conflicts, report.held) = store.count_conflicts(&sync.name, report.run)?;
    report.calls = ends[0].calls() + ends[1].calls() - calls;
    end(sync, Some(&prepared), store, report, result)
}

impl Pairing<'_> {
    /// Settles a first slice: the first so many records of each side; where a condition is given, those of Salesforce for which it
    /// holds. Windows stay where they are, and nothing is deleted.
    pub(super) async fn pilot(&mut self, pilot: &Pilot) -> Result<(), Error> {
        self.report.pilot = true;
        self.compare_clocks().await?;
        for side in [Side::Salesforce, Side::External] {
            if side == Side::External && pilot.filter.is_some() {
                continue;
            }
            let mut read = self.reading(side, None);
            read.filter = pilot.narrowed(read.filter);
            let mut left = pilot.rows.unwrap_or(u64::MAX);
            let mut stream = self.end(side).read(read).await?;
            while left > 0 {
                let batch = tokio::select! {
                    batch = stream.next() => batch.transpose()?,
                    () = self.options.stop.cancelled() => return Err(Error::Stopped),
                };
                let Some(mut batch) = batch else { break };
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let rows = batch.records.num_rows().min(most);
                batch.unreadable.truncate(most - rows);
                let identity = self.identity(side);
                self.moved.extend((0..rows).map(|row| (side, cell(&batch.records, identity, row))));
                let rows = (rows + batch.unreadable.len()) as u64;
                left -= rows;
                self.report.receipt.read += rows;
                self.report.counts.read += rows;
                self.refuse_unreadable(side, batch.unreadable)?;
                self.look_again().await?;
            }
        }
        self.report.receipt.source = (self.report.receipt.read, self.report.receipt.read);
        self.moved.extend(std::mem::take(&mut self.incomplete));
        self.look_again().await?;
        self.leave_for_later()
    }

    /// Looks at some records, whatever windows say, and leaves to the next run what is on the move.
    async fn repair(&mut self, records: HashSet<(Side, String)>) -> Result<(), Error> {
        self.compare_clocks().await?;
        for revisit in self.store.revisits(&self.sync.name, true)? {
            self.waiting.insert((revisit.side, revisit.key));
        }
        self.moved.extend(records);
        self.look_again().await?;
        self.delete_gone().await?;
        self.moved.extend(std::mem::take(&mut self.incomplete));
        self.look_again().await?;
        self.leave_for_later()
    }
}
