//! Making an image from what a container changed.
//!
//! Invariant: the new image is recorded when its layer and its configuration are durable, and not before; what
//! a crash leaves is removed by the next start's sweep.

use std::path::Path;

use havre_base::ContainerId;
use havre_oci::image::{ContainerConfig, History, ImageConfig, RootFs};
use havre_oci::{Digest, Platform, Reference};
use havre_store::StoreError;

use crate::index::Pins;
use crate::state::{ImageRecord, Known};
use crate::{Image, ImageError, Images, MAX_LAYERS, Result, change};

/// How the image is to be.
#[derive(Debug, Clone, Default)]
pub struct CommitSpec {
    /// Its name.
    pub reference: Option<Reference>,
    /// By whom.
    pub author: String,
    /// A note for its history.
    pub comment: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// How its containers start, where the user says so.
    pub asked: ContainerConfig,
    /// How the container started, for the rest.
    pub container: ContainerConfig,
    /// The command that made the changes.
    pub created_by: String,
}

impl Images {
    /// Makes an image of what the container wrote (`upper`, see [`Images::difference`]) on top of the image it came from. `skip` names what
    /// the engine itself put there. `whole` says afterwards whether the layer was there all the time.
    pub fn commit(
        &self,
        container: &ContainerId,
        parent: &Digest,
        spec: CommitSpec,
        skip: &(dyn Fn(&[u8]) -> bool + Sync),
        upper: &Path,
        whole: &dyn Fn() -> bool,
    ) -> Result<Image> {
        if spec.reference.as_ref().is_some_and(|reference| reference.digest().is_some()) {
            return Err(ImageError::TagWithDigest);
        }
        let mut config = spec.asked;
        change::apply(&mut config, &spec.changes)?;
        inherit(&mut config, spec.container);
        let pins = Pins::new(self);
        let (below, mut document) = self.base(container, parent, &pins);
        if below.len() >= MAX_LAYERS {
            return Err(ImageError::Archive("max depth exceeded".into()));
        }
        let layer = self.snapshots.capture(upper, skip)?;
        if !whole() {
            return Err(ImageError::Archive(format!("container {container} was removed meanwhile")));
        }
        let created = Self::now().to_string();
        document.created = Some(created.clone());
        document.author.clone_from(&spec.author);
        document.comment.clone_from(&spec.comment);
        document.config = config;
        document.history.push(History {
            created: Some(created),
            created_by: spec.created_by,
            author: spec.author,
            comment: spec.comment,
            empty_layer: layer.is_none(),
        });
        document.rootfs = RootFs { diff_ids: below, ..RootFs::default() };
        if let Some(layer) = layer {
            let diff_id = layer.info.diff_id.clone();
            pins.pin(&diff_id);
            document.rootfs.diff_ids.push(diff_id);
            self.snapshots.commit(vec![layer])?;
        }
        let text = serde_json::to_vec(&document).map_err(|e| StoreError::Encode(e.into()))?;
        let id = Digest::of_bytes(&text);
        pins.pin(&id);
        self.content.put(&text)?;
        let record = ImageRecord { parent: self.get(parent).map(|image| image.id), ..ImageRecord::default() };
        let missing = || ImageError::NotFound(id.to_string());
        let known = Known::read(id.clone(), record, &self.content, &self.snapshots).ok_or_else(missing)?;
        let tags: Vec<_> = spec.reference.into_iter().map(|name| (name, id.clone())).collect();
        self.add(vec![known], Vec::new(), tags)?;
        self.get(&id).ok_or_else(missing)
    }

    /// The layers below the container's, and what is kept of its image's configuration.
    fn base(&self, container: &ContainerId, parent: &Digest, pins: &Pins<'_>) -> (Vec<Digest>, ImageConfig) {
        let (layers, image) = {
            let state = self.state();
            (state.writables().get(container).cloned().unwrap_or_default(), state.image(parent))
        };
        layers.iter().for_each(|layer| pins.pin(layer));
        let host = Platform::host();
        let document = match image {
            Some(image) => ImageConfig {
                architecture: image.config.architecture.clone(),
                variant: image.config.variant.clone(),
                os: image.config.os.clone(),
                os_version: image.config.os_version.clone(),
                history: image.config.history.clone(),
                ..ImageConfig::default()
            },
            // Removed by force; its layers are here as long as the container.
            None => ImageConfig {
                architecture: host.architecture,
                variant: host.variant,
                os: host.os,
                ..ImageConfig::default()
            },
        };
        (layers, document)
    }
}

/// Fills in from the container what the user did not say, as Docker does.
fn inherit(config: &mut ContainerConfig, container: ContainerConfig) {
    let text = |own: &mut String, other: String| {
        if own.is_empty() {
            *own = other;
        }
    };
    text(&mut config.user, container.user);
    text(&mut config.working_dir, container.working_dir);
    text(&mut config.stop_signal, container.stop_signal);
    config.stop_timeout = config.stop_timeout.or(container.stop_timeout);
    for (port, empty) in container.exposed_ports {
        config.exposed_ports.entry(port).or_insert(empty);
    }
    for (folder, empty) in container.volumes {
        config.volumes.entry(folder).or_insert(empty);
    }
    for (label, value) in container.labels {
        config.labels.entry(label).or_insert(value);
    }
    let name = |entry: &str| entry.split_once('=').map_or(entry, |(name, _)| name).to_owned();
    let known: Vec<String> = config.env.iter().map(|entry| name(entry)).collect();
    config.env.extend(container.env.into_iter().filter(|entry| !known.contains(&name(entry))));
    let empty = |words: &Option<Vec<String>>| words.as_ref().is_none_or(Vec::is_empty);
    if empty(&config.entrypoint) {
        if empty(&config.cmd) {
            config.cmd = container.cmd;
            config.args_escaped = container.args_escaped;
        }
        if config.entrypoint.is_none() {
            config.entrypoint = container.entrypoint;
        }
    }
    if config.healthcheck.is_none() {
        config.healthcheck = container.healthcheck;
    }
    config.shell = config.shell.take().or(container.shell);
    if config.on_build.is_empty() {
        config.on_build = container.on_build;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_says_wins_and_the_rest_is_the_containers() {
        let words = |text: &str| Some(text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let container = ContainerConfig {
            user: "bob".into(),
            env: vec!["A=1".into(), "B=2".into()],
            cmd: words("sleep 1"),
            entrypoint: words("/init"),
            labels: [("a".to_owned(), "1".to_owned())].into(),
            ..ContainerConfig::default()
        };
        let mut config = ContainerConfig { env: vec!["B=3".into()], ..ContainerConfig::default() };
        inherit(&mut config, container.clone());
        assert_eq!(config.env, ["B=3", "A=1"]);
        assert_eq!((config.user.as_str(), config.cmd), ("bob", words("sleep 1")));
        assert_eq!(config.entrypoint, words("/init"));
        let mut config = ContainerConfig { cmd: words("ls"), ..ContainerConfig::default() };
        inherit(&mut config, container.clone());
        assert_eq!((config.cmd, config.entrypoint), (words("ls"), words("/init")));
        let mut config = ContainerConfig { entrypoint: words("/x"), ..ContainerConfig::default() };
        inherit(&mut config, container);
        assert_eq!((config.cmd, config.entrypoint), (None, words("/x")));
    }
}
