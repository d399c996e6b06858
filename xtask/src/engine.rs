//! Engines to compare or to question: Havre and the distribution's Docker, each with its own folders and
//! socket, and a small HTTP client for their API.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// A running engine. Dropping it ends the processes it started.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    pub(crate) socket: PathBuf,
    client: PathBuf,
    daemon: Child,
    /// Programs whose processes belong to the engine.
    programs: Vec<PathBuf>,
    /// Processes of those programs that were there before.
    before: Vec<u32>,
}

impl Engine {
    /// Builds Havre.
    pub(crate) fn build() -> Result<()> {
        process::run(process::cargo().args(["build", "--release", "--locked", "--package", "havre"]))
    }

    /// Builds and starts Havre with its folders in `folder`.
    pub(crate) fn havre(folder: &Path) -> Result<Self> {
        Self::build()?;
        let mut metadata = process::cargo();
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
        let metadata: Value = serde_json::from_str(&process::output(&mut metadata)?)?;
        let target = PathBuf::from(metadata["target_directory"].as_str().context("no target folder")?);
        let version = process::output(Command::new("rustc").arg("-vV").current_dir(process::root()))?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("no host triple")?;
        let binary = target.join(host).join("release/havre");
        let mut daemon = Command::new(&binary);
        daemon.arg("daemon");
        Self::start("havre", folder, daemon, binary.clone(), vec![binary])
    }

    /// Starts the distribution's Docker with its folders in `folder`.
    pub(crate) fn docker(folder: &Path, networks: bool) -> Result<Self> {
        let find = |name: &str| process::find(name).with_context(|| format!("{name} is not installed"));
        let mut daemon = Command::new(find("dockerd")?);
        if !networks {
            daemon.args(["--bridge", "none", "--iptables=false", "--ip6tables=false"]);
        }
        daemon
            .arg("--config-file")
            .arg(folder.join("docker/no-config.json"))
            .arg("--pidfile")
            .arg(folder.join("docker/pid"));
        let programs =
            ["dockerd", "containerd", "containerd-shim-runc-v2"].into_iter().filter_map(process::find);
        let programs = programs.map(|path| path.canonicalize().unwrap_or(path)).collect();
        Self::start("docker", folder, daemon, find("docker")?, programs)
    }

    fn start(
        name: &'static str,
        folder: &Path,
        mut command: Command,
        client: PathBuf,
        programs: Vec<PathBuf>,
    ) -> Result<Self> {
        let home = folder.join(name);
        std::fs::create_dir_all(&home)?;
        if name == "docker" {
            File::create(home.join("no-config.json"))?.write_all(b"{}")?;
        }
        let socket = home.join("socket");
        let log = File::create(home.join("log"))?;
        command.arg("--data-root").arg(home.join("data")).arg("--exec-root").arg(home.join("run"));
        command.arg("-H").arg(format!("unix://{}", socket.display()));
        let before = of_programs(&programs);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let daemon = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut engine = Self { name, socket, client, daemon, programs, before };
        for _ in 0..600 {
            if engine.connect().is_ok_and(|mut api| api.call("GET", "/_ping", None).is_ok()) {
                return Ok(engine);
            }
            if let Some(status) = engine.daemon.try_wait()? {
                let log = std::fs::read_to_string(home.join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("{name} ended with {status}: {}", lines.join(" / "));
            }
            process::pause(50);
        }
        bail!("{name} does not answer")
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// A command of the engine's own client.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.arg("-H").arg(format!("unix://{}", self.socket.display())).args(words).stdin(Stdio::null());
        command.env_remove("DOCKER_HOST").env_remove("HAVRE_HOST").env_remove("DOCKER_CONTEXT");
        command
    }

    /// Runs a command of the client and returns what it prints.
    pub(crate) fn client(&self, words: &[&str]) -> Result<String> {
        process::output(&mut self.command(words))
            .with_context(|| format!("{} {}", self.name, words.join(" ")))
    }

    /// A connection to the API.
    pub(crate) fn connect(&self) -> Result<Api> {
        Ok(Api { stream: BufReader::new(UnixStream::connect(&self.socket)?) })
    }

    /// Undoes mounts in the engine's folders: a peer leaves one on its data, and the folders could not be removed.
    fn unmount(&self) {
        let Some(home) = self.socket.parent().map(|home| format!("{}/", home.display())) else { return };
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let mut inside: Vec<&str> = targets.filter(|target| target.starts_with(&home)).collect();
        inside.reverse();
        for target in inside {
            // A failure shows when the folder cannot be removed.
            let _undone = process::output(Command::new("umount").arg(target));
        }
    }

    /// The private memory of the engine's processes, the containers' own programs aside.
    pub(crate) fn memory(&self) -> u64 {
        let ours = of_programs(&self.programs).into_iter().filter(|pid| !self.before.contains(pid));
        ours.map(process::private_memory).sum()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Containers outlive their daemon, so they go first.
        if let Ok(ids) = self.client(&["ps", "--all", "--quiet"]) {
            for id in ids.split_whitespace() {
                let _removed = self.client(&["rm", "--force", id]);
            }
        }
        // What is already gone needs no end; the daemon is ours to wait for.
        let _asked = process::terminate(self.daemon.id());
        let ended = (0..200).any(|_| {
            process::pause(50);
            !matches!(self.daemon.try_wait(), Ok(None))
        });
        if !ended {
            let _forced = self.daemon.kill();
            let _ended = self.daemon.wait();
        }
        self.unmount();
    }
}

/// The processes that run one of the programs, from whatever copy: a sealed one has the name of a memory file.
fn of_programs(programs: &[PathBuf]) -> Vec<u32> {
    let names: Vec<_> = programs.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let runs = |pid: &u32| {
        let Ok(target) = std::fs::read_link(format!("/proc/{pid}/exe")) else { return false };
        let copy = target
            .to_string_lossy()
            .strip_prefix("/memfd:")
            .is_some_and(|rest| names.iter().any(|name| rest.starts_with(name)));
        copy || programs.contains(&target)
    };
    process::all().into_iter().filter(runs).collect()
}

/// One kept-alive connection.
pub(crate) struct Api {
    stream: BufReader<UnixStream>,
}

impl Api {
    /// Sends a request and returns status and body.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, String)> {
        let (status, length, chunked) = self.head(method, path, body)?;
        Ok((status, self.body(length, chunked)?))
    }

    /// Sends a request and returns the status, and the body only if it is an error's: others may never end.
    pub(crate) fn probe(mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, String)> {
        self.stream.get_ref().set_read_timeout(Some(Duration::from_secs(5)))?;
        let (status, length, chunked) = self.head(method, path, body)?;
        let text =
            if status >= 400 && method != "HEAD" { self.body(length, chunked)? } else { String::new() };
        Ok((status, text))
    }

    /// Turns the connection into the stream of an attached client.
    pub(crate) fn attach(mut self, path: &str) -> Result<BufReader<UnixStream>> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.split_whitespace().nth(1) != Some("101") {
            bail!("cannot attach: {}", line.trim());
        }
        while !line.trim().is_empty() {
            line.clear();
            self.stream.read_line(&mut line)?;
        }
        Ok(self.stream)
    }

    fn head(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Option<usize>, bool)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status: u16 =
            line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).context("no status line")?;
        let (mut length, mut chunked) = (None, false);
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the connection ended inside the headers");
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                return Ok((status, length, chunked));
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = Some(value.trim().parse::<usize>()?),
                "transfer-encoding" => chunked = value.trim() == "chunked",
                _ => {}
            }
        }
    }

    fn body(&mut self, length: Option<usize>, chunked: bool) -> Result<String> {
        let mut line = String::new();
        let mut body = Vec::new();
        if chunked {
            loop {
                line.clear();
                self.stream.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16).context("bad chunk")?;
                let mut piece = vec![0; size + 2];
                self.stream.read_exact(&mut piece)?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&piece[..size]);
            }
        } else if let Some(length) = length {
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// As `send`, with an answer that is no success as an error.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let (status, text) = self.send(method, path, body)?;
        if !(200..400).contains(&status) {
            bail!("{method} {path}: {status} {}", text.trim());
        }
        Ok(text)
    }
}
