//! `kill -9` at random moments, each way: nothing is lost, nothing is done twice.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::bench::{Bench, Failed};

const ROWS: usize = 200_000;
const KILLS: u32 = 20;

/// A small generator of its own, so that a failing seed can be run again.
pub(crate) struct Moments(pub(crate) u64);

impl Moments {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

impl Bench {
    /// Kills a run at a moment, unless it has ended by then; true if it was killed.
    pub(crate) async fn killed_after(&self, moment: Duration, arguments: &[&str]) -> Result<bool, Failed> {
        let mut child = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let end = Instant::now() + moment;
        let killed = tokio::task::spawn_blocking(move || {
            while child.try_wait()?.is_none() {
                if Instant::now() >= end {
                    child.kill()?;
                    child.wait()?;
                    return Ok::<_, std::io::Error>(true);
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Ok(false)
        });
        Ok(killed.await??)
    }

    /// Returns the rows that the checkpoint of a sync calls done in the window in progress.
    fn rows_behind_checkpoint(&self, sync: &str) -> Result<u64, Failed> {
        let store = state::Store::open(&self.path(".bridgehead/state.db"))?;
        Ok(store.checkpoint(sync)?.open.map_or(0, |open| open.rows))
    }

    /// Kills a sync twenty times, and checks after each that its checkpoint is not ahead of the target's rows.
    async fn kill_often(
        &self,
        sync: &str,
        moments: &mut Moments,
        target_rows: &dyn Fn() -> Result<u64, Failed>,
    ) -> Result<(), Failed> {
        let (mut killed, mut deepest) = (0, 0);
        // How late a kill may come, in milliseconds; more where the machine has much else to do.
        let mut reach = 3_000;
        let begun = Instant::now();
        while killed < KILLS || deepest == 0 {
            assert!(begun.elapsed() < Duration::from_mins(10), "{killed} kills in ten minutes");
            let moment = Duration::from_millis(100 + moments.next(reach));
            // A run that came to its end makes room for the next: everything once more.
            if self.killed_after(moment, &["run", sync, "--full"]).await? {
                killed += 1;
                let behind = self.rows_behind_checkpoint(sync)?;
                deepest = deepest.max(behind);
                if deepest == 0 {
                    reach += reach / 8;
                }
                let there = target_rows()?;
                assert!(behind <= there, "the checkpoint is behind {behind} rows, the target holds {there}");
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_each_way_lose_and_double_nothing() -> Result<(), Failed> {
    let seed = std::env::var("BRIDGEHEAD_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 0x9E37_79B9 + 1);
    println!("BRIDGEHEAD_TEST_SEED={seed}");
    let mut moments = Moments(seed);
    let bench = Bench::new().await?;
    bench.customers_in(ROWS)?;
    let client = bench.client()?;
    let org_rows = || {
        let count = client.count("SELECT COUNT() FROM Account WHERE Customer_No__c != null", false);
        tokio::task::block_in_place(|| Ok(tokio::runtime::Handle::current().block_on(count)?))
    };
    bench.kill_often("customers_in", &mut moments, &org_rows).await?;
    bench.expect(&["run", "customers_in", "--full"], 0, &["no row missing"]).await?;
    let source = bench.erp_customers("customers")?;
    assert_eq!(source.len(), ROWS);
    assert!(bench.org_customers().await? == source, "each row once in the org, with its values");

    bench.customers_back()?;
    let erp_rows = || {
        let known = "SELECT count(*) FROM sqlite_schema WHERE name = 'back'";
        let erp = bench.erp()?;
        if erp.query_row(known, [], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(0);
        }
        let rows: i64 = erp.query_row("SELECT count(*) FROM back", [], |row| row.get(0))?;
        Ok(rows.cast_unsigned())
    };
    bench.kill_often("customers_back", &mut moments, &erp_rows).await?;
    bench.expect(&["run", "customers_back"], 0, &["no row missing"]).await?;
    assert!(bench.erp_customers("back")? == source, "each row once in the ERP, with its values");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_at_a_checkpoint_and_says_how_to_go_on() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.customers_in(ROWS)?;
    let child = bench.command(&["run", "customers_in"]).spawn()?;
    let begun = Instant::now();
    let store = state::Store::open(&bench.path(".bridgehead/state.db"))?;
    while store.checkpoint("customers_in")?.open.is_none_or(|open| open.rows == 0) {
        assert!(begun.elapsed() < Duration::from_mins(2), "no checkpoint in two minutes");
        // A look in between leaves the machine to the run.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(store);
    // The signal that Ctrl-C sends.
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    assert!(sent.success());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{text}");
    assert!(text.contains("run it again to go on from the checkpoint"), "{text}");
    let behind = bench.rows_behind_checkpoint("customers_in")?;
    assert!((1..ROWS as u64).contains(&behind), "{behind} rows are done");
    let rest = format!("{} read", ROWS as u64 - behind);
    bench.expect(&["run", "customers_in"], 0, &[&rest, "no row missing"]).await
}
