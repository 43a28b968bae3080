//! What the org is made of: pieces of metadata, from projects or deployed, kept beside the records.

mod deploy;
mod objects;
mod package;
mod permissions;
mod retrieve;
mod soap;
pub(crate) mod tooling;

use std::path::PathBuf;
use std::sync::LazyLock;

use rusqlite::{Connection, params};

pub(crate) use self::deploy::Deploys;
pub(crate) use self::objects::{Built, build, channel_member, channel_members};
pub(crate) use self::permissions::permissions;
pub(crate) use self::retrieve::Retrievals;
pub(crate) use self::soap::answer;
use crate::id;
use crate::xml::{Node, tree};

/// The namespace of metadata. Source: Metadata API Developer Guide.
const NAMESPACE: &str = "http://soap.sforce.com/2006/04/metadata";

/// A type of metadata.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Type {
    pub(crate) name: &'static str,
    /// Its folder in a package.
    pub(crate) folder: &'static str,
    /// The ending of its files, without the dot; empty for bundles.
    pub(crate) suffix: &'static str,
    /// First characters of ids.
    prefix: &'static str,
    pub(crate) sort: Sort,
    /// Of a part, the type that it is a part of.
    pub(crate) whole: Option<&'static str>,
}

/// What a component of a type is in a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// A file of XML.
    Plain,
    /// A file of any content, with one of XML beside it.
    Content,
    /// A folder.
    Bundle,
    /// An element of another component's file; `folder` is its name there.
    Part,
    /// An element that is kept with its whole.
    Within,
}

/// All types, parts behind what they are parts of.
static TYPES: LazyLock<Vec<Type>> = LazyLock::new(|| {
    let mut types: Vec<Type> = Vec::new();
    let mut whole = "";
    for line in include_str!("../../data/metadata.txt").lines() {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] | ["#", ..] => {}
            ["-", name, element, prefix] => {
                let suffix = element.strip_suffix("es").filter(|stem| stem.ends_with('x') || stem.ends_with("ss"));
                let suffix = suffix.or_else(|| element.strip_suffix('s')).unwrap_or(element);
                let whole = Some(whole);
                types.push(Type { name, folder: element, suffix, prefix, sort: Sort::Part, whole });
            }
            ["+", name] => {
                types.push(Type { name, folder: "", suffix: "", prefix: "", sort: Sort::Within, whole: Some(whole) });
            }
            [name, folder, suffix, prefix, rest @ ..] => {
                whole = name;
                let sort = match rest {
                    ["content"] => Sort::Content,
                    ["bundle"] => Sort::Bundle,
                    _ => Sort::Plain,
                };
                let suffix = if *suffix == "-" { "" } else { suffix };
                types.push(Type { name, folder, suffix, prefix, sort, whole: None });
            }
            _ => unreachable!("a line of the data file names a type"),
        }
    }
    types
});

/// Returns all types, parts behind what they are parts of.
pub(crate) fn types() -> impl Iterator<Item = &'static Type> {
    TYPES.iter()
}

/// Returns the type of this name.
pub(crate) fn type_named(name: &str) -> Option<&'static Type> {
    TYPES.iter().find(|known| known.name == name)
}

/// A piece of metadata.
#[derive(Debug, Clone)]
pub(crate) struct Component {
    pub(crate) of: &'static Type,
    /// Its full name, such as `Order__c.Status__c`.
    pub(crate) name: String,
    /// Its files, by their path in a package. Of an object and its parts, what is theirs of the object's file.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Where it was read from, for messages.
    pub(crate) from: PathBuf,
}

/// What is wrong with a component.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) of: &'static str,
    pub(crate) name: String,
    pub(crate) message: String,
}

impl Component {
    /// True for the component of this type and name.
    pub(crate) fn is(&self, of: &str, name: &str) -> bool {
        self.of.name == of && self.name.eq_ignore_ascii_case(name)
    }

    /// Returns its XML.
    ///
    /// # Errors
    ///
    /// Why it is none, in words.
    pub(crate) fn xml(&self) -> Result<Node, String> {
        // Beside any other content stands what describes it.
        let alone = matches!(self.of.sort, Sort::Plain | Sort::Part);
        let described = self.files.iter().find(|(path, _)| alone || path.ends_with("-meta.xml"));
        let (_, body) = described.ok_or("it has no description")?;
        tree(std::str::from_utf8(body).map_err(|error| error.to_string())?)
    }

    /// Returns the name of its whole, and its own there.
    fn split(&self) -> (&str, &str) {
        if self.of.whole.is_none() {
            return (&self.name, "");
        }
        self.name.split_once('.').unwrap_or((&self.name, ""))
    }

    fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { of: self.of.name, name: self.name.clone(), message: message.into() }
    }
}

/// A component as the org holds it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) component: Component,
    pub(crate) id: String,
    /// Of an object, the first characters of its records' ids.
    pub(crate) prefix: Option<String>,
    pub(crate) created: String,
    pub(crate) created_by: String,
    pub(crate) modified: String,
    pub(crate) modified_by: String,
}

/// Makes the tables of metadata, if they are not there.
pub(crate) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS _metadata (serial INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL,
             name TEXT NOT NULL COLLATE NOCASE, prefix TEXT, project INTEGER NOT NULL, created TEXT NOT NULL,
             created_by TEXT NOT NULL, modified TEXT NOT NULL, modified_by TEXT NOT NULL, UNIQUE (type, name));
         CREATE TABLE IF NOT EXISTS _metadata_file (component INTEGER NOT NULL, path TEXT NOT NULL, body BLOB NOT NULL,
             PRIMARY KEY (component, path)) WITHOUT ROWID",
    )
}

/// Returns everything that the org holds, in the order in which it came.
pub(crate) fn held(connection: &Connection) -> rusqlite::Result<Vec<Held>> {
    let mut statement = connection.prepare(
        "SELECT serial, type, name, prefix, created, created_by, modified, modified_by FROM _metadata ORDER BY serial",
    )?;
    let mut files = connection.prepare("SELECT path, body FROM _metadata_file WHERE component=? ORDER BY path")?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let serial: i64 = row.get(0)?;
        // A type of a later version is left alone.
        let Some(of) = type_named(&row.get::<_, String>(1)?) else { continue };
        let found = files.query_map([serial], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let component =
            Component { of, name: row.get(2)?, files: found.collect::<rusqlite::Result<_>>()?, from: PathBuf::new() };
        all.push(Held {
            component,
            id: id::make(of.prefix, serial.cast_unsigned()),
            prefix: row.get(3)?,
            created: row.get(4)?,
            created_by: row.get(5)?,
            modified: row.get(6)?,
            modified_by: row.get(7)?,
        });
    }
    Ok(all)
}

/// Keeps a component, in the place of what was known by its name; `project` for one that a project brings at every start.
pub(crate) fn keep(
    connection: &Connection,
    component: &Component,
    project: bool,
    (now, user): (&str, &str),
) -> rusqlite::Result<()> {
    connection.prepare_cached(
        "INSERT INTO _metadata (type, name, project, created, created_by, modified, modified_by) VALUES (?1,?2,?3,?4,?5,?4,?5)
         ON CONFLICT (type, name) DO UPDATE SET project=?3, modified=?4, modified_by=?5",
    )?
    .execute(params![component.of.name, component.name, project, now, user])?;
    let find = "SELECT serial FROM _metadata WHERE type=? AND name=?";
    let serial: i64 =
        connection.prepare_cached(find)?.query_row([component.of.name, &component.name], |row| row.get(0))?;
    connection.prepare_cached("DELETE FROM _metadata_file WHERE component=?")?.execute([serial])?;
    let mut file = connection.prepare_cached("INSERT INTO _metadata_file (component, path, body) VALUES (?,?,?)")?;
    for (path, body) in &component.files {
        file.execute(params![serial, path, body])?;
    }
    Ok(())
}

/// Forgets a component.
pub(crate) fn forget(connection: &Connection, of: &str, name: &str) -> rusqlite::Result<()> {
    connection.execute(
        "DELETE FROM _metadata_file WHERE component IN (SELECT serial FROM _metadata WHERE type=? AND name=?)",
        [of, name],
    )?;
    connection.execute("DELETE FROM _metadata WHERE type=? AND name=?", [of, name])?;
    Ok(())
}

/// Keeps what projects hold, and forgets what they held at an earlier start and hold no more.
pub(crate) fn keep_projects(connection: &Connection, components: &[Component], now: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE _metadata SET project=2 WHERE project=1", [])?;
    for component in components {
        keep(connection, component, true, (now, ""))?;
    }
    let mut gone = connection.prepare("SELECT type, name FROM _metadata WHERE project=2")?;
    let gone: Vec<(String, String)> =
        gone.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    gone.iter().try_for_each(|(of, name)| forget(connection, of, name))
}

/// Returns the file of an object: what is its own, and its parts by type and name.
fn composed<'c>(components: impl Iterator<Item = &'c Component>) -> Result<Node, String> {
    let mut whole = Node { tag: "CustomObject".to_owned(), ..Node::default() };
    let mut sorted: Vec<&Component> = components.collect();
    sorted.sort_by_key(|one| (one.of.sort == Sort::Part, one.of.folder, one.name.clone()));
    for one in sorted {
        let xml = one.xml()?;
        match one.of.sort {
            Sort::Part => whole.children.push(Node { tag: one.of.folder.to_owned(), ..xml }),
            _ => whole.children.extend(xml.children),
        }
    }
    Ok(whole)
}

/// Reads the file of an object into itself and its parts.
pub(crate) fn parts_of(name: &str, path: &str, file: Node) -> Result<Vec<Component>, String> {
    let is_part = |node: &Node| TYPES.iter().find(|of| of.whole == Some("CustomObject") && of.folder == node.tag);
    let mut own = Node { tag: "CustomObject".to_owned(), ..Node::default() };
    let mut components = Vec::new();
    for child in file.children {
        let Some(of) = is_part(&child) else {
            own.children.push(child);
            continue;
        };
        let part =
            child.text("fullName").ok_or_else(|| format!("an element {} has no fullName", child.tag))?.to_owned();
        components.push(component(of, format!("{name}.{part}"), path, &Node { tag: of.name.to_owned(), ..child }));
    }
    if !own.children.is_empty() {
        let of = type_named("CustomObject").ok_or("there are no objects")?;
        components.insert(0, component(of, name.to_owned(), path, &own));
    }
    Ok(components)
}

/// Returns a component of one element.
pub(crate) fn component(of: &'static Type, name: String, path: &str, xml: &Node) -> Component {
    let body = xml.print(NAMESPACE).into_bytes();
    Component { of, name, files: vec![(path.to_owned(), body)], from: PathBuf::new() }
}
