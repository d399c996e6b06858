//! New file systems as detached mounts (fsopen, fsconfig, fsmount).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use havre_sys::mount::{MountAttr, attr, mount_setattr};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::error::{RuntimeError, Step};
use crate::mounts::Options;

/// The error together with what the file system itself says about it.
fn explain(context: impl AsFd, error: rustix::io::Errno) -> io::Error {
    let mut buffer = [0; 1024];
    let error = io::Error::from(error);
    match rustix::io::read(context, &mut buffer) {
        Ok(length) if length > 2 => {
            // A letter for the severity, a blank, the text.
            let text = String::from_utf8_lossy(&buffer[2..length]);
            io::Error::new(error.kind(), format!("{error} ({})", text.trim()))
        }
        _ => error,
    }
}

/// A new file system of `kind`, mounted nowhere yet.
pub(crate) fn create(
    kind: &str,
    source: Option<&str>,
    options: &Options,
    read_only: bool,
) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configure = || -> rustix::io::Result<()> {
        if let Some(source) = source {
            rustix::mount::fsconfig_set_string(&context, "source", source)?;
        }
        for (key, value) in &options.data {
            match value {
                Some(value) => rustix::mount::fsconfig_set_string(&context, key.as_str(), value.as_str())?,
                None => rustix::mount::fsconfig_set_flag(&context, key.as_str())?,
            }
        }
        if read_only {
            rustix::mount::fsconfig_set_flag(&context, "ro")?;
        }
        rustix::mount::fsconfig_create(&context)
    };
    configure().map_err(|error| explain(&context, error))?;
    // Only the low bits of MOUNT_ATTR fit fsmount; none higher is set by options.
    let bits = MountAttrFlags::from_bits_retain(
        u32::try_from(options.set & !attr::MOUNT_ATTR_NOSYMFOLLOW).unwrap_or(0),
    );
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, bits)
        .map_err(|error| explain(&context, error))?;
    if options.set & attr::MOUNT_ATTR_NOSYMFOLLOW != 0 {
        let change = MountAttr { set: attr::MOUNT_ATTR_NOSYMFOLLOW, ..MountAttr::default() };
        mount_setattr(&mount, c"", false, change)?;
    }
    Ok(mount)
}

/// Attaches a detached mount onto what `target` is a descriptor of.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    use rustix::mount::MoveMountFlags as Flags;
    let flags = Flags::MOVE_MOUNT_F_EMPTY_PATH | Flags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", target, "", flags)?)
}

/// A detached copy of the mount (or the part of it) that `fd` is a descriptor of.
pub(crate) fn copy(fd: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(fd, "", flags)?)
}

/// The layers of an overlay.
#[derive(Debug, Clone)]
pub(crate) struct Layers<'a> {
    /// Topmost first: folders, or files with EROFS in them.
    pub(crate) lowers: &'a [PathBuf],
    /// The upper and the work folder; without them nothing can be written.
    pub(crate) upper: Option<(&'a Path, &'a Path)>,
    pub(crate) volatile: bool,
}

/// A root file system that waits for the child.
pub(crate) enum RootTree {
    /// A detached mount.
    Mount(OwnedFd),
    /// Options of an overlay for mount(2), which the child calls: kernels before 6.5 cannot take layers one
    /// by one, and fsconfig cuts strings at 256 bytes.
    Classic(String),
}

/// An overlay of these layers, with their ids mapped by `idmap`.
pub(crate) fn overlay(layers: &Layers<'_>, idmap: Option<&OwnedFd>) -> Result<RootTree, RuntimeError> {
    let opened = OpenLayers::new(layers, idmap)?;
    if let ([_], None) = (layers.lowers, layers.upper) {
        // An overlay wants two.
        return opened.only().map(RootTree::Mount);
    }
    let lowers = opened.paths();
    let context =
        rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step("open the overlay file system")?;
    let one_by_one = || -> rustix::io::Result<OwnedFd> {
        rustix::mount::fsconfig_set_string(&context, "source", "overlay")?;
        for lower in &lowers {
            rustix::mount::fsconfig_set_string(&context, "lowerdir+", lower.as_path())?;
        }
        if let Some((upper, work)) = layers.upper {
            rustix::mount::fsconfig_set_string(&context, "upperdir", upper)?;
            rustix::mount::fsconfig_set_string(&context, "workdir", work)?;
        }
        if layers.volatile {
            rustix::mount::fsconfig_set_flag(&context, "volatile")?;
        }
        if opened.images {
            // Otherwise a file has the device of its layer and its folder that of the overlay, which `du -x` and others
            // take for the end of the file system.
            rustix::mount::fsconfig_set_string(&context, "xino", "on")?;
        }
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    match one_by_one() {
        Ok(mount) => Ok(RootTree::Mount(mount)),
        // The descriptors behind the paths of such layers would be gone by the time the child looks.
        Err(rustix::io::Errno::INVAL) if !opened.has_mounts() && lacks_single_layers() => {
            classic_options(layers).map(RootTree::Classic)
        }
        Err(error) => Err(explain(&context, error)).step("mount the overlay"),
    }
}

/// Whether this kernel is older than 6.5.
fn lacks_single_layers() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (6, 5)
}

fn classic_options(layers: &Layers<'_>) -> Result<String, RuntimeError> {
    let text = |path: &Path, colon: bool| -> Result<String, RuntimeError> {
        let text = path.to_str().ok_or_else(|| RuntimeError::invalid("root", "path is not UTF-8"))?;
        let text = text.replace('\\', "\\\\").replace(',', "\\,");
        Ok(if colon { text.replace(':', "\\:") } else { text })
    };
    let lowers: Vec<String> = layers.lowers.iter().map(|path| text(path, true)).collect::<Result<_, _>>()?;
    let mut options = format!("lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = layers.upper {
        options.push_str(&format!(",upperdir={},workdir={}", text(upper, false)?, text(work, false)?));
    }
    if layers.volatile {
        options.push_str(",volatile");
    }
    if options.len() >= 4096 {
        return Err(RuntimeError::unsupported("root", "kernels before 6.5 cannot mount so many layers"));
    }
    Ok(options)
}

/// Lower layers, those that are not simply folders as detached mounts of this process: files with a file system in
/// them, and folders with other ids. The upper folder cannot be mapped, because the kernel works in it as the
/// host's root: what the container writes has its outer ids.
struct OpenLayers<'a> {
    all: Vec<(&'a Path, Option<OwnedFd>)>,
    /// Some are file systems of their own.
    images: bool,
}

impl<'a> OpenLayers<'a> {
    fn new(layers: &Layers<'a>, idmap: Option<&OwnedFd>) -> Result<Self, RuntimeError> {
        let mut images = false;
        let mut open = |path: &'a PathBuf| -> Result<(&'a Path, Option<OwnedFd>), RuntimeError> {
            let image = havre_sys::erofs::mount_if_file(path)
                .step_with(|| format!("mount layer {}", path.display()))?;
            images |= image.is_some();
            let Some(namespace) = idmap else { return Ok((path, image)) };
            let tree = image.map_or_else(|| clone(path), Ok)?;
            let change = MountAttr { idmap: Some(namespace.as_fd()), ..MountAttr::default() };
            mount_setattr(&tree, c"", false, change)
                .step_with(|| format!("map the ids of {}", path.display()))?;
            Ok((path, Some(tree)))
        };
        let all = layers.lowers.iter().map(&mut open).collect::<Result<_, _>>()?;
        Ok(Self { all, images })
    }

    fn has_mounts(&self) -> bool {
        self.all.iter().any(|(_, mount)| mount.is_some())
    }

    /// Where overlayfs finds them.
    fn paths(&self) -> Vec<PathBuf> {
        use std::os::fd::AsRawFd;
        let path = |(path, mount): &(&Path, Option<OwnedFd>)| {
            mount.as_ref().map_or_else(
                || (*path).into(),
                |fd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            )
        };
        self.all.iter().map(path).collect()
    }

    /// The topmost one as a mount.
    fn only(self) -> Result<OwnedFd, RuntimeError> {
        match self.all.into_iter().next() {
            Some((path, mount)) => mount.map_or_else(|| clone(path), Ok),
            None => Err(RuntimeError::State("there is no layer".into())),
        }
    }
}

fn clone(path: &Path) -> Result<OwnedFd, RuntimeError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(rustix::fs::CWD, path, flags)
        .step_with(|| format!("open layer {}", path.display()))
}
