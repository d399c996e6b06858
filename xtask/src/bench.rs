//! Havre beside the distribution's Docker: both in one run, taking turns, told as ratios.
//!
//! Each figure is the median of its rounds; a busy machine slows both. The client process is part of every
//! `run` and `exec`. Memory is private memory: what would be free if the processes were not there.

mod copies;
mod images;
pub(crate) mod names;
mod networks;

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;

use crate::engine::Engine;
use crate::process;
use images::Kind;

/// Old enough for the oldest Docker that is compared.
const API: &str = "/v1.41";
const CONTAINERS: usize = 40;
const CONCURRENCY: usize = 8;

/// Something to measure on an engine.
struct Measure {
    name: &'static str,
    unit: &'static str,
    /// Whether a larger figure is the better one.
    more_is_better: bool,
    rounds: usize,
    run: Run,
    /// Programs that are no engines and do the same, or part of it.
    others: &'static [Other],
}

type Other = (&'static str, fn(&Path) -> Result<f64>);

type Run = fn(&Engine, &Path) -> Result<f64>;

/// Milliseconds.
const fn time(name: &'static str, rounds: usize, run: Run) -> Measure {
    Measure { name, unit: "ms", more_is_better: false, rounds, run, others: &[] }
}

/// Of something in a second.
const fn rate(name: &'static str, unit: &'static str, rounds: usize, run: Run) -> Measure {
    Measure { name, unit, more_is_better: true, rounds, run, others: &[] }
}

const fn memory(name: &'static str, run: Run) -> Measure {
    Measure { name, unit: "MiB", more_is_better: false, rounds: 1, run, others: &[] }
}

const fn beside(measure: Measure, others: &'static [Other]) -> Measure {
    Measure { others, ..measure }
}

const LARGE: Kind = Kind::Large;
const DEBIAN: Kind = Kind::Debian;
const MANY: Kind = Kind::Many;

const MEASURES: &[Measure] = &[
    memory("idle-memory", idle_memory),
    time("cp-out", 5, copies::copy_out),
    time("run-host", 15, run_host),
    time("run-none", 15, run_none),
    time("run-detached", 15, run_detached),
    time("exec", 15, exec),
    rate("parallel-start", "containers/s", 3, parallel),
    rate("logs-write", "MB/s", 3, logs),
    time("cp-in", 5, copies::copy_in),
    time("commit", 3, copies::commit),
    time("export", 3, copies::export),
    time("list-300", 5, list),
    rate("create", "containers/s", 3, creations),
    rate("logs-read", "MB/s", 3, logs_read),
    time("stats-40", 3, stats),
    time("attach-200", 3, attach),
    beside(
        time("load", 3, |engine, folder| images::load(engine, folder, LARGE)),
        &[("tar", |folder| images::tar_load(folder, LARGE))],
    ),
    beside(
        time("load-debian", 3, |engine, folder| images::load(engine, folder, DEBIAN)),
        &[("tar", |folder| images::tar_load(folder, DEBIAN))],
    ),
    beside(
        time("load-many", 3, |engine, folder| images::load(engine, folder, MANY)),
        &[("tar", |folder| images::tar_load(folder, MANY))],
    ),
    time("save", 3, |engine, folder| images::save(engine, folder, LARGE)),
    time("save-debian", 3, |engine, folder| images::save(engine, folder, DEBIAN)),
    time("save-many", 3, |engine, folder| images::save(engine, folder, MANY)),
    beside(
        time("pull", 3, |engine, folder| images::pull(engine, folder, LARGE)),
        &[
            ("podman", |folder| images::podman_pull(folder, LARGE)),
            ("tar", |folder| images::tar_pull(folder, LARGE)),
        ],
    ),
    beside(
        time("pull-debian", 3, |engine, folder| images::pull(engine, folder, DEBIAN)),
        &[
            ("podman", |folder| images::podman_pull(folder, DEBIAN)),
            ("tar", |folder| images::tar_pull(folder, DEBIAN)),
        ],
    ),
    beside(
        time("pull-many", 3, |engine, folder| images::pull(engine, folder, MANY)),
        &[
            ("podman", |folder| images::podman_pull(folder, MANY)),
            ("tar", |folder| images::tar_pull(folder, MANY)),
        ],
    ),
    beside(
        time("push", 3, |engine, folder| images::push(engine, folder, LARGE)),
        &[("podman", |folder| images::podman_push(folder, LARGE))],
    ),
    beside(
        time("push-debian", 3, |engine, folder| images::push(engine, folder, DEBIAN)),
        &[("podman", |folder| images::podman_push(folder, DEBIAN))],
    ),
    beside(
        time("push-many", 3, |engine, folder| images::push(engine, folder, MANY)),
        &[("podman", |folder| images::podman_push(folder, MANY))],
    ),
    time("rmi", 3, |engine, folder| images::remove(engine, folder, LARGE)),
    time("rmi-debian", 3, |engine, folder| images::remove(engine, folder, DEBIAN)),
    time("rmi-many", 3, |engine, folder| images::remove(engine, folder, MANY)),
    time("pull-again", 5, images::pull_again),
    memory("pull-memory", images::pull_memory),
    time("df-1000", 5, images::disk_usage),
    time("prune-1000", 1, images::prune),
    memory("memory-per-container", container_memory),
];

/// The same, of engines that have a network namespace of their own.
const OF_NETWORKS: &[Measure] = &[
    time("run-bridge", 15, networks::run),
    time("connect", 15, networks::connect),
    time("disconnect", 15, networks::disconnect),
    time("ports-1000", 3, networks::thousand_ports),
    time("ports-10000", 3, networks::ten_thousand_ports),
    time("networks-200", 3, networks::two_hundred),
    rate("requests-loopback", "1/s", 5, networks::requests_loopback),
    rate("requests-host", "1/s", 5, networks::requests_host),
    beside(
        rate("throughput", "MB/s", 5, networks::between_containers),
        &[("bare bridge", networks::between_bare)],
    ),
    rate("dns", "answers/s", 3, names::answers),
    time("run-bridge-ports", 15, networks::run_beside_ports),
];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if !process::is_root() {
        bail!("containers need root");
    }
    let quick = arguments.iter().any(|word| word == "--quick");
    let alone = arguments.iter().any(|word| word == "--alone");
    let wanted: Vec<&String> = arguments.iter().filter(|word| !word.starts_with("--")).collect();
    let choose = |measures: &'static [Measure]| -> Vec<&'static Measure> {
        let chosen =
            |measure: &&Measure| wanted.is_empty() || wanted.iter().any(|name| *name == measure.name);
        measures.iter().filter(chosen).collect()
    };
    let (common, of_networks) = (choose(MEASURES), choose(OF_NETWORKS));
    if !common.is_empty() {
        compare(&common, quick, alone, false)?;
    }
    if !of_networks.is_empty() {
        Engine::build()?;
        networks::apart(|| compare(&of_networks, quick, alone, true))?;
    }
    Ok(())
}

/// Takes the measures of fresh engines. With `with_networks` a peer has its bridge and its rules.
fn compare(measures: &[&Measure], quick: bool, alone: bool, with_networks: bool) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("havre-bench-").tempdir_in("/var/tmp")?;
    let busybox = havre_testkit::busybox_archive(folder.path())?;
    let mut engines = vec![Engine::havre(folder.path())?];
    match Engine::docker(folder.path(), with_networks) {
        _ if alone => {}
        Ok(docker) => engines.push(docker),
        Err(error) => println!("bench: without a peer: {error:#}"),
    }
    for engine in &engines {
        engine.client(&["load", "-i", &busybox.to_string_lossy()])?;
        // Once unmeasured: caches, and the first container of a peer makes folders.
        engine.client(&["run", "--rm", "--network", "none", "busybox", "true"])?;
    }
    println!("{:<22} {:>22} {:>22} {:>9}", "measure (median, best)", engines[0].name, "docker", "ratio");
    for measure in measures {
        let rounds = if quick { measure.rounds.div_ceil(3) } else { measure.rounds };
        let mut figures: Vec<Vec<f64>> = vec![Vec::new(); engines.len()];
        let mut failures = Vec::new();
        for _ in 0..rounds {
            for (engine, figures) in engines.iter().zip(&mut figures) {
                match (measure.run)(engine, folder.path()) {
                    Ok(figure) => figures.push(figure),
                    Err(error) => failures.push(format!("{}: {error:#}", engine.name)),
                }
            }
        }
        println!("{}", row(measure, &mut figures));
        let ours = figures.first().and_then(|ours| ours.get(ours.len() / 2)).copied();
        for (name, run) in measure.others {
            let mut theirs = Vec::new();
            for _ in 0..rounds {
                match run(folder.path()) {
                    Ok(figure) => theirs.push(figure),
                    Err(error) => failures.push(format!("{name}: {error:#}")),
                }
            }
            theirs.sort_by(f64::total_cmp);
            if let (Some(ours), Some(median)) = (ours, theirs.get(theirs.len() / 2)) {
                let ratio = if measure.more_is_better { ours / median } else { median / ours };
                println!("  {name:<25} {:>17} {median:>22.2} {ratio:>8.1}x", "");
            }
        }
        failures.truncate(2);
        failures.iter().for_each(|failure| println!("  failed on {failure}"));
    }
    images::end(folder.path());
    if with_networks {
        engines.iter().for_each(networks::without_ports);
    }
    Ok(())
}

/// A line of the table. The ratio says how many times better we are.
fn row(measure: &Measure, figures: &mut [Vec<f64>]) -> String {
    let mut medians = Vec::new();
    let mut cells = Vec::new();
    for figures in figures {
        figures.sort_by(f64::total_cmp);
        let best = if measure.more_is_better { figures.last() } else { figures.first() };
        match (figures.get(figures.len() / 2), best) {
            (Some(median), Some(best)) => {
                cells.push(format!("{median:.2} ({best:.2})"));
                medians.push(*median);
            }
            _ => cells.push("-".into()),
        }
    }
    let ratio = match medians.as_slice() {
        [ours, theirs] if measure.more_is_better => format!("{:.1}x", ours / theirs),
        [ours, theirs] => format!("{:.1}x", theirs / ours),
        _ => "-".into(),
    };
    let name = format!("{} [{}]", measure.name, measure.unit);
    let cell = |at: usize| cells.get(at).map_or("-", String::as_str);
    format!("{name:<27} {:>17} {:>22} {ratio:>9}", cell(0), cell(1))
}

/// Lets the disk finish what the other engine's turn has left to it: an engine that waits for the disk would
/// else pay for one that does not.
fn settle() -> Result<()> {
    process::output(&mut std::process::Command::new("sync")).map(drop)
}

fn timed(engine: &Engine, words: &[&str]) -> Result<f64> {
    let mut command = engine.command(words);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    settle()?;
    let started = Instant::now();
    let output = command.output()?;
    let taken = started.elapsed().as_secs_f64() * 1e3;
    if !output.status.success() {
        bail!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(taken)
}

fn run_host(engine: &Engine, _: &Path) -> Result<f64> {
    timed(engine, &["run", "--rm", "--network", "host", "busybox", "true"])
}

fn run_none(engine: &Engine, _: &Path) -> Result<f64> {
    timed(engine, &["run", "--rm", "--network", "none", "busybox", "true"])
}

fn run_detached(engine: &Engine, _: &Path) -> Result<f64> {
    let taken =
        timed(engine, &["run", "-d", "--name", "bench", "--network", "none", "busybox", "sleep", "1000"]);
    engine.client(&["rm", "-f", "bench"])?;
    taken
}

fn exec(engine: &Engine, _: &Path) -> Result<f64> {
    if engine.client(&["inspect", "bench-exec"]).is_err() {
        engine.client(&[
            "run",
            "-d",
            "--name",
            "bench-exec",
            "--network",
            "none",
            "busybox",
            "sleep",
            "100000",
        ])?;
    }
    timed(engine, &["exec", "bench-exec", "true"])
}

/// Starts and removes many containers through the API; the figure is starts a second.
fn parallel(engine: &Engine, _: &Path) -> Result<f64> {
    let each = |work: fn(&mut crate::engine::Api, usize) -> Result<()>| -> Result<f64> {
        let started = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CONCURRENCY)
                .map(|thread| {
                    scope.spawn(move || -> Result<()> {
                        let mut api = engine.connect()?;
                        (thread..CONTAINERS)
                            .step_by(CONCURRENCY)
                            .try_for_each(|number| work(&mut api, number))
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
            })
        })?;
        Ok(started.elapsed().as_secs_f64())
    };
    let seconds = each(|api, number| {
        let container = json!({
            "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": { "NetworkMode": "none" },
        });
        api.call("POST", &format!("{API}/containers/create?name=many-{number}"), Some(&container))?;
        api.call("POST", &format!("{API}/containers/many-{number}/start"), None).map(drop)
    });
    each(|api, number| {
        api.send("DELETE", &format!("{API}/containers/many-{number}?force=1"), None).map(drop)
    })?;
    Ok(f64::from(u32::try_from(CONTAINERS)?) / seconds?)
}

/// A container that prints as fast as it can until it has printed enough.
fn logs(engine: &Engine, _: &Path) -> Result<f64> {
    let bytes = 60_000_000_u32;
    let line = "a line of a log as programs write them, with a number 1234567890 and words";
    let script = format!("yes '{line}' | head -c {bytes}");
    let words = [
        "run",
        "-d",
        "--name",
        "bench-logs",
        "--network",
        "none",
        "--log-opt",
        "max-size=10m",
        "--log-opt",
        "max-file=3",
    ];
    let started = Instant::now();
    let words: Vec<&str> = words.into_iter().chain(["busybox", "sh", "-c", &script]).collect();
    let result = engine.client(&words).and_then(|_| engine.client(&["wait", "bench-logs"]));
    let seconds = started.elapsed().as_secs_f64();
    engine.client(&["rm", "-f", "bench-logs"])?;
    result?;
    Ok(f64::from(bytes) / seconds / 1e6)
}

/// Makes stopped containers with one connection and returns the seconds it took.
fn make(engine: &Engine, prefix: &str, count: usize) -> Result<f64> {
    let container = json!({
        "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": { "NetworkMode": "none" },
    });
    let mut api = engine.connect()?;
    let started = Instant::now();
    for number in 0..count {
        api.call("POST", &format!("{API}/containers/create?name={prefix}-{number}"), Some(&container))?;
    }
    Ok(started.elapsed().as_secs_f64())
}

fn unmake(engine: &Engine, prefix: &str, count: usize) -> Result<()> {
    let mut api = engine.connect()?;
    (0..count).try_for_each(|number| {
        api.send("DELETE", &format!("{API}/containers/{prefix}-{number}?force=1"), None).map(drop)
    })
}

/// The list of 300 containers, through the API; the best of ten.
fn list(engine: &Engine, _: &Path) -> Result<f64> {
    const COUNT: usize = 300;
    make(engine, "listed", COUNT)?;
    let mut api = engine.connect()?;
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let started = Instant::now();
        let text = api.call("GET", &format!("{API}/containers/json?all=1"), None)?;
        best = best.min(started.elapsed().as_secs_f64() * 1e3);
        if text.matches("\"/listed-").count() < COUNT {
            bail!("the list is not complete");
        }
    }
    unmake(engine, "listed", COUNT)?;
    Ok(best)
}

/// Creations a second over one connection.
fn creations(engine: &Engine, _: &Path) -> Result<f64> {
    const COUNT: u32 = 100;
    let count = usize::try_from(COUNT)?;
    let seconds = make(engine, "created", count);
    unmake(engine, "created", count)?;
    Ok(f64::from(COUNT) / seconds?)
}

/// Half a million lines, written before and read through the client.
fn logs_read(engine: &Engine, _: &Path) -> Result<f64> {
    let line = "a line of a log as programs write them, with a number 1234567890 and words";
    let script = format!("yes '{line}' | head -n 500000");
    let words = ["run", "-d", "--name", "bench-read", "--network", "none"];
    let limits = ["--log-opt", "max-size=200m", "--log-opt", "max-file=2"];
    let words: Vec<&str> = words.into_iter().chain(limits).chain(["busybox", "sh", "-c", &script]).collect();
    engine.client(&words)?;
    engine.client(&["wait", "bench-read"])?;
    let taken = timed(engine, &["logs", "bench-read"]);
    engine.client(&["rm", "-f", "bench-read"])?;
    let bytes = u32::try_from(500_000 * (line.len() + 1))?;
    Ok(f64::from(bytes) / 1e3 / taken?)
}

fn run_many(engine: &Engine, prefix: &str) -> Result<()> {
    make(engine, prefix, CONTAINERS)?;
    let mut api = engine.connect()?;
    (0..CONTAINERS).try_for_each(|number| {
        api.call("POST", &format!("{API}/containers/{prefix}-{number}/start"), None).map(drop)
    })
}

/// `stats --no-stream` of forty running containers.
fn stats(engine: &Engine, _: &Path) -> Result<f64> {
    run_many(engine, "watched")?;
    let taken = timed(engine, &["stats", "--no-stream"]);
    unmake(engine, "watched", CONTAINERS)?;
    taken
}

/// Two hundred clients attached to one container that writes a hundred lines a second, until every one of them
/// has read a line.
fn attach(engine: &Engine, _: &Path) -> Result<f64> {
    const CLIENTS: usize = 200;
    let script = "while :; do echo now; sleep 0.01; done";
    engine.client(&[
        "run",
        "-d",
        "--name",
        "attached",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    let measured = (|| {
        let started = Instant::now();
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(
                engine.connect()?.attach(&format!("{API}/containers/attached/attach?stream=1&stdout=1"))?,
            );
        }
        for client in &mut clients {
            let mut text = [0; 12];
            std::io::Read::read_exact(client, &mut text)?;
            if text.get(8..) != Some(b"now\n") {
                bail!("an attached client got something else");
            }
        }
        Ok(started.elapsed().as_secs_f64() * 1e3)
    })();
    engine.client(&["rm", "-f", "attached"])?;
    measured
}

fn idle_memory(engine: &Engine, _: &Path) -> Result<f64> {
    Ok(mebibytes(engine.memory()))
}

/// What twenty more running containers add to the engine's own memory, each.
fn container_memory(engine: &Engine, _: &Path) -> Result<f64> {
    let count = 20_u32;
    let start = |name: &String| {
        engine
            .client(&["run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "100000"])
            .map(drop)
    };
    let names: Vec<String> = (0..count + 2).map(|number| format!("idle-{number}")).collect();
    // The program's own pages count as private while only one process has them.
    names.iter().take(2).try_for_each(start)?;
    let before = mebibytes(engine.memory());
    names.iter().skip(2).try_for_each(start)?;
    let after = mebibytes(engine.memory());
    for name in &names {
        engine.client(&["rm", "-f", name])?;
    }
    Ok((after - before) / f64::from(count))
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_how_many_times_better_we_are() {
        let time = &MEASURES[1];
        let text = row(time, &mut [vec![12.0, 10.0, 11.0], vec![110.0, 121.0, 132.0]]);
        assert!(text.contains("11.00 (10.00)") && text.ends_with("11.0x"), "{text}");
        let rate = MEASURES.iter().find(|measure| measure.more_is_better).unwrap();
        assert!(row(rate, &mut [vec![30.0], vec![10.0]]).ends_with("3.0x"));
        assert!(row(rate, &mut [vec![30.0], vec![]]).ends_with('-'));
    }
}
