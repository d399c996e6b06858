//! `/debug/...`: what the daemon is busy with. Answered in debug mode only.
//!
//! The paths are those of Go's profiler, because that is what tools ask for. What exists here too (tasks,
//! threads, counters) is answered; profiles of Go's own machinery are refused by name.

use std::fmt::Write as _;

use hyper::StatusCode;
use serde_json::json;

use crate::Server;
use crate::body::{self, Answer};
use crate::error::Refusal;
use crate::router::Call;

type Handled = Result<Answer, Refusal>;

/// The profiles of Go and what becomes of them.
const PROFILES: &[(&str, &str)] = &[
    ("allocs", "sampling allocations"),
    ("block", "sampling blocked synchronization"),
    ("heap", "sampling the heap"),
    ("mutex", "sampling contended locks"),
    ("profile", "sampling the processor"),
    ("trace", "tracing execution"),
];
/// The profiles that are answered.
const ANSWERED: [(&str, &str); 4] = [
    ("cmdline", "the daemon's command line"),
    ("goroutine", "requests in work, containers and threads, with their states"),
    ("symbol", "names of addresses: there are none"),
    ("threadcreate", "the threads"),
];

/// Answers a path below `/debug`.
pub(crate) fn answer(server: &Server, call: &Call, path: &[&str]) -> Handled {
    match path {
        ["vars"] => Ok(body::json(&vars(server))),
        ["pprof"] => Ok(index()),
        ["pprof", "cmdline"] => Ok(body::text(StatusCode::OK, command_line().join("\0"))),
        // Go's own answer of a program whose symbols are not in it.
        ["pprof", "symbol"] => Ok(body::text(StatusCode::OK, "num_symbols: 0\n")),
        ["pprof", "goroutine" | "threadcreate"] if !readable(call) => Err(Refusal::not_yet(&format!(
            "the profile {} in Go's binary form; ask for its text with ?debug=1",
            path.last().unwrap_or(&"")
        ))),
        ["pprof", "goroutine"] => Ok(body::text(StatusCode::OK, tasks(server))),
        ["pprof", "threadcreate"] => Ok(body::text(StatusCode::OK, threads())),
        ["pprof", name] => Err(match PROFILES.iter().find(|(known, _)| known == name) {
            Some((name, what)) => Refusal::not_yet(&format!("the profile {name} ({what})")),
            None => Refusal { status: StatusCode::NOT_FOUND, message: format!("unknown profile: {name}") },
        }),
        _ => Err(Refusal { status: StatusCode::NOT_FOUND, message: "page not found".into() }),
    }
}

fn readable(call: &Call) -> bool {
    call.query.get("debug").is_some_and(|level| level.parse().is_ok_and(|level: u32| level > 0))
}

fn index() -> Answer {
    let mut text = String::from("/debug/pprof/\n\n");
    for (name, what) in ANSWERED {
        writeln!(text, "{name:14}{what}").unwrap_or(());
    }
    text.push_str("\nnot here:\n");
    for (name, what) in PROFILES {
        writeln!(text, "{name:14}{what}").unwrap_or(());
    }
    body::text(StatusCode::OK, text)
}

fn command_line() -> Vec<String> {
    std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect()
}

/// The value in kilobytes of a line of `/proc/self/status`, in bytes.
fn status(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kilobytes * 1024
}

fn vars(server: &Server) -> serde_json::Value {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let entries = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
    let mut states = std::collections::BTreeMap::new();
    for view in server.engine.containers.list() {
        *states.entry(view.now.state.word()).or_insert(0_u64) += 1;
    }
    let metrics = tokio::runtime::Handle::current().metrics();
    json!({
        "cmdline": command_line(),
        "traffic": server.traffic.counters(),
        "containers": states,
        "images": server.engine.images.count(),
        "tasks": metrics.num_alive_tasks(),
        "workers": metrics.num_workers(),
        "queued_tasks": metrics.global_queue_depth(),
        "threads": entries("/proc/self/task"),
        "descriptors": entries("/proc/self/fd"),
        "memory": {
            "resident": status(&text, "VmRSS"),
            "resident_peak": status(&text, "VmHWM"),
            "private": status(&text, "RssAnon"),
            "virtual": status(&text, "VmSize"),
        },
    })
}

/// What would be goroutines elsewhere.
pub(crate) fn tasks(server: &Server) -> String {
    let total = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut text = format!("tasks: total {total}\n\nrequests:\n");
    for (transport, what, since) in server.traffic.list() {
        writeln!(text, "  {what} [{transport}, {} ms]", since.as_millis()).unwrap_or(());
    }
    text.push_str("\ncontainers:\n");
    for view in server.engine.containers.list() {
        writeln!(text, "  {} {} [{}]", view.id(), view.now.name, view.now.state.word()).unwrap_or(());
    }
    text.push_str("\nthreads:\n");
    text.push_str(&threads());
    text
}

/// The threads, with what the kernel says of them.
fn threads() -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name: &str| {
            let text = std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            text.trim().to_owned()
        };
        let (name, stat, waits) = (read("comm"), read("stat"), read("wchan"));
        // The name may hold anything, so the state is looked for behind its end.
        let state =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or("?").to_owned();
        writeln!(text, "  {} {name} [{state}, {waits}]", entry.file_name().to_string_lossy()).unwrap_or(());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_status_file_are_bytes() {
        assert_eq!(status("VmHWM:\t  10 kB\nVmRSS:\t   3 kB\n", "VmRSS"), 3072);
        assert_eq!(status("", "VmRSS"), 0);
        assert!(status(&std::fs::read_to_string("/proc/self/status").unwrap(), "VmRSS") > 0);
    }

    #[test]
    fn this_thread_is_listed() {
        assert!(threads().contains('['));
    }
}
