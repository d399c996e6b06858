//! What hostile images, callers and programs try through a real client, and what they get.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::process::Command;

use havre_testkit::{ArchiveBuilder, Layer};

use crate::Test;
use crate::cases::{detached, remove};
use crate::world::{Client, World};

/// Once through one client: these are the engine's.
pub(crate) const ALL: &[Test] = &[
    ("r02_working directories outside are refused", working_directories),
    ("r02_no descriptor leaks into a container", descriptors),
    ("r14_absurd users are refused", users),
    ("r06_r08_images with links in the place of system folders do no harm", false_folders),
    ("r01_the program of the init cannot be written", own_program),
    ("r18_masked and read-only paths are", protected_paths),
    ("r16_r17_the default filter refuses what its profile implies", filter),
    ("r11_a program of the host cannot be named as release agent", release_agent),
    ("r27_words that no process can have are refused by field", injections),
    ("r29_exits that race with attach lose nothing", exit_races),
    ("r25_control characters do not reach the terminal", control_characters),
];

fn working_directories(_: &World, client: &Client) {
    let name = detached(client, "cwd", &[], &["sleep", "1000"]);
    for number in 0..=20 {
        let cwd = format!("/proc/self/fd/{number}");
        let run = client.container(&["-w", &cwd], &["ls"]);
        assert!(matches!(run.code, 125..=127) && run.out.is_empty(), "run {cwd}: {run:?}");
        let exec = client.run(&["exec", "-w", &cwd, &name, "ls"]);
        assert!(matches!(exec.code, 125..=128), "exec {cwd}: {exec:?}");
        assert!(!exec.out.contains("etc"), "exec {cwd}: {exec:?}");
    }
    for cwd in ["/proc/self/cwd", "/proc/1/cwd", "/proc/self/root"] {
        assert_ne!(client.container(&["-w", cwd], &["true"]).code, 0, "{cwd}");
        assert_ne!(client.run(&["exec", "-w", cwd, &name, "true"]).code, 0, "{cwd}");
    }
    client.container(&["-w", "relative"], &["true"]).fails(125, "relative");
    remove(client, &name);
}

fn descriptors(world: &World, client: &Client) {
    // One is the folder that `ls` reads.
    let list = ["sh", "-c", "ls /proc/self/fd | wc -l"];
    assert_eq!(client.container(&[], &list).exits(0), "4");
    let targets = "for fd in /proc/1/fd/*; do readlink $fd; done | grep -v -e pipe: -e /dev/null -e /dev/pts";
    for flags in [&[][..], &["--init"], &["-t"], &["--privileged"]] {
        let outcome = client.container(flags, &["sh", "-c", &format!("{targets}; echo end")]);
        assert_eq!(outcome.exits(0), "end", "{flags:?}");
        let name = detached(client, "descriptors", flags, &["sleep", "1000"]);
        assert_eq!(client.run(&[&["exec", &name][..], &list].concat()).exits(0), "4");
        // Nor does the supervisor get what the daemon's starter left open.
        let pid = client.run(&["inspect", "-f", "{{.State.Pid}}", &name]).exits(0);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let shim = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap();
        assert_ne!(shim, world.daemon_pid().to_string());
        let held = std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap();
        let held = held.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        assert!(held.into_iter().all(|path| path != std::path::Path::new("/proc/version")), "{flags:?}");
        if !flags.contains(&"--init") {
            assert_eq!(client.run(&["exec", &name, "ls", "/proc/1/fd"]).exits(0), "0\n1\n2");
        }
        let other = client.run(&["exec", &name, "sh", "-c", &format!("{targets}; echo end")]);
        assert_eq!(other.exits(0), "end", "{flags:?}");
        remove(client, &name);
    }
}

fn users(_: &World, client: &Client) {
    let name = detached(client, "users", &[], &["sleep", "1000"]);
    for user in [
        "4294967296",
        "4294967296:0",
        "4294967295",
        "2147483648",
        "-1",
        "0x0",
        "0 ",
        " 0",
        "+0",
        "1.0",
        "99999999999999999999",
        "bob:4294967296",
        "bob:-1",
        "root:no-such-group",
        "0:0:0",
        "no-such-user",
    ] {
        let flag = format!("--user={user}");
        let run = client.container(&[&flag], &["id"]);
        assert!(run.code == 125 && run.out.is_empty() && !run.err.is_empty(), "run {user:?}: {run:?}");
        let exec = client.run(&["exec", &flag, &name, "id"]);
        assert!(exec.code != 0 && !exec.out.contains("uid="), "exec {user:?}: {exec:?}");
    }
    remove(client, &name);
}

/// Loads an image on top of the test image whose second layer replaces things.
fn load(world: &World, client: &Client, name: &str, change: impl FnOnce(Layer) -> Layer) -> String {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let mut base = Layer::new();
    for folder in ["bin/", "dev/", "etc/", "proc/", "sys/", "tmp/"] {
        if !name.ends_with(&folder[..folder.len() - 1]) {
            base = base.folder(folder, 0o755).unwrap();
        }
    }
    base = base.file("bin/busybox", 0o755, &busybox).unwrap();
    for applet in ["sh", "ls", "cat", "stat", "readlink", "grep", "head", "wc"] {
        base = base.link(&format!("bin/{applet}"), "busybox").unwrap();
    }
    let reference = format!("{}:latest", client.unique(name));
    let archive = ArchiveBuilder::new()
        .layer(change(base).finish().unwrap())
        .config(|config| config.env = vec!["PATH=/bin".into()])
        .write_to(&reference, world.folder(), &format!("{name}.tar"))
        .unwrap();
    client.run(&["load", "-q", "-i", archive.to_str().unwrap()]).exits(0);
    reference
}

fn false_folders(world: &World, client: &Client) {
    let canary = world.folder().join("canary");
    std::fs::create_dir_all(&canary).unwrap();
    let outside = canary.to_str().unwrap().to_owned();
    let run = |image: &str, script: &str| {
        client.run(&["run", "--rm", "--label", "e2e", "--network", "none", image, "sh", "-c", script])
    };
    for (name, path) in [("link-dev", "dev"), ("link-proc", "proc"), ("link-sys", "sys")] {
        let image = load(world, client, name, |layer| layer.link(path, &outside).unwrap());
        let outcome = run(&image, "echo reached");
        assert!(matches!(outcome.code, 125..=127) && outcome.out.is_empty(), "{name}: {outcome:?}");
        assert!(outcome.err.contains(path), "{name}: {outcome:?}");
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0, "{name}");
    }
    // A link that stays inside leads to devices inside.
    let image = load(world, client, "inside-dev", |layer| layer.link("dev", "../../../tmp").unwrap());
    assert_eq!(run(&image, "stat -c %t:%T /dev/null /tmp/zero").exits(0), "1:3\n1:5");
    // Masks are made from our own null device, whatever the image calls one.
    let pattern = "/proc/sys/kernel/core_pattern";
    let image = load(world, client, "null", |layer| layer.link("dev/null", pattern).unwrap());
    let before = std::fs::read_to_string(pattern).unwrap();
    let script = "stat -c %t:%T /dev/null; head -c 1 /proc/kcore | wc -c; echo x >/proc/keys; \
        echo x 2>/tmp/err >/proc/sys/kernel/core_pattern || echo refused";
    assert_eq!(run(&image, script).exits(0), "1:3\n0\nrefused");
    assert_eq!(std::fs::read_to_string(pattern).unwrap(), before);
    // The files that are mounted into /etc go through no link either.
    let image = load(world, client, "hosts", |layer| {
        layer
            .link("etc/hosts", &format!("{outside}/made"))
            .unwrap()
            .link("etc/resolv.conf", "/proc/1/mem")
            .unwrap()
    });
    let outcome = run(&image, "cat /etc/hosts");
    assert!(outcome.code != 0 || outcome.out.contains("localhost"), "{outcome:?}");
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
}

fn own_program(_: &World, client: &Client) {
    let write = "dd if=/dev/zero of=/proc/1/exe count=1 conv=notrunc";
    let name = detached(client, "own", &["--init", "--privileged"], &["sleep", "1000"]);
    for _ in 0..3 {
        let outcome = client.run(&["exec", "--privileged", &name, "sh", "-c", write]);
        assert!(outcome.code != 0, "{outcome:?}");
        let said = outcome.err.to_lowercase();
        assert!(
            ["busy", "denied", "permitted", "read-only"].iter().any(|word| said.contains(word)),
            "{outcome:?}"
        );
    }
    remove(client, &name);
    // A program that is a link to whoever starts it gets a copy, sealed like the init's.
    let script = ["run", "--rm", "--label", "e2e", "--network", "none", "--entrypoint", "/proc/self/exe"];
    let program = std::fs::read(client.program()).unwrap();
    client.run(&[&script[..], &["e2e/busybox"]].concat());
    assert!(program == std::fs::read(client.program()).unwrap(), "the program was changed");
}

fn protected_paths(_: &World, client: &Client) {
    let table = [
        ("head -c 1 /proc/kcore | wc -c", "0"),
        ("head -c 1 /proc/keys | wc -c", "0"),
        ("head -c 1 /proc/timer_list | wc -c", "0"),
        ("head -c 1 /proc/interrupts | wc -c", "0"),
        ("ls /sys/firmware | wc -l", "0"),
        ("ls /proc/scsi /proc/acpi /sys/devices/virtual/powercap 2>/dev/null | grep -c '[a-z]$'", "0"),
        ("echo 0 2>/dev/null >/proc/sys/kernel/randomize_va_space || echo no", "no"),
        ("echo h 2>/dev/null >/proc/sysrq-trigger || echo no", "no"),
        ("touch /proc/bus/x 2>/dev/null || echo no", "no"),
        ("touch /proc/irq/x 2>/dev/null || echo no", "no"),
        ("touch /sys/x 2>/dev/null || echo no", "no"),
        ("mkdir /sys/fs/cgroup/x 2>/dev/null || echo no", "no"),
        ("mount -o remount,rw /proc/sys 2>/dev/null || echo no", "no"),
        ("mount -o remount,rw /sys 2>/dev/null || echo no", "no"),
        ("umount /proc/kcore 2>/dev/null || echo no", "no"),
        ("mount -t proc x /tmp 2>/dev/null || echo no", "no"),
        ("echo 1 2>/dev/null >/proc/1/oom_score_adj && cat /proc/1/oom_score_adj", "1"),
    ];
    let name = detached(client, "paths", &[], &["sleep", "1000"]);
    for (script, expected) in table {
        let run = client.container(&[], &["sh", "-c", script]);
        assert_eq!(run.out.trim(), expected, "run {script}: {run:?}");
        let exec = client.run(&["exec", &name, "sh", "-c", script]);
        assert_eq!(exec.out.trim(), expected, "exec {script}: {exec:?}");
    }
    remove(client, &name);
}

/// The system calls of this machine, as its headers number them.
fn numbers() -> Vec<(String, u32)> {
    let output = Command::new("cc")
        .args(["-dM", "-E", "-include", "sys/syscall.h", "-x", "c", "/dev/null"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '));
    lines.filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?))).collect()
}

/// The calls that the built-in profile lets a container without more capabilities make, whatever their
/// arguments.
fn allowed() -> BTreeSet<String> {
    let text = include_str!("../../../havre-runtime/src/seccomp/default.json");
    let profile: serde_json::Value = serde_json::from_str(text).unwrap();
    let given = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    let has = |rule: &serde_json::Value, key: &str, test: &dyn Fn(&str) -> bool| {
        let list = rule[key].as_array();
        list.is_some_and(|list| list.iter().any(|item| item.as_str().is_some_and(test)))
    };
    let mut names = BTreeSet::new();
    for rule in profile["syscalls"].as_array().unwrap() {
        let caps = &rule["includes"]["caps"];
        let applies = rule["action"] == "SCMP_ACT_ALLOW"
            && (caps.is_null() || has(&rule["includes"], "caps", &|cap| given.contains(&cap)));
        if applies {
            let list = rule["names"].as_array().unwrap();
            names.extend(list.iter().filter_map(|name| name.as_str()).map(str::to_owned));
        }
    }
    names
}

fn filter(world: &World, client: &Client) {
    let Some(probe) = world.probe() else { return };
    let volume = format!("{}:/probe:ro", probe.display());
    let allowed = allowed();
    let numbers = numbers();
    let refused: Vec<&(String, u32)> = numbers.iter().filter(|(name, _)| !allowed.contains(name)).collect();
    assert!(refused.len() > 40, "{refused:?}");
    let input = refused.iter().fold(String::new(), |text, (_, number)| format!("{text}{number}\n"));
    let args = ["run", "--rm", "-i", "--label", "e2e", "--network", "none", "-v", &volume, "e2e/busybox"];
    let answer = client.with_input(&[&args[..], &["/probe", "calls"]].concat(), input.as_bytes()).exits(0);
    let answers: Vec<&str> = answer.lines().collect();
    assert_eq!(answers.len(), refused.len(), "{answer}");
    let call = |args: &[&str]| {
        let command = [&["/probe", "call"], args].concat();
        client.container(&["-v", &volume], &command).exits(0)
    };
    for ((name, number), line) in refused.iter().zip(answers) {
        // 1: not permitted; 38: a call newer than the profile, or clone3, which libraries then do without.
        let newer = name == "clone3" || *number > 450;
        let expected = [format!("{number} 1"), format!("{number} 38")];
        assert!(line == expected[0] || newer && line == expected[1], "{name}: {line}");
    }
    let number = |wanted: &str| {
        numbers.iter().find(|(name, _)| name == wanted).unwrap_or_else(|| panic!("{wanted}")).1.to_string()
    };
    for (name, args, expected) in [
        ("socket", &["38", "5", "0"][..], "1"),
        ("socket", &["40", "1", "0"], "1"),
        ("socket", &["1", "1", "0"], "0"),
        ("unshare", &["0x10000000"], "1"),
        ("unshare", &["0x00020000"], "1"),
        ("clone", &["0x10000011"], "1"),
        ("clone3", &["0", "0"], "38"),
        ("keyctl", &["0", "-3", "0"], "1"),
        ("add_key", &[], "1"),
        ("bpf", &[], "1"),
        ("perf_event_open", &[], "1"),
        ("userfaultfd", &[], "1"),
        ("io_uring_setup", &["1", "0"], "1"),
        ("open_by_handle_at", &[], "1"),
        ("mount_setattr", &[], "1"),
        ("move_mount", &[], "1"),
        ("kexec_load", &[], "1"),
        ("personality", &["0x0008"], "0"),
        ("personality", &["0x0040000"], "1"),
    ] {
        let got = call(&[&[number(name).as_str()], args].concat());
        assert_eq!(got, expected, "{name} {args:?}");
    }
    // The same filter in an exec, and none without one.
    let name = detached(client, "filter", &["-v", &volume], &["sleep", "1000"]);
    let socket = number("socket");
    let exec = ["exec", &name, "/probe", "call", &socket, "38", "5", "0"];
    assert_eq!(client.run(&exec).exits(0), "1");
    remove(client, &name);
    let flags = ["-v", &volume, "--security-opt", "seccomp=unconfined"];
    let open = client.container(&flags, &["/probe", "call", &number("keyctl"), "0", "-3", "0"]).exits(0);
    assert_ne!(open, "1");
}

fn exit_races(world: &World, client: &Client) {
    let body = r#"{"Image":"e2e/busybox","Cmd":["sh","-c","echo x; exit 7"],"Labels":{"e2e":""},
        "AttachStdout":true,"AttachStderr":true,"HostConfig":{"NetworkMode":"none"}}"#;
    for turn in 0..500 {
        let (status, text) = world.api("POST", "/containers/create", body);
        assert_eq!(status, 201, "{turn}: {text}");
        let created: serde_json::Value = serde_json::from_str(&text).unwrap();
        let id = created["Id"].as_str().unwrap();
        let mut attached = world.hijack(id);
        let (status, text) = world.api("POST", &format!("/containers/{id}/start"), "");
        assert_eq!(status, 204, "{turn}: {text}");
        let (status, text) = world.api("POST", &format!("/containers/{id}/wait"), "");
        assert_eq!(status, 200, "{turn}: {text}");
        assert!(text.contains("\"StatusCode\":7"), "{turn}: {text}");
        let mut output = Vec::new();
        attached.read_to_end(&mut output).unwrap();
        assert_eq!(output, b"\x01\0\0\0\0\0\0\x02x\n", "{turn}");
        if turn % 20 == 0 {
            assert_eq!(client.run(&["logs", id]).out, "x\n", "{turn}");
        }
        let (status, text) = world.api("DELETE", &format!("/containers/{id}"), "");
        assert_eq!(status, 204, "{turn}: {text}");
    }
}

fn control_characters(_: &World, client: &Client) {
    let evil = "\x1b[2Jred\x07\r";
    let name = client.unique("evil");
    client.run(&["rm", "-f", &name]);
    client.run(&["create", "--name", &format!("a{evil}"), "e2e/busybox"]).exits(1);
    let label = format!("e2e=\x1b]0;{evil}");
    let args =
        ["create", "--network", "none", "--label", &label, "--name", &name, "e2e/busybox", "echo", evil];
    client.run(&args).exits(0);
    let filter = format!("name=^/{name}$");
    let list = ["ps", "-a", "--no-trunc", "--filter", &filter];
    let formats = ["table", "{{.Command}} {{.Labels}}", "{{.Label \"e2e\"}}", "json"];
    let tables = formats.iter().map(|format| client.run(&[&list[..], &["--format", format]].concat()));
    let refused = client.run(&["rm", &format!("no{evil}")]);
    for outcome in tables.chain([refused, client.run(&["inspect", &name])]) {
        let said = format!("{}{}", outcome.out, outcome.err);
        let raw = said.chars().any(|c| c.is_control() && c != '\n');
        assert!(!raw && !said.is_empty(), "{said:?}");
    }
    remove(client, &name);
}

fn release_agent(_: &World, client: &Client) {
    let outcome = client.container(&[], &["unshare", "-UrmC", "echo", "inside"]);
    assert!(outcome.code != 0 && outcome.out.is_empty(), "{outcome:?}");
    let script = "mkdir /tmp/g && mount -t cgroup -o rdma none /tmp/g && echo mounted";
    let outcome = client.container(&["--cap-add", "SYS_CHROOT"], &["sh", "-c", script]);
    assert!(outcome.code != 0 && !outcome.out.contains("mounted"), "{outcome:?}");
    let script = "for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release); do echo x >$f && echo wrote $f; done 2>/dev/null; echo end";
    assert_eq!(client.container(&[], &["sh", "-c", script]).exits(0), "end");
}

fn injections(world: &World, _: &Client) {
    let long = "A=".to_owned() + &"x".repeat(2 << 20);
    let many: Vec<&str> = std::iter::repeat_n("x", 100_000).collect();
    for (config, field) in [
        (serde_json::json!({"Env": ["A=1\u{0}B=2"]}), "Env"),
        (serde_json::json!({"Env": ["=x"]}), "invalid environment variable"),
        (serde_json::json!({"Env": [long]}), "Env"),
        (serde_json::json!({"Cmd": ["a\u{0}b"]}), "Cmd"),
        (serde_json::json!({"Entrypoint": many}), "Entrypoint"),
        (serde_json::json!({"Hostname": "a\nb"}), "Hostname"),
        (serde_json::json!({"User": "a\nroot"}), "User"),
    ] {
        let mut config = config;
        config["Image"] = "e2e/busybox".into();
        let (status, answer) = world.api("POST", "/containers/create", &config.to_string());
        assert!(status == 400 && answer.contains(field), "{field}: {status} {answer}");
    }
}
