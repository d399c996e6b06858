//! `exec` and `attach`.

use havre_api::exec::{ExecCreateRequest, ExecStartRequest};
use havre_client::{AttachOptions, Client};

use super::run::{Broken, Job, Outcome, detach_keys};
use crate::App;
use crate::container::flags::RUN;
use crate::failure::{Failure, describe};
use crate::files;
use crate::session::{Plan, Session};
use crate::signals::{Signals, exit_code};
use crate::spec::{Args, Arity, Command, list, switch, text};
use crate::terminal::{self, DetachKeys, Raw};

pub(super) const EXEC: Command = Command {
    names: &["container exec", "exec"],
    arguments: "CONTAINER COMMAND [ARG...]",
    about: "Execute a command in a running container",
    flags: &[&[
        switch("detach", "Run in the background").short('d'),
        text("detach-keys", "Keys that detach (ctrl-p,ctrl-q unless given)"),
        list("env", "Set environment variables").short('e'),
        list("env-file", "Read environment variables from a file"),
        switch("interactive", "Keep STDIN open even if not attached").short('i'),
        switch("privileged", "Give the command all rights on the host"),
        switch("tty", "Allocate a terminal").short('t'),
        text("user", "User and group, by name or number (user[:group])").short('u'),
        text("workdir", "Working directory inside the container").short('w'),
    ]],
    arity: Arity::AtLeast(2),
    trailing: true,
    examples: &["exec -it web sh", "exec -u nobody -w /tmp web id"],
    run: exec,
};

pub(super) const ATTACH: Command = Command {
    names: &["container attach", "attach"],
    arguments: "CONTAINER",
    about: "Attach local standard input, output, and error streams to a running container",
    flags: &[&[
        text("detach-keys", "Keys that detach (ctrl-p,ctrl-q unless given)"),
        switch("no-stdin", "Do not attach STDIN"),
        RUN[2],
    ]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["attach web"],
    run: attach,
};

fn exec(app: &App, args: &Args) -> Result<u8, Failure> {
    let Some((container, command)) = args.rest.split_first() else { return Err(Failure::quiet(1)) };
    let (tty, interactive, detached) = (args.on("tty"), args.on("interactive"), args.on("detach"));
    let mut env = Vec::new();
    for path in args.list("env-file") {
        env.extend(files::variables(path, true).map_err(|failure| Failure::plain(failure.message))?);
    }
    let wrong = |reason: String| {
        let (program, called) = (&app.program, &args.called);
        let usage = EXEC.usage(program, called);
        Failure::usage(format!(
            "{reason}\n\nUsage:  {usage}\n\nRun '{program} {called} --help' for more information"
        ))
    };
    env.extend(crate::container_environment(args.list("env")).map_err(wrong)?);
    if tty && interactive && !detached && !terminal::input_is_terminal() {
        return Err(Failure::plain("the input device is not a TTY"));
    }
    let (keys, detach) = if tty { detach_keys(app, args)? } else { (String::new(), DetachKeys::standard()) };
    let console_size = terminal::size().filter(|_| tty).map(|(rows, columns)| [rows.into(), columns.into()]);
    let request = ExecCreateRequest {
        user: args.text("user").into(),
        privileged: args.on("privileged"),
        tty,
        console_size,
        attach_stdin: interactive && !detached,
        attach_stderr: !detached,
        attach_stdout: !detached,
        detach_keys: keys,
        env: (!env.is_empty()).then_some(env),
        working_dir: args.text("workdir").into(),
        cmd: Some(command.to_vec()),
    };
    app.block(async {
        let client = app.client().await?;
        let id = client.create_exec(container, &request).await?;
        let start = ExecStartRequest { detach: detached, tty, console_size };
        if detached {
            client.start_exec_detached(&id, &start).await?;
            return Ok(0);
        }
        run_exec(client, &id, &start, interactive, detach).await
    })
}

async fn run_exec(
    client: &Client,
    id: &str,
    start: &ExecStartRequest,
    interactive: bool,
    detach: DetachKeys,
) -> Result<u8, Failure> {
    let raw_input = start.tty && interactive && terminal::input_is_terminal();
    let mut signals = if raw_input { Signals::ending()? } else { Signals::none() };
    let hijacked = client.start_exec(id, start).await.map_err(|error| {
        // Docker's daemon refuses a command it cannot execute with 400 and the reason.
        let text = describe(&error);
        let missing =
            text.contains("executable file not found") || text.contains("no such file or directory");
        let code = match () {
            () if error.status() != Some(400) => 1,
            () if missing => 127,
            () => 126,
        };
        Failure::new(code, text)
    })?;
    let raw = raw_input.then(Raw::enter);
    let plan = Plan { input: interactive, terminal: start.tty, detach: raw_input.then_some(detach) };
    let mut session = Session::start(hijacked, plan)?;
    let resize = async || {
        if let Some((rows, columns)) = terminal::size() {
            // A command that has just ended has no size; nothing is lost.
            client.resize_exec(id, rows, columns).await.ok();
        }
    };
    if start.tty {
        resize().await;
        signals.catch_resize()?;
    }
    loop {
        tokio::select! {
            result = &mut session.output => {
                drop(raw);
                if let Ok(Err(error)) = result {
                    return Err(error.into());
                }
                let code = client.inspect_exec(id).await?.exit_code.unwrap_or(0);
                return Ok(u8::try_from(code & 0xff).unwrap_or(1));
            }
            Ok(()) = &mut session.detached => {
                drop(raw);
                return Ok(0);
            }
            name = signals.next() => {
                if name != "WINCH" {
                    drop(raw);
                    return Ok(exit_code(name));
                }
                resize().await;
            }
        }
    }
}

fn attach(app: &App, args: &Args) -> Result<u8, Failure> {
    let Some(name) = args.rest.first() else { return Err(Failure::quiet(1)) };
    app.block(async {
        let client = app.client().await?;
        let container = client.inspect(name).await?;
        if !container.state.running {
            return Err(Failure::plain("You cannot attach to a stopped container, start it first"));
        }
        if container.state.paused {
            return Err(Failure::plain("You cannot attach to a paused container, unpause it first"));
        }
        if container.state.restarting {
            return Err(Failure::plain(
                "You cannot attach to a restarting container, wait until it is running",
            ));
        }
        let tty = container.config.tty;
        let stdin = !args.on("no-stdin") && container.config.open_stdin;
        if tty && stdin && !terminal::input_is_terminal() {
            return Err(Failure::plain("the input device is not a TTY"));
        }
        let (keys, detach) = detach_keys(app, args)?;
        let job = Job {
            client,
            id: &container.id,
            attach: AttachOptions { stdin, stdout: true, stderr: true, logs: false, detach_keys: keys },
            tty,
            detach,
            proxy: args.on_by_default("sig-proxy") && !tty,
            condition: "",
            start: false,
        };
        match job.run().await {
            Ok(Outcome::Exited(response)) => Ok(u8::try_from(response.status_code & 0xff).unwrap_or(125)),
            Ok(Outcome::Detached) => {
                crate::output::complain("read escape sequence");
                Ok(1)
            }
            Ok(Outcome::Signalled(name)) => Ok(exit_code(name)),
            Err(Broken::Start(error)) => Err(error.into()),
            Err(Broken::Other(failure)) => Err(failure),
        }
    })
}
