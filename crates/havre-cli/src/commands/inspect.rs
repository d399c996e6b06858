//! `inspect`, `container inspect`, `image inspect`.

use havre_client::{Client, ClientError, Method, Query};
use serde_json::value::RawValue;

use super::platforms;
use crate::App;
use crate::failure::{Failure, describe};
use crate::format::json::indent;
use crate::format::template::Format;
use crate::output;
use crate::spec::{Args, Arity, Command, Flag, switch, text};

const FORMAT: Flag = text("format", "Print with a Go template, or 'json'").short('f');
const SIZE: Flag = switch("size", "Show the sizes of containers").short('s');

pub(super) const INSPECT: Command = Command {
    names: &["inspect"],
    arguments: "NAME|ID [NAME|ID...]",
    about: "Return low-level information on containers and images",
    flags: &[&[FORMAT, SIZE, text("type", "Only this kind of object (container|image)")]],
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

/// What `--type` may say.
const TYPES: [&str; 10] =
    ["config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"];

/// The fields that Docker leaves out when empty but knows: a template may ask for them.
const KNOWN: &[(&str, &[&str])] = &[
    ("", &["SizeRw", "SizeRootFs", "GraphDriver", "ImageManifestDescriptor"]),
    ("State", &["Health"]),
    (
        "Config",
        &[
            "Healthcheck",
            "StopSignal",
            "StopTimeout",
            "ExposedPorts",
            "Shell",
            "OnBuild",
            "MacAddress",
            "ArgsEscaped",
            "NetworkDisabled",
        ],
    ),
    ("HostConfig", &["Init", "Mounts", "Tmpfs", "Sysctls", "StorageOpt", "Annotations", "Runtime"]),
];

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
        _ => Query::of("/containers/", name, "/json").flag("size", args.on("size")),
    };
    client.json(Method::GET, &query, None::<&()>).await
}

/// Looks for a container, then for an image of that name.
async fn find(
    client: &Client,
    name: &str,
    args: &Args,
    kind: Option<&str>,
) -> Result<Box<RawValue>, Failure> {
    let kinds: &[&str] = match kind {
        Some("container") => &["container"],
        Some("image") => &["image"],
        Some(other) => {
            return Err(Failure::plain(format!("not yet supported: inspecting objects of type {other}")));
        }
        None => &["container", "image"],
    };
    let platforms = platforms(args)?;
    for kind in kinds {
        match fetch(client, kind, name, args, &platforms).await {
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
        source => Some(Format::parse(source).map_err(|failure| {
            Failure::new(64, failure.message.replace("failed to parse template", "template parsing error"))
        })?),
    };
    let (objects, errors) = app.block(async {
        let client = app.client().await?;
        let (mut objects, mut errors) = (Vec::new(), Vec::new());
        for name in &args.rest {
            match find(client, name, args, kind).await {
                Ok(object) => objects.push(object),
                Err(failure) => errors.push(failure.message),
            }
        }
        Ok::<_, Failure>((objects, errors))
    })?;
    match format {
        Some(format) => {
            for object in &objects {
                let text = if args.text("format") == "json" {
                    object.get().to_owned()
                } else {
                    format.object(object.get(), KNOWN).map_err(|failure| {
                        Failure::plain(
                            failure.message.replace("failed to execute template", "template parsing error"),
                        )
                    })?
                };
                output::line(&text)?;
            }
            if objects.is_empty() {
                output::line("")?;
            }
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
