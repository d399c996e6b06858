//! Storage drivers: how a container gets a root file system out of layers.
//!
//! Layers are folders in overlayfs's form, with `erofs` files that mount as such; these two drivers mount them, the
//! others put whole trees together.
//! Invariant: a data root keeps the driver it was made with. Which that is stands in a file that is written
//! once; a data root from before there was a choice has overlay2.

use std::io;
use std::path::Path;

use rustix::fs::StatFs;

use crate::{StoreError, erofs};

/// How containers get their files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// Layers are mounted over each other by the kernel.
    #[default]
    Overlay2,
    /// A full copy for each container; works on every file system.
    Vfs,
    /// A snapshot for each container.
    Btrfs,
    /// As overlay2, but a layer is one file that has its archive in it and is mounted as it is. Experimental.
    Erofs,
}

/// File systems by their numbers, with the names Docker has for them. See statfs(2).
const FILE_SYSTEMS: &[(i64, &str)] = &[
    (0xef53, "extfs"),
    (0x5846_5342, "xfs"),
    (havre_sys::btrfs::MAGIC, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x2fc1_2fc1, "zfs"),
    (0x794c_7630, "overlayfs"),
    (0xf2f5_2010, "f2fs"),
    (0x6969, "nfs"),
    (0xca45_1a4e, "bcachefs"),
];

const RECORD: &str = "driver";

fn refused(why: impl Into<String>) -> StoreError {
    StoreError::Driver(why.into())
}

impl Driver {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overlay2 => "overlay2",
            Self::Vfs => "vfs",
            Self::Btrfs => "btrfs",
            Self::Erofs => "erofs",
        }
    }

    /// Whether containers have their layers mounted below what they write, and no tree of their own.
    #[must_use]
    pub const fn mounts(self) -> bool {
        matches!(self, Self::Overlay2 | Self::Erofs)
    }

    /// The driver of this name; other names are refused with what to do.
    pub fn parse(name: &str) -> Result<Self, StoreError> {
        const OURS: &str = "choose overlay2 (the default), vfs, btrfs or erofs (experimental)";
        let gone = |since: &str| {
            refused(format!(
                "the storage driver {name:?} does not exist any more (Docker removed it in {since}): {OURS}; images have to be pulled or loaded again"
            ))
        };
        Err(match name {
            "overlay2" => return Ok(Self::Overlay2),
            "vfs" => return Ok(Self::Vfs),
            "btrfs" => return Ok(Self::Btrfs),
            "erofs" => return Ok(Self::Erofs),
            "aufs" | "overlay" => gone("version 24"),
            "devicemapper" => gone("version 25"),
            "zfs" => refused(format!(
                "the storage driver \"zfs\" needs a kernel with ZFS and its programs, and is not supported: {OURS}; vfs works on a ZFS file system too"
            )),
            "fuse-overlayfs" => refused(format!(
                "the storage driver \"fuse-overlayfs\" is for engines without root's rights: {OURS}"
            )),
            "windowsfilter" | "lcow" => refused(format!("the storage driver {name:?} needs Windows: {OURS}")),
            _ => refused(format!("unknown storage driver {name:?}: {OURS}")),
        })
    }

    /// The driver of the store in `root`: the recorded one, or the one that is asked for, which is then recorded.
    pub fn select(root: &Path, asked: Option<Self>) -> Result<Self, StoreError> {
        let record = root.join(RECORD);
        let recorded = match std::fs::read_to_string(&record) {
            Ok(name) => Some(Self::parse(name.trim())?),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::read(&record, error));
            }
            // From before there was a choice.
            Err(_) => root.join("layers").is_dir().then_some(Self::Overlay2),
        };
        let driver = match (recorded, asked) {
            (Some(old), Some(new)) if old != new => {
                let (old, new, root) = (old.name(), new.name(), root.display());
                return Err(refused(format!(
                    "the data in {root} belongs to the storage driver {old:?}, not {new:?}: start with --storage-driver {old}, or choose another --data-root"
                )));
            }
            (Some(old), _) => old,
            (None, asked) => asked.unwrap_or_default(),
        };
        std::fs::create_dir_all(root).map_err(|e| StoreError::write(root, e))?;
        driver.check(root)?;
        if !record.exists() {
            havre_sys::durable::replace(&record, format!("{}\n", driver.name()).as_bytes())
                .map_err(|e| StoreError::write(&record, e))?;
        }
        Ok(driver)
    }

    fn check(self, root: &Path) -> Result<(), StoreError> {
        let found = kind(&statfs(root)?);
        if self == Self::Btrfs && found != "btrfs" {
            return Err(refused(format!(
                "the storage driver \"btrfs\" needs a data root on Btrfs, but {} is on {found}: choose another --data-root or overlay2",
                root.display()
            )));
        }
        if self == Self::Erofs {
            erofs::probe(root)?;
        }
        Ok(())
    }

    /// What there is to know about it, as Docker names it.
    #[must_use]
    pub fn status(self, root: &Path) -> Vec<(String, String)> {
        let found = statfs(root).map_or("unknown", |found| kind(&found));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        match self {
            Self::Overlay2 => {
                let on = |name: &str| {
                    let path = format!("/sys/module/overlay/parameters/{name}");
                    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "Y").to_string()
                };
                vec![
                    pair("Backing Filesystem", found),
                    pair("Supports d_type", &knows_kinds(root).to_string()),
                    pair("Using metacopy", &on("metacopy")),
                    pair("Native Overlay Diff", "true"),
                    pair("userxattr", "false"),
                ]
            }
            Self::Vfs => Vec::new(),
            Self::Btrfs => vec![pair("Btrfs", "")],
            Self::Erofs => vec![
                pair("Backing Filesystem", found),
                pair("Layers", "one EROFS image each, with the archive in it"),
                pair("Status", "experimental"),
            ],
        }
    }
}

fn statfs(path: &Path) -> Result<StatFs, StoreError> {
    rustix::fs::statfs(path).map_err(|e| StoreError::read(path, e))
}

fn kind(found: &StatFs) -> &'static str {
    #[expect(clippy::useless_conversion, reason = "its type depends on the processor")]
    let number = i64::from(found.f_type);
    FILE_SYSTEMS.iter().find(|(known, _)| *known == number).map_or("an unknown file system", |(_, name)| name)
}

/// Whether folders say of what kind their entries are, which overlayfs needs.
fn knows_kinds(root: &Path) -> bool {
    use rustix::fs::{Dir, FileType, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(mut entries) = rustix::fs::open(root, flags, Mode::empty()).and_then(Dir::new) else {
        return false;
    };
    entries.all(|entry| entry.is_ok_and(|entry| entry.file_type() != FileType::Unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_refused_with_a_way_out() {
        for name in ["overlay2", "vfs", "btrfs", "erofs"] {
            assert_eq!(Driver::parse(name).unwrap().name(), name);
        }
        for (name, word) in [
            ("aufs", "does not exist any more (Docker removed it in version 24)"),
            ("overlay", "version 24"),
            ("devicemapper", "version 25"),
            ("zfs", "needs a kernel with ZFS"),
            ("windowsfilter", "needs Windows"),
            ("x", "unknown storage driver \"x\""),
        ] {
            let error = Driver::parse(name).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("choose overlay2"), "{error}");
        }
    }

    #[test]
    fn a_data_root_keeps_its_driver() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("snapshots");
        assert_eq!(Driver::select(&root, Some(Driver::Vfs)).unwrap(), Driver::Vfs);
        assert_eq!(Driver::select(&root, None).unwrap(), Driver::Vfs);
        let error = Driver::select(&root, Some(Driver::Overlay2)).unwrap_err().to_string();
        assert!(error.contains("belongs to the storage driver \"vfs\", not \"overlay2\""), "{error}");
        let old = folder.path().join("old");
        std::fs::create_dir_all(old.join("layers")).unwrap();
        assert!(Driver::select(&old, Some(Driver::Vfs)).is_err());
        assert_eq!(Driver::select(&old, None).unwrap(), Driver::Overlay2);
        let here = rustix::fs::statfs(folder.path()).unwrap();
        if kind(&here) != "btrfs" {
            let error =
                Driver::select(&folder.path().join("b"), Some(Driver::Btrfs)).unwrap_err().to_string();
            assert!(error.contains("needs a data root on Btrfs"), "{error}");
        }
    }
}
