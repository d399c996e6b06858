//! Images: names to configurations and layers; pull, load, import, save, tag, list, remove, and the embedded one.
//!
//! An image's id is the digest of its configuration, as in Docker. Layers are shared by the digest of their
//! archives. What is asked is answered from memory; the database is for the next start.
//!
//! Invariants: a recorded image has its configuration and all its layers on disk; a name leads to a recorded
//! image; what neither an image, a container nor a running operation needs is removed. No lock is held while
//! an archive is read or written.
//! Not here: containers (the caller says who uses an image), mounting, the protocol of registries.

mod archive;
mod attested;
pub mod change;
mod commit;
mod error;
mod filter;
mod fsck;
mod gzip;
mod hello;
mod import;
mod index;
mod parts;
mod prune;
mod pull;
mod push;
mod remote;
mod remove;
mod reports;
mod save;
mod state;
mod writable;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use havre_base::{Clock, ContainerId, SystemClock, Timestamp};
use havre_oci::image::{History, ImageConfig};
use havre_oci::{Digest, Reference};
use havre_registry::Registries;
use havre_store::{Batch, Content, Db, Snapshots, Table};
pub use havre_store::{Difference, Driver, Writable};
use tokio::sync::Semaphore;

pub use archive::{LoadEvent, Loaded};
pub use commit::CommitSpec;
pub use error::ImageError;
pub use filter::{ListSpec, point_in_time};
pub use fsck::{CheckEvent, CheckSpec, Checked, Finding, Life, Outcome};
pub use havre_registry::{Credentials, DOCKER_HUB, HUB_KEY, RegistryError, SearchSpec};
pub use hello::HELLO_LABEL;
pub use import::ImportSpec;
use index::State;
pub use prune::PruneSpec;
use pull::Downloads;
pub use pull::{PullEvent, PullSpec, Step};
pub use push::{PushEvent, PushSpec, PushStep};
pub use remote::Remote;
pub use remove::{ImageUser, Removed};
pub use reports::Reports;
use state::{ImageRecord, Known, KnownBlob};

const IMAGES: Table = Table("images");
const TAGS: Table = Table("tags");
const BLOBS: Table = Table("layer-blobs");
const WRITABLES: Table = Table("writable-layers");

/// How many layers come at the same time, unless the administrator says otherwise: as many as with Docker.
const AT_ONCE: usize = 3;
/// Overlayfs takes this many lower layers (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;

type Result<T> = std::result::Result<T, ImageError>;

/// Runs what may block beside what must not.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Pull(format!("the image service failed: {error}"))),
    }
}

/// An image, as one needs it to make a container.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration.
    pub id: Digest,
    /// The configuration.
    pub config: Arc<ImageConfig>,
}

/// An image, as one looks at it.
#[derive(Debug, Clone)]
pub struct ImageView {
    /// The digest of its configuration.
    pub id: Digest,
    /// `name:tag`, as users write them.
    pub repo_tags: Vec<String>,
    /// `name@digest`.
    pub repo_digests: Vec<String>,
    /// The image it was made from here.
    pub parent: Option<Digest>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When it was last given a name.
    pub last_tagged: Option<Timestamp>,
    /// Bytes of the files of all layers.
    pub size: u64,
    /// The configuration, with the layers' digests.
    pub config: Arc<ImageConfig>,
    /// The layers' folders, topmost first.
    pub lowers: Vec<PathBuf>,
}

/// A line of an image's history, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryView {
    /// The image's id for the newest line; `None` for those whose image is not here.
    pub id: Option<Digest>,
    /// What was done.
    pub step: History,
    /// When, if that is a time at all.
    pub created: Option<Timestamp>,
    /// Names of the image, on the newest line.
    pub tags: Vec<String>,
    /// Bytes of files it added.
    pub size: u64,
}

/// The image service.
#[derive(Debug)]
pub struct Images {
    db: Arc<Db>,
    content: Content,
    snapshots: Snapshots,
    registries: Arc<Registries>,
    downloads: Downloads,
    /// How many layers go to registries at the same time.
    uploads: Mutex<Arc<Semaphore>>,
    /// Protects what is known; held for a few lines, and around a commit to the database so that changes
    /// are durable in the order they are seen.
    state: Mutex<State>,
}

impl Images {
    /// Opens the images in `data_root`. An image whose files are not all there is forgotten, with a warning.
    pub fn open(data_root: &Path, db: Arc<Db>, registries: Arc<Registries>) -> Result<Self> {
        Self::open_with(data_root, db, registries, None)
    }

    /// As `open`, with the driver that the administrator chose.
    pub fn open_with(
        data_root: &Path,
        db: Arc<Db>,
        registries: Arc<Registries>,
        driver: Option<Driver>,
    ) -> Result<Self> {
        let root = data_root.join("snapshots");
        let driver = Driver::select(&root, driver)?;
        let content = Content::open(&data_root.join("content"))?;
        let snapshots = Snapshots::open(&root, driver)?;
        let mut state = State::default();
        let mut forget = Batch::new();
        for (key, record) in db.load::<ImageRecord>(IMAGES)? {
            let known = Digest::parse(&key).ok().and_then(|id| Known::read(id, record, &content, &snapshots));
            if let Some(known) = known {
                state.insert_image(known);
            } else {
                tracing::warn!(image = key, "image is not complete on disk; forgetting it");
                forget = forget.delete(IMAGES, &key);
            }
        }
        for (key, id) in db.load::<Digest>(TAGS)? {
            match Reference::parse(&key) {
                Ok(reference) if state.images().contains_key(&id) => {
                    state.insert_tag(reference, id);
                }
                _ => forget = forget.delete(TAGS, &key),
            }
        }
        for (key, blobs) in db.load::<Vec<KnownBlob>>(BLOBS)? {
            match Digest::parse(&key) {
                Ok(layer) if snapshots.layer(&layer).is_some() => drop(state.blobs.insert(layer, blobs)),
                _ => forget = forget.delete(BLOBS, &key),
            }
        }
        for (key, layers) in db.load::<Vec<Digest>>(WRITABLES)? {
            match ContainerId::parse(&key) {
                Ok(container) => state.insert_writable(container, layers),
                Err(_) => forget = forget.delete(WRITABLES, &key),
            }
        }
        if !forget.is_empty() {
            db.commit(forget)?;
        }
        let downloads = Downloads::new(AT_ONCE);
        let uploads = Mutex::new(Arc::new(Semaphore::new(push::AT_ONCE)));
        Ok(Self { db, content, snapshots, registries, downloads, uploads, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now() -> Timestamp {
        SystemClock.now()
    }

    /// The image of this name, id, beginning of an id, or digest.
    pub fn resolve(&self, name_or_id: &str) -> Result<Image> {
        let state = self.state();
        let id = state.find(name_or_id)?;
        state.image(&id).ok_or_else(|| ImageError::NotFound(name_or_id.into()))
    }

    /// The image of exactly this id.
    #[must_use]
    pub fn get(&self, id: &Digest) -> Option<Image> {
        self.state().image(id)
    }

    /// Everything about an image.
    pub fn inspect(&self, name_or_id: &str) -> Result<ImageView> {
        let state = self.state();
        let id = state.find(name_or_id)?;
        state
            .images()
            .get(&id)
            .map(|known| self.view(known, state.names(&id)))
            .ok_or(ImageError::NotFound(name_or_id.into()))
    }

    /// The images the specification asks for, newest first.
    pub fn list(&self, spec: &ListSpec) -> Result<Vec<ImageView>> {
        let state = self.state();
        let chosen = spec.bind(&state, Self::now())?;
        let mut views = self.all_views(&state);
        views = views.into_iter().filter_map(|view| chosen.select(&state, view)).collect();
        views.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.repo_tags.cmp(&b.repo_tags)));
        Ok(views)
    }

    fn all_views(&self, state: &State) -> Vec<ImageView> {
        state.images().values().map(|known| self.view(known, state.names(&known.id))).collect()
    }

    /// All images, in no order.
    #[must_use]
    pub fn views(&self) -> Vec<ImageView> {
        self.all_views(&self.state())
    }

    /// How many images there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state().images().len()
    }

    fn view<'a>(&self, known: &Known, names: impl Iterator<Item = &'a Reference>) -> ImageView {
        let mut view = ImageView {
            id: known.id.clone(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            parent: known.record.parent.clone(),
            created: known.config.created_at(),
            last_tagged: known.record.last_tagged,
            size: known.size(),
            config: Arc::clone(&known.config),
            lowers: self.snapshots.lowers(&known.config.rootfs.diff_ids),
        };
        for reference in names {
            let list =
                if reference.digest().is_some() { &mut view.repo_digests } else { &mut view.repo_tags };
            list.push(reference.familiar());
        }
        view.repo_tags.sort();
        view.repo_digests.sort();
        view
    }

    /// How an image came to be, newest step first.
    pub fn history(&self, name_or_id: &str) -> Result<Vec<HistoryView>> {
        let state = self.state();
        let id = state.find(name_or_id)?;
        let known = state.images().get(&id).ok_or_else(|| ImageError::NotFound(name_or_id.into()))?;
        let mut sizes = known.sizes.iter().copied();
        let mut lines: Vec<HistoryView> = Vec::new();
        for step in &known.config.history {
            let size = if step.empty_layer { 0 } else { sizes.next().unwrap_or(0) };
            let created = step.created.as_deref().and_then(|text| Timestamp::parse_rfc3339(text).ok());
            lines.push(HistoryView { id: None, step: step.clone(), created, tags: Vec::new(), size });
        }
        lines.reverse();
        if let Some(newest) = lines.first_mut() {
            newest.tags =
                state.names(&id).filter(|name| name.digest().is_none()).map(Reference::familiar).collect();
            newest.id = Some(id);
        }
        Ok(lines)
    }

    /// Gives an image one more name, taking it from the image that had it.
    pub fn tag(&self, source: &str, target: &str) -> Result<Image> {
        let reference = Reference::parse(target)?;
        if reference.digest().is_some() {
            return Err(ImageError::TagWithDigest);
        }
        if reference.familiar_name() == "sha256" {
            return Err(ImageError::TagLikeDigest);
        }
        let mut state = self.state();
        let id = state.find(source)?;
        self.set_tags(&mut state, vec![(reference, id.clone())])?;
        state.image(&id).ok_or_else(|| ImageError::NotFound(source.into()))
    }

    fn set_tags(&self, state: &mut State, tags: Vec<(Reference, Digest)>) -> Result<()> {
        self.record(state, Vec::new(), Vec::new(), tags)
    }

    /// Records images, in which form their layers are at registries, and names, in one step: an image that was to have a
    /// name is never seen without it.
    fn record(
        &self,
        state: &mut State,
        images: Vec<Known>,
        blobs: Vec<(Digest, KnownBlob)>,
        tags: Vec<(Reference, Digest)>,
    ) -> Result<()> {
        let now = Self::now();
        let mut changed: BTreeMap<Digest, Known> =
            images.into_iter().map(|known| (known.id.clone(), known)).collect();
        let mut batch = Batch::new();
        for (reference, id) in &tags {
            batch = batch.put(TAGS, &reference.to_string(), id);
            if let Some(known) = state.images().get(id) {
                changed.entry(id.clone()).or_insert_with(|| known.clone());
            }
            if let Some(known) = changed.get_mut(id) {
                known.record.last_tagged = Some(now);
            }
        }
        for known in changed.values() {
            batch = batch.put(IMAGES, &known.id.to_string(), &known.record);
        }
        let mut forms: BTreeMap<Digest, Vec<KnownBlob>> = BTreeMap::new();
        for (layer, blob) in blobs {
            let old = || state.blobs.get(&layer).cloned().unwrap_or_default();
            KnownBlob::join(forms.entry(layer.clone()).or_insert_with(old), blob);
        }
        for (layer, all) in &forms {
            batch = batch.put(BLOBS, &layer.to_string(), all);
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.db.commit(batch)?;
        state.blobs.extend(forms);
        changed.into_values().for_each(|known| state.insert_image(known));
        tags.into_iter().for_each(|(reference, id)| state.insert_tag(reference, id));
        Ok(())
    }

    /// Records images whose layers and configurations are on disk already, in which form their layers are elsewhere, and
    /// their names.
    fn add(
        &self,
        mut new: Vec<Known>,
        blobs: Vec<(Digest, KnownBlob)>,
        tags: Vec<(Reference, Digest)>,
    ) -> Result<()> {
        let mut state = self.state();
        new.retain(|known| {
            let old = state.images().get(&known.id).map(|old| &old.record.documents);
            old.is_none_or(|old| known.record.documents.iter().any(|document| !old.contains(document)))
        });
        for known in &mut new {
            known.joins(state.images().get(&known.id));
        }
        self.record(&mut state, new, blobs, tags)
    }

    /// Records an image that came from a registry, in which form its layers are there, and its names.
    fn add_pulled(
        &self,
        mut known: Known,
        blobs: Vec<(Digest, KnownBlob)>,
        names: Vec<(Reference, Digest)>,
    ) -> Result<()> {
        let mut state = self.state();
        known.joins(state.images().get(&known.id));
        self.record(&mut state, vec![known], blobs, names)
    }

    /// How many layers may come from registries, and go to them, at the same time.
    pub fn set_transfers(&self, downloads: usize, uploads: usize) {
        self.downloads.allow(downloads);
        *self.uploads.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Semaphore::new(uploads));
    }

    /// The registries that images come from.
    #[must_use]
    pub const fn registries(&self) -> &Arc<Registries> {
        &self.registries
    }

    /// The layers of an image, topmost first; never empty.
    pub fn lowers(&self, image: &Digest) -> Result<Vec<PathBuf>> {
        let state = self.state();
        let known = state.images().get(image).ok_or_else(|| ImageError::NotFound(image.to_string()))?;
        Ok(self.snapshots.lowers(&known.config.rootfs.diff_ids))
    }

    /// How containers get their files.
    #[must_use]
    pub const fn driver(&self) -> Driver {
        self.snapshots.driver()
    }

    /// At start: removes what nobody owns. `alive` says which containers exist.
    pub fn sweep(&self, alive: &dyn Fn(&ContainerId) -> bool) -> Result<()> {
        let known: Vec<ContainerId> = self.state().writables().keys().cloned().collect();
        for container in self.snapshots.writables().into_iter().chain(known) {
            if !alive(&container) {
                self.remove_writable(&container)?;
            }
        }
        let state = self.state();
        self.drop_trees(&state)?;
        for layer in self.snapshots.layers() {
            if !state.layer_is_needed(&layer) {
                self.snapshots.remove_layer(&layer)?;
            }
        }
        for blob in self.content.list() {
            if !state.content_is_needed(&blob) {
                self.content.remove(&blob)?;
            }
        }
        Ok(())
    }

    /// Bytes that were removed and are not deleted yet.
    #[must_use]
    pub fn in_trash(&self) -> u64 {
        self.snapshots.in_trash()
    }

    /// Bytes of all layers, and of each image's those no other has.
    #[must_use]
    pub fn disk_usage(&self) -> DiskUsage {
        let state = self.state();
        let shared = |known: &Known| (known.id.clone(), state.shared(known));
        DiskUsage { layers: state.size(), shared: state.images().values().map(shared).collect() }
    }
}

/// What the images take on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskUsage {
    /// Bytes of all layers.
    pub layers: u64,
    /// Of each image, the bytes it shares with others.
    pub shared: BTreeMap<Digest, u64>,
}
