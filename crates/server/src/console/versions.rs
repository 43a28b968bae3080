//! Versions of the configuration, and what each changed.

use std::sync::Arc;

use axum::Extension;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use state::{Files, Role};

use super::pages::{page_of, time};
use super::{Looking, Shown, Told, may, page, token};
use crate::api::{Api, blocking, put_to_work, roll_back, undone};
use crate::problem::Problem;
use crate::versions::difference;
use crate::work::{Deploying, TakenBack};

/// Versions of a page.
const VERSIONS: u32 = 50;

pub(super) async fn versions(State(api): State<Arc<Api>>, Extension(visitor): Looking) -> Shown {
    page_of(move || {
        let versions = api.store.versions(i64::MAX, VERSIONS)?;
        let body = html! {
            h1 { "Versions" }
            p class="soft" { "What was put to work, by whom and why. " code { "bridgehead rollback" } " takes the last one back." }
            @if versions.is_empty() {
                div class="card empty" { p { "What the folder has is at work." } p { code { "bridgehead deploy --reason \u{2026}" } " checks it, keeps it as a version, and puts that to work." } }
            } @else {
                div class="wide" tabindex="0" { table {
                    thead { tr { th scope="col" { "Version" } th scope="col" { "Kept" } th scope="col" { "By" } th scope="col" { "Reason" } th scope="col" { "State" } } }
                    tbody { @for version in &versions { tr {
                        th scope="row" { a href={ "/versions/" (version.id) } { (version.id) } }
                        td { (time(&version.at)) }
                        td { (version.author) }
                        td class="free" { (version.reason) }
                        td { @if version.at_work { span class="state good" { "\u{2713} at work" } } }
                    } } }
                } }
            }
        };
        Ok(page("Versions", Some(&visitor), "/versions", true, &body))
    })
    .await
}

/// A difference in the unified format, its lines told apart by their first letter and by colour.
fn shown(text: &str) -> Markup {
    html! {
        pre class="wide diff" tabindex="0" {
            @for line in text.lines() {
                @let class = match line.as_bytes() {
                    [b'+', b'+', ..] | [b'-', b'-', ..] => Some("file"),
                    [b'+', ..] => Some("good"),
                    [b'-', ..] => Some("bad"),
                    [b'@', ..] => Some("soft"),
                    _ => None,
                };
                span class=[class] { (line) } "\n"
            }
        }
    }
}

pub(super) async fn version(State(api): State<Arc<Api>>, Extension(visitor): Looking, Path(id): Path<String>) -> Shown {
    page_of(move || {
        let number: i64 = id.parse().map_err(|_| Problem::none(format!("there is no version {id:?}")))?;
        let (version, files) =
            api.store.version(number)?.ok_or_else(|| Problem::none(format!("there is no version {id}")))?;
        let before = api.store.version(number - 1)?.map(|(_, files)| files);
        let (earlier, called) = before.map_or_else(|| (Files::new(), "nothing".to_owned()), |files| (files, format!("version {}", number - 1)));
        let changes = difference((&called, &earlier), (&format!("version {number}"), &files));
        let promotes = visitor.role >= Role::Admin && !version.at_work && api.work().is_ok();
        let body = html! {
            h1 { "Version " (version.id) }
            p { (version.reason) }
            p class="soft" { "Kept by " (version.author) " " (time(&version.at)) @if version.at_work { ". " span class="state good" { "\u{2713} at work" } } }
            @if promotes {
                form class="inline card" method="post" action={ "/versions/" (version.id) "/promote" } {
                    (token(&visitor))
                    span class="field" { label for="reason" { "Reason" } input id="reason" name="reason" required maxlength="200"; }
                    label { input type="checkbox" name="undo" value="true"; " and put back what two-way syncs wrote since the present version was" }
                    button { "Put it to work" }
                }
            }
            h2 { "What it changed" }
            @if changes.is_empty() { p { "Nothing." } } @else { (shown(&changes)) }
            h2 { "Files" }
            @for (name, text) in &files {
                details class="card" { summary { code { (name) } } pre class="wide" tabindex="0" { (text) } }
            }
        };
        Ok(page(&format!("Version {id}"), Some(&visitor), "/versions", false, &body))
    })
    .await
}

/// Why a version is put to work.
#[derive(Deserialize)]
pub(super) struct Why {
    csrf: String,
    reason: String,
    /// What was written since is put back, too.
    #[serde(default)]
    undo: bool,
}

pub(super) async fn promote(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path(id): Path<i64>,
    Form(why): Form<Why>,
) -> Result<Response, Told> {
    may(&visitor, &why.csrf, Role::Admin)?;
    let (undo, again) = (why.undo, visitor.clone());
    let done = blocking(move || {
        let by = [visitor.name.as_str(), &visitor.name, &why.reason];
        if why.undo {
            return roll_back(&api, Some(id), true, by, Deploying::Work).map(|(_, taken)| taken);
        }
        put_to_work(&api, id, by, Deploying::Work).map(|_| TakenBack::default())
    });
    let taken = done.await.map_err(Told)?;
    if !undo {
        return Ok(Redirect::to(&format!("/versions/{id}")).into_response());
    }
    let body = html! {
        h1 { "Version " (id) " is at work" }
        @if taken.undone.is_empty() && taken.left.is_empty() { p role="status" { "There was nothing to put back." } }
        @for report in &taken.undone { p role="status" { (report.sync) ": " (undone(report)) "." } }
        @for left in &taken.left { p class="bad" { "\u{2717} " (left) } }
        p { a href={ "/versions/" (id) } { "To the version" } }
    };
    Ok(Html(page(&format!("Version {id}"), Some(&again), "/versions", false, &body).into_string()).into_response())
}
