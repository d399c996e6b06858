//! An OCI runtime of others (runc, crun), driven by its command line in place of our own.
//!
//! Invariants: the root is mounted in a mount namespace of the shim, so nothing shows on the host and the
//! kernel takes it back with the shim and the container; all files of the runtime are in the run folder, which
//! goes with the run; the runtime's program dies with the shim. The container's processes become children of
//! the shim, which is a subreaper. Limits are set by our own control group; the runtime only joins it.
//!
//! Not here: what the container is (the engine's plan), streams and exits (the supervisor's).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use havre_oci::runtime::{LinuxResources, Process, Root as SpecRoot, Spec};
use havre_sys::process::{Program, Spawn};
use havre_sys::seqpacket;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::protocol::{ExecConfig, ExternalRuntime, Failure, FailureKind, RootConfig, ShimConfig};
use super::{say, supervisor};
use crate::error::Step as _;
use crate::fscontext::{self, Layers, RootTree};
use crate::path::Root;
use crate::{Launched, RuntimeError, Stdio, user};

/// A runtime that takes longer than this for one command is taken for hung.
const PATIENCE: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };
/// The most that is read of what a runtime says.
const MOST_TEXT: u64 = 64 * 1024;

/// The runtime of one container.
pub(super) struct External {
    runtime: ExternalRuntime,
    id: String,
    run_dir: PathBuf,
    /// The run folder, for paths of sockets: their addresses are short.
    folder: OwnedFd,
}

/// How a process is given its streams, and where its terminal comes from.
struct Streams {
    stdio: [OwnedFd; 3],
    console: Option<Console>,
}

/// The socket on which the runtime hands over a terminal.
struct Console {
    socket: OwnedFd,
    path: String,
    size: (u16, u16),
}

impl External {
    /// Takes what the configuration says.
    pub(super) fn new(runtime: &ExternalRuntime, config: &ShimConfig) -> Result<Self, Failure> {
        let folder = rustix::fs::open(&config.run_dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .step("open the run folder")
            .map_err(|error| supervisor::failure(&error))?;
        Ok(Self {
            runtime: runtime.clone(),
            id: config.id.to_string(),
            run_dir: config.run_dir.clone(),
            folder,
        })
    }

    /// Creates and starts the container; what a failed start made is removed.
    pub(super) fn launch(&self, config: &ShimConfig, stdio: Stdio) -> Result<Launched, Failure> {
        let began = Instant::now();
        let bundle = self.bundle(config).map_err(|error| supervisor::failure(&error))?;
        let bundled = began.elapsed();
        let streams = self.streams("init", stdio).map_err(setup("make the streams"))?;
        let pid_file = self.run_dir.join("init.pid");
        let started = self
            .run(
                "create",
                &["--bundle", &text(&bundle), "--pid-file", &text(&pid_file)],
                Some(&streams),
                &[&self.id],
            )
            .and_then(|()| self.take(&pid_file, &streams))
            .map(|launched| (launched, began.elapsed()))
            .and_then(|made| self.run("start", &[], None, &[&self.id]).map(|()| made));
        match started {
            Ok((mut launched, created)) => {
                launched.timings = vec![
                    ("bundle", bundled),
                    ("runtime create", created.saturating_sub(bundled)),
                    ("runtime start", began.elapsed().saturating_sub(created)),
                ];
                Ok(launched)
            }
            Err(failure) => {
                // The first failure is the one to report, and most often nothing is there to delete.
                let _nothing = self.run("delete", &["--force"], None, &[&self.id]);
                Err(failure)
            }
        }
    }

    /// Starts one more process in the container, whose first process is `init`.
    pub(super) fn exec(
        &self,
        spec: &Spec,
        init: i32,
        exec: &ExecConfig,
        stdio: Stdio,
    ) -> Result<Launched, Failure> {
        let process = self.exec_process(spec, init, exec).map_err(|error| supervisor::failure(&error))?;
        let name = format!("exec-{}", exec.id);
        let streams = self.streams(&name, stdio).map_err(setup("make the streams"))?;
        let (file, pid_file) =
            (self.run_dir.join(format!("{name}.json")), self.run_dir.join(format!("{name}.pid")));
        let launched = write_json(&file, &process).map_err(setup("write the process")).and_then(|()| {
            let flags = ["--detach", "--process", &text(&file), "--pid-file", &text(&pid_file)];
            self.run("exec", &flags, Some(&streams), &[&self.id])?;
            self.take(&pid_file, &streams)
        });
        for path in [&file, &pid_file] {
            // They go with the run folder otherwise.
            std::fs::remove_file(path).unwrap_or(());
        }
        launched
    }

    /// Makes the runtime forget the container that has ended.
    pub(super) fn delete(&self) {
        if let Err(failure) = self.run("delete", &["--force"], None, &[&self.id]) {
            say(&format!("{} cannot delete the container: {}", self.runtime.path.display(), failure.message));
        }
    }

    /// Mounts the root where only the shim and the runtime see it and writes the bundle's configuration.
    fn bundle(&self, config: &ShimConfig) -> Result<PathBuf, RuntimeError> {
        let root_path = mount_root(&config.root)?;
        let mut spec = config.spec.clone();
        let root =
            rustix::fs::open(&root_path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .step_with(|| format!("open {}", root_path.display()))?;
        if let Some(process) = &mut spec.process {
            identify(process, &Root::new(root.as_fd()), &config.user, &config.additional_groups)?;
        }
        let readonly = spec.root.as_ref().is_some_and(|root| root.readonly);
        // What is planned for others is all in this version, and older runtimes refuse newer numbers.
        "1.0.2".clone_into(&mut spec.oci_version);
        spec.root = Some(SpecRoot { path: text(&root_path), readonly });
        if let Some(linux) = &mut spec.linux {
            linux.cgroups_path = Some(config.cgroup.clone());
            // Set already, with what this kernel lacks as a warning. Devices are another matter: a runtime
            // that reads no rule makes its own.
            linux.resources = linux
                .resources
                .take()
                .map(|resources| LinuxResources { devices: resources.devices, ..LinuxResources::default() });
        }
        write_bundle(&self.run_dir, &spec)
    }

    fn exec_process(&self, spec: &Spec, init: i32, exec: &ExecConfig) -> Result<Process, RuntimeError> {
        let mut process = exec.process.clone();
        if let Some(first) = &spec.process {
            process.apparmor_profile = process.apparmor_profile.or_else(|| first.apparmor_profile.clone());
            process.selinux_label = process.selinux_label.or_else(|| first.selinux_label.clone());
        }
        // As the container sees it, with its mounts.
        let path = format!("/proc/{init}/root");
        let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .step("open the container's root")?;
        identify(&mut process, &Root::new(root.as_fd()), &exec.user, &exec.additional_groups)?;
        Ok(process)
    }

    fn streams(&self, name: &str, stdio: Stdio) -> io::Result<Streams> {
        let null = || supervisor::open_null();
        match stdio {
            Stdio::Pipes { stdin, stdout, stderr } => {
                Ok(Streams { stdio: [stdin, stdout, stderr], console: None })
            }
            Stdio::Inherit => Ok(Streams { stdio: [null()?, null()?, null()?], console: None }),
            Stdio::Terminal { rows, columns } => {
                let console = self.listen(&format!("{name}.tty"), (rows, columns))?;
                Ok(Streams { stdio: [null()?, null()?, text_file()?], console: Some(console) })
            }
        }
    }

    /// The path goes through our descriptor, because a socket address holds 108 bytes.
    fn listen(&self, name: &str, size: (u16, u16)) -> io::Result<Console> {
        let pid = rustix::process::getpid().as_raw_nonzero();
        let path = format!("/proc/{pid}/fd/{}/{name}", self.folder.as_raw_fd());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path.as_str())?)?;
        rustix::net::listen(&socket, 1)?;
        Ok(Console { socket, path, size })
    }

    /// The process that the runtime left to us.
    fn take(&self, pid_file: &Path, streams: &Streams) -> Result<Launched, Failure> {
        let found = || -> io::Result<(Pid, OwnedFd, Option<OwnedFd>)> {
            let pid = std::fs::read_to_string(pid_file)?.trim().parse().ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| io::Error::other("its pid file holds no number"))?;
            // It is our child and not waited for yet: the number cannot be another's.
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            Ok((pid, pidfd, streams.console.as_ref().map(Console::receive).transpose()?))
        };
        let (pid, pidfd, terminal) = found().map_err(setup("take over the container's process"))?;
        Ok(Launched { pid, pidfd, terminal, timings: Vec::new() })
    }

    /// Runs one command of the runtime to its end.
    fn run(
        &self,
        command: &str,
        flags: &[&str],
        streams: Option<&Streams>,
        operands: &[&str],
    ) -> Result<(), Failure> {
        let log = self.run_dir.join("runtime.log");
        // What an earlier command said is not the reason of this one's failure.
        std::fs::remove_file(&log).unwrap_or(());
        let (root, log_text) = (text(&self.run_dir.join("runtime")), text(&log));
        let mut words = vec![text(&self.runtime.path)];
        words.extend(self.runtime.args.iter().cloned());
        words.extend(
            ["--root", &root, "--log", &log_text, "--log-format", "json", command].map(str::to_owned),
        );
        words.extend(flags.iter().map(|word| (*word).to_owned()));
        if let Some(console) = streams.and_then(|streams| streams.console.as_ref()) {
            words.extend(["--console-socket".to_owned(), console.path.clone()]);
        }
        words.extend(operands.iter().map(|word| (*word).to_owned()));
        let said = text_file().map_err(setup("make a file for the runtime's words"))?;
        let ended = (|| {
            let null = supervisor::open_null()?;
            match streams {
                Some(Streams { stdio: [stdin, stdout, stderr], .. }) => {
                    execute(&words, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
                }
                None => execute(&words, [null.as_fd(), said.as_fd(), said.as_fd()]),
            }
        })();
        let code = ended.map_err(setup(&format!("run the OCI runtime {}", self.runtime.path.display())))?;
        if code == 0 {
            return Ok(());
        }
        let heard = match streams {
            Some(Streams { stdio: [_, _, stderr], console: Some(_) }) => stderr,
            _ => &said,
        };
        let message = logged(&log)
            .or_else(|| spoken(heard))
            .unwrap_or_else(|| format!("{} {command} ended with {code}", self.runtime.path.display()));
        Err(judge(&message))
    }
}

impl Console {
    /// The terminal that came. The runtime has ended, so nothing more will.
    fn receive(&self) -> io::Result<OwnedFd> {
        let connection = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC)?;
        let mut name = [0; 4096];
        let (_, fds) = seqpacket::recv_into(&connection, &mut name)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let terminal = fds.into_iter().next().ok_or_else(|| io::Error::other("no terminal came"))?;
        let (rows, columns) = self.size;
        if rows > 0 && columns > 0 {
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&terminal, size)?;
        }
        Ok(terminal)
    }
}

/// Leaves the host's mount namespace and mounts the root; where it is.
fn mount_root(root: &RootConfig) -> Result<PathBuf, RuntimeError> {
    let (lowers, upper, work, volatile, target) = match root {
        RootConfig::Path(path) => return Ok(path.clone()),
        RootConfig::Overlay { lowers, upper, work, volatile, target } => {
            (lowers, upper, work, *volatile, target)
        }
    };
    havre_sys::process::unshare(havre_sys::process::Namespaces::MOUNT)
        .step("make a mount namespace for the runtime")?;
    // What the host unmounts goes here too; what is mounted here stays here.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .step("part the mounts from the host's")?;
    match fscontext::overlay(&Layers { lowers, upper: Some((upper, work)), volatile }, None)? {
        RootTree::Mount(mount) => {
            let folder = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .step_with(|| format!("open {}", target.display()))?;
            fscontext::attach(mount, folder).step("attach the root file system")?;
        }
        RootTree::Classic(options) => {
            let options =
                CString::new(options).map_err(|_| RuntimeError::invalid("root", "a path has a NUL"))?;
            let none = rustix::mount::MountFlags::empty();
            rustix::mount::mount("overlay", target, "overlay", none, options.as_c_str())
                .step("mount the overlay")?;
        }
    }
    Ok(target.clone())
}

/// Puts numbers for Docker's user text, which other runtimes do not know, and the home folder.
fn identify(
    process: &mut Process,
    root: &Root<'_>,
    text: &str,
    groups: &[String],
) -> Result<(), RuntimeError> {
    let identity = user::resolve(root, text, groups)?;
    process.user.uid = identity.uid;
    process.user.gid = identity.gid;
    process.user.additional_gids = identity.groups;
    let has_home = |entry: &String| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty());
    if !process.env.iter().any(has_home) {
        let home = identity.home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into());
        process.env.retain(|entry| !entry.starts_with("HOME="));
        process.env.push(format!("HOME={home}"));
    }
    Ok(())
}

/// Runs a program to its end; its exit status, or 128 plus the signal.
fn execute(words: &[String], stdio: [BorrowedFd<'_>; 3]) -> io::Result<i32> {
    let arguments: Vec<CString> =
        words.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>()?;
    let program = arguments.first().ok_or(io::ErrorKind::InvalidInput)?;
    rustix::fs::access(program.as_c_str(), rustix::fs::Access::EXEC_OK)?;
    let environment = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    let child = havre_sys::process::spawn(&Spawn::default(), || {
        let prepare = || -> io::Result<()> {
            // A shim that is killed must not leave a runtime that goes on making its container.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            for (fd, number) in stdio.into_iter().zip(0..) {
                havre_sys::process::set_stdio(fd, number)?;
            }
            havre_sys::signal::reset_all()?;
            havre_sys::process::close_on_exec_from(3)
        };
        if prepare().is_ok() {
            havre_sys::process::execute(Program::Path(program), &arguments, &environment);
        }
        havre_sys::process::exit_now(127)
    })?;
    let mut ended = [PollFd::new(&child.pidfd, PollFlags::IN)];
    let hung = loop {
        match rustix::event::poll(&mut ended, Some(&PATIENCE)) {
            Ok(count) => break count == 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if hung {
        havre_sys::signal::pidfd_kill(&child.pidfd, Signal::KILL.as_raw())?;
    }
    let exit = havre_sys::process::wait(child.pidfd.as_fd())?;
    if hung {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end"));
    }
    Ok(exit.status())
}

/// A file in memory.
fn text_file() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("havre-runtime", rustix::fs::MemfdFlags::CLOEXEC)?)
}

/// The last error of a runtime's JSON log.
fn logged(path: &Path) -> Option<String> {
    use std::io::Read as _;
    #[derive(serde::Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let mut content = String::new();
    std::fs::File::open(path).ok()?.take(MOST_TEXT).read_to_string(&mut content).ok()?;
    let lines = content.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut errors = lines.filter(|line| matches!(line.level.as_str(), "error" | "fatal"));
    errors.next_back().map(|line| line.msg)
}

/// The last line that a runtime wrote to its standard error.
fn spoken(file: &OwnedFd) -> Option<String> {
    let mut bytes = vec![0; 4096];
    let count = rustix::io::pread(file, &mut bytes, 0).ok()?;
    let content = String::from_utf8_lossy(bytes.get(..count)?).into_owned();
    content.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

/// The class of a failure and Docker's words for it, from a runtime's words.
fn judge(said: &str) -> Failure {
    // What stands before says which command of which runtime; the engine says that in Docker's words.
    let mut message = match said.rsplit_once("unable to start container process: ") {
        Some((_, reason)) => reason.to_owned(),
        None => said.to_owned(),
    };
    // crun: executable file `x` not found in $PATH: No such file or directory
    if let Some(rest) = message.strip_prefix("executable file `")
        && let Some((name, rest)) = rest.split_once('`')
        && rest.trim_start().starts_with("not found")
    {
        message = format!("exec: {name:?}: executable file not found in $PATH");
    }
    let lower = message.to_ascii_lowercase();
    let is_exec =
        lower.starts_with("exec: ") || lower.starts_with("exec ") || lower.starts_with("open executable");
    let kind = if lower.contains("executable file not found in $path")
        || (is_exec && lower.contains("no such file or directory"))
    {
        FailureKind::NotFound
    } else if is_exec
        && ["permission denied", "is a directory", "exec format error"]
            .iter()
            .any(|text| lower.contains(text))
    {
        FailureKind::NotExecutable
    } else if lower.contains("chdir to cwd") || lower.contains("cwd") {
        FailureKind::Invalid
    } else {
        FailureKind::Internal
    };
    Failure { kind, message }
}

/// Writes a specification where runtimes and hooks look for it.
pub(super) fn write_bundle(run_dir: &Path, spec: &Spec) -> Result<PathBuf, RuntimeError> {
    let bundle = run_dir.join("bundle");
    std::fs::create_dir_all(&bundle).step("make the bundle")?;
    write_json(&bundle.join("config.json"), spec).step("write the bundle's config.json")?;
    Ok(bundle)
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&bytes)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn setup(what: &str) -> impl Fn(io::Error) -> Failure + '_ {
    move |error| Failure { kind: FailureKind::Internal, message: format!("cannot {what}: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_words_become_docker_s() {
        let not_found = "exec: \"x\": executable file not found in $PATH";
        for (said, kind, message) in [
            (
                format!("runc create failed: unable to start container process: {not_found}"),
                FailureKind::NotFound,
                not_found,
            ),
            (
                "executable file `x` not found in $PATH: No such file or directory".to_owned(),
                FailureKind::NotFound,
                not_found,
            ),
            (
                "exec failed: unable to start container process: exec: \"/a\": stat /a: no such file or directory"
                    .to_owned(),
                FailureKind::NotFound,
                "exec: \"/a\": stat /a: no such file or directory",
            ),
            (
                "runc create failed: unable to start container process: exec: \"/etc\": permission denied"
                    .to_owned(),
                FailureKind::NotExecutable,
                "exec: \"/etc\": permission denied",
            ),
            ("mountpoint: no such file or directory".to_owned(), FailureKind::Internal, "mountpoint: no such file or directory"),
        ] {
            let failure = judge(&said);
            assert_eq!((failure.kind, failure.message.as_str()), (kind, message));
        }
    }

    #[test]
    fn the_last_error_of_the_log_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(
            &path,
            "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"t\"}\nnoise\n{\"level\":\"error\",\"msg\":\"last\"}\n{\"level\":\"warning\",\"msg\":\"w\"}\n",
        )
        .unwrap();
        assert_eq!(logged(&path).as_deref(), Some("last"));
        assert_eq!(logged(&folder.path().join("none")), None);
    }
}
