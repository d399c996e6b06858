//! `why`: each cause made to happen, and what is said of it.

use std::path::Path;

use crate::Test;
use crate::cases::{detached, field, remove};
use crate::world::{Client, World};

/// Through `havre` alone: no other client has it.
pub(crate) const ALL: &[Test] = &[
    ("why: a container that exited by itself", exited),
    ("why: who ended it, where the engine was asked", stopped),
    ("why: the kernel's out-of-memory killer", out_of_memory),
    ("why: a signal from the host", from_the_host),
    ("why: a killed supervisor", supervisor_killed),
    ("why: a crash and a seccomp filter", crash_and_filter),
    ("why: limits hit on the way", limits),
    ("why: failed starts by their programs", programs),
    ("why: failed starts by their set-up", set_up),
    ("why: a missing shared library", library),
    ("why: what happened while the engine was dead", engine_dead),
    ("why: running, created, restarted, unknown", states),
];

fn why(client: &Client, name: &str) -> serde_json::Value {
    let text = client.run(&["why", "--format", "json", name]).exits(0);
    serde_json::from_str(&text).expect("JSON")
}

/// The cause and whether it is proven.
fn cause(client: &Client, name: &str) -> String {
    client.run(&["why", "--format", "{{.Cause}} {{.Proven}}", name]).exits(0)
}

#[track_caller]
fn says(client: &Client, name: &str, wanted: &[&str]) {
    let text = client.run(&["why", name]).exits(0);
    for part in wanted {
        assert!(text.contains(part), "wanted {part:?} in: {text}");
    }
}

/// Runs to the end under a unique name.
fn ended(client: &Client, name: &str, flags: &[&str], command: &[&str]) -> String {
    let name = client.unique(name);
    client.run(&["rm", "-f", &name]);
    let start = ["run", "--label", "e2e", "--network", "none", "--name", &name];
    client.run(&[&start, flags, &["e2e/busybox"], command].concat());
    name
}

fn exited(_: &World, client: &Client) {
    for (command, code, hint) in [
        (&["false"][..], "1", "by itself with code 1"),
        (&["sh", "-c", "nope"], "127", "was not found"),
        (&["sh", "-c", "/etc/passwd"], "126", "could not be executed"),
        (&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], "137", "ended by SIGKILL"),
        (&["true"], "0", "by itself with code 0"),
    ] {
        let name = ended(client, "why-exit", &[], command);
        assert_eq!(cause(client, &name), "exited true");
        let template = "{{.Death.Ending}} {{.Death.ExitCode}} {{.Death.Signal}}.";
        assert_eq!(client.run(&["why", "--format", template, &name]).exits(0), format!("exited {code} ."));
        says(client, &name, &[hint]);
        remove(client, &name);
    }
}

fn stopped(_: &World, client: &Client) {
    let deaf = detached(client, "why-deaf", &[], &["sleep", "1000"]);
    client.run(&["stop", "-t", "0", &deaf]).exits(0);
    assert_eq!(cause(client, &deaf), "stopped true");
    let death = why(client, &deaf)["Death"].clone();
    let requests: Vec<_> =
        death["SignalsSent"].as_array().unwrap().iter().map(|one| &one["Request"]).collect();
    assert_eq!((death["Signal"].as_str(), death["ExitCode"].as_i64()), (Some("SIGKILL"), Some(137)));
    assert_eq!(requests, ["stop", "grace"]);
    says(client, &deaf, &["grace period", "did not end on SIGTERM"]);
    remove(client, &deaf);

    let script = "trap 'exit 3' TERM; echo ready; while true; do sleep 0.1; done";
    let polite = detached(client, "why-polite", &[], &["sh", "-c", script]);
    client.follow_until(&polite, "ready");
    client.run(&["kill", "-s", "TERM", &polite]).exits(0);
    client.run(&["wait", &polite]).exits(0);
    assert_eq!(cause(client, &polite), "stopped true");
    says(client, &polite, &["exited with code 3", "SIGTERM", "POST /containers/{id}/kill"]);
    remove(client, &polite);

    let killed = detached(client, "why-killed", &[], &["sleep", "1000"]);
    client.run(&["kill", &killed]).exits(0);
    says(client, &killed, &["SIGKILL ended it", "a kill (POST /containers/{id}/kill)"]);
    client.run(&["start", &killed]).exits(0);
    client.run(&["restart", "-t", "0", &killed]).exits(0);
    assert_eq!(cause(client, &killed), "running true");
    says(client, &killed, &["It runs since", "Its last end", "a restart (POST /containers/{id}/restart)"]);
    remove(client, &killed);
}

const HOG: &str = "dd if=/dev/zero of=/dev/null bs=100M count=1";

fn out_of_memory(_: &World, client: &Client) {
    let flags = ["--memory", "32m", "--memory-swap", "32m"];
    let first = ended(client, "why-oom", &flags, &["sh", "-c", &format!("exec {HOG}")]);
    assert_eq!(cause(client, &first), "out-of-memory true");
    let death = why(client, &first)["Death"].clone();
    let id = field(client, &first, "{{.Id}}");
    let victim = &death["Victims"][0];
    assert_eq!((victim["Name"].as_str(), &victim["Pid"]), (Some("dd"), &death["Pid"]));
    assert!(victim["Cgroup"].as_str().unwrap().ends_with(&id), "{victim}");
    assert_eq!(death["Limits"]["Memory"].as_u64(), Some(32 << 20));
    says(client, &first, &["its first process", "32 MiB", "havre update --memory"]);
    remove(client, &first);

    let child = ended(client, "why-oom-child", &flags, &["sh", "-c", &format!("{HOG}; exit $?")]);
    assert_eq!(cause(client, &child), "out-of-memory true");
    let death = why(client, &child)["Death"].clone();
    assert_eq!((death["Ending"].as_str(), death["ExitCode"].as_i64()), (Some("exited"), Some(137)));
    assert_ne!(death["Victims"][0]["Pid"], death["Pid"]);
    says(client, &child, &["a child of its first process", "The kernel killed dd"]);
    remove(client, &child);

    // A child that was taken long before a stop is no cause of the stop, and not forgotten.
    let script = format!("{HOG}; echo child $?; exec sleep 1000");
    let later = detached(client, "why-oom-later", &flags, &["sh", "-c", &script]);
    client.follow_until(&later, "child 137");
    client.run(&["stop", "-t", "0", &later]).exits(0);
    assert_eq!(cause(client, &later), "stopped true");
    says(client, &later, &["the kernel killed 1 of its processes for it"]);
    remove(client, &later);
}

fn kill_pid(pid: &str, signal: rustix::process::Signal) {
    let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    rustix::process::kill_process(pid, signal).unwrap();
}

fn from_the_host(_: &World, client: &Client) {
    let name = detached(client, "why-host", &[], &["sleep", "1000"]);
    kill_pid(&field(client, &name, "{{.State.Pid}}"), rustix::process::Signal::KILL);
    client.run(&["wait", &name]).exits(0);
    assert_eq!(cause(client, &name), "signal true");
    says(client, &name, &["process of the host outside the engine", "The engine sent it no signal"]);
    remove(client, &name);

    // Sharing processes with the host, anybody can: not the engine is all that is known.
    let name = detached(client, "why-shared", &["--pid", "host"], &["sleep", "1000"]);
    kill_pid(&field(client, &name, "{{.State.Pid}}"), rustix::process::Signal::TERM);
    client.run(&["wait", &name]).exits(0);
    assert_eq!(cause(client, &name), "signal false");
    says(client, &name, &["SIGTERM ended it, and the engine did not send it", "Not proven"]);
    remove(client, &name);
}

fn supervisor_killed(_: &World, client: &Client) {
    let name = detached(client, "why-shim", &[], &["sleep", "1000"]);
    let pid = field(client, &name, "{{.State.Pid}}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    kill_pid(parent, rustix::process::Signal::KILL);
    client.run(&["wait", &name]).exits(0);
    assert_eq!(cause(client, &name), "supervisor-killed true");
    says(client, &name, &["Its supervisor (havre shim) was killed"]);
    remove(client, &name);
}

/// Compiles a static program, if there is a compiler.
fn compiled(folder: &Path, name: &str, source: &str, flags: &[&str]) -> Option<String> {
    let (code, program) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&code, source).unwrap();
    let status =
        std::process::Command::new("cc").args(flags).args(["-O0", "-o"]).arg(&program).arg(&code).status();
    if status.is_ok_and(|status| status.success()) {
        return Some(program.display().to_string());
    }
    println!("SKIP {name}: no C compiler with a static library");
    None
}

fn crash_and_filter(world: &World, client: &Client) {
    let source = "int main(void) { volatile int *p = 0; return *p; }\n";
    if let Some(program) = compiled(world.folder(), "why-crash", source, &["-static"]) {
        let mount = format!("{program}:/crash:ro");
        let name = ended(client, "why-crash", &["-v", &mount], &["/crash"]);
        assert_eq!(cause(client, &name), "fault true");
        says(client, &name, &["The program crashed: SIGSEGV", "bug in the program"]);
        remove(client, &name);
    }
    let profile = world.folder().join("why-seccomp.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
    std::fs::write(&profile, text).unwrap();
    let option = format!("seccomp={}", profile.display());
    let flags = ["--security-opt", &option, "--cap-add", "SYS_ADMIN"];
    let name = ended(client, "why-seccomp", &flags, &["hostname", "x"]);
    assert_eq!(cause(client, &name), "seccomp true");
    match why(client, &name)["Death"]["SystemCall"].is_null() {
        true => says(client, &name, &["SIGSYS", "strace -f"]),
        false => says(client, &name, &["for the system call sethostname"]),
    }
    remove(client, &name);
    // A refusal that does not kill is not claimed to be the filter's.
    let name = ended(client, "why-eperm", &[], &["hostname", "x"]);
    assert_eq!(cause(client, &name), "exited true");
    remove(client, &name);
}

fn limits(_: &World, client: &Client) {
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; exit 4";
    let name = ended(client, "why-pids", &["--pids-limit", "4"], &["sh", "-c", script]);
    let refused =
        client.run(&["why", "--format", "{{.Death.Limits.Pids}} {{gt .Death.Limits.PidsRefused 0}}", &name]);
    assert_eq!(refused.exits(0), "4 true");
    says(client, &name, &["limit of 4 processes and threads refused", "--pids-limit"]);
    remove(client, &name);

    let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let name = ended(client, "why-cpu", &["--cpus", "0.05"], &["sh", "-c", script]);
    says(client, &name, &["processor limit held it back"]);
    assert!(why(client, &name)["Death"]["Limits"]["CpuThrottled"].as_u64().unwrap() > 0);
    remove(client, &name);

    let script = "dd if=/dev/zero of=/big bs=1M count=64; exit 0";
    let name = ended(client, "why-memory", &["--memory", "16m"], &["sh", "-c", script]);
    assert_eq!(cause(client, &name), "exited true");
    says(client, &name, &["memory limit of 16 MiB was reached", "killed 0 of its processes"]);
    remove(client, &name);
}

fn programs(world: &World, client: &Client) {
    let folder = world.folder().join("why-programs");
    std::fs::create_dir_all(&folder).unwrap();
    let put = |name: &str, content: &[u8], mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    put("bash", b"#!/bin/bash -e\necho hi\n", 0o755);
    put("windows", b"#!/bin/sh\r\necho hi\r\n", 0o755);
    put("plain", b"#!/bin/sh\necho hi\n", 0o644);
    put("text", b"echo hi\n", 0o755);
    put("empty", b"", 0o755);
    let mut elf = vec![0_u8; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16..18].copy_from_slice(&2_u16.to_le_bytes());
    // RISC-V's number; the tests run on amd64 and arm64.
    elf[18..20].copy_from_slice(&243_u16.to_le_bytes());
    put("foreign", &elf, 0o755);
    let mount = format!("{}:/p:ro", folder.display());
    let mut cases = vec![
        ("nope", 127, "program-missing", "in any folder of its PATH"),
        ("/nope", 127, "program-missing", "There is no file at that path"),
        ("/p/bash", 127, "interpreter-missing", "needs the interpreter /bin/bash"),
        ("/p/windows", 127, "interpreter-missing", "Windows line ends"),
        ("/p/plain", 126, "not-executable", "chmod +x /p/plain"),
        ("/p/text", 126, "not-a-program", "neither an ELF program nor a script"),
        ("/p/empty", 126, "not-a-program", "is an empty file"),
        ("/p/foreign", 126, "wrong-architecture", "is a program for riscv64"),
        ("/p", 126, "not-executable", "is a folder"),
    ];
    if compiled(
        &folder,
        "dynamic",
        "int main(void) { return 0; }\n",
        &["-Wl,-dynamic-linker,/lib/nowhere.so"],
    )
    .is_some()
    {
        cases.push(("/p/dynamic", 127, "loader-missing", "the dynamic loader /lib/nowhere.so"));
    }
    for (program, code, wanted, words) in cases {
        let name = client.unique("why-program");
        client.run(&["rm", "-f", &name]);
        let run =
            ["run", "--label", "e2e", "--network", "none", "--name", &name, "-v", &mount, "e2e/busybox"];
        let outcome = client.run(&[&run[..], &[program]].concat());
        assert!(outcome.err.contains(&format!("see: havre why {name}")), "{}", outcome.err);
        assert_eq!(outcome.code, code, "{program}: {}", outcome.err);
        assert_eq!(cause(client, &name), format!("{wanted} true"), "{program}");
        says(client, &name, &[words, "The start failed with: failed to create task"]);
        remove(client, &name);
    }
}

fn set_up(world: &World, client: &Client) {
    let cases = [
        (&["--workdir", "/etc/passwd"][..], "working-directory", "The working directory /etc/passwd"),
        (&["--user", "nobody-here"], "user-missing", "nobody-here"),
        (&["--user", "0:no-group"], "user-missing", "no-group"),
    ];
    for (flags, wanted, words) in cases {
        let name = ended(client, "why-setup", flags, &["true"]);
        assert_eq!(cause(client, &name), format!("{wanted} true"));
        says(client, &name, &[words]);
        remove(client, &name);
    }
    // A source that was there at creation and is gone at the start.
    let source = world.folder().join("why-source");
    std::fs::create_dir_all(&source).unwrap();
    let mount = format!("type=bind,source={},target=/data", source.display());
    let name = client.unique("why-mount");
    client.run(&["rm", "-f", &name]);
    let create = ["create", "--label", "e2e", "--network", "none", "--name", &name, "--mount", &mount];
    client.run(&[&create[..], &["e2e/busybox", "true"]].concat()).exits(0);
    std::fs::remove_dir(&source).unwrap();
    assert_eq!(client.run(&["start", &name]).code, 1);
    assert_eq!(cause(client, &name), "mount-source-missing true");
    says(client, &name, &["why-source of the host, to be mounted at /data, does not exist"]);
    // Once it starts, the failure is history.
    std::fs::create_dir_all(&source).unwrap();
    client.run(&["start", "-a", &name]).exits(0);
    assert_eq!(cause(client, &name), "exited true");
    remove(client, &name);
}

fn engine_dead(_: &World, _: &Client) {
    if std::env::var_os("HAVRE_E2E_HOST").is_some() {
        return;
    }
    let mut world = World::open().unwrap();
    let own = world.clients()[0].clone();
    let script = "trap : TERM; echo ready; while true; do sleep 0.1; done";
    let killed = detached(&own, "why-dead", &[], &["sh", "-c", script]);
    own.follow_until(&killed, "ready");
    own.run(&["kill", "-s", "TERM", &killed]).exits(0);
    let hog = format!("trap 'exec {HOG}' USR1; echo ready; while true; do sleep 0.1; done");
    let flags = ["--memory", "32m", "--memory-swap", "32m"];
    let taken = detached(&own, "why-dead-oom", &flags, &["sh", "-c", &hog]);
    own.follow_until(&taken, "ready");
    let pids = [&killed, &taken].map(|name| field(&own, name, "{{.State.Pid}}"));
    world.kill_daemon();
    for (pid, signal) in
        [(&pids[0], rustix::process::Signal::KILL), (&pids[1], rustix::process::Signal::USR1)]
    {
        let process = pid.parse().ok().and_then(rustix::process::Pid::from_raw).unwrap();
        let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::pidfd_send_signal(&pidfd, signal).unwrap();
        let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ended, None).unwrap();
    }
    world.start_daemon();
    assert_eq!(cause(&own, &killed), "signal true");
    says(&own, &killed, &["process of the host", "The engine sent SIGTERM", "did not send SIGKILL"]);
    assert_eq!(cause(&own, &taken), "out-of-memory true");
    says(&own, &taken, &["The kernel killed dd"]);
    remove(&own, &killed);
    remove(&own, &taken);
}

fn library(world: &World, client: &Client) {
    if !world.has_debian() {
        return;
    }
    let folder = world.folder().join("why-library");
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join("libwhy.so");
    let made = compiled(&folder, "libwhy.so", "int why(void) { return 0; }\n", &["-shared", "-fPIC"]);
    let link = ["-L", &folder.display().to_string(), "-Wl,--no-as-needed", "-lwhy"].map(str::to_owned);
    let link: Vec<&str> = link.iter().map(String::as_str).collect();
    if made.is_none() || compiled(&folder, "needs", "int main(void) { return 0; }\n", &link).is_none() {
        return;
    }
    std::fs::remove_file(&library).unwrap();
    let name = client.unique("why-library");
    client.run(&["rm", "-f", &name]);
    let mount = format!("{}:/p:ro", folder.display());
    let run = [
        "run",
        "--label",
        "e2e",
        "--network",
        "none",
        "--name",
        &name,
        "-v",
        &mount,
        "debian:test",
        "/p/needs",
    ];
    client.run(&run).fails(127, "libwhy.so");
    assert_eq!(cause(client, &name), "library-missing true");
    says(client, &name, &["The shared library libwhy.so is missing"]);
    remove(client, &name);
}

fn states(_: &World, client: &Client) {
    let name = client.unique("why-states");
    client.run(&["rm", "-f", &name]);
    client
        .run(&[
            "create",
            "--label",
            "e2e",
            "--network",
            "none",
            "--name",
            &name,
            "e2e/busybox",
            "sleep",
            "1000",
        ])
        .exits(0);
    assert_eq!(cause(client, &name), "never-started true");
    client.run(&["start", &name]).exits(0);
    assert_eq!(cause(client, &name), "running true");
    assert!(why(client, &name)["Death"].is_null());
    client.run(&["pause", &name]).exits(0);
    says(client, &name, &["It is paused"]);
    remove(client, &name);

    let script = "[ -e /second ] && exec sleep 1000; touch /second; exit 5";
    let name = detached(client, "why-again", &["--restart", "on-failure:3"], &["sh", "-c", script]);
    let mut count = String::new();
    // The events of a start are the engine's; asking again until the second start is what a user would do.
    for _ in 0..600 {
        count = field(client, &name, "{{.RestartCount}} {{.State.Status}}");
        if count == "1 running" {
            break;
        }
        client.container(&[], &["true"]).exits(0);
    }
    assert_eq!(count, "1 running");
    says(client, &name, &["It runs since", "started it again once", "Its last end", "code 5"]);
    remove(client, &name);

    client.run(&["why", "no-such-container"]).fails(1, "No such container: no-such-container");
    let name = detached(client, "why-near", &[], &["true"]);
    let near = format!("{}r", &name[..name.len() - 2]);
    client.run(&["why", &near]).fails(1, &name);
    client.run(&["why", "--format", "{{.Nope}}", &name]).fails(1, "Nope");
    remove(client, &name);
}
