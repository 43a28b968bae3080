//! Packages: zip files with a manifest.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _, Write as _};
use std::path::PathBuf;

use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

use super::{Component, Problem, Sort, Type, parts_of, type_named, types};
use crate::xml::tree;

/// Most files of a package. Source: Metadata API Developer Guide, limits.
const MAX_FILES: usize = 10_000;
/// Most bytes of a package as it is sent. Source: the same.
const MAX_PACKED: usize = 39 << 20;
/// Most bytes of a package that is unpacked. Source: the same.
const MAX_UNPACKED: u64 = 400 << 20;

/// Files by their path.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Unpacks a package. What it says of its sizes is not believed.
///
/// # Errors
///
/// Why it can't be unpacked, in words.
pub(crate) fn unzip(bytes: &[u8]) -> Result<Files, String> {
    if bytes.len() > MAX_PACKED {
        return Err("Maximum size of request reached. Maximum size of request is 52428800 bytes".to_owned());
    }
    let invalid = |error: zip::result::ZipError| format!("Invalid zip file: {error}");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(invalid)?;
    if archive.len() > MAX_FILES {
        return Err(format!("Too many files in zip file: more than {MAX_FILES}"));
    }
    let (mut files, mut left) = (Files::new(), MAX_UNPACKED);
    for at in 0..archive.len() {
        let entry = archive.by_index(at).map_err(invalid)?;
        if entry.is_dir() {
            continue;
        }
        let name = entry.name().map_err(invalid)?.replace('\\', "/");
        let mut body = Vec::new();
        entry.take(left + 1).read_to_end(&mut body).map_err(|error| format!("Invalid zip file: {name}: {error}"))?;
        left = left
            .checked_sub(body.len() as u64)
            .ok_or_else(|| format!("The unpacked files take more than {MAX_UNPACKED} bytes"))?;
        files.insert(name, body);
    }
    Ok(files)
}

/// Packs files.
pub(super) fn zip(files: &Files) -> Result<Vec<u8>, String> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, body) in files {
        writer.start_file(path.as_str(), SimpleFileOptions::default()).map_err(|error| error.to_string())?;
        writer.write_all(body).map_err(|error| error.to_string())?;
    }
    Ok(writer.finish().map_err(|error| error.to_string())?.into_inner())
}

/// What a manifest names: types with their members.
#[derive(Debug, Clone, Default)]
pub(super) struct Manifest {
    pub(super) types: Vec<(String, Vec<String>)>,
    pub(super) version: String,
}

impl Manifest {
    /// Reads a manifest, or the part of a request that is one.
    pub(super) fn of(xml: &crate::xml::Node) -> Self {
        let types = xml.children.iter().filter(|node| node.tag == "types").map(|node| {
            let members = node.texts("members").map(str::to_owned).collect();
            (node.text("name").unwrap_or_default().to_owned(), members)
        });
        Self { types: types.collect(), version: xml.text("version").unwrap_or("66.0").to_owned() }
    }

    /// True where it names the component, or the object that it is a part of.
    pub(super) fn names(&self, component: &Component) -> bool {
        let listed = |of: &str, name: &str| {
            let mut members = self.types.iter().filter(|(known, _)| known == of).flat_map(|(_, members)| members);
            members.any(|member| member == "*" || member.eq_ignore_ascii_case(name))
        };
        listed(component.of.name, &component.name)
            || component.of.whole.is_some_and(|whole| listed(whole, component.split().0))
    }

    /// Writes it.
    pub(super) fn print(&self) -> String {
        use crate::xml::Node;
        let leaf =
            |tag: &str, content: &str| Node { tag: tag.to_owned(), content: content.to_owned(), ..Node::default() };
        let mut package = Node { tag: "Package".to_owned(), ..Node::default() };
        for (name, members) in &self.types {
            let mut children: Vec<Node> = members.iter().map(|member| leaf("members", member)).collect();
            children.push(leaf("name", name));
            package.children.push(Node { tag: "types".to_owned(), children, ..Node::default() });
        }
        package.children.push(leaf("version", &self.version));
        package.print(super::NAMESPACE)
    }
}

/// A package as it was sent.
pub(super) struct Package {
    /// What stands before every path: empty, or a folder with its slash.
    pub(super) root: String,
    pub(super) manifest: Manifest,
    pub(super) components: Vec<Component>,
    /// What is removed before the rest comes, and after it.
    pub(super) removed: Vec<(String, Manifest)>,
    pub(super) wrong: Vec<(String, Problem)>,
}

/// Reads the files of a package.
///
/// # Errors
///
/// For what is no package, in the platform's words.
pub(super) fn read(files: Files) -> Result<Package, String> {
    let at_root = |path: &&String| {
        path.as_str() == "package.xml" || path.split_once('/').is_some_and(|(_, rest)| rest == "package.xml")
    };
    let manifest = files.keys().find(at_root).ok_or("No package.xml found")?.clone();
    let root = manifest.strip_suffix("package.xml").unwrap_or_default().to_owned();
    let text = |path: &str| -> Result<Option<crate::xml::Node>, String> {
        let Some(body) = files.get(&format!("{root}{path}")) else { return Ok(None) };
        let text = std::str::from_utf8(body).map_err(|error| error.to_string());
        text.and_then(tree).map(Some).map_err(|error| format!("Error parsing file: {path}: {error}"))
    };
    let manifest = Manifest::of(&text("package.xml")?.ok_or("No package.xml found")?);
    let mut removed = Vec::new();
    for path in ["destructiveChangesPre.xml", "destructiveChanges.xml", "destructiveChangesPost.xml"] {
        removed.extend(text(path)?.map(|xml| (path.to_owned(), Manifest::of(&xml))));
    }
    let mut package = Package { root, manifest, components: Vec::new(), removed, wrong: Vec::new() };
    for (path, body) in files {
        if let Some(inner) = path.strip_prefix(&package.root).map(str::to_owned) {
            package.take(inner, body);
        }
    }
    Ok(package)
}

impl Package {
    /// Takes a file, by its path below the root.
    fn take(&mut self, path: String, body: Vec<u8>) {
        let Some((folder, file)) = path.split_once('/') else { return };
        let Some(of) = types().find(|of| of.whole.is_none() && of.folder == folder) else { return };
        let Some(name) = named(of, file) else { return };
        if of.name == "CustomObject" {
            let parsed = std::str::from_utf8(&body).map_err(|error| error.to_string()).and_then(tree);
            match parsed.and_then(|xml| parts_of(&name, &path, xml)) {
                Ok(parts) => self.components.extend(parts),
                Err(error) => {
                    let message = format!("Error parsing file: {error}");
                    self.wrong.push((path.clone(), Problem { of: of.name, name, message }));
                }
            }
            return;
        }
        match self.components.iter_mut().find(|known| known.is(of.name, &name)) {
            Some(known) => known.files.push((path, body)),
            None => self.components.push(Component { of, name, files: vec![(path, body)], from: PathBuf::new() }),
        }
    }
}

/// Returns the name of the component that a file in the folder of a type belongs to; `None` for one that belongs to none.
fn named(of: &Type, file: &str) -> Option<String> {
    let name = match of.sort {
        Sort::Bundle => file.split_once('/')?.0,
        Sort::Content => file.strip_suffix("-meta.xml").unwrap_or(file).strip_suffix(of.suffix)?.strip_suffix('.')?,
        Sort::Plain | Sort::Part | Sort::Within => file.strip_suffix(of.suffix)?.strip_suffix('.')?,
    };
    Some(name.to_owned())
}

/// Returns the type that a manifest names.
pub(super) fn known_type(name: &str) -> Result<&'static Type, String> {
    type_named(name).ok_or_else(|| format!("Unknown type name '{name}' specified in package.xml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_comes_back_as_it_was() {
        let files: Files =
            [("package.xml".to_owned(), b"<Package/>".to_vec()), ("tabs/A.tab".to_owned(), vec![7; 100_000])].into();
        let packed = zip(&files).expect("packed");
        assert!(packed.len() < 2_000, "{}", packed.len());
        assert_eq!(unzip(&packed), Ok(files));
    }

    #[test]
    fn what_is_no_package_is_refused() {
        assert!(unzip(b"PK nonsense").is_err());
        assert!(unzip(&[]).is_err());
        assert!(read(Files::new()).is_err_and(|error| error == "No package.xml found"));
    }
}
