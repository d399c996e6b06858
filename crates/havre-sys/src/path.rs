//! Paths inside a root that someone hostile may have made and may be changing.
//!
//! Invariants: every lookup is one openat2 below the root's descriptor (RESOLVE_IN_ROOT), so neither a
//! link nor a rename can lead out of it; links of procfs that jump (RESOLVE_NO_MAGICLINKS) are refused;
//! what is made is made through the descriptor of its folder by a single name. Callers act on the
//! descriptors they get, never on a path a second time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// More links than this, or more races lost, are an error.
const ATTEMPTS: usize = 16;

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// The root of a container.
pub struct Root<'a>(BorrowedFd<'a>);

impl<'a> Root<'a> {
    /// Around a descriptor of the root.
    pub fn new(root: BorrowedFd<'a>) -> Self {
        Self(root)
    }

    /// A descriptor of what is at `path`, links followed.
    pub fn open_path(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH)
    }

    /// The same, but no component may be a link.
    pub fn open_path_without_links(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_with(path, OFlags::PATH, IN_ROOT | ResolveFlags::NO_SYMLINKS)
    }

    /// Opens what is at `path`.
    pub fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.open_with(path, flags, IN_ROOT)
    }

    fn open_with(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // A rename somewhere on the way made the kernel give up.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// A descriptor of the folder at `path`, which is made (0755) with those above it if absent.
    pub fn ensure_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut walked = std::path::PathBuf::from("/");
        let mut folder = self.open_path(Path::new("/"))?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                walked.push(component);
                continue;
            };
            walked.push(name);
            for attempt in 0.. {
                match self.open(&walked, OFlags::PATH | OFlags::DIRECTORY) {
                    Ok(next) => {
                        folder = next;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {
                        match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                            // A link to nowhere is in the way, or somebody was faster: look again.
                            Ok(()) | Err(Errno::EXIST) => {}
                            Err(error) => return Err(error.into()),
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(folder)
    }

    /// The folder of `path`, made if absent, and the last name of `path`.
    pub fn ensure_parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p std::ffi::OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path has no last name"));
        };
        Ok((self.ensure_folder(parent)?, name))
    }

    /// A descriptor of what is at `path`, to mount on: a folder or a file, made if absent.
    pub fn ensure_target(&self, path: &Path, folder: bool) -> io::Result<OwnedFd> {
        if folder {
            return self.ensure_folder(path);
        }
        for _ in 0..ATTEMPTS {
            match self.open_path(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
            let (parent, name) = self.ensure_parent(path)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The type of what a descriptor is of.
pub fn file_type(fd: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Whether a descriptor is of a folder.
pub fn is_folder(fd: impl AsFd) -> io::Result<bool> {
    Ok(file_type(fd)? == FileType::Directory)
}

/// Whether the file system of a descriptor has this magic number (linux/magic.h).
pub fn is_on(fd: impl AsFd, magic: u64) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(fd)?.f_type;
    Ok(u64::try_from(kind).is_ok_and(|kind| kind == magic))
}

/// procfs
pub const PROC_MAGIC: u64 = 0x9fa0;
/// sysfs
pub const SYSFS_MAGIC: u64 = 0x6265_6572;
/// tmpfs
pub const TMPFS_MAGIC: u64 = 0x0102_1994;
/// devpts
pub const DEVPTS_MAGIC: u64 = 0x1cd1;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_found_or_made_outside_of_the_root() {
        let outer = tempfile::tempdir().unwrap();
        let inside = outer.path().join("root");
        std::fs::create_dir_all(inside.join("a")).unwrap();
        std::fs::write(outer.path().join("secret"), "x").unwrap();
        symlink("../../../../secret", inside.join("up")).unwrap();
        symlink(outer.path(), inside.join("absolute")).unwrap();
        symlink("nowhere/deep", inside.join("dangling")).unwrap();
        symlink("/a", inside.join("link")).unwrap();

        let fd = std::fs::File::open(&inside).unwrap();
        let root = Root::new(fd.as_fd());
        assert!(root.open_path(Path::new("/up")).is_err());
        assert!(root.open_path(Path::new("/../secret")).is_err());
        assert!(root.open_path_without_links(Path::new("/link")).is_err());
        root.ensure_folder(Path::new("/link/b/c")).unwrap();
        assert!(inside.join("a/b/c").is_dir());
        root.ensure_target(Path::new("/../../x/file"), false).unwrap();
        assert!(inside.join("x/file").is_file() && !outer.path().join("x").exists());
        // The link is absolute: inside, it names a path of the root, which does not exist.
        assert!(root.ensure_folder(Path::new("/absolute/new")).is_err());
        assert!(root.ensure_folder(Path::new("/dangling/new")).is_err());
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 2);
    }

    #[test]
    fn links_that_jump_are_refused() {
        let fd = std::fs::File::open("/").unwrap();
        let own = std::fs::File::open("/tmp").unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&own));
        assert!(Root::new(fd.as_fd()).open_path(Path::new(&path)).is_err());
    }
}
