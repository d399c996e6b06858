//! `inspect`, `container inspect`, `image inspect`, `network inspect`.

use havre_client::{Client, ClientError, Method, Query};
use serde_json::value::RawValue;

use super::platforms;
use crate::App;
use crate::failure::{Failure, describe};
use crate::format::json::indent;
use crate::format::template::{Absent, Format, Known};
use crate::output;
use crate::spec::{Args, Arity, Command, Flag, switch, text};

const FORMAT: Flag = text("format", "Print with a Go template, or 'json'").short('f');
const SIZE: Flag = switch("size", "Show the sizes of containers").short('s');

pub(super) const INSPECT: Command = Command {
    names: &["inspect"],
    arguments: "NAME|ID [NAME|ID...]",
    about: "Return low-level information on containers, images and networks",
    flags: &[&[FORMAT, SIZE, text("type", "Only this kind of object (container|image|network)")]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &["inspect web", "inspect -f '{{.State.Pid}}' web"],
    run: |app, args| inspect(app, args, None),
};

pub(super) const CONTAINER_INSPECT: Command = Command {
    names: &["container inspect"],
    arguments: "CONTAINER [CONTAINER...]",
    about: "Display detailed information on one or more containers",
    flags: &[&[FORMAT, SIZE]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &[],
    run: |app, args| inspect(app, args, Some("container")),
};

pub(super) const IMAGE_INSPECT: Command = Command {
    names: &["image inspect"],
    arguments: "IMAGE [IMAGE...]",
    about: "Display detailed information on one or more images",
    flags: &[&[FORMAT, text("platform", "Platform of the image (os/arch[/variant])")]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &[],
    run: |app, args| inspect(app, args, Some("image")),
};

pub(super) const NETWORK_INSPECT: Command = Command {
    names: &["network inspect"],
    arguments: "NETWORK [NETWORK...]",
    about: "Display detailed information on one or more networks",
    flags: &[&[FORMAT, switch("verbose", "More about networks of a swarm").short('v')]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &["network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' bridge"],
    run: |app, args| inspect(app, args, Some("network")),
};

/// What `--type` may say.
const TYPES: [&str; 10] =
    ["config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"];

/// The parts that both kinds of objects have.
const CONFIG: Known = (
    "Config",
    &[
        ("Healthcheck", Absent::Nil),
        ("StopSignal", Absent::Text),
        ("StopTimeout", Absent::Nil),
        ("ExposedPorts", Absent::Map),
        ("Shell", Absent::List),
        ("OnBuild", Absent::List),
        ("MacAddress", Absent::Text),
        ("ArgsEscaped", Absent::Nil),
        ("NetworkDisabled", Absent::Nil),
        ("Entrypoint", Absent::List),
        ("Cmd", Absent::List),
        ("Env", Absent::List),
        ("Labels", Absent::Map),
        ("Volumes", Absent::Map),
        ("User", Absent::Text),
        ("WorkingDir", Absent::Text),
    ],
);

/// The fields of containers that Docker leaves out when empty but knows, or knows by another name too.
const OF_CONTAINERS: &[Known] = &[
    (
        "",
        &[
            ("ID", Absent::Named("Id")),
            ("SizeRw", Absent::Nil),
            ("SizeRootFs", Absent::Nil),
            ("GraphDriver", Absent::Nil),
            ("ImageManifestDescriptor", Absent::Nil),
            ("ExecIDs", Absent::List),
        ],
    ),
    ("State", &[("Health", Absent::Nil)]),
    CONFIG,
    (
        "HostConfig",
        &[
            ("Init", Absent::Nil),
            ("Mounts", Absent::List),
            ("Tmpfs", Absent::Map),
            ("Sysctls", Absent::Map),
            ("StorageOpt", Absent::Map),
            ("Annotations", Absent::Map),
            ("Runtime", Absent::Text),
            ("Binds", Absent::List),
            ("CapAdd", Absent::List),
            ("CapDrop", Absent::List),
            ("ExtraHosts", Absent::List),
            ("GroupAdd", Absent::List),
            ("Links", Absent::List),
            ("SecurityOpt", Absent::List),
            ("VolumesFrom", Absent::List),
            ("Devices", Absent::List),
            ("DeviceRequests", Absent::List),
            ("DeviceCgroupRules", Absent::List),
            ("Ulimits", Absent::List),
            ("DNS", Absent::Named("Dns")),
            ("DNSOptions", Absent::Named("DnsOptions")),
            ("DNSSearch", Absent::Named("DnsSearch")),
            ("NanoCPUs", Absent::Named("NanoCpus")),
            ("CPUShares", Absent::Named("CpuShares")),
            ("CPUPeriod", Absent::Named("CpuPeriod")),
            ("CPUQuota", Absent::Named("CpuQuota")),
            ("CPURealtimePeriod", Absent::Named("CpuRealtimePeriod")),
            ("CPURealtimeRuntime", Absent::Named("CpuRealtimeRuntime")),
        ],
    ),
];

/// The same of images.
const OF_IMAGES: &[Known] = &[
    (
        "",
        &[
            ("ID", Absent::Named("Id")),
            ("Parent", Absent::Text),
            ("Comment", Absent::Text),
            ("Author", Absent::Text),
            ("Container", Absent::Text),
            ("DockerVersion", Absent::Text),
            ("Variant", Absent::Text),
            ("OsVersion", Absent::Text),
            ("VirtualSize", Absent::Zero),
            ("GraphDriver", Absent::Nil),
            ("Descriptor", Absent::Nil),
            ("Manifests", Absent::List),
        ],
    ),
    CONFIG,
];

/// The same of networks.
const OF_NETWORKS: &[Known] = &[(
    "",
    &[
        ("ID", Absent::Named("Id")),
        ("Peers", Absent::List),
        ("Services", Absent::Map),
        ("Options", Absent::Map),
        ("Labels", Absent::Map),
        ("Containers", Absent::Map),
        ("Status", Absent::Nil),
    ],
)];

async fn fetch(
    client: &Client,
    kind: &str,
    name: &str,
    args: &Args,
    platforms: &[String],
) -> Result<Box<RawValue>, ClientError> {
    let query = match kind {
        "image" => {
            let query = Query::of("/images/", name, "/json");
            platforms.iter().fold(query, |query, platform| query.with("platform", platform))
        }
        "network" => Query::of("/networks/", name, "")
            .with_some("verbose", if args.on("verbose") { "true" } else { "" }),
        "volume" => Query::of("/volumes/", name, ""),
        _ => Query::of("/containers/", name, "/json").flag("size", args.on("size")),
    };
    client.json(Method::GET, &query, None::<&()>).await
}

/// Looks for a container, then for an image, then for a network of that name.
async fn find(
    client: &Client,
    name: &str,
    args: &Args,
    kind: Option<&str>,
    platforms: &[String],
) -> Result<Box<RawValue>, Failure> {
    let kinds: &[&str] = match kind {
        Some("container") => &["container"],
        Some("image") => &["image"],
        Some("network") => &["network"],
        Some("volume") => &["volume"],
        Some(other) => {
            return Err(Failure::plain(format!("not yet supported: inspecting objects of type {other}")));
        }
        None => &["container", "image", "network"],
    };
    if name.trim().is_empty() {
        let kind = kind.unwrap_or("container");
        return Err(Failure::plain(format!("invalid {kind} name or ID: value is empty")));
    }
    for kind in kinds {
        match fetch(client, kind, name, args, platforms).await {
            Err(error) if error.status() == Some(404) && kinds.len() > 1 => {}
            Err(error) => return Err(Failure::plain(describe(&error))),
            Ok(object) => return Ok(object),
        }
    }
    let message = format!("Error: No such object: {name}");
    crate::failure::note_missing(&message);
    Err(Failure::plain(message))
}

fn inspect(app: &App, args: &Args, kind: Option<&str>) -> Result<u8, Failure> {
    let typed = args.text("type");
    let kind = kind.or((!typed.is_empty()).then_some(typed));
    if let Some(kind) = kind
        && !TYPES.contains(&kind)
    {
        let list = TYPES.map(|name| format!("\"{name}\"")).join(", ");
        return Err(Failure::plain(format!("unknown type: \"{kind}\": must be one of {list}")));
    }
    let format = match args.text("format") {
        "" => None,
        source => Some(Format::parse(source).map_err(|failure| Failure::new(64, failure.message))?),
    };
    let platforms = platforms(args)?;
    let (objects, mut errors) = app.block(async {
        let client = app.client().await?;
        let (mut objects, mut errors) = (Vec::new(), Vec::new());
        for name in &args.rest {
            match find(client, name, args, kind, &platforms).await {
                Ok(object) => objects.push(object),
                Err(failure) => errors.push(failure.message),
            }
        }
        Ok::<_, Failure>((objects, errors))
    })?;
    match format {
        Some(_) if args.text("format") == "json" => {
            let list: Vec<&str> = objects.iter().map(|object| object.get()).collect();
            output::line(&format!("[{}]", list.join(",")))?;
        }
        Some(format) => {
            let mut lines = Vec::new();
            for object in &objects {
                // Only containers have a state.
                let known = match object.get() {
                    text if text.contains("\"State\":{") => OF_CONTAINERS,
                    // Only networks.
                    text if text.contains("\"ConfigOnly\":") => OF_NETWORKS,
                    _ => OF_IMAGES,
                };
                match format.object(object.get(), known) {
                    Ok(text) => lines.push(text),
                    Err(failure) if failure.code == 64 => return Err(failure),
                    Err(failure) => errors.push(failure.message),
                }
            }
            output::line(&lines.join("\n"))?;
        }
        None => {
            let list = objects.iter().map(|object| indent(object.get(), "    ", 4)).collect::<Vec<_>>();
            let text =
                if list.is_empty() { "[]".to_owned() } else { format!("[\n    {}\n]", list.join(",\n    ")) };
            output::line(&text)?;
        }
    }
    if errors.is_empty() { Ok(0) } else { Err(Failure::plain(errors.join("\n"))) }
}
