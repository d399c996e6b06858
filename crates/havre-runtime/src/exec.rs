//! Starts a further process in a running container.
//!
//! Invariants: the process is in every namespace and in the control group of the container before anything of
//! the container is looked at; until its execve nobody in the container may look into it (CVE-2016-9962); it
//! gets the container's filter.
//!
//! A container with CAP_SYS_PTRACE and no user namespace of its own is not held off: the kernel asks for that
//! capability in the user namespace of the process, which is the host's, and it overrides that the process is not
//! dumpable. So what can be seen from inside has nothing of the host's files: no descriptor but the streams, the
//! channel to the parent and the container's own root. It still has the host's capabilities until it drops them.
//!
//! The calling process must be single threaded.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd};

use havre_oci::runtime::{NamespaceKind, Process, Spec};
use havre_sys::process::{Namespaces, Spawn, Spawned};
use rustix::process::Pid;
use rustix::thread::CpuSet;

use crate::capabilities::{self, CapabilitySet};
use crate::cgroup::{Cgroup, Join};
use crate::error::{RuntimeError, Step};
use crate::finish::{self, Finish, Sets};
use crate::launch::{self, Hidden, Launched, Parent, Stdio, Users};
use crate::link::{Link, Stopwatch};
use crate::path::Root;
use crate::{lsm, namespaces};

/// The container to join.
#[derive(Debug, Clone, Copy)]
pub struct ExecTarget<'a> {
    /// Number of its first process here.
    pub pid: Pid,
    /// Its first process.
    pub pidfd: BorrowedFd<'a>,
    /// The container.
    pub spec: &'a Spec,
    /// Its control group.
    pub cgroup: Option<&'a Cgroup>,
    /// Docker's USER text, resolved in the container; `None`: the user of the process given.
    pub user: Option<&'a str>,
    /// Further groups, numbers or names of the container.
    pub additional_groups: &'a [String],
    /// The compiled form of the spec's filter, if the caller has it.
    pub seccomp_filter: Option<&'a [u8]>,
    /// Appends `HAVRE_TRACE=step=nanos,...` to the environment.
    pub trace: bool,
    /// How many descriptors from 3 on the program keeps.
    pub preserve_fds: u32,
}

impl<'a> ExecTarget<'a> {
    /// The plainest target: the user of the process, no further groups.
    pub fn new(pid: Pid, pidfd: BorrowedFd<'a>, spec: &'a Spec, cgroup: Option<&'a Cgroup>) -> Self {
        Self {
            pid,
            pidfd,
            spec,
            cgroup,
            user: None,
            additional_groups: &[],
            seccomp_filter: None,
            trace: false,
            preserve_fds: 0,
        }
    }

    /// The namespaces in which the container is and we are not.
    fn differing(&self) -> Result<Namespaces, RuntimeError> {
        let mut differing = Namespaces::NONE;
        for kind in NamespaceKind::ALL {
            let file = namespaces::file(*kind);
            let inode =
                |who: &str| rustix::fs::stat(format!("/proc/{who}/ns/{file}")).map(|stat| stat.st_ino);
            let (ours, theirs) = (inode("self"), inode(&self.pid.as_raw_nonzero().to_string()));
            match (ours, theirs) {
                (Err(rustix::io::Errno::NOENT), Err(rustix::io::Errno::NOENT)) => {} // a kernel without this kind
                (Ok(ours), Ok(theirs)) if ours == theirs => {}
                (Ok(_), Ok(_)) => differing = differing.with(namespaces::bit(*kind)),
                _ => return Err(RuntimeError::State("the container is not running".into())),
            }
        }
        // The number meant the container as long as the container lives.
        havre_sys::signal::pidfd_kill(self.pidfd, 0)
            .map_err(|_| RuntimeError::State("the container is not running".into()))?;
        Ok(differing)
    }
}

/// Starts `process` in the container. Returns after its execve has succeeded, or with the reason why not.
pub fn exec(target: &ExecTarget<'_>, process: &Process, stdio: Stdio) -> Result<Launched, RuntimeError> {
    let mut watch = Stopwatch::start();
    finish::check(process)?;
    lsm::check(process, None)?;
    let kinds = target.differing()?;
    let has_users = kinds.contains(Namespaces::USER);
    let all = if has_users { CapabilitySet::ALL } else { capabilities::available() };
    let affinity = process.exec_cpu_affinity.as_ref();
    let cpus = |list: Option<&String>| list.map(|list| cpu_set(list)).transpose();
    let (first, last) = (
        cpus(affinity.and_then(|affinity| affinity.initial.as_ref()))?,
        cpus(affinity.and_then(|affinity| affinity.last.as_ref()))?,
    );
    let finish = Finish {
        process,
        user: target.user,
        additional_groups: target.additional_groups,
        capabilities: Sets::parse(process.capabilities.as_ref(), all)?,
        filter: launch::filter(target.spec, target.seccomp_filter)?,
        personality: target.spec.linux.as_ref().and_then(|linux| linux.personality.as_ref()),
        streams: stdio.into_streams(),
        init: None,
        gate: None,
        proc: Some(lsm::open_proc()?),
        trace: target.trace,
        preserve_fds: target.preserve_fds,
        limits_are_set: has_users,
        make_cwd: false,
        start_hooks: None,
    };
    let join = target.cgroup.map(Cgroup::join).transpose()?;
    let (link, child_link) = Link::pair()?;
    watch.lap("spec");

    let hidden = Hidden::now()?;
    let helper = Helper { target, kinds, finish, link: child_link, first, last };
    let spawn = Spawn { cgroup: join.as_ref().and_then(Join::cgroup), ..Spawn::default() };
    let spawned = havre_sys::process::spawn(&spawn, || {
        let result = helper.link.duplicate().and_then(|report| {
            let made = helper.help(join.as_ref(), &report, watch);
            made.and_then(|spawned| launch::say_made(&report, &spawned))
                .inspect_err(|error| finish::fail(&report, error))
        });
        havre_sys::process::exit_now(i32::from(result.is_err()))
    })
    .step("make the helper of the process")?;
    drop(hidden);
    Parent {
        id: "",
        spec: &Spec::default(),
        bundle: None,
        users: Users::Ours,
        process,
        link,
        waits: false,
        has_helper: true,
    }
    .follow(spawned)
}

/// Enters the container with the rights of the host and makes the process there.
struct Helper<'a> {
    target: &'a ExecTarget<'a>,
    kinds: Namespaces,
    finish: Finish<'a>,
    link: Link,
    first: Option<CpuSet>,
    last: Option<CpuSet>,
}

impl Helper<'_> {
    fn help(mut self, join: Option<&Join>, report: &Link, watch: Stopwatch) -> Result<Spawned, RuntimeError> {
        let set = |cpus: Option<&CpuSet>| match cpus {
            Some(cpus) => rustix::thread::sched_setaffinity(None, cpus).step("set process.execCPUAffinity"),
            None => Ok(()),
        };
        set(self.first.as_ref())?;
        join.map_or(Ok(()), Join::enter)?;
        set(self.last.as_ref())?;
        let process = self.finish.process;
        if let Some(score) = process.oom_score_adj {
            lsm::write(self.finish.proc()?, "self/oom_score_adj", &score.to_string())
                .step("set process.oomScoreAdj")?;
        }
        if self.finish.limits_are_set {
            for (resource, soft, hard) in finish::limits(process)? {
                havre_sys::process::set_limit(0, resource, soft, hard)
                    .step_with(|| format!("set limit {resource} to {soft}:{hard}"))?;
            }
        }
        // What the next execve takes, our child's included: it shall not need a procfs of the host's.
        lsm::set(process, self.finish.proc()?)?;
        if !self.kinds.is_empty() {
            havre_sys::process::setns(self.target.pidfd, self.kinds)
                .step("join the container's namespaces")?;
        }
        self.let_go(report)?;
        let spawn = Spawn { sibling: true, ..Spawn::default() };
        havre_sys::process::spawn(&spawn, || self.run(watch)).step("make the process")
    }

    /// Closes what the process in the container has no need of, as long as nobody in there can see it.
    fn let_go(&mut self, report: &Link) -> Result<(), RuntimeError> {
        self.finish.proc = None;
        let first = 3 + self.finish.preserve_fds;
        let kept: Vec<BorrowedFd<'_>> =
            [&self.link, report].into_iter().filter_map(Link::fd).chain(self.finish.stream_fds()).collect();
        havre_sys::process::close_all_but(first, &kept).step("close the caller's descriptors")?;
        if let (Some(link), false) = (self.link.fd(), self.finish.inherits()) {
            // The caller's own streams too; ours come in their place before the execve.
            for number in 0..3 {
                havre_sys::process::set_stdio(link, number).step("let go of the caller's streams")?;
            }
        }
        Ok(())
    }

    fn run(self, mut watch: Stopwatch) -> Infallible {
        let Self { kinds, finish, mut link, .. } = self;
        watch.lap("namespaces");
        let Err(error) = become_process(kinds, finish, &mut link, watch);
        finish::fail(&link, &error);
        havre_sys::process::exit_now(1)
    }
}

fn become_process(
    kinds: Namespaces,
    finish: Finish<'_>,
    link: &mut Link,
    watch: Stopwatch,
) -> Result<Infallible, RuntimeError> {
    link.wait()?;
    launch::begin(None)?;
    if kinds.contains(Namespaces::USER) {
        launch::become_root(&[], &[])?;
    }
    let root = launch::own_root()?;
    let root = Root::new(root.as_fd());
    let terminal = finish.open_terminal(&root, link)?;
    finish.execute(&root, terminal.as_ref(), link, watch)
}

/// A list such as `0-3,7`.
fn cpu_set(list: &str) -> Result<CpuSet, RuntimeError> {
    let bad = || RuntimeError::invalid("process.execCPUAffinity", format!("{list:?}"));
    let mut set = CpuSet::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: usize = first.trim().parse().map_err(|_| bad())?;
        let last: usize = last.trim().parse().map_err(|_| bad())?;
        if first > last || last >= CpuSet::MAX_CPU {
            return Err(bad());
        }
        (first..=last).for_each(|cpu| set.set(cpu));
    }
    if set.count() == 0 { Err(bad()) } else { Ok(set) }
}
