//! Trees to archives and back: what honest trees become, and what hostile archives cannot do.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

mod generated;
mod tricks;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use havre_archive::ArchiveError;
use havre_archive::pack::Packer;
use havre_archive::tar::{Entry, Kind, TarReader, TarWriter};
use havre_archive::unpack::{Links, Owner, Place, Rules, Unpacker, remove_tree};
use rustix::fs::{Gid, Mode, OFlags, Stat, Uid};

struct Plain;

impl Owner for Plain {
    fn displace(&mut self, place: &Place<'_>, _: &Stat) -> Result<(), ArchiveError> {
        remove_tree(place.parent, place.name, 64).map_err(|error| ArchiveError::Extract {
            name: String::from_utf8_lossy(place.path).into_owned(),
            source: std::sync::Arc::new(error.into()),
        })
    }

    fn ids(&self, _: &Entry) -> Option<(Uid, Gid)> {
        None
    }
}

fn folder(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn pack(path: &Path, name: &str) -> Vec<u8> {
    let mut packer = Packer::new(Vec::new());
    packer.tree(folder(path), name.as_bytes()).unwrap();
    packer.finish().unwrap()
}

fn unpack(tar: &[u8], root: &Path, base: &str, links: Links) -> Result<(), ArchiveError> {
    let rules = Rules { depth: 64, links, dots: false, root: true };
    let mut unpacker = Unpacker::new(folder(root), base.as_bytes(), rules, Plain);
    let mut reader = TarReader::new(tar, false);
    while let Some(entry) = reader.next_entry()? {
        let path = unpacker.clean(&entry.path)?;
        unpacker.entry(&mut reader, &entry, &path)?;
    }
    unpacker.finish()
}

fn entry(kind: Kind, path: &str, link: &str) -> Entry {
    Entry { kind, path: path.into(), link: link.into(), mode: 0o755, ..Entry::default() }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for entry in entries {
        tar.entry(entry.clone(), if entry.kind == Kind::File { b"new" } else { b"" }).unwrap();
    }
    tar.finish().unwrap()
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = from.path();
    fs::create_dir_all(at.join("a/b")).unwrap();
    fs::write(at.join("a/b/file"), vec![7_u8; 700_000]).unwrap();
    fs::write(at.join("a/empty"), "").unwrap();
    fs::set_permissions(at.join("a/empty"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(at.join("a/b/file"), at.join("z")).unwrap();
    symlink("../nowhere", at.join("a/link")).unwrap();
    fs::write(at.join("n".repeat(200)), "long").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap();
    unpack(&pack(at, "top"), to.path(), "", Links::OldBelow).unwrap();
    let made = to.path().join("top");
    assert_eq!(fs::read(made.join("a/b/file")).unwrap(), vec![7_u8; 700_000]);
    assert_eq!(
        fs::metadata(made.join("z")).unwrap().ino(),
        fs::metadata(made.join("a/b/file")).unwrap().ino()
    );
    assert_eq!(fs::metadata(made.join("a/empty")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(fs::read_link(made.join("a/link")).unwrap(), Path::new("../nowhere"));
    assert!(made.join("n".repeat(200)).exists() && !made.join("socket").exists());
    assert_eq!(fs::metadata(made.join("a")).unwrap().mtime(), fs::metadata(at.join("a")).unwrap().mtime());
}

#[test]
fn f07_holes_stay_holes_and_content_stays_where_it_is() {
    let (from, to) = (
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
    );
    let file = fs::File::create(from.path().join("sparse")).unwrap();
    let size = 1_u64 << 36;
    file.set_len(size).unwrap();
    for at in [0, 5_000_000, 1 << 30, size - 6] {
        file.write_all_at(b"island", at).unwrap();
    }
    let tar = pack(from.path(), "t");
    assert!(tar.len() < 1 << 20, "{} bytes", tar.len());
    unpack(&tar, to.path(), "", Links::OldBelow).unwrap();
    let made = fs::File::open(to.path().join("t/sparse")).unwrap();
    let meta = made.metadata().unwrap();
    assert!(meta.len() == size && meta.blocks() < 1_000, "{} {}", meta.len(), meta.blocks());
    for at in [0, 5_000_000, 1 << 30, size - 6] {
        let mut read = [0; 6];
        made.read_exact_at(&mut read, at).unwrap();
        assert_eq!(&read, b"island", "{at}");
    }
    // Other programs read the format too.
    let path = from.path().join("archive");
    fs::write(&path, &tar).unwrap();
    let listed = std::process::Command::new("tar").arg("tvf").arg(&path).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(&format!("{size} ")) && listed.contains("t/sparse"), "{listed}");
}

#[test]
fn f06_links_of_the_archive_are_not_gone_through() {
    for links in [Links::OldInRoot, Links::OldBelow] {
        for (link, path) in [("/outside", "s/x"), ("..", "s/x"), ("../outside", "s/x"), ("d", "s/x")] {
            let outer = tempfile::tempdir().unwrap();
            let root = outer.path().join("root");
            fs::create_dir_all(root.join("d")).unwrap();
            fs::create_dir(outer.path().join("outside")).unwrap();
            let tar = archive(&[entry(Kind::Symlink, "s", link), entry(Kind::File, path, "")]);
            let refused = unpack(&tar, &root, "", links);
            assert!(matches!(refused, Err(ArchiveError::Entry { .. })), "{links:?} {link}: {refused:?}");
            assert_eq!(fs::read_dir(outer.path().join("outside")).unwrap().count(), 0);
            // Replaced by a folder of the archive, the name is one again.
            let tar = archive(&[
                entry(Kind::Symlink, "s", link),
                entry(Kind::Directory, "s/", ""),
                entry(Kind::File, path, ""),
            ]);
            unpack(&tar, &root, "", links).unwrap();
            assert!(root.join("s/x").is_file());
        }
    }
}

#[test]
fn links_of_the_tree_are_followed_inside_it_only() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    fs::create_dir_all(root.join("usr/lib")).unwrap();
    symlink("/usr/lib", root.join("lib")).unwrap();
    symlink(outer.path(), root.join("out")).unwrap();
    unpack(&archive(&[entry(Kind::File, "lib/x", "")]), &root, "", Links::OldInRoot).unwrap();
    assert!(root.join("usr/lib/x").is_file());
    // Inside, it names a folder that is not there.
    assert!(unpack(&archive(&[entry(Kind::File, "out/x", "")]), &root, "", Links::OldInRoot).is_err());
    // A copy to this machine does not leave its destination.
    for path in ["out/x", "lib/y"] {
        assert!(
            unpack(&archive(&[entry(Kind::File, path, "")]), &root, "", Links::OldBelow).is_err(),
            "{path}"
        );
    }
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
}

#[test]
fn folders_and_files_replace_each_other_without_touching_what_links_lead_to() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    fs::create_dir_all(root.join("dir/deep")).unwrap();
    fs::write(outer.path().join("kept"), "kept").unwrap();
    symlink("../../../kept", root.join("dir/deep/link")).unwrap();
    symlink("../kept", root.join("file")).unwrap();
    let tar = archive(&[entry(Kind::File, "dir", ""), entry(Kind::File, "file", "")]);
    unpack(&tar, &root, "", Links::OldBelow).unwrap();
    assert!(root.join("dir").is_file() && fs::symlink_metadata(root.join("file")).unwrap().is_file());
    assert_eq!(fs::read_to_string(outer.path().join("kept")).unwrap(), "kept");
}

#[test]
fn a_file_that_shrinks_gives_what_its_header_says() {
    /// Cuts the file when its header has been written.
    struct Cutting<'a>(Vec<u8>, &'a Path);
    impl std::io::Write for Cutting<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.extend_from_slice(bytes);
            fs::OpenOptions::new().write(true).open(self.1).unwrap().set_len(10).unwrap();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let from = tempfile::tempdir().unwrap();
    let path = from.path().join("file");
    fs::write(&path, vec![b'x'; 100_000]).unwrap();
    let mut packer = Packer::new(Cutting(Vec::new(), &path));
    packer.tree(folder(from.path()), b"").unwrap();
    let tar = packer.finish().unwrap().0;
    let mut reader = TarReader::new(tar.as_slice(), false);
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!(entry.size, 100_000);
    assert_eq!(reader.content(1 << 20).unwrap().len(), 100_000);
    assert!(reader.next_entry().unwrap().is_none());
}
