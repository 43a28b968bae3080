//! `bridgehead sandbox` and what looks after a running org.

use std::process::{Command, Output};

use ::sandbox::{Config, Sandbox};

use crate::bench::Failed;

fn run(arguments: &[&str]) -> Result<(i32, String), Failed> {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_bridgehead")).args(arguments).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Ok((status.code().unwrap_or(-1), said))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_org_is_filled_copied_and_made_to_misbehave() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, snapshot) = (path("org.db"), path("snapshot.db"));
    let (code, said) = run(&["sandbox", "seed", "--file", &file, "--records", "500", "--seed", "3"])?;
    assert!(code == 0 && said.contains("Made 500 records"), "{said}");
    let org = Sandbox::start(Config { file: Some(file.clone().into()), ..Config::default() }).await?;
    let url = org.url().to_owned();
    let cases: [(&[&str], i32, &str); 10] = [
        (&["snapshot", &snapshot], 0, "The org is in"),
        (&["snapshot", &snapshot], 4, "is there already"),
        (&["restore", &snapshot], 0, "The org is as it was"),
        (&["restore", &path("nope")], 4, "there is no such file"),
        (&["clock", "2027-01-01T00:00:00Z"], 0, "The org's clock says 202"),
        (&["clock", "soon"], 4, "soon is not a date and time"),
        (&["chaos"], 0, "Everything goes well."),
        (&["chaos", "lock", "--count", "2", "--object", "Account"], 0, "Rule 1 holds"),
        (&["chaos"], 0, "2 more times"),
        (&["chaos", "--clear"], 0, "Everything goes well again."),
    ];
    for (arguments, expected, part) in cases {
        let all = [&["sandbox"], arguments, &["--at", &url]].concat();
        let (code, said) = tokio::task::block_in_place(|| run(&all))?;
        assert!(code == expected && said.contains(part), "{arguments:?} ended with {code}: {said}");
    }
    org.stop().await;
    let (code, said) = run(&["sandbox", "chaos", "--at", "http://127.0.0.1:1"])?;
    assert!(code == 6 && said.contains("no answer from 127.0.0.1:1"), "{code}: {said}");
    let (code, said) = run(&["sandbox", "seed"])?;
    assert!(code == 4 && said.contains("--file"), "{code}: {said}");
    std::fs::write(path("org.yaml"), "users:\n- {username: a, profil: b}\n")?;
    let (code, said) = run(&["sandbox", "--port", "0", "--org", &path("org.yaml")])?;
    assert!(code == 4 && said.contains("line 2") && said.contains("profil"), "{code}: {said}");
    Ok(())
}
