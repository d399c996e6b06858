//! `context`: daemons by name.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;

use crate::App;
use crate::config::{self, context_name, default_context, directory, host_variable};
use crate::contexts::{self, DEFAULT, Keys, Meta, Store, archive, check_name, docker_keys};
use crate::failure::{Failure, file_error};
use crate::format::json::indent;
use crate::format::table::{ellipsis, harmless};
use crate::format::template::{Fields, Format, text as value};
use crate::output;
use crate::spec::{Args, Arity, Command, Flag, pairs, switch, text};

/// What `create` and `update` say about the keys of `--docker`.
macro_rules! about {
    ($what:literal) => {
        concat!(
            $what,
            "\n\nDocker endpoint config:\n\n",
            "NAME                DESCRIPTION\n",
            "from                Copy named context's Docker endpoint configuration\n",
            "host                Docker endpoint on which to connect\n",
            "ca                  Trust certs signed only by this CA\n",
            "cert                Path to TLS certificate file\n",
            "key                 Path to TLS key file\n",
            "skip-tls-verify     Skip TLS certificate validation"
        )
    };
}

const DOCKER: Flag = pairs("docker", "set the docker endpoint");
const DESCRIPTION: Flag = text("description", "Description of the context");

pub(super) const CREATE: Command = Command {
    names: &["context create"],
    arguments: "CONTEXT",
    about: about!("Create a context"),
    flags: &[&[DESCRIPTION, DOCKER, text("from", "create context from a named context")]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &[
        "context create my-context --description \"some description\" --docker \"host=tcp://myserver:2376,ca=~/ca-file,cert=~/cert-file,key=~/key-file\"",
        "context create far --docker host=ssh://me@host",
    ],
    run: create,
};

pub(super) const UPDATE: Command = Command {
    names: &["context update"],
    arguments: "CONTEXT",
    about: about!("Update a context"),
    flags: &[&[DESCRIPTION, DOCKER]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["context update my-context --description \"some description\""],
    run: update,
};

pub(super) const LS: Command = Command {
    names: &["context ls", "context list"],
    arguments: "",
    about: "List contexts",
    flags: &[&[text("format", super::FORMAT_HELP), switch("quiet", "Only show context names").short('q')]],
    arity: Arity::None,
    trailing: false,
    examples: &["context ls --format '{{.Name}}: {{.DockerEndpoint}}'"],
    run: ls,
};

pub(super) const INSPECT: Command = Command {
    names: &["context inspect"],
    arguments: "[CONTEXT] [CONTEXT...]",
    about: "Display detailed information on one or more contexts",
    flags: &[&[text("format", "Print with a Go template, or 'json'").short('f')]],
    arity: Arity::Any,
    trailing: false,
    examples: &["context inspect -f '{{.Endpoints.docker.Host}}' my-context"],
    run: inspect,
};

pub(super) const USE: Command = Command {
    names: &["context use"],
    arguments: "CONTEXT",
    about: "Set the current docker context",
    flags: &[],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["context use my-context", "context use default"],
    run: use_context,
};

pub(super) const SHOW: Command = Command {
    names: &["context show"],
    arguments: "",
    about: "Print the name of the current context",
    flags: &[],
    arity: Arity::None,
    trailing: false,
    examples: &[],
    run: |app, _| output::line(&context_name(&app.global)?).map(|()| 0).map_err(Failure::from),
};

pub(super) const RM: Command = Command {
    names: &["context rm", "context remove"],
    arguments: "CONTEXT [CONTEXT...]",
    about: "Remove one or more contexts",
    flags: &[&[switch("force", "Force the removal of a context in use").short('f')]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &[],
    run: rm,
};

pub(super) const EXPORT: Command = Command {
    names: &["context export"],
    arguments: "CONTEXT [FILE|-]",
    about: "Export a context to a tar archive FILE or a tar stream on STDOUT.",
    flags: &[],
    arity: Arity::Between(1, 2),
    trailing: false,
    examples: &["context export my-context my-context.tar"],
    run: export,
};

pub(super) const IMPORT: Command = Command {
    names: &["context import"],
    arguments: "CONTEXT FILE|-",
    about: "Import a context from a tar or zip file",
    flags: &[],
    arity: Arity::Exactly(2),
    trailing: false,
    examples: &["context import my-context my-context.tar"],
    run: import,
};

fn store(app: &App) -> Store {
    Store::new(&directory(&app.global))
}

/// A context by name, the one that is no file included.
fn find(app: &App, name: &str) -> Result<(Meta, Keys), Failure> {
    if name == DEFAULT {
        return Ok((default_context(&app.program, &app.global), Keys::new()));
    }
    let store = store(app);
    Ok((store.get(name)?, store.keys(name)?))
}

/// The daemon that `--docker` describes.
fn endpoint(app: &App, name: &str, asked: &[String]) -> Result<(Meta, Keys), Failure> {
    let refuse = |why: String| Failure::plain(format!("unable to create docker endpoint config: {why}"));
    let mut options = BTreeMap::new();
    for (key, value) in asked.iter().filter_map(|pair| pair.split_once('=')) {
        if !["from", "host", "ca", "cert", "key", "skip-tls-verify"].contains(&key) {
            return Err(refuse(format!("unrecognized config key: {key}")));
        }
        options.insert(key, value);
    }
    if let Some(from) = options.get("from") {
        let (meta, keys) = find(app, from)?;
        return Ok((Meta { name: name.to_owned(), metadata: Default::default(), ..meta }, keys));
    }
    let insecure = match options.get("skip-tls-verify") {
        None => false,
        Some(&text) => crate::spec::boolean(text)
            .ok_or_else(|| refuse(format!("skip-tls-verify: parsing {text:?}: invalid syntax")))?,
    };
    let host = options.get("host").copied();
    if let Some(host) = host {
        config::parse_host(host, false)
            .map_err(|error| refuse(format!("unable to apply docker endpoint options: {error}")))?;
        if !host.contains("://") {
            let why =
                format!("unable to apply docker endpoint options: unable to parse docker host `{host}`");
            return Err(refuse(why));
        }
    }
    let mut keys = BTreeMap::new();
    for (option, file) in [("ca", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")] {
        if let Some(path) = options.get(option).filter(|path| !path.is_empty()) {
            let bytes = contexts::read_key(Path::new(path)).map_err(|failure| refuse(failure.message))?;
            keys.insert(file.to_owned(), bytes);
        }
    }
    Ok((Meta::of_host(name, host, insecure), docker_keys(keys)))
}

/// Says what became of a context: its name for programs, a sentence for people.
fn said(name: &str, what: &str) -> Result<u8, Failure> {
    output::line(name)?;
    output::complain(what);
    Ok(0)
}

fn create(app: &App, args: &Args) -> Result<u8, Failure> {
    let [name] = args.rest.as_slice() else { return Ok(1) };
    check_name(name)?;
    let store = store(app);
    if store.exists(name) {
        return Err(Failure::plain(format!("context {name:?} already exists")));
    }
    let (from, asked) = (args.text("from"), args.list("docker"));
    if !from.is_empty() && !asked.is_empty() {
        return Err(Failure::plain("cannot use --docker flag when --from is set"));
    }
    let (mut meta, keys) = if asked.is_empty() {
        let current = if from.is_empty() { context_name(&app.global)? } else { from.to_owned() };
        let (mut meta, keys) = find(app, &current)?;
        if current == DEFAULT {
            meta.describe(DEFAULT_DESCRIPTION);
        }
        name.clone_into(&mut meta.name);
        (meta, keys)
    } else {
        endpoint(app, name, asked)?
    };
    if args.given("description") {
        meta.describe(args.text("description"));
    }
    store.put(&meta, Some(&keys))?;
    said(name, &format!("Successfully created context {name:?}"))
}

fn update(app: &App, args: &Args) -> Result<u8, Failure> {
    let [name] = args.rest.as_slice() else { return Ok(1) };
    check_name(name)?;
    let store = store(app);
    let mut meta = store.get(name)?;
    if args.given("description") {
        meta.describe(args.text("description"));
    }
    let asked = args.list("docker");
    let keys = if asked.is_empty() {
        None
    } else {
        let (described, keys) = endpoint(app, name, asked)?;
        meta.set_endpoint(&described);
        Some(keys)
    };
    store.put(&meta, keys.as_ref())?;
    said(name, &format!("Successfully updated context {name:?}"))
}

const DEFAULT_DESCRIPTION: &str = "Current DOCKER_HOST based configuration";
const TABLE: &str =
    "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}";
const HEADINGS: [(&str, &str); 5] = [
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "DOCKER ENDPOINT"),
    ("Error", "ERROR"),
    ("Current", ""),
];
/// The width of the error column.
const ERROR_WIDTH: usize = 45;

fn ls(app: &App, args: &Args) -> Result<u8, Failure> {
    let current = context_name(&app.global)?;
    let mut list = store(app).list();
    let mut default = default_context(&app.program, &app.global);
    default.describe(DEFAULT_DESCRIPTION);
    list.push(default);
    let source = match args.text("format") {
        _ if args.on("quiet") => "{{.Name}}",
        "" | "table" => TABLE,
        other => other,
    };
    let row = |name: &str, description: &str, host: &str, error: &str| {
        let error = if source == TABLE { ellipsis(error, ERROR_WIDTH) } else { error.to_owned() };
        Fields::from([
            ("Name", value(harmless(name))),
            ("Description", value(harmless(description))),
            ("DockerEndpoint", value(harmless(host))),
            ("Error", value(harmless(&error))),
            ("Current", gotmpl::Value::Bool(name == current)),
        ])
    };
    let mut rows: BTreeMap<&str, Fields> = list
        .iter()
        .map(|meta| (meta.name.as_str(), row(&meta.name, meta.description(), meta.host(), "")))
        .collect();
    if !rows.contains_key(current.as_str())
        && let Err(failure) = find(app, &current)
    {
        rows.insert(&current, row(&current, "", "", &failure.message));
    }
    output::print(&Format::parse(source)?.rows(&HEADINGS, rows.into_values().collect())?)?;
    if app.global.context.is_empty() {
        warn_of_variable(app, "a context");
    }
    Ok(0)
}

/// A variable hides the context: who sets one in vain is told.
fn warn_of_variable(app: &App, what: &str) {
    if host_variable().is_some() && app.global.hosts.is_empty() {
        output::complain(&format!(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use {what}, either set the global --context flag, or unset DOCKER_HOST environment variable."
        ));
    }
}

fn use_context(app: &App, args: &Args) -> Result<u8, Failure> {
    let [name] = args.rest.as_slice() else { return Ok(1) };
    if name != DEFAULT {
        check_name(name)?;
        store(app).get(name)?;
    }
    config::set_current_context(&app.global, name)?;
    said(name, &format!("Current context is now {name:?}"))?;
    if name != DEFAULT {
        warn_of_variable(app, &format!("{name:?}"));
    }
    Ok(0)
}

fn rm(app: &App, args: &Args) -> Result<u8, Failure> {
    let current = context_name(&app.global)?;
    let store = store(app);
    let mut errors = Vec::new();
    for name in &args.rest {
        let result = if name == DEFAULT {
            Err("context \"default\" cannot be removed".to_owned())
        } else if !store.exists(name) && !args.on("force") {
            Err(format!("context {name:?} does not exist"))
        } else if *name == current && !args.on("force") {
            Err(format!("context {name:?} is in use, set -f flag to force remove"))
        } else {
            if *name == current {
                config::set_current_context(&app.global, DEFAULT)?;
            }
            store.remove(name).map_err(|failure| failure.message)
        };
        match result {
            Ok(()) => output::line(name)?,
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(0) } else { Err(Failure::plain(errors.join("\n"))) }
}

/// What inspection shows, in Docker's order.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    #[serde(flatten)]
    meta: Meta,
    #[serde(rename = "TLSMaterial")]
    keys: BTreeMap<String, Vec<String>>,
    storage: Places,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Places {
    metadata_path: String,
    #[serde(rename = "TLSPath")]
    tls_path: String,
}

fn inspect(app: &App, args: &Args) -> Result<u8, Failure> {
    let current = [context_name(&app.global)?];
    let names = if args.rest.is_empty() { &current } else { args.rest.as_slice() };
    let format = match args.text("format") {
        "" => None,
        source => Some(Format::parse(source).map_err(|failure| Failure::new(64, failure.message))?),
    };
    let store = store(app);
    let (mut objects, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        let shown = if name == DEFAULT {
            let memory = || "<IN MEMORY>".to_owned();
            let storage = Places { metadata_path: memory(), tls_path: memory() };
            Shown { meta: default_context(&app.program, &app.global), keys: BTreeMap::new(), storage }
        } else {
            match store.get(name) {
                Ok(meta) => {
                    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
                    let storage = Places {
                        metadata_path: path(store.meta_folder(name)),
                        tls_path: path(store.tls_folder(name)),
                    };
                    Shown { meta, keys: store.key_names(name), storage }
                }
                Err(failure) => {
                    errors.push(failure.message);
                    continue;
                }
            }
        };
        let text = serde_json::to_string(&shown).map_err(|error| Failure::plain(error.to_string()))?;
        objects.push(text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"));
    }
    match format {
        Some(_) if args.text("format") == "json" => output::line(&format!("[{}]", objects.join(",")))?,
        Some(format) => {
            let mut lines = Vec::new();
            for object in &objects {
                match format.object(object, &[]) {
                    Ok(text) => lines.push(text),
                    Err(failure) if failure.code == 64 => return Err(failure),
                    Err(failure) => errors.push(failure.message),
                }
            }
            output::line(&lines.join("\n"))?;
        }
        None if objects.is_empty() => output::line("[]")?,
        None => {
            let list: Vec<String> = objects.iter().map(|object| indent(object, "    ", 4)).collect();
            output::line(&format!("[\n    {}\n]", list.join(",\n    ")))?;
        }
    }
    if errors.is_empty() { Ok(0) } else { Err(Failure::plain(errors.join("\n"))) }
}

fn export(app: &App, args: &Args) -> Result<u8, Failure> {
    let [name, rest @ ..] = args.rest.as_slice() else { return Ok(1) };
    if name != DEFAULT {
        check_name(name)?;
    }
    let (meta, keys) = find(app, name)?;
    let bytes = archive::write(&meta, &keys)?;
    let target = rest.first().cloned().unwrap_or_else(|| format!("{name}.dockercontext"));
    if target == "-" {
        let mut out = std::io::stdout().lock();
        if out.is_terminal() {
            return Err(Failure::plain("cowardly refusing to export to a terminal, specify a file path"));
        }
        out.write_all(&bytes)?;
        out.flush()?;
        return Ok(0);
    }
    let failed = |error: std::io::Error| Failure::plain(file_error("open", &target, &error));
    let mut options = std::fs::OpenOptions::new();
    // Keys are in it.
    let mut file = options.write(true).create_new(true).mode(0o600).open(&target).map_err(failed)?;
    file.write_all(&bytes).map_err(failed)?;
    output::complain(&format!("Written file {target:?}"));
    Ok(0)
}

fn import(app: &App, args: &Args) -> Result<u8, Failure> {
    let [name, source] = args.rest.as_slice() else { return Ok(1) };
    check_name(name)?;
    let store = store(app);
    if store.exists(name) {
        return Err(Failure::plain(format!("context {name:?} already exists")));
    }
    let mut bytes = Vec::new();
    let bound = archive::MAX as u64 + 1;
    if source == "-" {
        std::io::stdin().lock().take(bound).read_to_end(&mut bytes)?;
    } else {
        let failed = |error: std::io::Error| Failure::plain(file_error("open", source, &error));
        let file = std::fs::File::open(source).map_err(failed)?;
        file.take(bound).read_to_end(&mut bytes).map_err(failed)?;
    }
    let (mut meta, keys) = archive::read(&bytes)?;
    name.clone_into(&mut meta.name);
    store.put(&meta, Some(&keys))?;
    said(name, &format!("Successfully imported context {name:?}"))
}
