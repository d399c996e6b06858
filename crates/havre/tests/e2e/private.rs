//! Daemons that a test starts for itself, with options of its own, and clients that reach them its way.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use tempfile::TempDir;

use crate::world::{Client, Outcome, finish};

/// The program under test.
pub(crate) fn havre() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_havre"))
}

/// A daemon of a test, and its folder.
pub(crate) struct Private {
    pub(crate) folder: TempDir,
    child: Child,
    log: Arc<Log>,
    /// Daemons before this one, which may have been killed and not have ended yet.
    killed: Vec<Child>,
}

/// What the daemon said so far; who waits for more is woken.
#[derive(Default)]
struct Log {
    text: Mutex<String>,
    more: Condvar,
}

impl Private {
    /// A folder with a file of options.
    pub(crate) fn folder(json: &str) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("daemon.json"), json).expect("a file");
        folder
    }

    /// The command line of a daemon in a folder: its roots, its socket `s`, its file.
    pub(crate) fn line(folder: &Path, args: &[&str]) -> Vec<String> {
        let at = |name: &str| folder.join(name).display().to_string();
        let own =
            ["--data-root", &at("data"), "--exec-root", &at("exec"), "--config-file", &at("daemon.json")];
        let own = own.iter().map(|word| (*word).to_owned());
        let args = args.iter().map(|word| word.replace("SOCKET", &format!("unix://{}", at("s"))));
        std::iter::once("daemon".to_owned()).chain(own).chain(args).collect()
    }

    /// Starts a daemon; `SOCKET` among the words is its unix socket.
    pub(crate) fn start(json: &str, args: &[&str]) -> Self {
        let folder = Self::folder(json);
        let mut command = Command::new(havre());
        command.args(Self::line(folder.path(), args));
        Self::spawn(folder, command)
    }

    /// Starts a prepared command and waits until the daemon listens.
    pub(crate) fn spawn(folder: TempDir, command: Command) -> Self {
        let (child, log) = begin(command);
        Self { folder, child, log, killed: Vec::new() }
    }

    /// Kills the daemon and starts another one in its place, whether or not the first has ended yet.
    pub(crate) fn replace(&mut self, args: &[&str]) {
        let mut command = Command::new(havre());
        command.args(Self::line(self.folder.path(), args));
        self.replace_by(command);
    }

    /// The same with a prepared command.
    pub(crate) fn replace_by(&mut self, command: Command) {
        self.signal(rustix::process::Signal::KILL);
        let (child, log) = begin(command);
        self.killed.push(std::mem::replace(&mut self.child, child));
        self.log = log;
    }

    /// Starts another daemon in the place of one that has ended.
    pub(crate) fn restart(&mut self, args: &[&str]) {
        let mut command = Command::new(havre());
        command.args(Self::line(self.folder.path(), args));
        (self.child, self.log) = begin(command);
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub(crate) fn log(&self) -> String {
        self.log.text.lock().expect("no panic").clone()
    }

    /// Waits until a text is in the log so many times.
    pub(crate) fn wait_for(&self, text: &str, times: usize) {
        let log = self.log.text.lock().expect("no panic");
        let missing = |log: &mut String| log.matches(text).count() < times;
        let patience = std::time::Duration::from_secs(30);
        let (log, _) = self.log.more.wait_timeout_while(log, patience, missing).expect("no panic");
        assert!(log.matches(text).count() >= times, "{text:?} in {log}");
    }

    /// The port that a listener of ours got.
    pub(crate) fn port(&self) -> u16 {
        let log = self.log();
        let line =
            log.lines().find(|line| line.contains("API listen on 127.0.0.1:")).expect("a TCP listener");
        let rest = line.rsplit(':').next().expect("a port");
        rest.trim_end_matches('"').parse().expect("a number")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("it lives");
    }

    /// Ends the daemon in order.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().expect("it ends")
    }

    /// Runs a client against the unix socket.
    pub(crate) fn run(&self, client: &Client, args: &[&str]) -> Outcome {
        self.at(client, &format!("unix://{}", self.path("s")), &[], args)
    }

    /// Runs a client against an address, with an environment.
    pub(crate) fn at(&self, client: &Client, host: &str, env: &[(&str, &str)], args: &[&str]) -> Outcome {
        let mut command = client.command(args);
        command.env("DOCKER_HOST", host).env("DOCKER_CONFIG", self.path("client"));
        for (name, value) in env {
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        finish(command.stdin(Stdio::null()).output().expect("the client runs"))
    }

    /// One request by hand on the unix socket: status and the whole answer.
    pub(crate) fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.folder.path().join("s")).expect("it listens");
        write!(stream, "{request}\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, text)
    }

    /// Loads the test image.
    pub(crate) fn load(&self, client: &Client) {
        let archive = havre_testkit::busybox_archive(self.folder.path()).expect("an image");
        self.run(client, &["load", "-q", "-i", &archive.to_string_lossy()]).exits(0);
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        for mut child in self.killed.drain(..) {
            child.wait().ok();
        }
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        // What is left of containers goes with the daemon that knows them.
        let mut list = Command::new(havre());
        list.args(["-H", &format!("unix://{}", self.path("s")), "ps", "-aq"]).env("HAVRE_AUTOSTART", "0");
        if let Ok(output) = list.output() {
            for id in String::from_utf8_lossy(&output.stdout).split_whitespace() {
                let mut remove = Command::new(havre());
                remove.args(["-H", &format!("unix://{}", self.path("s")), "rm", "-f", id]).output().ok();
            }
        }
        self.end();
    }
}

/// Starts a prepared command and waits until the daemon listens.
fn begin(mut command: Command) -> (Child, Arc<Log>) {
    command
        .env("HAVRE_AUTOSTARTED", "1")
        .env_remove("DOCKER_CERT_PATH")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the daemon starts");
    let log = Arc::<Log>::default();
    let (lines, kept) = (BufReader::new(child.stderr.take().expect("a pipe")).lines(), Arc::clone(&log));
    // Ends with the daemon.
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            *kept.text.lock().expect("no panic") += &(line + "\n");
            kept.more.notify_all();
        }
    });
    let mut said = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    out.read_line(&mut said).expect("it says something");
    assert_eq!(said.trim(), "ready", "{}", log.text.lock().expect("no panic"));
    (child, log)
}

/// Runs a daemon that is expected to end by itself.
pub(crate) fn fails(json: &str, args: &[&str]) -> Outcome {
    let folder = Private::folder(json);
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "60"]).arg(havre()).args(Private::line(folder.path(), args));
    finish(command.stdin(Stdio::null()).output().expect("it runs"))
}
