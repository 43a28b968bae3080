//! Reads the metadata of a Salesforce DX project: files in source format.

use std::path::{Path, PathBuf};

use crate::metadata::{Component, Sort, component, types};
use crate::xml::{Node, tree};

/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 12;

/// Why a project can't be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// A folder or file can't be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The folder is no project.
    #[error("{0} holds no sfdx-project.json")]
    NoProject(PathBuf),
    /// A file is no metadata.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Returns what the project at `folder` is made of, as far as it is told by files of XML, in the order of their paths.
pub(crate) fn load(folder: &Path) -> Result<Vec<Component>, ProjectError> {
    let file = folder.join("sfdx-project.json");
    if !file.exists() {
        return Err(ProjectError::NoProject(folder.to_owned()));
    }
    let text = read(&file)?;
    let project: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| ProjectError::Malformed { path: file.clone(), reason: error.to_string() })?;
    let mut files = Vec::new();
    for package in project["packageDirectories"].as_array().into_iter().flatten() {
        find(&folder.join(package["path"].as_str().unwrap_or_default()), 0, &mut files)?;
    }
    // An object comes before its parts, whatever their folders are called.
    let mut components = files.iter().map(|path| described(path)).collect::<Result<Vec<_>, _>>()?;
    components.retain(Option::is_some);
    let mut components: Vec<Component> = components.into_iter().flatten().collect();
    components.sort_by_key(|component| component.of.sort == Sort::Part);
    Ok(components)
}

fn read(path: &Path) -> Result<String, ProjectError> {
    std::fs::read_to_string(path).map_err(|source| ProjectError::Unreadable { path: path.to_owned(), source })
}

/// Collects the descriptions below a folder.
fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), ProjectError> {
    let unreadable = |source| ProjectError::Unreadable { path: folder.to_owned(), source };
    let mut paths = std::fs::read_dir(folder)
        .map_err(unreadable)?
        .map(|entry| Ok(entry.map_err(unreadable)?.path()))
        .collect::<Result<Vec<_>, ProjectError>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() && depth < MAX_DEPTH {
            find(&path, depth + 1, found)?;
        } else if path.to_string_lossy().ends_with("-meta.xml") {
            found.push(path);
        }
    }
    Ok(())
}

/// Reads a description; `None` for a type that is not known, or that is more than its description.
fn described(path: &Path) -> Result<Option<Component>, ProjectError> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = name(path);
    let Some((stem, suffix)) = file.strip_suffix("-meta.xml").and_then(|file| file.rsplit_once('.')) else {
        return Ok(None);
    };
    let Some(of) = types().find(|of| of.suffix == suffix && !of.suffix.is_empty()) else { return Ok(None) };
    let malformed = |reason| ProjectError::Malformed { path: path.to_owned(), reason };
    let text = read(path)?;
    let whole = match of.sort {
        Sort::Bundle | Sort::Content | Sort::Within => return Ok(None),
        Sort::Plain => None,
        // `objects/Order__c/fields/Status__c.field-meta.xml`
        Sort::Part => path.parent().and_then(Path::parent).map(name),
    };
    let xml = tree(&text).map_err(malformed)?;
    let mut found = match whole {
        None if of.name == "CustomObject" => {
            component(of, stem.to_owned(), &format!("objects/{stem}.object"), &Node { tag: of.name.to_owned(), ..xml })
        }
        None => Component {
            of,
            name: stem.to_owned(),
            files: vec![(format!("{}/{stem}.{suffix}", of.folder), text.into_bytes())],
            from: PathBuf::new(),
        },
        Some(whole) => {
            let part = xml.text("fullName").unwrap_or(stem).to_owned();
            let path = format!("objects/{whole}.object");
            component(of, format!("{whole}.{part}"), &path, &Node { tag: of.name.to_owned(), ..xml })
        }
    };
    path.clone_into(&mut found.from);
    Ok(Some(found))
}
