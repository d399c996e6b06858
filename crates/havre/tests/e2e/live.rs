//! What looks at or changes living containers.

use std::io::{BufRead as _, Read as _, Write as _};
use std::process::Stdio;

use serde_json::Value;

use crate::Test;
use crate::cases::{detached, field, remove};
use crate::world::{Client, World};

/// Through every client.
pub(crate) const ALL: &[Test] = &[
    ("top lists processes for the usual arguments of ps", top),
    ("stats shows what a container uses", stats),
    ("update changes limits and policy, all or nothing", update),
    ("container prune removes what has ended and is wanted", prune),
    ("system df counts images and containers", disk_usage),
    ("system prune says what it will do and does it", system_prune),
    ("events tell the life of a container", events),
    ("ps filters by everything a configuration has", ps_filters),
    ("checkpoints are refused as Docker refuses them", checkpoints),
];

/// Of the API alone.
pub(crate) const API: &[Test] = &[
    ("stats of the API: one shot, two samples, a stream, a container at rest", stats_api),
    ("events of the API: media types, old fields, past and refused ones", events_api),
    ("a06 a websocket attaches, and a page of another origin does not", websocket),
    ("disk usage of the API in the old shape and the new", disk_usage_api),
    ("logs of the API: tails, times, ends", logs_api),
    ("l05_a log line that looks like a record stays a line", forged_records),
];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn top(_: &World, client: &Client) {
    let name = detached(client, "top", &[], &["sh", "-c", "sleep 1000 & wait"]);
    for (args, titles) in [
        (&[][..], "UID PID PPID C STIME TTY TIME CMD"),
        (&["-ef"], "UID PID PPID C STIME TTY TIME CMD"),
        (&["aux"], "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        (&["faux"], "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        (&["-eo", "pid,comm"], "PID COMMAND"),
        (&["-A"], "PID TTY TIME CMD"),
    ] {
        let out = client.run(&[&["top", name.as_str()], args].concat()).exits(0);
        let mut lines = out.lines();
        let title = lines.next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(title, titles, "{args:?}");
        assert_eq!(lines.count(), 2, "{out}");
        assert!(out.contains("sleep"), "{out}");
    }
    let out = client.run(&["top", &name, "-eo", "pid,user,args"]).exits(0);
    assert!(out.lines().any(|line| line.contains("root") && line.ends_with("sleep 1000")), "{out}");
    client.run(&["top", &name, "-o", "pid,bogus"]).fails(1, "bogus");
    client.run(&["top", &name, "-o", "user"]).fails(1, "Couldn't find PID field in ps output");
    client.run(&["kill", &name]).exits(0);
    client.run(&["top", &name]).fails(1, "is not running");
    client.run(&["top", "e2e-nobody"]).fails(1, "No such container: e2e-nobody");
    remove(client, &name);
}

fn stats(_: &World, client: &Client) {
    let name = detached(client, "stats", &["-m", "64m"], &["sh", "-c", "while :; do :; done"]);
    let out = client.run(&["stats", "--no-stream", &name]).exits(0);
    let heading = out.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(heading, "CONTAINER ID NAME CPU % MEM USAGE / LIMIT MEM % NET I/O BLOCK I/O PIDS");
    let format = "{{.Name}} {{.PIDs}} {{.MemUsage}}";
    let line = client.run(&["stats", "--no-stream", "--format", format, &name]).exits(0);
    assert!(line.starts_with(&format!("{name} 1 ")) && line.ends_with("/ 64MiB"), "{line}");
    let busy = client.run(&["stats", "--no-stream", "--format", "{{.CPUPerc}}", &name]).exits(0);
    let share: f64 = busy.trim_end_matches('%').parse().unwrap();
    assert!(share > 5.0 && share < 1000.0, "a busy loop takes {busy}");
    let row = json(&client.run(&["stats", "--no-stream", "--format", "json", &name]).exits(0));
    assert_eq!((&row["Name"], &row["Container"]), (&Value::from(name.as_str()), &Value::from(name.as_str())));
    let id = field(client, &name, "{{.Id}}");
    let long = client.run(&["stats", "--no-stream", "--no-trunc", "--format", "{{.ID}}", &name]).exits(0);
    assert_eq!(long, id);
    client.run(&["kill", &name]).exits(0);
    let rest = client.run(&["stats", "-a", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]).exits(0);
    assert!(rest.lines().any(|line| line == format!("{name} 0")), "{rest}");
    let running = client.run(&["stats", "--no-stream", "--format", "{{.Name}}"]).exits(0);
    assert!(!running.lines().any(|line| line == name), "{running}");
    client.run(&["stats", "--no-stream", "e2e-nobody"]).fails(1, "No such container: e2e-nobody");
    remove(client, &name);
}

fn limit_of(client: &Client, name: &str) -> String {
    let script =
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    client.run(&["exec", name, "sh", "-c", script]).exits(0)
}

fn update(_: &World, client: &Client) {
    let name = detached(client, "update", &["-m", "64m"], &["sleep", "1000"]);
    assert_eq!(field(client, &name, "{{.HostConfig.MemorySwap}}"), (128 << 20).to_string());
    let flags = ["--memory", "32m", "--pids-limit", "50", "--cpu-shares", "512", "--restart", "on-failure:3"];
    let out = client.run(&[&["update"], &flags[..], &[&name]].concat()).exits(0);
    assert_eq!(out, name);
    let shown = "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.CpuShares}} {{.HostConfig.RestartPolicy.Name}}";
    let want = format!("{} 50 512 on-failure", 32 << 20);
    assert_eq!(field(client, &name, shown), want);
    assert_eq!(limit_of(client, &name), (32 << 20).to_string());
    // What contradicts is refused, and nothing of it is done.
    let refused = client.run(&["update", "--cpu-shares", "100", "--memory", "512m", &name]);
    refused.fails(1, "Memory limit should be smaller than already set memoryswap limit");
    client.run(&["update", "--memory", "1m", &name]).fails(1, "Minimum memory limit allowed is 6MB");
    client.run(&["update", "--cpuset-cpus", "4095", &name]).fails(1, "Requested CPUs are not available");
    client.run(&["update", "--restart", "bogus", &name]).fails(1, "bogus");
    assert_eq!(field(client, &name, shown), want);
    assert_eq!(limit_of(client, &name), (32 << 20).to_string());
    // It holds after the next start too.
    client.run(&["restart", "-t", "0", &name]).exits(0);
    assert_eq!(limit_of(client, &name), (32 << 20).to_string());
    client.run(&["update", "--cpus", "0.5", &name]).exits(0);
    assert_eq!(field(client, &name, "{{.HostConfig.NanoCpus}}"), "500000000");
    client
        .run(&["update", "--cpu-period", "50000", &name])
        .fails(1, "CPU Period cannot be updated as NanoCPUs");
    client.run(&["update", &name]).fails(1, "you must provide one or more flags");
    client.run(&["update", "--cpu-shares", "2", "e2e-nobody"]).fails(1, "No such container: e2e-nobody");
    remove(client, &name);
    let name = detached(client, "update-rm", &["--rm"], &["sleep", "1000"]);
    let refused = client.run(&["update", "--restart", "always", &name]);
    refused.fails(1, "Restart policy cannot be updated because AutoRemove is enabled for the container");
    remove(client, &name);
}

fn prune(_: &World, client: &Client) {
    let label = client.unique("pruned");
    let flag = format!("{label}=yes");
    let filter = format!("label={label}");
    let running = detached(client, "prune-runs", &["--label", &flag], &["sleep", "1000"]);
    let kept = detached(client, "prune-kept", &["--label", &format!("{label}=kept")], &["true"]);
    let gone =
        detached(client, "prune-gone", &["--label", &flag], &["sh", "-c", "head -c 5000 /dev/zero > /x"]);
    client.run(&["wait", &kept, &gone]).exits(0);
    let id = field(client, &gone, "{{.Id}}");
    let wanted = format!("label={flag}");
    let early =
        client.run(&["container", "prune", "-f", "--filter", &wanted, "--filter", "until=1h"]).exits(0);
    assert_eq!(early, "Total reclaimed space: 0B");
    let out = client.run(&["container", "prune", "-f", "--filter", &wanted]).exits(0);
    assert_eq!(out, format!("Deleted Containers:\n{id}\n\nTotal reclaimed space: 5kB"));
    client.run(&["inspect", &kept]).exits(0);
    assert_eq!(field(client, &running, "{{.State.Status}}"), "running");
    let not = format!("label!={label}=other");
    client.run(&["container", "prune", "-f", "--filter", &filter, "--filter", &not]).exits(0);
    client.run(&["inspect", &kept]).fails(1, "");
    client.run(&["container", "prune", "-f", "--filter", "colour=red"]).fails(1, "invalid filter 'colour'");
    client.run(&["container", "prune", "-f", "--filter", "until=whenever"]).fails(1, "whenever");
    remove(client, &running);
}

fn disk_usage(_: &World, client: &Client) {
    let name = detached(client, "df", &[], &["sh", "-c", "head -c 3000000 /dev/zero > /x"]);
    client.run(&["wait", &name]).exits(0);
    let out = client.run(&["system", "df"]).exits(0);
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    assert_eq!((rows[1][0], rows[2][0]), ("Images", "Containers"));
    assert_eq!(&rows[3][..4], ["Local", "Volumes", "0", "0"]);
    assert_eq!(&rows[4][..4], ["Build", "Cache", "0", "0"]);
    let verbose = client.run(&["system", "df", "-v"]).exits(0);
    let line = verbose.lines().find(|line| line.ends_with(&name)).unwrap_or_else(|| panic!("{verbose}"));
    assert!(line.contains("3MB"), "{line}");
    assert!(verbose.contains("Local Volumes space usage:") && verbose.contains("Build cache usage: 0B"));
    let types = client.run(&["system", "df", "--format", "{{.Type}}"]).exits(0);
    assert_eq!(types, "Images\nContainers\nLocal Volumes\nBuild Cache");
    remove(client, &name);
}

fn system_prune(_: &World, client: &Client) {
    let label = client.unique("system");
    let filter = format!("label={label}");
    let name = detached(client, "system", &["--label", &label], &["true"]);
    client.run(&["wait", &name]).exits(0);
    let asked = client.run(&["system", "prune", "-a", "--volumes", "--filter", &filter]);
    for line in [
        "WARNING! This will remove:",
        "  - all stopped containers",
        "  - all networks not used by at least one container",
        "  - all anonymous volumes not used by at least one container",
        "  - all images without at least one container associated to them",
        "  - all build cache",
        "  Items to be pruned will be filtered with:",
    ] {
        assert!(asked.out.lines().any(|have| have == line), "{line} in {asked:?}");
    }
    client.run(&["inspect", &name]).exits(0);
    let out = client.run(&["system", "prune", "-f", "--filter", &filter]).exits(0);
    assert!(out.starts_with("Deleted Containers:\n") && out.contains("Total reclaimed space: "), "{out}");
    client.run(&["inspect", &name]).fails(1, "");
    let both = client.run(&["system", "prune", "-f", "--volumes", "--filter", "until=1h"]);
    both.fails(1, "The \"until\" filter is not supported with \"--volumes\"");
}

fn events(world: &World, client: &Client) {
    let name = detached(
        client,
        "events",
        &["--label", "colour=red"],
        &["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"],
    );
    let id = field(client, &name, "{{.Id}}");
    client.run(&["top", &name]).exits(0);
    client.run(&["update", "--cpu-shares", "100", &name]).exits(0);
    client.run(&["pause", &name]).exits(0);
    client.run(&["unpause", &name]).exits(0);
    client.run(&["exec", &name, "true"]).exits(0);
    client.run(&["rename", &name, &format!("{name}-2")]).exits(0);
    client.run(&["rename", &format!("{name}-2"), &name]).exits(0);
    client.run(&["stop", &name]).exits(0);
    remove(client, &name);
    let container = format!("container={id}");
    // Durations are cut to seconds by the official client.
    let until = world.now();
    let past = ["events", "--since", "10m", "--until", &until, "--filter", &container];
    let out = client.run(&[&past[..], &["--format", "{{.Action}}"]].concat()).exits(0);
    let actions: Vec<&str> = out.lines().map(|line| line.split(':').next().unwrap()).collect();
    for action in [
        "create",
        "start",
        "top",
        "update",
        "pause",
        "unpause",
        "exec_create",
        "exec_start",
        "exec_die",
        "rename",
        "kill",
        "die",
        "stop",
        "destroy",
    ] {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
    let die = client.run(&[&past[..], &["--filter", "event=die"]].concat()).exits(0);
    let want = format!(" container die {id} (colour=red, ");
    assert!(die.contains(&want) && die.contains("exitCode=3") && die.contains("execDuration="), "{die}");
    assert_eq!(die.lines().count(), 1);
    let none = client.run(&[&past[..], &["--filter", "label=colour=blue"]].concat()).exits(0);
    assert_eq!(none, "");
    let object = client.run(&[&past[..], &["--filter", "event=start", "--format", "json"]].concat()).exits(0);
    assert_eq!(json(&object)["Actor"]["Attributes"]["colour"], Value::from("red"));
    client
        .run(&["events", "--since", "0", "--until", "0s", "--filter", "bogus=x"])
        .fails(1, "invalid filter 'bogus'");
    // What comes later is seen as it happens.
    let target = format!("{}:latest", client.unique("tagged"));
    let image = format!("image={target}");
    let follow = ["events", "--since", "1m", "--filter", &image, "--filter", "event=tag"];
    let mut command = client.command(&[&follow[..], &["--format", "{{.Actor.Attributes.name}}"]].concat());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    client.run(&["tag", "e2e/busybox", &target]).exits(0);
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let seen = lines.next().unwrap().unwrap();
    assert_eq!(seen, target);
    child.kill().unwrap();
    child.wait().unwrap();
    client.run(&["rmi", &target]).exits(0);
}

fn ps_filters(_: &World, client: &Client) {
    let label = client.unique("filters");
    let flag = format!("label={label}");
    let first = client.unique("filter-first");
    client.run(&["rm", "-f", &first]);
    let create = ["create", "--label", "e2e", "--label", &label, "--name"];
    let host = ["--network", "host", "-p", "8080:80", "--expose", "9000-9002/udp", "e2e/busybox", "true"];
    client.run(&[&create[..], &[&first], &host].concat()).exits(0);
    let second = detached(client, "filter-second", &["--label", &label, "-v", "/tmp:/data"], &["false"]);
    client.run(&["wait", &second]).exits(0);
    let names = |filters: &[&str]| {
        let mut args = vec!["ps", "-a", "--filter", &flag, "--format", "{{.Names}}"];
        for filter in filters {
            args.extend(["--filter", *filter]);
        }
        client.run(&args).exits(0)
    };
    let (since, before) = (format!("since={first}"), format!("before={second}"));
    for (filters, want) in [
        (&["publish=8080"][..], &first),
        (&["publish=8000-9000/tcp"], &first),
        (&["expose=80"], &first),
        (&["expose=9001/udp"], &first),
        (&["status=created"], &first),
        (&["network=host"], &first),
        (&["exited=1"], &second),
        (&["status=exited"], &second),
        (&["volume=/data"], &second),
        (&[since.as_str()], &second),
        (&[before.as_str()], &first),
    ] {
        assert_eq!(names(filters), *want, "{filters:?}");
    }
    assert_eq!(names(&["publish=80"]), "");
    assert_eq!(names(&["expose=9001"]), "");
    assert_eq!(names(&["health=none", "is-task=false"]).lines().count(), 2);
    for (filter, error) in [
        ("publish=x", "publish"),
        ("health=x", "Unrecognised filter value for health: x"),
        ("before=e2e-nobody", "o such container"),
        ("status=up", "up"),
        ("bogus=1", "invalid filter 'bogus'"),
    ] {
        client.run(&["ps", "-a", "--filter", filter]).fails(1, error);
    }
    let last = client.run(&["ps", "--latest", "--filter", &flag, "--format", "{{.Names}}"]).exits(0);
    assert_eq!(last, second);
    let two = client.run(&["ps", "-n", "2", "--filter", &flag, "--no-trunc", "-q"]).exits(0);
    assert!(two.lines().count() == 2 && two.lines().all(|id| id.len() == 64), "{two}");
    remove(client, &first);
    remove(client, &second);
}

fn checkpoints(_: &World, client: &Client) {
    let name = detached(client, "checkpoint", &[], &["sleep", "1000"]);
    // The official client does not even ask a daemon that is not experimental.
    for args in [
        &["start", "--checkpoint", "one", &name][..],
        &["checkpoint", "create", "--leave-running", &name, "one"],
        &["checkpoint", "ls", &name],
        &["checkpoint", "rm", &name, "one"],
    ] {
        let outcome = client.run(args);
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(outcome.err.contains("xperimental"), "{outcome:?}");
    }
    remove(client, &name);
}

fn stats_api(world: &World, client: &Client) {
    let name = detached(client, "stats-api", &["-m", "64m", "--cpus", "0.5"], &["sleep", "1000"]);
    let get = |query: &str| {
        let (status, text) = world.api("GET", &format!("/containers/{name}/stats?{query}"), "");
        assert_eq!(status, 200, "{text}");
        json(&text)
    };
    let once = get("stream=0&one-shot=1");
    assert_eq!(once["preread"], Value::from("0001-01-01T00:00:00Z"));
    assert_eq!(once["precpu_stats"]["cpu_usage"]["total_usage"], Value::from(0));
    assert_eq!(once["memory_stats"]["limit"], Value::from(64 << 20));
    assert_eq!(once["pids_stats"]["current"], Value::from(1));
    assert!(once["memory_stats"]["stats"]["inactive_file"].is_u64(), "{once}");
    assert!(once.get("networks").is_none(), "a loopback interface is no network: {once}");
    let twice = get("stream=0");
    let number = |value: &Value| value.as_u64().unwrap();
    let (now, before) = (&twice["cpu_stats"], &twice["precpu_stats"]);
    assert!(number(&now["system_cpu_usage"]) > number(&before["system_cpu_usage"]), "{twice}");
    assert!(number(&now["online_cpus"]) > 0 && twice["preread"] != once["preread"]);
    assert_eq!(twice["name"], Value::from(format!("/{name}")));
    let (status, text) = world.api("GET", &format!("/containers/{name}/stats?stream=1&one-shot=1"), "");
    assert_eq!(status, 400, "{text}");
    // Two watchers share one sampler; the second sample knows the first.
    let mut streams: Vec<_> = (0..2).map(|_| world.stream(&format!("/containers/{name}/stats"))).collect();
    for stream in &mut streams {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line.clear();
        stream.read_line(&mut line).unwrap();
        let second = json(&line);
        assert_ne!(second["preread"], Value::from("0001-01-01T00:00:00Z"), "{line}");
    }
    client.run(&["kill", &name]).exits(0);
    let rest = get("stream=0");
    assert_eq!((&rest["memory_stats"], &rest["pids_stats"]), (&json("{}"), &json("{}")));
    assert_eq!(rest["read"], Value::from("0001-01-01T00:00:00Z"));
    remove(client, &name);
    // The streams of a removed container end.
    for stream in &mut streams {
        stream.read_to_string(&mut String::new()).unwrap();
    }
}

fn events_api(world: &World, client: &Client) {
    let name = detached(client, "events-api", &[], &["true"]);
    client.run(&["wait", &name]).exits(0);
    let id = field(client, &name, "{{.Id}}");
    let query = format!("since=0&until={}&filters=%7B%22container%22%3A%5B%22{id}%22%5D%7D", world.now());
    let (_, old) = world.api("GET", &format!("/v1.41/events?{query}"), "");
    let first = json(old.lines().next().unwrap());
    assert_eq!((&first["status"], &first["id"]), (&Value::from("create"), &Value::from(id.as_str())));
    assert_eq!(first["from"], Value::from("e2e/busybox"));
    let (_, new) = world.api("GET", &format!("/v1.52/events?{query}"), "");
    let first = json(new.lines().next().unwrap());
    assert!(first.get("status").is_none() && first["Action"] == "create", "{new}");
    let request = format!("GET /v1.52/events?{query} HTTP/1.0\r\nAccept: application/json-seq");
    let mut sequence = String::new();
    world.ask(&request).read_to_string(&mut sequence).unwrap();
    assert!(sequence.starts_with("\u{1e}{") && sequence.lines().all(|line| line.starts_with('\u{1e}')));
    for (query, word) in [
        ("since=5&until=4", "cannot be after"),
        ("since=soon", "since"),
        ("filters=%7B%22bogus%22%3A%5B%22x%22%5D%7D", "bogus"),
        ("filters=%7B", "filters"),
    ] {
        let (status, text) = world.api("GET", &format!("/events?{query}"), "");
        assert!(status == 400 && text.contains(word), "{query}: {status} {text}");
    }
    remove(client, &name);
}

/// A masked frame of a client.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut bytes = vec![0x80 | opcode, 0x80 | length, 0, 0, 0, 0];
    bytes.extend_from_slice(payload);
    bytes
}

fn websocket(world: &World, client: &Client) {
    let name = detached(
        client,
        "websocket",
        &["-i"],
        &["sh", "-c", "echo begin; read line; echo got $line; exit 3"],
    );
    let path = format!("/containers/{name}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1&logs=1");
    let head = |origin: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket{origin}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        )
    };
    client.follow_until(&name, "begin");
    let (status, _) = world.connect(&head("\r\nOrigin: http://evil.example"), "");
    assert_eq!(status, 403);
    let (status, _) = world.connect(&format!("GET {path} HTTP/1.1"), "");
    assert_eq!(status, 400);
    let (status, mut stream) = world.connect(&head("\r\nOrigin: http://engine"), "");
    assert_eq!(status, 101);
    let next = |stream: &mut std::io::BufReader<std::os::unix::net::UnixStream>| {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[1])];
        stream.read_exact(&mut payload).unwrap();
        (head[0], payload)
    };
    assert_eq!(next(&mut stream), (0x82, b"begin\n".to_vec()));
    stream.get_mut().write_all(&frame(9, b"are you there")).unwrap();
    assert_eq!(next(&mut stream), (0x8a, b"are you there".to_vec()));
    // A message in two fragments.
    let mut first = frame(1, b"he");
    first[0] = 1;
    stream.get_mut().write_all(&first).unwrap();
    stream.get_mut().write_all(&frame(0, b"llo\n")).unwrap();
    assert_eq!(next(&mut stream), (0x82, b"got hello\n".to_vec()));
    assert_eq!(next(&mut stream), (0x88, 1000_u16.to_be_bytes().to_vec()));
    assert_eq!(client.run(&["wait", &name]).exits(0), "3");
    // Text for clients from before there was a choice.
    let (_, mut old) = world.connect(&head("").replace(" /containers", " /v1.27/containers"), "");
    assert_eq!(next(&mut old).0, 0x81);
    remove(client, &name);
}

fn disk_usage_api(world: &World, _: &Client) {
    let get = |path: &str| {
        let (status, text) = world.api("GET", path, "");
        assert_eq!(status, 200, "{text}");
        json(&text)
    };
    let old = get("/v1.41/system/df");
    assert!(
        old["LayersSize"].as_i64().unwrap() > 0 && old["Images"].is_array() && old["Containers"].is_array()
    );
    assert_eq!((&old["Volumes"], &old["BuilderSize"]), (&json("[]"), &Value::from(0)));
    let one = get("/v1.44/system/df?type=image");
    assert!(one["Images"].is_array() && one["Containers"].is_null(), "{one}");
    let new = get("/v1.52/system/df");
    assert!(
        new["ImageUsage"]["TotalCount"].as_i64().unwrap() > 0 && new["ImageUsage"].get("Items").is_none()
    );
    assert!(new.get("Images").is_none() && new["VolumeUsage"]["TotalCount"] == 0, "{new}");
    let verbose = get("/v1.52/system/df?type=image&verbose=1");
    assert!(verbose["ImageUsage"]["Items"].is_array() && verbose.get("ContainerUsage").is_none());
    let (status, text) = world.api("GET", "/v1.52/system/df?type=bogus", "");
    assert!(status == 400 && text.contains("unknown object type: bogus"), "{text}");
}

fn logs_api(world: &World, client: &Client) {
    let name =
        detached(client, "logs-api", &["-t"], &["sh", "-c", "echo one; sleep 0.1; echo two; sleep 1000"]);
    client.follow_until(&name, "two");
    let get = |query: &str| world.api("GET", &format!("/containers/{name}/logs?stdout=1&{query}"), "");
    assert_eq!(get("tail=0"), (200, String::new()));
    assert_eq!(get("tail=1").1, "two\r\n");
    assert_eq!(get("tail=-1").1, "one\r\ntwo\r\n");
    assert_eq!(get("details=1&tail=1").1, " two\r\n");
    assert_eq!(get("tail=many").0, 400);
    assert_eq!(get("since=soon").0, 400);
    let stamped = get("timestamps=1&tail=1").1;
    let at = stamped.split(' ').next().unwrap();
    assert_eq!(at.len(), "2026-01-02T15:04:05.000000000Z".len(), "{stamped}");
    assert_eq!(get(&format!("since={at}")).1, "two\r\n");
    assert_eq!(get(&format!("until={}", "1.5")).1, "");
    assert_eq!(world.api("GET", &format!("/containers/{name}/logs"), "").0, 400);
    // Whoever follows is let go when the container is removed.
    let mut follower = world.stream(&format!("/containers/{name}/logs?stdout=1&follow=1"));
    remove(client, &name);
    let mut all = String::new();
    follower.read_to_string(&mut all).unwrap();
    assert!(all.starts_with("one\r\ntwo\r\n"), "{all}");
}

fn forged_records(_: &World, client: &Client) {
    let forged = r#"{"log":"forged\n","stream":"stderr","time":"1999-01-01T00:00:00Z"}"#;
    let name = detached(client, "forged", &[], &["echo", forged]);
    client.run(&["wait", &name]).exits(0);
    let outcome = client.run(&["logs", "-t", &name]);
    assert_eq!(outcome.err, "");
    let line = outcome.exits(0);
    assert!(line.ends_with(forged) && !line.starts_with("1999"), "{line}");
    remove(client, &name);
}
