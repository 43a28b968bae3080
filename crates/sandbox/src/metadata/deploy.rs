//! Deploying: a package becomes part of the org, or nothing of it does.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::package::{self, Files, known_type};
use super::{Built, Component, Held, Sort, build, forget, held, keep};
use crate::caller::Caller;
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::schema::Schema;
use crate::setup;
use crate::store::quoted;
use crate::value::stamp;
use crate::xml::Node;

/// Deployments that are remembered.
const REMEMBERED: usize = 100;
/// Packages of them that are kept, since they were checked and may be deployed.
const CHECKED: usize = 5;

/// How a package is deployed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(super) check_only: bool,
    pub(super) rollback: bool,
    pub(super) ignore_warnings: bool,
    pub(super) allow_missing: bool,
}

/// The last deployments.
#[derive(Default)]
pub(crate) struct Deploys {
    done: Mutex<VecDeque<Deployed>>,
    /// How many there were.
    made: std::sync::atomic::AtomicU64,
    /// One deploys at a time.
    turn: Mutex<()>,
}

#[derive(Clone)]
struct Deployed {
    id: String,
    status: Value,
    details: Value,
    /// The package of a check that went well, which may be deployed later without another.
    checked: Option<(Files, Options)>,
}

/// What is to become of a component.
#[derive(Clone)]
struct Change {
    component: Component,
    /// The file that names it, as it stands in the package.
    file: String,
    removed: bool,
}

/// What became of a component.
struct Outcome {
    change: Change,
    problem: Option<String>,
    warning: Option<String>,
    /// True where it was not there before.
    created: bool,
    /// True where it is not as it was before.
    changed: bool,
}

impl Change {
    fn refused(self, problem: String) -> Outcome {
        Outcome { change: self, problem: Some(problem), warning: None, created: false, changed: false }
    }
}

/// Reads the org's own form of a truth.
fn truth(node: &Node, name: &str) -> bool {
    node.text(name) == Some("true")
}

impl Options {
    /// Reads the options of a call.
    pub(super) fn of(node: Option<&Node>) -> Self {
        let set = |name: &str| node.is_some_and(|node| truth(node, name));
        Self {
            check_only: set("checkOnly"),
            rollback: set("rollbackOnError"),
            ignore_warnings: set("ignoreWarnings"),
            allow_missing: set("allowMissingFiles"),
        }
    }

    /// Reads the options of a call of REST.
    pub(super) fn of_json(value: &Value) -> Self {
        let set = |name: &str| value[name] == json!(true);
        Self {
            check_only: set("checkOnly"),
            rollback: set("rollbackOnError"),
            ignore_warnings: set("ignoreWarnings"),
            allow_missing: set("allowMissingFiles"),
        }
    }
}

impl Org {
    /// Deploys a package; returns the number to ask for what became of it.
    pub(super) fn deploy(&self, caller: &Caller, packed: &[u8], options: &Options) -> Answered<String> {
        let started = self.now();
        match package::unzip(packed) {
            Ok(files) => self.deploy_files(caller, files, options),
            Err(message) => Ok(self.remember(caller, options, started, Err(message), None)),
        }
    }

    fn deploy_files(&self, caller: &Caller, files: Files, options: &Options) -> Answered<String> {
        let _turn = self.deploys.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let started = self.now();
        let outcomes = match package::read(files.clone()) {
            Ok(package) => Ok(self.deploy_package(caller, package, options)?),
            Err(message) => Err(message),
        };
        Ok(self.remember(caller, options, started, outcomes, Some(files)))
    }

    /// Deploys a body as a package, and one in which it is the file of an object; tells which went well.
    pub(crate) fn deploys_package(&self, body: &[u8]) -> [bool; 2] {
        let manifest = "<Package><types><members>*</members><name>CustomObject</name></types></Package>";
        let files = [("package.xml", manifest.as_bytes()), ("objects/Fuzz__c.object", body)];
        let files: Files = files.into_iter().map(|(path, body)| (path.to_owned(), body.to_vec())).collect();
        let packed = package::zip(&files).unwrap_or_default();
        [body, &packed].map(|body| {
            let options = Options { check_only: true, ..Options::default() };
            let done = self.deploy(&self.system(), body, &options).and_then(|id| self.deploy_status(&id, true));
            done.is_ok_and(|status| status["success"] == json!(true))
        })
    }

    /// Deploys what was checked before, without another check of the package.
    pub(super) fn deploy_checked(&self, caller: &Caller, id: &str) -> Answered<String> {
        let known = self.deployed(id)?;
        let Some((files, options)) = known.checked else {
            let message = format!("{id} is no validation that succeeded");
            return Err(ApiError::new(400, "INVALID_ID_FIELD", message));
        };
        self.deploy_files(caller, files, &Options { check_only: false, rollback: true, ..options })
    }

    fn deployed(&self, id: &str) -> Answered<Deployed> {
        let done = self.deploys.done.lock().unwrap_or_else(PoisonError::into_inner);
        let id = crate::id::normal(id).unwrap_or_default();
        let missing = || ApiError::new(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id");
        done.iter().find(|known| known.id == id).cloned().ok_or_else(missing)
    }

    /// Returns what became of a deployment.
    pub(super) fn deploy_status(&self, id: &str, details: bool) -> Answered<Value> {
        let mut known = self.deployed(id)?;
        if details {
            known.status["details"] = known.details;
        }
        Ok(known.status)
    }

    fn remember(
        &self,
        caller: &Caller,
        options: &Options,
        started: chrono::DateTime<chrono::Utc>,
        outcomes: Result<Vec<Outcome>, String>,
        files: Option<Files>,
    ) -> String {
        let moment = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let (stamped, now) = (moment(started), moment(self.now()));
        let all = self.read(|connection| Ok(held(connection)?)).unwrap_or_default();
        let creator = self.user_names().unwrap_or_default().remove(&caller.user_id);
        let entry = |outcome: &Outcome| {
            let (change, good) = (&outcome.change, outcome.problem.is_none());
            let one = &change.component;
            let mut entry = json!({"changed": good && outcome.changed, "componentType": one.of.name,
                "created": good && outcome.created, "createdDate": now, "deleted": good && change.removed,
                "fileName": change.file, "fullName": one.name, "success": good});
            if let Some(known) = all.iter().find(|known| good && known.component.is(one.of.name, &one.name)) {
                entry["id"] = json!(known.id);
            }
            let told = outcome.problem.as_ref().map(|text| ("Error", text));
            if let Some((kind, text)) = told.or(outcome.warning.as_ref().map(|text| ("Warning", text))) {
                entry["problem"] = json!(text);
                entry["problemType"] = json!(kind);
                if let Some((line, column)) = place(text) {
                    entry["lineNumber"] = json!(line);
                    entry["columnNumber"] = json!(column);
                }
            }
            entry
        };
        let of_package = |good: bool| {
            json!({"changed": good, "componentType": "", "created": false, "createdDate": now,
            "deleted": false, "fileName": "package.xml", "fullName": "package.xml", "success": good})
        };
        let (mut successes, mut failures, mut total) = (Vec::new(), Vec::new(), 1);
        match &outcomes {
            Ok(outcomes) => {
                total = outcomes.len();
                let (bad, good): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.problem.is_some());
                failures.extend(bad.into_iter().map(entry));
                successes.extend(good.into_iter().map(entry));
                successes.push(of_package(true));
            }
            Err(message) => {
                let mut entry = of_package(false);
                entry["problem"] = json!(message);
                entry["problemType"] = json!("Error");
                failures.push(entry);
            }
        }
        let success = failures.is_empty();
        let partial = !success && !options.rollback && !options.check_only && successes.len() > 1;
        let deployed = if success || partial { total - failures.len() } else { 0 };
        let status = match (success, partial) {
            (true, _) => "Succeeded",
            (false, true) => "SucceededPartial",
            (false, false) => "Failed",
        };
        let mut done = self.deploys.done.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = self.deploys.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = crate::id::make("0Af", serial + 1);
        let status = json!({
            "checkOnly": options.check_only, "completedDate": now, "createdBy": caller.user_id, "createdByName": creator,
            "createdDate": stamped, "done": true, "id": id, "ignoreWarnings": options.ignore_warnings,
            "lastModifiedDate": now, "numberComponentErrors": failures.len(), "numberComponentsDeployed": deployed,
            "numberComponentsTotal": total, "numberTestErrors": 0, "numberTestsCompleted": 0, "numberTestsTotal": 0,
            "rollbackOnError": options.rollback, "runTestsEnabled": false, "startDate": stamped, "status": status,
            "success": success || partial});
        let details = json!({"componentFailures": failures, "componentSuccesses": successes,
                             "runTestResult": {"numFailures": 0, "numTestsRun": 0, "totalTime": 0.0}});
        let checked = files.filter(|_| success && options.check_only).map(|files| (files, options.clone()));
        if done.len() == REMEMBERED {
            done.pop_front();
        }
        for old in done.iter_mut().rev().filter(|known| known.checked.is_some()).skip(CHECKED - 1) {
            old.checked = None;
        }
        done.push_back(Deployed { id: id.clone(), status, details, checked });
        id
    }

    fn deploy_package(&self, caller: &Caller, package: package::Package, options: &Options) -> Answered<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        let mut changes = Vec::new();
        let refused = |component: Component, file: String, problem: String| {
            Change { component, file, removed: false }.refused(problem)
        };
        let nameless = |of: &str, name: &str| {
            let of = super::type_named(of).or_else(|| super::type_named("CustomObject"))?;
            Some(Component { of, name: name.to_owned(), files: Vec::new(), from: std::path::PathBuf::new() })
        };
        let (root, manifest) = (package.root, package.manifest);
        for (path, problem) in package.wrong {
            if let Some(component) = nameless(problem.of, &problem.name) {
                outcomes.push(refused(component, format!("{root}{path}"), problem.message));
            }
        }
        let at = |path: &str| format!("{root}{path}");
        for component in package.components {
            let file = at(component.files.first().map_or("", |(path, _)| path));
            if manifest.names(&component) {
                changes.push(Change { component, file, removed: false });
            } else if component.of.sort != Sort::Part && component.of.name != "CustomObject" {
                outcomes.push(refused(component, file, "Not in package.xml".to_owned()));
            }
        }
        // What is named and not there.
        for (of, members) in &manifest.types {
            let known = known_type(of);
            for member in members.iter().filter(|member| *member != "*") {
                let there = changes.iter().any(|change| {
                    change.component.is(of, member)
                        || change.component.of.whole == Some(of)
                            && change.component.split().0.eq_ignore_ascii_case(member)
                }) || outcomes.iter().any(|outcome| outcome.change.component.is(of, member));
                let problem = match &known {
                    Err(message) => message.clone(),
                    Ok(known) if there || options.allow_missing || known.sort == Sort::Within => continue,
                    Ok(_) => format!(
                        "An object '{member}' of type {of} was named in package.xml, but was not found in zipped directory"
                    ),
                };
                outcomes.extend(nameless(of, member).map(|component| refused(component, at("package.xml"), problem)));
            }
        }
        let held_now = self.read(|connection| Ok(held(connection)?))?;
        for (path, manifest) in package.removed {
            for (of, members) in &manifest.types {
                for member in members {
                    let Some(component) = nameless(of, member) else { continue };
                    let known = held_now.iter().any(|held| held.component.is(of, member));
                    let change = Change { component, file: at(&path), removed: true };
                    if let Err(problem) = known_type(of) {
                        outcomes.push(change.refused(problem));
                    } else if known {
                        changes.push(change);
                    } else {
                        let warning = Some(format!("No {of} named: {member} found"));
                        outcomes.push(Outcome { change, problem: None, warning, created: false, changed: false });
                    }
                }
            }
        }
        let whole = options.rollback || options.check_only;
        let dry = options.check_only || whole && outcomes.iter().any(|outcome| outcome.problem.is_some());
        outcomes.extend(self.apply(caller, changes, whole, dry)?);
        Ok(outcomes)
    }

    /// Changes the org: all of it, or what goes well; or tells only what would go well.
    fn apply(&self, caller: &Caller, mut changes: Vec<Change>, whole: bool, dry: bool) -> Answered<Vec<Outcome>> {
        let before = self.read(|connection| Ok(held(connection)?))?;
        let mut outcomes = Vec::new();
        loop {
            let after = changed(&before, &changes);
            let built = build(&after, self.config.definition.organization.person_accounts);
            let told = told(&changes, &before, &after, &built, self);
            let (bad, good): (Vec<_>, Vec<_>) =
                changes.into_iter().zip(told).partition(|(_, (problem, _))| problem.is_some());
            let nothing_bad = bad.is_empty();
            let outcome = |(change, (problem, warning)): (Change, (Option<String>, Option<String>))| {
                let one = &change.component;
                let known = before.iter().find(|held| held.component.is(one.of.name, &one.name));
                let now = after.iter().find(|held| held.component.is(one.of.name, &one.name));
                let files = |held: Option<&Held>| held.map(|held| held.component.files.clone());
                let (created, changed) = (known.is_none() && !change.removed, files(known) != files(now));
                Outcome { change, problem, warning, created, changed }
            };
            outcomes.extend(bad.into_iter().map(outcome));
            if nothing_bad || whole {
                if nothing_bad && !dry {
                    self.take_over(caller, &before, &after, built, good.iter().map(|(change, _)| change))?;
                }
                outcomes.extend(good.into_iter().map(outcome));
                return Ok(outcomes);
            }
            changes = good.into_iter().map(|(change, _)| change).collect();
        }
    }

    /// Lets the org be what its metadata says now.
    fn take_over<'c>(
        &self,
        caller: &Caller,
        before: &[Held],
        after: &[Held],
        mut built: Built,
        changes: impl Iterator<Item = &'c Change>,
    ) -> Answered<()> {
        let now = stamp(self.now());
        let old = self.schema();
        self.with_writer(|connection| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let stored = (|| -> rusqlite::Result<()> {
                for change in changes {
                    let one = &change.component;
                    if change.removed {
                        for part in before.iter().filter(|held| goes_with(&held.component, one)) {
                            forget(connection, part.component.of.name, &part.component.name)?;
                        }
                    } else if let Some(held) = after.iter().find(|held| held.component.is(one.of.name, &one.name)) {
                        keep(connection, &held.component, false, (&now, &caller.user_id))?;
                    }
                }
                drop_what_is_gone(connection, &old, &built.schema)?;
                setup::shape(connection, &mut built, &held(connection)?)
            })();
            connection.execute_batch(if stored.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
            Ok(stored?)
        })?;
        let unfit = |error: crate::org::StartError| ApiError::unexpected(&error.to_string());
        self.set_up(&self.system(), built.schema, after).map_err(unfit)
    }

    /// Creates or changes components one by one.
    pub(super) fn save_metadata(
        &self,
        caller: &Caller,
        components: Vec<Component>,
        create: Option<bool>,
    ) -> Answered<Value> {
        let _turn = self.deploys.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = components.first() else { return Ok(Value::Null) };
        let name = first.name.clone();
        let of = first.of.name;
        let known = self.read(|connection| Ok(held(connection)?))?.iter().any(|held| held.component.is(of, &name));
        let wrong = match (create, known) {
            (Some(true), true) => Some(("DUPLICATE_DEVELOPER_NAME", format!("There is already a {of} named {name}."))),
            (Some(false), false) => Some(("INVALID_CROSS_REFERENCE_KEY", format!("no {of} named {name} found"))),
            _ => None,
        };
        if let Some((code, message)) = wrong {
            return Ok(saved(&name, Some((code, message)), None));
        }
        let changes = components.into_iter().map(|component| Change { component, file: String::new(), removed: false });
        let outcomes = self.apply(caller, changes.collect(), true, false)?;
        let problem = outcomes.into_iter().find_map(|outcome| outcome.problem);
        let created = create.is_none().then_some(!known);
        Ok(saved(&name, problem.map(|problem| ("FIELD_INTEGRITY_EXCEPTION", problem)), created))
    }

    /// Deletes a component.
    pub(super) fn delete_metadata(&self, caller: &Caller, component: Component) -> Answered<Value> {
        let _turn = self.deploys.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, name) = (component.of.name, component.name.clone());
        let known = self.read(|connection| Ok(held(connection)?))?.iter().any(|held| held.component.is(of, &name));
        if !known {
            let message = format!("no {of} named {name} found");
            return Ok(saved(&name, Some(("INVALID_CROSS_REFERENCE_KEY", message)), None));
        }
        let outcomes =
            self.apply(caller, vec![Change { component, file: String::new(), removed: true }], true, false)?;
        let problem = outcomes.into_iter().find_map(|outcome| outcome.problem);
        Ok(saved(&name, problem.map(|problem| ("DEPENDENCY_EXISTS", problem)), None))
    }
}

/// Returns the answer to one component of a call.
fn saved(name: &str, wrong: Option<(&str, String)>, created: Option<bool>) -> Value {
    let mut saved = json!({"fullName": name, "success": wrong.is_none()});
    if let Some((code, message)) = wrong {
        saved["errors"] = json!([{"message": message, "statusCode": code}]);
    }
    if let Some(created) = created {
        saved["created"] = json!(created);
    }
    saved
}

/// Returns the line and column that a message names.
fn place(message: &str) -> Option<(usize, usize)> {
    let (line, rest) = message.split_once("line ")?.1.split_once(", column ")?;
    let column = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

/// True where removing `whole` removes this component.
fn goes_with(one: &Component, whole: &Component) -> bool {
    one.is(whole.of.name, &whole.name)
        || one.of.whole == Some(whole.of.name) && one.split().0.eq_ignore_ascii_case(&whole.name)
}

/// Returns what the org would hold.
fn changed(before: &[Held], changes: &[Change]) -> Vec<Held> {
    let mut after = before.to_vec();
    for change in changes.iter().filter(|change| change.removed) {
        after.retain(|held| !goes_with(&held.component, &change.component));
    }
    for change in changes.iter().filter(|change| !change.removed) {
        let one = &change.component;
        match after.iter_mut().find(|held| held.component.is(one.of.name, &one.name)) {
            Some(held) => held.component.files = merged(&held.component, one),
            None => after.push(Held {
                component: one.clone(),
                id: String::new(),
                prefix: None,
                created: String::new(),
                created_by: String::new(),
                modified: String::new(),
                modified_by: String::new(),
            }),
        }
    }
    after
}

/// Returns the files of a component that was there before: what an object's file does not tell stays as it is.
fn merged(known: &Component, new: &Component) -> Vec<(String, Vec<u8>)> {
    if new.of.name != "CustomObject" {
        return new.files.clone();
    }
    let (Ok(mut whole), Ok(told)) = (known.xml(), new.xml()) else { return new.files.clone() };
    whole.children.retain(|child| told.child(&child.tag).is_none());
    whole.children.extend(told.children);
    whole.children.sort_by(|left, right| left.tag.cmp(&right.tag));
    let path = new.files.first().map(|(path, _)| path.as_str()).unwrap_or_default();
    super::component(new.of, new.name.clone(), path, &whole).files
}

/// Returns for each change what is wrong with it, and what it lacks here.
fn told(
    changes: &[Change],
    before: &[Held],
    after: &[Held],
    built: &Built,
    org: &Org,
) -> Vec<(Option<String>, Option<String>)> {
    let known: Vec<String> = build(before, org.config.definition.organization.person_accounts)
        .notes
        .into_iter()
        .map(|note| note.text)
        .collect();
    let mut loose: Vec<String> = Vec::new();
    let named = |of: &str, name: &str| changes.iter().any(|change| !change.removed && change.component.is(of, name));
    for note in built.notes.iter().filter(|note| note.refused && !known.contains(&note.text)) {
        if !named(note.problem.of, &note.problem.name) {
            loose.push(format!("{}: {}", note.problem.name, note.problem.message));
        }
    }
    for problem in built.wrong.iter().filter(|problem| !named(problem.of, &problem.name)) {
        loose.push(format!("{}: {}", problem.name, problem.message));
    }
    for object in built.schema.objects() {
        for field in object.fields.iter().filter(|field| field.custom) {
            let lost = field.targets.iter().find(|target| built.schema.object(target).is_none());
            let name = format!("{}.{}", object.name, field.name);
            if lost.is_some() && !named("CustomField", &name) && changes.iter().any(|change| change.removed) {
                loose.push(format!("Custom Field - {name}"));
            }
        }
    }
    loose.extend(org.would_fit(&built.schema, after).err());
    let mut told: Vec<_> = changes
        .iter()
        .map(|change| {
            let one = &change.component;
            if change.removed {
                return (None, None);
            }
            let wrong = built.wrong.iter().find(|problem| one.is(problem.of, &problem.name));
            let wrong = wrong.map(|problem| problem.message.clone());
            let note = built.notes.iter().find(|note| one.is(note.problem.of, &note.problem.name));
            let refused = note.filter(|note| note.refused).map(|note| note.problem.message.clone());
            let lacks = note.filter(|note| !note.refused).map(|note| note.problem.message.clone());
            let new = !before.iter().any(|held| held.component.is(one.of.name, &one.name));
            (wrong.or(refused).or_else(|| checked(one, new, &built.schema).err()), lacks)
        })
        .collect();
    if !loose.is_empty() && told.iter().all(|(problem, _)| problem.is_none()) {
        let text = "is referenced elsewhere in salesforce.com. Remove the usage and try again.";
        let blamed = changes.iter().position(|change| change.removed).unwrap_or(0);
        if let Some((problem, _)) = told.get_mut(blamed) {
            let what = if changes[blamed].component.of.name == "CustomObject" { "object" } else { "field" };
            *problem = Some(if changes[blamed].removed {
                format!("This custom {what} {text} : {}", loose.join(", "))
            } else {
                loose.join(", ")
            });
        }
    }
    told
}

/// Checks what the platform asks of a component and a project's own files are trusted with.
fn checked(one: &Component, new: bool, schema: &Schema) -> Result<(), String> {
    let xml = one.xml().map_err(|error| format!("Error parsing file: {error}"))?;
    let needs = |tag: &str| {
        xml.child(tag).map(|_| ()).ok_or_else(|| format!("Must specify a non-empty {tag} for the {}", one.of.name))
    };
    if xml.tag != one.of.name {
        return Err(format!("Error parsing file: the element is {}, and not {}", xml.tag, one.of.name));
    }
    match one.of.name {
        "CustomObject" if new && one.name.ends_with("__c") => {
            needs("label")?;
            needs("pluralLabel")?;
            xml.child("nameField").map(|_| ()).ok_or("Must specify a nameField of type Text or AutoNumber")?;
        }
        "CustomField" => {
            let (object, name) = one.split();
            let object =
                schema.object(object).ok_or_else(|| format!("Entity Enumeration Or ID: bad value: {object}"))?;
            let Some(field) = object.field(name) else { return Ok(()) };
            let kind = xml.text("type").unwrap_or_default();
            if let Some(target) = field.targets.iter().find(|target| schema.object(target).is_none()) {
                return Err(format!("referenceTo value of '{target}' does not resolve to a valid sObject type"));
            }
            if matches!(kind, "Text" | "LongTextArea" | "Html")
                && xml.child("formula").is_none()
                && xml.child("length").is_none()
            {
                return Err(format!("Must specify 'length' for a CustomField of type {kind}"));
            }
            if matches!(kind, "Number" | "Currency" | "Percent")
                && xml.child("precision").is_none()
                && xml.child("formula").is_none()
            {
                return Err(format!("Must specify 'precision' for a CustomField of type {kind}"));
            }
        }
        "ValidationRule" => {
            needs("errorConditionFormula")?;
            needs("errorMessage")?;
        }
        _ => {}
    }
    Ok(())
}

/// Removes the tables and columns of what is no more, so that it does not come back with what a later one has its name.
fn drop_what_is_gone(connection: &rusqlite::Connection, old: &Schema, new: &Schema) -> rusqlite::Result<()> {
    for object in old.objects() {
        let Some(kept) = new.object(&object.name) else {
            connection.execute_batch(&format!("DROP TABLE IF EXISTS {}", quoted(&object.name)))?;
            continue;
        };
        for field in object.stored() {
            if kept.stored().any(|known| known.name.eq_ignore_ascii_case(&field.name)) {
                continue;
            }
            connection.execute_batch(&format!(
                "DROP INDEX IF EXISTS {}; ALTER TABLE {} DROP COLUMN {}",
                quoted(&format!("{}.{}", object.name, field.name)),
                quoted(&object.name),
                quoted(&field.name)
            ))?;
        }
    }
    Ok(())
}
