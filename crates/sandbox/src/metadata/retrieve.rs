//! Retrieving: a package of what the org is made of.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use serde_json::{Value, json};

use super::package::{self, Files, Manifest};
use super::{Component, Held, NAMESPACE, Sort, composed, held, type_named};
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::schema::Schema;
use crate::xml::Node;

/// Retrieved packages that are remembered.
const REMEMBERED: usize = 10;
/// The folder that everything stands in.
const ROOT: &str = "unpackaged/";

/// The last retrieved packages.
#[derive(Default)]
pub(crate) struct Retrievals {
    done: Mutex<VecDeque<(String, Value, Vec<u8>)>>,
}

/// Returns what is told of a component.
pub(super) fn properties(held: &Held, file: &str, name_of: &dyn Fn(&str) -> String) -> Value {
    json!({"createdById": held.created_by, "createdByName": name_of(&held.created_by), "createdDate": held.created,
           "fileName": file, "fullName": held.component.name, "id": held.id, "lastModifiedById": held.modified_by,
           "lastModifiedByName": name_of(&held.modified_by), "lastModifiedDate": held.modified,
           "manageableState": "unmanaged", "type": held.component.of.name})
}

/// What a retrieval gathers.
struct Gathered<'h> {
    all: &'h [Held],
    schema: &'h Schema,
    files: Files,
    /// Parts of objects, by the path of their file.
    objects: BTreeMap<String, Vec<&'h Component>>,
    told: Vec<(&'h Held, String)>,
    messages: Vec<String>,
    /// What was found, for the manifest.
    found: Vec<(String, Vec<String>)>,
}

impl Gathered<'_> {
    fn take(&mut self, of: &str, member: &str) {
        let Some(known) = type_named(of) else {
            self.messages.push(format!("Unknown type name '{of}' specified in package.xml"));
            return;
        };
        let every = member == "*";
        if let (Sort::Within, Some(whole)) = (known.sort, known.whole) {
            // It comes with its whole: that of its name, or the one that there is.
            let name = member.split_once('.').map_or("*", |(whole, _)| whole);
            return self.take(whole, name);
        }
        // A wildcard stands for what was made here; and not for parts, which come with their wholes.
        let wanted = |held: &&Held| {
            let one = &held.component;
            let own = known.name != "CustomObject" || one.name.contains("__");
            one.of == known && (one.name.eq_ignore_ascii_case(member) || every && own && known.sort != Sort::Part)
        };
        let mut names: Vec<String> = self.all.iter().filter(wanted).map(|held| held.component.name.clone()).collect();
        let standard = self.schema.object(member).filter(|_| known.name == "CustomObject");
        names.extend(standard.filter(|_| names.is_empty()).map(|object| object.name.clone()));
        if names.is_empty() && !every {
            self.messages.push(format!("Entity of type '{of}' named '{member}' cannot be found"));
        }
        names.sort();
        for name in &names {
            self.add(known.name, name);
        }
        match self.found.iter_mut().find(|(known, _)| known == of) {
            Some((_, members)) => members.extend(names),
            None => self.found.push((of.to_owned(), names)),
        }
    }

    fn add(&mut self, of: &'static str, name: &str) {
        let whole = of == "CustomObject";
        if whole {
            self.objects.entry(format!("objects/{name}.object")).or_default();
        }
        for held in self.all {
            let one = &held.component;
            let part = whole && one.of.whole == Some(of) && one.split().0.eq_ignore_ascii_case(name);
            if !part && !one.is(of, name) || self.told.iter().any(|(known, _)| known.id == held.id) {
                continue;
            }
            let path = if one.of.sort == Sort::Part || one.of.name == "CustomObject" {
                let path = format!("objects/{}.object", one.split().0);
                self.objects.entry(path.clone()).or_default().push(one);
                path
            } else {
                self.files.extend(one.files.iter().cloned());
                one.files.first().map(|(path, _)| path.clone()).unwrap_or_default()
            };
            self.told.push((held, path));
        }
    }
}

impl Org {
    /// Gathers a package; returns the number to ask for it.
    pub(super) fn retrieve_metadata(&self, request: &Node) -> Answered<String> {
        let all = self.read(|connection| Ok(held(connection)?))?;
        let schema = self.setup().schema.clone();
        let mut gathered = Gathered {
            all: &all,
            schema: &schema,
            files: Files::new(),
            objects: BTreeMap::new(),
            told: Vec::new(),
            messages: Vec::new(),
            found: Vec::new(),
        };
        let manifest = request.child("unpackaged").map(Manifest::of).unwrap_or_default();
        for (of, members) in &manifest.types {
            for member in members {
                gathered.take(of, member);
            }
        }
        for name in request.texts("packageNames") {
            gathered.messages.push(format!("No package named '{name}' found"));
        }
        let unreadable = |error: String| ApiError::unexpected(&error);
        let mut files = std::mem::take(&mut gathered.files);
        for (path, parts) in std::mem::take(&mut gathered.objects) {
            let xml = composed(parts.into_iter()).map_err(unreadable)?;
            files.insert(path, xml.print(NAMESPACE).into_bytes());
        }
        let version = request.text("apiVersion").unwrap_or(&manifest.version).to_owned();
        let found = Manifest { types: std::mem::take(&mut gathered.found), version };
        files.insert("package.xml".to_owned(), found.print().into_bytes());
        let files: Files = files.into_iter().map(|(path, body)| (format!("{ROOT}{path}"), body)).collect();
        let packed = package::zip(&files).map_err(unreadable)?;
        let names = self.user_names()?;
        let name_of = |id: &str| names.get(id).cloned().unwrap_or_default();
        let mut told: Vec<Value> =
            gathered.told.iter().map(|(held, path)| properties(held, &format!("{ROOT}{path}"), &name_of)).collect();
        told.push(json!({"fileName": format!("{ROOT}package.xml"), "fullName": format!("{ROOT}package.xml"), "id": "",
                         "type": "Package", "createdById": "", "createdByName": "", "createdDate": "1970-01-01T00:00:00.000Z",
                         "lastModifiedById": "", "lastModifiedByName": "", "lastModifiedDate": "1970-01-01T00:00:00.000Z"}));
        let messages: Vec<Value> = gathered
            .messages
            .iter()
            .map(|problem| json!({"fileName": format!("{ROOT}package.xml"), "problem": problem}))
            .collect();
        let mut done = self.retrievals.done.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = done.back().map_or(1, |(id, _, _)| crate::id::serial(id).unwrap_or_default() + 1);
        let id = crate::id::make("09S", serial);
        let status = json!({"done": true, "fileProperties": told, "id": id, "messages": messages, "status": "Succeeded",
                            "success": true});
        if done.len() == REMEMBERED {
            done.pop_front();
        }
        done.push_back((id.clone(), status, packed));
        Ok(id)
    }

    /// Returns what became of a retrieval, with the package if it is wanted.
    pub(super) fn retrieve_status(&self, id: &str, zip: bool) -> Answered<Value> {
        let done = self.retrievals.done.lock().unwrap_or_else(PoisonError::into_inner);
        let id = crate::id::normal(id).unwrap_or_default();
        let missing = || ApiError::new(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id");
        let (_, status, packed) = done.iter().find(|(known, _, _)| *known == id).ok_or_else(missing)?;
        let mut status = status.clone();
        if zip {
            status["zipFile"] = json!(base64::engine::general_purpose::STANDARD.encode(packed));
        }
        Ok(status)
    }

    /// Returns what users are called, by id.
    pub(super) fn user_names(&self) -> Answered<BTreeMap<String, String>> {
        self.read(|connection| {
            let mut statement =
                connection.prepare("SELECT Id, trim(coalesce(FirstName, '') || ' ' || LastName) FROM User")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Returns the components of a type as they are listed, sorted by name.
    pub(super) fn list_metadata(&self, of: &str) -> Answered<Vec<Value>> {
        let known = type_named(of).ok_or_else(|| {
            ApiError::new(
                400,
                "INVALID_TYPE",
                format!("This type of metadata is not available for this organization: {of}"),
            )
        })?;
        let names = self.user_names()?;
        let name_of = |id: &str| names.get(id).cloned().unwrap_or_default();
        let all = self.read(|connection| Ok(held(connection)?))?;
        let mut listed: Vec<Value> = all
            .iter()
            .filter(|held| held.component.of == known)
            .map(|held| {
                let path = held.component.files.first().map(|(path, _)| path.as_str()).unwrap_or_default();
                properties(held, path, &name_of)
            })
            .collect();
        if known.name == "CustomObject" {
            // Standard objects are there though nobody made them.
            for object in self.setup().schema.objects().filter(|object| !object.custom && !object.setup) {
                if !listed.iter().any(|known| known["fullName"] == json!(object.name)) {
                    listed.push(json!({"createdById": "", "createdByName": "", "createdDate": "1970-01-01T00:00:00.000Z",
                        "fileName": format!("objects/{}.object", object.name), "fullName": object.name, "id": "",
                        "lastModifiedById": "", "lastModifiedByName": "", "lastModifiedDate": "1970-01-01T00:00:00.000Z",
                        "type": "CustomObject"}));
                }
            }
        }
        listed.sort_by_key(|entry| entry["fullName"].as_str().unwrap_or_default().to_owned());
        Ok(listed)
    }

    /// Returns a component as it is read; `None` where there is none.
    pub(super) fn read_metadata(&self, of: &str, name: &str) -> Answered<Option<Node>> {
        let known = type_named(of).ok_or_else(|| ApiError::new(400, "INVALID_TYPE", format!("Unknown type: {of}")))?;
        let all = self.read(|connection| Ok(held(connection)?))?;
        let found: Vec<&Component> = all
            .iter()
            .map(|held| &held.component)
            .filter(|one| {
                let part = known.name == "CustomObject" && one.of.whole == Some(known.name);
                one.is(of, name) || part && one.split().0.eq_ignore_ascii_case(name)
            })
            .collect();
        let standard = known.name == "CustomObject" && self.setup().schema.object(name).is_some();
        let Some(first) = found.first() else {
            return Ok(standard.then(|| named("CustomObject", name, Node::default())));
        };
        let full = if known.sort == Sort::Part || known.name != "CustomObject" {
            first.name.as_str()
        } else {
            first.split().0
        };
        let xml = if known.name == "CustomObject" { composed(found.iter().copied()) } else { first.xml() };
        Ok(Some(named(known.name, full, xml.map_err(|error| ApiError::unexpected(&error))?)))
    }
}

/// Returns an element as an answer has it: of its type, its full name first.
fn named(of: &str, name: &str, mut xml: Node) -> Node {
    xml.children.retain(|child| child.tag != "fullName");
    xml.children.insert(0, Node { tag: "fullName".to_owned(), content: name.to_owned(), ..Node::default() });
    Node { tag: "records".to_owned(), kind: Some(of.to_owned()), ..xml }
}
