//! Family R of the attacks: what a program, an image or a caller tries, and what it gets.

use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use havre_oci::runtime::NamespaceKind;
use havre_runtime::capabilities::CapabilitySet;
use havre_runtime::{InitBinary, Launch, RootFs, RuntimeError, Stdio, launch};

use super::Test;
use super::world::{World, bind, mount, read, strings};

pub(crate) const TESTS: &[Test] = &[
    ("the_inside_is_as_confined_as_the_spec_says", table),
    ("r01_the_init_binary_cannot_be_written", r01),
    ("r02_working_directories_outside_are_refused", r02),
    ("r02_no_descriptor_leaks_into_the_container", r02_descriptors),
    ("r03_a_false_null_device_of_the_image_masks_nothing", r03),
    ("r03_the_null_device_of_the_host_is_not_in_the_container", r03_null),
    ("r06_dev_of_the_image_may_be_a_link", r06),
    ("r08_proc_and_sys_as_links_are_refused", r08),
    ("r10_targets_through_links_stay_inside", r10),
    ("r11_release_agent_is_out_of_reach", r11),
    ("r12_inheritable_capabilities_are_empty", r12),
    ("r13_groups_of_the_image_are_applied", r13),
    ("r14_r15_absurd_users_are_refused", r14),
    ("r16_r17_the_default_filter_refuses", r17),
    ("r18_masked_paths_stay_masked", r18),
    ("r19_devices_of_the_host_are_out_of_reach", r19),
    ("r27_odd_texts_are_errors", r27),
    ("r30_no_new_privileges", r30),
    ("every_user_namespace_mask_holds", users_masks),
];

/// Each line: what is asked inside, and the answer.
fn table() {
    let mut world = World::new();
    world.process().no_new_privileges = true;
    let table = [
        ("grep CapInh /proc/self/status | cut -f2", "0000000000000000"),
        ("grep CapEff /proc/self/status | cut -f2", "00000000a80425fb"),
        ("grep CapPrm /proc/self/status | cut -f2", "00000000a80425fb"),
        ("grep CapBnd /proc/self/status | cut -f2", "00000000a80425fb"),
        ("grep CapAmb /proc/self/status | cut -f2", "0000000000000000"),
        ("grep NoNewPrivs /proc/self/status | cut -f2", "1"),
        ("grep Seccomp: /proc/self/status | cut -f2", "2"),
        ("head -c 2 /proc/1/cmdline", "sh"),
        ("head -c 1 /proc/kcore | wc -c", "0"),
        ("head -c 1 /proc/keys | wc -c", "0"),
        ("head -c 1 /proc/timer_list | wc -c", "0"),
        ("ls /sys/firmware | wc -l", "0"),
        ("echo 0 2>/dev/null > /proc/sys/kernel/randomize_va_space || echo no", "no"),
        ("echo h 2>/dev/null > /proc/sysrq-trigger || echo no", "no"),
        ("echo x 2>/dev/null > /sys/kernel/uevent_helper || echo no", "no"),
        ("touch /sys/x 2>/dev/null || echo no", "no"),
        ("mount -t tmpfs x /tmp 2>/dev/null || echo no", "no"),
        ("umount /proc/kcore 2>/dev/null || echo no", "no"),
        ("unshare -U true 2>/dev/null || echo no", "no"),
        ("mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem 2>/dev/null | wc -c", "0"),
        ("mknod /tmp/sda b 8 0 && head -c 1 /tmp/sda 2>/dev/null | wc -c", "0"),
        ("hostname other 2>/dev/null || echo no", "no"),
        ("ls /proc/self/fd | wc -l", "4"),
        ("ls / | grep -c oldroot", "0"),
        ("cd /; cd ..; pwd; ls -d /tmp", "/\n/tmp"),
        ("readlink /proc/1/root; readlink /proc/self/cwd", "/\n/"),
    ];
    for (script, expected) in table {
        let outcome = world.run(&["sh", "-c", script]).unwrap();
        assert_eq!(outcome.stdout.trim(), expected, "{script}: {outcome:?}");
    }
}

fn r01() {
    let mut world = World::new();
    let own = havre_sys::memfd::sealed_copy(std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
    world.process().args = strings(&[
        "sh",
        "-c",
        "for i in 1 2 3; do (dd if=/dev/zero of=/proc/1/exe count=1 conv=notrunc 2>&1) | grep -c -i -e busy -e denied -e permitted; done",
    ]);
    let (out, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    let spec = world.spec_without_cgroup();
    let mut container = Launch::new(
        "r01",
        &spec,
        RootFs::Path(world.root()),
        Stdio::Pipes { stdin: null(), stdout, stderr: null() },
    );
    container.init = Some(InitBinary(own));
    let launched = launch(container).unwrap();
    assert_eq!(read(out), "1\n1\n1\n");
    havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
}

fn r02() {
    let mut world = World::new();
    for number in 0..256 {
        world.process().cwd = format!("/proc/self/fd/{number}");
        match world.run(&["pwd"]) {
            Err(RuntimeError::WorkingDirectory(_)) => {}
            other => panic!("{number}: {other:?}"),
        }
    }
    symlink("/proc/self/fd/5", world.root().join("innocent")).unwrap();
    symlink("../../../../../../etc", world.root().join("up")).unwrap();
    for cwd in [
        "/innocent",
        "/proc/self/cwd",
        "/proc/1/cwd",
        "/proc/self/root",
        "/proc/self/fd/../fd/4",
        "",
        "relative",
    ] {
        world.process().cwd = cwd.into();
        assert!(world.run(&["pwd"]).is_err(), "{cwd}");
    }
    world.process().cwd = "/up".into();
    assert_eq!(world.sh("pwd; cat /up/passwd | head -n 1 | cut -c1-4"), "/etc\nroot");
}

fn r02_descriptors() {
    let mut world = World::new();
    // Descriptors of the caller that are not close-on-exec, as a careless caller would have.
    let folder = std::fs::File::open("/").unwrap();
    let careless: Vec<_> = (0..5).map(|_| rustix::io::dup(&folder).unwrap()).collect();
    assert_eq!(
        world.sh(
            "for fd in /proc/self/fd/*; do readlink $fd; done | grep -v -e pipe -e null -e '^/proc'; echo end"
        ),
        "end"
    );
    // The last one is of the folder that is being listed.
    assert_eq!(world.sh("ls /proc/self/fd | sort -n"), "0\n1\n2\n3");
    drop(careless);
}

fn r03() {
    let mut world = World::new();
    // The image's own /dev, with a null device that is something else.
    world.spec.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
    symlink("/proc/sys/kernel/core_pattern", world.root().join("dev/null")).unwrap();
    let error = world.refused(&["true"]);
    assert!(error.contains("/dev/null"), "{error}");
    std::fs::remove_file(world.root().join("dev/null")).unwrap();
    std::fs::write(world.root().join("dev/null"), "").unwrap();
    assert!(world.refused(&["true"]).contains("something else is there"));
    std::fs::remove_file(world.root().join("dev/null")).unwrap();
    assert_eq!(
        world.sh(
            "head -c 1 /proc/kcore | wc -c; echo x 2>/dev/null > /proc/sys/kernel/core_pattern || echo no"
        ),
        "0\nno"
    );
}

/// Masks and streams show the null device; changing its mode (to what it is, here) must not reach the host's.
fn r03_null() {
    let mut world = World::new();
    let masked = world.linux().masked_paths.clone();
    let device = |path: &&String| std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    for path in masked.iter().filter(device) {
        let script = format!("test -c {path}; echo x > {path}; chmod 666 {path} 2>&1 | grep -c 'Read-only'");
        assert_eq!(world.sh(&script), "1", "{path}");
    }
    let same = "test $(stat -L -c %d:%i /proc/self/fd/0) = $(stat -c %d:%i /dev/null) && echo own";
    assert_eq!(world.sh(same), "own");
    assert_eq!(world.sh("echo lost > /proc/self/fd/0; head -c 1 /proc/self/fd/0 | wc -c"), "0");
}

fn r06() {
    let mut world = World::new();
    std::fs::remove_dir(world.root().join("dev")).unwrap();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), world.root().join("dev")).unwrap();
    // The link is resolved inside, where its target does not exist.
    let error = world.refused(&["true"]);
    assert!(error.contains("/dev"), "{error}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    std::fs::remove_file(world.root().join("dev")).unwrap();
    symlink("../../../../tmp", world.root().join("dev")).unwrap();
    assert_eq!(world.sh("ls /tmp/null; stat -c %t:%T /dev/null"), "/tmp/null\n1:3");
}

fn r08() {
    for name in ["proc", "sys"] {
        let mut world = World::new();
        std::fs::remove_dir(world.root().join(name)).unwrap();
        symlink("tmp", world.root().join(name)).unwrap();
        let error = world.refused(&["true"]);
        assert!(error.contains("no link"), "{error}");
    }
    for (destination, kind) in
        [("/proc", "tmpfs"), ("/proc/sys", "tmpfs"), ("/tmp/../proc/self/attr", "tmpfs")]
    {
        let mut world = World::new();
        world.spec.mounts.push(mount(destination, kind, kind, &[]));
        assert!(world.refused(&["true"]).contains("/proc"), "{destination}");
    }
    let mut world = World::new();
    let file = world.folder.path().join("cpuinfo");
    std::fs::write(&file, "fake").unwrap();
    world.spec.mounts.push(bind(&file, "/proc/cpuinfo", &[]));
    assert_eq!(world.sh("cat /proc/cpuinfo"), "fake");
}

fn r10() {
    let mut world = World::new();
    let outside = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    symlink(outside.path(), world.root().join("out")).unwrap();
    symlink("/../../../../../../tmp", world.root().join("up")).unwrap();
    world.spec.mounts.push(bind(source.path(), "/out/made", &[]));
    world.refused(&["true"]);
    world.spec.mounts.pop();
    world.spec.mounts.push(bind(source.path(), "/up/a/b", &[]));
    assert_eq!(world.sh("ls -d /tmp/a/b"), "/tmp/a/b");
    assert!(world.root().join("tmp/a/b").is_dir());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

fn r11() {
    let mut world = World::new();
    assert_eq!(
        world.sh("mkdir /tmp/c; mount -t cgroup -o memory x /tmp/c 2>/dev/null || echo no; unshare -UrmC true 2>/dev/null || echo no; \
            unshare -m true 2>/dev/null || echo no"),
        "no\nno\nno"
    );
}

fn r12() {
    let mut world = World::new();
    assert_eq!(world.sh("grep CapInh /proc/self/status"), "CapInh:\t0000000000000000");
    world.process().capabilities = Some(CapabilitySet::EMPTY.to_spec());
    assert_eq!(
        world.sh("grep -e CapBnd -e CapPrm /proc/self/status"),
        "CapPrm:\t0000000000000000\nCapBnd:\t0000000000000000"
    );
    // Ambient capabilities let a plain user's program have what is given.
    let one = strings(&["CAP_NET_BIND_SERVICE"]);
    let caps = world.process().capabilities.as_mut().unwrap();
    for set in [
        &mut caps.bounding,
        &mut caps.permitted,
        &mut caps.effective,
        &mut caps.inheritable,
        &mut caps.ambient,
    ] {
        set.clone_from(&one);
    }
    world.user = Some("bob".into());
    assert_eq!(
        world.sh("grep -e CapEff -e CapAmb /proc/self/status"),
        "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400"
    );
}

fn r13() {
    let mut world = World::new();
    std::fs::write(world.root().join("secret"), "x").unwrap();
    std::os::unix::fs::chown(world.root().join("secret"), Some(0), Some(29)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o604);
    std::fs::set_permissions(world.root().join("secret"), mode).unwrap();
    world.user = Some("bob".into());
    assert_eq!(world.sh("cat /secret 2>/dev/null || echo denied"), "denied");
}

fn r14() {
    let mut world = World::new();
    for user in [
        "4294967296",
        "4294967296:0",
        "2147483648",
        "4294967295",
        "-1",
        "0x0",
        "0 ",
        " 0",
        "+0",
        "1.0",
        "99999999999999999999",
        "bob:4294967296",
        "bob:-1",
        "nobody",
        "root:nogroup",
        "0:0:0",
    ] {
        world.user = Some(user.into());
        match world.run(&["id"]) {
            Err(RuntimeError::User(_)) => {}
            other => panic!("{user:?}: {other:?}"),
        }
    }
    world.user = Some("1234".into());
    assert_eq!(world.sh("id -u"), "1234");
    // Files that would keep us waiting or fill our memory.
    let passwd = world.root().join("etc/passwd");
    std::fs::remove_file(&passwd).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &passwd, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(world.refused(&["id"]).contains("not a regular file"));
    std::fs::remove_file(&passwd).unwrap();
    symlink("/dev/zero", &passwd).unwrap();
    assert!(world.refused(&["id"]).contains("not a regular file"));
}

fn r17() {
    let mut world = World::new();
    for (script, expected) in [
        ("unshare -U true 2>&1 | grep -c 'not permitted'", "1"),
        ("mount -t proc x /proc 2>&1 | grep -c -e 'not permitted' -e 'denied'", "1"),
        ("chroot / true && echo yes", "yes"),
    ] {
        assert_eq!(world.run(&["sh", "-c", script]).unwrap().stdout.trim(), expected, "{script}");
    }
}

fn r18() {
    let mut world = World::new();
    let mut all = CapabilitySet::ALL.intersection(havre_runtime::capabilities::available());
    all = all.difference(CapabilitySet::parse(&["SYS_ADMIN"]).unwrap());
    world.process().capabilities = Some(all.to_spec());
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"] {
        let size = world.sh(&format!("test ! -e {path} || head -c 1 {path} | wc -c"));
        assert!(["", "0"].contains(&size.as_str()), "{path}: {size}");
    }
    for path in ["/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi", "/proc/acpi"] {
        assert_eq!(
            world.sh(&format!("ls {path} 2>/dev/null | wc -l; touch {path}/x 2>/dev/null || echo no")),
            "0\nno",
            "{path}"
        );
    }
    for path in ["/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq"] {
        let script = format!(
            "mount -o remount,rw {path} 2>/dev/null || echo no; touch {path}/x 2>/dev/null || echo no"
        );
        assert_eq!(world.sh(&script), "no\nno", "{path}");
    }
}

fn r19() {
    let mut world = World::new();
    let disk = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata("/").unwrap());
    let disk = ("b", rustix::fs::major(disk), rustix::fs::minor(disk));
    // The disk of this machine, /dev/mem, /dev/kmem, /dev/port, /dev/kmsg, and what else leads to the host.
    let devices = [
        disk,
        ("c", 1, 1),
        ("c", 1, 2),
        ("c", 1, 4),
        ("c", 1, 11),
        ("b", 8, 0),
        ("b", 254, 0),
        ("b", 7, 0),
        ("c", 10, 237),
        ("c", 10, 229),
    ];
    for (kind, major, minor) in devices {
        let script = format!(
            "mknod /tmp/n {kind} {major} {minor}; head -c 1 /tmp/n 2>&1 | grep -c 'not permitted'; \
             (echo x >> /tmp/n) 2>&1 | grep -c 'not permitted'; rm /tmp/n"
        );
        assert_eq!(world.sh(&script), "1\n1", "{kind} {major}:{minor}");
    }
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        assert_eq!(world.sh(&format!("test -c /dev/{name} && stat -c %a /dev/{name}")), "666");
    }
}

fn r27() {
    type Change = fn(&mut World);
    let table: [Change; 6] = [
        |w| w.process().env.push("=x".into()),
        |w| w.process().env.push("NAME".into()),
        |w| w.process().env.push("A=b\0c".into()),
        |w| w.process().cwd = "/a\0b".into(),
        |w| w.spec.mounts.push(mount("/a\0b", "tmpfs", "tmpfs", &[])),
        |w| w.linux().masked_paths.push("/a\0b".into()),
    ];
    for change in table {
        let mut world = World::new();
        change(&mut world);
        assert!(world.run(&["true"]).is_err());
    }
    let mut world = World::new();
    world.process().env.push("A=line\nB=c".into());
    assert_eq!(world.sh("echo \"$A\"; echo $B"), "line\nB=c");
    assert!(world.run(&["sh", "a\0b"]).is_err());
    world.process().env.push(format!("BIG={}", "x".repeat(2 << 20)));
    assert!(world.refused(&["true"]).contains("Argument list too long"));
}

fn r30() {
    let mut world = World::new();
    world.process().no_new_privileges = true;
    let path = world.root().join("bin/busybox");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    world.user = Some("bob".into());
    assert_eq!(
        world.sh("id -u; grep -e NoNewPrivs -e CapEff /proc/self/status | cut -f2"),
        "1000\n0000000000000000\n1"
    );
    world.process().no_new_privileges = false;
    assert_eq!(world.sh("grep NoNewPrivs /proc/self/status | cut -f2"), "0");
}

fn users_masks() {
    let mut world = World::new();
    let maps = vec![havre_oci::runtime::IdMapping { container_id: 0, host_id: 200_000, size: 65_536 }];
    world.linux().uid_mappings = maps.clone();
    world.linux().gid_mappings = maps;
    world.linux().namespaces.push(havre_oci::runtime::Namespace::new(NamespaceKind::User));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.folder.path(), mode).unwrap();
    assert_eq!(
        world.sh("head -c 1 /proc/kcore | wc -c; ls /sys/firmware | wc -l; touch /proc/sys/x 2>/dev/null || echo no; stat -c %t:%T /dev/null"),
        "0\n0\nno\n1:3"
    );
    // Without a network namespace of its own it cannot mount a sysfs: it sees the host's, read-only.
    world.linux().namespaces.retain(|namespace| namespace.kind != NamespaceKind::Network);
    assert_eq!(
        world
            .sh("ls /sys/firmware | wc -l; touch /sys/x 2>/dev/null || echo no; ls /sys/class | grep -c net"),
        "0\nno\n1"
    );
}
