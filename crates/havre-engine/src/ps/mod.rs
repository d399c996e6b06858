//! The processes of a container as `ps` lists them, without starting `ps`.
//!
//! Invariants: only processes that are named are read; one that ends meanwhile is left out; an argument
//! that is not understood is an error that names it and says what is.

mod columns;
mod options;
mod process;

use crate::EngineError;

pub(crate) use process::{Machine, uninterruptible};

/// A table of processes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The headings.
    pub titles: Vec<String>,
    /// A row a process.
    pub rows: Vec<Vec<String>>,
}

/// Lists processes as `ps` with these arguments would.
pub(crate) fn table(pids: &[i32], args: &str) -> Result<Table, EngineError> {
    let layout = options::parse(args).map_err(EngineError::Invalid)?;
    // Docker finds the container's processes by this column.
    if !layout.columns.iter().any(|column| column.title == "PID") {
        return Err(EngineError::Invalid("Couldn't find PID field in ps output".into()));
    }
    let machine = Machine::read();
    let mut found: Vec<process::Process> =
        pids.iter().flat_map(|pid| process::read(*pid, layout.threads)).collect();
    if layout.forest {
        process::arrange(&mut found);
    }
    let titles = layout.columns.iter().map(|column| column.title.clone()).collect();
    let row = |process: &process::Process| {
        layout.columns.iter().map(|column| (column.show)(process, &machine)).collect()
    };
    Ok(Table { titles, rows: found.iter().map(row).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_listed() {
        let own = i32::try_from(std::process::id()).unwrap();
        for (args, titles) in [
            ("", "UID PID PPID C STIME TTY TIME CMD"),
            ("-ef", "UID PID PPID C STIME TTY TIME CMD"),
            ("aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
            ("faux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
            ("-A", "PID TTY TIME CMD"),
            ("ax", "PID TTY STAT TIME COMMAND"),
            ("-eo pid,comm", "PID COMMAND"),
            ("-o pid -o user=WHO,args", "PID WHO COMMAND"),
            ("axo pid,cmd", "PID CMD"),
            ("-e --format pid,etime,nlwp", "PID ELAPSED NLWP"),
            ("-L", "PID LWP TTY TIME CMD"),
            ("-efL", "UID PID PPID LWP C NLWP STIME TTY TIME CMD"),
            ("-j", "PID PGID SID TTY TIME CMD"),
            ("-l", "F S UID PID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD"),
            ("l", "F UID PID PPID PRI NI VSZ RSS WCHAN STAT TTY TIME COMMAND"),
            ("-F", "UID PID PPID C SZ RSS PSR STIME TTY TIME CMD"),
        ] {
            let table = table(&[own, i32::MAX], args).unwrap();
            assert_eq!(table.titles.join(" "), titles, "{args}");
            assert!(!table.rows.is_empty() && table.rows.iter().all(|row| row.len() == table.titles.len()));
            let at = table.titles.iter().position(|title| title == "PID").unwrap();
            assert_eq!(table.rows[0][at], own.to_string(), "{args}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (args, word) in [
            ("-o pid,bogus", "\"bogus\""),
            ("-eo user", "PID"),
            ("--sort=pid", "--sort"),
            ("-ef xyz", "'y'"),
            ("-o", "format"),
            ("-e?", "'?'"),
            ("-o comm=PID", "comm=PID"),
        ] {
            let error = table(&[], args).unwrap_err().to_string();
            assert!(error.contains(word), "{args}: {error}");
        }
    }
}
