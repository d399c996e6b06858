//! The state database.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use havre_store::{Batch, Db, StoreError, Table};

const THINGS: Table = Table("things");
const OTHERS: Table = Table("others");

fn all(db: &Db, table: Table) -> Vec<(String, u64)> {
    db.load(table).unwrap()
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let db = Db::open(&path).unwrap();
    assert_eq!(all(&db, THINGS), []);
    db.commit(Batch::new().put(THINGS, "b", &2).put(THINGS, "a", &1).put(OTHERS, "x", &9)).unwrap();
    db.commit(Batch::new().delete(THINGS, "b").delete(THINGS, "never").put(THINGS, "c", &3)).unwrap();
    db.enqueue(Batch::new().put(THINGS, "d", &4));
    drop(db);
    let db = Db::open(&path).unwrap();
    assert_eq!(all(&db, THINGS), [("a".into(), 1), ("c".into(), 3), ("d".into(), 4)]);
    assert_eq!(all(&db, OTHERS), [("x".into(), 9)]);
}

#[test]
fn a_database_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let _db = Db::open(&path).unwrap();
    assert!(matches!(Db::open(&path), Err(StoreError::InUse(_))));
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    Db::open(&path).unwrap().commit(Batch::new().put(Table("meta"), "format", &7)).unwrap();
    let error = Db::open(&path).unwrap_err().to_string();
    assert!(error.contains("format 7") && error.contains("newer"), "{error}");
}

#[test]
fn a_value_that_cannot_be_written_fails_the_whole_batch() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&folder.path().join("state.db")).unwrap();
    let bad = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert!(matches!(
        db.commit(Batch::new().put(THINGS, "a", &1).put(THINGS, "b", &bad)),
        Err(StoreError::Encode(_))
    ));
    assert_eq!(all(&db, THINGS), []);
}

#[test]
fn many_callers_share_one_sync_and_all_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
    let threads: Vec<_> = (0..16_u64)
        .map(|thread| {
            let db = Arc::clone(&db);
            std::thread::spawn(move || {
                for n in 0..25 {
                    db.commit(Batch::new().put(THINGS, &format!("{thread}-{n}"), &n)).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(all(&db, THINGS).len(), 16 * 25);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "db::commits_until_killed", "--ignored", "--nocapture"])
            .env("HAVRE_TEST_DB", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acknowledged: Vec<u64> = lines
            .by_ref()
            .filter_map(|line| line.unwrap().strip_prefix("done ")?.parse().ok())
            .take(20 + round * 17)
            .collect();
        child.kill().unwrap();
        // What it said before it died counts too.
        let rest = lines.filter_map(|line| line.ok()?.strip_prefix("done ")?.parse::<u64>().ok()).last();
        child.wait().unwrap();
        let last = rest.or(acknowledged.last().copied()).unwrap();
        let db = Db::open(&path).unwrap();
        let (things, others) = (all(&db, THINGS), all(&db, OTHERS));
        let newest = things.iter().map(|(_, value)| *value).max().unwrap();
        assert!(newest >= last, "acknowledged {last}, found {newest}");
        assert_eq!(things.len() as u64, newest + 1, "no gap");
        assert_eq!(others, [("last".into(), newest)], "a batch is whole");
    }
}

#[test]
#[ignore = "the child of the test above"]
fn commits_until_killed() {
    let Some(path) = std::env::var_os("HAVRE_TEST_DB") else { return };
    let db = Db::open(Path::new(&path)).unwrap();
    let start = all(&db, THINGS).len() as u64;
    for n in start.. {
        db.commit(Batch::new().put(THINGS, &format!("{n:08}"), &n).put(OTHERS, "last", &n)).unwrap();
        println!("done {n}");
    }
}

/// `cargo test --release -p havre-store -- --ignored --nocapture speed`
#[test]
#[ignore = "measures"]
fn speed_of_commits() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let db = Db::open(&folder.path().join("state.db")).unwrap();
    let value = "x".repeat(1024);
    let mut times: Vec<_> = (0..500)
        .map(|n| {
            let started = std::time::Instant::now();
            db.commit(Batch::new().put(THINGS, &format!("{}", n % 100), &value)).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    println!("commit: min {:?}, median {:?}, p99 {:?}", times[0], times[250], times[495]);
}
