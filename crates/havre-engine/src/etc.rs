//! The files of a container that the engine writes and mounts: hosts, hostname, resolv.conf.
//!
//! Invariant: they are written anew at each start, readable by everybody inside.

use std::net::IpAddr;
use std::path::Path;

use havre_net::networks::Endpoint;
use havre_sys::durable::{Durability, replace_with};

use crate::EngineError;
use crate::plan::EtcFiles;
use crate::record::Fixed;
use crate::spec::NetworkMode;

/// Writes the files below `dir`.
pub(crate) fn write(dir: &Path, fixed: &Fixed, places: &[Endpoint]) -> Result<EtcFiles, EngineError> {
    let files = EtcFiles {
        hosts: dir.join("hosts"),
        hostname: dir.join("hostname"),
        resolv_conf: dir.join("resolv.conf"),
    };
    let put = |path: &Path, text: &str| {
        replace_with(path, text.as_bytes(), 0o644, Durability::Process)
            .map_err(EngineError::io("write", path))
    };
    put(&files.hosts, &hosts(fixed, places, &host_file("/etc/hosts")))?;
    put(&files.hostname, &format!("{}\n", fixed.hostname))?;
    put(&files.resolv_conf, &resolv_conf(fixed, &servers(fixed)))?;
    Ok(files)
}

/// The host's servers. Those on its loopback are nobody's that has one of its own; a resolver that listens there keeps the
/// servers it asks in a file of its own.
fn servers(fixed: &Fixed) -> String {
    let text = host_file("/etc/resolv.conf");
    if fixed.spec.network != NetworkMode::Networks {
        return text;
    }
    let is_local = |line: &&str| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver")
            && words
                .next()
                .and_then(|word| word.parse::<IpAddr>().ok())
                .is_some_and(|address| address.is_loopback())
    };
    let text = match text.lines().filter(is_local).count() {
        0 => return text,
        _ if text.contains("127.0.0.53") => host_file("/run/systemd/resolve/resolv.conf"),
        _ => text,
    };
    text.lines().filter(|line| !is_local(line)).map(|line| format!("{line}\n")).collect()
}

/// A host without the file has an empty one.
fn host_file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn hosts(fixed: &Fixed, places: &[Endpoint], host: &str) -> String {
    let mut text = if fixed.spec.network == NetworkMode::Host {
        let mut text = host.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text
    } else {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
            .to_owned()
    };
    for (name, address) in &fixed.spec.extra_hosts {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    // Its own name leads to itself in each of its networks.
    for net in places.iter().flat_map(|place| &place.addresses) {
        text.push_str(&format!("{}\t{}\n", net.addr(), fixed.hostname));
    }
    text
}

fn resolv_conf(fixed: &Fixed, host: &str) -> String {
    let spec = &fixed.spec;
    let mut text = String::new();
    let host_lines =
        |word: &'static str| host.lines().filter(move |line| line.split_whitespace().next() == Some(word));
    let lines = |word: &'static str, own: &[String], join: bool, text: &mut String| {
        if own.is_empty() {
            for line in host_lines(word) {
                text.push_str(line);
                text.push('\n');
            }
        } else if join {
            text.push_str(&format!("{word} {}\n", own.join(" ")));
        } else {
            for value in own {
                text.push_str(&format!("{word} {value}\n"));
            }
        }
    };
    lines("nameserver", &spec.dns, false, &mut text);
    // A single dot means: no search domain at all.
    if spec.dns_search != ["."] {
        lines("search", &spec.dns_search, true, &mut text);
    }
    lines("options", &spec.dns_options, true, &mut text);
    text
}
