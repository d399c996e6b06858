//! The commands.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use havre_base::Clock;
use havre_oci::runtime::{
    ConsoleSize, Linux, Mount, Namespace, NamespaceKind, Process, Root, Spec, State, Status, VERSION,
};
use havre_sys::process::Exit;
use havre_sys::seqpacket;
use rustix::process::Pid;

use super::arguments::Arguments;
use super::container::{Folder, Saved, read_spec, start_time};
use super::{Global, print};
use crate::capabilities::CapabilitySet;
use crate::cgroup::Cgroup;
use crate::error::{RuntimeError, Step};
use crate::exec::ExecTarget;
use crate::hooks;
use crate::launch::{Launch, Launched, RootFs, Stdio};
use crate::link::{FromChild, Link};

/// Flags of `create` and `run`.
#[derive(Default)]
struct Creation {
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    preserve_fds: u32,
    detach: bool,
}

impl Creation {
    fn parse(arguments: &mut Arguments, is_run: bool) -> Result<Self, RuntimeError> {
        let mut flags = Self { bundle: PathBuf::from("."), ..Self::default() };
        while let Some(flag) = arguments.flag()? {
            match flag.name.as_str() {
                "bundle" | "b" => flags.bundle = arguments.value(flag)?.into(),
                "pid-file" => flags.pid_file = Some(arguments.value(flag)?.into()),
                "console-socket" => flags.console_socket = Some(arguments.value(flag)?.into()),
                "preserve-fds" => {
                    let text = arguments.value(flag)?;
                    flags.preserve_fds = text
                        .parse()
                        .ok()
                        .filter(|count| *count <= 1024)
                        .ok_or_else(|| RuntimeError::invalid("--preserve-fds", format!("{text:?}")))?;
                }
                "detach" | "d" if is_run => {
                    arguments.no_value(flag)?;
                    flags.detach = true;
                }
                "no-pivot" => {
                    return Err(RuntimeError::unsupported(
                        "--no-pivot",
                        "a root that is not changed can be left",
                    ));
                }
                other => return Err(RuntimeError::unsupported(format!("--{other}"), "unknown flag")),
            }
        }
        flags.bundle = std::fs::canonicalize(&flags.bundle)
            .step_with(|| format!("find the bundle {}", flags.bundle.display()))?;
        Ok(flags)
    }

    fn spec(&self) -> Result<Spec, RuntimeError> {
        let spec = read_spec(&self.bundle.join("config.json"))?;
        let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
        match (terminal, &self.console_socket) {
            (true, None) => Err(RuntimeError::unsupported("process.terminal", "it needs --console-socket")),
            (false, Some(_)) => Err(RuntimeError::invalid("--console-socket", "process.terminal is false")),
            _ => Ok(spec),
        }
    }
}

pub(crate) fn create(global: &Global, mut arguments: Arguments) -> Result<(), RuntimeError> {
    let flags = Creation::parse(&mut arguments, false)?;
    let id = arguments.id()?;
    arguments.end()?;
    let spec = flags.spec()?;
    make(global, &id, &flags, &spec, true).map(|_| ())
}

pub(crate) fn run(global: &Global, mut arguments: Arguments) -> Result<u8, RuntimeError> {
    let flags = Creation::parse(&mut arguments, true)?;
    let id = arguments.id()?;
    arguments.end()?;
    let spec = flags.spec()?;
    if !flags.detach {
        // From before the process exists, so that none is lost.
        havre_sys::signal::block_all().step("block signals")?;
    }
    let launched = make(global, &id, &flags, &spec, false)?;
    if flags.detach {
        return Ok(0);
    }
    let exit = mind(&launched)?;
    let folder = Folder::open(global, &id)?;
    destroy(global, folder, &id)?;
    Ok(u8::try_from(exit.status()).unwrap_or(255))
}

/// Passes signals on until the process ends.
fn mind(launched: &Launched) -> Result<Exit, RuntimeError> {
    loop {
        if let Some(exit) =
            havre_sys::process::try_wait(launched.pidfd.as_fd()).step("wait for the container")?
        {
            return Ok(exit);
        }
        let signal = havre_sys::signal::wait_any().step("wait for the container")?;
        if signal != rustix::process::Signal::CHILD.as_raw() {
            // It may have ended a moment ago.
            let _ended = havre_sys::signal::pidfd_kill(launched.pidfd.as_fd(), signal);
        }
    }
}

fn cgroup_path(id: &str, spec: &Spec) -> Result<String, RuntimeError> {
    match spec.linux.as_ref().and_then(|linux| linux.cgroups_path.as_deref()).filter(|path| !path.is_empty())
    {
        // slice:prefix:name is systemd's form.
        Some(path) if !path.contains('/') && path.split(':').count() == 3 => {
            Err(RuntimeError::unsupported("linux.cgroupsPath", format!("{path:?} needs systemd")))
        }
        Some(path) => Ok(path.to_owned()),
        None => Ok(format!("/havre-oci/{id}")),
    }
}

fn make(
    global: &Global,
    id: &str,
    flags: &Creation,
    spec: &Spec,
    with_gate: bool,
) -> Result<Launched, RuntimeError> {
    let path = cgroup_path(id, spec)?;
    let folder = Folder::create(global, id)?;
    let result = make_in(&folder, id, flags, spec, &path, with_gate);
    if result.is_err() {
        // The first error is the one to report.
        let _leftovers = folder.remove();
    }
    result
}

fn make_in(
    folder: &Folder,
    id: &str,
    flags: &Creation,
    spec: &Spec,
    path: &str,
    with_gate: bool,
) -> Result<Launched, RuntimeError> {
    let root = spec.root.as_ref().ok_or_else(|| RuntimeError::invalid("root", "it is missing"))?;
    folder.save_spec(spec)?;
    let resources = spec.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let existing = Cgroup::open(path)?;
    if existing.exists() && !existing.is_empty() {
        return Err(RuntimeError::State(format!("container's cgroup {path} is not empty")));
    }
    let cgroup = Cgroup::create(path, &resources)?;
    let launched = launch_in(folder, id, flags, spec, root, &cgroup, with_gate).and_then(|launched| {
        let pid = launched.pid.as_raw_nonzero().get();
        let status = if with_gate { Status::Created } else { Status::Running };
        let recorded = record(folder, id, flags, spec, path, pid, status);
        recorded.map(|()| launched).inspect_err(|_| {
            let _killed = cgroup.kill();
        })
    });
    if launched.is_err() {
        let _leftovers = cgroup.remove();
    }
    launched
}

fn launch_in(
    folder: &Folder,
    id: &str,
    flags: &Creation,
    spec: &Spec,
    root: &Root,
    cgroup: &Cgroup,
    with_gate: bool,
) -> Result<Launched, RuntimeError> {
    let process = spec.process.as_ref();
    let stdio = match process.filter(|process| process.terminal) {
        Some(process) => terminal(process.console_size.as_ref())?,
        None => Stdio::Inherit,
    };
    let mut launch = Launch::new(id, spec, RootFs::Path(flags.bundle.join(&root.path)), stdio);
    launch.cgroup = Some(cgroup);
    launch.bundle = Some(&flags.bundle);
    launch.preserve_fds = flags.preserve_fds;
    if with_gate {
        launch.gate = Some(seqpacket::listen(&folder.gate()).step("make the gate")?);
    }
    let launched = crate::launch::launch(launch)?;
    hand_over(&launched, flags.console_socket.as_deref()).inspect_err(|_| {
        let _killed = havre_sys::signal::pidfd_kill(launched.pidfd.as_fd(), 9);
        let _reaped = havre_sys::process::wait(launched.pidfd.as_fd());
    })?;
    Ok(launched)
}

fn terminal(size: Option<&ConsoleSize>) -> Result<Stdio, RuntimeError> {
    let bound = |number: u64| {
        u16::try_from(number).map_err(|_| RuntimeError::invalid("process.consoleSize", format!("{number}")))
    };
    Ok(match size {
        Some(size) => Stdio::Terminal { rows: bound(size.height)?, columns: bound(size.width)? },
        None => Stdio::Terminal { rows: 0, columns: 0 },
    })
}

/// Gives the terminal to whoever listens at the console socket.
fn hand_over(launched: &Launched, socket: Option<&Path>) -> Result<(), RuntimeError> {
    let (Some(terminal), Some(path)) = (&launched.terminal, socket) else { return Ok(()) };
    let stream = std::os::unix::net::UnixStream::connect(path)
        .step_with(|| format!("connect to the console socket {}", path.display()))?;
    // The name that runc sends along.
    seqpacket::send(&stream, b"/dev/ptmx", &[terminal.as_fd()]).step("send the terminal")
}

fn record(
    folder: &Folder,
    id: &str,
    flags: &Creation,
    spec: &Spec,
    cgroup: &str,
    pid: i32,
    status: Status,
) -> Result<(), RuntimeError> {
    let state = State {
        oci_version: VERSION.into(),
        id: id.to_owned(),
        status,
        bundle: flags.bundle.to_string_lossy().into_owned(),
        pid: Some(pid),
        annotations: spec.annotations.clone(),
    };
    folder.save(&Saved {
        format: 1,
        state,
        start_time: start_time(pid).unwrap_or(0),
        cgroup: cgroup.to_owned(),
        created: havre_base::SystemClock.now().to_string(),
    })?;
    write_pid_file(flags.pid_file.as_deref(), pid)
}

fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<(), RuntimeError> {
    let Some(path) = path else { return Ok(()) };
    havre_sys::durable::replace_with(
        path,
        pid.to_string().as_bytes(),
        0o644,
        havre_sys::durable::Durability::Process,
    )
    .step_with(|| format!("write {}", path.display()))
}

fn load(folder: &Folder, id: &str) -> Result<Saved, RuntimeError> {
    folder.load()?.ok_or_else(|| RuntimeError::State(format!("container {id} was never created completely")))
}

pub(crate) fn start(global: &Global, mut arguments: Arguments) -> Result<(), RuntimeError> {
    let id = arguments.id()?;
    arguments.end()?;
    let folder = Folder::open(global, &id)?;
    let mut saved = load(&folder, &id)?;
    if saved.state.status != Status::Created {
        return Err(RuntimeError::State(format!(
            "cannot start container {id} in the {} state",
            saved.state.status.as_str()
        )));
    }
    let spec = folder.spec()?;
    let socket = seqpacket::connect(&folder.gate()).step("reach the container's process")?;
    let link = Link::over(socket);
    link.go()?;
    let mut executing = false;
    loop {
        match link.hear()? {
            Some((FromChild::Executing { .. }, _)) => executing = true,
            Some((FromChild::Failed(report), _)) => return Err(report.into_error()),
            Some(_) => {}
            None if executing => break,
            None => return Err(RuntimeError::State("the container's process died at its start".into())),
        }
    }
    saved.state.status = Status::Running;
    folder.save(&saved)?;
    // The gate has been passed; its name is of no more use.
    let _gone = std::fs::remove_file(folder.gate());
    let hooks = spec.hooks.as_ref().map_or(&[][..], |hooks| &hooks.poststart);
    hooks::run("poststart", hooks, &saved.state).inspect_err(|_| {
        // As the specification says: the container is stopped when such a hook fails.
        let _killed = saved.cgroup().and_then(|cgroup| cgroup.kill());
    })
}

pub(crate) fn state(global: &Global, mut arguments: Arguments) -> Result<(), RuntimeError> {
    let id = arguments.id()?;
    arguments.end()?;
    let saved = load(&Folder::open(global, &id)?, &id)?;
    print(&(json(&view(&saved))? + "\n"))
}

/// The state, with what runc's callers look for besides.
fn view(saved: &Saved) -> serde_json::Value {
    let paused =
        saved.state.status == Status::Running && saved.cgroup().is_ok_and(|cgroup| cgroup.is_frozen());
    serde_json::json!({
        "ociVersion": saved.state.oci_version,
        "id": saved.state.id,
        "pid": saved.state.pid.unwrap_or(0),
        "status": if paused { "paused" } else { saved.state.status.as_str() },
        "bundle": saved.state.bundle,
        "annotations": saved.state.annotations,
        "created": saved.created,
    })
}

fn json(value: &impl serde::Serialize) -> Result<String, RuntimeError> {
    serde_json::to_string_pretty(value).map_err(|error| RuntimeError::State(error.to_string()))
}

pub(crate) fn kill(global: &Global, mut arguments: Arguments) -> Result<(), RuntimeError> {
    let mut all = false;
    while let Some(flag) = arguments.flag()? {
        match flag.name.as_str() {
            "all" | "a" => {
                arguments.no_value(flag)?;
                all = true;
            }
            other => return Err(RuntimeError::unsupported(format!("--{other}"), "unknown flag")),
        }
    }
    let id = arguments.id()?;
    let signal = signal(&arguments.next().unwrap_or_else(|| "TERM".into()))?;
    arguments.end()?;
    let saved = load(&Folder::open(global, &id)?, &id)?;
    if all {
        return saved.cgroup()?.signal(signal);
    }
    let (_, pidfd) = saved.process()?;
    havre_sys::signal::pidfd_kill(&pidfd, signal).step("send the signal")
}

/// A signal by name or number.
fn signal(text: &str) -> Result<i32, RuntimeError> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_name = (1..).zip(NAMES).find(|(_, known)| *known == name).map(|(number, _)| number);
    let real_time =
        name.strip_prefix("RTMIN+").and_then(|rest| rest.parse::<i32>().ok()).map(|rest| 34 + rest);
    by_name
        .or(real_time)
        .or_else(|| name.parse().ok())
        .filter(|number| (1..=64).contains(number))
        .ok_or_else(|| RuntimeError::invalid("signal", format!("{text:?}")))
}

pub(crate) fn delete(global: &Global, mut arguments: Arguments) -> Result<(), RuntimeError> {
    let mut force = false;
    while let Some(flag) = arguments.flag()? {
        match flag.name.as_str() {
            "force" | "f" => {
                arguments.no_value(flag)?;
                force = true;
            }
            other => return Err(RuntimeError::unsupported(format!("--{other}"), "unknown flag")),
        }
    }
    let id = arguments.id()?;
    arguments.end()?;
    let folder = match Folder::open(global, &id) {
        Err(RuntimeError::NoSuchContainer(_)) if force => return Ok(()),
        other => other?,
    };
    if let Some(saved) = folder.load()? {
        let status = saved.state.status;
        // A created one has run nothing of its user's yet: it can be deleted as it is.
        if status == Status::Running && !force {
            return Err(RuntimeError::State(format!(
                "cannot delete container {id} that is not stopped: {}",
                status.as_str()
            )));
        }
    }
    destroy(global, folder, &id)
}

fn destroy(global: &Global, folder: Folder, id: &str) -> Result<(), RuntimeError> {
    let Some(mut saved) = folder.load()? else { return folder.remove() };
    let cgroup = saved.cgroup()?;
    if let Ok((_, pidfd)) = saved.process() {
        havre_sys::signal::pidfd_kill(&pidfd, 9).step("kill the container")?;
        wait_end(&pidfd)?;
    }
    cgroup.kill()?;
    cgroup.remove()?;
    let hooks =
        folder.spec().ok().and_then(|spec| spec.hooks).map(|hooks| hooks.poststop).unwrap_or_default();
    saved.state.status = Status::Stopped;
    saved.state.pid = None;
    folder.remove()?;
    // The container is gone whatever a hook says: that is told and nothing else.
    if let Err(error) = hooks::run("poststop", &hooks, &saved.state) {
        global.log("warning", &format!("{id}: {error}"));
    }
    Ok(())
}

/// Waits until a process that need not be our child has ended.
fn wait_end(pidfd: &OwnedFd) -> Result<(), RuntimeError> {
    let mut waited = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    match rustix::event::poll(&mut waited, Some(&timeout)).step("wait for the container's end")? {
        0 => Err(RuntimeError::State("the container's process does not end".into())),
        _ => Ok(()),
    }
}

pub(crate) fn pause(global: &Global, mut arguments: Arguments, frozen: bool) -> Result<(), RuntimeError> {
    let id = arguments.id()?;
    arguments.end()?;
    let saved = load(&Folder::open(global, &id)?, &id)?;
    if saved.state.status == Status::Stopped {
        return Err(RuntimeError::State(format!("container {id} is not running")));
    }
    let cgroup = saved.cgroup()?;
    if frozen { cgroup.freeze() } else { cgroup.thaw() }
}

pub(crate) fn list(global: &Global, mut arguments: Arguments) -> Result<(), RuntimeError> {
    let (mut quiet, mut as_json) = (false, false);
    while let Some(flag) = arguments.flag()? {
        match flag.name.as_str() {
            "quiet" | "q" => {
                arguments.no_value(flag)?;
                quiet = true;
            }
            "format" | "f" => as_json = format(&arguments.value(flag)?)?,
            other => return Err(RuntimeError::unsupported(format!("--{other}"), "unknown flag")),
        }
    }
    arguments.end()?;
    let mut ids: Vec<String> = match std::fs::read_dir(&global.root) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).step_with(|| format!("list {}", global.root)),
    };
    ids.sort();
    let all: Vec<Saved> =
        ids.iter().filter_map(|id| Folder::open(global, id).ok()?.load().ok().flatten()).collect();
    if as_json {
        return print(&(json(&all.iter().map(view).collect::<Vec<_>>())? + "\n"));
    }
    let mut text = if quiet { String::new() } else { "ID\tPID\tSTATUS\tBUNDLE\tCREATED\n".to_owned() };
    for saved in &all {
        let state = &saved.state;
        text.push_str(&state.id);
        if !quiet {
            let (pid, status) = (state.pid.unwrap_or(0), state.status.as_str());
            text.push_str(&format!("\t{pid}\t{status}\t{}\t{}", state.bundle, saved.created));
        }
        text.push('\n');
    }
    print(&text)
}

fn format(text: &str) -> Result<bool, RuntimeError> {
    match text {
        "json" => Ok(true),
        "table" => Ok(false),
        other => Err(RuntimeError::invalid("--format", format!("{other:?}"))),
    }
}

pub(crate) fn ps(global: &Global, mut arguments: Arguments) -> Result<(), RuntimeError> {
    let mut as_json = false;
    while let Some(flag) = arguments.flag()? {
        match flag.name.as_str() {
            "format" | "f" => as_json = format(&arguments.value(flag)?)?,
            other => return Err(RuntimeError::unsupported(format!("--{other}"), "unknown flag")),
        }
    }
    let id = arguments.id()?;
    arguments.end()?;
    let saved = load(&Folder::open(global, &id)?, &id)?;
    let pids: Vec<i32> =
        saved.cgroup()?.processes().into_iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    if as_json {
        return print(&(json(&pids)? + "\n"));
    }
    let lines: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
    print(&format!("PID\n{lines}"))
}

/// Flags of `exec`.
#[derive(Default)]
struct Joining {
    file: Option<PathBuf>,
    cwd: Option<String>,
    env: Vec<String>,
    user: Option<String>,
    additional_gids: Vec<u32>,
    caps: Vec<String>,
    tty: bool,
    detach: bool,
    no_new_privileges: bool,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    preserve_fds: u32,
}

impl Joining {
    fn parse(arguments: &mut Arguments) -> Result<Self, RuntimeError> {
        let mut flags = Self::default();
        let number = |text: String| {
            text.parse::<u32>()
                .map_err(|_| RuntimeError::invalid("command line", format!("{text:?} is no number")))
        };
        while let Some(flag) = arguments.flag()? {
            match flag.name.as_str() {
                "process" | "p" => flags.file = Some(arguments.value(flag)?.into()),
                "cwd" => flags.cwd = Some(arguments.value(flag)?),
                "env" | "e" => flags.env.push(arguments.value(flag)?),
                "user" | "u" => flags.user = Some(arguments.value(flag)?),
                "additional-gids" | "g" => flags.additional_gids.push(number(arguments.value(flag)?)?),
                "cap" | "c" => flags.caps.push(arguments.value(flag)?),
                "tty" | "t" => flags.tty = arguments.no_value(flag).map(|()| true)?,
                "detach" | "d" => flags.detach = arguments.no_value(flag).map(|()| true)?,
                "no-new-privs" => flags.no_new_privileges = arguments.no_value(flag).map(|()| true)?,
                "pid-file" => flags.pid_file = Some(arguments.value(flag)?.into()),
                "console-socket" => flags.console_socket = Some(arguments.value(flag)?.into()),
                "preserve-fds" => flags.preserve_fds = number(arguments.value(flag)?)?,
                other => return Err(RuntimeError::unsupported(format!("--{other}"), "unknown flag")),
            }
        }
        Ok(flags)
    }

    fn process(&self, spec: &Spec, args: Vec<String>) -> Result<Process, RuntimeError> {
        if let Some(path) = &self.file {
            let bytes = std::fs::read(path).step_with(|| format!("read {}", path.display()))?;
            return serde_json::from_slice(&bytes)
                .map_err(|error| RuntimeError::invalid(path.display().to_string(), error.to_string()));
        }
        let base = spec.process.clone().unwrap_or_default();
        let mut process = Process { args, terminal: self.tty, console_size: None, ..base };
        process.env.extend(self.env.iter().cloned());
        if let Some(cwd) = &self.cwd {
            process.cwd.clone_from(cwd);
        }
        if let Some(user) = &self.user {
            let bad = || RuntimeError::invalid("--user", format!("{user:?} is not UID[:GID]"));
            let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
            process.user.uid = uid.parse().map_err(|_| bad())?;
            process.user.gid = gid.parse().map_err(|_| bad())?;
        }
        process.user.additional_gids.extend(&self.additional_gids);
        process.no_new_privileges |= self.no_new_privileges;
        if !self.caps.is_empty() {
            let added = CapabilitySet::parse(&self.caps)?;
            let capabilities = process.capabilities.get_or_insert_default();
            for set in [&mut capabilities.bounding, &mut capabilities.permitted, &mut capabilities.effective]
            {
                *set = CapabilitySet::parse(set)?.union(added).names();
            }
        }
        Ok(process)
    }
}

pub(crate) fn exec(global: &Global, mut arguments: Arguments) -> Result<u8, RuntimeError> {
    let flags = Joining::parse(&mut arguments)?;
    let id = arguments.id()?;
    let folder = Folder::open(global, &id)?;
    let (saved, spec) = (load(&folder, &id)?, folder.spec()?);
    if saved.state.status != Status::Running {
        return Err(RuntimeError::State(format!(
            "cannot exec in a {} container",
            saved.state.status.as_str()
        )));
    }
    drop(folder);
    let process = flags.process(&spec, arguments.rest())?;
    let stdio = match (process.terminal, &flags.console_socket) {
        (true, Some(_)) => terminal(process.console_size.as_ref())?,
        (true, None) => {
            return Err(RuntimeError::unsupported("process.terminal", "it needs --console-socket"));
        }
        (false, None) => Stdio::Inherit,
        (false, Some(_)) => {
            return Err(RuntimeError::invalid("--console-socket", "process.terminal is false"));
        }
    };
    let (pid, pidfd): (Pid, OwnedFd) = saved.process()?;
    let cgroup = saved.cgroup()?;
    let mut target = ExecTarget::new(pid, pidfd.as_fd(), &spec, Some(&cgroup));
    target.preserve_fds = flags.preserve_fds;
    if !flags.detach {
        havre_sys::signal::block_all().step("block signals")?;
    }
    let launched = crate::exec::exec(&target, &process, stdio)?;
    hand_over(&launched, flags.console_socket.as_deref())?;
    write_pid_file(flags.pid_file.as_deref(), launched.pid.as_raw_nonzero().get())?;
    if flags.detach {
        return Ok(0);
    }
    Ok(u8::try_from(mind(&launched)?.status()).unwrap_or(255))
}

/// Writes a spec to begin with.
pub(crate) fn spec(mut arguments: Arguments) -> Result<(), RuntimeError> {
    let mut bundle = PathBuf::from(".");
    while let Some(flag) = arguments.flag()? {
        match flag.name.as_str() {
            "bundle" | "b" => bundle = arguments.value(flag)?.into(),
            other => return Err(RuntimeError::unsupported(format!("--{other}"), "unknown flag")),
        }
    }
    arguments.end()?;
    let path = bundle.join("config.json");
    if path.exists() {
        return Err(RuntimeError::State(format!("{} exists already", path.display())));
    }
    let text = json(&default_spec()?)? + "\n";
    havre_sys::durable::replace_with(&path, text.as_bytes(), 0o644, havre_sys::durable::Durability::Process)
        .step_with(|| format!("write {}", path.display()))
}

fn default_spec() -> Result<Spec, RuntimeError> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let mount = |destination: &str, kind: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: Some(kind.into()),
        source: Some(kind.into()),
        options: texts(options),
        ..Mount::default()
    };
    let caps = CapabilitySet::parse(&["AUDIT_WRITE", "KILL", "NET_BIND_SERVICE"])?;
    let kinds = [
        NamespaceKind::Pid,
        NamespaceKind::Network,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Mount,
        NamespaceKind::Cgroup,
    ];
    Ok(Spec {
        oci_version: VERSION.into(),
        process: Some(Process {
            cwd: "/".into(),
            args: texts(&["sh"]),
            env: texts(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"]),
            capabilities: Some(caps.to_spec()),
            no_new_privileges: true,
            ..Process::default()
        }),
        root: Some(Root { path: "rootfs".into(), readonly: true }),
        hostname: Some("havre".into()),
        mounts: vec![
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        linux: Some(Linux {
            namespaces: kinds.map(Namespace::new).into(),
            masked_paths: texts(&[
                "/proc/acpi",
                "/proc/kcore",
                "/proc/keys",
                "/proc/timer_list",
                "/sys/firmware",
            ]),
            readonly_paths: texts(&[
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ]),
            ..Linux::default()
        }),
        ..Spec::default()
    })
}
