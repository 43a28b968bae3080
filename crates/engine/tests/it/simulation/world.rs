//! Two systems in memory with people who edit in both, and an engine that may crash at any call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use endpoint::{Batches, Capabilities, Catalog, Error, Guarded, Read, Result, Revision, Sink, Source, Target};
use futures::StreamExt as _;
use model::{ChangeBatch, Class, Entity, Field, Outcome, RecordError, Side, Type, text_of};
use tokio::sync::Notify;

/// How much later than its own time a change may be seen, in ticks; windows begin so much earlier.
const LATE: i64 = 6;

/// Fields of the two sides, in pairs: key, plain ones, one with an expression, one computed.
pub(super) const FIELDS: [[&str; 2]; 6] = [
    ["Ext", "id"],
    ["Name", "name"],
    ["City", "city"],
    ["Revenue", "revenue"],
    ["Country", "country"],
    ["", "address"],
];

pub(super) fn place(side: Side) -> usize {
    usize::from(side == Side::External)
}

/// Random numbers that come the same again (SplitMix64).
#[derive(Debug, Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }
}

/// What may happen in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) crashes: bool,
    pub(super) failures: bool,
    pub(super) deletes: bool,
    /// Salesforce records are merged.
    pub(super) merges: bool,
    pub(super) nulls: bool,
    /// People edit while the engine runs, not only between its runs.
    pub(super) meanwhile: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    pub(super) cells: BTreeMap<String, Option<String>>,
    pub(super) changed: i64,
    pub(super) deleted: Option<i64>,
    /// The record that this one was merged into.
    pub(super) master: Option<String>,
}

/// An edit by a person: the value, and what stood there when it was made.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    pub(super) value: Option<String>,
    pub(super) seen: Option<String>,
}

/// Both systems.
#[derive(Debug)]
pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) trouble: Trouble,
    /// Of each side its records: by id in Salesforce, by key outside.
    pub(super) records: [BTreeMap<String, Record>; 2],
    pub(super) clock: i64,
    made: u64,
    /// Edits of people that are still to come, in this run.
    pub(super) edits_left: usize,
    /// Edits by pair and field.
    pub(super) edits: BTreeMap<(String, usize), Vec<Edit>>,
    /// Ids of Salesforce records by the key they got later.
    pub(super) aliases: BTreeMap<String, Vec<String>>,
    /// What the engine overwrote though nobody who wrote the new value had seen the old one: pair, field, value. Each needs
    /// a conflict.
    pub(super) overwritten: Vec<(String, String, Option<String>)>,
    /// Records that the engine deleted though their last edits had not been seen where they were deleted.
    pub(super) undone: Vec<(String, String)>,
    /// Keys of external records that the engine made a Salesforce record for though theirs was merged into another.
    pub(super) revived: Vec<String>,
    pub(super) writes: u64,
    pub(super) created_by_people: usize,
    pub(super) crash_in: Option<u32>,
    pub(super) log: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64, trouble: Trouble) -> Self {
        Self {
            dice: Dice(seed),
            trouble,
            records: [BTreeMap::new(), BTreeMap::new()],
            clock: 100,
            made: 0,
            edits_left: 0,
            edits: BTreeMap::new(),
            aliases: BTreeMap::new(),
            overwritten: Vec::new(),
            undone: Vec::new(),
            revived: Vec::new(),
            writes: 0,
            created_by_people: 0,
            crash_in: None,
            log: Vec::new(),
        }
    }

    pub(super) fn live(&self, side: Side) -> impl Iterator<Item = (&String, &Record)> {
        self.records[place(side)].iter().filter(|(_, record)| record.deleted.is_none())
    }

    /// What a pair is called: its key, or the id of a Salesforce record that has none yet.
    fn pair_of(&self, side: Side, id: &str) -> String {
        match side {
            Side::External => id.to_owned(),
            Side::Salesforce => {
                let key = self.records[0].get(id).and_then(|record| record.cells["Ext"].clone());
                key.unwrap_or_else(|| id.to_owned())
            }
        }
    }

    fn edits_of(&self, pair: &str, field: usize) -> Vec<Edit> {
        let alias = self.aliases.get(pair).into_iter().flatten();
        let names = alias.chain(std::iter::once(&pair.to_owned())).cloned().collect::<Vec<_>>();
        names.iter().flat_map(|name| self.edits.get(&(name.clone(), field)).cloned().unwrap_or_default()).collect()
    }

    /// True when whoever wrote `new` had, directly or through others, seen `old`.
    pub(super) fn descends(&self, pair: &str, field: usize, new: Option<&str>, old: Option<&str>) -> bool {
        let same =
            |left: Option<&str>, right: Option<&str>| left.map(str::to_uppercase) == right.map(str::to_uppercase);
        if same(new, old) {
            return true;
        }
        let edits = self.edits_of(pair, field);
        let mut reached = vec![new.map(str::to_owned)];
        let mut at = 0;
        while let Some(value) = reached.get(at).cloned() {
            at += 1;
            for edit in edits.iter().filter(|edit| same(edit.value.as_deref(), value.as_deref())) {
                if same(edit.seen.as_deref(), old) {
                    return true;
                }
                if !reached.iter().any(|known| same(known.as_deref(), edit.seen.as_deref())) {
                    reached.push(edit.seen.clone());
                }
            }
        }
        false
    }

    fn value(&mut self) -> Option<String> {
        self.made += 1;
        (!(self.trouble.nulls && self.dice.chance(10))).then(|| format!("v{}", self.made))
    }

    /// A person does something somewhere.
    pub(super) fn act(&mut self) {
        self.clock += 1;
        let side = if self.dice.chance(50) { Side::Salesforce } else { Side::External };
        let ids: Vec<String> = self.live(side).map(|(id, _)| id.clone()).collect();
        let action = self.dice.below(100);
        // A change may be seen a little later than its own time says.
        let changed = self.clock - self.dice.below(LATE as usize) as i64;
        if ids.is_empty() || (action < 15 && ids.len() < 6) {
            self.made += 1;
            let (id, key) = match side {
                Side::External => (format!("x{}", self.made), None),
                Side::Salesforce => {
                    let key = self.dice.chance(30).then(|| format!("u{}", self.made));
                    (format!("S{:05}", self.made), key)
                }
            };
            let mut record = Record { changed, ..Record::default() };
            for (field, names) in FIELDS.iter().enumerate() {
                let name = names[place(side)];
                if name.is_empty() {
                    continue;
                }
                let value = match field {
                    0 if side == Side::External => Some(id.clone()),
                    0 => key.clone(),
                    5 => None,
                    _ => self.value(),
                };
                record.cells.insert(name.to_owned(), value);
            }
            self.log.push(format!("{} {side:?} creates {id} {:?}", self.clock, record.cells));
            let pair = key.unwrap_or_else(|| id.clone());
            for (field, names) in FIELDS.iter().enumerate().skip(1).take(4) {
                let value = record.cells[names[place(side)]].clone();
                self.edits.entry((pair.clone(), field)).or_default().push(Edit { value, seen: None });
            }
            self.records[place(side)].insert(id, record);
            self.created_by_people += 1;
        } else if action < 25 && self.trouble.deletes {
            let id = ids[self.dice.below(ids.len())].clone();
            self.log.push(format!("{} {side:?} deletes {id}", self.clock));
            let clock = self.clock;
            if let Some(record) = self.records[place(side)].get_mut(&id) {
                (record.deleted, record.changed) = (Some(clock), clock);
            }
        } else if action < 32 && self.trouble.merges && side == Side::Salesforce && ids.len() > 1 {
            let winner = ids[self.dice.below(ids.len())].clone();
            let loser = ids[self.dice.below(ids.len())].clone();
            if winner != loser {
                self.merge(&winner, &loser);
            }
        } else {
            let id = ids[self.dice.below(ids.len())].clone();
            let field = 1 + self.dice.below(4);
            let value = self.value();
            let name = FIELDS[field][place(side)];
            let pair = self.pair_of(side, &id);
            self.log.push(format!("{} {side:?} sets {id} {name} to {value:?}", self.clock));
            if let Some(record) = self.records[place(side)].get_mut(&id) {
                let seen = record.cells.insert(name.to_owned(), value.clone()).flatten();
                record.changed = record.changed.max(changed);
                self.edits.entry((pair, field)).or_default().push(Edit { value, seen });
            }
        }
    }

    /// A person merges two records, choosing for each field whose value stays, having seen both.
    fn merge(&mut self, winner: &str, loser: &str) {
        let clock = self.clock;
        let pairs = [self.pair_of(Side::Salesforce, winner), self.pair_of(Side::Salesforce, loser)];
        let lost = self.records[0][loser].clone();
        self.log.push(format!("{clock} Salesforce merges {loser} into {winner}"));
        for (field, names) in FIELDS.iter().enumerate().take(5) {
            let own = self.records[0][winner].cells[names[0]].clone();
            let other = lost.cells[names[0]].clone();
            // One that loses its key does not give it away, as a rule.
            let takes = self.dice.chance(if field == 0 { 20 } else { 50 });
            let stays = if takes && other.is_some() { other.clone() } else { own.clone() };
            self.log.push(format!("  {} stays {stays:?} of {own:?} and {other:?}", names[0]));
            if let Some(record) = self.records[0].get_mut(winner) {
                record.cells.insert(names[0].to_owned(), stays.clone());
                record.changed = record.changed.max(clock);
            }
            for pair in pairs.iter().chain([&winner.to_owned(), &loser.to_owned()]) {
                for seen in [&own, &other] {
                    let edit = Edit { value: stays.clone(), seen: seen.clone() };
                    self.edits.entry((pair.clone(), field)).or_default().push(edit);
                }
            }
        }
        // The two are one history from now on.
        for pair in &pairs {
            for name in pairs.iter().chain([&winner.to_owned(), &loser.to_owned()]).filter(|name| *name != pair) {
                self.aliases.entry(pair.clone()).or_default().push(name.clone());
            }
        }
        if let Some(record) = self.records[0].get_mut(loser) {
            (record.deleted, record.changed, record.master) = (Some(clock), clock, Some(winner.to_owned()));
        }
    }

    /// The engine writes a field: was what stood there seen by whoever wrote the new value?
    fn note_overwrite(&mut self, side: Side, id: &str, name: &str, new: Option<&str>) {
        let Some(field) =
            FIELDS.iter().position(|names| names[place(side)] == name).filter(|field| (1..5).contains(field))
        else {
            return;
        };
        let pair = self.pair_of(side, id);
        let old = self.records[place(side)][id].cells[name].clone();
        if old.is_some() && !self.descends(&pair, field, new, old.as_deref()) {
            self.overwritten.push((pair, FIELDS[field][0].to_owned(), old));
        }
    }

    /// The engine deletes a record: had whoever deleted its counterpart seen all that was in it?
    fn note_deletion(&mut self, side: Side, id: &str) {
        let pair = self.pair_of(side, id);
        let other = match side {
            Side::Salesforce => self.records[1].get(&pair),
            Side::External => self.records[0]
                .values()
                .filter(|record| record.cells["Ext"].as_deref() == Some(id))
                .max_by_key(|record| record.deleted),
        };
        let Some(other) = other.cloned() else { return };
        for (field, names) in FIELDS.iter().enumerate().skip(1).take(4) {
            let old = self.records[place(side)][id].cells[names[place(side)]].clone();
            let last = other.cells[names[1 - place(side)]].clone();
            if old.is_some() && !self.descends(&pair, field, last.as_deref(), old.as_deref()) {
                self.undone.push((pair.clone(), names[0].to_owned()));
            }
        }
    }
}

/// One side, as the engine sees it.
#[derive(Clone)]
pub(super) struct Memory {
    pub(super) side: Side,
    pub(super) world: Arc<Mutex<World>>,
    pub(super) crash: Arc<Notify>,
}

impl Memory {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may happen at each call, before and after it does what it is for.
    async fn point(&self) -> Result<()> {
        let crashes = {
            let mut world = self.world();
            if world.trouble.meanwhile && world.edits_left > 0 && world.dice.chance(40) {
                world.edits_left -= 1;
                world.act();
            }
            world.crash_in = world.crash_in.map(|left| left.saturating_sub(1));
            if world.crash_in == Some(0) {
                world.crash_in = None;
                world.log.push("the engine crashes".to_owned());
                true
            } else {
                if world.trouble.failures && world.edits_left > 0 && world.dice.chance(5) {
                    world.log.push(format!("{:?} answers 503", self.side));
                    return Err(Error::new(Class::Transient { after: None }, "503"));
                }
                false
            }
        };
        if crashes {
            self.crash.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn entity(&self) -> Entity {
        let mut fields: Vec<Field> = FIELDS
            .iter()
            .map(|names| names[place(self.side)])
            .filter(|name| !name.is_empty())
            .map(|name| Field { unique: name == "Ext" || name == "id", ..Field::new(name, Type::Text) })
            .collect();
        fields.push(Field { createable: false, updateable: false, ..Field::new("changed", Type::Integer) });
        let key = match self.side {
            Side::Salesforce => {
                for name in ["Id", "MasterRecordId"] {
                    fields.push(Field { createable: false, updateable: false, ..Field::new(name, Type::Text) });
                }
                "Id"
            }
            Side::External => "id",
        };
        let entity = Entity::new("t").with_key([key]).with_fields(fields);
        Entity { cursor: Some("changed".to_owned()), ..entity }
    }

    fn batch(&self, world: &World, fields: &[String], ids: &[String]) -> RecordBatch {
        let records: Vec<(&String, &Record)> =
            ids.iter().filter_map(|id| Some((id, world.records[place(self.side)].get(id)?))).collect();
        let columns = fields.iter().map(|name| {
            let column: ArrayRef = match name.as_str() {
                "changed" => Arc::new(records.iter().map(|(_, record)| Some(record.changed)).collect::<Int64Array>()),
                "MasterRecordId" => {
                    Arc::new(records.iter().map(|(_, record)| record.master.clone()).collect::<StringArray>())
                }
                "Id" => Arc::new(records.iter().map(|(id, _)| Some(id.as_str())).collect::<StringArray>()),
                name => Arc::new(records.iter().map(|(_, record)| record.cells[name].clone()).collect::<StringArray>()),
            };
            (name.clone(), column, true)
        });
        RecordBatch::try_from_iter_with_nullable(columns.collect::<Vec<_>>()).expect("columns of one length")
    }

    fn in_window(&self, world: &World, read: &Read) -> Vec<String> {
        let inside = |changed: i64| {
            read.window.as_ref().is_none_or(|window| {
                let number = |text: &str| text.parse::<i64>().unwrap_or_default();
                window.since.as_ref().is_none_or(|since| changed >= number(since) - LATE)
                    && changed <= number(&window.until)
            })
        };
        let records = world.records[place(self.side)].iter();
        records
            .filter(|(_, record)| record.deleted.is_some() == read.deleted && inside(record.changed))
            .filter(|(_, record)| read.filter.is_none() || record.master.is_some())
            .map(|(id, _)| id.clone())
            .collect()
    }
}

#[async_trait]
impl Catalog for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tells_deletes: true,
            group_by_parent: false,
            references_by_external_id: false,
            creates_entities: false,
            write_rows: 3,
            two_way: true,
            writes_at_once: 1,
            guards_by_second: false,
            only_tells: false,
        }
    }

    async fn entities(&self) -> Result<Vec<String>> {
        Ok(vec!["t".to_owned()])
    }

    async fn describe(&self, _: &str) -> Result<Entity> {
        Ok(self.entity())
    }
}

#[async_trait]
impl Source for Memory {
    async fn now(&self, _: &Entity) -> Result<Option<String>> {
        self.point().await?;
        Ok(Some(self.world().clock.to_string()))
    }

    async fn count(&self, read: &Read) -> Result<u64> {
        let world = self.world();
        Ok(self.in_window(&world, read).len() as u64)
    }

    async fn read(&self, read: Read) -> Result<Batches> {
        self.point().await?;
        let (mut ids, size) = {
            let mut world = self.world();
            (self.in_window(&world, &read), 1 + world.dice.below(4))
        };
        {
            // Some come twice, in another order.
            let mut world = self.world();
            if !ids.is_empty() && world.dice.chance(20) {
                let at = world.dice.below(ids.len());
                ids.push(ids[at].clone());
            }
        }
        let parts: Vec<Vec<String>> = ids.chunks(size).map(<[String]>::to_vec).collect();
        let this = self.clone();
        let batches = futures::stream::iter(parts).then(move |part| {
            let (this, read) = (this.clone(), read.clone());
            async move {
                this.point().await?;
                let world = this.world();
                let there: Vec<String> = part
                    .into_iter()
                    .filter(|id| {
                        let record = world.records[place(this.side)].get(id);
                        record.is_some_and(|record| record.deleted.is_some() == read.deleted)
                    })
                    .collect();
                let there: Vec<String> = there.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
                Ok(ChangeBatch::upserts(this.batch(&world, &read.fields, &there), None))
            }
        });
        Ok(batches.boxed())
    }

    async fn fetch(&self, _: &Entity, fields: &[String], key: &str, keys: &[String]) -> Result<ChangeBatch> {
        self.point().await?;
        let world = self.world();
        let ids: Vec<String> = world
            .live(self.side)
            .filter(|(id, record)| {
                let value = if key == "Id" { Some(*id) } else { record.cells[key].as_ref() };
                value.is_some_and(|value| keys.contains(value))
            })
            .map(|(id, _)| id.clone())
            .collect();
        Ok(ChangeBatch::upserts(self.batch(&world, fields, &ids), None))
    }
}

#[async_trait]
impl Sink for Memory {
    async fn write(&self, _: &Target, _: &ChangeBatch) -> Result<Vec<Outcome>> {
        Err(Error::new(Class::Internal, "two-way syncs revise"))
    }

    async fn new_keys(&self, _: &Entity, _: &str, count: usize) -> Result<Vec<String>> {
        self.point().await?;
        let mut world = self.world();
        Ok((0..count)
            .map(|_| {
                world.made += 1;
                format!("n{}", world.made)
            })
            .collect())
    }

    async fn revise(&self, target: &Target, changes: &Guarded) -> Result<Vec<Outcome>> {
        self.point().await?;
        let outcomes = {
            let mut world = self.world();
            (0..changes.revisions.len()).map(|row| self.revise_row(&mut world, target, changes, row)).collect()
        };
        // What was done may never be told.
        self.point().await?;
        Ok(outcomes)
    }
}

impl Memory {
    fn revise_row(&self, world: &mut World, target: &Target, changes: &Guarded, row: usize) -> Outcome {
        if world.trouble.failures && world.edits_left > 0 && world.dice.chance(5) {
            let error = RecordError::rejected("UNABLE_TO_LOCK_ROW", "a lock");
            return Outcome::Refused(RecordError { class: Class::Transient { after: None }, ..error });
        }
        let text = |batch: &RecordBatch, name: &str| {
            batch
                .column_by_name(name)
                .and_then(|column| text_of(column.as_ref(), row))
                .map(std::borrow::Cow::into_owned)
        };
        let id = text(&changes.records, &target.key).unwrap_or_default();
        let schema = changes.records.schema();
        let written: Vec<&str> =
            changes.written[row].iter().map(|column| schema.field(*column).name().as_str()).collect();
        world.clock += 1;
        let clock = world.clock;
        let side = place(self.side);
        let alive = world.records[side].get(&id).is_some_and(|record| record.deleted.is_none());
        let unchanged = |world: &World, names: &mut dyn Iterator<Item = &str>| {
            let record = &world.records[side][&id];
            let compared = changes.expected.schema();
            names
                .filter(|name| record.cells.contains_key(*name) && compared.index_of(name).is_ok())
                .all(|name| record.cells[name] == text(&changes.expected, name))
        };
        match changes.revisions[row] {
            Revision::Insert => {
                let key = FIELDS[0][side];
                let wanted = text(&changes.records, key);
                if world.live(self.side).any(|(_, record)| record.cells[key] == wanted) {
                    return Outcome::Moved;
                }
                let id = match self.side {
                    Side::External => id,
                    Side::Salesforce => {
                        let held = world.records[0].values().filter(|record| record.cells[key] == wanted);
                        let last = held.max_by_key(|record| record.deleted);
                        if last.is_some_and(|record| record.master.is_some()) {
                            world.revived.extend(wanted.clone());
                        }
                        world.made += 1;
                        format!("S{:05}", world.made)
                    }
                };
                let cells = FIELDS.iter().map(|names| names[side]).filter(|name| !name.is_empty());
                let cells = cells
                    .map(|name| {
                        (name.to_owned(), written.contains(&name).then(|| text(&changes.records, name)).flatten())
                    })
                    .collect();
                let record = Record { cells, changed: clock, deleted: None, master: None };
                world.log.push(format!("{clock} the engine creates {id} {:?}", record.cells));
                world.records[side].insert(id.clone(), record);
                world.writes += 1;
                Outcome::Applied { created: true, id: Some(id) }
            }
            Revision::Update => {
                if !alive || !unchanged(world, &mut written.iter().copied()) {
                    return Outcome::Moved;
                }
                for name in written {
                    let value = text(&changes.records, name);
                    world.note_overwrite(self.side, &id, name, value.as_deref());
                    if name == "Ext" && world.records[side][&id].cells["Ext"].is_none() {
                        world.aliases.entry(value.clone().unwrap_or_default()).or_default().push(id.clone());
                    }
                    world.log.push(format!("{clock} the engine sets {id} {name} to {value:?}"));
                    if let Some(record) = world.records[side].get_mut(&id) {
                        record.cells.insert(name.to_owned(), value);
                        record.changed = clock;
                    }
                }
                world.writes += 1;
                Outcome::Applied { created: false, id: None }
            }
            Revision::Delete => {
                if !alive {
                    return Outcome::Unchanged;
                }
                let schema = changes.expected.schema();
                let mut names = schema.fields().iter().map(|field| field.name().as_str());
                if !unchanged(world, &mut names) {
                    return Outcome::Moved;
                }
                world.note_deletion(self.side, &id);
                world.log.push(format!("{clock} the engine deletes {id}"));
                if let Some(record) = world.records[side].get_mut(&id) {
                    (record.deleted, record.changed) = (Some(clock), clock);
                }
                world.writes += 1;
                Outcome::Applied { created: false, id: None }
            }
        }
    }
}
