//! Limits are real: what is asked is what the kernel enforces.
//!
//! Ratios, not durations, wherever time is measured: the machine may be busy.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Test;
use crate::cases::{detached, field, remove};
use crate::world::{Client, World};

/// Once through one client: these are the engine's.
pub(crate) const ALL: &[Test] = &[
    ("a process over its memory limit is killed and reported", out_of_memory),
    ("r24_a child killed for memory is reported while the first process lives", child_out_of_memory),
    ("half a processor is half a processor", half_a_processor),
    ("r23_a fork bomb is stopped and the neighbours answer", fork_bomb),
    ("a throttled disk is slow", slow_disk),
    ("processors, shares and weights arrive", processors),
    ("memory settings arrive", memory_settings),
    ("ulimits, shared memory and kernel parameters", small_limits),
    ("r19_devices are closed unless asked for", devices),
];

/// Takes more memory than the limit, in one piece.
const HOG: &str = "dd if=/dev/zero of=/dev/null bs=100M count=1";

/// A file of a process's control group, whichever hierarchy has it.
pub(crate) fn group_file(pid: &str, name: &str) -> Option<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        std::fs::read_to_string(format!("/sys/fs/cgroup/{controllers}{path}/{name}")).ok()
    })
}

/// The value behind a word in a control group's statistics.
fn count(text: &str, word: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

fn pid_of(client: &Client, name: &str) -> String {
    field(client, name, "{{.State.Pid}}")
}

/// Lets time pass, as a container sees it.
fn pass(client: &Client, seconds: &str) {
    client.container(&[], &["sleep", seconds]).exits(0);
}

fn out_of_memory(world: &World, client: &Client) {
    for flags in [&["--memory", "32m"][..], &["--memory", "32m", "--memory-swap", "32m"]] {
        let name = client.unique("oom");
        client.run(&["rm", "-f", &name]);
        let start = ["run", "--label", "e2e", "--network", "none", "--name", &name];
        let command = ["e2e/busybox", "sh", "-c", &format!("exec {HOG}")];
        client.run(&[&start[..], flags, &command].concat()).exits(137);
        assert_eq!(field(client, &name, "{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137");
        let id = field(client, &name, "{{.Id}}");
        assert_eq!(world.events(&id).iter().filter(|action| *action == "oom").count(), 1);
        remove(client, &name);
    }
    // The same program within its limit.
    client.container(&["--memory", "256m"], &["sh", "-c", HOG]).exits(0);
    let killed = client.container(&[], &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]);
    assert_eq!(killed.code, 137);
}

fn child_out_of_memory(world: &World, client: &Client) {
    let script = format!("{HOG}; echo child $?; exec sleep 1000");
    let name = detached(client, "oom-child", &["--memory", "32m"], &["sh", "-c", &script]);
    client.follow_until(&name, "child 137");
    let id = field(client, &name, "{{.Id}}");
    world.wait_event(&id, "oom");
    assert_eq!(field(client, &name, "{{.State.Running}} {{.State.OOMKilled}}"), "true true");
    client.run(&["stop", "-t", "0", &name]).exits(0);
    assert_eq!(field(client, &name, "{{.State.OOMKilled}}"), "true");
    // A new run is a new count.
    client.run(&["restart", "-t", "0", &name]).exits(0);
    remove(client, &name);
}

fn half_a_processor(_: &World, client: &Client) {
    let name = detached(client, "half", &["--cpus", "0.5"], &["sh", "-c", "while :; do :; done"]);
    let pid = pid_of(client, &name);
    // Nanoseconds on a processor, from the scheduler itself.
    let used = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
        Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
    };
    let (start, before) = (Instant::now(), used());
    pass(client, "2");
    let ratio = (used() - before).as_secs_f64() / start.elapsed().as_secs_f64();
    // Less than half is what a busy machine gives; more than half would be no limit.
    assert!((0.1..0.6).contains(&ratio), "{ratio}");
    let statistics = group_file(&pid, "cpu.stat").unwrap();
    assert!(count(&statistics, "nr_throttled") > 5, "{statistics}");
    remove(client, &name);
}

fn fork_bomb(_: &World, client: &Client) {
    // Without a limit of its own a container has half of the machine's, unless it is told to have all.
    let machine = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let machine: u64 = machine.trim().parse().unwrap();
    let plain = detached(client, "bomb-plain", &[], &["sleep", "1000"]);
    let limit = group_file(&pid_of(client, &plain), "pids.max").unwrap();
    assert!(limit.trim().parse::<u64>().unwrap() <= machine / 2, "{limit}");
    remove(client, &plain);
    let open = detached(client, "bomb-open", &["--pids-limit", "-1"], &["sleep", "1000"]);
    assert_eq!(group_file(&pid_of(client, &open), "pids.max").unwrap().trim(), "max");
    remove(client, &open);
    let neighbour = detached(client, "neighbour", &[], &["sleep", "1000"]);
    let script = "bomb() { bomb | bomb & }; while :; do bomb; sleep 0.1; done 2>/dev/null";
    let bomb = detached(client, "bomb", &["--pids-limit", "20", "--cpus", "0.5"], &["sh", "-c", script]);
    let pid = pid_of(client, &bomb);
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(client.run(&["exec", &neighbour, "echo", "here"]).exits(0), "here");
        let processes = group_file(&pid, "pids.current").unwrap();
        assert!(processes.trim().parse::<u32>().unwrap() <= 20, "{processes}");
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let refused = || group_file(&pid, "pids.events").is_some_and(|text| count(&text, "max") > 0);
    while !refused() {
        assert!(start.elapsed() < Duration::from_secs(30), "the limit was never met");
        pass(client, "0.2");
    }
    remove(client, &bomb);
    assert!(!Path::new(&format!("/proc/{pid}/ns")).exists());
    remove(client, &neighbour);
}

/// The disk below a folder, if it is one that can be throttled.
pub(crate) fn disk_below(folder: &Path) -> Option<PathBuf> {
    let device = std::fs::metadata(folder).unwrap().dev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mut entry = std::fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?;
    if entry.join("partition").exists() {
        entry.pop();
    }
    Some(Path::new("/dev").join(entry.file_name()?)).filter(|path| path.exists())
}

fn slow_disk(world: &World, client: &Client) {
    let Some(disk) = disk_below(world.folder()) else {
        println!("SKIP a throttled disk is slow: the test's folder is on no disk");
        return;
    };
    let folder = world.folder().join(client.unique("disk"));
    std::fs::create_dir_all(&folder).unwrap();
    let volume = format!("{}:/m", folder.display());
    let write = |flags: &[&str], name: &str| {
        let target = format!("of=/m/{name}");
        let name = client.unique(name);
        client.run(&["rm", "-f", &name]);
        let start = ["run", "--label", "e2e", "--network", "none", "--name", &name, "-v", &volume];
        let dd = ["e2e/busybox", "dd", "if=/dev/zero", &target, "bs=64k", "count=32", "oflag=direct"];
        client.run(&[&start[..], flags, &dd].concat()).exits(0);
        let times = field(client, &name, "{{.State.StartedAt}} {{.State.FinishedAt}}");
        remove(client, &name);
        let (start, end) = times.split_once(' ').unwrap();
        seconds(end) - seconds(start)
    };
    let limit = format!("{}:1mb", disk.display());
    let free = write(&[], "free");
    let slow = write(&["--device-write-bps", &limit], "slow");
    // Two megabytes at one a second; the kernel may let the first second's worth through.
    assert!(slow > 0.8 && slow > free * 2.0, "{slow} s throttled, {free} s free");
    let limit = format!("{}:20", disk.display());
    let slow = write(&["--device-write-iops", &limit], "iops");
    assert!(slow > 0.5 && slow > free * 2.0, "{slow} s throttled, {free} s free");
}

/// Seconds of the day of a time as inspection shows it; a test at midnight gets a negative difference.
fn seconds(time: &str) -> f64 {
    let clock = time.split_once('T').unwrap().1.trim_end_matches('Z');
    clock.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

fn processors(_: &World, client: &Client) {
    let list = ["sh", "-c", "grep Cpus_allowed_list /proc/self/status | cut -f2"];
    assert_eq!(client.container(&["--cpuset-cpus", "0", "--cpuset-mems", "0"], &list).exits(0), "0");
    client.container(&["--cpuset-cpus", "4000"], &["true"]).fails(125, "equested CPUs are not available");
    client.container(&["--cpuset-cpus", "x"], &["true"]).fails(125, "nvalid value x for cpuset cpus");
    let flags = ["--cpu-shares", "512", "--cpu-period", "50000", "--cpu-quota", "20000"];
    let name = detached(client, "shares", &flags, &["sleep", "1000"]);
    let pid = pid_of(client, &name);
    match group_file(&pid, "cpu.weight") {
        // The OCI runtime specification's conversion: 1 + (shares - 2) * 9999 / 262142.
        Some(weight) => assert!(["20", "59"].contains(&weight.trim()), "{weight}"),
        None => assert_eq!(group_file(&pid, "cpu.shares").unwrap().trim(), "512"),
    }
    match group_file(&pid, "cpu.max") {
        Some(max) => assert_eq!(max.trim(), "20000 50000"),
        None => {
            assert_eq!(group_file(&pid, "cpu.cfs_quota_us").unwrap().trim(), "20000");
            assert_eq!(group_file(&pid, "cpu.cfs_period_us").unwrap().trim(), "50000");
        }
    }
    remove(client, &name);
    client.container(&["--cpus", "4000"], &["true"]).fails(125, "ange of CPUs is from 0.01 to");
}

fn memory_settings(_: &World, client: &Client) {
    let flags = ["--memory", "64m", "--memory-reservation", "32m", "--memory-swap", "64m"];
    let name = detached(client, "memory", &flags, &["sleep", "1000"]);
    let pid = pid_of(client, &name);
    let either = |new: &str, old: &str| group_file(&pid, new).or_else(|| group_file(&pid, old)).unwrap();
    assert_eq!(either("memory.max", "memory.limit_in_bytes").trim(), "67108864");
    assert_eq!(either("memory.low", "memory.soft_limit_in_bytes").trim(), "33554432");
    let inside = client.run(&[
        "exec",
        &name,
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; exit 0",
    ]);
    assert_eq!(inside.exits(0), "67108864");
    remove(client, &name);
    client.container(&["--memory", "1m"], &["true"]).fails(125, "inimum memory limit allowed is 6MB");
    client
        .container(&["--memory", "64m", "--memory-swap", "32m"], &["true"])
        .fails(125, "inimum memoryswap limit should be larger than memory limit");
    client
        .container(&["--memory-swap", "32m"], &["true"])
        .fails(125, "hould always set the Memory limit when using Memoryswap limit");
}

fn small_limits(_: &World, client: &Client) {
    let flags = ["--ulimit", "nofile=100:200", "--ulimit", "core=0"];
    let script = "ulimit -Sn; ulimit -Hn; ulimit -c";
    assert_eq!(client.container(&flags, &["sh", "-c", script]).exits(0), "100\n200\n0");
    client.container(&["--ulimit", "nofile=200:100"], &["true"]).fails(125, "ulimit soft limit must be less");
    let shm = ["sh", "-c", "df -k /dev/shm | tail -n 1 | awk '{print $2}'"];
    assert_eq!(client.container(&["--shm-size", "3m"], &shm).exits(0), "3072");
    assert_eq!(client.container(&[], &shm).exits(0), "65536");
    let flags = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=9000"];
    let script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax";
    assert_eq!(client.container(&flags, &["sh", "-c", script]).exits(0), "1\n9000");
    let host = std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    assert_ne!(host.trim(), "9000");
    client.container(&["--sysctl", "kernel.panic=1"], &["true"]).fails(125, "kernel.panic");
    let outcome = client.run(&[
        "run",
        "--rm",
        "--network",
        "host",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "e2e/busybox",
        "true",
    ]);
    outcome.fails(125, "net.ipv4.ip_forward");
    let adjusted = ["cat", "/proc/self/oom_score_adj"];
    assert_eq!(client.container(&["--oom-score-adj", "321"], &adjusted).exits(0), "321");
    client.container(&["--oom-score-adj", "1001"], &["true"]).fails(125, "1001");
}

/// A character device outside the default list that everybody has.
fn some_device() -> Option<(&'static str, u32, u32)> {
    ["/dev/loop-control", "/dev/net/tun", "/dev/fuse", "/dev/kvm"].into_iter().find_map(|path| {
        let device = std::fs::metadata(path).ok()?.rdev();
        Some((path, rustix::fs::major(device), rustix::fs::minor(device)))
    })
}

fn devices(_: &World, client: &Client) {
    let denied = "ot permitted";
    for number in ["c 1 1", "b 254 0", "b 8 0", "b 7 0"] {
        let script = format!("mknod /tmp/n {number} && exec 3</tmp/n");
        let outcome = client.container(&[], &["sh", "-c", &script]);
        assert!(outcome.code != 0 && outcome.err.contains(denied), "{number}: {outcome:?}");
    }
    let Some((path, major, minor)) = some_device() else {
        println!("SKIP devices are closed unless asked for: no device of the usual ones is here");
        return;
    };
    let read = ["sh", "-c", "exec 3</dev/mine"];
    let write = ["sh", "-c", "exec 3>/dev/mine"];
    client.container(&["--device", &format!("{path}:/dev/mine:r")], &read).exits(0);
    let outcome = client.container(&["--device", &format!("{path}:/dev/mine:r")], &write);
    assert!(outcome.code != 0 && outcome.err.contains(denied), "{outcome:?}");
    client.container(&["--device", &format!("{path}:/dev/mine")], &write).exits(0);
    client.container(&["--device", "/dev/no-such-device"], &["true"]).fails(125, "/dev/no-such-device");
    let made = format!("mknod /tmp/n c {major} {minor} && exec 3</tmp/n");
    let outcome = client.container(&[], &["sh", "-c", &made]);
    assert!(outcome.code != 0 && outcome.err.contains(denied), "{outcome:?}");
    let rule = format!("c {major}:{minor} r");
    client.container(&["--device-cgroup-rule", &rule], &["sh", "-c", &made]).exits(0);
    let made = format!("mknod /tmp/n c {major} {minor} && exec 3>/tmp/n");
    let outcome = client.container(&["--device-cgroup-rule", &rule], &["sh", "-c", &made]);
    assert!(outcome.code != 0 && outcome.err.contains(denied), "{outcome:?}");
    client.container(&["--device-cgroup-rule", "x 1:3 r"], &["true"]).exits(125);
}
