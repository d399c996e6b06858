//! The runtime specification, field by field, through the command line.
//!
//! `HAVRE_CONFORMANCE_RUNTIME=runc` runs the same table against another runtime, which shows what is the
//! specification's and what is ours.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use havre_oci::runtime::{
    Device, DeviceKind, Hook, Hooks, IdMapping, IoPriority, IoPriorityClass, LinuxCpu, LinuxMemory,
    LinuxPids, LinuxResources, LinuxSeccomp, Namespace, NamespaceKind, Personality, PersonalityDomain,
    Rlimit, Scheduler, SchedulerPolicy, SeccompAction, SeccompArch, SeccompRule, TimeOffset, VERSION,
};

use super::Test;
use super::world::{World, bind, mount, strings};

pub(crate) const TESTS: &[Test] = &[
    ("conformance_of_the_config", config),
    ("conformance_of_the_life_cycle", life),
    ("conformance_of_hooks", hooks),
    ("conformance_of_terminals", terminals),
    ("conformance_of_exec", exec),
    ("conformance_of_refusals", refusals),
];

fn is_ours() -> bool {
    std::env::var_os("HAVRE_CONFORMANCE_RUNTIME").is_none()
}

fn runtime(world: &World) -> Command {
    let mut command = match std::env::var_os("HAVRE_CONFORMANCE_RUNTIME") {
        Some(other) => Command::new(other),
        None => {
            let mut own = Command::new("/proc/self/exe");
            own.arg(super::OCI_ROLE);
            own
        }
    };
    command.arg("--root").arg(world.folder.path().join("state")).stdin(Stdio::null());
    command
}

fn write(world: &World) {
    let mut spec = world.spec.clone();
    // Debian's runc knows the specification up to 1.0.2.
    spec.oci_version = if is_ours() { VERSION.into() } else { "1.0.2".into() };
    std::fs::write(world.folder.path().join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
}

fn call(world: &World, arguments: &[&str]) -> Output {
    runtime(world).args(arguments).output().unwrap()
}

fn ok(world: &World, arguments: &[&str]) -> String {
    let output = call(world, arguments);
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{arguments:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A call that leaves a process behind must not leave it our pipes.
fn quiet(world: &World, arguments: &[&str]) -> bool {
    let null = || Stdio::null();
    runtime(world).args(arguments).stdout(null()).stderr(null()).status().unwrap().success()
}

fn bundle(world: &World) -> String {
    world.folder.path().to_str().unwrap().to_owned()
}

fn status(world: &World) -> String {
    let state: serde_json::Value = serde_json::from_str(&ok(world, &["state", &world.name()])).unwrap();
    state["status"].as_str().unwrap().to_owned()
}

fn run(world: &mut World, script: &str) -> Output {
    world.process().args = strings(&["/bin/sh", "-c", script]);
    write(world);
    call(world, &["run", "--bundle", &bundle(world), &world.name()])
}

type Change = fn(&mut World);

/// What is changed in Docker's spec, what is asked inside, and the answer. The last says whether Debian's runc
/// (1.1) is too old for it.
const TABLE: &[(&str, Change, &str, &str, bool)] = &[
    ("process.args", |_| {}, "echo $0", "/bin/sh", false),
    ("process.cwd", |w| w.process().cwd = "/tmp".into(), "pwd", "/tmp", false),
    ("process.env", |w| w.process().env.push("A=b c".into()), "echo $A", "b c", false),
    ("process.user.uid", |w| w.process().user.uid = 12, "id -u", "12", false),
    ("process.user.gid", |w| w.process().user.gid = 13, "id -g", "13", false),
    (
        "process.user.additionalGids",
        |w| w.process().user.additional_gids = vec![5, 6],
        "id -G",
        "0 5 6",
        false,
    ),
    ("process.user.umask", |w| w.process().user.umask = Some(0o077), "umask", "0077", false),
    (
        "process.noNewPrivileges",
        |w| w.process().no_new_privileges = true,
        "grep NoNewPrivs /proc/self/status",
        "NoNewPrivs:\t1",
        false,
    ),
    (
        "process.oomScoreAdj",
        |w| w.process().oom_score_adj = Some(100),
        "cat /proc/self/oom_score_adj",
        "100",
        false,
    ),
    (
        "process.rlimits",
        |w| w.process().rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 50, hard: 60 }],
        "ulimit -n; ulimit -Hn",
        "50\n60",
        false,
    ),
    (
        "process.capabilities.bounding",
        |w| w.process().capabilities.as_mut().unwrap().bounding = strings(&["CAP_KILL"]),
        "grep CapBnd /proc/self/status",
        "CapBnd:\t0000000000000020",
        false,
    ),
    (
        "process.capabilities",
        |w| w.process().capabilities = None,
        "grep CapEff /proc/self/status",
        "CapEff:\t0000000000000000",
        false,
    ),
    (
        "process.scheduler",
        |w| {
            w.process().scheduler = Some(Scheduler { policy: SchedulerPolicy::Batch, ..Scheduler::default() })
        },
        "cut -d' ' -f41 /proc/self/stat",
        "3",
        true,
    ),
    (
        "process.scheduler.nice",
        |w| w.process().scheduler = Some(Scheduler { nice: 7, ..Scheduler::default() }),
        "cut -d' ' -f19 /proc/self/stat",
        "7",
        true,
    ),
    (
        "process.ioPriority",
        |w| w.process().io_priority = Some(IoPriority { class: IoPriorityClass::Idle, priority: 0 }),
        "echo ok",
        "ok",
        true,
    ),
    (
        "root.readonly",
        |w| w.spec.root.as_mut().unwrap().readonly = true,
        "touch /x 2>/dev/null || echo ro",
        "ro",
        false,
    ),
    ("hostname", |w| w.spec.hostname = Some("other".into()), "hostname", "other", false),
    (
        "domainname",
        |w| w.spec.domainname = Some("dom".into()),
        "cat /proc/sys/kernel/domainname",
        "dom",
        true,
    ),
    (
        "mounts tmpfs",
        |w| w.spec.mounts.push(mount("/m", "tmpfs", "tmpfs", &["size=64k", "mode=700"])),
        "stat -c %a /m; awk '$5 == \"/m\"' /proc/self/mountinfo | grep -c size=64k",
        "700\n1",
        false,
    ),
    (
        "mounts bind ro",
        |w| w.spec.mounts.push(bind(Path::new("/etc"), "/m", &["ro"])),
        "test -e /m/passwd && (touch /m/x 2>/dev/null || echo ro)",
        "ro",
        false,
    ),
    (
        "mounts bind noexec",
        |w| w.spec.mounts.push(bind(Path::new("/bin"), "/m", &["noexec"])),
        "/m/busybox true 2>/dev/null || echo no",
        "no",
        false,
    ),
    (
        "mounts bind nosuid nodev",
        |w| w.spec.mounts.push(bind(Path::new("/etc"), "/m", &["nosuid", "nodev"])),
        "awk '$5 == \"/m\" {print $6}' /proc/self/mountinfo",
        "rw,nosuid,nodev,relatime",
        false,
    ),
    (
        "mounts bind propagation",
        |w| w.spec.mounts.push(bind(Path::new("/etc"), "/m", &["rshared"])),
        "awk '$5 == \"/m\" {print $7}' /proc/self/mountinfo | cut -d: -f1",
        "shared",
        false,
    ),
    (
        "mounts file",
        |w| w.spec.mounts.push(bind(Path::new("/etc/hostname"), "/deep/er/file", &[])),
        "test -f /deep/er/file && echo file",
        "file",
        false,
    ),
    (
        "mounts proc",
        |_| {},
        "awk '$5 == \"/proc\" {print $6}' /proc/self/mountinfo",
        "rw,nosuid,nodev,noexec,relatime",
        false,
    ),
    (
        "mounts mqueue",
        |_| {},
        "awk '$5 == \"/dev/mqueue\"' /proc/self/mountinfo | grep -c mqueue",
        "1",
        false,
    ),
    ("linux.namespaces pid", |_| {}, "echo $$", "1", false),
    ("linux.namespaces network", |_| {}, "grep -c : /proc/net/dev", "1", false),
    (
        "linux.namespaces without network",
        |w| w.linux().namespaces.retain(|n| n.kind != NamespaceKind::Network),
        "test $(readlink /proc/self/ns/net) && echo joined",
        "joined",
        false,
    ),
    ("linux.namespaces cgroup", |_| {}, "cut -d: -f3 /proc/self/cgroup | sort -u | head -n 1", "/", false),
    (
        "linux.namespaces time",
        |w| {
            w.linux().namespaces.push(Namespace::new(NamespaceKind::Time));
            w.linux().time_offsets =
                [("boottime".into(), TimeOffset { secs: 5_000_000, nanosecs: 0 })].into();
        },
        "test $(cut -d. -f1 /proc/uptime) -gt 5000000 && echo later",
        "later",
        true,
    ),
    (
        "linux.uidMappings",
        |w| {
            w.linux().namespaces.push(Namespace::new(NamespaceKind::User));
            let map = vec![IdMapping { container_id: 0, host_id: 100_000, size: 1000 }];
            (w.linux().uid_mappings, w.linux().gid_mappings) = (map.clone(), map);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(w.folder.path(), mode).unwrap();
            for name in ["", "dev", "dev/null", "sys", "proc"] {
                let _absent = std::os::unix::fs::chown(w.root().join(name), Some(100_000), Some(100_000));
            }
        },
        "id -u; awk '{print $2}' /proc/self/uid_map",
        "0\n100000",
        false,
    ),
    (
        "linux.devices",
        |w| {
            w.linux().devices = vec![Device {
                kind: DeviceKind::Char,
                path: "/dev/loop".into(),
                major: 10,
                minor: 237,
                file_mode: Some(0o640),
                uid: Some(3),
                gid: Some(4),
            }];
        },
        "stat -c '%a %u %g %t:%T' /dev/loop",
        "640 3 4 a:ed",
        false,
    ),
    (
        "linux.devices default",
        |_| {},
        "for d in null zero full random urandom tty; do test -c /dev/$d || echo $d; done; test -e /dev/ptmx && echo ok",
        "ok",
        false,
    ),
    (
        "default links",
        |_| {},
        "readlink /dev/fd; readlink /dev/stdin; readlink /dev/stdout; readlink /dev/stderr",
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2",
        false,
    ),
    (
        "linux.sysctl",
        |w| w.linux().sysctl = [("net.ipv4.ip_unprivileged_port_start".into(), "77".into())].into(),
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        "77",
        false,
    ),
    ("linux.maskedPaths", |_| {}, "head -c 1 /proc/keys | wc -c; ls /sys/firmware | wc -l", "0\n0", false),
    (
        "linux.readonlyPaths",
        |_| {},
        "echo 1 2>/dev/null > /proc/sys/kernel/randomize_va_space || echo ro",
        "ro",
        false,
    ),
    (
        "linux.seccomp",
        |w| {
            w.linux().seccomp = Some(LinuxSeccomp {
                default_action: SeccompAction::Allow,
                architectures: vec![SeccompArch::X86_64, SeccompArch::Aarch64],
                syscalls: vec![SeccompRule {
                    names: strings(&["mkdir", "mkdirat"]),
                    action: SeccompAction::Errno,
                    errno_ret: Some(28),
                    args: vec![],
                }],
                ..LinuxSeccomp::default()
            });
        },
        "mkdir /tmp/x 2>&1 | grep -c 'No space'",
        "1",
        false,
    ),
    (
        "linux.personality",
        |w| w.linux().personality = Some(Personality { domain: PersonalityDomain::Linux32, flags: vec![] }),
        "cat /proc/self/personality",
        "00000008",
        true,
    ),
    (
        "linux.rootfsPropagation",
        |w| w.linux().rootfs_propagation = Some("shared".into()),
        "awk '$5 == \"/\" {print $7}' /proc/self/mountinfo | cut -d: -f1",
        "shared",
        false,
    ),
    (
        "linux.resources.memory",
        |w| {
            w.linux().resources = Some(LinuxResources {
                memory: Some(LinuxMemory { limit: Some(64 << 20), ..LinuxMemory::default() }),
                ..LinuxResources::default()
            })
        },
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max",
        "67108864",
        false,
    ),
    (
        "linux.resources.cpu",
        |w| {
            w.linux().resources = Some(LinuxResources {
                cpu: Some(LinuxCpu { quota: Some(30_000), period: Some(100_000), ..LinuxCpu::default() }),
                ..LinuxResources::default()
            })
        },
        "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max",
        "30000",
        false,
    ),
    (
        "linux.resources.pids",
        |w| {
            w.linux().resources =
                Some(LinuxResources { pids: Some(LinuxPids { limit: 33 }), ..LinuxResources::default() })
        },
        "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max",
        "33",
        false,
    ),
    (
        "linux.cgroupsPath",
        |w| {
            let path = format!("/havre-test/path-{}", std::process::id());
            w.linux().cgroups_path = Some(path);
            w.linux().namespaces.retain(|n| n.kind != NamespaceKind::Cgroup);
        },
        "grep -c havre-test/path /proc/self/cgroup | grep -v '^0' >/dev/null && echo there",
        "there",
        false,
    ),
    ("annotations", |w| w.spec.annotations = [("a".into(), "b".into())].into(), "echo ok", "ok", false),
];

fn config() {
    let mut wrong = Vec::new();
    for (field, change, script, expected, newer) in TABLE {
        if *newer && !is_ours() {
            continue;
        }
        let mut world = World::new();
        change(&mut world);
        let output = run(&mut world, script);
        let text = String::from_utf8_lossy(&output.stdout);
        if text.trim() != *expected || !output.status.success() {
            wrong.push(format!(
                "{field}: {text:?}, not {expected:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    println!("{} of {} fields as specified", TABLE.len() - wrong.len(), TABLE.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut world = World::new();
    assert_eq!(run(&mut world, "exit 42").status.code(), Some(42));
}

fn life() {
    let mut world = World::new();
    world.process().args = strings(&["sleep", "1000"]);
    write(&world);
    let (name, bundle) = (world.name(), bundle(&world));
    let pid_file = world.folder.path().join("pid");
    let create = ["create", "--bundle", &bundle, "--pid-file", pid_file.to_str().unwrap(), &name];
    assert!(quiet(&world, &create));
    let state: serde_json::Value = serde_json::from_str(&ok(&world, &["state", &name])).unwrap();
    assert_eq!((state["status"].as_str(), state["id"].as_str()), (Some("created"), Some(name.as_str())));
    assert_eq!(state["bundle"].as_str(), Some(bundle.as_str()));
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), state["pid"].to_string());
    assert!(!quiet(&world, &create), "an id is used once");
    assert!(quiet(&world, &["start", &name]));
    assert_eq!(status(&world), "running");
    assert!(!quiet(&world, &["start", &name]), "a container starts once");
    assert!(!quiet(&world, &["delete", &name]), "a running container stays");
    assert!(ok(&world, &["list", "--quiet"]).contains(&name));
    assert!(ok(&world, &["ps", "--format", "json", &name]).contains(&state["pid"].to_string()));
    ok(&world, &["pause", &name]);
    assert_eq!(status(&world), "paused");
    ok(&world, &["resume", &name]);
    ok(&world, &["kill", &name, "KILL"]);
    while status(&world) != "stopped" {
        std::thread::yield_now();
    }
    assert!(!quiet(&world, &["kill", &name, "KILL"]), "a stopped container takes no signal");
    ok(&world, &["delete", &name]);
    assert!(!quiet(&world, &["state", &name]));
    assert!(!quiet(&world, &["delete", &name]));
    ok(&world, &["delete", "--force", &name]);

    // Deleted by force from any state.
    assert!(quiet(&world, &create));
    ok(&world, &["delete", "--force", &name]);
    assert!(quiet(&world, &create) && quiet(&world, &["start", &name]));
    ok(&world, &["delete", "--force", &name]);
}

fn hooks() {
    let mut world = World::new();
    let log = world.folder.path().join("log");
    let hook = |name: &str| Hook {
        path: "/bin/sh".into(),
        args: vec!["sh".into(), "-c".into(), format!("cat >/dev/null; echo {name} >> {}", log.display())],
        env: strings(&["PATH=/usr/bin:/bin"]),
        timeout: Some(10),
    };
    world.process().args = strings(&["true"]);
    world.spec.hooks = Some(Hooks {
        prestart: vec![hook("prestart")],
        create_runtime: vec![hook("createRuntime")],
        create_container: vec![hook("createContainer")],
        start_container: vec![],
        poststart: vec![hook("poststart")],
        poststop: vec![hook("poststop")],
    });
    write(&world);
    let (name, bundle) = (world.name(), bundle(&world));
    assert!(quiet(&world, &["create", "--bundle", &bundle, &name]));
    let text = || std::fs::read_to_string(&log).unwrap();
    assert_eq!(text(), "prestart\ncreateRuntime\ncreateContainer\n");
    assert!(quiet(&world, &["start", &name]));
    assert_eq!(text().lines().last(), Some("poststart"));
    ok(&world, &["delete", "--force", &name]);
    assert_eq!(text().lines().last(), Some("poststop"));

    // One that fails while creating leaves nothing.
    let fails = Hook { path: "/bin/false".into(), ..Hook::default() };
    world.spec.hooks = Some(Hooks { create_runtime: vec![fails], ..Hooks::default() });
    write(&world);
    assert!(!quiet(&world, &["create", "--bundle", &bundle, &name]));
    assert!(!quiet(&world, &["state", &name]));
}

fn terminals() {
    let mut world = World::new();
    world.process().terminal = true;
    world.process().console_size = Some(havre_oci::runtime::ConsoleSize { height: 12, width: 34 });
    world.process().args = strings(&["sh", "-c", "tty; stty size; sleep 0.1"]);
    write(&world);
    let path = world.folder.path().join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (name, bundle) = (world.name(), bundle(&world));
    assert!(quiet(
        &world,
        &["create", "--bundle", &bundle, "--console-socket", path.to_str().unwrap(), &name]
    ));
    let (stream, _) = listener.accept().unwrap();
    let (_, mut fds) = havre_sys::seqpacket::recv(&stream).unwrap().unwrap();
    let terminal = fds.pop().unwrap();
    assert!(quiet(&world, &["start", &name]));
    let mut text = String::new();
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = rustix::io::read(&terminal, &mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert_eq!(text.replace('\r', ""), "/dev/pts/0\n12 34\n");
    ok(&world, &["delete", "--force", &name]);
}

fn exec() {
    let mut world = World::new();
    world.process().args = strings(&["sleep", "1000"]);
    write(&world);
    let (name, bundle) = (world.name(), bundle(&world));
    assert!(quiet(&world, &["create", "--bundle", &bundle, &name]) && quiet(&world, &["start", &name]));
    assert_eq!(
        ok(&world, &["exec", "--cwd", "/tmp", "--env", "A=b", &name, "sh", "-c", "hostname; pwd; echo $A"]),
        "box\n/tmp\nb"
    );
    assert_eq!(ok(&world, &["exec", "--user", "7:8", &name, "id", "-u"]), "7");
    assert_eq!(call(&world, &["exec", &name, "sh", "-c", "exit 9"]).status.code(), Some(9));
    let process = havre_oci::runtime::Process {
        args: strings(&["pwd"]),
        cwd: "/etc".into(),
        env: strings(&["PATH=/bin"]),
        ..Default::default()
    };
    let file = world.folder.path().join("process.json");
    std::fs::write(&file, serde_json::to_vec(&process).unwrap()).unwrap();
    assert_eq!(ok(&world, &["exec", "--process", file.to_str().unwrap(), &name]), "/etc");
    ok(&world, &["delete", "--force", &name]);
}

/// Whatever is asked wrongly leaves nothing behind.
fn refusals() {
    let table: &[(&str, Change)] = &[
        ("no process", |w| w.spec.process = None),
        ("no program", |w| w.process().args.clear()),
        ("unknown program", |w| w.process().args = strings(&["/nothere"])),
        ("relative cwd", |w| w.process().cwd = "x".into()),
        ("no root", |w| w.spec.root = None),
        ("root that is not there", |w| w.spec.root.as_mut().unwrap().path = "nothere".into()),
        ("unknown rlimit", |w| {
            w.process().rlimits = vec![Rlimit { kind: "RLIMIT_X".into(), soft: 1, hard: 1 }]
        }),
        ("source that is not there", |w| w.spec.mounts.push(bind(Path::new("/nothere"), "/m", &[]))),
        ("namespace that is not there", |w| w.linux().namespaces[1].path = Some("/nothere".into())),
        ("the same namespace twice", |w| w.linux().namespaces.push(Namespace::new(NamespaceKind::Uts))),
        ("sysctl of the host", |w| w.linux().sysctl = [("vm.swappiness".into(), "1".into())].into()),
        ("file system that is not there", |w| w.spec.mounts.push(mount("/m", "nofs", "nofs", &[]))),
        ("limit that cannot be", |w| {
            w.linux().resources = Some(LinuxResources {
                cpu: Some(LinuxCpu { cpus: Some("9999".into()), ..LinuxCpu::default() }),
                ..LinuxResources::default()
            })
        }),
    ];
    for (what, change) in table {
        let mut world = World::new();
        world.process().args = strings(&["true"]);
        change(&mut world);
        write(&world);
        let (name, bundle) = (world.name(), bundle(&world));
        assert!(!quiet(&world, &["create", "--bundle", &bundle, &name]), "{what}");
        assert!(!quiet(&world, &["state", &name]), "{what}");
    }
}
