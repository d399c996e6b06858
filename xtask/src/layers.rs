//! Which crate may use which, and what must never be reached.
//!
//! The table is the architecture; an edge that is not in it is an error. `havre-base` and `havre-oci` are
//! open to all. What tests use is free.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// Each crate with the crates it may use besides `base` and `oci`; `*` is any.
const ALLOWED: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("oci", &[]),
    ("api", &[]),
    ("sys", &[]),
    ("log", &["sys"]),
    ("runtime", &["sys", "log"]),
    ("archive", &["sys"]),
    ("store", &["archive", "sys"]),
    ("plugin", &[]),
    ("net", &["plugin", "store", "sys"]),
    ("tls", &[]),
    ("registry", &["tls"]),
    ("image", &["archive", "registry", "store", "sys"]),
    ("engine", &["archive", "image", "log", "net", "runtime", "store", "sys"]),
    ("server", &["api", "engine", "image", "log", "net"]),
    ("daemon", &["api", "engine", "image", "log", "net", "registry", "runtime", "server", "store", "sys"]),
    ("client", &["api", "tls"]),
    ("cli", &["api", "archive", "client", "registry"]),
    ("testkit", &["*"]),
];
/// Binaries may use everything.
const BINARIES: &[&str] = &["havre", "xtask"];
/// Crates from which these must not be reached: they run beside every container.
const SMALL: &[&str] = &["havre-sys", "havre-log", "havre-oci", "havre-runtime"];
const NOT_IN_SMALL: &[&str] = &["tokio", "hyper", "clap", "redb", "zstd-sys"];
/// Crates that must not be in the tree at all: a second provider of cryptography, or C libraries.
const NOWHERE: &[&str] = &["ring", "openssl-sys", "nftnl-sys", "libseccomp-sys"];

pub(crate) fn run() -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_str(&process::output(&mut cargo)?)?;
    let mut graph = Graph::read(&metadata)?;
    graph.forget_what_nobody_builds()?;
    let problems = problems(&graph);
    problems.iter().for_each(|problem| println!("layers: {problem}"));
    if problems.is_empty() {
        println!("layers: in order");
        return Ok(());
    }
    bail!("{} edges or crates that the architecture does not allow", problems.len())
}

/// Names of crates and what each one uses, tests aside.
#[derive(Debug, Default)]
struct Graph {
    uses: BTreeMap<String, BTreeSet<String>>,
    ours: BTreeSet<String>,
}

impl Graph {
    fn read(metadata: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut names = BTreeMap::new();
        for package in list(&metadata["packages"]) {
            names.insert(text(&package["id"]), text(&package["name"]));
        }
        let mut graph = Self::default();
        let members = list(&metadata["workspace_members"]);
        graph.ours = members.iter().filter_map(|id| names.get(&text(id)).cloned()).collect();
        let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata has no graph")?;
        for node in nodes {
            let uses =
                graph.uses.entry(names.get(&text(&node["id"])).cloned().unwrap_or_default()).or_default();
            for dependency in list(&node["deps"]) {
                let kinds = list(&dependency["dep_kinds"]);
                if kinds.iter().any(|kind| kind["kind"].as_str() != Some("dev")) {
                    uses.extend(names.get(&text(&dependency["pkg"])).cloned());
                }
            }
        }
        Ok(graph)
    }

    /// The metadata also has what a weak feature merely names (`ring?/std`); the tree has what is built.
    fn forget_what_nobody_builds(&mut self) -> Result<()> {
        for name in NOWHERE {
            if !self.uses.contains_key(*name) {
                continue;
            }
            let mut cargo = process::cargo();
            cargo.args(["tree", "--workspace", "--locked", "--target", "all", "--invert", name]);
            if process::output(&mut cargo)?.trim().is_empty() {
                self.uses.remove(*name);
            }
        }
        Ok(())
    }

    fn reached_from(&self, start: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![start];
        while let Some(name) = open.pop() {
            for next in self.uses.get(name).into_iter().flatten() {
                if reached.insert(next.as_str()) {
                    open.push(next);
                }
            }
        }
        reached
    }
}

fn problems(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for name in &graph.ours {
        if BINARIES.contains(&name.as_str()) {
            continue;
        }
        let short = name.strip_prefix("havre-").unwrap_or(name);
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == short) else {
            found.push(format!("{name} is not in the table of layers"));
            continue;
        };
        for used in graph.uses.get(name).into_iter().flatten().filter(|used| graph.ours.contains(*used)) {
            let used_short = used.strip_prefix("havre-").unwrap_or(used);
            let open = matches!(used_short, "base" | "oci") && short != "base";
            if !open && !allowed.contains(&used_short) && !allowed.contains(&"*") {
                found.push(format!("{name} may not use {used}"));
            }
        }
    }
    for small in SMALL.iter().filter(|name| graph.ours.contains(**name)) {
        let reached = graph.reached_from(small);
        let bad = NOT_IN_SMALL.iter().filter(|bad| reached.contains(**bad));
        found.extend(bad.map(|bad| format!("{small} reaches {bad}")));
    }
    let bad = NOWHERE.iter().filter(|bad| graph.uses.contains_key(**bad));
    found.extend(bad.map(|bad| format!("{bad} is in the tree")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let uses: BTreeMap<String, BTreeSet<String>> = edges
            .iter()
            .map(|(name, uses)| ((*name).to_owned(), uses.iter().map(|used| (*used).to_owned()).collect()))
            .collect();
        let ours = uses.keys().filter(|name| name.starts_with("havre")).cloned().collect();
        Graph { uses, ours }
    }

    #[test]
    fn allowed_edges_pass_and_others_are_named() {
        let good =
            graph(&[("havre-base", &[]), ("havre-sys", &[]), ("havre-log", &["havre-base", "havre-sys"])]);
        assert_eq!(problems(&good), Vec::<String>::new());
        let bad = graph(&[("havre-base", &["havre-sys"]), ("havre-sys", &[]), ("havre-new", &[])]);
        assert_eq!(
            problems(&bad),
            ["havre-base may not use havre-sys", "havre-new is not in the table of layers"]
        );
    }

    #[test]
    fn what_runs_beside_containers_stays_small_however_far_the_way() {
        let bad = graph(&[
            ("havre-runtime", &["a"]),
            ("a", &["b"]),
            ("b", &["tokio"]),
            ("tokio", &[]),
            ("ring", &[]),
        ]);
        assert_eq!(problems(&bad), ["havre-runtime reaches tokio", "ring is in the tree"]);
    }
}
