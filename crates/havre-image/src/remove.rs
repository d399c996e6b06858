//! Removing names and images, with Docker's rules and words.
//!
//! Invariant: a name goes before its image; an image goes only when no running container uses it and no other
//! image was made from it here; layers go when no image and no container needs them.

use havre_base::ContainerId;
use havre_oci::{Digest, Reference, layer};
use havre_store::Batch;

use crate::state::State;
use crate::{IMAGES, ImageError, Images, Result, TAGS};

/// A container of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// Which.
    pub container: ContainerId,
    /// Whether it runs.
    pub running: bool,
}

/// What was done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was removed from an image.
    Untagged {
        /// The name, as users write it.
        name: String,
        /// The image that had it.
        image: Digest,
    },
    /// An image was removed.
    Image(Digest),
    /// A layer was removed; this is the id of the stack up to it.
    Layer(Digest),
}

type Users<'a> = &'a dyn Fn(&Digest) -> Vec<ImageUser>;

impl Images {
    /// Removes a name, and the image with its last name; or, given an id, the image with all its names.
    /// `users` says which containers were made from an image.
    pub fn remove(
        &self,
        name_or_id: &str,
        force: bool,
        no_prune: bool,
        users: Users<'_>,
    ) -> Result<Vec<Removed>> {
        let mut state = self.state();
        let id = state.find(name_or_id)?;
        let mut removed = Vec::new();
        let names: Vec<Reference> = state.names(&id).cloned().collect();
        let mut quiet = false;
        if is_id_of(&id, name_or_id) {
            if is_single(&names) {
                Self::check(&state, &id, users, force, false)?;
                for name in names {
                    self.untag(&mut state, name, &id, &mut removed)?;
                }
            }
        } else {
            if !force
                && is_single(&names)
                && let Some(user) = users(&id).into_iter().next()
            {
                return Err(ImageError::ReferenceInUse {
                    name: name_or_id.into(),
                    container: user.container,
                    image: id,
                });
            }
            let given = Reference::parse(name_or_id)?;
            let by_digest = given.digest().cloned().map(|digest| given.at_digest(digest));
            let name = if state.tags.contains_key(&given) { given } else { by_digest.unwrap_or(given) };
            let (repository, had_tag) = (name.name(), name.digest().is_none());
            self.untag(&mut state, name, &id, &mut removed)?;
            let of_repository = |other: &&Reference| other.name() == repository;
            let tagged_still = state.names(&id).filter(of_repository).any(|other| other.digest().is_none());
            if had_tag && !tagged_still {
                // Without a tag the digests of the repository would keep the image for nobody.
                let digests: Vec<Reference> = state.names(&id).filter(of_repository).cloned().collect();
                for name in digests {
                    self.untag(&mut state, name, &id, &mut removed)?;
                }
            }
            if state.names(&id).next().is_some() {
                return Ok(removed);
            }
            quiet = true;
        }
        self.delete(&mut state, id, users, (force, !no_prune, quiet), &mut removed)?;
        Ok(removed)
    }

    fn check(state: &State, id: &Digest, users: Users<'_>, force: bool, names: bool) -> Result<()> {
        let refuse = |hard, used, why: String| Err(ImageError::InUse { image: id.clone(), hard, used, why });
        if state.images.values().any(|known| known.record.parent.as_ref() == Some(id)) {
            return refuse(true, false, "image has dependent child images".into());
        }
        let users = users(id);
        if let Some(user) = users.iter().find(|user| user.running) {
            return refuse(
                true,
                true,
                format!("image is being used by running container {}", user.container.short()),
            );
        }
        if force {
            return Ok(());
        }
        if names && state.names(id).next().is_some() {
            return refuse(false, false, "image is referenced in multiple repositories".into());
        }
        if let Some(user) = users.first() {
            return refuse(
                false,
                true,
                format!("image is being used by stopped container {}", user.container.short()),
            );
        }
        Ok(())
    }

    fn delete(
        &self,
        state: &mut State,
        id: Digest,
        users: Users<'_>,
        (force, prune, quiet): (bool, bool, bool),
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        if let Err(error) = Self::check(state, &id, users, force, true) {
            let used = matches!(&error, ImageError::InUse { used: true, .. });
            let dangling = state.names(&id).next().is_none();
            return if quiet && (!dangling || used) { Ok(()) } else { Err(error) };
        }
        let names: Vec<Reference> = state.names(&id).cloned().collect();
        for name in names {
            self.untag(state, name, &id, removed)?;
        }
        self.db.commit(Batch::new().delete(IMAGES, &id.to_string()))?;
        let Some(known) = state.images.remove(&id) else { return Ok(()) };
        removed.push(Removed::Image(id.clone()));
        let layers = &known.config.rootfs.diff_ids;
        for count in (1..=layers.len()).rev() {
            let (Some(top), Some(chain)) = (layers.get(count - 1), layer::chain_id(&layers[..count])) else {
                continue;
            };
            if !state.layer_is_needed(top) && self.snapshots.layer(top).is_some() {
                self.snapshots.remove_layer(top)?;
                removed.push(Removed::Layer(chain));
            }
        }
        self.drop_trees(state)?;
        for content in known.record.documents.iter().chain([&id]) {
            if !state.content_is_needed(content) {
                self.content.remove(content)?;
            }
        }
        match known.record.parent {
            Some(parent)
                if prune && state.images.contains_key(&parent) && state.names(&parent).next().is_none() =>
            {
                self.delete(state, parent, users, (false, true, true), removed)
            }
            _ => Ok(()),
        }
    }

    fn untag(
        &self,
        state: &mut State,
        name: Reference,
        id: &Digest,
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        self.db.commit(Batch::new().delete(TAGS, &name.to_string()))?;
        state.tags.remove(&name);
        removed.push(Removed::Untagged { name: name.familiar(), image: id.clone() });
        Ok(())
    }
}

fn is_id_of(id: &Digest, text: &str) -> bool {
    let prefix = text.strip_prefix("sha256:").unwrap_or(text);
    !prefix.is_empty() && id.hex().starts_with(prefix)
}

/// At most one tag, and all names in one repository.
fn is_single(names: &[Reference]) -> bool {
    let mut repositories: Vec<String> = names.iter().map(Reference::name).collect();
    repositories.dedup();
    let tags = names.iter().filter(|name| name.digest().is_none()).count();
    repositories.len() == 1 && tags <= 1
}
