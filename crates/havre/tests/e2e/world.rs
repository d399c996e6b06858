//! The private daemon, the clients, and how a command line is run.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The official client, where it is installed.
const DOCKER: &str = "/usr/local/bin/docker";

/// The name of our own runtime as a program like others', and the runtime by that name.
pub(crate) const OCI: &str = "havre-oci";

/// A daemon of our own and the ways to talk to it.
pub(crate) struct World {
    folder: TempDir,
    daemon: Option<Child>,
    clients: Vec<Client>,
    probe: OnceLock<Option<PathBuf>>,
    debian: OnceLock<bool>,
}

/// One command line client.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) name: &'static str,
    program: PathBuf,
    host: String,
    /// The runtime of the containers that sleep.
    pub(crate) runtime: Option<&'static str>,
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Outcome {
    /// Asserts the exit code and returns the trimmed output.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out.trim().to_owned()
    }

    /// Asserts the exit code and that standard error contains a text.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, message: &str) {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        assert!(self.err.contains(message), "wanted {message:?} in: {}", self.err);
    }
}

impl World {
    /// Starts the daemon and loads the image, or says why not.
    pub(crate) fn open() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        let havre = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
        let (daemon, host) = match std::env::var("HAVRE_E2E_HOST") {
            Ok(host) => (None, host),
            Err(_) => {
                if !rustix::process::geteuid().is_root() {
                    return Err("needs root".into());
                }
                let (child, host) = start_daemon(&havre, folder.path())?;
                (Some(child), host)
            }
        };
        let mut clients = vec![Client { name: "havre", program: havre, host: host.clone(), runtime: None }];
        if Path::new(DOCKER).exists() {
            clients.push(Client { name: "docker", program: DOCKER.into(), host, runtime: None });
        } else {
            println!("SKIP through docker: {DOCKER} is not installed");
        }
        let (probe, debian) = (OnceLock::new(), OnceLock::new());
        let world = Self { folder, daemon, clients, probe, debian };
        let archive = havre_testkit::busybox_archive(world.folder()).map_err(|error| format!("{error:#}"))?;
        world.clients[0].run(&["load", "-q", "-i", &archive.to_string_lossy()]).exits(0);
        world.clients[0].run(&["tag", "busybox", "e2e/busybox"]).exits(0);
        Ok(world)
    }

    pub(crate) fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// Ends the private daemon as a crash would.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a private daemon");
        daemon.kill().expect("it can be killed");
        daemon.wait().expect("it ends");
    }

    /// Starts the private daemon again.
    pub(crate) fn start_daemon(&mut self) {
        let (daemon, _) = start_daemon(&self.clients[0].program, self.folder.path()).expect("it starts");
        self.daemon = Some(daemon);
    }

    /// The private daemon's process.
    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("a private daemon").id()
    }

    /// Everything the daemon has said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("daemon.log")).unwrap_or_default()
    }

    /// A folder for files of tests.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The daemon's socket.
    pub(crate) fn socket(&self) -> &str {
        self.clients[0].host.trim_start_matches("unix://")
    }

    /// A static program that asks the kernel what shells cannot, if there is a compiler.
    pub(crate) fn probe(&self) -> Option<&Path> {
        let made = self.probe.get_or_init(|| {
            let (source, program) = (self.folder().join("probe.c"), self.folder().join("probe"));
            std::fs::write(&source, include_str!("probe.c")).ok()?;
            let status =
                Command::new("cc").args(["-static", "-O1", "-o"]).arg(&program).arg(&source).status();
            status.is_ok_and(|status| status.success()).then_some(program)
        });
        if made.is_none() {
            println!("SKIP questions to the kernel: no C compiler with a static library");
        }
        made.as_deref()
    }

    /// Loads a real distribution as `debian:test`, or says why not.
    pub(crate) fn has_debian(&self) -> bool {
        *self.debian.get_or_init(|| {
            let archive = match havre_testkit::debian_archive() {
                Ok(Some(archive)) => archive,
                Ok(None) => return false,
                Err(error) => {
                    println!("SKIP debian: {error:#}");
                    return false;
                }
            };
            self.clients[0].run(&["load", "-q", "-i", &archive.to_string_lossy()]).exits(0);
            true
        })
    }

    /// The end of the daemon's log, for a failure's report.
    pub(crate) fn print_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        println!("--- the daemon's last lines\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A daemon of our own is emptied; somebody else's keeps what is not ours.
        let filter: &[&str] = if self.daemon.is_some() { &[] } else { &["--filter", "label=e2e"] };
        let all = self.clients[0].run(&[&["ps", "-aq"], filter].concat()).out;
        let ids: Vec<&str> = all.split_whitespace().collect();
        if !ids.is_empty() {
            self.clients[0].run(&[&["rm", "-f"], ids.as_slice()].concat());
        }
        if let Some(daemon) = &mut self.daemon {
            if let Some(pid) = i32::try_from(daemon.id()).ok().and_then(rustix::process::Pid::from_raw) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            }
            daemon.wait().ok();
        }
    }
}

fn start_daemon(havre: &Path, folder: &Path) -> Result<(Child, String), String> {
    let host = format!("unix://{}", folder.join("exec/havre.sock").display());
    let log = std::fs::File::create(folder.join("daemon.log")).map_err(|error| error.to_string())?;
    let oci = folder.join(OCI);
    match std::os::unix::fs::symlink(havre, &oci) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.to_string()),
        _ => {}
    }
    // With a descriptor too much, as careless starters leave them.
    let mut child = Command::new("sh")
        .args(["-c", "exec 9</proc/version && exec \"$0\" \"$@\""])
        .arg(havre)
        .arg("daemon")
        .arg("--add-runtime")
        .arg(format!("{OCI}={}", oci.display()))
        .args(std::env::var("HAVRE_E2E_DRIVER").map(|driver| format!("--storage-driver={driver}")))
        .env("HAVRE_DATA_ROOT", folder.join("data"))
        .env("HAVRE_EXEC_ROOT", folder.join("exec"))
        .env("HAVRE_AUTOSTARTED", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| format!("the daemon does not start: {error}"))?;
    let mut said = String::new();
    let mut reader = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    reader.read_line(&mut said).map_err(|error| error.to_string())?;
    if said.trim() != "ready" {
        child.wait().ok();
        let log = std::fs::read_to_string(folder.join("daemon.log")).unwrap_or_default();
        // Never a skip: a daemon that does not start is the worst failure of all.
        panic!("the daemon does not start: {said}{log}");
    }
    // The rest of its output is nobody's; an ended reader must not end the daemon.
    std::thread::spawn(move || reader.read_to_string(&mut String::new()));
    Ok((child, host))
}

impl Client {
    /// A command that cannot hang: it is ended after a minute.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "-k", "5", "60"]).arg(&self.program).args(args);
        self.environment(&mut command);
        command
    }

    /// The environment that leads to the private daemon.
    pub(crate) fn environment(&self, command: &mut Command) {
        command
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_CONFIG", "/nonexistent")
            .env("E2E_VALUE", "from outside");
    }

    /// The client's program, for commands that need a terminal.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a command line without input.
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        finish(self.command(args).stdin(Stdio::null()).output().expect("the client runs"))
    }

    /// Runs a container of the test image without a network and removes it.
    pub(crate) fn container(&self, flags: &[&str], command: &[&str]) -> Outcome {
        let start = ["run", "--rm", "--label", "e2e", "--network", "none"];
        self.run(&[&start, flags, &["e2e/busybox"], command].concat())
    }

    /// Reads a container's log until a line appears.
    #[track_caller]
    pub(crate) fn follow_until(&self, name: &str, wanted: &str) {
        let mut command = self.command(&["logs", "-f", name]);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the client runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let found = lines.map_while(Result::ok).any(|line| line == wanted);
        child.kill().ok();
        child.wait().ok();
        assert!(found, "no line {wanted:?} in the log of {name}");
    }

    /// Runs a command line with input and returns its bytes.
    pub(crate) fn bytes(&self, args: &[&str], input: &[u8]) -> (ExitStatus, Vec<u8>) {
        let mut child =
            self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the client runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        // Ends with the child: it either reads everything or closes the pipe.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("the client ends");
        writer.join().expect("the writer ends").ok();
        (output.status, output.stdout)
    }

    /// Runs a command line with input.
    pub(crate) fn with_input(&self, args: &[&str], input: &[u8]) -> Outcome {
        let (status, out) = self.bytes(args, input);
        Outcome {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&out).into_owned(),
            err: String::new(),
        }
    }

    /// A name that no other test and no other client uses.
    pub(crate) fn unique(&self, name: &str) -> String {
        format!("e2e-{}-{name}", self.name)
    }
}

/// What a command left.
pub(crate) fn finish(output: std::process::Output) -> Outcome {
    Outcome {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
