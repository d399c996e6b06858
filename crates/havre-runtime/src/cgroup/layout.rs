//! Which hierarchies are mounted where.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::error::{RuntimeError, Step};

/// The interface of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller or few.
    V1,
    /// One for all.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub root: PathBuf,
    /// Its interface.
    pub version: Version,
    /// Its controllers; `name=...` for one without. Empty: all (v2).
    pub controllers: Vec<String>,
    /// The last part of the mount point, which a container sees as well.
    pub name: String,
}

impl Hierarchy {
    /// The folder of the group at `path`.
    pub(super) fn folder(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether it has the controller.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.version == Version::V2 || self.controllers.iter().any(|name| name == controller)
    }
}

/// What a machine can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a kernel option of its own")]
pub struct Offers {
    /// The controllers are those of v2.
    pub unified: bool,
    /// Memory.
    pub memory: bool,
    /// Memory and swap together.
    pub swap: bool,
    /// Processor time in a period.
    pub quota: bool,
    /// A share of the processors.
    pub shares: bool,
    /// Processors and memory nodes by number.
    pub cpuset: bool,
    /// Processes.
    pub pids: bool,
}

impl Offers {
    /// Of this machine; nothing where no hierarchy is mounted.
    #[must_use]
    pub fn here() -> Self {
        Layout::current().map(Layout::offers).unwrap_or_default()
    }
}

/// All hierarchies that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The interface of the controllers.
    pub version: Version,
    /// The hierarchies: all of v1, or the one of v2.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// The layout of this machine, found once.
    pub fn current() -> Result<&'static Self, RuntimeError> {
        static LAYOUT: OnceLock<Layout> = OnceLock::new();
        if let Some(layout) = LAYOUT.get() {
            return Ok(layout);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").step("read /proc/self/mountinfo")?;
        let layout = Self::parse(&mounts)
            .ok_or_else(|| RuntimeError::unsupported("cgroups", "no cgroup hierarchy is mounted"))?;
        Ok(LAYOUT.get_or_init(|| layout))
    }

    /// The layout that a mountinfo file describes.
    pub fn parse(mountinfo: &str) -> Option<Self> {
        let (mut v1, mut v2) = (Vec::<Hierarchy>::new(), None);
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (mut left, mut right) = (left.split(' '), right.split(' '));
            let (Some(root), Some(kind), Some(options)) = (left.nth(4), right.next(), right.nth(1)) else {
                continue;
            };
            let root = PathBuf::from(unescape(root));
            let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            match kind {
                "cgroup" => {
                    let generic =
                        ["rw", "ro", "xattr", "clone_children", "noprefix", "favordynmods", "nofavordynmods"];
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|option| !generic.contains(option) && !option.starts_with("release_agent="))
                        .map(str::to_owned)
                        .collect();
                    // The first mount of a hierarchy counts.
                    if !v1.iter().any(|known| known.controllers == controllers) {
                        v1.push(Hierarchy { root, version: Version::V1, controllers, name });
                    }
                }
                "cgroup2" if v2.is_none() => {
                    v2 = Some(Hierarchy { root, version: Version::V2, controllers: Vec::new(), name });
                }
                _ => {}
            }
        }
        let has_controllers = v1.iter().any(|h| h.controllers.iter().any(|name| !name.starts_with("name=")));
        match v2 {
            _ if has_controllers => Some(Self { version: Version::V1, hierarchies: v1 }),
            Some(v2) => Some(Self { version: Version::V2, hierarchies: vec![v2] }),
            None => None,
        }
    }

    /// What this machine can limit.
    #[must_use]
    pub fn offers(&self) -> Offers {
        let unified = match self.version {
            Version::V1 => String::new(),
            Version::V2 => {
                let list = self.hierarchies.first().map(|one| one.root.join("cgroup.controllers"));
                list.and_then(|list| fs::read_to_string(list).ok()).unwrap_or_default()
            }
        };
        let has = |controller: &str| match self.version {
            Version::V1 => self.hierarchy(controller).is_some(),
            Version::V2 => unified.split_whitespace().any(|name| name == controller),
        };
        // In v1 a kernel option decides about a file beside the controller's others.
        let file = |controller: &str, name: &str| {
            has(controller)
                && (self.version == Version::V2
                    || self.hierarchy(controller).is_some_and(|one| one.root.join(name).exists()))
        };
        Offers {
            unified: self.version == Version::V2,
            memory: has("memory"),
            swap: file("memory", "memory.memsw.limit_in_bytes") && fs::exists("/proc/swaps").unwrap_or(false),
            quota: file("cpu", "cpu.cfs_quota_us"),
            shares: has("cpu"),
            cpuset: has("cpuset"),
            pids: has("pids"),
        }
    }

    /// The hierarchy that has `controller`.
    /// Whether the number of processes can be limited.
    pub fn counts_processes(&self) -> bool {
        self.hierarchy("pids").is_some()
    }

    pub(super) fn hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller))
    }
}

/// Blanks and the like are written in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TMPFS: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n";
    const CPU: &str = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n";
    const PIDS: &str = "39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n";
    const NAMED: &str = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
    const UNIFIED: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const PURE: &str = "41 23 0:38 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn where_controllers_are_decides_the_version() {
        let hybrid = Layout::parse(&[TMPFS, CPU, PIDS, NAMED, UNIFIED].concat()).unwrap();
        assert_eq!((hybrid.version, hybrid.hierarchies.len()), (Version::V1, 3));
        assert_eq!(hybrid.hierarchy("cpuacct").unwrap().root, PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"));
        assert!(hybrid.hierarchy("memory").is_none());

        let offers = hybrid.offers();
        assert!(offers.shares && offers.pids && !offers.memory && !offers.swap && !offers.unified);

        let named = Layout::parse(&[TMPFS, NAMED, UNIFIED].concat()).unwrap();
        assert_eq!((named.version, named.hierarchies.len()), (Version::V2, 1));
        assert_eq!(
            Layout::parse(PURE).unwrap().hierarchies[0].folder("/a/b"),
            PathBuf::from("/sys/fs/cgroup/a/b")
        );
        assert_eq!(Layout::parse(TMPFS), None);
    }
}
