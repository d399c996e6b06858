//! `cp`: files between the machine and a container.
//!
//! Invariant: whatever the daemon sends, nothing is made or changed but what was asked for, below the
//! destination.

mod paths;
mod receive;
mod send;

pub(super) use receive::check_output;

use std::io::IsTerminal as _;

use havre_api::PathStat;
use havre_client::{Client, ClientError};

use crate::App;
use crate::failure::Failure;
use crate::format::table::harmless;
use crate::format::units::human_size;
use crate::output;
use crate::spec::{Args, Arity, Command, switch};
use paths::{Place, join, split_entry};

pub(super) const CP: Command = Command {
    names: &["container cp", "cp"],
    arguments: "CONTAINER:SRC_PATH DEST_PATH|-\n\tdocker cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    about: "Copy files/folders between a container and the local filesystem",
    flags: &[&[
        switch("archive", "Archive mode (copy all uid/gid information)").short('a'),
        switch("follow-link", "Always follow symbol link in SRC_PATH").short('L'),
        switch("quiet", "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached").short('q'),
    ]],
    arity: Arity::Exactly(2),
    trailing: false,
    examples: &["cp web:/var/log/messages .", "cp ./conf web:/etc/conf", "cp web:/data - | tar t"],
    run: cp,
};

/// Go's bit of a symbolic link.
const LINK: u32 = 1 << 27;
/// Go's bits of devices and of what is no file at all.
const DEVICE: u32 = 1 << 26;
const IRREGULAR: u32 = 1 << 19;
const FOLDER: u32 = 1 << 31;

/// What both directions need.
struct Copy<'a> {
    client: &'a Client,
    container: &'a str,
    archive: bool,
    follow: bool,
    quiet: bool,
}

fn cp(app: &App, args: &Args) -> Result<u8, Failure> {
    let (source, target) = match args.rest.as_slice() {
        [source, _] if source.is_empty() => return Err(Failure::plain("source can not be empty")),
        [_, target] if target.is_empty() => return Err(Failure::plain("destination can not be empty")),
        [source, target] => (Place::parse(source), Place::parse(target)),
        _ => return Err(Failure::plain("cp needs a source and a destination")),
    };
    let quiet = if args.given("quiet") { args.on("quiet") } else { !std::io::stdout().is_terminal() };
    app.block(async {
        let client = app.client().await?;
        let copy = |container| Copy {
            client,
            container,
            archive: args.on("archive"),
            follow: args.on("follow-link"),
            quiet,
        };
        match (&source, &target) {
            (Place::Inside(container, from), Place::Local(to)) => copy(container).receive(from, to).await,
            (Place::Local(from), Place::Inside(container, to)) => copy(container).send(from, to).await,
            (Place::Inside(..), Place::Inside(..)) => {
                Err(Failure::plain("copying between containers is not supported"))
            }
            (Place::Local(_), Place::Local(_)) => {
                Err(Failure::plain("must specify at least one container source"))
            }
        }
    })?;
    Ok(0)
}

impl Copy<'_> {
    /// Where the link at `path` leads, if it is one.
    fn target(path: &str, stat: &PathStat) -> Option<String> {
        let link = (stat.mode & LINK != 0).then_some(stat.link_target.as_str())?;
        Some(if link.starts_with('/') { link.to_owned() } else { join(&split_entry(path).0, link) })
    }

    async fn stat(&self, path: &str) -> Result<PathStat, ClientError> {
        self.client.stat_path(self.container, path).await
    }

    fn done(&self, bytes: u64, target: &str) {
        if !self.quiet {
            let size = human_size(i64::try_from(bytes).unwrap_or(i64::MAX));
            output::complain(&format!("Successfully copied {size} to {}", harmless(target)));
        }
    }
}
