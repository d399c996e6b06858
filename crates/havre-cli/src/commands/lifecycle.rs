//! Commands that do one thing to each container they are given.

use std::io::Write as _;

use havre_client::ClientError;

use crate::App;
use crate::failure::{Failure, describe};
use crate::format::table::{align_with, harmless};
use crate::format::units::human_size4;
use crate::output;
use crate::spec::{Args, Arity, Command, Flag, filter, int, switch, text};

const SIGNAL: Flag = text("signal", "Signal to send").short('s');
const TIME: Flag = int("time", "Seconds until the container is killed").hidden();
const TIMEOUT: Flag = int("timeout", "Seconds until the container is killed").short('t');

/// A command over containers, without examples of its own.
macro_rules! over_containers {
    ($const:ident, $name:literal, $about:literal, $flags:expr, $run:expr) => {
        pub(super) const $const: Command = Command {
            names: &[concat!("container ", $name), $name],
            arguments: "CONTAINER [CONTAINER...]",
            about: $about,
            flags: $flags,
            arity: Arity::AtLeast(1),
            trailing: false,
            examples: &[],
            run: $run,
        };
    };
}

over_containers!(STOP, "stop", "Stop one or more running containers", &[&[SIGNAL, TIME, TIMEOUT]], stop);
over_containers!(RESTART, "restart", "Restart one or more containers", &[&[SIGNAL, TIME, TIMEOUT]], restart);
over_containers!(KILL, "kill", "Kill one or more running containers", &[&[SIGNAL]], kill);
over_containers!(
    WAIT,
    "wait",
    "Block until one or more containers stop, then print their exit codes",
    &[],
    wait
);
over_containers!(PAUSE, "pause", "Pause all processes within one or more containers", &[], pause);
over_containers!(UNPAUSE, "unpause", "Unpause all processes within one or more containers", &[], unpause);

pub(super) const RM: Command = Command {
    names: &["container rm", "container remove", "rm"],
    arguments: "CONTAINER [CONTAINER...]",
    about: "Remove one or more containers",
    flags: &[&[
        switch("force", "Kill a running container first").short('f'),
        switch("link", "Remove the link, not the container").short('l'),
        switch("volumes", "Remove its anonymous volumes too").short('v'),
    ]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &["rm job", "rm -f $(havre ps -aq)"],
    run: rm,
};

pub(super) const RENAME: Command = Command {
    names: &["container rename", "rename"],
    arguments: "CONTAINER NEW_NAME",
    about: "Rename a container",
    flags: &[],
    arity: Arity::Exactly(2),
    trailing: false,
    examples: &[],
    run: rename,
};

pub(super) const TOP: Command = Command {
    names: &["container top", "top"],
    arguments: "CONTAINER [ps OPTIONS]",
    about: "Display the running processes of a container",
    flags: &[],
    arity: Arity::AtLeast(1),
    trailing: true,
    examples: &[],
    run: top,
};

pub(super) const PORT: Command = Command {
    names: &["container port", "port"],
    arguments: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    about: "List port mappings or a specific mapping for the container",
    flags: &[],
    arity: Arity::Between(1, 2),
    trailing: false,
    examples: &[],
    run: port,
};

pub(super) const CONTAINER_PRUNE: Command = Command {
    names: &["container prune"],
    arguments: "",
    about: "Remove all stopped containers",
    flags: &[&[
        filter("Only containers that match (until=10m, label=name)"),
        switch("force", "Do not ask").short('f'),
    ]],
    arity: Arity::None,
    trailing: false,
    examples: &[],
    run: prune,
};

/// Does one thing to each name, printing those that worked and the errors of those that did not. With
/// `what`, a last line sums up, as Docker's `start` does.
pub(super) async fn each<'n>(
    names: &'n [String],
    what: &str,
    action: impl AsyncFn(&'n str) -> Result<(), ClientError>,
) -> Result<u8, Failure> {
    let mut failed = Vec::new();
    for name in names {
        match action(name).await {
            Ok(()) => output::line(name)?,
            Err(error) => {
                output::complain(&describe(&error));
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(0);
    }
    if what.is_empty() {
        return Err(Failure::quiet(1));
    }
    Err(Failure::plain(format!("Error: failed to {what}: {}", failed.join(", "))))
}

fn seconds(args: &Args) -> Result<Option<i64>, Failure> {
    if args.given("time") && args.given("timeout") {
        return Err(Failure::plain("conflicting options: cannot specify both --timeout and --time"));
    }
    Ok(args.number("timeout").or_else(|| args.number("time")))
}

fn stop(app: &App, args: &Args) -> Result<u8, Failure> {
    let seconds = seconds(args)?;
    app.block(async {
        let client = app.client().await?;
        each(&args.rest, "", async |name| client.stop(name, args.text("signal"), seconds).await).await
    })
}

fn restart(app: &App, args: &Args) -> Result<u8, Failure> {
    let seconds = seconds(args)?;
    app.block(async {
        let client = app.client().await?;
        each(&args.rest, "", async |name| client.restart(name, args.text("signal"), seconds).await).await
    })
}

fn kill(app: &App, args: &Args) -> Result<u8, Failure> {
    app.block(async {
        let client = app.client().await?;
        each(&args.rest, "", async |name| client.kill(name, args.text("signal")).await).await
    })
}

fn pause(app: &App, args: &Args) -> Result<u8, Failure> {
    app.block(async {
        let client = app.client().await?;
        each(&args.rest, "", async |name| client.pause(name).await).await
    })
}

fn unpause(app: &App, args: &Args) -> Result<u8, Failure> {
    app.block(async {
        let client = app.client().await?;
        each(&args.rest, "", async |name| client.unpause(name).await).await
    })
}

fn wait(app: &App, args: &Args) -> Result<u8, Failure> {
    app.block(async {
        let client = app.client().await?;
        let mut code = 0;
        for name in &args.rest {
            let ended = async { client.wait(name, "").await?.exit().await };
            match ended.await {
                Ok(response) => output::line(&response.status_code.to_string())?,
                Err(error) => {
                    output::complain(&describe(&error));
                    code = 1;
                }
            }
        }
        Ok(code)
    })
}

fn rm(app: &App, args: &Args) -> Result<u8, Failure> {
    let force = args.on("force");
    app.block(async {
        let client = app.client().await?;
        let mut code = 0;
        for name in &args.rest {
            let bare = name.trim_matches('/');
            if bare.is_empty() {
                output::complain("container name cannot be empty");
                code = 1;
                continue;
            }
            match client.remove(bare, force, args.on("volumes"), args.on("link")).await {
                Ok(()) => output::line(name)?,
                Err(error) => {
                    output::complain(&describe(&error));
                    // What was to vanish and is not there needs no force.
                    if !(force && error.status() == Some(404)) {
                        code = 1;
                    }
                }
            }
        }
        Ok(code)
    })
}

fn rename(app: &App, args: &Args) -> Result<u8, Failure> {
    let [old, new] = args.rest.as_slice() else { return Err(Failure::quiet(1)) };
    if old.trim().is_empty() || new.trim().is_empty() {
        return Err(Failure::plain("Error: Neither old nor new names may be empty"));
    }
    app.block(async {
        app.client().await?.rename(old, new).await.map_err(|error| {
            Failure::plain(format!("{}\nError: failed to rename container named {old}", describe(&error)))
        })
    })?;
    Ok(0)
}

fn top(app: &App, args: &Args) -> Result<u8, Failure> {
    let Some((name, options)) = args.rest.split_first() else { return Err(Failure::quiet(1)) };
    let top =
        app.block(async { Ok::<_, Failure>(app.client().await?.top(name, &options.join(" ")).await?) })?;
    let mut lines = vec![top.titles.join("\t")];
    lines.extend(
        top.processes.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect::<Vec<_>>().join("\t")),
    );
    output::print(&align_with(&lines, 20, 3))?;
    Ok(0)
}

fn port(app: &App, args: &Args) -> Result<u8, Failure> {
    let container =
        app.block(async { Ok::<_, Failure>(app.client().await?.inspect(&args.rest[0]).await?) })?;
    let ports = container.network_settings.ports.unwrap_or_default();
    let asked = args.rest.get(1).map(String::as_str);
    if let Some(text) = asked {
        let port = text.split('/').next().unwrap_or_default();
        if let Err(error) = port.parse::<u16>() {
            let reason = crate::spec::range(&error);
            return Err(Failure::plain(format!(
                "Error: invalid port ({port}): strconv.ParseUint: parsing {port:?}: {reason}"
            )));
        }
    }
    let wanted = asked.map(|text| if text.contains('/') { text.to_owned() } else { format!("{text}/tcp") });
    let mut lines = Vec::new();
    for (port, bindings) in &ports {
        for binding in bindings.iter().flatten() {
            let ip = &binding.host_ip;
            let address = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
            let target = format!("{address}:{}", binding.host_port);
            match &wanted {
                None => lines.push(format!("{port} -> {target}")),
                Some(wanted) if wanted == port => lines.push(target),
                Some(_) => {}
            }
        }
    }
    if let (Some(asked), true) = (asked, lines.is_empty()) {
        return Err(Failure::plain(format!(
            "Error: No public port '{asked}' published for {}",
            args.rest[0]
        )));
    }
    lines.sort();
    for line in lines {
        output::line(&line)?;
    }
    Ok(0)
}

/// Asks before something is lost; everything but yes means no.
pub(super) fn confirmed(args: &Args, warning: &str) -> Result<bool, Failure> {
    if args.on("force") {
        return Ok(true);
    }
    output::print(&format!("WARNING! {warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    std::io::stdout().flush()?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn prune(app: &App, args: &Args) -> Result<u8, Failure> {
    if !confirmed(args, "This will remove all stopped containers.")? {
        return Ok(0);
    }
    let pruned =
        app.block(async { Ok::<_, Failure>(app.client().await?.prune_containers(&args.filters()).await?) })?;
    let deleted = pruned.containers_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        output::line(&format!("Deleted Containers:\n{}\n", deleted.join("\n")))?;
    }
    output::line(&format!(
        "Total reclaimed space: {}",
        human_size4(i64::try_from(pruned.space_reclaimed).unwrap_or(i64::MAX))
    ))?;
    Ok(0)
}
