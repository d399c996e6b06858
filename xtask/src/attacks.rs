//! Attacks and faults: which rows of the list hold, which wait, and for what.
//!
//! Invariant: a row is said to hold exactly when a test carries its id in its name. `docs/attacks.tsv` is the
//! list; the names are read from the source text, so that a test that a machine cannot run counts too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process;

const TABLE: &str = "docs/attacks.tsv";
/// What a row can be.
const STATES: [&str; 4] = ["holds", "part", "machine", "waits"];

/// Names of tests by the ids they carry.
type Tests = BTreeMap<String, BTreeSet<String>>;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: String,
    state: String,
    note: String,
}

pub(crate) fn run() -> Result<()> {
    let (rows, tests) = load()?;
    for row in &rows {
        let names = tests.get(&row.id).map_or(0, BTreeSet::len);
        let count = if names == 0 { String::new() } else { format!("{names} tests") };
        println!("{:<4} {:<8} {count:<9} {}", row.id, row.state, row.note);
    }
    let of = |state: &str| rows.iter().filter(|row| row.state == state).count();
    let (holds, part, machine, waits) = (of("holds"), of("part"), of("machine"), of("waits"));
    println!("{holds} hold, {part} in part, {machine} on the other machine, {waits} wait");
    judge(&rows, &tests)
}

/// As [`run`], without the table.
pub(crate) fn check() -> Result<()> {
    let (rows, tests) = load()?;
    judge(&rows, &tests)
}

fn load() -> Result<(Vec<Row>, Tests)> {
    let root = process::root();
    let text = std::fs::read_to_string(root.join(TABLE)).with_context(|| format!("cannot read {TABLE}"))?;
    let mut files = Vec::new();
    for part in std::fs::read_dir(root.join("crates"))?.flatten() {
        sources(&part.path().join("src"), &mut files);
        sources(&part.path().join("tests"), &mut files);
    }
    let mut tests: Tests = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        for (ids, name) in names(&text) {
            ids.into_iter().for_each(|id| _ = tests.entry(id).or_default().insert(name.clone()));
        }
    }
    Ok((parse(&text)?, tests))
}

/// All files of Rust, and the script of the other machine, below a folder.
fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "sh") {
            files.push(path);
        }
    }
}

fn parse(text: &str) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let parts: Vec<&str> = line.split('\t').collect();
        let [id, state, note] = parts.as_slice() else { bail!("{TABLE}: not three columns: {line}") };
        if !STATES.contains(state) {
            bail!("{TABLE}: {id}: no state {state:?}, only {}", STATES.join(", "));
        }
        if note.trim().is_empty() {
            bail!("{TABLE}: {id}: no word on how it is tested or what it waits for");
        }
        if rows.iter().any(|row| row.id == *id) {
            bail!("{TABLE}: {id} is there twice");
        }
        rows.push(Row { id: (*id).to_owned(), state: (*state).to_owned(), note: (*note).to_owned() });
    }
    Ok(rows)
}

/// Says where the table and the tests disagree.
fn judge(rows: &[Row], tests: &Tests) -> Result<()> {
    let mut wrong = Vec::new();
    for row in rows {
        match (row.state.as_str(), tests.get(&row.id)) {
            ("waits", Some(names)) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                wrong.push(format!("{} waits, but there is {:?}", row.id, names.join("; ")));
            }
            ("holds" | "part" | "machine", None) => {
                wrong.push(format!("{} holds, but no test carries the id", row.id))
            }
            _ => {}
        }
    }
    let known = |id: &String| rows.iter().any(|row| row.id == *id);
    wrong.extend(tests.keys().filter(|id| !known(id)).map(|id| format!("{id} has a test and no row")));
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{TABLE} and the tests disagree:\n  {}", wrong.join("\n  "))
}

/// The tests of a source text that carry ids: `#[test]` functions, the first words of tables of tests, and the
/// checks of a script.
fn names(text: &str) -> Vec<(Vec<String>, String)> {
    let (mut found, mut is_test) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        let name = if let Some(rest) = line.strip_prefix("fn ") {
            std::mem::take(&mut is_test).then(|| rest.split('(').next().unwrap_or_default())
        } else if let Some(rest) = line.strip_prefix("check ").or_else(|| line.strip_prefix("contains ")) {
            rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next())
        } else {
            is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            let rest = line.strip_prefix("&[").unwrap_or(line);
            let rest = rest.strip_prefix('(').unwrap_or(rest).strip_prefix('"');
            rest.and_then(|rest| rest.split_once("\",")).map(|(name, _)| name)
        };
        if let Some(name) = name {
            let ids = ids(name);
            if !ids.is_empty() {
                found.push((ids, name.to_owned()));
            }
        }
    }
    found
}

/// The ids at the beginning of a name, which goes on behind them.
fn ids(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = name;
    while let Some((word, after)) = rest.split_once(['_', ' ', ':']) {
        let is_id = matches!(word.as_bytes(), [letter, tens, ones]
            if letter.is_ascii_lowercase() && tens.is_ascii_digit() && ones.is_ascii_digit());
        // An architecture looks like a row.
        if !is_id || word == "x86" {
            return found;
        }
        found.push(word.to_ascii_uppercase());
        rest = after.trim_start();
    }
    // Nothing but ids is a value, not a name.
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_ids_where_tests_are() {
        let text = "
            #[test]
            #[cfg(unix)]
            fn r14_r15_absurd_users() {
            fn r16_no_test() {
            (\"f02 f03 copies run nothing\", traps),
            (
                \"l02_a flood\",
                flood,
            ),
            Launch::new(
                \"r01\",
            );
            check \"r19 devices are closed\" 0 1
            let x = (\"a23\", 1);";
        let found: Vec<_> = names(text).into_iter().flat_map(|(ids, _)| ids).collect();
        assert_eq!(found, ["R14", "R15", "F02", "F03", "L02", "R19"]);
    }

    #[test]
    fn the_table_and_the_tests_must_agree() {
        let rows = parse("# a remark\nR01\tholds\tseen\nR02\twaits\tfor networks\n").unwrap();
        let tests = |ids: &[&str]| {
            ids.iter().map(|id| ((*id).to_owned(), BTreeSet::from(["t".to_owned()]))).collect()
        };
        assert!(judge(&rows, &tests(&["R01"])).is_ok());
        for wrong in [&[][..], &["R01", "R02"], &["R01", "X09"]] {
            assert!(judge(&rows, &tests(wrong)).is_err(), "{wrong:?}");
        }
        for broken in ["R01\tholds", "R01\tmaybe\tx", "R01\tholds\t ", "R01\tholds\tx\nR01\tholds\tx"] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }
}
