//! `pull`, `push`, `login`, `logout`, `search`: everything that goes to a registry.

use std::io::{BufRead as _, IsTerminal as _, Read as _};

use havre_api::registry::{AuthConfig, SearchResult};
use havre_client::Client;
use havre_oci::Reference;

use crate::App;
use crate::credentials::{self, HUB};
use crate::failure::Failure;
use crate::format::table::harmless;
use crate::format::template::{Fields, Format, text as value};
use crate::spec::{Args, Arity, Command, filter, int, switch, text};
use crate::{output, progress, terminal};

pub(super) const PULL: Command = Command {
    names: &["image pull", "pull"],
    arguments: "NAME[:TAG|@DIGEST]",
    about: "Download an image from a registry",
    flags: &[&[
        switch("all-tags", "Download all tagged images in the repository").short('a'),
        switch("disable-content-trust", "Skip image verification (default true)"),
        text("platform", "Set platform if server is multi-platform capable"),
        switch("quiet", "Suppress verbose output").short('q'),
    ]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["pull debian:12", "pull --platform linux/arm64 registry.example.org/shop/web"],
    run: pull,
};

pub(super) const PUSH: Command = Command {
    names: &["image push", "push"],
    arguments: "NAME[:TAG]",
    about: "Upload an image to a registry",
    flags: &[&[
        switch("all-tags", "Push all tags of an image to the repository").short('a'),
        switch("disable-content-trust", "Skip image signing (default true)"),
        text(
            "platform",
            "Push a platform-specific manifest as a single-platform image (os[/arch[/variant]])",
        ),
        switch("quiet", "Suppress verbose output").short('q'),
    ]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["push registry.example.org/shop/web:1.2"],
    run: push,
};

pub(super) const LOGIN: Command = Command {
    names: &["login"],
    arguments: "[SERVER]",
    about: "Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
    flags: &[&[
        text("password", "Password or Personal Access Token (PAT)").short('p'),
        switch("password-stdin", "Take the Password or Personal Access Token (PAT) from stdin"),
        text("username", "Username").short('u'),
    ]],
    arity: Arity::AtMost(1),
    trailing: false,
    examples: &["login -u anna --password-stdin registry.example.org < token"],
    run: login,
};

pub(super) const LOGOUT: Command = Command {
    names: &["logout"],
    arguments: "[SERVER]",
    about: "Log out from a registry.\nIf no server is specified, the default is defined by the daemon.",
    flags: &[],
    arity: Arity::AtMost(1),
    trailing: false,
    examples: &["logout registry.example.org"],
    run: logout,
};

pub(super) const SEARCH: Command = Command {
    names: &["search"],
    arguments: "TERM",
    about: "Search Docker Hub for images",
    flags: &[&[
        filter("Filter output based on conditions provided").short('f'),
        text("format", "Pretty-print search using a Go template"),
        int("limit", "Max number of search results"),
        switch("no-trunc", "Don't truncate output"),
    ]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["search --filter is-official=true --limit 5 postgres"],
    run: search,
};

/// The name as given, and whether it names neither a tag nor a digest.
fn named(args: &Args) -> Result<(Reference, bool), Failure> {
    // Nobody verifies, so only its denial asks for something.
    if args.given("disable-content-trust") && !args.on("disable-content-trust") {
        return Err(Failure::plain("not yet supported: --disable-content-trust=false"));
    }
    let given = args.rest.first().map_or("", String::as_str);
    let reference = Reference::parse(given).map_err(|error| Failure::plain(error.to_string()))?;
    let bare = Reference::is_repository(given);
    if args.on("all-tags") {
        if !bare {
            return Err(Failure::plain("tag can't be used with --all-tags/-a"));
        }
    } else if bare && !args.on("quiet") {
        output::line("Using default tag: latest")?;
    }
    Ok((reference, bare))
}

/// The tag or digest as the API takes it; nothing for all tags.
fn tag_of(reference: &Reference, all: bool) -> String {
    let digest = reference.digest().map(ToString::to_string);
    if all {
        String::new()
    } else {
        digest.or_else(|| reference.tag().map(str::to_owned)).unwrap_or_default()
    }
}

/// Pulls an image on the way to something else: what happens goes to standard error.
pub(super) async fn pull_missing(
    app: &App,
    client: &Client,
    reference: &Reference,
    platform: &str,
    quiet: bool,
) -> Result<(), Failure> {
    let auth = credentials::get(app, &credentials::key_of(reference))?;
    let stream = client.pull(&reference.name(), &tag_of(reference, false), platform, &auth).await?;
    if quiet { progress::wait(stream).await } else { progress::follow_aside(stream).await }
}

fn pull(app: &App, args: &Args) -> Result<u8, Failure> {
    let (reference, _) = named(args)?;
    let all = args.on("all-tags");
    let mut platform = args.text("platform").to_owned();
    if platform.is_empty() {
        platform = std::env::var("DOCKER_DEFAULT_PLATFORM").unwrap_or_default();
    }
    app.block(async {
        let client = app.client().await?;
        let auth = credentials::get(app, &credentials::key_of(&reference))?;
        let stream = client.pull(&reference.name(), &tag_of(&reference, all), &platform, &auth).await?;
        if args.on("quiet") { progress::wait(stream).await } else { progress::follow(stream, |_| ()).await }
    })?;
    let name = if all { reference.name() } else { reference.to_string() };
    output::line(&name)?;
    Ok(0)
}

fn push(app: &App, args: &Args) -> Result<u8, Failure> {
    let (reference, _) = named(args)?;
    if reference.digest().is_some() {
        return Err(Failure::plain("cannot push a digest reference"));
    }
    let all = args.on("all-tags");
    let platform = super::platforms(args)?.pop().unwrap_or_default();
    if !platform.is_empty() && !args.on("quiet") {
        // Docker's words; its client has them on standard output, where scripts look for the digest.
        output::complain(
            "Using --platform pushes only the specified platform manifest of a multi-platform image index.\nOther components, like attestations, will not be included.\nTo push the complete multi-platform image, remove the --platform flag.",
        );
    }
    app.block(async {
        let client = app.client().await?;
        let auth = credentials::get(app, &credentials::key_of(&reference))?;
        let stream = client.push(&reference.name(), &tag_of(&reference, all), &platform, &auth).await?;
        if args.on("quiet") { progress::wait(stream).await } else { progress::follow(stream, |_| ()).await }
    })?;
    if args.on("quiet") {
        output::line(&if all { reference.name() } else { reference.to_string() })?;
    }
    Ok(0)
}

fn server_of(args: &Args) -> &str {
    args.rest.first().map_or("", String::as_str)
}

fn login(app: &App, args: &Args) -> Result<u8, Failure> {
    let from_input = args.on("password-stdin");
    let (mut user, mut password) = (args.text("username").to_owned(), args.text("password").to_owned());
    if !password.is_empty() {
        output::complain("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if from_input {
            return Err(Failure::plain("--password and --password-stdin are mutually exclusive"));
        }
    }
    if from_input {
        if user.is_empty() {
            return Err(Failure::plain("Must provide --username with --password-stdin"));
        }
        let mut text = String::new();
        // Longer ones exist nowhere.
        std::io::stdin().take(1 << 20).read_to_string(&mut text)?;
        password = text.trim_end_matches('\n').trim_end_matches('\r').to_owned();
    }
    let key = credentials::key_of_server(server_of(args));
    app.block(async {
        let client = app.client().await?;
        let mut auth = AuthConfig { serveraddress: key.clone(), ..AuthConfig::default() };
        if user.is_empty() && password.is_empty() {
            let kept = credentials::get(app, &key)?;
            if !kept.username.is_empty() || !kept.identitytoken.is_empty() {
                let name = if kept.username.is_empty() { "<token>" } else { &kept.username };
                output::line(&format!(
                    "Authenticating with existing credentials... [Username: {}]",
                    harmless(name)
                ))?;
                match client.login(&kept).await {
                    Ok(answer) => return finish(app, &key, kept, &answer.identity_token, &answer.status),
                    Err(error) => output::complain(&format!(
                        "Login did not succeed, error: {}",
                        crate::failure::describe(&error)
                    )),
                }
            }
        }
        (user, password) = ask(&key, user.clone(), password.clone())?;
        auth.username.clone_from(&user);
        auth.password.clone_from(&password);
        let answer = client.login(&auth).await?;
        finish(app, &key, auth.clone(), &answer.identity_token, &answer.status)
    })
}

/// Keeps what the registry took.
fn finish(app: &App, key: &str, mut auth: AuthConfig, token: &str, status: &str) -> Result<u8, Failure> {
    if !token.is_empty() {
        auth.password.clear();
        token.clone_into(&mut auth.identitytoken);
    }
    credentials::store(app, key, &auth)?;
    output::line(&harmless(status))?;
    Ok(0)
}

/// Asks for what is missing, on a terminal.
fn ask(key: &str, mut user: String, mut password: String) -> Result<(String, String), Failure> {
    if !user.is_empty() && !password.is_empty() {
        return Ok((user, password));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::plain("cannot perform an interactive login from a non TTY device"));
    }
    let read = || -> Result<String, Failure> {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(line.trim().to_owned())
    };
    if user.is_empty() {
        if key == HUB {
            output::line(
                "Log in with your Docker ID or email address to push and pull images from Docker Hub.",
            )?;
        }
        output::print("Username: ")?;
        user = read()?;
        if user.is_empty() {
            return Err(Failure::plain("username is required"));
        }
    }
    if password.is_empty() {
        output::print("Password: ")?;
        let hidden = terminal::Hidden::enter();
        password = read()?;
        drop(hidden);
        output::line("")?;
        if password.is_empty() {
            return Err(Failure::plain("password is required"));
        }
    }
    Ok((user, password))
}

fn logout(app: &App, args: &Args) -> Result<u8, Failure> {
    let key = credentials::key_of_server(server_of(args));
    let shown = harmless(&key);
    output::line(&format!("Removing login credentials for {shown}"))?;
    if !credentials::erase(app, &key)? {
        output::complain(&format!("WARNING: could not erase credentials: not logged in to {shown}"));
    }
    Ok(0)
}

/// Columns of a search.
const HEADINGS: [(&str, &str); 5] = [
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];

fn search(app: &App, args: &Args) -> Result<u8, Failure> {
    let source = match args.text("format") {
        "" | "table" => "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
        other => other,
    };
    let format = Format::parse(source)?;
    let term = args.rest.first().map_or("", String::as_str);
    let domain = match term.split_once('/') {
        Some((head, _)) if head.contains(['.', ':']) || head == "localhost" => head,
        _ => HUB,
    };
    let found = app.block(async {
        let auth = credentials::get(app, domain)?;
        let client = app.client().await?;
        Ok::<_, Failure>(client.search(term, args.text("limit"), &args.filters(), &auth).await?)
    })?;
    let mark = |yes: bool| if yes { "[OK]" } else { "" }.to_owned();
    // In the registry's order: the best match first.
    let rows = found.iter().map(|one: &SearchResult| {
        let mut description = harmless(&one.description.replace(['\n', '\r'], " "));
        if !args.on("no-trunc") && description.chars().count() > 45 {
            description = description.chars().take(44).collect::<String>() + "…";
        }
        Fields::from([
            ("Name", value(harmless(&one.name))),
            ("Description", value(description)),
            ("StarCount", value(one.star_count.to_string())),
            ("IsOfficial", value(mark(one.is_official))),
            ("IsAutomated", value(mark(one.is_automated))),
        ])
    });
    output::print(&format.rows(&HEADINGS, rows.collect())?)?;
    Ok(0)
}
