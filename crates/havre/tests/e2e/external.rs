//! The same life under other OCI runtimes: the system's runc, and our own as a program of its own.

use std::process::Stdio;

use crate::Test;
use crate::terminal::Terminal;
use crate::world::{Client, OCI, World};

/// Everything that is tested.
pub(crate) const ALL: &[Test] = &[
    ("external runtimes are listed and unknown ones refused", listed),
    ("external: streams, exit codes and users", streams),
    ("external: commands that cannot start", cannot_start),
    ("external: exec", exec),
    ("external: terminals", terminals),
    ("external: stop, kill, pause and the shown runtime", life),
    ("external: a memory limit kills and is reported", memory),
    ("external: what it cannot do is refused", refused),
    ("external: podman runs containers with our runtime", podman),
    ("external: a killed daemon finds its containers again", daemon_killed),
];

/// Runs a part once for each runtime that the engine has.
fn each(client: &Client, part: impl Fn(&str)) {
    let known = client.run(&["info", "--format", "{{json .Runtimes}}"]).exits(0);
    for name in ["runc", OCI] {
        if known.contains(&format!("\"{name}\"")) {
            println!("    {name}");
            part(name);
        } else {
            println!("SKIP external {name}: the engine does not have it (apt-get install {name})");
        }
    }
}

fn run(client: &Client, runtime: &str, flags: &[&str], command: &[&str]) -> crate::world::Outcome {
    client.container(&[&["--runtime", runtime], flags].concat(), command)
}

fn detached(client: &Client, runtime: &str, flags: &[&str], command: &[&str]) -> String {
    let name = client.unique(&format!("ext-{runtime}"));
    client.run(&["rm", "-f", &name]);
    let start = ["run", "-d", "--label", "e2e", "--network", "none", "--runtime", runtime, "--name", &name];
    client.run(&[&start, flags, &["e2e/busybox"], command].concat()).exits(0);
    name
}

fn listed(_: &World, client: &Client) {
    assert_eq!(client.run(&["info", "--format", "{{.DefaultRuntime}}"]).exits(0), "havre");
    run(client, "no-such", &[], &["true"]).fails(125, "unknown or invalid runtime name: no-such");
    run(client, "io.containerd.runc.v2", &[], &["true"]).fails(125, "unknown or invalid runtime name");
    assert_eq!(run(client, "havre", &[], &["echo", "own"]).exits(0), "own");
}

fn streams(_: &World, client: &Client) {
    each(client, |runtime| {
        let script = "echo out; echo err >&2; exit 7";
        let outcome = run(client, runtime, &[], &["sh", "-c", script]);
        assert_eq!((outcome.out.as_str(), outcome.err.as_str(), outcome.code), ("out\n", "err\n", 7));
        let id = ["sh", "-c", "id -u -n; id -g -n; echo $HOME $$; hostname; cat /proc/1/cgroup | wc -l"];
        let said = run(client, runtime, &["-u", "bob", "-h", "box", "-w", "/tmp"], &id).exits(0);
        assert!(said.starts_with("bob\nbob\n/home/bob 1\nbox\n"), "{said}");
        let flags = ["run", "--rm", "-i", "--label", "e2e", "--network", "none", "--runtime", runtime];
        let command = [&flags[..], &["e2e/busybox", "wc", "-c"]].concat();
        let outcome = client.with_input(&command, &vec![b'x'; 3_000_000]);
        assert_eq!((outcome.code, outcome.out.trim()), (0, "3000000"));
        // The filter is in force, and the capabilities are Docker's.
        let status = run(client, runtime, &[], &["grep", "-E", "^(Seccomp|CapBnd):", "/proc/self/status"]);
        let status = status.exits(0);
        assert!(status.contains("Seccomp:\t2") && status.contains("00000000a80425fb"), "{status}");
        run(client, runtime, &["--read-only"], &["touch", "/x"]).fails(1, "Read-only file system");
    });
}

fn cannot_start(_: &World, client: &Client) {
    each(client, |runtime| {
        run(client, runtime, &[], &["no-such-command"]).fails(127, "executable file not found in $PATH");
        run(client, runtime, &[], &["/no/such/path"]).fails(127, "no such file or directory");
        run(client, runtime, &[], &["/etc/passwd"]).fails(126, "permission denied");
        run(client, runtime, &["-u", "nobody-here"], &["true"]).fails(125, "unable to find user nobody-here");
    });
}

fn exec(_: &World, client: &Client) {
    each(client, |runtime| {
        let name = detached(client, runtime, &["-e", "A=1"], &["sleep", "1000"]);
        assert_eq!(client.run(&["exec", &name, "sh", "-c", "echo $A; exit 3"]).exits(3), "1");
        assert_eq!(client.run(&["exec", "-u", "bob", &name, "id", "-u", "-n"]).exits(0), "bob");
        assert_eq!(client.with_input(&["exec", "-i", &name, "cat"], b"fed").out, "fed");
        let missing = client.run(&["exec", &name, "no-such"]).exits(127);
        assert!(missing.contains("executable file not found in $PATH"), "{missing}");
        client.run(&["exec", &name, "/etc"]).exits(126);
        let seen = client.run(&["exec", &name, "sh", "-c", "grep Seccomp: /proc/self/status"]).exits(0);
        assert!(seen.ends_with('2'), "{seen}");
        client.run(&["rm", "-f", &name]).exits(0);
    });
}

fn terminals(_: &World, client: &Client) {
    each(client, |runtime| {
        let flags = ["run", "--rm", "-it", "--label", "e2e", "--network", "none", "--runtime", runtime];
        let command =
            [&flags[..], &["e2e/busybox", "sh", "-c", "stty size; read x; echo got-$x; tty; exit 5"]];
        let mut terminal = Terminal::run(client, &command.concat());
        terminal.expect("40 100");
        terminal.send("word\n");
        terminal.expect("got-word");
        terminal.expect("/dev/");
        assert_eq!(terminal.end(), 5);
        let name = detached(client, runtime, &[], &["sleep", "1000"]);
        let mut terminal = Terminal::run(client, &["exec", "-it", &name, "sh"]);
        terminal.send("echo a$((20+3)); exit 4\n");
        terminal.expect("a23");
        assert_eq!(terminal.end(), 4);
        client.run(&["rm", "-f", &name]).exits(0);
    });
}

fn life(_: &World, client: &Client) {
    each(client, |runtime| {
        let script = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done";
        let name = detached(client, runtime, &[], &["sh", "-c", script]);
        let shown = client.run(&["inspect", "-f", "{{.HostConfig.Runtime}} {{.State.Status}}", &name]);
        assert_eq!(shown.exits(0), format!("{runtime} running"));
        client.run(&["pause", &name]).exits(0);
        client.run(&["unpause", &name]).exits(0);
        wait_for_log(client, &name, "up");
        client.run(&["stop", &name]).exits(0);
        assert_eq!(client.run(&["inspect", "-f", "{{.State.ExitCode}}", &name]).exits(0), "9");
        client.run(&["start", &name]).exits(0);
        client.run(&["kill", &name]).exits(0);
        assert_eq!(client.run(&["wait", &name]).exits(0), "137");
        client.run(&["rm", &name]).exits(0);
    });
}

/// Follows a log to a line.
fn wait_for_log(client: &Client, name: &str, line: &str) {
    use std::io::BufRead as _;
    let mut follower = client.command(&["logs", "-f", name]).stdout(Stdio::piped()).spawn().unwrap();
    let output = std::io::BufReader::new(follower.stdout.take().unwrap());
    assert!(output.lines().map_while(Result::ok).any(|found| found == line), "no line {line}");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

fn memory(_: &World, client: &Client) {
    each(client, |runtime| {
        let name = detached(
            client,
            runtime,
            &["--memory", "16m", "--memory-swap", "16m", "--pids-limit", "50"],
            // One process that keeps what it reads.
            &["sh", "-c", "exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'"],
        );
        assert_eq!(client.run(&["wait", &name]).exits(0), "137");
        assert_eq!(client.run(&["inspect", "-f", "{{.State.OOMKilled}}", &name]).exits(0), "true");
        client.run(&["rm", &name]).exits(0);
    });
}

fn refused(_: &World, client: &Client) {
    each(client, |runtime| {
        run(client, runtime, &["--init"], &["true"]).fails(125, "not yet supported: --init with an external");
    });
}

/// Debian's podman, with folders of its own.
fn podman(world: &World, client: &Client) {
    const PROGRAM: &str = "/usr/bin/podman";
    const BUSYBOX: &str = "/bin/busybox";
    if client.name != "havre" || std::env::var_os("HAVRE_E2E_HOST").is_some() {
        return;
    }
    if let Some(missing) = [PROGRAM, BUSYBOX].iter().find(|path| !std::path::Path::new(path).exists()) {
        return println!("SKIP podman: {missing} is not there (apt-get install podman busybox-static)");
    }
    let folder = world.folder().join("podman");
    let rootfs = folder.join("rootfs");
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    std::fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
    for name in ["sh", "sleep", "id"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new("timeout");
        command.args(["-k", "5", "60", PROGRAM]);
        for (flag, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(folder.join(name));
        }
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command.arg("--runtime").arg(world.folder().join(OCI)).args(args).stdin(Stdio::null());
        crate::world::finish(command.output().unwrap())
    };
    let rootfs = rootfs.to_str().unwrap();
    // Its own default limits are above what a machine without CAP_SYS_RESOURCE can give.
    let flags =
        ["--network", "none", "--ulimit", "nofile=512:512", "--ulimit", "nproc=512:512", "--rootfs", rootfs];
    let shell = |start: &[&str], script: &str| run(&[start, &flags, &["/bin/sh", "-c", script]].concat());
    assert_eq!(shell(&["run", "--rm"], "echo out; exit 4").exits(4), "out");
    assert_eq!(shell(&["run", "--rm", "--privileged"], "echo privileged").exits(0), "privileged");
    run(&[&["run", "--rm"], &flags[..], &["/no-such"]].concat()).fails(127, "no such file or directory");
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done";
    shell(&["run", "-d", "--name", "c", "--memory", "64m"], script).exits(0);
    assert_eq!(run(&["exec", "c", "/bin/sh", "-c", "echo in; exit 5"]).exits(5), "in");
    run(&["pause", "c"]).exits(0);
    run(&["unpause", "c"]).exits(0);
    run(&["stop", "-t", "10", "c"]).exits(0);
    assert_eq!(run(&["inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", "c"]).exits(0), "3 false");
    run(&["rm", "-f", "c"]).exits(0);
    // Podman leaves its own groups; one that something else still uses cannot be removed.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        for group in ["libpod_parent/conmon", "libpod_parent"] {
            std::fs::remove_dir(hierarchy.path().join(group)).unwrap_or(());
        }
    }
}

fn daemon_killed(_: &World, client: &Client) {
    // Once is enough: the clients see nothing of it.
    if client.name != "havre" || std::env::var_os("HAVRE_E2E_HOST").is_some() {
        return;
    }
    let mut world = World::open().unwrap();
    each(&world.clients()[0], |_| {});
    for runtime in ["runc", OCI] {
        if runtime == "runc"
            && world.clients()[0].run(&["info"]).out.lines().all(|line| !line.contains("runc"))
        {
            continue;
        }
        let script = "i=0; while [ ! -e /end ]; do echo line; sleep 0.02; done; exit 6";
        let lives = detached(&world.clients()[0], runtime, &[], &["sh", "-c", script]);
        let orphan = world.clients()[0].unique("orphan");
        let start =
            ["run", "-d", "--label", "e2e", "--network", "none", "--runtime", runtime, "--name", &orphan];
        world.clients()[0].run(&[&start[..], &["e2e/busybox", "sleep", "1000"]].concat()).exits(0);
        let status = std::fs::read_dir(world.folder().join("exec/containers"))
            .unwrap()
            .flatten()
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("state.json")).ok());
        let shims: Vec<String> = status.collect();
        let id = world.clients()[0].run(&["inspect", "-f", "{{.Id}}", &orphan]).exits(0);
        let shim =
            std::fs::read_to_string(world.folder().join("exec/containers").join(&id).join("state.json"))
                .unwrap();
        assert_eq!(shims.len(), 2);
        world.kill_daemon();
        kill_shim(&shim);
        world.start_daemon();
        let client = &world.clients()[0];
        let state = |name: &str| client.run(&["inspect", "-f", "{{.State.Status}}", name]).exits(0);
        assert_eq!((state(&lives).as_str(), state(&orphan).as_str()), ("running", "exited"));
        client.run(&["exec", &lives, "touch", "/end"]).exits(0);
        assert_eq!(client.run(&["wait", &lives]).exits(0), "6");
        client.run(&["start", &orphan]).exits(0);
        client.run(&["rm", "-f", &lives, &orphan]).exits(0);
        let left = std::fs::read_dir(world.folder().join("exec/containers")).unwrap().count();
        assert_eq!(left, 0, "run folders are left");
        let groups = groups_named(&id);
        assert!(groups.is_empty(), "{groups:?}");
    }
}

/// Kills the supervisor that a state file names.
fn kill_shim(state: &str) {
    let rest = state.split_once("\"shim_pid\":").unwrap().1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let pid = rustix::process::Pid::from_raw(digits.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Control groups whose name has the id, in every hierarchy.
fn groups_named(id: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(id) {
                    found.push(entry.path());
                }
                folders.push(entry.path());
            }
        }
    }
    found
}
