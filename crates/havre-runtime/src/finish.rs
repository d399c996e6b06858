//! The last steps of every process that enters a container: standard streams, limits, identity,
//! capabilities, filter, program. The same for a container's first process and for one that joins it.
//!
//! Invariants: the working directory is below the container's root and was looked up there
//! (CVE-2024-21626); every descriptor but the asked-for ones is close-on-exec before anything of the
//! container is executed; the capability sets are exactly the asked-for ones; the filter is loaded as late as
//! the kernel permits.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use havre_oci::runtime::{
    IoPriorityClass, LinuxCapabilities, Personality, PersonalityDomain, Process, Scheduler, SchedulerFlag,
    SchedulerPolicy,
};
use havre_sys::process::Program;
use havre_sys::sched::{self, SchedAttr};
use rustix::fs::{Access, AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::thread::CapabilitySets;

use crate::capabilities::{self, CapabilitySet};
use crate::error::{RuntimeError, Step};
use crate::link::{FromChild, Link, Report, Stopwatch};
use crate::lsm;
use crate::path::{self, Root};
use crate::rootfs;
use crate::seccomp::Filter;
use crate::terminal::Terminal;
use crate::user::{self, Identity};

/// Standard streams of the process.
pub(crate) enum Streams {
    Inherit,
    Pipes([OwnedFd; 3]),
    Terminal { rows: u16, columns: u16 },
}

/// What a process should be in the end.
pub(crate) struct Finish<'a> {
    pub(crate) process: &'a Process,
    pub(crate) user: Option<&'a str>,
    pub(crate) additional_groups: &'a [String],
    pub(crate) capabilities: Sets,
    pub(crate) filter: Option<(Filter, u64)>,
    pub(crate) personality: Option<&'a Personality>,
    pub(crate) streams: Streams,
    pub(crate) init: Option<OwnedFd>,
    pub(crate) gate: Option<OwnedFd>,
    /// The host's procfs; without it the labels of the process are set already.
    pub(crate) proc: Option<OwnedFd>,
    pub(crate) trace: bool,
    pub(crate) preserve_fds: u32,
    /// Limits were set by the parent, since in a user namespace we may not raise them.
    pub(crate) limits_are_set: bool,
    /// A missing working directory is made.
    pub(crate) make_cwd: bool,
    /// Run inside the container before the program, behind the gate.
    pub(crate) start_hooks: Option<Box<dyn Fn() -> Result<(), RuntimeError> + 'a>>,
}

/// The five sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) bounding: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) inheritable: CapabilitySet,
    pub(crate) permitted: CapabilitySet,
    pub(crate) ambient: CapabilitySet,
}

impl Sets {
    /// Checks the sets of a spec; without the section a process has none.
    pub(crate) fn parse(
        section: Option<&LinuxCapabilities>,
        all: CapabilitySet,
    ) -> Result<Self, RuntimeError> {
        let Some(section) = section else { return Ok(Self::default()) };
        let sets = Self {
            bounding: CapabilitySet::parse(&section.bounding)?,
            effective: CapabilitySet::parse(&section.effective)?,
            inheritable: CapabilitySet::parse(&section.inheritable)?,
            permitted: CapabilitySet::parse(&section.permitted)?,
            ambient: CapabilitySet::parse(&section.ambient)?,
        };
        let bad = |reason: String| RuntimeError::invalid("process.capabilities", reason);
        let asked = sets.bounding.union(sets.permitted).union(sets.inheritable);
        let missing = asked.difference(all);
        if !missing.is_empty() {
            return Err(RuntimeError::unsupported(
                "process.capabilities",
                format!("{missing} cannot be given here"),
            ));
        }
        if !sets.permitted.contains(sets.effective) {
            return Err(bad("the effective set has more than the permitted one".into()));
        }
        // The kernel raises only what is permitted and inheritable. Specs that `runc spec` writes ask for more;
        // giving less, as runc does, makes nothing less confined.
        Ok(Self { ambient: sets.ambient.intersection(sets.permitted).intersection(sets.inheritable), ..sets })
    }
}

impl Finish<'_> {
    /// The host's procfs, for who has not given it away.
    pub(crate) fn proc(&self) -> Result<&OwnedFd, RuntimeError> {
        self.proc.as_ref().ok_or_else(|| RuntimeError::State("the host's procfs was closed".into()))
    }

    /// Whether the standard streams are the caller's.
    pub(crate) fn inherits(&self) -> bool {
        matches!(self.streams, Streams::Inherit)
    }

    /// The descriptors that become standard streams.
    pub(crate) fn stream_fds(&self) -> impl Iterator<Item = std::os::fd::BorrowedFd<'_>> {
        let pipes = match &self.streams {
            Streams::Pipes(pipes) => &pipes[..],
            Streams::Inherit | Streams::Terminal { .. } => &[],
        };
        pipes.iter().map(std::os::fd::AsFd::as_fd)
    }

    /// Opens the terminal, if one is asked for, and gives the parent its side.
    pub(crate) fn open_terminal(
        &self,
        root: &Root<'_>,
        link: &Link,
    ) -> Result<Option<Terminal>, RuntimeError> {
        let Streams::Terminal { rows, columns } = self.streams else { return Ok(None) };
        let terminal = Terminal::open(root, rows, columns)?;
        link.say(&FromChild::Terminal, Some(&terminal.master))?;
        Ok(Some(terminal))
    }

    /// Becomes the program.
    pub(crate) fn execute(
        mut self,
        root: &Root<'_>,
        terminal: Option<&Terminal>,
        link: &mut Link,
        mut watch: Stopwatch,
    ) -> Result<Infallible, RuntimeError> {
        let process = self.process;
        let identity = self.identity(root)?;
        self.enter_working_directory(root)?;
        self.connect_streams(terminal, &identity)?;
        own_null_device(root)?;
        self.set_limits()?;
        let (arguments, environment) = self.texts(&identity, root)?;
        if let Some(proc) = &self.proc {
            lsm::set(process, proc)?;
        }
        havre_sys::process::close_on_exec_from(3 + self.preserve_fds)
            .step("mark descriptors close-on-exec")?;
        if let Some(mask) = process.user.umask {
            rustix::process::umask(Mode::from_raw_mode(mask & 0o777));
        } else {
            rustix::process::umask(Mode::from_raw_mode(0o022));
        }
        watch.lap("identity");

        self.drop_bounding()?;
        take_identity(&identity)?;
        let program = find_program(process.args.first().map_or("", String::as_str), &process.env)?;
        // What the remaining steps need beyond what the process will have.
        let needed =
            CapabilitySet::parse(&["SYS_ADMIN", "SETPCAP"])?.intersection(capabilities::available_now());
        let last = self.capabilities;
        set_capabilities(last.permitted.union(needed), last.permitted.union(needed), last.inheritable)?;
        rustix::thread::set_keep_capabilities(false).step("forget to keep capabilities")?;
        if process.no_new_privileges {
            rustix::thread::set_no_new_privs(true).step("set no_new_privs")?;
        }
        watch.lap("confine");

        if let Some(gate) = self.gate.take() {
            link.say(&FromChild::Ready, None)?;
            *link = wait_at(gate)?;
        }
        if let Some(hooks) = &self.start_hooks {
            hooks()?;
        }
        let mut environment = environment;
        if self.trace {
            environment.push(c_string(format!("HAVRE_TRACE={}", watch.text()), "process.env")?);
        }
        link.say(&FromChild::Executing { timings: watch.raw() }, None)?;
        self.confine_and_execute(&program, arguments, &environment)
    }

    fn confine_and_execute(
        &self,
        program: &CString,
        arguments: Vec<CString>,
        environment: &[CString],
    ) -> Result<Infallible, RuntimeError> {
        let last = self.capabilities;
        let lower = || -> Result<(), RuntimeError> {
            if !last.ambient.is_empty() {
                raise_ambient(last)?;
            }
            set_capabilities(last.permitted, last.effective, last.inheritable)
        };
        match &self.filter {
            // Without no_new_privs only CAP_SYS_ADMIN may load a filter, so it has to come first.
            Some((filter, flags)) if !self.process.no_new_privileges => {
                filter.load(*flags)?;
                lower()?;
            }
            Some((filter, flags)) => {
                lower()?;
                filter.load(*flags)?;
            }
            None => lower()?,
        }
        let error = match &self.init {
            None => havre_sys::process::execute(Program::Path(program), &arguments, environment),
            Some(init) => {
                let mut with_init = vec![c"havre-init".to_owned(), program.clone()];
                with_init.extend(arguments);
                havre_sys::process::execute(Program::Fd(init.as_fd()), &with_init, environment)
            }
        };
        let path = program.to_string_lossy();
        Err(match error.kind() {
            io::ErrorKind::NotFound => {
                RuntimeError::CommandNotFound(format!("exec {path}: no such file or directory"))
            }
            io::ErrorKind::PermissionDenied => {
                RuntimeError::NotExecutable(format!("exec {path}: permission denied"))
            }
            _ if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
                RuntimeError::NotExecutable(format!("exec {path}: exec format error"))
            }
            _ => RuntimeError::Setup { step: format!("exec {path}"), source: error },
        })
    }

    fn identity(&self, root: &Root<'_>) -> Result<Identity, RuntimeError> {
        let spec = &self.process.user;
        if let Some(text) = self.user {
            return user::resolve(root, text, self.additional_groups);
        }
        let mut groups = spec.additional_gids.clone();
        if !self.additional_groups.is_empty() {
            groups.extend(user::resolve(root, "", self.additional_groups)?.groups);
        }
        Ok(Identity { uid: spec.uid, gid: spec.gid, groups, home: user::home(root, spec.uid) })
    }

    fn enter_working_directory(&self, root: &Root<'_>) -> Result<(), RuntimeError> {
        let cwd = &self.process.cwd;
        let refused = |reason: &str| {
            RuntimeError::WorkingDirectory(format!(
                "chdir to cwd ({cwd:?}) set in config.json failed: {reason}"
            ))
        };
        if !cwd.starts_with('/') || cwd.contains('\0') {
            return Err(refused("it is not an absolute path"));
        }
        let path = Path::new(cwd);
        let folder = if self.make_cwd {
            root.ensure_folder(path)
        } else {
            root.open(path, OFlags::PATH | OFlags::DIRECTORY)
        };
        let folder = folder.map_err(|error| match error.kind() {
            // What a link of procfs that jumps is answered with.
            _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                refused("working directory is outside of container mount namespace root")
            }
            io::ErrorKind::NotFound => refused("no such file or directory"),
            io::ErrorKind::NotADirectory => refused("not a directory"),
            io::ErrorKind::PermissionDenied => refused("permission denied"),
            io::ErrorKind::ReadOnlyFilesystem => refused("read-only file system"),
            _ => refused(&error.to_string()),
        })?;
        rustix::process::fchdir(&folder).map_err(|error| refused(&io::Error::from(error).to_string()))?;
        let outside = || refused("working directory is outside of container mount namespace root");
        let seen = rustix::process::getcwd(Vec::new()).map_err(|_| outside())?;
        if seen.as_bytes().first() == Some(&b'/') { Ok(()) } else { Err(outside()) }
    }

    fn connect_streams(&self, terminal: Option<&Terminal>, identity: &Identity) -> Result<(), RuntimeError> {
        let step = "connect the standard streams";
        let owner = Some(Uid::from_raw(identity.uid));
        match (&self.streams, terminal) {
            (Streams::Inherit, _) => {}
            (Streams::Pipes(pipes), _) => {
                for (number, pipe) in (0..).zip(pipes) {
                    // /dev/stdout is opened by its path: the user must own what is behind it. What has no
                    // owner to change (the null device of a read-only file system) stays as it is.
                    let stat = rustix::fs::fstat(pipe).step(step)?;
                    let is_device =
                        path::file_type(pipe).step(step)? == rustix::fs::FileType::CharacterDevice;
                    if stat.st_uid != identity.uid && !is_device {
                        let _unchanged = rustix::fs::fchown(pipe, owner, None);
                    }
                    havre_sys::process::set_stdio(pipe.as_fd(), number).step(step)?;
                }
            }
            (Streams::Terminal { .. }, Some(terminal)) => {
                terminal.take().step("take the terminal")?;
                rustix::fs::fchown(&terminal.slave, owner, None).step("give the terminal to the user")?;
                for number in 0..3 {
                    havre_sys::process::set_stdio(terminal.slave.as_fd(), number).step(step)?;
                }
            }
            (Streams::Terminal { .. }, None) => {
                return Err(RuntimeError::State("there is no terminal".into()));
            }
        }
        Ok(())
    }

    fn set_limits(&self) -> Result<(), RuntimeError> {
        if !self.limits_are_set {
            for (resource, soft, hard) in limits(self.process)? {
                havre_sys::process::set_limit(0, resource, soft, hard)
                    .step_with(|| format!("set limit {resource} to {soft}:{hard}"))?;
            }
        }
        if let Some(scheduler) = &self.process.scheduler {
            sched::set_scheduler(&scheduling(scheduler)?).step("set process.scheduler")?;
        }
        if let Some(priority) = &self.process.io_priority {
            let class = match priority.class {
                IoPriorityClass::RealTime => 1,
                IoPriorityClass::BestEffort => 2,
                IoPriorityClass::Idle => 3,
            };
            let level = u16::try_from(priority.priority)
                .ok()
                .filter(|level| *level <= 7)
                .ok_or_else(|| RuntimeError::invalid("process.ioPriority.priority", "not 0 to 7"))?;
            sched::set_io_priority(class, level).step("set process.ioPriority")?;
        }
        if let Some(personality) = self.personality {
            if !personality.flags.is_empty() {
                return Err(RuntimeError::unsupported("linux.personality.flags", "none is defined"));
            }
            let domain = match personality.domain {
                PersonalityDomain::Linux => sched::PER_LINUX,
                PersonalityDomain::Linux32 => sched::PER_LINUX32,
            };
            sched::set_personality(domain).step("set linux.personality")?;
        }
        Ok(())
    }

    fn texts(
        &self,
        identity: &Identity,
        root: &Root<'_>,
    ) -> Result<(Vec<CString>, Vec<CString>), RuntimeError> {
        let arguments = self.process.args.iter().map(|text| c_string(text.as_str(), "process.args"));
        let mut environment = Vec::with_capacity(self.process.env.len() + 2);
        let mut has_home = false;
        for entry in &self.process.env {
            match entry.split_once('=') {
                Some((name, value)) if !name.is_empty() => has_home |= name == "HOME" && !value.is_empty(),
                _ => {
                    return Err(RuntimeError::invalid("process.env", format!("{entry:?} is not NAME=value")));
                }
            }
            environment.push(c_string(entry.as_str(), "process.env")?);
        }
        if !has_home {
            let home = identity.home.clone().or_else(|| user::home(root, identity.uid));
            let home = home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into());
            environment.retain(|entry| !entry.as_bytes().starts_with(b"HOME="));
            environment.push(c_string(format!("HOME={home}"), "HOME of the container's passwd file")?);
        }
        Ok((arguments.collect::<Result<_, _>>()?, environment))
    }

    fn drop_bounding(&self) -> Result<(), RuntimeError> {
        for number in 0..64_u32 {
            let one = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
            if self.capabilities.bounding.bits() >> number & 1 == 1 {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                Err(Errno::INVAL) => break, // the kernel has no more
                // We may not, and need not if it is not there.
                Err(Errno::PERM) if !rustix::thread::capability_is_in_bounding_set(one).unwrap_or(true) => {}
                Err(error) => return Err(error).step("reduce the bounding capability set"),
            }
        }
        Ok(())
    }
}

/// Puts the container's null device in the place of the host's: who has that as a stream could change its mode
/// for everybody.
fn own_null_device(root: &Root<'_>) -> Result<(), RuntimeError> {
    let step = "connect the standard streams";
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for (number, stream) in (0..).zip(streams) {
        // One that is closed is nobody's.
        if !rootfs::is_null(stream).unwrap_or(false) {
            continue;
        }
        // A container whose /dev is a volume may have none. Then it is not for the image to choose.
        if let Ok(own) = root.open(Path::new("/dev/null"), OFlags::RDWR | OFlags::NONBLOCK)
            && rootfs::is_null(&own).step(step)?
        {
            rustix::fs::fcntl_setfl(&own, OFlags::empty()).step(step)?;
            havre_sys::process::set_stdio(own.as_fd(), number).step(step)?;
        }
    }
    Ok(())
}

/// Reports a failure to whoever listens; if nobody does, the exit says enough.
pub(crate) fn fail(link: &Link, error: &RuntimeError) {
    let _unheard = link.say(&FromChild::Failed(Report::of(error)), None);
}

/// Waits for one byte, or for somebody to connect and send one; the result is who hears of a failure from
/// then on.
fn wait_at(gate: OwnedFd) -> Result<Link, RuntimeError> {
    let step = "wait at the gate";
    if rustix::net::sockopt::socket_acceptconn(&gate).unwrap_or(false) {
        let caller = havre_sys::seqpacket::accept(&gate).step(step)?;
        let link = Link::over(caller);
        link.wait()?;
        return Ok(link);
    }
    let mut byte = [0];
    loop {
        match rustix::io::read(&gate, &mut byte) {
            Ok(0) => return Err(RuntimeError::State("the gate was closed".into())),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).step(step),
        }
    }
    Ok(Link::silent())
}

fn take_identity(identity: &Identity) -> Result<(), RuntimeError> {
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::thread::set_keep_capabilities(true).step("keep capabilities")?;
    match rustix::thread::set_thread_groups(&groups) {
        // In a user namespace made without privileges groups cannot be set; none were asked for.
        Err(Errno::PERM) if groups.is_empty() => {}
        other => other.step_with(|| format!("set the groups {:?}", identity.groups))?,
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .step_with(|| format!("become group {}", identity.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step_with(|| format!("become user {}", identity.uid))
}

fn set_capabilities(
    permitted: CapabilitySet,
    effective: CapabilitySet,
    inheritable: CapabilitySet,
) -> Result<(), RuntimeError> {
    let set = |set: CapabilitySet| rustix::thread::CapabilitySet::from_bits_retain(set.bits());
    let sets = CapabilitySets {
        effective: set(effective),
        permitted: set(permitted),
        inheritable: set(inheritable),
    };
    rustix::thread::set_capabilities(None, sets).step("set capabilities")
}

fn raise_ambient(sets: Sets) -> Result<(), RuntimeError> {
    for number in (0..64_u32).filter(|number| sets.ambient.bits() >> number & 1 == 1) {
        let one = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
        rustix::thread::configure_capability_in_ambient_set(one, true).step("raise ambient capabilities")?;
    }
    Ok(())
}

/// Finds what execve gets, as Docker's users know it.
fn find_program(name: &str, environment: &[String]) -> Result<CString, RuntimeError> {
    let executable = |path: &str| -> Result<(), Errno> {
        let stat = rustix::fs::stat(path)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
            return Err(Errno::ISDIR);
        }
        if stat.st_mode & 0o111 == 0 {
            return Err(Errno::ACCESS);
        }
        rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
    };
    if name.is_empty() {
        return Err(RuntimeError::invalid("process.args", "no program is given"));
    }
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => c_string(name, "process.args"),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(RuntimeError::CommandNotFound(format!(
                "exec: {name:?}: stat {name}: no such file or directory"
            ))),
            Err(Errno::ISDIR) => Err(RuntimeError::NotExecutable(format!("exec: {name:?}: is a directory"))),
            Err(_) => Err(RuntimeError::NotExecutable(format!("exec: {name:?}: permission denied"))),
        };
    }
    let path = environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    for folder in path.split(':').filter(|folder| folder.starts_with('/')) {
        let candidate = format!("{}/{name}", folder.trim_end_matches('/'));
        if executable(&candidate).is_ok() {
            return c_string(candidate, "process.args");
        }
    }
    Err(RuntimeError::CommandNotFound(format!("exec: {name:?}: executable file not found in $PATH")))
}

fn c_string(text: impl Into<Vec<u8>>, field: &str) -> Result<CString, RuntimeError> {
    CString::new(text).map_err(|_| RuntimeError::invalid(field, "a text has a NUL"))
}

/// Number, soft and hard limit of each limit of the process.
pub(crate) fn limits(process: &Process) -> Result<Vec<(u32, u64, u64)>, RuntimeError> {
    // include/uapi/asm-generic/resource.h, which x86 and ARM use.
    const NAMES: [&str; 16] = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let mut seen = Vec::new();
    for limit in &process.rlimits {
        let bad =
            |reason: &str| RuntimeError::invalid("process.rlimits", format!("{}: {reason}", limit.kind));
        let number = NAMES
            .iter()
            .zip(0_u32..)
            .find(|(name, _)| limit.kind.strip_prefix("RLIMIT_") == Some(**name))
            .map(|(_, number)| number)
            .ok_or_else(|| bad("unknown"))?;
        if limit.soft > limit.hard {
            return Err(bad("the soft limit is above the hard one"));
        }
        if seen.iter().any(|(known, _, _)| *known == number) {
            return Err(bad("twice"));
        }
        seen.push((number, limit.soft, limit.hard));
    }
    Ok(seen)
}

fn scheduling(scheduler: &Scheduler) -> Result<SchedAttr, RuntimeError> {
    let policy = match scheduler.policy {
        SchedulerPolicy::Other => 0,
        SchedulerPolicy::Fifo => 1,
        SchedulerPolicy::RoundRobin => 2,
        SchedulerPolicy::Batch => 3,
        SchedulerPolicy::Iso => {
            return Err(RuntimeError::unsupported("process.scheduler.policy", "Linux has no SCHED_ISO"));
        }
        SchedulerPolicy::Idle => 5,
        SchedulerPolicy::Deadline => 6,
    };
    let flags = scheduler.flags.iter().fold(0, |flags, flag| {
        flags
            | match flag {
                SchedulerFlag::ResetOnFork => 0x01,
                SchedulerFlag::Reclaim => 0x02,
                SchedulerFlag::DeadlineOverrun => 0x04,
                SchedulerFlag::KeepPolicy => 0x08,
                SchedulerFlag::KeepParams => 0x10,
                SchedulerFlag::UtilClampMin => 0x20,
                SchedulerFlag::UtilClampMax => 0x40,
            }
    });
    let priority = u32::try_from(scheduler.priority)
        .map_err(|_| RuntimeError::invalid("process.scheduler.priority", "negative"))?;
    Ok(SchedAttr {
        policy,
        flags,
        nice: scheduler.nice,
        priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    })
}

/// Checks what can be checked of a process before anything is made.
pub(crate) fn check(process: &Process) -> Result<(), RuntimeError> {
    if process.command_line.is_some() {
        return Err(RuntimeError::unsupported("process.commandLine", "it is for Windows"));
    }
    if process.user.username.is_some() {
        return Err(RuntimeError::unsupported("process.user.username", "Linux takes numbers"));
    }
    if process.args.is_empty() {
        return Err(RuntimeError::invalid("process.args", "no program is given"));
    }
    if process.cwd.is_empty() {
        return Err(RuntimeError::invalid("process.cwd", "Cwd property must not be empty"));
    }
    limits(process)?;
    if let Some(scheduler) = &process.scheduler {
        scheduling(scheduler)?;
    }
    for text in process.args.iter().chain(&process.env) {
        c_string(text.as_str(), "process")?;
    }
    Ok(())
}
