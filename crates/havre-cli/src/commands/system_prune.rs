//! `system prune`: everything that nothing uses, kind after kind.

use havre_api::Filters;
use havre_base::{Classify as _, ErrorKind};
use havre_client::{Client, ClientError};
use serde_json::Value;

use super::lifecycle::confirmed;
use crate::App;
use crate::failure::{Failure, describe};
use crate::format::table::harmless;
use crate::format::units::human_size4;
use crate::output;
use crate::spec::{Args, Arity, Command, filter, switch};

pub(super) const SYSTEM_PRUNE: Command = Command {
    names: &["system prune"],
    arguments: "",
    about: "Remove unused data",
    flags: &[&[
        switch("all", "Remove all unused images, not only dangling ones").short('a'),
        filter("Only what matches (until=24h, label=name, label!=name)"),
        switch("force", "Do not ask").short('f'),
        switch("volumes", "Remove anonymous volumes too"),
    ]],
    arity: Arity::None,
    trailing: false,
    examples: &["system prune", "system prune -af --filter until=24h"],
    run: prune,
};

/// What will go, in Docker's words.
fn warning(all: bool, volumes: bool, filters: &[String]) -> String {
    let mut text = String::from("This will remove:\n");
    let mut item = |line: &str| {
        text.push_str("  - ");
        text.push_str(line);
        text.push('\n');
    };
    item("all stopped containers");
    item("all networks not used by at least one container");
    if volumes {
        item("all anonymous volumes not used by at least one container");
    }
    if all {
        item("all images without at least one container associated to them");
        item("all build cache");
    } else {
        item("all dangling images");
        item("unused build cache");
    }
    if !filters.is_empty() {
        text.push_str("\n  Items to be pruned will be filtered with:\n");
        let mut sorted: Vec<&String> = filters.iter().collect();
        sorted.sort();
        for filter in sorted {
            text.push_str("  - ");
            text.push_str(&harmless(filter));
            text.push('\n');
        }
    }
    text
}

/// What was removed so far.
#[derive(Default)]
struct Done {
    bytes: u64,
    failed: bool,
}

impl Done {
    /// Takes the answer for one kind. A kind that the engine does not have yet has nothing to remove, and
    /// saying so is all; any other failure ends the command.
    fn take(&mut self, what: &str, answer: Result<Value, ClientError>, list: &str) -> Result<(), Failure> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.kind() == ErrorKind::NotImplemented => {
                output::complain(&format!("{what} were not pruned: {}", describe(&error)));
                self.failed = true;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.bytes += answer.get("SpaceReclaimed").and_then(Value::as_u64).unwrap_or(0);
        let lines: Vec<String> =
            answer.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(line).collect();
        if !lines.is_empty() {
            output::print(&format!("Deleted {what}:\n{}\n\n", lines.join("\n")))?;
        }
        Ok(())
    }
}

/// A name, or what happened to an image.
fn line(entry: &Value) -> Option<String> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (entry.as_str(), text("Untagged"), text("Deleted")) {
        (Some(name), _, _) => Some(harmless(name)),
        (_, Some(name), _) => Some(format!("untagged: {}", harmless(name))),
        (_, _, Some(name)) => Some(format!("deleted: {}", harmless(name))),
        _ => None,
    }
}

fn without(filters: &[String], leave_out: &[&str]) -> Filters {
    let mut kept = Filters::default();
    for (name, value) in filters.iter().filter_map(|text| text.split_once('=')) {
        if !leave_out.contains(&name) {
            kept.add(name, value);
        }
    }
    kept
}

fn prune(app: &App, args: &Args) -> Result<u8, Failure> {
    let (all, volumes, filters) = (args.on("all"), args.on("volumes"), args.list("filter"));
    if volumes && args.filters().has("until") {
        return Err(Failure::plain("ERROR: The \"until\" filter is not supported with \"--volumes\""));
    }
    if !confirmed(args, &warning(all, volumes, filters))? {
        return Ok(0);
    }
    app.block(async {
        let client: &Client = app.client().await?;
        let mut done = Done::default();
        let containers = client.prune("containers", false, &without(filters, &[])).await;
        done.take("Containers", containers, "ContainersDeleted")?;
        let networks = client.prune("networks", false, &without(filters, &[])).await;
        done.take("Networks", networks, "NetworksDeleted")?;
        if volumes {
            let answer = client.prune("volumes", false, &without(filters, &["until"])).await;
            done.take("Volumes", answer, "VolumesDeleted")?;
        }
        let mut of_images = without(filters, &[]);
        of_images.add("dangling", if all { "false" } else { "true" });
        let images = client.prune("images", false, &of_images).await;
        done.take("Images", images, "ImagesDeleted")?;
        let cache = client.prune("build", all, &without(filters, &["label", "label!"])).await;
        done.take("build cache objects", cache, "CachesDeleted")?;
        let bytes = i64::try_from(done.bytes).unwrap_or(i64::MAX);
        output::line(&format!("Total reclaimed space: {}", human_size4(bytes)))?;
        Ok(u8::from(done.failed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_is_docker_s() {
        assert_eq!(
            warning(false, false, &[]),
            "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n  - all dangling images\n  - unused build cache\n"
        );
        let full = warning(true, true, &["label=x".into()]);
        assert!(
            full.contains("  - all anonymous volumes") && full.contains("  - all build cache\n"),
            "{full}"
        );
        assert!(full.ends_with("\n\n  Items to be pruned will be filtered with:\n  - label=x\n"), "{full}");
    }

    #[test]
    fn entries_are_names_or_what_happened_to_images() {
        let read = |text: &str| line(&serde_json::from_str(text).unwrap());
        assert_eq!(read(r#""abc""#).as_deref(), Some("abc"));
        assert_eq!(read(r#"{"Untagged":"a:1"}"#).as_deref(), Some("untagged: a:1"));
        assert_eq!(read(r#"{"Deleted":"sha256:1"}"#).as_deref(), Some("deleted: sha256:1"));
        let kept = without(&["until=1h".into(), "label=a=b".into()], &["until"]);
        assert!(!kept.has("until") && kept.values("label").eq(["a=b"]));
    }
}
