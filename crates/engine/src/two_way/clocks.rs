//! Clocks, where the later of two edits wins.

use arrow::array::RecordBatch;
use chrono::Utc;
use model::Side;

use super::{Pairing, micros};
use crate::chunk::cell;
use crate::merge::{Policy, place};
use crate::report::Error;

/// How far clocks may be apart where times decide, in microseconds. A minute is more than clocks that are set by a time
/// server ever differ, and less than people take to see an edit of somebody else.
const SKEW: i64 = 60_000_000;

impl Pairing<'_> {
    /// True where the later of two edits wins, and nobody has said to go on whatever the clocks say.
    fn minds_clocks(&self) -> bool {
        self.prepared.rules.policy == Policy::Latest
            && self.prepared.changed.iter().all(Option::is_some)
            && !self.options.force
    }

    /// Stops a run that would let the later edit win while the clocks of the two sides differ.
    pub(super) async fn compare_clocks(&mut self) -> Result<(), Error> {
        if !self.minds_clocks() {
            return Ok(());
        }
        let mut clocks = [0; 2];
        for side in [Side::Salesforce, Side::External] {
            let theirs = self.end(side).clock().await?;
            clocks[place(side)] = theirs.unwrap_or_else(|| Utc::now().timestamp_micros());
        }
        self.clock_offset = clocks[0].max(clocks[1]) - Utc::now().timestamp_micros();
        let apart = clocks[1] - clocks[0];
        if apart.abs() > SKEW {
            let which = if apart > 0 { "ahead of" } else { "behind" };
            let what = format!("the clock outside is {} seconds {which} that of Salesforce", apart.abs() / 1_000_000);
            return Err(Error::ClockSkew { what });
        }
        Ok(())
    }

    /// Stops a run that meets a record which was changed later than now.
    pub(super) fn refuse_future(&self, side: Side, batch: &RecordBatch) -> Result<(), Error> {
        let Some(column) = self.prepared.changed[place(side)].filter(|_| self.minds_clocks()) else { return Ok(()) };
        let now = Utc::now().timestamp_micros() + self.clock_offset;
        let ahead = |row: usize| micros(batch, column, row).map(|at| at - now).filter(|ahead| *ahead > SKEW);
        let Some((row, ahead)) = (0..batch.num_rows()).find_map(|row| Some((row, ahead(row)?))) else { return Ok(()) };
        let what = format!(
            "{} of {} says that it was changed {} seconds from now",
            cell(batch, self.identity(side), row),
            self.entity(side).name,
            ahead / 1_000_000
        );
        Err(Error::ClockSkew { what })
    }
}
