//! Ends that nobody wants to see: of daemons that are told three times, of starts that fail, of disks that are
//! full, of containers on somebody's screen.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;

use crate::Test;
use crate::private::Private;
use crate::terminal::Terminal;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("a third signal ends a daemon that waits for its requests", third_signal),
    ("a daemon does not wait for its requests beyond the shutdown timeout", shutdown_timeout),
    ("a wait is answered when the start fails", failing_start),
    ("statistics on a terminal show who comes and forget who goes", watched),
    ("l02_a log on a full disk loses lines, counts them and goes on", full_disk),
    ("l04_a torn record of a log is skipped and told of", torn_record),
];

/// A request whose body never comes to its end, so that the daemon cannot end in order. It is read from already.
fn endless_upload(daemon: &Private, client: &Client) -> UnixStream {
    daemon.load(client);
    daemon.run(client, &["create", "--name", "held", "--network", "none", "busybox", "true"]).exits(0);
    let mut stream = UnixStream::connect(daemon.path("s")).unwrap();
    let head = "PUT /containers/held/archive?path=/tmp HTTP/1.1\r\nHost: x\r\n\
                Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("100"), "{line}");
    stream
}

fn third_signal(_: &World, client: &Client) {
    let mut daemon = Private::start("{}", &["-H", "SOCKET", "--shutdown-timeout", "-1"]);
    let held = endless_upload(&daemon, client);
    daemon.signal(Signal::TERM);
    daemon.wait_for("containers keep running", 1);
    daemon.signal(Signal::TERM);
    // Signals of one kind are not counted by the kernel: the second must have been taken before the third.
    daemon.signal(Signal::INT);
    let status = daemon.end();
    assert_eq!(status.code(), Some(1), "{}", daemon.log());
    daemon.wait_for("Forcing daemon shutdown without cleanup", 1);
    drop(held);
}

fn shutdown_timeout(_: &World, client: &Client) {
    let mut daemon = Private::start("{}", &["-H", "SOCKET", "--shutdown-timeout", "1"]);
    let mut held = endless_upload(&daemon, client);
    let status = daemon.end();
    assert_eq!(status.code(), Some(0), "{}", daemon.log());
    daemon.wait_for("some requests did not end in time", 1);
    // The connection is gone with the daemon.
    let mut rest = Vec::new();
    held.read_to_end(&mut rest).ok();
    assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1 200"));
}

fn failing_start(world: &World, client: &Client) {
    let create = |name: &str, remove: bool| {
        let body = format!(
            "{{\"Image\":\"e2e/busybox\",\"Cmd\":[\"/no/such\"],\"Labels\":{{\"e2e\":\"\"}},\
             \"HostConfig\":{{\"NetworkMode\":\"none\",\"AutoRemove\":{remove}}}}}"
        );
        client.run(&["rm", "-f", name]);
        let (status, text) = world.api("POST", &format!("/containers/create?name={name}"), &body);
        assert_eq!(status, 201, "{text}");
    };
    // The answer's head comes when the wait is in place, so that it cannot miss the start.
    let wait = |name: &str, condition: &str| {
        world.connect(&format!("POST /containers/{name}/wait?condition={condition} HTTP/1.0"), "")
    };
    for condition in ["next-exit", "removed"] {
        let name = client.unique("failing");
        create(&name, true);
        let (status, mut answer) = wait(&name, condition);
        assert_eq!(status, 200);
        assert_eq!(world.api("POST", &format!("/containers/{name}/start"), "").0, 400);
        let mut text = String::new();
        answer.read_to_string(&mut text).unwrap();
        assert!(text.contains("\"StatusCode\":127"), "{condition}: {text}");
    }
    // One that stays can be asked again; whoever waits for its next exit goes on waiting, as with Docker.
    let name = client.unique("failing");
    create(&name, false);
    let (_, mut pending) = wait(&name, "next-exit");
    assert_eq!(world.api("POST", &format!("/containers/{name}/start"), "").0, 400);
    let (status, text) = world.api("POST", &format!("/containers/{name}/wait"), "");
    assert!(status == 200 && text.contains("\"StatusCode\":127"), "{text}");
    client.run(&["rm", &name]).exits(0);
    let mut text = String::new();
    pending.read_to_string(&mut text).unwrap();
    assert!(text.contains("\"StatusCode\":127"), "{text}");
}

fn watched(_: &World, client: &Client) {
    let first = client.sleeper("watched-first", &[]);
    let mut terminal = Terminal::run(client, &["stats"]);
    terminal.expect(&first);
    let second = client.sleeper("watched-second", &[]);
    terminal.expect(&second);
    client.remove(&second);
    // A screen is drawn from its top; the second is on none that comes once it is forgotten.
    let gone = (0..60).any(|_| {
        terminal.expect("CONTAINER ID");
        !terminal.expect("CONTAINER ID").contains(&second)
    });
    assert!(gone, "a removed container stays on the screen");
    let third = client.sleeper("watched-third", &[]);
    terminal.expect(&third);
    terminal.send("\x03");
    terminal.end();
    client.remove(&first);
    client.remove(&third);
}

/// Mounts memory of a size on a folder; gone when dropped.
struct Small(std::path::PathBuf);

impl Small {
    fn resize(&self, size: &str, flags: MountFlags) {
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        if flags.is_empty() {
            rustix::mount::mount("small", &self.0, "tmpfs", flags, options.as_c_str()).unwrap();
        } else {
            rustix::mount::mount_remount(&self.0, flags, options.as_c_str()).unwrap();
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

fn full_disk(_: &World, client: &Client) {
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    daemon.load(client);
    let script = "i=0; while [ $i -lt 4000 ]; do echo 0123456789012345678901234567890123456789 $i; i=$((i+1)); done; \
                  >/flooded; until [ -e /go ]; do sleep 0.05; done; echo after";
    let id = daemon
        .run(client, &["create", "--name", "floods", "--network", "none", "busybox", "sh", "-c", script]);
    let folder = daemon.folder.path().join("data/containers").join(id.exits(0));
    std::fs::create_dir_all(&folder).unwrap();
    let disk = Small(folder);
    disk.resize("64k", MountFlags::empty());
    daemon.run(client, &["start", "floods"]).exits(0);
    // The container does not wait for its log.
    let flooded = "until [ -e /flooded ]; do sleep 0.05; done; >/go.next";
    daemon.run(client, &["exec", "floods", "sh", "-c", flooded]).exits(0);
    daemon.wait_for("cannot write the container's log, output is lost", 1);
    disk.resize("10m", MountFlags::NOSUID);
    daemon.run(client, &["exec", "floods", "sh", "-c", ">/go"]).exits(0);
    assert_eq!(daemon.run(client, &["wait", "floods"]).exits(0), "0");
    daemon.wait_for("records of the container's output are not in its log", 1);
    let log = daemon.run(client, &["logs", "floods"]).exits(0);
    assert!(log.lines().next().unwrap().ends_with(" 0") && log.lines().last() == Some("after"), "{log}");
    let counted = daemon.log();
    let counted = counted.lines().find_map(|line| line.split_once(" records of the container's output"));
    let lost: usize = counted.unwrap().0.rsplit(' ').next().unwrap().parse().unwrap();
    // Every line is in the log or counted; one may be there in part and counted.
    let kept = log.lines().count();
    assert!((4001..=4002).contains(&(kept + lost)), "{kept} kept, {lost} lost");
    daemon.run(client, &["rm", "floods"]);
    drop(disk);
}

fn torn_record(_: &World, client: &Client) {
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    daemon.load(client);
    let run = ["run", "-d", "--name", "torn", "--network", "none", "busybox", "echo", "whole"];
    let id = daemon.run(client, &run).exits(0);
    daemon.run(client, &["wait", "torn"]).exits(0);
    let log = daemon.folder.path().join("data/containers").join(&id).join(format!("{id}-json.log"));
    let mut file = std::fs::OpenOptions::new().append(true).open(log).unwrap();
    // Half a record, as a machine that lost its power leaves it, and what comes after.
    file.write_all(b"{\"log\":\"to\n").unwrap();
    file.write_all(b"{\"log\":\"later\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T15:04:05Z\"}\n")
        .unwrap();
    assert_eq!(daemon.run(client, &["logs", "torn"]).exits(0), "whole\nlater");
    daemon.wait_for("lines of a log that are no whole records were skipped", 1);
}
