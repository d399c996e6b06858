//! Layers: what honest archives become, and what hostile ones cannot do.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use havre_base::ContainerId;
use havre_oci::Digest;
use havre_store::tar::{Entry, Kind, TarWriter};
use havre_store::{ArchiveError, Driver, Limits, Snapshots, StoreError, Verified};

pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) store: Snapshots,
    /// Layers that are looked at while they are mounted.
    mounts: RefCell<Vec<OwnedFd>>,
}

pub(crate) fn world(driver: Driver) -> World {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Snapshots::open(&folder.path().join("snapshots"), driver).unwrap();
    World { folder, store, mounts: RefCell::default() }
}

/// Whether layers of this driver can be looked at here. Device nodes, trusted attributes and mounts need root.
pub(crate) fn has(driver: Driver) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP layers: needs root");
        return false;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let can = Driver::select(folder.path(), Some(driver));
    if let Err(error) = &can {
        println!("SKIP layers: {error}");
    }
    can.is_ok()
}

/// What holds for every form of a layer.
macro_rules! held {
    ($($name:ident,)*) => {
        mod overlay2 {
            $(#[test]
            fn $name() {
                if super::has(super::Driver::Overlay2) {
                    super::$name(&super::world(super::Driver::Overlay2));
                }
            })*
        }
        mod erofs {
            $(#[test]
            fn $name() {
                if super::has(super::Driver::Erofs) {
                    super::$name(&super::world(super::Driver::Erofs));
                }
            })*
        }
    };
}

held! {
    files_keep_what_the_archive_says_of_them,
    whiteouts_become_overlayfs_ones,
    i05_an_archive_cannot_speak_to_overlayfs,
    i01_names_that_lead_outside_are_refused,
    i02_i04_links_are_followed_inside_the_layer_only,
    i03_hard_links_stay_inside,
    an_entry_may_come_twice_and_the_last_one_counts,
    i07_xz_that_asks_for_too_much_memory_is_refused,
    compressed_layers_are_the_same_layers,
    a_broken_archive_is_an_error_and_leaves_nothing,
    i07_a_bomb_is_stopped,
    gnu_tars_archives_are_understood,
}

impl World {
    fn apply(&self, tar: &[u8]) -> Result<PathBuf, StoreError> {
        let layer = self.store.extract(tar, Limits::default())?;
        let diff_id = layer.info.diff_id.clone();
        assert_eq!(diff_id, Digest::of_bytes(tar));
        self.store.commit(vec![layer])?;
        let mut again = Vec::new();
        self.store.write_tar(&diff_id, &mut again).unwrap();
        assert!(again == tar, "the archive comes out as it went in");
        assert_eq!(self.store.verify(&diff_id).unwrap(), Verified::Whole);
        Ok(self.files(&diff_id))
    }

    /// Where the files of a layer can be looked at, as long as this lives.
    pub(crate) fn files(&self, diff_id: &Digest) -> PathBuf {
        let path = self.store.layer_path(diff_id);
        let Some(mount) = havre_sys::erofs::mount_if_file(&path).unwrap() else { return path };
        let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        self.mounts.borrow_mut().push(mount);
        path
    }

    /// Ends all looking.
    pub(crate) fn forget(&self) {
        self.mounts.borrow_mut().clear();
    }
}

pub(crate) fn file(path: &str) -> Entry {
    Entry { path: path.into(), mode: 0o644, mtime: (1_000_000_000, 0), ..Entry::default() }
}

pub(crate) fn of(kind: Kind, path: &str, link: &str) -> Entry {
    Entry { kind, link: link.into(), mode: 0o755, ..file(path) }
}

pub(crate) fn folder(path: &str) -> Entry {
    of(Kind::Directory, path, "")
}

pub(crate) fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (entry, content) in entries {
        tar.entry(entry.clone(), content).unwrap();
    }
    tar.finish().unwrap()
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0_u8; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    Some(value[..length].to_vec())
}

fn is_whiteout(path: &Path) -> bool {
    let meta = std::fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn files_keep_what_the_archive_says_of_them(world: &World) {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("usr/{}/{}", "d".repeat(120), "f".repeat(200));
    let fs = world
        .apply(&archive(&[
            (folder("./"), b""),
            (Entry { mtime: (1_111_111_111, 0), mode: 0o1777, ..folder("tmp/") }, b""),
            (file("tmp/a"), b"hello"),
            (Entry { mode: 0o4755, uid: 1000, gid: 50, ..file("bin/su") }, b"x"),
            (
                Entry {
                    xattrs: vec![
                        (b"security.capability".to_vec(), capability.to_vec()),
                        (b"user.note".to_vec(), b"n".to_vec()),
                    ],
                    uid: 7,
                    ..file("bin/ping")
                },
                b"p",
            ),
            (of(Kind::Symlink, "bin/sh", "/bin/busybox"), b""),
            (of(Kind::HardLink, "bin/also-su", "bin/su"), b""),
            (Entry { device: (1, 3), mode: 0o666, ..of(Kind::Character, "dev/null", "") }, b""),
            (of(Kind::Fifo, "pipe", ""), b""),
            (file(&long), b"deep"),
            (file("/absolute"), b"a"),
            (file(r"back\slash"), b"b"),
        ]))
        .unwrap();
    let meta = |path: &str| std::fs::symlink_metadata(fs.join(path)).unwrap();
    assert_eq!(std::fs::read(fs.join("tmp/a")).unwrap(), b"hello");
    assert_eq!((meta("tmp").mode() & 0o7777, meta("tmp").mtime()), (0o1777, 1_111_111_111));
    assert_eq!(
        (meta("bin/su").mode() & 0o7777, meta("bin/su").uid(), meta("bin/su").gid()),
        (0o4755, 1000, 50)
    );
    assert_eq!(meta("bin/su").ino(), meta("bin/also-su").ino());
    assert_eq!(attribute(&fs.join("bin/ping"), "security.capability").unwrap(), capability);
    assert_eq!(attribute(&fs.join("bin/ping"), "user.note").unwrap(), b"n");
    assert_eq!(std::fs::read_link(fs.join("bin/sh")).unwrap(), Path::new("/bin/busybox"));
    assert_eq!(
        (meta("dev/null").rdev(), meta("dev/null").mode() & 0o777),
        (rustix::fs::makedev(1, 3), 0o666)
    );
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(std::fs::read(fs.join(&long)).unwrap(), b"deep");
    assert!(meta("absolute").is_file() && meta(r"back\slash").is_file());
    assert_eq!(meta("tmp/a").mtime(), 1_000_000_000);
}

fn whiteouts_become_overlayfs_ones(world: &World) {
    let fs = world
        .apply(&archive(&[
            (file("etc/.wh.passwd"), b""),
            (folder("var/"), b""),
            (file("var/.wh..wh..opq"), b""),
            (file("var/new"), b"n"),
            (file(".wh..wh.plnk"), b""),
            (file("opt/.wh.tool"), b""),
            (folder("opt/tool/"), b""),
            (folder("srv/x/"), b""),
            (file("srv/.wh.x"), b""),
            (file("lib/kept"), b"k"),
            (file("lib/.wh.kept"), b""),
        ]))
        .unwrap();
    assert!(is_whiteout(&fs.join("etc/passwd")));
    assert_eq!(attribute(&fs.join("var"), "trusted.overlay.opaque").unwrap(), b"y");
    assert!(!fs.join("var/.wh..wh..opq").exists() && !fs.join(".wh..wh.plnk").exists());
    assert_eq!(attribute(&fs.join("opt/tool"), "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(attribute(&fs.join("srv/x"), "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(std::fs::read(fs.join("lib/kept")).unwrap(), b"k");
}

fn i05_an_archive_cannot_speak_to_overlayfs(world: &World) {
    let names = [
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "user.overlay.opaque",
        "security.selinux",
        "trusted.x",
    ];
    let xattrs: Vec<_> = names.iter().map(|name| (name.as_bytes().to_vec(), b"/etc".to_vec())).collect();
    let fs = world
        .apply(&archive(&[
            (Entry { xattrs: xattrs.clone(), ..folder("d/") }, b""),
            (Entry { xattrs, ..file("f") }, b"x"),
        ]))
        .unwrap();
    for name in names {
        assert_eq!(attribute(&fs.join("d"), name), None, "{name}");
        assert_eq!(attribute(&fs.join("f"), name), None, "{name}");
    }
}

fn i01_names_that_lead_outside_are_refused(world: &World) {
    let nul = Entry { xattrs: vec![], ..file("x") };
    let deep = "d/".repeat(400) + "f";
    for bad in ["../x", "a/../../x", "a/..", "..", deep.as_str(), "d/.wh...", "d/.wh..", "d/.wh."] {
        let error = world.apply(&archive(&[(file(bad), b"x")])).unwrap_err();
        assert!(matches!(error, StoreError::Archive(ArchiveError::Entry { .. })), "{bad}: {error}");
    }
    drop(nul);
    assert_eq!(std::fs::read_dir(world.folder.path()).unwrap().count(), 1);
}

fn i02_i04_links_are_followed_inside_the_layer_only(world: &World) {
    let outside = world.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap();
    let up = "../".repeat(40) + target.trim_start_matches('/');
    let fs = world
        .apply(&archive(&[
            (folder(target), b""),
            (of(Kind::Symlink, "abs", target), b""),
            (of(Kind::Symlink, "rel", &up), b""),
            (file("abs/one"), b"1"),
            (file("rel/two"), b"2"),
            (file("abs/.wh.three"), b""),
            (file("abs/.wh..wh..opq"), b""),
            // The link is replaced, not followed.
            (of(Kind::Symlink, "file", &format!("{target}/victim")), b""),
            (file("file"), b"new"),
            (of(Kind::Symlink, "dir", target), b""),
            (Entry { mode: 0o700, ..folder("dir/") }, b""),
            (file("dir/four"), b"4"),
        ]))
        .unwrap();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "nothing outside");
    assert_eq!(std::fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o755);
    let inside = fs.join(target.trim_start_matches('/'));
    assert_eq!(std::fs::read(inside.join("one")).unwrap(), b"1");
    assert_eq!(std::fs::read(inside.join("two")).unwrap(), b"2");
    assert!(is_whiteout(&inside.join("three")));
    assert!(fs.join("file").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(fs.join("dir/four")).unwrap(), b"4");
}

fn i03_hard_links_stay_inside(world: &World) {
    let victim = world.folder.path().join("victim");
    std::fs::write(&victim, "secret").unwrap();
    for target in
        [victim.to_str().unwrap().to_owned(), "../".repeat(30) + "etc/passwd", "../../victim".into()]
    {
        let result = world.apply(&archive(&[(of(Kind::HardLink, "stolen", &target), b"")]));
        assert!(result.is_err(), "{target}");
    }
    // Through a link of the layer: the name is looked up inside.
    let result = world.apply(&archive(&[
        (of(Kind::Symlink, "out", world.folder.path().to_str().unwrap()), b""),
        (of(Kind::HardLink, "stolen", "out/victim"), b""),
    ]));
    assert!(result.is_err());
    assert_eq!(std::fs::metadata(&victim).unwrap().nlink(), 1);
}

fn an_entry_may_come_twice_and_the_last_one_counts(world: &World) {
    let fs = world
        .apply(&archive(&[
            (file("a"), b"first"),
            (of(Kind::HardLink, "b", "a"), b""),
            (file("a"), b"second"),
            (file("a"), b"third"),
            (of(Kind::Symlink, "a2", "a"), b""),
            (file("a2"), b"file now"),
            (folder("empty/"), b""),
            (folder("empty/"), b""),
        ]))
        .unwrap();
    assert_eq!(std::fs::read(fs.join("a")).unwrap(), b"third");
    assert_eq!(std::fs::read(fs.join("b")).unwrap(), b"first");
    assert_eq!(std::fs::read(fs.join("a2")).unwrap(), b"file now");
}

#[test]
fn a_link_in_place_of_a_folder_does_not_lend_its_time() {
    let world = world(Driver::Overlay2);
    let tar = archive(&[
        (Entry { mtime: (2_000, 0), ..folder("target/") }, b""),
        (Entry { mtime: (1_000, 0), ..folder("link/") }, b""),
        (of(Kind::Symlink, "link", "target"), b""),
    ]);
    world.store.commit(vec![world.store.extract(tar.as_slice(), Limits::default()).unwrap()]).unwrap();
    let fs = world.files(&Digest::of_bytes(&tar));
    assert_eq!(fs.join("target").symlink_metadata().unwrap().mtime(), 2_000);
}

/// Packs with a dictionary of so many bytes.
fn xz(bytes: &[u8], dictionary: u32) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    options.lzma_options.dict_size = dictionary;
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    xz.write_all(bytes).unwrap();
    xz.finish().unwrap()
}

fn i07_xz_that_asks_for_too_much_memory_is_refused(world: &World) {
    let mut packed = xz(&archive(&[(file("a"), b"x")]), 1 << 20);
    // The dictionary's size is a byte of the block's header, behind which is its checksum: found by both.
    let header = 12;
    let length = (usize::from(packed[header]) + 1) * 4;
    let at = header + 4;
    assert_eq!(packed[header + 2..at], [0x21, 1], "LZMA2 with one byte of properties");
    packed[at] = 39;
    let sum = crc32(&packed[header..header + length - 4]);
    packed[header + length - 4..header + length].copy_from_slice(&sum.to_le_bytes());
    let error = world.store.extract(packed.as_slice(), Limits::default()).unwrap_err();
    assert!(format!("{error:?}").contains("memory"), "{error:?}");
}

/// CRC-32 as xz has it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}

fn compressed_layers_are_the_same_layers(world: &World) {
    let tar = archive(&[(file("a"), &[7; 100_000])]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(tar.as_slice(), 3).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&tar).unwrap();
    let bzip2 = bzip2.finish().unwrap();
    let xz = xz(&tar, 1 << 20);
    for packed in [&tar, &gzip, &zstd, &bzip2, &xz] {
        let layer = world.store.extract(packed.as_slice(), Limits::default()).unwrap();
        assert_eq!(layer.info.diff_id, Digest::of_bytes(&tar));
        assert_eq!(layer.info.size, 100_000);
        assert_eq!(layer.info.tar_size, tar.len() as u64);
        assert_eq!(layer.blob, (Digest::of_bytes(packed), packed.len() as u64));
        let cut = &packed[..packed.len() - 9];
        assert!(cut.len() > tar.len() / 2 || world.store.extract(cut, Limits::default()).is_err());
    }
}

fn a_broken_archive_is_an_error_and_leaves_nothing(world: &World) {
    let tar = archive(&[(file("a"), &[7; 3_000]), (file("b"), b"x")]);
    for length in [1, 100, 511, 513, 2_000, 3_583, 3_600] {
        assert!(world.store.extract(&tar[..length], Limits::default()).is_err(), "cut at {length}");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    assert!(world.store.extract(&gzip[..gzip.len() - 9], Limits::default()).is_err());
    let mut noise = tar.clone();
    noise[148] ^= 1;
    assert!(world.store.extract(noise.as_slice(), Limits::default()).is_err(), "checksum");
    assert_eq!(world.store.layers(), []);
}

fn i07_a_bomb_is_stopped(world: &World) {
    let limits = Limits { bytes: 10 << 20, ..Limits::default() };
    let huge = Entry { size: 1 << 40, ..file("huge") };
    let mut tar = TarWriter::new(Vec::new());
    tar.header(&huge).unwrap();
    let tar = tar.finish().unwrap();
    assert!(matches!(
        world.store.extract(tar.as_slice(), limits),
        Err(StoreError::Archive(ArchiveError::Limit { .. }))
    ));
    let many: Vec<_> = (0..200).map(|n| (file(&format!("f{n}")), &b""[..])).collect();
    let limits = Limits { entries: 100, ..Limits::default() };
    assert!(matches!(
        world.store.extract(archive(&many).as_slice(), limits),
        Err(StoreError::Archive(ArchiveError::Limit { .. }))
    ));
    // Sixteen GiB of zeros in half a megabyte: stopped soon after the first one.
    let block = zstd::encode_all(std::io::repeat(0).take_bytes(64 << 20), 1).unwrap();
    let header = {
        let mut tar = TarWriter::new(Vec::new());
        tar.header(&Entry { size: 16 << 30, ..file("zeros") }).unwrap();
        zstd::encode_all(tar.content().as_slice(), 1).unwrap()
    };
    let mut bomb = header;
    (0..256).for_each(|_| bomb.extend_from_slice(&block));
    let error = world.store.extract(bomb.as_slice(), Limits::default()).unwrap_err();
    assert!(matches!(error, StoreError::Archive(ArchiveError::Archive(_))), "{error}");
}

trait TakeBytes: std::io::Read + Sized {
    fn take_bytes(self, count: u64) -> std::io::Take<Self> {
        std::io::Read::take(self, count)
    }
}
impl<R: std::io::Read> TakeBytes for R {}

fn gnu_tars_archives_are_understood(world: &World) {
    let source = world.folder.path().join("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("sub/text"), "text").unwrap();
    let sparse = std::fs::File::create(source.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 5 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    for format in ["gnu", "posix", "oldgnu"] {
        let tar = std::process::Command::new("tar")
            .args(["-S", &format!("--format={format}"), "-C"])
            .arg(&source)
            .args(["-c", "."])
            .output()
            .unwrap();
        assert!(tar.status.success());
        let fs = world.apply(&tar.stdout).unwrap();
        let meta = fs.join("sparse").metadata().unwrap();
        assert_eq!(meta.len(), 20 << 20, "{format}");
        let stored = match world.store.driver() {
            Driver::Erofs => world.store.layer_path(&Digest::of_bytes(&tar.stdout)).metadata().unwrap(),
            _ => meta,
        };
        assert!(stored.blocks() * 512 < 1 << 20, "{format}: still sparse");
        assert_eq!(std::fs::read(source.join("sparse")).unwrap(), std::fs::read(fs.join("sparse")).unwrap());
        assert_eq!(std::fs::read(fs.join("sub/text")).unwrap(), b"text");
    }
}

#[test]
fn folders_are_closed_to_others_and_repaired() {
    let world = world(Driver::Overlay2);
    let layers = world.folder.path().join("snapshots/layers");
    std::fs::set_permissions(&layers, std::fs::Permissions::from_mode(0o755)).unwrap();
    drop(Snapshots::open(&world.folder.path().join("snapshots"), Driver::Overlay2).unwrap());
    assert_eq!(layers.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn writable_layers_come_and_go() {
    let world = world(Driver::Overlay2);
    let id = ContainerId::random();
    let layer = world.store.create_writable(&id, &[]).unwrap();
    assert_eq!(world.store.create_writable(&id, &[]).unwrap(), layer, "idempotent");
    assert_eq!(layer.folder().metadata().unwrap().permissions().mode() & 0o777, 0o755);
    std::fs::write(layer.folder().join("file"), "x").unwrap();
    assert_eq!(world.store.writables(), std::slice::from_ref(&id));
    world.store.remove_writable(&id).unwrap();
    world.store.remove_writable(&id).unwrap();
    assert_eq!(world.store.writables(), []);
    assert!(!layer.folder().exists());
}
