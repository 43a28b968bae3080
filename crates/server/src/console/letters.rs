//! Dead letters as a work queue: looked at, mended, tried again, dropped; one by one or many at once.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Redirect;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Map, Value};
use state::{DeadLetter, Role, WantedLetters};

use super::pages::{PAGE, in_path, page_of, time};
use super::{Looking, Shown, Told, Visitor, may, page, token};
use crate::api::{Api, blocking, mended, replay};
use crate::problem::{Answered, Problem};

/// Dead letters that are looked at together where all are meant.
const AT_ONCE: usize = 500;

/// What a form sends: names and values, some more than once.
pub(super) type Fields = Form<Vec<(String, String)>>;

fn state(letter: &DeadLetter) -> Markup {
    html! {
        @if letter.state == "dead" { span class="state bad" { "\u{2717} dead" } } @else { span class="state wait" { "\u{2026} parked" } }
    }
}

fn rows(visitor: &Visitor, letters: &[DeadLetter]) -> Markup {
    let may = visitor.role >= Role::Operator;
    html! {
        form method="post" action="/dead-letters/chosen" {
            (token(visitor))
            div class="wide" tabindex="0" { table {
                thead { tr {
                    @if may { th scope="col" { "Choose" } }
                    th scope="col" { "Number" } th scope="col" { "Sync" } th scope="col" { "State" } th scope="col" { "Record" } th scope="col" { "Reason" } th scope="col" { "Since" }
                } }
                tbody { @for letter in letters { tr {
                    @if may { td { input type="checkbox" name="id" value=(letter.id) aria-label={ "Choose " (letter.id) }; } }
                    th scope="row" { a href={ "/dead-letters/" (letter.id) } { (letter.id) } }
                    td { a href={ "/syncs/" (in_path(&letter.sync)) } { (letter.sync) } }
                    td { (state(letter)) }
                    td class="free" { a href={ "/records?q=" (in_path(&letter.key)) } { (letter.key) } }
                    td class="free" { strong { (letter.code) } ": " (letter.message) }
                    td { (time(&letter.at)) }
                } } }
            } }
            @if may {
                p class="acts" {
                    button name="act" value="replay" { "Replay the chosen" } " "
                    button name="act" value="drop" { "Drop the chosen" }
                }
            }
        }
    }
}

/// Which dead letters are looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    sync: String,
    state: String,
    code: String,
    after: Option<i64>,
}

impl Filter {
    fn wanted(&self) -> WantedLetters<'_> {
        fn given(text: &str) -> Option<&str> {
            Some(text).filter(|text| !text.is_empty())
        }
        WantedLetters { sync: given(&self.sync), state: given(&self.state), code: given(&self.code) }
    }

    /// True where only some are looked at.
    fn narrows(&self) -> bool {
        [&self.sync, &self.state, &self.code].iter().any(|text| !text.is_empty())
    }
}

/// The form that narrows the list.
fn narrowing(filter: &Filter, syncs: &[String], codes: &[(String, u64)]) -> Markup {
    html! {
        form class="inline card" method="get" action="/dead-letters" {
            span class="field" { label for="sync" { "Sync" } select id="sync" name="sync" {
                option value="" { "any" }
                @for sync in syncs { option value=(sync) selected[*sync == filter.sync] { (sync) } }
            } }
            span class="field" { label for="state" { "State" } select id="state" name="state" {
                option value="" { "any" }
                @for state in ["dead", "parked"] { option value=(state) selected[state == filter.state] { (state) } }
            } }
            span class="field" { label for="code" { "Reason" } select id="code" name="code" {
                option value="" { "any" }
                @for (code, count) in codes { option value=(code) selected[*code == filter.code] { (code) " (" (count) ")" } }
            } }
            button { "Show" }
            @if filter.narrows() { a href="/dead-letters" { "Show all" } }
        }
    }
}

/// What can be done to all that the filter leaves, however many pages they take.
fn all_of_them(visitor: &Visitor, filter: &Filter) -> Markup {
    html! {
        form class="card acts" method="post" action="/dead-letters/all" {
            (token(visitor))
            @for (name, value) in [("sync", &filter.sync), ("state", &filter.state), ("code", &filter.code)] {
                input type="hidden" name=(name) value=(value);
            }
            span { "All that this filter leaves, on every page:" }
            button name="act" value="replay" { "Replay all of them" }
            button name="act" value="drop" { "Drop all of them" }
        }
    }
}

pub(super) async fn letters(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Query(filter): Query<Filter>,
) -> Shown {
    page_of(move || {
        let letters = api.store.dead_letters(filter.wanted(), filter.after.unwrap_or_default(), PAGE)?;
        let mut syncs: Vec<String> = api.store.letters_by_sync()?.into_keys().collect();
        syncs.sort();
        let codes = api.store.letter_codes(filter.wanted().sync)?;
        let more = letters.last().filter(|_| letters.len() == PAGE).map(|letter| letter.id);
        let query = [("sync", &filter.sync), ("state", &filter.state), ("code", &filter.code)];
        let query: String = query.iter().map(|(name, value)| format!("&{name}={}", in_path(value))).collect();
        let body = html! {
            h1 { "Dead letters" }
            p class="soft" { "Changes that could not be applied. Those that are parked are tried again by every run; the others wait for somebody who mends the record or the mapping, and replays them." }
            @if !syncs.is_empty() { (narrowing(&filter, &syncs, &codes)) }
            @if letters.is_empty() {
                div class="card empty" { p { "\u{2713} Nothing waits here." } p { "A change that a system refuses shows with its record and the reason." } }
            } @else {
                (rows(&visitor, &letters))
                @if let Some(last) = more { p { a href={ "/dead-letters?after=" (last) (query) } { "More" } } }
                @if visitor.role >= Role::Operator && filter.narrows() { (all_of_them(&visitor, &filter)) }
            }
        };
        Ok(page("Dead letters", Some(&visitor), "/dead-letters", true, &body))
    })
    .await
}

fn gone(id: &str) -> Problem {
    Problem::none(format!("dead letter {id} is gone: somebody else may have had it before you"))
}

fn found(api: &Api, id: &str) -> Answered<DeadLetter> {
    let number: i64 = id.parse().map_err(|_| Problem::none(format!("there is no dead letter {id:?}")))?;
    api.store.dead_letter(number)?.ok_or_else(|| gone(id))
}

/// Returns the fields of a record, in the order of their names.
fn fields(record: &str) -> Map<String, Value> {
    serde_json::from_str(record).unwrap_or_default()
}

/// True where a run reads the record that is kept, and not those of both sides.
fn is_read(letter: &DeadLetter) -> bool {
    letter.op == "upsert" && !fields(&letter.record).is_empty() && !letter.key.starts_with("external:")
}

fn editor(visitor: &Visitor, letter: &DeadLetter) -> Markup {
    html! {
        form method="post" action={ "/dead-letters/" (letter.id) "/edit" } {
            (token(visitor))
            input type="hidden" name="known" value=(letter.record);
            div class="wide" tabindex="0" { table {
                thead { tr { th scope="col" { "Field" } th scope="col" { "Value" } th scope="col" { "Empty" } } }
                tbody { @for (name, value) in &fields(&letter.record) { tr {
                    th scope="row" { label for={ "f-" (name) } { (name) } }
                    td class="free" { input class="whole" id={ "f-" (name) } name={ "value:" (name) } value=(value.as_str().unwrap_or_default()); }
                    td { input type="checkbox" name={ "null:" (name) } checked[value.is_null()] aria-label={ (name) " is empty" }; }
                } } }
            } }
            p class="acts" {
                button name="act" value="replay" { "Save and replay" } " "
                button name="act" value="save" { "Save" }
            }
        }
    }
}

pub(super) async fn letter(State(api): State<Arc<Api>>, Extension(visitor): Looking, Path(id): Path<String>) -> Shown {
    page_of(move || {
        let letter = found(&api, &id)?;
        let body = html! {
            h1 { "Dead letter " (letter.id) }
            p { (state(&letter)) " \u{b7} " a href={ "/syncs/" (in_path(&letter.sync)) } { (letter.sync) } " \u{b7} "
                a href={ "/runs/" (letter.run) } { "run " (letter.run) } " \u{b7} " a href={ "/records?q=" (in_path(&letter.key)) } { "record " (letter.key) } " \u{b7} " (time(&letter.at)) }
            div class="card" { p { strong { (letter.code) } ": " (letter.message) } p { a href="/runbooks/dead_letters" { "What to do" } } }
            h2 { "Record" }
            @if visitor.role >= Role::Operator && is_read(&letter) {
                p class="soft" { "Mend it here where it can't be mended in its source: what the source holds counts again as soon as it is read again." }
                (editor(&visitor, &letter))
            } @else {
                div class="wide" tabindex="0" { table { tbody { @for (name, value) in &fields(&letter.record) { tr {
                    th scope="row" { (name) }
                    td class="free" { @if let Some(text) = value.as_str() { (text) } @else { span class="soft" { "empty" } } }
                } } } } }
                @if !is_read(&letter) { p class="soft" { "A replay reads the record anew from its source: mend it there." } }
            }
            @if visitor.role >= Role::Operator {
                form class="inline acts" method="post" action="/dead-letters/chosen" {
                    (token(&visitor))
                    input type="hidden" name="id" value=(letter.id);
                    button name="act" value="replay" { "Replay as it is" }
                    button name="act" value="drop" { "Drop" }
                }
            }
        };
        Ok(page(&format!("Dead letter {id}"), Some(&visitor), "/dead-letters", false, &body))
    })
    .await
}

pub(super) fn one<'f>(form: &'f [(String, String)], name: &str) -> &'f str {
    form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).unwrap_or_default()
}

/// Returns what was chosen in a list.
pub(super) fn ids(form: &[(String, String)]) -> Answered<Vec<&str>> {
    let ids: Vec<&str> = form.iter().filter(|(name, _)| name == "id").map(|(_, id)| id.as_str()).collect();
    if ids.is_empty() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "nothing was chosen"));
    }
    Ok(ids)
}

/// Replays or drops what was chosen.
pub(super) async fn chosen(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Form(form): Fields,
) -> Result<Redirect, Told> {
    may(&visitor, one(&form, "csrf"), Role::Operator)?;
    let done = blocking(move || {
        let ids = ids(&form)?;
        match one(&form, "act") {
            "replay" => {
                let letters = ids.iter().map(|id| found(&api, id)).collect::<Answered<Vec<_>>>()?;
                replay(&api, &letters, &visitor.name)?;
                Ok(letters.first().map_or_else(|| "/".to_owned(), |letter| format!("/syncs/{}", in_path(&letter.sync))))
            }
            "drop" => {
                let store = api.store.acting_as(&visitor.name);
                for id in ids {
                    let letter = found(&api, id)?;
                    if !store.drop_dead_letter(letter.id)? {
                        return Err(gone(id));
                    }
                }
                Ok("/dead-letters".to_owned())
            }
            _ => Err(Problem::new(StatusCode::BAD_REQUEST, "say what becomes of them")),
        }
    });
    Ok(Redirect::to(&done.await.map_err(Told)?))
}

/// What is to become of all that a filter leaves.
#[derive(Deserialize)]
pub(super) struct All {
    csrf: String,
    act: String,
    #[serde(flatten)]
    filter: Filter,
}

/// Replays or drops all that a filter leaves.
pub(super) async fn all(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Form(asked): Form<All>,
) -> Result<Redirect, Told> {
    may(&visitor, &asked.csrf, Role::Operator)?;
    let done = blocking(move || {
        if !asked.filter.narrows() {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "say which: nothing was chosen"));
        }
        let store = api.store.acting_as(&visitor.name);
        let mut after = 0;
        loop {
            let part = store.dead_letters(asked.filter.wanted(), after, AT_ONCE)?;
            let Some(last) = part.last() else { break };
            after = last.id;
            match asked.act.as_str() {
                "replay" => replay(&api, &part, &visitor.name)?,
                "drop" => {
                    for letter in &part {
                        // One that somebody else had before is gone, as it should be.
                        store.drop_dead_letter(letter.id)?;
                    }
                }
                _ => return Err(Problem::new(StatusCode::BAD_REQUEST, "say what becomes of them")),
            }
        }
        Ok("/dead-letters")
    });
    Ok(Redirect::to(done.await.map_err(Told)?))
}

/// Mends the record of a dead letter, and lets a run try it again where that is asked.
pub(super) async fn edit(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path(id): Path<String>,
    Form(form): Fields,
) -> Result<Redirect, Told> {
    may(&visitor, one(&form, "csrf"), Role::Operator)?;
    let done = blocking(move || {
        let letter = found(&api, &id)?;
        let empty = |name: &str| form.iter().any(|(known, _)| known.strip_prefix("null:") == Some(name));
        let record: Map<String, Value> = form
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("value:")?, value)))
            .map(|(name, value)| (name.to_owned(), if empty(name) { Value::Null } else { value.as_str().into() }))
            .collect();
        let record = Value::Object(record).to_string();
        mended(&api, letter.id, one(&form, "known"), &record, &visitor.name)?;
        if one(&form, "act") == "replay" {
            replay(&api, std::slice::from_ref(&letter), &visitor.name)?;
            return Ok(format!("/syncs/{}", in_path(&letter.sync)));
        }
        Ok(format!("/dead-letters/{id}"))
    });
    Ok(Redirect::to(&done.await.map_err(Told)?))
}
