//! The files of containers: copies out and in, exports, what changed, how much it takes, and new images of it.
//!
//! Invariants: whatever touches a container's files holds a lease of its task and works on a blocking thread;
//! paths are resolved inside a descriptor of the root, and no program or library of the container is used;
//! a client that neither sends nor takes holds a thread and a bounded buffer, until its lease is needed back.

mod changes;
mod flow;
mod tree;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use havre_archive::ArchiveError;
use havre_archive::pack::Packer;
use havre_image::CommitSpec;
use havre_image::Writable;
use havre_oci::image::ContainerConfig;
use havre_oci::{Digest, Reference};
use havre_runtime::view::{self, Bind, Part, Stopped};
use havre_sys::path::Root;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

pub use changes::{Change, ChangeKind};
pub use flow::{Incoming, Outgoing};
pub use tree::clean as clean_path;
pub use tree::{ExtractSpec, PathStat};

use crate::EngineError;
use crate::container::{Access, Command, Granted, Lease};
use crate::index::Handle as Task;
use crate::launcher::Launcher;
use crate::record::{Fixed, View};
use crate::spec::MountKind;
use changes::Layers;
use flow::{Inflow, Outflow};
use tree::Tree;

/// How often a container that ends under our hands is looked at again.
const ATTEMPTS: usize = 3;

/// What a container takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// What it wrote.
    pub written: u64,
    /// That, and its image.
    pub total: u64,
}

/// How an image is made of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// The image's name.
    pub reference: Option<Reference>,
    /// By whom.
    pub author: String,
    /// A note for its history.
    pub comment: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// How its containers start, where it is said.
    pub config: ContainerConfig,
    /// Freeze the container meanwhile.
    pub pause: bool,
}

/// The files service.
pub struct Files {
    launcher: Arc<Launcher>,
}

/// Which tree is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Read,
    Write,
    /// The root file system without what is mounted in it.
    Bare,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::ShuttingDown)?
}

impl Files {
    pub(crate) const fn new(launcher: Arc<Launcher>) -> Self {
        Self { launcher }
    }

    fn task(&self, container: &str) -> Result<(Task, Arc<View>), EngineError> {
        let task = self.launcher.index.find(container)?;
        let view = Arc::clone(&task.view.borrow());
        Ok((task, view))
    }

    async fn lease(task: &Task, container: &str, access: Access) -> Result<Granted, EngineError> {
        let gone = || EngineError::NoContainer(container.to_owned());
        let (reply, answer) = oneshot::channel();
        task.inbox.send(Command::Lease { access, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Opens a container's tree.
    async fn open(&self, container: &str, want: Want) -> Result<(Tree, Lease, Arc<View>), EngineError> {
        let (task, view) = self.task(container)?;
        let mut watch = task.view.clone();
        for _ in 0..ATTEMPTS {
            watch.mark_unchanged();
            let access = if want == Want::Write { Access::Write } else { Access::Read };
            let Granted { pid, mut lease, writer } = Self::lease(&task, container, access).await?;
            if pid.is_none() && want == Want::Write {
                // Two overlays of the same upper folder would not know of each other.
                lease.hold(writer).await?;
            }
            let (launcher, fixed) = (Arc::clone(&self.launcher), Arc::clone(&view.fixed));
            let opened = blocking(move || {
                let root = match pid {
                    Some(pid) => launcher.running_root(&fixed, pid, want)?,
                    None => Some(launcher.stopped_root(&fixed, want)?),
                };
                Ok((root, lease))
            });
            match opened.await? {
                (Some(root), lease) => {
                    return Ok((Tree { root, container: container.to_owned() }, lease, view));
                }
                // It has just ended; its task is about to know.
                (None, lease) => drop(lease),
            }
            let soon = std::time::Duration::from_secs(2);
            tokio::time::timeout(soon, watch.changed()).await.map(drop).unwrap_or(());
        }
        Err(EngineError::State(format!("container {} is not running", view.fixed.id)))
    }

    async fn tell(&self, task: &Task, action: &'static str, more: Vec<(&'static str, String)>) {
        // A container that is gone has nothing to tell.
        task.inbox.send(Command::Happened { action, more }).await.unwrap_or(());
    }

    /// What a path in a container names.
    pub async fn stat(&self, container: &str, path: &str) -> Result<PathStat, EngineError> {
        let (tree, lease, _) = self.open(container, Want::Read).await?;
        let path = path.to_owned();
        let stat = blocking(move || {
            let stat = tree.stat(&path);
            drop(lease);
            stat
        });
        stat.await
    }

    /// Looks at a container's files. Without what is mounted in it, where a source of that is gone.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        container: &str,
        look: impl FnOnce(&Root<'_>) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let (tree, lease, _) = match self.open(container, Want::Read).await {
            Ok(opened) => opened,
            Err(_) => self.open(container, Want::Bare).await?,
        };
        blocking(move || {
            let seen = look(&Root::new(tree.root.as_fd()));
            drop(lease);
            Ok(seen)
        })
        .await
    }

    /// The archive of what a path in a container names. It goes to the sender that `out` makes when everything
    /// that can be refused was refused.
    pub async fn archive(&self, container: &str, path: &str, out: Outgoing) -> Result<PathStat, EngineError> {
        let (tree, lease, _) = self.open(container, Want::Read).await?;
        let (asked, runtime) = (path.to_owned(), Handle::current());
        let (stat, source) = blocking(move || Ok((tree.stat(&asked)?, (tree.source(&asked)?, tree)))).await?;
        let (task, _) = self.task(container)?;
        self.tell(&task, "archive-path", Vec::new()).await;
        tokio::task::spawn_blocking(move || {
            let (source, _tree) = source;
            let mut out = Outflow::new(out, lease.revoked(), runtime);
            let written = source.write(&mut out);
            finish(out, &written);
        });
        Ok(stat)
    }

    /// The archive of a container's root file system, without what is mounted in it.
    pub async fn export(&self, container: &str, out: Outgoing) -> Result<(), EngineError> {
        let (tree, lease, _) = self.open(container, Want::Bare).await?;
        let (task, _) = self.task(container)?;
        self.tell(&task, "export", Vec::new()).await;
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let mut out = Outflow::new(out, lease.revoked(), runtime);
            let written = rustix::fs::openat(&tree.root, c".", flags, Mode::empty())
                .map_err(ArchiveError::stream)
                .and_then(|root| {
                    let mut packer = Packer::new(&mut out);
                    packer.tree(root, b"")?;
                    packer.finish().map(drop)
                });
            finish(out, &written);
        });
        Ok(())
    }

    /// Unpacks an archive into a folder of a container. With `as_user`, everything gets the owner that the
    /// container's processes have.
    pub async fn extract(
        &self,
        container: &str,
        path: &str,
        mut spec: ExtractSpec,
        as_user: bool,
        input: Incoming,
    ) -> Result<(), EngineError> {
        let (task, view) = self.task(container)?;
        writable(&view.fixed, path)?;
        let (tree, lease, view) = self.open(container, Want::Write).await?;
        let (path, runtime) = (path.to_owned(), Handle::current());
        blocking(move || {
            let user = &view.fixed.merged.user;
            if as_user && !user.is_empty() {
                let owner = view::user(tree.root.as_fd(), user);
                spec.owner = Some(owner.map_err(|error| EngineError::Invalid(havre_base::chain(&error)))?);
            }
            let input = Inflow::new(input, lease.revoked(), runtime);
            let result = tree.extract(&path, spec, input);
            drop(tree);
            drop(lease);
            result
        })
        .await?;
        self.tell(&task, "extract-to-dir", Vec::new()).await;
        Ok(())
    }

    /// What a container changed, by path.
    pub async fn changes(&self, container: &str) -> Result<Vec<Change>, EngineError> {
        let (task, view) = self.task(container)?;
        let Granted { lease, .. } = Self::lease(&task, container, Access::Read).await?;
        let launcher = Arc::clone(&self.launcher);
        blocking(move || {
            let changes = launcher.layers(&view.fixed)?.changes();
            drop(lease);
            changes.map_err(EngineError::io("look for changes of", view.fixed.id.as_str()))
        })
        .await
    }

    /// What a container takes on disk.
    pub async fn sizes(&self, view: Arc<View>) -> Result<Sizes, EngineError> {
        let launcher = Arc::clone(&self.launcher);
        blocking(move || {
            let written = launcher.images.written(view.id());
            let image = launcher.images.inspect(&view.fixed.image.to_string()).map_or(0, |image| image.size);
            Ok(Sizes { written, total: written.saturating_add(image) })
        })
        .await
    }

    /// Makes an image of what a container changed.
    pub async fn commit(&self, container: &str, request: CommitRequest) -> Result<Digest, EngineError> {
        let (task, view) = self.task(container)?;
        let Granted { pid, lease, .. } = Self::lease(&task, container, Access::Read).await?;
        let frozen = match (pid, request.pause) {
            (Some(_), true) => Frozen::freeze(&task).await,
            _ => None,
        };
        let reference = request.reference.as_ref().map(Reference::familiar).unwrap_or_default();
        let comment = request.comment.clone();
        let launcher = Arc::clone(&self.launcher);
        let fixed = Arc::clone(&view.fixed);
        let made = blocking(move || {
            let made = commit(&launcher, &fixed, request, &lease.revoked());
            drop(lease);
            made
        })
        .await;
        if let Some(frozen) = frozen {
            frozen.thaw().await;
        }
        let id = made?;
        let more = vec![("comment", comment), ("imageID", id.to_string()), ("imageRef", reference)];
        self.tell(&task, "commit", more).await;
        Ok(id)
    }
}

fn finish(out: Outflow, written: &Result<(), ArchiveError>) {
    match written {
        Ok(()) => out.end(Ok(())),
        Err(error) => {
            tracing::debug!(error = havre_base::chain(error), "an archive ended early");
            out.end(Err(error));
        }
    }
}

fn commit(
    launcher: &Launcher,
    fixed: &Fixed,
    request: CommitRequest,
    revoked: &watch::Receiver<bool>,
) -> Result<Digest, EngineError> {
    let layers = launcher.layers(fixed)?;
    let image =
        launcher.images.get(&fixed.image).map(|image| image.config.config.clone()).unwrap_or_default();
    let merged = &fixed.merged;
    let container = ContainerConfig {
        user: merged.user.clone(),
        env: merged.env.clone(),
        entrypoint: merged.entrypoint.clone(),
        cmd: merged.command.clone(),
        working_dir: merged.working_dir.clone(),
        labels: merged.labels.clone(),
        on_build: Vec::new(),
        ..image
    };
    let spec = CommitSpec {
        reference: request.reference,
        author: request.author,
        comment: request.comment,
        changes: request.changes,
        asked: request.config,
        created_by: merged.command.clone().unwrap_or_default().join(" "),
        container,
    };
    let skip = |path: &[u8]| layers.is_scaffold(path);
    let whole = || !*revoked.borrow();
    Ok(launcher.images.commit(&fixed.id, &fixed.image, spec, &skip, &layers.difference.upper, &whole)?.id)
}

/// A container that was frozen for a commit, and is thawed whatever happens.
struct Frozen(Option<tokio::sync::mpsc::Sender<Command>>);

impl Frozen {
    /// Freezes; none when it does not run or is frozen already.
    async fn freeze(task: &Task) -> Option<Self> {
        let (reply, answer) = oneshot::channel();
        task.inbox.send(Command::Freeze { frozen: true, reply }).await.ok()?;
        matches!(answer.await, Ok(Ok(()))).then(|| Self(Some(task.inbox.clone())))
    }

    async fn thaw(mut self) {
        if let Some(inbox) = self.0.take() {
            let (reply, answer) = oneshot::channel();
            // It may have been thawed to be killed.
            inbox.send(Command::Freeze { frozen: false, reply }).await.unwrap_or(());
            answer.await.map(drop).unwrap_or(());
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let Some(inbox) = self.0.take() else { return };
        if let Ok(runtime) = Handle::try_current() {
            // The request was given up; the container's task ends what this starts.
            runtime.spawn(Self(Some(inbox)).thaw());
        }
    }
}

/// Docker looks at the request, not at the mounts: a read-only root takes nothing but in its mounts.
fn writable(fixed: &Fixed, path: &str) -> Result<(), EngineError> {
    let path = tree::clean(path);
    let inside = |target: &str| {
        let target = tree::clean(target);
        path == target || path.strip_prefix(target.as_str()).is_some_and(|rest| rest.starts_with('/'))
    };
    let mount =
        fixed.spec.mounts.iter().filter(|mount| inside(&mount.target)).max_by_key(|mount| mount.target.len());
    match mount {
        Some(mount) if mount.read_only => Err(EngineError::ReadOnly("mounted volume is marked read-only")),
        None if fixed.spec.read_only => Err(EngineError::ReadOnly("container rootfs is marked read-only")),
        _ => Ok(()),
    }
}

impl Launcher {
    /// The root of a running container; none if it has ended.
    fn running_root(&self, fixed: &Fixed, pid: i32, want: Want) -> Result<Option<OwnedFd>, EngineError> {
        let Some(process) = Pid::from_raw(pid) else { return Ok(None) };
        let Ok(pidfd) = rustix::process::pidfd_open(process, PidfdFlags::empty()) else { return Ok(None) };
        // The number may be another's by now: the container's control group is nobody else's.
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let own = self.cgroup_path(fixed);
        let inside = |path: &str| {
            path.strip_prefix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if !groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(inside) {
            return Ok(None);
        }
        let part = if want == Want::Bare { Part::Root } else { Part::Whole };
        match view::running(pidfd.as_fd(), part) {
            Ok(root) => Ok(Some(root)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
            Err(error) => Err(EngineError::io("enter the mounts of", fixed.id.as_str())(error)),
        }
    }

    /// The tree of a container that does not run.
    fn stopped_root(&self, fixed: &Fixed, want: Want) -> Result<OwnedFd, EngineError> {
        let writable = self.images.create_writable(&fixed.id, &fixed.image)?;
        let mut binds = Vec::new();
        if want != Want::Bare {
            let folder = self.data_dir(&fixed.id);
            for (file, target) in
                [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")]
            {
                let source = folder.join(file);
                let given = fixed.spec.mounts.iter().any(|mount| mount.target == target);
                if !given && source.exists() {
                    binds.push(Bind { source, target: target.into(), read_only: false, recursive: false });
                }
            }
            let mut mounts: Vec<_> = fixed.spec.mounts.iter().collect();
            mounts.sort_by_key(|mount| mount.target.matches('/').count());
            for mount in mounts {
                if let MountKind::Bind { source, recursive, .. } = &mount.kind {
                    binds.push(Bind {
                        source: source.clone(),
                        target: mount.target.clone(),
                        read_only: mount.read_only,
                        recursive: *recursive,
                    });
                }
            }
        }
        let files = match writable {
            Writable::Overlay { lowers, upper, work } => view::Files::Overlay { lowers, upper, work },
            Writable::Tree(path) => view::Files::Tree(path),
        };
        let tree = Stopped { files, write: want == Want::Write, binds };
        let place: PathBuf = self.settings.exec_root.join("rootfs");
        view::stopped(&tree, &place).map_err(|error| EngineError::State(havre_base::chain(&error)))
    }

    /// What a container wrote and what is below it.
    fn layers(&self, fixed: &Fixed) -> Result<Layers<'_>, EngineError> {
        let difference = self.images.difference(&fixed.id, &fixed.image)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |path: &PathBuf| {
            rustix::fs::open(path, flags, Mode::empty()).map_err(EngineError::io("open", path))
        };
        let base = match difference.base.as_slice() {
            [only] if only.is_dir() => open(only)?,
            [top, rest @ ..] => {
                let files =
                    view::Files::Overlay { lowers: rest.to_vec(), upper: top.clone(), work: PathBuf::new() };
                let tree = Stopped { files, write: false, binds: Vec::new() };
                let place = self.settings.exec_root.join("rootfs");
                view::stopped(&tree, &place).map_err(|error| EngineError::State(havre_base::chain(&error)))?
            }
            [] => return Err(EngineError::NoContainer(fixed.id.to_string())),
        };
        Ok(Layers { upper: open(&difference.upper)?, base, difference })
    }
}
