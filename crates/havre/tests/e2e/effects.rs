//! What flags do, one effect of each that no other file of tests shows: each of these tests fails when the
//! flag is ignored.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::cases::{detached, field, remove};
use crate::limits::{disk_below, group_file};
use crate::private::Private;
use crate::terminal::Terminal;
use crate::world::{Client, Outcome, World};

pub(crate) const ALL: &[Test] = &[
    ("effects_of_run_on_streams_and_removal", streams),
    ("effects_of_passing_signals_on", signal_proxy),
    ("effects_of_exec", exec),
    ("effects_of_signals_and_timeouts", endings),
    ("effects_of_limits_on_the_control_group", limits),
    ("effects_of_limits_on_reading_a_disk", slow_reads),
    ("effects_of_times_of_logs", log_times),
    ("effects_of_quiet_copies", quiet_copy),
    ("effects_of_formats_of_the_system", formats),
    ("effects_of_commit", commit),
    ("effects_of_lists_of_containers", container_lists),
    ("effects_of_lists_of_images", image_lists),
    ("effects_of_removing_and_importing_images", image_changes),
    ("effects_of_quiet_loads", quiet_load),
    ("effects_of_contexts", contexts),
    ("effects_of_removing_links", links),
];

fn streams(_: &World, client: &Client) {
    let both = ["sh", "-c", "echo out; echo err >&2"];
    let said = |outcome: Outcome| (outcome.out, outcome.err);
    assert_eq!(said(client.container(&["-a", "stdout"], &both)), ("out\n".to_owned(), String::new()));
    assert_eq!(said(client.container(&["--attach", "STDERR"], &both)), (String::new(), "err\n".to_owned()));
    let terminal = ["sh", "-c", "test -t 1 && echo terminal"];
    assert_eq!(client.container(&["--tty"], &terminal).exits(0), "terminal");
    client.container(&[], &terminal).exits(1);
    let name = client.unique("removed");
    for (flags, left) in [(&["--rm"][..], false), (&[], true)] {
        client.run(&["rm", "-f", &name]);
        let run = ["run", "--label", "e2e", "--network", "none", "--name", &name];
        client.run(&[&run[..], flags, &["e2e/busybox", "true"]].concat()).exits(0);
        assert_eq!(client.run(&["inspect", &name]).code == 0, left, "{flags:?}");
    }
    client.run(&["rm", &name]).exits(0);
    // In the background: else the client would be ended before this is over.
    let name = detached(client, "background", &[], &["sleep", "1000"]);
    assert_eq!(field(client, &name, "{{.State.Running}}"), "true");
    remove(client, &name);
    let links = ["ls", "/sys/class/net"];
    assert_eq!(client.container(&[], &links).exits(0), "lo");
    let host = client.run(&[
        "run",
        "--rm",
        "--label",
        "e2e",
        "--network",
        "host",
        "e2e/busybox",
        "readlink",
        "/proc/self/ns/net",
    ]);
    assert_eq!(host.exits(0), std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
}

fn signal_proxy(_: &World, client: &Client) {
    let trap = "trap 'echo trapped' TERM; echo up; while :; do sleep 0.05; done";
    for flag in ["--sig-proxy=false", "--sig-proxy=true"] {
        let name = client.unique("run-proxy");
        client.run(&["rm", "-f", &name]);
        let mut command = std::process::Command::new(client.program());
        client.environment(&mut command);
        let run = ["run", flag, "--label", "e2e", "--network", "none", "--name", &name, "e2e/busybox"];
        command.args(run).args(["sh", "-c", trap]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "up");
        kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
        if flag == "--sig-proxy=false" {
            // The shell would have been told before it answers this.
            client.run(&["exec", &name, "sh", "-c", "echo after >/proc/1/fd/1"]).exits(0);
            client.follow_until(&name, "after");
            assert!(!client.run(&["logs", &name]).exits(0).contains("trapped"));
        } else {
            client.follow_until(&name, "trapped");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        remove(client, &name);
    }
}

fn exec(_: &World, client: &Client) {
    let name = detached(client, "effects", &[], &["sleep", "1000"]);
    // A client that waited for it would be ended after a minute.
    assert_eq!(client.run(&["exec", "-d", &name, "sleep", "1000"]).exits(0), "");
    let terminal = ["sh", "-c", "test -t 1 && echo terminal"];
    assert_eq!(client.run(&[&["exec", "-t", &name], &terminal[..]].concat()).exits(0), "terminal");
    client.run(&[&["exec", &name], &terminal[..]].concat()).exits(1);
    let rights = ["sh", "-c", "grep CapEff /proc/self/status | cut -f2"];
    let few = client.run(&[&["exec", &name], &rights[..]].concat()).exits(0);
    let all = client.run(&[&["exec", "--privileged", &name], &rights[..]].concat()).exits(0);
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    assert!(number(&all) > number(&few) && number(&all) & number(&few) == number(&few), "{few} {all}");
    assert_eq!(client.with_input(&["exec", "-i", &name, "cat"], b"in").exits(0), "in");
    assert_eq!(client.with_input(&["exec", &name, "cat"], b"in").exits(0), "");
    remove(client, &name);
}

/// The exit codes of a container's runs, from its events.
fn exits(world: &World, client: &Client, name: &str) -> Vec<String> {
    let container = format!("container={}", field(client, name, "{{.Id}}"));
    let until = world.now();
    let past =
        ["events", "--since", "10m", "--until", &until, "--filter", &container, "--filter", "event=die"];
    let format = ["--format", "{{.Actor.Attributes.exitCode}}"];
    client.run(&[&past[..], &format].concat()).exits(0).lines().map(str::to_owned).collect()
}

fn endings(world: &World, client: &Client) {
    let script = "trap 'exit 3' USR1; trap '' TERM; echo up; while :; do sleep 0.05; done";
    // Without the flags each of these would wait for ten minutes, which no client of a test does.
    let name = detached(client, "endings", &["--stop-timeout", "600"], &["sh", "-c", script]);
    client.follow_until(&name, "up");
    client.run(&["restart", "--timeout", "0", &name]).exits(0);
    assert_eq!(exits(world, client, &name), ["137"]);
    client.run(&["logs", "--tail", "1", &name]).exits(0);
    let twice = || client.run(&["logs", &name]).exits(0).lines().filter(|line| *line == "up").count() == 2;
    while !twice() {}
    client.run(&["restart", "--signal", "USR1", &name]).exits(0);
    assert_eq!(exits(world, client, &name), ["137", "3"]);
    client.run(&["stop", "--timeout", "0", &name]).exits(0);
    assert_eq!(field(client, &name, "{{.State.ExitCode}}"), "137");
    remove(client, &name);
    let name = detached(client, "endings", &[], &["sh", "-c", script]);
    client.follow_until(&name, "up");
    client.run(&["kill", "--signal", "USR1", &name]).exits(0);
    assert_eq!(client.run(&["wait", &name]).exits(0), "3");
    remove(client, &name);
}

fn limits(_: &World, client: &Client) {
    let parent = format!("/{}", client.unique("parent"));
    let flags = [
        "--memory",
        "64m",
        "--memory-swap",
        "96m",
        "--memory-swappiness",
        "7",
        "--oom-kill-disable",
        "--cpuset-mems",
        "0",
        "--cgroup-parent",
        &parent,
    ];
    let name = detached(client, "grouped", &flags, &["sleep", "1000"]);
    let pid = field(client, &name, "{{.State.Pid}}");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let below = format!("{parent}/");
    assert!(groups.lines().any(|line| line.contains(&below)), "{groups}");
    match group_file(&pid, "memory.memsw.limit_in_bytes") {
        Some(both) => {
            assert_eq!(both.trim(), (96 << 20).to_string());
            assert_eq!(group_file(&pid, "memory.swappiness").unwrap().trim(), "7");
            let control = group_file(&pid, "memory.oom_control").unwrap();
            assert!(control.lines().any(|line| line == "oom_kill_disable 1"), "{control}");
        }
        // The newer hierarchy counts swap alone and has neither of the others, which are discarded and said.
        None => {
            assert_eq!(group_file(&pid, "memory.swap.max").unwrap().trim(), (32 << 20).to_string());
            let warned = client.container(&["--oom-kill-disable"], &["true"]);
            assert!(warned.err.contains("OomKillDisable discarded"), "{warned:?}");
        }
    }
    assert_eq!(group_file(&pid, "cpuset.mems").unwrap().trim(), "0");
    client.container(&["--cpuset-mems", "63"], &["true"]).exits(125);
    remove(client, &name);
    // The parent is the administrator's, and stays; this one is ours.
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(kinds), Some(path)) = (parts.next(), parts.next())
            && let Some(at) = path.find(&below)
        {
            let kinds = kinds.trim_start_matches("name=");
            let folder = format!("/sys/fs/cgroup/{kinds}{}{parent}", &path[..at]);
            match std::fs::remove_dir(folder) {
                // A hierarchy that is mounted elsewhere, or nowhere.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.unwrap(),
            }
        }
    }
}

fn slow_reads(world: &World, client: &Client) {
    let Some(disk) = disk_below(world.folder()) else {
        println!("SKIP limits on reading a disk: the test's folder is on no disk");
        return;
    };
    let number = std::fs::metadata(&disk).unwrap().rdev();
    let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let (bytes, count) = (format!("{}:1mb", disk.display()), format!("{}:20", disk.display()));
    let flags = ["--device-read-bps", &bytes, "--device-read-iops", &count];
    let name = detached(client, "reads", &flags, &["sleep", "1000"]);
    let pid = field(client, &name, "{{.State.Pid}}");
    let has = |file: &str, line: &str| {
        let text = group_file(&pid, file).unwrap_or_default();
        assert!(text.lines().any(|have| have.trim() == line), "{line} in {text}");
    };
    // That the kernel obeys these files is what writing through a throttle shows.
    if group_file(&pid, "blkio.throttle.read_bps_device").is_some() {
        has("blkio.throttle.read_bps_device", &format!("{number} 1048576"));
        has("blkio.throttle.read_iops_device", &format!("{number} 20"));
    } else {
        has("io.max", &format!("{number} rbps=1048576 wbps=max riops=20 wiops=max"));
    }
    remove(client, &name);
}

fn log_times(world: &World, client: &Client) {
    let name = detached(client, "times", &[], &["echo", "said"]);
    client.run(&["wait", &name]).exits(0);
    let now = world.now();
    let logs = |flag: &str, time: &str| client.run(&["logs", flag, time, &name]).exits(0);
    assert_eq!((logs("--since", "1h"), logs("--since", &now)), ("said".to_owned(), String::new()));
    assert_eq!((logs("--until", "1h"), logs("--until", &now)), (String::new(), "said".to_owned()));
    remove(client, &name);
}

fn quiet_copy(world: &World, client: &Client) {
    let name = detached(client, "quiet-copy", &[], &["sleep", "1000"]);
    let (from, to) = (format!("{name}:/etc/passwd"), world.folder().join(client.unique("passwd")));
    for (flag, told) in [("--quiet=false", true), ("--quiet", false)] {
        // Only on a terminal is anything said at all.
        let terminal = Terminal::run(client, &["cp", flag, &from, to.to_str().unwrap()]);
        let (said, code) = terminal.last_words();
        assert_eq!((said.contains("Successfully copied"), code), (told, 0), "{said}");
    }
    remove(client, &name);
}

fn formats(_: &World, client: &Client) {
    assert_eq!(client.run(&["version", "--format", "{{.Server.Os}}"]).exits(0), "linux");
    assert_eq!(client.run(&["info", "--format", "{{.OSType}}"]).exits(0), "linux");
    let rows = client.run(&["system", "df", "--format", "{{.Type}}"]).exits(0);
    assert_eq!(rows, "Images\nContainers\nLocal Volumes\nBuild Cache");
}

fn commit(world: &World, client: &Client) {
    // Older clients know the flag by its opposite only.
    let without = if client.name == "havre" { "--no-pause" } else { "--pause=false" };
    let image = client.unique("paused");
    let name = detached(client, "paused", &[], &["sleep", "1000"]);
    let id = field(client, &name, "{{.Id}}");
    let pauses = || world.events(&id).iter().filter(|action| *action == "pause").count();
    client.run(&["commit", without, &name, &image]).exits(0);
    assert_eq!(pauses(), 0);
    client.run(&["commit", &name, &image]).exits(0);
    assert_eq!(pauses(), 1);
    let flags = ["--author", "Ann", "--message", "a note", "--change", "USER bob"];
    client.run(&[&["commit"], &flags[..], &[&name, &image]].concat()).exits(0);
    let template = "{{.Author}} {{.Comment}} {{.Config.User}}";
    assert_eq!(client.run(&["image", "inspect", "-f", template, &image]).exits(0), "Ann a note bob");
    remove(client, &name);
    client.run(&["rmi", &image]).exits(0);
}

fn container_lists(_: &World, client: &Client) {
    let label = client.unique("list-effects");
    let filter = format!("label={label}");
    let first = detached(client, "list-first", &["--label", &label], &["true"]);
    let long = "echo a command that is longer than the column has room for";
    let second = detached(client, "list-second", &["--label", &label], &["sh", "-c", long]);
    client.run(&["wait", &first, &second]).exits(0);
    let names = |flags: &[&str]| {
        client.run(&[&["ps", "--filter", &filter, "--format", "{{.Names}}"], flags].concat()).exits(0)
    };
    assert_eq!(names(&[]), "");
    assert_eq!(names(&["--all"]), format!("{second}\n{first}"));
    assert_eq!(names(&["--latest"]), second);
    assert_eq!(names(&["--last", "1"]), second);
    assert_eq!(names(&["-n", "2"]), format!("{second}\n{first}"));
    let ids = client.run(&["ps", "-a", "--quiet", "--filter", &filter]).exits(0);
    assert!(ids.lines().count() == 2 && ids.lines().all(|id| id.len() == 12), "{ids}");
    let whole = client.run(&["ps", "-a", "--no-trunc", "--filter", &filter]).exits(0);
    assert!(whole.contains(long) && whole.contains(&field(client, &first, "{{.Id}}")), "{whole}");
    let cut = client.run(&["ps", "-a", "--filter", &filter]).exits(0);
    assert!(!cut.contains(long) && cut.contains('…') && !cut.contains("SIZE"), "{cut}");
    assert!(client.run(&["ps", "-a", "--size", "--filter", &filter]).exits(0).contains("(virtual "));
    remove(client, &first);
    remove(client, &second);
}

fn image_lists(_: &World, client: &Client) {
    let image = client.unique("listed-image");
    let long = "echo a command that is longer than the column of a history has room for";
    let name = detached(client, "list-image", &["--label", "note"], &["sh", "-c", long]);
    client.run(&["wait", &name]).exits(0);
    // The second image is made from the first, which has no name: only `--all` shows that.
    client.run(&["commit", &name, &image]).exits(0);
    remove(client, &name);
    let parent = client.run(&["image", "inspect", "-f", "{{.Id}}", &image]).exits(0);
    let name = client.unique("list-image");
    let create = ["create", "--label", "e2e", "--network", "none", "--name", &name, &image, "true"];
    client.run(&create).exits(0);
    client.run(&["commit", &name, &image]).exits(0);
    remove(client, &name);
    let ids = |flags: &[&str]| client.run(&[&["images", "-q", "--no-trunc"], flags].concat()).exits(0);
    assert!(!ids(&[]).contains(&parent) && ids(&["--all"]).contains(&parent));
    let short = client.run(&["images", "--quiet", &image]).exits(0);
    assert_eq!((short.len(), ids(&[&image]).len()), (12, 71));
    assert!(client.run(&["images", "--digests", &image]).exits(0).contains("DIGEST"));
    assert!(!client.run(&["images", &image]).exits(0).contains("DIGEST"));
    let filtered =
        |filter: &str| client.run(&["images", "--filter", filter, "--format", "{{.Repository}}"]).exits(0);
    assert_eq!(filtered(&format!("reference={image}")), image);
    assert!(!filtered("dangling=true").contains(&image));
    let history = |flags: &[&str]| client.run(&[&["history"], flags, &[&image]].concat()).exits(0);
    let by = ["--format", "{{.CreatedBy}}"];
    assert!(history(&[&by[..], &["--no-trunc"]].concat()).contains(long));
    assert!(!history(&by).contains(long) && history(&by).contains('…'));
    let quiet = history(&["--quiet"]);
    assert!(quiet.lines().all(|id| id.len() == 12 || id == "<missing>") && !quiet.is_empty(), "{quiet}");
    assert!(history(&["--human=false", "--format", "{{.CreatedAt}}"]).contains('T'));
    // Who removes the name keeps the parent when told so.
    client.run(&["rmi", "--no-prune", &image]).exits(0);
    assert!(ids(&["--all"]).contains(&parent));
    client.run(&["rmi", &parent]).exits(0);
}

fn image_changes(world: &World, client: &Client) {
    let image = client.unique("changed");
    let tar = [0_u8; 1024];
    let import = |flags: &[&str]| {
        let outcome = client.with_input(&[&["import"], flags, &["-", &image]].concat(), &tar);
        outcome.exits(0);
    };
    let shown = |template: &str| client.run(&["image", "inspect", "-f", template, &image]).exits(0);
    import(&[]);
    assert!(shown("{{.Os}}/{{.Architecture}} {{json .Config.Cmd}}").ends_with(" null"));
    import(&["--platform", "linux/s390x", "--change", "CMD [\"x\"]", "--message", "a note"]);
    assert_eq!(
        shown("{{.Os}}/{{.Architecture}} {{json .Config.Cmd}} {{.Comment}}"),
        "linux/s390x [\"x\"] a note"
    );
    let wrong = client.run(&["rmi", "--platform", "linux/amd64", &image]);
    wrong.fails(1, "does not provide the specified platform");
    client.run(&["rmi", "--platform", "linux/s390x", &image]).exits(0);
    client.run(&["image", "inspect", &image]).fails(1, "No such image");
    // A stopped container keeps its image, unless it is removed by force.
    import(&["--change", "CMD [\"x\"]"]);
    let name = client.unique("changed");
    client.run(&["rm", "-f", &name]);
    client.run(&["create", "--label", "e2e", "--network", "none", "--name", &name, &image]).exits(0);
    client.run(&["rmi", &image]).fails(1, "conflict");
    client.run(&["rmi", "--force", &image]).exits(0);
    remove(client, &name);
    // What is saved is what is loaded.
    let file = world.folder().join(client.unique("changed.tar"));
    client.run(&["save", "--output", file.to_str().unwrap(), "e2e/busybox"]).exits(0);
    assert!(file.metadata().unwrap().len() > 100_000);
    client.run(&["load", "--input", file.to_str().unwrap()]).exits(0);
}

fn quiet_load(world: &World, client: &Client) {
    let archive = havre_testkit::busybox_archive(world.folder()).unwrap();
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    let host = format!("unix://{}", daemon.path("s"));
    for (flag, told) in [("--quiet=false", true), ("--quiet", false)] {
        let mut terminal =
            Terminal::run(client, &["-H", &host, "load", flag, "-i", archive.to_str().unwrap()]);
        let said = terminal.expect("Loaded image: ");
        assert_eq!(said.to_lowercase().contains("layer"), told, "{said}");
        assert_eq!(terminal.end(), 0);
        daemon.run(client, &["rmi", "busybox"]).exits(0);
    }
}

fn contexts(world: &World, client: &Client) {
    let folder = world.folder().join(client.unique("context-effects"));
    std::fs::create_dir_all(&folder).unwrap();
    let run = |args: &[&str]| {
        let mut command = client.command(args);
        let output = command.env("DOCKER_CONFIG", &folder).env_remove("DOCKER_HOST").output().unwrap();
        crate::world::finish(output)
    };
    run(&["context", "create", "one", "--docker", "host=tcp://one.test:2375", "--description", "first"])
        .exits(0);
    run(&["context", "create", "two", "--from", "one"]).exits(0);
    let host = ["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"];
    assert_eq!(run(&[&host[..], &["two"]].concat()).exits(0), "tcp://one.test:2375");
    run(&["context", "update", "two", "--docker", "host=tcp://two.test:2375", "--description", "second"])
        .exits(0);
    assert_eq!(
        run(&[&host[..], &["one", "two"]].concat()).exits(0),
        "tcp://one.test:2375\ntcp://two.test:2375"
    );
    let list = run(&["context", "ls", "--format", "{{.Name}}: {{.Description}}"]).exits(0);
    assert!(list.contains("one: first\n") && list.ends_with("two: second"), "{list}");
    assert_eq!(run(&["context", "ls", "--quiet"]).exits(0), "default\none\ntwo");
    run(&["context", "use", "two"]).exits(0);
    run(&["context", "rm", "two"]).fails(1, "is in use, set -f flag to force remove");
    run(&["context", "rm", "--force", "two"]).exits(0);
    assert_eq!(run(&["context", "ls", "-q"]).exits(0), "default\none");
}

fn links(_: &World, client: &Client) {
    // There are no links yet: the flag must not remove the container instead.
    let name = detached(client, "linked", &[], &["true"]);
    client.run(&["wait", &name]).exits(0);
    client.run(&["rm", "--link", &name]).fails(1, "not yet supported: removing links");
    assert_eq!(field(client, &name, "{{.State.Status}}"), "exited");
    remove(client, &name);
}
