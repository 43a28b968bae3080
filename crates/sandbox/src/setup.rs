//! What follows from the metadata and the definition: the schema, who sees all of it, what is published, what happens when
//! records are saved. It is replaced as a whole when metadata is deployed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use chrono::Utc;
use rusqlite::{Connection, OptionalExtension as _};

use crate::automation::{self, Ready};
use crate::caller::Caller;
use crate::definition::Permissions;
use crate::events::{Channel, Member};
use crate::metadata::{self, Built, Held, tooling};
use crate::org::{Config, Org, StartError};
use crate::project::{self, ProjectError};
use crate::quick::{self, QuickAction};
use crate::schema::Schema;
use crate::store;
use crate::value::stamp;

/// All of it.
pub(crate) struct Setup {
    pub(crate) schema: Arc<Schema>,
    /// The administrator, who sees everything.
    pub(crate) system: Arc<Caller>,
    /// The same with the objects of the Tooling API.
    pub(crate) tooling: Arc<Schema>,
    /// Objects whose changes are published; `*` for all.
    pub(crate) selected: Vec<String>,
    /// Channels of one's own.
    pub(crate) channels: Vec<Arc<Channel>>,
    /// What happens when records are saved.
    pub(crate) automation: Vec<Ready>,
    /// What profiles and permission sets give, by name; the definition's come before those that were deployed.
    pub(crate) permissions: BTreeMap<String, Permissions>,
    pub(crate) quick_actions: Vec<QuickAction>,
}

impl Setup {
    /// Returns what follows from a schema and the metadata that it was made of.
    ///
    /// # Errors
    ///
    /// What of the definition or the metadata does not go with it.
    pub(crate) fn new(config: &Config, system: &Caller, schema: Schema, held: &[Held]) -> Result<Self, StartError> {
        let definition = &config.definition;
        let mut schema = schema;
        for (name, model) in &definition.sharing {
            let unknown = || StartError::Sharing { name: name.clone() };
            schema.object_mut(name).ok_or_else(unknown)?.sharing = *model;
        }
        let automation = definition.automation.iter().map(|rule| {
            let wrong = |reason| StartError::Automation { name: rule.name.clone(), reason };
            automation::read(&schema, rule).map_err(wrong)
        });
        let automation = automation.collect::<Result<_, _>>()?;
        let mut members = metadata::channel_members(held, &schema)
            .map_err(|(member, reason)| StartError::Channel { name: member.name, reason })?;
        for channel in &definition.platform_event_channels {
            for member in &channel.members {
                let (event, filter) = (member.event.as_str(), member.filter.as_deref());
                let made = metadata::channel_member(&schema, event, member.enriched_fields.clone(), filter);
                let wrong = |reason| StartError::Channel { name: channel.name.clone(), reason };
                members.push((channel.name.clone(), made.map_err(wrong)?));
            }
        }
        // What any channel carries is published.
        let mut selected = definition.change_data_capture.clone();
        selected.extend(members.iter().filter_map(|(_, member)| match member.event.strip_suffix("__ChangeEvent") {
            Some(stem) => Some(format!("{stem}__c")),
            None => member.event.strip_suffix("ChangeEvent").map(str::to_owned),
        }));
        let mut channels: BTreeMap<String, Vec<Member>> = BTreeMap::new();
        for (channel, member) in members.into_iter().filter(|(channel, _)| channel.ends_with("__chn")) {
            channels.entry(channel).or_default().push(member);
        }
        let channels = channels.into_iter().map(|(name, members)| Arc::new(Channel { name, members })).collect();
        let quick_actions = quick::quick_actions(&schema, held);
        let tooling = Arc::new(tooling::schema(&schema));
        let schema = Arc::new(schema);
        let system = Arc::new(Caller { schema: schema.clone(), all: schema.clone(), ..system.clone() });
        let mut permissions: BTreeMap<String, Permissions> =
            metadata::permissions(held).into_iter().map(|(_, name, given)| (name, given)).collect();
        let own = definition.profiles.iter().chain(&definition.permission_sets);
        permissions.extend(own.map(|(name, given)| (name.clone(), given.clone())));
        Ok(Self { schema, system, tooling, selected, channels, automation, permissions, quick_actions })
    }
}

/// Takes what the projects hold into the org, and returns what all its metadata makes.
///
/// # Errors
///
/// Naming the file that can't be read or does not go with the rest.
pub(crate) fn load(connection: &Connection, config: &Config) -> Result<(Built, Vec<Held>), StartError> {
    let mut components = Vec::new();
    for folder in &config.projects {
        components.extend(project::load(folder)?);
    }
    metadata::migrate(connection)?;
    metadata::keep_projects(connection, &components, &stamp(Utc::now()))?;
    let held = metadata::held(connection)?;
    let built = metadata::build(&held, config.definition.organization.person_accounts);
    let file = |of: &str, name: &str| {
        let known = components.iter().find(|known| known.is(of, name));
        known.map_or_else(|| Path::new(name).to_owned(), |known| known.from.clone())
    };
    if let Some(problem) = built.wrong.first() {
        let reason = problem.message.clone();
        return Err(ProjectError::Malformed { path: file(problem.of, &problem.name), reason }.into());
    }
    if let Err((member, reason)) = metadata::channel_members(&held, &built.schema) {
        return Err(ProjectError::Malformed { path: file(member.of.name, &member.name), reason }.into());
    }
    Ok((built, held))
}

/// Gives the org's tables the form of its schema.
pub(crate) fn shape(connection: &Connection, built: &mut Built, held: &[Held]) -> rusqlite::Result<()> {
    for (name, prefix) in &built.prefixes {
        let sql = "UPDATE _metadata SET prefix=? WHERE type='CustomObject' AND name=?";
        connection.execute(sql, [prefix, name])?;
    }
    let tooling = tooling::schema(&built.schema);
    store::migrate(connection, &tooling)?;
    tooling::fill(connection, &tooling, held)?;
    for (object, name, _) in metadata::permissions(held) {
        let prefix = tooling.object(object).map_or("000", |object| object.prefix.as_str());
        let label = [("Label", name.clone())];
        let rest = if object == "PermissionSet" { &label[..] } else { &[] };
        ensure_row(connection, (object, prefix), &[("Name", name)], rest)?;
    }
    record_types(connection, &mut built.schema)
}

impl Org {
    /// Returns what follows from the metadata as it is now.
    pub(crate) fn setup(&self) -> Arc<Setup> {
        self.setup.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns all objects and fields.
    pub(crate) fn schema(&self) -> Arc<Schema> {
        self.setup().schema.clone()
    }

    /// Returns the administrator.
    pub(crate) fn system(&self) -> Arc<Caller> {
        self.setup().system.clone()
    }

    /// Lets another schema hold from now on, for those who are signed in, too.
    ///
    /// # Errors
    ///
    /// What of the definition or the metadata does not go with it; then all is as before.
    pub(crate) fn set_up(&self, system: &Caller, schema: Schema, held: &[Held]) -> Result<(), StartError> {
        let setup = Arc::new(Setup::new(&self.config, system, schema, held)?);
        *self.setup.write().unwrap_or_else(PoisonError::into_inner) = setup;
        self.renew_callers();
        Ok(())
    }

    /// Checks that the definition and the channels go with a schema.
    ///
    /// # Errors
    ///
    /// What does not, in words.
    pub(crate) fn would_fit(&self, schema: &Schema, held: &[Held]) -> Result<(), String> {
        let fits = Setup::new(&self.config, &self.system(), schema.clone(), held);
        fits.map(drop).map_err(|error| error.to_string())
    }
}

/// Gives the record types of the objects their records and ids.
fn record_types(connection: &Connection, schema: &mut Schema) -> rusqlite::Result<()> {
    let names: Vec<String> = schema.objects().map(|object| object.name.clone()).collect();
    for name in names {
        let Some(object) = schema.object_mut(&name) else { continue };
        for kind in &mut object.record_types {
            let key = [("DeveloperName", kind.developer_name.clone()), ("SobjectType", name.clone())];
            let rest = [("Name", kind.label.clone()), ("IsActive", i32::from(kind.active).to_string())];
            kind.id = ensure_row(connection, ("RecordType", "012"), &key, &rest)?;
        }
    }
    Ok(())
}

/// Makes a record of the org's own, unless there is one with the key; returns its id.
fn ensure_row(
    connection: &Connection,
    (table, prefix): (&str, &str),
    key: &[(&str, String)],
    rest: &[(&str, String)],
) -> rusqlite::Result<String> {
    let table = store::quoted(table);
    let is: Vec<String> = key.iter().map(|(name, _)| format!("{}=?", store::quoted(name))).collect();
    let find = format!("SELECT \"Id\" FROM {table} WHERE {}", is.join(" AND "));
    let values = rusqlite::params_from_iter(key.iter().map(|(_, value)| value));
    let known = connection.query_row(&find, values, |row| row.get(0)).optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    let next = format!("SELECT COALESCE(MAX(_rid),0)+1 FROM {table}");
    let serial: i64 = connection.query_row(&next, [], |row| row.get(0))?;
    let (id, now) = (crate::id::make(prefix, serial.cast_unsigned()), stamp(Utc::now()));
    let given: Vec<&(&str, String)> = key.iter().chain(rest).collect();
    let names: Vec<String> = given.iter().map(|(name, _)| store::quoted(name)).collect();
    let marks = vec!["?"; names.len()].join(",");
    let sql = format!(
        "INSERT INTO {table} ({},_rid,\"Id\",\"CreatedDate\",\"LastModifiedDate\",\"SystemModstamp\") VALUES ({marks},{serial},'{id}','{now}','{now}','{now}')",
        names.join(",")
    );
    connection.execute(&sql, rusqlite::params_from_iter(given.iter().map(|(_, value)| value)))?;
    Ok(id)
}
