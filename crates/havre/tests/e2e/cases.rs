//! The expectations, the same for every client.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::process::Stdio;

use crate::Test;
use crate::terminal::Terminal;
use crate::world::{Client, World};

/// Everything that is tested.
pub(crate) const ALL: &[Test] = &[
    ("run separates output from errors and returns the exit code", run_returns_everything),
    ("run has the exit codes of a shell for commands that cannot start", run_cannot_start),
    ("run of an unknown image exits with 125", unknown_image),
    ("input reaches the container to its end", input_is_piped),
    ("ten megabytes of output arrive to the byte", large_output),
    ("environment, user and working directory", process_settings),
    ("a container without a network talks to itself", loopback),
    ("users without capabilities have low ports", unprivileged),
    ("bind mounts, read-only mounts, tmpfs and a read-only root", mounts),
    ("entrypoint, names and id files", names_and_files),
    ("a detached container is listed, logged, stopped and removed", detached_life),
    ("logs follow until the container ends", logs_follow),
    ("logs have a tail and times", logs_options),
    ("a signal to the client reaches the container", signals_are_passed_on),
    ("kill, wait, restart and start", kill_and_restart),
    ("rm refuses what runs unless forced", rm_force),
    ("a name is given once", name_conflict),
    ("inspect prints what templates ask for", inspect),
    ("exec runs beside the first process", exec),
    ("exec on a terminal", exec_terminal),
    ("run on a terminal, detached and attached again", run_terminal),
    ("attach shows output and returns the exit code", attach),
    ("images are tagged, listed and removed", images),
    ("images are saved and loaded", save_and_load),
    ("restart policies start again", restart_policy),
    ("an exit is seen by everyone who waits", many_waiters),
];

/// Runs a detached container under a unique name.
pub(crate) fn detached(client: &Client, name: &str, flags: &[&str], command: &[&str]) -> String {
    let name = client.unique(name);
    client.run(&["rm", "-f", &name]);
    let start = ["run", "-d", "--label", "e2e", "--network", "none", "--name", &name];
    let id = client.run(&[&start, flags, &["e2e/busybox"], command].concat()).exits(0);
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    name
}

pub(crate) fn remove(client: &Client, name: &str) {
    client.run(&["rm", "-f", name]).exits(0);
}

pub(crate) fn field(client: &Client, name: &str, template: &str) -> String {
    client.run(&["inspect", "-f", template, name]).exits(0)
}

fn run_returns_everything(_: &World, client: &Client) {
    let outcome = client.container(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((outcome.out.as_str(), outcome.err.as_str(), outcome.code), ("out\n", "err\n", 7));
    assert_eq!(client.container(&[], &["true"]).exits(0), "");
    // The first process of a container ignores its own SIGKILL, so a child's is returned.
    client.container(&[], &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).exits(137);
}

fn run_cannot_start(_: &World, client: &Client) {
    client.container(&[], &["no-such-command"]).fails(127, "executable file not found in $PATH");
    client.container(&[], &["/no/such/path"]).fails(127, "no such file or directory");
    client.container(&[], &["/etc/passwd"]).fails(126, "permission denied");
    client.run(&["run", "--no-such-flag", "e2e/busybox"]).fails(125, "unknown flag: --no-such-flag");
    client.container(&["-u", "nobody-here"], &["true"]).fails(125, "unable to find user nobody-here");
}

fn unknown_image(_: &World, client: &Client) {
    client
        .run(&["run", "--rm", "--pull", "never", "e2e/no-such-image"])
        .fails(125, "No such image: e2e/no-such-image:latest");
    let outcome = client.run(&["run", "--rm", "e2e/no-such-image"]);
    outcome.fails(125, "Unable to find image 'e2e/no-such-image:latest' locally");
    client.run(&["create", "--pull", "never", "e2e/no-such-image"]).fails(1, "No such image");
}

fn input_is_piped(_: &World, client: &Client) {
    let input: Vec<u8> = (0..1_000_003_u32).flat_map(|n| u8::try_from(n % 251)).collect();
    let args = ["run", "--rm", "-i", "--label", "e2e", "--network", "none", "e2e/busybox"];
    let (status, output) = client.bytes(&[&args[..], &["cat"]].concat(), &input);
    assert!(status.success() && output == input, "{status}, {} of {} bytes", output.len(), input.len());
    // What follows the end of input is still seen.
    let outcome = client.with_input(&[&args[..], &["sh", "-c", "wc -c; echo after"]].concat(), &input);
    assert_eq!(outcome.exits(0), "1000003\nafter");
    // A container that reads nothing ends nevertheless.
    client.with_input(&[&args[..], &["true"]].concat(), &input).exits(0);
}

fn large_output(_: &World, client: &Client) {
    let args = ["run", "--rm", "--label", "e2e", "--network", "none", "e2e/busybox", "sh", "-c"];
    let script = "i=0; while [ $i -lt 10 ]; do yes 0123456789abcde | head -c 1048576; i=$((i+1)); done";
    let (status, output) = client.bytes(&[&args[..], &[script]].concat(), &[]);
    assert!(status.success());
    assert_eq!(output.len(), 10 << 20);
    assert!(output.chunks(16).all(|line| line == b"0123456789abcde\n"));
}

fn loopback(_: &World, client: &Client) {
    let script = "ip addr show lo && ping -c 1 -q 127.0.0.1 && grep -c : /proc/net/dev";
    let out = client.container(&[], &["sh", "-c", script]).exits(0);
    assert!(out.contains("LOOPBACK,UP") && out.contains("inet 127.0.0.1/8"), "{out}");
    assert!(out.contains("1 packets received") && out.ends_with("\n1"), "{out}");
}

/// As with Docker, in a network of its own.
fn unprivileged(_: &World, client: &Client) {
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range; \
                  nc -l -p 80 </dev/null & p=$!; for i in $(seq 500); do nc 127.0.0.1 80 </dev/null && break; done; \
                  wait $p; echo bound $?";
    let flags = ["-u", "1000:1000", "--cap-drop", "ALL"];
    let out = client.container(&flags, &["sh", "-c", script]).exits(0);
    assert!(out.starts_with("0\n0\t2147483647\n") && out.ends_with("bound 0"), "{out}");
    let own = ["--sysctl", "net.ipv4.ip_unprivileged_port_start=1024"];
    let kept = client.container(&own, &["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]).exits(0);
    assert_eq!(kept, "1024");
}

fn process_settings(_: &World, client: &Client) {
    let env = client.container(&["-e", "A=1", "-e", "E2E_VALUE", "-e", "EMPTY="], &["env"]).exits(0);
    for line in ["A=1", "E2E_VALUE=from outside", "EMPTY="] {
        assert!(env.lines().any(|have| have == line), "{line} in {env}");
    }
    assert!(
        env.lines().any(|line| line.starts_with("PATH="))
            && env.lines().any(|line| line.starts_with("HOSTNAME="))
    );
    assert_eq!(client.container(&["-u", "bob"], &["id", "-u", "-n"]).exits(0), "bob");
    assert_eq!(
        client.container(&["-u", "bob"], &["id"]).exits(0),
        "uid=1000(bob) gid=1000(bob) groups=10(wheel),1000(bob)"
    );
    assert_eq!(
        client.container(&["-u", "1234:50"], &["sh", "-c", "id -u; id -g; echo $HOME"]).exits(0),
        "1234\n50\n/"
    );
    assert_eq!(client.container(&["-w", "/new/folder"], &["pwd"]).exits(0), "/new/folder");
    assert_eq!(client.container(&["-h", "named"], &["hostname"]).exits(0), "named");
    assert_eq!(client.container(&[], &["sh", "-c", "echo $$"]).exits(0), "1");
}

fn mounts(world: &World, client: &Client) {
    let folder = world.folder().join(client.unique("mounts"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("file"), "inside\n").unwrap();
    let path = folder.to_str().unwrap();
    let write = ["sh", "-c", "cat /m/file && echo new > /m/new"];
    assert_eq!(client.container(&["-v", &format!("{path}:/m")], &write).exits(0), "inside");
    assert_eq!(std::fs::read_to_string(folder.join("new")).unwrap(), "new\n");
    client.container(&["-v", &format!("{path}:/m:ro")], &write).fails(1, "Read-only file system");
    let mount = format!("type=bind,src={path},dst=/m,readonly");
    client.container(&["--mount", &mount], &write).fails(1, "Read-only file system");
    let missing = "type=bind,src=/no/such/source,dst=/m";
    client.container(&["--mount", missing], &["true"]).fails(125, "bind source path does not exist");
    let tmpfs = client
        .container(&["--tmpfs", "/scratch:size=1m"], &["sh", "-c", "df -k /scratch | tail -n 1"])
        .exits(0);
    assert!(tmpfs.starts_with("tmpfs") && tmpfs.contains(" 1024 "), "{tmpfs}");
    client.container(&["--read-only"], &["touch", "/x"]).fails(1, "Read-only file system");
    client.container(&["--read-only", "--tmpfs", "/tmp"], &["touch", "/tmp/x"]).exits(0);
}

fn names_and_files(world: &World, client: &Client) {
    let cid = world.folder().join(client.unique("cid"));
    let path = cid.to_str().unwrap();
    let out = client.container(&["--cidfile", path, "--entrypoint", "echo"], &["a", "b"]).exits(0);
    assert_eq!(out, "a b");
    assert_eq!(std::fs::read_to_string(&cid).unwrap().len(), 64);
    client.container(&["--cidfile", path], &["true"]).fails(125, "container ID file found");
    let env = world.folder().join(client.unique("env"));
    std::fs::write(&env, "# comment\nFROM_FILE=yes\n").unwrap();
    let out =
        client.container(&["--env-file", env.to_str().unwrap()], &["sh", "-c", "echo $FROM_FILE"]).exits(0);
    assert_eq!(out, "yes");
}

fn detached_life(_: &World, client: &Client) {
    let name = detached(
        client,
        "life",
        &[],
        &["sh", "-c", "echo started; trap 'exit 3' TERM; while :; do sleep 0.1; done"],
    );
    let filter = format!("name=^/{name}$");
    let line = client
        .run(&["ps", "--filter", &filter, "--format", "{{.Names}}|{{.Image}}|{{.State}}|{{.Command}}"])
        .exits(0);
    assert!(line.starts_with(&format!("{name}|e2e/busybox|running|\"sh -c 'echo")), "{line}");
    let table = client.run(&["ps", "--filter", &filter]).exits(0);
    assert!(table.starts_with("CONTAINER ID   IMAGE         COMMAND") && table.contains(" Up "), "{table}");
    let mut follow = client.command(&["logs", "-f", &name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(follow.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "started\n");
    assert_eq!(client.run(&["stop", &name]).exits(0), name);
    follow.wait().unwrap();
    assert_eq!(
        field(client, &name, "{{.State.Status}} {{.State.ExitCode}} {{.State.Running}}"),
        "exited 3 false"
    );
    let gone = client.run(&["ps", "-q", "--filter", &filter]).exits(0);
    let still = client.run(&["ps", "-a", "--filter", &filter, "--format", "{{.Status}}"]).exits(0);
    assert!(gone.is_empty() && still.starts_with("Exited (3) "), "{gone} {still}");
    assert_eq!(client.run(&["rm", &name]).exits(0), name);
    client.run(&["inspect", &name]).fails(1, "No such object");
}

fn logs_follow(_: &World, client: &Client) {
    let name = detached(
        client,
        "follow",
        &[],
        &["sh", "-c", "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; echo last >&2"],
    );
    let outcome = client.run(&["logs", "-f", &name]);
    let want = (0..200).fold(String::new(), |mut text, n| {
        writeln!(text, "line {n}").unwrap();
        text
    });
    assert_eq!((outcome.out, outcome.err, outcome.code), (want, "last\n".to_owned(), 0));
    remove(client, &name);
}

fn logs_options(_: &World, client: &Client) {
    let name = detached(client, "logs", &[], &["sh", "-c", "echo one; echo two; printf three"]);
    client.run(&["wait", &name]).exits(0);
    assert_eq!(client.run(&["logs", "--tail", "1", &name]).out, "three");
    assert_eq!(client.run(&["logs", "--tail", "2", &name]).out, "two\nthree");
    assert_eq!(client.run(&["logs", "--tail", "0", &name]).out, "");
    let timed = client.run(&["logs", "-t", &name]).exits(0);
    let line = timed.lines().next().unwrap();
    assert!(line.ends_with("Z one") && line.len() == "2026-01-02T15:04:05.000000000Z one".len(), "{line}");
    assert_eq!(client.run(&["logs", "--since", "2000-01-01", &name]).out, "one\ntwo\nthree");
    assert_eq!(client.run(&["logs", "--until", "2000-01-01", &name]).out, "");
    client.run(&["logs", "no-such-container"]).fails(1, "No such container: no-such-container");
    remove(client, &name);
}

fn signals_are_passed_on(_: &World, client: &Client) {
    let args = ["run", "--rm", "--label", "e2e", "--network", "none", "e2e/busybox", "sh", "-c"];
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let mut command = std::process::Command::new(client.program());
    client.environment(&mut command);
    let mut child = command.args(args).arg(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    assert_eq!(text, "ready\n");
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), child.wait().unwrap().code()), ("ready\ncaught\n", Some(9)));
}

fn kill_and_restart(_: &World, client: &Client) {
    let name = detached(client, "kill", &[], &["sleep", "1000"]);
    let first = field(client, &name, "{{.State.Pid}}");
    let waiter = client.command(&["wait", &name]).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(client.run(&["kill", &name]).exits(0), name);
    assert_eq!(String::from_utf8(waiter.wait_with_output().unwrap().stdout).unwrap(), "137\n");
    client.run(&["kill", &name]).fails(1, "is not running");
    client.run(&["kill", "-s", "NOPE", &name]).fails(1, "nvalid signal: NOPE");
    assert_eq!(client.run(&["start", &name]).exits(0), name);
    let second = field(client, &name, "{{.State.Pid}}");
    assert_eq!(client.run(&["restart", "-t", "0", &name]).exits(0), name);
    let third = field(client, &name, "{{.State.Pid}}");
    assert!(first != second && second != third && third != "0", "{first} {second} {third}");
    client
        .run(&["start", "no-such-container"])
        .fails(1, "Error: failed to start containers: no-such-container");
    remove(client, &name);
}

fn rm_force(_: &World, client: &Client) {
    let name = detached(client, "rm", &[], &["sleep", "1000"]);
    let refused = client.run(&["rm", &name]);
    assert!(
        refused.code == 1 && refused.err.contains("running") && refused.err.contains("force remove"),
        "{refused:?}"
    );
    assert_eq!(client.run(&["rm", "-f", &name]).exits(0), name);
    client.run(&["rm", &name]).fails(1, &format!("No such container: {name}"));
    client.run(&["rm", "-f", &name]).fails(0, "No such container");
}

fn name_conflict(_: &World, client: &Client) {
    let name = client.unique("conflict");
    client.run(&["rm", "-f", &name]);
    let id = client
        .run(&["create", "--label", "e2e", "--network", "none", "--name", &name, "e2e/busybox", "true"])
        .exits(0);
    let message = format!("Conflict. The container name \"/{name}\" is already in use by container \"{id}\"");
    client.run(&["run", "--rm", "--name", &name, "--network", "none", "e2e/busybox"]).fails(125, &message);
    client
        .run(&["create", "--name", "bad name", "e2e/busybox"])
        .fails(1, "Invalid container name (bad name)");
    assert_eq!(field(client, &id[..12], "{{.Name}} {{.State.Status}}"), format!("/{name} created"));
    assert_eq!(client.run(&["start", "-a", &name]).exits(0), "");
    remove(client, &name);
}

fn inspect(_: &World, client: &Client) {
    let name = detached(
        client,
        "inspect",
        &["-m", "64m", "--label", "a=b", "-e", "X=1", "--stop-timeout", "0"],
        &["sleep", "1000"],
    );
    let template = "{{.Name}} {{.HostConfig.Memory}} {{.Config.Labels.a}} {{json .Config.Cmd}} {{.HostConfig.NetworkMode}} {{.State.Running}} {{len .Id}}";
    assert_eq!(
        field(client, &name, template),
        format!("/{name} 67108864 b [\"sleep\",\"1000\"] none true 64")
    );
    assert_eq!(
        field(client, &name, "{{if .State.Health}}yes{{else}}no{{end}} {{.Config.StopTimeout}}"),
        "no 0"
    );
    let whole = client.run(&["inspect", &name]).exits(0);
    assert!(whole.starts_with("[\n    {\n        \"Id\": \"") && whole.ends_with("\n]"), "{whole}");
    let both = client.run(&["inspect", &name, "no-such-object"]);
    assert!(
        both.code == 1 && both.out.contains("\"Id\"") && both.err.contains("No such object: no-such-object")
    );
    client.run(&["inspect", "-f", "{{.NoSuchField}}", &name]).fails(1, "NoSuchField");
    remove(client, &name);
}

fn exec(_: &World, client: &Client) {
    let name = detached(client, "exec", &["-e", "OUTER=1"], &["sleep", "1000"]);
    let outcome = client.run(&["exec", &name, "sh", "-c", "echo out; echo err >&2; exit 5"]);
    assert_eq!((outcome.out.as_str(), outcome.err.as_str(), outcome.code), ("out\n", "err\n", 5));
    assert_eq!(client.with_input(&["exec", "-i", &name, "cat"], b"through").exits(0), "through");
    let script = ["sh", "-c", "id -un; pwd; echo $OUTER $INNER"];
    let args = [&["exec", "-u", "bob", "-w", "/tmp", "-e", "INNER=2", &name], &script[..]].concat();
    assert_eq!(client.run(&args).exits(0), "bob\n/tmp\n1 2");
    let missing = client.run(&["exec", &name, "no-such-command"]);
    assert!(matches!(missing.code, 126 | 127), "{missing:?}");
    assert!(
        format!("{}{}", missing.out, missing.err).contains("executable file not found in $PATH"),
        "{missing:?}"
    );
    client.run(&["exec", "-d", &name, "touch", "/tmp/made"]).exits(0);
    client.run(&["exec", &name, "sh", "-c", "until [ -e /tmp/made ]; do sleep 0.05; done"]).exits(0);
    client.run(&["exec", "no-such-container", "true"]).fails(1, "No such container: no-such-container");
    let large = client.bytes(&["exec", &name, "sh", "-c", "yes 0123456789abcde | head -c 4194304"], &[]).1;
    assert!(large.len() == 4 << 20 && large.chunks(16).all(|line| line == b"0123456789abcde\n"));
    client.run(&["kill", &name]).exits(0);
    client.run(&["exec", &name, "true"]).fails(1, "is not running");
    remove(client, &name);
}

fn exec_terminal(_: &World, client: &Client) {
    let name = detached(client, "exec-tty", &[], &["sleep", "1000"]);
    let mut terminal = Terminal::run(client, &["exec", "-it", &name, "sh"]);
    terminal.expect("#");
    terminal.send("tty; stty size\r");
    terminal.expect("/dev/pts/");
    terminal.expect("40 100");
    terminal.send("exit 4\r");
    assert_eq!(terminal.end(), 4);
    let refused = client.with_input(&["exec", "-it", &name, "sh"], b"");
    assert_eq!(refused.code, 1);
    remove(client, &name);
}

fn run_terminal(_: &World, client: &Client) {
    let name = client.unique("tty");
    client.run(&["rm", "-f", &name]);
    let mut terminal = Terminal::run(
        client,
        &["run", "-it", "--label", "e2e", "--network", "none", "--name", &name, "e2e/busybox"],
    );
    terminal.expect("#");
    terminal.send("trap 'stty size' WINCH; stty size; echo $((40+2))\r");
    terminal.expect("40 100");
    terminal.expect("42");
    // Clients watch the window only some time after the start, and nothing tells when.
    terminal.send("sleep 0.5; echo slept $((2+3))\r");
    terminal.expect("slept 5");
    terminal.resize(30, 90);
    // The shell runs its trap when the next command ends.
    terminal.send("until stty size | grep '^30'; do sleep 0.05; done\r");
    terminal.expect("30 90");
    terminal.send("\x10\x11");
    assert_eq!(terminal.end(), 0, "detaching is no failure");
    assert_eq!(field(client, &name, "{{.State.Running}}"), "true");
    let mut terminal = Terminal::run(client, &["attach", &name]);
    terminal.send("echo again $((1+1))\r");
    terminal.expect("again 2");
    terminal.send("exit 6\r");
    assert_eq!(terminal.end(), 6);
    assert_eq!(field(client, &name, "{{.State.ExitCode}}"), "6");
    remove(client, &name);
}

fn attach(_: &World, client: &Client) {
    let name = detached(client, "attach", &["-i"], &["sh", "-c", "read line; echo got $line; exit 8"]);
    let mut command = client.command(&["attach", &name]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // The input stays open: what its end does to the output is another test's question.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"got hello\n"[..], Some(8)));
    client.run(&["attach", &name]).fails(1, "cannot attach to a stopped container, start it first");
    remove(client, &name);
}

fn images(_: &World, client: &Client) {
    let reference = format!("{}:v1", client.unique("image"));
    let repository = client.unique("image");
    client.run(&["tag", "e2e/busybox", &reference]).exits(0);
    let line = client.run(&["images", "--format", "{{.Repository}}:{{.Tag}}", &reference]).exits(0);
    assert_eq!(line, reference);
    let table = client.run(&["images", &repository]).exits(0);
    assert!(table.starts_with("REPOSITORY") && table.contains("IMAGE ID") && table.contains("v1"), "{table}");
    let id = client.run(&["image", "inspect", "-f", "{{.Id}}", &reference]).exits(0);
    assert_eq!(client.run(&["images", "-q", "--no-trunc", &reference]).exits(0), id);
    assert_eq!(client.run(&["rmi", &reference]).exits(0), format!("Untagged: {reference}"));
    client.run(&["rmi", &reference]).fails(1, &format!("No such image: {reference}"));
    let tar = [0_u8; 1024];
    let import = client.with_input(&["import", "-m", "from a test", "-", &reference], &tar).exits(0);
    assert!(import.starts_with("sha256:"), "{import}");
    let history = client.run(&["history", "--format", "{{.Comment}}", &reference]).exits(0);
    assert_eq!(history, "from a test");
    let removed = client.run(&["rmi", &reference]).exits(0);
    assert!(
        removed.contains(&format!("Untagged: {reference}"))
            && removed.contains(&format!("Deleted: {import}")),
        "{removed}"
    );
    client.run(&["tag", "e2e/no-such-image", "x"]).fails(1, "No such image: e2e/no-such-image:latest");
}

fn save_and_load(world: &World, client: &Client) {
    let reference = format!("{}:v1", client.unique("saved"));
    client.run(&["tag", "e2e/busybox", &reference]).exits(0);
    let id = client.run(&["image", "inspect", "-f", "{{.Id}}", &reference]).exits(0);
    let archive = world.folder().join(client.unique("saved.tar"));
    let path = archive.to_str().unwrap();
    client.run(&["save", "-o", path, &reference]).exits(0);
    client.run(&["rmi", &reference]).exits(0);
    let (status, piped) = client.bytes(&["load"], &std::fs::read(path).unwrap());
    assert!(status.success());
    assert_eq!(String::from_utf8_lossy(&piped).trim(), format!("Loaded image: {reference}"));
    client.run(&["rmi", &reference]).exits(0);
    assert_eq!(client.run(&["load", "-i", path]).exits(0), format!("Loaded image: {reference}"));
    assert_eq!(client.run(&["image", "inspect", "-f", "{{.Id}}", &reference]).exits(0), id);
    client.run(&["rmi", &reference]).exits(0);
    client.run(&["load", "-i", "/no/such/file"]).fails(1, "no such file or directory");
    assert_eq!(client.bytes(&["load"], b"not an archive").0.code(), Some(1));
}

fn restart_policy(_: &World, client: &Client) {
    let name = detached(client, "policy", &["--restart", "on-failure:2"], &["sh", "-c", "echo try; exit 1"]);
    // `logs -f` ends between two tries; the third `try` is the last.
    let tries = (0..200).find(|_| {
        client.run(&["wait", &name]).exits(0);
        field(client, &name, "{{.RestartCount}} {{.State.Status}}") == "2 exited"
    });
    assert!(tries.is_some(), "{}", field(client, &name, "{{.RestartCount}} {{.State.Status}}"));
    assert_eq!(client.run(&["logs", &name]).exits(0), "try\ntry\ntry");
    remove(client, &name);
}

fn many_waiters(_: &World, client: &Client) {
    let name = detached(client, "waiters", &["-i"], &["sh", "-c", "read line; exit 11"]);
    let waiters: Vec<_> =
        (0..4).map(|_| client.command(&["wait", &name]).stdout(Stdio::piped()).spawn().unwrap()).collect();
    client.with_input(&["attach", &name], b"go\n").exits(11);
    for waiter in waiters {
        assert_eq!(String::from_utf8(waiter.wait_with_output().unwrap().stdout).unwrap(), "11\n");
    }
    remove(client, &name);
}
