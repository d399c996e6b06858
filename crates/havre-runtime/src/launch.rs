//! Starts a container's first process.
//!
//! The parent plans, opens what needs the host's view and rights (sources of bind mounts, layers, namespaces
//! to join), makes the child with one clone3, and listens. The child makes the container out of itself and
//! becomes the program. Invariants: whatever can be refused is refused before the child exists; nothing is
//! mounted in the host's view, so a crash leaves nothing behind; an error of the child is the error of
//! `launch`, and the child is gone by then.
//!
//! The calling process must be single threaded.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use havre_oci::runtime::{IdMapping, NamespaceKind, Process, Spec, State, Status};
use havre_sys::mount::{MountAttr, Propagation};
use havre_sys::process::{Namespaces, Spawn, Spawned};
use havre_sys::userns::Range;
use rustix::process::{DumpableBehavior, Pid};

use crate::capabilities::{self, CapabilitySet};
use crate::cgroup::{Cgroup, Join};
use crate::error::{RuntimeError, Step};
use crate::finish::{self, Finish, Sets, Streams};
use crate::fscontext::{self, Layers, RootTree};
use crate::link::{FromChild, Link, Stopwatch};
use crate::namespaces;
use crate::path::Root;
use crate::rootfs;
use crate::seccomp::{self, Filter};
use crate::terminal::Terminal;
use crate::{hooks, lsm, mounts};

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Name of the container, for its keyring and its hooks.
    pub id: &'a str,
    /// The container. `root.path` is not looked at: `root` says what the root is.
    pub spec: &'a Spec,
    /// The root file system.
    pub root: RootFs<'a>,
    /// Standard streams.
    pub stdio: Stdio,
    /// The control group, made and limited already.
    pub cgroup: Option<&'a Cgroup>,
    /// The child waits here before the program: for one byte, or, if it is a listening seqpacket socket, for
    /// a connection that sends a message and hears of a failure. `launch` returns when the child waits.
    pub gate: Option<OwnedFd>,
    /// Our own reaper as first process.
    pub init: Option<InitBinary>,
    /// Appends `HAVRE_TRACE=step=nanos,...` to the environment.
    pub trace: bool,
    /// Docker's USER text, resolved in the container; `None`: `process.user` of the spec.
    pub user: Option<&'a str>,
    /// Further groups, numbers or names of the container.
    pub additional_groups: &'a [String],
    /// The compiled form of the spec's filter, if the caller has it ([`Filter::to_bytes`]).
    pub seccomp_filter: Option<&'a [u8]>,
    /// The bundle, which hooks are told of. A spec with hooks needs it.
    pub bundle: Option<&'a Path>,
    /// How many descriptors from 3 on the program keeps.
    pub preserve_fds: u32,
}

/// The root file system.
#[derive(Debug)]
pub enum RootFs<'a> {
    /// An overlay, mounted only inside the container.
    Overlay {
        /// Lower layers, topmost first.
        lowers: &'a [PathBuf],
        /// Where changes go.
        upper: PathBuf,
        /// A folder beside `upper` for the kernel.
        work: PathBuf,
        /// Changes need not survive a crash of the machine.
        volatile: bool,
        /// An existing folder that the mount covers in the child's view.
        target: PathBuf,
    },
    /// A folder.
    Path(PathBuf),
}

/// Standard streams.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's.
    Inherit,
    /// These.
    Pipes {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal of the container; its other side is in [`Launched::terminal`].
    Terminal {
        /// Rows; 0: not set.
        rows: u16,
        /// Columns; 0: not set.
        columns: u16,
    },
}

impl Stdio {
    pub(crate) fn into_streams(self) -> Streams {
        match self {
            Self::Inherit => Streams::Inherit,
            Self::Pipes { stdin, stdout, stderr } => Streams::Pipes([stdin, stdout, stderr]),
            Self::Terminal { rows, columns } => Streams::Terminal { rows, columns },
        }
    }
}

/// Our binary, to run as the container's first process under the name `havre-init`.
#[derive(Debug)]
pub struct InitBinary(
    /// A sealed copy ([`havre_sys::memfd::sealed_copy`]).
    pub OwnedFd,
);

/// Steps and how long they took.
type Timings = Vec<(&'static str, Duration)>;

/// A started process.
#[derive(Debug)]
pub struct Launched {
    /// Its number here.
    pub pid: Pid,
    /// The process.
    pub pidfd: OwnedFd,
    /// The terminal's side of whoever reads the output.
    pub terminal: Option<OwnedFd>,
    /// How long the steps took.
    pub timings: Vec<(&'static str, Duration)>,
}

impl<'a> Launch<'a> {
    /// The plainest start: no cgroup, no gate, no init, the spec's user.
    pub fn new(id: &'a str, spec: &'a Spec, root: RootFs<'a>, stdio: Stdio) -> Self {
        Self {
            id,
            spec,
            root,
            stdio,
            cgroup: None,
            gate: None,
            init: None,
            trace: false,
            user: None,
            additional_groups: &[],
            seccomp_filter: None,
            bundle: None,
            preserve_fds: 0,
        }
    }
}

/// Starts the container's first process. Returns after its execve has succeeded (or when it waits at the
/// gate), or with the reason why it could not.
pub fn launch(launch: Launch<'_>) -> Result<Launched, RuntimeError> {
    let mut watch = Stopwatch::start();
    let plan = plan(&launch)?;
    watch.lap("spec");
    let container = prepare(launch, plan)?;
    watch.lap("root");
    container.start(watch)
}

/// What was decided without touching anything but namespaces' files.
struct Plan<'a> {
    process: &'a Process,
    namespaces: namespaces::Plan,
    capabilities: Sets,
    filter: Option<(Filter, u64)>,
}

/// The filter of a process, from the caller or compiled here.
pub(crate) fn filter(spec: &Spec, compiled: Option<&[u8]>) -> Result<Option<(Filter, u64)>, RuntimeError> {
    let section = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
    match (section, compiled) {
        (None, None) => Ok(None),
        (None, Some(bytes)) => Ok(Some((Filter::from_bytes(bytes)?, 0))),
        (Some(section), compiled) => {
            let flags = seccomp::kernel_flags(section)?;
            let filter = match compiled {
                Some(bytes) => Filter::from_bytes(bytes)?,
                None => seccomp::compile(section)?,
            };
            Ok(Some((filter, flags)))
        }
    }
}

fn plan<'a>(launch: &Launch<'a>) -> Result<Plan<'a>, RuntimeError> {
    let spec = launch.spec;
    let process = spec.process.as_ref().ok_or_else(|| RuntimeError::invalid("process", "it is missing"))?;
    finish::check(process)?;
    let linux = spec.linux.as_ref();
    let refuse = |condition: Option<bool>, field: &str, reason: &str| match condition {
        Some(true) => Err(RuntimeError::unsupported(field, reason)),
        _ => Ok(()),
    };
    refuse(
        linux.map(|linux| !linux.net_devices.is_empty()),
        "linux.netDevices",
        "not enforced by this runtime",
    )?;
    refuse(linux.map(|linux| linux.intel_rdt.is_some()), "linux.intelRdt", "not enforced by this runtime")?;
    refuse(
        linux.map(|linux| linux.memory_policy.is_some()),
        "linux.memoryPolicy",
        "not enforced by this runtime",
    )?;
    let has_limits =
        linux.and_then(|linux| linux.resources.as_ref()).is_some_and(|limits| *limits != Default::default());
    if has_limits && launch.cgroup.is_none() {
        return Err(RuntimeError::invalid("linux.resources", "limits need a cgroup"));
    }
    lsm::check(process, linux.and_then(|linux| linux.mount_label.as_ref()))?;
    if let Some(all) = &spec.hooks {
        hooks::check(all)?;
        if launch.bundle.is_none() && *all != Default::default() {
            return Err(RuntimeError::invalid("hooks", "hooks need a bundle"));
        }
    }
    let namespaces = namespaces::Plan::of(spec)?;
    if namespaces.is_joined(NamespaceKind::Mount) && !spec.mounts.is_empty() {
        return Err(RuntimeError::unsupported("mounts", "the mount namespace is another container's"));
    }
    let all = if namespaces.has_users() { CapabilitySet::ALL } else { capabilities::available() };
    Ok(Plan {
        process,
        capabilities: Sets::parse(process.capabilities.as_ref(), all)?,
        filter: filter(spec, launch.seccomp_filter)?,
        namespaces,
    })
}

/// Everything the child needs, opened.
struct Container<'a> {
    id: &'a str,
    spec: &'a Spec,
    bundle: Option<&'a Path>,
    namespaces: namespaces::Plan,
    /// Absent if the mount namespace is joined.
    rootfs: Option<rootfs::Plan<'a>>,
    join: Option<Join>,
    finish: Finish<'a>,
    link: Link,
    child_link: Link,
}

fn prepare<'a>(launch: Launch<'a>, plan: Plan<'a>) -> Result<Container<'a>, RuntimeError> {
    let Plan { process, namespaces, capabilities, filter } = plan;
    let ranges = |maps: &[IdMapping]| -> Vec<_> {
        maps.iter().map(|map| (map.container_id, map.host_id, map.size)).collect()
    };
    let mut mapping = |uids: &[IdMapping], gids: &[IdMapping]| {
        havre_sys::userns::create(&ranges(uids), &ranges(gids)).step("make a user namespace for id mappings")
    };
    let rootfs = if namespaces.is_joined(NamespaceKind::Mount) {
        None
    } else {
        let (tree, target) = match launch.root {
            RootFs::Overlay { lowers, upper, work, volatile, target } => {
                // The layers' files belong to the container's ids; in a user namespace those have others here.
                let idmap = if namespaces.made.contains(Namespaces::USER) {
                    Some(
                        havre_sys::userns::create(&namespaces.uids, &namespaces.gids)
                            .step("make a user namespace for the layers")?,
                    )
                } else {
                    None
                };
                if idmap.is_some() {
                    give_to_root_inside(&upper, &namespaces)?;
                }
                let layers = Layers { lowers, upper: Some((&upper, &work)), volatile };
                (fscontext::overlay(&layers, idmap.as_ref())?, target)
            }
            RootFs::Path(path) => {
                let fd = rustix::fs::open(
                    &path,
                    rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                )
                .step_with(|| format!("open root {}", path.display()))?;
                let tree = fscontext::copy(fd, true).step("copy the root's mount")?;
                // A shared mount cannot become the root; as a receiver it still follows the host's unmounts.
                let change = MountAttr { propagation: Some(Propagation::Slave), ..MountAttr::default() };
                havre_sys::mount::mount_setattr(&tree, c"", true, change)
                    .step("part the root's mount from the host's")?;
                (RootTree::Mount(tree), path)
            }
        };
        let ipc = namespaces.joined.iter().find(|(kind, _)| *kind == NamespaceKind::Ipc);
        let mut prepared = Vec::with_capacity(launch.spec.mounts.len());
        for mount in &launch.spec.mounts {
            prepared.push(mounts::prepare(mount, ipc.map(|(_, fd)| fd.as_fd()), &mut mapping)?);
        }
        Some(rootfs::Plan {
            spec: launch.spec,
            tree,
            target,
            mounts: prepared,
            cgroup: launch.cgroup,
            bind_devices: namespaces.has_users(),
            own_cgroup_view: namespaces.made.contains(Namespaces::CGROUP),
        })
    };
    let (link, child_link) = Link::pair()?;
    let start_hooks =
        launch.spec.hooks.as_ref().filter(|hooks| !hooks.start_container.is_empty()).map(|all| {
            let state = state(launch.id, launch.spec, launch.bundle, None, Status::Created);
            Box::new(move || hooks::run("startContainer", &all.start_container, &state))
                as Box<dyn Fn() -> Result<(), RuntimeError>>
        });
    Ok(Container {
        id: launch.id,
        spec: launch.spec,
        bundle: launch.bundle,
        join: launch.cgroup.map(Cgroup::join).transpose()?,
        rootfs,
        finish: Finish {
            process,
            user: launch.user,
            additional_groups: launch.additional_groups,
            capabilities,
            filter,
            personality: launch.spec.linux.as_ref().and_then(|linux| linux.personality.as_ref()),
            streams: launch.stdio.into_streams(),
            init: launch.init.map(|init| init.0),
            gate: launch.gate,
            proc: Some(lsm::open_proc()?),
            trace: launch.trace,
            preserve_fds: launch.preserve_fds,
            limits_are_set: namespaces.has_users(),
            make_cwd: true,
            start_hooks,
        },
        namespaces,
        link,
        child_link,
    })
}

/// The root folder of an overlay is the upper one: it belongs to whom it belongs to inside, seen from here.
fn give_to_root_inside(upper: &Path, namespaces: &namespaces::Plan) -> Result<(), RuntimeError> {
    let outside = |ranges: &[Range], id: u32| {
        ranges.iter().find_map(|(inside, outside, size)| {
            let offset = id.checked_sub(*inside).filter(|offset| offset < size)?;
            outside.checked_add(offset)
        })
    };
    let step = || format!("give {} to the container", upper.display());
    let stat = rustix::fs::stat(upper).step_with(step)?;
    let (uid, gid) = (outside(&namespaces.uids, stat.st_uid), outside(&namespaces.gids, stat.st_gid));
    // Ids that the container does not have were given before.
    if let (Some(uid), Some(gid)) = (uid, gid) {
        std::os::unix::fs::chown(upper, Some(uid), Some(gid)).step_with(step)?;
    }
    Ok(())
}

/// The state that hooks read.
pub(crate) fn state(id: &str, spec: &Spec, bundle: Option<&Path>, pid: Option<i32>, status: Status) -> State {
    State {
        oci_version: spec.oci_version.clone(),
        id: id.to_owned(),
        status,
        bundle: bundle.map(|bundle| bundle.to_string_lossy().into_owned()).unwrap_or_default(),
        pid,
        annotations: spec.annotations.clone(),
    }
}

impl Container<'_> {
    fn start(self, mut watch: Stopwatch) -> Result<Launched, RuntimeError> {
        let Self { id, spec, bundle, namespaces, rootfs, join, finish, link, child_link } = self;
        let process = finish.process;
        let waits = finish.gate.is_some();
        let hidden = Hidden::for_joining(&namespaces)?;
        let child = Child { id, spec, bundle, namespaces: &namespaces, rootfs, finish, link: child_link };
        let cgroup = join.as_ref().and_then(Join::cgroup);
        // The control group namespace is made by the child, when it is in its group.
        let made = namespaces.made.without(Namespaces::CGROUP);
        let has_helper = namespaces.needs_helper();
        let spawned = if has_helper {
            havre_sys::process::spawn(&Spawn { cgroup, ..Spawn::default() }, || {
                let report = child.link.duplicate();
                let result = report.and_then(|report| {
                    let made = child.help(made, join.as_ref(), watch);
                    made.and_then(|spawned| say_made(&report, &spawned)).inspect_err(|error| {
                        finish::fail(&report, error);
                    })
                });
                havre_sys::process::exit_now(i32::from(result.is_err()))
            })
        } else {
            havre_sys::process::spawn(&Spawn { namespaces: made, cgroup, sibling: false }, || {
                watch.lap("clone");
                child.run(watch, || {
                    join.as_ref().map_or(Ok(()), Join::enter)?;
                    namespaces.join()
                })
            })
        };
        let spawned = spawned.step("make the container's process")?;
        drop(hidden);
        let users = if namespaces.has_users() {
            let made = namespaces.made.contains(Namespaces::USER);
            Users::Other(made.then_some((namespaces.uids.as_slice(), namespaces.gids.as_slice())))
        } else {
            Users::Ours
        };
        Parent { id, spec, bundle, users, process, link, waits, has_helper }.follow(spawned)
    }
}

/// Tells the parent which process the helper has made.
pub(crate) fn say_made(link: &Link, spawned: &Spawned) -> Result<(), RuntimeError> {
    link.say(&FromChild::Made { pid: spawned.pid.as_raw_nonzero().get() }, Some(&spawned.pidfd))
}

/// While namespaces of others are entered, nobody there may look into us (CVE-2016-9962): the copy made for
/// the child inherits this from its first instruction on.
pub(crate) struct Hidden(Option<DumpableBehavior>);

impl Hidden {
    fn for_joining(namespaces: &namespaces::Plan) -> Result<Self, RuntimeError> {
        if namespaces.joined.is_empty() { Ok(Self(None)) } else { Self::now() }
    }

    pub(crate) fn now() -> Result<Self, RuntimeError> {
        let before = rustix::process::dumpable_behavior().step("hide from debuggers")?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step("hide from debuggers")?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            // It only makes us less visible if it fails.
            let _hidden = rustix::process::set_dumpable_behavior(before);
        }
    }
}

/// The user namespace of a child.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Users<'a> {
    /// The same as ours.
    Ours,
    /// Another one; if it is new, with its maps.
    Other(Option<(&'a [Range], &'a [Range])>),
}

/// The parent's part after the child was made.
pub(crate) struct Parent<'a> {
    pub(crate) id: &'a str,
    pub(crate) spec: &'a Spec,
    pub(crate) bundle: Option<&'a Path>,
    pub(crate) users: Users<'a>,
    pub(crate) process: &'a Process,
    pub(crate) link: Link,
    pub(crate) waits: bool,
    pub(crate) has_helper: bool,
}

impl Parent<'_> {
    pub(crate) fn follow(self, spawned: Spawned) -> Result<Launched, RuntimeError> {
        let Spawned { mut pid, mut pidfd } = spawned;
        let mut helper = None;
        let listened = self.listen(&mut pid, &mut pidfd, &mut helper);
        if let Some(helper) = &helper {
            // It has ended already, or is about to.
            havre_sys::process::wait(helper.as_fd()).step("wait for the helper")?;
        }
        let finished = listened.and_then(|heard| {
            if !self.waits {
                let hooks = self.spec.hooks.as_ref().map_or(&[][..], |hooks| &hooks.poststart);
                hooks::run("poststart", hooks, &self.state(pid, Status::Running))?;
            }
            Ok(heard)
        });
        match finished {
            Ok((terminal, timings)) => Ok(Launched { pid, pidfd, terminal, timings }),
            Err(error) => {
                // After a failure of its own it ends by itself; after one of ours it has to be told.
                match rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(_) => return Err(error),
                }
                let _reaped = havre_sys::process::wait(pidfd.as_fd());
                Err(error)
            }
        }
    }

    fn listen(
        &self,
        pid: &mut Pid,
        pidfd: &mut OwnedFd,
        helper: &mut Option<OwnedFd>,
    ) -> Result<(Option<OwnedFd>, Timings), RuntimeError> {
        let (mut terminal, mut timings, mut executing) = (None, Vec::new(), false);
        if !self.has_helper {
            self.set_up_users(*pid)?;
        }
        loop {
            match self.link.hear()? {
                Some((FromChild::Made { pid: made }, Some(fd))) if self.has_helper && helper.is_none() => {
                    *helper = Some(std::mem::replace(pidfd, fd));
                    *pid = Pid::from_raw(made)
                        .ok_or_else(|| RuntimeError::State("the helper made no process".into()))?;
                    self.set_up_users(*pid)?;
                }
                Some((FromChild::Terminal, fd)) => terminal = fd,
                Some((FromChild::Hooks, _)) => {
                    self.run_hooks(*pid)?;
                    self.link.go()?;
                }
                Some((FromChild::Ready, _)) if self.waits => return Ok((terminal, timings)),
                Some((FromChild::Executing { timings: steps }, _)) => {
                    timings = Stopwatch::named(&steps);
                    executing = true;
                }
                Some((FromChild::Failed(report), _)) => return Err(report.into_error()),
                Some(_) => return Err(RuntimeError::State("the child speaks out of turn".into())),
                None if executing => return Ok((terminal, timings)),
                None => {
                    return Err(RuntimeError::State(
                        "the container's process died while it was set up".into(),
                    ));
                }
            }
        }
    }

    fn state(&self, pid: Pid, status: Status) -> State {
        state(self.id, self.spec, self.bundle, Some(pid.as_raw_nonzero().get()), status)
    }

    /// What only the parent may do for a child in another user namespace.
    fn set_up_users(&self, pid: Pid) -> Result<(), RuntimeError> {
        let maps = match self.users {
            Users::Other(maps) => maps,
            // One that a helper made waits until it is known here: what it says must come after that.
            Users::Ours if self.has_helper => return self.link.go(),
            Users::Ours => return Ok(()),
        };
        let number = pid.as_raw_nonzero().get();
        for (resource, soft, hard) in finish::limits(self.process)? {
            havre_sys::process::set_limit(number, resource, soft, hard)
                .step_with(|| format!("set limit {resource} to {soft}:{hard}"))?;
        }
        if let Some(score) = self.process.oom_score_adj {
            lsm::write(&lsm::open_proc()?, &format!("{number}/oom_score_adj"), &score.to_string())
                .step("set process.oomScoreAdj")?;
        }
        if let Some((uids, gids)) = maps {
            havre_sys::userns::write_maps(pid, uids, gids).step("map the ids of the user namespace")?;
        }
        self.link.go()
    }

    fn run_hooks(&self, pid: Pid) -> Result<(), RuntimeError> {
        let Some(all) = &self.spec.hooks else { return Ok(()) };
        let state = self.state(pid, Status::Creating);
        hooks::run("prestart", &all.prestart, &state)?;
        hooks::run("createRuntime", &all.create_runtime, &state)
    }
}

/// The child's part.
struct Child<'a, 'b> {
    id: &'a str,
    spec: &'a Spec,
    bundle: Option<&'a Path>,
    namespaces: &'b namespaces::Plan,
    rootfs: Option<rootfs::Plan<'a>>,
    finish: Finish<'a>,
    link: Link,
}

impl Child<'_, '_> {
    /// Enters what is joined, then makes the real child as its own sibling.
    fn help(self, made: Namespaces, join: Option<&Join>, watch: Stopwatch) -> Result<Spawned, RuntimeError> {
        join.map_or(Ok(()), Join::enter)?;
        self.namespaces.join()?;
        let mut made = made;
        if let Some(offsets) = &self.namespaces.offsets {
            // Offsets can be set until the first process is in.
            havre_sys::process::unshare(Namespaces::TIME).step("make the time namespace")?;
            lsm::write(self.finish.proc()?, "self/timens_offsets", offsets).step("set linux.timeOffsets")?;
            made = made.without(Namespaces::TIME);
        }
        let spawn = Spawn { namespaces: made, cgroup: None, sibling: true };
        havre_sys::process::spawn(&spawn, || self.run(watch, || Ok(()))).step("make the container's process")
    }

    fn run(self, watch: Stopwatch, enter: impl FnOnce() -> Result<(), RuntimeError>) -> Infallible {
        let Self { id, spec, bundle, namespaces, rootfs, finish, mut link } = self;
        let setup = Setup { id, spec, bundle, namespaces };
        let Err(error) = enter().and_then(|()| setup.run(rootfs, finish, &mut link, watch));
        finish::fail(&link, &error);
        havre_sys::process::exit_now(1)
    }
}

struct Setup<'a, 'b> {
    id: &'a str,
    spec: &'a Spec,
    bundle: Option<&'a Path>,
    namespaces: &'b namespaces::Plan,
}

impl Setup<'_, '_> {
    fn run(
        &self,
        rootfs: Option<rootfs::Plan<'_>>,
        finish: Finish<'_>,
        link: &mut Link,
        mut watch: Stopwatch,
    ) -> Result<Infallible, RuntimeError> {
        begin(Some(self.id))?;
        if self.namespaces.has_users() || self.namespaces.needs_helper() {
            link.wait()?;
        }
        if !self.namespaces.has_users()
            && let Some(score) = finish.process.oom_score_adj
        {
            lsm::write(finish.proc()?, "self/oom_score_adj", &score.to_string())
                .step("set process.oomScoreAdj")?;
        }
        // While we still are the host's root to the host's files: the way to the target may be closed to others.
        let root = match &rootfs {
            Some(plan) => plan.attach_root()?,
            None => own_root()?,
        };
        if self.namespaces.has_users() {
            become_root(&self.namespaces.uids, &self.namespaces.gids)?;
        }
        self.name()?;
        for (file, value) in &self.namespaces.sysctls {
            lsm::write(finish.proc()?, &format!("sys/{file}"), value)
                .step_with(|| format!("set sysctl {file}"))?;
        }
        watch.lap("namespaces");
        let terminal = match rootfs {
            Some(plan) => self.set_root(&plan, &root, &finish, link, &mut watch)?,
            None => finish.open_terminal(&Root::new(root.as_fd()), link)?,
        };
        finish.execute(&Root::new(root.as_fd()), terminal.as_ref(), link, watch)
    }

    fn name(&self) -> Result<(), RuntimeError> {
        if self.namespaces.made.contains(Namespaces::NETWORK) {
            havre_sys::interface::bring_up(c"lo").step("bring up the loopback interface")?;
        }
        if self.namespaces.made.contains(Namespaces::CGROUP) {
            havre_sys::process::unshare(Namespaces::CGROUP).step("make the cgroup namespace")?;
        }
        if let Some(name) = self.spec.hostname.as_deref().filter(|name| !name.is_empty()) {
            rustix::system::sethostname(name.as_bytes()).step("set hostname")?;
        }
        if let Some(name) = self.spec.domainname.as_deref().filter(|name| !name.is_empty()) {
            rustix::system::setdomainname(name.as_bytes()).step("set domainname")?;
        }
        Ok(())
    }

    fn set_root(
        &self,
        plan: &rootfs::Plan<'_>,
        fd: &OwnedFd,
        finish: &Finish<'_>,
        link: &Link,
        watch: &mut Stopwatch,
    ) -> Result<Option<Terminal>, RuntimeError> {
        let root = Root::new(fd.as_fd());
        let anchors = plan.mount_all(&root)?;
        watch.lap("mounts");
        plan.make_devices(&root)?;
        let terminal = finish.open_terminal(&root, link)?;
        if let Some(terminal) = &terminal {
            terminal.bind_console(&root)?;
        }
        watch.lap("devices");
        self.run_hooks(link)?;
        if let Some(linux) = &self.spec.linux {
            // First what stays readable: a masked path below it would otherwise be copied with its cover.
            plan.protect(&root, &anchors, &linux.readonly_paths)?;
            plan.mask(&root, &anchors, &linux.masked_paths)?;
        }
        // While the root is writable. If it cannot be made, entering it says why.
        let _made = root.ensure_folder(Path::new(&finish.process.cwd));
        rootfs::finish_root(fd, self.spec)?;
        watch.lap("masks");
        rootfs::pivot(fd)?;
        rootfs::propagate_root(fd, self.spec)?;
        watch.lap("pivot");
        Ok(terminal)
    }

    fn run_hooks(&self, link: &Link) -> Result<(), RuntimeError> {
        let Some(all) = &self.spec.hooks else { return Ok(()) };
        if all.prestart.is_empty() && all.create_runtime.is_empty() && all.create_container.is_empty() {
            return Ok(());
        }
        link.say(&FromChild::Hooks, None)?;
        link.wait()?;
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let state = state(self.id, self.spec, self.bundle, Some(own), Status::Creating);
        hooks::run("createContainer", &all.create_container, &state)
    }
}

/// What every child does first: nothing of the caller's session, signals and keys stays.
pub(crate) fn begin(id: Option<&str>) -> Result<(), RuntimeError> {
    havre_sys::signal::reset_all().step("reset signals")?;
    rustix::process::setsid().step("make a session")?;
    let name = id.map(|id| CString::new(format!("_ses.{id}"))).transpose();
    let name = name.map_err(|_| RuntimeError::invalid("id", "it has a NUL"))?;
    match havre_sys::keyring::join_session(name.as_deref()) {
        // A kernel without keys has none to hide.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()) => Ok(()),
        other => other.step("make a session keyring"),
    }
}

/// The root of the mount namespace that we are in.
pub(crate) fn own_root() -> Result<OwnedFd, RuntimeError> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open("/", flags, rustix::fs::Mode::empty()).step("open /")
}

/// Becomes the first user of our user namespace.
pub(crate) fn become_root(uids: &[Range], gids: &[Range]) -> Result<(), RuntimeError> {
    let first = |ranges: &[Range]| ranges.iter().map(|(inside, ..)| *inside).min().unwrap_or(0);
    let (uid, gid) =
        (rustix::process::Uid::from_raw(first(uids)), rustix::process::Gid::from_raw(first(gids)));
    match rustix::thread::set_thread_groups(&[]) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error).step("drop groups"),
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid).step("become the first group of the user namespace")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step("become the first user of the user namespace")
}
