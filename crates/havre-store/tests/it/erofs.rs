//! A layer that is mounted is what it would be if it were extracted: by hand, and by thousands of archives.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use havre_oci::Digest;
use havre_store::tar::{Entry, Kind, TarWriter};
use havre_store::{Driver, Limits, StoreError, Verified};

use crate::layers::{World, archive, file, folder, has, of, world};

/// Everything there is to see of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    device: u64,
    length: u64,
    mtime: (i64, i64),
    /// Its content, or where it leads.
    content: Vec<u8>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first name of the same file.
    same: Option<OsString>,
}

type Tree = BTreeMap<OsString, Seen>;

/// What is below a folder, with as many links as there are names. Times are left out of what has none in the archive.
fn look(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut inodes = BTreeMap::new();
    let mut left = vec![OsString::new()];
    while let Some(name) = left.pop() {
        let path = root.join(&name);
        // The root is a link of procfs where it is a mount.
        let meta = if name.is_empty() { path.metadata() } else { path.symlink_metadata() }.unwrap();
        let kind = meta.file_type();
        if meta.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap() {
                let own = entry.unwrap().file_name();
                left.push(if name.is_empty() { own } else { Path::new(&name).join(own).into_os_string() });
            }
        }
        let content = if meta.is_file() {
            std::fs::read(&path).unwrap()
        } else if kind.is_symlink() {
            std::fs::read_link(&path).unwrap().into_os_string().into_vec()
        } else {
            Vec::new()
        };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        if links > 0 {
            inodes.entry(meta.ino()).or_insert_with(Vec::new).push(name.clone());
        }
        let device = kind.is_char_device() || kind.is_block_device();
        let seen = Seen {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            links,
            device: if device { meta.rdev() } else { 0 },
            length: if meta.is_dir() { 0 } else { meta.len() },
            mtime: (meta.mtime(), meta.mtime_nsec()),
            content,
            xattrs: xattrs(&path),
            same: None,
        };
        tree.insert(name, seen);
    }
    for mut names in inodes.into_values() {
        names.sort();
        for name in &names {
            let seen = tree.get_mut(name).unwrap();
            // Extraction keeps what was replaced, as one more name out of sight.
            assert!(seen.links >= names.len() as u64, "{name:?}");
            (seen.links, seen.same) = (names.len() as u64, Some(names[0].clone()));
        }
    }
    tree
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0_u8; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 65_536];
        // For the listing has names of what cannot be read.
        if let Ok(length) = rustix::fs::lgetxattr(path, name, &mut value) {
            found.insert(OsString::from_vec(name.to_vec()), value[..length].to_vec());
        }
    }
    found
}

/// Both forms of a layer.
struct Pair {
    extracted: World,
    mounted: World,
}

impl Pair {
    fn new() -> Option<Self> {
        (has(Driver::Overlay2) && has(Driver::Erofs))
            .then(|| Self { extracted: world(Driver::Overlay2), mounted: world(Driver::Erofs) })
    }

    /// The same archive by both; the tree, unless it is refused by both in the same words.
    fn apply(&self, tar: &[u8]) -> Result<Tree, String> {
        let [extracted, mounted] =
            [&self.extracted, &self.mounted].map(|world| -> Result<Tree, StoreError> {
                let layer = world.store.extract(tar, Limits::default())?;
                let (diff_id, size) = (layer.info.diff_id.clone(), layer.info.size);
                world.store.commit(vec![layer])?;
                let tree = look(&world.files(&diff_id));
                world.forget();
                let verified = world.store.verify(&diff_id);
                if world.store.driver() == Driver::Erofs {
                    assert_eq!(verified.unwrap(), Verified::Whole);
                    let mut again = Vec::new();
                    world.store.write_tar(&diff_id, &mut again).unwrap();
                    assert!(again == tar);
                }
                let regular: u64 =
                    tree.values().filter(|seen| seen.mode & 0o170_000 == 0o100_000).map(|s| s.length).sum();
                assert!(size >= regular / 64, "{size} {regular}");
                world.store.remove_layer(&diff_id).unwrap();
                Ok(tree)
            });
        match (extracted, mounted) {
            (Ok(mut extracted), Ok(mut mounted)) => {
                // What no entry gives a time has that of its making.
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                let recent = i64::try_from(now.as_secs()).unwrap() - 600;
                for tree in [&mut extracted, &mut mounted] {
                    for seen in tree.values_mut().filter(|seen| seen.mtime.0 >= recent) {
                        seen.mtime = (i64::MAX, 0);
                    }
                }
                // A folder that was made through a link that is another one by now does not get its time.
                for (name, seen) in &mut mounted {
                    if extracted.get(name).is_some_and(|old| old.mtime.0 == i64::MAX) {
                        seen.mtime = (i64::MAX, 0);
                    }
                }
                same(&extracted, &mounted);
                Ok(mounted)
            }
            (Err(one), Err(other)) => {
                let [one, other] = [one, other].map(|error| havre_base::chain(&error));
                assert_eq!(one, other);
                Err(one)
            }
            (one, other) => panic!("extracted: {one:?}\nmounted: {other:?}"),
        }
    }
}

fn same(extracted: &Tree, mounted: &Tree) {
    for (name, seen) in extracted {
        assert_eq!(Some(seen), mounted.get(name), "{name:?}");
    }
    assert_eq!(extracted.len(), mounted.len(), "{:?}", mounted.keys());
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        bytes.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn with(entry: Entry, xattrs: &[(&str, &[u8])]) -> Entry {
    let owned = |(name, value): &(&str, &[u8])| (name.as_bytes().to_vec(), value.to_vec());
    Entry { xattrs: xattrs.iter().map(owned).collect(), ..entry }
}

#[test]
fn every_kind_of_entry_is_the_same_mounted_as_extracted() {
    let Some(pair) = Pair::new() else { return };
    let capability: Vec<u8> = [1, 0, 0, 2].into_iter().chain([7; 16]).collect();
    let list =
        acl(&[(1, 6, u32::MAX), (2, 7, 1000), (4, 4, u32::MAX), (0x10, 5, u32::MAX), (0x20, 0, u32::MAX)]);
    let long = "n".repeat(255);
    let far = format!("{}end", "up/".repeat(700));
    let mut entries: Vec<(Entry, Vec<u8>)> = vec![
        (Entry { uid: 3, gid: 4, mode: 0o1751, ..folder("./") }, vec![]),
        (with(folder("attributes/"), &[("user.a", b"1"), ("system.posix_acl_default", &list)]), vec![]),
        (with(file("caps"), &[("security.capability", &capability), ("user.x", &[7; 3000])]), vec![9; 5000]),
        (with(file("listed"), &[("system.posix_acl_access", &list), ("user.empty", b"")]), vec![]),
        (
            with(of(Kind::Fifo, "fifo", ""), &[("user.never", b"1"), ("system.posix_acl_access", &list)]),
            vec![],
        ),
        (with(of(Kind::Symlink, "l", "nowhere"), &[("user.never", b"1")]), vec![]),
        (of(Kind::Symlink, "far", &far), vec![]),
        (of(Kind::Symlink, "middle", &"m".repeat(430)), vec![]),
        (
            Entry {
                mtime: (-86_400, 0),
                mode: 0o4755,
                uid: 70_000,
                gid: u64::from(u32::MAX) - 1,
                ..file("ids")
            },
            vec![1; 512],
        ),
        (Entry { device: (8, 300), uid: 6, mode: 0o660, ..of(Kind::Block, "dev/sda", "") }, vec![]),
        (Entry { device: (1, 3), ..of(Kind::Character, "dev/null", "") }, vec![]),
        (of(Kind::HardLink, "dev/zero", "dev/null"), vec![]),
        (of(Kind::HardLink, "l2", "l"), vec![]),
        (file(&format!("{long}/{long}/{long}")), b"deep".to_vec()),
        (file("gone/.wh.this"), vec![]),
        (file("gone/.wh..wh..opq"), vec![]),
        (Entry { mode: 0o2775, gid: 44, ..folder("group/") }, vec![]),
        (file("group/implied/inner"), b"i".to_vec()),
        (file("again"), b"first".to_vec()),
        (of(Kind::HardLink, "kept", "again"), vec![]),
        (file("again"), b"second and longer".to_vec()),
        (file("tree/a/b/c"), b"x".to_vec()),
        (of(Kind::Symlink, "tree", "group"), vec![]),
        (file("tree/through"), b"t".to_vec()),
    ];
    for number in 0..3000 {
        entries
            .push((file(&format!("many/{number}-{}", "x".repeat(number % 60))), vec![b'c'; number % 1500]));
    }
    let entries: Vec<(Entry, &[u8])> =
        entries.iter().map(|(entry, bytes)| (entry.clone(), &bytes[..])).collect();
    let tree = pair.apply(&archive(&entries)).unwrap();
    let of = |name: &str| tree.get(&OsString::from(name)).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(of("kept").content, b"first");
    assert_eq!(of("again").content, b"second and longer");
    assert_eq!((of("group/through").content.as_slice(), of("group/implied").owner), (&b"t"[..], (0, 44)));
    assert_eq!(of("listed").mode & 0o777, 0o650);
    assert_eq!((of("dev/null").links, of("kept").links), (2, 1));
    assert_eq!(of("far").content.len(), far.len());
    assert_eq!(of("caps").xattrs.len(), 2);
    assert!(tree.len() > 3025);
}

#[test]
fn sparse_files_of_any_shape_are_the_same() {
    let Some(pair) = Pair::new() else { return };
    let mut tar = TarWriter::new(Vec::new());
    let mut sparse = |name: &str, size: u64, parts: &[(u64, u64)]| {
        let entry = Entry { size, ..file(name) };
        let stored = tar.sparse_header(&entry, parts).unwrap();
        for (number, (_, length)) in (1..=250).cycle().zip(parts) {
            let bytes = vec![number; usize::try_from(*length).unwrap()];
            std::io::Write::write_all(tar.content(), &bytes).unwrap();
        }
        tar.pad(stored).unwrap();
    };
    sparse("odd", 50_000, &[(1, 3), (777, 5000), (49_990, 10)]);
    sparse("hollow", 3 << 20, &[]);
    sparse("whole", 10_000, &[(0, 10_000)]);
    sparse("end", 40 << 20, &[((40 << 20) - 1, 1)]);
    sparse("many", 24 << 20, &(0..500).map(|n| (n * 40_000, 300)).collect::<Vec<_>>());
    let tar = tar.finish().unwrap();
    let tree = pair.apply(&tar).unwrap();
    assert_eq!(tree[&OsString::from("end")].content.last(), Some(&1));
    assert_eq!(tree[&OsString::from("odd")].content[776..778], [0, 2]);
}

#[test]
fn a_file_that_changed_is_found_wherever_it_changed() {
    if !has(Driver::Erofs) {
        return;
    }
    let world = world(Driver::Erofs);
    let entries: Vec<_> = (0..40).map(|n| (file(&format!("d/{n}")), &b"content"[..])).collect();
    let tar = archive(&entries);
    let layer = world.store.extract(tar.as_slice(), Limits::default()).unwrap();
    let diff_id = layer.info.diff_id.clone();
    world.store.commit(vec![layer]).unwrap();
    let path = world.store.layer_path(&diff_id);
    let whole = std::fs::read(&path).unwrap();
    for at in [0, 1030, 1100, 4095, 4096 + 700, 4096 + tar.len() + 600, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 0x40;
        std::fs::write(&path, &changed).unwrap();
        let verified = world.store.verify(&diff_id);
        if (4096..4096 + tar.len()).contains(&at) {
            assert!(matches!(verified, Err(StoreError::Mismatch { .. })), "{at}: {verified:?}");
            assert!(world.store.mend(&diff_id).is_err());
            continue;
        }
        // What follows from the archive is made from it again.
        assert_eq!(verified.unwrap(), Verified::Mendable, "{at} of {}", whole.len());
        world.store.mend(&diff_id).unwrap();
        assert!(std::fs::read(&path).unwrap() == whole, "{at}");
    }
    for changed in [&whole[..whole.len() - 1], &[whole.as_slice(), b"x"].concat()] {
        std::fs::write(&path, changed).unwrap();
        assert_eq!(world.store.verify(&diff_id).unwrap(), Verified::Mendable);
        world.store.mend(&diff_id).unwrap();
        assert!(std::fs::read(&path).unwrap() == whole);
    }
    std::fs::write(&path, &whole[..5000]).unwrap();
    assert!(world.store.verify(&diff_id).is_err());
    assert!(matches!(world.store.verify(&Digest::of_bytes(b"")), Err(StoreError::Missing(_))));
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(world.store.verify(&diff_id).unwrap(), Verified::Whole);
}

#[test]
fn names_and_attributes_are_bounded_in_memory() {
    let world = world(Driver::Erofs);
    let many: Vec<_> = (0..2000).map(|n| (file(&format!("f{n}")), &b""[..])).collect();
    let attributes = with(file("f"), &[("user.a", &[0; 60_000]), ("user.b", &[0; 60_000])]);
    let long = of(Kind::Symlink, "l", &"x".repeat(4000));
    let again = vec![(long, &b""[..]); 40];
    for tar in [archive(&many), archive(&[(attributes, b"")]), archive(&again)] {
        let limits = Limits { memory: 100_000, ..Limits::default() };
        let error = world.store.extract(tar.as_slice(), limits).unwrap_err().to_string();
        assert!(error.contains("exceeds the limit of 100000 bytes of names and attributes"), "{error}");
        world.store.extract(tar.as_slice(), Limits::default()).unwrap();
    }
    // What a single file can have.
    let large = with(file("f"), &[("user.a", &[0; 65_536])]);
    assert!(world.store.extract(archive(&[(large, b"")]).as_slice(), Limits::default()).is_err());
}

/// A small reproducible source of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn path(&mut self) -> String {
        const NAMES: &[&str] =
            &["a", "b", "c", "d", "up", "self", "abs", ".wh.a", ".wh.c", ".wh..wh..opq", ".", ".wh.d", "x"];
        let parts = 1 + self.below(4);
        (0..parts).map(|_| self.pick(NAMES)).collect::<Vec<_>>().join("/")
    }

    fn entry(&mut self) -> (Entry, Vec<u8>) {
        const TARGETS: &[&str] =
            &["a", "../b", "/", "/a/b", ".", "../../..", "c/d", "missing", "/up/x", "self", "x"];
        let path = self.path();
        let kind = match self.below(10) {
            0..=3 => Kind::File,
            4..=5 => Kind::Directory,
            6..=7 => Kind::Symlink,
            8 => Kind::HardLink,
            _ => Kind::Character,
        };
        let link = match kind {
            Kind::Symlink => self.pick(TARGETS).to_owned(),
            Kind::HardLink => self.path(),
            _ => String::new(),
        };
        let mode = [0o644, 0o755, 0o2775, 0o4711, 0][usize::try_from(self.below(5)).unwrap()];
        let entry = Entry {
            kind,
            path: path.into_bytes(),
            link: link.into_bytes(),
            mode,
            uid: self.below(3) * 1000,
            gid: self.below(3) * 50,
            mtime: (1_000_000_000 + i64::try_from(self.below(1000)).unwrap(), 0),
            device: (0, u32::try_from(self.below(2)).unwrap()),
            ..Entry::default()
        };
        let content =
            if kind == Kind::File { vec![b'x'; usize::try_from(self.below(700)).unwrap()] } else { vec![] };
        (entry, content)
    }
}

/// `HAVRE_EROFS_SEED` replays one archive, `HAVRE_EROFS_ROUNDS` makes more of them.
#[test]
fn archives_that_nobody_would_write_are_the_same_or_refused_alike() {
    let Some(pair) = Pair::new() else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("HAVRE_EROFS_SEED");
    let seeds = match seed {
        Some(seed) => seed..seed + 1,
        None => 0..number("HAVRE_EROFS_ROUNDS").unwrap_or(400),
    };
    let (mut taken, mut refused) = (0, 0);
    for seed in seeds {
        let mut random = Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let count = 2 + random.below(14);
        let entries: Vec<_> = (0..count).map(|_| random.entry()).collect();
        let entries: Vec<(Entry, &[u8])> = entries.iter().map(|(e, bytes)| (e.clone(), &bytes[..])).collect();
        let tar = archive(&entries);
        println!("seed {seed}");
        for (entry, _) in &entries {
            println!("  {:?} {:?} -> {:?}", entry.kind, lossy(&entry.path), lossy(&entry.link));
        }
        match pair.apply(&tar) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(seed.is_some() || (taken > 20 && refused > 20), "{taken} taken, {refused} refused");
}

fn lossy(bytes: &[u8]) -> String {
    std::ffi::OsStr::from_bytes(bytes).to_string_lossy().into_owned()
}
