//! What flags do that no other file of tests shows: one effect of each, seen from inside or by a second command.

use crate::Test;
use crate::cases::{detached, field, remove};
use crate::private::Private;
use crate::terminal::Terminal;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("flags_of_names_reach_the_files_of_a_container", names),
    ("flags_about_a_container_are_kept_and_shown", kept),
    ("flags_of_signals_decide_how_a_container_ends", signals),
    ("flags_of_detach_keys_are_obeyed", detach_keys),
    ("flags_of_attaching_choose_what_is_passed_on", attaching),
    ("flags_of_logs_tell_of_the_container", log_details),
    ("flags_of_devices_without_a_driver_are_refused", no_driver),
    ("flags_of_described_devices_are_obeyed", described_devices),
    ("flags_that_linux_has_not_are_refused", not_here),
    ("flags_of_the_api_socket_give_the_engine_to_a_container", api_socket),
    ("flags_of_updates_reach_the_control_group", updates),
    ("flags_of_lists_choose_and_format", lists),
    ("flags_of_exec_read_variables_from_files", exec_files),
    ("flags_that_wait_are_refused_by_name", waiting),
];

fn names(_: &World, client: &Client) {
    let run = ["run", "--rm", "--label", "e2e", "--net", "none"];
    let flags = [
        "--add-host",
        "one:10.1.2.3",
        "--dns",
        "10.9.8.7",
        "--dns-search",
        "example.test",
        "--dns-option",
        "ndots:3",
        "--dns-opt",
        "attempts:1",
        "--domainname",
        "nis.test",
    ];
    let script = "cat /etc/hosts /etc/resolv.conf /proc/sys/kernel/domainname; ls /sys/class/net";
    let all = client.run(&[&run[..], &flags, &["e2e/busybox", "sh", "-c", script]].concat()).exits(0);
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for line in ["10.1.2.3 one", "nameserver 10.9.8.7", "search example.test", "nis.test", "lo"] {
        assert!(all.lines().any(|found| words(found) == line), "{line}: {all}");
    }
    let options = all.lines().find(|line| line.starts_with("options ")).unwrap();
    assert!(options.contains("ndots:3") && options.contains("attempts:1"), "{options}");
}

fn kept(world: &World, client: &Client) {
    let labels = world.folder().join(client.unique("labels"));
    std::fs::write(&labels, "# a note\nfrom.file=yes\nalone\n").unwrap();
    let labels = labels.to_str().unwrap();
    let flags = [
        "--label-file",
        labels,
        "--annotation",
        "a.b=c",
        "--no-healthcheck",
        "--platform",
        "linux/amd64",
        "--stop-timeout",
        "7",
        "--disable-content-trust",
    ];
    let name = detached(client, "kept", &flags, &["true"]);
    let shown = field(client, &name, r#"{{index .Config.Labels "from.file"}} {{.Config.StopTimeout}}"#);
    assert_eq!(shown, "yes 7");
    assert_eq!(field(client, &name, "{{json .Config.Healthcheck.Test}}"), r#"["NONE"]"#);
    assert_eq!(field(client, &name, r#"{{index .HostConfig.Annotations "a.b"}}"#), "c");
    assert_eq!(
        client.run(&["inspect", "--type", "container", "-f", "{{.Name}}", &name]).exits(0),
        format!("/{name}")
    );
    client.run(&["inspect", "--type", "image", &name]).fails(1, "o such image");
    remove(client, &name);
    let name = detached(client, "no-log", &["--log-driver", "none"], &["echo", "x"]);
    client.run(&["wait", &name]).exits(0);
    client.run(&["logs", &name]).fails(1, "configured logging driver does not support reading");
    remove(client, &name);
    client.container(&["--platform", "linux/mips64le"], &["true"]).exits(125);
}

fn signals(_: &World, client: &Client) {
    let script =
        "trap 'exit 3' USR1; trap 'exit 4' USR2; trap '' TERM; echo up; while :; do sleep 0.05; done";
    for (flags, stop, code) in [
        (&["--stop-signal", "USR1"][..], &["stop", "-t", "20"][..], "3"),
        (&[], &["stop", "--signal", "USR2", "--time", "20"], "4"),
        (&[], &["stop", "--signal", "TERM", "-t", "0"], "137"),
        (&["--stop-timeout", "0"], &["stop"], "137"),
    ] {
        let name = detached(client, "signals", flags, &["sh", "-c", script]);
        client.follow_until(&name, "up");
        client.run(&[stop, &[&name]].concat()).exits(0);
        assert_eq!(field(client, &name, "{{.State.ExitCode}}"), code, "{flags:?} {stop:?}");
        remove(client, &name);
    }
    let name = detached(client, "signals", &[], &["sh", "-c", script]);
    client.follow_until(&name, "up");
    client.run(&["restart", "--time", "20", "--signal", "USR1", &name]).exits(0);
    remove(client, &name);
}

fn detach_keys(_: &World, client: &Client) {
    let name = client.unique("keys");
    client.run(&["rm", "-f", &name]);
    let run = ["run", "-it", "--label", "e2e", "--network", "none", "--name", &name];
    let mut terminal =
        Terminal::run(client, &[&run[..], &["--detach-keys", "ctrl-x,q", "e2e/busybox"]].concat());
    terminal.expect("#");
    terminal.send("echo $((40+2))\r");
    terminal.expect("42");
    terminal.send("\x18q");
    assert_eq!(terminal.end(), 0);
    let mut terminal = Terminal::run(client, &["attach", "--detach-keys", "ctrl-e", &name]);
    terminal.send("echo $((50+3))\r");
    terminal.expect("53");
    terminal.send("\x05");
    terminal.end();
    assert_eq!(field(client, &name, "{{.State.Running}}"), "true");
    let mut terminal = Terminal::run(client, &["exec", "-it", "--detach-keys", "ctrl-y", &name, "sh"]);
    terminal.expect("#");
    terminal.send("\x19");
    terminal.end();
    client.run(&["stop", "-t", "0", &name]).exits(0);
    let mut terminal = Terminal::run(client, &["start", "-ai", "--detach-keys", "ctrl-e", &name]);
    terminal.expect("#");
    terminal.send("\x05");
    terminal.end();
    assert_eq!(field(client, &name, "{{.State.Running}}"), "true");
    remove(client, &name);
}

fn attaching(_: &World, client: &Client) {
    let name = client.unique("input");
    client.run(&["rm", "-f", &name]);
    let create = ["create", "-i", "--label", "e2e", "--network", "none", "--name", &name, "e2e/busybox"];
    client.run(&[&create[..], &["sh", "-c", "read line; echo got $line"]].concat()).exits(0);
    assert_eq!(
        client.with_input(&["start", "--attach", "--interactive", &name], b"hello\n").exits(0),
        "got hello"
    );
    remove(client, &name);
    let name = detached(client, "no-stdin", &["-i"], &["sh", "-c", "sleep 1; echo end"]);
    let outcome = client.with_input(&["attach", "--no-stdin", &name], b"never read\n");
    assert_eq!(outcome.exits(0), "end");
    remove(client, &name);
    // A signal to a client that does not pass it on ends the client, not the container.
    let trap = "trap 'echo trapped' TERM; echo up; while :; do sleep 0.05; done";
    for flag in ["--sig-proxy=false", "--sig-proxy=true"] {
        let name = detached(client, "proxy", &[], &["sh", "-c", trap]);
        client.follow_until(&name, "up");
        let mut command = std::process::Command::new(client.program());
        client.environment(&mut command);
        command.args(["attach", flag, &name]).stdout(std::process::Stdio::piped());
        let mut child = command.stdin(std::process::Stdio::null()).spawn().unwrap();
        // Attached as soon as what the container says arrives.
        client.run(&["exec", &name, "sh", "-c", "echo seen >/proc/1/fd/1"]).exits(0);
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let mut attached = false;
        while !attached {
            client.run(&["exec", &name, "sh", "-c", "echo seen >/proc/1/fd/1"]).exits(0);
            attached = lines.next().is_some_and(|line| line.unwrap() == "seen");
        }
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        if flag == "--sig-proxy=false" {
            // The shell would have been told before it answers this.
            client.run(&["exec", &name, "sh", "-c", "echo after >/proc/1/fd/1"]).exits(0);
            client.follow_until(&name, "after");
            assert!(!client.run(&["logs", &name]).exits(0).contains("trapped"));
        } else {
            client.follow_until(&name, "trapped");
        }
        // Some clients outlive one signal.
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(field(client, &name, "{{.State.Running}}"), "true");
        remove(client, &name);
    }
}

fn log_details(_: &World, client: &Client) {
    let flags = [
        "--log-opt",
        "tag={{.Name}} {{.ImageName}}",
        "--log-opt",
        "labels=a,none",
        "--log-opt",
        "env=E",
        "--label",
        "a=b&c",
        "-e",
        "E=1",
        "--log-opt",
        "max-size=2m",
    ];
    let name = detached(client, "details", &flags, &["sh", "-c", "echo out; echo err >&2"]);
    client.run(&["wait", &name]).exits(0);
    let details = format!("E=1,a=b%26c,tag={name}+e2e%2Fbusybox");
    let outcome = client.run(&["logs", "--details", &name]);
    assert_eq!((outcome.out, outcome.err), (format!("{details} out\n"), format!("{details} err\n")));
    assert_eq!(client.run(&["logs", &name]).out, "out\n");
    remove(client, &name);
    client.container(&["--log-opt", "tag={{.Nope}}"], &["true"]).fails(125, "can't evaluate field Nope");
    client
        .container(&["--log-opt", "foo=bar"], &["true"])
        .fails(125, "unknown log opt 'foo' for json-file log driver");
}

fn no_driver(_: &World, client: &Client) {
    for (gpus, capabilities) in [
        ("all", "[[gpu]]"),
        ("2", "[[gpu]]"),
        ("device=0", "[[gpu]]"),
        ("capabilities=utility", "[[utility gpu]]"),
    ] {
        let message = format!("could not select device driver \"\" with capabilities: {capabilities}");
        client.container(&["--gpus", gpus], &["true"]).fails(125, &message);
    }
    client
        .container(&["--gpus", "foo"], &["true"])
        .fails(125, "invalid count (foo): value must be either \"all\"");
    client
        .container(&["--device", "havre.test/none=such"], &["true"])
        .fails(125, "CDI device injection failed: unresolvable CDI devices havre.test/none=such");
}

const DESCRIBED: &str = r#"{"cdiVersion":"0.6.0","kind":"havre.test/dev","containerEdits":{"env":["COMMON=yes"]},
  "devices":[{"name":"null","containerEdits":{"env":["GIVEN=1"],"additionalGids":[4242],
    "deviceNodes":[{"path":"/dev/mine","hostPath":"/dev/loop-control","permissions":"rw"}],
    "mounts":[{"hostPath":"FOLDER","containerPath":"/described","options":["ro","nosuid","bind"]}],
    "hooks":[{"hookName":"createRuntime","path":"/bin/touch","args":["touch","FOLDER/hooked"]}]}}]}"#;

fn described_devices(_: &World, client: &Client) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    std::fs::write(folder.path().join("test.json"), DESCRIBED.replace("FOLDER", at)).unwrap();
    let mut daemon = Private::start("{}", &["-H", "SOCKET", "--cdi-spec-dir", at]);
    daemon.load(client);
    let info = daemon.run(client, &["info", "-f", "{{json .CDISpecDirs}}"]).exits(0);
    assert_eq!(info, format!("[\"{at}\"]"));
    let script = "echo $COMMON $GIVEN; ls /described; id -G; test -c /dev/mine && echo node; touch /described/x || echo read-only";
    let run = [
        "run",
        "--rm",
        "--network",
        "none",
        "--device",
        "havre.test/dev=null",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let out = daemon.run(client, &run).exits(0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[lines.len() - 2], lines[lines.len() - 1]), ("yes 1", "node", "read-only"));
    assert!(lines.contains(&"test.json") && out.contains("4242"), "{out}");
    assert!(folder.path().join("hooked").exists());
    // A description that goes away is gone at the next start.
    std::fs::remove_file(folder.path().join("test.json")).unwrap();
    daemon.run(client, &run).fails(125, "unresolvable CDI devices havre.test/dev=null");
    daemon.end();
    let mut daemon = Private::start(r#"{"features":{"cdi":false}}"#, &["-H", "SOCKET"]);
    daemon.load(client);
    daemon.run(client, &run).fails(125, "could not select device driver \"cdi\" with capabilities: []");
    daemon.end();
}

fn not_here(_: &World, client: &Client) {
    let refused = |flags: &[&str], message: &str| client.container(flags, &["true"]).fails(125, message);
    refused(&["--isolation", "hyperv"], "nvalid isolation: \"hyperv\" - linux only supports 'default'");
    client.container(&["--isolation", "default"], &["true"]).exits(0);
    refused(&["--userns", "foo"], "--userns: invalid USER mode");
    client.container(&["--userns", "host"], &["true"]).exits(0);
    refused(&["--pid", "foo"], "--pid: invalid PID mode");
    refused(&["--uts", "foo"], "--uts: invalid UTS mode");
    refused(&["--cgroupns", "foo"], "--cgroupns: invalid CGROUP mode");
    refused(&["--storage-opt", "size=1g"], "--storage-opt");
    refused(&["--storage-opt", "size"], "invalid storage option");
    refused(&["--memory-swappiness", "101"], "invalid value: 101. Valid memory swappiness range is 0-100");
    refused(&["--runtime", "foo"], "nknown or invalid runtime name: foo");
}

fn api_socket(world: &World, client: &Client) {
    // The official client always mounts the usual path, which is another daemon's or nobody's here.
    if client.name == "docker" {
        return;
    }
    let folder = world.folder().join(client.unique("api-config"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), r#"{"auths":{"registry.test":{"auth":"c2VjcmV0"}}}"#).unwrap();
    let mut command = client.command(&[
        "run", "--rm", "--label", "e2e", "--network", "none", "--use-api-socket", "e2e/busybox", "sh", "-c",
        "test -S /var/run/docker.sock && cat $DOCKER_CONFIG/config.json && stat -c %a $DOCKER_CONFIG/config.json",
    ]);
    let output = command.env("DOCKER_CONFIG", &folder).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("c2VjcmV0") && out.trim().ends_with("600"), "{out}{err}");
}

fn updates(_: &World, client: &Client) {
    let name = detached(client, "update", &["-m", "64m", "--memory-swap", "64m"], &["sleep", "1000"]);
    let flags = [
        "--memory",
        "80m",
        "--memory-swap",
        "96m",
        "--memory-reservation",
        "40m",
        "--cpu-quota",
        "30000",
        "--cpu-period",
        "100000",
        "--cpuset-mems",
        "0",
    ];
    client.run(&[&["update"], &flags[..], &[&name]].concat()).exits(0);
    let shown = field(
        client,
        &name,
        "{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.MemoryReservation}} {{.CpuQuota}} {{.CpusetMems}}{{end}}",
    );
    assert_eq!(shown, "83886080 100663296 41943040 30000 0");
    let read = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null | cut -d' ' -f1";
    assert_eq!(client.run(&["exec", &name, "sh", "-c", read]).exits(0), "30000");
    remove(client, &name);
}

fn lists(world: &World, client: &Client) {
    let all = client
        .run(&["image", "ls", "--all", "--digests", "--format", "{{.Repository}} {{.Digest}}"])
        .exits(0);
    assert!(all.lines().any(|line| line.starts_with("e2e/busybox ")), "{all}");
    let exact = client.run(&["history", "--human=false", "--format", "{{.Size}}", "e2e/busybox"]).exits(0);
    assert!(exact.lines().all(|size| size.bytes().all(|b| b.is_ascii_digit())), "{exact}");
    let tag = format!("{}:x", client.unique("prune"));
    client.run(&["tag", "e2e/busybox", &tag]).exits(0);
    client.run(&["rmi", "--no-prune", &tag]).exits(0);
    client.run(&["version", "--format", "{{.Server.Os}}"]).exits(0);
    let file = world.folder().join(client.unique("copied"));
    let name = detached(client, "copy", &[], &["sleep", "1000"]);
    let from = format!("{name}:/etc/passwd");
    let quiet = client.run(&["cp", "--quiet", &from, file.to_str().unwrap()]);
    assert_eq!((quiet.code, quiet.out.as_str(), quiet.err.as_str()), (0, "", ""));
    remove(client, &name);
}

fn exec_files(world: &World, client: &Client) {
    let file = world.folder().join(client.unique("exec-env"));
    std::fs::write(&file, "# note\nA=from file\nE2E_VALUE\n").unwrap();
    let name = detached(client, "exec-env", &[], &["sleep", "1000"]);
    let script = "echo $A, $E2E_VALUE, $B";
    let exec = ["exec", "--env-file", file.to_str().unwrap(), "--env", "B=2", &name, "sh", "-c", script];
    assert_eq!(client.run(&exec).exits(0), "from file, from outside, 2");
    remove(client, &name);
}

fn waiting(_: &World, client: &Client) {
    for flags in [
        &[
            "--health-cmd",
            "true",
            "--health-interval",
            "1s",
            "--health-timeout",
            "1s",
            "--health-retries",
            "2",
        ][..],
        &["--volumes-from", "x"],
        &["--volume-driver", "x"],
        &["--log-driver", "syslog"],
    ] {
        let outcome = client.container(flags, &["true"]);
        assert_eq!(outcome.code, 125, "{flags:?}");
        outcome.fails(125, "not yet supported");
    }
    for flags in [
        &["--health-cmd", "true", "--health-start-period", "1s"][..],
        &["--health-cmd", "true", "--health-start-interval", "1s"],
    ] {
        client.container(flags, &["true"]).fails(125, "not yet supported");
    }
    let on_default = |flags: &[&str]| {
        client.run(&[&["run", "--rm", "--label", "e2e"], flags, &["e2e/busybox", "true"]].concat())
    };
    on_default(&["--publish-all", "--expose", "80"]).exits(0);
    on_default(&["--mac-address", "92:d0:c6:0a:29:33"]).exits(0);
    for flags in [["--ip", "10.0.0.1"], ["--ip6", "fd00::1"], ["--link-local-ip", "169.254.1.1"]] {
        on_default(&flags).fails(125, "supported on user defined networks only");
    }
    on_default(&["--network-alias", "x"]).fails(125, "only supported for user-defined networks");
}
