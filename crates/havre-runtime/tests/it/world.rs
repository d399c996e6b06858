//! A root file system of busybox, a spec like Docker's, and running it to its end.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use havre_oci::runtime::{
    Linux, LinuxResources, Mount, Namespace, NamespaceKind, Process, Root, Spec, VERSION,
};
use havre_runtime::capabilities::CapabilitySet;
use havre_runtime::cgroup::Cgroup;
use havre_runtime::{Launch, Launched, RootFs, RuntimeError, Stdio, launch};
use havre_sys::process::Exit;

pub(crate) const BUSYBOX: &str = "/bin/busybox";

const APPLETS: [&str; 40] = [
    "sh", "cat", "ls", "id", "echo", "mount", "umount", "mkdir", "touch", "sleep", "true", "false",
    "hostname", "stat", "readlink", "env", "pwd", "tty", "stty", "kill", "grep", "head", "dd", "mknod",
    "unshare", "wc", "test", "rm", "awk", "chmod", "ps", "ln", "nproc", "ulimit", "date", "cut", "sort",
    "find", "chroot", "setsid",
];

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) spec: Spec,
    pub(crate) user: Option<String>,
    pub(crate) groups: Vec<String>,
}

/// What a finished container leaves.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) timings: Vec<(&'static str, std::time::Duration)>,
}

pub(crate) fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: Some(kind.into()),
        source: Some(source.into()),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}

pub(crate) fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    let mut mount = mount(destination, "bind", source.to_str().unwrap(), options);
    mount.options.push("rbind".into());
    mount
}

pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The spec that Docker makes for a container without options.
pub(crate) fn docker_spec() -> Spec {
    let caps = CapabilitySet::docker_default();
    let kinds = [
        NamespaceKind::Mount,
        NamespaceKind::Pid,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Network,
        NamespaceKind::Cgroup,
    ];
    Spec {
        oci_version: VERSION.into(),
        hostname: Some("box".into()),
        process: Some(Process {
            cwd: "/".into(),
            env: strings(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]),
            capabilities: Some(caps.to_spec()),
            ..Process::default()
        }),
        root: Some(Root { path: "rootfs".into(), readonly: false }),
        mounts: vec![
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ],
        linux: Some(Linux {
            namespaces: kinds.map(Namespace::new).into(),
            masked_paths: strings(&[
                "/proc/asound",
                "/proc/acpi",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/sys/firmware",
                "/sys/devices/virtual/powercap",
            ]),
            readonly_paths: strings(&[
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ]),
            seccomp: Some(havre_runtime::seccomp::docker_default(&caps).unwrap()),
            resources: Some(LinuxResources::default()),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("rootfs");
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "home/bob"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        for name in APPLETS {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n1234:x:0:0::/:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nbob:x:1001:\nwheel:x:10:bob\naudio:x:29:bob\n")
            .unwrap();
        Self { folder, spec: docker_spec(), user: None, groups: Vec::new() }
    }

    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("rootfs")
    }

    pub(crate) fn linux(&mut self) -> &mut Linux {
        self.spec.linux.as_mut().unwrap()
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.spec.process.as_mut().unwrap()
    }

    /// The spec for a container that is in no group of its own.
    pub(crate) fn spec_without_cgroup(&self) -> Spec {
        let mut spec = self.spec.clone();
        spec.mounts.retain(|mount| mount.kind.as_deref() != Some("cgroup"));
        spec
    }

    pub(crate) fn name(&self) -> String {
        format!("it-{}-{}", std::process::id(), self.folder.path().file_name().unwrap().to_str().unwrap())
    }

    pub(crate) fn cgroup(&self) -> Cgroup {
        let resources =
            self.spec.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
        Cgroup::create(&format!("/havre-test/{}", self.name()), &resources).unwrap()
    }

    /// Starts it and gives what to read its output from.
    pub(crate) fn start(
        &self,
        cgroup: Option<&Cgroup>,
    ) -> Result<(Launched, OwnedFd, OwnedFd), RuntimeError> {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let ((out, stdout), (err, stderr)) = (pipe(), pipe());
        let stdin = std::fs::File::open("/dev/null").unwrap().into();
        let id = self.name();
        let mut container =
            Launch::new(&id, &self.spec, RootFs::Path(self.root()), Stdio::Pipes { stdin, stdout, stderr });
        container.cgroup = cgroup;
        container.user = self.user.as_deref();
        container.additional_groups = &self.groups;
        Ok((launch(container)?, out, err))
    }

    /// Runs a program to its end.
    pub(crate) fn run(&mut self, args: &[&str]) -> Result<Outcome, RuntimeError> {
        self.process().args = strings(args);
        let cgroup = self.cgroup();
        let result = self.start(Some(&cgroup)).map(|(launched, out, err)| {
            let (stdout, stderr) = (read(out), read(err));
            let exit = havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
            Outcome { exit, stdout, stderr, timings: launched.timings }
        });
        cgroup.remove().unwrap();
        result
    }

    /// Runs a shell script and gives its output; it must succeed.
    pub(crate) fn sh(&mut self, script: &str) -> String {
        let outcome = self.run(&["/bin/sh", "-c", script]).unwrap();
        assert_eq!(outcome.exit, Exit::Code(0), "{script}: {outcome:?}");
        outcome.stdout.trim().to_owned()
    }

    /// The error of a start that must fail.
    pub(crate) fn refused(&mut self, args: &[&str]) -> String {
        match self.run(args) {
            Ok(outcome) => panic!("it started: {outcome:?}"),
            Err(error) => havre_base::chain(&error),
        }
    }
}

pub(crate) fn read(fd: OwnedFd) -> String {
    let mut bytes = Vec::new();
    std::fs::File::from(fd).read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Parts our view of the mounts from the machine's, where others may be mounting at the same time.
pub(crate) fn enter_own_view() {
    havre_sys::process::unshare(havre_sys::process::Namespaces::MOUNT).unwrap();
    let root = std::fs::File::open("/").unwrap();
    let private = havre_sys::mount::MountAttr {
        propagation: Some(havre_sys::mount::Propagation::Private),
        ..Default::default()
    };
    havre_sys::mount::mount_setattr(&root, c"", true, private).unwrap();
}

/// What must be the same before and after a test: mounts, descriptors, children, our groups (another run of
/// these tests may have its own).
pub(crate) fn census() -> (usize, usize, usize, Vec<String>) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let children = std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id()))
        .map_or(0, |text| text.split_whitespace().count());
    let mut groups = Cgroup::children_under("/havre-test");
    groups.retain(|name| name.starts_with(&format!("it-{}-", std::process::id())));
    (mounts, fds, children, groups)
}
