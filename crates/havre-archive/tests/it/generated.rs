//! Archives that nobody would write, made by the thousand: names and links that lead out, headers that contradict
//! each other, records of both extensions, bytes that flipped, ends that are missing.
//!
//! The properties: nothing outside the root is touched, nothing panics, and it ends. `HAVRE_ARCHIVE_SEED` replays
//! one archive, `HAVRE_ARCHIVE_ROUNDS` makes more of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use havre_archive::unpack::Links;

use crate::unpack;

const ROUNDS: u64 = 3_000;

/// A small reproducible source of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// A folder with a root to unpack into, and what is around it.
struct Place {
    folder: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::create_dir_all(at.join("canary/inner")).unwrap();
        fs::write(at.join("canary/secret"), "secret").unwrap();
        fs::write(at.join("secret"), "secret").unwrap();
        symlink("canary/secret", at.join("pointer")).unwrap();
        let mut place = Self { folder, before: BTreeMap::new() };
        place.fresh();
        place.before = place.outside();
        place
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// An own root, with links that were there before any archive.
    fn fresh(&self) {
        let root = self.root();
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("f"), "old").unwrap();
        symlink(self.folder.path().join("canary"), root.join("out")).unwrap();
        symlink("../canary", root.join("up")).unwrap();
        symlink("a", root.join("in")).unwrap();
        symlink("../../secret", root.join("a/g")).unwrap();
    }

    /// All that is not below the root, as it looks; the folder itself changes when the root is made again.
    fn outside(&self) -> BTreeMap<PathBuf, String> {
        let (mut seen, mut folders) = (BTreeMap::new(), vec![self.folder.path().to_owned()]);
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path == self.root() {
                    continue;
                }
                let meta = fs::symlink_metadata(&path).unwrap();
                let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
                let text = format!(
                    "{:o} {}:{} {} {times:?} {content:?}",
                    meta.mode(),
                    meta.uid(),
                    meta.gid(),
                    meta.nlink()
                );
                if meta.is_dir() {
                    folders.push(path.clone());
                }
                seen.insert(path, text);
            }
        }
        seen
    }
}

/// A name, or the target of a link.
fn name(random: &mut Random, outside: &Path) -> Vec<u8> {
    let absolute = outside.join("canary").into_os_string().into_encoded_bytes();
    let long = "n".repeat(usize::try_from(random.below(400)).unwrap());
    let mut parts: Vec<&[u8]> = Vec::new();
    if random.chance(4) {
        parts.push(&absolute);
    }
    for _ in 0..=random.below(5) {
        let part = random.pick(&[
            &b"a"[..],
            b"b",
            b"f",
            b"g",
            b"s",
            b"t",
            b"in",
            b"up",
            b"out",
            b"..",
            b"..",
            b".",
            b"",
            b"canary",
            b"secret",
            b"inner",
            b"root",
            b"\xff\xfe",
            b" ",
            b"a\0b",
            b".wh.a",
        ]);
        parts.push(if random.chance(20) { long.as_bytes() } else { part });
    }
    let mut name = parts.join(&b'/');
    if random.chance(6) {
        name.insert(0, b'/');
    }
    if random.chance(4) {
        name.push(b'/');
    }
    name
}

fn number(random: &mut Random, limit: u64) -> u64 {
    match random.below(12) {
        0 => u64::MAX,
        1 => 1 << 40,
        2 => 0,
        _ => random.below(limit),
    }
}

/// A header as ustar, GNU or neither have it.
fn header(random: &mut Random, kind: u8, name: &[u8], link: &[u8], size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, length: usize, bytes: &[u8]| {
        let length = length.min(bytes.len());
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    put(0, 100, name);
    let octal = |value: u64, digits: usize| format!("{value:0digits$o}\0").into_bytes();
    put(100, 8, &octal(random.below(0o10_000), 7));
    put(108, 8, &octal(random.below(3) * 1_000, 7));
    put(116, 8, &octal(random.below(3) * 1_000, 7));
    if size < 1 << 33 {
        put(124, 12, &octal(size, 11));
    } else {
        // Beyond eleven octal digits GNU writes the number itself.
        put(124, 12, &[&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat());
    }
    put(136, 12, &octal(random.below(1 << 31), 11));
    put(156, 1, &[kind]);
    put(157, 100, link);
    let magic: &[u8] = random.pick(&[&b"ustar\x0000"[..], b"ustar\x0000", b"ustar  \0", b"", b"star?"]);
    put(257, 8, magic);
    if random.chance(10) {
        let prefix: &[u8] = random.pick(&[&b".."[..], b"/", b"a", b"out", b"up", b"../canary"]);
        put(345, 155, prefix);
    }
    put(329, 8, &octal(random.below(10), 7));
    put(337, 8, &octal(random.below(10), 7));
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn content(archive: &mut Vec<u8>, bytes: &[u8]) {
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// A record of the PAX extension, now and then with a length that is not its own.
fn record(random: &mut Random, key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    if random.chance(30) {
        length = usize::try_from(random.below(5_000)).unwrap();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn extension(random: &mut Random, outside: &Path, archive: &mut Vec<u8>) {
    let (long, value) = (name(random, outside), number(random, 5_000).to_string());
    if random.chance(2) {
        let kind = *random.pick(&[&b'L', &b'K']);
        let size = if random.chance(20) { number(random, 5_000) } else { long.len() as u64 + 1 };
        archive.extend(header(random, kind, b"././@LongLink", b"", size));
        content(archive, &[&long[..], b"\0"].concat());
        return;
    }
    let mut body = Vec::new();
    for _ in 0..=random.below(3) {
        let (key, value): (&str, &[u8]) = match random.below(11) {
            0..=2 => ("path", &long),
            3..=4 => ("linkpath", &long),
            5 => ("size", value.as_bytes()),
            6 => (*random.pick(&[&"uid", &"gid", &"mtime", &"nonsense"]), value.as_bytes()),
            7 => ("SCHILY.xattr.trusted.overlay.redirect", b"/canary"),
            8 => ("GNU.sparse.name", &long),
            9 => (*random.pick(&[&"GNU.sparse.major", &"GNU.sparse.minor"]), b"1"),
            _ => (
                *random.pick(&[&"GNU.sparse.realsize", &"GNU.sparse.size", &"GNU.sparse.numblocks"]),
                value.as_bytes(),
            ),
        };
        body.extend(record(random, key, value));
    }
    let kind = if random.chance(6) { b'g' } else { b'x' };
    archive.extend(header(random, kind, b"pax", b"", body.len() as u64));
    content(archive, &body);
}

fn generate(random: &mut Random, outside: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    for _ in 0..=random.below(7) {
        if random.chance(3) {
            extension(random, outside, &mut archive);
        }
        let (path, link) = (name(random, outside), name(random, outside));
        let kind = *random.pick(&[
            &b'0', &b'0', &b'\0', &b'5', &b'5', &b'2', &b'2', &b'2', &b'1', &b'1', &b'3', &b'4', &b'6',
            &b'7', &b'S', &b'V', &b'D', &b'!',
        ]);
        let bytes = vec![b'h'; usize::try_from(random.below(1_200)).unwrap()];
        let bytes =
            if matches!(kind, b'0' | b'\0' | b'7' | b'S') || random.chance(8) { &bytes[..] } else { b"" };
        let size = if random.chance(25) { number(random, 3_000) } else { bytes.len() as u64 };
        archive.extend(header(random, kind, &path, &link, size));
        content(&mut archive, bytes);
    }
    archive.extend([0; 1024]);
    if random.chance(4) {
        for _ in 0..=random.below(4) {
            let at = usize::try_from(random.below(archive.len() as u64)).unwrap();
            archive[at] ^= 1 << random.below(8);
            // What fails its checksum is not looked at any further, so most are made good again.
            let block = at / 512 * 512;
            if !random.chance(4) {
                seal(&mut archive[block..block + 512]);
            }
        }
    }
    if random.chance(6) {
        archive.truncate(usize::try_from(random.below(archive.len() as u64)).unwrap());
    }
    archive
}

#[test]
fn f06_generated_archives_reach_nothing_outside() {
    let given = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match given("HAVRE_ARCHIVE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..given("HAVRE_ARCHIVE_ROUNDS").unwrap_or(ROUNDS),
    };
    let place = Place::new();
    let (mut taken, mut refused) = (0_u64, 0_u64);
    for seed in seeds {
        let archive = generate(&mut Random::new(seed), place.folder.path());
        // Layers are unpacked where nothing is yet, so that all links are the archive's.
        for (links, empty) in [(Links::InRoot, true), (Links::OldInRoot, false), (Links::OldBelow, false)] {
            if empty {
                fs::remove_dir_all(place.root()).unwrap();
                fs::create_dir(place.root()).unwrap();
            } else {
                place.fresh();
            }
            let result = unpack(&archive, &place.root(), "", links);
            if result.is_ok() {
                taken += 1
            } else {
                refused += 1
            }
            assert_eq!(place.outside(), place.before, "seed {seed}, {links:?}: {result:?}");
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken == 0 || refused == 0 || taken > refused / 20, "{taken} taken, {refused} refused");
}
