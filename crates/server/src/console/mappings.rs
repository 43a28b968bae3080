//! The mappings: an editor that checks as one types and shows what a mapping makes of some records, and what is kept of it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use engine::{Preview, Previewed};
use maud::{Markup, html};
use serde::Deserialize;
use state::Role;

use super::pages::{in_path, page_of};
use super::record::side_name;
use super::{Looking, Shown, Told, Visitor, may, page, token};
use crate::api::{Api, blocking};
use crate::look::Tried;
use crate::problem::{Answered, Problem};
use crate::work::Refused;

pub(super) async fn mappings(State(api): State<Arc<Api>>, Extension(visitor): Looking) -> Shown {
    page_of(move || {
        let mappings = api.work().map(|work| work.mappings()).unwrap_or_default();
        let body = html! {
            h1 { "Mappings" }
            @if mappings.is_empty() {
                div class="card empty" { p { "There are none." } p { "Each is a file in " code { "mappings/" } "; " code { "bridgehead init" } " makes a first one." } }
            } @else {
                div class="wide" tabindex="0" { table {
                    thead { tr { th scope="col" { "Mapping" } th scope="col" { "Salesforce" } th scope="col" { "Outside" } th scope="col" class="number" { "Fields" } th scope="col" { "Syncs" } } }
                    tbody { @for mapped in &mappings { tr {
                        th scope="row" { a href={ "/mappings/" (in_path(&mapped.mapping)) } { (mapped.mapping) } }
                        td { (mapped.salesforce[1]) span class="soft" { " in " (mapped.salesforce[0]) } }
                        td { (mapped.external[1]) span class="soft" { " in " (mapped.external[0]) } }
                        td class="number" { (mapped.fields.len()) }
                        td class="free" { @for sync in &mapped.syncs { a href={ "/syncs/" (in_path(sync)) } { (sync) } " " } }
                    } } }
                } }
            }
        };
        Ok(page("Mappings", Some(&visitor), "/mappings", false, &body))
    })
    .await
}

/// What the editor sends.
#[derive(Deserialize)]
pub(super) struct Edited {
    csrf: String,
    text: String,
    /// What the text was before it was edited.
    #[serde(default)]
    known: String,
    #[serde(default)]
    reason: String,
    /// True where only what came of it is wanted, not the page around it.
    #[serde(default)]
    part: bool,
}

/// What came of a text: what it would make of records, or everything that is wrong with it.
type Came = Result<Vec<Tried>, Vec<String>>;

fn lines(refused: &Refused) -> Vec<String> {
    refused.text.lines().map(str::to_owned).collect()
}

/// Where a message points in the text: the line, where it names one.
fn line_of(message: &str) -> Option<u32> {
    message.split(':').skip(1).find_map(|part| part.parse().ok())
}

/// Characters of a value that are shown.
const SHOWN: usize = 80;

/// What would be written comes first: it is what one looks at while one types.
fn records(preview: &Preview) -> Markup {
    let cell = |value: &Option<String>, begins: bool| {
        let class = if begins { "free made" } else { "free" };
        html! { @match value {
            Some(text) if text.chars().count() > SHOWN => td class=(class) {
                (text.chars().take(SHOWN).collect::<String>()) "\u{2026} " span class="soft" { "(" (text.chars().count()) " characters)" }
            },
            Some(text) => td class=(class) { (text) },
            None => td class=(class) { span class="soft" { "empty" } },
        } }
    };
    let made = preview.target.len().max(1);
    html! {
        @if preview.records.is_empty() {
            p class="soft" { "There are no records to show." }
        } @else {
            div class="wide" tabindex="0" { table {
                thead {
                    tr {
                        th scope="colgroup" colspan=(made) { "Would be written" }
                        th scope="colgroup" colspan=(preview.source.len()) class="made" { "Read from " (side_name(preview.from)) }
                    }
                    tr {
                        @if preview.target.is_empty() { td {} }
                        @for name in &preview.target { th scope="col" { (name) } }
                        @for (at, name) in preview.source.iter().enumerate() { th scope="col" class=[(at == 0).then_some("made")] { (name) } }
                    }
                }
                tbody { @for Previewed { before, after } in &preview.records { tr {
                    @match after {
                        Ok(values) => @for value in values { (cell(value, false)) },
                        Err(why) => td class="bad free" colspan=(made) { "\u{2717} " (why) },
                    }
                    @for (at, value) in before.iter().enumerate() { (cell(value, at == 0)) }
                } } }
            } }
        }
        @for line in &preview.conversions { p class="soft" { "\u{26a0} " (line) } }
    }
}

fn verdict(came: &Came) -> String {
    match came {
        Ok(_) => "\u{2713} This can work.".to_owned(),
        Err(wrong) if wrong.len() == 1 => "\u{2717} This can't work yet: one thing is wrong.".to_owned(),
        Err(wrong) => format!("\u{2717} This can't work yet: {} things are wrong.", wrong.len()),
    }
}

/// What came of a text, as a part of the page.
fn shown(came: &Came) -> Markup {
    html! {
        p role="status" class={ "state " (if came.is_ok() { "good" } else { "bad" }) } { (verdict(came)) }
        @match came {
            Ok(tried) => {
                @if tried.is_empty() { p class="soft" { "No sync uses it yet." } }
                @for Tried { sync, previews } in tried {
                    @for preview in previews { h2 { "Sync " (sync) ", from " (side_name(preview.from)) } (records(preview)) }
                }
            }
            Err(wrong) => ul class="plain" { @for message in wrong { li {
                @if let Some(line) = line_of(message) { button type="button" data-line=(line) { "Line " (line) } " " }
                (message)
            } } },
        }
    }
}

struct Editor<'e> {
    mapping: &'e str,
    text: &'e str,
    /// What is at work.
    known: &'e str,
    reason: &'e str,
}

fn editor(visitor: &Visitor, Editor { mapping, text, known, reason }: Editor<'_>, came: Option<&Came>) -> Markup {
    let address = format!("/mappings/{}", in_path(mapping));
    let body = html! {
        h1 { "Mapping " (mapping) }
        form method="post" action={ (address) "/try" } data-try={ (address) "/try" } {
            (token(visitor))
            input type="hidden" name="known" value=(known);
            label for="text" { "What is mapped onto what" }
            textarea id="text" name="text" rows=((text.lines().count() + 2).clamp(12, 32)) spellcheck="false" autocapitalize="off" readonly[visitor.role < Role::Operator] { (text) }
            @if visitor.role >= Role::Operator {
                p class="acts" { button { "Check and preview" } span class="soft" { " It is checked as you type; nothing is written." } }
            }
            div id="tried" { @if let Some(came) = came { (shown(came)) } }
            @if visitor.role >= Role::Admin {
                fieldset class="card" {
                    legend { "Keep it as a version" }
                    p class="soft" { "It is put to work from the page of versions, after somebody has looked at the difference." }
                    label for="reason" { "Reason" } " "
                    input id="reason" name="reason" maxlength="200" value=(reason);
                    " " button formaction={ (address) "/keep" } { "Keep" }
                }
            }
        }
    };
    page(&format!("Mapping {mapping}"), Some(visitor), "/mappings", false, &body)
}

fn text_of(api: &Api, mapping: &str) -> Answered<String> {
    let text = api.work().ok().and_then(|work| work.mapping_text(mapping));
    text.ok_or_else(|| Problem::none(format!("there is no mapping {mapping:?}")))
}

pub(super) async fn mapping(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path(mapping): Path<String>,
) -> Shown {
    page_of(move || {
        let text = text_of(&api, &mapping)?;
        Ok(editor(&visitor, Editor { mapping: &mapping, text: &text, known: &text, reason: "" }, None))
    })
    .await
}

pub(super) async fn try_it(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path(mapping): Path<String>,
    Form(edited): Form<Edited>,
) -> Shown {
    may(&visitor, &edited.csrf, Role::Operator)?;
    page_of(move || {
        text_of(&api, &mapping)?;
        let text = edited.text.replace("\r\n", "\n");
        let came = api.work()?.try_mapping(&mapping, &text).map_err(|refused| lines(&refused));
        if edited.part {
            return Ok(shown(&came));
        }
        let editing = Editor { mapping: &mapping, text: &text, known: &edited.known, reason: &edited.reason };
        Ok(editor(&visitor, editing, Some(&came)))
    })
    .await
}

pub(super) async fn keep(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path(mapping): Path<String>,
    Form(edited): Form<Edited>,
) -> Result<Response, Told> {
    may(&visitor, &edited.csrf, Role::Admin)?;
    let kept = blocking(move || {
        let (text, known) = (edited.text.replace("\r\n", "\n"), edited.known.replace("\r\n", "\n"));
        if text_of(&api, &mapping)? != known {
            let why = "somebody put another text of this mapping to work since you began; load the page again";
            return Err(Problem::new(StatusCode::CONFLICT, why));
        }
        let reason = edited.reason.trim();
        let kept = if reason.is_empty() {
            Err(vec!["say why, for those who read it later".to_owned()])
        } else {
            api.work()?.keep_mapping(&mapping, &text, &visitor.name, reason).map_err(|refused| lines(&refused))
        };
        Ok(kept.map_err(|wrong| {
            let editing = Editor { mapping: &mapping, text: &text, known: &known, reason };
            editor(&visitor, editing, Some(&Err(wrong)))
        }))
    });
    Ok(match kept.await.map_err(Told)? {
        Ok(version) => Redirect::to(&format!("/versions/{version}")).into_response(),
        Err(page) => (StatusCode::UNPROCESSABLE_ENTITY, Html(page.into_string())).into_response(),
    })
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn a_message_points_to_its_line() {
        assert_eq!(line_of("mappings/orders.yaml:12:5: there is no field Nam"), Some(12));
        assert_eq!(line_of("orders: the org is away"), None);
    }
}
