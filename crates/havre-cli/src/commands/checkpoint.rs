//! `checkpoint`: what the daemon says of it is passed on.

use havre_api::container::CheckpointRequest;

use crate::App;
use crate::failure::Failure;
use crate::format::table::harmless;
use crate::output;
use crate::spec::{Args, Arity, Command, Flag, switch, text};

const DIR: Flag = text("checkpoint-dir", "Folder of the checkpoints");

pub(super) const CREATE: Command = Command {
    names: &["checkpoint create"],
    arguments: "CONTAINER CHECKPOINT",
    about: "Create a checkpoint from a running container",
    flags: &[&[DIR, switch("leave-running", "Let the container run on")]],
    arity: Arity::Exactly(2),
    trailing: false,
    examples: &[],
    run: create,
};

pub(super) const LS: Command = Command {
    names: &["checkpoint ls", "checkpoint list"],
    arguments: "CONTAINER",
    about: "List checkpoints for a container",
    flags: &[&[DIR]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &[],
    run: ls,
};

pub(super) const RM: Command = Command {
    names: &["checkpoint rm", "checkpoint remove"],
    arguments: "CONTAINER CHECKPOINT",
    about: "Remove a checkpoint",
    flags: &[&[DIR]],
    arity: Arity::Exactly(2),
    trailing: false,
    examples: &[],
    run: rm,
};

fn create(app: &App, args: &Args) -> Result<u8, Failure> {
    let [container, name] = args.rest.as_slice() else { return Err(Failure::quiet(1)) };
    let request = CheckpointRequest {
        checkpoint_id: name.clone(),
        checkpoint_dir: args.text("checkpoint-dir").into(),
        exit: !args.on("leave-running"),
    };
    app.block(async { Ok::<_, Failure>(app.client().await?.create_checkpoint(container, &request).await?) })?;
    output::line(name)?;
    Ok(0)
}

fn ls(app: &App, args: &Args) -> Result<u8, Failure> {
    let [container] = args.rest.as_slice() else { return Err(Failure::quiet(1)) };
    let list = app.block(async {
        Ok::<_, Failure>(app.client().await?.checkpoints(container, args.text("checkpoint-dir")).await?)
    })?;
    output::line("CHECKPOINT NAME")?;
    for checkpoint in list {
        output::line(&harmless(&checkpoint.name))?;
    }
    Ok(0)
}

fn rm(app: &App, args: &Args) -> Result<u8, Failure> {
    let [container, name] = args.rest.as_slice() else { return Err(Failure::quiet(1)) };
    app.block(async {
        let client = app.client().await?;
        client.remove_checkpoint(container, name, args.text("checkpoint-dir")).await.map_err(Failure::from)
    })?;
    Ok(0)
}
