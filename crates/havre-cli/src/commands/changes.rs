//! `diff`, `export`, `commit`: what a container changed, its files, and an image of them.

use std::fs::File;
use std::io::{IsTerminal as _, Write};

use havre_client::CommitOptions;
use havre_oci::Reference;

use crate::App;
use crate::failure::{Failure, file_error};
use crate::format::table::harmless;
use crate::output;
use crate::spec::{Args, Arity, Command, list, switch, text};

pub(super) const DIFF: Command = Command {
    names: &["container diff", "diff"],
    arguments: "CONTAINER",
    about: "Inspect changes to files or directories on a container's filesystem",
    flags: &[],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["diff web"],
    run: diff,
};

pub(super) const EXPORT: Command = Command {
    names: &["container export", "export"],
    arguments: "CONTAINER",
    about: "Export a container's filesystem as a tar archive",
    flags: &[&[text("output", "Write to a file, instead of STDOUT").short('o')]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["export -o web.tar web"],
    run: export,
};

pub(super) const COMMIT: Command = Command {
    names: &["container commit", "commit"],
    arguments: "CONTAINER [REPOSITORY[:TAG]]",
    about: "Create a new image from a container's changes",
    flags: &[&[
        text("author", "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")").short('a'),
        list("change", "Apply Dockerfile instruction to the created image").short('c'),
        text("message", "Commit message").short('m'),
        switch("no-pause", "Disable pausing container during commit"),
        switch("pause", "Pause container during commit").short('p').hidden(),
    ]],
    arity: Arity::Between(1, 2),
    trailing: false,
    examples: &["commit web shop:patched", "commit -c 'CMD [\"serve\"]' -m 'fix' web shop"],
    run: commit,
};

fn container(args: &Args) -> &str {
    args.rest.first().map_or("", String::as_str)
}

fn diff(app: &App, args: &Args) -> Result<u8, Failure> {
    let changes = app.block(async {
        let client = app.client().await?;
        Ok::<_, Failure>(client.changes(container(args)).await?)
    })?;
    let mut text = String::new();
    for change in changes {
        let letter = match change.kind {
            0 => 'C',
            1 => 'A',
            2 => 'D',
            other => {
                return Err(Failure::plain(format!("the daemon told an unknown kind of change: {other}")));
            }
        };
        text.push(letter);
        text.push(' ');
        text.push_str(&harmless(&change.path));
        text.push('\n');
    }
    output::print(&text)?;
    Ok(0)
}

fn export(app: &App, args: &Args) -> Result<u8, Failure> {
    let path = args.text("output");
    if path.is_empty() && std::io::stdout().is_terminal() {
        return Err(Failure::plain("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    if !path.is_empty() {
        check_output(path).map_err(|failure| Failure {
            message: format!("failed to export container: {}", failure.message),
            ..failure
        })?;
    }
    app.block(async {
        let client = app.client().await?;
        let mut answer = client.export(container(args)).await?;
        // Beside the target first, so that a failed export leaves nothing that looks whole.
        let partial = format!("{path}.partial-{}", std::process::id());
        let failed = |error: &std::io::Error| Failure::plain(file_error("open", path, error));
        let mut out: Box<dyn Write> = if path.is_empty() {
            Box::new(std::io::stdout())
        } else {
            Box::new(File::create(&partial).map_err(|error| failed(&error))?)
        };
        let copied = async {
            while let Some(piece) = answer.chunk().await? {
                out.write_all(&piece)?;
            }
            out.flush()?;
            Ok::<(), Failure>(())
        }
        .await;
        if path.is_empty() {
            return copied;
        }
        let done =
            copied.and_then(|()| rustix::fs::rename(&partial, path).map_err(|error| failed(&error.into())));
        if done.is_err() {
            std::fs::remove_file(&partial).ok();
        }
        done
    })?;
    Ok(0)
}

/// Checks that an archive can be written to a path.
pub(super) fn check_output(path: &str) -> Result<(), Failure> {
    let shown = std::path::Path::new(path);
    if shown.is_dir() {
        return Err(Failure::plain("cannot write to a directory"));
    }
    let folder = match shown.parent() {
        Some(folder) if folder.as_os_str().is_empty() => return super::cp::check_output(path),
        Some(folder) => folder,
        None => return Ok(()),
    };
    if let Err(error) = std::fs::metadata(folder) {
        let reason = file_error("stat", &folder.to_string_lossy(), &error);
        return Err(Failure::plain(format!("invalid output path: {reason}")));
    }
    super::cp::check_output(path)
}

fn commit(app: &App, args: &Args) -> Result<u8, Failure> {
    if args.given("pause") && args.given("no-pause") {
        return Err(Failure::plain("conflicting options: --no-pause and --pause cannot be used together"));
    }
    let name = args.rest.get(1).map_or("", String::as_str);
    if !name.is_empty() {
        Reference::parse(name).map_err(|error| Failure::plain(error.to_string()))?;
    }
    // A colon behind the last slash begins the tag; one before belongs to a port.
    let at = name.rfind(':').filter(|at| !name[*at..].contains('/'));
    let (repository, tag) = at.map_or((name, ""), |at| (&name[..at], &name[at + 1..]));
    let options = CommitOptions {
        repository: repository.into(),
        tag: tag.into(),
        author: args.text("author").into(),
        comment: args.text("message").into(),
        changes: args.list("change").to_vec(),
        pause: !args.on("no-pause") && args.on_by_default("pause"),
    };
    let id = app.block(async {
        let client = app.client().await?;
        Ok::<_, Failure>(client.commit(container(args), &options).await?)
    })?;
    output::line(&harmless(&id))?;
    Ok(0)
}
