use super::*;

#[test]
fn a_commit_is_there_after_reopening_and_a_second_run_is_sent_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deep/state.db");
    let store = Store::open(&path).expect("a new file");
    let lock = store.lock("s").expect("free");
    assert!(matches!(Store::open(&path).expect("again").lock("s"), Err(Error::Busy { .. })));
    drop(lock);
    let run = store.begin_run("s", Utc::now()).expect("a run");
    let link = Link { source: "a".into(), target: "1".into(), base: vec![1; 8] };
    let checkpoint = Checkpoint { since: Some("x".into()), open: None };
    let commit = Commit { links: vec![link.clone()], checkpoint: Some(checkpoint.clone()), ..Commit::default() };
    store.commit("s", "m", run, &commit).expect("a commit");
    drop(store);
    let store = Store::open(&path).expect("the same file");
    assert_eq!(store.checkpoint("s").expect("a checkpoint"), checkpoint);
    assert_eq!(store.links("m", &["a", "b"]).expect("links").get("a"), Some(&link));
    assert_eq!(store.unseen("m", run + 1).expect("counts"), (1, 1));
    drop(store);
    Connection::open(&path).expect("the file").pragma_update(None, "user_version", 99).expect("a newer format");
    assert!(matches!(Store::open(&path), Err(Error::Newer { found: 99, .. })));
}
