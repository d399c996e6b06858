//! `stats`.

use std::cell::RefCell;
use std::time::Duration;

use havre_api::Filters;
use havre_api::stats::{BlkioStatEntry, StatsResponse};
use havre_client::{Client, JsonLines};
use tokio::time::MissedTickBehavior;

use super::crowd::Crowd;
use crate::App;
use crate::config;
use crate::failure::{Failure, describe};
use crate::format::table::{harmless, short_id};
use crate::format::template::{Fields, Format, text as value};
use crate::format::units::{binary_size, human_size};
use crate::output;
use crate::spec::{Args, Arity, Command, switch, text};
use crate::terminal;

pub(super) const STATS: Command = Command {
    names: &["container stats", "stats"],
    arguments: "[CONTAINER...]",
    about: "Display a live stream of container(s) resource usage statistics",
    flags: &[&[
        switch("all", "Show stopped containers too (default shows just running)").short('a'),
        text("format", super::FORMAT_HELP),
        switch("no-stream", "Show the first figures and end"),
        switch("no-trunc", "Do not shorten ids"),
    ]],
    arity: Arity::Any,
    trailing: false,
    examples: &["stats --no-stream", "stats web db --format '{{.Name}}: {{.CPUPerc}}'"],
    run: stats,
};

const TABLE: &str = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

const HEADINGS: [(&str, &str); 9] = [
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// How often the screen is drawn again, as Docker does.
const REFRESH: Duration = Duration::from_millis(500);

/// A container that is shown.
struct Row {
    /// As it was asked for.
    asked: String,
    /// The last figures; none before the first.
    last: Option<StatsResponse>,
    failed: Option<String>,
    gone: bool,
}

fn stats(app: &App, args: &Args) -> Result<u8, Failure> {
    let configured =
        if args.given("format") { String::new() } else { config::file(&app.global)?.stats_format };
    let source = match (args.text("format"), configured.as_str()) {
        ("" | "table", "" | "table") => TABLE.to_owned(),
        ("", configured) => configured.to_owned(),
        ("table", _) => TABLE.to_owned(),
        (given, _) => given.to_owned(),
    };
    let format = Format::parse(&source)?;
    let full = args.on("no-trunc");
    let rows = RefCell::new(Vec::new());
    let show = |format: &Format| {
        let fields =
            rows.borrow().iter().filter(|row: &&Row| !row.gone).map(|row| fields(row, full)).collect();
        format.rows(&HEADINGS, fields)
    };
    app.block(async {
        let client = app.client().await?;
        let every = args.rest.is_empty();
        let names = if every {
            let listed = client.list(args.on("all"), 0, false, &Filters::default()).await?;
            listed.into_iter().map(|container| short_id(&container.id).to_owned()).collect()
        } else {
            args.rest.clone()
        };
        let mut crowd = Crowd::default();
        for name in names {
            watch(client, &rows, &mut crowd, name, !args.on("no-stream"));
        }
        if args.on("no-stream") {
            crowd.all().await;
            if let Some(failure) = failures(&rows, every) {
                return Err(failure);
            }
            output::print(&show(&format)?)?;
            return Ok(0);
        }
        let mut watched = Events::open(client, every, args.on("all")).await?;
        let screen = terminal::size().is_some();
        let mut tick = tokio::time::interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut begun = false;
        loop {
            let event = crowd.until(async {
                tokio::select! {
                    _ = tick.tick() => Ok(None),
                    event = watched.next() => event.map(Some),
                }
            });
            match event.await? {
                Some((id, true)) => watch(client, &rows, &mut crowd, short_id(&id).to_owned(), true),
                Some((id, false)) => rows.borrow_mut().retain(|row| !id.starts_with(&row.asked)),
                None => {
                    if let Some(failure) = failures(&rows, every) {
                        return Err(failure);
                    }
                    // The first picture is of all; who cannot be asked is said instead of it.
                    begun |= rows.borrow().iter().all(|row| row.last.is_some() || row.gone);
                    if !begun {
                        continue;
                    }
                    let text = show(&format)?;
                    if screen {
                        // From the top, each line to its end, and nothing of the last picture below.
                        let lines = text.replace('\n', "\x1b[K\n");
                        output::print(&format!("\x1b[H{lines}\x1b[J"))?;
                    } else {
                        output::print(&text)?;
                    }
                    if !every && rows.borrow().iter().all(|row| row.gone) {
                        return Ok(0);
                    }
                }
            }
        }
    })
}

/// What could not be asked. A container that was listed may end before it is asked; one that was named must
/// be there.
fn failures(rows: &RefCell<Vec<Row>>, every: bool) -> Option<Failure> {
    let mut rows = rows.borrow_mut();
    if every {
        rows.retain(|row| row.failed.is_none());
        return None;
    }
    let messages: Vec<String> = rows.iter().filter_map(|row| row.failed.clone()).collect();
    (!messages.is_empty()).then(|| Failure::plain(messages.join("\n")))
}

/// Adds a container and the work that keeps its figures.
fn watch<'a>(
    client: &'a Client,
    rows: &'a RefCell<Vec<Row>>,
    crowd: &mut Crowd<'a>,
    asked: String,
    stream: bool,
) {
    if rows.borrow().iter().any(|row| row.asked == asked && !row.gone) {
        return;
    }
    rows.borrow_mut().push(Row { asked: asked.clone(), last: None, failed: None, gone: false });
    crowd.add(async move {
        let change = |change: &dyn Fn(&mut Row)| {
            rows.borrow_mut().iter_mut().filter(|row| row.asked == asked && !row.gone).for_each(change);
        };
        let result = async {
            let mut answer = client.stats(&asked, stream).await?;
            let mut lines = JsonLines::default();
            while let Some(piece) = answer.chunk().await? {
                let figures =
                    lines.push::<StatsResponse>(&piece).map_err(havre_client::ClientError::Decode)?;
                if let Some(last) = figures.into_iter().last() {
                    change(&|row| row.last = Some(last.clone()));
                }
            }
            Ok::<_, havre_client::ClientError>(())
        };
        match result.await {
            Ok(()) if stream => change(&|row| row.gone = true),
            Ok(()) => {}
            Err(error) => change(&|row| row.failed = Some(describe(&error))),
        }
    });
}

/// Containers that appear and vanish.
struct Events<'a> {
    answer: Option<havre_client::Answer<'a>>,
    lines: JsonLines,
    waiting: Vec<(String, bool)>,
    appears: &'static str,
    vanishes: &'static str,
}

impl<'a> Events<'a> {
    async fn open(client: &'a Client, every: bool, all: bool) -> Result<Self, Failure> {
        let (appears, vanishes) = if all { ("create", "destroy") } else { ("start", "die") };
        let mut filters = Filters::default();
        filters.add("type", "container");
        let answer = if every { Some(client.events("", "", &filters).await?) } else { None };
        Ok(Self { answer, lines: JsonLines::default(), waiting: Vec::new(), appears, vanishes })
    }

    /// The next container that appears (true) or vanishes.
    async fn next(&mut self) -> Result<(String, bool), Failure> {
        loop {
            if !self.waiting.is_empty() {
                return Ok(self.waiting.remove(0));
            }
            let Some(answer) = &mut self.answer else { return std::future::pending().await };
            let Some(piece) = answer.chunk().await? else {
                return Err(Failure::plain("the connection to the daemon ended"));
            };
            let events: Vec<havre_api::event::EventMessage> =
                self.lines.push(&piece).map_err(|error| Failure::plain(error.to_string()))?;
            for event in events {
                let known = [(self.appears, true), (self.vanishes, false)];
                if let Some((_, appears)) = known.iter().find(|(action, _)| *action == event.action) {
                    self.waiting.push((event.actor.id, *appears));
                }
            }
        }
    }
}

/// The memory that programs use: without the pages that the kernel gives up first.
fn used(stats: &StatsResponse) -> u64 {
    let memory = &stats.memory_stats;
    let known = memory.stats.as_ref();
    let idle = known.and_then(|known| {
        // v1 has sums over the groups below, v2 has nothing else.
        known.get("total_inactive_file").or_else(|| known.get("inactive_file"))
    });
    match idle {
        Some(idle) if *idle < memory.usage => memory.usage - idle,
        _ => memory.usage,
    }
}

#[expect(clippy::cast_precision_loss, reason = "two digits of a percentage are shown")]
fn percent(part: u64, whole: u64, times: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * times as f64 * 100.0 }
}

fn processor_share(stats: &StatsResponse) -> f64 {
    let (now, before) = (&stats.cpu_stats, &stats.precpu_stats);
    let used = now.cpu_usage.total_usage.saturating_sub(before.cpu_usage.total_usage);
    let all = now.system_cpu_usage.saturating_sub(before.system_cpu_usage);
    let cores = match (now.online_cpus, &now.cpu_usage.percpu_usage) {
        (0, Some(list)) => u64::try_from(list.len()).unwrap_or(1),
        (count, _) => u64::from(count),
    };
    percent(used, all, cores)
}

fn sum(entries: Option<&Vec<BlkioStatEntry>>, operation: &str) -> u64 {
    let of = entries.into_iter().flatten().filter(|entry| entry.op.eq_ignore_ascii_case(operation));
    of.map(|entry| entry.value).sum()
}

fn fields(row: &Row, full: bool) -> Fields {
    let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let asked = value(harmless(&row.asked));
    let Some(stats) = &row.last else {
        let unknown = || value("--");
        return Fields::from([
            ("Container", asked),
            ("ID", unknown()),
            ("Name", unknown()),
            ("CPUPerc", unknown()),
            ("MemUsage", value("-- / --")),
            ("MemPerc", unknown()),
            ("NetIO", unknown()),
            ("BlockIO", unknown()),
            ("PIDs", unknown()),
        ]);
    };
    let id = if full { stats.id.as_str() } else { short_id(&stats.id) };
    let (memory, limit) = (used(stats), stats.memory_stats.limit);
    let networks = || stats.networks.iter().flat_map(|networks| networks.values());
    let (received, sent): (u64, u64) =
        (networks().map(|one| one.rx_bytes).sum(), networks().map(|one| one.tx_bytes).sum());
    let moved = stats.blkio_stats.io_service_bytes_recursive.as_ref();
    let (read, written) = (sum(moved, "read"), sum(moved, "write"));
    let pair = |one: u64, other: u64| format!("{} / {}", human_size(size(one)), human_size(size(other)));
    Fields::from([
        ("Container", asked),
        ("ID", value(harmless(id))),
        ("Name", value(harmless(stats.name.trim_start_matches('/')))),
        ("CPUPerc", value(format!("{:.2}%", processor_share(stats)))),
        ("MemUsage", value(format!("{} / {}", binary_size(size(memory)), binary_size(size(limit))))),
        ("MemPerc", value(format!("{:.2}%", percent(memory, limit, 1)))),
        ("NetIO", value(pair(received, sent))),
        ("BlockIO", value(pair(read, written))),
        ("PIDs", value(stats.pids_stats.current.to_string())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_docker_s() {
        let text = r#"{"id":"0123456789abcdef","name":"/web","cpu_stats":{"cpu_usage":{"total_usage":300},
            "system_cpu_usage":2000,"online_cpus":2},"precpu_stats":{"cpu_usage":{"total_usage":100},
            "system_cpu_usage":1000},"memory_stats":{"usage":1048576,"limit":4194304,"stats":{"inactive_file":524288}},
            "pids_stats":{"current":3},"networks":{"eth0":{"rx_bytes":1000,"tx_bytes":20}},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":5},{"op":"write","value":7}]}}"#;
        let row = Row {
            asked: "web".into(),
            last: Some(serde_json::from_str(text).unwrap()),
            failed: None,
            gone: false,
        };
        let shown = Format::parse(TABLE).unwrap().rows(&HEADINGS, vec![fields(&row, false)]).unwrap();
        let line: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
        let want = "0123456789ab web 40.00% 512KiB / 4MiB 12.50% 1kB / 20B 5B / 7B 3";
        assert_eq!(line.join(" "), want);
    }

    #[test]
    fn nothing_known_yet_is_shown_as_such() {
        let row = Row { asked: "x".into(), last: None, failed: None, gone: false };
        let shown = Format::parse("{{.Container}} {{.MemUsage}}")
            .unwrap()
            .rows(&[], vec![fields(&row, false)])
            .unwrap();
        assert_eq!(shown, "x -- / --\n");
    }
}
