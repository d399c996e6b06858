//! Control groups: v1, hybrid (controllers on v1) and v2.
//!
//! Invariants: a group is made below every mounted hierarchy or below none; nothing is ever mounted or
//! remounted; a `Cgroup` is a name, and dropping it changes nothing. Removing what is absent succeeds.
//! A limit that this kernel lacks is an error, except the few that Docker drops with a warning: those
//! come back as warnings.
//!
//! Deciding what to write is pure (`v1::plan`, `v2::plan`, `devices`); writing is here.

mod change;
mod devices;
mod layout;
mod stats;
mod struck;
mod v1;
mod v2;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use havre_oci::runtime::LinuxResources;
use rustix::event::{PollFd, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

pub use change::Changed;
pub use layout::{Hierarchy, Layout, Offers, Version};
pub use stats::{BlockIoUsage, CpuUsage, DeviceFigure, MemoryUsage, PidsUsage, Usage, machine_memory};
pub use struck::Struck;

use crate::error::{RuntimeError, Step};

/// One write of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    /// Controller whose folder has the file (v1), or must be enabled (v2).
    controller: &'static str,
    file: String,
    value: String,
    /// Said when the kernel has no such file; without it, that is an error.
    or_warn: Option<&'static str>,
}

impl Write {
    fn new(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Self {
        Self { controller, file: file.into(), value: value.to_string(), or_warn: None }
    }

    fn or_warn(mut self, warning: &'static str) -> Self {
        self.or_warn = Some(warning);
        self
    }
}

/// A plan: writes in order, and warnings that are known before.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    writes: Vec<Write>,
    warnings: Vec<String>,
}

/// One control group in all hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: String,
    layout: &'static Layout,
    warnings: Vec<String>,
}

impl Cgroup {
    /// Makes the group at `path` (such as `/havre/<id>`) and sets its limits. On an error nothing stays.
    pub fn create(path: &str, resources: &LinuxResources) -> Result<Self, RuntimeError> {
        Self::create_in(Layout::current()?, path, resources)
    }

    /// As [`Cgroup::create`], in the hierarchies of `layout`.
    pub fn create_in(
        layout: &'static Layout,
        path: &str,
        resources: &LinuxResources,
    ) -> Result<Self, RuntimeError> {
        let mut cgroup = Self { path: checked(path)?, layout, warnings: Vec::new() };
        let made = cgroup.make().and_then(|()| {
            let warnings = cgroup.write_limits(resources)?;
            cgroup.write_devices(resources)?;
            Ok(warnings)
        });
        match made {
            Ok(warnings) => {
                cgroup.warnings = warnings;
                Ok(cgroup)
            }
            Err(error) => {
                // The first error is the one to report; what is left is found again by its name.
                let _leftovers = cgroup.remove();
                Err(error)
            }
        }
    }

    /// The group at `path`, which may or may not exist.
    pub fn open(path: &str) -> Result<Self, RuntimeError> {
        Ok(Self { path: checked(path)?, layout: Layout::current()?, warnings: Vec::new() })
    }

    /// The path below each hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What the kernel lacked at creation, in Docker's words.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Changes limits; those that `resources` does not name stay. Returns warnings.
    pub fn apply(&self, resources: &LinuxResources) -> Result<Vec<String>, RuntimeError> {
        let warnings = self.write_limits(resources)?;
        if !resources.devices.is_empty() {
            self.write_devices(resources)?;
        }
        Ok(warnings)
    }

    /// Folders of the group, one a hierarchy.
    fn folders(&self) -> impl Iterator<Item = (&'static layout::Hierarchy, PathBuf)> + '_ {
        self.layout.hierarchies.iter().map(|hierarchy| (hierarchy, hierarchy.folder(&self.path)))
    }

    fn primary(&self) -> PathBuf {
        let by = |name: &str| self.layout.hierarchy(name);
        by("pids").or_else(|| by("freezer")).or_else(|| self.layout.hierarchies.first()).map_or_else(
            || PathBuf::from("/nonexistent"), // a layout always has a hierarchy
            |hierarchy| hierarchy.folder(&self.path),
        )
    }

    fn make(&self) -> Result<(), RuntimeError> {
        for hierarchy in &self.layout.hierarchies {
            let mut folder = hierarchy.root.clone();
            for part in self.path.split('/').filter(|part| !part.is_empty()) {
                if hierarchy.version == Version::V2 {
                    v2::enable_controllers(&folder)?;
                }
                let parent = folder.clone();
                folder.push(part);
                match fs::create_dir(&folder) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => {
                        return Err(error).step_with(|| format!("make cgroup {}", folder.display()));
                    }
                }
                if hierarchy.has("cpuset") && hierarchy.version == Version::V1 {
                    v1::inherit_cpuset(&parent, &folder)?;
                }
            }
        }
        Ok(())
    }

    fn write_limits(&self, resources: &LinuxResources) -> Result<Vec<String>, RuntimeError> {
        let plan = match self.layout.version {
            Version::V1 => v1::plan(resources)?,
            Version::V2 => v2::plan(resources)?,
        };
        let mut warnings = plan.warnings;
        let mut postponed = Vec::new();
        for write in &plan.writes {
            match self.write(write) {
                // A limit can be refused because it contradicts one that is written later (memory and
                // memory with swap; quota and period): try once more behind the others.
                Err(Failure::Io(error)) if error.raw_os_error() == Some(libc_einval()) => {
                    postponed.push(write)
                }
                other => self.judge(write, other, &mut warnings)?,
            }
        }
        for write in postponed.into_iter().rev() {
            self.judge(write, self.write(write), &mut warnings)?;
        }
        Ok(warnings)
    }

    fn judge(
        &self,
        write: &Write,
        result: Result<(), Failure>,
        warnings: &mut Vec<String>,
    ) -> Result<(), RuntimeError> {
        match (result, write.or_warn) {
            (Ok(()), _) => Ok(()),
            (Err(Failure::Absent), Some(warning)) => {
                warnings.push(warning.to_owned());
                Ok(())
            }
            (Err(Failure::Absent), None) => Err(RuntimeError::unsupported(
                format!("limit {}", write.file),
                "this kernel or cgroup hierarchy does not have it",
            )),
            (Err(Failure::Io(source)), _) => Err(RuntimeError::Setup {
                step: format!("set {} of cgroup {} to {:?}", write.file, self.path, write.value),
                source,
            }),
        }
    }

    fn write(&self, write: &Write) -> Result<(), Failure> {
        let Some(hierarchy) = self.layout.hierarchy(write.controller) else { return Err(Failure::Absent) };
        write_file(&hierarchy.folder(&self.path).join(&write.file), &write.value).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound { Failure::Absent } else { Failure::Io(error) }
        })
    }

    fn write_devices(&self, resources: &LinuxResources) -> Result<(), RuntimeError> {
        let rules = devices::Policy::of(&resources.devices)?;
        match (self.layout.version, self.layout.hierarchy("devices")) {
            (Version::V1, Some(hierarchy)) => rules.write_v1(&hierarchy.folder(&self.path)),
            (Version::V1, None) => {
                Err(RuntimeError::unsupported("linux.resources.devices", "no devices hierarchy is mounted"))
            }
            (Version::V2, _) => rules.attach_v2(&self.primary()),
        }
    }

    /// Sends SIGKILL to every process of the group and of groups below it. It does not wait for their end.
    pub fn kill(&self) -> Result<(), RuntimeError> {
        if self.layout.version == Version::V2 {
            match write_file(&self.primary().join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.primary().exists() => {
                    return Ok(());
                }
                Err(_) => {} // older than Linux 5.14: one by one
            }
        }
        // Frozen, no process can make another one while the list is read. Killed ones die when thawed.
        let frozen = self.set_frozen(true);
        let signalled = self.signal(rustix::process::Signal::KILL.as_raw());
        let thawed = frozen.and_then(|()| self.set_frozen(false));
        signalled.and(thawed)
    }

    /// Sends a signal to every process of the group and of groups below it.
    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        const AT_ONCE: usize = 256;
        let gone = |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
        let step = || format!("signal processes of cgroup {}", self.path);
        for pids in self.processes().chunks(AT_ONCE) {
            let mut opened = Vec::with_capacity(pids.len());
            for pid in pids {
                match rustix::process::pidfd_open(*pid, PidfdFlags::empty()).map_err(io::Error::from) {
                    Ok(pidfd) => opened.push((*pid, pidfd)),
                    Err(error) if gone(&error) => {}
                    Err(error) => return Err(error).step_with(step),
                }
            }
            // A number that was used again in between may be anybody's; it is ours if it is still in the group.
            let still: HashSet<_> = self.processes().into_iter().collect();
            for (_, pidfd) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
                match havre_sys::signal::pidfd_kill(pidfd, signal) {
                    Err(error) if !gone(&error) => return Err(error).step_with(step),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Stops every process of the group, without their knowing.
    pub fn freeze(&self) -> Result<(), RuntimeError> {
        self.set_frozen(true)?;
        self.wait_frozen()
    }

    /// Lets the processes of the group go on.
    pub fn thaw(&self) -> Result<(), RuntimeError> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), RuntimeError> {
        let (file, value) = match (self.layout.version, frozen) {
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
        };
        let Some(hierarchy) = self.layout.hierarchy("freezer") else {
            return Err(RuntimeError::unsupported("pause", "no freezer hierarchy is mounted"));
        };
        match write_file(&hierarchy.folder(&self.path).join(file), value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.step_with(|| format!("set {file} of cgroup {}", self.path)),
        }
    }

    fn wait_frozen(&self) -> Result<(), RuntimeError> {
        let Some(hierarchy) = self.layout.hierarchy("freezer") else { return Ok(()) };
        let folder = hierarchy.folder(&self.path);
        for round in 0..200 {
            let state = match self.layout.version {
                // Reading makes the kernel look at the tasks again.
                Version::V1 => {
                    fs::read_to_string(folder.join("freezer.state")).map(|state| state.trim() == "FROZEN")
                }
                Version::V2 => fs::read_to_string(folder.join("cgroup.events"))
                    .map(|events| events.lines().any(|line| line == "frozen 1")),
            };
            if state.step_with(|| format!("read the freezer of cgroup {}", self.path))? {
                return Ok(());
            }
            pause(Duration::from_micros(if round < 20 { 100 } else { 5_000 }));
        }
        let _thawed = self.set_frozen(false);
        Err(RuntimeError::State(format!("cgroup {} did not freeze", self.path)))
    }

    /// Whether the group is frozen.
    pub fn is_frozen(&self) -> bool {
        let Some(hierarchy) = self.layout.hierarchy("freezer") else { return false };
        let folder = hierarchy.folder(&self.path);
        match self.layout.version {
            Version::V1 => {
                fs::read_to_string(folder.join("freezer.state")).is_ok_and(|s| s.trim() != "THAWED")
            }
            Version::V2 => fs::read_to_string(folder.join("cgroup.freeze")).is_ok_and(|s| s.trim() == "1"),
        }
    }

    /// Processes of the group and of groups below it.
    pub fn processes(&self) -> Vec<Pid> {
        let mut pids = BTreeSet::new();
        collect_processes(&self.primary(), &mut pids, 0);
        pids.into_iter().filter_map(Pid::from_raw).collect()
    }

    /// Whether no process is in the group or below it.
    pub fn is_empty(&self) -> bool {
        self.processes().is_empty()
    }

    /// Whether the group exists in some hierarchy.
    pub fn exists(&self) -> bool {
        self.folders().any(|(_, folder)| folder.exists())
    }

    /// How many processes of the group the OOM killer has ended.
    pub fn oom_kills(&self) -> u64 {
        let Some(hierarchy) = self.layout.hierarchy("memory") else { return 0 };
        let file = match self.layout.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        fs::read_to_string(hierarchy.folder(&self.path).join(file))
            .ok()
            .and_then(|text| {
                text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
            })
            .unwrap_or(0)
    }

    /// A descriptor that becomes readable when the group runs out of memory (and once when it is
    /// removed). Read it empty, then ask [`Cgroup::oom_kills`].
    pub fn oom_watch(&self) -> Option<OwnedFd> {
        let folder = self.layout.hierarchy("memory")?.folder(&self.path);
        match self.layout.version {
            Version::V1 => v1::oom_watch(&folder).ok(),
            Version::V2 => v2::watch(&folder.join("memory.events")).ok(),
        }
    }

    /// Reads what [`Cgroup::oom_watch`] returned empty, and how many shortages it counted: on v1 the kernel
    /// tells of a shortage before it kills and counts; on v2 the count is there first, so that it is enough.
    pub fn oom_notices(&self, watch: &OwnedFd) -> u64 {
        let mut buffer = [0; 4096];
        let read = rustix::io::read(watch, &mut buffer).unwrap_or(0);
        match (self.layout.version, buffer.first_chunk()) {
            (Version::V1, Some(count)) if read == count.len() => u64::from_ne_bytes(*count),
            _ => 0,
        }
    }

    /// A file of the group, for statistics: `controller` chooses the hierarchy on v1.
    pub fn read(&self, controller: &str, file: &str) -> io::Result<String> {
        let hierarchy = self.layout.hierarchy(controller).ok_or(io::ErrorKind::NotFound)?;
        fs::read_to_string(hierarchy.folder(&self.path).join(file))
    }

    /// Removes the group and groups below it. Processes must have ended; their last traces are waited
    /// for, a quarter of a second at most.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        let mut first = None;
        for (_, folder) in self.folders() {
            if let Err(error) = remove_folder(&folder) {
                first = first.or(Some(error).map(|error| (folder, error)));
            }
        }
        match first {
            None => Ok(()),
            Some((folder, source)) => {
                Err(RuntimeError::Setup { step: format!("remove cgroup {}", folder.display()), source })
            }
        }
    }

    /// Names of the groups directly below `parent`, in any hierarchy.
    pub fn children_under(parent: &str) -> Vec<String> {
        let (Ok(layout), Ok(parent)) = (Layout::current(), checked(parent)) else { return Vec::new() };
        let mut names = BTreeSet::new();
        for hierarchy in &layout.hierarchies {
            let Ok(entries) = fs::read_dir(hierarchy.folder(&parent)) else { continue };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    names.extend(entry.file_name().into_string().ok());
                }
            }
        }
        names.into_iter().collect()
    }

    /// How a new process gets into the group.
    pub(crate) fn join(&self) -> Result<Join, RuntimeError> {
        match self.layout.version {
            Version::V1 => Ok(Join::Tasks(self.folders().map(|(_, folder)| folder.join("tasks")).collect())),
            Version::V2 => {
                let folder = self.primary();
                rustix::fs::open(&folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .map(Join::Into)
                    .step_with(|| format!("open cgroup {}", folder.display()))
            }
        }
    }

    /// Which hierarchies there are, for the mounts inside the container.
    pub(crate) fn layout(&self) -> &'static Layout {
        self.layout
    }

    /// The folder of the group on v2.
    pub(crate) fn folder_v2(&self) -> String {
        self.primary().to_string_lossy().into_owned()
    }

    /// The folders of the group with the names under which the container sees them.
    pub(crate) fn v1_folders(&self) -> Vec<(String, PathBuf)> {
        self.folders().map(|(hierarchy, folder)| (hierarchy.name.clone(), folder)).collect()
    }
}

/// How a new process gets into a group.
pub(crate) enum Join {
    /// Cgroup v2: it is made there.
    Into(OwnedFd),
    /// Cgroup v1: it writes `0` to each file while it has one thread; nobody has to wait for RCU then.
    Tasks(Vec<PathBuf>),
}

impl Join {
    pub(crate) fn cgroup(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        match self {
            Self::Into(folder) => Some(folder.as_fd()),
            Self::Tasks(_) => None,
        }
    }

    /// In the child.
    pub(crate) fn enter(&self) -> Result<(), RuntimeError> {
        match self {
            Self::Into(_) => Ok(()),
            Self::Tasks(files) => {
                for file in files {
                    write_file(file, "0").step_with(|| format!("join cgroup {}", file.display()))?;
                }
                Ok(())
            }
        }
    }
}

enum Failure {
    Absent,
    Io(io::Error),
}

/// EINVAL, without a dependency on libc for one number.
fn libc_einval() -> i32 {
    rustix::io::Errno::INVAL.raw_os_error()
}

fn checked(path: &str) -> Result<String, RuntimeError> {
    let mut clean = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if part == "." || part == ".." || part.contains('\0') || part.len() > 255 {
            return Err(RuntimeError::invalid("linux.cgroupsPath", format!("{path:?}")));
        }
        clean.push('/');
        clean.push_str(part);
    }
    if clean.is_empty() {
        return Err(RuntimeError::invalid("linux.cgroupsPath", "the root group is not ours"));
    }
    Ok(clean)
}

/// Control files take their value in one write and are never truncated or made.
fn write_file(path: &Path, value: &str) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let written = rustix::io::write(&file, value.as_bytes())?;
    if written == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn collect_processes(folder: &Path, pids: &mut BTreeSet<i32>, depth: u32) {
    if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    if depth < 32
        && let Ok(entries) = fs::read_dir(folder)
    {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            collect_processes(&entry.path(), pids, depth + 1);
        }
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    let mut delay = Duration::from_micros(50);
    let mut waited = Duration::ZERO;
    loop {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                // Groups below, made by the container itself.
                if let Ok(entries) = fs::read_dir(folder) {
                    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
                        remove_folder(&entry.path())?;
                    }
                }
                if waited > Duration::from_millis(250) {
                    return Err(error);
                }
                // A process that has been reaped may still be on its way out of the group, and the
                // kernel tells nobody on v1.
                pause(delay);
                waited += delay;
                delay = (delay * 2).min(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
}

fn pause(time: Duration) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    let nothing: &mut [PollFd<'_>] = &mut [];
    // An interrupted pause is a shorter one.
    let _interrupted = rustix::event::poll(nothing, Some(&timeout));
}
