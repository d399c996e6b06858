//! `system df`.

use std::fmt::Write as _;

use havre_api::container::ContainerSummary;
use havre_api::image::ImageSummary;
use havre_api::usage::{DiskUsageResponse, Usage};

use super::{images, ps};
use crate::App;
use crate::failure::Failure;
use crate::format::table::{ellipsis, harmless};
use crate::format::template::{Fields, Format, text as value};
use crate::format::units::{human_size, human_size4};
use crate::output;
use crate::spec::{Args, Arity, Command, switch, text};

pub(super) const DF: Command = Command {
    names: &["system df"],
    arguments: "",
    about: "Show disk usage of images, containers, volumes and build cache",
    flags: &[&[text("format", super::FORMAT_HELP), switch("verbose", "Show every object").short('v')]],
    arity: Arity::None,
    trailing: false,
    examples: &["system df", "system df -v"],
    run: df,
};

const TABLE: &str = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
const HEADINGS: [(&str, &str); 5] = [
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

const IMAGES: &str = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
const IMAGE_HEADINGS: [(&str, &str); 8] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
];

const CONTAINERS: &str = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
const CONTAINER_HEADINGS: [(&str, &str); 8] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Size", "SIZE"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Names", "NAMES"),
];

/// What both forms of the daemon's answer say.
struct Totals {
    images: Usage<ImageSummary>,
    containers: Usage<ContainerSummary>,
    volumes: Usage<serde_json::Value>,
    cache: Usage<serde_json::Value>,
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn active(container: &&ContainerSummary) -> bool {
    matches!(container.state.as_str(), "running" | "paused" | "restarting")
}

/// Daemons before API 1.52 send lists; the sums are the client's.
fn totals(answer: DiskUsageResponse) -> Totals {
    let images = answer.image_usage.unwrap_or_else(|| {
        let items = answer.images.unwrap_or_default();
        let used: Vec<&ImageSummary> = items.iter().filter(|image| image.containers > 0).collect();
        let bytes: i64 = used.iter().map(|image| image.size - image.shared_size.max(0)).sum();
        Usage {
            active_count: count(used.len()),
            total_count: count(items.len()),
            reclaimable: answer.layers_size - bytes,
            total_size: answer.layers_size,
            items: Some(items),
        }
    });
    let containers = answer.container_usage.unwrap_or_else(|| {
        let items = answer.containers.unwrap_or_default();
        let size = |one: &ContainerSummary| one.size_rw.unwrap_or(0);
        let total: i64 = items.iter().map(size).sum();
        Usage {
            active_count: count(items.iter().filter(active).count()),
            total_count: count(items.len()),
            reclaimable: total - items.iter().filter(active).map(size).sum::<i64>(),
            total_size: total,
            items: Some(items),
        }
    });
    let of_list =
        |list: Option<Vec<serde_json::Value>>, size: &str, used: &dyn Fn(&serde_json::Value) -> bool| {
            let items = list.unwrap_or_default();
            let bytes = |one: &serde_json::Value| {
                one.pointer(size).and_then(serde_json::Value::as_i64).unwrap_or(0).max(0)
            };
            let total: i64 = items.iter().map(bytes).sum();
            let busy: i64 = items.iter().filter(|one| used(one)).map(bytes).sum();
            Usage {
                active_count: count(items.iter().filter(|one| used(one)).count()),
                total_count: count(items.len()),
                reclaimable: total - busy,
                total_size: total,
                items: Some(items),
            }
        };
    let linked = |one: &serde_json::Value| {
        one.pointer("/UsageData/RefCount").and_then(serde_json::Value::as_i64).is_some_and(|count| count > 0)
    };
    let in_use = |one: &serde_json::Value| one.get("InUse") == Some(&serde_json::Value::Bool(true));
    Totals {
        images,
        containers,
        volumes: answer.volume_usage.unwrap_or_else(|| of_list(answer.volumes, "/UsageData/Size", &linked)),
        cache: answer.build_cache_usage.unwrap_or_else(|| of_list(answer.build_cache, "/Size", &in_use)),
    }
}

fn row<T>(kind: &str, usage: &Usage<T>, percent: bool) -> Fields {
    let reclaimable = human_size4(usage.reclaimable);
    let reclaimable = match usage.reclaimable.saturating_mul(100).checked_div(usage.total_size) {
        Some(share) if percent => format!("{reclaimable} ({share}%)"),
        _ => reclaimable,
    };
    Fields::from([
        ("Type", value(kind)),
        ("TotalCount", value(usage.total_count.to_string())),
        ("Active", value(usage.active_count.to_string())),
        ("Size", value(human_size4(usage.total_size))),
        ("Reclaimable", value(reclaimable)),
    ])
}

fn df(app: &App, args: &Args) -> Result<u8, Failure> {
    let given = args.text("format");
    let verbose = args.on("verbose");
    let source = if matches!(given, "" | "table") { TABLE } else { given };
    let format = Format::parse(source)?;
    let totals = totals(app.block(async { Ok::<_, Failure>(app.client().await?.disk_usage().await?) })?);
    if verbose {
        let now = crate::now();
        let full = !matches!(given, "" | "table");
        let images: Vec<Fields> =
            totals.images.items.iter().flatten().flat_map(|image| images::rows(image, full, now)).collect();
        let containers: Vec<Fields> = totals
            .containers
            .items
            .iter()
            .flatten()
            .map(|one| {
                let mut row = ps::fields(one, full, now);
                // Here only what was written counts.
                row.insert("Size", value(human_size(one.size_rw.unwrap_or(0))));
                row
            })
            .collect();
        if full {
            let all = [
                ("Images", images),
                ("Containers", containers),
                ("Volumes", Vec::new()),
                ("BuildCache", Vec::new()),
            ];
            output::print(&format.groups(all)?)?;
            return Ok(0);
        }
        output::print(&every_object(images, containers, &totals)?)?;
        return Ok(0);
    }
    let rows = vec![
        row("Images", &totals.images, true),
        row("Containers", &totals.containers, true),
        row("Local Volumes", &totals.volumes, true),
        row("Build Cache", &totals.cache, false),
    ];
    output::print(&format.rows(&HEADINGS, rows)?)?;
    Ok(0)
}

fn every_object(images: Vec<Fields>, containers: Vec<Fields>, totals: &Totals) -> Result<String, Failure> {
    let mut out = String::from("Images space usage:\n\n");
    out.push_str(&Format::parse(IMAGES)?.rows(&IMAGE_HEADINGS, images)?);
    out.push_str("\nContainers space usage:\n\n");
    out.push_str(&Format::parse(CONTAINERS)?.rows(&CONTAINER_HEADINGS, containers)?);
    let field = |one: &serde_json::Value, path: &str| match one.pointer(path) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let size = |one: &serde_json::Value, path: &str| {
        human_size4(one.pointer(path).and_then(serde_json::Value::as_i64).unwrap_or(0))
    };
    let volume = |one: &serde_json::Value| {
        Fields::from([
            ("Name", value(harmless(&field(one, "/Name")))),
            ("Links", value(field(one, "/UsageData/RefCount"))),
            ("Size", value(size(one, "/UsageData/Size"))),
        ])
    };
    let headings = [("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")];
    let rows = totals.volumes.items.iter().flatten().map(volume).collect();
    out.push_str("\nLocal Volumes space usage:\n\n");
    out.push_str(&Format::parse("table {{.Name}}\t{{.Links}}\t{{.Size}}")?.rows(&headings, rows)?);
    // Writing to a String cannot fail.
    write!(out, "\nBuild cache usage: {}\n\n", human_size4(totals.cache.total_size)).ok();
    let record = |one: &serde_json::Value| {
        Fields::from([
            ("ID", value(harmless(&ellipsis(&field(one, "/ID"), 12)))),
            ("Type", value(harmless(&field(one, "/Type")))),
            ("Size", value(size(one, "/Size"))),
            ("Used", value(field(one, "/UsageCount"))),
            ("Shared", value(field(one, "/Shared"))),
        ])
    };
    let headings = [
        ("ID", "CACHE ID"),
        ("Type", "CACHE TYPE"),
        ("Size", "SIZE"),
        ("Created", "CREATED"),
        ("Last", "LAST USED"),
        ("Used", "USAGE"),
        ("Shared", "SHARED"),
    ];
    let dates = |one: &serde_json::Value| {
        let mut row = record(one);
        row.insert("Created", value(field(one, "/CreatedAt")));
        row.insert("Last", value(field(one, "/LastUsedAt")));
        row
    };
    let rows = totals.cache.items.iter().flatten().map(dates).collect();
    let table = "table {{.ID}}\t{{.Type}}\t{{.Size}}\t{{.Created}}\t{{.Last}}\t{{.Used}}\t{{.Shared}}";
    out.push_str(&Format::parse(table)?.rows(&headings, rows)?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_answer_make_the_same_table() {
        let old = r#"{"LayersSize":120,"Images":[{"Containers":1,"Size":100,"SharedSize":30},{"Containers":0,"Size":50,
            "SharedSize":30}],"Containers":[{"State":"running","SizeRw":5},{"State":"exited","SizeRw":7}],
            "Volumes":null,"BuildCache":null}"#;
        let new = r#"{"ImageUsage":{"ActiveCount":1,"TotalCount":2,"Reclaimable":50,"TotalSize":120},
            "ContainerUsage":{"ActiveCount":1,"TotalCount":2,"Reclaimable":7,"TotalSize":12},
            "VolumeUsage":{},"BuildCacheUsage":{}}"#;
        for text in [old, new] {
            let totals = totals(serde_json::from_str(text).unwrap());
            let rows = vec![
                row("Images", &totals.images, true),
                row("Containers", &totals.containers, true),
                row("Local Volumes", &totals.volumes, true),
                row("Build Cache", &totals.cache, false),
            ];
            let out = Format::parse(TABLE).unwrap().rows(&HEADINGS, rows).unwrap();
            let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
            assert_eq!(lines[1], ["Images", "2", "1", "120B", "50B", "(41%)"], "{text}");
            assert_eq!(lines[2], ["Containers", "2", "1", "12B", "7B", "(58%)"]);
            assert_eq!(lines[3], ["Local", "Volumes", "0", "0", "0B", "0B"]);
            assert_eq!(lines[4], ["Build", "Cache", "0", "0", "0B", "0B"]);
        }
    }
}
