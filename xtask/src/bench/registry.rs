//! Images from and to Debian's `docker-registry` on loopback.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::timed;
use crate::engine::Engine;
use crate::process;

/// The registry, while there is one, and its address.
static REGISTRY: Mutex<Option<(Child, String)>> = Mutex::new(None);

/// The address of the registry, started when it is first asked for.
fn host(folder: &Path) -> Result<String> {
    let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, host)) = registry.as_ref() {
        return Ok(host.clone());
    }
    let program = process::find("docker-registry").context("docker-registry is not installed")?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let host = format!("127.0.0.1:{port}");
    let (config, data) = (folder.join("registry.yml"), folder.join("registry"));
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: {host}}}\n",
        data.display()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(program);
    command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().context("cannot start docker-registry")?;
    *registry = Some((child, host.clone()));
    for _ in 0..200 {
        if std::net::TcpStream::connect(&host).is_ok() {
            return Ok(host);
        }
        process::pause(50);
    }
    bail!("docker-registry does not listen")
}

/// Ends the registry.
pub(super) fn end() {
    if let Some((mut child, _)) = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ended = child.kill();
        let _gone = child.wait();
    }
}

/// 300 MB in six layers of 6,000 files, or 6 MB in sixty.
#[derive(Clone, Copy)]
enum Kind {
    Large,
    Many,
}

/// Makes sure that the image is at the registry; its name there.
fn pushed(engine: &Engine, folder: &Path, kind: Kind) -> Result<String> {
    let (name, megabytes, layers) = match kind {
        Kind::Large => ("large", 300, 6),
        Kind::Many => ("many", 6, 60),
    };
    let image = format!("{}/{name}:1", host(folder)?);
    let done = folder.join(format!("{name}.pushed"));
    if !done.exists() {
        let own = folder.join(name);
        std::fs::create_dir_all(&own)?;
        let archive = havre_testkit::layered_archive(&own, megabytes, layers)?;
        engine.client(&["load", "-i", &archive.to_string_lossy()])?;
        engine.client(&["tag", "bench-layers:latest", &image])?;
        engine.client(&["push", "-q", &image])?;
        engine.client(&["rmi", "-f", "bench-layers:latest", &image])?;
        std::fs::write(&done, "")?;
    }
    Ok(image)
}

fn pull(engine: &Engine, folder: &Path, kind: Kind) -> Result<f64> {
    let image = pushed(engine, folder, kind)?;
    let taken = timed(engine, &["pull", "-q", &image]);
    engine.client(&["rmi", &image])?;
    taken
}

pub(super) fn pull_large(engine: &Engine, folder: &Path) -> Result<f64> {
    pull(engine, folder, Kind::Large)
}

pub(super) fn pull_many(engine: &Engine, folder: &Path) -> Result<f64> {
    pull(engine, folder, Kind::Many)
}

/// A pull of what is here already.
pub(super) fn pull_again(engine: &Engine, folder: &Path) -> Result<f64> {
    let image = pushed(engine, folder, Kind::Many)?;
    engine.client(&["pull", "-q", &image])?;
    let taken = timed(engine, &["pull", "-q", &image]);
    engine.client(&["rmi", &image])?;
    taken
}

/// To a repository of the engine's own, of layers that no registry has: measured once, because an engine remembers.
pub(super) fn push_large(engine: &Engine, folder: &Path) -> Result<f64> {
    let host = host(folder)?;
    let own = folder.join("pushed");
    std::fs::create_dir_all(&own)?;
    // Another size is other layers.
    let megabytes = if engine.name == "havre" { 303 } else { 306 };
    let archive = havre_testkit::layered_archive(&own, megabytes, 6)?;
    engine.client(&["load", "-i", &archive.to_string_lossy()])?;
    let image = format!("{host}/{}/x:1", engine.name);
    engine.client(&["tag", "bench-layers:latest", &image])?;
    let taken = timed(engine, &["push", "-q", &image]);
    engine.client(&["rmi", "-f", "bench-layers:latest", &image])?;
    taken
}

/// The answer to a removal; what it removes goes behind it.
pub(super) fn remove_large(engine: &Engine, folder: &Path) -> Result<f64> {
    let archive = folder.join("layers.tar");
    engine.client(&["load", "-i", &archive.to_string_lossy()])?;
    timed(engine, &["rmi", "bench-layers:latest"])
}

pub(super) fn save(engine: &Engine, folder: &Path) -> Result<f64> {
    let (archive, out) = (folder.join("layers.tar"), folder.join(format!("saved-{}", engine.name)));
    engine.client(&["load", "-i", &archive.to_string_lossy()])?;
    let taken = timed(engine, &["save", "-o", &out.to_string_lossy(), "bench-layers:latest"]);
    engine.client(&["rmi", "bench-layers:latest"])?;
    std::fs::remove_file(&out)?;
    taken
}
