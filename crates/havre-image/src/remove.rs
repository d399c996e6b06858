//! Removing names and images, with Docker's rules and words.
//!
//! Invariant: a name goes before its image; an image goes only when no running container uses it and no other
//! image was made from it here; layers go when no image and no container needs them.

use havre_base::ContainerId;
use havre_oci::{Digest, Reference, layer};
use havre_store::Batch;

use crate::index::State;
use crate::state::Known;
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

pub(crate) type Users<'a> = &'a dyn Fn(&Digest) -> Vec<ImageUser>;

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
        let mut names: Vec<Reference> = state.names(&id).cloned().collect();
        let by_id = is_id_of(&id, name_or_id);
        if by_id {
            Self::check(&state, &id, users, force, if is_single(&names) { 0 } else { names.len() })?;
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
            let name = if state.tags().contains_key(&given) { given } else { by_digest.unwrap_or(given) };
            let all = names.len();
            names = those_that_go(names, name);
            let refused = match names.len() {
                count if count < all => Some(None),
                _ => Self::check(&state, &id, users, force, 0).err().map(Some),
            };
            if let Some(why) = refused {
                // The names go all the same.
                self.take(&mut state, vec![Taken { image: id, names, whole: false }], &mut removed)?;
                return match why {
                    Some(error) if !matches!(&error, ImageError::InUse { used: true, .. }) => Err(error),
                    _ => Ok(removed),
                };
            }
        }
        let parent = state.images().get(&id).and_then(|known| known.record.parent.clone());
        self.take(&mut state, vec![Taken { image: id, names, whole: true }], &mut removed)?;
        if !no_prune {
            self.remove_parents(&mut state, parent, users, &mut removed)?;
        }
        Ok(removed)
    }

    /// Whether an image that would still have `names` names can go.
    pub(crate) fn check(
        state: &State,
        id: &Digest,
        users: Users<'_>,
        force: bool,
        names: usize,
    ) -> Result<()> {
        let refuse = |hard, used, why: String| Err(ImageError::InUse { image: id.clone(), hard, used, why });
        if state.is_parent(id) {
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
        if names > 0 {
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

    /// The images that one was made from here, as far as nothing else holds them.
    fn remove_parents(
        &self,
        state: &mut State,
        mut next: Option<Digest>,
        users: Users<'_>,
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        while let Some(id) = next {
            let Some(known) = state.images().get(&id) else { break };
            if state.names(&id).next().is_some() || Self::check(state, &id, users, false, 0).is_err() {
                break;
            }
            next = known.record.parent.clone();
            self.take(state, vec![Taken { image: id, names: Vec::new(), whole: true }], removed)?;
        }
        Ok(())
    }

    /// Takes names from images, and the images themselves when they are to go whole: one commit for all, then the files
    /// that nothing needs any more.
    pub(crate) fn take(
        &self,
        state: &mut State,
        taken: Vec<Taken>,
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        let mut batch = Batch::new();
        for Taken { image, names, whole } in &taken {
            for name in names {
                batch = batch.delete(TAGS, &name.to_string());
            }
            if *whole {
                batch = batch.delete(IMAGES, &image.to_string());
            }
        }
        self.db.commit(batch)?;
        for Taken { image, names, whole } in taken {
            for name in names {
                state.remove_tag(&name);
                removed.push(Removed::Untagged { name: name.familiar(), image: image.clone() });
            }
            if whole && let Some(known) = state.remove_image(&image) {
                removed.push(Removed::Image(image));
                self.drop_files(state, &known, removed)?;
            }
        }
        self.drop_trees(state)
    }

    fn drop_files(&self, state: &State, known: &Known, removed: &mut Vec<Removed>) -> Result<()> {
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
        for content in known.contents() {
            if !state.content_is_needed(content) {
                self.content.remove(content)?;
            }
        }
        Ok(())
    }
}

/// What goes of an image.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) image: Digest,
    /// Names that it loses.
    pub(crate) names: Vec<Reference>,
    /// Whether it goes itself; it then has no other names.
    pub(crate) whole: bool,
}

/// What goes with one of an image's names: with a repository's last tag also its digests, which would keep the image for
/// nobody.
fn those_that_go(names: Vec<Reference>, name: Reference) -> Vec<Reference> {
    let of_repository = |other: &&Reference| **other != name && other.name() == name.name();
    let tagged_still = names.iter().filter(of_repository).any(|other| other.digest().is_none());
    let digests: Vec<Reference> = if name.digest().is_none() && !tagged_still {
        names.iter().filter(of_repository).cloned().collect()
    } else {
        Vec::new()
    };
    [name].into_iter().chain(digests).collect()
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
