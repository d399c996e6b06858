//! How much of Docker's API and command line there is: measured on a running engine and on the help texts,
//! against the tables in `xtask/data` (made from Docker's public documents).

use std::collections::BTreeMap;

use anyhow::Result;

use crate::engine::Engine;

const ROUTES: &str = include_str!("../data/api.tsv");
const COMMANDS: &str = include_str!("../data/cli.tsv");

pub(crate) fn run() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("havre-coverage-").tempdir_in("/var/tmp")?;
    let engine = Engine::havre(folder.path())?;
    routes(&engine)?;
    commands(&engine);
    Ok(())
}

/// Asks for each route with a name that does not exist. What is not served says 501, or that there is no such page.
fn routes(engine: &Engine) -> Result<()> {
    let (mut served, mut later, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for line in ROUTES.lines().skip(1) {
        let mut fields = line.split('\t');
        let (Some(method), Some(path)) = (fields.next(), fields.next()) else { continue };
        let target: String = path
            .split('/')
            .map(|part| if part.starts_with('{') { "no-such-thing" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        // These answer only when something happens.
        let query = if path == "/events" { "?until=1&since=0" } else { "" };
        let body = (method == "POST").then(|| serde_json::json!({}));
        let answer = engine.connect()?.probe(method, &format!("/v1.47{target}{query}"), body.as_ref());
        let name = format!("{method} {path}");
        match answer {
            Ok((501, _)) => later.push(name),
            Ok((404, text)) if text.contains("page not found") => unknown.push(name),
            Ok(_) => served.push(name),
            Err(error) => unknown.push(format!("{name} ({error:#})")),
        }
    }
    let all = served.len() + later.len() + unknown.len();
    println!(
        "API routes: {} of {all} served, {} answer 501, {} unknown",
        served.len(),
        later.len(),
        unknown.len()
    );
    for name in &later {
        println!("  501      {name}");
    }
    for name in &unknown {
        println!("  unknown  {name}");
    }
    Ok(())
}

/// Looks for each command and flag in the help texts. What Docker itself hides is not looked for.
fn commands(engine: &Engine) {
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in COMMANDS.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [kind, command, flag, _, status, group, ..] = fields.as_slice() else { continue };
        if *group != "core" || !status.is_empty() {
            continue;
        }
        match *kind {
            "command" => drop(wanted.entry(command).or_default()),
            "flag" if !command.is_empty() => wanted.entry(command).or_default().push(flag),
            _ => {}
        }
    }
    let (mut present, mut flags_present, mut flags_wanted) = (0, 0, 0);
    let mut lines = Vec::new();
    for (command, flags) in &wanted {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        flags_wanted += flags.len();
        let Ok(help) = engine.client(&words) else {
            lines.push(format!("  command  {command}"));
            continue;
        };
        present += 1;
        let has = |flag: &str| {
            help.split(|c: char| c.is_whitespace() || c == ',' || c == '=').any(|word| word == flag)
        };
        let missing: Vec<&str> = flags.iter().copied().filter(|flag| !has(flag)).collect();
        flags_present += flags.len() - missing.len();
        if !missing.is_empty() {
            lines.push(format!("  flags    {command}: {}", missing.join(" ")));
        }
    }
    println!("commands: {present} of {}; flags: {flags_present} of {flags_wanted}; missing:", wanted.len());
    lines.iter().for_each(|line| println!("{line}"));
}
