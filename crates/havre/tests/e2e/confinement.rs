//! Namespaces, capabilities, filters and mounts: what is shared, what is not, and what is gained.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::Test;
use crate::cases::{detached, field, remove};
use crate::world::{Client, World};

/// Once through one client: these are the engine's.
pub(crate) const ALL: &[Test] = &[
    ("namespaces are private, the host's or another container's", namespaces),
    ("an init forwards signals and reaps", init),
    ("r13_groups are added", groups),
    ("r12_capabilities are added and dropped", capabilities),
    ("privileged opens what it should", privileged),
    ("r30_no-new-privileges takes the power from setuid programs", no_new_privileges),
    ("seccomp profiles are the caller's", seccomp_profiles),
    ("labels the kernel cannot honour are refused", labels),
    ("mounts propagate as asked", propagation),
];

/// One namespace of the process that asks.
fn namespace(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

fn namespaces(_: &World, client: &Client) {
    let link = |flags: &[&str], kind: &str| {
        client.container(flags, &["readlink", &format!("/proc/self/ns/{kind}")]).exits(0)
    };
    for (kind, flag) in [("pid", "--pid"), ("ipc", "--ipc"), ("uts", "--uts"), ("cgroup", "--cgroupns")] {
        assert_eq!(link(&[flag, "host"], kind), namespace(kind), "{kind}");
        assert_ne!(link(&[], kind), namespace(kind), "{kind}");
    }
    for kind in ["mnt", "net"] {
        assert_ne!(link(&[], kind), namespace(kind), "{kind}");
    }
    assert_ne!(link(&["--cgroupns", "private"], "cgroup"), namespace("cgroup"));
    let name = detached(client, "shared", &["--ipc", "shareable", "-h", "first"], &["sleep", "1234"]);
    let other = format!("container:{name}");
    let theirs =
        |kind: &str| client.run(&["exec", &name, "readlink", &format!("/proc/self/ns/{kind}")]).exits(0);
    assert_eq!(link(&["--pid", &other], "pid"), theirs("pid"));
    let first = client.container(&["--pid", &other], &["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"]);
    assert_eq!(first.exits(0), "sleep 1234");
    let network = ["run", "--rm", "--network", &other, "e2e/busybox", "readlink", "/proc/self/ns/net"];
    assert_eq!(client.run(&network).exits(0), theirs("net"));
    let hosts = ["run", "--rm", "--network", &other, "e2e/busybox", "hostname"];
    assert_eq!(client.run(&hosts).exits(0), "first");
    client.container(&["--pid", "container:no-such-container"], &["true"]).fails(125, "no-such-container");
    client.run(&["kill", &name]).exits(0);
    client.container(&["--pid", &other], &["true"]).fails(125, "is not running");
    remove(client, &name);
    let private = detached(client, "private", &["--ipc", "private"], &["sleep", "1000"]);
    client.container(&["--ipc", &format!("container:{private}")], &["true"]).fails(125, "container");
    remove(client, &private);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(client.container(&["--uts", "host"], &["hostname"]).exits(0), host);
    client.container(&["--uts", "host", "-h", "x"], &["true"]).fails(125, "UTS");
}

fn init(_: &World, client: &Client) {
    let script =
        "(sleep 0.1 & exec true) & wait; trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let name = detached(client, "init", &["--init"], &["sh", "-c", script]);
    client.follow_until(&name, "ready");
    let first = client.run(&["exec", &name, "cat", "/proc/1/comm"]).exits(0);
    assert_ne!(first, "sh");
    let zombies = client.run(&["exec", &name, "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l"]);
    assert_eq!(zombies.exits(0), "0");
    client.run(&["stop", &name]).exits(0);
    assert_eq!(field(client, &name, "{{.State.ExitCode}}"), "3");
    remove(client, &name);
    client.container(&["--init"], &["sh", "-c", "exit 9"]).exits(9);
    // With an init, the process may be killed by what it is sent.
    client.container(&["--init"], &["sh", "-c", "kill -9 $$"]).exits(137);
    client.container(&["--init"], &["no-such-command"]).fails(127, "executable file not found in $PATH");
}

fn groups(_: &World, client: &Client) {
    let flags = ["--group-add", "29", "--group-add", "daemon", "-u", "bob"];
    let listed = client.container(&flags, &["id", "-G"]).exits(0);
    let mut groups: Vec<&str> = listed.split_whitespace().collect();
    groups.sort_unstable();
    assert_eq!(groups, ["1", "10", "1000", "29"]);
    client.container(&["--group-add", "no-such-group"], &["true"]).fails(125, "no-such-group");
}

fn effective(client: &Client, flags: &[&str]) -> u64 {
    let script = "grep CapEff /proc/self/status | cut -f2";
    u64::from_str_radix(&client.container(flags, &["sh", "-c", script]).exits(0), 16).unwrap()
}

fn capabilities(_: &World, client: &Client) {
    let default = 0xa804_25fb;
    assert_eq!(effective(client, &[]), default);
    assert_eq!(effective(client, &["--cap-drop", "ALL"]), 0);
    assert_eq!(effective(client, &["--cap-drop", "all", "--cap-add", "CHOWN"]), 1);
    assert_eq!(effective(client, &["--cap-add", "CAP_SYS_ADMIN"]), default | 1 << 21);
    assert_eq!(effective(client, &["--cap-drop", "cap_net_raw"]), default & !(1 << 13));
    assert_eq!(effective(client, &["-u", "bob"]), 0);
    let all = effective(client, &["--cap-add", "ALL"]);
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = text.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    assert_eq!(all, u64::from_str_radix(bounding.trim(), 16).unwrap());
    client.container(&["--cap-add", "NO_SUCH"], &["true"]).fails(125, "NO_SUCH");
    let ping = ["sh", "-c", "mount -t tmpfs x /tmp && echo mounted"];
    assert_eq!(client.container(&["--cap-add", "SYS_ADMIN"], &ping).exits(0), "mounted");
    assert_ne!(client.container(&[], &ping).code, 0);
    for set in ["CapInh", "CapAmb"] {
        let script = format!("grep {set} /proc/self/status | cut -f2");
        let value = client.container(&["--cap-add", "ALL"], &["sh", "-c", &script]).exits(0);
        assert_eq!(value, "0000000000000000", "{set}");
    }
}

fn privileged(_: &World, client: &Client) {
    assert_eq!(effective(client, &["--privileged"]), effective(client, &["--cap-add", "ALL"]));
    let script = "grep Seccomp: /proc/self/status | cut -f2; mount -t tmpfs x /tmp && echo mounted; \
        touch /sys/fs/cgroup/x 2>/dev/null; echo 1 > /proc/sys/net/ipv4/ip_forward && echo written; \
        ls /dev | wc -l; ls -l /dev/ptmx; mknod /tmp/m c 1 11 && exec 3</tmp/m; echo $?";
    let seen = client.container(&["--privileged"], &["sh", "-c", script]).exits(0);
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!((lines[0], lines[1], lines[2], lines[5]), ("0", "mounted", "written", "0"), "{seen}");
    assert!(lines[4].ends_with("/dev/ptmx -> pts/ptmx"), "{seen}");
    assert!(lines[3].parse::<usize>().unwrap() > 15, "{seen}");
    let name = detached(client, "power", &["--privileged"], &["sleep", "1000"]);
    let script = ["sh", "-c", "grep -e CapEff -e Seccomp: /proc/self/status | cut -f2"];
    let inside = client.run(&[&["exec", &name][..], &script].concat()).exits(0);
    assert!(!inside.starts_with("00000000a80425fb") && inside.ends_with("\n0"), "{inside}");
    remove(client, &name);
    let plain = detached(client, "plain", &[], &["sleep", "1000"]);
    let inside = client.run(&[&["exec", &plain][..], &script].concat()).exits(0);
    assert_eq!(inside, "00000000a80425fb\n2");
    let more = client.run(&[&["exec", "--privileged", &plain][..], &script].concat()).exits(0);
    assert!(!more.starts_with("00000000a80425fb"), "{more}");
    remove(client, &plain);
}

/// A folder with the probe in it, setuid.
fn setuid_probe(world: &World, client: &Client) -> Option<String> {
    let probe = world.probe()?;
    let folder = world.folder().join(client.unique("setuid"));
    std::fs::create_dir_all(&folder).unwrap();
    let copy = folder.join("probe");
    std::fs::copy(probe, &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o4755)).unwrap();
    Some(format!("{}:/m:ro", folder.display()))
}

fn no_new_privileges(world: &World, client: &Client) {
    let Some(volume) = setuid_probe(world, client) else { return };
    let flags = ["-v", &volume, "-u", "bob"];
    assert_eq!(client.container(&flags, &["/m/probe", "users"]).exits(0), "1000 0");
    for option in ["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"] {
        let flags = [&flags[..], &["--security-opt", option]].concat();
        assert_eq!(client.container(&flags, &["/m/probe", "users"]).exits(0), "1000 1000", "{option}");
    }
    let flags = [&flags[..2], &["--security-opt", "no-new-privileges"]].concat();
    let name = detached(client, "no-new", &flags, &["sleep", "1000"]);
    assert_eq!(client.run(&["exec", "-u", "bob", &name, "/m/probe", "users"]).exits(0), "1000 1000");
    remove(client, &name);
}

fn seccomp_profiles(world: &World, client: &Client) {
    let mode = ["sh", "-c", "grep Seccomp: /proc/self/status | cut -f2"];
    assert_eq!(client.container(&[], &mode).exits(0), "2");
    assert_eq!(client.container(&["--security-opt", "seccomp=unconfined"], &mode).exits(0), "0");
    let file = world.folder().join(client.unique("profile.json"));
    let option = format!("seccomp={}", file.display());
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    std::fs::write(&file, profile).unwrap();
    let outcome = client.container(&["--security-opt", &option], &["mkdir", "/tmp/x"]);
    outcome.fails(1, "No space left on device");
    client.container(&["--security-opt", &option], &["touch", "/tmp/x"]).exits(0);
    let name = detached(client, "profile", &["--security-opt", &option], &["sleep", "1000"]);
    client.run(&["exec", &name, "mkdir", "/tmp/x"]).fails(1, "No space left on device");
    remove(client, &name);
    for bad in ["{", r#"{"defaultAction":"SCMP_ACT_NONSENSE"}"#] {
        std::fs::write(&file, bad).unwrap();
        client.container(&["--security-opt", &option], &["true"]).exits(125);
    }
    client.container(&["--security-opt", "seccomp=/no/such/file"], &["true"]).fails(125, "/no/such/file");
    client.container(&["--security-opt", "nonsense=1"], &["true"]).fails(125, "nonsense");
}

fn labels(_: &World, client: &Client) {
    let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !apparmor.is_ok_and(|text| text.trim() == "Y") {
        client.container(&["--security-opt", "apparmor=mine"], &["true"]).fails(125, "AppArmor");
        client.container(&["--security-opt", "apparmor=unconfined"], &["true"]).exits(0);
    }
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        client.container(&["--security-opt", "label=type:mine_t"], &["true"]).fails(125, "SELinux");
        client.container(&["--security-opt", "label=disable"], &["true"]).exits(0);
    }
}

/// A mount on the host that is undone.
struct Mounted(PathBuf);

impl Mounted {
    fn make(args: &[&str], target: PathBuf) -> Self {
        std::fs::create_dir_all(&target).unwrap();
        let status = Command::new("mount").args(args).arg(&target).status().unwrap();
        assert!(status.success(), "mount {args:?} {}", target.display());
        Self(target)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").args(["-R", "-l"]).arg(&self.0).status().ok();
    }
}

fn propagation(world: &World, client: &Client) {
    let base = world.folder().join(client.unique("propagation"));
    let top = Mounted::make(&["-t", "tmpfs", "top"], base.clone());
    let change = |how: &str| {
        assert!(Command::new("mount").arg(how).arg(&base).status().unwrap().success());
    };
    change("--make-private");
    let volume = |mode: &str| format!("{}:/m:{mode}", base.display());
    client
        .container(&["-v", &volume("rshared")], &["true"])
        .fails(125, &format!("path {0} is mounted on {0} but it is not a shared mount", base.display()));
    client
        .container(&["-v", &volume("rslave")], &["true"])
        .fails(125, "but it is not a shared or slave mount");
    change("--make-shared");
    let names: Vec<String> = ["rprivate", "rslave", "rshared"]
        .into_iter()
        .map(|mode| {
            let flags = ["-v", &volume(mode), "--cap-add", "SYS_ADMIN"];
            detached(client, mode, &flags, &["sleep", "1000"])
        })
        .collect();
    let later = Mounted::make(&["-t", "tmpfs", "later"], base.join("later"));
    std::fs::write(base.join("later/file"), "").unwrap();
    let sees = |name: &str| client.run(&["exec", name, "test", "-e", "/m/later/file"]).code == 0;
    assert_eq!(names.iter().map(|name| sees(name)).collect::<Vec<_>>(), [false, true, true]);
    for (name, seen) in names.iter().zip([false, false, true]) {
        let script = "mkdir /m/$0 && mount -t tmpfs x /m/$0 && touch /m/$0/file";
        client.run(&["exec", name, "sh", "-c", script, name]).exits(0);
        assert_eq!(base.join(name).join("file").exists(), seen, "{name}");
    }
    drop(later);
    for name in &names {
        remove(client, name);
    }
    drop(top);
    // The same through --mount.
    let top = Mounted::make(&["-t", "tmpfs", "top"], base.clone());
    change("--make-shared");
    let mount = format!("type=bind,src={},dst=/m,bind-propagation=rslave", base.display());
    let table = client.container(&["--mount", &mount], &["grep", " /m ", "/proc/self/mountinfo"]).exits(0);
    assert!(table.contains(" master:") && !table.contains(" shared:"), "{table}");
    drop(top);
}
