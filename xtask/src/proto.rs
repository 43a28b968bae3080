//! The Rust code of the Pub/Sub API, written from `proto/pubsub.proto`: the client's half and the sandbox's, apart, since
//! the two meet over bytes.

use std::fs;
use std::path::Path;

/// What is written where: for the client, then for the server.
const HALVES: [(&str, bool); 2] =
    [("crates/salesforce/src/pubsub/wire.rs", true), ("crates/sandbox/src/events/wire.rs", false)];

/// Writes the code of both halves.
pub(crate) fn write(root: &Path) -> Result<(), String> {
    for (path, client) in HALVES {
        let path = root.join(path);
        fs::write(&path, code(root, client)?).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Returns the code of a half.
fn code(root: &Path, client: bool) -> Result<String, String> {
    let described = protox::compile(["pubsub.proto"], [root.join("proto")]).map_err(|error| error.to_string())?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    tonic_prost_build::configure()
        .build_client(client)
        .build_server(!client)
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(folder.path())
        .compile_fds(described)
        .and_then(|()| fs::read_to_string(folder.path().join("eventbus.v1.rs")))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_what_the_text_says() {
        for (path, client) in HALVES {
            let written = fs::read_to_string(crate::root().join(path)).expect("the code");
            assert_eq!(written, code(&crate::root(), client).expect("the text"), "{path}: run `cargo xtask proto`");
        }
    }
}
