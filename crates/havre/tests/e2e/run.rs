//! How a daemon is run: its file, a reload, its log, its end, what it says of itself to who debugs it.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::Test;
use crate::private::{Private, fails};
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("run_the_file_decides_for_containers", defaults),
    ("run_a_reload_is_told_and_takes_effect", reload),
    ("run_an_ending_daemon_leaves_containers_running", ending),
];

pub(crate) const ALONE: &[Test] = &[
    ("run_wrong_options_are_named", wrong_options),
    ("run_debugging_shows_what_is_going_on", debugging),
    ("run_the_log_is_text_or_json", logs),
    ("run_old_versions_can_be_refused", oldest_version),
];

fn wrong_options(_: &World, _: &Client) {
    let validate = |json: &str, args: &[&str]| fails(json, &[&["--validate"], args].concat());
    let fine = validate(r#"{"debug":true,"labels":["a=b"],"hosts":["unix:///x"]}"#, &[]);
    assert_eq!((fine.code, fine.err.trim()), (0, "configuration OK"));
    validate(r#"{"debgu":true,"x":1}"#, &[])
        .fails(1, "the following directives don't match any configuration option: debgu, x");
    validate(r#"{"debug":true,"labels":["a=b"]}"#, &["--debug=false", "--label", "a=c"]).fails(
        1,
        "the following directives are specified both as a flag and in the configuration file: debug: (from flag: false, from file: true), labels: (from flag: [\"a=c\"], from file: [\"a=b\"])",
    );
    validate("{\n \"debug\": \"yes\"\n}", &[]).fails(1, "debug: want true or false, got \"yes\" (line 2)");
    validate("{\"debug\":tru", &[]).fails(1, "unable to configure the Docker daemon with file");
    validate("{}", &["--log-level", "loud"]).fails(1, "invalid logging level: loud");
    validate(r#"{"authorization-plugins":["x"]}"#, &[]).fails(1, "--authorization-plugin=x");
    validate(r#"{"log-driver":"syslog"}"#, &[]).fails(1, "log driver syslog");
    validate("{}", &["--nmae"]).fails(125, "unknown flag: --nmae");
    let missing = Command::new(crate::private::havre())
        .args(["daemon", "--validate", "--config-file", "/nonexistent/daemon.json"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(1));
}

fn defaults(_: &World, client: &Client) {
    let json = r#"{
        "default-shm-size": "32M", "default-ipc-mode": "shareable", "default-cgroupns-mode": "host",
        "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1000, "Hard": 2000}},
        "log-opts": {"max-size": "2m"}, "init": true, "no-new-privileges": true, "default-stop-timeout": 1,
        "features": {"time-namespaces": false}, "labels": ["zone=a"],
        "proxies": {"http-proxy": "http://me:secret@proxy:3128"}
    }"#;
    let mut daemon = Private::start(json, &["-H", "SOCKET"]);
    daemon.load(client);
    let name = client.unique("defaults");
    // A process that ignores the signal, so that only the default time ends it.
    let deaf = "trap '' TERM; >/up; echo up; while true; do sleep 1000; done";
    let run = ["run", "-d", "--name", &name, "--network", "none", "busybox", "sh", "-c", deaf];
    daemon.run(client, &run).exits(0);
    let inspect = |format: &str| daemon.run(client, &["inspect", "-f", format, &name]).exits(0);
    assert_eq!(inspect("{{.HostConfig.ShmSize}} {{.HostConfig.IpcMode}}"), "33554432 shareable");
    assert_eq!(inspect("{{.HostConfig.CgroupnsMode}}"), "host");
    assert_eq!(
        inspect("{{json .HostConfig.LogConfig}}"),
        r#"{"Type":"json-file","Config":{"max-size":"2m"}}"#
    );
    let inside = |script: &str| daemon.run(client, &["exec", &name, "sh", "-c", script]).exits(0);
    assert_eq!(inside("ulimit -Sn; ulimit -Hn"), "1000\n2000");
    assert_eq!(inside("df -k /dev/shm | tail -1 | awk '{print $2}'"), "32768");
    assert_eq!(inside("grep NoNewPrivs /proc/1/status | tr -d '\\t'"), "NoNewPrivs:1");
    assert!(inside("tr '\\0' ' ' < /proc/1/cmdline").contains("init"), "a reaper is process 1");
    let own =
        |path: &str| std::fs::read_link(path).map(|link| link.display().to_string()).unwrap_or_default();
    assert_eq!(inside("readlink /proc/self/ns/cgroup"), own("/proc/self/ns/cgroup"));
    if std::path::Path::new("/proc/self/ns/time").exists() {
        assert_eq!(inside("readlink /proc/self/ns/time"), own("/proc/self/ns/time"));
    }
    // What a container says for itself counts more.
    let own =
        ["run", "--rm", "--network", "none", "--ulimit", "nofile=500", "busybox", "sh", "-c", "ulimit -Hn"];
    assert_eq!(daemon.run(client, &own).exits(0), "500");
    // Another one that asked for more time outlives it, though it is told to stop first.
    let slow = client.unique("defaults-slow");
    let run = [
        "run",
        "-d",
        "--name",
        &slow,
        "--stop-timeout",
        "600",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        deaf,
    ];
    daemon.run(client, &run).exits(0);
    // Before its trap is set a signal ends it.
    let is_up = "until [ -e /up ]; do sleep 0.05; done";
    daemon.run(client, &["exec", &slow, "sh", "-c", is_up]).exits(0);
    let mut stop = client.command(&["stop", &slow]);
    let host = format!("unix://{}", daemon.path("s"));
    let mut stop = stop.env("DOCKER_HOST", &host).stdout(Stdio::null()).spawn().unwrap();
    daemon.run(client, &["stop", &name]).exits(0);
    assert_eq!(inspect("{{.State.ExitCode}}"), "137");
    // The file's second has passed, its own ten minutes have not.
    assert_eq!(daemon.run(client, &["inspect", "-f", "{{.State.Running}}", &slow]).exits(0), "true");
    daemon.run(client, &["kill", &slow]).exits(0);
    assert!(stop.wait().unwrap().success());
    daemon.run(client, &["rm", "-f", &slow]).exits(0);
    let info = daemon.run(client, &["info", "-f", "{{.HTTPProxy}} {{json .Labels}}"]).exits(0);
    assert_eq!(info, r#"http://xxxxx:xxxxx@proxy:3128 ["zone=a"]"#);
    daemon.run(client, &["rm", "-f", &name]).exits(0);
    assert!(daemon.end().success());
    // No log when the file says so.
    let quiet = Private::start(r#"{"log-driver":"none"}"#, &["-H", "SOCKET"]);
    quiet.load(client);
    quiet.run(client, &["run", "--name", &name, "--network", "none", "busybox", "echo", "x"]).exits(0);
    quiet.run(client, &["logs", &name]).fails(1, "configured logging driver does not support reading");
}

fn reload(_: &World, client: &Client) {
    let daemon = Private::start(r#"{"debug":false,"labels":["a=1"]}"#, &["-H", "SOCKET"]);
    let write = |json: &str| std::fs::write(daemon.folder.path().join("daemon.json"), json).unwrap();
    assert_eq!(daemon.ask("GET /debug/vars HTTP/1.1").0, 404);
    let says =
        || daemon.run(client, &["info", "-f", "{{.Debug}} {{json .Labels}} {{.DefaultRuntime}}"]).exits(0);
    assert_eq!(says(), r#"false ["a=1"] havre"#);
    write(
        r#"{"debug":true,"labels":["a=2"],"runtimes":{"mine":{"path":"/bin/true"}},"default-runtime":"mine"}"#,
    );
    daemon.signal(Signal::HUP);
    daemon.wait_for("Reloaded configuration", 1);
    assert_eq!(says(), r#"true ["a=2"] mine"#);
    assert_eq!(daemon.ask("GET /debug/vars HTTP/1.1").0, 200);
    assert!(daemon.log().contains("level=debug"), "{}", daemon.log());
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let filter = "filters=%7B%22type%22%3A%5B%22daemon%22%5D%7D";
    let until = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
    let (_, told) = daemon.ask(&format!("GET /events?since=1&until={until}&{filter} HTTP/1.0"));
    let event: serde_json::Value = told
        .lines()
        .find(|line| line.starts_with('{'))
        .and_then(|line| serde_json::from_str(line).ok())
        .expect("an event");
    assert_eq!((&event["Type"], &event["Action"]), (&"daemon".into(), &"reload".into()));
    let attributes = &event["Actor"]["Attributes"];
    assert_eq!((&attributes["debug"], &attributes["labels"]), (&"true".into(), &r#"["a=2"]"#.into()));
    assert_eq!(
        (&attributes["default-runtime"], &attributes["live-restore"]),
        (&"mine".into(), &"true".into())
    );
    // A bad file changes nothing and is told.
    write(r#"{"debug":false,"labels":["nonsense"]}"#);
    daemon.signal(Signal::HUP);
    daemon.wait_for("Error reloading configuration", 1);
    assert!(daemon.log().contains("bad attribute format: nonsense"), "{}", daemon.log());
    assert_eq!(says(), r#"true ["a=2"] mine"#);
    write("{");
    daemon.signal(Signal::HUP);
    daemon.wait_for("Error reloading configuration", 2);
    assert_eq!(says(), r#"true ["a=2"] mine"#);
}

fn ending(_: &World, client: &Client) {
    let mut daemon = Private::start("{}", &["-H", "SOCKET"]);
    daemon.load(client);
    let name = client.unique("ending");
    let script = "echo up; trap 'exit 3' USR1; while true; do sleep 1; done";
    daemon
        .run(client, &["run", "-d", "--name", &name, "--network", "none", "busybox", "sh", "-c", script])
        .exits(0);
    let host = format!("unix://{}", daemon.path("s"));
    let pidfile = std::fs::read_to_string(daemon.path("exec/havre.pid")).unwrap();
    assert!(pidfile.trim().parse::<u32>().is_ok());
    // A stream that would never end by itself ends as if all was said.
    let mut follow = client.command(&["logs", "-f", &name]);
    let mut child =
        follow.env("DOCKER_HOST", &host).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"up\n");
    assert!(daemon.end().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!std::path::Path::new(&daemon.path("s")).exists(), "the socket goes with the daemon");
    assert!(!std::path::Path::new(&daemon.path("exec/havre.pid")).exists(), "so does its pid file");
    // The container did not notice.
    let folder = std::mem::replace(&mut daemon.folder, tempfile::tempdir().unwrap());
    let mut command = Command::new(crate::private::havre());
    command.args(Private::line(folder.path(), &["-H", "SOCKET"]));
    let again = Private::spawn(folder, command);
    assert_eq!(
        again.run(client, &["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", &name]).exits(0),
        "running 0"
    );
    again.run(client, &["kill", "-s", "USR1", &name]).exits(0);
    assert_eq!(again.run(client, &["wait", &name]).exits(0), "3");
}

fn debugging(_: &World, client: &Client) {
    let daemon = Private::start("{}", &["-H", "SOCKET", "--debug"]);
    daemon.run(client, &["ps"]).exits(0);
    let body =
        |text: String| text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    let (status, text) = daemon.ask("GET /debug/vars HTTP/1.0");
    let vars: serde_json::Value = serde_json::from_str(&body(text)).unwrap();
    assert_eq!(status, 200);
    assert!(vars["memory"]["resident"].as_u64().unwrap() > 1 << 20, "{vars}");
    assert!(vars["traffic"]["requests"].as_u64().unwrap() >= 2 && vars["descriptors"].as_u64().unwrap() > 3);
    assert_eq!(vars["traffic"]["requests_open"], 1, "this one: {vars}");
    let (status, text) = daemon.ask("GET /debug/pprof/goroutine?debug=2 HTTP/1.0");
    assert!(
        status == 200 && text.contains("GET /debug/pprof/goroutine") && text.contains("threads:"),
        "{text}"
    );
    assert!(daemon.ask("GET /debug/pprof/cmdline HTTP/1.0").1.contains("daemon\0--data-root"));
    assert_eq!(daemon.ask("GET /debug/pprof/ HTTP/1.0").0, 200);
    let (status, text) = daemon.ask("GET /debug/pprof/heap HTTP/1.0");
    assert!(status == 501 && text.contains("heap"), "{text}");
    assert_eq!(daemon.ask("GET /debug/pprof/nonsense HTTP/1.0").0, 404);
    daemon.signal(Signal::USR1);
    daemon.wait_for("goroutine stacks written to", 1);
}

fn logs(_: &World, client: &Client) {
    let text = Private::start("{}", &["-H", "SOCKET"]);
    text.run(client, &["ps"]).exits(0);
    let log = text.log();
    assert!(log.lines().all(|line| line.starts_with("time=\"") && line.contains(" level=")), "{log}");
    assert!(!log.contains("level=debug"), "{log}");
    let json = Private::start("{}", &["-H", "SOCKET", "--log-format", "json", "--debug"]);
    json.run(client, &["ps"]).exits(0);
    json.wait_for("handled request", 1);
    for line in json.log().lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(["time", "level", "msg"].iter().all(|key| entry[*key].is_string()), "{line}");
    }
    let quiet = Private::start("{}", &["-H", "SOCKET", "--log-level", "error"]);
    assert_eq!(quiet.log(), "");
}

fn oldest_version(_: &World, _: &Client) {
    let daemon = Private::start(r#"{"min-api-version":"1.44"}"#, &["-H", "SOCKET"]);
    assert_eq!(daemon.ask("GET /v1.44/info HTTP/1.0").0, 200);
    let (status, text) = daemon.ask("GET /v1.43/info HTTP/1.0");
    assert!(status == 400 && text.contains("Minimum supported API version is 1.44"), "{text}");
    fails(r#"{"min-api-version":"1.1"}"#, &["--validate"]).fails(1, "minimum supported API version is 1.24");
}
