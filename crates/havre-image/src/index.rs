//! What is known of images, names and containers' layers, in memory, with what is counted of them.
//!
//! Invariant: the counts are those of the maps. So the maps change only here, and whether something is needed, which
//! names an image has, and how much is on disk are answered without a walk over all images.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use havre_base::ContainerId;
use havre_oci::{Digest, Reference};

use crate::state::{Known, KnownBlob};
use crate::{Image, ImageError, Images};

/// How often a layer is needed.
#[derive(Debug, Default)]
struct Users {
    images: usize,
    containers: usize,
    /// Bytes of its files; known while an image has it.
    size: u64,
}

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct State {
    images: BTreeMap<Digest, Known>,
    tags: BTreeMap<Reference, Digest>,
    /// The layers below each container's writable one.
    writables: HashMap<ContainerId, Vec<Digest>>,
    /// In which form layers are at registries, by diff id.
    pub(crate) blobs: HashMap<Digest, Vec<KnownBlob>>,
    /// What running operations rely on, and how many do.
    pub(crate) pins: HashMap<Digest, usize>,
    names: HashMap<Digest, BTreeSet<Reference>>,
    /// How many images were made from an image here.
    children: HashMap<Digest, usize>,
    layers: HashMap<Digest, Users>,
    /// How many images have some content as their configuration or document.
    contents: HashMap<Digest, usize>,
    /// Bytes of the layers that images have, each once.
    size: u64,
}

fn less(counts: &mut HashMap<Digest, usize>, key: &Digest) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Each layer once, however often an image has it.
fn distinct(known: &Known) -> BTreeMap<&Digest, u64> {
    known.config.rootfs.diff_ids.iter().zip(known.sizes.iter().copied()).collect()
}

impl State {
    /// All images by their ids.
    pub(crate) const fn images(&self) -> &BTreeMap<Digest, Known> {
        &self.images
    }

    /// All names, and where they lead.
    pub(crate) const fn tags(&self) -> &BTreeMap<Reference, Digest> {
        &self.tags
    }

    /// The layers below each container's writable one.
    pub(crate) const fn writables(&self) -> &HashMap<ContainerId, Vec<Digest>> {
        &self.writables
    }

    pub(crate) fn image(&self, id: &Digest) -> Option<Image> {
        self.images.get(id).map(|known| Image { id: known.id.clone(), config: Arc::clone(&known.config) })
    }

    /// Adds an image, or puts it in place of what was known of it.
    pub(crate) fn insert_image(&mut self, known: Known) {
        self.remove_image(&known.id);
        for content in known.contents() {
            *self.contents.entry(content.clone()).or_default() += 1;
        }
        for (layer, size) in distinct(&known) {
            let users = self.layers.entry(layer.clone()).or_default();
            if users.images == 0 {
                users.size = size;
                self.size += size;
            }
            users.images += 1;
        }
        if let Some(parent) = &known.record.parent {
            *self.children.entry(parent.clone()).or_default() += 1;
        }
        self.images.insert(known.id.clone(), known);
    }

    /// Forgets an image; its names stay.
    pub(crate) fn remove_image(&mut self, id: &Digest) -> Option<Known> {
        let known = self.images.remove(id)?;
        for content in known.contents() {
            less(&mut self.contents, content);
        }
        for layer in distinct(&known).into_keys() {
            if let Some(users) = self.layers.get_mut(layer) {
                users.images -= 1;
                if users.images == 0 {
                    self.size -= users.size;
                }
            }
            self.forget_unused(layer);
        }
        if let Some(parent) = &known.record.parent {
            less(&mut self.children, parent);
        }
        Some(known)
    }

    /// Changes what is known of an image.
    pub(crate) fn change_image(&mut self, id: &Digest, change: impl FnOnce(&mut Known)) {
        if let Some(mut known) = self.images.get(id).cloned() {
            change(&mut known);
            self.insert_image(known);
        }
    }

    /// Leads a name to an image, away from the one that had it.
    pub(crate) fn insert_tag(&mut self, name: Reference, id: Digest) {
        self.remove_tag(&name);
        self.names.entry(id.clone()).or_default().insert(name.clone());
        self.tags.insert(name, id);
    }

    pub(crate) fn remove_tag(&mut self, name: &Reference) {
        let Some(id) = self.tags.remove(name) else { return };
        if let Some(names) = self.names.get_mut(&id) {
            names.remove(name);
            if names.is_empty() {
                self.names.remove(&id);
            }
        }
    }

    pub(crate) fn insert_writable(&mut self, container: ContainerId, layers: Vec<Digest>) {
        self.remove_writable(&container);
        for layer in layers.iter().collect::<BTreeSet<_>>() {
            self.layers.entry(layer.clone()).or_default().containers += 1;
        }
        self.writables.insert(container, layers);
    }

    pub(crate) fn remove_writable(&mut self, container: &ContainerId) -> Option<Vec<Digest>> {
        let layers = self.writables.remove(container)?;
        for layer in layers.iter().collect::<BTreeSet<_>>() {
            if let Some(users) = self.layers.get_mut(layer) {
                users.containers -= 1;
            }
            self.forget_unused(layer);
        }
        Some(layers)
    }

    fn forget_unused(&mut self, layer: &Digest) {
        if self.layers.get(layer).is_some_and(|users| users.images + users.containers == 0) {
            self.layers.remove(layer);
        }
    }

    /// The names of an image, in their order.
    pub(crate) fn names<'a>(&'a self, id: &Digest) -> impl Iterator<Item = &'a Reference> {
        self.names.get(id).into_iter().flatten()
    }

    /// Whether an image was made from this one here.
    pub(crate) fn is_parent(&self, id: &Digest) -> bool {
        self.children.contains_key(id)
    }

    /// Bytes of the layers that images have, each once.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of an image's layers that other images have too.
    pub(crate) fn shared(&self, known: &Known) -> u64 {
        let shared = |layer: &Digest| self.layers.get(layer).is_some_and(|users| users.images > 1);
        distinct(known).into_iter().filter(|(layer, _)| shared(layer)).map(|(_, size)| size).sum()
    }

    /// Names before ids, as Docker looks.
    pub(crate) fn find(&self, text: &str) -> Result<Digest, ImageError> {
        let by_id = |id: Digest| {
            let known = self.images.contains_key(&id);
            known.then(|| id.clone()).ok_or_else(|| ImageError::NotFound(id.to_string()))
        };
        if let Ok(id) = Digest::parse(text) {
            return by_id(id);
        }
        if let Some(id) = Digest::from_hex(text) {
            return by_id(id);
        }
        let reference = Reference::parse(text);
        if let Ok(reference) = &reference {
            if let Some(id) = self.tags.get(reference) {
                return Ok(id.clone());
            }
            if let (Some(digest), Some(_)) = (reference.digest(), reference.tag())
                && let Some(id) = self.tags.get(&reference.at_digest(digest.clone()))
            {
                return Ok(id.clone());
            }
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if (1..64).contains(&prefix.len())
            && prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            let mut found = self.images.keys().filter(|id| id.hex().starts_with(prefix));
            match (found.next(), found.next()) {
                (Some(id), None) => return Ok(id.clone()),
                (Some(_), Some(_)) => return Err(ImageError::Ambiguous(prefix.into())),
                (None, _) => {}
            }
        }
        Err(match reference {
            Ok(reference) => ImageError::NotFound(reference.familiar()),
            Err(error) => ImageError::Reference(error),
        })
    }

    /// Whether some content is an image's configuration or belongs to it.
    pub(crate) fn content_is_needed(&self, digest: &Digest) -> bool {
        self.pins.contains_key(digest) || self.contents.contains_key(digest)
    }

    pub(crate) fn layer_is_needed(&self, layer: &Digest) -> bool {
        self.pins.contains_key(layer) || self.layers.contains_key(layer)
    }
}

/// Keeps layers and configurations from being removed while an operation relies on them.
pub(crate) struct Pins<'a> {
    images: &'a Images,
    held: Mutex<Vec<Digest>>,
}

impl<'a> Pins<'a> {
    pub(crate) const fn new(images: &'a Images) -> Self {
        Self { images, held: Mutex::new(Vec::new()) }
    }

    pub(crate) fn pin(&self, digest: &Digest) {
        *self.images.state().pins.entry(digest.clone()).or_default() += 1;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(digest.clone());
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut state = self.images.state();
        for digest in self.held.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            less(&mut state.pins, &digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use havre_base::ContainerId;
    use havre_oci::image::{ImageConfig, RootFs};
    use havre_oci::{Digest, Reference};

    use super::State;
    use crate::state::{ImageRecord, Known};

    fn digest(kind: &str, number: u64) -> Digest {
        Digest::of_bytes(format!("{kind}{number}").as_bytes())
    }

    /// Repeatable numbers below a bound.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    fn image(dice: &mut Dice) -> Known {
        let layers: Vec<u64> = (0..dice.below(4)).map(|_| dice.below(6)).collect();
        let rootfs = RootFs {
            diff_ids: layers.iter().map(|number| digest("layer", *number)).collect(),
            ..RootFs::default()
        };
        let record = ImageRecord {
            parent: (dice.below(2) == 0).then(|| digest("image", dice.below(8))),
            documents: (0..dice.below(3)).map(|_| digest("document", dice.below(4))).collect(),
            ..ImageRecord::default()
        };
        Known {
            id: digest("image", dice.below(8)),
            record,
            config: Arc::new(ImageConfig { rootfs, ..ImageConfig::default() }),
            sizes: layers.iter().map(|number| 10 + number).collect(),
        }
    }

    /// Everything that is counted, found by a walk.
    fn check(state: &State) {
        let layers_of = |known: &Known| -> BTreeSet<(Digest, u64)> {
            known.config.rootfs.diff_ids.iter().cloned().zip(known.sizes.iter().copied()).collect()
        };
        let all: BTreeSet<(Digest, u64)> = state.images.values().flat_map(layers_of).collect();
        assert_eq!(state.size(), all.iter().map(|(_, size)| size).sum::<u64>());
        for number in 0..8 {
            let (id, layer, document) =
                (digest("image", number), digest("layer", number), digest("document", number));
            let is_parent = state.images.values().any(|known| known.record.parent.as_ref() == Some(&id));
            assert_eq!(state.is_parent(&id), is_parent);
            let names: Vec<&Reference> =
                state.tags.iter().filter(|(_, owner)| **owner == id).map(|(name, _)| name).collect();
            assert_eq!(state.names(&id).collect::<Vec<_>>(), names);
            let by_images = state.images.values().any(|known| known.config.rootfs.diff_ids.contains(&layer));
            let by_containers = state.writables.values().any(|layers| layers.contains(&layer));
            assert_eq!(state.layer_is_needed(&layer), by_images || by_containers);
            let documented = state.images.values().any(|known| known.record.documents.contains(&document));
            assert_eq!(state.content_is_needed(&document), documented);
            assert_eq!(state.content_is_needed(&id), state.images.contains_key(&id));
        }
        for known in state.images.values() {
            let others = || state.images.values().filter(|other| other.id != known.id);
            let has = |layer: &Digest| others().any(|other| other.config.rootfs.diff_ids.contains(layer));
            let shared = layers_of(known).into_iter().filter(|(layer, _)| has(layer));
            assert_eq!(state.shared(known), shared.map(|(_, size)| size).sum::<u64>());
        }
    }

    #[test]
    fn the_counts_are_those_of_the_maps() {
        let dice = &mut Dice(7);
        let mut state = State::default();
        let container = |number: u64| ContainerId::parse(&format!("{number:064x}")).unwrap();
        for _ in 0..3000 {
            let name = Reference::parse(&format!("name{}", dice.below(5))).unwrap();
            match dice.below(7) {
                0 | 1 => state.insert_image(image(dice)),
                2 => drop(state.remove_image(&digest("image", dice.below(8)))),
                3 => state.insert_tag(name, digest("image", dice.below(8))),
                4 => state.remove_tag(&name),
                5 => {
                    let layers = (0..dice.below(3)).map(|_| digest("layer", dice.below(6))).collect();
                    state.insert_writable(container(dice.below(3)), layers);
                }
                _ => drop(state.remove_writable(&container(dice.below(3)))),
            }
            check(&state);
        }
        for number in 0..8 {
            state.remove_image(&digest("image", number));
            state.remove_writable(&container(number));
            state.remove_tag(&Reference::parse(&format!("name{number}")).unwrap());
        }
        assert!(state.layers.is_empty() && state.contents.is_empty() && state.children.is_empty());
        assert!(state.names.is_empty() && state.size == 0);
    }
}
