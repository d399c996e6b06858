//! Somebody changes the file system under our hands while a container starts.
//!
//! Each race lasts `HAVRE_RACE_SECONDS` (3) or 2,000 starts. A start may fail; it may not reach out of the
//! root, and it may not half succeed.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use havre_oci::runtime::Mount;
use havre_runtime::{Launch, RootFs, RuntimeError, Stdio, exec, launch};

use super::Test;
use super::exec::Running;
use super::roles::Swapper;
use super::world::{World, bind, strings};

pub(crate) const TESTS: &[Test] = &[
    ("r04_a_swapped_dev_gets_no_foreign_console", r04_dev),
    ("r04_a_swapped_console_of_a_volume_stays_inside", r04_console),
    ("r04_a_swapped_devpts_of_a_volume_is_noticed", r04_pts),
    ("r05_a_false_procfs_gets_none_of_our_writes", r05),
    ("r05_a_false_procfs_gets_none_of_an_execs_writes", r05_exec),
    ("r07_a_swapped_mount_target_stays_inside", r07),
    ("r10_swapped_folders_get_nothing_made_outside", r10),
];

fn duration() -> Duration {
    let seconds = std::env::var("HAVRE_RACE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

/// Calls `start` until the time is over; how often it succeeded and failed.
pub(crate) fn race(mut start: impl FnMut(usize) -> bool) -> (usize, usize) {
    let (end, mut started, mut refused) = (Instant::now() + duration(), 0, 0);
    while Instant::now() < end && started + refused < 2000 {
        if start(started + refused) { started += 1 } else { refused += 1 }
    }
    println!("    {started} started, {refused} refused");
    (started, refused)
}

/// Files of the host that nothing may change.
struct Canary {
    folder: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("pts")).unwrap();
        for file in ["file", "console", "ptmx", "pts/ptmx", "core_pattern"] {
            std::fs::write(folder.path().join(file), file).unwrap();
        }
        let before = state(folder.path());
        Self { folder, before }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn check(&self) {
        assert_eq!(state(self.path()), self.before);
    }
}

/// Everything that can be seen of the files below a folder and of the kernel's favourite target.
fn state(folder: &Path) -> BTreeMap<PathBuf, String> {
    let pattern = PathBuf::from("/proc/sys/kernel/core_pattern");
    let mut seen = BTreeMap::from([(pattern.clone(), std::fs::read_to_string(pattern).unwrap())]);
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
            let text = format!(
                "{:o} {}:{} {} {}.{} {content:?}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.nlink(),
                meta.mtime(),
                meta.mtime_nsec()
            );
            if meta.is_dir() {
                folders.push(path.clone());
            }
            seen.insert(path, text);
        }
    }
    seen
}

fn fresh_folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A container without what takes time and is not looked at.
fn small_world() -> World {
    let mut world = World::new();
    world.spec = world.spec_without_cgroup();
    world
        .spec
        .mounts
        .retain(|mount| ["/proc", "/dev", "/dev/pts", "/sys"].contains(&mount.destination.as_str()));
    world
}

fn run(world: &mut World, args: &[&str]) -> Result<String, RuntimeError> {
    world.process().args = strings(args);
    world.start(None).map(|(launched, out, err)| {
        let text = super::world::read(out) + &super::world::read(err);
        havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
        text
    })
}

/// A start with a terminal; what the container's mounts are.
fn run_on_terminal(world: &mut World) -> Result<String, RuntimeError> {
    world.process().terminal = true;
    world.process().args = strings(&["cat", "/proc/self/mountinfo"]);
    let stdio = Stdio::Terminal { rows: 24, columns: 80 };
    let launched = launch(Launch::new("tty", &world.spec, RootFs::Path(world.root()), stdio))?;
    let (master, mut text) = (launched.terminal.unwrap(), Vec::new());
    let mut buffer = [0; 4096];
    // A terminal whose last user has gone answers with an error.
    while let Ok(length @ 1..) = rustix::io::read(&master, &mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The console must be the terminal: a file of a devpts, in the container's view.
fn has_console(mountinfo: &str) -> bool {
    mountinfo.lines().any(|line| line.contains(" - devpts ") && line.split(' ').nth(3) == Some("/0"))
}

fn race_for_console(mut world: World, one: &Path, other: &Path, canary: &Canary) {
    let swapper = Swapper::start(one, other);
    race(|_| match run_on_terminal(&mut world) {
        Ok(mountinfo) => {
            assert!(has_console(&mountinfo), "{mountinfo}");
            true
        }
        Err(_) => false,
    });
    drop(swapper);
    canary.check();
}

fn r04_dev() {
    let (world, canary) = (small_world(), Canary::new());
    let (one, other) = (world.root().join("dev"), world.root().join("other"));
    symlink(canary.path(), &other).unwrap();
    race_for_console(world, &one, &other, &canary);
}

/// A volume as /dev, with what programs need there.
fn volume_as_dev(world: &mut World) -> tempfile::TempDir {
    let volume = fresh_folder();
    std::fs::create_dir(volume.path().join("pts")).unwrap();
    std::fs::write(volume.path().join("console"), "").unwrap();
    world.spec.mounts.retain(|mount| mount.destination != "/dev");
    world.spec.mounts.insert(0, bind(volume.path(), "/dev", &[]));
    volume
}

fn r04_console() {
    for target in ["/proc/sys/kernel/core_pattern", "core_pattern"] {
        let (mut world, canary) = (small_world(), Canary::new());
        let volume = volume_as_dev(&mut world);
        let (one, other) = (volume.path().join("console"), volume.path().join("other"));
        symlink(canary.path().join(target), &other).unwrap();
        race_for_console(world, &one, &other, &canary);
    }
}

fn r04_pts() {
    let (mut world, canary) = (small_world(), Canary::new());
    let volume = volume_as_dev(&mut world);
    let (one, other) = (volume.path().join("pts"), volume.path().join("other"));
    // A folder that looks like one, and whose multiplexer is a terminal of the volume's owner.
    std::fs::create_dir(&other).unwrap();
    symlink("/proc/sys/kernel/core_pattern", other.join("ptmx")).unwrap();
    race_for_console(world, &one, &other, &canary);
}

/// A folder with what we write in a procfs, as plain files.
fn false_procfs(root: &Path) -> PathBuf {
    let fake = root.join("fake");
    for file in [
        "self/attr/exec",
        "self/attr/apparmor/exec",
        "self/oom_score_adj",
        "self/uid_map",
        "sys/net/ipv4/ip_forward",
        "sys/kernel/shmmax",
        "sys/kernel/hostname",
        "1/oom_score_adj",
    ] {
        std::fs::create_dir_all(fake.join(file).parent().unwrap()).unwrap();
        std::fs::write(fake.join(file), "untouched").unwrap();
    }
    fake
}

fn r05() {
    let mut world = small_world();
    let fake = false_procfs(&world.root());
    let before = state(&fake);
    world.process().oom_score_adj = Some(123);
    world.linux().sysctl =
        [("net.ipv4.ip_forward".into(), "1".into()), ("kernel.shmmax".into(), "4096".into())].into();
    world.process().args = strings(&["true"]);
    let swapper = Swapper::start(&world.root().join("proc"), &fake);
    race(|_| {
        let (gate, key) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        let stdio = Stdio::Pipes { stdin: null(), stdout: null(), stderr: null() };
        let mut container = Launch::new("r05", &world.spec, RootFs::Path(world.root()), stdio);
        container.gate = Some(gate);
        let Ok(launched) = launch(container) else { return false };
        // Everything is done but the program: the host looks whether it was done in the true places.
        let seen = |file: &str| {
            std::fs::read_to_string(format!("/proc/{}/{file}", launched.pid.as_raw_nonzero())).unwrap()
        };
        let (score, mounts) = (seen("oom_score_adj"), seen("mountinfo"));
        rustix::io::write(&key, b"x").unwrap();
        havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
        assert_eq!(score.trim(), "123");
        let exists = |file: &&str| Path::new("/proc").join(file).exists();
        for file in ["kcore", "keys", "timer_list", "interrupts", "bus", "sys"].into_iter().filter(exists) {
            let covers =
                |line: &str| line.split(' ').nth(4).is_some_and(|at| at.ends_with(&format!("/{file}")));
            assert!(mounts.lines().any(covers), "{file} is open: {mounts}");
        }
        true
    });
    drop(swapper);
    // Which of the two is the fake one now is the swapper's affair.
    let fakes = [fake, world.root().join("proc")];
    let left = fakes.iter().find(|path| path.join("self").exists()).unwrap();
    let names = |seen: &BTreeMap<PathBuf, String>| seen.values().cloned().collect::<Vec<_>>();
    assert_eq!(names(&state(left)), names(&before));
}

fn r05_exec() {
    let world = small_world();
    let fake = false_procfs(&world.root());
    let before = state(&fake);
    let running = Running::new(world);
    let mut process = running.world.spec.process.clone().unwrap();
    process.args = strings(&["true"]);
    process.oom_score_adj = Some(321);
    let swapper = Swapper::start(&running.world.root().join("proc"), &fake);
    race(|_| {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        let stdio = Stdio::Pipes { stdin: null(), stdout: null(), stderr: null() };
        let Ok(launched) = exec(&running.target(), &process, stdio) else { return false };
        havre_sys::process::wait(launched.pidfd.as_fd()).unwrap();
        true
    });
    drop(swapper);
    let fakes = [fake, running.world.root().join("proc")];
    let left = fakes.iter().find(|path| path.join("self").exists()).unwrap();
    let names = |seen: &BTreeMap<PathBuf, String>| seen.values().cloned().collect::<Vec<_>>();
    assert_eq!(names(&state(left)), names(&before));
}

/// A volume at /vol with a name that is now a folder (or file), now a link to the canary's.
fn volume_with_link(world: &mut World, to: &Path, folder: bool) -> (tempfile::TempDir, Swapper) {
    let volume = fresh_folder();
    let (one, other) = (volume.path().join("target"), volume.path().join("other"));
    if folder {
        std::fs::create_dir(&one).unwrap()
    } else {
        std::fs::write(&one, "").unwrap()
    }
    symlink(to, &other).unwrap();
    world.spec.mounts.push(bind(volume.path(), "/vol", &[]));
    let swapper = Swapper::start(&one, &other);
    (volume, swapper)
}

/// Starts containers with one more mount; where it started, that mount is in the container.
fn race_for_mount(mut world: World, mark: &Path, mut next: impl FnMut(usize) -> Mount) {
    let mark = mark.file_name().unwrap().to_str().unwrap();
    world.spec.mounts.push(next(0));
    race(|round| {
        *world.spec.mounts.last_mut().unwrap() = next(round);
        match run(&mut world, &["cat", "/proc/self/mountinfo"]) {
            Ok(mountinfo) => {
                assert!(mountinfo.contains(mark), "{mountinfo}");
                true
            }
            Err(_) => false,
        }
    });
}

fn r07() {
    let climbing = |path: &Path| PathBuf::from(format!("../../../../../../..{}", path.display()));
    for (folder, climbs) in [(true, false), (true, true), (false, false)] {
        let (mut world, canary, source) = (small_world(), Canary::new(), fresh_folder());
        let (mark, to) = if folder {
            (source.path().to_owned(), canary.path().to_owned())
        } else {
            std::fs::write(source.path().join("mark-of-r07"), "").unwrap();
            (source.path().join("mark-of-r07"), canary.path().join("file"))
        };
        let to = if climbs { climbing(&to) } else { to };
        let (_volume, swapper) = volume_with_link(&mut world, &to, folder);
        race_for_mount(world, &mark, |_| bind(&mark, "/vol/target", &[]));
        drop(swapper);
        canary.check();
    }
}

fn r10() {
    for folder in [true, false] {
        let (mut world, canary, source) = (small_world(), Canary::new(), fresh_folder());
        let mark = if folder {
            source.path().to_owned()
        } else {
            std::fs::write(source.path().join("mark-of-r10"), "").unwrap();
            source.path().join("mark-of-r10")
        };
        let (_volume, swapper) = volume_with_link(&mut world, canary.path(), true);
        race_for_mount(world, &mark, |round| bind(&mark, &format!("/vol/target/a{round}/b/c"), &[]));
        drop(swapper);
        canary.check();
    }
}
