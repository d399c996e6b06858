//! `version` and `info`.

use std::fmt::Write as _;

use havre_api::system::{InfoResponse, VersionResponse};
use havre_client::{Method, Query};
use serde_json::value::RawValue;

use crate::App;
use crate::VERSION as CLI_VERSION;
use crate::config::context_name;
use crate::failure::{Failure, describe};
use crate::format::table::harmless;
use crate::format::template::{Absent, Format, Known};
use crate::format::units::binary_size;
use crate::output;
use crate::spec::{Args, Arity, Command, Flag, text};

const FORMAT: Flag = text("format", "Print with a Go template, or 'json'").short('f');

pub(super) const VERSION: Command = Command {
    names: &["version"],
    arguments: "",
    about: "Show the version information of client and engine",
    flags: &[&[FORMAT]],
    arity: Arity::None,
    trailing: false,
    examples: &["version --format '{{.Server.Version}}'"],
    run: version,
};

pub(super) const INFO: Command = Command {
    names: &["system info", "info"],
    arguments: "",
    about: "Display system-wide information",
    flags: &[&[FORMAT]],
    arity: Arity::None,
    trailing: false,
    examples: &["info --format '{{.CgroupVersion}}'"],
    run: info,
};

/// The processor's name in Go's words.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn json_of(value: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::plain(error.to_string()))
}

fn version(app: &App, args: &Args) -> Result<u8, Failure> {
    let format = match args.text("format") {
        "" => None,
        source => Some(Format::parse(source).map_err(|failure| Failure::new(64, failure.message))?),
    };
    let (answer, api) = app.block(async {
        let client = match app.client().await {
            Ok(client) => client,
            Err(failure) => return (Err(failure.message), havre_api::ApiVersion::CURRENT),
        };
        let answer = client.server_version().await.map_err(|error| describe(&error));
        (answer, client.version())
    });
    let commit = option_env!("HAVRE_COMMIT").unwrap_or("unknown");
    if let Some(format) = format {
        let client = serde_json::json!({
            "Platform": {"Name": "Havre"}, "Version": CLI_VERSION, "ApiVersion": api.to_string(),
            "DefaultAPIVersion": havre_api::ApiVersion::CURRENT.to_string(), "GitCommit": commit, "GoVersion": "",
            "Os": std::env::consts::OS, "Arch": arch(), "BuildTime": "", "Context": context_name(&app.global)?,
        });
        let server = match &answer {
            Ok(server) => json_of(server)?.to_string(),
            Err(_) => "null".to_owned(),
        };
        let text = format.object(&format!(r#"{{"Client":{client},"Server":{server}}}"#), OF_VERSIONS);
        let text = text.or_else(|failure| finished(failure, answer.is_err()))?;
        output::line(&if answer.is_err() { text.replace("<nil>", "") } else { text })?;
    } else {
        let lowered = match havre_api::ApiVersion::CURRENT {
            current if current == api => String::new(),
            current => format!(" (downgraded from {current})"),
        };
        let mut out = format!(
            "Client: Havre\n Version:           {CLI_VERSION}\n API version:       {api}{lowered}\n Git commit:        {commit}\n OS/Arch:           {}/{}\n Context:           {}\n",
            std::env::consts::OS,
            arch(),
            harmless(&context_name(&app.global)?)
        );
        if let Ok(server) = &answer {
            out.push_str(&server_text(server));
        }
        output::print(&out)?;
    }
    answer.map(|_| 0).map_err(Failure::plain)
}

/// The names that templates use beside the wire's.
const OF_VERSIONS: &[Known] = &[
    ("Client", &[("APIVersion", Absent::Named("ApiVersion"))]),
    (
        "Server",
        &[
            ("APIVersion", Absent::Named("ApiVersion")),
            ("Experimental", Absent::Nil),
            ("BuildTime", Absent::Text),
            ("KernelVersion", Absent::Text),
        ],
    ),
];

/// What was printed when a template failed is a line; without a daemon its silence is the error.
fn finished(failure: Failure, unreachable: bool) -> Result<String, Failure> {
    if unreachable {
        return Ok(String::new());
    }
    if failure.code != 64 {
        output::line("")?;
    }
    Err(Failure { message: failure.message.replace("template parsing error: ", ""), ..failure })
}

fn server_text(server: &VersionResponse) -> String {
    let name = server.platform.as_ref().map_or("", |platform| platform.name.as_str());
    let mut out = format!("\nServer: {}\n", harmless(name));
    let engine = [
        ("Version", server.version.clone()),
        ("API version", format!("{} (minimum version {})", server.api_version, server.min_api_version)),
        ("Go version", server.go_version.clone()),
        ("Git commit", server.git_commit.clone()),
        ("Built", server.build_time.clone()),
        ("OS/Arch", format!("{}/{}", server.os, server.arch)),
        ("Experimental", server.experimental.to_string()),
    ];
    out.push_str(" Engine:\n");
    for (name, text) in engine {
        writeln!(out, "  {:18}{}", format!("{name}:"), harmless(&text)).ok();
    }
    for component in server.components.iter().flatten().filter(|component| component.name != "Engine") {
        let commit = component
            .details
            .as_ref()
            .and_then(|details| details.get("GitCommit"))
            .cloned()
            .unwrap_or_default();
        writeln!(
            out,
            " {}:\n  Version:          {}\n  GitCommit:        {}",
            harmless(&component.name),
            harmless(&component.version),
            harmless(&commit)
        )
        .ok();
    }
    out
}

fn info(app: &App, args: &Args) -> Result<u8, Failure> {
    let format = match args.text("format") {
        "" => None,
        source => Some(Format::parse(source).map_err(|failure| Failure::new(64, failure.message))?),
    };
    let answer = app.block(async {
        let client = app.client().await?;
        let query = Query::new("/info");
        Ok::<Box<RawValue>, Failure>(client.json(Method::GET, &query, None::<&()>).await?)
    });
    let context = context_name(&app.global)?;
    if let Some(format) = format {
        let client =
            serde_json::json!({"Debug": app.global.debug, "Version": CLI_VERSION, "Context": context});
        let server = match &answer {
            // The daemon's own text keeps its order.
            Ok(info) => info.get().trim_end().strip_suffix('}').unwrap_or_default().to_owned(),
            Err(_) => String::from(r#"{"ID":"""#),
        };
        let text = format.object(&format!(r#"{server},"ClientInfo":{client}}}"#), OF_INFO);
        output::line(&text.or_else(|failure| finished(failure, answer.is_err()))?)?;
        return answer.map(|_| 0);
    }
    output::print(&format!(
        "Client: Havre\n Version:    {CLI_VERSION}\n Context:    {}\n Debug Mode: {}\n\nServer:\n",
        harmless(&context),
        app.global.debug
    ))?;
    let info: InfoResponse = serde_json::from_str(answer?.get())
        .map_err(|error| Failure::plain(format!("the daemon's answer cannot be read: {error}")))?;
    output::print(&info_text(&info))?;
    output::line("")?;
    for warning in info.warnings.iter().flatten() {
        output::complain(&harmless(warning));
    }
    Ok(0)
}

/// Fields that are left out when empty are known all the same, and some by other names than the wire's.
const OF_INFO: &[Known] = &[(
    "",
    &[
        ("Containerd", Absent::Nil),
        ("FirewallBackend", Absent::Nil),
        ("DefaultAddressPools", Absent::List),
        ("ProductLicense", Absent::Text),
        ("SystemStatus", Absent::List),
        ("HTTPProxy", Absent::Named("HttpProxy")),
        ("HTTPSProxy", Absent::Named("HttpsProxy")),
        ("ServerErrors", Absent::List),
        ("Warnings", Absent::List),
        ("ServerVersion", Absent::Text),
    ],
)];

/// Stands for the value of a line that has none.
const HEADING: &str = "\0";

fn info_text(info: &InfoResponse) -> String {
    let mut out = String::new();
    let mut line = |depth: usize, name: &str, text: &str| match text {
        "" => {}
        HEADING => drop(writeln!(out, "{}{name}", " ".repeat(depth))),
        text => drop(writeln!(out, "{}{name}: {}", " ".repeat(depth), harmless(text))),
    };
    line(1, "Containers", &info.containers.to_string());
    line(2, "Running", &info.containers_running.to_string());
    line(2, "Paused", &info.containers_paused.to_string());
    line(2, "Stopped", &info.containers_stopped.to_string());
    line(1, "Images", &info.images.to_string());
    line(1, "Server Version", &info.server_version);
    line(1, "Storage Driver", &info.driver);
    for [name, text] in info.driver_status.iter().flatten() {
        line(2, name, text);
    }
    line(1, "Logging Driver", &info.logging_driver);
    line(1, "Cgroup Driver", &info.cgroup_driver);
    line(1, "Cgroup Version", &info.cgroup_version);
    let plugins = &info.plugins;
    let lists = [
        ("Volume", &plugins.volume),
        ("Network", &plugins.network),
        ("Authorization", &plugins.authorization),
        ("Log", &plugins.log),
    ];
    if lists.iter().any(|(_, list)| list.as_ref().is_some_and(|list| !list.is_empty())) {
        line(1, "Plugins:", HEADING);
    }
    for (name, list) in lists {
        let list = list.as_ref().map(|list| list.join(" ")).unwrap_or_default();
        if list.is_empty() && matches!(name, "Volume" | "Network") {
            line(2, &format!("{name}: "), HEADING);
        }
        line(2, name, &list);
    }
    if let Some(folders) = info.cdi_spec_dirs.as_ref().filter(|folders| !folders.is_empty()) {
        line(1, "CDI spec directories:", HEADING);
        for folder in folders {
            line(2, folder, HEADING);
        }
    }
    line(1, "Swarm", &info.swarm.local_node_state);
    let runtimes: Vec<&str> = info.runtimes.keys().map(String::as_str).collect();
    line(1, "Runtimes", &runtimes.join(" "));
    line(1, "Default Runtime", &info.default_runtime);
    line(1, "Init Binary", &info.init_binary);
    for (name, commit) in [
        ("containerd version", &info.containerd_commit),
        ("runc version", &info.runc_commit),
        ("init version", &info.init_commit),
    ] {
        line(1, &format!("{name}: {}", harmless(&commit.id)), HEADING);
    }
    if !info.security_options.is_empty() {
        line(1, "Security Options:", HEADING);
    }
    for option in &info.security_options {
        // `name=seccomp,profile=builtin`
        let mut parts = option.split(',');
        let name = parts.next().unwrap_or_default();
        line(2, name.strip_prefix("name=").unwrap_or(name), HEADING);
        for part in parts {
            let (key, text) = part.split_once('=').unwrap_or((part, ""));
            line(3, if key == "profile" { "Profile" } else { key }, text);
        }
    }
    line(1, "Kernel Version", &info.kernel_version);
    line(1, "Operating System", &info.operating_system);
    line(1, "OSType", &info.os_type);
    line(1, "Architecture", &info.architecture);
    line(1, "CPUs", &info.n_cpu.to_string());
    line(1, "Total Memory", &binary_size(info.mem_total));
    line(1, "Name", &info.name);
    line(1, "ID", &info.id);
    line(1, "Docker Root Dir", &info.docker_root_dir);
    line(1, "Debug Mode", &info.debug.to_string());
    line(1, "HTTP Proxy", &info.http_proxy);
    line(1, "HTTPS Proxy", &info.https_proxy);
    line(1, "No Proxy", &info.no_proxy);
    if !info.labels.is_empty() {
        line(1, "Labels", &info.labels.join(" "));
    }
    line(1, "Experimental", &info.experimental_build.to_string());
    if let Some(registries) = &info.registry_config {
        let insecure =
            registries.index_configs.values().filter(|index| !index.secure).map(|index| &index.name);
        let insecure: Vec<&String> = insecure.chain(&registries.insecure_registry_cidrs).collect();
        let mirrors: Vec<&String> = registries.mirrors.iter().flatten().collect();
        for (heading, entries) in [("Insecure Registries:", insecure), ("Registry Mirrors:", mirrors)] {
            if !entries.is_empty() {
                line(1, heading, HEADING);
            }
            entries.iter().for_each(|entry| line(2, &harmless(entry), HEADING));
        }
    }
    line(1, "Live Restore Enabled", &info.live_restore_enabled.to_string());
    out
}
