//! `manifest`: one name for the images of several platforms.
//!
//! Lists are put together here, in files that Docker's client reads and writes too, and go to registries without the
//! engine. What is printed and refused is what Docker's client prints and refuses; its names for platforms are Go's.

mod list;
mod remote;

use havre_oci::Reference;
use havre_oci::image::media;
use havre_registry::Access;

use crate::App;
use crate::failure::Failure;
use crate::format::json::indent_with;
use crate::output;
use crate::spec::{Args, Arity, Command, Flag, switch, text, words};
use list::{Entry, Lists};
use remote::{Found, Remote};

const INSECURE: Flag = switch("insecure", "Allow communication with an insecure registry");

pub(super) const INSPECT: Command = Command {
    names: &["manifest inspect"],
    arguments: "[MANIFEST_LIST] MANIFEST",
    about: "Display an image manifest, or manifest list",
    flags: &[&[
        INSECURE,
        switch("verbose", "Output additional info including layers and platform").short('v'),
    ]],
    arity: Arity::Between(1, 2),
    trailing: false,
    examples: &["manifest inspect debian:12", "manifest inspect -v registry.example.org/shop/web:1.2"],
    run: inspect,
};

pub(super) const CREATE: Command = Command {
    names: &["manifest create"],
    arguments: "MANIFEST_LIST MANIFEST [MANIFEST...]",
    about: "Create a local manifest list for annotating and pushing to a registry",
    flags: &[&[switch("amend", "Amend an existing manifest list").short('a'), INSECURE]],
    arity: Arity::AtLeast(2),
    trailing: false,
    examples: &[
        "manifest create registry.example.org/web:1 registry.example.org/web:1-amd64 registry.example.org/web:1-arm64",
    ],
    run: create,
};

pub(super) const ANNOTATE: Command = Command {
    names: &["manifest annotate"],
    arguments: "MANIFEST_LIST MANIFEST",
    about: "Add additional information to a local image manifest",
    flags: &[&[
        text("arch", "Set architecture"),
        text("os", "Set operating system"),
        words("os-features", "strings", "Set operating system feature"),
        text("os-version", "Set operating system version"),
        text("variant", "Set architecture variant"),
    ]],
    arity: Arity::Exactly(2),
    trailing: false,
    examples: &[
        "manifest annotate --arch arm --variant v7 registry.example.org/web:1 registry.example.org/web:1-arm",
    ],
    run: annotate,
};

pub(super) const PUSH: Command = Command {
    names: &["manifest push"],
    arguments: "MANIFEST_LIST",
    about: "Push a manifest list to a repository",
    flags: &[&[
        switch("insecure", "Allow push to an insecure registry"),
        switch("purge", "Remove the local manifest list after push").short('p'),
    ]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["manifest push --purge registry.example.org/web:1"],
    run: push,
};

pub(super) const RM: Command = Command {
    names: &["manifest rm"],
    arguments: "MANIFEST_LIST [MANIFEST_LIST...]",
    about: "Delete one or more manifest lists from local storage",
    flags: &[],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &["manifest rm registry.example.org/web:1"],
    run: rm,
};

/// Systems and the processors that Docker's client lets a list name with them.
const PLATFORMS: &[(&str, &[&str])] = &[
    ("darwin", &["386", "amd64", "arm", "arm64"]),
    ("dragonfly", &["amd64"]),
    ("freebsd", &["386", "amd64", "arm"]),
    ("linux", &["386", "amd64", "arm", "arm64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x"]),
    ("netbsd", &["386", "amd64", "arm"]),
    ("openbsd", &["386", "amd64", "arm"]),
    ("plan9", &["386", "amd64"]),
    ("solaris", &["amd64"]),
    ("windows", &["386", "amd64"]),
];

fn reference(text: &str) -> Result<Reference, Failure> {
    Reference::parse(text).map_err(|error| Failure::plain(error.to_string()))
}

/// A reference, and what is said before the reason when it is none.
fn named(text: &str, otherwise: &str) -> Result<Reference, Failure> {
    Reference::parse(text).map_err(|error| Failure::plain(format!("{otherwise} {text}: {error}")))
}

fn argument(args: &Args, at: usize) -> &str {
    args.rest.get(at).map_or("", String::as_str)
}

fn inspect(app: &App, args: &Args) -> Result<u8, Failure> {
    let lists = Lists::of(app);
    let verbose = args.on("verbose");
    if args.rest.len() == 2 {
        let (list, wanted) = (reference(argument(args, 0))?, reference(argument(args, 1))?);
        let entry = lists.get(&list, &wanted)?.ok_or_else(|| list::absent(&wanted))?;
        return print_one(&entry, verbose);
    }
    let wanted = reference(argument(args, 0))?;
    if let Some(entries) = lists.all(&wanted)? {
        return print_many(&wanted, &entries, verbose);
    }
    let remote = Remote::new(app, &wanted, Access::Pull, args.on("insecure"))?;
    match app.block(remote.fetch(&wanted))? {
        Found::One(entry) => print_one(&entry, verbose),
        Found::Many(entries) => print_many(&wanted, &entries, verbose),
    }
}

fn print_one(entry: &Entry, verbose: bool) -> Result<u8, Failure> {
    let text = if verbose { escaped(&json(entry)?) } else { entry.document()? };
    output::line(&indent_with(&text, "", "\t"))?;
    Ok(0)
}

fn print_many(list: &Reference, entries: &[Entry], verbose: bool) -> Result<u8, Failure> {
    if verbose {
        output::line(&indent_with(&escaped(&json(&entries)?), "", "\t"))?;
        return Ok(0);
    }
    let (_, text) = document(list, entries).map_err(|failure| Failure {
        message: format!("failed to assemble ManifestDescriptor: {}", failure.message),
        ..failure
    })?;
    output::line(&text)?;
    Ok(0)
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::plain(error.to_string()))
}

/// As Go's encoder writes texts, so that files and output are the same bytes.
fn escaped(json: &str) -> String {
    json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// The list as it goes to a registry, and its media type. Its bytes are those of Docker's client, so its digest is too.
fn document(list: &Reference, entries: &[Entry]) -> Result<(&'static str, String), Failure> {
    let mut manifests = Vec::new();
    for entry in entries {
        if entry.reference.domain() != list.domain() {
            return Err(Failure::plain(format!(
                "cannot use source images from a different registry than the target image: {} != {}",
                entry.reference.domain(),
                list.domain()
            )));
        }
        manifests.push(serde_json::json!({
            "mediaType": entry.descriptor.media_type,
            "size": entry.descriptor.size,
            "digest": entry.descriptor.digest,
            "platform": entry.descriptor.platform.clone().unwrap_or_default(),
        }));
    }
    let oci = entries.first().is_some_and(|entry| entry.descriptor.media_type == media::MANIFEST);
    let media_type = if oci { media::INDEX } else { media::DOCKER_LIST };
    let text = json(&serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type, "manifests": manifests,
    }))?;
    Ok((media_type, indent_with(&escaped(&text), "", "   ")))
}

fn create(app: &App, args: &Args) -> Result<u8, Failure> {
    let list = named(argument(args, 0), "error parsing name for manifest list")?;
    let lists = Lists::of(app);
    if lists.all(&list)?.is_some() && !args.on("amend") {
        return Err(Failure::plain("refusing to amend an existing manifest list with no --amend flag"));
    }
    // All of them before the first is kept: a list that lacks one would look whole.
    let mut entries = Vec::new();
    for name in args.rest.iter().skip(1) {
        let wanted = reference(name)?;
        let entry = match lists.get(&list, &wanted)?.filter(Entry::has_document) {
            Some(known) => known,
            None => match app
                .block(Remote::new(app, &wanted, Access::Pull, args.on("insecure"))?.fetch(&wanted))?
            {
                Found::One(entry) => *entry,
                Found::Many(_) => return Err(Failure::plain(format!("{wanted} is a manifest list"))),
            },
        };
        entries.push((wanted, entry));
    }
    for (wanted, entry) in &entries {
        lists.save(&list, wanted, entry)?;
    }
    output::line(&format!("Created manifest list {list}"))?;
    Ok(0)
}

fn annotate(app: &App, args: &Args) -> Result<u8, Failure> {
    let list = named(argument(args, 0), "annotate: error parsing name for manifest list")?;
    let wanted = named(argument(args, 1), "annotate: error parsing name for manifest")?;
    let lists = Lists::of(app);
    let mut entry = lists.get(&list, &wanted)?.ok_or_else(|| {
        Failure::plain(format!(
            "manifest for image {} does not exist in {}",
            argument(args, 1),
            argument(args, 0)
        ))
    })?;
    let platform = entry.descriptor.platform.get_or_insert_default();
    let set = |field: &mut String, flag: &str| {
        if !args.text(flag).is_empty() {
            args.text(flag).clone_into(field);
        }
    };
    set(&mut platform.os, "os");
    set(&mut platform.architecture, "arch");
    set(&mut platform.variant, "variant");
    set(&mut platform.os_version, "os-version");
    for feature in args.list("os-features").iter().flat_map(|text| text.split(',')) {
        if !platform.os_features.iter().any(|known| known == feature) {
            platform.os_features.push(feature.to_owned());
        }
    }
    let known = PLATFORMS.iter().find(|(os, _)| *os == platform.os);
    if !known.is_some_and(|(_, processors)| processors.contains(&platform.architecture.as_str())) {
        return Err(Failure::plain(format!(
            "manifest entry for image has unsupported os/arch combination: {}/{}",
            args.text("os"),
            args.text("arch")
        )));
    }
    lists.save(&list, &wanted, &entry)?;
    Ok(0)
}

fn push(app: &App, args: &Args) -> Result<u8, Failure> {
    let list = reference(argument(args, 0))?;
    let lists = Lists::of(app);
    let entries = lists.all(&list)?.ok_or_else(|| list::absent(&list))?;
    if entries.is_empty() {
        return Err(Failure::plain(format!("{list} not found")));
    }
    let runs_somewhere = |entry: &&Entry| {
        let platform = entry.descriptor.platform.as_ref();
        platform.is_some_and(|platform| !platform.os.is_empty() && !platform.architecture.is_empty())
    };
    if let Some(entry) = entries.iter().find(|entry| !runs_somewhere(entry)) {
        return Err(Failure::plain(format!(
            "manifest {} must have an OS and Architecture to be pushed to a registry",
            entry.reference
        )));
    }
    let (media_type, text) = document(&list, &entries)?;
    let remote = Remote::new(app, &list, Access::Push, args.on("insecure"))?;
    let digest = app.block(remote.push(&list, &entries, media_type, text))?;
    output::line(&digest.to_string())?;
    if args.on("purge") {
        lists.remove(&list)?;
    }
    Ok(0)
}

fn rm(app: &App, args: &Args) -> Result<u8, Failure> {
    let lists = Lists::of(app);
    let remove = |name: &String| {
        let list = reference(name)?;
        lists.all(&list)?.ok_or_else(|| list::absent(&list))?;
        lists.remove(&list)
    };
    let failed: Vec<String> =
        args.rest.iter().filter_map(|name| remove(name).err()).map(|failure| failure.message).collect();
    if failed.is_empty() { Ok(0) } else { Err(Failure::plain(failed.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_manifest_gives_a_list_its_family() {
        let entry = |media_type: &str| {
            Entry::read(&format!(
            r#"{{"Ref":"r.test/a:1","Descriptor":{{"mediaType":"{media_type}","digest":"sha256:{}","size":3,"platform":{{"architecture":"arm","os":"linux","variant":"v7"}}}},"Raw":""}}"#,
            "0".repeat(64)
        )).unwrap()
        };
        let list = reference("r.test/b").unwrap();
        let (kind, text) = document(&list, &[entry(media::MANIFEST), entry(media::DOCKER_MANIFEST)]).unwrap();
        assert_eq!(kind, media::INDEX);
        assert!(
            text.starts_with("{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"application/vnd.oci"),
            "{text}"
        );
        assert!(text.contains("\"os\": \"linux\",\n            \"variant\": \"v7\"\n         }"), "{text}");
        assert_eq!(document(&list, &[entry(media::DOCKER_MANIFEST)]).unwrap().0, media::DOCKER_LIST);
        let other = document(&reference("s.test/b").unwrap(), &[entry(media::MANIFEST)]).unwrap_err();
        assert!(other.message.ends_with("r.test != s.test"), "{}", other.message);
    }
}
