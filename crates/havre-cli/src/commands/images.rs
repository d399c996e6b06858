//! `images`, `rmi`, `tag`, `history`, `image prune`.

use havre_api::image::{DeleteResponse, ImageSummary};
use havre_oci::Reference;

use super::lifecycle::confirmed;
use super::platforms;
use super::ps::created_at;
use crate::App;
use crate::config;
use crate::failure::{Failure, describe};
use crate::format::table::{ellipsis, harmless, short_id};
use crate::format::template::{Fields, Format, text as value};
use crate::format::units::{human_duration, human_size, human_size4};
use crate::output;
use crate::spec::{Args, Arity, Command, filter, switch, text, words};

pub(super) const IMAGES: Command = Command {
    names: &["image ls", "image list", "images"],
    arguments: "[REPOSITORY[:TAG]]",
    about: "List images",
    flags: &[&[
        switch("all", "Show intermediate images too (default hides intermediate images)").short('a'),
        switch("digests", "Show digests"),
        filter("Only images that match (dangling=true, reference=a*, label=a, before=x, since=x)").short('f'),
        text("format", super::FORMAT_HELP),
        switch("no-trunc", "Do not shorten the output"),
        switch("quiet", "Only print ids").short('q'),
        switch("tree", "List images with their platforms below them"),
    ]],
    arity: Arity::AtMost(1),
    trailing: false,
    examples: &["images --filter dangling=true"],
    run: images,
};

pub(super) const RMI: Command = Command {
    names: &["image rm", "image remove", "rmi"],
    arguments: "IMAGE [IMAGE...]",
    about: "Remove one or more images",
    flags: &[&[
        switch("force", "Remove even if stopped containers use it").short('f'),
        switch("no-prune", "Keep parents without a name"),
        words("platform", "strings", "Only this platform (os/arch[/variant])"),
    ]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &[],
    run: rmi,
};

pub(super) const TAG: Command = Command {
    names: &["image tag", "tag"],
    arguments: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    flags: &[],
    arity: Arity::Exactly(2),
    trailing: false,
    examples: &["tag busybox registry.local/busybox:1"],
    run: tag,
};

pub(super) const HISTORY: Command = Command {
    names: &["image history", "history"],
    arguments: "IMAGE",
    about: "Show the history of an image",
    flags: &[&[
        text("format", super::FORMAT_HELP),
        switch("human", "Print sizes and times for people (default true)").short('H'),
        switch("no-trunc", "Do not shorten the output"),
        text("platform", "Platform of the image (os/arch[/variant])"),
        switch("quiet", "Only print ids").short('q'),
    ]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &[],
    run: history,
};

pub(super) const IMAGE_PRUNE: Command = Command {
    names: &["image prune"],
    arguments: "",
    about: "Remove unused images",
    flags: &[&[
        switch("all", "Remove all images that no container uses, not just those without a name").short('a'),
        filter("Only images that match (until=10m, label=name)"),
        switch("force", "Do not ask").short('f'),
    ]],
    arity: Arity::None,
    trailing: false,
    examples: &[],
    run: prune,
};

const HEADINGS: [(&str, &str); 11] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

/// One line of the list: an image by one of its names.
struct Line<'a> {
    repository: &'a str,
    tag: &'a str,
    digest: &'a str,
}

/// `name:tag` apart, the port of a registry left in the name.
fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "<none>"),
    }
}

/// The lines of an image: each tag, with its digest when digests are shown; else each digest.
fn lines(image: &ImageSummary, digests: bool) -> Vec<Line<'_>> {
    let named: Vec<&str> =
        image.repo_tags.iter().flatten().map(String::as_str).filter(|tag| *tag != "<none>:<none>").collect();
    let hashed: Vec<(&str, &str)> = image
        .repo_digests
        .iter()
        .flatten()
        .filter_map(|reference| reference.split_once('@'))
        .filter(|(name, _)| *name != "<none>")
        .collect();
    let mut out: Vec<Line<'_>> = named
        .iter()
        .map(|reference| {
            let (repository, tag) = split_tag(reference);
            let digest =
                hashed.iter().find(|(name, _)| *name == repository).map_or("<none>", |(_, digest)| *digest);
            Line { repository, tag, digest }
        })
        .collect();
    for (repository, digest) in &hashed {
        if !out.iter().any(|line| line.repository == *repository) {
            out.push(Line { repository, tag: "<none>", digest });
        }
    }
    if out.is_empty() {
        out.push(Line { repository: "<none>", tag: "<none>", digest: "<none>" });
    }
    if !digests {
        out.dedup_by(|a, b| a.repository == b.repository && a.tag == b.tag);
    }
    out
}

fn images(app: &App, args: &Args) -> Result<u8, Failure> {
    if args.on("tree") {
        for flag in ["digests", "format", "quiet", "no-trunc"] {
            if args.given(flag) {
                return Err(Failure::plain(format!("--{flag} is not yet supported with --tree")));
            }
        }
        return super::image_tree::show(app, args);
    }
    let digests = args.on("digests");
    let quiet = args.on("quiet");
    let mut format = args.text("format").to_owned();
    if format.is_empty() && !quiet {
        format = config::file(&app.global)?.images_format;
    }
    let source = match format.as_str() {
        "" | "table" if quiet => "{{.ID}}",
        "raw" if quiet => "image_id: {{.ID}}",
        "raw" if digests => {
            "repository: {{.Repository}}\n{{if .Tag}}tag: {{.Tag}}\n{{end}}{{if .Digest}}digest: {{.Digest}}\n{{end}}image_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n"
        }
        "raw" => {
            "repository: {{.Repository}}\n{{if .Tag}}tag: {{.Tag}}\n{{end}}image_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n"
        }
        "" | "table" if digests => {
            "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
        }
        "" | "table" => "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        other => other,
    };
    let format = Format::parse(source)?;
    let mut filters = args.filters();
    if let Some(reference) = args.rest.first() {
        filters.add("reference", reference);
    }
    let images =
        app.block(async { Ok::<_, Failure>(app.client().await?.images(args.on("all"), &filters).await?) })?;
    let now = crate::now();
    let full = args.on("no-trunc");
    let mut rows = Vec::new();
    for image in &images {
        let id = if full { image.id.as_str() } else { short_id(&image.id) };
        for line in lines(image, digests) {
            rows.push(row(image, &line, id, now));
        }
    }
    output::print(&format.rows(&HEADINGS, rows)?)?;
    Ok(0)
}

/// All that can be shown of an image by one of its names.
fn row(image: &ImageSummary, line: &Line<'_>, id: &str, now: i64) -> Fields {
    let count = |n: i64| if n == -1 { "N/A".to_owned() } else { n.to_string() };
    let size = |n: i64| if n == -1 { "N/A".to_owned() } else { human_size4(n) };
    let unique = if image.shared_size == -1 { -1 } else { image.size - image.shared_size };
    Fields::from([
        ("Repository", value(harmless(line.repository))),
        ("Tag", value(harmless(line.tag))),
        ("Digest", value(harmless(line.digest))),
        ("ID", value(harmless(id))),
        ("CreatedSince", value(since(image.created, now))),
        ("CreatedAt", value(created_at(image.created))),
        ("Size", value(human_size(image.size))),
        ("Containers", value(count(image.containers))),
        ("VirtualSize", value(human_size4(image.size))),
        ("SharedSize", value(size(image.shared_size))),
        ("UniqueSize", value(size(unique))),
    ])
}

/// A row for each name of an image, for the usage of the disk.
pub(super) fn rows(image: &ImageSummary, full: bool, now: i64) -> Vec<Fields> {
    let id = if full { image.id.as_str() } else { short_id(&image.id) };
    let mut names = lines(image, false);
    if full {
        names.iter_mut().for_each(|line| line.digest = "");
    }
    names.iter().map(|line| row(image, line, id, now)).collect()
}

/// `3 weeks ago`; an image without a time says so.
fn since(created: i64, now: i64) -> String {
    if created <= 0 { "N/A".into() } else { format!("{} ago", human_duration(now - created)) }
}

pub(super) fn removed(entries: &[DeleteResponse]) -> String {
    entries
        .iter()
        .map(|entry| match (&entry.untagged, &entry.deleted) {
            (untagged, _) if !untagged.is_empty() => format!("Untagged: {untagged}\n"),
            (_, deleted) => format!("Deleted: {deleted}\n"),
        })
        .collect()
}

fn rmi(app: &App, args: &Args) -> Result<u8, Failure> {
    let platforms = platforms(args)?;
    let force = args.on("force");
    app.block(async {
        let client = app.client().await?;
        let mut code = 0;
        for name in &args.rest {
            match client.remove_image(name, force, args.on("no-prune"), &platforms).await {
                Ok(entries) => output::print(&removed(&entries))?,
                Err(error) => {
                    output::complain(&describe(&error));
                    if !(force && error.status() == Some(404)) {
                        code = 1;
                    }
                }
            }
        }
        Ok(code)
    })
}

fn tag(app: &App, args: &Args) -> Result<u8, Failure> {
    let [source, target] = args.rest.as_slice() else { return Err(Failure::quiet(1)) };
    for reference in [source, target] {
        // The source may be an id.
        if let Err(reason) = Reference::parse(reference)
            && (reference == target
                || !reference.bytes().all(|byte| byte.is_ascii_hexdigit())
                || reference.is_empty())
        {
            return Err(Failure::plain(format!(
                "Error parsing reference: {reference:?} is not a valid repository/tag: {reason}"
            )));
        }
    }
    let (repository, tag) = match split_tag(target) {
        (name, "<none>") => (name, ""),
        split => split,
    };
    app.block(async { Ok::<_, Failure>(app.client().await?.tag(source, repository, tag).await?) })?;
    Ok(0)
}

fn history(app: &App, args: &Args) -> Result<u8, Failure> {
    let platforms = platforms(args)?;
    let (full, human) = (args.on("no-trunc"), args.on_by_default("human"));
    let source = match args.text("format") {
        "" | "table" if args.on("quiet") => "{{.ID}}",
        "" | "table" if human => "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
        "" | "table" => "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
        other => other,
    };
    let format = Format::parse(source)?;
    let items =
        app.block(async { Ok::<_, Failure>(app.client().await?.history(&args.rest[0], &platforms).await?) })?;
    let now = crate::now();
    let rows = items
        .iter()
        .map(|item| {
            let id = if full { item.id.as_str() } else { short_id(&item.id) };
            let by = item.created_by.replace('\t', " ");
            let by = if full { by } else { ellipsis(&by, 45) };
            let size = if human { human_size(item.size) } else { item.size.to_string() };
            let at =
                havre_base::Timestamp::from_nanos(item.created.saturating_mul(1_000_000_000)).to_string();
            Fields::from([
                ("ID", value(harmless(id))),
                ("CreatedSince", value(since(item.created, now))),
                ("CreatedAt", value(at)),
                ("CreatedBy", value(harmless(&by))),
                ("Size", value(size)),
                ("Comment", value(harmless(&item.comment))),
            ])
        })
        .collect();
    let headings = [
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ];
    output::print(&format.rows(&headings, rows)?)?;
    Ok(0)
}

fn prune(app: &App, args: &Args) -> Result<u8, Failure> {
    let all = args.on("all");
    let warning = if all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    if !confirmed(args, warning)? {
        return Ok(0);
    }
    let mut filters = args.filters();
    filters.add("dangling", if all { "false" } else { "true" });
    let pruned = app.block(async { Ok::<_, Failure>(app.client().await?.prune_images(&filters).await?) })?;
    let deleted = pruned.images_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        let text = removed(&deleted).replace("Untagged: ", "untagged: ").replace("Deleted: ", "deleted: ");
        output::line(&format!("Deleted Images:\n{text}"))?;
    }
    output::line(&format!(
        "Total reclaimed space: {}",
        human_size4(i64::try_from(pruned.space_reclaimed).unwrap_or(i64::MAX))
    ))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_line_for_each_name() {
        let image = ImageSummary {
            repo_tags: Some(vec!["a:1".into(), "host:5000/b:2".into()]),
            repo_digests: Some(vec!["c@sha256:0".into()]),
            ..ImageSummary::default()
        };
        let got: Vec<String> =
            lines(&image, false).iter().map(|l| format!("{} {} {}", l.repository, l.tag, l.digest)).collect();
        assert_eq!(got, ["a 1 <none>", "host:5000/b 2 <none>", "c <none> sha256:0"]);
        assert_eq!(lines(&ImageSummary::default(), false)[0].repository, "<none>");
        assert_eq!(split_tag("host:5000/x"), ("host:5000/x", "<none>"));
    }
}
