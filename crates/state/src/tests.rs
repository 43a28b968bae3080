use super::*;

#[test]
fn a_commit_is_there_after_reopening_and_a_second_run_is_sent_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deep/state.db");
    let store = Store::open(&path).expect("a new file");
    let lock = store.lock("s").expect("free");
    assert!(matches!(Store::open(&path).expect("again").lock("s"), Err(Error::Busy { .. })));
    drop(lock);
    let run = store.begin_run("s", Utc::now(), &serde_json::json!({})).expect("a run");
    let owner = Owner { sync: "s", mapping: "m", source: Side::Salesforce, run };
    let link = Link { salesforce: "a".into(), external: "1".into(), side: Side::External, base: vec![1; 8], row: 1 };
    let checkpoint = Checkpoint { since: Some("x".into()), mapping: 7, ..Checkpoint::default() };
    let commit = Commit { links: vec![link.clone()], checkpoint: Some(checkpoint.clone()), ..Commit::default() };
    store.commit(owner, &commit).expect("a commit");
    drop(store);
    let store = Store::open(&path).expect("the same file");
    assert_eq!(store.checkpoint("s").expect("a checkpoint"), checkpoint);
    assert_eq!(store.links("m", Side::Salesforce, &["a", "b"]).expect("links").get("a"), Some(&link));
    assert_eq!(store.links("m", Side::External, &["1"]).expect("links").get("1"), Some(&link));
    assert_eq!(store.unseen(Owner { run: run + 1, ..owner }).expect("counts"), (1, 1));
    // The external record is tied to another Salesforce record: the old tie gives way.
    let newer = Link { salesforce: "b".into(), row: 2, ..link };
    store.commit(owner, &Commit { links: vec![newer.clone()], ..Commit::default() }).expect("a commit");
    assert_eq!(store.links("m", Side::External, &["1"]).expect("links").get("1"), Some(&newer));
    assert!(store.links("m", Side::Salesforce, &["a"]).expect("links").is_empty());
    // A run that was cut off is told from one that goes on.
    store.begin_run("s", Utc::now(), &serde_json::json!({})).expect("another run");
    let outcomes: Vec<String> =
        store.runs(None, i64::MAX, 2).expect("runs").into_iter().map(|run| run.outcome).collect();
    assert_eq!(outcomes, ["running", "cut off"]);
    drop(store);
    Connection::open(&path).expect("the file").pragma_update(None, "user_version", 99).expect("a newer format");
    assert!(matches!(Store::open(&path), Err(Error::Newer { found: 99, .. })));
}

#[test]
fn a_file_of_format_1_is_brought_up_to_date_and_reads_everything_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    let old = Connection::open(&path).expect("a file");
    old.execute_batch(include_str!("../../../testdata/state/format-1.sql")).expect("the sample");
    drop(old);
    let store = Store::open(&path).expect("a migrated file");
    assert_eq!(store.checkpoint("orders_in").expect("a checkpoint"), Checkpoint::default());
    assert_eq!(store.runs(None, i64::MAX, 9).expect("runs").len(), 1);
    assert_eq!(store.count_dead_letters(None).expect("a count"), (1, 0));
}

#[test]
fn a_new_file_may_be_opened_by_many_at_once() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.db");
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    Store::open(&path).expect("a file that others open, too");
                });
            }
        });
    }
}

#[test]
fn a_file_of_format_7_is_brought_up_to_date_and_keeps_all_it_knew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    let old = Connection::open(&path).expect("a file");
    old.execute_batch(include_str!("../../../testdata/state/format-7.sql")).expect("the sample");
    drop(old);
    let store = Store::open(&path).expect("the store");
    assert_eq!(store.checkpoint("orders_in").expect("a checkpoint").since.as_deref(), Some("2026-11-20T09:59:00.000Z"));
    let link = store.links_of("orders", "O-00001").expect("links").pop().expect("the link");
    assert_eq!(
        store.links_of("orders", "a0xSb0000000001").expect("links"),
        std::slice::from_ref(&link),
        "by 15 characters of its id"
    );
    let history = store.history(&link, 10).expect("its history");
    assert_eq!((history.len(), history[0].after.as_str()), (1, r#"{"Stage__c":"S"}"#));
    assert_eq!(store.paused().expect("what is paused")["orders_in"], "stocktaking");
    let known = store.dead_letter(1).expect("a letter").expect("the letter").record;
    assert_eq!(store.edit_dead_letter(1, &known, r#"{"id":"O-00003"}"#).expect("an edit"), Ok(()));
    assert_eq!(store.edit_dead_letter(1, &known, "{}").expect("an edit"), Err(crate::Unedited::Moved));
    let files = crate::Files::from([("bridgehead.yaml".to_owned(), "version: 1".to_owned())]);
    let version = store.keep_version("ada", "first", &files, false).expect("a version");
    assert_eq!(store.version_at_work().expect("the one at work"), Some(version));
    assert!(store.alerts().expect("alerts").is_empty());
}

#[test]
fn a_file_of_format_8_is_brought_up_to_date_and_keeps_all_it_knew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    let old = Connection::open(&path).expect("a file");
    old.execute_batch(include_str!("../../../testdata/state/format-8.sql")).expect("the sample");
    drop(old);
    let store = Store::open(&path).expect("the store");
    assert_eq!(store.alerts().expect("alerts").len(), 1);
    assert_eq!(store.version_at_work().expect("the one at work"), Some(1));
    assert!(store.sessions(Utc::now()).expect("sessions").is_empty());
    assert_eq!(store.calls_since("2026-11-20T09").expect("calls")["orders_in"], 0, "it did not say");
    assert!(store.calls_since("2026-11-21").expect("calls").is_empty());
}

#[test]
fn a_file_of_format_9_is_brought_up_to_date_and_keeps_all_it_knew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    let old = Connection::open(&path).expect("a file");
    old.execute_batch(include_str!("../../../testdata/state/format-9.sql")).expect("the sample");
    drop(old);
    let store = Store::open(&path).expect("the store");
    let then = "2026-11-20T11:00:00Z".parse().expect("a time");
    let sessions = store.sessions(then).expect("sessions");
    let known: Vec<(&str, Option<i64>)> = sessions.iter().map(|one| (one.name.as_str(), one.token)).collect();
    assert!(known.contains(&("ada", Some(3))) && known.contains(&("eve", None)), "{known:?}");
    assert!(sessions.iter().all(|one| one.voucher.is_none()), "nobody vouches for who came before");
}
