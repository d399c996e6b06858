//! A container that waits for our processes to come by.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use havre_runtime::{Stdio as Streams, exec};

use super::races::race;
use super::world::{World, bind, read, strings};
use super::{OCI_ROLE, Test, roles};

pub(crate) const TESTS: &[Test] = &[
    ("r01_the_runtime_cannot_be_written_through_an_entrypoint", r01_entrypoint),
    ("r01_the_runtime_cannot_be_written_through_an_exec", r01_exec),
    ("r09_execs_cannot_be_looked_into_before_they_are_confined", r09),
    ("r09_with_the_capability_to_trace_nothing_of_the_host_is_seen_in_an_exec", r09_traced),
];

/// A copy of this program as a runtime's command line: nothing else runs from the copy, which a running
/// program would protect by itself.
struct Runtime<'a> {
    world: &'a World,
    binary: std::path::PathBuf,
    before: Vec<u8>,
}

impl<'a> Runtime<'a> {
    fn new(world: &'a World) -> Self {
        let binary = world.folder.path().join("runtime");
        std::fs::copy("/proc/self/exe", &binary).unwrap();
        let before = std::fs::read(&binary).unwrap();
        let spec = serde_json::to_vec(&world.spec).unwrap();
        std::fs::write(world.folder.path().join("config.json"), spec).unwrap();
        Self { world, binary, before }
    }

    fn call(&self, arguments: &[&str]) -> bool {
        let folder = self.world.folder.path();
        let mut command = Command::new(&self.binary);
        command.arg(OCI_ROLE).arg("--root").arg(folder.join("state")).args(arguments).current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap().success()
    }

    #[expect(clippy::disallowed_methods, reason = "nobody tells when a file of the container is complete")]
    /// Waits until the grabber inside has tried for long enough, and compares.
    fn check(&self) {
        let (log, end) = (self.world.root().join("tmp/grabbed"), Instant::now() + Duration::from_secs(20));
        let text = loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("done") || Instant::now() > end {
                break text;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(text.contains("done") && !text.contains("written"), "{text}");
        assert!(std::fs::read(&self.binary).unwrap() == self.before, "the runtime was changed");
        std::fs::remove_file(log).unwrap();
    }
}

impl Drop for Runtime<'_> {
    fn drop(&mut self) {
        self.call(&["delete", "--force", &self.world.name()]);
    }
}

fn script(world: &World) {
    let path = world.root().join("script");
    std::fs::write(&path, format!("#!/proc/self/exe {}\n", roles::GRABBER)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("/proc/self/exe", world.root().join("link")).unwrap();
}

fn r01_entrypoint() {
    for args in [&["/proc/self/exe", roles::GRABBER][..], &["/link", roles::GRABBER], &["/script"]] {
        let mut world = World::new();
        script(&world);
        world.process().args = strings(args);
        let runtime = Runtime::new(&world);
        // Both ways to start: the runtime has gone by the time the container runs.
        assert!(runtime.call(&["create", &world.name()]) && runtime.call(&["start", &world.name()]));
        runtime.check();
    }
}

fn r01_exec() {
    let mut world = World::new();
    script(&world);
    world.process().args = strings(&["sleep", "1000"]);
    let runtime = Runtime::new(&world);
    assert!(runtime.call(&["run", "--detach", &world.name()]));
    for args in [&["/proc/self/exe", roles::GRABBER][..], &["/link", roles::GRABBER], &["/script"]] {
        assert!(runtime.call(&[&["exec", "--detach", &world.name()][..], args].concat()));
        runtime.check();
    }
}

/// Looks into every process but itself until the file `/stop` is there, and says what it saw.
///
/// Listing descriptors and naming the executable need the weakest right over a process (PTRACE_MODE_READ):
/// who does not have it cannot attach to it either.
pub(crate) fn spy() {
    let own = std::process::id().to_string();
    let (mut denied, mut seen) = (0_u64, std::collections::BTreeSet::new());
    while !Path::new("/stop").exists() {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(|c: char| c.is_ascii_digit()) && name != own {
                look(&name, &mut denied, &mut seen);
            }
        }
    }
    println!("denied {denied}");
    for line in seen {
        println!("{line}");
    }
}

fn look(name: &str, denied: &mut u64, seen: &mut std::collections::BTreeSet<String>) {
    let path = |file: &str| format!("/proc/{name}/{file}");
    match std::fs::read_link(path("exe")) {
        Ok(exe) => _ = seen.insert(format!("exe {}", exe.display())),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => *denied += 1,
        Err(_) => {}
    }
    for fd in std::fs::read_dir(path("fd")).into_iter().flatten().flatten() {
        if let Ok(target) = std::fs::read_link(fd.path()) {
            let target = target.to_string_lossy().into_owned();
            let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind);
            seen.insert(format!("fd {kind}"));
        }
    }
}

/// What a spy in a container saw while execs came by: how often it was refused, and what it could name.
fn spied(capability: Option<&str>) -> (u64, Vec<String>) {
    let mut world = World::new();
    let caps = world.process().capabilities.as_mut().unwrap();
    for set in [&mut caps.bounding, &mut caps.permitted, &mut caps.effective] {
        set.extend(capability.map(str::to_owned));
    }
    // What a careless caller has open.
    let _careless = std::fs::File::open("/etc").unwrap();
    let own = std::env::current_exe().unwrap();
    world.spec.mounts.push(bind(&own, "/spy", &["ro"]));
    world.process().args = strings(&["/spy", roles::SPY]);
    let cgroup = world.cgroup();
    let (launched, out, _err) = world.start(Some(&cgroup)).unwrap();
    let target =
        havre_runtime::ExecTarget::new(launched.pid, launched.pidfd.as_fd(), &world.spec, Some(&cgroup));
    let mut process = world.spec.process.clone().unwrap();
    process.args = strings(&["true"]);
    race(|_| {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        let stdio = Streams::Pipes { stdin: null(), stdout: null(), stderr: null() };
        let launched = exec(&target, &process, stdio).unwrap();
        havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
        true
    });
    std::fs::write(world.root().join("stop"), "").unwrap();
    let text = read(out);
    havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
    cgroup.remove().unwrap();
    let mut lines = text.lines();
    let denied = lines.next().and_then(|line| line.strip_prefix("denied ")).unwrap().parse().unwrap();
    (denied, lines.map(str::to_owned).collect())
}

fn r09() {
    let (denied, seen) = spied(None);
    assert!(denied > 0, "the spy was never in time: {seen:?}");
    for line in &seen {
        assert!(["exe /bin/busybox", "fd /dev/null"].contains(&line.as_str()), "{seen:?}");
    }
}

/// The kernel lets that capability look; so there must be nothing to be had: no folder but the container's root,
/// no procfs, no file of the caller's.
fn r09_traced() {
    let (_, seen) = spied(Some("CAP_SYS_PTRACE"));
    let ours = format!("exe {}", std::env::current_exe().unwrap().display());
    assert!(seen.contains(&ours), "the spy was never in time: {seen:?}");
    for line in seen.iter().filter(|line| **line != ours) {
        let harmless = [
            "exe /bin/busybox",
            "fd /",
            "fd /dev/null",
            "fd /etc/passwd",
            "fd /etc/group",
            "fd pipe",
            "fd socket",
        ];
        assert!(harmless.contains(&line.as_str()), "{line}: {seen:?}");
    }
}
