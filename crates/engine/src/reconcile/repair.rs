//! A run of exactly the records that differ.

use endpoint::Endpoint;
use mapping::Parents;
use model::Side;
use state::{Link, Store};

use super::compare::{Comparison, pick};
use super::{Difference, Kind, LOOK_ROWS};
use crate::chunk::{Chunk, source_key};
use crate::prepare::read;
use crate::report::{Error, Report};
use crate::run::{Options, Running, ended, running};
use crate::sync::{Deletes, Sync};
use crate::two_way::repair_pairs;

pub(super) async fn repair(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
    comparison: &Comparison,
    differences: &[Difference],
    options: &Options,
) -> Result<Report, Error> {
    if sync.two_way.is_some() {
        let records = differences.iter().map(|difference| match difference.kind {
            Kind::Extra => (Side::External, difference.key.clone()),
            Kind::Missing | Kind::Different => (Side::Salesforce, difference.record.clone()),
        });
        return repair_pairs(sync, ends, store, parents, options, records.collect()).await;
    }
    let _lock = store.lock(&sync.name)?;
    let calls = ends[0].calls() + ends[1].calls();
    let mut running = running(sync, ends[0], ends[1], store, parents, options, &|_| {}).await?;
    running.report.repairs = true;
    let result = written(&mut running, comparison, differences).await;
    let finished = running.finish().await;
    let result = result.and(finished);
    running.report.calls = ends[0].calls() + ends[1].calls() - calls;
    ended(running, result)
}

async fn written(running: &mut Running<'_>, comparison: &Comparison, differences: &[Difference]) -> Result<(), Error> {
    let of = |kinds: &[Kind]| -> Vec<String> {
        differences.iter().filter(|one| kinds.contains(&one.kind)).map(|one| one.record.clone()).collect()
    };
    let wanted = of(&[Kind::Missing, Kind::Different]);
    let read = read(&running.prepared, running.sync, None);
    let tie = read.fields[running.prepared.plan.record_id.unwrap_or(0)].clone();
    let part = if running.source.capabilities().two_way { LOOK_ROWS } else { wanted.len().max(1) };
    for keys in wanted.chunks(part) {
        if running.options.stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        let found = pick(running.source, &read, &tie, keys, &running.sync.name).await?;
        let rows = found.num_rows() as u64;
        running.report.counts.read += rows;
        running.report.receipt.read += rows;
        running.report.receipt.source = (running.report.receipt.read, running.report.receipt.read);
        for row in 0..found.num_rows() {
            running.report.receipt.keys_read.add(&source_key(&found, row));
        }
        if rows > 0 {
            let mapped = running.map(&found)?;
            let mut chunk = Chunk::default();
            chunk.add(found, mapped);
            running.settle(chunk, true, &[]).await?;
        }
    }
    if running.sync.deletes != Deletes::Propagate {
        return Ok(());
    }
    let gone = of(&[Kind::Extra]);
    let (linked, _) = running.store.unseen(running.owner())?;
    running.brake(gone.len() as u64, linked)?;
    let part = running.target.capabilities().write_rows.clamp(1, LOOK_ROWS);
    for keys in gone.chunks(part) {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let links = running.store.links(comparison.mapping(), comparison.side(1), &keys)?;
        let links: Vec<Link> = links.into_values().collect();
        running.delete(&links).await?;
    }
    Ok(())
}
