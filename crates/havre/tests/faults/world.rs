//! A private engine that can be killed, and a census of what belongs to it on the machine.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// The program under test.
const HAVRE: &str = env!("CARGO_BIN_EXE_havre");
/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A small reproducible source of numbers (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// A seed nobody chose.
pub(crate) fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos()) ^ u64::from(std::process::id())
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    /// No daemon listened, so nothing can have happened.
    pub(crate) fn was_refused(&self) -> bool {
        self.code != Some(0) && self.stderr.contains("Cannot connect")
    }
}

/// What belongs to the engine on the machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) shims: usize,
    pub(crate) groups: usize,
    pub(crate) run_folders: usize,
    pub(crate) data_folders: usize,
    pub(crate) layers: usize,
    pub(crate) mounts: usize,
}

/// A private engine.
pub(crate) struct World {
    folder: tempfile::TempDir,
    image: PathBuf,
    daemon: Mutex<Option<Child>>,
    started: Condvar,
    idle: (Mutex<()>, Condvar),
    /// The network namespace of the engine; none is the test's own.
    space: Mutex<Option<OwnedFd>>,
}

impl World {
    pub(crate) fn open() -> Result<Self, String> {
        if !havre_testkit::is_root() {
            return Err("needs root".into());
        }
        // Not on a file system in memory: overlay needs one that takes its attributes.
        let folder = tempfile::Builder::new()
            .prefix("havre-faults-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .map_err(|error| error.to_string())?;
        let image = havre_testkit::busybox_archive(folder.path()).map_err(|error| error.to_string())?;
        Ok(Self {
            folder,
            image,
            daemon: Mutex::new(None),
            started: Condvar::new(),
            idle: (Mutex::new(()), Condvar::new()),
            space: Mutex::new(None),
        })
    }

    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The group of this engine's containers, by the rule of the daemon for roots of one's own.
    fn parent_group(&self) -> String {
        let root = self.path("data");
        format!("havre/{}", havre_oci::Digest::of_bytes(root.as_os_str().as_encoded_bytes()).short())
    }

    /// From now on the daemon is started in this network namespace.
    pub(crate) fn live_in(&self, space: OwnedFd) {
        *self.space.lock().unwrap() = Some(space);
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub(crate) fn start_daemon(&self) {
        use std::io::BufRead as _;
        let log = std::fs::File::options().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let mut command = self.daemon_command();
        command.stderr(log);
        let space = self.space.lock().unwrap();
        let spawned = match &*space {
            None => command.spawn(),
            Some(space) => havre_sys::netns::enter_with(space.as_fd(), || command.spawn()),
        };
        let mut child = spawned.unwrap();
        drop(space);
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the daemon does not start");
        *self.daemon.lock().unwrap() = Some(child);
        self.started.notify_all();
    }

    /// Waits until a daemon that was killed is there again.
    pub(crate) fn await_daemon(&self) {
        let daemon = self.daemon.lock().unwrap();
        drop(self.started.wait_timeout_while(daemon, PATIENCE, |daemon| daemon.is_none()).unwrap());
    }

    pub(crate) fn kill_daemon(&self) {
        if let Some(mut child) = self.daemon.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn havre(&self, args: &[&str]) -> Answer {
        let output = Command::new(HAVRE)
            .arg("-H")
            .arg(format!("unix://{}", self.path("run/havre.sock").display()))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Answer { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// A command that must succeed.
    pub(crate) fn must(&self, args: &[&str]) -> String {
        let answer = self.havre(args);
        assert_eq!(answer.code, Some(0), "havre {args:?}: {}", answer.stderr);
        answer.stdout
    }

    /// Lets time pass: the daemon is to be killed at a random moment, not at an event.
    pub(crate) fn pause(&self, time: Duration) {
        let guard = self.idle.0.lock().unwrap();
        drop(self.idle.1.wait_timeout(guard, time).unwrap());
    }

    fn census(&self) -> Census {
        let count = |path: PathBuf| std::fs::read_dir(path).map_or(0, |list| list.flatten().count());
        let root = self.folder.path().display().to_string();
        let mut groups = std::collections::BTreeSet::new();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            for base in [hierarchy.path(), PathBuf::from("/sys/fs/cgroup")] {
                let parent = base.join(self.parent_group());
                for group in std::fs::read_dir(parent).into_iter().flatten().flatten() {
                    if group.path().is_dir() {
                        groups.insert(group.file_name());
                    }
                }
            }
        }
        Census {
            shims: self.shims().len(),
            groups: groups.len(),
            run_folders: count(self.path("run/containers")),
            data_folders: count(self.path("data/containers")),
            layers: count(self.path("data/snapshots/containers")),
            mounts: std::fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .lines()
                .filter(|line| line.contains(&root))
                .count(),
        }
    }

    /// The supervisors of this engine.
    pub(crate) fn shims(&self) -> Vec<Pid> {
        let run = self.path("run");
        let mut shims = Vec::new();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let folder = process.path();
            let line = std::fs::read(folder.join("cmdline")).unwrap_or_default();
            let is_shim = line.split(|byte| *byte == 0).nth(1) == Some(b"shim");
            // The lock in the run folder is open in every shim of ours.
            let ours = || {
                std::fs::read_dir(folder.join("fd"))
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter_map(|fd| std::fs::read_link(fd.path()).ok())
                    .any(|target| target.starts_with(&run))
            };
            let number = process.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = number.and_then(Pid::from_raw)
                && is_shim
                && ours()
            {
                shims.push(pid);
            }
        }
        shims
    }

    /// Kills every supervisor.
    pub(crate) fn kill_shims(&self) {
        self.signal_shims(Signal::KILL);
    }

    /// Sends every supervisor a signal.
    pub(crate) fn signal_shims(&self, signal: Signal) {
        for pid in self.shims() {
            rustix::process::kill_process(pid, signal).unwrap();
        }
    }

    /// What a restart of the machine leaves: no process, no group, no run folder.
    pub(crate) fn lose_machine(&self) {
        self.kill_daemon();
        self.kill_shims();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            for base in [hierarchy.path(), PathBuf::from("/sys/fs/cgroup")] {
                let parent = base.join(self.parent_group());
                for group in std::fs::read_dir(parent).into_iter().flatten().flatten() {
                    let members =
                        std::fs::read_to_string(group.path().join("cgroup.procs")).unwrap_or_default();
                    for pid in members.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
                        // It may have ended since the list was read.
                        rustix::process::kill_process(pid, Signal::KILL).ok();
                    }
                }
            }
        }
        std::fs::remove_dir_all(self.path("run")).unwrap();
    }

    /// What is kept of images: blobs and layers.
    pub(crate) fn stored(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![(self.path("data/content"), 0), (self.path("data/snapshots"), 0)];
        while let Some((folder, depth)) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if depth < 2 && entry.file_type().unwrap().is_dir() {
                    open.push((entry.path(), depth + 1));
                }
                found.push(entry.path());
            }
        }
        found.sort_unstable();
        found
    }

    /// Waits until no more and no less is kept of images: what is removed is deleted behind.
    pub(crate) fn await_stored(&self, expected: &[PathBuf]) {
        let end = Instant::now() + PATIENCE;
        while self.stored() != expected {
            assert!(Instant::now() < end, "{:#?} is not {expected:#?}", self.stored());
            self.pause(Duration::from_millis(50));
        }
    }

    /// The length of a file below the world's folder; none has none.
    pub(crate) fn length(&self, name: &str) -> u64 {
        std::fs::metadata(self.path(name)).map_or(0, |meta| meta.len())
    }

    /// The path of a file of a test's own.
    pub(crate) fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A folder with so many small files.
    pub(crate) fn tree(&self, files: usize) -> PathBuf {
        let folder = self.path("tree");
        std::fs::create_dir_all(&folder).unwrap();
        (0..files).for_each(|number| std::fs::write(folder.join(number.to_string()), "content").unwrap());
        folder
    }

    /// Breaks the state database.
    pub(crate) fn corrupt_database(&self) {
        let path = self.path("data/state.db");
        let mut bytes = std::fs::read(&path).unwrap();
        for byte in bytes.iter_mut().take(4096) {
            *byte ^= 0xff;
        }
        std::fs::write(path, bytes).unwrap();
    }

    /// The permission bits of a path below the world's folder.
    pub(crate) fn mode(&self, name: &str) -> u32 {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }

    pub(crate) fn set_mode(&self, name: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Starts a daemon that cannot start, and returns what it says.
    pub(crate) fn daemon_refuses(&self) -> String {
        let output = self.daemon_command().stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn daemon_command(&self) -> Command {
        let mut command = Command::new(HAVRE);
        command
            .arg("daemon")
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("run"))
            .env("HAVRE_AUTOSTARTED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(driver) = std::env::var_os("HAVRE_FAULT_DRIVER") {
            command.arg("--storage-driver").arg(driver);
        }
        command
    }

    /// Waits until the machine looks as expected: cleaning goes on behind the answers.
    pub(crate) fn settle(&self, expected: &dyn Fn(&Census) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let census = self.census();
            if expected(&census) {
                return;
            }
            assert!(Instant::now() < end, "something is left or missing: {census:?}");
            self.pause(Duration::from_millis(50));
        }
    }

    /// Waits until a container is in a state.
    pub(crate) fn await_state(&self, name: &str, state: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.must(&["inspect", "-f", "{{.State.Status}}", name]);
            if now.trim() == state {
                return;
            }
            assert!(Instant::now() < end, "{name} is {now}, not {state}");
            self.pause(Duration::from_millis(50));
        }
    }

    pub(crate) fn print_log(&self) {
        let log = std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        println!("the end of the daemon's log:");
        for line in lines.iter().skip(lines.len().saturating_sub(40)) {
            println!("  {line}");
        }
    }

    /// Ends the daemon and what it left running.
    pub(crate) fn end(&self) {
        for id in self.havre(&["ps", "-aq"]).stdout.lines() {
            self.havre(&["rm", "-f", id]);
        }
        if let Some(child) = self.daemon.lock().unwrap().as_ref() {
            let pid = Pid::from_child(child);
            rustix::process::kill_process(pid, Signal::TERM).unwrap();
        }
        if let Some(mut child) = self.daemon.lock().unwrap().take() {
            child.wait().unwrap();
        }
    }
}
