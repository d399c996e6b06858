//! Images as their users see them: archives in, names and layers out, and everything gone after removal.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

mod archives;
mod attested;
mod fsck;
mod names;
mod transfers;

use std::path::Path;
use std::sync::Arc;

use havre_image::{ImageUser, Images};
use havre_oci::image::{History, ImageConfig, RootFs};
use havre_oci::{Digest, Platform};
use havre_registry::{Registries, Settings};
use havre_store::Db;
use havre_store::tar::{Entry, Kind, TarWriter};

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) images: Arc<Images>,
}

pub(crate) fn world() -> World {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let images = open(folder.path());
    World { folder, images }
}

fn open(folder: &Path) -> Arc<Images> {
    let pause = std::time::Duration::from_millis(1);
    let registries = Registries::new(Settings { certs: folder.into(), pause, ..Settings::default() });
    let db = Arc::new(Db::open(&folder.join("state.db")).unwrap());
    Arc::new(Images::open(folder, db, Arc::new(registries)).unwrap())
}

impl World {
    /// The same data, as a daemon started again finds it.
    pub(crate) fn restarted(self) -> Self {
        let Self { folder, images } = self;
        drop(images);
        let images = open(folder.path());
        Self { folder, images }
    }

    pub(crate) fn load(&self, archive: &[u8]) -> Result<Vec<String>, String> {
        let loaded = self.images.load(archive, &[], &mut |_| {}).map_err(|e| havre_base::chain(&e))?;
        Ok(loaded.iter().flat_map(|image| image.names.iter().map(|name| name.familiar())).collect())
    }

    /// Names of all files below the layers' and documents' folders.
    pub(crate) fn stored(&self) -> Vec<String> {
        let mut all = Vec::new();
        for folder in ["snapshots/layers", "content/blobs/sha256", "content/ingest"] {
            for entry in std::fs::read_dir(self.folder.path().join(folder)).unwrap() {
                all.push(entry.unwrap().file_name().into_string().unwrap());
            }
        }
        all.retain(|name| name != "empty");
        all.sort();
        all
    }
}

pub(crate) fn nobody(_: &Digest) -> Vec<ImageUser> {
    Vec::new()
}

pub(crate) fn entry(path: &str) -> Entry {
    Entry { path: path.into(), mode: 0o644, ..Entry::default() }
}

pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (path, content) in files {
        match path.split_once(" -> ") {
            Some((path, target)) => {
                let link = Entry { kind: Kind::Symlink, link: target.into(), ..entry(path) };
                tar.entry(link, b"").unwrap();
            }
            None => tar.entry(entry(path), content).unwrap(),
        }
    }
    tar.finish().unwrap()
}

/// A configuration for these layers.
pub(crate) fn config(layers: &[&[u8]], change: impl FnOnce(&mut ImageConfig)) -> Vec<u8> {
    let host = Platform::host();
    let mut config = ImageConfig {
        created: Some("2026-01-01T00:00:00Z".into()),
        architecture: host.architecture,
        os: host.os,
        rootfs: RootFs {
            diff_ids: layers.iter().map(|layer| Digest::of_bytes(layer)).collect(),
            ..RootFs::default()
        },
        history: layers.iter().map(|_| History { created_by: "step".into(), ..History::default() }).collect(),
        ..ImageConfig::default()
    };
    change(&mut config);
    serde_json::to_vec(&config).unwrap()
}

/// A docker-archive with one image.
pub(crate) fn archive(name: &str, layers: &[&[u8]], change: impl FnOnce(&mut ImageConfig)) -> Vec<u8> {
    let config = config(layers, change);
    let paths: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest =
        serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": paths }]).to_string();
    let mut files: Vec<(&str, &[u8])> =
        paths.iter().map(String::as_str).zip(layers.iter().copied()).collect();
    files.push(("config.json", &config));
    files.push(("manifest.json", manifest.as_bytes()));
    tar(&files)
}
