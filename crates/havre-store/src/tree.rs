//! Whole trees out of layers, and what of a tree differs from another one.
//!
//! Invariants: folders are held as descriptors and no link is followed, because a container may change its tree
//! meanwhile; only what turned out to be a regular file is opened. What differs is written in overlayfs's form,
//! which is the form of a writable layer with the other driver: everything behind is the same code.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use havre_archive::pack::{is_opaque, is_whiteout};
use havre_archive::unpack::remove_tree;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
    makedev,
};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const LEAF: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Folders inside each other. A path may have half as many names as it has bytes, but each is two descriptors.
const DEPTH: usize = 400;

/// How entries are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A layer: devices 0:0 remove what is there.
    Layer,
    /// As they are.
    Plain,
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_folder(stat: &Stat) -> bool {
    kind(stat) == FileType::Directory
}

fn names(folder: &OwnedFd) -> rustix::io::Result<BTreeSet<CString>> {
    let mut found = BTreeSet::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.insert(entry.file_name().to_owned());
        }
    }
    Ok(found)
}

fn open_folder(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(parent, name, FOLDER, Mode::empty())
}

fn look(parent: impl AsFd, name: &CStr) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(parent: impl AsFd, name: &CStr) -> rustix::io::Result<()> {
    remove_tree(parent.as_fd(), name.to_bytes(), DEPTH)
}

/// What puts a tree together.
struct Builder {
    form: Form,
    /// The new names of files that have several.
    links: HashMap<(u64, u64), File>,
}

/// Puts layers, the bottom one first, on the tree `to`, which is there.
pub(crate) fn apply_layers<'a>(layers: impl Iterator<Item = &'a Path>, to: &Path) -> io::Result<()> {
    let target = rustix::fs::open(to, FOLDER, Mode::empty())?;
    for layer in layers {
        let source = rustix::fs::open(layer, FOLDER, Mode::empty())?;
        let mut builder = Builder { form: Form::Layer, links: HashMap::new() };
        builder.merge(&source, &target, DEPTH)?;
        describe(&target, &source, &rustix::fs::fstat(&source)?)?;
    }
    Ok(())
}

/// Copies the tree `from` into the empty folder `to`.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let source = rustix::fs::open(from, FOLDER, Mode::empty())?;
    let target = rustix::fs::open(to, FOLDER, Mode::empty())?;
    let mut builder = Builder { form: Form::Plain, links: HashMap::new() };
    builder.merge(&source, &target, DEPTH)?;
    describe(&target, &source, &rustix::fs::fstat(&source)?)
}

impl Builder {
    fn merge(&mut self, from: &OwnedFd, to: &OwnedFd, left: usize) -> io::Result<()> {
        let left = left.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
        for name in names(from)? {
            let Some(stat) = look(from, &name)? else { continue };
            if self.form == Form::Layer && is_whiteout(&stat) {
                remove(to, &name)?;
            } else {
                self.entry(from, &name, &stat, to, left)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        name: &CStr,
        stat: &Stat,
        to: &OwnedFd,
        left: usize,
    ) -> io::Result<()> {
        if !is_folder(stat) {
            remove(to, name)?;
            return self.leaf(from, name, to);
        }
        let source = match open_folder(from, name) {
            // It was replaced under our hands.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            other => other?,
        };
        let fresh = self.form == Form::Layer && is_opaque(&source);
        match look(to, name)? {
            Some(old) if fresh || !is_folder(&old) => {
                remove(to, name)?;
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            }
            Some(_) => {}
            None => rustix::fs::mkdirat(to, name, Mode::RWXU)?,
        }
        let target = open_folder(to, name)?;
        self.merge(&source, &target, left)?;
        describe(&target, &source, &rustix::fs::fstat(&source)?)
    }

    /// Copies what is no folder; what is gone meanwhile is no error.
    fn leaf(&mut self, from: &OwnedFd, name: &CStr, to: &OwnedFd) -> io::Result<()> {
        let leaf = match rustix::fs::openat(from, name, LEAF, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let stat = rustix::fs::fstat(&leaf)?;
        let times = times(&stat);
        let (owner, group) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match kind(&stat) {
            FileType::Directory => return Ok(()),
            FileType::RegularFile => {
                let several = stat.st_nlink > 1;
                if several && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                    let own = format!("/proc/self/fd/{}", first.as_raw_fd());
                    return Ok(rustix::fs::linkat(CWD, own, to, name, AtFlags::SYMLINK_FOLLOW)?);
                }
                let source = File::open(format!("/proc/self/fd/{}", leaf.as_raw_fd()))?;
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = File::from(rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
                copy(&source, &target)?;
                describe(&target, &source, &stat)?;
                if several {
                    self.links.insert((stat.st_dev, stat.st_ino), target);
                }
                return Ok(());
            }
            FileType::Symlink => {
                let goal = rustix::fs::readlinkat(&leaf, c"", Vec::new())?;
                rustix::fs::symlinkat(goal, to, name)?;
                rustix::fs::chownat(to, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            other => {
                rustix::fs::mknodat(to, name, other, mode, stat.st_rdev)?;
                rustix::fs::chownat(to, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
                rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
            }
        }
        Ok(rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn times(stat: &Stat) -> Timestamps {
    #[expect(clippy::useless_conversion, reason = "their types depend on the processor")]
    let of = |seconds: i64, nanos: u64| Timespec {
        tv_sec: seconds.into(),
        tv_nsec: i64::try_from(nanos).unwrap_or(0).into(),
    };
    let nanos = |nanos: u64| nanos;
    Timestamps {
        last_access: of(stat.st_atime, nanos(stat.st_atime_nsec)),
        last_modification: of(stat.st_mtime, nanos(stat.st_mtime_nsec)),
    }
}

/// Owner, attributes, mode and times, in the order in which one does not undo another.
fn describe(target: impl AsFd, source: impl AsFd, stat: &Stat) -> io::Result<()> {
    let target = target.as_fd();
    rustix::fs::fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    attributes(target, source)?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(rustix::fs::futimens(target, &times(stat))?)
}

fn attributes(target: impl AsFd, source: impl AsFd) -> io::Result<()> {
    let source = source.as_fd();
    let mut list = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(source, list.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let name = CString::new(name)?;
        let mut value = vec![0_u8; 64 << 10];
        let length = match rustix::fs::fgetxattr(source, &name, value.as_mut_slice()) {
            Err(Errno::NODATA) => continue,
            other => other?,
        };
        match rustix::fs::fsetxattr(&target, &name, &value[..length], XattrFlags::empty()) {
            // Labels of the machine's own, on a file system that has none.
            Err(Errno::OPNOTSUPP) if name.to_bytes().starts_with(b"security.") => {}
            other => other?,
        }
    }
    Ok(())
}

/// Shares the bytes where the file system can, and copies them where not; holes stay holes.
fn copy(source: &File, target: &File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while at < length {
        let data = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(data))?;
        let (mut from, mut to) = (data, data);
        while from < end {
            let most = usize::try_from(end - from).unwrap_or(usize::MAX);
            // Moves both places on.
            if rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), most)? == 0 {
                return Ok(());
            }
        }
        at = end;
    }
    Ok(())
}

/// Finds what of a tree differs from the one it was made from.
struct Comparer {
    builder: Builder,
    /// Bytes of files that are new or others, each counted once whatever names it has.
    size: u64,
    seen: HashSet<u64>,
}

/// What of `tree` differs from `base`, in overlayfs's form in the empty folder `out` if there is one; the result is
/// how many bytes its files have.
pub(crate) fn difference(base: &Path, tree: &Path, out: Option<&Path>) -> io::Result<u64> {
    let open = |path: &Path| rustix::fs::open(path, FOLDER, Mode::empty());
    let (base, tree) = (open(base)?, open(tree)?);
    let out = out.map(open).transpose()?;
    let builder = Builder { form: Form::Plain, links: HashMap::new() };
    let mut comparer = Comparer { builder, size: 0, seen: HashSet::new() };
    comparer.folder(Some(&base), &tree, out.as_ref(), DEPTH)?;
    if let Some(out) = &out {
        describe(out, &tree, &rustix::fs::fstat(&tree)?)?;
    }
    Ok(comparer.size)
}

fn differs(old: &Stat, new: &Stat) -> bool {
    let described = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    let changed = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    described(old) != described(new) || (!is_folder(new) && changed(old) != changed(new))
}

impl Comparer {
    /// Whether anything in the folder differs.
    fn folder(
        &mut self,
        base: Option<&OwnedFd>,
        tree: &OwnedFd,
        out: Option<&OwnedFd>,
        left: usize,
    ) -> io::Result<bool> {
        let left = left.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
        let listed = names(tree)?;
        let mut any = false;
        for gone in base.map(names).transpose()?.unwrap_or_default().difference(&listed) {
            any = true;
            if let Some(out) = out {
                rustix::fs::mknodat(out, gone, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?;
            }
        }
        for name in &listed {
            let Some(stat) = look(tree, name)? else { continue };
            let old = base.map(|base| look(base, name)).transpose()?.flatten();
            let changed = old.as_ref().is_none_or(|old| differs(old, &stat));
            if is_folder(&stat) {
                let Ok(inner) = open_folder(tree, name) else { continue };
                let below = match (base, old.filter(is_folder)) {
                    (Some(base), Some(_)) => Some(open_folder(base, name)?),
                    _ => None,
                };
                let made = out.map(|out| -> io::Result<OwnedFd> {
                    rustix::fs::mkdirat(out, name, Mode::RWXU)?;
                    Ok(open_folder(out, name)?)
                });
                let made = made.transpose()?;
                let inside = self.folder(below.as_ref(), &inner, made.as_ref(), left)?;
                match (out, made) {
                    (Some(_), Some(made)) if changed || inside => describe(&made, &inner, &stat)?,
                    (Some(out), Some(_)) => rustix::fs::unlinkat(out, name, AtFlags::REMOVEDIR)?,
                    _ => {}
                }
                any |= changed || inside;
            } else if changed {
                any = true;
                if stat.st_nlink < 2 || self.seen.insert(stat.st_ino) {
                    self.size = self.size.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
                }
                if let Some(out) = out {
                    self.builder.leaf(tree, name, out)?;
                }
            }
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};

    use super::*;

    fn write(path: &Path, name: &str, text: &str) {
        std::fs::write(path.join(name), text).unwrap();
    }

    #[test]
    fn layers_become_a_tree_and_its_changes_a_layer() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["low", "top", "base", "tree", "out", "again"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let low = at("low");
        std::fs::create_dir_all(low.join("d/sub")).unwrap();
        std::fs::create_dir(low.join("gone")).unwrap();
        write(&low, "d/a", "1");
        write(&low, "gone/x", "1");
        write(&low, "d/sub/deep", "1");
        symlink("/etc", low.join("l")).unwrap();
        std::fs::hard_link(low.join("d/a"), low.join("same")).unwrap();
        let sparse = File::create(low.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        // The upper layer removes a folder, replaces a link by a folder and hides what a folder had.
        let top = at("top");
        let whiteout = |name: &str| {
            let path = top.join(name);
            rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
        };
        whiteout("gone");
        std::fs::create_dir_all(top.join("d/sub")).unwrap();
        let opaque = File::open(top.join("d/sub")).unwrap();
        rustix::fs::fsetxattr(&opaque, c"trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        std::fs::create_dir(top.join("l")).unwrap();
        write(&top, "l/passwd", "mine");
        apply_layers([low.as_path(), &top].into_iter(), &at("base")).unwrap();
        let base = at("base");
        assert!(!base.join("gone").exists() && !base.join("d/sub/deep").exists());
        assert_eq!(std::fs::read(base.join("l/passwd")).unwrap(), b"mine");
        assert_eq!(base.join("same").metadata().unwrap().ino(), base.join("d/a").metadata().unwrap().ino());
        let sparse = base.join("sparse").metadata().unwrap();
        assert!(sparse.len() == 1 << 30 && sparse.blocks() < 1 << 10);
        copy_tree(&base, &at("tree")).unwrap();
        let tree = at("tree");
        assert_eq!(difference(&base, &tree, None).unwrap(), 0);
        write(&tree, "d/a", "22");
        std::fs::remove_dir_all(tree.join("l")).unwrap();
        std::fs::create_dir(tree.join("new")).unwrap();
        write(&tree, "new/file", "333");
        assert_eq!(difference(&base, &tree, None).unwrap(), 5, "a file with two names, and the new one");
        difference(&base, &tree, Some(&at("out"))).unwrap();
        let mut found: Vec<_> =
            std::fs::read_dir(at("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
        found.sort();
        assert_eq!(found, ["d", "l", "new", "same"]);
        assert!(at("out/l").symlink_metadata().unwrap().file_type().is_char_device());
        apply_layers([base.as_path(), &at("out")].into_iter(), &at("again")).unwrap();
        assert_eq!(difference(&tree, &at("again"), None).unwrap(), 0);
    }
}
