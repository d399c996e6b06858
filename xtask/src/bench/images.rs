//! Images as files and from and to Debian's `docker-registry` on loopback: each measure with three images.
//!
//! Beside the engines stand, where they can do the same, podman, skopeo, and plain `tar`, one process for each layer and
//! with the sync that an engine owes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{settle, timed};
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

/// Ends the registry, and podman's store, whose folders are mounted.
pub(super) fn end(folder: &Path) {
    if let Some((mut child, _)) = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ended = child.kill();
        let _gone = child.wait();
    }
    if folder.join("podman").exists() {
        let _reset = process::output(podman(folder).args(["system", "reset", "--force"]));
    }
}

/// Which image.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// 300 MB in six layers of 6,000 files.
    Large,
    /// What is in this machine's `/usr`, a Debian's: up to 1 GB and 40,000 files in one layer.
    Debian,
    /// 6 MB in sixty layers.
    Many,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Large => "large",
            Self::Debian => "debian",
            Self::Many => "many",
        }
    }

    /// Its name in engines.
    fn local(self) -> String {
        format!("bench-{}:latest", self.name())
    }

    /// Its archive, made when it is first asked for, and the megabytes in it.
    fn archive(self, folder: &Path) -> Result<PathBuf> {
        let own = folder.join(self.name());
        let path = own.join("image.tar");
        if !path.exists() {
            std::fs::create_dir_all(&own)?;
            let made = match self {
                Self::Large => havre_testkit::layered_archive(&own, 300, 6)?,
                Self::Many => havre_testkit::layered_archive(&own, 6, 60)?,
                Self::Debian => debian(&own)?,
            };
            #[expect(clippy::disallowed_methods, reason = "a file of a bench: what is lost is made again")]
            std::fs::rename(made, &path)?;
        }
        Ok(path)
    }

    fn load(self, engine: &Engine, folder: &Path) -> Result<String> {
        engine.client(&["load", "-i", &self.archive(folder)?.to_string_lossy()])?;
        // Archives of one maker have one name in them.
        if !matches!(self, Self::Debian) {
            engine.client(&["tag", "bench-layers:latest", &self.local()])?;
            engine.client(&["rmi", "bench-layers:latest"])?;
        }
        Ok(self.local())
    }

    /// Makes sure that it is at the registry; its name there.
    fn pushed(self, engine: &Engine, folder: &Path) -> Result<String> {
        let image = format!("{}/{}:1", host(folder)?, self.name());
        let done = folder.join(format!("{}.pushed", self.name()));
        if !done.exists() {
            let local = self.load(engine, folder)?;
            engine.client(&["tag", &local, &image])?;
            engine.client(&["push", "-q", &image])?;
            engine.client(&["rmi", "-f", &local, &image])?;
            std::fs::write(&done, "")?;
        }
        Ok(image)
    }

    /// Its layers as a registry has them, each a file.
    fn blobs(self, folder: &Path) -> Result<Vec<PathBuf>> {
        let out = folder.join(format!("{}.blobs", self.name()));
        if !out.exists() {
            let from = format!("docker://{}/{}:1", host(folder)?, self.name());
            let mut copy = Command::new(process::find("skopeo").context("skopeo is not installed")?);
            copy.args(["copy", "-q", "--src-tls-verify=false", &from]).arg(format!("dir:{}", out.display()));
            process::output(&mut copy)?;
        }
        let mut layers = Vec::new();
        for entry in std::fs::read_dir(&out)?.flatten() {
            let mut magic = [0; 2];
            let mut file = std::fs::File::open(entry.path())?;
            if std::io::Read::read_exact(&mut file, &mut magic).is_ok() && magic == [0x1f, 0x8b] {
                layers.push(entry.path());
            }
        }
        Ok(layers)
    }
}

/// Packs part of `/usr`.
fn debian(folder: &Path) -> Result<PathBuf> {
    const FILES: usize = 40_000;
    const BYTES: u64 = 1_000_000_000;
    let (mut files, mut bytes) = (0, 0);
    let mut list = Vec::new();
    let mut open = vec![PathBuf::from("/usr")];
    while let Some(path) = open.pop() {
        let Ok(meta) = path.symlink_metadata() else { continue };
        // Some are larger than all others together.
        if meta.len() > 30_000_000 || bytes + meta.len() > BYTES || files >= FILES {
            continue;
        }
        if meta.is_dir() {
            let mut inside: Vec<PathBuf> =
                std::fs::read_dir(&path)?.flatten().map(|entry| entry.path()).collect();
            inside.sort();
            open.extend(inside.into_iter().rev());
        } else if meta.is_file() {
            (files, bytes) = (files + 1, bytes + meta.len());
        }
        list.extend(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
        list.push(0);
    }
    std::fs::write(folder.join("list"), list)?;
    let image = folder.join("image");
    std::fs::create_dir_all(&image)?;
    let mut tar = Command::new("tar");
    tar.args([
        "--null",
        "--no-recursion",
        "--numeric-owner",
        "--absolute-names",
        "--transform=s,^/,,",
        "-cf",
    ]);
    tar.arg(image.join("layer.tar")).arg("-T").arg(folder.join("list")).stderr(Stdio::null());
    tar.status().context("cannot run tar")?;
    let sum = process::output(Command::new("sha256sum").arg(image.join("layer.tar")))?;
    let digest = sum.split(' ').next().context("no digest")?;
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created_by": "tar"}],
    });
    std::fs::write(image.join("config.json"), config.to_string())?;
    let names = [Kind::Debian.local()];
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": names, "Layers": ["layer.tar"]}]);
    std::fs::write(image.join("manifest.json"), manifest.to_string())?;
    let path = folder.join("made.tar");
    process::output(Command::new("tar").arg("-cf").arg(&path).arg("-C").arg(&image).arg("."))?;
    println!("  (the Debian image: {files} files, {} MB)", bytes / 1_000_000);
    std::fs::remove_dir_all(&image)?;
    Ok(path)
}

pub(super) fn load(engine: &Engine, folder: &Path, kind: Kind) -> Result<f64> {
    let archive = kind.archive(folder)?;
    let taken = timed(engine, &["load", "-q", "-i", &archive.to_string_lossy()]);
    let name = if matches!(kind, Kind::Debian) { kind.local() } else { "bench-layers:latest".into() };
    engine.client(&["rmi", "-f", &name])?;
    taken
}

pub(super) fn save(engine: &Engine, folder: &Path, kind: Kind) -> Result<f64> {
    let out = folder.join(format!("saved-{}", engine.name));
    let local = kind.load(engine, folder)?;
    let taken = timed(engine, &["save", "-o", &out.to_string_lossy(), &local]);
    engine.client(&["rmi", "-f", &local])?;
    std::fs::remove_file(&out)?;
    taken
}

/// The answer to a removal; what it removes goes behind it.
pub(super) fn remove(engine: &Engine, folder: &Path, kind: Kind) -> Result<f64> {
    let local = kind.load(engine, folder)?;
    timed(engine, &["rmi", &local])
}

pub(super) fn pull(engine: &Engine, folder: &Path, kind: Kind) -> Result<f64> {
    let image = kind.pushed(engine, folder)?;
    let taken = timed(engine, &["pull", "-q", &image]);
    engine.client(&["rmi", &image])?;
    taken
}

/// A pull of what is here already.
pub(super) fn pull_again(engine: &Engine, folder: &Path) -> Result<f64> {
    let image = Kind::Many.pushed(engine, folder)?;
    engine.client(&["pull", "-q", &image])?;
    let taken = timed(engine, &["pull", "-q", &image]);
    engine.client(&["rmi", &image])?;
    taken
}

/// The most memory the daemon had during a pull, its program included, in MiB.
pub(super) fn pull_memory(engine: &Engine, folder: &Path) -> Result<f64> {
    let image = Kind::Debian.pushed(engine, folder)?;
    let process = PathBuf::from(format!("/proc/{}", engine.pid()));
    // Starts the count anew; see proc(5).
    std::fs::write(process.join("clear_refs"), "5")?;
    engine.client(&["pull", "-q", &image])?;
    let status = std::fs::read_to_string(process.join("status"))?;
    engine.client(&["rmi", &image])?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1024.0)
}

/// To a registry that has none of it, from an engine that remembers no registry that has.
pub(super) fn push(engine: &Engine, folder: &Path, kind: Kind) -> Result<f64> {
    let host = host(folder)?;
    let local = kind.load(engine, folder)?;
    forget_blobs(folder)?;
    let image = format!("{host}/{}-{}:1", engine.name, kind.name());
    engine.client(&["tag", &local, &image])?;
    let taken = timed(engine, &["push", "-q", &image]);
    engine.client(&["rmi", "-f", &local, &image])?;
    taken
}

/// The registry forgets everything, as a new one would.
fn forget_blobs(folder: &Path) -> Result<()> {
    let data = folder.join("registry");
    if data.exists() {
        std::fs::remove_dir_all(&data)?;
    }
    for kind in [Kind::Large, Kind::Debian, Kind::Many] {
        let done = folder.join(format!("{}.pushed", kind.name()));
        if done.exists() {
            std::fs::remove_file(done)?;
        }
    }
    Ok(())
}

fn podman(folder: &Path) -> Command {
    let own = folder.join("podman");
    let mut command = Command::new("podman");
    command.arg("--root").arg(own.join("root")).arg("--runroot").arg(own.join("run"));
    command.arg("--tmpdir").arg(own.join("tmp")).args(["--storage-driver", "overlay"]);
    command.stdin(Stdio::null());
    command
}

fn lasts(command: &mut Command) -> Result<f64> {
    settle()?;
    let started = Instant::now();
    process::output(command)?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

pub(super) fn podman_pull(folder: &Path, kind: Kind) -> Result<f64> {
    process::find("podman").context("podman is not installed")?;
    let image = format!("{}/{}:1", host(folder)?, kind.name());
    let taken = lasts(podman(folder).args(["pull", "-q", "--tls-verify=false", &image]));
    process::output(podman(folder).args(["rmi", "-f", &image]))?;
    taken
}

pub(super) fn podman_push(folder: &Path, kind: Kind) -> Result<f64> {
    process::find("podman").context("podman is not installed")?;
    let host = host(folder)?;
    let archive = kind.archive(folder)?;
    process::output(podman(folder).args(["load", "-q", "-i", &archive.to_string_lossy()]))?;
    forget_blobs(folder)?;
    let local = if matches!(kind, Kind::Debian) { kind.local() } else { "bench-layers:latest".to_owned() };
    let to = format!("{host}/podman-{}:1", kind.name());
    let local = format!("localhost/{local}");
    let taken = lasts(podman(folder).args(["push", "-q", "--tls-verify=false", &local, &to]));
    process::output(podman(folder).args(["rmi", "-f", &local]))?;
    taken
}

/// Extracts files in parallel, one process each, and waits for the disk.
fn extract(folder: &Path, archives: &[(PathBuf, &str)]) -> Result<f64> {
    let out = folder.join("extracted");
    settle()?;
    let started = Instant::now();
    let mut children = Vec::new();
    for (number, (archive, flags)) in archives.iter().enumerate() {
        let into = out.join(number.to_string());
        std::fs::create_dir_all(&into)?;
        let mut tar = Command::new("tar");
        tar.arg(flags).arg(archive).arg("-C").arg(&into).args(["--numeric-owner", "--xattrs"]);
        children.push(tar.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    for mut child in children {
        child.wait()?;
    }
    process::output(Command::new("sync").arg("-f").arg(&out))?;
    let taken = started.elapsed().as_secs_f64() * 1e3;
    std::fs::remove_dir_all(&out)?;
    Ok(taken)
}

/// What `tar` needs for the layers as a registry has them.
pub(super) fn tar_pull(folder: &Path, kind: Kind) -> Result<f64> {
    let layers: Vec<(PathBuf, &str)> = kind.blobs(folder)?.into_iter().map(|path| (path, "-xzf")).collect();
    extract(folder, &layers)
}

/// What `tar` needs for the layers of the archive.
pub(super) fn tar_load(folder: &Path, kind: Kind) -> Result<f64> {
    let inside = folder.join(kind.name()).join("unpacked");
    if !inside.exists() {
        std::fs::create_dir_all(&inside)?;
        process::output(Command::new("tar").arg("-xf").arg(kind.archive(folder)?).arg("-C").arg(&inside))?;
    }
    let mut layers = Vec::new();
    let mut open = vec![inside];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path)?.flatten() {
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if entry.path().extension().is_none_or(|ext| ext == "tar") && is_tar(&entry.path())? {
                layers.push((entry.path(), "-xf"));
            }
        }
    }
    extract(folder, &layers)
}

fn is_tar(path: &Path) -> Result<bool> {
    let mut head = [0; 262];
    let mut file = std::fs::File::open(path)?;
    Ok(std::io::Read::read_exact(&mut file, &mut head).is_ok() && head.ends_with(b"ustar"))
}

/// How many images `system df` is asked about.
const IMAGES: usize = 1000;

/// `system df` with a thousand images, through the client.
pub(super) fn disk_usage(engine: &Engine, folder: &Path) -> Result<f64> {
    let archive = folder.join("thousand.tar");
    if !archive.exists() {
        thousand(&archive)?;
    }
    let done = folder.join(format!("{}.thousand", engine.name));
    if !done.exists() {
        engine.client(&["load", "-q", "-i", &archive.to_string_lossy()])?;
        std::fs::write(&done, "")?;
    }
    timed(engine, &["system", "df"])
}

/// Removes the thousand images again; milliseconds.
pub(super) fn prune(engine: &Engine, folder: &Path) -> Result<f64> {
    let done = folder.join(format!("{}.thousand", engine.name));
    if !done.exists() {
        disk_usage(engine, folder)?;
    }
    let taken = timed(engine, &["image", "prune", "-af", "--filter", "label=bench=thousand"]);
    std::fs::remove_file(&done)?;
    taken
}

/// An archive of a thousand images, each with a layer of its own above a common one.
fn thousand(path: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(path.parent().context("no folder")?)?;
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, bytes: &[u8]| -> Result<String> {
        std::fs::write(at(name), bytes)?;
        Ok(name.to_owned())
    };
    let base = havre_testkit::Layer::new().file("base", 0o644, &vec![7; 1_000_000])?.finish()?;
    write("base.tar", &base)?;
    let mut lines = Vec::new();
    for number in 0..IMAGES {
        let own = havre_testkit::Layer::new().file("own", 0o644, number.to_string().as_bytes())?.finish()?;
        write(&format!("{number}.tar"), &own)?;
    }
    let sums = process::output(Command::new("sh").arg("-c").arg("sha256sum *.tar").current_dir(&folder))?;
    let sums: std::collections::BTreeMap<&str, &str> =
        sums.lines().filter_map(|line| line.split_once("  ")).map(|(sum, name)| (name, sum)).collect();
    let sum = |name: &str| sums.get(name).map(|sum| format!("sha256:{sum}")).context("no digest");
    for number in 0..IMAGES {
        let own = format!("{number}.tar");
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Labels": {"bench": "thousand"}},
            "rootfs": {"type": "layers", "diff_ids": [sum("base.tar")?, sum(&own)?]},
            "history": [{"created_by": "base"}, {"created_by": "own"}],
        });
        let config = write(&format!("{number}.json"), config.to_string().as_bytes())?;
        lines.push(serde_json::json!({
            "Config": config, "RepoTags": [format!("thousand:{number}")], "Layers": ["base.tar", own],
        }));
    }
    let mut manifest = std::fs::File::create(at("manifest.json"))?;
    manifest.write_all(serde_json::Value::from(lines).to_string().as_bytes())?;
    process::output(Command::new("tar").arg("-cf").arg(path).arg("-C").arg(folder.path()).arg(".")).map(drop)
}
