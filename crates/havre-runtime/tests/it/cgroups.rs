//! Limits on the kernel's hierarchies.

use std::os::fd::AsFd;
use std::path::PathBuf;

use havre_oci::runtime::{
    DeviceRule, LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, ThrottleDevice,
};
use havre_runtime::cgroup::{Cgroup, Hierarchy, Layout, Version};
use havre_sys::process::Exit;

use super::Test;
use super::exec::Running;
use super::world::World;

pub(crate) const TESTS: &[Test] = &[
    ("limits_are_written_and_changed", written),
    ("a_group_that_cannot_be_limited_leaves_nothing", undone),
    ("memory_is_limited_and_the_kill_is_counted", memory),
    ("processes_are_limited", pids),
    ("a_frozen_group_stands_still", frozen),
    ("kill_ends_everything_and_remove_takes_groups_below", kill),
    ("devices_follow_their_rules", devices),
    ("v2_device_programs_load_and_attach", programs),
];

fn v1() -> bool {
    let is_v1 = Layout::current().unwrap().version == Version::V1;
    if !is_v1 {
        println!("SKIP: this test reads the files of cgroup v1, which this machine does not use");
    }
    is_v1
}

fn path(name: &str) -> String {
    format!("/havre-test/{name}-{}", std::process::id())
}

fn written() {
    if !v1() {
        return;
    }
    let resources = LinuxResources {
        memory: Some(LinuxMemory { limit: Some(64 << 20), swap: Some(128 << 20), ..LinuxMemory::default() }),
        cpu: Some(LinuxCpu {
            shares: Some(512),
            quota: Some(50_000),
            period: Some(100_000),
            cpus: Some("0".into()),
            ..LinuxCpu::default()
        }),
        pids: Some(LinuxPids { limit: 17 }),
        ..LinuxResources::default()
    };
    let cgroup = Cgroup::create(&path("written"), &resources).unwrap();
    let read = |controller: &str, file: &str| cgroup.read(controller, file).unwrap().trim().to_owned();
    assert_eq!(read("memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(read("memory", "memory.memsw.limit_in_bytes"), "134217728");
    assert_eq!(read("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(read("cpuset", "cpuset.cpus"), "0");
    assert_eq!(read("pids", "pids.max"), "17");
    // Both limits at once, up and down, whatever order the kernel wants.
    for (limit, swap) in [(256 << 20, 512 << 20), (32 << 20, 64 << 20), (32 << 20, -1)] {
        let memory = LinuxMemory { limit: Some(limit), swap: Some(swap), ..LinuxMemory::default() };
        cgroup.apply(&LinuxResources { memory: Some(memory), ..LinuxResources::default() }).unwrap();
        assert_eq!(read("memory", "memory.limit_in_bytes"), limit.to_string());
    }
    assert_eq!(read("pids", "pids.max"), "17");
    assert!(cgroup.is_empty());
    assert!(Cgroup::children_under("/havre-test").iter().any(|name| name.starts_with("written-")));
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
}

fn undone() {
    let huge = LinuxResources {
        cpu: Some(LinuxCpu { cpus: Some("4000".into()), ..LinuxCpu::default() }),
        ..LinuxResources::default()
    };
    assert!(Cgroup::create(&path("undone"), &huge).is_err());
    let nothing = LinuxResources {
        block_io: Some(LinuxBlockIo {
            throttle_read_bps_device: vec![ThrottleDevice { major: 4000, minor: 1, rate: 1 }],
            ..LinuxBlockIo::default()
        }),
        ..LinuxResources::default()
    };
    assert!(Cgroup::create(&path("undone"), &nothing).is_err());
    for bad in ["", "/", "/a/../b", "/./x"] {
        assert!(Cgroup::create(bad, &LinuxResources::default()).is_err(), "{bad}");
    }
    assert!(!Cgroup::open(&path("undone")).unwrap().exists());
}

fn memory() {
    let mut world = World::new();
    let memory = LinuxMemory { limit: Some(16 << 20), swap: Some(16 << 20), ..LinuxMemory::default() };
    world.linux().resources = Some(LinuxResources { memory: Some(memory), ..LinuxResources::default() });
    world.process().args =
        super::world::strings(&["busybox", "awk", "BEGIN { x = \"yyyyyyyyyyyyyyyy\"; while (1) x = x x }"]);
    let cgroup = world.cgroup();
    let watch = cgroup.oom_watch().unwrap();
    let (launched, ..) = world.start(Some(&cgroup)).unwrap();
    let exit = havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
    assert_eq!(exit, Exit::Signal(9));
    assert_eq!(cgroup.oom_kills(), 1);
    let mut waited = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
    let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut waited, Some(&none)).unwrap(), 1);
    cgroup.remove().unwrap();
}

fn pids() {
    let mut world = World::new();
    world.linux().resources =
        Some(LinuxResources { pids: Some(LinuxPids { limit: 5 }), ..LinuxResources::default() });
    let outcome = world.run(&["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"]).unwrap();
    assert!(outcome.stderr.contains("fork"), "{outcome:?}");
}

fn frozen() {
    let running = Running::new(World::new());
    running.cgroup.freeze().unwrap();
    assert!(running.cgroup.is_frozen());
    let pid = running.launched.pid.as_raw_nonzero();
    let state = || std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    assert!(!running.cgroup.is_empty(), "{}", state());
    running.cgroup.thaw().unwrap();
    assert!(!running.cgroup.is_frozen());
    // Ended while frozen: dropping kills and waits.
    running.cgroup.freeze().unwrap();
}

fn kill() {
    let running = Running::new(World::new());
    let before = running.cgroup.processes();
    assert_eq!(before, [running.launched.pid]);
    let layout = Layout::current().unwrap();
    for hierarchy in &layout.hierarchies {
        let folder = hierarchy.root.join(running.cgroup.path().trim_start_matches('/')).join("below/deeper");
        std::fs::create_dir_all(folder).unwrap();
    }
    drop(running);
}

fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
    DeviceRule { allow, kind: Some(kind.into()), major, minor, access: Some(access.into()) }
}

fn devices() {
    let mut world = World::new();
    let script = "mknod /tmp/fuse c 10 229; (: </tmp/fuse) 2>/dev/null && echo yes || echo no; rm /tmp/fuse";
    assert_eq!(world.sh(script), "no");
    let allow = vec![rule(false, "a", None, None, "rwm"), rule(true, "c", Some(10), Some(229), "r")];
    world.linux().resources = Some(LinuxResources { devices: allow, ..LinuxResources::default() });
    assert_eq!(world.sh(script), "yes");
    let all = vec![rule(true, "a", None, None, "rwm")];
    world.linux().resources = Some(LinuxResources { devices: all, ..LinuxResources::default() });
    assert_eq!(world.sh(script), "yes");
}

/// The v2 hierarchy of a hybrid machine has no controllers, but takes device programs.
fn programs() {
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    if std::fs::metadata(unified.join("cgroup.procs")).is_err() {
        println!("SKIP: no v2 hierarchy at {}", unified.display());
        return;
    }
    let hierarchy =
        Hierarchy { root: unified, version: Version::V2, controllers: vec![], name: "unified".into() };
    let layout: &'static Layout =
        Box::leak(Box::new(Layout { version: Version::V2, hierarchies: vec![hierarchy] }));
    let rules = vec![
        rule(false, "a", None, None, "rwm"),
        rule(true, "c", Some(10), Some(229), "r"),
        rule(true, "b", Some(8), None, "rw"),
    ];
    let resources = LinuxResources { devices: rules, ..LinuxResources::default() };
    let cgroup = Cgroup::create_in(layout, &path("programs"), &resources).unwrap();
    cgroup.apply(&resources).unwrap();

    // A container made right there (CLONE_INTO_CGROUP) finds the device closed or open.
    let mut world = World::new();
    let script = "cat /proc/self/cgroup | grep -c 0::/havre-test; (: </dev/fuse) && echo fuse; (: </dev/mem) 2>/dev/null || echo no; head -c 1 /dev/zero | wc -c";
    world.process().args = super::world::strings(&["sh", "-c", script]);
    world.spec = world.spec_without_cgroup();
    world.linux().namespaces.retain(|namespace| namespace.kind != havre_oci::runtime::NamespaceKind::Cgroup);
    for (name, major, minor) in [("fuse", 10, 229), ("mem", 1, 1)] {
        world.linux().devices.push(havre_oci::runtime::Device {
            path: format!("/dev/{name}"),
            major,
            minor,
            ..havre_oci::runtime::Device::default()
        });
    }
    let (launched, out, _) = world.start(Some(&cgroup)).unwrap();
    assert_eq!(super::world::read(out), "1\nfuse\nno\n1\n");
    havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
    cgroup.remove().unwrap();
    std::fs::remove_dir("/sys/fs/cgroup/unified/havre-test").unwrap();
}
