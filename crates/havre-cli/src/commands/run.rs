//! `run`, `create`, `start`.
//!
//! The order of `run` decides what is seen: attached and waiting are settled before the start, so no
//! output and no exit is missed. Attach and wait travel together on connections of their own.

use havre_api::container::WaitResponse;
use havre_client::{AttachOptions, Client, ClientError, Waiting};
use havre_oci::Reference;
use tokio::time::{Duration, timeout};

use super::registry;
use crate::App;
use crate::config;
use crate::container::{CidFile, Creation, api_socket, creation, flags, proxies};
use crate::failure::{Failure, describe};
use crate::output;
use crate::session::{Plan, Session};
use crate::signals::{Signals, exit_code};
use crate::spec::{Args, Arity, Command, switch, text};
use crate::terminal::{self, DetachKeys, Raw};

pub(crate) const RUN: Command = Command {
    names: &["container run", "run"],
    arguments: "IMAGE [COMMAND] [ARG...]",
    about: "Create and run a new container from an image",
    flags: &[flags::SHARED, flags::LIMITS, flags::RUN],
    arity: Arity::AtLeast(1),
    trailing: true,
    examples: &[
        "run --rm hello",
        "run --rm -it busybox sh",
        "run -d --name web --restart unless-stopped -v /srv/www:/www:ro busybox httpd -f -h /www",
    ],
    run,
};

pub(super) const CREATE: Command = Command {
    names: &["container create", "create"],
    arguments: "IMAGE [COMMAND] [ARG...]",
    about: "Create a new container",
    flags: &[flags::SHARED, flags::LIMITS],
    arity: Arity::AtLeast(1),
    trailing: true,
    examples: &["create --name job busybox sh -c 'echo done'"],
    run: create,
};

pub(super) const START: Command = Command {
    names: &["container start", "start"],
    arguments: "CONTAINER [CONTAINER...]",
    about: "Start one or more stopped containers",
    flags: &[&[
        switch("attach", "Attach STDOUT and STDERR and pass signals on").short('a'),
        text("checkpoint", "Restore from this checkpoint"),
        text("checkpoint-dir", "Directory of the checkpoint"),
        text("detach-keys", "Keys that detach (ctrl-p,ctrl-q unless given)"),
        switch("interactive", "Attach STDIN").short('i'),
    ]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &["start web", "start -ai job"],
    run: start,
};

/// How long a removal that a failed start caused is waited for.
const REMOVAL: Duration = Duration::from_secs(10);

/// A failure before the container's process runs, in the form scripts know.
fn early(app: &App, args: &Args, message: &str) -> Failure {
    early_with(app, args, 125, message)
}

fn early_with(app: &App, args: &Args, code: u8, message: &str) -> Failure {
    let program = &app.program;
    Failure::new(
        code,
        format!("{program}: {message}\n\nRun '{program} {} --help' for more information", args.called),
    )
}

/// Docker's client reads the image's name before it asks: not found is then about a name that could be.
fn check_image(image: &str) -> Result<(), String> {
    let id = image.strip_prefix("sha256:").unwrap_or(image);
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    match Reference::parse(image) {
        Err(error) if !is_id => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// A wrong value of a flag reads like a wrong flag; everything else like a failed command.
fn refused(app: &App, args: &Args, command: &Command, reason: &str) -> Failure {
    if reason.starts_with("invalid argument ") {
        let (program, called) = (&app.program, &args.called);
        let usage = command.usage(program, called);
        return Failure::usage(format!(
            "{reason}\n\nUsage:  {usage}\n\nRun '{program} {called} --help' for more information"
        ));
    }
    early(app, args, reason)
}

/// The reference with the tag that is meant when none is given.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// The exit code for a start that failed, by what the daemon says.
fn start_failure_code(message: &str) -> u8 {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file specified",
    ]) {
        127
    } else if says(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        125
    }
}

/// What a container is created for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// `create`: somebody starts it later.
    Keep,
    /// `run -d`.
    Detach,
    /// `run`.
    Attach,
}

/// Why no container was made.
enum Refusal {
    /// What the daemon said; `run` and `create` differ in how they pass it on.
    Daemon(String),
    Other(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

/// Creates the container and returns its id.
async fn create_container(
    app: &App,
    client: &Client,
    args: &Args,
    purpose: Purpose,
) -> Result<(String, Creation), Refusal> {
    let command = if purpose == Purpose::Keep { &CREATE } else { &RUN };
    let detached = purpose == Purpose::Detach;
    let mut creation =
        creation(args, detached, terminal::size()).map_err(|reason| refused(app, args, command, &reason))?;
    let file = config::file(&app.global)?;
    let env = &mut creation.request.config.env;
    proxies::add(env.get_or_insert_default(), &file.proxies, &client.endpoint().to_string());
    if creation.platform.is_empty() {
        creation.platform = std::env::var("DOCKER_DEFAULT_PLATFORM").unwrap_or_default();
    }
    let pull = args.text("pull");
    if !matches!(pull, "" | "always" | "missing" | "never") {
        let reason =
            format!("invalid pull option: '{pull}': must be one of \"always\", \"missing\" or \"never\"");
        return Err(early(app, args, &reason).into());
    }
    let localhost =
        |text: &&String| text.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if let Some(server) = args.list("dns").iter().find(localhost) {
        output::complain(&format!("WARNING: Localhost DNS ({server}) may fail in containers."));
    }
    let mut cid = CidFile::reserve(args.text("cidfile")).map_err(Refusal::Daemon)?;
    check_image(&creation.request.config.image).map_err(Refusal::Daemon)?;
    if let Some(reason) = super::no_platform(&creation.platform).filter(|_| !creation.platform.is_empty()) {
        return Err(Refusal::Daemon(format!("error parsing specified platform: {reason}")));
    }
    let (named, platform) = (Reference::parse(&creation.request.config.image), creation.platform.clone());
    let fetch = async || match &named {
        Ok(image) => {
            let quiet = args.on("quiet");
            let pulled = registry::pull_missing(app, client, image, &platform, quiet).await;
            pulled.map_err(|failure| Refusal::Daemon(failure.message))
        }
        Err(error) => Err(Refusal::Daemon(error.to_string())),
    };
    if pull == "always" {
        fetch().await?;
    }
    let mut keys = None;
    if args.on("use-api-socket") {
        keys = api_socket::prepare(&mut creation, client.endpoint(), &file)
            .map_err(|reason| early(app, args, &reason))?;
    }
    if client.version() >= havre_api::ApiVersion::new(1, 44) {
        // Endpoints have addresses since; the field is for older daemons.
        creation.request.config.mac_address.clear();
    }
    // While the daemon creates, the connections for attach, wait and start are opened.
    let more = async { if purpose == Purpose::Attach { client.prepare(2).await.ok() } else { None } };
    let creating = client.create(&creation.name, &creation.platform, &creation.request);
    let (created, _) = tokio::join!(creating, more);
    let created = match created {
        Ok(created) => created,
        Err(ClientError::Api { status: 404, message })
            if pull != "never"
                && message.contains("No such image")
                && !creation.request.config.image.starts_with("sha256:") =>
        {
            if !args.on("quiet") {
                output::complain(&format!(
                    "Unable to find image '{}' locally",
                    with_tag(&creation.request.config.image)
                ));
            }
            fetch().await?;
            let again = client.create(&creation.name, &creation.platform, &creation.request).await;
            again.map_err(|error| Refusal::Daemon(describe(&error)))?
        }
        Err(error) => return Err(Refusal::Daemon(describe(&error))),
    };
    for warning in &created.warnings {
        output::complain(&format!("WARNING: {warning}"));
    }
    if let Some(cid) = &mut cid {
        cid.fill(&created.id).map_err(|reason| early(app, args, &reason))?;
    }
    if let Some(keys) = keys {
        let sent = api_socket::send(client, &created.id, keys).await;
        sent.map_err(|error| Refusal::Daemon(describe(&error)))?;
    }
    Ok((created.id, creation))
}

fn create(app: &App, args: &Args) -> Result<u8, Failure> {
    app.block(async {
        let client = app.client().await?;
        match create_container(app, client, args, Purpose::Keep).await {
            Ok((id, _)) => output::line(&id)?,
            Err(Refusal::Daemon(message)) => return Err(Failure::plain(message)),
            Err(Refusal::Other(failure)) => return Err(failure),
        }
        Ok(0)
    })
}

/// The keys that detach: the flag, else the configuration file, else Docker's.
pub(super) fn detach_keys(app: &App, args: &Args) -> Result<(String, DetachKeys), Failure> {
    let mut text = args.text("detach-keys").to_owned();
    if text.is_empty() {
        text = config::file(&app.global)?.detach_keys;
    }
    let keys = DetachKeys::parse(&text)
        .map_err(|reason| Failure::plain(format!("invalid detach keys ({text}): {reason}")))?;
    Ok((text, keys))
}

fn run(app: &App, args: &Args) -> Result<u8, Failure> {
    let detached = args.on("detach");
    if detached && args.given("attach") {
        return Err(Failure::plain("conflicting options: cannot specify both --attach and --detach"));
    }
    let tty = args.on("tty");
    if tty && !detached && args.on("interactive") && !terminal::input_is_terminal() {
        return Err(Failure::plain("the input device is not a TTY"));
    }
    let not_run = |refusal| match refusal {
        Refusal::Daemon(message) => early_with(app, args, start_failure_code(&message), &message),
        Refusal::Other(failure) => failure,
    };
    app.block(async {
        let client = app.client().await?;
        if detached {
            let (id, _) = create_container(app, client, args, Purpose::Detach).await.map_err(not_run)?;
            let started = client.start(&id, "").await;
            output::line(&id)?;
            started.map_err(|error| start_failed(app, args, &id, &error))?;
            return Ok(0);
        }
        let (id, creation) = create_container(app, client, args, Purpose::Attach).await.map_err(not_run)?;
        let config = &creation.request.config;
        let (keys, detach) =
            if tty { detach_keys(app, args)? } else { (String::new(), DetachKeys::standard()) };
        let attach = AttachOptions {
            stdin: config.attach_stdin,
            stdout: config.attach_stdout,
            stderr: config.attach_stderr,
            logs: false,
            detach_keys: keys,
        };
        let job = Job {
            client,
            id: &id,
            attach,
            tty,
            detach,
            proxy: args.on_by_default("sig-proxy") && !tty,
            condition: if args.on("rm") { "removed" } else { "next-exit" },
            start: true,
        };
        match job.run().await {
            Ok(outcome) => outcome.code(),
            Err(Broken::Start(error)) => Err(start_failed(app, args, &id, &error)),
            Err(Broken::Other(failure)) => Err(failure),
        }
    })
}

fn start_failed(app: &App, args: &Args, id: &str, error: &ClientError) -> Failure {
    let text = describe(error);
    let code = if error.status().is_some() { start_failure_code(&text) } else { 125 };
    let mut failure = early_with(app, args, code, &text);
    // Under Docker's name we say what Docker says; a container that is removed cannot be asked about.
    if app.program != "docker" && error.status().is_some() && !args.on("rm") {
        let name = Some(args.text("name")).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| crate::format::table::short_id(id));
        failure.message.push_str(&format!("\n\nsee: {} why {name}", app.program));
    }
    failure
}

/// How a session ended.
pub(super) enum Outcome {
    /// The process ended.
    Exited(WaitResponse),
    /// The user detached.
    Detached,
    /// A signal ended the CLI.
    Signalled(&'static str),
}

impl Outcome {
    fn code(self) -> Result<u8, Failure> {
        match self {
            Self::Exited(WaitResponse { error: Some(error), .. }) => Err(Failure::new(125, error.message)),
            Self::Exited(response) => Ok(u8::try_from(response.status_code & 0xff).unwrap_or(125)),
            Self::Detached => Ok(0),
            Self::Signalled(name) => Ok(exit_code(name)),
        }
    }
}

/// Why a session could not be held.
pub(super) enum Broken {
    Start(ClientError),
    Other(Failure),
}

impl<E: Into<Failure>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// One attached container.
pub(super) struct Job<'a> {
    pub(super) client: &'a Client,
    pub(super) id: &'a str,
    pub(super) attach: AttachOptions,
    pub(super) tty: bool,
    pub(super) detach: DetachKeys,
    pub(super) proxy: bool,
    pub(super) condition: &'a str,
    pub(super) start: bool,
}

impl Job<'_> {
    /// Attaches, waits, starts, and copies until the end.
    pub(super) async fn run(&self) -> Result<Outcome, Broken> {
        let raw_input = self.tty && self.attach.stdin && terminal::input_is_terminal();
        let mut signals = match () {
            () if self.proxy => Signals::proxied()?,
            () if raw_input => Signals::ending()?,
            () => Signals::none(),
        };
        let attached = self.attach.stdin || self.attach.stdout || self.attach.stderr;
        let attaching = async {
            if attached { self.client.attach(self.id, &self.attach).await.map(Some) } else { Ok(None) }
        };
        let (hijacked, waiting) = tokio::join!(attaching, self.client.wait(self.id, self.condition));
        let (hijacked, waiting) = (hijacked?, waiting?);
        let raw = raw_input.then(Raw::enter);
        let plan = Plan {
            input: self.attach.stdin,
            terminal: self.tty,
            detach: raw_input.then(|| self.detach.clone()),
        };
        let mut session = match hijacked {
            Some(hijacked) => Some(Session::start(hijacked, plan)?),
            None => None,
        };
        if self.start
            && let Err(error) = self.client.start(self.id, &self.attach.detach_keys).await
        {
            drop(raw);
            if self.condition == "removed" {
                timeout(REMOVAL, waiting.exit()).await.ok();
            }
            return Err(Broken::Start(error));
        }
        if self.tty {
            if !self.start || terminal::size().is_some() {
                self.resize().await;
            }
            signals.catch_resize()?;
        }
        let outcome = self.mind(waiting, session.as_mut(), &mut signals).await;
        drop(raw);
        outcome
    }

    async fn resize(&self) {
        if let Some((rows, columns)) = terminal::size() {
            // A container that has just ended has no size; nothing is lost.
            self.client.resize(self.id, rows, columns).await.ok();
        }
    }

    /// Minds signals, output and the exit until all is said.
    async fn mind(
        &self,
        waiting: Waiting<'_>,
        session: Option<&mut Session>,
        signals: &mut Signals,
    ) -> Result<Outcome, Broken> {
        let mut exit = std::pin::pin!(waiting.exit());
        let mut ended = None;
        let Some(session) = session else {
            loop {
                tokio::select! {
                    response = &mut exit => return Ok(Outcome::Exited(response?)),
                    name = signals.next() => self.signal(name).await,
                }
            }
        };
        let mut output_open = true;
        loop {
            if let (Some(_), false) = (&ended, output_open) {
                break;
            }
            tokio::select! {
                result = &mut session.output, if output_open => {
                    output_open = false;
                    if let Ok(Err(error)) = result {
                        return Err(Failure::from(error).into());
                    }
                }
                Ok(()) = &mut session.detached => return Ok(Outcome::Detached),
                response = &mut exit, if ended.is_none() => ended = Some(response?),
                name = signals.next() => {
                    if name != "WINCH" && !self.proxy {
                        return Ok(Outcome::Signalled(name));
                    }
                    self.signal(name).await;
                }
            }
        }
        Ok(ended.map_or(Outcome::Detached, Outcome::Exited))
    }

    async fn signal(&self, name: &'static str) {
        if name == "WINCH" {
            self.resize().await;
        } else {
            // The container may have ended in between.
            self.client.kill(self.id, name).await.ok();
        }
    }
}

fn start(app: &App, args: &Args) -> Result<u8, Failure> {
    if args.given("checkpoint") || args.given("checkpoint-dir") {
        let [name] = args.rest.as_slice() else {
            return Err(Failure::plain("you cannot restore multiple containers at once"));
        };
        app.block(async {
            let client = app.client().await?;
            let (checkpoint, folder) = (args.text("checkpoint"), args.text("checkpoint-dir"));
            // Docker's client says so itself; other failures are the daemon's.
            client.start_from(name, checkpoint, folder).await.map_err(|error| match describe(&error) {
                text if text.contains("only supported in experimental mode") => Failure::plain(
                    "\"--checkpoint\" is only supported on a Docker daemon with experimental features enabled",
                ),
                text => Failure::plain(text),
            })
        })?;
        crate::output::line(name)?;
        return Ok(0);
    }
    let (attach, interactive) = (args.on("attach"), args.on("interactive"));
    app.block(async {
        let client = app.client().await?;
        if !attach && !interactive {
            return super::lifecycle::each(&args.rest, "start containers", async |name| {
                client.start(name, "").await
            })
            .await;
        }
        let [name] = args.rest.as_slice() else {
            return Err(Failure::plain("you cannot start and attach multiple containers at once"));
        };
        let container = client.inspect(name).await?;
        let tty = container.config.tty;
        let (keys, detach) = detach_keys(app, args)?;
        let job = Job {
            client,
            id: &container.id,
            attach: AttachOptions {
                stdin: interactive && container.config.open_stdin,
                stdout: true,
                stderr: true,
                logs: false,
                detach_keys: keys,
            },
            tty,
            detach,
            proxy: !tty,
            condition: if container.host_config.auto_remove { "removed" } else { "next-exit" },
            start: !container.state.running,
        };
        match job.run().await {
            Ok(outcome) => outcome.code(),
            Err(Broken::Start(error)) => Err(Failure::plain(describe(&error))),
            Err(Broken::Other(failure)) => Err(failure),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_tag_means_latest() {
        for (image, want) in [
            ("busybox", "busybox:latest"),
            ("host:5000/a", "host:5000/a:latest"),
            ("a:1", "a:1"),
            ("a@sha256:0", "a@sha256:0"),
        ] {
            assert_eq!(with_tag(image), want);
        }
    }

    #[test]
    fn failed_starts_have_the_codes_of_a_shell() {
        for (message, code) in [
            ("exec: \"foo\": executable file not found in $PATH: unknown", 127),
            ("exec: \"/foo\": stat /foo: no such file or directory", 127),
            ("exec: \"/etc\": permission denied", 126),
            ("exec: \"/etc\": is a directory", 126),
            ("port is already allocated", 125),
        ] {
            assert_eq!(start_failure_code(message), code, "{message}");
        }
    }
}
