//! A sync checked against both catalogs, and what a run of it would do.

use std::borrow::Cow;
use std::collections::BTreeMap;

use endpoint::{Endpoint, Read, Stale, Target, Window, is_captured};
use mapping::{Definition, Direction, Parents, Plan};
use model::{Class, Entity, Field, Side};
use serde::{Deserialize, Serialize};
use state::{Checkpoint, Store};

use crate::report::Error;
use crate::sync::{Drift, Sync};
use crate::two_way::capture;

/// Rows in a batch that is read.
pub(crate) const BATCH_ROWS: usize = 8_192;

/// What a run would do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Forecast {
    /// Why it would read everything; `None` when it would read only changes.
    pub full: Option<Cow<'static, str>>,
    /// Rows that it would read.
    pub rows: u64,
    /// API calls that it would take.
    pub calls: u64,
    /// API calls that the org has left today, where it tells.
    pub calls_left: Option<u64>,
    /// Changes that wait for their parents or for locks, and would be tried again.
    pub parked: u64,
    /// Conversions that can lose something.
    pub conversions: Vec<String>,
    /// What is different about the two entities since a run last went well.
    pub drift: Vec<String>,
    /// The entity that it would create first.
    pub creates: Option<String>,
}

pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    pub(crate) source: Entity,
    pub(crate) target: Target,
    pub(crate) creates: bool,
    /// Fields of the target that are not there yet, and are to be added.
    pub(crate) adds: Vec<Field>,
}

/// Checks a sync against both catalogs; creates nothing.
pub(crate) async fn prepare(
    sync: &Sync,
    source: &dyn Endpoint,
    target: &dyn Endpoint,
    store: &Store,
    parents: Parents<'_>,
) -> Result<Prepared, Error> {
    let definition = &sync.definition;
    let (object, entity) = (&definition.salesforce.object.value, &definition.external.entity.value);
    let (from, to) = match sync.direction {
        Direction::ToExternal => (object, entity),
        Direction::ToSalesforce => (entity, object),
    };
    let mut source_entity = source.describe(from).await?;
    if let (Direction::ToSalesforce, Some(cursor)) = (sync.direction, &definition.external.cursor) {
        if source_entity.field(&cursor.value).is_none() {
            let message = format!("{} has no field {:?} to tell changes by", source_entity.name, cursor.value);
            return Err(Error::Mapping(vec![mapping::Mistake::at(cursor, message)]));
        }
        source_entity.cursor = Some(cursor.value.clone());
    }
    if sync.direction == Direction::ToSalesforce {
        source_entity.cursor = capture::cursor(sync, store)?.or(source_entity.cursor);
    }
    let (mut target_entity, creates) = match target.describe(to).await {
        Err(error)
            if definition.external.create
                && sync.direction == Direction::ToExternal
                && target.capabilities().creates_entities
                && error.class() == Class::Mapping =>
        {
            (designed(definition, &source_entity), true)
        }
        described => (described?, false),
    };
    let mut adds = Vec::new();
    if sync.drift == Drift::AddColumns && sync.direction == Direction::ToExternal && !creates {
        let wanted = designed(definition, &source_entity).fields.into_iter();
        adds = wanted.filter(|field| target_entity.field(&field.name).is_none()).collect();
        target_entity.fields.extend(adds.iter().cloned());
    }
    let plan =
        Plan::new(definition, sync.direction, &source_entity, &target_entity, parents).map_err(Error::Mapping)?;
    let target = Target { entity: target_entity, key: plan.target_key.clone(), sync: sync.name.clone() };
    Ok(Prepared { plan, source: source_entity, target, creates, adds })
}

/// Designs the entity that a mapping with `create` wants, after the Salesforce fields.
fn designed(definition: &Definition, object: &Entity) -> Entity {
    let key = &definition.external.key.value;
    let like = |name: &str, field: Option<&Field>| {
        let kind = field.map_or(model::Type::Text, |field| field.kind);
        Field::new(name, kind)
    };
    let mut fields =
        vec![Field { unique: true, ..like(key, object.field(&definition.salesforce.key.value)).required() }];
    for pair in &definition.fields {
        if let Some(external) = pair.external.as_ref().filter(|external| external.value != *key) {
            let field = pair.salesforce.as_ref().and_then(|name| object.field(&name.value));
            fields.push(like(&external.value, field));
        }
    }
    Entity::new(&definition.external.entity.value).with_key([key.as_str()]).with_fields(fields)
}

pub(crate) fn read(prepared: &Prepared, sync: &Sync, window: Option<Window>) -> Read {
    let filter = match sync.direction {
        Direction::ToExternal => &sync.definition.salesforce.filter,
        Direction::ToSalesforce => &sync.definition.external.filter,
    };
    Read {
        entity: prepared.source.clone(),
        fields: prepared.plan.source_fields.clone(),
        filter: filter.clone(),
        window,
        from: None,
        deleted: false,
        batch_rows: BATCH_ROWS,
    }
}

/// Why a window is not enough where fields change by themselves.
pub(crate) const OUTDATED: &str = "it has fields that change as time goes on, which are read once a day";

/// True when everything is to be read again for fields that change as time goes on: it was last read on another day.
pub(crate) fn is_outdated(stale: &Stale, refreshed: Option<&str>, until: &str) -> bool {
    let day = |time: &str| time.get(..10).map(str::to_owned);
    !stale.timely.is_empty() && refreshed.and_then(day) != day(until)
}

/// Why a window is not enough where what captures has lost some of it.
pub(crate) const FORGOTTEN: &str = "what changed is not known any more";

/// Says why the next window has to be everything, if it has to.
pub(crate) fn why_full(checkpoint: &Checkpoint, mapping: u64, until: Option<&String>) -> Option<&'static str> {
    match checkpoint.since.as_deref() {
        None => Some("it has not run to its end yet"),
        Some(_) if until.is_none() => Some("nothing tells what changed: name a `cursor` in the mapping"),
        Some("") => Some("last time nothing told what changed"),
        Some(_) if checkpoint.mapping != mapping => Some("the mapping is another than last time"),
        Some(_) => None,
    }
}

/// True when a mapping has not been run before: then its run notes what the other side's rules are.
pub(crate) fn is_new(checkpoint: &Checkpoint, mapping: u64) -> bool {
    checkpoint.since.is_none() || checkpoint.mapping != mapping
}

/// Returns the rules by which a side refuses records: asked for where the mapping is new, and else as they are known.
pub(crate) async fn rules_of(
    sync: &Sync,
    side: Side,
    end: &dyn Endpoint,
    entity: &Entity,
    store: &Store,
    checkpoint: &Checkpoint,
) -> Result<Option<BTreeMap<String, String>>, Error> {
    if is_new(checkpoint, sync.definition.digest) {
        return Ok(end.rules(entity).await?);
    }
    Ok(store.catalog(&sync.name, side)?.and_then(|known| known.rules))
}

/// Returns how a side differs from what it was when a run last went well.
pub(crate) fn drift_of(sync: &Sync, side: Side, now: &Entity, store: &Store) -> Result<Vec<String>, Error> {
    Ok(store.catalog(&sync.name, side)?.map(|before| before.drift(now)).unwrap_or_default())
}

/// Returns how an entity differs from what it was when a run of a sync last went well; nothing where none did yet. The system is
/// asked for the rules of its entity where it told them then.
///
/// # Errors
///
/// An endpoint or a store that can't be read.
pub async fn drift(
    sync: &Sync,
    side: Side,
    end: &dyn Endpoint,
    entity: &Entity,
    store: &Store,
) -> Result<Vec<String>, Error> {
    let known = store.catalog(&sync.name, side)?;
    let mut now = entity.clone();
    if known.as_ref().is_some_and(|known| known.rules.is_some()) {
        now.rules = end.rules(entity).await?;
    }
    Ok(known.map(|known| known.drift(&now)).unwrap_or_default())
}

/// Returns how both sides of a sync that goes one way differ from what they were.
pub(crate) fn drift_between(sync: &Sync, prepared: &Prepared, store: &Store) -> Result<Vec<String>, Error> {
    let mut drift = drift_of(sync, sync.direction.source(), &prepared.source, store)?;
    drift.extend(drift_of(sync, sync.direction.target(), &prepared.target.entity, store)?);
    Ok(drift)
}

/// Checks a sync against both catalogs; returns the conversions that can lose something.
///
/// # Errors
///
/// Everything that is wrong with its mapping, or that keeps the catalogs from being read.
pub async fn check(
    sync: &Sync,
    source: &dyn Endpoint,
    target: &dyn Endpoint,
    store: &Store,
    parents: Parents<'_>,
) -> Result<Vec<String>, Error> {
    Ok(prepare(sync, source, target, store, parents).await?.plan.conversions)
}

/// Returns what a run would do; writes nothing.
///
/// # Errors
///
/// Whatever would keep the run from starting.
pub async fn forecast(
    sync: &Sync,
    source: &dyn Endpoint,
    target: &dyn Endpoint,
    store: &Store,
    parents: Parents<'_>,
) -> Result<Forecast, Error> {
    let calls = || source.calls() + target.calls();
    let before = calls();
    let mut prepared = prepare(sync, source, target, store, parents).await?;
    let checkpoint = store.checkpoint(&sync.name)?;
    // Before the first run nothing captures yet.
    let fresh = checkpoint.since.is_none() && is_captured(&prepared.source);
    let until = if fresh { None } else { source.now(&prepared.source).await? };
    let mut full = match &checkpoint.open {
        // What waits is told once.
        _ if source.capabilities().only_tells => None,
        Some(open) if open.full => Some("it goes on with a run that was to read everything"),
        _ => why_full(&checkpoint, sync.definition.digest, until.as_ref()),
    };
    let mut window = match (full, until) {
        (None, Some(until)) => Some(Window { since: checkpoint.since.clone(), until }),
        _ => None,
    };
    if is_captured(&prepared.source) && !source.holds(&read(&prepared, sync, window.clone())).await? {
        (full, window) = (Some(FORGOTTEN), None);
    }
    if let Some(Window { until, .. }) = &window {
        let stale = source.stale(&read(&prepared, sync, window.clone())).await?;
        if is_outdated(&stale, checkpoint.refreshed.as_deref(), until) {
            (full, window) = (Some(OUTDATED), None);
        }
    }
    let asked = calls();
    let rows = source.count(&read(&prepared, sync, window)).await?;
    // The same questions as a run's, which counts once more at the end.
    let questions = calls() - before + calls() - asked;
    let spent = target.calls();
    prepared.target.entity.rules = target.rules(&prepared.target.entity).await?;
    let again = if is_new(&checkpoint, sync.definition.digest) { target.calls() - spent } else { 0 };
    let drift = drift_between(sync, &prepared, store)?;
    Ok(Forecast {
        full: full.map(Cow::Borrowed),
        rows,
        calls: questions + source.forecast_read_calls(rows) + target.forecast_calls(rows) + again,
        calls_left: source.allowance().or(target.allowance()),
        parked: store.count_dead_letters(Some(&sync.name))?.1,
        conversions: prepared.plan.conversions,
        drift,
        creates: prepared.creates.then(|| prepared.target.entity.name.clone()),
    })
}
