//! The words of `cp`: which name a place, and what their ends say. Docker's rules.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, file_error};

/// A source or a destination.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A path of this machine, or `-`.
    Local(String),
    /// In a container.
    Inside(String, String),
}

impl Place {
    pub(super) fn parse(word: &str) -> Self {
        match word.split_once(':') {
            // An absolute path, or one that says it is relative, may have a colon.
            Some((container, path))
                if !word.starts_with('/') && !container.starts_with('.') && !container.is_empty() =>
            {
                Self::Inside(container.to_owned(), path.to_owned())
            }
            _ => Self::Local(word.to_owned()),
        }
    }
}

/// The path without what means nothing.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

pub(super) fn join(folder: &str, name: &str) -> String {
    clean(&format!("{folder}/{name}"))
}

fn ends_with_dot(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// Whether the path's end says that it is a folder.
pub(super) fn wants_folder(path: &str) -> bool {
    path.ends_with('/') || ends_with_dot(path)
}

/// The clean path with the end that `asked` has.
fn with_end(clean: String, asked: &str) -> String {
    match clean {
        clean if ends_with_dot(asked) && !ends_with_dot(&clean) => {
            format!("{}/.", clean.trim_end_matches('/'))
        }
        clean if asked.ends_with('/') && !clean.ends_with('/') => clean + "/",
        clean => clean,
    }
}

/// The path from the root of this machine, with the same end.
pub(super) fn absolute(path: &str) -> Result<String, Failure> {
    let full = if path.starts_with('/') {
        path.to_owned()
    } else {
        let here =
            std::env::current_dir().map_err(|error| Failure::plain(file_error("getwd", ".", &error)))?;
        format!("{}/{path}", here.to_string_lossy())
    };
    Ok(with_end(clean(&full), path))
}

/// The folder of a path and its last name; `.` for a path that ends so.
pub(super) fn split_entry(path: &str) -> (String, String) {
    let clean = clean(path);
    if ends_with_dot(path) {
        return (clean, ".".into());
    }
    match clean.rsplit_once('/') {
        Some(("", "")) => ("/".into(), "/".into()),
        Some(("", name)) => ("/".into(), name.into()),
        Some((folder, name)) => (folder.into(), name.into()),
        None => (".".into(), clean),
    }
}

/// The last name of a path, as Go's `filepath.Base` has it.
fn base(path: &str) -> String {
    let (_, name) = split_entry(&clean(path));
    name
}

/// What is copied from this machine.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) folder: PathBuf,
    /// Its name there; `.` for the folder itself.
    pub(super) name: String,
    pub(super) is_folder: bool,
    /// The name it has in the archive.
    pub(super) as_name: String,
}

/// A link that was followed keeps the name that was asked for.
pub(super) fn followed(asked: &str, found: &str) -> (String, Option<String>) {
    let found = with_end(found.to_owned(), asked);
    let name = (base(asked) != base(&found)).then(|| base(asked));
    (found, name)
}

/// Where the link at a path leads, so that an error names what is missing.
fn end_of_links(path: &str) -> String {
    let mut path = path.to_owned();
    for _ in 0..255 {
        let Ok(link) = std::fs::read_link(path.trim_end_matches('/')) else { break };
        let link = link.to_string_lossy().into_owned();
        path = if link.starts_with('/') { link } else { join(&split_entry(&clean(&path)).0, &link) };
    }
    path
}

/// Looks for what `path` (absolute, with its end) names.
pub(super) fn source(path: &str, follow: bool) -> Result<Source, Failure> {
    let lstat = |path: &str, error: &std::io::Error| Failure::plain(file_error("lstat", path, error));
    let resolve = |path: &str| {
        let found = std::fs::canonicalize(path).map_err(|error| lstat(path, &error))?;
        Ok::<_, Failure>(found.to_string_lossy().into_owned())
    };
    let (found, renamed) = if follow {
        let end = end_of_links(path);
        followed(path, &resolve(&end)?)
    } else {
        // The last name is what is copied, even if it is a link.
        let (folder, name) = path.rsplit_once('/').map_or(("/", path), |(folder, name)| (folder, name));
        let folder = resolve(if folder.is_empty() { "/" } else { folder })?;
        let found = format!("{}/{name}", folder.trim_end_matches('/'));
        let renamed = (path.ends_with('/') && base(path) != base(&found)).then(|| base(path));
        (found, renamed)
    };
    let stat = std::fs::symlink_metadata(&found).map_err(|error| lstat(&found, &error))?;
    let (folder, name) = split_entry(&found);
    let as_name = renamed.unwrap_or_else(|| name.clone());
    Ok(Source { folder: Path::new(&folder).into(), name, is_folder: stat.is_dir(), as_name })
}

/// A destination as far as it is known.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: String,
    /// Whether it is there, and whether as a folder.
    pub(super) exists: Option<bool>,
}

/// Where an archive goes: the folder, and the name that its top entry gets there if not its own.
pub(super) fn plan(source_is_folder: bool, target: &Target) -> Result<(String, Option<String>), Failure> {
    let (folder, name) = split_entry(&target.path);
    match target.exists {
        Some(true) => Ok((target.path.clone(), None)),
        None if target.path.is_empty() => Err(Failure::plain("no such directory")),
        Some(false) if source_is_folder => Err(Failure::plain("cannot copy directory")),
        None if !source_is_folder && wants_folder(&target.path) => Err(Failure::plain("no such directory")),
        Some(false) | None => Ok((folder, Some(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_containers_or_paths() {
        let inside = |container: &str, path: &str| Place::Inside(container.into(), path.into());
        for (word, place) in [
            ("c:/a", inside("c", "/a")),
            ("c:a:b", inside("c", "a:b")),
            ("c:", inside("c", "")),
            ("./a:b", Place::Local("./a:b".into())),
            ("/a:b", Place::Local("/a:b".into())),
            ("a", Place::Local("a".into())),
            ("-", Place::Local("-".into())),
        ] {
            assert_eq!(Place::parse(word), place, "{word}");
        }
    }

    #[test]
    fn entries_are_split_as_docker_does() {
        for (path, folder, name) in [
            ("/a/b", "/a", "b"),
            ("/a/b/", "/a", "b"),
            ("/a/b/.", "/a/b", "."),
            ("/a", "/", "a"),
            ("/", "/", "/"),
            ("/.", "/", "."),
            ("a", ".", "a"),
        ] {
            assert_eq!(split_entry(path), (folder.into(), name.into()), "{path}");
        }
    }

    #[test]
    fn where_an_archive_goes() {
        let at = |path: &str, exists| Target { path: path.into(), exists };
        let ok = |folder: &str, name: Option<&str>| Some((folder.to_owned(), name.map(str::to_owned)));
        for (folder, target, expected) in [
            (true, at("/d", Some(true)), ok("/d", None)),
            (false, at("/d/", Some(true)), ok("/d/", None)),
            (true, at("/d/f", Some(false)), None),
            (false, at("/d/f", Some(false)), ok("/d", Some("f"))),
            (true, at("/d/new", None), ok("/d", Some("new"))),
            (true, at("/d/new/", None), ok("/d", Some("new"))),
            (false, at("/d/new/", None), None),
            (false, at("/d/new", None), ok("/d", Some("new"))),
        ] {
            assert_eq!(plan(folder, &target).ok(), expected, "{folder} {target:?}");
        }
    }

    #[test]
    fn a_followed_link_keeps_its_name() {
        assert_eq!(followed("/a/link", "/b/real"), ("/b/real".into(), Some("link".into())));
        assert_eq!(followed("/a/link/", "/b/real"), ("/b/real/".into(), Some("link".into())));
        assert_eq!(followed("/a/link/.", "/b/real").0, "/b/real/.");
        assert_eq!(followed("/a/x", "/b/x"), ("/b/x".into(), None));
    }
}
