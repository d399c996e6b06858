//! What a spec asks for is what the program finds.

use std::os::fd::AsFd;

use havre_oci::runtime::{
    IdMapping, Namespace, NamespaceKind, Personality, PersonalityDomain, Rlimit, TimeOffset,
};
use havre_runtime::{InitBinary, Launch, RootFs, Stdio, launch};
use havre_sys::process::Exit;

use super::Test;
use super::world::{World, bind, mount, read, strings};

pub(crate) const TESTS: &[Test] = &[
    ("a_program_runs_and_its_code_comes_back", code),
    ("the_basics_of_a_spec_are_enforced", basics),
    ("errors_of_the_child_are_dockers", errors),
    ("mounts_have_their_options", mounts),
    ("a_terminal_is_the_containers_own", terminal),
    ("an_overlay_root_is_mounted_only_inside", overlay),
    ("a_user_namespace_maps_ids", users),
    ("an_overlay_in_a_user_namespace_shows_root_as_root", users_overlay),
    ("namespaces_are_joined_by_path", joined),
    ("a_time_namespace_has_its_offsets", time),
    ("init_reaps_and_forwards", init),
    ("the_gate_holds_the_program", gate),
    ("hooks_run_in_their_places", hooks),
    ("unenforced_fields_are_refused", unenforced),
    ("cgroups_are_visible_inside", cgroup_view),
];

fn code() {
    let mut world = World::new();
    let outcome = world.run(&["sh", "-c", "echo out; echo err >&2; exit 7"]).unwrap();
    assert_eq!(
        (outcome.exit, outcome.stdout.as_str(), outcome.stderr.as_str()),
        (Exit::Code(7), "out\n", "err\n")
    );
    assert!(!outcome.timings.is_empty());
}

fn basics() {
    let mut world = World::new();
    world.spec.domainname = Some("example".into());
    world.linux().sysctl =
        [("net.ipv4.ip_forward".into(), "1".into()), ("kernel.shmmax".into(), "4096".into())].into();
    world.process().rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 64, hard: 128 }];
    world.process().oom_score_adj = Some(77);
    world.process().cwd = "/new/deep".into();
    world.process().user.umask = Some(0o027);
    let out = world.sh(
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax; \
         ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; pwd; echo $$; umask; echo $HOME; ls /proc/self/fd | wc -l; \
         grep -c . /proc/net/dev; readlink /dev/fd; readlink /dev/ptmx; stat -c %t:%T /dev/null",
    );
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        [
            "box",
            "example",
            "1",
            "4096",
            "64",
            "128",
            "77",
            "/new/deep",
            "1",
            "0027",
            "/root",
            "4",
            "3",
            "/proc/self/fd",
            "pts/ptmx",
            "1:3"
        ]
    );
    world.linux().personality = Some(Personality { domain: PersonalityDomain::Linux32, flags: vec![] });
    assert_eq!(world.sh("cat /proc/self/personality"), "00000008");
    world.spec.root.as_mut().unwrap().readonly = true;
    world.process().cwd = "/".into();
    assert_eq!(world.sh("touch /x 2>/dev/null || echo ro; touch /dev/x && echo rw"), "ro\nrw");
}

fn errors() {
    let mut world = World::new();
    std::fs::write(world.root().join("script"), "#!/nowhere\n").unwrap();
    std::fs::write(world.root().join("garbage"), "\x7fELFxx").unwrap();
    for name in ["script", "garbage"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(world.root().join(name), mode).unwrap();
    }
    for (args, text, status) in [
        (["foo"], r#"exec: "foo": executable file not found in $PATH"#, 127),
        (["/foo"], r#"exec: "/foo": stat /foo: no such file or directory"#, 127),
        (["/etc"], r#"exec: "/etc": is a directory"#, 126),
        (["/etc/passwd"], r#"exec: "/etc/passwd": permission denied"#, 126),
        (["/script"], "exec /script: no such file or directory", 127),
        (["/garbage"], "exec /garbage: exec format error", 126),
    ] {
        let error = world.run(&args).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit_code()), (text, status));
    }
    for (user, text) in [
        ("foo", "unable to find user foo: no matching entries in passwd file"),
        ("bob:bar", "unable to find group bar: no matching entries in group file"),
    ] {
        world.user = Some(user.into());
        assert_eq!(world.refused(&["true"]), text);
    }
    world.user = Some("bob".into());
    assert_eq!(world.sh("id -u; id -g; id -G; echo $HOME"), "1000\n1001\n1001 10 29\n/home/bob");
    world.groups = strings(&["29", "50"]);
    world.user = Some("4000".into());
    assert_eq!(world.sh("id -u; id -g; id -G; echo $HOME"), "4000\n0\n0 29 50\n/");
}

fn mounts() {
    let mut world = World::new();
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("file"), "content").unwrap();
    world.spec.mounts.push(bind(shared.path(), "/data", &["ro", "nosuid", "nodev", "rprivate"]));
    world.spec.mounts.push(bind(shared.path(), "/rw/deep", &[]));
    world.spec.mounts.push(bind(&shared.path().join("file"), "/etc/one", &["rro"]));
    world.spec.mounts.push(mount("/scratch", "tmpfs", "tmpfs", &["size=64k", "mode=1770", "noexec"]));
    let out = world.sh(
        "cat /data/file /etc/one; echo; touch /data/x 2>/dev/null || echo ro; touch /rw/deep/y && echo rw; \
         echo z > /etc/one 2>/dev/null || echo ro; stat -c %a /scratch; dd if=/dev/zero of=/scratch/f bs=1k count=100 2>/dev/null || echo full; \
         awk '$5 ~ \"^/(data|scratch)$\" {print $5, $6}' /proc/self/mountinfo",
    );
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        [
            "contentcontent",
            "ro",
            "rw",
            "ro",
            "1770",
            "full",
            "/data ro,nosuid,nodev,relatime",
            "/scratch rw,noexec,relatime"
        ]
    );
    assert!(shared.path().join("y").exists());
    // Nothing of the host is left in the container's view.
    let mountinfo = world.sh("cat /proc/self/mountinfo");
    assert!(!mountinfo.contains(" /var") && mountinfo.lines().count() < 45, "{mountinfo}");
}

fn terminal() {
    let mut world = World::new();
    world.process().terminal = true;
    world.process().args =
        strings(&["sh", "-c", "tty; stty size; test -c /dev/console && echo console; id -u >/dev/tty"]);
    let launched = launch(Launch::new(
        "tty",
        &world.spec_without_cgroup(),
        RootFs::Path(world.root()),
        Stdio::Terminal { rows: 33, columns: 99 },
    ))
    .unwrap();
    havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
    let terminal = launched.terminal.unwrap();
    let (mut all, mut bytes) = (Vec::new(), vec![0; 4096]);
    // One read gives a part; the end of a terminal is an error.
    while let Ok(length @ 1..) = rustix::io::read(&terminal, &mut bytes) {
        all.extend_from_slice(&bytes[..length]);
    }
    let text = String::from_utf8_lossy(&all).replace('\r', "");
    assert_eq!(text, "/dev/pts/0\n33 99\nconsole\n0\n");
}

/// A folder's files in a file that can be mounted, where the kernel can do that.
fn image(root: &std::path::Path, folder: &std::path::Path) -> Option<std::path::PathBuf> {
    let path = folder.join("layer.erofs");
    let made = std::process::Command::new("mkfs.erofs").args(["-x1", "--quiet"]).args([&path, root]).output();
    let Ok(made) = made else {
        println!("SKIP layers in files: mkfs.erofs is not there (apt-get install erofs-utils)");
        return None;
    };
    assert!(made.status.success(), "{made:?}");
    match havre_sys::erofs::mount_if_file(&path) {
        Ok(_) => Some(path),
        Err(error) => {
            println!("SKIP layers in files: {error}");
            None
        }
    }
}

fn overlay() {
    overlay_on(false);
    overlay_on(true);
}

fn overlay_on(file: bool) {
    let mut world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let [upper, work, target, top] = ["fs", "work", "target", "top"].map(|name| folder.path().join(name));
    for path in [&upper, &work, &target, &top] {
        std::fs::create_dir(path).unwrap();
    }
    std::fs::write(top.join("top"), "top").unwrap();
    world.process().args = strings(&["sh", "-c", "cat /top; echo new > /written; stat -c %u /bin"]);
    let below = if file { image(&world.root(), folder.path()) } else { Some(world.root()) };
    let Some(below) = below else { return };
    let lowers = [top, below];
    let (out, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    let root = RootFs::Overlay {
        lowers: &lowers,
        upper: upper.clone(),
        work,
        volatile: true,
        target: target.clone(),
    };
    let spec = world.spec_without_cgroup();
    let launched =
        launch(Launch::new("overlay", &spec, root, Stdio::Pipes { stdin: null(), stdout, stderr: null() }))
            .unwrap();
    assert_eq!(read(out), "top0\n");
    assert_eq!(havre_sys::process::wait(launched.pidfd.as_fd()).unwrap(), Exit::Code(0));
    assert_eq!(std::fs::read_to_string(upper.join("written")).unwrap(), "new\n");
    assert_eq!(std::fs::read_dir(target).unwrap().count(), 0);
}

fn maps() -> Vec<IdMapping> {
    vec![IdMapping { container_id: 0, host_id: 200_000, size: 65_536 }]
}

fn users() {
    let mut world = World::new();
    world.linux().uid_mappings = maps();
    world.linux().gid_mappings = maps();
    world.linux().namespaces.push(Namespace::new(NamespaceKind::User));
    // The folders above and the root itself have to let other users in.
    let mode = || std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.folder.path(), mode()).unwrap();
    for path in ["", "tmp"] {
        std::os::unix::fs::chown(world.root().join(path), Some(200_000), Some(200_000)).unwrap();
    }
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("file"), "x").unwrap();
    std::fs::set_permissions(shared.path(), mode()).unwrap();
    let mut idmapped = bind(shared.path(), "/mapped", &[]);
    idmapped.uid_mappings = maps();
    idmapped.gid_mappings = maps();
    world.spec.mounts.push(idmapped);
    world.spec.mounts.push(bind(shared.path(), "/plain", &["ro"]));
    world.process().oom_score_adj = Some(5);
    let out = world.sh(
        "id -u; cat /proc/self/uid_map | awk '{print $1,$2,$3}'; stat -c %u /mapped/file /plain/file; touch /tmp/made; \
         echo x > /dev/null && head -c 1 /dev/zero | wc -c; cat /proc/self/oom_score_adj; hostname; touch /mapped/new && echo made",
    );
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        ["0", "0 200000 65536", "0", "65534", "1", "5", "box", "made"]
    );
    let owner = |path| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap());
    assert_eq!(owner(world.root().join("tmp/made")), 200_000);
    assert_eq!(owner(shared.path().join("new")), 0);
}

fn users_overlay() {
    users_overlay_on(false);
    users_overlay_on(true);
}

fn users_overlay_on(file: bool) {
    let mut world = World::new();
    world.linux().uid_mappings = maps();
    world.linux().gid_mappings = maps();
    world.linux().namespaces.push(Namespace::new(NamespaceKind::User));
    let folder = tempfile::tempdir().unwrap();
    let [upper, work, target] = ["fs", "work", "target"].map(|name| folder.path().join(name));
    for path in [&upper, &work, &target] {
        std::fs::create_dir(path).unwrap();
    }
    world.process().args = strings(&["sh", "-c", "stat -c %u /bin/busybox; touch /made; stat -c %u /made"]);
    let below = if file { image(&world.root(), folder.path()) } else { Some(world.root()) };
    let Some(below) = below else { return };
    let lowers = [below];
    let (out, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    let root = RootFs::Overlay { lowers: &lowers, upper: upper.clone(), work, volatile: false, target };
    let spec = world.spec_without_cgroup();
    let launched =
        launch(Launch::new("users", &spec, root, Stdio::Pipes { stdin: null(), stdout, stderr: null() }))
            .unwrap();
    assert_eq!(read(out), "0\n0\n");
    assert_eq!(havre_sys::process::wait(launched.pidfd.as_fd()).unwrap(), Exit::Code(0));
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(upper.join("made")).unwrap()), 200_000);
}

fn joined() {
    let mut first = World::new();
    first.process().args = strings(&["sleep", "100"]);
    first.spec.hostname = Some("first".into());
    let cgroup = first.cgroup();
    let (running, ..) = first.start(Some(&cgroup)).unwrap();
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", running.pid.as_raw_nonzero());
    let mut second = World::new();
    second.spec.hostname = None;
    second.linux().namespaces = vec![
        Namespace::new(NamespaceKind::Mount),
        Namespace::join(NamespaceKind::Pid, path("pid")),
        Namespace::join(NamespaceKind::Uts, path("uts")),
        Namespace::join(NamespaceKind::Ipc, path("ipc")),
        Namespace::join(NamespaceKind::Network, path("net")),
    ];
    let out = second.sh("hostname; head -c 5 /proc/1/cmdline; echo; test $$ != 1 && echo other");
    assert_eq!(out, "first\nsleep\nother");
    second.linux().namespaces[1].path = Some("/etc/passwd".into());
    assert!(second.refused(&["true"]).contains("is not a namespace"));
    cgroup.kill().unwrap();
    havre_sys::process::wait(running.pidfd.as_fd()).unwrap();
    cgroup.remove().unwrap();
}

fn time() {
    let mut world = World::new();
    world.linux().namespaces.push(Namespace::new(NamespaceKind::Time));
    world.sh("true");
    world.linux().time_offsets = [("boottime".into(), TimeOffset { secs: 10_000_000, nanosecs: 0 })].into();
    let uptime: u64 = world.sh("cut -d. -f1 /proc/uptime").parse().unwrap();
    assert!(uptime >= 10_000_000, "{uptime}");
}

fn init() {
    let mut world = World::new();
    let own = havre_sys::memfd::sealed_copy(std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
    let script = "echo $$; (setsid sleep 0.01 &) ; head -c 10 /proc/1/cmdline; echo; \
        (echo x > /proc/1/exe) 2>/dev/null || echo sealed; trap 'echo term; exit 3' TERM; kill -TERM 1; while true; do sleep 0.01; done";
    world.process().args = strings(&["sh", "-c", script]);
    let (out, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    let spec = world.spec_without_cgroup();
    let mut container = Launch::new(
        "init",
        &spec,
        RootFs::Path(world.root()),
        Stdio::Pipes { stdin: null(), stdout, stderr: null() },
    );
    container.init = Some(InitBinary(own));
    let launched = launch(container).unwrap();
    assert_eq!(read(out), "2\nhavre-init\nsealed\nterm\n");
    assert_eq!(havre_sys::process::wait(launched.pidfd.as_fd()).unwrap(), Exit::Code(3));
}

fn gate() {
    let mut world = World::new();
    world.process().args = strings(&["echo", "through"]);
    let (out, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (gate, key) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    let spec = world.spec_without_cgroup();
    let mut container = Launch::new(
        "gate",
        &spec,
        RootFs::Path(world.root()),
        Stdio::Pipes { stdin: null(), stdout, stderr: null() },
    );
    container.gate = Some(gate);
    let launched = launch(container).unwrap();
    assert_eq!(havre_sys::process::try_wait(launched.pidfd.as_fd()).unwrap(), None);
    rustix::io::write(&key, b"x").unwrap();
    assert_eq!(read(out), "through\n");
    assert_eq!(havre_sys::process::wait(launched.pidfd.as_fd()).unwrap(), Exit::Code(0));
}

fn hooks() {
    use havre_oci::runtime::{Hook, Hooks};
    let mut world = World::new();
    let log = world.folder.path().join("log");
    let hook = |name: &str| Hook {
        path: "/bin/sh".into(),
        args: vec![
            "sh".into(),
            "-c".into(),
            format!("echo $NAME $(cat | grep -c '\"id\"') >> {}", log.display()),
        ],
        env: vec![format!("NAME={name}"), "PATH=/bin:/usr/bin".into()],
        timeout: Some(5),
    };
    let inside =
        Hook { path: "/bin/touch".into(), args: strings(&["touch", "/tmp/started"]), ..Hook::default() };
    world.spec.hooks = Some(Hooks {
        prestart: vec![hook("prestart")],
        create_runtime: vec![hook("createRuntime")],
        create_container: vec![hook("createContainer")],
        start_container: vec![inside],
        poststart: vec![hook("poststart")],
        poststop: vec![],
    });
    world.process().args = strings(&["true"]);
    let spec = world.spec_without_cgroup();
    let bundle = world.folder.path().to_owned();
    let mut container = Launch::new("hooks", &spec, RootFs::Path(world.root()), Stdio::Inherit);
    container.bundle = Some(&bundle);
    let launched = launch(container).unwrap();
    havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text, "prestart 1\ncreateRuntime 1\ncreateContainer 1\npoststart 1\n");
    assert!(world.root().join("tmp/started").exists());

    let mut spec = spec;
    let slow = Hook {
        path: "/bin/sleep".into(),
        args: strings(&["sleep", "60"]),
        timeout: Some(1),
        ..Hook::default()
    };
    spec.hooks = Some(Hooks { create_runtime: vec![slow], ..Hooks::default() });
    let mut container = Launch::new("hooks", &spec, RootFs::Path(world.root()), Stdio::Inherit);
    container.bundle = Some(&bundle);
    let error = launch(container).unwrap_err().to_string();
    assert!(error.contains("timed out"), "{error}");
}

fn unenforced() {
    use havre_oci::runtime::{IntelRdt, MemoryPolicy, NetDevice};
    type Change = fn(&mut World);
    let table: [(&str, Change); 13] = [
        ("linux.netDevices", |w| w.linux().net_devices = [("eth0".into(), NetDevice::default())].into()),
        ("linux.intelRdt", |w| w.linux().intel_rdt = Some(IntelRdt::default())),
        ("linux.memoryPolicy", |w| w.linux().memory_policy = Some(MemoryPolicy::default())),
        ("process.apparmorProfile", |w| w.process().apparmor_profile = Some("docker-default".into())),
        ("process.selinuxLabel", |w| w.process().selinux_label = Some("system_u:system_r:x:s0".into())),
        ("process.commandLine", |w| w.process().command_line = Some("cmd".into())),
        ("process.user.username", |w| w.process().user.username = Some("bob".into())),
        ("linux.timeOffsets", |w| {
            w.linux().time_offsets = [("boottime".into(), TimeOffset::default())].into()
        }),
        ("linux.uidMappings", |w| w.linux().uid_mappings = maps()),
        ("sysctl kernel.core_pattern", |w| {
            w.linux().sysctl = [("kernel.core_pattern".into(), "|/x".into())].into()
        }),
        ("process.rlimits", |w| {
            w.process().rlimits = vec![Rlimit { kind: "RLIMIT_FLY".into(), soft: 1, hard: 1 }]
        }),
        ("linux.namespaces", |w| w.linux().namespaces.push(Namespace::new(NamespaceKind::Pid))),
        ("process.env", |w| w.process().env.push("NOVALUE".into())),
    ];
    for (field, change) in table {
        let mut world = World::new();
        if field.contains("apparmor") && std::fs::metadata("/sys/module/apparmor").is_ok() {
            println!("SKIP: the kernel has AppArmor, so {field} is enforced");
            continue;
        }
        change(&mut world);
        let error = world.refused(&["true"]);
        assert!(error.contains(field), "{field}: {error}");
    }
}

fn cgroup_view() {
    let mut world = World::new();
    let out = world.sh("cut -d: -f3 /proc/self/cgroup | sort -u; ls /sys/fs/cgroup | grep -c .; touch /sys/fs/cgroup/x 2>/dev/null || echo ro");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.contains(&"/") && lines.contains(&"ro"), "{out}");
}
