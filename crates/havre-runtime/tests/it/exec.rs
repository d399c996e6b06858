//! Further processes in a running container.

use std::os::fd::AsFd;

use havre_oci::runtime::{IdMapping, Namespace, NamespaceKind, Process};
use havre_runtime::cgroup::Cgroup;
use havre_runtime::{ExecTarget, Launched, RuntimeError, Stdio, exec};
use havre_sys::process::Exit;

use super::Test;
use super::world::{BUSYBOX, Outcome, World, read, strings};

pub(crate) const TESTS: &[Test] = &[
    ("exec_joins_everything", joins),
    ("exec_in_a_user_namespace", users),
    ("r12_r13_exec_has_the_groups_and_no_inheritable_capabilities", identity),
    ("r02_exec_working_directories_outside_are_refused", cwd),
    ("exec_errors_are_dockers", errors),
    ("exec_has_a_terminal", terminal),
    ("exec_into_a_dead_container_is_refused", dead),
    ("r26_a_number_given_out_again_is_nobody_we_signal_or_join", r26),
];

/// A container that sleeps, and what is needed to end it.
pub(crate) struct Running {
    pub(crate) world: World,
    pub(crate) launched: Launched,
    pub(crate) cgroup: Cgroup,
}

impl Running {
    pub(crate) fn new(mut world: World) -> Self {
        world.process().args = strings(&["sleep", "1000"]);
        let cgroup = world.cgroup();
        let (launched, ..) = world.start(Some(&cgroup)).unwrap();
        Self { world, launched, cgroup }
    }

    pub(crate) fn target(&self) -> ExecTarget<'_> {
        ExecTarget::new(self.launched.pid, self.launched.pidfd.as_fd(), &self.world.spec, Some(&self.cgroup))
    }

    fn process(&self, args: &[&str]) -> Process {
        let spec = self.world.spec.process.clone().unwrap();
        Process { args: strings(args), ..spec }
    }

    fn run(&self, target: &ExecTarget<'_>, process: &Process) -> Result<Outcome, RuntimeError> {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let ((out, stdout), (err, stderr)) = (pipe(), pipe());
        let stdin = std::fs::File::open("/dev/null").unwrap().into();
        let launched = exec(target, process, Stdio::Pipes { stdin, stdout, stderr })?;
        let (stdout, stderr) = (read(out), read(err));
        let exit = havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
        Ok(Outcome { exit, stdout, stderr, timings: launched.timings })
    }

    fn sh(&self, script: &str) -> String {
        let outcome = self.run(&self.target(), &self.process(&["sh", "-c", script])).unwrap();
        assert_eq!(outcome.exit, Exit::Code(0), "{outcome:?}");
        outcome.stdout.trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cgroup.kill().unwrap();
        havre_sys::process::wait(self.launched.pidfd.as_fd()).unwrap();
        self.cgroup.remove().unwrap();
    }
}

fn joins() {
    let running = Running::new(World::new());
    let kinds = "for kind in mnt pid net uts ipc cgroup time user; do readlink /proc/self/ns/$kind; done";
    let own = running.sh(kinds);
    let theirs = running.sh(&kinds.replace("self", "1"));
    assert_eq!(own, theirs);
    assert_eq!(
        running.sh("hostname; ls /proc/self/fd | wc -l; cat /proc/self/cgroup | cut -d: -f3 | sort -u"),
        "box\n4\n/"
    );
    assert_eq!(
        running.sh("grep -c . /proc/1/cmdline; grep Seccomp: /proc/self/status").split('\t').next_back(),
        Some("2")
    );
    // Parent and session are of another world.
    assert_eq!(
        running
            .sh("cut -d' ' -f4 /proc/self/stat | head -c 1; cut -d' ' -f4 /proc/$$/stat")
            .chars()
            .next_back(),
        Some('0')
    );
}

fn users() {
    let mut world = World::new();
    let maps = vec![IdMapping { container_id: 0, host_id: 200_000, size: 65_536 }];
    world.linux().uid_mappings = maps.clone();
    world.linux().gid_mappings = maps;
    world.linux().namespaces.push(Namespace::new(NamespaceKind::User));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.folder.path(), mode).unwrap();
    let running = Running::new(world);
    assert_eq!(
        running.sh(
            "id -u; hostname; test $(readlink /proc/self/ns/user) = $(readlink /proc/1/ns/user) && echo same"
        ),
        "0\nbox\nsame"
    );
}

fn identity() {
    let running = Running::new(World::new());
    std::fs::write(running.world.root().join("secret"), "x").unwrap();
    std::os::unix::fs::chown(running.world.root().join("secret"), Some(0), Some(10)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o604);
    std::fs::set_permissions(running.world.root().join("secret"), mode).unwrap();
    let mut target = running.target();
    target.user = Some("bob");
    let script = "id -u; id -G; echo $HOME; cat /secret 2>/dev/null || echo denied; grep CapInh /proc/self/status; grep CapEff /proc/self/status";
    let outcome = running.run(&target, &running.process(&["sh", "-c", script])).unwrap();
    let zero = "0000000000000000";
    assert_eq!(
        outcome.stdout,
        format!("1000\n1001 10 29\n/home/bob\ndenied\nCapInh:\t{zero}\nCapEff:\t{zero}\n")
    );
    for user in ["4294967296:0", "2147483648", "-1", "0x0", "0 "] {
        target.user = Some(user);
        assert!(running.run(&target, &running.process(&["true"])).is_err(), "{user}");
    }
}

fn cwd() {
    let running = Running::new(World::new());
    let mut process = running.process(&["pwd"]);
    for number in 0..64 {
        process.cwd = format!("/proc/self/fd/{number}");
        let error = running.run(&running.target(), &process).unwrap_err();
        assert!(matches!(error, RuntimeError::WorkingDirectory(_)), "{error}");
    }
    for cwd in ["/proc/1/cwd", "/proc/self/root", "/proc/1/root/etc", "/proc/thread-self/cwd"] {
        process.cwd = cwd.into();
        assert!(running.run(&running.target(), &process).is_err(), "{cwd}");
    }
}

fn errors() {
    let running = Running::new(World::new());
    let mut process = running.process(&["nothere"]);
    let message = |process: &Process| running.run(&running.target(), process).unwrap_err().to_string();
    assert_eq!(message(&process), r#"exec: "nothere": executable file not found in $PATH"#);
    process.args = strings(&["true"]);
    process.cwd = "/nowhere".into();
    assert_eq!(
        message(&process),
        r#"chdir to cwd ("/nowhere") set in config.json failed: no such file or directory"#
    );
}

fn terminal() {
    let running = Running::new(World::new());
    let process = running.process(&["sh", "-c", "tty; stty size; echo x >/dev/tty"]);
    let launched = exec(&running.target(), &process, Stdio::Terminal { rows: 11, columns: 22 }).unwrap();
    havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
    let terminal = launched.terminal.unwrap();
    let (mut all, mut bytes) = (Vec::new(), vec![0; 4096]);
    // One read gives a part; the end of a terminal is an error.
    while let Ok(length @ 1..) = rustix::io::read(&terminal, &mut bytes) {
        all.extend_from_slice(&bytes[..length]);
    }
    assert_eq!(String::from_utf8_lossy(&all).replace('\r', ""), "/dev/pts/0\n11 22\nx\n");
}

fn dead() {
    let mut world = World::new();
    world.process().args = strings(&["true"]);
    let spec = world.spec_without_cgroup();
    let mut started = world;
    started.spec = spec;
    let (launched, ..) = started.start(None).unwrap();
    havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
    let target = ExecTarget::new(launched.pid, launched.pidfd.as_fd(), &started.spec, None);
    let process = started.spec.process.clone().unwrap();
    assert!(matches!(exec(&target, &process, Stdio::Inherit), Err(RuntimeError::State(_))));
}

/// A process of this test's with a certain number, if the kernel lets us choose (ns_last_pid in proc(5)).
fn with_number(wanted: u32) -> Option<std::process::Child> {
    for _ in 0..1_000 {
        // Others are making processes too.
        std::fs::write("/proc/sys/kernel/ns_last_pid", (wanted - 1).to_string()).ok()?;
        let mut child = std::process::Command::new(BUSYBOX).args(["sleep", "1000"]).spawn().unwrap();
        if child.id() == wanted {
            return Some(child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    None
}

fn r26() {
    let mut world = World::new();
    world.process().args = strings(&["sleep", "1000"]);
    let cgroup = world.cgroup();
    let (launched, ..) = world.start(Some(&cgroup)).unwrap();
    cgroup.kill().unwrap();
    havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
    let number = u32::try_from(launched.pid.as_raw_nonzero().get()).unwrap();
    let Some(mut stranger) = with_number(number) else {
        println!("SKIP r26: no number can be given out again here");
        cgroup.remove().unwrap();
        return;
    };
    let target = ExecTarget::new(launched.pid, launched.pidfd.as_fd(), &world.spec, Some(&cgroup));
    let error = exec(&target, world.spec.process.as_ref().unwrap(), Stdio::Inherit).unwrap_err();
    assert!(error.to_string().contains("not running"), "{error}");
    assert!(havre_sys::signal::pidfd_kill(&launched.pidfd, 9).is_err());
    cgroup.signal(9).unwrap();
    cgroup.kill().unwrap();
    assert_eq!(stranger.try_wait().unwrap(), None, "a stranger was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    cgroup.remove().unwrap();
}
