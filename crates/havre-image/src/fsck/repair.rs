//! What a check tells of what it found, and what a repair does with it.

use std::collections::{BTreeMap, BTreeSet};

use havre_base::ContainerId;
use havre_oci::{Digest, Reference};
use havre_store::Batch;

use super::{Broken, CheckEvent, CheckSpec, Checked, Damage, Finding, Life, Outcome};
use crate::index::State;
use crate::state::{ImageRecord, Known};
use crate::{IMAGES, Images, Removed, Result, TAGS};

/// A check that has read everything.
pub(super) struct Repair<'a, 'b> {
    pub(super) images: &'a Images,
    pub(super) spec: CheckSpec<'b>,
    pub(super) checked: Checked,
}

/// How an image is called in a report.
fn called(id: &Digest, names: &[Reference]) -> String {
    match names.first() {
        Some(name) => format!("{} ({})", name.familiar(), id.short()),
        None => id.short(),
    }
}

fn again(names: &[Reference]) -> String {
    match names.first() {
        Some(name) => format!("get it again: havre pull {}, or load or build it", name.familiar()),
        None => "get it again from where it came".into(),
    }
}

impl Repair<'_, '_> {
    fn tell(&mut self, finding: Finding) {
        // Whoever went away is not told; what was begun is finished all the same.
        (self.spec.on)(CheckEvent::Found(finding));
    }

    fn outcome(&self, kept: Option<String>) -> Outcome {
        match kept {
            _ if !self.spec.repair => Outcome::Found,
            Some(why) => Outcome::Kept(why),
            None => Outcome::Repaired,
        }
    }

    /// The containers that stand on any of these layers.
    fn standing(&self, state: &State, on: impl Fn(&[Digest]) -> bool) -> Vec<(ContainerId, Life)> {
        let users = state.writables().iter().filter(|(_, layers)| on(layers));
        users.filter_map(|(id, _)| Some((id.clone(), (self.spec.life)(id)?))).collect()
    }

    /// Damaged content and layers, and the images that have them.
    pub(super) fn parts(&mut self, mut damage: Damage) -> Result<()> {
        let images = self.images;
        let mut state = images.state();
        let mut findings = Vec::new();
        // What was removed while we read is no damage.
        damage.blobs.retain(|blob, _| state.content_is_needed(blob) || images.content.size(blob).is_some());
        damage
            .layers
            .retain(|layer, _| state.layer_is_needed(layer) || images.snapshots.layer_path(layer).exists());
        for layer in &damage.mendable {
            // One that was removed while we read needs nothing.
            let Some(info) = images.snapshots.layer(layer) else { continue };
            if self.spec.repair {
                images.snapshots.mend(layer)?;
            }
            findings.push(Finding {
                kind: "layer",
                object: layer.to_string(),
                problem: "what shows its archive as files is damaged".into(),
                repair: "make it again from the archive".into(),
                outcome: self.outcome(None),
                damage: true,
                bytes: info.size,
            });
        }
        let broken = broken(&state, &damage);
        let mut kept_layers = BTreeSet::new();
        let mut kept_blobs = BTreeSet::new();
        for one in &broken {
            let Some(known) = state.images().get(&one.image) else { continue };
            let own = known.config.rootfs.diff_ids.clone();
            let on = |layers: &[Digest]| layers == own.as_slice();
            let running = self.standing(&state, on).into_iter().find(|(_, life)| life.running);
            let kept = running.map(|(_, life)| in_use(&life.name));
            if kept.is_some() {
                kept_layers.extend(own.iter().filter(|layer| damage.layers.contains_key(*layer)).cloned());
                kept_blobs.insert(one.image.clone());
            } else if self.spec.repair {
                self.forget(&mut state, one)?;
            }
            findings.push(Finding {
                kind: "image",
                object: called(&one.image, &one.names),
                problem: one.why.clone(),
                repair: format!("remove it; {}", again(&one.names)),
                outcome: self.outcome(kept),
                damage: true,
                bytes: 0,
            });
        }
        for (layer, why) in &damage.layers {
            let users = self.standing(&state, |layers| layers.contains(layer));
            let running = users.iter().find(|(_, life)| life.running).map(|(_, life)| in_use(&life.name));
            let needed = state.layer_is_needed(layer);
            let kept =
                running.or_else(|| kept_layers.contains(layer).then(|| "an image that stays has it".into()));
            if self.spec.repair && kept.is_none() {
                images.snapshots.remove_layer(layer)?;
            }
            let stopped: Vec<&str> = users.iter().map(|(_, life)| life.name.as_str()).collect();
            let repair = match stopped.as_slice() {
                [] => "remove it".to_owned(),
                names => format!(
                    "remove it; containers that stand on it start again when their image is here again: {}",
                    names.join(", ")
                ),
            };
            findings.push(Finding {
                kind: "layer",
                object: layer.to_string(),
                problem: why.clone(),
                repair,
                outcome: self.outcome(kept),
                damage: needed || !users.is_empty(),
                bytes: images.snapshots.layer(layer).map_or(0, |info| info.size),
            });
        }
        for (blob, why) in &damage.blobs {
            let kept = kept_blobs.contains(blob).then(|| "an image that stays has it".into());
            let needed = state.content_is_needed(blob);
            if self.spec.repair && kept.is_none() {
                self.drop_document(&mut state, blob)?;
                images.content.remove(blob)?;
            }
            findings.push(Finding {
                kind: "blob",
                object: blob.to_string(),
                problem: why.clone(),
                repair: "remove it".into(),
                outcome: self.outcome(kept),
                damage: needed || broken.iter().any(|one| one.image == *blob),
                bytes: 0,
            });
        }
        drop(state);
        findings.into_iter().for_each(|finding| self.tell(finding));
        Ok(())
    }

    /// Removes a broken image, its names, and what only it needed.
    fn forget(&mut self, state: &mut State, broken: &Broken) -> Result<()> {
        let Broken { image: id, names, .. } = broken;
        let images = self.images;
        let mut batch = Batch::new().delete(IMAGES, &id.to_string());
        for name in names {
            batch = batch.delete(TAGS, &name.to_string());
        }
        images.db.commit(batch)?;
        for name in names {
            state.remove_tag(name);
            self.checked.removed.push(Removed::Untagged { name: name.familiar(), image: id.clone() });
        }
        let Some(known) = state.remove_image(id) else { return Ok(()) };
        self.checked.removed.push(Removed::Image(id.clone()));
        for layer in known.config.rootfs.diff_ids.iter().filter(|layer| !state.layer_is_needed(layer)) {
            images.snapshots.remove_layer(layer)?;
        }
        images.drop_trees(state)?;
        for content in known.record.documents.iter().chain([id]) {
            if !state.content_is_needed(content) {
                images.content.remove(content)?;
            }
        }
        Ok(())
    }

    /// Manifests are written anew where they are asked for, so an image can do without.
    fn drop_document(&self, state: &mut State, blob: &Digest) -> Result<()> {
        let mut batch = Batch::new();
        let has = |known: &&Known| known.record.documents.contains(blob);
        let having: Vec<Known> = state.images().values().filter(has).cloned().collect();
        for mut known in having {
            known.record.documents.retain(|document| document != blob);
            batch = batch.put(IMAGES, &known.id.to_string(), &known.record);
            state.insert_image(known);
        }
        if batch.is_empty() { Ok(()) } else { Ok(self.images.db.commit(batch)?) }
    }

    /// What the database says against what is known: the next start would see the former.
    pub(super) fn records(&mut self) -> Result<()> {
        let images = self.images;
        let mut findings = Vec::new();
        let state = images.state();
        let mut batch = Batch::new();
        let mut wrong = |object: String, problem: &str, repair: &str| {
            let outcome = self.outcome(None);
            let (problem, repair) = (problem.to_owned(), repair.to_owned());
            findings.push(Finding {
                kind: "record",
                object,
                problem,
                repair,
                outcome,
                damage: true,
                bytes: 0,
            });
        };
        let recorded: BTreeMap<String, ImageRecord> = images.db.load(IMAGES)?.into_iter().collect();
        for key in recorded.keys() {
            if !Digest::parse(key).is_ok_and(|id| state.images().contains_key(&id)) {
                wrong(key.clone(), "the database has an image that is not here", "remove the record");
                batch = batch.delete(IMAGES, key);
            }
        }
        for known in state.images().values() {
            let key = known.id.to_string();
            if recorded.get(&key) != Some(&known.record) {
                wrong(key.clone(), "the database does not have the image as it is", "write the record");
                batch = batch.put(IMAGES, &key, &known.record);
            }
        }
        let tags: BTreeMap<String, Digest> = images.db.load(TAGS)?.into_iter().collect();
        for key in tags.keys() {
            if !Reference::parse(key).is_ok_and(|name| state.tags().contains_key(&name)) {
                wrong(key.clone(), "the database has a name that nothing has", "remove the record");
                batch = batch.delete(TAGS, key);
            }
        }
        for (name, id) in state.tags() {
            let key = name.to_string();
            if !state.images().contains_key(id) {
                wrong(
                    key,
                    "it is the name of an image that is not here",
                    "remove the record at the next start",
                );
            } else if tags.get(&key) != Some(id) {
                wrong(key.clone(), "the database does not have the name as it is", "write the record");
                batch = batch.put(TAGS, &key, id);
            }
        }
        if self.spec.repair && !batch.is_empty() {
            images.db.commit(batch)?;
        }
        drop(state);
        findings.into_iter().for_each(|finding| self.tell(finding));
        Ok(())
    }

    /// Writable layers against containers.
    pub(super) fn writables(&mut self) -> Result<()> {
        let images = self.images;
        let known: BTreeSet<ContainerId> = images.state().writables().keys().cloned().collect();
        let all: BTreeSet<ContainerId> =
            images.snapshots.writables().into_iter().chain(known.clone()).collect();
        self.checked.containers = all.len();
        for container in all {
            match (self.spec.life)(&container) {
                None => {
                    let bytes = images.written(&container);
                    if self.spec.repair {
                        images.remove_writable(&container)?;
                    }
                    let outcome = self.outcome(None);
                    self.tell(Finding {
                        kind: "leftover",
                        object: format!("writable layer {}", container.short()),
                        problem: "there is no such container".into(),
                        repair: "remove it".into(),
                        outcome,
                        damage: false,
                        bytes,
                    });
                }
                Some(life)
                    if known.contains(&container) && !images.snapshots.is_writable_whole(&container) =>
                {
                    let kept = life.running.then(|| in_use(&life.name));
                    if self.spec.repair && kept.is_none() {
                        let layers = images.state().writables().get(&container).cloned().unwrap_or_default();
                        images.snapshots.create_writable(&container, &layers)?;
                    }
                    let outcome = self.outcome(kept);
                    self.tell(Finding {
                        kind: "container",
                        object: life.name,
                        problem: "what it wrote is not here, or not whole".into(),
                        repair: "give it an empty writable layer; its old files are lost".into(),
                        outcome,
                        damage: true,
                        bytes: 0,
                    });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// What nobody needs and nobody is at work on.
    pub(super) fn leftovers(&mut self) -> Result<()> {
        let images = self.images;
        for layer in images.snapshots.layers() {
            let size = images.snapshots.layer(&layer).map_or(0, |info| info.size);
            let state = images.state();
            if state.layer_is_needed(&layer) {
                continue;
            }
            if self.spec.repair {
                images.snapshots.remove_layer(&layer)?;
            }
            drop(state);
            self.leftover(
                format!("layer {}", layer.short()),
                "no image and no container needs it",
                size,
                None,
            );
        }
        for blob in images.content.list() {
            let size = images.content.size(&blob).unwrap_or(0);
            let state = images.state();
            if state.content_is_needed(&blob) {
                continue;
            }
            if self.spec.repair {
                images.content.remove(&blob)?;
            }
            drop(state);
            self.leftover(format!("blob {}", blob.short()), "no image needs it", size, None);
        }
        for found in images.content.leftovers().into_iter().chain(images.snapshots.leftovers()) {
            let kept = match self.spec.repair.then(|| found.remove()) {
                None | Some(Ok(true)) => None,
                Some(Ok(false)) => continue,
                Some(Err(error)) => Some(havre_base::chain(&error)),
            };
            self.leftover(found.path.display().to_string(), found.what, found.bytes, kept);
        }
        Ok(())
    }

    fn leftover(&mut self, object: String, problem: &str, bytes: u64, kept: Option<String>) {
        let outcome = self.outcome(kept);
        let (problem, repair) = (problem.to_owned(), "remove it".to_owned());
        self.tell(Finding { kind: "leftover", object, problem, repair, outcome, damage: false, bytes });
    }
}

fn in_use(container: &str) -> String {
    format!("container {container} runs on it: stop it and repair again")
}

/// The images that need a damaged part.
fn broken(state: &State, damage: &Damage) -> Vec<Broken> {
    let part = |known: &Known| {
        if let Some(why) = damage.blobs.get(&known.id) {
            return Some(format!("its configuration {why}"));
        }
        let layer = known.config.rootfs.diff_ids.iter().find(|layer| damage.layers.contains_key(*layer))?;
        Some(format!("its layer {} is damaged", layer.short()))
    };
    let names = |id: &Digest| state.names(id).cloned().collect();
    let found = state.images().values().filter_map(|known| {
        part(known).map(|why| Broken { image: known.id.clone(), names: names(&known.id), why })
    });
    found.collect()
}
