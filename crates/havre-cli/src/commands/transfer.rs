//! `load`, `import`, `save`: images in and out as archives.

use std::fs::File;
use std::io::{IsTerminal, Write};

use havre_client::Query;
use havre_oci::Reference;

use super::changes::check_output;
use super::platforms;
use crate::App;
use crate::failure::{Failure, file_error};
use crate::files;
use crate::progress;
use crate::spec::{Args, Arity, Command, list, switch, text, words};

pub(super) const LOAD: Command = Command {
    names: &["image load", "load"],
    arguments: "",
    about: "Load an image from a tar archive or STDIN",
    flags: &[&[
        text("input", "Read from this file instead of STDIN").short('i'),
        words("platform", "string", "Only this platform (os/arch[/variant])"),
        switch("quiet", "Do not print progress").short('q'),
    ]],
    arity: Arity::None,
    trailing: false,
    examples: &["load -i busybox.tar", "load < busybox.tar.gz"],
    run: load,
};

pub(super) const IMPORT: Command = Command {
    names: &["image import", "import"],
    arguments: "file|URL|- [REPOSITORY[:TAG]]",
    about: "Import the contents from a tarball to create a filesystem image",
    flags: &[&[
        list("change", "Apply a Dockerfile instruction to the image").short('c'),
        text("message", "Message for the image's history").short('m'),
        text("platform", "Platform of the image"),
    ]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &["import rootfs.tar.gz base:1", "import -c 'CMD [\"sh\"]' - base:1 < rootfs.tar"],
    run: import,
};

pub(super) const SAVE: Command = Command {
    names: &["image save", "save"],
    arguments: "IMAGE [IMAGE...]",
    about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
    flags: &[&[
        text("output", "Write to this file instead of STDOUT").short('o'),
        words("platform", "string", "Only this platform (os/arch[/variant])"),
    ]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &["save -o busybox.tar busybox"],
    run: save,
};

fn open(path: &str) -> Result<File, Failure> {
    let file = File::open(path).map_err(|error| Failure::plain(file_error("open", path, &error)))?;
    if file.metadata()?.is_dir() {
        return Err(Failure::plain(format!("read {path}: is a directory")));
    }
    Ok(file)
}

fn load(app: &App, args: &Args) -> Result<u8, Failure> {
    let source = match args.text("input") {
        "" | "-" if std::io::stdin().is_terminal() => {
            return Err(Failure::plain("requested load from stdin, but stdin is empty"));
        }
        "" | "-" => None,
        path => Some(open(path)?),
    };
    let platforms = platforms(args)?;
    app.block(async {
        let client = app.client().await?;
        let quiet = args.on("quiet") || !std::io::stdout().is_terminal();
        let stream = client.load(quiet, &platforms, files::upload(source)?).await?;
        progress::follow(stream, |_| ()).await
    })?;
    Ok(0)
}

fn import(app: &App, args: &Args) -> Result<u8, Failure> {
    let source = args.rest.first().map_or("-", String::as_str);
    let (file, from) = match source {
        "-" => (None, "-"),
        url if url.starts_with("http://") || url.starts_with("https://") => (Some(open("/dev/null")?), url),
        path => (Some(open(path)?), "-"),
    };
    if let Some(name) = args.rest.get(1) {
        Reference::parse(name).map_err(|error| Failure::plain(error.to_string()))?;
    }
    let mut query = Query::new("/images/create").with("fromSrc", from);
    query = query
        .with_some("repo", args.rest.get(1).map_or("", String::as_str))
        .with_some("message", args.text("message"))
        .with_some("platform", args.text("platform"));
    for change in args.list("change") {
        query = query.with("changes", change);
    }
    app.block(async {
        let client = app.client().await?;
        let stream = client.import(&query, files::upload(file)?).await?;
        progress::follow(stream, |_| ()).await
    })?;
    Ok(0)
}

fn save(app: &App, args: &Args) -> Result<u8, Failure> {
    let platforms = platforms(args)?;
    let path = args.text("output");
    if path.is_empty() && std::io::stdout().is_terminal() {
        return Err(Failure::plain("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    if !path.is_empty() {
        check_output(path).map_err(|failure| Failure {
            message: format!("failed to save image: {}", failure.message),
            ..failure
        })?;
    }
    app.block(async {
        let client = app.client().await?;
        let mut answer = client.save(&args.rest, &platforms).await?;
        // Beside the target first, so that a failed save leaves nothing that looks whole.
        let partial = format!("{path}.partial-{}", std::process::id());
        let mut out: Box<dyn Write> = if path.is_empty() {
            Box::new(std::io::stdout())
        } else {
            Box::new(
                File::create(&partial).map_err(|error| Failure::plain(file_error("open", path, &error)))?,
            )
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
        let done = copied.and_then(|()| {
            rustix::fs::rename(&partial, path)
                .map_err(|error| Failure::plain(file_error("open", path, &error.into())))
        });
        if done.is_err() {
            std::fs::remove_file(&partial).ok();
        }
        done
    })?;
    Ok(0)
}
