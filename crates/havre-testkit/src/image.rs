//! Images for tests, as archives that `load` understands.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use havre_oci::image::{ContainerConfig, History, ImageConfig, RootFs};
use havre_oci::{Digest, Platform};
use havre_store::tar::TarWriter;
pub use havre_store::tar::{Entry, Kind};

/// A layer being put together.
#[derive(Debug)]
pub struct Layer(TarWriter<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(TarWriter::new(Vec::new()))
    }

    fn entry(mut self, entry: Entry, content: &[u8]) -> Result<Self> {
        self.0.entry(entry, content)?;
        Ok(self)
    }

    /// A file.
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Result<Self> {
        self.entry(Entry { path: path.into(), mode, ..Entry::default() }, content)
    }

    /// A folder.
    pub fn folder(self, path: &str, mode: u32) -> Result<Self> {
        self.entry(Entry { path: path.into(), mode, kind: Kind::Directory, ..Entry::default() }, b"")
    }

    /// A symbolic link.
    pub fn link(self, path: &str, target: &str) -> Result<Self> {
        let link = target.into();
        self.entry(
            Entry { path: path.into(), link, mode: 0o777, kind: Kind::Symlink, ..Entry::default() },
            b"",
        )
    }

    /// Any other entry.
    pub fn other(self, entry: Entry) -> Result<Self> {
        self.entry(entry, b"")
    }

    /// The archive.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.0.finish()?)
    }
}

/// Puts a docker-archive together.
#[derive(Debug, Default)]
pub struct ArchiveBuilder {
    layers: Vec<Vec<u8>>,
    config: ContainerConfig,
}

impl ArchiveBuilder {
    /// No layers, no command.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more layer on top.
    #[must_use]
    pub fn layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    /// How containers of the image start.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Writes the archive with one image of this name.
    pub fn write(self, name: &str, out: impl Write) -> Result<()> {
        let host = Platform::host();
        let created = Some("2026-01-01T00:00:00Z".to_owned());
        let config = ImageConfig {
            created: created.clone(),
            architecture: host.architecture,
            os: host.os,
            config: self.config,
            rootfs: RootFs {
                diff_ids: self.layers.iter().map(|tar| Digest::of_bytes(tar)).collect(),
                ..RootFs::default()
            },
            history: self
                .layers
                .iter()
                .map(|_| History {
                    created: created.clone(),
                    created_by: "havre-testkit".into(),
                    ..History::default()
                })
                .collect(),
            ..ImageConfig::default()
        };
        let text = serde_json::to_vec(&config)?;
        let config_name = format!("{}.json", Digest::of_bytes(&text).hex());
        let mut tar = TarWriter::new(out);
        let mut names = Vec::new();
        let entry = |path: &str| Entry { path: path.into(), mode: 0o644, ..Entry::default() };
        for layer in &self.layers {
            let name = format!("{}/layer.tar", Digest::of_bytes(layer).hex());
            if !names.contains(&name) {
                tar.entry(entry(&name), layer)?;
            }
            names.push(name);
        }
        tar.entry(entry(&config_name), &text)?;
        let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": [name], "Layers": names }]);
        tar.entry(entry("manifest.json"), manifest.to_string().as_bytes())?;
        tar.finish()?.flush()?;
        Ok(())
    }

    /// Writes the archive to a file in `folder` and returns its path.
    pub fn write_to(self, name: &str, folder: &Path, file: &str) -> Result<PathBuf> {
        let path = folder.join(file);
        let out = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        self.write(name, BufWriter::new(out))?;
        Ok(path)
    }
}

/// Writes `busybox:latest`, made from the distribution's static busybox, into `folder`.
pub fn busybox_archive(folder: &Path) -> Result<PathBuf> {
    let program = Path::new("/bin/busybox");
    let bytes = std::fs::read(program).context("cannot read /bin/busybox: install busybox-static")?;
    let list = Command::new(program).arg("--list").output().context("cannot run /bin/busybox")?;
    if !list.status.success() {
        bail!("/bin/busybox --list failed");
    }
    let mut layer = Layer::new();
    for (path, mode) in [
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("proc/", 0o555),
        ("root/", 0o700),
        ("sbin/", 0o755),
        ("sys/", 0o555),
        ("tmp/", 0o1777),
        ("usr/", 0o755),
        ("usr/bin/", 0o755),
        ("usr/sbin/", 0o755),
        ("var/", 0o755),
        ("var/tmp/", 0o1777),
    ] {
        layer = layer.folder(path, mode)?;
    }
    layer = layer.file("bin/busybox", 0o755, &bytes)?;
    for applet in
        String::from_utf8_lossy(&list.stdout).lines().filter(|name| !name.is_empty() && *name != "busybox")
    {
        layer = layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    layer = layer
        .link("usr/bin/env", "../../bin/busybox")?
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nbob:x:1000:1000:bob:/home/bob:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        )?
        .file("etc/group", 0o644, b"root:x:0:\ndaemon:x:1:\nwheel:x:10:root,bob\nbob:x:1000:\nnobody:x:65534:\n")?
        .file("etc/shadow", 0o600, b"root:*:19000:0:99999:7:::\nbob:*:19000:0:99999:7:::\n")?
        .other(Entry { path: b"home/bob/".to_vec(), mode: 0o755, uid: 1000, gid: 1000, kind: Kind::Directory, ..Entry::default() })?;
    let environment = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    ArchiveBuilder::new()
        .layer(layer.finish()?)
        .config(|config| {
            config.cmd = Some(vec!["sh".into()]);
            config.env = vec![environment];
        })
        .write_to("busybox:latest", folder, "busybox.tar")
}

/// Writes `debian:test`, a minimal Debian with a C compiler, and keeps it in the cache folder. `None` when
/// the tools or the network for making it are missing; the reason is printed as a skip.
pub fn debian_archive() -> Result<Option<PathBuf>> {
    let folder = crate::cache_folder();
    let path = folder.join("debian.tar");
    if path.exists() {
        return Ok(Some(path));
    }
    let Some(debootstrap) =
        ["/usr/sbin/debootstrap", "/usr/bin/debootstrap"].into_iter().find(|p| Path::new(p).exists())
    else {
        crate::skip("debootstrap is not installed");
        return Ok(None);
    };
    std::fs::create_dir_all(&folder)?;
    let work = tempfile::tempdir_in(&folder)?;
    let root = work.path().join("root");
    let mut command = Command::new(debootstrap);
    command.args(["--variant=minbase", "--include=gcc,libc6-dev,procps"]).arg(debian_release()).arg(&root);
    command.args(debian_mirror());
    let made = command.output().context("cannot run debootstrap")?;
    if !made.status.success() {
        let text = String::from_utf8_lossy(&made.stdout);
        crate::skip(&format!("debootstrap failed: {}", text.lines().last().unwrap_or_default()));
        return Ok(None);
    }
    let layer = work.path().join("layer.tar");
    let packed = Command::new("tar")
        .args([
            "--sort=name",
            "--numeric-owner",
            "--xattrs",
            "--exclude=./var/cache/apt/archives/*.deb",
            "-C",
        ])
        .arg(&root)
        .arg("-cf")
        .arg(&layer)
        .arg(".")
        .status()
        .context("cannot run tar")?;
    if !packed.success() {
        bail!("tar failed");
    }
    let unfinished = work.path().join("debian.tar");
    ArchiveBuilder::new()
        .layer(std::fs::read(&layer)?)
        .config(|config| {
            config.cmd = Some(vec!["bash".into()]);
            config.env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()];
        })
        .write("debian:test", BufWriter::new(File::create(&unfinished)?))?;
    // A copy, not a rename: another test may be making the same.
    std::fs::hard_link(&unfinished, &path)
        .or_else(|error| if path.exists() { Ok(()) } else { Err(error) })?;
    Ok(Some(path))
}

/// The release this machine runs.
fn debian_release() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.map_or_else(|| "stable".into(), |name| name.trim_matches('"').to_owned())
}

/// The mirror this machine's packages come from, among all other sources of packages.
fn debian_mirror() -> Option<String> {
    let mut text = std::fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    for entry in std::fs::read_dir("/etc/apt/sources.list.d").ok().into_iter().flatten().flatten() {
        text.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
    }
    let words = text.lines().filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
    words
        .flat_map(str::split_whitespace)
        .find(|word| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
}

/// Writes an image of about `megabytes` in `layers` layers with many small and some large files, whose
/// content compresses like programs do, as `bench-layers:latest`.
pub fn layered_archive(folder: &Path, megabytes: usize, layers: usize) -> Result<PathBuf> {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut builder = ArchiveBuilder::new();
    let share = megabytes * 1_000_000 / layers.max(1);
    for number in 0..layers {
        let mut layer = Layer::new();
        let (mut written, mut file) = (0, 0_usize);
        while written < share {
            // Sizes as in /usr: most files are small, most bytes are in large ones.
            let size = match file % 20 {
                0 => 200_000,
                1..=3 => 40_000,
                _ => 4_000,
            };
            let path = format!("usr/lib{number}/d{}/f{file}", file / 50);
            if file.is_multiple_of(50) {
                layer = layer.folder(&format!("usr/lib{number}/d{}/", file / 50), 0o755)?;
            }
            let mut content = vec![0; size];
            noise.read_exact(&mut content)?;
            layer = layer.file(&path, 0o644, &content)?;
            (written, file) = (written + size, file + 1);
        }
        builder = builder.layer(layer.finish()?);
    }
    builder.write_to("bench-layers:latest", folder, "layers.tar")
}

/// The same bytes each time: runs of random letters and of repetitions.
struct Noise(u64);

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for block in buffer.chunks_mut(16) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let bytes = self.0.to_le_bytes();
            for (at, byte) in block.iter_mut().enumerate() {
                *byte = if at < 8 { bytes[at] } else { 0 };
            }
        }
        Ok(buffer.len())
    }
}

/// Labels for an image, from pairs.
#[must_use]
pub fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busybox_image_is_the_same_each_time() {
        if !Path::new("/bin/busybox").exists() {
            return crate::skip("busybox-static is not installed");
        }
        let folder = tempfile::tempdir().unwrap();
        let first = std::fs::read(busybox_archive(folder.path()).unwrap()).unwrap();
        let second = std::fs::read(busybox_archive(folder.path()).unwrap()).unwrap();
        assert!(first == second);
    }

    #[test]
    #[ignore = "takes a minute and the distribution's mirror"]
    fn the_debian_image_can_be_made() {
        let path = debian_archive().unwrap().unwrap();
        assert!(path.metadata().unwrap().len() > 100_000_000);
    }
}
