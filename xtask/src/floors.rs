//! The floors of the house: a crate imports only from floors below its own.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Every crate and the floor it stands on. A new crate gets a line here.
const FLOORS: [(&str, u8); 15] = [
    ("bridgehead-model", 0),
    ("bridgehead-http", 1),
    ("bridgehead-soql", 1),
    ("bridgehead-formula", 1),
    ("bridgehead-endpoint", 2),
    ("bridgehead-mapping", 2),
    ("bridgehead-state", 2),
    ("bridgehead-salesforce", 2),
    ("bridgehead-engine", 3),
    ("bridgehead-endpoints-data", 3),
    ("bridgehead-endpoints-apps", 3),
    ("bridgehead-sandbox", 4),
    ("bridgehead-server", 5),
    ("bridgehead", 6),
    ("bridgehead-bench", 7),
];

/// Pairs that stay strangers although the floors would allow it: they meet over bytes.
const STRANGERS: [(&str, &str); 1] = [("bridgehead-sandbox", "bridgehead-salesforce")];

/// Checks the imports of every crate of the workspace, as `cargo metadata` tells them.
///
/// # Errors
///
/// One line for each import that the floors forbid, and for each crate without a floor.
pub(crate) fn check(root: &Path) -> Result<(), String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let wrong = violations(&metadata);
    if wrong.is_empty() {
        println!("{} crates stand on their floors", FLOORS.len());
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor)
}

/// Tests may look up, so only what ships counts.
fn violations(metadata: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        if name == "xtask" {
            continue;
        }
        let Some(own) = floor(name) else {
            wrong.push(format!("{name} has no floor: add it to FLOORS in xtask/src/floors.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            if dependency["kind"] == "dev" {
                continue;
            }
            if let Some(below) = floor(other).filter(|below| *below >= own) {
                wrong.push(format!("{name} (floor {own}) imports {other} (floor {below})"));
            }
            if STRANGERS.contains(&(name, other)) {
                wrong.push(format!("{name} imports {other}: they may meet only over bytes"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_import_from_above_beside_or_a_stranger_is_named() {
        let import = |from: &str, to: &str, kind: Option<&str>| json!({"packages": [{"name": from, "dependencies": [{"name": to, "kind": kind}]}]});
        let cases = [
            ("bridgehead-engine", "bridgehead-model", None, 0),
            ("bridgehead-model", "bridgehead-engine", None, 1),
            ("bridgehead-mapping", "bridgehead-state", None, 1),
            ("bridgehead-mapping", "bridgehead-state", Some("dev"), 0),
            ("bridgehead-sandbox", "bridgehead-salesforce", None, 1),
            ("bridgehead-novelty", "serde", None, 1),
        ];
        for (from, to, kind, expected) in cases {
            assert_eq!(violations(&import(from, to, kind)).len(), expected, "{from} -> {to}");
        }
    }
}
