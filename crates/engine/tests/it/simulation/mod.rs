//! Two-way histories: people edit on both sides, the engine runs, fails and crashes, and in the end nothing may be lost.
//!
//! The real engine runs over two systems in memory. `BRIDGEHEAD_SIMULATE` says how many histories (20,000 by default), and
//! `BRIDGEHEAD_SEED` where they begin. A history that fails is made as short as it still fails, and told step by step.

mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use engine::{
    Contested, Deletes, Options, Policy, PreparedPairs, Report, Sync, TwoWayRules, prepare_pairs, run_prepared,
};
use mapping::{Definition, Direction};
use model::Side;
use state::Store;
use tokio::sync::Notify;

use world::{Dice, FIELDS, Memory, Trouble, World};

const HISTORIES: u64 = 20_000;
/// Steps of a history: in each, people edit and the engine runs.
const STEPS: usize = 6;
/// Runs after which nothing may be left to write.
const QUIET: usize = 12;

const MAPPING: &str = "
mapping: m
version: 1
salesforce: { connection: crm, object: t, key: Ext }
external: { connection: erp, entity: t, key: id, cursor: changed }
fields:
  - { salesforce: Name, external: name }
  - { salesforce: City, external: city }
  - { salesforce: Revenue, external: revenue, owner: external }
  - { salesforce: Country, external: country, to_external: 'upper(value)' }
  - { external: address, to_external: 'concat_ws(''/'', \"Name\", \"City\")' }
";

fn sync(rules: TwoWayRules) -> Sync {
    Sync {
        name: "s".to_owned(),
        definition: Definition::parse(MAPPING).expect("a mapping"),
        direction: Direction::ToExternal,
        deletes: Deletes::Propagate,
        brake: 1.0,
        drift: engine::Drift::Ignore,
        history: engine::History::None,
        version: None,
        two_way: Some(rules),
        circle: Vec::new(),
    }
}

fn sides(world: &Arc<Mutex<World>>, crash: &Arc<Notify>) -> [Memory; 2] {
    [Side::Salesforce, Side::External].map(|side| Memory { side, world: world.clone(), crash: crash.clone() })
}

/// A sync of each way to decide, checked once for all histories.
struct Ways(Vec<(Sync, PreparedPairs)>);

impl Ways {
    async fn all() -> Self {
        let mut ways = Vec::new();
        let store = Store::in_memory().expect("a store");
        let trouble =
            Trouble { crashes: false, failures: false, deletes: false, merges: false, nulls: false, meanwhile: false };
        let [salesforce, external] = sides(&Arc::new(Mutex::new(World::new(0, trouble))), &Arc::new(Notify::new()));
        for conflicts in [Policy::Latest, Policy::Salesforce, Policy::External, Policy::Manual] {
            for contested in [Contested::DeleteWins, Contested::EditWins, Contested::Ask] {
                let sync = sync(TwoWayRules { conflicts, contested, change_brake: 1.0 });
                let prepared = prepare_pairs(&sync, [&salesforce, &external], &store, &|_| None).await.expect("a plan");
                ways.push((sync, prepared));
            }
        }
        Self(ways)
    }
}

/// One history; `Err` says what went wrong, with the steps that led there.
async fn history(ways: &Ways, seed: u64, steps: usize, trouble: Trouble) -> Result<(), String> {
    let mut dice = Dice(seed ^ 0x5EED);
    let (sync, prepared) = &ways.0[dice.below(ways.0.len())];
    let world = Arc::new(Mutex::new(World::new(seed, trouble)));
    let crash = Arc::new(Notify::new());
    let ends = sides(&world, &crash);
    let store = Store::in_memory().expect("a store");
    let told = |world: &World, what: String| {
        Err(format!("{what}\nseed {seed}, {steps} steps, {trouble:?}\n{:?}\n{}", sync.two_way, world.log.join("\n")))
    };
    let options = Options { force: true, backoff: std::time::Duration::ZERO, ..Options::default() };
    let run = async |number: i64, full: bool| {
        let options = Options { full, ..options.clone() };
        let mut report = Report { run: number, ..Report::default() };
        let running = run_prepared(sync, prepared, [&ends[0], &ends[1]], &store, &options, &|_| {}, &mut report);
        tokio::select! {
            biased;
            result = running => result,
            // Everything that was in memory is gone.
            () = crash.notified() => Err(engine::Error::Stopped),
        }
    };
    let mut number = 0;
    for _ in 0..steps {
        {
            let mut world = ends[0].world();
            let edits = 1 + dice.below(5);
            let now = if trouble.meanwhile { dice.below(edits + 1) } else { edits };
            for _ in 0..now {
                world.act();
            }
            world.edits_left = edits - now;
            world.crash_in = (trouble.crashes && dice.chance(40)).then(|| 1 + dice.below(25) as u32);
            world.log.push("the engine runs".to_owned());
        }
        number += 1;
        // It may fail; whatever it left undone is for the next.
        let full = dice.chance(15);
        let _ = run(number, full).await;
    }
    // Nobody edits any more, nothing fails: soon there is nothing to do.
    let quiet = async |number: &mut i64, ends: &[Memory; 2]| -> Result<(), String> {
        {
            let mut world = ends[0].world();
            (world.edits_left, world.crash_in) = (0, None);
            world.log.push("quiet".to_owned());
        }
        for _ in 0..QUIET {
            *number += 1;
            ends[0].world().clock += 10;
            let before = ends[0].world().writes;
            if let Err(error) = run(*number, false).await {
                return told(&ends[0].world(), format!("a quiet run fails: {error}"));
            }
            if ends[0].world().writes == before {
                return Ok(());
            }
        }
        told(&ends[0].world(), format!("after {QUIET} quiet runs the engine still writes"))
    };
    quiet(&mut number, &ends).await?;
    let held = store.conflicts(Some("s"), Some("held"), 0, 1000).expect("conflicts");
    for conflict in &held {
        let winner = if dice.chance(50) { Side::Salesforce } else { Side::External };
        ends[0]
            .world()
            .log
            .push(format!("a person decides {:?} of {} for {winner:?}", conflict.field, conflict.salesforce));
        store.resolve(conflict.id, winner).expect("a resolution");
    }
    quiet(&mut number, &ends).await?;
    let conflicts = store.conflicts(Some("s"), None, 0, 100_000).expect("conflicts");
    let world = ends[0].world();
    let merged = store.letters_for("s", "MERGED").expect("letters");
    check(&world, &conflicts, &merged).or_else(|what| told(&world, what))
}

/// Says what is wrong with the end of a history; `merged` are letters of records that wait for a person.
fn check(world: &World, conflicts: &[state::Conflict], merged: &[String]) -> Result<(), String> {
    let waits = |key: &str| merged.contains(&state::letter_key(Side::External, key));
    let external: BTreeMap<&String, _> = world.live(Side::External).filter(|(key, _)| !waits(key)).collect();
    let mut keys = std::collections::BTreeSet::new();
    for (id, record) in world.live(Side::Salesforce) {
        let key = record.cells["Ext"].as_ref().ok_or_else(|| format!("{id} has no key"))?;
        if !keys.insert(key.clone()) {
            return Err(format!("two Salesforce records have the key {key}"));
        }
        let other = external.get(key).ok_or_else(|| format!("{id} ({key}) has no counterpart"))?;
        for names in &FIELDS[1..4] {
            let (left, right) = (&record.cells[names[0]], &other.cells[names[1]]);
            if left != right {
                return Err(format!("{key}: {} is {left:?}, {} is {right:?}", names[0], names[1]));
            }
        }
        let (left, right) = (&record.cells["Country"], &other.cells["country"]);
        if left != right && left.as_ref().map(|text| text.to_uppercase()) != *right {
            return Err(format!("{key}: Country is {left:?}, country is {right:?}"));
        }
        let parts: Vec<&str> = ["Name", "City"].iter().filter_map(|name| record.cells[*name].as_deref()).collect();
        if other.cells["address"].as_deref().unwrap_or_default() != parts.join("/") {
            return Err(format!("{key}: address is {:?} and not of {parts:?}", other.cells["address"]));
        }
    }
    if external.len() != keys.len() {
        return Err(format!("{} records outside, {} in Salesforce", external.len(), keys.len()));
    }
    if keys.len() > world.created_by_people {
        return Err(format!("{} pairs, though people made {} records", keys.len(), world.created_by_people));
    }
    let of_pair = |conflict: &state::Conflict, pair: &String| {
        conflict.external == *pair
            || conflict.salesforce == *pair
            || world
                .aliases
                .get(pair)
                .is_some_and(|names| names.contains(&conflict.salesforce) || names.contains(&conflict.external))
    };
    for (pair, field, value) in &world.overwritten {
        let told = conflicts.iter().any(|conflict| {
            of_pair(conflict, pair)
                && conflict.field == *field
                && (conflict.salesforce_value == *value || conflict.external_value == *value)
        });
        if !told {
            return Err(format!("{pair}: {value:?} of {field} is gone, and no conflict tells of it"));
        }
    }
    if !world.trouble.crashes && !world.trouble.failures && !world.trouble.nulls {
        // Whoever replaces what they have seen is in no conflict.
        for conflict in conflicts.iter().filter(|conflict| !conflict.field.is_empty()) {
            let field = FIELDS.iter().position(|names| names[0] == conflict.field).unwrap_or_default();
            let (ours, theirs) = (conflict.salesforce_value.as_deref(), conflict.external_value.as_deref());
            let seen = world.descends(&conflict.external, field, ours, theirs)
                || world.descends(&conflict.external, field, theirs, ours);
            if seen && (1..5).contains(&field) && ours.is_some() && theirs.is_some() {
                return Err(format!("{conflict:?} is none: one had seen the other"));
            }
        }
    }
    for key in &world.revived {
        let asked = |conflict: &&state::Conflict| conflict.external == *key && conflict.field.is_empty();
        if !conflicts.iter().filter(asked).any(|conflict| conflict.state == "done" || conflict.state == "resolved") {
            return Err(format!("{key} was merged into another, and is there again though nobody said so"));
        }
    }
    for (pair, field) in &world.undone {
        if !conflicts.iter().any(|conflict| of_pair(conflict, pair) && conflict.field.is_empty()) {
            return Err(format!("{pair} was deleted with an edit of {field} in it, and no conflict tells of it"));
        }
    }
    Ok(())
}

/// Finds a shorter history that still fails.
async fn shortest(ways: &Ways, seed: u64, trouble: Trouble, mut found: String) -> String {
    let mut trouble = trouble;
    let mut steps = STEPS;
    for shorter in 1..STEPS {
        if let Err(what) = history(ways, seed, shorter, trouble).await {
            (found, steps) = (what, shorter);
            break;
        }
    }
    let calmer: [fn(&mut Trouble); 6] = [
        |trouble| trouble.crashes = false,
        |trouble| trouble.failures = false,
        |trouble| trouble.deletes = false,
        |trouble| trouble.merges = false,
        |trouble| trouble.nulls = false,
        |trouble| trouble.meanwhile = false,
    ];
    for calm in calmer {
        let mut less = trouble;
        calm(&mut less);
        if let Err(what) = history(ways, seed, steps, less).await {
            (found, trouble) = (what, less);
        }
    }
    found
}

/// The engine crashes between a write and its bookkeeping; meanwhile somebody edits the same field again. That is no
/// conflict: what was written is known for our own.
#[tokio::test]
async fn after_a_crash_our_own_writes_are_known_for_ours() {
    let ways = Ways::all().await;
    let (sync, prepared) = &ways.0[0];
    let mut crashed = 0;
    for moment in 1..60 {
        let trouble =
            Trouble { crashes: true, failures: false, deletes: false, merges: false, nulls: false, meanwhile: false };
        let world = Arc::new(Mutex::new(World::new(moment, trouble)));
        let crash = Arc::new(Notify::new());
        let ends = sides(&world, &crash);
        let store = Store::in_memory().expect("a store");
        let options = Options { force: true, ..Options::default() };
        let run = async |number| {
            let mut report = Report { run: number, ..Report::default() };
            let running = run_prepared(sync, prepared, [&ends[0], &ends[1]], &store, &options, &|_| {}, &mut report);
            tokio::select! {
                biased;
                result = running => result.map(|()| report),
                () = crash.notified() => Err(engine::Error::Stopped),
            }
        };
        let set = |value: &str| {
            let mut world = ends[0].world();
            world.clock += 10;
            let clock = world.clock;
            let record = world.records[0].get_mut("S00001").expect("the record");
            record.cells.insert("Name".to_owned(), Some(value.to_owned()));
            record.changed = clock;
        };
        {
            let cells = FIELDS.iter().filter(|names| !names[0].is_empty());
            let cells =
                cells.map(|names| (names[0].to_owned(), (names[0] == "Ext").then(|| "u1".to_owned()))).collect();
            let record = world::Record { cells, changed: 100, ..world::Record::default() };
            ends[0].world().records[0].insert("S00001".to_owned(), record);
        }
        run(1).await.expect("a first run");
        set("first");
        ends[0].world().crash_in = Some(moment as u32);
        crashed += u64::from(run(2).await.is_err());
        set("second");
        ends[0].world().crash_in = None;
        run(3).await.expect("a run after the crash");
        assert_eq!(ends[0].world().records[1]["u1"].cells["name"].as_deref(), Some("second"), "crash at call {moment}");
        assert!(store.conflicts(None, None, 0, 10).expect("conflicts").is_empty(), "crash at call {moment}");
    }
    assert!(crashed > 5, "{crashed} crashes");
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_history_of_two_sides_loses_anything() {
    let (histories, first) = (number("BRIDGEHEAD_SIMULATE", HISTORIES), number("BRIDGEHEAD_SEED", 1));
    let next = AtomicU64::new(first);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ways = runtime().block_on(Ways::all());
    let failure: Mutex<Option<String>> = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                runtime().block_on(async {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + histories || failure.lock().expect("no panic").is_some() {
                            return;
                        }
                        let mut dice = Dice(seed);
                        let trouble = Trouble {
                            crashes: dice.chance(60),
                            failures: dice.chance(50),
                            deletes: dice.chance(70),
                            merges: dice.chance(40),
                            nulls: dice.chance(50),
                            meanwhile: dice.chance(70),
                        };
                        if let Err(what) = history(&ways, seed, STEPS, trouble).await {
                            let what = shortest(&ways, seed, trouble, what).await;
                            *failure.lock().expect("no panic") = Some(what);
                        }
                    }
                });
            });
        }
    });
    if let Some(what) = failure.into_inner().expect("no panic") {
        panic!("{what}");
    }
}
